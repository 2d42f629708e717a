"""The sequences of transactions by what they are found by: collected beside the commits, packed, unpacked."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uint64_t

HOUR_US = 3_600_000_000

cdef int64_t HOUR = HOUR_US


cdef class Facets:
    """The sequences of some successive transactions by model, actor, event and hour.

    Attributes:
        count: of the transactions.
        models: by id. Most models have only one sequence, and one alone stands for itself: 100,000 lists
            would keep the garbage collector busy.
        actors, events, hours: lists of sequences by (kind, id), by event code, and by hours since 1970.
    """

    def __cinit__(self):
        self.models = {}
        self.actors = {}
        self.events = {}
        self.hours = {}

    def add(self, heads not None):
        """Take over transactions, later than those before, as tuples of the fields of `TransactionHead`."""
        cdef tuple head, target
        cdef object actor, last_actor = None
        cdef list targets, by_actor = None, by_hour = None, by_event = None
        cdef int64_t time_us, hour_start = 0, hour_end = 0
        cdef object code, last_code = None
        for head in heads:
            self.count += 1
            sequence = head[0]
            time_us = head[1]
            actor = head[2]
            targets = list(head[3]) if type(head[3]) is not list else head[3]
            if not hour_start <= time_us < hour_end:
                # Floored also before 1970.
                hour = head[1] // HOUR_US
                hour_start = hour * HOUR
                hour_end = hour_start + HOUR
                by_hour = self.hours.setdefault(hour, [])
            by_hour.append(sequence)
            # Transactions of one context share the tuple.
            if actor is not last_actor:
                last_actor = actor
                by_actor = self.actors.setdefault((actor[0], actor[1]), [])
            by_actor.append(sequence)
            if head[5] is not None and head[5] != (actor[0], actor[1]):
                self.actors.setdefault((head[5][0], head[5][1]), []).append(sequence)
            if len(targets) == 1:
                target = targets[0]
                code = target[0]
                if code is not last_code:
                    last_code = code
                    by_event = self.events.setdefault(code, [])
                by_event.append(sequence)
                if target[1]:
                    _add(self.models, target[1], sequence)
            else:
                self.add_several(targets, sequence)

    cdef int add_several(self, list targets, object sequence) except -1:
        for code in {target[0] for target in targets}:
            self.events.setdefault(code, []).append(sequence)
        for id in {target[1] for target in targets}:
            if id:
                _add(self.models, id, sequence)
        return 0


cdef int _add(dict found, object value, object sequence) except -1:
    before = found.get(value)
    if before is None:
        found[value] = sequence
    elif type(before) is list:
        (<list>before).append(sequence)
    else:
        found[value] = [before, sequence]
    return 0


def listed(sequences):
    """Return a copy of sequences as a list; one alone stands for itself, and None for none."""
    if sequences is None:
        return []
    return list(sequences) if type(sequences) is list else [sequences]


def packed(list sequences not None):
    """Return ascending sequences after the first one, which is mostly the only one, as bytes.

    The distance from each to the next stands in groups of seven bits, the lowest first, with the eighth bit
    set in all but the last (LEB128).
    """
    cdef Py_ssize_t i, length = 0, count = len(sequences)
    cdef int64_t before, after
    cdef uint64_t distance
    cdef uint8_t* bytes_of
    cdef bytes text
    if count == 1:
        return b""
    # Ten groups of seven bits hold any distance.
    bytes_of = <uint8_t*>PyMem_Malloc(10 * (count - 1))
    if bytes_of is NULL:
        raise MemoryError()
    try:
        before = sequences[0]
        for i in range(1, count):
            after = sequences[i]
            distance = after - before
            before = after
            while distance >= 0x80:
                bytes_of[length] = (distance & 0x7F) | 0x80
                length += 1
                distance >>= 7
            bytes_of[length] = distance
            length += 1
        text = PyBytes_FromStringAndSize(<char*>bytes_of, length)
    finally:
        PyMem_Free(bytes_of)
    return text


def unpacked(int64_t first, bytes text not None):
    """Return the sequences that begin with `first` and go on as `packed` wrote it, or raise `ValueError`."""
    cdef list sequences = [first]
    cdef uint8_t* at = <uint8_t*>PyBytes_AS_STRING(text)
    cdef uint8_t* end = at + PyBytes_GET_SIZE(text)
    cdef uint64_t distance = 0
    cdef int shift = 0
    while at < end:
        if shift > 56:
            raise ValueError("a distance is too large")
        distance |= <uint64_t>(at[0] & 0x7F) << shift
        shift += 7
        if at[0] < 0x80:
            first += distance
            sequences.append(first)
            distance = 0
            shift = 0
        at += 1
    if shift:
        raise ValueError("it ends within a distance")
    return sequences

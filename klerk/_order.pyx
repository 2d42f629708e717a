"""Orders: keys as bytes that sort as the values do, and sorted sets of them.

The encoding is that of tuples in FoundationDB's tuple layer in its idea: a type code, then bytes whose
unsigned order is the order of the values, so that one memory comparison compares any two keys. No key is the
beginning of another one, so the inverted bytes sort the other way round.
"""

import enum
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from klerk._dispatch cimport microseconds
from klerk._image cimport key_of

from klerk.errors import ArgumentError

cdef enum:
    CHUNK = 512

cdef uint64_t SIGN = 0x8000000000000000


cdef bytes _whole(uint8_t kind, int64_t number):
    cdef bytes text = PyBytes_FromStringAndSize(NULL, 9)
    cdef uint8_t* at = <uint8_t*>PyBytes_AS_STRING(text)
    cdef uint64_t bits = <uint64_t>number ^ SIGN
    cdef int i
    at[0] = kind
    for i in range(8):
        at[8 - i] = bits & 0xFF
        bits >>= 8
    return text


cdef bytes _double(double number):
    cdef uint64_t bits = 0
    cdef bytes text = PyBytes_FromStringAndSize(NULL, 8)
    cdef uint8_t* at = <uint8_t*>PyBytes_AS_STRING(text)
    cdef int i
    # There is one zero.
    number += 0.0
    memcpy(&bits, &number, 8)
    bits = ~bits if bits & SIGN else bits | SIGN
    for i in range(8):
        at[7 - i] = bits & 0xFF
        bits >>= 8
    return text


cdef bytes _number(object value):
    """A whole number or float: the nearest double, and what is missing to it."""
    cdef double near
    try:
        near = value
        rest = value - int(near) if isinstance(value, int) else 0
    except OverflowError:
        raise ArgumentError(f"the whole number {value} is too large to be sorted by") from None
    if near != near:
        raise ArgumentError("not-a-number cannot be sorted by")
    return b"\x20" + _double(near) + _double(rest)


cdef bytes _decimal(object value):
    """A decimal, exactly: its sign, the place of its first digit, its digits. No context rounds them."""
    cdef bytes size
    if not value.is_finite():
        raise ArgumentError(f"the decimal {value} cannot be sorted by")
    if not value:
        return b"\x21\x01"
    digits = "".join(map(str, value.as_tuple().digits)).strip("0")
    size = _whole(0x21, value.adjusted()) + digits.encode() + b"\0"
    return b"\x21\x00" + descending(size) if value < 0 else b"\x21\x02" + size


cdef bytes _ended(uint8_t kind, bytes text):
    """A text or bytes of any length: a zero is escaped, and one more ends it."""
    return bytes((kind,)) + text.replace(b"\0", b"\0\xff") + b"\0\0"


cpdef bytes sort_key(object value):
    """Return a value as bytes that sort as the values do; None comes first.

    Numbers sort among each other, decimals among decimals; values of different kinds have some fixed order.

    Raises:
        ArgumentError: values of this type have no order.
    """
    kind = type(value)
    if value is None:
        return b"\x01"
    if kind is bool:
        return b"\x11" if value else b"\x10"
    if kind is int or kind is float:
        return _number(value)
    if kind is str:
        return _ended(0x30, (<str>value).encode())
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ArgumentError(f"the time {value} has no time zone, so it cannot be sorted by")
        return _whole(0x40, microseconds(value))
    if kind is tuple:
        return b"\x70" + b"".join([sort_key(item) for item in value]) + b"\0"
    return _other_key(value)


cdef bytes _other_key(object value):
    if isinstance(value, enum.Enum):
        return sort_key(value.value)
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, str):
        return _ended(0x30, str.__str__(value).encode())
    if isinstance(value, date):
        return _whole(0x41, value.toordinal())
    if isinstance(value, timedelta):
        # The longest ones have more microseconds than fit into 64 bits.
        return _whole(0x42, value.days) + _whole(0x42, value.seconds * 1_000_000 + value.microseconds)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, bytes):
        return _ended(0x31, value)
    if isinstance(value, UUID):
        return b"\x50" + value.bytes
    raise ArgumentError(
        f"a {type(value).__name__} cannot be sorted by",
        hint="Sort by a text, number, time, truth value, enum, UUID, None, or a tuple of these.",
    )


def descending(bytes key not None):
    """Return a sort key that sorts the other way round."""
    return bytes([0xFF - byte for byte in key])


def entry_of(bytes key not None, int64_t id):
    """Return the entry of an ordered set: the sort key, and the id, which makes it unique."""
    return key + key_of(id)


def id_in(bytes entry not None):
    """Return the id at the end of an entry."""
    return int.from_bytes(entry[PyBytes_GET_SIZE(entry) - 8:], "big")


cdef class OrderedSet:
    """A sorted set of entries in chunks of at most 512: a B+ tree of height two, as `IdSet` is."""

    def __cinit__(self):
        self.chunks = []

    def __len__(self):
        return self.count

    cdef Py_ssize_t chunk_for(self, bytes entry) except -1:
        """Return the last chunk whose first entry is at most `entry`, or 0."""
        cdef Py_ssize_t low = 0, high = len(self.chunks), middle
        while high - low > 1:
            middle = (low + high) >> 1
            if <bytes>(<list>self.chunks[middle])[0] <= entry:
                low = middle
            else:
                high = middle
        return low

    cpdef bint add(self, bytes entry) except -1:
        """Add an entry; return whether it was new."""
        cdef Py_ssize_t c, at
        cdef list chunk
        if not self.chunks:
            self.chunks.append([entry])
            self.count = 1
            return True
        c = self.chunk_for(entry)
        chunk = self.chunks[c]
        at = _position(chunk, entry)
        if at < len(chunk) and chunk[at] == entry:
            return False
        chunk.insert(at, entry)
        if len(chunk) > CHUNK:
            self.chunks.insert(c + 1, chunk[CHUNK // 2:])
            del chunk[CHUNK // 2:]
        self.count += 1
        return True

    cpdef bint discard(self, bytes entry) except -1:
        """Remove an entry; return whether it was there."""
        cdef Py_ssize_t c, at
        cdef list chunk
        if not self.chunks:
            return False
        c = self.chunk_for(entry)
        chunk = self.chunks[c]
        at = _position(chunk, entry)
        if at == len(chunk) or chunk[at] != entry:
            return False
        del chunk[at]
        if not chunk:
            del self.chunks[c]
        self.count -= 1
        return True

    def fill(self, entries):
        """Take over many entries at once, in place of what there was."""
        cdef list ordered = sorted(entries)
        self.count = len(ordered)
        # Three quarters full, so that the first additions do not split every chunk.
        self.chunks = [ordered[i : i + CHUNK * 3 // 4] for i in range(0, len(ordered), CHUNK * 3 // 4)]

    def after(self, bytes entry not None, Py_ssize_t limit):
        """Return at most `limit` entries greater than `entry`, ascending."""
        cdef list found = [], chunk
        cdef Py_ssize_t c, at
        if not self.chunks:
            return found
        c = self.chunk_for(entry)
        chunk = self.chunks[c]
        at = _position(chunk, entry)
        if at < len(chunk) and chunk[at] == entry:
            at += 1
        while limit > 0:
            found.extend(chunk[at : at + limit])
            limit -= max(0, len(chunk) - at)
            at = 0
            c += 1
            if c == len(self.chunks):
                break
            chunk = self.chunks[c]
        return found

    def before(self, bytes entry, Py_ssize_t limit):
        """Return at most `limit` entries smaller than `entry` (None: of all), descending."""
        cdef list found = [], chunk
        cdef Py_ssize_t c, at
        if not self.chunks:
            return found
        if entry is None:
            c = len(self.chunks) - 1
            chunk = self.chunks[c]
            at = len(chunk)
        else:
            c = self.chunk_for(entry)
            chunk = self.chunks[c]
            at = _position(chunk, entry)
        while limit > 0:
            part = chunk[max(0, at - limit) : at]
            part.reverse()
            found.extend(part)
            limit -= at
            c -= 1
            if c < 0:
                break
            chunk = self.chunks[c]
            at = len(chunk)
        return found

    def ids(self, bytes prefix=b""):
        """Return the ids of all entries, or of those whose key begins with a prefix, in order."""
        cdef list found = []
        if not prefix:
            for chunk in self.chunks:
                for entry in chunk:
                    found.append(_id_at_end(entry))
            return found
        part = self.after(prefix, CHUNK)
        while part:
            for entry in part:
                if not (<bytes>entry).startswith(prefix):
                    return found
                found.append(_id_at_end(entry))
            part = self.after(part[len(part) - 1], CHUNK)
        return found


cdef int64_t _id_at_end(bytes entry) except -1:
    cdef uint8_t* at = <uint8_t*>PyBytes_AS_STRING(entry) + PyBytes_GET_SIZE(entry) - 8
    cdef uint64_t id = 0
    cdef int i
    for i in range(8):
        id = (id << 8) | at[i]
    return <int64_t>id


cdef Py_ssize_t _position(list chunk, bytes entry) except -1:
    """Return the index of the first entry that is at least `entry`."""
    cdef Py_ssize_t low = 0, high = len(chunk), middle
    while low < high:
        middle = (low + high) >> 1
        if <bytes>chunk[middle] < entry:
            low = middle + 1
        else:
            high = middle
    return low

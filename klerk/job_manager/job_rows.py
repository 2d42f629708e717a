"""Where a job stands in the store: ready ones by id, those that wait for a time in the order of their times,
ended ones in the order of their ends.

A job has one row, with its record, in one of these places. Those in the places that are ordered by time are
found by id through a second row that names the place. All rows of a job change in one batch, and how many
there are of each sort is counted in the same batch: whenever a process ends, rows, places and counts agree.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Final

import msgspec

from klerk import limits
from klerk._image import key_of
from klerk._table import IdSet
from klerk.codec import encode, number_of, read_job
from klerk.errors import Corrupted
from klerk.jobs import JobRecord, JobState
from klerk.storage.contract import Delete, Family, Put, Storage

READY: Final = b"a"
DUE: Final = b"d"
ENDED: Final = {JobState.COMPLETED: b"e", JobState.CANCELLED: b"f", JobState.DISCARDED: b"g"}
PLACE: Final = b"i"
RESULT: Final = b"r"
FORMER: Final = b"z"
"""What the keys in the family of jobs begin with. Ready jobs: their id. Jobs that wait for a time, and ended
ones by their state: the time, and the id. The place of a job that is none of the ready ones: its id. Results:
until when they are kept, and the id. Ended jobs once stood under the last one, by their id."""

COUNT: Final = b"jobs "
"""What the keys of counts begin with, in the family of meta data; the sort of jobs follows."""

WAITING: Final = frozenset({JobState.SCHEDULED, JobState.RETRYABLE})

Sort = tuple[str, str, str]
"""State, kind, and queue when other than declared: what jobs are counted by."""

Row = tuple[bytes, int, int]
"""What a row stands under: prefix, time and id."""

Moment = tuple[int, int]
"""Microseconds since 1970 UTC, and the id of a job: where it stands in an order of time."""


class Place(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where the row of a job is that stands in an order of time, and what sort of job it is."""

    prefix: bytes
    time_us: int
    state: str
    kind: str
    queue: str
    result_until_us: int = 0

    @property
    def sort(self) -> Sort:
        """What the job is counted as."""
        return self.state, self.kind, self.queue


_decode_place = msgspec.msgpack.Decoder(Place).decode
_decode_sort = msgspec.msgpack.Decoder(Sort).decode


def due_of(record: JobRecord) -> Moment | None:
    """Return where a job stands among those that wait for a time; None: it does not.

    One that has to do with others is among the ready ones whatever its time is: it must always be in memory.
    """
    if (
        record.unique
        or record.follows
        or record.batch
        or record.ended_us
        or record.run_at_us <= 0
        or record.state not in WAITING
    ):
        return None
    return record.run_at_us, record.id


def sort_of(record: JobRecord) -> Sort:
    """Return what a job is counted as."""
    return record.state, record.kind, record.queue


def _row_key(place: Place, name: bytes) -> bytes:
    return place.prefix + key_of(place.time_us) + name


def _place(storage: Storage, name: bytes) -> Place | None:
    stored = storage.get(Family.JOBS, PLACE + name)
    if stored is None:
        return None
    try:
        return _decode_place(stored)
    except msgspec.DecodeError as error:
        raise Corrupted(f"the place of job {number_of(name)} cannot be read: {error}") from error


def find_row(storage: Storage, job_id: int) -> JobRecord | None:
    """Return a job as its row has it; None when it is not found, perhaps because it is moved meanwhile."""
    name = key_of(job_id)
    place = _place(storage, name)
    key = READY + name if place is None else _row_key(place, name)
    stored = storage.get(Family.JOBS, key)
    return None if stored is None else read_job(job_id, stored)


def scan_rows(
    storage: Storage,
    prefix: bytes,
    start: Moment | None = None,
    stop: Moment | None = None,
    *,
    reverse: bool = False,
) -> Iterator[JobRecord]:
    """Iterate over the jobs of a place, in its order.

    Parameters:
        prefix: `READY`, `DUE`, or one of `ENDED`.
        start: the first one, included; None: from the beginning. Only for places that are ordered by time.
        stop: the end, excluded; None: to the end.
        reverse: from the end down to the start.
    """
    first = prefix if start is None else _key(prefix, start)
    end = bytes((prefix[0] + 1,)) if stop is None else _key(prefix, stop)
    for key, stored in storage.scan(Family.JOBS, first, end, reverse=reverse):
        yield read_job(number_of(key[-8:]), stored)


def scan_moments(storage: Storage, prefix: bytes, start: Moment = (0, 0)) -> Iterator[Moment]:
    """Iterate over the times and ids in a place that is ordered by time, from a start on."""
    for key, _ in storage.scan(Family.JOBS, _key(prefix, start), bytes((prefix[0] + 1,))):
        yield number_of(key[1:9]), number_of(key[9:])


def _key(prefix: bytes, moment: Moment) -> bytes:
    return prefix + key_of(moment[0]) + key_of(moment[1])


def stored_counts(storage: Storage) -> Counter[Sort]:
    """Return how many jobs of each sort stand in the places that are ordered by time."""
    rows = storage.scan(Family.META, COUNT, COUNT + b"\xff")
    try:
        return Counter({_decode_sort(key[len(COUNT) :]): number_of(count) for key, count in rows})
    except msgspec.DecodeError as error:
        raise Corrupted(f"the counts of jobs cannot be read: {error}") from error


class JobRows:
    """Stores jobs, each in its place. Used by one thread at a time.

    Until `settle` it knows nothing of what is stored, and looks for every job.

    Parameters:
        storage: where to.

    Attributes:
        counts: how many jobs of each sort stand in the places that are ordered by time.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.counts = stored_counts(storage)
        self._newest: int | None = None
        self._ready = IdSet()
        self._puts: list[Put] = []
        self._deletes: list[Delete] = []
        self._recounted: set[Sort] = set()

    def settle(self, newest: int, ready: Iterable[int]) -> None:
        """Take for granted which jobs are stored.

        Parameters:
            newest: no job with an id over this is.
            ready: the ids of all that are stored as ready.
        """
        self._newest = newest
        for job_id in ready:
            self._ready.add(job_id)

    def take_over(self) -> None:
        """Bring ended jobs to their place that were stored before there was one."""
        for key, stored in self._storage.scan(Family.JOBS, FORMER):
            self._put(read_job(number_of(key[1:]), stored), stored)
            self._deletes.append((int(Family.JOBS), key))
            self._write_if_full()
        self._write()

    def write(self, jobs: Collection[tuple[JobRecord, bytes]]) -> None:
        """Store jobs, given as record and stored record, each once, in small batches."""
        for record, encoded in jobs:
            self._put(record, encoded)
            if len(self._puts) + len(self._deletes) >= limits.CHECKPOINT_BATCH_RECORDS:
                self._write()
        self._write()
        if self._newest is not None:
            newest_written = max((record.id for record, _ in jobs), default=0)
            self._newest = max(self._newest, newest_written)

    def remove(self, job_ids: Iterable[int]) -> None:
        """Delete jobs, in small batches."""
        for job_id in job_ids:
            self._take_away(job_id, key_of(job_id))
            self._write_if_full()
        self._write()

    def prune(self, rows: Iterable[Row]) -> Counter[Sort]:
        """Delete jobs that are still where they were found; return how many of each sort."""
        pruned: Counter[Sort] = Counter()
        for prefix, time_us, job_id in rows:
            name = key_of(job_id)
            place = _place(self._storage, name)
            if place is not None and (place.prefix, place.time_us) == (prefix, time_us):
                pruned[place.sort] += 1
                self._take_away(job_id, name)
                self._write_if_full()
        self._write()
        return pruned

    def _put(self, record: JobRecord, encoded: bytes) -> None:
        job_id, family = record.id, int(Family.JOBS)
        name = key_of(job_id)
        if self._newest is None or job_id <= self._newest:
            self._take_away(job_id, name)
        if record.ended_us:
            prefix, time_us = ENDED[record.state], record.ended_us
        elif due_of(record) is not None:
            prefix, time_us = DUE, record.run_at_us
        else:
            self._ready.add(job_id)
            self._puts.append((family, READY + name, encoded))
            return
        until_us = record.result_until_us if record.result else 0
        sort = record.state, record.kind, record.queue
        self._count(sort, 1)
        self._puts.append((family, PLACE + name, encode((prefix, time_us, *sort, until_us))))
        self._puts.append((family, prefix + key_of(time_us) + name, encoded))
        if until_us:
            self._puts.append((family, RESULT + key_of(until_us) + name, b""))

    def _take_away(self, job_id: int, name: bytes) -> None:
        """Delete what is stored of a job."""
        family = int(Family.JOBS)
        is_ready = self._ready.discard(job_id)
        if is_ready or self._newest is None:
            self._deletes.append((family, READY + name))
        if is_ready:
            return
        place = _place(self._storage, name)
        if place is not None:
            self._count(place.sort, -1)
            self._deletes.append((family, PLACE + name))
            self._deletes.append((family, _row_key(place, name)))
            if place.result_until_us:
                self._deletes.append((family, RESULT + key_of(place.result_until_us) + name))

    def _count(self, sort: Sort, change: int) -> None:
        self.counts[sort] += change
        self._recounted.add(sort)

    def _write_if_full(self) -> None:
        if len(self._puts) + len(self._deletes) >= limits.CHECKPOINT_BATCH_RECORDS:
            self._write()

    def _write(self) -> None:
        if not self._puts and not self._deletes:
            return
        for sort in self._recounted:
            key = COUNT + encode(sort)
            if self.counts[sort]:
                self._puts.append((int(Family.META), key, key_of(self.counts[sort])))
            else:
                del self.counts[sort]
                self._deletes.append((int(Family.META), key))
        self._storage.write(self._puts, self._deletes)
        self._puts, self._deletes, self._recounted = [], [], set()

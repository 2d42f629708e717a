"""Jobs beside memory: those that wait for a far time, and those that have ended."""

import heapq
from collections.abc import Callable, Collection, Container, Iterator
from itertools import islice

from klerk import limits
from klerk._image import key_of
from klerk.audit.commit_log import transaction_at
from klerk.checkpointer import Checkpointer
from klerk.codec import number_of, read_job
from klerk.errors import KlerkError
from klerk.job_manager.job_rows import DUE, ENDED, READY, Moment, due_of, find_row, scan_rows
from klerk.jobs import FINAL_STATES, JobRecord, JobState
from klerk.storage.contract import Family, Storage


class JobStore:
    """Reads every job that was published, wherever it is: in the store, or on its way there.

    Every method reads the disk, and can be called from any thread.

    Parameters:
        storage: where jobs are stored.
        checkpointer: holds those that are not stored yet.
        up_to_date: gives a stored job that has not ended as the design has it.

    Attributes:
        storage, checkpointer: as given.
    """

    def __init__(
        self,
        storage: Storage,
        checkpointer: Checkpointer,
        up_to_date: Callable[[JobRecord], JobRecord | None],
    ) -> None:
        self.storage = storage
        self.checkpointer = checkpointer
        self._upcast = up_to_date

    def get(self, job_id: int) -> JobRecord | None:
        """Return a job as it was last recorded, whether or not it has ended; None: there is none."""
        while True:
            unwritten, moves = self.checkpointer.unwritten_job(job_id)
            if unwritten is not None:
                return unwritten
            found = find_row(self.storage, job_id)
            if found is not None:
                return self._up_to_date(found)
            if self.checkpointer.unwritten_job(job_id) == (None, moves):
                return None

    def waiting(self, start: Moment = (0, 0), *, limit: int = limits.JOBS_PAGE) -> list[JobRecord]:
        """Return jobs that wait for a time, in the order of their times and then of their ids.

        Parameters:
            start: the first time in microseconds since 1970 UTC, and the first id at that time. The next page
                starts at `after` of the last record of the one before.
            limit: of the records returned. Fewer are returned only when there are no more.
        """
        unwritten = self.checkpointer.unwritten_jobs()
        fresh = sorted(
            (due, record)
            for record in unwritten.values()
            if (due := due_of(record)) is not None and due >= start
        )
        stored = (
            ((record.run_at_us, record.id), self._up_to_date(record))
            for record in scan_rows(self.storage, DUE, start)
            if record.id not in unwritten
        )
        return [record for _, record in islice(heapq.merge(fresh, stored), limit)]

    def ended(
        self,
        before: Moment | None = None,
        *,
        states: Collection[JobState] = FINAL_STATES,
        limit: int = limits.JOBS_PAGE,
    ) -> list[JobRecord]:
        """Return jobs that have ended and are kept, newest end first.

        Parameters:
            before: the time of an end in microseconds since 1970 UTC, and an id: only jobs that stand before
                it in the order of ends and then of ids. The next page is that before ``(ended_us, id)`` of
                the last record of this one. None: from the newest on.
            states: that they ended in.
            limit: of the records returned. Fewer are returned only when there are no more.
        """
        unwritten = self.checkpointer.unwritten_jobs()
        fresh = sorted(
            (
                ((record.ended_us, record.id), record)
                for record in unwritten.values()
                if record.ended_us
                and record.state in states
                and (before is None or (record.ended_us, record.id) < before)
            ),
            reverse=True,
        )
        stored = [self._stored(ENDED[JobState(state)], before, unwritten) for state in states]
        return [record for _, record in islice(heapq.merge(fresh, *stored, reverse=True), limit)]

    def _stored(
        self, prefix: bytes, before: Moment | None, unwritten: Container[int]
    ) -> Iterator[tuple[Moment, JobRecord]]:
        for record in scan_rows(self.storage, prefix, stop=before, reverse=True):
            if record.id not in unwritten:
                yield (record.ended_us, record.id), record

    def _up_to_date(self, record: JobRecord) -> JobRecord:
        """Return a stored job as the design has it; as it is, when that cannot be."""
        if record.ended_us:
            return record
        try:
            return self._upcast(record) or record
        except KlerkError:
            return record

    def rows(
        self, states: Collection[JobState] | None, prefix: bytes, start: Moment | None, *, reverse: bool
    ) -> Iterator[tuple[Moment, JobRecord]]:
        """Iterate over jobs as of now, in the order of the place where they stand, with where that is.

        Parameters:
            prefix: of the place, `READY` or `DUE`; b"" for ended jobs.
            states: that they ended in; None: all.
            start: only those that come after it, in the direction of the order; None: from the beginning.
            reverse: the other way round.
        """
        unwritten = self.checkpointer.unwritten_jobs()
        fresh = [
            (moment, record)
            for record in unwritten.values()
            if (moment := _moment_in(prefix, record)) is not None
            and (start is None or (moment < start if reverse else moment > start))
        ]
        prefixes = [prefix] if prefix else [ENDED[each] for each in sorted(states or FINAL_STATES)]
        stored = (self._placed(each, start, reverse, unwritten) for each in prefixes)
        fresh.sort(key=_first, reverse=reverse)
        return heapq.merge(fresh, *stored, key=_first, reverse=reverse)

    def _placed(
        self, prefix: bytes, start: Moment | None, reverse: bool, unwritten: Container[int]
    ) -> Iterator[tuple[Moment, JobRecord]]:
        for record in self._stored_rows(prefix, start, reverse):
            moment = _moment_in(prefix, record)
            if record.id not in unwritten and moment is not None:
                yield moment, self._up_to_date(record)

    def _stored_rows(self, prefix: bytes, start: Moment | None, reverse: bool) -> Iterator[JobRecord]:
        if prefix != READY:
            bound = None if start is None else (start[0], start[1] if reverse else start[1] + 1)
            if reverse:
                return scan_rows(self.storage, prefix, stop=bound, reverse=True)
            return scan_rows(self.storage, prefix, bound)
        first, end = prefix, bytes((prefix[0] + 1,))
        if start is not None and reverse:
            end = prefix + key_of(start[1])
        elif start is not None:
            first = prefix + key_of(start[1] + 1)
        found = self.storage.scan(Family.JOBS, first, end, reverse=reverse)
        return (read_job(number_of(key[1:]), stored) for key, stored in found)

    def created_by(self, sequence: int) -> list[int] | None:
        """Return the ids of the jobs that a transaction created; None when that was erased, or never was."""
        transaction = transaction_at(self.storage, sequence)
        if transaction is None or transaction.payload is None:
            return None
        return [id for id, job in transaction.payload.jobs if read_job(id, job).cause == sequence]


def _moment_in(prefix: bytes, record: JobRecord) -> Moment | None:
    """Return where a job stands in a place; None: not there."""
    due = due_of(record)
    if prefix == DUE:
        return due
    if prefix == READY:
        return None if due is not None or record.ended_us else (0, record.id)
    return (record.ended_us, record.id) if record.ended_us else None


def _first(pair: tuple[Moment, JobRecord]) -> Moment:
    return pair[0]


def after(record: JobRecord) -> Moment:
    """Return where the page begins that follows a job which waits for a time."""
    return record.run_at_us, record.id + 1

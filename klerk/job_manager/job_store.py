"""Jobs beside memory: those that wait for a far time, and those that have ended."""

import heapq
from collections.abc import Iterator
from itertools import islice

from klerk import limits
from klerk._image import key_of
from klerk.audit.commit_log import transaction_at
from klerk.checkpointer import Checkpointer
from klerk.codec import number_of, read_job
from klerk.job_manager.job_rows import DUE, ENDED, READY, Moment, due_of, find_row, scan_rows
from klerk.jobs import JobRecord
from klerk.storage.contract import Family, Storage


class JobStore:
    """Reads every job that was published, wherever it is: in the store, or on its way there.

    Every method reads the disk, and can be called from any thread.

    Parameters:
        storage: where jobs are stored.
        checkpointer: holds those that are not stored yet.
    """

    def __init__(self, storage: Storage, checkpointer: Checkpointer) -> None:
        self._storage = storage
        self._checkpointer = checkpointer

    def get(self, job_id: int) -> JobRecord | None:
        """Return a job as it was last recorded, whether or not it has ended; None: there is none."""
        while True:
            unwritten, moves = self._checkpointer.unwritten_job(job_id)
            if unwritten is not None:
                return unwritten
            found = find_row(self._storage, job_id)
            if found is not None or self._checkpointer.unwritten_job(job_id) == (None, moves):
                return found

    def waiting(self, start: Moment = (0, 0), *, limit: int = limits.JOBS_PAGE) -> list[JobRecord]:
        """Return jobs that wait for a time, in the order of their times and then of their ids.

        Parameters:
            start: the first time in microseconds since 1970 UTC, and the first id at that time. The next page
                starts at `after` of the last record of the one before.
            limit: of the records returned. Fewer are returned only when there are no more.
        """
        unwritten = self._checkpointer.unwritten_jobs()
        fresh = sorted(
            (due, record)
            for record in unwritten.values()
            if (due := due_of(record)) is not None and due >= start
        )
        stored = (
            ((record.run_at_us, record.id), record)
            for record in scan_rows(self._storage, DUE, start)
            if record.id not in unwritten
        )
        return [record for _, record in islice(heapq.merge(fresh, stored), limit)]

    def ended(self, before: Moment | None = None, *, limit: int = limits.JOBS_PAGE) -> list[JobRecord]:
        """Return jobs that have ended and are kept, newest end first.

        Parameters:
            before: the time of an end in microseconds since 1970 UTC, and an id: only jobs that stand before
                it in the order of ends and then of ids. The next page is that before ``(ended_us, id)`` of
                the last record of this one. None: from the newest on.
            limit: of the records returned. Fewer are returned only when there are no more.
        """
        unwritten = self._checkpointer.unwritten_jobs()
        fresh = sorted(
            (
                ((record.ended_us, record.id), record)
                for record in unwritten.values()
                if record.ended_us and (before is None or (record.ended_us, record.id) < before)
            ),
            reverse=True,
        )
        stored = (
            ((record.ended_us, record.id), record)
            for record in scan_rows(self._storage, ENDED, stop=before, reverse=True)
            if record.id not in unwritten
        )
        return [record for _, record in islice(heapq.merge(fresh, stored, reverse=True), limit)]

    def rows(
        self, prefix: bytes, start: Moment | None, *, reverse: bool
    ) -> Iterator[tuple[Moment, JobRecord]]:
        """Iterate over the jobs of a place as of now, in its order, with where they stand in it.

        Parameters:
            prefix: `READY`, `DUE` or `ENDED`.
            start: only those that come after it, in the direction of the order; None: from the beginning.
            reverse: the other way round.
        """
        unwritten = self._checkpointer.unwritten_jobs()
        fresh = (
            (moment, record)
            for record in unwritten.values()
            if (moment := _moment_in(prefix, record)) is not None
            and (start is None or (moment < start if reverse else moment > start))
        )
        stored = (
            (moment, record)
            for record in self._stored_rows(prefix, start, reverse)
            if record.id not in unwritten and (moment := _moment_in(prefix, record)) is not None
        )
        return heapq.merge(sorted(fresh, key=_first, reverse=reverse), stored, key=_first, reverse=reverse)

    def _stored_rows(self, prefix: bytes, start: Moment | None, reverse: bool) -> Iterator[JobRecord]:
        if prefix != READY:
            bound = None if start is None else (start[0], start[1] if reverse else start[1] + 1)
            if reverse:
                return scan_rows(self._storage, prefix, stop=bound, reverse=True)
            return scan_rows(self._storage, prefix, bound)
        first, end = prefix, bytes((prefix[0] + 1,))
        if start is not None and reverse:
            end = prefix + key_of(start[1])
        elif start is not None:
            first = prefix + key_of(start[1] + 1)
        found = self._storage.scan(Family.JOBS, first, end, reverse=reverse)
        return (read_job(number_of(key[1:]), stored) for key, stored in found)

    def created_by(self, sequence: int) -> list[int] | None:
        """Return the ids of the jobs that a transaction created; None when that was erased, or never was."""
        transaction = transaction_at(self._storage, sequence)
        if transaction is None or transaction.payload is None:
            return None
        return [id for id, job in transaction.payload.jobs if read_job(id, job).cause == sequence]


def _moment_in(prefix: bytes, record: JobRecord) -> Moment | None:
    """Return where a job stands in a place; None: not there."""
    if prefix == ENDED:
        return (record.ended_us, record.id) if record.ended_us else None
    due = due_of(record)
    if prefix == DUE:
        return due
    return None if due is not None or record.ended_us else (0, record.id)


def _first(pair: tuple[Moment, JobRecord]) -> Moment:
    return pair[0]


def after(record: JobRecord) -> Moment:
    """Return where the page begins that follows a job which waits for a time."""
    return record.run_at_us, record.id + 1

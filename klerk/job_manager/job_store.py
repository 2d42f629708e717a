"""Jobs beside memory: those that wait for a far time, and those that have ended."""

import heapq
from collections.abc import Callable, Collection, Container, Iterator
from itertools import islice

from klerk import limits
from klerk.checkpointer import Checkpointer
from klerk.errors import KlerkError
from klerk.job_manager.job_rows import DUE, ENDED, Moment, due_of, find_row, scan_rows
from klerk.jobs import FINAL_STATES, JobRecord, JobState
from klerk.storage.contract import Storage


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


def after(record: JobRecord) -> Moment:
    """Return where the page begins that follows a job which waits for a time."""
    return record.run_at_us, record.id + 1

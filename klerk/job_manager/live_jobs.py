"""`LiveJobs`: the jobs that have not ended, where they are, and how many there are."""

import logging
import threading
from collections.abc import Callable

import msgspec

from klerk import limits
from klerk.errors import KlerkError
from klerk.job_manager.horizon import Horizon
from klerk.job_manager.job_rows import WAITING, due_of
from klerk.job_manager.job_store import JobStore, after
from klerk.job_manager.tally import Tally
from klerk.jobs import FINAL_STATES, JobRecord, JobState
from klerk.log_events import about
from klerk.recovery import Recovered
from klerk.scheduler import Scheduler

LOG = logging.getLogger("klerk")


class LiveJobs:
    """Holds the jobs that are ready and the soonest of those that wait; knows where the others are.

    Parameters:
        records: where those in memory are kept, by id: nothing yet.
        lock: its owner's. Methods say whether it must be held.
        store: reads the jobs that are not in memory.
        recovered: what the store held.
        scheduler: wakes jobs that wait for a time, and lends its thread for reading the store.
        restored: gives a job that was read from the store as it is kept in memory.
        holds: says whether a job waits for others.
        ready: called, with the lock held, with each job that may run now.
        wake: called without the lock after jobs became ready by themselves.

    Attributes:
        tally: counts all jobs, wherever they are.
        foreseeing: held while jobs are looked up that are about to be changed, and while jobs are removed.
    """

    def __init__(
        self,
        records: dict[int, JobRecord],
        lock: threading.Lock,
        store: JobStore,
        recovered: Recovered,
        scheduler: Scheduler,
        *,
        restored: Callable[[JobRecord], JobRecord],
        holds: Callable[[JobRecord], bool],
        ready: Callable[[JobRecord], None],
        wake: Callable[[], None],
    ) -> None:
        self.records = records
        self.tally = Tally(recovered.rows.counts, recovered.ended_jobs)
        self._lock = lock
        self._store = store
        self._recovered = recovered.jobs
        self._scheduler = scheduler
        self._restored = restored
        self._holds = holds
        self._ready = ready
        self._wake = wake
        self._newest = recovered.program.processor.next_job_id - 1
        # The jobs beside memory that the group at hand changes, as they are before it.
        self._before: dict[int, JobRecord] = {}
        self._changes_twice = False
        self.foreseeing = threading.Lock()
        self._horizon = Horizon(
            self.records, scheduler, due=self._due, load=self._load, later=recovered.later_jobs
        )

    def take_over(self, related: Callable[[list[JobRecord]], None]) -> None:
        """Take the jobs into memory that were found when the store was opened.

        Parameters:
            related: called before that with all of them: some have to do with others.
        """
        records, self._recovered = self._recovered, []
        restored = [self._restored(record) for record in records]
        related(restored)
        for record, now in zip(records, restored, strict=True):
            if due_of(record) is None:
                self.tally.add(record)
            self._admit(record, now)
        self._horizon.look_ahead()

    # --- jobs are changed -------------------------------------------------------------------------

    def foresee(self, records: list[JobRecord]) -> None:
        """Look up jobs beside memory that a group changes, before anything takes over what it changed.

        It reads the store, but only for jobs that are neither new nor in memory: users changed them.
        """
        held, newest = self.records, self._newest
        self._changes_twice = len(records) > 1 and len({record.id for record in records}) < len(records)
        beside = [record.id for record in records if record.id not in held and record.id <= newest]
        if beside:
            with self.foreseeing:
                for job_id in beside:
                    self._look_up(job_id)

    def is_foreseen(self, job_id: int) -> bool:
        """Return whether the group at hand changes a job beside memory."""
        return job_id in self._before

    def _look_up(self, job_id: int) -> None:
        try:
            before = self._store.get(job_id)
        except KlerkError as error:
            # It can be counted wrongly then, until the store is mended.
            LOG.error("job %d cannot be read: %s", job_id, error, extra=about("job_unread", job_id=job_id))
        else:
            if before is not None:
                self._before[job_id] = before

    def withdraw(self, record: JobRecord) -> JobRecord | None:
        """Forget what was known of a job that is noted as it is now; return what was in memory of it.

        The lock is held.
        """
        job_id = record.id
        known = self.records.pop(job_id, None)
        if known is not None:
            self.tally.remove(known)
        elif self._before and (before := self._before.pop(job_id, None)) is not None:
            self.tally.remove(before)
        if job_id > self._newest:
            self._newest = job_id
        self._horizon.note(record)
        return known

    def keep(self, record: JobRecord) -> None:
        """Count a job and remember it where it waits; after it has ended, the store alone does. The lock is
        held."""
        if record.state is JobState.AVAILABLE:
            self.tally.add(record)
            self.records[record.id] = record
            self._ready(record)
        elif record.state in FINAL_STATES:
            self.tally.add_ended(record)
        elif self._is_held(record):
            self.keep_running(record)
        else:
            record = self._as_it_is_now(record)
            self.tally.add(record)
            self._place(record)
        if self._changes_twice and record.id not in self.records:
            self._before[record.id] = record

    def _is_held(self, record: JobRecord) -> bool:
        return bool(record.follows or record.role) and self._holds(record)

    def let_go(self, job_ids: list[int]) -> None:
        """Let jobs go on that wait for no others any more. The lock is held."""
        for job_id in job_ids:
            self._advance(self.records[job_id])

    def keep_running(self, record: JobRecord) -> None:
        """Count and remember a job that is running, or waits for others. The lock is held."""
        self.records[record.id] = record
        self.tally.add(record)

    def noted(self) -> None:
        """Note that all jobs of a group were withdrawn and kept. The lock is held."""
        self._before.clear()
        self._horizon.shorten()
        self._horizon.look_ahead()

    def _admit(self, stored: JobRecord, record: JobRecord) -> None:
        """Take a job that is counted already to where it waits in memory."""
        if record.state is not stored.state:
            self.tally.move(stored, record)
        if self._is_held(record):
            self.records[record.id] = record
        else:
            self._advance(record)

    def _advance(self, record: JobRecord) -> None:
        """Put a job that is counted already where its time lets it be."""
        now = self._as_it_is_now(record)
        if now is not record:
            self.tally.move(record, now)
        self._place(now)

    def _as_it_is_now(self, record: JobRecord) -> JobRecord:
        if record.state in WAITING and record.run_at_us <= self._scheduler.now_us():
            return msgspec.structs.replace(record, state=JobState.AVAILABLE)
        return record

    def _place(self, record: JobRecord) -> None:
        if record.state in WAITING:
            self._horizon.add(record)
            return
        self.records[record.id] = record
        if record.state is JobState.AVAILABLE:
            self._ready(record)

    # --- times come -------------------------------------------------------------------------------

    def _due(self) -> None:
        """Let the jobs run whose time has come."""
        with self._lock:
            for job_id in self._horizon.take(self._scheduler.now_us()):
                record = self.records.get(job_id)
                if record is None:
                    continue
                ready = msgspec.structs.replace(record, state=JobState.AVAILABLE)
                self.tally.move(record, ready)
                self._place(ready)
            self._horizon.look_ahead()
        self._wake()

    def _load(self) -> None:
        """Bring the next of the jobs into memory that wait for later times."""
        with self._lock:
            start = self._horizon.begin_load()
        if start is None:
            return
        try:
            page = self._store.waiting(start, limit=limits.JOBS_PAGE)
        except KlerkError as error:
            with self._lock:
                self._horizon.failed_load(error)
            return
        restored = {record.id: self._restored(record) for record in page}
        with self._lock:
            for record in self._horizon.end_load(page, is_last=len(page) < limits.JOBS_PAGE):
                self._admit(record, restored.get(record.id, record))
            self._horizon.look_ahead()
        self._wake()

    def is_behind(self) -> bool:
        """Return whether jobs may have come due that are still in the store alone. The lock is held."""
        return self._horizon.is_behind(self._scheduler.now_us())

    # --- looking at them --------------------------------------------------------------------------

    def all(self) -> dict[int, JobRecord]:
        """Return all jobs that have not ended, by id; those beside memory are read from the store."""
        with self._lock:
            found, later = dict(self.records), self._horizon.later
        soon = set(found)
        while later is not None:
            page = self._store.waiting(later)
            found.update((record.id, self._restored(record)) for record in page)
            later = after(page[-1]) if page else None
        with self._lock:
            now = dict(self.records)
        # What was in memory and is not any more has ended, or waits for a far time by now.
        for job_id in soon - now.keys():
            record = self._store.get(job_id)
            if record is None or record.state in FINAL_STATES:
                del found[job_id]
        found.update(now)
        return found


def in_state(record: JobRecord, state: JobState) -> JobRecord:
    """Return a record in another state."""
    return msgspec.structs.replace(record, state=state)

"""`JobManager`: keeps the jobs that have not ended, gives them to workers, and follows what they do."""

import logging
import threading
from collections.abc import Mapping
from datetime import datetime
from time import monotonic

import msgspec

from klerk import limits
from klerk.app import Spec
from klerk.commands import System
from klerk.errors import ArgumentError, KlerkError
from klerk.job_manager.acting import ActionDesk, Actions
from klerk.job_manager.attempts import Attempts, Submit
from klerk.job_manager.books import Books
from klerk.job_manager.by_hand import ByHand
from klerk.job_manager.claims import Claims
from klerk.job_manager.cron import CronJobs
from klerk.job_manager.dispatcher import Dispatcher
from klerk.job_manager.gates import Gate
from klerk.job_manager.horizon import Horizon
from klerk.job_manager.job_rows import WAITING, due_of
from klerk.job_manager.job_store import JobStore, after
from klerk.job_manager.status import Explaining
from klerk.job_manager.tally import ENDS, Tally, queue_of
from klerk.job_manager.work import CreateJobs
from klerk.job_options import Pool
from klerk.job_run import JobHost, JobRun
from klerk.jobs import FINAL_STATES, Job, JobRecord, JobRequest, JobState
from klerk.recovery import Recovered
from klerk.scheduler import Scheduler
from klerk.workers import Executor, LoopExecutor, ThreadExecutor

LOG = logging.getLogger("klerk")


class JobManager(ByHand):
    """Dispatches jobs from memory as they become ready; nothing is polled.

    Parameters:
        spec: the declared jobs.
        host: what running jobs may use.
        submit: records what became of them.
        scheduler: wakes jobs that wait for a time.
        desk: lets actions on jobs take effect.
        store: reads the jobs that are not in memory.
        recovered: what the store held.
        threads: for plain functions.

    Attributes:
        store: every job, whether in memory or not.
    """

    def __init__(
        self,
        spec: Spec,
        host: JobHost,
        submit: Submit,
        scheduler: Scheduler,
        *,
        desk: ActionDesk,
        store: JobStore,
        recovered: Recovered,
        threads: int,
    ) -> None:
        self._spec = spec
        self._host = host
        self._submit = submit
        self._scheduler = scheduler
        self.store = store
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._live: dict[int, JobRecord] = {}
        self._running: dict[int, JobRun] = {}
        self._newest = recovered.program.processor.next_job_id - 1
        # The jobs beside memory that the group at hand changes, as they are before it.
        self._before: dict[int, JobRecord] = {}
        self._tally = Tally(recovered.rows.counts, recovered.ended_jobs)
        self._dispatcher = Dispatcher(
            spec,
            self._live,
            now_us=scheduler.now_us,
            call_at=scheduler.at,
            wake=self._refilled,
        )
        self._horizon = Horizon(
            self._live, scheduler, due=self._due, load=self._load, later=recovered.later_jobs
        )
        self._attempts = Attempts(spec, submit, scheduler)
        self._cron = CronJobs(
            [job for job in spec.jobs.values() if job.settings.cron is not None], scheduler, submit
        )
        self._claims = Claims(self._lock, self._live, self._running, self._dispatcher, self._wake)
        self._books = Books(spec, self._live, self._running, store, scheduler.now_us)
        self._explaining = Explaining(
            self._lock,
            self._running,
            self._claims.held,
            self._dispatcher,
            self._books.peek,
            scheduler.now_us,
        )
        self._actions = Actions(
            spec, self._books, self._claims, self._attempts.ending, desk, scheduler.now_us
        )
        self._executors: dict[Pool, Executor] = {}
        pools = {job.pool for job in spec.jobs.values()} if threads else set()
        if "thread" in pools:
            self._executors["thread"] = ThreadExecutor(threads, self._take_plain, self._attempts.run_plain)
        if "loop" in pools:
            self._executors["loop"] = LoopExecutor(
                limits.JOB_COROUTINES_MAX, self._take_coroutine, self._attempts.run_coroutine
            )
        for record in recovered.jobs:
            if due_of(record) is None:
                self._tally.add(record)
            self._admit(record, self._restored(record))
        self._horizon.look_ahead()

    def start(self) -> None:
        """Begin to run jobs, first of all those that were executing when the process ended."""
        self._actions.end_stopped(self._live.values())
        for executor in self._executors.values():
            executor.start()
            executor.wake()
        if self._executors:
            self._cron.start()

    # --- what is to be run ------------------------------------------------------------------------

    def _restored(self, record: JobRecord) -> JobRecord:
        """Return a job that was read from the store with arguments of the declared types, or suspended."""
        types = self._spec.job_parameters.get(record.kind)
        try:
            if types is None:
                raise ValueError(f"there is no job '{record.kind}' in this app")
            if len(types) != len(record.arguments):
                raise ValueError(
                    f"it was stored with {len(record.arguments)} arguments and takes {len(types)}"
                )
            arguments = tuple(
                msgspec.convert(value, field.plain)
                for value, field in zip(record.arguments, types.values(), strict=True)
            )
        except ValueError as error:
            LOG.error("job %d (%s) is suspended: %s", record.id, record.kind, error)
            return msgspec.structs.replace(record, state=JobState.SUSPENDED, error=str(error))
        return msgspec.structs.replace(record, arguments=arguments)

    def foresee(self, records: list[JobRecord]) -> None:
        """Look up jobs beside memory that a group changes, before anything takes over what it changed."""
        live, newest = self._live, self._newest
        for record in records:
            if record.id not in live and record.id <= newest:
                self._look_up(record.id)

    def _look_up(self, job_id: int) -> None:
        try:
            before = self.store.get(job_id)
        except KlerkError as error:
            # It can be counted wrongly then, until the store is mended.
            LOG.error("job %d cannot be read: %s", job_id, error)
        else:
            if before is not None:
                self._before[job_id] = before

    def note(self, records: list[JobRecord]) -> None:
        """Take over jobs that were created or changed by a published group."""
        claimed = self._claims.held
        with self._lock:
            changes_twice = len(records) > 1 and len({record.id for record in records}) < len(records)
            for record in records:
                self._newest = max(self._newest, record.id)
                known = self._live.pop(record.id, None)
                if known is not None:
                    self._tally.remove(known)
                elif self._before and (before := self._before.pop(record.id, None)) is not None:
                    self._tally.remove(before)
                self._horizon.note(record)
                run = self._running.get(record.id)
                if run is not None and run.end is not record:
                    # It saved something on its way, or was asked to stop, and its end is still to come.
                    self._live[record.id] = record
                    self._tally.add(record)
                    continue
                if run is not None:
                    del self._running[record.id]
                    self._dispatcher.ended(run.record)
                elif known is not None and known.state is JobState.AVAILABLE and record.id not in claimed:
                    self._dispatcher.left(known)
                if record.id in claimed:
                    self._claims.settle(record)
                self._keep(record)
                if changes_twice and record.id not in self._live:
                    self._before[record.id] = record
            self._before.clear()
            self._horizon.shorten()
            self._horizon.look_ahead()
            self._idle.notify_all()
            self._claims.tell()
        self._wake()

    def _keep(self, record: JobRecord) -> None:
        """Count a job, and remember it where it waits: ready, for its time, or not at all once it ended."""
        if record.state in FINAL_STATES:
            self._tally.add_ended(record)
            return
        record = self._as_it_is_now(record)
        self._tally.add(record)
        self._place(record)

    def _admit(self, stored: JobRecord, record: JobRecord) -> None:
        """Take a job from the store into memory, where it is counted already."""
        record = self._as_it_is_now(record)
        if record.state is not stored.state:
            self._tally.move(stored, record)
        self._place(record)

    def _as_it_is_now(self, record: JobRecord) -> JobRecord:
        if record.state in WAITING and record.run_at_us <= self._scheduler.now_us():
            return msgspec.structs.replace(record, state=JobState.AVAILABLE)
        return record

    def _place(self, record: JobRecord) -> None:
        if record.state in WAITING:
            self._horizon.add(record)
            return
        self._live[record.id] = record
        if record.state is JobState.AVAILABLE and record.id not in self._claims.held:
            self._dispatcher.add(record)

    def _due(self) -> None:
        """Let the jobs run whose time has come."""
        with self._lock:
            for job_id in self._horizon.take(self._scheduler.now_us()):
                record = self._live[job_id]
                ready = msgspec.structs.replace(record, state=JobState.AVAILABLE)
                self._tally.move(record, ready)
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
            page = self.store.waiting(start, limit=limits.JOBS_PAGE)
        except KlerkError as error:
            with self._lock:
                self._horizon.failed_load(error)
            return
        restored = {record.id: self._restored(record) for record in page}
        with self._lock:
            for record in self._horizon.end_load(page, is_last=len(page) < limits.JOBS_PAGE):
                self._admit(record, restored.get(record.id, record))
            self._horizon.look_ahead()
            self._idle.notify_all()
        self._wake()

    def _refilled(self, gate: Gate) -> None:
        with self._lock:
            self._dispatcher.refilled(gate)
        self._wake()

    def _wake(self) -> None:
        for executor in self._executors.values():
            executor.wake()

    def _take_plain(self) -> JobRun | None:
        return self._take("thread")

    def _take_coroutine(self) -> JobRun | None:
        return self._take("loop")

    def _take(self, pool: Pool) -> JobRun | None:
        """Return the next job of a pool, as it is given to its function."""
        with self._lock:
            record = None if self._attempts.is_closing else self._dispatcher.take(pool, frozenset())
            if record is None:
                return None
            run = self._running[record.id] = JobRun(self._host, record)
            return run

    # --- what users see ---------------------------------------------------------------------------

    def schedule(self, *requests: JobRequest, at: datetime | None = None) -> tuple[JobRecord, ...]:
        """Create jobs outside of a command and return their records once they are durable.

        Parameters:
            at: not before; None: at once.
        """
        for request in requests:
            if not isinstance(request, JobRequest):
                raise ArgumentError(f"expected a job request, got {type(request).__name__}")
        timed = tuple(requests if at is None else (request.at(at) for request in requests))
        created: tuple[JobRecord, ...] = self._submit(CreateJobs(timed), System("schedule")).result()
        return created

    def counts(
        self, *, kind: str | Job[...] | None = None, queue: str | None = None
    ) -> Mapping[JobState, int]:
        """Return how many jobs there are in each state: of the ended ones those that are kept.

        Counts are kept up to date, and looking at them takes the same time however many jobs there are.

        Parameters:
            kind: of this kind only; None: all.
            queue: in this queue only; None: all.
        """
        of_kind, declared = (kind.name if isinstance(kind, Job) else kind), self._spec.jobs
        with self._lock:
            counts = self._tally.by_state(of_kind, queue, declared)
            for job_id, run in self._running.items():
                record = run.record
                if of_kind not in (None, record.kind):
                    continue
                if queue not in (None, queue_of(record.kind, record.queue, declared)):
                    continue
                counts[self._live[job_id].state] -= 1
                counts[JobState.EXECUTING] += 1
            return counts

    def totals(self) -> Mapping[JobState, int]:
        """Return how often jobs ended in each way since the store was made, whether or not they are kept."""
        with self._lock:
            return {state: self._tally.totals[state] for state in ENDS}

    def live(self) -> tuple[JobRecord, ...]:
        """Return all jobs that have not ended, in the order of their creation.

        Those that wait for a far time are read from the store: to look at some, ask for them.
        """
        with self._lock:
            found, later = dict(self._live), self._horizon.later
        soon = set(found)
        while later is not None:
            page = self.store.waiting(later)
            found.update((record.id, self._restored(record)) for record in page)
            later = after(page[-1]) if page else None
        with self._lock:
            now = dict(self._live)
        # What was in memory and is not any more has ended, or waits for a far time by now.
        for job_id in soon - now.keys():
            record = self.store.get(job_id)
            if record is None or record.state in FINAL_STATES:
                del found[job_id]
        found.update(now)
        return tuple(record for _, record in sorted(found.items()))

    def cancel_running(self, job_id: int) -> bool:
        """Ask a running job to stop; return whether it runs."""
        run = self._running.get(job_id)
        if run is not None:
            run.cancel()
        return run is not None

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no job is available, executing or waiting for its rate; those for later do not count.

        Parameters:
            timeout: seconds to wait at most.

        Returns:
            Whether it came to that.
        """
        with self._idle:
            self._idle.wait_for(lambda: self._nothing_to_do() or self._attempts.is_closing, timeout)
            return self._nothing_to_do()

    def _nothing_to_do(self) -> bool:
        if self._tally.has(JobState.AVAILABLE):
            return False
        return not self._horizon.is_behind(self._scheduler.now_us())

    def close(self, wait_s: float) -> None:
        """Start no more jobs and wait for those that run; the others run after the next start."""
        self.begin_closing()
        deadline = monotonic() + wait_s
        for executor in self._executors.values():
            if not executor.stop(max(0.0, deadline - monotonic())):
                LOG.warning("jobs were still running after %s s; they run again after the next start", wait_s)

    def runs_here(self) -> bool:
        """Return whether the caller runs in a thread of the job manager's, which closing would wait for."""
        return any(executor.runs_here() for executor in self._executors.values())

    def begin_closing(self) -> None:
        """Start no more jobs."""
        with self._lock:
            self._attempts.is_closing = True
            self._idle.notify_all()

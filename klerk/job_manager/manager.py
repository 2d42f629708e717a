"""`JobManager`: keeps the jobs that have not ended, gives them to workers, and follows what they do."""

import logging
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from time import monotonic

import msgspec

from klerk import limits
from klerk.app import Spec
from klerk.commands import System
from klerk.errors import ArgumentError
from klerk.job_manager.acting import ActionDesk, Actions
from klerk.job_manager.attempts import Attempts, Submit
from klerk.job_manager.books import Books
from klerk.job_manager.by_hand import ByHand
from klerk.job_manager.claims import Claims
from klerk.job_manager.cron import CronJobs
from klerk.job_manager.dispatcher import Dispatcher
from klerk.job_manager.due_jobs import DueJobs
from klerk.job_manager.gates import Gate
from klerk.job_manager.job_store import JobStore
from klerk.job_manager.queue_book import QueueBook
from klerk.job_manager.queue_control import QueueControl
from klerk.job_manager.status import Explaining
from klerk.job_manager.work import CreateJobs
from klerk.job_options import Pool
from klerk.job_run import JobHost, JobRun
from klerk.jobs import FINAL_STATES, JobRecord, JobRequest, JobState
from klerk.scheduler import Scheduler
from klerk.workers import Executor, LoopExecutor, ThreadExecutor

LOG = logging.getLogger("klerk")

WAITING = (JobState.SCHEDULED, JobState.RETRYABLE)


class JobManager(ByHand, QueueControl):
    """Dispatches jobs from memory as they become ready; nothing is polled.

    Parameters:
        spec: the declared jobs.
        host: what running jobs may use.
        submit: records what became of them.
        scheduler: wakes jobs that wait for a time.
        desk: lets actions on jobs take effect.
        store: reads the jobs that are not in memory.
        records: the jobs that the store held.
        ended_jobs: completed, discarded and cancelled before, as the commit log's head has them.
        threads: for plain functions.
        concurrency: jobs that run at once, of all sorts; None: as many as there are workers.
        queue_book: what people set of queues, and how full the buckets of rates were when the last run ended.
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
        records: list[JobRecord],
        ended_jobs: tuple[int, int, int],
        threads: int,
        concurrency: int | None,
        queue_book: QueueBook,
    ) -> None:
        self._spec = spec
        self._host = host
        self._submit = submit
        self._scheduler = scheduler
        self.store = store
        self._desk = desk
        self._queue_book = queue_book
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._live: dict[int, JobRecord] = {}
        self._running: dict[int, JobRun] = {}
        completed, discarded, cancelled = ended_jobs
        self._tally = Counter(
            {JobState.COMPLETED: completed, JobState.DISCARDED: discarded, JobState.CANCELLED: cancelled}
        )
        self._dispatcher = Dispatcher(
            spec,
            self._live,
            now_us=scheduler.now_us,
            call_after=scheduler.after,
            wake=self._refilled,
            concurrency=concurrency,
            levels=queue_book.levels.read(scheduler.now_us()),
            overrides=queue_book.overrides,
        )
        self._due_jobs = DueJobs(scheduler, self._due)
        self._attempts = Attempts(spec, submit, scheduler)
        self._cron = CronJobs(
            [job for job in spec.jobs.values() if job.settings.cron is not None], scheduler, submit
        )
        self._claims = Claims(self._lock, self._live, self._running, self._dispatcher, self._wake)
        self._books = Books(spec, self._live, self._running, store, scheduler.now_us)
        self._explaining = Explaining(
            spec, self._lock, self._running, self._claims.held, self._dispatcher, scheduler.now_us
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
        self.note([self._restored(record) for record in records])

    def start(self) -> None:
        """Begin to run jobs, first of all those that were executing when the process ended."""
        self._actions.end_stopped(self._live.values())
        self._queue_book.levels.begin()
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

    def note(self, records: list[JobRecord]) -> None:
        """Take over jobs that were created or changed by a published group."""
        claimed = self._claims.held
        with self._lock:
            for record in records:
                known = self._live.pop(record.id, None)
                if known is not None:
                    self._tally[known.state] -= 1
                    run = self._running.get(record.id)
                    if run is not None and run.is_over:
                        del self._running[record.id]
                        self._dispatcher.ended(run.record)
                    elif run is not None:
                        # It saved something on its way, and runs on.
                        self._live[record.id] = record
                        self._tally[record.state] += 1
                        continue
                    elif known.state is JobState.AVAILABLE and record.id not in claimed:
                        self._dispatcher.left(known)
                if record.id in claimed:
                    self._claims.settle(record)
                if record.state not in FINAL_STATES:
                    self._keep(record)
                else:
                    self._tally[record.state] += 1
            self._idle.notify_all()
            self._claims.tell()
        self._wake()

    def _keep(self, record: JobRecord) -> None:
        """Remember a job that has not ended, and put it where it waits: ready, or for its time."""
        if record.state in WAITING and record.run_at_us <= self._scheduler.now_us():
            record = msgspec.structs.replace(record, state=JobState.AVAILABLE)
        self._live[record.id] = record
        self._tally[record.state] += 1
        if record.state is JobState.AVAILABLE:
            if record.id not in self._claims.held:
                self._dispatcher.add(record)
        elif record.state in WAITING:
            self._due_jobs.add(record.run_at_us, record.id)

    def _due(self) -> None:
        """Let the jobs run whose time has come."""
        with self._lock:
            for job_id in self._due_jobs.take(self._scheduler.now_us()):
                record = self._live.get(job_id)
                if record is not None and record.state in WAITING:
                    self._tally[record.state] -= 1
                    self._keep(record)
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

    def counts(self) -> Mapping[JobState, int]:
        """Return how many jobs there are in each state, ended ones since the store was made."""
        with self._lock:
            counts = {state: self._tally[state] for state in JobState}
            counts[JobState.EXECUTING] = len(self._running)
            counts[JobState.AVAILABLE] -= len(self._running)
            return counts

    def live(self) -> tuple[JobRecord, ...]:
        """Return all jobs that have not ended, in the order of their creation."""
        with self._lock:
            return tuple(record for _, record in sorted(self._live.items()))

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
        return self._tally[JobState.AVAILABLE] == 0

    def close(self, wait_s: float) -> None:
        """Start no more jobs and wait for those that run; the others run after the next start."""
        self.begin_closing()
        deadline = monotonic() + wait_s
        for executor in self._executors.values():
            if not executor.stop(max(0.0, deadline - monotonic())):
                LOG.warning("jobs were still running after %s s; they run again after the next start", wait_s)
        with self._lock:
            levels = self._dispatcher.levels()
        self._queue_book.levels.keep(levels)

    def runs_here(self) -> bool:
        """Return whether the caller runs in a thread of the job manager's, which closing would wait for."""
        return any(executor.runs_here() for executor in self._executors.values())

    def begin_closing(self) -> None:
        """Start no more jobs."""
        with self._lock:
            self._attempts.is_closing = True
            self._idle.notify_all()

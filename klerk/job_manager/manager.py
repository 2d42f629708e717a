"""`JobManager`: keeps the jobs that have not ended, gives them to workers, and follows what they do."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from klerk.app import Spec
from klerk.codec import encode, read_job
from klerk.commands import System
from klerk.job_creation import JobCreation
from klerk.job_manager.acting import ActionDesk, Actions
from klerk.job_manager.arguments import StoredArguments
from klerk.job_manager.attempts import Attempts
from klerk.job_manager.books import Books
from klerk.job_manager.claims import Claims
from klerk.job_manager.crashes import Crashes
from klerk.job_manager.crew import Workers, executors_of
from klerk.job_manager.cron import CronJobs
from klerk.job_manager.dispatcher import Dispatcher
from klerk.job_manager.face import Jobs
from klerk.job_manager.gates import Gate
from klerk.job_manager.job_store import JobStore
from klerk.job_manager.live_jobs import LiveJobs, in_state
from klerk.job_manager.naming import warn_of_undeclared_queues
from klerk.job_manager.pruning import Pruning
from klerk.job_manager.relations import Relations
from klerk.job_manager.results import Results
from klerk.job_manager.retention import Retention
from klerk.job_manager.status import Explaining
from klerk.job_manager.suspects import Suspect
from klerk.job_manager.waiting import Endings, is_closing
from klerk.job_manager.watchdog import Watchdog
from klerk.job_manager.work import RecordJobs, RecordSuspended, Submit, jobs_of_job
from klerk.job_options import Pool
from klerk.jobs import JobRecord, JobState
from klerk.log_events import about, about_job
from klerk.recovery import Recovered
from klerk.running_job import JobHost, RunningJob
from klerk.scheduler import Scheduler
from klerk.storage.marks import MarkFile
from klerk.tokens.repeated import FirstUse
from klerk.workers import Executor, Patience, stop

LOG = logging.getLogger("klerk")


class JobManager:
    """Dispatches jobs from memory as they become ready; nothing is polled.

    Parameters:
        spec: the declared jobs.
        host: what running jobs may use.
        submit: records what became of them.
        scheduler: wakes jobs that wait for a time.
        creation: makes jobs, and knows what transactions make of them.
        desk: lets actions on jobs take effect.
        store: reads the jobs that are not in memory.
        recovered: what the store held.
        retention: how long jobs are kept that have ended.
        workers: who runs them.
        marks: where running jobs are marked, so that they are known should the process die; None: nowhere.
        refuse_waiting: raises where waiting for jobs would never end; told whether a whole thread would wait.

    Attributes:
        store: every job, whether in memory or not.
        relations: what jobs have to do with each other.
        attempts: runs the jobs that were taken.
        endings: tells those who wait for jobs.
        patience: with which closing waits for running jobs.
        offered: what users may do with the jobs.
    """

    def __init__(
        self,
        spec: Spec,
        host: JobHost,
        submit: Submit,
        scheduler: Scheduler,
        *,
        creation: JobCreation,
        desk: ActionDesk,
        store: JobStore,
        recovered: Recovered,
        retention: Retention,
        workers: Workers,
        marks: MarkFile | None,
        refuse_waiting: Callable[[bool], None],
    ) -> None:
        self._spec = spec
        self._host = host
        self._submit = submit
        self._scheduler = scheduler
        self.store = store
        self._desk = desk
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._running: dict[int, RunningJob] = {}
        self._live: dict[int, JobRecord] = {}
        self._dispatcher = Dispatcher(
            spec,
            self._live,
            now_us=scheduler.now_us,
            call_after=scheduler.after,
            wake=self._refilled,
            concurrency=workers.concurrency,
            levels=desk.queue_book.levels.read(scheduler.now_us()),
            overrides=desk.queue_book.overrides,
        )
        self._crashes = Crashes(spec, marks, recovered.jobs)
        self.relations = Relations(spec, creation, self._lock, self._live, store, submit, scheduler)
        self._arguments = StoredArguments(spec, recovered.job_versions)
        self._jobs = LiveJobs(
            self._live,
            self._lock,
            store,
            recovered,
            scheduler,
            restored=lambda record: self.relations.restored(self._restored(record)),
            holds=self.relations.holds,
            ready=self._ready,
            wake=self._became_ready,
        )
        self._pruning = Pruning(retention, spec.jobs.values(), store, scheduler, self._jobs, self._lock)
        self._pruning.is_needed = self.relations.is_needed
        self._results = Results(spec.jobs, scheduler.now_us)
        self.attempts = Attempts(spec, submit, scheduler, self._crashes.end, self._idle)
        self._cron = CronJobs(spec.jobs, recovered.cron_marks, scheduler, submit)
        self._claims = Claims(self._lock, self._live, self._running, self._dispatcher, self._wake)
        self._books = Books(spec, self._arguments, self._live, self._running, store, scheduler.now_us)
        self._explaining = Explaining(
            self._lock, self._running, self._claims, self._dispatcher, self._books, spec, scheduler.now_us
        )
        self._hired = workers
        self._refuse_waiting = refuse_waiting
        self._executors = executors_of(spec, workers, self)
        self._watchdog = Watchdog(spec.jobs, self._executors, scheduler, self._runs)
        stop_run, ending = self._watchdog.stop, self.attempts.ending
        self._actions = Actions(spec, self._books, self._claims, ending, desk, stop_run, scheduler.now_us)
        self.patience = Patience()
        self.endings = Endings()
        self.offered = self._offered()
        self._take_over()

    def _take_over(self) -> None:
        """Take over the jobs that the store held; some are set aside to run alone."""
        self._dispatcher.suspects.gather(self._executors, self._hired.tags)
        self._jobs.take_over(self.relations.restore)

    def _offered(self) -> Jobs:
        return Jobs(
            self._spec,
            self._submit,
            self._lock,
            self._idle,
            live=self._live,
            running=self._running,
            jobs=self._jobs,
            books=self._books,
            explaining=self._explaining,
            actions=self._actions,
            attempts=self.attempts,
            results=self._results,
            relations=self.relations,
            pruning=self._pruning,
            watchdog=self._watchdog,
            dispatcher=self._dispatcher,
            desk=self._desk,
            executors=self._executors,
            endings=self.endings,
            refuse_waiting=self._refuse_waiting,
            wake=self._wake,
        )

    def start(self) -> None:
        """Begin to run jobs, first of all those that were executing when the process ended.

        Raises:
            StoreFailed: what became of those cannot be recorded.
        """
        warn_of_undeclared_queues(self._spec, self._lock, self._jobs.tally)
        self._record_suspended()
        changed = self._crashes.recorded(self._live, self._scheduler.now_us())
        if changed:
            self._submit(RecordJobs(changed), System("recovery")).result()
        self._crashes.forget()
        self._actions.end_stopped(list(self._live.values()))
        if self._dispatcher.has_rates:
            self._desk.queue_book.levels.begin()
        self._pruning.start()
        self.relations.start()
        with self._lock:
            self._dispatcher.begin()
        for executor in self._executors.values():
            executor.start()
            executor.wake()
        if self._executors:
            self._cron.start()

    def _record_suspended(self) -> None:
        """Make visible in the store, too, which jobs cannot run."""
        self._arguments.tell()
        for batch in self._arguments.take_suspended():
            try:
                self._submit(RecordSuspended(batch, self._is_current), System("jobs that cannot run"))
            except Exception as error:
                LOG.error("that jobs are suspended is not recorded: %s", error, extra=about("job_unrecorded"))

    def _is_current(self, record: JobRecord) -> bool:
        return self._live.get(record.id) is record and record.id not in self._claims.held

    # --- what is to be run ------------------------------------------------------------------------

    def foresee(self, records: list[JobRecord]) -> None:
        """Look up jobs beside memory that a group changes, before anything takes over what it changed."""
        self._jobs.foresee(records)

    def _restored(self, record: JobRecord) -> JobRecord:
        """Return a job that was read from the store as it is kept in memory."""
        if record.state is JobState.EXECUTING:
            # It runs at most once and was started: it ends before anything starts.
            return record
        restored = self._arguments.restored(record)
        if restored.state is JobState.SUSPENDED or not self._crashes.died_with(record):
            return restored
        # What the process died with waits until that is recorded.
        return in_state(restored, JobState.EXECUTING)

    def note(self, records: list[JobRecord]) -> None:
        """Take over jobs that were created or changed by a published group, which were foreseen."""
        jobs, claimed = self._jobs, self._claims.held
        with self._lock:
            for record in records:
                known = jobs.withdraw(record)
                run = self._running.get(record.id)
                if run is not None and run.end is not record:
                    # It saved something on its way, or was asked to stop, and its end is still to come.
                    jobs.keep_running(record if known is None else in_state(record, known.state))
                    continue
                if run is not None:
                    del self._running[record.id]
                    self._crashes.end(record.id)
                    self._dispatcher.ended(run.record)
                elif known is not None and known.state is JobState.AVAILABLE and record.id not in claimed:
                    self._dispatcher.left(known)
                if record.id in claimed:
                    self._claims.settle(record)
                jobs.keep(record)
                if record.follows or record.batch or record.id in self.relations.followers:
                    jobs.let_go(self.relations.noted(record, is_new=known is None))
            jobs.noted()
            self.relations.cancel_doomed()
            self._idle.notify_all()
            self._claims.tell()
            woken = self._wanted()
        if self.endings.awaited:
            self.endings.tell(records)
        for executor in woken:
            executor.wake()

    def _ready(self, record: JobRecord) -> None:
        """Let a job be given to a worker, unless somebody acts on it."""
        if record.id not in self._claims.held:
            self._dispatcher.add(record)

    def _became_ready(self) -> None:
        self._record_suspended()
        with self._lock:
            self._idle.notify_all()
        self._wake()

    def _refilled(self, gate: Gate | Suspect) -> None:
        with self._lock:
            self._dispatcher.refilled(gate)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            woken = self._wanted()
        for executor in woken:
            executor.wake()

    def _wanted(self) -> list[Executor[RunningJob]]:
        """Return the executors for which there may be something; to wake the others would cost those that
        work the interpreter. The lock is held."""
        may_start, tags = self._dispatcher.may_start, self._hired.tags
        return [executor for pool, executor in self._executors.items() if may_start(pool, tags)]

    def has_more(self, pool: Pool) -> bool:
        """See `Employer.has_more`."""
        with self._lock:
            return self._dispatcher.may_start(pool, self._hired.tags)

    def take(self, pool: Pool) -> RunningJob | None:
        """See `Employer.take`."""
        with self._lock:
            record = None if self.attempts.is_closing else self._dispatcher.take(pool, self._hired.tags)
            if record is None:
                return None
            if record.unique:
                self.relations.taken(record)
            self._crashes.begin(record)
            run = self._running[record.id] = RunningJob(
                self._host, record, self._spec.jobs[record.kind], self._scheduler.now_us
            )
            if record.kind in self._watchdog.watched:
                self._watchdog.begin(run)
            return run

    def _runs(self) -> tuple[RunningJob, ...]:
        with self._lock:
            return tuple(self._running.values())

    # --- what running jobs and their workers ask for ----------------------------------------------

    def result_for(self, record: JobRecord, job_id: int) -> Any:
        """Return the result of a job to another one, which follows it or is a callback of its batch.

        Raises:
            ArgumentError: the other one is neither.
            NotFound, NoResult: as for `Jobs.result`.
        """
        self.relations.require_related(record, job_id)
        return self._results.of(self._books.get(job_id))

    def recalled(self, first: FirstUse) -> tuple[JobRecord, ...]:
        """Return the jobs that an earlier attempt at a job asked for, as they are now; those that are kept no
        longer as they were created."""
        books = self._books
        return tuple(
            books.peek(job_id) or books.shown(read_job(job_id, stored))
            for job_id, stored in jobs_of_job(first.payload)
        )

    def as_stored(self, record: JobRecord) -> JobRecord:
        """See `Employer.as_stored`."""
        return self._arguments.typed(read_job(record.id, encode(record)))

    def wait_until_over(self, run: RunningJob, timeout_s: float) -> bool:
        """See `Employer.wait_until_over`."""
        with self._idle:
            return self._idle.wait_for(lambda: self._running.get(run.id) is not run, timeout_s)

    # --- closing ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Start no more jobs and wait for those that run, then ask them to stop, then force them.

        A job that was interrupted runs again after the next start, and so does one that cannot be.
        """
        self.begin_closing()
        executors = list(self._executors.values())
        wait_s = self._hired.close_wait.total_seconds()
        for run in stop(executors, wait_s, self.patience, self._begin_interrupting):
            LOG.warning(
                "job %d (%s) does not stop and is left running; the next start decides what becomes of it",
                run.id,
                run.record.kind,
                extra=about_job("job_left_running", run.record, run.queue),
            )
        self.attempts.settle(self._running)
        self._begin_interrupting()
        self._crashes.close()
        with self._lock:
            levels = self._dispatcher.levels()
        self._desk.queue_book.levels.keep(levels)
        self._books.close()

    def _begin_interrupting(self) -> None:
        self.attempts.is_interrupting = True

    def runs_here(self) -> bool:
        """Return whether the caller runs in a thread of the job manager's, which closing would wait for."""
        return any(executor.runs_here() for executor in self._executors.values())

    def begin_closing(self) -> None:
        """Start no more jobs."""
        with self._lock:
            self.attempts.is_closing = True
            self._idle.notify_all()
        self.endings.close(is_closing)

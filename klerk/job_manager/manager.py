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
from klerk.batch import Batch, no_request, postponed
from klerk.commands import System
from klerk.errors import NotFound
from klerk.job_creation import JobCreation
from klerk.job_manager.attempts import Attempts, Submit
from klerk.job_manager.batches import BatchStatus
from klerk.job_manager.cron import CronJobs
from klerk.job_manager.dispatcher import Dispatcher
from klerk.job_manager.due_jobs import DueJobs
from klerk.job_manager.gates import Gate
from klerk.job_manager.relations import Relations, StoredJobs
from klerk.job_manager.work import CreateJobs
from klerk.job_options import Pool
from klerk.job_run import JobHost, JobRun
from klerk.jobs import FINAL_STATES, JobRecord, JobRequest, JobState
from klerk.scheduler import Scheduler
from klerk.workers import Executor, LoopExecutor, ThreadExecutor

LOG = logging.getLogger("klerk")

WAITING = (JobState.SCHEDULED, JobState.RETRYABLE)


class JobManager:
    """Dispatches jobs from memory as they become ready; nothing is polled.

    Parameters:
        spec: the declared jobs.
        host: what running jobs may use.
        submit: records what became of them.
        scheduler: wakes jobs that wait for a time.
        creation: makes jobs, and knows what transactions make of them.
        records: the jobs that the store held.
        stored: finds those that are not in memory.
        ended_jobs: completed, discarded and cancelled before, as the commit log's head has them.
        threads: for plain functions.

    Attributes:
        relations: what jobs have to do with each other; for Klerk itself.
    """

    def __init__(
        self,
        spec: Spec,
        host: JobHost,
        submit: Submit,
        scheduler: Scheduler,
        *,
        creation: JobCreation,
        records: list[JobRecord],
        stored: StoredJobs,
        ended_jobs: tuple[int, int, int],
        threads: int,
    ) -> None:
        self._spec = spec
        self._host = host
        self._submit = submit
        self._scheduler = scheduler
        self._stored = stored
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
            call_at=scheduler.at,
            wake=self._refilled,
        )
        self._due_jobs = DueJobs(scheduler, self._due)
        self.relations = Relations(spec, creation, self._lock, self._live, stored, submit, scheduler)
        self._attempts = Attempts(spec, submit, scheduler)
        self._cron = CronJobs(
            [job for job in spec.jobs.values() if job.settings.cron is not None], scheduler, submit
        )
        self._executors: dict[Pool, Executor] = {}
        pools = {job.pool for job in spec.jobs.values()} if threads else set()
        if "thread" in pools:
            self._executors["thread"] = ThreadExecutor(threads, self._take_plain, self._attempts.run_plain)
        if "loop" in pools:
            self._executors["loop"] = LoopExecutor(
                limits.JOB_COROUTINES_MAX, self._take_coroutine, self._attempts.run_coroutine
            )
        restored = [self.relations.restored(self._restored(record)) for record in records]
        self.relations.restore(restored)
        self.note(restored)

    def start(self) -> None:
        """Begin to run jobs, first of all those that were executing when the process ended."""
        self.relations.start()
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
                    else:
                        self._dispatcher.left(known)
                if record.state not in FINAL_STATES:
                    self._keep(record)
                else:
                    self._tally[record.state] += 1
                if record.follows or record.batch or record.id in self.relations.followers:
                    self._let_go(self.relations.noted(record, is_new=known is None))
            self.relations.cancel_doomed()
            self._idle.notify_all()
        self._wake()

    def _keep(self, record: JobRecord) -> None:
        """Remember a job that has not ended, and put it where it waits: ready, or for others or its time."""
        if record.state in WAITING and (record.follows or record.role) and self.relations.holds(record):
            self._live[record.id] = record
            self._tally[record.state] += 1
        else:
            self._place(record)

    def _let_go(self, job_ids: list[int]) -> None:
        """Let jobs go on that waited for others."""
        for job_id in job_ids:
            record = self._live[job_id]
            self._tally[record.state] -= 1
            self._place(record)

    def _place(self, record: JobRecord) -> None:
        if record.state in WAITING and record.run_at_us <= self._scheduler.now_us():
            record = msgspec.structs.replace(record, state=JobState.AVAILABLE)
        self._live[record.id] = record
        self._tally[record.state] += 1
        if record.state is JobState.AVAILABLE:
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
                    self._place(record)
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
            if record.unique:
                self.relations.taken(record)
            run = self._running[record.id] = JobRun(self._host, record)
            return run

    # --- what users see ---------------------------------------------------------------------------

    def schedule(self, *requests: JobRequest | Batch, at: datetime | None = None) -> tuple[JobRecord, ...]:
        """Create jobs outside of a command, in one transaction, and return their records once it is durable.

        Parameters:
            at: not before; None: at once. Of a batch, it is for the members.

        Returns:
            The record of each request; of a batch, those of its members and then those of its callbacks. The
            record of the job that is there already stands in the place of a unique one.

        Raises:
            ArgumentError: something is no request, or follows a request that does not come before it.
            NotFound: a request follows a job that there is not.
            InvalidValue: an argument does not fit its type.
        """
        for request in requests:
            if not isinstance(request, JobRequest | Batch):
                raise no_request(request)
        timed = requests if at is None else postponed(requests, at)
        created: tuple[JobRecord, ...] = self._submit(CreateJobs(timed), System("schedule")).result()
        return created

    def counts(self) -> Mapping[JobState, int]:
        """Return how many jobs there are in each state, ended ones since the store was made."""
        with self._lock:
            counts = {state: self._tally[state] for state in JobState}
            counts[JobState.EXECUTING] = len(self._running)
            counts[JobState.AVAILABLE] -= len(self._running)
            return counts

    def get(self, job_id: int) -> JobRecord:
        """Return a job, whether it is still to run or has ended.

        Raises:
            NotFound: there is none with this id.
        """
        with self._lock:
            record = self._live.get(job_id) or self._stored.get(job_id)
            if record is None:
                raise NotFound(f"there is no job {job_id}")
            executing = job_id in self._running
        return msgspec.structs.replace(record, state=JobState.EXECUTING) if executing else record

    def batch(self, batch_id: int) -> BatchStatus:
        """Return how far a batch is.

        Parameters:
            batch_id: as the records of its members and callbacks name it.

        Raises:
            NotFound: there is none with this id, or its callbacks are kept no longer.
        """
        with self._lock:
            return self.relations.status(batch_id)

    def waiting_for(self, job_id: int) -> tuple[int, ...]:
        """Return the ids of the jobs that a job waits for: those that it follows, and members of its batch.

        Raises:
            NotFound: there is none with this id.
        """
        record = self.get(job_id)
        with self._lock:
            return self.relations.waiting_for(record)

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
        return self._tally[JobState.AVAILABLE] == 0 and not self.relations.is_cancelling

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

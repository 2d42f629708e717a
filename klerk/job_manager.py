"""The job manager: keeps what is to be run in memory, in order, runs it, and records what became of it."""

import heapq
import logging
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from time import monotonic
from typing import Any, Protocol

import msgspec
from cronsim import CronSim

from klerk import limits
from klerk._dispatch import JobRequest, microseconds
from klerk._waiting import Submission
from klerk.app import Spec
from klerk.commands import Command, System
from klerk.errors import ArgumentError, JobCancelled, NotFound, StoreFailed
from klerk.job_run import Completion, JobHost, JobRun
from klerk.job_work import Bucket, CreateJobs, RecordJob, acting_as, text_of
from klerk.jobs import FINAL_STATES, Job, JobRecord, JobState
from klerk.scheduler import Scheduler
from klerk.workers import Executor, LoopExecutor, ThreadExecutor

LOG = logging.getLogger("klerk")

Ready = tuple[int, int, JobRecord]
"""Negative priority, id, record: the smallest is run first."""


class Submit(Protocol):
    """Puts the transaction of a job into the queue."""

    def __call__(self, work: Any, actor: System) -> Submission: ...


class JobManager:
    """Dispatches jobs from memory as they become ready; nothing is polled.

    Parameters:
        spec: the declared jobs.
        host: what running jobs may use.
        submit: records what became of them.
        scheduler: wakes jobs that wait for a time.
        records: the jobs that the store held.
        ended_jobs: completed, discarded and cancelled before, as the commit log's head has them.
        threads: for plain functions.
    """

    def __init__(
        self,
        spec: Spec,
        host: JobHost,
        submit: Submit,
        scheduler: Scheduler,
        *,
        records: list[JobRecord],
        ended_jobs: tuple[int, int, int],
        threads: int,
    ) -> None:
        self._spec = spec
        self._host = host
        self._submit = submit
        self._scheduler = scheduler
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._plain: list[Ready] = []
        self._coroutines: list[Ready] = []
        # Per kind: jobs that wait for a token, and the ids of those that got theirs.
        self._limited: dict[str, list[Ready]] = {}
        self._granted: set[int] = set()
        self._buckets = {
            job.name: Bucket(job.rate, scheduler.now_us) for job in spec.jobs.values() if job.rate is not None
        }
        self._live: dict[int, JobRecord] = {}
        self._running: dict[int, JobRun] = {}
        completed, discarded, cancelled = ended_jobs
        self._tally = Counter(
            {JobState.COMPLETED: completed, JobState.DISCARDED: discarded, JobState.CANCELLED: cancelled}
        )
        self._closing = False
        self._executors: list[Executor] = []
        self._thread_executor: ThreadExecutor | None = None
        self._loop_executor: LoopExecutor | None = None
        if threads and any(not job.is_coroutine for job in spec.jobs.values()):
            self._thread_executor = ThreadExecutor(threads, self._take_plain, self._run_plain)
            self._executors.append(self._thread_executor)
        if threads and any(job.is_coroutine for job in spec.jobs.values()):
            self._loop_executor = LoopExecutor(
                limits.JOB_COROUTINES_MAX, self._take_coroutine, self._run_coroutine
            )
            self._executors.append(self._loop_executor)
        self.note([self._restored(record) for record in records])

    def start(self) -> None:
        """Begin to run jobs, first of all those that were executing when the process ended."""
        for executor in self._executors:
            executor.start()
            executor.wake()
        if self._executors:
            for job in self._spec.jobs.values():
                if job.cron is not None:
                    self._schedule_cron(job, job.cron)

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
                self._running.pop(record.id, None)
                if record.state not in FINAL_STATES:
                    self._keep(record)
                else:
                    self._tally[record.state] += 1
            self._idle.notify_all()
        self._wake()

    def _keep(self, record: JobRecord) -> None:
        """Remember a job that has not ended, and put it where it waits: ready, or for its time."""
        waits = record.run_at_us > self._scheduler.now_us()
        if not waits and record.state in (JobState.SCHEDULED, JobState.RETRYABLE):
            record = msgspec.structs.replace(record, state=JobState.AVAILABLE)
        self._live[record.id] = record
        self._tally[record.state] += 1
        if record.state in (JobState.SCHEDULED, JobState.RETRYABLE):
            self._scheduler.at(record.run_at_us, lambda: self._due(record))
        elif record.state is JobState.AVAILABLE:
            job = self._spec.jobs[record.kind]
            queue = self._coroutines if job.is_coroutine else self._plain
            heapq.heappush(queue, (-job.priority, record.id, record))

    def _due(self, record: JobRecord) -> None:
        with self._lock:
            if self._live.get(record.id) is not record:
                return
            self._tally[record.state] -= 1
            self._keep(record)
        self._wake()

    def _wake(self) -> None:
        if self._plain and self._thread_executor is not None:
            self._thread_executor.wake()
        if self._coroutines and self._loop_executor is not None:
            self._loop_executor.wake()

    def _take_plain(self) -> JobRun | None:
        return self._take(self._plain)

    def _take_coroutine(self) -> JobRun | None:
        return self._take(self._coroutines)

    def _take(self, queue: list[Ready]) -> JobRun | None:
        """Return the next job of a queue, as it is given to its function."""
        with self._lock:
            while queue and not self._closing:
                ready = heapq.heappop(queue)
                record = ready[2]
                if self._live.get(record.id) is not record:
                    continue
                bucket = self._buckets.get(record.kind)
                if bucket is not None and not self._token(bucket, ready):
                    continue
                run = JobRun(self._host, record)
                self._running[record.id] = run
                return run
        return None

    def _token(self, bucket: Bucket, ready: Ready) -> bool:
        """Spend a token on a job, or set the job aside until there is one."""
        record = ready[2]
        if record.id in self._granted:
            self._granted.discard(record.id)
            return True
        waiting = self._limited.setdefault(record.kind, [])
        wait_s = 0.0
        if not waiting and (wait_s := bucket.take()) == 0:
            return True
        heapq.heappush(waiting, ready)
        if len(waiting) == 1:
            self._refill_after(record.kind, wait_s)
        return False

    def _refill_after(self, kind: str, wait_s: float) -> None:
        self._scheduler.at(self._scheduler.now_us() + int(wait_s * 1e6) + 1, lambda: self._refill(kind))

    def _refill(self, kind: str) -> None:
        """Let the jobs of a kind that were set aside be taken, as far as there are tokens for them."""
        with self._lock:
            waiting, bucket = self._limited[kind], self._buckets[kind]
            queue = self._coroutines if self._spec.jobs[kind].is_coroutine else self._plain
            while waiting:
                wait_s = bucket.take()
                if wait_s > 0:
                    self._refill_after(kind, wait_s)
                    break
                ready = heapq.heappop(waiting)
                self._granted.add(ready[1])
                heapq.heappush(queue, ready)
        self._wake()

    # --- running ----------------------------------------------------------------------------------

    def _run_plain(self, run: JobRun) -> None:
        try:
            returned = self._spec.jobs[run.record.kind].function(run, *run.record.arguments)
        except BaseException as error:
            self._close_readers(run)
            self._failed(run, error)
        else:
            self._close_readers(run)
            self._completed(run, returned)

    async def _run_coroutine(self, run: JobRun) -> None:
        try:
            returned = await self._spec.jobs[run.record.kind].function(run, *run.record.arguments)
        except BaseException as error:
            self._close_readers(run)
            self._failed(run, error)
        else:
            self._close_readers(run)
            self._completed(run, returned)

    def _close_readers(self, run: JobRun) -> None:
        if run.close_readers():
            LOG.error(
                "job %d (%s) left a reader open, which holds up every command; it was closed",
                run.id,
                run.record.kind,
            )

    def _completed(self, run: JobRun, returned: Any) -> None:
        """Record the end of a job, with the commands that it ends with."""
        commands = returned.commands if isinstance(returned, Completion) else ()
        submission = self._record(run, state=JobState.COMPLETED, error="", commands=commands)
        if commands and submission is not None:
            # Called by a committer, which must not wait for room in its own queue: another thread goes on.
            submission.add_done_callback(lambda ended: self._completion_ended(run, ended))

    def _completion_ended(self, run: JobRun, submission: Submission[Any]) -> None:
        error = submission.exception()
        if error is not None and not isinstance(error, StoreFailed):
            self._scheduler.at(self._scheduler.now_us(), lambda: self._failed(run, error))

    def _failed(self, run: JobRun, error: BaseException) -> None:
        """Record a failed attempt: to be tried again, given up, or stopped on request."""
        record = run.record
        if self._closing:
            # What was interrupted by the end of the process runs again after the next start.
            return
        text = text_of(error)
        if isinstance(error, JobCancelled):
            self._record(run, state=JobState.CANCELLED, error=text)
            return
        retry = self._spec.jobs[record.kind].retry
        LOG.warning("job %d (%s) failed in attempt %d: %s", record.id, record.kind, run.attempt, text)
        if run.attempt >= retry.attempts_max:
            self._record(run, state=JobState.DISCARDED, error=text)
            return
        due_us = self._scheduler.now_us() + retry.delay(run.attempt) // datetime.resolution
        self._record(run, state=JobState.RETRYABLE, error=text, run_at_us=due_us)

    def _record(
        self,
        run: JobRun,
        *,
        state: JobState,
        error: str,
        run_at_us: int = 0,
        commands: tuple[Command[Any], ...] = (),
    ) -> Submission[Any] | None:
        ended_us = self._scheduler.now_us() if state in FINAL_STATES else 0
        try:
            record = run.ended(state=state, error=error, run_at_us=run_at_us, ended_us=ended_us)
            return self._submit(RecordJob(record, commands), acting_as(record))
        except Exception as refusal:
            # It is still available in the store, and runs again after the next start.
            LOG.error("what became of job %d (%s) is not recorded: %s", run.id, run.record.kind, refusal)
            return None

    # --- cron -------------------------------------------------------------------------------------

    def _schedule_cron(self, job: Job[Any], expression: str) -> None:
        """Create a job at the next time that the expression names; times missed meanwhile are left out."""
        due_us = microseconds(next(CronSim(expression, self._scheduler.now())))

        def tick() -> None:
            # The next time first: whatever this one runs into, the job goes on.
            self._schedule_cron(job, expression)
            self._submit(CreateJobs((JobRequest(job, ()),)), System(f"cron {job.name}"))

        self._scheduler.at(due_us, tick)

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

    def get(self, job_id: int) -> JobRecord:
        """Return a job that has not ended.

        Raises:
            NotFound: there is none with this id, or it ended.
        """
        with self._lock:
            record = self._live.get(job_id)
            if record is None:
                raise NotFound(f"there is no job {job_id} that is still to run")
            executing = job_id in self._running
        return msgspec.structs.replace(record, state=JobState.EXECUTING) if executing else record

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
            self._idle.wait_for(lambda: self._nothing_to_do() or self._closing, timeout)
            return self._nothing_to_do()

    def _nothing_to_do(self) -> bool:
        return self._tally[JobState.AVAILABLE] == 0

    def close(self, wait_s: float) -> None:
        """Start no more jobs and wait for those that run; the others run after the next start."""
        self.begin_closing()
        deadline = monotonic() + wait_s
        for executor in self._executors:
            if not executor.stop(max(0.0, deadline - monotonic())):
                LOG.warning("jobs were still running after %s s; they run again after the next start", wait_s)

    def runs_here(self) -> bool:
        """Return whether the caller runs in a thread of the job manager's, which closing would wait for."""
        return any(executor.runs_here() for executor in self._executors)

    def begin_closing(self) -> None:
        """Start no more jobs."""
        with self._lock:
            self._closing = True
            self._idle.notify_all()

"""Attempts at jobs: calls their functions and records what became of them."""

import logging
import threading
from asyncio import CancelledError
from collections.abc import Callable
from time import monotonic
from typing import Any

import msgspec

from klerk import limits
from klerk._waiting import Submission
from klerk.app import Spec
from klerk.commands import System
from klerk.errors import Closed, JobCancelled, JobCrashed, KlerkError, StoreFailed
from klerk.job_manager.completions import Completions
from klerk.job_manager.observing import Observers
from klerk.job_manager.process_runs import ProcessRuns
from klerk.job_manager.results import encoded_result, with_result
from klerk.job_manager.starts import Starts
from klerk.job_manager.stopped import meant_by, of_stopped
from klerk.job_manager.verdicts import COMPLETED, Verdict, of_error, of_return, text_of
from klerk.job_manager.work import RecordJob, Submit, acting_as, by_manager
from klerk.job_outcomes import Discard, JobOutcome
from klerk.job_run import JobRun
from klerk.jobs import FINAL_STATES, OUTCOME_UNKNOWN, Job, JobRecord, JobState
from klerk.log_events import about_job
from klerk.running_job import RunningJob
from klerk.scheduler import Scheduler
from klerk.texts import storable
from klerk.workers import WorkerProcess

LOG = logging.getLogger("klerk")


class Attempts:
    """Runs jobs that were given out, each in the thread or task of its worker.

    Parameters:
        spec: the declared jobs.
        submit: records what became of them.
        scheduler: gives the time, and a thread for what a committer may not do.
        over: called with the id of a job for which nothing runs any more.

    Attributes:
        observers: who watches.
        is_closing: no more attempts begin.
        is_interrupting: attempts that fail from now on were interrupted, and leave their jobs as they are.
        ending: held while an attempt is declared over, and by whoever asks it to stop before that.
    """

    def __init__(self, spec: Spec, submit: Submit, scheduler: Scheduler, over: Callable[[int], None]) -> None:
        self._jobs = spec.jobs
        self._submit = submit
        self._scheduler = scheduler
        self._over = over
        self._process_runs = ProcessRuns(spec)
        self._completions = Completions(submit, scheduler)
        self._starts = Starts(spec, submit, scheduler)
        self.observers = Observers()
        self.is_closing = self.is_interrupting = False
        self.ending = threading.Lock()

    def run_plain(self, run: RunningJob) -> None:
        """Run a job in the thread that calls this; never raises."""
        self._run(run, self._jobs[run.record.kind].function, JobRun(run), *run.record.arguments)

    def run_in_process(self, run: RunningJob, worker: WorkerProcess) -> None:
        """Run a job in a worker process, which the thread that calls this serves meanwhile; never raises."""
        self._run(run, self._process_runs.call, run, worker)

    def _run(self, run: RunningJob, function: Callable[..., Any], *arguments: Any) -> None:
        if self.observers.all:
            self.observers.started(run)
        if run.record.kind not in self._starts.kinds or self._started(run):
            try:
                returned = function(*arguments)
            except BaseException as error:
                self._close_readers(run)
                self.failed(run, error)
            else:
                self._close_readers(run)
                self._returned(run, returned)
        if self.observers.all:
            self.observers.stopped(run)

    async def run_coroutine(self, run: RunningJob) -> None:
        """Run a job in the task that awaits this; never raises."""
        if self.observers.all:
            self.observers.started(run)
        if run.record.kind not in self._starts.kinds or await self._started_soon(run):
            try:
                returned = await self._jobs[run.record.kind].function(JobRun(run), *run.record.arguments)
            except BaseException as error:
                self._close_readers(run)
                self.failed(run, error)
            else:
                self._close_readers(run)
                self._returned(run, returned)
        if self.observers.all:
            self.observers.stopped(run)

    def _started(self, run: RunningJob) -> bool:
        """Wait until it is durable that a job starts; return whether to call its function now."""
        try:
            self._starts.record(run).result()
        except BaseException as error:
            return self._goes_on(run, error)
        return self._goes_on(run)

    async def _started_soon(self, run: RunningJob) -> bool:
        """Do what `_started` does; others run meanwhile."""
        try:
            await self._starts.record(run)
        except BaseException as error:
            return self._goes_on(run, error)
        return self._goes_on(run)

    def _goes_on(self, run: RunningJob, error: BaseException | None = None) -> bool:
        """Return whether to call the function of a job that starts once.

        Parameters:
            error: why it is not known to be durable that it starts.
        """
        is_cancelled = run.stop is not None or isinstance(run.stopped_by, JobCancelled)
        if error is None and not self.is_closing and not is_cancelled:
            return True
        if not isinstance(error, KlerkError):
            with self.ending:
                # From now on nobody can ask it to stop.
                run.is_over = True
            if run.stop is None and isinstance(run.stopped_by, JobCancelled) and not self.is_interrupting:
                run.stop = JobState.CANCELLED
        if error is None:
            self._starts.take_back(run)
        else:
            self._starts.failed(run, error)
        self._over(run.id)
        if self.observers.all:
            self.observers.ended(run, run.end or run.record, error)
        return False

    def _close_readers(self, run: RunningJob) -> None:
        if run.close_readers():
            LOG.error(
                "job %d (%s) left a reader open, which holds up every command; it was closed",
                run.id,
                run.record.kind,
                extra=self._about("reader_left_open", run),
            )

    def _returned(self, run: RunningJob, returned: Any) -> None:
        """Record what a job's function returned, with the commands that it ends with."""
        if isinstance(returned, JobOutcome):
            self.failed(run, returned)
            return
        verdict = of_return(returned)
        try:
            result = encoded_result(self._jobs[run.record.kind], returned)
        except Exception as error:
            self.failed(run, error)
            return
        outcome = returned if isinstance(returned, BaseException) else None
        submission = self.record(run, verdict, result, outcome)
        if verdict.commands and submission is not None:
            submission.add_done_callback(lambda ended: self._completion_ended(run, ended))

    def _completion_ended(self, run: RunningJob, submission: Submission[Any]) -> None:
        # Called by a committer, which must not wait for room in its own queue: another thread goes on.
        error, record = submission.exception(), submission.work.record
        if error is not None and not isinstance(error, StoreFailed):
            self._scheduler.at(0, lambda: self.failed(run, error))
        elif self.observers.all:
            kept = record if error is None else run.record
            self._scheduler.at(0, lambda: self.observers.ended(run, kept, error))

    def failed(self, run: RunningJob, error: BaseException) -> None:
        """Record a failed attempt: to be tried again, given up, or stopped on request."""
        record, job = run.record, self._jobs[run.record.kind]
        error = meant_by(run, error)
        if self.is_interrupting and not isinstance(error, JobOutcome):
            # What was interrupted by the end of the process runs again after the next start, if it may.
            if record.kind not in self._starts.kinds:
                if self.observers.all:
                    self.observers.ended(run, record, error)
                return
            if isinstance(error, CancelledError | JobCancelled | JobCrashed):
                error = Discard(f"{OUTCOME_UNKNOWN}: closing interrupted it, and it runs at most once")
        try:
            stopped = None if self.is_interrupting else of_stopped(job, run, error)
            verdict = stopped or of_error(job, run.attempt, attempts_max(job, record), error)
        except BaseException as fault:
            # Both have to be told in the space that there is.
            text = text_of(error)[: limits.ERROR_LENGTH_MAX // 2]
            text = f"{text}; its own retry function failed, too: {text_of(fault)}"
            verdict = Verdict(state=JobState.DISCARDED, error=text)
        if verdict.state in (JobState.RETRYABLE, JobState.DISCARDED):
            event = "job_discarded" if verdict.state is JobState.DISCARDED else "attempt_failed"
            reason = storable(verdict.error, limits.ERROR_LENGTH_MAX)
            LOG.warning(
                "job %d (%s) failed in attempt %d: %s",
                record.id,
                record.kind,
                run.attempt,
                reason,
                extra=self._about(event, run, state=str(verdict.state), error=reason),
            )
            if LOG.isEnabledFor(logging.DEBUG):
                # Whatever texts are in it: who looks for faults wants to see it as it is.
                LOG.debug("job %d failed like this", record.id, exc_info=error, extra=self._about(event, run))
        self.record(run, verdict, error=error)

    def record(
        self, run: RunningJob, verdict: Verdict, result: bytes = b"", error: BaseException | None = None
    ) -> Submission[Any] | None:
        """Record the end of an attempt; return the submission of a transaction of its own, if it has one."""
        with self.ending:
            run.is_over = True
        if run.stop is not None and verdict.state is not JobState.COMPLETED:
            verdict = msgspec.structs.replace(verdict, state=run.stop, delay=None)
        now_us = self._scheduler.now_us()
        run_at_us = 0 if verdict.delay is None else now_us + verdict.delay // verdict.delay.resolution
        try:
            record = run.ended(
                state=verdict.state,
                attempt=run.attempt if verdict.counts else run.record.attempt,
                crashes=run.record.crashes + verdict.is_crash,
                error=verdict.error,
                run_at_us=run_at_us,
                ended_us=now_us if verdict.state in FINAL_STATES else 0,
            )
            record = run.end = with_result(self._jobs[record.kind], record, result)
            if not verdict.commands:
                # Not later: the next attempt may have begun by then. What it ends with is still to be done,
                # and may be what the process dies of.
                self._over(run.id)
                if verdict is not COMPLETED or record.log:
                    submission = self._submit(RecordJob(record), by_manager(record))
                else:
                    submission = None
                    self._completions.add(record)
            else:
                actor, behalf = acting_as(self._jobs[record.kind], record)
                work = RecordJob(record, verdict.commands, is_authorized=isinstance(actor, System))
                submission = self._submit(work, actor, behalf)
        except Exception as refusal:
            if verdict.commands and not isinstance(refusal, StoreFailed | Closed):
                self.failed(run, refusal)
                return None
            self._unrecorded(run, refusal)
            return None
        if self.observers.all and not verdict.commands:
            self.observers.ended(run, record, error)
        return submission

    def _unrecorded(self, run: RunningJob, refusal: Exception) -> None:
        """Tell that what became of a job cannot be recorded; it runs again after the next start."""
        # Otherwise it ended after closing had given it up.
        if not self.is_interrupting:
            LOG.error(
                "what became of job %d (%s) is not recorded: %s",
                run.id,
                run.record.kind,
                refusal,
                extra=self._about("attempt_unrecorded", run),
            )
            self._over(run.id)
        if self.observers.all:
            self.observers.ended(run, run.record, refusal)

    def _about(self, event: str, run: RunningJob, **fields: object) -> dict[str, object]:
        """Return the fields of a log record about an attempt."""
        duration_s = monotonic() - run.begun_s
        return about_job(event, run.record, run.queue, duration_s=duration_s, **fields)


def attempts_max(job: Job[Any], record: JobRecord) -> int:
    """Return after how many failures a job is given up."""
    if job.settings.at_most_once:
        return 1
    return record.attempts_max or job.settings.max_attempts

"""Attempts at jobs: calls their functions and records what became of them."""

import logging
import threading
from asyncio import CancelledError
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import msgspec

from klerk import limits
from klerk._waiting import Submission
from klerk.app import Spec
from klerk.commands import System
from klerk.errors import Closed, JobCancelled, JobCrashed, StoreFailed
from klerk.job_failures import JobFailure, listed_with
from klerk.job_manager.completions import MANAGER
from klerk.job_manager.failing import failure_of, has_failed
from klerk.job_manager.observing import Observers
from klerk.job_manager.process_runs import ProcessRuns
from klerk.job_manager.recording import Recording
from klerk.job_manager.results import encoded_result, with_result
from klerk.job_manager.starts import Starts
from klerk.job_manager.stopped import meant_by, of_stopped
from klerk.job_manager.tracebacks import following
from klerk.job_manager.undone import require_done
from klerk.job_manager.verdicts import COMPLETED, Verdict, attempts_max, of_error, of_return, text_of
from klerk.job_manager.work import KeepTold, RecordJob, Submit, acting_as
from klerk.job_outcomes import Discard, JobOutcome
from klerk.job_run import JobRun
from klerk.jobs import FINAL_STATES, OUTCOME_UNKNOWN, JobState
from klerk.log_events import about, about_job
from klerk.running_job import RunningJob
from klerk.scheduler import Scheduler
from klerk.workers import WorkerProcess

LOG = logging.getLogger("klerk")


class Attempts:
    """Runs jobs that were given out, each in the thread or task of its worker.

    Parameters:
        spec: the declared jobs.
        submit: records what became of them.
        scheduler: gives the time, and a thread for what a committer may not do.
        over: called with the id of a job for which nothing runs any more.
        changed: told when what became of a job could not be recorded.

    Attributes:
        observers: who watches.
        is_closing: no more attempts begin.
        is_interrupting: attempts that fail from now on were interrupted, and leave their jobs as they are.
        ending: held while an attempt is declared over, and by whoever asks it to stop before that.
    """

    def __init__(
        self,
        spec: Spec,
        submit: Submit,
        scheduler: Scheduler,
        over: Callable[[int], None],
        changed: threading.Condition,
    ) -> None:
        self._jobs = spec.jobs
        self._submit = submit
        self._scheduler = scheduler
        self._over = over
        self._process_runs = ProcessRuns(spec)
        self._recording = Recording(submit, scheduler, changed)
        self._completions = self._recording.completions
        self._starts = Starts(spec, submit, scheduler, self._recording)
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
        if not isinstance(error, Closed | StoreFailed):
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
            require_done(run.job, run.completion, returned)
            result = encoded_result(run.job, returned)
        except Exception as error:
            self._failed(run, error)
            return
        submission = self.record(run, verdict, result)
        if verdict.commands and submission is not None:
            submission.add_done_callback(lambda ended: self._completion_ended(run, ended))

    def _completion_ended(self, run: RunningJob, submission: Submission[Any]) -> None:
        # Called by a committer, which must not wait for room in its own queue: another thread goes on.
        error, record = submission.exception(), submission.work.record
        if error is not None and not isinstance(error, Closed | StoreFailed):
            self._recording.later(lambda: self._failed(run, error))
            return
        if error is not None:
            self._recording.give_up()
        if self.observers.all:
            kept = record if error is None else run.record
            self._recording.later(lambda: self.observers.ended(run, kept, error))

    def failed(self, run: RunningJob, error: BaseException) -> None:
        """Record what a job's function raised, or the outcome that it returned, unless it was interrupted."""
        error = meant_by(run, error)
        # One that waited for another job is refused to go on as soon as closing begins.
        is_interrupted = self.is_interrupting or (self.is_closing and isinstance(error, Closed))
        if is_interrupted and not isinstance(error, JobOutcome):
            # What was interrupted by the end of the process runs again after the next start, if it may.
            if run.record.kind not in self._starts.kinds:
                self._over(run.id)
                if self.observers.all:
                    self.observers.ended(run, run.record, error)
                return
            if isinstance(error, CancelledError | JobCancelled | JobCrashed | Closed):
                error = Discard(f"{OUTCOME_UNKNOWN}: closing interrupted it, and it runs at most once")
        self._failed(run, error)

    def _failed(self, run: RunningJob, error: BaseException) -> None:
        """Record an attempt that failed by itself, also while Klerk closes: to be tried again, given up, or
        stopped on request."""
        record, job = run.record, self._jobs[run.record.kind]
        shown = error
        try:
            stopped = None if self.is_interrupting else of_stopped(job, run, error)
            verdict = stopped or of_error(job, run.attempt, attempts_max(job, record), error)
        except BaseException as fault:
            # Both have to be told in the space that there is.
            text = text_of(error)[: limits.ERROR_LENGTH_MAX // 2]
            text = f"{text}; its own retry function failed, too: {text_of(fault)}"
            verdict = Verdict(state=JobState.DISCARDED, error=text)
            shown = following(fault, error)
        failure = None
        if has_failed(verdict):
            event = "job_discarded" if verdict.state is JobState.DISCARDED else "attempt_failed"
            told = self._about(event, run)
            failure = failure_of(run, verdict, shown, self._scheduler.now_us(), told)
        self.record(run, verdict, error=error, failure=failure)

    def record(
        self,
        run: RunningJob,
        verdict: Verdict,
        result: bytes = b"",
        error: BaseException | None = None,
        failure: JobFailure | None = None,
    ) -> Submission[Any] | None:
        """Record the end of an attempt; return the submission of the commands that it ends with, if any.

        Parameters:
            result: that is kept.
            error: for those who watch.
            failure: to be listed.
        """
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
            if failure is not None:
                record = msgspec.structs.replace(record, errors=listed_with(record.errors, failure))
            record = run.end = with_result(self._jobs[record.kind], record, result)
            submission = None
            if not verdict.commands:
                # Not later: the next attempt may have begun by then. What it ends with is still to be done,
                # and may be what the process dies of.
                self._over(run.id)
                if verdict is not COMPLETED or record.log:
                    self._recording.record(run, record)
                else:
                    self._completions.add(record)
            else:
                actor, behalf = acting_as(self._jobs[record.kind], record)
                work = RecordJob(record, verdict.commands, is_authorized=isinstance(actor, System))
                submission = self._submit(work, actor, behalf)
        except (StoreFailed, Closed) as refusal:
            self._unrecorded(run, refusal)
            return None
        except BaseException as refusal:
            # Mostly, the context for its commands could not be had.
            if verdict.commands:
                self._failed(run, refusal)
            else:
                self._unrecorded(run, refusal)
            return None
        if self.observers.all and not verdict.commands:
            self.observers.ended(run, record, error)
        return submission

    def _unrecorded(self, run: RunningJob, refusal: BaseException) -> None:
        """Tell that what became of a job cannot be recorded any more; it runs again after the next start."""
        # Otherwise it ended after closing had given it up.
        if not self.is_interrupting:
            LOG.error(
                "what became of job %d (%s) is not recorded: %s",
                run.id,
                run.record.kind,
                text_of(refusal),
                extra=self._about("attempt_unrecorded", run),
            )
            self._over(run.id)
        if self.observers.all:
            self.observers.ended(run, run.record, refusal)

    def settle(self, running: Mapping[int, RunningJob]) -> None:
        """As Klerk closes, and no attempt is waited for any more: see to it that the ends of those that are
        over are recorded, and keep what the others told of themselves.

        Parameters:
            running: the attempts whose ends are not published, by the ids of their jobs.
        """
        self._recording.settle(running)
        told = [run for run in list(running.values()) if not run.is_over and run.tells_more]
        if not told:
            return
        try:
            submission = self._submit(KeepTold(told), MANAGER)
        except BaseException as error:
            self._untold(error)
        else:
            submission.add_done_callback(lambda ended: self._untold(ended.exception()))

    def _untold(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, Closed | StoreFailed):
            LOG.error(
                "what interrupted jobs told of themselves is not kept: %s",
                text_of(error),
                extra=about("job_unrecorded"),
            )

    def _about(self, event: str, run: RunningJob, **fields: object) -> dict[str, object]:
        """Return the fields of a log record about an attempt."""
        duration_s = monotonic() - run.begun_s
        return about_job(event, run.record, run.queue, duration_s=duration_s, **fields)

"""Attempts at jobs: calls their functions and records what became of them."""

import logging
from typing import Any, Protocol

from klerk import limits
from klerk._waiting import Submission
from klerk.app import Spec
from klerk.commands import Actor, System
from klerk.errors import StoreFailed
from klerk.job_manager.completions import Completions
from klerk.job_manager.results import encoded_result, with_result
from klerk.job_manager.verdicts import COMPLETED, Verdict, of_error, of_return, text_of
from klerk.job_manager.work import RecordJob, acting_as, by_manager
from klerk.job_outcomes import JobOutcome
from klerk.job_run import JobRun, storable
from klerk.jobs import FINAL_STATES, Job, JobRecord, JobState
from klerk.scheduler import Scheduler

LOG = logging.getLogger("klerk")


class Submit(Protocol):
    """Puts the transaction of a job into the queue."""

    def __call__(self, work: Any, actor: Actor, behalf: System | None = None) -> Submission[Any]: ...


class Attempts:
    """Runs jobs that were given out, each in the thread or task of its worker.

    Parameters:
        spec: the declared jobs.
        submit: records what became of them.
        scheduler: gives the time, and a thread for what a committer may not do.

    Attributes:
        is_closing: attempts that fail from now on were interrupted, and leave their jobs as they are.
    """

    def __init__(self, spec: Spec, submit: Submit, scheduler: Scheduler) -> None:
        self._jobs = spec.jobs
        self._submit = submit
        self._scheduler = scheduler
        self._completions = Completions(submit)
        self.is_closing = False

    def run_plain(self, run: JobRun) -> None:
        """Run a job in the thread that calls this; never raises."""
        try:
            returned = self._jobs[run.record.kind].function(run, *run.record.arguments)
        except BaseException as error:
            self._close_readers(run)
            self.failed(run, error)
        else:
            self._close_readers(run)
            self._returned(run, returned)

    async def run_coroutine(self, run: JobRun) -> None:
        """Run a job in the task that awaits this; never raises."""
        try:
            returned = await self._jobs[run.record.kind].function(run, *run.record.arguments)
        except BaseException as error:
            self._close_readers(run)
            self.failed(run, error)
        else:
            self._close_readers(run)
            self._returned(run, returned)

    def _close_readers(self, run: JobRun) -> None:
        if run.close_readers():
            LOG.error(
                "job %d (%s) left a reader open, which holds up every command; it was closed",
                run.id,
                run.record.kind,
            )

    def _returned(self, run: JobRun, returned: Any) -> None:
        """Record what a job's function returned, with the commands that it ends with."""
        job = self._jobs[run.record.kind]
        try:
            verdict = of_return(job, run.attempt, attempts_max(job, run.record), returned)
            result = encoded_result(job, verdict.value)
        except Exception as error:
            self.failed(run, error)
            return
        submission = self.record(run, verdict, result)
        if verdict.commands and submission is not None:
            # Called by a committer, which must not wait for room in its own queue: another thread goes on.
            submission.add_done_callback(lambda ended: self._completion_ended(run, ended))

    def _completion_ended(self, run: JobRun, submission: Submission[Any]) -> None:
        error = submission.exception()
        if error is not None and not isinstance(error, StoreFailed):
            self._scheduler.at(self._scheduler.now_us(), lambda: self.failed(run, error))

    def failed(self, run: JobRun, error: BaseException) -> None:
        """Record a failed attempt: to be tried again, given up, or stopped on request."""
        if self.is_closing and not isinstance(error, JobOutcome):
            # What was interrupted by the end of the process runs again after the next start.
            return
        record, job = run.record, self._jobs[run.record.kind]
        try:
            verdict = of_error(job, run.attempt, attempts_max(job, record), error)
        except BaseException as fault:
            # Both have to be told in the space that there is.
            text = text_of(error)[: limits.ERROR_LENGTH_MAX // 2]
            text = f"{text}; its own retry function failed, too: {text_of(fault)}"
            verdict = Verdict(state=JobState.DISCARDED, error=text)
        if verdict.state in (JobState.RETRYABLE, JobState.DISCARDED):
            reason = storable(verdict.error, limits.ERROR_LENGTH_MAX)
            LOG.warning("job %d (%s) failed in attempt %d: %s", record.id, record.kind, run.attempt, reason)
        self.record(run, verdict)

    def record(self, run: JobRun, verdict: Verdict, result: bytes = b"") -> Submission[Any] | None:
        """Record the end of an attempt; return the submission of a transaction of its own, if it has one."""
        now_us = self._scheduler.now_us()
        run_at_us = 0 if verdict.delay is None else now_us + verdict.delay // verdict.delay.resolution
        run.is_over = True
        try:
            record = run.ended(
                state=verdict.state,
                attempt=run.attempt if verdict.counts else run.record.attempt,
                error=verdict.error,
                run_at_us=run_at_us,
                ended_us=now_us if verdict.state in FINAL_STATES else 0,
            )
            record = with_result(self._jobs[record.kind], record, result)
            if verdict is COMPLETED and not record.log:
                self._completions.add(record)
                return None
            if not verdict.commands:
                return self._submit(RecordJob(record), by_manager(record))
            actor, behalf = acting_as(self._jobs[record.kind], record)
            work = RecordJob(record, verdict.commands, is_authorized=isinstance(actor, System))
            return self._submit(work, actor, behalf)
        except Exception as refusal:
            if verdict.commands:
                self.failed(run, refusal)
                return None
            # It is still available in the store, and runs again after the next start.
            LOG.error("what became of job %d (%s) is not recorded: %s", run.id, run.record.kind, refusal)
            return None


def attempts_max(job: Job[Any], record: JobRecord) -> int:
    """Return after how many failures a job is given up."""
    return record.attempts_max or job.settings.max_attempts

"""What is told of an attempt that failed: to the log at once, and to those who look at the job later."""

import logging

from klerk import limits
from klerk.errors import JobCrashed, JobTimeout
from klerk.job_failures import JobFailure
from klerk.job_manager.tracebacks import NOWHERE, Trace, trace_of
from klerk.job_manager.verdicts import Verdict
from klerk.job_outcomes import JobOutcome
from klerk.jobs import JobState
from klerk.running_job import RunningJob
from klerk.texts import storable

LOG = logging.getLogger("klerk")


def has_failed(verdict: Verdict) -> bool:
    """Return whether an attempt counts as failed: one after which a job is snoozed or cancelled does not."""
    return verdict.state is JobState.RETRYABLE or verdict.state is JobState.DISCARDED


def failure_of(
    run: RunningJob, verdict: Verdict, error: BaseException, now_us: int, told: dict[str, object]
) -> JobFailure:
    """Log that an attempt failed, and return what is kept of it with the job.

    Parameters:
        verdict: what becomes of the job.
        error: with which the attempt ended.
        now_us: the time, in microseconds.
        told: the fields of the log record.
    """
    has_trace = not isinstance(error, JobOutcome) and not _is_killed(error)
    trace = trace_of(error, run.job.function.__module__) if has_trace else NOWHERE
    reason = storable(verdict.error, limits.ERROR_LENGTH_MAX)
    told = {**told, "state": str(verdict.state), "error": reason, "where": trace.where}
    text = f"{reason} ({trace.where})" if trace.where else reason
    failed = run.id, run.record.kind, run.attempt, text
    if verdict.state is JobState.DISCARDED:
        _tell_all("job %d (%s) failed in attempt %d: %s; it is discarded", failed, error, trace, told)
    else:
        LOG.warning("job %d (%s) failed in attempt %d: %s", *failed, extra=told)
        if trace.is_printable and LOG.isEnabledFor(logging.DEBUG):
            LOG.debug("job %d failed like this", run.id, exc_info=error, extra=told)
    return JobFailure(attempt=run.attempt, at_us=now_us, error=reason, traceback=trace.text)


def _is_killed(error: BaseException) -> bool:
    """Return whether a process died, perhaps since it was told to stop: then its function raised nothing, and
    what Klerk found out by is no news."""
    return isinstance(error, JobCrashed) or (
        isinstance(error, JobTimeout) and isinstance(error.__cause__, JobCrashed)
    )


def _tell_all(
    text: str, values: tuple[object, ...], error: BaseException, trace: Trace, told: dict[str, object]
) -> None:
    """Log that a job is given up, with the whole traceback of the error, if it has one."""
    if not trace.text:
        LOG.error(text, *values, extra=told)
    elif trace.is_printable:
        LOG.error(text, *values, exc_info=error, extra=told)
    else:
        # A handler that cannot write what is in it would write nothing.
        LOG.error(f"{text}\n%s", *values, trace.text, extra=told)

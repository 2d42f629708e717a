"""What becomes of a job whose attempt did not end by itself: it was asked to stop, or its process died."""

from asyncio import CancelledError
from typing import Any

from klerk.errors import JobCancelled, JobCrashed
from klerk.job_manager.verdicts import Verdict, text_of
from klerk.job_options import Backoff
from klerk.jobs import Job, JobState
from klerk.running_job import RunningJob


def meant_by(run: RunningJob, error: BaseException) -> BaseException:
    """Return what an attempt ended with: why it was stopped, where the error is only how that came about."""
    if run.stopped_by is not None and isinstance(error, CancelledError | JobCrashed | SystemExit):
        if run.stopped_by.__cause__ is None:
            # It knows where the function was at that moment.
            run.stopped_by.__cause__ = error
        return run.stopped_by
    return error


def of_stopped(job: Job[Any], run: RunningJob, error: BaseException) -> Verdict | None:
    """Return what becomes of a job that was cancelled or whose process died; None for anything else.

    Parameters:
        error: as `meant_by` gives it.
    """
    if isinstance(run.stopped_by, JobCancelled):
        # However badly it took that: nobody wants it to be run again.
        return Verdict(state=JobState.CANCELLED, error=text_of(error))
    if not isinstance(error, JobCrashed):
        return None
    crashes, text = run.record.crashes + 1, text_of(error)
    if job.settings.at_most_once:
        text = f"outcome unknown: {text}, and it runs at most once"
        return Verdict(state=JobState.DISCARDED, error=text, counts=False, is_crash=True)
    if crashes >= job.settings.max_crashes:
        text = f"{text}; as often as that ({crashes}) is taken for poison"
        return Verdict(state=JobState.DISCARDED, error=text, counts=False, is_crash=True)
    delay = Backoff()(crashes, error)
    return Verdict(state=JobState.RETRYABLE, error=text, delay=delay, counts=False, is_crash=True)

"""What becomes of a job after an attempt, by what its function returned or raised; without any effect."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec

from klerk import limits
from klerk._dispatch import described
from klerk.commands import Command
from klerk.errors import FunctionFailed, JobCancelled
from klerk.job_failures import UnsentError, class_name
from klerk.job_outcomes import Cancel, Completion, Discard, JobOutcome, Retry, Snooze
from klerk.jobs import Job, JobRecord, JobState
from klerk.texts import storable

_LONGEST: Final = timedelta(days=limits.JOB_DELAY_DAYS_MAX)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a job.

    Parameters:
        state: to come.
        error: why, unless all went well.
        delay: until it is run again; None: it has ended.
        counts: the attempt is used up.
        is_crash: the process that ran it died.
        commands: what it ends with.
        value: what it returned.
    """

    state: JobState
    error: str = ""
    delay: timedelta | None = None
    counts: bool = True
    is_crash: bool = False
    commands: tuple[Command[Any], ...] = ()
    value: Any = None


COMPLETED = Verdict(state=JobState.COMPLETED)


def of_return(returned: Any) -> Verdict:
    """Return what becomes of a job whose function returned anything but an outcome."""
    if returned is None:
        return COMPLETED
    if isinstance(returned, Completion):
        return Verdict(state=JobState.COMPLETED, commands=returned.commands)
    return Verdict(state=JobState.COMPLETED, value=returned)


def of_error(job: Job[Any], attempt: int, attempts_max: int, error: BaseException) -> Verdict:
    """Return what becomes of a job whose function raised, or returned an outcome.

    Parameters:
        attempt: counted from 1.
        attempts_max: after which a failed job is given up.

    Raises:
        FunctionFailed: the job's retry function returned something that it may not. What that function raises
            goes through.
    """
    outcome: BaseException = error
    text = text_of(error)
    if not isinstance(error, JobOutcome) and (meant := _outcome_of(job.settings.on_error, error)):
        outcome = meant
        text = f"{meant.reason}: {text}" if meant.reason else text
    if job.settings.at_most_once and isinstance(outcome, Snooze | Retry):
        return Verdict(state=JobState.DISCARDED, error=f"it runs at most once: {text}")
    if isinstance(outcome, Snooze):
        return Verdict(state=JobState.SCHEDULED, error=text, delay=outcome.after, counts=False)
    if isinstance(outcome, Cancel | JobCancelled):
        return Verdict(state=JobState.CANCELLED, error=text)
    if isinstance(outcome, Discard) or attempt >= attempts_max:
        return Verdict(state=JobState.DISCARDED, error=text)
    if isinstance(outcome, Retry) and outcome.after is not None:
        return Verdict(state=JobState.RETRYABLE, error=text, delay=outcome.after)
    return _again(job, attempt, error, text)


def _again(job: Job[Any], attempt: int, error: BaseException, text: str) -> Verdict:
    """Return that a failed job is run again when its own function for that says.

    Raises:
        FunctionFailed: that says something else.
    """
    retry = job.settings.retry
    delay: Any = retry(attempt, error)
    if delay is None:
        return Verdict(state=JobState.DISCARDED, error=text)
    if not isinstance(delay, timedelta):
        raise FunctionFailed(f"{described(retry)} returned {delay!r}, expected a timedelta or None")
    # What is worked out from other times may come out in the past, or beyond all dates.
    return Verdict(state=JobState.RETRYABLE, error=text, delay=max(timedelta(0), min(delay, _LONGEST)))


def _outcome_of(on_error: Mapping[type[Exception], JobOutcome], error: BaseException) -> JobOutcome | None:
    """Return what the nearest class of an error was declared to mean; None when nothing was."""
    if isinstance(error, UnsentError):
        by_name = {class_name(cls): outcome for cls, outcome in on_error.items()}
        for name in error.names:
            if name in by_name:
                return by_name[name]
    for each in type(error).__mro__:
        if each in on_error:
            return on_error[each]
    return None


def attempts_max(job: Job[Any], record: JobRecord) -> int:
    """Return after how many failures a job is given up."""
    if job.settings.at_most_once:
        return 1
    return record.attempts_max or job.settings.max_attempts


def text_of(error: BaseException) -> str:
    """Return an error's type and text as they can be stored and logged, even when its own text fails."""
    name = type(error).__name__
    try:
        told = str(error)
    except BaseException:
        told = ""
    text = told if isinstance(error, JobOutcome | UnsentError) else f"{name}: {told}".removesuffix(": ")
    return storable(text, limits.ERROR_LENGTH_MAX)

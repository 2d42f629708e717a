"""What an action makes of a job, by the state that it is in; without any effect."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from klerk import limits
from klerk._dispatch import microseconds
from klerk.authorization import JobAction
from klerk.errors import ArgumentError, WrongState
from klerk.job_manager.batches import is_held
from klerk.job_manager.dependencies import is_following
from klerk.job_names import require_queue
from klerk.jobs import FINAL_STATES, Job, JobRecord, JobRequest, JobState
from klerk.moments import require_moment_in_utc
from klerk.texts import storable

_WAITING: Final = frozenset({JobState.SCHEDULED, JobState.AVAILABLE, JobState.RETRYABLE, JobState.SUSPENDED})

WORKS_IN: Final[Mapping[JobAction, frozenset[JobState]]] = {
    "cancel": _WAITING | {JobState.EXECUTING},
    "discard": _WAITING | {JobState.EXECUTING},
    "retry": FINAL_STATES | {JobState.SCHEDULED, JobState.RETRYABLE, JobState.SUSPENDED},
    "run_now": frozenset({JobState.SCHEDULED, JobState.RETRYABLE}),
    "edit": _WAITING,
    "rerun": FINAL_STATES,
}

STOPS_AS: Final[Mapping[JobAction, JobState]] = {
    "cancel": JobState.CANCELLED,
    "discard": JobState.DISCARDED,
}
"""What a job becomes by the actions that end it."""

RETRIED_ALL: Final = (JobState.RETRYABLE, JobState.DISCARDED)
"""Which jobs are retried when many are, and no states are named: those that failed."""

_DONE: Final[Mapping[JobAction, str]] = {
    "cancel": "cancelled",
    "discard": "discarded",
    "retry": "retried",
    "run_now": "run now",
    "edit": "edited",
    "rerun": "run again",
}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is changed of a job; None stays as it is.

    Parameters:
        arguments: those of a request, or some of them by name.
        priority, queue, max_attempts: in place of what is declared.
        run_at: not before.
    """

    arguments: JobRequest | Mapping[str, Any] | None = None
    priority: int | None = None
    queue: str | None = None
    run_at: datetime | None = None
    max_attempts: int | None = None


NO_CHANGE: Final = Change()


def checked_change(change: Change, queues: Collection[str]) -> Change:
    """Return a change of options that can be meant.

    Parameters:
        queues: those of the app.

    Raises:
        ArgumentError: one of them cannot.
    """
    _check_number("priority", change.priority, -limits.JOB_PRIORITY_MAX, limits.JOB_PRIORITY_MAX)
    _check_number("max_attempts", change.max_attempts, 1, limits.JOB_ATTEMPTS_LIMIT)
    if change.queue is not None:
        require_queue(change.queue, queues)
    if change.run_at is not None:
        # It stands in the commit log as a time in UTC.
        require_moment_in_utc("a job cannot run at", change.run_at)
    arguments: object = change.arguments
    if arguments is not None and not isinstance(arguments, JobRequest | Mapping):
        raise ArgumentError(
            f"expected arguments as a request or a dict, got {type(arguments).__name__}",
            hint="Call the job to make a request, or name what changes: {'text': 'new'}.",
        )
    return change


def _check_number(name: str, value: object, low: int, high: int) -> None:
    if value is not None and (type(value) is not int or not low <= value <= high):
        raise ArgumentError(f"{name} must be {low} to {high}, is {value!r}")


def way_out(record: JobRecord, *, is_declared: bool) -> str:
    """Return what can be done about a job whose arguments do not fit its kind.

    Parameters:
        is_declared: there is a job of its kind.
    """
    if record.state in FINAL_STATES:
        return "run it again with arguments that fit: rerun" if is_declared else "declare its kind again"
    mended = "edit its arguments" if is_declared else "declare its kind again"
    return f"{mended}, or cancel or discard it"


def require_works(action: JobAction, record: JobRecord, state: JobState, *, is_declared: bool) -> None:
    """Refuse an action that does not work in a state.

    Parameters:
        is_declared: there is a job of its kind.

    Raises:
        WrongState: it does not; the hint says what does.
    """
    if state in WORKS_IN[action]:
        return
    if state is JobState.SUSPENDED:
        raise WrongState(
            f"job {record.id} ({record.kind}) is {state} and cannot be {_DONE[action]}: {record.error}",
            hint=f"What works for it: {way_out(record, is_declared=is_declared)}.",
        )
    others = [each.replace("_", " ") for each, states in WORKS_IN.items() if state in states]
    raise WrongState(
        f"job {record.id} ({record.kind}) is {state} and cannot be {_DONE[action]}",
        hint=f"What works for it: {', '.join(others)}." if others else "",
    )


def requested(job: Job[Any], record: JobRecord, arguments: JobRequest | Mapping[str, Any]) -> JobRequest:
    """Return a request with the arguments that a job is to have, not yet checked against their types.

    Raises:
        ArgumentError: they are of another job, or there is none of that name.
    """
    if isinstance(arguments, JobRequest):
        if arguments.job is not job:
            raise ArgumentError(
                f"job {record.id} is a {record.kind}, and the request is for {arguments.job}",
                hint="The kind of a job stays as it is; schedule a new job instead.",
            )
        return arguments
    names = [parameter.name for parameter in job.parameters]
    for name in arguments:
        if name not in names:
            known = f"It has: {', '.join(names) or 'none'}."
            raise ArgumentError(f"{record.kind} has no parameter '{name}'", hint=known)
    if len(names) != len(record.arguments):
        # It was stored with other parameters; those that are not named have no value.
        return job(**arguments)
    values = zip(names, record.arguments, strict=True)
    return job.request(tuple(arguments.get(name, value) for name, value in values))


def ended(record: JobRecord, state: JobState, by: str, now_us: int) -> JobRecord:
    """Return a job that waited as cancelled or discarded."""
    reason = f"{state} by {by}"
    return msgspec.structs.replace(
        record,
        state=state,
        ended_us=now_us,
        run_at_us=0,
        error=storable(
            f"{reason} after: {record.error}" if record.error else reason, limits.ERROR_LENGTH_MAX
        ),
        stop="",
    )


def ready(record: JobRecord) -> JobRecord:
    """Return a job that waited for a time, or for others, as ready."""
    return msgspec.structs.replace(
        record, state=JobState.AVAILABLE, run_at_us=0, freed=record.freed or _waits_for_others(record)
    )


def _waits_for_others(record: JobRecord) -> bool:
    return is_following(record) or is_held(record)


def fresh(record: JobRecord, *, anew: bool) -> JobRecord:
    """Return a job as ready, with all of its attempts before it; one that was suspended waits for others
    still.

    Parameters:
        anew: one that had ended begins from nothing: what it saved, wrote and returned is gone, and what it
            did may be done again. Otherwise it goes on, unless it had completed.
    """
    record = msgspec.structs.replace(record, attempt=0, crashes=0)
    if record.state is JobState.SUSPENDED:
        record = msgspec.structs.replace(record, error="")
        if _waits_for_others(record):
            # The job manager lets it run at once if there is nothing to wait for any more.
            return msgspec.structs.replace(record, state=JobState.SCHEDULED, run_at_us=0)
    record = ready(record)
    if not record.ended_us:
        return record
    again = msgspec.structs.replace(record, ended_us=0, started_us=0, reruns=record.reruns + 1, error="")
    if not anew:
        return again
    return msgspec.structs.replace(
        again,
        renewals=record.renewals + 1,
        log=(),
        done=0,
        total=0,
        checkpoint=b"",
        result=b"",
        result_until_us=0,
        errors=(),
    )


def edited(record: JobRecord, change: Change, now_us: int) -> JobRecord:
    """Return a job with other options. One that was suspended and has new arguments is so no longer."""
    run_at_us = record.run_at_us if change.run_at is None else microseconds(change.run_at)
    state, error, freed = record.state, record.error, record.freed
    if state is JobState.SUSPENDED and change.arguments is not None:
        # The job manager lets it run at once if there is nothing to wait for.
        state, error = JobState.SCHEDULED, ""
    elif state is JobState.AVAILABLE and run_at_us > now_us:
        # What it waited for has ended, or somebody let it run by hand.
        state, freed = JobState.SCHEDULED, bool(record.follows or record.role)
    return msgspec.structs.replace(
        record,
        state=state,
        error=error,
        freed=freed,
        run_at_us=run_at_us,
        queue=record.queue if change.queue is None else change.queue,
        priority=record.priority if change.priority is None else change.priority,
        attempts_max=record.attempts_max if change.max_attempts is None else change.max_attempts,
    )

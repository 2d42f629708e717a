"""How a job's function may end besides returning or failing: `Snooze`, `Cancel`, `Discard`, `Retry`.

Each can be returned or raised, and stand in a job's `on_error` as what an exception means.
"""

from datetime import timedelta
from typing import Any, Final

import msgspec

from klerk import limits
from klerk._dispatch import Command
from klerk.errors import ArgumentError

__all__ = ["OUTCOMES", "Cancel", "Completion", "Discard", "JobOutcome", "Retry", "Snooze"]


class Completion(msgspec.Struct, frozen=True):
    """What a job function returns to end with commands; made by `JobRun.complete_with`."""

    commands: tuple[Command[Any], ...]


SEVERAL: Final = Completion(())
"""Stands for those of an attempt that made more than one: whichever it returns, the commands of another are
lost."""


class JobOutcome(Exception):
    """What a job's function says shall become of the job."""

    reason: str


def _checked(after: timedelta, what: str) -> timedelta:
    given: object = after
    longest = timedelta(days=limits.JOB_DELAY_DAYS_MAX)
    if isinstance(given, timedelta) and timedelta(0) <= given <= longest:
        return given
    raise ArgumentError(
        f"{what} takes a timedelta of 0 up to {limits.JOB_DELAY_DAYS_MAX} days, got {after!r}",
        hint=f"Write {what}(timedelta(minutes=5)).",
    )


class Snooze(JobOutcome):
    """Run the job again later; the attempt does not count.

    Parameters:
        after: not before so much time is over.
        reason: kept with the job.
    """

    def __init__(self, after: timedelta, reason: str = "") -> None:
        super().__init__(after, reason)
        self.after = _checked(after, "Snooze")
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or f"snoozed for {self.after}"


class Retry(JobOutcome):
    """The attempt failed; try again, if attempts are left.

    Parameters:
        after: not before so much time is over; None: as the job's backoff says.
        reason: kept with the job as its error.
    """

    def __init__(self, after: timedelta | None = None, reason: str = "") -> None:
        super().__init__(after, reason)
        self.after = None if after is None else _checked(after, "Retry")
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "asked to be tried again"


class Cancel(JobOutcome):
    """The job is not needed any more: it ends as cancelled.

    Parameters:
        reason: kept with the job as its error.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "cancelled by itself"


class Discard(JobOutcome):
    """The job can never succeed: it ends as discarded, however many attempts are left.

    Parameters:
        reason: kept with the job as its error.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason or "discarded by itself"


OUTCOMES: Final = (Snooze, Retry, Cancel, Discard)

"""Moments and waits as callers give them: what cannot be meant is refused before anything is done."""

from datetime import UTC, datetime, timedelta
from threading import TIMEOUT_MAX
from typing import Any

from klerk.errors import ArgumentError

__all__ = ["require_moment", "require_moment_in_utc", "require_timeout"]


def require_moment(what: str, given: Any) -> None:
    """Refuse what is no moment: anything but an aware datetime.

    Parameters:
        what: is given, as the error begins, for instance "a job cannot run at".

    Raises:
        ArgumentError: it is none.
    """
    if isinstance(given, timedelta):
        raise ArgumentError(
            f"{what} {given!r}, which is a delay and no moment",
            hint="Add it to one: datetime.now(UTC) + timedelta(hours=1). For delays, there is request.after.",
        )
    if not isinstance(given, datetime) or given.utcoffset() is None:
        raise ArgumentError(
            f"{what} {given!r}, which is no datetime with a time zone",
            hint="Use an aware datetime: datetime.now(UTC).",
        )


def require_moment_in_utc(what: str, given: Any) -> None:
    """Refuse what `require_moment` does, and moments so far away that UTC has no date for them.

    Raises:
        ArgumentError: it is none.
    """
    require_moment(what, given)
    try:
        given.astimezone(UTC)
    except OverflowError:
        raise ArgumentError(f"{what} {given!r}, which is outside of the years 1 to 9999 in UTC") from None


def require_timeout(given: Any) -> None:
    """Refuse what is no time to wait: anything but None or seconds, 0 or more.

    Raises:
        ArgumentError: it is none.
    """
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if given is None or (is_number and 0 <= given <= TIMEOUT_MAX):
        return
    hint = "None waits for as long as it takes."
    if isinstance(given, timedelta):
        hint = f"Give the seconds: {given.total_seconds():g}."
    raise ArgumentError(f"a timeout is a number of seconds, 0 or more, got {given!r}", hint=hint)

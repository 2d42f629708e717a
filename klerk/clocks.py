"""The clock that a Klerk is opened with, checked: a bad one is named, and stops nothing for good."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from klerk._dispatch import described
from klerk.errors import ConfigError, FunctionFailed
from klerk.places import here


class CheckedClock:
    """A clock whose every answer is a moment in UTC, or a typed error.

    Parameters:
        clock: gives the time, aware.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock

    def __call__(self) -> datetime:
        """Return the time, in UTC.

        Raises:
            FunctionFailed: the clock raised, or returned no aware datetime.
        """
        now: Any = None
        try:
            now = self._clock()
            if isinstance(now, datetime) and now.utcoffset() is not None:
                utc: datetime = now.astimezone(UTC)
                return utc
        except Exception as error:
            text = f"the clock {described(self._clock)} failed: {type(error).__name__}: {error}"
            raise FunctionFailed(text) from error
        raise FunctionFailed(
            f"the clock {described(self._clock)} returned {now!r}, expected an aware datetime"
        )


def checked_clock(clock: Callable[[], datetime]) -> CheckedClock:
    """Return a clock that works, as far as reading it once can tell.

    Raises:
        ConfigError: K040.
    """
    checked = CheckedClock(clock)
    try:
        checked()
    except FunctionFailed as error:
        raise ConfigError(
            "K040",
            f"{error.message}.",
            where=str(here()),
            hint="Give a function that returns an aware datetime: lambda: datetime.now(UTC).",
        ) from error
    return checked

"""A clock that stands still until a test sets it."""

import threading
import weakref
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from klerk.errors import ArgumentError, Closed

__all__ = ["START", "VirtualClock"]

START: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
"""The time of a virtual clock unless it is given another: a Tuesday at noon, far from changes of clocks."""


class Watching(Protocol):
    """What is told that a clock was set."""

    def look_again(self) -> None: ...


class VirtualClock:
    """A clock that stands still until it is set, for `klerk.testing.open` or as ``clock=`` of `App.open`.

    When it is set, every Klerk that `klerk.testing.open` opened with it notices at once: as `advance` and
    `set` return, all timers that are due have fired, and jobs that are due are ready. It is safe to use from
    any thread.

    Parameters:
        start: its time, aware.

    Raises:
        ArgumentError: that is no aware datetime.
    """

    def __init__(self, start: datetime = START) -> None:
        self._setting = threading.RLock()
        self._now = _aware(start)
        self._watching: weakref.WeakSet[Watching] = weakref.WeakSet()

    def __call__(self) -> datetime:
        """Return the time, in UTC."""
        return self._now

    @property
    def now(self) -> datetime:
        """The time, in UTC."""
        return self._now

    def advance(self, by: timedelta) -> datetime:
        """Let time pass in one leap, and return the new time.

        What comes due meanwhile comes due together, as when a computer wakes up. `klerk.testing.drain` with
        ``until=`` lets the same time pass step by step instead, and runs the jobs of each moment on its way.

        Raises:
            ArgumentError: it is no timedelta of 0 or more.
            ReadLockHeld: the caller reads, so that timers could not fire. The clock is set nevertheless.
        """
        given: object = by
        if not isinstance(given, timedelta) or given < timedelta(0):
            raise ArgumentError(
                f"a clock can advance by a timedelta of 0 or more, got {by!r}",
                hint="To set it back, as the clocks of computers are at times, use set.",
            )
        with self._setting:
            self._now += by
            now = self._now
        self._tell()
        return now

    def set(self, moment: datetime) -> datetime:
        """Set the time, also back, and return it in UTC.

        Raises:
            ArgumentError: it is no aware datetime.
            ReadLockHeld: as for `advance`.
        """
        aware = _aware(moment)
        with self._setting:
            self._now = aware
        self._tell()
        return aware

    def attach(self, watching: Watching) -> None:
        """Let an open Klerk notice at once when the clock is set; `klerk.testing.open` does it."""
        self._watching.add(watching)

    def detach(self, watching: Watching) -> None:
        """Tell a Klerk no more; nothing happens when it is not told."""
        self._watching.discard(watching)

    def _tell(self) -> None:
        for each in list(self._watching):
            try:
                each.look_again()
            except Closed:
                self.detach(each)

    def __repr__(self) -> str:
        return f"<virtual clock at {self._now.isoformat()}>"


def _aware(moment: datetime) -> datetime:
    given: object = moment
    if isinstance(given, datetime) and given.utcoffset() is not None:
        return given.astimezone(UTC)
    raise ArgumentError(
        f"a clock cannot be set to {moment!r}",
        hint="Use an aware datetime: datetime(2030, 1, 1, tzinfo=UTC).",
    )

"""How far an action on many jobs has come: told while it goes on, at its end, and when it is interrupted."""

import logging
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Self

from klerk import limits
from klerk.authorization import JobAction
from klerk.errors import ArgumentError
from klerk.log_events import about

LOG = logging.getLogger("klerk")

BulkObserver = Callable[[int], object]
"""Called with how many jobs an action was done to so far."""


class BulkProgress:
    """Counts the jobs that an action was done to, in one transaction after the other.

    What takes longer than `limits.PROGRESS_AFTER_S` is logged then, every `limits.JOB_BULK_TOLD_S` from then
    on, and at its end. An error, or an interruption, gets a note that says how many jobs were done before.

    Parameters:
        action: for people.
        tell: called after each transaction; None: nobody is told.

    Attributes:
        done: the jobs that it was done to.

    Raises:
        ArgumentError: `tell` cannot be called.
    """

    def __init__(self, action: JobAction, tell: BulkObserver | None) -> None:
        if tell is not None and not callable(tell):
            raise ArgumentError(
                f"expected a function for 'progress', got {type(tell).__name__}",
                hint="It is called with the number of jobs done so far: progress=print.",
            )
        self.done = 0
        self._action = action.replace("_", " ")
        self._tell = tell
        self._begun_s = monotonic()
        self._next_s = self._begun_s + limits.PROGRESS_AFTER_S
        self._was_told = False

    def add(self, count: int) -> None:
        """Count the jobs of a transaction that has been committed."""
        self.done += count
        if monotonic() >= self._next_s:
            self._next_s = monotonic() + limits.JOB_BULK_TOLD_S
            self._was_told = True
            self._log(logging.INFO, "goes on")
        if self._tell is not None and count:
            self._tell(self.done)

    def _log(self, level: int, how: str) -> None:
        duration_s = monotonic() - self._begun_s
        LOG.log(
            level,
            "%s of many jobs %s: %s done in %.1f s",
            self._action,
            how,
            f"{self.done:,}",
            duration_s,
            extra=about("bulk_action", action=self._action, done=self.done, duration_s=duration_s),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            # A transaction that is on its way when somebody interrupts it may take effect.
            done = f"{self._action} was done to {self.done:,} jobs before that, which stays so"
            error.add_note(f"{done}; up to {limits.JOB_ACTION_JOBS_MAX:,} more may be on their way.")
            self._log(logging.WARNING, f"ended early with {type(error).__name__}")
        elif self._was_told:
            self._log(logging.INFO, "is over")

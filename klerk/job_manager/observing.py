"""Who watches jobs: telemetry, and the tests of users. Nothing is called while nobody does."""

import logging
from collections.abc import Callable
from typing import Protocol

from klerk.errors import ArgumentError
from klerk.jobs import JobRecord
from klerk.log_events import about
from klerk.running_job import RunningJob

LOG = logging.getLogger("klerk")


class JobObserver(Protocol):
    """Hears of every attempt at a job: `started` and `stopped` in the thread or task that runs it, and
    `ended` once, in whatever thread finds out. No lock is held meanwhile, and no command waits."""

    def started(self, run: RunningJob) -> None:
        """The function of a job is about to be called."""

    def stopped(self, run: RunningJob) -> None:
        """The thread or task is done with the attempt."""

    def ended(self, run: RunningJob, record: JobRecord, error: BaseException | None) -> None:
        """What becomes of the job is known, and being recorded.

        Parameters:
            record: of the job after the attempt; the one before it when nothing is recorded, because Klerk
                closes or the store failed: then the job runs again after the next start.
            error: what the function raised or returned in place of a value, or why its commands were refused.
        """


def require_observer(observer: object) -> None:
    """Refuse what could not be told of attempts.

    Raises:
        ArgumentError: it has not all methods of a `JobObserver`.
    """
    methods = ("started", "stopped", "ended")
    missing = [name for name in methods if not callable(getattr(observer, name, None))]
    if missing:
        raise ArgumentError(
            f"{observer!r} cannot watch jobs: it has no method {missing[0]!r}",
            hint="Give an object with the methods of klerk.JobObserver: started, stopped and ended.",
        )


class Observers:
    """Those who watch jobs. Whatever they raise is logged, and harms no job.

    Attributes:
        all: of them; empty: nobody watches.
    """

    __slots__ = ("all",)

    def __init__(self) -> None:
        self.all: tuple[JobObserver, ...] = ()

    def add(self, observer: JobObserver) -> None:
        """Let one more watch, from the next attempt on."""
        self.all = (*self.all, observer)

    def remove(self, observer: JobObserver) -> None:
        """Let one watch no more; nothing happens when it does not."""
        self.all = tuple(each for each in self.all if each is not observer)

    def started(self, run: RunningJob) -> None:
        """See `JobObserver.started`."""
        for observer in self.all:
            _tell(observer.started, run)

    def stopped(self, run: RunningJob) -> None:
        """See `JobObserver.stopped`; the last to hear of the start is the first to hear of the stop."""
        for observer in reversed(self.all):
            _tell(observer.stopped, run)

    def ended(self, run: RunningJob, record: JobRecord, error: BaseException | None) -> None:
        """See `JobObserver.ended`."""
        for observer in self.all:
            _tell(observer.ended, run, record, error)


def _tell(method: Callable[..., None], *values: object) -> None:
    try:
        method(*values)
    except Exception:
        LOG.exception("an observer of jobs failed: %r", method, extra=about("observer_failed"))

"""What the job manager asks of whatever runs jobs, and how all of it is stopped."""

import abc
from collections.abc import Callable, Collection
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from klerk import limits


class Stoppable(Protocol):
    """A job as executors see it."""

    def cancel(self) -> None:
        """Ask it to stop at its next opportunity; nothing, when it was asked before."""


J = TypeVar("J", bound=Stoppable)


class Executor(abc.ABC, Generic[J]):
    """Fetches jobs that are ready and runs them, at most `count` at once.

    An executor is given two functions: one to take the next job, or None, and one to run it, which reports
    to the job manager by itself. Whatever a job raises, the executor goes on. Nothing is polled: it looks
    for a job when it is woken, and when one of its own has ended.

    Parameters:
        count: jobs at once, at most; `resize` changes it.

    Attributes:
        when_ended: called after jobs ended, from whichever thread, while this stops.
        works_by_itself: jobs run without anybody asking for it.
    """

    works_by_itself = True

    def __init__(self, count: int) -> None:
        self.count = count
        self.when_ended: Callable[[], object] = _nothing

    @abc.abstractmethod
    def start(self) -> None:
        """Begin to take jobs."""

    @abc.abstractmethod
    def wake(self) -> None:
        """Look for jobs again: some became ready."""

    @abc.abstractmethod
    def resize(self, count: int) -> None:
        """Run at most so many jobs at once from now on; those that run already go on to their end."""

    @abc.abstractmethod
    def running(self) -> tuple[J, ...]:
        """Return the jobs that run now."""

    @abc.abstractmethod
    def is_idle(self) -> bool:
        """Return whether no job runs, or is about to: one that was taken a moment ago counts."""

    @abc.abstractmethod
    def cancel(self, job: J) -> None:
        """Ask a job to stop, and bring that to it wherever it runs; nothing, when it does not run here."""

    @abc.abstractmethod
    def kill(self, job: J) -> bool:
        """End a running job by force; return whether this sort of executor can, which takes a moment then."""

    @abc.abstractmethod
    def runs_here(self) -> bool:
        """Return whether the caller runs in one of this executor's threads."""

    @abc.abstractmethod
    def job_here(self) -> J | None:
        """Return the job in whose own thread or task the caller runs; None: in that of none."""

    @abc.abstractmethod
    def begin_stopping(self) -> None:
        """Take no more jobs."""

    @abc.abstractmethod
    def end(self) -> None:
        """Give back what is held, in bounded time; jobs that still run are left to themselves."""


def _nothing() -> None:
    """Do nothing."""


class Patience:
    """Waits for jobs to end, until it is over or somebody is in a hurry.

    A signal handler may call `hurry`: it takes no lock.
    """

    def __init__(self) -> None:
        self._told: SimpleQueue[None] = SimpleQueue()
        self._hurried = False

    def tell(self) -> None:
        """Let the waiter look again."""
        self._told.put(None)

    def hurry(self) -> None:
        """End this wait and all later ones."""
        self._hurried = True
        self._told.put(None)

    def wait(self, is_over: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds, at most so many seconds; return whether it does."""
        deadline = monotonic() + seconds
        while not is_over():
            left_s = deadline - monotonic()
            if left_s <= 0 or self._hurried:
                return False
            try:
                self._told.get(timeout=left_s)
            except Empty:
                continue
        return True


def stop(
    executors: Collection[Executor[Any]],
    wait_s: float,
    patience: Patience,
    interrupting: Callable[[], object] = _nothing,
) -> list[Any]:
    """Stop executors together: let their jobs end, then ask those that run to stop, then force them.

    Parameters:
        wait_s: seconds in which jobs may end by themselves. Asking and forcing take at most
            `limits.CLOSE_MARGIN_S` each on top of that.
        patience: waits.
        interrupting: called before jobs are asked to stop.

    Returns:
        The jobs that run on, because nothing can end them.
    """

    def are_idle() -> bool:
        return all(executor.is_idle() for executor in executors)

    for executor in executors:
        executor.when_ended = patience.tell
        executor.begin_stopping()
    if not patience.wait(are_idle, wait_s):
        interrupting()
        for executor in executors:
            for job in executor.running():
                executor.cancel(job)
        if not patience.wait(are_idle, limits.CLOSE_MARGIN_S):
            forced = [executor.kill(job) for executor in executors for job in executor.running()]
            patience.wait(are_idle, limits.CLOSE_MARGIN_S if any(forced) else 0)
    for executor in executors:
        executor.end()
    return [job for executor in executors for job in executor.running()]

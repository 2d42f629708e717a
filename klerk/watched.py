"""What an opened app tells of itself: how it is doing, and what is due."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from klerk._core import InternalWork
from klerk._dispatch import moment_at
from klerk._waiting import ReadWriteLock, Submission
from klerk.app import Spec
from klerk.commands import System
from klerk.engine import Engine
from klerk.errors import NotPure, ReadLockHeld
from klerk.job_manager.work import CreateJobs
from klerk.processing import Program
from klerk.scheduler import Scheduler
from klerk.statistics import Statistics, statistics_of
from klerk.storage.contract import Storage
from klerk.timers.timers import Timers
from klerk.unmanaged import UnmanagedCalls


class Watched:
    """The part of an opened app that can be watched, and told that its clock was set."""

    timers: Timers
    _spec: Spec
    _program: Program
    _storage: Storage
    _lock: ReadWriteLock
    _engine: Engine
    _scheduler: Scheduler
    _unmanaged: UnmanagedCalls
    _require_open: Callable[[], None]
    _submit_as: Callable[[InternalWork, System], Submission[Any]]

    def statistics(self) -> Statistics:
        """Return how this is doing: numbers that are kept anyway, and the size of the store on disk."""
        self._require_open()
        engine, program = self._engine, self._program
        return statistics_of(
            self._spec.name, engine, self._lock, program.plans, self.timers, self._unmanaged, self._storage
        )

    def look_again(self) -> None:
        """Notice at once that the clock was set, for clocks of tests, which jump: return once everything that
        is due by it was begun, and all timers that are due have fired.

        Raises:
            ReadLockHeld, NotPure, FunctionFailed, StoreFailed, Closed: as for `Timers.fire_due`.
        """
        self._refuse_waiting(True)
        while True:
            self._scheduler.look_again()
            # What was due has perhaps submitted something, whose end may be due at once.
            self._submit_as(CreateJobs(()), System("clock")).result()
            self._engine.wait_until_acknowledged()
            if not self._scheduler.is_due:
                break
        self.timers.fire_due()

    @property
    def next_due(self) -> datetime | None:
        """When the next of all that waits for a time is due, in UTC: a job, a timer, or work of Klerk's."""
        moments = [self._scheduler.next_us, self.timers.next_us]
        return min((moment_at(each) for each in moments if each is not None), default=None)

    def _refuse_waiting(self, blocking: bool, what: str = "timers") -> None:
        """Refuse to wait for a command where its outcome would never come.

        Parameters:
            blocking: the caller would stop its whole thread, not only its task.
            what: is waited for.
        """
        self._require_open()
        if self._lock.held_here(blocking):
            raise ReadLockHeld(
                f"{what} cannot be waited for inside `with k.read(...)`", hint="Wait after the block."
            )
        if self._engine.queue.is_committer() or self.timers.runs_here():
            raise NotPure(
                f"{what} were waited for by a function that Klerk calls while it commits or fires timers",
                hint="Wait in a thread of your own.",
            )

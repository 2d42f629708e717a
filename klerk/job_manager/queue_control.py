"""Queues and workers at run time: the part of `Klerk.jobs` that shows and changes them."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from klerk import limits
from klerk.aio_threads import AioThreads
from klerk.app import Spec
from klerk.authorization import JobAction
from klerk.commands import Context
from klerk.errors import ArgumentError, NotFound
from klerk.job_manager.acting import ActionDesk
from klerk.job_manager.dispatcher import Dispatcher
from klerk.job_manager.queue_book import ChangeQueue
from klerk.job_manager.shares import QueueOverride
from klerk.job_names import JobNames
from klerk.job_options import Pool, Rate
from klerk.running_job import RunningJob
from klerk.workers import Executor

__all__ = ["AioQueueControl", "QueueControl", "QueueStatus"]


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A queue as it is at the moment.

    Parameters:
        name: of the queue.
        available: its jobs that are ready and wait, for whatever reason.
        executing: its jobs that run.
        waiting: those of the available ones that a limit keeps from starting: the queue's, or one of their
            kind or key.
        paused: none of its jobs start.
        concurrency, rate, weight: in force, as in `QueueOptions`.
    """

    name: str
    available: int
    executing: int
    waiting: int
    paused: bool
    concurrency: int | None
    rate: str | None
    weight: int


class QueueControl:
    """Shows queues, and changes them and the workers while the app is open.

    What is set of a queue is a transaction of its own, which stands in the commit log as "queue action", and
    stays in force after a restart. It is in force when the method returns; jobs that run go on.
    """

    _spec: Spec
    _lock: threading.Lock
    _dispatcher: Dispatcher
    _names: JobNames
    _desk: ActionDesk
    _executors: dict[Pool, Executor[RunningJob]]
    _wake: Callable[[], None]

    def queues(self) -> tuple[QueueStatus, ...]:
        """Return all queues as they are now, by name."""
        with self._lock:
            return tuple(
                QueueStatus(
                    name=name,
                    available=queue.available,
                    executing=queue.gate.running,
                    waiting=queue.waiting,
                    paused=queue.is_paused,
                    concurrency=queue.settings.concurrency,
                    rate=None if queue.settings.rate is None else str(queue.settings.rate),
                    weight=queue.settings.weight,
                )
                for name, queue in sorted(self._dispatcher.queues.items())
            )

    @property
    def paused(self) -> tuple[str, ...]:
        """The names of the queues that are paused."""
        with self._lock:
            return tuple(sorted(name for name, each in self._dispatcher.queues.items() if each.is_paused))

    def pause(self, queue: str, context: Context | None = None) -> None:
        """Let no job of a queue start until `resume`, however often the app is opened meanwhile.

        Parameters:
            queue: its name.
            context: on whose behalf; rules of ``app.allow.jobs`` must permit it to "pause" the queue's jobs.
                None: the application itself does it, and no rule is asked.

        Raises:
            NotFound: there is no such queue.
            Denied: the context's actor may not do it.
            ReadLockHeld, StoreFailed, Closed: as for `Klerk.handle`.
        """
        self._change("pause", queue, context, lambda now: msgspec.structs.replace(now, paused=True))

    def resume(self, queue: str, context: Context | None = None) -> None:
        """Let jobs of a paused queue start again.

        Parameters, Raises:
            as for `pause`; the action is "resume".
        """
        self._change("resume", queue, context, lambda now: msgspec.structs.replace(now, paused=False))

    def scale(
        self,
        queue: str,
        context: Context | None = None,
        *,
        concurrency: int | UnsetType | None = UNSET,
        rate: str | UnsetType | None = UNSET,
        weight: int | UnsetType = UNSET,
    ) -> None:
        """Put other limits of a queue in force, in place of those that are declared.

        Parameters:
            queue, context: as for `pause`; the action is "scale".
            concurrency, rate, weight: as in `QueueOptions`; None: no limit; left out: as it is. When none of
                them is given, all are as declared again.

        Raises:
            ArgumentError: a limit that cannot be meant.
            NotFound, Denied, ReadLockHeld, StoreFailed, Closed: as for `pause`.
        """
        given = _checked_limits(concurrency, rate, weight)

        def change(now: QueueOverride) -> QueueOverride:
            if not given:
                return QueueOverride(paused=now.paused)
            return msgspec.structs.replace(now, **given)

        self._change("scale", queue, context, change)

    def _change(self, action: JobAction, name: str, context: Context | None, change: Any) -> None:
        self._require_queue(name)
        if context is not None:
            kinds = [kind for kind, job in self._spec.jobs.items() if job.settings.queue == name]
            # Jobs of any kind may be in a queue that none was declared to be in.
            self._desk.access.require(context, action, kinds or self._spec.jobs)
        work = ChangeQueue(action, name, self._desk.queue_book, change)
        # What is set may be the first rate.
        self._desk.queue_book.levels.begin()
        self._desk.transact(work, context)
        with self._lock:
            queue = self._dispatcher.queue(name)
            # Another thread may have been faster with what it set later.
            if work.sequence > queue.changed_at:
                queue.changed_at = work.sequence
                self._dispatcher.change(queue, work.after)
        self._wake()

    def _require_queue(self, name: object) -> None:
        if not isinstance(name, str) or not self._names.has_queue(name):
            raise NotFound(f"there is no queue {name!r}", hint=self._names.queue_choices(str(name)))

    def scale_workers(
        self, *, threads: int | None = None, coroutines: int | None = None, processes: int | None = None
    ) -> None:
        """Run more or fewer jobs at once, until the app is closed; those that run go on.

        Parameters:
            threads: for plain functions; None: as many as there are.
            coroutines: at once on the jobs' event loop; None: as it is.
            processes: at most, for the jobs that run in them; None: as it is.

        Raises:
            ArgumentError: a number that cannot be meant, or nothing runs jobs of that sort here.
        """
        wanted: list[tuple[Pool, str, int | None, int]] = [
            ("thread", "threads", threads, limits.JOB_THREADS_MAX),
            ("loop", "coroutines", coroutines, limits.JOB_COROUTINES_LIMIT),
            ("process", "processes", processes, limits.JOB_PROCESSES_MAX),
        ]
        for pool, what, count, highest in wanted:
            if count is None:
                continue
            _check_count(what, count, highest)
            if pool not in self._executors:
                raise ArgumentError(
                    f"no jobs run in {what} here",
                    hint="The app has no such jobs, or was opened with job_threads=0.",
                )
        for pool, _, count, _ in wanted:
            if count is not None:
                self._executors[pool].resize(count)


def _checked_limits(concurrency: Any, rate: Any, weight: Any) -> dict[str, Any]:
    """Return the limits that were given.

    Raises:
        ArgumentError: one cannot be meant.
    """
    given = {"concurrency": concurrency, "rate": rate, "weight": weight}
    given = {name: value for name, value in given.items() if value is not UNSET}
    if given.get("concurrency") is not None:
        _check_count("concurrency", concurrency, limits.JOB_CONCURRENCY_MAX)
    if "weight" in given:
        _check_count("weight", weight, limits.QUEUE_WEIGHT_MAX)
    if given.get("rate") is not None:
        try:
            given["rate"] = str(Rate.parse(rate))
        except (ValueError, AttributeError) as error:
            raise ArgumentError(f"the limit rate: {error}") from error
    return given


def _check_count(what: str, value: object, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
        raise ArgumentError(f"{what} must be 1 to {highest}, is {value!r}")


class AioQueueControl:
    """The asyncio face of `QueueControl`; what does not wait is the same."""

    _jobs: Any
    _threads: AioThreads

    def queues(self) -> tuple[QueueStatus, ...]:
        """See `QueueControl.queues`."""
        found: tuple[QueueStatus, ...] = self._jobs.queues()
        return found

    @property
    def paused(self) -> tuple[str, ...]:
        """See `QueueControl.paused`."""
        found: tuple[str, ...] = self._jobs.paused
        return found

    async def pause(self, queue: str, context: Context | None = None) -> None:
        """See `QueueControl.pause`."""
        await self._threads.run(self._jobs.pause, queue, context)

    async def resume(self, queue: str, context: Context | None = None) -> None:
        """See `QueueControl.resume`."""
        await self._threads.run(self._jobs.resume, queue, context)

    async def scale(
        self,
        queue: str,
        context: Context | None = None,
        *,
        concurrency: int | UnsetType | None = UNSET,
        rate: str | UnsetType | None = UNSET,
        weight: int | UnsetType = UNSET,
    ) -> None:
        """See `QueueControl.scale`."""
        scale = partial(self._jobs.scale, queue, context, concurrency=concurrency, rate=rate, weight=weight)
        await self._threads.run(scale)

    def scale_workers(
        self, *, threads: int | None = None, coroutines: int | None = None, processes: int | None = None
    ) -> None:
        """See `QueueControl.scale_workers`."""
        self._jobs.scale_workers(threads=threads, coroutines=coroutines, processes=processes)

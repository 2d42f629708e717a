"""What an opened app offers to asyncio: `AioKlerk`."""

import os
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypeVar, Unpack

from klerk import limits
from klerk._waiting import ReadWriteLock, Submission
from klerk.aio_threads import AioThreads
from klerk.audit.entries import LogFilter, LogPage, Version
from klerk.audit.erasure import Erasure
from klerk.changes.feeds import Hub
from klerk.changes.subscriptions import AioSubscribable
from klerk.commands import Command, Context, Result
from klerk.job_manager.face import AioJobs, Jobs
from klerk.keyed.aio_blobs import AioBlobs
from klerk.keyed.blobs import Blobs
from klerk.keyed.keyvalue import AioKeyValues, KeyValues
from klerk.reading.reader import Reader
from klerk.reading.snapshots import OpeningSnapshot, Snapshots
from klerk.signals import Signals
from klerk.statistics import Statistics
from klerk.submitting import Commands, PushSoon, one, several
from klerk.timers.timers import Timers
from klerk.timers.work import DueTimer, RefusedTimer
from klerk.tokens.token import Token
from klerk.tokens.uses import TokenUses
from klerk.unsafe import AioUnsafe, Unsafe, UnsafeWork
from klerk.values import Model, Ref

M = TypeVar("M", bound=Model)


class Blocking(Protocol):
    """What `AioKlerk` offers in a thread, because it waits for more than a command."""

    jobs: Jobs
    timers: Timers
    unsafe: Unsafe
    kv: KeyValues
    blobs: Blobs
    signals: Signals

    def token(self, *models: Model) -> Token: ...
    def parse_token(self, text: str) -> Token: ...
    def close(self) -> None: ...
    def checkpoint(self, path: str | os.PathLike[str]) -> None: ...
    def storage_bytes(self) -> int: ...
    def statistics(self) -> Statistics: ...
    def look_again(self) -> None: ...
    @property
    def next_due(self) -> datetime | None: ...
    def log(self, context: Context, **which: Unpack[LogFilter]) -> LogPage: ...
    def history(self, ref: Ref[M], context: Context, *, limit: int, after: int) -> tuple[Version[M], ...]: ...
    def as_of(self, ref: Ref[M], sequence: int, context: Context) -> M: ...
    def erase(self, ref: Ref[Any], context: Context) -> Erasure: ...
    @property
    def sequence(self) -> int: ...


class AioKlerk(AioSubscribable):
    """The asyncio face of a `Klerk`: the same methods, to be awaited; nothing here blocks the loop.

    Parameters:
        push_soon: puts commands into the queue.
        read: makes a reader for a context.
        snapshots: opens snapshots.
        tokens: which tokens were used.
        blocking: does the rest.
        hub: hands out what is published.
        lock: that readers hold.

    Attributes:
        jobs: the asyncio face of the job manager.
        timers: the asyncio face of `Klerk.timers`.
        unsafe: changes that ask neither state machines nor rules.
        kv, blobs: the asyncio faces of key-values and blobs.
    """

    def __init__(
        self,
        push_soon: PushSoon,
        read: Callable[[Context], Reader],
        snapshots: Snapshots,
        tokens: TokenUses,
        blocking: Blocking,
        hub: Hub,
        lock: ReadWriteLock,
    ) -> None:
        self._push_soon = push_soon
        self._tokens = tokens
        self._read = read
        self._snapshots = snapshots
        self._blocking = blocking
        self._hub = hub
        self._threads = threads = AioThreads(lock)
        self.jobs = AioJobs(blocking.jobs, threads)
        self.timers = AioTimers(blocking.timers, threads)
        self.unsafe = AioUnsafe(blocking.unsafe, self._run_unsafe)
        self.kv = AioKeyValues(blocking.kv)
        self.blobs = AioBlobs(blocking.blobs, threads)

    async def handle(
        self,
        command: Command[M],
        context: Context,
        *,
        token: Token | str | None = None,
        dry_run: bool = False,
    ) -> Result[M]:
        """See `Klerk.handle`. A cancelled task leaves the command in the queue."""
        work = one(command)
        use = None if token is None else self._tokens.use(token, work, context)
        submission = Submission(work, context, dry_run, use)
        room = self._push_soon(submission)
        if room is not None:
            await room
        result: Result[M] = await submission
        return result

    async def submit(
        self, command: Command[M], context: Context, *, token: Token | str | None = None
    ) -> Submission[Result[M]]:
        """See `Klerk.submit`: returns, once there is room in the queue, a future to be awaited.

        To wait for room only so long, use ``asyncio.timeout``: what is cancelled before that is withdrawn.
        """
        work = one(command)
        use = None if token is None else self._tokens.use(token, work, context)
        return await self._push(Submission(work, context, False, use))

    async def handle_all(
        self,
        commands: Commands,
        context: Context,
        *,
        token: Token | str | None = None,
        dry_run: bool = False,
    ) -> list[Result[Any]]:
        """See `Klerk.handle_all`."""
        work = several(commands)
        use = None if token is None else self._tokens.use(token, work, context)
        submission = Submission(work, context, dry_run, use)
        results: list[Result[Any]] = await (await self._push(submission))
        return results

    async def submit_all(
        self, commands: Commands, context: Context, *, token: Token | str | None = None
    ) -> Submission[list[Result[Any]]]:
        """See `Klerk.submit_all`."""
        work = several(commands)
        use = None if token is None else self._tokens.use(token, work, context)
        return await self._push(Submission(work, context, False, use))

    async def check(
        self, command: Command[M], context: Context, *, token: Token | str | None = None
    ) -> Result[M]:
        """See `Klerk.check`."""
        return await self.handle(command, context, token=token, dry_run=True)

    def token(self, *models: Model) -> Token:
        """See `Klerk.token`. It waits for nothing."""
        return self._blocking.token(*models)

    def parse_token(self, text: str) -> Token:
        """See `Klerk.parse_token`. It waits for nothing."""
        return self._blocking.parse_token(text)

    async def _run_unsafe(self, work: UnsafeWork, context: Context) -> list[Result[Any]]:
        results: list[Result[Any]] = await (await self._push(Submission(work, context)))
        return results

    def read(self, context: Context) -> Reader:
        """Return a reader for ``async with``."""
        return self._read(context)

    async def log(self, context: Context, **which: Unpack[LogFilter]) -> LogPage:
        """See `Klerk.log`."""
        return await self._threads.run(partial(self._blocking.log, context, **which))

    async def history(
        self, ref: Ref[M], context: Context, *, limit: int = limits.LOG_PAGE_MAX, after: int = 0
    ) -> tuple[Version[M], ...]:
        """See `Klerk.history`."""
        return await self._threads.run(
            partial(self._blocking.history, ref, context, limit=limit, after=after)
        )

    async def as_of(self, ref: Ref[M], sequence: int, context: Context) -> M:
        """See `Klerk.as_of`."""
        return await self._threads.run(self._blocking.as_of, ref, sequence, context)

    async def erase(self, ref: Ref[Any], context: Context) -> Erasure:
        """See `Klerk.erase`."""
        return await self._threads.run(self._blocking.erase, ref, context)

    def snapshot(self, context: Context) -> OpeningSnapshot:
        """Return a snapshot for ``async with``; see `Klerk.snapshot`."""
        return OpeningSnapshot(self._snapshots, context)

    @property
    def sequence(self) -> int:
        """See `Klerk.sequence`."""
        return self._blocking.sequence

    @property
    def next_due(self) -> datetime | None:
        """See `Klerk.next_due`."""
        return self._blocking.next_due

    async def look_again(self) -> None:
        """See `Klerk.look_again`."""
        await self._threads.run(self._blocking.look_again)

    async def statistics(self) -> Statistics:
        """See `Klerk.statistics`."""
        return await self._threads.run(self._blocking.statistics)

    async def storage_bytes(self) -> int:
        """See `Klerk.storage_bytes`."""
        return await self._threads.run(self._blocking.storage_bytes)

    async def wait_for_signal(self, *signals: int) -> None:
        """See `Klerk.wait_for_signal`; for a task of the main thread's event loop."""
        await self._blocking.signals.wait_soon(signals)

    async def checkpoint(self, path: str | os.PathLike[str]) -> None:
        """See `Klerk.checkpoint`."""
        await self._threads.run(self._blocking.checkpoint, path)

    async def close(self) -> None:
        """See `Klerk.close`."""
        await self._threads.run(self._blocking.close)

    async def _push(self, submission: Submission[Any]) -> Submission[Any]:
        room = self._push_soon(submission)
        if room is not None:
            await room
        return submission


class AioTimers:
    """The asyncio face of `Timers`; what does not wait is the same."""

    def __init__(self, timers: Timers, threads: AioThreads) -> None:
        self._timers = timers
        self._threads = threads

    @property
    def count(self) -> int:
        """See `Timers.count`."""
        return self._timers.count

    @property
    def next_due(self) -> datetime | None:
        """See `Timers.next_due`."""
        return self._timers.next_due

    @property
    def refused(self) -> tuple[RefusedTimer, ...]:
        """See `Timers.refused`."""
        return self._timers.refused

    @property
    def trouble(self) -> str:
        """See `Timers.trouble`."""
        return self._timers.trouble

    async def due(self, limit: int = 100) -> tuple[DueTimer, ...]:
        """See `Timers.due`."""
        return await self._threads.run(self._timers.due, limit)

    async def fire_due(self) -> int:
        """See `Timers.fire_due`."""
        return await self._threads.run(self._timers.fire_due)

    async def wait_until_idle(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 (a thread waits)
        """See `Timers.wait_until_idle`."""
        return await self._threads.run(self._timers.wait_until_idle, timeout)

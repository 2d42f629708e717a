"""What an opened app offers to asyncio, and what counts as a command or several."""

import asyncio
import inspect
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar, Unpack

from klerk import limits
from klerk._dispatch import JobRequest
from klerk._waiting import CommandQueue, Submission
from klerk.commands import Args, Command, Context, Result
from klerk.erasure import Erasure
from klerk.errors import ArgumentError
from klerk.job_manager import JobManager
from klerk.jobs import JobRecord
from klerk.log_entries import LogFilter, LogPage, Version
from klerk.reader import Reader
from klerk.values import Model, Ref

M = TypeVar("M", bound=Model)
Commands: TypeAlias = (
    Iterable[Command[Any]] | Callable[[Args[Any, Any]], Command[Any] | Iterable[Command[Any]] | None]
)


def one(command: Any) -> Any:
    """Return a command to be submitted; refuse anything else."""
    if type(command) is not Command:
        raise ArgumentError(
            f"expected a command, got {type(command).__name__}", hint="Call an event to make one: join(...)."
        )
    return command


def several(commands: Commands) -> Any:
    """Return commands to be submitted as one transaction: a list, or a function of the args."""
    if inspect.isgenerator(commands):
        return lambda _: commands
    if callable(commands):
        takes_args = bool(inspect.signature(commands).parameters)
        return commands if takes_args else lambda _: commands()  # type: ignore[call-arg]
    if isinstance(commands, Command):
        raise ArgumentError("expected a list of commands, got one", hint="Use handle for a single command.")
    return list(commands)


class Blocking(Protocol):
    """What `AioKlerk` offers in a thread, because it waits for more than a command."""

    jobs: JobManager

    def close(self) -> None: ...
    def checkpoint(self, path: str | os.PathLike[str]) -> None: ...
    def storage_bytes(self) -> int: ...
    def log(self, context: Context, **which: Unpack[LogFilter]) -> LogPage: ...
    def history(self, ref: Ref[M], context: Context, *, limit: int, after: int) -> tuple[Version[M], ...]: ...
    def as_of(self, ref: Ref[M], sequence: int, context: Context) -> M: ...
    def erase(self, ref: Ref[Any], context: Context) -> Erasure: ...
    @property
    def sequence(self) -> int: ...


class AioKlerk:
    """The asyncio face of a `Klerk`: the same methods, to be awaited; nothing here blocks the loop.

    Parameters:
        queue: where commands go.
        read: makes a reader for a context.
        blocking: does the rest.

    Attributes:
        jobs: the asyncio face of the job manager.
    """

    def __init__(self, queue: CommandQueue, read: Callable[[Context], Reader], blocking: Blocking) -> None:
        self._push_soon = queue.push_soon
        self._read = read
        self._blocking = blocking
        self.jobs = AioJobs(blocking.jobs)

    async def handle(self, command: Command[M], context: Context, *, dry_run: bool = False) -> Result[M]:
        """See `Klerk.handle`. A cancelled task leaves the command in the queue."""
        submission = Submission(one(command), context, dry_run)
        room = self._push_soon(submission)
        if room is not None:
            await room
        result: Result[M] = await submission
        return result

    async def submit(self, command: Command[M], context: Context) -> Submission[Result[M]]:
        """See `Klerk.submit`: returns, once there is room in the queue, a future to be awaited.

        To wait for room only so long, use ``asyncio.timeout``: what is cancelled before that is withdrawn.
        """
        return await self._push(Submission(one(command), context))

    async def handle_all(
        self, commands: Commands, context: Context, *, dry_run: bool = False
    ) -> list[Result[Any]]:
        """See `Klerk.handle_all`."""
        results: list[Result[Any]] = await (await self._push(Submission(several(commands), context, dry_run)))
        return results

    async def submit_all(self, commands: Commands, context: Context) -> Submission[list[Result[Any]]]:
        """See `Klerk.submit_all`."""
        return await self._push(Submission(several(commands), context))

    async def check(self, command: Command[M], context: Context) -> Result[M]:
        """See `Klerk.check`."""
        return await self.handle(command, context, dry_run=True)

    def read(self, context: Context) -> Reader:
        """Return a reader for ``async with``."""
        return self._read(context)

    async def log(self, context: Context, **which: Unpack[LogFilter]) -> LogPage:
        """See `Klerk.log`."""
        return await asyncio.to_thread(partial(self._blocking.log, context, **which))

    async def history(
        self, ref: Ref[M], context: Context, *, limit: int = limits.LOG_PAGE_MAX, after: int = 0
    ) -> tuple[Version[M], ...]:
        """See `Klerk.history`."""
        return await asyncio.to_thread(
            partial(self._blocking.history, ref, context, limit=limit, after=after)
        )

    async def as_of(self, ref: Ref[M], sequence: int, context: Context) -> M:
        """See `Klerk.as_of`."""
        return await asyncio.to_thread(self._blocking.as_of, ref, sequence, context)

    async def erase(self, ref: Ref[Any], context: Context) -> Erasure:
        """See `Klerk.erase`."""
        return await asyncio.to_thread(self._blocking.erase, ref, context)

    @property
    def sequence(self) -> int:
        """See `Klerk.sequence`."""
        return self._blocking.sequence

    async def storage_bytes(self) -> int:
        """See `Klerk.storage_bytes`."""
        return await asyncio.to_thread(self._blocking.storage_bytes)

    async def checkpoint(self, path: str | os.PathLike[str]) -> None:
        """See `Klerk.checkpoint`."""
        await asyncio.to_thread(self._blocking.checkpoint, path)

    async def close(self) -> None:
        """See `Klerk.close`."""
        await asyncio.to_thread(self._blocking.close)

    async def _push(self, submission: Submission[Any]) -> Submission[Any]:
        room = self._push_soon(submission)
        if room is not None:
            await room
        return submission


class AioJobs:
    """The asyncio face of the job manager; what does not wait is the same."""

    def __init__(self, jobs: JobManager) -> None:
        self._jobs = jobs
        self.counts = jobs.counts
        self.get = jobs.get
        self.live = jobs.live
        self.cancel_running = jobs.cancel_running

    async def schedule(self, *requests: JobRequest, at: datetime | None = None) -> tuple[JobRecord, ...]:
        """See `JobManager.schedule`."""
        return await asyncio.to_thread(partial(self._jobs.schedule, *requests, at=at))

    async def wait_until_idle(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 (a thread waits)
        """See `JobManager.wait_until_idle`."""
        return await asyncio.to_thread(self._jobs.wait_until_idle, timeout)

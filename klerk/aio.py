"""What an opened app offers to asyncio, and what counts as a command or several."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from klerk._waiting import CommandQueue, Submission
from klerk.commands import Args, Command, Context, Result
from klerk.errors import ArgumentError
from klerk.reader import Reader
from klerk.values import Model

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
        return commands if inspect.signature(commands).parameters else lambda _: commands()
    if isinstance(commands, Command):
        raise ArgumentError("expected a list of commands, got one", hint="Use handle for a single command.")
    return list(commands)


class AioKlerk:
    """The asyncio face of a `Klerk`: the same methods, to be awaited; nothing here blocks the loop.

    Parameters:
        queue: where commands go.
        read: makes a reader for a context.
    """

    def __init__(self, queue: CommandQueue, read: Callable[[Context], Reader]) -> None:
        self._push_soon = queue.push_soon
        self._read = read

    async def handle(self, command: Command[M], context: Context, *, dry_run: bool = False) -> Result[M]:
        """See `Klerk.handle`. A cancelled task leaves the command in the queue."""
        submission = Submission(one(command), context, dry_run)
        room = self._push_soon(submission)
        if room is not None:
            await room
        result: Result[M] = await submission
        return result

    async def submit(self, command: Command[M], context: Context) -> "Submission[Result[M]]":
        """See `Klerk.submit`: returns, once there is room in the queue, a future to be awaited."""
        return await self._push(Submission(one(command), context))

    async def handle_all(
        self, commands: Commands, context: Context, *, dry_run: bool = False
    ) -> list[Result[Any]]:
        """See `Klerk.handle_all`."""
        results: list[Result[Any]] = await (await self._push(Submission(several(commands), context, dry_run)))
        return results

    async def check(self, command: Command[M], context: Context) -> Result[M]:
        """See `Klerk.check`."""
        return await self.handle(command, context, dry_run=True)

    def read(self, context: Context) -> Reader:
        """Return a reader for ``async with``."""
        return self._read(context)

    async def _push(self, submission: Submission[Any]) -> Submission[Any]:
        room = self._push_soon(submission)
        if room is not None:
            await room
        return submission

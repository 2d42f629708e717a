"""What counts as a command or several, and how threads have them handled: `Submitting`."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeAlias, TypeVar

from klerk._waiting import Submission
from klerk.commands import Args, Command, Context, Result
from klerk.errors import ArgumentError
from klerk.tokens.token import Token
from klerk.tokens.uses import TokenUses
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
        takes_args = bool(inspect.signature(commands).parameters)
        return commands if takes_args else lambda _: commands()  # type: ignore[call-arg]
    if isinstance(commands, Command):
        raise ArgumentError("expected a list of commands, got one", hint="Use handle for a single command.")
    return list(commands)


class Push(Protocol):
    """Puts a submission into the queue; see `CommandQueue.push`."""

    def __call__(self, submission: Submission[Any], blocking: bool, timeout_s: float = -1) -> None: ...


PushSoon: TypeAlias = Callable[[Submission[Any]], Awaitable[None] | None]
"""Puts a submission into the queue, or returns what to await until there is room; see `Klerk.aio`."""


class Submitting:
    """The part of an opened app that takes commands."""

    _push: Push
    _tokens: TokenUses

    def handle(
        self,
        command: Command[M],
        context: Context,
        *,
        token: Token | str | None = None,
        dry_run: bool = False,
    ) -> Result[M]:
        """Handle a command and return what it did, once that is durable and visible.

        Parameters:
            token: lets the command take effect once: whoever sends it again with the same token gets the
                first outcome (`Result.repeated`). A command that is refused or fails uses no token up.
            dry_run: evaluate everything and keep nothing; the result shows what would be.

        Raises:
            Rejected, InvalidValue, WrongState, Conflict, NotFound: it was refused, with every problem found.
            Denied: the context's actor may not do it.
            Conflict: (``token_reused``) the token was used for another command, or by another actor;
                (``token_expired``) it is too old; (``changed_meanwhile``) a model is not as it demands.
            InvalidValue: (``bad_token``) the token is none that this store gave out.
            FunctionFailed: a function of the application raised.
            ReadLockHeld: this thread holds the read lock.
            StoreFailed, Closed: nothing can be written any more.
        """
        work = one(command)
        use = None if token is None else self._tokens.use(token, work, context)
        submission = Submission(work, context, dry_run, use)
        self._push(submission, True)
        result: Result[M] = submission.result()
        return result

    def submit(
        self,
        command: Command[M],
        context: Context,
        *,
        token: Token | str | None = None,
        timeout: float | None = None,
    ) -> "Submission[Result[M]]":
        """Put a command into the queue and return the future of its result, so that many can be in flight.

        Commands are handled in the order in which they were submitted. When the queue is full, this waits.

        Parameters:
            token: as for `handle`.
            timeout: seconds to wait for room at most.

        Raises:
            QueueFull: there was no room in time.
            ReadLockHeld, StoreFailed, Closed: as for `handle`.
        """
        work = one(command)
        use = None if token is None else self._tokens.use(token, work, context)
        submission = Submission(work, context, False, use)
        self._push(submission, False, -1 if timeout is None else timeout)
        return submission

    def handle_all(
        self,
        commands: Commands,
        context: Context,
        *,
        token: Token | str | None = None,
        dry_run: bool = False,
    ) -> list[Result[Any]]:
        """Handle several commands as one transaction, all or none, and return the result of each.

        Parameters:
            commands: a list, or a function ``(a: Args)`` that returns commands or yields them one by one; a
                generator function receives the result of each command that it yields.
            token: as for `handle`. What a function gives is not compared: another function with the same
                token gets the first outcome.
            dry_run: as for `handle`.

        Raises:
            Rejected and the like: as for `handle`; in a list, a path such as ``[2].title`` names the command.
        """
        work = several(commands)
        use = None if token is None else self._tokens.use(token, work, context)
        submission = Submission(work, context, dry_run, use)
        self._push(submission, True)
        results: list[Result[Any]] = submission.result()
        return results

    def submit_all(
        self,
        commands: Commands,
        context: Context,
        *,
        token: Token | str | None = None,
        timeout: float | None = None,
    ) -> "Submission[list[Result[Any]]]":
        """Put several commands into the queue as one transaction and return the future of their results.

        Parameters:
            commands, token: as for `handle_all`.
            timeout: as for `submit`.
        """
        work = several(commands)
        use = None if token is None else self._tokens.use(token, work, context)
        submission = Submission(work, context, False, use)
        self._push(submission, False, -1 if timeout is None else timeout)
        return submission

    def check(self, command: Command[M], context: Context, *, token: Token | str | None = None) -> Result[M]:
        """Evaluate a command and keep nothing: return what it would do, or raise what `handle` would.

        Parameters:
            token: checked, and not used up.
        """
        return self.handle(command, context, token=token, dry_run=True)

    def token(self, *models: Model) -> Token:
        """Return a fresh token for one command, or for several as one transaction.

        Parameters:
            models: as they were read. The command is refused unless each of them still exists, in the same
                version, when it is handled.

        Raises:
            LimitExceeded: more than `limits.TOKEN_DEMANDS_MAX` models.
            ArgumentError: one of them is no model, or a draft.
        """
        return self._tokens.token(models)

    def parse_token(self, text: str) -> Token:
        """Return the token whose text this is. Commands take the text just as well.

        Raises:
            InvalidValue: (``bad_token``) it is not exactly the text of a token that this store gave out.
        """
        return self._tokens.parse(text)

"""Which command of a job is which, so that a job that runs again does not do again what it has done."""

import threading
from types import TracebackType
from typing import Any, Self

from klerk import limits
from klerk.commands import Command
from klerk.errors import ArgumentError, KlerkError, StorageError
from klerk.tokens.token import Token

# Held for the few statements that find the place of a command; no job waits for another to end.
_NAMING = threading.Lock()


class Step:
    """A command that an attempt at a job asks for. Handled within ``with``, which sees whether it is refused.

    Attributes:
        job: the id of the job.
        command: to be handled; afterwards perhaps None.
        token: which it carries.
        is_named: the job gave it a name.
    """

    __slots__ = ("_is_refused", "_number", "command", "is_named", "job", "token")

    def __init__(self, job: int, command: Command[Any], token: Token, number: int, is_named: bool) -> None:
        self.job = job
        self.command: Any = command
        self.token = token
        self.is_named = is_named
        self._number = number
        self._is_refused = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Of a command that the store failed with, or that nobody waited for, this is not known.
        self._is_refused = isinstance(error, KlerkError) and not isinstance(error, StorageError)
        if not self._is_refused and not self.is_named:
            # Nobody asks what it was; an attempt may have a million of these.
            self.command = None

    def stands_for(self, command: Command[Any]) -> bool:
        """Return whether another command is the same as this one."""
        own = self.command
        return own.event is command.event and own.target == command.target and own.values == command.values

    def number_of_next(self, command: Command[Any]) -> int:
        """Return the number of a command that is asked for in the same place as this one, after it."""
        # One that was refused used nothing up. Asked for once more, it is the same step.
        return self._number if self._is_refused and self.stands_for(command) else self._number + 1

    def is_taken_for(self, command: Command[Any]) -> bool:
        """Return whether this step has been, or may be, used for something else than a command."""
        return not self._is_refused and not self.stands_for(command)


class JobSteps:
    """Gives the commands that one attempt at a job handles their tokens.

    The same step of the same job has the same token in every attempt, also after a restart; when the job is
    run again after its end, it has another.

    Parameters:
        job: the id of the job.
        renewals: how often it was run again after it had completed.
    """

    def __init__(self, job: int, renewals: int) -> None:
        self._job = job
        self._renewals = renewals
        self._asked: dict[Any, Step] = {}

    def step(self, command: Command[Any], about: tuple[int, ...]) -> Step:
        """Return the step that a command is, by what it is about and how often that was asked for before.

        Parameters:
            about: its event, its target and what its parameters refer to, as numbers.
        """
        with _NAMING:
            last = self._asked.get(about)
            number = 0 if last is None else last.number_of_next(command)
            token = Token.derived("klerk.job", self._job, self._renewals, *about, number)
            step = self._asked[about] = Step(self._job, command, token, number, False)
        return step

    def named(self, command: Command[Any], name: str) -> Step:
        """Return the step with a name.

        Raises:
            ArgumentError: it is no name, or this attempt has used it for another command.
        """
        given: object = name
        if not isinstance(given, str) or not 1 <= len(given) <= limits.JOB_STEP_LENGTH_MAX:
            raise ArgumentError(
                f"a step's name is a text of 1 to {limits.JOB_STEP_LENGTH_MAX} characters, got {name!r}"
            )
        token = Token.derived("klerk.job", self._job, self._renewals, str(name))
        with _NAMING:
            last = self._asked.get(name)
            if last is not None and last.is_taken_for(command):
                raise ArgumentError(
                    f"the step {name!r} of job {self._job} stands for {last.command}, not for {command}",
                    hint="Give each step of a job a name of its own, as in step=f'fee for {loan}'.",
                )
            step = self._asked[name] = Step(self._job, command, token, 0, True)
        return step

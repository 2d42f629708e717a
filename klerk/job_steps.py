"""Which command of a job is which, so that a job that runs again does not do again what it has done."""

import threading
from types import TracebackType
from typing import Any, Self, TypeAlias

import msgspec

from klerk import limits
from klerk.commands import Command
from klerk.errors import ArgumentError, KlerkError, StorageError
from klerk.tokens.token import Token

Asked: TypeAlias = "Command[Any] | AskedJobs"

# Held for the few statements that find the place of a command; no job waits for another to end.
_NAMING = threading.Lock()


class AskedJobs(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that an attempt at a job asks for in one transaction.

    Parameters:
        kinds: of them.
        about: by what they are found again, without a name.
        identity: what they are; the same for what may be taken for the same.
        refers: there is one alone, and it refers to a model.
    """

    kinds: tuple[str, ...]
    about: tuple[str | int, ...]
    identity: bytes
    refers: bool

    def __repr__(self) -> str:
        return f"jobs: {', '.join(self.kinds) or 'none'}"


class Step:
    """A command that an attempt at a job asks for, or jobs. Handled within ``with``, which sees whether it is
    refused.

    Attributes:
        job: the id of the job.
        asked: what is to be done; afterwards perhaps None.
        token: which it carries.
        is_named: the job gave it a name.
    """

    __slots__ = ("_is_refused", "_number", "asked", "is_named", "job", "token")

    def __init__(self, job: int, asked: Asked, token: Token, number: int, is_named: bool) -> None:
        self.job = job
        self.asked: Any = asked
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
            self.asked = None

    def stands_for(self, asked: Asked) -> bool:
        """Return whether what is asked for, of the same sort, is the same as this one."""
        own = self.asked
        if isinstance(asked, AskedJobs):
            return bool(own.identity == asked.identity)
        return own.event is asked.event and own.target == asked.target and own.values == asked.values

    def number_of_next(self, asked: Asked) -> int:
        """Return the number of what is asked for in the same place as this one, after it."""
        # One that was refused used nothing up. Asked for once more, it is the same step.
        return self._number if self._is_refused and self.stands_for(asked) else self._number + 1

    def is_taken_for(self, asked: Asked) -> bool:
        """Return whether this step has been, or may be, used for something else than what is asked for."""
        return not self._is_refused and not self.stands_for(asked)


class JobSteps:
    """Gives the commands that one attempt at a job handles, and the jobs that it asks for, their tokens.

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

    def step(self, asked: Asked, about: tuple[str | int, ...]) -> Step:
        """Return a step by what it is about and how often that was asked for before.

        Parameters:
            about: of a command, its event, its target and what its parameters refer to, as numbers; of jobs,
                something that no command has.
        """
        with _NAMING:
            last = self._asked.get(about)
            number = 0 if last is None else last.number_of_next(asked)
            token = Token.derived("klerk.job", self._job, self._renewals, *about, number)
            step = self._asked[about] = Step(self._job, asked, token, number, False)
        return step

    def named(self, asked: Asked, name: str) -> Step:
        """Return the step with a name; commands and jobs have names of their own.

        Raises:
            ArgumentError: it is no name, or this attempt has used it for something else of the same sort.
        """
        given: object = name
        if not isinstance(given, str) or not 1 <= len(given) <= limits.JOB_STEP_LENGTH_MAX:
            raise ArgumentError(
                f"a step's name is a text of 1 to {limits.JOB_STEP_LENGTH_MAX} characters, got {name!r}"
            )
        place = ("named jobs", str(name)) if isinstance(asked, AskedJobs) else (str(name),)
        token = Token.derived("klerk.job", self._job, self._renewals, *place)
        with _NAMING:
            last = self._asked.get(place)
            if last is not None and last.is_taken_for(asked):
                raise ArgumentError(
                    f"the step {name!r} of job {self._job} stands for {last.asked}, not for {asked}",
                    hint="Give each step of a job a name of its own, as in step=f'fee for {loan}'.",
                )
            step = self._asked[place] = Step(self._job, asked, token, 0, True)
        return step

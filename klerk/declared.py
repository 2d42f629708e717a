"""What the declarations of a machine consist of: executables, conditions and rules."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from klerk import limits
from klerk._dispatch import Args, Command, JobRequest
from klerk.commands import Actor
from klerk.errors import ConfigError
from klerk.places import Place, here, place_of
from klerk.values import Model

M = TypeVar("M", bound=Model)
P = ParamSpec("P")

# What functions of the application get and give. They may also take any of the event's parameters, by name,
# which type checkers cannot express; `klerk.validation` checks those names when the app is opened.
Updating: TypeAlias = "Callable[Concatenate[Args[M, Any], P], M | None]"
Commanding: TypeAlias = "Callable[Concatenate[Args[M, Any], P], Command[Any] | Iterable[Command[Any]] | None]"
Requesting: TypeAlias = "Callable[Concatenate[Args[M, Any], P], JobRequest | Iterable[JobRequest] | None]"
Condition: TypeAlias = "Callable[Concatenate[Args[M, Any], P], bool]"
Due: TypeAlias = "Callable[[Args[M, Any]], datetime | None]"
RunAs: TypeAlias = "Actor | Callable[[Args[M, Any]], Actor]"

# The kinds of executables; the numbers are those of `klerk._dispatch.Step`.
UPDATE: Final = 0
TO: Final = 1
TO_WHEN: Final = 2
COMMANDS: Final = 3
JOB: Final = 4
UNMANAGED: Final = 5
DELETE: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Executable:
    """One thing that a block does.

    Parameters:
        kind: one of the constants of this module.
        function: of the user, when the kind has one.
        when: only then is it run.
        value: a state, the choices of ``to_when``, or a job.
        place: where it was declared.
    """

    kind: int
    function: Callable[..., Any] | None = None
    when: Callable[..., bool] | None = None
    value: Any = None
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredRule:
    """A condition, its name as the code of the problem, and what people are told."""

    function: Callable[..., bool]
    code: str
    message: str
    place: Place


def declared_rule(function: Callable[..., bool]) -> DeclaredRule:
    """Return a rule named and explained as its function is."""
    message = inspect.getdoc(function) or function.__name__.replace("_", " ")
    return DeclaredRule(
        function=function,
        code=function.__name__,
        message=" ".join(message.split("\n\n")[0].split()),
        place=place_of(function),
    )


def required_run_as(run_as: "RunAs[M] | None") -> "RunAs[M] | None":
    """Return what a timer acts as; refuse what is neither an actor nor a function.

    Raises:
        ConfigError: K041.
    """
    if run_as is not None and not isinstance(run_as, Actor) and not callable(run_as):
        raise ConfigError(
            "K041",
            f"a timer cannot act as {run_as!r}.",
            where=str(here()),
            hint="Give an actor, as in User('billing'), or a function (a) -> Actor.",
        )
    return run_as


def required_delay(delay: timedelta) -> timedelta:
    """Return a delay after which a timer can be due; refuse any other.

    Raises:
        ConfigError: K017.
    """
    if not timedelta(0) < delay <= timedelta(days=limits.TIMER_DELAY_DAYS_MAX):
        raise ConfigError(
            "K017",
            f"a timer cannot be due {delay} after its state was entered.",
            where=str(here()),
            hint=f"Use more than nothing and at most {limits.TIMER_DELAY_DAYS_MAX} days.",
        )
    return delay

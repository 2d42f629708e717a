"""What the declarations of a machine consist of: executables, conditions and rules."""

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from klerk import limits
from klerk._dispatch import Args, Command, EventBase
from klerk.batch import Requested
from klerk.commands import Actor
from klerk.errors import ConfigError
from klerk.jobs import Job
from klerk.places import Place, here, place_of
from klerk.values import Model

M = TypeVar("M", bound=Model)
P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

# What functions of the application get and give. They may also take any of the event's parameters, by name,
# which type checkers cannot express; `klerk.validation` checks those names when the app is opened.
Updating: TypeAlias = "Callable[Concatenate[Args[M, Any], P], M | None]"
Commanding: TypeAlias = "Callable[Concatenate[Args[M, Any], P], Command[Any] | Iterable[Command[Any]] | None]"
Requesting: TypeAlias = "Callable[Concatenate[Args[M, Any], P], Requested | None]"
Calling: TypeAlias = "Callable[Concatenate[Args[M, Any], P], object]"
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
    """A condition, its name as the code of the problem, what people are told, and the field it is about."""

    function: Callable[..., bool]
    code: str
    message: str
    place: Place
    path: str = ""


def needs_parentheses(decorator: F) -> F:
    """Make a method that returns a decorator refuse to be used as one itself."""

    @functools.wraps(decorator)
    def checked(self: Any, *args: Any, **options: Any) -> Any:
        if len(args) == 1 and inspect.isfunction(args[0]) and not options:
            raise ConfigError(
                "K022",
                f"the decorator of '{args[0].__name__}' has no parentheses.",
                where=str(place_of(args[0])),
                hint=f"Write @...{decorator.__name__}(...) with what it needs, above the function.",
            )
        return decorator(self, *args, **options)

    return checked  # type: ignore[return-value]


def require_function(function: Any, what: str) -> None:
    """Refuse what stands in a function's place, such as a command that was made too early.

    Parameters:
        what: it is for, as in "on Loan.lend".

    Raises:
        ConfigError: K025.
    """
    if not callable(function) or isinstance(function, (EventBase, Job)):
        raise ConfigError(
            "K025",
            f"{function!r} is not a function that can be called {what}.",
            where=str(here()),
            hint="Give a function of the args, as in lambda a: ...",
        )


def require_model_function(function: Any, what: str) -> None:
    """Refuse a function that cannot be called with a model alone.

    Parameters:
        what: it is for, as in "a rule of Loan".

    Raises:
        ConfigError: K023.
    """
    problem = "" if callable(function) else "it is no function"
    if inspect.iscoroutinefunction(function):
        problem = "it is a coroutine, and nothing is awaited here"
    elif not problem:
        try:
            inspect.signature(function).bind(None)
        except TypeError:
            problem = "it does not take the model alone"
        except ValueError:
            # Some functions of compiled modules do not tell what they take.
            problem = ""
    if problem:
        name = getattr(function, "__name__", repr(function))
        raise ConfigError(
            "K023",
            f"{name} cannot serve as {what}: {problem}.",
            where=str(here()),
            hint="Give a function of one model, as in lambda m: m.name.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredChoice:
    """What a parameter of an event may be: a view, a collection of values, or a function that gives one."""

    parameter: str
    allowed: Any
    place: Place


def declared_rule(function: Callable[..., bool], path: str = "", names: Iterable[str] = ()) -> DeclaredRule:
    """Return a rule named and explained as its function is.

    Parameters:
        path: the field or parameter that it is about, as in ``"address.lines[2]"``; empty for none.
        names: of the fields or parameters that there are.

    Raises:
        ConfigError: K031.
    """
    known = list(names)
    if path and re.split(r"[.\[]", path, maxsplit=1)[0] not in known:
        raise ConfigError(
            "K031",
            f"the rule '{function.__name__}' is about {path!r}, which is not there.",
            where=str(here()),
            hint=f"Use one of: {', '.join(known) or 'none'}.",
        )
    message = inspect.getdoc(function) or function.__name__.replace("_", " ")
    return DeclaredRule(
        function=function,
        code=function.__name__,
        message=" ".join(message.split("\n\n")[0].split()),
        place=place_of(function),
        path=path,
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
    if not isinstance(delay, timedelta):
        raise ConfigError(
            "K017",
            f"{delay!r} is no time after which a timer can be due.",
            where=str(here()),
            hint="Use a timedelta, as in timedelta(days=14).",
        )
    if not timedelta(0) < delay <= timedelta(days=limits.TIMER_DELAY_DAYS_MAX):
        raise ConfigError(
            "K017",
            f"a timer cannot be due {delay} after its state was entered.",
            where=str(here()),
            hint=f"Use more than nothing and at most {limits.TIMER_DELAY_DAYS_MAX} days.",
        )
    return delay

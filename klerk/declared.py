"""What the declarations of a machine consist of: executables, conditions, views and lookups by key."""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeAlias, TypeVar

from klerk import limits
from klerk._dispatch import Args, Command, EventBase, JobRequest
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
Requesting: TypeAlias = "Callable[Concatenate[Args[M, Any], P], JobRequest | Iterable[JobRequest] | None]"
Calling: TypeAlias = "Callable[Concatenate[Args[M, Any], P], object]"
Condition: TypeAlias = "Callable[Concatenate[Args[M, Any], P], bool]"
Due: TypeAlias = "Callable[[Args[M, Any]], datetime | None]"

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


def declared_rule(function: Callable[..., bool]) -> DeclaredRule:
    """Return a rule named and explained as its function is."""
    message = inspect.getdoc(function) or function.__name__.replace("_", " ")
    return DeclaredRule(
        function=function,
        code=function.__name__,
        message=" ".join(message.split("\n\n")[0].split()),
        place=place_of(function),
    )


class View(Generic[M]):
    """A maintained selection of one class's models; states and machines are views, too.

    Attributes:
        machine: of the class that is selected from.
        by_key: whether models are selected by what their fields hold, which may be hidden from an actor.
    """

    machine: "MachineBase[M]"
    by_key: bool = False

    def contains(self, model: M) -> bool:
        """Return whether a model of the class belongs to the view."""
        raise NotImplementedError


class MachineBase(View[M]):
    """What everything that is declared on a machine needs of it.

    Attributes:
        model_class: whose machine it is.
        name: of the class.
        app_open_check: raises when the app was opened, because its design is frozen then.
        all_states, events: as declared, in order.
    """

    all_states: list[Any]
    events: list[Any]

    def __init__(self, model_class: type[M], app_open_check: Callable[[], None]) -> None:
        self.machine = self
        self.model_class = model_class
        self.name = model_class.__name__
        self.app_open_check = app_open_check

    def contains(self, model: M) -> bool:
        return type(model) is self.model_class

    def __repr__(self) -> str:
        return self.name


class StateBase(View[M]):
    """What blocks need to know of a state that they lead to."""

    name: str
    index: int


@dataclass(frozen=True, eq=False)
class Index(Generic[M]):
    """A lookup of one class's models by key, kept as they change.

    Parameters:
        key: gives a model's key; None keeps the model out of the index.
        unique: at most one model may have a key.
    """

    machine: MachineBase[M]
    key: Callable[[M], Any]
    unique: bool
    place: Place

    def __call__(self, key: Any) -> "KeyView[M]":
        """Return the view of the models with this key."""
        return KeyView(self, key)


class KeyView(View[M]):
    """The models with one key in an index."""

    by_key = True

    def __init__(self, index: Index[M], key: Any) -> None:
        self.machine = index.machine
        self.index = index
        self.key = key

    def contains(self, model: M) -> bool:
        try:
            return bool(self.index.key(model) == self.key)
        except Exception:
            # A masked field can make the key's function fail; the model is not found by what may not be read.
            return False


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

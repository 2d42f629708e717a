"""What the declarations of a machine consist of: executables, conditions, views and lookups by key."""

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeAlias, TypeVar

from klerk import limits
from klerk._dispatch import Args, Command, JobRequest
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
    if not timedelta(0) < delay <= timedelta(days=limits.TIMER_DELAY_DAYS_MAX):
        raise ConfigError(
            "K017",
            f"a timer cannot be due {delay} after its state was entered.",
            where=str(here()),
            hint=f"Use more than nothing and at most {limits.TIMER_DELAY_DAYS_MAX} days.",
        )
    return delay

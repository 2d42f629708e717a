"""Selections: views and indexes as users declare them, from machines, states and other views."""

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar, overload

from klerk._dispatch import Call, described
from klerk.errors import ArgumentError, ConfigError, FunctionFailed, KlerkError
from klerk.places import Place, here
from klerk.values import Model

M = TypeVar("M", bound=Model)
P = ParamSpec("P")


class View(Generic[M]):
    """A selection of one class's models, in some order; states and machines are views, too.

    A view that is declared before the app is opened is kept as models change, so reading a page of it costs
    the page. One that is made afterwards, or from a view with a parameter, is worked out when it is read.

    Attributes:
        machine: of the class that is selected from.
        by_fields: whether models are selected or ordered by what their fields hold, which may be hidden from
            an actor.
        is_kept: whether it is kept as models change.

    Its ``repr`` names it in messages and cursors, and is the same after a restart.
    """

    machine: "MachineBase[M]"
    by_fields: bool = False
    is_kept: bool = True

    def contains(self, model: M) -> bool:
        """Return whether a model of the class belongs to the view."""
        raise NotImplementedError

    @overload
    def where(self, condition: "Callable[[M], bool]") -> "View[M]": ...
    @overload
    def where(  # type: ignore[overload-cannot-match]
        self, condition: "Callable[Concatenate[M, P], bool]"
    ) -> "ParameterisedView[M, P]": ...
    def where(self, condition: Callable[..., bool]) -> Any:
        """Return the view of those models for which a condition holds.

        Parameters:
            condition: ``condition(model) -> bool``, a pure function of the model. When it takes more than
                that, the result is called with the rest to get a view: ``late.where(lambda m, d: m.due < d)``
                and then ``r.list(view(day))``.
        """
        require_function(condition, "the condition of a view")
        if parameter_count(condition) > 1:
            return ParameterisedView(self, condition)
        return self.machine.keep(FilteredView(self, condition, f"where({function_name(condition)})"))

    def narrowed(self, condition: Callable[[M], bool], suffix: str) -> "View[M]":
        """Return the view of those models for which a condition holds, which is not kept."""
        view: View[M] = FilteredView(self, condition, suffix)
        view.is_kept = False
        return view

    def order(self, *keys: "str | Callable[[M], Any]", descending: bool = False) -> "OrderedView[M]":
        """Return the same models in another order; those with equal keys come in the order of their creation.

        Parameters:
            keys: names of fields, each with a ``-`` in front to turn it round, or of ``id``, ``version``,
                ``created_at``, ``updated_at``, ``entered_at`` or ``state``; or one function of the model that
                gives a text, number, time, truth value, enum, UUID, None (comes first) or a tuple of these.
            descending: turn the whole order round.
        """
        return self.machine.keep(OrderedView(self, keys, descending=descending))

    def in_states(self, *states: "StateBase[M]") -> "View[M]":
        """Return the view of those models that are in one of some states."""
        return self.machine.keep(StatesView(self, states))


V = TypeVar("V", bound=View[Any])


class MachineBase(View[M]):
    """What everything that is declared on a machine needs of it.

    Attributes:
        model_class: whose machine it is.
        app_open_check: raises when the app was opened, because its design is frozen then.
        all_states, events: as declared, in order.
        views: those that are kept, in the order of their declaration.
    """

    all_states: list[Any]
    events: list[Any]

    def __init__(
        self, model_class: type[M], app_open_check: Callable[[], None], is_frozen: Callable[[], bool]
    ) -> None:
        self.machine = self
        self.model_class = model_class
        self.name = model_class.__name__
        self.app_open_check = app_open_check
        self._is_frozen = is_frozen
        self.views: list[View[Any]] = []

    def contains(self, model: M) -> bool:
        return model.__class__ is self.model_class

    def keep(self, view: V) -> V:
        """Note that a view is to be kept as models change, if it can be; return it."""
        view.is_kept = view.is_kept and not self._is_frozen()
        if view.is_kept:
            self.views.append(view)
        return view

    def __repr__(self) -> str:
        return self.name


class StateBase(View[M]):
    """What views and blocks need to know of a state.

    Parameters:
        name: unique in its machine.
        index: its place among the machine's states.
    """

    def __init__(self, machine: MachineBase[M], name: str, index: int) -> None:
        self.machine = machine
        self.name = name
        self.index = index

    def contains(self, model: M) -> bool:
        return model.meta.state is self


class DerivedView(View[M]):
    """A view made from another one.

    Attributes:
        base: the other one.
    """

    def __init__(self, base: View[M], suffix: str) -> None:
        self.base = base
        self.machine = base.machine
        self.by_fields = base.by_fields
        self.is_kept = base.is_kept
        self._suffix = suffix

    def __repr__(self) -> str:
        return f"{self.base!r}.{self._suffix}"


class StatesView(DerivedView[M]):
    """The models of a view that are in one of some states."""

    def __init__(self, base: View[M], states: "tuple[StateBase[M], ...]") -> None:
        for state in states:
            given: Any = state
            if not isinstance(given, StateBase) or given.machine is not base.machine:
                raise ConfigError(
                    "K009",
                    f"{state!r} is not a state of {base.machine.name}.",
                    where=str(here()),
                    hint=f"Use one of: {', '.join(map(str, base.machine.all_states))}.",
                )
        super().__init__(base, f"in_states({', '.join(state.name for state in states)})")
        self.states = states

    def contains(self, model: M) -> bool:
        return model.meta.state in self.states and self.base.contains(model)


class FilteredView(DerivedView[M]):
    """The models of a view for which a condition holds."""

    def __init__(self, base: View[M], condition: Callable[[M], bool], suffix: str) -> None:
        super().__init__(base, suffix)
        self.condition = condition
        self.by_fields = True
        self._call = Call(condition)

    def contains(self, model: M) -> bool:
        return self.base.contains(model) and self._call.holds_for(model)


@dataclass(frozen=True, eq=False)
class ParameterisedView(Generic[M, P]):
    """A view that needs values for the parameters of its condition; called with them, it gives the view.

    Such views are worked out when they are read, at the cost of reading the view that they are made from.
    For a key that many are looked up by, declare an index.
    """

    base: View[M]
    condition: Callable[..., bool]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> View[M]:
        shown = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        return self.base.narrowed(
            lambda model: self.condition(model, *args, **kwargs),
            f"where({', '.join([function_name(self.condition), *shown])})",
        )


class OrderedView(DerivedView[M]):
    """The models of a view in the order of a key.

    Attributes:
        keys: names of fields, or one function.
        descending: whether the order is turned round.
    """

    def __init__(self, base: View[M], keys: tuple[Any, ...], *, descending: bool) -> None:
        if not is_order(keys):
            raise ConfigError(
                "K017",
                f"{keys!r} is no order.",
                where=str(here()),
                hint="Name fields, as in order('due', '-fee'), or give one function.",
            )
        shown = ", ".join(key if isinstance(key, str) else function_name(key) for key in keys)
        super().__init__(base, f"order({shown}{', descending' if descending else ''})")
        self.place = here()
        self.keys = keys
        self.descending = descending
        self.by_fields = True

    def contains(self, model: M) -> bool:
        return self.base.contains(model)

    @overload
    def where(self, condition: Callable[[M], bool]) -> View[M]: ...
    @overload
    def where(  # type: ignore[overload-cannot-match]
        self, condition: Callable[Concatenate[M, P], bool]
    ) -> ParameterisedView[M, P]: ...
    def where(self, condition: Callable[..., bool]) -> Any:
        """See `View.where`: the models keep their order."""
        require_function(condition, "the condition of a view")
        if parameter_count(condition) > 1:
            return ParameterisedView(self, condition)
        narrowed: View[M] = FilteredView(self.base, condition, f"where({function_name(condition)})")
        return narrowed.order(*self.keys, descending=self.descending)

    def in_states(self, *states: "StateBase[M]") -> View[M]:
        """See `View.in_states`: the models keep their order."""
        return StatesView(self.base, states).order(*self.keys, descending=self.descending)

    def order(self, *keys: "str | Callable[[M], Any]", descending: bool = False) -> "OrderedView[M]":
        """See `View.order`: the new order takes the place of this one."""
        return self.base.order(*keys, descending=descending)

    def narrowed(self, condition: Callable[[M], bool], suffix: str) -> View[M]:
        """See `View.narrowed`: the models keep their order."""
        return self.base.narrowed(condition, suffix).order(*self.keys, descending=self.descending)


_NO_KEYS: Final[frozenset[Hashable]] = frozenset()


@dataclass(frozen=True, eq=False)
class Index(Generic[M]):
    """A lookup of one class's models by key, kept as they change.

    Parameters:
        key: gives a model's key; None keeps the model out of the index.
        unique: at most one model may have a key.
        each: the function gives several keys, and the model is found under each.
    """

    machine: MachineBase[M]
    key: Callable[[M], Any]
    unique: bool
    each: bool
    place: Place

    def __call__(self, key: Any) -> "KeyView[M]":
        """Return the view of the models with this key.

        Raises:
            ArgumentError: it cannot be a key, since it has no hash.
        """
        try:
            hash(key)
        except TypeError as error:
            raise ArgumentError(
                f"{key!r} cannot be a key of {self!r}: {error}",
                hint="Keys are texts, numbers, references and tuples of these.",
            ) from error
        return KeyView(self, key)

    def keys_of(self, model: M) -> frozenset[Hashable]:
        """Return the keys that a model is found under.

        Raises:
            FunctionFailed: the user's function raised, or gave something that is not hashable.
        """
        try:
            key = self.key(model)
            if key is None:
                return _NO_KEYS
            return frozenset(key) if self.each else frozenset((key,))
        except KlerkError:
            raise
        except Exception as error:
            text = f"{described(self.key)} raised {type(error).__name__}: {error}"
            raise FunctionFailed(text) from error

    def __repr__(self) -> str:
        return f"{self.machine!r}.index({function_name(self.key)})"


class KeyView(View[M]):
    """The models with one key in an index."""

    by_fields = True
    # The models with one key are few: what is made from them is worked out when it is read.
    is_kept = False

    def __init__(self, index: Index[M], key: Any) -> None:
        self.machine = index.machine
        self.index = index
        self.key = key

    def contains(self, model: M) -> bool:
        return self.key is not None and self.key in self.index.keys_of(model)

    def __repr__(self) -> str:
        return f"{self.index!r}({self.key!r})"


def require_function(function: Any, what: str) -> None:
    """Raise `ConfigError` (K017) unless something can be a function of a model: a coroutine says nothing."""
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise ConfigError(
            "K017",
            f"{what} is {function!r}.",
            where=str(here()),
            hint="Give a plain function of the model, as in where(lambda m: m.price > 5).",
        )


def is_order(keys: tuple[Any, ...]) -> bool:
    """Return whether models can be ordered by these: names of fields, or one function."""
    named = bool(keys) and all(isinstance(key, str) for key in keys)
    return named or (len(keys) == 1 and callable(keys[0]) and not inspect.iscoroutinefunction(keys[0]))


def parameter_count(function: Callable[..., Any]) -> int:
    """Return how many positional parameters without a default a function takes; 1 when that is not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(
        parameter.default is inspect.Parameter.empty
        and parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        for parameter in parameters
    )


def function_name(function: Any) -> str:
    """Return what a function is called in the name of a view: a lambda by its line."""
    name: str = getattr(function, "__name__", type(function).__name__)
    code = getattr(function, "__code__", None)
    return f"line {code.co_firstlineno}" if name == "<lambda>" and code is not None else name

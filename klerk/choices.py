"""What may be chosen for an event's parameters, compiled, and whether a value is among it."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from klerk._dispatch import Args, Call, Choice, Demands, Rule
from klerk._working import id_or_zero
from klerk.declared import DeclaredChoice, DeclaredRule
from klerk.errors import ArgumentError, ConfigError, FunctionFailed, Problem, listed
from klerk.field_types import FieldType
from klerk.parameters import CheckedEvent
from klerk.selections import Index, MachineBase, ParameterisedView, View
from klerk.validation import VALUES, call_of
from klerk.values import Model

Machines = Mapping[type[Model], MachineBase[Any]]

_SHOWN_MAX = 10


class Models:
    """Judges references: the models must be in a view of one of the classes that are referred to.

    Parameters:
        name: of the parameter.
        field: its type.
        machines: of the app.
    """

    def __init__(self, name: str, field: FieldType, machines: Machines) -> None:
        self._name = name
        self._field = field
        self._machines = {cls: machines[cls] for cls in targets_of(field) if cls in machines}

    def misfit(self, allowed: Any) -> str:
        """Return why something cannot say what is valid; empty when it can."""
        if isinstance(allowed, (Index, ParameterisedView)):
            return f"{allowed!r} gives a view only once it is called"
        names = " or ".join(cls.__name__ for cls in self._machines)
        if not isinstance(allowed, View):
            return f"it refers to {names}, so what is valid is a view"
        if not any(allowed.machine is machine for machine in self._machines.values()):
            return f"it refers to {names}, and {allowed!r} is a view of something else"
        return ""

    def require(self, allowed: Any, what: str) -> None:
        """Refuse what a function of the application gave, unless it is a view of the class."""
        problem = self.misfit(allowed)
        if problem:
            raise FunctionFailed(f"{what} gave {allowed!r} for '{self._name}': {problem}")

    def problems(
        self, value: Any, allowed: View[Any], working: Callable[[int], Model | None]
    ) -> Iterable[Problem]:
        """Yield a problem for each model that is not in the view."""
        field, wanted = self._field, allowed.machine.model_class
        ids = [(value, field.target)] if field.nested is None else list(field.nested(value))
        for id, target in ids:
            model = working(id_or_zero(id))
            if target is wanted and not (model is not None and allowed.contains(model)):
                text = f"{target.__name__} {id} cannot be chosen here"
                about = {"model": target.__name__, "id": id}
                yield Problem(code="not_valid_reference", message=text, path=self._name, values=about)


class Values:
    """Judges values that are no references: each must be in a collection.

    Parameters:
        name: of the parameter.
        field: its type.
    """

    def __init__(self, name: str, field: FieldType) -> None:
        self._name = name
        self._single = field if field.element is None else field.element
        self._several = field.element is not None

    def misfit(self, allowed: Any) -> str:
        """Return why something cannot say what is valid; empty when it can."""
        if isinstance(allowed, Collection) and not isinstance(allowed, (str, bytes, View)):
            return ""
        return "it is no reference, so what is valid is a collection of values"

    def require(self, allowed: Any, what: str) -> None:
        """Refuse what a function of the application gave, unless it is a collection."""
        problem = self.misfit(allowed)
        if problem:
            raise FunctionFailed(f"{what} gave {allowed!r} for '{self._name}': {problem}")

    def checked(self, allowed: Iterable[Any], problems: list[Problem]) -> Collection[Any]:
        """Return values that are valid as the parameter's type wants them, in the same order."""
        return dict.fromkeys(self._single.coerce(each, "", problems) for each in allowed).keys()

    def problems(self, value: Any, allowed: Collection[Any], working: object) -> Iterable[Problem]:
        """Yield a problem for each value that is not in the collection."""
        for each in value if self._several else (value,):
            if each is not None and each not in allowed:
                known = tuple(getattr(one, "value", one) for one in allowed)
                text = ", ".join(map(str, known[:_SHOWN_MAX])) + (", ..." if len(known) > _SHOWN_MAX else "")
                yield Problem(
                    code="not_valid_value",
                    message=f"must be one of {text}" if known else "cannot be anything here",
                    path=self._name,
                    values={"known": known},
                )


def targets_of(field: FieldType) -> set[type[Model]]:
    """Return the model classes that values of a type refer to."""
    found = set() if field.target is None else {field.target}
    parts = [*field.members.values(), *([] if field.element is None else [field.element])]
    return found.union(*map(targets_of, parts))


def demands_of(
    event: CheckedEvent[Any], types: Mapping[str, FieldType], machines: Machines
) -> Demands | None:
    """Return what an event asks of its parameters beyond their types; None for nothing.

    Raises:
        ConfigError: K008, K033.
    """
    if not event.validators and not event.choices:
        return None
    validators = [_validator(event, rule) for rule in event.validators]
    return Demands(
        validators, [_choice(event, each, types[each.parameter], machines) for each in event.choices]
    )


def _validator(event: CheckedEvent[Any], rule: DeclaredRule) -> Rule:
    positions = tuple(event.names.index(name) for name in inspect.signature(rule.function).parameters)
    return Rule(Call(rule.function, VALUES, positions), rule.code, rule.message, "", f"{event}.{rule.code}")


def _choice(
    event: CheckedEvent[Any], declared: DeclaredChoice, field: FieldType, machines: Machines
) -> Choice:
    name, allowed = declared.parameter, declared.allowed
    judge = Models(name, field, machines) if targets_of(field) else Values(name, field)
    position = event.names.index(name)
    if callable(allowed) and not isinstance(allowed, (View, Index, ParameterisedView, Collection)):
        call = call_of(allowed, (), f"what is valid for '{name}' of {event}")
        return Choice(position, name, judge, call=call)
    problem = judge.misfit(allowed)
    if not problem and isinstance(judge, Values):
        problems: list[Problem] = []
        allowed = judge.checked(allowed, problems)
        problem = listed(problems) if problems else ""
    if problem:
        raise ConfigError(
            "K033",
            f"what is valid for '{name}' of {event!r} does not fit: {problem}.",
            where=str(declared.place),
            hint="For references give a view, for other types a collection, or a function (a) of one.",
        )
    return Choice(position, name, judge, allowed=allowed)


def valid_view(event: CheckedEvent[Any], name: str, a: Callable[[], Args[Any, Any]]) -> View[Any]:
    """Return the view of the models that a reference parameter of an event may point to.

    Parameters:
        a: makes the args for a choice that depends on them.

    Raises:
        ArgumentError: the event has no such parameter, or it is no reference to one class.
    """
    compiled = event.compiled_parameters()
    targets = targets_of(compiled.types[name]) if name in compiled.types else set()
    if len(targets) != 1:
        raise ArgumentError(
            f"{event!r} has no parameter '{name}' that refers to models of one class",
            hint=f"It has: {', '.join(event.names) or 'none'}.",
        )
    for choice in () if compiled.demands is None else compiled.demands.choices:
        if choice.name == name:
            view: View[Any] = choice.allowed if choice.call is None else choice.allowed_in(a())
            return view
    (target,) = targets
    return compiled.machines[target]

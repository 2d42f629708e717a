"""Which parameters of logged commands an actor may see: those that it could see as fields."""

from typing import Any

import msgspec

from klerk._dispatch import Args, Call, ask, new_args
from klerk.app import EventSpec, Spec
from klerk.authorization import FIELD, Permission
from klerk.commands import System
from klerk.errors import KlerkError
from klerk.field_types import FieldType
from klerk.reading.reader import AuthorizedReading
from klerk.validation import call_of
from klerk.values import MASKED, Model


class _Rules(msgspec.Struct, frozen=True):
    """Rules that have to permit something: one of those that allow, and none of those that deny."""

    allow: tuple[Call, ...]
    deny: tuple[Call, ...]


class _ParameterRules(msgspec.Struct, frozen=True):
    """What decides about one parameter: the rules of the event's class, then those of other classes."""

    name: str
    field: FieldType
    own: _Rules
    others: tuple[_Rules, ...]


class Masking:
    """Decides about the parameters of every event of a design.

    A parameter is shown to those who may read the model and a field of its name and tags. A field of that
    name in other classes counts where the event's own class has none, and so do rules about its tags, for
    whatever class they are. A rule that asks for a model which is gone, hides.

    Parameters:
        spec: the design.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._fields = {each.machine.model_class: each.fields for each in spec.machines}
        self._readable = {
            cls: _Rules(calls(spec.allow.for_class(cls)), calls(spec.deny.for_class(cls)))
            for cls in self._fields
        }
        self._of_event = {
            str(each.event): {name: self._rules(each, name, field) for name, field in each.parameters.items()}
            for each in spec.events
        }
        self._class_of_event: dict[str, type[Model]] = {
            str(each.event): each.event.machine.model_class for each in spec.events
        }

    def shown(
        self,
        reader: AuthorizedReading,
        event: str,
        target: int,
        names: tuple[str, ...],
        values: tuple[Any, ...],
    ) -> dict[str, Any]:
        """Return a command's parameters by name, as they may be seen.

        Parameters:
            reader: reads what the rules are asked about.
            event: its name; it may be one that is no longer declared.
            target: the id of the model that the command was about; 0 for none.
            names: of the event's parameters at that time.
            values: as they were stored.

        Raises:
            FunctionFailed: a rule raised.
        """
        trusted = isinstance(reader.context.actor, System)
        rules = self._of_event.get(event)
        found: dict[str, Any] = {}
        for place, value in enumerate(values):
            # Of an event that is gone, parameters are told by their places.
            name = names[place] if rules is not None and place < len(names) else str(place + 1)
            rule = None if rules is None else rules.get(name)
            if rule is None:
                # It is of an older version of the event, and nobody knows any more who might see it.
                found[name] = value if trusted else MASKED
                continue
            visible = trusted or self._visible(reader, self._class_of_event[event], target, rule)
            found[name] = _converted(value, rule.field) if visible else MASKED
        return found

    def _visible(
        self, reader: AuthorizedReading, cls: type[Model], target: int, rule: _ParameterRules
    ) -> bool:
        model = reader.sight.source.model(target)
        if type(model) is not cls:
            model = None
        context = reader.context
        a = new_args(context, context.now, reader.sight.plain, model)
        if not (_permit(self._readable[cls], a, None, model) and _permit(rule.own, a, rule.name, model)):
            return False
        elsewhere = new_args(context, context.now, reader.sight.plain)
        return all(_permit(each, elsewhere, rule.name, None) for each in rule.others)

    def _rules(self, each: EventSpec, name: str, field: FieldType) -> _ParameterRules:
        cls = each.event.machine.model_class
        fields = self._fields[cls]
        tags = field.tags | (fields[name].tags if name in fields else frozenset())
        own = _Rules(
            calls(self._spec.allow.for_field(cls, name, tags)),
            calls([*self._spec.deny.for_field(cls, name, tags), *self._about_tags(tags)]),
        )
        others = [
            _Rules(
                calls(self._spec.allow.for_field(other, name, its[name].tags)),
                calls(self._spec.deny.for_field(other, name, its[name].tags)),
            )
            for other, its in self._fields.items()
            if name in its and name not in fields
        ]
        return _ParameterRules(name, field, own, tuple(others))

    def _about_tags(self, tags: frozenset[str]) -> list[Any]:
        """Return the functions that deny fields with one of some tags, in whatever class."""
        denied: list[Permission] = self._spec.deny.all
        return [rule.function for rule in denied if rule.subject == FIELD and rule.tag in tags]


def calls(functions: list[Any]) -> tuple[Call, ...]:
    """Return allow or deny rules ready to be asked."""
    return tuple(call_of(function, (), "an allow or deny rule") for function in functions)


def _permit(rules: _Rules, a: Args, name: str | None, model: Model | None) -> bool:
    """Ask rules; without a model, one that looks at it counts as a no."""
    try:
        allowed, looked, _ = ask(rules.allow, a, name)
        if not allowed or (looked and model is None):
            return False
        denied, looked, _ = ask(rules.deny, a, name)
        return not denied and not (looked and model is None)
    except KlerkError:
        if model is None:
            return False
        raise


def _converted(value: Any, field: FieldType) -> Any:
    """Return a stored value as its declared type; as it is, when that type was another one then."""
    try:
        return msgspec.convert(value, field.plain)
    except msgspec.ValidationError:
        return value

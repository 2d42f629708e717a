"""What things of a design are called for people, in their language."""

import enum
import inspect
from types import MemberDescriptorType
from typing import Any

from klerk.errors import ArgumentError
from klerk.jobs import Job
from klerk.machine import CreateEvent, Event, Machine, State
from klerk.translation import Translation, text_of
from klerk.values import Model


def label(thing: object, translation: Translation | None = None, *, parameter: str = "") -> str:
    """Return what something of a design is called for people.

    Parameters:
        thing: an event, state, machine, model class, job or member of an enum; or a field, as ``Loan.title``.
        translation: asked with keys such as ``"event.Loan.lend"``, ``"state.Loan.overdue"``,
            ``"model.Loan"``, ``"field.Loan.title"``, ``"job.remind"``, ``"enum.Colour.RED"`` and
            ``"parameter.Loan.lend.title"``; None gives English.
        parameter: the name of one of the event's parameters, which is meant then.

    Returns:
        In English the first line of the docstring of an event or job, otherwise the name in words.

    Raises:
        ArgumentError: it is nothing that has a label.
    """
    key, default = _named(thing)
    if parameter:
        if not isinstance(thing, (CreateEvent, Event)) or parameter not in thing.names:
            raise ArgumentError(f"{thing!r} has no parameter '{parameter}'")
        key, default = f"parameter.{thing!r}.{parameter}", _in_words(parameter)
    return default if translation is None else text_of(translation)(key, default, {})


def _named(thing: Any) -> tuple[str, str]:
    """Return the key of something, and its label in English."""
    if isinstance(thing, (CreateEvent, Event)):
        return f"event.{thing!r}", thing.label
    if isinstance(thing, State):
        return f"state.{thing!r}", _in_words(thing.name)
    if isinstance(thing, Machine):
        return f"model.{thing.name}", thing.name
    if isinstance(thing, Job):
        return f"job.{thing.name}", thing.label
    if isinstance(thing, enum.Enum):
        return f"enum.{type(thing).__name__}.{thing.name}", _in_words(thing.name.lower())
    if inspect.isclass(thing) and issubclass(thing, Model):
        return f"model.{thing.__name__}", thing.__name__
    if isinstance(thing, MemberDescriptorType) and issubclass(thing.__objclass__, Model):
        return f"field.{thing.__objclass__.__name__}.{thing.__name__}", _in_words(thing.__name__)
    raise ArgumentError(
        f"{thing!r} has no label",
        hint="Events, states, machines, models, fields (Loan.title), jobs and members of enums have one.",
    )


def _in_words(name: str) -> str:
    return name.replace("_", " ")

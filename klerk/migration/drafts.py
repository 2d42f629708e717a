"""Drafts of a stored schema, which migrations change, and the steps that bring stored records up to date.

A draft holds names and types, as the catalog does. The same operations run over the draft of a whole store,
to find out whether they lead to the declared design, and over the draft of a single model or job kind as it
was stored once, to find the steps that bring such a record up to date.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from klerk._dispatch import described
from klerk.errors import FunctionFailed, KlerkError

Fields = dict[str, Any]
"""Plain values by name: of a model's fields, or a job's arguments."""

Step = Callable[[Fields], Fields]
Transform = Callable[[Fields], Fields]

ADDED = ""
"""The stored type of a field that an operation added: what the design declares, whatever that is."""


@dataclass(slots=True, kw_only=True)
class ClassDraft:
    """A model class on its way from one version to the next.

    Parameters:
        states: by code; an empty name is a state that was deleted.
        fields: stored types by name, in the stored order.
        codes: for every code that a stored model may have, the code that it has from now on.
        steps: bring the fields of one model up to date.
        is_open: a transform decides what fields there are: only the models themselves can tell.
        is_touched: what is stored of its models changes.
        is_deleted: there is no such class any more.
    """

    states: list[str]
    fields: dict[str, str]
    codes: list[int]
    steps: list[Step] = field(default_factory=list)
    is_open: bool = False
    is_touched: bool = False
    is_deleted: bool = False

    def touch(self, step: Step) -> None:
        """Add a step."""
        self.is_touched = True
        self.steps.append(step)


@dataclass(slots=True, kw_only=True)
class JobDraft:
    """A job kind on its way from one version to the next.

    Parameters:
        parameters: stored types by name, in the stored order.
        versions: the same, in each version of the parameters that was declared so far.
        steps: bring the arguments of one job up to date.
        is_open, is_touched: as for a class.
    """

    parameters: dict[str, str]
    versions: dict[int, dict[str, str]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    is_open: bool = False
    is_touched: bool = False


@dataclass(slots=True, kw_only=True)
class Draft:
    """The schema of a store, or a part of it, on its way from one version to the next.

    Parameters:
        classes, jobs: by their present names.
        events: names by code.
        contradictions: what operations cannot do here.
    """

    classes: dict[str, ClassDraft] = field(default_factory=dict)
    jobs: dict[str, JobDraft] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)


def renamed(old: str, new: str) -> Step:
    """Return a step that gives a field, if there is one, another name."""

    def step(fields: Fields) -> Fields:
        if old in fields:
            fields[new] = fields.pop(old)
        return fields

    return step


def filled(name: str, encoded: bytes) -> Step:
    """Return a step that gives a field a value, encoded as MessagePack, unless it has one."""

    def step(fields: Fields) -> Fields:
        if name not in fields:
            fields[name] = msgspec.msgpack.decode(encoded)
        return fields

    return step


def without(name: str) -> Step:
    """Return a step that drops a field."""
    return lambda fields: {other: value for other, value in fields.items() if other != name}


def transformed(function: Transform) -> Step:
    """Return a step that calls a function of the application, with a dict of its own."""

    def step(fields: Fields) -> Fields:
        try:
            result = function(dict(fields))
        except KlerkError:
            raise
        except Exception as error:
            text = f"{described(function)} raised {type(error).__name__}: {error}"
            raise FunctionFailed(text) from error
        if type(result) is not dict or not all(type(name) is str for name in result):
            raise FunctionFailed(
                f"{described(function)} returned {type(result).__name__}, expected a dict of values by name"
            )
        return result

    return step

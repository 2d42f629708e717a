"""What migrations consist of: operations that change a draft of the stored schema."""

import abc
import json
import re
from dataclasses import dataclass

from klerk.migration.drafts import ADDED, ClassDraft, Draft, Transform, filled, renamed, transformed, without


@dataclass(frozen=True, kw_only=True)
class Operation(abc.ABC):
    """One thing that a migration does. Its text is the call that declared it."""

    @abc.abstractmethod
    def apply(self, draft: Draft) -> bool:
        """Change a draft; return whether there was anything in it that this operation is about."""

    @property
    @abc.abstractmethod
    def subject(self) -> tuple[str, ...]:
        """What it is about: of two operations of one kind and subject in a migration, one is a mistake."""

    @abc.abstractmethod
    def __str__(self) -> str: ...


def call(method: str, *names: str, into: str = "", function: object = None) -> str:
    """Return an operation as it is written in a migration."""
    arguments = [json.dumps(name, ensure_ascii=False) for name in names]
    if into:
        arguments.append(f"into={json.dumps(into, ensure_ascii=False)}")
    if function is not None:
        arguments.append(getattr(function, "__name__", type(function).__name__))
    return f"m.{method}({', '.join(arguments)})"


@dataclass(frozen=True, kw_only=True)
class RenameModel(Operation):
    """A model class has another name; references to it follow, and so do the names of its events."""

    old: str
    new: str

    @property
    def subject(self) -> tuple[str, ...]:
        return (self.old,)

    def apply(self, draft: Draft) -> bool:
        reference = re.compile(rf"\bref {re.escape(self.old)}\b")
        for each in draft.classes.values():
            each.fields = _with_references(each.fields, reference, self.new)
        for job in draft.jobs.values():
            job.parameters = _with_references(job.parameters, reference, self.new)
            job.versions = {
                version: _with_references(each, reference, self.new) for version, each in job.versions.items()
            }
        if self.old not in draft.classes:
            return False
        if self.new in draft.classes:
            draft.contradictions.append(f"{self}: the store has a model {self.new} already")
            return True
        draft.classes = {self.new if name == self.old else name: each for name, each in draft.classes.items()}
        prefix = f"{self.old}."
        draft.events = [
            f"{self.new}.{name.removeprefix(prefix)}" if name.startswith(prefix) else name
            for name in draft.events
        ]
        return True

    def __str__(self) -> str:
        return call("rename_model", self.old, self.new)


def _with_references(types: dict[str, str], reference: re.Pattern[str], target: str) -> dict[str, str]:
    return {name: reference.sub(f"ref {target}", stored) for name, stored in types.items()}


@dataclass(frozen=True, kw_only=True)
class OfModel(Operation):
    """An operation on one model class."""

    model: str

    def apply(self, draft: Draft) -> bool:
        found = draft.classes.get(self.model)
        return found is not None and self.change(found, draft)

    @abc.abstractmethod
    def change(self, each: ClassDraft, draft: Draft) -> bool:
        """Change the class; return whether there was anything to do."""


@dataclass(frozen=True, kw_only=True)
class DeleteModel(OfModel):
    """A model class is gone, with all of its models."""

    @property
    def subject(self) -> tuple[str, ...]:
        return (self.model,)

    def change(self, each: ClassDraft, draft: Draft) -> bool:
        each.is_deleted = True
        del draft.classes[self.model]
        return True

    def __str__(self) -> str:
        return call("delete_model", self.model)


@dataclass(frozen=True, kw_only=True)
class RenameField(OfModel):
    """A field has another name."""

    old: str
    new: str

    @property
    def subject(self) -> tuple[str, ...]:
        return self.model, self.old

    def change(self, each: ClassDraft, draft: Draft) -> bool:
        if self.new in each.fields and self.old in each.fields:
            draft.contradictions.append(f"{self}: the store has a field {self.model}.{self.new} already")
            return True
        if self.old not in each.fields and not each.is_open:
            return False
        each.fields = {self.new if name == self.old else name: kind for name, kind in each.fields.items()}
        each.touch(renamed(self.old, self.new))
        return True

    def __str__(self) -> str:
        return call("rename_field", self.model, self.old, self.new)


@dataclass(frozen=True, kw_only=True)
class AddField(OfModel):
    """A field is new, and models that are stored already get a value.

    Parameters:
        default: in MessagePack.
        shown: the default for people.
    """

    name: str
    default: bytes
    shown: str

    @property
    def subject(self) -> tuple[str, ...]:
        return self.model, self.name

    def change(self, each: ClassDraft, draft: Draft) -> bool:
        if self.name in each.fields:
            return False
        each.fields = {**each.fields, self.name: ADDED}
        each.touch(filled(self.name, self.default))
        return True

    def __str__(self) -> str:
        return f"{call('add_field', self.model, self.name)[:-1]}, default={self.shown})"


@dataclass(frozen=True, kw_only=True)
class DeleteField(OfModel):
    """A field is gone, with all that it held."""

    name: str

    @property
    def subject(self) -> tuple[str, ...]:
        return self.model, self.name

    def change(self, each: ClassDraft, draft: Draft) -> bool:
        if self.name not in each.fields and not each.is_open:
            return False
        each.fields = {name: kind for name, kind in each.fields.items() if name != self.name}
        each.touch(without(self.name))
        return True

    def __str__(self) -> str:
        return call("delete_field", self.model, self.name)


@dataclass(frozen=True, kw_only=True)
class ReorderFields(OfModel):
    """The fields of a model are declared in another order."""

    @property
    def subject(self) -> tuple[str, ...]:
        return (self.model,)

    def change(self, each: ClassDraft, draft: Draft) -> bool:
        each.is_touched = True
        return True

    def __str__(self) -> str:
        return call("reorder_fields", self.model)


@dataclass(frozen=True, kw_only=True)
class TransformModel(OfModel):
    """A function makes the new fields of every model from the old ones."""

    function: Transform

    @property
    def subject(self) -> tuple[str, ...]:
        return self.model, getattr(self.function, "__qualname__", repr(self.function))

    def change(self, each: ClassDraft, draft: Draft) -> bool:
        each.is_open = True
        each.touch(transformed(self.function))
        return True

    def __str__(self) -> str:
        return call("transform", self.model, function=self.function)


@dataclass(frozen=True, kw_only=True)
class RenameState(OfModel):
    """A state has another name."""

    old: str
    new: str

    @property
    def subject(self) -> tuple[str, ...]:
        return self.model, self.old

    def change(self, each: ClassDraft, draft: Draft) -> bool:
        if self.old not in each.states:
            return False
        if self.new in each.states:
            draft.contradictions.append(
                f"{self}: the store has a state {self.model}.{self.new} already;"
                f" {call('delete_state', self.model, self.old, into=self.new)} makes them one"
            )
            return True
        each.states = [self.new if name == self.old else name for name in each.states]
        return True

    def __str__(self) -> str:
        return call("rename_state", self.model, self.old, self.new)


@dataclass(frozen=True, kw_only=True)
class DeleteState(OfModel):
    """A state is gone; its models are in another one."""

    name: str
    into: str

    @property
    def subject(self) -> tuple[str, ...]:
        return self.model, self.name

    def change(self, each: ClassDraft, draft: Draft) -> bool:
        if self.name not in each.states:
            return False
        if self.into not in each.states:
            each.states = [*each.states, self.into]
        gone, into = each.states.index(self.name), each.states.index(self.into)
        # The code stays taken, so that none ever means two things.
        each.states = ["" if name == self.name else name for name in each.states]
        each.codes = [into if code == gone else code for code in each.codes]
        each.is_touched = True
        return True

    def __str__(self) -> str:
        return call("delete_state", self.model, self.name, into=self.into)


@dataclass(frozen=True, kw_only=True)
class RenameEvent(Operation):
    """An event has another name; both are written as in ``"Loan.give_back"``."""

    old: str
    new: str

    @property
    def subject(self) -> tuple[str, ...]:
        return (self.old,)

    def apply(self, draft: Draft) -> bool:
        if self.old not in draft.events:
            return False
        draft.events = [self.new if name == self.old else name for name in draft.events]
        return True

    def __str__(self) -> str:
        return call("rename_event", self.old, self.new)


@dataclass(frozen=True, kw_only=True)
class RenameJob(Operation):
    """A job kind has another name."""

    old: str
    new: str

    @property
    def subject(self) -> tuple[str, ...]:
        return (self.old,)

    def apply(self, draft: Draft) -> bool:
        if self.old not in draft.jobs:
            return False
        job = draft.jobs.pop(self.old)
        job.is_touched = True
        # Two kinds may become one: each job of either is held against the declared parameters.
        draft.jobs.setdefault(self.new, job)
        return True

    def __str__(self) -> str:
        return call("rename_job", self.old, self.new)


@dataclass(frozen=True, kw_only=True)
class DeleteJob(Operation):
    """A job kind is gone, with all of its jobs that have not ended."""

    kind: str

    @property
    def subject(self) -> tuple[str, ...]:
        return (self.kind,)

    def apply(self, draft: Draft) -> bool:
        return draft.jobs.pop(self.kind, None) is not None

    def __str__(self) -> str:
        return call("delete_job", self.kind)


@dataclass(frozen=True, kw_only=True)
class TransformJob(Operation):
    """A function makes the new arguments of every job of a kind from the old ones."""

    kind: str
    function: Transform

    @property
    def subject(self) -> tuple[str, ...]:
        return self.kind, getattr(self.function, "__qualname__", repr(self.function))

    def apply(self, draft: Draft) -> bool:
        job = draft.jobs.get(self.kind)
        if job is None:
            return False
        job.is_open = job.is_touched = True
        job.steps.append(transformed(self.function))
        return True

    def __str__(self) -> str:
        return call("transform_job", self.kind, function=self.function)

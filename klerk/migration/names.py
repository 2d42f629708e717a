"""The names that migrations are about: those that they lead to, and those that they begin with.

What they lead to is held against the design alone. What they begin with is held against a store, which may be
older than something that came without a migration and that a migration is about. So a name that the store
does not have is refused only where it has one that was probably meant, and only in the first migration that
is to be run: before the ones after it, any number of names may have come.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from klerk.errors import ConfigError
from klerk.job_names import choices, nearest
from klerk.migration.drafts import ClassDraft, Draft
from klerk.migration.migrations import Migration
from klerk.migration.operations import (
    AddField,
    DeleteField,
    DeleteJob,
    DeleteModel,
    DeleteState,
    OfModel,
    Operation,
    RenameEvent,
    RenameField,
    RenameJob,
    RenameModel,
    RenameState,
    TransformJob,
    TransformModel,
    call,
)

# An event may be gone by right, so that another one must be very like it: up to one letter that is another in
# four, or two that have changed places.
_EVENT_LIKENESS: Final = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wrong:
    """What is wrong with an operation, and how to mend it."""

    text: str
    code: str = "K052"
    hint: str = ""

    def error(self, migration: Migration, operation: Operation) -> ConfigError:
        text = f"{migration!r}: {operation}: {self.text}."
        return ConfigError(self.code, text, where=str(migration.place), hint=self.hint)


# --- what migrations lead to --------------------------------------------------------------------------


@dataclass(slots=True)
class _Names:
    """The names of a class as of some version; of an open one, nobody knows which fields or states it had."""

    fields: set[str] = field(default_factory=set)
    states: set[str] = field(default_factory=set)
    is_open: bool = False
    has_open_fields: bool = False


def check_names(
    migrations: tuple[Migration, ...],
    classes: Mapping[str, tuple[Iterable[str], Iterable[str]]],
    jobs: Iterable[str],
) -> None:
    """Go back from the declared design, and refuse migrations that cannot have led to it.

    Events are left out: one may be gone without a migration that says so. See `apply_all`.

    Parameters:
        migrations: in order.
        classes: the declared fields and states of each model class, by its name.
        jobs: the declared kinds.

    Raises:
        ConfigError: K052 for a name that there cannot have been; K053 for something deleted that is declared.
    """
    known = {name: _Names(set(fields), set(states)) for name, (fields, states) in classes.items()}
    kinds = set(jobs)
    for migration in reversed(migrations):
        for operation in reversed(migration.operations):
            wrong = _undone_job(operation, kinds) or _undone(operation, known)
            if wrong is not None:
                raise wrong.error(migration, operation)


def _no_more(what: str, name: str, known: Iterable[str], model: str = "") -> _Wrong:
    path = f"{model}.{name}" if model else name
    return _Wrong(text=f"there is no {what} {path} after it", hint=choices(name, known))


def _undone_job(operation: Operation, kinds: set[str]) -> _Wrong | None:
    """Take an operation on jobs back; return what contradicts it."""
    if isinstance(operation, DeleteJob):
        kinds.add(operation.kind)
    elif isinstance(operation, RenameJob):
        if operation.new not in kinds:
            return _no_job(operation.new, kinds)
        # The new name stays: jobs of it may have been there already, as two kinds may become one.
        kinds.add(operation.old)
    elif isinstance(operation, TransformJob) and operation.kind not in kinds:
        return _no_job(operation.kind, kinds)
    return None


def _no_job(kind: str, kinds: Collection[str]) -> _Wrong:
    meant = nearest(kind, kinds) or "..."
    return _Wrong(
        text=f"there is no job {kind} after it",
        hint=f"{choices(kind, kinds)} If this migration has run, or the job is gone since, go on from there"
        f" in a later migration: {call('delete_job', kind)}, or {call('rename_job', kind, meant)}.",
    )


def _undone(operation: Operation, known: dict[str, _Names]) -> _Wrong | None:
    """Take an operation on models back; return what contradicts it."""
    if isinstance(operation, RenameModel):
        if operation.new not in known:
            return _no_more("model", operation.new, known)
        known.setdefault(operation.old, known.pop(operation.new))
    elif isinstance(operation, DeleteModel):
        if operation.model in known:
            return _Wrong(code="K053", text=f"{operation.model} is declared after it")
        known[operation.model] = _Names(is_open=True)
    elif isinstance(operation, RenameEvent):
        model = operation.new.partition(".")[0]
        if model not in known:
            return _no_more("model", model, known)
    elif isinstance(operation, OfModel):
        if operation.model not in known:
            return _no_more("model", operation.model, known)
        if not known[operation.model].is_open:
            return _undone_in(operation, known[operation.model])
    return None


def _undone_in(operation: OfModel, names: _Names) -> _Wrong | None:
    if isinstance(operation, RenameState):
        return _renamed_back(names.states, "state", operation)
    if isinstance(operation, DeleteState):
        if operation.into not in names.states:
            return _no_more("state", operation.into, names.states, operation.model)
        names.states.add(operation.name)
        return None
    if isinstance(operation, TransformModel):
        names.has_open_fields = True
    elif names.has_open_fields:
        return None
    elif isinstance(operation, RenameField):
        return _renamed_back(names.fields, "field", operation)
    elif isinstance(operation, DeleteField):
        if operation.name in names.fields:
            return _Wrong(code="K053", text=f"{operation.model}.{operation.name} is declared after it")
        names.fields.add(operation.name)
    elif isinstance(operation, AddField):
        if operation.name not in names.fields:
            return _no_more("field", operation.name, names.fields, operation.model)
        names.fields.discard(operation.name)
    return None


def _renamed_back(names: set[str], what: str, operation: RenameState | RenameField) -> _Wrong | None:
    if operation.new not in names:
        return _no_more(what, operation.new, names, operation.model)
    names.discard(operation.new)
    names.add(operation.old)
    return None


# --- what they begin with -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What migrations did to the draft of a store.

    Parameters:
        idle: for each of their operations whether it concerned nothing in the store, in order.
        mistakes: K052 for each name that is probably not the one that was meant.
    """

    idle: tuple[bool, ...]
    mistakes: tuple[ConfigError, ...]


def apply_all(
    migrations: tuple[Migration, ...], draft: Draft, events: Collection[str], former_jobs: Collection[str]
) -> Applied:
    """Change the draft of a whole store by the migrations that are to be run.

    Parameters:
        events: the declared ones.
        former_jobs: kinds that the store had before, of which it may hold jobs.
    """
    idle: list[bool] = []
    mistakes: list[ConfigError] = []
    renamed: list[tuple[Migration, RenameEvent, int]] = []
    for migration in migrations:
        for operation in migration.operations:
            if migration is migrations[0]:
                wrong = _wrong_start(operation, draft, former_jobs)
                mistakes += [] if wrong is None else [wrong.error(migration, operation)]
            if isinstance(operation, RenameEvent) and operation.old in draft.events:
                renamed.append((migration, operation, draft.events.index(operation.old)))
            idle.append(not operation.apply(draft))
    for migration, operation, code in renamed:
        wrong = _wrong_event(draft.events[code], draft.events, events)
        mistakes += [] if wrong is None else [wrong.error(migration, operation)]
    return Applied(idle=tuple(idle), mistakes=tuple(mistakes))


def _wrong_start(operation: Operation, draft: Draft, former_jobs: Collection[str]) -> _Wrong | None:
    """Return what is wrong with what an operation begins with; None when it is there, or may have been."""
    if isinstance(operation, RenameModel):
        return _misspelt("model", operation.old, draft.classes)
    if isinstance(operation, RenameEvent):
        model, _, name = operation.old.partition(".")
        if model not in draft.classes:
            return _misspelt("model", model, draft.classes)
        return _misspelt("event", name, _events_of(model, draft.events), model)
    if isinstance(operation, RenameJob | DeleteJob | TransformJob):
        kind = operation.old if isinstance(operation, RenameJob) else operation.kind
        return None if kind in former_jobs else _misspelt("job", kind, draft.jobs)
    if isinstance(operation, OfModel):
        found = draft.classes.get(operation.model)
        if found is None:
            return _misspelt("model", operation.model, draft.classes)
        return _wrong_start_in(operation, found)
    return None


def _wrong_start_in(operation: OfModel, found: ClassDraft) -> _Wrong | None:
    if isinstance(operation, RenameState | DeleteState):
        name = operation.old if isinstance(operation, RenameState) else operation.name
        return _misspelt("state", name, filter(None, found.states), operation.model)
    if isinstance(operation, RenameField | DeleteField) and not found.is_open:
        name = operation.old if isinstance(operation, RenameField) else operation.name
        return _misspelt("field", name, found.fields, operation.model)
    return None


def _misspelt(what: str, name: str, known: Iterable[str], model: str = "") -> _Wrong | None:
    """Return that there is no such name when there is one like it."""
    # A class that was deleted stands in a draft under its code.
    names = [each for each in known if not each.startswith("#")]
    if name in names or not nearest(name, names):
        return None
    path = f"{model}.{name}" if model else name
    return _Wrong(
        text=f"there is no {what} {path} before it",
        hint=f"{choices(name, names)} If it is right and only this store never had that, because it is older,"
        " open it with the design of just before this migration first.",
    )


def _wrong_event(name: str, known: Collection[str], declared: Collection[str]) -> _Wrong | None:
    """Return what is wrong with the name that a stored event has after all migrations.

    An event may be gone without a migration; not so when one that is new has a name like that.
    """
    model, _, short = name.partition(".")
    new = _events_of(model, (each for each in declared if each not in known))
    if name in declared or not nearest(short, new, _EVENT_LIKENESS):
        return None
    return _no_more("event", short, new, model)


def _events_of(model: str, events: Iterable[str]) -> list[str]:
    prefix = f"{model}."
    return [each.removeprefix(prefix) for each in events if each.startswith(prefix)]

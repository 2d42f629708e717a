"""Which models a view or index holds: published for readers, working for the transaction at hand."""

import threading
from collections.abc import Callable, Hashable, Iterable
from datetime import timedelta
from typing import Any, Final, Protocol, Self

import numpy as np

from klerk._core import Processor
from klerk._dispatch import ClassPlan, described, microseconds
from klerk._table import IdSet
from klerk._waiting import ReadWriteLock
from klerk.declared import Index, KeyView, View
from klerk.errors import ArgumentError, Conflict, FunctionFailed, KlerkError, SchemaChanged
from klerk.field_types import FieldType
from klerk.machine import Machine, State
from klerk.values import Model


class IndexStore:
    """The entries of one declared index.

    Published entries are what readers see. `pending` overlays them for the transaction at hand with what
    groups not yet published changed: for each key and id how many of them did, and whether the id is there.
    """

    def __init__(self, index: Index[Any]) -> None:
        self.index = index
        # A key with a single id, as in every unique index, holds just that.
        self.entries: dict[Hashable, int | IdSet] = {}
        self.pending: dict[Hashable, dict[int, tuple[int, bool]]] = {}
        # One committer changes working entries while the other one publishes.
        self._lock = threading.Lock()

    def key_of(self, model: Model) -> Hashable:
        """Return a model's key.

        Raises:
            FunctionFailed: the user's function raised, or gave something that is not hashable.
        """
        try:
            key: Hashable = self.index.key(model)
            hash(key)
        except KlerkError:
            raise
        except Exception as error:
            raise FunctionFailed(
                f"{described(self.index.key)} raised {type(error).__name__}: {error}"
            ) from error
        return key

    def published(self, key: Hashable) -> IdSet | tuple[int, ...]:
        """Return the ids that readers find under a key."""
        found = self.entries.get(key, ())
        return (found,) if isinstance(found, int) else found

    def working(self, key: Hashable) -> list[int]:
        """Return the ids that the transaction at hand finds under a key, ascending."""
        with self._lock:
            return self._working(key)

    def _working(self, key: Hashable) -> list[int]:
        pending = self.pending.get(key)
        if not pending:
            return list(self.published(key))
        ids = {id for id in self.published(key) if id not in pending}
        return sorted(ids.union(id for id, (_, present) in pending.items() if present))

    def change(self, id: int, old: Model | None, new: Model | None) -> Any:
        """Bring the working entries from one version of a model to the next.

        Returns:
            The operation for `undo` or `publish`; None when the key stayed the same.

        Raises:
            Conflict: the index is unique and another model has the key.
        """
        before = None if old is None else self.key_of(old)
        after = None if new is None else self.key_of(new)
        if before == after:
            return None
        with self._lock:
            if self.index.unique and after is not None and self._working(after):
                raise Conflict(f"another {self.index.machine.name} has {after!r} already")
            return (
                id,
                (before, self._mark(before, id, present=False)),
                (after, self._mark(after, id, present=True)),
            )

    def _mark(self, key: Hashable, id: int, *, present: bool) -> tuple[int, bool] | None:
        if key is None:
            return None
        marks = self.pending.setdefault(key, {})
        earlier = marks.get(id)
        marks[id] = ((0 if earlier is None else earlier[0]) + 1, present)
        return earlier

    def _unmark(self, key: Hashable, id: int, present: bool | None) -> None:
        """Count down the groups that changed an entry; `present` is what holds if others still did."""
        marks = self.pending.get(key, {})
        count, now = marks.get(id, (0, False))
        if count == 0:
            # A key function that is not pure gave another key before. Nobody else may suffer for it.
            return
        if count > 1:
            marks[id] = (count - 1, now if present is None else present)
            return
        del marks[id]
        if not marks:
            del self.pending[key]

    def undo(self, operation: Any) -> None:
        """Take back a change that is rolled back."""
        id, *sides = operation
        with self._lock:
            for key, earlier in reversed(sides):
                if key is not None:
                    self._unmark(key, id, None if earlier is None else earlier[1])

    def publish(self, operation: Any) -> None:
        """Make a change visible to readers."""
        id, (before, _), (after, _) = operation
        with self._lock:
            if before is not None:
                self._unmark(before, id, None)
                self._remove(before, id)
            if after is not None:
                self._unmark(after, id, None)
                self._add(after, id)

    def load(self, id: int, model: Model) -> None:
        """Enter a model that was read from the store.

        Raises:
            SchemaChanged: the index is unique, and was not when models with the same key were stored.
        """
        key = self.key_of(model)
        if key is None:
            return
        if self.index.unique and key in self.entries:
            name, other = self.index.machine.name, self.entries[key]
            raise SchemaChanged(
                f"a unique index of {name} cannot hold: {name} {id} and {other} have the key {key!r}",
                hint="Change the models with the old design first, or do without `unique`.",
            )
        self._add(key, id)

    def _add(self, key: Hashable, id: int) -> None:
        found = self.entries.get(key)
        if found is None:
            self.entries[key] = id
            return
        if isinstance(found, int):
            both = self.entries[key] = IdSet()
            both.add(found)
            found = both
        found.add(id)

    def _remove(self, key: Hashable, id: int) -> None:
        found = self.entries.get(key)
        if found is None:
            return
        if isinstance(found, int):
            if found == id:
                del self.entries[key]
            return
        found.discard(id)
        if len(found) == 1:
            self.entries[key] = next(iter(found))


class Source(Protocol):
    """Where models come from: the published table, or the working state of the transaction at hand."""

    def model(self, id: int) -> Any:
        """Return a model or None."""

    def ids(self, view: View[Any]) -> Iterable[int]:
        """Return the ids of the models in a view, ascending."""


class Views:
    """Resolves views of one app to the plans and index entries of one open store."""

    def __init__(self, plans: Iterable[ClassPlan], indexes: Iterable[IndexStore]) -> None:
        self._plans = {plan.model_class: plan for plan in plans}
        self._indexes = {store.index: store for store in indexes}

    def plan(self, view: Any) -> ClassPlan:
        """Return the plan of a view's class.

        Raises:
            ArgumentError: it is no view, or one of another app.
        """
        machine = getattr(view, "machine", None) if isinstance(view, View) else None
        plan = None if machine is None else self._plans.get(machine.model_class)
        if plan is None or (plan.states and plan.states[0].state.machine is not machine):
            raise ArgumentError(
                f"{view!r} is not a view of this app",
                hint="Use a machine, a state, or an index called with a key.",
            )
        return plan

    def index(self, index: Index[Any]) -> IndexStore:
        """Return the entries of a declared index."""
        store = self._indexes.get(index)
        if store is None:
            raise ArgumentError(f"{index!r} is not an index of this app")
        return store

    def published(self, view: View[Any]) -> IdSet | tuple[int, ...]:
        """Return the ids that readers see in a view."""
        plan = self.plan(view)
        if isinstance(view, State):
            ids: IdSet = plan.states[view.index].ids
            return ids
        if isinstance(view, KeyView):
            return self.index(view.index).published(view.key)
        if isinstance(view, Machine):
            return plan.ids
        raise ArgumentError(f"{view!r} is not a view that can be listed")


class PublishedSource:
    """What readers see."""

    def __init__(self, processor: Processor, views: Views) -> None:
        self.views = views
        self.model: Callable[[int], Any] = processor.table.get

    def ids(self, view: View[Any]) -> Iterable[int]:
        return self.views.published(view)


class LockedSource:
    """What readers see, each look under a read lock of its own: for functions that run beside the commits."""

    def __init__(self, source: PublishedSource, lock: ReadWriteLock) -> None:
        self._source = source
        self._lock = lock
        self.model = source.model

    def ids(self, view: View[Any]) -> Iterable[int]:
        with self._lock.read():
            return list(self._source.ids(view))


class WorkingSource:
    """What the transaction at hand sees: the published state, overlaid by what was not published yet."""

    def __init__(self, processor: Processor, views: Views) -> None:
        self.views = views
        self._processor = processor
        self.model: Callable[[int], Any] = processor.working

    def ids(self, view: View[Any]) -> Iterable[int]:
        if isinstance(view, KeyView):
            return self.views.index(view.index).working(view.key)
        published = self.views.published(view)
        assert isinstance(published, IdSet)
        ids, changed = self._processor.overlay(published, view.machine.model_class)
        if changed:
            ids.extend(model._meta.id for model in changed if view.contains(model))
            ids.sort()
        return ids


class Columns(tuple[Any, ...]):
    """NumPy arrays, one for each field that was asked for: in that order, by name (``columns["fee"]``) and as
    attributes (``columns.fee``)."""

    names: tuple[str, ...]

    def __new__(cls, names: tuple[str, ...], arrays: Iterable[Any]) -> Self:
        columns = super().__new__(cls, arrays)
        columns.names = names
        return columns

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(f"no column {key!r}; there are {', '.join(self.names)}")
            key = self.names.index(key)
        return super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self.names:
            raise AttributeError(name)
        return self[name]

    def __repr__(self) -> str:
        return f"Columns({', '.join(f'{name}: {array.dtype}[{len(array)}]' for name, array in self.items())})"

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return pairs of name and array."""
        return zip(self.names, self, strict=True)


META_COLUMNS: Final = {
    "id": "int64",
    "version": "int64",
    "created_at": "datetime64[us]",
    "updated_at": "datetime64[us]",
    "entered_at": "datetime64[us]",
}
"""What `Model.meta` offers as a column, besides the fields."""

_NO_TIME: Final = np.iinfo(np.int64).min
_US: Final = timedelta(microseconds=1)


def column(models: list[Any], name: str, field: FieldType) -> Any:
    """Return one field of the models as an array.

    None becomes NaN in a column of numbers (whose type is float64 then), NaT in one of times, and 0 in one of
    references.

    Raises:
        ArgumentError: the field's type has no NumPy counterpart.
    """
    values = [getattr(model, name) for model in models]
    dtype = field.dtype
    if dtype is None:
        raise ArgumentError(f"the field '{name}' ({field.label}) is neither a number nor a time")
    if dtype == "datetime64[us]":
        return np.array([_NO_TIME if v is None else microseconds(v) for v in values], "int64").view(dtype)
    if dtype == "timedelta64[us]":
        return np.array([_NO_TIME if v is None else v // _US for v in values], "int64").view(dtype)
    if dtype == "datetime64[D]":
        return np.array(values, dtype)
    if field.kind == "ref":
        return np.array([0 if v is None else v for v in values], dtype)
    if field.nullable:
        return np.array([np.nan if v is None else v for v in values], "float64")
    return np.array(values, dtype)


def meta_column(models: list[Any], name: str) -> Any:
    """Return one of `META_COLUMNS` of the models as an array."""
    if name in ("id", "version"):
        return np.array([getattr(model._meta, name) for model in models], "int64")
    attribute = name.removesuffix("_at") + "_us"
    return np.array([getattr(model._meta, attribute) for model in models], "int64").view("datetime64[us]")

"""Which models a view holds, and in which order: as published, or as changed models make of that."""

import abc
import threading
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from klerk import limits
from klerk._dispatch import ClassPlan, RefField
from klerk._image import key_of
from klerk._order import OrderedSet, entry_of, id_in
from klerk._table import IdSet
from klerk.errors import ArgumentError
from klerk.field_types import FieldType
from klerk.machine import Machine, State
from klerk.reading.index_store import IndexStore
from klerk.reading.view_store import FilterStore, Key, OrderStore, order_key
from klerk.selections import FilteredView, Index, KeyView, OrderedView, StatesView, View
from klerk.values import Model

Ids = IdSet | Sequence[int]


class Walk(Protocol):
    """The entries of a view, each a sort key with an id at its end, in order."""

    def after(self, entry: bytes, limit: int) -> list[bytes]:
        """Return at most `limit` entries greater than an entry, ascending."""

    def before(self, entry: bytes | None, limit: int) -> list[bytes]:
        """Return at most `limit` entries smaller than an entry, or the last ones, descending."""


class IdWalk:
    """The entries of a view in the order of creation: an id alone."""

    def __init__(self, ids: IdSet) -> None:
        self._ids = ids

    def after(self, entry: bytes, limit: int) -> list[bytes]:
        return [key_of(id) for id in self._ids.after(id_in(entry) if entry else -1, limit)]

    def before(self, entry: bytes | None, limit: int) -> list[bytes]:
        return [key_of(id) for id in self._ids.before(_ID_END if entry is None else id_in(entry), limit)]


_ID_END = 2**63 - 1


class Views:
    """Resolves views of one app to what is kept of them in one open store.

    Parameters:
        fields: the types of each class's fields, by name.
        stores: what is kept of filtered and ordered views.

    Attributes:
        secret: that cursors are made with. It is set when the store is opened, and the same ever after.
    """

    secret: bytes

    def __init__(
        self,
        plans: Iterable[ClassPlan],
        fields: Mapping[type[Model], Mapping[str, FieldType]],
        indexes: Iterable[IndexStore],
        stores: Iterable[FilterStore | OrderStore],
    ) -> None:
        self._plans = {plan.model_class: plan for plan in plans}
        self._fields = fields
        self._indexes = {store.index: store for store in indexes}
        self._stores: dict[View[Any], FilterStore | OrderStore] = {store.view: store for store in stores}
        # Orders by fields that were asked for without being declared, the one used last at the end.
        self._orders: OrderedDict[tuple[View[Any], tuple[Any, ...], bool], OrderStore] = OrderedDict()
        self._orders_lock = threading.Lock()

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
                hint="Use a machine, a state, an index called with a key, or a view made from one of these.",
            )
        return plan

    def index(self, index: Index[Any]) -> IndexStore:
        """Return the entries of a declared index."""
        store = self._indexes.get(index)
        if store is None:
            raise ArgumentError(f"{index!r} is not an index of this app")
        return store

    def kept(self, view: View[Any]) -> Ids | OrderStore | None:
        """Return what is kept of a view: ids ascending, or entries in its own order; None when nothing is."""
        plan = self.plan(view)
        if isinstance(view, State):
            ids: IdSet = plan.states[view.index].ids
            return ids
        if isinstance(view, Machine):
            return plan.ids
        if isinstance(view, KeyView):
            return self.index(view.index).published(view.key)
        store = self._stores.get(view)
        return store.ids if isinstance(store, FilterStore) else store

    def key(self, view: OrderedView[Any]) -> Key:
        """Return the function that gives a model's sort key in an ordered view."""
        store = self._stores.get(view)
        return store.key if isinstance(store, OrderStore) else order_key(view, self.fields(view))

    def fields(self, view: View[Any]) -> Mapping[str, FieldType]:
        """Return the types of the fields of a view's class."""
        return self._fields[self.plan(view).model_class]

    def order_of_fields(
        self, view: OrderedView[Any], models: Callable[[], Iterable[Any]]
    ) -> OrderStore | None:
        """Return the kept order of a state or machine by fields, which is made when it is first asked for.

        To be called while nothing is published. Only orders that no function of the application is asked
        about can be kept so: they follow what is published, and not what is processed.

        Parameters:
            models: gives all models of the base, once they are needed.
        """
        if not isinstance(view.base, (State, Machine)) or callable(view.keys[0]):
            return None
        name = (view.base, view.keys, view.descending)
        with self._orders_lock:
            store = self._orders.get(name)
            if store is None:
                store = OrderStore(view, self.key(view))
                store.entries.fill(entry for entry in map(store.entry, models()) if entry is not None)
                self._orders[name] = store
                self.plan(view).orders.append(store)
                if len(self._orders) > limits.ORDERS_KEPT_MAX:
                    _, oldest = self._orders.popitem(last=False)
                    self.plan(oldest.view).orders.remove(oldest)
            self._orders.move_to_end(name)
        return store

    def references(self, field: Any = None) -> list[RefField]:
        """Return the reference field that a class attribute as `Loan.member` names; all of them for None.

        Raises:
            ArgumentError: it names none.
        """
        every: list[RefField] = [each for plan in self._plans.values() for each in plan.references]
        if field is None:
            return every
        owner, name = getattr(field, "__objclass__", None), getattr(field, "__name__", None)
        found = [each for each in every if _declares(owner, each.model_class) and each.check.name == name]
        if not found:
            raise ArgumentError(
                f"{field!r} is not a field that refers to models",
                hint="Name it by its class, as in r.related(ada, Loan.member).",
            )
        return found


def _declares(owner: Any, model_class: type[Model]) -> bool:
    """Return whether a field of one class is one of another, which may have inherited it."""
    return isinstance(owner, type) and issubclass(model_class, owner)


class Source(Protocol):
    """Where models come from: what is published, the transaction at hand, or a snapshot."""

    views: Views

    def model(self, id: int) -> Any:
        """Return a model or None."""

    def ids(self, view: View[Any]) -> Ids:
        """Return the ids of the models in a view, in its order."""

    def count(self, view: View[Any]) -> int:
        """Return how many models are in a view."""

    def walk(self, view: View[Any]) -> Walk:
        """Return the entries of a view."""

    def referrers(self, id: int, field: RefField) -> Ids:
        """Return the ids of the models that refer to a model with a field, ascending."""


def worked_out(source: Source, view: View[Any]) -> list[int]:
    """Return the ids of the models in a view of which nothing is kept, in its order."""
    if isinstance(view, OrderedView):
        return sorted_entries(source, view).ids()
    if not isinstance(view, (FilteredView, StatesView)):
        raise ArgumentError(f"{view!r} is not a view that can be listed")
    model, contains = source.model, view.contains
    return [id for id in source.ids(view.base) if contains(model(id))]


def sorted_entries(source: Source, view: OrderedView[Any]) -> OrderedSet:
    """Return the entries of an ordered view of which nothing is kept."""
    key, model = source.views.key(view), source.model
    entries = OrderedSet()
    entries.fill(entry_of(key(model(id)), id) for id in source.ids(view.base))
    return entries


class PublishedSource:
    """What readers see while they hold the read lock."""

    def __init__(self, views: Views, model: Callable[[int], Any]) -> None:
        self.views = views
        self.model = model

    def ids(self, view: View[Any]) -> Ids:
        kept = self.views.kept(view)
        if isinstance(kept, OrderStore):
            return kept.entries.ids()
        return worked_out(self, view) if kept is None else kept

    def count(self, view: View[Any]) -> int:
        kept = self.views.kept(view)
        return len(kept.entries if isinstance(kept, OrderStore) else self.ids(view))

    def walk(self, view: View[Any]) -> Walk:
        kept = self.views.kept(view)
        if kept is None and isinstance(view, OrderedView):
            kept = self.views.order_of_fields(view, lambda: map(self.model, self.ids(view.base)))
            if kept is None:
                return sorted_entries(self, view)
        if isinstance(kept, OrderStore):
            return kept.entries
        return IdWalk(as_set(worked_out(self, view) if kept is None else kept))

    def referrers(self, id: int, field: RefField) -> Ids:
        return field.referrers.get(id, ())


def as_set(ids: Ids) -> IdSet:
    """Return ids as a sorted set."""
    if isinstance(ids, IdSet):
        return ids
    found = IdSet()
    for id in ids:
        found.add(id)
    return found


class OverlaidSource(abc.ABC):
    """The published state as models that differ from it make of it, at one moment, while it changes.

    Parameters:
        model: gives a model of that moment, or None.
    """

    def __init__(self, views: Views, model: Callable[[int], Any]) -> None:
        self.views = views
        self.model = model

    @abc.abstractmethod
    def _split(self, published: Ids, model_class: type[Model]) -> tuple[list[int], list[Any]]:
        """Return those of the published ids whose models do not differ, and the models of a class that do."""

    @abc.abstractmethod
    def _look(self, view: View[Any], entry: "Entry") -> "Look":
        """Return what looks at the entries that changed models have in a view."""

    def ids(self, view: View[Any]) -> Ids:
        kept = self.views.kept(view)
        if isinstance(kept, OrderStore):
            return self._ordered(kept)
        if kept is None:
            return worked_out(self, view)
        return self._merged(kept, view.machine.model_class, view.contains)

    def _merged(self, published: Ids, model_class: type[Model], contains: Callable[[Any], bool]) -> list[int]:
        ids, changed = self._split(published, model_class)
        if changed:
            ids.extend(model._meta.id for model in changed if contains(model))
            ids.sort()
        return ids

    def _ordered(self, store: OrderStore) -> list[int]:
        walk = OverlaidWalk(store.entries, self._look(store.view, store.entry))
        ids: list[int] = []
        entry = b""
        while part := walk.after(entry, limits.PAGE_LENGTH_MAX):
            ids.extend(map(id_in, part))
            entry = part[-1]
        return ids

    def count(self, view: View[Any]) -> int:
        return len(self.ids(view))

    def walk(self, view: View[Any]) -> Walk:
        kept = self.views.kept(view)
        if isinstance(kept, OrderStore):
            return OverlaidWalk(kept.entries, self._look(view, kept.entry))
        if isinstance(view, OrderedView):
            return sorted_entries(self, view)
        if isinstance(kept, IdSet) and not isinstance(view, KeyView):
            return OverlaidWalk(IdWalk(kept), self._look(view, partial(_id_entry, view)))
        return IdWalk(as_set(self.ids(view)))

    def referrers(self, id: int, field: RefField) -> Ids:
        published = field.referrers.get(id, ())
        return self._merged(published, field.model_class, lambda model: id in field.targets(model))


def _id_entry(view: View[Any], model: Any) -> bytes | None:
    """Return a model's entry in a view in the order of creation; None when the model is not in it."""
    return key_of(model._meta.id) if view.contains(model) else None


Entry = Callable[[Any], bytes | None]
"""Gives a model's entry in a view; None when the model is not in it."""

Merge = Callable[[OrderedSet, Container[int]], list[bytes]]
"""Given the entries of the models that differ, and the ids of all that do or are no more."""

Look = Callable[[Merge], list[bytes]]
"""Calls a function with what differs at one moment, and returns what it gives."""


class OverlaidWalk:
    """Published entries, without those of changed models, and with the entries that these have instead.

    What was published is taken first, and then a look at what differs.
    """

    def __init__(self, published: Walk, look: Look) -> None:
        self._published = published
        self._look = look

    def after(self, entry: bytes, limit: int) -> list[bytes]:
        found: list[bytes] = []
        length = limit
        while len(found) < limit:
            part = self._published.after(entry, length)
            end = part[-1] if len(part) == length else None
            found += self._look(partial(_merged_after, part, entry, end, limit))
            if end is None:
                break
            entry, length = end, _longer(length)
        return found[:limit]

    def before(self, entry: bytes | None, limit: int) -> list[bytes]:
        found: list[bytes] = []
        length = limit
        while len(found) < limit:
            part = self._published.before(entry, length)
            end = part[-1] if len(part) == length else b""
            found += self._look(partial(_merged_before, part, entry, end, limit))
            if not end:
                break
            entry, length = end, _longer(length)
        return found[:limit]


def _longer(length: int) -> int:
    """Return how many to look at next: where many have changed, most are passed over."""
    return max(length, min(length * 2, limits.PAGE_LENGTH_MAX))


def _merged_after(
    part: list[bytes], entry: bytes, end: bytes | None, limit: int, own: OrderedSet, hidden: Container[int]
) -> list[bytes]:
    # More than the limit of them is never needed: what follows is cut off.
    mine = [each for each in own.after(entry, limit) if end is None or each <= end]
    return sorted([each for each in part if id_in(each) not in hidden] + mine)


def _merged_before(
    part: list[bytes], entry: bytes | None, end: bytes, limit: int, own: OrderedSet, hidden: Container[int]
) -> list[bytes]:
    mine = [each for each in own.before(entry, limit) if end <= each]
    return sorted([each for each in part if id_in(each) not in hidden] + mine, reverse=True)

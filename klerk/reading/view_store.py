"""What is kept of views as models change: the ids in a filtered one, the entries of an ordered one."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from klerk._dispatch import described
from klerk._order import OrderedSet, descending, entry_of, sort_key
from klerk._table import IdSet
from klerk.errors import ArgumentError, FunctionFailed
from klerk.field_types import FieldType
from klerk.selections import OrderedView, View
from klerk.values import Model

Key = Callable[[Any], bytes]

META_KEYS: Final[dict[str, Callable[[Any], Any]]] = {
    "id": lambda meta: meta.id,
    "version": lambda meta: meta.version,
    "created_at": lambda meta: meta.created_us,
    "updated_at": lambda meta: meta.updated_us,
    "entered_at": lambda meta: meta.entered_us,
    "state": lambda meta: meta.state.index,
}
"""What models can be sorted by besides their fields; states in the order of their declaration."""

_UNSORTABLE: Final = ("frozenset[", "struct(")


def order_key(view: OrderedView[Any], fields: Mapping[str, FieldType]) -> Key:
    """Return the function that gives a model's sort key in an ordered view.

    Parameters:
        fields: the types of the class's fields, by name.

    Raises:
        ArgumentError: the view names a field that there is not, or one that has no order.
    """
    if callable(view.keys[0]):
        return _by_function(view.keys[0], turned=view.descending)
    parts = [_part(name, view, fields) for name in view.keys]

    def key(model: Any) -> bytes:
        return b"".join(
            [
                descending(sort_key(value(model))) if turned else sort_key(value(model))
                for value, turned in parts
            ]
        )

    return key


def _by_function(function: Callable[[Any], Any], *, turned: bool) -> Key:
    def key(model: Any) -> bytes:
        try:
            found = sort_key(function(model))
        except Exception as error:
            text = f"{described(function)} gave no sort key: {type(error).__name__}: {error}"
            raise FunctionFailed(text) from error
        return descending(found) if turned else found

    return key


def _part(
    name: str, view: OrderedView[Any], fields: Mapping[str, FieldType]
) -> tuple[Callable[[Any], Any], bool]:
    """Return how one field is read, and whether its order is turned round."""
    bare = name.removeprefix("-")
    turned = (name != bare) != view.descending
    about = META_KEYS.get(bare)
    if bare in fields:
        if any(kind in fields[bare].stored for kind in _UNSORTABLE):
            raise ArgumentError(
                f"the field '{bare}' of {view.machine.name} ({fields[bare].label}) has no order",
                hint="Give a function of the model instead, as in order(lambda m: ...).",
            )
        return lambda model: getattr(model, bare), turned
    if about is None:
        raise ArgumentError(
            f"{view.machine.name} has no field '{bare}' to sort by",
            hint=f"It has: {', '.join((*fields, *META_KEYS))}.",
        )
    return lambda model: about(model._meta), turned


class FilterStore:
    """The ids of the models in one kept view without an order of its own.

    The condition is asked while a transaction is processed; publishing only moves ids.
    """

    def __init__(self, view: View[Any]) -> None:
        self.view = view
        self.ids = IdSet()

    def change(self, id: int, old: Model | None, new: Model | None) -> Any:
        """Return the operation for `publish`; None when the model is in the view as before."""
        contains = self.view.contains
        if new is None:
            # Whatever a condition that is not pure says now, nothing of a deleted model stays.
            return id, False
        now = contains(new)
        return None if old is not None and contains(old) == now else (id, now)

    def check(self, operation: Any) -> None:
        """Return None: any model may be in a view."""

    def undo(self, operation: Any) -> None:
        """Do nothing: a change that is rolled back has left nothing here."""

    def publish(self, operation: Any) -> None:
        """Make a change visible to readers."""
        id, now = operation
        if now:
            self.ids.add(id)
        else:
            self.ids.discard(id)

    def load(self, id: int, model: Model) -> None:
        """Enter a model that was read from the store."""
        if self.view.contains(model):
            self.ids.add(id)


class OrderStore:
    """The entries of one kept view with an order of its own.

    Parameters:
        key: gives a model's sort key.
    """

    def __init__(self, view: OrderedView[Any], key: Key) -> None:
        self.view = view
        self.key = key
        self.entries = OrderedSet()

    def entry(self, model: Any) -> bytes | None:
        """Return a model's entry; None when the model is not in the view."""
        return entry_of(self.key(model), model._meta.id) if self.view.contains(model) else None

    def change(self, id: int, old: Model | None, new: Model | None) -> Any:
        """Return the operation for `publish`; None when the model is in its place as before."""
        before = None if old is None else self.entry(old)
        after = None if new is None else self.entry(new)
        return None if before == after else (before, after)

    def check(self, operation: Any) -> None:
        """Return None: any model may be in a view."""

    def undo(self, operation: Any) -> None:
        """Do nothing: a change that is rolled back has left nothing here."""

    def publish(self, operation: Any) -> None:
        """Make a change visible to readers."""
        before, after = operation
        if before is not None:
            self.entries.discard(before)
        if after is not None:
            self.entries.add(after)

    def load(self, id: int, model: Model) -> None:
        """Enter a model that was read from the store."""
        entry = self.entry(model)
        if entry is not None:
            self.entries.add(entry)

    def move(self, id: int, old: Model | None, new: Model | None) -> None:
        """Follow a model that is published: for orders that no function of the application is asked about."""
        operation = self.change(id, old, new)
        if operation is not None:
            self.publish(operation)

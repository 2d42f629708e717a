"""The entries of indexes: published for readers, working for the transaction at hand."""

import threading
from collections.abc import Hashable
from typing import Any

from klerk._table import IdSet
from klerk.errors import Conflict, Problem, SchemaChanged
from klerk.selections import Index
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

    def published(self, key: Hashable) -> IdSet | tuple[int, ...]:
        """Return the ids that readers find under a key."""
        found = self.entries.get(key, ())
        return (found,) if isinstance(found, int) else found

    def working(self, key: Hashable) -> list[int]:
        """Return the ids that the transaction at hand finds under a key, ascending."""
        with self._lock:
            pending = self.pending.get(key)
            if not pending:
                return list(self.published(key))
            ids = {id for id in self.published(key) if id not in pending}
            return sorted(ids.union(id for id, (_, present) in pending.items() if present))

    def change(self, id: int, old: Model | None, new: Model | None) -> Any:
        """Bring the working entries from one version of a model to the next.

        Returns:
            The operation for `check`, `undo` and `publish`; None when the keys stayed the same.
        """
        keys_of = self.index.keys_of
        before = frozenset() if old is None else keys_of(old)
        after = frozenset() if new is None else keys_of(new)
        if before == after:
            return None
        with self._lock:
            gone = tuple((key, self._mark(key, id, present=False)) for key in before - after)
            come = tuple((key, self._mark(key, id, present=True)) for key in after - before)
        return id, gone, come

    def check(self, operation: Any) -> dict[Hashable, Problem] | None:
        """Return, at the end of a transaction, what is wrong with keys of a unique index that more than one
        model has now; None for nothing."""
        if not self.index.unique:
            return None
        id, _, come = operation
        taken: dict[Hashable, Problem] | None = None
        for key, _ in come:
            ids = self.working(key)
            if id in ids and len(ids) > 1:
                other = next(each for each in ids if each != id)
                taken = {} if taken is None else taken
                taken[key] = Problem(
                    code=Conflict.code,
                    message=f"another {self.index.machine.name} has {key!r} already: {other}",
                    hint=f"It would have to be unique in {self.index!r}.",
                    key="taken",
                    values={"model": self.index.machine.name, "key": key, "id": other},
                )
        return taken

    def _mark(self, key: Hashable, id: int, *, present: bool) -> tuple[int, bool] | None:
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
        id, gone, come = operation
        with self._lock:
            for key, earlier in (*come, *gone):
                self._unmark(key, id, None if earlier is None else earlier[1])

    def publish(self, operation: Any) -> None:
        """Make a change visible to readers."""
        id, gone, come = operation
        with self._lock:
            for key, _ in gone:
                self._unmark(key, id, None)
                self._remove(key, id)
            for key, _ in come:
                self._unmark(key, id, None)
                self._add(key, id)

    def load(self, id: int, model: Model) -> None:
        """Enter a model that was read from the store.

        Raises:
            SchemaChanged: the index is unique, and was not when models with the same key were stored.
        """
        for key in self.index.keys_of(model):
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

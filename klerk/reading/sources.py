"""What functions of the application read: the transaction at hand, or what is published, look by look."""

from collections.abc import Callable
from typing import Any

from klerk._core import Processor
from klerk._dispatch import RefField
from klerk._order import OrderedSet
from klerk._table import IdSet
from klerk._waiting import ReadWriteLock
from klerk.reading.views import Entry, Ids, Look, OverlaidSource, PublishedSource, Views, Walk, as_set
from klerk.selections import KeyView, OrderedView, View
from klerk.values import Model


class WorkingSource(OverlaidSource):
    """What the transaction at hand sees: the published state, overlaid by what was not published yet."""

    def __init__(self, processor: Processor, views: Views) -> None:
        super().__init__(views, processor.working)
        self._processor = processor

    def ids(self, view: View[Any]) -> Ids:
        if isinstance(view, KeyView):
            return self.views.index(view.index).working(view.key)
        return super().ids(view)

    def _split(self, published: Ids, model_class: type[Model]) -> tuple[list[int], list[Any]]:
        return self._processor.overlay(as_set(published), model_class)

    def _look(self, view: View[Any], entry: Entry) -> Look:
        # Taken before anything published is: what is published meanwhile is in it.
        models, ids = self._processor.changed(view.machine.model_class)
        own = OrderedSet()
        own.fill(found for found in map(entry, models) if found is not None)
        return lambda merge: merge(own, ids)

    def count(self, view: View[Any]) -> int:
        base = view.base if isinstance(view, OrderedView) else view
        kept = self.views.kept(base)
        if isinstance(base, KeyView) or not isinstance(kept, IdSet):
            return super().count(view)
        unchanged, changed = self._processor.overlay_count(kept, base.machine.model_class)
        return unchanged + sum(map(base.contains, changed))

    def referrers(self, id: int, field: RefField) -> Ids:
        ids, changed = self._processor.overlay_referrers(field, id)
        return sorted(ids + [model._meta.id for model in changed if id in field.targets(model)])


class LockedSource:
    """What readers see, each look under a read lock of its own: for functions that run beside the commits."""

    def __init__(self, source: PublishedSource, lock: ReadWriteLock) -> None:
        self.views = source.views
        self.model: Callable[[int], Any] = source.model
        self._source = source
        self._lock = lock

    def ids(self, view: View[Any]) -> Ids:
        with self._lock.read():
            return list(self._source.ids(view))

    def count(self, view: View[Any]) -> int:
        with self._lock.read():
            return self._source.count(view)

    def walk(self, view: View[Any]) -> Walk:
        with self._lock.read():
            return LockedWalk(self._source.walk(view), self._lock)

    def referrers(self, id: int, field: RefField) -> Ids:
        with self._lock.read():
            return list(self._source.referrers(id, field))


class LockedWalk:
    """The entries of a published view, each look under a read lock of its own."""

    def __init__(self, walk: Walk, lock: ReadWriteLock) -> None:
        self._walk = walk
        self._lock = lock

    def after(self, entry: bytes, limit: int) -> list[bytes]:
        with self._lock.read():
            return self._walk.after(entry, limit)

    def before(self, entry: bytes | None, limit: int) -> list[bytes]:
        with self._lock.read():
            return self._walk.before(entry, limit)

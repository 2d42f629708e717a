"""Pages: some models of a view at a time, found by their place in its order."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from klerk import limits
from klerk._order import id_in
from klerk.reading.cursors import cursor_of
from klerk.reading.views import Walk
from klerk.selections import View
from klerk.values import Model

M = TypeVar("M", bound=Model)


class Page(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    """Some models of a view, in its order.

    Parameters:
        items: the models.
        next: the cursor to pass as ``after`` for the page that follows; None at the end.
        previous: the cursor to pass as ``before`` for the page in front; None at the beginning.
    """

    items: tuple[M, ...]
    next: str | None
    previous: str | None

    def __iter__(self) -> Iterator[M]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Pager(Generic[M]):
    """Fetches pages of a view.

    Parameters:
        walk: the view's entries.
        model_of: gives the model with an id, or None.
        seen: gives a model as it is shown; None when it is left out.
        secret: that cursors are made with.
    """

    def __init__(
        self,
        view: View[M],
        walk: Walk,
        model_of: Callable[[int], Any],
        seen: Callable[[M], M | None],
        secret: bytes,
    ) -> None:
        self._view = view
        self._walk = walk
        self._model_of = model_of
        self._seen = seen
        self._secret = secret

    def after(self, entry: bytes | None, limit: int) -> Page[M]:
        """Return the page that begins after an entry, or the first one."""
        found = self._fetch(limit + 1, entry or b"", self._walk.after)
        items, more = found[:limit], len(found) > limit
        back = entry is not None and bool(items) and bool(self._fetch(1, items[0][0], self._walk.before))
        return self._page(items, fore=back, aft=more)

    def before(self, entry: bytes, limit: int) -> Page[M]:
        """Return the page that ends before an entry."""
        found = self._fetch(limit + 1, entry, self._walk.before)
        items, more = found[:limit][::-1], len(found) > limit
        onwards = bool(items) and bool(self._fetch(1, items[-1][0], self._walk.after))
        return self._page(items, fore=more, aft=onwards)

    def _fetch(
        self, limit: int, entry: bytes, walk: Callable[[bytes, int], list[bytes]]
    ) -> list[tuple[bytes, M]]:
        """Return models with their entries, in the direction of a walk, from an entry on that is left out."""
        found: list[tuple[bytes, M]] = []
        length = limit
        while len(found) < limit:
            part = walk(entry, length)
            for each in part:
                model = self._model_of(id_in(each))
                shown = None if model is None else self._seen(model)
                if shown is not None:
                    found.append((each, shown))
            if len(part) < length:
                break
            # Where most are left out, looking at more at once costs fewer looks.
            entry, length = part[-1], min(length * 2, limits.PAGE_LENGTH_MAX + 1)
        return found[:limit]

    def _page(self, items: list[tuple[bytes, M]], *, fore: bool, aft: bool) -> Page[M]:
        return Page(
            items=tuple(model for _, model in items),
            next=cursor_of(self._secret, self._view, items[-1][0]) if aft else None,
            previous=cursor_of(self._secret, self._view, items[0][0]) if fore else None,
        )

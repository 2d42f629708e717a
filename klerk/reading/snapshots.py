"""Snapshots: one moment, read for as long as wanted, while commands go on changing what is published.

While a snapshot is open, whoever publishes notes the old version of every model before the new one takes
its place. A snapshot is the published state, overlaid by what was noted since it was opened: it costs what
changes meanwhile, and no reader or writer waits for it.

What was noted is shared: each snapshot begins a chapter, and reads its own and all later ones. A chapter that
no open snapshot can reach any more is garbage.
"""

import threading
import weakref
from collections.abc import Callable
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

from klerk import limits
from klerk._core import Processor
from klerk._order import OrderedSet
from klerk._waiting import ReadWriteLock
from klerk._working import id_or_zero
from klerk.commands import Context
from klerk.errors import LimitExceeded, ReaderClosed
from klerk.reading.reader import AuthorizedReading, Sight
from klerk.reading.reading import Verdict, not_found
from klerk.reading.views import (
    Entry,
    Ids,
    Look,
    Merge,
    OverlaidSource,
    Source,
    Views,
    Walk,
    as_set,
    sorted_entries,
)
from klerk.selections import OrderedView, View
from klerk.values import Model, Ref

M = TypeVar("M", bound=Model)


class Chapter:
    """The models that changed between one snapshot and the next.

    Attributes:
        before: the version that each had at the beginning; None when there was none.
        next: the chapter that follows.
        is_open: whether the snapshot that it began with is.
    """

    __slots__ = ("__weakref__", "before", "is_open", "next")

    def __init__(self) -> None:
        self.before: dict[int, Any] = {}
        self.next: Chapter | None = None
        self.is_open = True

    def take_over(self, following: "Chapter") -> None:
        """Make the chapter that follows, which nobody begins to read at any more, a part of this one."""
        for id, model in following.before.items():
            self.before.setdefault(id, model)
        # Last: who reads beside this finds everything here or there.
        self.next = following.next


class OwnEntries:
    """The entries in one view of the old versions that were noted, as far as they were looked at."""

    def __init__(self) -> None:
        self.entries = OrderedSet()
        self.looked_at = 0


class SnapshotSource(OverlaidSource):
    """What was published when a chapter began. No lock is needed: what is published is looked at first, and
    what was noted afterwards, while publishing notes first and changes afterwards.

    What was noted stays as it is, and there is only ever more; so each look continues where the last one
    ended, and a page costs what changed since.
    """

    def __init__(self, chapter: Chapter, table: Any, views: Views) -> None:
        super().__init__(views, self._model)
        self._chapter = chapter
        self._get = table.get
        # For snapshots that several threads read: nothing else holds it.
        self._looking = threading.RLock()
        self._noted: dict[int, Any] = {}
        self._ids: list[int] = []
        self._own: dict[View[Any], OwnEntries] = {}
        self._read: weakref.WeakKeyDictionary[Chapter, int] = weakref.WeakKeyDictionary()
        # The order that was asked for last without being declared: mostly its next page is asked for.
        self._sorted: tuple[Any, OrderedSet] | None = None

    def walk(self, view: View[Any]) -> Walk:
        if not isinstance(view, OrderedView) or self.views.kept(view) is not None:
            return super().walk(view)
        name = view.base, view.keys, view.descending
        known = self._sorted
        if known is None or known[0] != name:
            known = self._sorted = name, sorted_entries(self, view)
        return known[1]

    def _model(self, id: int) -> Any:
        model = self._get(id)
        chapter: Chapter | None = self._chapter
        while chapter is not None:
            # Before the notes are looked at: a chapter is a part of this one before it is left out.
            following = chapter.next
            if id in chapter.before:
                return chapter.before[id]
            chapter = following
        return model

    def _look_up(self) -> dict[int, Any]:
        """Return the old version of every model that changed since. The caller holds `_looking`."""
        chapter: Chapter | None = self._chapter
        while chapter is not None:
            following = chapter.next
            seen = self._read.get(chapter, 0)
            for id in _newest(chapter.before, seen):
                seen += 1
                if id not in self._noted:
                    self._noted[id] = chapter.before[id]
                    self._ids.append(id)
            self._read[chapter] = seen
            chapter = following
        return self._noted

    def _split(self, published: Ids, model_class: type[Model]) -> tuple[list[int], list[Any]]:
        ids = as_set(published).after(-1, _ALL)
        with self._looking:
            noted = self._look_up()
            unchanged = [id for id in ids if id not in noted]
            return unchanged, [model for model in noted.values() if type(model) is model_class]

    def _look(self, view: View[Any], entry: Entry) -> Look:
        model_class = view.machine.model_class

        def look(merge: Merge) -> list[bytes]:
            with self._looking:
                noted = self._look_up()
                own = self._own.setdefault(view, OwnEntries())
                while own.looked_at < len(self._ids):
                    model = noted[self._ids[own.looked_at]]
                    found = entry(model) if type(model) is model_class else None
                    if found is not None:
                        own.entries.add(found)
                    own.looked_at += 1
                return merge(own.entries, noted)

        return look


def _newest(noted: dict[int, Any], seen: int) -> list[int]:
    """Return the ids that were noted after the first ones, while others may be noted."""
    while True:
        count = len(noted) - seen
        try:
            ids = list(islice(reversed(noted), count))
        except RuntimeError:
            # One was noted meanwhile.
            continue
        if len(noted) - seen == count:
            return ids[::-1]


_ALL = 2**62


class Snapshots:
    """Opens snapshots, and has what they need noted while there are any.

    Parameters:
        processor: publishes.
        lock: held for reading while a snapshot begins, so that no group is half published.
        sight: what decides who sees what of the published state.
        require_open: raises when the store was closed.
    """

    def __init__(
        self, processor: Processor, lock: ReadWriteLock, sight: Sight, require_open: Callable[[], None]
    ) -> None:
        self._processor = processor
        self._lock = lock
        self._sight = sight
        self._require_open = require_open
        self._open_count = 0
        # Those that are still reachable, in their order.
        self._chapters: list[weakref.ref[Chapter]] = []
        self._beginning = threading.Lock()

    def open(self, context: Context) -> "Snapshot":
        """Return a snapshot of what is published now.

        Raises:
            LimitExceeded: `limits.SNAPSHOTS_MAX` are open.
        """
        with self._lock.read():
            return self._begin(context)

    async def open_soon(self, context: Context) -> "Snapshot":
        """Return a snapshot as `open` does, for asyncio."""
        async with self._lock.read():
            return self._begin(context)

    def _begin(self, context: Context) -> "Snapshot":
        # What can fail comes first: nothing is noted for a snapshot that is not there.
        self._require_open()
        context, verdicts = self._sight.begin(context)
        with self._beginning:
            if self._open_count >= limits.SNAPSHOTS_MAX:
                raise LimitExceeded(
                    f"{limits.SNAPSHOTS_MAX} snapshots are open",
                    hint="Close them when they were read: with k.snapshot(context) as s: ...",
                )
            # Others may end meanwhile; with this one counted, noting goes on.
            self._open_count += 1
            chapter = Chapter()
            self._append(chapter)
            self._processor.noted = chapter.before
        source = SnapshotSource(chapter, self._processor.table, self._sight.source.views)
        sight, sequence = self._sight.of(source), self._processor.published_sequence
        return Snapshot(context, verdicts, sight, sequence, partial(self._end, chapter))

    def _append(self, chapter: Chapter) -> None:
        """Let a chapter follow the others. Those that began with a snapshot that was closed are joined with
        the one before: what an old snapshot costs does not grow with how many others come and go."""
        kept: list[Chapter] = []
        for each in [found for known in self._chapters if (found := known()) is not None]:
            if each.is_open:
                kept.append(each)
            elif kept:
                kept[-1].take_over(each)
        if kept:
            kept[-1].next = chapter
        self._chapters = [weakref.ref(each) for each in (*kept, chapter)]

    def _end(self, chapter: Chapter) -> None:
        chapter.is_open = False
        self._open_count -= 1
        if not self._open_count:
            self._processor.noted = None


class Snapshot(AuthorizedReading):
    """One consistent moment, for as long as it is open: ``with k.snapshot(context) as s``.

    It offers what `Reader` offers, holds up nobody, and may be used by any thread. What it costs is memory
    for the old versions of whatever changes meanwhile; so close it when it was read. Of the commit log it
    shows what had happened by then, without what was erased since.
    """

    def __init__(
        self,
        context: Context,
        verdicts: dict[type[Model], Verdict],
        sight: Sight,
        sequence: int,
        end: Callable[[], None],
    ) -> None:
        self._context = context
        self._verdicts = verdicts
        self._sight: Sight | None = sight
        self._sequence = sequence
        self._finalizer = weakref.finalize(self, end)
        self._finalizer.atexit = False

    @property
    def context(self) -> Context:
        return self._context

    @property
    def sequence(self) -> int:
        """Of the newest transaction that it shows; also when it is closed."""
        return self._sequence

    @property
    def sight(self) -> Sight:
        if self._sight is None:
            raise ReaderClosed("this snapshot is closed", hint="Open another one: k.snapshot(context).")
        return self._sight

    def get(self, ref: Ref[M]) -> M:
        """Return the model that a reference points to.

        Raises:
            NotFound: there was none.
            Denied: it may not be read.
        """
        model = self._open_source().model(id_or_zero(ref))
        if model is None:
            raise not_found(ref)
        shown: M = self.show(model)
        return shown

    def verdict(self, model_class: type[Model]) -> Verdict | None:
        return self._verdicts.get(model_class)

    def allow(self, model_class: type[Model], verdict: Verdict) -> None:
        self._verdicts[model_class] = verdict

    def _open_source(self) -> Source:
        return self.sight.source

    def close(self) -> None:
        """Give back what was kept for this snapshot. Closing again does nothing."""
        self._sight = None
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<snapshot at {self.sequence}{', closed' if self._sight is None else ''}>"


class OpeningSnapshot:
    """A snapshot for asyncio: ``async with k.aio.snapshot(context) as s``."""

    def __init__(self, snapshots: Snapshots, context: Context) -> None:
        self._snapshots = snapshots
        self._context = context
        self._snapshot: Snapshot | None = None

    async def __aenter__(self) -> Snapshot:
        self._snapshot = await self._snapshots.open_soon(self._context)
        return self._snapshot

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._snapshot is not None:
            self._snapshot.close()

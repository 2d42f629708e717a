"""Snapshots: one moment, read for as long as wanted, while commands go on changing what is published.

While a snapshot is open, whoever publishes notes the old version of every model before the new one takes
its place. A snapshot is the published state, overlaid by what was noted since it was opened: it costs what
changes meanwhile, and no reader or writer waits for it.

What was noted is shared: each snapshot begins a chapter, and reads its own and all later ones. A chapter that
no open snapshot can reach any more is garbage.
"""

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from klerk import limits
from klerk._core import Processor
from klerk._waiting import ReadWriteLock
from klerk._working import id_or_zero
from klerk.commands import Context
from klerk.errors import LimitExceeded, ReaderClosed
from klerk.reader import AuthorizedReading, Sight
from klerk.reading import Verdict, not_found
from klerk.values import Model, Ref
from klerk.view_store import OrderStore
from klerk.views import Ids, Look, OverlaidSource, Source, Views, as_set

M = TypeVar("M", bound=Model)


class Chapter:
    """The models that changed between one snapshot and the next.

    Attributes:
        before: the version that each had at the beginning; None when there was none.
        next: the chapter that follows.
    """

    __slots__ = ("__weakref__", "before", "next")

    def __init__(self) -> None:
        self.before: dict[int, Any] = {}
        self.next: Chapter | None = None


class SnapshotSource(OverlaidSource):
    """What was published when a chapter began. No lock is needed: what is published is looked at first, and
    what was noted afterwards, while publishing notes first and changes afterwards."""

    def __init__(self, chapter: Chapter, table: Any, views: Views) -> None:
        super().__init__(views, self._model)
        self._chapter = chapter
        self._get = table.get

    def _model(self, id: int) -> Any:
        model = self._get(id)
        chapter: Chapter | None = self._chapter
        while chapter is not None:
            if id in chapter.before:
                return chapter.before[id]
            chapter = chapter.next
        return model

    def _noted(self) -> dict[int, Any]:
        """Return the old version of every model that changed since."""
        if self._chapter.next is None:
            return self._chapter.before.copy()
        noted: dict[int, Any] = {}
        chapter: Chapter | None = self._chapter
        while chapter is not None:
            noted = {**chapter.before.copy(), **noted}
            chapter = chapter.next
        return noted

    def _split(self, published: Ids, model_class: type[Model]) -> tuple[list[int], list[Any]]:
        ids = as_set(published).after(-1, _ALL)
        noted = self._noted()
        unchanged = [id for id in ids if id not in noted]
        return unchanged, [model for model in noted.values() if type(model) is model_class]

    def _look(self, store: OrderStore) -> Look:
        model_class = store.view.machine.model_class
        known: dict[int, Any] = {}
        entries: list[bytes] = []

        def look() -> tuple[list[bytes], dict[int, Any]]:
            nonlocal known, entries
            noted = self._noted()
            if len(noted) > len(known):
                # What was noted stays as it is; there is only ever more.
                models = [model for model in noted.values() if type(model) is model_class]
                entries = sorted(entry for entry in map(store.entry, models) if entry is not None)
                known = noted
            return entries, known

        return look


_ALL = 2**62


class Snapshots:
    """Opens snapshots, and has what they need noted while there are any.

    Parameters:
        processor: publishes.
        lock: held for reading while a snapshot begins, so that no group is half published.
        sight: what decides who sees what of the published state.
    """

    def __init__(self, processor: Processor, lock: ReadWriteLock, sight: Sight) -> None:
        self._processor = processor
        self._lock = lock
        self._sight = sight
        self._open_count = 0
        self._newest: Chapter | None = None

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
        if self._open_count >= limits.SNAPSHOTS_MAX:
            raise LimitExceeded(
                f"{limits.SNAPSHOTS_MAX} snapshots are open",
                hint="Close them when they were read: with k.snapshot(context) as s: ...",
            )
        chapter = Chapter()
        if self._newest is not None:
            self._newest.next = chapter
        self._newest = chapter
        self._processor.noted = chapter.before
        self._open_count += 1
        source = SnapshotSource(chapter, self._processor.table, self._sight.source.views)
        return Snapshot(context, self._sight.of(source), self._processor.published_sequence, self._end)

    def _end(self) -> None:
        self._open_count -= 1
        if not self._open_count:
            self._newest = self._processor.noted = None


class Snapshot(AuthorizedReading):
    """One consistent moment, for as long as it is open: ``with k.snapshot(context) as s``.

    It offers what `Reader` offers, holds up nobody, and may be used by any thread. What it costs is memory
    for the old versions of whatever changes meanwhile; so close it when it was read. Of the commit log it
    shows what had happened by then, without what was erased since.
    """

    def __init__(self, context: Context, sight: Sight, sequence: int, end: Callable[[], None]) -> None:
        self._context, self._verdicts = sight.begin(context)
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

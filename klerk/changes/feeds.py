"""Handing out what was published: a bounded queue for each subscriber, and who has one."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from klerk import limits
from klerk._core import Group, Processor
from klerk._waiting import CommandQueue, ReadWriteLock
from klerk.changes.change import Delta, Watched
from klerk.commands import Context
from klerk.errors import Closed, LimitExceeded, NotPure, ReadLockHeld
from klerk.processing import Program
from klerk.reading.reader import Reader, Sight
from klerk.storage.contract import Storage


class Feed:
    """The queue of one subscriber: the committer puts groups in, the subscriber takes them out.

    There is no lock: only the committer counts what is put in and sets `is_full`; the rest is up to the
    subscriber.

    Parameters:
        length_max: changed models that may wait; a transaction without any counts as one.
        watched: what is wanted. Groups in which nothing is are left out, so that they wake nobody.
    """

    def __init__(self, length_max: int, watched: Watched) -> None:
        self.length_max = length_max
        self.watched = watched
        self.entries: deque[tuple[Sequence[Any], Sequence[Any]]] = deque()
        self.is_full = False
        self.taken_count = 0
        self.wake: Callable[[], object] | None = None
        self._put_count = 0

    def put(self, heads: Sequence[Any], changes: Sequence[Sequence[Any]], count: int) -> bool:
        """Add a group of so many changes; return False when some had no room: nothing more is put in then."""
        room = self.length_max - (self._put_count - self.taken_count)
        if count > room:
            fitting = 0
            for each in changes:
                room -= len(each) or 1
                if room < 0:
                    break
                fitting += 1
            heads, changes = heads[:fitting], changes[:fitting]
        if heads:
            self._put_count += count
            self.entries.append((heads, changes))
        if room < 0:
            self.is_full = True
        self.rouse()
        return not self.is_full

    def take(self) -> list[Delta]:
        """Return what was put in first; it stays in until `drop`."""
        heads, changes = self.entries[0]
        return [
            Delta(head[0], head[1], _ordered(models)) for head, models in zip(heads, changes, strict=True)
        ]

    def drop(self) -> None:
        """Remove what was put in first."""
        _, changes = self.entries.popleft()
        self.taken_count += _count(changes)

    def rouse(self) -> None:
        """Wake the subscriber, if it waits."""
        wake = self.wake
        if wake is not None:
            try:
                wake()
            except RuntimeError:
                # The event loop was closed while its task waited: there is nobody to tell.
                self.wake = None


Part = tuple[Sequence[Any], Sequence[Sequence[Any]], int]
"""The heads of some transactions, the changed models of each, and how many that is for a `Feed`."""


class Handout:
    """A published group, looked at once for all subscribers."""

    def __init__(self, group: Group) -> None:
        self._changed = group.changed
        self._whole: Part = (group.heads, group.changes, _count(group.changes))
        # Of what was deleted, only the versions before have a class: it may be any.
        self._classes = set(map(type, group.changed.values()))
        self._places: dict[int, list[int]] | None = None

    def part_for(self, watched: Watched) -> Part | None:
        """Return what a subscription gets; None when nothing in it can concern it."""
        if watched.everything or not self._classes.isdisjoint(watched.classes):
            return self._whole
        ids = self._changed.keys() & watched.ids
        if not ids:
            return None
        places = self._by_id()
        chosen = sorted({place for id in ids for place in places[id]})
        heads, changes, _ = self._whole
        some = [changes[place] for place in chosen]
        return [heads[place] for place in chosen], some, _count(some)

    def _by_id(self) -> dict[int, list[int]]:
        """Return the places of the transactions that changed each model."""
        if self._places is None:
            self._places = {}
            for place, models in enumerate(self._whole[1]):
                for before, after in models:
                    id = (after if before is None else before).meta.id
                    self._places.setdefault(id, []).append(place)
        return self._places


def _ordered(models: Sequence[tuple[Any, Any]]) -> Sequence[tuple[Any, Any]]:
    """Return the changed models of a transaction with the deleted ones last, as the log has them."""
    deleted = [each for each in models if each[1] is None]
    return [*(each for each in models if each[1] is not None), *deleted] if deleted else models


def _count(changes: Sequence[Sequence[Any]]) -> int:
    return sum([len(each) or 1 for each in changes])


class Hub:
    """Hands every published group to whoever subscribes.

    Parameters:
        program: knows how far was published, and who sees what.
        storage: with the commit log.
        lock: under which rules are asked.
        queue: knows the threads that commit.

    Attributes:
        noted: the sequence up to which groups were handed out.
        over: nothing more will be handed out.
    """

    def __init__(
        self,
        program: Program,
        storage: Storage,
        lock: ReadWriteLock,
        queue: CommandQueue,
    ) -> None:
        self.processor: Processor = program.processor
        self.sight: Sight = program.sight
        self.plans = program.plan_of_code
        self.storage = storage
        self.noted: int = program.processor.published_sequence
        self.over = self._forked = False
        self._lock = lock
        self._queue = queue
        # A dictionary, because each of its operations is one step: subscribers come and go while groups do.
        self._feeds: dict[Feed, None] = {}

    def reader(self, context: Context) -> Reader:
        """Return a reader for a subscriber, which outlives the closing of Klerk."""
        return Reader(self._lock, context, self.sight)

    def refuse_waiting(self, *, blocking: bool) -> None:
        """Raise where waiting for a commit would never end.

        Parameters:
            blocking: the caller would stop its whole thread.

        Raises:
            ReadLockHeld, NotPure, Closed: why.
        """
        if self._forked:
            raise Closed("the subscription belongs to the process that this one was forked from")
        if self._lock.held_here(blocking):
            raise ReadLockHeld(
                "a change was waited for by a thread or task that holds the read lock",
                hint="Subscribe inside the `with k.read(...)` block, and take the changes after it.",
            )
        if self._queue.is_committer():
            raise NotPure(
                "a change was waited for in the thread that has to commit it",
                hint="Take changes in a thread or task of your own.",
            )

    def note(self, group: Group) -> None:
        """Hand out a group that was just published."""
        if self._feeds:
            handout = Handout(group)
            for feed in list(self._feeds):
                part = handout.part_for(feed.watched)
                if part is not None and not feed.put(*part):
                    self._feeds.pop(feed, None)
        self.noted = group.heads[-1][0]

    def join(self, feed: Feed) -> None:
        """Hand every group that is published from now on to a feed.

        Raises:
            LimitExceeded: there are too many.
        """
        if len(self._feeds) >= limits.SUBSCRIBERS_MAX:
            raise LimitExceeded(
                f"there are {limits.SUBSCRIBERS_MAX} subscriptions",
                hint="Close those that are done with; share one between users who may see the same.",
            )
        self._feeds[feed] = None

    def leave(self, feed: Feed) -> None:
        """Hand nothing more to a feed."""
        self._feeds.pop(feed, None)

    def close(self) -> None:
        """Let every subscriber end once it was told what is in its queue: nothing more will come."""
        self.over = True
        for feed in list(self._feeds):
            feed.rouse()

    def disown(self) -> None:
        """In a forked child: nothing is published here."""
        self.over = self._forked = True
        self._feeds = {}

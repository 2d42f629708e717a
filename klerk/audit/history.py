"""The history family: which transactions touched a model, were an actor's, held an event, fell into an hour.

It is built behind the commits. What a checkpoint brings together is written at once: for each value of each
facet one entry, whose key is the facet, the value and the first sequence, and whose value is the distances
from each sequence to the next. Until then the same is answered from memory. An own mark says up to which log
record the entries reach; a record that is indexed again leaves the entries as they are, because the first
sequence of a value after the mark is the same each time.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import Any, Final

import msgspec

from klerk import limits
from klerk._facets import Facets, listed, packed
from klerk._image import key_of
from klerk.audit.sequences import Entries, Hours, Sequences
from klerk.codec import INDEXED_KEY, encode, number_of, read_record
from klerk.storage.contract import Family, Put, Storage

# Event codes and hours may be negative; what is added makes their keys sort as they do.
_OFFSET: Final = 2**32
_MODEL, _ACTOR, _EVENT, _HOUR, _SPAN = b"m", b"a", b"e", b"t", b"h"
_Actor = tuple[str, str]


class History:
    """Finds transactions by facet, and keeps the family up to date.

    Parameters:
        storage: that holds it.

    Thread-safe; `note` is called in the order of the groups.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        # What is in neither of these is in the store; while it is written it is in both.
        self._fresh = Facets()
        self._being_written = Facets()
        self._newest = 0
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    # --- keeping it up to date --------------------------------------------------------------------

    def note(self, heads: Iterable[tuple[Any, ...]], record: int) -> None:
        """Take over the transactions of a durable log record, before they are published.

        Parameters:
            record: its key.
        """
        # At once: heads that are kept until they are written keep the garbage collector busy.
        with self._lock:
            self._fresh.add(heads)
            self._newest = record

    def write(self) -> None:
        """Write what was noted, in small batches, and then mark how far that reaches."""
        with self._writing:
            with self._lock:
                if not self._fresh.count:
                    return
                facets, newest = self._fresh, self._newest
                self._being_written, self._fresh = facets, Facets()
            self._write(facets, newest)
            with self._lock:
                self._being_written = Facets()

    def _write(self, facets: Facets, newest: int) -> None:
        puts: list[Put] = []
        for prefix, sequences in _rows(facets):
            puts.append((Family.HISTORY, prefix + key_of(sequences[0]), packed(sequences)))
            if len(puts) == limits.CHECKPOINT_BATCH_RECORDS:
                self._storage.write(puts, [])
                puts = []
        for hour, sequences in facets.hours.items():
            first, last = sequences[0], sequences[-1]
            if (span := self._storage.get(Family.HISTORY, _span_key(hour))) is not None:
                first, last = min(first, number_of(span[:8])), max(last, number_of(span[8:]))
            puts.append((Family.HISTORY, _span_key(hour), key_of(first) + key_of(last)))
        self._storage.write([*puts, (Family.META, INDEXED_KEY, key_of(newest))], [])

    def catch_up(self, progress: Callable[[str, int, int], None]) -> None:
        """Index the log records that are newer than the mark; all of them when there is none.

        Parameters:
            progress: called as ``progress(what, done, total)``, with a total of 0 where it is not known.

        Raises:
            Corrupted: a record cannot be read.
        """
        mark = self._storage.get(Family.META, INDEXED_KEY)
        indexed = 0 if mark is None else number_of(mark)
        if mark is None:
            self._clear()
        total = 0 if indexed else self._storage.estimated_count(Family.LOG)
        for done, (key, value) in enumerate(self._storage.scan(Family.LOG, key_of(indexed + 1))):
            head = read_record(key, value)[0]
            self.note([msgspec.structs.astuple(each) for each in head.transactions], head.first)
            if done % 256 == 0:
                progress("indexing the commit log", done, total)
            if self._fresh.count >= limits.CHECKPOINT_RECORDS_MAX:
                self.write()
        self.write()

    def _clear(self) -> None:
        """Remove entries without a mark: it is not known what they reach to."""
        keys = [(int(Family.HISTORY), key) for key, _ in self._storage.scan(Family.HISTORY)]
        for i in range(0, len(keys), limits.CHECKPOINT_BATCH_RECORDS):
            self._storage.write([], keys[i : i + limits.CHECKPOINT_BATCH_RECORDS])

    # --- finding ----------------------------------------------------------------------------------

    def of_model(self, id: int) -> Sequences:
        """Return the transactions that touched a model, or tried to."""
        return Entries(self._storage, _model_prefix(id), self._recent("models", id))

    def of_actor(self, kind: str, id: str) -> Sequences:
        """Return the transactions of an actor, and those on its behalf."""
        return Entries(self._storage, _actor_prefix((kind, id)), self._recent("actors", (kind, id)))

    def of_event(self, code: int) -> Sequences:
        """Return the transactions that hold a command of an event."""
        return Entries(self._storage, _event_prefix(code), self._recent("events", code))

    def of_hours(self, first: int | None, last: int | None) -> Sequences:
        """Return the transactions whose contexts' times are in some hours, counted since 1970.

        Parameters:
            first, last: included; None for no bound.
        """
        low = -_OFFSET if first is None else first
        high = _OFFSET if last is None else last
        with self._lock:
            known = {*self._being_written.hours, *self._fresh.hours}
            recent = {hour: self._recent_of("hours", hour) for hour in known if low <= hour <= high}
        spans = {
            number_of(key[1:]) - _OFFSET: (number_of(span[:8]), number_of(span[8:]))
            for key, span in self._storage.scan(Family.HISTORY, _span_key(low), _span_key(high + 1))
        }
        for hour, sequences in recent.items():
            start, end = spans.get(hour, (sequences[0], sequences[-1]))
            spans[hour] = min(start, sequences[0]), max(end, sequences[-1])
        return Hours(
            [
                (*span, Entries(self._storage, _hour_prefix(hour), recent.get(hour, [])))
                for hour, span in spans.items()
            ]
        )

    def _recent(self, facet: str, value: Any) -> list[int]:
        with self._lock:
            return self._recent_of(facet, value)

    def _recent_of(self, facet: str, value: Any) -> list[int]:
        """Return a copy of the sequences in memory; the lock is held."""
        older, newer = (getattr(each, facet).get(value) for each in (self._being_written, self._fresh))
        return [*listed(older), *listed(newer)]


def _rows(facets: Facets) -> Iterator[tuple[bytes, list[int]]]:
    """Yield the prefix of each facet's value with its sequences."""
    for id, found in facets.models.items():
        yield _model_prefix(id), listed(found)
    for actor, sequences in facets.actors.items():
        yield _actor_prefix(actor), sequences
    for code, sequences in facets.events.items():
        yield _event_prefix(code), sequences
    for hour, sequences in facets.hours.items():
        yield _hour_prefix(hour), sequences


def _model_prefix(id: int) -> bytes:
    return _MODEL + key_of(id)


def _actor_prefix(actor: _Actor) -> bytes:
    # Of equal length for all, so that no prefix is the beginning of another; and no name is kept here.
    return _ACTOR + sha256(encode(actor)).digest()[:16]


def _event_prefix(code: int) -> bytes:
    return _EVENT + key_of(code + _OFFSET)


def _hour_prefix(hour: int) -> bytes:
    return _HOUR + key_of(hour + _OFFSET)


def _span_key(hour: int) -> bytes:
    return _SPAN + key_of(hour + _OFFSET)

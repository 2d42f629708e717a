"""One scan of the store: rows fetched some at a time, from a native iterator that `close` can take away."""

import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from klerk.errors import KlerkError

Row = tuple[bytes, bytes]

# Rows fetched at once: few at first, since many scans want only the first row or two.
_ROWS_MIN = 16
_ROWS_MAX = 1024


class NativeIterator(Protocol):
    """What is used of rocksdict's `RdictIter`."""

    def valid(self) -> bool: ...
    def status(self) -> None: ...
    def seek(self, key: bytes) -> None: ...
    def seek_to_last(self) -> None: ...
    def next(self) -> None: ...
    def prev(self) -> None: ...
    def key(self) -> bytes: ...
    def value(self) -> bytes: ...


class Cursor:
    """Rows from a native iterator.

    Parameters:
        iterator: bounded above already.
        start: the smallest key wanted.
        lock: held while the iterator is used; whoever calls `drop` holds it too.
        failed: gives the error to raise for what the iterator raised, or for None when it was dropped.
        options: of the iterator, which points into them without owning them.
    """

    def __init__(
        self,
        iterator: NativeIterator,
        start: bytes,
        lock: threading.Lock,
        failed: Callable[[Exception | None], KlerkError],
        options: object,
    ) -> None:
        self._iterator: NativeIterator | None = iterator
        self._start = start
        self._lock = lock
        self._failed = failed
        self._options = options

    def rows_up(self) -> Iterator[Row]:
        """Yield the rows from `start` on, in the order of their keys."""
        return self._rows(lambda iterator: iterator.seek(self._start), self._fetch_up)

    def rows_down(self) -> Iterator[Row]:
        """Yield the rows from the last one down to `start`."""
        return self._rows(lambda iterator: iterator.seek_to_last(), self._fetch_down)

    def drop(self) -> None:
        """Let go of the iterator: it keeps RocksDB's lock."""
        self._iterator = None

    def disown(self, lock: threading.Lock) -> NativeIterator | None:
        """In a forked child: take a lock that nobody holds; return the iterator, which must not be freed."""
        self._lock = lock
        iterator, self._iterator = self._iterator, None
        return iterator

    def _rows(
        self,
        seek: Callable[[NativeIterator], None],
        fetch: Callable[[NativeIterator, int], list[Row]],
    ) -> Iterator[Row]:
        count = _ROWS_MIN
        rows = self._guarded(seek, fetch, count)
        while len(rows) == count:
            yield from rows
            count = min(2 * count, _ROWS_MAX)
            rows = self._guarded(None, fetch, count)
        self.drop()
        yield from rows

    def _guarded(
        self,
        seek: Callable[[NativeIterator], None] | None,
        fetch: Callable[[NativeIterator, int], list[Row]],
        count: int,
    ) -> list[Row]:
        with self._lock:
            if self._iterator is None:
                raise self._failed(None)
            try:
                if seek is not None:
                    seek(self._iterator)
                return fetch(self._iterator, count)
            except Exception as error:
                # Without its frames: whoever keeps the error must not keep the iterator with them.
                raise self._failed(error) from error.with_traceback(None)

    def _fetch_up(self, iterator: NativeIterator, count: int) -> list[Row]:
        valid, key, value, advance = iterator.valid, iterator.key, iterator.value, iterator.next
        rows: list[Row] = []
        while len(rows) < count and valid():
            rows.append((key(), value()))
            advance()
        # An iterator that met damage is as invalid as one that reached the end: only the status tells.
        iterator.status()
        return rows

    def _fetch_down(self, iterator: NativeIterator, count: int) -> list[Row]:
        valid, key, value, advance = iterator.valid, iterator.key, iterator.value, iterator.prev
        start = self._start
        rows: list[Row] = []
        while len(rows) < count and valid() and (row_key := key()) >= start:
            rows.append((row_key, value()))
            advance()
        iterator.status()
        return rows

"""A store that forgets everything when it is closed: for tests, and for durability "memory"."""

import os
import threading
from bisect import bisect_left
from collections.abc import Iterator

from klerk.errors import Closed, StorageError
from klerk.storage.contract import Delete, Family, Put, Storage, Witness


class MemoryStorage(Storage):
    """Plain dictionaries behind the contract of `Storage`."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._values: list[dict[bytes, bytes]] = [{} for _ in Family]
        # The keys in order, per family; None when they have to be sorted again.
        self._sorted: list[list[bytes] | None] = [[] for _ in Family]

    def witness(self, sequence: int, digest: bytes) -> None:
        """Do nothing: there is no later run that could compare."""
        self._check_open()

    def witnessed(self) -> Witness | None:
        """Return None: there was no earlier run."""
        return None

    def get(self, family: int, key: bytes) -> bytes | None:
        """Return the value, or None when the key is absent."""
        self._check_open()
        return self._values[family].get(key)

    def scan(
        self, family: int, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over a copy, in the order of the keys' bytes; see `Storage.scan`."""
        self._check_open()
        with self._lock:
            keys = self._sorted[family]
            values = self._values[family]
            if keys is None:
                keys = self._sorted[family] = sorted(values)
            first = bisect_left(keys, start)
            last = len(keys) if stop is None else bisect_left(keys, stop)
            rows = [(key, values[key]) for key in keys[first:last]]
        return reversed(rows) if reverse else iter(rows)

    def size_bytes(self) -> int:
        """Return the bytes of all keys and values, without what Python adds to them."""
        self._check_open()
        with self._lock:
            return sum(len(k) + len(v) for values in self._values for k, v in values.items())

    def estimated_count(self, family: int) -> int:
        """Return how many keys the family holds."""
        self._check_open()
        return len(self._values[family])

    def close(self) -> None:
        """Drop everything."""
        self._closed = Closed("the store is closed", hint="Open the app again.")
        self._refusing = True
        with self._lock:
            self._values = [{} for _ in Family]
            self._sorted = [[] for _ in Family]

    def _write(self, puts: list[Put], deletes: list[Delete]) -> None:
        # A batch is all or nothing: what cannot be stored is found before anything is.
        for family, key, value in puts:
            if type(key) is not bytes or type(value) is not bytes:
                raise TypeError("keys and values are bytes")
            self._values[family]
        for family, key in deletes:
            if type(key) is not bytes:
                raise TypeError("keys are bytes")
            self._values[family]
        with self._lock:
            for family, key in deletes:
                if self._values[family].pop(key, None) is not None:
                    self._sorted[family] = None
            for family, key, value in puts:
                values = self._values[family]
                if key not in values:
                    self._note_new_key(family, key)
                values[key] = value

    def _note_new_key(self, family: int, key: bytes) -> None:
        """Keep the order when the key comes last, as the log's always does; sort again otherwise."""
        keys = self._sorted[family]
        if keys is not None and (not keys or keys[-1] < key):
            keys.append(key)
        else:
            self._sorted[family] = None

    def _sync(self) -> None:
        pass

    def _checkpoint(self, path: str | os.PathLike[str]) -> None:
        raise StorageError(
            "a store in memory cannot be copied to disk",
            hint="Open the application with a path to keep its data.",
        )

    def _compact(self, family: int, start: bytes, stop: bytes) -> None:
        # What is overwritten or deleted in memory is gone.
        pass

"""What a store promises to the engine, and the latch that every store shares.

A store keeps bytes under bytes in a fixed set of families. It knows nothing about models or records; the
one thing that it knows about the commit log is its newest acknowledged position, which it keeps beside the
data as a witness: a log that is behind its witness has lost acknowledged commands.
"""

import abc
import enum
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from klerk.errors import Closed, StoreFailed
from klerk.storage.marks import MarkFile


class Family(enum.IntEnum):
    """The families of keys. Created once with the store and never dropped; new ones go at the end."""

    LOG = 0
    MODELS = 1
    JOBS = 2
    TOKENS = 3
    HISTORY = 4
    KV = 5
    BLOBS = 6
    META = 7


Put = tuple[int, bytes, bytes]
"""Family, key, value."""

Delete = tuple[int, bytes]
"""Family, key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """The newest acknowledged position of the commit log.

    Parameters:
        sequence: of the newest record that was acknowledged; 0 when none was.
        digest: that record's hash, at most `WITNESS_DIGEST_BYTES_MAX` bytes.
    """

    sequence: int
    digest: bytes


WITNESS_DIGEST_BYTES_MAX = 32


class Storage(abc.ABC):
    """An ordered, durable map from (family, key) to value, written in atomic batches.

    Any thread writes: batches of several threads are stored one after the other. `sync` may be called beside
    `write`, and anything reads at any time. Whatever fails first in `write` or `sync` is latched: it is not
    known what of it is stored, so every later `write`, `sync` and `checkpoint` is refused until the store is
    opened again. Reads go on.

    Attributes:
        failed: the latched failure, its cause chained; None while all is well.
        closed_cleanly: whether the last run ended with `close`. If not, part of what was written last may be
            missing, in whole batches: it shows as an early end of the log, or as a gap in it.
        recovered_tail: whether opening had to drop a torn, never acknowledged end of the last write.
        marks: of running jobs, which survive the death of the process; None where nothing would.
    """

    def __init__(self) -> None:
        self.failed: StoreFailed | None = None
        self.closed_cleanly = True
        self.recovered_tail = False
        self.marks: MarkFile | None = None
        self._closed: Closed | None = None
        # The one thing that the hot path looks at: set when the store has failed or is closed.
        self._refusing = False

    def write(self, puts: list[Put], deletes: list[Delete]) -> None:
        """Store one batch: all of it or nothing, after every earlier batch. It is durable after `sync`.

        Parameters:
            puts: (family, key, value); of two puts to one key the later one wins.
            deletes: (family, key); applied before the puts. A key that is absent is no error.

        Raises:
            StoreFailed: it failed, or something failed before. Whether it is stored is unknown.
            Closed: the store is closed.
        """
        if self._refusing:
            self._refuse()
        try:
            self._write(puts, deletes)
        except BaseException as cause:
            self._latch("write", cause)

    def sync(self) -> None:
        """Return when every batch whose `write` returned before this call is durable.

        The interpreter lock is released while the disk works.

        Raises:
            StoreFailed: it failed, or something failed before. Whether it is durable is unknown.
            Closed: the store is closed.
        """
        if self._refusing:
            self._refuse()
        try:
            self._sync()
        except BaseException as cause:
            self._latch("sync", cause)

    def checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Copy the store as it is now to a new directory, while it is in use.

        The copy is a store of its own, holds every batch whose `write` returned before this call, and
        appears under its name only when it is complete.

        Parameters:
            path: of the copy. It must not exist, and its parent must.

        Raises:
            StoreFailed: something failed before, so this is no state to keep.
            StorageError: the copy could not be made; the store itself is as it was.
        """
        if self._refusing:
            self._refuse()
        self._checkpoint(path)

    def compact(self, family: int, start: bytes, stop: bytes) -> None:
        """Leave nothing in the store's files of what was deleted or overwritten between two keys.

        What an unfinished scan still shows stays until that ends. The cost is that of writing everything
        that is stored between the keys once more, and of what lies in the same files.

        Parameters:
            start: the first key, included.
            stop: the end; whether it is included is left to the store.

        Raises:
            StoreFailed: something failed before.
            StorageError: it could not be done, and can be tried again; the store itself is as it was.
        """
        if self._refusing:
            self._refuse()
        self._compact(family, start, stop)

    @abc.abstractmethod
    def witness(self, sequence: int, digest: bytes) -> None:
        """Note the newest acknowledged position of the log. What is noted survives a killed process.

        To be called after the `sync` that made the position durable, by one thread at a time.
        """

    @abc.abstractmethod
    def witnessed(self) -> Witness | None:
        """Return what the last run noted; None when there is nothing that the log must reach.

        A log whose newest record is older than this has lost acknowledged commands. That it is newer is
        no error: a crash may come between `sync` and `witness`. A run with durability "process" promised
        nothing beyond the machine's next start, so after that its note is None.
        """

    @abc.abstractmethod
    def get(self, family: int, key: bytes) -> bytes | None:
        """Return the value, or None when the key is absent.

        Raises:
            Corrupted: what is stored under it is damaged.
            Closed: the store is closed.
        """

    @abc.abstractmethod
    def scan(
        self, family: int, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over (key, value) in the order of the keys' bytes, as of the moment of this call.

        Parameters:
            start: the first key, included.
            stop: the end, excluded; None for no end.
            reverse: from the last key below `stop` down to `start`.

        Raises (while iterating):
            Corrupted: something on the way is damaged. An iteration that ends without it was complete.
            Closed: the store was closed meanwhile.
        """

    @abc.abstractmethod
    def size_bytes(self) -> int:
        """Return the size of the files, or about that of the data where there are none."""

    @abc.abstractmethod
    def estimated_count(self, family: int) -> int:
        """Return about how many keys a family holds, cheaply: for progress, not for decisions."""

    @abc.abstractmethod
    def close(self) -> None:
        """Make everything durable and let go of the store. Closing again does nothing."""

    @abc.abstractmethod
    def _write(self, puts: list[Put], deletes: list[Delete]) -> None: ...

    @abc.abstractmethod
    def _sync(self) -> None: ...

    @abc.abstractmethod
    def _checkpoint(self, path: str | os.PathLike[str]) -> None: ...

    @abc.abstractmethod
    def _compact(self, family: int, start: bytes, stop: bytes) -> None: ...

    def _latch(self, action: str, cause: BaseException) -> NoReturn:
        """Keep the first failure and raise. Interrupts latch too: they leave the same doubt behind."""
        if self._closed is not None and isinstance(cause, Exception):
            # Another thread closed the store meanwhile: it is gone, not broken.
            raise Closed(self._closed.message, hint=self._closed.hint) from cause
        failure = StoreFailed(
            f"the {action} failed: {str(cause) or type(cause).__name__}",
            hint="Nothing more is written. Mend the cause, then open the store again: it recovers "
            "everything that was acknowledged.",
        )
        failure.__cause__ = cause
        if self.failed is None:
            self.failed = failure
            self._refusing = True
        if not isinstance(cause, Exception):
            raise cause
        raise failure

    def _refuse(self) -> NoReturn:
        """Raise why nothing is written any more, as a fresh error: one instance must not be shared."""
        self._check_open()
        assert self.failed is not None
        raise StoreFailed(
            f"refused since an earlier failure: {self.failed.message}", hint=self.failed.hint
        ) from self.failed.__cause__

    def _check_open(self) -> None:
        if self._closed is not None:
            raise Closed(self._closed.message, hint=self._closed.hint)

"""What people set of queues while an app is open: it stands in the commit log, and is found there again."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from klerk._core import InternalWork, Processor
from klerk.audit.commit_log import Lookup
from klerk.audit.history import History
from klerk.audit.sequences import oldest_first
from klerk.codec import JOB_QUEUES_KEY, QUEUE_ACTION, encode
from klerk.errors import Corrupted
from klerk.job_manager.levels import StoredLevels
from klerk.job_manager.shares import NOTHING, QueueOverride
from klerk.storage.contract import Family, Storage

__all__ = ["ChangeQueue", "QueueBook"]

FORMAT: Final = 1


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    """What was in force after a transaction, so that a start reads the log only from there on."""

    format: int
    sequence: int
    overrides: dict[str, QueueOverride]


_decode: Final[Callable[[bytes], _Stored]] = msgspec.msgpack.Decoder(_Stored).decode


class QueueBook:
    """What is kept of queues: what is in force of each, as the processed transactions left it, and levels.

    Parameters:
        storage: with the commit log, and with what was in force at an earlier moment.
        history: finds the actions since then.
        newest: the sequence of the newest transaction.

    Attributes:
        levels: how full the buckets of rates are between one run and the next.

    Raises:
        Corrupted: they cannot be read.
    """

    def __init__(self, storage: Storage, history: History, newest: int) -> None:
        self.levels = StoredLevels(storage)
        self._overrides: dict[str, QueueOverride] = {}
        since = self._read(storage)
        sequence = 0
        for sequence in oldest_first([history.of_event(QUEUE_ACTION)], since + 1, newest):
            self._replay(storage, sequence)
        if sequence:
            stored = _Stored(FORMAT, sequence, self._overrides)
            storage.write([(Family.META, JOB_QUEUES_KEY, encode(stored))], [])

    def _read(self, storage: Storage) -> int:
        row = storage.get(Family.META, JOB_QUEUES_KEY)
        if row is None:
            return 0
        try:
            stored = _decode(row)
        except msgspec.DecodeError as error:
            raise Corrupted(f"the settings of queues cannot be read: {error}") from error
        if stored.format != FORMAT:
            raise Corrupted(f"the settings of queues have format {stored.format}, expected {FORMAT}")
        self._overrides.update(stored.overrides)
        return stored.sequence

    def _replay(self, storage: Storage, sequence: int) -> None:
        lookup = Lookup(storage)
        head, payload = lookup.head(sequence), lookup.payload(sequence)
        if payload is None:
            raise Corrupted(f"transaction {sequence}, which set a queue, was erased")
        for (code, _, _), values in zip(head.targets, payload.parameters, strict=True):
            if code == QUEUE_ACTION:
                _, queue, changed = values
                self.set(queue, msgspec.convert(changed, QueueOverride))

    @property
    def overrides(self) -> Mapping[str, QueueOverride]:
        """What is in force of each queue for which something was set."""
        return self._overrides

    def of(self, queue: str) -> QueueOverride:
        """Return what is in force of a queue."""
        return self._overrides.get(queue, NOTHING)

    def set(self, queue: str, override: QueueOverride) -> None:
        """Note what is in force of a queue from now on. Called by the one that processes transactions."""
        if override == NOTHING:
            self._overrides.pop(queue, None)
        else:
            self._overrides[queue] = override


class ChangeQueue(InternalWork):
    """The transaction that sets something of a queue.

    Parameters:
        action: "pause", "resume" or "scale".
        queue: its name.
        book: of what is in force.
        change: gives what is to be in force, of what is.

    Attributes:
        sequence: of the transaction, once it was processed.
        after: what is in force then.
    """

    def __init__(
        self, action: str, queue: str, book: QueueBook, change: Callable[[QueueOverride], QueueOverride]
    ) -> None:
        self.action = action
        self.queue = queue
        self.book = book
        self.change = change
        self.sequence = 0
        self.after = NOTHING

    def perform(self, processor: Processor) -> None:
        self.after = self.change(self.book.of(self.queue))
        processor.log_unchecked(QUEUE_ACTION, 0, (self.action, self.queue, msgspec.to_builtins(self.after)))
        # Nothing of this can fail any more, unless the store does, after which nothing is processed.
        self.book.set(self.queue, self.after)
        self.sequence = processor.sequence + 1

    def __repr__(self) -> str:
        return f"{self.action} of the queue {self.queue!r}"

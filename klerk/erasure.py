"""Erasing what the commit log says of a model, so that its hash chain still fits.

An erasure is a transaction: it says whose history goes and up to where, and stores once more the newest
version of every model whose newest version is in a payload that goes. So nothing that exists depends on what
is erased. Only once it is durable are payloads replaced by nothing; the digest in each head stays. What a
crash leaves unfinished is finished at the next start, in the same order.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from klerk import limits
from klerk._core import InternalWork
from klerk._image import key_of, version_of
from klerk._table import ModelTable
from klerk.codec import ERASED_KEY, ERASURE, RENEWAL, LogRecord, encode, number_of
from klerk.commit_log import Lookup, record_at
from klerk.errors import Corrupted, LimitExceeded, NotFound
from klerk.history import History
from klerk.sequences import oldest_first
from klerk.storage.contract import Family, Put, Storage


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure did.

    Parameters:
        sequence: of the transaction that it is itself.
        transactions: how many payloads were replaced by nothing.
    """

    sequence: int
    transactions: int


class EraseModel(InternalWork):
    """The transaction that decides on an erasure.

    Parameters:
        id: of the model.
        until: the sequence of the newest transaction that is erased.
        renewed: the ids of the models whose newest versions are to be stored once more.
    """

    def __init__(self, id: int, until: int, renewed: set[int]) -> None:
        self.id = id
        self.until = until
        self.renewed = renewed

    def perform(self, processor: Any) -> int:
        processor.log_unchecked(ERASURE, self.id, (self.until,))
        for id in sorted(self.renewed):
            processor.renew(RENEWAL, id)
        sequence: int = processor.sequence
        return sequence + 1

    def __repr__(self) -> str:
        return f"erasure of model {self.id}"


class Eraser:
    """Erases models, one at a time.

    Parameters:
        storage, history: of the commit log.
        table: of the published models.
        bring_up_to_date: returns when everything published was applied to the other families.
    """

    def __init__(
        self, storage: Storage, history: History, table: ModelTable, bring_up_to_date: Callable[[], None]
    ) -> None:
        self._storage = storage
        self._history = history
        self._table = table
        self._bring_up_to_date = bring_up_to_date
        self._lock = threading.Lock()

    def prepare(self, id: int, until: int) -> EraseModel:
        """Return the transaction that erases a model's history up to a sequence.

        Raises:
            NotFound: there never was such a model.
            LimitExceeded: too many other models would have to be stored once more.
        """
        lookup = Lookup(self._storage)
        renewed: set[int] = {id}
        known = False
        for sequence in oldest_first([self._history.of_model(id)], 1, until):
            known = True
            payload = lookup.payload(sequence)
            if payload is not None:
                renewed.update(each for each, image in payload.images if self._is_newest(each, image))
        if not known:
            raise NotFound(f"there is no model {id!r} and never was one")
        if len(renewed) > limits.TRANSACTION_COMMANDS_MAX:
            raise LimitExceeded(
                f"erasing model {id} would store {len(renewed)} other models once more, more than"
                f" {limits.TRANSACTION_COMMANDS_MAX}",
                hint="It was changed together with them, in transactions that are still their newest.",
            )
        return EraseModel(id, until, renewed)

    def _is_newest(self, id: int, image: bytes) -> bool:
        model = self._table.get(id)
        return model is not None and model.meta.version == version_of(image)

    def finish(self, sequence: int) -> int:
        """Erase what durable erasures decided on, up to the one with a sequence.

        Returns:
            How many payloads that one replaced; 0 when another thread did.
        """
        with self._lock:
            self._bring_up_to_date()
            return finish_erasures(self._storage, self._history, sequence).get(sequence, 0)


def finish_erasures(storage: Storage, history: History, newest: int) -> dict[int, int]:
    """Do what erasures in the commit log decided on, and is not known to be done.

    Everything in the log must have been applied to the other families, and indexed.

    Parameters:
        newest: the sequence of the last erasure wanted.

    Returns:
        How many payloads each erasure replaced, by its sequence.

    Raises:
        StorageError: it could not be done; the next start tries again.
    """
    mark = storage.get(Family.META, ERASED_KEY)
    done: dict[int, int] = {}
    first = 1 if mark is None else number_of(mark) + 1
    for sequence in oldest_first([history.of_event(ERASURE)], first, newest):
        done[sequence] = _finish(storage, history, sequence)
        storage.write([(Family.META, ERASED_KEY, key_of(sequence))], [])
        storage.sync()
    return done


def _finish(storage: Storage, history: History, sequence: int) -> int:
    lookup = Lookup(storage)
    head, payload = lookup.head(sequence), lookup.payload(sequence)
    if payload is None:
        raise Corrupted(f"the erasure {sequence} was erased before it was finished")
    count = 0
    for (code, id, _), values in zip(head.targets, payload.parameters, strict=True):
        if code != ERASURE:
            continue
        (until,) = values
        sequences = list(oldest_first([history.of_model(id)], 1, until))
        count += _replace(storage, sequences)
        if sequences:
            storage.sync()
            # Those records, and the versions of the model that they overtook, are gone from the files, too.
            storage.compact(Family.LOG, _key(storage, sequences[0]), key_of(sequences[-1] + 1))
            storage.compact(Family.MODELS, key_of(id), key_of(id) + b"\0")
    return count


def _replace(storage: Storage, sequences: list[int]) -> int:
    """Replace the payloads of transactions by nothing; return how many there still were."""
    count = 0
    for put, replaced in _without(storage, sequences):
        storage.write([put], [])
        count += replaced
    return count


def _without(storage: Storage, sequences: list[int]) -> Iterator[tuple[Put, int]]:
    """Yield the puts of the log records that hold some ascending transactions, without their payloads."""
    at = 0
    while at < len(sequences):
        found = record_at(storage, sequences[at])
        if found is None:
            raise Corrupted(f"transaction {sequences[at]} is missing in the commit log")
        first, record = found
        payloads = list(record.payloads)
        replaced = 0
        while at < len(sequences) and sequences[at] < first + len(payloads):
            place = sequences[at] - first
            replaced += payloads[place] is not None
            payloads[place] = None
            at += 1
        if replaced:
            yield (Family.LOG, key_of(first), encode(LogRecord(record.head, tuple(payloads)))), replaced


def _key(storage: Storage, sequence: int) -> bytes:
    found = record_at(storage, sequence)
    return key_of(sequence if found is None else found[0])

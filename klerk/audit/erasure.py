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
from klerk.audit.commit_log import Lookup, record_at
from klerk.audit.history import History
from klerk.audit.sequences import oldest_first
from klerk.codec import ERASED_KEY, ERASURE, RENEWAL, LogRecord, encode, number_of
from klerk.errors import Corrupted, LimitExceeded, NotFound
from klerk.storage.contract import Family, Put, Storage


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure did.

    Parameters:
        sequence: of the transaction that it is itself.
        transactions: how many lost what was known of them.
    """

    sequence: int
    transactions: int


class EraseModel(InternalWork):
    """The transaction that decides on an erasure.

    Parameters:
        id: of the model.
        until: the sequence of the newest transaction that is erased.
        renewed: the ids of the models whose newest versions are to be stored once more.
        transactions: how many are there to be erased.
    """

    def __init__(self, id: int, until: int, renewed: set[int], transactions: int) -> None:
        self.id = id
        self.until = until
        self.renewed = renewed
        self.transactions = transactions

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
        known, transactions = False, 0
        for sequence in oldest_first([self._history.of_model(id)], 1, until):
            known = True
            payload = lookup.payload(sequence)
            if payload is not None:
                transactions += 1
                renewed.update(each for each, image in payload.images if self._is_newest(each, image))
        if not known:
            raise NotFound(f"there is no model {id!r} and never was one")
        if len(renewed) > limits.TRANSACTION_COMMANDS_MAX:
            raise LimitExceeded(
                f"erasing model {id} would store {len(renewed)} other models once more, more than"
                f" {limits.TRANSACTION_COMMANDS_MAX}",
                hint="It was changed together with them, in transactions that are still their newest.",
            )
        return EraseModel(id, until, renewed, transactions)

    def _is_newest(self, id: int, image: bytes) -> bool:
        model = self._table.get(id)
        return model is not None and model.meta.version == version_of(image)

    def finish(self, sequence: int) -> None:
        """Erase what durable erasures decided on, up to the one with a sequence."""
        with self._lock:
            self._bring_up_to_date()
            finish_erasures(self._storage, self._history, sequence)


def finish_erasures(storage: Storage, history: History, newest: int) -> None:
    """Do what erasures in the commit log decided on, and is not known to be done.

    Everything in the log must have been applied to the other families, and indexed.

    Parameters:
        newest: the sequence of the last erasure wanted.

    Raises:
        StorageError: it could not be done; the next start tries again.
    """
    mark = storage.get(Family.META, ERASED_KEY)
    first = 1 if mark is None else number_of(mark) + 1
    for sequence in oldest_first([history.of_event(ERASURE)], first, newest):
        _finish(storage, history, sequence)
        storage.write([(Family.META, ERASED_KEY, key_of(sequence))], [])
        storage.sync()


def _finish(storage: Storage, history: History, sequence: int) -> None:
    lookup = Lookup(storage)
    head, payload = lookup.head(sequence), lookup.payload(sequence)
    if payload is None:
        raise Corrupted(f"the erasure {sequence} was erased before it was finished")
    for (code, id, _), values in zip(head.targets, payload.parameters, strict=True):
        if code != ERASURE:
            continue
        (until,) = values
        sequences = list(oldest_first([history.of_model(id)], 1, until))
        for put in _without(storage, sequences):
            storage.write([put], [])
        if sequences:
            storage.sync()
            # Those records, and the versions of the model that they overtook, are gone from the files, too.
            storage.compact(Family.LOG, _key(storage, sequences[0]), key_of(sequences[-1] + 1))
            storage.compact(Family.MODELS, key_of(id), key_of(id) + b"\0")


def _without(storage: Storage, sequences: list[int]) -> Iterator[Put]:
    """Yield the puts of the log records that hold some ascending transactions, without their payloads."""
    at = 0
    while at < len(sequences):
        found = record_at(storage, sequences[at])
        if found is None:
            raise Corrupted(f"transaction {sequences[at]} is missing in the commit log")
        first, record = found
        payloads = list(record.payloads)
        while at < len(sequences) and sequences[at] < first + len(payloads):
            payloads[sequences[at] - first] = None
            at += 1
        if payloads != list(record.payloads):
            yield Family.LOG, key_of(first), encode(LogRecord(record.head, tuple(payloads)))


def _key(storage: Storage, sequence: int) -> bytes:
    found = record_at(storage, sequence)
    return key_of(sequence if found is None else found[0])

"""Reading the commit log: transactions by their sequence, from the records of the groups that hold them."""

from collections.abc import Iterator

import msgspec

from klerk import limits
from klerk._image import key_of
from klerk.codec import LogRecord, Payload, TransactionHead, number_of, read_payload, read_record
from klerk.errors import Corrupted
from klerk.storage.contract import Family, Storage


class Transaction(msgspec.Struct, frozen=True):
    """A transaction as the commit log has it.

    Parameters:
        head: what is kept for ever.
        payload: what it did, in full; None when that was erased.
    """

    head: TransactionHead
    payload: Payload | None


def transactions(storage: Storage, start: int = 1, stop: int | None = None) -> Iterator[Transaction]:
    """Yield the transactions of a store in their order.

    Parameters:
        start: the first sequence wanted.
        stop: the end, excluded; None for all that there are when this begins.

    Raises:
        Corrupted: a record cannot be read.
    """
    end = None if stop is None else key_of(stop)
    for key, value in storage.scan(Family.LOG, key_of(_record_of(storage, start)), end):
        head, _, record = read_record(key, value)
        for transaction, payload in zip(head.transactions, record.payloads, strict=True):
            if transaction.sequence >= start and (stop is None or transaction.sequence < stop):
                yield Transaction(transaction, None if payload is None else _payload(transaction, payload))


class Lookup:
    """Looks transactions up, mostly near each other: it keeps the record that it read last."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._heads: tuple[TransactionHead, ...] = ()
        self._payloads: tuple[bytes | None, ...] = ()

    def head(self, sequence: int) -> TransactionHead:
        """Return the head of a transaction that there is.

        Raises:
            Corrupted: it is missing, or its record cannot be read.
        """
        at = self._at(sequence)
        return self._heads[at]

    def payload(self, sequence: int) -> Payload | None:
        """Return what a transaction did; None when that was erased.

        Raises:
            Corrupted: as for `head`.
        """
        at = self._at(sequence)
        payload = self._payloads[at]
        return None if payload is None else _payload(self._heads[at], payload)

    def _at(self, sequence: int) -> int:
        """Return the place of a transaction in the record that holds it, having read that."""
        if not (self._heads and self._heads[0].sequence <= sequence <= self._heads[-1].sequence):
            number = _record_of(self._storage, sequence)
            value = self._storage.get(Family.LOG, key_of(number))
            if value is None:
                raise Corrupted(f"transaction {sequence} is missing in the commit log")
            head, _, record = read_record(key_of(number), value)
            if not head.first <= sequence <= head.last:
                raise Corrupted(f"transaction {sequence} is missing in the commit log")
            self._heads, self._payloads = head.transactions, record.payloads
        return sequence - self._heads[0].sequence


def transaction_at(storage: Storage, sequence: int) -> Transaction | None:
    """Return the transaction with a sequence, or None when there is none."""
    for transaction in transactions(storage, sequence, sequence + 1):
        return transaction
    return None


def record_at(storage: Storage, sequence: int) -> tuple[int, LogRecord] | None:
    """Return the log record that holds a transaction, with its key as a number."""
    number = _record_of(storage, sequence)
    value = storage.get(Family.LOG, key_of(number))
    if value is None:
        return None
    head, _, record = read_record(key_of(number), value)
    return (number, record) if head.first <= sequence <= head.last else None


def _record_of(storage: Storage, sequence: int) -> int:
    """Return the number of the record that holds a sequence: the last one that begins no later."""
    # It begins no further back than a group is long; what may be further back was written by other limits.
    for start in (max(0, sequence - limits.GROUP_COMMANDS_MAX), 0):
        for key, _ in storage.scan(Family.LOG, key_of(start), key_of(sequence + 1), reverse=True):
            return number_of(key)
    return 0


def _payload(head: TransactionHead, payload: bytes) -> Payload:
    try:
        return read_payload(payload)
    except msgspec.DecodeError as error:
        raise Corrupted(f"the payload of transaction {head.sequence} cannot be read: {error}") from error

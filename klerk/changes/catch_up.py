"""What transactions did to models, read back from the commit log for subscribers who were not there."""

import threading
from collections import OrderedDict
from typing import Any

from klerk import limits
from klerk._dispatch import ClassPlan
from klerk._image import class_code_of, key_of, model_of, version_of
from klerk.audit.commit_log import Transaction, transactions
from klerk.changes.change import Delta, Watched
from klerk.codec import Payload, read_payload, read_record
from klerk.errors import Corrupted
from klerk.storage.contract import Family, Storage


class CatchUp:
    """Reads deltas from the log, some at a time. It holds no lock that a writer or reader waits for.

    Parameters:
        storage: with the log.
        plans: class plans by their code; None for a class that was deleted.
        watched: what deltas are wanted for; other models are left out.
    """

    def __init__(self, storage: Storage, plans: dict[int, ClassPlan | None], watched: Watched) -> None:
        self._storage = storage
        self._plans = plans
        self._watched = watched
        # A coroutine that is cancelled leaves its read to end by itself, maybe beside the next one.
        self._lock = threading.Lock()
        # The versions read last, as of the transaction before `_next`: mostly those that change next.
        self._versions: OrderedDict[int, Any] = OrderedDict()
        self._next = 0

    def read(self, start: int, stop: int) -> list[Delta]:
        """Return the deltas of transactions in their order, of as many as are read at once: one at least.

        Parameters:
            start: the sequence of the first.
            stop: the end, excluded; more than start.

        Raises:
            Corrupted: the log cannot be read, or lacks transactions.
            Closed: the store was closed.
        """
        with self._lock:
            if start != self._next:
                self._versions.clear()
            found = self._transactions(start, stop)
            self._next = 0
            self._know_versions_before(found, start)
            deltas = [self._delta(each) for each in found]
            while len(self._versions) > limits.CATCH_UP_VERSIONS_MAX:
                self._versions.popitem(last=False)
            self._next = start + len(found)
            return deltas

    def forget(self) -> None:
        """Let go of what was kept for reading on."""
        if self._next:
            self._next = 0
            self._versions.clear()

    def _transactions(self, start: int, stop: int) -> list[Transaction]:
        found: list[Transaction] = []
        images = 0
        for each in transactions(self._storage, start, min(stop, start + limits.CATCH_UP_TRANSACTIONS)):
            if each.head.sequence != start + len(found):
                break
            found.append(each)
            images += 0 if each.payload is None else len(each.payload.images)
            if images >= limits.CATCH_UP_TRANSACTIONS:
                break
        if not found:
            raise Corrupted(f"the log lacks transaction {start}")
        return found

    def _delta(self, transaction: Transaction) -> Delta:
        head, payload = transaction.head, transaction.payload
        if payload is None:
            ids = dict.fromkeys(id for _, id, _ in head.targets if id)
            return Delta(head.sequence, head.time_us, (), [id for id in ids if self._watched.may_concern(id)])
        models: list[tuple[Any, Any]] = []
        lost: list[int] = []
        for id, image in payload.images:
            if self._concerns(id, image):
                model = model_of(self._plans, id, image)
                before = self._versions.pop(id, None)
                self._versions[id] = model
                if before is None or before.meta.version != model.meta.version:
                    models.append((before, model))
        for id in payload.deleted:
            before = self._versions.pop(id, None)
            if before is not None:
                models.append((before, None))
            elif self._watched.may_concern(id):
                lost.append(id)
        return Delta(head.sequence, head.time_us, models, lost)

    def _concerns(self, id: int, image: bytes) -> bool:
        try:
            plan = self._plans.get(class_code_of(image))
        except ValueError as error:
            raise Corrupted(f"an image of model {id} cannot be read: {error}") from error
        # The log also has models of classes that are declared no more.
        return plan is not None and self._watched.concerns(id, plan)

    def _know_versions_before(self, found: list[Transaction], start: int) -> None:
        """Find the versions that the transactions found, of models that nothing read so far has changed."""
        wanted: set[int] = set()
        known = set(self._versions)
        for each in found:
            if each.payload is not None:
                wanted.update(self._without_version(each.payload, known))
        if not wanted:
            return
        for id, image in _images_before(self._storage, wanted, start).items():
            if self._concerns(id, image):
                self._versions[id] = model_of(self._plans, id, image)

    def _without_version(self, payload: Payload, known: set[int]) -> list[int]:
        """Return the ids in a payload whose version before is not known; from now on it is."""
        ids = [id for id, image in payload.images if self._concerns(id, image) and id not in known]
        ids += [id for id in payload.deleted if self._watched.may_concern(id) and id not in known]
        images = dict(payload.images)
        known.update(images, payload.deleted)
        return [id for id in ids if id not in images or version_of(images[id]) > 1]


def _images_before(storage: Storage, wanted: set[int], stop: int) -> dict[int, bytes]:
    """Return the last image of each model before a sequence, as far as it was not erased."""
    found: dict[int, bytes] = {}
    left = set(wanted)
    for key, value in storage.scan(Family.LOG, b"", key_of(stop), reverse=True):
        head, _, record = read_record(key, value)
        for transaction, stored in zip(reversed(head.transactions), reversed(record.payloads), strict=True):
            if transaction.sequence >= stop or stored is None:
                continue
            for id, image in read_payload(stored).images:
                if id in left:
                    left.discard(id)
                    found[id] = image
        if not left:
            break
    return found

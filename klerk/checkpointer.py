"""Brings the families of models, jobs, tokens and history up to the commit log, behind the commits.

A commit writes one record to the log and nothing else: the record holds every after-image and every job of
the group. What a later version overtakes within a second is never written a second time. After a crash, the
part of the log that was not applied yet is read again (`klerk.recovery`); the newest applied record is marked
in the store, always after what it stands for.
"""

import logging
import threading
from typing import Any

from klerk import limits
from klerk._core import Group
from klerk._image import key_of, model_puts
from klerk.audit.history import History
from klerk.codec import APPLIED_KEY, job_puts, token_puts
from klerk.errors import StorageError
from klerk.jobs import JobRecord
from klerk.storage.contract import Family, Storage

LOG = logging.getLogger("klerk")


def apply(
    storage: Storage,
    images: dict[int, bytes | None],
    jobs: dict[int, tuple[JobRecord, bytes]],
    tokens: dict[int, bytes | None],
    newest: int,
) -> None:
    """Write models, jobs and tokens in small batches, then mark the log record up to which they were applied.

    Parameters:
        images: stored models by id; None for a deleted one.
        jobs: record and stored record by id.
        tokens: used tokens by sequence; None for one that expired.
        newest: the key of the log record.
    """
    puts, deletes = model_puts(Family.MODELS, images)
    more_puts, more_deletes = job_puts(jobs.values())
    for batch in _batches(deletes + more_deletes):
        storage.write([], batch)
    for batch in _batches(puts + more_puts):
        storage.write(batch, [])
    write_tokens(storage, tokens)
    storage.write([(Family.META, APPLIED_KEY, key_of(newest))], [])


def write_tokens(storage: Storage, tokens: dict[int, bytes | None]) -> None:
    """Write tokens in small batches, those that expired last: what was noted of them comes before."""
    puts, deletes = token_puts(tokens)
    for puts_batch in _batches(puts):
        storage.write(puts_batch, [])
    for deletes_batch in _batches(deletes):
        storage.write([], deletes_batch)


class Checkpointer:
    """Collects what published groups changed, and writes it about once a second, in small batches.

    Parameters:
        storage: where to.
        history: collects by itself what it needs of the groups, and is written at the same times.
    """

    def __init__(self, storage: Storage, history: History) -> None:
        self._storage = storage
        self._history = history
        self._writing = threading.Lock()
        self._transactions = 0
        self._changed = threading.Condition()
        self._images: dict[int, bytes | None] = {}
        self._jobs: dict[int, tuple[JobRecord, bytes]] = {}
        self._tokens: dict[int, bytes | None] = {}
        self._writing_jobs: dict[int, tuple[JobRecord, bytes]] = {}
        self._newest = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="klerk-checkpointer", daemon=True)
        self._thread.start()

    def note(self, group: Group) -> None:
        """Take over a durable group, before it is published: whoever sees what it did finds its history."""
        self._history.note(group.heads, group.first_sequence)
        with self._changed:
            was_empty = not self._newest
            self._images.update(group.images)
            for record, encoded in group.notices:
                self._jobs[record.id] = (record, encoded)
            self._tokens.update(group.tokens)
            self._newest = group.first_sequence
            self._transactions += len(group.heads)
            if was_empty or self._is_urgent():
                self._changed.notify()

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._newest or self._closed)
                # What comes within the next second is written together with it.
                self._changed.wait_for(self._is_urgent, limits.CHECKPOINT_INTERVAL_S)
            try:
                self.write()
            except StorageError as error:
                LOG.error("models and jobs are no longer written behind the log: %s", error)
                return

    def _is_urgent(self) -> bool:
        collected = max(len(self._images) + len(self._jobs) + len(self._tokens), self._transactions)
        return self._closed or collected >= limits.CHECKPOINT_RECORDS_MAX

    def write(self) -> None:
        """Write what was collected until now, and return when that is done."""
        # One at a time: what is older must not be written over what is newer.
        with self._writing:
            with self._changed:
                images, jobs, tokens, newest = self._images, self._jobs, self._tokens, self._newest
                self._images, self._jobs, self._tokens, self._newest = {}, {}, {}, 0
                self._transactions = 0
                self._writing_jobs = jobs
            if newest:
                apply(self._storage, images, jobs, tokens, newest)
                self._history.write()

    def job(self, job_id: int) -> JobRecord | None:
        """Return the record of a published job that is perhaps not written yet; None when it is."""
        with self._changed:
            found = self._jobs.get(job_id) or self._writing_jobs.get(job_id)
        return None if found is None else found[0]

    def close(self) -> None:
        """Write the rest and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        if self._storage.failed is not None:
            return
        try:
            self.write()
        except StorageError as error:
            # The log has all of it, and the next start applies its end.
            LOG.error("models and jobs are not written behind the log: %s", error)


def _batches(items: list[Any]) -> list[list[Any]]:
    size = limits.CHECKPOINT_BATCH_RECORDS
    return [items[i : i + size] for i in range(0, len(items), size)]

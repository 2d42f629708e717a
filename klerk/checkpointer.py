"""Brings the families of models, jobs, tokens and history up to the commit log, behind the commits.

A commit writes one record to the log and nothing else: the record holds every after-image and every job of
the group. What a later version overtakes within a second is never written a second time. After a crash, the
part of the log that was not applied yet is read again (`klerk.recovery`); the newest applied record is marked
in the store, always after what it stands for.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from klerk import limits
from klerk._core import Group
from klerk._image import key_of, model_puts
from klerk.audit.history import History
from klerk.codec import APPLIED_KEY, token_puts
from klerk.cron_marks import mark_puts
from klerk.errors import StorageError
from klerk.job_manager.job_rows import JobRows
from klerk.jobs import JobRecord
from klerk.log_events import about
from klerk.storage.contract import Family, Storage

LOG = logging.getLogger("klerk")


def apply(
    storage: Storage,
    rows: JobRows,
    images: dict[int, bytes | None],
    jobs: dict[int, tuple[JobRecord, bytes]],
    tokens: dict[int, bytes | None],
    newest: int,
) -> None:
    """Write models, jobs and tokens in small batches, then mark the log record up to which they were applied.

    Parameters:
        rows: stores the jobs.
        images: stored models by id; None for a deleted one.
        jobs: record and stored record by id.
        tokens: used tokens by sequence; None for one that expired.
        newest: the key of the log record.
    """
    puts, deletes = model_puts(Family.MODELS, images)
    for batch in _batches(deletes):
        storage.write([], batch)
    for batch in _batches(puts):
        storage.write(batch, [])
    rows.write(jobs.values())
    write_tokens(storage, tokens)
    marks = mark_puts(storage, [record for record, _ in jobs.values()])
    storage.write([*marks, (Family.META, APPLIED_KEY, key_of(newest))], [])


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
        rows: stores the jobs.

    Attributes:
        tidy: called in this thread after it has written, and when it was nudged.
    """

    def __init__(self, storage: Storage, history: History, rows: JobRows) -> None:
        self._storage = storage
        self._rows = rows
        self._history = history
        self._writing = threading.Lock()
        self._transactions = 0
        self._changed = threading.Condition()
        self._images: dict[int, bytes | None] = {}
        self._jobs: dict[int, tuple[JobRecord, bytes]] = {}
        self._jobs_in_writing: dict[int, tuple[JobRecord, bytes]] = {}
        self._job_moves = 0
        self._tokens: dict[int, bytes | None] = {}
        self._newest = 0
        self._since_s = 0.0
        self._closed = False
        self._nudged = False
        self.tidy: Callable[[], None] = lambda: None
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
            if was_empty:
                self._since_s = monotonic()
            if was_empty or self._is_urgent():
                self._changed.notify()

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._newest or self._nudged or self._closed)
                # What comes within the next second is written together with it.
                self._changed.wait_for(self._is_urgent, limits.CHECKPOINT_INTERVAL_S)
                self._nudged = False
            try:
                self.write()
                self.tidy()
            except StorageError as error:
                LOG.error(
                    "models and jobs are no longer written behind the log: %s",
                    error,
                    extra=about("checkpointing_failed"),
                )
                return

    @property
    def waiting(self) -> int:
        """How many records wait to be written behind the log."""
        return len(self._images) + len(self._jobs) + len(self._tokens)

    @property
    def lag_s(self) -> float:
        """For how long the oldest of them has waited, in seconds."""
        return monotonic() - self._since_s if self._newest else 0.0

    def _is_urgent(self) -> bool:
        collected = max(len(self._images) + len(self._jobs) + len(self._tokens), self._transactions)
        return self._closed or self._nudged or collected >= limits.CHECKPOINT_RECORDS_MAX

    def write(self) -> None:
        """Write what was collected until now, and return when that is done."""
        # One at a time: what is older must not be written over what is newer.
        with self._writing:
            with self._changed:
                images, jobs, tokens, newest = self._images, self._jobs, self._tokens, self._newest
                self._images, self._jobs, self._tokens, self._newest = {}, {}, {}, 0
                self._transactions = 0
                self._jobs_in_writing = jobs
                self._job_moves += 1
            if newest:
                apply(self._storage, self._rows, images, jobs, tokens, newest)
                with self._changed:
                    self._jobs_in_writing = {}
                    self._job_moves += 1
                self._history.write()

    def nudge(self) -> None:
        """Write, and tidy up, without waiting for more."""
        with self._changed:
            self._nudged = True
            self._changed.notify()

    @contextmanager
    def rows_at_rest(self) -> Iterator[JobRows]:
        """Let the caller change the rows of jobs, which nobody else does meanwhile."""
        with self._writing:
            with self._changed:
                self._job_moves += 1
            try:
                yield self._rows
            finally:
                with self._changed:
                    self._job_moves += 1

    def unwritten_job(self, job_id: int) -> tuple[JobRecord | None, int]:
        """Return a job that is not written yet, or is being written; and a number that changes whenever the
        rows of jobs begin or end to change.

        Who finds nothing here, and nothing in the store while the number stays the same, knows that there is
        nothing.
        """
        with self._changed:
            noted = self._jobs.get(job_id) or self._jobs_in_writing.get(job_id)
            return (None if noted is None else noted[0]), self._job_moves

    def unwritten_jobs(self) -> dict[int, JobRecord]:
        """Return all jobs that are not written yet, or are being written: of the others, what the store holds
        when it is read after this is the newest that there is."""
        with self._changed:
            noted = {**self._jobs_in_writing, **self._jobs}
        return {job_id: record for job_id, (record, _) in noted.items()}

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
            LOG.error(
                "models and jobs are not written behind the log: %s",
                error,
                extra=about("checkpointing_failed"),
            )


def _batches(items: list[Any]) -> list[list[Any]]:
    size = limits.CHECKPOINT_BATCH_RECORDS
    return [items[i : i + size] for i in range(0, len(items), size)]

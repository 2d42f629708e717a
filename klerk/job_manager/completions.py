"""Completions without commands: recorded together, as many as end while a transaction waits for its turn."""

import threading
from collections.abc import Callable
from typing import Any

from klerk import limits
from klerk._core import InternalWork
from klerk.codec import encode
from klerk.commands import System
from klerk.jobs import JobRecord

Encoded = tuple[JobRecord, bytes]

MANAGER = System("jobs")
"""Who records completions in the commit log; the records say of which jobs."""


class Completions:
    """Gathers the records of completed jobs, and submits one transaction for all that are there.

    Parameters:
        submit: puts a transaction into the queue.
    """

    def __init__(self, submit: Callable[[Any, System], object]) -> None:
        self._submit = submit
        self._lock = threading.Lock()
        self._waiting: list[Encoded] = []

    def add(self, record: JobRecord) -> None:
        """Record a completion with the next transaction.

        Raises:
            Closed, StoreFailed: nothing can be recorded any more.
        """
        encoded = encode(record)
        with self._lock:
            needs_transaction = len(self._waiting) % limits.JOB_COMPLETIONS_AT_ONCE == 0
            self._waiting.append((record, encoded))
        if needs_transaction:
            self._submit(RecordCompletions(self), MANAGER)

    def take(self) -> list[Encoded]:
        """Return what one transaction records."""
        with self._lock:
            taken = self._waiting[: limits.JOB_COMPLETIONS_AT_ONCE]
            del self._waiting[: limits.JOB_COMPLETIONS_AT_ONCE]
            return taken


class RecordCompletions(InternalWork):
    """The transaction that records completions: those that wait when its turn comes."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions

    def perform(self, processor: Any) -> None:
        for record, encoded in self._completions.take():
            processor.put_job(record, encoded)

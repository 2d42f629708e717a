"""Completions without commands: recorded together, as many as end while a transaction waits for its turn."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from klerk import limits
from klerk._core import InternalWork
from klerk._waiting import Submission
from klerk.codec import encode
from klerk.commands import System
from klerk.errors import Closed, StoreFailed
from klerk.job_manager.verdicts import text_of
from klerk.jobs import JobRecord
from klerk.log_events import about
from klerk.scheduler import Scheduler

LOG = logging.getLogger("klerk")

Encoded = tuple[JobRecord, bytes]

MANAGER = System("jobs")
"""Who records completions in the commit log; the records say of which jobs."""


class Completions:
    """Gathers the records of completed jobs, and submits one transaction for all that are there.

    Parameters:
        submit: puts a transaction into the queue.
        scheduler: calls later what failed.
        give_up: called when nothing can be recorded any more.
    """

    def __init__(
        self,
        submit: Callable[[Any, System], Submission[Any]],
        scheduler: Scheduler,
        give_up: Callable[[], None],
    ) -> None:
        self._submit = submit
        self._scheduler = scheduler
        self._give_up = give_up
        self._lock = threading.Lock()
        self._waiting: list[Encoded] = []
        # Transactions that are on their way, or are to be tried again; and of these, those that are not yet.
        self._asked = self._delayed = 0

    def add(self, record: JobRecord) -> None:
        """Record a completion with the next transaction.

        Raises:
            Closed, StoreFailed: nothing can be recorded any more.
        """
        encoded = encode(record)
        with self._lock:
            needs_transaction = len(self._waiting) >= self._asked * limits.JOB_COMPLETIONS_AT_ONCE
            self._waiting.append((record, encoded))
            self._asked += needs_transaction
        if needs_transaction:
            self._ask()

    def _ask(self) -> None:
        work = RecordCompletions(self)
        try:
            submission = self._submit(work, MANAGER)
        except (Closed, StoreFailed):
            raise
        except BaseException as error:
            self._failed(work, error)
        else:
            submission.add_done_callback(lambda ended: self._failed(work, ended.exception()))

    def _failed(self, work: "RecordCompletions", error: BaseException | None) -> None:
        """Try again later what was not recorded: others wait for the same transaction."""
        if error is None:
            return
        if isinstance(error, Closed | StoreFailed):
            self._give_up()
            return
        LOG.error(
            "completions are not recorded yet; it is tried again: %s",
            text_of(error),
            extra=about("job_unrecorded"),
        )
        with self._lock:
            self._waiting[:0] = work.taken
            self._asked += work.is_taken
            self._delayed += 1
        self._scheduler.after(int(limits.JOB_COMPLETIONS_RETRY_S * 1e6), self._ask_again)

    def _ask_again(self) -> None:
        with self._lock:
            self._delayed -= 1
        # What cannot be recorded any more runs again after the next start.
        with suppress(Closed, StoreFailed):
            self._ask()

    def try_again(self) -> None:
        """Try what failed now: Klerk closes, and the scheduler calls nothing any more."""
        for _ in range(self._delayed):
            self._ask_again()

    def refused(self) -> set[int]:
        """Return the ids of the jobs that are to be tried again."""
        with self._lock:
            return {record.id for record, _ in self._waiting} if self._delayed else set()

    def take(self) -> list[Encoded]:
        """Return what one transaction records."""
        with self._lock:
            self._asked -= 1
            taken = self._waiting[: limits.JOB_COMPLETIONS_AT_ONCE]
            del self._waiting[: limits.JOB_COMPLETIONS_AT_ONCE]
            return taken


class RecordCompletions(InternalWork):
    """The transaction that records completions: those that wait when its turn comes.

    Attributes:
        taken: what it records, once its turn came.
        is_taken: it did.
    """

    def __init__(self, completions: Completions) -> None:
        self._completions = completions
        self.taken: list[Encoded] = []
        self.is_taken = False

    def perform(self, processor: Any) -> None:
        self.taken, self.is_taken = self._completions.take(), True
        for record, encoded in self.taken:
            processor.put_job(record, encoded)

"""Writes what is no part of the commit log: key-values and blobs, beside the commits."""

import contextlib
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from klerk import limits
from klerk._waiting import CommandQueue, ReadWriteLock, Submission, acknowledge
from klerk.errors import Closed, KlerkError, StoreFailed
from klerk.log_events import about
from klerk.storage.contract import Delete, Put, Storage

LOG = logging.getLogger("klerk")

T = TypeVar("T")


class SideWriter:
    """One thread that makes changes one after the other, in the order of arrival, and syncs once for several.

    A change is a function without parameters that reads the store and calls `write`. No other thread writes
    what it reads, so a change is atomic; and it never runs in the main thread, so no interrupt lands within
    it, which would leave the whole store in doubt. The thread starts with the first change.

    Parameters:
        storage: where to.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        # The queue refuses whoever holds its lock, as commands must; nobody holds this one.
        self._queue = CommandQueue(limits.SIDE_WRITES_WAITING_MAX, ReadWriteLock())
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._sync_wanted = False
        self._unsynced_bytes = 0

    def do(self, change: Callable[[], T]) -> T:
        """Make a change and return what it returned, once that is durable.

        Raises:
            StoreFailed, Closed: nothing can be written any more.
            Exception: what the change raised.
        """
        submission: Submission[T] = Submission(change, None)
        self._start()
        self._queue.push(submission, True)
        return submission.result()

    async def do_soon(self, change: Callable[[], T]) -> T:
        """Make a change, from a task; as `do`. A cancelled task leaves its change in the queue."""
        submission: Submission[T] = Submission(change, None)
        self._start()
        room = self._queue.push_soon(submission)
        if room is not None:
            await room
        return await submission

    def post(self, change: Callable[[], object]) -> bool:
        """Have a change made some time, without waiting for it or for room; return whether it will be."""
        with contextlib.suppress(KlerkError):
            self._start()
            self._queue.push(Submission(partial(_unattended, change), None), False, 0)
            return True
        return False

    def write(self, puts: list[Put], deletes: list[Delete], *, lasting: bool = True) -> None:
        """Write one batch, in a change.

        Parameters:
            lasting: sync before the change is acknowledged. What is not lasting is synced when much of it is
                written, and never after something lasting that was written later.
        """
        self.storage.write(puts, deletes)
        self._unsynced_bytes += sum(len(value) for _, _, value in puts)
        if lasting or self._unsynced_bytes >= limits.BLOB_SYNC_BYTES:
            self._sync_wanted = True

    def close(self) -> None:
        """Take no more changes, make those taken, and wait for the thread."""
        self._queue.close()
        with self._starting:
            thread = self._thread
        if thread is not None:
            thread.join()

    def disown(self) -> None:
        """In a forked child, which does not have the thread: refuse everything."""
        self._starting = threading.Lock()
        self._queue.leave()

    def _start(self) -> None:
        if self._started():
            return
        with self._starting:
            # Looked at again, because others start and close it, too.
            if not self._started():
                thread = threading.Thread(target=self._run, name="klerk-side-writer", daemon=True)
                thread.start()
                self._thread = thread

    def _started(self) -> bool:
        return self._thread is not None or self._queue.closed

    def _run(self) -> None:
        while (submissions := self._queue.take(limits.SIDE_WRITES_GROUP_MAX)) is not None:
            # No function of the application runs here, and changes may post others.
            self._queue.processed()
            values, errors = self._make(submissions)
            acknowledge(submissions, values, errors)

    def _make(self, submissions: list[Submission[Any]]) -> tuple[list[Any], list[Any]]:
        """Make changes and sync; return the value or error of each."""
        values: list[Any] = []
        errors: list[Any] = []
        for submission in submissions:
            try:
                values.append(submission.work())
                errors.append(None)
            except BaseException as error:
                values.append(None)
                errors.append(error)
        if self._sync_wanted:
            try:
                self.storage.sync()
            except BaseException as failure:
                # Also those that only found something: nobody knows whether that is durable.
                return values, [_again(failure) for _ in submissions]
            self._sync_wanted, self._unsynced_bytes = False, 0
        return values, errors


def _unattended(change: Callable[[], object]) -> None:
    """Make a change whose outcome nobody waits for."""
    try:
        change()
    except (Closed, StoreFailed):
        # Whoever does wait for something is told.
        pass
    except Exception:
        LOG.exception(
            "key-values and blobs could not be cleaned up: %r", change, extra=about("cleanup_failed")
        )


def _again(failure: BaseException) -> BaseException:
    """Return an error as a new one, whose traceback is its own."""
    if not isinstance(failure, KlerkError):
        return failure
    again = type(failure)(failure.message, hint=failure.hint)
    again.__cause__ = failure.__cause__
    return again

"""The single writer: takes what was submitted, processes it, makes it durable, publishes it, tells everyone.

Two committer threads take turns. While one group is processed and written, the group before it may be
syncing; it is published before the next one is. At any time at most one transaction is processed.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from klerk import limits
from klerk._core import Group
from klerk._waiting import CommandQueue, ReadWriteLock, Submission, acknowledge
from klerk.checkpointer import Checkpointer
from klerk.codec import seal
from klerk.errors import StoreFailed
from klerk.jobs import JobState
from klerk.log_events import about
from klerk.recovery import Recovered
from klerk.storage.contract import Storage

LOG = logging.getLogger("klerk")

_ENDED = (JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED)


class Turn:
    """Lets groups be published in the order in which they were processed."""

    def __init__(self, before: "Turn | None") -> None:
        self._before = before
        self._over = threading.Lock()
        self._over.acquire()
        self.failure: StoreFailed | None = None

    def wait(self) -> None:
        """Wait until the group before was published, or failed.

        Raises:
            StoreFailed: it failed, so this group builds on what is not stored.
        """
        if self._before is None:
            return
        with self._before._over:
            failure, self._before = self._before.failure, None
        if failure is not None:
            raise failure

    def end(self, failure: StoreFailed | None = None) -> None:
        """Let the next group be published; or fail with this one."""
        self.failure = failure
        self._over.release()


class Engine:
    """Owns the queue, the working state and the commit log's head; the only one that writes.

    Parameters:
        storage: where groups are written.
        recovered: what it held.
        lock: held for writing while a group is published.
        queue_length_max: commands that may wait.
        foreseen: called with each durable group before anything takes over what it did.
        published: called with each published group, to wake jobs, timers and subscribers.
        failed: called once the store failed, with what makes the error that refuses everything from then on.
    """

    def __init__(
        self,
        storage: Storage,
        recovered: Recovered,
        lock: ReadWriteLock,
        *,
        queue_length_max: int,
        foreseen: Callable[[Group], None],
        published: Callable[[Group], None],
        failed: Callable[[Callable[[], StoreFailed]], None],
    ) -> None:
        self.storage = storage
        self.lock = lock
        self.queue = CommandQueue(queue_length_max, lock)
        self.ended_jobs = recovered.ended_jobs
        # Counted by whoever holds the baton, since the app was opened.
        self.groups = self.committed = self.refused = 0
        self._acknowledged_groups = 0
        self._acknowledged = threading.Condition()
        self._processor = recovered.program.processor
        self._digest = recovered.digest
        self._foreseen, self._published, self._failed = foreseen, published, failed
        self.checkpointer = Checkpointer(storage, recovered.history, recovered.rows)
        self._baton = threading.Lock()
        self._turn: Turn | None = None
        self._failure: StoreFailed | None = None
        self._threads = [
            threading.Thread(target=self._commit_groups, name=f"klerk-committer-{i + 1}", daemon=True)
            for i in range(limits.GROUPS_IN_FLIGHT_MAX)
        ]
        for thread in self._threads:
            thread.start()

    # --- the path of a group ---------------------------------------------------------------------

    def _commit_groups(self) -> None:
        try:
            while self._commit_group():
                pass
        except BaseException as error:
            # A fault of Klerk itself: nobody may wait for ever for what this thread would have done.
            self._fail(error)
            self.queue.close()
            with self._acknowledged:
                self._acknowledged.notify_all()
            self._refuse_all(self.queue.rest())

    def _commit_group(self) -> bool:
        """Take a group and commit it; return False once the queue is closed and empty."""
        with self._baton:
            submissions = self.queue.take(limits.GROUP_COMMANDS_MAX)
            if submissions is None:
                return False
            group, digest, turn, failure = self._process_and_write(submissions)
        if failure is None:
            failure = self._sync_and_publish(group, digest, turn)
        turn.end(failure)
        self._acknowledge(group, failure)
        with self._acknowledged:
            self._acknowledged_groups += 1
            self._acknowledged.notify_all()
        return True

    def _process_and_write(
        self, submissions: list[Submission]
    ) -> tuple[Group, bytes | None, Turn, StoreFailed | None]:
        """Process submissions and write what they did, not yet durable; no digest when that is nothing."""
        processor = self._processor
        group = Group(submissions, processor.sequence + 1)
        turn = self._turn = Turn(self._turn)
        digest = None
        self.groups += 1
        if self._failure is not None:
            return group, None, turn, self._failure
        try:
            self.lock.begin_processing()
            try:
                left_over = processor.process(group)
            finally:
                self.lock.end_processing()
            self.queue.processed()
            self.committed += len(group.heads)
            self.refused += len(group.errors) - group.errors.count(None)
            if left_over:
                self.queue.give_back(left_over)
            if group.heads:
                self._count_ended_jobs(group)
                processor.tokens.follow_jobs(group)
                digest, record = seal(
                    group, self._digest, processor.next_id, processor.next_job_id, self.ended_jobs
                )
                processor.reserve(group)
                self.storage.write([record], [])
                self._digest = digest
        except BaseException as error:
            return group, None, turn, self._fail(error)
        return group, digest, turn, None

    def _sync_and_publish(self, group: Group, digest: bytes | None, turn: Turn) -> StoreFailed | None:
        """Make a written group durable and, after the group before it, visible."""
        try:
            if digest is not None:
                self.storage.sync()
            turn.wait()
            if digest is not None:
                self.storage.witness(group.first_sequence, digest)
                self._foreseen(group)
                # Noted first: whoever sees what a group did finds it in the history.
                self.checkpointer.note(group)
                self.lock.acquire_write(limits.READ_LOCK_WARN_S, _warn_of_readers)
                try:
                    self._processor.publish(group)
                finally:
                    self.lock.release_write()
                self._published(group)
        except BaseException as error:
            return self._fail(error)
        return None

    def _acknowledge(self, group: Group, failure: StoreFailed | None) -> None:
        if failure is None:
            acknowledge(group.submissions, group.values, group.errors)
        else:
            self._refuse_all(group.submissions)

    def _count_ended_jobs(self, group: Group) -> None:
        if not group.notices:
            return
        counts = list(self.ended_jobs)
        for record, _ in group.notices:
            if record.ended_us:
                counts[_ENDED.index(record.state)] += 1
        self.ended_jobs = (counts[0], counts[1], counts[2])

    def _fail(self, error: BaseException) -> StoreFailed:
        """Refuse everything from now on: what is stored of the group at hand is not known."""
        if self._failure is None:
            if isinstance(error, StoreFailed):
                self._failure = error
            else:
                self._failure = StoreFailed(
                    f"a group of commands could not be committed: {type(error).__name__}: {error}",
                    hint="Close this Klerk and open the store again; reads go on meanwhile.",
                )
                self._failure.__cause__ = error
            self.queue.refusal = self._refusal
            LOG.critical(
                "the store failed; every later command is refused: %s",
                self._failure,
                exc_info=error,
                extra=about("store_failed"),
            )
            self._failed(self._refusal)
        return self._failure

    def _refusal(self) -> StoreFailed:
        """Return the failure as a new error, whose traceback is its own."""
        assert self._failure is not None
        refusal = StoreFailed(self._failure.message, hint=self._failure.hint)
        refusal.__cause__ = self._failure.__cause__
        return refusal

    def _refuse_all(self, submissions: list[Submission[Any]]) -> None:
        refusals: list[Any] = [self._refusal() for _ in submissions]
        acknowledge(submissions, [None] * len(submissions), refusals)

    def wait_until_acknowledged(self) -> None:
        """Wait for a moment at which everybody has heard of the outcome of every group that was taken."""
        with self._acknowledged:
            self._acknowledged.wait_for(lambda: self._acknowledged_groups >= self.groups or self.queue.closed)

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more commands, finish those taken, and wait for the threads."""
        self.queue.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self.checkpointer.close()


def _warn_of_readers(lock: ReadWriteLock) -> None:
    threads, tasks = lock.holders()
    names = [thread.name for thread in threading.enumerate() if thread.ident in threads]
    waited_s = limits.READ_LOCK_WARN_S
    LOG.warning(
        "publishing has waited for readers for %s s: threads %s, tasks %s",
        waited_s,
        names,
        tasks,
        extra=about("readers_hold_up", waited_s=waited_s, threads=names, tasks=[str(task) for task in tasks]),
    )

"""Records the ends of attempts, and sees to it that none is lost when recording it fails at first."""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from klerk import limits
from klerk._waiting import Submission
from klerk.errors import Closed, StoreFailed
from klerk.job_manager.completions import Completions
from klerk.job_manager.verdicts import text_of
from klerk.job_manager.work import RecordJob, Submit, by_manager
from klerk.jobs import JobRecord
from klerk.log_events import about_job
from klerk.running_job import RunningJob
from klerk.scheduler import Scheduler

LOG = logging.getLogger("klerk")


class _End(RecordJob):
    """The transaction that records the end of an attempt.

    Attributes:
        run: the attempt.
        number: among those that were refused, in the order in which they were at first; -1: it was not.
    """

    def __init__(self, run: RunningJob, record: JobRecord) -> None:
        super().__init__(record)
        self.run = run
        self.number = -1


class Recording:
    """Submits what became of attempts, each as a transaction of its own.

    One that is refused before it is written, mostly because the context provider failed, is tried again by
    itself, the oldest first, until it is recorded: the function has run, and must not run once more for that.
    None waits for another; a job for which the provider fails for ever is in nobody's way. No worker waits.

    What a committer must not do itself, because it calls functions of the application, is done here, too.

    Parameters:
        submit: puts a transaction into the queue.
        scheduler: lends its thread, until closing begins; then the thread that closes takes over.
        changed: told when something was refused. Its lock is not held by whoever calls this.

    Attributes:
        completions: record those that have nothing to tell, many together.
    """

    def __init__(self, submit: Submit, scheduler: Scheduler, changed: threading.Condition) -> None:
        self._submit = submit
        self._scheduler = scheduler
        self._changed = changed
        self._lock = threading.Lock()
        self._refused: list[_End] = []
        self._numbers = itertools.count()
        self._will_try = False
        self._calls: deque[Callable[[], object]] = deque()
        # Nothing can be recorded any more.
        self._is_over = False
        # One for all: most are called for nothing.
        self._when_ended = self._ended
        self.completions = Completions(submit, scheduler, self.give_up)

    def record(self, run: RunningJob, record: JobRecord) -> None:
        """Record the end of an attempt, now or later.

        Raises:
            Closed, StoreFailed: nothing can be recorded any more.
        """
        self._try(_End(run, record))

    def later(self, call: Callable[[], object]) -> None:
        """Have something done soon that a committer must not do."""
        self._calls.append(call)
        self._scheduler.at(0, self._call_next)
        self._tell()

    def _call_next(self) -> None:
        try:
            call = self._calls.popleft()
        except IndexError:
            # The thread that closes has done it.
            return
        call()

    def give_up(self) -> None:
        """Note that nothing can be recorded any more."""
        self._is_over = True
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # --- one end ----------------------------------------------------------------------------------

    def _try(self, end: _End) -> None:
        try:
            self._submit(end, by_manager(end.record)).add_done_callback(self._when_ended)
        except (Closed, StoreFailed):
            self.give_up()
            raise
        except BaseException as error:
            self._failed(end, error)

    def _ended(self, submission: Submission[Any]) -> None:
        error = submission.exception()
        if error is None:
            return
        if isinstance(error, Closed | StoreFailed):
            self.give_up()
        else:
            self._failed(submission.work, error)

    def _failed(self, end: _End, error: BaseException) -> None:
        is_first = end.number < 0
        with self._lock:
            if is_first:
                end.number = next(self._numbers)
            self._refused.append(end)
            needs_call = not self._will_try
            self._will_try = True
        if is_first:
            LOG.error(
                "what became of job %d (%s) is not recorded yet; it is tried again: %s",
                end.run.id,
                end.record.kind,
                text_of(error),
                extra=about_job("attempt_unrecorded", end.run.record, end.run.queue),
            )
        if needs_call:
            self._scheduler.after(int(limits.JOB_COMPLETIONS_RETRY_S * 1e6), self._try_again)
        self._tell()

    def _try_again(self) -> None:
        with self._lock:
            self._will_try = False
            refused, self._refused = self._refused, []
        for end in sorted(refused, key=lambda each: each.number):
            with suppress(Closed, StoreFailed):
                self._try(end)

    # --- the end of all ---------------------------------------------------------------------------

    def settle(self, running: Mapping[int, RunningJob]) -> None:
        """Record what is left, or on its way, as Klerk closes; once the scheduler calls nothing any more.

        It takes `limits.CLOSE_MARGIN_S` at most. What is still refused then is given up; what is still on its
        way waits for somebody who reads, and so does closing.

        Parameters:
            running: the attempts whose ends are not published, by the ids of their jobs; changed under the
                lock of `changed`.
        """
        deadline = monotonic() + limits.CLOSE_MARGIN_S
        while True:
            self.completions.try_again()
            self._try_again()
            self._await_rest(running, deadline)
            left_s = deadline - monotonic()
            if self._is_over or left_s <= 0 or not (self._refused or self.completions.refused()):
                break
            with self._changed:
                self._changed.wait_for(lambda: self._is_over, min(limits.JOB_COMPLETIONS_RETRY_S, left_s))
        for end in self._refused:
            LOG.error(
                "what became of job %d (%s) is not recorded, and Klerk closes; the next start decides",
                end.run.id,
                end.record.kind,
                extra=about_job("attempt_unrecorded", end.run.record, end.run.queue),
            )

    def _await_rest(self, running: Mapping[int, RunningJob], deadline: float) -> None:
        """Wait for what is on its way, and do what committers left to others."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_waiting(running), deadline - monotonic())
            if not self._calls:
                return
            while self._calls:
                self._call_next()

    def _is_waiting(self, running: Mapping[int, RunningJob]) -> bool:
        """Return whether there is nothing to do but to wait for what is on its way."""
        if self._calls or self._is_over:
            return False
        with self._lock:
            refused = {end.run.id for end in self._refused}
        refused |= self.completions.refused()
        return any(run.is_over and job_id not in refused for job_id, run in running.items())

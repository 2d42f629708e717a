"""The workshop of tests: runs jobs in the thread that asks for it, by the same path as in production."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, Literal

import msgspec

from klerk import limits
from klerk._waiting import Submission
from klerk.errors import JobError, LimitExceeded
from klerk.job_manager.crew import Employer
from klerk.job_manager.work import CreateJobs
from klerk.job_options import Pool
from klerk.job_outcomes import JobOutcome
from klerk.jobs import JobRecord, JobState
from klerk.klerk import Klerk
from klerk.loops import is_in_loop
from klerk.observing import Push, PushSoon
from klerk.running_job import RunningJob
from klerk.workers import Executor

__all__ = ["Attempt", "Bench", "CallingThread", "Mode"]

Mode = Literal["manual", "inline", "threads"]
"""When jobs run in a test: when it says, with the call that created them, or as in production."""

# Set in a job, and in the tasks and threads that it makes with `asyncio`: what it creates is run after it.
_IN_JOB: ContextVar[bool] = ContextVar("klerk_testing_in_job", default=False)


class Attempt(msgspec.Struct, frozen=True):
    """An attempt at a job that was made.

    Parameters:
        record: of the job afterwards.
        error: that the attempt ended with, if it did.
    """

    record: JobRecord
    error: BaseException | None

    @property
    def has_failed(self) -> bool:
        """Whether an exception made it fail, other than one by which a job says what becomes of it."""
        ended_badly = self.record.state in (JobState.RETRYABLE, JobState.DISCARDED)
        return ended_badly and self.error is not None and not isinstance(self.error, JobOutcome)


class CallingThread(Executor[RunningJob]):
    """Runs jobs one at a time in whatever thread calls `run_next`. None of them can be ended by force.

    Parameters:
        take: returns a job that is ready, or None.
        run: runs it.
        interrupt: called when a job that runs was asked to stop.
        ended: called when there is nothing more to run.
    """

    def __init__(
        self,
        take: Callable[[], RunningJob | None],
        run: Callable[[RunningJob], None],
        interrupt: Callable[[RunningJob], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(1)
        self.works_by_itself = False
        self._take = take
        self._run = run
        self._interrupt = interrupt
        self._ended = ended
        self._running: dict[RunningJob, int] = {}
        self._stopping = False

    def start(self) -> None:
        """Nothing begins by itself."""

    def wake(self) -> None:
        """Whoever calls `run_next` finds what became ready."""

    def resize(self, count: int) -> None:
        """See `Executor.resize`: with 0, nothing runs."""
        self.count = count

    def run_next(self) -> RunningJob | None:
        """Run the next job, and return it; None when none is ready."""
        run = None if self._stopping or not self.count else self._take()
        if run is None:
            return None
        self._running[run] = threading.get_ident()
        try:
            self._run(run)
        finally:
            del self._running[run]
            if self._stopping:
                self.when_ended()
        return run

    def running(self) -> tuple[RunningJob, ...]:
        """See `Executor.running`."""
        return tuple(self._running.copy())

    def is_idle(self) -> bool:
        """See `Executor.is_idle`."""
        return not self._running

    def cancel(self, job: RunningJob) -> None:
        """See `Executor.cancel`."""
        if job in self._running:
            job.cancel()
            self._interrupt(job)

    def kill(self, job: RunningJob) -> bool:
        """See `Executor.kill`."""
        return False

    def runs_here(self) -> bool:
        """See `Executor.runs_here`."""
        return self.job_here() is not None

    def job_here(self) -> RunningJob | None:
        """See `Executor.job_here`."""
        here = threading.get_ident()
        return next((run for run, thread in self._running.copy().items() if thread == here), None)

    def begin_stopping(self) -> None:
        """See `Executor.begin_stopping`."""
        self._stopping = True

    def end(self) -> None:
        """See `Executor.end`."""
        if not self._running:
            self._ended()


class Bench:
    """Makes executors that run jobs in the threads of a test, and tells what came of each.

    Parameters:
        is_inline: calls that create jobs run them before they return.
        raises: whether such a call raises what made a job fail.
    """

    def __init__(self, *, is_inline: bool, raises: bool) -> None:
        self._is_inline = is_inline
        self._raises = raises
        # The one that comes next is the first.
        self._executors: deque[CallingThread] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_is_free = threading.Lock()
        self._tasks: dict[RunningJob, asyncio.Task[None]] = {}
        self._attempts: dict[RunningJob, Attempt] = {}
        self._attempted = threading.Condition()
        self._klerk: Klerk | None = None
        self._employer: Employer | None = None

    def opened(self, klerk: Klerk) -> None:
        """Take the Klerk whose jobs this runs."""
        self._klerk = klerk
        klerk.jobs.observe(self)

    # --- the workshop -----------------------------------------------------------------------------

    def executor(self, pool: Pool, employer: Employer) -> Executor[RunningJob]:
        """See `Workshop.executor`."""
        self._employer = employer

        def take_as_stored() -> RunningJob | None:
            run = employer.take(pool)
            if run is not None:
                _read_again(run, employer)
            return run

        def run_here(run: RunningJob) -> None:
            if self.klerk.jobs.declared[run.record.kind].is_coroutine:
                self._complete(run, employer.attempts.run_coroutine(run))
            else:
                employer.attempts.run_plain(run)

        made = CallingThread(take_as_stored, run_here, self._interrupt, self._close_loop)
        self._executors.appendleft(made)
        return made

    def _complete(self, run: RunningJob, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end, in the one event loop of this bench."""
        if not is_in_loop():
            self._in_loop(run, coroutine)
            return
        # A thread has room for one running loop, and here that is the caller's.
        thread = threading.Thread(
            target=copy_context().run, args=(self._in_loop, run, coroutine), name="klerk-test-loop"
        )
        thread.start()
        thread.join()

    def _in_loop(self, run: RunningJob, coroutine: Coroutine[Any, Any, None]) -> None:
        with self._loop_is_free:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
            task = self._tasks[run] = self._loop.create_task(coroutine)
            try:
                self._loop.run_until_complete(task)
            finally:
                del self._tasks[run]

    def _interrupt(self, run: RunningJob) -> None:
        """Let a coroutine that was asked to stop find out where it awaits something."""
        task = self._tasks.get(run)
        if task is not None:
            loop = task.get_loop()
            # One step later: a task that is cancelled before its first step would never report.
            loop.call_soon_threadsafe(lambda: loop.call_soon(task.cancel))

    def _close_loop(self) -> None:
        with self._loop_is_free:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()

    # --- inline -----------------------------------------------------------------------------------

    def pushing(self, push: Push) -> Push:
        """See `Pushing.pushing`."""
        if not self._is_inline:
            return push

        def push_and_run(submission: Submission[Any], blocking: bool, timeout_s: float = -1) -> None:
            push(submission, blocking, timeout_s)
            work = submission.work
            if (blocking or (type(work) is CreateJobs and work.requests)) and self._runs_inline_here():
                submission.wait()
                self._run_inline(submission)

        return push_and_run

    def pushing_soon(self, push_soon: PushSoon) -> PushSoon:
        """See `Pushing.pushing_soon`."""
        if not self._is_inline:
            return push_soon

        async def push_and_run(submission: Submission[Any]) -> None:
            room = push_soon(submission)
            if room is not None:
                await room
            if self._runs_inline_here():
                await asyncio.to_thread(submission.wait)
                await asyncio.to_thread(self._run_inline, submission)

        return push_and_run

    def _runs_inline_here(self) -> bool:
        return self._klerk is not None and not _IN_JOB.get() and not self._klerk.runs_here()

    def _run_inline(self, submission: Submission[Any]) -> None:
        """Run what is ready after a call that was not refused, and what that makes ready.

        Raises:
            LimitExceeded: it does not come to an end.
        """
        if submission.dry_run or submission.exception() is not None:
            return
        for _ in range(limits.TEST_JOBS_MAX):
            attempt = self.run_next()
            if attempt is None:
                return
            if self._raises and attempt.has_failed and attempt.error is not None:
                raise attempt.error
        raise endless(limits.TEST_JOBS_MAX)

    # --- one after the other ----------------------------------------------------------------------

    @property
    def klerk(self) -> Klerk:
        """The Klerk whose jobs this runs."""
        assert self._klerk is not None
        return self._klerk

    def run_next(self) -> Attempt | None:
        """Run one job that is ready and return what came of it, once that is durable; None: none is ready.

        The sorts of workers take turns.
        """
        before = _IN_JOB.set(True)
        try:
            for _ in range(len(self._executors)):
                executor = self._executors[0]
                self._executors.rotate(-1)
                run = executor.run_next()
                if run is not None:
                    return self._attempt_of(run)
            return None
        finally:
            _IN_JOB.reset(before)

    def _attempt_of(self, run: RunningJob) -> Attempt:
        """Wait until what became of an attempt is durable and visible, and return it."""
        assert self._employer is not None
        with self._attempted:
            while not self._attempted.wait_for(lambda: run in self._attempts, limits.TEST_CHECK_S):
                self._require_working()
            attempt = self._attempts.pop(run)
        while not self._employer.wait_until_over(run, limits.TEST_CHECK_S):
            self._require_working()
        return attempt

    def _require_working(self) -> None:
        """Raise what keeps an attempt from being recorded.

        Raises:
            StoreFailed, Closed: nothing can be written any more.
        """
        self.klerk.jobs.schedule()

    # --- what it hears ----------------------------------------------------------------------------

    def started(self, run: RunningJob) -> None:
        """See `JobObserver.started`."""

    def stopped(self, run: RunningJob) -> None:
        """See `JobObserver.stopped`."""

    def ended(self, run: RunningJob, record: JobRecord, error: BaseException | None) -> None:
        """See `JobObserver.ended`."""
        with self._attempted:
            self._attempts[run] = Attempt(record, error)
            self._attempted.notify_all()


def _read_again(run: RunningJob, employer: Employer) -> None:
    """Let a job find its arguments as after a restart: a test shows what storing makes of them."""
    kind = run.record.kind
    try:
        run.record = run.newest = employer.as_stored(run.record)
    except ValueError as error:
        raise JobError(f"what is stored of job {run.id} ({kind}) cannot be run: {error}") from error


def endless(count: int) -> LimitExceeded:
    """Return the error for jobs that do not come to an end."""
    return LimitExceeded(
        f"{count} jobs were run, and there are more: they create each other, or are tried again, without end",
        hint="Look at the jobs with klerk.testing.enqueued(k); drain takes a higher jobs_max.",
    )

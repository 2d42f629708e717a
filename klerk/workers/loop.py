"""Runs coroutine functions as tasks of one event loop in a thread of its own."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

from klerk import limits
from klerk.log_events import about
from klerk.workers.contract import Executor, J

LOG = logging.getLogger("klerk")


class LoopExecutor(Executor[J]):
    """A loop that runs a bounded number of jobs at once. One is stopped where it awaits something.

    Parameters:
        count: tasks at once.
        take: returns a job that is ready, or None.
        run: returns the coroutine that runs it.
    """

    def __init__(self, count: int, take: Callable[[], J | None], run: Callable[[J], Awaitable[None]]) -> None:
        super().__init__(count)
        self._take = take
        self._run = run
        self._loop = asyncio.new_event_loop()
        # Changed by the loop's thread alone, and in one step, so that others may copy it.
        self._tasks: dict[J, asyncio.Task[None]] = {}
        self._filling = self._stopping = False
        # A call of `_fill` is on its way, which sees whatever is ready by then.
        self._is_woken = False
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="klerk-job-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._call_soon(self._fill)

    def resize(self, count: int) -> None:
        self.count = count
        self.wake()

    def _call_soon(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            # The loop was closed in the meantime; what is ready runs after the next start.
            return

    def _fill(self) -> None:
        self._is_woken, self._filling = False, True
        while not self._stopping and len(self._tasks) < self.count and (job := self._take()) is not None:
            self._tasks[job] = self._loop.create_task(self._one(job))
        self._filling = False
        if self._stopping:
            self.when_ended()

    async def _one(self, job: J) -> None:
        try:
            await self._run(job)
        except BaseException as error:
            # Whatever it is, SystemExit too: the loop works for others.
            if not isinstance(error, asyncio.CancelledError):
                LOG.exception("a job could not be run", extra=about("job_lost"))
        del self._tasks[job]
        self._fill()

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._ending:
            try:
                self._loop.run_forever()
            except BaseException:
                # Something that a job left behind raised SystemExit, or worse.
                LOG.exception("a callback of a job failed", extra=about("job_lost"))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def running(self) -> tuple[J, ...]:
        return tuple(self._tasks.copy())

    def is_idle(self) -> bool:
        return not self._filling and not self._tasks

    def cancel(self, job: J) -> None:
        if job in self._tasks:
            job.cancel()
        self._call_soon(self._cancel, job)

    def _cancel(self, job: J) -> None:
        task = self._tasks.get(job)
        if task is not None:
            job.cancel()
            # One step later: a task that is cancelled before its first step would never report.
            self._loop.call_soon(task.cancel)

    def kill(self, job: J) -> bool:
        return False

    def runs_here(self) -> bool:
        return threading.current_thread() is self._thread

    def job_here(self) -> J | None:
        if not self.runs_here():
            return None
        here = asyncio.current_task(self._loop)
        return next((job for job, task in self._tasks.items() if task is here), None)

    def begin_stopping(self) -> None:
        self._stopping = True

    def end(self) -> None:
        if not self._thread.is_alive():
            self._loop.close()
        elif not self._tasks:
            self._ending = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(limits.CLOSE_MARGIN_S)

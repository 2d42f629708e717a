"""Runs coroutine functions as tasks of one event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from klerk import limits
from klerk.workers.contract import Executor


class LoopExecutor(Executor):
    """A loop that runs a bounded number of jobs at once.

    Parameters:
        running_max: tasks at once.
        take: returns a job that is ready, or None.
        run: returns the coroutine that runs it.
    """

    def __init__(
        self, running_max: int, take: Callable[[], Any], run: Callable[[Any], Awaitable[None]]
    ) -> None:
        self._running_max = running_max
        self._take = take
        self._run = run
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="klerk-job-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._fill)
        except RuntimeError:
            # The loop was closed in the meantime; what is ready runs after the next start.
            return

    def resize(self, count: int) -> None:
        self._running_max = count
        self.wake()

    def _fill(self) -> None:
        while (
            not self._stopping and len(self._tasks) < self._running_max and (job := self._take()) is not None
        ):
            task: asyncio.Task[None] = self._loop.create_task(self._one(job))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def _one(self, job: Any) -> None:
        await self._run(job)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._fill()

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _drain(self, wait_s: float) -> bool:
        if not self._tasks:
            return True
        _, left = await asyncio.wait(self._tasks, timeout=wait_s)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=limits.CLOSE_MARGIN_S / 2)
        return not left

    def runs_here(self) -> bool:
        return threading.current_thread() is self._thread

    def stop(self, wait_s: float) -> bool:
        self._stopping = True
        if not self._thread.is_alive():
            self._loop.close()
            return True
        drained = asyncio.run_coroutine_threadsafe(self._drain(wait_s), self._loop)
        try:
            all_ended = drained.result(wait_s + limits.CLOSE_MARGIN_S)
        except TimeoutError:
            # A job blocks the loop itself; its thread is left to end with the process.
            return False
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        return all_ended

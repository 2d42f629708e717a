"""What the tests of executors run: deeds that are begun, held, released and cancelled, wherever they run.

A deed in a process is done by `perform` there, which asks its parent whether to go on.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from klerk.workers import Executor, LoopExecutor, ProcessExecutor, ThreadExecutor, WorkerProcess, child
from klerk.workers.child import Channel

PAUSE_S = 0.005


class Deed:
    """A job as executors see it.

    Parameters:
        how: "quick" ends at once; "held" ends when it is released or cancelled, "stuck" only when released.
        error: that it ends with.
    """

    def __init__(self, how: str = "quick", error: BaseException | None = None) -> None:
        self.how = how
        self.error = error
        self.began, self.ended = threading.Event(), threading.Event()
        self.released, self.cancelled = threading.Event(), threading.Event()
        self.runs = 0
        self.ran_here: bool | None = None

    def cancel(self) -> None:
        self.cancelled.set()

    def is_over(self) -> bool:
        """Return whether it may end now."""
        return (
            self.how == "quick" or self.released.is_set() or (self.how == "held" and self.cancelled.is_set())
        )


class Workload:
    """Deeds that wait to be taken, and an executor of some sort that takes them.

    Attributes:
        takes: how often one was asked for.
        most: deeds at once.
    """

    def __init__(self, sort: str, count: int) -> None:
        self.deeds: deque[Deed] = deque()
        self.takes = 0
        self.most = self._running = 0
        self._lock = threading.Lock()
        self.executor: Executor[Deed] = {
            "thread": lambda: ThreadExecutor(count, self._take, self._has_more, self._run),
            "loop": lambda: LoopExecutor(count, self._take, self._run_soon),
            "process": lambda: ProcessExecutor(count, self._take, self._has_more, self._run_in_process),
        }[sort]()

    def add(self, *deeds: Deed) -> None:
        """Let deeds be done."""
        self.deeds.extend(deeds)
        self.executor.wake()

    def _take(self) -> Deed | None:
        self.takes += 1
        try:
            return self.deeds.popleft()
        except IndexError:
            return None

    def _has_more(self) -> bool:
        return bool(self.deeds)

    def _begin(self, deed: Deed) -> None:
        with self._lock:
            deed.runs += 1
            self._running += 1
            self.most = max(self.most, self._running)
        deed.ran_here = self.executor.runs_here()
        deed.began.set()

    def _end(self, deed: Deed) -> None:
        with self._lock:
            self._running -= 1
        deed.ended.set()
        if deed.error is not None:
            raise deed.error

    def _run(self, deed: Deed) -> None:
        self._begin(deed)
        while not deed.is_over():
            time.sleep(PAUSE_S)
        self._end(deed)

    async def _run_soon(self, deed: Deed) -> None:
        self._begin(deed)
        while not deed.is_over():
            try:
                await asyncio.sleep(PAUSE_S)
            except asyncio.CancelledError:
                if deed.how != "stuck":
                    break
        self._end(deed)

    def _run_in_process(self, deed: Deed, worker: WorkerProcess) -> None:
        worker.begin("executed", "perform", deed.how.encode())
        self._begin(deed)
        try:
            while (message := worker.receive())[0] != child.ENDED:
                worker.reply(message[1], b"over" if deed.is_over() else b"go on")
        finally:
            self._end(deed)


def perform(payload: bytes, channel: Channel) -> bytes:
    """Do a deed in a worker process."""
    while channel.ask(b"") != b"over":
        if payload == b"held" and channel.is_cancelled:
            break
        try:
            time.sleep(PAUSE_S)
        except SystemExit:
            # Whatever it is told, it goes on.
            continue
    return b""


SORTS: list[str] = ["thread", "loop", "process"]
Make = Callable[..., Any]

"""Runs plain functions on threads."""

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from klerk.workers.contract import Executor


class ThreadExecutor(Executor):
    """Threads that each take a job, run it, and take the next.

    Parameters:
        count: of threads.
        take: returns a job that is ready, or None.
        run: runs it.
    """

    def __init__(self, count: int, take: Callable[[], Any], run: Callable[[Any], None]) -> None:
        self._take = take
        self._run = run
        self._ready = threading.Condition()
        self._signals = 0
        self._stopping = False
        self._count = count
        self._number = 0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self.resize(self._count)

    def resize(self, count: int) -> None:
        with self._ready:
            self._count = count
            missing = 0 if self._stopping else count - len(self._threads)
            new = [self._new_thread() for _ in range(missing)]
            self._threads.extend(new)
            self._ready.notify_all()
        for thread in new:
            thread.start()

    def _new_thread(self) -> threading.Thread:
        self._number += 1
        return threading.Thread(target=self._work, name=f"klerk-job-{self._number}", daemon=True)

    def wake(self) -> None:
        with self._ready:
            self._signals += 1
            self._ready.notify_all()

    def _work(self) -> None:
        seen = -1
        while not self._stopping:
            with self._ready:
                while self._signals == seen and not self._is_surplus() and not self._stopping:
                    self._ready.wait()
                seen = self._signals
                if self._is_surplus():
                    self._threads.remove(threading.current_thread())
                    return
            self._run_what_is_ready()

    def _run_what_is_ready(self) -> None:
        while not self._is_surplus() and not self._stopping and (job := self._take()) is not None:
            self._run(job)

    def _is_surplus(self) -> bool:
        return len(self._threads) > self._count

    def runs_here(self) -> bool:
        return threading.current_thread() in self._threads

    def stop(self, wait_s: float) -> bool:
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        deadline = monotonic() + wait_s
        for thread in list(self._threads):
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

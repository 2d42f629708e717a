"""Calls things when their time has come, by the clock that the Klerk was opened with."""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from klerk import limits
from klerk._dispatch import microseconds

LOG = logging.getLogger("klerk")


class Scheduler:
    """One thread that waits for the earliest of many moments.

    Parameters:
        clock: gives the time, aware.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._newest = clock().astimezone(UTC)
        self._clock_works = threading.Event()
        self._telling = threading.Lock()
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="klerk-scheduler", daemon=True)

    def start(self) -> None:
        """Begin to call what is due."""
        self._thread.start()

    def now(self) -> datetime:
        """Return the time, in UTC; while the clock fails, the last one that it gave."""
        try:
            self._newest = self._clock().astimezone(UTC)
            if not self._clock_works.is_set():
                self._clock_works.set()
        except Exception as error:
            # Once, not once a second: what waits for a time goes on waiting until the clock works again.
            with self._telling:
                if self._clock_works.is_set():
                    LOG.error("timers and jobs wait for the clock: %s", error)
                self._clock_works.clear()
        return self._newest

    def now_us(self) -> int:
        """Return the time in microseconds since 1970 UTC, as `now` does."""
        return microseconds(self.now())

    def at(self, when_us: int, call: Callable[[], None]) -> None:
        """Call something at a moment, in microseconds since 1970 UTC, or at once when that is over."""
        with self._changed:
            heapq.heappush(self._heap, (when_us, next(self._order), call))
            if self._heap[0][0] == when_us:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._heap or self._heap[0][0] > self.now_us()):
                    self._changed.wait(self._patience_s())
                if self._closed:
                    return
                _, _, call = heapq.heappop(self._heap)
            try:
                call()
            except BaseException:
                # Whatever it is, SystemExit too: this thread works for others.
                LOG.exception("a scheduled call failed: %r", call)

    def _patience_s(self) -> float | None:
        if not self._heap:
            return None
        return min(limits.CLOCK_CHECK_S, max(0.0, (self._heap[0][0] - self.now_us()) / 1e6))

    def runs_here(self) -> bool:
        """Return whether the caller runs in this scheduler's thread."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Call nothing any more and wait for the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

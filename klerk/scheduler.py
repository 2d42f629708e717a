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
        # When, in which order, what, and whether it is so long after now, wherever the clock is set.
        self._heap: list[tuple[int, int, Callable[[], None], bool]] = []
        self._seen_us = 0
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
        self._push(when_us, call, False)

    def after(self, delay_us: int, call: Callable[[], None]) -> None:
        """Call something after some microseconds, however far the clock is set back meanwhile."""
        self._push(self.now_us() + delay_us, call, True)

    def _push(self, when_us: int, call: Callable[[], None], is_relative: bool) -> None:
        with self._changed:
            heapq.heappush(self._heap, (when_us, next(self._order), call, is_relative))
            if self._heap[0][0] == when_us:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._is_due():
                    self._changed.wait(self._patience_s())
                if self._closed:
                    return
                call = heapq.heappop(self._heap)[2]
            try:
                call()
            except BaseException:
                # Whatever it is, SystemExit too: this thread works for others.
                LOG.exception("a scheduled call failed: %r", call)

    def _is_due(self) -> bool:
        if not self._heap:
            return False
        now_us = self.now_us()
        back_us, self._seen_us = self._seen_us - now_us, now_us
        if back_us > 0:
            self._heap = [
                (when_us - back_us if is_relative else when_us, order, call, is_relative)
                for when_us, order, call, is_relative in self._heap
            ]
            heapq.heapify(self._heap)
        return self._heap[0][0] <= now_us

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

"""Calls things when their time has come, by the clock that the Klerk was opened with."""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from klerk import limits
from klerk._dispatch import microseconds
from klerk.log_events import about

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
        self._is_calling = False
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
                    LOG.error("timers and jobs wait for the clock: %s", error, extra=about("clock_failed"))
                self._clock_works.clear()
        return self._newest

    def now_us(self) -> int:
        """Return the time in microseconds since 1970 UTC, as `now` does; never 0, which is no time."""
        return microseconds(self.now()) or 1

    def at(self, when_us: int, call: Callable[[], None]) -> None:
        """Call something at a moment, in microseconds since 1970 UTC, or at once when that is over."""
        with self._changed:
            self._push(when_us, call, False)

    def after(self, delay_us: int, call: Callable[[], None]) -> None:
        """Call something after some microseconds, however far the clock is set back meanwhile."""
        with self._changed:
            # Were the clock set back before now, this call would be moved, too.
            self._push(self._follow_clock() + delay_us, call, True)

    def _push(self, when_us: int, call: Callable[[], None], is_relative: bool) -> None:
        heapq.heappush(self._heap, (when_us, next(self._order), call, is_relative))
        if self._heap[0][0] == when_us:
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_calling = False
                while not self._closed and not self.is_due:
                    # Whoever looked again goes on.
                    self._changed.notify_all()
                    self._changed.wait(self._patience_s())
                if self._closed:
                    return
                call = heapq.heappop(self._heap)[2]
                self._is_calling = True
            try:
                call()
            except BaseException:
                # Whatever it is, SystemExit too: this thread works for others.
                LOG.exception("a scheduled call failed: %r", call, extra=about("scheduled_call_failed"))

    @property
    def is_due(self) -> bool:
        """Whether something is due by now and not called yet."""
        with self._changed:
            return bool(self._heap) and self._follow_clock() >= self._heap[0][0]

    @property
    def next_us(self) -> int | None:
        """When the next call is due, in microseconds since 1970 UTC; None when there is none."""
        with self._changed:
            self._follow_clock()
            return self._heap[0][0] if self._heap else None

    def look_again(self) -> None:
        """Notice that the clock was set, and return once everything that is due by it was called."""
        if self.runs_here():
            return
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or not (self._is_calling or self.is_due))

    def _follow_clock(self) -> int:
        """Return the time, after moving what is to come so long after its request with a clock set back."""
        now_us = self.now_us()
        back_us, self._seen_us = self._seen_us - now_us, now_us
        if back_us > 0:
            self._heap = [
                (when_us - back_us if is_relative else when_us, order, call, is_relative)
                for when_us, order, call, is_relative in self._heap
            ]
            heapq.heapify(self._heap)
        return now_us

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
            self._changed.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

"""Unmanaged jobs: functions called after their command committed, fire and forget."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from klerk import limits
from klerk._dispatch import described
from klerk.log_events import about

LOG = logging.getLogger("klerk")

Call = tuple[Callable[[Any], object], Any]


class UnmanagedCalls:
    """One thread that makes the calls in the order of their commits; nothing promises that they succeed.

    Attributes:
        dropped: calls that found no room since the app was opened.
        failed: calls that raised.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self.failed = 0
        self._calls: deque[Call] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        # By function. Told once for each time that the queue is full, because telling costs the committer
        # more than the commit.
        self._dropped_lately: Counter[str] = Counter()
        self._closing = False
        self._gave_up = False

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._calls)

    def add(self, calls: list[Call]) -> None:
        """Take over the calls of a published group; those that find no room are counted and dropped."""
        with self._changed:
            room = 0
            if not self._closing and self._has_thread():
                room = limits.UNMANAGED_QUEUE_LENGTH_MAX - len(self._calls)
            taken, dropped = (calls, calls[:0]) if len(calls) <= room else (calls[:room], calls[room:])
            self._calls.extend(taken)
            if taken:
                self._changed.notify_all()
        if dropped:
            self._drop(dropped)

    def _has_thread(self) -> bool:
        """Start the thread with the first call. No commit may fail because there can be no more threads."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="klerk-unmanaged", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def _drop(self, calls: list[Call]) -> None:
        """Count calls that found no room, and tell of the first of each function at once."""
        self.dropped += len(calls)
        names = Counter(described(function) for function, _ in calls)
        with self._changed:
            told = [name for name in names if name not in self._dropped_lately]
            self._dropped_lately.update(names)
        for name in told:
            LOG.error(
                "too many unmanaged jobs wait; dropped a call of %s, and more as long as there is no room",
                name,
                extra=about("unmanaged_dropped", function=name, dropped=1, dropped_total=self.dropped),
            )

    def _run(self) -> None:
        while (call := self._next()) is not None:
            function, args = call
            try:
                function(args)
            except BaseException:
                self.failed += 1
                name = described(function)
                LOG.exception(
                    "the unmanaged job %s failed", name, extra=about("unmanaged_failed", function=name)
                )

    def _next(self) -> Call | None:
        """Wait for a call and return it; None when there is none left to be made."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._closing)
            if self._gave_up or not self._calls:
                return None
            call = self._calls.popleft()
            dropped: Counter[str] = Counter()
            if self._dropped_lately and len(self._calls) <= limits.UNMANAGED_QUEUE_LENGTH_MAX // 2:
                dropped, self._dropped_lately = self._dropped_lately, dropped
        for name, count in dropped.items():
            LOG.error(
                "there is room for unmanaged jobs again; %d calls of %s were dropped",
                count,
                name,
                extra=about("unmanaged_dropped", function=name, dropped=count, dropped_total=self.dropped),
            )
        return call

    def close(self) -> None:
        """Make the calls that wait, for a bounded time, and stop: those left are dropped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(limits.CLOSE_WAIT_S)
        with self._changed:
            self._gave_up = True
            left = len(self._calls)
            self._calls.clear()
        if left or thread.is_alive():
            self.dropped += left
            LOG.error(
                "an unmanaged job was still running when Klerk closed; %d more were dropped",
                left,
                extra=about("unmanaged_left", left=left),
            )

"""Unmanaged jobs: functions called after their command committed, fire and forget."""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from klerk import limits
from klerk._dispatch import described

LOG = logging.getLogger("klerk")

Call = tuple[Callable[[Any], object], Any]


class UnmanagedCalls:
    """One thread that makes the calls in the order of their commits; nothing promises that they succeed."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Call | None] = queue.Queue(limits.UNMANAGED_QUEUE_LENGTH_MAX)
        self._thread: threading.Thread | None = None

    def add(self, calls: list[Call]) -> None:
        """Take over the calls of a published group; those that find no room are logged and dropped."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="klerk-unmanaged", daemon=True)
            self._thread.start()
        for call in calls:
            try:
                self._queue.put_nowait(call)
            except queue.Full:
                LOG.error("too many unmanaged jobs wait; dropped a call of %s", described(call[0]))

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            function, args = call
            try:
                function(args)
            except BaseException:
                LOG.exception("the unmanaged job %s failed", described(function))

    def close(self) -> None:
        """Make the calls that wait, for a bounded time, and stop."""
        if self._thread is None:
            return
        try:
            self._queue.put(None, timeout=limits.CLOSE_WAIT_S)
        except queue.Full:
            LOG.error("unmanaged jobs were still waiting when Klerk closed")
            return
        if self._thread is not threading.current_thread():
            self._thread.join(limits.CLOSE_WAIT_S)

"""Signals that tell a worker program to stop: waiting for the first, and heeding the second."""

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from klerk import limits
from klerk.errors import ArgumentError

TO_STOP = (signal.SIGTERM, signal.SIGINT)
"""By which service managers and terminals ask a program to stop."""


class Signals:
    """Takes the place of what handles some signals, from the first wait until `give_back`.

    Parameters:
        hurry: called, in the main thread between any two instructions, with the second signal and later ones.
    """

    def __init__(self, hurry: Callable[[], None]) -> None:
        self._hurry = hurry
        self._came: Callable[[], object] | None = None
        self._before: dict[int, Any] = {}

    def wait(self, signals: Sequence[int]) -> None:
        """Wait for one of some signals, in the main thread; see `Klerk.wait_for_signal`."""
        came: SimpleQueue[None] = SimpleQueue()
        self._listen(signals, lambda: came.put(None))
        while True:
            try:
                # Bounded for Windows, where a signal does not end a wait.
                return came.get(timeout=limits.CLOCK_CHECK_S)
            except Empty:
                continue

    async def wait_soon(self, signals: Sequence[int]) -> None:
        """Wait as `wait` does, in a task of the main thread's event loop."""
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        self._listen(signals, lambda: loop.call_soon_threadsafe(came.set))
        await came.wait()

    def _listen(self, signals: Sequence[int], came: Callable[[], object]) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ArgumentError(
                "signals can only be waited for in the main thread",
                hint="Python hands signals to that thread alone.",
            )
        for number in signals or TO_STOP:
            try:
                before = signal.signal(number, self._handle)
            except (OSError, ValueError, TypeError) as error:
                self.give_back()
                raise ArgumentError(f"the signal {number!r} cannot be waited for: {error}") from error
            self._before.setdefault(number, before)
        self._came = came

    def _handle(self, number: int, frame: FrameType | None) -> None:
        came, self._came = self._came, None
        if came is not None:
            came()
        else:
            self._hurry()

    def give_back(self) -> None:
        """Let those signals do again what they did before, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        while self._before:
            number, before = self._before.popitem()
            if before is not None:
                signal.signal(number, before)

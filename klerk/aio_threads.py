"""Threads that work for asyncio tasks: what waits, or reads the disk, goes there, so that the loop goes on.

Whatever `Klerk.aio` has done in a thread comes through here. A thread that works for a task which holds the
read lock holds it, too; so inside of ``async with k.aio.read(...)`` the same is permitted and refused as
inside of ``with k.read(...)``: what is read is of the same moment, and what would have to wait for a
transaction is refused at once.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from klerk._waiting import ReadWriteLock, SharedHold

P = ParamSpec("P")
T = TypeVar("T")


class AioThreads:
    """Has functions called in threads.

    Parameters:
        lock: that tasks may hold for reading.
    """

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    async def run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a function in a thread, and return what it returned. When the task is cancelled, it goes on.

        Raises:
            ReadLockHeld: the task holds the read lock, and the function would wait for a transaction.
            Exception: what the function raised.
        """
        if not self._lock.held_here(False):
            return await asyncio.to_thread(function, *arguments, **named)
        hold = SharedHold(self._lock, asyncio.current_task())

        def call() -> T:
            with hold:
                return function(*arguments, **named)

        # A thread of its own: all of the loop's may be waiting for what waits for this task.
        executor = ThreadPoolExecutor(1, "klerk-aio")
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, copy_context().run, call)
        finally:
            executor.shutdown(wait=False)

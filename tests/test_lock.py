"""The read-write lock: many readers or one writer, in the order of arrival, for threads and asyncio alike.

Internal, because through the public API only the engine's two threads ever write. That a writer waits is
known when its warning is called; that a task waits, when the loop has turned once after it started. No test
depends on how long anything takes.
"""

import asyncio
import threading
import time
from typing import Any

import pytest
from designs import Interrupted, Spawned

from klerk._waiting import ReadWriteLock


class Writer:
    """A thread that has asked for the lock when this is constructed, and holds it until it is let go."""

    def __init__(self, lock: ReadWriteLock, log: list[str] | None = None, name: str = "writer") -> None:
        self.asked, self.holds, self.leave = threading.Event(), threading.Event(), threading.Event()
        self.lock, self.log, self.name = lock, log, name
        self.thread = Spawned(self._work)
        assert self.asked.wait(20)

    def _work(self) -> None:
        self.lock.acquire_write(0.0, lambda _: self.asked.set())
        try:
            self.asked.set()
            if self.log is not None:
                self.log.append(self.name)
            self.holds.set()
            assert self.leave.wait(20)
        finally:
            self.lock.release_write()

    def end(self) -> None:
        self.leave.set()
        self.thread.end()


class ReadingThread:
    """A thread that reads, from when this is constructed until it is let go."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self.holds, self.leave = threading.Event(), threading.Event()
        self.thread = Spawned(self._work, lock)

    def _work(self, lock: ReadWriteLock) -> None:
        with lock.read():
            self.holds.set()
            assert self.leave.wait(20)

    def end(self) -> None:
        self.leave.set()
        self.thread.end()


@pytest.fixture
def lock() -> ReadWriteLock:
    return ReadWriteLock()


def assert_free(lock: ReadWriteLock) -> None:
    """Nobody holds the lock, or is believed to; both sides can have it."""
    assert (lock.readers, lock.writing, *lock.holders()) == (0, False, [], [])
    Spawned(_use_both, lock).end()


def _use_both(lock: ReadWriteLock) -> None:
    with lock.write():
        assert lock.writing
    with lock.read():
        assert lock.readers >= 1


# --- who is in at the same time -----------------------------------------------------------------------


def test_many_readers_at_once(lock: ReadWriteLock) -> None:
    """Threads and the tasks of two loops all meet inside."""
    barrier = threading.Barrier(4 + 2)

    def read() -> None:
        with lock.read():
            barrier.wait(20)

    async def one(inside: list[int]) -> None:
        async with lock.read():
            inside.append(1)
            while len(inside) < 50:
                await asyncio.sleep(0)

    async def fifty() -> None:
        async with lock.read():
            await asyncio.gather(*(one(inside) for inside in [[]] for _ in range(50)))
            await asyncio.to_thread(barrier.wait, 20)

    threads = [Spawned(read) for _ in range(4)] + [Spawned(lambda: asyncio.run(fifty())) for _ in range(2)]
    for thread in threads:
        thread.end()
    assert_free(lock)


def test_a_writer_is_alone(lock: ReadWriteLock) -> None:
    writer = Writer(lock)
    assert writer.holds.wait(20)
    second = Writer(lock)
    reader = ReadingThread(lock)
    assert not second.holds.is_set()
    assert not reader.holds.wait(0.02)
    assert (lock.readers, lock.writing) == (0, True)
    writer.end()
    second.end()
    assert reader.holds.wait(20)
    reader.end()
    assert_free(lock)


@pytest.mark.parametrize("seconds", [0.4])
def test_readers_and_writers_never_meet(lock: ReadWriteLock, seconds: float) -> None:
    """Threads, and tasks on two loops, enter and leave as fast as they can."""
    state = {"readers": 0, "writers": 0, "reads": 0, "writes": 0}
    guard = threading.Lock()
    end = time.monotonic() + seconds

    def enter(kind: str) -> None:
        with guard:
            state[kind] += 1
            assert state["writers"] <= 1
            assert not (state["writers"] and state["readers"])

    def leave(kind: str) -> None:
        with guard:
            state[kind] -= 1
            state["reads" if kind == "readers" else "writes"] += 1

    def read() -> None:
        while time.monotonic() < end:
            with lock.read():
                enter("readers")
                with lock.read():
                    time.sleep(0)
                leave("readers")

    def write() -> None:
        while time.monotonic() < end:
            with lock.write():
                enter("writers")
                time.sleep(0)
                leave("writers")

    async def read_in_task() -> None:
        while time.monotonic() < end:
            async with lock.read():
                enter("readers")
                await asyncio.sleep(0)
                leave("readers")

    async def tasks() -> None:
        await asyncio.gather(*(read_in_task() for _ in range(5)))

    threads = [Spawned(work) for work in (read, read, write, write)]
    threads += [Spawned(lambda: asyncio.run(tasks())) for _ in range(2)]
    for thread in threads:
        thread.end()
    assert state["reads"] > 50
    assert state["writes"] > 50
    assert_free(lock)


# --- who is next --------------------------------------------------------------------------------------


async def test_first_come_first_served(lock: ReadWriteLock) -> None:
    log: list[str] = []
    together: list[set[str]] = []
    inside: set[str] = set()
    leave = asyncio.Event()

    async def read(name: str) -> None:
        async with lock.read():
            log.append(name)
            inside.add(name)
            await leave.wait()
            together.append(set(inside))
        inside.discard(name)

    async def turn_until(condition: Any) -> None:
        while not condition():
            await asyncio.sleep(0)

    async with asyncio.timeout(20):
        first = asyncio.create_task(read("r0"))
        await turn_until(lambda: log == ["r0"])
        writer_1 = Writer(lock, log, "w1")
        tasks = [asyncio.create_task(read(name)) for name in ("r1", "r2")]
        await asyncio.sleep(0)
        writer_2 = Writer(lock, log, "w2")
        last = asyncio.create_task(read("r3"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert log == ["r0"]
        leave.set()
        await first
        leave.clear()
        await turn_until(writer_1.holds.is_set)
        for _ in range(5):
            await asyncio.sleep(0)
        assert log == ["r0", "w1"]
        writer_1.end()
        await turn_until(lambda: len(inside) == 2)
        assert set(log[2:]) == {"r1", "r2"}
        assert not writer_2.holds.is_set()
        leave.set()
        await asyncio.gather(*tasks)
        leave.clear()
        await turn_until(writer_2.holds.is_set)
        assert "r3" not in log
        writer_2.end()
        leave.set()
        await last
        assert log[4:] == ["w2", "r3"]
    assert_free(lock)


def test_a_writer_is_not_starved_by_readers(lock: ReadWriteLock) -> None:
    """Readers that overlap without a gap let a writer in all the same."""
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            with lock.read():
                time.sleep(0.001)

    readers = [Spawned(read) for _ in range(4)]
    try:
        for _ in range(20):
            Spawned(_use_both, lock).end()
    finally:
        over.set()
    for reader in readers:
        reader.end()
    assert_free(lock)


def test_readers_are_not_starved_by_writers(lock: ReadWriteLock) -> None:
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            with lock.write():
                time.sleep(0.001)

    def read() -> None:
        for _ in range(20):
            with lock.read():
                pass

    async def read_in_tasks() -> None:
        for _ in range(20):
            async with lock.read():
                pass

    writers = [Spawned(write) for _ in range(3)]
    try:
        readers = [Spawned(read), Spawned(lambda: asyncio.run(read_in_tasks()))]
        for reader in readers:
            reader.end()
    finally:
        over.set()
    for writer in writers:
        writer.end()
    assert_free(lock)


# --- who holds it already -----------------------------------------------------------------------------


def test_a_thread_enters_again_while_a_writer_waits(lock: ReadWriteLock) -> None:
    def read() -> int:
        with lock.read():
            writer.append(Writer(lock))
            with lock.read(), lock.read():
                inside = lock.readers
            assert not writer[0].holds.is_set()
            with lock.read():
                return inside

    writer: list[Writer] = []
    assert Spawned(read).end() == 3
    assert writer[0].holds.wait(20)
    writer[0].end()
    assert_free(lock)


async def test_a_task_enters_again_while_a_writer_waits(lock: ReadWriteLock) -> None:
    async with asyncio.timeout(20):
        async with lock.read():
            writer = Writer(lock)
            async with lock.read():
                with lock.read():
                    assert lock.readers == 3
            assert not writer.holds.is_set()
        while not writer.holds.is_set():
            await asyncio.sleep(0)
        writer.end()
    assert_free(lock)


async def test_another_task_queues_behind_the_writer(lock: ReadWriteLock) -> None:
    entered = []

    async def read() -> None:
        async with lock.read():
            entered.append(1)

    async with asyncio.timeout(20):
        async with lock.read():
            writer = Writer(lock)
            task = asyncio.create_task(read())
            for _ in range(5):
                await asyncio.sleep(0)
            assert entered == []
        while not writer.holds.is_set():
            await asyncio.sleep(0)
        assert entered == []
        writer.end()
        await task
    assert entered == [1]
    assert_free(lock)


async def test_another_task_that_would_block_the_thread_enters(lock: ReadWriteLock) -> None:
    """It would otherwise stop the loop, and with it the task that has to make room for the writer."""

    async def read() -> int:
        with lock.read():
            return lock.readers

    async with asyncio.timeout(20):
        async with lock.read():
            writer = Writer(lock)
            assert await asyncio.create_task(read()) == 2
        while not writer.holds.is_set():
            await asyncio.sleep(0)
        writer.end()
    assert_free(lock)


async def test_owners_are_known(lock: ReadWriteLock) -> None:
    def both() -> tuple[bool, bool]:
        return lock.held_here(blocking=True), lock.held_here(blocking=False)

    async def both_in_task() -> tuple[bool, bool]:
        return both()

    here, task = threading.get_ident(), asyncio.current_task()
    assert both() == (False, False)
    async with lock.read():
        assert both() == (True, True)
        assert lock.holders() == ([here], [task])
        # A blocking call of another task would stop this thread; one that waits on the loop would not.
        assert await asyncio.create_task(both_in_task()) == (True, False)
        assert await asyncio.to_thread(both) == (False, False)
        async with lock.read():
            assert both() == (True, True)
        assert both() == (True, True)
    assert both() == (False, False)

    reader = ReadingThread(lock)
    while not reader.holds.is_set():
        await asyncio.sleep(0)
    assert both() == (False, False)
    assert lock.holders() == ([reader.thread.ident], [])
    reader.end()
    assert_free(lock)


def test_another_thread_may_give_a_hold_back(lock: ReadWriteLock) -> None:
    hold = lock.read()
    hold.__enter__()
    Spawned(hold.__exit__, None, None, None).end()
    assert_free(lock)


# --- who stops waiting --------------------------------------------------------------------------------


async def test_a_cancelled_task_stops_waiting(lock: ReadWriteLock) -> None:
    async def read() -> None:
        async with lock.read():
            raise AssertionError("entered")

    writer = Writer(lock)
    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    writer.end()
    assert_free(lock)


async def test_a_task_cancelled_in_the_moment_of_its_turn(lock: ReadWriteLock) -> None:
    """The hold was granted already, and its task not told yet: it must be given back."""
    entered = []

    async def read() -> None:
        async with lock.read():
            entered.append(1)
            await asyncio.sleep(0)

    lock.acquire_write()
    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    lock.release_write()
    assert lock.readers == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_free(lock)


async def test_those_behind_a_cancelled_task_move_up(lock: ReadWriteLock) -> None:
    async def read() -> int:
        async with lock.read():
            return lock.readers

    lock.acquire_write()
    tasks = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.sleep(0)
    writer = Writer(lock)
    tasks[1].cancel()
    lock.release_write()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert all(result in (1, 2) for result in (results[0], results[2]))
    while not writer.holds.is_set():
        await asyncio.sleep(0)
    writer.end()
    assert_free(lock)


def test_a_loop_that_was_closed_while_its_task_waited(lock: ReadWriteLock) -> None:
    async def read() -> None:
        async with lock.read():
            raise AssertionError("entered")

    loop = asyncio.new_event_loop()
    lock.acquire_write()
    task = loop.create_task(read())
    loop.run_until_complete(asyncio.sleep(0, None))
    loop.close()
    lock.release_write()
    assert_free(lock)
    # What asyncio would say about the pending task is not what this test is about.
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_an_interrupted_reader(lock: ReadWriteLock, interrupt: Any) -> None:
    writer = Writer(lock)
    interrupt()
    with pytest.raises(Interrupted):
        lock.read().__enter__()
    assert lock.readers == 0
    writer.end()
    assert_free(lock)


def test_an_interrupted_writer_lets_readers_pass(lock: ReadWriteLock, interrupt: Any) -> None:
    first = ReadingThread(lock)
    assert first.holds.wait(20)
    behind: list[ReadingThread] = []

    def queue_up(_: ReadWriteLock) -> None:
        behind.append(ReadingThread(lock))
        interrupt()

    with pytest.raises(Interrupted):
        lock.acquire_write(0.0, queue_up)
    assert behind[0].holds.wait(20)
    first.end()
    behind[0].end()
    assert_free(lock)


# --- misuse -------------------------------------------------------------------------------------------


def test_misuse_is_refused(lock: ReadWriteLock) -> None:
    with pytest.raises(RuntimeError, match="not held for writing"):
        lock.release_write()
    hold = lock.read()
    with hold:
        with pytest.raises(RuntimeError, match="this reader is in use"):
            hold.__enter__()
        with pytest.raises(RuntimeError, match="wait for itself"):
            lock.acquire_write()
        assert lock.readers == 1
    with hold:
        assert lock.readers == 1
    assert_free(lock)


def test_a_long_wait_is_reported_once(lock: ReadWriteLock) -> None:
    reader = ReadingThread(lock)
    assert reader.holds.wait(20)
    reports: list[Any] = []

    def report(which: ReadWriteLock) -> None:
        reports.append(which.holders())
        reader.leave.set()

    lock.acquire_write(0.01, report)
    lock.release_write()
    assert reports == [([reader.thread.ident], [])]
    reader.end()
    assert_free(lock)

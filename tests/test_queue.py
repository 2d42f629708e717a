"""The commit queue is bounded: whoever comes when it is full waits for room, in the order of arrival.

Through the public API: a rule holds up the one transaction that is being processed, so that the queue behind
it can be filled to the last place.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from designs import TESTER, Account, Bank, Brake, Interrupted, Spawned, wait_until_blocked

import klerk
from klerk import App, Args, Closed, QueueFull, ReadLockHeld

LENGTH = 3


class FullQueue:
    """An open bank whose queue is full behind a command that is being processed."""

    def __init__(self) -> None:
        self.bank = Bank()
        self.brake = Brake(self.bank)
        self.k = self.bank.app.open(queue_length_max=LENGTH)
        self.ada = self.k.handle(self.bank.enter("Ada"), TESTER).id
        self.brake.armed = True
        self.first = self.k.submit(self.bank.rename(self.ada, "Eve"), TESTER)
        assert self.brake.reached.wait(20)
        self.inside = [self.k.submit(self.bank.deposit(self.ada, 1), TESTER) for _ in range(LENGTH)]

    def deposit(self, amount: int = 1) -> Any:
        return self.bank.deposit(self.ada, amount)

    def let_go(self) -> None:
        self.brake.armed = False
        self.brake.go.set()


@pytest.fixture
def full() -> Any:
    queue = FullQueue()
    yield queue
    queue.let_go()
    queue.k.close()


def test_nobody_waits_while_there_is_room(full: FullQueue) -> None:
    """All that fit were taken at once, although nothing is processed."""
    assert not any(future.done() for future in (full.first, *full.inside))


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_full_queue_is_an_error_after_a_while(full: FullQueue, timeout: float) -> None:
    with pytest.raises(
        QueueFull, match=f"no room in the queue of {LENGTH} commands after {timeout}"
    ) as caught:
        full.k.submit(full.deposit(100), TESTER, timeout=timeout)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.status == 503
    full.let_go()
    # What was refused is not done later.
    assert full.k.handle(full.deposit(0), TESTER).model.balance == LENGTH


def test_whoever_waits_for_room_gets_it_in_the_order_of_arrival(full: FullQueue) -> None:
    async def tasks() -> list[int]:
        waiting = [asyncio.create_task(full.k.aio.handle(full.deposit(0), TESTER)) for _ in range(4)]
        return [result.sequence for result in await asyncio.gather(*waiting)]

    waiting: list[Spawned] = []
    for work in (
        lambda: [full.k.handle(full.deposit(0), TESTER).sequence],
        lambda: asyncio.run(tasks()),
        lambda: [full.k.submit(full.deposit(0), TESTER).result(20).sequence],
        lambda: [result.sequence for result in full.k.handle_all([full.deposit(0)], TESTER)],
        lambda: asyncio.run(tasks()),
    ):
        waiting.append(Spawned(work))
        wait_until_blocked(waiting[-1])
    assert not any(future.done() for future in full.inside)
    full.let_go()
    sequences = [sequence for thread in waiting for sequence in thread.end()]
    last = full.inside[-1].result(20).sequence
    assert sequences == list(range(last + 1, last + 1 + len(sequences)))
    assert len(sequences) == 11


def test_those_who_come_later_do_not_overtake(full: FullQueue) -> None:
    """More threads wait than the queue holds; they are served one after the other."""
    threads = []
    for _ in range(5 * LENGTH):
        threads.append(Spawned(lambda: full.k.submit(full.deposit(0), TESTER).result(20).sequence))
        wait_until_blocked(threads[-1])
    full.let_go()
    sequences = [thread.end() for thread in threads]
    assert sequences == sorted(sequences)


def test_a_cancelled_task_leaves_the_line(full: FullQueue) -> None:
    async def one_gives_up() -> list[Any]:
        tasks = [asyncio.create_task(full.k.aio.submit(full.deposit(10**i), TESTER)) for i in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        full.let_go()
        return [await (await tasks[0]), await (await tasks[2])]

    results = Spawned(lambda: asyncio.run(one_gives_up())).end()
    assert [result.model.balance for result in results] == [LENGTH + 1, LENGTH + 101]


async def test_a_time_limit_of_asyncio(full: FullQueue) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await full.k.aio.submit(full.deposit(100), TESTER)
    full.let_go()
    assert (await full.k.aio.handle(full.deposit(0), TESTER)).model.balance == LENGTH


def test_an_interrupted_thread_leaves_the_line(full: FullQueue, interrupt: Callable[[], object]) -> None:
    interrupt()
    with pytest.raises(Interrupted):
        full.k.handle(full.deposit(100), TESTER)
    full.let_go()
    assert full.k.handle(full.deposit(0), TESTER).model.balance == LENGTH


def test_an_interrupted_thread_leaves_its_command_in_the_queue(interrupt: Callable[[], object]) -> None:
    bank = Bank()
    brake = Brake(bank)
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        brake.armed = True
        interrupt()
        with pytest.raises(Interrupted):
            k.handle(bank.rename(ada, "Eve"), TESTER)
        brake.armed = False
        brake.go.set()
        assert k.handle(bank.deposit(ada, 1), TESTER).model.owner == "Eve"


def test_closing_refuses_those_who_wait_and_finishes_what_is_inside(full: FullQueue) -> None:
    async def task() -> None:
        await full.k.aio.handle(full.deposit(100), TESTER)

    waiting = [
        Spawned(full.k.handle, full.deposit(100), TESTER),
        Spawned(lambda: asyncio.run(task())),
        Spawned(full.k.submit, full.deposit(100), TESTER),
    ]
    for thread in waiting:
        wait_until_blocked(thread)
    closing = Spawned(full.k.close)
    for thread in waiting:
        with pytest.raises(Closed):
            thread.end()
    full.let_go()
    closing.end()
    assert [future.result(20).sequence for future in (full.first, *full.inside)] == [2, 3, 4, 5]
    with pytest.raises(Closed, match="closed"):
        full.k.submit(full.deposit(), TESTER)


def test_a_command_under_the_read_lock_is_refused_rather_than_queued(full: FullQueue) -> None:
    with full.k.read(TESTER), pytest.raises(ReadLockHeld):
        full.k.handle(full.deposit(), TESTER)


def test_more_than_one_group(full: FullQueue) -> None:
    """A stream far longer than the queue goes through it, in order, from one thread."""
    full.let_go()
    futures = [full.k.submit(full.deposit(1), TESTER) for _ in range(500)]
    assert [future.result(20).model.balance for future in futures] == list(range(LENGTH + 1, LENGTH + 501))


def test_a_command_from_inside_of_a_function_is_refused() -> None:
    """A rule that handles a command would wait for the transaction that it is part of."""
    bank = Bank()
    caught: list[BaseException] = []
    opened: list[klerk.Klerk] = []

    @bank.deposit.rule
    def impure(a: Args[Account], amount: int) -> bool:
        try:
            opened[0].submit(bank.enter("Bob"), TESTER).result(1)
        except BaseException as error:
            caught.append(error)
        return True

    with bank.app.open() as k:
        opened.append(k)
        ada = k.handle(bank.enter("Ada"), TESTER).id
        k.handle(bank.deposit(ada, 1), TESTER)
        assert isinstance(caught[0], klerk.KlerkError)
        assert len(bank.contents(k)) == 1


@pytest.mark.parametrize("length", [0, -1])
def test_a_queue_without_room_is_refused(length: int) -> None:
    app: App = Bank().app
    with pytest.raises(klerk.ConfigError, match="queue_length_max"):
        app.open(queue_length_max=length)

"""Subscribers keep up or catch up: many at once, after restarts, too slow, waiting, ended and misused.

Where threads have to meet at a point, they wait for events, never for time to pass.
"""

import asyncio
import gc
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from designs import (
    TESTER,
    Bank,
    Brake,
    Spawned,
    eventually,
    run_python,
    wait_until_blocked,
)
from subscribers import History, brief, plain, told_now

from klerk import (
    ArgumentError,
    Change,
    Closed,
    Conflict,
    Context,
    Klerk,
    Lagged,
    LimitExceeded,
    Model,
    NotPure,
    ReadLockHeld,
    StoreFailed,
    User,
    limits,
)
from klerk.storage.memory import MemoryStorage


@pytest.fixture
def bank() -> Bank:
    return Bank()


# --- many at once -------------------------------------------------------------------------------------


def watch(k: Klerk, stop: int, **options: Any) -> Callable[[], list[int]]:
    """Take changes in a thread until a sequence is told."""
    subscription = k.changes(TESTER, since=0, **options)

    def run() -> list[int]:
        seen = []
        for change in subscription:
            seen.append(change.sequence)
            if change.sequence >= stop:
                break
        return seen

    return run


async def watch_in_loop(k: Klerk, stop: int, **options: Any) -> list[int]:
    seen = []
    async with k.aio.changes(TESTER, since=0, **options) as changes:
        async for change in changes:
            seen.append(change.sequence)
            if change.sequence >= stop:
                break
    return seen


def test_everybody_sees_every_transaction_once_and_in_order(bank: Bank) -> None:
    count = 20_000
    with bank.app.open() as k:
        ids = [k.handle(bank.enter(f"n{i}"), TESTER).id for i in range(10)]
        stop = len(ids) + count
        options: list[dict[str, Any]] = [
            {"queue_length_max": 100_000},
            {"queue_length_max": 50, "catch_up": True},
        ]
        threads = [Spawned(watch(k, stop, **each)) for each in options]

        async def both_in_loop() -> list[list[int]]:
            return await asyncio.gather(*(watch_in_loop(k, stop, **each) for each in options))

        loop = Spawned(lambda: asyncio.run(both_in_loop()))
        pending = [k.submit(bank.deposit(ids[i % 10], 1), TESTER) for i in range(count)]
        for each in pending:
            each.result()
        everything = list(range(1, stop + 1))
        for thread in threads:
            assert thread.end(60) == everything
        for seen in loop.end(60):
            assert seen == everything


@pytest.mark.parametrize("stored", [False, True])
def test_subscribers_come_and_go_while_commands_are_handled(
    bank: Bank, rng: random.Random, tmp_path: Path, stored: bool
) -> None:
    with bank.app.open(tmp_path / "store" if stored else None) as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        over = threading.Event()

        def write() -> None:
            while not over.is_set():
                for each in [k.submit(bank.deposit(ada, 1), TESTER) for _ in range(100)]:
                    each.result()

        writer = Spawned(write)
        try:
            sequence = 0
            for _ in range(100):
                # Each goes on where the one before it ended: from the log, and through the join with live.
                with k.changes(
                    TESTER, since=sequence, queue_length_max=rng.choice([1, 30, 1000]), catch_up=True
                ) as c:
                    for change in c:
                        assert change.sequence == sequence + 1
                        sequence = c.sequence
                        if rng.random() < 0.003:
                            break
        finally:
            over.set()
        writer.end()


# --- resuming -----------------------------------------------------------------------------------------


def test_resuming_after_restarts_neither_loses_nor_repeats(
    bank: Bank, rng: random.Random, tmp_path: Path
) -> None:
    told: list[Change[Any]] = []
    sequence = 0
    expected: list[Any] = []
    for _ in range(6):
        again = Bank()
        with again.app.open(tmp_path / "store", durability="process") as k:
            history = History(again, k, rng)
            with k.changes(TESTER, again.accounts, since=sequence) as changes:
                history.names = 1000 * len(expected)
                history.go_on(25)
                everything = history.expected(lambda m: True, min(history.snapshots))
                expected += everything
                stop_after = rng.randrange(len(told), len(expected) + 1) - len(told)
                parts: list[Change[Any]] = []
                for _ in range(stop_after):
                    change = changes.take(0)
                    assert change is not None
                    parts.append(change)
                sequence = changes.sequence
                # Of a transaction that was told in part, nothing counts.
                told += [change for change in parts if change.sequence <= sequence]
    with bank.app.open(tmp_path / "store", durability="process") as k:
        told += told_now(k.changes(TESTER, bank.accounts, since=sequence))
    assert [(s, kind, ref) for s, kind, ref, *_ in plain(told)] == [
        (s, kind, ref) for s, kind, ref, *_ in expected
    ]
    assert [(m and m.balance, b and b.balance) for *_, m, b in plain(told)] == [
        (m and m.balance, b and b.balance) for *_, m, b in expected
    ]


def test_versions_before_are_found_far_back_in_the_log(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> None:
    monkeypatch.setattr(limits, "CATCH_UP_TRANSACTIONS", 7)
    monkeypatch.setattr(limits, "CATCH_UP_VERSIONS_MAX", 3)
    with bank.app.open() as k:
        history = History(bank, k, rng)
        live = k.changes(TESTER)
        history.go_on(200)
        assert told_now(k.changes(TESTER, since=0)) == told_now(live)


def test_erased_versions_are_told_as_such(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    # Erasure is not part of what is tested here: the payload is taken out of the record by hand.
    stores: list[MemoryStorage] = []
    init = MemoryStorage.__init__
    monkeypatch.setattr(MemoryStorage, "__init__", lambda self: (init(self), stores.append(self))[0])
    from klerk._image import key_of
    from klerk.codec import LogRecord, encode, read_record
    from klerk.storage.contract import Family

    def erase(sequence: int) -> None:
        key = key_of(sequence)
        value = stores[-1].get(Family.LOG, key)
        assert value is not None
        record = read_record(key, value)[2]
        stores[-1].write([(Family.LOG, key, encode(LogRecord(record.head, (None,))))], [])

    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 1), TESTER).id
        bob = k.handle(bank.enter("Bob", 1), TESTER).id
        k.handle(bank.deposit(ada, 1), TESTER)
        k.handle(bank.deposit(ada, 1), TESTER)
        k.handle(bank.deposit(bob, 1), TESTER)
        k.handle(bank.remove(bob), TESTER)
        for sequence in (2, 3, 5):
            erase(sequence)
        told = told_now(k.changes(TESTER, since=0))
        assert brief(told) == [(1, "created", ada), (3, "erased", ada), (4, "updated", ada)]
        now = told[1].model
        assert now is not None
        assert (now.balance, told[1].before, told[1].present) == (3, None, True)
        # The version before the next one is the last that is known.
        assert told[2].before is not None
        assert told[2].before.balance == 1
        # Where none is known, the model is told as one that came in.
        assert brief(told_now(k.changes(TESTER, ada, since=2))) == [(3, "erased", ada), (4, "updated", ada)]


# --- lagging ------------------------------------------------------------------------------------------


def test_a_slow_subscriber_is_told_and_goes_on_from_the_log(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        changes = k.changes(TESTER, queue_length_max=10)
        by_itself = k.changes(TESTER, queue_length_max=10, catch_up=True)
        for _ in range(50):
            k.handle(bank.deposit(ada, 1), TESTER)
        first = [changes.take(0) for _ in range(10)]
        assert [c and c.sequence for c in first] == list(range(2, 12))
        # There is room again, but what comes after a gap is not told before the gap is.
        k.handle(bank.deposit(ada, 1), TESTER)
        with pytest.raises(Lagged) as caught:
            changes.take(0)
        assert caught.value.sequence == changes.sequence == 11
        assert caught.value.code == "lagged"
        fresh = k.changes(TESTER, since=caught.value.sequence)
        assert [c.sequence for c in told_now(changes)] == list(range(12, 53))
        assert [c.sequence for c in told_now(fresh)] == list(range(12, 53))
        assert [c.sequence for c in told_now(by_itself)] == list(range(2, 53))
        assert (changes.lags, by_itself.lags, fresh.lags) == (1, 1, 0)
        # And live again.
        k.handle(bank.deposit(ada, 1), TESTER)
        for each in (changes, by_itself, fresh):
            assert brief(told_now(each)) == [(53, "updated", ada)]


def test_a_transaction_larger_than_the_queue(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER, queue_length_max=10)
        k.handle_all([bank.enter(f"n{i}") for i in range(11)], TESTER)
        with pytest.raises(Lagged):
            changes.take(0)
        assert [c.ref for c in told_now(changes)] == list(range(1, 12))


async def test_a_slow_task_is_told_and_goes_on_from_the_log(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = (await k.aio.handle(bank.enter("Ada"), TESTER)).id
        changes = k.aio.changes(TESTER, queue_length_max=5)
        for _ in range(20):
            await k.aio.handle(bank.deposit(ada, 1), TESTER)
        seen: list[int] = []

        async def collect() -> None:
            async for change in changes:
                seen.append(change.sequence)  # noqa: PERF401 (what came before the error counts)

        with pytest.raises(Lagged):
            await collect()
        while (change := await changes.take(0)) is not None:
            seen.append(change.sequence)
        assert seen == list(range(2, 22))


# --- waiting, waking and ending -----------------------------------------------------------------------


def test_taking_waits_for_a_change_and_no_longer_than_told(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        assert changes.take(0) is changes.take(0.01) is None
        waiting = Spawned(changes.take)
        wait_until_blocked(waiting)
        k.handle(bank.enter("Ada"), TESTER)
        assert waiting.end().sequence == 1


def test_what_concerns_nobody_wakes_nobody_and_moves_on_the_sequence(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        bob = k.handle(bank.enter("Bob"), TESTER).id
        changes = k.changes(TESTER, bob, queue_length_max=1)
        waiting = Spawned(changes.take)
        wait_until_blocked(waiting)
        for _ in range(10):
            k.handle(bank.deposit(ada, 1), TESTER)
        assert changes.sequence == 12
        k.handle(bank.deposit(bob, 1), TESTER)
        assert waiting.end().sequence == 13


def test_what_concerns_nobody_takes_no_room(bank: Bank) -> None:
    with bank.app.open() as k:
        ids = [k.handle(bank.enter(f"n{i}"), TESTER).id for i in range(100)]
        one, closed = k.changes(TESTER, [7, 8], queue_length_max=4), k.changes(TESTER, bank.closed)
        k.handle(bank.close(ids[50]), TESTER)
        for each in [k.submit(bank.deposit(id, 1), TESTER) for id in (*ids[:50], 7, *ids[51:], 8)]:
            each.result()
        assert [change.ref for change in told_now(one)] == [7, 8, 7, 8]
        assert brief(told_now(closed)) == [(101, "entered", ids[50])]
        assert one.lags == closed.lags == 0


@pytest.mark.parametrize("closing", ["subscription", "klerk"])
def test_closing_ends_whoever_waits(bank: Bank, closing: str) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        waiting = Spawned(lambda: list(changes))
        wait_until_blocked(waiting)
        (changes if closing == "subscription" else k).close()
        assert waiting.end() == []
        assert changes.take() is None
        assert changes.closed == (closing == "subscription")


@pytest.mark.parametrize("closing", ["subscription", "klerk"])
async def test_closing_ends_tasks_that_wait(bank: Bank, closing: str) -> None:
    with bank.app.open() as k:
        changes = k.aio.changes(TESTER)

        async def collect() -> list[Any]:
            return [change async for change in changes]

        waiting = asyncio.create_task(collect())
        await asyncio.sleep(0)
        await asyncio.to_thread((changes if closing == "subscription" else k).close)
        assert await asyncio.wait_for(waiting, 20) == []


def test_what_was_committed_before_closing_is_told_after_it(bank: Bank) -> None:
    k = bank.app.open()
    changes, late = k.changes(TESTER), k.changes(TESTER, since=0)
    k.handle(bank.enter("Ada"), TESTER)
    k.close()
    assert [change.sequence for change in changes] == [1]
    # What was to be read from the log cannot be any more, and it does not look like the end.
    with pytest.raises(Closed):
        late.take()
    with pytest.raises(Closed):
        k.changes(TESTER)
    with pytest.raises(Closed):
        k.aio.changes(TESTER)


def test_a_forgotten_subscription_ends_by_itself(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUBSCRIBERS_MAX", 2)
    with bank.app.open() as k:
        kept, forgotten = k.changes(TESTER), k.aio.changes(TESTER)
        with pytest.raises(LimitExceeded):
            k.changes(TESTER)
        del forgotten
        gc.collect()
        k.changes(TESTER).close()
        k.handle(bank.enter("Ada"), TESTER)
        assert brief(told_now(kept)) == [(1, "created", 1)]


def test_an_interrupted_wait_can_be_repeated(bank: Bank, interrupt: Callable[[], object]) -> None:
    from designs import Interrupted

    with bank.app.open() as k:
        changes = k.changes(TESTER)
        interrupt()
        with pytest.raises(Interrupted):
            changes.take(20)
        k.handle(bank.enter("Ada"), TESTER)
        assert brief(told_now(changes)) == [(1, "created", 1)]


async def test_a_cancelled_task_loses_nothing(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = (await k.aio.handle(bank.enter("Ada"), TESTER)).id
        changes = k.aio.changes(TESTER, since=0, queue_length_max=5, catch_up=True)
        writer = Spawned(lambda: [k.handle(bank.deposit(ada, 1), TESTER) for _ in range(500)])
        seen: list[int] = []
        while not seen or seen[-1] < 501:
            task = asyncio.create_task(changes.take())
            for _ in range(len(seen) % 3):
                await asyncio.sleep(0)
            if not task.done():
                task.cancel()
            try:
                change = await task
            except asyncio.CancelledError:
                change = await changes.take()
            assert change is not None
            seen.append(change.sequence)
        writer.end()
        assert seen == list(range(1, 502))


async def test_a_task_cancelled_while_the_log_is_read_leaves_no_trace(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go = threading.Event(), threading.Event()
    scan = MemoryStorage.scan

    def slow_scan(self: MemoryStorage, *args: Any, **options: Any) -> Any:
        reading.set()
        assert go.wait(20)
        return scan(self, *args, **options)

    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 0), TESTER).id
        for _ in range(3):
            k.handle(bank.deposit(ada, 1), TESTER)
        monkeypatch.setattr(MemoryStorage, "scan", slow_scan)
        changes = k.aio.changes(TESTER, since=0)
        task = asyncio.create_task(changes.take())
        await asyncio.to_thread(reading.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        told = [await changes.take(0) for _ in range(5)]
        assert [(c and c.before and c.before.balance, c and c.model and c.model.balance) for c in told] == [
            (None, 0),
            (0, 1),
            (1, 2),
            (2, 3),
            (None, None),
        ]


async def test_others_get_their_turn_while_much_is_told(bank: Bank) -> None:
    with bank.app.open() as k:
        k.handle_all([bank.enter(f"n{i}") for i in range(3000)], TESTER)
        for i in range(1, 1001):
            k.submit(bank.deposit(i, 1), TESTER)
        live = k.aio.changes(TESTER, bank.closed, queue_length_max=100_000)
        await k.aio.handle_all([bank.deposit(i, 1) for i in range(1, 3001)], TESTER)
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        ticker = asyncio.create_task(tick())
        # Nothing of it belongs to the view, and still it has to be looked at.
        assert await live.take(0) is None
        assert turns >= 3000 / limits.SUBSCRIBER_MODELS_AT_ONCE - 1
        turns = 0
        from_log = k.aio.changes(TESTER, since=0)
        told = 0
        while await from_log.take(0) is not None:
            told += 1
        assert told == 7000
        assert turns >= 7000 / limits.SUBSCRIBER_MODELS_AT_ONCE - 1
        ticker.cancel()


def test_what_is_not_durable_is_not_told(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        k.handle(bank.enter("Ada"), TESTER)

        def fail(self: MemoryStorage) -> None:
            raise OSError("no disk")

        monkeypatch.setattr(MemoryStorage, "_sync", fail)
        with pytest.raises(StoreFailed):
            k.handle(bank.enter("Bob"), TESTER)
        assert brief(told_now(changes)) == [(1, "created", 1)]
        assert brief(told_now(k.changes(TESTER, since=0))) == [(1, "created", 1)]
        monkeypatch.undo()


FORK = """
import os, sys
from subscribers import History, brief, one_by_one, plain, told_now

import klerk
from designs import TESTER, Bank

bank = Bank()
k = bank.app.open()
changes = k.changes(TESTER)
k.handle(bank.enter("Ada"), TESTER)
child = os.fork()
if child == 0:
    for refused in (changes.take, lambda: k.changes(TESTER)):
        try:
            refused()
        except klerk.Closed:
            print("refused", flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(changes.take(20).ref)
k.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    assert run_python("-W", "ignore::DeprecationWarning", "-c", FORK, cwd=tmp_path).stdout.split() == [
        "refused",
        "refused",
        "1",
    ]


def test_a_process_ends_while_a_daemon_thread_waits_for_changes(tmp_path: Path) -> None:
    body = """
import threading
from designs import TESTER, Bank, wait_until_blocked

k = Bank().app.open("store")
waiting = threading.Thread(target=lambda: list(k.changes(TESTER)), daemon=True)
waiting.start()
wait_until_blocked(waiting)
print("waiting")
"""
    done = run_python("-c", body, cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("waiting\n", "", 0)


# --- misuse -------------------------------------------------------------------------------------------


def test_waiting_inside_a_read_is_refused(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        with k.read(TESTER), pytest.raises(ReadLockHeld):
            changes.take()
        k.handle(bank.enter("Ada"), TESTER)
        assert len(told_now(changes)) == 1


async def test_waiting_inside_a_read_of_the_same_task_is_refused(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.aio.changes(TESTER)
        async with k.aio.read(TESTER):
            with pytest.raises(ReadLockHeld):
                await changes.take()
            # Another task on the same loop may.
            assert await asyncio.create_task(changes.take(0)) is None


def test_waiting_in_the_thread_that_commits_is_refused(bank: Bank) -> None:
    brake = Brake(bank)
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        caught: list[BaseException] = []

        def callback(_: Any) -> None:
            try:
                changes.take()
            except NotPure as error:
                caught.append(error)

        ada = k.handle(bank.enter("Ada"), TESTER).id
        brake.armed = True
        renaming = k.submit(bank.rename(ada, "Eve"), TESTER)
        assert brake.reached.wait(20)
        renaming.add_done_callback(callback)
        brake.go.set()
        renaming.result()
        eventually(lambda: caught)
        assert len(told_now(changes)) == 2


def test_one_thread_at_a_time_takes_changes(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        waiting = Spawned(changes.take)
        wait_until_blocked(waiting)
        with pytest.raises(Conflict, match="another thread"):
            changes.take()
        k.handle(bank.enter("Ada"), TESTER)
        assert waiting.end().sequence == 1


@pytest.mark.parametrize("since", [-1, 2, 2**70, True, 1.0, "1"])
def test_there_is_nothing_since_then(bank: Bank, since: Any) -> None:
    with bank.app.open() as k:
        k.handle(bank.enter("Ada"), TESTER)
        with pytest.raises(ArgumentError, match="since"):
            k.changes(TESTER, since=since)
        with pytest.raises(ArgumentError, match="since"):
            k.aio.changes(TESTER, since=since)


@pytest.mark.parametrize("length", [0, -1, 10**7, True, 1.5, None])
def test_the_queue_has_a_length(bank: Bank, length: Any) -> None:
    with bank.app.open() as k, pytest.raises(ArgumentError, match="queue_length_max"):
        k.changes(TESTER, queue_length_max=length)


def test_what_cannot_be_subscribed_to(bank: Bank) -> None:
    class Stranger(Model):
        name: str

    other = Bank()
    wrong = [
        "accounts",
        0,
        -1,
        2**63,
        True,
        1.5,
        Model,
        Stranger,
        object(),
        bank.by_owner,
        [],
        [[1]],
        (None,),
    ]
    with bank.app.open() as k:
        for what in [
            *wrong,
            other.accounts,
            other.active,
            other.by_owner("Ada"),
            [bank.active, other.active],
        ]:
            with pytest.raises(ArgumentError):
                k.changes(TESTER, what)
        for context in (None, User("ada"), Context("ada")):  # type: ignore[arg-type]
            with pytest.raises(ArgumentError):
                k.changes(context)  # type: ignore[arg-type]

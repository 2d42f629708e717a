"""Reads see one moment: consistent under the lock, unchanged after it, and never half of a transaction.

Where threads have to meet at a point, they wait for events, never for time to pass.
"""

import asyncio
import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from designs import NOON, TESTER, Account, Bank, Spawned, permit_everything

import klerk
from klerk import (
    App,
    Args,
    ArgumentError,
    Context,
    FunctionFailed,
    Klerk,
    Model,
    NotFound,
    NotPure,
    ReaderClosed,
    ReadLockHeld,
    Ref,
    User,
)


@pytest.fixture
def bank() -> Bank:
    return Bank()


def fill(bank: Bank, k: klerk.Klerk) -> list[Any]:
    return [
        r.id for r in k.handle_all([bank.enter("Ada", 1), bank.enter("Bob", 2), bank.enter("Eve", 1)], TESTER)
    ]


# --- what can be asked --------------------------------------------------------------------------------


def test_every_way_to_read(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, bob, eve = fill(bank, k)
        k.handle(bank.close(bob), TESTER)
        with k.read(TESTER) as r:
            assert r.get(ada).owner == "Ada"
            found = r.find(bob)
            assert found is not None
            assert found.meta.state is bank.closed
            assert r.find(99) is None
            assert r.find(bank.by_owner, "Eve") == r.get(eve)
            assert r.find(bank.by_owner, "Joe") is None
            assert r.find(bank.by_balance, 1) == r.get(ada)
            assert [m.meta.id for m in r.list(bank.accounts)] == [ada, bob, eve]
            assert [m.meta.id for m in r.list(bank.active)] == [ada, eve]
            assert [m.meta.id for m in r.list(bank.closed)] == [bob]
            assert [m.meta.id for m in r.list(bank.by_balance(1))] == [ada, eve]
            assert list(r.list(bank.by_balance(7))) == []
            assert r.first(bank.active) == r.get(ada)
            assert r.first(bank.by_balance(2)) == r.get(bob)
            assert r.first(bank.by_balance(7)) is None
            views = (bank.accounts, bank.active, bank.closed, bank.by_balance(1), bank.by_balance(7))
            assert [r.count(view) for view in views] == [3, 2, 1, 2, 0]
            assert [r.exists(view) for view in views] == [True, True, True, True, False]
            assert r.context.actor is TESTER.actor


def test_a_model_without_a_key_is_in_no_index(bank: Bank) -> None:
    with bank.app.open() as k:
        k.handle(bank.enter("Ada", 0), TESTER)
        with k.read(TESTER) as r:
            assert r.find(bank.by_balance, 0) is None
            assert r.find(bank.by_balance, None) is None


@pytest.mark.parametrize("reference", [0, -1, 99, 2**63, -(2**63) - 1, "1", None, 1.5])
def test_unknown_references(bank: Bank, reference: Any) -> None:
    with bank.app.open() as k:
        fill(bank, k)
        with k.read(TESTER) as r:
            with pytest.raises(NotFound, match="there is no model"):
                r.get(reference)
            assert r.find(reference) is None


def test_references_from_columns_work(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)
        with k.read(TESTER) as r:
            id = r.columns(bank.accounts, "id")[0][0]
            assert isinstance(id, np.int64)
            assert r.get(id).meta.id == ada
        assert k.handle(bank.deposit(id, 1), TESTER).model.balance == 2


def test_views_of_another_app(bank: Bank) -> None:
    other = Bank()
    with bank.app.open() as k, k.read(TESTER) as r:
        for view in (other.accounts, other.active, other.by_owner("Ada"), "accounts", None):
            for read in (r.list, r.count, r.first, r.exists, r.columns):
                with pytest.raises(ArgumentError, match="of this app"):
                    read(view)  # type: ignore[operator]


def test_functions_read_the_working_state(bank: Bank) -> None:
    seen: list[Any] = []

    @bank.deposit.rule
    def look(a: Args[Account], amount: int) -> bool:
        read = a.read
        seen.append(
            (
                read.count(bank.accounts),
                read.count(bank.active),
                [m.owner for m in read.list(bank.closed)],
                [m.owner for m in read.list(bank.by_balance(1))],
                read.exists(bank.by_balance(9)),
                getattr(read.find(bank.by_owner, "Joe"), "balance", None),
                read.find(99),
                getattr(read.first(bank.accounts), "owner", None),
            )
        )
        with pytest.raises(NotFound):
            read.get(99)
        return True

    with bank.app.open() as k:
        ada, bob, eve = fill(bank, k)
        k.handle_all(
            [
                bank.close(bob),
                bank.enter("Joe", 9),
                bank.rename(bob, "Bo"),
                bank.remove(eve),
                bank.deposit(ada, 1),
            ],
            TESTER,
        )
        assert seen == [(3, 2, ["Bo"], ["Ada"], True, 9, None, "Ada")]


# --- columns ------------------------------------------------------------------------------------------


class Row(Model):
    whole: int
    real: float
    flag: bool
    when: datetime
    day: date
    span: timedelta
    exact: Decimal
    text: str = ""
    next: "Ref[Row] | None" = None
    whole_or_none: int | None = None
    real_or_none: float | None = None
    flag_or_none: bool | None = None
    when_or_none: datetime | None = None
    day_or_none: date | None = None
    span_or_none: timedelta | None = None
    exact_or_none: Decimal | None = None


MICRO = datetime(2024, 2, 29, 1, 2, 3, 456789, tzinfo=UTC)


def table() -> tuple[App, Any, Any]:
    app = App("table")
    rows = app.machine(Row)
    (there,) = rows.states("there")
    permit_everything(app)

    @rows.create(into=there)
    def empty(a: Args) -> Row:
        return Row(
            whole=-(2**63),
            real=0.1,
            flag=True,
            when=MICRO,
            day=date(1, 1, 1),
            span=timedelta(microseconds=-1),
            exact=Decimal("0.5"),
        )

    @rows.create(into=there)
    def full(a: Args, next: Ref[Row]) -> Row:
        return Row(
            whole=2**63 - 1,
            real=-1e300,
            flag=False,
            when=datetime.min.replace(tzinfo=UTC),
            day=date.max,
            span=timedelta(days=9),
            exact=Decimal(-2),
            next=next,
            whole_or_none=3,
            real_or_none=0.25,
            flag_or_none=True,
            when_or_none=MICRO,
            day_or_none=date(2024, 2, 29),
            span_or_none=timedelta(hours=1),
            exact_or_none=Decimal("1.5"),
        )

    return app, rows, (empty, full)


# name, dtype, the values of both rows
COLUMNS: list[tuple[str, str, list[Any]]] = [
    ("whole", "int64", [-(2**63), 2**63 - 1]),
    ("real", "float64", [0.1, -1e300]),
    ("flag", "bool", [True, False]),
    (
        "when",
        "datetime64[us]",
        [np.datetime64("2024-02-29T01:02:03.456789"), np.datetime64("0001-01-01T00:00:00")],
    ),
    ("day", "datetime64[D]", [np.datetime64("0001-01-01"), np.datetime64("9999-12-31")]),
    ("span", "timedelta64[us]", [np.timedelta64(-1, "us"), np.timedelta64(9 * 86_400_000_000, "us")]),
    ("exact", "float64", [0.5, -2.0]),
    ("next", "int64", [0, 1]),
    ("whole_or_none", "float64", [None, 3.0]),
    ("real_or_none", "float64", [None, 0.25]),
    ("flag_or_none", "float64", [None, 1.0]),
    ("when_or_none", "datetime64[us]", [None, np.datetime64("2024-02-29T01:02:03.456789")]),
    ("day_or_none", "datetime64[D]", [None, np.datetime64("2024-02-29")]),
    ("span_or_none", "timedelta64[us]", [None, np.timedelta64(3_600_000_000, "us")]),
    ("exact_or_none", "float64", [None, 1.5]),
    ("id", "int64", [1, 2]),
    ("version", "int64", [1, 1]),
    ("created_at", "datetime64[us]", [np.datetime64("2024-02-29T12:00:00")] * 2),
    ("updated_at", "datetime64[us]", [np.datetime64("2024-02-29T12:00:00")] * 2),
    ("entered_at", "datetime64[us]", [np.datetime64("2024-02-29T12:00:00")] * 2),
]


def test_columns() -> None:
    app, rows, (empty, full) = table()
    with app.open() as k:
        first = k.handle(empty(), TESTER.at(NOON)).id
        k.handle(full(first), TESTER.at(NOON))
        with k.read(TESTER) as r:
            columns = r.columns(rows, *(name for name, _, _ in COLUMNS))
            assert columns.names == tuple(name for name, _, _ in COLUMNS)
            for i, (name, dtype, values) in enumerate(COLUMNS):
                array = columns[name]
                assert array is columns[i]
                assert array is getattr(columns, name)
                assert str(array.dtype) == dtype, name
                for found, expected in zip(array, values, strict=True):
                    if expected is None:
                        assert np.isnat(found) if dtype[0] in "dt" else np.isnan(found), name
                    else:
                        assert found == expected, name
            one, two = r.columns(rows, "whole", "real")
            assert (len(one), len(two)) == (2, 2)


@pytest.mark.parametrize("name", [name for name, _, _ in COLUMNS])
def test_columns_of_nothing(name: str) -> None:
    app, rows, _ = table()
    with app.open() as k, k.read(TESTER) as r:
        (array,) = r.columns(rows, name)
        dtype = next(dtype for known, dtype, _ in COLUMNS if known == name)
        assert (len(array), str(array.dtype)) == (0, dtype)


def test_columns_that_are_none() -> None:
    app, rows, (empty, _) = table()
    with app.open() as k:
        k.handle(empty(), TESTER)
        with k.read(TESTER) as r:
            with pytest.raises(ArgumentError, match=r"the field 'text'.* is neither a number nor a time"):
                r.columns(rows, "text")
            with pytest.raises(ArgumentError, match="Row has no field 'size'"):
                r.columns(rows, "whole", "size")
            columns = r.columns(rows, "whole")
            with pytest.raises(KeyError, match="size"):
                columns["size"]
            with pytest.raises(AttributeError):
                _ = columns.size
            assert r.columns(rows) == ()


def test_columns_are_copies(bank: Bank) -> None:
    with bank.app.open() as k:
        fill(bank, k)
        with k.read(TESTER) as r:
            r.columns(bank.accounts, "balance")[0][:] = 77
            assert r.columns(bank.accounts, "balance")[0].tolist() == [1, 2, 1]


# --- while and after the lock is held -----------------------------------------------------------------


def test_nothing_can_be_read_outside_of_the_block(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)
        reader = k.read(TESTER)
        for _ in range(2):
            for read in (
                lambda r: r.get(ada),
                lambda r: r.find(ada),
                lambda r: r.find(bank.by_owner, "Ada"),
                lambda r: r.list(bank.accounts),
                lambda r: r.first(bank.active),
                lambda r: r.count(bank.active),
                lambda r: r.exists(bank.active),
                lambda r: r.columns(bank.accounts, "balance"),
            ):
                with pytest.raises(ReaderClosed, match="holds no lock"):
                    read(reader)
            with reader:
                assert reader.get(ada).owner == "Ada"


def test_models_stay_as_they_were_read(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, bob, _ = fill(bank, k)
        with k.read(TESTER) as r:
            read, everything = r.get(ada), r.list(bank.accounts)
        k.handle_all([bank.deposit(ada, 5), bank.remove(bob)], TESTER)
        assert (read.balance, read.meta.version) == (1, 1)
        assert [(m.owner, m.balance) for m in everything] == [("Ada", 1), ("Bob", 2), ("Eve", 1)]


def test_a_command_is_not_seen_before_the_reader_is_done(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)
        reading, submitted = threading.Event(), threading.Event()

        def read() -> list[int]:
            with k.read(TESTER) as r:
                before = r.get(ada).balance
                reading.set()
                assert submitted.wait(20)
                return [before, r.get(ada).balance, int(r.columns(bank.accounts, "balance")[0][0])]

        reader = Spawned(read)
        assert reading.wait(20)
        future = k.submit(bank.deposit(ada, 4), TESTER)
        with pytest.raises(TimeoutError):
            future.result(0.02)
        submitted.set()
        assert reader.end() == [1, 1, 1]
        assert future.result(20).model.balance == 5


# --- a command under the read lock --------------------------------------------------------------------


def attempts(bank: Bank, k: klerk.Klerk, id: Any) -> list[Any]:
    command = bank.deposit(id, 1)
    return [
        lambda: k.handle(command, TESTER),
        lambda: k.handle(command, TESTER, dry_run=True),
        lambda: k.check(command, TESTER),
        lambda: k.submit(command, TESTER),
        lambda: k.handle_all([command], TESTER),
        lambda: k.handle_all(lambda a: command, TESTER),
    ]


def test_a_command_under_the_read_lock_is_refused(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)
        sequence = k.sequence
        with k.read(TESTER), k.read(TESTER):
            for attempt in attempts(bank, k, ada):
                with pytest.raises(ReadLockHeld, match="holds the read lock"):
                    attempt()
        assert k.sequence == sequence
        assert k.handle(bank.deposit(ada, 1), TESTER).model.balance == 2


def test_another_thread_may_command_meanwhile(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)
        with k.read(TESTER) as r:
            other = Spawned(k.submit, bank.deposit(ada, 1), TESTER)
            future = other.end()
            assert r.get(ada).balance == 1
        assert future.result(20).model.balance == 2


def test_waiting_for_a_command_under_the_read_lock_is_refused(bank: Bank) -> None:
    """The command can only be published after the block, so waiting inside of it would never end."""
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)
        with k.read(TESTER):
            future = Spawned(k.submit, bank.deposit(ada, 1), TESTER).end()
            for wait in (future.result, future.exception):
                with pytest.raises(ReadLockHeld):
                    wait(0.05)
        assert future.result(20).model.balance == 2


async def test_a_command_of_a_task_under_the_read_lock_is_refused(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)
        command = bank.deposit(ada, 1)
        async with k.aio.read(TESTER):
            for attempt in (
                k.aio.handle(command, TESTER),
                k.aio.check(command, TESTER),
                k.aio.submit(command, TESTER),
                k.aio.handle_all([command], TESTER),
            ):
                with pytest.raises(ReadLockHeld):
                    await attempt
            # A blocking call would stop the loop, and with it the task that has to give the lock back.
            for blocking in attempts(bank, k, ada):
                with pytest.raises(ReadLockHeld):
                    blocking()
        with k.read(TESTER), pytest.raises(ReadLockHeld):
            await k.aio.handle(command, TESTER)
        assert (await k.aio.handle(command, TESTER)).model.balance == 2


async def test_another_task_may_command_meanwhile(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)
        async with k.aio.read(TESTER) as r:
            task = asyncio.create_task(k.aio.handle(bank.deposit(ada, 1), TESTER))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not task.done()
            assert r.get(ada).balance == 1
        assert (await asyncio.wait_for(task, 20)).model.balance == 2


async def test_a_blocking_command_while_another_task_reads_is_refused(bank: Bank) -> None:
    """Task B would stop the thread for ever: task A, which holds the lock, could never go on."""
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)
        reading, done = asyncio.Event(), asyncio.Event()

        async def read() -> int:
            async with k.aio.read(TESTER) as r:
                reading.set()
                await done.wait()
                return r.get(ada).balance

        task = asyncio.create_task(read())
        await reading.wait()
        for attempt in attempts(bank, k, ada)[:3]:
            with pytest.raises(ReadLockHeld):
                attempt()
        done.set()
        assert await asyncio.wait_for(task, 20) == 1


async def test_the_lock_is_given_back_when_the_block_fails(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)
        with pytest.raises(ZeroDivisionError), k.read(TESTER) as r:
            _ = r.get(ada).balance // 0
        with pytest.raises(ZeroDivisionError):
            async with k.aio.read(TESTER) as r:
                _ = r.get(ada).balance // 0
        assert (await asyncio.wait_for(k.aio.handle(bank.deposit(ada, 1), TESTER), 20)).model.balance == 2


def test_readers_inside_of_readers_with_a_writer_waiting(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, *_ = fill(bank, k)

        def read() -> list[int]:
            with k.read(TESTER) as outer:
                future = Spawned(k.submit, bank.deposit(ada, 1), TESTER).end()
                with pytest.raises(TimeoutError):
                    Spawned(future.result, 0.02).end()
                with k.read(TESTER) as inner:
                    found = [outer.get(ada).balance, inner.get(ada).balance]
                return [*found, outer.get(ada).balance]

        assert Spawned(read).end() == [1, 1, 1]


# --- never half of a transaction ----------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
def test_the_sum_of_all_accounts_is_constant(bank: Bank, tmp_path: Path, stored: bool) -> None:
    """Threads and tasks move money, and every reader, of either kind, finds all of it."""
    accounts, total = 8, 8 * 100
    with bank.app.open(tmp_path / "store" if stored else None) as k:
        ids = [r.id for r in k.handle_all([bank.enter(f"A{i}", 100) for i in range(accounts)], TESTER)]
        over = threading.Event()

        def move(start: int) -> None:
            futures = []
            for i in range(400):
                one, two = ids[(start + i) % accounts], ids[(start + 3 * i + 1) % accounts]
                futures.append(k.submit(bank.transfer(one, two, i % 3), TESTER))
                if i % 20 == 0:
                    k.handle_all([bank.transfer(one, two, 2), bank.transfer(two, one, 1)], TESTER)
            for future in futures:
                assert not isinstance(future.exception(30), klerk.StoreFailed)

        def read() -> int:
            count = 0
            while not over.is_set():
                with k.read(Context(User("reader"))) as r:
                    assert int(r.columns(bank.accounts, "balance")[0].sum()) == total
                    assert sum(r.get(id).balance for id in ids) == total
                    assert sum(m.balance for m in r.list(bank.active)) == total
                count += 1
            return count

        async def read_in_tasks() -> int:
            async def one() -> int:
                count = 0
                while not over.is_set():
                    async with k.aio.read(TESTER) as r:
                        assert sum(r.get(id).balance for id in ids) == total
                        await asyncio.sleep(0)
                        assert sum(r.get(id).balance for id in ids) == total
                    count += 1
                return count

            return sum(await asyncio.gather(*(one() for _ in range(3))))

        readers = [Spawned(read), Spawned(read), Spawned(lambda: asyncio.run(read_in_tasks()))]
        movers = [Spawned(move, i) for i in range(3)]
        try:
            for mover in movers:
                mover.end(60)
        finally:
            over.set()
        assert all(reader.end() > 0 for reader in readers)
        assert k.sequence > 1_000


@pytest.mark.parametrize("how", ["enter", "with", "snapshot"])
def test_rules_cannot_read_what_is_published(bank: Bank, how: str) -> None:
    """A read that a rule began and did not end would hold up publishing for ever."""
    opened: list[Klerk] = []

    @bank.deposit.rule
    def look(a: Args[Account], amount: int) -> bool:
        (k,) = opened
        if how == "enter":
            k.read(TESTER).__enter__()
        elif how == "snapshot":
            k.snapshot(TESTER)
        else:
            with k.read(TESTER) as r:
                r.list(bank.active)
        return True

    with bank.app.open() as k:
        opened.append(k)
        ada = k.handle(bank.enter("Ada"), TESTER).id
        with pytest.raises(FunctionFailed) as caught:
            k.handle(bank.deposit(ada, 1), TESTER)
        assert isinstance(caught.value.__cause__, NotPure)
        assert "a.read" in caught.value.__cause__.hint
        # Nothing is held: the next command is published as always.
        k.handle(bank.rename(ada, "Eve"), TESTER)
        with k.read(TESTER) as r:
            assert r.get(ada).owner == "Eve"

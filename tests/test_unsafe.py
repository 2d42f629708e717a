"""Unsafe changes ask neither machines nor rules, keep the store sound, and stand in the commit log.

A bank that refuses everything is changed through the escape hatch, and looked at through the public API; the
commit log is read from the store itself, after it was closed or its process was killed.
"""

import asyncio
import logging
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Account, Bank, Clock, python_environment

import klerk
from klerk import MASKED, App, Args, Context, System, UnsafeCreate, UnsafeDelete, UnsafeUpdate, User
from klerk.audit.commit_log import transactions
from klerk.codec import UNSAFE_CREATE, UNSAFE_DELETE, UNSAFE_UPDATE
from klerk.storage import RocksStorage

REPAIR = Context(User("repair"), on_behalf_of=User("Ada"))


@pytest.fixture
def bank() -> Bank:
    """A bank in which nobody may do anything, no account is good enough, and every block fails."""
    bank = Bank()
    bank.app.deny.command()(lambda a: True)

    @bank.accounts.rule
    def good_enough(account: Account) -> bool:
        """It never is."""
        return False

    def fail(a: Args[Account]) -> None:
        raise AssertionError("a block was run")

    for state in (bank.active, bank.closed):
        state.on_enter.update(fail)
        state.on_exit.update(fail)
    return bank


def logged(path: Path) -> list[tuple[Any, ...]]:
    """Return (kind and id of the actor, on whose behalf, targets, parameters) of every transaction."""
    storage = RocksStorage.open(path, app="bank", durability="sync")
    try:
        found = []
        for each in transactions(storage):
            assert each.payload is not None
            found.append((each.head.actor[:2], each.head.behalf, each.head.targets, each.payload.parameters))
        return found
    finally:
        storage.close()


def test_models_are_created_changed_and_deleted_whatever_the_design_says(bank: Bank, tmp_path: Path) -> None:
    with bank.app.open(tmp_path / "store", unsafe=True) as k:
        with pytest.raises(klerk.Denied):
            k.handle(bank.enter("Ada"), TESTER)
        created = k.unsafe.create(Account(owner="Ada", balance=5), bank.closed, REPAIR)
        assert (created.id, created.sequence, created.repeated) == (1, 1, False)
        assert created.created == (created.model,)
        updated = k.unsafe.update(1, created.model.replace(balance=7), REPAIR)
        assert updated.updated == (updated.model,)
        assert (updated.model.balance, updated.model.meta.version) == (7, 2)
        assert updated.model.meta.state == bank.closed
        moved = k.unsafe.update(1, Account(owner="Ada L"), REPAIR, bank.active)
        assert (moved.model.owner, moved.model.balance, moved.model.meta.state) == ("Ada L", 0, bank.active)
        assert moved.model.meta.created_us == created.model.meta.created_us
        k.unsafe.create(Account(owner="Bob"), bank.active, REPAIR)
        gone = k.unsafe.delete(1, REPAIR)
        assert gone.deleted == (1,)
        assert bank.contents(k) == {2: ("Bob", 0, "active")}
        with k.read(TESTER) as r:
            assert (r.find(bank.by_owner, "Bob").meta.id, r.find(bank.by_owner, "Ada L")) == (2, None)
    with bank.app.open(tmp_path / "store") as k:
        assert bank.contents(k) == {2: ("Bob", 0, "active")}
    actor, behalf = ("user", "repair"), ("user", "Ada")
    assert logged(tmp_path / "store") == [
        (actor, behalf, ((UNSAFE_CREATE, 1, 0),), ((),)),
        (actor, behalf, ((UNSAFE_UPDATE, 1, 0),), ((),)),
        (actor, behalf, ((UNSAFE_UPDATE, 1, 0),), ((),)),
        (actor, behalf, ((UNSAFE_CREATE, 2, 0),), ((),)),
        (actor, behalf, ((UNSAFE_DELETE, 1, 0),), ((),)),
    ]


def test_several_changes_are_one_transaction(bank: Bank, tmp_path: Path) -> None:
    with bank.app.open(tmp_path / "store", unsafe=True) as k:
        results = k.unsafe.handle_all(
            [
                UnsafeCreate(Account(owner="Ada"), bank.active),
                UnsafeCreate(Account(owner="Bob", guarantor=1), bank.active),
                UnsafeUpdate(1, Account(owner="Ada", balance=3), bank.closed),
            ],
            REPAIR,
        )
        assert [each.id for each in results] == [1, 2, 1]
        assert {each.sequence for each in results} == {1}
        before = bank.contents(k)
        with pytest.raises(klerk.Conflict, match="another Account"):
            k.unsafe.handle_all(
                [
                    UnsafeUpdate(2, Account(owner="Bobby")),
                    UnsafeDelete(1),
                    UnsafeCreate(Account(owner="Bobby"), bank.active),
                ],
                REPAIR,
            )
        assert bank.contents(k) == before
        assert k.unsafe.handle_all([], REPAIR) == []
        assert k.sequence == 1
        # Whoever refers to a model may go with it.
        k.unsafe.handle_all([UnsafeDelete(1), UnsafeDelete(2)], REPAIR)
        assert bank.contents(k) == {}
        assert k.unsafe.create(Account(owner="Eve"), bank.active, REPAIR).id == 3


def test_values_references_and_unique_keys_are_checked(bank: Bank, tmp_path: Path) -> None:
    with bank.app.open(tmp_path / "store", unsafe=True) as k:
        k.unsafe.create(Account(owner="Ada"), bank.active, REPAIR)
        k.unsafe.create(Account(owner="Bob", guarantor=1), bank.active, REPAIR)
        before = bank.contents(k)
        wrong: list[tuple[Account, type[klerk.KlerkError]]] = [
            (Account(owner=""), klerk.InvalidValue),
            (Account(owner="x" * 41), klerk.InvalidValue),
            (Account(owner=7), klerk.InvalidValue),
            (Account(owner="Eve", balance=-1), klerk.InvalidValue),
            (Account(owner="Eve", balance=MASKED), klerk.InvalidValue),
            (Account(owner="Eve", guarantor=99), klerk.BrokenReference),
            (Account(owner="Bob"), klerk.Conflict),
        ]
        for model, kind in wrong:
            with pytest.raises(kind):
                k.unsafe.create(model, bank.active, REPAIR)
            with pytest.raises(kind):
                k.unsafe.update(1, model, REPAIR)
        with pytest.raises(klerk.Conflict, match="refers to it"):
            k.unsafe.delete(1, REPAIR)
        assert bank.contents(k) == before
        assert k.sequence == 2
    with bank.app.open(tmp_path / "store") as k:
        assert bank.contents(k) == before


def test_what_makes_no_sense_is_refused(bank: Bank) -> None:
    other = Bank()
    ada = Account(owner="Ada")
    with bank.app.open(unsafe=True) as k:
        k.unsafe.create(ada, bank.active, REPAIR)
        # What the caller holds is never touched.
        with pytest.raises(AttributeError, match="draft"):
            _ = ada.meta
        refused: list[tuple[Any, type[klerk.KlerkError]]] = [
            (UnsafeCreate(Account, bank.active), klerk.ArgumentError),
            (UnsafeCreate("Eve", bank.active), klerk.ArgumentError),
            (UnsafeCreate(Account(owner="Eve"), other.active), klerk.ArgumentError),
            (UnsafeCreate(Account(owner="Eve"), "active"), klerk.ArgumentError),
            (UnsafeCreate(Account(owner="Eve"), None), klerk.ArgumentError),
            (UnsafeUpdate(1, "Eve"), klerk.ArgumentError),
            (UnsafeUpdate(1, ada, other.active), klerk.ArgumentError),
            (UnsafeUpdate(2, ada), klerk.NotFound),
            (UnsafeUpdate(None, ada), klerk.NotFound),
            (UnsafeDelete(2), klerk.NotFound),
            (UnsafeDelete(ada), klerk.ArgumentError),
            (bank.enter("Eve"), klerk.ArgumentError),
            (UnsafeDelete, klerk.ArgumentError),
        ]
        for change, kind in refused:
            with pytest.raises(kind):
                k.unsafe.handle_all([change], REPAIR)
        with pytest.raises(klerk.NotFound):
            k.unsafe.handle_all([UnsafeDelete(1), UnsafeUpdate(1, ada)], REPAIR)
        with pytest.raises(klerk.ArgumentError, match="context"):
            k.unsafe.delete(1, "nobody")  # type: ignore[arg-type]
        with k.read(TESTER), pytest.raises(klerk.ReadLockHeld):
            k.unsafe.delete(1, REPAIR)
        assert bank.contents(k) == {1: ("Ada", 0, "active")}
    with pytest.raises(klerk.Closed):
        k.unsafe.delete(1, REPAIR)


def test_it_is_off_unless_it_is_switched_on(bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "klerk"), bank.app.open() as k:
        for use in (
            lambda: k.unsafe.create(Account(owner="Ada"), bank.active, REPAIR),
            lambda: k.unsafe.update(1, Account(owner="Ada"), REPAIR),
            lambda: k.unsafe.delete(1, REPAIR),
            lambda: k.unsafe.handle_all([], REPAIR),
            lambda: asyncio.run(k.aio.unsafe.delete(1, Context(System("repair")))),
        ):
            with pytest.raises(klerk.Denied, match="unsafe=True") as caught:
                use()
            assert caught.value.code == "unsafe_off"
        assert not caplog.records
        assert k.sequence == 0
    with caplog.at_level(logging.WARNING, "klerk"), bank.app.open(unsafe=True):
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "'bank' is open for unsafe changes" in caplog.text


def test_asyncio_has_the_same(bank: Bank) -> None:
    async def change(k: klerk.Klerk) -> None:
        unsafe = k.aio.unsafe
        ada = await unsafe.create(Account(owner="Ada"), bank.active, REPAIR)
        await unsafe.update(ada.id, Account(owner="Ada", balance=1), REPAIR, bank.closed)
        (bob,) = await unsafe.handle_all([UnsafeCreate(Account(owner="Bob"), bank.active)], REPAIR)
        gone = await unsafe.delete(bob.id, REPAIR)
        assert gone.deleted == (bob.id,)

    with bank.app.open(unsafe=True) as k:
        asyncio.run(change(k))
        assert bank.contents(k) == {1: ("Ada", 1, "closed")}


def test_timers_of_the_state_are_set_and_forgotten() -> None:
    app = App("bank")
    accounts = app.machine(Account)
    active, late = accounts.states("active", "late", final=("late",))
    accounts.create(into=active)(lambda a: Account(owner="Ada"))
    active.after(timedelta(days=1)).to(late)
    app.allow.read()(lambda a: True)
    app.allow.field()(lambda a: True)
    clock = Clock()
    with app.open(clock=clock, unsafe=True) as k:
        made = k.unsafe.create(Account(owner="Ada"), active, TESTER)
        assert made.model.meta.due_at == NOON + timedelta(days=1)
        clock.advance(timedelta(hours=1))
        changed = k.unsafe.update(made.id, Account(owner="Bob"), TESTER)
        assert changed.model.meta.due_at == NOON + timedelta(days=1)
        moved = k.unsafe.update(made.id, Account(owner="Bob"), TESTER, late)
        assert moved.model.meta.due_at is None
        back = k.unsafe.update(made.id, Account(owner="Bob"), TESTER, active)
        assert back.model.meta.due_at == NOON + timedelta(days=1, hours=1)


def test_a_token_notices_unsafe_changes(bank: Bank) -> None:
    bank = Bank()
    with bank.app.open(unsafe=True) as k:
        ada = k.unsafe.create(Account(owner="Ada"), bank.active, REPAIR).model
        token = k.token(ada)
        k.unsafe.update(ada.meta.id, ada, REPAIR)
        with pytest.raises(klerk.Conflict, match="version 2"):
            k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=token)


KILLED = """
import os
from designs import Account, Bank, TESTER
bank = Bank()
k = bank.app.open("store", unsafe=True)
for number in range(10):
    k.unsafe.create(Account(owner=f"owner {number}"), bank.closed, TESTER)
k.unsafe.update(3, Account(owner="Ada", guarantor=4), TESTER, bank.active)
k.unsafe.delete(5, TESTER)
os.write(1, b"done")
os.read(0, 1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    process: Any = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env=python_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout.read(4) == b"done"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        found = bank.contents(k)
        assert sorted(found) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
        assert found[3] == ("Ada", 0, "active")
        with pytest.raises(klerk.Conflict, match="refers"):
            k.handle(bank.remove(4), TESTER)
    codes = [targets[0][0] for _, _, targets, _ in logged(tmp_path / "store")]
    assert codes == [UNSAFE_CREATE] * 10 + [UNSAFE_UPDATE, UNSAFE_DELETE]

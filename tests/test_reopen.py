"""Closed and opened again, everything is as before; what does not fit is refused, whole and by name.

"Everything" is every model with its meta, every index entry, the next id and the sequence, after random
transactions. Designs that differ from the stored one are made by small changes to one that fits.
"""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Bank, Clock, Spawned, permit_everything, run_python

import klerk
from klerk import (
    App,
    Args,
    Closed,
    JobRun,
    KlerkError,
    Model,
    NotAStore,
    NotFound,
    Ref,
    SchemaChanged,
    StorageError,
    StoreLocked,
    WrongStore,
)

OWNERS = [f"N{i}" for i in range(30)]


def everything(bank: Bank, k: klerk.Klerk) -> Any:
    with k.read(TESTER) as r:
        models = list(r.list(bank.accounts))
        states = [[m.meta.id for m in r.list(state)] for state in (bank.active, bank.closed)]
        by_owner = [r.find(bank.by_owner, owner) for owner in OWNERS]
        by_balance = [[m.meta.id for m in r.list(bank.by_balance(balance))] for balance in range(10)]
    metas = [
        (
            m.meta.id,
            str(m.meta.state),
            m.meta.version,
            m.meta.created_at,
            m.meta.updated_at,
            m.meta.entered_at,
        )
        for m in models
    ]
    return models, metas, states, by_owner, by_balance, k.sequence


def random_command(bank: Bank, rng: random.Random) -> Any:
    id: Any = rng.randrange(1, 25)
    owner = rng.choice(OWNERS)
    return rng.choice(
        [
            bank.enter(owner, rng.randrange(10)),
            bank.enter(owner, 1, id),
            bank.deposit(id, 1),
            bank.rename(id, owner),
            bank.close(id),
            bank.reopen(id),
            bank.remove(id),
            bank.transfer(id, rng.randrange(1, 25), 1),
        ]
    )


@pytest.mark.parametrize("durability", ["sync", "process"])
def test_everything_is_as_before(tmp_path: Path, rng: random.Random, durability: Any) -> None:
    bank, clock = Bank(), Clock()
    before: Any = ([], [], [[], []], [None] * len(OWNERS), [[]] * 10, 0)
    for _ in range(4):
        with bank.app.open(tmp_path / "store", durability=durability, clock=clock) as k:
            assert everything(bank, k) == before
            for _ in range(5):
                futures = [k.submit(random_command(bank, rng), TESTER) for _ in range(30)]
                for future in futures:
                    assert future.exception(20) is None or isinstance(future.exception(), KlerkError)
                clock.advance(NOON - NOON.replace(hour=11, microsecond=1))
            before = everything(bank, k)
        bank = Bank()
        # The states belong to the design, which was made anew.
        with bank.app.open(tmp_path / "store", durability=durability, clock=clock) as k:
            again = everything(bank, k)
        assert again[1:3] + again[4:] == before[1:3] + before[4:]
        assert [m.as_dict() for m in again[0]] == [m.as_dict() for m in before[0]]
        before = again
    assert len(before[0]) > 3


def test_ids_are_not_given_again(tmp_path: Path) -> None:
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        first = k.handle(bank.enter("Ada"), TESTER).id
        newest = k.handle(bank.enter("Bob"), TESTER).id
        k.handle(bank.remove(newest), TESTER)
    with bank.app.open(tmp_path / "store") as k:
        assert set(bank.contents(k)) == {first}
        next_id = k.handle(bank.enter("Bob"), TESTER).id
        assert next_id == newest + 1
        with pytest.raises(NotFound):
            k.handle(bank.deposit(newest, 1), TESTER)
        k.handle_all([bank.remove(first), bank.remove(next_id)], TESTER)
    with bank.app.open(tmp_path / "store") as k:
        assert bank.contents(k) == {}
        assert k.handle(bank.enter("Bob"), TESTER).id == next_id + 1


def test_rules_about_references_and_keys_hold_after_reopening(tmp_path: Path) -> None:
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        bob = k.handle(bank.enter("Bob", 0, ada), TESTER).id
    with bank.app.open(tmp_path / "store") as k:
        with pytest.raises(klerk.Conflict, match="refers to it"):
            k.handle(bank.remove(ada), TESTER)
        with pytest.raises(klerk.Conflict, match="has 'Ada' already"):
            k.handle(bank.enter("Ada"), TESTER)
        k.handle_all([bank.remove(bob), bank.remove(ada), bank.enter("Ada")], TESTER)


def test_what_was_refused_is_not_there_after_reopening(tmp_path: Path) -> None:
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        ada = k.handle(bank.enter("Ada", 1), TESTER).id
        futures = [k.submit(bank.withdraw(ada, 1), TESTER) for _ in range(5)]
        assert sum(future.exception(20) is None for future in futures) == 1
        k.check(bank.enter("Bob"), TESTER)
    with bank.app.open(tmp_path / "store") as k:
        assert (bank.contents(k), k.sequence) == ({ada: ("Ada", 0, "active")}, 2)


def test_an_app_without_a_path_keeps_nothing() -> None:
    bank = Bank()
    with bank.app.open() as k:
        k.handle(bank.enter("Ada"), TESTER)
    with bank.app.open() as k:
        assert bank.contents(k) == {}


def test_a_checkpoint_is_a_store_of_its_own(tmp_path: Path) -> None:
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        k.checkpoint(tmp_path / "copy")
        k.handle(bank.deposit(ada, 1), TESTER)
        assert k.storage_bytes() > 0
        with bank.app.open(tmp_path / "copy") as other:
            assert bank.contents(other) == {ada: ("Ada", 0, "active")}
            other.handle(bank.rename(ada, "Eve"), TESTER)
        assert bank.contents(k) == {ada: ("Ada", 1, "active")}


# --- what is no store for this app --------------------------------------------------------------------


def test_a_store_is_opened_once(tmp_path: Path) -> None:
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        with pytest.raises(StoreLocked, match="store"):
            bank.app.open(tmp_path / "store")
        code = "from designs import Bank\nBank().app.open('store')"
        other = run_python("-c", code, cwd=tmp_path)
        assert other.returncode == 1
        assert "klerk.StoreLocked" in other.stderr
        k.handle(bank.enter("Ada"), TESTER)
    with bank.app.open(tmp_path / "store") as k:
        assert len(bank.contents(k)) == 1


def test_a_store_of_another_app(tmp_path: Path) -> None:
    bank = Bank()
    bank.app.open(tmp_path / "store").close()
    other = Bank()
    other.app.name = "insurance"
    with pytest.raises(WrongStore, match="'bank', not to 'insurance'") as caught:
        other.app.open(tmp_path / "store")
    assert isinstance(caught.value, StorageError)
    assert isinstance(caught.value, OSError)
    bank.app.open(tmp_path / "store").close()


def test_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    for name in ("file", "photos", "missing/store"):
        with pytest.raises(NotAStore, match=name.split("/")[0]):
            Bank().app.open(tmp_path / name)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    assert not (tmp_path / "missing").exists()


# --- designs that changed -----------------------------------------------------------------------------


class Shop:
    """A design of which tests change a part: the fields of `Item`, the states, the events, the jobs."""

    def __init__(
        self,
        item: type[Model],
        states: tuple[str, ...] = ("new", "old"),
        name: str = "Item",
        **values: Any,
    ) -> None:
        item.__name__ = name
        self.app = App("shop")
        self.items = self.app.machine(item)
        self.states = self.items.states(*states, final=states[1:])
        permit_everything(self.app)

        @self.items.create(into=self.states[0])
        def make(a: Args) -> Any:
            return item(**values)

        @self.items.event(self.states[0])
        def age(a: Args) -> None: ...

        for i, state in enumerate(self.states[1:]):
            self.items.event(self.states[0], to=state)(self._named(f"go_{i}"))
        self.make = make

    @staticmethod
    def _named(name: str) -> Callable[[Args], None]:
        def go(a: Args) -> None: ...

        go.__name__ = name
        return go

    def found(self, k: klerk.Klerk) -> list[dict[str, Any]]:
        with k.read(TESTER) as r:
            return [dict(item.as_dict(), state=str(item.meta.state)) for item in r.list(self.items)]


class Stored(Model):
    size: int
    text: str
    maybe: float | None = None


@pytest.fixture
def store(tmp_path: Path) -> Path:
    shop = Shop(Stored, size=1, text="x")
    with shop.app.open(tmp_path / "store") as k:
        k.handle(shop.make(), TESTER)
    return tmp_path / "store"


class SizeGone(Model):
    text: str
    maybe: float | None = None


class SizeIsText(Model):
    size: str
    text: str
    maybe: float | None = None


class Swapped(Model):
    text: str
    size: int
    maybe: float | None = None


class MoreWithoutDefault(Model):
    size: int
    text: str
    maybe: float | None
    more: int


class NoLongerOptional(Model):
    size: int
    text: str
    maybe: float = 0.0


class ManyThings(Model):
    text: int
    size: float
    more: int


@pytest.mark.parametrize(
    ("item", "differences"),
    [
        (SizeGone, ["the field Item.size is no longer declared"]),
        (SizeIsText, ["the field Item.size was int and is str"]),
        (Swapped, ["the field Item.size is no longer number 1", "the field Item.text is no longer number 2"]),
        (MoreWithoutDefault, ["the new field Item.more has no default"]),
        (NoLongerOptional, ["the field Item.maybe was float? and is float"]),
        (
            ManyThings,
            [
                "the field Item.size was int and is float",
                "the field Item.text was str and is int",
                "the field Item.maybe is no longer declared",
            ],
        ),
    ],
)
def test_fields_that_changed(store: Path, item: type[Model], differences: list[str]) -> None:
    with pytest.raises(SchemaChanged) as caught:
        Shop(item).app.open(store)
    for difference in differences:
        assert f"\n  - {difference}" in str(caught.value)
    assert isinstance(caught.value, StorageError)
    # The store was not touched, and is not held.
    shop = Shop(Stored, size=1, text="x")
    with shop.app.open(store) as k:
        assert shop.found(k) == [{"size": 1, "text": "x", "maybe": None, "state": "new"}]


def test_states_and_models_that_are_gone(store: Path) -> None:
    with pytest.raises(SchemaChanged, match=r"the state Item\.old is no longer declared"):
        Shop(Stored, ("new", "other")).app.open(store)
    with pytest.raises(SchemaChanged, match="the model Item is no longer declared"):
        Shop(Stored, name="Thing").app.open(store)
    Shop(Stored, size=1, text="x").app.open(store).close()


class More(Model):
    size: int
    text: str
    maybe: float | None = None
    more: tuple[int, ...] = (1, 2)
    reference: Ref["More"] | None = None


class Wider(Model):
    size: int | None
    text: str
    maybe: float | None = None


class Bounded(Model):
    size: "Big"
    text: str
    maybe: float | None = None


class Big(klerk.Int, ge=100): ...


def test_a_new_field_with_a_default(store: Path) -> None:
    shop = Shop(More, size=2, text="y", more=(3,))
    with shop.app.open(store) as k:
        k.handle(shop.make(), TESTER)
        assert [(item["more"], item["reference"]) for item in shop.found(k)] == [((1, 2), None), ((3,), None)]
    with shop.app.open(store) as k:
        assert [item["size"] for item in shop.found(k)] == [1, 2]
    with pytest.raises(SchemaChanged, match=r"the field Item\.more is no longer declared"):
        Shop(Stored).app.open(store)


def test_a_field_that_may_be_none_now(store: Path) -> None:
    shop = Shop(Wider, size=None, text="y")
    with shop.app.open(store) as k:
        k.handle(shop.make(), TESTER)
        assert [item["size"] for item in shop.found(k)] == [1, None]


def test_bounds_hold_for_new_values_alone(store: Path) -> None:
    """What is stored stays as it is, until an event changes it."""
    shop = Shop(Bounded, size=100, text="y")
    with shop.app.open(store) as k:
        k.handle(shop.make(), TESTER)
        assert [item["size"] for item in shop.found(k)] == [1, 100]


def test_new_states_events_models_and_jobs(store: Path) -> None:
    shop = Shop(Stored, ("new", "fresh", "old"), size=2, text="y")

    class Extra(Model):
        size: int

    extras = shop.app.machine(Extra)
    (there,) = extras.states("there")

    @extras.create(into=there)
    def build(a: Args) -> Extra:
        return Extra(size=1)

    @shop.app.job()
    def work(job: JobRun) -> None: ...

    with shop.app.open(store) as k:
        k.handle_all([shop.make(), build()], TESTER)
        assert [item["state"] for item in shop.found(k)] == ["new", "new"]
        assert k.handle(shop.items.events[2](2), TESTER).model.meta.state.name == "fresh"  # type: ignore[arg-type, operator]
    # The states' order may differ from the stored one.
    with Shop(Stored, ("new", "old", "fresh")).app.open(store.parent / "other"):
        pass
    with shop.app.open(store) as k:
        assert [item["state"] for item in shop.found(k)] == ["new", "fresh"]


def test_an_index_made_later_covers_what_is_stored(tmp_path: Path) -> None:
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        k.handle_all([bank.enter("Ada", 7), bank.enter("Bob", 7)], TESTER)
    bank = Bank()
    by_initial = bank.accounts.index(lambda account: account.owner[0])
    with bank.app.open(tmp_path / "store") as k, k.read(TESTER) as r:
        assert r.count(by_initial("A")) == 1


def test_a_unique_index_made_later_that_does_not_hold_is_named(tmp_path: Path) -> None:
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        k.handle_all([bank.enter("Ada", 7), bank.enter("Bob", 7)], TESTER)
    bank = Bank()
    bank.accounts.index(lambda account: account.balance, unique=True)
    with pytest.raises((SchemaChanged, klerk.Conflict), match="7"):
        bank.app.open(tmp_path / "store")
    Bank().app.open(tmp_path / "store").close()


# --- after closing ------------------------------------------------------------------------------------


def test_after_closing_everything_is_refused(tmp_path: Path) -> None:
    bank = Bank()
    k = bank.app.open(tmp_path / "store")
    ada = k.handle(bank.enter("Ada"), TESTER)
    with k.read(TESTER) as r:
        model = r.get(ada.id)
    k.close()
    k.close()
    assert repr(k) == "<klerk 'bank', closed>"
    command = bank.deposit(ada.id, 1)
    for use in (
        lambda: k.handle(command, TESTER),
        lambda: k.submit(command, TESTER),
        lambda: k.check(command, TESTER),
        lambda: k.handle_all([command], TESTER),
        lambda: k.read(TESTER),
        lambda: k.aio.read(TESTER),
        lambda: k.checkpoint(tmp_path / "copy"),
        k.storage_bytes,
    ):
        with pytest.raises(Closed):
            use()
    assert (model.owner, ada.id, ada.sequence) == ("Ada", 1, 1)
    assert not (tmp_path / "copy").exists()


async def test_after_closing_the_asyncio_face_refuses(tmp_path: Path) -> None:
    bank = Bank()
    with bank.app.open() as k:
        pass
    command = bank.enter("Ada")
    for use in (
        k.aio.handle(command, TESTER),
        k.aio.submit(command, TESTER),
        k.aio.check(command, TESTER),
        k.aio.handle_all([command], TESTER),
    ):
        with pytest.raises(Closed):
            await use


def test_closing_finishes_what_was_submitted(tmp_path: Path) -> None:
    bank = Bank()
    k = bank.app.open(tmp_path / "store")
    futures = [k.submit(bank.enter(f"A{i}"), TESTER) for i in range(500)]
    closers = [Spawned(k.close) for _ in range(3)]
    for closer in closers:
        closer.end()
    assert [future.result(0).sequence for future in futures] == list(range(1, 501))
    with bank.app.open(tmp_path / "store") as k:
        assert len(bank.contents(k)) == 500


def test_closing_while_others_submit(tmp_path: Path) -> None:
    """Each command is either done and kept, or refused as closed: nothing in between."""
    bank = Bank()
    k = bank.app.open(tmp_path / "store")
    started = threading.Barrier(5)

    def work(number: int) -> int:
        started.wait(20)
        for i in range(100_000):
            try:
                k.handle(bank.enter(f"{number}-{i}"), TESTER)
            except Closed:
                return i
        raise AssertionError("never closed")

    threads = [Spawned(work, number) for number in range(4)]
    started.wait(20)
    k.close()
    done = [thread.end() for thread in threads]
    with bank.app.open(tmp_path / "store") as k:
        owners = {owner for owner, _, _ in bank.contents(k).values()}
    assert owners == {f"{number}-{i}" for number, count in enumerate(done) for i in range(count)}


def test_no_threads_are_left() -> None:
    bank = Bank()

    @bank.app.job()
    def plain(job: JobRun) -> None: ...

    @bank.app.job()
    async def coroutine(job: JobRun) -> None: ...

    bank.enter.unmanaged_job(lambda a: None)
    before = set(threading.enumerate())
    for _ in range(3):
        with bank.app.open() as k:
            k.handle(bank.enter("Ada"), TESTER)
            k.jobs.schedule(plain(), coroutine())
    assert set(threading.enumerate()) == before


def test_a_klerk_that_cannot_be_opened_leaves_nothing_behind(tmp_path: Path) -> None:
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        k.handle(bank.enter("Ada"), TESTER)
    broken = Bank()
    broken.accounts.index(lambda account: 1 // 0)
    before = set(threading.enumerate())
    for _ in range(3):
        with pytest.raises(klerk.FunctionFailed, match=r"test_reopen\.py.*ZeroDivisionError"):
            broken.app.open(tmp_path / "store")
    assert set(threading.enumerate()) == before
    with bank.app.open(tmp_path / "store") as k:
        assert len(bank.contents(k)) == 1


def test_progress_of_a_long_load_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        k.handle(bank.enter("Ada"), TESTER)
    bank.app.open(tmp_path / "store", progress=True).close()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("klerk.limits.PROGRESS_AFTER_S", -1.0)
    bank.app.open(tmp_path / "store", progress=False).close()
    assert capsys.readouterr().err == ""
    bank.app.open(tmp_path / "store", progress=True).close()
    assert "loading models" in capsys.readouterr().err

"""Views withstand those who mean harm: no value stops the store, nothing hidden shows, no race loses a model.

Each test does what a hostile user, an unlucky moment or a careless design would do: sorting by the largest
values that there are, asking for what is hidden in every roundabout way, guessing cursors, opening many
snapshots, and changing models while transactions look at them.
"""

import base64
import decimal
import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, permit_everything

import klerk
from klerk import App, Args, ArgumentError, Closed, ConfigError, Context, Denied, KlerkError, Model, Ref, User
from klerk.__main__ import main
from klerk.reading.snapshots import Chapter

GUEST = Context(User("guest"))
EXTREMES: dict[Any, list[Any]] = {
    int: [0, -(2**63), 2**63 - 1, 2**63 - 2, 2**53, 2**53 + 1],
    float: [0.0, -0.0, sys.float_info.max, -sys.float_info.max, 5e-324],
    Decimal: [Decimal(text) for text in ("1", "1E+500", "-1E-5000", "-0", "0.1", "0.10", f"0.1{'0' * 80}1")],
    timedelta: [timedelta(), timedelta.max, timedelta.min, timedelta.resolution],
    datetime: [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)],
    date: [date.max, date.min],
    str: ["", "\0", "\0\0", "\0\xff", "a", "a\0", "\U0010ffff"],
    bytes: [b"", b"\0", b"\xff", b"\0\xff"],
    tuple[int, ...]: [(), (0,), (0, 0), (1,), (-1, 9)],
    tuple[str | None, Decimal]: [(None, Decimal(1)), ("", Decimal("1E+999")), ("a", Decimal(0))],
}


def simple(field: Any) -> tuple[App, Any, Any, Any]:
    """An app with one class of models, which hold one value."""
    app = App("values")
    holder: Any = type("Holder", (Model,), {"__annotations__": {"value": field}})
    machine = app.machine(holder)
    (kept,) = machine.states("kept")
    permit_everything(app)

    def add(a: Args, value: Any) -> Any:
        return holder(value=value)

    add.__annotations__ = {"a": Args, "value": field, "return": holder}
    return app, machine, kept, machine.create(into=kept)(add)


def shows(value: Any) -> Any:
    """What values are compared by in tests: None comes first."""
    if isinstance(value, tuple):
        return tuple(((part is not None), shows(part) if part is not None else 0) for part in value)
    return value


@pytest.mark.parametrize("field", EXTREMES, ids=str)
def test_no_value_that_a_field_can_hold_stops_the_store(field: Any, rng: random.Random) -> None:
    app, machine, _, add = simple(field)
    declared = machine.order("-value")
    values = EXTREMES[field] * 2
    rng.shuffle(values)
    with app.open() as k:
        k.handle(add(values[0]), TESTER)
        with k.read(TESTER) as r:
            # From now on the order is kept, and follows what is published.
            r.query(machine, sort="value")
        for value in values[1:]:
            k.handle(add(value), TESTER)
        with k.read(TESTER) as r:
            up = [shows(m.value) for m in r.query(machine, sort="value")]
            down = [shows(m.value) for m in r.list(declared)]
        assert len(up) == len(down) == len(values)
        assert all(a <= b for a, b in pairwise(up))
        assert all(a >= b for a, b in pairwise(down))


def test_decimals_sort_exactly_whatever_the_context_of_a_thread(rng: random.Random) -> None:
    app, machine, _, add = simple(Decimal)
    digits = [rng.randrange(10**40) for _ in range(60)]
    values = [Decimal(rng.choice([1, -1]) * n).scaleb(rng.randrange(-60, 60)) for n in digits]
    values += [value.next_plus(decimal.Context(prec=60)) for value in values[:20]]
    with app.open() as k:
        k.handle(add(Decimal(0)), TESTER)
        for value in values[::2]:
            k.handle(add(value), TESTER)
        with decimal.localcontext() as context, k.read(TESTER) as r:
            # The committers, who follow the order that is made here, have contexts of their own.
            context.prec = 2
            r.query(machine, sort="value")
        for value in values[1::2]:
            k.handle(add(value), TESTER)
        with k.read(TESTER) as r:
            found = [m.value for m in r.query(machine, sort="value", limit=100)]
    with decimal.localcontext() as context:
        context.prec = 200
        assert found == sorted([Decimal(0), *values])


@pytest.mark.parametrize(
    "field", [tuple[frozenset[str], ...], tuple[int, frozenset[int]], frozenset[str] | None]
)
def test_what_has_no_order_inside_has_none(field: Any) -> None:
    app, machine, *_ = simple(field)
    with app.open() as k, k.read(TESTER) as r, pytest.raises(ArgumentError, match="has no order"):
        r.query(machine, sort="value")


# --- what is hidden -----------------------------------------------------------------------------------


class Pay(klerk.Int, tags={"secret"}): ...


class Base(Model):
    boss: Ref["Person"] | None = None


class Person(Base):
    name: str
    pay: Pay | None

    @property
    def is_rich(self) -> bool:
        return self.pay != 1

    def earns(self) -> bool:
        return self.pay is not None


class Firm:
    """People whose pay only the tester may see."""

    def __init__(self) -> None:
        self.app = App("firm")
        self.people = people = self.app.machine(Person)
        (self.hired,) = people.states("hired")
        permit_everything(self.app)
        self.app.deny.field(tag="secret")(lambda a: a.context.actor.id != "tester")
        self.by_earning = people.index(lambda m: m.pay is not None)
        self.views = [
            people.where(lambda m: m.pay is not None),
            people.where(lambda m: m.pay is None),
            people.where(lambda m: m.pay != 1),
            people.where(lambda m: not m.pay),
            people.where(lambda m: not isinstance(m.pay, int)),
            people.where(lambda m: getattr(m, "pay", None) != 1),
            people.where(lambda m: m.is_rich),
            people.where(lambda m: m.earns()),
            people.where(lambda m: m != people),
            self.hired.where(lambda m: m.name < "x").where(lambda m: m.pay != 7),
            self.by_earning(True),
            self.by_earning(False),
        ]
        self.orders = [
            people.order("pay"),
            people.order(lambda m: m.pay is None),
            people.order(lambda m: (m.is_rich, m.name)),
        ]
        self.harmless = people.where(lambda m: isinstance(m, Person) and m.name > "a" and m.meta.version == 1)

        @people.create(into=self.hired)
        def hire(a: Args, name: str, pay: Pay | None, boss: Ref[Person] | None = None) -> Person:
            return Person(name=name, pay=pay, boss=boss)

        self.hire = hire


def test_no_question_about_what_is_hidden_is_answered() -> None:
    firm = Firm()
    with firm.app.open() as k:
        for number, pay in enumerate([None, 1, 2]):
            k.handle(firm.hire(f"person {number}", pay), TESTER)
        with k.read(GUEST) as r, k.snapshot(GUEST) as s:
            for reader in (r, s, r.readable, s.readable):
                for view in firm.views:
                    found = (list(reader.list(view)), reader.count(view), list(reader.query(view)))
                    assert found == ([], 0, []), view
                    assert not reader.exists(view)
                assert reader.find(firm.by_earning, True) is None
                for order in firm.orders:
                    for read in (reader.list, reader.first, reader.query):
                        with pytest.raises(Denied):
                            read(order)
                assert reader.count(firm.harmless) == 3
        with k.read(TESTER) as r:
            assert [r.count(view) for view in firm.views[:3]] == [2, 1, 2]


def test_cursors_tell_nothing_about_an_order_that_is_hidden() -> None:
    firm = Firm()
    by_pay = firm.orders[0]
    with firm.app.open() as k:
        for pay in range(5):
            k.handle(firm.hire("x", pay), TESTER)
        with k.read(TESTER) as r:
            first = r.query(by_pay, limit=4)
            last = r.query(by_pay, limit=5)
            assert first.next is not None
            assert last.next is None
            # The cursor of the last one: where there is nothing left to be denied.
            end = r.query(by_pay, limit=1, after=first.next).previous
        with k.read(GUEST) as r:
            for cursor in (first.next, end):
                with pytest.raises(Denied):
                    r.query(by_pay, before=cursor)
                with pytest.raises(Denied):
                    r.query(by_pay, after=cursor)


def test_cursors_cannot_be_made_by_others() -> None:
    firm = Firm()
    with firm.app.open() as k:
        k.handle(firm.hire("x", 1), TESTER)
        for entry in (b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 8):
            for length in (8, 12, 16):
                digest = sha256(repr(firm.people).encode() + b"\0" + entry).digest()[:length]
                forged = base64.urlsafe_b64encode(digest + entry).decode().rstrip("=")
                with k.read(TESTER) as r, pytest.raises(ArgumentError, match="is no cursor of"):
                    r.query(firm.people, after=forged)


def test_cursors_hold_after_a_restart_and_in_no_other_store(tmp_path: Path) -> None:
    firm = Firm()
    with firm.app.open(tmp_path / "a") as k:
        k.handle_all([firm.hire("x", pay) for pay in range(3)], TESTER)
        with k.read(TESTER) as r:
            cursor = r.query(firm.people, limit=1).next
    with firm.app.open(tmp_path / "a") as k, k.read(TESTER) as r:
        assert [m.pay for m in r.query(firm.people, after=cursor)] == [1, 2]
    with firm.app.open(tmp_path / "b") as k, k.read(TESTER) as r:  # noqa: SIM117
        with pytest.raises(ArgumentError, match="is no cursor of"):
            r.query(firm.people, after=cursor)


def test_inherited_references_relate() -> None:
    firm = Firm()
    with firm.app.open() as k:
        boss = k.handle(firm.hire("boss", 1), TESTER).id
        k.handle(firm.hire("x", 1, boss), TESTER)
        with k.read(TESTER) as r:
            assert [m.name for m in r.related(boss, Person.boss)] == ["x"]


# --- what is asked for wrongly ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"limit": True},
        {"limit": 2.0},
        {"limit": None},
        {"limit": "5"},
        {"sort": 5},
        {"sort": ()},
        {"sort": ["name", str]},
        {"sort": ""},
        {"sort": "-"},
        {"sort": "--name"},
        {"sort": "_meta"},
        {"descending": True},
        {"where": "name"},
        {"after": 5},
        {"before": b"x"},
    ],
    ids=repr,
)
def test_queries_name_what_is_wrong_with_them(options: dict[str, Any]) -> None:
    firm = Firm()
    with firm.app.open() as k:
        k.handle(firm.hire("x", 1), TESTER)
        with k.read(TESTER) as r, pytest.raises(ArgumentError) as caught:
            r.query(firm.people, **options)
        assert caught.value.hint


async def is_ready(model: Any) -> bool:
    return True


@pytest.mark.parametrize("given", [None, "price", is_ready], ids=["None", "text", "coroutine"])
def test_views_and_indexes_take_functions_only(given: Any) -> None:
    people = Firm().people
    for declare in (people.where, people.order("name").where, people.index):
        with pytest.raises(ConfigError, match=r"K017|K023"):
            declare(given)
    if given != "price":
        with pytest.raises(ConfigError, match="K017"):
            people.order(given)


def test_what_has_no_hash_is_no_key() -> None:
    firm = Firm()
    with firm.app.open() as k, k.read(TESTER) as r:
        for read in (lambda: r.find(firm.by_earning, []), lambda: r.list(firm.by_earning({}))):
            with pytest.raises(ArgumentError, match="cannot be a key"):
                read()


async def test_no_snapshot_is_opened_once_the_store_is_closed() -> None:
    app, machine, *_ = simple(int)
    with app.open() as k:
        pass
    with pytest.raises(Closed):
        k.snapshot(TESTER)
    with pytest.raises(Closed):
        async with k.aio.snapshot(TESTER) as s:
            s.list(machine)


DESIGN = """
import klerk
from klerk import Args, Model

class Item(Model):
    name: str
    price: int

app = klerk.App("shop")
items = app.machine(Item)
new, sold = items.states("new", "sold", final=("sold",))
new.where(lambda m: m.price > 5).order("-price", "name")
items.in_states(new, sold).order(lambda m: m.name.lower(), descending=True)
items.where(lambda m, least: m.price > least)

@items.create(into=new)
def add(a: Args, name: str, price: int) -> Item: ...

@items.event(new, to=sold)
def sell(a: Args[Item]) -> None: ...
"""


def test_the_design_shows_its_views(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "views_of_a_shop.py").write_text(DESIGN)
    assert main(["show", str(tmp_path / "views_of_a_shop.py")]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("  Views")
    assert [" ".join(line.split()) for line in lines[at + 1 : at + 5]] == [
        "new if price > 5",
        "new if price > 5 by -price, name",
        "all if in new or sold",
        "all if in new or sold by name.lower(), turned round",
    ]


# --- conditions that are not pure ---------------------------------------------------------------------


def test_a_condition_that_is_not_pure_leaves_nothing_of_what_is_deleted() -> None:
    app, machine, kept, add = simple(int)
    answers = iter([True, False, True, True] * 99)
    order = iter(range(999))
    filtered = machine.where(lambda m: next(answers))
    ordered = machine.order(lambda m: next(order))

    def drop(a: Args[Any]) -> None: ...

    dropped = machine.event(kept)(drop)
    kept.on(dropped).delete()
    with app.open() as k:
        ids = [k.handle(add(n), TESTER).id for n in range(8)]
        for id in ids:
            k.handle(dropped(id), TESTER)
        with k.read(TESTER) as r, k.snapshot(TESTER) as s:
            assert list(r.list(filtered)) == list(s.list(filtered)) == []
            assert r.count(filtered) == s.count(filtered) == 0
            assert list(r.list(ordered)) == []


# --- snapshots ----------------------------------------------------------------------------------------


def test_a_snapshot_that_was_refused_costs_nothing() -> None:
    app, _, _, add = simple(int)
    with app.open() as k:
        for _ in range(klerk.limits.SNAPSHOTS_MAX + 1):
            with pytest.raises(ArgumentError):
                k.snapshot("nobody")  # type: ignore[arg-type]
        k.handle(add(1), TESTER)
        k.snapshot(TESTER).close()
        assert chapters() == 0


def chapters() -> int:
    """How many lists of changes are held for snapshots."""
    gc.collect()
    return sum(type(each) is Chapter for each in gc.get_objects())


def changing() -> tuple[App, Any, Any, Any]:
    app, machine, kept, add = simple(int)

    def change(a: Args[Any], value: int) -> Any:
        return a.model.replace(value=value)

    change.__annotations__ = {"a": Args, "value": int, "return": machine.model_class}
    return app, machine, add, machine.event(kept)(change)


def test_a_long_snapshot_does_not_pay_for_short_ones(rng: random.Random) -> None:
    app, machine, add, change = changing()
    by_value = machine.order("value")
    with app.open() as k:
        ids = [k.handle(add(n), TESTER).id for n in range(20)]
        expected = list(range(20))
        held: list[tuple[Any, list[int]]] = []
        long = k.snapshot(TESTER)
        now = dict(zip(ids, expected, strict=True))
        for number in range(200):
            if rng.random() < 0.5:
                held.append((k.snapshot(TESTER), [now[id] for id in ids]))
            id, value = rng.choice(ids), rng.randrange(1000)
            k.handle(change(id, value), TESTER)
            now[id] = value
            if len(held) > 5:
                held.pop(rng.randrange(len(held)))[0].close()
            if number % 20 == 0:
                for snapshot, values in [(long, expected), *held]:
                    assert [m.value for m in snapshot.list(machine)] == values
                    assert [m.value for m in snapshot.list(by_value)] == sorted(values)
                    assert [m.value for m in snapshot.query(machine, sort="-value")] == sorted(values)[::-1]
                    assert [snapshot.get(id).value for id in ids] == values
        for snapshot, _ in held:
            snapshot.close()
        k.snapshot(TESTER).close()
        # That of the long one, and that of the one just closed.
        assert chapters() == 2
        assert [m.value for m in long.list(machine)] == expected
        long.close()
        assert chapters() == 0


def test_several_threads_read_one_snapshot_while_all_changes() -> None:
    app, machine, add, change = changing()
    by_value = machine.order("value")
    with app.open() as k:
        ids = [k.handle(add(n), TESTER).id for n in range(200)]
        wrong: list[Any] = []
        stop = threading.Event()

        def look(snapshot: Any) -> None:
            while not stop.is_set():
                cursor, seen = None, []
                while True:
                    page = snapshot.query(by_value, limit=7, after=cursor)
                    seen += [m.value for m in page]
                    cursor = page.next
                    if cursor is None:
                        break
                if seen != list(range(200)):
                    wrong.append(seen)

        with k.snapshot(TESTER) as s:
            threads = [threading.Thread(target=look, args=(s,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for turn in range(5):
                for submission in [k.submit(change(id, id * 7919 % 997 + turn), TESTER) for id in ids]:
                    submission.result()
            stop.set()
            for thread in threads:
                thread.join()
        assert not wrong


# --- races --------------------------------------------------------------------------------------------


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_transactions_see_every_model_while_others_are_published(restless: None) -> None:
    firm = Firm()
    people = firm.people
    views = [people.where(lambda m: True) for _ in range(3)] + [people.order(lambda m: m.name)]
    wrong: list[Any] = []

    @firm.hire.rule
    def all_views_agree(a: Args) -> bool:
        here = len(a.read.list(people))
        for view in views:
            counts = (len(a.read.list(view)), a.read.count(view), len(a.read.query(view, limit=10_000)))
            if counts != (here, here, here):
                wrong.append((view, here, counts))
        return True

    @firm.people.event(firm.hired)
    def leave(a: Args[Person]) -> None: ...

    firm.hired.on(leave).delete()
    with firm.app.open() as k:
        for _ in range(10):
            hired = [k.submit(firm.hire(f"{n}", n), TESTER) for n in range(60)]
            left = [k.submit(leave(submission.result().id), TESTER) for submission in hired]
            for submission in left:
                submission.result()
    assert not wrong


def test_transactions_see_who_refers_while_others_are_published(restless: None) -> None:
    """One refers to the hub at any time: in each transaction another one takes its place."""
    firm = Firm()
    wrong: list[int] = []

    @firm.people.event(firm.hired)
    def follow(a: Args[Person], boss: Ref[Person] | None) -> Person:
        return a.model.replace(boss=boss)

    def hand_over(giver: Any, taker: Any, hub: Any) -> Callable[[Args], Any]:
        def commands(a: Args) -> Any:
            found = len(a.read.related(hub))
            if found != 1:
                wrong.append(found)
            return [follow(giver, None), follow(taker, hub)]

        return commands

    with firm.app.open() as k:
        hub = k.handle(firm.hire("hub", 1), TESTER).id
        ids = [k.handle(firm.hire(f"{n}", n), TESTER).id for n in range(2)]
        k.handle(follow(ids[0], hub), TESTER)
        failures: list[KlerkError] = []

        def change(turns: int) -> None:
            for _ in range(turns):
                try:
                    k.handle_all(swap, TESTER)
                except KlerkError as error:
                    failures.append(error)

        def swap(a: Args) -> Any:
            holder = [m.meta.id for m in a.read.related(hub)]
            if len(holder) != 1:
                wrong.append(len(holder))
                return None
            return hand_over(holder[0], ids[holder[0] == ids[0]], hub)(a)

        threads = [threading.Thread(target=change, args=(150,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert not wrong

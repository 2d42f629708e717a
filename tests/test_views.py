"""Views, queries, related models and snapshots give what a list of all models, sorted and filtered, would.

A shop of items is changed at random, and every kind of read is compared with a brute-force answer: by
readers, inside of transactions before anything is published, by snapshots of earlier moments, and after a
restart.
"""

import random
import string
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, permit_everything

import klerk
from klerk import (
    MASKED,
    App,
    Args,
    ArgumentError,
    Context,
    Denied,
    FunctionFailed,
    Klerk,
    LimitExceeded,
    Model,
    NotFound,
    ReaderClosed,
    Ref,
    User,
)

START = datetime(2024, 1, 1, tzinfo=UTC)


class Kind(klerk.Enum):
    BOOK = "book"
    GAME = "game"


class Secret(klerk.Int, tags={"secret"}): ...


FREE = Secret(0)


class Shelf(Model):
    label: str


class Item(Model):
    title: str
    price: int
    weight: float | None
    due: datetime | None
    kind: Kind
    rebate: Decimal
    tags: frozenset[str]
    shelf: Ref[Shelf] | None = None
    spare: Ref[Shelf] | None = None
    cost: Secret = FREE


class Shop:
    """Items in three states on shelves, with every kind of view of them."""

    def __init__(self) -> None:
        self.app = App("shop")
        self.shelves = self.app.machine(Shelf)
        (self.there,) = self.shelves.states("there")
        self.items = items = self.app.machine(Item)
        self.new, self.used, self.gone = items.states("new", "used", "gone")
        permit_everything(self.app)

        @self.shelves.create(into=self.there)
        def build(a: Args, label: str) -> Shelf:
            return Shelf(label=label)

        @items.create(into=self.new)
        def add(
            a: Args,
            title: str,
            price: int,
            weight: float | None,
            due: datetime | None,
            kind: Kind,
            rebate: Decimal,
            tags: frozenset[str],
            shelf: Ref[Shelf] | None = None,
            spare: Ref[Shelf] | None = None,
            cost: Secret = FREE,
        ) -> Item:
            return Item(**a.parameters)

        @items.event(self.new, self.used, self.gone)
        def change(a: Args[Item], title: str, price: int, weight: float | None) -> Item:
            return a.model.replace(title=title, price=price, weight=weight)

        @items.event(self.new, self.used, self.gone)
        def put(a: Args[Item], shelf: Ref[Shelf] | None, spare: Ref[Shelf] | None) -> Item:
            return a.model.replace(shelf=shelf, spare=spare)

        @items.event(self.new, self.gone, to=self.used)
        def use(a: Args[Item]) -> None: ...

        @items.event(self.new, self.used, to=self.gone)
        def lose(a: Args[Item]) -> None: ...

        @items.event(self.new, self.used, self.gone)
        def drop(a: Args[Item]) -> None: ...

        for state in (self.new, self.used, self.gone):
            state.on(drop).delete()
        self.build, self.add, self.change, self.put = build, add, change, put
        self.use, self.lose, self.drop = use, lose, drop
        self.by_tag = items.index(lambda m: m.tags, each=True)
        self.by_kind = items.index(lambda m: m.kind)
        here = items.in_states(self.new, self.used)
        cheap = items.where(lambda m: m.price < 50)
        dear = cheap_not = items.where(lambda m: m.price >= 50)
        by_price = items.order("price")
        light_first = here.order("-weight", "title")
        below = items.where(price_below)
        # Each view with the condition and the sort key that say the same without it.
        self.views: dict[str, tuple[Any, Callable[[Item], bool], Callable[[Item], Any]]] = {
            "machine": (items, always, by_id),
            "state": (self.used, lambda m: m.meta.state == self.used, by_id),
            "states": (here, lambda m: m.meta.state != self.gone, by_id),
            "filter": (cheap, lambda m: m.price < 50, by_id),
            "filter of a state": (
                self.new.where(lambda m: m.kind is Kind.GAME),
                lambda m: m.meta.state == self.new and m.kind is Kind.GAME,
                by_id,
            ),
            "chain": (
                cheap_not.where(lambda m: m.weight is None).in_states(self.gone, self.new),
                lambda m: m.price >= 50 and m.weight is None and m.meta.state != self.used,
                by_id,
            ),
            "order": (by_price, always, lambda m: (m.price, m.meta.id)),
            "order turned round": (
                items.order("-price", "title"),
                always,
                lambda m: (-m.price, m.title, m.meta.id),
            ),
            "descending": (
                dear.order("price", descending=True),
                lambda m: m.price >= 50,
                lambda m: (-m.price, m.meta.id),
            ),
            "order by a function": (
                items.order(lambda m: (m.due or START, len(m.title))),
                always,
                lambda m: (m.due or START, len(m.title), m.meta.id),
            ),
            "order of some states": (
                light_first,
                lambda m: m.meta.state != self.gone,
                lambda m: (m.weight is None, -(m.weight or 0), m.title, m.meta.id),
            ),
            "filter of an order": (
                by_price.where(lambda m: m.kind is Kind.BOOK),
                lambda m: m.kind is Kind.BOOK,
                lambda m: (m.price, m.meta.id),
            ),
            "states of an order": (
                by_price.in_states(self.used),
                lambda m: m.meta.state == self.used,
                lambda m: (m.price, m.meta.id),
            ),
            "order by meta": (
                items.order("-state", "version", "rebate"),
                always,
                lambda m: (-m.meta.state.index, m.meta.version, m.rebate, m.meta.id),
            ),
            "index": (self.by_kind(Kind.BOOK), lambda m: m.kind is Kind.BOOK, by_id),
            "index of each": (self.by_tag("red"), lambda m: "red" in m.tags, by_id),
            "order of an index": (
                self.by_tag("red").order("price"),
                lambda m: "red" in m.tags,
                lambda m: (m.price, m.meta.id),
            ),
            "parameter": (below(30), lambda m: m.price < 30, by_id),
            "parameter of an order": (
                by_price.where(price_below)(30),
                lambda m: m.price < 30,
                lambda m: (m.price, m.meta.id),
            ),
        }


def always(item: Item) -> bool:
    return True


def by_id(item: Item) -> int:
    return int(item.meta.id)


def price_below(item: Item, price: int) -> bool:
    return item.price < price


@pytest.fixture
def shop() -> Shop:
    return Shop()


def random_item(rng: random.Random, shelves: list[Any]) -> dict[str, Any]:
    shelf = [None, *shelves]
    return {
        "title": "".join(rng.choices("ab\0é😀", k=rng.randrange(4))),
        "price": rng.randrange(-20, 100),
        "weight": rng.choice([None, rng.uniform(-5, 5), 0.0, -0.0]),
        "due": rng.choice([None, START + timedelta(hours=rng.randrange(9))]),
        "kind": rng.choice(list(Kind)),
        "rebate": Decimal(rng.randrange(-300, 300)) / Decimal(100),
        "tags": frozenset(rng.sample(["red", "blue", "old"], k=rng.randrange(4))),
        "shelf": rng.choice(shelf),
        "spare": rng.choice(shelf),
    }


def random_command(
    shop: Shop, rng: random.Random, ids: list[Any], shelves: list[Any], *, growth: float = 0.3
) -> Any:
    """A command on one of the items, which may be refused."""
    if not ids or rng.random() < growth:
        return shop.add(**random_item(rng, shelves))
    id = rng.choice(ids)
    new = random_item(rng, shelves)
    return rng.choice(
        [
            shop.change(id, new["title"], new["price"], new["weight"]),
            shop.put(id, new["shelf"], new["spare"]),
            shop.use(id),
            shop.lose(id),
            shop.drop(id),
        ]
    )


def expected(shop: Shop, name: str, models: dict[int, Any]) -> list[Any]:
    _, holds, key = shop.views[name]
    return sorted((m for m in models.values() if type(m) is Item and holds(m)), key=key)


def ids_of(models: Any) -> list[int]:
    return [m.meta.id for m in models]


def all_models(shop: Shop, reader: Any) -> dict[int, Any]:
    return {m.meta.id: m for view in (shop.items, shop.shelves) for m in reader.list(view)}


def check_everything(shop: Shop, reader: Any, models: dict[int, Any], rng: random.Random) -> None:
    """Compare every read of a reader with what the models say."""
    assert all_models(shop, reader) == models
    for name, (view, holds, _) in shop.views.items():
        want = expected(shop, name, models)
        assert list(reader.list(view)) == want, name
        assert reader.count(view) == len(want), name
        assert reader.exists(view) == bool(want), name
        assert reader.first(view) == (want[0] if want else None), name
        limit = rng.randrange(1, 9)
        assert pages(reader, view, limit) == [want[i : i + limit] for i in range(0, len(want), limit)], name
        assert all(view.contains(m) == holds(m) for m in models.values() if type(m) is Item), name
    for id in models:
        for names in (("shelf",), ("spare",), ("shelf", "spare")):
            want = [m for m in models.values() if type(m) is Item and id in [getattr(m, n) for n in names]]
            field = getattr(Item, names[0]) if len(names) == 1 else None
            assert list(reader.related(id, field)) == sorted(want, key=by_id)
    by_weight = sorted(
        expected(shop, "machine", models),
        key=lambda m: (m.weight is not None, -(m.weight or 0), m.title, m.meta.id),
    )
    # None comes first, and last when it is turned round.
    by_weight.sort(key=lambda m: m.weight is None)
    assert [m for page in pages(reader, shop.items, 7, sort=("-weight", "title")) for m in page] == by_weight
    assert reader.columns(shop.items, "price")["price"].tolist() == [m.price for m in reader.list(shop.items)]


def pages(reader: Any, view: Any, limit: int, **options: Any) -> list[list[Any]]:
    """All pages of a view, having gone there and back again."""
    there = []
    page = reader.query(view, limit=limit, **options)
    assert page.previous is None
    while True:
        if page:
            there.append(list(page))
        if page.next is None:
            break
        page = reader.query(view, limit=limit, after=page.next, **options)
        assert page.items
    back = [list(page)] if page else []
    while page.previous is not None:
        page = reader.query(view, limit=limit, before=page.previous, **options)
        assert page.next is not None
        back.insert(0, list(page))
    assert [m for part in back for m in part] == [m for part in there for m in part]
    return there


class Undo(Exception):
    """Ends a transaction."""


def test_everything_against_brute_force(shop: Shop, tmp_path: Path, rng: random.Random) -> None:
    snapshots: list[tuple[Any, dict[int, Any]]] = []
    for _ in range(3):
        with shop.app.open(tmp_path / "store") as k:
            while len(all_shelves(shop, k)) < 3:
                k.handle(shop.build("shelf"), TESTER)
            shelves = all_shelves(shop, k)
            for _ in range(8):
                for _ in range(rng.randrange(1, 12)):
                    run(shop, k, rng, shelves)
                with k.read(TESTER) as r:
                    models = all_models(shop, r)
                    check_everything(shop, r, models, rng)
                within_a_transaction(shop, k, rng, shelves)
                if rng.random() < 0.5:
                    snapshots.append((k.snapshot(TESTER), models))
                for snapshot, then in snapshots:
                    check_everything(shop, snapshot, then, rng)
                if len(snapshots) > 3:
                    snapshots.pop(rng.randrange(len(snapshots)))[0].close()
            for snapshot, _ in snapshots:
                snapshot.close()
            snapshots.clear()


def all_shelves(shop: Shop, k: Klerk) -> list[Any]:
    with k.read(TESTER) as r:
        return ids_of(r.list(shop.shelves))


def run(shop: Shop, k: Klerk, rng: random.Random, shelves: list[Any]) -> None:
    with k.read(TESTER) as r:
        ids = ids_of(r.list(shop.items))
    commands = [random_command(shop, rng, ids, shelves) for _ in range(rng.choice([1, 1, 3]))]
    try:
        k.handle_all(commands, TESTER)
    except klerk.KlerkError:
        # Refused, as some are: nothing of it may show.
        return


def within_a_transaction(shop: Shop, k: Klerk, rng: random.Random, shelves: list[Any]) -> None:
    """Check all reads between the commands of a transaction, which is then undone."""

    def commands(a: Args) -> Iterator[Any]:
        for _ in range(4):
            ids = ids_of(a.read.list(shop.items))
            result = yield shop.add(**random_item(rng, shelves))
            assert a.read.get(result.id) == result.model
            yield shop.change(result.id, "new", rng.randrange(100), None)
            for id in rng.sample(ids, k=min(2, len(ids))):
                yield shop.change(id, "changed", rng.randrange(100), 1.0)
            if ids:
                yield shop.drop(ids[0])
            check_everything(shop, a.read, all_models(shop, a.read), rng)
        raise Undo

    with pytest.raises(FunctionFailed) as caught:
        k.handle_all(commands, TESTER)
    assert isinstance(caught.value.__cause__, Undo), caught.value.__cause__


def test_pages_stay_in_place_while_models_change(shop: Shop, rng: random.Random) -> None:
    with shop.app.open() as k:
        k.handle_all([shop.add(**{**random_item(rng, []), "price": i}) for i in range(20)], TESTER)
        by_price = shop.views["order"][0]
        with k.read(TESTER) as r:
            first = r.query(by_price, limit=5)
        assert [m.price for m in first] == [0, 1, 2, 3, 4]
        # What is at the cursor is deleted; others come in front of it, behind it, or move over it.
        k.handle(shop.drop(first.items[4].meta.id), TESTER)
        k.handle_all([shop.add(**{**random_item(rng, []), "price": price}) for price in (2, 5, 100)], TESTER)
        k.handle(shop.change(first.items[0].meta.id, "late", 6, None), TESTER)
        with k.read(TESTER) as r:
            second = r.query(by_price, limit=5, after=first.next)
            assert [m.price for m in second] == [5, 5, 6, 6, 7]
            assert second.previous is not None
            back = r.query(by_price, limit=5, before=second.previous)
            assert [m.price for m in back] == [1, 2, 2, 3]
            assert back.previous is None


@pytest.mark.parametrize("where", ["order", "machine", "filter", "index"])
def test_cursors_are_checked(shop: Shop, rng: random.Random, where: str) -> None:
    view = shop.views[where][0]
    with shop.app.open() as k:
        prices = range(6)
        k.handle_all(
            [shop.add(**{**random_item(rng, []), "price": p, "kind": Kind.BOOK}) for p in prices], TESTER
        )
        with k.read(TESTER) as r:
            cursor = r.query(view, limit=2).next
            assert cursor is not None
            assert r.query(view, limit=2, after=cursor).items
            respelt = [cursor[:-1] + each for each in string.ascii_letters + string.digits]
            for altered in (*respelt, cursor[:-2], "A" + cursor[1:], "", "?", "é", cursor + "AAAA"):
                if altered != cursor:
                    with pytest.raises(ArgumentError, match="is no cursor of"):
                        r.query(view, limit=2, after=altered)
            with pytest.raises(ArgumentError, match="is no cursor of"):
                r.query(shop.used, limit=2, after=cursor)
            with pytest.raises(ArgumentError, match="is no cursor of"):
                r.query(view, sort="-title", limit=2, after=cursor)
            with pytest.raises(ArgumentError, match="not both"):
                r.query(view, after=cursor, before=cursor)
            for limit in (0, -1, 10_001):
                with pytest.raises(ArgumentError, match="limit must be 1 to"):
                    r.query(view, limit=limit)


def test_what_has_no_order_is_refused(shop: Shop, rng: random.Random) -> None:
    with shop.app.open() as k:
        k.handle(shop.add(**random_item(rng, [])), TESTER)
        with k.read(TESTER) as r:
            with pytest.raises(ArgumentError, match="has no field 'colour' to sort by"):
                r.query(shop.items, sort="colour")
            with pytest.raises(ArgumentError, match="has no order"):
                r.query(shop.items, sort="tags")
            with pytest.raises(FunctionFailed, match="gave no sort key"):
                r.query(shop.items, sort=lambda m: m.tags)
            with pytest.raises(ArgumentError, match="not a field that refers to models"):
                r.related(1, Item.title)
            with pytest.raises(ArgumentError, match="not a view of this app"):
                r.list(Shop().views["filter"][0])


def test_a_condition_that_raises_refuses_the_command(shop: Shop, rng: random.Random) -> None:
    shop.items.where(lambda m: bool(1 // m.price))
    with shop.app.open() as k:
        with pytest.raises(FunctionFailed, match="ZeroDivisionError"):
            k.handle(shop.add(**{**random_item(rng, []), "price": 0}), TESTER)
        k.handle(shop.add(**{**random_item(rng, []), "price": 1}), TESTER)
        with k.read(TESTER) as r:
            assert r.count(shop.items) == 1


STAFF = Context(User("ann", roles=frozenset({"staff"})))
GUEST = Context(User("joe"))


def restricted() -> tuple[Shop, Any, Any]:
    """A shop whose costs guests may not see, nor items that are gone."""
    shop = Shop()
    shop.app.deny.field(tag="secret")(lambda a: "staff" not in a.context.actor.roles)
    shop.app.deny.read(Item)(
        lambda a: "staff" not in a.context.actor.roles and a.model.meta.state == shop.gone
    )
    return shop, shop.items.where(lambda m: m.cost > 5), shop.items.order("cost")


def cost_of(item: Item) -> int:
    return item.cost


def test_what_may_not_be_read_is_not_found_by(rng: random.Random) -> None:
    shop, costly, by_cost = restricted()
    with shop.app.open() as k:
        made = k.handle_all(
            [shop.add(**{**random_item(rng, []), "price": n, "cost": Secret(n)}) for n in range(10)], TESTER
        )
        with k.read(STAFF) as r:
            assert ids_of(r.list(costly)) == ids_of(r.list(shop.items))[6:]
            assert r.first(by_cost).meta.id == made[0].id
        with k.read(GUEST) as r, k.snapshot(GUEST) as s:
            for reader in (r, s, r.readable, s.readable):
                assert reader.count(shop.items) == 10
                assert all(m.cost is MASKED for m in reader.list(shop.items))
                assert list(reader.list(costly)) == []
                assert reader.count(costly) == 0
                assert reader.first(costly) is None
                assert not reader.query(costly)
                assert not reader.query(shop.items, where=lambda m: m.cost > 5)
                for sort in ("cost", cost_of):
                    with pytest.raises(Denied):
                        reader.query(shop.items, sort=sort)
                for read in (reader.list, reader.first, reader.query):
                    with pytest.raises(Denied):
                        read(by_cost)
                with pytest.raises(Denied):
                    reader.columns(shop.items, "cost")


def test_readable_leaves_out_what_others_refuse(rng: random.Random) -> None:
    shop, *_ = restricted()
    with shop.app.open() as k:
        shelf = k.handle(shop.build("top"), TESTER).id
        made = k.handle_all(
            [shop.add(**{**random_item(rng, [shelf]), "shelf": shelf}) for _ in range(9)], TESTER
        )
        for result in made[::2]:
            k.handle(shop.lose(result.id), TESTER)
        left = [result.id for result in made[1::2]]
        with k.read(GUEST) as r, k.snapshot(GUEST) as s:
            for reader in (r, s):
                for read in (reader.list, reader.count, reader.first, reader.query):
                    with pytest.raises(Denied):
                        read(shop.items)
                with pytest.raises(Denied):
                    reader.get(made[0].id)
                with pytest.raises(Denied):
                    reader.related(shelf)
                readable = reader.readable
                assert ids_of(readable.list(shop.items)) == left
                assert readable.count(shop.items) == len(left)
                assert readable.first(shop.items).meta.id == left[0]
                assert ids_of(readable.related(shelf, Item.shelf)) == left
                assert readable.find(made[0].id) is None
                assert readable.columns(shop.items, "id")["id"].tolist() == left
                assert [ids_of(page) for page in pages(readable, shop.items, 3)] == [left[:3], left[3:]]
                with pytest.raises(NotFound):
                    readable.get(made[0].id)


def test_a_hidden_reference_relates_nothing(rng: random.Random) -> None:
    shop = Shop()
    shop.app.deny.field(Item, names="shelf")(lambda a: "staff" not in a.context.actor.roles)
    with shop.app.open() as k:
        shelf = k.handle(shop.build("top"), TESTER).id
        item = k.handle(shop.add(**{**random_item(rng, []), "shelf": shelf, "spare": None}), TESTER).id
        with k.read(STAFF) as r:
            assert ids_of(r.related(shelf)) == [item]
        with k.read(GUEST) as r:
            assert list(r.related(shelf)) == list(r.related(shelf, Item.shelf)) == []


def test_snapshots_are_still_while_everything_moves(shop: Shop, rng: random.Random) -> None:
    """Two threads change items at full speed while others read snapshots without any lock."""
    with shop.app.open() as k:
        k.handle_all([shop.add(**random_item(rng, [])) for _ in range(60)], TESTER)
        with k.read(TESTER) as r:
            ids = ids_of(r.list(shop.items))
        stop = threading.Event()
        failures: list[BaseException] = []

        def change(seed: int) -> None:
            own = random.Random(seed)
            while not stop.is_set():
                commands = [random_command(shop, own, ids, [], growth=0.05) for _ in range(20)]
                submissions = [k.submit(command, TESTER) for command in commands]
                for submission in submissions:
                    submission.exception()

        def look(seed: int) -> None:
            own = random.Random(seed)
            try:
                for _ in range(2):
                    with k.snapshot(TESTER) as s:
                        models = all_models(shop, s)
                        for _ in range(2):
                            check_everything(shop, s, models, own)
            except BaseException as error:
                failures.append(error)

        changers = [threading.Thread(target=change, args=(rng.random(),)) for _ in range(2)]
        lookers = [threading.Thread(target=look, args=(rng.random(),)) for _ in range(2)]
        for thread in changers + lookers:
            thread.start()
        for thread in lookers:
            thread.join()
        stop.set()
        for thread in changers:
            thread.join()
        assert not failures, failures[0]


def test_snapshots_end(shop: Shop) -> None:
    with shop.app.open() as k:
        first = k.handle(shop.build("a"), TESTER)
        with k.snapshot(TESTER) as s:
            assert s.sequence == first.sequence
            second = k.handle(shop.build("b"), TESTER)
            assert s.find(second.id) is None
            with pytest.raises(NotFound):
                s.get(second.id)
        for read in (lambda: s.get(first.id), lambda: s.list(shop.shelves), lambda: s.query(shop.shelves)):
            with pytest.raises(ReaderClosed, match="snapshot is closed"):
                read()
        s.close()
        held = [k.snapshot(TESTER) for _ in range(klerk.limits.SNAPSHOTS_MAX)]
        with pytest.raises(LimitExceeded, match="snapshots are open"):
            k.snapshot(TESTER)
        held.clear()
        k.snapshot(TESTER).close()


async def test_snapshots_for_asyncio(shop: Shop) -> None:
    with shop.app.open() as k:
        await k.aio.handle(shop.build("a"), TESTER)
        async with k.aio.snapshot(TESTER) as s:
            await k.aio.handle(shop.build("b"), TESTER)
            assert [shelf.label for shelf in s.list(shop.shelves)] == ["a"]
        with pytest.raises(ReaderClosed):
            s.list(shop.shelves)


def test_unmanaged_jobs_read_views(shop: Shop, rng: random.Random) -> None:
    seen: list[list[int]] = []
    done = threading.Event()

    def look(a: Args[Item]) -> None:
        seen.append(ids_of(a.read.list(shop.views["order"][0])))
        seen.append(ids_of(a.read.query(shop.items, sort="price")))
        seen.append(ids_of(a.read.related(1)))
        done.set()

    shop.used.on_enter.unmanaged_job(look)
    with shop.app.open() as k:
        item = k.handle(shop.add(**random_item(rng, [])), TESTER).id
        k.handle(shop.use(item), TESTER)
        assert done.wait(30)
    assert seen == [[item], [item], []]


def test_orders_asked_for_are_bounded(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> None:
    monkeypatch.setattr(klerk.limits, "ORDERS_KEPT_MAX", 2)
    with shop.app.open() as k:
        k.handle_all([shop.add(**random_item(rng, [])) for _ in range(5)], TESTER)
        for _ in range(2):
            for name in ("title", "price", "-price", "due", "kind", "rebate"):
                with k.read(TESTER) as r:
                    models = list(r.query(shop.items, sort=name))
                    back = list(r.query(shop.items, sort=name, descending=True, limit=100))
                    field = name.removeprefix("-")
                    assert {m.meta.id for m in models} == set(ids_of(r.list(shop.items)))
                    assert [getattr(m, field) for m in back] == [getattr(m, field) for m in models][::-1]
            k.handle(shop.add(**random_item(rng, [])), TESTER)

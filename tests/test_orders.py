"""The order example tells its story, and what it promises holds: whoever orders, from threads and tasks, and
in whatever moment the process is killed.

What is promised is checked by `Audit` in one read, so that it holds whenever anybody could look: no piece of
a product is lost or counted twice, what is reserved is what open orders have in their lines, and nobody waits
for what is there.
"""

import asyncio
import importlib.util
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from designs import Clock, eventually, python_environment, run_python

import klerk
from klerk import (
    MASKED,
    Args,
    BrokenReference,
    Command,
    Denied,
    FunctionFailed,
    InvalidValue,
    Klerk,
    Rejected,
    User,
    WrongState,
)

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "orders.py"

STORY = """\
delivered                                     | tea 10 + 0, 0 sent | mug 3 + 0, 0 sent
Ada owes 3200                                 | tea 8 + 2, 0 sent | mug 1 + 2, 0 sent
again: There are not enough pieces in stock.  | tea 8 + 2, 0 sent | mug 1 + 2, 0 sent
Bob owes 2800                                 | tea 4 + 6, 0 sent | mug 1 + 2, 0 sent
Bob's order is shipped                        | tea 4 + 2, 4 sent | mug 1 + 2, 0 sent
Eve's order is backordered                    | tea 4 + 2, 4 sent | mug 1 + 2, 0 sent
Ada's order is cancelled, Eve's is unpaid     | tea 6 + 0, 4 sent | mug 0 + 3, 0 sent
Bob sees: order cancelled, 1800, tracking None
Bob sees: order shipped, 2800, tracking KL-000001
Bob sees: tea for 700, which cost <masked>
Bob sees: user bob may not read Order
in stock for 3210; sold for 2800 until 2025-12-01T09:20:00.000000, margin 1560
"""


def example() -> ModuleType:
    """Import the example as the module `orders`."""
    if "orders" not in sys.modules:
        spec = importlib.util.spec_from_file_location("orders", EXAMPLE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["orders"] = module
        spec.loader.exec_module(module)
    return sys.modules["orders"]


orders = example()
OFFICE, WAREHOUSE = orders.OFFICE, orders.WAREHOUSE
LOGINS = ("ada", "bob", "eve")
SKUS = ("TEA-01", "MUG-01", "POT-01")


class Audit:
    """What is in a store, read in one moment, and what of it contradicts the promises."""

    def __init__(self, k: Klerk) -> None:
        with k.read(OFFICE) as r:
            self.products = {p.meta.id: p for p in r.list(orders.product)}
            self.orders = list(r.list(orders.order))
            self.by_state = {str(s): list(r.list(s)) for s in orders.order.all_states}

    def pieces(self, *states: str) -> Counter[int]:
        """Return how many pieces of each product are in the lines of orders in some states."""
        found: Counter[int] = Counter()
        for state in states:
            for each in self.by_state[state]:
                found.update({line.product: line.quantity for line in each.lines})
        return found

    @property
    def problems(self) -> list[str]:
        found = []
        reserved, sent = self.pieces("unpaid", "paid"), self.pieces("shipped")
        for id, p in self.products.items():
            if min(p.available, p.reserved, p.sent) < 0:
                found.append(f"{p} has negative stock")
            if p.available + p.reserved + p.sent != p.received:
                found.append(f"{p} lost pieces")
            if (p.reserved, p.sent) != (reserved[id], sent[id]):
                found.append(f"{p} has {reserved[id]} reserved and {sent[id]} sent in orders")
        found.extend(
            f"{each} waits for what is there"
            for each in self.by_state["backordered"]
            if all(line.quantity <= self.products[line.product].available for line in each.lines)
        )
        for each in self.orders:
            state = str(each.meta.state)
            if state == "placed" or (each.paid_at is not None) != (state in ("paid", "shipped")):
                found.append(f"{each} cannot be {state}")
            if (each.tracking is not None) != (state == "shipped"):
                found.append(f"{each} has no reason for its tracking code")
        return found


def stocked(k: Klerk, *stock: int) -> tuple[list[Any], list[Any]]:
    """Offer products with some stock each, let three customers join, and return the references of both."""

    def begin(a: Args) -> Iterator[Command[Any]]:
        for sku in SKUS[: len(stock)]:
            yield orders.offer(sku, sku.lower(), 100, 60)

    products = [result.id for result in k.handle_all(begin, OFFICE)]
    k.handle_all([orders.receive(id, n) for id, n in zip(products, stock, strict=True) if n], WAREHOUSE)
    joins = [orders.join(login, login.title(), f"{login}@example.org") for login in LOGINS]
    return products, [result.id for result in k.handle_all(joins, OFFICE)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    # That the clock was set is noticed after a second; here, soon.
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.005)
    return Clock()


@pytest.fixture
def k(clock: Clock) -> Iterator[Klerk]:
    with orders.app.open(None, clock=clock) as opened:
        yield opened


def state_of(k: Klerk, order: Any) -> str:
    return str(orders.state_of(k, order))


# --- the story ----------------------------------------------------------------------------------------


def test_story(tmp_path: Path) -> None:
    ran = run_python(str(EXAMPLE), cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, STORY, "")
    assert list(tmp_path.iterdir()) == []


# --- stock --------------------------------------------------------------------------------------------


def test_order_that_cannot_be_filled_leaves_nothing_behind(k: Klerk) -> None:
    (tea, mug), (ada, *_) = stocked(k, 5, 1)
    before, sequence = Audit(k), k.sequence
    with pytest.raises(Rejected, match="not enough pieces") as caught:
        k.handle(orders.place(ada, ((tea, 5), (mug, 2))), orders.ADA)
    assert [problem.code for problem in caught.value.problems] == ["enough_on_the_shelf"]
    after = Audit(k)
    assert (after.products, after.orders, k.sequence) == (before.products, [], sequence)
    # The same order is there when it may wait, with nothing reserved.
    waiting = k.handle(orders.place(ada, ((tea, 5), (mug, 2)), can_wait=True), orders.ADA)
    assert str(waiting.model.meta.state) == "backordered"
    assert Audit(k).products == before.products


def test_what_comes_in_goes_to_who_waits_longest(k: Klerk) -> None:
    (tea,), (ada, bob, eve) = stocked(k, 0)
    waiting = [
        k.handle(orders.place(who, ((tea, n),), can_wait=True), OFFICE).id
        for who, n in ((ada, 3), (bob, 5), (eve, 2))
    ]
    received = k.handle(orders.receive(tea, 6), WAREHOUSE)
    # Bob's five did not fit behind Ada's three, Eve's two did: all in the transaction of the delivery.
    assert [state_of(k, id) for id in waiting] == ["unpaid", "backordered", "unpaid"]
    assert {model.meta.id for model in received.updated} == {tea, waiting[0], waiting[2]}
    # Ada's go back, and with one more Bob has his.
    k.handle(orders.cancel(waiting[0]), orders.ADA)
    assert state_of(k, waiting[1]) == "backordered"
    k.handle(orders.receive(tea, 1), WAREHOUSE)
    assert state_of(k, waiting[1]) == "unpaid"
    assert Audit(k).problems == []


def test_unpaid_order_is_cancelled_after_half_an_hour_and_not_before(k: Klerk, clock: Clock) -> None:
    (tea,), (ada, bob, _) = stocked(k, 5)
    late = k.handle(orders.place(ada, ((tea, 2),)), OFFICE).id
    in_time = k.handle(orders.place(bob, ((tea, 3),)), OFFICE).id
    clock.advance(timedelta(minutes=30) - timedelta(microseconds=1))
    k.handle(orders.pay(in_time, 300), orders.BOB)
    assert k.jobs.wait_until_idle(20)
    assert (state_of(k, late), state_of(k, in_time)) == ("unpaid", "shipped")
    clock.advance(timedelta(microseconds=1))
    eventually(lambda: state_of(k, late) == "cancelled")
    audit = Audit(k)
    assert (audit.problems, audit.products[tea].available, audit.products[tea].sent) == ([], 2, 3)
    with pytest.raises(WrongState):
        k.handle(orders.pay(late, 200), orders.ADA)


def test_shipping_ends_with_the_command_that_says_so(k: Klerk) -> None:
    (tea,), (ada, *_) = stocked(k, 5)
    order = k.handle(orders.place(ada, ((tea, 2),)), orders.ADA).id
    (job,) = k.handle(orders.pay(order, 200), orders.ADA).jobs
    assert (job.kind, job.arguments) == ("ship", (order,))
    assert k.jobs.wait_until_idle(20)
    with k.read(orders.ADA) as r:
        shipped = r.find(orders.by_tracking, f"KL-{job.id:06}")
    assert shipped is not None
    assert (shipped.meta.id, str(shipped.meta.state)) == (order, "shipped")
    assert k.jobs.counts()[klerk.JobState.COMPLETED] == 1


def test_baskets_that_make_no_sense_are_refused(k: Klerk) -> None:
    (tea,), (ada, *_) = stocked(k, 5)
    for basket, code in (
        ((), "basket_has_something"),
        (((tea, 1), (tea, 1)), "basket_names_a_product_once"),
        (((tea, 0),), "too_small"),
        (((tea, "1"),), "wrong_type"),
    ):
        with pytest.raises(Rejected) as caught:
            k.handle(orders.place(ada, basket), orders.ADA)
        assert [problem.code for problem in caught.value.problems] == [code]
    assert Audit(k).orders == []


def test_basket_of_something_else_is_refused(k: Klerk) -> None:
    (tea,), (ada, *_) = stocked(k, 5)
    with pytest.raises(BrokenReference):
        k.handle(orders.place(ada, ((tea, 1), (ada, 1))), orders.ADA)


def test_transaction_that_decides_on_the_way_is_all_or_none(k: Klerk) -> None:
    (tea, mug), (ada, *_) = stocked(k, 5, 0)
    before = Audit(k)
    seen = []

    def shopping(a: Args) -> Iterator[Any]:
        wish = yield orders.place(ada, ((mug, 1),), can_wait=True)
        seen.append(str(wish.model.meta.state))
        yield orders.cancel(wish.id)
        other = yield orders.place(ada, ((tea, 4),))
        seen.append((str(other.model.meta.state), a.read.get(tea).available))
        yield orders.place(ada, ((tea, 2),))

    with pytest.raises(Rejected):
        k.handle_all(shopping, orders.ADA)
    assert seen == ["backordered", ("unpaid", 1)]
    assert (Audit(k).products, Audit(k).orders) == (before.products, [])

    def stumbling(a: Args) -> Iterator[Any]:
        yield orders.place(ada, ((tea, 4),))
        raise ZeroDivisionError

    with pytest.raises(FunctionFailed) as caught:
        k.handle_all(stumbling, orders.ADA)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert (Audit(k).products, Audit(k).orders) == (before.products, [])


# --- who may do and see what --------------------------------------------------------------------------


def test_customers_have_their_own_orders_only(k: Klerk) -> None:
    (tea,), (ada, bob, _) = stocked(k, 5)
    adas = k.handle(orders.place(ada, ((tea, 1),)), orders.ADA).id
    for command in (
        orders.place(ada, ((tea, 1),)),
        orders.pay(adas, 100),
        orders.cancel(adas),
        orders.receive(tea, 1),
        orders.reserve(tea, 1),
        orders.dispatch(adas, "KL-000001"),
    ):
        with pytest.raises(Denied):
            k.handle(command, orders.BOB)
    with k.read(orders.BOB) as r:
        assert list(r.list(orders.by_customer(bob))) == []
        for read in (
            lambda: r.get(adas),
            lambda: r.list(orders.order),
            lambda: r.list(orders.by_customer(ada)),
            lambda: r.columns(orders.unpaid, "total"),
        ):
            with pytest.raises(Denied):
                read()
    with k.read(orders.ADA) as r:
        assert [each.total for each in r.list(orders.by_customer(ada))] == [100]


def test_fields_show_what_concerns_somebody(k: Klerk) -> None:
    (tea,), (ada, *_) = stocked(k, 5)
    with k.read(orders.ADA) as r:
        assert (r.get(tea).cost, r.get(ada).email) == (MASKED, "ada@example.org")
        assert list(r.columns(orders.product, "price").price) == [100]
        with pytest.raises(Denied, match=r"Product\.cost"):
            r.columns(orders.product, "price", "cost")
    with k.read(WAREHOUSE) as r:
        assert (r.get(ada).name, r.get(ada).email) == ("Ada", MASKED)
    with k.read(OFFICE) as r:
        assert (r.get(tea).cost, r.get(ada).email) == (60, "ada@example.org")


def test_the_channel_of_the_context_counts(k: Klerk) -> None:
    (tea,), (ada, *_) = stocked(k, 5)
    placed = [k.handle(orders.place(ada, ((tea, 1),)), context).model for context in (OFFICE, orders.ADA)]
    assert [each.channel for each in placed] == [orders.Channel.PHONE, orders.Channel.WEB]
    elsewhere = orders.Shop(WAREHOUSE.actor, channel=orders.Channel.WEB)
    with pytest.raises(Denied):
        k.handle(orders.receive(tea, 1), elsewhere)


# --- many at once -------------------------------------------------------------------------------------


def shopper(
    k: Klerk, rng: random.Random, products: list[Any], customers: list[Any]
) -> Callable[[], Command[Any]]:
    """Return a function that gives random commands, of which many will be refused."""

    def order() -> Any:
        with k.read(OFFICE) as r:
            known = r.list(orders.order)
        return rng.choice(known) if known else None

    def command() -> Command[Any]:
        kind = rng.choices(("place", "pay", "cancel", "receive"), (5, 3, 1, 2))[0]
        chosen = order()
        if kind == "receive":
            made: Command[Any] = orders.receive(rng.choice(products), rng.randint(1, 5))
        elif kind == "place" or chosen is None:
            some = rng.sample(products, rng.randint(1, len(products)))
            basket = tuple((id, rng.randint(1, 4)) for id in some)
            made = orders.place(rng.choice(customers), basket, can_wait=rng.random() < 0.5)
        elif kind == "pay":
            made = orders.pay(chosen.meta.id, chosen.total)
        else:
            made = orders.cancel(chosen.meta.id)
        return made

    return command


BOSS = orders.Shop(User("boss", frozenset({"office", "warehouse"})), channel=orders.Channel.WAREHOUSE)


def test_promises_hold_after_every_command(k: Klerk, clock: Clock, rng: random.Random) -> None:
    products, customers = stocked(k, 4, 4, 0)
    next_command = shopper(k, rng, products, customers)
    received = Counter(dict(zip(products, (4, 4, 0), strict=True)))
    outcomes: Counter[str] = Counter()
    for _ in range(400):
        command = next_command()
        try:
            k.handle(command, BOSS)
        except Rejected as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes[command.event.name] += 1
            if command.event is orders.receive:
                received[command.target] += command.values[0]
        clock.advance(timedelta(minutes=rng.randint(0, 3)))
        audit = Audit(k)
        assert audit.problems == []
        assert {id: p.received for id, p in audit.products.items()} == received
    # Everything happened, so everything was tested.
    assert outcomes.keys() >= {"place", "pay", "cancel", "receive", "Rejected", "WrongState"}
    assert k.jobs.wait_until_idle(20)
    clock.advance(timedelta(minutes=30))
    eventually(lambda: not Audit(k).by_state["unpaid"])
    audit = Audit(k)
    assert audit.problems == []
    assert {state for state, found in audit.by_state.items() if found} >= {"shipped", "cancelled"}
    assert len(audit.by_state["paid"]) == 0


def test_last_pieces_go_to_as_many_as_there_are(k: Klerk) -> None:
    (tea, mug), customers = stocked(k, 23, 500)
    ended = threading.Event()
    problems: list[str] = []

    def place_one(n: int) -> bool:
        try:
            k.handle(orders.place(customers[n % 3], ((mug, 1), (tea, 1))), OFFICE)
        except Rejected:
            return False
        return True

    async def place_one_soon(n: int) -> bool:
        try:
            await k.aio.handle(orders.place(customers[n % 3], ((tea, 1), (mug, 1))), OFFICE)
        except Rejected:
            return False
        return True

    async def place_many() -> list[bool]:
        return await asyncio.gather(*(place_one_soon(n) for n in range(60)))

    def look() -> None:
        while not ended.is_set():
            problems.extend(Audit(k).problems)

    with ThreadPoolExecutor(8) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        tasks = pool.submit(asyncio.run, place_many())
        threads = [pool.submit(place_one, n) for n in range(60)]
        placed = sum(each.result(60) for each in threads) + sum(tasks.result(60))
        ended.set()
        for each in looking:
            each.result(60)
    audit = Audit(k)
    assert (placed, problems, audit.problems) == (23, [], [])
    assert (audit.products[tea].available, audit.products[mug].available) == (0, 477)


def test_random_customers_from_threads_and_tasks(k: Klerk, clock: Clock, rng: random.Random) -> None:
    products, customers = stocked(k, 30, 30, 30)
    ended = threading.Event()

    def walk(seed: int) -> None:
        next_command = shopper(k, random.Random(seed), products, customers)
        for _ in range(60):
            try:
                k.handle(next_command(), BOSS)
            except Rejected:
                continue

    async def walk_all(seeds: list[int]) -> None:
        async def one(seed: int) -> None:
            next_command = shopper(k, random.Random(seed), products, customers)
            for _ in range(20):
                try:
                    await k.aio.handle(next_command(), BOSS)
                except Rejected:
                    continue

        await asyncio.gather(*map(one, seeds))

    def look() -> int:
        looks = 0
        while not ended.is_set():
            assert Audit(k).problems == []
            clock.advance(timedelta(seconds=rng.randint(0, 200)))
            looks += 1
        return looks

    with ThreadPoolExecutor(6) as pool:
        looking = pool.submit(look)
        working = [pool.submit(walk, rng.randrange(2**32)) for _ in range(4)]
        working.append(pool.submit(asyncio.run, walk_all([rng.randrange(2**32) for _ in range(8)])))
        try:
            for each in working:
                each.result(60)
        finally:
            ended.set()
        assert looking.result(60) > 0
    assert Audit(k).problems == []


# --- restarts and kills -------------------------------------------------------------------------------


def test_reopened_in_the_middle(tmp_path: Path, clock: Clock) -> None:
    with orders.app.open(tmp_path / "store", clock=clock, job_threads=0) as k:
        (tea,), (ada, bob, eve) = stocked(k, 5)
        adas = k.handle(orders.place(ada, ((tea, 2),)), OFFICE).id
        bobs = k.handle(orders.place(bob, ((tea, 2),)), OFFICE).id
        eves = k.handle(orders.place(eve, ((tea, 3),), can_wait=True), OFFICE).id
        k.handle(orders.pay(bobs, 200), OFFICE)
        before = Audit(k)
        assert before.problems == []
    # While nobody is there, Ada's time runs out; the parcel for Bob was never fetched.
    clock.advance(timedelta(minutes=31))
    with orders.app.open(tmp_path / "store", clock=clock) as k:
        eventually(lambda: state_of(k, adas) == "cancelled" and state_of(k, bobs) == "shipped")
        # Ada's tea went to Eve, whose half hour begins now.
        assert state_of(k, eves) == "unpaid"
        audit = Audit(k)
        assert audit.problems == []
        stock = audit.products[tea]
        assert (stock.available, stock.reserved, stock.sent) == (0, 3, 2)
        again = k.handle(orders.place(ada, ((tea, 1),), can_wait=True), OFFICE)
        assert str(again.model.meta.state) == "backordered"


# Says each command that was acknowledged, and goes on until it is killed.
KILLED = """
import asyncio, random, sys, threading
import test_orders as t
from klerk import Rejected

seed = int(sys.argv[2])
k = t.orders.app.open(sys.argv[1], durability="process")
with k.read(t.OFFICE) as r:
    products = [p.meta.id for p in r.list(t.orders.product)]
    customers = [c.meta.id for c in r.list(t.orders.customer)]
if not products:
    products, customers = t.stocked(k, 30, 30, 30)

def said(result):
    sys.stdout.write(f"{result.id} {result.sequence}\\n")
    sys.stdout.flush()

def walk(seed):
    next_command = t.shopper(k, random.Random(seed), products, customers)
    while True:
        try:
            said(k.handle(next_command(), t.BOSS))
        except Rejected:
            pass

async def walk_soon(seed):
    next_command = t.shopper(k, random.Random(seed), products, customers)
    while True:
        try:
            said(await k.aio.handle(next_command(), t.BOSS))
        except Rejected:
            pass

async def both():
    await asyncio.gather(walk_soon(seed + 1), walk_soon(seed + 2))

for n in range(3):
    threading.Thread(target=walk, args=(seed + 3 + n,), daemon=True).start()
asyncio.run(both())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_killed_in_the_middle(tmp_path: Path, rng: random.Random) -> None:
    store = tmp_path / "store"
    for _ in range(5):
        arguments = [sys.executable, "-c", KILLED, str(store), str(rng.randrange(2**32))]
        process = subprocess.Popen(
            arguments,
            env=python_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(rng.randint(1, 150))]
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        assert err == ""
        said += out.splitlines(keepends=True)
        acknowledged = [tuple(map(int, line.split())) for line in said if line.endswith("\n")]
        with orders.app.open(store) as k:
            audit = Audit(k)
            assert audit.problems == []
            known = {each.meta.id for each in audit.orders} | audit.products.keys()
            assert {id for id, _ in acknowledged} <= known
            assert max(sequence for _, sequence in acknowledged) <= k.sequence
            # What was paid for is shipped, also when the process that was to do it is gone.
            assert k.jobs.wait_until_idle(20)
            after = Audit(k)
            assert (after.by_state["paid"], after.problems) == ([], [])


# --- that the tests can fail --------------------------------------------------------------------------


def test_audit_finds_what_is_wrong(k: Klerk) -> None:
    (tea,), (ada, *_) = stocked(k, 5)
    k.handle(orders.place(ada, ((tea, 2),)), OFFICE)
    audit = Audit(k)
    for damage in ({"available": -1}, {"available": 2}, {"reserved": 1}, {"sent": 1}):
        audit.products[tea] = audit.products[tea].replace(**damage)
        assert audit.problems
        audit = Audit(k)
    (unpaid,) = audit.by_state["unpaid"]
    audit.by_state["backordered"].append(unpaid)
    assert any("waits for what is there" in problem for problem in audit.problems)


def test_lost_pieces_are_refused_by_the_domain_itself(k: Klerk) -> None:
    (tea,), _ = stocked(k, 5)
    with pytest.raises(InvalidValue):
        k.handle(orders.send(tea, 1), klerk.Context(klerk.System("mistake")))
    assert Audit(k).products[tea].sent == 0

"""The auction example tells its story, and what it promises holds, however many bid at once and in whatever
moment the process is killed.

What is promised is checked by `problems_of` in one read: a lot has exactly one best bid, which is the
highest; what is set aside is what unsettled best bids amount to; and no bidder is over the limit.
"""

import asyncio
import importlib.util
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from designs import Clock, python_environment, run_python

from klerk import MASKED, Context, Denied, Klerk, Lagged, Rejected, User

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "auction.py"

STORY = """\
opened: a clock 100 running, a chair 50 running, a stamp 700 running
Ada bids: a clock 100 running
  bob: Lot 4 has version 3, and this token demands version 2
  ada: amount: Somebody offered as much already.
  ada: bound: That is more than the bidder's limit.
  bob: Bid.offer is not allowed for user bob
Eve bids: a clock 150 running
  ada: bound: That is more than the bidder's limit.
3 of 5 bids: a chair 80 running
next to end [['a clock', 'a chair'], ['a stamp']], most wanted ['a chair', 'a clock']
an hour later: a clock 200 running
closed: a clock 200 settled, a chair 80 settled, a stamp 700 unsold
  14:00 user hanna: 100 running
  14:00 user ada: 100 running
  14:00 user eve: 150 running
  14:59 user bob: 200 running
  16:00 system timer of Lot 4 (running, at): 200 sold
  16:00 system job debit 1: 200 settled
  14:00 user hanna: Bidder.admit {'login': 'ada', 'iban': <masked>, 'limit': 900}
bids [(100, 'outbid'), (150, 'outbid'), (200, 'won')]
2 settled for 280, 1 unsold, 0 bound
"""


def example() -> ModuleType:
    """Import the example as the module `auction`."""
    spec = importlib.util.spec_from_file_location("auction", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["auction"] = module
    spec.loader.exec_module(module)
    return module


auction = example()
NAMES = ("ada", "bob", "eve", "kim")


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2026, 1, 1, 12, tzinfo=UTC))


@pytest.fixture
def k(clock: Clock) -> Iterator[Klerk]:
    with auction.app.open(None, clock=clock) as opened:
        yield opened


def opened_hall(k: Klerk, limit: int, *, lots: int = 3) -> tuple[list[Any], list[Any]]:
    """Admit the bidders and put up lots, each to end an hour after the one before."""
    with k.read(auction.HOUSE) as r:
        now = r.context.now
    bidders = [auction.admit(name, "DE12345678", limit) for name in NAMES]
    hours = [now + timedelta(hours=n + 1) for n in range(lots)]
    put_up = [auction.put_up(f"lot {n}", end, 10) for n, end in enumerate(hours)]
    made = [each.id for each in k.handle_all([*bidders, *put_up], auction.HOUSE)]
    return made[: len(NAMES)], made[len(NAMES) :]


def problems_of(k: Klerk) -> list[str]:
    found = []
    with k.read(auction.HOUSE) as r:
        bound = dict.fromkeys((each.meta.id for each in r.list(auction.bidder)), 0)
        for lot in r.list(auction.lot):
            bids = r.related(lot.meta.id, auction.Bid.lot)
            best = [each for each in bids if each.meta.state is not auction.outbid]
            if len(bids) != lot.bids or [each.meta.id for each in best] != [lot.best] * bool(bids):
                found.append(f"{lot} has {bids}")
            if best and not best[0].amount == lot.price == max(each.amount for each in bids):
                found.append(f"{best[0]} is not the price of {lot}")
            if best and lot.meta.state is not auction.settled:
                bound[best[0].bidder] += best[0].amount
        found += [
            f"{bidder} has bids of {bound[bidder.meta.id]}"
            for bidder in r.list(auction.bidder)
            if bound[bidder.meta.id] != bidder.bound or bidder.bound > bidder.limit
        ]
    return found


def next_bid(k: Klerk, rng: random.Random, bidders: list[Any]) -> tuple[Any, Context] | None:
    """Return a bid for a lot that still runs, often too low; None when none does."""
    with k.read(auction.HOUSE) as r:
        running = r.list(auction.running)
    if not running:
        return None
    lot, n = rng.choice(running), rng.randrange(len(NAMES))
    return auction.offer(lot.meta.id, bidders[n], lot.price + rng.randint(0, 5)), auction.who(NAMES[n])


def test_story(tmp_path: Path) -> None:
    ran = run_python(str(EXAMPLE), cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == STORY


def test_many_bids_in_flight(k: Klerk, clock: Clock) -> None:
    bidders, lots = opened_hall(k, 100_000)
    shown: dict[int, Any] = {}
    with k.changes(auction.GUEST, auction.lot, since=0, queue_length_max=20) as screen:

        def bid(seed: int) -> int:
            rng, accepted = random.Random(seed), 0
            for _ in range(20):
                made = next_bid(k, rng, bidders)
                assert made is not None
                try:
                    k.handle(*made)
                except Rejected:
                    continue
                accepted += 1
            return accepted

        async def bid_soon(seed: int) -> int:
            made = next_bid(k, random.Random(seed), bidders)
            assert made is not None
            try:
                await k.aio.handle(*made)
            except Rejected:
                return 0
            return 1

        async def bid_all() -> int:
            return sum(await asyncio.gather(*(bid_soon(n) for n in range(200))))

        with ThreadPoolExecutor(9) as pool:
            tasks = pool.submit(asyncio.run, bid_all())
            accepted = sum(pool.map(bid, range(8))) + tasks.result(60)
        assert problems_of(k) == []
        clock.advance(timedelta(hours=4))
        assert k.timers.wait_until_idle(20)
        assert k.jobs.wait_until_idle(20)
        while True:
            try:
                change = screen.take(timeout=0)
            except Lagged:
                continue
            if change is None:
                break
            shown[change.ref] = change.model
    with k.read(auction.GUEST) as r:
        assert list(shown.values()) == list(r.list(auction.lot))
    with k.read(auction.HOUSE) as r:
        assert [r.get(each).meta.state for each in lots] == [auction.settled] * 3
        assert r.count(auction.bid) == accepted > 3
    assert problems_of(k) == []


def test_who_sees_what(k: Klerk) -> None:
    (ada, *_), (lot, *_) = opened_hall(k, 100)
    made = k.handle(auction.offer(lot, ada, 10), auction.who("ada")).id
    with k.read(auction.who("bob")) as r:
        assert r.get(lot).price == 10
        assert r.get(lot).best is MASKED
        with pytest.raises(Denied):
            r.get(made)
    with pytest.raises(Denied):
        k.handle(auction.release(ada, 10), auction.HOUSE)
    with pytest.raises(Denied):
        k.log(Context(User("ada")))


# Says each bid that was acknowledged, and goes on until it is killed.
KILLED = """
import random, sys, threading
import test_auction as t
from klerk import Rejected

k = t.auction.app.open(sys.argv[1], durability="process")
with k.read(t.auction.HOUSE) as r:
    bidders = [each.meta.id for each in r.list(t.auction.bidder)]
if not bidders:
    bidders, _ = t.opened_hall(k, 1_000_000)

def bid(seed):
    rng = random.Random(seed)
    while True:
        try:
            made = k.handle(*t.next_bid(k, rng, bidders))
        except Rejected:
            continue
        sys.stdout.write(f"{made.id}\\n")
        sys.stdout.flush()

for n in range(3):
    threading.Thread(target=bid, args=(int(sys.argv[2]) + n,)).start()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_killed_in_the_middle(tmp_path: Path) -> None:
    store = tmp_path / "store"
    acknowledged: set[int] = set()
    for seed in range(0, 30, 10):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(store), str(seed)],
            env=python_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        assert err == ""
        said += out.splitlines(keepends=True)
        acknowledged |= {int(line) for line in said if line.endswith("\n")}
        with auction.app.open(store) as k:
            assert problems_of(k) == []
            with k.read(auction.HOUSE) as r:
                assert acknowledged <= {each.meta.id for each in r.list(auction.bid)}
    # While nobody is there the time of every lot runs out: they are sold, paid for, once.
    clock = Clock(datetime.now(UTC) + timedelta(hours=5))
    with auction.app.open(store, clock=clock) as k:
        assert k.timers.wait_until_idle(20)
        assert k.jobs.wait_until_idle(20)
        assert problems_of(k) == []
        with k.read(auction.HOUSE) as r:
            assert r.count(auction.settled) == r.count(auction.won) == 3
            assert set(r.columns(auction.bidder, "bound").bound) == {0}

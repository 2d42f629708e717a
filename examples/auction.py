"""An auction house: one file, runs as it is.

What somebody offers is set aside until it is outbid. A lot is sold when its time is over, and every late bid
leaves the others two minutes to answer. A screen in the hall follows the prices; the house can tell who did
what when.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import klerk
from klerk import Args, Changes, Command, Context, JobRun, Klerk, KlerkError, Model, Ref, User, Visibility

# --- what there is ------------------------------------------------------------------------------------


class Login(klerk.Text, pattern=r"[a-z]{2,20}"): ...


class Iban(klerk.Text, pattern=r"[A-Z]{2}\d{8,30}", tags={"pii"}): ...


class Title(klerk.Text, min=1, max=80): ...


class Euro(klerk.Int, ge=0, le=10_000_000): ...


class Bidder(Model):
    login: Login
    iban: Iban
    limit: Euro
    bound: Euro = Euro(0)


class Lot(Model):
    title: Title
    ends: datetime
    price: Euro
    best: Ref["Bid"] | None = None
    bids: int = 0


class Bid(Model):
    lot: Ref[Lot]
    bidder: Ref[Bidder]
    amount: Euro


app = klerk.App("auction")
bidder, lot, bid = app.machine(Bidder), app.machine(Lot), app.machine(Bid)
(admitted,) = bidder.states("admitted")
running, sold, unsold, settled = lot.states(
    "running", "sold", "unsold", "settled", final=("unsold", "settled")
)
leading, outbid, won = bid.states("leading", "outbid", "won", final=("outbid", "won"))

by_login = bidder.index(lambda b: b.login, unique=True)
next_to_end = running.order("ends")
wanted = running.where(lambda x: x.bids > 0).order("-bids", "ends")

# --- bidders and their money --------------------------------------------------------------------------


@bidder.create(into=admitted)
def admit(a: Args, login: Login, iban: Iban, limit: Euro) -> Bidder:
    """Let somebody bid, up to a limit."""
    return Bidder(login=login, iban=iban, limit=limit)


@bidder.event(admitted, visibility=Visibility.MACHINES)
def set_aside(a: Args[Bidder], amount: Euro) -> Bidder:
    """Keep money for a bid."""
    return a.model.replace(bound=Euro(a.model.bound + amount))


@bidder.event(admitted, visibility=Visibility.MACHINES)
def release(a: Args[Bidder], amount: Euro) -> Bidder:
    """Give money back that was kept for a bid."""
    return a.model.replace(bound=Euro(a.model.bound - amount))


@bidder.rule(path="bound")
def within_the_limit(b: Bidder) -> bool:
    """That is more than the bidder's limit."""
    return b.bound <= b.limit


# --- lots ---------------------------------------------------------------------------------------------


@lot.create(into=running)
def put_up(a: Args, title: Title, ends: datetime, price: Euro) -> Lot:
    """Put a lot up, with the least that it shall bring."""
    return Lot(title=title, ends=ends, price=price)


@lot.event(running, visibility=Visibility.MACHINES)
def raise_price(a: Args[Lot], bid: Ref[Bid], amount: Euro) -> Lot:
    """Note the best bid, and leave the others two minutes to answer."""
    ends = max(a.model.ends, a.now + timedelta(minutes=2))
    return a.model.replace(price=amount, best=bid, bids=a.model.bids + 1, ends=ends)


@lot.event(sold, to=settled, visibility=Visibility.CODE)
def settle(a: Args[Lot]) -> None:
    """Note that a lot is paid for."""


@app.job(queue="bank", max_attempts=5)
def debit(job: JobRun, lot: Ref[Lot]) -> object:
    """Collect the price; that it is collected and that the job is done become true together."""
    with job.read() as r:
        item = r.get(lot)
        assert item.best is not None
        payer = r.get(r.get(item.best).bidder)
        job.log(f"{item.price} from {payer.iban} for {item.title}")
    return job.complete_with(settle(lot))


# --- bids ---------------------------------------------------------------------------------------------


@bid.create(into=leading)
def offer(a: Args, lot: Ref[Lot], bidder: Ref[Bidder], amount: Euro) -> Bid:
    """Bid for a lot."""
    return Bid(lot=lot, bidder=bidder, amount=amount)


offer.valid(lot=running)


@offer.rule(path="lot")
def in_time(a: Args, lot: Ref[Lot]) -> bool:
    """The time of this lot is over."""
    return a.now < a.read.get(lot).ends


@offer.rule(path="amount")
def enough(a: Args, lot: Ref[Lot], amount: Euro) -> bool:
    """Somebody offered as much already."""
    item = a.read.get(lot)
    return amount > item.price or (item.best is None and amount == item.price)


@bid.event(leading, to=outbid, visibility=Visibility.INTERNAL)
def lose(a: Args[Bid]) -> None:
    """Be outbid."""


@bid.event(leading, to=won, visibility=Visibility.MACHINES)
def win(a: Args[Bid]) -> None:
    """Have the best bid in the end."""


# --- what follows from what ---------------------------------------------------------------------------


def take_the_lead(a: Args[Bid], lot: Ref[Lot], bidder: Ref[Bidder], amount: Euro) -> Iterator[Command[Any]]:
    """Let the money of who is outbid go first: it may be the same bidder's."""
    before = a.read.get(lot).best
    if before is not None:
        yield lose(before)
    yield set_aside(bidder, amount)
    yield raise_price(lot, a.model.meta.id, amount)


def has_a_bid(a: Args[Lot]) -> bool:
    return a.model.best is not None


def best_bid_wins(a: Args[Lot]) -> list[Command[Bid]]:
    return [] if a.model.best is None else [win(a.model.best)]


def what_was_set_aside(a: Args[Lot]) -> list[Command[Bidder]]:
    if a.model.best is None:
        return []
    best = a.read.get(a.model.best)
    return [release(best.bidder, best.amount)]


offer.commands(take_the_lead)
outbid.on_enter.commands(lambda a: [release(a.model.bidder, a.model.amount)])
running.at(lambda a: a.model.ends).to_when({has_a_bid: sold}, otherwise=unsold)
sold.on_enter.commands(best_bid_wins).job(debit)
settled.on_enter.commands(what_was_set_aside)

# --- who may do and see what --------------------------------------------------------------------------


def works_here(a: Args) -> bool:
    return "house" in a.context.actor.roles


@app.allow.read(Lot)
@app.allow.field(Lot)
def anybody_sees_the_lots(a: Args) -> bool:
    return True


@app.deny.field(Lot, names=("best",))
def who_leads_is_for_the_house(a: Args) -> bool:
    return not works_here(a)


@app.allow.command(offer)
def bidders_bid_for_themselves(a: Args) -> bool:
    me: Bidder = a.read.get(a.parameters["bidder"])
    return me.login == a.context.actor.id


@app.allow.command(admit, put_up)
@app.allow.read()
@app.allow.field()
@app.allow.log()
def the_house_runs_it(a: Args) -> bool:
    return works_here(a)


@app.deny.field(tag="pii")
def accounts_are_for_the_bank(a: Args) -> bool:
    return True


# --- a story ------------------------------------------------------------------------------------------


class Clock:
    """Stands still until it is moved."""

    now = datetime(2025, 12, 6, 14, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by


HOUSE = Context(User("hanna", frozenset({"house"})))
GUEST = Context(User("guest"))


def who(login: str) -> Context:
    return Context(User(login))


def story(k: Klerk, clock: Clock, screen: Changes[Lot]) -> None:
    names = ("ada", "bob", "eve")
    ada, bob, eve = (
        each.id
        for each in k.handle_all([admit(Login(n), Iban("DE12345678"), Euro(900)) for n in names], HOUSE)
    )
    hour = timedelta(hours=1)
    lots = [("a clock", hour, 100), ("a chair", 2 * hour, 50), ("a stamp", 2 * hour, 700)]
    clock_lot, chair, stamp = (
        each.id
        for each in k.handle_all([put_up(Title(t), clock() + end, Euro(p)) for t, end, p in lots], HOUSE)
    )
    show(screen, "opened")

    # Ada's line is bad: she sends her bid twice, and it counts once.
    token = str(k.token())
    first = k.handle(offer(clock_lot, ada, Euro(100)), who("ada"), token=token)
    again = k.handle(offer(clock_lot, ada, Euro(100)), who("ada"), token=token)
    assert (again.repeated, again.id) == (True, first.id)
    show(screen, "Ada bids")

    # Bob's bid is meant for the price that he saw; Eve was faster, and he is asked again.
    with k.read(who("bob")) as r:
        seen = r.get(clock_lot)
    k.handle(offer(clock_lot, eve, Euro(150)), who("eve"))
    refused(k, offer(clock_lot, bob, Euro(seen.price + 60)), "bob", token=k.token(seen))
    refused(k, offer(clock_lot, ada, Euro(150)), "ada")
    refused(k, offer(clock_lot, ada, Euro(901)), "ada")
    refused(k, offer(clock_lot, eve, Euro(500)), "bob")
    show(screen, "Eve bids")

    # Many bids in flight: each is judged when its turn comes. What Ada has bound she cannot bind again.
    flying = [k.submit(offer(chair, ada, Euro(n)), who("ada")) for n in (60, 55, 70, 65, 80)]
    accepted = [each for each in flying if each.exception() is None]
    refused(k, offer(stamp, ada, Euro(850)), "ada")
    show(screen, f"{len(accepted)} of {len(flying)} bids")
    tell_what_is_wanted(k)

    # In the last minute Bob bids, so the others get two; nobody answers, and the stamp finds no one.
    clock.advance(hour - timedelta(minutes=1))
    k.handle(offer(clock_lot, bob, Euro(200)), who("bob"))
    clock.advance(timedelta(minutes=1))
    k.timers.wait_until_idle()
    show(screen, "an hour later")
    clock.advance(hour)
    k.timers.wait_until_idle()
    k.jobs.wait_until_idle()
    show(screen, "closed")
    tell_what_happened(k, clock_lot)


def refused(k: Klerk, command: Command[Bid], login: str, token: klerk.Token | None = None) -> None:
    try:
        k.handle(command, who(login), token=token)
    except KlerkError as error:
        print(f"  {login}: {str(error).splitlines()[0]}")


def show(screen: Changes[Lot], occasion: str) -> None:
    """Print what came up on the screen since the last time."""
    shown: dict[str, str] = {}
    while (change := screen.take(timeout=0)) is not None:
        if change.model is not None:
            item = change.model
            shown[item.title] = f"{item.title} {item.price} {item.meta.state.name}"
    print(f"{occasion}: {', '.join(shown.values())}")


def tell_what_is_wanted(k: Klerk) -> None:
    with k.read(GUEST) as r:
        first = r.query(next_to_end, limit=2)
        rest = r.query(next_to_end, limit=2, after=first.next)
        pages = [[item.title for item in page.items] for page in (first, rest)]
        print(f"next to end {pages}, most wanted {[item.title for item in r.list(wanted)]}")


def tell_what_happened(k: Klerk, item: Ref[Lot]) -> None:
    for version in k.history(item, HOUSE):
        what = version.model
        assert what is not None
        print(f"  {version.time:%H:%M} {version.actor}: {what.price} {what.meta.state.name}")
    (entry,) = k.log(HOUSE, event=admit).entries
    print(f"  {entry.time:%H:%M} {entry.actor}: {entry.event} {entry.commands[0].parameters}")
    with k.snapshot(HOUSE) as s:
        bids = [(each.amount, each.meta.state.name) for each in s.related(item, Bid.lot)]
        prices, bound = s.columns(settled, "price").price, s.columns(bidder, "bound").bound
        print(f"bids {bids}")
        print(f"{len(prices)} settled for {prices.sum()}, {s.count(unsold)} unsold, {bound.sum()} bound")


def main() -> None:
    clock = Clock()
    with app.open(None, clock=clock) as k, k.changes(GUEST, lot) as screen:
        story(k, clock, screen)


if __name__ == "__main__":
    main()

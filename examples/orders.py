"""An order and inventory system: one file, runs as it is.

Every piece of a product is on the shelf, promised to one order, or sent. An order is promised all of its
lines or none; who does not pay in time loses them to those who wait.
"""

import time
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

import klerk
from klerk import (
    Args,
    Command,
    Denied,
    Event,
    JobRun,
    Klerk,
    Model,
    Ref,
    Rejected,
    Result,
    State,
    User,
    Visibility,
)

# --- what there is ------------------------------------------------------------------------------------


class Sku(klerk.Text, pattern=r"[A-Z]{3}-\d{2}"): ...


class Name(klerk.Text, min=1, max=80): ...


class Login(klerk.Text, min=1, max=40): ...


class Email(klerk.Text, max=254, pattern=r"[^@\s]+@[^@\s]+", tags={"pii"}): ...


class Tracking(klerk.Text, pattern=r"KL-\d{6}"): ...


class Cents(klerk.Int, ge=0): ...


class Cost(Cents, tags={"internal"}): ...


class Pieces(klerk.Int, ge=0): ...


class Quantity(klerk.Int, ge=1, le=1_000): ...


class Channel(klerk.Enum):
    WEB = "web"
    PHONE = "phone"
    WAREHOUSE = "warehouse"
    NONE = "none"


class Shop(klerk.Context):
    """Who acts, when, and through which channel."""

    channel: Channel


class Product(Model):
    sku: Sku
    name: Name
    price: Cents
    cost: Cost
    received: Pieces = Pieces(0)
    available: Pieces = Pieces(0)
    reserved: Pieces = Pieces(0)
    sent: Pieces = Pieces(0)


class Customer(Model):
    login: Login
    name: Name
    email: Email


class Line(msgspec.Struct, frozen=True):
    """Some pieces of a product, at the price it had when they were ordered."""

    product: Ref[Product]
    quantity: Quantity
    price: Cents


class Order(Model):
    customer: Ref[Customer]
    lines: tuple[Line, ...]
    total: Cents
    channel: Channel
    can_wait: bool
    paid_at: datetime | None = None
    tracking: Tracking | None = None


app = klerk.App("orders")
product, customer, order = app.machine(Product), app.machine(Customer), app.machine(Order)
(listed,) = product.states("listed")
(known,) = customer.states("known")
placed, backordered, unpaid, paid, shipped, cancelled = order.states(
    "placed", "backordered", "unpaid", "paid", "shipped", "cancelled", final=("shipped", "cancelled")
)
by_sku = product.index(lambda p: p.sku, unique=True)
by_login = customer.index(lambda c: c.login, unique=True)
by_customer = order.index(lambda o: o.customer)
by_tracking = order.index(lambda o: o.tracking, unique=True)


@app.context_provider
def on_its_own(actor: klerk.Actor, now: datetime) -> Shop:
    """Jobs and timers act through no channel."""
    return Shop(actor, now, channel=Channel.NONE)


# --- products and their stock -------------------------------------------------------------------------


@product.create(into=listed)
def offer(a: Args, sku: Sku, name: Name, price: Cents, cost: Cost) -> Product:
    """Offer a product."""
    return Product(sku=sku, name=name, price=price, cost=cost)


@product.event(listed)
def receive(a: Args[Product], quantity: Quantity) -> Product:
    """Put delivered pieces on the shelf."""
    received, available = a.model.received + quantity, a.model.available + quantity
    return a.model.replace(received=Pieces(received), available=Pieces(available))


@product.event(listed, visibility=Visibility.CODE)
def reserve(a: Args[Product], quantity: Quantity) -> Product:
    """Promise pieces to an order."""
    available, reserved = a.model.available - quantity, a.model.reserved + quantity
    return a.model.replace(available=Pieces(available), reserved=Pieces(reserved))


@reserve.rule
def enough_on_the_shelf(a: Args[Product], quantity: Quantity) -> bool:
    """There are not enough pieces in stock."""
    return quantity <= a.model.available


@product.event(listed, visibility=Visibility.CODE)
def give_back(a: Args[Product], quantity: Quantity) -> Product:
    """Put pieces that were promised back on the shelf."""
    available, reserved = a.model.available + quantity, a.model.reserved - quantity
    return a.model.replace(available=Pieces(available), reserved=Pieces(reserved))


@product.event(listed, visibility=Visibility.CODE)
def send(a: Args[Product], quantity: Quantity) -> Product:
    """Let promised pieces leave the house."""
    reserved, sent = a.model.reserved - quantity, a.model.sent + quantity
    return a.model.replace(reserved=Pieces(reserved), sent=Pieces(sent))


@product.rule
def no_piece_is_lost(p: Product) -> bool:
    """What was received is not what is available, reserved and sent together."""
    return p.received == p.available + p.reserved + p.sent


# --- customers ----------------------------------------------------------------------------------------


@customer.create(into=known)
def join(a: Args, login: Login, name: Name, email: Email) -> Customer:
    """Become a customer."""
    return Customer(login=login, name=name, email=email)


# --- orders -------------------------------------------------------------------------------------------

Basket = tuple[tuple[Ref[Product], Quantity], ...]


@order.create(into=placed)
def place(a: Args[Any, Shop], customer: Ref[Customer], basket: Basket, can_wait: bool = False) -> Order:
    """Order what is in a basket, at today's prices."""
    lines = tuple(Line(product, quantity, a.read.get(product).price) for product, quantity in basket)
    total = Cents(sum(line.quantity * line.price for line in lines))
    return Order(customer=customer, lines=lines, total=total, channel=a.context.channel, can_wait=can_wait)


@place.rule
def basket_has_something(a: Args, basket: Basket) -> bool:
    """The basket is empty."""
    return len(basket) > 0


@place.rule
def basket_names_a_product_once(a: Args, basket: Basket) -> bool:
    """The basket has a product twice."""
    return len({product for product, _ in basket}) == len(basket)


@order.event(backordered, to=unpaid, visibility=Visibility.MACHINES)
def fill(a: Args[Order]) -> None:
    """Go on with an order that waited for stock."""


@order.event(unpaid, to=paid)
def pay(a: Args[Order], amount: Cents) -> Order:
    """Pay an order."""
    return a.model.replace(paid_at=a.now)


@pay.rule
def amount_is_the_total(a: Args[Order], amount: Cents) -> bool:
    """The amount is not the order's total."""
    return amount == a.model.total


@order.event(backordered, unpaid, to=cancelled)
def cancel(a: Args[Order]) -> None:
    """Call an order off before it is paid."""


@order.event(paid, to=shipped, visibility=Visibility.CODE)
def dispatch(a: Args[Order], tracking: Tracking) -> Order:
    """Hand the parcel to the carrier."""
    return a.model.replace(tracking=tracking)


@app.job(queue="shipping", max_attempts=5)
def ship(job: JobRun, order: Ref[Order]) -> object:
    """Have a paid order fetched; that it is on its way and that the job is done become true together."""
    with job.read() as r:
        parcel = r.get(order)
        job.log(f"fetch {len(parcel.lines)} lines for {r.get(parcel.customer).name}")
    return job.complete_with(dispatch(order, Tracking(f"KL-{job.id:06}")))


# --- what follows from what ---------------------------------------------------------------------------


def for_each_line(event: Event[Product, [Quantity]]) -> Callable[[Args[Order]], list[Command[Product]]]:
    return lambda a: [event(line.product, line.quantity) for line in a.model.lines]


def in_stock(a: Args, wanted: Order) -> bool:
    return all(line.quantity <= a.read.get(line.product).available for line in wanted.lines)


def can_be_filled(a: Args[Order]) -> bool:
    return in_stock(a, a.model)


def can_wait(a: Args[Order]) -> bool:
    return a.model.can_wait


def was_not_paid(a: Args[Order]) -> bool:
    return a.model.paid_at is None


def fill_backorders(a: Args[Product]) -> Iterator[Command[Order]]:
    """Serve those who wait, longest first; each is looked at after the ones before took their pieces."""
    for waiting in a.read.list(backordered):
        if in_stock(a, waiting):
            yield fill(waiting.meta.id)


# Who may not wait and finds too little in stock is refused by `reserve`, with everything else in the order.
placed.on_enter.to_when({can_be_filled: unpaid, can_wait: backordered}, otherwise=unpaid)
unpaid.on_enter.commands(for_each_line(reserve))
unpaid.on_exit.commands(for_each_line(give_back), when=was_not_paid)
unpaid.after(timedelta(minutes=30)).to(cancelled)
backordered.after(timedelta(days=60)).to(cancelled)
paid.on_enter.job(ship)
shipped.on_enter.commands(for_each_line(send))
listed.on(receive).commands(fill_backorders)
listed.on(give_back).commands(fill_backorders)

# --- who may do and see what --------------------------------------------------------------------------


def has_role(a: Args, role: str) -> bool:
    return role in a.context.actor.roles


def is_them(a: Args, customer: Ref[Customer]) -> bool:
    return a.read.get(customer).login == a.context.actor.id


@app.allow.read(Product)
@app.allow.field(Product)
@app.allow.command(join)
def anybody(a: Args) -> bool:
    return True


@app.allow.command(place)
def customers_order_for_themselves(a: Args) -> bool:
    return is_them(a, a.parameters["customer"])


@app.allow.command(pay, cancel)
@app.allow.read(Order)
@app.allow.field(Order)
def customers_have_their_own_orders(a: Args[Order]) -> bool:
    return is_them(a, a.model.customer)


@app.allow.read(Customer)
@app.allow.field(Customer)
def customers_see_themselves(a: Args[Customer]) -> bool:
    return is_them(a, a.model.meta.id)


@app.allow.command(offer, place, pay, cancel)
@app.allow.read()
@app.allow.field()
def the_office_does_and_sees_all(a: Args) -> bool:
    return has_role(a, "office")


@app.allow.command(receive)
@app.allow.read(Order, Customer)
@app.allow.field(Order, Customer)
def the_warehouse_packs(a: Args) -> bool:
    return has_role(a, "warehouse")


@app.deny.command(receive)
def goods_come_in_at_the_warehouse(a: Args[Product, Shop]) -> bool:
    return a.context.channel is not Channel.WAREHOUSE


@app.deny.field(tag="internal")
def costs_are_for_the_office(a: Args) -> bool:
    return not has_role(a, "office")


@app.deny.field(Customer, tag="pii")
def addresses_are_not_for_the_warehouse(a: Args[Customer]) -> bool:
    return has_role(a, "warehouse")


# --- a story ------------------------------------------------------------------------------------------


class Clock:
    """Stands still until it is moved."""

    now = datetime(2025, 12, 1, 9, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by


def web(login: str) -> Shop:
    return Shop(User(login), channel=Channel.WEB)


OFFICE = Shop(User("olga", frozenset({"office"})), channel=Channel.PHONE)
WAREHOUSE = Shop(User("walt", frozenset({"warehouse"})), channel=Channel.WAREHOUSE)
ADA, BOB, EVE = web("ada"), web("bob"), web("eve")


def story(k: Klerk, clock: Clock) -> None:
    tea = k.handle(offer(Sku("TEA-01"), Name("tea"), Cents(700), Cost(310)), OFFICE).id
    mug = k.handle(offer(Sku("MUG-01"), Name("mug"), Cents(900), Cost(450)), OFFICE).id
    k.handle_all([receive(tea, Quantity(10)), receive(mug, Quantity(3))], WAREHOUSE)
    ada = k.handle(join(Login("ada"), Name("Ada"), Email("ada@example.org")), ADA).id
    eve = k.handle(join(Login("eve"), Name("Eve"), Email("eve@example.org")), EVE).id
    tell_stock(k, "delivered")

    # An order is promised all its lines, or there is none: of three mugs one is left.
    adas = k.handle(place(ada, ((tea, Quantity(2)), (mug, Quantity(2)))), ADA)
    tell_stock(k, f"Ada owes {adas.model.total}")
    try:
        k.handle(place(ada, ((tea, Quantity(1)), (mug, Quantity(2)))), ADA)
    except Rejected as error:
        tell_stock(k, f"again: {error}")

    # One transaction that decides on the way: Bob would rather have more tea than wait for mugs.
    def bob_comes(a: Args) -> Generator[Command[Any], Result[Any], None]:
        bob = yield join(Login("bob"), Name("Bob"), Email("bob@example.org"))
        wish = yield place(bob.id, ((mug, Quantity(2)),), can_wait=True)
        if wish.model.meta.state is backordered:
            yield cancel(wish.id)
            yield place(bob.id, ((tea, Quantity(4)),))

    *_, bobs = k.handle_all(bob_comes, BOB)
    tell_stock(k, f"Bob owes {bobs.model.total}")

    # What is paid is shipped by a job, which ends with the command that says so.
    clock.advance(timedelta(minutes=20))
    k.handle(pay(bobs.id, bobs.model.total), BOB)
    k.jobs.wait_until_idle()
    tell_stock(k, f"Bob's order is {state_of(k, bobs.id)}")

    # Eve waits for mugs. Ada does not pay: after half an hour her order is cancelled, and Eve's is filled.
    eves = k.handle(place(eve, ((mug, Quantity(3)),), can_wait=True), EVE)
    tell_stock(k, f"Eve's order is {state_of(k, eves.id)}")
    clock.advance(timedelta(minutes=10))
    while state_of(k, adas.id) is unpaid:
        time.sleep(0.01)
    tell_stock(k, f"Ada's order is {state_of(k, adas.id)}, Eve's is {state_of(k, eves.id)}")
    tell_what_concerns_bob(k, tea, adas.id)


def state_of(k: Klerk, order: Ref[Order]) -> State[Order]:
    with k.read(OFFICE) as r:
        return r.get(order).meta.state


def tell_stock(k: Klerk, occasion: str) -> None:
    with k.read(WAREHOUSE) as r:
        rows = [f"{p.name} {p.available} + {p.reserved}, {p.sent} sent" for p in r.list(product)]
    print(f"{occasion:<45} | {' | '.join(rows)}")


def tell_what_concerns_bob(k: Klerk, tea: Ref[Product], adas: Ref[Order]) -> None:
    with k.read(BOB) as r:
        bob = r.find(by_login, "bob")
        assert bob is not None
        for each in r.list(by_customer(bob.meta.id)):
            print(f"Bob sees: order {each.meta.state}, {each.total}, tracking {each.tracking}")
        print(f"Bob sees: tea for {r.get(tea).price}, which cost {r.get(tea).cost}")
        try:
            r.get(adas)
        except Denied as error:
            print(f"Bob sees: {error}")


def tell_figures(k: Klerk) -> None:
    with k.read(OFFICE) as r:
        stock = r.columns(product, "available", "reserved", "sent", "price", "cost")
        sales = r.columns(shipped, "total", "paid_at")
    worth = ((stock.available + stock.reserved) * stock.cost).sum()
    margin = (stock.sent * (stock.price - stock.cost)).sum()
    print(f"in stock for {worth}; sold for {sales.total.sum()} until {sales.paid_at.max()}, margin {margin}")


def main() -> None:
    clock = Clock()
    with app.open(None, clock=clock) as k:
        story(k, clock)
        tell_figures(k)


if __name__ == "__main__":
    main()

"""An online shop's payments: everything that reaches outside is a job. Runs as it is, and prints its story.

An order is charged by a payment provider, which may be busy, or decline. The charge carries a key that stays
the same however often the job is tried, so that nobody pays twice; and it ends with the command that marks
the order as paid, in one transaction with the job's own end. Receipts are mailed one at a time for each
customer, and no faster than the mail server likes. Once all orders of the day were charged, a callback of
their batch reports.
"""

import time
from collections import Counter
from datetime import timedelta

import klerk
from klerk import (
    App,
    Args,
    Backoff,
    Batch,
    Completion,
    Context,
    Discard,
    JobRun,
    Klerk,
    Model,
    Ref,
    Unique,
    User,
)


class Cents(klerk.Int, ge=1, le=1_000_000): ...


class Order(Model):
    customer: str
    total: Cents
    receipt: str = ""


class Declined(Exception):
    """The provider will not charge this card."""


class Provider:
    """A payment provider that is busy at the first call for each key, and charges each key once."""

    def __init__(self) -> None:
        self.charged: dict[str, int] = {}
        self.calls: Counter[str] = Counter()

    def charge(self, key: str, customer: str, cents: int) -> str:
        """Return a receipt."""
        self.calls[key] += 1
        if customer == "Mallory":
            raise Declined("the card was reported stolen")
        if self.calls[key] == 1:
            raise TimeoutError("the provider is busy")
        self.charged[key] = cents
        return f"receipt over {cents}"


provider = Provider()
app = App("payments")
order = app.machine(Order)
placed, paid, refused = order.states("placed", "paid", "refused", final=("paid", "refused"))
app.queue("provider", concurrency=2, weight=3)
app.queue("mail", rate="1000/s")


@order.create(into=placed)
def place(a: Args, customer: str, total: Cents) -> Order:
    """Place an order."""
    return Order(customer=customer, total=total)


@order.event(placed, to=paid)
def mark_paid(a: Args[Order], receipt: str) -> Order:
    """Note that it is paid."""
    return a.model.replace(receipt=receipt)


@order.event(placed, to=refused)
def refuse(a: Args[Order]) -> None:
    """Note that it cannot be paid."""


@app.job(
    queue="provider",
    max_attempts=5,
    retry=Backoff(base=timedelta(milliseconds=5)),
    on_error={Declined: Discard()},
    unique=Unique(by=("order",)),
)
def charge(job: JobRun, order: Ref[Order]) -> Completion:
    """Charge an order, and mark it as paid."""
    with job.read() as r:
        what = r.get(order)
    try:
        receipt = provider.charge(job.idempotency_key, what.customer, what.total)
    except Declined:
        job.handle(refuse(order))
        raise
    return job.complete_with(mark_paid(order, receipt))


def customer_of(order: Ref[Order], customer: str) -> str:
    """Return the key of a receipt: no two for one customer are mailed at once."""
    return customer


@app.job(queue="mail", key=customer_of, key_concurrency=1)
async def mail_receipt(job: JobRun, order: Ref[Order], customer: str) -> None:
    """Mail a receipt."""
    job.log(f"receipt mailed to {customer}")


@app.job()
def report(job: JobRun, day: str, all_well: bool) -> None:
    """Report how a day's payments went."""
    print(f"{day}: {'all orders are paid' if all_well else 'some orders could not be charged'}")


@app.job(cron="0 1 * * *", timezone="Europe/Oslo", missed="once")
def charge_left_over(job: JobRun) -> None:
    """Charge at night what is still unpaid."""
    with job.read() as r:
        left = r.list(placed)
    for each in job.track(left):
        job.log(f"order {each.meta.id} is still unpaid")


paid.on_enter.job(lambda a: mail_receipt(a.model.meta.id, a.model.customer))


@app.allow.command()
@app.allow.read()
@app.allow.field()
def the_shop_does_everything(a: Args) -> bool:
    return a.context.actor == SHOP.actor


SHOP = Context(User("shop"))
ORDERS = (("Ada", 1_200), ("Bob", 350), ("Ada", 80), ("Mallory", 99_900))


def charge_all(k: Klerk, day: str) -> None:
    """Place the day's orders, and charge them as a batch."""
    orders = [k.handle(place(customer, Cents(total)), SHOP).id for customer, total in ORDERS]
    charges = [charge(each) for each in orders]
    made = k.jobs.schedule(Batch(charges, succeeded=report(day, True), failed=report(day, False)))
    # The first order's job is still to run, so it stands for a second request: nobody is charged twice.
    (same,) = k.jobs.schedule(charge(orders[0]))
    is_known = any(each.id == same.id for each in made)
    print(f"made {len(made)} jobs; the second request {'is known' if is_known else 'made another'}")


def main() -> None:
    """Tell the story."""
    with app.open(None) as k:
        k.jobs.pause("provider")
        charge_all(k, "Monday")
        first = k.jobs.find(kind=charge)
        assert first is not None
        print("why does it wait?", *k.jobs.why(first.id).codes)
        k.jobs.resume("provider")
        while k.jobs.live():
            # Those that wait for another attempt are not idle for good.
            k.jobs.wait_until_idle(1)
            time.sleep(0.01)
        with k.read(SHOP) as r:
            for each in r.list(order):
                print(f"{each.customer:8}{each.total:6} {each.meta.state.name:8}{each.receipt}".rstrip())
        discarded = k.jobs.find(state="discarded")
        assert discarded is not None
        print("discarded:", discarded.error)
        print("charged:", sum(provider.charged.values()), "in", provider.calls.total(), "calls")
        print("mailed:", len(k.jobs.query(kind=mail_receipt, state="completed").items))


if __name__ == "__main__":
    main()

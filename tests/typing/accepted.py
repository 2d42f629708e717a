"""What type checkers must accept: run by ``make lint``, never by pytest.

Every form in which users write functions, with the types that they get back.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import klerk
from klerk import (
    Args,
    Columns,
    Command,
    Context,
    CreateEvent,
    Event,
    JobRecord,
    JobRequest,
    JobRun,
    Klerk,
    LogEntry,
    LogPage,
    Model,
    Page,
    Readable,
    Reader,
    Ref,
    Result,
    Snapshot,
    State,
    User,
    Version,
    View,
    Visibility,
)


class Name(klerk.Text, min=1, max=80, lines=1): ...


class Cents(klerk.Int, ge=0): ...


class Degrees(klerk.Float, ge=-273.15): ...


class Colour(klerk.Enum):
    RED = "red"


class Account(Model):
    name: Name
    balance: Cents = Cents(0)
    heat: Degrees | None = None
    colour: Colour = Colour.RED


class Entry(Model):
    account: Ref[Account]
    amount: Cents
    at: datetime
    others: tuple[Ref[Account], ...] = ()


class Ctx(klerk.Context):
    tenant: str


app = klerk.App("bank")
account, entry = app.machine(Account), app.machine(Entry)
ONE = Cents(1)
(active,) = account.states("active")
booked, settled = entry.states("booked", "settled", final=("settled",))
by_name = account.index(lambda m: m.name, unique=True)
assert_type(active, State[Account])


@app.context_provider
def context_of(actor: klerk.Actor, now: datetime) -> Ctx:
    return Ctx(actor, now, tenant="none")


# --- events: with and without a context class, a return value and parameters ---------------------------


@account.create(into=active)
def open_account(a: Args, name: Name) -> Account:
    assert_type(a.context, Context)
    assert_type(a.now, datetime)
    return Account(name=name)


@entry.create(into=booked, visibility=Visibility.EXTERNAL)
def book(a: Args[Entry, Ctx], account: Ref[Account], amount: Cents = ONE) -> Entry | None:
    assert_type(a.context, Ctx)
    assert_type(a.context.tenant, str)
    return Entry(account=account, amount=amount, at=a.context.now)


@account.event(active)
def deposit(a: Args[Account, Ctx], amount: Cents) -> Account:
    assert_type(a.model, Account)
    assert_type(a.model.meta.id, Ref[Account])
    return a.model.replace(balance=Cents(a.model.balance + amount))


@account.event(active, visibility=Visibility.INTERNAL)
def close(a: Args[Account]) -> None: ...


@account.event(active, to=active, visibility=Visibility.MACHINES)
def renew(a: Args[Account], name: Name) -> Account:
    return a.model.replace(name=name)


@entry.event(booked, to=settled)
def settle(a: Args[Entry]) -> Entry | None:
    if a.read.get(a.model.account).balance < 0:
        return None
    return a.model


assert_type(open_account(Name("Ada")), Command[Account])
assert_type(deposit(Ref[Account](1), amount=Cents(1)), Command[Account])
assert_type(book(Ref[Account](1)), Command[Entry])
assert_type(renew(Ref[Account](1), Name("Eve")), Command[Account])
assert_type(renew.visibility, Visibility)


# --- rules: all parameters, some of them, or none ------------------------------------------------------


@deposit.rule
def small(a: Args[Account], amount: Cents) -> bool:
    return amount < 10


@deposit.rule
def has_tenant(a: Args[Account, Ctx]) -> bool:
    return a.context.tenant != ""


@book.rule
def moderate(a: Args, amount: Cents) -> bool:
    return a.read.count(active) > 0 and "staff" in a.context.actor.roles


@account.rule
def is_named(model: Account) -> bool:
    return bool(model.name)


@deposit.rule(path="amount")
def smaller(a: Args[Account, Ctx], amount: Cents) -> bool:
    return a.model.balance > amount


@book.rule(path="account")
def any_context(a: Args) -> bool:
    return a.now.year > 2000


@account.rule(path="name")
def is_short(model: Account) -> bool:
    return len(model.name) < 9


# --- parameters: validators, what may be chosen, JSON and forms ----------------------------------------


@book.validator
def not_both(account: Ref[Account], amount: Cents) -> bool:
    return account > 0 and amount > 0


assert_type(not_both(Ref[Account](1), Cents(1)), bool)
book.valid(account=active, amount=[Cents(1)])
deposit.valid(amount=lambda a: [a.model.balance])
settle.valid()


def convert(data: bytes, inputs: dict[str, list[str]], swedish: klerk.Translation) -> None:
    assert_type(open_account.from_json(data), Command[Account])
    assert_type(deposit.from_json({"amount": 1}, Ref[Account](1), translation=swedish), Command[Account])
    assert_type(book.from_form(inputs, time_zone=UTC), Command[Entry])
    assert_type(klerk.label(book, swedish, parameter="account"), str)
    assert_type(klerk.label(Account.name), str)


class Swedish(klerk.Translation):
    def text(self, key: str, default: str, values: Mapping[str, Any]) -> str:
        return {"too_long": "högst {max} tecken"}.get(key, default).format(**values)


def swedish_desk(error: klerk.InvalidValue) -> Context:
    for problem in error.problems:
        assert_type(problem.values, Mapping[str, Any])
    return Context(User("ada"), translation=Swedish())


@app.allow.command(open_account, deposit)
def same_tenant(a: Args[Any, Ctx]) -> bool:
    return a.context.tenant == "a"


@app.allow.read(Account)
def own(a: Args[Account]) -> bool:
    return a.model.name == a.context.actor.id


@app.deny.field(Account, names=("balance",))
def nobody(a: Args) -> bool:
    return a.field == "balance"


# --- jobs and blocks -----------------------------------------------------------------------------------


@app.job(queue="mail", rate="5/s")
async def greet(job: JobRun, account: Ref[Account]) -> None:
    async with job.read() as r:
        assert_type(r.get(account), Account)


@app.job()
def report(job: JobRun, account: Ref[Account], amount: Cents) -> None:
    assert_type(job.handle(deposit(account, amount)), Result[Account])


def worth_it(a: Args[Account], amount: Cents) -> bool:
    return amount > 5


def rich(a: Args[Account]) -> bool:
    return a.model.balance > 1000


def reports(a: Args[Account], amount: Cents) -> JobRequest:
    return report(a.model.meta.id, amount)


def tell(a: Args[Account], amount: Cents) -> None:
    print(a.model.name, amount)


def entries(a: Args[Account], amount: Cents) -> Iterator[Command[Entry]]:
    yield book(a.model.meta.id, amount)


(
    active.on(deposit)
    .update(lambda a: a.model.replace(balance=Cents(0)), when=rich)
    .commands(entries, when=worth_it)
    .commands(lambda a: book(a.model.meta.id))
    .job(greet)
    .job(reports)
    .job(lambda a: [report(a.model.meta.id, Cents(1))])
    .unmanaged_job(lambda a: print(a.model.name))
    .unmanaged_job(tell)
    .delete(when=lambda a: a.model.balance == 0)
)
active.on(close).to_when({rich: active, worth_it: active}, otherwise=active)
active.on(close).to_when({rich: active}, when=lambda a: a.model.balance > 0)
active.on(close).to_when({rich: active}, otherwise=active, when=worth_it)
active.on_exit.commands(lambda a: None)
active.after(timedelta(days=1)).to_when({lambda a: a.model.balance > 1: active})
booked.at(lambda a: a.model.at).to(settled)
open_account.job(greet, when=lambda a: a.now.year > 2000)
open_account.commands(lambda a: book(a.model.meta.id))


# --- handling and reading ------------------------------------------------------------------------------


def transfer(a: Args) -> Generator[Command[Any], Result[Any], None]:
    opened = yield open_account(Name("Ada"))
    yield deposit(opened.id, Cents(1))


def several(a: Args[Any, Ctx]) -> list[Command[Account]]:
    return [deposit(model.meta.id, Cents(1)) for model in a.read.list(active)]


def handle(k: Klerk, desk: Ctx) -> None:
    result = k.handle(open_account(Name("Ada")), desk)
    assert_type(result, Result[Account])
    assert_type(result.id, Ref[Account])
    assert_type(result.model, Account)
    assert_type(k.check(deposit(result.id, Cents(1)), desk), Result[Account])
    future = k.submit(deposit(result.id, Cents(1)), desk)
    assert_type(future.result(timeout=1), Result[Account])
    future.add_done_callback(lambda done: print(done.result().id))
    k.handle_all([open_account(Name("Eve")), book(result.id, Cents(1))], desk)
    k.handle_all(transfer, desk)
    k.handle_all(several, desk)
    k.handle_all((deposit(result.id, Cents(n)) for n in range(3)), desk, dry_run=True)
    assert_type(k.jobs.schedule(greet(result.id), report(result.id, Cents(1))), tuple[JobRecord, ...])


def read(k: Klerk) -> None:
    with k.read(Context(User("ada"))) as r:
        assert_type(r.find(by_name, Name("Ada")), Account | None)
        assert_type(r.first(by_name(Name("Ada"))), Account | None)
        assert_type(list(r.list(booked)), list[Entry])
        assert_type(r.list(active)[0].meta.state, State[Account])
        assert_type(r.get(r.list(entry)[0].account).name, Name)
        assert_type(r.count(account), int)
        assert_type(r.columns(booked, "amount", "at"), Columns)
        assert_type(r.valid_references(book, "account"), Sequence[Any])
        ada = r.list(active)[0]
        assert_type(r.possible_events(ada), tuple[Event[Account, ...], ...])
        assert_type(r.possible_events(ada.meta.id)[0](ada.meta.id, Cents(1)), Command[Account])
        assert_type(r.possible_creations(entry), tuple[CreateEvent[Entry, ...], ...])
        assert_type(r.possible_creations(Entry, visibility=Visibility.CODE)[0](ada.meta.id), Command[Entry])
        assert_type(r.log(actor=User("ada"), event=open_account, limit=3).entries, tuple[LogEntry, ...])
        assert_type(r.history(r.list(entry)[0].account)[0], Version[Account])
        assert_type(r.as_of(r.list(entry)[0].account, 7), Account)


def what_next(a: Args[Account]) -> bool:
    return close in a.read.possible_events(a.model, a.context) and bool(
        a.read.possible_creations(account, a.context)
    )


async def aio(k: Klerk, desk: Ctx) -> None:
    assert_type(await k.aio.handle(open_account(Name("Ada")), desk), Result[Account])
    future = await k.aio.submit(open_account(Name("Ada")), desk)
    assert_type(await future, Result[Account])
    async with k.aio.read(desk) as r:
        assert_type(r.find(by_name, Name("Ada")), Account | None)
    async with k.aio.snapshot(desk) as s:
        assert_type(s.first(active), Account | None)
    assert_type(await k.aio.log(desk, since=datetime.now(UTC)), LogPage)
    assert_type(await k.aio.handle_all(transfer, desk), list[Result[Any]])


# --- views, pages, related models and snapshots --------------------------------------------------------


rich_ones = active.where(lambda m: m.balance > 5)
by_balance = rich_ones.order("-balance", "name")
by_colour = account.index(lambda m: m.colour)
by_other = entry.index(lambda m: m.others, each=True)
assert_type(rich_ones, View[Account])
assert_type(account.where(is_named), View[Account])
assert_type(rich_ones.where(is_named).where(lambda m: m.name != ""), View[Account])


def below(m: Account, limit: Cents) -> bool:
    return m.balance < limit


poor = account.where(below)
assert_type(poor(Cents(3)), View[Account])
assert_type(poor(limit=Cents(3)), View[Account])
assert_type(active.order("name").where(below)(Cents(3)), View[Account])


def views(k: Klerk, desk: Context) -> None:
    with k.read(desk) as r:
        reads(r)
        reads(r.readable)
        assert_type(r.readable.get(Ref[Account](1)), Account)
    with k.snapshot(desk) as s:
        reads(s)
        reads(s.readable)
        assert_type(s.get(Ref[Account](1)), Account)
        assert_type(s.sequence, int)


def reads(r: Reader | Readable | Snapshot) -> None:
    assert_type(r.first(by_balance), Account | None)
    assert_type(list(r.list(by_balance)), list[Account])
    assert_type(list(r.list(by_balance.in_states(active))), list[Account])
    assert_type(list(r.list(by_colour(Colour.RED))), list[Account])
    assert_type(r.find(by_other, Ref[Account](1)), Entry | None)
    assert_type(r.exists(poor(Cents(3))), bool)
    page = r.query(account, where=lambda m: m.balance > 1, sort=("-balance", "name"), limit=10)
    assert_type(page, Page[Account])
    assert_type(page.items, tuple[Account, ...])
    assert_type(page.next, str | None)
    assert_type([m.balance for m in page], list[Cents])
    r.query(booked, sort=lambda m: (m.at, m.amount), descending=True, after=page.next)
    r.query(active, sort="name", before=page.previous)
    assert_type(list(r.related(Ref[Account](1), Entry.account)), list[Any])
    assert_type(list(r.related(Ref[Account](1))), list[Any])

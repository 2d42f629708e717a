"""The commit log as an audit trail: everything is in it, is found by every filter, and shown to few.

Random histories are compared with what a plain list of transactions says, while the index is in memory, in
the store, and both; kills leave the index behind. Erased texts are looked for in every file of the store.
"""

import asyncio
import contextlib
import random
import shutil
import signal
import string
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from designs import (
    NOON,
    TESTER,
    Account,
    Bank,
    Cents,
    Clock,
    Name,
    Spawned,
    eventually,
    permit_everything,
    processed,
    python_environment,
)

import klerk
from klerk import App, Args, Context, JobRun, Klerk, LogEntry, Model, Ref, System, User, limits
from klerk.__main__ import main
from klerk.audit.commit_log import transactions
from klerk.codec import APPLIED_KEY, ERASED_KEY, INDEXED_KEY
from klerk.storage import Family, MemoryStorage, RocksStorage

ADA, BOB = Context(User("ada")), Context(User("bob"))


class AuditedBank(Bank):
    """A bank whose commit log anyone may read and erase."""

    def __init__(self) -> None:
        super().__init__()
        self.app.allow.log()(lambda a: True)
        self.app.allow.erasure()(lambda a: True)


@pytest.fixture(params=["memory", "disk"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path / "store"


def sequences(entries: tuple[LogEntry, ...]) -> list[int]:
    return [entry.sequence for entry in entries]


def all_pages(k: Klerk, **which: Any) -> list[LogEntry]:
    """Every entry that fits, page by page."""
    found: list[LogEntry] = []
    page = k.log(TESTER, **which)
    while True:
        found += page.entries
        if page.next is None:
            return found
        assert page.entries
        page = k.log(TESTER, **which, after=page.next)


# --- what is in an entry ------------------------------------------------------------------------------


class Amount(klerk.Int, ge=0): ...


class Wine(klerk.Enum):
    RED = "red"
    WHITE = "white"


class Order(Model):
    bottles: Amount
    wine: Wine
    price: Decimal
    due: datetime
    parts: tuple[str, ...] = ()


class Shop:
    def __init__(self) -> None:
        self.app = App("shop")
        self.orders = orders = self.app.machine(Order)
        self.open, self.sent = orders.states("open", "sent")
        permit_everything(self.app)
        self.app.allow.log()(lambda a: True)

        @orders.create(into=self.open)
        def place(
            a: Args, bottles: Amount, wine: Wine, price: Decimal, due: datetime, *, gift: bool
        ) -> Order:
            return Order(bottles=bottles, wine=wine, price=price, due=due, parts=("a", "b"))

        @orders.event(self.open, to=self.sent)
        def send(a: Args[Order], parts: tuple[str, ...]) -> None: ...

        @orders.event(self.open, self.sent)
        def cancel(a: Args[Order]) -> None: ...

        @self.app.job()
        def pack(job: JobRun, order: Ref[Order]) -> None:
            job.handle(send(order, ("box", "ribbon")))

        @orders.create(into=self.open)
        def nothing(a: Args) -> None: ...

        self.open.on(cancel).delete()
        self.sent.on(cancel).delete()
        self.open.on_enter.job(pack)
        self.place, self.send, self.cancel, self.nothing = place, send, cancel, nothing


def test_an_entry_tells_who_did_what_when_for_whom_and_why(where: Path | None) -> None:
    shop, clock = Shop(), Clock()
    context = Context(User("ada"), on_behalf_of=User("bob"))
    with shop.app.open(where, clock=clock, durability="memory" if where is None else "sync") as k:
        order = k.handle(
            shop.place(Amount(6), Wine.RED, Decimal("9.90"), NOON + timedelta(hours=1), gift=True), context
        ).id
        assert k.jobs.wait_until_idle(20)
        k.handle(shop.cancel(order), BOB.at(NOON - timedelta(days=20_000)))
        k.handle(shop.nothing(), BOB)
        entries = all_pages(k, newest_first=False)
    placed, sent, ended, cancelled, nothing = entries
    assert sequences(tuple(entries)) == [1, 2, 3, 4, 5]
    assert (placed.actor, placed.on_behalf_of, placed.cause) == (("user", "ada"), ("user", "bob"), 0)
    assert (placed.time, placed.event) == (NOON, "Order.place")
    (command,) = placed.commands
    assert (command.target, command.depth) == (order, 0)
    assert command.parameters == {
        "bottles": 6,
        "wine": Wine.RED,
        "price": Decimal("9.90"),
        "due": NOON + timedelta(hours=1),
        "gift": True,
    }
    assert isinstance(command.parameters["wine"], Wine)
    assert (placed.created, placed.updated, placed.deleted, len(placed.jobs)) == ((order,), (), (), 1)
    assert (sent.actor.kind, sent.cause, sent.updated, sent.jobs) == ("system", 1, (order,), ())
    assert sent.commands[0].parameters == {"parts": ("box", "ribbon")}
    # What became of the job is a transaction of its own.
    assert (ended.event, ended.commands, ended.jobs) == ("", (), ())
    assert cancelled.time == NOON - timedelta(days=20_000)
    assert (cancelled.updated, cancelled.deleted) == ((), (order,))
    assert (nothing.commands[0].target, nothing.created) == (None, ())
    assert not any(entry.erased for entry in entries)
    assert str(placed.actor) == "user ada"


def test_secondary_commands_timers_and_lists_are_in_their_transaction() -> None:
    bank, clock = AuditedBank(), Clock()
    bank.active.after(timedelta(hours=1)).to(bank.closed)
    with bank.app.open(clock=clock) as k:
        one, two = k.handle_all([bank.enter("Ada", 10), bank.enter("Bob")], ADA)
        k.handle(bank.transfer(one.id, two.id, 3), ADA)
        clock.advance(timedelta(hours=2))
        k.handle(bank.enter("Eve"), ADA)
        eventually(lambda: k.log(TESTER, event="timer").entries)
        entries = all_pages(k, newest_first=False)
        timers = all_pages(k, event="timer")
    assert [(c.event, c.target, c.depth) for c in entries[0].commands] == [
        ("Account.enter", 1, 0),
        ("Account.enter", 2, 0),
    ]
    assert [(c.event, c.target, c.depth, c.parameters) for c in entries[1].commands] == [
        ("Account.transfer", 1, 0, {"to": 2, "amount": 3}),
        ("Account.deposit", 2, 1, {"amount": 3}),
    ]
    assert entries[1].updated == (1, 2)
    assert timers[0].actor.kind == "system"
    assert timers[0].commands[0].parameters == {}


# --- finding ------------------------------------------------------------------------------------------


class Story:
    """A random history, and what a list knows of it."""

    def __init__(self, rng: random.Random, bank: AuditedBank) -> None:
        self.rng = rng
        self.bank = bank
        self.alive: list[int] = []
        self.ever: list[int] = []
        self.now = NOON

    def go_on(self, k: Klerk, steps: int) -> None:
        """Handle random commands of random actors at times that mostly, but not always, go forward."""
        rng, bank = self.rng, self.bank
        for _ in range(steps):
            self.now += timedelta(minutes=rng.choice([0, 1, 30, 200]))
            time = self.now if rng.random() < 0.8 else NOON + timedelta(hours=rng.randrange(-30, 60))
            actor = User(rng.choice(["ada", "bob", "eve"]))
            behalf = User(rng.choice(["ada", "eve"])) if rng.random() < 0.2 else None
            context = Context(actor, time, behalf)
            what = rng.random()
            if what < 0.2 or len(self.alive) < 2:
                made = k.handle_all([bank.enter(f"n{len(self.ever) + i}", 100) for i in (0, 1)], context)
                self.alive += [each.id for each in made]
                self.ever += [each.id for each in made]
            elif what < 0.3:
                k.handle(bank.remove(self.alive.pop(rng.randrange(len(self.alive)))), context)
            elif what < 0.35:
                k.handle_all([bank.deposit(id, 1) for id in rng.choices(self.alive, k=3)], context)
            elif what < 0.6:
                k.handle(bank.transfer(*rng.sample(self.alive, 2), 1), context)
            else:
                k.handle(bank.deposit(rng.choice(self.alive), 1), context)

    def filters(self) -> dict[str, Any]:
        """Return a random filter."""
        rng, bank = self.rng, self.bank
        chosen: dict[str, Any] = {"newest_first": rng.random() < 0.5, "limit": rng.choice([1, 3, 50, 1000])}
        if rng.random() < 0.4:
            chosen["model"] = rng.choice(self.ever)
        if rng.random() < 0.4:
            chosen["actor"] = rng.choice([User("ada"), ("user", "bob"), User("eve"), User("nobody")])
        if rng.random() < 0.4:
            chosen["event"] = rng.choice([bank.deposit, bank.enter, "Account.remove", "timer"])
        for name in ("since", "until"):
            if rng.random() < 0.4:
                chosen[name] = NOON + timedelta(minutes=rng.randrange(-2_000, 8_000))
        return chosen


def expected(entries: list[LogEntry], which: dict[str, Any]) -> list[int]:
    """What a filter has to find, of all entries."""
    actor, event = which.get("actor"), which.get("event")
    name = (actor.kind, actor.id) if isinstance(actor, User) else actor
    found = [
        entry.sequence
        for entry in entries
        if ("model" not in which or any(c.target == which["model"] for c in entry.commands))
        and (name is None or name in (entry.actor, entry.on_behalf_of))
        and (event is None or any(c.event == str(event) for c in entry.commands))
        and ("since" not in which or entry.time >= which["since"])
        and ("until" not in which or entry.time < which["until"])
    ]
    return sorted(found, reverse=which["newest_first"])


def test_every_filter_finds_what_a_list_would(
    where: Path | None, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With entries in memory, in the store, and while they are on their way from one to the other."""
    monkeypatch.setattr(limits, "CHECKPOINT_INTERVAL_S", 0.005)
    bank = AuditedBank()
    story = Story(rng, bank)
    opened = bank.app.open(where)
    found = 0
    for part in range(6):
        if part == 4:
            monkeypatch.setattr(limits, "CHECKPOINT_INTERVAL_S", 60.0)
        if where is not None and part in (2, 5):
            opened.close()
            opened = bank.app.open(where)
        story.go_on(opened, 60)
        entries = all_pages(opened, newest_first=False, limit=1000)
        assert sequences(tuple(entries)) == list(range(1, opened.sequence + 1))
        for entry in entries:
            touched = {*entry.created, *entry.updated, *entry.deleted}
            assert touched <= {command.target for command in entry.commands}
        for _ in range(25):
            which = story.filters()
            wanted = expected(entries, which)
            assert sequences(tuple(all_pages(opened, **which))) == wanted, which
            found += len(wanted)
    opened.close()
    assert found > 100


def test_a_page_costs_the_page_and_the_rarest_facet(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = AuditedBank()
    with bank.app.open() as k:
        ids = [each.id for each in k.handle_all([bank.enter(f"n{i}", 1_000) for i in range(50)], ADA)]
        for i in range(3_000):
            k.submit(bank.deposit(ids[i % 50], 1), ADA)
            if i % 1_000 == 500:
                k.handle(bank.rename(ids[7], f"other {i}"), BOB)
        k.handle(bank.deposit(ids[3], 1), ADA)
        read: list[bytes] = []
        get = MemoryStorage.get

        def counted(self: MemoryStorage, family: int, key: bytes) -> bytes | None:
            if family == Family.LOG:
                read.append(key)
            return get(self, family, key)

        monkeypatch.setattr(MemoryStorage, "get", counted)
        for which in (
            {"event": bank.rename, "model": ids[7]},
            {"event": bank.rename, "since": datetime(2020, 1, 1, tzinfo=UTC)},
            {"actor": User("bob")},
            {"actor": User("bob"), "newest_first": False},
            {"limit": 3},
        ):
            read.clear()
            assert len(k.log(TESTER, **which).entries) == 3
            assert len(read) <= 6


def test_the_newest_transaction_is_one_that_readers_see(where: Path | None) -> None:
    """A reader holds up the publication of a command that is processed."""
    bank = AuditedBank()
    with bank.app.open(where) as k:
        ada = k.handle(bank.enter("Ada"), ADA).id
        with k.read(TESTER) as r:
            writer = Spawned(k.handle, bank.deposit(ada, 1), ADA)
            eventually(lambda: processed(k) == 2)
            assert k.sequence == 1
            assert r.as_of(ada, k.sequence) == r.get(ada)
        assert writer.end().sequence == k.sequence == 2


def test_what_a_reader_sees_is_of_its_moment(where: Path | None) -> None:
    bank = AuditedBank()
    with bank.app.open(where) as k:
        ada = k.handle(bank.enter("Ada"), ADA).id
        with k.read(TESTER) as r:
            writer = Spawned(k.handle, bank.deposit(ada, 1), ADA)
            eventually(lambda: processed(k) == 2)
            for _ in range(20):
                assert sequences(r.log().entries) == [1]
                assert sequences(r.log(model=ada, newest_first=False).entries) == [1]
                assert [version.sequence for version in r.history(ada)] == [1]
                with pytest.raises(klerk.ArgumentError, match="there is no transaction 2"):
                    r.as_of(ada, 2)
        writer.end()
        assert sequences(k.log(TESTER).entries) == [2, 1]


def test_a_reader_needs_its_lock() -> None:
    with AuditedBank().app.open() as k:
        reader = k.read(TESTER)
        with pytest.raises(klerk.ReaderClosed):
            reader.log()


# --- cursors and arguments ----------------------------------------------------------------------------


def test_only_a_cursor_of_the_same_question_goes_on(where: Path | None) -> None:
    bank = AuditedBank()
    with bank.app.open(where) as k, AuditedBank().app.open() as other:
        for i in range(6):
            k.handle(bank.enter(f"n{i}"), ADA)
        page = k.log(TESTER, limit=2)
        cursor = page.next
        assert cursor is not None
        # New entries do not move the pages; another limit is fine.
        k.handle(bank.enter("later"), ADA)
        assert sequences(k.log(TESTER, limit=3, after=cursor).entries) == [4, 3, 2]
        changed = [
            cursor[:i] + ("A" if letter != "A" else "B") + cursor[i + 1 :]
            for i, letter in enumerate(cursor[:-1])
        ]
        # The last letter before the padding has bits that stand for nothing.
        alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
        changed += [cursor[:-2] + letter + "=" for letter in alphabet if letter != cursor[-2]]
        changed += ["", "x", "ä", cursor[1:], cursor * 2]
        wrong: list[Callable[[], object]] = [
            lambda: other.log(TESTER, after=cursor),
            lambda: k.log(TESTER, after=cursor, newest_first=False),
            lambda: k.log(TESTER, after=cursor, actor=User("ada")),
            *(lambda text=text: k.log(TESTER, after=text) for text in changed),
            lambda: k.log(TESTER, after="____" + cursor[4:]),
        ]
        for ask in wrong:
            with pytest.raises(klerk.ArgumentError, match="is no cursor of this log"):
                ask()


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ({"limit": 0}, "limit must be 1 to"),
        ({"limit": limits.LOG_PAGE_MAX + 1}, "limit must be 1 to"),
        ({"limit": True}, "limit must be 1 to"),
        ({"limit": "5"}, "limit must be 1 to"),
        ({"model": "ada"}, "expected a reference"),
        ({"model": 0}, "expected a reference"),
        ({"model": True}, "expected a reference"),
        ({"model": 2**63}, "expected a reference"),
        ({"actor": "ada"}, "expected an actor"),
        ({"actor": ("user", 7)}, "expected an actor"),
        ({"actor": ("user", "\ud800")}, "expected an actor"),
        ({"event": 3}, "expected an event"),
        ({"event": "Account.fly"}, "there is no event Account.fly"),
        ({"since": datetime(2024, 1, 1)}, "'since' is"),  # noqa: DTZ001 (that is what is refused)
        ({"until": 5}, "'until' is"),
        ({"after": 5}, "expected the cursor"),
        ({"newest_first": 1}, "expected True or False"),
        ({"colour": "red"}, "has no filter 'colour'"),
    ],
)
def test_what_cannot_be_meant_is_refused(which: dict[str, Any], told: str) -> None:
    with AuditedBank().app.open() as k, pytest.raises(klerk.ArgumentError, match=told):
        k.log(TESTER, **which)


def test_an_empty_log_has_an_empty_page(where: Path | None) -> None:
    with AuditedBank().app.open(where) as k:
        assert k.log(TESTER) == klerk.LogPage(entries=(), next=None)
        assert k.log(TESTER, since=NOON, until=NOON, newest_first=False).entries == ()


# --- who may see what ---------------------------------------------------------------------------------


def test_nobody_reads_or_erases_the_log_unless_allowed() -> None:
    bank = Bank()
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), ADA).id
        refused: list[Callable[[], object]] = [
            lambda: k.log(ADA),
            lambda: k.history(ada, ADA),
            lambda: k.as_of(ada, 1, ADA),
        ]
        for ask in refused:
            with pytest.raises(klerk.Denied, match="user ada may not read the commit log"):
                ask()
        with k.read(ADA) as r, pytest.raises(klerk.Denied):
            r.log()
        with pytest.raises(klerk.Denied, match="user ada may not erase"):
            k.erase(ada, ADA)
        assert k.sequence == 1
        trusted = Context(System("clean-up"))
        assert len(k.log(trusted).entries) == 1
        assert k.as_of(ada, 1, trusted).owner == "Ada"
        assert k.erase(ada, trusted).transactions == 1


def test_deny_rules_object_and_rules_see_the_context() -> None:
    bank = Bank()
    bank.app.allow.log()(lambda a: a.context.actor.id in ("ada", "bob"))
    bank.app.deny.log()(lambda a: a.context.actor.id == "bob" and a.read.exists(bank.accounts))
    with bank.app.open() as k:
        assert k.log(BOB).entries == ()
        k.handle(bank.enter("Ada"), ADA)
        assert len(k.log(ADA).entries) == 1
        for context in (BOB, TESTER):
            with pytest.raises(klerk.Denied):
                k.log(context)


class Email(klerk.Text, tags={"pii"}): ...


class Member(Model):
    name: str
    email: Email
    salary: int = 0


class Visit(Model):
    host: Ref[Member]
    note: str


class Club:
    """Only admins see pii and salaries; members are seen by themselves in full, whoever asks about others."""

    def __init__(self) -> None:
        self.app = app = App("club")
        self.members, self.visits = app.machine(Member), app.machine(Visit)
        self.active, self.there = self.members.states("active")[0], self.visits.states("there")[0]
        app.allow.command()(lambda a: True)
        app.allow.log()(lambda a: True)
        app.allow.erasure()(lambda a: True)
        app.allow.read()(lambda a: a.context.actor.id != "stranger")
        app.allow.field()(lambda a: True)
        app.deny.field(Member, tag="pii")(lambda a: a.context.actor.id != "admin")
        app.deny.field(Member, names="salary")(lambda a: a.context.actor.id != "admin")

        @self.members.create(into=self.active)
        def join(a: Args, name: str, email: Email, salary: int = 0) -> Member:
            return Member(name=name, email=email, salary=salary)

        @self.visits.create(into=self.there)
        def visit(a: Args, host: Ref[Member], note: str, contact: Email, salary: int) -> Visit:
            return Visit(host=host, note=note)

        @self.members.event(self.active)
        def leave(a: Args[Member], reason: str) -> None: ...

        self.active.on(leave).delete()
        self.join, self.visit, self.leave = join, visit, leave


def parameters(k: Klerk, context: Context) -> list[dict[str, Any]]:
    page = k.log(context, newest_first=False)
    return [dict(command.parameters) for entry in page.entries for command in entry.commands]


def test_parameters_are_masked_as_fields_are() -> None:
    club, hidden = Club(), klerk.MASKED
    with club.app.open() as k:
        ada = k.handle(club.join("Ada", Email("ada@x"), 70), ADA).id
        k.handle(club.visit(ada, "tea", Email("bob@x"), 7), ADA)
        assert parameters(k, Context(User("admin"))) == [
            {"name": "Ada", "email": "ada@x", "salary": 70},
            {"host": ada, "note": "tea", "contact": "bob@x", "salary": 7},
        ]
        # By the tag of the value, and by the name of a field that is hidden in another class.
        assert parameters(k, ADA) == [
            {"name": "Ada", "email": hidden, "salary": hidden},
            {"host": ada, "note": "tea", "contact": hidden, "salary": hidden},
        ]
        everything = [value for each in parameters(k, Context(User("stranger"))) for value in each.values()]
        assert all(value is hidden for value in everything)
        assert parameters(k, Context(System("x")))[0]["salary"] == 70
        with k.read(ADA) as r:
            assert r.log(newest_first=False) == k.log(ADA, newest_first=False)
            assert "ada@x" not in repr(r.log())


def test_a_rule_that_asks_for_a_model_which_is_gone_hides() -> None:
    club = Club()
    club.app.deny.field(Member, names="name")(lambda a: a.model.salary > 100)
    with club.app.open() as k:
        ada = k.handle(club.join("Ada", Email("ada@x"), 70), ADA).id
        assert parameters(k, ADA)[0]["name"] == "Ada"
        k.handle(club.leave(ada, "tired"), ADA)
        shown = parameters(k, ADA)
        assert shown[0]["name"] is klerk.MASKED
        assert shown[1]["reason"] == "tired"


def test_a_rule_that_fails_with_a_model_fails_the_read() -> None:
    club = Club()
    club.app.deny.field(Member, names="name")(lambda a: 1 // a.model.salary > 0)
    with club.app.open() as k:
        ada = k.handle(club.join("Ada", Email("ada@x"), 0), ADA).id
        with pytest.raises(klerk.FunctionFailed, match="ZeroDivisionError"):
            k.log(ADA)
        k.handle(club.leave(ada, "tired"), ADA)
        assert parameters(k, ADA)[0]["name"] is klerk.MASKED


def test_versions_are_masked_and_denied_as_reads_are() -> None:
    club = Club()
    with club.app.open() as k:
        ada = k.handle(club.join("Ada", Email("ada@x"), 70), ADA).id
        for context in (ADA, Context(User("admin"))):
            (version,) = k.history(ada, context)
            assert version.model is not None
            assert (version.model.email is klerk.MASKED) == (context is ADA)
            assert k.as_of(ada, 1, context) == version.model
        stranger = Context(User("stranger"))
        k.handle(club.leave(ada, "tired"), ADA)
        for ask in (lambda: k.history(ada, stranger), lambda: k.as_of(ada, 1, stranger)):
            with pytest.raises(klerk.Denied, match="may not read Member"):
                ask()


class LaterBank:
    """The bank after its next release: there is only one event, and that has a parameter more."""

    def __init__(self) -> None:
        self.app = App("bank")
        accounts = self.app.machine(Account)
        active, closed = accounts.states("active", "closed", final=("active", "closed"))
        permit_everything(self.app)
        self.app.allow.log()(lambda a: True)

        @accounts.create(into=active)
        def enter(
            a: Args, owner: Name, balance: Cents, guarantor: Ref[Account] | None, note: str = ""
        ) -> Account:
            return Account(owner=owner, balance=balance, guarantor=guarantor)

        @accounts.create(into=closed)
        def enter_closed(a: Args, owner: Name) -> Account:
            return Account(owner=owner)

        self.enter = enter


def test_events_that_are_no_longer_declared_are_named_and_hidden(tmp_path: Path) -> None:
    bank = AuditedBank()
    with bank.app.open(tmp_path / "store") as k:
        ada = k.handle(bank.enter("Ada", 5), ADA).id
        k.handle(bank.deposit(ada, 7), ADA)
    later = LaterBank()
    with later.app.open(tmp_path / "store") as k:
        old = k.log(TESTER, event="Account.deposit").entries[0]
        assert dict(old.commands[0].parameters) == {"1": klerk.MASKED}
        trusted = k.log(Context(System("x")), event="Account.deposit").entries[0]
        assert dict(trusted.commands[0].parameters) == {"1": 7}
        # One more parameter than was stored: the others have their names.
        first = k.log(TESTER, event=later.enter).entries[0]
        assert dict(first.commands[0].parameters) == {"owner": "Ada", "balance": 5, "guarantor": None}


# --- the versions of a model --------------------------------------------------------------------------


def test_history_has_each_version_and_the_end(where: Path | None) -> None:
    bank = AuditedBank()
    with bank.app.open(where) as k:
        ada, bob = (each.id for each in k.handle_all([bank.enter("Ada", 10), bank.enter("Bob")], ADA))
        k.handle(bank.transfer(ada, bob, 3), BOB)
        k.handle(bank.close(bob), ADA)
        k.handle(bank.remove(ada), Context(User("ada"), on_behalf_of=User("eve")))
        versions = k.history(ada, TESTER)
        assert [(v.sequence, v.version, v.events, v.deleted, v.erased) for v in versions] == [
            (1, 1, ("Account.enter",), False, False),
            (2, 2, ("Account.transfer",), False, False),
            (4, 0, ("Account.remove",), True, False),
        ]
        assert [None if v.model is None else v.model.balance for v in versions] == [10, 7, None]
        assert versions[1].actor == ("user", "bob")
        assert versions[2].on_behalf_of == ("user", "eve")
        assert [v.model and str(v.model.meta.state) for v in k.history(bob, TESTER)] == [
            "active",
            "active",
            "closed",
        ]
        assert k.history(ada, TESTER, limit=2) == versions[:2]
        assert k.history(ada, TESTER, limit=2, after=2) == versions[2:]
        with k.read(TESTER) as r:
            assert r.history(ada) == versions
            assert r.as_of(bob, 2).meta == r.history(bob)[1].model.meta
        assert [k.as_of(ada, i, TESTER).balance for i in (1, 2, 3)] == [10, 7, 7]
        with pytest.raises(klerk.NotFound, match="no model 1 after transaction 4"):
            k.as_of(ada, 4, TESTER)
        with pytest.raises(klerk.NotFound, match="never was one"):
            k.history(Ref(77), TESTER)
        with pytest.raises(klerk.NotFound):
            k.as_of(Ref(77), 1, TESTER)
        for sequence in (0, 5, True, "1"):
            with pytest.raises(klerk.ArgumentError, match="there is no transaction"):
                k.as_of(ada, sequence, TESTER)  # type: ignore[arg-type]
        for wrong in ({"limit": 0}, {"after": -1}, {"after": "x"}):
            with pytest.raises(klerk.ArgumentError):
                k.history(ada, TESTER, **wrong)  # type: ignore[arg-type]


def test_history_is_what_was_read_at_the_time(where: Path | None, rng: random.Random) -> None:
    bank = AuditedBank()
    seen: dict[tuple[int, int], Account | None] = {}
    with bank.app.open(where) as k:
        story = Story(rng, bank)
        for _ in range(80):
            story.go_on(k, 1)
            with k.read(TESTER) as r:
                for id in story.ever:
                    seen[k.sequence, id] = r.find(Ref(id))
        known = 0
        for (sequence, id), model in seen.items():
            if model is None:
                with pytest.raises(klerk.NotFound):
                    k.as_of(Ref(id), sequence, TESTER)
            else:
                then = k.as_of(Ref(id), sequence, TESTER)
                assert (then, then.meta) == (model, model.meta)
                known += 1
        for id in story.ever:
            versions = k.history(Ref(id), TESTER)
            numbers = [v.version for v in versions if not v.deleted]
            assert numbers == list(range(1, len(numbers) + 1))
    assert known > 100


# --- the index and crashes ----------------------------------------------------------------------------

BEHIND = """
import os, sys
import klerk
from klerk import limits
from designs import TESTER
from test_audit import AuditedBank
bank = AuditedBank()
limits.CHECKPOINT_INTERVAL_S = float(sys.argv[2])
k = bank.app.open(sys.argv[1])
if not k.sequence:
    k.handle_all([bank.enter("Ada", 1_000_000), bank.enter("Bob")], TESTER)
print("ready", flush=True)
while True:
    for future in [k.submit(bank.transfer(1, 2, 1), TESTER) for _ in range(50)]:
        future.result()
    os.write(1, b"%d\\n" % future.result().sequence)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("interval_s", ["60", "0.01"])
def test_a_killed_process_leaves_an_index_that_is_completed(
    tmp_path: Path, interval_s: str, rng: random.Random
) -> None:
    path = tmp_path / "store"
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", BEHIND, str(path), interval_s],
            env=python_environment(),
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            for _ in range(rng.randrange(1, 30)):
                process.stdout.readline()
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        bank = AuditedBank()
        with bank.app.open(path) as k:
            every = list(range(1, k.sequence + 1))
            for which in (
                {},
                {"model": 2},
                {"actor": User("tester")},
                {"since": datetime(2020, 1, 1, tzinfo=UTC)},
            ):
                assert sequences(tuple(all_pages(k, **which, newest_first=False, limit=1000))) == every
            assert (
                sequences(tuple(all_pages(k, event=bank.deposit, newest_first=False, limit=1000)))
                == every[1:]
            )


def test_a_copy_of_the_open_store_completes_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHECKPOINT_INTERVAL_S", 60.0)
    bank = AuditedBank()
    with bank.app.open(tmp_path / "store") as k:
        for i in range(20):
            k.handle(bank.enter(f"n{i}"), ADA)
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
        k.handle(bank.enter("later"), ADA)
    with AuditedBank().app.open(tmp_path / "copy") as k:
        assert sequences(k.log(TESTER, actor=User("ada")).entries) == list(range(20, 0, -1))


@contextlib.contextmanager
def raw(path: Path) -> Iterator[RocksStorage]:
    """The store of a bank, without its app."""
    storage = RocksStorage.open(path, app="bank", durability="sync", create=False)
    yield storage
    storage.close()


def test_a_missing_index_is_built_again(tmp_path: Path, rng: random.Random) -> None:
    bank = AuditedBank()
    with bank.app.open(tmp_path / "store") as k:
        story = Story(rng, bank)
        story.go_on(k, 50)
        entries = all_pages(k, newest_first=False)
    with raw(tmp_path / "store") as storage:
        keys = [key for key, _ in storage.scan(Family.HISTORY)]
        assert keys
        # Only some are missing, others are nonsense: without the mark, none counts.
        puts = [(Family.HISTORY, key[:-8] + bytes(7) + b"\x05", b"") for key in keys[::3]]
        storage.write(puts, [(Family.META, INDEXED_KEY), *((Family.HISTORY, key) for key in keys[1::3])])
    with bank.app.open(tmp_path / "store") as k:
        for _ in range(50):
            which = story.filters()
            assert sequences(tuple(all_pages(k, **which))) == expected(entries, which)


# --- erasing ------------------------------------------------------------------------------------------

SECRET = "Grace Hopper"


def files_with(path: Path, text: str) -> list[str]:
    return [file.name for file in path.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


def newest_in_log(path: Path) -> dict[int, bytes]:
    """The models as the log alone says they are."""
    images: dict[int, bytes] = {}
    with raw(path) as storage:
        for transaction in transactions(storage):
            if transaction.payload is not None:
                images.update(transaction.payload.images)
                for id in transaction.payload.deleted:
                    images.pop(id, None)
        stored = {int.from_bytes(key, "big"): value for key, value in storage.scan(Family.MODELS)}
    assert images == stored
    return images


def with_secret(bank: AuditedBank, k: Klerk, *, deleted: bool) -> tuple[int, int]:
    """Let somebody come and go; return her id, and that of one who dealt with her."""
    grace, bob = (each.id for each in k.handle_all([bank.enter(SECRET, 50), bank.enter("Bob", 10)], ADA))
    k.handle(bank.transfer(grace, bob, 5), ADA)
    k.handle(bank.rename(grace, SECRET + " again"), BOB)
    k.handle(bank.transfer(bob, grace, 1), ADA)
    k.handle(bank.remove(grace) if deleted else bank.rename(grace, "somebody"), ADA)
    return grace, bob


@pytest.mark.parametrize("deleted", [True, False])
@pytest.mark.parametrize("settled", [True, False])
def test_what_is_erased_is_in_no_file_and_the_chain_still_fits(
    tmp_path: Path, deleted: bool, settled: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path, bank = tmp_path / "store", AuditedBank()
    k = bank.app.open(path)
    grace, bob = with_secret(bank, k, deleted=deleted)
    if settled:
        k.close()
        k = bank.app.open(path)
    before = [bank.contents(k), all_pages(k)]
    assert files_with(path, SECRET)
    done = k.erase(Ref(grace), ADA)
    assert done == klerk.Erasure(sequence=6, transactions=5)
    assert not files_with(path, SECRET)
    assert bank.contents(k) == before[0]
    for entry, entry_before in zip(all_pages(k)[1:], before[1], strict=True):
        assert entry.erased == (entry.sequence <= 5)
        assert (entry.sequence, entry.time, entry.actor) == (
            entry_before.sequence,
            entry_before.time,
            entry_before.actor,
        )
        assert [c.event for c in entry.commands] == [c.event for c in entry_before.commands]
        assert not any(c.parameters for c in entry.commands)
    for sequence in range(1, 6):
        with pytest.raises(klerk.Erased, match="was erased") as told:
            k.as_of(Ref(grace), sequence, TESTER)
        assert told.value.status == 410
    assert k.as_of(Ref(bob), 6, TESTER).balance == 14
    versions = k.history(Ref(grace), TESTER)
    assert [v.erased for v in versions] == [True] * 5 + ([] if deleted else [False])
    newest = k.log(TESTER).entries[0]
    assert (newest.commands[0].event, newest.commands[0].target) == ("erasure", grace)
    assert (newest.created, newest.updated, newest.deleted) == ((), (), ())
    k.handle(bank.deposit(Ref(bob), 1), ADA)
    k.close()
    assert not files_with(path, SECRET)
    # Nothing that exists depends on what was erased.
    assert set(newest_in_log(path)) == ({bob} if deleted else {grace, bob})
    with AuditedBank().app.open(path) as k:
        assert k.as_of(Ref(bob), 7, TESTER).balance == 15
    assert main(["verify", str(path)]) == 0
    assert "7 transactions, 5 of them erased, in" in capsys.readouterr().out
    assert main(["log", str(path), "--model", str(grace)]) == 0
    assert "what it did was erased" in capsys.readouterr().out


def test_erasing_again_takes_what_came_since(where: Path | None) -> None:
    bank = AuditedBank()
    with bank.app.open(where) as k:
        ada, bob = (each.id for each in k.handle_all([bank.enter("Ada", 9), bank.enter("Bob")], ADA))
        assert k.erase(ada, ADA).transactions == 1
        k.handle(bank.transfer(ada, bob, 2), ADA)
        # The first erasure holds the version before, and goes, too.
        assert k.erase(ada, ADA).transactions == 2
        assert k.erase(bob, ADA).transactions == 1
        k.handle(bank.remove(ada), ADA)
        assert k.erase(ada, ADA).transactions == 2
        assert k.erase(ada, ADA).transactions == 1
        assert [v.erased for v in k.history(ada, TESTER)] == [True] * 7
        with k.read(TESTER) as r:
            assert r.get(bob).balance == 2
            assert r.as_of(bob, k.sequence).balance == 2
        with pytest.raises(klerk.NotFound, match="never was one"):
            k.erase(Ref(77), ADA)
        with pytest.raises(klerk.ArgumentError):
            k.erase("ada", ADA)  # type: ignore[arg-type]
        with k.read(ADA), pytest.raises(klerk.ReadLockHeld):
            k.erase(ada, ADA)
    if where is not None:
        assert newest_in_log(where).keys() == {bob}


@pytest.mark.parametrize("step", range(8))
def test_an_erasure_that_a_crash_interrupts_is_finished_at_the_next_start(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of the open store, taken before each write or compaction from the decision on."""
    path, copy, bank = tmp_path / "store", tmp_path / "copy", AuditedBank()
    with bank.app.open(path) as k:
        grace, bob = with_secret(bank, k, deleted=True)
        steps = 0

        def copying(function: Callable[..., None]) -> Callable[..., None]:
            def perform(self: RocksStorage, *args: Any) -> None:
                nonlocal steps
                if processed(k) == 6:
                    if steps == step:
                        shutil.copytree(path, copy)
                    steps += 1
                function(self, *args)

            return perform

        with monkeypatch.context() as patch:
            patch.setattr(RocksStorage, "_write", copying(RocksStorage._write))
            patch.setattr(RocksStorage, "_compact", copying(RocksStorage._compact))
            k.erase(Ref(grace), ADA)
        assert steps > 7
    with AuditedBank().app.open(copy) as k:
        decided = k.sequence == 6
        assert decided == (step > 0)
        if not decided:
            k.erase(Ref(grace), ADA)
        assert not files_with(copy, SECRET)
        assert k.log(TESTER, event="erasure").entries[0].sequence == 6
        assert k.as_of(Ref(bob), 6, TESTER).balance == 14
        assert all(v.erased for v in k.history(Ref(grace), TESTER))
    assert not files_with(copy, SECRET)
    assert main(["verify", str(copy)]) == 0
    assert newest_in_log(copy).keys() == {bob}


def test_only_applied_payloads_are_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHECKPOINT_INTERVAL_S", 60.0)
    path, bank = tmp_path / "store", AuditedBank()
    with bank.app.open(path) as k:
        grace, bob = with_secret(bank, k, deleted=False)
        k.erase(Ref(grace), ADA)
        k.handle(bank.deposit(Ref(bob), 1), ADA)
        # As it would be found after a kill.
        shutil.copytree(path, tmp_path / "copy")
        expected_contents = bank.contents(k)
    with AuditedBank().app.open(tmp_path / "copy") as k:
        assert bank_contents(k) == {id: owner for id, (owner, _, _) in expected_contents.items()}
    assert newest_in_log(tmp_path / "copy").keys() == {grace, bob}
    with raw(tmp_path / "copy") as storage:
        assert storage.get(Family.META, ERASED_KEY) == (6).to_bytes(8, "big")
        assert storage.get(Family.META, APPLIED_KEY) is not None


def bank_contents(k: Klerk) -> dict[int, str]:
    with k.read(TESTER) as r:
        return {id: r.get(Ref(id)).owner for id in (1, 2) if r.find(Ref(id)) is not None}


def test_a_failed_erasure_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, bank = tmp_path / "store", AuditedBank()
    with bank.app.open(path) as k:
        grace, _ = with_secret(bank, k, deleted=True)

        def fail(self: RocksStorage, *args: Any) -> None:
            raise klerk.StorageError("no room for another file")

        with monkeypatch.context() as patch:
            patch.setattr(RocksStorage, "_compact", fail)
            with pytest.raises(klerk.StorageError, match="no room"):
                k.erase(Ref(grace), ADA)
        assert files_with(path, SECRET)
        # The next one finishes it first.
        k.erase(Ref(grace), ADA)
        assert not files_with(path, SECRET)


def test_an_erasure_changes_no_model_index_timer_or_reference(where: Path | None) -> None:
    bank, clock = AuditedBank(), Clock()
    bank.active.after(timedelta(hours=1)).to(bank.closed)
    with bank.app.open(where, clock=clock) as k:
        ada = k.handle(bank.enter("Ada", 5), ADA).id
        bob = k.handle(bank.enter("Bob", 5, ada), ADA).id
        with k.read(TESTER) as r:
            before = [(r.get(id), r.get(id).meta) for id in (ada, bob)]
        assert k.erase(ada, ADA).transactions == 1
        with k.read(TESTER) as r:
            assert [(r.get(id), r.get(id).meta) for id in (ada, bob)] == before
            assert r.find(bank.by_owner, "Ada") == r.get(ada)
            assert r.count(bank.active) == r.count(bank.accounts) == 2
        with pytest.raises(klerk.Conflict):
            k.handle(bank.enter("Ada"), ADA)
        with pytest.raises(klerk.KlerkError):
            # Bob still refers to her.
            k.handle(bank.remove(ada), ADA)
        clock.advance(timedelta(hours=2))
        k.handle(bank.enter("Eve"), ADA)
        eventually(lambda: len(k.log(TESTER, event="timer").entries) == 2)
        assert [str(k.as_of(id, k.sequence, TESTER).meta.state) for id in (ada, bob)] == ["closed"] * 2


def test_several_erase_at_once(where: Path | None) -> None:
    bank = AuditedBank()
    with bank.app.open(where) as k:
        ids = [each.id for each in k.handle_all([bank.enter(f"{SECRET} {i}") for i in range(8)], ADA)]
        for id in ids:
            k.handle(bank.rename(id, f"n{id}"), ADA)
        threads = [Spawned(k.erase, id, ADA) for id in ids]
        replaced = sum(thread.end(60).transactions for thread in threads)
        assert replaced >= sum(entry.erased for entry in all_pages(k)) >= 9
        if where is not None:
            assert not files_with(where, SECRET)
    if where is not None:
        assert newest_in_log(where).keys() == set(ids)


# --- all at once --------------------------------------------------------------------------------------


def test_reading_goes_on_while_commits_checkpoints_and_erasures_do(
    where: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHECKPOINT_INTERVAL_S", 0.003)
    bank = AuditedBank()
    done = threading.Event()
    with bank.app.open(where) as k:
        ids = [each.id for each in k.handle_all([bank.enter(f"n{i}", 10_000) for i in range(8)], ADA)]

        def write() -> None:
            for i in range(250):
                k.handle(bank.transfer(ids[i % 8], ids[(i + 1) % 8], 1), ADA if i % 3 else BOB)

        def erase() -> None:
            for id in ids[:4]:
                assert k.erase(id, ADA).transactions > 0

        def read() -> int:
            pages = 0
            while not done.is_set():
                newest = k.sequence
                page = k.log(TESTER, event=bank.transfer, limit=30)
                found = sequences(page.entries)
                if found:
                    assert found == sorted(set(found), reverse=True)
                every = sequences(k.log(TESTER, newest_first=False, limit=1000).entries)
                assert every == list(range(1, len(every) + 1))
                assert len(every) >= newest - 2
                versions = [v.sequence for v in k.history(ids[5], TESTER)]
                assert versions == sorted(set(versions))
                pages += 1
            return pages

        readers = [Spawned(read) for _ in range(2)]
        writers = [Spawned(write), Spawned(erase)]
        for writer in writers:
            writer.end(60)
        done.set()
        assert all(reader.end() > 0 for reader in readers)
        with k.read(TESTER) as r:
            assert sum(r.get(id).balance for id in ids) == 80_000
    if where is not None:
        assert main(["verify", str(where)]) == 0
        newest_in_log(where)


def test_asyncio_offers_the_same(where: Path | None) -> None:
    bank = AuditedBank()

    async def use(k: Klerk) -> None:
        ada = (await k.aio.handle(bank.enter("Ada", 3), ADA)).id
        await k.aio.handle(bank.deposit(ada, 4), ADA)
        assert await k.aio.log(TESTER, model=ada) == k.log(TESTER, model=ada)
        assert await k.aio.history(ada, TESTER, limit=1) == k.history(ada, TESTER, limit=1)
        assert (await k.aio.as_of(ada, 1, TESTER)).balance == 3
        async with k.aio.read(TESTER) as r:
            assert r.log().entries[0].updated == (ada,)
            assert r.history(ada)[-1].model == r.get(ada)
        assert (await k.aio.erase(ada, ADA)).transactions == 2

    with bank.app.open(where) as k:
        asyncio.run(use(k))


def test_closed_is_closed() -> None:
    bank = AuditedBank()
    k = bank.app.open()
    k.close()
    for ask in (lambda: k.log(TESTER), lambda: k.history(Ref(1), TESTER), lambda: k.erase(Ref(1), TESTER)):
        with pytest.raises(klerk.Closed):
            ask()


# --- commands -----------------------------------------------------------------------------------------


def small_store(path: Path) -> None:
    bank = AuditedBank()
    with bank.app.open(path) as k:
        ada, bob = (each.id for each in k.handle_all([bank.enter("Ada", 9), bank.enter("Bob")], ADA))
        k.handle(bank.transfer(ada, bob, 2), Context(User("ada"), NOON, User("eve")))
        k.handle(bank.remove(bob), BOB)


def test_verify_says_that_every_hash_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_store(tmp_path / "store")
    assert main(["verify", str(tmp_path / "store")]) == 0
    out = capsys.readouterr().out
    assert "3 transactions in 3 groups; every hash fits" in out
    assert main(["inspect", str(tmp_path / "store")]) == 0
    assert out.strip() in capsys.readouterr().out
    with AuditedBank().app.open(tmp_path / "empty"):
        pass
    assert main(["verify", str(tmp_path / "empty")]) == 0
    assert "commit log: empty" in capsys.readouterr().out


@pytest.mark.parametrize("record", [1, 2, 3])
@pytest.mark.parametrize("damage", ["payload", "previous", "actor", "missing"])
def test_verify_names_the_first_bad_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: int, damage: str
) -> None:
    small_store(tmp_path / "store")
    with raw(tmp_path / "store") as storage:
        key = record.to_bytes(8, "big")
        value = bytearray(storage.get(Family.LOG, key) or b"")
        place = {"payload": -3, "previous": 40, "actor": value.index(b"user"), "missing": 0}[damage]
        value[place] ^= 1
        if damage == "missing":
            storage.write([], [(Family.LOG, key)])
        else:
            storage.write([(Family.LOG, key, bytes(value))], [])
    assert main(["verify", str(tmp_path / "store")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("klerk.Corrupted: ")
    if damage == "payload":
        assert f"the payload of transaction {record} was changed" in told
    elif damage == "previous":
        assert f"log record {record} does not follow the one before it" in told
    elif record == 3:
        # No record follows it, so only the witness tells.
        missing = "commands up to 3 at least were acknowledged, and the log ends at 2"
        assert (missing if damage == "missing" else "log record 3 is not the one that was") in told
    elif damage == "missing":
        assert f"the log records {record} to {record} are missing" in told
    else:
        assert f"log record {record + 1} does not follow the one before it" in told


def test_log_prints_what_a_store_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_store(tmp_path / "store")
    path = str(tmp_path / "store")
    assert main(["log", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["3", "2", "1"]
    at = lines.index("2  2024-02-29 12:00:00.000000 UTC  user ada on behalf of user eve")
    assert lines[at + 1 : at + 5] == [
        "  Account.transfer of 1: 2, 2",
        "    Account.deposit of 2: 2",
        "  changed to version 2: Account 1",
        "  changed to version 2: Account 2",
    ]
    assert "  deleted 2" in lines
    for arguments, found in (
        (["--actor", "bob"], ["3"]),
        (["--actor", "user:eve"], ["2"]),
        (["--event", "Account.deposit"], ["2"]),
        (["--model", "1", "--limit", "1"], ["2"]),
        (["--oldest-first", "--limit", "2"], ["1", "2"]),
    ):
        assert main(["log", path, *arguments]) == 0
        out = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in out if not line.startswith(" ")] == found
    assert main(["log", path, "--event", "Account.fly"]) == 1
    assert "there is no event Account.fly" in capsys.readouterr().err
    assert main(["log", str(tmp_path / "nowhere")]) == 1
    assert main(["verify", str(tmp_path / "nowhere")]) == 1

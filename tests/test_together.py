"""What parts of Klerk do to each other: tokens, erasure, snapshots, migrations, copies, timers and jobs.

Each part has tests of its own; here a promise of one is held against what another one does meanwhile. Costs
are counted in calls of functions of the design, never in time.
"""

import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, Account, Bank, Clock, Spawned, permit_everything

import klerk
from klerk import (
    MASKED,
    App,
    Args,
    ArgumentError,
    Closed,
    Conflict,
    Context,
    Denied,
    Erased,
    InvalidValue,
    JobRun,
    JobState,
    KlerkError,
    Migration,
    Model,
    NotFound,
    ReaderClosed,
    Ref,
    System,
    Translation,
    User,
    Visibility,
)
from klerk.__main__ import main

ADA, BOB = Context(User("ada")), Context(User("bob"))


class OpenBank(Bank):
    """A bank in which anyone may also read and erase the log, and use key-values and blobs."""

    def __init__(self) -> None:
        super().__init__()
        for permissions in (
            self.app.allow.log,
            self.app.allow.erasure,
            self.app.allow.kv,
            self.app.allow.blob,
        ):
            permissions()(lambda a: True)


@pytest.fixture
def bank() -> OpenBank:
    return OpenBank()


# --- snapshots and the commit log ---------------------------------------------------------------------


def public(what: Any) -> set[str]:
    return {name for name in dir(what) if not name.startswith("_")}


def test_a_snapshot_offers_what_a_reader_does() -> None:
    about_the_lock = {"given", "is_held", "models", "require_held", "table"}
    assert public(klerk.Reader) - public(klerk.Snapshot) == about_the_lock
    assert public(klerk.Snapshot) - public(klerk.Reader) == {"close"}


@pytest.mark.parametrize("stored", [False, True])
def test_a_snapshot_shows_the_log_and_history_of_its_moment(
    bank: OpenBank, tmp_path: Path, stored: bool
) -> None:
    with bank.app.open(tmp_path / "store" if stored else None) as k:
        ada, bob = (k.handle(bank.enter(name, 1), TESTER).id for name in ("Ada", "Bob"))
        k.handle(bank.deposit(ada, 1), ADA)
        with k.read(TESTER) as r:
            then = r.log(), r.history(ada), r.as_of(ada, 1), r.sequence
        with k.snapshot(TESTER) as s:
            k.handle(bank.deposit(ada, 1), ADA)
            k.handle(bank.remove(bob), BOB)
            eve = k.handle(bank.enter("Eve"), BOB).id
            assert then == (s.log(), s.history(ada), s.as_of(ada, 1), s.sequence)
            assert s.sequence == 3
            assert s.log(actor=BOB.actor).entries == ()
            # Bob was there, and there was no end of him.
            assert [(v.sequence, v.deleted) for v in s.history(bob)] == [(2, False)]
            with pytest.raises(NotFound):
                s.history(eve)
            with pytest.raises(ArgumentError, match="from 1 to 3"):
                s.as_of(eve, 6)
            page = s.log(limit=2)
            assert [e.sequence for e in page.entries] == [3, 2]
            assert [e.sequence for e in s.log(limit=2, after=page.next).entries] == [1]
            # No lock is asked for: another thread may hold it, and this one may read and command.
            assert Spawned(lambda: s.history(ada)).end() == then[1]
            # What is erased is erased for those as well who look at the past.
            k.erase(ada, TESTER)
            assert [v.erased for v in s.history(ada)] == [True, True]
            with pytest.raises(Erased):
                s.as_of(ada, 1)
            assert s.get(ada).balance == 2
        for read in (s.log, lambda: s.history(ada), lambda: s.as_of(ada, 1)):
            with pytest.raises(ReaderClosed):
                read()
        left = k.snapshot(TESTER)
    with pytest.raises(Closed):
        left.log()
    left.close()


def test_what_a_snapshot_shows_of_the_log_is_permitted_and_masked(bank: OpenBank) -> None:
    @bank.app.deny.log()
    def bob_reads_no_log(a: Args) -> bool:
        return a.context.actor.id == "bob"

    @bank.app.deny.read(Account)
    def eve_sees_no_closed_accounts(a: Args) -> bool:
        return a.context.actor.id == "eve" and a.model.meta.state == bank.closed

    @bank.app.deny.field(Account, names=["owner"])
    def eve_sees_no_names(a: Args) -> bool:
        return a.context.actor.id == "eve"

    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        with k.snapshot(BOB) as s:
            for read in (s.log, lambda: s.history(ada), lambda: s.as_of(ada, 1)):
                with pytest.raises(Denied, match="commit log"):
                    read()
        with k.snapshot(Context(User("eve"))) as s, k.snapshot(Context(System("test"))) as whole:
            k.handle(bank.close(ada), TESTER)
            # It was open then; its name was a secret then as well.
            assert s.as_of(ada, 1).owner is MASKED
            assert s.log().entries[0].commands[0].parameters["owner"] is MASKED
            assert whole.log().entries[0].commands[0].parameters["owner"] == "Ada"
        with k.snapshot(Context(User("eve"))) as s, pytest.raises(Denied):
            s.history(ada)


async def test_a_snapshot_of_asyncio_has_the_log_too(bank: OpenBank) -> None:
    with bank.app.open() as k:
        ada = (await k.aio.handle(bank.enter("Ada"), TESTER)).id
        async with k.aio.snapshot(TESTER) as s:
            await k.aio.handle(bank.deposit(ada, 1), TESTER)
            assert [each.sequence for each in s.history(ada)] == [1]
            assert len(s.log().entries) == s.sequence == 1
        async with k.aio.read(TESTER) as r:
            assert r.sequence == 2


# --- both faces ---------------------------------------------------------------------------------------

# What `App.open`, jobs and the end of the process call, and what makes no sense to be awaited.
INSIDE = {
    "Klerk": {
        "aio",
        "signals",
        "start",
        "close_at_exit",
        "disown",
        "runs_here",
    },
    "jobs": set(),
    "timers": {"start", "note", "close", "runs_here", "refuse_waiting", "next_us"},
    "unsafe": {"work"},
    "kv": {"shelf", "access", "admit", "putting", "removing", "value", "found"},
    "blobs": {"store", "access", "admit", "stream", "reader", "known"},
}


def test_nothing_is_offered_in_only_one_of_the_two_faces(bank: OpenBank) -> None:
    with bank.app.open(unsafe=True) as k:
        pairs: list[tuple[str, Any, Any]] = [("Klerk", k, k.aio)]
        pairs += [(name, getattr(k, name), getattr(k.aio, name)) for name in INSIDE if name != "Klerk"]
        for name, here, there in pairs:
            assert public(here) - INSIDE[name] == public(there), name
            for each in public(there):
                mine, its = getattr(here, each), getattr(there, each)
                if callable(mine) and not isinstance(mine, type):
                    assert options(its) | {"timeout"} == options(mine) | {"timeout"}, f"{name}.{each}"
        with k.changes(TESTER) as changes:
            its = k.aio.changes(TESTER)
            assert public(changes) == public(its)
            its.close()


def options(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


# --- tokens -------------------------------------------------------------------------------------------


def test_a_generator_that_is_tried_uses_no_token_up(bank: OpenBank) -> None:
    runs = []

    def both(a: Args) -> Iterator[Any]:
        runs.append(a.now)
        made = yield bank.enter("Ada", 1)
        yield bank.deposit(made.id, 2)

    with bank.app.open() as k:
        token = k.token()
        tried = k.handle_all(both, TESTER, token=token, dry_run=True)
        assert tried[1].model.balance == 3
        assert (bank.contents(k), k.sequence) == ({}, 0)
        done = k.handle_all(both, TESTER, token=token)
        again = k.handle_all(both, TESTER, token=token)
        assert [each.repeated for each in (*tried, *done, *again)] == [False] * 4 + [True] * 2
        assert (len(runs), k.sequence) == (2, 1)
        # Tried once more, it says what would be: nothing new.
        assert all(each.repeated for each in k.handle_all(both, TESTER, token=token, dry_run=True))
        assert (len(runs), k.sequence) == (2, 1)


def test_a_token_whose_first_outcome_was_erased(bank: OpenBank, tmp_path: Path) -> None:
    with bank.app.open(tmp_path / "store") as k:
        token = str(k.token())
        ada = k.handle(bank.enter("Ada"), TESTER, token=token).id
        k.handle(bank.remove(ada), TESTER)
        k.erase(ada, TESTER)
        before = k.sequence
    with bank.app.open(tmp_path / "store") as k:
        again = k.handle(bank.enter("Ada"), TESTER, token=token)
        assert (again.repeated, again.id, again.sequence, k.sequence) == (True, ada, 1, before)
        for part in ("model", "models", "created", "updated", "deleted", "jobs"):
            with pytest.raises(Erased) as caught:
                getattr(again, part)
            assert (caught.value.code, caught.value.status) == ("erased", 410)
        assert bank.contents(k) == {}


def test_an_erasure_is_no_change_that_a_token_objects_to(bank: OpenBank) -> None:
    with bank.app.open() as k:
        model = k.handle(bank.enter("Ada"), TESTER).model
        tokens = [k.token(model) for _ in range(2)]
        k.erase(model.meta.id, TESTER)
        assert k.handle(bank.deposit(model.meta.id, 1), TESTER, token=tokens[0]).model.meta.version == 2
        with pytest.raises(Conflict, match="version 2"):
            k.handle(bank.deposit(model.meta.id, 1), TESTER, token=tokens[1])


class Person(Model):
    name: str


class Member(Model):
    full: str
    size: int = 3


def people() -> tuple[App, Any]:
    app = App("people")
    permit_everything(app)
    app.allow.log()(lambda a: True)
    machine = app.machine(Person)
    (active,) = machine.states("active", final=("active",))
    machine.order("name")

    @machine.create(into=active)
    def join(a: Args, name: str) -> Person:
        return Person(name=name)

    return app, join


class Members:
    """The same after everything about it was given another name."""

    def __init__(self) -> None:
        self.app = App("people")
        permit_everything(self.app)
        self.app.allow.log()(lambda a: True)
        self.machine = self.app.machine(Member)
        (self.on,) = self.machine.states("on", final=("on",))
        self.ordered = self.machine.order("full", descending=True)
        self.by_size = self.machine.index(lambda m: m.size)

        @self.machine.create(into=self.on)
        def enter(a: Args, name: str) -> Member:
            return Member(full=name)

        @self.machine.event(self.on)
        def grow(a: Args[Member]) -> Member:
            return a.model.replace(size=a.model.size + 1)

        @self.app.migration(1)
        def rename(m: Migration) -> None:
            m.rename_model("Person", "Member")
            m.rename_field("Member", "name", "full")
            m.rename_state("Member", "active", "on")
            m.rename_event("Member.join", "Member.enter")

        self.enter, self.grow = enter, grow


def test_tokens_orders_subscriptions_and_history_after_a_migration(tmp_path: Path) -> None:
    app, join = people()
    with app.open(tmp_path / "store") as k:
        token = str(k.token())
        ada = k.handle(join("Ada"), TESTER, token=token)
        k.handle_all([join("Zoe"), join("Bob")], TESTER)
        demanding = [str(k.token(ada.model)) for _ in range(2)]
    members = Members()
    with members.app.open(tmp_path / "store") as k:
        again = k.handle(members.enter("Ada"), TESTER, token=token)
        assert (again.repeated, again.id, again.model.full, again.model.size) == (True, ada.id, "Ada", 3)
        with pytest.raises(Conflict, match="something else"):
            k.handle(members.enter("Eve"), TESTER, token=token)
        with k.read(TESTER) as r:
            names = [m.full for m in r.list(members.ordered)]
            assert names == [m.full for m in r.query(members.ordered)] == ["Zoe", "Bob", "Ada"]
            assert r.count(members.by_size(3)) == 3
        # To be migrated is no change that a token objects to; what comes afterwards is.
        k.handle(members.grow(ada.id), TESTER, token=demanding[0])
        with pytest.raises(Conflict) as caught:
            k.handle(members.grow(ada.id), TESTER, token=demanding[1])
        assert caught.value.code == "changed_meanwhile"
        with k.changes(TESTER, members.by_size(3), since=0) as changes:
            told = []
            while (change := changes.take(0)) is not None:
                told.append((str(change.kind), change.ref, change.model and change.model.full))
        assert told == [
            ("created", 1, "Ada"),
            ("created", 2, "Zoe"),
            ("created", 3, "Bob"),
            ("left", 1, "Ada"),
        ]
        with k.snapshot(TESTER) as s:
            assert [(v.events, v.model and v.model.full) for v in s.history(ada.id)] == [
                (("Member.enter",), "Ada"),
                (("Member.grow",), "Ada"),
            ]


def test_the_refusal_of_a_token_is_told_in_the_language_of_the_context(bank: OpenBank) -> None:
    class Swedish(Translation):
        def text(self, key: str, default: str, values: Any) -> str:
            return f"på svenska: {key}"

    context = Context(User("tester"), translation=Swedish())
    with bank.app.open() as k, bank.app.open() as other:
        used = k.token()
        model = k.handle(bank.enter("Ada"), TESTER, token=used).model
        stale = k.token(model)
        k.handle(bank.deposit(model.meta.id, 1), TESTER)
        for token, key in (("?", "bad_token"), (other.token(), "bad_token"), (used, "token_reused")):
            for handle in (
                lambda token: k.handle(bank.enter("Bob"), context, token=token),
                lambda token: k.submit(bank.enter("Bob"), context, token=token).result(),
                lambda token: k.handle_all([bank.enter("Bob")], context, token=token),
            ):
                with pytest.raises(KlerkError) as caught:
                    handle(token)
                assert caught.value.problems[0].message == f"på svenska: {key}"
                assert caught.value.code == key
        with pytest.raises(Conflict, match="på svenska: changed_meanwhile"):
            k.handle(bank.deposit(model.meta.id, 1), context, token=stale)


# --- a copy of a store in use -------------------------------------------------------------------------


def test_a_copy_is_a_store_of_its_own_in_everything(bank: OpenBank, tmp_path: Path) -> None:
    hour = timedelta(hours=1)

    @bank.app.job()
    def tell(job: JobRun, account: Ref[Account]) -> None:
        job.handle(bank.deposit(account, 100))

    bank.active.on(bank.rename).job(tell)
    bank.closed.after(hour).to(bank.active)
    original = bank.app.open(tmp_path / "store", clock=Clock(), job_threads=0)
    used, unused = original.token(), str(original.token())
    ada = original.handle(bank.enter("Ada", 1), TESTER, token=used).id
    bob = original.handle(bank.enter("Bob", 1), TESTER).id
    original.handle_all([bank.rename(ada, "Eda"), bank.close(bob)], TESTER)
    original.kv.put("key", 5, TESTER, ttl=2 * hour)
    original.blobs.put("blob", b"abc", TESTER)
    original.checkpoint(tmp_path / "copy")
    before = bank.contents(original)
    clock = Clock()
    with original, bank.app.open(tmp_path / "copy", clock=clock, job_threads=1, unsafe=True) as copy:
        assert copy.jobs.wait_until_idle(20)
        assert bank.contents(copy) == {ada: ("Eda", 101, "active"), bob: ("Bob", 1, "closed")}
        assert copy.handle(bank.enter("Ada", 1), TESTER, token=str(used)).repeated
        assert not copy.handle(bank.enter("New"), TESTER, token=unused).repeated
        assert copy.kv.get("key", TESTER) == 5
        with copy.blobs.open("blob", TESTER) as blob:
            assert blob.read() == b"abc"
        clock.advance(hour)
        assert copy.timers.wait_until_idle(20)
        assert bank.contents(copy)[bob] == ("Bob", 1, "active")
        assert [v.events for v in copy.history(ada, TESTER)][:2] == [("Account.enter",), ("Account.rename",)]
        with copy.changes(TESTER, bank.active, since=2) as changes:
            first = changes.take(0)
            assert first is not None
            assert first.sequence == 3
        copy.erase(ada, TESTER)
        copy.unsafe.delete(ada, TESTER)
        clock.advance(hour)
        assert copy.kv.get("key", TESTER) is None
        # The original was left alone by all of this, and still does what it has to.
        assert bank.contents(original) == before
        assert not any(entry.erased for entry in original.log(TESTER).entries)
        assert (original.kv.get("key", TESTER), len(original.jobs.live())) == (5, 1)
        assert not original.handle(bank.enter("New"), TESTER, token=unused).repeated


# --- who acts for whom --------------------------------------------------------------------------------


def test_for_whom_something_is_done_is_known_to_rules_blocks_and_the_log(bank: OpenBank) -> None:
    seen: list[tuple[str, str]] = []

    def note(a: Args, *_: Any) -> list[Any]:
        seen.append((a.context.actor.id, a.context.on_behalf_of.id if a.context.on_behalf_of else ""))
        return []

    @bank.app.deny.command(bank.deposit)
    def not_for_eve(a: Args) -> bool:
        return a.context.on_behalf_of is not None and a.context.on_behalf_of.id == "eve"

    bank.active.on(bank.rename).commands(note)
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        for_bob, for_eve = (Context(User("agent"), on_behalf_of=User(name)) for name in ("bob", "eve"))
        k.handle(bank.rename(ada, "Eda"), for_bob)
        assert seen == [("agent", "bob")]
        with pytest.raises(Denied):
            k.handle(bank.deposit(ada, 1), for_eve)
        token = k.token()
        k.handle(bank.deposit(ada, 1), for_bob, token=token)
        with pytest.raises(Conflict, match="something else"):
            k.handle(bank.deposit(ada, 1), Context(User("agent")), token=token)
        for actor in (User("agent"), User("bob")):
            assert [e.sequence for e in k.log(TESTER, actor=actor).entries] == [3, 2]
        assert {str(v.on_behalf_of) for v in k.history(ada, TESTER)} == {"None", "user bob"}


# --- validators, choices and visibility on every way --------------------------------------------------


class Step(Model):
    size: int


class Steps:
    """Steps that make others: by commands of blocks, timers and jobs; some of it not for the outside."""

    def __init__(self) -> None:
        self.app = App("steps")
        permit_everything(self.app)
        self.app.allow.log()(lambda a: True)
        self.steps = steps = self.app.machine(Step)
        self.a, self.b = steps.states("a", "b")

        @steps.create(into=self.a)
        def make(a: Args, size: int) -> Step:
            return Step(size=size)

        @make.validator
        def small(size: int) -> bool:
            """Only small ones."""
            return size < 10

        @steps.create(into=self.a, visibility=Visibility.INTERNAL)
        def make_inside(a: Args, size: int) -> Step:
            return Step(size=size)

        @steps.event(self.a)
        def spawn(a: Args[Step], size: int) -> None: ...

        @steps.event(self.a)
        def spawn_inside(a: Args[Step], size: int) -> None: ...

        @steps.event(self.a, to=self.b)
        def rest(a: Args[Step]) -> None: ...

        @steps.event(self.b, to=self.a)
        def wake(a: Args[Step]) -> None: ...

        self.a.on(spawn).commands(lambda a, size: [make(1), make(size)])
        self.a.on(spawn_inside).commands(lambda a, size: make_inside(size))
        self.make, self.make_inside, self.spawn, self.spawn_inside = make, make_inside, spawn, spawn_inside
        self.rest = rest


def test_validators_hold_for_commands_of_blocks_and_undo_everything() -> None:
    steps = Steps()
    with steps.app.open() as k:
        first = k.handle(steps.make(1), TESTER).id
        with pytest.raises(InvalidValue) as caught:
            k.handle(steps.spawn(first, 10), TESTER)
        assert [(p.code, p.message, p.key) for p in caught.value.problems] == [
            ("small", "Only small ones.", "Step.make.small")
        ]
        with pytest.raises(InvalidValue):
            k.handle_all(lambda: (steps.make(size) for size in (1, 2, 10)), TESTER)
        with k.read(TESTER) as r:
            assert (r.count(steps.steps), k.sequence) == (1, 1)
        k.handle(steps.spawn(first, 9), TESTER)
        with k.read(TESTER) as r:
            assert sorted(step.size for step in r.list(steps.steps)) == [1, 1, 9]


def test_timers_may_cause_what_jobs_and_people_may_not() -> None:
    steps, clock = Steps(), Clock()
    steps.b.after(timedelta(hours=1)).commands(lambda a: steps.make_inside(7))
    refused: list[str] = []

    @steps.app.job()
    def sneak(job: JobRun) -> None:
        try:
            job.handle(steps.make_inside(8))
        except Denied as error:
            refused.append(error.code)

    @steps.app.job(max_attempts=1)
    def sneak_at_the_end(job: JobRun) -> Any:
        return job.complete_with(steps.make(5), steps.make_inside(8))

    with steps.app.open(clock=clock) as k:
        first = k.handle(steps.make(1), TESTER).id
        k.jobs.schedule(sneak(), sneak_at_the_end())
        assert k.jobs.wait_until_idle(20)
        assert (k.jobs.counts()[JobState.COMPLETED], k.jobs.counts()[JobState.DISCARDED]) == (1, 1)
        with pytest.raises(Denied) as caught:
            k.handle(steps.make_inside(8), TESTER)
        assert refused == [caught.value.code] == ["not_visible"]
        k.handle(steps.spawn_inside(first, 6), TESTER)
        k.handle(steps.rest(first), TESTER)
        clock.advance(timedelta(hours=1))
        assert k.timers.wait_until_idle(20)
        with k.read(TESTER) as r:
            assert sorted(step.size for step in r.list(steps.steps)) == [1, 6, 7]


# --- costs, counted -----------------------------------------------------------------------------------


def test_what_is_kept_is_worked_out_for_what_changes_alone(bank: OpenBank) -> None:
    calls = {"where": 0, "key": 0, "order": 0, "rule": 0}

    def counted(name: str, value: Callable[[Account], Any]) -> Callable[[Any], Any]:
        def function(model: Account) -> Any:
            calls[name] += 1
            return value(model)

        return function

    rich = bank.active.where(counted("where", lambda m: m.balance > 300))
    ordered = bank.accounts.order(counted("order", lambda m: (m.balance % 7, m.owner)))
    by_rest = bank.accounts.index(counted("key", lambda m: m.balance % 10))

    @bank.app.deny.read(Account)
    def nobody_is_hidden(a: Args[Account]) -> bool:
        calls["rule"] += 1
        return a.model.balance < 0

    def spent() -> dict[str, int]:
        found = dict(calls)
        calls.update(dict.fromkeys(calls, 0))
        return found

    with bank.app.open() as k:
        costs = []
        for start in (0, 500):
            k.handle_all([bank.enter(f"a{start + n}", n) for n in range(500)], TESTER)
            guarantor = k.handle(bank.enter(f"guarantor {start}"), TESTER).id
            k.handle_all([bank.enter(f"g{start + n}", 1, guarantor) for n in range(5)], TESTER)
            spent()
            k.handle(bank.deposit(1, 1), TESTER)
            command = spent()
            with k.read(TESTER) as r:
                assert len(r.query(ordered, limit=10).items) == 10
                page = spent()
                assert len(r.related(guarantor)) == 5
                related = spent()
                assert r.find(bank.by_owner, f"a{start}") is not None
                found = spent()
            costs.append((command, page, related, found))
            assert max(max(each.values()) for each in costs[-1]) <= 20
        # Twice as many models, and not one call more.
        assert costs[0] == costs[1]
        assert costs[0][0]["where"] > 0
        assert costs[0][1]["rule"] > 0
        with k.read(TESTER) as r:
            assert r.count(rich) == len([m for m in r.list(bank.active) if m.balance > 300])
            assert r.count(by_rest(3)) == len([m for m in r.list(bank.accounts) if m.balance % 10 == 3])


# --- blobs and locks ----------------------------------------------------------------------------------


def test_commands_reads_and_other_keys_go_on_while_blobs_are_streamed(bank: OpenBank) -> None:
    with bank.app.open() as k:

        def source() -> Iterator[bytes]:
            # In the middle of being stored, by the very thread that stores: a lock held here would refuse it.
            for n in range(3):
                ada = k.handle(bank.enter(f"in {n}"), TESTER).id
                Spawned(k.handle, bank.deposit(ada, 1), TESTER).end()
                with k.read(TESTER) as r:
                    assert r.get(ada).balance == 1
                k.kv.put(f"in {n}", n, TESTER)
                k.blobs.put(f"other {n}", b"x", TESTER)
                yield bytes([n]) * 300_000

        k.blobs.put("blob", source(), TESTER)
        with k.blobs.open("blob", TESTER) as blob:
            for n in range(3):
                assert blob.read(300_000) == bytes([n]) * 300_000
                k.handle(bank.enter(f"out {n}"), TESTER)
                assert k.kv.get(f"in {n}", TESTER) == n
        assert len(bank.contents(k)) == 6


# --- before there are bodies --------------------------------------------------------------------------

SKETCH = '''
import klerk
from datetime import timedelta

class Ticket(klerk.Model):
    title: str

app = klerk.App("desk")
tickets = app.machine(Ticket)
new, waiting, done = tickets.states("new", "waiting", "done", final=("done",))

@tickets.create(into=new)
def report(a: klerk.Args, title: str) -> Ticket:
    """Report something."""
    ...

@report.rule
def is_new(a: klerk.Args, title: str) -> bool:
    """It was reported before."""
    ...

@tickets.event(new, to=waiting)
def ask(a: klerk.Args[Ticket], question: str) -> Ticket: ...

@tickets.event(new, waiting, to=done)
def solve(a: klerk.Args[Ticket]) -> None: ...

@app.job()
def mail(job: klerk.JobRun, ticket: klerk.Ref[Ticket]) -> None: ...

waiting.after(timedelta(days=14)).to(done)
done.on_enter.job(mail)

@app.allow.command(report)
def anybody(a: klerk.Args) -> bool: ...
'''


def test_a_design_without_bodies_is_drawn_shown_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sketch.py"
    path.write_text(SKETCH)
    assert main(["diagram", str(path), "--model", "Ticket"]) == 0
    diagram = capsys.readouterr().out
    for edge in ("[*] --> new : report", "new --> waiting : ask", "new --> done : solve", "14 days"):
        assert edge in diagram
    assert "mail" in diagram
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    for part in ("Report something.", "It was reported before.", "anybody", "mail", "question"):
        assert part in shown
    assert main(["check", str(path)]) == 0
    assert "no errors" in capsys.readouterr().out


# --- errors -------------------------------------------------------------------------------------------


def error_classes() -> list[type[KlerkError]]:
    found = [getattr(klerk, name) for name in klerk.__all__]
    return [each for each in found if isinstance(each, type) and issubclass(each, KlerkError)]


def test_every_error_has_a_code_a_status_and_a_builtin() -> None:
    classes = error_classes()
    assert {each.code for each in classes} >= {"denied", "not_found", "conflict", "closed"}
    assert len({each.code for each in classes}) == len(classes)
    for each in classes:
        assert each.__doc__
        assert 400 <= each.status < 600
        builtins = [base for base in each.__mro__ if base.__module__ == "builtins"]
        assert each is KlerkError or builtins[0] not in (Exception, object), each
        assert all(base in klerk.__dict__.values() for base in each.__mro__ if base.__module__ == "klerk")

"""Subscribers are told every durable change they may know of, once, in order, live and from the log alike.

What must be told is worked out from snapshots that were read after each transaction, without any of the code
under test. Where threads have to meet at a point, they wait for events, never for time to pass.
"""

import asyncio
import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import (
    NOON,
    TESTER,
    Account,
    Bank,
    Brake,
    Clock,
    Spawned,
    eventually,
    permit_everything,
    run_python,
    wait_until_blocked,
)

import klerk
from klerk import (
    MASKED,
    App,
    Args,
    ArgumentError,
    Change,
    ChangeKind,
    Closed,
    Conflict,
    Context,
    FunctionFailed,
    Klerk,
    Lagged,
    LimitExceeded,
    Model,
    NotPure,
    ReadLockHeld,
    Ref,
    Rejected,
    StoreFailed,
    System,
    User,
    limits,
)
from klerk.storage.memory import MemoryStorage

SYSTEM = Context(System("test"))


@pytest.fixture
def bank() -> Bank:
    return Bank()


def told_now(changes: klerk.Changes[Any]) -> list[Change[Any]]:
    """Everything that can be told without waiting."""
    return list(iter(lambda: changes.take(0), None))


def brief(changes: list[Change[Any]]) -> list[tuple[int, str, int]]:
    return [(change.sequence, str(change.kind), change.ref) for change in changes]


# --- what is told, against snapshots ------------------------------------------------------------------

Snapshot = dict[int, Any]


class History:
    """Random transactions on a bank, with a snapshot of all accounts after each."""

    def __init__(self, bank: Bank, k: Klerk, rng: random.Random) -> None:
        self.bank, self.k, self.rng = bank, k, rng
        self.snapshots: dict[int, Snapshot] = {k.sequence: self.snapshot()}
        self.names = 0

    def snapshot(self) -> Snapshot:
        with self.k.read(TESTER) as r:
            return {m.meta.id: m for m in r.list(self.bank.accounts)}

    def command(self) -> Any:
        bank, rng = self.bank, self.rng
        ids = [*self.snapshot(), 999_999]
        self.names += 1
        first, second = rng.choice(ids), rng.choice(ids)
        return rng.choice(
            [
                lambda: bank.enter(f"n{self.names}", rng.randrange(3)),
                lambda: bank.enter(f"n{self.names}", rng.randrange(3)),
                lambda: bank.deposit(first, rng.randrange(3)),
                lambda: bank.transfer(first, second, rng.randrange(2)),
                lambda: bank.rename(first, f"n{self.names}"),
                lambda: bank.close(first),
                lambda: bank.reopen(first),
                lambda: bank.remove(first),
            ]
        )()

    def go_on(self, count: int) -> None:
        """Try so many transactions; what is refused leaves nothing behind."""
        for _ in range(count):
            commands = [self.command() for _ in range(self.rng.choice([1, 1, 1, 2, 5]))]
            try:
                if len(commands) == 1:
                    sequence = self.k.handle(commands[0], TESTER).sequence
                elif self.rng.random() < 0.5:
                    sequence = self.k.handle_all(commands, TESTER)[0].sequence
                else:
                    sequence = self.k.handle_all(lambda given=commands: (yield from given), TESTER)[
                        0
                    ].sequence
            except klerk.KlerkError:
                continue
            self.snapshots[sequence] = self.snapshot()

    def expected(self, belongs: Callable[[Any], bool], since: int) -> list[Any]:
        """What is to be told of the models that belong to something: (sequence, kind, ref, after, before)."""
        found = []
        before: Snapshot = {}
        for sequence, after in sorted(self.snapshots.items()):
            for ref in sorted(before.keys() | after.keys()):
                kind = kind_of(before.get(ref), after.get(ref), belongs)
                if kind and sequence > since:
                    found.append((sequence, kind, ref, after.get(ref), before.get(ref)))
            before = after
        return found


def kind_of(before: Any, after: Any, belongs: Callable[[Any], bool]) -> str:
    was, now = before is not None and belongs(before), after is not None and belongs(after)
    if before is not None and after is not None and before.meta == after.meta:
        return ""
    if was and now:
        return "updated" if before.meta.state is after.meta.state else "transitioned"
    if now:
        return "entered" if before is not None else "created"
    return "" if not was else "left" if after is not None else "deleted"


def plain(told: list[Change[Any]]) -> list[Any]:
    """Changes as `History.expected` gives them; those of one transaction by reference."""
    found = [(c.sequence, str(c.kind), c.ref, c.model, c.before) for c in told]
    return sorted(found, key=lambda each: (each[0], each[2]))


def subjects(bank: Bank) -> dict[str, tuple[Any, Callable[[Any], bool]]]:
    """Things to subscribe to, and what belongs to them."""
    active, closed = bank.active, bank.closed
    return {
        "all": (None, lambda m: True),
        "class": (Account, lambda m: True),
        "machine": (bank.accounts, lambda m: True),
        "state": (active, lambda m: m.meta.state is active),
        "reference": (Ref(3), lambda m: m.meta.id == 3),
        "where": (
            active.where(lambda m: m.balance > 1).order("owner"),
            lambda m: m.meta.state is active and m.balance > 1,
        ),
        "key": (bank.by_balance(2), lambda m: m.balance == 2),
        "list": (
            [closed, bank.by_balance(1), 2],
            lambda m: m.meta.state is closed or m.balance == 1 or m.meta.id == 2,
        ),
    }


@pytest.mark.parametrize("name", ["all", "class", "machine", "state", "reference", "where", "key", "list"])
def test_what_is_told_is_what_happened(bank: Bank, rng: random.Random, name: str) -> None:
    what, belongs = subjects(bank)[name]
    with bank.app.open() as k:
        history = History(bank, k, rng)
        live = k.changes(TESTER, what)
        history.go_on(150)
        told = told_now(live)
        assert plain(told) == history.expected(belongs, 0)
        assert live.sequence == k.sequence
        # From the log exactly the same, with all that models carry, from wherever one begins.
        for since in (0, 1, k.sequence // 2, k.sequence - 1, k.sequence):
            again = told_now(k.changes(TESTER, what, since=since))
            assert again == [change for change in told if change.sequence > since]
            for one, other in zip(again, told[len(told) - len(again) :], strict=True):
                for a, b in ((one.model, other.model), (one.before, other.before)):
                    assert (a is None and b is None) or a.meta == b.meta
        assert told


def test_transactions_stay_together_and_end_with_their_last_change(bank: Bank, rng: random.Random) -> None:
    with bank.app.open() as k:
        history = History(bank, k, rng)
        live = k.changes(TESTER, bank.active)
        history.go_on(100)
        seen: list[int] = []
        expected = {each[0] for each in history.expected(lambda m: m.meta.state is bank.active, 0)}
        before = live.sequence
        for change in told_now(live):
            if not seen or seen[-1] != change.sequence:
                assert change.sequence not in seen
                seen.append(change.sequence)
            assert change.sequence > before
            if change.last:
                before = change.sequence
        assert set(seen) == expected
        assert before == seen[-1]


def test_a_list_is_kept_right_with_present_and_model(bank: Bank, rng: random.Random) -> None:
    with bank.app.open() as k:
        history = History(bank, k, rng)
        history.go_on(30)
        views = [bank.accounts, bank.active, bank.by_balance(1)]
        shown: list[dict[int, Any]] = []
        with k.read(TESTER) as r:
            shown.extend({m.meta.id: m for m in r.list(view)} for view in views)
            subscriptions = [k.changes(TESTER, view) for view in views]
        for _ in range(20):
            history.go_on(10)
            with k.read(TESTER) as r:
                wanted = [{m.meta.id: m for m in r.list(view)} for view in views]
            for each, changes, right in zip(shown, subscriptions, wanted, strict=True):
                for change in told_now(changes):
                    if change.present:
                        each[change.ref] = change.model
                    else:
                        del each[change.ref]
                assert each == right


def test_subscribing_inside_a_read_begins_right_after_it(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        over = threading.Event()

        def write() -> None:
            while not over.is_set():
                k.handle(bank.deposit(ada, 1), TESTER)

        writer = Spawned(write)
        for _ in range(200):
            with k.read(TESTER) as r:
                version = r.get(ada).meta.version
                changes = k.changes(TESTER, ada)
            first = changes.take(20)
            assert first is not None
            assert first.model is not None
            assert first.model.meta.version == version + 1
            changes.close()
        over.set()
        writer.end()


def test_what_is_published_later_than_asked_for_is_not_told_again(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        with k.read(TESTER):
            second = Spawned(k.handle, bank.deposit(ada, 1), TESTER)
            # It is processed, and cannot be published while this reads.
            eventually(lambda: k.sequence == 2)
            from_now, from_then = k.changes(TESTER), k.changes(TESTER, since=2)
            waiting = Spawned(from_then.take)
            wait_until_blocked(waiting)
        second.end()
        k.handle(bank.deposit(ada, 1), TESTER)
        assert waiting.end().sequence == 3
        assert [change.sequence for change in told_now(from_now)] == [2, 3]


def test_what_leaves_nothing_behind_is_not_told(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 5), TESTER).id
        changes = k.changes(TESTER)
        with pytest.raises(Rejected):
            k.handle(bank.withdraw(ada, 6), TESTER)
        with pytest.raises(Rejected):
            k.handle_all([bank.deposit(ada, 1), bank.withdraw(ada, 60)], TESTER)
        with pytest.raises(FunctionFailed):
            k.handle_all(failing_generator(bank, ada), TESTER)
        k.handle(bank.deposit(ada, 1), TESTER, dry_run=True)
        k.handle_all([bank.enter("Bob"), bank.remove(ada)], TESTER, dry_run=True)
        assert told_now(changes) == []
        k.handle_all(one_by_one([bank.enter("Eve"), bank.deposit(ada, 1)]), TESTER)
        assert brief(told_now(changes)) == [(2, "created", 2), (2, "updated", 1)]


def one_by_one(commands: list[Any]) -> Callable[[], Iterator[Any]]:
    def generator() -> Iterator[Any]:
        for command in commands:
            result = yield command
            assert result.sequence == 0

    return generator


def failing_generator(bank: Bank, ada: Any) -> Callable[[], Iterator[Any]]:
    def commands() -> Iterator[Any]:
        yield bank.deposit(ada, 1)
        raise ZeroDivisionError

    return commands


def test_a_model_that_comes_and_goes_in_one_transaction_is_not_told(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)

        def commands() -> Iterator[Any]:
            result = yield bank.enter("Ada")
            yield bank.remove(result.id)

        k.handle_all(commands, TESTER)
        assert told_now(changes) == []
        assert changes.sequence == 1
        assert told_now(k.changes(TESTER, since=0)) == []


def test_timers_and_jobs_are_told() -> None:
    class Task(Model):
        title: str

    clock = Clock()
    app = App("tasks")
    tasks = app.machine(Task)
    fresh, stale, done = tasks.states("fresh", "stale", "done", final=("done",))
    permit_everything(app)

    @tasks.create(into=fresh)
    def add(a: Args, title: str) -> Task:
        return Task(title=title)

    @tasks.event(stale, to=done)
    def finish(a: Args[Task]) -> None: ...

    @app.job()
    def tidy(job: klerk.JobRun, task: Ref[Task]) -> None:
        job.handle(finish(task))

    fresh.after(timedelta(hours=1)).to(stale)
    stale.on_enter.job(tidy)
    with app.open(clock=clock) as k:
        changes = k.changes(TESTER, tasks)
        id = k.handle(add("write"), TESTER).id
        clock.advance(timedelta(hours=2))
        told = [changes.take(20) for _ in range(3)]
        assert [(c and c.kind, c and c.ref) for c in told] == [
            (ChangeKind.CREATED, id),
            (ChangeKind.TRANSITIONED, id),
            (ChangeKind.TRANSITIONED, id),
        ]
        assert told[0] is not None
        assert told[0].time == NOON
        assert told[2] is not None
        assert told[2].model is not None
        assert told[2].model.meta.state is done
        # The end of the job is a transaction without a model: it moves on the sequence and is not told.
        assert k.jobs.wait_until_idle(20)
        assert changes.take(0) is None
        assert changes.sequence == k.sequence


# --- who is told --------------------------------------------------------------------------------------


class Note(Model):
    owner: str
    text: str
    secret: str = ""
    folder: Ref["Folder"] | None = None


class Folder(Model):
    reader: str


class Notebook:
    """Notes that only their owner may read, or the reader of their folder; secrets are for the boss."""

    def __init__(self) -> None:
        self.app = app = App("notes")
        self.notes, self.folders = notes, folders = app.machine(Note), app.machine(Folder)
        self.draft, self.final = notes.states("draft", "final")
        (self.open,) = folders.states("open")
        self.by_secret = notes.index(lambda note: note.secret or None)
        self.fault: Exception | None = None
        app.allow.command()(lambda a: True)

        @notes.create(into=self.draft)
        def write(
            a: Args, owner: str, text: str, secret: str = "", folder: Ref[Folder] | None = None
        ) -> Note:
            return Note(owner=owner, text=text, secret=secret, folder=folder)

        @notes.event(self.draft, self.final)
        def edit(a: Args[Note], text: str) -> Note:
            return a.model.replace(text=text)

        @notes.event(self.draft, self.final)
        def give(a: Args[Note], owner: str) -> Note:
            return a.model.replace(owner=owner)

        @notes.event(self.draft, to=self.final)
        def finish(a: Args[Note]) -> None: ...

        @notes.event(self.final, to=self.draft)
        def resume(a: Args[Note]) -> None: ...

        @notes.event(self.draft, self.final)
        def burn(a: Args[Note]) -> None: ...

        self.draft.on(burn).delete()
        self.final.on(burn).delete()

        @folders.create(into=self.open)
        def file(a: Args, reader: str) -> Folder:
            return Folder(reader=reader)

        @folders.event(self.open)
        def lend(a: Args[Folder], reader: str) -> Folder:
            return a.model.replace(reader=reader)

        @folders.event(self.open)
        def shred(a: Args[Folder]) -> None: ...

        self.open.on(shred).delete()
        self.write, self.edit, self.give, self.finish, self.resume = write, edit, give, finish, resume
        self.burn, self.file, self.lend, self.shred = burn, file, lend, shred
        self.declare_who_may_read()

    def declare_who_may_read(self) -> None:
        @self.app.allow.read(Note)
        def own_or_lent(a: Args[Note]) -> bool:
            if self.fault is not None:
                raise self.fault
            if a.model.owner == a.context.actor.id:
                return True
            return a.model.folder is not None and a.read.get(a.model.folder).reader == a.context.actor.id

        @self.app.allow.field(Note)
        def anybody(a: Args[Note]) -> bool:
            return True

        @self.app.deny.field(Note)
        def secrets_are_for_the_boss(a: Args[Note]) -> bool:
            return a.field == "secret" and "boss" not in a.context.actor.roles


ADA, BOB = Context(User("ada")), Context(User("bob"))
BOSS = Context(User("ada", roles=frozenset({"boss"})))


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


def test_what_may_not_be_read_is_not_told(notebook: Notebook) -> None:
    with notebook.app.open() as k:
        changes = k.changes(BOB)
        id = k.handle(notebook.write("ada", "one", "x"), ADA).id
        k.handle(notebook.edit(id, "two"), ADA)
        k.handle(notebook.finish(id), ADA)
        k.handle(notebook.burn(id), ADA)
        k.handle(notebook.file("bob"), ADA)
        assert told_now(changes) == told_now(k.changes(BOB, since=0)) == []
        assert changes.sequence == k.sequence


def test_fields_are_masked_before_and_after(notebook: Notebook) -> None:
    with notebook.app.open() as k:
        mine, boss = k.changes(ADA, Note), k.changes(BOSS, Note)
        id = k.handle(notebook.write("ada", "one", "x"), ADA).id
        k.handle(notebook.edit(id, "two"), ADA)
        for changes, secret in ((mine, MASKED), (boss, "x"), (k.changes(ADA, Note, since=0), MASKED)):
            created, updated = told_now(changes)
            assert (
                created.model.secret is updated.model.secret is updated.before.secret is secret
                or secret == "x"
            )
            assert (updated.before.text, updated.model.text) == ("one", "two")
            assert updated.model.secret == updated.before.secret == secret
            assert ("'x'" in repr(updated)) == (secret == "x")


def test_a_masked_field_selects_nothing(notebook: Notebook) -> None:
    with notebook.app.open() as k:
        mine, boss = k.changes(ADA, notebook.by_secret("x")), k.changes(BOSS, notebook.by_secret("x"))
        id = k.handle(notebook.write("ada", "one", "x"), ADA).id
        k.handle(notebook.edit(id, "two"), ADA)
        assert told_now(mine) == []
        assert brief(told_now(boss)) == [(1, "created", id), (2, "updated", id)]


def test_a_condition_on_a_masked_field_selects_nothing(notebook: Notebook) -> None:
    conditions = [
        lambda note: note.secret == "x",
        lambda note: len(note.secret) == 1,
        lambda note: bool(note.secret),
    ]
    views = [notebook.notes.where(each) for each in conditions]
    without = notebook.notes.where(lambda note: not note.secret)
    with notebook.app.open() as k:
        id = k.handle(notebook.write("ada", "one", "x"), ADA).id
        for view in views:
            assert told_now(k.changes(ADA, view, since=0)) == []
            assert brief(told_now(k.changes(BOSS, view, since=0))) == [(1, "created", id)]
        # What is masked is false, which does not bring in what has it.
        assert told_now(k.changes(ADA, without, since=0)) == []


def test_a_failing_condition_is_named_to_its_subscriber(bank: Bank) -> None:
    with bank.app.open() as k:
        faulty = bank.accounts.where(lambda m: 1 // m.balance > 0)
        changes, well = k.changes(TESTER, faulty), k.changes(TESTER)
        k.handle(bank.enter("Ada", 0), TESTER)
        with pytest.raises(FunctionFailed, match="ZeroDivisionError"):
            changes.take(0)
        assert len(told_now(well)) == 1


def test_a_snapshot_is_followed_by_what_comes_after_it(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        with k.snapshot(TESTER) as snapshot:
            k.handle(bank.deposit(ada, 1), TESTER)
            assert brief(told_now(k.changes(TESTER, since=snapshot.sequence))) == [(2, "updated", ada)]


def test_a_model_is_given_away(notebook: Notebook) -> None:
    with notebook.app.open() as k:
        adas, bobs = k.changes(ADA, notebook.draft), k.changes(BOB, notebook.draft)
        id = k.handle(notebook.write("ada", "one"), ADA).id
        k.handle(notebook.give(id, "bob"), ADA)
        k.handle(notebook.edit(id, "two"), ADA)
        k.handle(notebook.burn(id), ADA)
        for changes in (adas, k.changes(ADA, notebook.draft, since=0)):
            created, left = told_now(changes)
            assert (created.kind, left.kind) == (ChangeKind.CREATED, ChangeKind.LEFT)
            assert left.model is None
            assert left.before == created.model
            assert not left.present
        for changes in (bobs, k.changes(BOB, notebook.draft, since=0)):
            entered, updated, deleted = told_now(changes)
            assert (entered.kind, updated.kind, deleted.kind) == ("entered", "updated", "deleted")
            assert entered.before is None
            assert entered.model.text == "one"
            assert deleted.before == updated.model
            assert deleted.model is None


def test_a_rule_changes_its_mind_without_the_model_being_changed(notebook: Notebook) -> None:
    with notebook.app.open() as k:
        folder = k.handle(notebook.file("bob"), ADA).id
        changes, late = k.changes(BOB, Note), k.changes(BOB, Note)
        id = k.handle(notebook.write("ada", "one", folder=folder), ADA).id
        (created,) = told_now(changes)
        assert created.kind is ChangeKind.CREATED
        k.handle(notebook.lend(folder, "eve"), ADA)
        k.handle(notebook.edit(id, "private"), ADA)
        (left,) = told_now(changes)
        assert (left.kind, left.model, left.before) == (ChangeKind.LEFT, None, None)
        # Who was never told of it does not learn that it exists.
        assert told_now(late) == []
        k.handle(notebook.edit(id, "more"), ADA)
        assert told_now(changes) == told_now(late) == []
        k.handle(notebook.lend(folder, "bob"), ADA)
        k.handle(notebook.edit(id, "again"), ADA)
        (entered,) = told_now(changes)
        assert (entered.kind, entered.model.text) == (ChangeKind.UPDATED, "again")


def test_rules_about_a_version_of_the_past_may_miss_what_is_gone(notebook: Notebook) -> None:
    with notebook.app.open() as k:
        folder = k.handle(notebook.file("bob"), ADA).id
        changes, late = k.changes(BOB, Note), k.changes(BOB, Note)
        id = k.handle(notebook.write("ada", "one", folder=folder), ADA).id
        assert brief(told_now(changes)) == [(2, "created", id)]
        k.handle_all([notebook.burn(id), notebook.shred(folder)], ADA)
        assert brief(told_now(changes)) == [(3, "left", id)]
        assert told_now(late) == []


def test_a_failing_rule_hurts_only_its_subscriber_and_nothing_is_lost(notebook: Notebook) -> None:
    with notebook.app.open() as k:
        changes, trusted = k.changes(ADA, Note), k.changes(SYSTEM)
        id = k.handle(notebook.write("ada", "one"), ADA).id
        notebook.fault = ZeroDivisionError("oops")
        for _ in range(2):
            with pytest.raises(FunctionFailed, match="oops") as caught:
                changes.take(0)
            assert "transaction 1" in caught.value.__notes__[0]
        assert changes.sequence == 0
        assert brief(told_now(trusted)) == [(1, "created", id)]
        k.handle(notebook.edit(id, "two"), ADA)
        notebook.fault = None
        assert brief(told_now(changes)) == [(1, "created", id), (2, "updated", id)]


def test_a_failing_rule_in_the_middle_of_a_large_transaction(notebook: Notebook) -> None:
    with notebook.app.open() as k:
        count = 3 * limits.SUBSCRIBER_MODELS_AT_ONCE + 1
        changes = k.changes(ADA, Note)
        k.handle_all([notebook.write("ada", f"{i}") for i in range(count)], ADA)
        told = [changes.take(0) for _ in range(limits.SUBSCRIBER_MODELS_AT_ONCE - 1)]
        notebook.fault = ZeroDivisionError("oops")
        with pytest.raises(FunctionFailed):
            changes.take(0)
        notebook.fault = None
        told += told_now(changes)
        assert [c and c.model and c.model.text for c in told] == [f"{i}" for i in range(count)]
        assert [i for i, c in enumerate(told) if c is not None and c.last] == [count - 1]


# --- many at once -------------------------------------------------------------------------------------


def watch(k: Klerk, stop: int, **options: Any) -> Callable[[], list[int]]:
    """Take changes in a thread until a sequence is told."""
    subscription = k.changes(TESTER, since=0, **options)

    def run() -> list[int]:
        seen = []
        for change in subscription:
            seen.append(change.sequence)
            if change.sequence >= stop:
                break
        return seen

    return run


async def watch_in_loop(k: Klerk, stop: int, **options: Any) -> list[int]:
    seen = []
    async with k.aio.changes(TESTER, since=0, **options) as changes:
        async for change in changes:
            seen.append(change.sequence)
            if change.sequence >= stop:
                break
    return seen


def test_everybody_sees_every_transaction_once_and_in_order(bank: Bank) -> None:
    count = 20_000
    with bank.app.open() as k:
        ids = [k.handle(bank.enter(f"n{i}"), TESTER).id for i in range(10)]
        stop = len(ids) + count
        options: list[dict[str, Any]] = [
            {"queue_length_max": 100_000},
            {"queue_length_max": 50, "catch_up": True},
        ]
        threads = [Spawned(watch(k, stop, **each)) for each in options]

        async def both_in_loop() -> list[list[int]]:
            return await asyncio.gather(*(watch_in_loop(k, stop, **each) for each in options))

        loop = Spawned(lambda: asyncio.run(both_in_loop()))
        pending = [k.submit(bank.deposit(ids[i % 10], 1), TESTER) for i in range(count)]
        for each in pending:
            each.result()
        everything = list(range(1, stop + 1))
        for thread in threads:
            assert thread.end(60) == everything
        for seen in loop.end(60):
            assert seen == everything


@pytest.mark.parametrize("stored", [False, True])
def test_subscribers_come_and_go_while_commands_are_handled(
    bank: Bank, rng: random.Random, tmp_path: Path, stored: bool
) -> None:
    with bank.app.open(tmp_path / "store" if stored else None) as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        over = threading.Event()

        def write() -> None:
            while not over.is_set():
                for each in [k.submit(bank.deposit(ada, 1), TESTER) for _ in range(100)]:
                    each.result()

        writer = Spawned(write)
        try:
            sequence = 0
            for _ in range(100):
                # Each goes on where the one before it ended: from the log, and through the join with live.
                with k.changes(
                    TESTER, since=sequence, queue_length_max=rng.choice([1, 30, 1000]), catch_up=True
                ) as c:
                    for change in c:
                        assert change.sequence == sequence + 1
                        sequence = c.sequence
                        if rng.random() < 0.003:
                            break
        finally:
            over.set()
        writer.end()


# --- resuming -----------------------------------------------------------------------------------------


def test_resuming_after_restarts_neither_loses_nor_repeats(
    bank: Bank, rng: random.Random, tmp_path: Path
) -> None:
    told: list[Change[Any]] = []
    sequence = 0
    expected: list[Any] = []
    for _ in range(6):
        again = Bank()
        with again.app.open(tmp_path / "store", durability="process") as k:
            history = History(again, k, rng)
            with k.changes(TESTER, again.accounts, since=sequence) as changes:
                history.names = 1000 * len(expected)
                history.go_on(25)
                everything = history.expected(lambda m: True, min(history.snapshots))
                expected += everything
                stop_after = rng.randrange(len(told), len(expected) + 1) - len(told)
                parts: list[Change[Any]] = []
                for _ in range(stop_after):
                    change = changes.take(0)
                    assert change is not None
                    parts.append(change)
                sequence = changes.sequence
                # Of a transaction that was told in part, nothing counts.
                told += [change for change in parts if change.sequence <= sequence]
    with bank.app.open(tmp_path / "store", durability="process") as k:
        told += told_now(k.changes(TESTER, bank.accounts, since=sequence))
    assert [(s, kind, ref) for s, kind, ref, *_ in plain(told)] == [
        (s, kind, ref) for s, kind, ref, *_ in expected
    ]
    assert [(m and m.balance, b and b.balance) for *_, m, b in plain(told)] == [
        (m and m.balance, b and b.balance) for *_, m, b in expected
    ]


def test_versions_before_are_found_far_back_in_the_log(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> None:
    monkeypatch.setattr(limits, "CATCH_UP_TRANSACTIONS", 7)
    monkeypatch.setattr(limits, "CATCH_UP_VERSIONS_MAX", 3)
    with bank.app.open() as k:
        history = History(bank, k, rng)
        live = k.changes(TESTER)
        history.go_on(200)
        assert told_now(k.changes(TESTER, since=0)) == told_now(live)


def test_erased_versions_are_told_as_such(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    # Erasure is not part of what is tested here: the payload is taken out of the record by hand.
    stores: list[MemoryStorage] = []
    init = MemoryStorage.__init__
    monkeypatch.setattr(MemoryStorage, "__init__", lambda self: (init(self), stores.append(self))[0])
    from klerk._image import key_of
    from klerk.codec import LogRecord, encode, read_record
    from klerk.storage.contract import Family

    def erase(sequence: int) -> None:
        key = key_of(sequence)
        value = stores[-1].get(Family.LOG, key)
        assert value is not None
        record = read_record(key, value)[2]
        stores[-1].write([(Family.LOG, key, encode(LogRecord(record.head, (None,))))], [])

    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 1), TESTER).id
        bob = k.handle(bank.enter("Bob", 1), TESTER).id
        k.handle(bank.deposit(ada, 1), TESTER)
        k.handle(bank.deposit(ada, 1), TESTER)
        k.handle(bank.deposit(bob, 1), TESTER)
        k.handle(bank.remove(bob), TESTER)
        for sequence in (2, 3, 5):
            erase(sequence)
        told = told_now(k.changes(TESTER, since=0))
        assert brief(told) == [(1, "created", ada), (3, "erased", ada), (4, "updated", ada)]
        now = told[1].model
        assert now is not None
        assert (now.balance, told[1].before, told[1].present) == (3, None, True)
        # The version before the next one is the last that is known.
        assert told[2].before is not None
        assert told[2].before.balance == 1
        # Where none is known, the model is told as one that came in.
        assert brief(told_now(k.changes(TESTER, ada, since=2))) == [(3, "erased", ada), (4, "updated", ada)]


# --- lagging ------------------------------------------------------------------------------------------


def test_a_slow_subscriber_is_told_and_goes_on_from_the_log(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        changes = k.changes(TESTER, queue_length_max=10)
        by_itself = k.changes(TESTER, queue_length_max=10, catch_up=True)
        for _ in range(50):
            k.handle(bank.deposit(ada, 1), TESTER)
        first = [changes.take(0) for _ in range(10)]
        assert [c and c.sequence for c in first] == list(range(2, 12))
        # There is room again, but what comes after a gap is not told before the gap is.
        k.handle(bank.deposit(ada, 1), TESTER)
        with pytest.raises(Lagged) as caught:
            changes.take(0)
        assert caught.value.sequence == changes.sequence == 11
        assert caught.value.code == "lagged"
        fresh = k.changes(TESTER, since=caught.value.sequence)
        assert [c.sequence for c in told_now(changes)] == list(range(12, 53))
        assert [c.sequence for c in told_now(fresh)] == list(range(12, 53))
        assert [c.sequence for c in told_now(by_itself)] == list(range(2, 53))
        assert (changes.lags, by_itself.lags, fresh.lags) == (1, 1, 0)
        # And live again.
        k.handle(bank.deposit(ada, 1), TESTER)
        for each in (changes, by_itself, fresh):
            assert brief(told_now(each)) == [(53, "updated", ada)]


def test_a_transaction_larger_than_the_queue(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER, queue_length_max=10)
        k.handle_all([bank.enter(f"n{i}") for i in range(11)], TESTER)
        with pytest.raises(Lagged):
            changes.take(0)
        assert [c.ref for c in told_now(changes)] == list(range(1, 12))


async def test_a_slow_task_is_told_and_goes_on_from_the_log(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = (await k.aio.handle(bank.enter("Ada"), TESTER)).id
        changes = k.aio.changes(TESTER, queue_length_max=5)
        for _ in range(20):
            await k.aio.handle(bank.deposit(ada, 1), TESTER)
        seen: list[int] = []

        async def collect() -> None:
            async for change in changes:
                seen.append(change.sequence)  # noqa: PERF401 (what came before the error counts)

        with pytest.raises(Lagged):
            await collect()
        while (change := await changes.take(0)) is not None:
            seen.append(change.sequence)
        assert seen == list(range(2, 22))


# --- waiting, waking and ending -----------------------------------------------------------------------


def test_taking_waits_for_a_change_and_no_longer_than_told(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        assert changes.take(0) is changes.take(0.01) is None
        waiting = Spawned(changes.take)
        wait_until_blocked(waiting)
        k.handle(bank.enter("Ada"), TESTER)
        assert waiting.end().sequence == 1


def test_what_concerns_nobody_wakes_nobody_and_moves_on_the_sequence(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        bob = k.handle(bank.enter("Bob"), TESTER).id
        changes = k.changes(TESTER, bob, queue_length_max=1)
        waiting = Spawned(changes.take)
        wait_until_blocked(waiting)
        for _ in range(10):
            k.handle(bank.deposit(ada, 1), TESTER)
        assert changes.sequence == 12
        k.handle(bank.deposit(bob, 1), TESTER)
        assert waiting.end().sequence == 13


def test_what_concerns_nobody_takes_no_room(bank: Bank) -> None:
    with bank.app.open() as k:
        ids = [k.handle(bank.enter(f"n{i}"), TESTER).id for i in range(100)]
        one, closed = k.changes(TESTER, [7, 8], queue_length_max=4), k.changes(TESTER, bank.closed)
        k.handle(bank.close(ids[50]), TESTER)
        for each in [k.submit(bank.deposit(id, 1), TESTER) for id in (*ids[:50], 7, *ids[51:], 8)]:
            each.result()
        assert [change.ref for change in told_now(one)] == [7, 8, 7, 8]
        assert brief(told_now(closed)) == [(101, "entered", ids[50])]
        assert one.lags == closed.lags == 0


@pytest.mark.parametrize("closing", ["subscription", "klerk"])
def test_closing_ends_whoever_waits(bank: Bank, closing: str) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        waiting = Spawned(lambda: list(changes))
        wait_until_blocked(waiting)
        (changes if closing == "subscription" else k).close()
        assert waiting.end() == []
        assert changes.take() is None
        assert changes.closed == (closing == "subscription")


@pytest.mark.parametrize("closing", ["subscription", "klerk"])
async def test_closing_ends_tasks_that_wait(bank: Bank, closing: str) -> None:
    with bank.app.open() as k:
        changes = k.aio.changes(TESTER)

        async def collect() -> list[Any]:
            return [change async for change in changes]

        waiting = asyncio.create_task(collect())
        await asyncio.sleep(0)
        await asyncio.to_thread((changes if closing == "subscription" else k).close)
        assert await asyncio.wait_for(waiting, 20) == []


def test_what_was_committed_before_closing_is_told_after_it(bank: Bank) -> None:
    k = bank.app.open()
    changes, late = k.changes(TESTER), k.changes(TESTER, since=0)
    k.handle(bank.enter("Ada"), TESTER)
    k.close()
    assert [change.sequence for change in changes] == [1]
    # What was to be read from the log cannot be any more, and it does not look like the end.
    with pytest.raises(Closed):
        late.take()
    with pytest.raises(Closed):
        k.changes(TESTER)
    with pytest.raises(Closed):
        k.aio.changes(TESTER)


def test_a_forgotten_subscription_ends_by_itself(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUBSCRIBERS_MAX", 2)
    with bank.app.open() as k:
        kept, forgotten = k.changes(TESTER), k.aio.changes(TESTER)
        with pytest.raises(LimitExceeded):
            k.changes(TESTER)
        del forgotten
        gc.collect()
        k.changes(TESTER).close()
        k.handle(bank.enter("Ada"), TESTER)
        assert brief(told_now(kept)) == [(1, "created", 1)]


def test_an_interrupted_wait_can_be_repeated(bank: Bank, interrupt: Callable[[], object]) -> None:
    from designs import Interrupted

    with bank.app.open() as k:
        changes = k.changes(TESTER)
        interrupt()
        with pytest.raises(Interrupted):
            changes.take(20)
        k.handle(bank.enter("Ada"), TESTER)
        assert brief(told_now(changes)) == [(1, "created", 1)]


async def test_a_cancelled_task_loses_nothing(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = (await k.aio.handle(bank.enter("Ada"), TESTER)).id
        changes = k.aio.changes(TESTER, since=0, queue_length_max=5, catch_up=True)
        writer = Spawned(lambda: [k.handle(bank.deposit(ada, 1), TESTER) for _ in range(500)])
        seen: list[int] = []
        while not seen or seen[-1] < 501:
            task = asyncio.create_task(changes.take())
            for _ in range(len(seen) % 3):
                await asyncio.sleep(0)
            if not task.done():
                task.cancel()
            try:
                change = await task
            except asyncio.CancelledError:
                change = await changes.take()
            assert change is not None
            seen.append(change.sequence)
        writer.end()
        assert seen == list(range(1, 502))


async def test_others_get_their_turn_while_much_is_told(bank: Bank) -> None:
    with bank.app.open() as k:
        k.handle_all([bank.enter(f"n{i}") for i in range(3000)], TESTER)
        for i in range(1, 1001):
            k.submit(bank.deposit(i, 1), TESTER)
        live = k.aio.changes(TESTER, bank.closed, queue_length_max=100_000)
        await k.aio.handle_all([bank.deposit(i, 1) for i in range(1, 3001)], TESTER)
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        ticker = asyncio.create_task(tick())
        # Nothing of it belongs to the view, and still it has to be looked at.
        assert await live.take(0) is None
        assert turns >= 3000 / limits.SUBSCRIBER_MODELS_AT_ONCE - 1
        turns = 0
        from_log = k.aio.changes(TESTER, since=0)
        told = 0
        while await from_log.take(0) is not None:
            told += 1
        assert told == 7000
        assert turns >= 7000 / limits.SUBSCRIBER_MODELS_AT_ONCE - 1
        ticker.cancel()


def test_what_is_not_durable_is_not_told(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        k.handle(bank.enter("Ada"), TESTER)

        def fail(self: MemoryStorage) -> None:
            raise OSError("no disk")

        monkeypatch.setattr(MemoryStorage, "_sync", fail)
        with pytest.raises(StoreFailed):
            k.handle(bank.enter("Bob"), TESTER)
        assert brief(told_now(changes)) == [(1, "created", 1)]
        assert brief(told_now(k.changes(TESTER, since=0))) == [(1, "created", 1)]
        monkeypatch.undo()


FORK = """
import os, sys
import klerk
from designs import TESTER, Bank

bank = Bank()
k = bank.app.open()
changes = k.changes(TESTER)
k.handle(bank.enter("Ada"), TESTER)
child = os.fork()
if child == 0:
    for refused in (changes.take, lambda: k.changes(TESTER)):
        try:
            refused()
        except klerk.Closed:
            print("refused", flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(changes.take(20).ref)
k.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    assert run_python("-W", "ignore::DeprecationWarning", "-c", FORK, cwd=tmp_path).stdout.split() == [
        "refused",
        "refused",
        "1",
    ]


def test_a_process_ends_while_a_daemon_thread_waits_for_changes(tmp_path: Path) -> None:
    body = """
import threading
from designs import TESTER, Bank, wait_until_blocked

k = Bank().app.open("store")
waiting = threading.Thread(target=lambda: list(k.changes(TESTER)), daemon=True)
waiting.start()
wait_until_blocked(waiting)
print("waiting")
"""
    done = run_python("-c", body, cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("waiting\n", "", 0)


# --- misuse -------------------------------------------------------------------------------------------


def test_waiting_inside_a_read_is_refused(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        with k.read(TESTER), pytest.raises(ReadLockHeld):
            changes.take()
        k.handle(bank.enter("Ada"), TESTER)
        assert len(told_now(changes)) == 1


async def test_waiting_inside_a_read_of_the_same_task_is_refused(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.aio.changes(TESTER)
        async with k.aio.read(TESTER):
            with pytest.raises(ReadLockHeld):
                await changes.take()
            # Another task on the same loop may.
            assert await asyncio.create_task(changes.take(0)) is None


def test_waiting_in_the_thread_that_commits_is_refused(bank: Bank) -> None:
    brake = Brake(bank)
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        caught: list[BaseException] = []

        def callback(_: Any) -> None:
            try:
                changes.take()
            except NotPure as error:
                caught.append(error)

        ada = k.handle(bank.enter("Ada"), TESTER).id
        brake.armed = True
        renaming = k.submit(bank.rename(ada, "Eve"), TESTER)
        assert brake.reached.wait(20)
        renaming.add_done_callback(callback)
        brake.go.set()
        renaming.result()
        eventually(lambda: caught)
        assert len(told_now(changes)) == 2


def test_one_thread_at_a_time_takes_changes(bank: Bank) -> None:
    with bank.app.open() as k:
        changes = k.changes(TESTER)
        waiting = Spawned(changes.take)
        wait_until_blocked(waiting)
        with pytest.raises(Conflict, match="another thread"):
            changes.take()
        k.handle(bank.enter("Ada"), TESTER)
        assert waiting.end().sequence == 1


@pytest.mark.parametrize("since", [-1, 2, 2**70, True, 1.0, "1"])
def test_there_is_nothing_since_then(bank: Bank, since: Any) -> None:
    with bank.app.open() as k:
        k.handle(bank.enter("Ada"), TESTER)
        with pytest.raises(ArgumentError, match="since"):
            k.changes(TESTER, since=since)
        with pytest.raises(ArgumentError, match="since"):
            k.aio.changes(TESTER, since=since)


@pytest.mark.parametrize("length", [0, -1, 10**7, True, 1.5, None])
def test_the_queue_has_a_length(bank: Bank, length: Any) -> None:
    with bank.app.open() as k, pytest.raises(ArgumentError, match="queue_length_max"):
        k.changes(TESTER, queue_length_max=length)


def test_what_cannot_be_subscribed_to(bank: Bank) -> None:
    class Stranger(Model):
        name: str

    other = Bank()
    wrong = [
        "accounts",
        0,
        -1,
        2**63,
        True,
        1.5,
        Model,
        Stranger,
        object(),
        bank.by_owner,
        [],
        [[1]],
        (None,),
    ]
    with bank.app.open() as k:
        for what in [
            *wrong,
            other.accounts,
            other.active,
            other.by_owner("Ada"),
            [bank.active, other.active],
        ]:
            with pytest.raises(ArgumentError):
                k.changes(TESTER, what)
        for context in (None, User("ada"), Context("ada")):  # type: ignore[arg-type]
            with pytest.raises(ArgumentError):
                k.changes(context)  # type: ignore[arg-type]

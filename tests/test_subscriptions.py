"""Subscribers are told every durable change they may know of, once, in order, live and from the log alike.

What must be told is worked out from snapshots that were read after each transaction, without any of the code
under test. Where threads have to meet at a point, they wait for events, never for time to pass.
"""

import random
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from designs import (
    NOON,
    TESTER,
    Account,
    Bank,
    Clock,
    Spawned,
    eventually,
    permit_everything,
    processed,
    wait_until_blocked,
)
from subscribers import History, brief, one_by_one, plain, told_now

import klerk
from klerk import (
    MASKED,
    App,
    Args,
    ChangeKind,
    Context,
    FunctionFailed,
    Model,
    Ref,
    Rejected,
    System,
    User,
    limits,
)

SYSTEM = Context(System("test"))


@pytest.fixture
def bank() -> Bank:
    return Bank()


# --- what is told, against snapshots ------------------------------------------------------------------


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


def test_what_is_published_later_than_asked_for_is_told(bank: Bank) -> None:
    """A reader holds up a command's publication while changes are asked for."""
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        with k.read(TESTER):
            second = Spawned(k.handle, bank.deposit(ada, 1), TESTER)
            eventually(lambda: processed(k) == 2)
            from_now, from_then = k.changes(TESTER), k.changes(TESTER, since=1)
            waiting = Spawned(from_then.take)
            wait_until_blocked(waiting)
            with pytest.raises(klerk.ArgumentError, match="since is 2, and the newest transaction is 1"):
                k.changes(TESTER, since=2)
        second.end()
        k.handle(bank.deposit(ada, 1), TESTER)
        assert waiting.end().sequence == 2
        assert [change.sequence for change in told_now(from_now)] == [2, 3]
        assert [change.sequence for change in told_now(from_then)] == [3]


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

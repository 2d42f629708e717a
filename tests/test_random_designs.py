"""Random histories of random designs leave exactly what a dictionary says.

Hypothesis draws a design as data (`random_designs.py`) and a history for it, and shortens both when they
fail. `random_worlds.py` builds the design for Klerk, and lives the history in a dictionary. After each step
everything that can be read is compared: models, views, indexes, pages, columns, references, timers, jobs,
open snapshots, the log and the history, for an actor who may read everything and for one who may not.
"""

import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from designs import NOON
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from random_designs import (
    GUEST,
    KINDS,
    MINUTE,
    TESTER,
    Choose,
    Class,
    Design,
    Link,
    Selection,
    drawn,
    is_reference,
    sortable,
)
from random_worlds import (
    Built,
    Call,
    Done,
    Endless,
    Hidden,
    JobRow,
    Pick,
    Row,
    Seen,
    Sorts,
    World,
    keys_of,
    rows_of,
    shown_to,
)

import klerk
from klerk import MASKED, Args, Denied, Klerk

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CONTEXTS = {"tester": TESTER, "guest": GUEST}


class Count:
    """How many steps were made in this process."""

    steps = 0


# --- made-up commands ---------------------------------------------------------------------------------


# Making a strategy takes longer than drawing from it.
@cache
def below(count: int) -> Any:
    return st.sampled_from(range(count))


def choosing(draw: Any) -> Choose:
    return lambda options: options[draw(below(len(options)))]


MODELS_MAX = 9


def made_value(kind: str, choose: Choose) -> Any:
    # What is wrong comes up seldom: most of what follows needs transactions that went well.
    if kind in KINDS:
        good, bad = KINDS[kind].good, KINDS[kind].bad
        return choose(good if choose(FEW) else bad)
    many, _, target = kind.partition(":")
    if many == "link":
        return Link(note="a", to=made_pick("A", choose) if choose(HALF) else None)
    if many == "refs":
        return tuple(made_pick(target, choose) for _ in range(choose((0, 1, 2))))
    return None if many == "ref?" and choose(HALF) else made_pick(target, choose)


FEW = (*(True,) * 29, False)
HALF = (False, True)
PLACES = tuple(range(1, 8))
WILD = tuple(Pick("wild", number) for number in (0, -1, 3, 7, 10_000, 2**63))


def made_pick(kind: str, choose: Choose) -> Pick:
    if choose(FEW):
        return Pick(kind, choose(PLACES))
    pick: Pick = choose(WILD)
    return pick


def made_call(world: World, choose: Choose) -> Call:
    of = choose(world.design.classes)
    count = len(world.of(of.name))
    events = [event for event in of.events if event.into is None]
    if not count or (count < MODELS_MAX and choose((False, False, True))):
        events = [event for event in of.events if event.into is not None]
    event = choose(events)
    target = None if event.into is not None else made_pick(of.name, choose)
    return Call(of.name, event.name, target, tuple(made_value(kind, choose) for _, kind in event.params))


@st.composite
def designs(draw: Any) -> Design:
    return drawn(choosing(draw))


@st.composite
def calls(draw: Any, least: int = 1, most: int = 1) -> Any:
    world = draw(st.runner()).world
    count = draw(st.integers(least, most))
    return [made_call(world, choosing(draw)) for _ in range(count)]


CALL = calls()
CALLS = calls(1, 5)
TRANSACTIONS = st.lists(calls(1, 2), min_size=1, max_size=5)
SELDOM = st.sampled_from([False, False, False, True])
ACTORS = st.sampled_from(["tester", "tester", "tester", "guest"])


# --- comparing ----------------------------------------------------------------------------------------


def outcome(read: Callable[[], Any]) -> Any:
    """Return what a read gives; `Hidden` when it is refused."""
    try:
        return read()
    except (Denied, Hidden):
        return Hidden


def as_row(model: Any) -> tuple[Any, ...]:
    meta = model.meta
    times = meta.created_at, meta.updated_at, meta.entered_at
    return meta.id, type(model).__name__, str(meta.state), meta.version, *times, model.as_dict()


def plain(row: Row) -> tuple[Any, ...]:
    return row.id, row.kind, row.state, row.version, row.created, row.updated, row.entered, row.fields


class Comparison:
    """Compares what can be read with what should be.

    Parameters:
        turn: another number each time. Every list is read each time, what else there is by turns.
    """

    def __init__(self, built: Built) -> None:
        self.built = built
        self.design = built.design
        self.keys: dict[tuple[str, int], set[Any]] = {}

    def reads(self, r: Any, seen: Seen, turn: int) -> None:
        for of in self.design.classes:
            self.views(r, seen, of, turn)
            for nth in range(len(of.indexes)):
                self.index(r, seen, of, nth)
            self.columns(r, seen, of, turn)
        ids = sorted(seen.models)
        for id in ids[turn % 3 :: 3]:
            self.related(r, seen, id)
        self.single(r, seen, turn)

    def same(self, read: Callable[[], Any], expected: Callable[[], Any], what: object) -> Any:
        """Compare models that are read with the rows that they should be; return the rows."""
        rows = outcome(lambda: list(expected()))
        found = outcome(lambda: [as_row(model) for model in read()])
        assert found == (Hidden if rows is Hidden else [plain(row) for row in rows]), what
        return rows

    def views(self, r: Any, seen: Seen, of: Class, turn: int) -> None:
        whole = [Selection(state, ()) for state in (None, *of.states)]
        declared = self.built.views[of.name]
        for nth, selection in enumerate((*whole, *of.views)):
            view = declared[nth - len(whole)] if nth >= len(whole) else None
            if view is None:
                view = self.built.view(of, selection)
            rows = self.same(partial(r.list, view), partial(seen.walk, of, selection), view)
            match (turn + nth) % 3:
                case 0:
                    self.numbers(r, seen, of, selection, view, rows)
                case 1:
                    self.pages(r, seen, of, selection, view, turn)
                case 2:
                    self.sorted(r, seen, of, selection, view, turn)

    def numbers(self, r: Any, seen: Seen, of: Class, selection: Selection, view: Any, rows: Any) -> None:
        assert outcome(lambda: r.count(view)) == (rows if rows is Hidden else len(rows)), view
        first = outcome(lambda: next(seen.walk(of, selection), None))
        found = outcome(lambda: r.first(view))
        if first is None or first is Hidden:
            assert found is first, view
        else:
            assert as_row(found) == plain(first), view
        assert outcome(lambda: r.exists(view)) is (first if first is Hidden else first is not None), view

    def sorted(self, r: Any, seen: Seen, of: Class, selection: Selection, view: Any, turn: int) -> None:
        rng = random.Random(turn)
        names = rng.sample((*sortable(of), "id", "version", "updated_at", "state"), rng.choice((1, 2)))
        keys = tuple(rng.choice(("", "-")) + name for name in names)
        order = Sorts(keys, rng.random() < 0.5)
        condition = next((step[1] for each in of.views for step in each.steps if step[0] == "where"), None)
        where = None if condition is None or rng.random() < 0.5 else self.built.of_model(condition)
        options = {"sort": keys, "descending": order.turned, "where": where}
        self.pages(r, seen, of, selection, view, turn, order, None if where is None else condition, options)

    def pages(
        self,
        r: Any,
        seen: Seen,
        of: Class,
        selection: Selection,
        view: Any,
        turn: int,
        order: Sorts | None = None,
        where: Any = None,
        options: Any = None,
    ) -> None:
        """Go through a view page by page, forwards and backwards."""
        options = options or {}
        rows = outcome(lambda: list(seen.walk(of, selection, order, where)))
        if rows is Hidden:
            with pytest.raises(Denied):
                r.query(view, limit=100, **options)
            return
        limit = 1 + turn % 4
        parts = [rows[start : start + limit] for start in range(0, len(rows), limit)] or [[]]
        page = r.query(view, limit=limit, **options)
        for nth, part in enumerate(parts):
            assert [as_row(model) for model in page] == [plain(row) for row in part], (view, options)
            assert (page.next is None) is (nth == len(parts) - 1), (view, options)
            assert (page.previous is None) is (nth == 0), (view, options)
            if page.next is not None:
                page = r.query(view, limit=limit, after=page.next, **options)
        for part in reversed(parts[:-1]):
            page = r.query(view, limit=limit, before=page.previous, **options)
            assert [as_row(model) for model in page] == [plain(row) for row in part], (view, options)
            assert page.next is not None
        assert page.previous is None

    def index(self, r: Any, seen: Seen, of: Class, nth: int) -> None:
        index, declared = of.indexes[nth], self.built.indexes[of.name][nth]
        rows = rows_of(seen.models, of.name)
        found: dict[Any, list[Row]] = {}
        for row in rows:
            for key in keys_of(index, row):
                found.setdefault(key, []).append(row)
        # Keys that were there before must be gone.
        earlier = self.keys.setdefault((of.name, nth), set())
        for key in earlier | found.keys() | {None, "no such key"}:

            def expected(key: Any = key) -> Iterator[Row]:
                return seen.show_by_key(index, key, found.get(key, []))

            view = declared(key)
            rows = self.same(lambda view=view: r.list(view), expected, (view, key))
            assert outcome(lambda view=view: r.count(view)) == (rows if rows is Hidden else len(rows))
            first = outcome(lambda expected=expected: next(expected(), None))
            model = outcome(lambda key=key: r.find(declared, key))
            assert first is model or as_row(model) == plain(first)
        earlier.clear()
        earlier.update(found)

    def columns(self, r: Any, seen: Seen, of: Class, turn: int) -> None:
        view = (None, *of.states)[turn % (len(of.states) + 1)]
        rows = outcome(lambda: list(seen.walk(of, Selection(view, ()))))
        known = ("int", "secret", "float?", "bool", "time?", "decimal")
        for name, kind in of.fields:
            if kind not in known and not kind.startswith(("ref:", "ref?")):
                continue
            array = outcome(
                lambda name=name: r.columns(self.built.states[of.name, view], name)[name].tolist()
            )
            if rows is Hidden or any(row.fields[name] is MASKED for row in rows):
                assert array is Hidden
            else:
                assert [None if v != v else v for v in array] == [
                    in_column(kind, row.fields[name]) for row in rows
                ]
        names = ("id", "version", "created_at", "updated_at", "entered_at")
        found = outcome(
            lambda: [each.tolist() for each in r.columns(self.built.states[of.name, view], *names)]
        )
        if rows is Hidden:
            assert found is Hidden
        else:
            times = [[naive(each) for each in (row.created, row.updated, row.entered)] for row in rows]
            expected = [[row.id, row.version, *each] for row, each in zip(rows, times, strict=True)]
            assert found == [list(column) for column in zip(*expected, strict=True)] or not rows

    def related(self, r: Any, seen: Seen, id: int) -> None:
        fields = [
            (of, name, kind) for of in self.design.classes for name, kind in of.fields if is_reference(kind)
        ]
        for of, name, kind in fields:
            field = getattr(self.built.classes[of.name], name)
            self.same(
                lambda field=field: r.related(id, field),
                partial(seen.referrers, [(of, name, kind)], id),
                field,
            )
        self.same(lambda: r.related(id), partial(seen.referrers, fields, id), id)

    def single(self, r: Any, seen: Seen, turn: int) -> None:
        for id, row in seen.models.items():
            shown = shown_to(self.design, seen.actor, row)
            find = outcome(lambda id=id: r.find(id))
            if shown is None:
                assert find is (None if seen.leaves_out else Hidden)
            else:
                assert as_row(find) == plain(shown) == as_row(r.get(id))
        for id in (0, -1, max(seen.models, default=0) + 1):
            assert r.find(id) is None
            with pytest.raises(klerk.NotFound):
                r.get(id)

    # What only the store as a whole has.

    def store(self, k: Klerk, world: World, turn: int) -> None:
        assert k.sequence == world.sequence
        with k.read(TESTER) as r:
            self.reads(r, Seen(self.design, world.models, "tester"), turn)
        if turn % 3:
            leaves_out = turn % 3 == 1
            with k.read(GUEST) as r:
                seen = Seen(self.design, world.models, "guest", leaves_out=leaves_out)
                self.reads(r.readable if leaves_out else r, seen, turn // 3)
        assert [JobRow.of(record, EPOCH) for record in k.jobs.live()] == world.jobs
        due = sorted((row.due, id, row.state) for id, row in world.models.items() if row.due is not None)
        assert [(each.due, each.ref, str(each.state)) for each in k.timers.due(10_000)] == due
        assert k.timers.count == len(due)
        assert k.timers.next_due == (due[0][0] if due else None)

    def results(self, results: list[Any], done: Done, actor: str) -> None:
        assert not done.errors, f"expected {done.errors}"
        assert [result.id for result in results] == done.ids
        for result in results:
            assert result.sequence == done.sequence, (result, done)
            assert sorted(result.deleted) == sorted(done.deleted)
            assert [JobRow.of(record, EPOCH) for record in result.jobs] == done.jobs
            if actor == "guest":
                continue
            for models, rows in ((result.created, done.created), (result.updated, done.updated)):
                assert sorted(map(as_row, models), key=str) == sorted(map(plain, rows.values()), key=str)
            row = {**done.created, **done.updated}.get(result.id)
            if row is not None:
                assert as_row(result.model) == plain(row)

    def history(self, k: Klerk, world: World, turn: int) -> None:
        """Compare the versions of one model, and the newest entries of the log."""
        rng = random.Random(turn)
        if world.versions:
            self.versions(k, world, rng.choice(sorted(world.versions)), rng)
        page = k.log(TESTER, limit=3)
        newest = range(world.sequence, max(0, world.sequence - 3), -1)
        assert [each.sequence for each in page.entries] == list(newest)
        for entry in page.entries:
            self.entry(entry, world)

    def entry(self, entry: Any, world: World) -> None:
        logged = world.log[entry.sequence - 1]
        assert entry.time == logged.time
        assert entry.actor.kind == ("system" if logged.actor == "timer" else "user")
        assert logged.actor == "timer" or entry.actor.id == logged.actor
        commands = [(each.event, each.target, each.depth) for each in entry.commands]
        assert commands == [each[:3] for each in logged.commands]
        for command, (name, _, _, values) in zip(entry.commands, logged.commands, strict=True):
            assert name == "timer" or tuple(command.parameters.values()) == values, (command, values)
        assert sorted(entry.created) == sorted(logged.created)
        assert sorted(entry.updated) == sorted(logged.updated)
        assert sorted(entry.deleted) == sorted(logged.deleted)
        assert list(entry.jobs) == logged.jobs

    def versions(self, k: Klerk, world: World, id: int, rng: random.Random) -> None:
        kept = world.versions[id]
        found = k.history(id, TESTER, limit=100)
        expected = kept[:100]
        assert [each.sequence for each in found] == [sequence for sequence, _ in expected]
        for version, (sequence, row) in zip(found, expected, strict=True):
            assert version.deleted is (row is None)
            assert version.version == (0 if row is None else row.version)
            assert row is None or as_row(version.model) == plain(row)
            logged = world.log[sequence - 1]
            assert version.time == logged.time
            assert version.events == tuple(name for name, target, *_ in logged.commands if target == id)
        for _ in range(3):
            sequence = rng.randint(1, world.sequence)
            before = [row for at, row in kept if at <= sequence]
            if before and before[-1] is not None:
                assert as_row(k.as_of(id, sequence, TESTER)) == plain(before[-1])
            else:
                with pytest.raises(klerk.NotFound):
                    k.as_of(id, sequence, TESTER)

    def log(self, k: Klerk, world: World) -> None:
        """Compare the whole log, and what filters find in it."""
        timers = {number for number, logged in enumerate(world.log, 1) if logged.actor == "timer"}
        everything = set(range(1, world.sequence + 1))
        self.found(k, world, everything)
        for actor in ("tester", "guest"):
            wanted = {n for n, logged in enumerate(world.log, 1) if logged.actor == actor}
            self.found(k, world, wanted, actor=CONTEXTS[actor].actor)
        if timers:
            self.found(k, world, timers, event="timer")
        for of in self.design.classes:
            name = f"{of.name}.{of.events[-1].name}"
            wanted = {
                n for n, logged in enumerate(world.log, 1) if name in [each[0] for each in logged.commands]
            }
            self.found(k, world, wanted, event=name)
        for id in list(world.versions)[:3]:
            wanted = {
                n for n, logged in enumerate(world.log, 1) if id in [each[1] for each in logged.commands]
            }
            self.found(k, world, wanted, model=id)
            self.versions(k, world, id, random.Random(id))

    def found(self, k: Klerk, world: World, wanted: set[int], **which: Any) -> None:
        for newest_first in (False, True):
            found: list[int] = []
            after = None
            while True:
                page = k.log(TESTER, limit=7, newest_first=newest_first, after=after, **which)
                for entry in page.entries:
                    self.entry(entry, world)
                found += [entry.sequence for entry in page.entries]
                if (after := page.next) is None:
                    break
            assert found == sorted(wanted, reverse=newest_first), which


def in_column(kind: str, value: Any) -> Any:
    """Return what a column shows of a value."""
    if kind == "time?":
        return None if value is None else naive(value)
    if kind.startswith("ref"):
        return value or 0
    return float(value) if kind == "decimal" else value


def naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


# --- histories ----------------------------------------------------------------------------------------


class Clock:
    """A clock to be set. Klerk's own threads see none of it: what is due is fired when a step says so."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        if threading.current_thread().name in ("klerk-timers", "klerk-scheduler"):
            return NOON - timedelta(days=365)
        return self.now


class InMemory(RuleBasedStateMachine):
    """Histories of a store that forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.k: Any = None
        self.world: Any = None
        self.turn = 0
        self.snapshots: list[tuple[Any, dict[int, Row], str]] = []
        self.tokens: list[tuple[Any, Any, Any, int | None, int]] = []

    def opened(self) -> Klerk:
        return self.built.app.open(**self.options())

    def options(self) -> dict[str, Any]:
        return {"job_threads": 0, "clock": self.clock, "token_ttl": timedelta(days=3650)}

    @initialize(design=designs())
    def begin(self, design: Design) -> None:
        self.built = Built(design)
        self.comparison = Comparison(self.built)
        self.world = World(design)
        self.k = self.opened()

    @invariant()
    def everything_is_as_in_the_world(self) -> None:
        if self.k is None:
            return
        Count.steps += 1
        self.turn += 1
        self.comparison.store(self.k, self.world, self.turn)
        if self.snapshots and self.turn % 2:
            snapshot, models, actor = self.snapshots[self.turn // 2 % len(self.snapshots)]
            self.comparison.reads(snapshot, Seen(self.world.design, models, actor), self.turn)
        self.comparison.history(self.k, self.world, self.turn)
        if self.turn % 25 == 0:
            self.comparison.log(self.k, self.world)
        self.clock.now += MINUTE

    def teardown(self) -> None:
        if self.k is not None:
            self.close_snapshots()
            self.k.close()

    def close_snapshots(self) -> None:
        while self.snapshots:
            self.snapshots.pop()[0].close()

    # Commands.

    def expect(self, calls: list[Call], actor: str = "tester", keep: bool = True) -> tuple[Done, list[Any]]:
        """Return what should come of calls, and their commands."""
        # Klerk is not asked for what is endless.
        done = self.world.transact(calls, self.clock.now, actor=actor, keep=keep)
        return done, [self.command(call) for call in done.commands]

    def command(self, call: Call) -> Any:
        event = self.built.events[call.kind, call.event]
        return event(*call.values) if call.target is None else event(call.target, *call.values)

    def compare(self, done: Done, act: Callable[[], list[Any]], actor: str = "tester") -> None:
        try:
            results = act()
        except klerk.KlerkError as error:
            # Any other one is shown with where it came from.
            if type(error) not in done.errors:
                raise
        else:
            self.comparison.results(results, done, actor)

    def without_refused(self, calls: list[Call], prune: bool) -> list[Call]:
        """Leave out calls that would be refused: a long list is seldom right otherwise."""
        calls = list(calls)
        while prune and len(calls) > 1:
            done = self.world.transact(calls, self.clock.now, keep=False)
            if len(done.ids) == len(calls):
                break
            del calls[len(done.ids)]
        return calls

    @rule(calls=CALL, actor=ACTORS)
    def one(self, calls: list[Call], actor: str) -> None:
        with suppress(Endless):
            done, commands = self.expect(calls, actor)
            self.compare(done, lambda: [self.k.handle(commands[0], CONTEXTS[actor])], actor)

    @rule(calls=CALLS, prune=st.booleans(), actor=ACTORS)
    def all_of(self, calls: list[Call], prune: bool, actor: str) -> None:
        with suppress(Endless):
            calls = self.without_refused(calls, prune)
            done, commands = self.expect(calls, actor)
            self.compare(done, lambda: self.k.handle_all(commands, CONTEXTS[actor]), actor)

    @rule(calls=CALLS, prune=st.booleans(), actor=ACTORS)
    def only_try(self, calls: list[Call], prune: bool, actor: str) -> None:
        with suppress(Endless):
            calls = self.without_refused(calls, prune)
            done, commands = self.expect(calls, actor, keep=False)
            if len(calls) == 1:
                self.compare(done, lambda: [self.k.check(commands[0], CONTEXTS[actor])], actor)
            self.compare(done, lambda: self.k.handle_all(commands, CONTEXTS[actor], dry_run=True), actor)

    @rule(calls=CALLS, prune=st.booleans(), fails=SELDOM)
    def generate(self, calls: list[Call], prune: bool, fails: bool) -> None:
        with suppress(Endless):
            calls = self.without_refused(calls, prune)
            done, commands = self.expect(calls, keep=not fails)
            self.generated(done, commands, fails)

    def generated(self, done: Done, commands: list[Any], fails: bool) -> None:
        """Handle commands in a generator, which reads what they did before anyone else sees it."""
        seen: list[int | None] = []

        def generator(a: Args) -> Iterator[Any]:
            for nth, command in enumerate(commands):
                result = yield command
                seen.append(result.id)
                self.comparison.reads(
                    a.read, Seen(self.world.design, done.moments[nth], "tester"), self.turn + nth
                )
            if fails:
                raise ZeroDivisionError

        if fails and len(done.ids) == len(commands):
            done.errors = (klerk.FunctionFailed,)
        self.compare(done, lambda: self.k.handle_all(generator, TESTER))
        assert seen == done.ids

    @rule(transactions=TRANSACTIONS)
    def in_flight(self, transactions: list[list[Call]]) -> None:
        submitted = []
        with suppress(Endless):
            for calls in transactions:
                done, commands = self.expect(calls)
                if len(commands) == 1:
                    submitted.append((done, self.k.submit(commands[0], TESTER), True))
                else:
                    submitted.append((done, self.k.submit_all(commands, TESTER), False))
        for done, future, is_single in submitted:
            self.compare(done, partial(results_of, future, is_single))

    # Tokens.

    @rule(calls=CALL, actor=ACTORS)
    def twice(self, calls: list[Call], actor: str) -> None:
        """Send a command twice with a token: it takes effect once."""
        with suppress(Endless):
            done, commands = self.expect(calls, actor)
            token, context = self.k.token(), CONTEXTS[actor]
            self.compare(done, lambda: [self.k.handle(commands[0], context, token=token)], actor)
            if not done.errors:
                self.tokens.append((str(token), commands[0], context, done.ids[0], done.sequence))
                self.repeat(-1)

    @precondition(lambda self: self.tokens)
    @rule(nth=st.integers(0, 50))
    def repeat(self, nth: int) -> None:
        token, command, context, id, sequence = self.tokens[nth % len(self.tokens)]
        result = self.k.handle(command, context, token=token)
        assert result.repeated
        assert (result.id, result.sequence) == (id, sequence)

    @precondition(lambda self: self.world.models)
    @rule(first=CALL, then=CALL, nth=st.integers(0, 20))
    def if_unchanged(self, first: list[Call], then: list[Call], nth: int) -> None:
        """Send a command that demands that a model is as it was before another one."""
        ids = sorted(self.world.models)
        before = self.world.models[ids[nth % len(ids)]]
        with self.k.read(TESTER) as r:
            token = self.k.token(r.get(before.id))
        self.one(first, "tester")
        with suppress(Endless):
            after = self.world.models.get(before.id)
            is_changed = after is None or after.version != before.version
            done, commands = self.expect(then, keep=not is_changed)
            if is_changed:
                done.errors = (klerk.Conflict,)
            self.compare(done, lambda: [self.k.handle(commands[0], TESTER, token=token)])

    # Time and snapshots.

    @rule(minutes=st.sampled_from([0, 20, 45, 90, 600, 3000]))
    def time_goes_by(self, minutes: int) -> None:
        self.clock.now += minutes * MINUTE
        with suppress(Endless):
            self.world.fire_due(self.clock.now)
            self.k.timers.fire_due()

    @precondition(lambda self: len(self.snapshots) < 3)
    @rule(actor=ACTORS)
    def open_snapshot(self, actor: str) -> None:
        self.snapshots.append((self.k.snapshot(CONTEXTS[actor]), self.world.models, actor))

    @precondition(lambda self: self.snapshots)
    @rule(nth=st.integers(0, 2))
    def close_snapshot(self, nth: int) -> None:
        self.snapshots.pop(nth % len(self.snapshots))[0].close()


def results_of(future: Any, is_single: bool) -> Sequence[Any]:
    result = future.result(20)
    return [result] if is_single else result


class OnDisk(InMemory):
    """Histories of a store that is closed, copied and cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="klerk-designs-"))
        self.path = self.directory / "0"
        self.copies = self.calm = 0

    def opened(self) -> Klerk:
        return self.built.app.open(self.path, durability="process", **self.options())

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory)

    @invariant()
    def calm_goes_by(self) -> None:
        self.calm += 1

    # Opening takes as long as dozens of commands, and after a crash a process is started for it.

    @precondition(lambda self: self.calm > 8)
    @rule()
    def reopen(self) -> None:
        self.calm = 0
        self.close_snapshots()
        self.k.close()
        self.k = self.opened()

    @precondition(lambda self: self.calm > 20)
    @rule()
    def crash(self) -> None:
        """Go on with what a killed process leaves: the files as they are, written behind or not."""
        self.calm = 0
        self.copies += 1
        path = self.directory / str(self.copies)
        shutil.copytree(self.path, path)
        self.close_snapshots()
        self.k.close()
        shutil.rmtree(self.path)
        self.path = path
        self.k = self.opened()


HISTORY_STEPS = 100


def run(machine: type[RuleBasedStateMachine], rng: random.Random, *, steps: int) -> None:
    """Run histories that depend on the seed of the whole test run alone, until they made so many steps."""
    goal = Count.steps + steps
    # Some histories end early: what is missing is made up for, as long as any is made.
    while (missing := goal - Count.steps) > 0:
        profile = settings(
            max_examples=missing // HISTORY_STEPS + 1,
            stateful_step_count=HISTORY_STEPS,
            # A failing history is not made shorter: that takes minutes. The seed repeats it.
            phases=(Phase.generate,),
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(seed(rng.getrandbits(32))(machine), settings=profile)
        assert goal - Count.steps < missing


# Shortening a history that fails takes minutes.
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_in_memory(rng: random.Random) -> None:
    run(InMemory, rng, steps=9_000)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_disk(rng: random.Random) -> None:
    run(OnDisk, rng, steps=1_500)

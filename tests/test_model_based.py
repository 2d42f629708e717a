"""Random histories leave exactly what a simple model of the same design says.

The design and the model are in `club.py`. Hypothesis makes up the history (single commands, lists,
generators, dry runs, overlapping groups; on disk also closing, copying and crashing) and shortens one that
fails. After each step everything that can be read is compared, also in snapshots of earlier steps, and with
what the commit log knows of the past. A process that is killed in the middle of a
history of its own is held to the same.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from club import (
    COLUMNS,
    EVENTS,
    FIELDS,
    INDEXES,
    NAMES,
    SCORES,
    STATES,
    VIEWS,
    YEAR,
    Call,
    Club,
    Done,
    JobRow,
    Pick,
    Row,
    World,
)
from designs import NOON, TESTER, Clock, Spawned, python_environment
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import klerk
from klerk import Args, Context, JobState, Klerk, User

Choose = Callable[[Sequence[Any]], Any]
"""Picks one of several values: Hypothesis does, or a random generator."""

STRANGER = Context(User("stranger"))


# --- made-up commands ---------------------------------------------------------------------------------

# What is wrong comes up seldom: it ends a transaction, and most of what follows needs those that went well.
GIVEN_NAMES = (*NAMES * 3, "", "much too long")
GIVEN_SCORES = (*SCORES, *SCORES, 101, -1)
STEPS = (0, 5, 20, -20, 45, -45, 5, 5, 100)
PICKS = {kind: (*(Pick(kind, nth) for nth in (*range(1, 8), -1, -1, -1, -1, -1)), None) for kind in STATES}
WILD = tuple(Pick("wild", nth) for nth in (0, -1, 1, 3, 5, 7, 10_000, 2**63))
COMMON = (
    "join",
    "join",
    "join",
    "found",
    "found",
    "plan",
    "plan",
    "plan",
    "recruit",
    "recruit",
    "look_around",
    "look_around",
)
NAMES_OF_EVENTS = (*COMMON, *(name for name in EVENTS if name != "pause"))


def made_value(spec: str, choose: Choose) -> Any:
    if spec[-1] == "?" and choose((True, True, False)):
        return None
    match spec.rstrip("?"):
        case "name":
            return choose(GIVEN_NAMES)
        case "score":
            return choose(GIVEN_SCORES)
        case "int":
            return choose(STEPS)
        case "time":
            return choose((NOON, NOON + YEAR))
        case "people":
            return tuple(made_pick("Person", choose) for _ in range(choose((0, 0, 1, 2, 3))))
        case kind:
            return made_pick(kind, choose)


def made_pick(kind: str, choose: Choose) -> Any:
    return choose(PICKS[kind]) or choose(WILD)


def made_call(choose: Choose) -> Call:
    name = choose(NAMES_OF_EVENTS)
    kind, _, specs = EVENTS[name]
    target = None if kind is None else made_pick(kind, choose)
    return Call(name, target, tuple(made_value(spec, choose) for spec in specs))


# Making a strategy takes longer than drawing from it.
one_of = cache(st.sampled_from)


@st.composite
def made_calls(draw: Any) -> Call:
    return made_call(lambda options: draw(one_of(options)))


CALL = made_calls()
CALLS = st.lists(CALL, min_size=1, max_size=8)
TRANSACTIONS = st.lists(st.lists(CALL, min_size=1, max_size=3), min_size=1, max_size=6)
DELAYS = st.sampled_from([None, None, timedelta(0), timedelta(minutes=7), timedelta(minutes=-5)])
SELDOM = st.sampled_from([False, False, False, True])
FIRST_CALLS = [
    *(Call("join", None, (name, None, None, score)) for name, score in (("Ada", 0), ("Bob", 60), ("Cy", 45))),
    *(Call("found", None, (name, None, ())) for name in ("Red", "Blue")),
    *(Call("plan", None, (Pick("Team", nth), 5, None, None, None)) for nth in (0, 0, 1)),
]


# --- comparing ----------------------------------------------------------------------------------------


def rows_of(models: Sequence[Any]) -> dict[int, Row]:
    return {model.meta.id: Row.of(model) for model in models}


class Comparison:
    """Compares everything that can be read with the world."""

    def __init__(self, club: Club) -> None:
        self.club = club
        self.machines = {"Person": club.person, "Team": club.team, "Task": club.task}
        self.keys: dict[str, set[Any]] = {name: set() for name in INDEXES}
        self.kept: tuple[dict[int, Any], dict[int, Row]] = {}, {}

    def everything(self, k: Klerk, world: World) -> None:
        assert k.sequence == world.sequence
        with k.read(TESTER) as r:
            for kind, machine in self.machines.items():
                rows = world.of(kind)
                assert rows_of(r.list(machine)) == rows
                self.view(r, machine, list(rows))
                self.columns(r, machine, kind, rows)
                for state in machine.all_states:
                    self.view(r, state, [id for id, row in rows.items() if row.state == str(state)])
                self.columns(r, state, kind, {id: row for id, row in rows.items() if row.state == str(state)})
            for name, (kind, key_of) in INDEXES.items():
                self.index(r, name, kind, key_of, world)
            for name, (kind, belongs, key_of) in VIEWS.items():
                rows = {id: row for id, row in world.of(kind).items() if belongs(row)}
                self.pages(r, getattr(self.club, name), sorted(rows, key=lambda id: key_of(id, rows[id])))
            self.lookups(r, world)
            self.relations(r, world)
            self.past(r, world)
        assert [JobRow.of(record) for record in k.jobs.live()] == world.jobs
        counts = k.jobs.counts()
        later = sum(job.run_at is not None for job in world.jobs)
        assert counts.pop(JobState.SCHEDULED) == later
        assert counts.pop(JobState.AVAILABLE) == len(world.jobs) - later
        assert not any(counts.values())

    def view(self, r: Any, view: Any, ids: list[int]) -> None:
        assert [model.meta.id for model in r.list(view)] == ids
        assert r.count(view) == len(ids)
        assert r.exists(view) is bool(ids)
        first = r.first(view)
        assert (None if first is None else first.meta.id) == (ids[0] if ids else None)

    def pages(self, r: Any, view: Any, ids: list[int]) -> None:
        """Compare a view as a whole, page by page, and page by page from its end."""
        self.view(r, view, ids)
        page = r.query(view, limit=3)
        forth = [model.meta.id for model in page]
        while page.next is not None:
            page = r.query(view, limit=3, after=page.next)
            forth += [model.meta.id for model in page]
        assert forth == ids
        back = [model.meta.id for model in page]
        while page.previous is not None:
            page = r.query(view, limit=3, before=page.previous)
            back = [*(model.meta.id for model in page), *back]
        assert back == ids

    def relations(self, r: Any, world: World) -> None:
        """Compare who refers to some models; others have their turn with the next transactions."""
        for id in turns(list(world.models), world.sequence):
            found = world.referrers(id)
            assert [m.meta.id for m in r.related(id)] == sorted(
                {each for ids in found.values() for each in ids}
            )
            for kind, name, _ in REFERENCES:
                field = getattr(self.machines[kind].model_class, name)
                assert [m.meta.id for m in r.related(id, field)] == found.get((kind, name), [])

    def past(self, r: Any, world: World) -> None:
        """Compare what the log knows of some models that are or were."""
        for id in turns(sorted(world.history), world.sequence):
            versions = world.history[id]
            found = r.history(id)
            assert [(each.sequence, each.model and Row.of(each.model)) for each in found] == versions
            assert [each.deleted for each in found] == [row is None for _, row in versions]
            moment = 1 + (id * 7 + world.sequence) % world.sequence
            row = next((row for sequence, row in reversed(versions) if sequence <= moment), None)
            if row is None:
                with pytest.raises(klerk.NotFound):
                    r.as_of(id, moment)
            else:
                assert Row.of(r.as_of(id, moment)) == row

    def snapshot(self, s: Any, world: World) -> None:
        """Compare a snapshot with the world as it was then."""
        assert s.sequence == world.sequence
        for kind, machine in self.machines.items():
            rows = world.of(kind)
            assert rows_of(s.list(machine)) == rows
            for state in machine.all_states:
                self.view(s, state, [id for id, row in rows.items() if row.state == str(state)])
        for name, (kind, belongs, key_of) in VIEWS.items():
            rows = {id: row for id, row in world.of(kind).items() if belongs(row)}
            self.pages(s, getattr(self.club, name), sorted(rows, key=lambda id: key_of(id, rows[id])))
        for name in NAMES:
            named = [id for id, row in world.of("Person").items() if row.fields["name"] == name]
            model = s.find(self.club.by_name, name)
            assert (None if model is None else model.meta.id) == (named[0] if named else None)
        self.relations(s, world)
        self.past(s, world)

    def index(self, r: Any, name: str, kind: str, key_of: Callable[..., Any], world: World) -> None:
        found: dict[Any, list[int]] = {}
        for id, row in world.of(kind).items():
            found.setdefault(key_of(row.fields), []).append(id)
        # None is no key. Keys that were there before must be gone.
        found.pop(None, None)
        index = getattr(self.club, name)
        for key in self.keys[name] | found.keys() | {"no such key", None}:
            ids = found.get(key, [])
            self.view(r, index(key), ids)
            model = r.find(index, key)
            assert (None if model is None else model.meta.id) == (ids[0] if ids else None)
        self.keys[name] = set(found)

    def columns(self, r: Any, view: Any, kind: str, rows: dict[int, Row]) -> None:
        names = COLUMNS[kind]
        meta = ("id", "version", "created_at", "updated_at", "entered_at")
        found = r.columns(view, *names, *meta)
        fields = [row.fields for row in rows.values()]
        for name, is_time in names.items():
            expected = [plain(each[name], is_time) for each in fields]
            if name in ("mentor", "leader", "assignee", "parent"):
                expected = [each or 0 for each in expected]
            assert [None if v != v else v for v in found[name].tolist()] == expected
        assert found.id.tolist() == list(rows)
        assert found.version.tolist() == [row.version for row in rows.values()]
        assert found.created_at.tolist() == [plain(row.created, True) for row in rows.values()]
        assert found.updated_at.tolist() == [plain(row.updated, True) for row in rows.values()]
        assert found.entered_at.tolist() == [plain(row.entered, True) for row in rows.values()]

    def lookups(self, r: Any, world: World) -> None:
        """Look every model up, and some that do not exist; what was read before is as it was."""
        models, rows = self.kept
        assert {id: Row.of(model) for id, model in models.items()} == rows
        models = {id: r.get(id) for id in world.models}
        for id in (0, -1, world.next_id, *(id for id in rows if id not in models)):
            assert r.find(id) is None
            with pytest.raises(klerk.NotFound):
                r.get(id)
        self.kept = models, world.models

    def results(self, results: list[Any], done: Done) -> None:
        assert done.error is None, f"expected {done.error}"
        assert [result.id for result in results] == done.ids
        for result in results:
            assert result.sequence == done.sequence
            assert rows_of(result.created) == done.created
            assert rows_of(result.updated) == done.updated
            assert rows_of(result.models) == {**done.created, **done.updated}
            assert sorted(result.deleted) == sorted(done.deleted)
            assert [JobRow.of(record) for record in result.jobs] == done.jobs
            row = {**done.created, **done.updated}.get(result.id)
            if row is not None:
                assert Row.of(result.model) == row


REFERENCES = [
    (kind, name, spec)
    for kind, fields in FIELDS.items()
    for name, spec in fields.items()
    if spec[0].isupper() or spec == "people"
]


def turns(ids: list[int], turn: int) -> list[int]:
    """Return two of some ids: the newest, and another one each time."""
    return [ids[-1], ids[turn % len(ids)]] if ids else []


def results_of(future: Any) -> list[Any]:
    return [future.result(20)]


def plain(value: Any, is_time: bool) -> Any:
    return value.replace(tzinfo=None) if is_time and value is not None else value


# --- histories ----------------------------------------------------------------------------------------

CLUB = Club()


class InMemory(RuleBasedStateMachine):
    """Histories of a store that forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.world = World()
        self.comparison = Comparison(CLUB)
        self.snapshots: list[tuple[klerk.Snapshot, World]] = []
        CLUB.begin()
        self.k = self.opened()

    def opened(self) -> Klerk:
        return CLUB.app.open(job_threads=0, clock=self.clock)

    def teardown(self) -> None:
        self.close()
        # Closing waits for the unmanaged calls.
        assert CLUB.called == self.world.called

    def close(self) -> None:
        for snapshot, _ in self.snapshots:
            snapshot.close()
        self.snapshots.clear()
        self.k.close()

    @precondition(lambda self: len(self.snapshots) < 3)
    @rule()
    def begin_snapshot(self) -> None:
        then = World(models=self.world.models, sequence=self.world.sequence)
        then.history = {id: list(versions) for id, versions in self.world.history.items()}
        self.snapshots.append((self.k.snapshot(TESTER), then))

    @precondition(lambda self: self.snapshots)
    @rule(first=st.booleans())
    def end_snapshot(self, first: bool) -> None:
        snapshot, _ = self.snapshots.pop(0 if first else -1)
        snapshot.close()

    @initialize()
    def begin(self) -> None:
        self.all_of(FIRST_CALLS, False, None, False)

    @invariant()
    def everything_is_as_in_the_world(self) -> None:
        CLUB.steps += 1
        self.comparison.everything(self.k, self.world)
        if self.snapshots:
            self.comparison.snapshot(*self.snapshots[CLUB.steps % len(self.snapshots)])
        self.clock.advance(timedelta(minutes=1))

    # One at a time.

    def expect(
        self, calls: list[Call], delay: timedelta | None, stranger: bool, keep: bool = True
    ) -> tuple[Done, list[Any], Context]:
        """Return what should come of calls, their commands, and the context for them."""
        context = STRANGER if stranger else TESTER
        now = self.clock.now
        if delay is not None:
            now += delay
            context = context.at(now)
        done = self.world.transact(calls, now, stranger=stranger, keep=keep)
        return done, [CLUB.command(*command) for command in done.commands], context

    def compare(self, done: Done, act: Callable[[], list[Any]]) -> None:
        try:
            results = act()
        except klerk.KlerkError as error:
            # Any other one is shown with where it came from.
            if type(error) is not done.error:
                raise
        else:
            self.comparison.results(results, done)

    @rule(call=CALL, delay=DELAYS, stranger=SELDOM)
    def one(self, call: Call, delay: timedelta | None, stranger: bool) -> None:
        done, commands, context = self.expect([call], delay, stranger)
        self.compare(done, lambda: [self.k.handle(commands[0], context)])

    def without_refused(self, calls: list[Call], prune: bool) -> list[Call]:
        """Leave out calls that would be refused: a long list is seldom right otherwise."""
        calls = list(calls)
        while prune:
            done = self.world.transact(calls, self.clock.now, keep=False)
            if len(done.ids) == len(calls):
                break
            del calls[len(done.ids)]
        return calls or [FIRST_CALLS[-1]]

    @rule(calls=CALLS, prune=st.booleans(), delay=DELAYS, stranger=SELDOM)
    def all_of(self, calls: list[Call], prune: bool, delay: timedelta | None, stranger: bool) -> None:
        calls = self.without_refused(calls, prune)
        done, commands, context = self.expect(calls, delay, stranger)
        self.compare(done, lambda: self.k.handle_all(commands, context))

    @rule(calls=CALLS, prune=st.booleans(), delay=DELAYS, stranger=SELDOM)
    def only_try(self, calls: list[Call], prune: bool, delay: timedelta | None, stranger: bool) -> None:
        calls = self.without_refused(calls, prune)
        done, commands, context = self.expect(calls, delay, stranger, keep=False)
        if len(calls) == 1:
            self.compare(done, lambda: [self.k.check(commands[0], context)])
        self.compare(done, lambda: self.k.handle_all(commands, context, dry_run=True))

    @rule(calls=CALLS, prune=st.booleans(), delay=DELAYS, fails=SELDOM)
    def generate(self, calls: list[Call], prune: bool, delay: timedelta | None, fails: bool) -> None:
        calls = self.without_refused(calls, prune)
        before = self.world.models
        done, commands, context = self.expect(calls, delay, False, keep=not fails)
        seen: list[tuple[int | None, Row | None]] = []

        def generator(a: Args) -> Iterator[Any]:
            for command in commands:
                result = yield command
                row = None if result.id is None or a.read.find(result.id) is None else Row.of(result.model)
                seen.append((result.id, row))
                existed, changed = before.get(result.id), row is not None and row != before.get(result.id)
                assert [m.meta.id for m in result.created] == ([result.id] if changed and not existed else [])
                assert [m.meta.id for m in result.updated] == ([result.id] if changed and existed else [])
                assert result.deleted == ((result.id,) if existed and row is None else ())
            if fails:
                raise ZeroDivisionError

        if fails and len(done.ids) == len(calls):
            done.error = klerk.FunctionFailed
        self.compare(done, lambda: self.k.handle_all(generator, context))
        assert seen == list(zip(done.ids, done.rows, strict=True))

    # Several in flight.

    def submit(self, transactions: list[list[Call]]) -> list[tuple[Done, Any]]:
        submitted = []
        for calls in transactions:
            done, commands, context = self.expect(calls, None, False)
            if len(calls) > 1:
                CLUB.batches.append(commands)
                commands, done.ids = [CLUB.events["together"](len(CLUB.batches) - 1)], [None]
            submitted.append((done, self.k.submit(commands[0], context)))
        return submitted

    def settle(self, submitted: list[tuple[Done, Any]]) -> None:
        for done, future in submitted:
            self.compare(done, partial(results_of, future))

    @rule(transactions=TRANSACTIONS)
    def in_flight(self, transactions: list[list[Call]]) -> None:
        self.settle(self.submit(transactions))

    @rule(first=TRANSACTIONS, second=TRANSACTIONS)
    def in_two_groups(self, first: list[list[Call]], second: list[list[Call]]) -> None:
        """A group is processed while the one before it is processed and not yet published."""
        pause = [Call("pause", None, ())]
        before = self.world.models
        # While a pause is processed, what is submitted waits in the queue, to become one group.
        submitted = self.submit([pause])
        assert CLUB.reached.acquire(timeout=20)
        submitted += self.submit([*first, pause])
        CLUB.go.release()
        assert CLUB.reached.acquire(timeout=20)
        submitted[0][1].result(20)
        holding, let_go = threading.Event(), threading.Event()

        def hold() -> dict[int, Row]:
            with self.k.read(TESTER) as r:
                holding.set()
                assert let_go.wait(20)
                return rows_of(
                    [model for machine in (CLUB.person, CLUB.team, CLUB.task) for model in r.list(machine)]
                )

        # The first group cannot be published before the reader has let go, while the second is processed.
        reader = Spawned(hold)
        assert holding.wait(20)
        submitted += self.submit([*second, pause])
        CLUB.go.release()
        assert CLUB.reached.acquire(timeout=20)
        CLUB.go.release()
        let_go.set()
        assert reader.end() == before
        self.settle(submitted)


class OnDisk(InMemory):
    """Histories of a store that is closed, copied and cut off."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="klerk-model-"))
        self.path = self.directory / "0"
        self.copies = self.calm = 0
        super().__init__()

    def opened(self) -> Klerk:
        return CLUB.app.open(self.path, durability="process", job_threads=0, clock=self.clock)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory)

    @invariant()
    def time_goes_by(self) -> None:
        self.calm += 1

    # Opening takes as long as dozens of commands, and after a crash a process is started for it.

    @precondition(lambda self: self.calm > 8)
    @rule()
    def reopen(self) -> None:
        self.calm = 0
        self.close()
        self.k = self.opened()

    @precondition(lambda self: self.calm > 15)
    @rule()
    def crash(self) -> None:
        """Go on with what a killed process leaves: the files as they are, written behind or not."""
        self.replace(lambda path: shutil.copytree(self.path, path))

    @precondition(lambda self: self.calm > 15)
    @rule()
    def copy(self) -> None:
        self.replace(self.k.checkpoint)

    def replace(self, copy: Callable[[Path], object]) -> None:
        self.calm = 0
        self.copies += 1
        path = self.directory / str(self.copies)
        copy(path)
        self.close()
        shutil.rmtree(self.path)
        self.path = path
        self.k = self.opened()


HISTORY_STEPS = 50


def run(machine: type[RuleBasedStateMachine], rng: random.Random, *, steps: int) -> None:
    """Run histories that depend on the seed of the whole test run alone, until they made so many steps."""
    goal = CLUB.steps + steps
    # Hypothesis ends some histories early: what is missing is made up for, as long as it makes any.
    while (missing := goal - CLUB.steps) > 0:
        profile = settings(
            max_examples=missing // HISTORY_STEPS + 1,
            stateful_step_count=HISTORY_STEPS,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(seed(rng.getrandbits(32))(machine), settings=profile)
        assert goal - CLUB.steps < missing


# Shortening a history that fails takes minutes.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_memory(rng: random.Random) -> None:
    run(InMemory, rng, steps=8_800)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_disk(rng: random.Random) -> None:
    run(OnDisk, rng, steps=1_300)


# --- kills --------------------------------------------------------------------------------------------


def made_batches(seed: str) -> Iterator[list[Call]]:
    rng = random.Random(seed)
    yield FIRST_CALLS
    while True:
        yield [made_call(rng.choice) for _ in range(30)]


def relive(world: World, seed: str, sequence: int) -> None:
    """Let a world go through the history of a seed up to some kept transaction."""
    for calls in made_batches(seed):
        for call in calls:
            if world.sequence == sequence:
                return
            world.transact([call], NOON)


def live(path: str, *past: str) -> None:
    """Go on with a store whose history is known, until killed: the child's side of the test.

    Parameters:
        past: seeds and sequences up to which they were lived, in turns; in the end a new seed.
    """
    world = World()
    for lived, sequence in zip(past[:-1:2], past[1::2], strict=True):
        relive(world, lived, int(sequence))
    k = CLUB.app.open(path, durability="process", job_threads=0, clock=lambda: NOON)
    comparison = Comparison(CLUB)
    comparison.everything(k, world)
    for calls in made_batches(past[-1]):
        submitted = []
        for call in calls:
            done = world.transact([call], NOON)
            submitted.append((done, k.submit(CLUB.command(*done.commands[0]), TESTER)))
        for done, future in submitted:
            error = future.exception(20)
            assert (None if error is None else type(error)) is done.error
            if error is None:
                os.write(1, b"%d\n" % done.sequence)


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_killed(tmp_path: Path, rng: random.Random) -> None:
    """What was acknowledged is there, perhaps with some of what came next in the history."""
    path = str(tmp_path / "store")
    past: list[str] = []
    world = World()
    for _ in range(4):
        seed = f"{rng.getrandbits(32)}"
        process: Any = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", LIVE, path, *past, seed],
            env=python_environment(),
            stdout=subprocess.PIPE,
        )
        try:
            lines = [process.stdout.readline() for _ in range(rng.randrange(1, 400))]
            process.kill()
            lines += process.stdout.readlines()
        finally:
            process.kill()
            process.communicate()
        acknowledged = max(int(line) for line in lines if line.endswith(b"\n"))
        with CLUB.app.open(path, durability="process", job_threads=0, clock=lambda: NOON) as k:
            assert k.sequence >= acknowledged
            relive(world, seed, k.sequence)
            Comparison(CLUB).everything(k, world)
        past += [seed, str(world.sequence)]


LIVE = "import sys, test_model_based; test_model_based.live(*sys.argv[1:])"

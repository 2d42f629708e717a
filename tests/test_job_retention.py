"""Ended jobs are kept for as long as they are meant to be, and so are their results; nothing live is lost.

Every history is held against a list of what should still be there, by the time and way of its end. The clock
is set by hand. That pruning happens by itself is seen by setting the clock and doing nothing else. Jobs are
run again as the commit log does it: with a new record.
"""

import asyncio
import random
import threading
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from designs import NOON, TESTER, Clock, eventually

import klerk
from klerk import App, Cancel, ConfigError, Discard, JobRun, JobState, NoResult, NotFound, Retention, limits
from klerk.job_manager import pruning
from klerk.job_manager.work import RecordJob
from klerk.storage.contract import Family

DAY = timedelta(days=1)
KEPT = Retention(completed=2 * DAY, cancelled=3 * DAY, discarded=5 * DAY)
DAYS = {JobState.COMPLETED: 2, JobState.CANCELLED: 3, JobState.DISCARDED: 5}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice soon that the clock was set."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.005)


class Point(msgspec.Struct, frozen=True):
    x: int
    name: str


class Office:
    """Jobs that end in every way, and jobs that return something."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.app = App("office")
        self.value: Any = None
        self.go = threading.Event()

        @self.app.job(max_attempts=1)
        def end(job: JobRun, how: str) -> None:
            if how == "discarded":
                raise Discard
            if how == "cancelled":
                raise Cancel

        @self.app.job(keep_result=timedelta(hours=1), max_attempts=1)
        def give(job: JobRun) -> Any:
            return self.value

        @self.app.job(keep_result=timedelta(days=30))
        def point(job: JobRun) -> Point | None:
            return self.value

        @self.app.job(keep_result=timedelta(days=1))
        async def points(job: JobRun) -> tuple[Point, ...]:
            return self.value

        @self.app.job()
        def forget(job: JobRun) -> int:
            return 5

        @self.app.job(keep_result=timedelta(hours=1))
        def wait(job: JobRun) -> str:
            assert self.go.wait(20)
            return "done"

        self.end, self.give, self.point, self.points = end, give, point, points
        self.forget, self.wait = forget, wait

    def open(self, path: Path | None = None, retention: Retention | None = KEPT) -> klerk.Klerk:
        durability: Any = "process" if path else "sync"
        return self.app.open(path, clock=self.clock, job_retention=retention, durability=durability)

    def run(self, k: klerk.Klerk, *requests: Any) -> list[int]:
        ids = [record.id for record in k.jobs.schedule(*requests)]
        assert k.jobs.wait_until_idle(20)
        return ids


def kept(k: klerk.Klerk) -> set[int]:
    return {record.id for record in k._manager.store.ended(limit=10**6)}


def ended(k: klerk.Klerk) -> tuple[int, int, int]:
    counts = k.jobs.counts()
    return counts[JobState.COMPLETED], counts[JobState.DISCARDED], counts[JobState.CANCELLED]


# --- how long jobs are kept ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retention", "told"),
    [
        (5, "Retention or None: is 5"),
        ("completed", "is 'completed'"),
        (Retention(completed=5), "completed must be a timedelta"),  # type: ignore[arg-type]
        (Retention(discarded=timedelta(-1)), "discarded must be a timedelta of 0"),
        (Retention(cancelled=timedelta.max), "cancelled must be a timedelta"),
        (Retention(count_max=-1), "count_max must be 0 or more"),
        (Retention(count_max=True), "count_max must be 0 or more"),
        (Retention(count_max=1.5), "count_max must be 0 or more"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_retention_is_refused(retention: Any, told: str) -> None:
    with pytest.raises(ConfigError, match="K017") as refusal:
        Office().open(retention=retention)
    assert told in str(refusal.value)


def test_jobs_go_by_themselves_when_their_time_is_over(tmp_path: Path) -> None:
    office = Office()
    with office.open(tmp_path / "store") as k:
        first = office.run(k, *[office.end(how) for how in ("completed", "discarded", "cancelled")])
        office.clock.advance(DAY)
        (second,) = office.run(k, office.end("completed"))
        entries = len(k.log(klerk.Context(klerk.System("test"))).entries)
        for days, remaining in (
            (1, {second, *first[1:]}),
            (1, set(first[1:2])),
            (1, set(first[1:2])),
            (1, set()),
        ):
            office.clock.advance(days * DAY)
            eventually(lambda remaining=remaining: sum(ended(k)) == len(remaining))
            assert kept(k) == remaining
        assert ended(k) == (0, 0, 0)
        assert dict(k.jobs.totals()) == {
            JobState.COMPLETED: 2,
            JobState.DISCARDED: 1,
            JobState.CANCELLED: 1,
        }
        for id in (*first, second):
            with pytest.raises(NotFound, match=f"no job {id}"):
                k.jobs.get(id)
        assert len(k.log(klerk.Context(klerk.System("test"))).entries) == entries
        assert list(k._storage.scan(Family.JOBS)) == []
    with office.open(tmp_path / "store") as k:
        assert (ended(k), sum(k.jobs.totals().values())) == ((0, 0, 0), 4)


def test_what_ended_before_the_store_was_opened_goes_too(tmp_path: Path) -> None:
    office = Office()
    with office.open(tmp_path / "store", retention=None) as k:
        office.run(k, *[office.end("completed") for _ in range(20)])
        office.clock.advance(400 * DAY)
        assert (k.jobs.prune(), ended(k)) == (0, (20, 0, 0))
    with office.open(tmp_path / "store") as k:
        eventually(lambda: ended(k) == (0, 0, 0))


def test_at_most_so_many_are_kept_whatever_their_end() -> None:
    office = Office()
    retention = Retention(completed=None, cancelled=None, discarded=None, count_max=10)
    with office.open(retention=retention) as k:
        ids = []
        for n in range(30):
            ids += office.run(k, office.end(("completed", "discarded", "cancelled")[n % 3]))
            office.clock.advance(timedelta(seconds=1))
        k.jobs.prune()
        assert kept(k) == set(ids[-10:])
        assert sum(ended(k)) == 10
        assert sum(k.jobs.totals().values()) == 30
    with office.open(retention=Retention(count_max=0)) as k:
        office.run(k, office.end("completed"))
        k.jobs.prune()
        assert sum(ended(k)) == 0


def test_what_expires_is_not_counted_among_what_is_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is written, and so nothing pruned, before the time has come.
    monkeypatch.setattr("klerk.limits.CHECKPOINT_INTERVAL_S", 1_000)
    office = Office()
    with office.open(retention=Retention(completed=DAY, cancelled=None, discarded=None, count_max=19)) as k:
        office.run(k, *[office.end("discarded") for _ in range(3)])
        office.run(k, *[office.end("completed") for _ in range(5)])
        office.clock.advance(timedelta(hours=23))
        office.run(k, *[office.end("completed") for _ in range(10)])
        assert (k.jobs.prune(), ended(k)) == (0, (15, 3, 0))
        office.run(k, *[office.end("cancelled") for _ in range(4)])
        office.clock.advance(timedelta(hours=1))
        k.jobs.prune()
        assert ended(k) == (10, 3, 4)
        assert Counter(record.state for record in k._manager.store.ended()) == {
            JobState.COMPLETED: 10,
            JobState.DISCARDED: 3,
            JobState.CANCELLED: 4,
        }


def test_many_are_pruned_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.JOBS_PRUNED_AT_ONCE", 50)
    monkeypatch.setattr("klerk.limits.CHECKPOINT_BATCH_RECORDS", 7)
    office = Office()
    with office.open() as k:
        office.run(k, *[office.end("completed") for _ in range(300)])
        office.clock.advance(3 * DAY)
        eventually(lambda: ended(k) == (0, 0, 0))
        assert list(k._storage.scan(Family.JOBS)) == []


def test_what_something_needs_is_kept() -> None:
    office = Office()
    with office.open() as k:
        ids = office.run(k, *[office.end("completed") for _ in range(5)])
        k._manager._pruning.is_needed = {ids[0], ids[3]}.__contains__
        office.clock.advance(3 * DAY)
        eventually(lambda: ended(k) == (2, 0, 0))
        assert kept(k) == {ids[0], ids[3]}
        k._manager._pruning.is_needed = lambda job_id: False
        assert k.jobs.prune() == 2


def test_pruning_is_offered_to_asyncio() -> None:
    office = Office()
    with office.open() as k:
        office.run(k, office.end("completed"))

        async def prune() -> int:
            return await k.aio.jobs.prune()

        assert asyncio.run(prune()) == 0


def test_random_histories(tmp_path: Path, rng: random.Random) -> None:
    office = Office()
    ends: dict[int, tuple[datetime, JobState]] = {}
    totals: Counter[JobState] = Counter()
    path = tmp_path / "store"
    for part in range(5):
        with office.open(path) as k:
            for _ in range(12):
                what = rng.choice(("run", "run", "time", "prune", "again", "write"))
                if what == "run":
                    hows = rng.choices([*DAYS], k=rng.randrange(1, 8))
                    for id, how in zip(office.run(k, *map(office.end, hows)), hows, strict=True):
                        ends[id] = office.clock.now, how
                        totals[how] += 1
                elif what == "time":
                    office.clock.advance(timedelta(hours=rng.randrange(1, 40)))
                elif what == "write":
                    k._engine.checkpointer.write()
                elif what == "again" and (there := kept(k) & ends.keys()):
                    id = rng.choice(sorted(there))
                    record = k.jobs.get(id)
                    run_again(k, record)
                    assert k.jobs.wait_until_idle(20)
                    ends[id] = office.clock.now, ends[id][1]
                    totals[ends[id][1]] += 1
                k.jobs.prune()
                now = office.clock.now
                there = {id: how for id, (end, how) in ends.items() if end + DAYS[how] * DAY > now}
                eventually(lambda there=there: sum(ended(k)) == len(there), 5)
                assert kept(k) == there.keys()
                counts = Counter(there.values())
                assert {state: k.jobs.counts()[state] for state in DAYS} == {s: counts[s] for s in DAYS}
                assert {s: n for s, n in k.jobs.totals().items() if n} == dict(totals)
            copy = tmp_path / f"copy-{part}"
            k.checkpoint(copy)
        if rng.random() < 0.6:
            path = copy


def run_again(k: klerk.Klerk, record: klerk.JobRecord) -> None:
    again = msgspec.structs.replace(record, state=JobState.AVAILABLE, ended_us=0, attempt=0, reruns=1)
    k._submit_as(RecordJob(again), klerk.System("test")).result(20)


def test_what_is_run_again_while_everything_is_pruned_is_never_lost() -> None:
    office = Office()
    with office.open(retention=Retention(completed=timedelta(0))) as k:
        office.go.set()
        stop = threading.Event()

        def prune() -> None:
            while not stop.is_set():
                k.jobs.prune()

        pruning = threading.Thread(target=prune)
        pruning.start()
        runs = 0
        try:
            for _ in range(150):
                (id,) = office.run(k, office.end("completed"))
                runs += 1
                try:
                    record = k.jobs.get(id)
                except NotFound:
                    continue
                run_again(k, record)
                runs += 1
                assert k.jobs.wait_until_idle(20)
        finally:
            stop.set()
            pruning.join()
        assert k.jobs.totals()[JobState.COMPLETED] == runs
        k.jobs.prune()
        assert not any(k.jobs.counts().values())


def test_a_job_that_ended_again_since_it_was_found_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    with office.open() as k:
        k._engine.checkpointer.tidy = lambda: None
        (id, other) = office.run(k, office.end("completed"), office.end("completed"))
        k._engine.checkpointer.write()
        record = k.jobs.get(id)
        original, found = pruning.scan_moments, []

        def scan_moments(*args: Any) -> Any:
            rows = list(original(*args))
            if rows and threading.current_thread() is threading.main_thread():
                found.extend(rows)
                office.clock.advance(3 * DAY)
                run_again(k, record)
                assert k.jobs.wait_until_idle(20)
                k._engine.checkpointer.write()
            return iter(rows)

        monkeypatch.setattr(pruning, "scan_moments", scan_moments)
        monkeypatch.setattr(k._manager._pruning, "_scheduler", Late(3 * DAY))
        assert k.jobs.prune() == 1
        assert [job_id for _, job_id in found] == [id, other]
        assert kept(k) == {id}
        assert ended(k) == (1, 0, 0)


class Late:
    """A scheduler for which it is later than for all others."""

    def __init__(self, by: timedelta) -> None:
        self.by = by

    def now_us(self) -> int:
        return round((NOON + self.by).timestamp() * 1e6)

    def at(self, when_us: int, call: Any) -> None:
        """Never call anything."""


# --- results ------------------------------------------------------------------------------------------


def code_of(k: klerk.Klerk, id: int) -> str:
    with pytest.raises(NoResult) as refusal:
        k.jobs.result(id)
    return refusal.value.code


def test_results_are_kept_and_typed(tmp_path: Path) -> None:
    office = Office()
    results = {}
    with office.open(tmp_path / "store") as k:
        for value in (None, Point(1, "a")):
            office.value = value
            results[office.run(k, office.point())[0]] = value
        office.value = (Point(1, "a"), Point(2, "ü"))
        results[office.run(k, office.points())[0]] = office.value
        for value in (0, "", "text", [1, [2]], {"a": 1}, b"bytes", NOON, 1.5, True, Point(1, "x")):
            office.value = value
            plain = [1, "x"] if isinstance(value, Point) else value
            results[office.run(k, office.give())[0]] = {"x": 1, "name": "x"} if plain == [1, "x"] else plain
        assert {id: k.jobs.result(id) for id in results} == results

        async def ask() -> Any:
            return [await k.aio.jobs.result(id) for id in results]

        assert asyncio.run(ask()) == [*results.values()]
    with office.open(tmp_path / "store") as k:
        assert {id: k.jobs.result(id) for id in results} == results


def test_a_result_that_is_not_what_the_function_says() -> None:
    office = Office()
    with office.open() as k:
        office.value = "no point"
        (id,) = office.run(k, office.point().options(max_attempts=1))
        assert code_of(k, id) == "result_failed"
        assert "declared to return Point | None, and returned str" in k.jobs.get(id).error


def test_why_there_is_no_result() -> None:
    office = Office()
    with office.open() as k:
        with pytest.raises(NotFound):
            k.jobs.result(77)
        (forgotten,) = office.run(k, office.forget())
        assert code_of(k, forgotten) == "result_not_kept"
        (failed,) = office.run(k, office.end("discarded"))
        assert code_of(k, failed) == "result_failed"
        (waiting,) = k.jobs.schedule(office.wait())
        assert code_of(k, waiting.id) == "result_pending"
        office.go.set()
        assert k.jobs.wait_until_idle(20)
        assert k.jobs.result(waiting.id) == "done"
        office.clock.advance(timedelta(hours=1))
        assert code_of(k, waiting.id) == "result_expired"
        office.clock.advance(30 * DAY)
        eventually(lambda: ended(k) == (0, 0, 0))
        with pytest.raises(NotFound):
            k.jobs.result(waiting.id)


def test_an_expired_result_leaves_the_store_before_its_job(tmp_path: Path) -> None:
    office = Office()
    with office.open(tmp_path / "store", retention=None) as k:
        office.value = "a secret"
        office.run(k, *[office.give() for _ in range(20)])
        office.value = Point(1, "a secret")
        (long,) = office.run(k, office.point())
        k.jobs.prune()
        assert sum(b"a secret" in row for _, row in k._storage.scan(Family.JOBS)) == 21
        office.clock.advance(timedelta(hours=2))
        eventually(lambda: sum(b"a secret" in row for _, row in k._storage.scan(Family.JOBS)) == 1)
        assert k.jobs.result(long) == Point(1, "a secret")
        assert (ended(k), len(kept(k))) == ((21, 0, 0), 21)
        assert code_of(k, 1) == "result_expired"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "the result of job 'give' cannot be kept"),
        ({Decimal: 1}, "the result of job 'give' cannot be kept"),
        (2**70, "the result of job 'give' cannot be kept"),
        ("x" * limits.JOB_RESULT_BYTES_MAX, "the result of job 'give' has"),
    ],
    ids=["object", "key", "int", "long"],
)
def test_a_result_that_cannot_be_kept_fails_the_attempt(value: Any, told: str) -> None:
    office = Office()
    with office.open() as k:
        office.value = value
        (id,) = office.run(k, office.give())
        record = k.jobs.get(id)
        assert record.state is JobState.DISCARDED
        assert told in record.error
        assert code_of(k, id) == "result_failed"


def test_a_job_that_is_run_again_has_its_newest_result() -> None:
    office = Office()
    with office.open() as k:
        office.value = 1
        (id,) = office.run(k, office.give())
        for office.value in (2, None, "three"):
            run_again(k, k.jobs.get(id))
            assert k.jobs.wait_until_idle(20)
            assert k.jobs.result(id) == office.value
        office.value = object()
        run_again(k, k.jobs.get(id))
        assert k.jobs.wait_until_idle(20)
        assert code_of(k, id) == "result_failed"
        assert k.jobs.get(id).result == b""


def test_the_log_of_a_reader_stays_what_it_was() -> None:
    office = Office()
    office.app.allow.log()(lambda a: True)
    with office.open() as k:
        office.run(k, office.end("completed"))
        before = k.log(TESTER).entries
        office.clock.advance(9 * DAY)
        k.jobs.prune()
        assert k.log(TESTER).entries == before

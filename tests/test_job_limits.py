"""Limits of jobs: never more at once or more often than declared, and nobody waits who need not.

Jobs say that they started and wait to be let go, so a test sees who runs. Whoever then is not running while
workers are free is kept by a limit, which `QueueStatus.waiting` counts. The clock is the test's own; a crash
is a copy of the store that was made while it was in use.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, Clock, eventually

import klerk
from klerk import App, ConfigError, Job, JobRecord, JobRun

HOUR = timedelta(hours=1)


class Works:
    """An app whose jobs start, say so, and end when they are let go."""

    def __init__(self) -> None:
        self.app = App("works")
        self.clock = Clock()
        self.started: list[str] = []
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.let_go: set[str] = set()
        self.changed = threading.Condition()
        self.probe = self.job("probe", queue="probes")

    def job(self, name: str, **options: Any) -> Job[[str]]:
        """Declare a job that is asked for with a text."""

        def work(job: JobRun, text: str) -> None:
            with self.changed:
                self._begin(name, text)
                assert self.changed.wait_for(lambda: text in self.let_go or "*" in self.let_go, 20)
                self.running[name] -= 1

        async def work_on_loop(job: JobRun, text: str) -> None:
            with self.changed:
                self._begin(name, text)
            while not self.let_go & {text, "*"}:
                await asyncio.sleep(0.001)
            self.running[name] -= 1

        function = work_on_loop if options.pop("on_loop", False) else work
        function.__name__ = name
        return self.app.job(**options)(function)

    def _begin(self, name: str, text: str) -> None:
        self.started.append(text)
        self.running[name] += 1
        self.most[name] = max(self.most[name], self.running[name])

    def end(self, *texts: str) -> None:
        """Let jobs end; all, without a text."""
        with self.changed:
            self.let_go.update(texts or "*")
            self.changed.notify_all()

    def open(self, path: Path | None = None, *, threads: int = 8, **options: Any) -> klerk.Klerk:
        return self.app.open(path, clock=self.clock, job_threads=threads, **options)


@pytest.fixture
def works() -> Iterator[Works]:
    works = Works()
    yield works
    works.end()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set sooner than in a second."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def expect(k: klerk.Klerk, works: Works, *started: str, waiting: int = 0) -> None:
    """Wait until just these have started, in whatever order, and so many others are kept by limits."""
    eventually(
        lambda: len(works.started) >= len(started) and sum(s.waiting for s in k.jobs.queues()) == waiting
    )
    assert sorted(works.started) == sorted(started)


def settle(k: klerk.Klerk) -> None:
    """Wait until no job is ready that no limit keeps from starting, and none runs."""
    eventually(lambda: all(s.available == s.waiting and not s.executing for s in k.jobs.queues()))


def advance(k: klerk.Klerk, works: Works, by: timedelta) -> None:
    """Set the clock, and return when all that was due by then has happened."""
    works.let_go.add("probe")
    (probe,) = k.jobs.schedule(works.probe("probe"), at=works.clock.now + by)
    works.clock.advance(by)
    eventually(lambda: probe.id not in {record.id for record in k.jobs.live()})
    works.started.remove("probe")


# --- how many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("on_loop", [False, True])
@pytest.mark.parametrize(
    ("queue", "options", "opened"),
    [
        ({"concurrency": 2}, {"queue": "mail"}, {}),
        ({}, {"concurrency": 2}, {}),
        ({}, {"key": lambda text: text[0], "key_concurrency": 2}, {}),
        ({}, {}, {"job_concurrency": 2}),
        ({"concurrency": 2}, {"queue": "mail", "concurrency": 2, "key": str, "key_concurrency": 1}, {}),
    ],
    ids=["queue", "kind", "key", "all", "together"],
)
def test_no_more_run_at_once_than_declared(
    works: Works, queue: Any, options: Any, opened: Any, on_loop: bool
) -> None:
    works.app.queue("mail", **queue)
    job = works.job("send", on_loop=on_loop, **options)
    with works.open(**opened) as k:
        records = k.jobs.schedule(*(job(f"a{i}") for i in range(6)))
        eventually(lambda: len(works.started) == 2)
        if not opened:
            expect(k, works, "a0", "a1", waiting=4)
        assert k.jobs.get(records[2].id).state == "available"
        works.end("a1")
        eventually(lambda: "a2" in works.started)
        works.end()
        assert k.jobs.wait_until_idle(20)
    assert sorted(works.started) == [f"a{i}" for i in range(6)]
    assert works.most["send"] == 2


def test_a_bound_of_all_jobs_holds_for_threads_and_coroutines_together(works: Works) -> None:
    plain, coroutine = works.job("plain"), works.job("coroutine", on_loop=True)
    with works.open(job_concurrency=3) as k:
        k.jobs.schedule(*(job(f"{i}") for i in range(4) for job in (plain, coroutine)))
        eventually(lambda: len(works.started) == 3)
        assert sum(status.executing for status in k.jobs.queues()) == 3
        works.end()
        assert k.jobs.wait_until_idle(20)
    assert len(works.started) == 8


@pytest.mark.parametrize("given", [0, -1, True, "2", 100_001])
def test_a_bound_that_cannot_be_meant(works: Works, given: Any) -> None:
    with pytest.raises(ConfigError, match="job_concurrency"):
        works.open(job_concurrency=given)


def test_a_key_without_a_name_is_not_limited(works: Works) -> None:
    job = works.job("send", key=lambda text: "", key_concurrency=1)
    with works.open() as k:
        k.jobs.schedule(job("a"), job("b"))
        expect(k, works, "a", "b")


# --- who may start ------------------------------------------------------------------------------------


def test_a_blocked_key_or_kind_is_in_nobodys_way(works: Works) -> None:
    """A thousand jobs of a key that may run once, before one of another key and one of another kind."""
    job = works.job("send", key=lambda text: text[0], key_concurrency=1, priority=9)
    single = works.job("single", concurrency=1, priority=5)
    other = works.job("other")
    with works.open() as k:
        k.jobs.schedule(*(job(f"a{i}") for i in range(1000)))
        k.jobs.schedule(*(single(f"s{i}") for i in range(100)))
        k.jobs.schedule(job("b0"), other("x"))
        expect(k, works, "a0", "b0", "s0", "x", waiting=999 + 99)
        works.end("a0")
        eventually(lambda: "a1" in works.started)
        works.end("s0")
        eventually(lambda: "s1" in works.started)
        assert len(works.started) == 6
        works.end()


def test_priority_counts_within_a_queue_then_age(works: Works) -> None:
    """One runs at once: whoever comes later with a higher priority is next, also among those set aside."""
    job = works.job("send", concurrency=1)
    with works.open() as k:
        k.jobs.schedule(job("first"))
        eventually(lambda: works.started == ["first"])
        k.jobs.schedule(*(job(f"p{p}").options(priority=p) for p in (0, 3, -2, 3, 1)))
        works.let_go.add("*")
        works.end("first")
        assert k.jobs.wait_until_idle(20)
    assert works.started == ["first", "p3", "p3", "p1", "p0", "p-2"]


def test_a_start_takes_from_all_limits_or_from_none(works: Works) -> None:
    """Two a day in all, one of each key at once: what waits for its key spends nothing of the two."""
    job = works.job("send", rate="2/day", key=lambda text: text[0], key_concurrency=1)
    with works.open() as k:
        k.jobs.schedule(job("a0"), job("a1"), job("b0"))
        expect(k, works, "a0", "b0", waiting=1)
        works.end("a0")
        advance(k, works, 11 * HOUR)
        expect(k, works, "a0", "b0", waiting=1)
        advance(k, works, HOUR)
        expect(k, works, "a0", "a1", "b0")
        works.end()


def test_rates_of_queue_kind_and_key_count_together(works: Works) -> None:
    works.app.queue("mail", rate="4/day")
    job = works.job("send", queue="mail", rate="3/day", key=lambda text: text[0], key_rate="2/day")
    other = works.job("other", queue="mail")
    works.end()
    with works.open() as k:
        k.jobs.schedule(job("a0"), job("a1"), job("a2"), job("b0"), job("b1"))
        expect(k, works, "a0", "a1", "b0", waiting=2)
        k.jobs.schedule(other("x"), other("y"))
        expect(k, works, "a0", "a1", "b0", "x", waiting=3)
        advance(k, works, 6 * HOUR)
        # A token of the queue: its oldest job is b1, as the key of a2 has none; but the kind has none yet.
        expect(k, works, "a0", "a1", "b0", "x", "y", waiting=2)
        advance(k, works, 6 * HOUR)
        expect(k, works, "a0", "a1", "a2", "b0", "x", "y", waiting=1)


# --- nobody is forgotten ------------------------------------------------------------------------------


def test_a_cancelled_job_lets_the_next_one_start(works: Works) -> None:
    job = works.job("send", concurrency=1, key=str, key_concurrency=1)
    with works.open() as k:
        _, second, third, _ = k.jobs.schedule(job("a"), job("b"), job("c"), job("d"))
        expect(k, works, "a", waiting=3)
        k.jobs.cancel(second.id)
        works.end("a")
        eventually(lambda: works.started == ["a", "c"])
        k.jobs.cancel(third.id)
        works.end("c")
        eventually(lambda: works.started == ["a", "c", "d"])
        works.end()


def test_room_at_one_limit_goes_to_whoever_has_room_at_the_others(works: Works) -> None:
    """Three kinds share a queue that runs two, each kind runs one: whatever ends, the queue stays full."""
    works.app.queue("narrow", concurrency=2)
    jobs = [works.job(name, queue="narrow", concurrency=1) for name in "abc"]
    with works.open() as k:
        records = k.jobs.schedule(*(job(f"{job.name}{i}") for i in range(4) for job in jobs))
        for count in range(2, 12):
            eventually(lambda count=count: len(works.started) == count)
            works.end(works.started[count - 2])
        works.end()
        assert k.jobs.wait_until_idle(20)
        assert len(works.started) == len(records)
    assert works.most == Counter("abc")


# --- restarts -----------------------------------------------------------------------------------------


def limited(works: Works) -> list[Job[[str]]]:
    """Declare four starts a day for a kind, for a key and for a queue, of jobs that end at once."""
    works.app.queue("slow", rate="4/day")
    works.end()
    return [
        works.job("kind", rate="4/day"),
        works.job("each", key=lambda text: text[0], key_rate="4/day"),
        works.job("queued", queue="slow"),
    ]


def run(k: klerk.Klerk, works: Works, job: Job[[str]], count: int) -> list[JobRecord]:
    """Create jobs, wait until as many started as may, and return those that did not."""
    k.jobs.schedule(*(job(f"a{i}") for i in range(count)))
    settle(k)
    return [record for record in k.jobs.live() if record.kind == job.name]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["kind", "key", "queue"])
def test_rates_go_on_after_a_restart(works: Works, tmp_path: Path, which: int) -> None:
    job = limited(works)[which]
    with works.open(tmp_path / "store") as k:
        assert run(k, works, job, 3) == []
    with works.open(tmp_path / "store") as k:
        assert len(run(k, works, job, 2)) == 1
    works.clock.advance(6 * HOUR)
    with works.open(tmp_path / "store") as k:
        settle(k)
        assert len(works.started) == 5
        assert len(run(k, works, job, 2)) == 2
    # Whatever was not looked at kept its level, too.
    with works.open(tmp_path / "store", threads=0):
        pass
    works.clock.advance(12 * HOUR)
    with works.open(tmp_path / "store") as k:
        settle(k)
    assert len(works.started) == 7


@pytest.mark.parametrize("which", [0, 1, 2], ids=["kind", "key", "queue"])
def test_rates_begin_empty_after_a_crash(works: Works, tmp_path: Path, which: int) -> None:
    job = limited(works)[which]
    with works.open(tmp_path / "store") as k:
        k.checkpoint(tmp_path / "crashed")
    for path, started in ((tmp_path / "store", 3), (tmp_path / "crashed", 0)):
        works.started.clear()
        with works.open(path) as k:
            run(k, works, job, 3)
            assert len(works.started) == started
    works.clock.advance(6 * HOUR)
    # Closed in order this time: a quarter of a day is one start, for a key that is new, too.
    with works.open(tmp_path / "crashed") as k:
        settle(k)
        assert len(works.started) == 1
    with works.open(tmp_path / "crashed") as k:
        settle(k)
        assert len(works.started) == 1


def test_a_rate_that_was_set_begins_empty_after_a_crash(works: Works, tmp_path: Path) -> None:
    job = works.job("free", queue="free")
    with works.open(tmp_path / "store") as k:
        k.jobs.scale("free", rate="4/day")
        k.checkpoint(tmp_path / "crashed")
    with works.open(tmp_path / "crashed") as k:
        assert len(run(k, works, job, 3)) == 3
    assert works.started == []


def test_a_clock_that_is_set_back_fills_nothing_and_stops_nothing(works: Works) -> None:
    job = limited(works)[0]
    with works.open() as k:
        assert len(run(k, works, job, 6)) == 2
        works.clock.now = NOON - 1000 * HOUR
        advance(k, works, timedelta(seconds=1))
        # The token that would have come 6 hours later comes 6 hours later.
        advance(k, works, 5 * HOUR)
        settle(k)
        assert len(works.started) == 4
        advance(k, works, HOUR)
        settle(k)
        assert len(works.started) == 5
        works.clock.now = NOON + 24 * HOUR
        assert k.jobs.wait_until_idle(20)


def test_a_clock_that_was_set_back_over_a_restart_fills_nothing(works: Works, tmp_path: Path) -> None:
    job = limited(works)[0]
    with works.open(tmp_path / "store") as k:
        assert len(run(k, works, job, 6)) == 2
    works.clock.now = NOON - 1000 * HOUR
    with works.open(tmp_path / "store") as k:
        settle(k)
        assert len(works.started) == 4
        works.clock.advance(12 * HOUR)
        assert k.jobs.wait_until_idle(20)

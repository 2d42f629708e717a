"""Unique jobs that were changed, started or suspended: what they stand for then, also after restarts.

No job runs unless the test says so. After each change the same questions are asked of the open store, of a
copy of it as a killed process leaves it, and of the store after closing: they all give the same answers.
"""

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import Clock, eventually

import klerk
from klerk import Conflict, JobRecord, JobRun, JobState, Unique
from klerk.job_manager.crashes import Crashes
from klerk.storage import layout
from klerk.storage.marks import MarkFile

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set at once."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


class Office:
    """Unique jobs of every sort.

    Parameters:
        version: of the arguments of `once`; those of the first one do not fit the second.
    """

    def __init__(self, version: int = 1) -> None:
        self.app = app = klerk.App("office")
        self.go = threading.Event()
        self.began: list[int] = []

        def upcast(old: dict[str, Any]) -> dict[str, Any]:
            raise ValueError("it does not fit")

        @app.job(unique=Unique(), version=version, upcast={1: upcast} if version == 2 else {})
        def once(job: JobRun, text: str, number: int = 0) -> None:
            if text == "fail":
                raise ZeroDivisionError

        @app.job(unique=Unique(by=("text",)))
        def by_text(job: JobRun, text: str, number: int = 0) -> None: ...

        @app.job(unique=Unique(within=HOUR))
        def hourly(job: JobRun, text: str) -> None: ...

        @app.job(unique=Unique(until="started"), max_attempts=3, retry=lambda attempt, error: HOUR)
        def started(job: JobRun, text: str) -> None:
            self.began.append(job.id)
            if text == "fail":
                raise ZeroDivisionError
            if text == "snooze":
                raise klerk.Snooze(HOUR)
            if text == "wait":
                assert self.go.wait(20)

        @app.job(unique=Unique(until="started"), concurrency=1)
        async def started_soon(job: JobRun, text: str) -> None:
            self.began.append(job.id)
            await asyncio.sleep(0 if self.go.is_set() else 60)

        self.once, self.by_text, self.hourly = once, by_text, hourly
        self.started, self.started_soon = started, started_soon

    def open(self, path: Path, clock: Clock, threads: int = 0, **options: Any) -> klerk.Klerk:
        return self.app.open(path, clock=clock, job_threads=threads, **options)


@pytest.fixture
def office() -> Iterator[Office]:
    office = Office()
    yield office
    office.go.set()


def one(k: klerk.Klerk, request: klerk.JobRequest) -> JobRecord:
    (record,) = k.jobs.schedule(request)
    return record


NEW = -1
"""Stands for a job that is created."""


def stand(k: klerk.Klerk, *requests: klerk.JobRequest) -> list[int]:
    """Return the ids of the jobs that stand for requests, `NEW` for none: those are created."""
    newest = max((record.id for record in k.jobs.query(limit=1000)), default=0)
    return [record.id if record.id <= newest else NEW for record in k.jobs.schedule(*requests)]


class Ask:
    """Asks which jobs stand for requests: the open store, and a copy of it as a killed process leaves it."""

    def __init__(self, office: Office, path: Path, clock: Clock) -> None:
        self._office, self._path, self._clock = office, path, clock
        self._copies = 0

    def __call__(self, k: klerk.Klerk, *requests: klerk.JobRequest) -> list[int]:
        copied = self.copy(k, *requests)
        found = stand(k, *requests)
        assert found == copied
        return found

    def copy(self, k: klerk.Klerk, *requests: klerk.JobRequest) -> list[int]:
        """Ask a copy alone, so that the open store stays as it is."""
        self._copies += 1
        copy = self._path / f"copy{self._copies}"
        k.checkpoint(copy)
        # Opened twice: what the first start makes of it is what the second one finds.
        with self._office.open(copy, self._clock):
            pass
        with self._office.open(copy, self._clock) as other:
            return stand(other, *requests)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ask(office: Office, tmp_path: Path, clock: Clock) -> Ask:
    return Ask(office, tmp_path, clock)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


# --- changed arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["once", "by_text", "hourly", "started"])
def test_an_edited_job_stands_for_what_it_does_now(
    office: Office, store: Path, clock: Clock, ask: Ask, kind: str
) -> None:
    job = getattr(office, kind)
    with office.open(store, clock) as k:
        one(k, job("a"))
        assert k.jobs.edit(1, arguments=job("b")).unique != b""
        assert ask.copy(k, job("b"), job("a")) == [1, NEW]
    with office.open(store, clock) as k:
        assert ask(k, job("b"), job("a"), job("b")) == [1, NEW, 1]


def test_edits_that_change_nothing_that_counts(office: Office, store: Path, clock: Clock, ask: Ask) -> None:
    with office.open(store, clock) as k:
        one(k, office.by_text("a", 1))
        one(k, office.once("a", 1))
        k.jobs.edit(1, arguments={"number": 2}, priority=3)
        k.jobs.edit(2, arguments=office.once("a", 1))
        k.jobs.edit(2, priority=1)
        assert ask(k, office.by_text("a"), office.once("a", 1)) == [1, 2]


@pytest.mark.parametrize("kind", ["once", "by_text", "hourly", "started"])
def test_two_that_are_alike_cannot_come_by_an_edit(
    office: Office, store: Path, clock: Clock, ask: Ask, kind: str
) -> None:
    job = getattr(office, kind)
    with office.open(store, clock) as k:
        k.jobs.schedule(job("a"), job("b"))
        before = k.jobs.get(1), k.jobs.get(2), k.sequence
        with pytest.raises(Conflict, match=r"job 2 .* stands for these arguments already") as refused:
            k.jobs.edit(1, arguments=job("b"), priority=7)
        assert refused.value.code == "not_unique"
        assert "cancel job 1 or 2" in (refused.value.hint or "")
        assert before == (k.jobs.get(1), k.jobs.get(2), k.sequence)
        assert ask.copy(k, job("a"), job("b")) == [1, 2]
        # What it stood for is free once it stands for something else, also for the other one.
        k.jobs.edit(1, arguments=job("c"))
        k.jobs.edit(2, arguments=job("a"))
        assert ask(k, job("a"), job("b"), job("c")) == [2, NEW, 1]


def test_jobs_can_change_places_by_way_of_a_third(
    office: Office, store: Path, clock: Clock, ask: Ask
) -> None:
    with office.open(store, clock) as k:
        k.jobs.schedule(office.once("a"), office.once("b"))
        for job_id, text in ((1, "c"), (2, "a"), (1, "b")):
            k.jobs.edit(job_id, arguments=office.once(text))
        assert ask(k, office.once("a"), office.once("b"), office.once("c")) == [2, 1, NEW]


def test_one_whose_time_is_over_stands_in_nobodys_way(
    office: Office, store: Path, clock: Clock, ask: Ask
) -> None:
    with office.open(store, clock) as k:
        k.jobs.schedule(office.hourly("a"), office.hourly("b"))
        clock.advance(HOUR / 2)
        one(k, office.hourly("c"))
        clock.advance(HOUR / 2)
        # Neither 1 nor 2 blocks any more, so they can be alike; and 1 does not come to block beside 3.
        k.jobs.edit(1, arguments=office.hourly("b"))
        k.jobs.edit(1, arguments=office.hourly("c"))
        with pytest.raises(Conflict):
            k.jobs.edit(one(k, office.hourly("d")).id, arguments=office.hourly("c"))
        assert ask(k, office.hourly("c"), office.hourly("b")) == [3, NEW]


def test_what_has_started_can_be_edited_to_anything(
    office: Office, store: Path, clock: Clock, ask: Ask
) -> None:
    with office.open(store, clock, threads=1) as k:
        one(k, office.started("snooze"))
        eventually(lambda: k.jobs.get(1).state is JobState.SCHEDULED)
    with office.open(store, clock) as k:
        one(k, office.started("b"))
        k.jobs.edit(1, arguments=office.started("b"))
        assert ask.copy(k, office.started("b"), office.started("snooze")) == [2, NEW]
        k.jobs.edit(2, arguments=office.started("c"))
        assert ask(k, office.started("b"), office.started("c")) == [NEW, 2]


def test_one_that_is_run_again_with_other_arguments(
    office: Office, store: Path, clock: Clock, ask: Ask
) -> None:
    with office.open(store, clock) as k:
        k.jobs.schedule(office.once("a"), office.once("b"), office.hourly("a"), office.hourly("b"))
        k.jobs.cancel(1)
        k.jobs.cancel(3)
        for job_id, job in ((1, office.once), (3, office.hourly)):
            with pytest.raises(Conflict, match="stands for these arguments already"):
                k.jobs.rerun(job_id, job("b"))
            assert k.jobs.rerun(job_id, job("c")).state is JobState.AVAILABLE
        requests = [job(text) for job in (office.once, office.hourly) for text in "abc"]
        assert ask(k, *requests) == [NEW, 2, 1, NEW, 4, 3]


def test_two_that_came_to_be_alike_by_hand(office: Office, store: Path, clock: Clock, ask: Ask) -> None:
    """Whoever runs an old one again means it; its end lets go of nothing that the other one stands for."""
    with office.open(store, clock) as k:
        one(k, office.once("a"))
        k.jobs.cancel(1)
        one(k, office.once("a"))
        k.jobs.rerun(1)
        assert stand(k, office.once("a")) == [2]
        k.jobs.edit(1, arguments=office.once("b"))
        assert ask.copy(k, office.once("a"), office.once("b")) == [2, 1]
        k.jobs.cancel(1)
        assert ask(k, office.once("a"), office.once("b")) == [2, NEW]


def test_a_suspended_job_stands_for_what_it_is_given(tmp_path: Path, store: Path, clock: Clock) -> None:
    first, second = Office(), Office(version=2)
    with first.open(store, clock) as k:
        one(k, first.once("a"))
    ask = Ask(second, tmp_path, clock)
    with second.open(store, clock) as k:
        assert k.jobs.get(1).state is JobState.SUSPENDED
        # As long as nobody knows what it means now, it stands for what it was requested with.
        assert ask.copy(k, second.once("a"), second.once("b")) == [1, NEW]
        k.jobs.edit(1, priority=2)
        k.jobs.edit(1, arguments=second.once("b"))
        assert ask(k, second.once("b"), second.once("a")) == [1, NEW]


# --- until it has started -----------------------------------------------------------------------------


def mark(path: Path, record: JobRecord) -> None:
    """Leave a store as a process does that dies while a job runs."""
    Crashes(Office().app.freeze(), MarkFile(path / layout.MARKS), []).begin(record)


def test_what_has_started_is_free_after_the_process_died(
    office: Office, store: Path, clock: Clock, ask: Ask
) -> None:
    """Also at the starts after that, at which nothing tells of the crash but the record."""
    with office.open(store, clock) as k:
        record = one(k, office.started("a"))
    mark(store, record)
    with office.open(store, clock) as k:
        assert k.jobs.get(1).crashes == 1
        assert ask(k, office.started("a")) == [NEW]
    with office.open(store, clock) as k:
        assert ask(k, office.started("a")) == [2]


@pytest.mark.parametrize("text", ["fail", "snooze"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_is_tried_again_does_not_take_it_again(
    office: Office, store: Path, clock: Clock, ask: Ask, text: str, by_hand: bool
) -> None:
    with office.open(store, clock, threads=1) as k:
        one(k, office.started(text))
        eventually(lambda: office.began == [1] and k.jobs.get(1).run_at_us > 0)
    with office.open(store, clock) as k:
        if by_hand:
            k.jobs.retry(1)
        assert ask.copy(k, office.started(text)) == [NEW]
    with office.open(store, clock) as k:
        assert ask(k, office.started(text)) == [NEW]


@pytest.mark.parametrize("action", ["retry", "rerun"])
def test_what_is_run_again_does_not_take_it_again(
    office: Office, store: Path, clock: Clock, ask: Ask, action: str
) -> None:
    with office.open(store, clock, threads=1) as k:
        one(k, office.started("a"))
        assert k.jobs.wait_until_idle(20)
    with office.open(store, clock) as k:
        getattr(k.jobs, action)(1)
        assert ask(k, office.started("a")) == [NEW]


def test_one_that_began_makes_room_for_the_next_over_restarts(
    office: Office, store: Path, clock: Clock, ask: Ask
) -> None:
    """Closing interrupted it, so it is as before its start; but the one that came after it blocks."""
    for expected in (NEW, 2):
        with office.open(store, clock, threads=1, close_wait=timedelta(0)) as k:
            if expected == NEW:
                one(k, office.started_soon("a"))
            eventually(lambda expected=expected: office.began == ([1] if expected == NEW else [1, 1]))
            assert stand(k, office.started_soon("a")) == [expected]
    with office.open(store, clock) as k:
        assert len(k.jobs.live()) == 2
        assert ask(k, office.started_soon("a")) == [2]


# --- for a time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [False, True])
def test_the_newest_stands_for_a_time_after_a_restart(
    office: Office, store: Path, clock: Clock, ask: Ask, ends: bool
) -> None:
    """Although an older one is still there, whose time is over."""
    with office.open(store, clock) as k:
        one(k, office.hourly("a"))
        clock.advance(HOUR)
        assert stand(k, office.hourly("a")) == [NEW]
        if ends:
            k.jobs.cancel(2)
        assert ask.copy(k, office.hourly("a")) == [2]
    clock.advance(HOUR / 2)
    with office.open(store, clock) as k:
        assert ask.copy(k, office.hourly("a")) == [2]
        clock.advance(HOUR / 2)
        assert ask(k, office.hourly("a")) == [NEW]

"""Jobs that wait for a time: the soonest in memory, the others on disk alone; none is lost, doubled or early.

The bounds are so small here that jobs cross from disk to memory and back all the time. Random histories are
held against a list of what was asked for: which job is in which state, how often each was started and when,
and every count. They are also held against it after reopening, and after reopening a copy of the files that
was taken while the store was in use. Jobs are cancelled and put off as the commit log does it: with a new
record. Times come from a clock that is set by hand, except where a process is killed.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from designs import NOON, Clock, eventually, python_environment

import klerk
from klerk import App, JobRun, JobState, NotFound, SchemaChanged, StorageError, System
from klerk.codec import encode
from klerk.inspection import describe_store
from klerk.job_manager.job_rows import COUNT, FORMER, PLACE, READY
from klerk.job_manager.job_store import JobStore
from klerk.job_manager.work import RecordJob
from klerk.jobs import FINAL_STATES, JobRecord
from klerk.storage.contract import Family

AT_HAND = 8
PAGE = 3
SECOND = timedelta(seconds=1)
RETRY = timedelta(seconds=40)
WAITING = (JobState.SCHEDULED, JobState.RETRYABLE)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pages and what is in memory small, and notice soon that the clock was set."""
    monkeypatch.setattr("klerk.limits.JOBS_AT_HAND_MAX", AT_HAND)
    monkeypatch.setattr("klerk.limits.JOBS_PAGE", PAGE)
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.005)


class Office:
    """Jobs that write down when they were started."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.app = App("office")
        self.started: list[tuple[int, datetime]] = []

        @self.app.job()
        def write(job: JobRun, number: int) -> None:
            self.started.append((job.id, self.clock.now))

        @self.app.job(queue="mail", retry=lambda attempt, error: RETRY, max_attempts=2)
        def stumble(job: JobRun, number: int) -> None:
            self.started.append((job.id, self.clock.now))
            if job.attempt == 1:
                raise ZeroDivisionError

        self.write, self.stumble = write, stumble

    def open(self, path: Path | None = None, **options: Any) -> klerk.Klerk:
        return self.app.open(
            path, clock=self.clock, **{"durability": "process" if path else "sync", **options}
        )


def record_as(k: klerk.Klerk, record: JobRecord) -> None:
    """Change a job as actions on jobs do: with a transaction that has its new record."""
    k._submit_as(RecordJob(record), System("test")).result(20)


def us(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)


# --- random histories ---------------------------------------------------------------------------------


@dataclass
class Expected:
    """A job as it should be."""

    kind: str
    state: JobState
    due: datetime
    starts: int = 0
    attempt: int = 0


@dataclass
class Truth:
    """What was asked for."""

    jobs: dict[int, Expected] = field(default_factory=dict)
    ends: Counter[JobState] = field(default_factory=Counter)

    def of_state(self, *states: JobState) -> list[int]:
        return [id for id, job in self.jobs.items() if job.state in states]

    def end(self, job: Expected, state: JobState) -> None:
        job.state = state
        self.ends[state] += 1

    def come(self, now: datetime) -> None:
        """Start what is due."""
        for job in self.jobs.values():
            while job.state in (*WAITING, JobState.AVAILABLE) and job.due <= now:
                job.starts += 1
                job.attempt += 1
                if job.kind == "stumble" and job.attempt == 1:
                    job.state, job.due = JobState.RETRYABLE, now + RETRY
                else:
                    self.end(job, JobState.COMPLETED)

    def counts(self, kind: str | None = None) -> dict[JobState, int]:
        found = Counter(job.state for job in self.jobs.values() if kind in (None, job.kind))
        return {state: found[state] for state in JobState}


def check(office: Office, k: klerk.Klerk, truth: Truth, rng: random.Random) -> None:
    # Held against it after each step: one that is started too soon shows as one start too many.
    starts = {id: job.starts for id, job in truth.jobs.items() if job.starts}

    def agrees() -> bool:
        # Both: a job is counted as completed a little after it was started.
        return Counter(id for id, _ in office.started) == starts and k.jobs.counts() == truth.counts()

    try:
        eventually(agrees, 10)
    except AssertionError:
        assert Counter(id for id, _ in office.started) == starts
        assert k.jobs.counts() == truth.counts()
        raise
    assert k.jobs.counts(kind="write") == truth.counts("write")
    assert k.jobs.counts(kind=office.stumble) == truth.counts("stumble")
    assert k.jobs.counts(queue="mail") == truth.counts("stumble")
    assert k.jobs.counts(queue="default", kind="stumble") == dict.fromkeys(JobState, 0)
    assert {state: count for state, count in k.jobs.totals().items() if count} == dict(truth.ends)
    live = {record.id: (record.state, record.run_at_us) for record in k.jobs.live()}
    assert live == {id: (truth.jobs[id].state, us(truth.jobs[id].due)) for id in truth.of_state(*WAITING)}
    for id in rng.sample(sorted(truth.jobs), min(5, len(truth.jobs))):
        record = k.jobs.get(id)
        assert (record.id, record.state, record.kind) == (id, truth.jobs[id].state, truth.jobs[id].kind)
    assert len(k.jobs._live) <= 2 * AT_HAND


def act(office: Office, k: klerk.Klerk, truth: Truth, rng: random.Random) -> None:
    """Do something at random, and note what should come of it."""
    clock = office.clock
    waiting = truth.of_state(*WAITING)
    ended = truth.of_state(*FINAL_STATES)
    what = rng.choice(
        ("create", "create", "create", "cancel", "put off", "now", "again", "time", "time", "back")
    )
    if what == "create":
        at = clock.now + SECOND * rng.randrange(-5, 300)
        requests = [rng.choice((office.write, office.stumble))(n) for n in range(rng.randrange(1, 15))]
        for record in k.jobs.schedule(*requests, at=at):
            state = JobState.AVAILABLE if at <= clock.now else JobState.SCHEDULED
            truth.jobs[record.id] = Expected(record.kind, state, at)
    elif what == "time":
        clock.advance(SECOND * rng.choice((1, 7, 30, 200)))
    elif what == "back":
        clock.advance(-SECOND * rng.randrange(1, 20))
    elif what == "again" and ended:
        id = rng.choice(ended)
        record_as(
            k,
            msgspec.structs.replace(
                k.jobs.get(id), state=JobState.AVAILABLE, ended_us=0, run_at_us=0, attempt=0, reruns=1
            ),
        )
        truth.jobs[id].state, truth.jobs[id].due, truth.jobs[id].attempt = JobState.AVAILABLE, clock.now, 0
    elif what in ("cancel", "put off", "now") and waiting:
        id = rng.choice(waiting)
        job, record = truth.jobs[id], k.jobs.get(id)
        if what == "cancel":
            record_as(
                k,
                msgspec.structs.replace(
                    record, state=JobState.CANCELLED, ended_us=us(clock.now), run_at_us=0
                ),
            )
            truth.end(job, JobState.CANCELLED)
        elif what == "now":
            record_as(k, msgspec.structs.replace(record, state=JobState.AVAILABLE, run_at_us=0))
            job.state, job.due = JobState.AVAILABLE, clock.now
        else:
            job.due = clock.now + SECOND * rng.randrange(1, 300)
            record_as(k, msgspec.structs.replace(record, run_at_us=us(job.due)))
    truth.come(clock.now)


def test_random_histories_in_memory(rng: random.Random) -> None:
    office, truth = Office(), Truth()
    with office.open() as k:
        for _ in range(60):
            act(office, k, truth, rng)
            check(office, k, truth, rng)


def test_random_histories_on_disk_with_ends_and_crashes(tmp_path: Path, rng: random.Random) -> None:
    office, truth = Office(), Truth()
    path = tmp_path / "store"
    for part in range(6):
        with office.open(path) as k:
            check(office, k, truth, rng)
            for _ in range(8):
                act(office, k, truth, rng)
                if rng.random() < 0.3:
                    k._engine.checkpointer.write()
                check(office, k, truth, rng)
            # What a killed process would leave: the end of the log is not applied to the jobs yet.
            copy = tmp_path / f"copy-{part}"
            k.checkpoint(copy)
        if rng.random() < 0.6:
            path = copy
    with office.open(path) as k:
        check(office, k, truth, rng)
        office.clock.advance(timedelta(days=1))
        truth.come(office.clock.now)
        check(office, k, truth, rng)
        office.clock.advance(timedelta(days=1))
        truth.come(office.clock.now)
        check(office, k, truth, rng)
        assert not k.jobs.live()


def test_jobs_come_while_others_are_created_cancelled_and_read_from_disk(rng: random.Random) -> None:
    office = Office()
    due: dict[int, datetime] = {}
    cancelled: set[int] = set()
    lock = threading.Lock()
    with office.open() as k:

        def create(seed: int) -> None:
            mine = random.Random(seed)
            for _ in range(40):
                at = office.clock.now + timedelta(milliseconds=mine.randrange(1, 4_000))
                for record in k.jobs.schedule(*[office.write(n) for n in range(5)], at=at):
                    with lock:
                        due[record.id] = at
                if mine.random() < 0.5:
                    with lock:
                        id = mine.choice(sorted(due))
                    record = k.jobs.get(id)
                    # Far enough away that it cannot be started meanwhile.
                    if record.state in WAITING and record.run_at_us > us(office.clock.now) + 3_000_000:
                        with lock:
                            cancelled.add(id)
                        ended = msgspec.structs.replace(record, state=JobState.CANCELLED, ended_us=1)
                        record_as(k, ended)

        threads = [threading.Thread(target=create, args=(rng.random(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.001)
            office.clock.advance(timedelta(milliseconds=5))
        for thread in threads:
            thread.join()
        office.clock.advance(timedelta(seconds=5))
        assert k.jobs.wait_until_idle(20)
        eventually(lambda: k.jobs.counts()[JobState.COMPLETED] == len(due) - len(cancelled), 10)
        assert Counter(id for id, _ in office.started) == Counter(due.keys() - cancelled)
        assert all(moment >= due[id] for id, moment in office.started)
        assert k.jobs.counts()[JobState.CANCELLED] == len(cancelled)
        assert sum(k.jobs.counts().values()) == len(due)


# --- what changes while a page is read -----------------------------------------------------------------


class Held:
    """Holds up the next reading of a page from the store, after it was read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.page: list[JobRecord] = []
        self.read, self.go = threading.Event(), threading.Event()
        self.armed = False
        original = JobStore.waiting

        def waiting(store: JobStore, *args: Any, **options: Any) -> list[JobRecord]:
            page = original(store, *args, **options)
            if self.armed and page:
                self.armed, self.page = False, page
                self.read.set()
                assert self.go.wait(20)
            return page

        monkeypatch.setattr(JobStore, "waiting", waiting)

    def wait(self) -> None:
        assert self.read.wait(20)


def starts_of(office: Office, id: int) -> int:
    return [started for started, _ in office.started].count(id)


def test_jobs_that_are_changed_while_their_page_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    office, held = Office(), Held(monkeypatch)
    with office.open() as k:
        for n in range(40):
            k.jobs.schedule(office.write(n), at=NOON + SECOND * (100 + 10 * n))
        held.armed = True
        office.clock.now = NOON + SECOND * 170
        held.wait()
        cancelled, now, put_off = held.page
        moment = NOON + SECOND * 10_000
        record_as(k, msgspec.structs.replace(cancelled, state=JobState.CANCELLED, ended_us=us(NOON)))
        record_as(k, msgspec.structs.replace(now, state=JobState.AVAILABLE, run_at_us=0))
        record_as(k, msgspec.structs.replace(put_off, run_at_us=us(moment)))
        at = datetime.fromtimestamp(now.run_at_us / 1e6, tz=NOON.tzinfo)
        (between,) = k.jobs.schedule(office.write(100), at=at)
        (last,) = k.jobs.schedule(office.write(101), at=moment)
        eventually(lambda: starts_of(office, now.id) == 1)
        held.go.set()
        office.clock.now = NOON + SECOND * 5_000
        eventually(lambda: len(office.started) == 39)
        assert k.jobs.wait_until_idle(20)
        assert [starts_of(office, record.id) for record in (cancelled, now, put_off, between, last)] == [
            *(0, 1, 0, 1, 0)
        ]
        assert [record.id for record in k.jobs.live()] == [put_off.id, last.id]
        assert k.jobs.counts()[JobState.COMPLETED] == 39
        assert k.jobs.counts()[JobState.SCHEDULED] == 2
        office.clock.now = moment
        eventually(lambda: len(office.started) == 41)
        assert k.jobs.wait_until_idle(20)
        assert sum(k.jobs.counts().values()) == k.jobs.counts()[JobState.COMPLETED] + 1 == 42


def test_so_many_sooner_jobs_come_while_a_page_is_read_that_it_is_not_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office, held = Office(), Held(monkeypatch)
    with office.open() as k:
        for n in range(40):
            k.jobs.schedule(office.write(n), at=NOON + SECOND * (100 + 10 * n))
        held.armed = True
        # Some that are in memory now have to make room for the sooner ones.
        office.clock.now = NOON + SECOND * 130
        held.wait()
        for n in range(60):
            k.jobs.schedule(office.write(n), at=NOON + SECOND * (131 + n / 100))
        assert len(k.jobs._live) <= 2 * AT_HAND
        held.go.set()
        office.clock.now = NOON + SECOND * 5_000
        eventually(lambda: len(office.started) == 100)
        assert k.jobs.wait_until_idle(20)
        assert Counter(id for id, _ in office.started) == Counter(range(1, 101))
        assert k.jobs.counts()[JobState.COMPLETED] == 100


def test_a_running_job_is_not_read_again_after_the_clock_was_set_back() -> None:
    office = Office()
    go = threading.Event()
    started = []

    @office.app.job()
    def last_long(job: JobRun) -> None:
        started.append(job.id)
        assert go.wait(20)

    with office.open(job_threads=2) as k:
        (long,) = k.jobs.schedule(last_long(), at=NOON + SECOND * 10)
        office.clock.now = NOON + SECOND * 10
        eventually(lambda: started)
        office.clock.now = NOON
        for n in range(50):
            k.jobs.schedule(office.write(n), at=NOON + SECOND * (1 + n / 100))
        office.clock.now = NOON + SECOND * 5
        eventually(lambda: len(office.started) == 50)
        office.clock.now = NOON + SECOND * 20
        k.jobs.schedule(office.write(99), at=NOON + SECOND * 20)
        eventually(lambda: len(office.started) == 51)
        # The end of the last one may not be published yet.
        eventually(lambda: k.jobs.counts()[JobState.EXECUTING] == 1)
        go.set()
        assert k.jobs.wait_until_idle(20)
        assert started == [long.id]
        assert k.jobs.counts()[JobState.COMPLETED] == sum(k.jobs.counts().values()) == 52


# --- what is where ------------------------------------------------------------------------------------


def test_only_the_soonest_are_in_memory(tmp_path: Path) -> None:
    office = Office()
    with office.open(tmp_path / "store") as k:
        for n in range(100):
            k.jobs.schedule(office.write(n), at=NOON + SECOND * (1_000 - n))
            assert len(k.jobs._live) <= 2 * AT_HAND
        assert k.jobs.counts()[JobState.SCHEDULED] == 100
        assert [record.arguments for record in k.jobs.live()] == [(n,) for n in range(100)]
    with office.open(tmp_path / "store") as k:
        assert len(k.jobs._live) <= AT_HAND + PAGE
        assert k.jobs.counts()[JobState.SCHEDULED] == 100
        assert len(k.jobs.live()) == 100


@pytest.mark.parametrize("threads", [0, 1])
def test_a_clock_that_jumps_far_ahead(threads: int) -> None:
    office = Office()
    with office.open(job_threads=threads) as k:
        k.jobs.schedule(*[office.write(n) for n in range(200)], at=NOON + timedelta(days=1))
        k.jobs.schedule(*[office.write(n) for n in range(200, 230)], at=NOON + timedelta(days=9))
        office.clock.advance(timedelta(days=2))
        if threads:
            eventually(lambda: len(office.started) == 200)
            assert k.jobs.wait_until_idle(20)
            assert [id for id, _ in office.started] == list(range(1, 201))
        eventually(lambda: k.jobs.counts()[JobState.SCHEDULED] == 30)
        office.clock.advance(-timedelta(days=2))
        k.jobs.schedule(office.write(7), at=office.clock.now + SECOND)
        assert k.jobs.counts()[JobState.SCHEDULED] == 31


def test_waiting_for_idleness_waits_for_what_is_due_and_still_on_disk() -> None:
    office = Office()
    with office.open() as k:
        for _ in range(5):
            k.jobs.schedule(*[office.write(n) for n in range(100)], at=office.clock.now + SECOND)
            office.clock.advance(2 * SECOND)
            assert k.jobs.wait_until_idle(20)
            assert len(office.started) % 100 == 0
    assert len(office.started) == 500


def test_any_job_can_be_looked_at(tmp_path: Path) -> None:
    office = Office()
    with office.open(tmp_path / "store") as k:
        far = k.jobs.schedule(*[office.write(n) for n in range(50)], at=NOON + timedelta(days=1))
        (ended,) = k.jobs.schedule(office.write(99))
        assert k.jobs.wait_until_idle(20)
        for _ in range(2):
            assert [k.jobs.get(record.id) for record in far] == list(far)
            found = k.jobs.get(ended.id)
            assert (found.state, found.arguments, found.attempt) == (JobState.COMPLETED, (99,), 1)
            for never in (0, -1, 52, 2**62):
                with pytest.raises(NotFound, match=f"no job {never}"):
                    k.jobs.get(never)
            k._engine.checkpointer.write()

        async def look() -> None:
            assert (await k.aio.jobs.get(far[-1].id)) == far[-1]
            assert len(await k.aio.jobs.live()) == 50
            assert k.aio.jobs.counts(kind=office.write) == k.jobs.counts()
            assert k.aio.jobs.totals() == k.jobs.totals()

        asyncio.run(look())


def test_pages_of_waiting_and_ended_jobs(tmp_path: Path, rng: random.Random) -> None:
    office = Office()
    with office.open(tmp_path / "store") as k:
        for n in range(40):
            k.jobs.schedule(office.write(n), at=NOON + SECOND * rng.randrange(1, 60))
            if n == 20:
                k._engine.checkpointer.write()
        store: JobStore = k._manager.store
        found, start = [], (0, 0)
        while page := store.waiting(start, limit=7):
            found += page
            start = page[-1].run_at_us, page[-1].id + 1
        assert found == sorted(k.jobs.live(), key=lambda record: (record.run_at_us, record.id))
        assert len(found) == 40
        for _ in range(30):
            office.clock.advance(SECOND)
            assert k.jobs.wait_until_idle(20)
            if rng.random() < 0.3:
                k._engine.checkpointer.write()
        ended, before = [], None
        while page := store.ended(before, limit=4):
            ended += page
            before = page[-1].ended_us, page[-1].id
        assert len(ended) == k.jobs.counts()[JobState.COMPLETED] > 0
        assert ended == sorted(ended, key=lambda record: (record.ended_us, record.id), reverse=True)
        assert store.ended(states=[JobState.DISCARDED]) == []


def test_a_page_that_cannot_be_read_is_read_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    office = Office()
    refusals = [StorageError("the disk is away"), StorageError("still away")]
    read = JobStore.waiting

    def waiting(self: JobStore, *args: Any, **options: Any) -> list[JobRecord]:
        if refusals:
            raise refusals.pop()
        return read(self, *args, **options)

    monkeypatch.setattr(JobStore, "waiting", waiting)
    with office.open() as k:
        k.jobs.schedule(*[office.write(n) for n in range(50)], at=NOON + SECOND)
        office.clock.advance(SECOND)
        eventually(lambda: len(refusals) == 1)
        for _ in range(3):
            office.clock.advance(timedelta(minutes=1))
            time.sleep(0.02)
        eventually(lambda: len(office.started) == 50)
    assert "still away" in caplog.text


# --- stores of other designs and earlier versions ------------------------------------------------------


def test_far_jobs_are_looked_at_when_the_design_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    office = Office()
    with office.open(path) as k:
        k.jobs.schedule(*[office.write(n) for n in range(50)], at=NOON + timedelta(days=1))
        (last,) = k.jobs.schedule(office.stumble(50), at=NOON + timedelta(days=2))

    class Lesser(Office):
        def __init__(self) -> None:
            super().__init__()
            del self.app.jobs["stumble"]

    with pytest.raises(SchemaChanged, match="1 waiting"):
        Lesser().open(path)

    renamed = Lesser()
    ran: list[int] = []

    @renamed.app.job(queue="mail")
    def stagger(job: JobRun, number: int) -> None:
        ran.append(number)

    @renamed.app.migration(1)
    def better_words(m: klerk.Migration) -> None:
        m.rename_job("stumble", "stagger")

    with renamed.open(path) as k:
        assert k.jobs.get(last.id).kind == "stagger"
        assert k.jobs.counts(kind="stagger")[JobState.SCHEDULED] == 1
        with pytest.raises(klerk.ArgumentError, match="no kind of job 'stumble'"):
            k.jobs.counts(kind="stumble")
        assert k.jobs.counts()[JobState.SCHEDULED] == 51
        renamed.clock.advance(timedelta(days=3))
        eventually(lambda: ran == [50] and len(renamed.started) == 50)


def former(path: Path, office: Office) -> None:
    """Store the jobs as they were stored before they had places in an order of time."""
    with office.open(path, job_threads=0) as k:
        k._engine.checkpointer.write()
        storage = k._storage
        rows = list(storage.scan(Family.JOBS))
        puts = []
        deletes = [(int(Family.META), key) for key, _ in storage.scan(Family.META, COUNT, COUNT + b"\xff")]
        for key, stored in rows:
            deletes.append((int(Family.JOBS), key))
            if key[:1] != PLACE:
                record = msgspec.msgpack.decode(stored, type=JobRecord)
                prefix = FORMER if record.ended_us else READY
                puts.append((int(Family.JOBS), prefix + key[-8:], encode(record)))
        storage.write([], deletes)
        storage.write(puts, [])


def test_a_store_of_an_earlier_version_is_converted(tmp_path: Path) -> None:
    path = tmp_path / "store"
    office = Office()
    with office.open(path) as k:
        k.jobs.schedule(*[office.write(n) for n in range(30)])
        assert k.jobs.wait_until_idle(20)
        k.jobs.schedule(*[office.stumble(n) for n in range(40)], at=NOON + SECOND)
    with office.open(path, job_threads=0) as k:
        k.jobs.schedule(*[office.write(n) for n in range(5)])
    former(path, office)
    for _ in range(2):
        with office.open(path, job_threads=0) as k:
            counts = k.jobs.counts()
            assert (counts[JobState.COMPLETED], counts[JobState.SCHEDULED], counts[JobState.AVAILABLE]) == (
                (30, 40, 5)
            )
            assert (k.jobs.get(3).state, len(k._manager.store.ended(limit=100))) == (JobState.COMPLETED, 30)
    told = describe_store(path)
    assert "write completed: 30" in told
    assert "stumble scheduled: 40" in told
    assert "write available: 5" in told
    with office.open(path) as k:
        office.clock.advance(SECOND)
        eventually(lambda: len(office.started) == 75)


# --- a process that is killed -------------------------------------------------------------------------

KILLED = """
import os, sys, random, time
from datetime import UTC, datetime, timedelta
from klerk import App, JobRun, limits
limits.JOBS_AT_HAND_MAX, limits.JOBS_PAGE = 8, 3
ledger = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def write_down(*what):
    os.write(ledger, (" ".join(map(str, what)) + "\\n").encode())
    os.fsync(ledger)

app = App("killed")

@app.job()
def note(job: JobRun, due_us: int) -> None:
    write_down("start", job.id, due_us, int(time.time() * 1e6))

rng = random.Random(int(sys.argv[3]))
with app.open(sys.argv[1], durability="process") as k:
    print("open", flush=True)
    if sys.argv[4] == "end":
        while any(count for state, count in k.jobs.counts().items() if state not in ("completed",)):
            time.sleep(0.01)
        counts = k.jobs.counts()
        write_down("completed", counts["completed"], k.jobs.totals()["completed"])
    else:
        for number in range(100_000):
            at = datetime.now(UTC) + timedelta(milliseconds=rng.randrange(-50, 1_500))
            due_us = round(at.timestamp() * 1e6)
            for record in k.jobs.schedule(*[note(due_us) for _ in range(4)], at=at):
                write_down("asked", record.id)
"""


def lines(ledger: Path) -> Iterator[list[str]]:
    for line in ledger.read_text().splitlines():
        yield line.split()


@pytest.mark.timeout(120)
def test_kills_lose_no_waiting_job_and_start_none_before_its_time(tmp_path: Path, rng: random.Random) -> None:
    ledger, store = tmp_path / "ledger", tmp_path / "store"

    def run(mode: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(store), str(ledger), str(rng.randrange(10**6)), mode],
            env=python_environment(),
            stdout=subprocess.PIPE,
        )

    for _ in range(4):
        with run("more") as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.1, 1.3))
            os.kill(process.pid, signal.SIGKILL)
    with run("end") as process:
        assert process.wait(60) == 0
    asked = {int(words[1]) for words in lines(ledger) if words[0] == "asked"}
    starts = [tuple(map(int, words[1:])) for words in lines(ledger) if words[0] == "start"]
    assert asked <= {id for id, _, _ in starts}
    assert all(at_us >= due_us - 1 for _, due_us, at_us in starts)
    (completed,) = [words[1:] for words in lines(ledger) if words[0] == "completed"]
    assert completed == [str(len({id for id, _, _ in starts}))] * 2


POISONED = """
import os, sys, time
from datetime import UTC, datetime, timedelta
from klerk import App, JobRun, JobState, limits
limits.JOBS_AT_HAND_MAX, limits.JOBS_PAGE = 8, 3
app = App("poisoned")

@app.job()
def wait(job: JobRun) -> None:
    time.sleep(0.02)

@app.job(priority=100, max_crashes=2)
def die(job: JobRun) -> None:
    os._exit(7)

with app.open(sys.argv[1], durability="process", job_threads=1) as k:
    if k.sequence == 0:
        soon = datetime.now(UTC) + timedelta(seconds=0.3)
        k.jobs.schedule(*[wait().at(soon) for _ in range(40)], die().at(soon + timedelta(milliseconds=1)))
    while k.jobs.counts()[JobState.DISCARDED] == 0:
        time.sleep(0.01)
    assert k.jobs.get(41).crashes == 2, k.jobs.get(41)
"""


def test_what_the_process_died_with_is_blamed_though_others_come_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", POISONED, str(tmp_path / "store")]
    ends = [
        subprocess.run(command, env=python_environment(), timeout=30, check=False).returncode
        for _ in range(3)
    ]
    assert ends == [7, 7, 0]

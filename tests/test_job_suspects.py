"""Innocent jobs beside poison: none is given up unless the process died while it ran alone.

One test lets a process be killed by its own jobs again and again. In the others marks are written by hand, as
a dead process leaves them, and jobs note which others run at the same time.
"""

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from designs import eventually, run_python

import klerk
from klerk import App, JobRecord, JobRun, JobState
from klerk.job_manager.crashes import Crashes
from klerk.job_manager.suspects import Suspects
from klerk.storage import layout
from klerk.storage.marks import MarkFile

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")

READY, DONE, CANCELLED, FAILED = (
    JobState.AVAILABLE,
    JobState.COMPLETED,
    JobState.CANCELLED,
    JobState.DISCARDED,
)

KILLED = """
import os, signal, sys, time
import klerk

ledger = sys.argv[2]
app = klerk.App("works")

def note(line):
    fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{line}\\n".encode())
    os.close(fd)

def runs_beside():
    return f"{os.getpid()} innocent" in open(ledger).read()

@app.job(max_crashes=2)
def innocent(job):
    note(f"{os.getpid()} innocent")
    time.sleep(0.4)
    note("innocent ended")

@app.job(max_crashes=2)
def poison(job):
    note(f"{os.getpid()} poison {job.id}")
    for _ in range(30):
        if runs_beside():
            break
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

with app.open(sys.argv[1], durability="process") as k:
    if not k.sequence:
        k.jobs.schedule(innocent())
    if len(k.jobs.query(kind="poison")) < 3:
        k.jobs.schedule(poison())
    k.jobs.wait_until_idle(20)
    for record in k.jobs.query():
        note(f"{record.id} {record.state} {record.crashes}")
"""


def test_fresh_poison_again_and_again_takes_no_innocent_along(tmp_path: Path) -> None:
    """One more comes with each start, and would kill the process as soon as the innocent runs beside it."""
    script, ledger = tmp_path / "killed.py", tmp_path / "ledger"
    script.write_text(KILLED, encoding="utf-8")
    deaths = 0
    for _ in range(12):
        result = run_python(str(script), str(tmp_path / "store"), str(ledger), cwd=tmp_path)
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL, result.stderr
        deaths += 1
    lines = ledger.read_text().splitlines()
    assert sorted(lines[-4:]) == ["1 completed 1", "2 discarded 2", "3 discarded 2", "4 discarded 2"]
    assert lines.count("innocent ended") == 1
    # Two together, the first of those alone; the other two together, and each alone.
    assert deaths == 5


class Works:
    """An app whose jobs note what runs beside them, and wait for the test when they are told to."""

    def __init__(self, max_crashes: int = 3) -> None:
        self.app = App("works")
        self.app.queue("other")
        self.go = threading.Event()
        self.lock = threading.Lock()
        self.running: set[int] = set()
        self.began: list[int] = []
        self.beside: dict[int, set[int]] = {}

        def begin(job: JobRun) -> None:
            with self.lock:
                self.running.add(job.id)
                self.began.append(job.id)
                for each in self.running:
                    self.beside.setdefault(each, set()).update(self.running - {each})

        def end(job: JobRun) -> None:
            with self.lock:
                self.running.discard(job.id)

        @self.app.job(max_crashes=max_crashes)
        def work(job: JobRun, waits: bool = False) -> None:
            begin(job)
            assert self.go.wait(20 if waits else 0.02) or not waits
            end(job)

        @self.app.job(max_crashes=max_crashes)
        async def soon(job: JobRun, waits: bool = False) -> None:
            begin(job)
            while waits and not self.go.is_set():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.02)
            end(job)

        self.work, self.soon = work, soon

    def open(self, path: Path, threads: int = 4) -> klerk.Klerk:
        return self.app.open(path, job_threads=threads, close_wait=timedelta(0))


@pytest.fixture
def works() -> Iterator[Works]:
    works = Works()
    yield works
    works.go.set()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def die(works: Works, path: Path, *job_ids: int, times: int = 1) -> list[JobRecord]:
    """Leave a store as a process does that dies so often while jobs run; return these as they are then."""
    for _ in range(times):
        with works.open(path, threads=0) as k:
            records = [k.jobs.get(job_id) for job_id in job_ids]
        crashes = Crashes(works.app.freeze(), MarkFile(path / layout.MARKS), [])
        for record in records:
            crashes.begin(record)
    with works.open(path, threads=0) as k:
        return [k.jobs.get(job_id) for job_id in job_ids]


def create(works: Works, path: Path, *requests: klerk.JobRequest) -> None:
    with works.open(path, threads=0) as k:
        k.jobs.schedule(*requests)


# --- what a crash tells -------------------------------------------------------------------------------


@pytest.mark.parametrize("max_crashes", [1, 3])
def test_crashes_beside_others_give_nobody_up(store: Path, max_crashes: int) -> None:
    works = Works(max_crashes)
    create(works, store, works.work(), works.soon())
    records = die(works, store, 1, 2, times=5)
    assert [(record.state, record.crashes) for record in records] == [(READY, 5)] * 2
    assert records[0].error == "the process died 5 times while it ran"
    (record,) = die(works, store, 1)
    assert (record.state, record.crashes) == (FAILED, 6)
    assert record.error == "poison: the process died 6 times while it ran"
    with works.open(store) as k:
        assert k.jobs.wait_until_idle(20)
        assert k.jobs.get(2).state is DONE


def test_what_ran_beside_it_counts_whatever_becomes_of_that(works: Works, store: Path) -> None:
    """Also a job that runs at most once, and had not been called yet."""

    @works.app.job(at_most_once=True)
    def once(job: JobRun) -> None: ...

    create(works, store, works.work(), once())
    die(works, store, 1, times=2)
    record, other = die(works, store, 1, 2)
    assert (record.state, record.crashes) == (READY, 3)
    assert (other.state, other.crashes) == (READY, 0)
    (record,) = die(works, store, 1)
    assert (record.state, record.crashes) == (FAILED, 4)


def test_less_than_the_last_crash_gives_nobody_up_that_ran_alone(works: Works, store: Path) -> None:
    create(works, store, works.work())
    assert [(each.state, each.crashes) for each in die(works, store, 1, times=2)] == [(READY, 2)]
    assert [(each.state, each.crashes) for each in die(works, store, 1)] == [(FAILED, 3)]


# --- alone after a start ------------------------------------------------------------------------------


def test_those_whose_next_crash_may_be_the_last_run_alone_first(works: Works, store: Path) -> None:
    create(works, store, *(works.work() for _ in range(4)), *(works.soon() for _ in range(4)))
    die(works, store, 3, 6, times=2)
    die(works, store, 1, 7)
    with works.open(store) as k:
        k.jobs.schedule(*(works.work() for _ in range(20)))
        assert k.jobs.wait_until_idle(20)
        assert (works.beside[3], works.beside[6]) == (set(), set())
        assert works.began[:2] == [3, 6]
        assert 7 not in works.beside[1]
        assert k.jobs.counts()[DONE] == 28


def test_a_long_one_does_not_keep_others_waiting_for_ever(
    works: Works, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those that are no suspects, nor those that were to run alone after it."""
    monkeypatch.setattr("klerk.limits.JOB_ALONE_S", 0.1)
    create(works, store, *(works.work(waits=True) for _ in range(2)), works.soon(), works.work())
    die(works, store, 1, 2, times=2)
    with works.open(store) as k:
        eventually(lambda: works.began)
        assert works.began == [1]
        eventually(lambda: set(works.began) == {1, 2, 3, 4})
        works.go.set()
        assert k.jobs.wait_until_idle(20)
        assert k.jobs.counts()[DONE] == 4


def test_many_long_suspects_come_to_run_together(
    works: Works, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.JOB_ALONE_S", 0.02)
    create(works, store, *(works.soon(waits=True) for _ in range(12)))
    die(works, store, *range(1, 13))
    with works.open(store) as k:
        eventually(lambda: len(works.running) == 12)
        assert works.began == list(range(1, 13))
        works.go.set()
        assert k.jobs.wait_until_idle(20)
        assert k.jobs.counts()[DONE] == 12


def test_after_another_crash_another_one_goes_first(
    works: Works, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise one that lasts long would keep the guilty from ever running alone."""
    create(works, store, *(works.soon(waits=True) for _ in range(3)))
    die(works, store, 1, 2, 3, times=2)
    for first in (1, 2, 3, 1):
        again = Works()
        try:
            with again.open(store) as k:
                eventually(lambda again=again: again.began)
                assert again.began == [first]
                assert f"job {first} runs alone at first" in str(k.jobs.why(first % 3 + 1))
        finally:
            again.go.set()
        die(works, store, *(each for each in (1, 2, 3) if live(works, store, each)))


def live(works: Works, path: Path, job_id: int) -> bool:
    with works.open(path, threads=0) as k:
        return not k.jobs.get(job_id).ended_us


def test_one_that_cannot_start_holds_nobody_up(works: Works, store: Path) -> None:
    """Its queue is paused, a limit keeps it back, or no worker takes it."""

    @works.app.job(tags={"gpu"})
    def tagged(job: JobRun) -> None: ...

    @works.app.job(rate="1/h")
    def rare(job: JobRun) -> None: ...

    with works.open(store) as k:
        k.jobs.schedule(rare())
        assert k.jobs.wait_until_idle(20)
    create(works, store, works.work().options(queue="other"), tagged(), rare(), works.work())
    die(works, store, 2, 3, 4, times=2)
    with works.open(store, threads=0) as k:
        k.jobs.pause("other")
    with works.open(store) as k:
        eventually(lambda: works.began == [5])
        assert [k.jobs.get(job_id).state for job_id in (2, 3, 4)] == [READY] * 3
        k.jobs.resume("other")
        eventually(lambda: works.began == [5, 2])


def test_what_people_do_to_those_that_are_set_aside(works: Works, store: Path) -> None:
    create(works, store, *(works.work(waits=True) for _ in range(4)), works.work())
    die(works, store, 1, 2, 3, 4, times=2)
    with works.open(store) as k:
        eventually(lambda: works.began == [1])
        assert k.jobs.cancel(2).state is CANCELLED
        # Changed, it is ready once more, and among the others then.
        k.jobs.edit(3, priority=1)
        works.go.set()
        assert k.jobs.wait_until_idle(20)
        assert works.began[:2] == [1, 4]
        assert sorted(works.began) == [1, 3, 4, 5]
        assert works.beside[4] == set()
    again = Works()
    create(again, store, again.work(), again.work())
    die(again, store, 6, times=2)
    with again.open(store, threads=1) as k:
        assert k.jobs.wait_until_idle(20)
        assert again.began == [6, 7]


def test_one_that_is_tried_again_does_not_run_alone_a_second_time(works: Works, store: Path) -> None:
    attempts: list[int] = []

    @works.app.job(retry=lambda attempt, error: timedelta(0))
    def fails(job: JobRun) -> None:
        attempts.append(job.attempt)
        if job.attempt < 3:
            raise ZeroDivisionError

    create(works, store, fails(), works.work())
    die(works, store, 1, times=2)
    with works.open(store) as k:
        eventually(lambda: k.jobs.counts()[DONE] == 2)
        assert attempts == [1, 2, 3]
        assert k.jobs.get(1).crashes == 2


def test_a_queue_that_is_paused_meanwhile_starts_none_of_those_that_were_to_run_alone(
    works: Works, store: Path
) -> None:
    create(works, store, works.work(waits=True), *[works.work().options(queue="other")] * 2, works.work())
    die(works, store, 1, 2, 3, times=2)
    with works.open(store) as k:
        eventually(lambda: works.began)
        k.jobs.pause("other")
        works.go.set()
        eventually(lambda: works.began == [1, 4])
        assert [k.jobs.get(job_id).state for job_id in (2, 3)] == [READY] * 2
        k.jobs.resume("other")
        assert k.jobs.wait_until_idle(20)
        assert works.began == [1, 4, 2, 3]
        assert works.beside[2] | works.beside[3] == set()


def test_a_queue_that_is_paused_before_their_turn_lets_none_of_them_run_alone(
    works: Works, store: Path
) -> None:
    create(works, store, works.work(), works.work())
    records = die(works, store, 1, 2, times=2)
    paused, back = False, []
    suspects = Suspects(
        works.app.freeze().jobs, lambda *_: None, lambda _: None, lambda _: not paused, back.append
    )
    suspects.gather(["thread"], frozenset())
    assert all(map(suspects.takes, records))
    suspects.begin()
    assert suspects.is_alone
    paused = True
    suspects.withdraw(lambda _: True)
    assert (suspects.is_alone, back) == (False, records)


def test_a_rate_holds_for_those_that_run_alone(works: Works, store: Path) -> None:
    @works.app.job(rate="2/h")
    def rare(job: JobRun) -> None: ...

    create(works, store, rare(), rare(), rare(), works.work())
    die(works, store, 1, 2, 3, times=2)
    with works.open(store) as k:
        eventually(lambda: works.began == [4])
        assert [k.jobs.get(job_id).state for job_id in (1, 2, 3)] == [DONE, DONE, READY]
        assert "may start 2/h, and has no start left" in str(k.jobs.why(3))


def test_many_short_ones_do_not_keep_the_rest_waiting_for_each_of_them(
    works: Works, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they have as long as one of them may have."""
    monkeypatch.setattr("klerk.limits.JOB_ALONE_S", 0.2)

    @works.app.job()
    def other(job: JobRun) -> None:
        works.began.append(job.id)

    create(works, store, *(works.work() for _ in range(100)), other())
    die(works, store, *range(1, 101), times=2)
    with works.open(store) as k:
        assert k.jobs.wait_until_idle(20)
        assert 1 <= works.began.index(101) < 50
        assert k.jobs.counts()[DONE] == 101
        assert not set.union(*(works.beside[job_id] for job_id in range(1, 101)))

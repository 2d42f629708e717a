"""Jobs whose process dies: blamed, given up as poison, never started twice, and nothing done twice.

`crashing` is a process that its own jobs kill, with SIGKILL, `os._exit` or a segmentation fault; each run
goes on with the store of the one before. What the jobs did stands in a ledger outside of the store. Where
the moment of the death does not matter, a mark is written by hand instead, as a dead process leaves it.
"""

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from crashing import ACCOUNTS, CLOSINGS, Works, last_records
from designs import TESTER, Account, Bank, Brake, Clock, Spawned, eventually, python_environment, run_python

import klerk
from klerk import (
    ArgumentError,
    Conflict,
    JobCancelled,
    JobRecord,
    JobRun,
    JobState,
    Ref,
    Retry,
    Snooze,
    StoreFailed,
)
from klerk.job_manager.crashes import Crashes
from klerk.storage import Family, RocksStorage, layout, marks
from klerk.storage.marks import MarkFile

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")

KILLED, EXITED, ENDED = -signal.SIGKILL, 3, 0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set at once."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def run(tmp_path: Path, scenario: str) -> int:
    """Run the process until it ends, and return how it did."""
    done = run_python(
        "-m", "crashing", str(tmp_path / "store"), str(tmp_path / "ledger"), scenario, cwd=tmp_path
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def works_of(tmp_path: Path) -> Works:
    return Works(tmp_path / "ledger")


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def ended(k: klerk.Klerk) -> tuple[int, int, int]:
    counts = k.jobs.counts()
    return counts[JobState.COMPLETED], counts[JobState.DISCARDED], counts[JobState.CANCELLED]


def used_tokens(store: Path) -> int:
    """Return how many used tokens a store holds that nobody has open."""
    storage = RocksStorage.open(store, app="bank", durability="sync", create=False)
    try:
        return sum(1 for key, _ in storage.scan(Family.TOKENS) if any(key))
    finally:
        storage.close()


def mark(store: Path, record: JobRecord) -> None:
    """Leave a store as a process does that dies while a job runs."""
    crashes = Crashes(Bank().app.freeze(), MarkFile(store / layout.MARKS), [])
    crashes.begin(record)


def stored_marks(store: Path) -> list[int]:
    raw = (store / layout.MARKS).read_bytes()[24:]
    return [number for number in memoryview(raw).cast("Q") if number]


# --- crashes are counted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "death"),
    [
        ("plain-kill", KILLED),
        ("plain-exit", EXITED),
        ("plain-segfault", -signal.SIGSEGV),
        ("coroutine-kill", KILLED),
    ],
)
def test_a_job_that_kills_the_process_is_given_up(tmp_path: Path, scenario: str, death: int) -> None:
    assert run(tmp_path, scenario) == death
    assert run(tmp_path, scenario) == ENDED
    assert works_of(tmp_path).lines() == ["deadly 0"]
    record = last_records(tmp_path / "store")[1]
    assert (record.state, record.crashes, record.attempt) == (JobState.DISCARDED, 1, 0)
    assert record.error == "poison: the process died once while it ran"
    assert not record.outcome_unknown


def test_jobs_beside_poison_are_blamed_once_and_complete(tmp_path: Path) -> None:
    """Those that ran when the process died run one at a time, so the poison cannot take them again."""
    assert run(tmp_path, "beside") == KILLED
    works = works_of(tmp_path)
    assert sorted(works.lines()) == ["begin a 0", "begin b 0", "begin c 0", "poison 0 attempt 1"]
    assert run(tmp_path, "beside") == KILLED
    assert works.lines()[4:] == [
        *("begin a 1", "end a 1", "begin b 1", "end b 1", "begin c 1", "end c 1"),
        "poison 1 attempt 1",
    ]
    assert run(tmp_path, "beside") == ENDED
    assert len(works.lines()) == 11
    records = last_records(tmp_path / "store")
    assert [(record.state, record.crashes) for _, record in sorted(records.items())] == [
        *[(JobState.COMPLETED, 1)] * 3,
        (JobState.DISCARDED, 2),
    ]
    assert records[4].error == "poison: the process died 2 times while it ran"


def test_what_was_running_runs_first_and_no_attempt_is_lost(tmp_path: Path) -> None:
    assert run(tmp_path, "first") == KILLED
    assert run(tmp_path, "first") == ENDED
    assert works_of(tmp_path).lines() == [
        "run 1 crashes 0 attempt 1",
        "run 1 crashes 1 attempt 1",
        "run 2 crashes 0 attempt 1",
    ]
    first = last_records(tmp_path / "store")[1]
    assert (first.state, first.attempt, first.crashes, first.error) == (JobState.COMPLETED, 1, 1, "")


def test_a_command_that_a_job_ends_with_can_be_poison_too(tmp_path: Path) -> None:
    """The job's function has ended by then, and the process dies in a rule."""
    assert [run(tmp_path, "rule") for _ in range(3)] == [KILLED, KILLED, ENDED]
    assert works_of(tmp_path).lines() == ["closing 0", "closing 1"]
    record = last_records(tmp_path / "store")[1]
    assert (record.state, record.crashes) == (JobState.DISCARDED, 2)


def test_a_crash_is_recorded_by_the_system_before_anything_runs(tmp_path: Path) -> None:
    assert run(tmp_path, "beside") == KILLED
    works = works_of(tmp_path)
    works.app.allow.log()(lambda a: True)
    with works.app.open(tmp_path / "store", job_threads=0) as k:
        assert {record.crashes for record in k.jobs.live()} == {1}
        assert {record.state for record in k.jobs.live()} == {JobState.AVAILABLE}
        assert {record.error for record in k.jobs.live()} == {"the process died once while it ran"}
        (entry,) = k.log(TESTER, limit=1).entries
        assert (entry.actor.kind, entry.actor.id) == ("system", "recovery")
    # Opened again, nobody died meanwhile.
    with works.app.open(tmp_path / "store", job_threads=0) as k:
        assert {record.crashes for record in k.jobs.live()} == {1}


# --- the marks ----------------------------------------------------------------------------------------


def one_waiting(bank: Bank, store: Path, request: Any, **options: Any) -> JobRecord:
    """Leave a store with one job that waits, and return its record."""
    with bank.app.open(store, job_threads=0, **options) as k:
        (record,) = k.jobs.schedule(request)
    return record


def seen(bank: Bank, store: Path) -> JobRecord:
    """Open a store and return how its one job comes out of that."""
    with bank.app.open(store, job_threads=0) as k:
        (record,) = k.jobs.live()
    return record


@pytest.fixture
def works(tmp_path: Path) -> Works:
    return works_of(tmp_path)


def test_jobs_are_marked_while_they_run(works: Works, tmp_path: Path) -> None:
    store, ran = tmp_path / "store", []

    @works.app.job()
    def look(job: JobRun) -> None:
        ran.append(len(stored_marks(store)))
        if job.attempt < 3:
            raise Retry(timedelta(0))

    with works.app.open(store) as k:
        k.jobs.schedule(look())
        idle(k)
        eventually(lambda: ended(k) == (1, 0, 0))
        assert ran == [1, 1, 1]
        assert stored_marks(store) == []


def test_nothing_is_marked_after_closing(works: Works, tmp_path: Path) -> None:
    """Not even jobs that were interrupted, or that go on in their thread: nobody died."""
    store, began, go = tmp_path / "store", [], threading.Event()

    @works.app.job()
    async def wait(job: JobRun) -> None:
        began.append(job.id)
        await asyncio.sleep(60)

    @works.app.job()
    def hang(job: JobRun) -> None:
        began.append(job.id)
        assert go.wait(20)

    with works.app.open(store, close_wait=timedelta(seconds=0.05)) as k:
        k.jobs.schedule(wait(), hang())
        eventually(lambda: len(began) == 2)
        assert len(stored_marks(store)) == 2
    assert stored_marks(store) == []
    go.set()
    with works.app.open(store, job_threads=0) as k:
        assert [record.crashes for record in k.jobs.live()] == [0, 0]


def test_a_mark_counts_once(works: Works, tmp_path: Path) -> None:
    """Also when the process dies again after the crash was recorded, before its mark was removed."""
    store = tmp_path / "store"
    record = one_waiting(works, store, works.closing())
    mark(store, record)
    left = (store / layout.MARKS).read_bytes()
    assert seen(works, store).crashes == 1
    assert stored_marks(store) == []
    (store / layout.MARKS).write_bytes(left)
    assert seen(works, store).crashes == 1
    mark(store, msgspec.structs.replace(record, crashes=1))
    assert seen(works, store).crashes == 2


def test_an_attempt_that_has_ended_is_not_blamed(works: Works, tmp_path: Path) -> None:
    """Its end may be durable while its mark is still there."""
    store, clock = tmp_path / "store", Clock()

    @works.app.job()
    def again(job: JobRun, outcome: str) -> None:
        raise Snooze(timedelta(hours=1)) if outcome == "snooze" else Retry(timedelta(hours=1))

    with works.app.open(store, clock=clock) as k:
        before = k.jobs.schedule(again("snooze"), again("retry"))
        eventually(
            lambda: {record.state for record in k.jobs.live()} == {JobState.SCHEDULED, JobState.RETRYABLE}
        )
    for record in before:
        mark(store, record)
        with works.app.open(store, job_threads=0, clock=clock) as k:
            assert [record.crashes for record in k.jobs.live()] == [0, 0]
            after = k.jobs.live()
    clock.advance(timedelta(hours=2))
    for record in after:
        mark(store, record)
        with works.app.open(store, job_threads=0, clock=clock) as k:
            assert k.jobs.get(record.id).crashes == 1


def test_marks_of_an_earlier_start_of_the_machine_do_not_count(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    record = one_waiting(works, store, works.closing())
    with monkeypatch.context() as patch:
        patch.setattr(marks, "current_boot", lambda: b"before the cut  ")
        mark(store, record)
    assert seen(works, store).crashes == 0
    assert stored_marks(store) == []


@pytest.mark.parametrize(
    "content", [b"", b"KL", b"KLMARK\0\1" + bytes(100), bytes(4096), b"\xff" * 4096, b"x" * 100_000]
)
def test_a_damaged_file_of_marks_is_made_anew(
    works: Works, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    record = one_waiting(works, store, works.closing())
    (store / layout.MARKS).write_bytes(content)
    assert seen(works, store).crashes == 0
    assert "is damaged, so it is not known which jobs ran last" in caplog.text
    mark(store, record)
    assert seen(works, store).crashes == 1


def test_marks_that_stand_for_no_job_are_removed(works: Works, tmp_path: Path, rng: random.Random) -> None:
    store = tmp_path / "store"
    one_waiting(works, store, works.closing())
    raw = (store / layout.MARKS).read_bytes()
    (store / layout.MARKS).write_bytes(raw[:24] + rng.randbytes(len(raw) - 24))
    assert seen(works, store).crashes == 0
    assert stored_marks(store) == []


@pytest.mark.parametrize("trouble", ["full", "directory"])
def test_jobs_run_without_a_file_of_marks(
    works: Works,
    tmp_path: Path,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @works.app.job()
    def plain(job: JobRun) -> None: ...

    store = tmp_path / "store"
    one_waiting(works, store, plain())
    (store / layout.MARKS).unlink()
    if trouble == "full":
        monkeypatch.setattr(marks, "_make", full)
    else:
        (store / layout.MARKS).mkdir()
    with works.app.open(store) as k:
        idle(k)
        eventually(lambda: ended(k) == (1, 0, 0))
    assert "a job that kills the process will not be known" in caplog.text


def test_more_jobs_than_marks_run(works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.JOBS_MARKED_MAX", 2)
    store, together = tmp_path / "store", asyncio.Barrier(5)

    @works.app.job()
    async def meet(job: JobRun) -> None:
        await together.wait()

    with works.app.open(store) as k:
        for _ in range(2):
            k.jobs.schedule(*(meet() for _ in range(5)))
            idle(k)
        assert ended(k) == (10, 0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_leaves_the_marks_alone(works: Works, tmp_path: Path) -> None:
    store, found = tmp_path / "store", []

    @works.app.job()
    def fork(job: JobRun) -> None:
        if (child := os.fork()) == 0:
            k._manager._crashes.end(job.id)
            os._exit(0)
        found.append(os.waitpid(child, 0)[1])
        found.append(len(stored_marks(store)))

    with works.app.open(store) as k:
        k.jobs.schedule(fork())
        idle(k)
    assert found == [0, 1]


def test_a_copy_of_a_store_has_no_marks(works: Works, tmp_path: Path) -> None:
    began: list[int] = []

    @works.app.job(max_crashes=1)
    def copy(job: JobRun) -> None:
        began.append(job.id)
        if len(began) == 1:
            k.checkpoint(tmp_path / "copy")

    with works.app.open(tmp_path / "store") as k:
        k.jobs.schedule(copy())
        idle(k)
    with works.app.open(tmp_path / "copy") as copied:
        idle(copied)
        eventually(lambda: ended(copied) == (1, 0, 0))
    assert began == [1, 1]


# --- at most once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["once-inside", "once-inside_coroutine"])
def test_killed_inside_of_a_job_that_runs_at_most_once(tmp_path: Path, scenario: str) -> None:
    assert [run(tmp_path, scenario) for _ in range(2)] == [KILLED, ENDED]
    assert works_of(tmp_path).lines() == ["once 1"]
    record = last_records(tmp_path / "store")[1]
    assert (record.state, record.crashes, record.outcome_unknown) == (JobState.DISCARDED, 1, True)
    assert record.error.startswith("outcome unknown")
    assert record.started_us > 0
    assert record.ended_us > 0


def test_one_that_was_started_ends_even_if_its_arguments_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be suspended otherwise, and could be started from there."""

    def refuse(*_: Any) -> None:
        raise msgspec.ValidationError("unreadable")

    assert run(tmp_path, "once-inside") == KILLED
    works = works_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(msgspec, "convert", refuse)
        with works.app.open(tmp_path / "store", job_threads=0) as k:
            assert ended(k) == (0, 1, 0)
    assert last_records(tmp_path / "store")[1].outcome_unknown


def test_killed_between_the_start_and_the_function(tmp_path: Path) -> None:
    assert [run(tmp_path, "once-started") for _ in range(2)] == [KILLED, ENDED]
    assert works_of(tmp_path).lines() == []
    assert last_records(tmp_path / "store")[1].outcome_unknown


def test_killed_before_the_start_is_durable(tmp_path: Path) -> None:
    """It was given out, but never called: it runs, and nobody is blamed."""
    assert [run(tmp_path, "once-waiting") for _ in range(2)] == [KILLED, ENDED]
    assert works_of(tmp_path).lines() == ["once 1"]
    record = last_records(tmp_path / "store")[1]
    assert (record.state, record.crashes, record.outcome_unknown) == (JobState.COMPLETED, 0, False)


class Once(Works):
    """Jobs that run at most once and end in every way."""

    def __init__(self, ledger: Path) -> None:
        super().__init__(ledger)
        self.ran: list[Any] = []
        self.go = threading.Event()
        app, ran = self.app, self.ran

        def body(job: JobRun, how: str) -> None:
            ran.append((how, job.record.state, job.record.started_us > 0))
            if how == "fail":
                raise ZeroDivisionError(how)
            if how in ("snooze", "retry"):
                raise Snooze(timedelta(0)) if how == "snooze" else Retry(timedelta(0))

        @app.job(at_most_once=True)
        def plain(job: JobRun, how: str) -> None:
            body(job, how)

        @app.job(at_most_once=True)
        async def coroutine(job: JobRun, how: str) -> None:
            await asyncio.sleep(0)
            body(job, how)

        @app.job(at_most_once=True)
        def close_with(job: JobRun, account: Ref[Account], amount: int) -> Any:
            ran.append(amount)
            return job.complete_with(self.withdraw(account, amount))

        @app.job(at_most_once=True)
        async def wait(job: JobRun) -> None:
            ran.append("waiting")
            while not self.go.is_set():
                await asyncio.sleep(0.005)

        self.plain, self.coroutine, self.close_with, self.wait = plain, coroutine, close_with, wait


@pytest.fixture
def once(tmp_path: Path) -> Once:
    return Once(tmp_path / "ledger")


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize(
    ("how", "state", "error"),
    [
        ("end", JobState.COMPLETED, ""),
        ("fail", JobState.DISCARDED, "ZeroDivisionError: fail"),
        ("snooze", JobState.DISCARDED, "it runs at most once: snoozed for 0:00:00"),
        ("retry", JobState.DISCARDED, "it runs at most once: asked to be tried again"),
    ],
)
def test_a_job_that_runs_at_most_once_has_one_attempt(
    once: Once, tmp_path: Path, kind: str, how: str, state: JobState, error: str
) -> None:
    with once.app.open(tmp_path / "store") as k:
        k.jobs.schedule(getattr(once, kind)(how))
        idle(k)
    assert once.ran == [(how, JobState.EXECUTING, True)]
    record = last_records(tmp_path / "store")[1]
    assert (record.state, record.attempt, record.error) == (state, 1, error)
    assert not record.outcome_unknown
    with once.app.open(tmp_path / "store") as k:
        idle(k)
    assert len(once.ran) == 1


def test_its_closing_command_and_its_end_are_one(once: Once, tmp_path: Path) -> None:
    with once.app.open(tmp_path / "store") as k:
        ada = k.handle(once.enter("Ada", 5), TESTER).id
        k.jobs.schedule(once.close_with(ada, 6), once.close_with(ada, 4))
        eventually(lambda: ended(k) == (1, 1, 0))
        assert once.contents(k)[ada][1] == 1
    assert sorted(once.ran) == [4, 6]


def test_running_jobs_that_run_at_most_once_are_counted_as_all_others(once: Once, tmp_path: Path) -> None:
    with once.app.open(tmp_path / "store") as k:
        (record,) = k.jobs.schedule(once.wait())
        eventually(lambda: once.ran == ["waiting"])
        counts = k.jobs.counts()
        assert (counts[JobState.EXECUTING], counts[JobState.AVAILABLE]) == (1, 0)
        assert k.jobs.get(record.id).state is JobState.EXECUTING
        assert k.jobs.get(record.id).started_us > 0
        assert not k.jobs.wait_until_idle(0.01)
        once.go.set()
        idle(k)
        assert ended(k) == (1, 0, 0)


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_closing_while_the_start_is_recorded(once: Once, tmp_path: Path, kind: str) -> None:
    brake = Brake(once)
    with once.app.open(tmp_path / "store", job_threads=1) as k:
        ada = k.handle(once.enter("Ada"), TESTER).id
        # The start of the job is submitted while the group behind this one cannot be processed.
        k.jobs._dispatcher.queues["default"].is_paused = True
        k.jobs.schedule(getattr(once, kind)("end"))
        brake.armed = True
        renaming = Spawned(k.handle, once.rename(ada, "Eve"), TESTER)
        assert brake.reached.wait(20)
        k.jobs._dispatcher.queues["default"].is_paused = False
        k.jobs._wake()
        eventually(lambda: len(k._engine.queue) == 1)
        closing = Spawned(k.close)
        eventually(lambda: "closed" in repr(k))
        brake.go.set()
        closing.end()
        renaming.end()
    assert once.ran == []
    assert last_records(tmp_path / "store")[1].state is JobState.AVAILABLE
    with once.app.open(tmp_path / "store") as k:
        idle(k)
        eventually(lambda: ended(k) == (1, 0, 0))
    assert len(once.ran) == 1


def test_closing_that_interrupts_it_leaves_its_outcome_unknown(once: Once, tmp_path: Path) -> None:
    with once.app.open(tmp_path / "store", close_wait=timedelta(seconds=0.05)) as k:
        k.jobs.schedule(once.wait())
        eventually(lambda: once.ran == ["waiting"])
    record = last_records(tmp_path / "store")[1]
    assert record.outcome_unknown
    assert record.error == "outcome unknown: closing interrupted it, and it runs at most once"
    with once.app.open(tmp_path / "store") as k:
        idle(k)
    assert once.ran == ["waiting"]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_it_does_not_run_when_its_start_cannot_be_stored(
    once: Once, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with once.app.open(tmp_path / "store") as k:
        k.jobs._dispatcher.queues["default"].is_paused = True
        k.jobs.schedule(getattr(once, kind)("end"))

        def refuse(*_: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(k._storage, "_write", refuse)
        k.jobs._dispatcher.queues["default"].is_paused = False
        k.jobs._wake()
        eventually(lambda: k._storage.failed is not None)
        with pytest.raises(StoreFailed):
            k.handle(once.enter("Ada"), TESTER)
    assert once.ran == []
    monkeypatch.undo()
    with once.app.open(tmp_path / "store") as k:
        idle(k)
    assert len(once.ran) == 1


# --- commands of jobs ---------------------------------------------------------------------------------


def test_a_job_killed_after_each_of_its_steps_does_each_once(tmp_path: Path) -> None:
    works, steps = works_of(tmp_path), 6
    for _ in range(steps):
        assert run(tmp_path, "steps") == KILLED
    # What was done before the last kill, and by then known to the store's table of tokens.
    with works.app.open(tmp_path / "store", job_threads=0):
        pass
    assert used_tokens(tmp_path / "store") == steps
    assert run(tmp_path, "steps") == ENDED
    lines = works.lines()
    assert len({line for line in lines if line.startswith("key")}) == 1
    done = [line for line in lines if line.endswith("done")]
    assert done == [f"step {number} done" for number in range(steps)]
    assert lines.count("step 0 repeated") == steps
    with works.app.open(tmp_path / "store", job_threads=0) as k:
        assert ended(k) == (1, 0, 0)
        balances = {owner: balance for owner, balance, _ in works.contents(k).values()}
        # The named steps are those of the attempt that did them first.
        assert balances == {
            **{f"A{i}": 500 for i in range(2, ACCOUNTS)},
            "A0": 500 + 1 + 10 - 3 + 500,
            "A1": 503,
            "new": 0,
            "named 5": 0,
        }
    assert used_tokens(tmp_path / "store") == 0


class Repeating(Bank):
    """A job that gives the commands of its next list in each attempt, and fails in all but the last."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts: list[list[Any]] = []
        self.outcomes: list[Any] = []

        @self.app.job(max_attempts=10, retry=lambda attempt, error: timedelta(0))
        def repeat(job: JobRun) -> None:
            for asked in self.attempts.pop(0):
                command, step = asked if isinstance(asked, tuple) else (asked, None)
                try:
                    result = job.handle(command, step=step)
                except klerk.KlerkError as error:
                    self.outcomes.append(error)
                else:
                    self.outcomes.append("repeated" if result.repeated else "done")
            if self.attempts:
                raise ZeroDivisionError

        @self.app.job(max_attempts=10, retry=lambda attempt, error: timedelta(0))
        async def repeat_soon(job: JobRun) -> None:
            results = await asyncio.gather(*(job.handle_async(each) for each in self.attempts.pop(0)))
            self.outcomes += ["repeated" if result.repeated else "done" for result in results]
            if self.attempts:
                raise ZeroDivisionError

        self.repeat, self.repeat_soon = repeat, repeat_soon

    def run(self, *attempts: list[Any], balance: int = 100) -> tuple[list[Any], list[int]]:
        """Run attempts with these commands; return their outcomes, and the balances of all accounts then."""
        self.attempts = list(attempts)
        with self.app.open() as k:
            k.handle_all([self.enter("Ada", balance), self.enter("Bob", balance)], TESTER)
            k.jobs.schedule(self.repeat())
            idle(k)
            eventually(lambda: ended(k) == (1, 0, 0))
            assert k.jobs.live() == ()
            return self.outcomes, [balance for _, balance, _ in self.contents(k).values()]


@pytest.fixture
def repeating() -> Repeating:
    return Repeating()


ADA, BOB = Ref[Account](1), Ref[Account](2)


def test_a_list_that_has_shifted_neither_doubles_nor_loses(repeating: Repeating) -> None:
    to_ada, to_bob = repeating.deposit(ADA, 1), repeating.deposit(BOB, 1)
    outcomes, balances = repeating.run([to_bob], [to_ada, to_bob], [to_bob, to_ada])
    assert outcomes == ["done", "done", "repeated", "repeated", "repeated"]
    assert balances == [101, 101]


def test_references_among_the_parameters_tell_commands_apart(repeating: Repeating) -> None:
    there, back = repeating.transfer(ADA, BOB, 10), repeating.transfer(BOB, ADA, 1)
    enter = [repeating.enter("Eve", 0, ADA), repeating.enter("Dan", 0, BOB)]
    outcomes, balances = repeating.run([there, enter[0]], [back, there, enter[1], enter[0]])
    assert outcomes == ["done", "done", "done", "repeated", "done", "repeated"]
    assert balances == [91, 109, 0, 0]


def test_a_command_asked_for_several_times_takes_effect_as_often(repeating: Repeating) -> None:
    deposit = repeating.deposit(ADA, 1)
    outcomes, balances = repeating.run([deposit] * 2, [deposit] * 3)
    assert outcomes == ["done"] * 2 + ["repeated"] * 2 + ["done"]
    assert balances == [103, 100]


def test_other_parameters_do_not_count_where_there_is_a_target(repeating: Repeating) -> None:
    """What is due may depend on the balance, which the first attempt has changed."""
    outcomes, balances = repeating.run([repeating.deposit(ADA, 1)], [repeating.deposit(ADA, 50)])
    assert (outcomes, balances) == (["done", "repeated"], [101, 100])


def test_a_creation_with_other_parameters_is_a_conflict_unless_it_is_named(repeating: Repeating) -> None:
    first, other = repeating.enter("Eve", 1), repeating.enter("Eva", 2)
    outcomes, balances = repeating.run([first], [other], [first])
    assert outcomes[0] == "done"
    assert isinstance(outcomes[1], Conflict)
    assert outcomes[1].code == "token_reused"
    assert "step=" in str(outcomes[1].hint)
    assert outcomes[2] == "repeated"
    assert balances == [100, 100, 1]
    repeating.outcomes.clear()
    outcomes, balances = repeating.run([(first, "new")], [(other, "new")])
    assert (outcomes, balances) == (["done", "repeated"], [100, 100, 1])


def test_a_refused_command_that_is_asked_for_again_is_the_same_step(repeating: Repeating) -> None:
    take, give = repeating.withdraw(ADA, 10), repeating.deposit(ADA, 10)
    outcomes, balances = repeating.run([take, give, take], [take, give, take], balance=5)
    assert isinstance(outcomes[0], klerk.Rejected)
    assert outcomes[1:5] == ["done", "done", "repeated", "repeated"]
    # The second attempt had no reason to ask once more, and did.
    assert isinstance(outcomes[5], klerk.Rejected)
    assert balances == [5, 5]


def test_attempts_with_any_commands_take_effect_as_often_as_one_asked(
    repeating: Repeating, rng: random.Random
) -> None:
    """Each attempt asks for its own list. What was asked for more often than before is done, nothing else."""
    for _ in range(30):
        repeating.outcomes.clear()
        attempts = [
            [rng.choice((ADA, BOB)) for _ in range(rng.randrange(6))] for _ in range(rng.randrange(1, 5))
        ]
        commands = [[repeating.deposit(ref, 1) for ref in refs] for refs in attempts]
        _, balances = repeating.run(*commands)
        assert balances == [100 + max(refs.count(ref) for refs in attempts) for ref in (ADA, BOB)], attempts


@pytest.mark.parametrize("other", ["event", "target", "values"])
def test_one_name_for_two_commands_of_an_attempt_is_refused(repeating: Repeating, other: str) -> None:
    command = {
        "event": repeating.withdraw(ADA, 1),
        "target": repeating.deposit(BOB, 1),
        "values": repeating.deposit(ADA, 2),
    }[other]
    first = repeating.deposit(ADA, 1)
    outcomes, balances = repeating.run([(first, "pay"), (command, "pay"), (first, "pay")])
    assert (outcomes[0], outcomes[2]) == ("done", "repeated")
    assert isinstance(outcomes[1], ArgumentError)
    assert "Give each step" in str(outcomes[1].hint)
    assert balances == [101, 100]


def test_a_name_whose_command_was_refused_is_free(repeating: Repeating) -> None:
    take = [(repeating.withdraw(ADA, 500), "take"), (repeating.withdraw(ADA, 50), "take")]
    outcomes, balances = repeating.run(take, take[:1])
    assert isinstance(outcomes[0], klerk.Rejected)
    # Whatever is asked for under the name now, the first attempt has done it.
    assert outcomes[1:] == ["done", "repeated"]
    assert balances == [50, 100]


@pytest.mark.parametrize("name", ["", "x" * 501, 5, b"x"])
def test_a_step_needs_a_name(repeating: Repeating, name: Any) -> None:
    outcomes, balances = repeating.run([(repeating.deposit(ADA, 1), name)])
    assert isinstance(outcomes[0], ArgumentError)
    assert balances == [100, 100]


def test_commands_of_one_task_beside_the_other_are_told_apart(repeating: Repeating) -> None:
    """The same command twice at once is two commands, although none has an outcome yet."""
    commands = [repeating.deposit(ADA, 1)] * 5 + [repeating.deposit(BOB, 1)]
    repeating.attempts = [commands, [*commands, commands[0]]]
    with repeating.app.open() as k:
        k.handle_all([repeating.enter("Ada"), repeating.enter("Bob")], TESTER)
        k.jobs.schedule(repeating.repeat_soon())
        idle(k)
        eventually(lambda: ended(k) == (1, 0, 0))
        assert [balance for _, balance, _ in repeating.contents(k).values()] == [6, 1]
    assert repeating.outcomes == ["done"] * 6 + ["repeated"] * 6 + ["done"]


def test_jobs_do_not_take_each_others_steps(repeating: Repeating) -> None:
    deposit = repeating.deposit(ADA, 1)
    repeating.attempts = [[(deposit, "pay"), deposit], []]
    with repeating.app.open(job_threads=1) as k:
        k.handle(repeating.enter("Ada"), TESTER)
        k.jobs.schedule(repeating.repeat())
        idle(k)
        eventually(lambda: ended(k) == (1, 0, 0))
        repeating.attempts = [[(deposit, "pay"), deposit]]
        k.jobs.schedule(repeating.repeat())
        eventually(lambda: ended(k) == (2, 0, 0))
        assert repeating.contents(k)[1][1] == 4


def test_tokens_live_as_long_as_their_job(works: Works, tmp_path: Path) -> None:
    """Not as long as other tokens, and no longer; ended by success or not, and across restarts."""
    store, clock, outcomes = tmp_path / "store", Clock(), []

    @works.app.job(max_attempts=3)
    def long(job: JobRun, fails: bool) -> None:
        outcomes.append(job.handle(works.deposit(ADA, 1)).repeated)
        if len(outcomes) < 3:
            raise Snooze(timedelta(days=10))
        if fails:
            raise klerk.Discard

    for fails in (False, True):
        outcomes.clear()
        for turn in range(3):
            with works.app.open(store, clock=clock, token_ttl=timedelta(days=1)) as k:
                if not k.sequence:
                    k.handle(works.enter("Ada"), TESTER)
                k.handle(works.deposit(ADA, 100), TESTER, token=k.token())
                if turn == 0:
                    k.jobs.schedule(long(fails))
                idle(k)
                eventually(lambda expected=turn + 1: len(outcomes) == expected)
            # One that failed may be tried again.
            expected = 1 if turn < 2 or fails else 0
            # The other token is of the last day.
            assert used_tokens(store) == expected + 1
            clock.advance(timedelta(days=10))
        assert outcomes == [False, True, True]
    with works.app.open(store, clock=clock) as k:
        assert tuple(k.jobs.totals().values()) == (1, 1, 0)
        assert works.contents(k)[1][1] == 602


def test_tokens_of_an_ended_job_leave_when_its_end_was_not_applied(tmp_path: Path) -> None:
    """After a kill the end of the log is applied again, tokens and all; their job has ended."""
    assert run(tmp_path, "paying") == KILLED
    works = works_of(tmp_path)
    with works.app.open(tmp_path / "store", job_threads=0) as k:
        assert tuple(k.jobs.totals().values()) == (1, 1, 0)
        assert works.contents(k)[1][1] == 502
    assert used_tokens(tmp_path / "store") == 0


def test_an_attempt_that_is_over_handles_nothing(repeating: Repeating) -> None:
    kept: list[JobRun] = []

    @repeating.app.job()
    def keep(job: JobRun) -> None:
        kept.append(job)

    with repeating.app.open() as k:
        k.handle(repeating.enter("Ada"), TESTER)
        k.jobs.schedule(keep())
        idle(k)
        with pytest.raises(JobCancelled, match="is over"):
            kept[0].handle(repeating.deposit(ADA, 1))
        assert repeating.contents(k)[1][1] == 0


def test_the_tokens_of_a_job_with_many_commands_are_dropped_bit_by_bit(
    works: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.JOB_TOKENS_DROPPED_AT_ONCE", 3)

    @works.app.job()
    def many(job: JobRun) -> None:
        for _ in range(10):
            job.handle(works.deposit(ADA, 1))

    with works.app.open(tmp_path / "store") as k:
        k.handle(works.enter("Ada"), TESTER)
        k.jobs.schedule(many())
        eventually(lambda: ended(k) == (1, 0, 0))
    assert used_tokens(tmp_path / "store") == 7
    with works.app.open(tmp_path / "store", job_threads=0):
        pass
    assert used_tokens(tmp_path / "store") == 0


# --- effects outside, and the command that a job ends with --------------------------------------------


def test_the_idempotency_key_is_of_one_job_of_one_store(works: Works, tmp_path: Path) -> None:
    keys: list[str] = []

    @works.app.job(max_attempts=2, retry=lambda attempt, error: timedelta(0))
    def effect(job: JobRun) -> None:
        keys.append(job.idempotency_key)
        if job.attempt == 1:
            raise ZeroDivisionError

    for name in ("store", "other"):
        with works.app.open(tmp_path / name) as k:
            k.jobs.schedule(effect(), effect())
            eventually(lambda: ended(k) == (2, 0, 0))
            (record,) = k.jobs.schedule(effect().after(timedelta(days=1)))
            again = msgspec.structs.replace(record, renewals=1)
            assert k._hosting.idempotency_key_for_job(record) != k._hosting.idempotency_key_for_job(again)
    assert len(keys) == 8
    assert len(set(keys)) == 4
    assert all(len(key) == 32 and key.isalnum() for key in keys)


@pytest.mark.timeout(60)
def test_a_closing_command_and_the_end_of_its_job_are_both_or_none(
    tmp_path: Path, rng: random.Random
) -> None:
    works, completed = works_of(tmp_path), 0
    for _ in range(3):
        if completed == CLOSINGS:
            break
        command = [
            sys.executable,
            "-m",
            "crashing",
            str(tmp_path / "store"),
            str(tmp_path / "ledger"),
            "closing",
        ]
        with subprocess.Popen(command, cwd=tmp_path, env=python_environment()) as process:
            time.sleep(rng.uniform(0.25, 0.5))
            process.kill()
        if not (tmp_path / "store" / layout.MARKER).exists():
            continue
        with works.app.open(tmp_path / "store", job_threads=0) as k:
            if k.sequence == 0:
                continue
            completed = k.jobs.counts()[JobState.COMPLETED]
            assert works.contents(k)[1][1] == 500 + completed
    assert run(tmp_path, "closing") == ENDED
    with works.app.open(tmp_path / "store", job_threads=0) as k:
        assert ended(k) == (CLOSINGS, 0, 0)
        assert works.contents(k)[1][1] == 500 + CLOSINGS

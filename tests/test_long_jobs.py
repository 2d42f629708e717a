"""Long jobs: state that survives attempts, restarts and kills; progress and signs of life; reads.

Jobs that are in the middle of something wait for events of the test; where time matters, the clock is the
test's own. Every promise is held in plain functions and in coroutines.
"""

import asyncio
import dataclasses
import signal
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from designs import NOON, TESTER, Account, Bank, Brake, Clock, Spawned, eventually, processed, run_python

import klerk
from klerk import (
    ArgumentError,
    InvalidValue,
    JobCancelled,
    JobError,
    JobRun,
    JobState,
    LimitExceeded,
    ReadLockHeld,
    Ref,
)

MINUTE = timedelta(minutes=1)
NOON_US = int(NOON.timestamp()) * 1_000_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set at once."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def completed(k: klerk.Klerk) -> int:
    return k.jobs.counts()[JobState.COMPLETED]


class Works(Bank):
    """A bank with a job, plain or a coroutine, that does what the test says and can save its state."""

    def __init__(self, kind: str, body: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        self.runs: list[JobRun] = []
        if kind == "plain":

            @self.app.job(**options)
            def work(job: JobRun) -> Any:
                self.runs.append(job)
                return body(job, job.checkpoint)

            self.work = work
        else:

            @self.app.job(**options)
            async def work_async(job: JobRun) -> Any:
                self.runs.append(job)
                loop = asyncio.get_running_loop()

                def save(state: Any) -> None:
                    asyncio.run_coroutine_threadsafe(job.checkpoint_async(state), loop).result(20)

                return await asyncio.to_thread(body, job, save)

            self.work = work_async


BOTH = pytest.mark.parametrize("kind", ["plain", "coroutine"])


# --- state --------------------------------------------------------------------------------------------


@BOTH
def test_the_next_attempt_goes_on_where_the_last_one_was(tmp_path: Path, kind: str) -> None:
    seen: list[Any] = []

    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        seen.append(job.state)
        done = job.state or 0
        for number in range(done, 6):
            if number == 2 * job.attempt:
                raise ConnectionError(f"at {number}")
            save(number + 1)
            assert job.state == number + 1
            seen.append(f"did {number}")

    def works() -> Works:
        return Works(kind, body, retry=lambda attempt, error: MINUTE, max_attempts=5)

    clock = Clock()
    first = works()
    with first.app.open(tmp_path / "store", clock=clock) as k:
        k.jobs.schedule(first.work())
        idle(k)
        assert seen == [None, "did 0", "did 1"]
    # Also in another process.
    again = works()
    with again.app.open(tmp_path / "store", clock=clock) as k:
        clock.advance(MINUTE)
        eventually(lambda: k.jobs.get(1).attempt == 2)
        assert seen[3:] == [2, "did 2", "did 3"]
        clock.advance(MINUTE)
        eventually(lambda: completed(k) == 1)
        assert seen[6:] == [4, "did 4", "did 5"]
        end = again.runs[-1]._running.end
        assert end is not None
        assert (end.state, end.checkpoint) == (JobState.COMPLETED, b"")


class Place(msgspec.Struct, frozen=True):
    page: int
    since: datetime


@dataclasses.dataclass
class Page:
    number: int


@pytest.mark.parametrize(
    ("state", "plain", "cls"),
    [
        (Place(3, NOON), {"page": 3, "since": NOON}, Place),
        (Page(5), {"number": 5}, Page),
        ({"a": [1, 2.5, None, True, "ø", b"\0"]}, {"a": [1, 2.5, None, True, "ø", b"\0"]}, dict),
        ((1, 2), [1, 2], tuple),
        ({1, 2}, [1, 2], set),
        ({3: "x"}, {3: "x"}, dict),
        ("", "", str),
        (0, 0, int),
        (-(2**63), -(2**63), int),
        (None, None, dict),
        (NOON, NOON, datetime),
    ],
)
def test_states_of_every_type(state: Any, plain: Any, cls: type[Any]) -> None:
    found: list[Any] = []

    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        if job.attempt == 1:
            save(state)
            raise ValueError("again")
        found.extend([job.state, job.state_as(cls)])

    works = Works("plain", body, retry=lambda attempt, error: timedelta(0))
    with works.app.open() as k:
        k.jobs.schedule(works.work())
        eventually(lambda: completed(k) == 1)
    assert found == [plain, state]


def test_a_state_is_the_jobs_own() -> None:
    """What it does to what it saved or read changes nothing that is saved."""
    found: list[Any] = []

    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        state = {"list": [1]}
        save(state)
        state["list"].append(2)
        job.state["list"].append(3)
        found.append(job.state)

    works = Works("plain", body)
    with works.app.open() as k:
        k.jobs.schedule(works.work())
        idle(k)
    assert found == [{"list": [1]}]


def endless() -> list[Any]:
    state: list[Any] = []
    state.append(state)
    return state


@BOTH
def test_what_cannot_be_saved_is_refused_and_nothing_changes(kind: str) -> None:
    refused: list[Any] = []

    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        save("kept")
        with job.read() as r:
            (account,) = r.list(works.accounts)
        for wrong, error in (
            (object(), ArgumentError),
            (lambda: None, ArgumentError),
            (2**64, ArgumentError),
            (endless(), ArgumentError),
            ("\ud800", ArgumentError),
            (account, ArgumentError),
            ({"x": {1: job}}, ArgumentError),
            ("x" * 128 * 1024, LimitExceeded),
        ):
            with pytest.raises(error, match="checkpoint"):
                save(wrong)
            refused.append(job.state)
        with pytest.raises(InvalidValue, match="is no Place"):
            job.state_as(Place)
        save("x" * (128 * 1024 - 5))

    works = Works(kind, body, max_attempts=1)
    with works.app.open() as k:
        k.handle(works.enter("Ada"), TESTER)
        k.jobs.schedule(works.work())
        idle(k)
        assert completed(k) == 1
    assert refused == ["kept"] * 8


KILLED = """
import os, signal, sys
import klerk

app = klerk.App("bank")

@app.job()
def work(job):
    assert job.state is None
    for number in range(1, 4):
        job.log(f"did {number}")
        job.progress(number, 9)
        job.checkpoint({"number": number})
    job.log("not saved")
    os.kill(os.getpid(), signal.SIGKILL)

with app.open(sys.argv[1], durability="process") as k:
    k.jobs.schedule(work())
    k.jobs.wait_until_idle(20)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_state_survives_a_kill(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    result = run_python(str(script), str(tmp_path / "store"), cwd=tmp_path)
    assert result.returncode == -signal.SIGKILL, result.stderr
    found: list[Any] = []

    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        found.append(job.state)

    works = Works("plain", body)
    with works.app.open(tmp_path / "store", job_threads=0) as k:
        record = k.jobs.get(1)
        assert record.log == ("did 1", "did 2", "did 3")
        assert (record.done, record.total, record.attempt) == (3, 9, 0)
    with works.app.open(tmp_path / "store") as k:
        idle(k)
        assert completed(k) == 1
    assert found == [{"number": 3}]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_job_that_runs_at_most_once_may_save(tmp_path: Path) -> None:
    """That it started is durable: storing what it saved does not take that back."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED.replace("@app.job()", "@app.job(at_most_once=True)"), encoding="utf-8")
    result = run_python(str(script), str(tmp_path / "store"), cwd=tmp_path)
    assert result.returncode == -signal.SIGKILL, result.stderr
    works = Works("plain", lambda job, save: None, at_most_once=True)
    with works.app.open(tmp_path / "store") as k:
        idle(k)
        record = k.jobs.get(1)
        assert (record.state, record.log[-1]) == (JobState.DISCARDED, "did 3")
        assert msgspec.msgpack.decode(record.checkpoint) == {"number": 3}
    assert works.runs == []


@BOTH
def test_a_job_that_saves_runs_once(kind: str) -> None:
    """Saving stores the job anew while it runs: nobody may take it for ready, or for ended."""
    ran: list[int] = []

    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        ran.append(job.id)
        for number in range(5):
            save(number)

    works = Works(kind, body)
    with works.app.open(job_threads=4) as k:
        created = k.jobs.schedule(*(works.work() for _ in range(40)))
        idle(k)
        assert sorted(ran) == [record.id for record in created]
        assert completed(k) == 40
        assert k.jobs.live() == ()
        assert sum(k.jobs.counts().values()) == 40


def test_saving_within_a_read_is_refused() -> None:
    told: list[str] = []
    bank = Bank()

    @bank.app.job()
    def plain(job: JobRun) -> None:
        with job.read(), pytest.raises(ReadLockHeld):
            job.checkpoint(1)
        job.checkpoint(2)
        told.append("plain")

    @bank.app.job()
    async def coroutine(job: JobRun) -> None:
        async with job.read():
            with pytest.raises(ReadLockHeld):
                await job.checkpoint_async(1)
        # It would stop every other job of the loop, and so it must not wait there.
        with pytest.raises(JobError, match="hold up the event loop"):
            job.checkpoint(2)
        assert job.state is None
        await job.checkpoint_async(3)
        told.append("coroutine")

    with bank.app.open() as k:
        k.jobs.schedule(plain(), coroutine())
        idle(k)
    assert sorted(told) == ["coroutine", "plain"]


def test_others_run_while_a_coroutine_saves() -> None:
    bank = Bank()
    saving, other_ran = threading.Event(), threading.Event()

    @bank.app.job()
    async def save(job: JobRun) -> None:
        saving.set()
        await job.checkpoint_async("x")

    @bank.app.job()
    async def other(job: JobRun) -> None:
        async with job.snapshot() as s:
            assert s.count(bank.accounts) == 0
        other_ran.set()

    clock = Clock()
    with bank.app.open(clock=clock) as k:
        k.jobs.schedule(save())
        assert saving.wait(20)
        idle(k)
        saving.clear()
        waiting = k.jobs.schedule(save().after(MINUTE), other().after(MINUTE))
        with k.read(TESTER):
            # Nothing that is saved becomes visible meanwhile.
            clock.advance(MINUTE)
            assert saving.wait(20)
            assert other_ran.wait(20)
            assert k.jobs.get(waiting[0].id).state is JobState.EXECUTING
        idle(k)
        assert completed(k) == 3


def test_a_job_that_is_asked_to_stop_saves_first() -> None:
    started, go, seen = threading.Event(), threading.Event(), []

    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        if job.attempt == 1:
            save("early")
            started.set()
            assert go.wait(20)
            for act in (job.heartbeat, lambda: job.progress(1), lambda: list(job.track([1]))):
                with pytest.raises(JobCancelled):
                    act()
            try:
                save("late")
            except JobCancelled:
                seen.append(job.state)
                raise

    # A coroutine is interrupted where it awaits something, so it is in its own hands what it saves then.
    works = Works("plain", body)
    with works.app.open() as k:
        k.jobs.schedule(works.work())
        assert started.wait(20)
        assert k.jobs.cancel_running(1)
        go.set()
        idle(k)
        assert k.jobs.counts()[JobState.CANCELLED] == 1
    assert seen == ["late"]
    end = works.runs[0]._running.end
    assert end is not None
    assert msgspec.msgpack.decode(end.checkpoint) == "late"


def test_nobody_saves_for_an_attempt_that_is_over() -> None:
    bank, spawned = Bank(), []
    over = threading.Event()

    @bank.app.job()
    def work(job: JobRun) -> None:
        def later() -> None:
            assert over.wait(20)
            job.checkpoint("too late")

        spawned.append(Spawned(later))

    with bank.app.open() as k:
        k.jobs.schedule(work())
        idle(k)
        sequence = k.sequence
        over.set()
        with pytest.raises(JobError, match="is over"):
            spawned[0].end()
        assert (k.sequence, k.jobs.live(), completed(k)) == (sequence, (), 1)


def test_what_was_saved_is_published_after_the_attempt_is_over() -> None:
    """That the job is stored anew then is no reason to run it anew, while its end is being processed."""
    bank, runs = Bank(), []
    brake = Brake(bank)
    save, end = threading.Event(), threading.Event()

    @bank.app.job()
    def work(job: JobRun, account: Ref[Account]) -> Any:
        def checkpoint() -> None:
            assert save.wait(20)
            job.checkpoint("x")

        runs.append((job, Spawned(checkpoint)))
        assert end.wait(20)
        return job.complete_with(bank.rename(account, "Eve"))

    with bank.app.open(job_threads=2) as k:
        k.jobs.schedule(work(k.handle(bank.enter("Ada"), TESTER).id))
        eventually(lambda: runs)
        spawned = runs[0][1]
        with k.read(TESTER):
            # Processed and written; nothing is published as long as this is held.
            sequence = processed(k)
            save.set()
            eventually(lambda: processed(k) == sequence + 1)
            brake.armed = True
            end.set()
            assert brake.reached.wait(20)
        spawned.end()
        # Long enough for the other worker, if it were given the job.
        threading.Event().wait(0.2)
        brake.go.set()
        idle(k)
        assert len(runs) == 1
        assert (completed(k), k.jobs.live()) == (1, ())
        assert sum(k.jobs.counts().values()) == 1


# --- progress and signs of life -----------------------------------------------------------------------


@BOTH
def test_items_without_a_length_are_counted_as_they_come(kind: str) -> None:
    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        assert list(job.track(number * 2 for number in range(5))) == [0, 2, 4, 6, 8]

    works = Works(kind, body)
    with works.app.open() as k:
        (created,) = k.jobs.schedule(works.work())
        idle(k)
        ended = k.jobs.get(created.id)
        assert (ended.state, ended.done, ended.total) == (JobState.COMPLETED, 5, 0)


@BOTH
def test_what_a_running_job_tells_is_seen_at_once(kind: str) -> None:
    told, go = threading.Event(), threading.Event()

    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        job.log("begun")
        for each in job.track([1, 2, 3]):
            if each == 3:
                job.progress(20, 30)
                job.progress(21)
                told.set()
                assert go.wait(20)
        assert (job.done, job.total) == (22, 30)

    clock = Clock()
    works = Works(kind, body)
    with works.app.open(clock=clock) as k:
        (created,) = k.jobs.schedule(works.work())
        assert told.wait(20)
        running = k.jobs.get(created.id)
        assert (running.state, running.log) == (JobState.EXECUTING, ("begun",))
        assert (running.done, running.total, running.started_us) == (21, 30, NOON_US)
        assert k.jobs.live() == (running,)
        assert k.jobs.counts()[JobState.EXECUTING] == 1
        go.set()
        idle(k)
        assert completed(k) == 1


@pytest.mark.parametrize(
    "wrong", [(-1,), (1.0,), (True,), ("1",), (None,), (2**63,), (1, -1), (1, "2"), (1, 2**63)]
)
def test_progress_is_told_in_whole_numbers(wrong: tuple[Any, ...]) -> None:
    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        job.progress(1, 2)
        with pytest.raises(ArgumentError, match="progress takes whole numbers"):
            job.progress(*wrong)
        assert (job.done, job.total) == (1, 2)
        job.progress(2**63 - 1, 2**63 - 1)

    works = Works("plain", body, max_attempts=1)
    with works.app.open() as k:
        k.jobs.schedule(works.work())
        idle(k)
        assert completed(k) == 1


def test_every_call_is_a_sign_of_life() -> None:
    signs: list[str] = []
    clock = Clock()
    bank = Bank()

    @bank.app.job()
    def work(job: JobRun) -> Any:
        calls: list[tuple[str, Callable[[], Any]]] = [
            ("heartbeat", job.heartbeat),
            ("progress", lambda: job.progress(1)),
            ("log", lambda: job.log("x")),
            ("track", lambda: list(job.track([1]))),
            ("check_cancelled", job.check_cancelled),
            ("checkpoint", lambda: job.checkpoint(1)),
            ("handle", lambda: job.handle(bank.enter("Ada"))),
            ("read", lambda: job.read().__enter__()),
            ("snapshot", job.snapshot),
            ("complete_with", job.complete_with),
        ]
        for name, call in calls:
            clock.advance(MINUTE)
            before = job._running.seen_us
            call()
            if job._running.seen_us == before + 60_000_000:
                signs.append(name)
            job._running.close_readers()
        assert job._running.started_us == NOON_US
        return job._running.completion

    with bank.app.open(clock=clock) as k:
        k.jobs.schedule(work())
        idle(k)
        assert completed(k) == 1
    assert signs == [
        "heartbeat", "progress", "log", "track", "check_cancelled", "checkpoint", "handle", "read",
        "snapshot", "complete_with",
    ]  # fmt: skip


def test_when_an_attempt_began_is_recorded(tmp_path: Path) -> None:
    clock = Clock()

    def body(job: JobRun, save: Callable[[Any], None]) -> None:
        clock.advance(MINUTE * 2)
        raise ValueError("x")

    works = Works("plain", body, retry=lambda attempt, error: MINUTE)
    with works.app.open(tmp_path / "store", clock=clock) as k:
        k.jobs.schedule(works.work())
        eventually(lambda: k.jobs.get(1).attempt == 1)
        assert k.jobs.get(1).started_us == NOON_US
        assert k.jobs.get(1).run_at_us == NOON_US + 3 * 60_000_000
    with works.app.open(tmp_path / "store", clock=clock, job_threads=0) as k:
        assert k.jobs.get(1).started_us == NOON_US


# --- reading ------------------------------------------------------------------------------------------


def test_a_snapshot_in_a_job(tmp_path: Path) -> None:
    """It shows one moment, while the job's own commands go on; one left open is closed with the attempt."""
    bank, seen = Bank(), []
    left_open: list[Any] = []

    @bank.app.job()
    def plain(job: JobRun, account: Ref[Account]) -> None:
        with job.snapshot() as s:
            for _ in range(3):
                job.handle(bank.deposit(account, 1))
            seen.append((s.get(account).balance, s.context.actor.id))
        with pytest.raises(klerk.ReaderClosed):
            s.get(account)
        left_open.append(job.snapshot().__enter__())

    @bank.app.job()
    async def coroutine(job: JobRun, account: Ref[Account]) -> None:
        async with job.snapshot() as s:
            await job.handle_async(bank.deposit(account, 1))
            seen.append((s.get(account).balance, s.context.actor.id))
        left_open.append(await job.snapshot().__aenter__())
        raise klerk.Discard

    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 5), TESTER).id
        k.jobs.schedule(plain(ada))
        idle(k)
        k.jobs.schedule(coroutine(ada))
        idle(k)
        assert seen == [(5, "job plain 1"), (8, "job coroutine 2")]
        for snapshot in left_open:
            with pytest.raises(klerk.ReaderClosed):
                snapshot.get(ada)


@BOTH
def test_a_read_that_takes_long_is_told(
    kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = Bank()

    @bank.app.job()
    def plain(job: JobRun) -> None:
        with job.read() as r:
            r.count(bank.accounts)

    @bank.app.job()
    async def coroutine(job: JobRun) -> None:
        async with job.read() as r:
            r.count(bank.accounts)

    request = plain() if kind == "plain" else coroutine()
    with bank.app.open() as k:
        monkeypatch.setattr("klerk.limits.JOB_READ_WARN_S", 1_000.0)
        k.jobs.schedule(request)
        idle(k)
        assert "read lock" not in caplog.text
        # However short it is, it takes longer than this.
        monkeypatch.setattr("klerk.limits.JOB_READ_WARN_S", -1.0)
        k.jobs.schedule(request)
        idle(k)
        told = [each for each in caplog.records if "read lock" in each.getMessage()]
        assert len(told) == 1
        assert told[0].levelname == "WARNING"
        assert f"job 2 ({request.job}) held the read lock for 0.0 s" in told[0].getMessage()


def test_a_read_left_open_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.JOB_READ_WARN_S", -1.0)
    bank = Bank()

    @bank.app.job()
    def careless(job: JobRun) -> None:
        job.read().__enter__()

    with bank.app.open() as k:
        k.jobs.schedule(careless())
        idle(k)
        k.handle(bank.enter("Ada"), TESTER)
    texts = [each.getMessage() for each in caplog.records]
    assert sum("held the read lock" in text for text in texts) == 1
    assert sum("left a reader open" in text for text in texts) == 1

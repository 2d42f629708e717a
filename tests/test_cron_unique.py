"""Cron jobs that are unique: each time is dealt with once, also when a job that is there stands for it.

The one job waits for the test, so that times come while it runs. Stores are closed and opened, or copied at
any moment, as a killed process leaves them; then the job ends, so that nothing stands in the way of a time
that would be dealt with again.
"""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Clock, eventually, run_python

import klerk
from klerk import App, JobRun, Unique

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set at once."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


class Night:
    """An app with one unique cron job, which notes its time and then waits for the test."""

    def __init__(self, clock: Clock, cron: str = "0 * * * *", unique: Unique | None = None) -> None:
        self.clock = clock
        self.ran: list[str] = []
        self.go = threading.Event()
        self.app = App("night")
        self.app.allow.log()(lambda a: True)

        @self.app.job(cron=cron, unique=unique or Unique(), missed="all")
        def tick(job: JobRun) -> None:
            assert job.tick is not None
            self.ran.append(f"{job.tick:%H:%M}")
            assert self.go.wait(20)

        @self.app.job()
        def nothing(job: JobRun) -> None: ...

        self.tick, self.nothing = tick, nothing

    def open(self, path: Path | None, **options: Any) -> klerk.Klerk:
        return self.app.open(path, clock=self.clock, job_threads=1, close_wait=timedelta(0.05), **options)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def night(clock: Clock) -> Iterator[Night]:
    night = Night(clock)
    yield night
    night.go.set()


def dealt_with(k: klerk.Klerk) -> list[str]:
    """Return the times that got no job, as the commit log has them, oldest first."""
    entries = k.log(TESTER, event="cron tick", limit=100).entries
    commands = [entry.commands[0].parameters for entry in entries]
    moments = [datetime.fromtimestamp(each["tick_us"] / 1e6, UTC) for each in commands]
    return [f"{moment:%H:%M}" for moment in reversed(moments)]


def times_while_it_runs(night: Night, k: klerk.Klerk, hours: int) -> None:
    """Let the job of the next time begin, and more times come while it runs."""
    night.clock.advance(HOUR)
    eventually(lambda: night.ran)
    for hour in range(hours):
        night.clock.advance(HOUR)
        eventually(lambda hour=hour: len(dealt_with(k)) > hour)


def finished(night: Night, path: Path) -> int:
    """Open a store, let everything in it end that there is, and return how many jobs there were ever."""
    again = Night(night.clock)
    again.go.set()
    with again.open(path) as k:
        # The times that were missed were dealt with before this, if they are dealt with.
        k.jobs.schedule(again.nothing())
        assert k.jobs.wait_until_idle(20)
        return len(k.jobs.query(kind="tick"))


def test_a_time_for_which_a_job_stood_is_not_dealt_with_again(night: Night, tmp_path: Path) -> None:
    store, copy = tmp_path / "store", tmp_path / "copy"
    with night.open(store) as k:
        times_while_it_runs(night, k, 3)
        k.checkpoint(copy)
        assert dealt_with(k) == ["14:00", "15:00", "16:00"]
        night.go.set()
        assert k.jobs.wait_until_idle(20)
    assert night.ran == ["13:00"]
    assert finished(night, store) == 1
    assert finished(night, copy) == 1
    night.clock.advance(HOUR)
    assert finished(night, store) == 2


def test_times_that_were_missed_together(night: Night, tmp_path: Path) -> None:
    """The first of them gets a job, which stands for the others; the next start finds nothing to do."""
    store = tmp_path / "store"
    with night.open(store):
        pass
    night.clock.advance(HOUR * 5)
    for _ in range(3):
        assert finished(night, store) == 1
    with Night(night.clock).open(store) as k:
        assert dealt_with(k) == ["17:00"]


def test_the_log_says_which_job_stood_for_a_time(night: Night, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with night.open(store) as k:
        times_while_it_runs(night, k, 1)
        (entry,) = k.log(TESTER, event="cron tick").entries
        assert (entry.actor.kind, entry.actor.id) == ("system", "cron tick")
        (command,) = entry.commands
        tick_us = int((NOON + 2 * HOUR).timestamp() * 1e6)
        assert command.parameters == {"job": "tick", "tick_us": tick_us, "stood_for_by": 1}
        night.go.set()
        assert k.jobs.wait_until_idle(20)
    printed = run_python("-m", "klerk", "log", str(store), cwd=tmp_path)
    assert "2024-02-29T14:00:00+00:00 of tick, for which job 1 stood" in printed.stdout


def test_one_that_ended_may_stand_for_a_time_too(clock: Clock, tmp_path: Path) -> None:
    night = Night(clock, unique=Unique(within=HOUR * 2))
    night.go.set()
    store, copy = tmp_path / "store", tmp_path / "copy"
    with night.open(store) as k:
        times_while_it_runs(night, k, 1)
        k.checkpoint(copy)
        clock.advance(HOUR)
        eventually(lambda: night.ran == ["13:00", "15:00"])
    clock.advance(-HOUR)
    again = Night(clock, unique=Unique())
    again.go.set()
    with again.open(copy) as k:
        assert k.jobs.wait_until_idle(20)
        clock.advance(HOUR)
        eventually(lambda: again.ran)
    assert again.ran == ["15:00"]


def test_a_changed_expression_means_nothing_for_those_times(night: Night, tmp_path: Path) -> None:
    """Also when it is changed back: what the wrong clock of once dealt with silences nothing any more."""
    store, clock = tmp_path / "store", night.clock
    clock.advance(DAY * 10_000)
    with night.open(store) as k:
        times_while_it_runs(night, k, 2)
        night.go.set()
        assert k.jobs.wait_until_idle(20)
    clock.now = NOON
    for cron in ("30 * * * *", "0 * * * *"):
        with Night(clock, cron).open(store):
            pass
    clock.advance(HOUR)
    assert finished(night, store) == 2


KILLED = """
import os, signal, sys, threading, time
from datetime import datetime, timedelta
import klerk, klerk.limits
klerk.limits.CLOCK_CHECK_S = 0.01
klerk.limits.CHECKPOINT_INTERVAL_S = float(sys.argv[3])

app = klerk.App("night")
now, go = [datetime.fromisoformat(sys.argv[2])], threading.Event()

@app.job(cron="0 * * * *", missed="all", unique=klerk.Unique())
def tick(job):
    go.wait()

with app.open(sys.argv[1], clock=lambda: now[0], durability="process") as k:
    for _ in range(5):
        before, now[0] = k.sequence, now[0] + timedelta(hours=1)
        while k.sequence == before:
            time.sleep(0.01)
    go.set()
    k.jobs.wait_until_idle()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("interval", ["0.0", "60.0"])
def test_a_killed_process_has_dealt_with_what_it_dealt_with(
    night: Night, tmp_path: Path, interval: str
) -> None:
    """Whether that had been written behind the log, or only the log has it."""
    script, store = tmp_path / "killed.py", tmp_path / "store"
    script.write_text(KILLED, encoding="utf-8")
    result = run_python(str(script), str(store), NOON.isoformat(), interval, cwd=tmp_path)
    assert result.returncode < 0, result.stderr
    night.clock.now = NOON + 5 * HOUR
    assert finished(night, store) == 1

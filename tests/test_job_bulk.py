"""Actions on many jobs say how far they have come: to whoever asks, to the log once they take long, and in a
note when they end early. What was done before stays done, each transaction in full.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Bank, Clock, eventually

import klerk
from klerk import ArgumentError, JobState, limits
from klerk.job_creation import JobCreation
from klerk.job_manager.action_work import ActOnJobs


@pytest.fixture
def office() -> Any:
    office = Bank()

    @office.app.job()
    def work(job: klerk.JobRun, number: int) -> None: ...

    office.work = work  # type: ignore[attr-defined]
    return office


def crowd(office: Any, path: Path | None = None, count: int = 2_500) -> klerk.Klerk:
    """Open the app with many jobs for tomorrow."""
    k: klerk.Klerk = office.app.open(path, clock=Clock(), job_threads=0)
    k.jobs.schedule(*map(office.work, range(count)), at=NOON + timedelta(days=400))
    return k


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    records = [each for each in caplog.records if getattr(each, "event", "") == "bulk_action"]
    return [(each.levelname, each.getMessage().rpartition(" in ")[0]) for each in records]


def test_the_running_count_is_offered(office: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with crowd(office) as k:
        for call in (k.jobs.run_all_now, k.jobs.cancel_all, k.jobs.retry_all, k.jobs.discard_all):
            counts: list[int] = []
            states = {"state": "cancelled"} if call == k.jobs.retry_all else {}
            assert call(progress=counts.append, **states) == 2_500
            assert counts == [1_000, 2_000, 2_500]
        assert k.jobs.counts()[JobState.DISCARDED] == 2_500
        nothing: list[int] = []
        assert (k.jobs.cancel_all(progress=nothing.append), nothing) == (0, [])
    # It was over in less than a second.
    assert limits.PROGRESS_AFTER_S > 0.5
    assert told(caplog) == []


def test_the_same_from_asyncio(office: Any) -> None:
    counts: list[int] = []
    with crowd(office) as k:
        assert asyncio.run(k.aio.jobs.cancel_all(progress=counts.append, kind="work")) == 2_500
    assert counts == [1_000, 2_000, 2_500]


def test_what_takes_long_is_logged(
    office: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("klerk.limits.PROGRESS_AFTER_S", 0)
    with crowd(office) as k:
        assert k.jobs.run_all_now() == 2_500
        assert told(caplog) == [
            ("INFO", "run now of many jobs goes on: 1,000 done"),
            ("INFO", "run now of many jobs is over: 2,500 done"),
        ]
        caplog.clear()
        monkeypatch.setattr("klerk.limits.JOB_BULK_TOLD_S", 0)
        assert k.jobs.cancel_all() == 2_500
        assert [text for _, text in told(caplog)] == [
            "cancel of many jobs goes on: 1,000 done",
            "cancel of many jobs goes on: 2,000 done",
            "cancel of many jobs goes on: 2,500 done",
            "cancel of many jobs is over: 2,500 done",
        ]
        last = vars(caplog.records[-1])
        assert (last["action"], last["done"], last["duration_s"] > 0) == ("cancel", 2_500, True)


def test_an_observer_that_fails_ends_it_between_two_transactions(
    office: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def enough(count: int) -> None:
        if count == 2_000:
            raise ZeroDivisionError("enough")

    with crowd(office, tmp_path / "s") as k:
        with pytest.raises(ZeroDivisionError) as caught:
            k.jobs.cancel_all(progress=enough)
        assert caught.value.__notes__[0].startswith("cancel was done to 2,000 jobs before that")
        assert told(caplog) == [
            ("WARNING", "cancel of many jobs ended early with ZeroDivisionError: 2,000 done")
        ]
        assert k.jobs.counts()[JobState.CANCELLED] == 2_000
    with office.app.open(tmp_path / "s", job_threads=0) as k:
        assert k.jobs.counts()[JobState.CANCELLED] == 2_000
        assert k.jobs.cancel_all() == 500


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")
def test_an_interruption_leaves_what_was_done(office: Any, tmp_path: Path) -> None:
    def interrupt(count: int) -> None:
        if count == 1_000:
            os.kill(os.getpid(), signal.SIGINT)

    with crowd(office, tmp_path / "s") as k:
        with pytest.raises(KeyboardInterrupt) as caught:
            k.jobs.discard_all(progress=interrupt)
        (note,) = [each for each in caught.value.__notes__ if "discard was done" in each]
        assert "to 1,000 jobs before that, which stays so" in note
        # Nothing is held by what was interrupted.
        assert k.jobs.discard_all() in (500, 1_500)
        assert k.jobs.counts()[JobState.DISCARDED] == 2_500


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")
def test_what_is_on_its_way_when_interrupted_keeps_workers_off(office: Any) -> None:
    """Otherwise jobs would start that are cancelled by the time they run."""
    ran: list[int] = []
    is_held, may_go = threading.Event(), threading.Event()

    # The next one could start while the read below keeps the action from being published.
    @office.app.job(rate="2/s")
    def slow(job: klerk.JobRun) -> None:
        ran.append(job.id)

    def hold(k: klerk.Klerk) -> None:
        with k.read(TESTER):
            is_held.set()
            assert may_go.wait(20)

    with office.app.open() as k:
        jobs = k.jobs.schedule(*(slow() for _ in range(10)))
        eventually(lambda: k.jobs.counts()[JobState.COMPLETED] == 2)
        reader = threading.Thread(target=hold, args=(k,))
        reader.start()
        assert is_held.wait(20)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            k.jobs.cancel_all(kind=slow)
        time.sleep(0.6)
        assert len(ran) == 2
        may_go.set()
        reader.join()
        assert k.jobs.wait_until_idle(20)
        assert k.jobs.counts(kind=slow)[JobState.CANCELLED] == 8
        # Nothing is held any more.
        assert k.jobs.rerun(jobs[9]).state is JobState.AVAILABLE
        assert k.jobs.wait(jobs[9], 20).state is JobState.COMPLETED


def test_what_had_no_turn_when_interrupted_does_nothing() -> None:
    work = ActOnJobs("cancel", [], lambda _, record: record, None, frozenset(), JobCreation(0, {}))
    assert work.abandon()
    with pytest.raises(klerk.Conflict, match="nobody waits"):
        work.perform(None)


@pytest.mark.parametrize("given", [5, "print", []])
def test_progress_is_told_to_functions(office: Any, given: Any) -> None:
    with crowd(office, count=1) as k:
        with pytest.raises(ArgumentError, match="expected a function for 'progress'") as caught:
            k.jobs.cancel_all(progress=given)
        assert "progress=print" in caught.value.hint
        assert k.jobs.counts()[JobState.SCHEDULED] == 1

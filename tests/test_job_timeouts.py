"""Attempts that take too long or give no sign are stopped, as far as that is possible where they run, and so
are jobs that somebody cancels.

The clock is the test's own: nothing is due before it is set. Jobs, declared in `worked`, hold until they are
told to end.
"""

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import worked
from designs import Clock, eventually, run_python
from worked import DEAD, HOLD, LIMIT, SLOW, app, note, notes

import klerk
from klerk import JobRun, JobState
from klerk._dispatch import microseconds

CLOCK = Clock()
SORTS = ["process", "thread", "loop"]


@pytest.fixture(scope="module")
def k() -> Iterator[klerk.Klerk]:
    with app.open(job_processes=2, clock=CLOCK) as k:
        yield k


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set sooner than in a second; let killed processes clean up in peace."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)
    monkeypatch.setattr("klerk.limits.WORKER_KILL_GRACE_S", 10.0)


def begin(k: klerk.Klerk, job: Any, directory: Path, how: str) -> int:
    """Start a job and return its id once it runs."""
    (record,) = k.jobs.schedule(job(str(directory), "it", how))
    eventually(lambda: "it begins" in notes(directory), 60)
    if job.settings.timeout is not None or job.settings.heartbeat is not None:
        # A process tells that its time begins, which may come here after its note.
        eventually(lambda: not running(k, record.id).is_beginning)
    return record.id


def is_running(k: klerk.Klerk, job_id: int) -> bool:
    return job_id in k.jobs._running


def running(k: klerk.Klerk, job_id: int) -> JobRun:
    """Return an attempt as the job manager has it: nothing else shows when it gave its last sign."""
    return k.jobs._running[job_id]


def ended(k: klerk.Klerk) -> dict[JobState, int]:
    counts = k.jobs.counts()
    return {state: counts[state] for state in (JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED)}


def end_in(k: klerk.Klerk, state: JobState, before: dict[JobState, int]) -> None:
    """Wait until one job more than before has ended, and check how."""
    assert k.jobs.wait_until_idle(60)
    assert {each: count - before[each] for each, count in ended(k).items() if count > before[each]} == {
        state: 1
    }


# --- timeouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", SORTS)
def test_an_attempt_that_takes_too_long_has_failed(
    k: klerk.Klerk, tmp_path: Path, caplog: pytest.LogCaptureFixture, sort: str
) -> None:
    before = ended(k)
    job_id = begin(k, SLOW[sort], tmp_path, "cleans up")
    CLOCK.advance(LIMIT - timedelta(seconds=1))
    time.sleep(0.05)
    assert k.jobs.get(job_id).state == JobState.EXECUTING
    CLOCK.advance(timedelta(seconds=1))
    end_in(k, JobState.DISCARDED, before)
    assert f"job slow_{sort} {job_id} took longer than its timeout of 10 s" in caplog.text
    assert "JobTimeout" in caplog.text
    assert "crash" not in caplog.text
    # It came to clean up, in the process as well: SIGTERM is sent first.
    eventually(lambda: "it cleaned up" in notes(tmp_path), 60)
    assert "it ends" not in notes(tmp_path)


def test_a_process_that_heeds_nothing_is_killed(
    k: klerk.Klerk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.WORKER_KILL_GRACE_S", 0.2)
    before = ended(k)
    begin(k, SLOW["process"], tmp_path, "stuck")
    CLOCK.advance(LIMIT)
    end_in(k, JobState.DISCARDED, before)
    assert "it ends" not in notes(tmp_path)


@pytest.mark.parametrize(("sort", "how"), [("thread", "stuck"), ("loop", "stuck"), ("loop", "blocks")])
def test_what_cannot_be_stopped_is_told_about_once_and_goes_on(
    k: klerk.Klerk, tmp_path: Path, caplog: pytest.LogCaptureFixture, sort: str, how: str
) -> None:
    before = ended(k)
    job_id = begin(k, SLOW[sort], tmp_path, how)
    CLOCK.advance(LIMIT)
    eventually(lambda: running(k, job_id).cancelled)
    time.sleep(0.05)
    assert caplog.messages == []

    def is_noticed() -> bool:
        CLOCK.advance(timedelta(seconds=1))
        return k.jobs.unstoppable() == (job_id,)

    eventually(is_noticed)
    assert "stuck" in [reason.code for reason in k.jobs.why(job_id).reasons]
    CLOCK.advance(timedelta(seconds=60))
    time.sleep(0.05)
    (told,) = caplog.messages
    assert f"job {job_id} (slow_{sort}) goes on" in told
    assert "timeout of 10 s" in told
    assert caplog.records[0].levelno == logging.WARNING
    assert k.jobs.get(job_id).state == JobState.EXECUTING
    note(str(tmp_path), "end")
    # It did its work, in the end.
    end_in(k, JobState.COMPLETED, before)
    assert k.jobs.unstoppable() == ()


@pytest.mark.parametrize("sort", SORTS)
def test_an_attempt_that_ends_in_time_is_left_alone(
    k: klerk.Klerk, tmp_path: Path, caplog: pytest.LogCaptureFixture, sort: str
) -> None:
    before = ended(k)
    begin(k, SLOW[sort], tmp_path, "heeds")
    note(str(tmp_path), "end")
    end_in(k, JobState.COMPLETED, before)
    CLOCK.advance(2 * LIMIT)
    time.sleep(0.05)
    assert caplog.messages == []


def test_each_attempt_has_its_own_time(k: klerk.Klerk, tmp_path: Path) -> None:
    before = ended(k)
    one, two = tmp_path / "one", tmp_path / "two"
    for each in (one, two):
        each.mkdir()
    begin(k, SLOW["thread"], one, "heeds")
    CLOCK.advance(LIMIT / 2)
    second = begin(k, SLOW["thread"], two, "heeds")
    CLOCK.advance(LIMIT / 2)
    eventually(lambda: ended(k) != before)
    assert k.jobs.get(second).state == JobState.EXECUTING
    CLOCK.advance(LIMIT / 2)
    assert k.jobs.wait_until_idle(60)
    assert ended(k)[JobState.DISCARDED] == before[JobState.DISCARDED] + 2


# --- heartbeats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sort", "how"), [("process", "stuck"), ("thread", "late"), ("loop", "silent")])
def test_an_attempt_without_a_sign_has_failed(
    k: klerk.Klerk,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    sort: str,
    how: str,
) -> None:
    monkeypatch.setattr("klerk.limits.WORKER_KILL_GRACE_S", 0.2)
    before = ended(k)
    job_id = begin(k, DEAD[sort], tmp_path, how)
    CLOCK.advance(LIMIT)
    eventually(lambda: not is_running(k, job_id) or running(k, job_id).cancelled)
    # The thread calls its job too late.
    note(str(tmp_path), "late")
    end_in(k, JobState.DISCARDED, before)
    assert f"job dead_{sort} {job_id} gave no sign for longer than its heartbeat of 10 s" in caplog.text


@pytest.mark.parametrize(
    ("sort", "how"),
    [("process", "beats"), ("process", "heeds"), ("thread", "beats"), ("thread", "heeds"), ("loop", "beats")],
)
def test_signs_of_life_are_heeded(k: klerk.Klerk, tmp_path: Path, sort: str, how: str) -> None:
    before = ended(k)
    job_id = begin(k, DEAD[sort], tmp_path, how)
    for _ in range(4):
        CLOCK.advance(LIMIT * 0.6)
        eventually(lambda: running(k, job_id).seen_us == microseconds(CLOCK.now))
    assert k.jobs.get(job_id).state == JobState.EXECUTING
    note(str(tmp_path), "end")
    end_in(k, JobState.COMPLETED, before)


# --- cancelling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sort", SORTS)
def test_a_running_job_is_cancelled(k: klerk.Klerk, tmp_path: Path, sort: str) -> None:
    before = ended(k)
    job_id = begin(k, HOLD[sort], tmp_path, "cleans up")
    assert k.jobs.cancel_running(job_id)
    end_in(k, JobState.CANCELLED, before)
    eventually(lambda: {"it begins", "it cleaned up"} <= notes(tmp_path), 60)
    assert "it ends" not in notes(tmp_path)
    assert not k.jobs.cancel_running(job_id)


def test_a_process_that_does_not_heed_that_is_killed(
    k: klerk.Klerk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.WORKER_KILL_GRACE_S", 0.2)
    before = ended(k)
    job_id = begin(k, HOLD["process"], tmp_path, "stuck")
    assert k.jobs.cancel_running(job_id)
    time.sleep(0.1)
    assert k.jobs.get(job_id).state == JobState.EXECUTING
    CLOCK.advance(timedelta(seconds=5))
    end_in(k, JobState.CANCELLED, before)


@pytest.mark.parametrize("sort", SORTS)
def test_a_cancelled_job_that_does_its_work_is_completed(k: klerk.Klerk, tmp_path: Path, sort: str) -> None:
    before = ended(k)
    job_id = begin(k, HOLD[sort], tmp_path, "stuck")
    assert k.jobs.cancel_running(job_id)
    note(str(tmp_path), "end")
    end_in(k, JobState.COMPLETED, before)


@pytest.mark.parametrize("how", ["error", "raised", "returned"])
def test_a_cancelled_job_is_not_run_again_however_it_ends(k: klerk.Klerk, tmp_path: Path, how: str) -> None:
    before = ended(k)
    (record,) = k.jobs.schedule(worked.end_when_cancelled(str(tmp_path), how))
    eventually(lambda: notes(tmp_path))
    assert k.jobs.cancel_running(record.id)
    end_in(k, JobState.CANCELLED, before)


SLOW_TO_IMPORT = """
import time
from datetime import timedelta
import klerk

time.sleep(1.5)
app = klerk.App("slow to import")

@app.job(executor="process", max_attempts=1, timeout=timedelta(seconds=1), heartbeat=timedelta(seconds=1))
def work(job: klerk.JobRun) -> None:
    job.log("done")
"""


def test_the_time_of_a_job_counts_from_its_function_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from where its process is started, and imports what it needs."""
    # The script imports the module beside it.
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    (tmp_path / "slow.py").write_text(SLOW_TO_IMPORT, encoding="utf-8")
    script = "from slow import app, work\nif __name__ == '__main__':\n    with app.open() as k:\n"
    script += "        (job,) = k.jobs.schedule(work())\n        k.jobs.wait_until_idle(60)\n"
    script += "        print(k.jobs.get(job.id).state.name, k.jobs.get(job.id).error)\n"
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    ran = run_python("script.py", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "COMPLETED \n"), ran.stderr

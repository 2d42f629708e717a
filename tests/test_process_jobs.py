"""Jobs in processes: they get all that jobs get, their errors come back, and what kills one harms no other.

The design stands in `worked`, which worker processes import. One Klerk with its processes serves most tests;
each leaves a directory with notes of what its jobs did. At the end no process is left.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import worked
from designs import TESTER, Bank, Clock, eventually, run_python
from worked import app, die, die_once, end_as_asked, enter, notes, square, use_everything, use_soon

import klerk
from klerk import ConfigError, JobRecord, JobRun, JobState

CLOCK = Clock()


@pytest.fixture(scope="module")
def k() -> Iterator[klerk.Klerk]:
    with app.open(job_processes=2, clock=CLOCK) as k:
        yield k
    assert multiprocessing.active_children() == []


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set sooner than in a second."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def run_to_its_end(k: klerk.Klerk, request: Any) -> tuple[str, JobRecord]:
    """Run a job alone, its waits being over at once; return the state in which it ended, and its last record
    before."""
    before = k.jobs.counts()
    (record,) = k.jobs.schedule(request)
    while (counts := k.jobs.counts())[JobState.COMPLETED] + counts[JobState.DISCARDED] == sum(
        before[state] for state in (JobState.COMPLETED, JobState.DISCARDED)
    ):
        k.jobs.wait_until_idle(0.1)
        for live in k.jobs.live():
            record = live
            if live.state in (JobState.RETRYABLE, JobState.SCHEDULED):
                CLOCK.advance(timedelta(seconds=60))
    (state,) = [state for state in FINAL if counts[state] > before[state]]
    return str(state), record


FINAL = (JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED)


def test_jobs_run_in_processes_that_are_kept(k: klerk.Klerk, tmp_path: Path) -> None:
    k.jobs.schedule(*[square(str(tmp_path), number) for number in range(20)])
    assert k.jobs.wait_until_idle(60)
    told = [text.split(" in ") for text in notes(tmp_path)]
    assert sorted(what for what, _ in told) == sorted(f"{n} squared is {n * n}" for n in range(20))
    processes = {int(pid) for _, pid in told}
    assert os.getpid() not in processes
    assert len(processes) <= 2
    # One job at a time needs no more than one process, whichever thread takes it.
    for number in range(20, 24):
        assert run_to_its_end(k, square(str(tmp_path), number))[0] == "completed"
    assert {int(text.split(" in ")[1]) for text in notes(tmp_path)} == processes


def test_a_job_in_a_process_has_all_that_jobs_have(
    k: klerk.Klerk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ada = k.handle(enter("Ada"), TESTER).id
    k.handle(enter("Bob", 500), TESTER)
    ended, _ = run_to_its_end(k, use_everything(str(tmp_path), ada))
    assert (ended, notes(tmp_path), caplog.messages) == ("completed", {"used"}, [])
    with k.read(TESTER) as r:
        assert (r.get(ada).balance, r.get(ada).meta.state) == (16, worked.closed)


def test_a_coroutine_in_a_process(k: klerk.Klerk, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with k.read(TESTER) as r:
        for each in r.list(worked.accounts):
            assert each.owner in ("Ada", "Bob")
    with app_of_its_own() as other:
        ada = other.handle(enter("Ada"), TESTER).id
        ended, _ = run_to_its_end(other, use_soon(str(tmp_path), ada))
        assert (ended, notes(tmp_path), caplog.messages) == ("completed", {"used soon"}, [])
        with other.read(TESTER) as r:
            assert r.get(ada).balance == 10


def app_of_its_own() -> Any:
    return app.open(job_processes=1, clock=Clock())


@pytest.mark.parametrize(
    ("how", "ended", "attempts", "told"),
    [
        ("nothing", "completed", 1, ""),
        ("snooze", "completed", 1, ""),
        ("own", "discarded", 2, "7 EUR are missing"),
        ("poor", "discarded", 2, "Poor: 7 EUR are missing"),
        ("declared", "discarded", 1, "missing"),
        ("discard", "discarded", 1, ""),
        ("exit", "discarded", 2, "SystemExit: 3"),
        ("interrupt", "discarded", 2, "KeyboardInterrupt: now"),
        ("unsendable", "discarded", 2, "what job 'end_as_asked' returned cannot be sent"),
        ("left open", "completed", 1, "left a reader open"),
    ],
)
def test_however_a_function_ends(
    k: klerk.Klerk,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    how: str,
    ended: str,
    attempts: int,
    told: str,
) -> None:
    assert run_to_its_end(k, end_as_asked(str(tmp_path), how))[0] == ended
    assert notes(tmp_path) - {"snoozed"} == {f"{how} {attempt + 1}" for attempt in range(attempts)}
    assert told in caplog.text
    # Whoever forgot a reader holds up nobody.
    k.handle(enter(f"after {how}"), TESTER)


def test_an_attempt_that_is_over_has_no_part_in_the_next(tmp_path: Path) -> None:
    with app_of_its_own() as k:
        directory = str(tmp_path)
        k.jobs.schedule(end_as_asked(directory, "too late"), worked.hold_process(directory, "next", "heeds"))
        eventually(lambda: "the attempt is over" in notes(tmp_path), 60)
        worked.note(directory, "end")
        assert k.jobs.wait_until_idle(60)
        with k.read(TESTER) as r:
            assert r.count(worked.accounts) == 0


@pytest.mark.parametrize("how", ["exits", "killed", "reading"])
def test_a_job_that_kills_its_process_is_poison(
    k: klerk.Klerk, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    ended, record = run_to_its_end(k, die(str(tmp_path), how))
    assert (ended, record.crashes, record.attempt) == ("discarded", 1, 0)
    assert notes(tmp_path) == {f"{how} 0", f"{how} 1"}
    fate = {"exits": "exit code 0", "killed": "killed by SIGKILL", "reading": "exit code 9"}[how]
    assert f"the worker process died: {fate}" in caplog.text
    assert "poison" in caplog.text
    k.handle(enter(f"after {how}"), TESTER)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_the_end_of_a_process_is_seen_although_what_it_forked_goes_on(tmp_path: Path) -> None:
    with app_of_its_own() as k:
        (job,) = k.jobs.schedule(worked.fork_and_die(str(tmp_path)))
        try:
            eventually(lambda: k.jobs.get(job.id).state is JobState.DISCARDED, 10)
        finally:
            (tmp_path / "end").touch()


def test_a_crash_costs_no_attempt_and_harms_no_other_job(k: klerk.Klerk, tmp_path: Path) -> None:
    (other,) = k.jobs.schedule(worked.hold_process(str(tmp_path), "other", "heeds"))
    eventually(lambda: "other begins" in notes(tmp_path))
    k.jobs.schedule(die_once(str(tmp_path)))
    eventually(lambda: "died" in notes(tmp_path))
    eventually(lambda: any(record.crashes for record in k.jobs.live()))
    CLOCK.advance(timedelta(seconds=60))
    eventually(lambda: "lived in attempt 1" in notes(tmp_path))
    assert k.jobs.get(other.id).state == JobState.EXECUTING
    worked.note(str(tmp_path), "end")
    assert k.jobs.wait_until_idle(60)
    assert "other ends" in notes(tmp_path)


def test_a_job_waits_for_a_worker_with_its_tags(tmp_path: Path) -> None:
    with app.open() as k:
        (record,) = k.jobs.schedule(worked.render(str(tmp_path)))
        k.jobs.schedule(square(str(tmp_path), 2))
        eventually(lambda: notes(tmp_path))
        assert "rendered" not in notes(tmp_path)
        assert k.jobs.get(record.id).state == JobState.AVAILABLE
        assert "gpu" in str(k.jobs.why(record))
    with app.open(worker_tags={"gpu", "large"}) as k:
        k.jobs.schedule(worked.render(str(tmp_path)))
        assert k.jobs.wait_until_idle(60)
        assert "rendered" in notes(tmp_path)


def test_without_such_jobs_no_process_is_started() -> None:
    before = set(threading.enumerate()), set(multiprocessing.active_children())
    with Bank().app.open(job_processes=2):
        new = set(threading.enumerate()) - before[0]
        assert not any(thread.name.startswith("klerk-process") for thread in new)
    with app.open(job_processes=2) as k:
        # One that fails at once, in a thread.
        k.jobs.schedule(worked.hold_thread("/nonexistent", "", ""))
        assert k.jobs.wait_until_idle(60)
        assert set(multiprocessing.active_children()) == before[1]


def test_processes_are_added_while_jobs_run(tmp_path: Path) -> None:
    directory = str(tmp_path)
    with app_of_its_own() as k:
        k.jobs.schedule(*(worked.hold_process(directory, each, "heeds") for each in ("one", "two")))
        eventually(lambda: "one begins" in notes(tmp_path), 60)
        k.jobs.scale_workers(processes=2)
        eventually(lambda: "two begins" in notes(tmp_path), 60)
        k.jobs.scale_workers(processes=1)
        worked.note(directory, "end")
        assert k.jobs.wait_until_idle(60)
    with pytest.raises(klerk.ArgumentError), Bank().app.open() as k:
        k.jobs.scale_workers(processes=1)


# --- what cannot be meant -----------------------------------------------------------------------------


def test_a_function_that_cannot_be_imported_is_refused() -> None:
    bank = Bank()

    @bank.app.job(executor="process")
    def inside(job: JobRun) -> None: ...

    with pytest.raises(ConfigError, match="job 'inside' runs in a process") as refused:
        bank.app.open()
    assert refused.value.code == "K075"
    assert "python -m klerk explain K075" in str(refused.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"job_processes": -1}, "job_processes must be 0 to"),
        ({"worker_tags": "gpu"}, "worker_tags must be a collection"),
        ({"worker_tags": [1]}, "worker_tags must be texts"),
        ({"close_wait": 5}, "close_wait must be a timedelta"),
        ({"close_wait": timedelta(-1)}, "close_wait must be a timedelta"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Bank().app.open(**options)


SCRIPT = """
import klerk, sys
app = klerk.App("script")

class Word(klerk.Model):
    text: str

words = app.machine(Word)
said, = words.states("said")

@words.create(into=said)
def say(a: klerk.Args, text: str) -> Word:
    return Word(text=text)

class Silence(Exception):
    pass

@app.job(executor="process", max_attempts=1, on_error={Silence: klerk.Cancel()})
def shout(job: klerk.JobRun, text: str) -> None:
    result = job.handle(say(text))
    print(result.model, __name__, flush=True)
    raise Silence

def main() -> None:
    with app.open("store") as k:
        k.jobs.schedule(shout("hello"))
        k.jobs.wait_until_idle(60)
        print(k.jobs.counts()[klerk.JobState.CANCELLED])
"""


def test_a_script_has_jobs_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script.py").write_text(f'{SCRIPT}\nif __name__ == "__main__":\n    main()\n')
    shown = "Word(id=1, state='said', text='hello') __mp_main__\n"
    ran = run_python("script.py", cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{shown}1\n", "")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    ran = run_python("-m", "script", cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{shown.replace('id=1', 'id=2')}2\n", "")


def test_a_script_that_opens_wherever_it_is_imported_is_told(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"{SCRIPT}\nmain()\n")
    ran = run_python("script.py", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "0\n")
    assert "K076" in ran.stderr
    assert "a worker process did not come so far" in ran.stderr


def test_code_without_a_file_is_refused(tmp_path: Path) -> None:
    ran = run_python("-c", f"{SCRIPT}\nmain()", cwd=tmp_path)
    assert ran.returncode == 1
    assert "K075" in ran.stderr


# --- the end of the parent ----------------------------------------------------------------------------

KILLED = """
import os, sys, worked
from pathlib import Path
from designs import eventually
k = worked.app.open(job_processes=2)
k.jobs.schedule(worked.hold_process(sys.argv[1], "one", "stuck"), worked.square(sys.argv[1], 2))
eventually(lambda: len(worked.notes(sys.argv[1])) >= 3)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_no_process_outlives_its_parent(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    ran = run_python("-c", KILLED, str(tmp_path / "notes"), cwd=tmp_path)
    assert ran.returncode == -signal.SIGKILL
    processes = [int(text.rpartition(" ")[2]) for text in notes(tmp_path / "notes") if " in " in text]
    assert len(processes) == 2
    eventually(lambda: not any(is_alive(pid) for pid in processes))


def is_alive(pid: int) -> bool:
    try:
        # A dead process that nobody waited for yet is no more than its name.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- forks --------------------------------------------------------------------------------------------

FORKED = """
import os, sys, worked
directory = sys.argv[1]
with worked.app.open(job_processes=1) as k:
    k.jobs.schedule(worked.square(directory, 2))
    assert k.jobs.wait_until_idle(60)
    pid = os.fork()
    if pid == 0:
        sys.exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    k.jobs.schedule(worked.square(directory, 3))
    assert k.jobs.wait_until_idle(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_leaves_the_worker_processes_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    ran = run_python("-c", FORKED, str(tmp_path / "notes"), cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert len({text.rpartition(" ")[2] for text in notes(tmp_path / "notes")}) == 1

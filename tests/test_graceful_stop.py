"""Closing lets jobs end, then stops them, then leaves them to the next start; signals end a worker program.

The programs run in processes of their own and are sent real signals. Their jobs, declared in `worked`, hold
until they are told to end. Whatever is interrupted is in the store afterwards as if it had never started.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import worked
from designs import TESTER, Bank, eventually, python_environment
from worked import HOLD, app, note, notes

import klerk
from klerk import ArgumentError, JobState

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")

BEGIN = """
import signal, sys, threading, time

def begin(k):
    # Not before it is waited for signals: the test sends one as soon as the job runs.
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.01)
    directory, sort, how, _ = sys.argv[1:]
    k.jobs.schedule(HOLD[sort](directory, "it", how))

def begin_soon(k):
    threading.Thread(target=begin, args=(k,)).start()
"""

PROGRAM = """
from datetime import timedelta
import worked
from klerk import limits
from worked import app, HOLD
close_wait = sys.argv[4]
limits.CLOSE_MARGIN_S = 1.0
if __name__ == "__main__":
    with app.open("store", close_wait=timedelta(seconds=float(close_wait))) as k:
        begin_soon(k)
        k.wait_for_signal()
"""

SOON = """
import asyncio
from datetime import timedelta
from worked import app, HOLD
async def main():
    with app.open("store", close_wait=timedelta(seconds=float(sys.argv[4]))) as k:
        begin_soon(k)
        await k.aio.wait_for_signal()
if __name__ == "__main__":
    asyncio.run(main())
"""


class Program:
    """A worker program with one job that holds."""

    def __init__(self, cwd: Path, text: str, sort: str, how: str, close_wait_s: float) -> None:
        self.notes = cwd / "notes"
        self.notes.mkdir()
        (cwd / "program.py").write_text(BEGIN + text)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "program.py", str(self.notes), sort, how, str(close_wait_s)],
            cwd=cwd,
            env=python_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As a terminal and a service manager have it: signals go to all processes of a program.
            start_new_session=True,
        )
        eventually(lambda: "it begins" in notes(self.notes), 60)

    def send(self, number: int, *, to_all: bool = False) -> None:
        if to_all:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end of the program and of all that it started; return its exit code and words."""
        out, err = self.process.communicate(timeout=60)
        eventually(lambda: not is_group(self.process.pid))
        return self.process.returncode, out, err

    def kill(self) -> None:
        if is_group(self.process.pid):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=20)


def is_group(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    started: list[Program] = []
    yield started
    for program in started:
        program.kill()


def left_in(path: Path) -> list[tuple[str, int, int]]:
    """Return kind, attempts and crashes of the jobs that a store holds, which are all to be run."""
    with app.open(path, job_threads=0) as k:
        assert all(record.state == JobState.AVAILABLE for record in k.jobs.live())
        return [(record.kind, record.attempt, record.crashes) for record in k.jobs.live()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("sort", ["process", "thread", "loop"])
def test_a_signal_lets_running_jobs_end(
    tmp_path: Path, programs: list[Program], sort: str, number: int
) -> None:
    program = Program(tmp_path, PROGRAM, sort, "heeds", 30)
    programs.append(program)
    program.send(number, to_all=True)
    time.sleep(0.2)
    assert program.process.poll() is None
    note(str(program.notes), "end")
    assert program.end() == (0, "", "")
    assert "it ends" in notes(program.notes)
    assert left_in(tmp_path / "store") == []


@pytest.mark.parametrize("sort", ["process", "thread", "loop"])
def test_what_does_not_end_is_interrupted_and_runs_again(
    tmp_path: Path, programs: list[Program], sort: str
) -> None:
    program = Program(tmp_path, PROGRAM, sort, "cleans up", 0.1)
    programs.append(program)
    program.send(signal.SIGTERM)
    assert program.end() == (0, "", "")
    assert {"it begins", "it cleaned up"} <= notes(program.notes)
    assert left_in(tmp_path / "store") == [(f"hold_{sort}", 0, 0)]
    note(str(program.notes), "end")
    with app.open(tmp_path / "store") as k:
        assert k.jobs.wait_until_idle(60)
    assert "it ends" in notes(program.notes)


@pytest.mark.parametrize(
    ("sort", "how", "told"),
    [
        ("process", "stuck", ""),
        ("thread", "stuck", "is left running"),
        ("loop", "stuck", "is left running"),
        ("loop", "blocks", "is left running"),
    ],
)
def test_what_is_stuck_ends_with_the_program(
    tmp_path: Path, programs: list[Program], sort: str, how: str, told: str
) -> None:
    program = Program(tmp_path, PROGRAM, sort, how, 0.1)
    programs.append(program)
    program.send(signal.SIGTERM)
    code, out, err = program.end()
    assert (code, out, told in err, bool(err)) == (0, "", True, bool(told))
    assert left_in(tmp_path / "store") == [(f"hold_{sort}", 0, 0)]


@pytest.mark.parametrize("sort", ["process", "thread", "loop"])
def test_a_second_signal_ends_the_wait(tmp_path: Path, programs: list[Program], sort: str) -> None:
    program = Program(tmp_path, PROGRAM, sort, "heeds", 3600)
    programs.append(program)
    program.send(signal.SIGTERM)
    time.sleep(0.3)
    assert program.process.poll() is None
    program.send(signal.SIGINT)
    code, _, _ = program.end()
    assert code == 0
    assert left_in(tmp_path / "store") == [(f"hold_{sort}", 0, 0)]


def test_a_program_of_asyncio_waits_for_signals_too(tmp_path: Path, programs: list[Program]) -> None:
    program = Program(tmp_path, SOON, "thread", "heeds", 30)
    programs.append(program)
    program.send(signal.SIGTERM)
    time.sleep(0.2)
    assert program.process.poll() is None
    note(str(program.notes), "end")
    assert program.end() == (0, "", "")
    assert left_in(tmp_path / "store") == []


# --- closing without a signal -------------------------------------------------------------------------


def test_a_job_that_fails_while_klerk_closes_has_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "notes"
    directory.mkdir()
    with app.open(tmp_path / "store") as k:
        k.jobs.schedule(worked.fail_at_the_end(str(directory)))
        eventually(lambda: notes(directory))
        threading.Timer(0.1, note, (str(directory), "end")).start()
    assert "failed in attempt 1: ZeroDivisionError" in caplog.text
    assert left_in(tmp_path / "store") == []


def test_closing_with_no_patience_interrupts_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "notes"
    directory.mkdir()
    k = app.open(tmp_path / "store", close_wait=timedelta(0), job_processes=1)
    k.jobs.schedule(*(HOLD[sort](str(directory), sort, "heeds") for sort in HOLD))
    eventually(lambda: all(f"{sort} begins" in notes(directory) for sort in HOLD), 60)
    k.close()
    k.close()
    assert not any(f"{sort} ends" in notes(directory) for sort in HOLD)
    assert sorted(left_in(tmp_path / "store")) == sorted((f"hold_{sort}", 0, 0) for sort in HOLD)


@pytest.mark.parametrize("how", ["raised", "returned"])
def test_a_job_that_is_interrupted_may_say_when_it_goes_on(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "notes"
    directory.mkdir()
    with app.open(tmp_path / "store", close_wait=timedelta(0)) as k:
        k.jobs.schedule(worked.end_when_cancelled(str(directory), how))
        eventually(lambda: notes(directory))
    with app.open(tmp_path / "store", job_threads=0) as k:
        (record,) = k.jobs.live()
        assert (record.attempt, record.error) == (0, "some other time" if how == "raised" else "tomorrow")


def test_what_ends_after_closing_is_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.CLOSE_MARGIN_S", 0.1)
    directory = tmp_path / "notes"
    directory.mkdir()
    k = app.open(tmp_path / "store", close_wait=timedelta(0))
    k.jobs.schedule(worked.hold_thread(str(directory), "it", "stuck"))
    eventually(lambda: "it begins" in notes(directory))
    k.close()
    (told,) = caplog.messages
    assert "is left running" in told
    note(str(directory), "end")
    eventually(lambda: not any(thread.name.startswith("klerk-job") for thread in threading.enumerate()))
    assert caplog.messages == [told]
    assert left_in(tmp_path / "store") == [("hold_thread", 0, 0)]


# --- waiting for signals ------------------------------------------------------------------------------


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]


def send_soon(number: int) -> None:
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()


def test_closing_gives_signals_back() -> None:
    before = handlers()
    bank = Bank()
    with bank.app.open() as k:
        assert handlers() == before
        send_soon(signal.SIGUSR1)
        k.wait_for_signal(signal.SIGUSR1)
        # One after the other: the next one is waited for anew.
        send_soon(signal.SIGTERM)
        k.wait_for_signal()
        assert handlers() != before
        k.handle(bank.enter("Ada"), TESTER)
    assert handlers() == before


def test_a_cancelled_task_no_longer_waits() -> None:
    async def main() -> None:
        with Bank().app.open() as k:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(k.aio.wait_for_signal(signal.SIGUSR1), 0.05)
            send_soon(signal.SIGUSR1)
            await asyncio.wait_for(k.aio.wait_for_signal(signal.SIGUSR1), 20)

    before = handlers()
    asyncio.run(main())
    assert handlers() == before


def test_what_cannot_be_waited_for_is_refused() -> None:
    before = handlers()
    with Bank().app.open() as k:
        for wrong in (signal.SIGKILL, 100_000, "TERM"):
            with pytest.raises(ArgumentError, match="cannot be waited for"):
                k.wait_for_signal(signal.SIGUSR1, wrong)  # type: ignore[arg-type]
        assert handlers() == before
        errors: list[BaseException] = []

        def elsewhere() -> None:
            try:
                k.wait_for_signal()
            except ArgumentError as error:
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(20)
        assert "main thread" in str(errors[0])
    with pytest.raises(klerk.Closed):
        k.wait_for_signal()

"""What ends a process, or splits it, loses nothing that was acknowledged and leaves a store that opens.

Every case runs in a process of its own, which says on its standard output how far it has come. After the
kills the same store is used again, so that each has the leftovers of the one before.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, Bank, python_environment, run_python

PRELUDE = """
import asyncio, os, signal, sys, threading
import klerk
from designs import Bank, TESTER
bank = Bank()
"""

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")


def run(body: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_python("-c", PRELUDE + body, cwd=cwd)


def contents(path: Path) -> dict[int, tuple[str, int, str]]:
    bank = Bank()
    with bank.app.open(path) as k:
        found = bank.contents(k)
        # The store is not only readable.
        k.check(bank.enter("somebody new"), TESTER)
    return found


# --- forgetting to close ------------------------------------------------------------------------------

LEFT_OPEN = """
k = bank.app.open("store")
k.handle(bank.enter("Ada"), TESTER)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("k.submit(bank.enter('Bob'), TESTER)", 0),
        ("r = k.read(TESTER); r.__enter__()", 0),
        ("del k", 0),
        ("threading.Thread(target=lambda: k.handle(bank.enter('Bob'), TESTER)).start()", 0),
        ("asyncio.run(k.aio.handle(bank.enter('Bob'), TESTER))", 0),
        ("globals()['cycle'] = k.cycle = [k]", 0),
    ],
)
def test_a_process_that_forgets_to_close_ends_in_order(tmp_path: Path, end: str, code: int) -> None:
    ran = run(LEFT_OPEN + end, tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (code, "", "")
    owners = [owner for owner, _, _ in contents(tmp_path / "store").values()]
    assert owners == (["Ada", "Bob"] if "Bob" in end else ["Ada"])


def test_a_process_that_ends_with_an_exception_keeps_what_it_did(tmp_path: Path) -> None:
    ran = run(LEFT_OPEN + "raise ZeroDivisionError", tmp_path)
    assert ran.returncode == 1
    assert ran.stderr.strip().endswith("ZeroDivisionError")
    assert len(contents(tmp_path / "store")) == 1


def test_a_process_that_ends_at_once_keeps_what_it_did(tmp_path: Path) -> None:
    ran = run(LEFT_OPEN + "os._exit(5)", tmp_path)
    assert (ran.returncode, ran.stderr) == (5, "")
    assert len(contents(tmp_path / "store")) == 1


def test_a_running_job_does_not_keep_the_process(tmp_path: Path) -> None:
    """Closing waits for it, for a bounded time, and leaves it running."""
    body = """
from datetime import timedelta
go = threading.Event()
@bank.app.job()
def endless(job):
    print("runs", flush=True)
    go.wait()
k = bank.app.open("store", close_wait=timedelta(seconds=0.1))
k.jobs.schedule(endless())
while not k.jobs.counts()[klerk.JobState.EXECUTING]:
    pass
"""
    for _ in range(2):
        ran = run(body, tmp_path)
        assert ran.returncode == 0
        assert "runs" in ran.stdout
        assert "does not stop and is left running" in ran.stderr


# --- forks --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    body = """
import warnings
warnings.simplefilter("ignore")
k = bank.app.open("store")
ada = k.handle(bank.enter("Ada"), TESTER).id
child = os.fork()
if not child:
    command = bank.deposit(ada, 1)
    uses = [
        lambda: k.handle(command, TESTER), lambda: k.submit(command, TESTER),
        lambda: k.check(command, TESTER), lambda: k.handle_all([command], TESTER), lambda: k.read(TESTER),
        lambda: k.checkpoint("copy"), k.storage_bytes, lambda: asyncio.run(k.aio.handle(command, TESTER)),
    ]
    for number, use in enumerate(uses):
        try:
            use()
        except klerk.Closed:
            pass
        else:
            os._exit(100 + number)
    k.close()
    sys.exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
k.handle(bank.deposit(ada, 7), TESTER)
k.close()
"""
    ran = run(body, tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0\n", "")
    assert contents(tmp_path / "store") == {1: ("Ada", 7, "active")}


# --- interrupts ---------------------------------------------------------------------------------------

INTERRUPTED = """
k = bank.app.open("store")
if not k.sequence:
    k.handle_all([bank.enter("Ada", 1_000_000), bank.enter("Bob")], TESTER)
done = 0
def work():
    global done
    while True:
        if WAY == "handle":
            k.handle(bank.transfer(1, 2, 1), TESTER)
        elif WAY == "submit":
            futures = [k.submit(bank.transfer(1, 2, 1), TESTER) for _ in range(20)]
            for future in futures:
                future.result()
        else:
            with k.read(TESTER) as r:
                assert sum(r.columns(bank.accounts, "balance")[0]) == 1_000_000
            k.handle(bank.transfer(1, 2, 1), TESTER)
        done += 1
for _ in range(10):
    try:
        print("ready", flush=True)
        work()
    except KeyboardInterrupt:
        # The lock and the queue are as usable as before, for this thread and for others.
        k.handle(bank.transfer(1, 2, 1), TESTER)
        with k.read(TESTER) as r:
            assert r.get(1).balance + r.get(2).balance == 1_000_000
        other = threading.Thread(target=k.handle, args=(bank.transfer(1, 2, 1), TESTER))
        other.start()
        other.join(20)
        assert not other.is_alive()
print(done, flush=True)
k.close()
"""


@needs_signals
@pytest.mark.parametrize("way", ["handle", "submit", "read"])
def test_interrupts_leave_a_consistent_system(tmp_path: Path, rng: random.Random, way: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + f"WAY = {way!r}\n" + INTERRUPTED],
        cwd=tmp_path,
        env=python_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for _ in range(10):
            assert process.stdout.readline() == "ready\n"
            # Anywhere in the loop; there is nothing to wait for but a random while.
            time.sleep(rng.uniform(0.0005, 0.02))
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (0, "")
    found = contents(tmp_path / "store")
    moved = found[2][1]
    assert found[1][1] + moved == 1_000_000
    assert moved >= int(out) + 20


# --- kills --------------------------------------------------------------------------------------------

BURST = """
k = bank.app.open("store")
if not k.sequence:
    k.handle_all([bank.enter("Ada", 1_000_000), bank.enter("Bob")], TESTER)
with k.read(TESTER) as r:
    number = r.get(2).balance
print(number, flush=True)
while True:
    number += 1
    future = k.submit(bank.transfer(1, 2, 1), TESTER)
    future.add_done_callback(lambda future, number=number: os.write(1, b"%d\\n" % number))
"""


@needs_signals
def test_killed_during_a_burst_nothing_acknowledged_is_lost(tmp_path: Path, rng: random.Random) -> None:
    known = 0
    for _ in range(10):
        process: Any = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + BURST],
            cwd=tmp_path,
            env=python_environment(),
            stdout=subprocess.PIPE,
        )
        try:
            assert int(process.stdout.readline()) == known
            lines = [process.stdout.readline() for _ in range(rng.randrange(1, 2_000))]
            process.kill()
            lines += process.stdout.readlines()
        finally:
            process.kill()
            process.communicate()
        acknowledged = max(int(line) for line in lines if line.endswith(b"\n"))
        found = contents(tmp_path / "store")
        assert found[1][1] + found[2][1] == 1_000_000
        assert found[2][1] >= acknowledged
        known = found[2][1]
    assert known > 10

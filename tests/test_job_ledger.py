"""Jobs survive kills as promised, by the word of a ledger outside of the store.

A process that creates and runs jobs of ten sorts is killed (SIGKILL) at random moments, many times on each
store; then all jobs are left to end. Every acknowledged command's job ran at least once and completed, or is
visibly discarded or cancelled; what runs at most once never started twice; commands that jobs handle took
effect once; nothing came of commands that were refused, denied or only tried; no job started without its
command being stored, or before its time. `make torture` does it 10,000 times. That no job starts before its
command is durable takes a disk that can be stopped: the last test.
"""

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, python_environment
from job_ledger import Found, Ledger, Office

from klerk.storage.rocks import RocksStorage

KILLS = int(os.environ.get("KLERK_LEDGER_KILLS", "200"))
# A longer history makes each look at it slower.
KILLS_PER_STORE = 50

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each run is a fork")


class Forker:
    """The process that forks a child for each run."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, *words: object) -> tuple[int, str]:
        """Return how the child ended, and what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        said = ""
        for line in self._process.stdout:
            if line.startswith("status "):
                return int(line.split()[1]), said
            said += line
        raise AssertionError(f"the forking process ended: {said}")


@contextmanager
def forker(cwd: Path) -> Iterator[Forker]:
    with subprocess.Popen(
        [sys.executable, "-m", "job_ledger"],
        cwd=cwd,
        env=python_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Forker(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


@pytest.mark.parametrize("store", range(KILLS // KILLS_PER_STORE))
@pytest.mark.timeout(120 + 5 * KILLS_PER_STORE)
def test_kills_lose_no_job_and_run_none_that_must_not_run(
    tmp_path: Path, rng: random.Random, store: int
) -> None:
    with forker(tmp_path) as forks:
        for kill in range(KILLS_PER_STORE):
            status, said = forks.ask("store", "ledger", kill, rng.uniform(0, 0.25))
            assert status == 9, said
        status, said = forks.ask("verify", "store", "ledger")
        assert status == 0, said
    assert Found(tmp_path / "ledger").acknowledged


def test_no_job_starts_before_its_command_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(Ledger(tmp_path / "ledger"))
    is_syncing, may_sync = threading.Event(), threading.Event()
    sync = RocksStorage.sync

    def stopped(self: Any) -> None:
        is_syncing.set()
        assert may_sync.wait(10)
        sync(self)

    with office.app.open(tmp_path / "store") as k:
        monkeypatch.setattr(RocksStorage, "sync", stopped)
        submission = k.submit(office.place(1, "ship"), TESTER)
        assert is_syncing.wait(10)
        for _ in range(20):
            assert not k.jobs.wait_until_idle(0.005) or not Found(tmp_path / "ledger").starts
        assert not submission.done()
        assert not Found(tmp_path / "ledger").starts
        may_sync.set()
        submission.result()
        assert k.jobs.wait_until_idle(10)
    assert Found(tmp_path / "ledger").starts == {("ship", 1): 1}

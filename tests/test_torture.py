"""A process that does everything at once is killed again and again, and its store stays whole.

`tortured` is that process: four threads with commands, lists, generators, tokens, unsafe changes, timers,
jobs, key-values, blobs, erasures, snapshots and subscriptions. After each kill (SIGKILL, from outside) the
store is opened and compared with what was acknowledged, with its own commit log, and with itself; now and
then the next design has one more migration, within which it may be killed, too. `make torture` takes longer.
The other tests are of a disk that fails while a store is opened or closed.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, Bank, python_environment
from tortured import Files, Shop, verify

from klerk import StorageError
from klerk.storage import layout, rocks
from klerk.storage.witness import WitnessFile

KILLS = int(os.environ.get("KLERK_TORTURE_KILLS", "5"))

# A longer history makes each look at it slower: after so many kills a new store begins.
KILLS_PER_STORE = 25


@pytest.mark.timeout(60 + 20 * KILLS)
def test_kills_lose_nothing_and_do_nothing_twice(tmp_path: Path, rng: random.Random) -> None:
    looked_at: Counter[str] = Counter()
    for kill in range(KILLS):
        if kill % KILLS_PER_STORE == 0:
            version, files = 0, Files(tmp_path / f"store-{kill}")
        elif rng.random() < 0.3:
            version += 1
        run_until_killed(files, version, kill, rng, tmp_path)
        if files.store.exists():
            is_last = (kill + 1) % KILLS_PER_STORE == 0 or kill + 1 == KILLS
            looked_at = verify(files, version, jobs=is_last) + looked_at
    assert {"commands", "models", "changes"} <= looked_at.keys()


def run_until_killed(files: Files, version: int, number: int, rng: random.Random, cwd: Path) -> None:
    """Kill the process some time after it opened the store, or while it does that."""
    command = [sys.executable, "-m", "tortured", str(files.store), str(version), str(number)]
    with (
        open(cwd / "errors", "w+", encoding="utf-8") as errors,
        subprocess.Popen(
            command, cwd=cwd, env=python_environment(), stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        if number == 0 or rng.random() < 0.7:
            process.stdout.readline()
        time.sleep(rng.uniform(0.2 if number == 0 else 0, 0.7))
        ended = process.poll()
        process.kill()
        errors.seek(0)
        assert ended is None, f"the process ended by itself, with {ended}:\n{errors.read()}"


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(("owner", "name"), [(WitnessFile, "end"), (layout, "seal")])
def test_a_disk_that_fails_as_the_store_is_marked_leaves_it_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """Everything is durable by then, so closing succeeds, and the directory is free again."""
    bank = Bank()
    k = bank.app.open(tmp_path / "store")
    k.handle(bank.enter("Ada"), TESTER)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refuse)
        k.close()
    with bank.app.open(tmp_path / "store") as k:
        assert not k._storage.closed_cleanly
        assert [owner for owner, _, _ in bank.contents(k).values()] == ["Ada"]


def test_a_disk_that_fails_twice_while_a_store_is_opened_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letting go of RocksDB may fail for the same reason; what is told is what came first, as an error of
    Klerk's."""
    bank = Bank()
    bank.app.open(tmp_path / "store").close()
    open_database = rocks._open_database

    class Failing:
        def __init__(self, database: Any) -> None:
            self._database = database

        def close(self) -> None:
            self._database.close()
            raise Exception("IO error: While fdatasync")

    def opened(*arguments: Any) -> tuple[Any, str]:
        database, mode = open_database(*arguments)
        return Failing(database), mode

    with monkeypatch.context() as patch:
        patch.setattr(rocks, "_open_database", opened)
        patch.setattr(WitnessFile, "begin", refuse)
        with pytest.raises(StorageError, match="Input/output error"):
            bank.app.open(tmp_path / "store")
    bank.app.open(tmp_path / "store").close()


def test_what_is_looked_at_can_be_wrong(tmp_path: Path) -> None:
    """The comparison finds a command that was acknowledged and is not there."""
    files = Files(tmp_path / "store")
    shop = Shop(0, files.mailbox)
    shop.app.open(files.store).close()
    files.ledger.write_text("done nobody 1\n")
    with pytest.raises(AssertionError, match="nobody was acknowledged"):
        verify(files, 0)

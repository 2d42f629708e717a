"""The store on disk tells what it is, is locked, survives crashes, and never loses anything silently.

Damage is done to copies of small stores left behind by killed processes: every state in which a crash or a
failing disk may leave one. Whoever opens a store compares its log with the witness and looks for gaps, so
each damaged store must either be refused, or be seen to be damaged in that way, or be whole.
"""

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from klerk import limits
from klerk.errors import (
    Closed,
    Corrupted,
    NewerStore,
    NotAStore,
    StorageError,
    StoreFailed,
    StoreLocked,
    WrongStore,
)
from klerk.storage import Family, RocksStorage, Witness, trial, witness

LOG, MODELS = Family.LOG, Family.MODELS
RECORDS = 10
DIGEST = b"d" * 32

# What a writer in a process of its own is made of. It says on stdout what is acknowledged, and is killed.
PRELUDE = """
import os, sys, signal, time
from klerk.errors import *
from klerk.storage import *
store = RocksStorage.open(sys.argv[1], app="test", durability=sys.argv[2])
def commit(number, size=20):
    key = number.to_bytes(8, "big")
    models = [(Family.MODELS, b"%d" % (number % 3), key)]
    store.write([(Family.LOG, key, (b"%d " % number) * size), *models], [])
    store.sync()
    store.witness(number, b"d" * 32)
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def script(body: str, path: Path, durability: str = "sync", **environment: str) -> subprocess.Popen[str]:
    """Start a process that opens the store and runs `body`."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body), str(path), durability],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run_script(body: str, path: Path, durability: str = "sync", **environment: str) -> str:
    """Run it to its end, which is good, or SIGKILL by its own hand; return what it printed."""
    with script(body, path, durability, **environment) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGKILL)
    return output


def open_store(path: Path, **changes: object) -> RocksStorage:
    return RocksStorage.open(path, **{"app": "test", "durability": "sync", **changes})  # type: ignore[arg-type]


def record(number: int, size: int = 20) -> tuple[bytes, bytes]:
    return number.to_bytes(8, "big"), (b"%d " % number) * size


def judge(path: Path) -> str:
    """Open a store as the engine would: "whole", "behind", "gap", "refused"; anything else is silent loss."""
    try:
        with contextlib.closing(open_store(path)) as store:
            log = list(store.scan(LOG))
            models = dict(store.scan(MODELS))
            noted = store.witnessed()
            clean = store.closed_cleanly
    except Corrupted:
        return "refused"
    numbers = [int.from_bytes(key, "big") for key, _ in log]
    if noted is not None and (numbers or [0])[-1] < noted.sequence:
        return "behind"
    if numbers != list(range(1, len(numbers) + 1)):
        assert not clean, "gaps are looked for only after a crash"
        return "gap"
    assert log == [record(number) for number in numbers]
    assert models == {b"%d" % (number % 3): key for number, (key, _) in zip(numbers, log, strict=True)}
    return "whole"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with RECORDS records, all of them in the write-ahead log. Never open it: copy it."""
    path = tmp_path_factory.mktemp("killed") / "store"
    run_script(f"for number in range(1, {RECORDS} + 1): commit(number)\ndie()", path)
    return path


@pytest.fixture(scope="module")
def flushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, cleanly closed: all of it in tables."""
    path = tmp_path_factory.mktemp("flushed") / "store"
    run_script(f"for number in range(1, {RECORDS} + 1): commit(number)\nstore.close()", path)
    return path


def copy(path: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(path, target)
    return target


def only_wal(path: Path) -> Path:
    (wal,) = [file for file in (path / "db").glob("*.log") if file.stat().st_size]
    return wal


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


# --- opening and closing ------------------------------------------------------------------------------


def test_everything_is_there_again_after_a_close(tmp_path: Path) -> None:
    with contextlib.closing(open_store(tmp_path / "store")) as store:
        store.write([(family, b"key", family.name.encode()) for family in Family], [])
        store.sync()
        store.witness(41, b"old")
        store.witness(42, DIGEST)
    with contextlib.closing(open_store(tmp_path / "store", create=False)) as store:
        assert [store.get(family, b"key") for family in Family] == [f.name.encode() for f in Family]
        assert store.witnessed() == Witness(sequence=42, digest=DIGEST)
        assert store.closed_cleanly
        assert not store.recovered_tail


def test_every_family_has_the_options(tmp_path: Path) -> None:
    open_store(tmp_path / "store").close()
    newest = max((tmp_path / "store" / "db").glob("OPTIONS-*"))
    sections: dict[str, dict[str, str]] = {}
    for line in newest.read_text().splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), {})
        elif "=" in line:
            name, _, value = line.strip().partition("=")
            current[name] = value
    families = {f'CFOptions "{family.name.lower()}"' for family in Family}
    assert families == {name for name in sections if name.startswith("CFOptions") and "default" not in name}
    for name in families:
        assert sections[name]["compression"] == "kLZ4Compression"
        assert sections[name]["write_buffer_size"] == str(32 * 1024 * 1024)
        assert sections[name]["level0_stop_writes_trigger"] == "128"
    database = sections["DBOptions"]
    assert database["atomic_flush"] == "true"
    assert database["max_total_wal_size"] == str(64 * 1024 * 1024)
    assert database["recycle_log_file_num"] == "0"  # a recycled log cannot be told from a damaged one
    assert database["manual_wal_flush"] == "false"  # each write must reach the kernel
    assert database["paranoid_checks"] == "true"


def test_a_close_needs_no_finished_scans(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.write([(LOG, number.to_bytes(8, "big"), b"") for number in range(5_000)], [])
    started, unstarted = store.scan(LOG), store.scan(LOG, reverse=True)
    next(started)
    store.close()
    with contextlib.closing(open_store(tmp_path / "store")) as again:
        assert len(list(again.scan(LOG))) == 5_000
        for scan in (started, unstarted):
            with pytest.raises(Closed):
                list(scan)


def test_a_close_waits_for_what_other_threads_do(tmp_path: Path) -> None:
    surprises: list[BaseException] = []

    for _ in range(5):
        store = open_store(tmp_path / "store")
        store.write([(LOG, number.to_bytes(8, "big"), bytes(100)) for number in range(20_000)], [])
        ready = threading.Barrier(3)

        def use(action: str, store: RocksStorage, ready: threading.Barrier) -> None:
            ready.wait()
            try:
                while True:
                    if action == "sync":
                        store.write([(MODELS, b"model", bytes(100_000))], [])
                        store.sync()
                    else:
                        list(store.scan(LOG))
            except Closed:
                pass
            except BaseException as error:
                surprises.append(error)

        threads = [threading.Thread(target=use, args=(action, store, ready)) for action in ("sync", "scan")]
        for thread in threads:
            thread.start()
        ready.wait()
        time.sleep(0.01)
        store.close()
        open_store(tmp_path / "store").close()  # nothing in use keeps RocksDB's lock
        for thread in threads:
            thread.join()
        assert not surprises
        assert store.failed is None


# --- what the directory is ----------------------------------------------------------------------------


def test_foreign_paths_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    foreign = tmp_path / "foreign"
    (foreign / "db").mkdir(parents=True)
    (foreign / "db" / "precious").write_text("mine")
    for path, told in [
        (file, "file is a file"),
        (file / "below", "below"),
        (foreign, "holds db and no KLERK file"),
        (tmp_path / "no" / "parent", "no does not exist"),
    ]:
        with pytest.raises(NotAStore, match=told) as caught:
            open_store(path)
        assert str(path) in str(caught.value)
    assert file.read_text() == "mine"
    assert os.listdir(foreign) == ["db"]
    assert (foreign / "db" / "precious").read_text() == "mine"


def test_nothing_is_created_unasked(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        with pytest.raises(NotAStore):
            open_store(tmp_path / name, create=False)
    assert os.listdir(tmp_path) == ["empty"]
    assert os.listdir(tmp_path / "empty") == []


def test_an_empty_directory_becomes_a_store(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    marker = json.loads((tmp_path / "KLERK").read_bytes())
    assert marker["format"] == 1
    assert marker["app"] == "test"


def test_the_marker_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    open_store(path).close()
    with pytest.raises(WrongStore, match="belongs to the application 'test', not to 'other'"):
        open_store(path, app="other")
    marker = (path / "KLERK").read_bytes()
    (path / "KLERK").write_bytes(marker.replace(b'"format": 1', b'"format": 2, "shape": "new"'))
    with pytest.raises(NewerStore, match="has format 2; this version of Klerk knows up to 1"):
        open_store(path)
    for damaged in (b"", b"{", b"\xff" + marker, marker.replace(b"format", b"former")):
        (path / "KLERK").write_bytes(damaged)
        with pytest.raises(Corrupted, match="KLERK cannot be read"):
            open_store(path)
    (path / "KLERK").write_bytes(marker)
    open_store(path).close()


@pytest.mark.parametrize("missing", ["db", "db/CURRENT", "witness", "KLERK"])
def test_missing_parts_are_noticed(
    flushed: Path, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = copy(flushed, tmp_path / "store") / missing
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    with pytest.raises((Corrupted, NotAStore)):
        open_store(tmp_path / "store")
    assert not part.is_file()
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises((Corrupted, NotAStore)):
        open_store(tmp_path / "store")
    assert not part.is_file()


def test_a_crash_while_it_is_created_leaves_nothing_half_done(tmp_path: Path) -> None:
    crash = """
    import klerk.storage.layout as layout, klerk.storage.rocks as rocks, itertools, os, shutil
    store.close()
    steps = itertools.count()
    def dying(function):
        def wrapped(*arguments):
            if next(steps) == point: os._exit(0)
            result = function(*arguments)
            if next(steps) == point: os._exit(0)
            return result
        return wrapped
    layout.write_durably = dying(layout.write_durably)
    layout.sync_directory = dying(layout.sync_directory)
    layout.WitnessFile.create = staticmethod(dying(layout.WitnessFile.create))
    rocks._create_database = dying(rocks._create_database)
    os.replace = dying(os.replace)
    for point in range(40):
        path = f"{sys.argv[1]}-{point}"
        if not os.fork():
            RocksStorage.open(path, app="test", durability="sync")
            os._exit(1)
        if os.wait()[1]: break
    print(point)
    """
    with script(crash, tmp_path / "store", PYTHONWARNINGS="ignore") as process:
        points = int(process.communicate(timeout=60)[0])
    assert points > 10
    for point in range(points):
        path = tmp_path / f"store-{point}"
        with contextlib.closing(open_store(path)) as store:
            assert list(store.scan(LOG)) == []
            store.write([(LOG, b"key", b"value")], [])
        with contextlib.closing(open_store(path)) as store:
            assert store.get(LOG, b"key") == b"value"


def test_a_torn_marker_of_an_unfinished_store_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "KLERK.new").write_bytes(b'{"form')
    (tmp_path / "owner").write_bytes(b"1")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "CURRENT").write_bytes(b"torn")
    open_store(tmp_path).close()
    assert not (tmp_path / "KLERK.new").exists()


# --- one owner ----------------------------------------------------------------------------------------


def test_a_store_is_open_once(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with contextlib.closing(open_store(path)), pytest.raises(StoreLocked, match="by this process"):
        open_store(path)
    with script("print('open', flush=True)\ninput()", path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=f"store is open already by process {other.pid}"):
            open_store(path)
        other.kill()
    open_store(path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_can_do_nothing_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    body = """
    import warnings
    warnings.simplefilter("ignore")
    commit(1)
    store.write([(Family.META, b"%d" % number, b"") for number in range(5000)], [])
    scan = store.scan(Family.META); next(scan)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        for action in (lambda: commit(2), lambda: store.get(0, b""), lambda: list(scan), store.sync,
                       lambda: list(store.scan(0)), lambda: store.witness(9, b"")):
            try: action()
            except Closed as error: assert "forked" in str(error)
            else: os._exit(3)
        store.close()
        os.read(read, 1)
        # An ordinary end, which frees everything that the child inherited.
        sys.exit(0)
    commit(2)
    store.close()
    # The child lives, and does not hold the store.
    store = RocksStorage.open(sys.argv[1], app="test", durability="sync")
    commit(3)
    os.write(write, b"x")
    print(os.waitpid(child, 0)[1])
    store.close()
    """
    assert run_script(body, path) == "0\n"
    with contextlib.closing(open_store(path)) as store:
        assert [int.from_bytes(key, "big") for key, _ in store.scan(LOG)] == [1, 2, 3]
        assert store.witnessed() == Witness(sequence=3, digest=DIGEST)


# --- crashes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["sync", "process"])
def test_a_killed_process_loses_nothing(tmp_path: Path, durability: str) -> None:
    path = tmp_path / "store"
    expected = 0
    for _ in range(3):
        body = "for number in range(START, 10**9):\n    commit(number)\n    print(number, flush=True)"
        with script(body.replace("START", str(expected + 1)), path, durability) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.1)
            process.kill()
            acknowledged = int([line for line in process.stdout.read().split("\n") if line.isdigit()][-1])
        with contextlib.closing(open_store(path, durability=durability)) as store:
            numbers = [int.from_bytes(key, "big") for key, _ in store.scan(LOG)]
            noted = store.witnessed()
            assert not store.closed_cleanly
        assert noted is not None
        assert acknowledged <= noted.sequence <= numbers[-1] <= acknowledged + 2
        assert numbers == list(range(1, numbers[-1] + 1))
        assert expected < acknowledged
        expected = numbers[-1]


def test_a_write_has_left_the_process_before_it_is_synced(tmp_path: Path) -> None:
    run_script("store.write([(0, b'key', b'value')], [])\ndie()", tmp_path / "store", "process")
    with contextlib.closing(open_store(tmp_path / "store")) as store:
        assert store.get(LOG, b"key") == b"value"


def test_a_torn_end_is_dropped_and_told(killed: Path, tmp_path: Path) -> None:
    """Cut the log within its last record, as a power cut does before the sync returned."""
    wal = only_wal(killed)
    content = wal.read_bytes()
    header, start = 7, 0
    while (end := start + header + int.from_bytes(content[start + 4 : start + 6], "little")) < len(content):
        start = end
    assert end == len(content)
    for length in sorted({*range(start, end, 9), start + 1, end - 1}):
        torn = copy(killed, tmp_path / "torn")
        os.truncate(torn / "db" / wal.name, length)
        # The last record was acknowledged: that it is missing shows.
        assert judge(torn) == "behind"
        # It was not yet acknowledged: what is left is whole.
        unacknowledged = copy(killed, tmp_path / "torn")
        os.truncate(unacknowledged / "db" / wal.name, length)
        note_in(unacknowledged / "witness", RECORDS - 1)
        with contextlib.closing(open_store(unacknowledged)) as store:
            assert store.recovered_tail == (length != start)
            assert list(store.scan(LOG)) == [record(number) for number in range(1, RECORDS)]
        # What was recovered is whole by now.
        assert judge(unacknowledged) == "whole"


def note_in(path: Path, sequence: int) -> None:
    file = witness.WitnessFile(path)
    file.note(sequence, DIGEST)
    file.release()


def test_a_lost_write_ahead_log_is_noticed(killed: Path, tmp_path: Path) -> None:
    lost = copy(killed, tmp_path / "lost")
    only_wal(lost).unlink()
    assert judge(lost) == "behind"
    emptied = copy(killed, tmp_path / "emptied")
    os.truncate(only_wal(emptied), 0)
    assert judge(emptied) == "behind"


def test_no_family_depends_on_an_older_write_ahead_log_than_the_log(tmp_path: Path) -> None:
    """The log alone fills its buffer; the models that changed with it must reach the tables as well.

    Otherwise the older file of the write-ahead log could vanish with those models, and neither the head of
    the log nor a gap in it would tell.
    """
    with contextlib.closing(open_store(tmp_path / "store")) as store:
        files = lambda: sorted((tmp_path / "store" / "db").glob("*.log"))  # noqa: E731
        first, number = files()[0], 0
        while len(files()) == 1:
            number += 1
            store.write(
                [(LOG, number.to_bytes(8, "big"), bytes(100_000)), (MODELS, b"m", b"%d" % number)], []
            )
        deadline = time.monotonic() + 10
        while first in files() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert first not in files()


def test_after_a_restart_of_the_machine_only_synced_positions_bind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    for durability, noted in [("process", None), ("sync", Witness(sequence=5, digest=DIGEST))]:
        monkeypatch.setattr(witness, "current_boot", lambda: b"before the cut  ")
        with contextlib.closing(open_store(path, durability=durability)) as store:
            store.witness(5, DIGEST)
        monkeypatch.setattr(witness, "current_boot", lambda: b"after the cut   ")
        for _ in range(2):  # opening it must not make it bind
            with contextlib.closing(open_store(path)) as store:
                assert store.witnessed() == noted


# --- damage -------------------------------------------------------------------------------------------


@pytest.fixture
def short_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROBE_BASE_S", 4.0)


@pytest.mark.usefixtures("short_trial")
@pytest.mark.parametrize(
    ("kind", "pattern", "flips"),
    [("killed", "*.log", 40), ("flushed", "*.sst", 40), ("flushed", "MANIFEST-*", 20)],
)
def test_no_flipped_bit_loses_anything_silently(
    request: pytest.FixtureRequest, tmp_path: Path, rng: random.Random, kind: str, pattern: str, flips: int
) -> None:
    path: Path = request.getfixturevalue(kind)
    files = [file for file in (path / "db").glob(pattern) if file.stat().st_size]
    verdicts = []
    for _ in range(flips):
        file = rng.choice(files)
        bit = rng.randrange(file.stat().st_size * 8)
        damaged = copy(path, tmp_path / "damaged")
        flip(damaged / "db" / file.name, bit)
        verdict = judge(damaged)
        assert verdict in {"refused", "behind", "gap", "whole"}, (file.name, bit)
        if pattern == "*.log":
            assert verdict != "whole", (file.name, bit)
        verdicts.append(verdict)
    assert verdicts.count("refused") > flips // 2


def test_a_log_that_makes_rocksdb_spin_is_refused(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PROBE_BASE_S", 1.0)
    spinning = copy(killed, tmp_path / "spinning")
    wal = only_wal(spinning)
    content = wal.read_bytes()
    second = 7 + int.from_bytes(content[4:6], "little")
    assert content[second + 6] == 1
    flip(wal, (second + 6) * 8 + 2)  # the second record's type, from 1 to 5
    with pytest.raises(Corrupted, match="opening it in another process did not end within 1 s"):
        open_store(spinning)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The databases that were opened in another process first."""
    seen: list[Path] = []
    run = trial.run

    def seeing(database: Path, *arguments: object) -> trial.Verdict:
        seen.append(database)
        return run(database, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trial, "run", seeing)
    return seen


def test_only_what_a_clean_close_left_is_opened_untried(
    killed: Path, flushed: Path, tmp_path: Path, trials: list[Path]
) -> None:
    assert judge(copy(flushed, tmp_path / "clean")) == "whole"
    assert not trials
    for change in ("MANIFEST-*", "CURRENT", "*.log"):
        changed = copy(flushed, tmp_path / "changed")
        file = next((changed / "db").glob(change))
        file.write_bytes(file.read_bytes() + b"\0")
        judge(changed)
        assert len(trials) == 1, change
        trials.clear()
    assert judge(copy(killed, tmp_path / "killed")) == "whole"
    assert len(trials) == 1


@pytest.mark.parametrize("executable", ["", "/nonexistent", shutil.which("true") or ""])
def test_without_a_python_to_try_it_in_a_store_opens_all_the_same(
    killed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    executable: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with caplog.at_level(logging.WARNING):
        assert judge(copy(killed, tmp_path / "store")) == "whole"
    assert ("without a trial" in caplog.text) == bool(executable)
    torn = copy(killed, tmp_path / "torn")
    os.truncate(only_wal(torn), only_wal(torn).stat().st_size - 1)
    assert judge(torn) == "behind"


def test_a_crashing_trial_is_damage(killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "crashing.py"
    crashing.write_text("import os\nprint('started', flush=True)\nos.abort()")
    monkeypatch.setattr(trial, "_SCRIPT", str(crashing))
    with pytest.raises(Corrupted, match="another process ended with exit code -6"):
        open_store(copy(killed, tmp_path / "store"))


def test_a_torn_witness_is_one_note_older(killed: Path, tmp_path: Path) -> None:
    slots = range(0, 8192, 4096)
    found = []
    for slot in slots:
        torn = copy(killed, tmp_path / "torn")
        flip(torn / "witness", (slot + 20) * 8)
        with contextlib.closing(open_store(torn)) as store:
            noted = store.witnessed()
            assert noted is not None
            found.append(noted.sequence)
    assert sorted(found) == [RECORDS - 1, RECORDS]
    for slot in slots:
        flip(torn / "witness", (slot + 20) * 8)
    with pytest.raises(Corrupted, match="neither of its two slots is intact"):
        open_store(torn)
    os.truncate(torn / "witness", 100)
    with pytest.raises(Corrupted, match="not 8192 bytes long"):
        open_store(torn)


def test_damage_met_while_reading_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with contextlib.closing(open_store(path)) as store:
        rng = random.Random(1)
        store.write([(LOG, number.to_bytes(8, "big"), rng.randbytes(1_000)) for number in range(1_000)], [])
    (table,) = (path / "db").glob("*.sst")
    flip(table, table.stat().st_size * 4)
    with contextlib.closing(open_store(path)) as store:
        with pytest.raises(Corrupted) as kept:
            list(store.scan(LOG))
        with pytest.raises(Corrupted):
            list(store.scan(LOG, reverse=True))
        with pytest.raises(Corrupted):
            [store.get(LOG, number.to_bytes(8, "big")) for number in range(1_000)]
        assert store.get(LOG, bytes(8)) is not None
    # Nothing of RocksDB lives on in the error's frames.
    open_store(path).close()
    assert isinstance(kept.value, Corrupted)


# --- failing disks ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_latches_and_loses_nothing(small_disk: Path) -> None:
    store = open_store(small_disk / "store")
    (small_disk / "ballast").write_bytes(bytes(100_000))
    acknowledged = 0
    try:
        for number in range(1, 10_000):
            store.write([(LOG, *record(number, 2_000))], [])
            store.sync()
            store.witness(number, DIGEST)
            acknowledged = number
    except StoreFailed as error:
        assert "No space left" in error.message  # noqa: PT017
    assert 10 < acknowledged < 9_999
    store.witness(acknowledged, DIGEST)  # its pages are there already: no SIGBUS
    (small_disk / "ballast").unlink()
    # RocksDB would go on as if nothing had been; the store must not.
    with pytest.raises(StoreFailed, match="refused since"):
        store.write([(LOG, b"late", b"")], [])
    assert store.get(LOG, record(acknowledged)[0]) == record(acknowledged, 2_000)[1]
    store.close()
    with contextlib.closing(open_store(small_disk / "store")) as store:
        assert not store.closed_cleanly
        log = list(store.scan(LOG))
    assert log[:acknowledged] == [record(number, 2_000) for number in range(1, acknowledged + 1)]
    assert len(log) <= acknowledged + 1


FAILING_SYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
    if (access("failing", F_OK) == 0) { errno = EIO; return -1; }
    return real(fd);
}
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not shutil.which("gcc"), reason="needs Linux and gcc"
)
def test_a_failed_sync_of_the_disk_latches(tmp_path: Path) -> None:
    (tmp_path / "shim.c").write_text(FAILING_SYNC)
    shim = tmp_path / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, tmp_path / "shim.c", "-ldl"], check=True)
    body = """
    os.chdir(os.path.dirname(sys.argv[1]))
    commit(1)
    open("failing", "w").close()
    for attempt in (1, 2):
        try: commit(2)
        except StoreFailed as error: print(error.message)
        os.path.exists("failing") and os.remove("failing")
    print(store.get(0, (1).to_bytes(8, "big")) is not None)
    store.close()
    """
    first, second, kept = run_script(body, tmp_path / "store", LD_PRELOAD=str(shim)).splitlines()
    assert first.startswith("the sync failed: IO error")
    assert second.startswith("refused since an earlier failure: the sync failed: IO error")
    assert kept == "True"
    assert judge(tmp_path / "store") == "whole"


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A file system in a file, so that it can be cut off from its disk."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with open(image, "wb") as file:
        file.truncate(128 * 1024 * 1024)
    for command in (["mkfs.ext4", "-q", image], ["mount", "-o", "loop", image, disk]):
        if (
            not shutil.which(command[0])
            or subprocess.run(command, capture_output=True, check=False).returncode
        ):
            pytest.skip("mounting a file is not permitted")
    yield image, disk
    subprocess.run(["umount", "-l", str(disk)], check=False, capture_output=True)


def test_a_power_cut_loses_nothing_acknowledged(ext4: tuple[Path, Path], rng: random.Random) -> None:
    import fcntl

    image, disk = ext4
    shutdown_without_flush = (0x8004587D, (2).to_bytes(4, "little"))  # EXT4_IOC_SHUTDOWN, NOLOGFLUSH
    body = "for number in range(START, 10**9):\n    commit(number)\n    print(number, flush=True)"
    expected = 0
    for _ in range(3):
        with script(body.replace("START", str(expected + 1)), disk / "store") as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.05, 0.2))
            root = os.open(disk, os.O_RDONLY)
            # Only what was acknowledged before the cut counts: a sync that is under way while the file
            # system is shut down may return without an error, which no power cut leaves time for.
            lines = os.read(process.stdout.fileno(), 1_000_000).split(b"\n")
            fcntl.ioctl(root, *shutdown_without_flush)
            os.close(root)
            process.kill()
            acknowledged = int(lines[-2])
        subprocess.run(["umount", disk], check=True)
        subprocess.run(["mount", "-o", "loop", image, disk], check=True)
        with contextlib.closing(open_store(disk / "store")) as store:
            numbers = [int.from_bytes(key, "big") for key, _ in store.scan(LOG)]
            noted = store.witnessed()
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= acknowledged > expected
        assert noted is None or noted.sequence <= len(numbers)
        expected = len(numbers)


# --- copies -------------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_store_of_its_own(tmp_path: Path) -> None:
    targets = [tmp_path / "copy"]
    if os.path.isdir("/dev/shm") and os.stat("/dev/shm").st_dev != os.stat(tmp_path).st_dev:
        targets.append(Path(f"/dev/shm/klerk-test-{os.getpid()}"))
    with contextlib.closing(open_store(tmp_path / "store")) as store:
        for number in range(1, RECORDS + 1):
            key, value = record(number)
            store.write([(LOG, key, value), (MODELS, b"%d" % (number % 3), key)], [])
        store.witness(RECORDS, DIGEST)
        for target in targets:
            store.checkpoint(target)
            with pytest.raises(StorageError, match="exists"):
                store.checkpoint(target)
        store.write([(LOG, b"later", b"")], [])
    assert not (tmp_path / "store" / "db.copying").exists()
    for target in targets:
        assert sorted(os.listdir(target)) == ["KLERK", "db", "witness"]
        with contextlib.closing(open_store(target)) as opened:
            assert opened.witnessed() == Witness(sequence=RECORDS, digest=DIGEST)
        assert judge(target) == "whole"
        shutil.rmtree(target)


def test_an_unfinished_copy_makes_way_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    building = tmp_path / "copy.unfinished"
    with contextlib.closing(open_store(tmp_path / "store")) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError("cut")))
            patch.setattr(os, "remove", lambda *_: (_ for _ in ()).throw(OSError("cut")))
            with pytest.raises(StorageError, match="cut"):
                store.checkpoint(tmp_path / "copy")
        assert building.exists()
        assert store.failed is None
        store.checkpoint(tmp_path / "copy")
        assert not building.exists()
        foreign = tmp_path / "other.unfinished"
        foreign.mkdir()
        (foreign / "precious").write_text("mine")
        with pytest.raises(StorageError, match="is no unfinished copy"):
            store.checkpoint(tmp_path / "other")
    assert (foreign / "precious").read_text() == "mine"

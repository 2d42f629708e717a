"""The store on disk: RocksDB, opened so that damage is found, and written so that failures stay failed.

This is the only module that imports rocksdict (beside `probe.py`, which runs in a process of its own). What
rocksdict does unexpectedly, and what is done about it:

- Its iterators other than `iter()` never report damage: `scan` uses `iter()` and checks the status.
- No recovery mode of the write-ahead log is safe alone: `open` tries the strict one, then the one that
  tolerates a torn tail, and the engine compares the log with the witness.
- A damaged log can make opening spin for ever: `probe.py` tries it first.
- Iterators and handles keep RocksDB's lock: `close` drops them all.
- After `fork` the child's copy writes into the parent's files, and crashes when it is freed: it is disowned.
- Every error is a plain `Exception` with a text: `_translated` knows the texts.
- `ReadOptions.set_iterate_lower_bound` sets the upper bound: it is not used.
"""

import ctypes
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import rocksdict
from rocksdict import (
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    WriteBatch,
)

from klerk import limits
from klerk.errors import Closed, Corrupted, KlerkError, NewerStore, StorageError
from klerk.storage import layout
from klerk.storage.contract import Delete, Family, Put, Storage, Witness
from klerk.storage.witness import NO_BOOT, WitnessFile, current_boot

_logger = logging.getLogger("klerk.storage")

Durability = Literal["sync", "process"]

_MIB = 1024 * 1024
_FAMILY_NAMES = [family.name.lower() for family in Family]

# Nearly nothing: what the store is read for is read once.
_block_cache = Cache(8 * _MIB)

_RECOVERY_MODES = {
    "absolute": DBRecoveryMode.absolute_consistency,
    "tolerant": DBRecoveryMode.tolerate_corrupted_tail_records,
}

_PROBE_SCRIPT = str(Path(__file__).with_name("probe.py"))
_PROBE_STARTED = "started"

_RESTORE_HINT = "Keep the directory as it is, and restore a copy of the store beside it."

# Rows that a scan fetches at once: few at first, since many scans want only the first row or two.
_SCAN_ROWS_MIN = 16
_SCAN_ROWS_MAX = 1024


class RocksStorage(Storage):
    """RocksDB behind the contract of `Storage`. Made by `RocksStorage.open`."""

    def __init__(
        self, path: Path, owner: layout.Owner, witness: WitnessFile, database: Rdict, durability: Durability
    ) -> None:
        super().__init__()
        self._path = path
        self._owner = owner
        self._witness = witness
        self._durability = durability
        self._database = database
        self._families = [database.get_column_family(name) for name in _FAMILY_NAMES]
        self._handles = [database.get_column_family_handle(name) for name in _FAMILY_NAMES]
        self._cursors: weakref.WeakSet[_Cursor] = weakref.WeakSet()
        self._make_locks()
        self._apply = database.write
        self._flush_wal = database.flush_wal
        self._note = witness.note
        found = witness.found
        # A position noted under durability "process" promised nothing beyond the machine's next start.
        binds = found.boot in (NO_BOOT, current_boot())
        self._witnessed = found.position() if binds and found.sequence else None
        _open_stores.add(self)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, app: str, durability: Durability, create: bool = True
    ) -> Self:
        """Open the store at `path`, and create it when there is none.

        Parameters:
            path: the store's directory. Its parent must exist.
            app: the application's name; a store keeps the name it was created with.
            durability: "sync" to survive power cuts; "process" to survive only the death of the process.
            create: whether to create a store where there is none.

        Raises:
            NotAStore, WrongStore, NewerStore: it is not one that this application can use.
            StoreLocked: it is open already, here or in another process.
            Corrupted: something in it is damaged.
            StorageError: the operating system or RocksDB refused something else.
        """
        directory = Path(os.path.abspath(path))
        try:
            layout.check_directory(directory, create=create)
            owner = layout.Owner(directory)
            try:
                return cls._open_owned(directory, owner, app, durability)
            except BaseException:
                owner.release()
                raise
        except KlerkError:
            raise
        except OSError as error:
            raise StorageError(f"{directory} cannot be opened: {error}") from error

    @classmethod
    def _open_owned(cls, path: Path, owner: layout.Owner, app: str, durability: Durability) -> Self:
        if not layout.is_initialised(path):
            layout.initialise(path, app, _create_database)
        layout.check_marker(path, app)
        witness = WitnessFile(path / layout.WITNESS)
        try:
            # After a clean end nothing is left to replay, and no torn tail is to be expected.
            modes = ["absolute"] if witness.found.clean else _probe(path)
            database, mode = _open_database(path, modes)
            witness.begin(current_boot() if durability == "process" else NO_BOOT)
            store = cls(path, owner, witness, database, durability)
        except BaseException:
            witness.release()
            raise
        store.recovered_tail = mode == "tolerant"
        return store

    def witness(self, sequence: int, digest: bytes) -> None:
        """Note the newest acknowledged position of the log; see `Storage.witness`."""
        if self._closed is not None:
            self._check_open()
        self._note(sequence, digest)

    def witnessed(self) -> Witness | None:
        """Return what the last run noted.

        None when it noted nothing, and when it ran with durability "process" and the machine was started
        anew since then: it promised to survive the death of the process and no more.
        """
        return self._witnessed

    def get(self, family: int, key: bytes) -> bytes | None:
        """Return the value, or None when the key is absent; see `Storage.get`."""
        self._check_open()
        try:
            value: bytes | None = self._families[family].get(key)
        except Exception as error:
            self._check_open()
            raise _translated(error, self._path) from error
        return value

    def scan(
        self, family: int, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over (key, value) in the order of the keys' bytes; see `Storage.scan`."""
        self._check_open()
        options = ReadOptions()
        if stop is not None:
            options.set_iterate_upper_bound(stop)
        cursor = _Cursor(self, self._families[family].iter(options), start, reverse=reverse)
        self._cursors.add(cursor)
        return cursor.rows()

    def size_bytes(self) -> int:
        """Return the size of the store's files."""
        self._check_open()
        return layout.size_bytes(self._path)

    def estimated_count(self, family: int) -> int:
        """Return about how many keys the family holds."""
        self._check_open()
        return self._families[family].property_int_value("rocksdb.estimate-num-keys") or 0

    def close(self) -> None:
        """Make everything durable, mark the store as cleanly closed, and let go of its directory.

        What is in RocksDB's memory is written to its tables, so that the next start has nothing to replay
        (which would take longer) and no end of a log to mistrust.
        """
        if self._closed is not None:
            return
        with self._sync_lock, self._scan_lock, self._checkpoint_lock:
            if self._closed is not None:
                return
            self._closed = Closed("the store is closed")
            self._refusing = True
            clean = self.failed is None and self._flush()
            self._drop_native_objects()
        _open_stores.discard(self)
        if clean:
            self._witness.end()
        else:
            self._witness.release()
        self._owner.release()

    def _write(self, puts: list[Put], deletes: list[Delete]) -> None:
        batch = WriteBatch(raw_mode=True)
        handles = self._handles
        for family, key in deletes:
            batch.delete(key, handles[family])
        put = batch.put
        for family, key, value in puts:
            put(key, value, handles[family])
        self._apply(batch)

    def _sync(self) -> None:
        # Without a sync the batch is with the kernel already: RocksDB's write ends in write(2).
        if self._durability == "sync":
            with self._sync_lock:
                self._flush_wal(True)

    def _checkpoint(self, path: str | os.PathLike[str]) -> None:
        target = Path(os.path.abspath(path))
        with self._checkpoint_lock:
            self._check_open()
            try:
                layout.copy_store(self._path, target, self._witness, self._copy_database)
            except KlerkError:
                raise
            except OSError as error:
                raise StorageError(f"the copy to {target} failed: {error}") from error

    def _copy_database(self, target: Path) -> None:
        """Make a copy with hard links, on the file system of the store."""
        try:
            # The copy writes RocksDB's memory to tables with the interpreter lock held, unless there is
            # next to nothing left to write: `flush` releases it.
            for family in self._families:
                family.flush(True)
            Checkpoint(self._database).create_checkpoint(str(target))
        except Exception as error:
            raise _translated(error, self._path) from error

    def _make_locks(self) -> None:
        # rocksdict refuses to close what another thread is using with the interpreter lock released, and
        # an iterator in use keeps RocksDB's lock. `close` takes all of these.
        self._sync_lock = threading.Lock()
        self._scan_lock = threading.Lock()
        self._checkpoint_lock = threading.Lock()

    def _flush(self) -> bool:
        """Write what RocksDB holds in memory to its tables; return whether that went well."""
        try:
            self._flush_wal(True)
            for family in self._families:
                family.flush(True)
        except Exception as error:
            # Nothing is lost: all of it is in the write-ahead log, and the next start replays that.
            _logger.warning("%s was not closed cleanly: %s", self._path, error)
            return False
        return True

    def _drop_native_objects(self) -> None:
        for cursor in list(self._cursors):
            cursor.iterator = None
        self._handles = []
        del self._apply, self._flush_wal
        for family in self._families:
            family.close()
        self._families = []
        self._database.close()
        del self._database

    def _disown(self) -> None:
        """In a forked child: refuse everything, and never free what belongs to the parent."""
        if self._closed is not None:
            return
        self._closed = Closed(
            "the store belongs to the process that this one was forked from",
            hint="Open the application after the fork, or talk to the parent.",
        )
        self._refusing = True
        self._make_locks()
        cursors = list(self._cursors)
        for native in (self._database, *self._families, *self._handles, *(c.iterator for c in cursors)):
            # Freeing one would wait for, or crash on, threads and locks that did not survive the fork.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))
        self._witness.release()
        self._owner.disown()


_open_stores: weakref.WeakSet[RocksStorage] = weakref.WeakSet()


def _disown_all() -> None:
    for store in list(_open_stores):
        store._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)


class _Cursor:
    """One scan: the native iterator, which `RocksStorage.close` takes away."""

    def __init__(self, store: RocksStorage, iterator: RdictIter, start: bytes, *, reverse: bool) -> None:
        self._store = store
        self.iterator: RdictIter | None = iterator
        self._start = start
        self._reverse = reverse

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows, fetched some at a time so that little is held when the store is closed."""
        fetch = self._fetch_down if self._reverse else self._fetch_up
        count = _SCAN_ROWS_MIN
        started = False
        while True:
            with self._store._scan_lock:
                self._store._check_open()
                assert self.iterator is not None
                try:
                    if not started:
                        self._seek(self.iterator)
                        started = True
                    rows = fetch(self.iterator, count)
                except Exception as error:
                    raise _translated(error, self._store._path) from error
            yield from rows
            if len(rows) < count:
                self.iterator = None
                return
            count = min(2 * count, _SCAN_ROWS_MAX)

    def _seek(self, iterator: RdictIter) -> None:
        if self._reverse:
            iterator.seek_to_last()
        else:
            iterator.seek(self._start)

    def _fetch_up(self, iterator: RdictIter, count: int) -> list[tuple[bytes, bytes]]:
        valid, key, value, advance = iterator.valid, iterator.key, iterator.value, iterator.next
        rows = []
        for _ in range(count):
            if not valid():
                iterator.status()
                break
            rows.append((key(), value()))
            advance()
        return rows

    def _fetch_down(self, iterator: RdictIter, count: int) -> list[tuple[bytes, bytes]]:
        valid, key, value, advance = iterator.valid, iterator.key, iterator.value, iterator.prev
        start = self._start
        rows = []
        for _ in range(count):
            if not valid():
                iterator.status()
                break
            row_key = key()
            if row_key < start:
                break
            rows.append((row_key, value()))
            advance()
        return rows


def _probe(path: Path) -> list[str]:
    """Replay the write-ahead log in a child process; return the recovery modes to open the store with.

    That is the one mode that the child found to work, or both where no child can be started: without a
    Python of our own (a frozen or embedded interpreter), damage may make the opening hang.

    Raises:
        Corrupted: no mode works, or the child hangs or crashes.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        return list(_RECOVERY_MODES)
    database = path / layout.DATABASE
    wal_bytes = sum(file.stat().st_size for file in database.glob("*.log"))
    limit_s = limits.PROBE_BASE_S + limits.PROBE_S_PER_GIB * wal_bytes / 1024**3
    packages = str(Path(rocksdict.__file__).parents[1])
    command = [sys.executable, "-I", "-S", _PROBE_SCRIPT, packages, str(database), *_FAMILY_NAMES]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired as error:
        output, outcome, status = error.output or b"", f"did not end within {limit_s:.0f} s", None
    except OSError as error:
        _logger.warning("%s is opened without a trial in another process: %s", path, error)
        return list(_RECOVERY_MODES)
    else:
        output, outcome, status = done.stdout, f"ended with exit code {done.returncode}", done.returncode
    words = output.decode("ascii", "replace").split()
    if not words or words[0] != _PROBE_STARTED:
        _logger.warning("%s is opened without a trial in another process, which %s", path, outcome)
        return list(_RECOVERY_MODES)
    if status == 0:
        return [words[1]]
    if status == 1:
        raise _translated(Exception(done.stderr.decode("utf-8", "replace").strip()), path)
    raise Corrupted(
        f"the write-ahead log of {path} is damaged: replaying it in another process {outcome}",
        hint=_RESTORE_HINT,
    )


def _create_database(path: Path) -> None:
    options = _database_options()
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    try:
        Rdict(str(path), options, _family_options()).close()
    except Exception as error:
        raise _translated(error, path) from error


def _open_database(path: Path, modes: list[str]) -> tuple[Rdict, str]:
    """Open RocksDB with the first recovery mode that works; return it and the mode."""
    for mode in modes:
        options = _database_options()
        options.set_wal_recovery_mode(_RECOVERY_MODES[mode]())
        try:
            return Rdict(str(path / layout.DATABASE), options, _family_options()), mode
        except Exception as error:
            failure = _translated(error, path)
            failure.__cause__ = error
            if not isinstance(failure, Corrupted):
                break
    raise failure


def _database_options() -> Options:
    """Return the options that hold for all families; what is not named here is RocksDB's default."""
    options = _table_options()
    # Bounds what a start after a crash has to replay, twice: about 0.5 s each.
    options.set_max_total_wal_size(64 * _MIB)
    # Tables written in the background reach the disk little by little, not in one burst that the next
    # sync of the write-ahead log would have to wait behind.
    options.set_bytes_per_sync(_MIB)
    # An application's own sockets and files come out of the same limit, often 1,024.
    options.set_max_open_files(256)
    # RocksDB's own diary: two files of at most 1 MiB, without the periodic statistics.
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(_MIB)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def _family_options() -> dict[str, Options]:
    # RocksDB writes the options down for each family; the tests read them there.
    return {name: _table_options() for name in _FAMILY_NAMES}


def _table_options() -> Options:
    """Return the options of one family.

    All families are alike: a family that is not written costs nothing. No bloom filters and hardly a
    cache: the data is in Klerk's memory, and the store is read at the start and for history.
    """
    options = Options(raw_mode=True)
    options.set_compression_type(DBCompressionType.lz4())
    # A write holds the interpreter lock, so it must not be made to wait for the background: four buffers
    # per family instead of two, and far more unsorted tables than the default of 20 before it is slowed.
    options.set_write_buffer_size(32 * _MIB)
    options.set_max_write_buffer_number(4)
    options.set_level_zero_slowdown_writes_trigger(64)
    options.set_level_zero_stop_writes_trigger(128)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(_block_cache)
    options.set_block_based_table_factory(blocks)
    return options


def _translated(error: Exception, path: Path) -> StorageError:
    """Return what a plain exception of rocksdict means. The only place that knows its texts."""
    text = str(error)
    if "lock hold by current process" in text or "While lock file" in text:
        return layout.locked(path)
    if "Column families not opened" in text or "Column family not found" in text:
        return NewerStore(
            f"{path} holds families that this version of Klerk does not know, or lacks some: {text}",
            hint="Open it with the version of Klerk that wrote it.",
        )
    if "Corruption" in text or "create_if_missing is false" in text or "No such file" in text:
        return Corrupted(f"{path} is damaged: {text}", hint=_RESTORE_HINT)
    return StorageError(f"{path}: {text}")

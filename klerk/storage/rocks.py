"""The store on disk: RocksDB, opened so that damage is found, and written so that failures stay failed.

Only this module and `tuning.py` import rocksdict (beside `probe.py` and `peek.py`, which run in processes
of their own). What rocksdict does unexpectedly, and what is done about it:

- Its iterators other than `iter()` never report damage: `scan` uses `iter()` and checks the status.
- No recovery mode of the write-ahead log is safe alone: `open` tries the strict one, then the one that
  tolerates a torn tail, and the engine compares the log with the witness.
- A damaged log or manifest can make opening spin for ever: `probe.py` tries it first, unless both are what a
  clean close left.
- Iterators and handles keep RocksDB's lock, also those in the frames of a kept exception: `close` drops all.
- After `fork` the child's copy writes into the parent's files, and crashes when it is freed: it is disowned.
- Every error is a plain `Exception` with a text: `_translated` knows the texts.
- `set_iterate_lower_bound` sets the upper bound; an iterator does not keep its options: `Cursor` does.
"""

import contextlib
import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import rocksdict
from rocksdict import Checkpoint, DBRecoveryMode, Options, Rdict, ReadOptions, WriteBatch

from klerk.errors import Closed, Corrupted, KlerkError, NewerStore, StorageError
from klerk.log_events import about
from klerk.storage import layout, trial, tuning
from klerk.storage.contract import Delete, Family, Put, Storage, Witness
from klerk.storage.cursor import Cursor
from klerk.storage.marks import MarkFile
from klerk.storage.witness import WitnessFile

_logger = logging.getLogger("klerk.storage")

Durability = Literal["sync", "process"]

_FAMILY_NAMES = [family.name.lower() for family in Family]
_RECOVERY_MODES = {
    "absolute": DBRecoveryMode.absolute_consistency,
    "tolerant": DBRecoveryMode.tolerate_corrupted_tail_records,
}
_RESTORE_HINT = "Keep the directory as it is, and restore a copy of the store beside it."


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
        self._cursors: weakref.WeakSet[Cursor] = weakref.WeakSet()
        self._make_locks()
        self._apply = database.write
        self._flush_wal = database.flush_wal
        self._note = witness.note
        self._witnessed = witness.binding()
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
            with contextlib.ExitStack() as undo:
                store = cls._open(directory, app, durability, create, undo)
                undo.pop_all()
                return store
        except KlerkError:
            raise
        except OSError as error:
            raise StorageError(f"{directory} cannot be opened: {error}") from error

    @classmethod
    def _open(
        cls, path: Path, app: str, durability: Durability, create: bool, undo: contextlib.ExitStack
    ) -> Self:
        layout.check_directory(path, create=create)
        owner = layout.Owner(path)
        undo.callback(owner.release)
        if not layout.is_initialised(path):
            layout.initialise(path, app, _create_database)
        layout.check_marker(path, app)
        layout.clear_unfinished_links(path)
        witness = WitnessFile(path / layout.WITNESS)
        undo.callback(witness.release)
        # After a clean close nothing is left to replay, and no torn tail is to be expected.
        clean = witness.found.seal is not None and witness.found.seal == layout.seal(path)
        database, mode = _open_database(path, ("absolute",) if clean else _probe(path))
        undo.callback(_let_go, database)
        witness.begin(lasting=durability == "sync")
        store = cls(path, owner, witness, database, durability)
        store.closed_cleanly, store.recovered_tail = clean, mode == "tolerant"
        store.marks = MarkFile.open(path / layout.MARKS)
        return store

    def witness(self, sequence: int, digest: bytes) -> None:
        """Note the newest acknowledged position of the log; see `Storage.witness`."""
        if self._closed is not None:
            self._check_open()
        self._note(sequence, digest)

    def witnessed(self) -> Witness | None:
        """Return what the last run noted; see `Storage.witnessed`."""
        return self._witnessed

    def get(self, family: int, key: bytes) -> bytes | None:
        """Return the value, or None; see `Storage.get`."""
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
        options = ReadOptions()
        if stop is not None:
            options.set_iterate_upper_bound(stop)
        with self._scan_lock:
            self._check_open()
            iterator = self._families[family].iter(options)
            cursor = Cursor(iterator, start, self._scan_lock, self._scan_failed, options)
            self._cursors.add(cursor)
        return cursor.rows_down() if reverse else cursor.rows_up()

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

        RocksDB's memory is written to its tables: the next start has nothing to replay or to mistrust.
        """
        if self._closed is not None:
            return
        with self._sync_lock, self._scan_lock, self._checkpoint_lock:
            if self._closed is not None:
                return
            self._closed = Closed("the store is closed", hint="Open the app again.")
            self._refusing = True
            clean = self.failed is None and self._flush()
            self._drop_native_objects()
        _open_stores.discard(self)
        try:
            if clean:
                self._witness.end(layout.seal(self._path))
        except OSError as error:
            # Everything is durable, so that only the next start is slower: it mistrusts the files.
            _logger.warning(
                "%s could not be marked as cleanly closed: %s",
                self._path,
                error,
                extra=about("store_damaged"),
            )
        finally:
            self._witness.release()
            self._release_marks()
            self._owner.release()

    def _release_marks(self) -> None:
        if self.marks is not None:
            self.marks.release()

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

    def _compact(self, family: int, start: bytes, stop: bytes) -> None:
        with self._checkpoint_lock:
            self._check_open()
            try:
                self._flush_wal(True)
                # Old versions leave the write-ahead log with the flush, and the tables with the compaction.
                self._flush_families()
                self._families[family].compact_range(start, stop, tuning.thorough_compaction())
            except Exception as error:
                raise _translated(error, self._path) from error.with_traceback(None)

    def _copy_database(self, target: Path) -> None:
        """Make a copy with hard links, on the file system of the store."""
        try:
            # A checkpoint would do this itself, but with the interpreter lock held all the while.
            self._flush_families()
            Checkpoint(self._database).create_checkpoint(str(target))
        except Exception as error:
            raise _translated(error, self._path) from error.with_traceback(None)

    def _make_locks(self) -> None:
        # `close` takes all of these: it must not find anything in use by another thread.
        self._sync_lock = threading.Lock()
        self._scan_lock = threading.Lock()
        self._checkpoint_lock = threading.Lock()

    def _scan_failed(self, error: Exception | None) -> KlerkError:
        """Return why a scan cannot go on: its error, or that `close` took its iterator away."""
        if self._closed is not None:
            return Closed(self._closed.message, hint=self._closed.hint)
        assert error is not None
        return _translated(error, self._path)

    def _flush(self) -> bool:
        """Write what RocksDB holds in memory to its tables; return whether that went well."""
        try:
            self._flush_wal(True)
            self._flush_families()
        except Exception as error:
            # Nothing is lost: all of it is in the write-ahead log, and the next start replays that.
            _logger.warning(
                "%s was not closed cleanly: %s", self._path, str(error), extra=about("store_damaged")
            )
            return False
        return True

    def _flush_families(self) -> None:
        # The log comes last: see `set_atomic_flush` in `tuning.py`.
        for family in reversed(self._families):
            family.flush(True)

    def _drop_native_objects(self) -> None:
        for cursor in list(self._cursors):
            cursor.drop()
        self._handles.clear()  # in place: the frames of a latched failure know this list
        del self._apply, self._flush_wal
        for native in (*reversed(self._families), self._database):
            # A store that failed may fail again here. It is let go all the same.
            with contextlib.suppress(Exception):
                native.close()
        del native, self._database
        self._families.clear()

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
        iterators = [cursor.disown(self._scan_lock) for cursor in list(self._cursors)]
        for native in (self._database, *self._families, *self._handles, *iterators):
            # Freeing one would wait for, or crash on, threads and locks that did not survive the fork.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))
        self._witness.release()
        self._release_marks()
        self._owner.disown()


_open_stores: weakref.WeakSet[RocksStorage] = weakref.WeakSet()


def _disown_all() -> None:
    for store in list(_open_stores):
        store._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)


def _probe(path: Path) -> tuple[str, ...]:
    """Open RocksDB in another process; return the recovery modes to open it with here."""
    packages = Path(rocksdict.__file__).parents[1]
    verdict = trial.run(path / layout.DATABASE, packages, tuple(_RECOVERY_MODES), _FAMILY_NAMES)
    if verdict.refusal:
        raise _translated(Exception(verdict.refusal), path)
    if verdict.fatality:
        raise Corrupted(
            f"{path} is damaged: opening it in another process {verdict.fatality}", hint=_RESTORE_HINT
        )
    return verdict.modes


def _let_go(database: Rdict) -> None:
    """Close what is of no use; what led to this is told, and not that closing it failed as well."""
    with contextlib.suppress(Exception):
        database.close()


def _create_database(path: Path) -> None:
    options = tuning.database_options()
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    try:
        Rdict(str(path), options, _family_options()).close()
    except Exception as error:
        raise _translated(error, path) from error


def _open_database(path: Path, modes: tuple[str, ...]) -> tuple[Rdict, str]:
    """Open RocksDB with the first recovery mode that works; return it and the mode."""
    for mode in modes:
        options = tuning.database_options()
        options.create_if_missing(False)
        options.set_wal_recovery_mode(_RECOVERY_MODES[mode]())
        try:
            return Rdict(str(path / layout.DATABASE), options, _family_options()), mode
        except Exception as error:
            failure = _translated(error, path)
            failure.__cause__ = error
            if not isinstance(failure, Corrupted):
                break
    raise failure


def _family_options() -> dict[str, Options]:
    return {name: tuning.table_options() for name in _FAMILY_NAMES}


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

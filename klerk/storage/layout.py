"""The directory of a store: its marker, its lock, and how it comes into being.

    KLERK     what this directory is: format, application, when it was created; written last
    owner     locked by the process that has the store open, and its process id
    witness   the newest acknowledged position of the commit log
    running   marks of the jobs that are running; made anew when it is missing, as it is in a copy
    db/       RocksDB

A new store is built under the marker `KLERK.new`, which is renamed to `KLERK` when everything is durable. A
directory with `KLERK.new` was left by a crash while it was built: it never held anything, and is built anew.
"""

import datetime
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from klerk.errors import Corrupted, NewerStore, NotAStore, StorageError, StoreLocked, WrongStore
from klerk.storage.witness import WitnessFile

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MARKER = "KLERK"
UNFINISHED = "KLERK.new"
OWNER = "owner"
WITNESS = "witness"
MARKS = "running"
DATABASE = "db"

# While a copy is made: its marker, and the hard links to the store's files when it goes to another disk.
COPYING = "KLERK.copying"
LINKED = "db.copying"

# The version of everything below the marker: the families, and what this layer writes beside them.
FORMAT = 1

# On Windows a locked byte cannot be read: lock one beyond the process id that the file holds.
_LOCKED_BYTE = 1 << 30


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """What the marker file says."""

    format: int
    app: str
    created: datetime.datetime


class Owner:
    """The lock on a store's directory, held by one open store at a time.

    RocksDB's own lock is the real guard of the data; this one guards what is done before RocksDB is
    opened, and knows who holds it.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StoreLocked: someone has it, in this process or another.
        """
        self._fd = os.open(path / OWNER, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            self._lock()
        except OSError as error:
            holder = os.pread(self._fd, 32, 0) if hasattr(os, "pread") else os.read(self._fd, 32)
            os.close(self._fd)
            raise locked(path, holder.decode("ascii", "replace").strip()) from error
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode("ascii"))

    def release(self) -> None:
        """Give the lock up, also for processes that inherited it."""
        if sys.platform == "win32":
            os.lseek(self._fd, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(self._fd, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)

    def disown(self) -> None:
        """In a forked child: let go of the lock without giving up the parent's."""
        os.close(self._fd)

    def _lock(self) -> None:
        if sys.platform == "win32":
            os.lseek(self._fd, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(self._fd, msvcrt.LK_NBLCK, 1)
            os.lseek(self._fd, 0, os.SEEK_SET)
        else:
            # Not fcntl.lockf: that would not see another store in this process, and would be lost as
            # soon as anyone in this process closes the file.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def locked(path: Path, holder: str = "") -> StoreLocked:
    """Return the error for a store that is open elsewhere."""
    if holder == str(os.getpid()):
        by = " by this process"
    else:
        by = f" by process {holder}" if holder else ""
    return StoreLocked(
        f"the store {path} is open already{by}",
        hint="One process at a time has a store open. Close it there, or wait until that process ends.",
    )


def check_directory(path: Path, *, create: bool) -> None:
    """Find out whether a store is, or may come, at this path. Makes the directory if it may.

    Raises:
        NotAStore: there is something else, or nothing and `create` is false, or no parent.
    """
    try:
        present = set(os.listdir(path))
    except FileNotFoundError as error:
        if not create:
            raise NotAStore(
                f"there is no store at {path}", hint="Check the path, or let it be created."
            ) from error
        _make_directory(path)
        return
    except NotADirectoryError as error:
        raise NotAStore(f"{path} is a file; a store is a directory", hint="Name another path.") from error
    if MARKER in present:
        return
    ours = {OWNER, UNFINISHED, WITNESS, DATABASE} if UNFINISHED in present else {OWNER}
    if foreign := sorted(present - ours):
        raise NotAStore(
            f"{path} is not a store: it holds {', '.join(foreign[:3])} and no {MARKER} file",
            hint="Name an empty directory, or one that does not exist yet.",
        )
    if not create:
        raise NotAStore(f"{path} is empty: there is no store", hint="Let it be created.")


def is_initialised(path: Path) -> bool:
    """Return whether the store was ever completed."""
    return (path / MARKER).exists()


def initialise(path: Path, app: str, create_database: Callable[[Path], None]) -> None:
    """Build a new store in an empty directory, or anew in one that a crash left half built."""
    shutil.rmtree(path / DATABASE, ignore_errors=True)
    marker = Marker(format=FORMAT, app=app, created=datetime.datetime.now(datetime.UTC))
    write_durably(path / UNFINISHED, msgspec.json.format(msgspec.json.encode(marker), indent=2) + b"\n")
    sync_directory(path)
    create_database(path / DATABASE)
    WitnessFile.create(path / WITNESS, seal(path))
    sync_directory(path)
    os.replace(path / UNFINISHED, path / MARKER)
    sync_directory(path)


def read_marker(path: Path) -> Marker:
    """Return what the marker says.

    Raises:
        Corrupted: the marker cannot be read.
        NewerStore: the format is newer than this version of Klerk knows.
    """
    raw = (path / MARKER).read_bytes()
    try:
        # The format is read alone first: a newer one may have changed everything else.
        found = msgspec.json.decode(raw, type=dict[str, object]).get("format")
        if isinstance(found, int) and found > FORMAT:
            raise NewerStore(
                f"{path} has format {found}; this version of Klerk knows up to {FORMAT}",
                hint="Open it with a newer version of Klerk.",
            )
        return msgspec.json.decode(raw, type=Marker)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupted(
            f"the marker {path / MARKER} cannot be read: {error}",
            hint="Restore the file from a copy of the store.",
        ) from error


def app_of(path: Path) -> str:
    """Return the name of the application that a store belongs to.

    Raises:
        NotAStore: there is none at this path.
        Corrupted, NewerStore: as for `read_marker`.
    """
    check_directory(path, create=False)
    return read_marker(path).app


def check_marker(path: Path, app: str) -> None:
    """Compare the marker with what this version and this application expect.

    Raises:
        Corrupted, NewerStore: as for `read_marker`.
        WrongStore: the store belongs to another application.
    """
    marker = read_marker(path)
    if marker.app != app:
        raise WrongStore(
            f"{path} belongs to the application {marker.app!r}, not to {app!r}",
            hint="Name another path. An application keeps its name for as long as it keeps its data.",
        )


def seal(path: Path) -> int:
    """Return a checksum of the files that RocksDB starts from: what its tables are, and what to replay.

    Damage in them can make RocksDB spin for ever. If they are as a clean close left them, it cannot.
    """
    database = path / DATABASE
    checksum = 0
    for file in sorted([*database.glob("CURRENT"), *database.glob("MANIFEST-*"), *database.glob("*.log")]):
        checksum = zlib.crc32(file.name.encode() + b"\0" + file.read_bytes(), checksum)
    return checksum


def copy_store(path: Path, target: Path, witness: WitnessFile, copy_database: Callable[[Path], None]) -> None:
    """Copy an open store to a directory that appears under its name when it is complete.

    Parameters:
        witness: the open store's own.
        copy_database: makes a copy of RocksDB's directory on the file system of the store.

    Raises:
        StorageError: the target exists, or its parent does not.
    """
    if os.path.lexists(target):
        raise StorageError(f"the copy cannot be made: {target} exists", hint="Name a new directory.")
    building = target.with_name(target.name + ".unfinished")
    _clear_unfinished_copy(building)
    building.mkdir()
    write_durably(building / COPYING, b"")
    # The witness comes first: it must not be ahead of the data that is copied after it.
    witness.copy_to(building / WITNESS)
    if os.stat(building).st_dev == os.stat(path).st_dev:
        copy_database(building / DATABASE)
    else:
        linked = path / LINKED
        clear_unfinished_links(path)
        copy_database(linked)
        _copy_durably(linked, building / DATABASE)
        shutil.rmtree(linked)
    write_durably(building / MARKER, (path / MARKER).read_bytes())
    os.remove(building / COPYING)
    sync_directory(building)
    os.rename(building, target)
    sync_directory(target.parent)


def clear_unfinished_links(path: Path) -> None:
    """Remove what a crash left of a copy to another disk: its links keep obsolete files alive."""
    shutil.rmtree(path / LINKED, ignore_errors=True)


def _clear_unfinished_copy(building: Path) -> None:
    """Remove what a crash left of an earlier copy, and nothing that anyone else may have put there."""
    if not building.exists():
        return
    if set(os.listdir(building)) and not (building / COPYING).exists():
        raise StorageError(
            f"the copy cannot be made: {building} exists and is no unfinished copy",
            hint="Name another directory, or move that one away.",
        )
    shutil.rmtree(building)


def _copy_durably(source: Path, target: Path) -> None:
    target.mkdir()
    for name in sorted(os.listdir(source)):
        shutil.copyfile(source / name, target / name)
        with open(target / name, "rb+") as file:
            os.fsync(file.fileno())
    sync_directory(target)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the directory's entries are on disk. Windows has no such call and needs none."""
    if sys.platform == "win32":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def size_bytes(path: Path) -> int:
    """Return the size of all files below a directory; those that vanish meanwhile do not count."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _make_directory(path: Path) -> None:
    try:
        path.mkdir()
    except FileNotFoundError as error:
        raise NotAStore(
            f"{path} cannot be created: {path.parent} does not exist", hint="Create that directory first."
        ) from error
    except FileExistsError:
        return
    except OSError as error:
        raise StorageError(f"{path} cannot be created: {error.strerror}") from error
    sync_directory(path.parent)

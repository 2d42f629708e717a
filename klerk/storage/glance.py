"""Looking into a store without opening it: nothing in it changes, and another process may have it open."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from klerk import limits
from klerk.errors import StorageError
from klerk.storage import layout
from klerk.storage.contract import Family

_SCRIPT = str(Path(__file__).with_name("peek.py"))
# Rewritten by rocksdict whenever it opens a database, be it only to read.
_REWRITTEN = "rocksdict-config.json"


def stored_value(path: str | os.PathLike[str], app: str, family: Family, key: bytes) -> bytes | None:
    """Return one value of a store.

    RocksDB reads links to the store's files in another process, because damage can make it spin for ever.

    Parameters:
        path: the store's directory.
        app: the application's name.
        key: in ASCII.

    Raises:
        NotAStore, WrongStore, NewerStore: it is not one that this application can use.
        StorageError: it could not be read.
    """
    directory = Path(os.path.abspath(path))
    layout.check_directory(directory, create=False)
    layout.check_marker(directory, app)
    rocksdict = importlib.util.find_spec("rocksdict")
    if rocksdict is None or rocksdict.origin is None or not sys.executable or getattr(sys, "frozen", False):
        raise StorageError(
            f"{directory} cannot be looked into: there is no Python to start", hint="Open the store instead."
        )
    packages, families = Path(rocksdict.origin).parents[1], ",".join(each.name.lower() for each in Family)
    with tempfile.TemporaryDirectory(prefix="klerk-glance-") as links:
        _link(directory / layout.DATABASE, Path(links))
        script = [sys.executable, "-I", "-S", _SCRIPT, str(packages), links, families]
        output = _output(directory, [*script, family.name.lower(), key.decode("ascii")])
    return None if output == "none" else bytes.fromhex(output)


def _link(database: Path, links: Path) -> None:
    """Fill a directory with links to the files of another; with copies, where links cannot be made."""
    for file in database.iterdir():
        try:
            if file.name == _REWRITTEN:
                shutil.copyfile(file, links / file.name)
            else:
                os.symlink(file, links / file.name)
        except FileNotFoundError:
            continue  # The process that has the store open has removed it meanwhile.
        except OSError:
            shutil.copyfile(file, links / file.name)


def _output(directory: Path, command: list[str]) -> str:
    wal_bytes = sum(file.stat().st_size for file in (directory / layout.DATABASE).glob("*.log"))
    limit_s = limits.PROBE_BASE_S + limits.PROBE_S_PER_GIB * wal_bytes / 1024**3
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired as error:
        raise StorageError(f"{directory} cannot be read: that did not end within {limit_s:.0f} s") from error
    if done.returncode != 0:
        words = done.stderr.strip() or f"the process that tried ended with exit code {done.returncode}"
        raise StorageError(f"{directory} cannot be read: {words}", hint="Open it to learn more.")
    return done.stdout.strip()

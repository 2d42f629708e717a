"""Opening a database in a child process first, with a time limit: see `probe.py` for the reason."""

import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from klerk import limits
from klerk.log_events import about

_logger = logging.getLogger("klerk.storage")

_SCRIPT = str(Path(__file__).with_name("probe.py"))
_STARTED = "started"
_REFUSED_EXIT_CODE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the child found: exactly one of these is not empty.

    Parameters:
        modes: the recovery modes to open the database with, in this order.
        refusal: RocksDB's words, when no mode works.
        fatality: how the child perished, when it hung or crashed.
    """

    modes: tuple[str, ...] = ()
    refusal: str = ""
    fatality: str = ""


def run(database: Path, packages: Path, modes: tuple[str, ...], families: list[str]) -> Verdict:
    """Open the database read-only in a child process.

    Where no child can be started (a frozen or embedded interpreter is no Python that runs a script), all
    modes are returned unproven, and damage may make the opening hang.

    Parameters:
        database: RocksDB's directory.
        packages: the directory that rocksdict is imported from.
        modes: all recovery modes.
        families: all column families, by name.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        return Verdict(modes=modes)
    command = [sys.executable, "-I", "-S", _SCRIPT, str(packages), str(database), *families]
    try:
        status, output, words = _outcome(command, _limit_s(database))
    except OSError as error:
        status, output, words = None, [], str(error)
    if _STARTED not in output[:1]:
        _logger.warning(
            "%s is opened without a trial in another process: %s",
            database,
            words,
            extra=about("store_damaged"),
        )
        return Verdict(modes=modes)
    if status == 0:
        return Verdict(modes=tuple(output[1:]))
    if status == _REFUSED_EXIT_CODE:
        return Verdict(refusal=words or "it cannot be opened")
    return Verdict(fatality=f"ended with exit code {status}" if status is not None else words)


def _outcome(command: list[str], limit_s: float) -> tuple[int | None, list[str], str]:
    """Run the child; return its exit code (None: it hung), its output's words, and what it complained of."""
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
        return None, _words(error.stdout or b""), f"did not end within {limit_s:.0f} s"
    return done.returncode, _words(done.stdout), done.stderr.decode("utf-8", "replace").strip()


def _limit_s(database: Path) -> float:
    wal_bytes = sum(file.stat().st_size for file in database.glob("*.log"))
    return limits.PROBE_BASE_S + limits.PROBE_S_PER_GIB * wal_bytes / 1024**3


def _words(output: bytes) -> list[str]:
    return output.decode("ascii", "replace").split()

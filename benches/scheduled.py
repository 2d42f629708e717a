"""What a million jobs that wait for tomorrow cost besides time: memory, and opening the store.

Memory is measured in a process of its own: what it has grown by after the jobs were scheduled, and others ran
beside them.
"""

import heapq
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benches.harness import Contender, Sample, Unit, Workspace
from benches.jobs import SCHEDULED, JobRecord
from benches.klerk_contenders import schedule_for_tomorrow
from klerk import App, Job, JobRun

MEGABYTES = Unit(name="MB", of=lambda megabytes, operations: megabytes / operations)
JOBS_BESIDE = 5_000
BYTES_OF_RSS = 1 if sys.platform == "darwin" else 1024


def _declared() -> tuple[App, Job[[int]]]:
    app = App("scheduled")

    @app.job()
    def wait(job: JobRun, number: int) -> None:
        """The job."""

    return app, wait


def opening(scheduled: int) -> Contender:
    """Opening a store of that many scheduled jobs, made once, and closing it."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        app, wait = _declared()
        path = workspace.directory / "store"
        with app.open(path, durability="process") as k:
            schedule_for_tomorrow(k, wait, scheduled, workspace)

        def sample(operations: int) -> None:
            for _ in range(operations):
                with app.open(path, durability="sync"):
                    pass

        yield sample

    return contender


def memory(grow: Callable[[int, Path], int], scheduled: int) -> Contender:
    """How much a process grows by that many scheduled jobs, in MB.

    Parameters:
        grow: does it in a directory and returns the growth in bytes; a function of this module.
    """

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        command = [sys.executable, "-m", "benches.scheduled", grow.__name__, str(scheduled)]

        def sample(operations: int) -> float:
            grown = 0
            for _ in range(operations):
                with tempfile.TemporaryDirectory(dir=workspace.directory) as directory:
                    done = subprocess.run([*command, directory], check=True, capture_output=True, text=True)
                    grown += int(done.stdout)
            return grown / 1e6

        yield sample

    return contender


def klerk(scheduled: int, directory: Path) -> int:
    """Klerk's jobs; some others run before and after."""
    app, wait = _declared()
    with app.open(directory / "store", durability="process") as k:

        def run_some() -> None:
            k.jobs.schedule(*[wait(number) for number in range(JOBS_BESIDE)])
            k.jobs.wait_until_idle()

        run_some()
        before = _size()
        schedule_for_tomorrow(k, wait, scheduled, Workspace(directory=directory, announce=_nobody))
        run_some()
    return _size() - before


def floor(scheduled: int, directory: Path) -> int:
    """By hand: the records in a heap."""
    before = _size()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    due_ns = int(tomorrow.timestamp() * 1e9)
    waiting: list[tuple[int, int, Any]] = []
    for number in range(scheduled):
        record = JobRecord(number, "wait", SCHEDULED, due_ns + number, number)
        heapq.heappush(waiting, (record.due_ns, number, record))
    return _size() - before


def _size() -> int:
    """Return the memory that the process has of the machine's, in bytes; or had, where there is no /proc."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_OF_RSS


def _nobody(text: str) -> None:
    """Announce nothing."""


if __name__ == "__main__":
    print({"klerk": klerk, "floor": floor}[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3])))

"""How soon a job starts: from the moment when it is asked for until its function is called, at a steady rate.

Each is durable before it starts: Klerk's jobs are created by a deposit, the floor writes a deposit with its
job by hand, the peers enqueue one. They are asked for at fixed moments, whatever became of the ones before.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from statistics import quantiles

from benches import job_peers
from benches.floors import open_rocks
from benches.harness import Contender, Sample, Workspace
from benches.jobs import WORKERS, job_depositor
from benches.klerk_contenders import TELLER, Amount, declare_bank, open_bank
from benches.workload import targets
from klerk import JobRun

JOBS_PER_S = 1_000
PERCENTILES = 100
ROUNDS = 5

Figure = Callable[[list[float]], float]
Enqueue = Callable[[int], object]
Enqueuing = Callable[[Path, Callable[[int], None]], AbstractContextManager[Enqueue]]
"""From a directory and the job's function to what asks for a job by its number."""


def percentile(which: int) -> Figure:
    """Returns the function that gives a percentile of latencies."""
    return lambda latencies: quantiles(latencies, n=PERCENTILES, method="inclusive")[which - 1]


def start(enqueuing: Enqueuing, figure: Figure) -> Contender:
    """A contender whose samples give a figure of its latencies, in seconds for each operation."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        latencies = _Latencies()
        with enqueuing(workspace.directory, latencies.job_started) as enqueue:

            def sample(operations: int) -> float:
                latencies.begin(operations)
                first = time.perf_counter()
                for number in range(operations):
                    due = first + number / JOBS_PER_S
                    time.sleep(max(0.0, due - time.perf_counter()))
                    latencies.asked[number] = time.perf_counter()
                    enqueue(number)
                return figure(latencies.all()) * operations

            yield sample

    return contender


class _Latencies:
    """When jobs were asked for, and when they started."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._started: list[float] = []
        self._left = 0
        self._lock = threading.Lock()
        self._complete = threading.Event()

    def begin(self, operations: int) -> None:
        """Expect so many jobs."""
        self.asked, self._started = [0.0] * operations, [0.0] * operations
        self._left = operations
        self._complete.clear()

    def job_started(self, number: int) -> None:
        """The job: it notes the time."""
        self._started[number] = time.perf_counter()
        with self._lock:
            self._left -= 1
            if not self._left:
                self._complete.set()

    def all(self) -> list[float]:
        """Return the latencies in seconds, once all have started."""
        self._complete.wait()
        return [started - asked for asked, started in zip(self.asked, self._started, strict=True)]


@contextmanager
def klerk(directory: Path, job_started: Callable[[int], None], *, on_loop: bool = False) -> Iterator[Enqueue]:
    """A deposit whose amount tells its job which one it is; see `start`."""
    bank = declare_bank()
    if on_loop:

        @bank.app.job()
        async def note(job: JobRun, amount: Amount) -> None:
            """The job, on the event loop."""
            job_started(amount - 1)

    else:

        @bank.app.job()
        def note(job: JobRun, amount: Amount) -> None:
            """The job, in a thread."""
            job_started(amount - 1)

    bank.opened.on(bank.deposit).job(lambda a, amount: note(amount))
    with open_bank(bank, directory) as (k, accounts):
        chosen = targets()
        yield lambda number: k.submit(bank.deposit(accounts[next(chosen)], Amount(number + 1)), TELLER)
        k.jobs.wait_until_idle()


klerk_loop = partial(klerk, on_loop=True)


@contextmanager
def floor(directory: Path, job_started: Callable[[int], None]) -> Iterator[Enqueue]:
    """By hand: one thread writes and syncs what has gathered, four start the jobs."""
    asked: SimpleQueue[int | None] = SimpleQueue()
    durable: SimpleQueue[int | None] = SimpleQueue()
    with open_rocks(directory / "store", "log", "models", "jobs") as db:
        deposit = job_depositor(db)

        def write() -> None:
            stopping = False
            while not stopping:
                gathered = [asked.get()]
                while not asked.empty():
                    gathered.append(asked.get())
                stopping = None in gathered
                gathered = [number for number in gathered if number is not None]
                if gathered:
                    deposit(len(gathered))
                for number in gathered:
                    durable.put(number)

        def run() -> None:
            while (number := durable.get()) is not None:
                job_started(number)

        threads = [threading.Thread(target=write), *(threading.Thread(target=run) for _ in range(WORKERS))]
        for thread in threads:
            thread.start()
        try:
            yield asked.put
        finally:
            asked.put(None)
            threads[0].join()
            for _ in range(WORKERS):
                durable.put(None)
            for thread in threads[1:]:
                thread.join()


def huey(directory: Path, job_started: Callable[[int], None]) -> AbstractContextManager[Enqueue]:
    """See `benches.job_peers`."""
    return job_peers.huey(directory, job_started, WORKERS, lambda: None)


def procrastinate(directory: Path, job_started: Callable[[int], None]) -> AbstractContextManager[Enqueue]:
    """See `benches.job_peers`."""
    return job_peers.procrastinate(directory, job_started, WORKERS, lambda: None)

"""Jobs from end to end: created by a durable deposit, run as a no-op by 4 workers, completed durably."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Self

import msgspec
from rocksdict import Rdict, WriteBatch

from benches import job_peers
from benches.floors import Entry, key, new_account, open_rocks
from benches.harness import Contender, Sample, Workspace
from benches.workload import ACCOUNTS, ACTOR, AMOUNT, targets

WORKERS = 4
GROUP_SIZE = 100
COMPLETED_AT_ONCE_MAX = 1_000
SCHEDULED, COMPLETED = 0, 1


class JobRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A job as the floor keeps it."""

    id: int
    kind: str
    state: int
    due_ns: int
    account: int


def do_nothing(account: int) -> None:
    """The job."""


@contextmanager
def floor(workspace: Workspace) -> Iterator[Sample]:
    """By hand on RocksDB: deposits with their jobs in groups, a queue, 4 threads, completions in groups."""
    with (
        open_rocks(workspace.directory / "store", "log", "models", "jobs") as db,
        _FloorWorkers(db) as workers,
    ):
        deposit = job_depositor(db)

        def sample(operations: int) -> None:
            completed = workers.expect(operations)
            for _ in range(operations // GROUP_SIZE):
                for job in deposit(GROUP_SIZE):
                    workers.jobs.put(job)
            completed.wait()

        yield sample


def job_depositor(db: Rdict) -> Callable[[int], list[JobRecord]]:
    """Return what writes so many deposits with their jobs, durably, and returns the jobs."""
    log, models, jobs = (db.get_column_family_handle(name) for name in ("log", "models", "jobs"))
    accounts = {number: new_account(number) for number in range(ACCOUNTS)}
    encode = msgspec.msgpack.Encoder().encode
    numbers = targets()
    sequences = itertools.count(1)

    def deposit(count: int) -> list[JobRecord]:
        batch = WriteBatch(raw_mode=True)
        created = []
        for _ in range(count):
            number, sequence, now_ns = next(numbers), next(sequences), time.time_ns()
            account = accounts[number]
            accounts[number] = account = msgspec.structs.replace(
                account, balance=account.balance + AMOUNT, version=account.version + 1, updated_ns=now_ns
            )
            encoded = encode(account)
            entry = Entry(sequence, now_ns, ACTOR, "deposit", number, AMOUNT, msgspec.Raw(encoded))
            job = JobRecord(sequence, "do_nothing", SCHEDULED, now_ns, number)
            batch.put(key(number), encoded, models)
            batch.put(key(sequence), encode(entry), log)
            batch.put(key(sequence), encode(job), jobs)
            created.append(job)
        db.write(batch)
        db.flush_wal(True)
        return created

    return deposit


class _FloorWorkers:
    """Threads that run jobs from a queue, and one that makes their completions durable in groups."""

    def __init__(self, db: Rdict) -> None:
        self.jobs: SimpleQueue[JobRecord | None] = SimpleQueue()
        self._done: SimpleQueue[JobRecord | None] = SimpleQueue()
        self._db = db
        self._expected = 0
        self._completed = threading.Event()
        self._runners = [threading.Thread(target=self._run) for _ in range(WORKERS)]
        self._completer = threading.Thread(target=self._complete)

    def __enter__(self) -> Self:
        for thread in (*self._runners, self._completer):
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for _ in self._runners:
            self.jobs.put(None)
        for thread in self._runners:
            thread.join()
        self._done.put(None)
        self._completer.join()

    def expect(self, jobs: int) -> threading.Event:
        """The event is set when so many more jobs are durably completed."""
        self._expected = jobs
        self._completed.clear()
        return self._completed

    def _run(self) -> None:
        while (job := self.jobs.get()) is not None:
            do_nothing(job.account)
            self._done.put(job)

    def _complete(self) -> None:
        jobs = self._db.get_column_family_handle("jobs")
        encode = msgspec.msgpack.Encoder().encode
        while (job := self._done.get()) is not None:
            batch = WriteBatch(raw_mode=True)
            completed = 0
            while job is not None:
                completed += 1
                record = JobRecord(job.id, job.kind, COMPLETED, job.due_ns, job.account)
                batch.put(key(job.id), encode(record), jobs)
                job = self._next_done() if completed < COMPLETED_AT_ONCE_MAX else None
            self._db.write(batch)
            self._db.flush_wal(True)
            self._expected -= completed
            if self._expected == 0:
                self._completed.set()

    def _next_done(self) -> JobRecord | None:
        try:
            return self._done.get_nowait()
        except Empty:
            return None


def peer(queue: job_peers.Queue) -> Contender:
    """Another job queue: enqueued singly, run by 4 workers, completed durably; no deposit beside it."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        completions: SimpleQueue[None] = SimpleQueue()
        with queue(workspace.directory, do_nothing, WORKERS, lambda: completions.put(None)) as enqueue:

            def sample(operations: int) -> None:
                for number in range(operations):
                    enqueue(number)
                for _ in range(operations):
                    completions.get()

            yield sample

    return contender

"""A process that is killed by its own jobs.

`python -m crashing STORE LEDGER SCENARIO` opens the store, schedules the jobs of the scenario if the store
is new, and closes it when they have ended, unless one of them ends the process before. What jobs do stands
in the ledger, one line for each step, which is on disk before they go on.
"""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from designs import TESTER, Account, Bank, Cents, Name

import klerk
from klerk import Args, JobRequest, JobRun, Ref
from klerk.audit.commit_log import transactions
from klerk.codec import read_job
from klerk.job_manager.attempts import Attempts
from klerk.job_manager.starts import Starts
from klerk.jobs import JobRecord
from klerk.storage import RocksStorage

ACCOUNTS = 4
CLOSINGS = 400


def die(how: str = "kill") -> None:
    """End this process at once, with nothing done for its end."""
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    else:
        ctypes.string_at(0)


class Works(Bank):
    """A bank with jobs that kill the process, and with jobs that happen to run beside them."""

    def __init__(self, ledger: Path) -> None:
        super().__init__()
        self.ledger = ledger
        self.app.queue("serial", concurrency=1)
        self._declare_deadly()
        self._declare_at_most_once()
        self._declare_handling()
        self._declare_closing()

    def note(self, line: str) -> None:
        """Add a line to the ledger, durably."""
        fd = os.open(self.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{line}\n".encode())
        os.fsync(fd)
        os.close(fd)

    def lines(self) -> list[str]:
        """Return what stands in the ledger."""
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []

    def _declare_deadly(self) -> None:
        app, note = self.app, self.note

        @app.job(max_crashes=1)
        def deadly(job: JobRun, how: str) -> None:
            note(f"deadly {job.crashes}")
            die(how)

        @app.job(max_crashes=1)
        async def deadly_coroutine(job: JobRun, how: str) -> None:
            await asyncio.sleep(0)
            note(f"deadly {job.crashes}")
            die(how)

        @app.job(max_crashes=2)
        def poison(job: JobRun, beside: int) -> None:
            """Die as soon as so many others run."""
            note(f"poison {job.crashes} attempt {job.attempt}")
            while sum(line.startswith("begin") for line in self.lines()) < beside:
                time.sleep(0.002)
            die()

        @app.job(max_crashes=2)
        def innocent(job: JobRun, name: str) -> None:
            """The first time, run until the process ends."""
            note(f"begin {name} {job.crashes}")
            time.sleep(0.05 if job.crashes else 60)
            note(f"end {name} {job.crashes}")

        @app.job(queue="serial")
        def fragile(job: JobRun) -> None:
            note(f"run {job.id} crashes {job.crashes} attempt {job.attempt}")
            if job.id == 1 and not job.crashes:
                die()

        self.deadly, self.deadly_coroutine = deadly, deadly_coroutine
        self.poison, self.innocent, self.fragile = poison, innocent, fragile

    def _declare_at_most_once(self) -> None:
        app, note = self.app, self.note

        @app.job(at_most_once=True)
        def once(job: JobRun, is_deadly: bool) -> None:
            note(f"once {job.attempt}")
            if is_deadly:
                die()

        @app.job(at_most_once=True)
        async def once_coroutine(job: JobRun, is_deadly: bool) -> None:
            note(f"once {job.attempt}")
            if is_deadly:
                die()

        self.once, self.once_coroutine = once, once_coroutine

    def _declare_handling(self) -> None:
        @self.app.job(max_crashes=100)
        def steps(job: JobRun) -> None:
            """Die after each step, and come one further each time."""
            note, account = self.note, Ref[Account](1)
            note(f"key {job.idempotency_key}")
            commands: list[tuple[Any, str | None]] = [
                (self.enter(Name("new")), None),
                (self.deposit(account, Cents(1)), None),
                (self.deposit(account, Cents(10)), None),
                (self.transfer(account, Ref[Account](2), Cents(3)), None),
                (self.deposit(account, Cents(100 * (1 + job.crashes))), "hundreds"),
                (self.enter(Name(f"named {job.crashes}")), "another"),
            ]
            for number, (command, step) in enumerate(commands):
                result = job.handle(command, step=step)
                note(f"step {number} {'repeated' if result.repeated else 'done'}")
                if number == job.crashes:
                    die()

        @self.app.job()
        def pay(job: JobRun) -> None:
            job.handle(self.deposit(Ref[Account](1), Cents(1)))
            job.handle(self.deposit(Ref[Account](1), Cents(1)), step="second")

        self.steps, self.pay = steps, pay

    def _declare_closing(self) -> None:
        @self.app.job(max_crashes=100)
        def closing(job: JobRun) -> Any:
            return job.complete_with(self.deposit(Ref[Account](1), Cents(1)))

        @self.app.job(max_crashes=2)
        def closing_deadly(job: JobRun) -> Any:
            self.note(f"closing {job.crashes}")
            return job.complete_with(self.rename(Ref[Account](1), Name("deadly")))

        @self.rename.rule
        def is_not_deadly(a: Args[Account], owner: str) -> bool:
            if owner == "deadly":
                die()
            return True

        self.closing, self.closing_deadly = closing, closing_deadly

    def requests(self, scenario: str) -> list[JobRequest]:
        """Return the jobs that a scenario begins with."""
        kind, _, how = scenario.partition("-")
        found: dict[str, Callable[[], list[JobRequest]]] = {
            "plain": lambda: [self.deadly(how)],
            "coroutine": lambda: [self.deadly_coroutine(how)],
            # The poison is the youngest: those that it killed run before it.
            "beside": lambda: [*map(self.innocent, "abc"), self.poison(3)],
            "first": lambda: [self.fragile(), self.fragile()],
            "once": lambda: [(self.once_coroutine if "coroutine" in how else self.once)(how in DEADLY)],
            "steps": lambda: [self.steps()],
            # One after the other: the second kills the process once the end of the first is durable.
            "paying": lambda: [each.options(queue="serial") for each in (self.pay(), self.deadly("kill"))],
            "closing": lambda: [self.closing() for _ in range(CLOSINGS)],
            "rule": lambda: [self.closing_deadly()],
        }
        return found[kind]()


DEADLY = ("inside", "inside_coroutine")


def arrange(scenario: str) -> None:
    """Let the process die where no function of the application runs."""
    if scenario == "once-started":
        Attempts._goes_on = lambda *_: die()  # type: ignore[method-assign, assignment]
    elif scenario == "once-waiting":
        Starts.record = lambda *_: die()  # type: ignore[method-assign, assignment]


def last_records(store: Path) -> dict[int, JobRecord]:
    """Return the newest record of every job, from the commit log of a store that nobody has open."""
    storage = RocksStorage.open(store, app="bank", durability="sync", create=False)
    try:
        payloads = [each.payload for each in transactions(storage)]
        return {id: read_job(id, row) for payload in payloads if payload for id, row in payload.jobs}
    finally:
        storage.close()


def main(store: str, ledger: str, scenario: str) -> None:
    works = Works(Path(ledger))
    with works.app.open(store, token_ttl=timedelta(days=1)) as k:
        if not k.sequence:
            k.handle_all([works.enter(f"A{i}", 500) for i in range(ACCOUNTS)], TESTER)
            arrange(scenario)
            k.jobs.schedule(*works.requests(scenario))
        assert k.jobs.wait_until_idle(20)


if __name__ == "__main__":
    assert klerk.__file__
    main(*sys.argv[1:])

"""What several tests share: a bank that permits everything, a clock to be set, Python in its own process."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import klerk
from klerk import App, Args, Context, Model, Ref, User

TESTER = Context(User("tester"))
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)


class Name(klerk.Text, min=1, max=40): ...


class Cents(klerk.Int, ge=0, le=1_000_000): ...


class Account(Model):
    owner: Name
    balance: Cents = 0
    guarantor: Ref["Account"] | None = None


def permit_everything(app: App) -> None:
    """Allow every actor every command and every read."""
    app.allow.command()(lambda a: True)
    app.allow.read()(lambda a: True)
    app.allow.field()(lambda a: True)


class Bank:
    """Accounts with a unique owner, which may name another account as guarantor, and can be removed."""

    def __init__(self) -> None:
        self.app = App("bank")
        self.accounts = accounts = self.app.machine(Account)
        self.active, self.closed = accounts.states("active", "closed")
        self.by_owner = accounts.index(lambda account: account.owner, unique=True)
        self.by_balance = accounts.index(lambda account: account.balance or None)
        permit_everything(self.app)

        @accounts.create(into=self.active)
        def enter(a: Args, owner: Name, balance: Cents = 0, guarantor: Ref[Account] | None = None) -> Account:
            return Account(owner=owner, balance=balance, guarantor=guarantor)

        @accounts.event(self.active)
        def deposit(a: Args[Account], amount: Cents) -> Account:
            return a.model.replace(balance=a.model.balance + amount)

        @accounts.event(self.active)
        def withdraw(a: Args[Account], amount: Cents) -> Account:
            return a.model.replace(balance=a.model.balance - amount)

        @withdraw.rule
        def covered(a: Args[Account], amount: Cents) -> bool:
            """There is not that much in the account."""
            return amount <= a.model.balance

        @accounts.event(self.active)
        def transfer(a: Args[Account], to: Ref[Account], amount: Cents) -> Account:
            return a.model.replace(balance=a.model.balance - amount)

        self.active.on(transfer).commands(lambda a, to, amount: deposit(to, amount))

        @accounts.event(self.active, self.closed)
        def rename(a: Args[Account], owner: Name) -> Account:
            return a.model.replace(owner=owner)

        @accounts.event(self.active, to=self.closed)
        def close(a: Args[Account]) -> None: ...

        @accounts.event(self.closed, to=self.active)
        def reopen(a: Args[Account]) -> None: ...

        @accounts.event(self.active, self.closed)
        def remove(a: Args[Account]) -> None: ...

        self.active.on(remove).delete()
        self.closed.on(remove).delete()
        self.enter, self.deposit, self.withdraw, self.transfer = enter, deposit, withdraw, transfer
        self.rename, self.close, self.reopen, self.remove = rename, close, reopen, remove

    def contents(self, k: klerk.Klerk) -> dict[int, tuple[str, int, str]]:
        """Return owner, balance and state of every account by id."""
        with k.read(TESTER) as r:
            return {m.meta.id: (m.owner, m.balance, str(m.meta.state)) for m in r.list(self.accounts)}


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by


class Brake:
    """Holds up the processing of renamings, while it is armed, until it is let go."""

    def __init__(self, bank: Bank) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.armed = False

        @bank.rename.rule
        def wait(a: Args[Account], owner: str) -> bool:
            if self.armed:
                self.reached.set()
                assert self.go.wait(20)
            return True


class Interrupted(BaseException):
    """As KeyboardInterrupt is raised by a signal, in whatever the main thread waits for."""


class Spawned(threading.Thread):
    """A thread that keeps what its function returned or raised; `end` waits for it and fails if it hangs."""

    def __init__(self, function: Any, *args: Any) -> None:
        super().__init__(daemon=True)
        self.function, self.args = function, args
        self.value: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self.function(*self.args)
        except BaseException as error:
            self.error = error

    def end(self, timeout_s: float = 20) -> Any:
        self.join(timeout_s)
        assert not self.is_alive(), f"{self.function} hangs"
        if self.error is not None:
            raise self.error
        return self.value


def eventually(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Return once a condition holds; what makes it hold goes on in other threads."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)


def processed(k: klerk.Klerk) -> int:
    """Return the place of the newest processed transaction, which nobody sees before it is durable."""
    sequence: int = k._program.processor.sequence
    return sequence


def wait_until_blocked(thread: threading.Thread) -> None:
    """Return once a thread stands still: it was seen at the same instruction again and again."""
    seen: Any = None
    times = 0
    for _ in range(20_000):
        time.sleep(0.001)
        frame = sys._current_frames().get(thread.ident or 0)
        assert frame is not None, "the thread has ended"
        now = id(frame), frame.f_lasti
        times = times + 1 if now == seen else 0
        seen = now
        if times == 20:
            return
    raise AssertionError("the thread does not stand still")


def python_environment() -> dict[str, str]:
    """Return an environment in which a new process finds the klerk and the helpers that are tested here."""
    package = Path(klerk.__file__).resolve().parent.parent
    paths = [str(package), str(Path(__file__).resolve().parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def run_python(*arguments: str, cwd: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, with warnings as errors, and return what it wrote."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env=python_environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout_s,
        check=False,
    )

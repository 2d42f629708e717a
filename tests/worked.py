"""A design whose jobs run in processes: a bank that any process can import, with jobs of every kind.

Jobs tell by files in a directory what they did, since nothing else is shared.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import klerk
from klerk import Args, Discard, JobRun, Model, Ref, Snooze
from klerk.job_outcomes import Completion


class Owner(klerk.Text, min=1, max=40): ...


class Colour(klerk.Enum):
    RED = "red"


class Account(Model):
    owner: Owner
    balance: int = 0
    colour: Colour = Colour.RED


app = klerk.App("worked")
accounts = app.machine(Account)
active, closed = accounts.states("active", "closed", final=("closed",))
by_owner = accounts.index(lambda account: account.owner, unique=True)
rich = active.where(lambda account: account.balance > 100)
app.allow.command()(lambda a: True)
app.allow.read()(lambda a: True)
app.allow.field()(lambda a: True)
app.queue("numbers", executor="process")


class NoMoney(Exception):
    """An error of the application's own."""

    def __init__(self, missing: int, *, currency: str) -> None:
        super().__init__(f"{missing} {currency} are missing")


class Poor(klerk.JobError):
    """One with a constructor of another shape."""

    def __init__(self, missing: int, *, currency: str) -> None:
        super().__init__(f"{missing} {currency} are missing")
        self.missing = missing


@accounts.create(into=active)
def enter(a: Args, owner: Owner, balance: int = 0) -> Account:
    return Account(owner=owner, balance=balance)


@accounts.event(active)
def deposit(a: Args[Account], amount: int) -> Account:
    return a.model.replace(balance=a.model.balance + amount)


@deposit.rule
def is_positive(a: Args[Account], amount: int) -> bool:
    """Only more than nothing can be deposited."""
    return amount > 0


@accounts.event(active, to=closed)
def close(a: Args[Account]) -> None: ...


@contextmanager
def refused(error: type[Exception], told: str = "") -> Iterator[None]:
    """Expect an error. Not `pytest.raises`, which every process would have to import."""
    what = ""
    try:
        yield
    except error as raised:
        what = f"{type(raised).__name__}: {raised}"
    assert what, f"no {error.__name__} was raised"
    assert told in what


def note(directory: str, text: object) -> None:
    """Leave a file whose name says something, once it is all there."""
    path = Path(directory)
    (path / "unfinished").mkdir(exist_ok=True)
    unfinished = path / "unfinished" / f"{os.getpid()} {threading.get_ident()}"
    unfinished.write_text(str(text))
    unfinished.rename(path / str(text))


def notes(directory: object) -> set[str]:
    """Return what was noted."""
    return {entry.name for entry in Path(str(directory)).iterdir() if entry.is_file()}


def wait_for(directory: str, text: str) -> None:
    """Return once something was noted."""
    while not (Path(directory) / text).exists():
        time.sleep(0.01)


@app.job(queue="numbers")
def square(job: JobRun, directory: str, number: int) -> None:
    note(directory, f"{number} squared is {number * number} in {os.getpid()}")


@app.job(executor="process", max_attempts=1)
def use_everything(job: JobRun, directory: str, account: Ref[Account]) -> Completion:
    """Use all that a job has, and fail when something is not as it should be."""
    assert (job.attempt, job.cancelled) == (1, False)
    job.log(f"job {job.id} begins")
    with job.read() as r:
        assert r.get(account).owner == "Ada"
        assert r.get(account).meta.state is active
        assert r.get(account).colour is Colour.RED
        assert [each.owner for each in r.list(accounts)] == ["Ada", "Bob"]
        assert r.count(active) == 2
        assert [each.owner for each in r.list(rich)] == ["Bob"]
        assert r.find(by_owner, "Bob").balance == 500
        assert [each.owner for each in r.list(by_owner("Ada"))] == ["Ada"]
        assert [each.owner for each in r.list(accounts.order("-owner"))] == ["Bob", "Ada"]
        assert r.list(accounts.in_states(closed)) == []
        assert [each.owner for each in r.list(accounts.where(is_ada))] == ["Ada"]
        assert [each.owner for each in r.readable.list(active)] == ["Ada", "Bob"]
        page = r.query(accounts, where=is_ada, limit=1)
        assert [each.owner for each in page] == ["Ada"]
        assert list(r.columns(active, "balance")["balance"]) == [0, 500]
        assert deposit in r.possible_events(account)
        with refused(klerk.ReadLockHeld):
            job.handle(deposit(account, 1))
        with refused(klerk.ArgumentError, "cannot be sent"):
            r.list(accounts.where(lambda each: True))
    with refused(klerk.ReaderClosed):
        r.count(active)
    result = job.handle(deposit(account, 5))
    assert (result.id, result.model.balance, result.sequence > 0) == (account, 5, True)
    assert [each.owner for each in result.updated] == ["Ada"]
    with refused(klerk.Rejected, "Only more than nothing can be deposited"):
        job.handle(deposit(account, -5))
    for each in job.track(["a", "b", "c"]):
        job.log(each)
    assert (job.done, job.total) == (3, 3)
    job.heartbeat()
    job.progress(7, 9)
    assert (job.done, job.total, job.tick, job.state) == (7, 9, None, None)
    job.checkpoint({"row": 7})
    assert job.state == {"row": 7}
    assert job.state_as(dict[str, int]) == {"row": 7}
    with job.snapshot() as s:
        job.handle(deposit(account, 1))
        assert s.get(account).balance == 5
    note(directory, "used")
    return job.complete_with(deposit(account, 10), close(account))


def is_ada(account: Account) -> bool:
    return account.owner == "Ada"


@app.job(executor="process", max_attempts=1)
async def use_soon(job: JobRun, directory: str, account: Ref[Account]) -> Any:
    await asyncio.sleep(0)
    async with job.read() as r:
        assert r.get(account).owner == "Ada"
    results = await asyncio.gather(*(job.handle_async(deposit(account, each)) for each in (1, 2, 3)))
    assert max(result.model.balance for result in results) >= 1
    await job.checkpoint_async("soon")
    async with job.snapshot() as s:
        assert s.get(account).owner == "Ada"
    assert job.state == "soon"
    note(directory, "used soon")
    return job.complete_with(deposit(account, 4))


@app.job(
    executor="process",
    max_attempts=2,
    retry=lambda attempt, error: timedelta(0),
    on_error={LookupError: Discard("as declared")},
)
def end_as_asked(job: JobRun, directory: str, how: str) -> Any:
    note(directory, f"{how} {job.attempt}")
    if how == "exit":
        sys.exit(3)
    if how == "snooze" and job.attempt == 1 and "snoozed" not in notes(directory):
        note(directory, "snoozed")
        raise Snooze(timedelta(0))
    errors: dict[str, BaseException] = {
        "own": NoMoney(7, currency="EUR"),
        "poor": Poor(7, currency="EUR"),
        "declared": KeyError("missing"),
        "interrupt": KeyboardInterrupt("now"),
    }
    if how in errors:
        raise errors[how]
    if how == "discard":
        return Discard("of no use")
    if how == "unsendable":
        return threading.Lock()
    if how == "too late":
        threading.Thread(target=ask_too_late, args=(job, directory)).start()
    if how == "left open":
        job.read().__enter__()
    return None


def ask_too_late(job: JobRun, directory: str) -> None:
    """Use a job of an attempt that is over, while the next job runs in the same process."""
    wait_for(directory, "next begins")
    try:
        job.handle(enter(Owner("Too Late")))
    except klerk.JobError as error:
        note(directory, str(error).splitlines()[0])


@app.job(executor="process", max_attempts=1, max_crashes=2)
def die(job: JobRun, directory: str, how: str) -> None:
    note(directory, f"{how} {len(notes(directory))}")
    if how == "reading":
        with job.read():
            os._exit(9)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(0)


@app.job(executor="process", max_attempts=3, max_crashes=3)
def die_once(job: JobRun, directory: str) -> None:
    if "died" not in notes(directory):
        note(directory, "died")
        os._exit(1)
    note(directory, f"lived in attempt {job.attempt}")


def hold(job: JobRun, directory: str, text: str, how: str) -> None:
    """Run until told to end by a note, or as long as it is let.

    Parameters:
        how: "heeds" being cancelled; "cleans up" when it is; "beats" beside that; "stuck" heeds nothing.
    """
    note(directory, f"{text} in {os.getpid()}")
    note(directory, f"{text} begins")
    try:
        while "end" not in notes(directory):
            time.sleep(0.01)
            if how == "beats" or (how == "late" and how in notes(directory)):
                job.heartbeat()
            elif how not in ("stuck", "late"):
                job.check_cancelled()
    finally:
        if how == "cleans up":
            job.log("cleaned up")
            note(directory, f"{text} cleaned up")
    note(directory, f"{text} ends")


@app.job(executor="process", max_attempts=1)
def hold_process(job: JobRun, directory: str, text: str, how: str) -> None:
    hold(job, directory, text, how)


@app.job(max_attempts=1)
def hold_thread(job: JobRun, directory: str, text: str, how: str) -> None:
    hold(job, directory, text, how)


async def hold_soon(job: JobRun, directory: str, text: str, how: str) -> None:
    note(directory, f"{text} begins")
    if how == "blocks":
        wait_for(directory, "end")
    try:
        while "end" not in notes(directory):
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                if how != "stuck":
                    raise
            if how == "beats":
                job.heartbeat()
    finally:
        if how == "cleans up":
            await asyncio.sleep(0)
            note(directory, f"{text} cleaned up")
    note(directory, f"{text} ends")


@app.job(max_attempts=1)
async def hold_loop(job: JobRun, directory: str, text: str, how: str) -> None:
    await hold_soon(job, directory, text, how)


LIMIT = timedelta(seconds=10)


@app.job(executor="process", max_attempts=1, timeout=LIMIT)
def slow_process(job: JobRun, directory: str, text: str, how: str) -> None:
    hold(job, directory, text, how)


@app.job(max_attempts=1, timeout=LIMIT)
def slow_thread(job: JobRun, directory: str, text: str, how: str) -> None:
    hold(job, directory, text, how)


@app.job(max_attempts=1, timeout=LIMIT)
async def slow_loop(job: JobRun, directory: str, text: str, how: str) -> None:
    await hold_soon(job, directory, text, how)


@app.job(executor="process", max_attempts=1, heartbeat=LIMIT)
def dead_process(job: JobRun, directory: str, text: str, how: str) -> None:
    hold(job, directory, text, how)


@app.job(max_attempts=1, heartbeat=LIMIT)
def dead_thread(job: JobRun, directory: str, text: str, how: str) -> None:
    hold(job, directory, text, how)


@app.job(max_attempts=1, heartbeat=LIMIT)
async def dead_loop(job: JobRun, directory: str, text: str, how: str) -> None:
    await hold_soon(job, directory, text, how)


@app.job()
def end_when_cancelled(job: JobRun, directory: str, how: str) -> object:
    note(directory, "begins")
    while not job.cancelled:
        time.sleep(0.01)
    if how == "error":
        raise ZeroDivisionError
    if how == "raised":
        raise Snooze(timedelta(0), "some other time")
    return Snooze(timedelta(days=1), "tomorrow")


@app.job(max_attempts=1)
def fail_at_the_end(job: JobRun, directory: str) -> None:
    note(directory, "begins")
    wait_for(directory, "end")
    raise ZeroDivisionError


@app.job(executor="process", tags={"gpu"})
def render(job: JobRun, directory: str) -> None:
    note(directory, "rendered")


@app.job(executor="process", max_crashes=1)
def fork_and_die(job: JobRun, directory: str) -> None:
    if os.fork() == 0:
        wait_for(directory, "end")
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


HOLD = {"process": hold_process, "thread": hold_thread, "loop": hold_loop}
SLOW = {"process": slow_process, "thread": slow_thread, "loop": slow_loop}
DEAD = {"process": dead_process, "thread": dead_thread, "loop": dead_loop}

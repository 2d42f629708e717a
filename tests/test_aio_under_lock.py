"""Nothing of `Klerk.aio` hangs in a task that holds the read lock: it answers, or is refused at once.

A task, or a thread, holds the lock while a command of another thread and the end of a job wait to be
published. Then it calls every method that there is, as the table says, which also says what comes of it. A
method that is not in the table fails the test, and so does one that takes five seconds. `Klerk` and its
asyncio face must agree.
"""

import asyncio
import inspect
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Account, Bank, Spawned, eventually, processed, wait_until_blocked

from klerk import Batch, JobRun, Klerk, ReadLockHeld
from klerk.unsafe import UnsafeDelete

DAY, FAR = timedelta(days=1), NOON.replace(year=8000)
PATIENCE_S = 5
ADA = "Ada"


class Office(Bank):
    """A bank with jobs: `work` runs until the test says, `report` returns a number that is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        app = self.app
        for allow in (app.allow.log(), app.allow.erasure(), app.allow.kv(), app.allow.blob()):
            allow(lambda a: True)
        self.active.after(DAY).to(self.closed)

        @app.job()
        def work(job: JobRun) -> None:
            assert self.go.wait(20)

        @app.job(keep_result=DAY)
        def report(job: JobRun, number: int) -> int:
            return number

        self.work, self.report = work, report


class Scene:
    """What the methods are called with.

    Attributes:
        first: what was entered first.
        done, later, working: jobs, of which the last one ends while the lock is held.
        batch_id: of a batch that is for later.
        copy: where the store may be copied to.
    """

    def __init__(self, k: Klerk, office: Office, copy: Path) -> None:
        self.k, self.office, self.copy = k, office, copy
        self.first = k.handle(office.enter(ADA, 5), TESTER).id
        (self.done,) = k.jobs.schedule(office.report(7))
        assert k.jobs.wait(self.done, 20).ended_us
        (self.later,) = k.jobs.schedule(office.report(8), at=FAR)
        *_, member = k.jobs.schedule(Batch([office.report(1)], ended=office.report(2)), at=FAR)
        self.batch_id = member.batch
        (self.working,) = k.jobs.schedule(office.work())
        k.kv.put("known", 1, TESTER)
        k.blobs.put("known", b"12", TESTER)
        self.account: Account = k.handle(office.deposit(self.first, 1), TESTER).model

    def let_writers_wait(self) -> None:
        """Submit a command and end a job; return once they wait to be published."""
        k, before = self.k, processed(self.k)
        Spawned(k.submit, self.office.enter("Bob"), TESTER).end()
        self.office.go.set()
        eventually(lambda: processed(k) > before)
        for thread in threading.enumerate():
            if thread.name.startswith("klerk-committer"):
                wait_until_blocked(thread)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    office = Office()
    with office.app.open(tmp_path / "store", unsafe=True) as k:
        yield Scene(k, office, tmp_path / "copy")
        office.go.set()


Call = Callable[[Any, Scene], Any]
"""Calls a method of a Klerk or of its asyncio face."""

ANSWERED: dict[str, Call] = {
    "as_of": lambda k, s: k.as_of(s.first, 1, TESTER),
    "checkpoint": lambda k, s: k.checkpoint(s.copy),
    "history": lambda k, s: k.history(s.first, TESTER),
    "log": lambda k, s: k.log(TESTER),
    "statistics": lambda k, s: k.statistics(),
    "storage_bytes": lambda k, s: k.storage_bytes(),
    "jobs.batch": lambda k, s: k.jobs.batch(s.batch_id),
    "jobs.find": lambda k, s: k.jobs.find(kind=s.office.work),
    "jobs.get": lambda k, s: k.jobs.get(s.working),
    "jobs.live": lambda k, s: k.jobs.live(),
    "jobs.models": lambda k, s: k.jobs.models(s.done.id),
    "jobs.prune": lambda k, s: k.jobs.prune(),
    "jobs.query": lambda k, s: k.jobs.query(),
    "jobs.result": lambda k, s: k.jobs.result(s.done),
    "jobs.waiting_for": lambda k, s: k.jobs.waiting_for(s.later),
    "jobs.why": lambda k, s: k.jobs.why(s.working),
    "timers.due": lambda k, s: k.timers.due(),
    "kv.delete": lambda k, s: k.kv.delete("unknown", TESTER),
    "kv.exists": lambda k, s: k.kv.exists("known", TESTER),
    "kv.find": lambda k, s: k.kv.find("known", TESTER),
    "kv.get": lambda k, s: k.kv.get("known", TESTER),
    "kv.keys": lambda k, s: k.kv.keys("", TESTER),
    "kv.put": lambda k, s: k.kv.put("new", 2, TESTER),
    "blobs.delete": lambda k, s: k.blobs.delete("unknown", TESTER),
    "blobs.info": lambda k, s: k.blobs.info("known", TESTER),
    "blobs.keys": lambda k, s: k.blobs.keys("", TESTER),
    "blobs.put": lambda k, s: k.blobs.put("new", [b"1", b"2"], TESTER),
}
REFUSED: dict[str, Call] = {
    "check": lambda k, s: k.check(s.office.deposit(s.first, 1), TESTER),
    "close": lambda k, s: k.close(),
    "erase": lambda k, s: k.erase(s.first, TESTER),
    "handle": lambda k, s: k.handle(s.office.deposit(s.first, 1), TESTER),
    "handle_all": lambda k, s: k.handle_all([s.office.deposit(s.first, 1)], TESTER),
    "look_again": lambda k, s: k.look_again(),
    "submit": lambda k, s: k.submit(s.office.deposit(s.first, 1), TESTER),
    "submit_all": lambda k, s: k.submit_all([s.office.deposit(s.first, 1)], TESTER),
    "jobs.cancel": lambda k, s: k.jobs.cancel(s.working),
    "jobs.cancel_all": lambda k, s: k.jobs.cancel_all(),
    "jobs.discard": lambda k, s: k.jobs.discard(s.working),
    "jobs.discard_all": lambda k, s: k.jobs.discard_all(),
    "jobs.edit": lambda k, s: k.jobs.edit(s.later, priority=3),
    "jobs.pause": lambda k, s: k.jobs.pause("default"),
    "jobs.rerun": lambda k, s: k.jobs.rerun(s.done),
    "jobs.resume": lambda k, s: k.jobs.resume("default"),
    "jobs.retry": lambda k, s: k.jobs.retry(s.working),
    "jobs.retry_all": lambda k, s: k.jobs.retry_all(),
    "jobs.run_all_now": lambda k, s: k.jobs.run_all_now(),
    "jobs.run_now": lambda k, s: k.jobs.run_now(s.later),
    "jobs.scale": lambda k, s: k.jobs.scale("default", rate="1/s"),
    "jobs.schedule": lambda k, s: k.jobs.schedule(s.office.report(9)),
    "jobs.wait": lambda k, s: k.jobs.wait(s.working),
    "jobs.wait_until_idle": lambda k, s: k.jobs.wait_until_idle(),
    "timers.fire_due": lambda k, s: k.timers.fire_due(),
    "timers.wait_until_idle": lambda k, s: k.timers.wait_until_idle(),
    "unsafe.create": lambda k, s: k.unsafe.create(Account(owner="Eve"), s.office.active, TESTER),
    "unsafe.delete": lambda k, s: k.unsafe.delete(s.first, TESTER),
    "unsafe.handle_all": lambda k, s: k.unsafe.handle_all([UnsafeDelete(s.first)], TESTER),
    "unsafe.update": lambda k, s: k.unsafe.update(s.first, s.account, TESTER),
}


async def signalled(k: Any, scene: Scene) -> None:
    asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGTERM)
    await k.wait_for_signal(signal.SIGTERM)


async def opened(k: Any, scene: Scene) -> bytes:
    async with k.blobs.open("known", TESTER) as blob:
        found: bytes = await blob.read()
        return found


async def read_again(k: Any, scene: Scene) -> Account:
    async with k.read(TESTER) as r:
        found: Account = r.get(scene.first)
        return found


async def read_from_snapshot(k: Any, scene: Scene) -> Account:
    async with k.snapshot(TESTER) as snapshot:
        found: Account = snapshot.get(scene.first)
        return found


async def next_change(k: Any, scene: Scene) -> Any:
    async with k.changes(TESTER) as changes:
        return await changes.take()


ANSWERED_SOON: dict[str, Call] = {
    "blobs.open": opened,
    "read": read_again,
    "snapshot": read_from_snapshot,
    "wait_for_signal": signalled,
}
REFUSED_SOON: dict[str, Call] = {"changes": next_change}
EXPECTED = dict.fromkeys(ANSWERED | ANSWERED_SOON, "answered") | dict.fromkeys(
    REFUSED | REFUSED_SOON, "refused"
)


def coroutine_methods(face: Any, prefix: str = "") -> Iterator[str]:
    """Yield the names of the public coroutine methods of a face, and of the faces that it has."""
    for name in dir(face):
        if name.startswith("_"):
            continue
        found = getattr(face, name)
        if inspect.iscoroutinefunction(found):
            yield prefix + name
        elif type(found).__module__.startswith("klerk.") and type(found).__name__.startswith("Aio"):
            yield from coroutine_methods(found, f"{name}.")


def test_the_table_has_every_coroutine_method(scene: Scene) -> None:
    methods = set(coroutine_methods(scene.k.aio))
    assert {"handle", "jobs.get", "timers.due", "kv.get", "blobs.put", "unsafe.create"} <= methods
    assert methods <= set(EXPECTED)


@contextmanager
def judged(outcomes: dict[str, str], name: str) -> Iterator[None]:
    """Note whether a call is answered or refused."""
    try:
        yield
        outcomes[name] = "answered"
    except ReadLockHeld:
        outcomes[name] = "refused"
    except Exception as error:
        outcomes[name] = repr(error)


async def outcomes_in_task(scene: Scene) -> dict[str, str]:
    """Call everything in a task that holds the lock."""
    await asyncio.to_thread(scene.let_writers_wait)
    outcomes: dict[str, str] = {}
    sequence = scene.k.sequence
    for name, call in (ANSWERED | ANSWERED_SOON | REFUSED | REFUSED_SOON).items():
        with judged(outcomes, name):
            # `asyncio.wait_for` would call it in a task of its own, which does not hold the lock.
            async with asyncio.timeout(PATIENCE_S):
                await call(scene.k.aio, scene)
    assert scene.k.sequence == sequence
    return outcomes


def test_nothing_hangs_in_a_task_that_reads(scene: Scene) -> None:
    async def main() -> dict[str, str]:
        async with scene.k.aio.read(TESTER):
            return await outcomes_in_task(scene)

    assert asyncio.run(main()) == EXPECTED
    assert_all_goes_on(scene)


def test_nothing_hangs_in_a_coroutine_that_reads_as_a_thread_does(scene: Scene) -> None:
    async def main() -> dict[str, str]:
        with scene.k.read(TESTER):
            return await outcomes_in_task(scene)

    assert asyncio.run(main()) == EXPECTED
    assert_all_goes_on(scene)


def test_nothing_hangs_in_a_loop_that_runs_while_its_thread_reads(scene: Scene) -> None:
    with scene.k.read(TESTER):
        assert asyncio.run(outcomes_in_task(scene)) == EXPECTED
    assert_all_goes_on(scene)


def test_nothing_hangs_in_a_thread_that_reads(scene: Scene) -> None:
    outcomes: dict[str, str] = {}

    def main() -> None:
        with scene.k.read(TESTER):
            scene.let_writers_wait()
            for name, call in (ANSWERED | REFUSED).items():
                with judged(outcomes, name):
                    call(scene.k, scene)

    Spawned(main).end()
    assert outcomes == {name: EXPECTED[name] for name in ANSWERED | REFUSED}
    assert_all_goes_on(scene)


def assert_all_goes_on(scene: Scene) -> None:
    """What waited is published, and nothing that was refused has been done."""
    k = scene.k
    assert k.jobs.wait_until_idle(20)
    assert sorted(owner for owner, _, _ in scene.office.contents(k).values()) == [ADA, "Bob"]
    assert k.handle(scene.office.deposit(scene.first, 1), TESTER).model.balance == 7
    assert k.jobs.get(scene.working).state == "completed"
    assert k.jobs.get(scene.later).priority is None
    assert k.jobs.paused == ()
    assert sum(k.jobs.counts().values()) == 5


def test_a_task_that_reads_needs_no_thread_of_the_pool(scene: Scene) -> None:
    """All of the loop's threads wait for commands that wait for the task that holds the lock."""

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with scene.k.aio.read(TESTER):
            scheduling = asyncio.create_task(scene.k.aio.jobs.schedule(scene.office.report(9)))
            # Until the one thread has begun with it.
            while processed(scene.k) == scene.k.sequence:
                await asyncio.sleep(0.001)
            async with asyncio.timeout(PATIENCE_S):
                page = await scene.k.aio.log(TESTER)
            assert page.entries[0].sequence <= scene.k.sequence
            assert not scheduling.done()
        assert len(await scheduling) == 1

    asyncio.run(main())


def test_a_thread_goes_on_holding_the_lock_when_its_task_is_cancelled(scene: Scene) -> None:
    k, started, go = scene.k, threading.Event(), threading.Event()
    seen: list[Any] = []

    def pieces() -> Iterator[bytes]:
        yield b"1"
        started.set()
        assert go.wait(20)
        with k.read(TESTER) as r:
            seen.extend(r.list(scene.office.accounts))
        with pytest.raises(ReadLockHeld):
            k.handle(scene.office.enter("Eve"), TESTER)
        yield b"2"

    async def upload() -> None:
        async with k.aio.read(TESTER):
            await k.aio.blobs.put("large", pieces(), TESTER)

    async def main() -> None:
        uploading = asyncio.create_task(upload())
        while not started.is_set():
            await asyncio.sleep(0.001)
        await asyncio.to_thread(scene.let_writers_wait)
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        assert k.statistics().models["Account", "active"] == 1
        go.set()
        eventually(lambda: seen)

    asyncio.run(main())
    assert [each.owner for each in seen] == [ADA]
    assert_all_goes_on(scene)


def test_another_task_waits_and_goes_on(scene: Scene) -> None:
    """Only the task that holds the lock is refused; what others ask for comes once it has ended."""

    async def main() -> None:
        async with scene.k.aio.read(TESTER):
            others = [
                asyncio.create_task(scene.k.aio.jobs.schedule(scene.office.report(9))),
                asyncio.create_task(scene.k.aio.jobs.edit(scene.later, priority=3)),
            ]
            await asyncio.wait(others, timeout=0.02)
            assert not any(each.done() for each in others)
        (made,), edited = await asyncio.gather(*others)
        assert made.kind == "report"
        assert edited.id == scene.later.id

    asyncio.run(main())

"""`k.jobs.wait` returns a job's record once it has ended, however it ends and wherever it was, and never
hangs where no end can come.

Each test lets a thread or a task wait first, checks that it stands still, and then ends the job in one of the
ways that there are; whatever hangs fails after 20 seconds. Nothing here depends on how long something takes.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, Clock, Spawned, eventually, wait_until_blocked

import klerk
import klerk.testing
from klerk import App, Closed, Discard, JobRun, JobState, Klerk, Model, NotEnded, NotFound, StoreFailed

DAY = timedelta(days=1)


class Shop:
    """Jobs that end when the test says, in the way that it says."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.ends: list[BaseException | None] = []
        self.app = App("shop")

        @self.app.job(max_attempts=1, keep_result=DAY)
        def work(job: JobRun, number: int) -> int:
            assert self.go.wait(20)
            if self.ends and (error := self.ends.pop(0)) is not None:
                raise error
            return number

        @self.app.job(max_attempts=1)
        async def work_soon(job: JobRun) -> None:
            while not self.go.is_set():
                await asyncio.sleep(0.002)

        self.work, self.work_soon = work, work_soon


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    yield made
    made.go.set()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def waiting(k: Klerk, job: Any, timeout: float | None = None) -> Spawned:
    """Return a thread that waits for a job, and stands still."""
    thread = Spawned(k.jobs.wait, job, timeout)
    wait_until_blocked(thread)
    return thread


def awaited(k: Klerk) -> dict[int, Any]:
    return k._manager.endings.awaited


# --- ends -----------------------------------------------------------------------------------------


def test_a_completed_job_is_returned(shop: Shop) -> None:
    with shop.app.open() as k:
        (job,) = k.jobs.schedule(shop.work(7))
        thread = waiting(k, job)
        shop.go.set()
        record = thread.end()
        assert (record.id, record.state) == (job.id, JobState.COMPLETED)
        assert k.jobs.result(record) == 7
        assert k.jobs.get(job) == record
        assert k.jobs.wait(job.id) == record == k.jobs.wait(record, 0)
        assert awaited(k) == {}


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError("no"), "discarded"), (Discard("no"), "discarded"), (klerk.Cancel("no"), "cancelled")],
)
def test_a_job_that_ends_badly_is_returned(shop: Shop, error: BaseException, state: str) -> None:
    shop.ends = [error]
    with shop.app.open() as k:
        (job,) = k.jobs.schedule(shop.work(7))
        thread = waiting(k, job)
        shop.go.set()
        record = thread.end()
        assert record.state == state
        assert "no" in record.error


def test_attempts_and_delays_are_waited_for(shop: Shop) -> None:
    clock = Clock()
    shop.ends = [klerk.Snooze(DAY), klerk.Snooze(DAY), None]
    shop.go.set()
    with shop.app.open(clock=clock) as k:
        (job,) = k.jobs.schedule(shop.work(7))
        thread = waiting(k, job)
        for left in (2, 1):
            eventually(lambda left=left: (len(shop.ends), k.jobs.get(job).state) == (left, "scheduled"))
            wait_until_blocked(thread)
            clock.advance(DAY)
        assert thread.end().state == "completed"


@pytest.mark.parametrize("ending", ["cancel", "discard"])
def test_jobs_that_are_ended_by_hand_are_returned(shop: Shop, ending: str) -> None:
    with shop.app.open() as k:
        (job,) = k.jobs.schedule(shop.work(7), at=datetime.now(UTC) + DAY)
        thread = waiting(k, job)
        getattr(k.jobs, ending)(job)
        assert thread.end().state == {"cancel": "cancelled", "discard": "discarded"}[ending]
        shop.go.set()


def test_many_wait_for_one_job_and_others_go_on_waiting(shop: Shop) -> None:
    with shop.app.open() as k:
        (first, later) = k.jobs.schedule(shop.work(1), shop.work(2).after(10 * DAY))
        threads = [waiting(k, first) for _ in range(3)]
        other = waiting(k, later)
        shop.go.set()
        assert {thread.end().state for thread in threads} == {JobState.COMPLETED}
        wait_until_blocked(other)
        k.jobs.run_now(later)
        assert other.end().id == later.id


def test_a_job_that_is_only_on_disk(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.JOBS_AT_HAND_MAX", 4)
    monkeypatch.setattr("klerk.limits.JOBS_PAGE", 2, raising=False)
    clock = Clock()
    shop.go.set()
    with shop.app.open(tmp_path / "store", clock=clock) as k:
        jobs = k.jobs.schedule(*(shop.work(n).after(n * DAY) for n in range(1, 40)))
    with shop.app.open(tmp_path / "store", clock=clock) as k:
        far, farther = jobs[-2], jobs[-1]
        assert far.id not in k._manager.offered._live
        threads = [waiting(k, far), waiting(k, farther)]
        k.jobs.cancel(farther)
        assert threads[1].end().state == "cancelled"
        wait_until_blocked(threads[0])
        clock.advance(50 * DAY)
        record = threads[0].end()
        assert (record.state, record.arguments) == (JobState.COMPLETED, (38,))


def test_a_suspended_job_is_waited_for_until_it_can_run(tmp_path: Path) -> None:
    def changing(takes: type, **options: Any) -> tuple[App, Any]:
        app = App("changing")

        @app.job(**options)
        def work(job: JobRun, number: takes) -> None: ...  # type: ignore[valid-type]

        return app, work

    app, work = changing(str)
    with app.open(tmp_path / "store", job_threads=0) as k:
        (job,) = k.jobs.schedule(work("seven"))
    app, work = changing(int, version=2, upcast={1: lambda old: {"number": int(old["number"])}})
    with app.open(tmp_path / "store") as k:
        assert k.jobs.get(job).state == "suspended"
        thread = waiting(k, job)
        k.jobs.edit(job, arguments=work(7))
        assert thread.end().state == "completed"


def test_a_record_is_returned_although_it_is_kept_no_longer(shop: Shop) -> None:
    gone = klerk.Retention(completed=timedelta(0))
    with shop.app.open(job_retention=gone) as k:
        (job,) = k.jobs.schedule(shop.work(7))
        thread = waiting(k, job)
        shop.go.set()
        assert thread.end().state == "completed"
        k.jobs.prune()
        with pytest.raises(NotFound):
            k.jobs.wait(job)


def test_a_job_that_was_run_again_is_waited_for_once_more(shop: Shop) -> None:
    shop.go.set()
    with shop.app.open() as k:
        (job,) = k.jobs.schedule(shop.work(7))
        assert k.jobs.wait(job).reruns == 0
        shop.go.clear()
        thread = waiting(k, k.jobs.rerun(job))
        shop.go.set()
        assert thread.end().reruns == 1


def test_one_job_waits_for_another(shop: Shop) -> None:
    told = []

    @shop.app.job()
    def boss(job: JobRun) -> None:
        told.append(k.jobs.wait(worker).state)

    with shop.app.open(job_threads=2) as k:
        (worker,) = k.jobs.schedule(shop.work(1))
        (job,) = k.jobs.schedule(boss())
        eventually(lambda: awaited(k))
        shop.go.set()
        k.jobs.wait(job)
    assert told == [JobState.COMPLETED]


# --- asyncio --------------------------------------------------------------------------------------


async def test_tasks_wait_and_the_loop_goes_on(shop: Shop) -> None:
    with shop.app.open() as k:
        plain, soon = await k.aio.jobs.schedule(shop.work(7), shop.work_soon())
        tasks = [asyncio.create_task(k.aio.jobs.wait(job)) for job in (plain, soon, plain)]
        while len(awaited(k)) < 2:
            await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        shop.go.set()
        assert [record.id for record in await asyncio.gather(*tasks)] == [plain.id, soon.id, plain.id]
        assert (await k.aio.jobs.wait(soon.id, 0)).state == "completed"
        with pytest.raises(NotFound):
            await k.aio.jobs.wait(99)


async def test_a_cancelled_task_leaves_nothing_behind(shop: Shop) -> None:
    with shop.app.open() as k:
        (job,) = await k.aio.jobs.schedule(shop.work(7))
        task = asyncio.create_task(k.aio.jobs.wait(job))
        while not awaited(k):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert awaited(k) == {}
        with pytest.raises(NotEnded, match=f"job {job.id} "):
            await k.aio.jobs.wait(job, 0.01)
        assert awaited(k) == {}
        shop.go.set()


async def test_the_loop_is_not_held_up(shop: Shop) -> None:
    with shop.app.open() as k:
        (job,) = await k.aio.jobs.schedule(shop.work(7))
        with pytest.raises(klerk.JobError, match="hold up the event loop") as refused:
            k.jobs.wait(job)
        assert "await k.aio.jobs.wait" in str(refused.value.hint)
        shop.go.set()


# --- where no end can come ------------------------------------------------------------------------


def test_the_time_is_over(shop: Shop) -> None:
    with shop.app.open() as k:
        (job,) = k.jobs.schedule(shop.work(7))
        eventually(lambda: k.jobs.get(job).state == "executing")
        with pytest.raises(NotEnded, match=rf"within 0.01 s: job {job.id} \(work\) is executing") as late:
            k.jobs.wait(job, 0.01)
        assert isinstance(late.value, TimeoutError)
        assert late.value.code == "not_ended"
        assert awaited(k) == {}
        shop.go.set()


@pytest.mark.parametrize("timeout", [-1, timedelta(seconds=1), "1", True, float("nan")])
def test_times_that_cannot_be_meant(shop: Shop, timeout: Any) -> None:
    with shop.app.open() as k, pytest.raises(klerk.ArgumentError, match="number of seconds"):
        k.jobs.wait(1, timeout)


@pytest.mark.parametrize("job", ["1", None, 1.0])
def test_what_is_no_job(shop: Shop, job: Any) -> None:
    with shop.app.open() as k, pytest.raises(klerk.ArgumentError, match="a job's record or id"):
        k.jobs.wait(job)


def test_there_is_no_such_job(shop: Shop) -> None:
    with shop.app.open() as k:
        with pytest.raises(NotFound):
            k.jobs.wait(99)
        assert awaited(k) == {}


def test_closing_ends_the_wait(shop: Shop) -> None:
    k = shop.app.open(close_wait=timedelta(0))
    (job,) = k.jobs.schedule(shop.work(7), at=datetime.now(UTC) + DAY)
    threads = [waiting(k, job) for _ in range(2)]
    shop.go.set()
    k.close()
    for thread in threads:
        with pytest.raises(Closed):
            thread.end()
    with pytest.raises(Closed):
        k.jobs.wait(job)


def test_a_job_that_waits_does_not_hold_up_closing(shop: Shop) -> None:
    errors: list[BaseException] = []

    @shop.app.job()
    def boss(job: JobRun) -> None:
        try:
            # The other one: it has no name in the test as long as scheduling goes on.
            k.jobs.wait(job.id + 1)
        except Closed as error:
            errors.append(error)

    with shop.app.open(job_threads=1) as k:
        k.jobs.schedule(boss(), shop.work(1))
        eventually(lambda: awaited(k))
    assert len(errors) == 1


def test_closing_costs_a_job_that_waits_no_attempt(shop: Shop, tmp_path: Path) -> None:
    opened: list[Klerk] = []
    started: list[int] = []

    @shop.app.job(max_attempts=1)
    def boss(job: JobRun, other: int) -> None:
        job.log("waiting")
        started.append(job.attempt)
        eventually(lambda: len(opened) == len(started))
        opened[-1].jobs.wait(other)

    with shop.app.open(tmp_path / "store", job_threads=2) as k:
        opened.append(k)
        other, job = k.jobs.schedule(shop.work(1).after(DAY), boss(1))
        eventually(lambda: awaited(k))
    shop.go.set()
    with shop.app.open(tmp_path / "store", job_threads=2) as k:
        opened.append(k)
        eventually(lambda: awaited(k))
        k.jobs.run_now(other)
        record = k.jobs.wait(job, 20)
    assert (record.state, record.attempt, record.crashes, record.errors) == (JobState.COMPLETED, 1, 0, ())
    assert (started, record.log) == ([1, 1], ("waiting", "waiting"))


def test_a_store_that_fails_ends_the_wait(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise StoreFailed("the disk is gone")

    with shop.app.open() as k:
        (job,) = k.jobs.schedule(shop.work(7))
        thread = waiting(k, job)
        monkeypatch.setattr(type(k._storage), "sync", fail)
        shop.go.set()
        with pytest.raises(StoreFailed, match="the disk is gone"):
            thread.end()
        with pytest.raises(StoreFailed, match="the disk is gone"):
            k.jobs.wait(job)
        monkeypatch.undo()


def test_a_reader_cannot_wait(shop: Shop) -> None:
    with shop.app.open() as k:
        (job,) = k.jobs.schedule(shop.work(7))
        with k.read(TESTER), pytest.raises(klerk.ReadLockHeld, match="jobs cannot be waited for"):
            k.jobs.wait(job)

        async def read_and_wait() -> None:
            async with k.aio.read(TESTER):
                with pytest.raises(klerk.ReadLockHeld):
                    await k.aio.jobs.wait(job)

        asyncio.run(read_and_wait())
        shop.go.set()


def own(k: Callable[[], Klerk], app: App) -> list[tuple[Any, list[BaseException]]]:
    """Return jobs that wait for their own ends, each with the errors that this raised."""
    errors: list[BaseException] = []

    def note(error: BaseException) -> None:
        errors.append(error)

    @app.job(max_attempts=1)
    def plain(job: JobRun) -> None:
        try:
            k().jobs.wait(job.record)
        except klerk.JobError as error:
            note(error)

    @app.job(max_attempts=1)
    def in_own_loop(job: JobRun) -> None:
        try:
            asyncio.run(k().aio.jobs.wait(job.id))
        except klerk.JobError as error:
            note(error)

    @app.job(max_attempts=1)
    async def coroutine(job: JobRun) -> None:
        try:
            await k().aio.jobs.wait(job.id)
        except klerk.JobError as error:
            note(error)

    return [(each, errors) for each in (plain, in_own_loop, coroutine)]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("mode", ["threads", "manual"])
def test_a_job_cannot_wait_for_itself(place: int, mode: Any) -> None:
    app, opened = App("own"), []
    work, errors = own(lambda: opened[0], app)[place]
    with klerk.testing.open(app, jobs=mode) as k:
        opened.append(k)
        (job,) = k.jobs.schedule(work())
        if mode == "threads":
            assert k.jobs.wait(job, 20).state == "completed"
        else:
            assert klerk.testing.drain(k).completed == 1
    assert ["wait for its own end" in str(error) for error in errors] == [True]


def test_a_rule_cannot_wait() -> None:
    class Box(Model):
        size: int

    app = App("boxes")
    boxes = app.machine(Box)
    (full,) = boxes.states("full", final=("full",))

    @boxes.create(into=full)
    def pack(a: klerk.Args, size: int) -> Box:
        k.jobs.wait(1)
        return Box(size=size)

    @app.allow.command(pack)
    def anybody(a: klerk.Args) -> bool:
        return True

    with app.open() as k, pytest.raises(klerk.KlerkError, match="jobs were waited for"):
        k.handle(pack(1), TESTER)


# --- with klerk.testing ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["manual", "inline"])
def test_where_nothing_runs_by_itself(shop: Shop, mode: Any) -> None:
    shop.go.set()
    with klerk.testing.open(shop.app, jobs=mode) as k:
        (job, later) = k.jobs.schedule(shop.work(7), shop.work(8).after(DAY))
        for waited_for in (job, later) if mode == "manual" else (later,):
            with pytest.raises(klerk.JobError, match="only when the test says") as refused:
                k.jobs.wait(waited_for)
            assert "drain" in str(refused.value.hint)
        assert awaited(k) == {}
        klerk.testing.drain(k, until=2 * DAY)
        assert k.jobs.wait(job).state == k.jobs.wait(later).state == "completed"
        with pytest.raises(NotFound):
            k.jobs.wait(99)


def test_threads_of_a_test_wait(shop: Shop) -> None:
    with klerk.testing.open(shop.app, jobs="threads") as k:
        (job,) = k.jobs.schedule(shop.work(7))
        thread = waiting(k, job)
        shop.go.set()
        assert thread.end().state == "completed"


# --- a race ---------------------------------------------------------------------------------------


def test_no_end_is_missed() -> None:
    """Jobs end all the time while threads begin to wait for them."""
    app = App("race")

    @app.job()
    def work(job: JobRun) -> None: ...

    def run() -> None:
        for _ in range(150):
            (job,) = k.jobs.schedule(work())
            assert k.jobs.wait(job, 20).state == JobState.COMPLETED

    with app.open() as k:
        threads = [Spawned(run) for _ in range(4)]
        for thread in threads:
            thread.end()
        assert awaited(k) == {}

"""`klerk.testing`: jobs run when the test says, by the path of production, and time passes when it says.

Every mode is held to what it promises: what runs when, in which thread, with which arguments, what is
recorded, and what is said of it. What a user would write is in `test_pytest_plugin.py`.
"""

import asyncio
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import worked
from designs import NOON, TESTER, Account, Bank, run_python

import klerk
import klerk.testing
from klerk import (
    ArgumentError,
    Cancel,
    Closed,
    ConfigError,
    Discard,
    JobRun,
    JobState,
    LimitExceeded,
    ReadLockHeld,
    Ref,
    Rejected,
    Retry,
    Snooze,
    StoreFailed,
)
from klerk.testing import (
    VirtualClock,
    assert_enqueued,
    drain,
    enqueued,
    refute_enqueued,
    run_one,
)

START = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Office(Bank):
    """A bank with jobs of every sort, which write down what they do and where."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[Any] = []
        self.threads: set[int] = set()
        self.loops: set[int] = set()
        app, ran = self.app, self.ran
        app.queue("slow")

        @app.job()
        def plain(job: JobRun, text: str) -> None:
            self.threads.add(threading.get_ident())
            ran.append(text)

        @app.job()
        async def coroutine(job: JobRun, text: str) -> None:
            await asyncio.sleep(0)
            self.threads.add(threading.get_ident())
            self.loops.add(id(asyncio.get_running_loop()))
            ran.append(f"async {text}")

        @app.job(max_attempts=2)
        def fail(job: JobRun, text: str = "") -> None:
            ran.append(f"attempt {job.attempt}{text}")
            raise ZeroDivisionError(text)

        @app.job()
        def chain(job: JobRun, left: int) -> None:
            ran.append(left)
            if left:
                job.handle(self.enter(f"A{left}"))

        @app.job()
        def about(job: JobRun, account: Ref[Account], note: str = "none") -> None:
            with job.read() as r:
                ran.append((r.get(account).owner, note))

        self.plain, self.coroutine, self.fail, self.chain = plain, coroutine, fail, chain
        self.about = about


@pytest.fixture
def office() -> Office:
    return Office()


# --- manual -------------------------------------------------------------------------------------------


def test_nothing_runs_until_the_test_says(office: Office) -> None:
    office.enter.job(lambda a: [office.plain(a.model.owner), office.coroutine(a.model.owner)])
    with klerk.testing.open(office.app) as k:
        k.handle(office.enter("Ada"), TESTER)
        assert k.jobs.counts()[JobState.AVAILABLE] == 2
        assert office.ran == []
        first = run_one(k)
        assert first is not None
        assert (first.kind, first.state, first.attempt) == ("plain", JobState.COMPLETED, 1)
        assert office.ran == ["Ada"]
        drained = drain(k)
        assert (len(drained), drained.completed, drained.failed) == (1, 1, 0)
        assert office.ran == ["Ada", "async Ada"]
        assert office.threads == {threading.get_ident()}
        assert run_one(k) is None
        assert len(drain(k)) == 0
        assert k.jobs.live() == ()


def test_jobs_run_in_this_thread_by_the_path_of_production(office: Office, tmp_path: Path) -> None:
    """Their ends stand in the store: after a restart nothing runs again, and what waited still does."""
    clock = VirtualClock()
    with klerk.testing.open(office.app, path=tmp_path / "store", clock=clock) as k:
        k.jobs.schedule(office.plain("one"), office.plain("two"), office.fail())
        run_one(k)
        before = k.sequence
        drain(k, raises=False)
        assert k.sequence == before + 2
    with klerk.testing.open(office.app, path=tmp_path / "store", clock=clock) as k:
        assert k.jobs.counts()[JobState.COMPLETED] == 2
        assert k.jobs.counts()[JobState.RETRYABLE] == 1
        assert len(drain(k)) == 0
    assert office.ran == ["one", "two", "attempt 1"]


def test_arguments_are_as_after_a_restart(office: Office) -> None:
    class Odd(str):
        """A text that only memory can hold."""

    seen: list[Any] = []

    @office.app.job()
    def look(job: JobRun, text: str, when: datetime, pair: tuple[int, str], some: frozenset[str]) -> None:
        seen.append((text, when, pair, some))
        assert job.record.arguments == (text, when, pair, some)

    moment = datetime.fromisoformat("2030-01-01T15:00:00+03:00")
    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(look(Odd("x"), moment, (1, "a"), frozenset({"b"})))
        drain(k)
    assert seen == [("x", START, (1, "a"), frozenset({"b"}))]
    assert type(seen[0][0]) is str
    assert seen[0][1].tzinfo is UTC


def test_coroutines_share_one_loop_and_run_under_a_running_one(office: Office) -> None:
    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(office.coroutine("one"), office.coroutine("two"))
        assert drain(k).completed == 2

        async def main() -> None:
            await k.aio.jobs.schedule(office.coroutine("three"))
            assert drain(k).completed == 1
            await k.aio.jobs.schedule(office.coroutine("four"))
            assert (await asyncio.to_thread(drain, k)).completed == 1

        asyncio.run(main())
    assert office.ran == ["async one", "async two", "async three", "async four"]
    assert len(office.loops) == 1


def test_drain_runs_what_jobs_create(office: Office) -> None:
    office.enter.job(lambda a: office.chain(int(a.model.owner[1:]) - 1))
    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(office.chain(4))
        assert [record.arguments for record in drain(k).records] == [(4,), (3,), (2,), (1,), (0,)]
    assert office.ran == [4, 3, 2, 1, 0]


def test_what_makes_a_job_fail_is_raised_once_it_is_recorded(office: Office) -> None:
    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(office.fail(" x"), office.plain("after"))
        with pytest.raises(ZeroDivisionError, match="x"):
            drain(k)
        (failed, waiting) = k.jobs.live()
        assert (failed.state, failed.error) == (JobState.RETRYABLE, "ZeroDivisionError:  x")
        assert waiting.state is JobState.AVAILABLE
        assert drain(k).completed == 1
        with pytest.raises(ZeroDivisionError):
            drain(k, with_scheduled=True)
        assert k.jobs.counts()[JobState.DISCARDED] == 1
    assert office.ran == ["attempt 1 x", "after", "attempt 2 x"]


def test_failures_in_the_result(office: Office) -> None:
    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(office.fail(), office.plain("after"))
        first = drain(k, raises=False)
        assert (first.completed, first.failed, first.retryable, first.discarded) == (1, 1, 1, 0)
        assert [type(error) for error in first.errors] == [ZeroDivisionError]
        second = drain(k, with_scheduled=True, raises=False)
        assert (second.failed, second.retryable, second.discarded) == (1, 0, 1)
        assert second.in_state(JobState.DISCARDED)[0].attempt == 2


def test_what_a_job_says_of_itself_is_no_failure(office: Office) -> None:
    outcomes: list[Any] = [Snooze(timedelta(hours=1)), Cancel("no"), Discard("never"), Retry(timedelta(1))]

    @office.app.job()
    def say(job: JobRun, number: int, raised: bool) -> Any:
        if job.attempt == 1 and not job.record.error:
            if raised:
                raise outcomes[number]
            return outcomes[number]
        return None

    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(*(say(i, raised) for i in range(4) for raised in (True, False)))
        drained = drain(k)
        assert (drained.snoozed, drained.cancelled, drained.discarded, drained.retryable) == (2, 2, 2, 2)
        assert drained.errors == ()
        assert drain(k, with_scheduled=True).completed == 4


def test_whatever_a_job_raises_reaches_the_test(office: Office) -> None:
    @office.app.job()
    def stop(job: JobRun) -> None:
        raise KeyboardInterrupt("by hand")

    @office.app.job()
    async def leave(job: JobRun) -> None:
        raise SystemExit(3)

    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(stop())
        with pytest.raises(KeyboardInterrupt, match="by hand"):
            drain(k)
        k.jobs.schedule(leave())
        with pytest.raises(SystemExit):
            run_one(k)
        assert k.jobs.counts()[JobState.RETRYABLE] == 2


def test_commands_that_a_job_ends_with(office: Office) -> None:
    @office.app.job(max_attempts=1)
    def settle(job: JobRun, account: Ref[Account], amount: int) -> Any:
        return job.complete_with(office.withdraw(account, amount))

    with klerk.testing.open(office.app) as k:
        ada = k.handle(office.enter("Ada", 5), TESTER).id
        k.jobs.schedule(settle(ada, 3))
        assert drain(k).completed == 1
        assert office.contents(k)[ada] == ("Ada", 2, "active")
        k.jobs.schedule(settle(ada, 100))
        with pytest.raises(Rejected):
            drain(k)
        assert k.jobs.counts()[JobState.DISCARDED] == 1
        assert office.contents(k)[ada] == ("Ada", 2, "active")


def test_limits_hold_as_in_production(office: Office) -> None:
    @office.app.job(rate="2/h")
    def seldom(job: JobRun, number: int) -> None:
        office.ran.append(number)

    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(*(seldom(i) for i in range(4)))
        assert drain(k).completed == 2
        assert drain(k).completed == 0
        assert drain(k, until=timedelta(minutes=61)).completed == 2
        assert office.ran == [0, 1, 2, 3]


def test_jobs_of_processes_run_in_this_thread_too(tmp_path: Path) -> None:
    with klerk.testing.open(worked.app) as k:
        ada = k.handle(worked.enter(worked.Owner("Ada")), TESTER).id
        k.jobs.schedule(worked.square(str(tmp_path), 3), worked.use_soon(str(tmp_path), ada))
        assert drain(k).completed == 2
    assert f"3 squared is 9 in {os.getpid()}" in worked.notes(tmp_path)


def test_workers_of_tests_have_every_tag(office: Office) -> None:
    @office.app.job(tags={"gpu", "linux"})
    def render(job: JobRun) -> None:
        office.ran.append("rendered")

    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(render())
        assert drain(k).completed == 1
    with klerk.testing.open(office.app, worker_tags={"gpu"}) as k:
        k.jobs.schedule(render())
        assert drain(k).completed == 0


def test_a_timeout_by_the_virtual_clock(office: Office) -> None:
    """A job that lets time pass is stopped where a slow one would be."""
    clock = VirtualClock()

    @office.app.job(timeout=timedelta(seconds=10), max_attempts=1)
    def slow(job: JobRun) -> None:
        job.check_cancelled()
        clock.advance(timedelta(seconds=11))
        job.check_cancelled()
        office.ran.append("never")

    @office.app.job(timeout=timedelta(seconds=10), max_attempts=1)
    async def slow_coroutine(job: JobRun) -> None:
        await asyncio.to_thread(clock.advance, timedelta(seconds=11))
        await asyncio.sleep(1000)
        office.ran.append("never")

    with klerk.testing.open(office.app, clock=clock) as k:
        for job in (slow, slow_coroutine):
            k.jobs.schedule(job())
            with pytest.raises(klerk.JobTimeout):
                drain(k)
        assert k.jobs.counts()[JobState.DISCARDED] == 2
    assert office.ran == []


def test_a_running_job_is_cancelled(office: Office) -> None:
    @office.app.job()
    def stop_itself(job: JobRun) -> None:
        assert k.jobs.cancel_running(job.id)
        job.check_cancelled()

    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(stop_itself())
        assert drain(k).cancelled == 1


def test_endless_jobs_are_named(office: Office) -> None:
    @office.app.job()
    def again(job: JobRun) -> None:
        k.jobs.schedule(again())

    @office.app.job()
    def later(job: JobRun) -> Any:
        return Snooze(timedelta(days=1))

    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(again())
        with pytest.raises(LimitExceeded, match="without end"):
            drain(k, jobs_max=20)
    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(later())
        with pytest.raises(LimitExceeded, match="without end"):
            drain(k, with_scheduled=True, jobs_max=20)


def test_threads_may_drain_at_once(office: Office) -> None:
    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(*(office.plain(str(i)) for i in range(50)))
        threads = [threading.Thread(target=drain, args=(k,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert sorted(office.ran, key=int) == [str(i) for i in range(50)]


def test_draining_is_refused_where_it_would_never_end(office: Office) -> None:
    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(office.plain("x"))
        with k.read(TESTER), pytest.raises(ReadLockHeld):
            drain(k)
        assert office.ran == []
    with pytest.raises(Closed):
        drain(k)
    with office.app.open() as own, pytest.raises(ArgumentError, match="run by themselves"):
        drain(own)
    with klerk.testing.open(office.app, jobs="threads") as own, pytest.raises(ArgumentError):
        run_one(own)
    with klerk.testing.open(office.app, clock=lambda: NOON) as k:
        assert len(drain(k)) == 0
        with pytest.raises(ArgumentError, match="VirtualClock"):
            drain(k, with_scheduled=True)
        with pytest.raises(ArgumentError, match="'idle'"):
            drain(k, until=5)  # type: ignore[arg-type]


def test_a_job_cannot_close_what_waits_for_it(office: Office) -> None:
    @office.app.job()
    def close(job: JobRun) -> None:
        k.close()

    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(close())
        with pytest.raises(klerk.NotPure):
            drain(k)


def test_a_store_that_fails_ends_the_draining(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    from klerk.storage.memory import MemoryStorage

    monkeypatch.setattr("klerk.limits.TEST_CHECK_S", 0.01)

    @office.app.job()
    def pull_the_plug(job: JobRun) -> None:
        def fail(*_: Any) -> None:
            raise StoreFailed("the disk is gone")

        monkeypatch.setattr(MemoryStorage, "sync", fail)

    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(pull_the_plug())
        with pytest.raises(StoreFailed):
            drain(k)
        monkeypatch.undo()


def test_modes_that_there_are(office: Office) -> None:
    with pytest.raises(ConfigError, match="'manual'"):
        klerk.testing.open(office.app, jobs="eager")  # type: ignore[arg-type]


def test_threads_as_in_production(office: Office) -> None:
    clock = VirtualClock()
    with klerk.testing.open(office.app, jobs="threads", clock=clock) as k:
        k.jobs.schedule(office.plain("now"))
        k.jobs.schedule(office.plain("tomorrow"), at=START + timedelta(days=1))
        assert k.jobs.wait_until_idle(20)
        assert office.ran == ["now"]
        clock.advance(timedelta(days=1))
        assert k.jobs.wait_until_idle(20)
        assert office.ran == ["now", "tomorrow"]
        assert threading.get_ident() not in office.threads


# --- inline -------------------------------------------------------------------------------------------


def test_inline_jobs_have_run_when_the_call_returns(office: Office) -> None:
    office.enter.job(lambda a: [office.plain(a.model.owner), office.coroutine(a.model.owner)])
    with klerk.testing.open(office.app, jobs="inline") as k:
        result = k.handle(office.enter("Ada"), TESTER)
        assert office.ran == ["Ada", "async Ada"]
        assert len(result.jobs) == 2
        k.handle_all([office.enter("Bob"), office.enter("Eve")], TESTER)
        assert sorted(office.ran[2:]) == ["Bob", "Eve", "async Bob", "async Eve"]
        office.ran.clear()
        k.jobs.schedule(office.plain("scheduled"))
        assert office.ran == ["scheduled"]
        assert office.threads == {threading.get_ident()}
        assert k.jobs.live() == ()


def test_inline_jobs_of_asyncio(office: Office) -> None:
    office.enter.job(lambda a: [office.plain(a.model.owner), office.coroutine(a.model.owner)])

    async def main() -> None:
        await k.aio.handle(office.enter("Ada"), TESTER)
        assert office.ran == ["Ada", "async Ada"]
        await k.aio.jobs.schedule(office.coroutine("scheduled"))
        assert office.ran[2:] == ["async scheduled"]
        async with k.aio.read(TESTER) as r:
            assert len(r.list(office.accounts)) == 1

    with klerk.testing.open(office.app, jobs="inline") as k:
        asyncio.run(main())


def test_inline_chains_run_to_their_end(office: Office) -> None:
    office.enter.job(lambda a: office.chain(int(a.model.owner[1:]) - 1))
    with klerk.testing.open(office.app, jobs="inline") as k:
        k.handle(office.enter("A4"), TESTER)
        assert office.ran == [3, 2, 1, 0]


def test_endless_inline_chains_are_named(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.TEST_JOBS_MAX", 20)

    @office.app.job()
    async def again(job: JobRun, account: Ref[Account]) -> None:
        await job.handle_async(office.deposit(account, 1))

    office.active.on(office.deposit).job(again)
    with klerk.testing.open(office.app, jobs="inline") as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        with pytest.raises(LimitExceeded, match="20 jobs"):
            k.handle(office.deposit(ada, 1), TESTER)
        assert office.contents(k)[ada] == ("Ada", 21, "active")


def test_an_inline_failure_is_raised_by_the_call_and_undoes_nothing(office: Office) -> None:
    office.enter.job(lambda a: office.fail())
    with klerk.testing.open(office.app, jobs="inline") as k:
        with pytest.raises(ZeroDivisionError):
            k.handle(office.enter("Ada"), TESTER)
        assert [owner for owner, _, _ in office.contents(k).values()] == ["Ada"]
        assert k.jobs.counts()[JobState.RETRYABLE] == 1
    with klerk.testing.open(office.app, jobs="inline", raises=False) as k:
        k.handle(office.enter("Ada"), TESTER)
        assert k.jobs.counts()[JobState.RETRYABLE] == 1


def test_refused_and_tried_commands_run_nothing_inline(office: Office) -> None:
    office.enter.job(lambda a: office.plain(a.model.owner))
    with klerk.testing.open(office.app, jobs="inline") as k:
        k.handle(office.enter("Ada"), TESTER)
        for attempt in (
            lambda: k.handle(office.enter("Ada"), TESTER),
            lambda: k.handle_all([office.enter("Bob"), office.enter("Ada")], TESTER),
        ):
            with pytest.raises(klerk.Conflict):
                attempt()
        k.handle(office.enter("Bob"), TESTER, dry_run=True)
        assert office.ran == ["Ada"]


def test_jobs_of_submitted_commands_run_with_the_next_call(office: Office) -> None:
    office.enter.job(lambda a: office.plain(a.model.owner))
    with klerk.testing.open(office.app, jobs="inline") as k:
        k.submit(office.enter("Ada"), TESTER).result(20)
        assert office.ran == []
        k.handle(office.enter("Bob"), TESTER)
        assert office.ran == ["Ada", "Bob"]


def test_inline_jobs_do_not_run_in_a_thread_of_klerk(office: Office) -> None:
    """A cron job that comes due is created by the scheduler, in whose thread nothing of the user may wait."""

    @office.app.job(cron="0 * * * *")
    def hourly(job: JobRun) -> None:
        office.threads.add(threading.get_ident())
        office.ran.append("hour")

    clock = VirtualClock()
    with klerk.testing.open(office.app, jobs="inline", clock=clock) as k:
        clock.advance(timedelta(hours=1))
        assert office.ran == []
        drain(k)
        assert office.ran == ["hour"]
        k.jobs.schedule(office.plain("x"))
    assert office.threads == {threading.get_ident()}


# --- time ---------------------------------------------------------------------------------------------


def test_a_virtual_clock() -> None:
    clock = VirtualClock()
    assert clock() == clock.now == START
    assert clock.advance(timedelta(hours=2)) == START + timedelta(hours=2)
    assert clock.set(datetime.fromisoformat("2024-02-29T13:00:00+01:00")) == NOON
    assert clock().tzinfo is UTC
    assert "2024-02-29T12:00:00" in repr(clock)
    for wrong in (timedelta(-1), 5, None):
        with pytest.raises(ArgumentError, match="advance"):
            clock.advance(wrong)  # type: ignore[arg-type]
    for moment in (datetime(2024, 1, 1), "noon", None):  # noqa: DTZ001
        with pytest.raises(ArgumentError, match="aware"):
            clock.set(moment)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="aware"):
            VirtualClock(moment)  # type: ignore[arg-type]
    assert clock() == NOON


def test_time_passes_for_timers_jobs_and_commands_at_once(office: Office) -> None:
    """Nothing is waited for: as `advance` returns, timers have fired and jobs are ready."""
    office.active.after(timedelta(days=7)).to(office.closed)
    office.closed.on_enter.job(lambda a: office.about(a.model.meta.id))
    clock = VirtualClock()
    with klerk.testing.open(office.app, clock=clock) as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        k.jobs.schedule(office.plain("later"), at=START + timedelta(days=3))
        clock.advance(timedelta(days=7) - timedelta(seconds=1))
        assert office.contents(k)[ada][2] == "active"
        assert k.jobs.live()[0].state is JobState.AVAILABLE
        clock.advance(timedelta(seconds=1))
        assert office.contents(k)[ada][2] == "closed"
        assert_enqueued(k, office.about(ada))
        assert office.ran == []
        drain(k)
        assert sorted(office.ran, key=str) == [("Ada", "none"), "later"]
        with k.read(TESTER) as r:
            assert r.get(ada).meta.entered_at == START + timedelta(days=7)


def test_draining_for_some_time_goes_from_moment_to_moment(office: Office) -> None:
    moments: list[datetime] = []

    @office.app.job(cron="0 3 * * *")
    def nightly(job: JobRun) -> None:
        moments.append(clock.now)
        office.ran.append("night")

    clock = VirtualClock()
    with klerk.testing.open(office.app, clock=clock) as k:
        k.jobs.schedule(office.plain("soon"), at=START + timedelta(days=1))
        k.jobs.schedule(office.plain("too late"), at=START + timedelta(days=9))
        drained = drain(k, until=timedelta(days=2, hours=1))
        assert office.ran == ["night", "soon", "night"]
        assert [moment.hour for moment in moments] == [3, 3]
        assert drained.completed == 3
        assert clock.now == START + timedelta(days=2, hours=1)
        assert len(enqueued(k, office.plain)) == 1


def test_draining_with_what_is_scheduled_ends_though_cron_does_not(office: Office) -> None:
    @office.app.job(cron="0 * * * *")
    def hourly(job: JobRun) -> None:
        office.ran.append("hour")

    clock = VirtualClock()
    with klerk.testing.open(office.app, clock=clock) as k:
        k.jobs.schedule(office.plain("later"), at=START + timedelta(hours=2, minutes=30))
        drain(k, with_scheduled=True)
        assert office.ran == ["hour", "hour", "later"]
        assert clock.now == START + timedelta(hours=2, minutes=30)


def test_a_clock_outlives_what_it_was_for(office: Office) -> None:
    clock = VirtualClock()
    with klerk.testing.open(office.app, clock=clock):
        pass
    clock.advance(timedelta(days=1))
    office.active.after(timedelta(days=1))
    with klerk.testing.open(Bank().app, clock=clock) as k:
        with k.read(TESTER), pytest.raises(ReadLockHeld):
            clock.advance(timedelta(days=1))
        assert clock.now == START + timedelta(days=2)


def test_a_clock_set_by_many_threads(office: Office) -> None:
    clock = VirtualClock()
    with klerk.testing.open(office.app, clock=clock):
        threads = [
            threading.Thread(target=lambda: [clock.advance(timedelta(seconds=1)) for _ in range(20)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert clock.now == START + timedelta(seconds=80)


def test_asyncio_can_look_again(office: Office) -> None:
    now = [NOON]
    with klerk.testing.open(office.app, clock=lambda: now[0]) as k:

        async def main() -> None:
            await k.aio.jobs.schedule(office.plain("x"), at=NOON + timedelta(days=1))
            assert k.aio.next_due == NOON + timedelta(days=1)
            now[0] += timedelta(days=1)
            await k.aio.look_again()
            assert k.aio.jobs.counts()[JobState.AVAILABLE] == 1

        asyncio.run(main())


# --- expectations -------------------------------------------------------------------------------------


@pytest.fixture
def waiting(office: Office) -> Iterator[klerk.Klerk]:
    """Three accounts' jobs wait: now, in a queue of its own, and for tomorrow."""
    with klerk.testing.open(office.app) as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        k.jobs.schedule(office.about(ada, "first"), office.about(ada).options(queue="slow"))
        k.jobs.schedule(office.plain("x").after(timedelta(days=1)))
        yield k


def test_what_waits_is_found(office: Office, waiting: klerk.Klerk) -> None:
    k, tomorrow = waiting, START + timedelta(days=1)
    with k.read(TESTER) as r:
        (ada,) = r.list(office.accounts)
    ref = ada.meta.id
    assert [record.kind for record in enqueued(k)] == ["about", "about", "plain"]
    assert len(assert_enqueued(k, office.about)) == 2
    assert assert_enqueued(k, office.about(ref, "first"))[0].id == 1
    assert assert_enqueued(k, office.about(ref), queue="slow")[0].id == 2
    assert len(enqueued(k, office.about, args={"account": ada})) == 2
    assert len(enqueued(k, office.about, args={"note": "first"})) == 1
    assert len(enqueued(k, queue="default")) == 2
    assert_enqueued(k, office.plain, at=tomorrow)
    assert_enqueued(k, office.plain("x").at(tomorrow))
    assert_enqueued(k, office.plain, within=timedelta(days=1))
    assert_enqueued(k, office.plain, at=tomorrow + timedelta(minutes=5), within=timedelta(minutes=5))
    assert_enqueued(k, office.about, count=2)
    assert_enqueued(k, office.fail, count=0)
    refute_enqueued(k, office.fail)
    refute_enqueued(k, office.plain, within=timedelta(hours=23))
    refute_enqueued(k, office.plain, at=START)
    refute_enqueued(k, office.about(ref, "first"), queue="slow")
    drain(k)
    refute_enqueued(k, office.about)


def test_a_missed_expectation_shows_what_is_there(office: Office, waiting: klerk.Klerk) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(waiting, office.about, args={"note": "second"}, queue="slow")
    assert str(caught.value).splitlines() == [
        "expected a job about(note='second') in queue 'slow', found none.",
        "These wait:",
        "  1: about(account=1, note='first') available",
        "  2: about(account=1, note='none') available, in queue 'slow'",
        "  3: plain(text='x') scheduled, not before 2030-01-02T12:00:00+00:00",
    ]
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(waiting, office.about, count=1)
    assert str(caught.value).splitlines()[:3] == [
        "expected 1 jobs about, found 2.",
        "These wait:",
        "> 1: about(account=1, note='first') available",
    ]
    with pytest.raises(AssertionError, match=r"(?s)expected no job plain at 2030-01-02.*> 3: plain"):
        refute_enqueued(waiting, office.plain, at=START + timedelta(days=1))
    with pytest.raises(AssertionError, match=r"within 1:00:00 of 2030-01-01T12"):
        assert_enqueued(waiting, office.plain, within=timedelta(hours=1))


def test_a_missed_expectation_of_many_and_of_none(office: Office) -> None:
    with klerk.testing.open(office.app) as k:
        with pytest.raises(AssertionError, match="No job waits"):
            assert_enqueued(k, office.plain)
        k.jobs.schedule(*(office.plain(str(i)) for i in range(60)))
        with pytest.raises(AssertionError, match="and 10 more"):
            refute_enqueued(k, office.plain)


def test_expectations_that_make_no_sense(office: Office, waiting: klerk.Klerk) -> None:
    with pytest.raises(ArgumentError, match="no parameter 'color'"):
        assert_enqueued(waiting, office.plain, args={"color": "red"})
    with pytest.raises(ArgumentError, match="expected a job"):
        assert_enqueued(waiting, "plain")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="are those of a job"):
        enqueued(waiting, args={"text": "x"})


def test_importing_klerk_imports_nothing_of_this(tmp_path: Path) -> None:
    names = "{'klerk.testing', 'klerk.telemetry', 'pytest', 'prometheus_client', 'opentelemetry'}"
    done = run_python("-c", f"import klerk, sys; print(sorted({names} & set(sys.modules)))", cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr

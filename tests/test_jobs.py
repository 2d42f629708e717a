"""Jobs: created with their command or not at all, run once, tried again when they fail, kept across restarts.

Jobs tell what they did by appending to a list; tests wait for events and for the job manager to be idle.
Where time matters, the clock is the test's own.
"""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Account, Bank, Clock, Spawned, eventually

import klerk
from klerk import (
    Args,
    ArgumentError,
    BrokenReference,
    Context,
    InvalidValue,
    JobCancelled,
    JobRun,
    JobState,
    NotFound,
    Ref,
)


class Office(Bank):
    """A bank with jobs of every kind, which write down what they do."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[Any] = []
        self.go = threading.Event()
        app, ran = self.app, self.ran

        @app.job()
        def plain(job: JobRun, text: str) -> None:
            ran.append(text)

        @app.job()
        async def coroutine(job: JobRun, text: str) -> None:
            await asyncio.sleep(0)
            ran.append(text)

        @app.job(priority=100)
        def wait(job: JobRun, text: str = "") -> None:
            ran.append("waiting")
            assert self.go.wait(20)
            ran.append(f"waited{text}")

        @app.job(max_attempts=2)
        def fail(job: JobRun, text: str) -> None:
            ran.append(f"{text} {job.attempt}")
            job.log(f"attempt {job.attempt}")
            for _ in job.track([1, 2, 3]):
                if job.done == 2:
                    raise ZeroDivisionError(text)

        @app.job(max_attempts=1)
        def fail_for_good(job: JobRun, kind: str) -> None:
            raise {"error": ZeroDivisionError, "exit": SystemExit, "interrupt": KeyboardInterrupt}[kind](kind)

        self.plain, self.coroutine, self.wait, self.fail = plain, coroutine, wait, fail
        self.fail_for_good = fail_for_good


@pytest.fixture
def office() -> Any:
    office = Office()
    yield office
    office.go.set()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set sooner than in a second, which `test_timers` waits for once."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def ended(k: klerk.Klerk) -> tuple[int, int, int]:
    counts = k.jobs.counts()
    return counts[JobState.COMPLETED], counts[JobState.DISCARDED], counts[JobState.CANCELLED]


# --- created with a command ---------------------------------------------------------------------------


def test_a_command_creates_jobs(office: Office) -> None:
    office.enter.job(lambda a: office.plain(f"hello {a.model.owner}"))
    office.enter.job(lambda a, balance: [office.coroutine(str(balance)), office.coroutine("two")])
    office.closed.on_enter.job(lambda a: None)
    with office.app.open(job_threads=0) as k:
        result = k.handle(office.enter("Ada", 5), TESTER.at(NOON))
        assert [(job.kind, job.arguments, job.state, job.attempt) for job in result.jobs] == [
            ("plain", ("hello Ada",), JobState.AVAILABLE, 0),
            ("coroutine", ("5",), JobState.AVAILABLE, 0),
            ("coroutine", ("two",), JobState.AVAILABLE, 0),
        ]
        assert [job.id for job in result.jobs] == [1, 2, 3]
        assert {job.cause for job in result.jobs} == {result.sequence}
        assert not k.handle(office.close(result.id), TESTER).jobs
        assert list(k.jobs.live()) == list(result.jobs)
        assert k.jobs.get(2) == result.jobs[1]
        with pytest.raises(NotFound, match="no job 9"):
            k.jobs.get(9)
        assert k.jobs.counts()[JobState.AVAILABLE] == 3


def test_a_job_about_the_model_of_its_block(office: Office) -> None:
    @office.app.job()
    def check(job: JobRun, account: Ref[Account]) -> None:
        with job.read() as r:
            office.ran.append((r.get(account).owner, r.get(account).meta.state.name))

    office.closed.on_enter.job(check)
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        k.handle(office.close(ada), TESTER)
        idle(k)
    assert office.ran == [("Ada", "closed")]


@pytest.mark.parametrize("threads", [1, 4])
def test_every_job_runs_once(office: Office, threads: int) -> None:
    office.enter.job(lambda a: [office.plain(a.model.owner), office.coroutine(a.model.owner)])
    with office.app.open(job_threads=threads) as k:
        futures = [k.submit(office.enter(f"A{i}"), TESTER) for i in range(200)]
        for future in futures:
            future.result(20)
        idle(k)
        assert sorted(office.ran) == sorted(2 * [f"A{i}" for i in range(200)])
        assert ended(k) == (400, 0, 0)
        assert k.jobs.live() == ()


def test_arguments_of_jobs_are_checked_with_the_command(office: Office) -> None:
    wrong: Any = None

    @office.app.job()
    def check(job: JobRun, account: Ref[Account], text: str = "x") -> None: ...

    office.enter.job(lambda a: wrong)
    with office.app.open() as k:
        for given, error in (
            (office.plain(5), InvalidValue),  # type: ignore[arg-type]
            (check(99), BrokenReference),  # type: ignore[arg-type]
            ("plain", ArgumentError),
            (["plain"], ArgumentError),
        ):
            wrong = given
            with pytest.raises(error):
                k.handle(office.enter("Ada"), TESTER)
            with pytest.raises(error):
                k.jobs.schedule(given)  # type: ignore[arg-type]
        assert office.contents(k) == {}
        assert k.jobs.live() == ()
    for call in (check, lambda: check(1, "x", 2), lambda: check(1, color=1)):  # type: ignore[call-arg, arg-type]
        with pytest.raises(ArgumentError, match="check"):
            call()


def test_jobs_of_refused_and_tried_commands_never_run(office: Office) -> None:
    office.enter.job(lambda a: office.plain(a.model.owner))
    with office.app.open() as k:
        k.handle(office.enter("Ada"), TESTER)
        for attempt in (
            lambda: k.handle(office.enter("Ada"), TESTER),
            lambda: k.handle_all([office.enter("Bob"), office.enter("Ada")], TESTER),
            lambda: k.handle_all([office.enter("Bob"), office.deposit(99, 1)], TESTER),
        ):
            with pytest.raises(klerk.KlerkError):
                attempt()
        k.handle(office.enter("Bob"), TESTER, dry_run=True)
        idle(k)
        assert k.handle(office.enter("Eve"), TESTER).jobs[0].id == 2
        idle(k)
        assert office.ran == ["Ada", "Eve"]


def test_unmanaged_jobs_run_after_the_commit_in_order(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[klerk.Klerk] = []

    def look(a: Args[Account]) -> None:
        with opened[0].read(TESTER) as r:
            office.ran.append((r.get(a.model.meta.id) == a.model, a.model.owner))

    def command(a: Args[Account]) -> None:
        opened[0].handle(office.close(a.model.meta.id), TESTER)

    office.enter.unmanaged_job(lambda a: 1 // 0)
    office.enter.unmanaged_job(look)
    office.enter.unmanaged_job(command)
    with office.app.open() as k:
        opened.append(k)
        for i in range(20):
            k.handle(office.enter(f"A{i}"), TESTER)
        eventually(lambda: all(state == "closed" for _, _, state in office.contents(k).values()))
    assert office.ran == [(True, f"A{i}") for i in range(20)]
    assert "ZeroDivisionError" in caplog.text
    assert "test_jobs.py" in caplog.text


# --- what a job can do --------------------------------------------------------------------------------


def test_a_job_handles_commands_as_the_system(office: Office) -> None:
    actors: list[Any] = []

    @office.deposit.rule
    def note(a: Args[Account], amount: int) -> bool:
        actors.append((a.context.actor.kind, a.context.actor.id, getattr(a.context.actor, "cause", None)))
        return True

    @office.app.deny.command(office.deposit)
    def nobody(a: Args) -> bool:
        return True

    @office.app.job()
    def interest(job: JobRun, account: Ref[Account]) -> None:
        office.ran.append(job.handle(office.deposit(account, 7)).model.balance)

    office.enter.job(lambda a: interest(a.model.meta.id))
    with office.app.open() as k:
        result = k.handle(office.enter("Ada", 1), TESTER)
        idle(k)
        assert office.contents(k)[result.id] == ("Ada", 8, "active")
        assert office.ran == [8]
        assert actors == [("system", "job interest 1", result.sequence)]


def test_a_job_sees_the_context_class_of_the_app(office: Office) -> None:
    class Branch(Context):
        city: str

    @office.app.context_provider
    def provide(actor: klerk.Actor, now: datetime) -> Context:
        return Branch(actor, now, city="Brno")

    @office.deposit.rule
    def note(a: Args[Account], amount: int) -> bool:
        office.ran.append((a.context.city, a.now))
        return True

    @office.app.job()
    def interest(job: JobRun, account: Ref[Account]) -> None:
        job.handle(office.deposit(account, 7))
        with job.read() as r:
            office.ran.append(r.context.city)  # type: ignore[attr-defined]

    office.enter.job(lambda a: interest(a.model.meta.id))
    with office.app.open(clock=Clock()) as k:
        k.handle(office.enter("Ada", 1), Branch(TESTER.actor, city="Praha"))
        idle(k)
    assert office.ran == [("Brno", NOON), "Brno"]


def test_a_job_that_ends_with_commands(office: Office) -> None:
    """They take effect together with the completion, or the attempt has failed."""

    @office.app.job(max_attempts=1)
    def interest(job: JobRun, account: Ref[Account], amount: int) -> Any:
        return job.complete_with(office.deposit(account, 1), office.withdraw(account, amount))

    with office.app.open() as k:
        ada = k.handle(office.enter("Ada", 5), TESTER).id
        before = k.sequence
        k.jobs.schedule(interest(ada, 3))
        idle(k)
        assert office.contents(k)[ada] == ("Ada", 3, "active")
        assert (ended(k), k.sequence) == ((1, 0, 0), before + 2)
        k.jobs.schedule(interest(ada, 100))
        idle(k)
        assert office.contents(k)[ada] == ("Ada", 3, "active")
        assert (ended(k), k.sequence) == ((1, 1, 0), before + 4)


def test_a_command_under_the_read_lock_of_a_job(office: Office) -> None:
    @office.app.job(max_attempts=1)
    def careless(job: JobRun, account: Ref[Account]) -> None:
        with job.read():
            try:
                job.handle(office.deposit(account, 1))
            except klerk.ReadLockHeld:
                office.ran.append("refused")

    with office.app.open() as k:
        ada = k.handle(office.enter("Ada", 5), TESTER).id
        k.jobs.schedule(careless(ada))
        idle(k)
    assert office.ran == ["refused"]


# --- order and limits ---------------------------------------------------------------------------------


def test_higher_priorities_start_first(office: Office) -> None:
    declared = {}
    for priority in (-5, 0, 5):

        def work(job: JobRun, text: str) -> None:
            office.ran.append(text)

        work.__name__ = f"work_{priority + 5}"
        declared[priority] = office.app.job(priority=priority)(work)
    with office.app.open(job_threads=1) as k:
        k.jobs.schedule(office.wait())
        eventually(lambda: office.ran == ["waiting"])
        k.jobs.schedule(declared[-5]("low"), declared[0]("first"), declared[5]("high"), declared[0]("second"))
        assert k.jobs.counts()[JobState.EXECUTING] == 1
        assert k.jobs.counts()[JobState.AVAILABLE] == 4
        assert k.jobs.get(1).state is JobState.EXECUTING
        assert not k.jobs.wait_until_idle(0.01)
        office.go.set()
        idle(k)
    assert office.ran == ["waiting", "waited", "high", "first", "second", "low"]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_rate_is_kept(office: Office, kind: str) -> None:
    """Two a day: two run, the others wait and hold up nobody else; after a restart two more may run."""

    def limited(job: JobRun, number: int) -> None:
        office.ran.append(number)

    async def limited_coroutine(job: JobRun, number: int) -> None:
        office.ran.append(number)

    job = office.app.job(rate="2/day", priority=9)(limited if kind == "plain" else limited_coroutine)
    with office.app.open(job_threads=1) as k:
        k.jobs.schedule(*(job(i) for i in range(5)))
        k.jobs.schedule(office.plain("other"))
        k.jobs.schedule(office.coroutine("another"))
        eventually(lambda: ended(k)[0] == 4)
        assert sorted(office.ran, key=str) == [0, 1, "another", "other"]
        assert k.jobs.counts()[JobState.AVAILABLE] == 3
        assert [record.arguments for record in k.jobs.live()] == [(2,), (3,), (4,)]
        assert not k.jobs.wait_until_idle(0)


def test_a_rate_lets_all_through_in_time(office: Office) -> None:
    @office.app.job(rate="100/s")
    def limited(job: JobRun, number: int) -> None:
        office.ran.append(number)

    with office.app.open(job_threads=1) as k:
        k.jobs.schedule(*(limited(i) for i in range(120)))
        idle(k)
    assert office.ran == list(range(120))


# --- failing and stopping -----------------------------------------------------------------------------


def test_a_failed_job_is_tried_again_and_then_given_up(office: Office) -> None:
    clock = Clock()
    with office.app.open(clock=clock) as k:
        (record,) = k.jobs.schedule(office.fail("x"))
        idle(k)
        assert office.ran == ["x 1"]
        failed = k.jobs.get(record.id)
        assert (failed.state, failed.attempt, failed.error) == (JobState.RETRYABLE, 1, "ZeroDivisionError: x")
        assert (failed.log, failed.done, failed.total) == (("attempt 1",), 2, 3)
        delay_us = failed.run_at_us - int(NOON.timestamp() * 1e6)
        assert 500_000 <= delay_us <= 1_000_000
        assert k.jobs.counts()[JobState.RETRYABLE] == 1
        assert ended(k) == (0, 0, 0)
        clock.advance(timedelta(seconds=1))
        eventually(lambda: ended(k) == (0, 1, 0))
        assert office.ran == ["x 1", "x 2"]
        assert k.jobs.get(record.id).state is JobState.DISCARDED


def test_delays_double_up_to_a_bound() -> None:
    retry = Bank().app.job()(_nothing).settings.retry
    for attempt in range(1, 200):
        full = min(3600, 2 ** (attempt - 1))
        assert full / 2 <= retry(attempt, ValueError()).total_seconds() <= full


def _nothing(job: JobRun) -> None: ...


@pytest.mark.parametrize("kind", ["error", "exit", "interrupt"])
def test_whatever_a_job_raises_harms_nobody_else(office: Office, kind: str) -> None:
    with office.app.open(job_threads=1) as k:
        k.jobs.schedule(office.fail_for_good(kind), office.plain("after"))
        idle(k)
        assert ended(k) == (1, 1, 0)
    assert office.ran == ["after"]


@pytest.mark.parametrize("raised", [asyncio.CancelledError, SystemExit, ZeroDivisionError])
def test_whatever_a_coroutine_raises_harms_nobody_else(office: Office, raised: type[BaseException]) -> None:
    @office.app.job(max_attempts=1)
    async def broken(job: JobRun) -> None:
        raise raised("x")

    with office.app.open() as k:
        k.jobs.schedule(broken(), office.coroutine("after"))
        eventually(lambda: ended(k) == (1, 1, 0))
        k.jobs.schedule(office.coroutine("later"))
        idle(k)
    assert office.ran == ["after", "later"]


def test_a_running_job_can_be_asked_to_stop(office: Office) -> None:
    @office.app.job()
    def long(job: JobRun) -> None:
        office.ran.append("long")
        for _ in job.track(range(10**9)):
            pass

    @office.app.job()
    def polite(job: JobRun) -> None:
        office.ran.append("polite")
        while not job.cancelled:
            office.go.wait(0.001)
        office.ran.append("stopped")
        with pytest.raises(JobCancelled):
            job.handle(office.enter("Ada"))

    with office.app.open() as k:
        one, two = k.jobs.schedule(long(), polite())
        eventually(lambda: len(office.ran) == 2)
        assert k.jobs.cancel_running(one.id)
        assert k.jobs.cancel_running(two.id)
        idle(k)
        assert ended(k) == (1, 0, 1)
        assert not k.jobs.cancel_running(one.id)
        assert office.contents(k) == {}
    assert office.ran[-1] == "stopped"


def test_what_a_job_logs_is_bounded(office: Office) -> None:
    @office.app.job()
    def chatty(job: JobRun) -> None:
        for i in range(150):
            job.log(f"{i} " + "x" * 2000)
        office.ran.append(job.log_lines)
        raise ValueError("y" * 5000)

    with office.app.open(clock=Clock()) as k:
        (record,) = k.jobs.schedule(chatty())
        idle(k)
        kept = k.jobs.get(record.id)
        assert kept.log == office.ran[0]
        assert (len(kept.log), kept.log[0][:3], {len(line) for line in kept.log}) == (100, "50 ", {1000})
        assert len(kept.error) == 2000


# --- later, and after a restart -----------------------------------------------------------------------


def test_a_job_for_later(office: Office) -> None:
    clock = Clock()
    with office.app.open(clock=clock) as k:
        (record,) = k.jobs.schedule(office.plain("later"), at=NOON + timedelta(hours=1))
        (soon,) = k.jobs.schedule(office.plain("soon"), at=NOON - timedelta(hours=1))
        idle(k)
        assert office.ran == ["soon"]
        assert (record.state, soon.state) == (JobState.SCHEDULED, JobState.AVAILABLE)
        assert k.jobs.counts()[JobState.SCHEDULED] == 1
        clock.advance(timedelta(hours=1))
        eventually(lambda: ended(k) == (2, 0, 0))
    assert office.ran == ["soon", "later"]


def test_a_command_creates_a_job_for_later(office: Office) -> None:
    clock = Clock()
    office.enter.job(lambda a: office.plain(a.model.owner).at(a.now + timedelta(days=1)))
    with office.app.open(clock=clock) as k:
        (record,) = k.handle(office.enter("Ada"), TESTER).jobs
        assert record.state is JobState.SCHEDULED
        clock.advance(timedelta(days=1))
        eventually(lambda: office.ran == ["Ada"])


def test_a_job_at_a_time_without_zone_is_refused(office: Office) -> None:
    with office.app.open() as k, pytest.raises((ArgumentError, InvalidValue), match="time zone"):
        k.jobs.schedule(office.plain("x"), at=datetime(2024, 1, 1))  # noqa: DTZ001


def test_jobs_survive_a_restart(office: Office, tmp_path: Path) -> None:
    clock = Clock()
    tomorrow = NOON + timedelta(days=1)
    office.enter.job(lambda a: office.plain(a.model.owner))
    with office.app.open(tmp_path / "store", clock=clock, job_threads=0) as k:
        k.handle(office.enter("Ada"), TESTER)
        k.jobs.schedule(office.coroutine("async"))
        k.jobs.schedule(office.plain("tomorrow"), at=tomorrow)
        live = k.jobs.live()
    with office.app.open(tmp_path / "store", clock=clock, job_threads=0) as k:
        assert k.jobs.live() == live
        counts = k.jobs.counts()
        assert (counts[JobState.AVAILABLE], counts[JobState.SCHEDULED]) == (2, 1)
    assert office.ran == []
    with office.app.open(tmp_path / "store", clock=clock) as k:
        idle(k)
        assert sorted(office.ran) == ["Ada", "async"]
    clock.now = tomorrow
    with office.app.open(tmp_path / "store", clock=clock) as k:
        eventually(lambda: ended(k) == (3, 0, 0))
    with office.app.open(tmp_path / "store", clock=clock) as k:
        idle(k)
        assert ended(k) == (3, 0, 0)
        assert k.jobs.schedule(office.plain("new"))[0].id == 4
        idle(k)
    assert sorted(office.ran) == ["Ada", "async", "new", "tomorrow"]


def test_a_failed_job_is_tried_again_after_a_restart(office: Office, tmp_path: Path) -> None:
    clock = Clock()
    with office.app.open(tmp_path / "store", clock=clock) as k:
        k.jobs.schedule(office.fail("x"))
        idle(k)
        kept = k.jobs.live()
    with office.app.open(tmp_path / "store", clock=clock) as k:
        assert k.jobs.live() == kept
        clock.advance(timedelta(seconds=1))
        eventually(lambda: ended(k) == (0, 1, 0))
    assert office.ran == ["x 1", "x 2"]


def test_arguments_come_back_as_they_were(tmp_path: Path) -> None:
    seen: list[Any] = []

    def design() -> tuple[Bank, Any]:
        bank = Bank()

        @bank.app.job()
        def keep(
            job: JobRun,
            when: datetime,
            tags: frozenset[str],
            pair: tuple[int, str],
            span: timedelta | None = None,
        ) -> None:
            seen.append((when, tags, pair, span))

        return bank, keep

    arguments = (NOON, frozenset({"a", "b"}), (1, "x"), timedelta(seconds=1))
    bank, keep = design()
    with bank.app.open(tmp_path / "store", job_threads=0) as k:
        k.jobs.schedule(keep(*arguments))
    bank, keep = design()
    with bank.app.open(tmp_path / "store") as k:
        idle(k)
    assert seen == [arguments]
    assert seen[0][0].tzinfo is UTC


def test_jobs_that_wait_and_are_no_longer_declared_are_named(office: Office, tmp_path: Path) -> None:
    with office.app.open(tmp_path / "store", job_threads=0) as k:
        k.jobs.schedule(office.plain("x"), office.wait())
    with pytest.raises(klerk.SchemaChanged, match="the job plain is no longer declared") as caught:
        Bank().app.open(tmp_path / "store")
    assert "the job wait is no longer declared" in str(caught.value)
    office.go.set()
    with office.app.open(tmp_path / "store") as k:
        idle(k)
    assert sorted(office.ran) == ["waited", "waiting", "x"]


def test_closing_waits_for_running_jobs(office: Office, tmp_path: Path) -> None:
    with office.app.open(tmp_path / "store", job_threads=1) as k:
        k.jobs.schedule(office.wait(), office.plain("next"))
        eventually(lambda: office.ran == ["waiting"])
        closing = Spawned(k.close)
        eventually(lambda: "closed" in repr(k))
        office.go.set()
        closing.end()
    assert office.ran == ["waiting", "waited"]
    with office.app.open(tmp_path / "store") as k:
        idle(k)
        assert ended(k) == (2, 0, 0)
    assert office.ran == ["waiting", "waited", "next"]


def test_a_job_handles_a_command_while_klerk_closes(office: Office, tmp_path: Path) -> None:
    """A running job may finish its work: its commands are taken until it has ended."""

    @office.app.job()
    def slow(job: JobRun) -> None:
        office.ran.append("slow")
        assert office.go.wait(20)
        job.handle(office.enter("Ada"))

    with office.app.open(tmp_path / "store") as k:
        k.jobs.schedule(slow())
        eventually(lambda: office.ran == ["slow"])
        closing = Spawned(k.close)
        eventually(lambda: "closed" in repr(k))
        office.go.set()
        closing.end()
    with office.app.open(tmp_path / "store") as k:
        idle(k)
        assert ended(k) == (1, 0, 0)
        assert [owner for owner, _, _ in office.contents(k).values()] == ["Ada"]
    assert office.ran == ["slow"]


def test_nothing_is_scheduled_after_closing(office: Office) -> None:
    with office.app.open() as k:
        pass
    with pytest.raises(klerk.Closed):
        k.jobs.schedule(office.plain("x"))


def test_cron(office: Office) -> None:
    @office.app.job(cron="0 3 * * *")
    def nightly(job: JobRun) -> None:
        office.ran.append("night")

    clock = Clock(datetime(2024, 2, 28, 2, 59, 59, tzinfo=UTC))
    with office.app.open(clock=clock) as k:
        idle(k)
        assert office.ran == []
        clock.advance(timedelta(seconds=1))
        eventually(lambda: office.ran == ["night"])
        clock.advance(timedelta(days=1))
        eventually(lambda: office.ran == ["night", "night"])
        eventually(lambda: ended(k) == (2, 0, 0))
        assert k.jobs.live() == ()


def test_a_job_may_name_what_is_set_only_later(office: Office) -> None:
    @office.app.job()
    def look(job: JobRun) -> None:
        office.ran.append(k.sequence > 0)

    with office.app.open() as k:
        k.jobs.schedule(look())
        idle(k)
    assert office.ran == [True]


def test_parameters_may_be_keyword_only(office: Office) -> None:
    seen = []

    @office.app.job()
    def by_name(job: JobRun, first: str, *, second: int = 2) -> None:
        seen.append((first, second))

    @office.app.job()
    async def awaited(job: JobRun, *, second: int) -> None:
        seen.append(("coroutine", second))

    with office.app.open() as k:
        k.jobs.schedule(by_name("a"), by_name("b", second=3), awaited(second=4))
        idle(k)
    assert sorted(seen) == [("a", 2), ("b", 3), ("coroutine", 4)]


def test_a_job_ends_at_the_beginning_of_time_too(office: Office, tmp_path: Path) -> None:
    """Where 0 stands for no time."""
    clock = Clock(datetime(1970, 1, 1, tzinfo=UTC))
    for _ in range(2):
        with office.app.open(tmp_path / "store", clock=clock) as k:
            if not k.sequence:
                k.jobs.schedule(office.plain("then"))
                idle(k)
            assert k.jobs.live() == ()
            assert k.jobs.get(1).state is JobState.COMPLETED
    assert office.ran == ["then"]

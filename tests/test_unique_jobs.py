"""Unique jobs: while one blocks, a request for the same creates nothing, and that one stands for it.

Jobs wait for an event of the test, or none run at all (`job_threads=0`). Where time matters, the clock is the
test's own.
"""

import threading
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from designs import NOON, TESTER, Bank, Clock, Spawned, eventually

import klerk
from klerk import Args, JobRecord, JobRun, JobState, KlerkError, NotFound, Snooze, Unique


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct, frozen=True):
    x: int
    name: str


class Office(Bank):
    """A bank with unique jobs of every sort, which wait for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[Any] = []
        self.go = threading.Event()
        app, ran = self.app, self.ran

        @app.job(unique=Unique())
        def once(job: JobRun, text: str, number: int = 0) -> None:
            ran.append((text, number))
            assert self.go.wait(20)

        @app.job(unique=Unique(by=("text",)), max_attempts=2, retry=lambda attempt, error: timedelta(hours=1))
        def by_text(job: JobRun, text: str, number: int = 0) -> None:
            ran.append((text, number))
            raise ZeroDivisionError

        @app.job(unique=Unique(until="started"))
        def started(job: JobRun, text: str) -> Snooze | None:
            ran.append(text)
            assert self.go.wait(20)
            return Snooze(timedelta(hours=1)) if text == "snooze" else None

        @app.job(unique=Unique(within=timedelta(hours=1)))
        def hourly(job: JobRun, text: str) -> None:
            ran.append(text)

        @app.job(unique=Unique())
        def typed(
            job: JobRun,
            colours: frozenset[Colour],
            points: frozenset[Point],
            price: Decimal,
            factor: float,
            moment: datetime,
            data: bytes | None = None,
            numbers: tuple[int, ...] = (),
        ) -> None: ...

        @app.job()
        def plain(job: JobRun, text: str) -> None: ...

        self.once, self.by_text, self.started, self.hourly = once, by_text, started, hourly
        self.typed, self.plain = typed, plain


@pytest.fixture
def office() -> Any:
    office = Office()
    yield office
    office.go.set()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set sooner than in a second."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def one(k: klerk.Klerk, request: klerk.JobRequest) -> JobRecord:
    (record,) = k.jobs.schedule(request)
    return record


# --- which requests ask for the same ------------------------------------------------------------------


def test_the_first_job_stands_for_the_second(office: Office) -> None:
    with office.app.open(job_threads=0) as k:
        first = one(k, office.once("a"))
        assert first.id == 1
        assert one(k, office.once("a")) == first == k.jobs.get(1)
        assert one(k, office.once("a", 0)) == first
        assert one(k, office.once("a", 1)).id == 2
        assert one(k, office.once("b")).id == 3
        # Another kind with the same arguments, and one that is not unique.
        assert one(k, office.started("a")).id == 4
        assert [record.id for record in k.jobs.schedule(office.plain("a"), office.plain("a"))] == [5, 6]
        assert k.jobs.counts()[JobState.AVAILABLE] == 6


def test_only_the_named_parameters_count(office: Office) -> None:
    with office.app.open(job_threads=0) as k:
        assert one(k, office.by_text("a", 1)).id == one(k, office.by_text("a", 2)).id == 1
        assert k.jobs.get(1).arguments == ("a", 1)
        assert one(k, office.by_text("b", 1)).id == 2


def test_equal_arguments_are_the_same_however_they_are_written(office: Office, tmp_path: Path) -> None:
    points = [Point(i, f"p{i}") for i in range(20)]
    oslo = timezone(timedelta(hours=1))
    arguments = (
        frozenset(Colour),
        frozenset(points),
        Decimal("1.50"),
        0.0,
        NOON,
        b"",
        (1, 2),
    )
    equal = (
        frozenset(reversed(Colour)),
        frozenset(reversed(points)),
        Decimal("1.5"),
        -0.0,
        NOON.astimezone(oslo),
        b"",
        (1, 2),
    )
    assert arguments == equal
    others = [
        (frozenset({Colour.RED}), *arguments[1:]),
        (*arguments[:1], frozenset(points[1:]), *arguments[2:]),
        (*arguments[:2], Decimal(15), *arguments[3:]),
        (*arguments[:3], 0.5, *arguments[4:]),
        (*arguments[:4], NOON + timedelta(microseconds=1), *arguments[5:]),
        (*arguments[:5], None, arguments[6]),
        (*arguments[:6], (2, 1)),
    ]
    for _ in range(2):
        # A second time after a restart, when they were read from the store.
        with office.app.open(tmp_path / "store", job_threads=0) as k:
            assert one(k, office.typed(*arguments)).id == one(k, office.typed(*equal)).id == 1
            assert [one(k, office.typed(*each)).id for each in others] == list(range(2, 9))


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("100", "1E2", True),
        ("0", "-0.00", True),
        ("10", "1", False),
        ("1.23456789012345678901234567890123", "1.23456789012345678901234567890124", False),
        ("-1", "1", False),
        ("1E3", "1E4", False),
    ],
)
def test_decimals_are_compared_by_value(office: Office, left: str, right: str, same: bool) -> None:
    def request(price: str) -> klerk.JobRequest:
        return office.typed(frozenset(), frozenset(), Decimal(price), 1.0, NOON)

    with office.app.open(job_threads=0) as k:
        assert (one(k, request(left)).id == one(k, request(right)).id) is same


# --- inside transactions ------------------------------------------------------------------------------


def test_a_command_lists_only_the_jobs_that_it_created(office: Office) -> None:
    office.enter.job(lambda a: [office.once("x"), office.plain("p"), office.once("x"), office.once("y")])
    with office.app.open(job_threads=0) as k:
        assert [job.id for job in k.handle(office.enter("Ada"), TESTER).jobs] == [1, 2, 3]
        assert [job.id for job in k.handle(office.enter("Bob"), TESTER).jobs] == [4]
        assert [record.kind for record in k.jobs.live()] == ["once", "plain", "once", "plain"]
        again = k.jobs.schedule(office.once("x"), office.plain("q"), office.once("y"))
        assert [record.id for record in again] == [1, 5, 3]


@pytest.mark.parametrize("refused", ["dry run", "rule", "later command"])
def test_what_is_not_kept_blocks_nothing(office: Office, refused: str) -> None:
    office.enter.job(lambda a, owner: office.once(owner))
    office.active.on(office.deposit).job(lambda a: office.once("deposit"))
    with office.app.open(job_threads=0) as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        if refused == "dry run":
            assert len(k.check(office.enter("Bob"), TESTER).jobs) == 1
            assert len(k.check(office.enter("Bob"), TESTER).jobs) == 1
        else:
            bad = office.withdraw(ada, 5) if refused == "rule" else office.enter("Ada")
            with pytest.raises(KlerkError):
                k.handle_all([office.enter("Bob"), office.deposit(ada, 1), bad], TESTER)
        assert [record.arguments for record in k.jobs.live()] == [("Ada", 0)]
        assert [job.id for job in k.handle(office.enter("Bob"), TESTER).jobs] == [2]
        assert [job.id for job in k.handle(office.deposit(ada, 1), TESTER).jobs] == [3]


def test_many_threads_that_ask_for_the_same_create_it_once(office: Office) -> None:
    office.enter.job(lambda a: office.once("same"))
    with office.app.open(job_threads=0) as k:
        begin = threading.Barrier(8)

        def ask(number: int) -> list[int]:
            begin.wait(20)
            submitted = [k.submit(office.enter(f"A{number}.{i}"), TESTER) for i in range(20)]
            found = [one(k, office.once("same")).id for _ in range(20)]
            created = [job.id for each in submitted for job in each.result(20).jobs]
            return created + found

        found = [spawned.end() for spawned in [Spawned(ask, i) for i in range(8)]]
        assert {job_id for each in found for job_id in each} == {1}
        assert len(k.jobs.live()) == 1


# --- until it has ended -------------------------------------------------------------------------------


def test_it_blocks_until_it_has_ended(office: Office) -> None:
    with office.app.open() as k:
        first = one(k, office.once("a"))
        eventually(lambda: office.ran)
        assert one(k, office.once("a")).id == first.id
        office.go.set()
        assert k.jobs.wait_until_idle(20)
        second = one(k, office.once("a"))
        assert second.id == 2
        assert k.jobs.wait_until_idle(20)
        assert office.ran == [("a", 0), ("a", 0)]


def test_a_failed_job_blocks_until_it_is_given_up(office: Office) -> None:
    clock = Clock()
    with office.app.open(clock=clock) as k:
        one(k, office.by_text("a"))
        eventually(lambda: k.jobs.counts()[JobState.RETRYABLE] == 1)
        again = one(k, office.by_text("a", 7))
        assert (again.id, again.state, again.attempt) == (1, JobState.RETRYABLE, 1)
        clock.advance(timedelta(hours=2))
        eventually(lambda: k.jobs.counts()[JobState.DISCARDED] == 1)
        assert one(k, office.by_text("a", 7)).id == 2


def test_a_job_may_end_with_a_command_that_requests_its_successor(office: Office) -> None:
    accounts = office.accounts

    @office.app.job(unique=Unique())
    def next_step(job: JobRun, text: str) -> klerk.Completion:
        with job.read() as r:
            (account,) = r.list(accounts)
        office.ran.append(account.balance)
        if account.balance >= 3:
            # Refused, so the attempt has failed, and the job still blocks others.
            return job.complete_with(office.deposit(account.meta.id, 1), office.withdraw(account.meta.id, 99))
        return job.complete_with(office.deposit(account.meta.id, 1))

    office.active.on(office.deposit).job(lambda a: next_step("same"))
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        k.handle(office.deposit(ada, 1), TESTER)
        eventually(lambda: k.jobs.counts()[JobState.RETRYABLE] == 1)
        assert office.ran == [1, 2, 3]
        (record,) = k.jobs.live()
        assert record.id == 3
        assert one(k, next_step("same")).id == 3


# --- until it has started -----------------------------------------------------------------------------


def test_it_blocks_until_it_has_started(office: Office) -> None:
    with office.app.open(job_threads=1) as k:
        first = one(k, office.started("a"))
        eventually(lambda: office.ran)
        second = one(k, office.started("a"))
        assert (first.id, second.id) == (1, 2)
        assert one(k, office.started("a")).id == 2
        office.go.set()
        assert k.jobs.wait_until_idle(20)
        assert office.ran == ["a", "a"]


def test_what_has_started_does_not_block_when_it_waits_again(office: Office, tmp_path: Path) -> None:
    office.go.set()
    with office.app.open(tmp_path / "store") as k:
        one(k, office.started("snooze"))
        eventually(lambda: k.jobs.counts()[JobState.SCHEDULED] == 1)
        assert one(k, office.started("snooze")).id == 2
        eventually(lambda: k.jobs.counts()[JobState.SCHEDULED] == 2)


# --- for a time ---------------------------------------------------------------------------------------


def test_it_blocks_for_a_time_whatever_becomes_of_it(office: Office, tmp_path: Path) -> None:
    clock = Clock()
    with office.app.open(tmp_path / "store", clock=clock) as k:
        one(k, office.hourly("a"))
        assert k.jobs.wait_until_idle(20)
        again = one(k, office.hourly("a"))
        assert (again.id, again.state) == (1, JobState.COMPLETED)
        assert k._manager.relations.is_needed(1)
        clock.advance(timedelta(minutes=30))
        assert one(k, office.hourly("b")).id == 2
        assert k.jobs.wait_until_idle(20)
    with office.app.open(tmp_path / "store", clock=clock) as k:
        assert one(k, office.hourly("a")).id == 1
        clock.advance(timedelta(minutes=30))
        assert one(k, office.hourly("a")).id == 3
        assert one(k, office.hourly("b")).id == 2
        assert not k._manager.relations.is_needed(1)
        assert k.jobs.wait_until_idle(20)
    clock.advance(timedelta(days=1))
    with office.app.open(tmp_path / "store", clock=clock) as k:
        assert not any(map(k._manager.relations.is_needed, range(5)))
        assert [record.id for record in k.jobs.schedule(office.hourly("a"), office.hourly("b"))] == [4, 5]


def test_the_time_is_that_of_the_transaction_and_a_dry_run_ends_none(office: Office) -> None:
    office.enter.job(lambda a: office.hourly("a"))
    with office.app.open(job_threads=0, clock=Clock()) as k:
        assert k.handle(office.enter("Ada"), TESTER.at(NOON)).jobs
        later = TESTER.at(NOON + timedelta(hours=1))
        assert not k.handle(office.enter("Bob"), TESTER.at(NOON + timedelta(minutes=59))).jobs
        assert [job.id for job in k.check(office.enter("Cem"), later).jobs] == [2]
        assert not k.handle(office.enter("Cem"), TESTER.at(NOON + timedelta(minutes=59))).jobs
        assert [job.id for job in k.handle(office.enter("Dee"), later).jobs] == [2]


def test_what_blocks_no_longer_is_forgotten(office: Office) -> None:
    clock = Clock()
    with office.app.open(clock=clock) as k:
        k.jobs.schedule(*(office.hourly(f"{i}") for i in range(100)))
        assert k.jobs.wait_until_idle(20)
        needed = k._manager.relations.is_needed
        assert all(needed(job_id) for job_id in range(1, 101))
        clock.advance(timedelta(hours=1))
        one(k, office.hourly("x"))
        one(k, office.hourly("y"))
        assert not any(needed(job_id) for job_id in range(1, 101))


# --- restarts -----------------------------------------------------------------------------------------


def test_live_jobs_block_after_a_restart(office: Office, tmp_path: Path) -> None:
    requests = [office.once("a"), office.by_text("a"), office.started("a"), office.hourly("a")]
    with office.app.open(tmp_path / "store", job_threads=0) as k:
        before = k.jobs.schedule(*requests)
    with office.app.open(tmp_path / "store", job_threads=0) as k:
        assert k.jobs.schedule(*requests) == before
        assert len(k.jobs.live()) == 4


def test_a_kind_may_become_unique_later(tmp_path: Path) -> None:
    def bank(unique: Unique | None) -> tuple[Bank, Any]:
        bank = Bank()

        @bank.app.job(unique=unique)
        def work(job: JobRun, text: str, number: int) -> None: ...

        return bank, work

    store = tmp_path / "store"
    before, work = bank(None)
    with before.app.open(store, job_threads=0) as k:
        k.jobs.schedule(work("a", 1), work("a", 1), work("a", 2))
    now, work = bank(Unique())
    with now.app.open(store, job_threads=0) as k:
        assert one(k, work("a", 1)).id == 1
        assert one(k, work("a", 2)).id == 3
        assert one(k, work("a", 3)).id == 4
    by_text, work = bank(Unique(by=("text",)))
    with by_text.app.open(store, job_threads=0) as k:
        assert one(k, work("a", 5)).id == 1
        assert one(k, work("b", 5)).id == 5
    again, work = bank(None)
    with again.app.open(store, job_threads=0) as k:
        assert one(k, work("a", 1)).id == 6


def test_copies_of_the_store_at_any_moment_hold_each_job_once(
    office: Office, tmp_path: Path, rng: Random
) -> None:
    office.go.set()
    office.enter.job(lambda a, balance: office.once(str(balance)))
    done = threading.Event()
    with office.app.open(tmp_path / "store") as k:

        def ask(seed: int) -> None:
            random = Random(seed)
            for i in range(10_000):
                if done.is_set():
                    return
                k.handle(office.enter(f"{seed}.{i}", random.randrange(5)), TESTER)

        asking = [Spawned(ask, rng.random()) for _ in range(2)]
        copies = [tmp_path / f"copy{i}" for i in range(5)]
        for copy in copies:
            eventually(lambda before=k.sequence: k.sequence > before + rng.randrange(20, 100))
            k.checkpoint(copy)
        done.set()
        for each in asking:
            each.end()
    for copy in copies:
        with office.app.open(copy, job_threads=0) as k:
            live = [record.arguments for record in k.jobs.live() if record.kind == "once"]
            assert len(live) == len(set(live)) <= 5
            blocked = {text: one(k, office.once(text)).id for text, _ in live}
            assert blocked == {record.arguments[0]: record.id for record in k.jobs.live()}


def test_cron_may_be_unique(office: Office) -> None:
    clock = Clock()

    @office.app.job(cron="* * * * *", unique=Unique())
    def every_minute(job: JobRun) -> None:
        office.ran.append(clock.now)
        assert office.go.wait(20)

    with office.app.open(clock=clock) as k:
        for minutes in (1, 2, 3):
            clock.now = NOON + timedelta(minutes=minutes)
            eventually(lambda: office.ran)
        office.go.set()
        assert k.jobs.wait_until_idle(20)
        clock.advance(timedelta(minutes=1))
        eventually(lambda: len(office.ran) == 2)


def test_it_may_follow_what_stands_for_another(office: Office) -> None:
    with office.app.open(job_threads=0) as k:
        one(k, office.once("a"))
        again = office.once("a")
        existing, follower = k.jobs.schedule(again, office.plain("p").after(again))
        assert (existing.id, follower.follows) == (1, (1,))
        with pytest.raises(NotFound):
            k.jobs.schedule(office.once("b").after(99))
        assert one(k, office.once("b")).id == 3


def test_a_refused_request_blocks_nothing(office: Office) -> None:
    def clash(a: Args, owner: str) -> Any:
        return [office.once("fine"), office.once(5)]  # type: ignore[arg-type]

    office.enter.job(clash)
    with office.app.open(job_threads=0) as k:
        with pytest.raises(klerk.InvalidValue):
            k.handle(office.enter("Ada"), TESTER)
        assert one(k, office.once("fine")).id == 1

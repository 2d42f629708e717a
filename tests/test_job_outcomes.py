"""How attempts end: outcomes returned and raised, errors and what those were declared to mean, delays.

Every case runs through the public API, in plain functions and in coroutines, by the test's own clock. What
becomes of a job that has not ended is read from its record, of one that has from the counts and the log.
"""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, Bank, Clock, Spawned, eventually

import klerk
from klerk import ArgumentError, Cancel, Discard, JobRecord, JobRun, JobState, Retry, Snooze

MINUTE = timedelta(minutes=1)
NOON_US = int(NOON.timestamp()) * 1_000_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set at once."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def us(delay: timedelta) -> int:
    return delay // timedelta(microseconds=1)


def declared(bank: Bank, body: Callable[[JobRun], Any], kind: str = "plain", **options: Any) -> klerk.Job[[]]:
    """Return a job, plain or a coroutine, that does what a function does."""
    if kind == "plain":

        @bank.app.job(**options)
        def work(job: JobRun) -> Any:
            return body(job)

        return work

    @bank.app.job(**options)
    async def work_async(job: JobRun) -> Any:
        await asyncio.sleep(0)
        return body(job)

    return work_async


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def ended(k: klerk.Klerk) -> tuple[int, int, int]:
    counts = k.jobs.counts()
    return counts[JobState.COMPLETED], counts[JobState.DISCARDED], counts[JobState.CANCELLED]


def after_one_attempt(k: klerk.Klerk, job: klerk.Job[[]]) -> JobRecord | None:
    """Return the record of a job that was tried once; None when it has ended."""
    (created,) = k.jobs.schedule(job())
    idle(k)
    found = [record for record in k.jobs.live() if record.id == created.id]
    return found[0] if found else None


# --- outcomes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize("is_raised", [False, True])
@pytest.mark.parametrize(
    ("outcome", "state", "attempt", "delay", "error"),
    [
        (Snooze(MINUTE), JobState.SCHEDULED, 0, MINUTE, "snoozed for 0:01:00"),
        (Snooze(MINUTE, "too early"), JobState.SCHEDULED, 0, MINUTE, "too early"),
        (Retry(MINUTE * 5), JobState.RETRYABLE, 1, MINUTE * 5, "asked to be tried again"),
        (Retry(reason="no answer"), JobState.RETRYABLE, 1, MINUTE * 2, "no answer"),
        (Retry(timedelta(days=365_250)), JobState.RETRYABLE, 1, timedelta(days=365_250), "asked to be tried"),
    ],
)
def test_outcomes_that_come_back(
    kind: str,
    is_raised: bool,
    outcome: Exception,
    state: JobState,
    attempt: int,
    delay: timedelta,
    error: str,
) -> None:
    def body(job: JobRun) -> Any:
        if is_raised:
            raise outcome
        return outcome

    bank = Bank()
    job = declared(bank, body, kind, retry=lambda attempt, error: MINUTE * 2)
    with bank.app.open(clock=Clock()) as k:
        record = after_one_attempt(k, job)
        assert record is not None
        assert (record.state, record.attempt) == (state, attempt)
        assert record.run_at_us == NOON_US + us(delay)
        assert record.error.startswith(error)
        assert record.ended_us == 0


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize("is_raised", [False, True])
@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        (Cancel(), (0, 0, 1)),
        (Cancel("sold"), (0, 0, 1)),
        (Discard(), (0, 1, 0)),
        (Discard("void"), (0, 1, 0)),
    ],
)
def test_outcomes_that_end(
    kind: str, is_raised: bool, outcome: Exception, counts: tuple[int, int, int]
) -> None:
    def body(job: JobRun) -> Any:
        if is_raised:
            raise outcome
        return outcome

    bank = Bank()
    job = declared(bank, body, kind)
    with bank.app.open() as k:
        assert after_one_attempt(k, job) is None
        assert ended(k) == counts


def test_what_a_job_wrote_is_kept_with_its_outcome() -> None:
    def body(job: JobRun) -> Any:
        job.log(f"attempt {job.attempt}")
        job.progress(1, 3)
        return Snooze(MINUTE)

    bank, clock = Bank(), Clock()
    job = declared(bank, body, max_attempts=1)
    with bank.app.open(clock=clock) as k:
        record = after_one_attempt(k, job)
        assert record is not None
        for count in range(2, 6):
            # A job may snooze as often as it likes, also if it may be tried only once.
            clock.advance(MINUTE)
            eventually(lambda n=count: len(k.jobs.get(record.id).log) == n)  # type: ignore[misc]
            idle(k)
        record = k.jobs.get(record.id)
        assert record.log == ("attempt 1",) * 5
        assert (record.attempt, record.done, record.total) == (0, 1, 3)
        assert record.started_us == us(clock.now - datetime(1970, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("outcome", [Retry(MINUTE), Retry(), ValueError("x")])
def test_nobody_retries_beyond_the_last_attempt(outcome: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def body(job: JobRun) -> Any:
        raise outcome

    bank, clock = Bank(), Clock()
    job = declared(bank, body, max_attempts=3, retry=lambda attempt, error: timedelta(0))
    with bank.app.open(clock=clock) as k:
        k.jobs.schedule(job())
        for attempt in (1, 2):
            eventually(lambda n=attempt: f"failed in attempt {n}" in caplog.text)  # type: ignore[misc]
            idle(k)
            clock.advance(MINUTE)
        eventually(lambda: ended(k) == (0, 1, 0))
    assert "failed in attempt 3" in caplog.text
    assert "attempt 4" not in caplog.text


def test_an_outcome_within_its_own_class_only() -> None:
    for wrong in (timedelta(-1), timedelta(days=365_251), 5, None, "x"):
        with pytest.raises(ArgumentError, match="Snooze takes a timedelta"):
            Snooze(wrong)  # type: ignore[arg-type]
        if wrong is not None:
            with pytest.raises(ArgumentError, match="Retry takes a timedelta"):
                Retry(wrong)  # type: ignore[arg-type]


# --- what errors mean ---------------------------------------------------------------------------------


class Upstream(Exception):
    pass


class Busy(Upstream):
    pass


class Gone(Upstream):
    pass


class ReallyGone(Gone):
    pass


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize(
    ("error", "state", "delay"),
    [
        (Upstream("down"), JobState.RETRYABLE, MINUTE * 3),
        (Busy("later"), JobState.SCHEDULED, MINUTE * 4),
        (Gone("no"), None, None),
        (ReallyGone("no"), None, None),
        (KeyError("k"), JobState.RETRYABLE, MINUTE * 2),
        (ZeroDivisionError("z"), JobState.RETRYABLE, MINUTE * 9),
    ],
)
def test_the_most_specific_class_of_an_error_counts(
    kind: str, error: Exception, state: JobState | None, delay: timedelta | None
) -> None:
    def body(job: JobRun) -> Any:
        raise error

    bank = Bank()
    meaning: dict[type[Exception], Exception] = {
        ArithmeticError: Retry(MINUTE * 9),
        Upstream: Retry(MINUTE * 3),
        Busy: Snooze(MINUTE * 4),
        Gone: Cancel(),
    }
    job = declared(bank, body, kind, on_error=meaning, retry=lambda attempt, error: MINUTE * 2)
    with bank.app.open(clock=Clock()) as k:
        record = after_one_attempt(k, job)
        if state is None:
            assert (record, ended(k)) == (None, (0, 0, 1))
            return
        assert record is not None
        assert (record.state, record.run_at_us) == (state, NOON_US + us(delay or MINUTE))
        # The job keeps what went wrong, not what that was declared to mean.
        assert record.error == f"{type(error).__name__}: {error}"
        assert record.attempt == (0 if state is JobState.SCHEDULED else 1)


def test_exceptions_that_are_no_errors_are_failures() -> None:
    """Whatever their meaning is to others, a job that raises them has failed."""
    for raised in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError("x")):
        for kind in ("plain", "coroutine"):
            bank = Bank()

            def body(job: JobRun, raised: BaseException = raised) -> Any:
                raise raised

            job = declared(bank, body, kind, on_error={Exception: Discard()})
            with bank.app.open(clock=Clock(), job_threads=1) as k:
                record = after_one_attempt(k, job)
                assert record is not None
                assert (record.state, record.attempt) == (JobState.RETRYABLE, 1)
                assert record.error.startswith(type(raised).__name__)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


def test_errors_without_a_usable_text() -> None:
    for error, told in (
        (Unspeakable(), "Unspeakable"),
        (ValueError("\ud800 x"), "ValueError: ? x"),
        (ValueError("y" * 10_000), "ValueError: " + "y" * 1_988),
    ):
        bank = Bank()

        def body(job: JobRun, error: Exception = error) -> Any:
            raise error

        job = declared(bank, body)
        with bank.app.open(clock=Clock()) as k:
            record = after_one_attempt(k, job)
            assert record is not None
            assert record.error == told


# --- delays of one's own ------------------------------------------------------------------------------


def test_a_retry_function_sees_each_failure_and_may_give_up() -> None:
    seen: list[Any] = []

    def retry(attempt: int, error: BaseException) -> timedelta | None:
        seen.append((attempt, str(error)))
        return None if attempt == 3 else MINUTE * attempt

    def body(job: JobRun) -> Any:
        raise ValueError(f"attempt {job.attempt}")

    bank, clock = Bank(), Clock()
    job = declared(bank, body, retry=retry, max_attempts=100)
    with bank.app.open(clock=clock) as k:
        record = after_one_attempt(k, job)
        assert record is not None
        assert record.run_at_us == NOON_US + us(MINUTE)
        clock.advance(MINUTE)
        eventually(lambda: k.jobs.get(record.id).attempt == 2)
        assert k.jobs.get(record.id).run_at_us == NOON_US + us(MINUTE * 3)
        clock.advance(MINUTE * 2)
        eventually(lambda: ended(k) == (0, 1, 0))
    assert seen == [(attempt, f"attempt {attempt}") for attempt in (1, 2, 3)]


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (timedelta(0), timedelta(0)),
        (timedelta(days=-5), timedelta(0)),
        (timedelta.min, timedelta(0)),
        (timedelta.max, timedelta(days=365_250)),
        (timedelta(microseconds=1), timedelta(microseconds=1)),
    ],
)
def test_absurd_delays_are_bounded(delay: timedelta, expected: timedelta) -> None:
    def body(job: JobRun) -> Any:
        raise ValueError("x")

    bank = Bank()
    job = declared(bank, body, retry=lambda attempt, error: delay, max_attempts=2)
    with bank.app.open(clock=Clock()) as k:
        record = after_one_attempt(k, job)
        if expected == timedelta(0):
            assert (record, ended(k)) == (None, (0, 1, 0))
        else:
            assert record is not None
            assert record.run_at_us == NOON_US + us(expected)


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize(
    ("retry", "told"),
    [
        (lambda attempt, error: 5, "returned 5, expected a timedelta or None"),
        (lambda attempt, error: "soon", "returned 'soon'"),
        (lambda attempt, error: False, "returned False"),
        (lambda attempt, error: 1 // 0, "ZeroDivisionError"),
        (lambda attempt, error: _raise(SystemExit(2)), "SystemExit: 2"),
        (lambda attempt, error: _raise(Unspeakable()), "Unspeakable"),
    ],
)
def test_a_retry_function_that_fails_gives_the_job_up(
    kind: str, retry: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    def body(job: JobRun) -> Any:
        raise ValueError("the first error " + "x" * 5_000)

    bank = Bank()
    job = declared(bank, body, kind, retry=retry)
    with bank.app.open(job_threads=1) as k:
        assert after_one_attempt(k, job) is None
        assert ended(k) == (0, 1, 0)
        # Its worker goes on.
        assert after_one_attempt(k, job) is None
        assert ended(k) == (0, 2, 0)
    assert "ValueError: the first error" in caplog.text
    assert "its own retry function failed, too" in caplog.text
    assert told in caplog.text


@pytest.mark.parametrize("is_raised", [False, True])
def test_a_retry_function_that_fails_for_an_outcome(
    is_raised: bool, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    def retry(attempt: int, error: BaseException) -> timedelta:
        asked.append(attempt)
        raise ZeroDivisionError("of its own")

    def body(job: JobRun) -> Any:
        if is_raised:
            raise Retry(reason="no answer")
        return Retry(reason="no answer")

    bank = Bank()
    job = declared(bank, body, retry=retry)
    with bank.app.open() as k:
        assert after_one_attempt(k, job) is None
        assert ended(k) == (0, 1, 0)
    assert asked == [1]
    assert "no answer; its own retry function failed, too: ZeroDivisionError: of its own" in caplog.text


# --- what a request asks for --------------------------------------------------------------------------


def test_a_request_has_its_own_number_of_attempts(tmp_path: Path) -> None:
    ran: list[tuple[int, int]] = []

    def body(job: JobRun) -> Any:
        ran.append((job.id, job.attempt))
        raise ValueError("x")

    clock = Clock()
    bank = Bank()
    job = declared(bank, body, max_attempts=3, retry=lambda attempt, error: MINUTE)
    with bank.app.open(tmp_path / "store", clock=clock) as k:
        k.jobs.schedule(job().options(max_attempts=1), job().options(max_attempts=2), job())
        idle(k)
        assert ended(k) == (0, 1, 0)
    # Kept with the job.
    with bank.app.open(tmp_path / "store", clock=clock) as k:
        clock.advance(MINUTE)
        eventually(lambda: ended(k) == (0, 2, 0))
        idle(k)
        clock.advance(MINUTE)
        eventually(lambda: ended(k) == (0, 3, 0))
    assert sorted(ran) == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": 1_001},
        {"max_attempts": True},
        {"max_attempts": "2"},
        {"priority": 1_001},
        {"priority": 0.5},
        {"queue": ""},
        {"queue": "x" * 101},
        {"queue": 5},
    ],
)
def test_options_of_a_request_are_checked(options: dict[str, Any]) -> None:
    job = declared(Bank(), lambda job: None)
    with pytest.raises(ArgumentError, match=next(iter(options))):
        job().options(**options)
    once = declared(Bank(), lambda job: None, at_most_once=True)
    with pytest.raises(ArgumentError, match="at most once"):
        once().options(max_attempts=2)
    assert once().options(max_attempts=1, priority=5).priority == 5


def test_a_request_runs_after_a_delay_or_at_a_time() -> None:
    ran: list[int] = []
    bank, clock = Bank(), Clock()
    job = declared(bank, lambda job: ran.append(job.id))
    bank.enter.job(lambda a: job().after(MINUTE * 2))
    with bank.app.open(clock=clock) as k:
        east = timezone(timedelta(hours=5))
        created = k.jobs.schedule(
            job().after(MINUTE),
            job().at((NOON + MINUTE).astimezone(east)),
            job().after(timedelta(0)),
            job().at(NOON - timedelta(days=9)),
            job().after(timedelta(days=365_250)),
            job().at(datetime.max.replace(tzinfo=timezone(-timedelta(hours=23)))),
        )
        (by_command,) = k.handle(bank.enter("Ada"), klerk.Context(klerk.User("u"))).jobs
        idle(k)
        assert sorted(ran) == [created[2].id, created[3].id]
        assert [record.state for record in created].count(JobState.SCHEDULED) == 4
        assert k.jobs.get(created[0].id).run_at_us == NOON_US + us(MINUTE)
        clock.advance(MINUTE)
        eventually(lambda: len(ran) == 4)
        assert by_command.run_at_us == NOON_US + us(MINUTE * 2)
        clock.advance(MINUTE)
        eventually(lambda: ran[-1] == by_command.id)
        idle(k)
        assert len(k.jobs.live()) == 2


def test_no_job_runs_after_what_is_no_delay() -> None:
    job = declared(Bank(), lambda job: None)
    for wrong in (timedelta(-1), timedelta.max, timedelta(days=365_251), 1.5, None, True, "5"):
        with pytest.raises(ArgumentError, match="cannot run after"):
            job().after(wrong)  # type: ignore[arg-type]
    for wrong_time in (datetime(2024, 1, 1), 5, None, "2024-01-01"):  # noqa: DTZ001
        with pytest.raises(ArgumentError, match="cannot run at"):
            job().at(wrong_time)  # type: ignore[arg-type]


# --- shutdown -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_shutdown_costs_no_attempt(tmp_path: Path, kind: str) -> None:
    attempts: list[int] = []
    started, go = threading.Event(), threading.Event()

    def begin(job: JobRun) -> bool:
        attempts.append(job.attempt)
        started.set()
        return len(attempts) > 3

    bank = Bank()
    if kind == "plain":

        @bank.app.job(max_attempts=1)
        def long(job: JobRun) -> None:
            if not begin(job):
                go.wait(20)
                raise ConnectionError("interrupted")

        request = long()
    else:

        @bank.app.job(max_attempts=1)
        async def long_async(job: JobRun) -> None:
            if not begin(job):
                await asyncio.sleep(20)

        request = long_async()

    with bank.app.open(tmp_path / "store", close_wait=timedelta(seconds=0.05)) as k:
        k.jobs.schedule(request)
        assert started.wait(20)
    for _ in range(3):
        started.clear()
        with bank.app.open(tmp_path / "store", close_wait=timedelta(seconds=0.05)) as k:
            assert started.wait(20)
    go.set()
    assert attempts == [1, 1, 1, 1]
    with bank.app.open(tmp_path / "store") as k:
        idle(k)
        assert ended(k) == (1, 0, 0)


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [(Discard(), (0, 1, 0)), (Cancel(), (0, 0, 1)), (Snooze(MINUTE), (0, 0, 0)), (None, (1, 0, 0))],
)
def test_what_a_job_decides_while_the_store_is_closed_is_kept(
    tmp_path: Path, outcome: Exception | None, counts: tuple[int, int, int]
) -> None:
    started, go = threading.Event(), threading.Event()

    def body(job: JobRun) -> Any:
        started.set()
        assert go.wait(20)
        if outcome is not None:
            raise outcome

    bank, clock = Bank(), Clock()
    job = declared(bank, body)
    k = bank.app.open(tmp_path / "store", clock=clock)
    k.jobs.schedule(job())
    assert started.wait(20)
    closing = Spawned(k.close)
    eventually(lambda: k._is_closing)
    go.set()
    closing.end()
    with bank.app.open(tmp_path / "store", clock=clock, job_threads=0) as k:
        assert ended(k) == counts
        if isinstance(outcome, Snooze):
            (record,) = k.jobs.live()
            assert (record.state, record.attempt) == (JobState.SCHEDULED, 0)

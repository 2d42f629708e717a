"""What is known of failed attempts: kept with the job, logged, explained; and not lost when recording fails.

Jobs fail in threads, coroutines and worker processes (those stand in `flawed`), also with errors that resist
being looked at. Recording is made to fail by the context provider, as it does for users; closing happens
while jobs end, or are interrupted, and the store is opened again to see what is left.
"""

import asyncio
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import flawed
import msgspec
import pytest
from designs import NOON, TESTER, Account, Bank, Clock, Name, Spawned, eventually, run_python

import klerk
import klerk.testing
from klerk import (
    Actor,
    Cancel,
    Context,
    Discard,
    JobFailure,
    JobRecord,
    JobRun,
    JobState,
    Ref,
    Retry,
    Snooze,
    limits,
)
from klerk.codec import read_job
from klerk.job_manager.work import KeepTold
from klerk.running_job import RunningJob
from klerk.testing import drain

HOUR = timedelta(hours=1)
THIS_FILE = __file__


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set at once, and try soon again what was not recorded."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)
    monkeypatch.setattr("klerk.limits.JOB_COMPLETIONS_RETRY_S", 0.05)


def declared(bank: Bank, body: Callable[[JobRun], Any], *, is_coroutine: bool = False, **options: Any) -> Any:
    """Return a job that does what a function does."""
    options.setdefault("retry", lambda attempt, error: HOUR)
    if is_coroutine:

        @bank.app.job(**options)
        async def work_soon(job: JobRun) -> Any:
            await asyncio.sleep(0)
            return body(job)

        return work_soon

    @bank.app.job(**options)
    def work(job: JobRun) -> Any:
        return body(job)

    return work


def fails(text: str = "x") -> Any:
    raise ValueError(text)


def after(body: Callable[[JobRun], Any], hours: int = 0, **options: Any) -> JobRecord:
    """Return the record of a job after its first attempt, and one more each hour."""
    bank = Bank()
    job = declared(bank, body, **options)
    clock = klerk.testing.VirtualClock()
    with klerk.testing.open(bank.app, clock=clock) as k:
        (record,) = k.jobs.schedule(job())
        drain(k, raises=False)
        for _ in range(hours):
            clock.advance(HOUR)
            drain(k, raises=False)
        return k.jobs.get(record)


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


# --- what is kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_failed_attempts_are_kept_with_a_job_that_succeeds_in_the_end(
    tmp_path: Path, is_coroutine: bool
) -> None:
    def body(job: JobRun) -> None:
        if job.attempt < 3:
            fails(f"number {job.attempt}")

    bank, clock = Bank(), Clock()
    job = declared(bank, body, is_coroutine=is_coroutine)
    with klerk.testing.open(bank.app, path=tmp_path / "store", clock=clock) as k:
        (record,) = k.jobs.schedule(job())
        assert record.errors == ()
        drain(k, raises=False)
        first = k.jobs.get(record)
        assert (first.state, len(first.errors)) == (JobState.RETRYABLE, 1)
        clock.advance(HOUR)
        drain(k, raises=False)
    with klerk.testing.open(bank.app, path=tmp_path / "store", clock=clock) as k:
        clock.advance(HOUR)
        drain(k)
        record = k.jobs.get(record)
    assert (record.state, record.error) == (JobState.COMPLETED, "")
    assert [(each.attempt, each.at, each.error) for each in record.errors] == [
        (1, NOON, "ValueError: number 1"),
        (2, NOON + HOUR, "ValueError: number 2"),
    ]
    assert record.errors[0] == first.errors[0]
    (traced, _) = [each.traceback for each in record.errors]
    assert traced.startswith(f'Traceback (most recent call last):\n  File "{THIS_FILE}"')
    assert traced.endswith("    raise ValueError(text)\nValueError: number 1")
    files = [line.split('"')[1] for line in traced.splitlines() if line.startswith("  File")]
    assert files == [THIS_FILE] * 3


def test_the_first_failure_and_the_last_ones_are_kept() -> None:
    record = after(lambda job: fails(str(job.attempt)), 7)
    assert record.attempt == 8
    assert [each.attempt for each in record.errors] == [1, 5, 6, 7, 8]
    assert len(record.errors) == limits.JOB_ERRORS_KEPT_MAX
    assert record.error == record.errors[-1].error == "ValueError: 8"
    assert [bool(each.traceback) for each in record.errors] == [True, False, False, False, True]


def test_what_is_run_again_from_nothing_forgets_its_failures() -> None:
    bank = Bank()
    job = declared(bank, lambda job: fails(), max_attempts=1)
    with klerk.testing.open(bank.app) as k:
        (record,) = k.jobs.schedule(job())
        drain(k, raises=False)
        k.jobs.retry(record)
        drain(k, raises=False)
        # Counted as then: the second time, all attempts were before it again.
        assert [each.attempt for each in k.jobs.get(record).errors] == [1, 1]
        assert k.jobs.rerun(record).errors == ()
        drain(k, raises=False)
        assert len(k.jobs.get(record).errors) == 1


@pytest.mark.parametrize("is_raised", [False, True])
@pytest.mark.parametrize(
    ("outcome", "failure"),
    [
        (Retry(HOUR, "no answer"), "no answer"),
        (Discard("void"), "void"),
        (Snooze(HOUR), None),
        (Cancel("sold"), None),
    ],
)
def test_outcomes_on_purpose_have_no_traceback(
    outcome: Exception, is_raised: bool, failure: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    def body(job: JobRun) -> Any:
        if is_raised:
            raise outcome
        return outcome

    record = after(body)
    expected = () if failure is None else ((1, failure, ""),)
    assert tuple((each.attempt, each.error, each.traceback) for each in record.errors) == expected
    assert not any(each.exc_info for each in caplog.records)


def test_an_error_that_means_an_outcome_has_failed_only_if_that_says_so() -> None:
    meanings: dict[type[Exception], Any] = {
        KeyError: Snooze(HOUR),
        IndexError: Cancel(),
        ValueError: Discard("of no use"),
        TypeError: Retry(HOUR),
    }
    listed = {}
    for cls in meanings:

        def body(job: JobRun, cls: type[Exception] = cls) -> None:
            raise cls("x")

        listed[cls] = [(each.error, bool(each.traceback)) for each in after(body, on_error=meanings).errors]
    assert listed == {
        KeyError: [],
        IndexError: [],
        ValueError: [("of no use: ValueError: x", True)],
        TypeError: [("TypeError: x", True)],
    }


def test_what_was_asked_to_stop_has_not_failed() -> None:
    bank, begun = Bank(), threading.Event()

    def body(job: JobRun) -> None:
        begun.set()
        while True:
            job.heartbeat()
            time.sleep(0.001)

    job = declared(bank, body)
    for stop in ("cancel", "discard"):
        begun.clear()
        with bank.app.open() as k:
            (record,) = k.jobs.schedule(job())
            assert begun.wait(20)
            getattr(k.jobs, stop)(record)
            idle(k)
            record = k.jobs.get(record)
            assert (record.state, record.errors) == (
                JobState(f"{stop}led" if stop == "cancel" else "discarded"),
                (),
            )


def test_an_attempt_that_took_too_long_tells_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    bank = Bank()

    @bank.app.job(timeout=timedelta(seconds=0.05), max_attempts=1)
    async def slow(job: JobRun) -> None:
        await wait_for_nothing()

    with bank.app.open() as k:
        (record,) = k.jobs.schedule(slow())
        idle(k)
        (failure,) = k.jobs.get(record).errors
    assert failure.error.startswith("JobTimeout: job slow 1 took longer than its timeout")
    assert "in wait_for_nothing" in failure.traceback
    assert failure.traceback.splitlines()[-1].startswith("klerk.JobTimeout: ")
    assert "in wait_for_nothing)" in caplog.text


async def wait_for_nothing() -> None:
    await asyncio.Event().wait()


def test_jobs_of_earlier_versions_are_read() -> None:
    record = JobRecord(id=7, kind="work", arguments=(1, "a"), state=JobState.RETRYABLE, error="x")
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(record))
    assert fields[-1] == []
    assert read_job(7, msgspec.msgpack.encode(fields[:-1])).errors == ()
    failed = msgspec.structs.replace(record, errors=(JobFailure(1, 5, "x", "y"),))
    assert read_job(7, msgspec.msgpack.encode(failed)).errors == (JobFailure(1, 5, "x", "y"),)
    assert JobFailure(1, 1_000_000).at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)


# --- errors that resist -------------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no words")


class Unknowable(Exception):
    @property
    def __notes__(self) -> Any:
        raise KeyboardInterrupt("no notes")


def endless(count: int = 0) -> int:
    return endless(count + 1)


def there(count: int) -> int:
    return back(count)


def back(count: int) -> int:
    return there(count)


def chained(length: int) -> None:
    error: Exception | None = None
    for number in range(length):
        try:
            raise ValueError(f"link {number}") from error
        except ValueError as raised:
            error = raised
    assert error is not None
    raise error


def in_circles() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def grouped() -> None:
    errors: list[Exception] = []
    for cls in (ValueError, KeyError):
        try:
            raise cls("part")
        except Exception as error:
            errors.append(error)
    raise ExceptionGroup("both", errors)


def local() -> None:
    class Local(Exception):
        pass

    raise Local("inside")


def noted() -> None:
    error = ValueError("x")
    error.add_note("and this \ud800")
    raise error


def generated() -> None:
    exec(compile("raise ValueError('from nowhere')", "<\ud800>", "exec"), {"__name__": 5})


def raises(error: BaseException) -> Any:
    raise error


HOSTILE: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "long": (lambda: fails("y" * 1_000_000), ["in fails", "ValueError: yyy", "..."]),
    "long lines": (lambda: fails("y\n" * 100_000), ["in fails", "ValueError: y\ny\n"]),
    "unspeakable": (lambda: raises(Unspeakable()), ["in raises", "Unspeakable"]),
    "unknowable": (lambda: raises(Unknowable("x")), ["in raises"]),
    "recursion": (endless, ["in endless", "Previous line repeated", "RecursionError"]),
    "mutual recursion": (lambda: there(0), ["in back", "in there", "RecursionError"]),
    "chain": (lambda: chained(500), ["link 499", "direct cause"]),
    "circle": (in_circles, ["in in_circles", "first"]),
    "group": (grouped, ["in grouped", "KeyError: 'part'", "ValueError: part"]),
    "local": (local, ["in local", "local.<locals>.Local: inside"]),
    "surrogate": (lambda: fails("\udc80 x"), ["in fails", "ValueError: ? x"]),
    "note": (noted, ["in noted", "and this ?"]),
    "generated": (generated, ["in generated", "ValueError: from nowhere"]),
    "exit": (lambda: raises(SystemExit(3)), ["in raises", "SystemExit: 3"]),
    "interrupt": (lambda: raises(KeyboardInterrupt()), ["in raises", "KeyboardInterrupt"]),
}


@pytest.mark.parametrize("is_coroutine", [False, True])
@pytest.mark.parametrize("how", HOSTILE)
def test_whatever_is_raised_is_kept_and_logged(
    tmp_path: Path, how: str, is_coroutine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    body, expected = HOSTILE[how]
    bank = Bank()
    job = declared(bank, lambda job: body(), is_coroutine=is_coroutine, max_attempts=1)
    log = tmp_path / "log"
    handler = logging.FileHandler(log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    problems: list[object] = []
    handler.handleError = problems.append  # type: ignore[method-assign]
    logging.getLogger("klerk").addHandler(handler)
    try:
        with bank.app.open(tmp_path / "store") as k:
            (record,) = k.jobs.schedule(job())
            idle(k)
    finally:
        logging.getLogger("klerk").removeHandler(handler)
        handler.close()
    with bank.app.open(tmp_path / "store", job_threads=0) as k:
        record = k.jobs.get(record)
    (failure,) = record.errors
    assert (record.state, failure.error) == (JobState.DISCARDED, record.error)
    assert len(failure.traceback) <= limits.JOB_TRACEBACK_LENGTH_MAX
    for each in expected:
        assert each in failure.traceback
    assert "klerk/job_manager" not in failure.traceback
    # A handler that refuses what is no Unicode has it all, too.
    assert problems == []
    written = log.read_text(encoding="utf-8")
    assert written.startswith(f"ERROR job {record.id} (work")
    assert expected[0] in written


def test_causes_are_told_and_klerk_is_not(caplog: pytest.LogCaptureFixture) -> None:
    bank = Bank()

    @bank.rename.rule
    def impossible(a: Any, owner: str) -> bool:
        return len(owner) == 1 // 0

    @bank.app.job(max_attempts=1)
    def rename(job: JobRun, account: Ref[Account]) -> None:
        try:
            job.handle(bank.rename(account, Name("Bob")))
        except klerk.KlerkError as error:
            raise LookupError("no way") from error

    with klerk.testing.open(bank.app) as k:
        ada = k.handle(bank.enter(Name("Ada")), TESTER).id
        (record,) = k.jobs.schedule(rename(ada))
        drain(k, raises=False)
        (failure,) = k.jobs.get(record).errors
    lines = failure.traceback.splitlines()
    assert "ZeroDivisionError: integer division or modulo by zero" in lines
    assert any(line.startswith("klerk.FunctionFailed: ") for line in lines)
    assert lines[-1] == "LookupError: no way"
    assert {line.split('"')[1] for line in lines if line.startswith("  File")} == {THIS_FILE}
    assert "in rename)" in caplog.messages[-1]


def test_a_retry_function_that_fails_is_told_with_the_error_before_it() -> None:
    record = after(lambda job: fails("the first"), retry=lambda attempt, error: 1 // 0)
    (failure,) = record.errors
    assert failure.error == record.error
    assert "ValueError: the first; its own retry function failed, too: ZeroDivisionError" in failure.error
    first, second = failure.traceback.index("ValueError: the first"), failure.traceback.index("in <lambda>\n")
    assert failure.traceback.index("During handling of the above exception") > first
    assert failure.traceback.rindex("in <lambda>\n") > first > second


# --- the log, and why ---------------------------------------------------------------------------------


def test_the_log_says_where_and_shows_all_when_a_job_is_discarded(caplog: pytest.LogCaptureFixture) -> None:
    record = after(lambda job: fails("bad"), 1, max_attempts=2)
    assert record.state is JobState.DISCARDED
    first, last = caplog.records
    line = fails.__code__.co_firstlineno + 1
    place = f"{THIS_FILE}:{line} in fails"
    assert first.getMessage() == f"job 1 (work) failed in attempt 1: ValueError: bad ({place})"
    assert (first.levelname, first.exc_info, first.where) == ("WARNING", None, place)  # type: ignore[attr-defined]
    assert (
        last.getMessage() == f"job 1 (work) failed in attempt 2: ValueError: bad ({place}); it is discarded"
    )
    assert (last.levelname, last.event, last.where) == ("ERROR", "job_discarded", place)  # type: ignore[attr-defined]
    assert last.exc_info is not None
    assert str(last.exc_info[1]) == "bad"


def test_the_whole_traceback_of_a_job_that_is_tried_again_is_there_for_who_looks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "klerk")
    after(lambda job: fails("bad"))
    _, shown = caplog.records
    assert (shown.levelname, shown.getMessage()) == ("DEBUG", "job 1 failed like this")
    assert shown.exc_info is not None
    # Nobody could show this one.
    after(lambda job: raises(Unknowable("x")))
    assert [each.levelname for each in caplog.records] == ["WARNING", "DEBUG", "WARNING"]


def test_the_place_is_one_of_the_application(caplog: pytest.LogCaptureFixture) -> None:
    after(lambda job: asyncio.run(decode()))
    assert "in decode)" in caplog.messages[0]


async def decode() -> None:
    msgspec.json.decode(b"{")


def test_records_of_the_same_sort_have_the_same_template(caplog: pytest.LogCaptureFixture) -> None:
    after(lambda job: fails("bad"), 1, max_attempts=2)
    first, last = caplog.records
    assert first.msg == "job %d (%s) failed in attempt %d: %s"
    assert last.msg == f"{first.msg}; it is discarded"


def test_a_text_that_is_no_unicode_comes_without_the_error(caplog: pytest.LogCaptureFixture) -> None:
    after(lambda job: fails("\ud800"), max_attempts=1)
    (record,) = caplog.records
    assert record.exc_info is None
    assert record.getMessage().endswith("    raise ValueError(text)\nValueError: ?")


def test_why_tells_of_the_last_failure() -> None:
    bank, clock = Bank(), Clock()
    job = declared(bank, lambda job: fails(f"bad {job.attempt}"), max_attempts=3)
    with klerk.testing.open(bank.app, clock=clock) as k:
        (record, other) = k.jobs.schedule(job(), job().options(max_attempts=7))
        drain(k, raises=False)
        (reason,) = k.jobs.why(record).reasons
        assert (reason.code, reason.wait) == ("time", HOUR)
        told = "after it failed, it waits until 2024-02-29 13:00:00 UTC, 1 h from now"
        assert reason.text == f"{told}; this was attempt 1 of 3: ValueError: bad 1"
        assert "attempt 1 of 7" in str(k.jobs.why(other))
        for _ in range(2):
            clock.now += HOUR
            drain(k, raises=False)
        told = "it ended at 2024-02-29 14:00:00 UTC in attempt 3 of 3: ValueError: bad 3"
        assert str(k.jobs.why(record)).endswith(told)


# --- processes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def k() -> Iterator[klerk.Klerk]:
    with flawed.app.open(job_processes=1) as k:
        yield k
    assert multiprocessing.active_children() == []


def run(k: klerk.Klerk, request: Any) -> JobRecord:
    (record,) = k.jobs.schedule(request)
    assert k.jobs.wait_until_idle(60)
    return k.jobs.get(record)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("sent", "ValueError: as it is"),
        ("broken", "broken: Broken: wheel broke 3 times"),
        ("worse", "broken: Worse: wheel broke 4 times"),
        ("local", "local: Local: here"),
        ("surrogate", "ValueError: ? x"),
        ("elsewhere", "Elsewhere: <function"),
        ("stubborn", "Stubborn"),
        ("returning", "Returning: x"),
        ("nameless", "Nameless: x"),
    ],
)
def test_errors_of_a_process_keep_class_and_traceback(
    k: klerk.Klerk, how: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    flawed.SEEN.clear()
    record = run(k, flawed.flawed(how))
    assert (record.state, record.attempt) == (JobState.DISCARDED, 1)
    assert record.error.startswith(told)
    (failure,) = record.errors
    lines = failure.traceback.splitlines()
    assert {line.split('"')[1] for line in lines if line.startswith("  File")} == {flawed.__file__}
    assert any(line.endswith("in fail") for line in lines)
    # Of an error that cannot be shown, nothing more can be had.
    assert ("KeyError: 'the reason'" in lines) == (how != "nameless")
    place = f"{flawed.__file__}:{flawed.fail.__code__.co_firstlineno + 6} in fail"
    assert f"({place}); it is discarded" in caplog.text
    assert ("in a worker process:" in caplog.text) == (how not in ("surrogate", "nameless"))
    is_asked = not told.startswith(("broken", "local"))
    assert len(flawed.SEEN) == is_asked
    if is_asked:
        is_unsent, is_elsewhere, text = flawed.SEEN[0]
        assert (is_unsent, is_elsewhere) == (how not in ("sent", "surrogate"), how == "elsewhere")
        assert text.startswith(told.removeprefix("ValueError: ").partition("?")[0])


def test_the_nearest_class_counts_when_an_error_cannot_be_sent(k: klerk.Klerk) -> None:
    assert run(k, flawed.judged("worse")).error.startswith("near: Worse")
    assert run(k, flawed.judged("local")).error.startswith("any: Local")
    assert run(k, flawed.judged("sent")).error.startswith("any: ValueError")


def test_an_unsent_error_knows_what_it_stands_for() -> None:
    error = klerk.UnsentError("Poor: 7", names=("shop.Poor", "builtins.KeyError", "builtins.LookupError"))
    assert error.stands_for(KeyError)
    assert error.stands_for(LookupError)
    assert not error.stands_for(ValueError)
    assert (str(error), error.code, isinstance(error, klerk.JobError)) == ("Poor: 7", "job_unsent", True)
    assert not klerk.UnsentError("x").stands_for(Exception)


def test_a_worker_process_that_dies_is_listed(k: klerk.Klerk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.JOB_BACKOFF_BASE_S", 0)
    (record,) = k.jobs.schedule(flawed.gone())
    eventually(lambda: k.jobs.get(record).state is JobState.DISCARDED, 60)
    record = k.jobs.get(record)
    assert (record.attempt, record.crashes) == (0, 3)
    assert [(each.attempt, each.traceback) for each in record.errors] == [(1, "")] * 3
    assert all("the worker process died" in each.error for each in record.errors)


PROGRAM = """
import sys
from flawed import app, told
if __name__ == "__main__":
    with app.open("store") as k:
        if not k.jobs.live():
            k.jobs.schedule(told())
        k.jobs.wait_until_idle(20)
"""


def test_the_death_of_the_whole_process_is_listed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    codes = [run_python("program.py", cwd=tmp_path).returncode for _ in range(3)]
    assert codes == [3, 3, 0]
    with flawed.app.open(tmp_path / "store", job_threads=0) as k:
        (record,) = k.jobs.live()
        assert "attempt 1 of 2: ValueError: alive" in str(k.jobs.why(record))
    assert [(each.attempt, each.error) for each in record.errors] == [
        (1, "the process died once while it ran"),
        (1, "the process died 2 times while it ran"),
        (1, "ValueError: alive"),
    ]
    assert [bool(each.traceback) for each in record.errors] == [False, False, True]


# --- recording fails ----------------------------------------------------------------------------------


class Moody:
    """A bank whose context provider fails for jobs while it is told to."""

    def __init__(self, *, is_resolved_later: bool = False) -> None:
        self.bank = Bank()
        self.fails = threading.Event()
        self.go = threading.Event()
        self.failed: list[str] = []
        self.ran: list[str] = []

        @self.bank.app.context_provider
        def provide(actor: Actor, now: datetime) -> Context:
            if self.fails.is_set() and str(actor).startswith("system job "):
                self.failed.append(str(actor))
                if is_resolved_later:
                    # Nobody notices until the transaction begins.
                    return Context(actor, now=now.replace(tzinfo=None))
                raise ZeroDivisionError("no context")
            return Context(actor, now=now)

        @self.bank.app.job(max_attempts=3, retry=lambda attempt, error: HOUR)
        def work(job: JobRun, how: str) -> Any:
            self.ran.append(how)
            job.log(how)
            assert self.go.wait(20)
            if how == "snooze":
                return Snooze(HOUR)
            return fails(how) if how.startswith("fail") else None

        @self.bank.app.job(at_most_once=True)
        def once(job: JobRun) -> None:
            self.ran.append("once")

        self.work, self.once = work, once
        self.bank.app.allow.log()(lambda a: True)


@pytest.mark.parametrize("is_resolved_later", [False, True])
def test_what_became_of_attempts_is_recorded_once_it_can_be(
    is_resolved_later: bool, caplog: pytest.LogCaptureFixture
) -> None:
    moody = Moody(is_resolved_later=is_resolved_later)
    with moody.bank.app.open(job_threads=4) as k:
        jobs = k.jobs.schedule(*map(moody.work, ("fail a", "fail b", "snooze", "completes")))
        eventually(lambda: len(moody.ran) == 4)
        moody.fails.set()
        moody.go.set()
        eventually(lambda: len(moody.failed) > 10)
        assert [k.jobs.get(job).state for job in jobs] == [JobState.EXECUTING] * 4
        assert [k.jobs.why(job).codes for job in jobs] == [("recording",)] * 4
        # Its workers go on meanwhile.
        k.jobs.schedule(*[moody.work(f"fail {n}") for n in range(8)])
        eventually(lambda: len(set(moody.failed)) == 12)
        moody.fails.clear()
        idle(k)
        states = [k.jobs.get(job).state for job in jobs]
        assert states == [JobState.RETRYABLE, JobState.RETRYABLE, JobState.SCHEDULED, JobState.COMPLETED]
        assert [len(k.jobs.get(job).errors) for job in jobs] == [1, 1, 0, 0]
        assert k.jobs.counts()[JobState.RETRYABLE] == 10
    assert len(moody.ran) == 12
    told = [each.getMessage() for each in caplog.records if each.event == "attempt_unrecorded"]  # type: ignore[attr-defined]
    assert len(told) == len(set(told)) == 12
    assert all("is not recorded yet; it is tried again: " in each for each in told)


def test_refused_records_are_tried_in_their_order() -> None:
    moody = Moody()
    with moody.bank.app.open(job_threads=1) as k:
        moody.go.set()
        moody.fails.set()
        k.jobs.schedule(*[moody.work(f"fail {n}") for n in range(5)])
        eventually(lambda: len(moody.failed) >= 20)
        moody.fails.clear()
        idle(k)
        entries = k.log(TESTER, newest_first=False).entries
        recorded = [str(entry.actor) for entry in entries if entry.actor.id.startswith("job ")]
        # Those that were on their way when the provider worked again came first.
        assert recorded == moody.failed[-len(recorded) :]


def test_a_job_that_runs_once_is_started_when_that_can_be_recorded() -> None:
    for is_resolved_later in (False, True):
        moody = Moody(is_resolved_later=is_resolved_later)
        with moody.bank.app.open() as k:
            moody.fails.set()
            (job,) = k.jobs.schedule(moody.once())
            eventually(lambda moody=moody: len(moody.failed) > 3)  # type: ignore[misc]
            assert moody.ran == []
            moody.fails.clear()
            idle(k)
            assert (k.jobs.get(job).state, moody.ran) == (JobState.COMPLETED, ["once"])


# --- closing ------------------------------------------------------------------------------------------


def begin_closing(k: klerk.Klerk) -> Spawned:
    closing = Spawned(k.close)
    eventually(lambda: k._is_closing)
    # From then on, nothing is called at its time any more.
    eventually(lambda: not k._scheduler._thread.is_alive())
    return closing


@pytest.mark.parametrize("is_resolved_later", [False, True])
def test_what_was_refused_is_recorded_before_closing_ends(tmp_path: Path, is_resolved_later: bool) -> None:
    moody = Moody(is_resolved_later=is_resolved_later)
    k = moody.bank.app.open(tmp_path / "store", job_threads=2)
    jobs = k.jobs.schedule(moody.work("fail"), moody.work("go on"))
    eventually(lambda: len(moody.ran) == 2)
    closing = begin_closing(k)
    moody.fails.set()
    moody.go.set()
    eventually(lambda: len(moody.failed) >= 2)
    moody.fails.clear()
    closing.end()
    with moody.bank.app.open(tmp_path / "store", job_threads=0) as k:
        failed, completed = map(k.jobs.get, jobs)
        assert (failed.state, failed.attempt, len(failed.errors)) == (JobState.RETRYABLE, 1, 1)
        assert completed.state is JobState.COMPLETED
    assert len(moody.ran) == 2


def test_what_cannot_be_recorded_before_closing_ends_runs_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moody = Moody()
    k = moody.bank.app.open(tmp_path / "store")
    (job,) = k.jobs.schedule(moody.work("fail"))
    eventually(lambda: moody.ran)
    moody.fails.set()
    moody.go.set()
    eventually(lambda: moody.failed)
    k.close()
    assert "is not recorded, and Klerk closes; the next start decides" in caplog.text
    k.close()
    moody.fails.clear()
    with moody.bank.app.open(tmp_path / "store") as k:
        idle(k)
        record = k.jobs.get(job)
        assert (record.state, record.attempt, len(record.errors)) == (JobState.RETRYABLE, 1, 1)
    assert len(moody.ran) == 2


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_completions_that_were_refused_are_recorded_before_closing_ends(
    tmp_path: Path, error: type[BaseException]
) -> None:
    bank, fails, begun, go = Bank(), threading.Event(), threading.Event(), threading.Event()
    refused: list[Actor] = []

    @bank.app.context_provider
    def provide(actor: Actor, now: datetime) -> Context:
        if fails.is_set() and str(actor) == "system jobs":
            refused.append(actor)
            raise error
        return Context(actor, now=now)

    def body(job: JobRun) -> None:
        begun.set()
        assert go.wait(20)

    job = declared(bank, body)
    k = bank.app.open(tmp_path / "store")
    k.jobs.schedule(job())
    assert begun.wait(20)
    closing = begin_closing(k)
    fails.set()
    go.set()
    eventually(lambda: refused)
    fails.clear()
    closing.end()
    with bank.app.open(tmp_path / "store", job_threads=0) as k:
        assert k.jobs.counts()[JobState.COMPLETED] == 1


@pytest.mark.parametrize("is_interrupted", [False, True])
@pytest.mark.parametrize("is_coroutine", [False, True])
def test_commands_that_are_refused_while_closing_fail_the_attempt(
    tmp_path: Path, is_coroutine: bool, is_interrupted: bool
) -> None:
    """A job's end with commands that break a rule is an attempt that failed, also when Klerk closes."""
    bank, begun, go = Bank(), threading.Event(), threading.Event()
    asked: list[str] = []

    def retry(attempt: int, error: BaseException) -> timedelta:
        asked.append(threading.current_thread().name)
        return HOUR

    def body(job: JobRun, account: Ref[Account]) -> Any:
        begun.set()
        while not (job.cancelled if is_interrupted else go.is_set()):
            time.sleep(0.001)
        job.log("about to end")
        return job.complete_with(bank.withdraw(account, 500))

    @bank.app.job(retry=retry)
    def work(job: JobRun, account: Ref[Account]) -> Any:
        return body(job, account)

    @bank.app.job(retry=retry)
    async def work_soon(job: JobRun, account: Ref[Account]) -> Any:
        return body(job, account)

    seen = Ended()
    k = bank.app.open(tmp_path / "store", close_wait=timedelta(seconds=0 if is_interrupted else 20))
    k.jobs.observe(seen)
    ada = k.handle(bank.enter(Name("Ada"), 100), TESTER).id
    (job,) = k.jobs.schedule(work_soon(ada) if is_coroutine else work(ada))
    assert begun.wait(20)
    closing = begin_closing(k)
    go.set()
    closing.end()
    assert [(record.state, type(error)) for record, error in seen.all] == [
        (JobState.RETRYABLE, klerk.Rejected)
    ]
    assert len(asked) == 1
    with bank.app.open(tmp_path / "store", job_threads=0) as k:
        record = k.jobs.get(job)
        assert (record.state, record.attempt, record.log) == (JobState.RETRYABLE, 1, ("about to end",))
        (failure,) = record.errors
        assert failure.error == record.error == "Rejected: There is not that much in the account."
        assert bank.contents(k)[ada] == ("Ada", 100, "active")


class Ended:
    """Hears how attempts ended."""

    def __init__(self) -> None:
        self.all: list[tuple[JobRecord, BaseException | None]] = []

    def started(self, run: RunningJob) -> None: ...

    def stopped(self, run: RunningJob) -> None: ...

    def ended(self, run: RunningJob, record: JobRecord, error: BaseException | None) -> None:
        self.all.append((record, error))


def test_who_watches_hears_of_what_is_committed_while_closing(tmp_path: Path) -> None:
    bank, begun, go, seen = Bank(), threading.Event(), threading.Event(), Ended()

    def body(job: JobRun) -> Any:
        begun.set()
        assert go.wait(20)
        return job.complete_with(bank.enter(Name("Ada")))

    job = declared(bank, body)
    k = bank.app.open(tmp_path / "store")
    k.jobs.observe(seen)
    k.jobs.schedule(job())
    assert begun.wait(20)
    closing = begin_closing(k)
    go.set()
    closing.end()
    assert [(record.state, error) for record, error in seen.all] == [(JobState.COMPLETED, None)]


# --- what interrupted jobs told -----------------------------------------------------------------------


class Held:
    """A bank with jobs that tell something and then hold, until they are interrupted, or for ever."""

    def __init__(self) -> None:
        self.bank = Bank()
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

        @self.bank.app.job()
        def plain(job: JobRun, how: str) -> None:
            self.tell(job, how)
            while not self.go.is_set():
                if how != "stuck":
                    job.heartbeat()
                time.sleep(0.001)

        @self.bank.app.job()
        async def coroutine(job: JobRun, how: str) -> None:
            self.tell(job, how)
            await asyncio.sleep(60)

        @self.bank.app.job()
        def saving(job: JobRun, how: str) -> None:
            job.log("before")
            job.progress(1, 9)
            job.checkpoint({"row": 1})
            plain.function(job, how)

        self.plain, self.coroutine, self.saving = plain, coroutine, saving

    def tell(self, job: JobRun, how: str) -> None:
        if how != "silent":
            job.log(f"{how} in attempt {job.attempt}")
            job.progress(4, 9)
        self.begun.release()

    def interrupted(self, path: Path, *requests: klerk.JobRequest) -> tuple[list[JobRecord], int]:
        """Return the jobs as they are after closing interrupted them, and how much that added to the log."""
        k = self.bank.app.open(path, close_wait=timedelta(0), job_threads=len(requests))
        jobs = k.jobs.schedule(*requests)
        for _ in requests:
            assert self.begun.acquire(timeout=20)
        before = k.sequence
        k.close()
        with self.bank.app.open(path, job_threads=0) as k:
            return [k.jobs.get(job) for job in jobs], k.sequence - before


def test_what_interrupted_jobs_told_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.CLOSE_MARGIN_S", 0.1)
    held = Held()
    requests = (
        held.plain("a"),
        held.coroutine("b"),
        held.saving("c"),
        held.plain("stuck"),
        held.plain("silent"),
    )
    records, added = held.interrupted(tmp_path / "store", *requests)
    held.go.set()
    # One transaction for all of them.
    assert added == 1
    assert [record.log for record in records] == [
        ("a in attempt 1",),
        ("b in attempt 1",),
        ("before", "c in attempt 1"),
        ("stuck in attempt 1",),
        (),
    ]
    assert [(record.done, record.total) for record in records] == [(4, 9)] * 4 + [(0, 0)]
    for record in records:
        assert (record.state, record.attempt, record.errors) == (JobState.AVAILABLE, 0, ())
        assert (record.error, record.ended_us, record.run_at_us) == ("", 0, 0)
    assert [bool(record.checkpoint) for record in records] == [False, False, True, False, False]
    assert [bool(record.started_us) for record in records] == [False, False, True, False, False]


def test_nothing_is_written_for_interrupted_jobs_that_told_nothing(tmp_path: Path) -> None:
    held = Held()
    records, added = held.interrupted(tmp_path / "store", held.plain("silent"), held.coroutine("silent"))
    assert added == 0
    assert [record.attempt for record in records] == [0, 0]


def test_the_log_of_an_interrupted_job_goes_on_after_the_next_start(tmp_path: Path) -> None:
    held = Held()
    held.interrupted(tmp_path / "store", held.plain("a"))
    with held.bank.app.open(tmp_path / "store", close_wait=timedelta(0)) as k:
        assert held.begun.acquire(timeout=20)
        (record,) = k.jobs.live()
        assert record.log == ("a in attempt 1",) * 2
        held.go.set()
        idle(k)
        assert k.jobs.get(record).state is JobState.COMPLETED


def test_a_job_in_a_process_keeps_what_it_told(tmp_path: Path) -> None:
    with flawed.app.open(tmp_path / "store", close_wait=timedelta(0), job_processes=1) as k:
        (job,) = k.jobs.schedule(flawed.held())
        eventually(lambda: k.jobs.get(job).done == 3, 60)
    with flawed.app.open(tmp_path / "store", job_threads=0, job_processes=0) as k:
        record = k.jobs.get(job)
    assert (record.state, record.attempt, record.log) == (JobState.AVAILABLE, 0, ("three of seven",))
    assert (record.done, record.total, record.errors) == (3, 7, ())


def test_a_request_to_stop_outlives_what_an_interrupted_job_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.CLOSE_MARGIN_S", 0.1)
    held = Held()
    k = held.bank.app.open(tmp_path / "store", close_wait=timedelta(0))
    (job,) = k.jobs.schedule(held.plain("stuck"))
    assert held.begun.acquire(timeout=20)
    k.jobs.discard(job)
    k.close()
    held.go.set()
    with held.bank.app.open(tmp_path / "store") as k:
        record = k.jobs.get(job)
        assert (record.state, record.log) == (JobState.DISCARDED, ("stuck in attempt 1",))


def test_a_job_that_ends_after_it_was_given_up_is_not_brought_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a job told is kept as it was; when it completes at that moment, it has completed."""
    monkeypatch.setattr("klerk.limits.CLOSE_MARGIN_S", 0.1)
    held = Held()
    k = held.bank.app.open(tmp_path / "store", close_wait=timedelta(0))
    (job,) = k.jobs.schedule(held.plain("stuck"))
    assert held.begun.acquire(timeout=20)

    def keep_later(runs: list[RunningJob]) -> KeepTold:
        held.go.set()
        # Its end comes to the queue before that does.
        eventually(lambda: runs[0].is_over)
        time.sleep(0.05)
        return KeepTold(runs)

    monkeypatch.setattr("klerk.job_manager.attempts.KeepTold", keep_later)
    k.close()
    with held.bank.app.open(tmp_path / "store", job_threads=0) as k:
        assert k.jobs.get(job).state is JobState.COMPLETED


def test_a_failed_store_closes_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can never be recorded is not waited for."""
    monkeypatch.setattr("klerk.limits.CLOSE_MARGIN_S", 30.0)
    held = Held()
    k = held.bank.app.open(tmp_path / "store")
    k.jobs.schedule(held.plain("a"))
    assert held.begun.acquire(timeout=20)

    def fail(*ignored: object) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(k._storage, "_write", fail)
    closing = Spawned(k.close)
    held.go.set()
    closing.end(20)

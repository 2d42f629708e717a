"""How jobs end, and what is told of that, where it once was silent or wrong.

A job never completes without the commands that its function meant; a key counts by the values that it
names, also for jobs that were stored before it was declared; and what Klerk says of a job that was killed, is
suspended or waits for a rate is true, and works.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, Clock
from endings import DONE, UNDONE, app, end, end_afar, end_kept, end_soon, hang, kill_itself, notes

import klerk
from klerk import App, ConfigError, JobRun, JobState


@pytest.fixture(scope="module")
def k() -> Iterator[klerk.Klerk]:
    with app.open(job_processes=1) as k:
        yield k


def ended(k: klerk.Klerk, request: klerk.JobRequest) -> klerk.JobRecord:
    (job,) = k.jobs.schedule(request)
    return k.jobs.wait(job, 60)


# --- what does nothing by itself ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [end, end_soon, end_afar, end_kept], ids=str)
@pytest.mark.parametrize("how", UNDONE)
def test_a_job_never_completes_without_what_it_meant(
    k: klerk.Klerk, kind: klerk.Job[[str]], how: str
) -> None:
    _, what, hint = UNDONE[how]
    record = ended(k, kind(how))
    assert record.state is JobState.DISCARDED
    assert record.error.startswith("JobError: ")
    assert kind.name in record.error
    if what.startswith(("a ", "the ")):
        assert f"returned {what}, which does nothing by itself" in record.error
    assert what in record.error
    assert hint in record.error
    # Nothing was raised in its function.
    assert [failure.traceback for failure in record.errors] == [""]
    assert k.jobs.counts()[JobState.EXECUTING] == 0


@pytest.mark.parametrize("kind", [end, end_afar], ids=str)
@pytest.mark.parametrize("how", [how for how in DONE if how not in ("snoozed", "far")])
def test_what_may_be_returned_may_be_returned(k: klerk.Klerk, kind: klerk.Job[[str]], how: str) -> None:
    assert ended(k, kind(how)).state is JobState.COMPLETED


def test_an_outcome_says_what_becomes_of_commands_that_are_not_returned(k: klerk.Klerk) -> None:
    (job,) = k.jobs.schedule(end("snoozed"))
    assert k.jobs.wait_until_idle(60)
    assert k.jobs.get(job).state is JobState.SCHEDULED
    k.jobs.cancel(job)


def test_a_long_result_is_not_walked_through(k: klerk.Klerk) -> None:
    """The look is bounded, so what stands beyond a million numbers is not found."""
    assert ended(k, end("far")).state is JobState.COMPLETED


def test_nothing_was_written_by_any_of_them(k: klerk.Klerk) -> None:
    with k.read(TESTER) as reader:
        before = len(list(reader.list(notes)))
    ended(k, end("beside"))
    ended(k, end("no_return"))
    with k.read(TESTER) as reader:
        assert len(list(reader.list(notes))) == before


# --- keys ---------------------------------------------------------------------------------------------


def keyed(key: Callable[..., object] | None, **options: Any) -> tuple[App, klerk.Job[[str, str]]]:
    """Declare a job of a sample and an analyser."""
    app = App("laboratory")

    @app.job(key=key, **options)
    def analyse(job: JobRun, sample: str, analyser: str) -> None: ...

    return app, analyse


def swapped(analyser: str, sample: str) -> str:
    return f"{analyser} for {sample}"


def by_default(sample: str, analyser: str, suffix: str = "!") -> str:
    return sample + analyser + suffix


BY_NAME: dict[str, tuple[Callable[..., object], str]] = {
    "a part": (lambda analyser: analyser, "a"),
    "the first": (lambda sample: sample, "s"),
    "swapped": (swapped, "a for s"),
    "as they are": (lambda sample, analyser: sample + analyser, "sa"),
    "in order": (lambda one, other: one + other, "sa"),
    "all": (lambda *values: "+".join(values), "s+a"),
    "the rest": (lambda sample, *others: "+".join((sample, *others)), "s+a"),
    "by default": (by_default, "sa!"),
    "compiled": (max, "s"),
}


@pytest.mark.parametrize("how", BY_NAME)
def test_a_key_function_gets_the_arguments_that_it_names(how: str) -> None:
    function, key = BY_NAME[how]
    app, analyse = keyed(function, key_concurrency=1)
    with app.open(job_threads=0) as k:
        (job,) = k.jobs.schedule(analyse("s", "a"))
        assert job.key == key
        assert k.jobs.edit(job, arguments={"analyser": "b"}).key == key.replace("a", "b")


@pytest.mark.parametrize(
    "function",
    [
        lambda analyser, other: analyser + other,
        lambda other, sample: sample,
        lambda analyser, *others: analyser,
        lambda sample, suffix="!": sample + suffix,
    ],
)
def test_a_key_function_that_mixes_names_and_order_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match=r"K017.*for a match by name.*for one in order"):
        keyed(function, key_concurrency=1)


@pytest.mark.parametrize("function", [lambda: "all", lambda one: one, lambda a, b, c: a, lambda *, x: x])
def test_a_key_function_that_cannot_be_called_is_refused(function: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match=r"K017.*does not fit"):
        keyed(function, key_concurrency=1)


def test_a_key_limit_holds_for_jobs_that_were_stored_before_it(tmp_path: Path) -> None:
    before, analyse = keyed(None)
    clock = Clock()
    with before.open(tmp_path / "store", clock=clock, job_threads=0) as k:
        old = k.jobs.schedule(*(analyse(f"s{number}", "a") for number in range(3)), analyse("s", "b"))
        assert {job.key for job in old} == {""}
    after = App("laboratory")
    most: dict[str, int] = {"a": 0, "b": 0}
    running: dict[str, int] = {"a": 0, "b": 0}

    @after.job(key=lambda analyser: analyser, key_concurrency=1)
    def analyse(job: JobRun, sample: str, analyser: str) -> None:  # type: ignore[no-redef]
        running[analyser] += 1
        most[analyser] = max(most[analyser], running[analyser])
        time.sleep(0.02)
        running[analyser] -= 1

    with after.open(tmp_path / "store", clock=clock, job_threads=4) as k:
        for job in old:
            assert k.jobs.wait(job, 30).key == job.arguments[1]
    assert most == {"a": 1, "b": 1}


def test_a_key_function_that_fails_for_stored_jobs_is_told_and_limits_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, analyse = keyed(None)
    with before.open(tmp_path / "store", job_threads=0) as k:
        old = k.jobs.schedule(*(analyse(f"s{number}", "a") for number in range(3)))
    after, _ = keyed(lambda analyser: {}[analyser], key_concurrency=1)
    with caplog.at_level(logging.WARNING, "klerk"), after.open(tmp_path / "store") as k:
        for job in old:
            record = k.jobs.wait(job, 30)
            assert (record.state, record.key) == (JobState.COMPLETED, "")
    (told,) = [record for record in caplog.records if getattr(record, "event", "") == "job_keyless"]
    assert "raised KeyError: 'a'" in told.getMessage()


# --- jobs that are killed -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [hang, kill_itself], ids=str)
def test_a_job_that_was_killed_has_raised_nothing(
    k: klerk.Klerk, kind: klerk.Job[[]], caplog: pytest.LogCaptureFixture
) -> None:
    record = ended(k, kind())
    assert record.state is JobState.DISCARDED
    (failure,) = record.errors
    assert failure.traceback == ""
    assert failure.error == record.error
    assert "EOFError" not in caplog.text
    (told,) = [each for each in caplog.records if getattr(each, "event", "") == "job_discarded"]
    assert (told.exc_info, vars(told)["where"]) == (None, "")


# --- jobs that are suspended --------------------------------------------------------------------------


# What the stored job would become by this is no set of arguments.
UNFIT: dict[str, Any] = {"version": 2, "upcast": {1: lambda old: None}}


@pytest.fixture
def misfit(tmp_path: Path) -> klerk.JobRecord:
    """Store a job whose kind takes something else from now on."""
    before = App("laboratory")

    @before.job()
    def analyse(job: JobRun, sample: str) -> None: ...

    with before.open(tmp_path / "store", job_threads=0) as k:
        return k.jobs.schedule(analyse("s"))[0]


@pytest.mark.parametrize("action", ["retry", "run_now"])
def test_what_is_told_of_a_suspended_job_works(misfit: klerk.JobRecord, tmp_path: Path, action: str) -> None:
    app, _ = keyed(None, **UNFIT)
    with app.open(tmp_path / "store") as k:
        status = k.jobs.why(misfit)
        assert status.codes == ("suspended",)
        told = str(status)
        assert told.count("suspended") == 1
        assert (
            "returned None, expected a dict of values by name; edit its arguments, or cancel or discard it"
            in told
        )
        with pytest.raises(klerk.WrongState) as refused:
            getattr(k.jobs, action)(misfit)
        assert "returned None" in str(refused.value)
        assert "edit its arguments, or cancel or discard it" in str(refused.value)
        assert "retry" not in str(refused.value)
        k.jobs.edit(misfit, arguments={"sample": "s", "analyser": "a"})
        assert k.jobs.wait(misfit, 30).state is JobState.COMPLETED


def test_a_job_that_ended_and_fits_no_more_is_run_again_with_arguments_that_fit(
    misfit: klerk.JobRecord, tmp_path: Path
) -> None:
    app, _ = keyed(None, **UNFIT)
    with app.open(tmp_path / "store") as k:
        k.jobs.discard(misfit)
        with pytest.raises(klerk.WrongState, match="run it again with arguments that fit: rerun"):
            k.jobs.retry(misfit)
        k.jobs.rerun(misfit, {"sample": "s", "analyser": "a"})
        assert k.jobs.wait(misfit, 30).state is JobState.COMPLETED


# --- rates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crashes", [False, True])
def test_why_a_rate_holds_a_job_up_is_true_after_a_crash(tmp_path: Path, *, crashes: bool) -> None:
    app, clock = App("daily"), Clock()

    @app.job(rate="1/day")
    def daily(job: JobRun) -> None: ...

    store = tmp_path / "store"
    with app.open(store, clock=clock) as k:
        if crashes:
            shutil.copytree(store, tmp_path / "copy")
        else:
            k.jobs.wait(k.jobs.schedule(daily())[0], 30)
    with app.open(tmp_path / "copy" if crashes else store, clock=clock) as k:
        (job,) = k.jobs.schedule(daily())
        status = k.jobs.why(job)
        assert status.codes == ("rate",)
        assert status.reasons[0].wait == timedelta(days=1)
        told = str(status)
        assert "the job 'daily' may start 1/day, and has no start left (a crash leaves none), for 1 d" in told
        assert "already" not in told

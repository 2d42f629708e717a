"""`Klerk.jobs` and `JobRun` offer what users may call, and nothing by which they could break a running one.

What is offered is written out here, name by name: whoever adds a method has to say so, for threads and for
asyncio, with a docstring, and whatever the job manager needs for itself must not show up.
"""

import inspect
from typing import Any

import pytest
import spawning

import klerk
from klerk import App, JobRun, Klerk

OFFERED = {
    *("schedule", "result", "prune"),
    *("get", "query", "find", "models", "why"),
    *("cancel", "discard", "retry", "run_now", "edit", "rerun"),
    *("cancel_all", "discard_all", "retry_all", "run_all_now"),
    *("batch", "waiting_for"),
    *(
        "declared",
        "counts",
        "totals",
        "live",
        "observe",
        "cancel_running",
        "unstoppable",
        "wait",
        "wait_until_idle",
    ),
    *("queues", "paused", "pause", "resume", "scale", "scale_workers"),
}
"""What `Klerk.jobs` and `Klerk.aio.jobs` offer."""

AT_ONCE = {
    *("declared", "counts", "totals", "observe", "cancel_running", "unstoppable"),
    *("queues", "paused", "scale_workers"),
}
"""What waits for nothing, and is therefore not awaited in `Klerk.aio.jobs`."""


def public(thing: Any) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


@pytest.fixture
def k() -> Any:
    app = App("faces")

    @app.job()
    def nothing(job: JobRun) -> None:
        pass

    with app.open() as opened:
        yield opened


def test_jobs_offer_what_users_may_call(k: Klerk) -> None:
    assert public(k.jobs) == OFFERED


def test_asyncio_is_offered_the_same(k: Klerk) -> None:
    assert public(k.aio.jobs) == OFFERED


def test_only_what_may_wait_is_awaited(k: Klerk) -> None:
    awaited = {name for name in OFFERED if inspect.iscoroutinefunction(getattr(type(k.aio.jobs), name))}
    assert awaited == OFFERED - AT_ONCE
    assert not any(inspect.iscoroutinefunction(getattr(type(k.jobs), name)) for name in OFFERED)


@pytest.mark.parametrize("name", sorted(OFFERED))
def test_both_take_the_same_and_are_documented(k: Klerk, name: str) -> None:
    blocking, awaited = getattr(type(k.jobs), name), getattr(type(k.aio.jobs), name)
    assert (blocking.__doc__ or "").strip()
    assert (awaited.__doc__ or "").startswith("See `")
    owner, _, method = (awaited.__doc__ or "").partition("`")[2].partition("`")[0].partition(".")
    assert method == name
    assert any(cls.__name__ == owner and name in vars(cls) for cls in type(k.jobs).__mro__)
    if isinstance(blocking, property):
        assert isinstance(awaited, property)
    else:
        assert inspect.signature(blocking) == inspect.signature(awaited)


def test_what_is_declared_is_shown(k: Klerk) -> None:
    assert list(k.jobs.declared) == ["nothing"] == list(k.aio.jobs.declared)
    with pytest.raises(AttributeError):
        k.jobs.declared = {}  # type: ignore[misc]


def test_jobs_are_shown_as_what_they_are(k: Klerk) -> None:
    assert repr(k.jobs) == "<jobs of 'faces': none>"
    k.jobs.schedule(k.jobs.declared["nothing"]())
    assert k.jobs.wait_until_idle(10)
    assert repr(k.jobs) == "<jobs of 'faces': {'completed': 1}>"
    assert repr(k.aio.jobs) == "<aio jobs of 'faces': {'completed': 1}>"


def test_the_faces_have_names(k: Klerk) -> None:
    assert type(k.jobs) is klerk.Jobs
    assert type(k.aio.jobs) is klerk.AioJobs


# --- what a job's function receives ---------------------------------------------------------------

OF_A_JOB = {
    *("record", "id", "attempt", "crashes", "queue", "tick", "now", "idempotency_key", "log_lines"),
    *("cancelled", "check_cancelled", "heartbeat"),
    *("read", "snapshot", "handle", "handle_async", "complete_with"),
    *("state", "state_as", "checkpoint", "checkpoint_async"),
    *("log", "done", "total", "progress", "track"),
    *("result_of", "results", "member_results"),
}
"""What `JobRun` offers."""

VALUES_OF_A_JOB = {
    **dict.fromkeys(("id", "attempt", "crashes", "done", "total"), "int"),
    "record": "JobRecord",
    "queue": "str",
    "idempotency_key": "str",
    "log_lines": "tuple",
    "cancelled": "bool",
    "tick": "NoneType",
    "state": "NoneType",
    "now": "datetime",
}


def test_a_job_is_offered_what_its_function_may_use() -> None:
    assert public(JobRun) == OF_A_JOB
    assert [name for name in sorted(OF_A_JOB) if not (getattr(JobRun, name).__doc__ or "").strip()] == []


def test_a_job_cannot_be_changed() -> None:
    app, seen = App("unchanged"), []

    @app.job(max_attempts=1)
    def work(job: JobRun) -> None:
        seen.append({name: type(getattr(job, name)).__name__ for name in VALUES_OF_A_JOB})
        for name in sorted(OF_A_JOB):
            with pytest.raises(AttributeError):
                setattr(job, name, None)
        seen.append(repr(job))

    with app.open() as k:
        k.jobs.schedule(work())
        assert k.jobs.wait_until_idle(10)
        assert k.jobs.counts()["completed"] == 1
    assert seen == [VALUES_OF_A_JOB, "<attempt 1 at job work 1>"]


def test_a_job_in_a_process_is_offered_the_same() -> None:
    with spawning.app.open(job_processes=1) as k:
        hidden = ("ended", "saved", "gave_sign", "function_begins", "close_readers", "cancel", "stopped_by")
        (looked,) = k.jobs.schedule(spawning.look_around((*sorted(OF_A_JOB), *hidden)))
        (*_, callback) = k.jobs.schedule(
            klerk.Batch([spawning.square(2), spawning.square(3)], succeeded=spawning.add_up())
        )
        assert k.jobs.wait_until_idle(60)
        found = k.jobs.result(looked)
        assert {name: found[name] for name in VALUES_OF_A_JOB} == VALUES_OF_A_JOB
        assert {found[name] for name in OF_A_JOB - VALUES_OF_A_JOB.keys()} <= {"partial", "method"}
        assert {found[name] for name in hidden} == {"AttributeError"}
        assert k.jobs.result(callback) == {"sum": 13}

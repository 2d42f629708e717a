"""Seeing jobs: found one by one and by filter, wherever they are and while they change; and why they wait.

What queries return is held against the same filter written in Python over all jobs, page by page, with jobs
in memory, far ahead in the store and ended, before and after the store was opened again. Reasons are provoked
one by one.
"""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Account, Bank, Cents, Clock, Name, Spawned, eventually

import klerk
from klerk import ArgumentError, Discard, JobRecord, JobRun, JobState, Model, NotFound, Ref
from klerk.__main__ import main

FAR = datetime(2100, 1, 1, tzinfo=UTC)
NEXT = NOON + timedelta(days=1)


class Part(Model):
    """A struct inside of an argument."""

    account: Ref[Account]
    share: int


class Mill(Bank):
    """A bank with jobs in several queues, of all sorts."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.started: list[int] = []
        app = self.app
        app.queue("mail", concurrency=1)
        app.queue("slow")

        @app.job(
            queue="mail", retry=lambda attempt, error: timedelta(days=1), key=lambda how, about=None: how
        )
        def mail(job: JobRun, how: str, about: Ref[Account] | None = None) -> None:
            self.started.append(job.id)
            if how == "wait":
                job.log("waiting")
                for _ in job.track(range(3)):
                    assert self.go.wait(20)
            if how == "fail":
                raise ZeroDivisionError("Division by NOTHING")
            if how == "discard":
                raise Discard("of no use")

        @app.job(tags={"gpu"})
        def train(job: JobRun, accounts: tuple[Ref[Account], ...] = ()) -> None: ...

        @app.job(rate="1/h")
        def seldom(job: JobRun) -> None: ...

        @app.job(concurrency=1)
        def alone(job: JobRun) -> None:
            self.started.append(job.id)
            assert self.go.wait(20)

        @app.job(key=lambda who: who, key_concurrency=1)
        def each(job: JobRun, who: str) -> None:
            self.started.append(job.id)
            assert self.go.wait(20)

        self.mail, self.train, self.seldom, self.alone, self.each = mail, train, seldom, alone, each
        self.enter.job(lambda a: [mail("done"), mail("done")])
        self.closed.on_enter.job(lambda a: mail("done", a.model.meta.id))


@pytest.fixture
def mill() -> Any:
    mill = Mill()
    yield mill
    mill.go.set()


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def every(k: klerk.Klerk, **which: Any) -> list[JobRecord]:
    """Return what all pages of a query hold, in their order."""
    found: list[JobRecord] = []
    after = None
    while True:
        page = k.jobs.query(after=after, **which)
        assert len(page) <= which.get("limit", 50)
        found += page
        after = page.next
        if after is None:
            return found


def ids(records: Any) -> list[int]:
    return [record.id for record in records]


def crowd(mill: Mill, k: klerk.Klerk) -> None:
    """Make jobs in every state but executing and suspended."""
    ada = k.handle(mill.enter(Name("Ada")), TESTER.at(NOON)).id
    bob = k.handle(mill.enter(Name("Bob")), TESTER.at(NEXT)).id
    k.handle(mill.close(ada), TESTER)
    k.jobs.schedule(*[mill.mail("fail", bob) for _ in range(3)])
    k.jobs.schedule(*[mill.mail("discard") for _ in range(4)])
    k.jobs.schedule(mill.mail("done").options(queue="slow"), mill.seldom())
    idle(k)
    k.jobs.schedule(*[mill.mail("done", ada).at(FAR - timedelta(days=day)) for day in range(5)])
    k.jobs.schedule(mill.train((ada, bob)), at=FAR)
    k.jobs.cancel(k.jobs.schedule(mill.mail("done", bob), at=FAR)[0].id)


# --- one job ------------------------------------------------------------------------------------------


def test_a_job_is_found_wherever_it_is(tmp_path: Path, mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.JOBS_AT_HAND_MAX", 2)
    with mill.app.open(tmp_path / "s") as k:
        crowd(mill, k)
        known = every(k)
        for record in known:
            assert k.jobs.get(record.id) == record
        with pytest.raises(NotFound, match="no job 999"):
            k.jobs.get(999)
        states = {record.state for record in known}
        assert states == set(JobState) - {JobState.EXECUTING, JobState.AVAILABLE, JobState.SUSPENDED}
    with mill.app.open(tmp_path / "s", job_threads=0) as k:
        assert every(k) == known
        assert [k.jobs.get(record.id) for record in known] == known


def test_the_times_of_a_job(mill: Mill) -> None:
    clock = Clock()
    with mill.app.open(job_threads=1, clock=clock) as k:
        (job,) = k.jobs.schedule(mill.mail("done"), at=NOON + timedelta(hours=1))
        assert (job.created_at, job.run_at, job.ended_at) == (NOON, NOON + timedelta(hours=1), None)
        assert job.started_at is None
        k.jobs.run_now(job.id)
        idle(k)
        ended = k.jobs.get(job.id)
        assert (ended.created_at, ended.run_at, ended.ended_at) == (NOON, None, NOON)


def test_a_running_job_shows_how_far_it_is(mill: Mill) -> None:
    with mill.app.open(job_threads=1) as k:
        (job,) = k.jobs.schedule(mill.mail("wait"))
        eventually(lambda: k.jobs.get(job.id).total)
        for shown in (k.jobs.get(job.id), k.jobs.find(state="executing"), k.jobs.query(kind="mail").items[0]):
            assert shown is not None
            assert (shown.state, shown.done, shown.total, shown.log) == (
                JobState.EXECUTING,
                0,
                3,
                ("waiting",),
            )
        assert ids(k.jobs.query(state="available")) == []
        mill.go.set()
        idle(k)
        assert k.jobs.find(state="executing") is None


# --- filters ------------------------------------------------------------------------------------------

FILTERS: dict[str, tuple[dict[str, Any], Callable[[JobRecord], bool]]] = {
    "all": ({}, lambda job: True),
    "a state": ({"state": "discarded"}, lambda job: job.state == "discarded"),
    "states": (
        {"state": [JobState.SCHEDULED, "completed"]},
        lambda job: job.state in ("scheduled", "completed"),
    ),
    "none": ({"state": ()}, lambda job: False),
    "waiting": ({"state": ("scheduled", "retryable")}, lambda job: job.state in ("scheduled", "retryable")),
    "a kind": ({"kind": "train"}, lambda job: job.kind == "train"),
    "kinds": ({"kind": {"train", "seldom"}}, lambda job: job.kind != "mail"),
    "no kind": ({"kind": ()}, lambda job: False),
    "a queue": ({"queue": "slow"}, lambda job: job.queue == "slow"),
    "a declared queue": ({"queue": "mail"}, lambda job: job.kind == "mail" and not job.queue),
    "a key": ({"key": "fail"}, lambda job: job.key == "fail"),
    "a tag": ({"tag": "gpu"}, lambda job: job.kind == "train"),
    "a tag and kind": ({"tag": "gpu", "kind": "mail"}, lambda job: False),
    "a model": ({"model": 1}, lambda job: 1 in flat(job.arguments)),
    "a model in a tuple": ({"model": 2, "kind": "train"}, lambda job: job.kind == "train"),
    "no model": ({"model": 77}, lambda job: False),
    "a command": ({"cause": 1}, lambda job: job.cause == 1),
    "a command without jobs": ({"cause": 10**6}, lambda job: False),
    "a command and a state": ({"cause": 1, "state": "discarded"}, lambda job: False),
    "no batch": ({"batch": 5}, lambda job: job.batch == 5),
    "from": (
        {"created_after": NOON + timedelta(days=1)},
        lambda job: job.created_at >= NOON + timedelta(days=1),
    ),
    "until": (
        {"created_before": NOON + timedelta(days=1)},
        lambda job: job.created_at < NOON + timedelta(days=1),
    ),
    "an error": ({"error": "nothing"}, lambda job: "NOTHING" in job.error),
    "an error and model": ({"error": "ZeroDiv", "model": 2}, lambda job: job.state == "retryable"),
}


def flat(arguments: Any) -> list[Any]:
    return [each for value in arguments for each in (value if isinstance(value, tuple) else (value,))]


@pytest.mark.parametrize("stored", [False, True])
def test_filters_find_what_fits_and_nothing_else(
    tmp_path: Path, mill: Mill, monkeypatch: pytest.MonkeyPatch, *, stored: bool
) -> None:
    if stored:
        monkeypatch.setattr("klerk.limits.JOBS_AT_HAND_MAX", 2)
    with mill.app.open(tmp_path / "s") as k:
        crowd(mill, k)
        if not stored:
            _compare_filters(k)
    if stored:
        with mill.app.open(tmp_path / "s", job_threads=0) as k:
            _compare_filters(k)


def _compare_filters(k: klerk.Klerk) -> None:
    known = every(k)
    assert sorted(ids(known)) == list(range(1, len(known) + 1))
    for name, (which, fits) in FILTERS.items():
        expected = [record for record in known if fits(record)]
        assert every(k, **which) == expected, name
        assert k.jobs.find(**which) == (expected[0] if expected else None), name
        for limit in (1, 3):
            assert every(k, limit=limit, **which) == expected, name
        newest = every(k, newest_first=True, limit=2, **which)
        assert sorted(ids(newest)) == sorted(ids(expected)), name


def test_the_order(mill: Mill) -> None:
    clock = Clock()
    with mill.app.open(job_threads=0, clock=clock) as k:
        ready = ids(k.jobs.schedule(*[mill.mail("done") for _ in range(3)]))
        waiting = [k.jobs.schedule(mill.mail("done"), at=FAR - timedelta(days=day))[0].id for day in range(3)]
        doomed = ids(k.jobs.schedule(*[mill.mail("done") for _ in range(3)]))
        for job_id in (doomed[1], doomed[2], doomed[0]):
            clock.advance(timedelta(seconds=1))
            (k.jobs.discard if job_id == doomed[2] else k.jobs.cancel)(job_id)
        ended = [doomed[1], doomed[2], doomed[0]]
        assert ids(every(k, limit=2)) == [*ready, *waiting[::-1], *ended]
        assert ids(every(k, limit=2, newest_first=True)) == [*ready[::-1], *waiting, *ended[::-1]]


def test_jobs_whose_time_has_come_are_available(mill: Mill) -> None:
    clock = Clock()
    with mill.app.open(job_threads=0, clock=clock) as k:
        jobs = [
            k.jobs.schedule(mill.mail("done"), at=NOON + timedelta(hours=hour))[0].id for hour in range(1, 6)
        ]
        clock.advance(timedelta(hours=2))
        eventually(lambda: k.jobs.counts()[JobState.AVAILABLE] == 2)
        for newest_first in (False, True):
            order = -1 if newest_first else 1
            assert ids(every(k, state="available", newest_first=newest_first)) == jobs[:2][::order]
            assert ids(every(k, state="scheduled", newest_first=newest_first)) == jobs[2:][::order]
            assert ids(every(k, state="available", newest_first=newest_first, limit=1)) == jobs[:2][::order]


def test_a_page_takes_a_bounded_number_of_looks(mill: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.JOB_QUERY_LOOKS_MAX", 10)
    with mill.app.open(job_threads=0) as k:
        jobs = ids(k.jobs.schedule(*[mill.mail("done") for _ in range(50)], mill.seldom(), mill.seldom()))
        page, pages = k.jobs.query(kind="seldom"), 1
        while page.next is not None and not page.items:
            page, pages = k.jobs.query(kind="seldom", after=page.next), pages + 1
        assert pages == 6
        assert ids(every(k, kind="seldom")) == jobs[50:]
        assert k.jobs.find(kind=mill.seldom) is not None
        assert k.jobs.cancel_all(kind=mill.seldom) == 2


def test_pages_while_jobs_come_and_end(mill: Mill) -> None:
    """Whoever is there all the time is met; what is met is as it is then."""
    mill.go.set()
    with mill.app.open(job_threads=2) as k:
        lasting = ids(k.jobs.schedule(*[mill.mail("done") for _ in range(40)], at=FAR))
        going = True

        def stir() -> None:
            while going:
                k.jobs.schedule(*[mill.each("x") for _ in range(5)])
                k.jobs.cancel_all(state="completed")

        thread = Spawned(stir)
        for _ in range(20):
            found = every(k, kind=[mill.mail, "each"], limit=7)
            assert set(lasting) <= set(ids(found))
            assert all(record.ended_us for record in found if record.state is JobState.COMPLETED)
        going = False
        thread.end()


def test_cursors_belong_to_their_query(mill: Mill) -> None:
    with mill.app.open(job_threads=0) as k:
        k.jobs.schedule(*[mill.mail("done") for _ in range(5)])
        page = k.jobs.query(limit=2)
        assert page.next is not None
        assert ids(k.jobs.query(limit=1, after=page.next)) == [3]
        for wrong in (
            {"state": "available"},
            {"kind": "mail"},
            {"newest_first": True},
            {"created_after": NOON},
        ):
            with pytest.raises(ArgumentError, match="no cursor"):
                k.jobs.query(after=page.next, **wrong)
        for text in ("", "x", page.next[:-1], page.next[1:], "A" * len(page.next), "é"):
            with pytest.raises(ArgumentError, match="no cursor"):
                k.jobs.query(after=text)


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ({"colour": "red"}, "no filter 'colour'"),
        ({"state": "over"}, "no state 'over'"),
        ({"state": 5}, "one state or several"),
        ({"kind": 5}, "one kind or several"),
        ({"kind": [None]}, "one kind or several"),
        ({"queue": b"mail"}, "one queue or several"),
        ({"key": 5}, "a text for 'key'"),
        ({"tag": 5}, "a text for 'tag'"),
        ({"error": 5}, "a text for 'error'"),
        ({"model": "x"}, "a reference"),
        ({"cause": -1}, "'cause'"),
        ({"cause": True}, "'cause'"),
        ({"batch": "1"}, "'batch'"),
        ({"created_after": datetime(2024, 1, 1)}, "'created_after'"),  # noqa: DTZ001
        ({"created_before": "today"}, "'created_before'"),
        ({"limit": 0}, "limit must be 1 to"),
        ({"limit": 10**6}, "limit must be 1 to"),
        ({"newest_first": 1}, "'newest_first'"),
        ({"after": 5}, "'after'"),
    ],
)
def test_filters_that_cannot_be_meant(mill: Mill, which: Any, told: str) -> None:
    with mill.app.open() as k, pytest.raises(ArgumentError, match=told):
        k.jobs.query(**which)


# --- links --------------------------------------------------------------------------------------------


def test_from_commands_to_jobs_to_models_and_back(mill: Mill) -> None:
    mill.app.allow.log()(lambda a: True)

    @mill.app.job()
    def pay(job: JobRun, account: Ref[Account]) -> None:
        job.handle(mill.deposit(account, Cents(5)))

    with mill.app.open() as k:
        result = k.handle(mill.enter(Name("Ada")), TESTER)
        found = every(k, cause=result.sequence)
        assert ids(found) == ids(result.jobs) == list(k.log(TESTER, sequence=result.sequence).entries[0].jobs)
        (job,) = k.jobs.schedule(pay(result.id))
        idle(k)
        assert k.jobs.models(job) == k.jobs.models(job.id) == (result.id,)
        assert job.id in ids(k.jobs.query(model=result.id))
        (entry,) = k.log(TESTER, actor=("system", f"job pay {job.id}")).entries
        assert (entry.updated, entry.cause) == ((result.id,), job.cause)
        (created,) = k.log(TESTER, sequence=job.cause).entries
        assert created.jobs == (job.id,)
        k.handle(mill.close(result.id), TESTER)
        assert k.jobs.models(k.jobs.query(newest_first=True, model=result.id, kind=mill.mail).items[0]) == (
            result.id,
        )
        both = k.jobs.schedule(mill.train((result.id, result.id)), at=FAR)[0]
        assert k.jobs.models(both) == (result.id,)


# --- why ----------------------------------------------------------------------------------------------


def why(k: klerk.Klerk, job: JobRecord) -> tuple[tuple[str, ...], str]:
    status = k.jobs.why(job)
    assert status.state is status.job.state
    assert str(status).startswith(f"job {job.id} ({job.kind}) is {status.state}: ")
    assert all(str(reason) in str(status) for reason in status.reasons)
    return status.codes, str(status)


def test_why_it_waits_for_a_time(mill: Mill) -> None:
    clock = Clock()
    with mill.app.open(clock=clock) as k:
        (job,) = k.jobs.schedule(mill.alone(), at=NOON + timedelta(hours=2, minutes=5))
        codes, text = why(k, job)
        assert codes == ("time",)
        assert "2024-02-29 14:05:00 UTC, 2 h 5 min from now" in text
        assert k.jobs.why(job.id).reasons[0].wait == timedelta(hours=2, minutes=5)
        (failed,) = k.jobs.schedule(mill.mail("fail"))
        idle(k)
        codes, text = why(k, failed)
        assert codes == ("time",)
        assert "after it failed, it waits until" in text


def test_why_without_workers_and_tags(mill: Mill) -> None:
    with mill.app.open(job_threads=0) as k:
        (job,) = k.jobs.schedule(mill.mail("done"))
        assert why(k, job)[0] == ("no_worker",)
    with mill.app.open(job_threads=1) as k:
        (job,) = k.jobs.schedule(mill.train())
        (other,) = k.jobs.schedule(mill.mail("done"))
        eventually(lambda: k.jobs.get(other.id).ended_us)
        codes, text = why(k, job)
        assert codes == ("missing_tag",)
        assert "gpu" in text


def test_why_it_waits_for_limits_and_workers(mill: Mill) -> None:
    with mill.app.open(job_threads=3) as k:
        first = [
            k.jobs.schedule(mill.alone())[0],
            k.jobs.schedule(mill.each("x"))[0],
            k.jobs.schedule(mill.mail("wait"))[0],
        ]
        eventually(lambda: len(mill.started) == 3)
        for request, named in (
            (mill.alone(), "'alone'"),
            (mill.each("x"), "'x'"),
            (mill.mail("done"), "'mail'"),
        ):
            codes, text = why(k, k.jobs.schedule(request)[0])
            assert codes[0] == "concurrency"
            assert named in text
        codes, text = why(k, k.jobs.schedule(mill.each("y"))[0])
        assert codes == ("worker_busy",)
        for job in first:
            codes, text = why(k, job)
            assert codes == ("running",)
            assert "attempt 1" in text
        mill.go.set()
        idle(k)


def test_why_it_waits_for_its_rate(mill: Mill) -> None:
    with mill.app.open() as k:
        first, second = k.jobs.schedule(mill.seldom(), mill.seldom())
        eventually(lambda: k.jobs.get(first.id).ended_us)
        codes, text = why(k, second)
        assert codes == ("rate",)
        wait = k.jobs.why(second).reasons[0].wait
        assert wait is not None
        assert timedelta(minutes=50) < wait <= timedelta(hours=1)
        assert "59 min" in text or "1 h" in text


def test_why_it_runs_still_and_how_it_ended(mill: Mill) -> None:
    with mill.app.open() as k:
        (job,) = k.jobs.schedule(mill.mail("wait"))
        eventually(lambda: k.jobs.get(job.id).total)
        assert "0 of 3 done" in why(k, job)[1]
        k.jobs.cancel(job.id)
        codes, text = why(k, job)
        assert codes == ("running", "stopping")
        assert "will be cancelled" in text
        mill.go.set()
        idle(k)
        assert why(k, job)[0] == ("ended",)
        (bad,) = k.jobs.schedule(mill.mail("discard"))
        idle(k)
        codes, text = why(k, bad)
        assert codes == ("ended",)
        assert "of no use" in text
        with pytest.raises(NotFound):
            k.jobs.why(999)


# --- other faces --------------------------------------------------------------------------------------


def test_the_same_from_asyncio(mill: Mill) -> None:
    async def ask(k: klerk.Klerk) -> None:
        jobs = k.aio.jobs
        (job,) = await jobs.schedule(mill.mail("done", None), at=FAR)
        assert await jobs.get(job.id) == job
        assert (await jobs.query(state="scheduled")).items == (job,)
        assert await jobs.find(kind="mail") == job
        assert await jobs.find(kind="seldom") is None
        assert await jobs.models(job) == ()
        assert (await jobs.why(job)).codes == ("time",)

    with mill.app.open() as k:
        asyncio.run(ask(k))


def test_the_command_line_shows_the_jobs_of_a_store(tmp_path: Path, mill: Mill, capsys: Any) -> None:
    with mill.app.open(tmp_path / "s") as k:
        crowd(mill, k)
        total = sum(k.jobs.counts().values())
    assert main(["jobs", str(tmp_path / "s"), "--limit", "100"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"store of 'bank': {total} jobs"
    assert any(line.startswith("mail in slow") and "1 completed" in line for line in told)
    assert any(line.startswith("train") and line.endswith("1 scheduled") for line in told)
    assert len(told[told.index("") + 2 :]) == total
    assert (
        main(["jobs", str(tmp_path / "s"), "--state", "retryable", "--kind", "mail", "--error", "nothing"])
        == 0
    )
    told = capsys.readouterr().out.splitlines()
    assert len(told[told.index("") + 2 :]) == 3
    assert "Division by NOTHING" in told[-1]
    assert main(["jobs", str(tmp_path / "s"), "--limit", "0"]) == 1
    assert "limit must be" in capsys.readouterr().err
    with mill.app.open(tmp_path / "s") as k:
        assert main(["jobs", str(tmp_path / "s")]) == 1
        assert "StoreLocked" in capsys.readouterr().err


def test_the_command_line_shows_an_empty_store(tmp_path: Path, capsys: Any) -> None:
    Bank().app.open(tmp_path / "s").close()
    assert main(["jobs", str(tmp_path / "s")]) == 0
    assert capsys.readouterr().out == "store of 'bank': 0 jobs\n"


def test_why_it_waits_for_other_jobs(mill: Mill) -> None:
    with mill.app.open() as k:
        (first,) = k.jobs.schedule(mill.mail("wait"))
        (follower,) = k.jobs.schedule(mill.train().after(first))
        _, callback = k.jobs.schedule(klerk.Batch([mill.each("x")], ended=mill.alone()))
        eventually(lambda: len(mill.started) == 2)
        codes, text = why(k, follower)
        assert codes[0] == "dependency"
        assert f"{first.id} (mail, executing)" in text
        codes, text = why(k, callback)
        assert codes == ("batch",)
        assert f"batch {callback.batch}" in text
        assert k.jobs.edit(follower.id, priority=3).state is JobState.SCHEDULED
        assert why(k, follower)[0][0] == "dependency"
        assert ids(k.jobs.query(batch=callback.batch, newest_first=True))
        # Somebody lets it run by hand.
        assert k.jobs.run_now(callback.id).state is JobState.AVAILABLE
        eventually(lambda: len(mill.started) == 3)
        mill.go.set()
        eventually(lambda: k.jobs.get(callback.id).ended_us)

"""A job that asks for jobs gets each of them once, however often it runs again, is killed, or is reopened.

Attempts fail at a place of the test's choosing; a copy of the store, made while a job runs, is what a kill of
the process at that moment leaves. The property test lets a job ask for a random list of jobs, fail at random
places, close and reopen, and compares what there is at the end with what one undisturbed run makes.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import spawning
from designs import NOON, TESTER, Clock, Spawned, eventually
from hypothesis import given, settings
from hypothesis import strategies as st

import klerk
import klerk.testing
from klerk import (
    App,
    Args,
    ArgumentError,
    Batch,
    Conflict,
    InvalidValue,
    JobCancelled,
    JobRecord,
    JobRun,
    Klerk,
    Model,
    NotFound,
    Ref,
    Unique,
    chain,
)

DAY = timedelta(days=1)
Body = Callable[[JobRun], Any]


class Member(Model):
    name: str


class Failing(Exception):
    """By which an attempt fails."""


class Club:
    """A job `plan` that does what the test says, as a plain function or a coroutine, and jobs to ask for."""

    def __init__(self, body: Body | None = None, *, soon: bool = False) -> None:
        self.body: Body = body or (lambda job: None)
        self.ran: list[Any] = []
        self.app = app = App("club")
        members = app.machine(Member)
        (active,) = members.states("active", final=("active",))

        @members.create(into=active)
        def join(a: Args, name: str) -> Member:
            return Member(name=name)

        @app.allow.command(join)
        def anybody(a: Args) -> bool:
            return True

        @app.allow.log()
        def everybody(a: Args) -> bool:
            return True

        if soon:

            @app.job(max_attempts=9, retry=lambda attempt, error: timedelta(0))
            async def plan(job: JobRun) -> None:
                await self.body(job)
        else:

            @app.job(max_attempts=9, retry=lambda attempt, error: timedelta(0))
            def plan(job: JobRun) -> None:
                self.body(job)

        @app.job()
        def mail(job: JobRun, member: Ref[Member], text: str = "hello") -> None:
            self.ran.append((member, text))

        @app.job()
        def count(job: JobRun, number: int) -> None:
            self.ran.append(number)

        @app.job(unique=Unique())
        def once(job: JobRun, number: int) -> None: ...

        self.join, self.plan, self.mail, self.count, self.once = join, plan, mail, count, once

    def kinds(self, k: Klerk) -> Counter[str]:
        """Return how many jobs of each kind there are, beside the one that asked for them."""
        found: Counter[str] = Counter()
        page = k.jobs.query(limit=100)
        while True:
            found.update(record.kind for record in page.items)
            if page.next is None:
                break
            page = k.jobs.query(limit=100, after=page.next)
        del found["plan"]
        return +found


def run(club: Club, **options: Any) -> tuple[JobRecord, Counter[str]]:
    """Run `plan` to its end; return its record, and which jobs there are then."""
    with club.app.open(**options) as k:
        (job,) = k.jobs.schedule(club.plan())
        record = k.jobs.wait(job, 20)
        k.jobs.wait_until_idle(20)
        return record, club.kinds(k)


def fail_at(job: JobRun, *attempts: int) -> None:
    if job.attempt in attempts:
        raise Failing(f"in attempt {job.attempt}")


# --- once -----------------------------------------------------------------------------------------


def test_jobs_are_created_and_run() -> None:
    made: list[JobRecord] = []

    def body(job: JobRun) -> None:
        made.extend(job.schedule(club.count(1), club.count(2), at=NOON))
        made.extend(job.schedule(club.count(3).after(DAY)))

    club = Club(body)
    with club.app.open() as k:
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
        assert [(record.kind, record.arguments) for record in made] == [("count", (n,)) for n in (1, 2, 3)]
        assert [k.jobs.wait(record, 20).state for record in made[:2]] == ["completed", "completed"]
        assert k.jobs.get(made[2]).state == "scheduled"
    assert sorted(club.ran) == [1, 2]


def test_who_asked_for_them_is_in_the_log() -> None:
    made: list[JobRecord] = []
    club = Club(lambda job: made.extend(job.schedule(club.count(1), club.count(2))))
    with club.app.open() as k:
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
        assert {record.cause for record in made} == {made[0].cause}
        (entry,) = k.log(TESTER, sequence=made[0].cause).entries
        assert (entry.actor.kind, entry.actor.id, entry.cause) == ("system", f"job plan {job.id}", job.cause)
        assert entry.jobs == tuple(record.id for record in made)
        assert [(each.event, dict(each.parameters)) for each in entry.commands] == [
            ("jobs of a job", {"jobs": [record.id for record in made]})
        ]
        assert k.log(TESTER, event="jobs of a job").entries == (entry,)
        assert {record.id for record in k.jobs.query(cause=entry.sequence).items} == set(entry.jobs)


def test_a_job_that_acts_as_somebody_else_asks_as_that_one() -> None:
    app, made = App("acting"), []

    @app.job()
    def work(job: JobRun) -> None: ...

    @app.job(run_as=klerk.User("robot"))
    def plan(job: JobRun) -> None:
        made.extend(job.schedule(work()))

    @app.allow.log()
    def everybody(a: Args) -> bool:
        return True

    with app.open() as k:
        (job,) = k.jobs.schedule(plan())
        k.jobs.wait(job, 20)
        (entry,) = k.log(TESTER, sequence=made[0].cause).entries
        assert (entry.actor.id, entry.on_behalf_of.id) == ("robot", f"job plan {job.id}")


@pytest.mark.parametrize("step", [None, "first"])
@pytest.mark.parametrize("soon", [False, True])
def test_a_later_attempt_gets_the_same_jobs(step: str | None, soon: bool) -> None:
    seen: list[tuple[JobRecord, ...]] = []

    def body(job: JobRun) -> None:
        seen.append(job.schedule(club.count(1), club.count(2), step=step))
        fail_at(job, 1, 2)

    async def body_soon(job: JobRun) -> None:
        seen.append(await job.schedule_async(club.count(1), club.count(2), step=step))
        fail_at(job, 1, 2)

    club = Club(body_soon if soon else body, soon=soon)
    record, kinds = run(club)
    assert (record.state, record.attempt) == ("completed", 3)
    assert kinds == {"count": 2}
    assert [[each.id for each in records] for records in seen] == [[2, 3]] * 3
    assert club.ran == [1, 2]


def test_a_later_attempt_sees_jobs_as_they_are_then() -> None:
    seen = []

    def body(job: JobRun) -> None:
        (record,) = job.schedule(club.count(1))
        seen.append(str(record.state))
        if job.attempt == 1:
            k.jobs.wait(record, 20)
            fail_at(job, 1)

    club = Club(body)
    with club.app.open(job_threads=2) as k:
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
    assert seen == ["available", "completed"]


def test_jobs_that_are_kept_no_longer_are_returned_as_they_were_created(tmp_path: Path) -> None:
    seen = []

    def body(job: JobRun) -> None:
        seen.append(job.schedule(club.count(1), club.count(2)))
        if job.attempt == 1:
            for record in seen[0]:
                k.jobs.wait(record, 20)
            k.jobs.prune()
            with pytest.raises(NotFound):
                k.jobs.get(seen[0][0])
            fail_at(job, 1)

    club = Club(body)
    with club.app.open(tmp_path / "store", job_retention=klerk.Retention(completed=timedelta(0))) as k:
        (job,) = k.jobs.schedule(club.plan())
        assert k.jobs.wait(job, 20).state == "completed"
    first, second = seen
    assert first == second
    assert [record.state for record in second] == ["available", "available"]


def test_batches_come_back_in_their_order() -> None:
    seen = []

    def body(job: JobRun) -> None:
        seen.append(
            job.schedule(
                club.count(1),
                Batch([club.count(2), club.count(3)], succeeded=club.count(4), failed=club.count(5)),
                *chain(club.count(6), club.count(7)),
                Batch([], ended=club.count(8)),
            )
        )
        fail_at(job, 1)

    club = Club(body)
    _, kinds = run(club)
    assert kinds == {"count": 8}
    first, second = ([(each.id, each.arguments, each.batch, each.follows) for each in made] for made in seen)
    assert first == second
    assert [arguments for _, arguments, _, _ in first] == [(n,) for n in (1, 2, 3, 4, 5, 6, 7, 8)]
    assert sorted(club.ran) == [1, 2, 3, 4, 6, 7, 8]


def test_a_job_that_stands_for_a_unique_one_comes_back_too() -> None:
    seen = []

    def body(job: JobRun) -> None:
        seen.append(job.schedule(club.once(1), club.once(2)))
        if job.attempt == 1:
            for record in seen[0]:
                k.jobs.cancel(record)
            k.jobs.prune()
        fail_at(job, 1)

    club = Club(body)
    nothing = klerk.Retention(completed=timedelta(0), cancelled=timedelta(0))
    with club.app.open(job_retention=nothing) as k:
        (held,) = k.jobs.schedule(club.once(1).after(DAY))
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
    first, second = seen
    assert [record.id for record in first] == [held.id, job.id + 1] == [record.id for record in second]
    assert [record.arguments for record in second] == [(1,), (2,)]


def test_nothing_can_be_asked_for() -> None:
    seen = []

    def body(job: JobRun) -> None:
        seen.append(job.schedule())
        seen.append(job.schedule(*[club.count(1)] * (job.attempt - 1), step="none"))
        fail_at(job, 1)

    club = Club(body)
    assert run(club)[1] == {}
    assert seen == [()] * 4


def test_following_what_was_asked_for_before() -> None:
    def body(job: JobRun) -> None:
        (first,) = job.schedule(club.count(1))
        fail_at(job, 1)
        job.schedule(club.count(2).after(first))
        fail_at(job, 2)

    club = Club(body)
    assert run(club)[1] == {"count": 2}
    assert club.ran == [1, 2]


# --- which is which -------------------------------------------------------------------------------


def test_jobs_about_models_may_come_in_another_order_and_number() -> None:
    def body(job: JobRun) -> None:
        order = {1: [0, 1, 2], 2: [2, 3, 1], 3: [3, 1, 2, 0]}[job.attempt]
        for place in order:
            job.schedule(club.mail(members[place], f"in attempt {job.attempt}"))
        fail_at(job, 1, 2)

    club, members = Club(body), []
    with club.app.open() as k:
        members.extend(k.handle(club.join(name), TESTER).id for name in "abcd")
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
        k.jobs.wait_until_idle(20)
    first, second = "in attempt 1", "in attempt 2"
    assert sorted(club.ran) == [(m, t) for m, t in zip(members, [first, first, first, second], strict=True)]


def test_the_same_job_twice_is_two() -> None:
    def body(job: JobRun) -> None:
        for _ in range(2):
            job.schedule(club.mail(member))
            job.schedule(club.count(1))
            job.schedule(club.count(1), club.count(2))
        fail_at(job, 1)

    club = Club(body)
    with club.app.open() as k:
        member = k.handle(club.join("Ada"), TESTER).id
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
        assert club.kinds(k) == {"mail": 2, "count": 6}


def others(club: Club, attempt: int) -> list[tuple[Any, ...]]:
    """Return requests that are not the same in the second attempt."""
    again = attempt > 1
    return [
        (club.count(attempt),),
        (club.count(1), club.count(1 + attempt)),
        (club.count(1), club.count(2), *[club.count(3)] * again),
        (club.count(1), *[club.once(1), club.count(2)][again:]),
        (Batch([club.count(n) for n in range(attempt)], ended=club.count(9)),),
        (Batch([club.count(1)], ended=club.count(8 + attempt)),),
    ]


@pytest.mark.parametrize("place", range(6))
def test_others_than_the_first_time_are_refused(place: int) -> None:
    errors = []

    def body(job: JobRun) -> None:
        try:
            job.schedule(*others(club, job.attempt)[place])
        except Conflict as error:
            errors.append(error)
        fail_at(job, 1)

    club = Club(body)
    _, kinds = run(club)
    assert [error.code for error in errors] == ["token_reused"]
    assert "asked for other jobs" in str(errors[0])
    assert "step=" in str(errors[0].hint)
    assert kinds == Counter(kind for kind, count in made_first(place).items() for _ in range(count))


def made_first(place: int) -> Counter[str]:
    """Return the kinds that the first attempt asks for."""
    club = Club(lambda job: job.schedule(*others(club, 1)[place]))
    return run(club)[1]


@pytest.mark.parametrize("place", range(6))
def test_a_name_stands_for_what_came_first(place: int) -> None:
    seen = []

    def body(job: JobRun) -> None:
        seen.append([each.id for each in job.schedule(*others(club, job.attempt)[place], step="a")])
        fail_at(job, 1)

    club = Club(body)
    _, kinds = run(club)
    assert kinds == made_first(place)
    assert seen[0] == seen[1]


def test_a_name_can_be_used_for_the_same_in_one_attempt_and_for_nothing_else() -> None:
    seen = []

    def body(job: JobRun) -> None:
        first, second = (job.schedule(club.count(1), step="a") for _ in range(2))
        seen.append(first[0].id == second[0].id)
        with pytest.raises(ArgumentError, match=r"stands for jobs: count, not for jobs: once"):
            job.schedule(club.once(1), step="a")
        job.handle(club.join("Ada"), step="a")
        for name in ("", "x" * 10_000, 7):
            with pytest.raises(ArgumentError, match="a step's name"):
                job.schedule(club.count(1), step=name)  # type: ignore[arg-type]
        seen.append("over")

    club = Club(body)
    assert run(club)[1] == {"count": 1}
    assert seen == [True, "over"]


def test_what_is_refused_creates_nothing_and_uses_nothing_up() -> None:
    seen: list[Any] = []

    def body(job: JobRun) -> None:
        for error, requests in [
            (ArgumentError, [club.count(1), "no request"]),
            (InvalidValue, [club.count(1), club.count("one")]),
            (NotFound, [club.count(1), club.count(9).after(999)]),
            (InvalidValue, [club.mail(Ref(12345))]),
        ]:
            with pytest.raises(error):
                job.schedule(*requests)
        with pytest.raises(ArgumentError):
            job.schedule(club.count(1).after(DAY), at=datetime.now(UTC))
        seen.append([each.id for each in job.schedule(club.count(1), club.count(2))])
        fail_at(job, 1)

    club = Club(body)
    assert run(club)[1] == {"count": 2}
    assert seen == [[2, 3]] * 2


def test_a_job_that_runs_again_from_nothing_asks_again() -> None:
    club = Club(lambda job: job.schedule(club.count(1)))
    with club.app.open() as k:
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
        k.jobs.wait(k.jobs.rerun(job), 20)
        assert club.kinds(k) == {"count": 2}


# --- when it may not ------------------------------------------------------------------------------


def test_an_attempt_that_is_over_asks_for_nothing() -> None:
    kept: list[JobRun] = []
    club = Club(kept.append)
    with club.app.open() as k:
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
        with pytest.raises(JobCancelled, match="is over"):
            kept[0].schedule(club.count(1))
        with pytest.raises(JobCancelled, match="is over"):
            asyncio.run(kept[0].schedule_async(club.count(1)))
        assert club.kinds(k) == {}


def test_an_attempt_that_ends_meanwhile_asks_for_nothing() -> None:
    """The attempt ends while what its thread asked for waits in the queue."""
    kept: list[JobRun] = []
    threads: list[Spawned] = []
    reached, go = threading.Event(), threading.Event()

    def body(job: JobRun) -> None:
        k.submit(club.join("brake"), TESTER)
        assert reached.wait(20)
        threads.append(Spawned(job.schedule, club.count(1)))
        eventually(lambda: len(k._engine.queue) > 0)
        kept.append(job)

    club = Club(body)

    @club.join.rule
    def slow(a: Args, name: str) -> bool:
        reached.set()
        return go.wait(20)

    with club.app.open() as k:
        (job,) = k.jobs.schedule(club.plan())
        eventually(lambda: kept and kept[0]._running.is_over)
        go.set()
        k.jobs.wait(job, 20)
        with pytest.raises(JobCancelled, match="is over"):
            threads[0].end()
        assert club.kinds(k) == {}


@pytest.mark.parametrize("soon", [False, True])
def test_a_job_that_was_asked_to_stop_asks_for_nothing(soon: bool) -> None:
    def body(job: JobRun) -> None:
        k.jobs.cancel(job.record)
        job.schedule(club.count(1))

    async def body_soon(job: JobRun) -> None:
        await k.aio.jobs.cancel(job.record)
        await job.schedule_async(club.count(1))

    club = Club(body_soon if soon else body, soon=soon)
    with club.app.open() as k:
        (job,) = k.jobs.schedule(club.plan())
        assert k.jobs.wait(job, 20).state == "cancelled"
        assert club.kinds(k) == {}


def test_a_reader_asks_for_nothing() -> None:
    seen = []

    def body(job: JobRun) -> None:
        with job.read(), pytest.raises(klerk.ReadLockHeld):
            job.schedule(club.count(1))
        seen.append(job.schedule(club.count(1)))

    club = Club(body)
    assert run(club)[1] == {"count": 1}
    assert len(seen) == 1


# --- across kills ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [None, "the jobs"])
def test_a_kill_after_it_was_asked_leaves_each_job_once(tmp_path: Path, step: str | None) -> None:
    """The copy is what a kill leaves: the job runs, and what it asked for is durable."""
    before, after = tmp_path / "before", tmp_path / "after"

    def body(job: JobRun) -> None:
        k.checkpoint(before)
        seen.append([each.id for each in job.schedule(club.count(1), club.count(2), step=step)])
        k.checkpoint(after)

    seen: list[list[int]] = []
    club = Club(body)
    # With one thread, none of the jobs runs before the last copy is made.
    with club.app.open(tmp_path / "store", job_threads=1) as k:
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
    for path in (before, after):
        again = Club()

        def ask_again(job: JobRun, again: Club = again) -> None:
            seen.append([each.id for each in job.schedule(again.count(1), again.count(2), step=step)])

        again.body = ask_again
        with again.app.open(path) as k:
            assert k.jobs.wait(job, 20).state == "completed"
            k.jobs.wait_until_idle(20)
            assert again.kinds(k) == {"count": 2}
        assert sorted(again.ran) == [1, 2]
    assert seen == [[2, 3]] * 3


def test_the_jobs_and_what_tells_of_them_are_in_one_write(tmp_path: Path) -> None:
    """Every moment at which a store could be copied has all of a step or nothing of it."""
    copies = tmp_path / "copies"
    copies.mkdir()
    stop = threading.Event()

    def copy_all_the_time() -> None:
        number = 0
        while not stop.is_set() and number < 12:
            k.checkpoint(copies / str(number))
            number += 1

    def body(job: JobRun) -> None:
        for number in range(40):
            job.schedule(club.count(number), club.count(number), step=str(number))

    club = Club(body)
    with club.app.open(tmp_path / "store", durability="process") as k:
        copying = Spawned(copy_all_the_time)
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
        stop.set()
        copying.end()
    for path in copies.iterdir():
        again = Club()
        again.body = lambda job, again=again: [
            job.schedule(again.count(number), again.count(number), step=str(number)) for number in range(40)
        ]
        with again.app.open(path) as k:
            if k.jobs.find(kind="plan") is None:
                continue
            k.jobs.wait(job, 20)
            assert again.kinds(k) == {"count": 80}


# --- any list, any failures -----------------------------------------------------------------------

calls = st.one_of(
    st.tuples(st.just("mail"), st.lists(st.integers(0, 2), min_size=1, max_size=1)),
    st.tuples(st.just("count"), st.lists(st.integers(0, 2), max_size=3)),
    st.tuples(st.just("batch"), st.lists(st.integers(0, 2), max_size=3)),
    st.tuples(st.just("named"), st.lists(st.integers(0, 2), max_size=3)),
)


def ask(club: Club, job: JobRun, place: int, sort: str, numbers: list[int]) -> tuple[JobRecord, ...]:
    if sort == "mail":
        return job.schedule(club.mail(Ref(club.members[numbers[0]]), f"in attempt {job.attempt}"))
    if sort == "batch":
        return job.schedule(Batch([club.count(n) for n in numbers], ended=club.count(99)))
    if sort == "named":
        # Named, they may be others each time.
        return job.schedule(*[club.count(n + job.attempt) for n in numbers], step=f"step {place}")
    return job.schedule(*[club.count(n) for n in numbers])


@settings(max_examples=25, deadline=None)
@given(asked=st.lists(calls, max_size=6), failures=st.lists(st.integers(0, 6), max_size=4), data=st.data())
def test_whatever_fails_each_job_is_there_once(
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[tuple[str, list[int]]],
    failures: list[int],
    data: st.DataObject,
) -> None:
    path, seen = tmp_path_factory.mktemp("club") / "store", {}
    left = list(failures)

    def body(club: Club) -> Body:
        def plan(job: JobRun) -> None:
            stop_at = left.pop() if left else None
            for place, (sort, numbers) in enumerate(asked):
                if place == stop_at:
                    raise Failing
                made = tuple(each.id for each in ask(club, job, place, sort, numbers))
                assert seen.setdefault(place, made) == made
            if stop_at is not None:
                raise Failing

        return plan

    def opened(members: list[Any]) -> tuple[Club, Klerk]:
        club = Club()
        club.members = members  # type: ignore[attr-defined]
        club.body = body(club)
        # It runs when the test says, one attempt at a time.
        return club, klerk.testing.open(club.app, path=path, clock=clock)

    clock = klerk.testing.VirtualClock()
    club, k = opened([])
    members = [int(k.handle(club.join(name), TESTER).id) for name in "abc"]
    club.members = members  # type: ignore[attr-defined]
    (job,) = k.jobs.schedule(club.plan())
    while k.jobs.get(job).state != "completed":
        klerk.testing.run_one(k, raises=False)
        if data.draw(st.booleans(), label="reopen"):
            k.close()
            club, k = opened(members)
    expected = sum(len(numbers) + (sort == "batch") for sort, numbers in asked)
    assert club.kinds(k).total() == expected
    assert len({job_id for made in seen.values() for job_id in made}) == expected
    k.close()


# --- elsewhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("soon", [False, True])
def test_in_a_worker_process(soon: bool) -> None:
    with spawning.app.open(job_processes=1) as k:
        plan = spawning.plan_soon if soon else spawning.plan
        (job,) = k.jobs.schedule(plan(7))
        record = k.jobs.wait(job, 60)
        assert (record.state, record.attempt) == ("completed", 2), record.error
        made = k.jobs.result(record)
        assert made == [[3, 4, 2], [3, 4, 2]]
        assert [k.jobs.wait(each, 60).arguments for each in made[0]] == [(7,), (8,), ()]
        assert k.jobs.counts()["completed"] == 4


@pytest.mark.parametrize("soon", [False, True])
@pytest.mark.parametrize("mode", ["manual", "inline", "threads"])
def test_with_klerk_testing(mode: Any, soon: bool) -> None:
    def body(job: JobRun) -> None:
        job.schedule(club.count(1), club.count(2).after(DAY))
        job.schedule(club.count(3))
        fail_at(job, 1)

    async def body_soon(job: JobRun) -> None:
        await job.schedule_async(club.count(1), club.count(2).after(DAY))
        await job.schedule_async(club.count(3))
        fail_at(job, 1)

    club = Club(body_soon if soon else body, soon=soon)
    with klerk.testing.open(club.app, jobs=mode, raises=False) as k:
        (job,) = k.jobs.schedule(club.plan())
        if mode == "manual":
            assert k.jobs.counts()["completed"] == 0
            klerk.testing.drain(k, raises=False)
        elif mode == "threads":
            k.jobs.wait(job, 20)
            k.jobs.wait_until_idle(20)
        else:
            klerk.testing.drain(k, raises=False)
        assert (k.jobs.get(job).state, k.jobs.get(job).attempt) == ("completed", 2)
        assert sorted(club.ran) == [1, 3]
        assert club.kinds(k) == {"count": 3}
        if mode != "threads":
            klerk.testing.assert_enqueued(k, club.count(2))


def test_the_cli_tells_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from klerk.__main__ import main

    club = Club(lambda job: job.schedule(club.count(1), club.count(2)))
    with club.app.open(tmp_path / "store") as k:
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
    main(["log", str(tmp_path / "store")])
    assert "jobs of a job" in (told := capsys.readouterr().out)
    assert "2 to 3" in told


def test_a_clock_of_the_test_gives_their_times() -> None:
    clock = Clock()
    made: list[JobRecord] = []
    club = Club(lambda job: made.extend(job.schedule(club.count(1).after(DAY))))
    with club.app.open(clock=clock) as k:
        (job,) = k.jobs.schedule(club.plan())
        k.jobs.wait(job, 20)
        assert made[0].run_at_us - made[0].created_us == DAY // timedelta(microseconds=1)

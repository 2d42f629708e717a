"""Actions on jobs by hand: each works in the states that it is for and in no other, never together with an
attempt's end, in a transaction that the commit log tells about, and only for those who may.

Every state is paired with every action, through `k.jobs`, and what follows is looked at before and after the
store is opened again. Races are run in loops, with workers that take and end jobs while they are acted on.
"""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, Account, Bank, Name, Spawned, eventually

import klerk
from klerk import (
    MASKED,
    Args,
    ArgumentError,
    ConfigError,
    Context,
    Denied,
    Discard,
    InvalidValue,
    JobRecord,
    JobRun,
    JobState,
    NotFound,
    ReadLockHeld,
    Ref,
    System,
    User,
    WrongState,
)
from klerk.__main__ import main
from klerk.showing.describe import describe

FAR = datetime(2100, 1, 1, tzinfo=UTC)
OPERATOR = Context(System("anyone"))
STATES = list(JobState)
ACTIONS: dict[str, Callable[[klerk.Klerk, int], JobRecord]] = {
    "cancel": lambda k, job_id: k.jobs.cancel(job_id),
    "discard": lambda k, job_id: k.jobs.discard(job_id),
    "retry": lambda k, job_id: k.jobs.retry(job_id),
    "run_now": lambda k, job_id: k.jobs.run_now(job_id),
    "edit": lambda k, job_id: k.jobs.edit(job_id, priority=7),
    "rerun": lambda k, job_id: k.jobs.rerun(job_id),
}
# What each action makes of a job in each state; nothing stands where it is refused. Without workers.
OUTCOMES: dict[str, dict[JobState, JobState]] = {
    "cancel": {
        JobState.SCHEDULED: JobState.CANCELLED,
        JobState.AVAILABLE: JobState.CANCELLED,
        JobState.RETRYABLE: JobState.CANCELLED,
        JobState.SUSPENDED: JobState.CANCELLED,
        JobState.EXECUTING: JobState.EXECUTING,
    },
    "discard": {
        JobState.SCHEDULED: JobState.DISCARDED,
        JobState.AVAILABLE: JobState.DISCARDED,
        JobState.RETRYABLE: JobState.DISCARDED,
        JobState.SUSPENDED: JobState.DISCARDED,
        JobState.EXECUTING: JobState.EXECUTING,
    },
    "retry": {
        JobState.SCHEDULED: JobState.AVAILABLE,
        JobState.RETRYABLE: JobState.AVAILABLE,
        JobState.COMPLETED: JobState.AVAILABLE,
        JobState.DISCARDED: JobState.AVAILABLE,
        JobState.CANCELLED: JobState.AVAILABLE,
    },
    "run_now": {JobState.SCHEDULED: JobState.AVAILABLE, JobState.RETRYABLE: JobState.AVAILABLE},
    "edit": {
        JobState.SCHEDULED: JobState.SCHEDULED,
        JobState.AVAILABLE: JobState.AVAILABLE,
        JobState.RETRYABLE: JobState.RETRYABLE,
        JobState.SUSPENDED: JobState.SUSPENDED,
    },
    "rerun": {
        JobState.COMPLETED: JobState.AVAILABLE,
        JobState.DISCARDED: JobState.AVAILABLE,
        JobState.CANCELLED: JobState.AVAILABLE,
    },
}


class Tone(klerk.Enum):
    KIND = "kind"
    HARSH = "harsh"


class OnlyKind(klerk.Enum):
    KIND = "kind"


class Works(Bank):
    """A bank with a job that does as it is told: what it gets is what becomes of it.

    Parameters:
        tones: of the job; jobs with another one are suspended.
    """

    def __init__(self, tones: Any = Tone) -> None:
        super().__init__()
        self.ran: list[tuple[int, str]] = []
        self.go = threading.Event()
        app, ran, kind = self.app, self.ran, tones("kind")
        app.queue("slow")

        @app.job(max_attempts=3, retry=lambda attempt, error: timedelta(days=1), key=lambda how, *_: how)
        def work(job: JobRun, how: str, tone: tones = kind, account: Ref[Account] | None = None) -> None:
            ran.append((job.id, how))
            job.log(f"ran as {how}")
            goes = how != "wait"
            while not goes:
                goes = self.go.wait(0.002)
                # Whoever asks before it may go is heard, too.
                job.check_cancelled()
            if how.startswith("ignore"):
                assert self.go.wait(20)
            if how.endswith("fail"):
                raise ZeroDivisionError(how)
            if how == "discard":
                raise Discard

        @app.job()
        async def sing(job: JobRun) -> None:
            while True:
                await asyncio.sleep(0.002)
                job.check_cancelled()

        @app.job(at_most_once=True)
        def once(job: JobRun) -> None:
            ran.append((job.id, "once"))
            assert self.go.wait(20)

        self.work, self.sing, self.once = work, sing, once
        self.enter.job(lambda a: work("done"))

    def make(self, k: klerk.Klerk, state: JobState) -> int:
        """Make a job in a state, in a Klerk with workers if it is to be more than ready."""
        if state is JobState.SUSPENDED:
            return k.jobs.find(state="suspended").id  # type: ignore[union-attr]
        how = {
            JobState.RETRYABLE: "fail",
            JobState.EXECUTING: "wait",
            JobState.DISCARDED: "discard",
        }.get(state, "done")
        at = FAR if state in (JobState.SCHEDULED, JobState.CANCELLED) else None
        (job,) = k.jobs.schedule(self.work(how), at=at)
        if state is JobState.CANCELLED:
            k.jobs.cancel(job.id)
        eventually(lambda: k.jobs.get(job.id).state is state)
        return job.id


@pytest.fixture
def works() -> Any:
    works = Works()
    yield works
    works.go.set()


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def actions(k: klerk.Klerk) -> list[dict[str, Any]]:
    """Return what the commit log tells of actions on jobs, oldest first."""
    page = k.log(OPERATOR, event="job action", newest_first=False)
    return [dict(entry.commands[0].parameters) for entry in page.entries]


# --- every action in every state ----------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_each_action_in_each_state(tmp_path: Path, state: JobState) -> None:
    """One job for each action. The Klerk that acts has no workers, unless the jobs are to run."""
    works = Works()
    with works.app.open(tmp_path / "s") as k:
        if state is JobState.SUSPENDED:
            k.jobs.schedule(*[works.work("done", Tone.HARSH) for _ in ACTIONS], at=FAR)
            works = Works(OnlyKind)
        elif state not in (JobState.AVAILABLE, JobState.EXECUTING):
            for _ in ACTIONS:
                works.make(k, state)
    threads = len(ACTIONS) if state is JobState.EXECUTING else 0
    after: dict[str, JobRecord] = {}
    with works.app.open(tmp_path / "s", job_threads=threads) as k:
        if state in (JobState.AVAILABLE, JobState.EXECUTING):
            for _ in ACTIONS:
                works.make(k, state)
        for job_id, (action, act) in enumerate(ACTIONS.items(), 1):
            assert k.jobs.get(job_id).state is state
            after[action] = _acted(k, action, act, job_id, OUTCOMES[action].get(state), state)
        works.go.set()
        if threads:
            idle(k)
            ends = [k.jobs.get(job_id).state for job_id in range(1, len(ACTIONS) + 1)]
            assert ends == [JobState.CANCELLED, JobState.DISCARDED, *[JobState.COMPLETED] * 4]
    with works.app.open(tmp_path / "s", job_threads=0) as k:
        assert sum(k.jobs.counts().values()) == len(ACTIONS)
        for action, record in after.items():
            if state is not JobState.EXECUTING:
                assert k.jobs.get(record.id) == record, action
                assert k.jobs.counts()[record.state] == [each.state for each in after.values()].count(
                    record.state
                )


def _acted(
    k: klerk.Klerk, action: str, act: Any, job_id: int, wanted: JobState | None, state: JobState
) -> JobRecord:
    """Act on a job, and return it as it is then; hold that, or the refusal, against what is to come of it."""
    known = actions(k)
    if wanted is None:
        with pytest.raises(WrongState, match=f"job {job_id} .work. (is {state}|cannot run)") as refusal:
            act(k, job_id)
        assert refusal.value.status == 409
        assert k.jobs.get(job_id).state is state, action
        assert actions(k) == known
        return k.jobs.get(job_id)
    after: JobRecord = act(k, job_id)
    assert after.state is wanted, action
    if state is not JobState.EXECUTING:
        assert k.jobs.get(job_id) == after
    changed = {"priority": 7} if action == "edit" else {}
    assert actions(k)[len(known) :] == [{"action": action, "jobs": (job_id,), "changed": changed}]
    return after


@pytest.mark.parametrize("action", ACTIONS)
def test_there_is_no_such_job(works: Works, action: str) -> None:
    with works.app.open() as k:
        with pytest.raises(NotFound, match="no job 99"):
            ACTIONS[action](k, 99)
        assert not actions(k)


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED])
def test_an_ended_job_runs_again_under_its_id(works: Works, state: JobState) -> None:
    with works.app.open() as k:
        job_id = works.make(k, state)
        first = k.jobs.get(job_id)
        works.ran.clear()
        k.jobs.rerun(job_id, {"how": "done"})
        idle(k)
        again = k.jobs.get(job_id)
        assert (again.state, again.reruns, again.attempt) == (JobState.COMPLETED, 1, 1)
        assert (again.error, again.log, again.arguments[0]) == ("", ("ran as done",), "done")
        assert (again.created_us, again.cause) == (first.created_us, first.cause)
        assert works.ran == [(job_id, "done")]
        k.jobs.retry(job_id)
        idle(k)
        assert k.jobs.get(job_id).reruns == 2
        assert k.jobs.counts()[JobState.COMPLETED] == 1


def test_retrying_gives_all_attempts_again_and_running_now_does_not(works: Works) -> None:
    with works.app.open() as k:
        job_id = works.make(k, JobState.RETRYABLE)
        k.jobs.run_now(job_id)
        eventually(lambda: k.jobs.get(job_id).attempt == 2)
        k.jobs.retry(job_id)
        eventually(lambda: k.jobs.get(job_id).attempt == 1)
        assert k.jobs.get(job_id).state is JobState.RETRYABLE
        k.jobs.run_now(job_id)
        eventually(lambda: k.jobs.get(job_id).attempt == 2)
        k.jobs.run_now(job_id)
        idle(k)
        assert k.jobs.get(job_id).state is JobState.DISCARDED
        assert len(works.ran) == 5


def test_a_cancelled_job_says_by_whom(works: Works) -> None:
    works.app.allow.jobs()(lambda a: True)
    with works.app.open() as k:
        job_id = works.make(k, JobState.RETRYABLE)
        assert k.jobs.discard(job_id, TESTER).error == (
            "discarded by user tester after: ZeroDivisionError: fail"
        )
        job_id = works.make(k, JobState.CANCELLED)
        assert k.jobs.get(job_id).error == "cancelled by system operator"


# --- jobs that run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["cancel", "discard"])
@pytest.mark.parametrize("how", ["wait", "ignore, then fail", "ignore"])
def test_a_running_job_is_asked_to_stop(works: Works, action: str, how: str) -> None:
    with works.app.open() as k:
        (job,) = k.jobs.schedule(works.work(how))
        eventually(lambda: works.ran)
        wanted = JobState.CANCELLED if action == "cancel" else JobState.DISCARDED
        asked = ACTIONS[action](k, job.id)
        # One that looks for it may have stopped by now.
        assert wanted in (asked.state, asked.stop)
        if how != "wait":
            assert (asked.state, asked.stop) == (JobState.EXECUTING, wanted)
            assert k.jobs.get(job.id).state is JobState.EXECUTING
            works.go.set()
        idle(k)
        ended = k.jobs.get(job.id)
        # What was done all the same is completed.
        assert ended.state is (JobState.COMPLETED if how == "ignore" else wanted)
        assert (ended.stop, ended.attempt, len(works.ran)) == ("", 1, 1)
        assert [each["action"] for each in actions(k)] == [action]
        assert k.jobs.counts()[ended.state] == 1


def test_a_running_coroutine_is_cancelled_from_asyncio(works: Works) -> None:
    async def ask(k: klerk.Klerk) -> None:
        (job,) = await k.aio.jobs.schedule(works.sing())
        while (await k.aio.jobs.get(job.id)).state is not JobState.EXECUTING:
            await asyncio.sleep(0.002)
        await k.aio.jobs.cancel(job.id)
        assert await k.aio.jobs.wait_until_idle(20)
        assert (await k.aio.jobs.get(job.id)).state is JobState.CANCELLED

    with works.app.open() as k:
        asyncio.run(ask(k))


def test_a_job_cancels_itself_and_another(works: Works) -> None:
    app: Any = works.app

    @app.job()  # type: ignore[untyped-decorator]
    def reaper(job: JobRun, victim: int) -> None:
        app.opened.jobs.cancel(victim)
        app.opened.jobs.cancel(job.id)
        job.check_cancelled()

    with works.app.open() as opened:
        app.opened = opened
        (victim,) = opened.jobs.schedule(works.work("done"), at=FAR)
        (job,) = opened.jobs.schedule(reaper(victim.id))
        idle(opened)
        assert opened.jobs.get(victim.id).state is JobState.CANCELLED
        assert opened.jobs.get(job.id).state is JobState.CANCELLED


def test_what_was_asked_of_a_running_job_survives_the_process(tmp_path: Path, works: Works) -> None:
    """The copy of the store is what a killed process leaves."""
    with works.app.open(tmp_path / "s") as k:
        jobs = k.jobs.schedule(works.work("ignore"), works.work("ignore"), works.work("ignore"))
        eventually(lambda: len(works.ran) == 3)
        k.jobs.cancel(jobs[0].id)
        k.jobs.discard(jobs[1].id)
        k.checkpoint(tmp_path / "copy")
        works.go.set()
    again = Works()
    again.go.set()
    with again.app.open(tmp_path / "copy") as k:
        idle(k)
        ends = [k.jobs.get(job.id) for job in jobs]
        assert [each.state for each in ends] == [JobState.CANCELLED, JobState.DISCARDED, JobState.COMPLETED]
        assert "request" in ends[0].error
        assert again.ran == [(jobs[2].id, "ignore")]
        assert not k.jobs.query(state=["available", "executing", "scheduled"]).items


def test_a_job_that_runs_at_most_once_never_starts_again(tmp_path: Path, works: Works) -> None:
    """Nobody knows what it did, although it was to be cancelled: that is what is kept."""
    with works.app.open(tmp_path / "s") as k:
        (job,) = k.jobs.schedule(works.once())
        eventually(lambda: works.ran)
        k.jobs.cancel(job.id)
        k.checkpoint(tmp_path / "copy")
        works.go.set()
    again = Works()
    with again.app.open(tmp_path / "copy") as k:
        idle(k)
        ended = k.jobs.get(job.id)
        assert (ended.state, ended.outcome_unknown, ended.stop) == (JobState.DISCARDED, True, "")
        assert not again.ran
        k.jobs.rerun(job.id)
        again.go.set()
        idle(k)
        assert k.jobs.get(job.id).state is JobState.COMPLETED
        assert again.ran == [(job.id, "once")]


def test_the_last_word_on_a_running_job_counts(works: Works) -> None:
    with works.app.open() as k:
        (job,) = k.jobs.schedule(works.work("ignore, then fail"))
        eventually(lambda: works.ran)
        k.jobs.cancel(job.id)
        assert k.jobs.discard(job.id).stop == JobState.DISCARDED
        works.go.set()
        idle(k)
        assert k.jobs.get(job.id).state is JobState.DISCARDED


# --- races --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["cancel", "discard", "edit"])
def test_a_job_is_taken_by_a_worker_or_by_an_action(works: Works, action: str) -> None:
    """Workers and an acting thread grasp at the same jobs: what was cancelled while it waited never runs."""
    with works.app.open(job_threads=3) as k:
        for _ in range(40):
            jobs = k.jobs.schedule(*[works.work("done") for _ in range(8)])
            came: dict[int, JobState | None] = {}
            for job in reversed(jobs):
                try:
                    came[job.id] = ACTIONS[action](k, job.id).state
                except WrongState:
                    came[job.id] = None
            idle(k)
            ran = [job_id for job_id, _ in works.ran]
            for job_id, state in came.items():
                ended = k.jobs.get(job_id)
                if state in (JobState.CANCELLED, JobState.DISCARDED):
                    # It waited; or it ran when it was asked, and its end was published by now.
                    assert ended.state is state
                    assert ran.count(job_id) == ended.attempt
                else:
                    assert ended.state is JobState.COMPLETED
                    assert ran.count(job_id) == 1
        counts = k.jobs.counts()
        assert sum(counts.values()) == 40 * 8
        assert counts[JobState.AVAILABLE] == counts[JobState.EXECUTING] == 0


def test_ends_of_attempts_and_cancellations_do_not_overtake_each_other(works: Works) -> None:
    """Jobs fail by themselves at the moment at which they are cancelled: they end once, as cancelled."""
    with works.app.open(job_threads=3) as k:
        for _ in range(60):
            jobs = k.jobs.schedule(*[works.work("fail") for _ in range(4)])
            threads = [Spawned(k.jobs.cancel, job.id) for job in jobs]
            for thread in threads:
                thread.end()
            idle(k)
            for job in jobs:
                ended = k.jobs.get(job.id)
                assert ended.state is JobState.CANCELLED
                assert [job_id for job_id, _ in works.ran].count(job.id) == ended.attempt <= 1
        assert k.jobs.counts()[JobState.CANCELLED] == 240
        logged = [job_id for each in _all_actions(k) for job_id in each["jobs"]]
        assert sorted(logged) == list(range(1, 241))


def _all_actions(k: klerk.Klerk) -> list[dict[str, Any]]:
    found, after = [], None
    while True:
        page = k.log(OPERATOR, event="job action", limit=100, after=after)
        found += [dict(entry.commands[0].parameters) for entry in page.entries]
        after = page.next
        if after is None:
            return found


def test_two_actions_on_a_job_come_one_after_the_other(works: Works) -> None:
    with works.app.open(job_threads=0) as k:
        for _ in range(20):
            (job,) = k.jobs.schedule(works.work("done"))
            threads = [Spawned(_state_or_refusal, k.jobs.cancel, job.id) for _ in range(3)]
            assert sorted(thread.end() for thread in threads) == ["cancelled", "refused", "refused"]
        assert k.jobs.counts()[JobState.CANCELLED] == 20


def _state_or_refusal(cancel: Callable[[int], JobRecord], job_id: int) -> str:
    try:
        return cancel(job_id).state
    except WrongState:
        return "refused"


def test_a_refused_action_gives_the_job_back(works: Works) -> None:
    """The arguments are checked in the transaction, when the job is claimed already."""
    with works.app.open(job_threads=1) as k:
        k.jobs.schedule(works.work("ignore"))
        eventually(lambda: works.ran)
        waiting = k.jobs.schedule(*[works.work("done") for _ in range(5)])
        for job in waiting:
            with pytest.raises(InvalidValue):
                k.jobs.edit(job.id, arguments={"account": 99})
        assert not actions(k)
        works.go.set()
        idle(k)
        assert k.jobs.counts()[JobState.COMPLETED] == 6


def test_an_action_inside_a_read_is_refused_and_changes_nothing(works: Works) -> None:
    with works.app.open(job_threads=1) as k:
        k.jobs.schedule(works.work("ignore"))
        eventually(lambda: works.ran)
        (job,) = k.jobs.schedule(works.work("done"))
        with k.read(TESTER):
            for job_id in (1, job.id):
                with pytest.raises(ReadLockHeld):
                    k.jobs.cancel(job_id)
        assert k.jobs.get(1).stop == ""
        works.go.set()
        idle(k)
        assert k.jobs.counts()[JobState.COMPLETED] == 2


# --- editing ------------------------------------------------------------------------------------------


def test_what_can_be_edited(works: Works) -> None:
    with works.app.open() as k:
        ada = k.handle(works.enter(Name("Ada")), TESTER).id
        (job,) = k.jobs.schedule(works.work("done"), at=FAR)
        moment = datetime(2099, 1, 1, 12, tzinfo=UTC)
        edited = k.jobs.edit(
            job.id,
            arguments=works.work("fail", account=ada),
            priority=-5,
            queue="slow",
            run_at=moment,
            max_attempts=1,
        )
        assert edited.arguments == ("fail", Tone.KIND, ada)
        assert (edited.priority, edited.queue, edited.run_at, edited.attempts_max) == (-5, "slow", moment, 1)
        assert (edited.key, edited.state) == ("fail", JobState.SCHEDULED)
        assert k.jobs.counts(queue="slow")[JobState.SCHEDULED] == 1
        assert k.jobs.edit(job.id, arguments={"how": "done"}).arguments == ("done", Tone.KIND, ada)
        assert k.jobs.edit(job.id, run_at=datetime(2000, 1, 1, tzinfo=UTC)).run_at is not None
        idle(k)
        assert k.jobs.get(job.id).state is JobState.COMPLETED
        assert [each["changed"] for each in actions(k)] == [
            {
                "arguments": {"how": "fail", "tone": "kind", "account": ada},
                "priority": -5,
                "queue": "slow",
                "run_at": moment,
                "max_attempts": 1,
            },
            {"arguments": {"how": "done", "tone": "kind", "account": ada}},
            {"run_at": datetime(2000, 1, 1, tzinfo=UTC)},
        ]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"priority": 10_000}, ArgumentError),
        ({"priority": True}, ArgumentError),
        ({"max_attempts": 0}, ArgumentError),
        ({"queue": ""}, ArgumentError),
        ({"queue": 5}, ArgumentError),
        ({"run_at": datetime(2030, 1, 1)}, ArgumentError),  # noqa: DTZ001
        ({"run_at": timedelta(days=1)}, ArgumentError),
        ({"arguments": "done"}, ArgumentError),
        ({"arguments": {"who": "me"}}, ArgumentError),
        ({"arguments": {"how": 5}}, InvalidValue),
        ({"arguments": {"account": 77}}, InvalidValue),
    ],
)
def test_what_cannot_be_meant_changes_nothing(works: Works, change: Any, error: type[Exception]) -> None:
    with works.app.open(job_threads=0) as k:
        (job,) = k.jobs.schedule(works.work("done"))
        before = k.sequence
        with pytest.raises(error):
            k.jobs.edit(job.id, **change)
        with pytest.raises(ArgumentError, match="is a work"):
            k.jobs.edit(job.id, arguments=works.sing())
        assert k.jobs.get(job.id) == job
        assert k.sequence == before


def test_a_suspended_job_is_mended_by_new_arguments(tmp_path: Path) -> None:
    works = Works()
    with works.app.open(tmp_path / "s", job_threads=0) as k:
        k.jobs.schedule(*[works.work("done", Tone.HARSH) for _ in range(3)])
    works = Works(OnlyKind)
    with works.app.open(tmp_path / "s") as k:
        assert k.jobs.counts()[JobState.SUSPENDED] == 3
        with pytest.raises(WrongState, match="cannot run"):
            k.jobs.retry(1)
        assert k.jobs.retry_all(state="suspended") == 0
        k.jobs.edit(1, arguments={"tone": OnlyKind.KIND})
        k.jobs.edit(2, arguments=works.work("done"))
        assert k.jobs.edit(3, priority=1).state is JobState.SUSPENDED
        idle(k)
        states = [k.jobs.get(job_id).state for job_id in (1, 2, 3)]
        assert states == [JobState.COMPLETED, JobState.COMPLETED, JobState.SUSPENDED]
    # The design that it was made for runs it after all.
    works = Works()
    with works.app.open(tmp_path / "s") as k:
        if k.jobs.get(3).state is JobState.SUSPENDED:
            k.jobs.retry(3)
        idle(k)
        assert k.jobs.get(3).state is JobState.COMPLETED


# --- many at once -------------------------------------------------------------------------------------


def test_all_jobs_that_fit_a_filter(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.job_manager.by_hand.JOB_ACTION_JOBS_MAX", 10)
    with works.app.open(job_threads=0) as k:
        k.jobs.schedule(*[works.work("done") for _ in range(25)], works.sing())
        k.jobs.schedule(*[works.work("fail") for _ in range(25)], at=FAR)
        assert k.jobs.run_all_now(key="done") == 0
        assert k.jobs.cancel_all(kind=works.work, state="available") == 25
        assert k.jobs.discard_all(key="fail") == 25
        assert k.jobs.run_all_now() == 0
        assert k.jobs.retry_all(kind="sing") == 0
        counts = k.jobs.counts()
        assert counts[JobState.CANCELLED] == counts[JobState.DISCARDED] == 25
        # Cancelled ones are not what failed, unless they are named.
        assert k.jobs.retry_all() == 25
        assert k.jobs.retry_all(state=["cancelled", JobState.DISCARDED]) == 25
        assert k.jobs.cancel_all() == 51
        assert k.jobs.cancel_all() == 0
        sizes = [(each["action"], len(each["jobs"])) for each in actions(k)]
        assert sizes[:6] == [("cancel", 10), ("cancel", 10), ("cancel", 5)] + [("discard", 10)] * 2 + [
            ("discard", 5)
        ]
        assert sum(size for _, size in sizes) == 25 + 25 + 25 + 25 + 51


def test_a_job_that_fails_at_once_is_retried_once(works: Works) -> None:
    with works.app.open() as k:
        k.jobs.schedule(*[works.work("discard") for _ in range(20)])
        idle(k)
        assert k.jobs.retry_all() == 20
        idle(k)
        assert len(works.ran) == 40
        assert k.jobs.counts()[JobState.DISCARDED] == 20


def test_running_and_waiting_jobs_are_cancelled_together(works: Works) -> None:
    with works.app.open(job_threads=2) as k:
        k.jobs.schedule(*[works.work("wait") for _ in range(6)])
        eventually(lambda: len(works.ran) == 2)
        assert k.jobs.cancel_all(key="wait") == 6
        idle(k)
        assert k.jobs.counts()[JobState.CANCELLED] == 6
        assert len(works.ran) == 2


def test_bulk_from_asyncio_and_wrong_filters(works: Works) -> None:
    async def ask(k: klerk.Klerk) -> None:
        await k.aio.jobs.schedule(*[works.work("done") for _ in range(3)], at=FAR)
        assert await k.aio.jobs.run_all_now() == 3
        assert await k.aio.jobs.cancel_all(kind="work") == 3
        assert await k.aio.jobs.retry_all(state="cancelled") == 3
        assert await k.aio.jobs.discard_all() == 3
        job = await k.aio.jobs.rerun(1)
        assert (await k.aio.jobs.edit(job.id, priority=3)).priority == 3
        assert (await k.aio.jobs.discard(job.id)).state is JobState.DISCARDED
        assert (await k.aio.jobs.retry(job.id)).state is JobState.AVAILABLE
        with pytest.raises(WrongState):
            await k.aio.jobs.run_now(job.id)
        with pytest.raises(ArgumentError, match="no filter 'colour'"):
            await k.aio.jobs.cancel_all(colour="red")  # type: ignore[call-arg]
        with pytest.raises(ArgumentError, match="no state 'over'"):
            await k.aio.jobs.cancel_all(state="over")

    with works.app.open(job_threads=0) as k:
        asyncio.run(ask(k))


def test_far_jobs_are_acted_on_in_the_store(
    tmp_path: Path, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.JOBS_AT_HAND_MAX", 4)
    with works.app.open(tmp_path / "s", job_threads=0) as k:
        jobs = [k.jobs.schedule(works.work("done"), at=FAR + timedelta(days=day))[0] for day in range(30)]
        assert k.jobs.cancel(jobs[29].id).state is JobState.CANCELLED
        assert k.jobs.edit(jobs[28].id, run_at=FAR - timedelta(days=1)).state is JobState.SCHEDULED
        assert k.jobs.run_now(jobs[27].id).state is JobState.AVAILABLE
        assert k.jobs.discard_all(state="scheduled") == 28
        expected = {JobState.CANCELLED: 1, JobState.AVAILABLE: 1, JobState.DISCARDED: 28}
        assert {state: n for state, n in k.jobs.counts().items() if n} == expected
    with works.app.open(tmp_path / "s") as k:
        idle(k)
        assert {state: n for state, n in k.jobs.counts().items() if n} == {
            JobState.CANCELLED: 1,
            JobState.COMPLETED: 1,
            JobState.DISCARDED: 28,
        }


# --- who may, and what the log says -------------------------------------------------------------------


def test_who_may_do_what(works: Works) -> None:
    ada, bob = Context(User("ada")), Context(User("bob"))
    asked = []

    @works.app.allow.jobs(works.work, action="cancel")
    def ada_cancels(a: Args) -> bool:
        asked.append((a.key, a.action, a.model))
        return a.context.actor.id == "ada"

    @works.app.allow.jobs()
    def bob_does_all(a: Args) -> bool:
        return a.context.actor.id == "bob"

    @works.app.deny.jobs(works.sing)
    def nobody_stops_singing(a: Args) -> bool:
        return True

    with works.app.open(job_threads=0) as k:
        jobs = k.jobs.schedule(works.work("done"), works.work("done"), works.sing())
        assert k.jobs.cancel(1, ada).state is JobState.CANCELLED
        assert ("work", "cancel", None) in asked
        for refused in (
            lambda: k.jobs.discard(2, ada),
            lambda: k.jobs.cancel(3, ada),
            lambda: k.jobs.cancel(3, bob),
            lambda: k.jobs.cancel(99, ada),
            lambda: k.jobs.cancel_all(ada),
            lambda: k.jobs.cancel_all(bob),
            lambda: k.jobs.edit(2, priority=5, context=ada),
            lambda: k.jobs.rerun(1, None, ada),
            lambda: k.jobs.cancel(2, TESTER),
        ):
            before = k.sequence
            with pytest.raises(Denied, match="may not"):
                refused()
            assert k.sequence == before
        assert k.jobs.cancel_all(bob, kind=works.work) == 1
        assert k.jobs.cancel(jobs[2].id, OPERATOR).state is JobState.CANCELLED
        page = k.log(OPERATOR, event="job action", newest_first=False)
        assert [str(entry.actor) for entry in page.entries] == ["user ada", "user bob", "system anyone"]


def test_rules_that_can_not_be_meant(works: Works) -> None:
    wrong: Any = "work"
    with pytest.raises(ConfigError, match="not a job"):
        works.app.allow.jobs(wrong)
    with pytest.raises(ConfigError, match="The actions are cancel, discard"):
        works.app.deny.jobs(action="kill")  # type: ignore[arg-type]


def test_the_log_tells_what_was_done_and_hides_new_arguments(
    tmp_path: Path, works: Works, capsys: Any
) -> None:
    works.app.allow.log()(lambda a: True)
    with works.app.open(tmp_path / "s", job_threads=0) as k:
        (job,) = k.jobs.schedule(works.work("done"))
        k.jobs.edit(job.id, arguments={"how": "secret"}, priority=2)
        k.jobs.run_all_now()
        k.jobs.cancel(job.id)
        (edit,) = [
            entry.commands[0].parameters
            for entry in k.log(TESTER, event="job action").entries
            if entry.commands[0].parameters["action"] == "edit"
        ]
        assert edit["changed"] == {"arguments": MASKED, "priority": 2}
        (entry,) = k.log(TESTER, sequence=k.sequence).entries
        assert entry.event == "job action"
        assert (entry.sequence, entry.jobs) == (k.sequence, ())
        assert not k.log(TESTER, sequence=k.sequence + 1).entries
        assert k.log(TESTER, sequence=job.cause).entries[0].jobs == (job.id,)
        with pytest.raises(ArgumentError, match="'sequence'"):
            k.log(TESTER, sequence="1")  # type: ignore[arg-type]
    assert main(["log", str(tmp_path / "s"), "--event", "job action"]) == 0
    told = capsys.readouterr().out
    assert "system operator" in told
    assert "job action: cancel of 1" in told
    assert "job action: edit of 1 with arguments=" in told


def test_a_design_is_described_with_its_rules_about_jobs(works: Works) -> None:
    @works.app.allow.jobs(works.work, works.sing, action="retry")
    def operators(a: Args) -> bool:
        """Operators may."""
        return True

    @works.app.deny.jobs()
    def nobody(a: Args) -> bool:
        return False

    told = [" ".join(line.split()) for line in describe(works.app.freeze()).splitlines()]
    assert "work, sing retry if operators" in told
    assert "all every action not if nobody" in told
    assert "KEYS of key-values and blobs" not in told


def test_what_others_wait_for_follows_what_is_done_by_hand(works: Works) -> None:
    """A job that is cancelled takes its followers along; one that is run again ends its batch only once."""
    with works.app.open(job_threads=0) as k:
        (first,) = k.jobs.schedule(works.work("done"))
        (follower,) = k.jobs.schedule(works.work("done").after(first))
        member, callback = k.jobs.schedule(klerk.Batch([works.work("done")], ended=works.work("done")))
        k.jobs.cancel(first.id)
        eventually(lambda: k.jobs.get(follower.id).state is JobState.CANCELLED)
        k.jobs.discard(member.id)
        assert k.jobs.get(callback.id).state is JobState.AVAILABLE
        assert k.jobs.retry(member.id).batch == callback.batch
        assert k.jobs.retry(follower.id).state is JobState.AVAILABLE
        k.jobs.cancel(member.id)
        assert k.jobs.batch(callback.batch).failures == 1
        assert k.jobs.get(follower.id).state is JobState.AVAILABLE


def test_a_failed_job_that_is_retried_goes_on_and_one_that_is_rerun_begins_anew(tmp_path: Path) -> None:
    bank, spoken = Bank(), []
    app = bank.app

    @app.job(max_attempts=1)
    def speak(job: JobRun) -> None:
        job.handle(bank.deposit(Ref(1), 10))
        job.checkpoint((job.state or 0) + 1)
        spoken.append((job.idempotency_key, job.state))
        if len(spoken) < 4:
            raise RuntimeError("hoarse")

    @app.job(at_most_once=True)
    def shout(job: JobRun) -> None:
        spoken.append(("shouted", None))
        raise RuntimeError("hoarse")

    def count(k: klerk.Klerk) -> int:
        with k.read(TESTER) as r:
            balance: int = r.get(Ref[Account](1)).balance
            return balance // 10

    with app.open(tmp_path / "store") as k:
        k.handle(bank.enter("Ada"), TESTER)
        (record,) = k.jobs.schedule(speak())
        assert k.jobs.wait_until_idle(10)
        k.jobs.retry(record)
        assert k.jobs.wait_until_idle(10)
    with app.open(tmp_path / "store") as k:
        assert (count(k), k.jobs.retry_all(kind=speak)) == (1, 1)
        assert k.jobs.wait_until_idle(10)
        assert count(k) == 1
        k.jobs.rerun(record)
        assert k.jobs.wait_until_idle(10)
        keys, states = zip(*spoken, strict=True)
        assert (len(set(keys[:3])), keys[3] in keys[:3], states, count(k)) == (1, False, (1, 2, 3, 1), 2)

        (once,) = k.jobs.schedule(shout())
        assert k.jobs.wait_until_idle(10)
        assert k.jobs.retry_all(state="discarded") == 0
        with pytest.raises(WrongState, match="runs at most once"):
            k.jobs.retry(once)
        k.jobs.rerun(once)
        assert k.jobs.wait_until_idle(10)
    assert [each for each, _ in spoken].count("shouted") == 2

"""Where parts of the job manager meet: what one of them does to a job while another is about to.

A command whose rule waits holds up the one thread that processes transactions, so that several of them are
decided upon before the first is processed.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from designs import TESTER, Account, Bank, Clock, Name, eventually

import klerk
from klerk import Actor, Args, Batch, Context, Discard, JobRun, JobState, Retry, Snooze, WrongState


class Works(Bank):
    """A bank whose transactions can be held up, with jobs that do as their names tell them."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []
        self.go = threading.Event()
        self.is_held_up = threading.Event()
        self.next = threading.Event()
        self.app.queue("other")
        self._declare_jobs()
        self._declare_jobs_at_most_once()

        @self.rename.rule
        def waits(a: Args[Account], owner: str) -> bool:
            if owner == "wait":
                self.is_held_up.set()
                assert self.next.wait(20)
            return True

    def _declare_jobs(self) -> None:
        app, ran = self.app, self.ran

        @app.job()
        def work(job: JobRun, text: str) -> object:
            if text.startswith("wait"):
                assert self.go.wait(20)
            ran.append(text)
            if text.endswith("discard"):
                return Discard("no use")
            if text.endswith("again") and ran.count(text) == 1:
                return Retry(timedelta(0))
            if text.endswith("snooze") and ran.count(text) == 1:
                return Snooze(timedelta(0))
            return None

        @app.job()
        def tell(job: JobRun, text: str) -> None:
            ran.append(f"{text}: {job.record.role}, {job.record.failures} of {job.record.members}")
            if text == "again" and len(ran) == 1:
                raise Retry(timedelta(0))

        @app.job()
        def later(job: JobRun) -> None:
            ran.append(f"later {job.attempt}")
            if job.attempt == 1:
                raise Retry(timedelta(days=1))

        self.work, self.tell, self.later = work, tell, later

    def _declare_jobs_at_most_once(self) -> None:
        app, ran = self.app, self.ran

        @app.job(at_most_once=True)
        def once(job: JobRun) -> None:
            ran.append("once")

        @app.job(at_most_once=True)
        async def once_coroutine(job: JobRun) -> None:
            ran.append("once")

        self.once, self.once_coroutine = once, once_coroutine

    @contextmanager
    def held_up(self, k: klerk.Klerk) -> Iterator[None]:
        """Let no transaction be processed until the block has ended."""
        self.next.clear()
        self.is_held_up.clear()
        account = k.handle(self.enter("Ada"), TESTER).id
        submission = k.submit(self.rename(account, Name("wait")), TESTER)
        try:
            assert self.is_held_up.wait(20)
            yield
        finally:
            self.next.set()
        submission.result()


@pytest.fixture
def works() -> Iterator[Works]:
    works = Works()
    yield works
    works.go.set()
    works.next.set()


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set sooner than in a second."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def is_claimed(k: klerk.Klerk, job_id: int) -> bool:
    """Return whether an action has a job, and waits for its transaction."""
    return job_id in k._manager._claims.held and len(k._engine.queue) > 0


@pytest.mark.parametrize("text", ["wait again", "wait snooze"])
def test_an_attempt_that_ends_while_an_action_passes_its_job_over(works: Works, text: str) -> None:
    with works.app.open() as k:
        (job,) = k.jobs.schedule(works.work(text))
        eventually(lambda: k.jobs.get(job.id).state is JobState.EXECUTING)
        # As those do that act on many jobs, and find that this one is none of them.
        with k._manager._claims.of([job.id]):
            works.go.set()
            eventually(lambda: not k.jobs._running)
        idle(k)
        assert works.ran == [text, text]
        assert k.jobs.get(job.id).state is JobState.COMPLETED


def test_a_callback_that_was_let_run_by_hand_is_tried_again(works: Works) -> None:
    with works.app.open() as k:
        _, callback = k.jobs.schedule(Batch([works.work("wait")], ended=works.tell("again")))
        k.jobs.run_now(callback.id)
        eventually(lambda: k.jobs.get(callback.id).state is JobState.COMPLETED)
        assert works.ran == ["again: ended, 0 of 1"] * 2


def test_a_callback_that_was_let_run_by_hand_is_put_off(works: Works) -> None:
    clock = Clock()
    with works.app.open(clock=clock) as k:
        k.jobs.pause("default")
        _, callback = k.jobs.schedule(Batch([works.work("a")], ended=works.tell("e")))
        k.jobs.run_now(callback.id)
        for days in (2, 1):
            k.jobs.edit(callback.id, run_at=clock.now + timedelta(days=days), queue="other")
        clock.advance(timedelta(days=1))
        eventually(lambda: works.ran == ["e: ended, 0 of 1"])


def test_a_callback_that_was_let_run_by_hand_is_let_go_once(works: Works, tmp_path: Path) -> None:
    """After a restart, too, its batch does not decide on it any more."""
    with works.app.open(tmp_path / "store", job_threads=0) as k:
        member, callback = k.jobs.schedule(Batch([works.work("a")], failed=works.tell("f")))
        k.jobs.run_now(callback.id)
    with works.app.open(tmp_path / "store", job_threads=0) as k:
        k.jobs.pause("default")
    works.go.set()
    with works.app.open(tmp_path / "store") as k:
        k.jobs.edit(callback.id, queue="other")
        eventually(lambda: works.ran == ["f: failed, 0 of 1"])
        k.jobs.resume("default")
        idle(k)
        assert k.jobs.get(callback.id).state is JobState.COMPLETED
        assert k.jobs.batch(member.batch).ended
        assert tuple(k.jobs.totals().values()) == (2, 0, 0)


def test_a_follower_that_was_let_run_by_hand_is_tried_again_after_a_restart(
    works: Works, tmp_path: Path
) -> None:
    clock = Clock()
    for turn in range(2):
        with works.app.open(tmp_path / "store", clock=clock) as k:
            if turn == 0:
                k.jobs.pause("default")
                (first,) = k.jobs.schedule(works.work("a"))
                (job,) = k.jobs.schedule(works.later().options(queue="other").after(first))
                k.jobs.run_now(job.id)
                eventually(lambda: k.jobs.counts()[JobState.RETRYABLE] == 1)
                clock.advance(timedelta(days=2))
            else:
                eventually(lambda: k.jobs.counts()[JobState.COMPLETED] == 1)
    assert works.ran == ["later 1", "later 2"]


@pytest.mark.parametrize("action", ["edit", "cancel", "run_now"])
def test_a_callback_acted_on_as_its_batch_ends(works: Works, aside: ThreadPoolExecutor, action: str) -> None:
    change = {"priority": 5} if action == "edit" else {}
    with works.app.open() as k:
        _, callback = k.jobs.schedule(Batch([works.work("wait")], ended=works.tell("e")))
        with works.held_up(k):
            works.go.set()
            # The end of the member waits for its turn, and the action comes after it.
            eventually(lambda: len(k._engine.queue) == 1)
            acting = aside.submit(getattr(k.jobs, action), callback.id, **change)
            eventually(lambda: is_claimed(k, callback.id))
            eventually(lambda: len(k._engine.queue) == 2)
        with suppress(WrongState):
            # It may run, or have run, by now.
            acting.result(20)
        idle(k)
        ended = k.jobs.get(callback.id)
        assert ended.state is JobState.COMPLETED or (action == "cancel" and ended.state is JobState.CANCELLED)
        assert ended.batch_ended_us
        assert sum(k.jobs.totals().values()) == 2


@pytest.mark.parametrize("action", ["edit", "cancel", "run_now"])
def test_a_member_acted_on_as_it_is_cancelled_with_what_it_follows(
    works: Works, aside: ThreadPoolExecutor, action: str
) -> None:
    change = {"priority": 5} if action == "edit" else {}
    with works.app.open() as k:
        (first,) = k.jobs.schedule(works.work("wait discard"))
        batch = Batch([works.work("a").after(first), works.work("wait b")], ended=works.tell("e"))
        member, *_ = k.jobs.schedule(batch)
        k._manager.relations._is_started = False
        works.go.set()
        eventually(lambda: k.jobs.get(first.id).ended_us)
        with works.held_up(k):
            k._manager.relations.start()
            eventually(lambda: len(k._engine.queue) == 1)
            acting = aside.submit(getattr(k.jobs, action), member.id, **change)
            eventually(lambda: is_claimed(k, member.id))
            eventually(lambda: len(k._engine.queue) == 2)
        with pytest.raises(WrongState, match="is cancelled"):
            acting.result(20)
        idle(k)
        assert k.jobs.get(member.id).state is JobState.CANCELLED
        assert k.jobs.totals()[JobState.CANCELLED] == 1
        assert works.ran[-1] == "e: ended, 1 of 2"


@pytest.mark.parametrize("is_resolved_later", [False, True])
def test_completions_outlive_a_context_provider_that_fails_for_a_while(
    works: Works, monkeypatch: pytest.MonkeyPatch, is_resolved_later: bool
) -> None:
    monkeypatch.setattr("klerk.limits.JOB_COMPLETIONS_RETRY_S", 0.05)
    fails = threading.Event()
    failed: list[Actor] = []

    @works.app.context_provider
    def provide(actor: Actor, now: datetime) -> Context:
        if fails.is_set() and str(actor) == "system jobs":
            failed.append(actor)
            if is_resolved_later:
                return None  # type: ignore[return-value]
            raise ZeroDivisionError
        return Context(actor, now=now)

    with works.app.open() as k:
        k.jobs.schedule(works.work("wait a"))
        fails.set()
        works.go.set()
        eventually(lambda: len(failed) > 2)
        k.jobs.schedule(works.work("b"))
        eventually(lambda: works.ran == ["wait a", "b"])
        fails.clear()
        idle(k)
        assert k.jobs.counts()[JobState.COMPLETED] == 2


@pytest.mark.parametrize("by", ["cancel", "cancel_running"])
@pytest.mark.parametrize("kind", ["once", "once_coroutine"])
def test_a_job_that_is_cancelled_before_its_start_is_durable_does_not_start(
    works: Works, aside: ThreadPoolExecutor, kind: str, by: str
) -> None:
    clock = Clock()
    with works.app.open(clock=clock) as k:
        (job,) = k.jobs.schedule(getattr(works, kind)().after(timedelta(days=1)))
        with works.held_up(k):
            clock.advance(timedelta(days=2))
            eventually(lambda: len(k._engine.queue) == 1)
            if by == "cancel":
                acting = aside.submit(k.jobs.cancel, job.id)
                eventually(lambda: len(k._engine.queue) == 2)
            else:
                acting = aside.submit(k.jobs.cancel_running, job.id)
                assert acting.result(20)
        acting.result(20)
        idle(k)
        assert k.jobs.get(job.id).state is JobState.CANCELLED
        assert works.ran == []

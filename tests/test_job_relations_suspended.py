"""Jobs that have to do with others while they are suspended: they wait still, and are cancelled all the same.

Each test stores followers, or callbacks of a batch, whose arguments the next version of the app cannot read.
What they wait for ends, or does not, while they are suspended; then they fit again, after the next start, by
an edit, or because somebody retries them. Stores are closed and opened, or copied as a killed process leaves
them.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, Clock, eventually

import klerk
from klerk import Batch, Discard, JobRun, JobState

HOUR = timedelta(hours=1)
WAITS, SUSPENDED, READY = JobState.SCHEDULED, JobState.SUSPENDED, JobState.AVAILABLE
DONE, CANCELLED, FAILED = JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set at once."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


class First:
    """An app whose job `work` does as it is told, and whose job `tell` tells."""

    def __init__(self) -> None:
        self.app = klerk.App("versions")
        self.ran: list[str] = []

        @self.app.job()
        def work(job: JobRun, text: str) -> object:
            self.ran.append(text)
            return Discard("no use") if text.startswith("discard") else None

        self.work = work
        self._declare()

    def held(self, text: str) -> Any:
        """Request work that waits until it is let go."""
        return self.work(text).after(HOUR)

    def _declare(self) -> None:
        @self.app.job()
        def tell(job: JobRun, text: str) -> None: ...

        self.tell: Any = tell

    def leave(self, path: Path, *requests: Any) -> None:
        """Leave a store with jobs, none of which has run."""
        with self.app.open(path, job_threads=0) as k:
            k.jobs.schedule(*requests)


class Second(First):
    """Its next version, which cannot bring the arguments of `tell` up to date as long as it is broken."""

    broken = True

    def _declare(self) -> None:
        def upcast(old: dict[str, Any]) -> dict[str, Any]:
            if self.broken:
                raise ValueError("it is broken")
            return old

        @self.app.job(version=2, upcast={1: upcast})
        def tell(job: JobRun, text: str) -> None:
            record = job.record
            self.ran.append(f"{text}: {record.failures} failed" if record.role else text)

        self.tell = tell

    def open(self, path: Path, **options: Any) -> klerk.Klerk:
        return self.app.open(path, job_threads=1, **options)

    def mend(self, k: klerk.Klerk, job_id: int, by: str) -> klerk.JobRecord:
        """Give a suspended job arguments that fit."""
        self.broken = False
        if by == "edit":
            return k.jobs.edit(job_id, arguments=self.tell("edited"))
        return k.jobs.retry(job_id)


@pytest.fixture
def second() -> Second:
    return Second()


def states(k: klerk.Klerk, count: int = 3) -> list[JobState]:
    return [k.jobs.get(job_id).state for job_id in range(1, count + 1)]


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def let_go(k: klerk.Klerk) -> None:
    """Let the work run that is held."""
    for record in k.jobs.live():
        if record.kind == "work" and record.run_at_us:
            k.jobs.run_now(record)
    idle(k)


# --- followers ----------------------------------------------------------------------------------------


def leave_followers(path: Path, text: str = "first", *, anyway: bool = False) -> None:
    """Leave a store with a job, one that follows it and will be suspended, and one that follows that."""
    first = First()
    work = first.held(text)
    middle = first.tell("middle").after(work, anyway=anyway)
    first.leave(path, work, middle, first.work("last").after(middle))


def test_a_follower_that_fits_again_after_a_start_waits_still(second: Second, tmp_path: Path) -> None:
    store = tmp_path / "store"
    leave_followers(store)
    with second.open(store) as k:
        idle(k)
        assert states(k) == [WAITS, SUSPENDED, WAITS]
        assert (k.jobs.waiting_for(2), k.jobs.waiting_for(3)) == ((1,), (2,))
        assert k.jobs.why(2).codes == ("suspended", "dependency")
    second.broken = False
    for _ in range(2):
        with second.open(store) as k:
            idle(k)
            assert (states(k), second.ran) == ([WAITS, WAITS, WAITS], [])
    with second.open(store) as k:
        let_go(k)
        assert second.ran == ["first", "middle", "last"]


@pytest.mark.parametrize("by", ["edit", "retry"])
def test_a_follower_that_is_mended_by_hand_waits_still(second: Second, tmp_path: Path, by: str) -> None:
    store, copy = tmp_path / "store", tmp_path / "copy"
    leave_followers(store)
    with second.open(store) as k:
        record = second.mend(k, 2, by)
        assert (record.state, record.error) == (WAITS, "")
        idle(k)
        assert (k.jobs.waiting_for(2), second.ran) == ((1,), [])
        k.checkpoint(copy)
        let_go(k)
        assert second.ran == ["first", record.arguments[0], "last"]
    second.ran.clear()
    with second.open(copy) as k:
        idle(k)
        assert (k.jobs.waiting_for(2), second.ran) == ((1,), [])
        let_go(k)
        assert second.ran == ["first", record.arguments[0], "last"]


def test_retried_twice_it_waits_no_more(second: Second, tmp_path: Path) -> None:
    """The second time it is one that waits for others, as any that is let run by hand."""
    store = tmp_path / "store"
    leave_followers(store)
    with second.open(store) as k:
        second.mend(k, 2, "retry")
        assert k.jobs.retry(2).state is READY
        idle(k)
        assert second.ran == ["middle", "last"]


@pytest.mark.parametrize("by", ["edit", "retry", "start"])
@pytest.mark.parametrize("reopened", [False, True])
def test_what_it_follows_may_end_while_it_is_suspended(
    second: Second, tmp_path: Path, by: str, reopened: bool
) -> None:
    store = tmp_path / "store"
    leave_followers(store)
    with second.open(store) as k:
        let_go(k)
        assert states(k) == [DONE, SUSPENDED, WAITS]
        if by != "start" and not reopened:
            second.mend(k, 2, by)
            idle(k)
            assert second.ran == ["first", "edited" if by == "edit" else "middle", "last"]
            return
    if by == "start":
        second.broken = False
    with second.open(store) as k:
        if by != "start":
            assert states(k) == [DONE, SUSPENDED, WAITS]
            second.mend(k, 2, by)
        idle(k)
        assert second.ran == ["first", "edited" if by == "edit" else "middle", "last"]


@pytest.mark.parametrize("copied", [False, True])
def test_it_is_cancelled_when_what_it_follows_ends_badly(
    second: Second, tmp_path: Path, copied: bool
) -> None:
    """While it is suspended, and everything that follows it in turn; also when the process dies then."""
    store, copy = tmp_path / "store", tmp_path / "copy"
    leave_followers(store, "discard")
    expected = [FAILED, CANCELLED, CANCELLED]
    with second.open(store) as k:
        if copied:
            k.jobs.discard(1)
            k.checkpoint(copy)
        else:
            let_go(k)
        eventually(lambda: states(k) == expected)
        assert k.jobs.get(2).error == "not run: job 1 (work) was discarded"
    for broken in (True, False):
        second.broken = broken
        with second.open(copy if copied else store) as k:
            eventually(lambda: states(k) == expected)
            idle(k)
    assert "middle" not in second.ran


def test_a_migration_of_the_app_in_which_it_was_never_seen_suspended(second: Second, tmp_path: Path) -> None:
    """What it follows was discarded by hand by the version that it fits, just before that one was killed."""
    first, store, copy = First(), tmp_path / "store", tmp_path / "copy"
    leave_followers(store)
    with first.app.open(store, job_threads=0) as k:
        k.jobs.discard(1)
        k.checkpoint(copy)
    with second.open(copy) as k:
        eventually(lambda: states(k) == [FAILED, CANCELLED, CANCELLED])


def test_one_that_runs_anyway_waits_too(second: Second, tmp_path: Path) -> None:
    store = tmp_path / "store"
    leave_followers(store, "discard", anyway=True)
    with second.open(store) as k:
        idle(k)
        second.mend(k, 2, "retry")
        idle(k)
        assert second.ran == []
        let_go(k)
        assert second.ran == ["discard", "middle", "last"]


def test_one_that_was_let_run_by_hand_waits_no_more(second: Second, tmp_path: Path) -> None:
    """Not even when it is suspended, or put off, before it comes to run."""
    store = tmp_path / "store"
    leave_followers(store)
    first = First()
    with first.app.open(store, job_threads=0, clock=Clock()) as k:
        assert k.jobs.run_now(2).state is READY
    with second.open(store, clock=Clock()) as k:
        assert k.jobs.waiting_for(2) == ()
        put_off = k.jobs.edit(2, arguments=second.tell("edited"), run_at=NOON.replace(hour=13))
        assert put_off.state is WAITS
    clock = Clock()
    with second.open(store, clock=clock) as k:
        assert (k.jobs.waiting_for(2), second.ran) == ((), [])
        clock.now = NOON.replace(hour=13)
        eventually(lambda: second.ran == ["edited"])


# --- callbacks of batches -----------------------------------------------------------------------------


def leave_batch(path: Path, *texts: str, only: str = "") -> None:
    """Leave a store with a batch and its callbacks, of the ids 1 to 3; or one of them, of the id 1."""
    first = First()
    roles = [only] if only else ["succeeded", "failed", "ended"]
    callbacks: Any = {role: first.tell(role) for role in roles}
    first.leave(path, Batch([first.held(text) for text in texts], **callbacks))


@pytest.mark.parametrize("by", ["edit", "retry", "start"])
def test_a_callback_that_fits_again_waits_still(second: Second, tmp_path: Path, by: str) -> None:
    store, copy = tmp_path / "store", tmp_path / "copy"
    leave_batch(store, "1", "discard 2", only="ended")
    with second.open(store) as k:
        idle(k)
        assert states(k, 1) == [SUSPENDED]
        assert k.jobs.why(1).codes == ("suspended", "batch")
        if by != "start":
            assert second.mend(k, 1, by).state is WAITS
    second.broken = False
    with second.open(store) as k:
        idle(k)
        assert (states(k, 1), k.jobs.waiting_for(1), second.ran) == ([WAITS], (2, 3), [])
        k.checkpoint(copy)
        let_go(k)
        told = f"{'edited' if by == 'edit' else 'ended'}: 1 failed"
        assert second.ran == ["1", "discard 2", told]
    second.ran.clear()
    with second.open(copy) as k:
        let_go(k)
        assert second.ran == ["1", "discard 2", told]


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("by", ["hand", "start"])
def test_members_that_end_while_callbacks_are_suspended_count(
    second: Second, tmp_path: Path, bad: int, by: str
) -> None:
    """The callbacks that do not apply are cancelled; the others run with the right failures once they fit."""
    store, copy = tmp_path / "store", tmp_path / "copy"
    leave_batch(store, *(["discard"] * bad + ["good"] * (3 - bad)))
    with second.open(store) as k:
        idle(k)
        assert states(k) == [SUSPENDED] * 3
        # One more after the start that recorded them as suspended.
        k.jobs.cancel(4)
        k.checkpoint(copy)
    failures = max(bad, 1)
    for path in (store, copy):
        second.ran.clear()
        second.broken = True
        with second.open(path) as k:
            let_go(k)
            eventually(lambda k=k: states(k) == [CANCELLED, SUSPENDED, SUSPENDED])
            status = k.jobs.batch(1)
            assert (status.remaining, status.failures, status.ended) == (0, failures, True)
            assert k.jobs.waiting_for(2) == ()
            if by == "hand":
                assert second.mend(k, 2, "retry").state is READY
                second.mend(k, 3, "retry")
                idle(k)
        second.broken = False
        with second.open(path) as k:
            idle(k)
            assert states(k) == [CANCELLED, DONE, DONE]
        assert second.ran[-2:] == [f"failed: {failures} failed", f"ended: {failures} failed"]


def test_a_batch_that_goes_well_while_callbacks_are_suspended(second: Second, tmp_path: Path) -> None:
    store = tmp_path / "store"
    leave_batch(store, "1", "2")
    with second.open(store) as k:
        let_go(k)
        assert states(k) == [SUSPENDED, CANCELLED, SUSPENDED]
        second.mend(k, 1, "edit")
        idle(k)
        assert second.ran == ["1", "2", "edited: 0 failed"]


def test_a_callback_that_follows_another_job_too(second: Second, tmp_path: Path) -> None:
    """It waits for both, whichever ends first while it is suspended."""
    for place, ends_first in enumerate(("batch", "followed")):
        store = tmp_path / f"store{place}"
        first = First()
        work = first.held("followed")
        first.leave(store, work, Batch([first.held("member")], ended=first.tell("ended").after(work)))
        second.broken = True
        second.ran.clear()
        with second.open(store) as k:
            idle(k)
            assert states(k, 2) == [WAITS, SUSPENDED]
            k.jobs.run_now(3 if ends_first == "batch" else 1)
            idle(k)
            assert len(second.ran) == 1
            assert second.mend(k, 2, "retry").state is WAITS
            idle(k)
            assert len(second.ran) == 1
        with second.open(store) as k:
            idle(k)
            assert len(second.ran) == 1
            let_go(k)
            assert second.ran[2:] == ["ended: 0 failed"]


def test_a_member_that_is_suspended_has_not_ended(second: Second, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = First()
    first.leave(store, Batch([first.tell("member"), first.held("other")], ended=first.work("ended")))
    with second.open(store) as k:
        let_go(k)
        assert second.ran == ["other"]
        assert k.jobs.waiting_for(1) == (2,)
    second.broken = False
    with second.open(store) as k:
        idle(k)
        assert second.ran == ["other", "member", "ended"]


def test_a_suspended_callback_can_be_discarded(second: Second, tmp_path: Path) -> None:
    """The failures stand in the first callback that is left."""
    store = tmp_path / "store"
    leave_batch(store, "discard", "good")
    with second.open(store) as k:
        k.jobs.cancel(4)
        k.jobs.discard(1)
        assert k.jobs.batch(1).failures == 1
    second.broken = False
    with second.open(store) as k:
        let_go(k)
        assert sorted(second.ran) == ["ended: 1 failed", "failed: 1 failed", "good"]

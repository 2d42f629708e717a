"""Batches: their callbacks run once all members have ended, once, whatever happens in between.

Jobs write down what they do in a list; tests hold them up by events. Random batches are held against a model
of one line, also when the store is copied in the middle and opened again, and when the process is killed.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from designs import NOON, TESTER, Bank, Clock, eventually, run_python

import klerk
from klerk import (
    ArgumentError,
    Batch,
    BatchStatus,
    Cancel,
    Discard,
    InvalidValue,
    JobRecord,
    JobRequest,
    JobRun,
    JobState,
    Migration,
    NotFound,
    Retention,
    Unique,
    chain,
    limits,
)


class Office(Bank):
    """A bank with jobs that do as their names tell them, and callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []
        self.go = threading.Event()
        app, ran = self.app, self.ran

        @app.job()
        def work(job: JobRun, text: str) -> object:
            if text.startswith("wait"):
                assert self.go.wait(20)
            ran.append(text)
            if text.startswith("discard"):
                return Discard("no use")
            return Cancel("not wanted") if text.startswith("cancel") else None

        @app.job(priority=10)
        def tell(job: JobRun, text: str) -> None:
            ran.append(f"{text}: {job.record.role}, {job.record.failures} of {job.record.members}")

        @app.job(unique=Unique())
        def once(job: JobRun, text: str) -> None:
            assert self.go.wait(20)
            ran.append(text)

        self.work, self.tell, self.once = work, tell, once

    def batch(self, *texts: str) -> Batch:
        """Return a batch with every callback."""
        return Batch(
            [self.work(text) for text in texts],
            succeeded=self.tell("s"),
            failed=self.tell("f"),
            ended=self.tell("e"),
        )


@pytest.fixture
def office() -> Iterator[Office]:
    office = Office()
    yield office
    office.go.set()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set sooner than in a second."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def told(office: Office) -> list[str]:
    """Return what callbacks wrote down, which start in no order."""
    return sorted(text for text in office.ran if ": " in text)


# --- callbacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected", "reason"),
    [
        (["a", "b"], ["e: ended, 0 of 2", "s: succeeded, 0 of 2"], "every member of batch 1 was completed"),
        (["a", "discard"], ["e: ended, 1 of 2", "f: failed, 1 of 2"], "1 member of batch 1 failed"),
        (
            ["cancel", "a", "discard"],
            ["e: ended, 2 of 3", "f: failed, 2 of 3"],
            "2 members of batch 1 failed",
        ),
        ([], ["e: ended, 0 of 0", "s: succeeded, 0 of 0"], "every member of batch 1 was completed"),
    ],
)
def test_the_callbacks_that_apply_run(
    office: Office, texts: list[str], expected: list[str], reason: str
) -> None:
    with office.app.open() as k:
        records = k.jobs.schedule(office.batch(*texts))
        assert [record.arguments[0] for record in records] == [*texts, "s", "f", "e"]
        assert {record.batch for record in records} == {1}
        assert [record.role for record in records[-3:]] == ["succeeded", "failed", "ended"]
        idle(k)
        assert told(office) == expected
        (cancelled,) = (record for record in map(k.jobs.get, (1, 2, 3)) if record.state is JobState.CANCELLED)
        assert cancelled.error == f"not needed: {reason}"
        assert k.jobs.live() == ()
        assert k.jobs.batch(1) == BatchStatus(
            id=1, total=len(texts), remaining=0, failures=int(expected[0][10]), ended=True
        )


def test_callbacks_wait_for_the_last_member(office: Office) -> None:
    with office.app.open() as k:
        *_, callback = k.jobs.schedule(
            Batch([office.work("wait"), office.work("discard"), office.work("b")], ended=office.tell("e"))
        )
        eventually(lambda: k.jobs.batch(1).remaining == 1)
        assert k.jobs.batch(1) == BatchStatus(id=1, total=3, remaining=1, failures=1, ended=False)
        assert k.jobs.get(1).state is JobState.SCHEDULED
        assert k.jobs.waiting_for(callback.id) == (2,)
        assert sorted(office.ran) == ["b", "discard"]
        office.go.set()
        idle(k)
        assert office.ran[2:] == ["wait", "e: ended, 1 of 3"]


def test_a_command_requests_batches_beside_jobs(office: Office) -> None:
    def requested(a: klerk.Args) -> Iterator[JobRequest | Batch]:
        first = office.work("first")
        yield first
        yield Batch(chain(office.work("a").after(first), office.work("b")), succeeded=office.tell("s"))
        yield office.batch("c")

    office.enter.job(requested)
    office.active.on(office.deposit).job(lambda a: office.batch("d"))
    with office.app.open() as k:
        result = k.handle(office.enter("Ada"), TESTER)
        assert sorted(job.id for job in result.jobs) == list(range(1, 9))
        assert [(job.id, job.batch, job.follows) for job in result.jobs[:4]] == [
            (1, 0, ()),
            (3, 2, (1,)),
            (4, 2, (3,)),
            (2, 2, ()),
        ]
        assert len(k.handle(office.deposit(result.id, 1), TESTER).jobs) == 4
        idle(k)
        assert told(office) == [
            "e: ended, 0 of 1",
            "e: ended, 0 of 1",
            "s: succeeded, 0 of 1",
            "s: succeeded, 0 of 1",
            "s: succeeded, 0 of 2",
        ]


def test_a_member_that_is_cancelled_with_what_it_follows_has_failed(office: Office) -> None:
    with office.app.open() as k:
        k.jobs.schedule(Batch(chain(*map(office.work, ("a", "discard", "c", "d"))), failed=office.tell("f")))
        idle(k)
        assert office.ran == ["a", "discard", "f: failed, 3 of 4"]


def test_a_callback_may_wait_for_others_and_for_a_time_too(office: Office) -> None:
    clock = Clock()
    with office.app.open(clock=clock) as k:
        hour = timedelta(hours=1)
        (waiting,) = k.jobs.schedule(office.work("wait"))
        k.jobs.schedule(
            Batch(
                [office.work("a")],
                succeeded=office.tell("s").after(waiting, hour),
                ended=office.tell("e").after(hour),
            )
        )
        eventually(lambda: k.jobs.batch(2).ended)
        clock.advance(hour)
        eventually(lambda: told(office) == ["e: ended, 0 of 1"])
        assert k.jobs.waiting_for(2) == (1,)
        office.go.set()
        eventually(lambda: told(office) == ["e: ended, 0 of 1", "s: succeeded, 0 of 1"])


def test_a_callback_follows_one_that_ends_badly(office: Office) -> None:
    with office.app.open() as k:
        (bad,) = k.jobs.schedule(office.work("discard"))
        k.jobs.schedule(
            Batch([office.work("wait")], succeeded=office.tell("s").after(bad), ended=office.tell("e"))
        )
        eventually(lambda: k.jobs.get(2).state is JobState.CANCELLED)
        office.go.set()
        idle(k)
        assert told(office) == ["e: ended, 0 of 1"]


def test_jobs_follow_callbacks(office: Office) -> None:
    with office.app.open() as k:
        report = office.tell("e")
        *_, follower = k.jobs.schedule(
            Batch([office.work("a")], ended=report), office.work("z").after(report)
        )
        assert follower.follows == (1,)
        idle(k)
        assert office.ran == ["a", "e: ended, 0 of 1", "z"]


def test_a_callback_requests_the_next_batch(office: Office) -> None:
    enter, deposit, accounts = office.enter, office.deposit, office.accounts

    @office.app.job()
    def next_round(job: JobRun) -> klerk.Completion | None:
        with job.read() as r:
            (account,) = r.list(accounts)
        office.ran.append(f"{account.balance}")
        return job.complete_with(deposit(account.meta.id, 1)) if account.balance < 3 else None

    def work(a: klerk.Args) -> Batch:
        return Batch([office.work("a"), office.work("b")], succeeded=next_round())

    enter.job(work)
    office.active.on(deposit).job(work)
    with office.app.open() as k:
        k.handle(enter("Ada"), TESTER)
        idle(k)
        assert [text for text in office.ran if text.isdigit()] == ["0", "1", "2", "3"]
        assert len(office.ran) == 12


def test_all_members_at_a_time(office: Office) -> None:
    clock = Clock()
    with office.app.open(clock=clock) as k:
        records = k.jobs.schedule(office.batch("a", "b"), at=NOON + timedelta(hours=1))
        assert [record.run_at_us > 0 for record in records] == [True, True, False, False, False]
        idle(k)
        assert office.ran == []
        clock.advance(timedelta(hours=1))
        eventually(lambda: len(told(office)) == 2)


def test_the_asyncio_face(office: Office) -> None:
    async def main(k: klerk.Klerk) -> None:
        records = await k.aio.jobs.schedule(office.batch("a"))
        assert await k.aio.jobs.wait_until_idle(20)
        assert await k.aio.jobs.batch(records[0].batch) == k.jobs.batch(1)
        assert await k.aio.jobs.waiting_for(1) == ()
        with pytest.raises(NotFound):
            await k.aio.jobs.batch(99)

    with office.app.open() as k:
        asyncio.run(main(k))


# --- unique members -----------------------------------------------------------------------------------


def test_a_member_that_stands_for_another_job_is_none(office: Office) -> None:
    with office.app.open() as k:
        k.jobs.schedule(office.once("there"))
        once = [office.once("there"), office.once("new"), office.once("new")]
        records = k.jobs.schedule(Batch([*once, office.work("a")], ended=office.tell("e")))
        assert [(record.id, record.batch) for record in records] == [(1, 0), (3, 2), (3, 2), (4, 2), (2, 2)]
        assert k.jobs.batch(2).total == 2
        # A callback is created even if there is such a job.
        *_, callback = k.jobs.schedule(Batch([], ended=office.once("there")))
        assert callback.id == 5
        office.go.set()
        idle(k)
        assert office.ran.count("there") == 2
        assert told(office) == ["e: ended, 0 of 2"]


# --- refusals -----------------------------------------------------------------------------------------


def test_what_makes_no_batch(office: Office) -> None:
    a, e = office.work("a"), office.tell("e")
    with pytest.raises(ArgumentError, match="a batch needs a callback"):
        Batch([a])
    for wrong in (a, 5, None, [a, 5], [Batch([], ended=e)], [office.work]):
        with pytest.raises(ArgumentError, match=r"several job requests|expected a job request"):
            Batch(wrong, ended=e)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="expected a job request, got Batch"):
        Batch([a], ended=Batch([], ended=e))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="cannot run after"):
        a.after(Batch([], ended=e))  # type: ignore[arg-type]
    with office.app.open(job_threads=0) as k:
        for given in (5, None, [a], office.work):
            with pytest.raises(ArgumentError, match="expected a job request"):
                k.jobs.schedule(Batch([a], ended=e), given)  # type: ignore[arg-type]
        assert k.jobs.live() == ()


def test_a_batch_is_created_as_a_whole_or_not_at_all(office: Office) -> None:
    office.enter.job(lambda a: office.batch("a", "b"))
    with office.app.open() as k:
        for batch in (
            Batch([office.work("a"), office.work(5)], ended=office.tell("e")),  # type: ignore[arg-type]
            Batch([office.work("a")], succeeded=office.tell("s"), ended=office.tell(5)),  # type: ignore[arg-type]
        ):
            with pytest.raises(InvalidValue):
                k.jobs.schedule(batch)
        with pytest.raises(NotFound):
            k.jobs.schedule(Batch([office.work("a")], ended=office.tell("e").after(99)))
        callback = office.tell("e")
        with pytest.raises(ArgumentError, match="not requested before it"):
            k.jobs.schedule(Batch([office.work("a").after(callback)], ended=callback))
        assert len(k.check(office.enter("Ada"), TESTER).jobs) == 5
        with pytest.raises(klerk.Conflict):
            k.handle_all([office.enter("Ada"), office.enter("Ada")], TESTER)
        with pytest.raises(NotFound, match="there is no batch 1"):
            k.jobs.batch(1)
        assert sorted(job.id for job in k.handle(office.enter("Ada"), TESTER).jobs) == [1, 2, 3, 4, 5]
        idle(k)
        assert told(office) == ["e: ended, 0 of 2", "s: succeeded, 0 of 2"]


def test_the_end_of_the_last_member_is_undone_with_its_transaction(office: Office) -> None:
    @office.app.job(max_attempts=3, retry=lambda attempt, error: timedelta(0))
    def end_with(job: JobRun, owner: str) -> klerk.Completion:
        office.ran.append(owner)
        return job.complete_with(office.enter(owner if job.attempt == 3 else "Ada"))

    with office.app.open() as k:
        k.handle(office.enter("Ada"), TESTER)
        k.jobs.schedule(Batch([end_with("Bob")], succeeded=office.tell("s"), failed=office.tell("f")))
        eventually(lambda: told(office))
        idle(k)
        assert office.ran == ["Bob", "Bob", "Bob", "s: succeeded, 0 of 1"]
        assert k.jobs.batch(1).failures == 0


def test_only_a_batch_has_a_status(office: Office) -> None:
    with office.app.open() as k:
        k.jobs.schedule(office.work("a"), office.batch("b"))
        idle(k)
        assert k.jobs.batch(2).ended
        for other in (0, -1, 1, 3, 5, 99):
            with pytest.raises(NotFound, match="there is no batch"):
                k.jobs.batch(other)


# --- by hand ------------------------------------------------------------------------------------------


def test_a_member_that_is_run_again_has_counted_before(office: Office) -> None:
    with office.app.open() as k:
        k.jobs.schedule(Batch([office.work("a"), office.work("wait")], ended=office.tell("e")))
        eventually(lambda: k.jobs.batch(1).remaining == 1)
        k.jobs.rerun(2)
        eventually(lambda: office.ran == ["a", "a"])
        assert k.jobs.batch(1).remaining == 1
        office.go.set()
        idle(k)
        assert told(office) == ["e: ended, 0 of 2"]
        k.jobs.rerun(3)
        idle(k)
        assert len(told(office)) == 1
        assert k.jobs.batch(1) == BatchStatus(id=1, total=2, remaining=0, failures=0, ended=True)


def test_callbacks_that_are_cancelled_or_let_run_wait_no_more(office: Office, tmp_path: Path) -> None:
    with office.app.open(tmp_path / "store") as k:
        k.jobs.schedule(office.batch("discard", "wait", "c"))
        eventually(lambda: k.jobs.batch(1).remaining == 1)
        assert k.jobs.why(3).codes == ("batch",)
        k.jobs.cancel(1)
        k.jobs.run_now(2)
        eventually(lambda: any(text.startswith("f: failed") for text in told(office)))
        assert k.jobs.get(3).state is JobState.SCHEDULED
        assert k.jobs.batch(1).failures == 1
        office.go.set()
        eventually(lambda: "e: ended, 1 of 3" in told(office))
        assert len(told(office)) == 2


# --- results ------------------------------------------------------------------------------------------


def test_a_job_reads_the_results_of_those_it_has_to_do_with(office: Office) -> None:
    found: dict[str, Any] = {}

    @office.app.job(keep_result=timedelta(hours=1))
    def load(job: JobRun, number: int) -> int:
        return number * 10

    @office.app.job(max_attempts=1)
    def total(job: JobRun, name: str, ask: int = 0) -> None:
        found[name] = job.results(), list(job.member_results())
        if ask:
            found[name] = job.result_of(ask)

    with office.app.open() as k:
        first, second, plain = k.jobs.schedule(load(1), load(2), office.work("a"))
        idle(k)
        k.jobs.schedule(
            total("both").after(first, second, plain),
            total("one", ask=second.id).after(first, second),
            total("other", ask=second.id).after(first),
            total("none", ask=plain.id).after(plain),
        )
        members = [load(3), office.work("discard"), load(4), office.work("b")]
        records = k.jobs.schedule(Batch(members, failed=total("failed"), ended=total("ended", ask=10)))
        assert [record.id for record in records] == [10, 11, 12, 13, 8, 9]
        k.jobs.schedule(Batch([load(5)], ended=total("foreign", ask=10)))
        idle(k)
        assert found["both"] == ({1: 10, 2: 20}, [])
        assert found["failed"] == ({}, [(10, 30), (12, 40)])
        assert (found["one"], found["ended"]) == (20, 30)
        errors = {job.arguments[0]: job.error for job in map(k.jobs.get, range(1, 16)) if job.error}
        assert errors["other"].startswith("ArgumentError: job 6 (total) has nothing to do with job 2")
        assert errors["foreign"].startswith("ArgumentError: job 14 (total) has nothing to do with job 10")
        assert errors["none"].startswith("NoResult: the result of job 3 (work) was not kept")


def _at_work(k: klerk.Klerk) -> tuple[int, int]:
    counts = k.jobs.counts()
    return counts[JobState.AVAILABLE], counts[JobState.EXECUTING]


def test_what_is_needed_is_not_pruned(office: Office) -> None:
    none = timedelta(0)
    retention = Retention(completed=none, cancelled=none, discarded=none)
    with office.app.open(job_retention=retention) as k:
        alone, followed, waits = (office.work(text) for text in ("alone", "followed", "wait"))
        k.jobs.schedule(alone, followed, waits, office.work("follower").after(followed, waits))
        k.jobs.schedule(Batch([office.work("member"), office.work("wait")], ended=office.tell("e")))
        # All have ended by then but the two that wait to be told.
        eventually(lambda: _at_work(k) == (0, 2))
        assert len(office.ran) == 3
        k.jobs.prune()
        with pytest.raises(NotFound):
            k.jobs.get(1)
        assert [k.jobs.get(job_id).state for job_id in (2, 6)] == [JobState.COMPLETED] * 2
        office.go.set()
        idle(k)
        k.jobs.prune()
        assert office.ran[-1] != "member"
        assert len(office.ran) == 7
        for job_id in range(1, 8):
            with pytest.raises(NotFound):
                k.jobs.get(job_id)


# --- crashes ------------------------------------------------------------------------------------------


def test_failures_are_counted_across_restarts(office: Office, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with office.app.open(store, job_threads=1) as k:
        k.jobs.schedule(office.batch("discard", "cancel", "wait", "last"))
        eventually(lambda: k.jobs.batch(1).remaining == 2)
        k.checkpoint(tmp_path / "copy")
        office.go.set()
    office.ran.clear()
    with office.app.open(tmp_path / "copy", job_threads=0) as k:
        assert k.jobs.batch(1) == BatchStatus(id=1, total=4, remaining=2, failures=2, ended=False)
        assert k.jobs.waiting_for(1) == k.jobs.waiting_for(3) == (6, 7)
    with office.app.open(tmp_path / "copy") as k:
        idle(k)
        assert told(office) == ["e: ended, 2 of 4", "f: failed, 2 of 4"]
    with office.app.open(tmp_path / "copy") as k:
        idle(k)
        assert len(told(office)) == 2
        assert k.jobs.batch(1).failures == 2


def test_a_callback_that_was_let_go_runs_after_a_restart(office: Office, tmp_path: Path) -> None:
    clock = Clock()
    store = tmp_path / "store"
    with office.app.open(store, clock=clock) as k:
        later = office.tell("e").after(timedelta(hours=1))
        k.jobs.schedule(Batch([office.work("discard")], succeeded=office.tell("s"), ended=later))
        eventually(lambda: k.jobs.batch(1).ended)
    with office.app.open(store, clock=clock) as k:
        idle(k)
        assert told(office) == []
        clock.advance(timedelta(hours=1))
        eventually(lambda: told(office) == ["e: ended, 1 of 1"])


def test_a_batch_whose_members_a_migration_deleted_has_ended(tmp_path: Path) -> None:
    def bank(*, has_work: bool) -> tuple[Bank, list[str], Any]:
        bank, ran = Bank(), []
        work = None

        @bank.app.job()
        def tell(job: JobRun) -> None:
            ran.append(f"{job.record.role} {job.record.failures}")

        if has_work:

            @bank.app.job()
            def work(job: JobRun) -> None: ...

        else:

            @bank.app.migration(1)
            def without_work(m: Migration) -> None:
                m.delete_job("work")

        return bank, ran, lambda: Batch([work(), work()], succeeded=tell(), failed=tell())

    store = tmp_path / "store"
    before, _, batch = bank(has_work=True)
    with before.app.open(store, job_threads=0) as k:
        k.jobs.schedule(batch())
    now, ran, _ = bank(has_work=False)
    with now.app.open(store) as k:
        eventually(lambda: ran)
        idle(k)
        assert ran == ["succeeded 0"]


def model(texts: list[str]) -> list[str]:
    """Return what the callbacks of a batch tell: the model."""
    failures = sum(not text.startswith("good") for text in texts)
    of = f"{failures} of {len(texts)}"
    return [f"e: ended, {of}", f"f: failed, {of}" if failures else f"s: succeeded, {of}"]


def random_texts(random: Random) -> list[str]:
    bad = random.choice((0, 1, 5))
    hows = random.choices(("good", "discard", "cancel"), (20, bad, bad), k=random.randrange(12))
    return [f"{how} {place}" for place, how in enumerate(hows)]


def test_random_batches_in_copies_of_the_store(office: Office, tmp_path: Path, rng: Random) -> None:
    all_texts = [random_texts(rng) for _ in range(30)]
    expected = {}
    known: dict[Path, set[int]] = {}
    with office.app.open(tmp_path / "store", job_threads=2) as k:
        for texts in all_texts:
            records = k.jobs.schedule(office.batch(*texts))
            expected[records[0].batch] = model(texts)
            if len(expected) % 8 == 0:
                copy = tmp_path / f"copy{len(expected)}"
                k.checkpoint(copy)
                known[copy] = set(expected)
        idle(k)
        assert told(office) == sorted(text for each in expected.values() for text in each)
    for copy, there in known.items():
        with office.app.open(copy) as k:
            idle(k)
            assert k.jobs.live() == ()
            for batch_id, texts in expected.items():
                if batch_id not in there:
                    continue
                found = [k.jobs.get(batch_id + i) for i in range(3)]
                assert [record.state for record in found] == [
                    JobState.COMPLETED if any(text.startswith(each) for text in texts) else JobState.CANCELLED
                    for each in ("s", "f", "e")
                ]
                assert f"{found[2].failures} of {found[2].members}" in texts[0]


CRASH = """
import os, random, sys, threading, time
from test_batches import ledger_app, random_texts

path, ledger, seed, dies_after_s = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
app, batch = ledger_app(ledger)
with app.open(path) as k:
    if not k.sequence:
        numbers = random.Random(seed)
        k.jobs.schedule(*(batch(place, random_texts(numbers)) for place in range(8)))
    threading.Thread(target=lambda: (time.sleep(dies_after_s), os._exit(9)), daemon=True).start()
    k.jobs.wait_until_idle(20)
"""


def ledger_app(path: str) -> tuple[klerk.App, Any]:
    """Return an app whose callbacks write lines into a file outside of the store, and what makes a batch."""
    app = klerk.App("ledger")

    @app.job()
    def work(job: JobRun, text: str) -> object:
        time.sleep(0.003)
        if text.startswith("discard"):
            return Discard()
        return Cancel() if text.startswith("cancel") else None

    @app.job()
    def tell(job: JobRun, place: int, text: str) -> None:
        record = job.record
        with Path(path).open("a") as ledger:
            ledger.write(f"{place} {text}: {record.role}, {record.failures} of {record.members}\n")

    def batch(place: int, texts: list[str]) -> Batch:
        s, f, e = (tell(place, text) for text in "sfe")
        return Batch([work(text) for text in texts], succeeded=s, failed=f, ended=e)

    return app, batch


def test_a_killed_process_tells_of_every_batch(tmp_path: Path, rng: Random) -> None:
    script, ledger, store = tmp_path / "crash.py", tmp_path / "ledger", tmp_path / "store"
    script.write_text(CRASH)
    seed = str(rng.random())
    for _ in range(8):
        arguments = str(script), str(store), str(ledger), seed, str(rng.uniform(0.0, 0.05))
        done = run_python(*arguments, cwd=tmp_path)
        assert done.returncode in (0, 9), done.stderr
        if done.returncode == 0:
            break
    app, _ = ledger_app(str(ledger))
    with app.open(store) as k:
        idle(k)
        assert k.jobs.live() == ()
    numbers = Random(seed)
    expected = {f"{place} {text}" for place in range(8) for text in model(random_texts(numbers))}
    # A callback that a kill interrupted runs again, and tells the same.
    assert set(ledger.read_text().splitlines()) == expected


@pytest.mark.parametrize("reopened", [False, True])
def test_jobs_that_have_to_do_with_others_may_wait_for_far_times(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, reopened: bool
) -> None:
    monkeypatch.setattr("klerk.limits.JOBS_AT_HAND_MAX", 5)
    monkeypatch.setattr("klerk.limits.JOBS_PAGE", 3)
    office.go.set()
    clock, store = Clock(), tmp_path / "store"

    def far(request: JobRequest, days: int) -> JobRequest:
        return request.at(NOON + timedelta(days=days))

    def fill(k: klerk.Klerk) -> None:
        k.jobs.schedule(*(far(office.work(f"filler {i}"), 10 + i) for i in range(30)))
        k.jobs.schedule(far(office.once("unique"), 50))
        k.jobs.schedule(Batch([far(office.work("member"), 51)], ended=far(office.tell("e"), 52)))
        k.jobs.schedule(far(office.work("first"), 53), far(office.work("second").after(1), 54))
        k.jobs.schedule(*(far(office.work(f"filler {i}"), 10 + i) for i in range(30)))

    with office.app.open(store, clock=clock) as k:
        fill(k)
        if not reopened:
            check_far(office, k, clock)
            return
    with office.app.open(store, clock=clock) as k:
        check_far(office, k, clock)


def check_far(office: Office, k: klerk.Klerk, clock: Clock) -> None:
    """Check what `test_jobs_that_have_to_do_with_others_may_wait_for_far_times` scheduled."""
    (again,) = k.jobs.schedule(office.once("unique"))
    assert again.id == 31
    assert k.jobs.counts()[JobState.SCHEDULED] == 65
    assert k.jobs.batch(32).remaining == 1
    assert len(k.jobs.live()) == 65
    clock.advance(timedelta(days=49))
    eventually(lambda: len(k.jobs.live()) == 5)
    for left in (4, 3, 2, 1, 0):
        clock.advance(timedelta(days=1))
        eventually(lambda left=left: len(k.jobs.live()) == left)
    assert k.jobs.counts()[JobState.COMPLETED] == 65
    assert office.ran[60:] == [
        "unique",
        "member",
        "e: ended, 0 of 1",
        "first",
        "second",
    ]


# --- many ---------------------------------------------------------------------------------------------


def test_a_large_batch(office: Office, tmp_path: Path) -> None:
    count = 5_000
    members = [office.work("discard" if i % 100 == 0 else "") for i in range(count)]
    with office.app.open(tmp_path / "store", job_threads=0) as k:
        k.jobs.schedule(Batch(members, succeeded=office.tell("s"), failed=office.tell("f")))
        assert k.jobs.batch(1).remaining == count
        assert len(k.jobs.waiting_for(1)) == limits.JOB_WAITS_SHOWN_MAX
    with office.app.open(tmp_path / "store") as k:
        assert k.jobs.wait_until_idle(30)
        assert told(office) == [f"f: failed, {count // 100} of {count}"]


def test_no_record_lists_the_members(office: Office) -> None:
    with office.app.open(job_threads=0) as k:
        small = k.jobs.schedule(office.batch("a"))
        large = k.jobs.schedule(office.batch(*(["a"] * 1_000)))

        def size(record: JobRecord) -> int:
            return len(repr(record))

        assert max(map(size, large)) < max(map(size, small)) + 50

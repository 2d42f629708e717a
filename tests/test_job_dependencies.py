"""Jobs that follow others: each starts once all of those have ended, or is cancelled once one ended badly.

Jobs write down what they do in a list; tests hold them up by events. Random graphs are held against a model
of a few lines, also when the store is copied in the middle and opened again.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from designs import NOON, TESTER, Bank, Clock, eventually, run_python

import klerk
from klerk import (
    ArgumentError,
    Cancel,
    Discard,
    JobRecord,
    JobRequest,
    JobRun,
    JobState,
    LimitExceeded,
    NotFound,
    Snooze,
    chain,
)


class Office(Bank):
    """A bank with jobs that do as their names tell them."""

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
            if text.startswith("snooze"):
                return None if ran.count(text) > 1 else Snooze(timedelta(minutes=1))
            if text.startswith("discard"):
                return Discard("no use")
            return Cancel("not wanted") if text.startswith("cancel") else None

        @app.job(max_attempts=2, retry=lambda attempt, error: timedelta(minutes=1))
        def fail(job: JobRun, text: str) -> None:
            ran.append(text)
            raise ZeroDivisionError

        self.work, self.fail = work, fail


@pytest.fixture
def office() -> Iterator[Office]:
    office = Office()
    yield office
    office.go.set()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set sooner than in a second."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def ended(k: klerk.Klerk) -> tuple[int, int, int]:
    assert k.jobs.wait_until_idle(20)
    counts = k.jobs.counts()
    return counts[JobState.COMPLETED], counts[JobState.DISCARDED], counts[JobState.CANCELLED]


def logged(k: klerk.Klerk) -> dict[int, JobRecord]:
    """Return the newest record of every job, by its id."""
    found: dict[int, JobRecord] = {}
    with suppress(NotFound):
        for job_id in count(1):
            found[job_id] = k.jobs.get(job_id)
    return found


# --- one after the other ------------------------------------------------------------------------------


def test_a_job_starts_once_those_that_it_follows_have_ended(office: Office) -> None:
    with office.app.open() as k:
        first, second = k.jobs.schedule(office.work("wait"), office.work("2"))
        third, fourth = k.jobs.schedule(office.work("3").after(first, second.id), office.work("4"))
        assert (third.state, third.follows, third.anyway) == (JobState.SCHEDULED, (1, 2), False)
        eventually(lambda: sorted(office.ran) == ["2", "4"])
        eventually(lambda: k.jobs.waiting_for(third.id) == (first.id,))
        assert k.jobs.counts()[JobState.SCHEDULED] == 1
        office.go.set()
        assert ended(k) == (4, 0, 0)
        assert office.ran[2:] == ["wait", "3"]
        assert fourth.id == 4


def test_a_chain_requested_by_a_command(office: Office) -> None:
    office.enter.job(lambda a: chain(*(office.work(f"{i}") for i in range(20))))
    with office.app.open() as k:
        jobs = k.handle(office.enter("Ada"), TESTER).jobs
        assert [job.follows for job in jobs] == [(), *((job.id,) for job in jobs[:-1])]
        assert ended(k) == (20, 0, 0)
        assert office.ran == [f"{i}" for i in range(20)]


def test_requests_of_one_function_refer_to_each_other(office: Office) -> None:
    def graph(a: klerk.Args) -> Iterator[JobRequest]:
        load = office.work("load")
        yield load
        left, right = office.work("left").after(load), office.work("right").after(load)
        yield from (left, right)
        yield office.work("report").after(left, right, left)

    office.enter.job(graph)
    with office.app.open() as k:
        jobs = k.handle(office.enter("Ada"), TESTER).jobs
        assert [job.follows for job in jobs] == [(), (1,), (1,), (2, 3)]
        assert ended(k) == (4, 0, 0)
        assert (office.ran[0], office.ran[3]) == ("load", "report")


def test_what_ended_before_has_ended(office: Office, tmp_path: Path) -> None:
    with office.app.open(tmp_path / "store") as k:
        k.jobs.schedule(office.work("1"), office.work("discard"), office.work("cancel"))
        assert ended(k) == (1, 1, 1)
        k.jobs.schedule(office.work("4").after(1))
        assert ended(k) == (2, 1, 1)
    with office.app.open(tmp_path / "store") as k:
        k.jobs.schedule(office.work("5").after(1, 4), office.work("6").after(1, 2), office.work("7").after(3))
        k.jobs.schedule(office.work("8").after(2, 3, anyway=True))
        assert ended(k) == (4, 1, 3)
        assert [(job.id, job.state, job.error) for job in logged(k).values() if job.id in (6, 7)] == [
            (6, JobState.CANCELLED, "not run: job 2 (work) was discarded"),
            (7, JobState.CANCELLED, "not run: job 3 (work) was cancelled"),
        ]


def test_time_and_dependencies_both_hold(office: Office) -> None:
    clock = Clock()
    with office.app.open(clock=clock) as k:
        hour = timedelta(hours=1)
        k.jobs.schedule(office.work("wait"))
        soon, late = k.jobs.schedule(
            office.work("soon").after(1, hour), office.work("late").after(2 * hour, 1)
        )
        assert late.run_at_us - soon.run_at_us == 3_600_000_000
        clock.advance(hour)
        eventually(lambda: k.jobs.counts()[JobState.SCHEDULED] == 2)
        assert office.ran == []
        office.go.set()
        eventually(lambda: office.ran == ["wait", "soon"])
        assert k.jobs.wait_until_idle(20)
        assert k.jobs.waiting_for(late.id) == ()
        clock.advance(hour)
        eventually(lambda: office.ran == ["wait", "soon", "late"])


def test_a_time_for_all_that_is_scheduled_keeps_who_follows_whom(office: Office) -> None:
    clock = Clock()
    with office.app.open(clock=clock) as k:
        records = k.jobs.schedule(*chain(office.work("1"), office.work("2")), at=NOON + timedelta(hours=1))
        assert [record.follows for record in records] == [(), (1,)]
        assert len({record.run_at_us for record in records}) == 1
        clock.advance(timedelta(hours=1))
        eventually(lambda: office.ran == ["1", "2"])


# --- those that end badly -----------------------------------------------------------------------------


def test_one_that_ends_badly_cancels_what_follows_it(office: Office, tmp_path: Path) -> None:
    with office.app.open(tmp_path / "store") as k:
        bad, good = office.work("discard wait"), office.work("good")
        a, b = office.work("a").after(bad, good), office.work("b").after(good)
        c, d = office.work("c").after(a), office.work("d").after(a, bad, anyway=True)
        k.jobs.schedule(bad, good, a, b, c, d, office.work("e").after(d))
        assert ended(k) == (4, 1, 2)
        assert sorted(office.ran) == ["b", "d", "discard wait", "e", "good"]
        errors = {job.id: job.error for job in logged(k).values() if job.state is JobState.CANCELLED}
        assert errors == {
            3: "not run: job 1 (work) was discarded",
            5: "not run: job 3 (work) was cancelled",
        }
    with office.app.open(tmp_path / "store") as k:
        assert k.jobs.live() == ()
        assert ended(k) == (4, 1, 2)


def test_a_job_that_is_tried_again_has_not_ended(office: Office) -> None:
    clock = Clock()
    with office.app.open(clock=clock) as k:
        k.jobs.schedule(office.fail("fail"), office.work("snooze"))
        k.jobs.schedule(office.work("never").after(1), office.work("later").after(2))
        eventually(lambda: len(office.ran) == 2)
        assert k.jobs.wait_until_idle(20)
        assert k.jobs.waiting_for(3) == (1,)
        clock.advance(timedelta(minutes=1))
        eventually(lambda: len(k.jobs.live()) == 0)
        assert ended(k) == (2, 1, 1)
        assert "never" not in office.ran


def test_a_follower_that_waits_again_does_not_wait_for_the_others_again(office: Office) -> None:
    clock = Clock()
    with office.app.open(clock=clock) as k:
        k.jobs.schedule(*chain(office.work("1"), office.work("snooze"), office.work("3")))
        eventually(lambda: office.ran == ["1", "snooze"])
        assert k.jobs.wait_until_idle(20)
        assert k.jobs.waiting_for(2) == ()
        clock.advance(timedelta(minutes=1))
        eventually(lambda: office.ran == ["1", "snooze", "snooze", "3"])


def test_a_context_provider_that_fails_only_delays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.JOB_CASCADE_RETRY_S", 0.01)
    failures: list[str] = []
    office = Office()

    @office.app.context_provider
    def provide(actor: klerk.Actor, now: Any) -> klerk.Context:
        if actor.id == "dependencies" and len(failures) < 3:
            failures.append(actor.id)
            raise ZeroDivisionError
        return klerk.Context(actor, now=now)

    with office.app.open() as k:
        k.jobs.schedule(*chain(office.work("discard"), office.work("2"), office.work("3")))
        eventually(lambda: not k.jobs.live())
        assert ended(k) == (0, 1, 2)
        assert len(failures) == 3


# --- what cannot be followed --------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [0, -1, 2, 99, 2**70])
def test_a_job_that_there_is_not_cannot_be_followed(office: Office, unknown: int) -> None:
    with office.app.open(job_threads=0) as k:
        k.jobs.schedule(office.work("1"))
        with pytest.raises(NotFound, match=f"there is no job {unknown}, which <request for job work>"):
            k.jobs.schedule(office.work("2"), office.work("3").after(unknown))
        assert len(k.jobs.live()) == 1
        assert k.jobs.schedule(office.work("2").after(1))[0].id == 2


def test_a_request_follows_only_those_before_it(office: Office) -> None:
    missing, later = office.fail("missing"), office.work("later")
    office.enter.job(lambda a, owner: [office.work("1").after(later), later] if owner == "Ada" else [])
    office.active.on(office.deposit).job(lambda a: office.work("1").after(missing))
    with office.app.open(job_threads=0) as k:
        with pytest.raises(
            ArgumentError, match="job work> is to follow <request for job work>, which is not"
        ):
            k.handle(office.enter("Ada"), TESTER)
        bob = k.handle(office.enter("Bob"), TESTER).id
        with pytest.raises(ArgumentError, match="job work> is to follow <request for job fail>"):
            k.handle(office.deposit(bob, 1), TESTER)
        # Equal, but not the same one.
        with pytest.raises(ArgumentError):
            k.jobs.schedule(office.work("later"), office.work("2").after(office.work("later")))
        assert k.jobs.live() == ()


@pytest.mark.parametrize("what", [None, "1", 1.0, True, -timedelta(1), [1]])
def test_only_jobs_can_be_followed(office: Office, what: Any) -> None:
    with pytest.raises(ArgumentError, match="cannot run after"):
        office.work("1").after(what)


def test_a_job_follows_a_bounded_number(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.JOB_FOLLOWS_MAX", 3)
    with office.app.open(job_threads=0) as k:
        ids = [record.id for record in k.jobs.schedule(*(office.work(f"{i}") for i in range(4)))]
        k.jobs.schedule(office.work("fits").after(*ids[:3], *ids[:3]))
        with pytest.raises(LimitExceeded, match="follows 4 jobs, more than 3"):
            k.jobs.schedule(office.work("too many").after(*ids))


def test_a_chain_takes_requests_only(office: Office) -> None:
    assert chain() == ()
    with pytest.raises(ArgumentError, match="expected a job request, got Job"):
        chain(office.work("1"), office.work)  # type: ignore[arg-type]


def test_what_is_refused_or_tried_out_leaves_nothing(office: Office) -> None:
    office.enter.job(lambda a: chain(office.work("1"), office.work("2")))
    with office.app.open() as k:
        assert len(k.check(office.enter("Ada"), TESTER).jobs) == 2
        with pytest.raises(klerk.Conflict):
            k.handle_all([office.enter("Ada"), office.enter("Ada")], TESTER)
        assert [job.id for job in k.handle(office.enter("Ada"), TESTER).jobs] == [1, 2]
        assert ended(k) == (2, 0, 0)


# --- many ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["chain", "fan"])
@pytest.mark.parametrize("first", ["good", "discard"])
def test_thousands_at_once(office: Office, shape: str, first: str, tmp_path: Path) -> None:
    many = 2_000
    with office.app.open(tmp_path / "store", job_threads=0) as k:
        begin = office.work(first)
        rest = [office.work("") for _ in range(many)]
        if shape == "chain":
            k.jobs.schedule(*chain(begin, *rest))
        else:
            k.jobs.schedule(begin, *(each.after(begin) for each in rest))
        assert k.jobs.counts()[JobState.SCHEDULED] == many
    with office.app.open(tmp_path / "store") as k:
        assert ended(k) == ((many + 1, 0, 0) if first == "good" else (0, 1, many))


# --- crashes ------------------------------------------------------------------------------------------


def test_what_one_came_to_before_a_crash_decides_after_it(office: Office, tmp_path: Path) -> None:
    office.go.set()
    with office.app.open(tmp_path / "store", job_threads=0) as k:
        k.jobs.schedule(office.work("1"), office.work("discard"))
    # No worker may see that they ended: the rest of each chain is requested while they still wait.
    with office.app.open(tmp_path / "store", job_threads=0) as k:
        k.jobs.schedule(*chain(office.work("3").after(1), office.work("4"), office.work("5")))
        k.jobs.schedule(*chain(office.work("6").after(2), office.work("7"), office.work("8")))
        k.checkpoint(tmp_path / "waiting")
    for name in ("waiting", "store"):
        office.ran.clear()
        with office.app.open(tmp_path / name) as k:
            assert ended(k) == (4, 1, 3)
            assert [text for text in office.ran if text != "discard"] == ["1", "3", "4", "5"]


CRASH = """
import os, random, sys, threading, time
from test_job_dependencies import graph_of, ledger_app

path, ledger, seed, dies_after_s = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
app, work = ledger_app(ledger)
with app.open(path) as k:
    if not k.sequence:
        k.jobs.schedule(*graph_of(work, random.Random(seed), 60))
    threading.Thread(target=lambda: (time.sleep(dies_after_s), os._exit(9)), daemon=True).start()
    k.jobs.wait_until_idle(20)
"""


def graph_of(work: Any, random: Random, count: int) -> list[JobRequest]:
    """Return a random graph of jobs: their texts are their places; some end badly, some run anyway."""
    requests: list[JobRequest] = []
    for place in range(count):
        how = random.choices(("good", "discard", "cancel"), (10, 1, 1))[0]
        request = work(f"{how} {place}")
        before = random.sample(requests, min(len(requests), random.choice((0, 1, 1, 2, 3))))
        if before:
            request = request.after(*before, anyway=random.random() < 0.2)
        requests.append(request)
    return requests


def expected(requests: list[JobRequest]) -> tuple[list[JobState], set[str]]:
    """Return what becomes of each job of a graph, and the texts of those that run: the model."""
    states: dict[int, JobState] = {}
    runs: set[str] = set()
    for request in requests:
        text = str(request.values[0])
        own = {"discard": JobState.DISCARDED, "cancel": JobState.CANCELLED}
        if request.anyway or all(states[id(each)] is JobState.COMPLETED for each in request.follows):
            states[id(request)] = own.get(text.split(maxsplit=1)[0], JobState.COMPLETED)
            runs.add(text)
        else:
            states[id(request)] = JobState.CANCELLED
    return list(states.values()), runs


def check_order(requests: list[JobRequest], ran: list[str]) -> None:
    """Every job ran once, after all of those that it follows and that ran at all; those cancelled did not."""
    places = {text: place for place, text in enumerate(ran)}
    assert len(places) == len(ran)
    for request in requests:
        place = places.get(request.values[0])
        if place is not None:
            assert all(places.get(each.values[0], -1) < place for each in request.follows)


def ledger_app(path: str) -> tuple[klerk.App, Any]:
    """Return an app whose one job writes a line into a file outside of the store when it has run."""
    app = klerk.App("ledger")

    @app.job()
    def work(job: JobRun, text: str) -> object:
        with open(path, "a") as ledger:
            ledger.write(f"{text}\n")
        if text.startswith("discard"):
            return Discard()
        return Cancel() if text.startswith("cancel") else None

    return app, work


@pytest.mark.parametrize("run", range(5))
def test_random_graphs(office: Office, rng: Random, run: int) -> None:
    requests = graph_of(office.work, rng, 80)
    with office.app.open() as k:
        records = k.jobs.schedule(*requests)
        assert k.jobs.wait_until_idle(20)
        found = logged(k)
        states, runs = expected(requests)
        assert [found[record.id].state for record in records] == states
        assert set(office.ran) == runs
        check_order(requests, office.ran)
        assert not any(map(k._manager.relations.is_needed, found))


def test_random_graphs_in_copies_of_the_store(office: Office, tmp_path: Path, rng: Random) -> None:
    requests = graph_of(office.work, rng, 150)
    states, _ = expected(requests)
    copies = [tmp_path / f"copy{i}" for i in range(4)]
    with office.app.open(tmp_path / "store", job_threads=1) as k:
        records = k.jobs.schedule(*requests)
        for i, copy in enumerate(copies):
            eventually(lambda i=i: len(office.ran) > 15 * i or not k.jobs.live())
            k.checkpoint(copy)
    for copy in copies:
        with office.app.open(copy) as k:
            assert k.jobs.wait_until_idle(20)
            found = logged(k)
            assert [found[record.id].state for record in records] == states


def test_a_killed_process_loses_nothing_and_runs_none_too_early(tmp_path: Path, rng: Random) -> None:
    script, ledger, store = tmp_path / "crash.py", tmp_path / "ledger", tmp_path / "store"
    script.write_text(CRASH)
    seed, kills = str(rng.random()), 0
    for _ in range(8):
        arguments = str(script), str(store), str(ledger), seed, str(rng.uniform(0.0, 0.05))
        done = run_python(*arguments, cwd=tmp_path)
        assert done.returncode in (0, 9), done.stderr
        if done.returncode == 0:
            break
        kills += 1
    app, work = ledger_app(str(ledger))
    requests = graph_of(work, Random(seed), 60)
    states, runs = expected(requests)
    with app.open(store) as k:
        assert k.jobs.wait_until_idle(20)
        found = logged(k)
        assert [found[job_id].state for job_id in range(1, 61)] == states
    ran = ledger.read_text().splitlines()
    assert set(ran) == runs
    # A job that a kill interrupted runs again; what follows it comes after the run that was recorded.
    assert len(ran) <= len(runs) + 60 * kills
    check_order(requests, list(dict.fromkeys(ran)))

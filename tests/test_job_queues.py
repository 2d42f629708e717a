"""Queues and workers at run time: paused, resumed and scaled, durably, by somebody whom the commit log names.

Jobs start, say so, and end when they are let go (`Works` of `test_job_limits`), so a test sees what a queue
lets through.
"""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, Spawned, eventually, permit_everything
from test_job_limits import Works, advance, expect

import klerk
from klerk import ArgumentError, Context, Denied, NotFound, QueueStatus, User


@pytest.fixture
def works() -> Iterator[Works]:
    works = Works()
    works.app.queue("mail", concurrency=2, rate="100/s", weight=3)
    works.app.queue("of a customer")
    permit_everything(works.app)
    works.app.allow.log()(lambda a: True)
    yield works
    works.end()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set sooner than in a second."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def status(k: klerk.Klerk, name: str) -> QueueStatus:
    return next(each for each in k.jobs.queues() if each.name == name)


def test_queues_are_shown_as_they_are(works: Works) -> None:
    send = works.job("send", queue="mail")
    other = works.job("other", concurrency=1)
    with works.open() as k:
        assert [each.name for each in k.jobs.queues()] == ["default", "mail", "of a customer", "probes"]
        k.jobs.schedule(*(send(f"s{i}") for i in range(5)), *(other(f"o{i}") for i in range(3)))
        expect(k, works, "s0", "s1", "o0", waiting=5)
        assert status(k, "mail") == QueueStatus(
            name="mail",
            available=3,
            executing=2,
            waiting=3,
            paused=False,
            concurrency=2,
            rate="100/s",
            weight=3,
        )
        assert status(k, "default") == QueueStatus(
            name="default",
            available=2,
            executing=1,
            waiting=2,
            paused=False,
            concurrency=None,
            rate=None,
            weight=1,
        )
        works.end()
        assert k.jobs.wait_until_idle(20)
        assert {(each.available, each.executing, each.waiting) for each in k.jobs.queues()} == {(0, 0, 0)}


def test_a_paused_queue_starts_nothing_until_it_is_resumed(works: Works) -> None:
    send, other = works.job("send", queue="mail"), works.job("other")
    with works.open() as k:
        k.jobs.schedule(send("running"))
        eventually(lambda: works.started == ["running"])
        k.jobs.pause("mail")
        k.jobs.pause("mail")
        assert k.jobs.paused == ("mail",)
        k.jobs.schedule(send("paused"), other("other"))
        eventually(lambda: "other" in works.started)
        # The one that runs goes on to its end.
        works.end("running", "other")
        eventually(lambda: status(k, "mail").executing == 0)
        assert works.started == ["running", "other"]
        assert "paused" in str(k.jobs.why(2))
        k.jobs.resume("mail")
        k.jobs.resume("mail")
        eventually(lambda: works.started == ["running", "other", "paused"])
        assert k.jobs.paused == ()
        works.end()


def test_limits_of_a_queue_change_at_run_time(works: Works) -> None:
    send = works.job("send", queue="mail")
    with works.open() as k:
        k.jobs.schedule(*(send(f"{i}") for i in range(8)))
        expect(k, works, "0", "1", waiting=6)
        k.jobs.scale("mail", concurrency=4, weight=1)
        expect(k, works, "0", "1", "2", "3", waiting=4)
        k.jobs.scale("mail", concurrency=1)
        works.end("0", "1", "2")
        eventually(lambda: status(k, "mail").executing == 1)
        expect(k, works, "0", "1", "2", "3", waiting=4)
        k.jobs.scale("mail", concurrency=None, rate="2/day")
        # It goes on as full as it was, and then two a day start.
        assert (status(k, "mail").rate, status(k, "mail").weight) == ("2/day", 1)
        started = len(works.started)
        assert started < 8
        advance(k, works, timedelta(hours=12))
        eventually(lambda: len(works.started) > started)
        k.jobs.scale("mail", rate=None)
        eventually(lambda: len(works.started) == 8)
        k.jobs.scale("mail")
        assert (status(k, "mail").concurrency, status(k, "mail").rate) == (2, "100/s")
        works.end()


def test_a_faster_rate_counts_at_once(works: Works) -> None:
    """Whoever waits for a token of the old rate, hours away, does not wait for that."""
    works.app.queue("slow", rate="1/day")
    job = works.job("job", queue="slow")
    with works.open() as k:
        k.jobs.schedule(job("0"), job("1"))
        expect(k, works, "0", waiting=1)
        k.jobs.scale("slow", rate="60/min")
        advance(k, works, timedelta(seconds=1))
        eventually(lambda: works.started == ["0", "1"])
        works.end()


@pytest.mark.parametrize("crash", [False, True])
def test_what_was_set_survives(works: Works, tmp_path: Path, crash: bool) -> None:
    send = works.job("send", queue="mail")
    made = works.job("made")
    works.end()
    store = tmp_path / "store"
    with works.open(store) as k:
        k.jobs.schedule(made("x").options(queue="of a customer"))
        k.jobs.pause("mail")
        k.jobs.pause("of a customer")
        k.jobs.scale("mail", concurrency=5, rate=None)
        k.jobs.pause("default")
        k.jobs.resume("default")
        if crash:
            k.checkpoint(tmp_path / "crashed")
    store = tmp_path / "crashed" if crash else store
    for _ in range(2):
        with works.open(store) as k:
            assert k.jobs.paused == ("mail", "of a customer")
            found = status(k, "mail")
            assert (found.concurrency, found.rate, found.weight) == (5, None, 3)
            k.jobs.schedule(send("held"))
    with works.open(store) as k:
        k.jobs.scale("mail", weight=7)
        k.jobs.resume("mail")
        assert k.jobs.wait_until_idle(20)
        k.jobs.scale("mail")
    with works.open(store) as k:
        assert k.jobs.paused == ("of a customer",)
        found = status(k, "mail")
        assert (found.concurrency, found.rate, found.weight) == (2, "100/s", 3)
    assert works.started.count("held") == 2


def test_the_commit_log_names_who_did_it(works: Works, tmp_path: Path) -> None:
    works.job("send", queue="mail")
    works.app.allow.jobs()(lambda a: True)
    with works.open(tmp_path / "store") as k:
        before = k.sequence
        k.jobs.pause("mail")
        k.jobs.scale("mail", Context(User("ada")), rate="5/min")
        k.jobs.resume("mail", Context(User("bob")))
        assert k.sequence == before + 3
        entries = k.log(TESTER, event="queue action", newest_first=False).entries
        assert [(entry.actor.id, entry.commands[0].parameters) for entry in entries] == [
            ("operator", {"action": "pause", "queue": "mail", "in_force": {"paused": True}}),
            (
                "ada",
                {"action": "scale", "queue": "mail", "in_force": {"paused": True, "rate": "5/min"}},
            ),
            ("bob", {"action": "resume", "queue": "mail", "in_force": {"rate": "5/min"}}),
        ]


def test_rules_are_asked_about_an_actor(works: Works) -> None:
    """They are asked about every kind that is declared to be in the queue."""
    send, beside = works.job("send", queue="mail"), works.job("beside", queue="mail")
    works.app.allow.jobs(send, action="pause")(lambda a: True)
    with works.open() as k:
        for refused in (
            lambda: k.jobs.pause("mail", TESTER),
            lambda: k.jobs.resume("mail", TESTER),
            lambda: k.jobs.scale("mail", TESTER, weight=2),
            lambda: k.jobs.pause("probes", TESTER),
        ):
            before = k.sequence
            with pytest.raises(Denied):
                refused()
            assert k.sequence == before
        assert k.jobs.paused == ()
    assert beside.settings.queue == "mail"


@pytest.mark.parametrize("name", ["male", "", None, 5, ["mail"]])
def test_a_queue_that_there_is_not(works: Works, name: Any) -> None:
    with works.open() as k:
        before = k.sequence
        for call in (k.jobs.pause, k.jobs.resume, k.jobs.scale):
            with pytest.raises(NotFound, match="There are: mail, of a customer, probes") as caught:
                call(name)
            assert caught.value.code == "not_found"
        assert k.sequence == before


@pytest.mark.parametrize(
    "given",
    [
        {"concurrency": 0},
        {"concurrency": 100_001},
        {"concurrency": True},
        {"concurrency": "2"},
        {"rate": "often"},
        {"rate": 5},
        {"rate": "0/s"},
        {"weight": 0},
        {"weight": None},
        {"weight": 1001},
        {"concurrency": 3, "weight": 1.5},
    ],
)
def test_limits_that_cannot_be_meant(works: Works, given: Any) -> None:
    with works.open() as k:
        before, found = k.sequence, k.jobs.queues()
        with pytest.raises(ArgumentError):
            k.jobs.scale("mail", **given)
        assert (k.sequence, k.jobs.queues()) == (before, found)


def test_a_queue_is_not_set_under_the_read_lock(works: Works) -> None:
    with works.open() as k:
        with k.read(TESTER), pytest.raises(klerk.ReadLockHeld):
            k.jobs.pause("mail")
        assert k.jobs.paused == ()
    with pytest.raises(klerk.Closed):
        k.jobs.pause("mail")


def test_many_set_the_same_queue(works: Works, tmp_path: Path) -> None:
    """What is in force in the end is what the commit log says last."""
    with works.open(tmp_path / "store") as k:

        def scale(weight: int) -> None:
            for _ in range(5):
                k.jobs.scale("mail", weight=weight)
                k.jobs.pause("mail") if weight % 2 else k.jobs.resume("mail")

        for thread in [Spawned(scale, weight) for weight in range(1, 5)]:
            thread.end()
        last = k.log(TESTER, event="queue action", limit=1).entries[0].commands[0].parameters["in_force"]
        found = status(k, "mail")
        assert (found.weight, found.paused) == (last["weight"], last.get("paused", False))
    with works.open(tmp_path / "store") as k:
        assert status(k, "mail") == found


def test_queues_are_set_from_asyncio(works: Works) -> None:
    works.job("on_loop", on_loop=True, queue="mail")

    system = Context(klerk.System("tester"))

    async def main(k: klerk.Klerk) -> None:
        jobs = k.aio.jobs
        await jobs.pause("mail")
        assert jobs.paused == ("mail",)
        await jobs.scale("mail", system, concurrency=7)
        assert jobs.queues()[0].concurrency == 7
        await jobs.resume("mail")
        assert jobs.paused == ()
        jobs.scale_workers(coroutines=3)
        with pytest.raises(NotFound):
            await jobs.pause("male")

    with works.open() as k:
        asyncio.run(main(k))


# --- workers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_loop", [False, True])
def test_workers_become_more_and_fewer(works: Works, on_loop: bool) -> None:
    job = works.job("job", on_loop=on_loop)
    what = "coroutines" if on_loop else "threads"
    with works.open(threads=2) as k:
        k.jobs.scale_workers(**{what: 2})
        k.jobs.schedule(*(job(f"{i:02}") for i in range(12)))
        eventually(lambda: len(works.started) == 2)
        k.jobs.scale_workers(**{what: 5})
        eventually(lambda: len(works.started) == 5)
        # Those that run are not interrupted; of the five, one place is left.
        k.jobs.scale_workers(**{what: 1})
        works.end("00", "01", "02", "03")
        eventually(lambda: k.jobs.queues()[0].executing == 1)
        assert works.running["job"] == 1
        assert len(works.started) == 5
        works.most.clear()
        works.end()
        assert k.jobs.wait_until_idle(20)
        assert len(works.started) == 12
        assert works.most["job"] == 1
        k.jobs.scale_workers(**{what: 3})
        k.jobs.schedule(job("one"), job("more"))
        assert k.jobs.wait_until_idle(20)


@pytest.mark.parametrize("given", [0, -1, True, "2", 257])
def test_numbers_of_workers_that_cannot_be_meant(works: Works, given: Any) -> None:
    with works.open() as k, pytest.raises(ArgumentError, match="threads must be 1 to 256"):
        k.jobs.scale_workers(threads=given)


def test_workers_where_no_jobs_run(works: Works) -> None:
    with works.open(threads=0) as k, pytest.raises(ArgumentError, match="no jobs run in threads here"):
        k.jobs.scale_workers(threads=2)
    with works.open() as k, pytest.raises(ArgumentError, match="no jobs run in coroutines here"):
        k.jobs.scale_workers(threads=2, coroutines=2)

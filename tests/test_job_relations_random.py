"""Followers, batches and unique jobs in random histories, against a model of what may run when.

People create, edit, cancel, discard, retry and rerun jobs, while the app is opened again and again: in
versions that can read the stored arguments of a kind or cannot, after closing or from a copy as a killed
process leaves it. Each job looks, when it runs, at those that it waits for. In the end everything is let go,
and each job that nobody touched must have come to what the model says.
"""

import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import pytest
from designs import Clock, eventually

import klerk
from klerk import (
    App,
    Batch,
    Cancel,
    Closed,
    Conflict,
    Discard,
    JobRecord,
    JobRequest,
    JobRun,
    JobState,
    Unique,
    WrongState,
)
from klerk.jobs import FINAL_STATES

SECONDS, STEPS = 8.0, 40
HOUR = timedelta(hours=1)
COMPLETED, CANCELLED = JobState.COMPLETED, JobState.CANCELLED
BECOMES = {"ok": COMPLETED, "discard": JobState.DISCARDED, "cancel": CANCELLED}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set at once."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


class World:
    """A store, who has it open, and what the model knows of its jobs.

    Attributes:
        touched: the jobs to which people did something that decides what becomes of them, or when they run.
        again: those that had ended and were run again, so that others may have seen their first end alone.
        wrong: what the jobs found that must not be.
    """

    def __init__(self, path: Path, rng: Random) -> None:
        self.path, self.rng = path, rng
        self.clock = Clock()
        self.k: klerk.Klerk
        self.copies = 0
        self.fits, self.version = True, 0
        self.opened = threading.Event()
        self.touched: set[int] = set()
        self.again: set[int] = set()
        self.wrong: list[str] = []
        self.history: list[str] = []
        self.newest = 0

    # --- the app ----------------------------------------------------------------------------------

    def app(self) -> App:
        app, fits = App("world"), self.fits

        def upcast(old: dict[str, Any]) -> dict[str, Any]:
            if fits:
                return old
            raise ValueError("it does not fit")

        @app.job()
        def work(job: JobRun, how: str) -> object:
            return self.done(job, how)

        self.version += 1

        @app.job(version=self.version, upcast=dict.fromkeys(range(1, self.version), upcast))
        def tell(job: JobRun, how: str) -> object:
            return self.done(job, how)

        @app.job(unique=Unique(by=("text",)))
        def once(job: JobRun, text: str, how: str) -> object:
            return self.done(job, how)

        self.work, self.tell, self.once = work, tell, once
        return app

    def done(self, job: JobRun, how: str) -> object:
        """What every job does: look whether it may run, and end as it is told."""
        assert self.opened.wait(20)
        with suppress(Closed):
            self.wrong += self.too_early(self.k.jobs.get(job.id))
        if how == "discard":
            return Discard("no use")
        return Cancel("not wanted") if how == "cancel" else None

    def too_early(self, record: JobRecord) -> list[str]:
        if record.id in self.touched:
            return []
        followed = list(map(self.k.jobs.get, record.follows))
        wrong = [each for each in followed if each.state is not COMPLETED and not record.anyway]
        wrong += [each for each in (*followed, *self.members(record)) if each.state not in FINAL_STATES]
        return [
            f"{record.id} runs, and {each.id} is {each.state}" for each in wrong if each.id not in self.again
        ]

    def members(self, callback: JobRecord) -> list[JobRecord]:
        if not callback.role:
            return []
        near = range(callback.batch, callback.batch + 3 + callback.members)
        found = (self.k.jobs.get(job_id) for job_id in near if job_id <= self.newest)
        return [record for record in found if record.batch == callback.batch and not record.role]

    # --- open and closed --------------------------------------------------------------------------

    def open(self) -> None:
        self.k = self.app().open(
            self.path, clock=self.clock, job_threads=2, durability="process", close_wait=timedelta(seconds=5)
        )
        self.opened.set()

    def reopen(self) -> None:
        """Open the store again, in any version, after closing or as a killed process leaves it."""
        self.fits = self.rng.random() < 0.5
        killed = self.rng.random() < 0.5
        if killed:
            self.copies += 1
            copy = self.path.parent / f"copy{self.copies}"
            self.k.checkpoint(copy)
            self.path = copy
        self.k.close()
        self.opened.clear()
        self.history.append(f"{'killed' if killed else 'closed'}, opened {'fit' if self.fits else 'broken'}")
        self.open()

    # --- what people do ---------------------------------------------------------------------------

    def how(self) -> str:
        return self.rng.choices(("ok", "discard", "cancel"), (8, 1, 1))[0]

    def request(self, *, plain: bool = False) -> JobRequest:
        rng = self.rng
        kinds = [lambda: self.work(self.how()), lambda: self.tell(self.how())]
        if not plain:
            kinds.append(lambda: self.once(rng.choice("abc"), self.how()))
        request = rng.choice(kinds)()
        return request.at(self.clock.now + HOUR) if rng.random() < 0.4 else request

    def create(self) -> None:
        requests: list[JobRequest] = []
        for _ in range(self.rng.randint(1, 4)):
            request = self.request()
            others: list[JobRequest | int] = [*requests, *range(1, self.newest + 1)]
            if others and self.rng.random() < 0.7:
                chosen = self.rng.sample(others, min(len(others), self.rng.randint(1, 2)))
                request = request.after(*chosen, anyway=self.rng.random() < 0.3)
            requests.append(request)
        self.schedule(*requests)

    def batch(self) -> None:
        roles = self.rng.sample(("succeeded", "failed", "ended"), self.rng.randint(1, 3))
        callbacks: Any = {role: self.request(plain=True) for role in roles}
        members = [self.request() for _ in range(self.rng.randint(1, 3))]
        self.schedule(Batch(members, **callbacks))

    def schedule(self, *requests: JobRequest | Batch) -> None:
        records = self.k.jobs.schedule(*requests)
        self.newest = max(self.newest, *(record.id for record in records))
        self.history.append("created " + ", ".join(f"{each.id} {each.kind}" for each in records))

    def act(self) -> None:
        if not self.newest:
            return
        job_id = self.rng.randint(1, self.newest)
        action = self.rng.choice(("cancel", "discard", "retry", "run_now", "rerun"))
        before = self.k.jobs.get(job_id)
        # Before it is done: it takes effect while it is.
        had, was_again = job_id in self.touched, job_id in self.again
        if before.state is not JobState.SUSPENDED or action != "retry":
            self.touched.add(job_id)
        if action in ("retry", "rerun"):
            self.again.add(job_id)
        try:
            getattr(self.k.jobs, action)(job_id)
        except (WrongState, Conflict):
            if not had:
                self.touched.discard(job_id)
            if not was_again:
                self.again.discard(job_id)
        else:
            self.history.append(f"{action} of {job_id}, which was {before.state}")

    def edit(self) -> None:
        if not self.newest:
            return
        job_id = self.rng.randint(1, self.newest)
        record = self.k.jobs.get(job_id)
        arguments: Any = {"how": "ok"}
        if record.kind == "once" and self.rng.random() < 0.7:
            arguments = {"text": self.rng.choice("abc")}
        elif record.state is not JobState.SUSPENDED:
            return
        with suppress(WrongState, Conflict):
            self.k.jobs.edit(job_id, arguments=arguments)
            self.history.append(f"edit of {job_id}: {arguments}")

    def let_go(self) -> None:
        self.clock.advance(HOUR)
        self.history.append("an hour passed")

    # --- the model --------------------------------------------------------------------------------

    def check_unique(self) -> None:
        """No two live jobs are alike, unless somebody ran one of them again."""
        seen: dict[str, int] = {}
        for record in self.k.jobs.live():
            if record.kind == "once" and record.id not in self.again:
                text = record.arguments[0]
                other = seen.setdefault(text, record.id)
                assert other == record.id, f"{other} and {record.id} are alike"

    def check_end(self) -> None:
        for job_id in range(1, self.newest + 1):
            record = self.k.jobs.get(job_id)
            assert record.state in FINAL_STATES
            if job_id not in self.touched:
                expected = self.expected(record)
                assert expected in (None, record.state), f"{record} should be {expected}"

    def expected(self, record: JobRecord) -> JobState | None:
        """Return what becomes of a job that nobody touched; None: that depends on when people did what."""
        others = [*map(self.k.jobs.get, record.follows), *self.members(record)]
        if any(each.id in self.again for each in others):
            return None
        failures = sum(each.state is not COMPLETED for each in self.members(record))
        if record.role and record.role != "ended" and (record.role == "failed") != (failures > 0):
            return CANCELLED
        if record.role and record.failures != failures:
            return JobState.SUSPENDED
        followed = [self.k.jobs.get(job_id).state for job_id in record.follows]
        if not record.anyway and any(state is not COMPLETED for state in followed):
            return CANCELLED
        return BECOMES[record.arguments[-1]]


def run(world: World) -> None:
    world.open()
    try:
        for _ in range(STEPS):
            steps = (world.create, world.batch, world.act, world.edit, world.let_go, world.reopen)
            world.rng.choices(steps, (6, 3, 6, 5, 1, 2))[0]()
            assert not world.wrong
            world.check_unique()
        world.reopen()
        while not world.fits:
            world.reopen()
        world.clock.advance(HOUR)
        eventually(lambda: not world.k.jobs.live())
        assert not world.wrong
        world.check_end()
    finally:
        world.opened.set()
        world.k.close()


def test_random_histories(tmp_path: Path, rng: Random) -> None:
    end, count = monotonic() + SECONDS, 0
    while count == 0 or monotonic() < end:
        path = tmp_path / f"world{count}"
        path.mkdir()
        world = World(path / "store", Random(rng.random()))
        try:
            run(world)
        except BaseException:
            print("\n".join(world.history))
            raise
        count += 1

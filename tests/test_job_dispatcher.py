"""The dispatcher against a slow and obvious model: never over a limit, never idle while a job may start.

A state machine adds jobs of several kinds, keys, queues, priorities and tags, takes and ends and cancels
them, pauses and changes queues, and moves the clock, back too. The model keeps a plain list and asks every
limit anew each time. The public API cannot stop between two of these steps, so this looks at the inside;
`test_job_limits` has the same promises from the outside. The counts at the end show what a start costs.
"""

import gc
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from klerk import App, JobRun, limits
from klerk.app import Spec
from klerk.job_manager.dispatcher import Dispatcher
from klerk.job_manager.gates import Gate, Level
from klerk.job_manager.levels import EMPTY, Levels
from klerk.job_manager.shares import QueueOverride
from klerk.job_manager.suspects import Suspect
from klerk.job_options import Pool, QueueSettings, Rate
from klerk.jobs import JobRecord, JobState

CREWS: list[tuple[Pool, frozenset[str]]] = [
    ("thread", frozenset()),
    ("thread", frozenset({"gpu"})),
    ("loop", frozenset()),
]
KEYS = ["", "a", "b", "c"]
QUEUES = ["default", "narrow", "slow", "both", "new"]
SECOND_US = 1_000_000


def design() -> Spec:
    """Jobs with every combination of limits, in queues with and without."""
    app = App("dispatched")
    app.queue("narrow", concurrency=2)
    app.queue("slow", rate="3/s")
    app.queue("both", concurrency=1, rate="2/min", weight=3)

    @app.job()
    def free(job: JobRun) -> None: ...

    @app.job(priority=2)
    async def on_loop(job: JobRun) -> None: ...

    @app.job(tags={"gpu"}, queue="narrow")
    def tagged(job: JobRun) -> None: ...

    @app.job(concurrency=2, queue="narrow")
    def few(job: JobRun) -> None: ...

    @app.job(rate="2/s", concurrency=3)
    def rare(job: JobRun) -> None: ...

    @app.job(key=str, key_concurrency=1, queue="slow")
    def one_each(job: JobRun, key: str) -> None: ...

    @app.job(key=str, key_concurrency=2, key_rate="3/s", rate="5/s", concurrency=4, priority=-1)
    def all_at_once(job: JobRun, key: str) -> None: ...

    @app.job(key=str, key_rate="1/min")
    async def rare_each(job: JobRun, key: str) -> None: ...

    return app.freeze()


class Tokens:
    """A bucket, as simply as can be."""

    def __init__(self, rate: Rate, now_us: int, full: bool = True) -> None:
        self.rate = rate
        self.at_us = now_us
        self.count = Fraction(rate.count if full else 0)

    def fill(self, now_us: int) -> None:
        if now_us > self.at_us:
            flow = Fraction(self.rate.count, self.rate.period // timedelta.resolution)
            self.count = min(Fraction(self.rate.count), self.count + flow * (now_us - self.at_us))
        self.at_us = now_us


class Model:
    """All ready and running jobs in plain lists, with every limit asked anew.

    Limits are named by what they are of: ``("queue", name)``, ``("kind", name)``, ``("key", kind, key)``.
    """

    def __init__(self, spec: Spec, concurrency: int | None) -> None:
        self.spec = spec
        self.concurrency = concurrency
        self.now_us = 0
        self.ready: list[JobRecord] = []
        self.running: list[JobRecord] = []
        self.queues = {name: spec.queues.get(name, QueueSettings()) for name in QUEUES}
        self.paused: set[str] = set()
        self.tokens: dict[tuple[str, ...], Tokens] = {}
        self.begins_empty = False
        # When suspects began, and which of them have run for so long that others may start beside them.
        self.began_us: dict[int, int] = {}
        self.lapsed: set[int] = set()

    def queue(self, record: JobRecord) -> str:
        return record.queue or self.spec.jobs[record.kind].settings.queue

    def order(self, record: JobRecord) -> tuple[int, int]:
        own = record.priority
        return -(self.spec.jobs[record.kind].settings.priority if own is None else own), record.id

    def limits(self, record: JobRecord) -> list[tuple[tuple[str, ...], int | None, Rate | None]]:
        """Return what limits a job: what of, how many at once, how often."""
        name, settings = self.queue(record), self.spec.jobs[record.kind].settings
        queue = self.queues[name]
        found: list[tuple[tuple[str, ...], int | None, Rate | None]] = [
            (("all",), self.concurrency, None),
            (("queue", name), queue.concurrency, queue.rate),
            (("kind", record.kind), settings.concurrency, settings.rate),
        ]
        if record.crashes and record.id not in self.lapsed:
            found.append((("suspects",), 1, None))
        if record.key:
            where = "key", record.kind, record.key
            found.append((where, settings.key_concurrency, settings.key_rate))
        return found

    def may_start(self, record: JobRecord) -> bool:
        if self.queue(record) in self.paused:
            return False
        for where, concurrency, rate in self.limits(record):
            inside = [each for each in self.running if where in [name for name, _, _ in self.limits(each)]]
            if concurrency is not None and len(inside) >= concurrency:
                return False
            if rate is not None and self.bucket(where, rate).count < 1:
                return False
        return True

    def bucket(self, where: tuple[str, ...], rate: Rate) -> Tokens:
        if where not in self.tokens:
            # Time passes for a bucket from the beginning on, even if nobody has asked for it yet.
            self.tokens[where] = tokens = Tokens(rate, 0, full=not self.begins_empty)
            tokens.fill(self.now_us)
        return self.tokens[where]

    def candidates(self, pool: Pool, tags: frozenset[str]) -> list[JobRecord]:
        """Return the jobs that may be taken now: of each queue, the first in order."""
        best: dict[str, JobRecord] = {}
        for record in sorted(self.ready, key=self.order):
            job = self.spec.jobs[record.kind]
            if job.pool == pool and job.settings.tags <= tags and self.may_start(record):
                best.setdefault(self.queue(record), record)
        return list(best.values())

    def start(self, record: JobRecord) -> None:
        self.ready.remove(record)
        self.running.append(record)
        self.began_us[record.id] = self.now_us
        for where, _, rate in self.limits(record):
            if rate is not None:
                self.bucket(where, rate).count -= 1

    def end(self, record: JobRecord) -> None:
        self.running.remove(record)
        self.lapsed.discard(record.id)

    def lapse(self, suspect: Suspect) -> None:
        """Note that an alarm went off, which may be that of an earlier start of the job."""
        is_over = self.now_us >= self.began_us[suspect.id] + limits.JOB_ALONE_S * SECOND_US
        if is_over and any(record.id == suspect.id for record in self.running):
            self.lapsed.add(suspect.id)

    def set_clock(self, now_us: int) -> None:
        self.now_us = now_us
        for tokens in self.tokens.values():
            tokens.fill(now_us)


class Dispatching(RuleBasedStateMachine):
    """The dispatcher and its model, step by step."""

    SPEC = design()

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, JobRecord] = {}
        self.model = Model(self.SPEC, None)
        self.alarms: list[tuple[int, Callable[[], None]]] = []
        self.ids = 0

    @initialize(limit=strategies.sampled_from([None, 1, 3]), after_crash=strategies.booleans())
    def open(self, limit: int | None, after_crash: bool) -> None:
        self.model.concurrency = limit
        self.model.begins_empty = after_crash
        self.dispatcher = Dispatcher(
            self.SPEC,
            self.live,
            now_us=lambda: self.model.now_us,
            call_after=lambda delay_us, call: self.alarms.append((self.model.now_us + delay_us, call)),
            wake=self.wake,
            concurrency=limit,
            levels=Levels(others=Level(*EMPTY, 0) if after_crash else None),
        )

    def wake(self, alarm: Gate | Suspect) -> None:
        if isinstance(alarm, Suspect):
            self.model.lapse(alarm)
        self.dispatcher.refilled(alarm)

    @rule(
        kind=strategies.sampled_from(sorted(SPEC.jobs)),
        key=strategies.sampled_from(KEYS),
        queue=strategies.sampled_from(["", "", "", *QUEUES]),
        priority=strategies.sampled_from([None, None, -3, 0, 7]),
        count=strategies.integers(1, 4),
        crashes=strategies.sampled_from([0, 0, 0, 1]),
    )
    def add(
        self, kind: str, key: str, queue: str, priority: int | None, count: int, crashes: int = 0
    ) -> None:
        for _ in range(count):
            self.ids += 1
            self.put(
                JobRecord(
                    id=self.ids,
                    kind=kind,
                    arguments=(),
                    state=JobState.AVAILABLE,
                    queue=queue,
                    priority=priority,
                    crashes=crashes,
                    key=key if self.SPEC.jobs[kind].settings.key else "",
                )
            )

    def put(self, record: JobRecord) -> None:
        self.live[record.id] = record
        self.model.ready.append(record)
        self.dispatcher.add(record)

    @rule(crew=strategies.sampled_from(CREWS), count=strategies.integers(1, 5))
    def take(self, crew: tuple[Pool, frozenset[str]], count: int) -> None:
        for _ in range(count):
            candidates = self.model.candidates(*crew)
            record = self.dispatcher.take(*crew)
            if record is None:
                assert not candidates, f"{candidates} may start, and none was given out"
                return
            assert record in candidates, f"{record} was given out, and only {candidates} may start"
            self.model.start(record)

    @rule(data=strategies.data(), again=strategies.booleans())
    @precondition(lambda self: self.model.running)
    def end(self, data: strategies.DataObject, again: bool) -> None:
        record = data.draw(strategies.sampled_from(self.model.running))
        self.model.end(record)
        del self.live[record.id]
        self.dispatcher.ended(record)
        if again:
            self.put(msgspec.structs.replace(record, attempt=record.attempt + 1))

    @rule(data=strategies.data(), again=strategies.booleans())
    @precondition(lambda self: self.model.ready)
    def cancel_or_edit(self, data: strategies.DataObject, again: bool) -> None:
        record = data.draw(strategies.sampled_from(self.model.ready))
        self.model.ready.remove(record)
        del self.live[record.id]
        self.dispatcher.left(record)
        if again:
            self.put(msgspec.structs.replace(record, attempt=record.attempt + 1))

    @rule(name=strategies.sampled_from(QUEUES))
    def pause_or_resume(self, name: str) -> None:
        if name in self.dispatcher.queues:
            self.model.paused ^= {name}
            self.change(name, self.model.queues[name])

    @rule(
        name=strategies.sampled_from(QUEUES),
        concurrency=strategies.sampled_from([None, 1, 2, 5]),
        rate=strategies.sampled_from([None, "1/s", "4/s", "3/h"]),
        weight=strategies.integers(1, 3),
    )
    def scale(self, name: str, concurrency: int | None, rate: str | None, weight: int) -> None:
        if name not in self.dispatcher.queues:
            return
        parsed = None if rate is None else Rate.parse(rate)
        old = self.model.queues[name]
        where = "queue", name
        if parsed is None:
            self.model.tokens.pop(where, None)
        elif old.rate is None:
            self.model.tokens[where] = Tokens(parsed, self.model.now_us, full=False)
        elif parsed != old.rate:
            before = self.model.bucket(where, old.rate)
            after = self.model.tokens[where] = Tokens(parsed, self.model.now_us)
            size = parsed.count * (parsed.period // timedelta.resolution)
            # Counted in whole units, as the dispatcher does.
            held = size * before.count / before.rate.count
            after.count = Fraction(int(held), parsed.period // timedelta.resolution)
        self.change(name, QueueSettings(concurrency=concurrency, rate=parsed, weight=weight))

    def change(self, name: str, changed: QueueSettings) -> None:
        self.model.queues[name] = changed
        override = QueueOverride(
            paused=name in self.model.paused,
            concurrency=changed.concurrency,
            rate=None if changed.rate is None else str(changed.rate),
            weight=changed.weight,
        )
        self.dispatcher.change(self.dispatcher.queues[name], override)

    @rule(
        by_us=strategies.sampled_from([1, 1000, SECOND_US // 4, SECOND_US, 61 * SECOND_US, 3600 * SECOND_US])
    )
    def advance(self, by_us: int) -> None:
        self.model.set_clock(self.model.now_us + by_us)
        due = [each for each in self.alarms if each[0] <= self.model.now_us]
        self.alarms = [each for each in self.alarms if each[0] > self.model.now_us]
        for _, call in due:
            call()

    @rule(by_us=strategies.sampled_from([1, SECOND_US, 3600 * SECOND_US]))
    # After a crash, a bucket that is made later would not know of time before the clock was set back.
    @precondition(lambda self: not self.model.begins_empty)
    def set_back(self, by_us: int) -> None:
        """What is to be called after some time is called after as much of the time that is now."""
        # A bucket that nobody looks at before and after would not know how much time passed in between.
        self.dispatcher.levels()
        self.model.set_clock(self.model.now_us - by_us)
        self.dispatcher.levels()
        self.alarms = [(when_us - by_us, call) for when_us, call in self.alarms]

    @invariant()
    def what_is_counted_is_there(self) -> None:
        waiting = Counter(self.model.queue(each) for each in self.model.ready)
        running = Counter(self.model.queue(each) for each in self.model.running)
        for name, queue in self.dispatcher.queues.items():
            assert queue.available == waiting[name]
            assert queue.gate.running == running[name]
            assert 0 <= queue.waiting <= queue.available

    @invariant()
    def obstacles_are_told(self) -> None:
        """A ready job that may start is told to wait for a worker, any other one why it may not."""
        for record in self.model.ready[:3]:
            told = {obstacle.kind for obstacle in self.dispatcher.blocked_by(record)}
            assert told
            assert (told <= {"worker_busy", "no_worker", "missing_tag"}) == self.model.may_start(record)

    def teardown(self) -> None:
        """In the end everything is run: nothing was forgotten in front of a gate."""
        for name in self.dispatcher.queues:
            self.model.paused.discard(name)
            self.change(name, self.model.queues[name])
        for _ in range(len(self.model.ready) + 1):
            for crew in CREWS:
                self.take(crew, 5)
            for record in list(self.model.running):
                self.model.running.remove(record)
                del self.live[record.id]
                self.dispatcher.ended(record)
            self.advance(3600 * SECOND_US)
        assert not self.model.ready
        self.advance(24 * 3600 * SECOND_US)
        self.add("rare_each", "last", "", None, 1)
        assert len(self.dispatcher.key_gates) <= 1 + len(KEYS) * 3


class TestDispatching(Dispatching.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


# --- shares -------------------------------------------------------------------------------------------


class Bench:
    """A dispatcher of some queues, with one free job for each, and one worker."""

    def __init__(self, **weights: int) -> None:
        app = App("shares")
        for queue, weight in weights.items():
            app.queue(queue, weight=weight)

            def work(job: JobRun) -> None: ...

            work.__name__ = f"job_{queue}"
            app.job(queue=queue)(work)

        @app.job(tags={"gpu"}, queue="a")
        def tagged(job: JobRun) -> None: ...

        @app.job(key=str, key_concurrency=1, queue="a")
        def keyed(job: JobRun, key: str) -> None: ...

        @app.job(key=str, key_rate="1/s", queue="a")
        def keyed_rate(job: JobRun, key: str) -> None: ...

        self.live: dict[int, JobRecord] = {}
        self.now_us = 0
        self.dispatcher = Dispatcher(
            app.freeze(),
            self.live,
            now_us=lambda: self.now_us,
            call_after=lambda delay_us, call: None,
            wake=lambda gate: None,
        )

    def add(self, kind: str, count: int = 1, *, key: str = "", priority: int | None = None) -> None:
        for _ in range(count):
            id = len(self.live) + 1
            record = JobRecord(id, kind, (), JobState.AVAILABLE, key=key, priority=priority)
            self.live[id] = record
            self.dispatcher.add(record)

    def take(self, *tags: str) -> JobRecord | None:
        record = self.dispatcher.take("thread", frozenset(tags))
        if record is not None:
            self.dispatcher.ended(record)
        return record

    def taken(self, count: int) -> Counter[str]:
        """Return the queues of the next so many jobs, which are named after them."""
        records = [self.take() for _ in range(count)]
        return Counter(record.kind.removeprefix("job_") for record in records if record is not None)


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1}, {"a": 3, "b": 1}, {"a": 5, "b": 2, "c": 1}])
def test_starts_are_shared_by_weight(weights: dict[str, int]) -> None:
    bench = Bench(**weights)
    rounds = 50
    for queue in weights:
        bench.add(f"job_{queue}", 2 * rounds * max(weights.values()))
    taken = bench.taken(rounds * sum(weights.values()))
    for queue, weight in weights.items():
        assert abs(taken[queue] - rounds * weight) <= 1


@pytest.mark.parametrize("idle", ["empty", "paused", "limited"])
def test_a_queue_that_started_nothing_saves_nothing_up(idle: str) -> None:
    bench = Bench(a=1, b=1)
    queue = bench.dispatcher.queues["b"]
    bench.add("job_a", 1000)
    if idle != "empty":
        bench.add("job_b", 1000)
        change = {"paused": {"paused": True}, "limited": {"rate": "1/day"}}[idle]
        bench.dispatcher.change(queue, QueueOverride(**change))  # type: ignore[arg-type]
    assert bench.taken(500) == {"a": 500}
    if idle == "empty":
        bench.add("job_b", 1000)
    else:
        bench.dispatcher.change(queue, QueueOverride())
    taken = bench.taken(100)
    assert abs(taken["a"] - taken["b"]) <= 2


def test_a_changed_weight_counts_from_then_on() -> None:
    bench = Bench(a=1, b=1)
    bench.add("job_a", 1000)
    bench.add("job_b", 1000)
    bench.taken(200)
    bench.dispatcher.change(bench.dispatcher.queues["a"], QueueOverride(weight=4))
    taken = bench.taken(500)
    assert abs(taken["a"] - 400) <= 4


def test_workers_of_one_sort_do_not_use_up_the_shares_of_another() -> None:
    """A queue that is new to one sort of worker begins where its own queues are."""
    bench = Bench(a=1, b=1)
    bench.add("tagged", 1000)
    for _ in range(1000):
        assert bench.take("gpu") is not None
    bench.add("job_b", 100)
    assert bench.taken(10) == {"b": 10}
    bench.add("job_a", 100)
    taken = bench.taken(20)
    assert abs(taken["a"] - taken["b"]) <= 2


def test_priority_counts_in_a_queue_whatever_its_jobs_need() -> None:
    bench = Bench(a=1)
    bench.add("job_a", priority=1)
    bench.add("tagged", priority=3)
    bench.add("job_a", priority=2)
    bench.add("keyed", key="x", priority=4)
    kinds = [bench.take("gpu") for _ in range(4)]
    assert [(record.kind, record.priority) for record in kinds if record] == [
        ("keyed", 4),
        ("tagged", 3),
        ("job_a", 2),
        ("job_a", 1),
    ]


# --- costs --------------------------------------------------------------------------------------------


def calls_of(function: Callable[[], object]) -> int:
    """Return how many functions are called, those of C too."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    # Others may have something called whenever garbage is collected, as Hypothesis has.
    gc.disable()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


@pytest.mark.parametrize("behind", ["one key", "many keys", "a paused queue"])
def test_a_start_costs_the_same_however_many_jobs_are_blocked(behind: str) -> None:
    """Counted in calls: with 100,000 jobs that may not start, as many as with 100."""
    counts = []
    for blocked in (100, 100_000):
        bench = Bench(a=1, b=1)
        if behind == "a paused queue":
            bench.dispatcher.change(bench.dispatcher.queues["b"], QueueOverride(paused=True))
            bench.add("job_b", blocked, priority=9)
        elif behind == "one key":
            bench.add("keyed", blocked, key="x", priority=9)
            assert bench.dispatcher.take("thread", frozenset()) is not None
        else:
            for key in range(blocked):
                bench.add("keyed", 2, key=str(key), priority=9)
                assert bench.dispatcher.take("thread", frozenset()) is not None
        bench.add("job_a", 100)
        assert bench.take() is not None
        counts.append(calls_of(lambda bench=bench: bench.taken(50)))
    assert counts[1] <= counts[0]
    assert counts[0] < 50 * 40


def test_what_was_cancelled_is_swept_out() -> None:
    """Jobs that never come up, because others are before them, leave nothing behind when they are gone."""
    bench = Bench(a=1)
    bench.add("job_a", 10, priority=9)
    lane = bench.dispatcher.queues["a"].lanes[0]
    for turn in range(50):
        bench.add("keyed", 100, key=str(turn % 7))
        bench.add("job_a", 100)
        for id in range(11 + turn * 200, 211 + turn * 200):
            bench.dispatcher.left(bench.live.pop(id))
            bench.live[-id] = bench.live[1]
    assert lane.size == 10
    assert len(lane.heap) <= 200
    assert not bench.dispatcher.key_gates


def test_a_key_that_was_forgotten_and_is_back_is_not_forgotten_again() -> None:
    """It is still on the list of those to be forgotten, behind others, when it comes back and a job runs."""
    bench = Bench(a=1)
    for key in "pqx":
        bench.add("keyed_rate", key=key)
        assert bench.take() is not None
    bench.now_us += 10 * SECOND_US
    bench.add("keyed_rate", key="x")
    bench.dispatcher.left(bench.live.pop(4))
    bench.live[-4] = bench.live[1]
    assert ("keyed_rate", "x") not in bench.dispatcher.key_gates
    bench.add("keyed_rate", key="x")
    assert bench.dispatcher.take("thread", frozenset()) is not None
    gate = bench.dispatcher.key_gates["keyed_rate", "x"]
    bench.add("keyed_rate", key="y")
    assert bench.dispatcher.key_gates["keyed_rate", "x"] is gate


def test_keys_are_forgotten_once_their_buckets_are_full() -> None:
    bench = Bench(a=1)
    for key in range(1000):
        bench.add("keyed_rate", key=str(key))
        assert bench.take() is not None
        bench.now_us += SECOND_US // 100
        assert len(bench.dispatcher.key_gates) <= 110
    bench.add("keyed", key="x")
    assert bench.take() is not None
    assert ("keyed", "x") not in bench.dispatcher.key_gates

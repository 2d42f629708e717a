"""Shares: of the queues that have work for a sort of worker, the one that had the least of its share is next.

This is "stride scheduling" (C. A. Waldspurger and W. E. Weihl, MIT, 1995): a queue passes 1/weight with each
start. One that had nothing to start for a while begins where the others are, so it has saved up nothing.
"""

import heapq
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from klerk.job_manager.gates import Gate, Obstacle
from klerk.job_manager.lines import Line
from klerk.job_options import Pool, QueueSettings, Rate
from klerk.jobs import Job, JobRecord

__all__ = ["NOTHING", "Course", "Crew", "Kind", "Lane", "Queue", "QueueOverride", "missing_workers"]


class QueueOverride(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is in force for a queue in place of what is declared; what is unset is as declared.

    Parameters:
        paused: none of its jobs start.
        concurrency, rate, weight: as in `QueueOptions`.
    """

    paused: bool = False
    concurrency: int | UnsetType | None = UNSET
    rate: str | UnsetType | None = UNSET
    weight: int | UnsetType = UNSET

    def over(self, declared: QueueSettings) -> QueueSettings:
        """Return the settings in force of a queue."""
        changed: dict[str, Any] = {}
        if self.concurrency is not UNSET:
            changed["concurrency"] = self.concurrency
        if self.rate is not UNSET:
            changed["rate"] = None if self.rate is None else Rate.parse(self.rate)
        if self.weight is not UNSET:
            changed["weight"] = self.weight
        return msgspec.structs.replace(declared, **changed)


NOTHING: Final = QueueOverride()


class Queue:
    """A queue as it is at the moment.

    Parameters:
        name: of the queue.
        declared: its settings as they are declared.
        override: what is in force in place of them.
        gate: its limits, which may be none; it counts the jobs that run.

    Attributes:
        settings: in force.
        is_paused: none of its jobs start.
        stride: how much of its share a start takes.
        changed_at: the sequence of the transaction that set something last, while the app is open.
        lanes: its ready jobs, for each sort of worker.
    """

    def __init__(self, name: str, declared: QueueSettings, override: QueueOverride, gate: Gate) -> None:
        self.name = name
        self.declared = declared
        self.gate = gate
        self.changed_at = 0
        self.lanes: list[Lane] = []
        self.set(override)

    def set(self, override: QueueOverride) -> None:
        """Put settings in force in place of those that are declared."""
        self.settings = override.over(self.declared)
        self.is_paused = override.paused
        self.stride = 1 / self.settings.weight

    @property
    def available(self) -> int:
        """Its ready jobs."""
        return sum(lane.size for lane in self.lanes)

    @property
    def waiting(self) -> int:
        """Those of its ready jobs that a limit keeps from starting."""
        return sum(lane.waiting for lane in self.lanes)


class Lane(Line):
    """The ready jobs of one queue for one sort of worker.

    Parameters:
        queue: whose they are.
        pool: where they run.
        tags: what their worker must have.

    Attributes:
        courses: of the crews that have such workers.
    """

    __slots__ = ("courses", "pool", "queue", "tags")

    def __init__(self, queue: Queue, pool: Pool, tags: frozenset[str]) -> None:
        super().__init__(queue.gate, None)
        self.queue = queue
        self.pool = pool
        self.tags = tags
        self.courses: list[Course] = []
        queue.lanes.append(self)


class Course:
    """What a crew may take of one queue.

    Attributes:
        passed: how much of its share the queue had.
        is_running: it takes part: there may be something to start.
    """

    __slots__ = ("crew", "is_running", "lanes", "number", "passed", "queue")

    def __init__(self, crew: "Crew", queue: Queue, number: int) -> None:
        self.crew = crew
        self.queue = queue
        self.number = number
        self.lanes: list[Lane] = []
        self.passed = 0.0
        self.is_running = False

    def first(self, live: Mapping[int, JobRecord]) -> Lane | None:
        """Return the lane whose first job starts first, with that job on top; None when none may start."""
        best: Lane | None = None
        if self.queue.is_paused or self.queue.gate.is_shut:
            return None
        for lane in self.lanes:
            if not lane.heap:
                continue
            item = lane.heap[0][2]
            # Mostly there is a job without limits of its own on top, and it is still there.
            is_there = type(item) is JobRecord and live.get(item.id) is item
            if (is_there or lane.first(live) is not None) and (best is None or lane.heap[0] < best.heap[0]):
                best = lane
        return best


class Crew:
    """All workers of one sort.

    Parameters:
        pool: where they run jobs.
        tags: what they have.

    Attributes:
        running: a heap of the courses that take part, by how much of its share each had.
        courses: all of them, by queue.
    """

    def __init__(self, pool: Pool, tags: frozenset[str]) -> None:
        self.pool = pool
        self.tags = tags
        self.running: list[tuple[float, int, Course]] = []
        self.courses: dict[str, Course] = {}
        # How much of its share the queue had that was served last.
        self._passed = 0.0

    def serves(self, lane: Lane) -> bool:
        """Return whether these workers may run the jobs of a lane."""
        return self.pool == lane.pool and lane.tags <= self.tags

    def add(self, lane: Lane) -> None:
        """Serve a lane from now on."""
        course = self.courses.get(lane.queue.name)
        if course is None:
            course = self.courses[lane.queue.name] = Course(self, lane.queue, len(self.courses))
        course.lanes.append(lane)
        lane.courses.append(course)
        if lane.heap:
            self.join(course)

    def join(self, course: Course) -> None:
        """Let a course take part, where the others are."""
        if not course.is_running:
            course.is_running = True
            course.passed = max(course.passed, self._passed)
            heapq.heappush(self.running, (course.passed, course.number, course))

    def may_start(self) -> bool:
        """Return whether there may be something to start; there is nothing when this says so."""
        for _, _, course in self.running:
            if not course.queue.is_paused and not course.queue.gate.is_shut:
                for lane in course.lanes:
                    if lane.heap:
                        return True
        return False

    def next(self, live: Mapping[int, JobRecord]) -> Lane | None:
        """Return the lane that is served next, with the job that starts on top, and count that as a start."""
        running = self.running
        while running:
            passed, number, course = running[0]
            lane = course.first(live)
            if lane is not None:
                self._passed = passed
                course.passed = passed + course.queue.stride
                heapq.heapreplace(running, (course.passed, number, course))
                return lane
            if len(running) == 1:
                # It shares with nobody, so it may as well stay.
                return None
            heapq.heappop(running)
            course.is_running = False
        return None


class Kind:
    """What matters of a declared job when one comes.

    Attributes:
        lane: of its own queue.
        is_limited: it has gates besides its queue's.
        gate: the one of the kind, if that has one.
    """

    __slots__ = ("gate", "is_keyed", "is_limited", "job", "lane", "priority")

    def __init__(self, job: Job[Any], lane: Lane, gate: Gate | None) -> None:
        settings = job.settings
        self.job = job
        self.lane = lane
        self.priority = settings.priority
        self.gate = gate
        self.is_keyed = settings.key_rate is not None or settings.key_concurrency is not None
        self.is_limited = self.is_keyed or gate is not None

    @property
    def has_rate(self) -> bool:
        """Whether it may start only so often, altogether or by its key."""
        settings = self.job.settings
        return settings.rate is not None or settings.key_rate is not None


def missing_workers(all_crews: Iterable[Crew], job: Job[Any]) -> list[Obstacle]:
    """Return that no worker could ever run a job; nothing when one could."""
    crews = [crew for crew in all_crews if crew.pool == job.pool]
    tags = job.settings.tags
    if not crews:
        return [Obstacle("no_worker", f"nothing here runs jobs of the pool '{job.pool}'")]
    if any(tags <= crew.tags for crew in crews):
        return []
    _, missing = min((len(tags - crew.tags), sorted(tags - crew.tags)) for crew in crews)
    return [Obstacle("missing_tag", f"no worker of the pool '{job.pool}' has: {', '.join(missing)}")]

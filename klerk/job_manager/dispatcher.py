"""The dispatcher: which of the jobs that are ready starts next, within the limits of queues, kinds and keys.

A worker takes from the queue that had the least of its share (`klerk.job_manager.shares`), and of its jobs
the one with the highest priority, then the oldest, passing over those that a limit of their kind or key
keeps from starting (`klerk.job_manager.lines`). A job passes all of its gates at one moment, or none.
"""

import heapq
from collections.abc import Callable, Mapping
from math import inf
from types import MappingProxyType
from typing import Any, Final

from klerk import limits
from klerk.app import Spec
from klerk.job_manager.gates import Bucket, Gate, Level, Obstacle
from klerk.job_manager.levels import EMPTY, FULL, Levels, Where, levels_of
from klerk.job_manager.lines import Line, reopen, shut
from klerk.job_manager.shares import NOTHING, Crew, Kind, Lane, Queue, QueueOverride, missing_workers
from klerk.job_manager.suspects import Suspect, Suspects
from klerk.job_options import JobSettings, Pool, QueueSettings, Rate
from klerk.jobs import Job, JobRecord

__all__ = ["Dispatcher"]

# Ids have 63 bits at most, so a priority that is shifted by as many counts before them.
_ID_BITS: Final = 63

NO_OVERRIDES: Final[Mapping[str, QueueOverride]] = MappingProxyType({})


class Dispatcher:
    """Holds the jobs that are ready. Its owner calls it under one lock.

    Parameters:
        spec: the declared jobs and queues.
        live: the records of all jobs that have not ended; one that is not in it is never given out.
        now_us: gives the time, in microseconds.
        call_after: calls something after so many microseconds, even of a clock that is set back meanwhile;
            used for the moment when a rate lets the next job start.
        wake: told, at that moment, the gate, or the suspect that ran for some time, to hand to `refilled`.
        concurrency: jobs that run at once, of all queues; None: as many as there are workers.
        levels: how full the buckets of rates are at first.
        overrides: what is in force of queues in place of what is declared.
    """

    def __init__(
        self,
        spec: Spec,
        live: Mapping[int, JobRecord],
        *,
        now_us: Callable[[], int],
        call_after: Callable[[int, Callable[[], None]], None],
        wake: Callable[[Gate | Suspect], None],
        concurrency: int | None = None,
        levels: Levels = FULL,
        overrides: Mapping[str, QueueOverride] = NO_OVERRIDES,
    ) -> None:
        self._live = live
        self._now_us = now_us
        self._call_after = call_after
        self._wake = wake
        self._all = Gate("this Klerk", concurrency, None)
        self._serial = 0
        self._levels, self._other_level = dict(levels.known), levels.others
        self._crews: dict[tuple[Pool, frozenset[str]], Crew] = {}
        self._lanes: dict[tuple[str, Pool, frozenset[str]], Lane] = {}
        self.suspects = Suspects(spec.jobs, call_after, wake, self._has_room, self.add)
        self.key_gates: dict[tuple[str, str], Gate] = {}
        # Gates of keys that are kept until their buckets are full: when, a serial number, the gate.
        self._resting: list[tuple[int, int, Gate]] = []
        self.queues: dict[str, Queue] = {}
        for name in [*spec.queues, *(name for name in overrides if name not in spec.queues)]:
            declared = spec.queues.get(name, QueueSettings())
            self._new_queue(name, declared, overrides.get(name, NOTHING))
        self._kinds = {
            name: Kind(job, self._lane(job.settings.queue, job), self._kind_gate(name, job.settings))
            for name, job in spec.jobs.items()
        }

    def _new_queue(self, name: str, declared: QueueSettings, override: QueueOverride) -> Queue:
        settings = override.over(declared)
        bucket = self._bucket(settings.rate, ("queue", name))
        gate = Gate(f"the queue '{name}'", settings.concurrency, bucket)
        queue = self.queues[name] = Queue(name, declared, override, gate)
        return queue

    def _kind_gate(self, name: str, settings: JobSettings) -> Gate | None:
        if settings.concurrency is None and settings.rate is None:
            return None
        return Gate(f"the job '{name}'", settings.concurrency, self._bucket(settings.rate, ("job", name)))

    def _bucket(self, rate: Rate | None, where: Where) -> Bucket | None:
        """Return a bucket as full as it was when the last run ended."""
        if rate is None:
            return None
        return Bucket(rate, self._now_us, self._levels.pop(where, self._other_level))

    # --- jobs come --------------------------------------------------------------------------------

    def add(self, record: JobRecord) -> None:
        """Take a job that is ready to run."""
        if record.crashes and self.suspects.takes(record):
            return
        kind = self._kinds[record.kind]
        lane = self._lane_of(record)
        priority = kind.priority if record.priority is None else record.priority
        order = record.id - (priority << _ID_BITS) if priority else record.id
        self._serial += 1
        if kind.is_limited or record.crashes:
            line: Line = lane
            gates = self._gates_to_pass(kind, record)
            for gate in gates:
                line = line.inner(gate)
            if line.push(order, self._serial, record) is not None:
                self._let_start(lane)
            for gate in gates:
                if gate.is_shut:
                    self._look_at(gate)
        else:
            entry = order, self._serial, record
            heapq.heappush(lane.heap, entry)
            lane.size += 1
            if lane.heap[0] is entry:
                self._let_start(lane)
        if lane.gate.is_shut:
            self._look_at(lane.gate)

    def _let_start(self, lane: Lane) -> None:
        """Let the crews of a lane know that there may be something to start."""
        for course in lane.courses:
            if not course.is_running:
                course.crew.join(course)

    def _lane_of(self, record: JobRecord) -> Lane:
        kind = self._kinds[record.kind]
        return self._lane(record.queue, kind.job) if record.queue else kind.lane

    def _lane(self, queue_name: str, job: Job[Any]) -> Lane:
        """Return where a job waits for its worker."""
        where = queue_name, job.pool, job.settings.tags
        lane = self._lanes.get(where)
        if lane is None:
            lane = self._lanes[where] = Lane(self.queue(queue_name), job.pool, job.settings.tags)
            for crew in self._crews.values():
                if crew.serves(lane):
                    crew.add(lane)
        return lane

    def queue(self, name: str) -> Queue:
        """Return a queue; one that nobody declares, of which there are stored jobs, is made."""
        return self.queues.get(name) or self._new_queue(name, QueueSettings(), NOTHING)

    # --- jobs go ----------------------------------------------------------------------------------

    def take(self, pool: Pool, tags: frozenset[str]) -> JobRecord | None:
        """Return the job that starts next on a worker, and count it as started; None when there is none.

        Parameters:
            pool: the sort of worker.
            tags: what the worker has.
        """
        every = self._all
        if every.running >= every.concurrency:
            return None
        if self.suspects.is_alone:
            return self._take_alone(pool)
        crew = self._crews.get((pool, tags))
        if crew is None:
            crew = self._new_crew(pool, tags)
        lane = crew.next(self._live)
        if lane is None:
            return None
        every.running += 1
        item = lane.heap[0][2]
        if type(item) is JobRecord:
            heapq.heappop(lane.heap)
            lane.size -= 1
            gate = lane.gate
            if gate.bucket is None and gate.running + 1 < gate.concurrency:
                gate.running += 1
            elif wait_us := gate.enter():
                self._shut(gate, wait_us)
            return item
        passed: list[Gate] = []
        record = lane.start(passed)
        self._enter(passed, record)
        return record

    def _enter(self, gates: list[Gate], record: JobRecord) -> None:
        for gate in gates:
            if wait_us := gate.enter():
                self._shut(gate, wait_us)
        if record.crashes:
            self.suspects.started(record)

    def begin(self) -> None:
        """Let those run first, each alone, that the `suspects` set aside."""
        self.suspects.begin()

    def _has_room(self, record: JobRecord) -> bool:
        is_paused = self._lane_of(record).queue.is_paused
        return not is_paused and not any(gate.obstacle() for gate in self._gates_around(record))

    def _take_alone(self, pool: Pool) -> JobRecord | None:
        if (record := self.suspects.next(pool)) is not None:
            self._all.running += 1
            self._enter(self._gates_around(record), record)
        return record

    def _gates_around(self, record: JobRecord) -> list[Gate]:
        return [self._lane_of(record).gate, *self._gates_to_pass(self._kinds[record.kind], record)]

    def may_start(self, pool: Pool, tags: frozenset[str]) -> bool:
        """Return whether `take` may find something for a worker; it does not when this says so."""
        crew = None if self.suspects.is_alone else self._crews.get((pool, tags))
        return self._all.running < self._all.concurrency and (crew is None or crew.may_start())

    def _new_crew(self, pool: Pool, tags: frozenset[str]) -> Crew:
        crew = self._crews[pool, tags] = Crew(pool, tags)
        for lane in self._lanes.values():
            if crew.serves(lane):
                crew.add(lane)
        return crew

    def ended(self, record: JobRecord) -> None:
        """Give back what a job held that was given out."""
        self._all.running -= 1
        kind = self._kinds[record.kind]
        gate = self.queues[record.queue].gate if record.queue else kind.lane.gate
        gate.running -= 1
        if gate.is_shut:
            self._look_at(gate)
        if kind.is_limited or record.crashes:
            was_let_in = not record.crashes or self.suspects.ended(record)
            for gate in self._gates_of(kind, record):
                if was_let_in or gate is not self.suspects.gate:
                    self._leave(gate)
            self.suspects.go_on(record)

    def _leave(self, gate: Gate) -> None:
        gate.running -= 1
        if gate.is_shut:
            self._look_at(gate)
        self._let_rest(gate)

    def left(self, record: JobRecord) -> None:
        """Note that a job that was added, and not given out, is not in `live` any more."""
        if record.crashes and self.suspects.left(record):
            self.suspects.go_on(record)
            return
        line: Line = self._lane_of(record)
        for gate in self._gates_of(self._kinds[record.kind], record):
            line = line.lines[gate]
        line.remove(self._live)
        self._let_rest(line.gate)

    # --- gates ------------------------------------------------------------------------------------

    def _look_at(self, gate: Gate) -> None:
        """Shut a gate that has no room, open one that has."""
        wait_us = gate.wait_us()
        if wait_us:
            self._shut(gate, wait_us)
        elif gate.is_shut:
            for lane in reopen(gate):
                assert isinstance(lane, Lane)
                self._let_start(lane)

    def _shut(self, gate: Gate, wait_us: float) -> None:
        """Shut a gate that has no room, and look again when it has, if only time is missing."""
        if not gate.is_shut:
            shut(gate)
        if wait_us < inf and not gate.alarm and any(line.size for line in gate.lines):
            self._serial += 1
            gate.alarm = number = self._serial
            self._call_after(int(wait_us), lambda: self._ring(gate, number))

    def _ring(self, gate: Gate, number: int) -> None:
        """Tell the owner that it is time to look at a gate, unless that was put off. Needs no lock."""
        if gate.alarm == number:
            self._wake(gate)

    def change(self, queue: Queue, override: QueueOverride) -> None:
        """Put other limits of a queue in force, or stop its jobs from starting; those that run go on."""
        gate, settings = queue.gate, override.over(queue.declared)
        if settings.rate != queue.settings.rate:
            # A queue that had no rate begins with an empty bucket: whoever slows it down means now.
            empty = Level(*EMPTY, self._now_us())
            level = empty if gate.bucket is None else gate.bucket.level()
            gate.bucket = None if settings.rate is None else Bucket(settings.rate, self._now_us, level)
        gate.concurrency = inf if settings.concurrency is None else settings.concurrency
        queue.set(override)
        # What is set is for the moment that the rate before would have come to.
        gate.alarm = 0
        self._look_at(gate)
        if queue.is_paused:
            self.suspects.withdraw(lambda record: self._lane_of(record).queue is queue)
        for lane in queue.lanes:
            if lane.heap:
                self._let_start(lane)

    def refilled(self, gate: Gate | Suspect) -> None:
        """Note that the alarm of a gate went off, or that of a suspect."""
        if isinstance(gate, Suspect):
            if self.suspects.lapse(gate):
                self._leave(self.suspects.gate)
            return
        gate.alarm = 0
        if gate.bucket is not None:
            gate.bucket.note_waited()
        if gate.is_shut:
            self._look_at(gate)

    def _gates_of(self, kind: Kind, record: JobRecord) -> list[Gate]:
        """Return the gates that a job has to pass besides its queue's, outermost first, where there are."""
        gates = [self.suspects.gate] if record.crashes else []
        if kind.gate is not None:
            gates.append(kind.gate)
        if kind.is_keyed and record.key:
            gate = self.key_gates.get((record.kind, record.key))
            if gate is not None:
                gates.append(gate)
        return gates

    def _gates_to_pass(self, kind: Kind, record: JobRecord) -> list[Gate]:
        """Return what `_gates_of` does, with that of the key, which is made when there is none."""
        if kind.is_keyed and record.key and (record.kind, record.key) not in self.key_gates:
            self._new_key_gate(kind, (record.kind, record.key))
        return self._gates_of(kind, record)

    def _new_key_gate(self, kind: Kind, where: tuple[str, str]) -> None:
        self._forget_some()
        settings = kind.job.settings
        bucket = self._bucket(settings.key_rate, ("key", *where))
        name = f"the key '{where[1]}' of the job '{where[0]}'"
        self.key_gates[where] = Gate(name, settings.key_concurrency, bucket, where)

    def _let_rest(self, gate: Gate) -> None:
        """Forget a gate if it is of a key where nothing runs or waits, now or once its bucket is full."""
        if gate.where is None or gate.running or gate.lines:
            return
        if self.key_gates.get(gate.where) is not gate:
            # It was forgotten before, and there may be a new one.
            return
        if gate.bucket is None or gate.bucket.is_full:
            del self.key_gates[gate.where]
        elif not gate.is_resting:
            gate.is_resting = True
            self._serial += 1
            heapq.heappush(self._resting, (gate.bucket.full_us(), self._serial, gate))

    def _forget_some(self) -> None:
        """Forget gates whose buckets are full, a few with each that is made: so they never pile up."""
        now_us = self._now_us()
        for _ in range(limits.JOB_KEYS_FORGOTTEN_AT_ONCE):
            if not self._resting or self._resting[0][0] > now_us:
                return
            gate = heapq.heappop(self._resting)[2]
            gate.is_resting = False
            self._let_rest(gate)

    # --- what people ask --------------------------------------------------------------------------

    @property
    def has_rates(self) -> bool:
        """Whether any rate is in force, of which the next run has to know how much was used."""
        rates = [queue.settings.rate for queue in self.queues.values()]
        return any(rates) or any(kind.has_rate for kind in self._kinds.values())

    def levels(self) -> Levels:
        """Return how full the buckets of rates are, for the next run."""
        gates: list[tuple[Where, Gate]] = [
            *((("queue", name), queue.gate) for name, queue in self.queues.items()),
            *((("job", name), kind.gate) for name, kind in self._kinds.items() if kind.gate is not None),
            *((("key", *where), gate) for where, gate in self.key_gates.items()),
        ]
        buckets = ((where, gate.bucket) for where, gate in gates if gate.bucket is not None)
        levels = ((where, bucket.level()) for where, bucket in buckets)
        # One that is full would be so without being named, too: it took longer than filling takes.
        known = [(where, level) for where, level in levels if level.part < level.whole]
        return levels_of([*known, *self._levels.items()], self._other_level, self._now_us())

    def blocked_by(self, record: JobRecord) -> tuple[Obstacle, ...]:
        """Return all that keeps a job from starting, if it were ready; when nothing does, what it waits for.

        Parameters:
            record: of a declared kind.
        """
        kind = self._kinds[record.kind]
        queue = self.queues.get(record.queue or kind.job.settings.queue)
        gates = [self._all, *([] if queue is None else [queue.gate]), *self._gates_of(kind, record)]
        found = [obstacle for gate in gates if (obstacle := gate.obstacle()) is not None]
        if queue is not None and queue.is_paused:
            found.insert(0, Obstacle("paused", f"the queue '{queue.name}' is paused"))
        found += self.suspects.obstacles(record)
        found += missing_workers(self._crews.values(), kind.job)
        if not found:
            found.append(Obstacle("worker_busy", f"all workers for the pool '{kind.job.pool}' are busy"))
        return tuple(found)

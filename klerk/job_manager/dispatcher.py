"""The dispatcher: which of the jobs that are ready starts next, within the limits of queues, kinds and keys.

Every queue has a heap of ready jobs for each sort of worker: the lanes. Among queues with room the one that
had the least of its share is next ("stride scheduling", C. A. Waldspurger and W. E. Weihl, MIT, 1995); within
a queue, the highest priority, then the oldest. A job that a limit of its kind or key keeps from starting is
set aside at that gate, where it is looked at again when the gate has room; it is never in the way of others.
"""

import heapq
from collections.abc import Callable, Mapping
from math import inf

from klerk import limits
from klerk.app import Spec
from klerk.job_manager.gates import Gate, Ready
from klerk.job_options import JobSettings, Pool, QueueSettings
from klerk.jobs import JobRecord

NO_GATES: tuple[Gate, ...] = ()


class Queue:
    """A queue as it is at the moment.

    Attributes:
        settings: as declared.
        gate: its limits; None: it has none.
        weight: its share.
        passed: how much of its share it had: starts divided by weight.
        is_paused: none of its jobs start.
    """

    def __init__(self, name: str, settings: QueueSettings, now_us: Callable[[], int]) -> None:
        self.name = name
        self.settings = settings
        self.gate: Gate | None = None
        if settings.concurrency is not None or settings.rate is not None:
            self.gate = Gate(f"queue {name}", settings.concurrency, settings.rate, now_us)
        self.weight = settings.weight
        self.passed = 0.0
        self.is_paused = False


class Lane:
    """The ready jobs of one queue for one sort of worker.

    Parameters:
        queue: whose they are.
        pool: where they run.
        tags: what their worker must have.
    """

    def __init__(self, queue: Queue, pool: Pool, tags: frozenset[str]) -> None:
        self.queue = queue
        self.pool = pool
        self.tags = tags
        self.heap: list[Ready] = []


class Dispatcher:
    """Holds the jobs that are ready. Its owner calls it under one lock.

    Parameters:
        spec: the declared jobs and queues.
        live: the records of all jobs that have not ended; one that is not in it is never given out.
        now_us: gives the time, in microseconds.
        call_at: calls something at a time; used for the moment when a rate lets the next job start.
        wake: tells the workers that there may be something for them.
    """

    def __init__(
        self,
        spec: Spec,
        live: Mapping[int, JobRecord],
        *,
        now_us: Callable[[], int],
        call_at: Callable[[int, Callable[[], None]], None],
        wake: Callable[[Gate], None],
    ) -> None:
        self._jobs = spec.jobs
        self._live = live
        self._now_us = now_us
        self._call_at = call_at
        self._wake = wake
        self.queues = {name: Queue(name, settings, now_us) for name, settings in spec.queues.items()}
        self._lanes: dict[tuple[str, Pool, frozenset[str]], Lane] = {}
        self._lanes_of: dict[tuple[Pool, frozenset[str]], list[Lane]] = {}
        self._limited = {job.name: job.settings for job in spec.jobs.values() if _has_limits(job.settings)}
        self._kind_gates = {
            kind: Gate(f"job {kind}", settings.concurrency, settings.rate, now_us)
            for kind, settings in self._limited.items()
            if settings.concurrency is not None or settings.rate is not None
        }
        self._key_gates: dict[tuple[str, str], Gate] = {}
        suspects = Gate("jobs that the process died with", limits.JOB_SUSPECTS_MAX, None, now_us)
        self._gates_of_suspects = (suspects,)
        # How much of its share the queue had that was served last: where a queue begins that was empty.
        self._passed = 0.0

    # --- jobs come --------------------------------------------------------------------------------

    def add(self, record: JobRecord) -> None:
        """Take a job that is ready to run."""
        lane = self.lane_of(record)
        if not lane.heap:
            lane.queue.passed = max(lane.queue.passed, self._passed)
        heapq.heappush(lane.heap, (-self.priority_of(record), record.id, record))

    def priority_of(self, record: JobRecord) -> int:
        """Return a job's own priority, or that of its kind."""
        own = record.priority
        return self._jobs[record.kind].settings.priority if own is None else own

    def queue_of(self, record: JobRecord) -> Queue:
        """Return the queue of a job; one that nobody declared is made."""
        name = record.queue or self._jobs[record.kind].settings.queue
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name, QueueSettings(), self._now_us)
        return queue

    def lane_of(self, record: JobRecord) -> Lane:
        """Return where a job waits for its worker."""
        job = self._jobs[record.kind]
        where = record.queue or job.settings.queue, job.pool, job.settings.tags
        lane = self._lanes.get(where)
        if lane is None:
            lane = self._lanes[where] = Lane(self.queue_of(record), job.pool, job.settings.tags)
            for (pool, tags), lanes in self._lanes_of.items():
                if lane.pool == pool and lane.tags <= tags:
                    lanes.append(lane)
        return lane

    # --- jobs go ----------------------------------------------------------------------------------

    def take(self, pool: Pool, tags: frozenset[str]) -> JobRecord | None:
        """Return the job that starts next on a worker, and count it as started; None when there is none.

        Parameters:
            pool: the sort of worker.
            tags: what the worker has.
        """
        lanes = self._lanes_of.get((pool, tags))
        if lanes is None:
            lanes = self._lanes_of[pool, tags] = [
                lane for lane in self._lanes.values() if lane.pool == pool and lane.tags <= tags
            ]
        while (lane := self._next_lane(lanes)) is not None:
            ready = heapq.heappop(lane.heap)
            record = ready[2]
            if self._live.get(record.id) is not record:
                continue
            if (record.crashes or record.kind in self._limited) and not self._enter(ready):
                continue
            queue = lane.queue
            if queue.gate is not None:
                queue.gate.enter()
            self._passed = queue.passed
            queue.passed += 1 / queue.weight
            return record
        return None

    def _next_lane(self, lanes: list[Lane]) -> Lane | None:
        best = None
        for lane in lanes:
            queue = lane.queue
            if not lane.heap or queue.is_paused or (best is not None and queue.passed >= best.queue.passed):
                continue
            if queue.gate is not None and (wait_s := queue.gate.wait_s()) > 0:
                self._alarm(queue.gate, wait_s)
                continue
            best = lane
        return best

    def gates_of(self, record: JobRecord) -> tuple[Gate, ...]:
        """Return the gates of a job's kind and key that it has to pass, and of those that saw a crash."""
        gates = self._gates_of_suspects if record.crashes else NO_GATES
        settings = self._limited.get(record.kind)
        if settings is None:
            return gates
        if (gate := self._kind_gates.get(record.kind)) is not None:
            gates = (*gates, gate)
        if record.key and (settings.key_rate is not None or settings.key_concurrency is not None):
            where = record.kind, record.key
            of_key = self._key_gates.get(where)
            if of_key is None:
                name = f"key {record.key} of job {record.kind}"
                of_key = Gate(name, settings.key_concurrency, settings.key_rate, self._now_us)
                self._key_gates[where] = of_key
            gates = (*gates, of_key)
        return gates

    def _enter(self, ready: Ready) -> bool:
        """Let a job through all of its gates, or set it aside at the first that has no room."""
        gates = self.gates_of(ready[2])
        passes = True
        for gate in gates:
            if (wait_s := gate.wait_s()) > 0:
                heapq.heappush(gate.waiting, ready)
                self._alarm(gate, wait_s)
                passes = False
                break
        if passes:
            for gate in gates:
                gate.enter()
        # Room that this job leaves at another gate is for the next one that waits there.
        for gate in gates:
            self._let_next(gate)
        return passes

    def ended(self, record: JobRecord) -> None:
        """Give back what a job held that was given out."""
        queue_gate = self.queue_of(record).gate
        if queue_gate is not None:
            queue_gate.leave()
        where = record.kind, record.key
        for gate in self.gates_of(record):
            gate.leave()
            self._let_next(gate)
            if gate.is_idle and self._key_gates.get(where) is gate:
                del self._key_gates[where]

    def left(self, record: JobRecord) -> None:
        """Note that a job that waited is not to run any more: others may wait behind it."""
        for gate in self.gates_of(record):
            self._let_next(gate)

    def _let_next(self, gate: Gate) -> None:
        """Let the first job that waits at a gate try again, if there is room."""
        waiting = gate.waiting
        while waiting and self._live.get(waiting[0][1]) is not waiting[0][2]:
            heapq.heappop(waiting)
        if not waiting:
            return
        wait_s = gate.wait_s()
        if wait_s > 0:
            self._alarm(gate, wait_s)
        else:
            self.add(heapq.heappop(waiting)[2])

    def _alarm(self, gate: Gate, wait_s: float) -> None:
        """Look at a gate again once there is a token."""
        if gate.has_alarm or wait_s == inf:
            return
        gate.has_alarm = True
        self._call_at(self._now_us() + int(wait_s * 1e6) + 1, lambda: self._wake(gate))

    def refilled(self, gate: Gate) -> None:
        """Note that the alarm of a gate went off."""
        gate.has_alarm = False
        self._let_next(gate)


def _has_limits(settings: JobSettings) -> bool:
    given = (settings.concurrency, settings.rate, settings.key_concurrency, settings.key_rate)
    return any(limit is not None for limit in given)

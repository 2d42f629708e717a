"""Claims: a job that somebody acts on by hand belongs to that action until its transaction is published.

No worker takes it meanwhile, no other action touches it, and when nothing comes of the action it goes back to
where it waited. A running job belongs to its attempt; a claim on it decides, under the lock that ends
attempts, whether the attempt still learns that it is to stop. If it is over already, the claim waits until
what became of the job is published. So an action and the end of an attempt never both apply.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

import msgspec

from klerk import limits
from klerk.errors import Conflict
from klerk.jobs import JobRecord, JobState
from klerk.running_job import RunningJob


class Claim:
    """A job that belongs to an action.

    Attributes:
        id: of the job.
        record: of the job; None when it is not in memory.
        run: the attempt that runs, which can still be asked to stop.
        before: what the attempt was to stop as before.
        after: the job as the action's transaction leaves it, once that was processed.
        is_left: nobody waits for that any more, but it comes: publishing it lets go of the job.
    """

    __slots__ = ("after", "before", "id", "is_left", "record", "run")

    def __init__(self, job_id: int, record: JobRecord | None, run: RunningJob | None) -> None:
        self.id = job_id
        self.record = record
        self.run = run
        self.before: JobState | None = None
        self.after: JobRecord | None = None
        self.is_left = False

    def take_back(self) -> None:
        """Let the attempt forget what it was asked, because nothing came of the action."""
        if self.run is not None:
            self.run.stop = self.before


class Dispatching(Protocol):
    """Gives ready jobs to workers; see `Dispatcher`."""

    def add(self, record: JobRecord) -> None: ...
    def left(self, record: JobRecord) -> None: ...


class Claims:
    """Says which jobs belong to actions.

    Parameters:
        lock: of the job manager, which holds it when it looks at `held` and calls `settle` and `tell`.
        live: the records of all jobs in memory that have not ended.
        running: their attempts.
        dispatcher: has the ready jobs that nobody claimed.
        wake: tells the workers that there may be something for them.

    Attributes:
        held: the claims by the ids of their jobs.
    """

    def __init__(
        self,
        lock: threading.Lock,
        live: dict[int, JobRecord],
        running: dict[int, RunningJob],
        dispatcher: Dispatching,
        wake: Callable[[], None],
    ) -> None:
        self._changed = threading.Condition(lock)
        self._live = live
        self._running = running
        self._dispatcher = dispatcher
        self._wake = wake
        self.held: dict[int, Claim] = {}
        self._waiting = 0

    # --- for the job manager ----------------------------------------------------------------------

    def settle(self, record: JobRecord) -> None:
        """Let go of a claimed job when this is what the action made of it, or its end."""
        if self.held[record.id].after is record or record.ended_us:
            del self.held[record.id]

    def tell(self) -> None:
        """Let those look again who wait for jobs, because something was published."""
        if self._waiting:
            self._changed.notify_all()

    # --- for actions ------------------------------------------------------------------------------

    @contextmanager
    def of(self, job_ids: list[int]) -> Iterator[list[Claim]]:
        """Claim jobs, in ascending order of their ids, for as long as the block lasts.

        Raises:
            Conflict: (``job_busy``) one of them belongs to something that does not end.
        """
        claims: list[Claim] = []
        try:
            for job_id in job_ids:
                claims.append(self._take(job_id))  # noqa: PERF401 (those before a failing one are released)
            yield claims
        finally:
            self._release(claims)

    def await_ends(self, claims: list[Claim]) -> None:
        """Wait until the ends of attempts are published that were over when the action came to them.

        The action is not in the records of their jobs: it takes effect with those ends.
        """
        deadline = monotonic() + limits.JOB_ACTION_WAIT_S
        with self._changed:
            for claim in claims:
                if claim.run is None or claim.after is not None:
                    continue
                while self._running.get(claim.id) is claim.run and self._wait(deadline - monotonic()):
                    pass

    def leave(self, claims: list[Claim]) -> None:
        """Keep jobs from everyone until what an action made of them is published, though its block ends."""
        for claim in claims:
            # One that runs goes on, and is nobody else's anyway.
            claim.is_left = claim.run is None

    def _take(self, job_id: int) -> Claim:
        deadline = monotonic() + limits.JOB_ACTION_WAIT_S
        with self._changed:
            while self._is_busy(job_id):
                if not self._wait(deadline - monotonic()):
                    raise Conflict(
                        f"job {job_id} has been changed by something else for {limits.JOB_ACTION_WAIT_S} s",
                        code="job_busy",
                        hint="Try again when the commands that wait now are done.",
                    )
            record, run = self._live.get(job_id), self._running.get(job_id)
            if run is None and record is not None and record.state is JobState.AVAILABLE:
                # The dispatcher gives out exactly what it was given itself, so that a copy is safe from it.
                self._live[job_id] = msgspec.structs.replace(record)
                self._dispatcher.left(record)
            claim = self.held[job_id] = Claim(job_id, record, run)
            return claim

    def _wait(self, wait_s: float) -> bool:
        self._waiting += 1
        try:
            return self._changed.wait(max(0.0, wait_s))
        finally:
            self._waiting -= 1

    def _is_busy(self, job_id: int) -> bool:
        run = self._running.get(job_id)
        return job_id in self.held or (run is not None and run.is_over)

    def _release(self, claims: list[Claim]) -> None:
        with self._changed:
            for claim in claims:
                if claim.is_left or self.held.get(claim.id) is not claim:
                    continue
                del self.held[claim.id]
                record = self._live.get(claim.id)
                if (
                    record is not None
                    and claim.id not in self._running
                    and record.state is JobState.AVAILABLE
                ):
                    # It waited all the time, or its attempt has ended meanwhile and it is to be tried again.
                    self._dispatcher.add(record)
            self._changed.notify_all()
        self._wake()

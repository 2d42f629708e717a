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

import msgspec

from klerk import limits
from klerk.errors import Conflict
from klerk.job_run import JobRun
from klerk.jobs import JobRecord, JobState


class Claim:
    """A job that belongs to an action.

    Attributes:
        id: of the job.
        record: of the job; None when it is not in memory.
        run: the attempt that runs, which can still be asked to stop.
        after: the job as the action's transaction leaves it, once that was processed.
    """

    __slots__ = ("after", "id", "record", "run")

    def __init__(self, job_id: int, record: JobRecord | None, run: JobRun | None) -> None:
        self.id = job_id
        self.record = record
        self.run = run
        self.after: JobRecord | None = None


class Claims:
    """Says which jobs belong to actions.

    Parameters:
        lock: of the job manager, which holds it when it calls `keeps` and `noted`.
        live: the records of all jobs in memory that have not ended.
        running: their attempts.
        give_back: puts the record of a live job where it waits; called with the lock held.
    """

    def __init__(
        self,
        lock: threading.Lock,
        live: dict[int, JobRecord],
        running: dict[int, JobRun],
        give_back: Callable[[JobRecord], None],
    ) -> None:
        self._changed = threading.Condition(lock)
        self._live = live
        self._running = running
        self._give_back = give_back
        self._held: dict[int, Claim] = {}
        self._waiting = 0

    # --- for the job manager ----------------------------------------------------------------------

    def keeps(self, job_id: int) -> bool:
        """Return whether a job belongs to an action, so that it must not be given to a worker."""
        return job_id in self._held

    def noted(self, records: list[JobRecord]) -> None:
        """Let go of the jobs whose actions were published with these records."""
        if not self._held and not self._waiting:
            return
        for record in records:
            claim = self._held.get(record.id)
            if claim is not None and (claim.after is record or record.ended_us):
                del self._held[record.id]
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
                claims.append(self._take(job_id))
            yield claims
        finally:
            self._release(claims)

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
            if record is not None and run is None:
                # A copy: the dispatcher gives out exactly what it was given itself.
                record = self._live[job_id] = msgspec.structs.replace(record)
            claim = self._held[job_id] = Claim(job_id, record, run)
            return claim

    def _wait(self, wait_s: float) -> bool:
        self._waiting += 1
        try:
            return self._changed.wait(max(0.0, wait_s))
        finally:
            self._waiting -= 1

    def _is_busy(self, job_id: int) -> bool:
        run = self._running.get(job_id)
        return job_id in self._held or (run is not None and run.is_over)

    def _release(self, claims: list[Claim]) -> None:
        with self._changed:
            for claim in claims:
                if self._held.get(claim.id) is not claim:
                    continue
                del self._held[claim.id]
                record = self._live.get(claim.id)
                if record is not None and claim.id not in self._running:
                    self._give_back(record)
            self._changed.notify_all()


"""Suspects: jobs that the process died with before, and how they are kept apart from each other and the rest.

They run one at a time beside other jobs. Those that one more crash could make poison run alone at first after
a start, so that it is known then which job the process died with. Neither lasts for ever: a job that has run
for some time lets others in, so that many suspects, or a long one, do not hold up the rest.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from klerk import limits
from klerk.job_manager.gates import Gate, Obstacle
from klerk.job_options import Pool
from klerk.jobs import Job, JobRecord

__all__ = ["Suspect", "Suspects"]


class Suspect:
    """A suspect that runs, or that is to run alone next.

    Parameters:
        id: of the job.
    """

    __slots__ = ("id",)

    def __init__(self, job_id: int) -> None:
        self.id = job_id


class Suspects:
    """Keeps suspects apart. Its owner calls it under one lock.

    Parameters:
        jobs: the declared ones.
        call_after: calls something after so many microseconds.
        wake: told, then, the suspect to hand to `lapse`.
        can_start: says whether the limits of a suspect let it start now.
        put_back: takes those that are not to run alone any more.

    Attributes:
        gate: lets one suspect in at a time.
        is_alone: at this moment a suspect runs alone, or is to run alone, so that nothing else starts.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job[Any]],
        call_after: Callable[[int, Callable[[], None]], None],
        wake: Callable[[Suspect], None],
        can_start: Callable[[JobRecord], bool],
        put_back: Callable[[JobRecord], None],
    ) -> None:
        self.gate = Gate("jobs that the process died with", limits.JOB_SUSPECTS_MAX, None)
        self.is_alone = False
        self._jobs = jobs
        self._call_after = call_after
        self._wake = wake
        self._can_start = can_start
        self._put_back = put_back
        # The sorts of workers that there are, until those are known that are to run alone.
        self._pools: Collection[Pool] = ()
        self._tags: frozenset[str] = frozenset()
        self._waiting: dict[int, JobRecord] = {}
        self._alone: Suspect | None = None
        # Stands for all that are set aside, in the alarm that ends this.
        self._all = Suspect(0)
        # Those that run and hold a place in the gate, by their ids.
        self._inside: dict[int, Suspect] = {}

    # --- who runs alone ---------------------------------------------------------------------------

    def gather(self, pools: Collection[Pool], tags: frozenset[str]) -> None:
        """Set those aside from now on that are to run alone, until `begin`.

        Parameters:
            pools, tags: of the workers that there are.
        """
        self._pools, self._tags = pools, tags

    def takes(self, record: JobRecord) -> bool:
        """Return whether a job that is ready is set aside to run alone."""
        job = self._jobs[record.kind]
        if job.pool not in self._pools or not job.settings.tags <= self._tags or self._surplus(record) < 0:
            return False
        self._waiting[record.id] = record
        return True

    def begin(self) -> None:
        """Let those run alone, one after the other, that were set aside; those that cannot start are not.

        Who goes first differs from crash to crash: one that lasts long ends this for those after it. All of
        them together have as long as one of them may have at most.
        """
        self._pools = ()
        self.withdraw(lambda record: not self._can_start(record))
        if self._waiting:
            ordered = sorted(self._waiting.values(), key=lambda record: record.id)
            most = max(map(self._surplus, ordered))
            first = most % len(ordered)
            self._waiting = {record.id: record for record in ordered[first:] + ordered[:first]}
            self._set_alarm(most, self._all)
            self._next()

    def withdraw(self, which: Callable[[JobRecord], bool]) -> None:
        """Put those back that were set aside, do not run yet, and are not to run alone after all."""
        for record in [record for record in self._waiting.values() if which(record)]:
            # The turn of one before it may have come to it, and found that it cannot start.
            if self._waiting.pop(record.id, None) is not None:
                self._put_back(record)
                self.go_on(record)

    def next(self, pool: Pool) -> JobRecord | None:
        """Return the suspect that is to start alone now on a worker; None when there is none for it."""
        if self._alone is None or self._alone.id in self._inside:
            return None
        record = self._waiting[self._alone.id]
        if self._jobs[record.kind].pool != pool:
            return None
        del self._waiting[record.id]
        return record

    def _next(self) -> None:
        """Let the next one run alone that can start now, if there is one, or the rest begin."""
        self.is_alone, self._alone = False, None
        for record in list(self._waiting.values()):
            if self._can_start(record):
                self.is_alone, self._alone = True, Suspect(record.id)
                self._set_alarm(self._surplus(record), self._alone)
                return
            del self._waiting[record.id]
            self._put_back(record)

    # --- they come and go -------------------------------------------------------------------------

    def started(self, record: JobRecord) -> None:
        """Note that a suspect was given to a worker, and passed the gate."""
        is_alone = self._alone is not None and self._alone.id == record.id
        suspect = self._inside[record.id] = Suspect(record.id)
        if is_alone:
            self._alone = suspect
        self._set_alarm(self._surplus(record), suspect)

    def ended(self, record: JobRecord) -> bool:
        """Note that a suspect that was started is over; return whether it held its place still."""
        return self._inside.pop(record.id, None) is not None

    def left(self, record: JobRecord) -> bool:
        """Note that a ready suspect is ready no more; return whether it was set aside."""
        return self._waiting.pop(record.id, None) is not None

    def go_on(self, record: JobRecord) -> None:
        """Let the next one run alone, if it was this one's turn, which is gone, with all that it held."""
        if self._alone is not None and self._alone.id == record.id:
            self._next()

    def lapse(self, suspect: Suspect) -> bool:
        """Note that a suspect has run, or waited for a worker, for as long as others wait for it, or all of
        them for as long as the rest waits: none runs alone any more. Return whether it leaves the gate."""
        leaves = self._inside.get(suspect.id) is suspect
        if leaves:
            del self._inside[suspect.id]
        if suspect in (self._alone, self._all):
            self.is_alone, self._alone = False, None
            self.withdraw(lambda _: True)
        return leaves

    def _set_alarm(self, surplus: int, suspect: Suspect) -> None:
        # One that kills the process late is alone at its death, too, after some more of them.
        doubled = min(max(0, surplus), limits.JOB_ALONE_DOUBLED_MAX)
        self._call_after(int(limits.JOB_ALONE_S * 1e6) << doubled, lambda: self._wake(suspect))

    def _surplus(self, record: JobRecord) -> int:
        """Return how many more crashes a suspect has than those after which it is first to run alone; less
        than 0: it is not."""
        return record.crashes - max(1, self._jobs[record.kind].settings.max_crashes - 1)

    def obstacles(self, record: JobRecord) -> list[Obstacle]:
        """Return that a job has to wait for one that runs alone; nothing when none does."""
        if self._alone is None or self._alone.id == record.id:
            return []
        text = f"job {self._alone.id} runs alone at first, because the process died with it"
        return [Obstacle("concurrency", text)]

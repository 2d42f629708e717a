"""How many jobs there are of each sort: counted as they change, never by looking at all of them."""

from collections import Counter
from collections.abc import Mapping

from klerk.job_manager.job_rows import Sort, sort_of
from klerk.jobs import Job, JobRecord, JobState

ENDS = (JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED)


class Tally:
    """Counts jobs: those that have not ended, and those that ended and are kept. Its owner calls it under one
    lock.

    Parameters:
        stored: how many of each sort are known from the store.
        ended_jobs: completed, discarded and cancelled since the store was made.

    Attributes:
        totals: how often jobs came to each final state since the store was made; these only grow.
    """

    def __init__(self, stored: Mapping[Sort, int], ended_jobs: tuple[int, int, int]) -> None:
        self._counts: Counter[Sort] = Counter(stored)
        self.totals: Counter[JobState] = Counter(dict(zip(ENDS, ended_jobs, strict=True)))

    def add(self, record: JobRecord) -> None:
        """Count a job."""
        self._counts[record.state, record.kind, record.queue] += 1

    def add_ended(self, record: JobRecord) -> None:
        """Count a job that has come to its end."""
        self.add(record)
        self.totals[record.state] += 1

    def remove(self, record: JobRecord) -> None:
        """Count a job no more."""
        self._subtract(sort_of(record), 1)

    def move(self, before: JobRecord, after: JobRecord) -> None:
        """Count a job as what it is now."""
        self.remove(before)
        self.add(after)

    def remove_sorts(self, sorts: Mapping[Sort, int]) -> None:
        """Count jobs no more that are not kept any longer."""
        for sort, count in sorts.items():
            self._subtract(sort, count)

    def _subtract(self, sort: Sort, count: int) -> None:
        left = self._counts[sort] - count
        if left:
            self._counts[sort] = left
        else:
            # Queues are made by being named: what is over must not stay behind.
            del self._counts[sort]

    def sorts(self) -> tuple[Sort, ...]:
        """Return the sorts of jobs that there are."""
        return tuple(self._counts)

    def count(self, sort: Sort) -> int:
        """Return how many jobs of a sort there are."""
        return self._counts[sort]

    def kept(self) -> int:
        """Return how many jobs are kept that have ended."""
        return sum(count for (state, _, _), count in self._counts.items() if state in ENDS)

    def has(self, state: JobState) -> bool:
        """Return whether any job is in a state."""
        return any(count and each == state for (each, _, _), count in self._counts.items())

    def by_state(
        self, kind: str | None, queue: str | None, declared: Mapping[str, Job[...]]
    ) -> dict[JobState, int]:
        """Return how many jobs are in each state.

        Parameters:
            kind, queue: count these only; None: all.
            declared: the jobs of the design, which say what queue a job is in that names none.
        """
        counts = dict.fromkeys(JobState, 0)
        for (state, of_kind, of_queue), count in self._counts.items():
            if kind is not None and of_kind != kind:
                continue
            if queue is not None and queue_of(of_kind, of_queue, declared) != queue:
                continue
            counts[JobState(state)] += count
        return counts


def queue_of(kind: str, queue: str, declared: Mapping[str, Job[...]]) -> str:
    """Return the queue of a job: its own, or that of its kind; "" when nobody declares that any more."""
    if queue or kind not in declared:
        return queue
    return declared[kind].settings.queue

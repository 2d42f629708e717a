"""The jobs that wait for a time."""

import heapq
from collections.abc import Callable

from klerk.scheduler import Scheduler


class DueJobs:
    """Says which jobs have come due, by their ids. Its owner calls it under one lock.

    Parameters:
        scheduler: wakes this when the earliest comes due.
        due: called, in the scheduler's thread, when there is something to `take`.
    """

    def __init__(self, scheduler: Scheduler, due: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._due = due
        self._heap: list[tuple[int, int]] = []
        self._alarm_us = 0

    def add(self, run_at_us: int, job_id: int) -> None:
        """Remember when a job comes due."""
        heapq.heappush(self._heap, (run_at_us, job_id))
        self._set_alarm()

    def take(self, now_us: int) -> list[int]:
        """Return the ids of the jobs that have come due, and forget them; some may be gone meanwhile."""
        self._alarm_us = 0
        due = []
        while self._heap and self._heap[0][0] <= now_us:
            due.append(heapq.heappop(self._heap)[1])
        self._set_alarm()
        return due

    def _set_alarm(self) -> None:
        if self._heap and (not self._alarm_us or self._heap[0][0] < self._alarm_us):
            self._alarm_us = self._heap[0][0]
            self._scheduler.at(self._alarm_us, self._due)

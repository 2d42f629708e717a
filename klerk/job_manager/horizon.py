"""The jobs that wait for a time: the soonest in memory, all others in the store alone.

A moment divides them. Whatever waits for less is in memory; whatever waits for that or more is read from the
store, a page at a time, when those in memory run low. A page that was read is compared with what was noted
meanwhile, so that no job is lost or doubled between the store and memory, whatever happens in between.
"""

import heapq
import logging
from collections.abc import Callable

from klerk import limits
from klerk.errors import Closed, KlerkError
from klerk.job_manager.job_rows import Moment, due_of
from klerk.jobs import JobRecord
from klerk.log_events import about
from klerk.scheduler import Scheduler

LOG = logging.getLogger("klerk")

Page = list[JobRecord]


class Horizon:
    """Says which jobs have come due, by their ids. Its owner calls it under one lock.

    Parameters:
        live: the jobs in memory. Those that are put back into the store alone are removed from it.
        scheduler: wakes this when the earliest comes due, and lends its thread for reading.
        due: called, in the scheduler's thread, when there is something to `take`.
        load: called, in the scheduler's thread, when `begin_load` has something to be read.
        later: where those begin that are in the store alone; None: there are none.
    """

    def __init__(
        self,
        live: dict[int, JobRecord],
        scheduler: Scheduler,
        *,
        due: Callable[[], None],
        load: Callable[[], None],
        later: Moment | None,
    ) -> None:
        self._live = live
        self._scheduler = scheduler
        self._due = due
        self._load = load
        self._later = later
        self._heap: list[Moment] = []
        self._due_us: dict[int, int] = {}
        # Those among them that never are in the store alone.
        self._staying: set[int] = set()
        self._alarm_us = 0
        self._asked = False
        self._began: Moment | None = None
        # What was noted since reading began, by id.
        self._noted: dict[int, JobRecord] | None = None

    @property
    def later(self) -> Moment | None:
        """Where those jobs begin that are in the store alone; None: there are none."""
        return self._later

    def is_behind(self, now_us: int) -> bool:
        """Return whether jobs may have come due that are still in the store alone."""
        return self._later is not None and self._later[0] <= now_us

    # --- jobs come and go -------------------------------------------------------------------------

    def add(self, record: JobRecord) -> None:
        """Take a job that waits for a time, unless it waits for longer than all that are in memory.

        One that has to do with others is always taken.
        """
        moment = record.run_at_us, record.id
        if due_of(record) is None:
            self._staying.add(record.id)
        elif self._later is not None and moment >= self._later:
            return
        self._live[record.id] = record
        if self._due_us.get(record.id) != record.run_at_us:
            self._due_us[record.id] = record.run_at_us
            heapq.heappush(self._heap, moment)
        self._set_alarm()

    def note(self, record: JobRecord) -> None:
        """Learn that a job was changed; it is `add`-ed after this if it waits for a time."""
        self._due_us.pop(record.id, None)
        self._staying.discard(record.id)
        if self._noted is not None:
            self._noted[record.id] = record

    def _at_hand(self) -> int:
        return len(self._due_us) - len(self._staying)

    def shorten(self) -> None:
        """Leave the last jobs to the store alone when there are too many in memory.

        They must have been taken over by what writes them.
        """
        too_many = self._at_hand() >= 2 * limits.JOBS_AT_HAND_MAX
        if not too_many and len(self._heap) < 4 * limits.JOBS_AT_HAND_MAX:
            return
        # What was put off, or does not wait any more, leaves the heap with this.
        self._heap = sorted((due_us, job_id) for job_id, due_us in self._due_us.items())
        if not too_many:
            return
        at_hand = [moment for moment in self._heap if moment[1] not in self._staying]
        last = at_hand[limits.JOBS_AT_HAND_MAX :]
        self._later = last[0]
        for _, job_id in last:
            del self._due_us[job_id], self._live[job_id]
        self._heap = [moment for moment in self._heap if moment[1] in self._due_us]

    def take(self, now_us: int) -> list[int]:
        """Return the ids of the jobs that have come due, and forget them."""
        self._alarm_us = 0
        due = []
        while self._heap and self._heap[0][0] <= now_us:
            due_us, job_id = heapq.heappop(self._heap)
            if self._due_us.get(job_id) == due_us:
                del self._due_us[job_id]
                self._staying.discard(job_id)
                due.append(job_id)
        self._set_alarm()
        return due

    def _set_alarm(self) -> None:
        while self._heap and self._due_us.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        if self._heap and (not self._alarm_us or self._heap[0][0] < self._alarm_us):
            self._alarm_us = self._heap[0][0]
            self._scheduler.at(self._alarm_us, self._due)

    # --- from the store ---------------------------------------------------------------------------

    def look_ahead(self) -> None:
        """Have more jobs read when those in memory run low."""
        if self._later is None or self._asked or self._at_hand() > limits.JOBS_AT_HAND_MAX // 2:
            return
        self._ask(0)

    def _ask(self, when_us: int) -> None:
        self._asked = True
        self._scheduler.at(when_us, self._load)

    def begin_load(self) -> Moment | None:
        """Return from where on to read the next page; from now on what is noted is remembered."""
        self._began = self._later
        self._asked = self._later is not None
        self._noted = {} if self._asked else None
        return self._later

    def end_load(self, page: Page, is_last: bool) -> Page:
        """Return which jobs come into memory with a page that was read; the caller `add`-s those that wait.

        Parameters:
            page: as it stands in the store, in the order of their times.
            is_last: nothing comes after it.
        """
        noted, self._noted, self._asked = self._noted or {}, None, False
        if self._later != self._began:
            # There were so many sooner ones meanwhile that this is not the next page any more.
            return []
        self._later = None if is_last or not page else (page[-1].run_at_us, page[-1].id + 1)
        found = [record for record in page if record.id not in noted]
        for record in noted.values():
            moment = due_of(record)
            if moment is not None and (self._later is None or moment < self._later):
                found.append(record)
        return [record for record in found if record.id not in self._live]

    def failed_load(self, error: KlerkError) -> None:
        """Try again later what could not be read."""
        self._noted = None
        if not isinstance(error, Closed):
            LOG.error("jobs that wait for later times cannot be read: %s", error, extra=about("job_unread"))
            self._ask(self._scheduler.now_us() + int(limits.JOBS_READ_AGAIN_S * 1e6))

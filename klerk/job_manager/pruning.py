"""Pruning: ended jobs that are not kept any longer leave the store, and so do results that have expired.

It is done by the thread that writes jobs, after it has written, in small batches between which others get
their turn; never while a command is processed.
"""

import heapq
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import chain, islice
from typing import Any

import msgspec

from klerk import limits
from klerk.codec import encode
from klerk.job_manager.job_rows import ENDED, RESULT, Row, find_row, scan_moments
from klerk.job_manager.job_store import JobStore
from klerk.job_manager.live_jobs import LiveJobs
from klerk.job_manager.retention import Retention
from klerk.jobs import Job
from klerk.scheduler import Scheduler

Batch = list[Row]


class Pruning:
    """Removes what is not kept any longer, the oldest first.

    Parameters:
        retention: what is kept.
        declared: the jobs of the design, which say how long results are kept.
        store: where jobs are read and written.
        scheduler: wakes it when the next job or result expires.
        jobs: knows which are being changed.
        lock: guards how they are counted.

    Attributes:
        is_needed: ``is_needed(job_id)`` says whether something live still needs an ended job.
    """

    def __init__(
        self,
        retention: Retention,
        declared: Iterable[Job[Any]],
        store: JobStore,
        scheduler: Scheduler,
        jobs: LiveJobs,
        lock: threading.Lock,
    ) -> None:
        self.is_needed: Callable[[int], bool] = lambda job_id: False
        self._keep_us = {state: _us(getattr(retention, state.value)) for state in ENDED}
        self._count_max = retention.count_max
        self._storage, self._checkpointer = store.storage, store.checkpointer
        self._scheduler = scheduler
        self._jobs = jobs
        self._lock = lock
        results = (_us(job.settings.keep_result) for job in declared)
        self._shortest_us = min(
            (us for us in (*self._keep_us.values(), *results) if us is not None), default=None
        )
        self._pruning = threading.Lock()
        # Before this moment nothing expires.
        self._next_us: int | None = 0
        self._alarm_us: int | None = None

    def start(self) -> None:
        """Begin to remove what expires."""
        self._checkpointer.tidy = self._tidy
        self._checkpointer.nudge()

    def prune(self) -> int:
        """Remove everything that is not kept any longer; return how many jobs that were."""
        # What has ended is found in its place only when it has been written.
        self._checkpointer.write()
        return self._prune(None)

    def _tidy(self) -> None:
        """Remove some of what is not kept any longer, if there may be anything."""
        now_us = self._scheduler.now_us()
        if self._next_us is not None and self._shortest_us is not None:
            # The clock may have been set back.
            self._next_us = min(self._next_us, now_us + self._shortest_us)
        if (self._next_us is None or now_us < self._next_us) and not self._surplus():
            self._set_alarm()
            return
        if self._prune(limits.JOBS_PRUNED_AT_ONCE) >= limits.JOBS_PRUNED_AT_ONCE:
            self._next_us = 0
            self._checkpointer.nudge()

    def _prune(self, count_max: int | None) -> int:
        # One at a time: what is too many for one is gone before another counts.
        with self._pruning:
            pruned = self._prune_in_turn(self._scheduler.now_us(), count_max)
            self._set_alarm()
        return pruned

    def _prune_in_turn(self, now_us: int, count_max: int | None) -> int:
        # What ends from now on expires no sooner than this.
        self._next_us = None if self._shortest_us is None else now_us + self._shortest_us
        for batch in _batches(self._expired(RESULT, 0, now_us)):
            self._drop_results(batch)
        expired = (
            self._expired(prefix, keep_us, now_us)
            for state, prefix in ENDED.items()
            if (keep_us := self._keep_us[state]) is not None
        )
        pruned = 0
        # What is too many is seen only after the others have gone.
        for batch in chain(_batches(chain(*expired)), _batches(self._too_many())):
            pruned += self._remove(batch)
            if count_max is not None and pruned >= count_max:
                break
        return pruned

    # --- what is to go ----------------------------------------------------------------------------

    def _expired(self, prefix: bytes, keep_us: int, now_us: int) -> Iterator[Row]:
        """Yield the rows of a place whose time is over, and note when that of the next one is."""
        for time_us, job_id in scan_moments(self._storage, prefix):
            if time_us + keep_us > now_us:
                self._next_us = min(self._next_us or time_us + keep_us, time_us + keep_us)
                return
            yield prefix, time_us, job_id

    def _too_many(self) -> Iterator[Row]:
        """Yield the rows of the jobs that ended first, as many as are too many, and a few more."""
        surplus = self._surplus()
        if not surplus:
            return
        surplus += (self._count_max or 0) // limits.JOBS_PRUNED_BEYOND_SHARE
        ended = heapq.merge(*(self._in_place(prefix) for prefix in ENDED.values()))
        for time_us, job_id, prefix in islice(ended, surplus):
            yield prefix, time_us, job_id

    def _in_place(self, prefix: bytes) -> Iterator[tuple[int, int, bytes]]:
        for time_us, job_id in scan_moments(self._storage, prefix):
            yield time_us, job_id, prefix

    def _surplus(self) -> int:
        if self._count_max is None:
            return 0
        with self._lock:
            return max(0, self._jobs.tally.kept() - self._count_max)

    # --- how it goes ------------------------------------------------------------------------------

    def _remove(self, batch: Batch) -> int:
        """Remove ended jobs, except those that were changed since, or are needed; return how many."""
        with self._checkpointer.rows_at_rest() as rows, self._jobs.foreseeing:
            removed = rows.prune(
                row for row in batch if self._is_settled(row[2]) and not self.is_needed(row[2])
            )
            with self._lock:
                self._jobs.tally.remove_sorts(removed)
        return removed.total()

    def _drop_results(self, batch: Batch) -> None:
        """Store ended jobs without their results, except those that were changed since."""
        with self._checkpointer.rows_at_rest() as rows, self._jobs.foreseeing:
            without = []
            for _, until_us, job_id in batch:
                record = find_row(self._storage, job_id) if self._is_settled(job_id) else None
                if record is not None and record.result_until_us == until_us:
                    without.append(msgspec.structs.replace(record, result=b""))
            rows.write([(record, encode(record)) for record in without])

    def _is_settled(self, job_id: int) -> bool:
        """Return whether the store has the newest that there is of a job."""
        return self._checkpointer.unwritten_job(job_id)[0] is None and not self._jobs.is_foreseen(job_id)

    def _set_alarm(self) -> None:
        """Come back when the next job or result expires, though nothing else happens."""
        if self._next_us is not None and (self._alarm_us is None or self._next_us < self._alarm_us):
            self._alarm_us = self._next_us
            self._scheduler.at(self._next_us, self._wake)

    def _wake(self) -> None:
        self._alarm_us = None
        self._checkpointer.nudge()


def _us(duration: timedelta | None) -> int | None:
    return None if duration is None else duration // timedelta.resolution


def _batches(rows: Iterator[Row]) -> Iterator[Batch]:
    while batch := list(islice(rows, limits.CHECKPOINT_BATCH_RECORDS)):
        yield batch

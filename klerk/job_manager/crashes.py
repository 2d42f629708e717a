"""What became of the jobs that were running when the process died: tried again, given up, or unknown."""

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from klerk import limits
from klerk.app import Spec
from klerk.job_failures import JobFailure, listed_with
from klerk.jobs import OUTCOME_UNKNOWN, JobRecord, JobState
from klerk.log_events import about_job
from klerk.storage.marks import MarkFile
from klerk.texts import times

LOG = logging.getLogger("klerk")

# A mark holds the id of a job and, above it, a few bits of what every recorded end of an attempt changes: an
# attempt that had ended is not blamed, nor is a crash counted twice. 44 bits of ids last for 27 years at
# 20,000 jobs a second.
_ID_BITS = 44
_ID_MASK = (1 << _ID_BITS) - 1
_PROGRESS_MASK = (1 << 64 - _ID_BITS) - 1
# Any odd number: neighbouring counts must not cancel each other.
_CRASH_STEP = 4099


class Crashes:
    """Marks the jobs that are running, and says at the next start which of them the process died with.

    A job that was running is blamed, whether it was the reason or not. From then on it is a suspect
    (`klerk.job_manager.suspects`). It is given up only when it ran alone as the process died: then it was the
    reason, or none of the jobs was.

    Called by any thread: each statement on what it owns is atomic.

    Parameters:
        spec: the declared jobs.
        marks: of this run and the last; None: there are none.
        records: the jobs that the store held.
    """

    def __init__(self, spec: Spec, marks: MarkFile | None, records: Sequence[JobRecord]) -> None:
        self._jobs = spec.jobs
        self._file = marks
        found = {} if marks is None else {mark & _ID_MASK: mark for mark in marks.found}
        marked = [record for record in records if found.get(record.id) == _mark_of(record)] if found else []
        self._died = {record.id for record in marked}
        self._one_died_alone = len(marked) == 1
        self._started_once = [record.id for record in records if record.state is JobState.EXECUTING]
        # What a job takes comes from the end: places that are used again are in the cache.
        self._free = [] if marks is None else list(range(limits.JOBS_MARKED_MAX))
        self._places: dict[int, int] = {}

    # --- while jobs run ---------------------------------------------------------------------------

    def begin(self, record: JobRecord) -> None:
        """Mark a job that is given to its function. When all places are taken, it stays unmarked."""
        if self._file is not None and self._free:
            place = self._places[record.id] = self._free.pop()
            self._file.slots[place] = _mark_of(record)

    def end(self, job_id: int) -> None:
        """Remove the mark of a job, if it has one: nothing runs for it any more."""
        place = self._places.pop(job_id, None)
        if place is not None and self._file is not None:
            self._file.slots[place] = 0
            self._free.append(place)

    def close(self) -> None:
        """Remove the marks of jobs that go on although they are not waited for any more."""
        self._places.clear()
        # What the last run left stays until it is recorded.
        if self._file is not None and not self._died:
            self._file.clear()

    # --- at the next start ------------------------------------------------------------------------

    def died_with(self, record: JobRecord) -> bool:
        """Return whether the process died while a job ran that can be run again."""
        # One that runs at most once, and had been called, is stored as executing.
        return record.id in self._died and not self._jobs[record.kind].settings.at_most_once

    def recorded(self, live: Mapping[int, JobRecord], now_us: int) -> list[JobRecord]:
        """Return what is to be recorded of the jobs that were executing, before anything runs.

        Parameters:
            live: the jobs that have not ended. Those that the process died with count as executing.
            now_us: the time, in microseconds.
        """
        started = set(self._started_once)
        found = [live[id] for id in sorted(started | (self._died & live.keys()))]
        return [
            self._of_unknown_outcome(record, now_us)
            if record.id in started
            else self._of_blamed(record, now_us)
            for record in found
            if record.state is JobState.EXECUTING
        ]

    def forget(self) -> None:
        """Remove the marks of the last run: what became of its jobs is recorded."""
        self._died.clear()
        if self._file is not None:
            self._file.clear()

    def _of_blamed(self, record: JobRecord, now_us: int) -> JobRecord:
        """Return the record of a job that is tried again, or given up as poison."""
        crashes, crashes_max = record.crashes + 1, self._jobs[record.kind].settings.max_crashes
        error = f"the process died {times(crashes)} while it ran"
        told = about_job("job_crashed", record, self._queue(record), crashes=crashes, error=error)
        beside = "" if self._one_died_alone else ", beside others"
        text = "job %d (%s): %s%s; it is given up after %d, if it runs alone in the last one"
        LOG.warning(text, record.id, record.kind, error, beside, crashes_max, extra=told)
        if crashes < crashes_max or not self._one_died_alone:
            blamed = msgspec.structs.replace(record, state=JobState.AVAILABLE, crashes=crashes, error=error)
            return _with_failure(blamed, record.attempt + 1, now_us)
        given_up = msgspec.structs.replace(
            record,
            state=JobState.DISCARDED,
            crashes=crashes,
            error=f"poison: {error}",
            ended_us=now_us,
            stop="",
        )
        return _with_failure(given_up, record.attempt + 1, now_us)

    def _of_unknown_outcome(self, record: JobRecord, now_us: int) -> JobRecord:
        """Return the record of a job that runs at most once and was started when the process ended."""
        LOG.warning(
            "job %d (%s): its outcome is unknown, and it runs at most once",
            record.id,
            record.kind,
            extra=about_job("job_outcome_unknown", record, self._queue(record)),
        )
        unknown = msgspec.structs.replace(
            record,
            state=JobState.DISCARDED,
            attempt=record.attempt + 1,
            crashes=record.crashes + (record.id in self._died),
            error=f"{OUTCOME_UNKNOWN}: the process ended after it was started, and it runs at most once",
            ended_us=now_us,
            stop="",
        )
        return _with_failure(unknown, unknown.attempt, now_us)

    def _queue(self, record: JobRecord) -> str:
        return self._jobs[record.kind].settings.queue


def _with_failure(record: JobRecord, attempt: int, now_us: int) -> JobRecord:
    """Return the record of a job with the attempt listed in which the process ended."""
    failure = JobFailure(attempt=attempt, at_us=now_us, error=record.error)
    return msgspec.structs.replace(record, errors=listed_with(record.errors, failure))


def with_marked(
    records: list[JobRecord], marks: MarkFile | None, find: Callable[[int], JobRecord | None]
) -> list[JobRecord]:
    """Return the jobs that the store held for memory, and those that were running although others come first.

    Parameters:
        records: the ready jobs, and the soonest of those that wait for a time.
        marks: that the last run left; None: there are none.
        find: reads a job that has not ended.
    """
    if marks is None or not marks.found:
        return records
    known = {record.id for record in records}
    beside = [find(mark & _ID_MASK) for mark in marks.found if mark & _ID_MASK not in known]
    return records + [record for record in beside if record is not None]


def _mark_of(record: JobRecord) -> int:
    progress = record.attempt + record.run_at_us + record.crashes * _CRASH_STEP
    return record.id & _ID_MASK | (progress & _PROGRESS_MASK) << _ID_BITS

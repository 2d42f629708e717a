"""Where jobs are looked up: those at hand in memory, the others in the store; each as it is now."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from klerk import limits
from klerk.app import Spec
from klerk.batch import Batch
from klerk.errors import ArgumentError, Closed, NotFound
from klerk.job_manager.arguments import StoredArguments
from klerk.job_manager.job_rows import DUE, READY, Moment
from klerk.job_manager.job_store import JobStore
from klerk.job_manager.searching import UNENDED, JobPage, JobPlace, Search, references
from klerk.jobs import FINAL_STATES, Job, JobRecord, JobRequest, JobState
from klerk.running_job import RunningJob
from klerk.values import Ref

_ENDED = b""
_PLACES = (READY, DUE, _ENDED)
_AT_HAND = (JobState.AVAILABLE, JobState.EXECUTING)


def id_of_job(job: object) -> int:
    """Return the id of a job that is given as its record, or as its id.

    Raises:
        ArgumentError: it is neither.
        NotFound: no job ever has this id.
    """
    if isinstance(job, JobRecord):
        return job.id
    if type(job) is not int:
        hint = next((text for cls, text in _NO_JOBS.items() if isinstance(job, cls)), "")
        raise ArgumentError(f"expected a job's record or id, got {type(job).__name__}", hint=hint)
    if not 0 < job < 2**63:
        raise no_job(job)
    return job


_NO_JOBS: Final[Mapping[type, str]] = {
    str: "An id is a number: int(text). Jobs of a kind are found by k.jobs.query(kind=...).",
    JobRequest: "A request is no job yet: k.jobs.schedule(request) makes it one, and returns its record.",
    Job: "Jobs of a kind are found by k.jobs.query(kind=...).",
    tuple: "Give one of them: k.jobs.schedule(...) returns a record for each request.",
    JobPage: "Give one of its items.",
    Batch: "A batch has jobs, each with a record; k.jobs.batch(record.batch) tells how far it is.",
}
"""What is given in place of a job, and what was meant."""


def no_job(job_id: int) -> NotFound:
    """Return the error for the id of no job."""
    return NotFound(f"there is no job {job_id}", hint="It never was, or is not kept any more.")


class Books:
    """Looks jobs up. Can be called from any thread, and takes no lock.

    Parameters:
        spec: the declared jobs.
        arguments: knows which ones they take.
        live: the records of all jobs in memory that have not ended.
        running: their attempts.
        store: reads the others.
        now_us: gives the time, in microseconds.
    """

    def __init__(
        self,
        spec: Spec,
        arguments: StoredArguments,
        live: Mapping[int, JobRecord],
        running: Mapping[int, RunningJob],
        store: JobStore,
        now_us: Callable[[], int],
    ) -> None:
        self._types = spec.job_parameters
        self._arguments = arguments
        self._live = live
        self._running = running
        self._store = store
        self._now_us = now_us
        self._is_closed = False

    def close(self) -> None:
        """Look nothing up any more: what is still in memory is what it was when this was closed."""
        self._is_closed = True

    def _require_open(self) -> None:
        if self._is_closed:
            raise Closed("this Klerk is closed", hint="Open the app again.")

    # --- one job ----------------------------------------------------------------------------------

    def get(self, job_id: int) -> JobRecord:
        """Return a job, whether it is still to run or has ended.

        Raises:
            NotFound: there is none with this id, or it ended and is not kept any more.
        """
        record = self.peek(job_id)
        if record is None:
            raise no_job(job_id)
        return record

    def peek(self, job_id: int) -> JobRecord | None:
        """Return a job as `get` does; None when there is none."""
        self._require_open()
        record = self._at_hand(job_id)
        if record is None:
            record = self._store.get(job_id)
            return None if record is None else self.shown(record)
        return record

    def _at_hand(self, job_id: int) -> JobRecord | None:
        """Return a job that is in memory, with what it told of itself while it runs."""
        record = self._live.get(job_id)
        run = self._running.get(job_id)
        if record is None or run is None:
            return record
        return msgspec.structs.replace(run.shown_in(record), state=JobState.EXECUTING)

    def shown(self, record: JobRecord) -> JobRecord:
        """Return a stored job with arguments of the declared types, or as it is when they do not fit."""
        try:
            return self.typed(record)
        except ValueError:
            return record

    def typed(self, record: JobRecord) -> JobRecord:
        """Return a job with arguments of the declared types.

        Raises:
            ValueError: they do not fit, or there is no job of its kind.
        """
        return self._arguments.typed(record)

    def models(self, record: JobRecord) -> tuple[Ref[Any], ...]:
        """Return the references among a job's arguments."""
        return references(self._types, record)

    # --- many jobs --------------------------------------------------------------------------------

    def pages(self, search: Search) -> Iterator[list[JobRecord]]:
        """Yield all jobs that are found, some at a time."""
        while True:
            page = self.page(search)
            yield list(page.items)
            if page.next is None:
                return
            search = msgspec.structs.replace(search, after=page.next)

    def page(self, search: Search) -> JobPage:
        """Return some of the jobs that are found, after at most `limits.JOB_QUERY_LOOKS_MAX` looks."""
        self._require_open()
        found: list[tuple[JobPlace, JobRecord]] = []
        for looks, (place, record) in enumerate(self._candidates(search, search.place()), 1):
            if record is not None and search.fits(record):
                if len(found) == search.limit:
                    return _page(found, search.cursor(found[-1][0]))
                found.append((place, record))
            if looks == limits.JOB_QUERY_LOOKS_MAX:
                return _page(found, search.cursor(place))
        return _page(found, None)

    def _candidates(
        self, search: Search, after: JobPlace | None
    ) -> Iterator[tuple[JobPlace, JobRecord | None]]:
        """Yield jobs that may be wanted, with where they stand."""
        if search.states == frozenset({JobState.EXECUTING}):
            return self._each(list(self._running), search, after)
        if search.cause is not None and (created := self._store.created_by(search.cause)) is not None:
            return self._each(created, search, after)
        return self._all(search, after)

    def _each(
        self, job_ids: list[int], search: Search, after: JobPlace | None
    ) -> Iterator[tuple[JobPlace, JobRecord | None]]:
        for job_id in sorted(job_ids, reverse=search.newest_first):
            if after is None or (job_id < after.id if search.newest_first else job_id > after.id):
                yield JobPlace(0, 0, job_id), self.peek(job_id)

    def _all(self, search: Search, after: JobPlace | None) -> Iterator[tuple[JobPlace, JobRecord | None]]:
        now_us = self._now_us()
        ends = None if search.states is None else FINAL_STATES & search.states
        for part, prefix in enumerate(_PLACES):
            if after is not None and part < after.part:
                continue
            if not search.may_be(FINAL_STATES if prefix == _ENDED else UNENDED):
                continue
            start = (after.time_us, after.id) if after is not None and after.part == part else None
            until_us = None
            if prefix == DUE and not search.may_be(UNENDED.difference(_AT_HAND)):
                # Those whose time is still to come are neither ready nor running.
                until_us = now_us
                if search.newest_first and start is None:
                    start = (now_us + 1, 0)
            for moment, stored in self._store.rows(ends, prefix, start, reverse=search.newest_first):
                if until_us is not None and moment[0] > until_us:
                    break
                yield JobPlace(part, *moment), self._now(prefix, moment, stored)

    def _now(self, prefix: bytes, moment: Moment, stored: JobRecord) -> JobRecord | None:
        """Return a job that stood in a place as it is now; None when it is on its way to a later one."""
        record = self._at_hand(stored.id)
        if record is not None:
            return None if prefix == _ENDED else record
        if prefix == READY:
            record = self._store.get(stored.id)
            return None if record is None or record.ended_us else self.shown(record)
        return self.shown(stored)


def _page(found: list[tuple[JobPlace, JobRecord]], after: str | None) -> JobPage:
    return JobPage(items=tuple(record for _, record in found), next=after)

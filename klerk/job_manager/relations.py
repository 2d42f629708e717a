"""`Relations`: what jobs have to do with each other: which are unique, follow others, or form batches."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import msgspec

from klerk import limits
from klerk._core import InternalWork, Processor
from klerk._waiting import Submission
from klerk.app import Spec
from klerk.codec import encode
from klerk.commands import System
from klerk.errors import ArgumentError, Closed, StoreFailed
from klerk.job_creation import JobCreation
from klerk.job_manager.batches import HELD_IN, BatchStatus, OpenBatches, PublishedBatches, is_held
from klerk.job_manager.dependencies import Dependencies, Followers
from klerk.job_manager.job_store import JobStore
from klerk.jobs import JobRecord, JobState
from klerk.log_events import about
from klerk.scheduler import Scheduler

LOG = logging.getLogger("klerk")


class Submit(Protocol):
    """Puts a transaction of the job manager into the queue."""

    def __call__(self, work: Any, actor: System) -> Submission[Any]: ...


class CancelFollowers(InternalWork):
    """The transaction that cancels jobs because what they follow ended badly.

    Parameters:
        followers: says which of them wait still.
        reasons: by the ids of the jobs.
    """

    def __init__(self, followers: Followers, reasons: dict[int, str]) -> None:
        self._followers = followers
        self._reasons = reasons

    def perform(self, processor: Processor) -> None:
        for job_id, reason in self._reasons.items():
            record = self._followers.get(job_id)
            if record is not None:
                cancelled = msgspec.structs.replace(
                    record, state=JobState.CANCELLED, ended_us=processor.now_us or 1, error=reason
                )
                processor.put_job(cancelled, encode(cancelled))


class EndBatches(InternalWork):
    """The transaction that ends batches which have no members left."""

    def __init__(self, batches: OpenBatches, batch_ids: list[int]) -> None:
        self._batches = batches
        self._batch_ids = batch_ids

    def perform(self, processor: Processor) -> None:
        for batch_id in self._batch_ids:
            self._batches.end(processor, batch_id)


class Relations:
    """Follows, for the job manager, which jobs wait for others. Called under its lock, unless said otherwise.

    Parameters:
        spec: the declared jobs.
        creation: knows what the processing thread knows.
        lock: of the job manager.
        live: the records of all jobs that have not ended.
        store: finds the others.
        submit: puts the transactions that cancel jobs into the queue.
        scheduler: calls what must not wait where it comes up.

    Attributes:
        followers: the live jobs that follow each job, by its id.
    """

    def __init__(
        self,
        spec: Spec,
        creation: JobCreation,
        lock: threading.Lock,
        live: Mapping[int, JobRecord],
        store: JobStore,
        submit: Submit,
        scheduler: Scheduler,
    ) -> None:
        self._spec = spec
        self._creation = creation
        self._lock = lock
        self._live = live
        self._store = store
        self._submit = submit
        self._scheduler = scheduler
        self._dependencies = Dependencies(live, store.get)
        self._batches = PublishedBatches(live, store.get)
        self.followers = self._dependencies.followers
        # Of the doomed jobs, those whose cancellation is on its way.
        self._submitted: set[int] = set()
        self._is_started = self._has_call = False
        creation.knows = self.knows

    # --- at the start -----------------------------------------------------------------------------

    def restored(self, record: JobRecord) -> JobRecord:
        """Take over a job that the store held; return it as it is kept in memory. Called in order of ids."""
        has_arguments = record.state not in (JobState.SUSPENDED, JobState.EXECUTING)
        job = self._spec.jobs.get(record.kind) if has_arguments else None
        record = self._creation.uniqueness.restored(job, record)
        self._creation.followers.add(record)
        return record

    def restore(self, records: list[JobRecord]) -> None:
        """Take over all jobs together that the store held, before it is asked what `holds` them."""
        self._creation.batches.restore(records)
        for record in records:
            if record.follows or record.batch:
                self.noted(record, is_new=True)
        uniqueness = self._creation.uniqueness
        if uniqueness.longest:
            uniqueness.restore_ended(self._ended(), self._scheduler.now_us())

    def _ended(self) -> Iterator[JobRecord]:
        page = self._store.ended()
        while page:
            yield from page
            page = self._store.ended((page[-1].ended_us, page[-1].id))

    def start(self) -> None:
        """Go on with what was left over when the process ended. Called without the lock."""
        self._is_started = True
        if lonely := self._creation.batches.without_members():
            self._scheduler.at(self._scheduler.now_us(), partial(self._end_batches, lonely))
        with self._lock:
            self.cancel_doomed()

    # --- as jobs come and go ----------------------------------------------------------------------

    def holds(self, record: JobRecord) -> bool:
        """Return whether a live job waits for others, or for its batch."""
        waits = bool(record.follows) and self._dependencies.holds(record)
        return waits or is_held(record)

    def noted(self, record: JobRecord, *, is_new: bool) -> list[int]:
        """Take over a published job that has to do with others.

        Parameters:
            is_new: it was not live before.

        Returns:
            The ids of live jobs that wait for no others any more.
        """
        if record.batch:
            self._batches.noted(record, is_new=is_new)
        if record.follows:
            self._dependencies.note(record)
            if record.id not in self._dependencies.doomed:
                self._submitted.discard(record.id)
        if record.ended_us and record.id in self.followers:
            return self._dependencies.ended(record)
        return []

    def taken(self, record: JobRecord) -> None:
        """Note that a unique job was given to a worker."""
        self._creation.uniqueness.started(record)

    @property
    def is_cancelling(self) -> bool:
        """Whether jobs are still to be cancelled because of what they follow."""
        return bool(self._dependencies.doomed)

    # --- cancelling what follows a job that ended badly -------------------------------------------

    def cancel_doomed(self) -> None:
        """See to it that the jobs are cancelled that will never run; never waits."""
        if self._is_started and not self._has_call and len(self._submitted) < len(self._dependencies.doomed):
            self._has_call = True
            self._scheduler.at(self._scheduler.now_us(), self._cancel_doomed)

    def _cancel_doomed(self) -> None:
        """Submit the transactions that cancel jobs, in the scheduler's thread."""
        with self._lock:
            self._has_call = False
            doomed = self._dependencies.doomed
            reasons = [each for each in doomed.items() if each[0] not in self._submitted]
            self._submitted.update(doomed)
        for start in range(0, len(reasons), limits.JOB_CASCADE_JOBS):
            part = dict(reasons[start : start + limits.JOB_CASCADE_JOBS])
            work = CancelFollowers(self._creation.followers, part)
            self._send(work, partial(self._cancel_later, list(part)))

    def _cancel_later(self, job_ids: list[int]) -> None:
        with self._lock:
            self._submitted.difference_update(job_ids)
            if not self._has_call:
                self._has_call = True
                delay_us = int(limits.JOB_CASCADE_RETRY_S * 1e6)
                self._scheduler.at(self._scheduler.now_us() + delay_us, self._cancel_doomed)

    def _end_batches(self, batch_ids: list[int]) -> None:
        delay_us = int(limits.JOB_CASCADE_RETRY_S * 1e6)
        again = partial(self._end_batches, batch_ids)
        self._send(
            EndBatches(self._creation.batches, batch_ids),
            lambda: self._scheduler.at(self._scheduler.now_us() + delay_us, again),
        )

    def _send(self, work: InternalWork, again: Callable[[], None]) -> None:
        """Submit a transaction.

        Parameters:
            again: called when it could not be, or was not kept, and may be another time.
        """
        try:
            submission = self._submit(work, System("dependencies"))
        except Exception as error:
            self._failed(error, again)
        else:
            submission.add_done_callback(lambda ended: self._failed(ended.exception(), again))

    def _failed(self, error: BaseException | None, again: Callable[[], None]) -> None:
        if error is None or isinstance(error, Closed | StoreFailed):
            # What was not done is done after the next start.
            return
        LOG.error(
            "jobs are not told yet what became of those that they wait for: %s",
            error,
            extra=about("job_unrecorded"),
        )
        again()

    # --- questions --------------------------------------------------------------------------------

    def knows(self, job_id: int) -> bool:
        """Return whether there is a published job of an id, ended or not. Called without the lock."""
        return job_id in self._live or self._store.get(job_id) is not None

    def waiting_for(self, record: JobRecord) -> tuple[int, ...]:
        """Return the ids of the first jobs that a job waits for: those that it follows, then members."""
        if record.state not in HELD_IN or not self.holds(record):
            return ()
        waiting = self._dependencies.waiting_for(record.id)[: limits.JOB_WAITS_SHOWN_MAX]
        if is_held(record):
            for job_id in self._batches.remaining_members(record):
                if len(waiting) >= limits.JOB_WAITS_SHOWN_MAX:
                    break
                waiting.append(job_id)
        return tuple(waiting)

    def is_needed(self, job_id: int) -> bool:
        """Return whether an ended job must be kept: a live one follows it or may read its result as that of a
        member of its batch, or it keeps others from being created. Called without the lock."""
        with self._lock:
            if job_id in self.followers or self._batches.keeps(job_id):
                return True
        return self._creation.uniqueness.keeps(job_id)

    def require_related(self, record: JobRecord, job_id: int) -> None:
        """Refuse to show a job to another one that neither follows it nor is a callback of its batch.

        Called without the lock.

        Raises:
            ArgumentError: it has nothing to do with it.
        """
        if job_id in record.follows:
            return
        member = self._store.get(job_id) if record.role and isinstance(job_id, int) else None
        if member is None or member.role or member.batch != record.batch:
            raise ArgumentError(
                f"job {record.id} ({record.kind}) has nothing to do with job {job_id!r}",
                hint="Request it with .after(...), or as a callback of the other one's batch.",
            )

    def status(self, batch_id: int) -> BatchStatus:
        """Return how far a batch is; see `JobManager.batch`."""
        return self._batches.status(batch_id)

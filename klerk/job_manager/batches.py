"""Batches: their callbacks run once all members have ended.

The transaction that ends a member counts it, writes a failure down in the record of the batch's first
callback, and, when the member was the last one, lets the callbacks go that apply and cancels the others. So
what is stored always says how far a batch is: the members that have not ended, and the failures of the rest.
No record lists the members. They are created one after the other, right after the callbacks of their batch,
whose id is that of the first callback.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from klerk._core import Processor
from klerk.batch import CALLBACKS_MAX, member_ids
from klerk.codec import encode
from klerk.errors import ArgumentError, NotFound
from klerk.job_manager.journal import Journal
from klerk.jobs import FINAL_STATES, JobRecord, JobState


class BatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is.

    Parameters:
        id: of the batch.
        total: its members.
        remaining: those that have not ended.
        failures: those that were discarded or cancelled.
        ended: all members have ended.
    """

    id: int
    total: int
    remaining: int
    failures: int
    ended: bool


def require_batch_id(given: object) -> None:
    """Refuse what no batch has as its id.

    Raises:
        ArgumentError: it is no number.
        NotFound: it is one that no batch has.
    """
    if type(given) is not int:
        raise ArgumentError(
            f"expected the id of a batch, got {type(given).__name__}",
            hint="The records of its members and callbacks name it: record.batch.",
        )
    if not 0 < given < 2**63:
        raise no_batch(given)


def no_batch(batch_id: int) -> NotFound:
    """Return the error for the id of no batch."""
    return NotFound(f"there is no batch {batch_id}", hint="A job names its batch: record.batch.")


def is_member(record: JobRecord) -> bool:
    """Return whether a job counts as a member of its batch: one that is run again by hand has counted."""
    return record.batch != 0 and not record.role and not record.reruns


def is_held(record: JobRecord) -> bool:
    """Return whether a job waits for its batch to end; one that somebody let run by hand does not."""
    if not record.role or record.batch_ended_us or record.reruns:
        return False
    return record.state is not JobState.AVAILABLE and not record.started_us


def decided(callback: JobRecord, failures: int, now_us: int) -> JobRecord:
    """Return a callback as it becomes when its batch has ended: free to run, or not needed.

    Parameters:
        failures: of the batch's members.
    """
    batch = callback.batch
    if callback.role == "ended" or (callback.role == "failed") == (failures > 0):
        state = callback.state
        if state is JobState.SCHEDULED and not callback.follows and callback.run_at_us <= now_us:
            state = JobState.AVAILABLE
        return msgspec.structs.replace(callback, state=state, failures=failures, batch_ended_us=now_us)
    reason = f"not needed: every member of batch {batch} was completed"
    if failures:
        members = "1 member" if failures == 1 else f"{failures} members"
        reason = f"not needed: {members} of batch {batch} failed"
    return msgspec.structs.replace(
        callback,
        state=JobState.CANCELLED,
        failures=failures,
        batch_ended_us=now_us,
        ended_us=now_us,
        error=reason,
    )


class OpenBatch(msgspec.Struct, frozen=True):
    """A batch that has not ended, as the transactions up to now leave it.

    Parameters:
        remaining: members that have not ended.
        failures: members that ended badly.
        callbacks: that wait for it; the first one's record has the failures.
    """

    remaining: int
    failures: int
    callbacks: tuple[JobRecord, ...]


class OpenBatches:
    """Counts members as they end, inside the transactions that end them. Used by the processing thread.

    Parameters:
        journal: undoes what a transaction changed that is not kept.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._open: dict[int, OpenBatch] = {}

    def add(self, members: int, callbacks: list[JobRecord], sequence: int) -> None:
        """Begin with a batch that the transaction at hand creates."""
        batch = OpenBatch(members, 0, tuple(callbacks))
        self._journal.put(sequence, self._open, callbacks[0].batch, batch)

    def has(self, callback: JobRecord) -> bool:
        """Return whether a callback waits for a batch that has not ended."""
        batch = self._open.get(callback.batch)
        return batch is not None and any(each.id == callback.id for each in batch.callbacks)

    def changed(self, processor: Processor, record: JobRecord) -> None:
        """Note what the transaction at hand makes of a member or callback."""
        batch = self._open.get(record.batch)
        if batch is None:
            return
        if record.role:
            self._callback_changed(processor, batch, record)
        elif record.state in FINAL_STATES and is_member(record):
            failures = batch.failures + (record.state is not JobState.COMPLETED)
            self._count(processor, record.batch, batch, failures)

    def _count(self, processor: Processor, batch_id: int, batch: OpenBatch, failures: int) -> None:
        """Count a member that ended."""
        if batch.remaining == 1:
            self._end(processor, batch_id, batch, failures)
            return
        callbacks, has_failed = batch.callbacks, failures != batch.failures
        if has_failed:
            callbacks = _with_failures(callbacks, failures)
        self._put(processor, batch_id, OpenBatch(batch.remaining - 1, failures, callbacks))
        if has_failed:
            _write(processor, callbacks[0])

    def _end(self, processor: Processor, batch_id: int, batch: OpenBatch, failures: int) -> None:
        self._journal.drop(processor.sequence, self._open, batch_id)
        for callback in batch.callbacks:
            # 0 would stand for no time.
            _write(processor, decided(callback, failures, processor.now_us or 1))

    def _callback_changed(self, processor: Processor, batch: OpenBatch, record: JobRecord) -> None:
        """Take over a callback that was changed by hand, or leave it alone when it waits no more."""
        waits = record.state is JobState.SCHEDULED
        callbacks = tuple(
            record if each.id == record.id else each
            for each in batch.callbacks
            if waits or each.id != record.id
        )
        if not callbacks:
            self._journal.drop(processor.sequence, self._open, record.batch)
            return
        has_failures = callbacks[0].failures == batch.failures
        if not has_failures:
            callbacks = _with_failures(callbacks, batch.failures)
        self._put(processor, record.batch, OpenBatch(batch.remaining, batch.failures, callbacks))
        if not has_failures:
            _write(processor, callbacks[0])

    def _put(self, processor: Processor, batch_id: int, batch: OpenBatch) -> None:
        self._journal.put(processor.sequence, self._open, batch_id, batch)

    # --- at the start -----------------------------------------------------------------------------

    def restore(self, records: Iterable[JobRecord]) -> None:
        """Go on with the batches of the jobs that the store held."""
        remaining: dict[int, int] = {}
        callbacks: dict[int, list[JobRecord]] = {}
        for record in records:
            if is_held(record):
                callbacks.setdefault(record.batch, []).append(record)
            elif is_member(record):
                remaining[record.batch] = remaining.get(record.batch, 0) + 1
        for batch_id, held in callbacks.items():
            failures = max(record.failures for record in held)
            ordered = tuple(sorted(held, key=lambda record: record.id))
            self._open[batch_id] = OpenBatch(remaining.get(batch_id, 0), failures, ordered)

    def without_members(self) -> list[int]:
        """Return the batches that wait for nothing: a migration deleted the last of their members."""
        return [batch_id for batch_id, batch in self._open.items() if not batch.remaining]

    def end(self, processor: Processor, batch_id: int) -> None:
        """End a batch that waits for nothing."""
        batch = self._open.get(batch_id)
        if batch is not None and not batch.remaining:
            self._end(processor, batch_id, batch, batch.failures)


def _with_failures(callbacks: tuple[JobRecord, ...], failures: int) -> tuple[JobRecord, ...]:
    return msgspec.structs.replace(callbacks[0], failures=failures), *callbacks[1:]


def _write(processor: Processor, record: JobRecord) -> None:
    processor.put_job(record, encode(record))


class PublishedBatches:
    """What is published of batches. Its owner calls it under one lock.

    Parameters:
        live: the records of all jobs that have not ended.
        find: returns a stored job, ended or not; None when there is none.
    """

    def __init__(self, live: Mapping[int, JobRecord], find: Callable[[int], JobRecord | None]) -> None:
        self._live = live
        self._find = find
        self._remaining: dict[int, int] = {}
        # The ids of the batches that have live callbacks, in order, and how many callbacks each has.
        self._ids: list[int] = []
        self._callbacks: dict[int, dict[int, int]] = {}

    def noted(self, record: JobRecord, *, is_new: bool) -> None:
        """Take over a member or callback.

        Parameters:
            is_new: it was not live before.
        """
        if record.role:
            self._note_callback(record)
        elif is_member(record):
            change = is_new - (record.state in FINAL_STATES)
            remaining = self._remaining.get(record.batch, 0) + change
            if remaining > 0:
                self._remaining[record.batch] = remaining
            else:
                self._remaining.pop(record.batch, None)

    def _note_callback(self, record: JobRecord) -> None:
        live = self._callbacks.get(record.batch)
        if record.state not in FINAL_STATES:
            if live is None:
                insort(self._ids, record.batch)
                live = self._callbacks[record.batch] = {}
            live[record.id] = record.members
        elif live is not None:
            live.pop(record.id, None)
            if not live:
                del self._callbacks[record.batch]
                self._ids.pop(bisect_right(self._ids, record.batch) - 1)

    def keeps(self, job_id: int) -> bool:
        """Return whether a job may be a member of a batch whose callback has not ended."""
        place = bisect_right(self._ids, job_id) - 1
        if place < 0:
            return False
        batch_id = self._ids[place]
        members = max(self._callbacks[batch_id].values())
        return job_id < batch_id + CALLBACKS_MAX + members

    def status(self, batch_id: int) -> BatchStatus:
        """Return how far a batch is.

        Raises:
            NotFound: there is none with this id, or its callbacks are kept no longer.
        """
        callbacks = [
            record
            for record in map(self._record, range(batch_id, batch_id + CALLBACKS_MAX))
            if record is not None and record.role and record.batch == batch_id
        ]
        if not callbacks:
            raise no_batch(batch_id)
        remaining = self._remaining.get(batch_id, 0)
        return BatchStatus(
            id=batch_id,
            total=callbacks[0].members,
            remaining=remaining,
            failures=max(record.failures for record in callbacks),
            ended=not remaining,
        )

    def _record(self, job_id: int) -> JobRecord | None:
        found = self._live.get(job_id)
        return self._find(job_id) if found is None else found

    def remaining_members(self, callback: JobRecord) -> Iterator[int]:
        """Yield the ids of the members that a callback waits for, in order."""
        for job_id in member_ids(callback):
            record = self._live.get(job_id)
            if record is not None and record.batch == callback.batch and is_member(record):
                yield job_id

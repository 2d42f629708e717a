"""Unique jobs: which job stands for all requests that ask for the same.

A job of a kind that is declared unique carries a digest of what makes it so. Asked for again while the first
one blocks, it is not created: the first one stands for it. That is decided inside the transaction that asks,
which knows the jobs of all transactions before it, whether they are published yet or not, and its own.
"""

import heapq
import threading
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import msgspec

from klerk import limits
from klerk.codec import encode
from klerk.errors import Conflict
from klerk.job_manager.journal import Journal
from klerk.jobs import FINAL_STATES, Job, JobRecord, JobState

DIGEST_BYTES = 16
_NEVER = 2**63

_SIMPLE = frozenset({int, str, bool, bytes, type(None), datetime})


def digest_of(job: Job[Any], values: tuple[Any, ...]) -> bytes:
    """Return what the jobs have in common that count as the same: a digest of their kind and arguments.

    Parameters:
        job: a kind that is unique.
        values: its arguments, as they are stored.
    """
    by = job.settings.unique.by if job.settings.unique is not None else ()
    compared = [
        canonical(value)
        for parameter, value in zip(job.parameters, values, strict=True)
        if not by or parameter.name in by
    ]
    return blake2b(encode((job.name, compared)), digest_size=DIGEST_BYTES).digest()


def canonical(value: Any) -> Any:
    """Return a value in the one form that equal values have in common, whatever order a set is in."""
    if type(value) in _SIMPLE:
        return value
    if isinstance(value, float):
        # The two zeros are equal.
        return value + 0.0
    if isinstance(value, Decimal):
        return _canonical_decimal(value)
    if isinstance(value, tuple):
        return [canonical(each) for each in value]
    if isinstance(value, frozenset):
        return sorted(encode(canonical(each)) for each in value)
    if isinstance(value, msgspec.Struct):
        return [canonical(getattr(value, name)) for name in value.__struct_fields__]
    return value


def _canonical_decimal(value: Decimal) -> str:
    """Return a decimal without the zeros at its end; ``normalize`` would round it."""
    if not value.is_finite():
        return str(value)
    sign, digits, exponent = value.as_tuple()
    stripped = "".join(map(str, digits)).rstrip("0")
    if not stripped:
        return "0"
    return f"{'-' * sign}{stripped}E{int(exponent) + len(digits) - len(stripped)}"


class Uniqueness:
    """Knows which job blocks others of its kind. Used by the processing thread; workers tell of starts.

    Parameters:
        jobs: the declared ones.
        journal: undoes what a transaction changed that is not kept.
    """

    def __init__(self, jobs: Mapping[str, Job[Any]], journal: Journal) -> None:
        self._jobs = jobs
        self._unique = {job.name: job.settings.unique for job in jobs.values() if job.settings.unique}
        self._journal = journal
        self._lock = threading.Lock()
        self._holders: dict[bytes, JobRecord] = {}
        # Of jobs that block for a time: the end of that, and the digest; some were dropped before.
        self._ends: list[tuple[int, bytes]] = []
        # What a transaction took out of that, and after which one that was.
        self._taken: list[tuple[int, bytes]] = []
        self._taken_after = -1
        # The ended jobs among them.
        self._ended: dict[int, bytes] = {}

    @property
    def kinds(self) -> Collection[str]:
        """The names of those that are unique."""
        return self._unique.keys()

    @property
    def longest(self) -> timedelta:
        """For how long at most a job blocks others after it ended."""
        return max((each.within for each in self._unique.values() if each.within), default=timedelta(0))

    # --- inside a transaction ---------------------------------------------------------------------

    def holder(self, digest: bytes, now_us: int, sequence: int) -> JobRecord | None:
        """Return the job that blocks one to be created, as it is after the transactions before.

        Parameters:
            now_us: the time of the transaction at hand.
            sequence: of the newest transaction that was kept.
        """
        with self._lock:
            found = self._holders.get(digest)
            if found is not None and self._is_over(found, now_us):
                self._drop(found, sequence)
                found = None
            self._drop_some(now_us, sequence)
            return found

    def _drop_some(self, now_us: int, sequence: int) -> None:
        """Drop some of those whose time is over, which nobody may ever ask for again."""
        if sequence != self._taken_after:
            self._taken_after = sequence
            self._taken.clear()
        for _ in range(limits.JOB_UNIQUE_DROPPED_AT_ONCE):
            if not self._ends or self._ends[0][0] > now_us:
                break
            self._taken.append(heapq.heappop(self._ends))
            other = self._holders.get(self._taken[-1][1])
            if other is not None and self._is_over(other, now_us):
                self._drop(other, sequence)

    def claim(self, record: JobRecord) -> None:
        """Let a job block others that was created in the transaction at hand."""
        with self._lock:
            self._hold(record)

    def undo(self, sequence: int, records: list[JobRecord]) -> None:
        """Forget the jobs that a transaction created which is not kept, once the journal undid the rest."""
        with self._lock:
            for record in records:
                if record.unique and self._is_holder(record):
                    del self._holders[record.unique]
            if sequence == self._taken_after:
                for end in self._taken:
                    heapq.heappush(self._ends, end)
                self._taken.clear()

    def changed(self, record: JobRecord, sequence: int) -> None:
        """Note what the transaction at hand makes of a job: one that has ended lets others come."""
        unique = self._unique.get(record.kind)
        if unique is None:
            return
        with self._lock:
            if self._is_holder(record):
                if record.state in FINAL_STATES and unique.within is None:
                    self._drop(record, sequence)
                    return
                self._journal.put(sequence, self._holders, record.unique, record)
                if record.state in FINAL_STATES:
                    self._journal.put(sequence, self._ended, record.id, record.unique)
                else:
                    self._journal.drop(sequence, self._ended, record.id)
            elif (
                # It was run again by hand, or two of them came through a crash.
                record.state not in FINAL_STATES
                and unique.within is None
                and unique.until == "ended"
                and record.unique not in self._holders
            ):
                self._journal.put(sequence, self._holders, record.unique, record)

    def moved(
        self, before: JobRecord, after: JobRecord, now_us: int, sequence: int, *, is_edited: bool
    ) -> JobRecord:
        """Return a job as somebody leaves it by hand, with the digest of the arguments that it has by then;
        from now on it stands for requests for these, and no more for those that it had.

        Parameters:
            now_us, sequence: as for `holder`.
            is_edited: new arguments were asked for; otherwise there may be two that are alike.

        Raises:
            Conflict: (``not_unique``) it was edited, and another job stands for its new arguments.
        """
        job = self._jobs.get(after.kind)
        if job is None or after.state in FINAL_STATES or after.state is JobState.SUSPENDED:
            return after
        digest = b"" if job.settings.unique is None else digest_of(job, after.arguments)
        if digest == before.unique:
            return after
        after = msgspec.structs.replace(after, unique=digest)
        blocks = bool(digest) and self._blocks(after) and not self._is_over(after, now_us)
        other = self.holder(digest, now_us, sequence) if blocks else None
        if other is not None and other.id != after.id and is_edited:
            raise Conflict(
                f"job {other.id} ({other.kind}) stands for these arguments already, and is {other.state}",
                code="not_unique",
                hint=f"Its kind is unique: cancel job {before.id} or {other.id}, or give it other arguments.",
            )
        with self._lock:
            if self._is_holder(before):
                self._drop(before, sequence)
            if blocks and other is None:
                self._journal.put(sequence, self._holders, digest, after)
                if self._end_us(after) < _NEVER:
                    heapq.heappush(self._ends, (self._end_us(after), digest))
        return after

    def _blocks(self, record: JobRecord) -> bool:
        """Return whether a live job stands for others like it, as long as its time is not over."""
        unique = self._unique[record.kind]
        return unique.within is not None or unique.until == "ended" or not _was_started(record)

    def _hold(self, record: JobRecord) -> None:
        unique = self._unique[record.kind]
        self._holders[record.unique] = record
        if unique.within is not None:
            if len(self._ends) > 2 * len(self._holders) + limits.JOB_UNIQUE_DROPPED_AT_ONCE:
                # Those of transactions that were not kept.
                ends = ((self._end_us(each), digest) for digest, each in self._holders.items())
                self._ends = sorted(end for end in ends if end[0] < _NEVER)
            heapq.heappush(self._ends, (self._end_us(record), record.unique))

    def _drop(self, record: JobRecord, sequence: int) -> None:
        self._journal.drop(sequence, self._holders, record.unique)
        if record.id in self._ended:
            self._journal.drop(sequence, self._ended, record.id)

    def _is_holder(self, record: JobRecord) -> bool:
        holder = self._holders.get(record.unique)
        return holder is not None and holder.id == record.id

    def _end_us(self, record: JobRecord) -> int:
        """Return until when a job blocks others; for ever when that depends on what becomes of it."""
        unique = self._unique.get(record.kind)
        if unique is None or unique.within is None:
            return _NEVER
        return record.created_us + unique.within // timedelta.resolution

    def _is_over(self, record: JobRecord, now_us: int) -> bool:
        return self._end_us(record) <= now_us

    # --- beside it --------------------------------------------------------------------------------

    def started(self, record: JobRecord) -> None:
        """Note that a job was given to a worker."""
        unique = self._unique.get(record.kind)
        if unique is None or unique.within is not None or unique.until != "started":
            return
        with self._lock:
            if self._is_holder(record):
                del self._holders[record.unique]

    def keeps(self, job_id: int) -> bool:
        """Return whether an ended job still blocks others."""
        return job_id in self._ended

    # --- at the start -----------------------------------------------------------------------------

    def restored(self, job: Job[Any] | None, record: JobRecord) -> JobRecord:
        """Let a job block others that the store held; return it with the digest that its kind has now.

        Parameters:
            job: its kind; None when its arguments may not be those of the kind.
        """
        if job is not None:
            digest = b"" if job.settings.unique is None else digest_of(job, record.arguments)
            if digest != record.unique:
                record = msgspec.structs.replace(record, unique=digest)
        unique = self._unique.get(record.kind)
        if unique is not None and record.unique and self._blocks(record):
            with self._lock:
                other = self._holders.get(record.unique)
                # When it was created, no other stood for it any more: that one had started, or its time was
                # over.
                if other is None or unique.until == "started" or self._end_us(other) < self._end_us(record):
                    self._hold(record)
        return record

    def restore_ended(self, records: Iterable[JobRecord], now_us: int) -> None:
        """Let ended jobs block others for the rest of their time.

        Parameters:
            records: those that ended last first.
            now_us: the time.
        """
        since_us = now_us - self.longest // timedelta.resolution
        for record in records:
            if record.ended_us < since_us:
                return
            unique = self._unique.get(record.kind)
            if not record.unique or unique is None or unique.within is None:
                continue
            other = self._holders.get(record.unique)
            is_newest = other is None or self._end_us(other) < self._end_us(record)
            if is_newest and not self._is_over(record, now_us):
                self._hold(record)
                self._ended[record.id] = record.unique


def _was_started(record: JobRecord) -> bool:
    """Return whether an attempt at a job began, as far as its record tells."""
    began = record.started_us > 0 or record.crashes > 0 or record.reruns > 0
    return began or record.state is JobState.EXECUTING

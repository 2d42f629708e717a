"""What a transaction creates of the jobs that its functions ask for."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from klerk import limits
from klerk._core import Processor
from klerk._dispatch import Args, microseconds
from klerk.batch import Batch, Requested, no_request
from klerk.codec import encode
from klerk.errors import ArgumentError, LimitExceeded, NotFound
from klerk.job_keys import key_of
from klerk.job_manager.batches import OpenBatches, decided, is_held
from klerk.job_manager.dependencies import Followers, is_following
from klerk.job_manager.journal import Journal
from klerk.job_manager.uniqueness import Uniqueness, digest_of
from klerk.job_names import foreign, require_queue
from klerk.jobs import Job, JobRecord, JobRequest, JobState


class JobCreation:
    """Makes the records of requested jobs, inside the transaction that requests them.

    Called by the one thread that processes commands; nothing here has an effect outside of the transaction
    that `undo` does not take back.

    Parameters:
        schema: the version of the schema that records are stored with.
        jobs: the declared ones.

    Attributes:
        uniqueness: which jobs block others.
        batches: those that have not ended.
        followers: the jobs that wait for others.
        knows: says whether there is a published job of an id, ended or not.
    """

    def __init__(self, schema: int, jobs: Mapping[str, Job[Any]]) -> None:
        self._schema = schema
        self._jobs = jobs
        self._journal = Journal()
        self.uniqueness = Uniqueness(jobs, self._journal)
        self.batches = OpenBatches(self._journal)
        self.followers = Followers(self._journal)
        self.knows: Callable[[int], bool] = lambda job_id: False

    def create(self, processor: Processor, requests: Requested, a: Args[Any]) -> list[JobRecord]:
        """Create the jobs that a function asked for.

        Returns:
            The record of each, those of a batch's members before those of its callbacks. The record of a job
            that was there already stands in the place of a unique one.

        Raises:
            ArgumentError: one of them is no job request, or follows one that is not requested before it.
            NotFound: one of them follows a job that there is not.
            InvalidValue: an argument does not fit its type.
            LimitExceeded: there are too many in one transaction, or that one job follows.
        """
        now_us = microseconds(a.now)
        if type(requests) is JobRequest:
            if not requests.follows and requests.job.settings.unique is None:
                return [self._create_plain(self._checked(requests, processor), processor, now_us)]
            requests = (requests,)
        elif isinstance(requests, JobRequest | Batch) or not isinstance(requests, Iterable):
            if type(requests) is not Batch:
                raise no_request(requests)
            requests = (requests,)
        made = Made(processor, now_us)
        for request in requests:
            if type(request) is JobRequest:
                made.add(request, self._create(request, made))
            elif type(request) is Batch:
                self._create_batch(request, made)
            else:
                raise no_request(request)
        return made.records

    def changed(self, processor: Processor, record: JobRecord) -> None:
        """Note what the transaction at hand makes of a job that has to do with others."""
        if record.unique:
            self.uniqueness.changed(record, processor.sequence)
        if record.follows:
            self.followers.changed(record, processor.sequence)
        if record.batch:
            self.batches.changed(processor, record)

    def waits_still(self, record: JobRecord) -> bool:
        """Return whether a published job waits as it did; False when what it waits for has ended, and a
        transaction that is not published yet let it go on or cancelled it."""
        if is_following(record) and self.followers.get(record.id) is None:
            return False
        return not is_held(record) or self.batches.has(record)

    def moved(
        self, processor: Processor, before: JobRecord, after: JobRecord, *, is_edited: bool
    ) -> JobRecord:
        """Return a job as somebody leaves it by hand, with the digest of what it is unique by now.

        Raises:
            Conflict: see `Uniqueness.moved`.
        """
        if not before.unique and after.kind not in self.uniqueness.kinds:
            return after
        now_us, sequence = processor.now_us, processor.sequence
        return self.uniqueness.moved(before, after, now_us, sequence, is_edited=is_edited)

    def undo(self, sequence: int, records: list[JobRecord]) -> None:
        """Forget what the transaction at hand left here, because it is not kept.

        Parameters:
            sequence: of the newest transaction that was kept.
            records: of the jobs that it created.
        """
        self._journal.undo(sequence)
        self.uniqueness.undo(sequence, records)
        self.followers.undo(records)

    # --- one job ----------------------------------------------------------------------------------

    def _checked(self, request: JobRequest, processor: Processor) -> JobRequest:
        """Return a request with its arguments checked, of a job and for a queue that there are."""
        job = request.job
        if self._jobs.get(job.name) is not job:
            raise foreign(str(job))
        if request.queue is not None:
            require_queue(request.queue, job.queues)
        return processor.checked_request(request)

    def _create_plain(self, request: JobRequest, processor: Processor, now_us: int) -> JobRecord:
        """Create a job that has nothing to do with others."""
        record = self._record(request, processor, now_us)
        processor.new_job(record, encode(record))
        return record

    def _create(self, request: JobRequest, made: "Made", batch: int = 0) -> JobRecord:
        """Create a job, unless one that is there already stands for it.

        Parameters:
            batch: that it is a member of.
        """
        processor = made.processor
        request = self._checked(request, processor)
        job = request.job
        is_unique = job.settings.unique is not None
        if not is_unique and not batch and not request.follows:
            return self._create_plain(request, processor, made.now_us)
        digest = b""
        if is_unique:
            digest = digest_of(job, request.values)
            holder = self.uniqueness.holder(digest, made.now_us, processor.sequence)
            if holder is not None:
                return holder
        record = self._related(self._record(request, processor, made.now_us), request, made, batch, digest)
        processor.new_job(record, encode(record))
        if digest:
            self.uniqueness.claim(record)
        if record.follows:
            self.followers.add(record)
        return record

    def _record(self, request: JobRequest, processor: Processor, now_us: int) -> JobRecord:
        run_at_us = 0
        if request.run_at is not None:
            run_at_us = microseconds(request.run_at)
        elif request.delay is not None:
            run_at_us = now_us + request.delay // timedelta.resolution
        job = request.job
        settings = job.settings
        return JobRecord(
            id=processor.next_job_id,
            kind=job.name,
            arguments=request.values,
            state=JobState.SCHEDULED if run_at_us > now_us else JobState.AVAILABLE,
            run_at_us=run_at_us,
            created_us=now_us,
            cause=0 if request.tick_us else processor.sequence + 1,
            schema=self._schema,
            queue=request.queue or "",
            priority=request.priority,
            attempts_max=request.max_attempts or 0,
            version=settings.version,
            trace=processor.trace or "",
            tick_us=request.tick_us,
            key="" if settings.key is None else key_of(job, request.values),
        )

    def _related(
        self, record: JobRecord, request: JobRequest, made: "Made", batch: int, digest: bytes
    ) -> JobRecord:
        """Return the record of a job that has to do with others."""
        follows = self._followed(request, made)
        state = JobState.SCHEDULED if follows else record.state
        return msgspec.structs.replace(
            record, state=state, follows=follows, anyway=request.anyway, batch=batch, unique=digest
        )

    def _followed(self, request: JobRequest, made: "Made") -> tuple[int, ...]:
        """Return the ids of the jobs that a request follows, each once."""
        found: dict[int, None] = {}
        for each in request.follows:
            if isinstance(each, JobRequest):
                job_id = made.id_of(each, request)
            else:
                job_id = each.id if isinstance(each, JobRecord) else each
                if not 0 < job_id < made.processor.next_job_id or not self.knows(job_id):
                    raise _nothing_to_follow(job_id, each, request)
            found[job_id] = None
        if len(found) > limits.JOB_FOLLOWS_MAX:
            raise LimitExceeded(
                f"{request} follows {len(found)} jobs, more than {limits.JOB_FOLLOWS_MAX}",
                hint="Make those a batch: Batch([...], ended=...).",
            )
        return tuple(found)

    # --- a batch ----------------------------------------------------------------------------------

    def _create_batch(self, batch: Batch, made: "Made") -> None:
        """Create the members of a batch, and its callbacks under the ids before theirs."""
        processor = made.processor
        batch_id = processor.next_job_id
        first_member = processor.next_job_id = batch_id + len(batch.callbacks)
        for request in batch.requests:
            made.add(request, self._create(request, made, batch_id))
        next_job_id = processor.next_job_id
        members = next_job_id - first_member
        processor.next_job_id = batch_id
        callbacks = []
        for role, request in batch.callbacks:
            record = self._callback(request, made, batch_id, role, members)
            callbacks.append(record)
            made.add(request, record)
        processor.next_job_id = next_job_id
        if members:
            self.batches.add(members, callbacks, processor.sequence)

    def _callback(
        self, request: JobRequest, made: "Made", batch_id: int, role: str, members: int
    ) -> JobRecord:
        """Create a callback, which has to wait unless the batch is empty."""
        processor = made.processor
        checked = self._checked(request, processor)
        record = self._record(checked, processor, made.now_us)
        record = self._related(record, request, made, batch_id, b"")
        record = msgspec.structs.replace(record, state=JobState.SCHEDULED, role=role, members=members)
        if not members:
            record = decided(record, 0, made.now_us)
        processor.new_job(record, encode(record))
        self.followers.add(record)
        return record


def _nothing_to_follow(job_id: int, given: JobRecord | int, follower: JobRequest) -> NotFound:
    hint = "It never was, or is not kept any more."
    if isinstance(given, int):
        delay = f"for a delay give timedelta(seconds={job_id})"
        hint = f"{hint} {job_id} is taken for the id of a job; {delay}."
    return NotFound(f"there is no job {job_id}, which {follower} is to follow", hint=hint)


class Made:
    """What was made so far of the requests of one function.

    Parameters:
        processor: of the transaction at hand.
        now_us: its time.
    """

    __slots__ = ("_known", "_places", "_requests", "now_us", "processor", "records")

    def __init__(self, processor: Processor, now_us: int) -> None:
        self.processor = processor
        self.now_us = now_us
        self.records: list[JobRecord] = []
        self._requests: list[JobRequest] = []
        # The places of those before `_known`, by identity. Most are never referred to.
        self._places: dict[int, int] = {}
        self._known = 0

    def add(self, request: JobRequest, record: JobRecord) -> None:
        """Note which job stands for a request."""
        self._requests.append(request)
        self.records.append(record)

    def id_of(self, request: JobRequest, follower: JobRequest) -> int:
        """Return the id of the job that stands for the very same request.

        Raises:
            ArgumentError: it is not among those before.
        """
        while self._known < len(self._requests):
            self._places[id(self._requests[self._known])] = self._known
            self._known += 1
        found = self._places.get(id(request))
        if found is None:
            raise ArgumentError(
                f"{follower} is to follow {request}, which is not requested before it",
                hint="Request both together, the one that comes first first, as in chain(load(), report()).",
            )
        return self.records[found].id

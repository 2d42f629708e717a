"""The transactions that the job manager submits."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from klerk._core import InternalWork
from klerk._waiting import Submission
from klerk.batch import Batch
from klerk.codec import JOBS_OF_JOB, Payload, encode
from klerk.commands import Actor, Command, System
from klerk.errors import JobCancelled
from klerk.jobs import Job, JobRecord, JobRequest
from klerk.running_job import RunningJob


class Submit(Protocol):
    """Puts the transaction of a job into the queue."""

    def __call__(self, work: Any, actor: Actor, behalf: System | None = None) -> Submission[Any]: ...


def acting_as(job: Job[Any], record: JobRecord) -> tuple[Actor, System | None]:
    """Return the actor as which a job acts, and on whose behalf: that of the job, when it acts as another."""
    itself = by_manager(record)
    run_as: Actor | None = job.settings.run_as
    return (itself, None) if run_as is None else (run_as, itself)


def by_manager(record: JobRecord) -> System:
    """Return the actor who records what became of a job."""
    return System(f"job {record.kind} {record.id}", cause=record.cause)


class RecordJob(InternalWork):
    """The transaction that records what became of an attempt, with the commands that the job ends with.

    Parameters:
        record: to be stored.
        commands: handled after that.
        is_authorized: nobody has to be asked about them, because the system itself acts.
    """

    def __init__(
        self, record: JobRecord, commands: tuple[Command[Any], ...] = (), *, is_authorized: bool = True
    ) -> None:
        self.is_authorized = is_authorized
        self.record = record
        self.encoded = encode(record)
        self.commands = commands

    def perform(self, processor: Any) -> None:
        # First of all: a job that ends does not stand in the way of one that its commands request.
        processor.put_job(self.record, self.encoded)
        for command in self.commands:
            processor.apply_command(command, not self.is_authorized)


class RecordJobs(InternalWork):
    """The transaction that records what became of jobs without an attempt."""

    def __init__(self, records: Sequence[JobRecord]) -> None:
        self.records = records

    def perform(self, processor: Any) -> None:
        for record in self.records:
            processor.put_job(record, encode(record))


class EndStopped(InternalWork):
    """The transaction that ends jobs which were asked to stop while they ran, and whose process ended.

    Parameters:
        records: of them, as they are to be.
    """

    def __init__(self, records: Sequence[JobRecord]) -> None:
        self.records = records

    def perform(self, processor: Any) -> None:
        for record in self.records:
            processor.put_job(record, encode(record))


class RecordSuspended(InternalWork):
    """The transaction that records which jobs cannot run.

    Parameters:
        records: of them.
        is_current: says whether a job is still as it was found.
    """

    def __init__(self, records: Sequence[JobRecord], is_current: Callable[[JobRecord], bool]) -> None:
        self.records = records
        self.is_current = is_current

    def perform(self, processor: Any) -> None:
        for record in self.records:
            # Somebody may have acted on it meanwhile, or it was only looked at, and is not in memory.
            if self.is_current(record):
                processor.put_job(record, encode(record))


class SaveJob(InternalWork):
    """The transaction that saves a running job's checkpoint, log and progress."""

    def __init__(self, run: RunningJob, checkpoint: bytes) -> None:
        self.run = run
        self.checkpoint = checkpoint

    def perform(self, processor: Any) -> None:
        record = self.run.saved(self.checkpoint)
        processor.put_job(record, encode(record))
        self.run.newest = record


class KeepTold(InternalWork):
    """The transaction that keeps what interrupted jobs told: their log and progress, and nothing else.

    Parameters:
        runs: of them.
    """

    def __init__(self, runs: Sequence[RunningJob]) -> None:
        self.runs = runs

    def perform(self, processor: Any) -> None:
        for run in self.runs:
            # Some end all the same, by now or later; that comes with all that they told.
            if not run.is_over:
                record = run.newest = run.told()
                processor.put_job(record, encode(record))


class CreateJobs(InternalWork):
    """The transaction that creates jobs outside of a command."""

    def __init__(self, requests: tuple[JobRequest | Batch, ...]) -> None:
        self.requests = requests

    def perform(self, processor: Any) -> tuple[JobRecord, ...]:
        return tuple(processor.add_jobs(self.requests, processor.args(None)))


class CreateJobsOfJob(CreateJobs):
    """The transaction that creates jobs on behalf of a running one, and notes which they are: a later attempt
    is given the same."""

    def __init__(self, run: RunningJob, requests: tuple[JobRequest | Batch, ...]) -> None:
        super().__init__(requests)
        self.run = run

    def perform(self, processor: Any) -> tuple[JobRecord, ...]:
        if self.run.is_over:
            raise JobCancelled(f"this attempt at job {self.run.record.kind} {self.run.id} is over")
        records = super().perform(processor)
        # One that was there already, in place of a unique one, stands in another transaction.
        others = [(each.id, encode(each)) for each in records if each.cause != processor.sequence + 1]
        processor.log_unchecked(JOBS_OF_JOB, 0, (tuple(each.id for each in records), others))
        return records


def jobs_of_job(payload: Payload) -> Iterator[tuple[int, bytes]]:
    """Yield the ids of the jobs that such a transaction returned, each as it was stored then."""
    ((ids, others),) = payload.parameters
    stored = {**dict(payload.jobs), **dict(others)}
    for job_id in ids:
        yield job_id, stored[job_id]

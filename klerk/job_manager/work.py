"""The transactions that the job manager submits."""

from typing import Any

from klerk._core import InternalWork
from klerk.batch import Batch
from klerk.codec import encode
from klerk.commands import Actor, Command, System
from klerk.jobs import Job, JobRecord, JobRequest


def acting_as(job: Job[Any], record: JobRecord) -> Actor:
    """Return the actor as which a job acts."""
    return job.settings.run_as or by_manager(record)


def by_manager(record: JobRecord) -> System:
    """Return the actor who records what became of a job."""
    return System(f"job {record.kind} {record.id}", cause=record.cause)


class RecordJob(InternalWork):
    """The transaction that records what became of an attempt, with the commands that the job ends with."""

    def __init__(self, record: JobRecord, commands: tuple[Command[Any], ...] = ()) -> None:
        self.record = record
        self.encoded = encode(record)
        self.commands = commands

    def perform(self, processor: Any) -> None:
        # First of all: a job that ends does not stand in the way of one that its commands request.
        processor.put_job(self.record, self.encoded)
        for command in self.commands:
            processor.apply_command(command)


class CreateJobs(InternalWork):
    """The transaction that creates jobs outside of a command."""

    def __init__(self, requests: tuple[JobRequest | Batch, ...]) -> None:
        self.requests = requests

    def perform(self, processor: Any) -> tuple[JobRecord, ...]:
        return tuple(processor.add_jobs(self.requests, processor.args(None)))

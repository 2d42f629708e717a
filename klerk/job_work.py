"""What the job manager works with: the transactions that it submits, and how often jobs may start."""

from collections.abc import Callable
from typing import Any

from klerk._core import InternalWork
from klerk._dispatch import JobRequest
from klerk.codec import encode
from klerk.commands import Command, System
from klerk.jobs import JobRecord, Rate


def acting_as(record: JobRecord) -> System:
    """Return the actor on whose behalf a job acts."""
    return System(f"job {record.kind} {record.id}", cause=record.cause)


class RecordJob(InternalWork):
    """The transaction that records what became of an attempt, with the commands that the job ends with."""

    def __init__(self, record: JobRecord, commands: tuple[Command[Any], ...] = ()) -> None:
        self.record = record
        self.encoded = encode(record)
        self.commands = commands

    def perform(self, processor: Any) -> None:
        for command in self.commands:
            processor.apply_command(command)
        processor.put_job(self.record, self.encoded)


class CreateJobs(InternalWork):
    """The transaction that creates jobs outside of a command."""

    def __init__(self, requests: tuple[JobRequest, ...]) -> None:
        self.requests = requests

    def perform(self, processor: Any) -> tuple[JobRecord, ...]:
        return tuple(processor.add_jobs(self.requests, processor.args(None)))


class Bucket:
    """A token bucket: as many starts at once as it holds, and then as many as flow in.

    Parameters:
        rate: its size and how fast it fills.
        now_us: gives the time, in microseconds; one that is set back fills nothing.
    """

    def __init__(self, rate: Rate, now_us: Callable[[], int]) -> None:
        self._size = float(rate.count)
        self._per_s = rate.count / rate.period.total_seconds()
        self._tokens = self._size
        self._now_us = now_us
        self._filled_us = now_us()

    def take(self) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        now_us = self._now_us()
        flowed_s = max(0, now_us - self._filled_us) / 1e6
        self._tokens = min(self._size, self._tokens + flowed_s * self._per_s)
        self._filled_us = now_us
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_s


def text_of(error: BaseException) -> str:
    """Return an error's type and text, even when its own text fails."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__

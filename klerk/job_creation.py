"""What a transaction creates of the jobs that its functions ask for."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from klerk import limits
from klerk._core import Processor
from klerk._dispatch import Args, microseconds
from klerk.codec import encode
from klerk.errors import ArgumentError, FunctionFailed
from klerk.jobs import JobRecord, JobRequest, JobState


class JobCreation:
    """Makes the records of requested jobs, inside the transaction that requests them.

    Called by the one thread that processes commands; nothing here has an effect outside of the transaction
    that `undo` does not take back.

    Parameters:
        schema: the version of the schema that records are stored with.
    """

    def __init__(self, schema: int) -> None:
        self._schema = schema

    def create(
        self, processor: Processor, requests: JobRequest | Iterable[JobRequest], a: Args[Any]
    ) -> list[JobRecord]:
        """Create the jobs that a function asked for, and return their records.

        Raises:
            ArgumentError: one of them is no job request.
            InvalidValue: an argument does not fit its type.
            LimitExceeded: there are too many in one transaction.
        """
        if type(requests) is JobRequest:
            requests = (requests,)
        elif isinstance(requests, JobRequest) or not isinstance(requests, Iterable):
            raise _no_request(requests)
        created = []
        for request in requests:
            if type(request) is not JobRequest:
                raise _no_request(request)
            record = self._record(processor.checked_request(request), processor, microseconds(a.now))
            processor.new_job(record, encode(record))
            created.append(record)
        return created

    def undo(self, records: list[JobRecord]) -> None:
        """Forget what the creation of jobs left here, because their transaction is not kept."""

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
            tick_us=request.tick_us,
            key="" if settings.key is None else key_of(job, request.values),
        )


def _no_request(given: object) -> ArgumentError:
    return ArgumentError(
        f"expected a job request, got {type(given).__name__}",
        hint="Call the job to make one: remind(ref).",
    )


def key_of(job: Any, values: tuple[Any, ...]) -> str:
    """Return the key by which a job's key limits count."""
    try:
        key = job.settings.key(*values)
    except Exception as error:
        raise FunctionFailed(f"the key of job '{job.name}' raised {type(error).__name__}: {error}") from error
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise FunctionFailed(
            f"the key of job '{job.name}' is {key!r}",
            hint="Return a text or a number: lambda loan: str(loan).",
        )
    return str(key)[: limits.JOB_KEY_LENGTH_MAX]

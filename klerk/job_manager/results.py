"""What a job's function returned: kept with the job for a while, when its declaration asks for that."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from klerk import limits
from klerk.codec import encode
from klerk.errors import JobError, LimitExceeded, NoResult
from klerk.job_outcomes import Completion
from klerk.job_returns import ANYTHING
from klerk.jobs import FINAL_STATES, Job, JobRecord, JobState


def encoded_result(job: Job[Any], value: Any) -> bytes:
    """Return what a job's function returned as it is kept; empty when it is not, or was None.

    Raises:
        JobError: it cannot be stored, or is to be kept and is not what the function says that it returns.
        LimitExceeded: it is too large.
    """
    if value is None or isinstance(value, Completion):
        if value is None and job.settings.keep_result is not None:
            _require_declared(job, None, b"")
        return b""
    if job.settings.keep_result is None:
        return b""
    try:
        encoded = encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise JobError(
            f"the result of job '{job.name}' cannot be kept: {error}",
            hint="Return plain values: texts, numbers, times, lists, dicts, or frozen structs of these.",
            code="result_unstorable",
        ) from error
    if len(encoded) > limits.JOB_RESULT_BYTES_MAX:
        raise LimitExceeded(
            f"the result of job '{job.name}' has {len(encoded):,} bytes, more than"
            f" {limits.JOB_RESULT_BYTES_MAX:,}",
            hint="Put it into a blob or a model, and return its key or reference.",
        )
    _require_declared(job, value, encoded)
    return encoded


def _require_declared(job: Job[Any], value: Any, encoded: bytes) -> None:
    problem = job.returns.problem(value, encoded)
    if problem:
        raise JobError(
            f"job '{job.name}' is declared to return {job.returns.label}, and returned {problem}",
            hint="Its result is kept, so it has to be what the function says after '->'.",
            code="result_mistyped",
        )


def with_result(job: Job[Any], record: JobRecord, result: bytes) -> JobRecord:
    """Return the record of a job after an attempt with what is kept of its result."""
    keep = job.settings.keep_result
    until_us = 0
    if keep is not None and record.state is JobState.COMPLETED:
        until_us = record.ended_us + keep // timedelta.resolution
    if result == record.result and until_us == record.result_until_us:
        return record
    return msgspec.structs.replace(record, result=result, result_until_us=until_us)


class Results:
    """Gives the results of jobs that are kept.

    Parameters:
        jobs: those declared, by kind.
        now_us: gives the time.
    """

    def __init__(self, jobs: dict[str, Job[Any]], now_us: Callable[[], int]) -> None:
        self._jobs = jobs
        self._now_us = now_us

    def of(self, record: JobRecord) -> Any:
        """Return the result of a job.

        Raises:
            NoResult: there is none, or none any more.
        """
        what = f"job {record.id} ({record.kind})"
        if record.state not in FINAL_STATES:
            raise NoResult(f"{what} has not ended: it is {record.state}", code="result_pending")
        if record.state is not JobState.COMPLETED:
            raise NoResult(f"{what} was {record.state}: {record.error}", code="result_failed")
        if not record.result_until_us:
            raise NoResult(
                f"the result of {what} was not kept",
                hint="Declare the job with keep_result=timedelta(...).",
                code="result_not_kept",
            )
        if record.result_until_us <= self._now_us():
            raise NoResult(
                f"the result of {what} has expired",
                hint="A longer keep_result keeps those of jobs to come.",
                code="result_expired",
            )
        return self._decoded(record) if record.result else None

    def _decoded(self, record: JobRecord) -> Any:
        job = self._jobs.get(record.kind)
        returns = ANYTHING if job is None else job.returns
        try:
            return returns.decode(record.result)
        except msgspec.ValidationError:
            # The function declared something else when it returned this.
            return ANYTHING.decode(record.result)

"""What a job's function returned: kept with the job for a while, when its declaration asks for that."""

import contextlib
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from klerk import limits
from klerk.batch import Batch
from klerk.codec import encode
from klerk.commands import Command
from klerk.errors import JobError, LimitExceeded, NoResult
from klerk.field_types import Unsupported
from klerk.fields import field_type
from klerk.jobs import FINAL_STATES, Job, JobRecord, JobRequest, JobState

_decode_anything = msgspec.msgpack.Decoder().decode


def encoded_result(job: Job[Any], value: Any) -> bytes:
    """Return what a job's function returned as it is kept; empty when it is not, or was None.

    Raises:
        JobError: it cannot be stored, or means nothing until something is done with it.
        LimitExceeded: it is too large.
    """
    if value is None:
        return b""
    if isinstance(value, Command | JobRequest | Batch) or inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise JobError(
            f"job '{job.name}' returned a {type(value).__name__}, which does nothing by itself",
            hint="End with commands by `return job.complete_with(command)`, and await what is to be awaited.",
            code="result_undone",
        )
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
    return encoded


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
        self._decoders: dict[str, Callable[[bytes], Any]] = {}

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
        decode = self._decoders.get(record.kind)
        if decode is None:
            decode = self._decoders[record.kind] = _decoder(self._jobs.get(record.kind))
        try:
            return decode(record.result)
        except msgspec.ValidationError:
            # The function returned something else than it declares, or declares something else by now.
            return _decode_anything(record.result)


def _decoder(job: Job[Any] | None) -> Callable[[bytes], Any]:
    """Return what decodes the results of a job to the type that its function says it returns, if it does."""
    if job is None:
        return _decode_anything
    try:
        declared = inspect.get_annotations(job.function, eval_str=True).get("return", Any)
    except Exception:
        # An annotation that only a type checker can resolve.
        return _decode_anything
    with contextlib.suppress(Unsupported):
        declared = field_type(declared, _unresolved).plain
    try:
        return msgspec.msgpack.Decoder(declared).decode
    except TypeError:
        return _decode_anything


def _unresolved(name: str) -> Any:
    raise Unsupported(f"'{name}' is not known here")

"""What the function of a running job receives."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from klerk import limits
from klerk.batch import member_ids
from klerk.commands import Command, Result
from klerk.errors import ArgumentError, JobCancelled, NotFound
from klerk.jobs import JobRecord, JobState
from klerk.reading.reader import Reader
from klerk.values import Model

T = TypeVar("T")
M = TypeVar("M", bound=Model)


def storable(text: str, length_max: int) -> str:
    """Return a text as it can be stored: shortened, and without what is no Unicode."""
    return text[:length_max].encode("utf-8", "replace").decode()


class Completion(msgspec.Struct, frozen=True):
    """What a job function returns to end with commands; made by `JobRun.complete_with`."""

    commands: tuple[Command[Any], ...]


class JobHost(Protocol):
    """What a running job needs of the open Klerk."""

    def handle_for_job(self, record: JobRecord, command: Command[M]) -> Result[M]: ...
    async def handle_for_coroutine(self, record: JobRecord, command: Command[M]) -> Result[M]: ...
    def read_for_job(self, record: JobRecord) -> Reader: ...
    def result_for_job(self, record: JobRecord, job_id: int) -> Any: ...


class JobRun:
    """One attempt at a job, as its function receives it.

    Attributes:
        record: of the job, as it was before this attempt.
        id: of the job; the same for every attempt, so it serves as an idempotency key for outside effects.
        attempt: counted from 1.
        is_over: its end is being recorded.
    """

    def __init__(self, host: JobHost, record: JobRecord) -> None:
        self._host = host
        self.record = record
        self._lines = list(record.log)
        self._cancelled = False
        self.is_over = False
        self._readers: list[Reader] = []
        self.id = record.id
        self.attempt = record.attempt + 1
        self.done = 0
        self.total = 0

    @property
    def log_lines(self) -> tuple[str, ...]:
        """What was logged so far, by earlier attempts too."""
        return tuple(self._lines)

    @property
    def cancelled(self) -> bool:
        """Whether the job was asked to stop."""
        return self._cancelled

    def cancel(self) -> None:
        """Ask the job to stop: its next call of `track`, `handle` or `check_cancelled` raises."""
        self._cancelled = True

    def check_cancelled(self) -> None:
        """Raise `JobCancelled` when the job was asked to stop."""
        if self._cancelled:
            raise JobCancelled(f"job {self.record.kind} {self.id} was asked to stop")

    def complete_with(self, *commands: Command[Any]) -> Completion:
        """Return, for the function to return, that the job ends with commands: they and its completion are
        one transaction. When a command is refused, the attempt has failed."""
        return Completion(commands)

    def ended(self, *, state: JobState, attempt: int, error: str, run_at_us: int, ended_us: int) -> JobRecord:
        """Return the record of the job after this attempt."""
        return msgspec.structs.replace(
            self.record,
            state=state,
            attempt=attempt,
            error=storable(error, limits.ERROR_LENGTH_MAX),
            run_at_us=run_at_us,
            ended_us=ended_us,
            log=tuple(self._lines),
            done=int(self.done),
            total=int(self.total),
        )

    def read(self) -> Reader:
        """Return a reader for ``with`` or ``async with``, on behalf of the job."""
        reader = self._host.read_for_job(self.record)
        self._readers.append(reader)
        return reader

    def close_readers(self) -> bool:
        """End the reads that the job's function began and did not end; return whether there were any."""
        left_open = [reader for reader in self._readers if reader.is_held]
        for reader in left_open:
            reader.__exit__(None, None, None)
        return bool(left_open)

    def handle(self, command: Command[M]) -> Result[M]:
        """Handle a command on behalf of the job and return its result. It blocks: see `handle_async`."""
        self.check_cancelled()
        return self._host.handle_for_job(self.record, command)

    async def handle_async(self, command: Command[M]) -> Result[M]:
        """Handle a command as `handle` does, in a job that is a coroutine: others run meanwhile."""
        self.check_cancelled()
        return await self._host.handle_for_coroutine(self.record, command)

    def result_of(self, job: JobRecord | int) -> Any:
        """Return the value that an earlier job returned and kept: one that this job follows, or a member of
        the batch whose callback it is.

        Parameters:
            job: its record or id.

        Raises:
            ArgumentError: it is neither of these.
            NotFound: it keeps no result, or no longer.
        """
        job_id = job.id if isinstance(job, JobRecord) else job
        return self._host.result_for_job(self.record, job_id)

    def results(self) -> dict[int, Any]:
        """Return the kept results of the jobs that this one follows, by their ids."""
        return dict(self._results(self.record.follows))

    def member_results(self) -> Iterator[tuple[int, Any]]:
        """Yield the id and the kept result of each member of the batch whose callback this job is, in order.

        Each is read when its turn comes, so that a large batch takes no more memory than a small one.
        """
        return self._results(member_ids(self.record) if self.record.role else ())

    def _results(self, job_ids: Iterable[int]) -> Iterator[tuple[int, Any]]:
        for job_id in job_ids:
            try:
                yield job_id, self._host.result_for_job(self.record, job_id)
            except (NotFound, ArgumentError):
                # It keeps no result; or its id lies between members, and it is none.
                continue

    def log(self, text: str) -> None:
        """Add a line to the job's own log, which is kept with it; the oldest lines go first."""
        self._lines.append(storable(str(text), limits.JOB_LOG_LINE_LENGTH_MAX))
        del self._lines[: -limits.JOB_LOG_LINES_MAX]

    def track(self, items: Sequence[T]) -> Iterator[T]:
        """Yield the items and note how many are done; stops with `JobCancelled` when the job is to stop."""
        self.total += len(items)
        for item in items:
            self.check_cancelled()
            yield item
            self.done += 1

"""A job while it runs: what the job manager keeps of one attempt at it."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Any, Protocol, TypeVar

import msgspec

from klerk import limits
from klerk._dispatch import moment_at
from klerk.batch import Batch
from klerk.commands import Command, Result
from klerk.errors import JobCancelled, JobError
from klerk.job_outcomes import Completion
from klerk.job_steps import JobSteps
from klerk.jobs import Job, JobRecord, JobRequest, JobState
from klerk.log_events import about_job
from klerk.reading.reader import Reader
from klerk.reading.snapshots import Snapshot
from klerk.texts import storable
from klerk.values import Model

LOG = logging.getLogger("klerk")

M = TypeVar("M", bound=Model)

# Held for the one statement that gives an attempt its steps: threads of the job may come there together.
_FIRST_STEP = threading.Lock()


class JobHost(Protocol):
    """What a running job needs of the open Klerk."""

    def handle_for_job(self, run: "RunningJob", command: Command[M], step: str | None) -> Result[M]: ...
    async def handle_for_coroutine(
        self, run: "RunningJob", command: Command[M], step: str | None
    ) -> Result[M]: ...
    def schedule_for_job(
        self, run: "RunningJob", requests: tuple[JobRequest | Batch, ...], step: str | None
    ) -> tuple[JobRecord, ...]: ...
    async def schedule_for_coroutine(
        self, run: "RunningJob", requests: tuple[JobRequest | Batch, ...], step: str | None
    ) -> tuple[JobRecord, ...]: ...
    def idempotency_key_for_job(self, record: JobRecord) -> str: ...
    def read_for_job(self, record: JobRecord, released: Callable[[float], None]) -> Reader: ...
    def snapshot_for_job(self, record: JobRecord) -> Snapshot: ...
    async def snapshot_for_coroutine(self, record: JobRecord) -> Snapshot: ...
    def save_for_job(self, run: "RunningJob", checkpoint: bytes) -> None: ...
    async def save_for_coroutine(self, run: "RunningJob", checkpoint: bytes) -> None: ...
    def result_for_job(self, record: JobRecord, job_id: int) -> Any: ...


class RunningJob:
    """One attempt at a job, as the job manager and those who observe it see it. Its function receives a
    `JobRun`, which tells this what it does.

    Parameters:
        host: does what the job asks for.
        record: of the job.
        job: as declared.
        now_us: gives the time, in microseconds since 1970 UTC.

    Attributes:
        host, job, now_us: as given.
        record: of the job, as it was before this attempt.
        newest: of the job, as it was stored last.
        id, attempt: of the job, the same for every attempt; and which attempt this is, counted from 1.
        lines: what it logged, in this attempt and earlier ones.
        done, total: how much is done, and there is to do.
        started_us, seen_us: when it began, and gave the last sign: every call of a method of its `JobRun`.
        is_over: its end is being recorded.
        begun_s: when it was given to its worker, by `time.monotonic`.
        end: the record that says so.
        completion: what its function got of `JobRun.complete_with`; None: it did not call that.
        stop: what the job becomes, unless its function succeeds, because somebody asked for that meanwhile.
        stopped_by: why it was asked to stop; None: it was not.
        is_beginning, goes_on: a process is being started for it; it was asked to stop, and does not.
        readers, snapshots: that it has opened.
    """

    __slots__ = (
        *("_steps", "attempt", "begun_s", "completion", "done", "end", "goes_on", "host", "id"),
        *("is_beginning", "is_over"),
        *("job", "lines", "newest", "now_us", "readers", "record", "seen_us", "snapshots", "started_us"),
        *("stop", "stopped_by", "total"),
    )

    def __init__(self, host: JobHost, record: JobRecord, job: Job[Any], now_us: Callable[[], int]) -> None:
        self.host = host
        self.record = self.newest = record
        self.job = job
        self.now_us = now_us
        self.id = record.id
        self.attempt = record.attempt + 1
        self.lines = list(record.log)
        self.done = self.total = 0
        self.started_us = self.seen_us = now_us()
        self.begun_s = monotonic()
        self.is_over = self.goes_on = self.is_beginning = False
        self.end: JobRecord | None = None
        self.completion: Completion | None = None
        self.stop: JobState | None = None
        self.stopped_by: JobError | None = None
        self.readers: list[Reader] = []
        self.snapshots: list[Snapshot] = []
        self._steps: JobSteps | None = None

    @property
    def queue(self) -> str:
        """The name of the queue that the job waited in."""
        return self.record.queue or self.job.settings.queue

    @property
    def now(self) -> datetime:
        """The time in UTC, by the clock that the app was opened with."""
        return moment_at(self.now_us())

    @property
    def steps(self) -> JobSteps:
        """What names the commands that this attempt handles."""
        with _FIRST_STEP:
            if self._steps is None:
                self._steps = JobSteps(self.record.id, self.record.renewals)
            return self._steps

    # --- stopping ---------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether the job was asked to stop."""
        return self.stopped_by is not None

    def cancel(self, error: JobError | None = None) -> None:
        """Ask the job to stop: its next call of `JobRun.check_cancelled`, or of what calls that, raises. The
        first to ask says why.

        Parameters:
            error: what is raised; left out, `JobCancelled`.
        """
        if self.stopped_by is None:
            self.stopped_by = error or JobCancelled(f"job {self.record.kind} {self.id} was asked to stop")

    def check_cancelled(self) -> None:
        """Raise why the job was asked to stop, if it was."""
        self.seen_us = self.now_us()
        if self.stopped_by is not None:
            raise self.stopped_by

    def check_running(self) -> None:
        """Raise `JobCancelled` when the attempt is over, or why the job was asked to stop."""
        self.check_cancelled()
        if self.is_over:
            raise JobCancelled(f"this attempt at job {self.record.kind} {self.id} is over")

    # --- signs of life ----------------------------------------------------------------------------

    def function_begins(self) -> None:
        """Note that the function is called now: what came before was starting its process."""
        self.started_us, self.is_beginning = self.now_us(), False
        self.gave_sign()

    def gave_sign(self) -> None:
        """Note that the job is alive."""
        self.seen_us = self.now_us()

    def released(self, held_s: float) -> None:
        """Note that a reader of the job has released the read lock, which it held so many seconds."""
        self.gave_sign()
        if held_s > limits.JOB_READ_WARN_S:
            LOG.warning(
                "job %d (%s) held the read lock for %.1f s, which holds up every command; job.snapshot() does"
                " not",
                self.id,
                self.record.kind,
                held_s,
                extra=about_job("reader_held_long", self.record, self.queue, held_s=held_s),
            )

    def close_readers(self) -> bool:
        """End the reads that the job's function began and did not end; return whether any held the lock."""
        for snapshot in self.snapshots:
            snapshot.close()
        left_open = [reader for reader in self.readers if reader.is_held]
        for reader in left_open:
            reader.__exit__(None, None, None)
        return bool(left_open)

    # --- its records ------------------------------------------------------------------------------

    def ended(
        self, *, state: JobState, attempt: int, crashes: int, error: str, run_at_us: int, ended_us: int
    ) -> JobRecord:
        """Return the record of the job after this attempt."""
        self.end = msgspec.structs.replace(
            self.newest,
            log=tuple(self.lines),
            done=self.done,
            total=self.total,
            started_us=self.started_us,
            state=state,
            attempt=attempt,
            crashes=crashes,
            error=storable(error, limits.ERROR_LENGTH_MAX),
            run_at_us=run_at_us,
            ended_us=ended_us,
            checkpoint=b"" if state is JobState.COMPLETED else self.newest.checkpoint,
            stop="",
        )
        return self.end

    def shown_in(self, record: JobRecord) -> JobRecord:
        """Return a record of the job with what this attempt has told so far."""
        return msgspec.structs.replace(
            record,
            log=tuple(self.lines),
            done=self.done,
            total=self.total,
            started_us=self.started_us,
            stop=self.stop or "",
        )

    def told(self) -> JobRecord:
        """Return what is stored of the job, with the log and progress that this attempt told since."""
        newest, is_silent = self.newest, not (self.done or self.total)
        return msgspec.structs.replace(
            newest,
            log=tuple(self.lines),
            done=newest.done if is_silent else self.done,
            total=newest.total if is_silent else self.total,
            stop=self.stop or "",
        )

    @property
    def tells_more(self) -> bool:
        """Whether this attempt told something that is not stored."""
        told, newest = self.told(), self.newest
        return (told.log, told.done, told.total) != (newest.log, newest.done, newest.total)

    def saved(self, checkpoint: bytes) -> JobRecord:
        """Return the record with which a checkpoint is stored.

        Raises:
            JobError: the attempt is over.
        """
        if self.is_over:
            raise JobError(
                f"the attempt at job {self.record.kind} {self.id} is over",
                hint="Threads and tasks that a job starts must end before its function does.",
            )
        return msgspec.structs.replace(self.shown_in(self.newest), checkpoint=checkpoint)

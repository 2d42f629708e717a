"""What the function of a running job receives."""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any, Protocol, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from klerk import limits
from klerk._dispatch import moment_at
from klerk.commands import Command, Result
from klerk.errors import ArgumentError, JobCancelled, JobError
from klerk.job_outcomes import Completion
from klerk.job_reader import JobSnapshot
from klerk.job_results import EarlierResults, ResultHost
from klerk.job_states import decoded_state, encoded_state, typed_state
from klerk.job_steps import JobSteps
from klerk.jobs import Job, JobRecord, JobState
from klerk.log_events import about_job
from klerk.loops import is_in_loop
from klerk.reading.reader import Reader
from klerk.reading.snapshots import Snapshot
from klerk.texts import storable
from klerk.values import Model

LOG = logging.getLogger("klerk")

T = TypeVar("T")
M = TypeVar("M", bound=Model)


class JobHost(ResultHost, Protocol):
    """What a running job needs of the open Klerk."""

    def handle_for_job(self, run: "JobRun", command: Command[M], step: str | None) -> Result[M]: ...
    async def handle_for_coroutine(
        self, run: "JobRun", command: Command[M], step: str | None
    ) -> Result[M]: ...
    def idempotency_key_for_job(self, record: JobRecord) -> str: ...
    def read_for_job(self, record: JobRecord, released: Callable[[float], None]) -> Reader: ...
    def snapshot_for_job(self, record: JobRecord) -> Snapshot: ...
    async def snapshot_for_coroutine(self, record: JobRecord) -> Snapshot: ...
    def save_for_job(self, run: "JobRun", checkpoint: bytes) -> None: ...
    async def save_for_coroutine(self, run: "JobRun", checkpoint: bytes) -> None: ...


class JobRun(EarlierResults):
    """One attempt at a job, as its function receives it.

    Parameters:
        host: does what the job asks for.
        record: of the job.
        job: as declared.
        now_us: gives the time, in microseconds since 1970 UTC.

    Attributes:
        record: of the job, as it was before this attempt.
        newest: of the job, as it was stored last.
        id, attempt: of the job, the same for every attempt; and which attempt this is, counted from 1.
        crashes: how often the process died while the job ran.
        started_us, seen_us: when it began, and gave the last sign: every call of a method here is one.
        is_over: its end is being recorded.
        begun_s: when it was given to its worker, by `time.monotonic`.
        end: the record that says so.
        stop: what the job becomes, unless its function succeeds, because somebody asked for that meanwhile.
        stopped_by: why it was asked to stop; None: it was not.
        is_beginning, goes_on: a process is being started for it; it was asked to stop, and does not.
    """

    _host: JobHost

    def __init__(self, host: JobHost, record: JobRecord, job: Job[Any], now_us: Callable[[], int]) -> None:
        self._host = host
        self.record = self.newest = record
        self._job = job
        self._now_us = now_us
        self._lines = list(record.log)
        self.stopped_by: JobError | None = None
        self.is_over = self.goes_on = self.is_beginning = False
        self.begun_s = monotonic()
        self.end: JobRecord | None = None
        self.stop: JobState | None = None
        self._readers: list[Reader] = []
        self._snapshots: list[Snapshot] = []
        self.id = record.id
        self.attempt = record.attempt + 1
        self.crashes = record.crashes
        self.started_us = self.seen_us = now_us()
        self._done = 0
        self._total = 0

    @property
    def log_lines(self) -> tuple[str, ...]:
        """What was logged so far, by earlier attempts too."""
        return tuple(self._lines)

    @property
    def queue(self) -> str:
        """The name of the queue that the job waited in."""
        return self.record.queue or self._job.settings.queue

    @property
    def idempotency_key(self) -> str:
        """A text for whatever the job does outside of Klerk: it is the same in every attempt, also after a
        restart or a crash, and no other job of any store has it; a job that is run again after its end has a
        new one.

        Send it with the request, as in ``charge(card, amount, headers={"Idempotency-Key":
        job.idempotency_key})``, or store it with what is written, and refuse what is known already. For
        several effects of one job, add a name to it. It tells nothing about the job.
        """
        return self._host.idempotency_key_for_job(self.record)

    @property
    def steps(self) -> JobSteps:
        """What names the commands that this attempt handles."""
        # Threads of the job may come here together, and must find the same one.
        known: JobSteps = vars(self).setdefault("_steps", JobSteps(self.record.id, self.record.renewals))
        return known

    @property
    def cancelled(self) -> bool:
        """Whether the job was asked to stop."""
        return self.stopped_by is not None

    def cancel(self, error: JobError | None = None) -> None:
        """Ask the job to stop: its next call of `track`, `handle`, `read`, `checkpoint`, `progress`,
        `heartbeat` or `check_cancelled` raises. The first to ask says why.

        Parameters:
            error: what is raised; left out, `JobCancelled`.
        """
        if self.stopped_by is None:
            self.stopped_by = error or JobCancelled(f"job {self.record.kind} {self.id} was asked to stop")

    def check_cancelled(self) -> None:
        """Raise `JobCancelled` or `JobTimeout` when the job was asked to stop."""
        self.gave_sign()
        if self.stopped_by is not None:
            raise self.stopped_by

    def function_begins(self) -> None:
        """Note that the function is called now: what came before was starting its process."""
        self.started_us, self.is_beginning = self._now_us(), False
        self.gave_sign()

    def gave_sign(self) -> None:
        """Note that the job is alive."""
        self.seen_us = self._now_us()

    def complete_with(self, *commands: Command[Any]) -> Completion:
        """Return, for the function to return, that the job ends with commands: they and its completion are
        one transaction. When a command is refused, the attempt has failed."""
        self.seen_us = self._now_us()
        return Completion(commands)

    def ended(
        self, *, state: JobState, attempt: int, crashes: int, error: str, run_at_us: int, ended_us: int
    ) -> JobRecord:
        """Return the record of the job after this attempt."""
        self.end = msgspec.structs.replace(
            self.newest,
            log=tuple(self._lines),
            done=self._done,
            total=self._total,
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
            log=tuple(self._lines),
            done=self._done,
            total=self._total,
            started_us=self.started_us,
            stop=self.stop or "",
        )

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

    @property
    def now(self) -> datetime:
        """The time in UTC, by the clock that the app was opened with."""
        return moment_at(self._now_us())

    @property
    def tick(self) -> datetime | None:
        """The time of its cron expression for which the job runs, in the job's time zone; None when it was
        asked for otherwise."""
        if not self.record.tick_us:
            return None
        return moment_at(self.record.tick_us).astimezone(ZoneInfo(self._job.settings.timezone))

    # --- reading ----------------------------------------------------------------------------------

    def read(self) -> Reader:
        """Return a reader for ``with`` or ``async with``, on behalf of the job.

        While it is held, nothing that others do becomes visible, so after `limits.JOB_READ_WARN_S` seconds a
        warning is logged: for what takes longer, there is `snapshot`.
        """
        self.check_cancelled()
        reader = self._host.read_for_job(self.record, self._released)
        self._readers.append(reader)
        return reader

    def _released(self, held_s: float) -> None:
        self.seen_us = self._now_us()
        if held_s > limits.JOB_READ_WARN_S:
            LOG.warning(
                "job %d (%s) held the read lock for %.1f s, which holds up every command; job.snapshot() does"
                " not",
                self.id,
                self.record.kind,
                held_s,
                extra=about_job("reader_held_long", self.record, self.queue, held_s=held_s),
            )

    def snapshot(self) -> JobSnapshot:
        """Return a snapshot for ``with`` or ``async with``, on behalf of the job; see `Klerk.snapshot`."""
        self.seen_us = self._now_us()
        return JobSnapshot(
            partial(self._host.snapshot_for_job, self.record),
            partial(self._host.snapshot_for_coroutine, self.record),
            self._snapshots.append,
        )

    def close_readers(self) -> bool:
        """End the reads that the job's function began and did not end; return whether any held the lock."""
        for snapshot in self._snapshots:
            snapshot.close()
        left_open = [reader for reader in self._readers if reader.is_held]
        for reader in left_open:
            reader.__exit__(None, None, None)
        return bool(left_open)

    # --- doing ------------------------------------------------------------------------------------

    def handle(self, command: Command[M], *, step: str | None = None) -> Result[M]:
        """Handle a command on behalf of the job and return its result. It blocks: see `handle_async`.

        When an attempt fails, or the process dies, the job runs again from its beginning. A command that an
        earlier attempt handled does not take effect again: it returns its first outcome, and
        `Result.repeated` is true. Commands are told apart

        - by `step`: the same name stands for what was handled first under it, whatever is given now;
        - without one, by event, target, the models that the parameters refer to, and how many commands with
          all of these alike this attempt asked for before. So a list may have grown or lost items meanwhile.

        Other parameters do not count where there is a target: of what is due to a model now, the first
        attempt has decided. A command that creates a model and has other parameters than the first time is
        refused instead, since nobody knows whether it is meant to be the same. Name the step when an event
        happens to one model several times in changing order, or when parameters change between attempts. A
        command that was refused used nothing up.

        Parameters:
            step: up to `limits.JOB_STEP_LENGTH_MAX` characters, unique within the job: ``f"fee {loan}"``.

        Raises:
            JobCancelled: the job was asked to stop, or this attempt is over.
            Conflict: (``token_reused``) it creates a model with other parameters than in an earlier attempt.
            ArgumentError: `step` is no name, or was used for another command in this attempt.
            Rejected and the like: as for `Klerk.handle`.
        """
        self._check_running()
        return self._host.handle_for_job(self, command, step)

    async def handle_async(self, command: Command[M], *, step: str | None = None) -> Result[M]:
        """Handle a command as `handle` does, in a job that is a coroutine: others run meanwhile."""
        self._check_running()
        return await self._host.handle_for_coroutine(self, command, step)

    def _check_running(self) -> None:
        self.check_cancelled()
        if self.is_over:
            raise JobCancelled(f"this attempt at job {self.record.kind} {self.id} is over")

    # --- what it tells ----------------------------------------------------------------------------

    @property
    def state(self) -> Any:
        """What the job saved last with `checkpoint`, in this attempt or an earlier one; None before that.

        It is made of numbers, texts, bytes, times, lists and dicts; for more, see `state_as`.
        """
        return decoded_state(self.newest.checkpoint)

    def state_as(self, cls: type[T]) -> T | None:
        """Return what the job saved last, as a type: a `msgspec.Struct`, a dataclass, ``dict[str, int]``...

        Raises:
            InvalidValue: it does not fit the type.
        """
        return typed_state(self.newest.checkpoint, cls)

    def checkpoint(self, state: Any) -> None:
        """Save how far the job has come, with its log and progress, and return once that is durable.

        The next attempt finds it as `state`, after a failure, a restart or a crash. It blocks: see
        `checkpoint_async`.

        Parameters:
            state: whatever MessagePack can hold, in `limits.JOB_STATE_BYTES_MAX` bytes; None: none any more.

        Raises:
            ArgumentError, LimitExceeded: it cannot hold that, or not so much.
            JobCancelled: the job was asked to stop; the state is saved.
            JobError: the attempt is over, or this runs in an event loop.
            ReadLockHeld: this thread holds the read lock.
            StoreFailed, Closed: nothing can be written any more.
        """
        self.seen_us = self._now_us()
        if is_in_loop():
            raise JobError(
                "a checkpoint would hold up the event loop", hint="Write: await job.checkpoint_async(state)."
            )
        self._host.save_for_job(self, encoded_state(state))
        self.check_cancelled()

    async def checkpoint_async(self, state: Any) -> None:
        """Save how far the job has come as `checkpoint` does, in a job that is a coroutine: others run
        meanwhile."""
        self.seen_us = self._now_us()
        await self._host.save_for_coroutine(self, encoded_state(state))
        self.check_cancelled()

    def heartbeat(self) -> None:
        """Give a sign that the job is alive, as every other call does, too; raises `JobCancelled` when it is
        to stop."""
        self.check_cancelled()

    @property
    def done(self) -> int:
        """How much is done, as told by `track` and `progress`."""
        return self._done

    @property
    def total(self) -> int:
        """How much there is to do, as told by `track` and `progress`."""
        return self._total

    def progress(self, done: int, total: int | None = None) -> None:
        """Tell how much is done. Everyone sees it at once; it is stored with the next checkpoint, and at the
        end of the attempt.

        Parameters:
            done: 0 or more, in whatever unit.
            total: how much there is to do, in the same unit; left out, it stays.

        Raises:
            ArgumentError: it is no such number.
            JobCancelled: the job was asked to stop.
        """
        total = self._total if total is None else total
        for each in (done, total):
            if type(each) is not int or not 0 <= each <= limits.JOB_PROGRESS_MAX:
                raise ArgumentError(
                    f"progress takes whole numbers from 0 to {limits.JOB_PROGRESS_MAX:,}, got {each!r}"
                )
        self._done, self._total = done, total
        self.check_cancelled()

    def log(self, text: str) -> None:
        """Add a line to the job's own log, which is kept with it; the oldest lines go first."""
        self.seen_us = self._now_us()
        self._lines.append(storable(str(text), limits.JOB_LOG_LINE_LENGTH_MAX))
        del self._lines[: -limits.JOB_LOG_LINES_MAX]

    def track(self, items: Sequence[T]) -> Iterator[T]:
        """Yield the items and note how many are done; stops with `JobCancelled` when the job is to stop."""
        self._total += len(items)
        for item in items:
            self.check_cancelled()
            yield item
            self._done += 1

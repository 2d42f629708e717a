"""What the function of a running job receives."""

from collections.abc import Iterable, Iterator, Sized
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from klerk import limits
from klerk._dispatch import moment_at
from klerk.batch import Batch, checked_requests
from klerk.commands import Command, Result
from klerk.errors import ArgumentError, JobError
from klerk.job_outcomes import SEVERAL, Completion
from klerk.job_reader import JobSnapshot
from klerk.job_results import EarlierResults
from klerk.job_states import decoded_state, encoded_state, typed_state
from klerk.jobs import JobRecord, JobRequest
from klerk.loops import is_in_loop
from klerk.reading.reader import Reader
from klerk.running_job import RunningJob
from klerk.texts import storable
from klerk.values import Model

T = TypeVar("T")
M = TypeVar("M", bound=Model)


class JobRun(EarlierResults):
    """One attempt at a job, as its function receives it; two of the same attempt are equal."""

    __slots__ = ("_running",)

    def __init__(self, running: RunningJob) -> None:
        self._running = running

    @property
    def record(self) -> JobRecord:
        """The record of the job, as it was before this attempt."""
        return self._running.record

    @property
    def id(self) -> int:
        """The id of the job, the same in every attempt."""
        return self._running.id

    @property
    def attempt(self) -> int:
        """Which attempt this is, counted from 1."""
        return self._running.attempt

    @property
    def crashes(self) -> int:
        """How often the process died while the job ran."""
        return self._running.record.crashes

    @property
    def log_lines(self) -> tuple[str, ...]:
        """What was logged so far, by earlier attempts too."""
        return tuple(self._running.lines)

    @property
    def queue(self) -> str:
        """The name of the queue that the job waited in."""
        return self._running.queue

    @property
    def idempotency_key(self) -> str:
        """A text for whatever the job does outside of Klerk: it is the same in every attempt, also after a
        restart or a crash, and no other job of any store has it; a job that is run again after its end has a
        new one.

        Send it with the request, as in ``charge(card, amount, headers={"Idempotency-Key":
        job.idempotency_key})``, or store it with what is written, and refuse what is known already. For
        several effects of one job, add a name to it. It tells nothing about the job.
        """
        return self._running.host.idempotency_key_for_job(self.record)

    @property
    def cancelled(self) -> bool:
        """Whether the job was asked to stop."""
        return self._running.cancelled

    def check_cancelled(self) -> None:
        """Raise `JobCancelled` or `JobTimeout` when the job was asked to stop."""
        self._running.check_cancelled()

    def complete_with(self, *commands: Command[Any]) -> Completion:
        """Return, for the function to return, that the job ends with commands: they and its completion are
        one transaction. When a command is refused, the attempt has failed; so it has when the function
        returns something else after all that says no `Snooze` or the like."""
        self._running.gave_sign()
        completion = Completion(commands)
        self._running.completion = completion if self._running.completion is None else SEVERAL
        return completion

    @property
    def now(self) -> datetime:
        """The time in UTC, by the clock that the app was opened with."""
        return self._running.now

    @property
    def elapsed(self) -> timedelta:
        """For how long this attempt has been with its worker, by a clock that nobody sets."""
        return timedelta(seconds=monotonic() - self._running.begun_s)

    @property
    def tick(self) -> datetime | None:
        """The time of its cron expression for which the job runs, in the job's time zone; None when it was
        asked for otherwise."""
        if not self.record.tick_us:
            return None
        return moment_at(self.record.tick_us).astimezone(ZoneInfo(self._running.job.settings.timezone))

    # --- reading ----------------------------------------------------------------------------------

    def read(self) -> Reader:
        """Return a reader for ``with`` or ``async with``, on behalf of the job.

        While it is held, nothing that others do becomes visible, so after `limits.JOB_READ_WARN_S` seconds a
        warning is logged: for what takes longer, there is `snapshot`.
        """
        self.check_cancelled()
        running = self._running
        reader = running.host.read_for_job(running.record, running.released)
        running.readers.append(reader)
        return reader

    def snapshot(self) -> JobSnapshot:
        """Return a snapshot for ``with`` or ``async with``, on behalf of the job; see `Klerk.snapshot`."""
        self._running.gave_sign()
        running = self._running
        return JobSnapshot(
            partial(running.host.snapshot_for_job, running.record),
            partial(running.host.snapshot_for_coroutine, running.record),
            running.snapshots.append,
        )

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
        self._running.check_running()
        return self._running.host.handle_for_job(self._running, command, step)

    async def handle_async(self, command: Command[M], *, step: str | None = None) -> Result[M]:
        """Handle a command as `handle` does, in a job that is a coroutine: others run meanwhile."""
        self._running.check_running()
        return await self._running.host.handle_for_coroutine(self._running, command, step)

    def schedule(
        self, *requests: JobRequest | Batch, at: datetime | None = None, step: str | None = None
    ) -> tuple[JobRecord, ...]:
        """Create jobs on behalf of this one, in one transaction, and return their records once it is durable.

        It blocks: see `schedule_async`. The new jobs name that transaction as their cause, and the commit log
        this job as its actor. Whether this job ends well makes no difference to them.

        A later attempt creates nothing again: it is returned the same jobs, as they are then. Calls are told
        apart

        - by `step`: the same name stands for what was created first under it, whatever is asked for now. Name
          the step whenever a later attempt may ask for other jobs, or for more of them;
        - without one, a call for one job by its kind, the models that it refers to, and how many calls with
          all of these alike this attempt made before. Its time and its other arguments do not count; but when
          it refers to no model, one with other arguments is refused, since nobody knows whether it is meant
          to be the same;
        - without one, a call for several jobs or a batch by how many such calls this attempt made before. It
          is refused when these are not the same as the first time, by what counts of a single one.

        A call that was refused used nothing up.

        Parameters:
            requests: as for `Jobs.schedule`; they may follow earlier ones: ``report().after(records[0])``.
            at: not before; None: at once. Of a batch, it is for the members.
            step: up to `limits.JOB_STEP_LENGTH_MAX` characters, unique among the calls of this method.

        Raises:
            JobCancelled: the job was asked to stop, or this attempt is over.
            Conflict: (``token_reused``) an earlier attempt asked for other jobs.
            ArgumentError: `step` is no name, or was used for other jobs in this attempt; or as for
                `Jobs.schedule`.
            NotFound, InvalidValue: as for `Jobs.schedule`.
            ReadLockHeld: this thread holds the read lock.
            StoreFailed, Closed: nothing can be written any more.
        """
        running = self._running
        running.check_running()
        return running.host.schedule_for_job(running, checked_requests(requests, at), step)

    async def schedule_async(
        self, *requests: JobRequest | Batch, at: datetime | None = None, step: str | None = None
    ) -> tuple[JobRecord, ...]:
        """Create jobs as `schedule` does, in a job that is a coroutine: others run meanwhile."""
        running = self._running
        running.check_running()
        return await running.host.schedule_for_coroutine(running, checked_requests(requests, at), step)

    # --- what it tells ----------------------------------------------------------------------------

    @property
    def state(self) -> Any:
        """What the job saved last with `checkpoint`, in this attempt or an earlier one; None before that.

        It is made of numbers, texts, bytes, times, lists and dicts; for more, see `state_as`.
        """
        return decoded_state(self._running.newest.checkpoint)

    def state_as(self, cls: type[T]) -> T | None:
        """Return what the job saved last, as a type: a `msgspec.Struct`, a dataclass, ``dict[str, int]``...

        Raises:
            InvalidValue: it does not fit the type.
        """
        return typed_state(self._running.newest.checkpoint, cls)

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
        self._running.gave_sign()
        if is_in_loop():
            raise JobError(
                "a checkpoint would hold up the event loop", hint="Write: await job.checkpoint_async(state)."
            )
        self._running.host.save_for_job(self._running, encoded_state(state))
        self.check_cancelled()

    async def checkpoint_async(self, state: Any) -> None:
        """Save how far the job has come as `checkpoint` does, in a job that is a coroutine: others run
        meanwhile."""
        self._running.gave_sign()
        await self._running.host.save_for_coroutine(self._running, encoded_state(state))
        self.check_cancelled()

    def heartbeat(self) -> None:
        """Give a sign that the job is alive, as every other call does, too; raises `JobCancelled` when it is
        to stop."""
        self.check_cancelled()

    @property
    def done(self) -> int:
        """How much is done, as told by `track` and `progress`."""
        return self._running.done

    @property
    def total(self) -> int:
        """How much there is to do, as told by `track` and `progress`."""
        return self._running.total

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
        running = self._running
        total = running.total if total is None else total
        for each in (done, total):
            if type(each) is not int or not 0 <= each <= limits.JOB_PROGRESS_MAX:
                raise ArgumentError(
                    f"progress takes whole numbers from 0 to {limits.JOB_PROGRESS_MAX:,}, got {each!r}"
                )
        running.done, running.total = done, total
        running.check_cancelled()

    def log(self, text: str) -> None:
        """Add a line to the job's own log, which is kept with it; the oldest lines go first."""
        self._running.gave_sign()
        lines = self._running.lines
        lines.append(storable(str(text), limits.JOB_LOG_LINE_LENGTH_MAX))
        del lines[: -limits.JOB_LOG_LINES_MAX]

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items and note how many are done; stops with `JobCancelled` when the job is to stop.

        Parameters:
            items: how many there are to do is told, too, if they have a length.
        """
        self._advance(0, len(items) if isinstance(items, Sized) else 0)
        for item in items:
            self.check_cancelled()
            yield item
            self._advance(1)

    def _advance(self, done: int, total: int = 0) -> None:
        """Tell that so much more is done, and there is so much more to do."""
        self._running.done += done
        self._running.total += total

    def _result_of(self, job_id: int) -> Any:
        return self._running.host.result_for_job(self._running.record, job_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobRun) and other._running is self._running

    def __hash__(self) -> int:
        return hash(self._running)

    def __repr__(self) -> str:
        return f"<attempt {self.attempt} at job {self.record.kind} {self.id}>"

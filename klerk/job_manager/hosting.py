"""What an opened app does for its running jobs."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from klerk._waiting import ReadWriteLock, Submission
from klerk.app import Spec
from klerk.batch import Batch
from klerk.commands import Actor, Command, Context, Result, System
from klerk.job_manager.manager import JobManager
from klerk.job_manager.work import CreateJobsOfJob, SaveJob, acting_as, by_manager
from klerk.job_reader import JobReader
from klerk.job_steps import Step
from klerk.jobs import JobRecord, JobRequest
from klerk.reading.reader import Reader, Sight
from klerk.reading.snapshots import Snapshot, Snapshots
from klerk.running_job import RunningJob
from klerk.submitting import Push, PushSoon, one
from klerk.tokens.repeated import FirstUse
from klerk.tokens.uses import TokenUses
from klerk.values import Model

Requests = tuple[JobRequest | Batch, ...]
Records = tuple[JobRecord, ...]
M = TypeVar("M", bound=Model)


class JobHosting:
    """Serves jobs while they run.

    Parameters:
        spec: the declared jobs.
        lock, sight, snapshots: for what they read.
        tokens: make what they do take effect once.
        pushing: puts submissions into the queue, for threads and for asyncio.
        system_context: returns the context for an actor that is no user, as the app's provider makes it.
        require_open: raises `Closed` once Klerk is closed.

    Attributes:
        manager: of the jobs; given as soon as it is made, because it is made with this.
    """

    manager: JobManager

    def __init__(
        self,
        spec: Spec,
        lock: ReadWriteLock,
        sight: Sight,
        snapshots: Snapshots,
        tokens: TokenUses,
        *,
        pushing: tuple[Push, PushSoon],
        system_context: Callable[[Actor], Context],
        require_open: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._lock = lock
        self._sight = sight
        self._snapshots = snapshots
        self._tokens = tokens
        self._push, self._push_soon = pushing
        self._system_context = system_context
        self._require_open = require_open

    def handle_for_job(self, run: RunningJob, command: Command[M], step: str | None) -> Result[M]:
        """Handle a command on behalf of a running job."""
        with self._tokens.step_of(run.steps, one(command), step) as asked:
            submission = self._submission_of(run, asked, asked.asked)
            self._push(submission, True)
            result: Result[M] = submission.result()
            return result

    async def handle_for_coroutine(self, run: RunningJob, command: Command[M], step: str | None) -> Result[M]:
        """Handle a command on behalf of a running job that is a coroutine."""
        with self._tokens.step_of(run.steps, one(command), step) as asked:
            submission = self._submission_of(run, asked, asked.asked)
            room = self._push_soon(submission)
            if room is not None:
                await room
            result: Result[M] = await submission
            return result

    def _submission_of(self, run: RunningJob, step: Step, work: Any) -> Submission[Any]:
        context = self._acting_as(run.record)
        return Submission(work, context, False, self._tokens.use_in_job(step, context))

    def schedule_for_job(self, run: RunningJob, requests: Requests, step: str | None) -> Records:
        """Create jobs on behalf of a running one."""
        with self._tokens.step_of_jobs(run.steps, requests, step) as asked:
            submission = self._submission_of(run, asked, CreateJobsOfJob(run, requests))
            self._push(submission, True)
            made: Records | FirstUse = submission.result()
        return self.manager.recalled(made) if isinstance(made, FirstUse) else made

    async def schedule_for_coroutine(self, run: RunningJob, requests: Requests, step: str | None) -> Records:
        """Create jobs on behalf of a running one that is a coroutine."""
        with self._tokens.step_of_jobs(run.steps, requests, step) as asked:
            submission = self._submission_of(run, asked, CreateJobsOfJob(run, requests))
            room = self._push_soon(submission)
            if room is not None:
                await room
            made: Records | FirstUse = await submission
        if isinstance(made, FirstUse):
            # The commit log is read, and perhaps the jobs.
            return await asyncio.to_thread(self.manager.recalled, made)
        return made

    def idempotency_key_for_job(self, record: JobRecord) -> str:
        """Return the key of a job's effects outside of the store."""
        return self._tokens.idempotency_key(record)

    def read_for_job(self, record: JobRecord, released: Callable[[float], None]) -> Reader:
        """Return a reader on behalf of a running job; tell how many seconds it was held."""
        self._require_open()
        return JobReader(self._lock, self._acting_as(record), self._sight, released)

    def snapshot_for_job(self, record: JobRecord) -> Snapshot:
        """Return a snapshot on behalf of a running job."""
        return self._snapshots.open(self._acting_as(record))

    async def snapshot_for_coroutine(self, record: JobRecord) -> Snapshot:
        """Return a snapshot on behalf of a running job that is a coroutine."""
        return await self._snapshots.open_soon(self._acting_as(record))

    def result_for_job(self, record: JobRecord, job_id: int) -> Any:
        """Return the kept result of an earlier job to a running one."""
        return self.manager.result_for(record, job_id)

    def save_for_job(self, run: RunningJob, checkpoint: bytes) -> None:
        """Save a running job's checkpoint."""
        submission: Submission[None] = Submission(SaveJob(run, checkpoint), self._saving(run))
        self._push(submission, True)
        submission.result()

    async def save_for_coroutine(self, run: RunningJob, checkpoint: bytes) -> None:
        """Save the checkpoint of a running job that is a coroutine."""
        submission: Submission[None] = Submission(SaveJob(run, checkpoint), self._saving(run))
        room = self._push_soon(submission)
        if room is not None:
            await room
        await submission

    def _saving(self, run: RunningJob) -> Context:
        return self._system_context(by_manager(run.record))

    def _acting_as(self, record: JobRecord) -> Context:
        return self.context_of(*acting_as(self._spec.jobs[record.kind], record))

    def context_of(self, actor: Actor, behalf: System | None = None) -> Context:
        """Return the context for an actor, on behalf of another one if it names none itself."""
        context = self._system_context(actor)
        if behalf is None or context.on_behalf_of is not None:
            return context
        return msgspec.structs.replace(context, on_behalf_of=behalf)

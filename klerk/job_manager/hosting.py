"""What an opened app does for its running jobs: `HostingJobs`."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from klerk._waiting import ReadWriteLock, Submission
from klerk.app import Spec
from klerk.commands import Actor, Command, Context, Result, System
from klerk.job_manager.manager import JobManager
from klerk.job_manager.work import SaveJob, acting_as, by_manager
from klerk.job_reader import JobReader
from klerk.job_steps import Step
from klerk.jobs import JobRecord
from klerk.reading.reader import Reader, Sight
from klerk.reading.snapshots import Snapshot, Snapshots
from klerk.running_job import RunningJob
from klerk.submitting import Push, PushSoon, one
from klerk.tokens.uses import TokenUses
from klerk.values import Model

M = TypeVar("M", bound=Model)


class HostingJobs:
    """The part of an opened app that serves jobs while they run."""

    _spec: Spec
    _lock: ReadWriteLock
    _sight: Sight
    _snapshots: Snapshots
    _push: Push
    _push_soon: PushSoon
    _tokens: TokenUses
    _manager: JobManager

    def _system_context(self, actor: Actor) -> Context:
        raise NotImplementedError

    def _require_open(self) -> None:
        raise NotImplementedError

    def handle_for_job(self, run: RunningJob, command: Command[M], step: str | None) -> Result[M]:
        """Handle a command on behalf of a running job."""
        with self._tokens.step_of(run.steps, one(command), step) as asked:
            submission = self._submission_of(run, asked)
            self._push(submission, True)
            result: Result[M] = submission.result()
            return result

    async def handle_for_coroutine(self, run: RunningJob, command: Command[M], step: str | None) -> Result[M]:
        """Handle a command on behalf of a running job that is a coroutine."""
        with self._tokens.step_of(run.steps, one(command), step) as asked:
            submission = self._submission_of(run, asked)
            room = self._push_soon(submission)
            if room is not None:
                await room
            result: Result[M] = await submission
            return result

    def _submission_of(self, run: RunningJob, step: Step) -> Submission[Any]:
        context = self._acting_as(run.record)
        return Submission(step.command, context, False, self._tokens.use_in_job(step, context))

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
        return self._manager.result_for(record, job_id)

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
        return self._job_context(*acting_as(self._spec.jobs[record.kind], record))

    def _job_context(self, actor: Actor, behalf: System | None = None) -> Context:
        context = self._system_context(actor)
        if behalf is None or context.on_behalf_of is not None:
            return context
        return msgspec.structs.replace(context, on_behalf_of=behalf)

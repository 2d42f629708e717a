"""What people do to jobs: the part of `Klerk.jobs` that acts on them, for threads and for asyncio."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Unpack

from klerk.authorization import JobAction
from klerk.commands import Context
from klerk.job_manager.acting import Actions
from klerk.job_manager.asking import AioAsking, Asking
from klerk.job_manager.books import id_of_job
from klerk.job_manager.bulk import BulkObserver
from klerk.job_manager.decisions import NO_CHANGE, RETRIED_ALL, WORKS_IN, Change
from klerk.job_manager.searching import FILTERS, JobFilter, require_filters
from klerk.jobs import JobRecord, JobRequest
from klerk.limits import JOB_ACTION_JOBS_MAX


class ByHand(Asking):
    """Acts on jobs, each time in a transaction of its own that stands in the commit log as "job action".

    Every method takes the context on whose behalf it is done: the rules of `App.allow.jobs` have to permit it
    then. Left out, it is done by the application itself, and no rule is asked. Each can be called for a job
    wherever it is; what does not work in the state that it is in raises `WrongState`, which says what does.
    An action waits for the end of an attempt that is just being recorded, and keeps workers from a job that
    it is about, so it never comes to both.

    A job is given as its record or as its id. Each raises:
        Denied: the context's actor may not do it.
        NotFound: there is no such job, or it is not kept any more.
        WrongState: it does not work in the state that the job is in.
        Conflict: (``job_busy``) something else has been changing the job for long.
        ReadLockHeld, StoreFailed, Closed: as for `Klerk.handle`.
    """

    _actions: Actions
    _refuse_waiting: Callable[[bool], None]

    def cancel(self, job: JobRecord | int, context: Context | None = None) -> JobRecord:
        """Cancel a job that has not ended, and return it.

        One that runs is asked to stop, and becomes cancelled when its function raises, or the process ends;
        when the function succeeds all the same, the job is completed.
        """
        return self._act("cancel", id_of_job(job), context)

    def discard(self, job: JobRecord | int, context: Context | None = None) -> JobRecord:
        """Give a job up that has not ended, and return it; as `cancel`, but it counts as failed."""
        return self._act("discard", id_of_job(job), context)

    def retry(self, job: JobRecord | int, context: Context | None = None) -> JobRecord:
        """Run a job now that waits for a time, is suspended or has ended, with all of its attempts before it,
        and return it. One that is suspended still waits for jobs that it follows, and for its batch; any
        other does not. One that had failed goes on: it has its checkpoint and its idempotency key, and what
        its commands did is not done again. One that had completed begins anew, as with `rerun`."""
        return self._act("retry", id_of_job(job), context)

    def run_now(self, job: JobRecord | int, context: Context | None = None) -> JobRecord:
        """Run a job now that waits for a time or for others, and return it. Its attempts count on."""
        return self._act("run_now", id_of_job(job), context)

    def edit(
        self,
        job: JobRecord | int,
        *,
        arguments: JobRequest | Mapping[str, Any] | None = None,
        priority: int | None = None,
        queue: str | None = None,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        context: Context | None = None,
    ) -> JobRecord:
        """Change a job that waits, and return it. What is left out stays as it is.

        Parameters:
            arguments: those of a request for the same job, ``remind(loan)``, or some of them by name. A
                suspended job that gets new ones is suspended no longer. A unique job stands for requests for
                its new arguments from then on, and no more for those that it had: nobody does those now.
            priority, queue, max_attempts: in place of those declared for its kind.
            run_at: not before; aware.

        Raises:
            InvalidValue: an argument does not fit its type, or refers to nothing.
            ArgumentError: something cannot be meant.
            Conflict: (``not_unique``) its kind is unique, and another job stands for the new arguments.
        """
        change = Change(
            arguments=arguments, priority=priority, queue=queue, run_at=run_at, max_attempts=max_attempts
        )
        return self._act("edit", id_of_job(job), context, change)

    def rerun(
        self,
        job: JobRecord | int,
        arguments: JobRequest | Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> JobRecord:
        """Run a job again from nothing that has ended, and return it: under the same id, `reruns` counted up.
        What earlier runs saved, logged and returned is gone, and what they did may be done again: it has
        another idempotency key. To go on with one that had failed, there is `retry`.

        Parameters:
            arguments: other ones, as for `edit`.

        Raises:
            InvalidValue, ArgumentError, Conflict: as for `edit`.
        """
        change = NO_CHANGE if arguments is None else Change(arguments=arguments)
        return self._act("rerun", id_of_job(job), context, change)

    def _act(
        self, action: JobAction, job_id: int, context: Context | None, change: Change = NO_CHANGE
    ) -> JobRecord:
        # First of all: what is being recorded would be waited for, too.
        self._refuse_waiting(True)
        return self._actions.act(action, job_id, context, change)

    # --- several at once --------------------------------------------------------------------------

    def cancel_all(
        self,
        context: Context | None = None,
        *,
        progress: BulkObserver | None = None,
        **which: Unpack[JobFilter],
    ) -> int:
        """Cancel every job that has not ended and fits a filter, and return how many there were.

        This is done in transactions of up to `limits.JOB_ACTION_JOBS_MAX` jobs; jobs created meanwhile may be
        among them or not. With a context, the rules have to permit it for every kind that is asked for, which
        without `kind` and `tag` are all that are declared. When this ends early, by an error or because it is
        interrupted, what was done before is done: a note of the exception says to how many jobs.

        Parameters:
            progress: called after each transaction with how many jobs there were so far; from asyncio, in
                another thread. What takes more than a second is logged, too.
            which: see `JobFilter`.
        """
        return self._act_on_all("cancel", context, progress, which)

    def discard_all(
        self,
        context: Context | None = None,
        *,
        progress: BulkObserver | None = None,
        **which: Unpack[JobFilter],
    ) -> int:
        """Give up every job that has not ended and fits a filter; as `cancel_all`."""
        return self._act_on_all("discard", context, progress, which)

    def retry_all(
        self,
        context: Context | None = None,
        *,
        progress: BulkObserver | None = None,
        **which: Unpack[JobFilter],
    ) -> int:
        """Run every job now that failed and fits a filter, as `retry` does; otherwise as `cancel_all`.

        Unless the filter names states, these are those that are retryable or discarded. Those whose arguments
        do not fit their kind any more are left as they are.
        """
        return self._act_on_all("retry", context, progress, which)

    def run_all_now(
        self,
        context: Context | None = None,
        *,
        progress: BulkObserver | None = None,
        **which: Unpack[JobFilter],
    ) -> int:
        """Run every job now that waits for a time and fits a filter; as `cancel_all`."""
        return self._act_on_all("run_now", context, progress, which)

    def _act_on_all(
        self, action: JobAction, context: Context | None, progress: BulkObserver | None, which: JobFilter
    ) -> int:
        self._refuse_waiting(True)
        require_filters(which, FILTERS)
        wanted: dict[str, Any] = {**which, "limit": JOB_ACTION_JOBS_MAX}
        if wanted.get("state") is None:
            wanted["state"] = RETRIED_ALL if action == "retry" else WORKS_IN[action]
        return self._actions.act_on_all(action, self._search(wanted), context, progress)


class AioByHand(AioAsking):
    """The asyncio face of `ByHand`."""

    _jobs: ByHand

    async def cancel(self, job: JobRecord | int, context: Context | None = None) -> JobRecord:
        """See `ByHand.cancel`."""
        return await self._threads.run(self._jobs.cancel, job, context)

    async def discard(self, job: JobRecord | int, context: Context | None = None) -> JobRecord:
        """See `ByHand.discard`."""
        return await self._threads.run(self._jobs.discard, job, context)

    async def retry(self, job: JobRecord | int, context: Context | None = None) -> JobRecord:
        """See `ByHand.retry`."""
        return await self._threads.run(self._jobs.retry, job, context)

    async def run_now(self, job: JobRecord | int, context: Context | None = None) -> JobRecord:
        """See `ByHand.run_now`."""
        return await self._threads.run(self._jobs.run_now, job, context)

    async def edit(
        self,
        job: JobRecord | int,
        *,
        arguments: JobRequest | Mapping[str, Any] | None = None,
        priority: int | None = None,
        queue: str | None = None,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        context: Context | None = None,
    ) -> JobRecord:
        """See `ByHand.edit`."""
        edit = partial(self._jobs.edit, job, arguments=arguments, priority=priority, queue=queue)
        return await self._threads.run(edit, run_at=run_at, max_attempts=max_attempts, context=context)

    async def rerun(
        self,
        job: JobRecord | int,
        arguments: JobRequest | Mapping[str, Any] | None = None,
        context: Context | None = None,
    ) -> JobRecord:
        """See `ByHand.rerun`."""
        return await self._threads.run(self._jobs.rerun, job, arguments, context)

    async def cancel_all(
        self,
        context: Context | None = None,
        *,
        progress: BulkObserver | None = None,
        **which: Unpack[JobFilter],
    ) -> int:
        """See `ByHand.cancel_all`."""
        return await self._threads.run(partial(self._jobs.cancel_all, context, progress=progress, **which))

    async def discard_all(
        self,
        context: Context | None = None,
        *,
        progress: BulkObserver | None = None,
        **which: Unpack[JobFilter],
    ) -> int:
        """See `ByHand.discard_all`."""
        return await self._threads.run(partial(self._jobs.discard_all, context, progress=progress, **which))

    async def retry_all(
        self,
        context: Context | None = None,
        *,
        progress: BulkObserver | None = None,
        **which: Unpack[JobFilter],
    ) -> int:
        """See `ByHand.retry_all`."""
        return await self._threads.run(partial(self._jobs.retry_all, context, progress=progress, **which))

    async def run_all_now(
        self,
        context: Context | None = None,
        *,
        progress: BulkObserver | None = None,
        **which: Unpack[JobFilter],
    ) -> int:
        """See `ByHand.run_all_now`."""
        return await self._threads.run(partial(self._jobs.run_all_now, context, progress=progress, **which))

"""What users may do with jobs: `Jobs`, which is `Klerk.jobs`, and `AioJobs`, which is `Klerk.aio.jobs`."""

import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from klerk.aio_threads import AioThreads
from klerk.app import Spec
from klerk.batch import Batch, checked_requests
from klerk.commands import System
from klerk.job_manager.acting import ActionDesk, Actions
from klerk.job_manager.attempts import Attempts
from klerk.job_manager.books import Books
from klerk.job_manager.by_hand import AioByHand, ByHand
from klerk.job_manager.dispatcher import Dispatcher
from klerk.job_manager.live_jobs import LiveJobs
from klerk.job_manager.naming import names_in
from klerk.job_manager.pruning import Pruning
from klerk.job_manager.queue_control import AioQueueControl, QueueControl
from klerk.job_manager.related_jobs import AioRelatedJobs, RelatedJobs
from klerk.job_manager.relations import Relations
from klerk.job_manager.results import Results
from klerk.job_manager.status import Explaining
from klerk.job_manager.waiting import AioWaiting, Endings, Waiting
from klerk.job_manager.watchdog import Watchdog
from klerk.job_manager.watched_jobs import AioWatchedJobs, WatchedJobs
from klerk.job_manager.work import CreateJobs, Submit
from klerk.job_options import Pool
from klerk.jobs import JobRecord, JobRequest
from klerk.running_job import RunningJob
from klerk.workers import Executor


class Jobs(ByHand, QueueControl, RelatedJobs, WatchedJobs, Waiting):
    """The jobs of an opened app: creates, shows and steers them, and the queues that they wait in.

    It owns nothing: it is given the parts of the job manager that it works with. Every method can be called
    from any thread.
    """

    def __init__(
        self,
        spec: Spec,
        submit: Submit,
        lock: threading.Lock,
        idle: threading.Condition,
        *,
        live: dict[int, JobRecord],
        running: dict[int, RunningJob],
        jobs: LiveJobs,
        books: Books,
        explaining: Explaining,
        actions: Actions,
        attempts: Attempts,
        results: Results,
        relations: Relations,
        pruning: Pruning,
        watchdog: Watchdog,
        dispatcher: Dispatcher,
        desk: ActionDesk,
        executors: dict[Pool, Executor[RunningJob]],
        endings: Endings,
        refuse_waiting: Callable[[bool], None],
        wake: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._submit = submit
        self._lock = lock
        self._idle = idle
        self._live = live
        self._running = running
        self._jobs = jobs
        self._books = books
        self._explaining = explaining
        self._actions = actions
        self._attempts = attempts
        self._results = results
        self._relations = relations
        self._pruning = pruning
        self._watchdog = watchdog
        self._dispatcher = dispatcher
        self._names = names_in(spec, lock, jobs.tally, dispatcher.queues)
        self._desk = desk
        self._executors = executors
        self._endings = endings
        self._refuse_waiting = refuse_waiting
        self._wake = wake

    def schedule(self, *requests: JobRequest | Batch, at: datetime | None = None) -> tuple[JobRecord, ...]:
        """Create jobs outside of a command, in one transaction, and return their records once it is durable.

        Of a batch, those of its members come before those of its callbacks.

        Parameters:
            at: not before; None: at once. Of a batch, it is for the members.

        Raises:
            ArgumentError: something is no request, follows one that does not come before it, or has a time of
                its own besides `at`.
            NotFound: it follows a job that there is not.
            InvalidValue: an argument does not fit its type.
            ReadLockHeld, StoreFailed, Closed: as for `Klerk.handle`.
        """
        self._refuse_waiting(True)
        work = CreateJobs(checked_requests(requests, at))
        created: tuple[JobRecord, ...] = self._submit(work, System("schedule")).result()
        return created

    def result(self, job: JobRecord | int) -> Any:
        """Return what a job's function returned, as the type that it says it returns.

        Results are kept when the job is declared with ``keep_result``, for so long after it has ended, and no
        longer than the job itself.

        Raises:
            NotFound: there is no such job, or it is not kept any more.
            NoResult: it has not ended, or ended badly, or its result was not kept, or has expired.
        """
        return self._results.of(self.get(job))

    def prune(self) -> int:
        """Remove all ended jobs that are not kept any longer; return how many. It happens by itself, too.

        They are removed from the jobs alone: the commit log keeps what it says of them.
        """
        return self._pruning.prune()

    def __repr__(self) -> str:
        counts = {str(state): count for state, count in self.counts().items() if count}
        return f"<jobs of '{self._spec.name}': {counts or 'none'}>"


class AioJobs(AioByHand, AioQueueControl, AioRelatedJobs, AioWatchedJobs, AioWaiting):
    """The asyncio face of `Jobs`: the same methods, to be awaited where they may wait; nothing here blocks
    the loop.

    Parameters:
        jobs: does it.
        threads: where it does what may wait.
    """

    def __init__(self, jobs: Jobs, threads: AioThreads) -> None:
        self._jobs: Jobs = jobs
        self._threads = threads

    async def schedule(
        self, *requests: JobRequest | Batch, at: datetime | None = None
    ) -> tuple[JobRecord, ...]:
        """See `Jobs.schedule`."""
        return await self._threads.run(partial(self._jobs.schedule, *requests, at=at))

    async def result(self, job: JobRecord | int) -> Any:
        """See `Jobs.result`."""
        return await self._threads.run(self._jobs.result, job)

    async def prune(self) -> int:
        """See `Jobs.prune`."""
        return await self._threads.run(self._jobs.prune)

    def __repr__(self) -> str:
        return f"<aio {repr(self._jobs)[1:]}"

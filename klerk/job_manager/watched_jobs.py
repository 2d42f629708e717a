"""How the jobs of an opened app are doing: the part of `Klerk.jobs` that counts them and waits for them."""

import threading
from collections.abc import Callable, Mapping
from functools import partial

from klerk.aio_threads import AioThreads
from klerk.app import Spec
from klerk.job_manager.attempts import Attempts
from klerk.job_manager.books import id_of_job
from klerk.job_manager.live_jobs import LiveJobs, in_state
from klerk.job_manager.observing import JobObserver, require_observer
from klerk.job_manager.relations import Relations
from klerk.job_manager.searching import name_of_kind, text_for
from klerk.job_manager.tally import ENDS, queue_of
from klerk.job_manager.watchdog import Watchdog
from klerk.job_names import JobNames
from klerk.jobs import Job, JobRecord, JobState
from klerk.moments import require_timeout
from klerk.running_job import RunningJob


class WatchedJobs:
    """Counts jobs, lists those that have not ended, waits for them, and lets others watch them run."""

    _spec: Spec
    _lock: threading.Lock
    _idle: threading.Condition
    _running: dict[int, RunningJob]
    _live: dict[int, JobRecord]
    _jobs: LiveJobs
    _attempts: Attempts
    _watchdog: Watchdog
    _names: JobNames
    _refuse_waiting: Callable[[bool], None]
    _relations: Relations

    @property
    def declared(self) -> Mapping[str, Job[...]]:
        """The jobs that are declared, by name."""
        return self._spec.jobs

    def counts(
        self, *, kind: str | Job[...] | None = None, queue: str | None = None
    ) -> Mapping[JobState, int]:
        """Return how many jobs there are in each state: of the ended ones those that are kept.

        Counts are kept up to date, and looking at them takes the same time however many jobs there are.

        Parameters:
            kind: of this kind only; None: all.
            queue: in this queue only; None: all.

        Raises:
            ArgumentError: there is no such kind or queue, neither declared nor of a job that is kept.
        """
        declared = self._spec.jobs
        of_kind = None if kind is None else name_of_kind(kind, declared, "one kind")
        if of_kind is not None:
            self._names.require_kinds([of_kind])
        if queue is not None:
            self._names.require_queues([text_for("queue", queue)])
        with self._lock:
            counts = self._jobs.tally.by_state(of_kind, queue, declared)
            for job_id, run in self._running.items():
                record = run.record
                if of_kind not in (None, record.kind):
                    continue
                if queue not in (None, queue_of(record.kind, record.queue, declared)):
                    continue
                counts[self._live[job_id].state] -= 1
                counts[JobState.EXECUTING] += 1
            return counts

    def totals(self) -> Mapping[JobState, int]:
        """Return how often jobs ended in each way since the store was made, whether or not they are kept."""
        with self._lock:
            return {state: self._jobs.tally.totals[state] for state in ENDS}

    def live(self) -> tuple[JobRecord, ...]:
        """Return all jobs that have not ended, in the order of their creation.

        Those that wait for a far time are read from the store: to look at some, ask for them.
        """
        jobs = sorted(self._jobs.all().items())
        with self._lock:
            return tuple(self._shown(record) for _, record in jobs)

    def _shown(self, record: JobRecord) -> JobRecord:
        """Return a job as users see it: one that runs with what it has told so far."""
        run = self._running.get(record.id)
        if run is None:
            return record
        return in_state(run.shown_in(record), JobState.EXECUTING)

    def observe(self, observer: JobObserver) -> Callable[[], None]:
        """Let something hear of every attempt at a job from now on; return what ends that.

        Raises:
            ArgumentError: it has not all methods of a `JobObserver`.
        """
        require_observer(observer)
        observers = self._attempts.observers
        observers.add(observer)
        return partial(observers.remove, observer)

    def cancel_running(self, job: JobRecord | int) -> bool:
        """Ask a running job to stop; return whether it runs.

        A plain function is asked when it calls its `JobRun`, a coroutine where it awaits something; a process
        is killed some seconds later. The job ends as cancelled, unless it comes to its end all the same.
        """
        run = self._running.get(id_of_job(job))
        if run is not None:
            self._watchdog.stop(run)
        return run is not None

    def unstoppable(self) -> tuple[int, ...]:
        """Return the ids of running jobs that were asked to stop some seconds ago, and go on."""
        return self._watchdog.unstoppable()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no job is available, executing or waiting for its rate; those for later do not count.

        Parameters:
            timeout: seconds to wait at most.

        Returns:
            Whether it came to that.

        Raises:
            ArgumentError: `timeout` is no time to wait.
            ReadLockHeld, NotPure: jobs cannot come to their ends while this waits.
        """
        require_timeout(timeout)
        self._refuse_waiting(True)
        with self._idle:
            self._idle.wait_for(lambda: self._nothing_to_do() or self._attempts.is_closing, timeout)
            return self._nothing_to_do()

    def _nothing_to_do(self) -> bool:
        if self._jobs.tally.has(JobState.AVAILABLE):
            return False
        return not self._jobs.is_behind() and not self._relations.is_cancelling


class AioWatchedJobs:
    """The asyncio face of `WatchedJobs`; what does not wait is the same."""

    _jobs: WatchedJobs
    _threads: AioThreads

    @property
    def declared(self) -> Mapping[str, Job[...]]:
        """See `WatchedJobs.declared`."""
        return self._jobs.declared

    def counts(
        self, *, kind: str | Job[...] | None = None, queue: str | None = None
    ) -> Mapping[JobState, int]:
        """See `WatchedJobs.counts`."""
        return self._jobs.counts(kind=kind, queue=queue)

    def totals(self) -> Mapping[JobState, int]:
        """See `WatchedJobs.totals`."""
        return self._jobs.totals()

    async def live(self) -> tuple[JobRecord, ...]:
        """See `WatchedJobs.live`."""
        return await self._threads.run(self._jobs.live)

    def observe(self, observer: JobObserver) -> Callable[[], None]:
        """See `WatchedJobs.observe`."""
        return self._jobs.observe(observer)

    def cancel_running(self, job: JobRecord | int) -> bool:
        """See `WatchedJobs.cancel_running`."""
        return self._jobs.cancel_running(job)

    def unstoppable(self) -> tuple[int, ...]:
        """See `WatchedJobs.unstoppable`."""
        return self._jobs.unstoppable()

    async def wait_until_idle(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 (a thread waits)
        """See `WatchedJobs.wait_until_idle`."""
        return await self._threads.run(self._jobs.wait_until_idle, timeout)

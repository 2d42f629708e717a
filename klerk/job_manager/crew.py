"""The workers of an opened app: one executor for each sort that its jobs need."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Protocol

import msgspec

from klerk import limits
from klerk.app import Spec
from klerk.job_manager.attempts import Attempts
from klerk.job_options import Pool
from klerk.jobs import JobRecord
from klerk.running_job import RunningJob
from klerk.workers import Executor, LoopExecutor, ProcessExecutor, ThreadExecutor


class Employer(Protocol):
    """The job manager, as those see it who run its jobs.

    Attributes:
        attempts: runs a job that was taken, and records what became of it.
    """

    attempts: Attempts

    def take(self, pool: Pool) -> RunningJob | None:
        """Return the next job of a pool, which is counted as started now; None when there is none."""

    def has_more(self, pool: Pool) -> bool:
        """Return whether there is, or may be, another job of a pool to be taken."""

    def as_stored(self, record: JobRecord) -> JobRecord:
        """Return a job as it would be after a restart: encoded, decoded, its arguments of their types.

        Raises:
            ValueError: its arguments do not fit any more; the text says why.
        """

    def wait_until_over(self, run: RunningJob, timeout_s: float) -> bool:
        """Wait until the end of an attempt is durable, so many seconds at most; return whether."""


MakeExecutor = Callable[[Pool, Employer], Executor[RunningJob]]


class Workers(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs jobs here, as `App.open` was told.

    Parameters:
        threads: for plain functions; 0: no job runs at all.
        processes: at most, for the jobs that run in processes.
        concurrency: jobs that run at once, of all sorts; None: as many as there are workers.
        tags: what all workers have.
        close_wait: how long closing lets jobs go on before it asks them to stop.
        make: makes the executor of a pool in place of those here; None: they do.
    """

    threads: int
    processes: int
    concurrency: int | None
    tags: frozenset[str]
    close_wait: timedelta
    make: MakeExecutor | None


def executors_of(spec: Spec, workers: Workers, employer: Employer) -> dict[Pool, Executor[RunningJob]]:
    """Return the executors that the jobs of a design need, none of them started."""
    if workers.make is not None:
        wanted = sorted({job.pool for job in spec.jobs.values()})
        return {pool: workers.make(pool, employer) for pool in wanted}
    take, has_more, attempts = employer.take, employer.has_more, employer.attempts
    executors: dict[Pool, Executor[RunningJob]] = {}
    pools = {job.pool for job in spec.jobs.values()} if workers.threads else set()
    if "thread" in pools:
        plain = partial(take, "thread"), partial(has_more, "thread")
        executors["thread"] = ThreadExecutor(workers.threads, *plain, attempts.run_plain)
    if "loop" in pools:
        take_coroutine = partial(take, "loop")
        executors["loop"] = LoopExecutor(limits.JOB_COROUTINES_MAX, take_coroutine, attempts.run_coroutine)
    if "process" in pools:
        other = partial(take, "process"), partial(has_more, "process")
        executors["process"] = ProcessExecutor(workers.processes, *other, attempts.run_in_process)
    return executors

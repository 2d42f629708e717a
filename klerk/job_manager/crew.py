"""The workers of an opened app: one executor for each sort that its jobs need."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import msgspec

from klerk import limits
from klerk.app import Spec
from klerk.job_manager.attempts import Attempts
from klerk.job_options import Pool
from klerk.job_run import JobRun
from klerk.workers import Executor, LoopExecutor, ProcessExecutor, ThreadExecutor

Take = Callable[[Pool], JobRun | None]
HasMore = Callable[[Pool], bool]
MakeExecutor = Callable[[Pool, Callable[[], JobRun | None], Attempts], Executor[JobRun]]


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


def executors_of(
    spec: Spec, workers: Workers, take: Take, has_more: HasMore, attempts: Attempts
) -> dict[Pool, Executor[JobRun]]:
    """Return the executors that the jobs of a design need, none of them started."""
    if workers.make is not None:
        wanted = sorted({job.pool for job in spec.jobs.values()})
        return {pool: workers.make(pool, partial(take, pool), attempts) for pool in wanted}
    executors: dict[Pool, Executor[JobRun]] = {}
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

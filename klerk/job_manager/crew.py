"""The workers of an opened app: one executor for each sort that its jobs need."""

from collections.abc import Callable
from functools import partial

import msgspec

from klerk import limits
from klerk.app import Spec
from klerk.job_manager.attempts import Attempts
from klerk.job_options import Pool
from klerk.job_run import JobRun
from klerk.workers import Executor, LoopExecutor, ThreadExecutor

Take = Callable[[Pool], JobRun | None]


class Workers(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs jobs here, as `App.open` was told.

    Parameters:
        threads: for plain functions; 0: no job runs at all.
        concurrency: jobs that run at once, of all sorts; None: as many as there are workers.
    """

    threads: int
    concurrency: int | None = None


def executors_of(spec: Spec, workers: Workers, take: Take, attempts: Attempts) -> dict[Pool, Executor]:
    """Return the executors that the jobs of a design need, none of them started."""
    executors: dict[Pool, Executor] = {}
    pools = {job.pool for job in spec.jobs.values()} if workers.threads else set()
    if "thread" in pools:
        executors["thread"] = ThreadExecutor(workers.threads, partial(take, "thread"), attempts.run_plain)
    if "loop" in pools:
        executors["loop"] = LoopExecutor(
            limits.JOB_COROUTINES_MAX, partial(take, "loop"), attempts.run_coroutine
        )
    return executors

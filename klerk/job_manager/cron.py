"""Cron jobs: created by themselves at the times that they name."""

from collections.abc import Callable
from typing import Any

from cronsim import CronSim

from klerk._dispatch import microseconds
from klerk.commands import System
from klerk.job_manager.work import CreateJobs
from klerk.jobs import Job
from klerk.scheduler import Scheduler


class CronJobs:
    """Creates the jobs of cron expressions.

    Parameters:
        jobs: those that have one.
        scheduler: calls at their times.
        submit: puts a transaction into the queue.
    """

    def __init__(
        self, jobs: list[Job[Any]], scheduler: Scheduler, submit: Callable[[Any, System], object]
    ) -> None:
        self._jobs = jobs
        self._scheduler = scheduler
        self._submit = submit

    def start(self) -> None:
        """Begin with the next time of each."""
        for job in self._jobs:
            self._schedule_next(job)

    def _schedule_next(self, job: Job[Any]) -> None:
        """Create a job at the next time that its expression names; times missed meanwhile are left out."""
        due_us = microseconds(next(CronSim(job.settings.cron or "", self._scheduler.now())))

        def tick() -> None:
            # The next time first: whatever this one runs into, the job goes on.
            self._schedule_next(job)
            self._submit(CreateJobs((job.request(()),)), System(f"cron {job.name}"))

        self._scheduler.at(due_us, tick)

"""Cron jobs: created by themselves at the times that they name, one job for each time."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from klerk import limits
from klerk._dispatch import moment_at
from klerk._waiting import Submission
from klerk.audit.cron_entries import cron_actor
from klerk.codec import CRON_TICK
from klerk.commands import System
from klerk.cron_ticks import Ticks
from klerk.errors import Closed, StoreFailed
from klerk.job_manager.work import CreateJobs
from klerk.jobs import Job, JobRecord, JobRequest
from klerk.log_events import about
from klerk.scheduler import Scheduler

LOG = logging.getLogger("klerk")

# In microseconds.
_LATE = int(limits.CRON_LATE_S * 1e6)
_AHEAD = int(limits.CRON_AHEAD_S * 1e6)
_RETRY = int(limits.CRON_RETRY_S * 1e6)


class CreateTicks(CreateJobs):
    """The transaction that deals with times of a cron job: it creates a job for each, unless a unique one
    stands for it. It is logged then, so that the time is not dealt with again after the next start."""

    def perform(self, processor: Any) -> tuple[JobRecord, ...]:
        records = super().perform(processor)
        newest, stands = self.requests[-1], records[-1]
        assert isinstance(newest, JobRequest)
        if stands.tick_us != newest.tick_us:
            processor.log_unchecked(CRON_TICK, 0, (newest.job.name, newest.tick_us, stands.id))
        return records


class CronJob:
    """A cron job as it is at the moment. It is dealt with by one call after another, never by two at once.

    Parameters:
        job: as declared.
        newest_us: the newest of its times that was dealt with.
    """

    def __init__(self, job: Job[Any], newest_us: int) -> None:
        self.job = job
        self.ticks = Ticks(job.settings.cron or "", job.settings.timezone)
        self.newest_us = newest_us

    def due(self, now_us: int, on_time_us: int) -> tuple[int, list[int]]:
        """Return the newest time that has come, and those that get a job.

        Parameters:
            on_time_us: what came before this was missed.
        """
        count_max = limits.JOBS_MISSED_MAX
        come = self.ticks.newest(self.newest_us, now_us, count_max + 1)
        if not come:
            return self.newest_us, []
        missed = [tick_us for tick_us in come if tick_us < on_time_us]
        on_time = come[len(missed) :]
        policy = self.job.settings.missed
        if policy == "skip":
            return come[-1], on_time
        if policy == "once":
            # One that comes on time makes up for those that were missed.
            return come[-1], on_time or missed[-1:]
        if len(come) > count_max:
            LOG.warning(
                "cron job %s missed more than %d times since %s; those before %s are left out",
                self.job,
                count_max,
                moment_at(self.newest_us).isoformat(),
                moment_at(come[1]).isoformat(),
                extra=about("cron_missed", kind=self.job),
            )
        return come[-1], come[-count_max:]


class CronJobs:
    """Creates the jobs of cron expressions.

    Parameters:
        jobs: all that are declared.
        marks: of each that has an expression, the newest time that was dealt with.
        scheduler: calls at their times.
        submit: puts a transaction into the queue.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job[Any]],
        marks: Mapping[str, int],
        scheduler: Scheduler,
        submit: Callable[[Any, System], Submission[Any]],
    ) -> None:
        self._cron_jobs = [CronJob(jobs[kind], newest_us) for kind, newest_us in marks.items()]
        self._scheduler = scheduler
        self._submit = submit

    def start(self) -> None:
        """Deal with the times that were missed, and begin with the next time of each."""
        now_us = self._scheduler.now_us()
        for each in self._cron_jobs:
            if each.newest_us > now_us + _AHEAD:
                LOG.warning(
                    "cron job %s ran for %s already: it runs again after that, or once its expression is"
                    " changed. Was the clock wrong?",
                    each.job,
                    moment_at(each.newest_us).isoformat(),
                    extra=about("cron_ahead", kind=each.job),
                )
            self._deal_with(each, now_us + 1)

    def _look(self, each: CronJob) -> None:
        self._deal_with(each, self._scheduler.now_us() - _LATE)

    def _deal_with(self, each: CronJob, on_time_us: int) -> None:
        """Create the jobs whose times have come, and wait for the next time.

        Parameters:
            on_time_us: times before this were missed.
        """
        try:
            newest_us, ticks_us = each.due(self._scheduler.now_us(), on_time_us)
            if ticks_us:
                request = each.job()
                requests = [msgspec.structs.replace(request, tick_us=tick_us) for tick_us in ticks_us]
                submission = self._submit(CreateTicks(tuple(requests)), cron_actor(each.job.name))
                # Called by a committer, where nothing may be submitted: another thread goes on.
                submission.add_done_callback(
                    lambda ended: self._scheduler.at(0, partial(self._created, each, newest_us, ended))
                )
                return
        except Exception as error:
            self._failed(each, error)
            return
        self._wait(each, newest_us)

    def _created(self, each: CronJob, newest_us: int, ended: Submission[Any]) -> None:
        error = ended.exception()
        if error is None:
            self._wait(each, newest_us)
        else:
            self._failed(each, error)

    def _wait(self, each: CronJob, newest_us: int) -> None:
        each.newest_us = newest_us
        next_us = each.ticks.after(newest_us)
        if next_us is not None:
            self._scheduler.at(next_us, partial(self._look, each))

    def _failed(self, each: CronJob, error: BaseException) -> None:
        """Try again later; until the store is opened anew, if it is the store that failed."""
        if isinstance(error, StoreFailed | Closed):
            return
        LOG.error(
            "the cron job %s cannot be created; it is tried again: %s",
            each.job,
            error,
            extra=about("cron_failed", kind=each.job),
        )
        self._scheduler.at(self._scheduler.now_us() + _RETRY, partial(self._look, each))

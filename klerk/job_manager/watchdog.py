"""The watchdog: has attempts stopped that take too long or give no sign, and jobs that somebody cancels.

A process is killed. A coroutine is interrupted where it awaits something, and a thread stops when it calls
its `JobRun`; one that never does cannot be stopped, and keeps its worker.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from klerk import limits
from klerk.errors import JobError, JobTimeout
from klerk.job_options import JobSettings, Pool
from klerk.jobs import Job
from klerk.log_events import about_job
from klerk.running_job import RunningJob
from klerk.scheduler import Scheduler
from klerk.workers import Executor

LOG = logging.getLogger("klerk")


class Watchdog:
    """Looks at running jobs when the first of them may have run too long; jobs without limits cost nothing.

    Parameters:
        jobs: the declared jobs.
        executors: that run them.
        scheduler: gives the time, and calls this.
        running: gives the jobs that run.

    Attributes:
        watched: the options of the kinds that have a limit, by kind.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job[object]],
        executors: Mapping[Pool, Executor[RunningJob]],
        scheduler: Scheduler,
        running: Callable[[], Iterable[RunningJob]],
    ) -> None:
        self.watched: dict[str, JobSettings] = {
            job.name: job.settings
            for job in jobs.values()
            if job.settings.timeout is not None or job.settings.heartbeat is not None
        }
        self._jobs = jobs
        self._executors = executors
        self._scheduler = scheduler
        self._running = running
        self._lock = threading.Lock()
        self._alarm_us = 0

    def begin(self, run: RunningJob) -> None:
        """Watch a job, of a kind that has a limit, that is about to run."""
        self._set_alarm(min(due_us for due_us, _ in self._ends(run)))

    def _ends(self, run: RunningJob) -> list[tuple[int, JobError]]:
        """Return when a job has run too long, and how that is told."""
        settings = self.watched[run.record.kind]
        what = f"job {run.record.kind} {run.id}"
        ends: list[tuple[int, JobError]] = []
        if settings.timeout is not None:
            due_us = run.started_us + settings.timeout // settings.timeout.resolution
            text = f"{what} took longer than its timeout of {settings.timeout.total_seconds():g} s"
            ends.append((due_us, JobTimeout(text)))
        if settings.heartbeat is not None:
            due_us = run.seen_us + settings.heartbeat // settings.heartbeat.resolution
            text = f"{what} gave no sign for longer than its heartbeat of "
            ends.append((due_us, JobTimeout(f"{text}{settings.heartbeat.total_seconds():g} s")))
        return ends

    def _set_alarm(self, when_us: int) -> None:
        with self._lock:
            if self._alarm_us and self._alarm_us <= when_us:
                return
            self._alarm_us = when_us
        self._scheduler.at(when_us, lambda: self._look(when_us))

    def _look(self, alarm_us: int) -> None:
        """Stop what has run too long, and come back for the next."""
        with self._lock:
            if self._alarm_us == alarm_us:
                self._alarm_us = 0
        now_us = self._scheduler.now_us()
        for run in self._running():
            if run.is_over or run.stopped_by is not None or run.record.kind not in self.watched:
                continue
            due_us, error = min(self._ends(run), key=lambda end: end[0])
            if run.is_beginning and now_us - run.started_us < limits.WORKER_START_S * 1e6:
                # Its time begins with its function.
                due_us = now_us + due_us - min(run.started_us, run.seen_us)
            if due_us > now_us:
                self._set_alarm(due_us)
                continue
            run.cancel(error)
            # Nobody waits for its clean-up but the process itself, which gets a moment for it.
            if self._executor(run).kill(run):
                continue
            self.stop(run)

    def stop(self, run: RunningJob) -> None:
        """Ask a running job to stop, and force it, if possible, when it does not within some seconds."""
        # Also where its worker has not begun yet.
        run.cancel()
        self._executor(run).cancel(run)
        asked_us = self._scheduler.now_us()
        grace_us = round(limits.JOB_STOP_GRACE_S * 1e6)
        self._scheduler.at(asked_us + grace_us, lambda: self._insist(run))

    def _insist(self, run: RunningJob) -> None:
        if run.is_over or self._executor(run).kill(run) or run not in self._running():
            return
        run.goes_on = True
        LOG.warning(
            "job %d (%s) goes on %g s after it was asked to stop (%s); it keeps its worker until it ends",
            run.id,
            run.record.kind,
            limits.JOB_STOP_GRACE_S,
            run.stopped_by,
            extra=about_job("job_goes_on", run.record, run.queue, error=str(run.stopped_by)),
        )

    def unstoppable(self) -> tuple[int, ...]:
        """Return the ids of running jobs that were asked to stop some time ago and go on."""
        return tuple(run.id for run in self._running() if run.goes_on)

    def _executor(self, run: RunningJob) -> Executor[RunningJob]:
        return self._executors[self._jobs[run.record.kind].pool]

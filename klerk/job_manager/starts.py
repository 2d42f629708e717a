"""Jobs that run at most once: that they start is durable before they do."""

import logging
from contextlib import suppress

import msgspec

from klerk._waiting import Submission
from klerk.app import Spec
from klerk.errors import Closed, KlerkError, StoreFailed
from klerk.job_manager.recording import Recording
from klerk.job_manager.verdicts import text_of
from klerk.job_manager.work import RecordJob, Submit, by_manager
from klerk.jobs import JobState
from klerk.log_events import about_job
from klerk.running_job import RunningJob
from klerk.scheduler import Scheduler

LOG = logging.getLogger("klerk")


class Starts:
    """Records the start of jobs that run at most once, and takes it back for those that were not called.

    A job that is stored as executing is never started again: whatever happens from there on, it ends.

    Parameters:
        spec: the declared jobs.
        submit: records the start.
        scheduler: gives the time.
        recording: records that a job was not called.

    Attributes:
        kinds: of the jobs that run at most once.
    """

    def __init__(self, spec: Spec, submit: Submit, scheduler: Scheduler, recording: Recording) -> None:
        self.kinds = frozenset(job.name for job in spec.jobs.values() if job.settings.at_most_once)
        self._submit = submit
        self._scheduler = scheduler
        self._recording = recording

    def record(self, run: RunningJob) -> Submission[None]:
        """Submit that a job starts. It may be called once that is durable."""
        started = msgspec.structs.replace(
            run.record, state=JobState.EXECUTING, started_us=self._scheduler.now_us(), stop=run.stop or ""
        )
        submission = self._submit(RecordJob(started), by_manager(started))
        # A checkpoint builds on it, and must not make it seem as if the job had not started.
        run.record = run.newest = started
        return submission

    def take_back(self, run: RunningJob) -> None:
        """Record that a job was not called after all, and is to be started another time, or never."""
        waiting = msgspec.structs.replace(run.record, state=JobState.AVAILABLE, started_us=0, stop="")
        if run.stop is not None:
            error = f"{run.stop} before it was called"
            waiting = msgspec.structs.replace(
                waiting, state=run.stop, run_at_us=0, ended_us=self._scheduler.now_us(), error=error
            )
        run.end = waiting
        with suppress(Closed, StoreFailed):
            self._recording.record(run, waiting)

    def failed(self, run: RunningJob, error: BaseException) -> None:
        """Leave a job uncalled, because its start was refused, or nobody knows whether it is durable, or
        waits to know. Unless nothing can be recorded any more, it is started another time.

        Parameters:
            error: that came in its place.
        """
        if isinstance(error, KlerkError):
            LOG.error(
                "job %d (%s) is not called: its start is not recorded: %s",
                run.id,
                run.record.kind,
                text_of(error),
                extra=about_job("attempt_unrecorded", run.record, run.queue),
            )
        if not isinstance(error, Closed | StoreFailed):
            # It was refused, or its worker stops; in that case, what was submitted may become durable all the
            # same.
            self.take_back(run)

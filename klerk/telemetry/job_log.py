"""A line of the log for every attempt at a job."""

import logging
from time import monotonic

from klerk.jobs import JobRecord
from klerk.log_events import about_job
from klerk.running_job import RunningJob

__all__ = ["JobLog"]

LOG = logging.getLogger("klerk")


class JobLog:
    """Logs every attempt at a job when it ends, with its fields: ``k.jobs.observe(JobLog())``.

    Failures are logged anyway, by Klerk itself.

    Parameters:
        level: of the lines.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        self._level = level

    def started(self, run: RunningJob) -> None:
        """See `JobObserver.started`."""

    def stopped(self, run: RunningJob) -> None:
        """See `JobObserver.stopped`."""

    def ended(self, run: RunningJob, record: JobRecord, error: BaseException | None) -> None:
        """See `JobObserver.ended`."""
        if not LOG.isEnabledFor(self._level):
            return
        duration_s = monotonic() - run.begun_s
        fields = about_job(
            "attempt_ended", run.record, run.queue, duration_s=duration_s, state=str(record.state)
        )
        if error is not None:
            fields["error"] = record.error
        LOG.log(
            self._level,
            "job %d (%s) is %s after attempt %d, which took %.6f s",
            run.id,
            record.kind,
            record.state,
            run.attempt,
            duration_s,
            extra=fields,
        )

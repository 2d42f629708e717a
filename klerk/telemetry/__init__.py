"""Watching an opened app: Prometheus metrics, OpenTelemetry spans, a line of the log for each job.

Nothing here is imported, and nothing costs anything, unless it is used.
"""

from klerk.job_manager.observing import JobObserver
from klerk.log_events import EVENTS
from klerk.observing import Pushing, PushSoon, Telemetry
from klerk.running_job import RunningJob
from klerk.statistics import Statistics
from klerk.submitting import Push
from klerk.telemetry.job_log import JobLog
from klerk.telemetry.prometheus import prometheus_collector
from klerk.telemetry.spans import OpenTelemetry

__all__ = [
    "EVENTS",
    "JobLog",
    "JobObserver",
    "OpenTelemetry",
    "Push",
    "PushSoon",
    "Pushing",
    "RunningJob",
    "Statistics",
    "Telemetry",
    "prometheus_collector",
]

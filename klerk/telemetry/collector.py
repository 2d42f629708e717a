"""The Prometheus collector; imported only where its library is installed."""

import weakref
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import monotonic

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from klerk.errors import ArgumentError, Closed
from klerk.jobs import FINAL_STATES, JobRecord, JobState
from klerk.klerk import Klerk
from klerk.running_job import RunningJob
from klerk.statistics import Statistics

__all__ = ["KlerkCollector"]

# From what a no-op takes to what a night's work takes, in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)

LIVE_STATES = tuple(state for state in JobState if state not in FINAL_STATES)

JOB_LABELS = ("app", "kind", "queue")


class JobMetrics:
    """What is counted of attempts at jobs, while they are made."""

    def __init__(self) -> None:
        self.running = Gauge("klerk_jobs_running", "Jobs that run.", JOB_LABELS, registry=None)
        self.attempts = Counter(
            "klerk_job_attempts",
            "Attempts at jobs that ended, by the state that the job came to.",
            (*JOB_LABELS, "state"),
            registry=None,
        )
        self.retries = Counter(
            "klerk_job_retries", "Attempts at jobs that had failed before.", JOB_LABELS, registry=None
        )
        self.duration = Histogram(
            "klerk_job_duration_seconds",
            "How long attempts took.",
            JOB_LABELS,
            registry=None,
            buckets=BUCKETS,
        )
        self.wait = Histogram(
            "klerk_job_queue_wait_seconds",
            "How long jobs waited since their time had come, for a worker and for their limits.",
            JOB_LABELS,
            registry=None,
            buckets=BUCKETS,
        )

    def collect(self) -> Iterator[Metric]:
        """Return what was counted."""
        for metric in (self.running, self.attempts, self.retries, self.duration, self.wait):
            yield from metric.collect()


class AttemptCounter:
    """Counts the attempts of one opened app."""

    def __init__(self, metrics: JobMetrics, app: str) -> None:
        self._metrics = metrics
        self._app = app

    def started(self, run: RunningJob) -> None:
        """See `JobObserver.started`."""
        labels, record = (self._app, run.record.kind, run.queue), run.record
        ready_us = max(record.created_us, record.run_at_us)
        self._metrics.wait.labels(*labels).observe(max(0, run.started_us - ready_us) / 1e6)
        self._metrics.running.labels(*labels).inc()
        if record.attempt:
            self._metrics.retries.labels(*labels).inc()

    def stopped(self, run: RunningJob) -> None:
        """See `JobObserver.stopped`."""
        labels = self._app, run.record.kind, run.queue
        self._metrics.running.labels(*labels).dec()
        self._metrics.duration.labels(*labels).observe(monotonic() - run.begun_s)

    def ended(self, run: RunningJob, record: JobRecord, error: BaseException | None) -> None:
        """See `JobObserver.ended`."""
        self._metrics.attempts.labels(self._app, record.kind, run.queue, str(record.state)).inc()


class KlerkCollector(Collector):
    """Shows the numbers of opened apps to Prometheus; made by `klerk.telemetry.prometheus_collector`."""

    def __init__(self, klerks: Sequence[Klerk]) -> None:
        self._metrics = JobMetrics()
        self._klerks: list[weakref.ref[Klerk]] = []
        apps = [k.statistics().app for k in klerks]
        if not apps or len(set(apps)) != len(apps):
            raise ArgumentError(
                f"expected opened apps of different names, got {apps}",
                hint="Give each registry a collector of its own.",
            )
        for app, k in zip(apps, klerks, strict=True):
            self._klerks.append(weakref.ref(k))
            k.jobs.observe(AttemptCounter(self._metrics, app))

    def describe(self) -> Iterable[Metric]:
        """Return all metrics, so that a registry finds what it has twice."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Return all metrics as they are now."""
        yield from self._of_apps()
        yield from self._metrics.collect()

    def _of_apps(self) -> Iterator[Metric]:
        found: list[tuple[Statistics, Klerk]] = []
        for reference in self._klerks:
            k = reference()
            if k is None:
                continue
            try:
                found.append((k.statistics(), k))
            except Closed:
                continue
        statistics = [each for each, _ in found]
        yield from _totals(statistics)
        yield from _gauges(statistics)
        yield _models(statistics)
        jobs = GaugeMetricFamily("klerk_jobs", "Jobs that have not ended.", labels=[*JOB_LABELS, "state"])
        ended = CounterMetricFamily(
            "klerk_jobs_ended", "Jobs that ended since the store was made.", labels=["app", "state"]
        )
        for each, k in found:
            for state, count in k.jobs.totals().items():
                ended.add_metric([each.app, str(state)], count)
            for kind, queue, counts in _jobs(k):
                for state in LIVE_STATES:
                    jobs.add_metric([each.app, kind, queue, str(state)], max(0, counts[state]))
        yield jobs
        yield ended


def _jobs(k: Klerk) -> Iterator[tuple[str, str, Mapping[JobState, int]]]:
    """Yield how many jobs of each declared kind are in its queue, and in others where there are any.

    The name "" stands for queues in which no job has been ready yet.
    """
    others = [each.name for each in k.jobs.queues()]
    for kind, job in k.jobs.declared.items():
        rest, own = Counts(k.jobs.counts(kind=kind)), job.settings.queue
        here = k.jobs.counts(kind=kind, queue=own)
        yield kind, own, here
        rest.subtract(here)
        for queue in others:
            # Most jobs are in the queue of their kind.
            if queue != own and _is_any(rest):
                counts = k.jobs.counts(kind=kind, queue=queue)
                rest.subtract(counts)
                if _is_any(counts):
                    yield kind, queue, counts
        if _is_any(rest):
            yield kind, "", rest


def _is_any(counts: Mapping[JobState, int]) -> bool:
    # Jobs go on while they are counted, so that what is left may be less than none.
    return any(counts[state] > 0 for state in LIVE_STATES)


TOTALS = {
    "groups": ("klerk_commit_groups", "Groups of transactions that were committed together."),
    "reads_waited": ("klerk_reads_waited", "Reads that had to wait for the read lock."),
    "reads_waited_s": ("klerk_reads_waited_seconds", "For how long they waited, all together."),
    "publications_waited": ("klerk_publications_waited", "Groups that had to wait for readers to end."),
    "publications_waited_s": ("klerk_publications_waited_seconds", "For how long, all together."),
    "unmanaged_dropped": ("klerk_unmanaged_jobs_dropped", "Unmanaged jobs that found no room."),
    "unmanaged_failed": ("klerk_unmanaged_jobs_failed", "Unmanaged jobs that raised."),
}

GAUGES = {
    "queue_length": ("klerk_command_queue_length", "Commands that wait to be processed."),
    "queue_length_max": ("klerk_command_queue_length_max", "Commands that find room in the queue."),
    "readers": ("klerk_readers", "Reads that hold the read lock."),
    "timers": ("klerk_timers", "Models with a timer that is still to come."),
    "unmanaged_waiting": ("klerk_unmanaged_jobs_waiting", "Unmanaged jobs that wait."),
    "checkpointer_waiting": ("klerk_checkpointer_records", "Records that are in the commit log only."),
    "checkpointer_lag_s": ("klerk_checkpointer_lag_seconds", "For how long the oldest of those has waited."),
    "storage_bytes": ("klerk_storage_bytes", "The size of the store on disk."),
}


def _totals(statistics: list[Statistics]) -> Iterator[Metric]:
    transactions = CounterMetricFamily(
        "klerk_transactions",
        "Transactions that were processed: commands, lists of them, and those of jobs and timers.",
        labels=["app", "outcome"],
    )
    for each in statistics:
        transactions.add_metric([each.app, "committed"], each.committed)
        transactions.add_metric([each.app, "refused"], each.refused)
    yield transactions
    for field, (name, text) in TOTALS.items():
        total = CounterMetricFamily(name, text, labels=["app"])
        for each in statistics:
            total.add_metric([each.app], getattr(each, field))
        yield total


def _gauges(statistics: list[Statistics]) -> Iterator[Metric]:
    for field, (name, text) in GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=["app"])
        for each in statistics:
            gauge.add_metric([each.app], getattr(each, field))
        yield gauge


def _models(statistics: list[Statistics]) -> Metric:
    models = GaugeMetricFamily("klerk_models", "Models that exist.", labels=["app", "model", "state"])
    for each in statistics:
        for (model, state), count in each.models.items():
            models.add_metric([each.app, model, state], count)
    return models

"""What users write with `klerk.testing` and `klerk.telemetry`; both type checkers must accept every line."""

import logging
from datetime import UTC, datetime, timedelta
from typing import assert_type

import klerk
import klerk.telemetry
import klerk.testing
from klerk import App, Context, JobRecord, JobRun, User
from klerk.telemetry import EVENTS, JobLog, OpenTelemetry, RunningJob, Statistics, prometheus_collector
from klerk.testing import (
    Drained,
    Opener,
    VirtualClock,
    assert_enqueued,
    drain,
    enqueued,
    refute_enqueued,
    run_one,
)

app = App("letters")


@app.job()
def send(job: JobRun, text: str) -> None:
    """Send a letter."""


def test_letters(klerk_open: Opener, klerk_clock: VirtualClock) -> None:
    k = klerk_open(app, jobs="inline", durability="process")
    assert_type(k, klerk.Klerk)
    assert_type(klerk_clock.advance(timedelta(days=1)), datetime)


def main() -> None:
    clock = VirtualClock(start=datetime(2030, 1, 1, tzinfo=UTC))
    with klerk.testing.open(app, jobs="manual", clock=clock, path=None, telemetry=OpenTelemetry()) as k:
        assert_type(k, klerk.Klerk)
        k.jobs.schedule(send("hello"))
        assert_type(assert_enqueued(k, send("hello"), count=1), tuple[JobRecord, ...])
        refute_enqueued(k, send, args={"text": "bye"}, queue="mail", at=clock.now, within=timedelta(hours=1))
        assert_type(enqueued(k), tuple[JobRecord, ...])
        assert_type(run_one(k), JobRecord | None)
        drained = drain(k, until=timedelta(days=1), raises=False)
        assert_type(drained, Drained)
        assert_type(drained.completed, int)
        drain(k, until="idle", with_scheduled=True, jobs_max=5)
        stop = k.jobs.observe(JobLog(logging.DEBUG))
        stop()
        collector = prometheus_collector(k)
        list(collector.collect())
        assert_type(k.statistics(), Statistics)
        print(EVENTS["store_failed"], Context(User("ada")))


class Watching:
    """An observer of a user's own."""

    def started(self, run: RunningJob) -> None:
        print(run.queue)

    def stopped(self, run: RunningJob) -> None: ...

    def ended(self, run: RunningJob, record: JobRecord, error: BaseException | None) -> None: ...


observer: klerk.telemetry.JobObserver = Watching()

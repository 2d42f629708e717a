"""What an opened app shows of itself: Prometheus metrics, OpenTelemetry spans, records of the log.

Metrics and spans are read back through the libraries that users read them with. That every record of the log
names its event is held against the source, where all of them are written.
"""

import ast
import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import worked
from designs import NOON, TESTER, Account, Bank, Clock, Spawned, eventually, python_environment
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

import klerk
import klerk.testing
from klerk import App, Cancel, Closed, JobRecord, JobRun, JobState, Ref, Snooze
from klerk.telemetry import EVENTS, JobLog, OpenTelemetry, Statistics, prometheus_collector
from klerk.testing import VirtualClock, drain, run_one

PACKAGE = Path(__file__).resolve().parent.parent / "klerk"


class Office(Bank):
    """A bank whose jobs end in every way."""

    def __init__(self) -> None:
        super().__init__()
        app = self.app
        app.queue("urgent")
        app.queue("slow")

        @app.job(queue="mail")
        def plain(job: JobRun, text: str) -> None: ...

        @app.job()
        async def coroutine(job: JobRun, text: str) -> None:
            await asyncio.sleep(0)

        @app.job(max_attempts=2)
        def fail(job: JobRun) -> None:
            raise ZeroDivisionError("by zero")

        @app.job()
        def stop(job: JobRun) -> Any:
            return Cancel("not needed")

        @app.job()
        def snooze(job: JobRun) -> Any:
            return None if job.record.error else Snooze(timedelta(hours=1), "later")

        @app.job()
        def enrol(job: JobRun, owner: str) -> None:
            job.handle(self.enter(owner))

        @app.job(max_attempts=1)
        def settle(job: JobRun, account: Ref[Account], amount: int) -> Any:
            return job.complete_with(self.withdraw(account, amount))

        @app.job(at_most_once=True)
        def once(job: JobRun) -> None: ...

        @app.job(at_most_once=True)
        async def once_soon(job: JobRun) -> None: ...

        self.once, self.once_soon = once, once_soon
        self.plain, self.coroutine, self.fail, self.stop = plain, coroutine, fail, stop
        self.snooze, self.enrol, self.settle = snooze, enrol, settle


@pytest.fixture
def office() -> Office:
    return Office()


# --- numbers ------------------------------------------------------------------------------------------


def test_statistics(office: Office, tmp_path: Path) -> None:
    with office.app.open(tmp_path / "store", job_threads=0) as k:
        ada = k.handle(office.enter("Ada", 5), TESTER).id
        k.handle(office.close(k.handle(office.enter("Bob"), TESTER).id), TESTER)
        for command in (office.enter("Ada"), office.withdraw(ada, 100)):
            with pytest.raises(klerk.KlerkError):
                k.handle(command, TESTER)
        k.check(office.enter("Eve"), TESTER)
        found = k.statistics()
        assert isinstance(found, Statistics)
        assert (found.app, found.committed, found.refused, found.groups) == ("bank", 3, 2, 6)
        assert (found.queue_length, found.queue_length_max) == (0, klerk.limits.QUEUE_LENGTH_MAX)
        assert found.models[("Account", "active")] == 1
        assert found.models[("Account", "closed")] == 1
        assert found.storage_bytes == k.storage_bytes() > 0
        assert (found.readers, found.timers, found.unmanaged_dropped) == (0, 0, 0)
        with k.read(TESTER):
            assert k.statistics().readers == 1
        assert asyncio.run(k.aio.statistics()).committed == 3
        eventually(lambda: k.statistics().checkpointer_waiting == 0)
        assert k.statistics().checkpointer_lag_s == 0
        k.handle(office.deposit(ada, 1), TESTER)
        waiting = k.statistics()
        assert (waiting.checkpointer_waiting, waiting.checkpointer_lag_s > 0) == (1, True)
    with pytest.raises(Closed):
        k.statistics()


@pytest.mark.parametrize("on_loop", [False, True])
def test_waits_for_the_read_lock_are_counted(office: Office, on_loop: bool) -> None:
    def read() -> None:
        with k.read(TESTER) as r:
            assert len(r.list(office.accounts)) in (0, 1)

    async def read_soon() -> None:
        async with k.aio.read(TESTER) as r:
            assert len(r.list(office.accounts)) in (0, 1)

    def another_reader() -> Spawned:
        return Spawned(lambda: asyncio.run(read_soon()) if on_loop else read())

    registry = CollectorRegistry()
    with office.app.open(job_threads=0) as k:
        registry.register(prometheus_collector(k))
        for _ in range(100):
            another_reader().end() if on_loop else read()
        k.handle(office.enter("Bob"), TESTER)
        k.handle(office.remove(1), TESTER)
        found = k.statistics()
        # Nobody was in anybody's way.
        assert (found.reads_waited, found.reads_waited_s) == (0, 0)
        assert (found.publications_waited, found.publications_waited_s) == (0, 0)
        with k.read(TESTER):
            entering = Spawned(k.handle, office.enter("Ada"), TESTER)
            # As soon as publishing waits, whoever comes later waits, too.
            while not (reader := another_reader()).join(1) and not reader.is_alive():
                reader.end()
        entering.end()
        reader.end()
        found = k.statistics()
        assert (found.reads_waited, found.publications_waited) == (1, 1)
        assert 0 < found.reads_waited_s <= found.publications_waited_s + 20
        assert found.publications_waited_s > 0
        shown = samples(registry)
        assert shown['klerk_reads_waited_total{app="bank"}'] == 1
        assert shown['klerk_publications_waited_total{app="bank"}'] == 1
        assert shown['klerk_reads_waited_seconds_total{app="bank"}'] == found.reads_waited_s
        assert shown['klerk_publications_waited_seconds_total{app="bank"}'] == found.publications_waited_s


# --- Prometheus ---------------------------------------------------------------------------------------


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """Return what Prometheus would scrape, by name with labels, without the time of creation."""
    lines = generate_latest(registry).decode().splitlines()
    found = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in found if "_created" not in name}


def test_prometheus_shows_what_happened(office: Office) -> None:
    clock = VirtualClock()
    registry = CollectorRegistry()
    with klerk.testing.open(office.app, clock=clock) as k:
        registry.register(prometheus_collector(k))
        k.handle(office.enter("Ada"), TESTER)
        with pytest.raises(klerk.Conflict):
            k.handle(office.enter("Ada"), TESTER)
        k.jobs.schedule(
            office.plain("x"), office.coroutine("y"), office.fail(), office.stop(), office.snooze()
        )
        for queue in ("default", "urgent"):
            (later,) = k.jobs.schedule(office.plain("later").after(timedelta(days=1)))
            k.jobs.edit(later.id, queue=queue)
        clock.advance(timedelta(seconds=20))
        drain(k, raises=False)
        found = samples(registry)
        bank = 'app="bank"'
        assert found[f'klerk_transactions_total{{{bank},outcome="refused"}}'] == 1
        assert found[f'klerk_transactions_total{{{bank},outcome="committed"}}'] == k.statistics().committed
        assert found[f"klerk_command_queue_length{{{bank}}}"] == 0
        assert found[f'klerk_models{{{bank},model="Account",state="active"}}'] == 1
        for kind, queue, state in (
            ("plain", "default", "scheduled"),
            ("plain", "urgent", "scheduled"),
            ("snooze", "default", "scheduled"),
            ("fail", "default", "retryable"),
        ):
            assert found[f'klerk_jobs{{{bank},kind="{kind}",queue="{queue}",state="{state}"}}'] == 1
        assert found[f'klerk_jobs{{{bank},kind="plain",queue="mail",state="scheduled"}}'] == 0
        assert found[f'klerk_jobs_ended_total{{{bank},state="completed"}}'] == 2
        assert found[f'klerk_jobs_ended_total{{{bank},state="cancelled"}}'] == 1
        for kind, queue, state in (
            ("plain", "mail", "completed"),
            ("coroutine", "default", "completed"),
            ("fail", "default", "retryable"),
            ("stop", "default", "cancelled"),
            ("snooze", "default", "scheduled"),
        ):
            labels = f'{bank},kind="{kind}",queue="{queue}"'
            assert found[f'klerk_job_attempts_total{{{labels},state="{state}"}}'] == 1
            assert found[f"klerk_job_duration_seconds_count{{{labels}}}"] == 1
            assert found[f"klerk_job_queue_wait_seconds_sum{{{labels}}}"] == 20
            assert found[f"klerk_jobs_running{{{labels}}}"] == 0
        assert "klerk_job_retries_total" not in str([name for name, value in found.items() if value])
        clock.advance(timedelta(seconds=2))
        drain(k, raises=False)
        labels = f'{bank},kind="fail",queue="default"'
        assert samples(registry)[f"klerk_job_retries_total{{{labels}}}"] == 1
        assert samples(registry)[f'klerk_job_attempts_total{{{labels},state="discarded"}}'] == 1
    assert "klerk_storage_bytes" not in str(list(samples(registry)))


def test_prometheus_sees_jobs_that_run(office: Office) -> None:
    registry = CollectorRegistry()
    seen: list[float] = []

    @office.app.job()
    def look(job: JobRun) -> None:
        seen.append(samples(registry)['klerk_jobs_running{app="bank",kind="look",queue="default"}'])

    with office.app.open() as k:
        registry.register(prometheus_collector(k))
        k.jobs.schedule(look())
        assert k.jobs.wait_until_idle(20)
    assert seen == [1]


def test_prometheus_tells_apps_apart_and_lets_go_of_them(office: Office) -> None:
    registry = CollectorRegistry()
    other = App("other").open()
    with office.app.open() as k, other:
        registry.register(prometheus_collector(k, other))
        assert {'klerk_timers{app="bank"}', 'klerk_timers{app="other"}'} <= set(samples(registry))
        with pytest.raises(klerk.ArgumentError, match="different names"):
            prometheus_collector(k, k)
        with pytest.raises(klerk.ArgumentError, match="different names"):
            prometheus_collector()
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(prometheus_collector(k))
    assert not [name for name in samples(registry) if "other" in name]


def test_metric_names_follow_the_conventions(office: Office) -> None:
    registry = CollectorRegistry()
    with office.app.open() as k:
        registry.register(prometheus_collector(k))
        text = generate_latest(registry).decode()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name.startswith("klerk_")
            assert name.endswith("_total") == (kind == "counter"), line
            assert kind != "histogram" or name.endswith("_seconds")
        if line.startswith("# HELP "):
            assert line.endswith("."), line


@pytest.mark.parametrize(
    ("make", "library", "extra"),
    [
        ("prometheus_collector(k)", "prometheus_client", "prometheus"),
        ("OpenTelemetry()", "opentelemetry", "opentelemetry"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    make: str, library: str, extra: str, tmp_path: Path
) -> None:
    code = f"""
import sys
sys.modules["{library}"] = None
import klerk
from klerk.telemetry import OpenTelemetry, prometheus_collector
with klerk.App("bank").open() as k:
    try:
        {make}
    except ImportError as error:
        assert isinstance(error, klerk.MissingLibrary) and error.code == "missing_library"
        print(error.hint)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"klerk[{extra}]" in done.stdout, done.stderr


# --- OpenTelemetry ------------------------------------------------------------------------------------


class Spans:
    """Collects the spans that end."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = OpenTelemetry(self.provider)
        self.tracer = self.provider.get_tracer("test")

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    yield spans
    spans.provider.shutdown()


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def test_a_request_its_command_and_its_jobs_are_one_trace(office: Office, spans: Spans) -> None:
    office.enter.job(lambda a: [office.plain(a.model.owner), office.coroutine(a.model.owner)])
    with office.app.open(telemetry=spans.telemetry) as k:
        with spans.tracer.start_as_current_span("request"):
            result = k.handle(office.enter("Ada"), TESTER)
        assert k.jobs.wait_until_idle(20)
        eventually(lambda: len(spans.exporter.get_finished_spans()) == 4)
    request, command = spans.one("request"), spans.one("Account.enter")
    assert parent_of(command) == id_of(request)
    for name in ("job plain", "job coroutine"):
        job = spans.one(name)
        assert parent_of(job) == id_of(command)
        assert job.kind is trace.SpanKind.CONSUMER
        assert job.attributes is not None
        assert job.attributes["klerk.job.state"] == "completed"
    assert {span.context.trace_id for span in spans.exporter.get_finished_spans() if span.context} == {
        request.context.trace_id if request.context else 0
    }
    assert command.attributes == {"klerk.event": "Account.enter"}
    assert dict(spans.one("job plain").attributes or {}) == {
        "klerk.job.id": 1,
        "klerk.job.kind": "plain",
        "klerk.job.queue": "mail",
        "klerk.job.attempt": 1,
        "klerk.job.state": "completed",
    }
    assert {record.trace[:3] for record in result.jobs} == {"00-"}


def test_a_trace_goes_on_after_a_restart(office: Office, spans: Spans, tmp_path: Path) -> None:
    office.enter.job(lambda a: office.plain(a.model.owner))
    with office.app.open(tmp_path / "store", job_threads=0, telemetry=spans.telemetry) as k:
        k.handle(office.enter("Ada"), TESTER)
    later = Spans()
    with office.app.open(tmp_path / "store", telemetry=later.telemetry) as k:
        assert k.jobs.wait_until_idle(20)
        eventually(lambda: later.named("job plain"))
    assert parent_of(later.one("job plain")) == id_of(spans.one("Account.enter"))
    later.provider.shutdown()


@pytest.mark.parametrize("mode", ["manual", "inline", "threads"])
def test_what_a_job_does_is_under_its_span(office: Office, spans: Spans, mode: klerk.testing.Mode) -> None:
    office.enter.job(lambda a: office.coroutine(a.model.owner))

    @office.app.job()
    async def enrol_later(job: JobRun, owner: str) -> None:
        await job.handle_async(office.enter(owner))

    with klerk.testing.open(office.app, jobs=mode, telemetry=spans.telemetry) as k:
        with spans.tracer.start_as_current_span("request"):
            k.jobs.schedule(office.enrol("Ada"), enrol_later("Bob"))
        if mode == "manual":
            drain(k)
        assert k.jobs.wait_until_idle(20)
        eventually(lambda: len(spans.named("job coroutine")) == 2)
    request = spans.one("request")
    first, second = spans.one("job enrol"), spans.one("job enrol_later")
    assert parent_of(first) == parent_of(second) == id_of(request)
    commands = spans.named("Account.enter")
    assert {parent_of(command) for command in commands} == {id_of(first), id_of(second)}
    assert {parent_of(job) for job in spans.named("job coroutine")} == {id_of(each) for each in commands}
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_every_way_to_submit_has_a_span(office: Office, spans: Spans) -> None:
    async def main() -> None:
        await k.aio.handle(office.enter("A3"), TESTER)
        await (await k.aio.submit(office.enter("A4"), TESTER))
        await k.aio.handle_all([office.enter("A5")], TESTER)

    with office.app.open(telemetry=spans.telemetry) as k:
        k.handle(office.enter("A1"), TESTER)
        k.submit(office.enter("A2"), TESTER).result(20)
        k.handle_all([office.enter("A6"), office.enter("A7")], TESTER)
        k.handle_all(lambda: [office.enter("A8")], TESTER)
        k.check(office.enter("A9"), TESTER)
        asyncio.run(main())
        eventually(lambda: len(spans.exporter.get_finished_spans()) == 8)
    assert len(spans.named("Account.enter")) == 5
    assert len(spans.named("transaction")) == 3
    dry = [span for span in spans.named("Account.enter") if (span.attributes or {}).get("klerk.dry_run")]
    assert len(dry) == 1
    assert dict(spans.named("transaction")[0].attributes or {}) == {"klerk.commands": 2}


def test_spans_of_what_failed(office: Office, spans: Spans) -> None:
    with klerk.testing.open(office.app, telemetry=spans.telemetry) as k:
        ada = k.handle(office.enter("Ada", 5), TESTER).id
        with pytest.raises(klerk.Conflict):
            k.handle(office.enter("Ada"), TESTER)
        with k.read(TESTER), pytest.raises(klerk.ReadLockHeld):
            k.handle(office.deposit(ada, 1), TESTER)
        with k.read(TESTER), pytest.raises(klerk.ReadLockHeld):
            k.submit(office.deposit(ada, 1), TESTER)
        k.jobs.schedule(office.fail(), office.stop(), office.snooze(), office.settle(ada, 100))
        drain(k, raises=False)
    bad = {
        span.name: (span.attributes or {})["error.type"]
        for span in spans.exporter.get_finished_spans()
        if span.status.status_code is trace.StatusCode.ERROR
    }
    assert bad == {
        "Account.enter": "conflict",
        "Account.deposit": "read_lock_held",
        "job fail": "ZeroDivisionError",
        "job settle": "Rejected",
    }
    assert spans.one("job fail").events[0].name == "exception"
    assert (spans.one("job snooze").attributes or {})["klerk.job.state"] == "scheduled"


def test_jobs_have_no_trace_where_nobody_traces(office: Office) -> None:
    with office.app.open(job_threads=0) as k:
        assert k.jobs.schedule(office.plain("x"))[0].trace == ""


def test_a_trace_that_makes_no_sense_does_no_harm(office: Office, spans: Spans, tmp_path: Path) -> None:
    class Odd:
        """Telemetry that stores something else than a trace context."""

        def pushing(self, push: Any) -> Any:
            def push_marked(submission: Any, blocking: bool, timeout_s: float = -1) -> None:
                submission.trace = "no trace"
                push(submission, blocking, timeout_s)

            return push_marked

        def pushing_soon(self, push_soon: Any) -> Any:
            return push_soon

        def started(self, run: JobRun) -> None: ...
        def stopped(self, run: JobRun) -> None: ...
        def ended(self, run: JobRun, record: JobRecord, error: BaseException | None) -> None: ...

    with office.app.open(tmp_path / "store", job_threads=0, telemetry=Odd()) as k:
        assert k.jobs.schedule(office.plain("x"))[0].trace == "no trace"
    with office.app.open(tmp_path / "store", telemetry=spans.telemetry) as k:
        assert k.jobs.wait_until_idle(20)
        eventually(lambda: spans.named("job plain"))
    assert spans.one("job plain").parent is None


# --- observers ----------------------------------------------------------------------------------------


class Heard:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def started(self, run: JobRun) -> None:
        self.calls.append(("started", run.id, run.queue))

    def stopped(self, run: JobRun) -> None:
        self.calls.append(("stopped", run.id))

    def ended(self, run: JobRun, record: JobRecord, error: BaseException | None) -> None:
        self.calls.append(("ended", run.id, record.state, type(error)))


@pytest.mark.parametrize(
    ("ask", "state", "error"),
    [
        ("plain", JobState.COMPLETED, type(None)),
        ("coroutine", JobState.COMPLETED, type(None)),
        ("fail", JobState.RETRYABLE, ZeroDivisionError),
        ("stop", JobState.CANCELLED, Cancel),
        ("snooze", JobState.SCHEDULED, Snooze),
        ("settle", JobState.COMPLETED, type(None)),
        ("refused", JobState.DISCARDED, klerk.Rejected),
        ("once", JobState.COMPLETED, type(None)),
        ("once_soon", JobState.COMPLETED, type(None)),
    ],
)
def test_observers_hear_of_every_attempt_once(office: Office, ask: str, state: JobState, error: type) -> None:
    heard = Heard()
    with klerk.testing.open(office.app) as k:
        ada = k.handle(office.enter("Ada", 5), TESTER).id
        k.jobs.observe(heard)
        amount = 100 if ask == "refused" else 1
        requests: dict[str, Any] = {
            "plain": office.plain("x"),
            "coroutine": office.coroutine("x"),
            "settle": office.settle(ada, amount),
            "refused": office.settle(ada, amount),
        }
        k.jobs.schedule(requests[ask] if ask in requests else getattr(office, ask)())
        drain(k, raises=False)
    queue = "mail" if ask == "plain" else "default"
    assert heard.calls[0] == ("started", 1, queue)
    assert sorted(heard.calls[1:]) == [("ended", 1, state, error), ("stopped", 1)]


@pytest.mark.parametrize("ask", ["once", "once_soon"])
def test_observers_hear_of_jobs_that_are_not_called_after_all(office: Office, ask: str) -> None:
    """A job that runs at most once is not called when closing began while its start was recorded."""

    class Closing(Heard):
        def started(self, run: JobRun) -> None:
            super().started(run)
            k._manager.begin_closing()

    heard = Closing()
    with klerk.testing.open(office.app) as k:
        k.jobs.observe(heard)
        k.jobs.schedule(getattr(office, ask)())
        run_one(k)
    ended = ("ended", 1, JobState.AVAILABLE, type(None))
    assert heard.calls == [("started", 1, "default"), ended, ("stopped", 1)]


def test_observers_hear_of_jobs_in_processes(tmp_path: Path) -> None:
    heard = Heard()
    with worked.app.open(job_processes=1) as k:
        k.jobs.observe(heard)
        k.jobs.schedule(worked.square(str(tmp_path), 3))
        assert k.jobs.wait_until_idle(60)
        eventually(lambda: len(heard.calls) == 3)
    assert heard.calls[0] == ("started", 1, "numbers")
    assert ("ended", 1, JobState.COMPLETED, type(None)) in heard.calls


def test_an_observer_that_fails_harms_nobody(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Heard):
        def started(self, run: JobRun) -> None:
            raise RuntimeError("broken")

        stopped = started

        def ended(self, run: JobRun, record: JobRecord, error: BaseException | None) -> None:
            raise RuntimeError("broken")

    heard = Heard()
    with klerk.testing.open(office.app) as k:
        k.jobs.observe(Broken())
        stop = k.jobs.observe(heard)
        k.jobs.schedule(office.plain("x"))
        drain(k)
        assert len(heard.calls) == 3
        stop()
        stop()
        k.jobs.schedule(office.plain("y"))
        assert run_one(k) is not None
        assert len(heard.calls) == 3
    assert [record.event for record in caplog.records] == 6 * ["observer_failed"]  # type: ignore[attr-defined]


# --- the log ------------------------------------------------------------------------------------------


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that were given beyond those which every record of the log has."""
    plain = vars(logging.makeLogRecord({}))
    return {name: value for name, value in vars(record).items() if name not in {*plain, "message", "asctime"}}


def test_failures_are_logged_with_their_fields(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with klerk.testing.open(office.app, clock=clock) as k:
        k.jobs.schedule(office.fail().options(queue="slow"))
        drain(k, raises=False)
        clock.now = NOON + timedelta(hours=1)
        drain(k, raises=False)
    first, second = [fields_of(record) for record in caplog.records]
    assert first.pop("duration_s") >= 0
    where = first.pop("where")
    assert where.startswith(f"{__file__}:")
    assert where.endswith(" in fail")
    assert first == {
        "event": "attempt_failed",
        "job_id": 1,
        "kind": "fail",
        "queue": "slow",
        "attempt": 1,
        "state": "retryable",
        "error": "ZeroDivisionError: by zero",
    }
    assert (second["event"], second["attempt"], second["state"]) == ("job_discarded", 2, "discarded")


def test_a_line_for_every_attempt_on_request(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "klerk")
    with klerk.testing.open(office.app) as k:
        k.jobs.schedule(office.plain("x"))
        drain(k)
        assert caplog.records == []
        k.jobs.observe(JobLog())
        k.jobs.observe(JobLog(logging.DEBUG))
        k.jobs.schedule(office.plain("y"), office.stop())
        drain(k)
    first, second = sorted(map(fields_of, caplog.records), key=lambda fields: fields["job_id"])
    assert (first["event"], first["kind"], first["queue"], first["state"]) == (
        "attempt_ended",
        "plain",
        "mail",
        "completed",
    )
    assert (second["state"], second["error"]) == ("cancelled", "not needed")


def test_every_record_of_the_log_names_an_event_that_is_listed() -> None:
    """All calls of the loggers in the package give `extra`, and all listed events are logged somewhere."""
    problems, used = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        if "demo" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            logs = name.startswith(("LOG.", "_logger.")) and not name.endswith("isEnabledFor")
            if logs and not any(keyword.arg == "extra" for keyword in node.keywords):
                problems.append(f"{path.name}:{node.lineno}: {name} without extra=about(...)")
            if name in {"about", "about_job", "self._about"}:
                used |= {each.value for each in ast.walk(node.args[0]) if isinstance(each, ast.Constant)}
    for path in PACKAGE.glob("*.pyx"):
        for call in path.read_text(encoding="utf-8").split("LOG.")[1:]:
            before, found, after = call.partition('extra=about("')
            if not found or before.count("LOG."):
                problems.append(f"{path.name}: LOG.{before[:40]} without extra=about(...)")
            used.add(after.partition('"')[0])
    assert not problems, "\n" + "\n".join(problems)
    used |= {"attempt_failed", "job_discarded"}
    assert used == set(EVENTS)
    assert all(text.endswith(".") for text in EVENTS.values())

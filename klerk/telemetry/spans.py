"""OpenTelemetry spans of commands and jobs, in one trace: a job's span is a child of its command's."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from klerk._core import InternalWork
from klerk._version import __version__
from klerk._waiting import Submission
from klerk.commands import Command
from klerk.errors import KlerkError
from klerk.jobs import JobRecord, JobState
from klerk.observing import PushSoon
from klerk.running_job import RunningJob
from klerk.submitting import Push
from klerk.telemetry.extras import extra

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["OpenTelemetry"]

# States in which a job is after an attempt that did not do what it should.
_BAD = (JobState.RETRYABLE, JobState.DISCARDED)


class OpenTelemetry:
    """Makes a span of every command and of every attempt at a job: ``app.open(telemetry=OpenTelemetry())``.

    A command's span lasts from its submission until its outcome is known; it is a child of the span that is
    current where the command is submitted. The jobs that it creates keep its trace context, as W3C
    ``traceparent``, so that their spans are its children, after a restart, too. While a job runs, its span is
    the current one. Arguments and results are in no span: they may be personal.

    Spans of `submit` and asyncio end in the thread that commits: use a processor that does not wait, such as
    ``BatchSpanProcessor``.

    Parameters:
        tracer_provider: where spans go; None: the global one.

    Raises:
        MissingLibrary: ``opentelemetry-api`` is not installed.
    """

    def __init__(self, tracer_provider: "TracerProvider | None" = None) -> None:
        self._trace = extra("opentelemetry.trace", "opentelemetry")
        self._context = extra("opentelemetry.context", "opentelemetry")
        propagation = extra("opentelemetry.trace.propagation.tracecontext", "opentelemetry")
        self._propagator = propagation.TraceContextTextMapPropagator()
        self._tracer = self._trace.get_tracer("klerk", __version__, tracer_provider)
        self._spans: dict[RunningJob, Span] = {}
        self._tokens: dict[RunningJob, Any] = {}

    # --- commands ---------------------------------------------------------------------------------

    def pushing(self, push: Push) -> Push:
        """See `Pushing.pushing`."""

        def push_traced(submission: Submission[Any], blocking: bool, timeout_s: float = -1) -> None:
            span = self._begin(submission)
            try:
                push(submission, blocking, timeout_s)
                if blocking:
                    # The caller is about to wait, and so the span can end in its thread.
                    submission.wait()
            except BaseException as error:
                self._end(span, error)
                raise
            self._end_later(span, submission)

        return push_traced

    def pushing_soon(self, push_soon: PushSoon) -> PushSoon:
        """See `Pushing.pushing_soon`."""

        def push_traced(submission: Submission[Any]) -> Awaitable[None] | None:
            span = self._begin(submission)
            try:
                room = push_soon(submission)
            except BaseException as error:
                self._end(span, error)
                raise
            self._end_later(span, submission)
            return room

        return push_traced

    def _begin(self, submission: Submission[Any]) -> "Span | None":
        """Give a submission its trace context, and a span if it is somebody's command."""
        work, span = submission.work, None
        context = self._context.get_current()
        if not isinstance(work, InternalWork):
            span = self._tracer.start_span(_name_of(work), context, attributes=_attributes_of(submission))
            context = self._trace.set_span_in_context(span, context)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context)
        submission.trace = carrier.get("traceparent")
        return span

    def _end_later(self, span: "Span | None", submission: Submission[Any]) -> None:
        if span is not None:
            submission.add_done_callback(lambda ended: self._end(span, ended.exception()))

    def _end(self, span: "Span | None", error: BaseException | None) -> None:
        if span is None:
            return
        if error is not None:
            self._mark(span, error.code if isinstance(error, KlerkError) else type(error).__name__)
        span.end()

    def _mark(self, span: "Span", error: str) -> None:
        span.set_attribute("error.type", error)
        span.set_status(self._trace.StatusCode.ERROR, error)

    # --- jobs -------------------------------------------------------------------------------------

    def started(self, run: RunningJob) -> None:
        """See `JobObserver.started`."""
        record = run.record
        attributes = {
            "klerk.job.id": run.id,
            "klerk.job.kind": record.kind,
            "klerk.job.queue": run.queue,
            "klerk.job.attempt": run.attempt,
        }
        parent = self._propagator.extract({"traceparent": record.trace} if record.trace else {})
        kind = self._trace.SpanKind.CONSUMER
        span = self._tracer.start_span(f"job {record.kind}", parent, kind, attributes)
        self._spans[run] = span
        self._tokens[run] = self._context.attach(self._trace.set_span_in_context(span, parent))

    def stopped(self, run: RunningJob) -> None:
        """See `JobObserver.stopped`."""
        token = self._tokens.pop(run, None)
        if token is not None:
            self._context.detach(token)

    def ended(self, run: RunningJob, record: JobRecord, error: BaseException | None) -> None:
        """See `JobObserver.ended`."""
        span = self._spans.pop(run, None)
        if span is None:
            return
        span.set_attribute("klerk.job.state", str(record.state))
        if record.state in _BAD and error is not None:
            span.record_exception(error)
            self._mark(span, type(error).__name__)
        span.end()


def _name_of(work: Any) -> str:
    """Return how people call what was submitted: an event, or several commands."""
    return str(work.event) if type(work) is Command else "transaction"


def _attributes_of(submission: Submission[Any]) -> dict[str, Any]:
    work = submission.work
    attributes: dict[str, Any] = {}
    if type(work) is Command:
        attributes["klerk.event"] = str(work.event)
    elif isinstance(work, list):
        attributes["klerk.commands"] = len(work)
    if submission.dry_run:
        attributes["klerk.dry_run"] = True
    return attributes

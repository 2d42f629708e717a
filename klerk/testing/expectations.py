"""What a test expects of jobs that wait, with errors that show what is there instead."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from klerk import limits
from klerk._dispatch import moment_at
from klerk.errors import ArgumentError
from klerk.jobs import Job, JobRecord, JobRequest
from klerk.klerk import Klerk
from klerk.testing.opening import time_of
from klerk.values import Model

__all__ = ["assert_enqueued", "enqueued", "refute_enqueued"]


def enqueued(
    k: Klerk,
    job: Job[...] | JobRequest | None = None,
    *,
    args: Mapping[str, object] | None = None,
    queue: str | None = None,
    at: datetime | None = None,
    within: timedelta | None = None,
) -> tuple[JobRecord, ...]:
    """Return the jobs that have not ended, in the order of their creation, those that wait for a time or to
    be tried again, too.

    Parameters:
        job: of this kind; or, given a request as in ``remind(loan)``, with exactly its arguments; None: any.
        args: with these arguments, by name; others may be as they will.
        queue: in this queue.
        at: to be run no sooner than this moment.
        within: to be run at most so much time before or after `at`, or after the time now.

    Raises:
        ArgumentError: the job has no such parameter, cannot be compared or is another app's, or there is no
            such queue.
    """
    wanted = _Wanted(k, job, args, queue, at, within)
    return tuple(record for record in k.jobs.live() if wanted.fits(record))


def assert_enqueued(
    k: Klerk,
    job: Job[...] | JobRequest,
    *,
    args: Mapping[str, object] | None = None,
    count: int | None = None,
    queue: str | None = None,
    at: datetime | None = None,
    within: timedelta | None = None,
) -> tuple[JobRecord, ...]:
    """Fail unless such a job waits, and return all that do.

    Parameters:
        count: exactly so many must wait; None: one or more.
        job, args, queue, at, within: see `enqueued`.

    Raises:
        AssertionError: there is none, or another number; it lists the jobs that are there.
    """
    # pytest shows the line of the test instead of this function.
    __tracebackhide__ = True
    wanted = _Wanted(k, job, args, queue, at, within)
    found = enqueued(k, job, args=args, queue=queue, at=at, within=within)
    if len(found) == count or (count is None and found):
        return found
    expected = "a job" if count is None else f"{count} jobs"
    raise AssertionError(f"expected {expected} {wanted}, found {len(found) or 'none'}.\n{_listed(k, found)}")


def refute_enqueued(
    k: Klerk,
    job: Job[...] | JobRequest,
    *,
    args: Mapping[str, object] | None = None,
    queue: str | None = None,
    at: datetime | None = None,
    within: timedelta | None = None,
) -> None:
    """Fail if such a job waits.

    Parameters:
        job, args, queue, at, within: see `enqueued`.

    Raises:
        AssertionError: there is one; it lists the jobs that are there.
    """
    __tracebackhide__ = True
    wanted = _Wanted(k, job, args, queue, at, within)
    found = enqueued(k, job, args=args, queue=queue, at=at, within=within)
    if found:
        raise AssertionError(f"expected no job {wanted}, found {len(found)}.\n{_listed(k, found)}")


class _Wanted:
    """What a job must be like."""

    def __init__(
        self,
        k: Klerk,
        job: Job[...] | JobRequest | None,
        args: Mapping[str, object] | None,
        queue: str | None,
        at: datetime | None,
        within: timedelta | None,
    ) -> None:
        given: object = job
        if not (given is None or isinstance(given, Job | JobRequest)):
            raise ArgumentError(
                f"expected a job or a request for one, got {type(job).__name__}",
                hint="Give what @app.job() made, as in remind, or a request: remind(loan).",
            )
        self._job = job.job if isinstance(job, JobRequest) else job
        # Of what is looked for by a name that nobody has, none is found, whatever there is.
        k.jobs.counts(kind=self._job, queue=queue)
        self._args = dict(args or {})
        if isinstance(job, JobRequest):
            names = [parameter.name for parameter in job.job.parameters]
            self._args |= dict(zip(names, job.values, strict=True))
            queue = job.queue if queue is None else queue
            at = job.run_at if at is None else at
        if self._args:
            self._require_parameters()
        self._queue, self._at, self._within = queue, at, within
        self._now = time_of(k)
        self._default_queue = {each.name: each.settings.queue for each in k.jobs.declared.values()}

    def _require_parameters(self) -> None:
        if self._job is None:
            raise ArgumentError("arguments are those of a job", hint="Name the job, too.")
        names = [parameter.name for parameter in self._job.parameters]
        unknown = [name for name in self._args if name not in names]
        if unknown:
            raise ArgumentError(
                f"the job {self._job} has no parameter '{unknown[0]}'", hint=f"It has: {', '.join(names)}."
            )

    def fits(self, record: JobRecord) -> bool:
        """Return whether a job is like that."""
        if self._job is not None and record.kind != self._job.name:
            return False
        if self._queue is not None and self._queue != (record.queue or self._default_queue[record.kind]):
            return False
        if self._job is not None and self._args:
            names = [parameter.name for parameter in self._job.parameters]
            values = dict(zip(names, record.arguments, strict=True))
            if any(values[name] != _plain(value) for name, value in self._args.items()):
                return False
        return self._fits_time(record)

    def _fits_time(self, record: JobRecord) -> bool:
        run_at = moment_at(record.run_at_us or record.created_us)
        if self._within is not None:
            return abs(run_at - (self._at or self._now)) <= self._within
        return self._at is None or run_at == self._at

    def __str__(self) -> str:
        told = ["of any kind" if self._job is None else self._job.name]
        if self._args:
            told[0] += f"({', '.join(f'{name}={_plain(value)!r}' for name, value in self._args.items())})"
        if self._queue is not None:
            told.append(f"in queue '{self._queue}'")
        if self._within is not None:
            told.append(f"within {self._within} of {(self._at or self._now).isoformat()}")
        elif self._at is not None:
            told.append(f"at {self._at.isoformat()}")
        return " ".join(told)


def _plain(value: object) -> object:
    """Return a value as it stands in a record: a model counts as its reference."""
    return value.meta.id if isinstance(value, Model) else value


def _listed(k: Klerk, found: tuple[JobRecord, ...]) -> str:
    """Return the jobs that have not ended, one a line, those that were found marked."""
    live = k.jobs.live()
    if not live:
        return "No job waits."
    marked = {record.id for record in found}
    lines = [
        f"{'>' if record.id in marked else ' '} {_told(k, record)}"
        for record in live[: limits.TEST_JOBS_SHOWN_MAX]
    ]
    if len(live) > limits.TEST_JOBS_SHOWN_MAX:
        lines.append(f"  and {len(live) - limits.TEST_JOBS_SHOWN_MAX} more")
    return "\n".join(["These wait:", *lines])


def _told(k: Klerk, record: JobRecord) -> str:
    """Return a job as one line."""
    job = k.jobs.declared.get(record.kind)
    names = [] if job is None else [parameter.name for parameter in job.parameters]
    values = record.arguments
    pairs = zip(names, values, strict=False) if len(names) == len(values) else enumerate(values)
    arguments = ", ".join(f"{name}={value!r}" for name, value in pairs)
    told = f"{record.id}: {record.kind}({arguments}) {record.state}"
    if record.run_at_us:
        told += f", not before {moment_at(record.run_at_us).isoformat()}"
    if record.queue:
        told += f", in queue '{record.queue}'"
    return f"{told}, {record.error}" if record.error else told

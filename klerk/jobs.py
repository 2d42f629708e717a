"""Job values: what is declared, what is requested, what is stored, and when to try again."""

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Generic, ParamSpec

import msgspec

from klerk import limits
from klerk._dispatch import Check, moment_of
from klerk.errors import ArgumentError
from klerk.job_failures import JobFailure
from klerk.job_names import require_queue
from klerk.job_options import JobSettings, Pool
from klerk.moments import require_moment
from klerk.places import Place

P = ParamSpec("P")

__all__ = [
    "FINAL_STATES",
    "OUTCOME_UNKNOWN",
    "Job",
    "JobRecord",
    "JobRequest",
    "JobState",
    "Parameter",
    "bind",
    "parameters_of",
]


class JobState(StrEnum):
    """Where a job is on its way."""

    SCHEDULED = "scheduled"
    AVAILABLE = "available"
    EXECUTING = "executing"
    RETRYABLE = "retryable"
    COMPLETED = "completed"
    DISCARDED = "discarded"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_DELAY: Final = timedelta(days=limits.JOB_DELAY_DAYS_MAX)

FINAL_STATES: Final = frozenset({JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED})

OUTCOME_UNKNOWN: Final = "outcome unknown"
"""How the error of a job begins that runs at most once, was started, and was not seen to end."""


class JobRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A job as it is stored.

    Parameters:
        id: unique among jobs, in the order of creation.
        kind: the name of the declared job.
        arguments: in the order of the declaration.
        state: `executing` is stored only of a job that runs at most once.
        attempt: how often it was started and ended, badly so far.
        run_at_us: not before, in microseconds since 1970 UTC; 0: at once.
        created_us: the time of the context that created it.
        cause: the sequence of the transaction that created it; 0 for cron.
        ended_us: when it came to a final state.
        error: why the last attempt failed.
        log: what the job wrote about itself.
        done, total: its progress, as far as it told.
        schema: the version of the schema that it was stored with.
        queue, priority, attempts_max: when other than declared for its kind; "", None and 0 otherwise.
        version: of its arguments.
        crashes: how often the process died while it ran.
        reruns: how often it was run again after it had ended; `renewals`: of these, from nothing.
        freed: somebody let it run before what it waited for had ended, so that it waits for others no more.
        started_us: when its newest attempt began.
        key: by which its key limits count.
        unique: the digest of what makes it unique; empty: nothing does.
        follows: the ids of the jobs that must end before it starts.
        anyway: it starts however those ended.
        batch: the batch that it is a member of, or that it waits for; 0: none. See `role`.
        role: "" for a member of its batch; "succeeded", "failed" or "ended" for the job that runs when the
            batch came to that.
        failures: of the members of the batch that it waits for.
        tick_us: the time of a cron job that it was created for.
        checkpoint: the state that the job saved, in MessagePack; empty: none.
        result: the value that it returned, in MessagePack; empty: none is kept.
        result_until_us: until when the result is kept.
        trace: the W3C trace context of the command that created it.
        stop: "cancelled" or "discarded", once it was asked to end so while it runs; it does when its function
            fails or the process ends, and not if the function succeeds all the same.
        members: how many the batch has that it waits for.
        batch_ended_us: when the batch that it waits for had ended; 0: not yet, or it waits for none.
        errors: of its failed attempts and crashes, oldest first: `limits.JOB_ERRORS_KEPT_MAX` at most, the
            first and the last. They stay when it completes, and go when it is run again from nothing.
    """

    id: int
    kind: str
    arguments: tuple[Any, ...]
    state: JobState
    attempt: int = 0
    run_at_us: int = 0
    created_us: int = 0
    cause: int = 0
    ended_us: int = 0
    error: str = ""
    log: tuple[str, ...] = ()
    done: int = 0
    total: int = 0
    schema: int = 0
    queue: str = ""
    priority: int | None = None
    attempts_max: int = 0
    version: int = 1
    crashes: int = 0
    reruns: int = 0
    started_us: int = 0
    key: str = ""
    unique: bytes = b""
    follows: tuple[int, ...] = ()
    anyway: bool = False
    batch: int = 0
    role: str = ""
    failures: int = 0
    tick_us: int = 0
    checkpoint: bytes = b""
    result: bytes = b""
    result_until_us: int = 0
    trace: str = ""
    stop: str = ""
    members: int = 0
    batch_ended_us: int = 0
    renewals: int = 0
    freed: bool = False
    errors: tuple[JobFailure, ...] = ()

    @property
    def created_at(self) -> datetime:
        """The time of the context that created it, in UTC."""
        return _EPOCH + timedelta(microseconds=self.created_us)

    @property
    def run_at(self) -> datetime | None:
        """Not before this time, in UTC; None: at once."""
        return moment_of(self.run_at_us)

    @property
    def started_at(self) -> datetime | None:
        """When its newest attempt began, in UTC; None: none did."""
        return moment_of(self.started_us)

    @property
    def ended_at(self) -> datetime | None:
        """When it came to a final state, in UTC; None: it has not."""
        return moment_of(self.ended_us)

    @property
    def outcome_unknown(self) -> bool:
        """Whether it runs at most once and was started, and nobody knows what it did: the process ended."""
        return self.state is JobState.DISCARDED and self.error.startswith(OUTCOME_UNKNOWN)


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of an event or job, as its function declares it."""

    name: str
    annotation: Any
    default: Any


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Return the parameters after the first, which Klerk fills.

    Raises:
        ValueError: the function takes no first parameter, or ``*args`` or ``**kwargs``.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise ValueError("it takes no first parameter, which Klerk fills")
    found = []
    for parameter in parameters[1:]:
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise ValueError(f"its parameter '{parameter}' has no fixed number of values")
        found.append(Parameter(parameter.name, parameter.annotation, parameter.default))
    return tuple(found)


def bind(
    what: str, parameters: Sequence[Parameter], values: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Any, ...]:
    """Return the values of the parameters, in order, with defaults filled in.

    Raises:
        ArgumentError: too many, too few, twice, or unknown.
    """
    bound = list(values)
    given = 0
    for parameter in parameters[len(values) :]:
        value = parameter.default
        if parameter.name in keywords:
            value = keywords[parameter.name]
            given += 1
        elif value is inspect.Parameter.empty:
            raise ArgumentError(f"{what} needs '{parameter.name}'")
        bound.append(value)
    if len(values) > len(parameters) or given != len(keywords):
        raise _misfit(what, parameters, values, keywords)
    return tuple(bound)


def _misfit(
    what: str, parameters: Sequence[Parameter], values: tuple[Any, ...], keywords: dict[str, Any]
) -> ArgumentError:
    """Return the error for arguments that are too many, unknown, or given twice."""
    if len(values) > len(parameters):
        return ArgumentError(f"{what} takes {len(parameters)} arguments, got {len(values)}")
    names = [parameter.name for parameter in parameters]
    unknown = [name for name in keywords if name not in names]
    if unknown:
        known = f"It has: {', '.join(names) or 'none'}."
        return ArgumentError(f"{what} has no parameter '{unknown[0]}'", hint=known)
    twice = next(name for name in keywords if names.index(name) < len(values))
    return ArgumentError(f"{what} got '{twice}' twice")


class JobRequest(msgspec.Struct, frozen=True, gc=False):
    """A request that a job be run. Inert until a command or the job manager creates the job.

    Parameters:
        job: the declared job.
        values: its arguments, in order.
        run_at: not before; None: at once.
        delay: not before so much time after it is created; in place of `run_at`.
        queue, priority, max_attempts: in place of what is declared; None: as declared.
        follows: the jobs that must end before it starts: their records or ids, or requests that create their
            jobs in the same transaction.
        anyway: start it however those ended; otherwise it is cancelled once one of them ends badly.
        tick_us: the time of a cron job that it is for, in microseconds since 1970 UTC; 0: nobody's cron asks.
    """

    job: "Job[...]"
    values: tuple[Any, ...]
    run_at: datetime | None = None
    delay: timedelta | None = None
    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    follows: "tuple[JobRequest | JobRecord | int, ...]" = ()
    anyway: bool = False
    tick_us: int = 0

    def at(self, moment: datetime) -> "JobRequest":
        """Return the same request, to be run no sooner than `moment`.

        Raises:
            ArgumentError: it is no aware datetime.
        """
        require_moment("a job cannot run at", moment)
        return msgspec.structs.replace(self, run_at=moment, delay=None)

    def after(self, *what: "timedelta | JobRequest | JobRecord | int", anyway: bool = False) -> "JobRequest":
        """Return the same request, to be run some time after it is created, or after other jobs.

        Parameters:
            what: a delay; or jobs, as records, ids, or requests that create them in the same transaction.
            anyway: start it however those jobs ended; otherwise it is cancelled once one of them is
                discarded or cancelled.

        Raises:
            ArgumentError: it is none of these, or a delay under 0 or over `limits.JOB_DELAY_DAYS_MAX` days.
        """
        changed = self
        for each in what:
            if isinstance(each, timedelta) and timedelta(0) <= each <= _LONGEST_DELAY:
                changed = msgspec.structs.replace(changed, delay=each, run_at=None)
            elif isinstance(each, JobRequest | JobRecord | int) and not isinstance(each, bool):
                changed = msgspec.structs.replace(
                    changed, follows=(*changed.follows, each), anyway=anyway or changed.anyway
                )
            else:
                given: object = each
                hint = (
                    "For a moment, there is at(...)."
                    if isinstance(given, datetime)
                    else f"Give a delay of 0 to {limits.JOB_DELAY_DAYS_MAX:,} days as a timedelta, or jobs:"
                    " their records, ids or requests."
                )
                raise ArgumentError(f"a job cannot run after {given!r}", hint=hint)
        return changed

    def options(
        self, *, queue: str | None = None, priority: int | None = None, max_attempts: int | None = None
    ) -> "JobRequest":
        """Return the same request with other options than declared; those left out stay as they are.

        Raises:
            ArgumentError: one of them is out of its bounds, nobody declares the queue, or a job that runs at
                most once would be tried again. Before the app is opened, any queue is taken; one that turns
                out to be unknown is refused when the job is created.
        """
        if queue is not None:
            require_queue(queue, self.job.queues)
        _require_number("priority", priority, -limits.JOB_PRIORITY_MAX, limits.JOB_PRIORITY_MAX)
        _require_number("max_attempts", max_attempts, 1, limits.JOB_ATTEMPTS_LIMIT)
        if self.job.settings.at_most_once and max_attempts not in (None, 1):
            raise ArgumentError(
                f"job {self.job} runs at most once, got max_attempts {max_attempts}",
                hint="Leave max_attempts out.",
            )
        return msgspec.structs.replace(
            self,
            queue=self.queue if queue is None else queue,
            priority=self.priority if priority is None else priority,
            max_attempts=self.max_attempts if max_attempts is None else max_attempts,
        )

    def with_values(self, values: tuple[Any, ...]) -> "JobRequest":
        """Return the same request with other arguments."""
        return msgspec.structs.replace(self, values=values)

    def __repr__(self) -> str:
        return f"<request for job {self.job}>"


def _require_number(option: str, value: int | None, low: int, high: int) -> None:
    given: object = value
    if given is not None and (type(given) is not int or not low <= given <= high):
        raise ArgumentError(f"{option} is a whole number from {low} to {high}, got {value!r}")


def by_position(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that takes all of its arguments by position, those that are keyword-only, too."""
    parameters = inspect.signature(function).parameters
    if not any(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters.values()):
        return function
    names = list(parameters)[1:]

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(first: Any, *values: Any) -> Any:
            return await function(first, **dict(zip(names, values, strict=True)))

        return awaited

    @functools.wraps(function)
    def called(first: Any, *values: Any) -> Any:
        return function(first, **dict(zip(names, values, strict=True)))

    return called


class Job(Generic[P]):
    """A declared background job. Calling it makes an inert `JobRequest`.

    Attributes:
        name: of the function; the kind that is stored.
        label: the first line of its docstring, or its name.
        settings: how it is run.
        pool: where it runs.
        checks: of its arguments, in order; set once the design is complete.
        design: the app that it is declared in.
        queues: the names of those of the app; None until the design is complete.
        returns: what its function says that it returns; set with these.
        key_places: the places of the arguments that its key function takes; None: all, as they are.
    """

    def __init__(self, function: Callable[..., Any], settings: JobSettings, place: Place) -> None:
        self.function = by_position(function)
        self.name = function.__name__
        self.label = (inspect.getdoc(function) or self.name).splitlines()[0]
        self.parameters = parameters_of(function)
        self.settings = settings
        self.place = place
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.pool: Pool = settings.executor or ("loop" if self.is_coroutine else "thread")
        self.checks: list[Check] = []
        self.design: Any = None
        self.queues: Collection[str] | None = None
        self.returns: Any = None
        self.key_places: tuple[int, ...] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> JobRequest:
        return JobRequest(self, bind(str(self), self.parameters, args, kwargs))

    def request(self, values: tuple[Any, ...]) -> JobRequest:
        """Return a request with arguments that are given in order, all of them."""
        return JobRequest(self, values)

    def __repr__(self) -> str:
        return self.name

"""Job values: what is declared, what is requested, what is stored, and when to try again."""

import inspect
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Generic, ParamSpec

import msgspec

from klerk import limits
from klerk._dispatch import Check, JobRequest
from klerk.errors import ArgumentError
from klerk.places import Place

P = ParamSpec("P")

__all__ = [
    "FINAL_STATES",
    "Job",
    "JobRecord",
    "JobRequest",
    "JobState",
    "Parameter",
    "Rate",
    "Retry",
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


FINAL_STATES: Final = frozenset({JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED})


class JobRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A job as it is stored.

    Parameters:
        id: unique among jobs, in the order of creation.
        kind: the name of the declared job.
        arguments: in the order of the declaration.
        state: `executing` is never stored: after a crash such a job is still available.
        attempt: how often it was started and ended, badly so far.
        run_at_us: not before, in microseconds since 1970 UTC; 0: at once.
        created_us: the time of the context that created it.
        cause: the sequence of the transaction that created it; 0 for cron.
        ended_us: when it came to a final state.
        error: why the last attempt failed.
        log: what the job wrote about itself.
        done, total: its progress, as far as it told.
        schema: the version of the schema that it was stored with.
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


class Retry(msgspec.Struct, frozen=True):
    """When a failed job is tried again: the delay doubles, with half of it left to chance, so that jobs which
    failed together do not come back together ("equal jitter", M. Brooker, AWS Architecture Blog, 2015).

    Parameters:
        attempts_max: after which it is discarded.
        base: delay after the first failure.
        longest: bound of the delay.
    """

    attempts_max: int = limits.JOB_ATTEMPTS_MAX
    base: timedelta = timedelta(seconds=limits.JOB_BACKOFF_BASE_S)
    longest: timedelta = timedelta(seconds=limits.JOB_BACKOFF_MAX_S)

    def delay(self, attempt: int) -> timedelta:
        """Return how long to wait after the failure of an attempt, counted from 1."""
        # Beyond 2**40 times any base is over any bound, and a timedelta soon has no room for more.
        doublings = min(attempt - 1, 40)
        full_s = min(self.longest.total_seconds(), self.base.total_seconds() * 2**doublings)
        return timedelta(seconds=full_s / 2 + full_s / 2 * random.random())


class Rate(msgspec.Struct, frozen=True):
    """How often jobs of a kind may start: a bucket of `count` tokens that fills evenly over `period`."""

    count: int
    period: timedelta

    @staticmethod
    def parse(text: str) -> "Rate":
        """Read ``"20/min"``, ``"5/s"``, ``"100/h"`` or ``"1000/day"``.

        Raises:
            ValueError: it has another form.
        """
        count, _, unit = text.partition("/")
        seconds = {"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600, "day": 86_400}.get(unit.strip())
        if seconds is None or not count.strip().isdigit() or int(count) == 0:
            raise ValueError(f"the rate {text!r} is not of the form '20/min' (units: s, min, h, day)")
        return Rate(int(count), timedelta(seconds=seconds))


class Job(Generic[P]):
    """A declared background job. Calling it makes an inert `JobRequest`.

    Attributes:
        name: of the function; the kind that is stored.
        label: the first line of its docstring, or its name.
        queue, priority: higher priorities start first, within and across queues.
        retry, rate, cron: when it is run, and when again.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        queue: str,
        priority: int,
        retry: Retry,
        rate: Rate | None,
        cron: str | None,
        place: Place,
    ) -> None:
        self.function = function
        self.name = function.__name__
        self.label = (inspect.getdoc(function) or self.name).splitlines()[0]
        self.parameters = parameters_of(function)
        self.queue = queue
        self.priority = priority
        self.retry = retry
        self.rate = rate
        self.cron = cron
        self.place = place
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.checks: list[Check] = []

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> JobRequest:
        return JobRequest(self, bind(str(self), self.parameters, args, kwargs))

    def __repr__(self) -> str:
        return self.name

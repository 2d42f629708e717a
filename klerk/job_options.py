"""What is declared about jobs and queues: the options as users write them, and the settings made of them."""

import random
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

import msgspec

from klerk import limits
from klerk.places import Place

if TYPE_CHECKING:
    from klerk.commands import Actor
    from klerk.job_outcomes import JobOutcome

__all__ = [
    "Backoff",
    "JobOptions",
    "JobSettings",
    "Missed",
    "Pool",
    "QueueOptions",
    "QueueSettings",
    "Rate",
    "Unique",
]

Pool = Literal["thread", "loop", "process"]
"""Where a job runs: a thread, a task of the jobs' event loop, or a process of its own pool."""

Missed = Literal["skip", "once", "all"]
"""What becomes of times of a cron job that passed while nothing was open."""


DEFAULT_QUEUE: Final = "default"
"""Where jobs wait that name no queue."""


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """How long a failed job waits: the delay doubles, with half of it left to chance, so that jobs which
    failed together do not come back together ("equal jitter", M. Brooker, AWS Architecture Blog, 2015).

    Parameters:
        base: delay after the first failure.
        longest: bound of the delay.
    """

    base: timedelta = timedelta(seconds=limits.JOB_BACKOFF_BASE_S)
    longest: timedelta = timedelta(seconds=limits.JOB_BACKOFF_MAX_S)

    def __call__(self, attempt: int, error: BaseException) -> timedelta:
        """Return how long to wait after the failure of an attempt, counted from 1."""
        # Beyond 2**40 times any base is over any bound, and a timedelta soon has no room for more.
        doublings = min(attempt - 1, 40)
        full_s = min(self.longest.total_seconds(), self.base.total_seconds() * 2**doublings)
        return timedelta(seconds=full_s / 2 + full_s / 2 * random.random())


class Rate(msgspec.Struct, frozen=True):
    """How often jobs may start: a bucket of `count` tokens that fills evenly over `period`."""

    count: int
    period: timedelta

    @staticmethod
    def parse(text: str) -> "Rate":
        """Read ``"20/min"``, ``"5/s"``, ``"100/h"`` or ``"1000/day"``.

        Raises:
            ValueError: it has another form.
        """
        given: object = text
        if not isinstance(given, str):
            raise ValueError(f"it must be a text such as '20/min', is {text!r}")
        count, _, unit = text.partition("/")
        seconds = {"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600, "day": 86_400}.get(unit.strip())
        if seconds is None or not count.strip().isdigit() or int(count) == 0:
            raise ValueError(f"the rate {text!r} is not of the form '20/min' (units: s, min, h, day)")
        return Rate(int(count), timedelta(seconds=seconds))

    def __str__(self) -> str:
        seconds = int(self.period.total_seconds())
        unit = {1: "s", 60: "min", 3600: "h", 86_400: "day"}.get(seconds, f"{seconds} s")
        return f"{self.count}/{unit}"


class Unique(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs of a kind count as the same, so that no second one is created: the first one stands for it.

    Parameters:
        until: the first one blocks others until it has ``"started"``, or until it has ``"ended"``.
        within: it blocks them for so long after it was created, whatever becomes of it; in place of `until`.
        by: the names of the parameters that are compared; empty: all of them.
    """

    until: Literal["started", "ended"] = "ended"
    within: timedelta | None = None
    by: tuple[str, ...] = ()


RetryDelay = Callable[[int, BaseException], timedelta | None]
"""``(attempt, error) -> delay``: how long to wait after a failure, counted from 1; None gives the job up."""


class JobOptions(TypedDict, total=False):
    """The options of `App.job`.

    Parameters:
        queue: where it waits; declared with `App.queue`, or made with its defaults by being named here.
        priority: higher ones start first within their queue.
        max_attempts: failures after which the job is discarded.
        max_crashes: after as many deaths of the process while it ran it is discarded as poison, if it ran
            alone in the last one; otherwise it runs again. All jobs that run at that moment are counted; from
            then on they start one at a time, and alone after a start when the next death may be the last.
        at_most_once: record durably that it starts before it does, and never start it a second time; after a
            crash in between its outcome is unknown, and it is discarded with `JobRecord.outcome_unknown`.
        retry: how long to wait after a failure: a `Backoff`, or a function ``(attempt, error)`` that returns
            a timedelta, or None to give up. An error that cannot be sent from a worker process comes to it
            as an `UnsentError`, which says what it stands for.
        on_error: what an exception class (and its subclasses) means: `Discard()`, `Cancel()`,
            `Snooze(...)`, `Retry(...)`; the most specific class counts. Its reason is told before the error.
            The classes of an error that cannot be sent from a worker process are known by their names.
        rate, concurrency: how often jobs of the kind start, as in ``"20/min"``, and how many run at once. A
            rate is a token bucket: as many as it names may start at once when none did for so long, then one
            by one as tokens flow in, here every 3 s. A restart leaves the bucket as it was; a crash leaves it
            empty, since what started last is not known: with ``"1/day"`` the next starts a day later.
        key: a function of the job's arguments that gives the key by which the next two count. When its
            parameters are called as some of the job's, it gets the values of these, in whatever order; when
            none is, it gets all of them in the order of the job's. Jobs that were stored before their kind
            had a key get theirs when they are loaded.
        key_rate, key_concurrency: as `rate` and `concurrency`, for all jobs of the kind with the same key.
        unique: which jobs count as the same.
        cron: run by itself at these times, as in ``"0 3 * * *"``, one job for each; its parameters, if it has
            any, have defaults. `JobRun.tick` is the time. See `klerk.cron_ticks` for changes of the clock.
        timezone: in which `cron` is meant, as in ``"Europe/Oslo"``. Once one of the two is changed, times
            that passed before mean nothing.
        missed: what becomes of times that passed while nothing was open, or the machine slept: ``"skip"``,
            ``"once"`` (one job for all of them), or ``"all"`` (one for each, the newest
            `limits.JOBS_MISSED_MAX`).
        executor: where it runs; left out, coroutine functions run on the loop and others as their queue says.
            A process imports the function by its module and name. Arguments, what it returns or raises, and
            what it reads cross by pickle; its `JobRun` asks this process for all else.
        timeout: an attempt that takes longer is stopped, and has failed. In a process it is killed; elsewhere
            it is asked to stop, which it does at its next call of a `JobRun` method, or await; one that comes
            to its end all the same is completed.
        heartbeat: an attempt that gives no sign for so long (`JobRun.heartbeat`, or another call) has failed.
        tags: what a worker must have, to be given the job.
        keep_result: how long the value that the function returns is kept. It has to be what the function says
            that it returns; anything else makes the attempt fail.
        version: of the parameters; counted up when they change.
        upcast: for each earlier version, a function of the arguments by name that returns those of the next,
            as they are stored: references are numbers. Jobs for which it fails are suspended, with what they
            have, until it does not. What a migration transforms (`Migration.transform_job`) is of the newest
            version.
        run_as: the actor as which the job acts, on behalf of the job: rules are asked about it, also about
            the commands that the job ends with. Left out: the system, about which rules are not asked.
    """

    queue: str
    priority: int
    max_attempts: int
    max_crashes: int
    at_most_once: bool
    retry: RetryDelay
    on_error: "Mapping[type[Exception], JobOutcome]"
    rate: str | None
    concurrency: int | None
    key: Callable[..., object] | None
    key_rate: str | None
    key_concurrency: int | None
    unique: Unique | None
    cron: str | None
    timezone: str
    missed: Missed
    executor: Pool | None
    timeout: timedelta | None
    heartbeat: timedelta | None
    tags: Collection[str]
    keep_result: timedelta | None
    version: int
    upcast: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
    run_as: "Actor | None"


class JobSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The checked options of a declared job, under the same names; rates are parsed."""

    queue: str = DEFAULT_QUEUE
    priority: int = 0
    max_attempts: int = limits.JOB_ATTEMPTS_MAX
    max_crashes: int = limits.JOB_CRASHES_MAX
    at_most_once: bool = False
    retry: Any = Backoff()
    on_error: Any = {}
    rate: Rate | None = None
    concurrency: int | None = None
    key: Any = None
    key_rate: Rate | None = None
    key_concurrency: int | None = None
    unique: Unique | None = None
    cron: str | None = None
    timezone: str = "UTC"
    missed: Missed = "once"
    executor: Pool | None = None
    timeout: timedelta | None = None
    heartbeat: timedelta | None = None
    tags: frozenset[str] = frozenset()
    keep_result: timedelta | None = None
    version: int = 1
    upcast: Any = {}
    run_as: Any = None


class QueueOptions(TypedDict, total=False):
    """The options of `App.queue`.

    Parameters:
        concurrency: of its jobs run at once; None: as many as there are workers.
        rate: at most so many of its jobs start, as in ``"100/s"``, after as many at once.
        weight: its share of the starts while other queues have jobs, too: a queue of weight 2 starts twice
            as many as one of weight 1.
        executor: where its plain functions run, unless the job says so itself.
    """

    concurrency: int | None
    rate: str | None
    weight: int
    executor: Literal["thread", "process"]


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The checked options of a queue, under the same names, with its place; the rate is parsed."""

    concurrency: int | None = None
    rate: Rate | None = None
    weight: int = 1
    executor: Literal["thread", "process"] = "thread"
    place: Place | None = None

"""Opening an app for a test."""

import os
import weakref
from collections.abc import Callable, Collection
from contextlib import ExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, TypedDict, Unpack

from klerk.errors import ArgumentError, ConfigError
from klerk.job_manager.retention import Retention
from klerk.klerk import Klerk
from klerk.observing import Telemetry
from klerk.opening import App, Durability
from klerk.places import here
from klerk.processing import utc_now
from klerk.testing.bench import Bench, Mode
from klerk.testing.virtual_clock import VirtualClock

__all__ = ["Opener", "bench_of", "clock_of", "open"]

_BENCHES: "weakref.WeakKeyDictionary[Klerk, Bench]" = weakref.WeakKeyDictionary()
_CLOCKS: "weakref.WeakKeyDictionary[Klerk, Callable[[], datetime]]" = weakref.WeakKeyDictionary()


class OpenOptions(TypedDict, total=False):
    """The options of `App.open` that a test may give, too; see there."""

    durability: Durability
    job_threads: int
    job_processes: int | None
    job_concurrency: int | None
    worker_tags: Collection[str]
    close_wait: timedelta
    job_retention: Retention | None
    queue_length_max: int
    token_ttl: timedelta
    unsafe: bool
    progress: bool | None
    telemetry: Telemetry | None


def open(  # noqa: A001 (klerk.testing.open)
    app: App,
    *,
    jobs: Mode = "manual",
    raises: bool = True,
    clock: Callable[[], datetime] | None = None,
    path: str | os.PathLike[str] | None = None,
    **options: Unpack[OpenOptions],
) -> Klerk:
    """Open an app for a test; use it with ``with``.

    Everything is as in production: the store's records, the transactions, timers and limits. Only where jobs
    run differs. A job that runs manually or inline receives its arguments as after a restart: encoded,
    decoded and made of the declared types. One that belongs into a process runs in the thread, too, and its
    worker has every tag.

    Parameters:
        jobs: ``"manual"``: when `drain` or `run_one` says; ``"inline"``: with the call that created them, in
            its thread, before it returns; so do those that they create. That holds for calls that wait for
            their outcome: `handle`, `handle_all`, `jobs.schedule`, and all of ``k.aio``, whose jobs run in
            another thread. Jobs that come to be otherwise, by `submit` or a timer, run with the next such
            call, or `drain`. ``"threads"``: as in production.
        raises: whether an inline call raises what made a job fail; the command took effect all the same.
        clock: gives the time, aware; None: a `VirtualClock` that starts at noon of 2030-01-01 UTC.
        path: of the store; None keeps everything in memory.
        options: see `App.open`.

    Raises:
        ConfigError, StorageError: as for `App.open`.
    """
    given: object = jobs
    if given not in ("manual", "inline", "threads"):
        raise ConfigError(
            "K017", f"jobs must be 'manual', 'inline' or 'threads', is {jobs!r}.", where=str(here())
        )
    if clock is None:
        clock = VirtualClock()
    bench = None if jobs == "threads" else Bench(is_inline=jobs == "inline", raises=raises)
    if bench is not None:
        every = frozenset[str]().union(*(job.settings.tags for job in app.jobs.values()))
        options.setdefault("worker_tags", every)
    k = app.open(path, clock=clock, workshop=bench, **options)
    if bench is not None:
        bench.opened(k)
        _BENCHES[k] = bench
    if isinstance(clock, VirtualClock):
        clock.attach(k)
    _CLOCKS[k] = clock
    return k


def bench_of(k: Klerk) -> Bench:
    """Return what runs the jobs of an opened app when the test says.

    Raises:
        ArgumentError: they run by themselves.
    """
    bench = _BENCHES.get(k)
    if bench is None:
        raise ArgumentError(
            f"the jobs of {k!r} run by themselves, so a test cannot run them",
            hint="Open the app with klerk.testing.open(app); or wait, with k.jobs.wait_until_idle().",
        )
    return bench


def clock_of(k: Klerk) -> VirtualClock:
    """Return the clock of an opened app.

    Raises:
        ArgumentError: it cannot be set.
    """
    clock = _CLOCKS.get(k)
    if not isinstance(clock, VirtualClock):
        raise ArgumentError(
            f"the clock of {k!r} is no VirtualClock, so a test cannot set it",
            hint="Open the app with klerk.testing.open(app), whose clock is one unless you give another.",
        )
    return clock


def time_of(k: Klerk) -> datetime:
    """Return the time by the clock of an opened app, as far as it is known here."""
    return _CLOCKS.get(k, utc_now)()


class Opener:
    """Opens apps for a test, and closes all of them together: the pytest fixture ``klerk_open``.

    Parameters:
        clock: that apps are opened with unless the call gives another.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._opened: list[Klerk] = []

    def __call__(
        self,
        app: App,
        *,
        jobs: Mode = "manual",
        raises: bool = True,
        clock: Callable[[], datetime] | None = None,
        path: str | os.PathLike[str] | None = None,
        **options: Unpack[OpenOptions],
    ) -> Klerk:
        """Open an app as `klerk.testing.open` does."""
        given = self._clock if clock is None else clock
        k = open(app, jobs=jobs, raises=raises, clock=given, path=path, **options)
        self._opened.append(k)
        return k

    def close(self) -> None:
        """Close what was opened, the newest first; whatever one of them raises, all are closed."""
        with ExitStack() as closing:
            for k in self._opened:
                closing.callback(k.close)
            self._opened.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""`App`: a design that can be opened, and what has to be closed when the process ends or forks."""

import atexit
import logging
import os
import sys
import weakref
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any, Literal

from klerk import limits
from klerk._waiting import ReadWriteLock
from klerk.app import Design, Spec
from klerk.clocks import checked_clock
from klerk.codec import read_catalog
from klerk.errors import ConfigError
from klerk.job_manager.crew import Workers
from klerk.job_manager.process_runs import check_importable
from klerk.job_manager.retention import DEFAULT, FOR_EVER, Retention
from klerk.klerk import Klerk
from klerk.log_events import about
from klerk.migration.schema import extended
from klerk.observing import Telemetry, Workshop
from klerk.places import here
from klerk.processing import Program, utc_now
from klerk.recovery import ProgressLine, Recovered, quiet, recover
from klerk.storage import MemoryStorage, RocksStorage, Storage
from klerk.storage.forks import leave_without_destructors
from klerk.workers.child import is_preparing

LOG = logging.getLogger("klerk")

Durability = Literal["sync", "process", "memory"]


def _check_options(
    path: Any,
    durability: str,
    workers: Workers,
    job_retention: Any,
    queue_length_max: int,
    token_ttl: Any,
) -> None:
    """Refuse options of `App.open` that cannot be meant.

    Raises:
        ConfigError: K017.
    """
    problem = ""
    if durability not in ("sync", "process", "memory"):
        problem = f"durability must be 'sync', 'process' or 'memory', is {durability!r}"
    elif durability == "memory" and path is not None:
        problem = "with durability 'memory' nothing is stored, so there can be no path"
    elif not 1 <= queue_length_max <= limits.TRANSACTION_COMMANDS_MAX:
        problem = f"queue_length_max must be 1 to {limits.TRANSACTION_COMMANDS_MAX}, is {queue_length_max}"
    elif not 0 <= workers.threads <= limits.JOB_THREADS_MAX:
        problem = f"job_threads must be 0 to {limits.JOB_THREADS_MAX}, is {workers.threads}"
    elif not 0 <= workers.processes <= limits.JOB_PROCESSES_MAX:
        problem = f"job_processes must be 0 to {limits.JOB_PROCESSES_MAX}, is {workers.processes}"
    elif workers.concurrency is not None and (
        type(workers.concurrency) is not int or not 1 <= workers.concurrency <= limits.JOB_CONCURRENCY_MAX
    ):
        problem = f"job_concurrency must be 1 to {limits.JOB_CONCURRENCY_MAX}, is {workers.concurrency!r}"
    elif not isinstance(job_retention, Retention) or job_retention.problem():
        wrong = job_retention.problem() if isinstance(job_retention, Retention) else f"is {job_retention!r}"
        problem = f"job_retention must be a klerk.Retention or None: {wrong}"
    elif not isinstance(token_ttl, timedelta) or not timedelta(0) < token_ttl <= timedelta(
        days=limits.TOKEN_DAYS_MAX
    ):
        problem = f"token_ttl must be over 0 and up to {limits.TOKEN_DAYS_MAX} days, is {token_ttl!r}"
    if problem:
        raise ConfigError("K017", f"{problem}.", where=str(here()))


def _workers(
    threads: int,
    processes: int | None,
    concurrency: int | None,
    tags: Collection[str],
    close_wait: timedelta,
    workshop: Workshop | None,
) -> Workers:
    """Return who is to run jobs.

    Raises:
        ConfigError: K017.
    """
    problem = ""
    given: object = tags
    given_wait: object = close_wait
    longest = timedelta(seconds=limits.CLOSE_WAIT_S_MAX)
    if isinstance(given, str) or not isinstance(given, Collection):
        problem = f"worker_tags must be a collection of texts, as in {{'gpu'}}, are {tags!r}"
    elif not all(isinstance(tag, str) for tag in given):
        problem = f"worker_tags must be texts, are {tags!r}"
    elif not isinstance(given_wait, timedelta) or not timedelta(0) <= given_wait <= longest:
        problem = f"close_wait must be a timedelta of 0 to {longest}, is {close_wait!r}"
    if problem:
        raise ConfigError("K017", f"{problem}.", where=str(here()))
    if processes is None:
        processes = min(limits.JOB_PROCESSES, os.cpu_count() or 1)
    return Workers(
        threads=threads,
        processes=processes,
        concurrency=concurrency,
        tags=frozenset(tags),
        close_wait=close_wait,
        make=None if workshop is None else workshop.executor,
    )


def _refuse_worker_process() -> None:
    """Refuse to open an app while a worker process imports what it is to run.

    Raises:
        ConfigError: K076.
    """
    if is_preparing():
        raise ConfigError(
            "K076",
            "an app was opened by importing its module in a worker process.",
            where=str(here()),
            hint='Open it in a function, or under `if __name__ == "__main__":`.',
        )


class App(Design):
    """A design that can be opened.

    Parameters:
        name: kept in the store, which refuses to be opened by an app of another name.
    """

    def open(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        durability: Durability = "sync",
        clock: Callable[[], datetime] | None = None,
        job_threads: int = limits.JOB_THREADS,
        job_processes: int | None = None,
        job_concurrency: int | None = None,
        worker_tags: Collection[str] = (),
        close_wait: timedelta = timedelta(seconds=limits.CLOSE_WAIT_S),
        job_retention: Retention | None = DEFAULT,
        queue_length_max: int = limits.QUEUE_LENGTH_MAX,
        token_ttl: timedelta = timedelta(days=limits.TOKEN_DAYS),
        unsafe: bool = False,
        progress: bool | None = None,
        telemetry: Telemetry | None = None,
        workshop: Workshop | None = None,
    ) -> Klerk:
        """Check the design, open the store (made when there is none) and start working.

        Parameters:
            path: of the store, a directory; None keeps everything in memory.
            durability: ``"sync"`` survives a power cut, ``"process"`` a killed process, ``"memory"`` nothing.
            clock: gives the time, aware; for tests.
            job_threads: threads for plain job functions; 0 runs no jobs.
            job_processes: processes, at most, for jobs that run in them, each started when there is a job for
                it; None: one for each processor, up to `limits.JOB_PROCESSES`.
            job_concurrency: jobs that run at once, of all sorts; None: as many as there are workers.
            worker_tags: what all workers here have: jobs that ask for other tags wait.
            close_wait: how long `Klerk.close` lets running jobs go on before it asks them to stop.
            job_retention: how long jobs are kept that have ended; None: for ever.
            queue_length_max: commands that may wait; whoever comes then waits for room.
            token_ttl: how long used tokens are known, and unused ones accepted.
            unsafe: offer `Klerk.unsafe`, which asks neither state machines nor rules.
            progress: show progress of loading that takes over a second; None: when stderr is a terminal.
            telemetry: sees every command and job, as `klerk.telemetry.OpenTelemetry` does.
            workshop: makes what runs jobs; None: Klerk's own threads, event loop and processes.

        Raises:
            ConfigError: the design is wrong.
            StorageError: the store cannot be used; its subclasses say why.
        """
        job_retention = FOR_EVER if job_retention is None else job_retention
        spec = self._complete()
        clock = utc_now if clock is None else checked_clock(clock)
        lock = ReadWriteLock()
        workers = _workers(job_threads, job_processes, job_concurrency, worker_tags, close_wait, workshop)
        _check_options(path, durability, workers, job_retention, queue_length_max, token_ttl)
        storage = _storage(self.name, path, durability)
        try:
            recovered = _recovered(storage, spec, clock, lock, progress)
            opened = Klerk(
                spec,
                storage,
                recovered,
                lock,
                clock=clock,
                workers=workers,
                job_retention=job_retention,
                queue_length_max=queue_length_max,
                token_ttl=token_ttl,
                unsafe=unsafe,
                telemetry=telemetry,
                workshop=workshop,
            )
        except BaseException:
            storage.close()
            raise
        return _started(opened, self.name, unsafe=unsafe)

    def _complete(self) -> Spec:
        """Return the checked design, of which every job can run where it is to run.

        Raises:
            ConfigError: it is wrong, or a worker process opens it.
        """
        _refuse_worker_process()
        self.check_system_context()
        spec = self.freeze()
        check_importable(spec.jobs.values())
        # Everything that can be wrong with the design is found before a store is touched.
        Program(spec, extended(read_catalog(None), spec), utc_now, ReadWriteLock())
        return spec


def _storage(name: str, path: str | os.PathLike[str] | None, durability: Durability) -> Storage:
    if path is None or durability == "memory":
        return MemoryStorage()
    return RocksStorage.open(path, app=name, durability=durability)


def _recovered(
    storage: Storage,
    spec: Spec,
    clock: Callable[[], datetime],
    lock: ReadWriteLock,
    progress: bool | None,
) -> Recovered:
    """Return what a store holds; see `App.open` for `progress`."""
    line = ProgressLine() if progress or (progress is None and sys.stderr.isatty()) else None
    try:
        return recover(storage, spec, clock, lock, quiet if line is None else line)
    finally:
        if line is not None:
            line.finish()


# Threads inside RocksDB at the end of the interpreter abort it, so what was left open is closed before.
_OPEN: "weakref.WeakSet[Klerk]" = weakref.WeakSet()


def _started(opened: Klerk, name: str, *, unsafe: bool) -> Klerk:
    if unsafe:
        LOG.warning(
            "'%s' is open for unsafe changes, which ask neither state machines nor rules",
            name,
            extra=about("opened_unsafe", app=name),
        )
    _OPEN.add(opened)
    try:
        opened.start()
    except BaseException:
        opened.close()
        raise
    return opened


def _close_all() -> None:
    for each in list(_OPEN):
        # Who still reads now will never end it.
        each.close_at_exit()


def _after_fork() -> None:
    # The child has none of the threads; its copy must neither wait for them nor write.
    for each in list(_OPEN):
        each.disown()
    if _OPEN:
        leave_without_destructors()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

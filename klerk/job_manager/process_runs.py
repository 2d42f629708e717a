"""The side of the parent while a job runs in a worker process: it does what the job's function asks for.

One thread serves one job, and everything happens in that thread; so a read lock is held as it would be if the
function ran here.
"""

import asyncio
import inspect
import itertools
import pickle
import sys
from collections.abc import Iterable
from typing import Any, Final

from klerk.app import Spec
from klerk.commands import Result
from klerk.errors import ArgumentError, ConfigError, JobCrashed, JobError
from klerk.job_manager.remote_run import find_job
from klerk.job_manager.wire import Name, Names, Wire, stays_in_parent
from klerk.job_run import JobRun
from klerk.jobs import Job
from klerk.places import place_of
from klerk.running_job import RunningJob
from klerk.workers import WorkerProcess, child

PERFORM: Final = "klerk.job_manager.remote_run", "perform"
KNOWN_OF_RUN: Final = ("id", "attempt")
KNOWN_OF_RESULT: Final = ("id", "sequence", "repeated")
"""What never changes and is sent at once; the rest is asked for."""


def check_importable(jobs: Iterable[Job[Any]]) -> None:
    """Refuse jobs that are to run in a process which would not find their functions.

    Raises:
        ConfigError: K075.
    """
    for job in jobs:
        if job.pool != "process":
            continue
        function = job.function
        try:
            found = find_job(function.__module__, function.__qualname__)
        except ArgumentError:
            found = None
        if found is not job or not _has_file(function.__module__):
            raise ConfigError(
                "K075",
                f"job '{job.name}' runs in a process, which cannot import it as "
                f"'{function.__qualname__}' from '{function.__module__}'.",
                where=str(place_of(function)),
                hint="Declare it at the top of a module that has a file, not inside of a function.",
            )


def _has_file(module: str) -> bool:
    """Return whether a new process can import a module; `__main__` may be an interactive session."""
    main = sys.modules.get("__main__")
    return module != "__main__" or hasattr(main, "__file__") or getattr(main, "__spec__", None) is not None


class ProcessRuns:
    """Runs jobs in worker processes.

    Parameters:
        spec: what is declared.
    """

    def __init__(self, spec: Spec) -> None:
        self._jobs = spec.jobs
        machines = {each.machine.model_class: each.machine for each in spec.machines}
        self._names = Names(machines, spec.jobs)
        declaring = {event.event.function.__module__ for event in spec.events}
        declaring |= {cls.__module__ for cls in machines}
        declaring |= {job.function.__module__ for job in spec.jobs.values()}
        # In the order in which they were imported here.
        self._tickets = itertools.count(1)
        self._modules = tuple(module for module in sys.modules if module in declaring)

    def call(self, run: RunningJob, worker: WorkerProcess) -> Any:
        """Run a job's function in a worker process and return what it returned, or raise what it raised.

        Raises:
            JobCrashed: the worker process died.
            JobError: it cannot be started.
            ArgumentError: something cannot be sent.
        """
        served = Served(run, self._names, next(self._tickets))
        job = self._jobs[run.record.kind]
        function, gives_signs = job.function, job.settings.heartbeat is not None
        known = {name: getattr(run, name) for name in KNOWN_OF_RUN}
        begun = served.wire.dumps("its arguments", (run.record.arguments, known, served.ticket, gives_signs))
        payload = pickle.dumps((self._modules, function.__module__, function.__qualname__, begun))
        run.is_beginning = True
        try:
            worker.begin(*PERFORM, payload)
            while True:
                kind, number, message = worker.receive()
                if kind == child.ENDED:
                    return served.outcome(message)
                reply = served.done(message)
                if kind == child.ASK:
                    worker.reply(number, reply)
        except JobCrashed:
            served.end()
            raise


class Served:
    """What the function of one job in a worker process uses of this process.

    Parameters:
        run: the job.
        names: what is declared.
        ticket: that comes with whatever the function asks for.
    """

    def __init__(self, run: RunningJob, names: Names, ticket: int) -> None:
        self._run = run
        self.ticket = ticket
        self._lent: dict[int, Any] = {0: JobRun(run)}
        self._number = 0
        self._entered: list[Any] = []
        self.wire = Wire(names, self._lend, self._take_back)

    def _lend(self, value: Any) -> Name | None:
        if not stays_in_parent(value):
            return None
        self._number += 1
        self._lent[self._number] = value
        known = {}
        if isinstance(value, Result):
            known = {name: getattr(value, name) for name in KNOWN_OF_RESULT}
        return "lent", self._number, type(value), known

    def _take_back(self, name: Name) -> Any:
        return self._lent[name[1]]

    def done(self, message: bytes) -> bytes:
        """Do what was asked for, and return what came of it."""
        what = ""
        try:
            ticket, verb, number, what, arguments, released = self.wire.loads(message)
            if ticket != self.ticket:
                raise JobError(
                    "the attempt is over",
                    hint="Threads and tasks that a job starts must end before its function does.",
                )
            self._run.gave_sign()
            value = self._do(self._lent[number], verb, what, arguments)
            reply = b"=" + self.wire.dumps(f"what {what} returned", value)
            for each in released:
                self._lent.pop(each, None)
        except BaseException as error:
            return b"!" + self.wire.dumps_error(error)
        return reply

    def _do(self, target: Any, verb: str, name: str, arguments: tuple[Any, ...]) -> Any:
        if verb == "get":
            return getattr(target, name)
        if verb == "begun":
            self._run.function_begins()
            return None
        values, named = arguments
        found = getattr(target, name)(*values, **named)
        if name == "__enter__":
            self._entered.append(target)
            return None if found is target else found
        if name == "__exit__":
            self._entered.remove(target)
        return asyncio.run(found) if inspect.iscoroutine(found) else found

    def outcome(self, message: bytes) -> Any:
        """Return what the function returned, or raise what it raised."""
        if message[:1] == b"!":
            raise self.wire.loads_error(message[1:])
        return self.wire.loads(message[1:])

    def end(self) -> None:
        """End the reads that a function began which cannot end them any more."""
        for each in reversed(self._entered):
            each.__exit__(None, None, None)

"""The side of a job in a worker process: its function, and the `JobRun` that it receives there.

What the function asks of its `JobRun`, of a reader or of a result is asked of the real one in the parent, by
its name, in general: whatever those classes offer is offered here.
"""

import asyncio
import inspect
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from operator import attrgetter
from typing import Any, Final, NoReturn

from klerk.commands import Command
from klerk.errors import ArgumentError
from klerk.job_manager.tracebacks import trace_of, whole_text
from klerk.job_manager.undone import require_done
from klerk.job_manager.wire import Name, Names, Wire
from klerk.job_outcomes import SEVERAL, Completion
from klerk.job_run import JobRun
from klerk.jobs import Job
from klerk.workers import child
from klerk.workers.child import Channel

UNANSWERED: Final = frozenset({"log", "_advance"})
"""Calls that are told and not asked: they return nothing, and come often."""

SOON: Final = "_async"
"""How the coroutine twin of a call is called: here another thread waits, so both ask the same."""


class Parent:
    """What a worker process asks of its parent.

    Parameters:
        channel: to it.
        names: what is declared.

    Attributes:
        ticket: tells the parent on behalf of which attempt it is asked.
        gives_signs: the job must not be silent for too long.
    """

    def __init__(self, channel: Channel, names: Names) -> None:
        self.channel = channel
        self.ticket = 0
        self.gives_signs = False
        self.wire = Wire(names, self._name_of, self._borrowed)
        # Appended to by whichever thread a borrowed object dies in, so nothing else may be done there.
        self.released: list[int] = []

    def _name_of(self, value: Any) -> Name | None:
        return ("lent", value._number) if isinstance(value, Borrowed) else None

    def _borrowed(self, name: Name) -> Any:
        _, number, cls, known = name
        return Borrowed(self, number, cls, known)

    def _message(self, what: str, *request: Any) -> bytes:
        released = []
        while self.released:
            released.append(self.released.pop())
        return self.wire.dumps(f"what {what} is given", (self.ticket, *request, released))

    def ask(self, verb: str, number: int, name: str, *arguments: Any) -> Any:
        """Have something done with what has a number, and return what came of it, or raise it."""
        payload = self._message(name, verb, number, name, arguments)
        reply = self.channel.ask(payload)
        if reply[:1] == b"!":
            raise self.wire.loads_error(reply[1:])
        return self.wire.loads(reply[1:])

    def tell(self, verb: str, number: int, name: str, *arguments: Any) -> None:
        """Have something done with what has a number, without waiting for it."""
        self.channel.send(child.TELL, self._message(name, verb, number, name, arguments))


class Borrowed:
    """Stands for an object in the parent: its methods and attributes are those of that object.

    Parameters:
        parent: who has it.
        number: by which the parent knows it.
        cls: of the object.
        known: those of its attributes that need not be asked for.
    """

    def __init__(self, parent: Parent, number: int, cls: type, known: dict[str, Any]) -> None:
        self.__dict__.update(_parent=parent, _number=number, _class=cls, _known=known)

    def __getattr__(self, name: str) -> Any:
        if name in self._known:
            return self._known[name]
        found = inspect.getattr_static(self._class, name, None)
        if inspect.isgeneratorfunction(found):
            return partial(found, self)
        if inspect.iscoroutinefunction(found):
            return partial(self._call_soon, name.removesuffix(SOON))
        if callable(found):
            return partial(self._call, name)
        return self._parent.ask("get", self._number, name)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{name} of {self!r} cannot be set")

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        return self._parent.ask("call", self._number, name, arguments, named)

    async def _call_soon(self, name: str, *arguments: Any, **named: Any) -> Any:
        return await asyncio.to_thread(self._call, name, *arguments, **named)

    def __enter__(self) -> Any:
        entered = self._call("__enter__")
        return self if entered is None else entered

    def __exit__(self, *error: object) -> None:
        # Why it ends is nothing to a reader, and cannot always be sent.
        self._call("__exit__", None, None, None)

    async def __aenter__(self) -> Any:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.__exit__)

    def __repr__(self) -> str:
        return f"<{self._class.__name__} in the parent process>"

    def __del__(self) -> None:
        if self._number:
            self._parent.released.append(self._number)


class RemoteRun(Borrowed):
    """The `JobRun` that a function receives in a worker process."""

    def __init__(self, parent: Parent, known: dict[str, Any]) -> None:
        super().__init__(parent, 0, JobRun, known)
        self.__dict__["_completion"] = None

    @property
    def cancelled(self) -> bool:
        """Whether the job was asked to stop."""
        asked: bool = self._parent.channel.is_cancelled
        return asked

    def check_cancelled(self) -> None:
        """Raise `JobCancelled` or `JobTimeout` when the job was asked to stop."""
        if self._parent.channel.is_cancelled:
            self._call("check_cancelled")
        elif self._parent.gives_signs:
            self._parent.tell("call", self._number, "heartbeat", (), {})

    def heartbeat(self) -> None:
        """See `JobRun.heartbeat`."""
        self.check_cancelled()

    def complete_with(self, *commands: Command[Any]) -> Completion:
        """See `JobRun.complete_with`."""
        completion = Completion(commands)
        self.__dict__["_completion"] = completion if self._completion is None else SEVERAL
        return completion

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        if name not in UNANSWERED:
            return super()._call(name, *arguments, **named)
        return self._parent.tell("call", self._number, name, arguments, named)


def find_job(module: str, name: str) -> Job[Any]:
    """Return the job that a module declares under a name, perhaps one with dots.

    Raises:
        ArgumentError: there is none, in this process.
    """
    try:
        found = attrgetter(name)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise ArgumentError(f"a worker process finds no {name} in {module}: {error}") from error
    if not isinstance(found, Job):
        raise ArgumentError(f"{name} in {module} is no job in a worker process, but {found!r}")
    return found


def _found(modules: tuple[str, ...], module: str, name: str) -> Job[Any]:
    """Import what declares the whole design, so that it is the same here, and return a job of it."""
    for each in modules:
        # One that cannot be imported here may never be needed; when it is, the error names what is missing.
        with suppress(ImportError):
            import_module(each)
    return find_job(module, name)


def perform(payload: bytes, channel: Channel) -> bytes:
    """Run a job and return how it ended; see `process_runs`, which calls this in a worker process."""
    wire: Wire | None = None
    module = ""
    try:
        modules, module, name, begun = pickle.loads(payload)
        job: Job[Any] = child.prepared(lambda: _found(modules, module, name))
        # Views that the function makes are its own, and nothing declared: they are sent as what they are.
        job.design.is_complete = True
        parent = Parent(channel, Names(job.design.machines, job.design.jobs))
        wire = parent.wire
        arguments, known, parent.ticket, parent.gives_signs = wire.loads(begun)
        if job.settings.timeout is not None or job.settings.heartbeat is not None:
            # Its time counts from here: this process may just have been started.
            parent.tell("begun", 0, "its function")
        run = RemoteRun(parent, known)
        returned = _called(job.function, run, arguments)
        # Before it is sent: the parent gets a copy of it, and some of it cannot be sent.
        require_done(job, run._completion, returned)
        return b"=" + wire.dumps(f"what job '{job.name}' returned", returned)
    except BaseException as error:
        sender = wire or Wire(Names({}, {}), lambda value: None, lambda name: None)
        return b"!" + sender.dumps_error(error, (trace_of(error, module), whole_text(error)))


def _called(function: Callable[..., Any], run: RemoteRun, arguments: tuple[Any, ...]) -> Any:
    if inspect.iscoroutinefunction(function):
        return asyncio.run(function(run, *arguments))
    return function(run, *arguments)

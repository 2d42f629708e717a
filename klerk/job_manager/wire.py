"""What jobs and their worker processes say to each other, as bytes.

Values, models, commands and errors are pickled. What both sides declare (machines, states, events, indexes,
views, jobs) is sent by name; what only the parent has (a reader, a result) as a number that stands for it.
"""

import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import NoneType
from typing import Any, Final

from klerk._core import Outcome
from klerk._dispatch import Command
from klerk.errors import ArgumentError, KlerkError
from klerk.job_failures import UnsentError, names_of
from klerk.job_manager.tracebacks import RemoteTraceback, Trace
from klerk.job_manager.verdicts import text_of
from klerk.jobs import Job
from klerk.machine import CreateEvent, Event, Machine, State
from klerk.reading.reading import Reading
from klerk.selections import FilteredView, Index, OrderedView, StatesView, View

Name = tuple[Any, ...]
"""What stands for something that is not sent: its sort, and how it is found."""

Unsendable = (pickle.PicklingError, TypeError, AttributeError, RecursionError)
"""What pickle raises for what it cannot take; it has no class of its own for that."""


_DECLARED: Final = (View, CreateEvent, Event, Index, Job)
_PLAIN: Final = frozenset({int, str, float, bytes, bool, NoneType, tuple, list, dict, frozenset, datetime})


class Names:
    """What a design declares, by name.

    Parameters:
        machines: by model class. In a worker process, some may come later, with the modules they stand in.
        jobs: by name.
    """

    def __init__(self, machines: Mapping[Any, Machine[Any]], jobs: Mapping[str, Job[Any]]) -> None:
        self._machines = machines
        self._jobs = jobs

    def _machine(self, name: str) -> Machine[Any]:
        return next(machine for machine in self._machines.values() if machine.name == name)

    def of(self, thing: object) -> Name | None:
        """Return the name of something that is declared; None for anything else."""
        if isinstance(thing, View):
            return self._of_view(thing)
        if isinstance(thing, CreateEvent | Event):
            return "event", thing.machine.name, thing.name
        if isinstance(thing, Index):
            owner = self._machine(thing.machine.name)
            return "index", owner.name, _place(owner.indexes, thing), repr(thing)
        if isinstance(thing, Job):
            return "job", thing.name
        return None

    def _of_view(self, view: View[Any]) -> Name | None:
        if isinstance(view, Machine):
            return "machine", view.name
        if isinstance(view, State):
            return "state", view.machine.name, view.index
        place = _place(view.machine.views, view) if view.is_kept else -1
        return None if place < 0 else ("view", view.machine.name, place, repr(view))

    def find(self, name: Name) -> Any:
        """Return what has a name.

        Raises:
            ArgumentError: nothing has; the two sides do not declare the same.
        """
        try:
            return self._find(*name)
        except (KeyError, IndexError, StopIteration):
            raise ArgumentError(
                f"a worker process and its parent do not both declare {' '.join(map(str, name))}",
                hint="Declare it at the top of a module, whatever process imports that.",
            ) from None

    def _find(self, sort: str, owner: str, which: Any = None, shown: str = "") -> Any:
        if sort == "job":
            return self._jobs[owner]
        machine = self._machine(owner)
        if sort == "machine":
            return machine
        if sort == "event":
            return next(event for event in machine.events if event.name == which)
        if sort == "state":
            return machine.all_states[which]
        return _at_place(machine.indexes if sort == "index" else machine.views, which, shown)


def _place(things: Sequence[object], thing: object) -> int:
    """Return where something is among others; -1: it is not."""
    return next((place for place, each in enumerate(things) if each is thing), -1)


def _at_place(things: Sequence[object], place: int, shown: str) -> Any:
    """Return what stands at a place and is shown so; or else, since modules that were imported in another
    order make other places, the only one that is shown so.

    Raises:
        KeyError: there is none.
    """
    if 0 <= place < len(things) and repr(things[place]) == shown:
        return things[place]
    found = [each for each in things if repr(each) == shown]
    if len(found) != 1:
        raise KeyError(shown)
    return found[0]


class Wire:
    """Turns what one side means into bytes, and bytes into what the other side understands.

    Parameters:
        names: what is declared on this side.
        lend: gives the name of what stays on this side; None for what does not.
        borrow: finds what such a name stands for, or makes what stands for it.
    """

    def __init__(
        self, names: Names, lend: Callable[[Any], Name | None], borrow: Callable[[Name], Any]
    ) -> None:
        self.names = names
        self.lend = lend
        self.borrow = borrow

    def dumps(self, what: str, value: Any) -> bytes:
        """Return a value as bytes.

        Parameters:
            what: it is, for the error.

        Raises:
            ArgumentError: it cannot be sent.
        """
        buffer = io.BytesIO()
        try:
            _Pickler(buffer, self).dump(value)
        except Unsendable as error:
            raise ArgumentError(
                f"{what} cannot be sent between a job's process and its parent: {error}",
                hint="Values can, models, and what is declared at the top of a module, as functions are.",
            ) from error
        return buffer.getvalue()

    def loads(self, payload: bytes) -> Any:
        """Return what the other side's `dumps` was given."""
        return _Unpickler(io.BytesIO(payload), self).load()

    def dumps_error(self, error: BaseException, came_from: tuple[Trace, str] | None = None) -> bytes:
        """Return an error as bytes, whatever it is.

        Parameters:
            came_from: where it was raised, for the job and with all frames; None: here nobody asks for that.
        """
        try:
            pickled = self.dumps("an error", error)
        except BaseException:
            # Its own functions are called to take it apart, and may raise whatever they like.
            pickled = b""
        return pickle.dumps((pickled, text_of(error), names_of(error), came_from))

    def loads_error(self, payload: bytes) -> BaseException:
        """Return the error that the other side's `dumps_error` was given; an `UnsentError` when it is one
        that cannot be sent."""
        pickled, text, names, came_from = pickle.loads(payload)
        error: BaseException = UnsentError(text, names=names)
        if pickled:
            try:
                made = self.loads(pickled)
            except BaseException as fault:
                error.add_note(f"It could not be made here: {text_of(fault)}")
            else:
                error = made if isinstance(made, BaseException) else error
        if came_from is not None:
            error.__cause__ = RemoteTraceback(*came_from)
        return error


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, wire: Wire) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._wire = wire

    def persistent_id(self, value: Any) -> Name | None:
        if type(value) in _PLAIN:
            return None
        if isinstance(value, _DECLARED):
            return self._wire.names.of(value)
        return self._wire.lend(value)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Command):
            target = () if value.target is None else (value.target,)
            return _command, (value.event, (*target, *value.values))
        if isinstance(value, KlerkError):
            return _error, (type(value), value.args, value.__dict__)
        if isinstance(value, StatesView):
            return _in_states, (value.base, value.states)
        if isinstance(value, FilteredView):
            return _filtered, (value.base, value.condition, repr(value).rpartition(".")[2])
        if isinstance(value, OrderedView):
            return _ordered, (value.base, value.keys, value.descending)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, wire: Wire) -> None:
        super().__init__(file)
        self._wire = wire

    def persistent_load(self, name: Name) -> Any:
        return self._wire.borrow(name) if name[0] == "lent" else self._wire.names.find(name)


def _command(event: Any, values: tuple[Any, ...]) -> Command[Any]:
    command: Command[Any] = event(*values)
    return command


def _error(cls: type[KlerkError], args: tuple[Any, ...], state: dict[str, Any]) -> KlerkError:
    """Return an error without calling its own constructor, which may want other arguments."""
    new: Any = OSError.__new__ if issubclass(cls, OSError) else Exception.__new__
    error: KlerkError = new(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _in_states(base: View[Any], states: tuple[State[Any], ...]) -> View[Any]:
    view: View[Any] = StatesView(base, states)
    view.is_kept = False
    return view


def _filtered(base: View[Any], condition: Any, suffix: str) -> View[Any]:
    return base.narrowed(condition, suffix)


def _ordered(base: View[Any], keys: tuple[Any, ...], descending: bool) -> View[Any]:
    ordered = OrderedView(base, keys, descending=descending)
    ordered.is_kept = False
    return ordered


def stays_in_parent(value: Any) -> bool:
    """Return whether something is of use only in the process that has the store."""
    return isinstance(value, Reading | Outcome) or hasattr(type(value), "__enter__")

"""What is probably not meant in a design that works: shown by ``python -m klerk check app.py``.

Only declarations are read and no function is called. What code outside of the design does is not known here.
"""

import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from klerk._dispatch import EventBase
from klerk.app import MachineSpec, Spec
from klerk.authorization import COMMAND, FIELD, READ
from klerk.blocks import Block
from klerk.checks import transitions
from klerk.choices import targets_of
from klerk.declared import TO_WHEN
from klerk.job_names import nearest
from klerk.job_options import DEFAULT_QUEUE
from klerk.jobs import Job
from klerk.machine import CreateEvent, Machine
from klerk.visibility import Visibility

# Two letters that changed places in a word of four; what is less like another name may well be meant.
_LIKENESS: Final = 0.75


def design_advice(spec: Spec) -> list[str]:
    """Return what is worth a second look, each with the line where it was declared."""
    found: list[str] = []
    mentioned = _Mentioned(_functions(spec))
    for each in spec.machines:
        found += _about_reading(spec, each)
        found += _about_states(each.machine)
        found += _about_events(spec, each.machine, mentioned)
    found += _about_references(spec)
    return [*found, *_about_queues(spec, mentioned)]


def _about_reading(spec: Spec, each: MachineSpec) -> Iterator[str]:
    cls, place = each.machine.model_class, each.machine.place
    if not any(rule.subject == READ and rule.covers(cls) for rule in spec.allow.all):
        yield f"nobody may read {cls.__name__}: no allow rule about reading covers it.\n  {place}"
        return
    hidden = [
        name
        for name, field in each.fields.items()
        if not any(
            rule.subject == FIELD and rule.covers_field(cls, name, field.tags) for rule in spec.allow.all
        )
    ]
    if hidden:
        names = "every field" if len(hidden) == len(each.fields) else ", ".join(hidden)
        yield f"of {cls.__name__} nobody may read {names}: no allow rule about fields covers it.\n  {place}"


def _about_states(machine: Machine[Any]) -> Iterator[str]:
    """Name states that no model is ever in: where there is no transition at all, this is no error yet."""
    reached = {target for _, target, _ in transitions(machine)}
    for state in machine.all_states:
        if state not in reached:
            yield f"no model is ever in the state {state!r}: nothing leads there.\n  {state.place}"


def _about_events(spec: Spec, machine: Machine[Any], mentioned: "_Mentioned") -> Iterator[str]:
    """Name events that nothing can cause, and those that are offered to the outside in vain."""
    offered = []
    for event in machine.events:
        is_allowed = any(rule.subject == COMMAND and rule.covers(event) for rule in spec.allow.all)
        if event.visibility is Visibility.EXTERNAL:
            offered += [] if is_allowed else [event]
        elif event not in mentioned and not (is_allowed and event.visibility is Visibility.CODE):
            yield f"nothing in the design causes {event!r}, and nobody else may.\n  {event.place}"
    if offered:
        names = ", ".join(event.name for event in offered)
        yield (
            f"of the events of {machine.name} nobody from outside may cause {names}: no allow rule about"
            f" commands covers that. If that is meant, say so: visibility=klerk.Visibility.CODE, or less.\n"
            f"  {offered[0].place}"
        )


def _about_references(spec: Spec) -> Iterator[str]:
    """Name the references that the outside may point to any model, though models differ in their states."""
    with_states = {each.machine.model_class for each in spec.machines if len(each.machine.all_states) > 1}
    for each in spec.events:
        event = each.event
        if event.visibility is not Visibility.EXTERNAL:
            continue
        decided = {choice.parameter for choice in event.choices}
        for rule in (*event.rules, *event.validators):
            decided.update(inspect.signature(rule.function).parameters)
        for name, field in each.parameters.items():
            targets = sorted(cls.__name__ for cls in targets_of(field) & with_states)
            if targets and name not in decided:
                yield (
                    f"any {' or '.join(targets)} may be given for '{name}' of {event!r}, in whatever state:"
                    f" say which with {event.name}.valid({name}=...), or let a rule decide.\n  {event.place}"
                )


def _about_queues(spec: Spec, mentioned: "_Mentioned") -> Iterator[str]:
    """Name queues that nothing is in, and those that are only like one: what is misspelt has no limits."""
    used = {job.settings.queue for job in spec.jobs.values()}
    for name, queue in spec.queues.items():
        if name not in used and name not in mentioned.texts:
            named = ", ".join(sorted(used)) or "no jobs"
            yield f"no job is in the queue '{name}' that is declared; jobs are in: {named}.\n  {queue.place}"
    declared = [name for name, queue in spec.queues.items() if queue.place is not None and name in used]
    for job in spec.jobs.values():
        name = job.settings.queue
        meant = "" if name in declared or name == DEFAULT_QUEUE else nearest(name, declared, _LIKENESS)
        if meant:
            yield (
                f"the queue '{name}' of the job '{job.name}' has no limits, for nothing declares it: did you"
                f" mean '{meant}'?\n  {job.place}"
            )


def _blocks(machine: Machine[Any]) -> Iterator[Block[Any]]:
    for event in machine.events:
        yield from [event.block] if isinstance(event, CreateEvent) else event.blocks.values()
    for state in machine.all_states:
        yield from (state.on_enter, state.on_exit, *(trigger.block for trigger in state.triggers))


def _functions(spec: Spec) -> Iterator[Callable[..., Any]]:
    """Yield the functions of blocks and jobs, and the conditions in between."""
    for job in spec.jobs.values():
        yield job.function
    for each in spec.machines:
        for block in _blocks(each.machine):
            for executable in block.executables:
                if executable.function is not None:
                    yield executable.function
                if executable.kind == TO_WHEN:
                    yield from (condition for condition, _ in executable.value[0])


class _Mentioned:
    """The events and jobs that functions, and functions that they call, name in their code.

    Attributes:
        texts: that stand in it.
    """

    def __init__(self, functions: Iterable[Callable[..., Any]]) -> None:
        self._objects: list[Any] = []
        self._names: set[str] = set()
        self.texts: set[str] = set()
        todo, known = list(functions), set()
        while todo:
            function = todo.pop()
            if isinstance(function, types.MethodType):
                function = function.__func__
            # Functions that one function made share their code, and each has its own closure.
            if not isinstance(function, types.FunctionType) or function in known:
                continue
            known.add(function)
            names = set(_names(function.__code__))
            values = [function.__globals__[name] for name in names if name in function.__globals__]
            values += [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
            self._names |= names
            self.texts.update(_texts(function.__code__))
            self._objects += [value for value in values if isinstance(value, (EventBase, Job))]
            todo += [value for value in values if callable(value)]

    def __contains__(self, what: Any) -> bool:
        # An attribute, as in `shop.lend`, is known by its name only.
        return what.name in self._names or any(what is each for each in self._objects)


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the names of globals and attributes in a function's code, and in the functions inside of it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _texts(code: types.CodeType) -> Iterator[str]:
    """Yield the texts in a function's code, and in the functions inside of it."""
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, types.CodeType):
            yield from _texts(constant)


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False

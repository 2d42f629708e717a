"""A design as text, from the whole to its parts: ``python -m klerk show app.py``.

For each model what it holds, what may happen to it in which state, what is checked, who may do and read it;
then the queues and jobs. Only declarations are read: functions are told by their names and docstrings and
never called.
"""

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from klerk.app import EventSpec, MachineSpec, Spec
from klerk.authorization import BLOB, COMMAND, FIELD, JOBS, KV, READ, Permission
from klerk.blocks import Block
from klerk.declared import DeclaredChoice, DeclaredRule
from klerk.field_types import FieldType
from klerk.jobs import Job, Parameter
from klerk.machine import CreateEvent, Machine, State
from klerk.places import place_of
from klerk.selections import DerivedView, FilteredView, OrderedView, StatesView, View
from klerk.showing.diagram import effects_of, exits_of, trigger_text
from klerk.showing.job_wording import job_rows, queue_rows
from klerk.showing.wording import (
    bounds_text,
    function_text,
    key_text,
    meaning_of,
    paragraph,
    shortened,
)
from klerk.type_names import type_name
from klerk.visibility import Visibility

_INDENT: Final = "  "

_NOBODY_DOES: Final = "only by jobs, timers and other commands: no allow rule covers it"
_VISIBILITIES: Final = {
    Visibility.INTERNAL: "caused by blocks of this machine alone",
    Visibility.MACHINES: "caused by blocks of machines alone",
    Visibility.CODE: "caused by code of the application, not offered to the outside",
}
_NOBODY_READS: Final = "only by jobs: no allow rule covers it"


def describe(spec: Spec) -> str:
    """Return the whole design as text, of lines that end anywhere: nothing is cut to a width."""
    lines = [f"{spec.name}: {summary(spec)}"]
    for each in spec.machines:
        lines += ["", *_machine_lines(spec, each)]
    if queues := list(queue_rows(spec)):
        lines += ["", "QUEUES of jobs", *_indented(_columns(queues))]
    for job in spec.jobs.values():
        lines += ["", *_job_lines(spec, job)]
    if keys := list(_key_rows(spec)):
        lines += ["", "KEYS of key-values and blobs", *_indented(_columns(keys))]
    if by_hand := list(_by_hand_rows(spec)):
        lines += ["", "WHO may do what to jobs", *_indented(_columns(by_hand))]
    if spec.allow.all or spec.deny.all:
        lines += ["", "WHO may do and read what", *_indented(_permission_lines(spec))]
    return "\n".join(lines)


def summary(spec: Spec) -> str:
    """Return how many of everything there are."""
    states = [state for each in spec.machines for state in each.machine.all_states]
    counts = {
        "model": len(spec.machines),
        "state": len(states),
        "event": len(spec.events),
        "timer": sum(len(state.triggers) for state in states),
        "job": len(spec.jobs),
    }
    return ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in counts.items())


def _machine_lines(spec: Spec, each: MachineSpec) -> Iterator[str]:
    machine = each.machine
    yield f"MODEL {machine.name}"
    documentation = machine.model_class.__dict__.get("__doc__")
    if documentation:
        yield _INDENT + paragraph(documentation)
    sections = {
        "Fields": _columns(_field_row(machine, name, field) for name, field in each.fields.items()),
        "Indexes": _columns(
            ("unique" if index.unique else "several models per key", key_text(index.key))
            for index in machine.indexes
        ),
        "Views": _columns(_view_row(view) for view in machine.views),
        "Always true": _rule_lines(machine.rules),
        "May be read": _reading_lines(spec, each),
        "States": [line for state in machine.all_states for line in _state_lines(machine, state)],
        "Events": [
            line
            for event in spec.events
            if event.event.machine is machine
            for line in _event_lines(spec, event)
        ],
    }
    for title, lines in sections.items():
        if lines:
            yield _INDENT + title
            yield from _indented(lines, 2)


def _field_row(machine: Machine[Any], name: str, field: FieldType) -> tuple[str, ...]:
    # Compiling a class replaces its annotations by plain types, and keeps the user's own.
    annotations: dict[str, Any] = {}
    for base in reversed(machine.model_class.__mro__):
        annotations |= base.__dict__.get("__klerk_annotations__", {})
    found = next(each for each in msgspec.structs.fields(machine.model_class) if each.name == name)
    about = [bounds_text(field)]
    if found.default is not msgspec.NODEFAULT:
        about.append(f"default {found.default!r}")
    elif found.default_factory is not msgspec.NODEFAULT:
        about.append(f"default {function_text(found.default_factory)}()")
    if field.tags:
        about.append(f"tagged {', '.join(sorted(field.tags))}")
    declared = type_name(annotations[name]) if name in annotations else field.label
    return name, declared, "; ".join(filter(None, about))


def _view_row(view: View[Any]) -> tuple[str, ...]:
    """Say what a kept view is made from, which models it leaves out, and how it sorts them."""
    conditions: list[str] = []
    order = ""
    while isinstance(view, DerivedView):
        if isinstance(view, OrderedView):
            keys = ", ".join(key if isinstance(key, str) else key_text(key) for key in view.keys)
            order = f"by {keys}{', turned round' if view.descending else ''}"
        elif isinstance(view, StatesView):
            conditions.insert(0, f"in {' or '.join(state.name for state in view.states)}")
        elif isinstance(view, FilteredView):
            conditions.insert(0, key_text(view.condition))
        view = view.base
    base = view.name if isinstance(view, State) else "all"
    return base, f"if {' and '.join(conditions)}" if conditions else "", order


def _reading_lines(spec: Spec, each: MachineSpec) -> list[str]:
    """Say who may read the models and their fields; fields with the same rules share a line."""
    cls = each.machine.model_class
    who = _who(
        [p for p in spec.allow.all if p.subject == READ and p.covers(cls)],
        [p for p in spec.deny.all if p.subject == READ and p.covers(cls)],
        _NOBODY_READS,
    )
    names: dict[str, list[str]] = {}
    for name, field in each.fields.items():
        field_who = _who(
            [p for p in spec.allow.all if p.subject == FIELD and p.covers_field(cls, name, field.tags)],
            [p for p in spec.deny.all if p.subject == FIELD and p.covers_field(cls, name, field.tags)],
            _NOBODY_READS,
        )
        names.setdefault(field_who, []).append(name)
    rows = [(f"the {each.machine.name}", who)]
    if len(names) == 1:
        return _columns([*rows, ("all fields", next(iter(names)))])
    return _columns([*rows, *((", ".join(fields), who) for who, fields in names.items())])


def _who(allow: list[Permission], deny: list[Permission], nobody: str) -> str:
    if not allow:
        return nobody
    text = "if " + " or ".join(function_text(each.function) for each in allow)
    return f"{text}; not if {' or '.join(function_text(each.function) for each in deny)}" if deny else text


def _state_lines(machine: Machine[Any], state: State[Any]) -> list[str]:
    """Say what may happen in one state, by which event or timer, and what follows."""
    rows = [("on enter", text) for text in _outcomes(state.on_enter)]
    for event in machine.events:
        if isinstance(event, CreateEvent):
            continue
        if state in event.blocks:
            outcomes = _outcomes(event.blocks[state]) or [f"stays {state.name}"]
            rows += [(event.name if i == 0 else "", text) for i, text in enumerate(outcomes)]
    for trigger in state.triggers:
        outcomes = _outcomes(trigger.block)
        rows += [(trigger_text(trigger) if i == 0 else "", text) for i, text in enumerate(outcomes)]
    rows += [("on exit", text) for text in _outcomes(state.on_exit)]
    return [f"{state.name}{' (final)' if state.final else ''}", *_indented(_columns(rows))]


def _outcomes(block: Block[Any]) -> list[str]:
    """Say what a block does, one line for each thing."""
    lines = []
    for target, conditions in exits_of(block):
        joined = f" if {' and '.join(conditions)}".replace("if otherwise", "otherwise") if conditions else ""
        lines.append(("-> (deleted)" if target is None else f"-> {target.name}") + joined)
    return lines + effects_of(block)


def _event_lines(spec: Spec, each: EventSpec) -> list[str]:
    event = each.event
    if isinstance(event, CreateEvent):
        happens, effects = f"-> {event.into.name}", effects_of(event.block)
    else:
        happens, effects = f"in {', '.join(state.name for state in event.blocks)}", []
    lines = [f"{event.name}  ({happens})"]
    if documentation := inspect.getdoc(event.function):
        lines.append(_INDENT + paragraph(documentation))
    valid = {choice.parameter: _choice_text(choice) for choice in event.choices}
    lines += _indented(_columns(_parameter_rows(event.parameters, each.parameters, valid)))
    rows = [("also", effect) for effect in effects]
    rows += [("values", rule) for rule in _rule_lines(event.validators)]
    rows += [("only if", rule) for rule in _rule_lines(event.rules)]
    if event.visibility in _VISIBILITIES:
        rows.append((event.visibility.value, _VISIBILITIES[event.visibility]))
    if event.visibility.reaches(Visibility.CODE):
        who = _who(
            [p for p in spec.allow.all if p.subject == COMMAND and p.covers(event)],
            [p for p in spec.deny.all if p.subject == COMMAND and p.covers(event)],
            _NOBODY_DOES,
        )
        rows.append(("allowed", who))
    return [*lines, *_indented(_columns(rows))]


def _choice_text(choice: DeclaredChoice) -> str:
    allowed = choice.allowed
    if isinstance(allowed, View):
        return f"in {allowed!r}"
    if isinstance(allowed, Collection):
        return shortened(f"valid: {', '.join(str(getattr(one, 'value', one)) for one in allowed)}")
    return f"valid: {function_text(allowed)}"


def _parameter_rows(
    parameters: Iterable[Parameter], types: dict[str, FieldType], valid: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    for parameter in parameters:
        about = [bounds_text(types[parameter.name]), valid.get(parameter.name, "")]
        if parameter.default is not inspect.Parameter.empty:
            about.append(f"default {parameter.default!r}")
        yield parameter.name, type_name(parameter.annotation), "; ".join(filter(None, about))


def _rule_lines(rules: Iterable[DeclaredRule]) -> list[str]:
    return [
        rule.code if rule.message == rule.code.replace("_", " ") else f"{rule.code}, or else: {rule.message}"
        for rule in rules
    ]


def _job_lines(spec: Spec, job: Job[Any]) -> Iterator[str]:
    yield f"JOB {job.name}"
    documentation = inspect.getdoc(job.function)
    if documentation:
        yield _INDENT + paragraph(documentation)
    yield from _indented(_columns(_parameter_rows(job.parameters, spec.job_parameters[job.name], {})))
    yield from _indented(_columns(job_rows(job)))


def _key_rows(spec: Spec) -> Iterator[tuple[str, str, str, str]]:
    """Say which rules are asked about which keys."""
    for verdict, rule in _rules_about((KV, BLOB), spec):
        keys = ", ".join(f"{prefix}..." for prefix in rule.prefixes) or "all"
        yield rule.subject, keys, rule.action or "every use", verdict


def _by_hand_rows(spec: Spec) -> Iterator[tuple[str, str, str]]:
    """Say which rules are asked about what is done to which jobs by hand."""
    for verdict, rule in _rules_about((JOBS,), spec):
        yield ", ".join(map(str, rule.targets)) or "all", rule.job_action or "every action", verdict


def _rules_about(subjects: tuple[str, ...], spec: Spec) -> Iterator[tuple[str, Permission]]:
    """Yield the rules about some subjects, each with what it says."""
    for verdict, rules in (("if", spec.allow.all), ("not if", spec.deny.all)):
        for rule in rules:
            if rule.subject in subjects:
                yield f"{verdict} {function_text(rule.function)}", rule


def _permission_lines(spec: Spec) -> list[str]:
    """Say for each function once what it means and where it stands."""
    functions = {each.function: "allow" for each in spec.allow.all}
    functions |= {each.function: "deny" for each in spec.deny.all}
    rows = []
    for function, verdict in functions.items():
        place = place_of(function)
        where = f"({Path(place.file).name}:{place.line})"
        rows.append((verdict, function_text(function), shortened(meaning_of(function)), where))
    return _columns(rows)


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return rows as lines in which all columns but the last are aligned."""
    kept = list(rows)
    widths = [max(map(len, column)) for column in zip(*kept, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in kept
    ]


def _indented(lines: Iterable[str], depth: int = 1) -> list[str]:
    return [_INDENT * depth + line for line in lines]

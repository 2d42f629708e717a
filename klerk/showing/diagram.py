"""State machines as Mermaid diagrams: ``python -m klerk diagram app.py``.

A transition is labelled as in UML, ``event(parameters) [conditions] / effects``. The void is ``[*]``, as are
the ends. What happens in a state without leaving it stands in the state's box, what happens on the way in and
out in a note. Only declarations are read: a diagram can be drawn before the functions have bodies, and of a
design with errors. An event that is not offered to the outside shows its visibility: ``«internal» event``.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from klerk.blocks import Block, TimeTrigger
from klerk.commands import Actor
from klerk.declared import COMMANDS, DELETE, JOB, TO, TO_WHEN, UNMANAGED, UPDATE, Executable
from klerk.machine import CreateEvent, Event, Machine, State
from klerk.showing.wording import duration_text, function_text, meaning_of, shortened
from klerk.visibility import Visibility

_VOID: Final = "[*]"
_LABEL_LINE_MAX: Final = 32

# What Mermaid reads as something else than text; written as its character entities.
_SPECIAL: Final = re.compile(r"""[#;:<>"{}%&`\\]""")

# State names that begin like Mermaid's own words are given another identifier.
_PLAIN_NAME: Final = re.compile(
    r"(?!as|class|click|default|direction|end|hide|note|scale|state|style|acc|title)[A-Za-z]\w*",
    re.ASCII | re.IGNORECASE,
)


def diagrams_document(name: str, machines: Iterable[Machine[Any]]) -> str:
    """Return a Markdown document with the diagram of each machine, and what its names stand for."""
    lines = [f"# {name}", ""]
    for machine in machines:
        lines += [f"## {machine.name}", "", "```mermaid", state_diagram(machine), "```", ""]
        if legend := list(_legend(machine)):
            lines += [*legend, ""]
    return "\n".join(lines).rstrip()


def state_diagram(machine: Machine[Any]) -> str:
    """Return the Mermaid text of one machine."""
    lines = ["stateDiagram-v2"]
    for state in machine.all_states:
        inner = [*_inner_lines(machine, state)]
        is_plain = not inner and _identifier(state) == state.name
        lines.append(state.name if is_plain else f'state "{state.name}" as {_identifier(state)}')
        lines += [f"{_identifier(state)} : {_escaped(line)}" for line in inner]
    lines += [f"{source} --> {target} : {label}" for source, target, label in _edges(machine)]
    lines += [f"{_identifier(state)} --> {_VOID}" for state in machine.all_states if state.final]
    for state in machine.all_states:
        notes = [*_notes("on enter", state.on_enter), *_notes("on exit", state.on_exit)]
        if notes:
            lines += [f"note right of {_identifier(state)}", *(f"    {note}" for note in notes), "end note"]
    return "\n".join([lines[0], *(f"    {line}" for line in lines[1:])])


def _edges(machine: Machine[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield source, target and label of every transition, creation and deletion."""
    for event in machine.events:
        if isinstance(event, CreateEvent):
            yield _VOID, _identifier(event.into), _label(_call(event), _rules(event), event.block)
            continue
        for state, block in event.blocks.items():
            for target, conditions in exits_of(block):
                label = _label(_call(event), [*_rules(event), *conditions], block)
                yield _identifier(state), _end(target), label
    for state in machine.all_states:
        for target, conditions in exits_of(state.on_enter):
            yield _identifier(state), _end(target), _label("on enter", conditions, None)
        for trigger in state.triggers:
            for target, conditions in exits_of(trigger.block):
                label = _label(trigger_text(trigger), conditions, trigger.block)
                yield _identifier(state), _end(target), label


def _inner_lines(machine: Machine[Any], state: State[Any]) -> Iterator[str]:
    """Yield what may happen to a model while it stays in a state."""
    for event in machine.events:
        if isinstance(event, Event) and state in event.blocks and not exits_of(event.blocks[state]):
            yield _plain_label(_call(event), _rules(event), event.blocks[state])
    for trigger in state.triggers:
        if not exits_of(trigger.block):
            yield _plain_label(trigger_text(trigger), [], trigger.block)


def exits_of(block: Block[Any]) -> list[tuple[State[Any] | None, list[str]]]:
    """Return where a block may lead, None for a deletion, each with its conditions."""
    found: list[tuple[State[Any] | None, list[str]]] = []
    for executable in block.executables:
        when = [] if executable.when is None else [function_text(executable.when)]
        if executable.kind == TO:
            found.append((executable.value, when))
        elif executable.kind == DELETE:
            found.append((None, when))
        elif executable.kind == TO_WHEN:
            choices, otherwise = executable.value
            found += [(state, [*when, function_text(condition)]) for condition, state in choices]
            if otherwise is not None:
                found.append((otherwise, [*when, "otherwise"]))
    return found


def effects_of(block: Block[Any]) -> list[str]:
    """Return in words what a block does besides moving or deleting its model."""
    found = []
    for executable in block.executables:
        if text := _effect(executable, block):
            when = "" if executable.when is None else f" if {function_text(executable.when)}"
            found.append(text + when)
    return found


def _effect(executable: Executable, block: Block[Any]) -> str:
    function = executable.function
    if executable.kind == JOB:
        return f"job {executable.value if function is None else function_text(function)}"
    if function is None or (executable.kind == UPDATE and _is_of_event(function, block)):
        return ""
    words = {UPDATE: "update", COMMANDS: "commands", UNMANAGED: "unmanaged job"}
    return f"{words[executable.kind]} {function_text(function)}" if executable.kind in words else ""


def _is_of_event(function: Callable[..., Any], block: Block[Any]) -> bool:
    """Return whether a function is that of the event itself, which every block of the event begins with."""
    return any(event.function is function for event in block.owner.events)


def trigger_text(trigger: TimeTrigger[Any]) -> str:
    """Return in words when a timer is due, and whom it acts as if that is not the system."""
    if trigger.due is not None:
        when = f"at {function_text(trigger.due)}"
    else:
        assert trigger.delay is not None, "a timer has a moment or a delay"
        when = f"after {duration_text(trigger.delay)}"
    if trigger.run_as is None:
        return when
    actor = trigger.run_as
    return f"{when}, as {actor if isinstance(actor, Actor) else function_text(actor)}"


def _call(event: CreateEvent[Any, Any] | Event[Any, Any]) -> str:
    text = f"{event.name}({', '.join(event.names)})" if event.names else event.name
    return text if event.visibility is Visibility.EXTERNAL else f"«{event.visibility}» {text}"


def _rules(event: CreateEvent[Any, Any] | Event[Any, Any]) -> list[str]:
    return [function_text(rule.function) for rule in event.rules]


def _plain_label(occasion: str, conditions: list[str], block: Block[Any]) -> str:
    return " ".join(_parts(occasion, conditions, effects_of(block)))


def _label(occasion: str, conditions: list[str], block: Block[Any] | None) -> str:
    """Return the label of an edge, in several lines when it is long."""
    parts = _parts(occasion, conditions, [] if block is None else effects_of(block))
    separator = "<br/>" if sum(map(len, parts)) > _LABEL_LINE_MAX else " "
    return separator.join(map(_escaped, parts))


def _parts(occasion: str, conditions: list[str], effects: list[str]) -> list[str]:
    parts = [occasion]
    if conditions:
        parts.append(f"[{' and '.join(conditions)}]")
    if effects:
        parts.append(f"/ {', '.join(effects)}")
    return parts


def _notes(occasion: str, block: Block[Any]) -> list[str]:
    return [_escaped(f"{occasion}: {effect}") for effect in effects_of(block)]


def _legend(machine: Machine[Any]) -> Iterator[str]:
    for event in machine.events:
        yield f"- `{_call(event)}`: {event.label}"
        for rule in event.rules:
            yield f"  - `{function_text(rule.function)}`, or else: {rule.message}"
    conditions = {function_text(each): meaning_of(each) for each in _conditions(machine)}
    for name, meaning in conditions.items():
        if meaning:
            yield f"- `{name}`: {shortened(meaning)}"


def _conditions(machine: Machine[Any]) -> Iterator[Callable[..., Any]]:
    """Yield the functions that decide about transitions and effects, or when they are due."""
    for block in _all_blocks(machine):
        for executable in block.executables:
            if executable.when is not None:
                yield executable.when
            if executable.kind == TO_WHEN:
                yield from (condition for condition, _ in executable.value[0])
            elif executable.function is not None and not _is_of_event(executable.function, block):
                yield executable.function
    for state in machine.all_states:
        yield from (trigger.due for trigger in state.triggers if trigger.due is not None)


def _all_blocks(machine: Machine[Any]) -> Iterator[Block[Any]]:
    for event in machine.events:
        yield from [event.block] if isinstance(event, CreateEvent) else event.blocks.values()
    for state in machine.all_states:
        yield from (state.on_enter, state.on_exit)
        yield from (trigger.block for trigger in state.triggers)


def _end(state: State[Any] | None) -> str:
    return _VOID if state is None else _identifier(state)


def _identifier(state: State[Any]) -> str:
    return state.name if _PLAIN_NAME.fullmatch(state.name) else f"s_{state.name}"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", " ".join(text.split()))

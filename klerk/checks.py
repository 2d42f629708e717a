"""What is wrong with a design, found before anything runs; `klerk explain` says more about each code."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from klerk.blocks import Block
from klerk.commands import Actor, Context, System
from klerk.declared import DELETE, TO, TO_WHEN
from klerk.errors import ConfigError
from klerk.jobs import Job
from klerk.machine import CreateEvent, Event, Machine, State
from klerk.places import place_of
from klerk.values import Model, field_names


def check_system_context(
    provider: Callable[[Actor, datetime], Context], machines: Iterable[Machine[Any]], jobs: Iterable[Job[Any]]
) -> None:
    """Check that jobs and timers, if there are any, can get the context in which they act.

    Raises:
        ConfigError: K021.
    """
    timed = any(state.triggers for machine in machines for state in machine.all_states)
    if provider is Context or not (timed or any(True for _ in jobs)):
        return
    try:
        context: object = provider(System("check"), datetime.now(UTC))
        problem = "" if isinstance(context, Context) else f"returned {type(context).__name__}"
        cause = None
    except Exception as error:
        problem, cause = f"raised {type(error).__name__}: {error}", error
    if problem:
        name = getattr(provider, "__name__", repr(provider))
        raise ConfigError(
            "K021",
            f"jobs and timers have no context to act in: the provider {name} {problem}.",
            where=str(place_of(provider)),
            hint="Return a Context for any actor and time: context(actor, now, ...).",
        ) from cause


def check_design(machines: tuple[Machine[Any], ...]) -> None:
    """Check every machine.

    Raises:
        ConfigError: the first thing found.
    """
    for machine in machines:
        _check_names(machine)
        _check_machine(machine)
        for block, in_exit in _blocks(machine):
            _check_block(block, in_exit=in_exit)
        for block, source in _blocks_from(machine):
            if source is not None:
                _check_return(block, source)


def _check_names(machine: Machine[Any]) -> None:
    """Check that no field takes the place of what every model offers."""
    for name in field_names(machine.model_class):
        if hasattr(Model, name) or name == "self":
            raise ConfigError(
                "K024",
                f"the field '{name}' of {machine.name} hides what every model has by that name.",
                where=str(machine.model_class.__klerk_place__),
                hint="Rename the field.",
            )


def _check_machine(machine: Machine[Any]) -> None:
    if not machine.all_states or not any(isinstance(event, CreateEvent) for event in machine.events):
        missing = "states" if not machine.all_states else "event that creates a model"
        raise ConfigError(
            "K005",
            f"the machine of {machine.name} has no {missing}.",
            where=str(machine.place),
            hint="Declare states with machine.states(...) and a create event with @machine.create(into=...).",
        )
    for event in machine.events:
        if isinstance(event, Event) and not event.blocks:
            raise ConfigError(
                "K010",
                f"the event {event!r} is accepted in no state.",
                where=str(event.place),
                hint=f"Name states in its decorator, or add a block: state.on({event.name}).",
            )
    moves = [(source, target) for source, target, _ in transitions(machine) if source is not None]
    if moves:
        _check_paths(machine, moves)


def _check_paths(machine: Machine[Any], moves: list[tuple[State[Any], State[Any]]]) -> None:
    """Check that every state can be reached, and left unless it is final."""
    reached = {target for source, target, _ in transitions(machine) if source is None}
    while True:
        further = {target for source, target in moves if source in reached} - reached
        if not further:
            break
        reached |= further
    moved_on = {source for source, target in moves if source is not target}
    left = moved_on | {state for state in machine.all_states if _deletes(machine, state)}
    for state in machine.all_states:
        if state not in reached:
            raise ConfigError(
                "K011",
                f"{state!r} can never be reached.",
                where=str(state.place),
                hint=f"Add an event or timer that leads to '{state}', or remove it.",
            )
        if state not in left and not state.final:
            raise ConfigError(
                "K012",
                f"{state!r} can never be left.",
                where=str(state.place),
                hint=f"Add an event or timer from '{state}', or mark it final.",
            )
        # What has come to its end may still be deleted, when it has been kept for long enough.
        if state in moved_on and state.final:
            raise ConfigError(
                "K013",
                f"{state!r} is marked final and can be left.",
                where=str(state.place),
                hint="Remove the transition, or the mark.",
            )


def _deletes(machine: Machine[Any], state: State[Any]) -> bool:
    return any(
        executable.kind == DELETE
        for block, source in _blocks_from(machine)
        if source is state
        for executable in block.executables
    )


def _blocks_from(machine: Machine[Any]) -> Iterator[tuple[Block[Any], State[Any] | None]]:
    """Yield every block with the state that it may lead out of; None is the void."""
    for event in machine.events:
        if isinstance(event, CreateEvent):
            yield event.block, None
        else:
            for state, block in event.blocks.items():
                yield block, state
    for state in machine.all_states:
        yield state.on_enter, state
        for trigger in state.triggers:
            yield trigger.block, state


def _blocks(machine: Machine[Any]) -> Iterator[tuple[Block[Any], bool]]:
    """Yield every block, and whether transitions are impossible there."""
    for block, source in _blocks_from(machine):
        yield block, source is None
    for state in machine.all_states:
        yield state.on_exit, True


def targets_of(block: Block[Any]) -> Iterable[State[Any]]:
    """Return the states that a block may lead to."""
    targets = []
    for executable in block.executables:
        if executable.kind == TO:
            targets.append(executable.value)
        elif executable.kind == TO_WHEN:
            choices, otherwise = executable.value
            targets.extend(state for _, state in choices)
            if otherwise is not None:
                targets.append(otherwise)
    return targets


def transitions(machine: Machine[Any]) -> Iterator[tuple[State[Any] | None, State[Any], str]]:
    """Yield every possible transition: from (None is the void), to, and the occasion."""
    for event in machine.events:
        if isinstance(event, CreateEvent):
            yield None, event.into, event.name
    for block, source in _blocks_from(machine):
        if source is not None:
            for target in targets_of(block):
                yield source, target, block.occasion


def _check_block(block: Block[Any], *, in_exit: bool) -> None:
    moves = [executable for executable in block.executables if executable.kind in (TO, TO_WHEN)]
    ends = [executable for executable in block.executables if executable.kind == DELETE]
    if in_exit and (moves or ends):
        raise ConfigError(
            "K016",
            f"a model cannot be moved or deleted {block.occasion}.",
            where=str((moves or ends)[0].place),
            hint="Put it into the block of an event, on enter, or a timer.",
        )
    if len(moves) > 1 and any(move.when is None for move in moves[:-1]):
        raise ConfigError(
            "K014",
            f"more than one transition {block.occasion}.",
            where=str(moves[-1].place),
            hint="Use to_when({condition: state}, otherwise=state).",
        )
    targets: Iterable[Any] = targets_of(block)
    for target in targets:
        if not isinstance(target, State) or target.machine is not block.owner:
            raise ConfigError(
                "K009",
                f"{target!r} is not a state of {block.owner.name}.",
                where=str(moves[0].place),
                hint=f"Use one of: {', '.join(map(str, block.owner.all_states))}.",
            )


def _check_return(block: Block[Any], source: State[Any]) -> None:
    """Check that no transition leads back to where it comes from, unless under a condition of its own."""
    for executable in block.executables:
        if executable.kind == TO and executable.value is source and executable.when is None:
            raise ConfigError(
                "K019",
                f"the transition {block.occasion} leads from {source!r} to itself.",
                where=str(executable.place),
                hint="Leave it out: what leads here from several states is said by state.on(event).to(...)"
                " for each, not by to=. Or give it a condition (when=...), if the state shall be entered"
                " anew.",
            )
        if executable.kind == TO_WHEN:
            choices, otherwise = executable.value
            if otherwise is source or any(state is source for _, state in choices):
                raise ConfigError(
                    "K020",
                    f"a choice {block.occasion} leads from {source!r} to itself.",
                    where=str(executable.place),
                    hint="Leave it out: without a choice that holds, and no otherwise=, the model stays.",
                )

"""State machines as users declare them: states, events, and blocks of executables."""

import inspect
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from klerk._dispatch import Args, Command
from klerk.blocks import Block, TimeTrigger
from klerk.declared import (
    Calling,
    Commanding,
    Condition,
    DeclaredRule,
    Due,
    Requesting,
    RunAs,
    declared_rule,
    needs_parentheses,
    require_function,
    require_model_function,
    required_delay,
    required_run_as,
)
from klerk.errors import ConfigError
from klerk.jobs import Job, bind, parameters_of
from klerk.parameters import CheckedEvent
from klerk.places import Place, here, place_of
from klerk.selections import Index, MachineBase, StateBase
from klerk.values import Model, Ref, field_names
from klerk.visibility import Visibility, required_visibility

M = TypeVar("M", bound=Model)
P = ParamSpec("P")
Q = ParamSpec("Q")
W = ParamSpec("W")


class State(StateBase[M]):
    """A state of a machine; comparable by identity, and a view of the models in it."""

    machine: "Machine[M]"

    def __init__(self, machine: "Machine[M]", name: str, index: int, *, final: bool, place: Place) -> None:
        super().__init__(machine, name, index)
        self.final = final
        self.place = place
        self.on_enter: Block[M] = Block(machine, f"on enter of {machine.name}.{name}")
        self.on_exit: Block[M] = Block(machine, f"on exit of {machine.name}.{name}")
        self.triggers: list[TimeTrigger[M]] = []

    def on(self, event: "Event[M, Any]") -> Block[M]:
        """Return the block that runs when the event happens in this state, which accepts it from now on.

        Raises:
            ConfigError: K009.
        """
        if not isinstance(event, Event):
            raise ConfigError(
                "K009",
                f"{event!r} is no event that happens to a model in a state.",
                where=str(here()),
                hint="Name an event declared with @machine.event; a create event has its own chain.",
            )
        return event.block_in(self)

    def at(self, due: "Due[M]", *, run_as: "RunAs[M] | None" = None) -> Block[M]:
        """Return a block that runs when the moment that ``due(a)`` gives has come.

        Parameters:
            due: a pure function of the model, asked when the model changes: ``a.now`` is the time of that
                change. It returns an aware datetime, or None for never.
            run_as: the actor that the block acts as, or a function ``(a) -> Actor``; the system if left out.
                Authorization rules are not asked about what blocks do; the commit log names the actor.

        Raises:
            ConfigError: K041.
        """
        run_as = required_run_as(run_as)
        for other in self.triggers:
            if other.due is not None and other.run_as != run_as:
                raise ConfigError(
                    "K041",
                    f"the timers that {self!r} declares with 'at' act as different actors.",
                    where=str(here()),
                    hint="Give all of them the same run_as, as a function (a) -> Actor when it depends.",
                )
        require_function(due, f"at a moment in {self!r}")
        block: Block[M] = Block(self.machine, f"at a moment in {self.machine.name}.{self.name}")
        self.triggers.append(TimeTrigger(block=block, due=due, run_as=run_as))
        return block

    def after(self, delay: timedelta, *, run_as: "RunAs[M] | None" = None) -> Block[M]:
        """Return a block that runs when a model has been in this state for a while.

        Parameters:
            run_as: as for `at`.

        Raises:
            ConfigError: K017, K041.
        """
        block: Block[M] = Block(self.machine, f"after {delay} in {self.machine.name}.{self.name}")
        self.triggers.append(
            TimeTrigger(block=block, delay=required_delay(delay), run_as=required_run_as(run_as))
        )
        return block

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"{self.machine.name}.{self.name}"


class _Event(CheckedEvent[M], Generic[M]):
    """What create events and events on models share."""

    def __init__(self, machine: "Machine[M]", function: Callable[..., Any], visibility: Visibility) -> None:
        super().__init__()
        self.machine = machine
        self.function = function
        self.visibility = visibility
        self.name = function.__name__
        self.place = place_of(function)
        self.label = (inspect.getdoc(function) or self.name.replace("_", " ")).splitlines()[0]
        try:
            self.parameters = parameters_of(function)
        except ValueError as error:
            raise ConfigError(
                "K006",
                f"the function of event {machine.name}.{self.name} cannot be called: {error}.",
                where=str(self.place),
                hint=f"Declare it as def {self.name}(a: Args, ...).",
            ) from error
        self.names = tuple(parameter.name for parameter in self.parameters)
        self.arity = len(self.parameters)
        self.signature_of = self._bind

    def _bind(self, values: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
        return bind(str(self), self.parameters, values, keywords)

    def __repr__(self) -> str:
        return f"{self.machine.name}.{self.name}"


class CreateEvent(_Event[M], Generic[M, P]):
    """An event that leads out of the void: calling it makes a command that creates a model."""

    def __init__(
        self,
        machine: "Machine[M]",
        function: Callable[..., Any],
        into: State[M],
        visibility: Visibility,
    ) -> None:
        super().__init__(machine, function, visibility)
        self.creates = True
        self.into = into
        self.block: Block[M] = Block(machine, f"on {self}")

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Command[M]: ...

    @overload
    def rule(self, function: "Condition[Any, Q]", /) -> "Condition[Any, Q]": ...
    @overload
    def rule(self, /, *, path: str) -> "Callable[[Condition[Any, Q]], Condition[Any, Q]]": ...
    def rule(self, function: Any = None, /, *, path: str = "") -> Any:
        """Declare a condition: the command is refused, with the function's docstring, unless it returns True.

        Parameters:
            function: takes ``a: Args`` and any of the event's parameters, by name.
            path: the parameter that it is about, as in ``@lend.rule(path="title")``.
        """
        return self.ruled(function, path)

    def commands(self, function: "Commanding[M, Q]", *, when: "Condition[M, W] | None" = None) -> Block[M]:
        """See `Block.commands`."""
        return self.block.commands(function, when=when)

    def job(
        self, job: "Job[[Ref[M]]] | Requesting[M, Q]", *, when: "Condition[M, W] | None" = None
    ) -> Block[M]:
        """See `Block.job`."""
        return self.block.job(job, when=when)

    def unmanaged_job(self, function: "Calling[M, Q]", *, when: "Condition[M, W] | None" = None) -> Block[M]:
        """See `Block.unmanaged_job`."""
        return self.block.unmanaged_job(function, when=when)


class Event(_Event[M], Generic[M, P]):
    """What may happen to a model: calling it with the model's reference makes a command."""

    def __init__(
        self,
        machine: "Machine[M]",
        function: Callable[..., Any],
        states: tuple[State[M], ...],
        to: State[M] | None,
        visibility: Visibility,
    ) -> None:
        super().__init__(machine, function, visibility)
        self.creates = False
        self.blocks: dict[State[M], Block[M]] = {}
        for state in states:
            block = self.block_in(state)
            if to is not None:
                block.to(to)

    if TYPE_CHECKING:

        def __call__(self, target: Ref[M], /, *args: P.args, **kwargs: P.kwargs) -> Command[M]: ...

    @overload
    def rule(self, function: "Condition[M, Q]", /) -> "Condition[M, Q]": ...
    @overload
    def rule(self, /, *, path: str) -> "Callable[[Condition[M, Q]], Condition[M, Q]]": ...
    def rule(self, function: Any = None, /, *, path: str = "") -> Any:
        """Declare a condition: the command is refused, with the function's docstring, unless it returns True.

        Parameters:
            function: takes ``a: Args`` and any of the event's parameters, by name.
            path: the parameter that it is about, as in ``@lend.rule(path="title")``.
        """
        return self.ruled(function, path)

    def block_in(self, state: State[M]) -> Block[M]:
        """Return the block that runs when the event happens in a state."""
        if state.machine is not self.machine:
            raise ConfigError(
                "K009",
                f"the state {state!r} does not belong to the machine of the event {self!r}.",
                where=str(here()),
                hint=f"Use a state of {self.machine.name}.",
            )
        if state not in self.blocks:
            block: Block[M] = Block(self.machine, f"on {self} in {state}")
            block.update(self.function)
            self.blocks[state] = block
        return self.blocks[state]


class Machine(MachineBase[M]):
    """The state machine of a model class, and the view of all its models."""

    def __init__(
        self, model_class: type[M], app_open_check: Callable[[], None], is_frozen: Callable[[], bool]
    ) -> None:
        super().__init__(model_class, app_open_check, is_frozen)
        self.place = here()
        self.all_states: list[State[M]] = []
        self.events: list[CreateEvent[M, Any] | Event[M, Any]] = []
        self.indexes: list[Index[M]] = []
        self.rules: list[DeclaredRule] = []

    def states(self, *names: str, final: Iterable[str] = ()) -> tuple[State[M], ...]:
        """Declare states and return them in the same order.

        Parameters:
            final: the names of those that a model never leaves.
        """
        self.app_open_check()
        place, ends = here(), set([final] if isinstance(final, str) else final)
        for name in names:
            if not name.isidentifier() or any(name == state.name for state in self.all_states):
                raise ConfigError(
                    "K004",
                    f"{self.name} cannot have a state named {name!r}: names are identifiers, each once.",
                    where=str(place),
                    hint="Rename it.",
                )
            self.all_states.append(State(self, name, len(self.all_states), final=name in ends, place=place))
        unknown = ends - set(names)
        if unknown:
            raise ConfigError(
                "K004",
                f"{self.name} marks {', '.join(sorted(unknown))} as final, no state of the same call.",
                where=str(place),
                hint="Write the name as in the list of states.",
            )
        return tuple(self.all_states[-len(names) :]) if names else ()

    @needs_parentheses
    def create(
        self, *, into: State[M], visibility: Visibility = Visibility.EXTERNAL
    ) -> Callable[[Callable[Concatenate[Args[Any, Any], P], M | None]], CreateEvent[M, P]]:
        """Declare an event that creates a model, by decorating the function that returns it.

        Parameters:
            into: the state in which the model begins.
            visibility: who may cause it.
        """
        visibility = required_visibility(visibility)

        def declare(function: Callable[Concatenate[Args[Any, Any], P], M | None]) -> CreateEvent[M, P]:
            self._require_own(into)
            event: CreateEvent[M, P] = CreateEvent(self, function, into, visibility)
            self._add_event(event)
            return event

        return declare

    @needs_parentheses
    def event(
        self,
        *states: State[M],
        to: State[M] | None = None,
        visibility: Visibility = Visibility.EXTERNAL,
    ) -> Callable[[Callable[Concatenate[Args[M, Any], P], M | None]], Event[M, P]]:
        """Declare an event that happens to a model, by decorating the function that returns its new version.

        Parameters:
            states: those that accept the event; more can be added with ``state.on(event)``.
            to: the state it leads to from all of them.
            visibility: who may cause it.
        """
        visibility = required_visibility(visibility)

        def declare(function: Callable[Concatenate[Args[M, Any], P], M | None]) -> Event[M, P]:
            for state in (*states, *([] if to is None else [to])):
                self._require_own(state)
            event: Event[M, P] = Event(self, function, states, to, visibility)
            self._add_event(event)
            return event

        return declare

    @overload
    def rule(self, function: Callable[[M], bool], /) -> Callable[[M], bool]: ...
    @overload
    def rule(self, /, *, path: str) -> Callable[[Callable[[M], bool]], Callable[[M], bool]]: ...
    def rule(self, function: Any = None, /, *, path: str = "") -> Any:
        """Declare a condition that every version of every model must fulfil: ``function(model) -> bool``.

        Parameters:
            path: the field that it is about, as in ``@loan.rule(path="due")``.
        """

        def declare(function: Callable[[M], bool]) -> Callable[[M], bool]:
            self.app_open_check()
            require_model_function(function, f"a rule of {self.name}")
            self.rules.append(declared_rule(function, path, field_names(self.model_class)))
            return function

        return declare if function is None else declare(function)

    def index(self, key: Callable[[M], Any], *, unique: bool = False, each: bool = False) -> Index[M]:
        """Declare a lookup by key.

        Parameters:
            key: gives the key of a model, hashable; None keeps the model out.
            unique: a transaction after which two models would have the same key is refused.
            each: the function gives several keys, as a tuple or frozenset, and the model is found under each.
        """
        self.app_open_check()
        require_model_function(key, f"the key of an index of {self.name}")
        index = Index(self, key, unique, each, here())
        self.indexes.append(index)
        return index

    def _add_event(self, event: CreateEvent[M, Any] | Event[M, Any]) -> None:
        self.app_open_check()
        for other in self.events:
            if other.name == event.name:
                raise ConfigError(
                    "K004",
                    f"{self.name} has two events named '{event.name}'.",
                    where=str(event.place),
                    hint=f"Rename one; the other is at {other.place}.",
                )
        self.events.append(event)

    def _require_own(self, state: Any) -> None:
        if not isinstance(state, State) or state.machine is not self:
            raise ConfigError(
                "K009",
                f"{state!r} is not a state of {self.name}.",
                where=str(here()),
                hint=f"Use one of: {', '.join(map(str, self.all_states)) or 'none declared yet'}.",
            )

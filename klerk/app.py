"""Where a design is declared, and what it is frozen into when the app is opened."""

import builtins
import inspect
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack

from klerk import checks, job_checks
from klerk._dispatch import Demands
from klerk.authorization import Permissions
from klerk.choices import demands_of
from klerk.commands import Actor, Context
from klerk.declared import needs_parentheses
from klerk.errors import ConfigError, KlerkError
from klerk.field_types import FieldType, Unsupported
from klerk.fields import Resolve, field_type, struct_fields
from klerk.job_options import JobOptions, QueueOptions, QueueSettings
from klerk.job_returns import returns_of
from klerk.jobs import Job, Parameter
from klerk.machine import CreateEvent, Event, Machine
from klerk.migration.migrations import Migration, declared_migration, in_order
from klerk.migration.names import check_names
from klerk.parameters import Compiled
from klerk.places import Place, here, place_of
from klerk.values import Model, field_names

M = TypeVar("M", bound=Model)
P = ParamSpec("P")
ContextProvider = Callable[[Actor, datetime], Context]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """A machine with the compiled types of its model's fields."""

    machine: Machine[Any]
    fields: dict[str, FieldType]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpec:
    """An event with the compiled types of its parameters, and what it asks of them beyond these."""

    event: CreateEvent[Any, Any] | Event[Any, Any]
    parameters: dict[str, FieldType]
    demands: Demands | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A checked design, as everything below uses it. `events` are in the order of their `index`."""

    name: str
    machines: tuple[MachineSpec, ...]
    events: tuple[EventSpec, ...]
    jobs: dict[str, Job[Any]]
    job_parameters: dict[str, dict[str, FieldType]]
    queues: dict[str, QueueSettings]
    allow: Permissions
    deny: Permissions
    context_provider: ContextProvider
    migrations: tuple[Migration, ...] = ()

    def system_context(self, actor: Actor, now: datetime) -> Context:
        """Return the context in which a job or timer acts.

        Raises:
            KlerkError: the app's provider gave something else.
        """
        context = self.context_provider(actor, now)
        if not isinstance(context, Context):
            raise KlerkError(f"the context provider returned {type(context).__name__}, expected a Context")
        return context


class Design:
    """What a user declares: models with their machines, rules and jobs.

    Parameters:
        name: kept in the store, which refuses to be opened by an app of another name.

    Attributes:
        is_complete: what is made of views from now on is not kept, although the app is not opened here.
    """

    def __init__(self, name: str) -> None:
        if not name or len(name) > 100:
            raise ConfigError(
                "K017", f"the app's name {name!r} must have 1 to 100 characters.", where=str(here())
            )
        self.name = name
        self.machines: dict[type[Model], Machine[Any]] = {}
        self.jobs: dict[str, Job[Any]] = {}
        self.queues: dict[str, QueueSettings] = {}
        self.allow = Permissions(self._require_unopened)
        self.deny = Permissions(self._require_unopened)
        self.migrations: list[Migration] = []
        self._context_provider: ContextProvider = Context
        self._spec: Spec | None = None
        self.is_complete = False

    def machine(self, model_class: type[M]) -> Machine[M]:
        """Give a model class its state machine.

        Raises:
            ConfigError: K001, K002.
        """
        self._require_unopened()
        given: Any = model_class
        if not (isinstance(given, type) and issubclass(given, Model)) or given is Model:
            raise ConfigError(
                "K001",
                f"{model_class!r} is not a model class.",
                where=str(here()),
                hint="Declare it as class Member(klerk.Model): ...",
            )
        for known in self.machines:
            if known.__name__ == model_class.__name__:
                raise ConfigError(
                    "K002",
                    f"there is a machine for a class named {model_class.__name__} already.",
                    where=str(here()),
                    hint="Use the machine made first, or rename the class.",
                )
        machine = Machine(model_class, self._require_unopened, self._is_frozen)
        self.machines[model_class] = machine
        return machine

    @needs_parentheses
    def job(self, **options: Unpack[JobOptions]) -> Callable[[Callable[Concatenate[Any, P], object]], Job[P]]:
        """Declare a background job, by decorating a function ``(job: JobRun, ...)``, plain or ``async``.

        Parameters:
            options: see `JobOptions`.
        """
        place = here()

        def declare(function: Callable[Concatenate[Any, P], object]) -> Job[P]:
            self._require_unopened()
            job: Job[P] = job_checks.declared_job(function, options, place)
            if job.name in self.jobs:
                raise ConfigError("K004", f"there are two jobs named '{job.name}'.", where=str(place))
            job.design = self
            self.jobs[job.name] = job
            return job

        return declare

    def queue(self, name: str, **options: Unpack[QueueOptions]) -> None:
        """Declare a queue of jobs. One that jobs name without that has the default options.

        Parameters:
            options: see `QueueOptions`.

        Raises:
            ConfigError: K004, K017.
        """
        self._require_unopened()
        place = here()
        settings = job_checks.declared_queue(name, options, place)
        if name in self.queues:
            raise ConfigError("K004", f"there are two queues named '{name}'.", where=str(place))
        self.queues[name] = settings

    def migration(self, version: int) -> Callable[[Callable[[Migration], None]], Callable[[Migration], None]]:
        """Declare, by decorating a function ``(m: klerk.Migration)``, what a version of the design changes of
        what earlier ones have stored. A store that is opened with the design runs those that it has not run.

        Parameters:
            version: 1 for the first migration, and one more for each. Those that ever ran stay as they are.

        Raises:
            ConfigError: K050, K051.
        """
        place = here()

        def declare(function: Callable[[Migration], None]) -> Callable[[Migration], None]:
            self._require_unopened()
            self.migrations.append(declared_migration(version, function, place))
            return function

        return declare

    def context_provider(self, function: ContextProvider) -> ContextProvider:
        """Declare, by decorating it, the function ``(actor, now) -> context`` that makes contexts for jobs
        and timers, when the app has a context class of its own."""
        self._require_unopened()
        self._context_provider = function
        return function

    def freeze(self) -> Spec:
        """Check the whole design and return it as `open` uses it; nothing can be declared afterwards.

        Raises:
            ConfigError: with a code that ``python -m klerk explain`` knows.
        """
        if self._spec is None:
            spec = self._compile()
            checks.check_design(tuple(self.machines.values()))
            fields = {each.machine.model_class: each.fields for each in spec.machines}
            self.allow.check_fields(fields)
            self.deny.check_fields(fields)
            self._spec = spec
        return self._spec

    def check_system_context(self) -> None:
        """Check that jobs and timers, if there are any, can get the context in which they act.

        Raises:
            ConfigError: K021.
        """
        checks.check_system_context(self._context_provider, self.machines.values(), self.jobs.values())

    def check_types(self) -> Iterator[Callable[[], object]]:
        """Yield the checks of the types of each machine's fields, each event's and each job's parameters."""
        for machine in self.machines.values():
            yield partial(self._fields, machine)
            for event in machine.events:
                yield partial(
                    self._parameters, f"event {event}", event.parameters, event.function, event.place
                )
        for job in self.jobs.values():
            yield partial(self._parameters, f"job {job}", job.parameters, job.function, job.place)

    def _is_frozen(self) -> bool:
        return self._spec is not None or self.is_complete

    def _require_unopened(self) -> None:
        if self._spec is not None:
            raise ConfigError(
                "K015",
                f"the app '{self.name}' was opened, so its design is frozen.",
                where=str(here()),
                hint="Declare this before app.open(...).",
            )

    def _compile(self) -> Spec:
        machines = tuple(
            MachineSpec(machine=machine, fields=self._fields(machine)) for machine in self.machines.values()
        )
        events: list[EventSpec] = []
        for machine in self.machines.values():
            for event in machine.events:
                event.index = len(events)
                parameters = self._parameters(f"event {event}", event.parameters, event.function, event.place)
                demands = demands_of(event, parameters, self.machines)
                event.compiled = Compiled(types=parameters, demands=demands, machines=self.machines)
                events.append(EventSpec(event=event, parameters=parameters, demands=demands))
        job_parameters = {
            job.name: self._parameters(f"job {job}", job.parameters, job.function, job.place)
            for job in self.jobs.values()
        }
        for job in self.jobs.values():
            job.checks = [field.check(name) for name, field in job_parameters[job.name].items()]
            job.returns = returns_of(job.function, self._resolver_of(job.function, job.place))
        return Spec(
            name=self.name,
            machines=machines,
            events=tuple(events),
            jobs=dict(self.jobs),
            job_parameters=job_parameters,
            queues=self._queues(),
            allow=self.allow,
            deny=self.deny,
            context_provider=self._context_provider,
            migrations=self._migrations(machines),
        )

    def _queues(self) -> dict[str, QueueSettings]:
        """Return every queue, those that jobs only name, too; tell plain jobs where theirs lets them run."""
        queues = dict(self.queues)
        for job in self.jobs.values():
            settings = queues.setdefault(job.settings.queue, QueueSettings())
            job.queues = queues.keys()
            if job.settings.executor is None and not job.is_coroutine:
                job.pool = settings.executor
        return queues

    def _migrations(self, machines: tuple[MachineSpec, ...]) -> tuple[Migration, ...]:
        ordered = in_order(self.migrations)
        for migration in ordered:
            migration.record()
        names = {
            each.machine.name: (each.fields, [state.name for state in each.machine.all_states])
            for each in machines
        }
        check_names(ordered, names, self.jobs)
        return ordered

    def _resolver(self, module: str, place: Place) -> Resolve:
        """Return how names in annotations written as strings are looked up."""
        models = {cls.__name__: cls for cls in self.machines}
        names = ChainMap(place.names, models, vars(sys.modules.get(module, builtins)))

        def resolve(text: str) -> Any:
            try:
                return eval(text, {"__builtins__": builtins}, names)
            except Exception as error:
                raise Unsupported(f"the annotation {text!r} cannot be resolved: {error}") from error

        return resolve

    def _resolver_of(self, function: Any, place: Place) -> Resolve:
        return self._resolver(function.__module__, Place(place.file, place.line, _closure(function)))

    def _fields(self, machine: Machine[Any]) -> dict[str, FieldType]:
        cls = machine.model_class
        place = cls.__klerk_place__
        try:
            fields = struct_fields(cls, field_names(cls), self._resolver(cls.__module__, place))
        except Unsupported as error:
            raise ConfigError(
                "K003", f"{cls.__name__}, {error}.", where=str(place), hint="Use a type that cannot change."
            ) from error
        for name, field in fields.items():
            self._require_known(field, f"{cls.__name__}.{name}", place)
        return fields

    def _parameters(
        self, what: str, parameters: tuple[Parameter, ...], function: Any, place: Place
    ) -> dict[str, FieldType]:
        resolve = self._resolver_of(function, place)
        compiled = {}
        for parameter in parameters:
            try:
                if parameter.annotation is inspect.Parameter.empty:
                    raise Unsupported("it has no annotation")
                compiled[parameter.name] = field_type(parameter.annotation, resolve)
            except Unsupported as error:
                raise ConfigError(
                    "K007",
                    f"the parameter '{parameter.name}' of {what}: {error}.",
                    where=str(place_of(function)),
                    hint=f"Write its type, as in {parameter.name}: Name.",
                ) from error
            self._require_known(compiled[parameter.name], f"'{parameter.name}' of {what}", place)
        return compiled

    def _require_known(self, field: FieldType, what: str, place: Place) -> None:
        if field.target is not None and field.target not in self.machines:
            raise ConfigError(
                "K001",
                f"{what} refers to {field.target.__name__}, which has no machine in this app.",
                where=str(place),
                hint=f"Add app.machine({field.target.__name__}).",
            )


def _closure(function: Any) -> dict[str, Any]:
    """Return the names that a function sees from the function around it."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = {}
    for name, cell in cells:
        # One that is empty is of a variable that is set later, such as the opened app itself.
        with suppress(ValueError):
            found[name] = cell.cell_contents
    return found

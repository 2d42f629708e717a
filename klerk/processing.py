"""From a design to the dispatch table that the core's loop runs over. No input or output happens here."""

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec

from klerk._core import Processor
from klerk._dispatch import (
    Block,
    Call,
    ClassPlan,
    EventPlan,
    StatePlan,
    Step,
    Timer,
    microseconds,
)
from klerk._table import ModelTable
from klerk._waiting import ReadWriteLock
from klerk.app import EventSpec, MachineSpec, Spec
from klerk.authorization import BLOB, KV, Permit
from klerk.blocks import Block as DeclaredBlock
from klerk.codec import Catalog, ClassEntry, encode
from klerk.commands import NOW, Actor, Context, Result, System
from klerk.declared import JOB, TO_WHEN, Executable
from klerk.errors import ArgumentError, ConfigError
from klerk.job_creation import JobCreation
from klerk.jobs import Job
from klerk.keyed.access import KeyAccess
from klerk.machine import CreateEvent
from klerk.migration.upcasting import upcaster_of
from klerk.reading.index_store import IndexStore
from klerk.reading.possibilities import Possibilities
from klerk.reading.reader import ClassAccess, FieldAccess, PlainReader, Sight
from klerk.reading.sources import LockedSource, WorkingSource
from klerk.reading.view_store import FilterStore, OrderStore, order_key
from klerk.reading.views import PublishedSource, Views
from klerk.selections import OrderedView
from klerk.validation import call_of, rule_of

Clock = Callable[[], datetime]
Store = IndexStore | FilterStore | OrderStore


def is_text(value: object) -> bool:
    """Return whether a value is a text that can be stored."""
    if type(value) is not str:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def utc_now() -> datetime:
    """Return the time of the machine's clock."""
    return datetime.now(UTC)


class Program:
    """A design compiled for one open store: the processor, and what reads beside it.

    Parameters:
        spec: the design.
        catalog: the codes that the store uses.
        clock: the time for contexts that name none.
        lock: held for writing while groups are published.
    """

    def __init__(self, spec: Spec, catalog: Catalog, clock: Clock, lock: ReadWriteLock) -> None:
        self.spec = spec
        self._clock = clock
        codes = {entry.name: (code, entry) for code, entry in enumerate(catalog.classes)}
        kept = {each.machine.name: _stores(each) for each in spec.machines}
        self.plans = [
            _class_plan(each, *codes[each.machine.name], kept[each.machine.name], spec, catalog)
            for each in spec.machines
        ]
        _link_references(self.plans)
        by_class = {plan.model_class: plan for plan in self.plans}
        event_codes = {name: code for code, name in enumerate(catalog.events)}
        self.code_of_event = {each.event: event_codes[str(each.event)] for each in spec.events}
        events = [
            _event_plan(spec, each, by_class[each.event.machine.model_class], self.code_of_event[each.event])
            for each in spec.events
        ]
        self.table = ModelTable()
        self.job_creation = JobCreation(catalog.version, spec.jobs)
        self.processor: Processor = Processor(
            self.table,
            self.plans,
            events,
            encode=encode,
            sha256=sha256,
            outcome_class=Result,
            resolve_context=self.resolve,
            job_creation=self.job_creation,
        )
        stores = [store for each in kept.values() for store in each]
        self.views = Views(
            self.plans,
            {each.machine.model_class: each.fields for each in spec.machines},
            [store for store in stores if isinstance(store, IndexStore)],
            [store for store in stores if not isinstance(store, IndexStore)],
        )
        possibilities = Possibilities(events, self._resolve_for_reading)
        working = WorkingSource(self.processor, self.views)
        self.processor.reader = PlainReader(working, possibilities, self.processor.args)
        published = PublishedSource(self.views, self.table.get)
        self.processor.published_reader = PlainReader(LockedSource(published, lock), possibilities)
        self.sight = Sight(
            {each.machine.model_class: _access(spec, each) for each in spec.machines},
            published,
            self.table,
            self._resolve_for_reading,
            possibilities,
        )
        self.kv_access = KeyAccess(spec, KV, self.resolve, self.sight.plain, lock)
        self.blob_access = KeyAccess(spec, BLOB, self.resolve, self.sight.plain, lock)
        # The classes that migrations deleted have no plan.
        self.plan_of_code: dict[int, ClassPlan | None] = dict.fromkeys(range(len(catalog.classes)))
        self.plan_of_code.update((plan.code, plan) for plan in self.plans)

    def resolve(
        self, context: Any
    ) -> tuple[Context, int, bool, tuple[str, str, int], tuple[str, str] | None]:
        """Return a context with its time set, that time in microseconds, whether rules are not asked about
        its actor, the actor as the commit log names it, and on whose behalf it acts.

        Raises:
            ArgumentError: it is no context, or its time has no zone.
        """
        if not isinstance(context, Context):
            raise ArgumentError(
                f"expected a context, got {type(context).__name__}",
                hint="Pass Context(User('ada', roles=...)).",
            )
        actor, behalf = context.actor, context.on_behalf_of
        for each in (actor,) if behalf is None else (actor, behalf):
            _require_actor(each)
        if context.now is NOW or context.now == NOW:
            context = msgspec.structs.replace(context, now=self._clock())
        now: Any = context.now
        if not isinstance(now, datetime) or now.tzinfo is None:
            raise ArgumentError(
                f"the context's time {now!r} is no datetime, or has no time zone",
                hint="Use datetime.now(UTC).",
            )
        trusted = isinstance(actor, System)
        # Who acts on behalf of a job does so because of what caused the job.
        source = behalf if isinstance(behalf, System) else actor
        cause = source.cause if isinstance(source, System) else 0
        named = None if behalf is None else (behalf.kind, behalf.id)
        return context, microseconds(context.now), trusted, (actor.kind, actor.id, cause), named

    def _resolve_for_reading(self, context: Any) -> tuple[Context, bool]:
        context, _, trusted, *_ = self.resolve(context)
        return context, trusted


def _require_actor(actor: Any) -> None:
    if not isinstance(actor, Actor) or not is_text(actor.id) or not is_text(actor.kind):
        raise ArgumentError(
            f"the context's actor is {actor!r}",
            hint="Use an actor whose id is a text, as in User('ada').",
        )


def _stores(each: MachineSpec) -> list[Store]:
    """Return what is kept of the indexes and views of a class.

    Raises:
        ConfigError: K070, a view has an order that there is not.
    """
    stores: list[Store] = [IndexStore(index) for index in each.machine.indexes]
    for view in each.machine.views:
        if not isinstance(view, OrderedView):
            stores.append(FilterStore(view))
            continue
        try:
            stores.append(OrderStore(view, order_key(view, each.fields)))
        except ArgumentError as error:
            raise ConfigError("K070", f"{error.message}.", where=str(view.place), hint=error.hint) from error
    return stores


def _class_plan(
    each: MachineSpec, code: int, entry: ClassEntry, indexes: list[Store], spec: Spec, catalog: Catalog
) -> ClassPlan:
    machine = each.machine
    state_codes = {name: number for number, name in enumerate(entry.states)}
    states = [
        StatePlan(
            state,
            state_codes[state.name],
            _block(state.on_enter) if state.on_enter.executables else None,
            _block(state.on_exit) if state.on_exit.executables else None,
            [_timer(trigger) for trigger in state.triggers],
        )
        for state in machine.all_states
    ]
    return ClassPlan(
        machine.model_class,
        machine.name,
        code,
        checks=[field.check(name) for name, field in each.fields.items()],
        states=states,
        indexes=indexes,
        rules=[rule_of(rule, (), machine) for rule in machine.rules],
        decode=msgspec.msgpack.Decoder(machine.model_class).decode,
        schema=catalog.version,
        since=entry.since,
        upcaster=upcaster_of(code, catalog, machine.model_class, spec),
    )


def _link_references(plans: list[ClassPlan]) -> None:
    """Tell every class which fields of which classes may refer to it."""
    for plan in plans:
        plan.referenced_by = [
            field
            for other in plans
            for field in other.references
            if field.check.target is None or field.check.target is plan.model_class
        ]


def _timer(trigger: Any) -> Timer:
    block = _block(trigger.block)
    if callable(trigger.run_as):
        call_of(trigger.run_as, (), f"run_as {trigger.block.occasion}")
    if trigger.due is not None:
        return Timer(block, due=call_of(trigger.due, (), trigger.block.occasion))
    return Timer(block, delay_us=trigger.delay // datetime.resolution)


def _block(declared: DeclaredBlock[Any], names: tuple[str, ...] = ()) -> Block:
    return Block([_step(executable, names, declared) for executable in declared.executables])


def _step(executable: Executable, names: tuple[str, ...], declared: DeclaredBlock[Any]) -> Step:
    what = f"a function {declared.occasion}"
    call = None if executable.function is None else call_of(executable.function, names, what)
    condition = (
        None
        if executable.when is None
        else call_of(executable.when, names, f"a condition {declared.occasion}")
    )
    value = executable.value
    if executable.kind == TO_WHEN:
        choices, otherwise = value
        value = ([(call_of(function, names, what), state) for function, state in choices], otherwise)
    if executable.kind == JOB and value is not None:
        _require_job_for_model(value, executable, declared)
    return Step(executable.kind, call, condition, value)


def _require_job_for_model(job: Job[Any], executable: Executable, declared: DeclaredBlock[Any]) -> None:
    required = [check for check in job.checks if check.target is declared.owner.model_class]
    if len(job.checks) != 1 or not required:
        raise ConfigError(
            "K008",
            f"the job '{job.name}' does not take just a reference to {declared.owner.name}.",
            where=str(executable.place),
            hint=f"Give a function that makes the request: lambda a: {job.name}(...).",
        )


def _event_plan(spec: Spec, each: EventSpec, owner: ClassPlan, code: int) -> EventPlan:
    event = each.event
    names = event.names
    create = into = None
    blocks: list[Block | None]
    if isinstance(event, CreateEvent):
        create, into = call_of(event.function, names, f"the event {event}"), event.into
        blocks = [_block(event.block, names)]
    else:
        blocks = [
            _block(event.blocks[state], names) if state in event.blocks else None
            for state in event.machine.all_states
        ]
    return EventPlan(
        event,
        owner,
        code,
        checks=[field.check(name) for name, field in each.parameters.items()],
        allow=_calls(spec.allow.for_event(event)),
        deny=_calls(spec.deny.for_event(event)),
        rules=[rule_of(rule, names, event) for rule in event.rules],
        blocks=blocks,
        create=create,
        into=into,
        reach=event.visibility.level,
        demands=each.demands,
    )


def _calls(functions: list[Permit]) -> tuple[Call, ...]:
    return tuple(call_of(function, (), "an allow or deny rule") for function in functions)


def _access(spec: Spec, each: MachineSpec) -> ClassAccess:
    model_class = each.machine.model_class
    return ClassAccess(
        allow=_calls(spec.allow.for_class(model_class)),
        deny=_calls(spec.deny.for_class(model_class)),
        fields=tuple(
            FieldAccess(
                name,
                _calls(spec.allow.for_field(model_class, name, field.tags)),
                _calls(spec.deny.for_field(model_class, name, field.tags)),
            )
            for name, field in each.fields.items()
        ),
        types=each.fields,
    )

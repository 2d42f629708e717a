"""What becomes of a random design: an app built for Klerk, and the dictionary that should be like it.

`Built` declares a `Design` to Klerk. `World` is the model: rows in a dictionary, changed as the documentation
says that commands, blocks and timers change models, with nothing of Klerk's code.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from random_designs import (
    MINUTE,
    Class,
    Colour,
    Condition,
    Design,
    Does,
    Event,
    Link,
    Secret,
    Selection,
    Small,
    Spot,
    Word,
    annotation,
    evaluate,
    fits,
    holds,
    references,
)

import klerk
from klerk import MASKED, App, Args, JobRun, Model, Ref

NAMES = {
    each.__name__: each for each in (Colour, Link, Secret, Small, Spot, Word, Decimal, datetime, Model, Ref)
}

# --- for Klerk ----------------------------------------------------------------------------------------


class Live:
    """What expressions ask for, from the args of a function that Klerk calls."""

    def __init__(self, built: "Built", a: Any, model: Any = None) -> None:
        self.built, self.a = built, a
        self.model = model if a is None else a.model

    def field(self, name: str) -> Any:
        return None if self.model is None else getattr(self.model, name)

    def param(self, name: str) -> Any:
        return self.a.parameters[name]

    @property
    def now(self) -> datetime:
        now: datetime = self.a.now
        return now

    @property
    def id(self) -> Any:
        return None if self.model is None else self.model.meta.id

    def count(self, kind: str, state: str | None) -> int:
        return int(self.a.read.count(self.built.states[kind, state]))

    def first(self, kind: str, state: str | None) -> Any:
        found = self.a.read.first(self.built.states[kind, state])
        return None if found is None else found.meta.id

    def look(self, id: Any, name: str) -> Any:
        model = None if id is None else self.a.read.find(id)
        return None if model is None else getattr(model, name)


class Built:
    """A design as Klerk is told about it.

    Attributes:
        states: by class and name; the machine itself under a name of None.
        views: for each class, those that were declared; None for one that is made when it is read.
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        self.app = App("random")
        self.classes: dict[str, Any] = {}
        self.states: dict[tuple[str, str | None], Any] = {}
        self.events: dict[tuple[str, str], Any] = {}
        self.indexes: dict[str, list[Any]] = {}
        self.views: dict[str, list[Any]] = {}
        self.own_jobs: dict[str, Any] = {}
        self.names: dict[str, Any] = {**NAMES, "__name__": __name__}
        for each in design.classes:
            self.declare_class(each)

        @self.app.job()
        def tell(job: JobRun, word: str, number: int) -> None: ...

        self.tell = tell
        for each in design.classes:
            for event in each.events:
                self.declare_event(each, event)
        for each in design.classes:
            self.declare_blocks(each)
            self.declare_views(each)
            self.permit(each)
        self.permit_more()

    def run(self, source: str) -> None:
        exec(source, self.names)

    # Functions that Klerk calls.

    def updating(self, sets: Any) -> Callable[..., Any]:
        def update(a: Args) -> Any:
            scene = Live(self, a)
            if sets.unless is not None and holds(sets.unless, scene):
                return None
            return a.model.replace(**{name: evaluate(value, scene) for name, value in sets.values})

        return update

    def making(self, each: Class, sets: Any) -> Callable[..., Any]:
        def make(a: Args) -> Any:
            scene = Live(self, a)
            if sets.unless is not None and holds(sets.unless, scene):
                return None
            return self.classes[each.name](**{name: evaluate(value, scene) for name, value in sets.values})

        return make

    def asking(self, condition: Condition | None) -> Any:
        return None if condition is None else lambda a: holds(condition, Live(self, a))

    def of_model(self, condition: Condition) -> Callable[[Any], bool]:
        return lambda model: holds(condition, Live(self, None, model))

    def commanding(self, does: Does) -> Callable[..., Any]:
        def commands(a: Args) -> Iterator[Any]:
            for cause in does.about:
                scene = Live(self, a)
                event = self.events[cause.kind, cause.event]
                values = [evaluate(value, scene) for value in cause.values]
                if cause.target is None:
                    yield event(*values)
                elif (target := evaluate(cause.target, scene)) is not None:
                    yield event(target, *values)

        return commands if does.what == "generator" else lambda a: list(commands(a))

    def requesting(self, about: Any) -> Callable[..., Any]:
        values, delay = about

        def request(a: Args) -> Any:
            found = self.tell(*(evaluate(value, Live(self, a)) for value in values))
            return found if delay is None else found.at(a.now + delay * MINUTE)

        return request

    # Declarations.

    def declare_class(self, each: Class) -> None:
        lines = [f"class {each.name}(Model):"]
        for name, kind in each.fields:
            default = ""
            if name in dict(each.defaults):
                self.names[f"default_{each.name}_{name}"] = dict(each.defaults)[name]
                default = f" = default_{each.name}_{name}"
            lines.append(f"    {name}: {annotation(kind)}{default}")
        self.run("\n".join(lines))
        cls = self.classes[each.name] = self.names[each.name]
        machine = self.states[each.name, None] = self.app.machine(cls)
        found = machine.states(*each.states, final=each.final)
        self.states |= {(each.name, str(state)): state for state in found}
        for condition in each.rules:
            machine.rule(self.of_model(condition))

        def own(job: JobRun, ref: Any) -> None: ...

        own.__name__ = f"own_{each.name}"
        own.__annotations__["ref"] = Ref[cls]
        self.own_jobs[each.name] = self.app.job()(own)
        self.indexes[each.name] = [
            machine.index(self.keying(index.key), unique=index.unique, each=index.each)
            for index in each.indexes
        ]

    def keying(self, key: Any) -> Callable[[Any], Any]:
        return lambda model: evaluate(key, Live(self, None, model))

    def declare_event(self, each: Class, event: Event) -> None:
        params = "".join(f", {name}: {annotation(kind)}" for name, kind in event.params)
        self.names["act"] = self.updating(event.body) if event.into is None else self.making(each, event.body)
        # The parameters are found in the args; the signature is what declares them.
        self.run(f"def bind(act):\n    def {event.name}(a{params}): return act(a)\n    return {event.name}")
        function = self.names["bind"](self.names["act"])
        machine = self.states[each.name, None]
        if event.into is not None:
            declared = machine.create(into=self.states[each.name, event.into])(function)
        else:
            declared = machine.event(*(self.states[each.name, state] for state in event.states))(function)
        for condition in event.rules:
            declared.rule(self.asking(condition))
        self.events[each.name, event.name] = declared

    def declare_blocks(self, each: Class) -> None:
        for event in each.events:
            declared = self.events[each.name, event.name]
            for state, block in event.blocks:
                self.fill(
                    declared.block if event.into is not None else self.states[each.name, state].on(declared),
                    each,
                    block,
                )
        for state, block in each.enter:
            self.fill(self.states[each.name, state].on_enter, each, block)
        for state, block in each.exit:
            self.fill(self.states[each.name, state].on_exit, each, block)
        for timer in each.timers:
            state = self.states[each.name, timer.state]
            if isinstance(timer.due, int):
                self.fill(state.after(timer.due * MINUTE), each, timer.block)
            else:
                self.fill(state.at(self.telling(timer.due)), each, timer.block)

    def telling(self, due: Any) -> Callable[..., Any]:
        return lambda a: evaluate(due, Live(self, a))

    def fill(self, block: Any, each: Class, executables: Iterable[Does]) -> None:
        for does in executables:
            when = self.asking(does.when)
            match does.what:
                case "update":
                    block.update(self.updating(does.about), when=when)
                case "to":
                    block.to(self.states[each.name, does.about], when=when)
                case "to_when":
                    choices, otherwise = does.about
                    found = {self.asking(asked): self.states[each.name, state] for asked, state in choices}
                    target = None if otherwise is None else self.states[each.name, otherwise]
                    block.to_when(found, target, when=when)
                case "commands" | "generator":
                    block.commands(self.commanding(does), when=when)
                case "job":
                    block.job(self.requesting(does.about), when=when)
                case "own_job":
                    block.job(self.own_jobs[each.name], when=when)
                case "delete":
                    block.delete(when=when)

    def declare_views(self, each: Class) -> None:
        self.views[each.name] = [self.view(each, view) if view.kept else None for view in each.views]

    def view(self, each: Class, selection: Selection) -> Any:
        """Return a view as it was declared, or make it."""
        view = self.states[each.name, selection.state]
        for step in selection.steps:
            match step:
                case ("where", condition):
                    view = view.where(self.of_model(condition))
                case ("param", name, value):
                    view = view.where(lambda model, wanted, name=name: getattr(model, name) == wanted)(value)
                case ("in_states", states):
                    view = view.in_states(*(self.states[each.name, state] for state in states))
                case ("order", keys, turned):
                    view = view.order(*keys, descending=turned)
                case ("order_by", key, turned):
                    view = view.order(self.keying(key), descending=turned)
        return view

    # Rules: the tester may do and read everything, a guest what the design says.

    def permit(self, each: Class) -> None:
        permit = self.app.allow.command(*(self.events[each.name, e.name] for e in each.events if e.guests))
        if any(event.guests for event in each.events):
            permit(lambda a: True)
        for event in each.events:
            if event.denied is not None:
                deny = self.app.deny.command(self.events[each.name, event.name])
                deny(
                    lambda a, asked=event.denied: (
                        a.context.actor.id == "guest" and holds(asked, Live(self, a))
                    )
                )
        cls = self.classes[each.name]
        if each.guests is True:
            self.app.allow.read(cls)(lambda a: True)
        elif each.guests is not False:
            # A rule that asks for a model that is gone hides it, so the tester is not asked about any.
            self.app.allow.read(cls)(
                lambda a: a.context.actor.id == "guest" and holds(each.guests, Live(self, a))
            )
        for name, condition in each.masks:
            self.app.deny.field(cls, names=name)(
                lambda a, asked=condition: (
                    a.context.actor.id == "guest" and (asked is None or holds(asked, Live(self, a)))
                )
            )

    def permit_more(self) -> None:
        def is_tester(a: Args) -> bool:
            return a.context.actor.id == "tester"

        self.app.allow.command()(is_tester)
        self.app.allow.read()(is_tester)
        self.app.allow.field()(lambda a: True)
        self.app.allow.log()(is_tester)
        if self.design.tag and any(
            kind == "secret" for each in self.design.classes for _, kind in each.fields
        ):
            self.app.deny.field(tag="secret")(lambda a: a.context.actor.id == "guest")


# --- the model ----------------------------------------------------------------------------------------


class Refused(Exception):
    """The transaction must be refused with one of these errors."""

    def __init__(self, *errors: type[Exception]) -> None:
        super().__init__(*errors)
        self.errors = errors


class Endless(Exception):
    """Blocks or timers cause each other so often that nobody wants to see it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One version of a model. `fired`: up to when its timers have fired; `due`: when the next one will."""

    id: int
    kind: str
    state: str
    version: int
    created: datetime
    updated: datetime
    entered: datetime
    fields: dict[str, Any]
    fired: datetime | None = None
    due: datetime | None = None


class JobRow(NamedTuple):
    """A job that waits to be run."""

    id: int
    kind: str
    arguments: tuple[Any, ...]
    run_at: datetime | None
    created: datetime
    cause: int

    @classmethod
    def of(cls, record: Any, epoch: datetime) -> "JobRow":
        run_at = epoch + timedelta(microseconds=record.run_at_us) if record.run_at_us else None
        created = epoch + timedelta(microseconds=record.created_us)
        return cls(record.id, record.kind, record.arguments, run_at, created, record.cause)


class Pick(NamedTuple):
    """The nth model of a class when its turn comes, counted round and round; "wild": just that number."""

    kind: str
    nth: int

    def resolved(self, models: dict[int, Row], states: tuple[str, ...] = ()) -> int:
        if self.kind == "wild":
            return self.nth
        ids = [id for id, row in sorted(models.items()) if row.kind == self.kind]
        # Mostly one that accepts the event, so that histories get somewhere.
        accepting = [id for id in ids if models[id].state in states]
        if accepting and self.nth % 4:
            ids = accepting
        return ids[self.nth % len(ids)] if ids else 0


class Call(NamedTuple):
    """A command before it is known which models it is about."""

    kind: str
    event: str
    target: Pick | None
    values: tuple[Any, ...]

    def resolved(self, design: Design, models: dict[int, Row]) -> "Call":
        """Return the call with ids for picks."""
        target: Any = self.target
        if target is not None:
            target = target.resolved(models, design.of(self.kind).event(self.event).states)
        return self._replace(target=target, values=tuple(_resolved(value, models) for value in self.values))


def _resolved(value: Any, models: dict[int, Row]) -> Any:
    if isinstance(value, Pick):
        return value.resolved(models)
    if isinstance(value, Link) and isinstance(value.to, Pick):
        return Link(note=value.note, to=value.to.resolved(models))
    if isinstance(value, tuple):
        return tuple(_resolved(each, models) for each in value)
    return value


class Logged(NamedTuple):
    """What the commit log should say about one transaction."""

    time: datetime
    actor: str
    commands: tuple[tuple[str, int | None, int, tuple[Any, ...]], ...]
    created: list[int]
    updated: list[int]
    deleted: list[int]
    jobs: list[int]


@dataclass
class Done:
    """What a transaction should do: for each command the id and row that it is about right after it, and in
    the end the changes; or the errors that it may be refused with."""

    commands: list[Call] = field(default_factory=list)
    ids: list[int | None] = field(default_factory=list)
    rows: list[Row | None] = field(default_factory=list)
    moments: list[dict[int, Row]] = field(default_factory=list)
    errors: tuple[type[Exception], ...] = ()
    created: dict[int, Row] = field(default_factory=dict)
    updated: dict[int, Row] = field(default_factory=dict)
    deleted: list[int] = field(default_factory=list)
    jobs: list[JobRow] = field(default_factory=list)
    sequence: int = 0


@dataclass
class World:
    """Everything that the store should hold."""

    design: Design
    models: dict[int, Row] = field(default_factory=dict)
    jobs: list[JobRow] = field(default_factory=list)
    log: list[Logged] = field(default_factory=list)
    versions: dict[int, list[tuple[int, Row | None]]] = field(default_factory=dict)
    next_id: int = 1

    @property
    def sequence(self) -> int:
        return len(self.log)

    def of(self, kind: str, state: str | None = None) -> list[Row]:
        return rows_of(self.models, kind, state)

    def transact(
        self, calls: Sequence[Call], now: datetime, *, actor: str = "tester", keep: bool = True
    ) -> Done:
        """Handle calls, all or none."""
        done = Done()
        trial = Trial(self, now, actor)
        try:
            for call in calls:
                command = call.resolved(self.design, trial.models)
                done.commands.append(command)
                id = trial.apply(command, 0)
                done.ids.append(id)
                done.rows.append(None if id is None else trial.models.get(id))
                done.moments.append(dict(trial.models))
            trial.end()
        except Refused as refusal:
            done.errors = refusal.errors
            rest = calls[len(done.commands) :]
            done.commands += [call.resolved(self.design, trial.models) for call in rest]
            return done
        self.finish(trial, done, keep=keep)
        return done

    def finish(self, trial: "Trial", done: Done, *, keep: bool = True) -> None:
        """Say what a transaction did, and let it have been done."""
        for id in trial.touched:
            if id in trial.models:
                (done.updated if id in self.models else done.created)[id] = trial.models[id]
            elif id in self.models:
                done.deleted.append(id)
        done.jobs = trial.jobs
        if not keep:
            return
        commands = tuple(each for each in trial.commands if each is not None)
        changed = list(done.created), list(done.updated), done.deleted
        self.log.append(Logged(trial.now, trial.actor, commands, *changed, [job.id for job in trial.jobs]))
        done.sequence = self.sequence
        for id in (*done.created, *done.updated, *done.deleted):
            self.versions.setdefault(id, []).append((self.sequence, trial.models.get(id)))
        self.models, self.next_id = trial.models, trial.next_id
        self.jobs = self.jobs + trial.jobs

    def fire_due(self, now: datetime) -> None:
        """Fire what is due, in the order of the moments, then of the ids: what this makes due, too.

        Raises:
            Endless: it never ends; nothing was fired.
        """
        after = replace(
            self, log=list(self.log), versions={id: list(each) for id, each in self.versions.items()}
        )
        for _ in range(100):
            rows = after.models.values()
            due = min(
                ((row.due, row.id) for row in rows if row.due is not None and row.due <= now), default=None
            )
            if due is None:
                self.__dict__.update(after.__dict__)
                return
            after.fire(now, *due)
        raise Endless

    def fire(self, now: datetime, due: datetime, id: int) -> None:
        trial = Trial(self, now, "timer")
        try:
            trial.fire(id, due)
            trial.end()
        except Refused:
            trial = Trial(self, now, "timer")
            trial.refuse(id, due)
        self.finish(trial, Done())


def rows_of(models: dict[int, Row], kind: str, state: str | None = None) -> list[Row]:
    return [
        row for _, row in sorted(models.items()) if row.kind == kind and (state is None or row.state == state)
    ]


class Scene:
    """What expressions ask for, from a transaction on the dictionary. `row` goes with the transaction."""

    def __init__(
        self, trial: "Trial | None", now: datetime | None, row: Row | None, params: dict[str, Any]
    ) -> None:
        self.trial, self.now, self.row, self.params = trial, now, row, params

    def field(self, name: str) -> Any:
        value = None if self.row is None else self.row.fields[name]
        if value is MASKED:
            raise TypeError("what is hidden answers no question")
        return value

    def param(self, name: str) -> Any:
        return self.params[name]

    @property
    def id(self) -> int | None:
        return None if self.row is None else self.row.id

    def rows(self, kind: str, state: str | None = None) -> list[Row]:
        assert self.trial is not None
        return rows_of(self.trial.models, kind, state)

    def count(self, kind: str, state: str | None) -> int:
        return len(self.rows(kind, state))

    def first(self, kind: str, state: str | None) -> int | None:
        return next((row.id for row in self.rows(kind, state)), None)

    def look(self, id: int | None, name: str) -> Any:
        assert self.trial is not None
        row = None if id is None else self.trial.models.get(id)
        return None if row is None else row.fields[name]


def of_row(row: Row) -> Scene:
    return Scene(None, None, row, {})


def asked(what: Callable[..., Any], *args: Any) -> Any:
    """Return what a function of the application gives; one that raises is a failure of the transaction."""
    try:
        return what(*args)
    except (TypeError, ZeroDivisionError, AttributeError):
        raise Refused(klerk.FunctionFailed) from None


class Trial:
    """A transaction on a copy of the world."""

    def __init__(self, world: World, now: datetime, actor: str) -> None:
        self.world, self.now, self.actor = world, now, actor
        self.design = world.design
        self.models = dict(world.models)
        self.next_id = world.next_id
        self.touched: dict[int, None] = {}
        self.gone: list[int] = []
        self.jobs: list[JobRow] = []
        self.commands: list[Any] = []
        self.work_left = 150

    def spend(self, depth: int = 0) -> None:
        self.work_left -= 1
        if not self.work_left or depth > 12:
            raise Endless

    # Commands.

    def apply(self, command: Call, depth: int) -> int | None:
        self.spend(depth)
        cls = self.design.of(command.kind)
        event = cls.event(command.event)
        params = {name: value for (name, _), value in zip(event.params, command.values, strict=True)}
        if not all(fits(kind, params[name]) for name, kind in event.params):
            raise Refused(klerk.InvalidValue)
        scene = Scene(self, self.now, None, params)
        if event.into is None:
            assert isinstance(command.target, int)
            row = self.models.get(command.target)
            scene.row = row if row is not None and row.kind == command.kind else None
        if depth == 0 and self.actor == "guest":
            self.authorize(event, scene)
        if event.into is None and scene.row is None:
            raise Refused(klerk.NotFound)
        for name, kind in event.params:
            self.require_models(kind, params[name])
        place = len(self.commands)
        self.commands.append(None)
        if event.into is None:
            id = self.happen(cls, event, scene, depth)
        else:
            self.obey(event, scene)
            id = self.create(cls, event, scene, depth)
        self.commands[place] = (f"{cls.name}.{event.name}", id, depth, command.values)
        return id

    def authorize(self, event: Event, scene: Scene) -> None:
        if not event.guests:
            raise Refused(klerk.Denied)
        # A model that is missing is not told from one that the event is denied on.
        if event.denied is not None and (scene.row is None or asked(holds, event.denied, scene)):
            raise Refused(klerk.Denied)

    def obey(self, event: Event, scene: Scene) -> None:
        # All are asked: one that raises is a failure, whatever the others say.
        verdicts = [asked(holds, rule, scene) for rule in event.rules]
        if not all(verdicts):
            raise Refused(klerk.Rejected)

    def happen(self, cls: Class, event: Event, scene: Scene, depth: int) -> int:
        assert scene.row is not None
        id = scene.row.id
        if scene.row.state not in event.states:
            raise Refused(klerk.WrongState)
        self.obey(event, scene)
        block = dict(event.blocks)[scene.row.state]
        self.block(cls, (Does("update", event.body), *block), scene, depth)
        return id

    def create(self, cls: Class, event: Event, scene: Scene, depth: int) -> int | None:
        assert event.into is not None
        sets = event.body
        if not (sets.unless is not None and asked(holds, sets.unless, scene)):
            found = {name: asked(evaluate, value, scene) for name, value in sets.values}
            fields = {name: found.get(name, dict(cls.defaults).get(name)) for name, _ in cls.fields}
            self.check(cls, fields, None)
            id = self.next_id
            self.next_id += 1
            self.put(cls, scene, Row(id, cls.name, event.into, 1, self.now, self.now, self.now, fields))
            self.enter(cls, scene, event.into, depth)
            self.effects(cls, dict(event.blocks).get(event.into, ()), scene, id, depth)
            return id
        self.effects(cls, dict(event.blocks).get(event.into, ()), scene, 0, depth)
        return None

    # Blocks.

    def block(self, cls: Class, block: Iterable[Does], scene: Scene, depth: int) -> None:
        """Run a block: updates, at most one transition, then the effects."""
        self.spend(depth)
        block = tuple(block)
        assert scene.row is not None
        id = scene.row.id
        for does in block:
            if does.what == "update" and self.wanted(does, scene):
                self.update(cls, does.about, scene)
        for does in block:
            if does.what in ("to", "to_when"):
                state = self.chosen(does, scene)
                if state is not None:
                    self.move(cls, scene, state, depth)
                    break
        self.effects(cls, block, scene, id, depth)

    def wanted(self, does: Does, scene: Scene) -> bool:
        return does.when is None or asked(holds, does.when, scene)

    def update(self, cls: Class, sets: Any, scene: Scene) -> None:
        row = scene.row
        assert row is not None
        if sets.unless is not None and asked(holds, sets.unless, scene):
            return
        fields = {**row.fields, **{name: asked(evaluate, value, scene) for name, value in sets.values}}
        self.check(cls, fields, row)
        self.put(cls, scene, self.changed(row, fields=fields))

    def chosen(self, does: Does, scene: Scene) -> str | None:
        if not self.wanted(does, scene):
            return None
        if does.what == "to":
            return str(does.about)
        choices, otherwise = does.about
        return next((state for condition, state in choices if asked(holds, condition, scene)), otherwise)

    def move(self, cls: Class, scene: Scene, state: str, depth: int) -> None:
        self.leave(cls, scene, depth)
        assert scene.row is not None
        self.put(cls, scene, self.changed(scene.row, state=state))
        self.enter(cls, scene, state, depth)

    def leave(self, cls: Class, scene: Scene, depth: int) -> None:
        """Run the exit block; the model must still be there after it."""
        assert scene.row is not None
        id = scene.row.id
        if (block := dict(cls.exit).get(scene.row.state)) is None:
            return
        self.block(cls, block, self.inside(scene), depth + 1)
        if id not in self.models:
            raise Refused(klerk.Conflict)
        scene.row = self.models[id]

    def enter(self, cls: Class, scene: Scene, state: str, depth: int) -> None:
        if (block := dict(cls.enter).get(state)) is not None:
            inside = self.inside(scene)
            self.block(cls, block, inside, depth + 1)
            scene.row = inside.row

    def inside(self, scene: Scene) -> Scene:
        return Scene(self, self.now, scene.row, scene.params)

    def effects(self, cls: Class, block: Iterable[Does], scene: Scene, id: int, depth: int) -> None:
        """Secondary commands first, then jobs, then the end of the model."""
        order = {"commands": 0, "generator": 0, "job": 1, "own_job": 1, "delete": 2}
        for does in sorted((does for does in block if does.what in order), key=lambda does: order[does.what]):
            exists = id in self.models
            scene.row = self.models.get(id, scene.row)
            if (does.what == "delete" and not exists) or not self.wanted(does, scene):
                continue
            match does.what:
                case "commands":
                    for command in list(self.commands_of(does, scene)):
                        self.apply(command, depth + 1)
                case "generator":
                    for command in self.commands_of(does, scene):
                        self.apply(command, depth + 1)
                case "job":
                    self.job(does.about, scene)
                case "own_job":
                    self.own_job(cls, id)
                case "delete":
                    self.leave(cls, scene, depth)
                    del self.models[id]
                    self.touched[id] = None
                    self.gone.append(id)

    def commands_of(self, does: Does, scene: Scene) -> Iterator[Call]:
        for cause in does.about:
            values = tuple(asked(evaluate, value, scene) for value in cause.values)
            if cause.target is None:
                yield Call(cause.kind, cause.event, None, values)
            elif (target := asked(evaluate, cause.target, scene)) is not None:
                yield Call(cause.kind, cause.event, target, values)

    def job(self, about: Any, scene: Scene) -> None:
        (word, number), delay = about
        values = asked(evaluate, word, scene), asked(evaluate, number, scene)
        if type(values[0]) is not str or type(values[1]) is not int:
            raise Refused(klerk.InvalidValue)
        self.add_job("tell", values, None if delay is None else self.now + delay * MINUTE)

    def own_job(self, cls: Class, id: int) -> None:
        if id in self.models:
            self.add_job(f"own_{cls.name}", (id,), None)

    def add_job(self, kind: str, arguments: tuple[Any, ...], run_at: datetime | None) -> None:
        id = len(self.world.jobs) + len(self.jobs) + 1
        self.jobs.append(JobRow(id, kind, arguments, run_at, self.now, self.world.sequence + 1))

    # Timers.

    def fire(self, id: int, due: datetime) -> None:
        row = self.models[id]
        cls = self.design.of(row.kind)
        fired = [
            timer
            for timer in cls.timers
            if timer.state == row.state and self.is_between(row.fired, self.moment(timer, row), due)
        ]
        scene = Scene(self, self.now, row, {})
        self.put(cls, scene, self.changed(row, fired=due))
        self.commands.append(("timer", id, 0, ()))
        for timer in fired:
            scene.row = self.models.get(id)
            if scene.row is None or scene.row.state != row.state:
                break
            self.block(cls, timer.block, scene, 0)

    def refuse(self, id: int, due: datetime) -> None:
        row = self.models[id]
        self.put(self.design.of(row.kind), Scene(self, self.now, row, {}), self.changed(row, fired=due))
        self.commands.append(("timer", id, 0, ()))

    def is_between(self, fired: datetime | None, due: datetime | None, until: datetime) -> bool:
        return due is not None and (fired is None or fired < due) and due <= until

    def moment(self, timer: Any, row: Row) -> datetime | None:
        if isinstance(timer.due, int):
            return row.entered + timer.due * MINUTE
        found: datetime | None = asked(evaluate, timer.due, Scene(self, row.updated, row, {}))
        return found

    def next_due(self, cls: Class, row: Row) -> datetime | None:
        moments = [self.moment(timer, row) for timer in cls.timers if timer.state == row.state]
        return min((m for m in moments if m and (row.fired is None or m > row.fired)), default=None)

    # What holds for every change.

    def changed(self, row: Row, **changes: Any) -> Row:
        """Return another version: one more for each transaction."""
        state = changes.get("state", row.state)
        stays = state == row.state
        fired = changes.get("fired", row.fired) if stays else None
        enters = "state" in changes
        return Row(
            row.id,
            row.kind,
            state,
            row.version if row.id in self.touched else row.version + 1,
            row.created,
            self.now,
            self.now if enters else row.entered,
            changes.get("fields", row.fields),
            fired if row.fired is None or fired is None else max(fired, row.fired),
        )

    def put(self, cls: Class, scene: Scene, row: Row) -> None:
        self.spend()
        due = self.next_due(cls, row)
        scene.row = self.models[row.id] = Row(*(getattr(row, name) for name in Row.__slots__[:-1]), due)
        self.touched.setdefault(row.id)

    def check(self, cls: Class, fields: dict[str, Any], before: Row | None) -> None:
        """Refuse what is no value of its field, and what breaks a rule of the class."""
        errors = []
        for name, kind in cls.fields:
            if before is not None and fields[name] == before.fields[name]:
                continue
            if not fits(kind, fields[name]):
                errors.append(klerk.InvalidValue)
            elif any(self.is_missing(id, of) for id, of in references(kind, fields[name])):
                errors.append(klerk.BrokenReference)
        if errors:
            raise Refused(*errors)
        row = Row(0, cls.name, "", 0, self.now, self.now, self.now, fields)
        verdicts = [asked(holds, rule, of_row(row)) for rule in cls.rules]
        if not all(verdicts):
            raise Refused(klerk.Rejected)

    def is_missing(self, id: int, kind: str) -> bool:
        return id not in self.models or self.models[id].kind != kind

    def require_models(self, kind: str, value: Any) -> None:
        if any(self.is_missing(id, of) for id, of in references(kind, value)):
            raise Refused(klerk.BrokenReference)

    def end(self) -> None:
        """Refuse to leave references to what was deleted, and keys that two models have."""
        if self.gone:
            for row in self.models.values():
                for name, kind in self.design.of(row.kind).fields:
                    if any(id not in self.models for id, _ in references(kind, row.fields[name])):
                        raise Refused(klerk.Conflict)
        for cls in self.design.classes:
            for index in cls.indexes:
                if index.unique:
                    keys = [key for row in rows_of(self.models, cls.name) for key in keys_of(index, row)]
                    if len(set(keys)) < len(keys):
                        raise Refused(klerk.Conflict)


def keys_of(index: Any, row: Row) -> frozenset[Any]:
    """Return the keys that a row is found under."""
    key = evaluate(index.key, of_row(row))
    if key is None:
        return frozenset()
    return frozenset(key) if index.each else frozenset((key,))


# --- what can be read ---------------------------------------------------------------------------------


class Hidden(Exception):
    """A read must be refused."""


def shown_to(design: Design, actor: str, row: Row) -> Row | None:
    """Return a row as an actor may see it; None: not at all."""
    if actor != "guest":
        return row
    cls = design.of(row.kind)
    if cls.guests is False or (cls.guests is not True and not holds(cls.guests, of_row(row))):
        return None
    masked = {name for name, when in cls.masks if when is None or holds(when, of_row(row))}
    if design.tag:
        masked |= {name for name, kind in cls.fields if kind == "secret"}
    if not masked:
        return row
    fields = {name: MASKED if name in masked else value for name, value in row.fields.items()}
    return Row(*(getattr(row, name) for name in Row.__slots__[:7]), fields, row.fired, row.due)


def value_of(row: Row, name: str, states: tuple[str, ...]) -> Any:
    """Return what rows can be sorted by: a field, or something about the version."""
    if name in row.fields:
        return row.fields[name]
    times = {"created_at": row.created, "updated_at": row.updated, "entered_at": row.entered}
    return {"id": row.id, "version": row.version, "state": states.index(row.state), **times}[name]


def sorting(value: Any) -> Any:
    """Return something that sorts as a value does: None first, enums by their values."""
    if value is MASKED:
        raise TypeError("nothing is sorted by what is hidden")
    if value is None:
        return (0,)
    if isinstance(value, Colour):
        return (1, value.value)
    if isinstance(value, tuple):
        return (1, tuple(map(sorting, value)))
    return (1, value)


class Sorts(NamedTuple):
    """An order: names of fields with a sign, or an expression."""

    keys: Any
    turned: bool

    def parts(self, cls: Class, row: Row) -> list[tuple[Any, bool]]:
        """Return what a row is sorted by, each with whether that is turned round."""
        if isinstance(self.keys[0], str) and self.keys[0] == "pair":
            return [(sorting(evaluate(self.keys, of_row(row))), self.turned)]
        return [
            (sorting(value_of(row, key.lstrip("-"), cls.states)), key.startswith("-") != self.turned)
            for key in self.keys
        ]

    def sorted(self, cls: Class, rows: list[Row]) -> list[Row]:
        rows = sorted(rows, key=lambda row: row.id)
        if rows:
            for nth, (_, turned) in reversed(list(enumerate(self.parts(cls, rows[0])))):
                rows.sort(key=lambda row, nth=nth: self.parts(cls, row)[nth][0], reverse=turned)
        return rows


class Seen:
    """What one actor should see of the rows of one moment.

    Parameters:
        leaves_out: what may not be read is left out instead of being refused.
    """

    def __init__(
        self, design: Design, models: dict[int, Row], actor: str, *, leaves_out: bool = False
    ) -> None:
        self.design, self.models, self.actor, self.leaves_out = design, models, actor, leaves_out

    def walk(
        self, cls: Class, view: Selection, order: Sorts | None = None, where: Any = None
    ) -> Iterator[Row]:
        """Yield the rows of a view as they are shown, in its order.

        Raises:
            Hidden: the next one may not be read, or what it is sorted by.
        """
        order = order or view_order(view)
        rows = [row for row in rows_of(self.models, cls.name, view.state) if selects(view, row)]
        return self.show(cls, rows if order is None else order.sorted(cls, rows), view, order, where)

    def show(
        self, cls: Class, rows: list[Row], view: Selection, order: Sorts | None, where: Any
    ) -> Iterator[Row]:
        for row in rows:
            shown = shown_to(self.design, self.actor, row)
            if shown is None:
                if self.leaves_out:
                    continue
                raise Hidden
            if shown is not row:
                if not found_by(lambda shown=shown: selects(view, shown)):
                    continue
                if order is not None and not found_by(
                    lambda shown=shown, row=row: order.parts(cls, shown) == order.parts(cls, row)
                ):
                    raise Hidden
            if where is None or found_by(lambda shown=shown: holds(where, of_row(shown))):
                yield shown

    def show_by_key(self, index: Any, key: Any, rows: list[Row]) -> Iterator[Row]:
        """Yield those of the rows with a key that show it."""
        for row in rows:
            shown = shown_to(self.design, self.actor, row)
            if shown is None:
                if self.leaves_out:
                    continue
                raise Hidden
            if shown is row or found_by(lambda shown=shown: key in keys_of(index, shown)):
                yield shown

    def referrers(self, fields: list[tuple[Class, str, str]], id: int) -> list[Row]:
        """Return the rows that refer to a model by one of some fields, as they are shown."""
        found = {}
        for cls, name, kind in fields:
            for row in rows_of(self.models, cls.name):
                if id not in [each for each, _ in references(kind, row.fields[name])]:
                    continue
                shown = shown_to(self.design, self.actor, row)
                if shown is None:
                    if self.leaves_out:
                        continue
                    raise Hidden
                if shown.fields[name] is not MASKED:
                    found[row.id] = shown
        return [found[id] for id in sorted(found)]


def found_by(condition: Callable[[], bool]) -> bool:
    """Return whether a condition finds a row: by what is hidden, nothing is found."""
    try:
        return condition()
    except Exception:
        return False


def view_order(view: Selection) -> Sorts | None:
    orders = [Sorts(step[1], step[2]) for step in view.steps if step[0] in ("order", "order_by")]
    return orders[-1] if orders else None


def selects(view: Selection, row: Row) -> bool:
    """Return whether a row belongs to a view."""
    if view.state is not None and row.state != view.state:
        return False
    for step in view.steps:
        match step:
            case ("where", condition):
                if not holds(condition, of_row(row)):
                    return False
            case ("param", name, value):
                if row.fields[name] != value:
                    return False
            case ("in_states", states):
                if row.state not in states:
                    return False
    return True

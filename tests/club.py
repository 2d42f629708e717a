"""A club, declared for Klerk, and beside it `World`: the same rules by hand over a plain dictionary.

The design has three kinds of references, seven indexes, four views, and blocks that update, move, delete,
cause further commands and ask for jobs. The world has no views and no indexes: it answers every question by
looking at every row, and a transaction works on a copy of it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from designs import NOON, permit_everything

import klerk
from klerk import App, Args, JobRun, JobState, Model, Ref

YEAR = timedelta(days=365)


NAMES = ("Ada", "Bob", "Cy", "Dee", "Eve", "Flo", "Gus", "Hal", "Ida")
SCORES = (0, 10, 30, 45, 50, 70, 100)


# --- the design ---------------------------------------------------------------------------------------


class Name(klerk.Text, min=1, max=8): ...


class Score(klerk.Int, ge=0, le=100): ...


class Person(Model):
    name: Name
    code: Name | None = None
    mentor: Ref["Person"] | None = None
    score: Score = 0
    weight: float | None = None
    joined: datetime


class Team(Model):
    title: Name
    leader: Ref[Person] | None = None
    members: tuple[Ref[Person], ...] = ()
    budget: Score = 0
    exits: int = 0
    survey: tuple[int, ...] = ()


class Task(Model):
    team: Ref[Team]
    priority: Score = 0
    assignee: Ref[Person] | None = None
    parent: Ref["Task"] | None = None
    due: datetime | None = None


class Club:
    """People who join and teams that share tasks; `World` says the same in plain Python."""

    def __init__(self) -> None:
        self.app = App("club")
        self.person, self.team, self.task = (self.app.machine(each) for each in (Person, Team, Task))
        self.person.states("guest", "member", "banned")
        self.team.states("open", "full", "closed")
        self.task.states("todo", "doing", "done")
        self.by_name = self.person.index(lambda m: m.name, unique=True)
        self.by_code = self.person.index(lambda m: m.code, unique=True)
        self.by_mentor = self.person.index(lambda m: m.mentor)
        self.by_size = self.team.index(lambda m: len(m.members))
        self.by_team = self.task.index(lambda m: m.team)
        self.by_priority = self.task.index(lambda m: m.priority or None)
        self.by_place = self.task.index(lambda m: (m.team, m.assignee))
        self.promising = self.person.where(lambda m: m.score >= 45)
        self.by_score = self.person.order("score", "name")
        self.by_budget = self.team.all_states[0].order("budget", descending=True)
        self.urgent = self.task.where(lambda m: m.priority > 30).order(lambda m: -m.priority)
        permit_everything(self.app)
        self.app.allow.log()(lambda a: True)
        self.steps = 0
        self.begin()
        self._declare_jobs()
        self._declare_tasks()
        self._declare_people()
        self._declare_what_happens_to_people()
        self._declare_teams()
        self._declare_surveys()
        self.events = {event.name: event for m in (self.person, self.team, self.task) for event in m.events}

        @self.app.deny.command(self.events["ban"], self.events["disband"])
        def stranger(a: Args) -> bool:
            return bool(a.context.actor.id == "stranger")

    def begin(self) -> None:
        """Forget what an earlier history left."""
        self.called: list[str] = []
        self.batches: list[list[Any]] = []
        self.reached, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def _declare_jobs(self) -> None:
        @self.app.job()
        def greet(job: JobRun, person: Ref[Person]) -> None: ...

        @self.app.job()
        def celebrate(job: JobRun, task: Ref[Task]) -> None: ...

        @self.app.job()
        def report(job: JobRun, name: str, number: int) -> None: ...

        self.greet, self.celebrate, self.report = greet, celebrate, report

    def _declare_people(self) -> None:
        guest, member, banned = self.person.all_states

        @self.person.rule
        def code_is_no_name(m: Person) -> bool:
            return m.code != m.name

        @self.person.create(into=guest)
        def join(
            a: Args,
            name: Name,
            code: Name | None = None,
            mentor: Ref[Person] | None = None,
            score: Score = 0,
        ) -> Person:
            return Person(name=name, code=code, mentor=mentor, score=score, joined=a.now)

        @join.rule
        def few_guests(a: Args) -> bool:
            return a.read.count(guest) < 5 and len(a.read.list(guest)) < 5

        join.job(self.greet)
        guest.on_enter.to(member, when=lambda a: a.model.score >= 50)
        member.on_enter.update(lambda a: a.model.replace(weight=(a.model.weight or 0.0) + 1.5))
        member.on_exit.update(lambda a: a.model.replace(code=None)).job(
            lambda a: self.report(a.model.name, 9)
        )
        banned.on_enter.update(lambda a: a.model.replace(score=0)).job(
            lambda a: [self.report(a.model.name, n).at(a.now + YEAR) for n in range(2)]
        )

        @self.person.create(into=guest)
        def pause(a: Args) -> Person | None:
            """Create nothing, and wait meanwhile."""
            self.reached.release()
            assert self.go.acquire(timeout=20)
            return None

        @self.person.create(into=guest)
        def together(a: Args, number: int) -> Person | None:
            """Create nothing; several commands that can be submitted as one."""
            return None

        together.commands(lambda a, number: self.batches[number])

    def _declare_what_happens_to_people(self) -> None:
        guest, member, banned = self.person.all_states

        @self.person.event(guest, member, banned)
        def gain(a: Args[Person], points: int) -> Person:
            return a.model.replace(score=a.model.score + points)

        guest.on(gain).to_when({(lambda a: a.model.score >= 50): member})
        member.on(gain).to_when({(lambda a: a.model.score < 50): guest})

        @self.person.event(guest, member)
        def rename(a: Args[Person], name: Name) -> Person:
            return a.model.replace(name=name)

        guest.on(rename).unmanaged_job(lambda a: self.called.append(a.model.name))

        @self.person.event(guest, member, banned)
        def mark(a: Args[Person], code: Name | None) -> Person:
            return a.model.replace(code=code)

        @self.person.event(guest, member, banned)
        def advise(a: Args[Person], mentor: Ref[Person] | None) -> Person:
            return a.model.replace(mentor=mentor)

        @advise.rule
        def not_by_oneself(a: Args[Person], mentor: Ref[Person] | None) -> bool:
            return mentor != a.model.meta.id

        @self.person.event(guest, member, banned)
        def look(a: Args[Person]) -> None: ...

        @self.person.event(guest, member, to=banned)
        def ban(a: Args[Person]) -> None: ...

        @self.person.event(banned)
        def pardon(a: Args[Person]) -> None: ...

        banned.on(pardon).to_when({(lambda a: a.model.mentor is not None): member}, otherwise=guest)

        @self.person.event(guest, member, banned)
        def leave(a: Args[Person]) -> None: ...

        for state in (guest, member, banned):
            state.on(leave).job(lambda a: self.report(a.model.name, 0)).delete()

    def _declare_teams(self) -> None:
        opened, full, closed = self.team.all_states
        events = {event.name: event for event in (*self.task.events, *self.person.events)}

        @self.team.rule
        def nobody_twice(m: Team) -> bool:
            return len(set(m.members)) == len(m.members)

        @self.team.create(into=opened)
        def found(
            a: Args, title: Name, leader: Ref[Person] | None = None, members: tuple[Ref[Person], ...] = ()
        ) -> Team:
            return Team(title=title, leader=leader, members=members)

        found.commands(
            lambda a: events["plan"](a.model.meta.id, 7, a.model.leader),
            when=lambda a: a.model.leader is not None,
        )
        opened.on_exit.update(lambda a: a.model.replace(exits=a.model.exits + 1))
        full.on_enter.update(lambda a: a.model.replace(budget=a.model.budget + 10))
        full.on_enter.commands(lambda a: [events["gain"](person, 20) for person in a.model.members])
        closed.on_enter.commands(
            lambda a: [events["cancel"](task.meta.id) for task in a.read.list(self.by_team(a.model.meta.id))]
        )

        @self.team.event(opened)
        def recruit(a: Args[Team], person: Ref[Person]) -> Team:
            return a.model.replace(members=(*a.model.members, person))

        @recruit.rule
        def not_yet_in(a: Args[Team], person: Ref[Person]) -> bool:
            return person not in a.model.members

        opened.on(recruit).to_when({(lambda a: len(a.model.members) >= 3): full})

        @self.team.event(opened, full)
        def dismiss(a: Args[Team], person: Ref[Person]) -> Team:
            return a.model.replace(members=tuple(each for each in a.model.members if each != person))

        @dismiss.rule
        def is_in(a: Args[Team], person: Ref[Person]) -> bool:
            return person in a.model.members

        full.on(dismiss).to_when({(lambda a: len(a.model.members) < 3): opened})

        @self.team.event(opened, full, closed)
        def lead(a: Args[Team], leader: Ref[Person] | None) -> Team:
            return a.model.replace(leader=leader)

        @self.team.event(opened, full, to=closed)
        def shut(a: Args[Team]) -> None: ...

        @self.team.event(closed)
        def disband(a: Args[Team]) -> None: ...

        def drop_all(a: Args[Team]) -> Iterator[Any]:
            for task in reversed(a.read.list(self.by_team(a.model.meta.id))):
                yield events["drop"](task.meta.id)

        closed.on(disband).commands(drop_all).delete()

    def _declare_tasks(self) -> None:
        todo, doing, done = self.task.all_states

        @self.task.create(into=todo)
        def plan(
            a: Args,
            team: Ref[Team],
            priority: Score = 0,
            assignee: Ref[Person] | None = None,
            parent: Ref[Task] | None = None,
            due: datetime | None = None,
        ) -> Task:
            return Task(team=team, priority=priority, assignee=assignee, parent=parent, due=due)

        @plan.rule
        def team_goes_on(a: Args, team: Ref[Team]) -> bool:
            return str(a.read.get(team).meta.state) != "closed"

        @plan.rule
        def same_team(a: Args, team: Ref[Team], parent: Ref[Task] | None) -> bool:
            return parent is None or a.read.get(parent).team == team

        todo.on_enter.to(doing, when=lambda a: a.model.assignee is not None)
        doing.on_enter.commands(lambda a: self.events["gain"](a.model.assignee, 5))
        done.on_enter.update(lambda a: a.model.replace(priority=0)).job(self.celebrate)

        @self.task.event(todo, to=doing)
        def start(a: Args[Task], person: Ref[Person]) -> Task:
            return a.model.replace(assignee=person)

        @self.task.event(doing, to=done)
        def complete(a: Args[Task]) -> None: ...

        @self.task.event(todo, doing, to=done)
        def cancel(a: Args[Task]) -> None: ...

        done.on(cancel)

        @self.task.event(done, to=todo)
        def reopen(a: Args[Task]) -> None: ...

        @self.task.event(todo, doing)
        def hasten(a: Args[Task], by: int) -> Task:
            return a.model.replace(priority=a.model.priority + by)

        @self.task.event(todo, doing)
        def hand_over(a: Args[Task], person: Ref[Person] | None) -> Task:
            return a.model.replace(assignee=person)

        @self.task.event(todo, doing, done)
        def drop(a: Args[Task]) -> None: ...

        for state in (todo, doing, done):
            state.on(drop).delete()

    def _declare_surveys(self) -> None:
        @self.team.event(*self.team.all_states)
        def look_around(a: Args[Team]) -> Team:
            """Write down what this transaction sees in views and indexes."""
            return a.model.replace(survey=self.surveyed(a))

    def surveyed(self, a: Args[Any]) -> tuple[int, ...]:
        found: list[int] = []
        for machine in (self.person, self.team, self.task):
            for view in (machine, *machine.all_states):
                first = a.read.first(view)
                found += (a.read.count(view), first.meta.id if first else 0, a.read.exists(view))
        for index in (self.by_name, self.by_code):
            people = [a.read.find(index, name) for name in NAMES]
            found += [person.meta.id if person else 0 for person in people]
        found += [a.read.count(self.by_size(size)) for size in range(4)]
        found += [a.read.count(self.by_priority(priority)) for priority in SCORES]
        found += [task.meta.id for task in a.read.list(self.by_team(a.model.meta.id))]
        return tuple(int(number) for number in found)

    def command(self, name: str, target: int | None, values: tuple[Any, ...]) -> Any:
        event = self.events[name]
        return event(*values) if target is None else event(target, *values)


# --- the same by hand ---------------------------------------------------------------------------------

STATES = {
    "Person": ("guest", "member", "banned"),
    "Team": ("open", "full", "closed"),
    "Task": ("todo", "doing", "done"),
}

# For each event: the class of its target (None: it creates), the states that accept it, its parameters.
EVENTS: dict[str, tuple[str | None, tuple[str, ...], tuple[str, ...]]] = {
    "join": (None, (), ("name", "name?", "Person?", "score")),
    "gain": ("Person", ("guest", "member", "banned"), ("int",)),
    "rename": ("Person", ("guest", "member"), ("name",)),
    "mark": ("Person", ("guest", "member", "banned"), ("name?",)),
    "advise": ("Person", ("guest", "member", "banned"), ("Person?",)),
    "look": ("Person", ("guest", "member", "banned"), ()),
    "ban": ("Person", ("guest", "member"), ()),
    "pardon": ("Person", ("banned",), ()),
    "leave": ("Person", ("guest", "member", "banned"), ()),
    "found": (None, (), ("name", "Person?", "people")),
    "recruit": ("Team", ("open",), ("Person",)),
    "dismiss": ("Team", ("open", "full"), ("Person",)),
    "lead": ("Team", ("open", "full", "closed"), ("Person?",)),
    "look_around": ("Team", ("open", "full", "closed"), ()),
    "shut": ("Team", ("open", "full"), ()),
    "disband": ("Team", ("closed",), ()),
    "plan": (None, (), ("Team", "score", "Person?", "Task?", "time?")),
    "start": ("Task", ("todo",), ("Person",)),
    "complete": ("Task", ("doing",), ()),
    "cancel": ("Task", ("todo", "doing", "done"), ()),
    "reopen": ("Task", ("done",), ()),
    "hasten": ("Task", ("todo", "doing"), ("int",)),
    "hand_over": ("Task", ("todo", "doing"), ("Person?",)),
    "drop": ("Task", ("todo", "doing", "done"), ()),
    "pause": (None, (), ()),
}

# For each class: its fields and what they may hold.
FIELDS = {
    "Person": {"name": "name", "code": "name?", "mentor": "Person?", "score": "score"},
    "Team": {"title": "name", "leader": "Person?", "members": "people", "budget": "score"},
    "Task": {"team": "Team", "priority": "score", "assignee": "Person?", "parent": "Task?"},
}

# For each index: the class, the key from the fields.
INDEXES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "by_name": ("Person", lambda f: f["name"]),
    "by_code": ("Person", lambda f: f["code"]),
    "by_mentor": ("Person", lambda f: f["mentor"]),
    "by_size": ("Team", lambda f: len(f["members"])),
    "by_team": ("Task", lambda f: f["team"]),
    "by_priority": ("Task", lambda f: f["priority"] or None),
    "by_place": ("Task", lambda f: (f["team"], f["assignee"])),
}

# For each view: the class, the condition, the sort key of (id, row).
VIEWS: dict[str, tuple[str, Callable[["Row"], bool], Callable[[int, "Row"], Any]]] = {
    "promising": ("Person", lambda row: row.fields["score"] >= 45, lambda id, row: id),
    "by_score": ("Person", lambda row: True, lambda id, row: (row.fields["score"], row.fields["name"])),
    "by_budget": ("Team", lambda row: row.state == "open", lambda id, row: (-row.fields["budget"], id)),
    "urgent": (
        "Task",
        lambda row: row.fields["priority"] > 30,
        lambda id, row: (-row.fields["priority"], id),
    ),
}

# For each class: the columns that are compared, and whether they hold times.
COLUMNS = {
    "Person": {"score": False, "weight": False, "mentor": False, "joined": True},
    "Team": {"leader": False, "budget": False, "exits": False},
    "Task": {"team": False, "priority": False, "assignee": False, "parent": False, "due": True},
}


class Refused(Exception):
    """The command must be refused with this error."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__(error.__name__)
        self.error = error


@dataclass(frozen=True, slots=True)
class Row:
    """One version of a model, with what Klerk should say about it."""

    kind: str
    state: str
    version: int
    created: datetime
    updated: datetime
    entered: datetime
    fields: dict[str, Any]

    @classmethod
    def of(cls, model: Any) -> "Row":
        meta = model.meta
        return cls(
            type(model).__name__,
            str(meta.state),
            meta.version,
            meta.created_at,
            meta.updated_at,
            meta.entered_at,
            model.as_dict(),
        )


class JobRow(NamedTuple):
    """A job that should wait to be run."""

    id: int
    kind: str
    arguments: tuple[Any, ...]
    run_at: datetime | None
    created: datetime
    cause: int

    @classmethod
    def of(cls, record: Any) -> "JobRow":
        epoch = datetime.fromtimestamp(0, NOON.tzinfo)
        run_at = epoch + timedelta(microseconds=record.run_at_us) if record.run_at_us else None
        assert record.state is (JobState.AVAILABLE if run_at is None else JobState.SCHEDULED)
        created = epoch + timedelta(microseconds=record.created_us)
        return cls(record.id, record.kind, record.arguments, run_at, created, record.cause)


class Pick(NamedTuple):
    """The nth model of a class when its turn comes, counted round and round; "wild": just that number."""

    kind: str
    nth: int

    def resolved(self, models: dict[int, Row]) -> int:
        if self.kind == "wild":
            return self.nth
        ids = [id for id, row in sorted(models.items()) if row.kind == self.kind]
        return ids[self.nth % len(ids)] if ids else 0


class Call(NamedTuple):
    """A command before it is known which models it is about."""

    name: str
    target: Pick | None
    values: tuple[Any, ...]

    def resolved(self, models: dict[int, Row]) -> "Concrete":
        target = None
        if self.target is not None:
            # Mostly one that accepts the event, so that histories get somewhere.
            _, states, _ = EVENTS[self.name]
            accepting = {id: row for id, row in models.items() if row.state in states}
            target = self.target.resolved((accepting if self.target.nth % 4 else None) or models)
        values = [value.resolved(models) if isinstance(value, Pick) else value for value in self.values]
        for i, value in enumerate(values):
            if isinstance(value, tuple):
                values[i] = tuple(each.resolved(models) for each in value)
        return self.name, target, tuple(values)


Concrete = tuple[str, int | None, tuple[Any, ...]]


def references(spec: str, value: Any) -> list[tuple[Any, str]]:
    """Return the ids in a value and the class that they should be of."""
    if spec == "people":
        return [(id, "Person") for id in value]
    return [(value, spec.rstrip("?"))] if spec[0].isupper() and value is not None else []


def fits(spec: str, value: Any) -> bool:
    """Return whether a value is of its type, references aside."""
    if spec.rstrip("?") == "name" and value is not None:
        return 1 <= len(value) <= 8
    return spec != "score" or 0 <= value <= 100


@dataclass
class Done:
    """What a transaction should do: the commands, the id and model that each is about right after it, and in
    the end the changes; or the error."""

    commands: list[Concrete] = field(default_factory=list)
    ids: list[int | None] = field(default_factory=list)
    rows: list[Row | None] = field(default_factory=list)
    error: type[Exception] | None = None
    created: dict[int, Row] = field(default_factory=dict)
    updated: dict[int, Row] = field(default_factory=dict)
    deleted: list[int] = field(default_factory=list)
    jobs: list[JobRow] = field(default_factory=list)
    sequence: int = 0


@dataclass
class World:
    """Everything that the store should hold."""

    models: dict[int, Row] = field(default_factory=dict)
    jobs: list[JobRow] = field(default_factory=list)
    called: list[str] = field(default_factory=list)
    sequence: int = 0
    next_id: int = 1
    history: dict[int, list[tuple[int, Row | None]]] = field(default_factory=dict)
    """For each model that ever was: the sequences that changed it, with what they left, None for nothing."""

    def transact(
        self, calls: Sequence[Call], now: datetime, *, stranger: bool = False, keep: bool = True
    ) -> Done:
        """Handle calls, all or none."""
        done = Done()
        trial = Trial(self, now, stranger)
        try:
            for call in calls:
                command = call.resolved(trial.models)
                done.commands.append(command)
                id = trial.apply(*command)
                done.ids.append(id)
                done.rows.append(None if id is None else trial.models.get(id))
            trial.end()
        except Refused as refusal:
            done.error = refusal.error
            rest = calls[len(done.commands) :]
            done.commands += [call.resolved(trial.models) for call in rest]
            return done
        for id in trial.touched:
            if id in trial.models:
                (done.updated if id in self.models else done.created)[id] = trial.models[id]
            elif id in self.models:
                done.deleted.append(id)
        done.jobs = trial.jobs
        if keep:
            self.sequence = done.sequence = self.sequence + 1
            self.models, self.next_id = trial.models, trial.next_id
            self.jobs = self.jobs + trial.jobs
            self.called = self.called + trial.called
            for id in (*done.created, *done.updated, *done.deleted):
                self.history.setdefault(id, []).append((self.sequence, trial.models.get(id)))
        return done

    def of(self, kind: str) -> dict[int, Row]:
        return {id: row for id, row in sorted(self.models.items()) if row.kind == kind}

    def referrers(self, id: int) -> dict[tuple[str, str], list[int]]:
        """Return the ids of the models that refer to one, by class and field."""
        found: dict[tuple[str, str], list[int]] = {}
        for other, row in sorted(self.models.items()):
            for name, spec in FIELDS[row.kind].items():
                if any(each == id for each, _ in references(spec, row.fields[name])):
                    found.setdefault((row.kind, name), []).append(other)
        return found


class Trial:
    """A transaction on a copy of the world."""

    def __init__(self, world: World, now: datetime, stranger: bool) -> None:
        self.world = world
        self.models = dict(world.models)
        self.now = now
        self.stranger = stranger
        self.touched: set[int] = set()
        self.jobs: list[JobRow] = []
        self.called: list[str] = []
        self.next_id = world.next_id

    # What holds for every command and every change.

    def apply(self, name: str, target: int | None, values: tuple[Any, ...], *, first: bool = True) -> Any:
        kind, states, specs = EVENTS[name]
        if not all(fits(spec, value) for spec, value in zip(specs, values, strict=True)):
            raise Refused(klerk.InvalidValue)
        row = None if target is None else self.models.get(target)
        # Who may not do it to any model does not learn whether there is one.
        if first and self.stranger and name in ("ban", "disband"):
            raise Refused(klerk.Denied)
        if kind is not None and (row is None or row.kind != kind):
            raise Refused(klerk.NotFound)
        for spec, value in zip(specs, values, strict=True):
            self.require_models(spec, value)
        if row is None:
            return getattr(self, name)(*values)
        if row.state not in states:
            raise Refused(klerk.WrongState)
        getattr(self, name)(target, *values)
        return target

    def require_models(self, spec: str, value: Any) -> None:
        for id, kind in references(spec, value):
            if id not in self.models or self.models[id].kind != kind:
                raise Refused(klerk.BrokenReference)

    def require(self, condition: bool) -> None:
        if not condition:
            raise Refused(klerk.Rejected)

    def create(self, kind: str, state: str, **fields: Any) -> int:
        id = self.next_id
        self.next_id += 1
        self.store(id, Row(kind, state, 1, self.now, self.now, self.now, fields))
        self.entered(id)
        return id

    def put(self, id: int, to: str | None = None, **changes: Any) -> None:
        """Change fields or the state: one version more for each transaction."""
        row = self.models[id]
        before = self.world.models.get(id)
        version = 1 if before is None else before.version + 1
        entered = row.entered if to is None else self.now
        fields = {**row.fields, **changes}
        self.store(id, Row(row.kind, to or row.state, version, row.created, self.now, entered, fields))

    def store(self, id: int, row: Row) -> None:
        for name, spec in FIELDS[row.kind].items():
            if not fits(spec, row.fields[name]):
                raise Refused(klerk.InvalidValue)
        for name, spec in FIELDS[row.kind].items():
            # What a reference points to may only be gone as long as the transaction goes on.
            known = self.models.get(id)
            if known is None or known.fields[name] != row.fields[name]:
                self.require_models(spec, row.fields[name])
        if row.kind == "Person":
            self.require(row.fields["code"] != row.fields["name"])
        if row.kind == "Team":
            self.require(len(set(row.fields["members"])) == len(row.fields["members"]))
        self.models[id] = row
        self.touched.add(id)

    def move(self, id: int, state: str) -> None:
        self.exited(id)
        self.put(id, state)
        self.entered(id)

    def delete(self, id: int) -> None:
        self.exited(id)
        del self.models[id]
        self.touched.add(id)

    def end(self) -> None:
        """Refuse to leave references to what was deleted, and keys that two people have."""
        people = [row for row in self.models.values() if row.kind == "Person"]
        for name in ("name", "code"):
            keys = [key for row in people if (key := row.fields[name]) is not None]
            if len(set(keys)) < len(keys):
                raise Refused(klerk.Conflict)
        for row in self.models.values():
            for name, spec in FIELDS[row.kind].items():
                if any(id not in self.models for id, _ in references(spec, row.fields[name])):
                    raise Refused(klerk.Conflict)

    def job(self, kind: str, *arguments: Any, run_at: datetime | None = None) -> None:
        id = len(self.world.jobs) + len(self.jobs) + 1
        self.jobs.append(JobRow(id, kind, arguments, run_at, self.now, self.world.sequence + 1))

    def of_team(self, team: int) -> list[int]:
        rows = sorted(self.models.items())
        return [id for id, row in rows if row.kind == "Task" and row.fields["team"] == team]

    # Entering and leaving states.

    def entered(self, id: int) -> None:
        row = self.models[id]
        fields = row.fields
        match row.state:
            case "guest" if fields["score"] >= 50:
                self.move(id, "member")
            case "member":
                self.put(id, weight=(fields["weight"] or 0.0) + 1.5)
            case "banned":
                self.put(id, score=0)
                self.job("report", fields["name"], 0, run_at=self.now + YEAR)
                self.job("report", fields["name"], 1, run_at=self.now + YEAR)
            case "full":
                self.put(id, budget=fields["budget"] + 10)
                for person in fields["members"]:
                    self.apply("gain", person, (20,), first=False)
            case "closed":
                for task in self.of_team(id):
                    self.apply("cancel", task, (), first=False)
            case "todo" if fields["assignee"] is not None:
                self.move(id, "doing")
            case "doing":
                self.apply("gain", fields["assignee"], (5,), first=False)
            case "done":
                self.put(id, priority=0)
                self.job("celebrate", id)

    def exited(self, id: int) -> None:
        row = self.models[id]
        if row.state == "member":
            self.put(id, code=None)
            self.job("report", row.fields["name"], 9)
        elif row.state == "open":
            self.put(id, exits=row.fields["exits"] + 1)

    # The events.

    def join(self, name: str, code: str | None, mentor: int | None, score: int) -> int:
        self.require(sum(row.state == "guest" for row in self.models.values()) < 5)
        fields = {"name": name, "code": code, "mentor": mentor, "score": score, "weight": None}
        id = self.create("Person", "guest", **fields, joined=self.now)
        self.job("greet", id)
        return id

    def gain(self, id: int, points: int) -> None:
        score = self.models[id].fields["score"] + points
        self.put(id, score=score)
        state = self.models[id].state
        if state == "guest" and score >= 50:
            self.move(id, "member")
        elif state == "member" and score < 50:
            self.move(id, "guest")

    def rename(self, id: int, name: str) -> None:
        self.put(id, name=name)
        if self.models[id].state == "guest":
            self.called.append(name)

    def mark(self, id: int, code: str | None) -> None:
        self.put(id, code=code)

    def advise(self, id: int, mentor: int | None) -> None:
        self.require(mentor != id)
        self.put(id, mentor=mentor)

    def look(self, id: int) -> None:
        pass

    def pause(self) -> None:
        pass

    def ban(self, id: int) -> None:
        self.move(id, "banned")

    def pardon(self, id: int) -> None:
        self.move(id, "guest" if self.models[id].fields["mentor"] is None else "member")

    def leave(self, id: int) -> None:
        self.job("report", self.models[id].fields["name"], 0)
        self.delete(id)

    def found(self, title: str, leader: int | None, members: tuple[int, ...]) -> int:
        id = self.create(
            "Team", "open", title=title, leader=leader, members=members, budget=0, exits=0, survey=()
        )
        if leader is not None:
            self.apply("plan", None, (id, 7, leader, None, None), first=False)
        return id

    def recruit(self, id: int, person: int) -> None:
        members = self.models[id].fields["members"]
        self.require(person not in members)
        self.put(id, members=(*members, person))
        if len(members) + 1 >= 3:
            self.move(id, "full")

    def dismiss(self, id: int, person: int) -> None:
        row = self.models[id]
        self.require(person in row.fields["members"])
        members = tuple(each for each in row.fields["members"] if each != person)
        self.put(id, members=members)
        if row.state == "full" and len(members) < 3:
            self.move(id, "open")

    def lead(self, id: int, leader: int | None) -> None:
        self.put(id, leader=leader)

    def look_around(self, id: int) -> None:
        found: list[int] = []
        for kind, states in STATES.items():
            for names in (states, *((state,) for state in states)):
                ids = [
                    id for id, row in sorted(self.models.items()) if row.kind == kind and row.state in names
                ]
                found += (len(ids), ids[0] if ids else 0, bool(ids))
        rows = list(self.models.items())
        for column in ("name", "code"):
            for name in NAMES:
                # Two may have a name until the transaction ends; the older one is found.
                found.append(min((id for id, row in rows if row.fields.get(column) == name), default=0))
        sizes = [len(row.fields["members"]) for _, row in rows if row.kind == "Team"]
        found += [sizes.count(size) for size in range(4)]
        priorities = [row.fields.get("priority") or None for _, row in rows]
        found += [priorities.count(priority) for priority in SCORES]
        self.put(id, survey=(*map(int, found), *self.of_team(id)))

    def shut(self, id: int) -> None:
        self.move(id, "closed")

    def disband(self, id: int) -> None:
        for task in reversed(self.of_team(id)):
            self.apply("drop", task, (), first=False)
        self.delete(id)

    def plan(self, team: int, priority: int, assignee: Any, parent: Any, due: Any) -> int:
        self.require(self.models[team].state != "closed")
        self.require(parent is None or self.models[parent].fields["team"] == team)
        fields = {"team": team, "priority": priority, "assignee": assignee, "parent": parent, "due": due}
        return self.create("Task", "todo", **fields)

    def start(self, id: int, person: int) -> None:
        self.put(id, assignee=person)
        self.move(id, "doing")

    def complete(self, id: int) -> None:
        self.move(id, "done")

    def cancel(self, id: int) -> None:
        if self.models[id].state != "done":
            self.move(id, "done")

    def reopen(self, id: int) -> None:
        self.move(id, "todo")

    def hasten(self, id: int, by: int) -> None:
        self.put(id, priority=self.models[id].fields["priority"] + by)

    def hand_over(self, id: int, person: int | None) -> None:
        self.put(id, assignee=person)

    def drop(self, id: int) -> None:
        self.delete(id)

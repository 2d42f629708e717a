"""Random designs: drawn as plain data, built for Klerk from it, and lived by a dictionary model.

A `Design` says what its classes, events, blocks, views and rules are. What a function of the application does
is data, too: an expression or a condition, which `evaluate` and `holds` work out for whoever can say what a
field, a parameter or another model is. `Built` gives Klerk functions that do so with their args. `World`
knows nothing of Klerk: it applies commands to a dictionary of rows, by the words of the documentation.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from designs import NOON

import klerk
from klerk import MASKED, Context, Ref, User

Choose = Callable[[Sequence[Any]], Any]
"""Picks one of several values: Hypothesis does."""

TESTER = Context(User("tester"))
GUEST = Context(User("guest"))
MINUTE = timedelta(minutes=1)


# --- kinds of fields ----------------------------------------------------------------------------------


class Word(klerk.Text, max=6): ...


class Small(klerk.Int, ge=-50, le=50): ...


class Secret(klerk.Int, ge=-50, le=50, tags={"secret"}): ...


class Colour(klerk.Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


class Spot(msgspec.Struct, frozen=True):
    x: Small
    label: Word | None = None


class Link(msgspec.Struct, frozen=True):
    note: Word
    to: Ref["A"] | None = None  # noqa: F821  # every design has a class A


TIMES = (None, NOON + 30 * MINUTE, NOON + 90 * MINUTE, NOON + timedelta(days=1), NOON + timedelta(hours=5))


@dataclass(frozen=True)
class Kind:
    """A type of fields and parameters, references aside.

    Parameters:
        annotation: as it is written.
        good, bad: some values that it allows, and some that it does not.
        orders: models can be sorted by it.
    """

    annotation: str
    good: tuple[Any, ...]
    bad: tuple[Any, ...]
    orders: bool = True


KINDS = {
    "int": Kind("Small", (0, 1, 2, -1, 7, 50, -50), (51, "1", True)),
    "text": Kind("Word", ("a", "b", "", "zz", "Zo\u00eb", "\U0001f600"), ("much too long", 7, "\ud800")),
    "float?": Kind("float | None", (None, 0.5, 1.5, -2.25, 1e300), (math.inf, "1")),
    "bool": Kind("bool", (False, True), (1, None)),
    "time?": Kind("datetime | None", TIMES, (datetime(2024, 1, 1), "now")),  # noqa: DTZ001  # it is refused
    "decimal": Kind(
        "Decimal", (Decimal("1.10"), Decimal(-3), Decimal("1.1000000001")), (1.5, Decimal("NaN"))
    ),
    "colour": Kind("Colour", (Colour.RED, Colour.BLUE, Colour.GREEN), ("red", None)),
    "text?": Kind("Word | None", (None, "a", "b", "x"), ("much too long",)),
    "secret": Kind("Secret", (0, 3, -3, 9), (51,)),
    "ints": Kind("tuple[Small, ...]", ((), (1,), (1, 2), (2, -1, 2)), ((51,), 1)),
    "words": Kind(
        "frozenset[Word]",
        (frozenset(), frozenset("a"), frozenset("ab")),
        (frozenset({"much too long"}), "a"),
        False,
    ),
    "spot": Kind("Spot", (Spot(x=1), Spot(x=2, label="a")), (Spot(x=99), 1), False),
}


def is_reference(kind: str) -> bool:
    """Return whether values of a kind refer to models: ``ref:A``, ``ref?:A``, ``refs:A`` or ``link``."""
    return kind.startswith("ref") or kind == "link"


def annotation(kind: str) -> str:
    if kind == "link":
        return "Link"
    if kind in KINDS:
        return KINDS[kind].annotation
    many, _, target = kind.partition(":")
    return {
        "ref": f'Ref["{target}"]',
        "ref?": f'Ref["{target}"] | None',
        "refs": f'tuple[Ref["{target}"], ...]',
    }[many]


def references(kind: str, value: Any) -> list[tuple[Any, str]]:
    """Return the ids in a value, with the class that they should be of."""
    many, _, target = kind.partition(":")
    if value is None or value is MASKED or not is_reference(kind):
        return []
    if kind == "link":
        return [] if value.to is None else [(value.to, "A")]
    return [(id, target) for id in value] if many == "refs" else [(value, target)]


def fits(kind: str, value: Any) -> bool:
    """Return whether a value is of its kind, whatever it refers to."""
    many = kind.partition(":")[0]
    if value is None:
        return many.endswith("?")
    match many.rstrip("?"):
        case "text":
            return isinstance(value, str) and len(value) <= 6 and value.isprintable()
        case "int" | "secret":
            return type(value) is int and -50 <= value <= 50
        case "float":
            return isinstance(value, float) and math.isfinite(value)
        case "bool":
            return isinstance(value, bool)
        case "time":
            return isinstance(value, datetime) and value.tzinfo is not None
        case "decimal":
            return isinstance(value, Decimal) and value.is_finite()
        case "colour":
            return isinstance(value, Colour)
        case "ints":
            return isinstance(value, tuple) and all(fits("int", each) for each in value)
        case "words":
            return isinstance(value, frozenset) and all(fits("text", each) for each in value)
        case "spot":
            return isinstance(value, Spot) and fits("int", value.x) and fits("text?", value.label)
    return True


# --- what functions of the application do, as data ----------------------------------------------------

Expression = tuple[Any, ...]


class Condition(NamedTuple):
    """A comparison of two expressions."""

    left: Expression
    operator: str
    right: Expression


def evaluate(expression: Expression, scene: Any) -> Any:
    """Work an expression out.

    Parameters:
        scene: says what a field, a parameter, the time or another model is.
    """
    match expression:
        case ("const", value):
            return value
        case ("field", name):
            return scene.field(name)
        case ("param", name):
            return scene.param(name)
        case ("add", name, number):
            return scene.field(name) + number
        case ("length", name):
            return len(scene.field(name))
        case ("now",):
            return scene.now
        case ("later", minutes):
            return scene.now + minutes * MINUTE
        case ("self",):
            return scene.id
        case ("append", name, param):
            return (*scene.field(name), scene.param(param))
        case ("drop_first", name):
            return scene.field(name)[1:]
    return look(expression, scene)


def look(expression: Expression, scene: Any) -> Any:
    """Work out an expression about other models, or two in one."""
    match expression:
        case ("count", kind, state):
            return scene.count(kind, state)
        case ("first", kind, state):
            return scene.first(kind, state)
        case ("of", ref, name):
            return scene.look(evaluate(ref, scene), name)
        case ("pair", one, other):
            return evaluate(one, scene), evaluate(other, scene)
    raise ZeroDivisionError(expression)


def holds(condition: Condition, scene: Any) -> bool:
    """Work a condition out: None is neither smaller nor greater than anything."""
    left, right = evaluate(condition.left, scene), evaluate(condition.right, scene)
    match condition.operator:
        case "==":
            return bool(left == right)
        case "!=":
            return bool(left != right)
        case "<":
            return left is not None and right is not None and bool(left < right)
    return left is not None and right is not None and bool(left >= right)


def fields_in(what: Any) -> set[str]:
    """Return the fields that an expression or condition asks for."""
    if isinstance(what, Condition):
        return fields_in(what.left) | fields_in(what.right)
    match what:
        case ("field" | "add" | "length" | "append" | "drop_first", name, *_):
            return {name}
        case ("pair", one, other):
            return fields_in(one) | fields_in(other)
    return set()


# --- designs ------------------------------------------------------------------------------------------


class Sets(NamedTuple):
    """A function that gives a new version, with some fields set; None unless a condition holds."""

    values: tuple[tuple[str, Expression], ...]
    unless: Condition | None = None


NOTHING = Sets(())


class Cause(NamedTuple):
    """A secondary command; none when its target is None."""

    kind: str
    event: str
    target: Expression | None
    values: tuple[Expression, ...]


class Does(NamedTuple):
    """One executable of a block.

    Parameters:
        what: "update", "to", "to_when", "commands", "generator", "job", "own_job" or "delete".
        about: `Sets`; a state; choices of (condition, state) and the other state or None; `Cause`s; for "job"
            expressions for its arguments and a delay in minutes or None.
    """

    what: str
    about: Any
    when: Condition | None = None


class Timer(NamedTuple):
    """A time trigger of a state.

    Parameters:
        due: an expression, or a whole number of minutes after the state was entered.
    """

    state: str
    due: Any
    block: tuple[Does, ...]


@dataclass(frozen=True)
class Event:
    """An event; `into` is the state that a create event leads to, `states` are those that accept another."""

    name: str
    params: tuple[tuple[str, str], ...]
    into: str | None = None
    states: tuple[str, ...] = ()
    body: Sets = NOTHING
    rules: tuple[Condition, ...] = ()
    blocks: tuple[tuple[str, tuple[Does, ...]], ...] = ()
    guests: bool = False
    denied: Condition | None = None


class Index(NamedTuple):
    """A lookup; `each` of the elements of a collection is a key."""

    key: Expression
    unique: bool = False
    each: bool = False


@dataclass(frozen=True)
class Selection:
    """A view: a machine or state, and what is done to it, one after the other.

    Parameters:
        steps: ("where", condition), ("param", name of a field, value), ("order", keys, descending),
            ("order_by", expression, descending) or ("in_states", states).
        kept: it is declared with the design, and not made when it is read.
    """

    state: str | None
    steps: tuple[tuple[Any, ...], ...]
    kept: bool = True


@dataclass(frozen=True)
class Class:
    """A model class and its machine.

    Parameters:
        guests: a guest may read all models, none, or those for which a condition holds.
        masks: fields that are hidden from a guest, all or for which a condition holds.
    """

    name: str
    fields: tuple[tuple[str, str], ...]
    defaults: tuple[tuple[str, Any], ...]
    states: tuple[str, ...]
    final: tuple[str, ...] = ()
    rules: tuple[Condition, ...] = ()
    events: tuple[Event, ...] = ()
    enter: tuple[tuple[str, tuple[Does, ...]], ...] = ()
    exit: tuple[tuple[str, tuple[Does, ...]], ...] = ()
    timers: tuple[Timer, ...] = ()
    indexes: tuple[Index, ...] = ()
    views: tuple[Selection, ...] = ()
    guests: Any = True
    masks: tuple[tuple[str, Condition | None], ...] = ()

    def kind_of(self, name: str) -> str:
        return dict(self.fields)[name]

    def event(self, name: str) -> Event:
        return next(event for event in self.events if event.name == name)


@dataclass(frozen=True)
class Design:
    """All that is drawn of an app. Fields tagged as secret are hidden from guests if `tag` says so."""

    classes: tuple[Class, ...]
    tag: bool = False

    def of(self, name: str) -> Class:
        return next(each for each in self.classes if each.name == name)


# --- drawing a design ---------------------------------------------------------------------------------

SELDOM = (False, False, False, True)
OFTEN = (False, True, True)
FIELD_KINDS = ("int", "text", "ref?", *KINDS, "refs", "link", "ref", "words", "ints")


class Drawing:
    """Draws a design: first what there is, then what it does, so that everything may refer to everything."""

    def __init__(self, choose: Choose) -> None:
        self.choose: Choose = choose
        self.names = "ABCD"[: choose((1, 2, 3, 4))]
        self.classes = {name: self.outline(name) for name in self.names}

    def some(self, options: Sequence[Any], least: int, most: int) -> tuple[Any, ...]:
        return tuple(self.choose(options) for _ in range(self.choose(range(least, most + 1))))

    def distinct(self, options: Sequence[Any], least: int, most: int) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(self.some(options, least, most)))

    def kind(self, own: str) -> str:
        kind = self.choose(FIELD_KINDS)
        if not kind.startswith("ref"):
            return str(kind)
        # Nobody could ever make the first of models that must refer to one of their own.
        earlier = self.names[: self.names.index(own)]
        if kind == "ref":
            return f"ref:{self.choose(earlier)}" if earlier else f"ref?:{own}"
        return f"{kind}:{self.choose(self.names)}"

    def outline(self, name: str) -> Class:
        kinds = ["int", *(self.kind(name) for _ in range(self.choose((1, 2, 3, 4, 5))))]
        fields = tuple((f"f{nth}", kind) for nth, kind in enumerate(kinds))
        plain = [(field, KINDS[kind].good[0]) for field, kind in fields if kind in KINDS]
        defaults = tuple(pair for pair in plain if self.choose(SELDOM))
        states = tuple(f"s{nth}" for nth in range(self.choose((1, 2, 3, 4, 5))))
        events = [Event("make", self.params(fields), into=states[0])]
        if self.choose(SELDOM):
            events.append(Event("make_too", self.params(fields), into=self.choose(states)))
        for nth in range(self.choose((2, 3, 4, 5))):
            accepting = self.distinct(states, 1, len(states))
            events.append(Event(f"e{nth}", self.params(fields), states=accepting))
        return Class(name, fields, defaults, states, events=tuple(events))

    def params(self, fields: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        kinds = [kind for _, kind in fields]
        # Of the kinds of fields, because something is to become of them.
        return tuple((f"p{nth}", kind) for nth, kind in enumerate(self.some(kinds, 0, 3)))

    def design(self) -> Design:
        for name in self.names:
            self.classes[name] = self.filled(self.classes[name])
        return Design(tuple(mended(each) for each in self.classes.values()), tag=self.choose((False, True)))

    # Expressions.

    def value(self, kind: str, of: Class, event: Event | None, *, fresh: bool = False) -> Expression:
        """Draw an expression for a kind.

        Parameters:
            fresh: there is no model yet.
        """
        options: list[Expression] = []
        options += [("param", name) for name, each in (event.params if event else ()) if each == kind]
        if kind in KINDS:
            options.append(("const", self.choose(KINDS[kind].good)))
        if kind.startswith("ref?") or kind == "link":
            options.append(("const", None if kind != "link" else Link(note="none")))
        if kind.startswith("refs"):
            options.append(("const", ()))
        if not fresh:
            options += [("field", name) for name, each in of.fields if each == kind]
            options += self.changes(kind, of, event)
        if kind.startswith("ref"):
            target = kind.partition(":")[2]
            if not kind.startswith("refs"):
                options.append(("first", target, self.choose((None, *self.classes[target].states))))
        elif kind == "int":
            other = self.classes[self.choose(self.names)]
            options.append(("count", other.name, self.choose((None, *other.states))))
        elif kind == "time?":
            options += [("now",), ("later", self.choose((10, 60, 600)))]
        return tuple(self.choose(options))

    def changes(self, kind: str, of: Class, event: Event | None) -> Iterator[Expression]:
        for name, each in of.fields:
            if each == kind == "int":
                yield "add", name, self.choose((1, -1, 20))
            if each == kind == "ints":
                yield "drop_first", name
            if each == kind and kind.startswith("refs"):
                yield "drop_first", name
                yield from (
                    ("append", name, param)
                    for param, other in (event.params if event else ())
                    if other.partition(":") == ("ref", ":", kind.partition(":")[2])
                )
            if kind == f"ref?:{of.name}" or kind == f"ref:{of.name}":
                yield ("self",)
            if each.startswith("ref") and not each.startswith("refs") and kind == "int":
                yield "of", ("field", name), "f0"

    def condition(self, of: Class, event: Event | None = None, *, pure: bool = False) -> Condition:
        """Draw a condition, about nothing but the model's fields if it is to be pure."""
        name, kind = self.choose([pair for pair in of.fields if pair[1] in KINDS])
        if event and event.params and self.choose(SELDOM):
            name, kind = self.choose(event.params)
            if is_reference(kind):
                return Condition(("of", ("param", name), "f0"), "<", ("const", 5)) if "?" in kind else LIKELY
            return Condition(("param", name), "!=", ("const", self.choose(KINDS[kind].good)))
        if not pure and self.choose(SELDOM):
            other = self.classes[self.choose(self.names)]
            return Condition(
                ("count", other.name, self.choose((None, *other.states))),
                "<",
                ("const", self.choose((4, 9, 2))),
            )
        if kind in ("ints", "words"):
            return Condition(("length", name), self.choose(("<", ">=")), ("const", 2))
        operators = ("!=", "==", "<", ">=") if KINDS[kind].orders and kind != "colour" else ("!=", "==")
        return Condition(("field", name), self.choose(operators), ("const", self.choose(KINDS[kind].good)))

    def maybe(self, *args: Any, **options: Any) -> Condition | None:
        return self.condition(*args, **options) if self.choose(SELDOM) else None

    # What happens.

    def sets(self, of: Class, event: Event | None, least: int = 0) -> Sets:
        names = self.distinct([name for name, _ in of.fields], least, 3)
        values = tuple((name, self.value(of.kind_of(name), of, event)) for name in names)
        return Sets(values, self.maybe(of, event))

    def makes(self, of: Class, event: Event) -> Sets:
        defaults = dict(of.defaults)
        values = []
        for name, kind in of.fields:
            if name not in defaults or self.choose(OFTEN):
                values.append((name, self.value(kind, of, event, fresh=True)))
        # Without a model there are only parameters and numbers of models to ask about.
        other = self.classes[self.choose(self.names)]
        unless = Condition(("count", other.name, None), ">=", ("const", 7)) if self.choose(SELDOM) else None
        return Sets(tuple(values), unless)

    def cause(self, of: Class, event: Event | None) -> Cause:
        other = self.classes[self.choose(self.names)]
        what = self.choose(other.events)
        target: Expression | None = None
        if what.into is None:
            targets: list[Expression] = [("first", other.name, self.choose(what.states))]
            targets += [
                ("field", n) for n, k in of.fields if k in (f"ref:{other.name}", f"ref?:{other.name}")
            ]
            targets += [("param", n) for n, k in (event.params if event else ()) if k == f"ref:{other.name}"]
            if other is of or other.name == of.name:
                targets.append(("self",))
            target = tuple(self.choose(targets))
        return Cause(
            other.name, what.name, target, tuple(self.value(kind, of, event) for _, kind in what.params)
        )

    def effects(self, of: Class, event: Event | None, *, may_end: bool) -> Iterator[Does]:
        for what in self.some(("job", "commands", "own_job", "generator", "delete"), 0, 2):
            when = self.maybe(of, event)
            if what in ("commands", "generator"):
                yield Does(what, tuple(self.cause(of, event) for _ in range(self.choose((1, 2)))), when)
            elif what == "job":
                values = (self.value("text", of, event), self.value("int", of, event))
                yield Does(what, (values, self.choose((None, 0, 60))), when)
            elif what == "own_job" or may_end:
                yield Does(what, None, when)

    def moves(self, of: Class, event: Event | None, source: str, states: tuple[str, ...]) -> Iterator[Does]:
        """Draw what may lead from a state to others; only under a condition may it be entered anew."""
        others = tuple(state for state in states if state != source)
        match self.choose(("no", "to", "to", "to_when", "two")) if others else "no":
            case "to":
                yield Does("to", self.choose(others))
            case "to_when":
                choices = tuple((self.condition(of, event), each) for each in self.some(others, 1, 2))
                yield Does("to_when", (choices, self.choose((None, *others))), self.maybe(of, event))
            case "two":
                yield Does("to", self.choose(states), self.condition(of, event))
                yield Does("to", self.choose(others), self.maybe(of, event))

    def block(
        self, of: Class, event: Event | None, state: str, *, moves: tuple[str, ...] = ()
    ) -> tuple[Does, ...]:
        does = [Does("update", self.sets(of, event), self.maybe(of, event)) for _ in self.some((0,), 0, 1)]
        if moves:
            does += self.moves(of, event, state, moves)
        return (*does, *self.effects(of, event, may_end=bool(moves)))

    def filled_event(self, of: Class, event: Event) -> Event:
        guests = self.choose((True, False))
        if event.into is not None:
            block = tuple(self.effects(of, event, may_end=False)) if self.choose(SELDOM) else ()
            return replace(event, body=self.makes(of, event), blocks=((event.into, block),), guests=guests)
        return replace(
            event,
            body=self.sets(of, event),
            rules=tuple(self.condition(of, event) for _ in self.some((0,), 0, 1)),
            blocks=tuple((state, self.block(of, event, state, moves=of.states)) for state in event.states),
            guests=guests,
            denied=self.maybe(of, pure=True),
        )

    def filled(self, of: Class) -> Class:
        of = replace(of, events=tuple(self.filled_event(of, event) for event in of.events))
        # Only to what comes later: states that enter each other would never come to rest.
        onwards = [(state, of.states[nth + 1 :]) for nth, state in enumerate(of.states)]
        return replace(
            of,
            rules=tuple(self.condition(of, pure=True) for _ in range(self.choose((0, 0, 0, 1)))),
            enter=tuple(
                (state, self.block(of, None, state, moves=later))
                for state, later in onwards
                if self.choose(SELDOM)
            ),
            exit=tuple((state, self.block(of, None, state)) for state, _ in onwards if self.choose(SELDOM)),
            timers=tuple(
                timer
                for state, later in onwards
                for _ in self.some((0,), 0, 2)
                for timer in self.timer(of, state, later)
            ),
            indexes=tuple(self.index(of) for _ in range(self.choose((1, 2, 3)))),
            views=tuple(
                self.selection(of, kept=self.choose(OFTEN)) for _ in range(self.choose((1, 2, 3, 4)))
            ),
            guests=self.choose((True, self.condition(of, pure=True), False)),
            masks=tuple(
                (name, self.maybe(of, pure=True))
                for name in self.distinct([name for name, _ in of.fields], 0, 2)
            ),
        )

    def timer(self, of: Class, state: str, later: tuple[str, ...]) -> Iterator[Timer]:
        times = [name for name, kind in of.fields if kind == "time?"]
        due: Any = self.choose((30, 60, 600))
        if self.choose((False, True)):
            due = ("field", self.choose(times)) if times and self.choose(OFTEN) else ("later", 120)
        moves = of.states if isinstance(due, int) else later
        yield Timer(state, due, self.block(of, None, state, moves=moves))

    # What is looked for.

    def index(self, of: Class) -> Index:
        fields = [pair for pair in of.fields if pair[1] != "bool"]
        many = [pair for pair in fields if pair[1] in ("ints", "words") or pair[1].startswith("refs")]
        name, kind = self.choose(many if many and self.choose(OFTEN) else fields)
        if kind in ("ints", "words") or kind.startswith("refs"):
            return Index(("field", name), each=self.choose(OFTEN))
        if self.choose(SELDOM):
            return Index(("pair", ("field", name), ("field", self.choose(of.fields)[0])))
        return Index(("field", name), unique=kind in ("text", "text?", "int") and self.choose(SELDOM))

    def selection(self, of: Class, *, kept: bool) -> Selection:
        state = self.choose((None, *of.states))
        return Selection(state, tuple(self.step(of) for _ in range(self.choose((1, 2, 3)))), kept)

    def step(self, of: Class) -> tuple[Any, ...]:
        match self.choose(("where", "order", "order", "in_states", "param", "order_by")):
            case "where":
                return "where", self.condition(of, pure=True)
            case "param":
                name, kind = self.choose([pair for pair in of.fields if pair[1] in KINDS])
                return "param", name, self.choose(KINDS[kind].good)
            case "in_states":
                return "in_states", self.distinct(of.states, 1, 3)
            case "order_by":
                name = self.choose(sortable(of))
                return "order_by", ("pair", ("field", name), ("field", "f0")), self.choose((False, True))
        return "order", self.keys(of), self.choose((False, True))

    def keys(self, of: Class) -> tuple[str, ...]:
        names = (*sortable(of), "id", "version", "created_at", "updated_at", "entered_at", "state")
        return tuple(self.choose(("", "-")) + name for name in self.distinct(names, 1, 2))


LIKELY = Condition(("const", 1), "!=", ("const", 0))


def sortable(of: Class) -> list[str]:
    """Return the fields that models can be sorted by."""
    return [name for name, kind in of.fields if kind != "link" and (kind not in KINDS or KINDS[kind].orders)]


def targets(block: Iterable[Does]) -> Iterator[str | None]:
    """Yield the states that a block may lead to, and None when it may delete the model."""
    for does in block:
        if does.what == "to":
            yield does.about
        elif does.what == "to_when":
            choices, otherwise = does.about
            yield from (state for _, state in choices)
            if otherwise is not None:
                yield otherwise
        elif does.what == "delete":
            yield None


def mended(of: Class) -> Class:
    """Make a class right: states that cannot be reached get an event that creates models in them, and those
    that cannot be left are final."""
    blocks = [(state, block) for event in of.events if event.into is None for state, block in event.blocks]
    blocks += of.enter
    blocks += [(timer.state, timer.block) for timer in of.timers]
    moves = [(state, target) for state, block in blocks for target in targets(block)]
    reached = {event.into for event in of.events}
    events = list(of.events)
    for state in of.states:
        while more := {target for source, target in moves if source in reached} - reached:
            reached |= more
        if state not in reached:
            events.append(replace(of.events[0], name=f"make_{state}", into=state, blocks=((state, ()),)))
            reached.add(state)
    left = {state for state, target in moves if target != state}
    return replace(of, events=tuple(events), final=tuple(state for state in of.states if state not in left))


def drawn(choose: Choose) -> Design:
    """Draw a design."""
    return Drawing(choose).design()

"""What the codes of configuration errors mean, and how to mend them: ``python -m klerk explain CODE``."""

from typing import Final

EXPLANATIONS: Final[dict[str, str]] = {
    "K001": """A class was used as a model that is none, or that the app does not know.

Models are declared as `class Member(klerk.Model): ...` and given a machine with `app.machine(Member)`.
A class that is referred to with `Ref[Member]` needs a machine in the same app, too.""",
    "K002": """A model class was given two machines in one app.

Call `app.machine(Member)` once and use the machine it returns.""",
    "K003": """A field has a type that Klerk cannot keep.

Models are immutable and stay valid after the lock is released, so their fields are: the value types
(klerk.Text, Int, Float, Bytes, Enum), str, int, float, bytes, bool, datetime, date, timedelta, Decimal, UUID,
Ref[Model], a frozen msgspec.Struct, tuple[X, ...], frozenset[X], and any of these | None.""",
    "K004": """A name is used twice, or is not an identifier.

Names of states, events and jobs are stored; they must be unique where they are used.""",
    "K005": """A machine has no states, or no event that creates a model.

Declare at least one state (`active, = member.states("active")`) and one create event
(`@member.create(into=active)`), or remove the machine.""",
    "K006": """The function of an event or job cannot be called.

Its first parameter is filled by Klerk (the args, or the running job); the rest are the parameters of the
event or job, each with a type annotation and without * or **.""",
    "K007": """A parameter of an event or job has no annotation, or one that cannot be checked.

Parameters have the same types as fields: see K003.""",
    "K008": """A function in a rule, block or condition wants parameters that there are not.

It receives the args first. After that it may name any of the event's parameters; on enter, on exit and in
timers there are none. A job in a block has one parameter, a reference to the block's model; anything else is
a function that returns job requests: `lambda a: remind(a.model.meta.id, 3)`.""",
    "K009": """A state or event was used with a machine that it does not belong to.""",
    "K010": """An event is accepted in no state, so it can never happen.

Name the states in its decorator (`@loan.event(out, overdue)`) or add a block: `overdue.on(add_fee)`.""",
    "K011": """A state can never be reached.

No create event leads into it, and no transition does. Add one, or remove the state. A machine without any
transition is not checked: its states may be labels of things to come.""",
    "K012": """A state can never be left, and is not marked final.

Add an event or timer that leads out of it, or list it in `machine.states(..., final=("returned",))`. A
machine without any transition is not checked.""",
    "K013": """A final state is left by a transition.

Remove the transition, or do not mark the state final.""",
    "K014": """A block has more than one transition that may happen at once.

One block moves a model at most once. Put the choice into
`to_when({condition: state, ...}, otherwise=state)`.""",
    "K015": """The design was changed after the app was opened.

Declare everything first and call `app.open` last: the design is checked once and then frozen.""",
    "K016": """A transition or deletion stands in a block where it cannot happen.

An exit block runs because the model is leaving its state already; a create event says with `into=` where its
model begins.""",
    "K017": """An option has a value that it cannot have.

The message names the option and what is possible.""",
    "K070": """A view is sorted by something that has no order.

`order(...)` takes names of fields (of numbers, texts, times, truth values, enums, UUIDs or references), of
id, version, created_at, updated_at, entered_at or state; or one function of the model that gives such a
value.""",
    "K018": """A rule about reading names a class, field or tag that there is not.

It would never be asked: an allow rule would allow nothing, and a deny rule deny nothing. Write the class, the
field or the tag as it is declared.""",
    "K040": """The clock given to `app.open` fails, or returns something that is no moment.

It is a function without parameters that returns an aware datetime: `lambda: datetime.now(UTC)`.""",
    "K041": """A timer cannot act as what was given for `run_as`.

It is an actor, as in `run_as=User("billing")`, or a function `(a) -> Actor`. The timers that one state
declares with `at` act as one actor, because the moment alone does not say which of them has come.""",
    "K060": """A rule about key-values or blobs names something that is no prefix.

Prefixes are texts that are not empty: `@app.allow.kv("session:", "cart:")`. Without any, the rule covers all
keys.""",
    "K061": """A rule about key-values or blobs names an action that there is not.

The actions are "read", "write", "delete" and "list"; without `action=` the rule covers all four.""",
}
"""The text for each code; its first paragraph says what is wrong, the rest how to mend it."""

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
event or job, each with a type annotation and without * or **. A job's function has no yield: nothing of it
would run.""",
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

Remove the transition, or do not mark the state final. Deleting a model in a final state is no transition.""",
    "K014": """A block has more than one transition that may happen at once.

One block moves a model at most once. Put the choice into
`to_when({condition: state, ...}, otherwise=state)`; or give every transition but the last a condition
(`when=`): the first that holds, as declared, is the one that happens.""",
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
    "K030": """The parameters of an event were used before its app was opened.

Their types are compiled when the design is checked: call `app.open(...)` before `event.from_json(...)` and
the like, or `app.freeze()` in a program that opens nothing.""",
    "K031": """A rule says that it is about a field or parameter that there is not.

A rule of an event names one of its parameters (`@lend.rule(path="title")`), a rule of a machine a field of
its models (`@loan.rule(path="due")`), or something inside of one, as in `path="address.lines[2]"`.""",
    "K032": """What is valid was said for a parameter that the event does not have, or said twice.

Name each parameter once: `lend.valid(member=active, shelf={1, 2})`. What depends on the actor or the model
is a function: `lend.valid(member=lambda a: ...)`.""",
    "K033": """What is valid for a parameter does not fit its type.

For a reference give a view of the class that it refers to: its machine, a state, an index called with a key.
For any other type give a collection of values of that type, or for either a function `(a) -> ...`.""",
    "K034": """The function of a validator wants something else than parameters of its event.

It takes any of the event's parameters, by name, and neither the args nor anything else:
`def dates_in_order(start: datetime, end: datetime) -> bool`. What needs the context or the
model is a rule.""",
    "K040": """The clock given to `app.open` fails, or returns something that is no moment.

It is a function without parameters that returns an aware datetime: `lambda: datetime.now(UTC)`.""",
    "K041": """A timer cannot act as what was given for `run_as`.

It is an actor, as in `run_as=User("billing")`, or a function `(a) -> Actor`. The timers that one state
declares with `at` act as one actor, because the moment alone does not say which of them has come.""",
    "K050": """The numbers of the migrations are not 1, 2, 3 and so on.

Give each migration the next number. Those that ever ran in a store are kept, however old: history is read
with them, and a store may be many versions behind.""",
    "K051": """The function of a migration cannot be called.

Declare it as `@app.migration(1)` and `def people_are_members(m: klerk.Migration) -> None: ...`. It says what
to do by calling methods of `m` and returns nothing.""",
    "K052": """A migration leads to a name that there is not, or begins with one.

After all migrations the names must be those of the declared design. Inside a migration the operations are run
one after the other, on the names that those before have left: once a model is renamed, its fields are renamed
under the new name. A job that a migration has renamed, and that is gone since, is deleted by a later one.

When a store is opened or checked, the first migration that it has not run must not begin with a name that the
store does not have where it has one like it: that is a typo. Other names are left alone, as a store may be
older than what a migration is about. If that is so here, open it with the design of just before first.""",
    "K053": """A migration contradicts itself or the design.

Two operations are about the same thing, one changes nothing, or something is deleted that is still declared.
Deleting would lose what is stored. If a field was deleted once and is new again, say so with `m.add_field` in
a later migration; a new model needs another name than the one that was deleted.""",
    "K054": """An operation of a migration has an argument that it cannot have.

Names are texts as in the design; events are written as "Loan.give_back". Transforms are plain functions that
take a dict of values by name and return one. A default must be a value that a field can have.""",
    "K060": """A rule about key-values or blobs names something that is no prefix.

Prefixes are texts that are not empty: `@app.allow.kv("session:", "cart:")`. Without any, the rule covers all
keys.""",
    "K061": """A rule about key-values or blobs names an action that there is not.

The actions are "read", "write", "delete" and "list"; without `action=` the rule covers all four.""",
    "K019": """A transition leads from a state to itself.

What stays where it is needs no transition: an event that only updates is declared without one. Where the
state shall be entered anew, with its exit and enter blocks and its timers from the start, say when:
`active.on(renew).to(active, when=is_renewable)`.""",
    "K075": """The function of a job that runs in a process cannot be imported there.

A worker process is a new interpreter: it imports the module that declares the job, and looks the job up by
its name. Declare such jobs at the top of a module that has a file, under the name that stays theirs; not
inside of a function, a test or an interactive session. The main script is imported, too, so it opens the app
under `if __name__ == "__main__":`.""",
    "K076": """An app was opened by importing its module in a worker process.

Worker processes import the modules of jobs, and the main script. `app.open` must not run then: only one
process can have a store open. Put it into a function, or under `if __name__ == "__main__":`.""",
    "K020": """A choice of `to_when` leads to the state that the model is in already.

When no condition holds and there is no `otherwise=`, the model stays where it is. Leave the choice out, or
put what it excludes into the other conditions.""",
    "K021": """Jobs and timers have no context to act in.

They act as the system, in the context that the app's context provider makes: a function `(actor, now)` that
returns a Context. It is called once when the app is opened, so that no timer is the first to find a mistake.
An app with a context class of its own declares one: `@app.context_provider`.""",
    "K022": """A decorator was used without parentheses.

`@loan.event(out)`, `@loan.create(into=out)`, `@app.job()` and `@app.allow.command()` are called first; what
they return decorates the function. Only `rule` and `context_provider` are written without.""",
    "K023": """A function of models does not take a model alone.

Rules of a machine and keys of its indexes are asked about each version of a model and know nothing else:
`@member.rule def is_named(member): ...`, `member.index(lambda m: m.email)`. What needs the args, the context
or other models is the rule of an event.""",
    "K024": """A field has the name of something that every model has.

`meta`, `replace` and `as_dict` belong to all models, and `self` is how Python calls the model in its methods.
Rename the field.""",
    "K025": """Something else stands where a function belongs.

Blocks, conditions and rules are functions of the args that are called when it is time, as in
`lambda a: remind(...)`. An event, a job or a command that was made already cannot be called that way.""",
}
"""The text for each code; its first paragraph says what is wrong, the rest how to mend it."""

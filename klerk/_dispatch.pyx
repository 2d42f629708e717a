"""What a design is compiled to: values and their checks, commands, and the flat dispatch table of blocks."""

from datetime import datetime, timedelta, timezone

cimport cython
from cpython.datetime cimport import_datetime, datetime_tzinfo
from cpython.object cimport PyObject_GenericSetAttr
from cpython.unicode cimport PyUnicode_AsUTF8String
from libc.math cimport isfinite
from libc.stdint cimport int64_t

from klerk._table cimport IdSet

from klerk.errors import ArgumentError, Conflict, Denied, FunctionFailed, NotFound, Problem, Rejected

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)

import_datetime()

cdef object UTC = timezone.utc
cdef object EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
cdef object MICROSECOND = timedelta(microseconds=1)


cpdef int64_t microseconds(object moment) except? -1:
    """Return an aware datetime as microseconds since 1970 UTC."""
    return (moment - EPOCH) // MICROSECOND


cpdef object moment_of(int64_t us):
    """Return microseconds since 1970 as an aware datetime in UTC; 0, which marks "never", as None."""
    return None if us == 0 else moment_at(us)


cpdef object moment_at(int64_t us):
    """Return microseconds since 1970 as an aware datetime in UTC."""
    return EPOCH + timedelta(microseconds=us)


# --- models, values and what is asked of them ---------------------------------------------------------


@cython.no_gc
cdef class Meta:
    """What Klerk knows about one version of a model.

    Attributes:
        id: the model's reference, unique in the whole store.
        state: the state it is in.
        version: 1 when created, one more for each transaction that changed it.
        created_us, updated_us, entered_us: when it was created, last changed, and came into its state, in
            microseconds since 1970 UTC; `created_at`, `updated_at` and `entered_at` as datetimes.
        due_us: when its next timer is due; 0 when none is.
        fired_us: up to when its timers in this state have fired.
    """

    def __class_getitem__(cls, _):
        return cls

    @property
    def created_at(self):
        return moment_of(self.created_us)

    @property
    def updated_at(self):
        return moment_of(self.updated_us)

    @property
    def entered_at(self):
        return moment_of(self.entered_us)

    @property
    def due_at(self):
        return moment_of(self.due_us)

    def __eq__(self, other):
        cdef Meta a, b
        if type(other) is not Meta:
            return NotImplemented
        a, b = self, other
        return (
            a.id == b.id and a.version == b.version and a.state == b.state and a.created_us == b.created_us
            and a.updated_us == b.updated_us and a.entered_us == b.entered_us and a.due_us == b.due_us
            and a.fired_us == b.fired_us
        )

    def __hash__(self):
        return hash((self.id, self.version))

    def __repr__(self):
        return f"Meta(id={self.id}, state={self.state}, version={self.version})"


def replace(self, **changes):
    """Return a draft with some fields changed, for an event to give back."""
    draft = self.__copy__()
    PyObject_GenericSetAttr(draft, "_meta", None)
    for name, value in changes.items():
        if name not in self.__struct_fields__ or name == "_meta":
            raise TypeError(f"{type(self).__name__} has no field '{name}'")
        PyObject_GenericSetAttr(draft, name, value)
    return draft


class MetaField:
    """The descriptor behind ``model.meta``: a draft, which is not stored yet, says so."""

    def __get__(self, model, owner=None):
        if model is None:
            return self
        meta = model._meta
        if meta is None:
            raise AttributeError(
                f"this {type(model).__name__} is a draft:"
                " it has no id and no state until its command committed"
            )
        return meta


KINDS = {
    "slow": SLOW, "text": TEXT, "int": INT, "float": FLOAT, "bytes": BYTES, "exact": EXACT,
    "datetime": DATETIME, "ref": REF,
}


cdef class Check:
    """Whether a value fits its declared type, decided without a call in the common cases.

    Parameters:
        name: of the field or parameter.
        kind: one of `KINDS`; "slow" leaves every decision to `slow`.
        low, high: bounds of an int or float, or of a length.
        exact: the type that a value of kind "exact" must have.
        slow: ``slow(value, path, problems) -> value`` converts what can be converted and reports the rest.
        target: the model class that a reference of kind "ref" points to.
        nullable: None is accepted.
        nested: ``nested(value) -> iterable of (id, model class)`` for references inside a value, or None.
    """

    def __init__(
        self, str name, str kind, *, slow, low=None, high=None, exact=None, target=None, nullable=False,
        nested=None,
    ):
        self.name = name
        self.kind = KINDS[kind]
        self.nullable = nullable
        self.exact = exact
        self.slow = slow
        self.target = target
        self.nested = nested
        if self.kind == FLOAT:
            self.low_float = float("-inf") if low is None else low
            self.high_float = float("inf") if high is None else high
        elif self.kind in (TEXT, INT, BYTES):
            self.low = low
            self.high = high

    cdef bint accepts(self, object value) except -1:
        cdef int64_t number
        if value is None:
            return self.nullable
        if self.kind == TEXT:
            return (
                type(value) is str
                and self.low <= len(<str>value) <= self.high
                # Text with lone surrogates cannot be stored: it is left to the slow check.
                and (PyUnicode_IS_ASCII(value) or _is_unicode(value))
            )
        if self.kind == INT:
            if type(value) is not int:
                return False
            try:
                number = value
            except OverflowError:
                return False
            return self.low <= number <= self.high
        if self.kind == REF:
            return type(value) is int
        if self.kind == DATETIME:
            return type(value) is datetime and datetime_tzinfo(value) is UTC
        if self.kind == EXACT:
            return type(value) is self.exact
        if self.kind == FLOAT:
            return type(value) is float and isfinite(value) and self.low_float <= value <= self.high_float
        if self.kind == BYTES:
            return type(value) is bytes and self.low <= len(<bytes>value) <= self.high
        return False


cdef bint _is_unicode(str text) except -1:
    try:
        PyUnicode_AsUTF8String(text)
    except UnicodeEncodeError:
        return False
    return True


cdef class RefField:
    """A field that refers to models: who refers to whom, kept as the models change.

    Parameters:
        position: of the field's check in its class.
        model_class: the class that has the field.
    """

    def __init__(self, Check check not None, model_class):
        self.check = check
        self.model_class = model_class
        self.referrers = {}

    cpdef list targets(self, object model):
        """Return the ids that the field of this model refers to."""
        value = getattr(model, self.check.name)
        if value is None:
            return []
        if self.check.kind == REF:
            return [value]
        return [id for id, _ in self.check.nested(value)]

    cdef int publish(self, object id, object old, object new) except -1:
        """Follow a model from one version to the next, by the references that changed."""
        cdef IdSet ids
        before = None if old is None else getattr(old, self.check.name)
        after = None if new is None else getattr(new, self.check.name)
        if before is after:
            return 0
        gone = [] if old is None else self.targets(old)
        come = [] if new is None else self.targets(new)
        if len(gone) > 1 or len(come) > 1:
            gone, come = set(gone).difference(come), set(come).difference(gone)
        elif gone == come:
            return 0
        for target in gone:
            ids = self.referrers.get(target)
            if ids is not None and ids.discard(id) and ids.count == 0:
                del self.referrers[target]
        for target in come:
            ids = self.referrers.get(target)
            if ids is None:
                ids = self.referrers[target] = IdSet()
            ids.add(id)
        return 0


# --- commands and what functions of the application receive -------------------------------------------


cdef class EventBase:
    """What calling an event does: bind the arguments into an inert command.

    Attributes:
        index: the event's place in the dispatch table of its app.
        creates: it takes no target.
        arity: how many parameters it has.
        signature_of: called with (args, kwargs) when the call is not plainly positional; returns the values.
    """

    def __call__(self, *args, **kwargs):
        cdef Command command = Command.__new__(Command)
        command.event = self
        if self.creates:
            command.target = None
            values = args
        else:
            if not args:
                raise ArgumentError(f"{self} needs the model it happens to as its first argument")
            command.target = args[0]
            values = args[1:]
        if kwargs or len(values) != self.arity:
            values = self.signature_of(values, kwargs)
        command.values = <tuple>values
        return command


@cython.no_gc
cdef class Command:
    """A request that an event happen to a target. Inert until it is handled."""

    def __class_getitem__(cls, _):
        return cls

    cdef Command with_values(self, tuple values):
        cdef Command command = Command.__new__(Command)
        command.event = self.event
        command.target = self.target
        command.values = values
        return command

    @property
    def parameters(self):
        """The arguments by name."""
        return dict(zip(self.event.names, self.values))

    def __repr__(self):
        return f"<command {self.event} on {'a new model' if self.target is None else self.target}>"


class Undecided(BaseException):
    """A rule asked for what is not known, so it has no answer; its ``except Exception`` may not hide that."""


@cython.no_gc
cdef class Args:
    """What every function of the application receives first.

    Attributes:
        context: on whose behalf, and when; with the fields of the app's own context class.
        now: the context's time.
        model: the model that it is about, as this transaction has left it; None while one is created.
        read: reads the working state, the transaction's own changes included.
        command: the command at hand; `parameters` are its arguments by name.
        field: in a rule about fields, the name of the field.
        key, action: in a rule about key-values or blobs, what is used and how: "read", "write", "delete" or,
            with a prefix for a key, "list". In a rule about jobs, the name of their kind, and what is done.
    """

    def __class_getitem__(cls, _):
        return cls

    @property
    def model(self):
        self.touched = True
        if self.lacks_model:
            raise Undecided("the model")
        return self.current

    @property
    def field(self):
        self.touched_field = True
        return self.field_name

    @property
    def command(self):
        if self.lacks_parameters:
            raise Undecided("the command")
        return self.requested

    @property
    def parameters(self):
        command = self.command
        return {} if command is None else command.parameters

    def __repr__(self):
        return f"<args of {self.requested}>"


def possible_args(context, now, read, model=None):
    """Return the arguments for a rule that is asked what is possible, before there is a command.

    When it asks for the command or its parameters, `Undecided` is raised.
    """
    cdef Args a = new_args(context, now, read, model)
    a.lacks_parameters = True
    return a


def new_args(context, now, read, model=None, key=None, action=None):
    """Return the arguments for a rule that is asked outside of a command."""
    cdef Args a = Args.__new__(Args)
    a.context = context
    a.now = now
    a.read = read
    a.current = model
    a.key = key
    a.action = action
    return a


def ask(rules, Args a not None, field=None):
    """Ask rules one after the other until one says yes.

    A rule is a pure function. One that never looked at the model cannot depend on it: its answer is the same
    for all models as long as the state it reads does not change. The same goes for the field.

    Returns:
        (whether one said yes, whether any looked at the model, whether any looked at the field)
    """
    a.touched = a.touched_field = False
    a.field_name = field
    for rule in rules:
        if (<Call>rule).permits(a):
            return True, a.touched, a.touched_field
    return False, a.touched, a.touched_field


cdef class Call:
    """A function of the application and the way it takes its arguments.

    Parameters:
        function: called with the `Args` first.
        mode: 0 the args alone, 1 all parameters in order, 2 the parameters at `names` (positions), 3 all as
            keywords, 4 the parameters at `names` without the args.
        names: positions for modes 2 and 4, names for mode 3.
    """

    def __init__(self, function, int mode=0, tuple names=()):
        self.function = function
        self.mode = mode
        self.names = names

    cdef object run(self, Args a, tuple values):
        try:
            if self.mode == ALONE:
                return self.function(a)
            if self.mode == POSITIONAL:
                return self.function(a, *values)
            if self.mode == CHOSEN:
                return self.function(a, *[values[i] for i in self.names])
            if self.mode == VALUES:
                return self.function(*[values[i] for i in self.names])
            return self.function(a, **dict(zip(self.names, values)))
        except (Rejected, Denied, NotFound, Conflict, Undecided, KeyboardInterrupt):
            # The function's own refusal; or an interrupt of the main thread, in which a read asks its rules.
            raise
        except BaseException as error:
            what = described(self.function)
            raise FunctionFailed(f"{what} raised {type(error).__name__}: {error}") from error

    cdef object bound(self, tuple values):
        """Return a function of the args alone, which is given these parameters when it is called."""
        return self.function if self.mode == ALONE else BoundCall(self, values)

    cdef bint permits(self, Args a) except -1:
        """Ask an allow or deny rule."""
        return self.decided(self.run(a, ()))

    cdef bint decided(self, object verdict) except -1:
        """Return what a rule said; refuse what is no truth value: a coroutine would count as a yes."""
        if verdict is True:
            return True
        if verdict is False:
            return False
        if type(verdict).__name__ in ("bool", "bool_"):
            # NumPy's truth values.
            return bool(verdict)
        raise FunctionFailed(
            f"the rule {described(self.function)} returned {type(verdict).__name__}, expected True or False"
        )

    cpdef bint holds_for(self, object model) except -1:
        """Ask a rule of a class about a model."""
        try:
            verdict = self.function(model)
        except (Rejected, Denied, NotFound, Conflict, KeyboardInterrupt):
            # The function's own refusal; or an interrupt of the main thread, in which a read asks its rules.
            raise
        except BaseException as error:
            what = described(self.function)
            raise FunctionFailed(f"{what} raised {type(error).__name__}: {error}") from error
        return self.decided(verdict)


cdef class BoundCall:
    """A function of the application together with the parameters that it will be given."""

    def __init__(self, Call call not None, tuple values not None):
        self.call = call
        self.values = values

    def __getattr__(self, name):
        # In messages it goes by the function's own name and place.
        return getattr(self.call.function, name)

    def __call__(self, Args a not None):
        return self.call.run(a, self.values)


def described(function):
    """Return a function's name and place, for messages."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else name


# --- the dispatch table -------------------------------------------------------------------------------


cdef class Rule:
    """A condition of an event or class, with what people are told when it does not hold.

    Parameters:
        path: of the parameter or field that it is about; empty for none.
        key: what a translation finds the message under.
    """

    def __init__(self, Call call not None, str code, str message, str path="", str key=""):
        self.call = call
        self.code = code
        self.message = message
        self.path = path
        self.key = key

    cdef object problem(self):
        return Problem(code=self.code, message=self.message, path=self.path, key=self.key)


cdef class Choice:
    """What a parameter of an event may be, beyond its type.

    Parameters:
        position, name: of the parameter.
        allowed: a view of the models that a reference may point to, or a collection of values.
        call: the function of the application that gives it instead, or None.
        judge: ``judge.require(allowed, what)`` refuses what a function should not have given;
            ``judge.problems(value, allowed, working)`` are those of a value.
    """

    def __init__(self, Py_ssize_t position, str name, judge, *, allowed=None, Call call=None):
        self.position = position
        self.name = name
        self.judge = judge
        self.allowed = allowed
        self.call = call

    def allowed_in(self, Args a not None):
        """Return the view or collection, asked for where it depends on who wants what."""
        if self.call is None:
            return self.allowed
        allowed = self.call.run(a, ())
        self.judge.require(allowed, described(self.call.function))
        return allowed


cdef class Demands:
    """What an event asks of its parameters beyond their types: of several together, and of single ones."""

    def __init__(self, list validators not None, list choices not None):
        self.validators = validators
        self.choices = choices

    def invalid(self, tuple values not None):
        """Ask every validator and return the problems of those that are not content."""
        cdef Rule rule
        cdef list problems = []
        for rule in self.validators:
            try:
                if not rule.call.decided(rule.call.run(None, values)):
                    problems.append(rule.problem())
            except Rejected as refusal:
                # A value that it made of the parameters is refused by its type.
                problems.extend(refusal.problems)
            except FunctionFailed as failure:
                if not isinstance(failure.__cause__, ValueError):
                    raise
                text = str(failure.__cause__) or rule.message
                problems.append(Problem(code=rule.code, message=text, key=rule.key))
        return problems

    def not_chosen(self, Args a not None, tuple values not None, working):
        """Return the problems of the values that may not be chosen; ``working(id)`` gives models."""
        cdef Choice choice
        cdef list problems = []
        for choice in self.choices:
            value = values[choice.position]
            if value is not None:
                problems.extend(choice.judge.problems(value, choice.allowed_in(a), working))
        return problems


cdef class Step:
    """One executable of a block.

    Parameters:
        kind: 0 update, 1 to, 2 to_when, 3 commands, 4 job, 5 unmanaged job, 6 delete.
        call: the function, when the kind has one.
        condition: run only when it says so.
        value: the state for `to`; ``([(condition, state), ...], otherwise)`` for `to_when`; the job for
            `job`.
    """

    def __init__(self, int kind, Call call=None, Call condition=None, value=None):
        self.kind = kind
        self.call = call
        self.condition = condition
        self.value = value

    cdef bint holds(self, Args a, tuple values) except -1:
        return self.condition is None or self.condition.decided(self.condition.run(a, values))


cdef class Block:
    """What happens on one occasion: updates first, then at most one transition, then the effects."""

    def __init__(self, steps):
        self.updates = [step for step in steps if step.kind == UPDATE]
        self.moves = [step for step in steps if step.kind in (TO, TO_WHEN)]
        self.effects = sorted(
            [step for step in steps if step.kind > TO_WHEN], key=lambda step: step.kind
        )


cdef class Timer:
    """A block that runs when a moment (`due`, a function) or a time in the state (`delay_us`) has come."""

    def __init__(self, Block block not None, Call due=None, int64_t delay_us=0):
        self.block = block
        self.due = due
        self.delay_us = delay_us


cdef class StatePlan:
    """One state of a class in the dispatch table, and the published models in it."""

    def __init__(self, state, int code, Block enter, Block exit, list timers not None):
        self.state = state
        self.code = code
        self.enter = enter
        self.exit = exit
        self.timers = timers
        self.ids = IdSet()


cdef class ClassPlan:
    """One model class in the dispatch table, and the published models of it.

    Parameters:
        schema: the version of the schema, which models are stored with.
        since: models stored with an earlier one than this are brought up to date by the `upcaster`.
    """

    def __init__(
        self, model_class, str name, int code, *, list checks, list states, list indexes, list rules, decode,
        int schema=0, int since=0, upcaster=None,
    ):
        self.model_class = model_class
        self.name = name
        self.code = code
        self.checks = checks
        self.states = states
        self.indexes = indexes
        self.rules = rules
        self.decode = decode
        self.schema = schema
        self.since = since
        self.upcaster = upcaster
        self.has_timers = any([(<StatePlan>state).timers for state in states])
        self.ids = IdSet()
        self.references = [
            RefField(check, model_class)
            for check in checks if (<Check>check).kind == REF or (<Check>check).nested is not None
        ]
        self.referenced_by = []
        self.orders = []

    cdef StatePlan state_of_code(self, int code):
        """Return the plan of the state that a stored code means."""
        cdef StatePlan plan
        for plan in self.states:
            if plan.code == code:
                return plan
        raise ValueError(f"{self.name} has no state with code {code}")

    cdef int publish(self, object id, object old, object new) except -1:
        """Bring the sets of ids and references from the old version of a model to the new one."""
        cdef StatePlan state
        old_state = None if old is None else (<Meta>old._meta).state
        new_state = None if new is None else (<Meta>new._meta).state
        if old_state is not new_state:
            if old is None:
                self.ids.add(id)
            else:
                state = self.states[old_state.index]
                state.ids.discard(id)
            if new is None:
                self.ids.discard(id)
            else:
                state = self.states[new_state.index]
                state.ids.add(id)
        for field in self.references:
            (<RefField>field).publish(id, old, new)
        for order in self.orders:
            order.move(id, old, new)
        return 0


cdef class EventPlan:
    """One event in the dispatch table: checks, rules, and a block for every state that accepts it.

    Parameters:
        reach: who may cause it: 0 its own machine, 1 any machine, from 2 on any code.
    """

    def __init__(
        self, EventBase event not None, ClassPlan owner not None, int code, *, list checks, tuple allow,
        tuple deny, list rules, list blocks, Call create, into, int reach, Demands demands=None,
    ):
        self.event = event
        self.owner = owner
        self.code = code
        self.checks = checks
        self.allow = allow
        self.deny = deny
        self.rules = rules
        self.demands = demands
        self.blocks = blocks
        self.create = create
        self.into = into
        self.reach = reach

"""The working state: what the transaction at hand sees, and whether that is what the design allows."""

from datetime import datetime
from operator import index

from cpython.object cimport PyObject_GenericSetAttr
from libc.stdint cimport int64_t

from klerk._dispatch cimport (
    INTERNAL,
    REF,
    Args,
    Call,
    Check,
    ClassPlan,
    Command,
    EventPlan,
    Meta,
    RefField,
    Rule,
    StatePlan,
    Timer,
    microseconds,
)
from klerk._table cimport IdSet, ModelTable

from klerk._dispatch import Undecided, described
from klerk.errors import (
    ArgumentError,
    BrokenReference,
    Conflict,
    Denied,
    FunctionFailed,
    InvalidValue,
    KlerkError,
    NotFound,
    Problem,
    Rejected,
    listed,
)

# The end of the year 9999, the last that a datetime has: no clock ever shows what lies beyond.
cdef int64_t LAST_US = 253_402_300_799_999_999


cdef class WorkingState:
    """The published table overlaid by `pending`: every version not yet published, of the group at hand and of
    groups that are being written. Publishing moves versions from one to the other.

    Parameters:
        table: of the published models.
        classes: the class plans.
    """

    def __init__(self, ModelTable table not None, list classes not None):
        self.table = table
        self.pending = {}
        self.classes = {(<ClassPlan>plan).model_class: plan for plan in classes}
        self.deleted = []
        self.index_operations = []

    cpdef object working(self, int64_t id):
        """Return the working version of a model, or None."""
        model = self.pending.get(id, self)
        return self.table.get(id) if model is self else model

    def overlay(self, IdSet published not None, model_class):
        """Return what the working state makes of a published set of ids, at one moment.

        Returns:
            The ids whose models were not changed since, and the working models of a class that were.
        """
        cdef list unchanged = [], changed = []
        cdef dict pending = self.pending
        cdef Py_ssize_t c
        cdef int at
        for c in range(published.chunk_count):
            for at in range(published.lengths[c]):
                id = published.chunks[c][at]
                if id not in pending:
                    unchanged.append(id)
        for model in pending.values():
            if type(model) is model_class:
                changed.append(model)
        return unchanged, changed

    def overlay_count(self, IdSet published not None, model_class):
        """Return what `overlay` does, but only how many models were not changed."""
        cdef list changed = []
        cdef Py_ssize_t hidden = 0
        for id, model in self.pending.items():
            if published.has(id):
                hidden += 1
            if type(model) is model_class:
                changed.append(model)
        return published.count - hidden, changed

    def overlay_referrers(self, RefField field not None, id):
        """Return what `overlay` does of the published models that refer to a model with a field."""
        # In one step with the look at pending models: a set that got empty is not the one filled next.
        published = field.referrers.get(id)
        return self.overlay(IdSet() if published is None else published, field.model_class)

    def changed(self, model_class):
        """Return the unpublished models of a class, and their ids with those of deleted models."""
        cdef list models = []
        cdef set ids = set()
        for id, model in self.pending.items():
            if model is None:
                ids.add(id)
            elif type(model) is model_class:
                ids.add(id)
                models.append(model)
        return models, ids

    cdef object found_target(self, EventPlan plan, object target):
        """Return the working version of the model that a command targets; None when there is none."""
        model = self.working(id_or_zero(target))
        return None if model is None or type(model) is not plan.owner.model_class else model

    cdef int authorize(self, EventPlan plan, Args a) except -1:
        """Deny unless an allow rule says yes and no deny rule does.

        Nobody learns from a refusal what they may not know. A target that is missing is known as missing
        only to those whom the rules permit the event on every model, whichever it is; to everyone else the
        refusal is the one that they would get for a model that is there. That is why it says "or there is
        no such model" as soon as a rule looked at the model.
        """
        refusal = self.refusal(plan, a)
        if refusal is not None:
            doubt = f", or there is no such {plan.owner.name}" if plan.create is None and a.touched else ""
            raise Denied(
                f"{plan.event} is {refusal} {self.context.actor}{doubt}",
                values={"event": str(plan.event), "actor": str(self.context.actor)},
            )
        return 0

    cdef str refusal(self, EventPlan plan, Args a):
        """Return None when the rules permit an event, whatever the args lack; else how they refuse it."""
        cdef str verdict
        for rule in plan.allow:
            if self.answer(plan, rule, a) is True:
                break
        else:
            return "not allowed for"
        # Where an allow rule looked at the model, a missing one would not have come this far.
        verdict = "not allowed for" if a.touched else "denied to"
        for rule in plan.deny:
            if self.answer(plan, rule, a) is not False:
                return verdict
        return None

    cdef object answer(self, EventPlan plan, Call rule, Args a):
        """Return what an allow or deny rule says; None when it cannot, for want of what it asks for."""
        try:
            return rule.permits(a)
        except (Undecided, NotFound):
            return None
        except KlerkError:
            # Who looks for a missing model in another way than by `a.model` stumbles sooner or later.
            if a.lacks_model or a.lacks_parameters:
                return None
            if self.broken_references(plan.checks, (<Command>a.requested).values, None):
                return None
            raise

    cdef object not_visible(self, EventPlan plan):
        """Return the refusal of a command that may not come this way."""
        whose = f"of {plan.owner.name}" if plan.reach == INTERNAL else "of machines"
        return Denied(
            f"{plan.event} can only be caused by blocks {whose}",
            code="not_visible",
            values={"event": str(plan.event)},
            hint="Cause it in a block, with .commands(...), or declare it with another visibility.",
        )

    cdef bint fits(self, list checks, tuple values) except -1:
        """Return whether the values are as their types want them."""
        cdef Check check
        cdef Py_ssize_t i
        for i in range(len(checks)):
            check = checks[i]
            if not check.accepts(values[i]):
                return False
        return True

    cdef tuple converted(self, list checks, tuple values, list problems):
        """Return the values as their types want them, and report what cannot be converted."""
        return tuple(
            [
                value if (<Check>each).accepts(value)
                else (<Check>each).slow(value, (<Check>each).name, problems)
                for each, value in zip(checks, values)
            ]
        )

    cdef tuple checked_values(self, list checks, tuple values, object what):
        """Return the values as their types want them, or raise an error with every problem found."""
        cdef list problems
        if not self.fits(checks, values):
            problems = []
            values = self.converted(checks, values, problems)
            if problems:
                problems = self.broken_references(checks, values, problems)
                raise InvalidValue(f"{what}: {listed(problems)}", problems=problems)
        self.require_references(checks, values, what)
        return values

    cdef list broken_references(self, list checks, tuple values, list problems):
        """Return the problems with every reference that points to no model of its class added."""
        cdef Check check
        cdef Py_ssize_t i
        for i in range(len(checks)):
            check = checks[i]
            # Of a value that does not fit, nobody knows what it refers to.
            if (check.kind == REF or check.nested is not None) and not _has_problem(problems, check.name):
                if problems is None:
                    problems = []
                self.check_reference(check, values[i], problems)
        return problems

    cdef int require_references(self, list checks, tuple values, object what) except -1:
        cdef list problems = self.broken_references(checks, values, None)
        if problems:
            raise BrokenReference(f"{what}: {listed(problems)}", problems=problems)
        return 0

    cdef int check_reference(self, Check check, object value, list problems) except -1:
        """Report every reference of a value that points to no model of its class."""
        if value is None:
            return 0
        for id, target in ((value, check.target),) if check.kind == REF else check.nested(value):
            model = self.working(id_or_zero(id))
            if model is None or type(model) is not target:
                text = f"there is no {target.__name__} {id}"
                about = {"model": target.__name__, "id": id}
                problems.append(
                    Problem(code="broken_reference", message=text, path=check.name, values=about)
                )
        return 0

    cdef int refuse_values(
        self, EventPlan plan, Args a, tuple values, list problems, bint authorize
    ) except -1:
        """Refuse values with what validators found and, to those who may give the command, with what may
        not be chosen."""
        cdef bint is_accepted = True
        if plan.create is None:
            a.current = self.found_target(plan, (<Command>a.requested).target)
            a.lacks_model = a.current is None
            is_accepted = (
                a.current is not None and plan.blocks[(<Meta>a.current._meta).state.index] is not None
            )
        if (
            is_accepted
            and not (authorize and self.refusal(plan, a) is not None)
            and not self.broken_references(plan.checks, values, None)
        ):
            problems.extend(plan.demands.not_chosen(a, values, self.working))
        raise InvalidValue(f"{plan.event}: {listed(problems)}", problems=problems)

    cdef int obey_event(self, EventPlan plan, Args a, tuple values) except -1:
        """Refuse values that may not be chosen, and then what breaks a rule of the event."""
        cdef list problems
        if plan.demands is not None:
            problems = plan.demands.not_chosen(a, values, self.working)
            if problems:
                raise InvalidValue(f"{plan.event}: {listed(problems)}", problems=problems)
        return self.obey(plan.rules, a, values)

    cdef int obey(self, list rules, Args a, tuple values) except -1:
        """Ask every rule; refuse with all that do not hold."""
        cdef Rule rule
        cdef list problems = None
        for rule in rules:
            if not rule.call.decided(rule.call.run(a, values)):
                if problems is None:
                    problems = []
                problems.append(rule.problem())
        if problems is not None:
            raise Rejected(listed(problems), problems=problems)
        return 0

    cdef object own_draft(self, ClassPlan owner, object draft, Call call):
        """Return what a function made as a draft that only this transaction holds."""
        if type(draft) is not owner.model_class:
            raise FunctionFailed(
                f"{described(call.function)} returned {type(draft).__name__}, expected {owner.name} or None"
            )
        return draft if draft._meta is None else draft.__copy__()

    cdef int check_draft(self, ClassPlan owner, object draft, object previous) except -1:
        """Check the fields that changed, their references, and the rules of the class."""
        cdef list problems = []
        self.check_fields(owner, draft, previous)
        for rule in owner.rules:
            if not (<Rule>rule).call.holds_for(draft):
                problems.append((<Rule>rule).problem())
        if problems:
            raise Rejected(listed(problems), problems=problems)
        return 0

    cdef int check_fields(self, ClassPlan owner, object draft, object previous) except -1:
        """Check the fields that changed, and their references."""
        cdef Check check
        cdef list problems = []
        cdef bint broken = False
        for check in owner.checks:
            value = getattr(draft, check.name)
            if previous is not None and value is getattr(previous, check.name):
                continue
            if not check.accepts(value):
                value = check.slow(value, check.name, problems)
                if problems:
                    continue
                PyObject_GenericSetAttr(draft, check.name, value)
            if check.kind == REF or check.nested is not None:
                before = len(problems)
                self.check_reference(check, value, problems)
                broken = broken or len(problems) > before
        if problems:
            kind = BrokenReference if broken else InvalidValue
            raise kind(f"{owner.name}: {listed(problems)}", problems=problems)
        return 0

    cdef int64_t next_due(self, StatePlan plan, Args a, Meta meta) except? -1:
        """Return when the next timer of a state that has not fired is due, or 0."""
        cdef int64_t due, first = 0
        for timer in plan.timers:
            due = self.due_of(timer, a, meta)
            if due > meta.fired_us and (first == 0 or due < first):
                first = due
        return first

    cdef int64_t due_of(self, Timer timer, Args a, Meta meta) except? -1:
        """Return when a timer is due, in microseconds, at least 1 however long ago; 0 for never."""
        cdef int64_t due
        if timer.due is None:
            due = meta.entered_us + timer.delay_us
        else:
            moment = timer.due.run(a, ())
            if moment is None:
                return 0
            if not isinstance(moment, datetime) or not _is_aware(moment):
                raise FunctionFailed(
                    f"{described(timer.due.function)} returned {moment!r}, expected an aware datetime or None"
                )
            due = microseconds(moment)
        return 0 if due > LAST_US else max(1, due)

    cdef int reindex(self, ClassPlan owner, object id, object old, object new) except -1:
        for index in owner.indexes:
            operation = index.change(id, old, new)
            if operation is not None:
                self.index_operations.append((index, operation))
        return 0

    cdef list still_referred(self):
        """Return what is wrong with deleting models that others refer to when the transaction ends."""
        cdef ClassPlan owner
        problems = []
        for id, owner in self.deleted:
            for field in owner.referenced_by:
                if self.is_referenced(id, field):
                    by, name = field.model_class.__name__, field.check.name
                    problem = Problem(
                        code=Conflict.code,
                        message=f"{owner.name} {id} cannot be deleted: '{name}' of {by} refers to it",
                        hint="Delete or change whatever refers to it, in the same transaction or before.",
                        key="still_referred",
                        values={"model": owner.name, "id": id, "by": by, "field": name},
                    )
                    problems.append(problem)
        return problems

    cdef int check_end(self) except -1:
        """Refuse what no transaction may leave behind: broken references, unique keys held twice."""
        cdef list problems
        cdef set told = None
        if not self.deleted and not self.index_operations:
            return 0
        problems = self.still_referred() if self.deleted else []
        for index, operation in self.index_operations:
            taken = index.check(operation)
            if taken is None:
                continue
            if told is None:
                told = set()
            for key, problem in taken.items():
                # Of several new models with one key, each would be told about.
                if (index, key) not in told:
                    told.add((index, key))
                    problems.append(problem)
        if problems:
            hint = problems[0].hint if len(problems) == 1 else ""
            raise Conflict(listed(problems), hint=hint, problems=problems)
        return 0

    cdef int is_referenced(self, object id, RefField field) except -1:
        cdef IdSet ids
        # Pending models first: what is published meanwhile moves from there to the referrers.
        for model in list(self.pending.values()):
            if type(model) is field.model_class and id in field.targets(model):
                return 1
        ids = field.referrers.get(id)
        if ids is not None:
            for referrer in ids:
                model = self.working(referrer)
                if model is not None and id in field.targets(model):
                    return 1
        return 0


cdef bint _is_aware(object moment) except -1:
    """Return whether a datetime has a zone that knows its offset."""
    try:
        return moment.utcoffset() is not None
    except Exception:
        return False


cdef bint _has_problem(list problems, str name) except -1:
    """Return whether one of the problems is about a field or parameter, or something inside of it."""
    if problems is not None:
        for problem in problems:
            if problem.path == name or problem.path.startswith((f"{name}.", f"{name}[")):
                return True
    return False


cpdef int64_t id_or_zero(object ref) except -1:
    """Return a reference as an id; 0, which no model has, for a value that cannot be one.

    Raises:
        ArgumentError: it is an object such as a model or a view, which a programmer took for a reference.
    """
    try:
        if type(ref) is not int:
            ref = 0 if type(ref) is bool else index(ref)
        return ref if 0 < ref < 2**63 else 0
    except TypeError:
        # Values come from outside, where somebody may ask for anything; there is no such model, then.
        if ref is None or isinstance(ref, (str, bytes, float)):
            return 0
        raise ArgumentError(
            f"expected a reference to a model, got {type(ref).__name__}", hint="Use model.meta.id."
        ) from None

"""The hot path: the loop that applies events to models.

Everything here runs under the interpreter lock, which changes hands only inside functions of the application.
Between two of those a sequence of statements is atomic; publishing a group calls none of them.
"""

from collections.abc import Iterable
from inspect import isgenerator

cimport cython
from cpython.object cimport PyObject_GenericSetAttr
from libc.stdint cimport int64_t

from klerk._dispatch cimport (
    CODE,
    COMMANDS,
    DELETE,
    INTERNAL,
    JOB,
    TO,
    TO_WHEN,
    UNMANAGED,
    Args,
    Block,
    Call,
    ClassPlan,
    Command,
    EventPlan,
    Meta,
    StatePlan,
    Step,
    Timer,
    moment_at,
)
from klerk._image cimport image_of
from klerk._table cimport ModelTable
from klerk._waiting cimport Submission
from klerk._working cimport WorkingState, id_or_zero

from klerk import limits
from klerk.errors import (
    ArgumentError,
    Conflict,
    FunctionFailed,
    InvalidValue,
    KlerkError,
    LimitExceeded,
    NotFound,
    Problem,
    WrongState,
    listed,
)
from klerk.restating import at_place
from klerk.translation import translated


cdef Py_ssize_t GROUP_BYTES_MAX = limits.GROUP_BYTES_MAX
cdef int SECONDARY_DEPTH_MAX = limits.SECONDARY_DEPTH_MAX
cdef Py_ssize_t TRANSACTION_COMMANDS_MAX = limits.TRANSACTION_COMMANDS_MAX
cdef Py_ssize_t TRANSACTION_JOBS_MAX = limits.TRANSACTION_JOBS_MAX


# --- the loop -----------------------------------------------------------------------------------------


@cython.no_gc
cdef class Outcome:
    """What a transaction did, as the facade's `Result` is built on it.

    Attributes:
        sequence: the transaction's place in the total order; 0 for one that was not kept.
        id: of the model that the command is about, as created or targeted; None when no model was created.
        jobs: the records of the jobs it created.
        context: the context it was handled in.
        shown_by: ``shown_by(context, model)`` gives a model as the context's actor may see it.
    """

    def __class_getitem__(cls, _):
        return cls

    def show(self, model):
        """Return a model as the command's actor may see it; None stands for the one that was not changed."""
        return self.shown_by(self.context, self.id if model is None else model)


cdef tuple NO_JOBS = ()


cdef class InternalWork:
    """A transaction of Klerk itself: subclasses define ``perform(processor)`` on the working state."""

    def perform(self, Processor processor):
        raise NotImplementedError


cdef class ResultWork(InternalWork):
    """Internal work with a result for each of the models whose ids `perform` returns in a list."""


cdef class Group:
    """Transactions that are written, synced and published together.

    Parameters:
        submissions: what is to be processed; those that do not fit are left out by `Processor.process`.
        first_sequence: the sequence that its first transaction gets.

    Attributes:
        changes: for each transaction, beside its head, the models it changed as (before, after).
    """

    def __init__(self, list submissions not None, int64_t first_sequence):
        self.submissions = submissions
        self.first_sequence = first_sequence
        self.values = []
        self.errors = []
        self.heads = []
        self.payloads = []
        self.changes = []
        self.changed = {}
        self.images = {}
        self.index_operations = []
        self.notices = []
        self.unmanaged = []
        self.tokens = {}


cdef object in_language(object error, object context):
    """Return an error as its receiver reads it; whatever happens, a refusal stays one."""
    try:
        # What was given as the context may be none.
        return translated(error, getattr(context, "translation", None))
    except BaseException:
        return error


cdef class Processor(WorkingState):
    """Turns commands into changes of the working state, which readers do not see, one transaction at a time.

    Parameters:
        classes: the class plans.
        events: the event plans by the index of their event.
        encode: model or tuple -> bytes.
        sha256: the hash constructor.
        outcome_class: a subclass of `Outcome`.
        resolve_context: context -> (context with its time, microseconds, trusted, (kind, id, cause), on whose
            behalf as (kind, id) or None).
        job_creation: creates the jobs that functions ask for; see `klerk.job_creation.JobCreation`.

    Attributes:
        trace: of the transaction at hand; see `Submission.trace`.
        timed: called with the (due_us, id, sequence) of models whose timers a transaction set; None: nobody
            wants to know. It must not fail.
    """

    def __init__(
        self, ModelTable table not None, list classes not None, list events not None, *, encode, sha256,
        outcome_class, resolve_context, job_creation,
    ):
        WorkingState.__init__(self, table, classes)
        self.events = events
        self.encode = encode
        self.sha256 = sha256
        self.outcome_class = outcome_class
        self.resolve_context = resolve_context
        self.job_creation = job_creation
        self.timed = None
        self.next_id = 1
        self.next_job_id = 1
        self.touched = {}
        self.parameters = []
        self.images = []
        self.jobs = []
        self.notices = []
        self.unmanaged = []

    def process(self, Group group not None):
        """Process a group's submissions in order; return those left over because the group got too large.

        Each leaves a value or an error in the group. One that fails leaves nothing else behind.
        """
        cdef Submission submission
        cdef Py_ssize_t i = 0
        cdef list rest
        self.context_given = None
        for submission in group.submissions:
            if group.bytes_count >= GROUP_BYTES_MAX:
                rest = group.submissions[i:]
                del group.submissions[i:]
                return rest
            i += 1
            value = error = None
            try:
                self.begin(submission)
                if submission.token_use is not None:
                    value = self.tokens.first_outcome(submission.token_use, self.context)
                if value is None:
                    value = self.perform(submission)
                    if submission.dry_run:
                        value = self.close_transaction(None, submission, value)
                        self.rollback()
                    else:
                        value = self.close_transaction(group, submission, value)
            except KlerkError as refusal:
                self.rollback()
                value, error = None, refusal
            except BaseException as failure:
                self.rollback()
                value, error = None, FunctionFailed(f"processing failed: {type(failure).__name__}: {failure}")
                error.__cause__ = failure
            if error is not None:
                error = in_language(error, submission.context)
            group.values.append(value)
            group.errors.append(error)
        self.touched.clear()
        return []

    cdef int begin(self, Submission submission) except -1:
        self.clear()
        self.first_id = self.next_id
        self.first_job_id = self.next_job_id
        if submission.context is not self.context_given or self.context_given is None:
            self.context_known = self.resolve_context(submission.context)
            self.context_given = submission.context
        self.context, now_us, trusted, self.actor, self.behalf = self.context_known
        self.now_us = now_us
        self.trusted = trusted
        self.trace = submission.trace
        return 0

    cdef int clear(self) except -1:
        # What the last transaction left empty is used again: most have no jobs, deletions or indexes.
        self.touched.clear()
        self.parameters.clear()
        self.deleted.clear()
        self.targets = []
        if self.index_operations:
            self.index_operations = []
        if self.jobs:
            self.jobs = []
        if self.notices:
            self.notices = []
        if self.unmanaged:
            self.unmanaged = []
        return 0

    cdef int rollback(self) except -1:
        """Leave the working state as it was before the transaction at hand."""
        for index, operation in reversed(self.index_operations):
            index.undo(operation)
        for id, before in self.touched.items():
            if before is None or self.table.get(id) is before:
                self.pending.pop(id, None)
            else:
                self.pending[id] = before
        self.touched.clear()
        self.job_creation.undo(self.sequence, self.jobs)
        self.next_id = self.first_id
        self.next_job_id = self.first_job_id
        return 0

    cdef object perform(self, Submission submission):
        """Run what was submitted; return the id a command is about, a list of them, or what work gave."""
        work = submission.work
        if type(work) is Command:
            return self.apply(work, not self.trusted, 0)
        if type(work) is list:
            return self.apply_list(work, not self.trusted, 0)
        if isinstance(work, InternalWork):
            return (<InternalWork>work).perform(self)
        return self.apply_list(Call(work).run(self.args(None), ()), not self.trusted, 0)

    def args(self, Command command):
        """Return fresh arguments for functions of the transaction at hand."""
        cdef Args a = Args.__new__(Args)
        a.context = self.context
        a.now = self.context.now
        a.read = self.reader
        a.requested = command
        return a

    cdef list apply_list(self, object commands, bint authorize, int depth, ClassPlan cause=None):
        """Apply what a user's function or list gave: a command, several, a generator of them, or None.

        Parameters:
            cause: the class whose block gave the commands; None when other code did.
        """
        cdef list ids = []
        if commands is None:
            return ids
        if type(commands) is Command:
            return [self.apply(commands, authorize, depth, cause)]
        if isgenerator(commands):
            return self.apply_generator(commands, authorize, depth, cause)
        if not isinstance(commands, Iterable):
            raise ArgumentError(
                f"expected commands, got {type(commands).__name__}",
                hint="Return a command, a list of them, or None.",
            )
        for command in commands:
            if type(command) is not Command:
                raise ArgumentError(
                    f"expected a command, got {type(command).__name__}",
                    hint="Call an event to make one: join(...).",
                )
            try:
                ids.append(self.apply(command, authorize, depth, cause))
            except KlerkError as error:
                error.add_note(f"in command {len(ids) + 1} of the list: {command}")
                if depth:
                    raise
                raise at_place(error, len(ids)) from error.__cause__
        return ids

    cdef list apply_generator(self, object generator, bint authorize, int depth, ClassPlan cause):
        """Apply the commands that a generator yields, and send it the outcome of each."""
        cdef list ids = []
        cdef Outcome outcome = None
        cdef Py_ssize_t jobs_before
        while True:
            try:
                command = generator.send(outcome)
            except StopIteration:
                return ids
            except KlerkError:
                raise
            except BaseException as error:
                name = getattr(generator, "gi_code", generator)
                text = f"the generator {name} raised {type(error).__name__}: {error}"
                raise FunctionFailed(text) from error
            if type(command) is not Command:
                generator.close()
                raise ArgumentError(f"the generator yielded {type(command).__name__}, expected a command")
            jobs_before = len(self.jobs)
            try:
                id = self.apply(command, authorize, depth, cause)
            except BaseException:
                generator.close()
                raise
            ids.append(id)
            before, after = self.touched.get(id, self), self.working(id_or_zero(id))
            # A model that was not changed, or both created and deleted by this transaction, is no change.
            changes = [] if before is self or (before is None and after is None) else [(before, after)]
            outcome = self.outcome(id, changes, 0, tuple(self.jobs[jobs_before:]))
            outcome.shown_by = self.show_working

    def show_working(self, context, what):
        """Return a model, or the working version of the one with an id."""
        if type(what) in self.classes:
            return what
        model = self.working(what)
        if model is None:
            raise NotFound(f"there is no model {what!r}")
        return model

    def apply_command(self, Command command not None, bint authorize=False):
        """Apply a command within an internal transaction; return the id it is about."""
        return self.apply(command, authorize, 0)

    cdef object apply(self, Command command, bint authorize, int depth, ClassPlan cause=None):
        """Apply one command to the working state; return the id of the model that it is about.

        Parameters:
            cause: the class whose block gave the command; None when other code did.
        """
        cdef EventPlan plan
        cdef Args a
        cdef tuple values
        cdef Block block
        cdef Py_ssize_t at
        plan = self.events[command.event.index] if command.event.index < len(self.events) else None
        if plan is None or plan.event is not command.event:
            raise ArgumentError(f"{command.event} belongs to another app")
        if depth > SECONDARY_DEPTH_MAX:
            raise LimitExceeded(
                f"{command.event}: secondary commands are nested deeper than {SECONDARY_DEPTH_MAX}",
                hint="Two blocks probably cause each other.",
            )
        at = len(self.targets)
        if at >= TRANSACTION_COMMANDS_MAX:
            raise LimitExceeded(f"more than {TRANSACTION_COMMANDS_MAX} commands in one transaction")
        if plan.reach < CODE and cause is not plan.owner and (plan.reach == INTERNAL or cause is None):
            raise self.not_visible(plan)
        values = command.values
        if not self.fits(plan.checks, values):
            values = self.converted_values(plan, command, authorize)
            # Rules must see what the event sees, not what it was made from.
            command = command.with_values(values)
        a = self.args(command)
        if plan.demands is not None:
            problems = plan.demands.invalid(values)
            if problems:
                self.refuse_values(plan, a, values, problems, authorize)
        if plan.create is None:
            a.current = self.found_target(plan, command.target)
            a.lacks_model = a.current is None
        if authorize:
            self.authorize(plan, a)
        if a.lacks_model:
            raise NotFound(
                f"there is no {plan.owner.name} {command.target!r}",
                values={"model": plan.owner.name, "id": command.target},
            )
        self.require_references(plan.checks, values, command.event)
        self.targets.append(None)
        self.parameters.append(values)
        if plan.create is not None:
            self.obey_event(plan, a, values)
            id = self.create(plan, a, values, depth)
        else:
            id = (<Meta>a.current._meta).id
            state = (<Meta>a.current._meta).state
            block = plan.blocks[state.index]
            if block is None:
                text = f"{command.event} is not possible in state '{state}'"
                about = {"event": str(command.event), "state": str(state), "model": plan.owner.name, "id": id}
                raise WrongState(
                    f"{command.event} is not accepted in state '{state}' of {plan.owner.name} {id}",
                    problems=[Problem(code="wrong_state", message=text, values=about)],
                )
            self.obey_event(plan, a, values)
            self.run_block(plan.owner, block, a, values, id, depth)
        self.targets[at] = (plan.code, 0 if id is None else id, depth)
        return id

    cdef tuple converted_values(self, EventPlan plan, Command command, bint authorize):
        """Return the values of a command as their types want them, or raise an error with every problem.

        References that are broken are only told to those who may do this whatever the parameters are.
        """
        cdef list problems = []
        cdef Args a
        cdef tuple values = self.converted(plan.checks, command.values, problems)
        if not problems:
            return values
        a = self.args(None)
        a.lacks_parameters = True
        if plan.create is None:
            a.current = self.found_target(plan, command.target)
            a.lacks_model = a.current is None
        if not authorize or self.refusal(plan, a) is None:
            problems = self.broken_references(plan.checks, values, problems)
        raise InvalidValue(f"{command.event}: {listed(problems)}", problems=problems)

    cdef object create(self, EventPlan plan, Args a, tuple values, int depth):
        cdef Block block = plan.blocks[0]
        cdef StatePlan state
        draft = plan.create.run(a, values)
        if draft is None:
            id = None
        else:
            draft = self.own_draft(plan.owner, draft, plan.create)
            self.check_draft(plan.owner, draft, None)
            id = self.next_id
            self.next_id += 1
            self.put(plan.owner, id, draft, plan.into, None, a)
            state = plan.owner.states[plan.into.index]
            if state.enter is not None:
                self.run_block(plan.owner, state.enter, a, (), id, depth + 1)
        for step in block.effects:
            self.run_effect(plan.owner, step, a, values, 0 if id is None else id, depth)
        return id

    cdef int run_block(
        self, ClassPlan owner, Block block, Args a, tuple values, int64_t id, int depth
    ) except -1:
        """Run a block: updates, then at most one transition, then the effects, on the model in `a`."""
        cdef Step step
        cdef StatePlan left
        draft = None
        if depth > SECONDARY_DEPTH_MAX:
            raise LimitExceeded(f"{owner.name}: blocks cause each other more than {SECONDARY_DEPTH_MAX} deep")
        state = (<Meta>a.current._meta).state
        for step in block.updates:
            if draft is not None:
                self.put(owner, id, draft, state, a.current, a)
                draft = None
            if step.holds(a, values):
                result = step.call.run(a, values)
                if result is not None and result is not a.current:
                    draft = self.own_draft(owner, result, step.call)
                    self.check_draft(owner, draft, a.current)
        if block.moves:
            left = owner.states[state.index]
            # The draft becomes visible before the transition only to those who could see it there.
            if draft is not None and (left.exit is not None or (<Step>block.moves[0]).kind == TO_WHEN
                                      or (<Step>block.moves[0]).condition is not None):
                self.put(owner, id, draft, state, a.current, a)
                draft = None
            target = self.chosen_state(block, a, values)
            if target is not None:
                self.transition(owner, id, draft, target, a, depth)
                draft = None
        if draft is not None:
            self.put(owner, id, draft, state, a.current, a)
        for step in block.effects:
            self.run_effect(owner, step, a, values, id, depth)
        return 0

    cdef int run_effect(
        self, ClassPlan owner, Step step, Args a, tuple values, int64_t id, int depth
    ) except -1:
        # A secondary command of an earlier effect may have changed or deleted the model.
        model = self.working(id) if id else None
        if model is not None:
            a.current = model
        if (model is None and step.kind == DELETE) or not step.holds(a, values):
            return 0
        if step.kind == COMMANDS:
            self.apply_list(step.call.run(a, values), False, depth + 1, owner)
        elif step.kind == JOB:
            if step.call is None:
                if model is not None:
                    self.add_jobs(step.value.request((id,)), a)
            else:
                self.add_jobs(step.call.run(a, values), a)
        elif step.kind == UNMANAGED:
            snapshot = self.args(a.requested)
            (<Args>snapshot).current = a.current
            (<Args>snapshot).read = self.published_reader
            self.unmanaged.append((step.call.bound(values), snapshot))
        elif step.kind == DELETE:
            self.delete(owner, id, a, depth)
        return 0

    cdef object existing(self, ClassPlan owner, object id):
        """Return the working version of a model that a block goes on with."""
        model = self.working(id)
        if model is None:
            raise Conflict(
                f"{owner.name} {id} was deleted by a command of its own exit block",
                key="deleted_meanwhile",
                values={"model": owner.name, "id": id},
            )
        return model

    cdef object chosen_state(self, Block block, Args a, tuple values):
        """Return the state that the block's transition leads to, or None."""
        cdef Step step
        for step in block.moves:
            if not step.holds(a, values):
                continue
            if step.kind == TO:
                return step.value
            choices, otherwise = step.value
            for condition, state in choices:
                if (<Call>condition).decided((<Call>condition).run(a, values)):
                    return state
            if otherwise is not None:
                return otherwise
        return None

    cdef int put(
        self, ClassPlan owner, object id, object draft, object state, object previous, Args a,
        int64_t fired_us=0, bint enters=False,
    ) except -1:
        """Make a draft the working version of its model, whose timers have fired up to a moment.

        Parameters:
            enters: the model enters the state, which may be the one that it was in.
        """
        cdef Meta meta = Meta.__new__(Meta)
        cdef Meta old
        cdef StatePlan plan = owner.states[state.index]
        meta.id = id
        meta.state = state
        meta.updated_us = self.now_us
        if previous is None:
            meta.version = 1
            meta.created_us = meta.entered_us = self.now_us
        else:
            old = previous._meta
            meta.version = old.version if id in self.touched else old.version + 1
            meta.created_us = old.created_us
            if old.state is state:
                meta.entered_us = self.now_us if enters else old.entered_us
                meta.fired_us = max(old.fired_us, fired_us)
            else:
                meta.entered_us = self.now_us
        PyObject_GenericSetAttr(draft, "_meta", meta)
        a.current = draft
        if plan.timers and not self.without_timers:
            meta.due_us = self.next_due(plan, a, meta)
        if owner.indexes:
            self.reindex(owner, id, previous, draft)
        if id not in self.touched:
            self.touched[id] = previous
        self.pending[id] = draft
        return 0

    cdef int transition(
        self, ClassPlan owner, int64_t id, object draft, object state, Args a, int depth
    ) except -1:
        """Leave the model's state, enter another, and run the blocks of both."""
        cdef StatePlan plan = owner.states[(<Meta>a.current._meta).state.index]
        if plan.exit is not None:
            self.run_block(owner, plan.exit, a, (), id, depth + 1)
            a.current = self.existing(owner, id)
        if draft is None:
            draft = a.current.__copy__()
        self.put(owner, id, draft, state, a.current, a, 0, True)
        plan = owner.states[state.index]
        if plan.enter is not None:
            self.run_block(owner, plan.enter, a, (), id, depth + 1)
        return 0

    cdef int delete(self, ClassPlan owner, object id, Args a, int depth) except -1:
        cdef StatePlan plan = owner.states[(<Meta>a.current._meta).state.index]
        if plan.exit is not None:
            self.run_block(owner, plan.exit, a, (), id, depth + 1)
            a.current = self.existing(owner, id)
        return self.remove(owner, id, a.current)

    cdef int remove(self, ClassPlan owner, object id, object model) except -1:
        """Make a model gone from the working state."""
        if owner.indexes:
            self.reindex(owner, id, model, None)
        if id not in self.touched:
            self.touched[id] = model
        self.pending[id] = None
        self.deleted.append((id, owner))
        return 0

    def add_jobs(self, requests, Args a not None):
        """Create the jobs that a function asked for: one request, several, or None. Return their records."""
        return [] if requests is None else self.job_creation.create(self, requests, a)

    def checked_request(self, request):
        """Return a job request with its arguments checked as an event's are."""
        values = self.checked_values(request.job.checks, request.values, request.job)
        return request if values is request.values else request.with_values(values)

    def new_job(self, record, bytes encoded not None):
        """Write the record of a job that the transaction at hand creates under `next_job_id`."""
        if len(self.jobs) >= TRANSACTION_JOBS_MAX:
            raise LimitExceeded(f"more than {TRANSACTION_JOBS_MAX} jobs in one transaction")
        self.notices.append((record, encoded))
        self.jobs.append(record)
        self.next_job_id += 1

    def put_job(self, record, bytes encoded not None):
        """Write a job's record with the transaction at hand, and tell the job manager once it is durable."""
        self.notices.append((record, encoded))
        if record.unique or record.batch or record.follows:
            self.job_creation.changed(self, record)

    def log_unchecked(self, int code, int64_t id, tuple parameters=()):
        """Name what was done to a model without a command in the commit log, under a code of Klerk's own."""
        if len(self.targets) >= TRANSACTION_COMMANDS_MAX:
            raise LimitExceeded(f"more than {TRANSACTION_COMMANDS_MAX} changes in one transaction")
        self.targets.append((code, id, 0))
        self.parameters.append(parameters)

    def renew(self, int code, int64_t id):
        """Log the newest version of a model once more, unchanged, under a code; nothing if it is gone."""
        model = self.working(id)
        if model is None:
            return
        self.log_unchecked(code, id)
        if id not in self.touched:
            self.touched[id] = model
        self.pending[id] = model

    def fire(self, ClassPlan owner not None, int64_t id, int64_t due_us):
        """Run the timers of a model that are due.

        Returns:
            (id, due_us) of every model that this made due at once; None when the model has moved on.
        """
        cdef Timer timer
        cdef Meta meta
        cdef Args a
        cdef int64_t due
        model = self.timed_model(id, due_us)
        if model is None:
            return None
        meta = model._meta
        fired = []
        a = self.args_of_change(model, self.context)
        for timer in (<StatePlan>owner.states[meta.state.index]).timers:
            due = self.due_of(timer, a, meta)
            if meta.fired_us < due <= due_us:
                fired.append(timer)
        a = self.args(None)
        self.put(owner, id, model.__copy__(), meta.state, model, a, due_us)
        self.targets.append((0, id, 0))
        self.parameters.append(())
        for timer in fired:
            model = self.working(id)
            if model is None or (<Meta>model._meta).state is not meta.state:
                break
            a.current = model
            self.run_block(owner, timer.block, a, (), id, 0)
        # Here it refuses the timer alone; when the transaction is closed it would be too late for that.
        self.check_end()
        return self.due_at_once(id)

    def refuse_timer(
        self, ClassPlan owner not None, int64_t id, int64_t due_us, int64_t until_us, str error not None
    ):
        """Undo what the transaction at hand did, and let it record instead that a timer was refused.

        Parameters:
            until_us: the model's timers up to this moment count as fired.
            error: why; kept with the transaction as its parameter.

        Returns:
            As `fire` does.
        """
        self.rollback()
        self.clear()
        model = self.timed_model(id, due_us)
        if model is None:
            return None
        state = (<Meta>model._meta).state
        try:
            self.put(owner, id, model.__copy__(), state, model, self.args(None), until_us)
        except KlerkError:
            # The function that tells the next moment fails, too: the model waits for its next change.
            self.rollback()
            self.clear()
            self.without_timers = True
            try:
                self.put(owner, id, model.__copy__(), state, model, self.args(None), until_us)
            finally:
                self.without_timers = False
        self.targets.append((0, id, 0))
        self.parameters.append((error,))
        return self.due_at_once(id)

    cdef object timed_model(self, int64_t id, int64_t due_us):
        """Return the working version of a model whose next timer is due at a moment, or None."""
        model = self.working(id)
        return None if model is None or (<Meta>model._meta).due_us != due_us else model

    cdef list due_at_once(self, int64_t fired):
        """Return (id, due_us) of the models whose timers the transaction at hand made due already."""
        cdef list found = []
        cdef int64_t due
        for id, before in self.touched.items():
            after = self.pending[id]
            if after is None:
                continue
            due = (<Meta>after._meta).due_us
            if due != 0 and due <= self.now_us:
                if id == fired or before is None or (<Meta>before._meta).due_us != due:
                    found.append((id, due))
        return found

    def retime(self, ClassPlan owner not None, int64_t id, context not None):
        """Compute anew when a model's next timer is due, before anyone reads it; return whether it changed.

        Parameters:
            context: for the functions that tell the moment.
        """
        model = self.table.get(id)
        cdef Meta meta = model._meta
        cdef StatePlan plan = owner.states[meta.state.index]
        cdef int64_t due = 0
        if plan.timers:
            due = self.next_due(plan, self.args_of_change(model, context), meta)
        if due == meta.due_us:
            return False
        meta.due_us = due
        return True

    def stored_image(self, int64_t id):
        """Return a published model as it is stored."""
        model = self.table.get(id)
        return image_of(self.classes[type(model)], model, self.encode)

    cdef Args args_of_change(self, object model, object context):
        """Return arguments as they were when a model changed last: its timers were computed with these."""
        cdef Args a = Args.__new__(Args)
        a.now = moment_at((<Meta>model._meta).updated_us)
        a.context = context.at(a.now)
        a.read = self.reader
        a.current = model
        return a

    def put_unchecked(self, ClassPlan owner not None, int64_t id, model, state):
        """Create a model (id 0) or replace one, whatever its machine and rules say; return its id.

        Its values, references and unique keys are checked all the same.
        """
        cdef Args a = self.args(None)
        cdef bint is_new = id == 0
        previous = None if is_new else self.working(id)
        draft = model.__copy__()
        self.check_fields(owner, draft, previous)
        if is_new:
            id = self.next_id
            self.next_id += 1
        self.put(owner, id, draft, (<Meta>previous._meta).state if state is None else state, previous, a)
        return id

    def delete_unchecked(self, ClassPlan owner not None, int64_t id):
        """Delete a model without its exit block; refused at the end if something still refers to it."""
        self.remove(owner, id, self.working(id))

    cdef object close_transaction(self, Group group, Submission submission, object concerned):
        """Turn what the transaction did into its log record and images; nothing can fail after the first line
        that changes the group. Without a group (a dry run) nothing is kept."""
        cdef list changes = [], images = self.images
        cdef list deleted = None, timed = None
        cdef bint has_ghosts = False
        cdef ClassPlan owner
        cdef bint is_internal = isinstance(submission.work, InternalWork)
        images.clear()
        self.check_end()
        for id, before in self.touched.items():
            after = self.pending[id]
            if after is not None:
                owner = self.classes[type(after)]
                images.append((id, image_of(owner, after, self.encode)))
                if owner.has_timers and (<Meta>after._meta).due_us and (
                    # A timer's own transaction may set the moment that it came from once more.
                    is_internal or before is None
                    or (<Meta>before._meta).due_us != (<Meta>after._meta).due_us
                ):
                    if timed is None:
                        timed = []
                    timed.append(((<Meta>after._meta).due_us, id, self.sequence + 1))
            elif before is not None:
                if deleted is None:
                    deleted = []
                deleted.append(id)
            else:
                # Created and deleted by the same transaction: nothing of it is left.
                has_ghosts = True
                continue
            changes.append((before, after))
        payload = self.encode((self.parameters, images, deleted or (), self.encoded_jobs()))
        value = self.results(submission, concerned, changes, 0 if group is None else self.sequence + 1)
        use = submission.token_use
        if group is None or (
            use is None and not (changes or self.targets or self.notices or self.unmanaged)
        ):
            # A dry run, or a timer that came too late: there is nothing to keep.
            return value
        digest = self.sha256(payload).digest()
        head = (self.sequence + 1, self.now_us, self.actor, self.targets, digest, self.behalf)
        if use is not None:
            head = (*head, self.tokens.keep(group, use, self.sequence + 1, concerned))
        self.sequence += 1
        group.heads.append(head)
        group.payloads.append(payload)
        group.changes.append(changes)
        group.bytes_count += len(<bytes>payload) * 2
        for id, image in images:
            group.changed[id] = self.pending[id]
            group.images[id] = image
        if deleted is not None:
            for id in deleted:
                group.changed[id] = group.images[id] = None
        if self.index_operations:
            group.index_operations.extend(self.index_operations)
        if self.notices:
            group.notices.extend(self.notices)
        if self.unmanaged:
            group.unmanaged.extend(self.unmanaged)
        if has_ghosts:
            for id, before in self.touched.items():
                if before is None and self.pending[id] is None:
                    del self.pending[id]
        if timed is not None and self.timed is not None:
            self.timed(timed)
        return value

    cdef object encoded_jobs(self):
        return [(record.id, encoded) for record, encoded in self.notices] if self.notices else ()

    cdef object results(self, Submission submission, object concerned, list changes, int64_t sequence):
        """Return the outcome of a single command, or a list with one for each command of a list."""
        cdef tuple jobs = tuple(self.jobs) if self.jobs else NO_JOBS
        if type(submission.work) is Command:
            return self.outcome(concerned, changes, sequence, jobs)
        if isinstance(submission.work, InternalWork) and not isinstance(submission.work, ResultWork):
            return concerned
        # All of them share what the transaction did: it may be as many jobs as there are commands.
        return [self.outcome(id, changes, sequence, jobs) for id in concerned]

    cdef Outcome outcome(self, object id, list changes, int64_t sequence, tuple jobs):
        cdef Outcome outcome = self.outcome_class()
        outcome.sequence = sequence
        outcome.id = id
        outcome._changes = changes
        outcome.jobs = jobs
        outcome.context = self.context
        outcome.shown_by = self.shown_by
        return outcome

    def reserve(self, Group group not None):
        """Make room for what a group will publish, while it can still fail."""
        for id in group.changed:
            self.table.reserve(id)

    def publish(self, Group group not None):
        """Make a durable group visible. The write lock is held; no function of the application is run."""
        if self.noted is not None:
            # Before anything changes: a snapshot reads without the lock.
            for id in group.changed:
                if id not in self.noted:
                    self.noted[id] = self.table.get(id)
        for id, model in group.changed.items():
            old = self.table.get(id)
            if old is not None or model is not None:
                (<ClassPlan>self.classes[type(model if old is None else old)]).publish(id, old, model)
            if model is None:
                self.table.remove(id)
            else:
                self.table.put(id, model)
        for index, operation in group.index_operations:
            index.publish(operation)
        # Last: the transaction at hand takes a model from here until every view has it.
        for id, model in group.changed.items():
            if self.pending.get(id, self) is model:
                del self.pending[id]
        self.published_sequence = group.heads[len(group.heads) - 1][0]

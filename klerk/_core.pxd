# The typed attributes of `_core.pyx`, where each class is explained.

from libc.stdint cimport int64_t

from klerk._dispatch cimport (
    Args,
    Block,
    Call,
    Check,
    ClassPlan,
    Command,
    EventPlan,
    Meta,
    RefField,
    StatePlan,
    Step,
    Timer,
)
from klerk._waiting cimport Submission
from klerk._working cimport WorkingState


cdef class Outcome:
    cdef readonly int64_t sequence
    cdef readonly object id
    cdef readonly list _changes
    cdef readonly object jobs
    cdef readonly object context
    cdef object shown_by


cdef class InternalWork:
    pass


cdef class ResultWork(InternalWork):
    pass


cdef class Group:
    cdef readonly list submissions
    cdef readonly list values
    cdef readonly list errors
    cdef readonly list heads
    cdef readonly list payloads
    cdef readonly list changes
    cdef readonly dict changed
    cdef readonly dict images
    cdef readonly list index_operations
    cdef readonly list notices
    cdef readonly list unmanaged
    cdef readonly dict tokens
    cdef readonly int64_t first_sequence
    cdef readonly int64_t bytes_count


cdef class Processor(WorkingState):
    cdef readonly list events
    cdef public int64_t next_id
    cdef public int64_t next_job_id
    cdef public int64_t sequence
    cdef public int64_t published_sequence
    cdef object encode
    cdef object sha256
    cdef object outcome_class
    cdef object resolve_context
    cdef object job_creation
    cdef public object timed
    cdef public object reader
    cdef public object published_reader
    cdef public object shown_by
    cdef public dict noted
    cdef public object tokens
    # The transaction at hand; empty between transactions.
    cdef dict touched
    cdef list targets
    cdef list parameters
    cdef list images
    cdef list jobs
    cdef list notices
    cdef list unmanaged
    cdef readonly int64_t now_us
    cdef readonly object trace
    cdef bint trusted
    cdef bint without_timers
    cdef tuple actor
    cdef object behalf
    cdef int64_t first_id
    cdef int64_t first_job_id
    # The context resolved last: a caller mostly uses the same one again and again.
    cdef object context_given
    cdef tuple context_known
    cdef int begin(self, Submission submission) except -1
    cdef int clear(self) except -1
    cdef int rollback(self) except -1
    cdef object perform(self, Submission submission)
    cdef list apply_list(self, object commands, bint authorize, int depth, ClassPlan cause=*)
    cdef list apply_generator(self, object generator, bint authorize, int depth, ClassPlan cause)
    cdef object apply(self, Command command, bint authorize, int depth, ClassPlan cause=*)
    cdef tuple converted_values(self, EventPlan plan, Command command, bint authorize)
    cdef object create(self, EventPlan plan, Args a, tuple values, int depth)
    cdef int run_block(
        self, ClassPlan owner, Block block, Args a, tuple values, int64_t id, int depth
    ) except -1
    cdef int run_effect(
        self, ClassPlan owner, Step step, Args a, tuple values, int64_t id, int depth
    ) except -1
    cdef object existing(self, ClassPlan owner, object id)
    cdef object chosen_state(self, Block block, Args a, tuple values)
    cdef int put(
        self, ClassPlan owner, object id, object draft, object state, object previous, Args a,
        int64_t fired_us=*, bint enters=*,
    ) except -1
    cdef int transition(
        self, ClassPlan owner, int64_t id, object draft, object state, Args a, int depth
    ) except -1
    cdef int delete(self, ClassPlan owner, object id, Args a, int depth) except -1
    cdef object timed_model(self, int64_t id, int64_t due_us)
    cdef list due_at_once(self, int64_t fired)
    cdef Args args_of_change(self, object model, object context)
    cdef int remove(self, ClassPlan owner, object id, object model) except -1
    cdef object close_transaction(self, Group group, Submission submission, object concerned)
    cdef object encoded_jobs(self)
    cdef object results(self, Submission submission, object concerned, list changes, int64_t sequence)
    cdef Outcome outcome(self, object id, list changes, int64_t sequence, tuple jobs)

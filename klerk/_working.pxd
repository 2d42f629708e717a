# The typed attributes of `_working.pyx`, where each class is explained.

from libc.stdint cimport int64_t

from klerk._dispatch cimport Args, Call, Check, ClassPlan, EventPlan, Meta, RefField, StatePlan, Timer
from klerk._table cimport ModelTable


cpdef int64_t id_or_zero(object ref) except -1


cdef class WorkingState:
    cdef readonly ModelTable table
    cdef readonly dict pending
    cdef readonly dict classes
    cdef list deleted
    cdef list index_operations
    cdef object context
    cpdef object working(self, int64_t id)
    cdef object found_target(self, EventPlan plan, object target)
    cdef int authorize(self, EventPlan plan, Args a) except -1
    cdef str refusal(self, EventPlan plan, Args a)
    cdef object answer(self, EventPlan plan, Call rule, Args a)
    cdef object not_visible(self, EventPlan plan)
    cdef bint fits(self, list checks, tuple values) except -1
    cdef tuple converted(self, list checks, tuple values, list problems)
    cdef tuple checked_values(self, list checks, tuple values, object what)
    cdef list broken_references(self, list checks, tuple values, list problems)
    cdef int require_references(self, list checks, tuple values, object what) except -1
    cdef int check_reference(self, Check check, object value, list problems) except -1
    cdef int refuse_values(
        self, EventPlan plan, Args a, tuple values, list problems, bint authorize
    ) except -1
    cdef int obey_event(self, EventPlan plan, Args a, tuple values) except -1
    cdef int obey(self, list rules, Args a, tuple values) except -1
    cdef object own_draft(self, ClassPlan owner, object draft, Call call)
    cdef int check_draft(self, ClassPlan owner, object draft, object previous) except -1
    cdef int check_fields(self, ClassPlan owner, object draft, object previous) except -1
    cdef int64_t next_due(self, StatePlan plan, Args a, Meta meta) except? -1
    cdef int64_t due_of(self, Timer timer, Args a, Meta meta) except? -1
    cdef int reindex(self, ClassPlan owner, object id, object old, object new) except -1
    cdef list still_referred(self)
    cdef int check_end(self) except -1
    cdef int is_referenced(self, object id, RefField field) except -1

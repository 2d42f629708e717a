# The typed attributes of `_dispatch.pyx`, where each class is explained.

from libc.stdint cimport int64_t

from klerk._table cimport IdSet


cdef enum:
    SLOW = 0
    TEXT = 1
    INT = 2
    FLOAT = 3
    BYTES = 4
    EXACT = 5
    DATETIME = 6
    REF = 7


cdef enum:
    ALONE = 0
    POSITIONAL = 1
    CHOSEN = 2
    KEYWORDS = 3
    VALUES = 4


cdef enum:
    INTERNAL = 0
    MACHINES = 1
    CODE = 2


cdef enum:
    UPDATE = 0
    TO = 1
    TO_WHEN = 2
    COMMANDS = 3
    JOB = 4
    UNMANAGED = 5
    DELETE = 6


cpdef int64_t microseconds(object moment) except? -1
cpdef object moment_of(int64_t us)
cpdef object moment_at(int64_t us)


cdef class Meta:
    cdef readonly int64_t id
    cdef readonly object state
    cdef readonly int64_t version
    cdef readonly int64_t created_us
    cdef readonly int64_t updated_us
    cdef readonly int64_t entered_us
    cdef readonly int64_t due_us
    cdef readonly int64_t fired_us


cdef class Check:
    cdef readonly str name
    cdef int kind
    cdef bint nullable
    cdef int64_t low
    cdef int64_t high
    cdef double low_float
    cdef double high_float
    cdef object exact
    cdef object slow
    cdef readonly object target
    cdef readonly object nested
    cdef bint accepts(self, object value) except -1


cdef class RefField:
    cdef readonly Check check
    cdef readonly object model_class
    cdef readonly dict referrers
    cpdef list targets(self, object model)
    cdef int publish(self, object id, object old, object new) except -1


cdef class EventBase:
    cdef public int index
    cdef public bint creates
    cdef public int arity
    cdef public object signature_of


cdef class Command:
    cdef readonly EventBase event
    cdef readonly object target
    cdef readonly tuple values
    cdef Command with_values(self, tuple values)


cdef class Args:
    cdef readonly object context
    cdef readonly object now
    cdef readonly object read
    cdef readonly object key
    cdef readonly object action
    cdef object requested
    cdef object current
    cdef object field_name
    cdef bint lacks_model
    cdef bint lacks_parameters
    cdef bint touched
    cdef bint touched_field


cdef class Call:
    cdef readonly object function
    cdef readonly int mode
    cdef readonly tuple names
    cdef object run(self, Args a, tuple values)
    cdef object bound(self, tuple values)
    cdef bint permits(self, Args a) except -1
    cdef bint decided(self, object verdict) except -1
    cpdef bint holds_for(self, object model) except -1


cdef class BoundCall:
    cdef Call call
    cdef tuple values


cdef class Rule:
    cdef readonly Call call
    cdef readonly str code
    cdef readonly str message
    cdef readonly str path
    cdef readonly str key
    cdef object problem(self)


cdef class Choice:
    cdef readonly Py_ssize_t position
    cdef readonly str name
    cdef readonly Call call
    cdef readonly object allowed
    cdef readonly object judge


cdef class Demands:
    cdef readonly list validators
    cdef readonly list choices


cdef class Step:
    cdef readonly int kind
    cdef readonly Call call
    cdef readonly Call condition
    cdef readonly object value
    cdef bint holds(self, Args a, tuple values) except -1


cdef class Block:
    cdef readonly list updates
    cdef readonly list moves
    cdef readonly list effects


cdef class Timer:
    cdef readonly Call due
    cdef readonly int64_t delay_us
    cdef readonly Block block


cdef class StatePlan:
    cdef readonly object state
    cdef readonly int code
    cdef public Block enter
    cdef public Block exit
    cdef readonly list timers
    cdef readonly IdSet ids


cdef class ClassPlan:
    cdef readonly object model_class
    cdef readonly str name
    cdef readonly int code
    cdef readonly list checks
    cdef readonly list states
    cdef readonly list indexes
    cdef readonly list rules
    cdef readonly list references
    cdef public list referenced_by
    cdef readonly list orders
    cdef readonly IdSet ids
    cdef readonly object decode
    cdef readonly bint has_timers
    cdef readonly int schema
    cdef readonly int since
    cdef readonly object upcaster
    cdef StatePlan state_of_code(self, int code)
    cdef int publish(self, object id, object old, object new) except -1


cdef class EventPlan:
    cdef readonly EventBase event
    cdef readonly ClassPlan owner
    cdef readonly int code
    cdef readonly list checks
    cdef readonly tuple allow
    cdef readonly tuple deny
    cdef readonly list rules
    cdef readonly Demands demands
    cdef readonly list blocks
    cdef readonly Call create
    cdef readonly object into
    cdef readonly int reach

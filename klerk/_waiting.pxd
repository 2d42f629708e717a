# The typed attributes of `_waiting.pyx`, where each class is explained.

from cpython.pythread cimport PyThread_type_lock


cdef class Gate:
    cdef PyThread_type_lock lock
    cdef bint is_open
    cdef void open(self) noexcept
    cdef bint wait(self, double timeout_s) except -1


cdef class ReadHold:
    cdef ReadWriteLock lock
    cdef long thread
    cdef object task
    cdef bint held
    cdef bint entering
    cdef int claim(self) except -1
    cdef int wait_for_turn(self) except -1


cdef class SharedHold(ReadHold):
    cdef object sharer
    cdef long sharing_thread


cdef class Waiter:
    cdef ReadHold hold
    cdef bint granted
    cdef Gate gate
    cdef object loop
    cdef object future
    cdef int wake(self) except -1


cdef class ReadWriteLock:
    cdef readonly int readers
    cdef readonly bint writing
    cdef object waiting
    cdef long first_thread
    cdef long processing_thread
    cdef int first_holds
    cdef dict threads
    cdef dict tasks
    cdef dict holds_of_tasks
    cdef readonly long long read_waits
    cdef readonly double read_waited_s
    cdef readonly long long write_waits
    cdef readonly double write_waited_s
    cdef bint must_wait(self, ReadHold hold, bint blocking) except -1
    cdef int grant_read(self, ReadHold hold) except -1
    cdef int release_read(self, ReadHold hold) except -1
    cdef bint thread_holds(self, long thread) except -1
    cdef bint held_around_loop(self, long thread) except -1
    cdef int pass_on(self) except -1
    cdef int read_waited(self, double begun_s) except -1
    cdef int wait_to_write(self, double warn_after_s, object warn) except -1
    cpdef bint held_here(self, bint blocking) except -1


cdef class Submission:
    cdef readonly object work
    cdef readonly object context
    cdef readonly bint dry_run
    cdef readonly object token_use
    cdef public object trace
    cdef object value
    cdef object error
    cdef bint is_done
    cdef Gate gate
    cdef list callbacks
    cdef object loop
    cdef object waiter
    cdef int waiters
    cdef Submission following
    cdef CommandQueue queue
    cdef int refuse_waiting(self, bint blocking) except -1
    cdef int pass_on(self) except -1
    cdef int settle(self, object value, object error, dict loops) except -1
    cdef object outcome(self)


cdef class Blocked:
    cdef Submission submission
    cdef Gate gate
    cdef object loop
    cdef object future
    cdef bint admitted


cdef class CommandQueue:
    cdef list submissions
    cdef object blocked
    cdef Gate sleeper
    cdef ReadWriteLock lock
    cdef public object refusal
    cdef bint forked
    cdef long processing
    cdef set committers
    cdef readonly Py_ssize_t length_max
    cdef readonly bint closed
    cdef bint has_room(self)
    cdef int admit_or_refuse(self, bint blocking) except -1
    cdef int append(self, Submission submission) except -1
    cdef int admit(self) except -1

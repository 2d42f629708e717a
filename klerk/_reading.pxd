# The typed attributes of `_reading.pyx`, where the class is explained.

from klerk._table cimport ModelTable
from klerk._waiting cimport ReadHold


cdef class ReaderBase(ReadHold):
    cdef readonly object given
    cdef readonly object sight
    cdef readonly ModelTable table
    cdef object known_context
    cdef dict verdicts
    cdef int begin(self) except -1
    cdef int require_open(self) except -1
    cdef object shown(self, object model)

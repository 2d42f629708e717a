# The typed attributes of `_facets.pyx`, where the class is explained.

from libc.stdint cimport int64_t


cdef class Facets:
    cdef readonly int64_t count
    cdef readonly dict models
    cdef readonly dict actors
    cdef readonly dict events
    cdef readonly dict hours
    cdef int add_several(self, list targets, object sequence) except -1

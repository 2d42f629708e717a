# The typed attributes of `_order.pyx`, where each class is explained.


cpdef bytes sort_key(object value)


cdef class OrderedSet:
    cdef list chunks
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t chunk_for(self, bytes entry) except -1
    cpdef bint add(self, bytes entry) except -1
    cpdef bint discard(self, bytes entry) except -1

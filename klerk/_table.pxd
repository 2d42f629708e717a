# The typed attributes of `_table.pyx`, where each class is explained.

from libc.stdint cimport int64_t


cdef class IdSet:
    cdef int64_t** chunks
    cdef int* lengths
    cdef Py_ssize_t chunk_count
    cdef Py_ssize_t chunk_room
    cdef int first_room
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t chunk_for(self, int64_t value) noexcept
    cdef int open_chunk(self, Py_ssize_t at) except -1
    cdef int grow_first(self) except -1
    cpdef bint add(self, int64_t value) except -1
    cpdef bint discard(self, int64_t value) except -1
    cpdef bint has(self, int64_t value) except -1
    cpdef list after(self, int64_t value, Py_ssize_t limit)
    cpdef list before(self, int64_t value, Py_ssize_t limit)


cdef class ModelTable:
    cdef void*** pages
    cdef int* filled
    cdef Py_ssize_t page_count
    cdef readonly Py_ssize_t count
    cpdef object get(self, int64_t id)
    cpdef int reserve(self, int64_t id) except -1
    cpdef int put(self, int64_t id, object model) except -1
    cpdef int remove(self, int64_t id) except -1

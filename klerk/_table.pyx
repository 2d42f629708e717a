"""Where published models live: sorted sets of ids, and the table of models by id."""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memmove

cdef enum:
    CHUNK = 512
    FIRST = 8
    PAGE_BITS = 12
    PAGE = 4096


cdef class IdSet:
    """A sorted set of 64-bit integers in chunks of at most 512: a B+ tree of height two.

    Adding, removing and looking up cost a binary search and one short memory move; adding at the end, which
    is what new models do, costs neither.
    """

    def __cinit__(self):
        self.chunk_room = 0
        self.chunk_count = 0

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.chunk_count):
            PyMem_Free(self.chunks[i])
        PyMem_Free(self.chunks)
        PyMem_Free(self.lengths)

    def __len__(self):
        return self.count

    def __contains__(self, value):
        return self.has(value)

    def __iter__(self):
        """Yield the ids in ascending order; the set may change meanwhile, each id is yielded at most once."""
        cdef list part = self.after(-1, CHUNK)
        while part:
            yield from part
            part = self.after(part[len(part) - 1], CHUNK)

    cdef Py_ssize_t chunk_for(self, int64_t value) noexcept:
        """Return the last chunk whose first id is at most `value`, or 0."""
        cdef Py_ssize_t low = 0, high = self.chunk_count, middle
        while high - low > 1:
            middle = (low + high) >> 1
            if self.chunks[middle][0] <= value:
                low = middle
            else:
                high = middle
        return low

    cdef int open_chunk(self, Py_ssize_t at) except -1:
        cdef int64_t* chunk
        cdef Py_ssize_t room
        if self.chunk_count == self.chunk_room:
            room = self.chunk_room * 2 + 4
            chunks = <int64_t**>PyMem_Realloc(self.chunks, room * sizeof(int64_t*))
            if chunks is NULL:
                raise MemoryError()
            self.chunks = chunks
            lengths = <int*>PyMem_Realloc(self.lengths, room * sizeof(int))
            if lengths is NULL:
                raise MemoryError()
            self.lengths = lengths
            self.chunk_room = room
        # Most sets are those of index keys and stay small: the first chunk grows, all others are full size.
        self.first_room = CHUNK if self.chunk_count else FIRST
        chunk = <int64_t*>PyMem_Malloc(self.first_room * sizeof(int64_t))
        if chunk is NULL:
            raise MemoryError()
        memmove(self.chunks + at + 1, self.chunks + at, (self.chunk_count - at) * sizeof(int64_t*))
        memmove(self.lengths + at + 1, self.lengths + at, (self.chunk_count - at) * sizeof(int))
        self.chunks[at] = chunk
        self.lengths[at] = 0
        self.chunk_count += 1
        return 0

    cdef int grow_first(self) except -1:
        chunk = <int64_t*>PyMem_Realloc(self.chunks[0], self.first_room * 4 * sizeof(int64_t))
        if chunk is NULL:
            raise MemoryError()
        self.chunks[0] = chunk
        self.first_room *= 4
        return 0

    cpdef bint add(self, int64_t value) except -1:
        """Add an id; return whether it was new."""
        cdef Py_ssize_t c
        cdef int at, half
        if self.chunk_count == 0:
            self.open_chunk(0)
        c = self.chunk_for(value)
        at = _position(self.chunks[c], self.lengths[c], value)
        if at < self.lengths[c] and self.chunks[c][at] == value:
            return False
        if self.lengths[c] == self.first_room < CHUNK:
            self.grow_first()
        elif self.lengths[c] == CHUNK:
            self.open_chunk(c + 1)
            # A full last chunk stays full when ids only grow; any other is split in two.
            half = CHUNK if at == CHUNK and c + 2 == self.chunk_count else CHUNK // 2
            memcpy(self.chunks[c + 1], self.chunks[c] + half, (CHUNK - half) * sizeof(int64_t))
            self.lengths[c + 1] = CHUNK - half
            self.lengths[c] = half
            if at > half or half == CHUNK:
                c += 1
                at -= half
        memmove(self.chunks[c] + at + 1, self.chunks[c] + at, (self.lengths[c] - at) * sizeof(int64_t))
        self.chunks[c][at] = value
        self.lengths[c] += 1
        self.count += 1
        return True

    cpdef bint discard(self, int64_t value) except -1:
        """Remove an id; return whether it was there."""
        cdef Py_ssize_t c
        cdef int at
        if self.chunk_count == 0:
            return False
        c = self.chunk_for(value)
        at = _position(self.chunks[c], self.lengths[c], value)
        if at == self.lengths[c] or self.chunks[c][at] != value:
            return False
        self.lengths[c] -= 1
        self.count -= 1
        memmove(self.chunks[c] + at, self.chunks[c] + at + 1, (self.lengths[c] - at) * sizeof(int64_t))
        if self.lengths[c] == 0:
            PyMem_Free(self.chunks[c])
            self.chunk_count -= 1
            memmove(self.chunks + c, self.chunks + c + 1, (self.chunk_count - c) * sizeof(int64_t*))
            memmove(self.lengths + c, self.lengths + c + 1, (self.chunk_count - c) * sizeof(int))
        return True

    cpdef bint has(self, int64_t value) except -1:
        """Return whether the id is in the set."""
        cdef Py_ssize_t c
        cdef int at
        if self.chunk_count == 0:
            return False
        c = self.chunk_for(value)
        at = _position(self.chunks[c], self.lengths[c], value)
        return at < self.lengths[c] and self.chunks[c][at] == value

    cpdef list after(self, int64_t value, Py_ssize_t limit):
        """Return at most `limit` ids greater than `value`, ascending."""
        cdef list found = []
        cdef Py_ssize_t c
        cdef int at
        if self.chunk_count == 0:
            return found
        c = self.chunk_for(value)
        at = _position(self.chunks[c], self.lengths[c], value + 1)
        while c < self.chunk_count and limit > 0:
            while at < self.lengths[c] and limit > 0:
                found.append(self.chunks[c][at])
                at += 1
                limit -= 1
            c += 1
            at = 0
        return found

    cpdef list before(self, int64_t value, Py_ssize_t limit):
        """Return at most `limit` ids smaller than `value`, descending."""
        cdef list found = []
        cdef Py_ssize_t c
        cdef int at
        if self.chunk_count == 0:
            return found
        c = self.chunk_for(value)
        at = _position(self.chunks[c], self.lengths[c], value) - 1
        while limit > 0:
            while at >= 0 and limit > 0:
                found.append(self.chunks[c][at])
                at -= 1
                limit -= 1
            c -= 1
            if c < 0:
                break
            at = self.lengths[c] - 1
        return found


cdef int _position(int64_t* ids, int length, int64_t value) noexcept:
    """Return the index of the first id that is at least `value`."""
    cdef int low = 0, high = length, middle
    if length and ids[length - 1] < value:
        return length
    while low < high:
        middle = (low + high) >> 1
        if ids[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


cdef class ModelTable:
    """Models by id. Ids come in sequence, so an array of pages is smaller and faster than a dict."""

    def __dealloc__(self):
        cdef Py_ssize_t page, slot
        for page in range(self.page_count):
            if self.pages[page] is not NULL:
                for slot in range(PAGE):
                    Py_XDECREF(<PyObject*>self.pages[page][slot])
                PyMem_Free(self.pages[page])
        PyMem_Free(self.pages)
        PyMem_Free(self.filled)

    def __len__(self):
        return self.count

    cpdef object get(self, int64_t id):
        """Return the model with this id, or None."""
        cdef Py_ssize_t page = id >> PAGE_BITS
        cdef void* model
        if id < 0 or page >= self.page_count or self.pages[page] is NULL:
            return None
        model = self.pages[page][id & (PAGE - 1)]
        return None if model is NULL else <object>model

    cpdef int reserve(self, int64_t id) except -1:
        """Make room for an id, so that `put` cannot fail for want of memory."""
        cdef Py_ssize_t page = id >> PAGE_BITS
        cdef Py_ssize_t room, i
        if page >= self.page_count:
            room = max(page + 1, self.page_count * 2)
            pages = <void***>PyMem_Realloc(self.pages, room * sizeof(void**))
            if pages is NULL:
                raise MemoryError()
            self.pages = pages
            filled = <int*>PyMem_Realloc(self.filled, room * sizeof(int))
            if filled is NULL:
                raise MemoryError()
            self.filled = filled
            for i in range(self.page_count, room):
                self.pages[i] = NULL
                self.filled[i] = 0
            self.page_count = room
        if self.pages[page] is NULL:
            self.pages[page] = <void**>PyMem_Calloc(PAGE, sizeof(void*))
            if self.pages[page] is NULL:
                raise MemoryError()
        return 0

    cpdef int put(self, int64_t id, object model) except -1:
        """Store a model under its id, in place of an earlier version."""
        cdef Py_ssize_t page = id >> PAGE_BITS
        cdef Py_ssize_t slot = id & (PAGE - 1)
        cdef void* old
        self.reserve(id)
        old = self.pages[page][slot]
        Py_INCREF(model)
        self.pages[page][slot] = <void*>model
        if old is NULL:
            self.count += 1
            self.filled[page] += 1
        else:
            Py_DECREF(<object>old)
        return 0

    cpdef int remove(self, int64_t id) except -1:
        """Forget the model with this id; a page without models is given back."""
        cdef Py_ssize_t page = id >> PAGE_BITS
        cdef Py_ssize_t slot = id & (PAGE - 1)
        cdef void* old
        if page >= self.page_count or self.pages[page] is NULL:
            return 0
        old = self.pages[page][slot]
        if old is NULL:
            return 0
        self.pages[page][slot] = NULL
        self.count -= 1
        self.filled[page] -= 1
        if self.filled[page] == 0:
            PyMem_Free(self.pages[page])
            self.pages[page] = NULL
        Py_DECREF(<object>old)
        return 0

    def ids(self):
        """Yield the ids of all models, ascending."""
        cdef Py_ssize_t page, slot
        for page in range(self.page_count):
            for slot in range(PAGE):
                if self.pages[page] is not NULL and self.pages[page][slot] is not NULL:
                    yield (page << PAGE_BITS) + slot

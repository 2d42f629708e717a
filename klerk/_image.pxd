# The typed functions of `_image.pyx`, where each is explained.

from libc.stdint cimport int64_t

from klerk._dispatch cimport ClassPlan


cdef bytes image_of(ClassPlan owner, object model, object encode)
cpdef bytes key_of(int64_t number)

"""How a model is stored: its image, and the key that the image is stored under."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject_GenericSetAttr
from libc.stdint cimport int64_t, uint8_t, uint16_t
from libc.string cimport memcpy

from klerk._dispatch cimport Check, ClassPlan, Meta, RefField, Rule, StatePlan
from klerk._table cimport ModelTable

from klerk import limits
from klerk.errors import (
    Corrupted,
    FunctionFailed,
    InvalidValue,
    KlerkError,
    LimitExceeded,
    Rejected,
    listed,
)

cdef Py_ssize_t RECORD_BYTES_MAX = limits.RECORD_BYTES_MAX


cdef packed struct Header:
    uint8_t format
    uint8_t flags
    uint16_t class_code
    uint16_t state_code
    uint16_t schema
    int64_t version
    int64_t created_us
    int64_t updated_us
    int64_t entered_us
    int64_t due_us
    int64_t fired_us


IMAGE_FORMAT = 1


cdef bytes image_of(ClassPlan owner, object model, object encode):
    """Return a model as it is stored: a fixed header, then its fields as MessagePack."""
    cdef Header header
    cdef Meta meta = model._meta
    cdef bytes fields = encode(model)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(fields)
    cdef bytes image
    if size > RECORD_BYTES_MAX:
        raise LimitExceeded(f"{owner.name} {meta.id} takes {size} bytes, more than {RECORD_BYTES_MAX}")
    header.format = IMAGE_FORMAT
    header.flags = 0
    header.class_code = owner.code
    header.state_code = (<StatePlan>owner.states[meta.state.index]).code
    header.schema = owner.schema
    header.version = meta.version
    header.created_us = meta.created_us
    header.updated_us = meta.updated_us
    header.entered_us = meta.entered_us
    header.due_us = meta.due_us
    header.fired_us = meta.fired_us
    image = PyBytes_FromStringAndSize(NULL, sizeof(Header) + size)
    memcpy(PyBytes_AS_STRING(image), &header, sizeof(Header))
    memcpy(PyBytes_AS_STRING(image) + sizeof(Header), PyBytes_AS_STRING(fields), size)
    return image


def load_models(ModelTable table not None, rows, dict plans not None, progress, refused=None):
    """Put stored models into the table of published ones, and into the sets and indexes of their classes.

    Parameters:
        table: of the published models.
        rows: pairs of key and stored model.
        plans: class plans by their code; None for a class that was deleted.
        progress: called now and then with how many were loaded.
        refused: called with the id and the error of a model that cannot be loaded, which is then left out;
            None to raise the error.

    Raises:
        Corrupted: one cannot be read.
    """
    cdef int64_t count = 0
    for key, stored in rows:
        if count & 4095 == 0:
            progress(count)
        count += 1
        try:
            _load(table, plans, key, stored)
        except Exception as error:
            if refused is not None:
                refused(int.from_bytes(key, "big"), error)
                continue
            if isinstance(error, KlerkError):
                raise
            raise Corrupted(f"model {int.from_bytes(key, 'big')} cannot be read: {error!r}") from error


cdef int _load(ModelTable table, dict plans, bytes key, bytes stored) except -1:
    cdef Header header
    cdef ClassPlan owner
    cdef StatePlan state
    cdef int64_t id = _id_of(key)
    _read_header(stored, &header)
    owner = plans[header.class_code]
    if owner is None:
        return 0
    model = _decoded(owner, id, stored, &header)
    if header.schema < owner.since:
        _check(owner, model)
    state = owner.states[(<Meta>model._meta).state.index]
    table.put(id, model)
    owner.ids.add(id)
    state.ids.add(id)
    for field in owner.references:
        (<RefField>field).publish(id, None, model)
    for index in owner.indexes:
        index.load(id, model)
    return 0


cdef int _check(ClassPlan owner, object model) except -1:
    """Hold a model that was brought up to date against its declared types and the rules of its class."""
    cdef Check check
    cdef Rule rule
    cdef list problems = []
    for check in owner.checks:
        value = getattr(model, check.name)
        if not check.accepts(value):
            check.slow(value, check.name, problems)
    if problems:
        raise InvalidValue(f"{owner.name}: {listed(problems)}", problems=problems)
    for rule in owner.rules:
        try:
            holds = rule.call.holds_for(model)
        except FunctionFailed as error:
            text = f"{error.message}, for {owner.name} {(<Meta>model._meta).id}"
            raise FunctionFailed(text) from error.__cause__
        if not holds:
            problems.append(rule.problem())
    if problems:
        raise Rejected(listed(problems), problems=problems)
    return 0


def model_of(dict plans not None, int64_t id, bytes stored not None):
    """Return a stored model, brought up to date if an earlier version of the design stored it.

    Parameters:
        plans: class plans by their code; None for a class that was deleted.

    Returns:
        The model; None when its class was deleted by a migration.

    Raises:
        Corrupted: it cannot be read.
        FunctionFailed: a function of a migration raised.
    """
    cdef Header header
    try:
        _read_header(stored, &header)
        owner = plans[header.class_code]
        return None if owner is None else _decoded(owner, id, stored, &header)
    except KlerkError:
        raise
    except Exception as error:
        raise Corrupted(f"a version of model {id} cannot be read: {error!r}") from error


cdef object _decoded(ClassPlan owner, int64_t id, bytes stored, Header* header):
    cdef Meta meta = Meta.__new__(Meta)
    cdef StatePlan state
    cdef int state_code = header.state_code
    cdef bytes fields = PyBytes_FromStringAndSize(
        PyBytes_AS_STRING(stored) + sizeof(Header), PyBytes_GET_SIZE(stored) - <Py_ssize_t>sizeof(Header)
    )
    if header.schema > owner.schema:
        raise ValueError(f"it has schema version {header.schema}, and this design {owner.schema}")
    if header.schema < owner.since:
        model, state_code = owner.upcaster.upcast(id, header.schema, state_code, fields)
    else:
        model = owner.decode(fields)
    state = owner.state_of_code(state_code)
    meta.id = id
    meta.state = state.state
    meta.version = header.version
    meta.created_us = header.created_us
    meta.updated_us = header.updated_us
    meta.entered_us = header.entered_us
    meta.due_us = header.due_us
    meta.fired_us = header.fired_us
    PyObject_GenericSetAttr(model, "_meta", meta)
    return model


def outdated(ModelTable table not None, rows, dict plans not None, encode):
    """Yield the keys of stored models that a migration concerns, and what is to be stored under them.

    Parameters:
        table: of the published models, which were brought up to date.
        rows: pairs of key and stored model, as they are in the store.
        plans: class plans by their code; None for a class that was deleted.

    Yields:
        A key and the model as it is to be stored; None to delete it; the key and b"" when it can stay.
    """
    cdef Header header
    cdef ClassPlan owner
    for key, stored in rows:
        _read_header(stored, &header)
        owner = plans[header.class_code]
        if owner is None:
            yield key, None
        elif header.schema < owner.since:
            yield key, image_of(owner, table.get(_id_of(key)), encode)
        else:
            yield key, b""


cdef int _read_header(bytes stored, Header* header) except -1:
    """Read the header of a stored model, or raise `ValueError`."""
    if PyBytes_GET_SIZE(stored) < <Py_ssize_t>sizeof(Header):
        raise ValueError("it is too short")
    memcpy(header, PyBytes_AS_STRING(stored), sizeof(Header))
    if header.format != IMAGE_FORMAT:
        raise ValueError(f"it has format {header.format}, expected {IMAGE_FORMAT}")
    return 0


cdef int64_t _id_of(bytes key) except -1:
    """Return the id that `key_of` made a key of."""
    cdef int64_t id = 0
    cdef uint8_t* at = <uint8_t*>PyBytes_AS_STRING(key)
    cdef int i
    if PyBytes_GET_SIZE(key) != 8:
        raise ValueError("its key is not that of a model")
    for i in range(8):
        id = (id << 8) | at[i]
    return id


def without_meta(value):
    """Encode as nothing what is in a model's header: the hook for what msgspec does not know."""
    if type(value) is not Meta:
        raise TypeError(f"a {type(value).__name__} cannot be stored")
    return None


def model_puts(int family, dict images not None):
    """Return the puts (family, key, image) and deletes (family, key) that store the images of a group."""
    cdef list puts = [], deletes = []
    for id, image in images.items():
        if image is None:
            deletes.append((family, key_of(id)))
        else:
            puts.append((family, key_of(id), image))
    return puts, deletes


cpdef bytes key_of(int64_t number):
    """Return an id or sequence as a key of 8 bytes that sorts as the number does."""
    cdef bytes key = PyBytes_FromStringAndSize(NULL, 8)
    cdef uint8_t* at = <uint8_t*>PyBytes_AS_STRING(key)
    cdef int i
    for i in range(8):
        at[7 - i] = number & 0xFF
        number >>= 8
    return key


def version_of(bytes stored not None):
    """Return the version in the header of a stored model, or raise `ValueError`."""
    cdef Header header
    _read_header(stored, &header)
    return header.version


def class_code_of(bytes stored not None):
    """Return the class code in the header of a stored model, or raise `ValueError`."""
    cdef Header header
    _read_header(stored, &header)
    return header.class_code

"""From annotations to the kinds of fields and parameters that they declare."""

import enum
import inspect
import types
import typing
from collections.abc import (
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
)
from collections.abc import Set as AbstractSet
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from klerk import limits
from klerk.field_types import (
    FieldType,
    Unsupported,
    collection_type,
    datetime_type,
    decimal_type,
    enum_type,
    exact_type,
    optional_type,
    reference_type,
    struct_type,
    tuple_type,
    value_type,
)
from klerk.type_names import type_name
from klerk.values import INT64_MAX, INT64_MIN, Bytes, Float, Int, RefTo, Text

Resolve = Callable[[str], Any]


def struct_fields(cls: Any, names: Iterable[str], resolve: Resolve, depth: int = 0) -> dict[str, FieldType]:
    """Compile the fields of a struct class, and give msgspec their plain types to decode.

    Raises:
        Unsupported: for the first field that cannot be one, with its name in the message.
    """
    annotations: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        annotations.update(_own_annotations(base))
    fields: dict[str, FieldType] = {}
    for name in names:
        try:
            fields[name] = field_type(annotations[name], resolve, depth)
        except Unsupported as error:
            raise Unsupported(f"field '{name}': {error}") from error
    originals = cls.__dict__.get("__klerk_annotations__")
    if originals is None:
        cls.__klerk_annotations__ = dict(cls.__annotations__)
    # Everything is checked before it is written; msgspec only has to know the plain types that it reads back.
    cls.__annotations__ = {name: field.plain for name, field in fields.items()}
    return fields


def _own_annotations(cls: type) -> dict[str, Any]:
    kept = cls.__dict__.get("__klerk_annotations__")
    if kept is not None:
        return dict(kept)
    return inspect.get_annotations(cls)


_MUTABLE: Final = (MutableSequence, MutableSet, MutableMapping, memoryview)

_SIMPLE: Final[dict[Any, Callable[[], FieldType]]] = {
    str: lambda: value_type(Text, str, "text", 0, limits.TEXT_LENGTH_MAX, None),
    bytes: lambda: value_type(Bytes, bytes, "bytes", 0, limits.BYTES_LENGTH_MAX, None),
    int: lambda: value_type(Int, int, "int", INT64_MIN, INT64_MAX, "int64"),
    float: lambda: value_type(Float, float, "float", None, None, "float64"),
    bool: lambda: exact_type(bool, "true or false", dtype="bool"),
    date: lambda: exact_type(date, "a date", dtype="datetime64[D]"),
    timedelta: lambda: exact_type(timedelta, "a timedelta", dtype="timedelta64[us]"),
    UUID: lambda: exact_type(UUID, "a UUID"),
    datetime: datetime_type,
    Decimal: decimal_type,
}


def field_type(annotation: Any, resolve: Resolve, depth: int = 0) -> FieldType:
    """Compile an annotation.

    Parameters:
        annotation: as written, possibly a string.
        resolve: looks up a name in an annotation that was written as a string.
        depth: how many types enclose this one.

    Raises:
        Unsupported: no field or parameter can have it.
    """
    if depth > limits.TYPE_DEPTH_MAX:
        raise Unsupported(f"types are nested deeper than {limits.TYPE_DEPTH_MAX}")
    if isinstance(annotation, str):
        annotation = resolve(annotation)
    if isinstance(annotation, typing.ForwardRef):
        annotation = resolve(annotation.__forward_arg__)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    try:
        return _compiled(annotation, origin, arguments, resolve, depth)
    except Unsupported as error:
        if depth == 0 and arguments and type_name(annotation) not in str(error):
            raise Unsupported(f"in {type_name(annotation)}, {error}") from error
        raise


def _compiled(annotation: Any, origin: Any, arguments: Any, resolve: Resolve, depth: int) -> FieldType:
    if origin is Annotated:
        return _annotated(annotation, resolve, depth)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not types.NoneType]
        if len(inner) != 1 or len(inner) == len(arguments):
            raise Unsupported("a union is only possible with None, as in int | None")
        return optional_type(field_type(inner[0], resolve, depth + 1))
    if origin is frozenset:
        return collection_type(field_type(arguments[0], resolve, depth + 1), frozenset)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return collection_type(field_type(arguments[0], resolve, depth + 1), tuple)
        return tuple_type([field_type(argument, resolve, depth + 1) for argument in arguments])
    replacement = _replacement(origin or annotation, arguments)
    if replacement:
        raise Unsupported(f"{type_name(annotation)} can be changed: use {replacement}")
    if annotation in (tuple, frozenset):
        what = "tuple[X, ...]" if annotation is tuple else "frozenset[X]"
        raise Unsupported(f"{annotation.__name__} does not say of what it is: write {what}")
    if isinstance(annotation, type):
        return _class_type(annotation, resolve, depth)
    raise Unsupported(f"{annotation!r} is not a type that Klerk can keep")


def _replacement(cls: Any, arguments: Sequence[Any]) -> str:
    """Return the immutable type to be used instead of a collection that can be changed; else nothing."""
    abstract = isinstance(cls, type) and cls.__module__ == "collections.abc" and issubclass(cls, Iterable)
    if not abstract and not (isinstance(cls, type) and issubclass(cls, _MUTABLE)):
        return ""
    names = [
        _replacement(typing.get_origin(each) or each, typing.get_args(each)) or type_name(each)
        for each in arguments
    ] + ["X", "Y"]
    if issubclass(cls, (bytearray, memoryview)):
        return "bytes"
    if issubclass(cls, Mapping):
        return f"tuple[tuple[{names[0]}, {names[1]}], ...], or a frozen msgspec.Struct"
    return f"frozenset[{names[0]}]" if issubclass(cls, AbstractSet) else f"tuple[{names[0]}, ...]"


def _annotated(annotation: Any, resolve: Resolve, depth: int) -> FieldType:
    for mark in annotation.__metadata__:
        if isinstance(mark, RefTo):
            target = mark.target
            if isinstance(target, typing.ForwardRef):
                target = target.__forward_arg__
            return reference_type(resolve(target) if isinstance(target, str) else target)
    return field_type(annotation.__origin__, resolve, depth + 1)


def _class_type(cls: type, resolve: Resolve, depth: int) -> FieldType:
    simple = _SIMPLE.get(cls)
    if simple is not None:
        return simple()
    if issubclass(cls, Text):
        return value_type(cls, str, "text", cls.min_length, cls.max_length, None)
    if issubclass(cls, Bytes):
        return value_type(cls, bytes, "bytes", cls.min_length, cls.max_length, None)
    if issubclass(cls, Int):
        return value_type(cls, int, "int", max(cls.low, INT64_MIN), min(cls.high, INT64_MAX), "int64")
    if issubclass(cls, Float):
        return value_type(cls, float, "float", cls.low, cls.high, "float64")
    if issubclass(cls, enum.Enum):
        return enum_type(cls)
    if issubclass(cls, msgspec.Struct):
        if not cls.__struct_config__.frozen:
            raise Unsupported(f"{cls.__name__} is mutable: declare it with frozen=True")
        return struct_type(cls, struct_fields(cls, cls.__struct_fields__, resolve, depth + 1))
    raise Unsupported(f"{cls.__name__} is not a type that Klerk can keep")

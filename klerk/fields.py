"""From annotations to checks: what a field or parameter of a declared type accepts, stores and reports."""

import enum
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from klerk import limits
from klerk._dispatch import Check
from klerk.errors import Problem
from klerk.values import INT64_MAX, INT64_MIN, Bytes, Float, Int, RefTo, Text, plain_int

Coerce = Callable[[Any, str, list[Problem]], Any]
Resolve = Callable[[str], Any]


class Unsupported(ValueError):
    """An annotation that no field or parameter can have; the message says why and what to use instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldType:
    """A declared type, compiled.

    Parameters:
        kind: of the fast check, one of `klerk._dispatch.KINDS`.
        label: the type for people.
        stored: what of it matters to stored values: "?" at the end allows None.
        plain: the type that is stored, as msgspec decodes it.
        coerce: ``coerce(value, path, problems) -> value`` converts what is safe and reports the rest.
        low, high, exact, target, nullable, nested: as `Check` has them.
        tags: of the value types involved.
        dtype: the NumPy type of a column of it, or None.
    """

    kind: str
    label: str
    plain: Any
    coerce: Coerce
    low: Any = None
    high: Any = None
    exact: Any = None
    target: Any = None
    nullable: bool = False
    nested: Callable[[Any], Iterable[tuple[int, Any]]] | None = None
    stored: str = ""
    tags: frozenset[str] = frozenset()
    dtype: str | None = None

    def check(self, name: str) -> Check:
        """Return the fast check for a field or parameter with this name."""
        return Check(
            name,
            self.kind,
            slow=self.coerce,
            low=self.low,
            high=self.high,
            exact=self.exact,
            target=self.target,
            nullable=self.nullable,
            nested=self.nested,
        )


def _problem(problems: list[Problem], path: str, expected: str, value: Any) -> Any:
    problems.append(Problem(code="wrong_type", message=f"expected {expected}, got {type(value).__name__}", path=path))
    return value


def _value_type(cls: Any, plain: type, kind: str, low: Any, high: Any, dtype: str | None) -> FieldType:
    """Compile one of the four value types (or its plain builtin, which has the widest bounds)."""

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        if plain is int:
            value = plain_int(value)
        elif plain is float and not isinstance(value, float):
            value = plain_int(value)
        found = cls.problems_of(value, path)
        problems.extend(found)
        return value if found else plain(value)

    if cls.has_validator or getattr(cls, "pattern", None) is not None:
        kind = "slow"
    bounds = f"{'' if low is None else low}..{'' if high is None else high}"
    pattern = getattr(cls, "pattern", None)
    label = f"{plain.__name__} {bounds}" + (f" /{pattern.pattern}/" if pattern is not None else "")
    return FieldType(
        kind=kind,
        label=label,
        stored=plain.__name__,
        plain=plain,
        coerce=coerce,
        low=low,
        high=high,
        tags=cls.tags,
        dtype=dtype,
    )


def _exact(cls: type, expected: str, *, dtype: str | None = None) -> FieldType:
    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        return value if type(value) is cls else _problem(problems, path, expected, value)

    return FieldType(
        kind="exact", label=cls.__name__, stored=cls.__name__, plain=cls, coerce=coerce, exact=cls, dtype=dtype
    )


def _coerce_datetime(value: Any, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, datetime):
        return _problem(problems, path, "a datetime", value)
    if value.tzinfo is None or value.utcoffset() is None:
        problems.append(
            Problem(
                code="naive_datetime",
                message="has no time zone",
                path=path,
                hint="Use an aware datetime, as in datetime.now(UTC).",
            )
        )
        return value
    return value.astimezone(UTC)


def _coerce_decimal(value: Any, path: str, problems: list[Problem]) -> Any:
    if type(value) is int:
        return Decimal(value)
    if type(value) is not Decimal:
        return _problem(problems, path, "a Decimal", value)
    if not value.is_finite():
        problems.append(Problem(code="not_finite", message=f"must be a finite number, is {value}", path=path))
    return value


def _enum(cls: type[enum.Enum]) -> FieldType:
    values = [member.value for member in cls]
    if not values or not (all(type(v) is str for v in values) or all(type(v) is int for v in values)):
        raise Unsupported(f"the values of {cls.__name__} must be all texts or all whole numbers")

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        if isinstance(value, cls):
            return value
        known = ", ".join(str(v) for v in values[:10])
        problems.append(Problem(code="not_in_enum", message=f"expected one of {known}", path=path))
        return value

    return FieldType(
        kind="exact",
        label=f"one of {', '.join(map(str, values))}",
        stored=f"enum of {type(values[0]).__name__}",
        plain=cls,
        coerce=coerce,
        exact=cls,
    )


def _reference(target: type) -> FieldType:
    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        number = plain_int(value)
        if type(number) is int:
            return number
        return _problem(problems, path, f"a reference to {target.__name__}", value)

    return FieldType(
        kind="ref",
        label=f"reference to {target.__name__}",
        stored=f"ref {target.__name__}",
        plain=int,
        coerce=coerce,
        target=target,
        dtype="int64",
    )


def _optional(inner: FieldType) -> FieldType:
    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        return None if value is None else inner.coerce(value, path, problems)

    nested = inner.nested

    def nested_or_none(value: Any) -> Iterable[tuple[int, Any]]:
        return () if value is None or nested is None else nested(value)

    return replace(
        inner,
        label=f"{inner.label} or none",
        stored=f"{inner.stored}?",
        plain=inner.plain | None,
        coerce=coerce,
        nullable=True,
        nested=None if nested is None else nested_or_none,
    )


def _element_references(element: FieldType, value: Any) -> Iterator[tuple[int, Any]]:
    for item in value:
        if element.kind == "ref" and item is not None:
            yield item, element.target
        elif element.nested is not None:
            yield from element.nested(item)


def _has_references(field: FieldType) -> bool:
    return field.kind == "ref" or field.nested is not None


def _collection(element: FieldType, plain: type) -> FieldType:
    """Compile ``tuple[X, ...]`` or ``frozenset[X]``."""
    accepted: tuple[type, ...] = (tuple, list) if plain is tuple else (frozenset, set)

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        if not isinstance(value, accepted):
            return _problem(problems, path, f"a {plain.__name__}", value)
        if len(value) > limits.COLLECTION_LENGTH_MAX:
            text = f"may have at most {limits.COLLECTION_LENGTH_MAX} elements, has {len(value)}"
            problems.append(Problem(code="too_long", message=text, path=path))
            return value
        return plain(element.coerce(item, f"{path}[{i}]", problems) for i, item in enumerate(value))

    return FieldType(
        kind="slow",
        label=f"{plain.__name__} of {element.label}",
        stored=f"{plain.__name__}[{element.stored}]",
        plain=tuple[element.plain, ...] if plain is tuple else frozenset[element.plain],  # type: ignore[name-defined]
        coerce=coerce,
        nested=(lambda value: _element_references(element, value)) if _has_references(element) else None,
        tags=element.tags,
    )


def _fixed_tuple(elements: list[FieldType]) -> FieldType:
    """Compile ``tuple[X, Y]``."""

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        if not isinstance(value, (tuple, list)) or len(value) != len(elements):
            return _problem(problems, path, f"a tuple of {len(elements)}", value)
        pairs = enumerate(zip(elements, value, strict=True))
        return tuple(element.coerce(item, f"{path}[{i}]", problems) for i, (element, item) in pairs)

    def nested(value: Any) -> Iterator[tuple[int, Any]]:
        for element, item in zip(elements, value, strict=True):
            yield from _element_references(element, (item,))

    return FieldType(
        kind="slow",
        label=f"tuple of ({', '.join(element.label for element in elements)})",
        stored=f"tuple({', '.join(element.stored for element in elements)})",
        plain=tuple[tuple(element.plain for element in elements)],  # type: ignore[misc]
        coerce=coerce,
        nested=nested if any(map(_has_references, elements)) else None,
        tags=frozenset().union(*(element.tags for element in elements)),
    )


def _struct(cls: type[msgspec.Struct], resolve: Resolve, depth: int) -> FieldType:
    """Compile a nested frozen struct, and make msgspec decode its fields as plain values."""
    if not cls.__struct_config__.frozen:
        raise Unsupported(f"{cls.__name__} is mutable: declare it with frozen=True")
    members = struct_fields(cls, cls.__struct_fields__, resolve, depth + 1)

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is not cls:
            return _problem(problems, path, f"a {cls.__name__}", value)
        found = {n: f.coerce(getattr(value, n), f"{path}.{n}" if path else n, problems) for n, f in members.items()}
        changed = {name: new for name, new in found.items() if new is not getattr(value, name)}
        return msgspec.structs.replace(value, **changed) if changed and not problems else value

    def nested(value: Any) -> Iterator[tuple[int, Any]]:
        for name, member in members.items():
            yield from _element_references(member, (getattr(value, name),))

    inside = ", ".join(f"{name}: {member.label}" for name, member in members.items())
    return FieldType(
        kind="slow",
        label=f"struct ({inside})",
        stored=f"struct({', '.join(f'{name}: {member.stored}' for name, member in members.items())})",
        plain=cls,
        coerce=coerce,
        nested=nested if any(map(_has_references, members.values())) else None,
        tags=frozenset().union(*(member.tags for member in members.values())),
    )


def struct_fields(
    cls: Any, names: Iterable[str], resolve: Resolve, depth: int = 0
) -> dict[str, FieldType]:
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
    own = cls.__dict__.get("__annotations__")
    if own is None and hasattr(cls, "__annotate__"):
        own = cls.__annotations__
    return dict(own or {})


_MUTABLE: Final = {list: "tuple[X, ...]", set: "frozenset[X]", dict: "a frozen struct", bytearray: "bytes"}

_SIMPLE: Final[dict[Any, Callable[[], FieldType]]] = {
    str: lambda: _value_type(Text, str, "text", 0, limits.TEXT_LENGTH_MAX, None),
    bytes: lambda: _value_type(Bytes, bytes, "bytes", 0, limits.BYTES_LENGTH_MAX, None),
    int: lambda: _value_type(Int, int, "int", INT64_MIN, INT64_MAX, "int64"),
    float: lambda: _value_type(Float, float, "float", None, None, "float64"),
    bool: lambda: _exact(bool, "true or false", dtype="bool"),
    date: lambda: _exact(date, "a date", dtype="datetime64[D]"),
    timedelta: lambda: _exact(timedelta, "a timedelta", dtype="timedelta64[us]"),
    UUID: lambda: _exact(UUID, "a UUID"),
    datetime: lambda: FieldType(
        kind="datetime",
        label="datetime",
        stored="datetime",
        plain=datetime,
        coerce=_coerce_datetime,
        dtype="datetime64[us]",
    ),
    Decimal: lambda: FieldType(
        kind="slow", label="decimal", stored="decimal", plain=Decimal, coerce=_coerce_decimal, dtype="float64"
    ),
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
    if origin is Annotated:
        return _annotated(annotation, resolve, depth)
    if origin in (typing.Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not types.NoneType]
        if len(inner) != 1 or len(inner) == len(arguments):
            raise Unsupported("a union is only possible with None, as in int | None")
        return _optional(field_type(inner[0], resolve, depth + 1))
    if origin is frozenset:
        return _collection(field_type(arguments[0], resolve, depth + 1), frozenset)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _collection(field_type(arguments[0], resolve, depth + 1), tuple)
        return _fixed_tuple([field_type(argument, resolve, depth + 1) for argument in arguments])
    mutable = _MUTABLE.get(origin or annotation)
    if mutable is not None:
        raise Unsupported(f"a {(origin or annotation).__name__} can be changed: use {mutable}")
    if isinstance(annotation, type):
        return _class_type(annotation, resolve, depth)
    raise Unsupported(f"{annotation!r} is not a type that Klerk can keep")


def _annotated(annotation: Any, resolve: Resolve, depth: int) -> FieldType:
    for mark in annotation.__metadata__:
        if isinstance(mark, RefTo):
            target = mark.target
            if isinstance(target, typing.ForwardRef):
                target = target.__forward_arg__
            return _reference(resolve(target) if isinstance(target, str) else target)
    return field_type(annotation.__origin__, resolve, depth + 1)


def _class_type(cls: type, resolve: Resolve, depth: int) -> FieldType:
    simple = _SIMPLE.get(cls)
    if simple is not None:
        return simple()
    if issubclass(cls, Text):
        return _value_type(cls, str, "text", cls.min_length, cls.max_length, None)
    if issubclass(cls, Bytes):
        return _value_type(cls, bytes, "bytes", cls.min_length, cls.max_length, None)
    if issubclass(cls, Int):
        return _value_type(cls, int, "int", max(cls.low, INT64_MIN), min(cls.high, INT64_MAX), "int64")
    if issubclass(cls, Float):
        return _value_type(cls, float, "float", cls.low, cls.high, "float64")
    if issubclass(cls, enum.Enum):
        return _enum(cls)
    if issubclass(cls, msgspec.Struct):
        return _struct(cls, resolve, depth)
    raise Unsupported(f"{cls.__name__} is not a type that Klerk can keep")

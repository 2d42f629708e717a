"""The kinds of fields and parameters: what each accepts, how it is stored and what it reports."""

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from klerk import limits
from klerk._dispatch import Check
from klerk.bounds import wrong_type
from klerk.errors import Problem
from klerk.values import plain_int

Coerce = Callable[[Any, str, list[Problem]], Any]


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
        base: the type of values that are not None.
        element: of a ``tuple[X, ...]`` or ``frozenset[X]``, the type of each element.
        members: of a struct, the types of its fields by name; of a ``tuple[X, Y]``, by position.
        lines: how many lines a text may have; None: any number.
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
    base: Any
    element: "FieldType | None" = None
    members: dict[Any, "FieldType"] = field(default_factory=dict, hash=False)
    lines: int | None = None

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


def _wrong_type(problems: list[Problem], path: str, expected: str, value: Any) -> Any:
    problems.append(wrong_type(value, expected, path))
    return value


_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    str: lambda value: str.__str__(value) if type(value) is not str else value,
    bytes: lambda value: bytes(memoryview(value)) if type(value) is not bytes else value,
    int: int.__int__,
    float: float.__float__,
}
"""How a value of a builtin's subclass becomes the plain builtin, whatever the subclass defines."""


def value_type(cls: Any, plain: type, kind: str, low: Any, high: Any, dtype: str | None) -> FieldType:
    """Compile one of the four value types (or its plain builtin, which has the widest bounds)."""

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        if plain is int or (plain is float and not isinstance(value, float)):
            value = plain_int(value)
        if isinstance(value, plain) and not isinstance(value, bool):
            # What is checked is what is stored: a subclass may present itself as something else.
            value = convert(value)
        found = cls.problems_of(value, path)
        problems.extend(found)
        return value if found else plain(value)

    convert = _PLAIN[plain]

    lines = getattr(cls, "lines_max", None)
    if cls.has_validator or lines is not None or getattr(cls, "pattern", None) is not None:
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
        base=plain,
        lines=lines,
    )


def exact_type(cls: type, expected: str, *, dtype: str | None = None) -> FieldType:
    """Compile a type that a value has or has not."""

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        return value if type(value) is cls else _wrong_type(problems, path, expected, value)

    return FieldType(
        kind="exact",
        label=cls.__name__,
        stored=cls.__name__,
        plain=cls,
        coerce=coerce,
        exact=cls,
        dtype=dtype,
        base=cls,
    )


def _coerce_datetime(value: Any, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, datetime):
        return _wrong_type(problems, path, "a datetime", value)
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
    try:
        moment = value.astimezone(UTC)
    except (OverflowError, ValueError):
        problems.append(
            Problem(code="out_of_range", message="is outside of the years 1 to 9999 in UTC", path=path)
        )
        return value
    # A subclass, such as pandas.Timestamp, is kept as a plain datetime.
    parts = (
        moment.year,
        moment.month,
        moment.day,
        moment.hour,
        moment.minute,
        moment.second,
        moment.microsecond,
    )
    return moment if type(moment) is datetime else datetime(*parts, tzinfo=UTC)


def datetime_type() -> FieldType:
    """Compile `datetime`."""
    return FieldType(
        kind="datetime",
        label="datetime",
        stored="datetime",
        plain=datetime,
        coerce=_coerce_datetime,
        dtype="datetime64[us]",
        base=datetime,
    )


def _coerce_decimal(value: Any, path: str, problems: list[Problem]) -> Any:
    if type(value) is int:
        return Decimal(value)
    if type(value) is not Decimal:
        return _wrong_type(problems, path, "a Decimal", value)
    if not value.is_finite():
        text = f"must be a finite number, is {value}"
        problems.append(Problem(code="not_finite", message=text, path=path, values={"value": value}))
    return value


def decimal_type() -> FieldType:
    """Compile `Decimal`."""
    return FieldType(
        kind="slow",
        label="decimal",
        stored="decimal",
        plain=Decimal,
        coerce=_coerce_decimal,
        dtype="float64",
        base=Decimal,
    )


def enum_type(cls: type[enum.Enum]) -> FieldType:
    """Compile an enum of texts or of whole numbers."""
    values = [member.value for member in cls]
    if not values or not (all(type(v) is str for v in values) or all(type(v) is int for v in values)):
        raise Unsupported(f"the values of {cls.__name__} must be all texts or all whole numbers")

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        if isinstance(value, cls):
            return value
        known = ", ".join(str(v) for v in values[:10])
        text, about = f"expected one of {known}", {"known": tuple(values)}
        problems.append(Problem(code="not_in_enum", message=text, path=path, values=about))
        return value

    return FieldType(
        kind="exact",
        label=f"one of {', '.join(map(str, values))}",
        stored=f"enum of {type(values[0]).__name__}",
        plain=cls,
        coerce=coerce,
        exact=cls,
        base=cls,
    )


def reference_type(target: type) -> FieldType:
    """Compile a reference to a model class."""

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        number = plain_int(value)
        if type(number) is int:
            return number
        return _wrong_type(problems, path, f"a reference to {target.__name__}", value)

    return FieldType(
        kind="ref",
        label=f"reference to {target.__name__}",
        stored=f"ref {target.__name__}",
        plain=int,
        coerce=coerce,
        target=target,
        dtype="int64",
        base=int,
    )


def optional_type(inner: FieldType) -> FieldType:
    """Compile ``X | None``."""

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


def too_many(length: int, path: str) -> Problem:
    """Return the problem of a collection with more elements than any may have."""
    longest = limits.COLLECTION_LENGTH_MAX
    values = {"max": longest, "length": length, "unit": "elements"}
    text = f"may have at most {longest} elements, has {length}"
    return Problem(code="too_long", message=text, path=path, values=values)


def collection_type(element: FieldType, plain: type[tuple[Any, ...]] | type[frozenset[Any]]) -> FieldType:
    """Compile ``tuple[X, ...]`` or ``frozenset[X]``."""
    accepted: Any = (tuple, list) if plain is tuple else (frozenset, set)

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        if not isinstance(value, accepted):
            return _wrong_type(problems, path, f"a {plain.__name__}", value)
        if len(value) > limits.COLLECTION_LENGTH_MAX:
            problems.append(too_many(len(value), path))
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
        base=plain,
        element=element,
    )


def tuple_type(elements: list[FieldType]) -> FieldType:
    """Compile ``tuple[X, Y]``."""

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        if not isinstance(value, (tuple, list)) or len(value) != len(elements):
            return _wrong_type(problems, path, f"a tuple of {len(elements)}", value)
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
        base=tuple,
        members=dict(enumerate(elements)),
    )


def struct_type(cls: type[msgspec.Struct], members: dict[str, FieldType]) -> FieldType:
    """Compile a nested frozen struct with compiled members."""

    def coerce(value: Any, path: str, problems: list[Problem]) -> Any:
        if type(value) is not cls:
            return _wrong_type(problems, path, f"a {cls.__name__}", value)
        prefix = f"{path}." if path else ""
        found = {n: f.coerce(getattr(value, n), prefix + n, problems) for n, f in members.items()}
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
        base=cls,
        members=dict(members),
    )

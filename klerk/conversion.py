"""From JSON and forms to the values of an event's parameters, with every problem at its path.

What is given is walked along the declared types. JSON and forms differ in how they write objects, lists and
single values, which is all that `Json` and `Form` know; the types themselves decide what is accepted.
"""

import enum
import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from klerk import limits
from klerk.bounds import wrong_type
from klerk.errors import LimitExceeded, Problem
from klerk.field_types import FieldType, too_many
from klerk.forms import Inputs
from klerk.values import has_default

ABSENT: Final = object()
"""Stands for a value that was not given."""

Members = Iterable[tuple[str, FieldType, bool]]
"""Names, types, and whether there is a default."""


class Notation(Protocol):
    """How JSON or a form writes values."""

    def members(self, given: Any) -> Mapping[Any, Any] | None:
        """Return the parts of an object by name; None when it is none."""

    def elements(self, given: Any) -> list[tuple[int, Any]] | None:
        """Return the elements of a list with their positions; None when it is none."""

    def plain(self, given: Any) -> Any:
        """Return what was given, for messages."""

    def is_none(self, given: Any, field: FieldType) -> bool:
        """Return whether None is meant."""

    def is_left_out(self, given: Any, field: FieldType) -> bool:
        """Return whether a member of an object is there, and says as much as if it was not."""

    def when_absent(self, field: FieldType) -> Any:
        """Return what it means that a value was not given and has no default, or `ABSENT`."""

    def single(self, given: Any, field: FieldType, path: str, problems: list[Problem]) -> Any:
        """Return a value that has no parts, as near to its type as can be; `ABSENT` once a problem is
        reported."""


def parameter_values(
    notation: Notation,
    given: Any,
    parameters: Iterable[Any],
    types: Mapping[str, FieldType],
    problems: list[Problem],
) -> tuple[Any, ...]:
    """Return the values of an event's parameters, in order; of no use once a problem was reported.

    Parameters:
        parameters: as `klerk.jobs.Parameter` describes them, whose defaults apply.
        types: of the parameters by name.
    """
    defaults = {each.name: each.default for each in parameters}
    members = [(n, types[n], default is not inspect.Parameter.empty) for n, default in defaults.items()]
    found = _members(notation, given, members, "", problems)
    return tuple(found.get(name, default) for name, default in defaults.items())


def _converted(notation: Notation, given: Any, field: FieldType, path: str, problems: list[Problem]) -> Any:
    if notation.is_none(given, field):
        if not field.nullable:
            problems.append(_missing(path))
        return None
    if field.element is not None:
        return _collection(notation, given, field, field.element, path, problems)
    if field.base is tuple:
        return _fixed_tuple(notation, given, field, path, problems)
    if issubclass(field.base, msgspec.Struct):
        return _struct(notation, given, field, path, problems)
    value = notation.single(given, field, path, problems)
    return None if value is ABSENT else field.coerce(value, path, problems)


def _members(
    notation: Notation, given: Any, members: Members, path: str, problems: list[Problem]
) -> dict[str, Any]:
    """Return the members of an object that were given, converted; report those that miss or are unknown."""
    parts = notation.members(given)
    if parts is None:
        problems.append(wrong_type(notation.plain(given), "an object", path))
        return {}
    prefix = f"{path}." if path else ""
    found, known = {}, set()
    for name, field, optional in members:
        known.add(name)
        part = parts.get(name, ABSENT)
        if part is not ABSENT and not notation.is_left_out(part, field):
            found[name] = _converted(notation, part, field, prefix + name, problems)
        elif not optional:
            found[name] = notation.when_absent(field)
            if found[name] is ABSENT:
                problems.append(_missing(prefix + name))
    unknown = [name for name in parts if name not in known]
    for name in unknown[: limits.PROBLEMS_MAX]:
        text = f"is not known; there is {', '.join(sorted(known)) or 'nothing'}"
        about = {"known": tuple(sorted(known))}
        problems.append(Problem(code="unknown_field", message=text, path=f"{prefix}{name}", values=about))
    return found


def _struct(notation: Notation, given: Any, field: FieldType, path: str, problems: list[Problem]) -> Any:
    cls, before = field.base, len(problems)
    members = [(name, member, has_default(cls, name)) for name, member in field.members.items()]
    found = _members(notation, given, members, path, problems)
    if len(problems) > before:
        return None
    try:
        return cls(**found)
    except (TypeError, ValueError) as error:
        # What a `__post_init__` of the application does not accept.
        problems.append(Problem(code="invalid", message=str(error), path=path, key=f"{cls.__name__}.invalid"))
        return None


def _collection(
    notation: Notation, given: Any, field: FieldType, element: FieldType, path: str, problems: list[Problem]
) -> Any:
    items, before = notation.elements(given), len(problems)
    if items is None:
        problems.append(wrong_type(notation.plain(given), "a list", path))
        return None
    if len(items) > limits.COLLECTION_LENGTH_MAX:
        problems.append(too_many(len(items), path))
        return None
    found = [_converted(notation, item, element, f"{path}[{i}]", problems) for i, item in items]
    return None if len(problems) > before else field.base(found)


def _fixed_tuple(notation: Notation, given: Any, field: FieldType, path: str, problems: list[Problem]) -> Any:
    items, count = notation.elements(given), len(field.members)
    if items is None or [i for i, _ in items] != list(range(count)):
        problems.append(wrong_type(notation.plain(given), f"a list of {count}", path))
        return None
    return tuple(_converted(notation, item, field.members[i], f"{path}[{i}]", problems) for i, item in items)


def _missing(path: str) -> Problem:
    return Problem(code="missing", message="is missing", path=path)


def _wrong_format(expected: str, path: str) -> Problem:
    return Problem(
        code="wrong_format", message=f"is not {expected}", path=path, values={"expected": expected}
    )


def _parsed(text: str, base: type, parse: Callable[[str], Any], path: str, problems: list[Problem]) -> Any:
    """Return a text as a value, or report that it does not have the form."""
    try:
        return parse(text)
    except (ValueError, OverflowError, ArithmeticError):
        problems.append(_wrong_format(_FORMS[base], path))
        return ABSENT


def _by(base: type) -> Callable[[str], Any]:
    # Strict: a text that has the form of the type, which msgspec knows for all of them.
    return lambda text: msgspec.convert(text, base)


_FORMS: Final[dict[type, str]] = {
    datetime: "a moment such as 2024-02-29T12:00:00Z",
    date: "a date such as 2024-02-29",
    timedelta: "a duration such as P1DT2H30M",
    UUID: "a UUID",
    bytes: "in base64",
    int: "a whole number",
    float: "a number",
    Decimal: "a decimal number",
}


def _from_text(text: str, base: type, path: str, problems: list[Problem]) -> Any:
    """Return the value that a text in JSON or a form stands for, for types that both write as texts."""
    if base is datetime or base is date:
        return _parsed(text, base, base.fromisoformat, path, problems)
    return _parsed(text, base, _by(base), path, problems)


def _member_of(cls: type[enum.Enum], value: Any) -> Any:
    """Return the member with a value, or the value, which the type then refuses."""
    return next((each for each in cls if each.value == value and type(each.value) is type(value)), value)


# --- JSON ---------------------------------------------------------------------------------------------


def read_json(data: Any, problems: list[Problem]) -> Any:
    """Return JSON text decoded, or `ABSENT` with a problem; anything but a text is decoded already.

    Raises:
        LimitExceeded: it is longer than `limits.JSON_BYTES_MAX`.
    """
    if not isinstance(data, (str, bytes, bytearray, memoryview)):
        return data
    if len(data) > limits.JSON_BYTES_MAX:
        raise LimitExceeded(f"{len(data)} bytes of JSON; at most {limits.JSON_BYTES_MAX} are read")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        problems.append(Problem(code="not_json", message=f"is not JSON: {error}"))
        return ABSENT


class Json:
    """Values as JSON has them once it is decoded. What has the declared type already is taken as it is."""

    def members(self, given: Any) -> Mapping[Any, Any] | None:
        if isinstance(given, msgspec.Struct):
            return {name: getattr(given, name) for name in given.__struct_fields__}
        return given if isinstance(given, Mapping) else None

    def elements(self, given: Any) -> list[tuple[int, Any]] | None:
        return list(enumerate(given)) if isinstance(given, (list, tuple, set, frozenset)) else None

    def plain(self, given: Any) -> Any:
        return given

    def is_none(self, given: Any, field: FieldType) -> bool:
        return given is None

    def is_left_out(self, given: Any, field: FieldType) -> bool:
        return False

    def when_absent(self, field: FieldType) -> Any:
        return ABSENT

    def single(self, given: Any, field: FieldType, path: str, problems: list[Problem]) -> Any:
        base = field.base
        if isinstance(given, base):
            return given
        if issubclass(base, enum.Enum):
            return _member_of(base, given)
        if base is Decimal and type(given) is float:
            # As it is written, not as the binary fraction that stands for it.
            return Decimal(repr(given))
        if isinstance(given, str) and base not in (int, float, bool):
            return _from_text(given, base, path, problems)
        return given


# --- forms --------------------------------------------------------------------------------------------

_TRUE: Final = frozenset({"true", "on", "1", "yes"})
_FALSE: Final = frozenset({"false", "off", "0", "no"})


class Form:
    """Values as an HTML form or a query string has them: texts under names such as ``address.lines[2]``.

    Parameters:
        time_zone: of moments that name none, as ``<input type="datetime-local">`` sends them.
    """

    def __init__(self, time_zone: tzinfo | None = None) -> None:
        self._time_zone = time_zone

    def members(self, given: Any) -> Mapping[Any, Any] | None:
        return given.by_name() if isinstance(given, Inputs) else None

    def elements(self, given: Inputs) -> list[tuple[int, Any]] | None:
        return given.by_position()

    def plain(self, given: Inputs) -> Any:
        return given.plain()

    def is_none(self, given: Inputs, field: FieldType) -> bool:
        return field.nullable and given.is_empty()

    def is_left_out(self, given: Inputs, field: FieldType) -> bool:
        # An empty input may mean an empty text; for any other type it says nothing.
        return given.is_empty() and not field.nullable and field.base is not str

    def when_absent(self, field: FieldType) -> Any:
        if field.nullable:
            return None
        # What is not ticked or selected is not sent.
        if field.base is bool:
            return False
        return ABSENT if field.element is None else field.base()

    def single(self, given: Inputs, field: FieldType, path: str, problems: list[Problem]) -> Any:
        base, text = field.base, given.text(several=field.base is bool)
        if not isinstance(text, str):
            problems.append(wrong_type(text, "one text", path))
            return ABSENT
        if base is str:
            # Browsers send line breaks as two characters, whatever was typed.
            return text.replace("\r\n", "\n")
        text = text.strip()
        if base is bool:
            return text.lower() in _TRUE if text.lower() in _TRUE | _FALSE else text
        if issubclass(base, enum.Enum):
            return next((each for each in base if str(each.value) == text), text)
        if base in (int, float):
            return _parsed(text, base, lambda text: msgspec.convert(text, base, strict=False), path, problems)
        value = _from_text(text, base, path, problems)
        if self._time_zone is not None and isinstance(value, datetime) and value.tzinfo is None:
            return value.replace(tzinfo=self._time_zone)
        return value

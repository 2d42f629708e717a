"""The problems of single values: another type, too short or long, too many lines, too small or large."""

import re
from typing import Any, Final

from klerk.errors import Problem


def wrong_type(value: Any, expected: str, path: str) -> Problem:
    """Return the problem of a value that is of another type."""
    got = type(value).__name__
    values = {"expected": expected, "got": got}
    return Problem(code="wrong_type", message=f"expected {expected}, got {got}", path=path, values=values)


def length_problems(length: int, low: int, high: int, unit: str, path: str) -> list[Problem]:
    """Return what is wrong with a length, counted in a unit that people know."""
    if low <= length <= high:
        return []
    values = {"min": low, "max": high, "length": length, "unit": unit}
    if length > high:
        text = f"may have at most {high} {unit}, has {length}"
        return [Problem(code="too_long", message=text, path=path, values=values)]
    text = "must not be empty" if low == 1 else f"needs at least {low} {unit}, has {length}"
    return [Problem(code="too_short", message=text, path=path, values=values)]


_BITS_SHOWN_MAX: Final = 256

# Where Unicode's line breaking algorithm (UAX #14) must break, and nowhere else.
_LINE_BREAK: Final = re.compile("\r\n|[\n\r\v\f\x85\u2028\u2029]")


def line_problems(text: str, lines_max: int, path: str) -> list[Problem]:
    """Return what is wrong with how many lines a text has; one that ends with a line break has one more."""
    lines = 1 + sum(1 for _ in _LINE_BREAK.finditer(text))
    if lines <= lines_max:
        return []
    message = f"may have at most {lines_max} lines, has {lines}" if lines_max > 1 else "must be a single line"
    values = {"max": lines_max, "lines": lines}
    return [Problem(code="too_many_lines", message=message, path=path, values=values)]


def range_problems(value: float, low: float | None, high: float | None, path: str) -> list[Problem]:
    """Return what is wrong with a number; bounds belong to what is allowed."""
    if low is not None and value < low:
        code, text = "too_small", f"must be at least {low}"
    elif high is not None and value > high:
        code, text = "too_large", f"must be at most {high}"
    else:
        return []
    values = {"min": low, "max": high, "value": value}
    return [Problem(code=code, message=f"{text}, is {_number(value)}", path=path, values=values)]


def _number(value: float) -> str:
    # Python refuses to write whole numbers of more than some thousand digits.
    if isinstance(value, int) and value.bit_length() > _BITS_SHOWN_MAX:
        return f"a number of {value.bit_length()} bits"
    return str(value)

"""What the values of the demo's csv files must be: text in, value out, ValueError for anything else."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from klerk.demo.csvfile import Column

# Stands for an empty value in a column of numbers.
MISSING = -(2**15)


def _number(low: int, high: int, text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise ValueError(text)
    return int(text)


def _clock(text: str) -> int:
    """Parse a local time as hhmm to minutes since midnight; 2400 is the midnight that ends the day."""
    hours, minutes = divmod(_number(0, 2400, text), 100)
    if minutes >= 60:
        raise ValueError(text)
    return hours * 60 + minutes


def _matching(pattern: str, text: str) -> str:
    if not re.fullmatch(pattern, text):
        raise ValueError(text)
    return text


def _optional(parse: Callable[[str], Any], empty: Any, text: str) -> Any:
    return parse(text) if text else empty


def whole(low: int, high: int, unit: str = "") -> Column:
    expected = f"a whole number from {low} to {high}{unit and ' ' + unit}"
    return Column(expected=expected, parse=partial(_number, low, high))


def text(length_max: int) -> Column:
    expected = f"1 to {length_max} characters"
    return Column(expected=expected, parse=partial(_matching, rf"[^\x00-\x1f]{{1,{length_max}}}"))


def decimal() -> Column:
    return Column(
        expected="a decimal number", parse=lambda text: float(_matching(r"-?[0-9]+(\.[0-9]+)?", text))
    )


def or_empty(column: Column, empty: Any = MISSING) -> Column:
    return Column(expected=f"{column.expected}, or nothing", parse=partial(_optional, column.parse, empty))


HHMM = Column(expected="a local time as hhmm, 0 to 2400 with minutes below 60", parse=_clock)
CARRIER = Column(expected="an airline's code of 2 letters or digits", parse=partial(_matching, "[A-Z0-9]{2}"))
AIRPORT = Column(expected="an airport's code of 3 letters or digits", parse=partial(_matching, "[A-Z0-9]{3}"))
TAIL_NUMBER = Column(
    expected="an aircraft's tail number of 2 to 8 letters or digits",
    parse=partial(_matching, "[A-Z0-9]{2,8}"),
)

# How early and late a flight may be, in minutes. The widest in 2013 are -43 and 1301 (leaving), -86 and
# 1272 (arriving).
DEPARTURE_DELAY = whole(-120, 4320, "minutes")
ARRIVAL_DELAY = whole(-300, 4320, "minutes")

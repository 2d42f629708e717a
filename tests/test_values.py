"""What fields and parameters accept, what they store, and what they say about the rest.

Each value goes through a command into a model, as a user's would; the values of every type are also written
to disk and read back. What is refused names the problem and its path, and every problem at once.
"""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from designs import TESTER, permit_everything

import klerk
from klerk import App, Args, InvalidValue, Model, Ref


class Short(klerk.Text, min=2, max=4): ...


class Code(klerk.Text, pattern=r"[A-Z]{2}\d"): ...


class Shortest(Short, max=2): ...


class Even(klerk.Int, ge=0, le=10):
    @classmethod
    def validate(cls, value: Any) -> None:
        if value % 2:
            raise ValueError("must be even")


class Small(klerk.Int, ge=-5, le=5): ...


class Ratio(klerk.Float, ge=0, le=1): ...


class Digest(klerk.Bytes, min=2, max=4): ...


class Colour(klerk.Enum):
    RED = "red"
    BLUE = "blue"


class Level(klerk.Enum):
    LOW = 1
    HIGH = 2


class Point(msgspec.Struct, frozen=True):
    x: Small
    label: Short = "ab"


class Line(msgspec.Struct, frozen=True):
    ends: tuple[Point, ...]
    colour: Colour | None = None


UUID_1 = UUID("12345678-1234-5678-1234-567812345678")
MOMENT = datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC)
EARLIER = timezone(timedelta(hours=-5))


def declare(app: App, annotation: Any, name: str = "Thing") -> tuple[Any, Any]:
    """Declare a model with one field of a type; return its machine and create event."""

    class Thing(Model):
        value: annotation

    Thing.__name__ = name
    things = app.machine(Thing)
    (there,) = things.states("there")

    @things.create(into=there)
    def make(a: Args, value: annotation) -> Thing:
        return Thing(value=value)

    return things, make


def design_of(annotation: Any) -> tuple[App, Any, Any]:
    """Return an app whose one model has one field of a type, its create event, and its machine."""
    app = App("values")
    things, make = declare(app, annotation)
    permit_everything(app)
    return app, make, things


# annotation, what is given, what is stored
ACCEPTED: list[tuple[Any, Any, Any]] = [
    (str, "", ""),
    (str, "Žluťoučký \0 🐎", "Žluťoučký \0 🐎"),
    (Short, "ab", "ab"),
    (Short, "äöüß", "äöüß"),
    (Short, Short("abc"), "abc"),
    (Code, "AB1", "AB1"),
    (int, -(2**63), -(2**63)),
    (int, 2**63 - 1, 2**63 - 1),
    (int, np.int32(7), 7),
    (Small, -5, -5),
    (Small, 5, 5),
    (Even, 10, 10),
    (float, 0.1, 0.1),
    (float, 3, 3.0),
    (float, np.float64(0.5), 0.5),
    (float, 5e-324, 5e-324),
    (float, 1.7976931348623157e308, 1.7976931348623157e308),
    (Ratio, 0, 0.0),
    (Ratio, 1.0, 1.0),
    (bytes, b"\0\xff", b"\0\xff"),
    (Digest, b"ab", b"ab"),
    (bool, True, True),
    (Colour, Colour.BLUE, Colour.BLUE),
    (Level, Level.HIGH, Level.HIGH),
    (datetime, MOMENT, MOMENT),
    (datetime, datetime.min.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)),
    (datetime, datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
    (date, date(1, 1, 1), date(1, 1, 1)),
    (timedelta, timedelta(days=-1, microseconds=1), timedelta(days=-1, microseconds=1)),
    (timedelta, timedelta(days=40_000, microseconds=999_999), timedelta(days=40_000, microseconds=999_999)),
    (Decimal, Decimal("-0.10"), Decimal("-0.10")),
    (Decimal, Decimal("1E+30"), Decimal("1E+30")),
    (Decimal, 3, Decimal(3)),
    (UUID, UUID_1, UUID_1),
    (int | None, None, None),
    (Short | None, "abc", "abc"),
    (Short | None, None, None),
    (datetime | None, MOMENT, MOMENT),
    (tuple[int, ...], (), ()),
    (tuple[Small, ...], [1, 2], (1, 2)),
    (tuple[Small, Short], (1, "ab"), (1, "ab")),
    (tuple[int | None, ...], (None, 1), (None, 1)),
    (frozenset[str], {"a", "b"}, frozenset({"a", "b"})),
    (frozenset[Short], frozenset(), frozenset()),
    (tuple[tuple[Decimal, ...], ...], ((Decimal("1.5"),), ()), ((Decimal("1.5"),), ())),
    (frozenset[Colour], frozenset(Colour), frozenset(Colour)),
    (Point, Point(5), Point(5, "ab")),
    (Line, Line((Point(1), Point(2, "xyz")), Colour.RED), Line((Point(1), Point(2, "xyz")), Colour.RED)),
    (Line | None, None, None),
    (tuple[date, ...], (date(2024, 1, 1),), (date(2024, 1, 1),)),
    (frozenset[UUID], frozenset({UUID_1}), frozenset({UUID_1})),
]


def same(found: Any, expected: Any) -> bool:
    """Equal, of the same type, down to the last decimal place."""
    if type(found) is not type(expected) or found != expected:
        return False
    if isinstance(found, frozenset):
        # The order of a set, and so its text, is left to chance.
        return sorted(map(repr, found)) == sorted(map(repr, expected))
    return repr(found) == repr(expected)


@pytest.mark.parametrize(("annotation", "given", "stored"), ACCEPTED)
def test_accepted(annotation: Any, given: Any, stored: Any) -> None:
    app, make, things = design_of(annotation)
    with app.open() as k:
        result = k.handle(make(given), TESTER)
        assert same(result.model.value, stored)
        with k.read(TESTER) as r:
            assert same(r.first(things).value, stored)


def test_every_type_comes_back_from_disk(tmp_path: Path) -> None:
    app = App("values")
    permit_everything(app)
    events = [
        (declare(app, annotation, f"Thing{i}")[1], given, stored)
        for i, (annotation, given, stored) in enumerate(ACCEPTED)
    ]
    with app.open(tmp_path / "store") as k:
        ids = [k.handle(make(given), TESTER).id for make, given, _ in events]
    with app.open(tmp_path / "store") as k, k.read(TESTER) as r:
        for id, (_, _, stored) in zip(ids, events, strict=True):
            assert same(r.get(id).value, stored)


# annotation, what is given, (path, code, part of the message) of each problem
REFUSED: list[tuple[Any, Any, list[tuple[str, str, str]]]] = [
    (str, 1, [("value", "wrong_type", "expected a text, got int")]),
    (str, None, [("value", "wrong_type", "expected a text, got NoneType")]),
    (str, b"x", [("value", "wrong_type", "got bytes")]),
    (str, "x" * 1_000_001, [("value", "too_long", "at most 1000000 characters, has 1000001")]),
    (Short, "a", [("value", "too_short", "needs at least 2 characters, has 1")]),
    (Short, "abcde", [("value", "too_long", "may have at most 4 characters, has 5")]),
    (Code, "AB12", [("value", "pattern", r"[A-Z]{2}\d")]),
    (Code, "AB1\n", [("value", "pattern", r"[A-Z]{2}\d")]),
    (int, "1", [("value", "wrong_type", "expected a whole number, got str")]),
    (int, 1.0, [("value", "wrong_type", "got float")]),
    (int, True, [("value", "wrong_type", "got bool")]),
    (int, 2**63, [("value", "too_large", "must be at most")]),
    (int, -(2**63) - 1, [("value", "too_small", "must be at least")]),
    (Small, 6, [("value", "too_large", "must be at most 5, is 6")]),
    (Small, -6, [("value", "too_small", "must be at least -5, is -6")]),
    (Even, 3, [("value", "invalid", "must be even")]),
    (Even, 11, [("value", "too_large", "must be at most 10")]),
    (float, "0.5", [("value", "wrong_type", "expected a number, got str")]),
    (float, float("nan"), [("value", "not_finite", "finite")]),
    (float, float("-inf"), [("value", "not_finite", "finite")]),
    (float, False, [("value", "wrong_type", "got bool")]),
    (Ratio, 1.1, [("value", "too_large", "must be at most 1, is 1.1")]),
    (Ratio, -1, [("value", "too_small", "must be at least 0")]),
    (bytes, "ab", [("value", "wrong_type", "expected bytes, got str")]),
    (bytes, bytearray(b"ab"), [("value", "wrong_type", "got bytearray")]),
    (Digest, b"a", [("value", "too_short", "needs at least 2 bytes, has 1")]),
    (Digest, b"abcde", [("value", "too_long", "at most 4 bytes")]),
    (bool, 1, [("value", "wrong_type", "expected true or false, got int")]),
    (Colour, "red", [("value", "not_in_enum", "expected one of red, blue")]),
    (Colour, Level.LOW, [("value", "not_in_enum", "red, blue")]),
    (datetime, datetime(2024, 1, 1), [("value", "naive_datetime", "has no time zone")]),  # noqa: DTZ001
    (datetime, date(2024, 1, 1), [("value", "wrong_type", "expected a datetime, got date")]),
    (date, MOMENT, [("value", "wrong_type", "expected a date, got datetime")]),
    (timedelta, 5, [("value", "wrong_type", "expected a timedelta, got int")]),
    (Decimal, 0.1, [("value", "wrong_type", "expected a Decimal, got float")]),
    (Decimal, Decimal("NaN"), [("value", "not_finite", "finite")]),
    (Decimal, Decimal("Infinity"), [("value", "not_finite", "finite")]),
    (UUID, str(UUID_1), [("value", "wrong_type", "expected a UUID, got str")]),
    (tuple[int, ...], 5, [("value", "wrong_type", "expected a tuple, got int")]),
    (tuple[int, ...], "12", [("value", "wrong_type", "expected a tuple, got str")]),
    (frozenset[int], (1,), [("value", "wrong_type", "expected a frozenset, got tuple")]),
    (tuple[Small, Short], (1,), [("value", "wrong_type", "expected a tuple of 2")]),
    (
        tuple[Small, ...],
        (1, 6, "x"),
        [("value[1]", "too_large", "at most 5"), ("value[2]", "wrong_type", "a whole number, got str")],
    ),
    (Point, {"x": 1}, [("value", "wrong_type", "expected a Point, got dict")]),
    (
        Point,
        Point(6, "a"),
        [("value.x", "too_large", "at most 5"), ("value.label", "too_short", "at least 2")],
    ),
    (
        Line,
        Line((Point(0), Point(9, "a")), "red"),  # type: ignore[arg-type]
        [
            ("value.ends[1].x", "too_large", "at most 5"),
            ("value.ends[1].label", "too_short", "at least 2"),
            ("value.colour", "not_in_enum", "red, blue"),
        ],
    ),
    (str, "\ud800", [("value", "", "")]),
    (datetime, datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), [("value", "", "")]),
]


@pytest.mark.parametrize(("annotation", "given", "problems"), REFUSED)
def test_refused(annotation: Any, given: Any, problems: list[tuple[str, str, str]]) -> None:
    app, make, things = design_of(annotation)
    with app.open() as k:
        with pytest.raises(InvalidValue) as caught:
            k.handle(make(given), TESTER)
        found = caught.value.problems
        assert [problem.path for problem in found] == [path for path, _, _ in problems]
        for problem, (_, code, part) in zip(found, problems, strict=True):
            assert not code or problem.code == code
            assert part in problem.message
            assert problem.message in str(caught.value)
        with k.read(TESTER) as r:
            assert r.count(things) == 0


@pytest.mark.parametrize("given", [case[1] for case in REFUSED if case[0] is Small])
def test_what_an_event_returns_is_checked_as_well(given: Any) -> None:
    app = App("values")

    class Thing(Model):
        value: Small

    things = app.machine(Thing)
    (there,) = things.states("there")
    permit_everything(app)

    @things.create(into=there)
    def make(a: Args) -> Thing:
        return Thing(value=given)

    with app.open() as k, pytest.raises(InvalidValue, match="Thing: value: must be at"):
        k.handle(make(), TESTER)


def test_all_problems_of_all_parameters_at_once() -> None:
    app = App("values")

    class Thing(Model):
        value: int

    things = app.machine(Thing)
    (there,) = things.states("there")
    permit_everything(app)

    @things.create(into=there)
    def make(a: Args, name: Short, size: Small, when: datetime, other: Ref[Thing]) -> Thing:
        return Thing(value=1)

    with app.open() as k:
        with pytest.raises(InvalidValue) as caught:
            k.handle(make("a", 6, datetime(2024, 1, 1), 99), TESTER)  # noqa: DTZ001
        assert [problem.path for problem in caught.value.problems] == ["name", "size", "when", "other"]
        assert caught.value.status == 400
        assert isinstance(caught.value, ValueError)
        assert "4 problems" in str(caught.value)


@pytest.mark.parametrize(
    "zone", [EARLIER, ZoneInfo("Europe/Prague"), ZoneInfo("UTC"), timezone(timedelta(minutes=-1))]
)
def test_times_are_kept_in_utc(zone: Any) -> None:
    app, make, _ = design_of(datetime)
    local = datetime(2024, 7, 1, 12, 30, 15, 123456, tzinfo=zone)
    with app.open() as k:
        value = k.handle(make(local), TESTER).model.value
    assert value == local
    assert value.tzinfo is UTC


@pytest.mark.parametrize("value_class", [Short, Code, Small, Even, Ratio, Digest])
def test_a_value_type_is_its_plain_builtin(value_class: Any) -> None:
    example = {Short: "abc", Code: "AB1", Small: 3, Even: 4, Ratio: 0.5, Digest: b"abc"}[value_class]
    assert type(value_class(example)) is type(example)
    assert value_class(example) == example


@pytest.mark.parametrize(
    ("value_class", "given", "message"),
    [
        (Short, "a", "Short: needs at least 2 characters, has 1"),
        (Short, 5, "Short: expected a text, got int"),
        (Code, "x", "Code: does not have the form"),
        (Small, 6, "Small: must be at most 5, is 6"),
        (Small, True, "Small: expected a whole number, got bool"),
        (Small, "5", "Small: expected a whole number, got str"),
        (Even, 5, "Even: must be even"),
        (Ratio, 2, "Ratio: must be at most 1"),
        (Ratio, float("nan"), "Ratio: must be a finite number"),
        (Digest, "ab", "Digest: expected bytes, got str"),
    ],
)
def test_a_value_type_refuses_in_its_constructor(value_class: Any, given: Any, message: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        value_class(given)
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, ValueError)


def test_a_value_type_inherits_its_bounds() -> None:
    assert Shortest("ab") == "ab"
    with pytest.raises(InvalidValue, match="at most 2"):
        Shortest("abc")
    with pytest.raises(InvalidValue, match="at least 2"):
        Shortest("a")


def test_an_own_validator_that_breaks_is_named() -> None:
    class Broken(klerk.Int):
        @classmethod
        def validate(cls, value: Any) -> None:
            raise KeyError("table")

    app, make, _ = design_of(Broken)
    with app.open() as k:
        with pytest.raises(klerk.FunctionFailed, match=r"validate.*test_values\.py.*KeyError") as caught:
            k.handle(make(1), TESTER)
        assert isinstance(caught.value.__cause__, KeyError)


def test_collections_are_bounded() -> None:
    app, make, _ = design_of(tuple[int, ...])
    with app.open() as k:
        assert len(k.handle(make((0,) * 100_000), TESTER).model.value) == 100_000
        with pytest.raises(InvalidValue, match="may have at most 100000 elements, has 100001"):
            k.handle(make((0,) * 100_001), TESTER)


def test_a_record_is_bounded() -> None:
    app, make, things = design_of(tuple[bytes, ...])
    with app.open() as k:
        with pytest.raises(klerk.LimitExceeded, match="more than 4194304"):
            k.handle(make((b"x" * 1_000_000,) * 5), TESTER)
        with k.read(TESTER) as r:
            assert r.count(things) == 0


def test_a_subclass_of_a_plain_type_is_kept_plain() -> None:
    class Loud(str):
        __slots__ = ()

        def __repr__(self) -> str:
            return "LOUD"

    class Late(datetime):
        pass

    app, make, _ = design_of(str)
    with app.open() as k:
        assert type(k.handle(make(Loud("x")), TESTER).model.value) is str
    app, make, _ = design_of(datetime)
    with app.open() as k:
        assert type(k.handle(make(Late(2024, 1, 1, tzinfo=UTC)), TESTER).model.value) is datetime


def test_masked_is_one_false_value_that_shows_nothing() -> None:
    assert repr(klerk.MASKED) == "<masked>"
    assert not klerk.MASKED
    assert type(klerk.MASKED)() is klerk.MASKED

"""JSON and forms become commands whose values are what a caller in Python would have given, or every problem.

Each conversion goes on into a model and is compared with what is read back. What is refused is compared as a
whole: code and path of every problem, so that one too many or too few fails. Nothing that comes from outside,
however hostile, raises anything but `InvalidValue` or `LimitExceeded`.
"""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import msgspec
import pytest
from designs import TESTER, permit_everything
from hypothesis import given
from hypothesis import strategies as st

import klerk
from klerk import App, Args, ArgumentError, InvalidValue, LimitExceeded, Model, Ref, limits

MOMENT = datetime(2024, 2, 29, 12, 30, tzinfo=UTC)
IDENTITY = UUID("12345678-1234-5678-1234-567812345678")


class Line(klerk.Text, min=1, max=20, lines=1): ...


class Verse(klerk.Text, max=40, lines=3): ...


class Even(klerk.Int, ge=0, le=10):
    @classmethod
    def validate(cls, value: Any) -> None:
        if value % 2:
            raise ValueError("must be even")


class Ratio(klerk.Float, ge=0, le=1): ...


FOUR, HALF = Even(4), Ratio(0.5)


class Colour(klerk.Enum):
    RED = "red"
    BLUE = "blue"


class Level(klerk.Enum):
    LOW = 1
    HIGH = 2


class Address(msgspec.Struct, frozen=True):
    street: Line
    lines: tuple[Line, ...] = ()
    level: Level = Level.LOW


class Interval(msgspec.Struct, frozen=True):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("must not end before it begins")


class Everything(Model):
    text: str
    verse: Verse
    number: Even
    ratio: Ratio
    flag: bool
    data: bytes
    day: date
    at: datetime
    long: timedelta
    price: Decimal
    identity: UUID
    colour: Colour
    level: Level
    address: Address
    pair: tuple[int, Line]
    tags: frozenset[Line]
    others: tuple[Ref["Everything"], ...]
    note: Line | None
    home: Address | None


app = App("conversion")
everything = app.machine(Everything)
(there,) = everything.states("there")
permit_everything(app)


@everything.create(into=there)
def make(
    a: Args,
    text: str,
    verse: Verse,
    number: Even,
    ratio: Ratio,
    flag: bool,
    data: bytes,
    day: date,
    at: datetime,
    long: timedelta,
    price: Decimal,
    identity: UUID,
    colour: Colour,
    level: Level,
    address: Address,
    pair: tuple[int, Line],
    tags: frozenset[Line],
    others: tuple[Ref[Everything], ...],
    note: Line | None,
    home: Address | None = None,
) -> Everything:
    return Everything(**a.parameters)


@everything.event(there)
def count(a: Args[Everything], number: Even = FOUR, *, flag: bool = True) -> Everything:
    return a.model.replace(number=number, flag=flag)


@everything.event(there)
def span(a: Args[Everything], interval: Interval, others: frozenset[Interval] = frozenset()) -> None: ...


@everything.event(there)
def mark(
    a: Args[Everything],
    flag: bool,
    levels: tuple[Level, ...],
    number: Even | None,
    other: Ref[Everything] | None = None,
    loud: bool = True,
    ratio: Ratio = HALF,
) -> None: ...


app.freeze()

AS_JSON: dict[str, Any] = {
    "text": "räksmörgås\r\n",
    "verse": "a\nb\u2028c",
    "number": 4,
    "ratio": 1,
    "flag": False,
    "data": "aGk=",
    "day": "2024-02-29",
    "at": "2024-02-29T13:30:00+01:00",
    "long": "P1DT2H",
    "price": "1.10",
    "identity": str(IDENTITY),
    "colour": "blue",
    "level": 2,
    "address": {"street": "Main", "lines": ["a", "b"], "level": 2},
    "pair": [7, "x"],
    "tags": ["p", "q", "p"],
    "others": [],
    "note": None,
}
EXPECTED: dict[str, Any] = {
    "text": "räksmörgås\r\n",
    "verse": "a\nb\u2028c",
    "number": 4,
    "ratio": 1.0,
    "flag": False,
    "data": b"hi",
    "day": date(2024, 2, 29),
    "at": MOMENT,
    "long": timedelta(days=1, hours=2),
    "price": Decimal("1.10"),
    "identity": IDENTITY,
    "colour": Colour.BLUE,
    "level": Level.HIGH,
    "address": Address("Main", ("a", "b"), Level.HIGH),
    "pair": (7, "x"),
    "tags": frozenset({"p", "q"}),
    "others": (),
    "note": None,
    "home": None,
}
AS_FORM = (
    "text=r%C3%A4ksm%C3%B6rg%C3%A5s%0D%0A&verse=a%0D%0Ab&number=+4+&ratio=0.5&data=aGk%3D&day=2024-02-29"
    "&at=2024-02-29T13:30:00%2B01:00&long=P1DT2H&price=1.10&identity=12345678-1234-5678-1234-567812345678"
    "&colour=blue&level=2&address.street=Main&address.lines[0]=a&address.lines[1]=b&address.level=2"
    "&pair=7&pair=x&tags=p&tags=q&note=&home.street=There"
)


def problems_of(error: InvalidValue) -> set[tuple[str, str]]:
    found = [(each.code, each.path) for each in error.problems]
    assert len(found) == len(set(found)), found
    return set(found)


def refused(command: Any) -> set[tuple[str, str]]:
    with pytest.raises(InvalidValue) as caught:
        command()
    assert caught.value.status == 400
    return problems_of(caught.value)


@pytest.mark.parametrize("form", ["text", "bytes", "decoded", "read-only"])
def test_json_of_every_type_becomes_a_model(form: str) -> None:
    text = json.dumps(AS_JSON)
    data: Any = {
        "text": text,
        "bytes": text.encode(),
        "decoded": AS_JSON,
        "read-only": MappingProxyType(AS_JSON),
    }[form]
    with app.open() as k:
        model = k.handle(make.from_json(data), TESTER).model
        assert model.as_dict() == EXPECTED
        assert {name: type(value) for name, value in model.as_dict().items()} == {
            name: type(value) for name, value in EXPECTED.items()
        }


def test_values_that_have_their_type_already_are_taken_as_they_are() -> None:
    """A framework may have decoded dates and the like before."""
    command = make.from_json(EXPECTED)
    assert command.parameters == EXPECTED
    # What a struct holds is checked all the same.
    bad = {**EXPECTED, "address": Address("", ("", "a"), Level.LOW), "flag": 1, "number": True}
    assert refused(lambda: make.from_json(bad)) == {
        ("too_short", "address.street"),
        ("too_short", "address.lines[0]"),
        ("wrong_type", "flag"),
        ("wrong_type", "number"),
    }


def test_a_form_of_every_type_becomes_a_model() -> None:
    inputs = parse_qs(AS_FORM, keep_blank_values=True)
    with app.open() as k:
        model = k.handle(make.from_form(inputs), TESTER).model
        # Line breaks are those that were typed; the box that was not ticked is false.
        assert model.as_dict() == {
            **EXPECTED,
            "text": "räksmörgås\n",
            "verse": "a\nb",
            "ratio": 0.5,
            "flag": False,
            "home": Address("There"),
        }


def test_all_problems_of_json_at_once_each_at_its_path() -> None:
    wrong = {
        "text": 1,
        "verse": "a\nb\rc\r\nd",
        "number": 3,
        "ratio": 2,
        "flag": "true",
        "data": "?",
        "day": "tomorrow",
        "at": "2024-02-29T13:30:00",
        "long": "2 days",
        "price": "NaN",
        "identity": "1234",
        "colour": "green",
        "level": True,
        "address": {"lines": ["a", "", "c\n", 4], "level": 3, "city": "x"},
        "pair": [1],
        "tags": {"a": 1},
        "others": [1, "2"],
        "note": "",
        "extra": 1,
        "home": None,
    }
    assert refused(lambda: make.from_json(json.dumps(wrong))) == {
        ("wrong_type", "text"),
        ("too_many_lines", "verse"),
        ("invalid", "number"),
        ("too_large", "ratio"),
        ("wrong_type", "flag"),
        ("wrong_format", "data"),
        ("wrong_format", "day"),
        ("naive_datetime", "at"),
        ("wrong_format", "long"),
        ("not_finite", "price"),
        ("wrong_format", "identity"),
        ("not_in_enum", "colour"),
        ("not_in_enum", "level"),
        ("missing", "address.street"),
        ("too_short", "address.lines[1]"),
        ("too_many_lines", "address.lines[2]"),
        ("wrong_type", "address.lines[3]"),
        ("not_in_enum", "address.level"),
        ("unknown_field", "address.city"),
        ("wrong_type", "pair"),
        ("wrong_type", "tags"),
        ("wrong_type", "others[1]"),
        ("too_short", "note"),
        ("unknown_field", "extra"),
    }


def test_what_is_missing_is_named_and_defaults_apply() -> None:
    names = set(AS_JSON)
    assert refused(lambda: make.from_json({})) == {("missing", name) for name in names}
    assert refused(lambda: make.from_json("null")) == {("wrong_type", "")}
    assert refused(lambda: make.from_json({**AS_JSON, "text": None})) == {("missing", "text")}
    assert count.from_json({}, Ref(1)).parameters == {"number": 4, "flag": True}
    assert count.from_json({"flag": False}, Ref(1)).parameters == {"number": 4, "flag": False}
    assert count.from_form({"number": ""}, Ref(1)).parameters == {"number": 4, "flag": True}
    assert count.from_json({}, Ref(7)).target == 7


def test_all_problems_of_a_form_at_once_each_at_its_path() -> None:
    inputs = {
        "text": ["a", "b"],
        "verse": "a\r\nb\r\nc\r\nd",
        "number": "1_0",
        "ratio": "x",
        "flag": "maybe",
        "data": "?",
        "day": "",
        "at": "2024-02-29",
        "long": "2",
        "price": "1,10",
        "identity": "",
        "colour": "RED",
        "level": "LOW",
        "address.lines[1]": "",
        "address.lines[4]": "\n",
        "address.city": "x",
        "pair[0]": "1",
        "pair[2]": "x",
        "tags.a": "1",
        "others": ["1", "x", ""],
        "note": "a\nb",
        "home": "here",
        "a..b": "1",
        "[0]": "1",
        "number.x[": "1",
    }
    assert refused(lambda: make.from_form(inputs)) == {
        ("wrong_type", "text"),
        ("too_many_lines", "verse"),
        ("wrong_format", "number"),
        ("wrong_format", "ratio"),
        ("wrong_type", "flag"),
        ("wrong_format", "data"),
        ("missing", "day"),
        ("naive_datetime", "at"),
        ("wrong_format", "long"),
        ("wrong_format", "price"),
        ("missing", "identity"),
        ("not_in_enum", "colour"),
        ("not_in_enum", "level"),
        ("missing", "address.street"),
        ("too_short", "address.lines[1]"),
        ("too_many_lines", "address.lines[4]"),
        ("unknown_field", "address.city"),
        ("wrong_type", "pair"),
        ("wrong_type", "tags"),
        ("wrong_format", "others[1]"),
        ("wrong_format", "others[2]"),
        ("too_many_lines", "note"),
        ("wrong_type", "home"),
        ("unknown_field", "a..b"),
        ("unknown_field", "0"),
        ("unknown_field", "number.x["),
    }


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, {"flag": False, "levels": (), "number": None, "other": None, "loud": True, "ratio": 0.5}),
        ({"flag": "on", "number": "", "other": ""}, {"flag": True, "number": None, "other": None}),
        ({"flag": " TRUE "}, {"flag": True}),
        ({"flag": "0", "levels": "2"}, {"flag": False, "levels": (Level.HIGH,)}),
        ({"flag": ["off", "on"]}, {"flag": True}),
        ({"flag": "", "loud": "", "ratio": "", "levels": ""}, {"flag": False, "loud": True, "ratio": 0.5}),
        ({"loud": "no", "other": "12", "ratio": "1e-1"}, {"loud": False, "other": 12, "ratio": 0.1}),
        ({"levels": ["1", "2", "1"]}, {"levels": (Level.LOW, Level.HIGH, Level.LOW)}),
        ({"levels[10]": "1", "levels[9]": "2"}, {"levels": (Level.HIGH, Level.LOW)}),
        ({"number": ["2"]}, {"number": 2}),
    ],
)
def test_what_forms_leave_out_and_how_they_write_it(
    inputs: Mapping[str, Any], expected: dict[str, Any]
) -> None:
    assert expected.items() <= mark.from_form(inputs, Ref(1)).parameters.items()


def test_a_moment_without_a_zone_is_in_the_zone_of_the_form() -> None:
    inputs = {**parse_qs(AS_FORM), "at": "2024-02-29T13:30", "note": "n"}
    command = make.from_form(inputs, time_zone=timezone(timedelta(hours=1)))
    assert command.parameters["at"] == MOMENT
    zoned = {**inputs, "at": "2024-02-29T13:30Z"}
    assert make.from_form(zoned, time_zone=timezone(timedelta(hours=1))).parameters["at"].hour == 13


def test_decimals_of_json_numbers_are_what_was_written() -> None:
    for written, expected in ((b"1.1", "1.1"), (b"3", "3"), (b"0.30000000000000004", "0.30000000000000004")):
        data = json.dumps({**AS_JSON, "price": 0}).encode().replace(b'"price": 0', b'"price": ' + written)
        assert make.from_json(data).parameters["price"] == Decimal(expected)


def test_every_form_of_a_value_is_said_by_an_example() -> None:
    wrong = dict.fromkeys(("data", "day", "at", "long", "price", "identity"), "x")
    expected = {
        "data": "is not in base64",
        "day": "is not a date such as 2024-02-29",
        "at": "is not a moment such as 2024-02-29T12:00:00Z",
        "long": "is not a duration such as P1DT2H30M",
        "price": "is not a decimal number",
        "identity": "is not a UUID",
    }
    with pytest.raises(InvalidValue) as caught:
        make.from_json({**AS_JSON, **wrong})
    assert {each.path: each.message for each in caught.value.problems} == expected
    inputs = {
        **parse_qs(AS_FORM, keep_blank_values=True),
        **wrong,
        "number": "x",
        "ratio": "x",
        "pair": ["x", "y"],
    }
    with pytest.raises(InvalidValue) as caught:
        make.from_form(inputs)
    assert {each.path: each.message for each in caught.value.problems} == {
        **expected,
        "number": "is not a whole number",
        "ratio": "is not a number",
        "pair[0]": "is not a whole number",
    }


def test_a_struct_may_refuse_its_parts() -> None:
    data = {"interval": {"low": 2, "high": 1}, "others": [{"low": 1, "high": 1}, {"low": 4, "high": 3}]}
    assert refused(lambda: span.from_json(data, Ref(1))) == {
        ("invalid", "interval"),
        ("invalid", "others[1]"),
    }
    fine = span.from_json({"interval": {"low": 1, "high": 2}}, Ref(1))
    assert fine.parameters == {"interval": Interval(1, 2), "others": frozenset()}


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        b"\xff\xfe",
        "\ud800",
        "[" * 100_000,
        '{"text": NaN}',
        '{"text": 1e999}',
        '{"text": ' + "9" * 10_000 + "}",
    ],
    ids=range(8),
)
def test_what_is_no_json_is_refused(data: Any) -> None:
    assert refused(lambda: make.from_json(data)) == {("not_json", "")}


@pytest.mark.parametrize("data", [None, 1, [], "[]", '"text"', object()])
def test_what_is_no_object_is_refused(data: Any) -> None:
    assert refused(lambda: make.from_json(data)) == {("wrong_type", "")}


def test_numbers_of_any_size_are_refused_and_not_written_out() -> None:
    for name in ("number", "ratio"):
        for value in (10**400, -(10**400), 10**5000):
            found = refused(lambda name=name, value=value: make.from_json({**AS_JSON, name: value}))
            assert found == {("too_large" if value > 0 else "too_small", name)}
    huge = {**AS_JSON, "others": [10**30]}
    with app.open() as k, pytest.raises(klerk.BrokenReference):
        k.handle(make.from_json(huge), TESTER)


def test_input_is_bounded() -> None:
    with pytest.raises(LimitExceeded):
        make.from_json(b" " * (limits.JSON_BYTES_MAX + 1))
    unknown = {f"x{i}": 1 for i in range(10 * limits.PROBLEMS_MAX)}
    with pytest.raises(InvalidValue) as caught:
        make.from_json({**AS_JSON, **unknown})
    assert len(caught.value.problems) == limits.PROBLEMS_MAX
    many = {**AS_JSON, "others": [1] * (limits.COLLECTION_LENGTH_MAX + 1)}
    assert refused(lambda: make.from_json(many)) == {("too_long", "others")}
    deep = {"address" + ".x" * 10_000: "1", "address" + "[1]" * 10_000: "1"}
    inputs = {**parse_qs(AS_FORM, keep_blank_values=True), **deep}
    assert refused(lambda: make.from_form(inputs)) == {("unknown_field", name) for name in deep}


def test_the_target_belongs_to_events_on_models_alone() -> None:
    with pytest.raises(ArgumentError, match="needs its target"):
        count.from_json({})
    with pytest.raises(ArgumentError, match="no target"):
        make.from_form({}, Ref(1))
    with pytest.raises(ArgumentError, match="mapping"):
        make.from_form("text=a")  # type: ignore[arg-type]


def test_lines_are_counted_as_unicode_breaks_them() -> None:
    assert Verse("a\r\nb\nc") == "a\r\nb\nc"
    for breaks in ("\n", "\r", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029"):
        with pytest.raises(InvalidValue) as caught:
            Line(f"a{breaks}")
        (problem,) = caught.value.problems
        assert (problem.code, dict(problem.values)) == ("too_many_lines", {"max": 1, "lines": 2})
    # Separators of records and of table cells break no line.
    assert Line("a\x1cb\x1d\t") == "a\x1cb\x1d\t"
    with pytest.raises(InvalidValue, match="at most 3 lines, has 4"):
        Verse("a\n\n\n")


def test_a_number_that_no_float_can_be_is_refused_by_its_type() -> None:
    with pytest.raises(InvalidValue) as caught:
        Ratio(10**400)
    assert problems_of(caught.value) == {("too_large", "")}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(list(EXPECTED)), inner),
    max_leaves=20,
)


@given(st.fixed_dictionaries(dict.fromkeys(AS_JSON, _JSON)))
def test_nothing_but_a_refusal_comes_of_any_json(data: dict[str, Any]) -> None:
    # An object where there is to be a decimal number, say: whatever is drawn, something does not fit.
    with pytest.raises(InvalidValue) as caught:
        make.from_json({**data, "price": {}})
    assert {each.path.partition(".")[0].partition("[")[0] for each in caught.value.problems} <= set(EXPECTED)


@given(
    st.dictionaries(
        st.sampled_from(list(AS_JSON)) | st.text(max_size=12) | st.from_regex(r"[a-z.\[\]0-9]{1,9}"),
        st.text(max_size=8) | st.lists(st.text(max_size=4) | st.none() | st.binary(max_size=2), max_size=3),
    )
)
def test_nothing_but_a_refusal_comes_of_any_form(inputs: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        make.from_form(inputs)

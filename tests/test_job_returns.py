"""What a job returns is kept only if it is what its function says: otherwise the attempt has failed, with an
error that says what was declared and what came. So `k.jobs.result` gives a value of that type, or none.

The jobs are declared here and not in tests, because some of them run in processes, which import them.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest

import klerk
from klerk import App, JobRun, JobState, Model, NoResult, Ref, Snooze
from klerk.job_outcomes import Completion

HOUR = timedelta(hours=1)
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Email(klerk.Text, max=20, pattern=r"[^@]+@.+"): ...


class Price(msgspec.Struct, frozen=True):
    cents: int
    to: Email


class Item(Model):
    number: int


@dataclass(frozen=True)
class Point:
    x: int


class Colour(klerk.Enum):
    RED = "red"


app = App("returns")
items = app.machine(Item)
(there,) = items.states("there", final=("there",))


@items.create(into=there)
def add(a: klerk.Args, number: int) -> Item:
    return Item(number=number)


GIVEN: list[Any] = [None]
CALLS: list[int] = []


def declared(annotation: Any) -> Any:
    """Declare a job that says it returns something, and returns what is given."""

    def give(job: JobRun) -> Any:
        CALLS.append(job.attempt)
        return GIVEN[0]

    give.__name__ = f"give_{len(app.jobs)}"
    give.__annotations__["return"] = annotation
    return app.job(keep_result=HOUR, max_attempts=1)(give)


ANNOTATIONS: tuple[Any, ...] = (
    int,
    str,
    None,
    float,
    list[int],
    "dict[str, int]",
    tuple[int, ...],
    Email,
    Price,
    Point,
    Colour,
    datetime,
    "int | None",
    "Email | Snooze",
    Snooze,
    Mapping[str, list[Price]],
    Ref[Item],
    Item,
    Literal["a", "b"],
    Any,
    object,
    "Nowhere",
)
GIVE = {str(annotation): declared(annotation) for annotation in ANNOTATIONS}


@app.job(keep_result=HOUR, executor="process", max_attempts=1)
def price(job: JobRun, cents: str) -> Price:
    return Price(int(cents) if cents.isdigit() else cents, Email("a@b"))  # type: ignore[arg-type]


@app.job(keep_result=HOUR, executor="process", max_attempts=1)
def nothing(job: JobRun) -> Price:
    return None  # type: ignore[return-value]


@app.job(keep_result=HOUR, max_attempts=1)
async def soon(job: JobRun) -> int:
    return GIVEN[0]


@app.job(max_attempts=1)
def forget(job: JobRun) -> int:
    return "not kept, so nobody asks"  # type: ignore[return-value]


@app.job(keep_result=HOUR)
def finish(job: JobRun) -> Completion:
    return job.complete_with(add(7))


@app.job(keep_result=HOUR)
def finish_badly_annotated(job: JobRun) -> int:
    return job.complete_with(add(8))  # type: ignore[return-value]


@app.job(keep_result=HOUR, max_attempts=2, retry=lambda attempt, error: timedelta(0))
def later(job: JobRun) -> int:
    return 5 if job.attempt > 1 else "five"  # type: ignore[return-value]


@pytest.fixture(scope="module")
def k() -> Iterator[klerk.Klerk]:
    with app.open() as opened:
        yield opened


def run(k: klerk.Klerk, request: Any) -> int:
    (job,) = k.jobs.schedule(request)
    assert k.jobs.wait_until_idle(20)
    return job.id


def returned(k: klerk.Klerk, annotation: Any, value: Any) -> int:
    GIVEN[0] = value
    return run(k, GIVE[str(annotation)]())


@pytest.mark.parametrize(
    ("annotation", "value", "kept"),
    [
        (int, 5, 5),
        (str, "x", "x"),
        (None, None, None),
        (float, 1, 1.0),
        (list[int], (1, 2), [1, 2]),
        ("dict[str, int]", {"a": 1}, {"a": 1}),
        (tuple[int, ...], [1, 2], (1, 2)),
        (Email, Email("a@b"), "a@b"),
        (Price, Price(5, Email("a@b")), Price(5, Email("a@b"))),
        (Point, Point(1), Point(1)),
        (Colour, Colour.RED, Colour.RED),
        (datetime, NOON, NOON),
        ("int | None", None, None),
        ("int | None", 5, 5),
        ("Email | Snooze", "a@b", "a@b"),
        (Mapping[str, list[Price]], {"x": [Price(1, Email("a@b"))]}, {"x": [Price(1, Email("a@b"))]}),
        (Ref[Item], 5, 5),
        (Literal["a", "b"], "b", "b"),
        (Any, [1, "x"], [1, "x"]),
        (object, {"a": None}, {"a": None}),
        (object, None, None),
        ("Nowhere", "whatever", "whatever"),
    ],
)
def test_what_the_function_says_is_kept(k: klerk.Klerk, annotation: Any, value: Any, kept: Any) -> None:
    assert k.jobs.result(returned(k, annotation, value)) == kept


@pytest.mark.parametrize(
    ("annotation", "value", "told"),
    [
        (int, "5", "int, and returned str: Expected `int`, got `str`"),
        (int, None, "int, and returned None"),
        (int, True, "int, and returned bool"),
        (int, 1.5, "int, and returned float"),
        (str, 5, "str, and returned int"),
        (str, NOON, "str, and returned datetime"),
        (str, UUID(int=5), "str, and returned UUID"),
        (str, Decimal(5), "str, and returned Decimal"),
        (None, 5, "None, and returned int"),
        (list[int], ["x"], "list[int], and returned list: Expected `int`, got `str` - at `$[0]`"),
        ("dict[str, int]", {"a": "x"}, "dict[str, int], and returned dict: Expected `int`, got `str`"),
        (tuple[int, ...], 5, "tuple[int, ...], and returned int"),
        (Email, "nobody", "Email, and returned str: does not have the form"),
        (Email, "a@" + "b" * 20, "Email, and returned str: may have at most 20 characters, has 22"),
        (Price, Price("x", Email("a@b")), "Price, and returned Price: Expected `int`, got `str`"),  # type: ignore[arg-type]
        (Price, Price(5, "ab"), "Price, and returned Price: to: does not have the form"),  # type: ignore[arg-type]
        (Price, Point(1), "Price, and returned Point: Object missing required field `cents`"),
        (Point, None, "Point, and returned None"),
        (Colour, "blue", "Colour, and returned str: Invalid enum value 'blue'"),
        (datetime, NOON.replace(tzinfo=None), "datetime, and returned datetime: has no time zone"),
        ("int | None", "x", "int | None, and returned str"),
        ("Email | Snooze", None, "Email | Snooze, and returned None"),
        (Snooze, 5, "Snooze, and returned int"),
        (Mapping[str, list[Price]], {"x": [5]}, "Mapping[str, list[Price]], and returned dict"),
        (Ref[Item], "5", "Ref[Item], and returned str"),
        (Literal["a", "b"], "c", "Literal[a, b], and returned str: Invalid enum value 'c'"),
    ],
)
def test_anything_else_makes_the_attempt_fail(k: klerk.Klerk, annotation: Any, value: Any, told: str) -> None:
    id = returned(k, annotation, value)
    job = k.jobs.get(id)
    assert job.state is JobState.DISCARDED
    assert f"job '{job.kind}' is declared to return {told}" in job.error
    assert "after '->'" in job.error
    assert job.result == b""
    with pytest.raises(NoResult):
        k.jobs.result(id)


def test_a_value_from_the_loop_is_checked(k: klerk.Klerk) -> None:
    GIVEN[0] = "x"
    assert "declared to return int, and returned str" in k.jobs.get(run(k, soon())).error
    GIVEN[0] = 5
    assert k.jobs.result(run(k, soon())) == 5


def test_a_failed_attempt_is_followed_by_the_next(k: klerk.Klerk) -> None:
    id = run(k, later())
    assert (k.jobs.result(id), k.jobs.get(id).attempt) == (5, 2)


def test_what_is_not_kept_may_be_anything(k: klerk.Klerk) -> None:
    assert k.jobs.get(run(k, forget())).state is JobState.COMPLETED


def test_a_job_that_ends_with_commands_returns_none(k: klerk.Klerk) -> None:
    for request in (finish(), finish_badly_annotated()):
        assert k.jobs.result(run(k, request)) is None


def test_a_value_from_a_process_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where processes find this module; last, so that klerk stays the one that is tested.
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).resolve().parent.parent)])
    with app.open(job_processes=1) as k:
        right, wrong, none = k.jobs.schedule(price("5"), price("five"), nothing())
        assert k.jobs.wait_until_idle(60)
        assert k.jobs.result(right) == Price(5, Email("a@b"))
        assert "declared to return Price, and returned Price: Expected `int`" in k.jobs.get(wrong).error
        assert "declared to return Price, and returned None" in k.jobs.get(none).error


def test_a_result_of_an_earlier_declaration_is_given_as_it_is(tmp_path: Path) -> None:
    def design(annotation: Any) -> tuple[App, Any]:
        new = App("changed")

        def give(job: JobRun) -> Any:
            return "5"

        give.__annotations__["return"] = annotation
        return new, new.job(keep_result=HOUR)(give)

    before, job = design(str)
    with before.open(tmp_path / "s") as k:
        id = run(k, job())
    after, _ = design(int)
    with after.open(tmp_path / "s") as k:
        assert k.jobs.result(id) == "5"

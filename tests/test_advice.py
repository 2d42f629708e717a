"""What `python -m klerk check` advises, all errors that it finds at once, and how visibility is shown.

Each design is a file of its own, and runs through the command line in this process. What is advised never
makes the check fail.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from klerk import Visibility
from klerk.__main__ import main

HEAD = """
import klerk
from datetime import timedelta
from klerk import App, Args, Context, JobRun, Model, Ref, Visibility

class Name(klerk.Text, max=40, tags={"pii"}): ...

class Item(Model):
    name: Name
    size: int = 0

app = App("items")
item = app.machine(Item)
new, old = item.states("new", "old", final=("old",))

@item.create(into=new)
def make(a: Args, name: Name) -> Item: return Item(name=name)

@item.event(new, to=old)
def age(a: Args[Item]) -> None: ...
"""

PERMISSIONS = """
@app.allow.command(make, age)
def anybody(a: Args) -> bool: return True

@app.allow.read(Item)
def readers(a: Args) -> bool: return True

@app.allow.field(Item)
def field_readers(a: Args) -> bool: return True
"""

Check = Callable[..., list[str]]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Check a design that consists of the given parts, and return the warnings."""

    def run(*parts: str) -> list[str]:
        file = tmp_path / "design.py"
        file.write_text("\n".join(parts), encoding="utf-8")
        assert main(["check", str(file)]) == 0
        first, *warnings = capsys.readouterr().out.split("warning: ")
        assert first.startswith("items: no errors in")
        lines = file.read_text("utf-8").splitlines()
        for warning in warnings:
            _, where = warning.strip().split("\n  ")
            place, source = where.split("  ", 1)
            assert lines[int(place.removeprefix("design.py:")) - 1].strip() == source
        return [warning.split("\n")[0] for warning in warnings]

    return run


def test_a_complete_design_needs_no_advice(check: Check) -> None:
    assert check(HEAD, PERMISSIONS) == []


def test_without_permissions_nobody_can_do_anything(check: Check) -> None:
    reading, commanding = check(HEAD)
    assert reading == "nobody may read Item: no allow rule about reading covers it."
    assert commanding.startswith(
        "of the events of Item nobody from outside may cause make, age: no allow rule"
    )
    assert commanding.endswith("If that is meant, say so: visibility=klerk.Visibility.CODE, or less.")


@pytest.mark.parametrize(
    ("rule", "hidden"),
    [("names=('size',)", "name"), ("tag='pii'", "size"), ("names=('size', 'name')", ""), ("Item", "")],
)
def test_fields_that_nobody_may_read(check: Check, rule: str, hidden: str) -> None:
    fields = PERMISSIONS.replace("field(Item)", f"field({rule})")
    told = f"of Item nobody may read {hidden}: no allow rule about fields covers it."
    assert check(HEAD, fields) == ([told] if hidden else [])
    without = PERMISSIONS.partition("@app.allow.field")[0]
    assert check(HEAD, without) == [told.replace(f" {hidden}:" if hidden else " :", " every field:")]


@pytest.mark.parametrize("visibility", ["INTERNAL", "MACHINES", "CODE"])
@pytest.mark.parametrize(
    ("use", "is_used"),
    [
        ("", False),
        ("new.on(age).commands(lambda a: grow(a.model.meta.id))", True),
        ("def grows(a): return [grow(a.model.meta.id)]\nnew.on_exit.commands(grows)", True),
        ("def helper(a): yield grow(1)\ndef grows(a): return helper(a)\nnew.on_exit.commands(grows)", True),
        ("def around():\n  inner = grow\n  make.commands(lambda a: inner(1))\naround()", True),
        ("class events: growing = grow\nmake.commands(lambda a: events.grow(1))", True),
        ("@app.job(cron='0 3 * * *')\ndef nightly(job: JobRun): job.handle(grow(1))", True),
        ("make.commands(lambda a: age(a.model.meta.id))", False),
    ],
)
def test_events_that_nothing_causes(check: Check, visibility: str, use: str, is_used: bool) -> None:
    event = f"""
@item.event(new, visibility=Visibility.{visibility})
def grow(a: Args[Item]) -> None: ...
"""
    told = "nothing in the design causes Item.grow, and nobody else may."
    assert check(HEAD, PERMISSIONS, event, use) == ([] if is_used else [told])


def test_an_event_for_code_may_be_caused_by_whom_a_rule_allows(check: Check) -> None:
    event = """
@item.event(new, visibility=Visibility.CODE)
def grow(a: Args[Item]) -> None: ...
"""
    assert check(HEAD, PERMISSIONS.replace("command(make, age)", "command()"), event) == []


@pytest.mark.parametrize(
    ("more", "is_open"),
    [
        ("", True),
        ("link.valid(other=new)", False),
        ("link.valid(others=new)", True),
        ("@link.rule\ndef apart(a, other) -> bool: return True", False),
        ("@link.rule\ndef free(a) -> bool: return True", True),
        ("@link.validator\ndef odd(other: Ref[Item]) -> bool: return True", False),
    ],
)
@pytest.mark.parametrize("visibility", list(Visibility))
def test_references_to_whatever_model(check: Check, more: str, is_open: bool, visibility: Visibility) -> None:
    event = f"""
@item.event(new, visibility="{visibility}")
def link(a: Args[Item], other: Ref[Item], others: tuple[Ref[Item], ...] = ()) -> None: ...

new.on_enter.commands(lambda a: link(a.model.meta.id, a.model.meta.id))
"""
    names = ["other"] * is_open + ["others"] * ("others" not in more)
    told = [
        f"any Item may be given for '{name}' of Item.link, in whatever state: say which with"
        f" link.valid({name}=...), or let a rule decide."
        for name in names
    ]
    allowed = PERMISSIONS.replace("command(make, age)", "command()")
    assert check(HEAD, allowed, event, more) == (told if visibility is Visibility.EXTERNAL else [])


def test_states_of_a_machine_without_transitions(check: Check) -> None:
    head = HEAD.partition("@item.event")[0]
    told = "no model is ever in the state Item.old: nothing leads there."
    assert check(head, PERMISSIONS.replace("make, age", "make")) == [told]


def test_independent_errors_are_found_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mistakes = """
class Part(Model):
    names: list[str]
part = app.machine(Part)

class Other(Model):
    size: set[int]
other = app.machine(Other)

@item.event(new)
def grow(a: Args[Item], by) -> None: ...

@app.job()
def mail(job: JobRun, to: dict[str, int]) -> None: ...

@app.context_provider
def no_context(actor, now): return None
"""
    file = tmp_path / "wrong.py"
    file.write_text(HEAD + mistakes, encoding="utf-8")
    assert main(["check", str(file)]) == 1
    told = capsys.readouterr()
    assert "warning: " not in told.out
    for error in (
        "K003: Part, field 'names': list[str] can be changed: use tuple[str, ...].",
        "K003: Other, field 'size': set[int] can be changed: use frozenset[int].",
        "K005: the machine of Part has no states.",
        "K007: the parameter 'by' of event Item.grow: it has no annotation.",
        "K007: the parameter 'to' of job mail: dict[str, int] can be changed: use tuple[",
        "K021: jobs and timers have no context to act in: the provider no_context returned NoneType.",
    ):
        assert told.err.count(error) == 1, told.err


@pytest.mark.parametrize(
    ("annotation", "problem", "instead"),
    [
        ("list", "'inner': list can be changed", "tuple[X, ...]."),
        ("bytearray", "'inner': bytearray can be changed", "bytes."),
        ("tuple[list[Name], ...]", "in tuple[list[Name], ...], list[Name]", "tuple[Name, ...]."),
        (
            "dict[str, list[int]]",
            "dict[str, list[int]]",
            "tuple[tuple[str, tuple[int, ...]], ...], or a frozen",
        ),
        ("frozenset[set[int]] | None", "in frozenset[set[int]] | None, set[int]", "frozenset[int]."),
        ("collections.abc.Sequence[int]", "'inner': Sequence[int]", "tuple[int, ...]."),
        ("collections.deque[int]", "'inner': deque[int]", "tuple[int, ...]."),
        ("tuple", "tuple does not say of what it is", "tuple[X, ...]."),
        ("Inner", "field 'inner': field 'items': list[int]", "tuple[int, ...]."),
    ],
)
def test_mutable_types_are_named_with_what_to_write_instead(
    annotation: str, problem: str, instead: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.py"
    more = f"""
import collections.abc, msgspec
class Inner(msgspec.Struct, frozen=True):
    items: list[int]
class Part(Model):
    inner: {annotation}
app.machine(Part)
"""
    file.write_text(HEAD + more, encoding="utf-8")
    assert main(["check", str(file)]) == 1
    told = capsys.readouterr().err
    assert problem in told
    assert f"use {instead}" in told or f"write {instead}" in told


VISIBLE = """
@item.event(new, visibility=Visibility.INTERNAL)
def grow(a: Args[Item], by: int) -> None: ...
@item.create(into=new, visibility=Visibility.MACHINES)
def spawn(a: Args) -> Item: ...
@item.event(new, to=old, visibility=Visibility.CODE)
def import_all(a: Args[Item]) -> None: ...
"""


def test_diagrams_and_descriptions_show_visibility(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "design.py"
    file.write_text(HEAD + VISIBLE + PERMISSIONS, encoding="utf-8")
    assert main(["diagram", str(file)]) == 0
    diagram = capsys.readouterr().out
    for line in (
        "new : «internal» grow(by)",
        "[*] --> new : «machines» spawn",
        "new --> old : «code» import_all",
        "new --> old : age",
        "- `«internal» grow(by)`: grow",
    ):
        assert line in diagram
    assert main(["show", str(file)]) == 0
    described = " ".join(capsys.readouterr().out.split())
    for text in (
        "grow (in new) by int internal caused by blocks of this machine alone spawn",
        "spawn (-> new) machines caused by blocks of machines alone import_all",
        "code caused by code of the application, not offered to the outside allowed only by jobs",
        "age (in new) allowed if anybody",
    ):
        assert text in described


def test_queues_that_nothing_is_in_are_told(check: Check) -> None:
    """One that is only asked for in a request is used; a name that was misspelt is found by the other one, or
    because it is like one that is used."""
    jobs = """
app.queue("letters", rate="5/s")
app.queue("urgent", weight=9)
app.queue("figures")

@app.job(queue="leters")
def write(job: JobRun, item: Ref[Item]) -> None: ...

@app.job(queue="figurs")
def misspelt(job: JobRun, item: Ref[Item]) -> None: ...

@app.job(queue="archive")
def other(job: JobRun, item: Ref[Item]) -> None: ...

@app.job(queue="figures")
def count(job: JobRun, item: Ref[Item]) -> None: ...

new.on_enter.job(write)
new.on_enter.job(misspelt)
new.on_exit.job(other)
new.on_exit.job(lambda a: count(a.model.meta.id).options(queue="urgent"))
"""
    unused, misspelt = check(HEAD, PERMISSIONS, jobs)
    assert unused.endswith("'letters' that is declared; jobs are in: archive, figures, figurs, leters.")
    assert misspelt.startswith("the queue 'figurs' of the job 'misspelt' has no limits")
    assert misspelt.endswith("did you mean 'figures'?")

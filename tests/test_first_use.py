"""What first users of other domains stumbled over, each as they came across it.

The log of an event whose parameters changed is read with the names of then; a model is not taken for its
reference; a final state may be cleared; the advice about a design follows closures.
"""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import python_environment

from klerk import MASKED, App, Args, ArgumentError, ConfigError, Context, Model, Text, User

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ADMIN = Context(User("ada", frozenset({"admin"})))
CLERK = Context(User("cyd"))


class Name(Text, max=80, tags={"pii"}): ...


class Person(Model):
    label: str
    name: Name


def registry(version: int) -> tuple[App, dict[str, Any]]:
    """A registry whose events are declared with other parameters in each version."""
    app = App("registry")
    people = app.machine(Person)
    known, gone = people.states("known", "gone", final=("gone",))
    declared: dict[str, Any] = {}

    if version == 1:

        @people.create(into=known)
        def enter(a: Args, name: Name, label: str) -> Person:
            return Person(label=label, name=name)

    elif version == 2:

        @people.create(into=known)
        def enter(a: Args, label: str, name: Name, note: str = "") -> Person:
            return Person(label=label, name=name)

    else:

        @people.create(into=known)
        def enter(a: Args, note: str, label: str) -> Person:
            return Person(label=label, name=Name(note))

    @people.event(known, to=gone)
    def leave(a: Args[Person]) -> None: ...

    gone.after(timedelta(days=365)).delete()

    @app.allow.command()
    @app.allow.read()
    @app.allow.field()
    @app.allow.log()
    def everybody(a: Args) -> bool:
        return True

    @app.deny.field(tag="pii")
    def names_are_for_admins(a: Args) -> bool:
        return "admin" not in a.context.actor.roles

    declared["enter"] = enter
    return app, declared


def logged(k: Any, context: Context) -> list[dict[str, Any]]:
    entries = k.log(context, newest_first=False).entries
    return [dict(command.parameters) for entry in entries for command in entry.commands]


# --- the log of an event whose parameters changed -----------------------------------------------------


def test_log_names_parameters_as_they_were(tmp_path: Path) -> None:
    store = tmp_path / "store"
    app, events = registry(1)
    with app.open(store) as k:
        k.handle(events["enter"](Name("Ann Lee"), "a"), ADMIN)
    app, events = registry(2)
    with app.open(store) as k:
        k.handle(events["enter"]("b", Name("Bob Lee")), ADMIN)
    before = [{"name": "Ann Lee", "label": "a"}, {"label": "b", "name": "Bob Lee", "note": ""}]
    for _ in range(2):
        with registry(2)[0].open(store) as k:
            assert logged(k, ADMIN) == before
    # Back and forth: each transaction keeps the names that it was made with.
    app, events = registry(1)
    with app.open(store) as k:
        k.handle(events["enter"](Name("Cyd Lee"), "c"), ADMIN)
    with registry(2)[0].open(store) as k:
        assert logged(k, ADMIN) == [*before, {"name": "Cyd Lee", "label": "c"}]


def test_log_masks_parameters_by_the_names_of_then(tmp_path: Path) -> None:
    store = tmp_path / "store"
    app, events = registry(1)
    with app.open(store) as k:
        k.handle(events["enter"](Name("Ann Lee"), "a"), ADMIN)
        assert logged(k, CLERK) == [{"name": MASKED, "label": "a"}]
    # By their places, the name would now be shown as a label.
    with registry(2)[0].open(store) as k:
        assert logged(k, CLERK) == [{"name": MASKED, "label": "a"}]
    # Nobody can say any more who might see a parameter that the event no longer has.
    with registry(3)[0].open(store) as k:
        assert logged(k, CLERK) == logged(k, ADMIN) == [{"name": MASKED, "label": "a"}]


def test_parameters_added_at_the_end_need_nothing(tmp_path: Path) -> None:
    class Note(Model):
        text: str

    def notes(more: bool) -> tuple[App, Any]:
        app = App("notes")
        machine = app.machine(Note)
        (kept,) = machine.states("kept")
        if more:

            @machine.create(into=kept)
            def write(a: Args, text: str, loud: bool = False) -> Note:
                return Note(text=text)

        else:

            @machine.create(into=kept)
            def write(a: Args, text: str) -> Note:
                return Note(text=text)

        for permitted in (app.allow.command, app.allow.read, app.allow.field, app.allow.log):
            permitted()(lambda a: True)
        return app, write

    app, write = notes(False)
    with app.open(tmp_path / "store") as k:
        k.handle(write("first"), CLERK)
    app, write = notes(True)
    with app.open(tmp_path / "store") as k:
        k.handle(write("second", True), CLERK)
        assert logged(k, CLERK) == [{"text": "first"}, {"text": "second", "loud": True}]


# --- a model in place of its reference ----------------------------------------------------------------


def test_model_is_not_taken_for_its_reference() -> None:
    app, events = registry(1)
    with app.open() as k:
        made = k.handle(events["enter"](Name("Ann Lee"), "a"), ADMIN)
        leave = next(each for each in app.machines[Person].events if each.name == "leave")
        with k.read(ADMIN) as r:
            reads: list[Any] = [r.get, r.find, r.related, r.readable.get]
            for read in reads:
                with pytest.raises(ArgumentError, match="expected a reference to a model, got Person"):
                    read(made.model)
            assert r.possible_events(made.model) == (leave,)
            # What came from outside as something else leads nowhere.
            for value in ("1", 1.5, None, True, -1, 2**80):
                assert r.find(value) is None
        with k.snapshot(ADMIN) as s, pytest.raises(ArgumentError, match=r"Use model\.meta\.id"):
            s.related(made.model)
        with pytest.raises(ArgumentError, match="got Person"):
            k.handle(leave(made.model), ADMIN)
        assert k.sequence == 1


# --- final states -------------------------------------------------------------------------------------


def test_final_states_may_be_cleared_and_not_left() -> None:
    registry(1)[0].open().close()
    app = App("registry")
    people = app.machine(Person)
    known, gone = people.states("known", "gone", final=("gone",))

    @people.create(into=known)
    def enter(a: Args) -> Person:
        return Person(label="", name=Name("x"))

    @people.event(known, to=gone)
    def leave(a: Args[Person]) -> None: ...

    gone.after(timedelta(days=1)).delete()
    gone.after(timedelta(hours=1)).to(known)
    with pytest.raises(ConfigError) as caught:
        app.open()
    assert caught.value.code == "K013"


# --- advice -------------------------------------------------------------------------------------------


def checked(file: Path) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-m", "klerk", "check", str(file)],
        env=python_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


def test_advice_follows_each_closure_of_one_function(tmp_path: Path) -> None:
    (tmp_path / "stock.py").write_text(STOCK, encoding="utf-8")
    first, *advice = checked(tmp_path / "stock.py")
    assert first.startswith("stock: no errors")
    assert [line for line in advice if line.startswith("warning")] == [
        "warning: nothing in the design causes Item.lose, and nobody else may."
    ]


@pytest.mark.parametrize("name", ["auction", "orders"])
def test_there_is_no_advice_about_examples(name: str) -> None:
    assert len(checked(EXAMPLES / f"{name}.py")) == 1


STOCK = """
import klerk
from klerk import App, Args, Model, Visibility

class Item(Model):
    pieces: int

app = App("stock")
items = app.machine(Item)
shelf, box = items.states("shelf", "box")

@items.create(into=shelf)
def stock(a: Args) -> Item:
    return Item(pieces=1)

@items.event(shelf, to=box)
def pack(a: Args[Item]) -> None: ...

@items.event(box, to=shelf)
def unpack(a: Args[Item]) -> None: ...

def count(event):
    return lambda a: [event(a.model.meta.id)]

for name in ("enter", "leave", "lose"):
    def note(a: Args[Item]) -> None: ...
    note.__name__ = name
    globals()[name] = items.event(shelf, box, visibility=Visibility.CODE)(note)

shelf.on_enter.commands(count(globals()["enter"]))
shelf.on_exit.commands(count(globals()["leave"]))

@app.allow.command(stock, pack, unpack)
def anybody(a: Args) -> bool:
    return True

@app.allow.read()
def anybody_reads(a: Args) -> bool:
    return True

@app.allow.field()
def anybody_reads_fields(a: Args) -> bool:
    return True

if __name__ == "__main__":
    app.open()
"""

"""Migrations: a store made with one design is opened with later ones, and holds what these declare.

Each test makes a library as it was at first, opens its store with a changed design and says what must be
there then. Crashes are played by a store whose writes fail from a certain one on, for every one of them.
"""

import re
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Clock, eventually, permit_everything, run_python

import klerk
from klerk import (
    App,
    Args,
    FunctionFailed,
    JobRun,
    Migration,
    MigrationFailed,
    Model,
    NewerStore,
    Ref,
    SchemaChanged,
    StoreFailed,
    limits,
)
from klerk.__main__ import main
from klerk._image import model_of
from klerk.audit.commit_log import transactions
from klerk.codec import CATALOG_KEY, read_catalog
from klerk.inspection import describe_store
from klerk.storage import RocksStorage
from klerk.storage.contract import Family


class Person(Model):
    name: str
    nickname: str = ""


class Loan(Model):
    person: Ref[Person]
    title: str
    price: int = 5


class Legacy(Model):
    text: str


class First:
    """The library as it was at first, with a job that waits for its time."""

    def __init__(self) -> None:
        self.app = app = App("library")
        permit_everything(app)
        person, loan, legacy = app.machine(Person), app.machine(Loan), app.machine(Legacy)
        active, gone = person.states("active", "gone", final=("gone",))
        lent, lost, back = loan.states("lent", "lost", "back", final=("lost", "back"))
        (kept,) = legacy.states("kept", final=("kept",))

        @person.create(into=active)
        def join(a: Args, name: str, nickname: str = "") -> Person:
            return Person(name=name, nickname=nickname)

        @person.event(active, to=gone)
        def leave(a: Args[Person]) -> None: ...

        @loan.create(into=lent)
        def lend(a: Args, person: Ref[Person], title: str, price: int = 5) -> Loan:
            return Loan(person=person, title=title, price=price)

        @loan.event(lent, to=back)
        def give(a: Args[Loan]) -> None: ...

        @loan.event(lent, to=lost)
        def lose(a: Args[Loan]) -> None: ...

        @legacy.create(into=kept)
        def keep(a: Args, text: str) -> Legacy:
            return Legacy(text=text)

        @app.job()
        def remind(job: JobRun, loan: Ref[Loan], text: str) -> None:
            raise AssertionError("it waits for its time")

        self.join, self.leave, self.lend, self.give, self.lose = join, leave, lend, give, lose
        self.keep, self.remind = keep, remind


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Ada (1), Bob (2) with a nickname, three loans (3 lent, 4 lost, 5 back), Legacy 6, two waiting jobs."""
    first = First()
    with first.app.open(tmp_path / "store", clock=Clock(), job_threads=0) as k:
        k.handle_all([first.join("Ada Lovelace"), first.join("Bob Hope", "bo")], TESTER)
        k.handle_all([first.lend(1, "Dune"), first.lend(1, "Emma", 7), first.lend(2, "Ulysses")], TESTER)
        k.handle_all([first.lose(4), first.give(5), first.keep("old")], TESTER)
        k.jobs.schedule(first.remind(3, "soon").at(NOON + timedelta(days=1)), first.remind(3, "now"))
    return tmp_path / "store"


class Design:
    """A library of any classes, each with the states that are named and an event between the first two."""

    def __init__(self, *classes: tuple[type[Model], str], create: str = "make") -> None:
        self.app = App("library")
        permit_everything(self.app)
        self.machines = {}
        for cls, names in classes:
            machine = self.app.machine(cls)
            states = machine.states(*names.split())
            for i, state in enumerate(states):
                target = states[(i + 1) % len(states)]

                def move(a: Args) -> None: ...

                move.__name__ = f"to_{target.name}"
                if target is not state:
                    machine.event(state, to=target)(move)

            def make(a: Args) -> Any:
                raise AssertionError("not called")

            make.__name__ = create
            machine.create(into=states[0])(make)
            self.machines[cls.__name__] = machine

    def found(self, path: Path, **options: Any) -> dict[int, tuple[str, str, dict[str, Any]]]:
        with self.app.open(path, job_threads=0, clock=Clock(), **options) as k:
            return self.models(k)

    def models(self, k: klerk.Klerk) -> dict[int, tuple[str, str, dict[str, Any]]]:
        with k.read(TESTER) as r:
            return {
                model.meta.id: (name, str(model.meta.state), model.as_dict())
                for name, machine in self.machines.items()
                for model in r.list(machine)
            }


def declare(app: App, *functions: Callable[[Migration], None]) -> None:
    """Declare migrations 1, 2, 3 and so on."""
    for version, function in enumerate(functions, start=1):
        app.migration(version)(function)


def with_job(design: Design, name: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Declare a job with parameters of these names and types; return the list of what it is run with."""
    ran: list[tuple[Any, ...]] = []
    namespace: dict[str, Any] = {"ran": ran}
    exec(f"def {name}(job, {', '.join(parameters)}): ran.append(tuple([{', '.join(parameters)}]))", namespace)
    namespace[name].__annotations__.update(parameters)
    design.app.job()(namespace[name])
    return ran


def as_at_first() -> Design:
    design = Design((Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"), create="join")
    with_job(design, "remind", {"loan": Ref[Loan], "text": str})
    return design


AT_FIRST = {
    1: ("Person", "active", {"name": "Ada Lovelace", "nickname": ""}),
    2: ("Person", "active", {"name": "Bob Hope", "nickname": "bo"}),
    3: ("Loan", "lent", {"person": 1, "title": "Dune", "price": 5}),
    4: ("Loan", "lost", {"person": 1, "title": "Emma", "price": 7}),
    5: ("Loan", "back", {"person": 2, "title": "Ulysses", "price": 5}),
    6: ("Legacy", "kept", {"text": "old"}),
}


def member() -> tuple[type[Model], type[Model]]:
    """The classes after everything has happened to them."""

    class Member(Model):
        first: klerk.Text
        last: str
        joined: date = date(2024, 1, 1)

    class Loan(Model):
        fee: Decimal
        member: Ref[Member]
        price: str
        paid: bool = False

    return Member, Loan


def two_parts(fields: dict[str, Any]) -> dict[str, Any]:
    first, _, last = fields.pop("full_name").partition(" ")
    return {**fields, "first": first, "last": last}


def priced(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "price": f"{fields['price']} EUR"}


def shorter(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"text": arguments["text"].upper(), "loan": arguments["loan"], "urgent": True}


def people(m: Migration) -> None:
    """People are members,
    and have a first and a last name.

    This is not shown.
    """
    m.rename_model("Person", "Member")
    m.rename_field("Member", "name", "full_name")
    m.delete_field("Member", "nickname")
    m.transform("Member", two_parts)


def loans(m: Migration) -> None:
    """Loans cost something."""
    m.rename_field("Loan", "person", "member")
    m.delete_field("Loan", "title")
    m.add_field("Loan", "fee", default=Decimal("1.50"))
    m.transform("Loan", priced)
    m.rename_state("Loan", "lent", "out")
    m.delete_state("Loan", "lost", into="back")
    m.rename_event("Loan.give", "Loan.give_back")


def the_rest(m: Migration) -> None:
    m.delete_model("Legacy")
    m.rename_job("remind", "notify")
    m.transform_job("notify", shorter)


def everything(m: Migration) -> None:
    people(m)
    loans(m)
    the_rest(m)


def final() -> tuple[Design, list[tuple[Any, ...]]]:
    member_class, loan_class = member()
    design = Design((member_class, "active gone"), (loan_class, "out back"))
    ran = with_job(design, "notify", {"urgent": bool, "loan": Ref[loan_class], "text": str})  # type: ignore[valid-type]
    return design, ran


MEMBER = {"joined": date(2024, 1, 1)}
FINALLY = {
    1: ("Member", "active", {"first": "Ada", "last": "Lovelace", **MEMBER}),
    2: ("Member", "active", {"first": "Bob", "last": "Hope", **MEMBER}),
    3: ("Loan", "out", {"fee": Decimal("1.50"), "member": 1, "price": "5 EUR", "paid": False}),
    4: ("Loan", "back", {"fee": Decimal("1.50"), "member": 1, "price": "7 EUR", "paid": False}),
    5: ("Loan", "back", {"fee": Decimal("1.50"), "member": 2, "price": "5 EUR", "paid": False}),
}


def test_what_the_store_holds_at_first(store: Path) -> None:
    assert as_at_first().found(store) == AT_FIRST


@pytest.mark.parametrize("migrations", [(everything,), (people, loans, the_rest)], ids=["one", "three"])
def test_everything_at_once(store: Path, migrations: Any) -> None:
    """A store may be many versions behind; models, references, states and jobs come out as declared."""
    for _ in range(2):
        design, ran = final()
        declare(design.app, *migrations)
        assert design.found(store) == FINALLY
    design, ran = final()
    declare(design.app, *migrations)
    clock = Clock(NOON + timedelta(days=2))
    with design.app.open(store, clock=clock):
        eventually(lambda: len(ran) == 2)
        assert sorted(ran) == [(True, 3, "NOW"), (True, 3, "SOON")]


def test_one_version_after_the_other(store: Path) -> None:
    """Opened with each version in between, the store ends up the same; commands go on at every one."""

    class Member(Model):
        first: str
        last: str

    class Loan(Model):
        person: Ref[Member]
        title: str
        price: int = 5

    second = Design((Member, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"))
    with_job(second, "remind", {"loan": Ref[Loan], "text": str})
    declare(second.app, people)
    with second.app.open(store, job_threads=0, clock=Clock()) as k:
        gone = second.machines["Member"].events[0]
        assert str(gone) == "Member.to_gone"
        assert k.handle(gone(2), TESTER).model.meta.version == 2

    class Loan(Model):  # type: ignore[no-redef]
        fee: Decimal
        member: Ref[Member]
        price: str

    third = Design((Member, "active gone"), (Loan, "out back"), (Legacy, "kept"))
    with_job(third, "remind", {"loan": Ref[Loan], "text": str})
    declare(third.app, people, loans)
    with third.app.open(store, job_threads=0, clock=Clock()) as k:
        k.handle(third.machines["Loan"].events[0](3), TESTER)
    design, _ = final()
    declare(design.app, people, loans, the_rest)
    assert design.found(store) == {
        **FINALLY,
        2: ("Member", "gone", FINALLY[2][2]),
        3: ("Loan", "back", FINALLY[3][2]),
    }


def test_a_new_store_has_nothing_to_migrate(tmp_path: Path) -> None:
    """It begins with the newest version: a migration that would raise is never asked."""

    def fails(fields: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError

    design, _ = final()
    declare(design.app, people, lambda m: m.transform("Loan", fails))
    assert design.found(tmp_path / "new") == {}
    design.app.open().close()
    again, _ = final()
    declare(again.app, people, lambda m: m.transform("Loan", fails))
    assert again.found(tmp_path / "new") == {}


# --- one operation alone ------------------------------------------------------------------------------


def changed(cls: type[Model], states: str, *migrations: Callable[[Migration], None]) -> Design:
    """The design as it was at first, but for the class of the loans or that of what is old."""
    name = "Loan" if "person" in cls.__struct_fields__ else "Legacy"
    classes = {
        "Person": (Person, "active gone"),
        "Loan": (Loan, "lent lost back"),
        "Legacy": (Legacy, "kept"),
    }
    design = Design(*{**classes, name: (cls, states)}.values())
    with_job(design, "remind", {"loan": Ref[cls if name == "Loan" else Loan], "text": str})  # type: ignore[misc]
    declare(design.app, *migrations)
    return design


def legacy(store: Path, cls: type[Model], *migrations: Callable[[Migration], None]) -> dict[str, Any]:
    """Open with another class of what is old; return the fields of the one model."""
    found = changed(cls, "kept", *migrations).found(store)
    assert {id: each for id, each in found.items() if id != 6} == {
        id: each for id, each in AT_FIRST.items() if id != 6
    }
    name, state, fields = found[6]
    assert (name, state) == (cls.__name__, "kept")
    return fields


def test_rename_a_model(store: Path) -> None:
    class Older(Model):
        text: str

    assert legacy(store, Older, lambda m: m.rename_model("Legacy", "Older")) == {"text": "old"}


def test_rename_a_field(store: Path) -> None:
    class Legacy(Model):
        words: str

    assert legacy(store, Legacy, lambda m: m.rename_field("Legacy", "text", "words")) == {"words": "old"}


def test_add_a_field(store: Path) -> None:
    """One without a default in the class, and one whose default is another for models that are there."""

    class Legacy(Model):
        when: datetime
        text: str
        size: int = 3

    def add(m: Migration) -> None:
        m.add_field("Legacy", "when", default=NOON)
        m.add_field("Legacy", "size", default=7)

    assert legacy(store, Legacy, add) == {"when": NOON, "text": "old", "size": 7}


def test_delete_a_field(store: Path) -> None:
    class Legacy(Model):
        size: int = 3

    assert legacy(store, Legacy, lambda m: m.delete_field("Legacy", "text")) == {"size": 3}


def test_reorder_fields(store: Path) -> None:
    class Loan(Model):
        title: str
        price: int
        person: Ref[Person]

    design = changed(Loan, "lent lost back", lambda m: m.reorder_fields("Loan"))
    assert design.found(store) == AT_FIRST


def test_transform_to_another_type(store: Path) -> None:
    class Legacy(Model):
        text: tuple[int, ...]

    def lengths(fields: dict[str, Any]) -> dict[str, Any]:
        return {"text": [len(fields["text"])]}

    assert legacy(store, Legacy, lambda m: m.transform("Legacy", lengths)) == {"text": (3,)}


def test_rename_and_delete_states(store: Path) -> None:
    """Also into a state that is new; what was renamed can be told from what was deleted."""

    def change(m: Migration) -> None:
        m.rename_state("Loan", "lent", "out")
        m.delete_state("Loan", "back", into="done")

    found = changed(Loan, "done out lost", change).found(store)
    assert [found[id][1] for id in (3, 4, 5)] == ["out", "lost", "done"]
    # A deleted name may be used again, for something else.
    found = changed(Loan, "done out lost back", change).found(store)
    assert [found[id][1] for id in (3, 4, 5)] == ["out", "lost", "done"]


def test_swap_two_names(store: Path) -> None:
    class Loan(Model):
        person: Ref[Person]
        title: str
        price: int = 5

    def swap(m: Migration) -> None:
        m.rename_state("Loan", "lent", "x")
        m.rename_state("Loan", "lost", "lent")
        m.rename_state("Loan", "x", "lost")

    found = changed(Loan, "lent lost back", swap).found(store)
    assert [found[id][1] for id in (3, 4, 5)] == ["lost", "lent", "back"]


def test_delete_a_model(store: Path) -> None:
    """Its models are gone, ids are not given again, and its name may be that of a class renamed to it."""
    design = Design((Person, "active gone"), (Loan, "lent lost back"))
    with_job(design, "remind", {"loan": Ref[Loan], "text": str})
    declare(design.app, lambda m: m.delete_model("Legacy"))
    for _ in range(2):
        assert design.found(store) == {id: each for id, each in AT_FIRST.items() if id != 6}
        design = Design((Person, "active gone"), (Loan, "lent lost back"))
        with_job(design, "remind", {"loan": Ref[Loan], "text": str})
        declare(design.app, lambda m: m.delete_model("Legacy"))


def test_defaults_stay_what_they_were(store: Path) -> None:
    """A field that was added with a default keeps it for older models, whatever becomes of it."""

    class Legacy(Model):
        text: str
        size: int = 3

    design = changed(Legacy, "kept")
    assert design.found(store)[6][2] == {"text": "old", "size": 3}

    class Legacy(Model):  # type: ignore[no-redef]
        text: str
        size: int

    told = "the field Legacy.size has no default any more, and older models lack it: m.reorder_fields"
    with pytest.raises(SchemaChanged, match=told):
        changed(Legacy, "kept").found(store)

    class Legacy(Model):  # type: ignore[no-redef]
        text: str
        length: int = 99

    assert legacy(store, Legacy, lambda m: m.rename_field("Legacy", "size", "length")) == {
        "text": "old",
        "length": 3,
    }


def test_jobs_alone(store: Path) -> None:
    """Renamed, merged with another kind, transformed; and deleted, which leaves the other kinds."""
    design = Design((Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"))
    ran = with_job(design, "notify", {"text": str, "loan": int})
    declare(design.app, lambda m: m.rename_job("remind", "notify"), lambda m: m.transform_job("notify", dict))
    with design.app.open(store, clock=Clock()) as k:
        eventually(lambda: len(ran) == 1)
        assert ran == [("now", 3)]
        assert k.jobs.get(1).kind == "notify"
    design = Design((Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"))
    declare(
        design.app,
        lambda m: m.rename_job("remind", "notify"),
        lambda m: m.transform_job("notify", dict),
        lambda m: m.delete_job("notify"),
    )
    with design.app.open(store, clock=Clock()) as k:
        assert sum(k.jobs.counts().values()) == 1  # the one that ended


def test_a_new_last_parameter_with_a_default(store: Path) -> None:
    design = Design((Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"))
    ran: list[Any] = []

    @design.app.job()
    def remind(job: JobRun, loan: Ref[Loan], text: str, times: int = 2) -> None:
        ran.append((loan, text, times))

    with design.app.open(store, clock=Clock()):
        eventually(lambda: bool(ran))
    assert ran == [(3, "now", 2)]


# --- what is refused ----------------------------------------------------------------------------------


def refused(store: Path, design: Design, kind: type[Exception] = SchemaChanged) -> str:
    """Return why a store cannot be opened; the first design still opens it and finds everything."""
    with pytest.raises(kind) as caught:
        design.found(store)
    assert as_at_first().found(store) == AT_FIRST
    return str(caught.value)


def test_every_difference_is_named_with_what_covers_it(store: Path) -> None:
    class Person(Model):
        full_name: str
        nickname: int
        age: int

    class Older(Model):
        text: str

    design = Design((Person, "active left"), (Older, "kept"))
    declare(design.app, lambda m: m.rename_field("Person", "nmae", "full_name"))
    told = refused(store, design)
    lines = [
        (
            'the state Person.gone is no longer declared: m.rename_state("Person", "gone", "left")'
            ' or m.delete_state("Person", "gone", into="...")'
        ),
        (
            'the field Person.name is no longer declared: m.rename_field("Person", "name", "full_name")'
            ' or m.delete_field("Person", "name")'
        ),
        'the field Person.nickname was str and is int: m.transform("Person", ...)',
        'the new field Person.age has no default: m.add_field("Person", "age", default=...)',
        'the model Loan is no longer declared: m.delete_model("Loan")',
        (
            'the model Legacy is no longer declared: m.rename_model("Legacy", "Older")'
            ' or m.delete_model("Legacy")'
        ),
        'migration 1, <lambda>: m.rename_field("Person", "nmae", "full_name")',
    ]
    for line in lines:
        assert f"\n  - {line}\n" in told
    # Nothing is assumed: what is only suggested was not done.
    assert "m.rename_model" in told


def test_jobs_that_wait_hold_up_a_design_that_cannot_run_them(store: Path) -> None:
    design = Design((Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"))
    with_job(design, "notify", {"loan": int, "text": str})
    assert 'm.rename_job("remind", "notify") or m.delete_job("remind") (2 waiting)' in refused(store, design)
    design = Design((Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"))
    with_job(design, "remind", {"text": str, "loan": int})
    assert "the parameter 'loan' of job remind is gone, moved or of another type" in refused(store, design)
    design = Design((Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"))
    with_job(design, "remind", {"loan": Ref[Loan], "text": str, "more": int})
    assert "the new parameter 'more' of job remind has no default" in refused(store, design)
    with_job(
        design := Design(*[(Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept")]), "other", {}
    )
    declare(design.app, lambda m: m.delete_job("remind"))
    design.app.open(store).close()


def test_jobs_that_a_transform_leaves_wrong(store: Path) -> None:
    design = Design((Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"))
    with_job(design, "remind", {"loan": int, "urgent": bool})
    declare(design.app, lambda m: m.transform_job("remind", lambda arguments: {**arguments, "loan": "x"}))
    told = refused(store, design, MigrationFailed)
    assert "job 1, loan: Expected `int`, got `str`" in told
    assert "job 2, urgent: has no value" in told
    assert "job 2, text: job remind has no such field" in told


class Short(klerk.Text, max=4): ...


def test_values_that_do_not_fit_are_named_with_their_models(store: Path) -> None:
    """Types, bounds, rules of the class, leftovers and what is missing: all at once."""

    class Loan(Model):
        person: Ref[Person]
        title: Short
        price: int
        fee: int

    def wrong(fields: dict[str, Any]) -> dict[str, Any]:
        if fields["price"] == 7:
            return {**fields, "extra": 1}
        if fields["title"] == "Ulysses":
            return {**fields, "fee": 1}
        return {**fields, "fee": "much"}

    told = refused(
        store, changed(Loan, "lent lost back", lambda m: m.transform("Loan", wrong)), MigrationFailed
    )
    assert "4 problems" in told
    assert "model 3, fee: Expected `int`, got `str`" in told
    assert "model 4, fee: has no value and no default" in told
    assert "model 4, extra: Loan has no such field" in told
    assert "model 5, title: may have at most 4 characters, has 7" in told

    class Loan(Model):  # type: ignore[no-redef]
        person: Ref[Person]
        title: str
        price: int

    design = changed(Loan, "lent lost back", lambda m: m.transform("Loan", dict))

    @design.machines["Loan"].rule
    def cheap(loan: Any) -> bool:
        """Loans are cheap."""
        return bool(loan.price < 6 and loan.meta.id)

    assert "model 4: Loans are cheap." in refused(store, design, MigrationFailed)


def test_many_problems_are_counted(tmp_path: Path) -> None:
    first = First()
    with first.app.open(tmp_path / "store", clock=Clock(), job_threads=0) as k:
        k.handle_all([first.keep(str(i)) for i in range(300)], TESTER)

    class Legacy(Model):
        text: int

    with pytest.raises(MigrationFailed) as caught:
        changed(Legacy, "kept", lambda m: m.transform("Legacy", dict)).found(tmp_path / "store")
    assert len(caught.value.problems) == limits.PROBLEMS_MAX
    assert str(caught.value).count("- model") == limits.PROBLEMS_MAX
    assert f"and {300 - limits.PROBLEMS_MAX} more" in str(caught.value)


def test_references_and_unique_keys_hold_after_a_migration(store: Path) -> None:
    def astray(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "person": {1: 1, 2: 99}[fields["person"]]}

    told = refused(
        store, changed(Loan, "lent lost back", lambda m: m.transform("Loan", astray)), MigrationFailed
    )
    assert "model 5, person: there is no Person 99" in told

    def to_a_loan(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "person": 6}

    told = refused(
        store, changed(Loan, "lent lost back", lambda m: m.transform("Loan", to_a_loan)), MigrationFailed
    )
    assert "there is no Person 6" in told

    def same(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "title": "Same"}

    design = changed(Loan, "lent lost back", lambda m: m.transform("Loan", same))
    design.machines["Loan"].index(lambda loan: loan.title, unique=True)
    told = refused(store, design, MigrationFailed)
    assert "model 4: a unique index of Loan cannot hold: Loan 4 and 3 have the key 'Same'" in told


def test_references_to_deleted_models_are_found(store: Path) -> None:
    """In tuples, too. That the loans' persons are gone is no reason to lose the loans."""

    class Loan(Model):
        person: tuple[Ref[Legacy], ...]
        title: str
        price: int

    def as_tuple(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "person": [fields["person"]]}

    def change(m: Migration) -> None:
        m.delete_model("Person")
        m.transform("Loan", as_tuple)

    design = Design((Legacy, "kept"), (Loan, "lent lost back"))
    with_job(design, "remind", {"loan": Ref[Loan], "text": str})
    declare(design.app, change)
    told = refused(store, design, MigrationFailed)
    assert "model 3, person: there is no Legacy 1" in told
    assert "model 5, person: there is no Legacy 2" in told


def test_what_is_refused_breaks_no_references(store: Path) -> None:
    """That a person cannot be brought up to date says nothing about their loans."""

    class Person(Model):
        name: int
        nickname: str = ""

    class Loan(Model):
        person: Ref[Person]
        title: str
        price: int = 5

    design = Design((Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"))
    with_job(design, "remind", {"loan": Ref[Loan], "text": str})
    declare(design.app, lambda m: m.transform("Person", dict))
    told = refused(store, design, MigrationFailed)
    assert "2 problems" in told
    assert "model 1, name: Expected `int`, got `str`" in told


def test_functions_that_fail(store: Path) -> None:
    def broken(fields: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("nothing")

    told = refused(
        store, changed(Loan, "lent lost back", lambda m: m.transform("Loan", broken)), FunctionFailed
    )
    assert re.search(r"broken \(.*test_migrations.py:\d+\) raised KeyError: 'nothing', for Loan 3", told)
    told = refused(store, changed(Loan, "lent lost back", lambda m: m.transform("Loan", len)), FunctionFailed)  # type: ignore[arg-type]
    assert "len returned int, expected a dict" in told
    design = changed(Loan, "lent lost back", lambda m: m.transform("Loan", dict))
    design.machines["Loan"].rule(broken)
    assert "raised KeyError: 'nothing', for Loan 3" in refused(store, design, FunctionFailed)
    design = as_at_first()
    declare(design.app, lambda m: m.transform_job("remind", broken))
    assert re.search(
        r"broken .* raised KeyError: 'nothing', for job \d \(remind\)", refused(store, design, FunctionFailed)
    )

    def fails(m: Migration) -> None:
        raise ZeroDivisionError

    design = as_at_first()
    declare(design.app, fails)
    assert re.search(
        r"migration 1, .*fails \(.*\) raised ZeroDivisionError", refused(store, design, FunctionFailed)
    )


def test_contradictions_with_the_store(store: Path) -> None:
    class Legacy(Model):
        text: str

    class Loan(Model):
        person: Ref[Person]
        price: int

    told = refused(store, changed(Loan, "lent lost back", lambda m: m.rename_field("Loan", "title", "price")))
    assert 'm.rename_field("Loan", "title", "price"): the store has a field Loan.price already' in told
    told = refused(store, changed(Loan, "lent back", lambda m: m.rename_state("Loan", "lost", "back")))
    assert 'm.delete_state("Loan", "lost", into="back") makes them one' in told
    design = Design((Person, "active gone"), (Legacy, "kept"))
    declare(design.app, lambda m: m.rename_model("Loan", "Legacy"))
    assert "the store has a model Legacy already" in refused(store, design)


def test_a_store_that_is_ahead_and_migrations_that_were_changed(store: Path) -> None:
    class Legacy(Model):
        words: str

    def words(m: Migration) -> None:
        m.rename_field("Legacy", "text", "words")

    assert legacy(store, Legacy, words) == {"words": "old"}
    with pytest.raises(
        NewerStore, match="the store has schema version 1, and the newest migration of 'library' is 0"
    ):
        as_at_first().found(store)

    def words(m: Migration) -> None:  # type: ignore[no-redef]
        m.rename_field("Legacy", "txt", "words")

    with pytest.raises(SchemaChanged, match="migration 1 ran as 'words', and is something else now"):
        legacy(store, Legacy, words)

    def other(m: Migration) -> None:
        m.rename_field("Legacy", "text", "words")

    with pytest.raises(SchemaChanged, match="migration 1 ran as 'words'"):
        legacy(store, Legacy, other)


# --- interruptions ------------------------------------------------------------------------------------


class Interruptions:
    """Lets the n-th write of a store fail, counted from when it is armed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        write = RocksStorage._write

        def counted(storage: RocksStorage, puts: Any, deletes: Any) -> None:
            if self.left == 0:
                raise OSError("the plug was pulled")
            self.left -= 1
            write(storage, puts, deletes)

        monkeypatch.setattr(RocksStorage, "_write", counted)


@pytest.mark.parametrize("after", range(12))
def test_interrupted_at_every_write(store: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Until the catalog is written the old design opens the store; then only the new one, which goes on."""
    monkeypatch.setattr(limits, "MIGRATION_BATCH_RECORDS", 1)
    interruptions = Interruptions(monkeypatch)
    design, _ = final()
    declare(design.app, people, loans, the_rest)
    interruptions.left = after
    # The catalog, five models, one deletion, two jobs, the catalog again, and the mark of what was verified.
    if after < 11:
        with pytest.raises(StoreFailed):
            design.found(store)
    else:
        assert design.found(store) == FINALLY
    interruptions.left = -1
    if after == 0:
        assert as_at_first().found(store) == AT_FIRST
    else:
        with pytest.raises(NewerStore):
            as_at_first().found(store)
    design, ran = final()
    declare(design.app, people, loans, the_rest)
    with design.app.open(store, clock=Clock(NOON + timedelta(days=2))) as k:
        assert design.models(k) == FINALLY
        eventually(lambda: len(ran) == 2)
    assert sorted(ran) == [(True, 3, "NOW"), (True, 3, "SOON")]
    assert stored_versions(store) == [3, 3, 3, 3, 3]


def stored_versions(store: Path) -> list[int]:
    """Return the schema version of every stored model."""
    storage = RocksStorage.open(store, app="library", durability="process")
    try:
        images = [image for _, image in storage.scan(Family.MODELS)]
    finally:
        storage.close()
    return [int.from_bytes(image[6:8], sys.byteorder) for image in images]


KILLED = """
import os, sys
from pathlib import Path
import test_migrations as t
t.limits.MIGRATION_BATCH_RECORDS = 1
write, left = t.RocksStorage._write, [int(sys.argv[1])]
def killed(storage, puts, deletes):
    if left[0] == 0:
        os._exit(9)
    left[0] -= 1
    write(storage, puts, deletes)
t.RocksStorage._write = killed
design, _ = t.final()
t.declare(design.app, t.people, t.loans, t.the_rest)
design.found(Path("store"))
"""


@pytest.mark.parametrize("after", [0, 1, 4])
def test_killed(store: Path, after: int) -> None:
    """As above, but nothing is closed: the process ends in the middle."""
    killed = run_python("-c", KILLED, str(after), cwd=store.parent)
    assert killed.returncode == 9, killed.stderr
    if after == 0:
        assert as_at_first().found(store) == AT_FIRST
    design, _ = final()
    declare(design.app, people, loans, the_rest)
    assert design.found(store) == FINALLY
    assert stored_versions(store) == [3, 3, 3, 3, 3]


def test_a_later_version_after_an_interruption(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the models have the first version, half of them none, when the second one comes."""
    monkeypatch.setattr(limits, "MIGRATION_BATCH_RECORDS", 1)
    interruptions = Interruptions(monkeypatch)

    class Member(Model):
        first: str
        last: str

    class Loan(Model):
        person: Ref[Member]
        title: str
        price: int = 5

    second = Design((Member, "active gone"), (Loan, "lent lost back"), (Legacy, "kept"))
    with_job(second, "remind", {"loan": Ref[Loan], "text": str})
    declare(second.app, people)
    interruptions.left = 2
    with pytest.raises(StoreFailed):
        second.found(store)
    interruptions.left = -1
    design, _ = final()
    declare(design.app, people, loans, the_rest)
    assert design.found(store) == FINALLY
    # The first was stored anew in time, and nothing later concerns it.
    assert stored_versions(store) == [1, 3, 3, 3, 3]


def test_a_crash_before_the_models_were_written(tmp_path: Path) -> None:
    """What is only in the commit log is applied to the store first, and then migrated with the rest."""
    first = First()
    with first.app.open(tmp_path / "store", clock=Clock(), job_threads=0) as k:
        k.handle_all([first.keep("a"), first.keep("b")], TESTER)
        k._storage.checkpoint(tmp_path / "copy")  # type: ignore[attr-defined]

    class Legacy(Model):
        words: str

    design = changed(Legacy, "kept", lambda m: m.rename_field("Legacy", "text", "words"))
    assert {id: fields for id, (_, _, fields) in design.found(tmp_path / "copy").items()} == {
        1: {"words": "a"},
        2: {"words": "b"},
    }


# --- timers -------------------------------------------------------------------------------------------


class Ticket(Model):
    due: datetime


def tickets(states: str, delay: timedelta, *migrations: Callable[[Migration], None]) -> tuple[App, Any, Any]:
    """Tickets that come back when they are due, or some time after they were stopped."""
    app = App("tickets")
    permit_everything(app)
    machine = app.machine(Ticket)
    named = {state.name: state for state in machine.states(*states.split(), "back", final=("back",))}

    @machine.create(into=named["open"])
    def make(a: Args, due: datetime) -> Ticket:
        return Ticket(due=due)

    named["open"].at(lambda a: a.model.due).to(named["back"])
    for name in states.split()[1:]:
        named["open"].on(machine.event(named["open"])(go_to(name))).to(named[name])
        named[name].after(delay).to(named["back"])
    declare(app, *migrations)
    return app, make, machine


def go_to(name: str) -> Callable[[Args], None]:
    def go(a: Args) -> None: ...

    go.__name__ = f"go_{name}"
    return go


def due(app: App, machine: Any, path: Path) -> list[tuple[str, datetime | None]]:
    with app.open(path, clock=Clock()) as k, k.read(TESTER) as r:
        return [(str(each.meta.state), each.meta.due_at) for each in r.list(machine)]


@pytest.mark.parametrize("interrupted", [None, 0, 1, 2, 3, 4, 5, 6])
def test_timers_follow_what_migrations_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: int | None
) -> None:
    """The moment is computed of what the model holds now, and of the state that it is in now."""
    hour = timedelta(hours=1)
    app, make, machine = tickets("open held", 3 * hour)
    with app.open(tmp_path / "store", clock=Clock()) as k:
        k.handle_all([make(NOON + hour), make(NOON + hour)], TESTER)
        k.handle(machine.events[-1](2), TESTER)

    def later(fields: dict[str, Any]) -> dict[str, Any]:
        return {"due": fields["due"] + hour}

    def change(m: Migration) -> None:
        m.transform("Ticket", later)
        m.delete_state("Ticket", "held", into="stopped")

    def opened() -> list[tuple[str, datetime | None]]:
        app, _, machine = tickets("open stopped", 4 * hour, change)
        return due(app, machine, tmp_path / "store")

    if interrupted is not None:
        monkeypatch.setattr(limits, "MIGRATION_BATCH_RECORDS", 1)
        interruptions = Interruptions(monkeypatch)
        interruptions.left = interrupted
        with pytest.raises(StoreFailed):
            opened()
        interruptions.left = -1
    assert opened() == [("open", NOON + 2 * hour), ("stopped", NOON + 4 * hour)]
    assert opened() == [("open", NOON + 2 * hour), ("stopped", NOON + 4 * hour)]


# --- what was before ----------------------------------------------------------------------------------


def test_history_is_read_as_the_design_is_now(store: Path) -> None:
    """The commit log is never rewritten: its images are brought up to date when they are read."""
    with as_at_first().app.open(store, job_threads=0, clock=Clock()) as k:
        before = read_catalog(k._storage.get(Family.META, CATALOG_KEY))
    design, _ = final()
    declare(design.app, people, loans, the_rest)
    with design.app.open(store, job_threads=0, clock=Clock()) as k:
        after = read_catalog(k._storage.get(Family.META, CATALOG_KEY))
        plans = k._program.plan_of_code
        versions: dict[int, list[Any]] = {}
        for transaction in transactions(k._storage):
            assert transaction.payload is not None
            for id, image in transaction.payload.images:
                versions.setdefault(id, []).append(model_of(plans, id, image))
    assert [str(model.meta.state) for model in versions[4]] == ["out", "back"]
    assert [model.price for model in versions[4]] == ["7 EUR", "7 EUR"]
    assert versions[1][0].first == "Ada"
    # Events keep their codes under new names.
    assert [before.events.index(name) for name in ("Person.join", "Loan.give")] == [
        after.events.index(name) for name in ("Member.join", "Loan.give_back")
    ]
    assert not {"Person.join", "Loan.give"} & set(after.events)
    # Nobody can say any more what a model of a deleted class was.
    assert versions[6] == [None]


def test_history_over_fields_that_came_in_between(store: Path) -> None:
    """A field is renamed that the first models never had: they get the default that it came with."""

    class Legacy(Model):
        words: str

    def words(m: Migration) -> None:
        m.rename_field("Legacy", "text", "words")

    def length(m: Migration) -> None:
        m.rename_field("Legacy", "size", "length")

    assert legacy(store, Legacy, words) == {"words": "old"}

    class Legacy(Model):  # type: ignore[no-redef]
        words: str
        size: int = 3

    assert legacy(store, Legacy, words) == {"words": "old", "size": 3}

    class Legacy(Model):  # type: ignore[no-redef]
        length: int
        words: str

    design = changed(Legacy, "kept", words, length)
    with design.app.open(store, job_threads=0, clock=Clock()) as k:
        assert design.models(k)[6][2] == {"words": "old", "length": 3}
        images = [image for each in transactions(k._storage) for id, image in each.payload.images if id == 6]  # type: ignore[union-attr]
        assert [model_of(k._program.plan_of_code, 6, image).length for image in images] == [3]  # type: ignore[union-attr]


def test_migrations_are_recorded(store: Path) -> None:
    design, _ = final()
    declare(design.app, people, loans, the_rest)
    design.found(store)
    told = describe_store(store)
    assert re.search(r"\nschema: version 3, fingerprint [0-9a-f]{64}\n", told)
    assert "\n  migration 1 people, run at 2024-02-29 12:00:00 UTC\n" in told
    assert "\n  Member: 2 (active, gone)\n  Loan: 3 (out, back)\njobs:\n" in told
    assert "Legacy" not in told
    assert "\n  notify available: 1\n  notify scheduled: 1" in told


def test_the_fingerprint_follows_the_design(tmp_path: Path) -> None:
    """The same for the same design, whatever came before; another one for another design."""

    def told(name: str) -> str:
        found = re.search(r"fingerprint ([0-9a-f]{64})", describe_store(tmp_path / name))
        assert found is not None
        return found[1]

    for name in ("one", "two"):
        as_at_first().found(tmp_path / name)
    assert told("one") == told("two")
    without = Design((Person, "active gone"), (Loan, "lent lost back"), (Legacy, "kept gone"), create="join")
    without.found(tmp_path / "two")
    assert told("one") != told("two")


# --- the dry run --------------------------------------------------------------------------------------

FIRST = """
from datetime import UTC, datetime, timedelta
import klerk
from klerk import App, Args, JobRun, Model, User
class Member(Model):
    name: str
app = App("club")
member = app.machine(Member)
active, = member.states("active", final=("active",))
@member.create(into=active)
def join(a: Args, name: str) -> Member:
    return Member(name=name)
@app.job()
def greet(job: JobRun, name: str) -> None: ...
app.allow.command()(lambda a: True)
"""

SECOND = (
    FIRST.replace("    name: str\n", "    full_name: SHORT\n").replace("def greet", "def welcome")
    + """
@app.migration(1)
def full_names(m: klerk.Migration) -> None:
    \"\"\"Members have
    full names.

    More of it.
    \"\"\"
    m.rename_field("Member", "name", "full_name")
    m.rename_state("Member", "gone", "active")
@app.migration(2)
def greetings(m: klerk.Migration) -> None:
    m.rename_job("greet", "welcome")
"""
)

Check = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs ``python -m klerk check`` with the second design; gives its code, its lines and its complaints."""
    (tmp_path / "club").mkdir()
    monkeypatch.chdir(tmp_path / "club")
    making = (
        'with app.open("store", job_threads=0) as k:\n'
        '    k.handle_all([join("Ada"), join("Bob")], klerk.Context(User("x")))\n'
        '    k.jobs.schedule(greet("Ada").at(datetime.now(UTC) + timedelta(days=1)))\n'
    )
    ran = run_python("-c", FIRST + making, cwd=tmp_path / "club")
    assert ran.returncode == 0, ran.stderr
    count = iter(range(100))

    def run(*options: str, design: str = SECOND) -> tuple[int, list[str], str]:
        name = f"club_{next(count)}.py"
        Path(name).write_text(design.replace("SHORT", "str"), encoding="utf-8")
        before = contents(Path("store"))
        code = main(["check", name, "--store", "store", *options])
        assert contents(Path("store")) == before
        assert sorted(path.name for path in Path().iterdir() if path.is_dir()) == ["store"]
        told = capsys.readouterr()
        # Advice about the design comes last.
        return code, told.out.partition("warning: ")[0].splitlines(), told.err

    return run


def contents(store: Path) -> dict[Path, bytes]:
    """What is in all files of a store, but for the one that says who has it open."""
    return {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "owner"}


def test_check_says_what_migrations_do(check: Check) -> None:
    code, lines, told = check()
    assert (code, told) == (0, "")
    assert lines[1:-1] == [
        "Opening the store store runs migrations:",
        "  1 full_names: Members have full names.",
        '    m.rename_field("Member", "name", "full_name")',
        '    m.rename_state("Member", "gone", "active")  (there is nothing of that in the store)',
        "  2 greetings",
        '    m.rename_job("greet", "welcome")',
    ]
    assert re.fullmatch("schema version 2, fingerprint [0-9a-f]{64}", lines[-1])


def test_check_tries_everything_on_a_copy(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    code, lines, told = check("--full")
    assert (code, told) == (0, "")
    assert lines[-1] == "Everything in it fits: Member 2; 1 jobs that have not ended."
    # Where there are no hard links, everything is copied.
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    assert check("--full") == (code, lines, told)
    code, lines, told = check(
        "--full",
        design=SECOND.replace("SHORT", "Short").replace(
            "class Member", "class Short(klerk.Text, min=4): ...\nclass Member"
        ),
    )
    assert code == 1
    assert "klerk.MigrationFailed: " in told
    assert "model 1, full_name: needs at least 4 characters, has 3" in told
    assert "model 2, full_name: needs at least 4 characters, has 3" in told
    code, lines, told = check("--full", design=SECOND.replace('m.rename_job("greet", "welcome")', "pass"))
    assert code == 1
    assert "It is refused if jobs of these kinds wait:" in lines
    assert 'the job greet is no longer declared: m.rename_job("greet", "welcome")' in told


def test_check_needs_a_store_to_try(check: Check, capsys: pytest.CaptureFixture[str]) -> None:
    Path("club.py").write_text(FIRST, encoding="utf-8")
    assert main(["check", "club.py", "--full"]) == 2
    assert "--store" in capsys.readouterr().err


def test_check_does_not_try_a_store_that_is_in_use(check: Check) -> None:
    storage = RocksStorage.open("store", app="club", durability="sync")
    try:
        assert check()[0] == 0
        code, _, told = check("--full")
        assert (code, "klerk.StoreLocked" in told) == (1, True)
    finally:
        storage.close()


def test_progress_is_shown(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits, "PROGRESS_AFTER_S", -1.0)
    ticks = iter(range(1_000_000))
    monkeypatch.setattr("klerk.recovery.time.monotonic", lambda: float(next(ticks)))
    design, _ = final()
    declare(design.app, people, loans, the_rest)
    design.found(store, progress=True)
    told = capsys.readouterr().err
    assert "migrating models [" in told
    assert "rewriting models [" in told

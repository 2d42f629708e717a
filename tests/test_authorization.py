"""Nothing may be read or done unless an allow rule says so and no deny rule objects.

Every test declares exactly the rules that it is about. Masking is looked at from every side that could show a
hidden value: value, repr, lookup, columns, results and errors; and the shared object stays as it was.
"""

from collections.abc import Callable
from typing import Any

import pytest
from designs import permit_everything

import klerk
from klerk import MASKED, Anonymous, App, Args, Context, Denied, Model, NotFound, System, User


class Email(klerk.Text, tags={"pii"}): ...


class Salary(klerk.Int, tags={"pii", "money"}): ...


class Person(Model):
    name: str
    email: Email
    salary: Salary = 0
    owner: str = ""


class Note(Model):
    text: str


class Register:
    """People and notes, and no rules at all."""

    def __init__(self) -> None:
        self.app = app = App("register")
        self.people, self.notes = app.machine(Person), app.machine(Note)
        (self.here,) = self.people.states("here")
        (self.there,) = self.notes.states("there")
        self.by_email = self.people.index(lambda person: person.email, unique=True)
        self.by_lower_name = self.people.index(lambda person: person.name.lower())

        @self.people.create(into=self.here)
        def enter(a: Args, name: str, email: Email, salary: Salary = 0, owner: str = "") -> Person:
            return Person(name=name, email=email, salary=salary, owner=owner)

        @self.people.event(self.here)
        def rename(a: Args[Person], name: str) -> Person:
            return a.model.replace(name=name)

        @self.people.event(self.here)
        def remove(a: Args[Person]) -> None: ...

        self.here.on(remove).delete()

        @self.notes.create(into=self.there)
        def write(a: Args, text: str) -> Note:
            return Note(text=text)

        self.enter, self.rename, self.remove, self.write = enter, rename, remove, write


ADA = Context(User("ada", roles=frozenset({"staff"})))
BOB = Context(User("bob"))
NOBODY = Context(Anonymous())
SYSTEM = Context(System("import"))


@pytest.fixture
def register() -> Register:
    return Register()


def yes(a: Args) -> bool:
    return True


def is_staff(a: Args) -> bool:
    return "staff" in a.context.actor.roles


def fill(register: Register, k: klerk.Klerk) -> list[Any]:
    """Enter two people and a note on behalf of the system, which no rule is asked about; return their ids."""
    commands = [
        register.enter("Eve", "eve@x", 10, "ada"),
        register.enter("Joe", "joe@x", 20, "bob"),
        register.write("hello"),
    ]
    return [result.id for result in k.handle_all(commands, SYSTEM)]


# --- commands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [ADA, BOB, NOBODY])
def test_without_rules_no_command_is_allowed(register: Register, context: Context) -> None:
    with register.app.open() as k:
        eve, _, _ = fill(register, k)
        sequence = k.sequence
        for command in (register.enter("X", "x"), register.rename(eve, "X"), register.remove(eve)):
            for attempt in (k.handle, k.check):
                with pytest.raises(Denied, match="is not allowed for") as caught:
                    attempt(command, context)
                assert caught.value.status == 403
                assert isinstance(caught.value, PermissionError)
            with pytest.raises(Denied):
                k.handle_all([command], context)
            with pytest.raises(Denied):
                k.submit(command, context).result(20)
        assert k.sequence == sequence
        with k.read(SYSTEM) as r:
            assert r.get(eve).name == "Eve"
            assert r.count(register.people) == 2


def test_rules_about_an_event_hold_for_that_event_alone(register: Register) -> None:
    register.app.allow.command(register.enter)(is_staff)
    with register.app.open() as k:
        id = k.handle(register.enter("X", "x"), ADA).id
        with pytest.raises(Denied, match=r"rename is not allowed for user ada"):
            k.handle(register.rename(id, "Y"), ADA)
        with pytest.raises(Denied, match=r"enter is not allowed for user bob"):
            k.handle(register.enter("Y", "y"), BOB)
        with pytest.raises(Denied, match="anonymous"):
            k.handle(register.enter("Y", "y"), NOBODY)


def test_a_deny_rule_beats_every_allow_rule(register: Register) -> None:
    register.app.allow.command()(yes)
    register.app.allow.command(register.rename)(yes)

    @register.app.deny.command(register.rename)
    def not_eve(a: Args[Person]) -> bool:
        return a.model.name == "Eve"

    with register.app.open() as k:
        eve, joe, _ = fill(register, k)
        k.handle(register.rename(joe, "Jon"), BOB)
        with pytest.raises(Denied, match=r"rename is denied to user bob"):
            k.handle(register.rename(eve, "X"), BOB)
        # Rules see what the transaction did so far.
        with pytest.raises(Denied):
            k.handle_all([register.rename(joe, "Eve"), register.rename(joe, "Joe")], BOB)


def test_one_allow_rule_is_enough(register: Register) -> None:
    register.app.allow.command(register.enter)(lambda a: False)
    register.app.allow.command()(is_staff)
    register.app.allow.command(register.enter)(lambda a: a.parameters["name"] == "Bob")
    with register.app.open() as k:
        k.handle(register.enter("X", "x"), ADA)
        k.handle(register.enter("Bob", "y"), BOB)
        with pytest.raises(Denied):
            k.handle(register.enter("Z", "z"), BOB)


def test_a_rule_may_depend_on_the_context_class_of_the_app(register: Register) -> None:
    class Branch(Context):
        city: str = ""

    register.app.allow.command()(lambda a: a.context.city == "Brno")
    with register.app.open() as k:
        k.handle(register.enter("X", "x"), Branch(BOB.actor, city="Brno"))
        with pytest.raises(Denied):
            k.handle(register.enter("Y", "y"), Branch(BOB.actor, city="Praha"))


def test_a_command_of_the_system_is_not_asked_about(register: Register) -> None:
    register.app.deny.command()(yes)
    register.app.deny.read()(yes)
    register.app.deny.field()(yes)
    with register.app.open() as k:
        eve, *_ = fill(register, k)
        with k.read(SYSTEM) as r:
            assert r.get(eve).email == "eve@x"
            assert r.columns(register.people, "salary")[0].tolist() == [10, 20]


def test_a_rule_that_raises_denies(register: Register) -> None:
    def broken(a: Args) -> bool:
        raise KeyError("role")

    register.app.allow.command()(broken)
    register.app.allow.read()(broken)
    with register.app.open() as k:
        eve, *_ = fill(register, k)
        with pytest.raises(klerk.FunctionFailed, match=r"broken .*test_authorization\.py.*KeyError"):
            k.handle(register.remove(eve), ADA)
        with k.read(ADA) as r, pytest.raises(klerk.FunctionFailed, match=r"broken .*KeyError"):
            r.get(eve)


# --- reading models -----------------------------------------------------------------------------------


def every_way_to_read(register: Register, id: Any) -> dict[str, Callable[[klerk.Reader], object]]:
    return {
        "get": lambda r: r.get(id),
        "find": lambda r: r.find(id),
        "list machine": lambda r: r.list(register.people),
        "list state": lambda r: r.list(register.here),
        "first": lambda r: r.first(register.here),
        "count": lambda r: r.count(register.here),
        "exists": lambda r: r.exists(register.people),
        "columns": lambda r: r.columns(register.people, "id"),
        "key": lambda r: r.list(register.by_email("eve@x")),
        "find by key": lambda r: r.find(register.by_email, "eve@x"),
    }


@pytest.mark.parametrize("way", every_way_to_read(Register(), 1))
def test_without_rules_nothing_can_be_read(register: Register, way: str) -> None:
    with register.app.open() as k:
        eve, *_ = fill(register, k)
        read = every_way_to_read(register, eve)[way]
        with k.read(SYSTEM) as r:
            assert read(r)
        for context in (ADA, NOBODY):
            with k.read(context) as r:
                try:
                    found = read(r)
                except Denied:
                    continue
                # A key must not tell whether there is such a model either.
                assert way in ("key", "find by key")
                assert not found


def test_an_unknown_model_is_not_found_rather_than_denied(register: Register) -> None:
    with register.app.open() as k, k.read(ADA) as r:
        with pytest.raises(NotFound):
            r.get(99)
        assert r.find(99) is None
        assert r.list(register.people) == []
        assert r.count(register.people) == 0


def test_rules_about_a_class_hold_for_that_class_alone(register: Register) -> None:
    register.app.allow.read(Note)(yes)
    register.app.allow.field()(yes)
    with register.app.open() as k:
        eve, _, note = fill(register, k)
        with k.read(BOB) as r:
            assert r.get(note).text == "hello"
            with pytest.raises(Denied, match="user bob may not read Person"):
                r.get(eve)


def test_read_rules_may_depend_on_the_model(register: Register) -> None:
    register.app.allow.read()(lambda a: a.model.owner == a.context.actor.id)
    register.app.allow.field()(yes)
    with register.app.open() as k:
        eve, joe, _ = fill(register, k)
        with k.read(ADA) as r:
            assert r.get(eve).name == "Eve"
            for _ in range(2):
                with pytest.raises(Denied):
                    r.get(joe)
            with pytest.raises(Denied):
                r.list(register.people)
            with pytest.raises(Denied):
                r.count(register.people)
            assert r.get(eve).name == "Eve"
        with k.read(BOB) as r:
            assert r.get(joe).name == "Joe"
            with pytest.raises(Denied):
                r.get(eve)


def test_deny_rules_about_reading(register: Register) -> None:
    register.app.allow.read()(yes)
    register.app.allow.field()(yes)
    register.app.deny.read(Person)(lambda a: not is_staff(a))
    register.app.deny.read()(lambda a: a.model.meta.id == 2)
    with register.app.open() as k:
        eve, joe, note = fill(register, k)
        assert joe == 2
        with k.read(ADA) as r:
            assert r.get(eve).name == "Eve"
            with pytest.raises(Denied):
                r.get(joe)
        with k.read(BOB) as r:
            assert r.get(note).text == "hello"
            with pytest.raises(Denied):
                r.get(eve)


def test_read_rules_may_read(register: Register) -> None:
    """A rule that asks the state, not the model, is asked again in the next read."""
    register.app.allow.command()(yes)
    register.app.allow.field()(yes)
    register.app.allow.read()(lambda a: a.read.exists(register.notes))
    with register.app.open() as k:
        id = k.handle(register.enter("Eve", "e"), ADA).id
        with k.read(ADA) as r, pytest.raises(Denied):
            r.get(id)
        k.handle(register.write("open"), ADA)
        with k.read(ADA) as r:
            assert r.get(id).name == "Eve"


# --- fields -------------------------------------------------------------------------------------------


def test_without_field_rules_every_field_is_masked(register: Register) -> None:
    register.app.allow.read()(yes)
    with register.app.open() as k:
        eve, *_ = fill(register, k)
        with k.read(ADA) as r:
            person = r.get(eve)
            assert person.as_dict() == dict.fromkeys(("name", "email", "salary", "owner"), MASKED)
            assert person.meta.id == eve
            assert "eve@x" not in repr(person)
            assert repr(person).count("<masked>") == 4


def test_masking_one_field(register: Register) -> None:
    permit_everything(register.app)
    register.app.deny.field(Person, names=["email"])(lambda a: not is_staff(a))
    with register.app.open() as k:
        eve, joe, _ = fill(register, k)
        with k.read(BOB) as r:
            hidden = r.get(eve)
            assert (hidden.name, hidden.email, hidden.salary) == ("Eve", MASKED, 10)
            assert "eve@x" not in repr(hidden)
            assert [person.email for person in r.list(register.people)] == [MASKED, MASKED]
            assert [person.email for person in r.list(register.here)] == [MASKED, MASKED]
            first = r.first(register.people)
            assert first is not None
            assert first.email is MASKED
        # The model that everyone shares was not touched.
        with k.read(ADA) as r:
            assert [person.email for person in r.list(register.people)] == ["eve@x", "joe@x"]
        with k.read(SYSTEM) as r:
            assert r.get(joe).email == "joe@x"


def test_a_masked_key_finds_nothing(register: Register) -> None:
    permit_everything(register.app)
    register.app.deny.field(names="email")(lambda a: not is_staff(a))
    register.app.deny.field(names="name")(lambda a: a.context.actor.id == "bob")
    with register.app.open() as k:
        fill(register, k)
        with k.read(BOB) as r:
            for view in (
                register.by_email("eve@x"),
                register.by_lower_name("eve"),
                register.by_email(MASKED),
            ):
                assert r.list(view) == []
                assert r.first(view) is None
                assert (r.count(view), r.exists(view)) == (0, False)
            assert r.find(register.by_email, "eve@x") is None
            assert r.find(register.by_lower_name, "eve") is None
            assert len(r.columns(register.by_email("eve@x"), "id")[0]) == 0
        with k.read(ADA) as r:
            found = r.find(register.by_email, "eve@x")
            assert found is not None
            assert found.name == "Eve"
            assert r.count(register.by_lower_name("eve")) == 1


def test_columns_of_masked_fields_are_denied(register: Register) -> None:
    permit_everything(register.app)
    register.app.deny.field(tag="money")(lambda a: not is_staff(a))
    with register.app.open() as k:
        eve, joe, _ = fill(register, k)
        with k.read(BOB) as r:
            assert r.columns(register.people, "id")["id"].tolist() == [eve, joe]
            with pytest.raises(Denied, match=r"user bob may not read Person\.salary"):
                r.columns(register.people, "id", "salary")
        with k.read(ADA) as r:
            assert r.columns(register.people, "salary").salary.tolist() == [10, 20]


def test_columns_of_fields_masked_in_one_model_are_denied(register: Register) -> None:
    permit_everything(register.app)
    register.app.deny.field(names="salary")(lambda a: a.model.owner != a.context.actor.id)
    with register.app.open() as k:
        eve, joe, _ = fill(register, k)
        with k.read(ADA) as r:
            assert (r.get(eve).salary, r.get(joe).salary) == (10, MASKED)
            assert (r.get(joe).salary, r.get(eve).salary) == (MASKED, 10)
            with pytest.raises(Denied):
                r.columns(register.people, "salary")


def test_tags(register: Register) -> None:
    permit_everything(register.app)
    register.app.deny.field(tag="pii")(lambda a: not is_staff(a))
    with register.app.open() as k:
        eve, _, note = fill(register, k)
        with k.read(BOB) as r:
            assert r.get(eve).as_dict() == {"name": "Eve", "email": MASKED, "salary": MASKED, "owner": "ada"}
            assert r.get(note).text == "hello"
        with k.read(ADA) as r:
            assert r.get(eve).salary == 10


def test_tags_of_values_inside_of_collections() -> None:
    app = App("tags")

    class Folder(Model):
        mails: tuple[Email, ...]
        first: Email | None = None
        size: int = 0

    folders = app.machine(Folder)
    (there,) = folders.states("there")
    permit_everything(app)
    app.deny.field(tag="pii")(yes)

    @folders.create(into=there)
    def make(a: Args, mails: tuple[Email, ...]) -> Folder:
        return Folder(mails=mails, first=mails[0], size=len(mails))

    with app.open() as k:
        folder = k.handle(make(("a@x",)), BOB).model
        assert (folder.mails, folder.first, folder.size) == (MASKED, MASKED, 1)


def test_field_rules_may_ask_for_the_field(register: Register) -> None:
    register.app.allow.read()(yes)
    register.app.allow.field(Person)(lambda a: a.field in ("name", "salary"))
    register.app.deny.field()(lambda a: a.field == "salary" and a.model.salary > 15)
    with register.app.open() as k:
        eve, joe, note = fill(register, k)
        for _ in range(2):
            with k.read(BOB) as r:
                assert r.get(eve).as_dict() == {"name": "Eve", "email": MASKED, "salary": 10, "owner": MASKED}
                assert r.get(joe).as_dict() == {
                    "name": "Joe",
                    "email": MASKED,
                    "salary": MASKED,
                    "owner": MASKED,
                }
                assert r.get(note).text is MASKED


# --- results ------------------------------------------------------------------------------------------


def test_results_show_what_their_actor_may_see(register: Register) -> None:
    permit_everything(register.app)
    register.app.deny.field(tag="pii")(lambda a: not is_staff(a))
    with register.app.open() as k:
        made = k.handle(register.enter("Zoe", "zoe@x", 5), BOB)
        tried = k.check(register.enter("Zed", "zed@x", 6), BOB)
        renamed = k.handle(register.rename(made.id, "Zoë"), BOB)
        listed = k.handle_all([register.rename(made.id, "Zora")], BOB)[0]
        for result in (made, tried, renamed, listed):
            for model in (result.model, *result.models, *result.created, *result.updated):
                assert (model.email, model.salary) == (MASKED, MASKED)
            assert "@x" not in repr(result)
        assert k.handle(register.rename(made.id, "Zoe"), ADA).model.email == "zoe@x"
        gone = k.handle(register.remove(made.id), BOB)
        assert gone.deleted == (made.id,)


def test_results_have_no_way_around(register: Register) -> None:
    """No public attribute of a result gives what its actor may not see."""
    permit_everything(register.app)
    register.app.deny.field(tag="pii")(yes)
    with register.app.open() as k:
        made = k.handle(register.enter("Zoe", "zoe@x", 5), BOB)
        for name in dir(made):
            if not name.startswith("_"):
                assert "zoe@x" not in repr(getattr(made, name)), name


def test_a_result_of_models_that_may_not_be_read(register: Register) -> None:
    register.app.allow.command()(yes)
    with register.app.open() as k:
        result = k.handle(register.enter("Zoe", "zoe@x"), BOB)
        assert result.id == 1
        with pytest.raises(Denied, match="user bob may not read Person"):
            _ = result.model
        with pytest.raises(Denied):
            _ = result.models


def test_an_actor_is_shown_by_kind_and_id() -> None:
    assert [str(c.actor) for c in (ADA, NOBODY, SYSTEM)] == ["user ada", "anonymous", "system import"]


def test_actors_and_contexts_cannot_be_changed() -> None:
    for target, name in ((ADA.actor, "roles"), (ADA, "actor"), (ADA, "now")):
        with pytest.raises(AttributeError):
            setattr(target, name, None)

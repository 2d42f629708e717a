"""What an event asks of its parameters beyond their types, when it is asked, and in which language.

Each check is provoked alone and together with others, and what is refused is compared as a whole: code and
path of every problem. Who may not give a command learns nothing from what may be chosen. Translations are
told the key and the values of every text; one that fails loses no refusal.
"""

import copy
import logging
import pickle
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from designs import NOON, TESTER, Bank, Cents, Clock, permit_everything

import klerk
from klerk import (
    App,
    Args,
    ArgumentError,
    Conflict,
    Context,
    Denied,
    FunctionFailed,
    InvalidValue,
    KlerkError,
    Model,
    NotFound,
    Problem,
    Ref,
    Rejected,
    Translation,
    User,
    WrongState,
    label,
    limits,
)
from klerk.showing.describe import describe


class Title(klerk.Text, min=1, max=20, lines=1): ...


class Even(klerk.Int):
    @classmethod
    def validate(cls, value: Any) -> None:
        if value % 2:
            raise ValueError("must be even")


class Shelf(klerk.Enum):
    UPPER = "upper"
    LOWER = "lower"


class Person(Model):
    name: Title
    shelf: Shelf = Shelf.UPPER


class Loan(Model):
    member: Ref[Person]
    title: Title
    due: datetime
    witnesses: tuple[Ref[Person], ...] = ()
    fee: int = 0


class Library:
    """Persons who are active or suspended, and loans that only active ones may be part of."""

    def __init__(self) -> None:
        self.app = app = App("library")
        self.people, self.loans = people, loans = app.machine(Person), app.machine(Loan)
        self.active, self.suspended = active, suspended = people.states("active", "suspended")
        self.out, self.back = out, back = loans.states("out", "back", final=("back",))
        self.by_shelf = people.index(lambda person: person.shelf)
        self.asked: list[str] = []

        @people.create(into=active)
        def join(a: Args, name: Title, shelf: Shelf = Shelf.UPPER) -> Person:
            return Person(name=name, shelf=shelf)

        @people.event(active, to=suspended)
        def suspend(a: Args[Person]) -> None: ...

        suspended.after(timedelta(days=1)).to(active)
        self.join, self.suspend = join, suspend
        self.declare_lending(loans, active, out)
        self.declare_loans(loans, out, back)

        @app.allow.command()
        @app.allow.read()
        @app.allow.field()
        def whoever_has_a_name(a: Args) -> bool:
            return a.context.actor.id != ""

    def declare_lending(self, loans: Any, active: Any, out: Any) -> None:
        @loans.create(into=out)
        def lend(
            a: Args,
            member: Ref[Person],
            title: Title,
            start: datetime,
            end: datetime | None = None,
            witnesses: tuple[Ref[Person], ...] = (),
            keepers: frozenset[Ref[Person]] | None = None,
        ) -> Loan:
            """Lend a book."""
            return Loan(member=member, title=title, due=end or start, witnesses=witnesses)

        @lend.validator
        def dates_in_order(start: datetime, end: datetime | None) -> bool:
            """A loan ends after it begins."""
            self.asked.append("dates_in_order")
            return end is None or start < end

        @lend.validator
        def title_is_no_date(title: Title, start: datetime) -> bool:
            self.asked.append("title_is_no_date")
            if title == start.date().isoformat():
                raise ValueError(f"{title} is a date")
            return True

        lend.valid(member=active, witnesses=active, keepers=lambda a: active)

        @lend.rule(path="title")
        def title_is_capital(a: Args, title: Title) -> bool:
            """Titles begin with a capital letter."""
            return title[0].isupper()

        @lend.rule
        def has_time(a: Args) -> bool:
            return a.now.year > 2000

        self.lend = lend

    def declare_loans(self, loans: Any, out: Any, back: Any) -> None:
        @loans.event(out, to=back)
        def give_back(a: Args[Loan]) -> None: ...

        @loans.event(out)
        def pass_on(a: Args[Loan], member: Ref[Person], shelf: Shelf = Shelf.UPPER) -> Loan:
            return a.model.replace(member=member)

        pass_on.valid(
            # Whoever stands at the same shelf as the member who has the book.
            member=lambda a: self.by_shelf(a.read.get(a.model.member).shelf),
            shelf={Shelf.UPPER, Shelf.LOWER},
        )

        @loans.event(out)
        def charge(a: Args[Loan], fee: int) -> Loan:
            return a.model.replace(fee=fee)

        charge.valid(fee=lambda a: [10, 20] if "staff" in a.context.actor.roles else [10])

        @loans.rule(path="fee")
        def fee_is_small(loan: Loan) -> bool:
            """The fee is too high."""
            return loan.fee < 20

        self.give_back, self.pass_on, self.charge = give_back, pass_on, charge


LATER = NOON + timedelta(days=1)
STAFF = Context(User("staff", roles=frozenset({"staff"})))
NOBODY = Context(User(""))


def problems_of(error: KlerkError) -> list[tuple[str, str]]:
    return [(each.code, each.path) for each in error.problems]


def refused(k: klerk.Klerk, command: Any, context: Context = TESTER, kind: Any = InvalidValue) -> Any:
    """Return code and path of every problem; nothing was changed."""
    sequence = k.sequence
    handle: Any = k.handle_all if isinstance(command, list) else k.handle
    with pytest.raises(kind) as caught:
        handle(command, context)
    assert k.sequence == sequence
    return problems_of(caught.value)


# --- validators ---------------------------------------------------------------------------------------


def test_all_validators_are_asked_and_report_together() -> None:
    library = Library()
    with library.app.open() as k:
        ada = k.handle(library.join("Ada"), TESTER).id
        date = Title(NOON.date().isoformat())
        with pytest.raises(InvalidValue) as caught:
            k.handle(library.lend(ada, date, NOON, NOON), TESTER)
        assert [(each.code, each.message) for each in caught.value.problems] == [
            ("dates_in_order", "A loan ends after it begins."),
            ("title_is_no_date", "2024-02-29 is a date"),
        ]
        assert k.handle(library.lend(ada, "Dune", NOON, LATER), TESTER).model.due == LATER
        assert k.handle(library.lend(ada, "Dune", NOON), TESTER).model.due == NOON


def test_validators_come_after_types_and_before_everything_else() -> None:
    library = Library()
    with library.app.open() as k:
        ada = k.handle(library.join("Ada"), TESTER).id
        library.asked.clear()
        assert refused(k, library.lend(ada, "", NOON, NOON)) == [("too_short", "title")]
        assert library.asked == []
        # What a reference leads to is looked up for those who may give the command, so after its values.
        assert refused(k, library.lend(99, "A", NOON, NOON)) == [("dates_in_order", "")]
        assert refused(k, library.lend(99, "A", NOON)) == [("broken_reference", "member")]
        # Not even who may not give the command is told so before its values fit.
        assert refused(k, library.lend(ada, "a", NOON, NOON), NOBODY) == [("dates_in_order", "")]
        with pytest.raises(Denied):
            k.handle(library.lend(ada, "A", NOON), NOBODY)


def test_a_validator_is_asked_before_the_target_is_looked_up() -> None:
    bank = Bank()

    @bank.deposit.validator
    def round_sum(amount: int) -> bool:
        return amount % 10 == 0

    with bank.app.open() as k:
        assert refused(k, bank.deposit(99, 5)) == [("round_sum", "")]
        assert refused(k, bank.deposit(99, 10), kind=NotFound) == [("not_found", "")]


def test_validators_see_what_the_event_sees() -> None:
    """A validator gets values as their types want them, also those made from JSON."""
    library, seen = Library(), []

    @library.lend.validator
    def note(start: datetime) -> bool:
        seen.append(start)
        return True

    library.app.freeze()
    data = {"member": 1, "title": "Dune", "start": "2024-02-29T13:00:00+01:00"}
    library.lend.from_json(data)
    assert [(each, str(each.tzinfo)) for each in seen] == [(NOON, "UTC")]


def test_validators_are_asked_about_json_and_forms_too() -> None:
    library = Library()
    library.app.freeze()
    data = {"member": 1, "title": "2024-02-29", "start": "2024-02-29T12:00Z", "end": "2024-02-29T12:00Z"}
    for make in (library.lend.from_json, library.lend.from_form):
        with pytest.raises(InvalidValue) as caught:
            make(
                {
                    name: value if make == library.lend.from_json else str(value)
                    for name, value in data.items()
                }
            )
        assert problems_of(caught.value) == [("dates_in_order", ""), ("title_is_no_date", "")]


@pytest.mark.parametrize("result", [1, None, "yes", []])
def test_a_validator_that_gives_no_verdict_is_named(result: Any) -> None:
    bank = Bank()

    @bank.enter.validator
    def undecided(owner: str) -> bool:
        return result  # type: ignore[no-any-return]

    with bank.app.open() as k, pytest.raises(FunctionFailed, match="undecided"):
        k.handle(bank.enter("Ada"), TESTER)


def test_a_validator_that_breaks_is_named_and_one_that_makes_values_is_understood() -> None:
    bank = Bank()

    @bank.enter.validator
    def broken(owner: str) -> bool:
        return {"Ada": True}[owner]

    @bank.enter.validator
    def sum_is_money(balance: int) -> bool:
        return Cents(balance + 999_999) > 0

    with bank.app.open() as k:
        with pytest.raises(FunctionFailed, match=r"broken.*KeyError"):
            k.handle(bank.enter("Eve"), TESTER)
        assert refused(k, bank.enter("Ada", 2)) == [("too_large", "")]
        k.handle(bank.enter("Ada", 1), TESTER)


# --- what may be chosen -------------------------------------------------------------------------------


def test_a_reference_must_come_from_its_view() -> None:
    library = Library()
    with library.app.open() as k:
        ada, bob, eve = (k.handle(library.join(name), TESTER).id for name in ("Ada", "Bob", "Eve"))
        k.handle(library.suspend(bob), TESTER)
        k.handle(library.suspend(eve), TESTER)
        with pytest.raises(InvalidValue) as caught:
            k.handle(library.lend(bob, "Dune", NOON, None, (ada, bob, eve), frozenset({ada, eve})), TESTER)
        assert problems_of(caught.value) == [
            ("not_valid_reference", "member"),
            ("not_valid_reference", "witnesses"),
            ("not_valid_reference", "witnesses"),
            ("not_valid_reference", "keepers"),
        ]
        assert [each.values["id"] for each in caught.value.problems] == [bob, bob, eve, eve]
        assert str(caught.value.problems[0]) == f"member: Person {bob} cannot be chosen here"
        k.handle(library.lend(ada, "Dune", NOON, None, (ada, ada), frozenset({ada})), TESTER)


def test_validators_and_choices_report_together_but_only_to_who_may_give_the_command() -> None:
    library = Library()
    with library.app.open() as k:
        bob = k.handle(library.join("Bob"), TESTER).id
        k.handle(library.suspend(bob), TESTER)
        both = [("dates_in_order", ""), ("not_valid_reference", "member")]
        assert refused(k, library.lend(bob, "dune", NOON, NOON)) == both
        assert refused(k, library.lend(bob, "dune", NOON, NOON), NOBODY) == both[:1]
        assert refused(k, library.lend(bob, "dune", NOON), NOBODY, Denied) == [("denied", "")]
        # Rules come after all that is about values.
        assert refused(k, library.lend(bob, "dune", NOON)) == both[1:]


def test_what_the_transaction_did_counts() -> None:
    library = Library()
    with library.app.open() as k:
        ada = k.handle(library.join("Ada"), TESTER).id

        def join_and_lend(a: Args) -> Any:
            new = yield library.join("New")
            yield library.lend(new.id, "Dune", NOON, None, (ada, new.id))

        assert len(k.handle_all(join_and_lend, TESTER)) == 2
        found = refused(k, [library.suspend(ada), library.lend(ada, "Dune", NOON)])
        assert found == [("not_valid_reference", "[1].member")]
        k.handle(library.lend(ada, "Dune", NOON), TESTER)


def test_what_is_valid_may_depend_on_the_model_and_the_actor() -> None:
    library = Library()
    with library.app.open() as k:
        ada, bob = (k.handle(library.join(name), TESTER).id for name in ("Ada", "Bob"))
        low = k.handle(library.join("Eve", Shelf.LOWER), TESTER).id
        dune = k.handle(library.lend(ada, "Dune", NOON), TESTER).id
        assert refused(k, library.pass_on(dune, low)) == [("not_valid_reference", "member")]
        k.handle(library.pass_on(dune, bob), TESTER)
        assert refused(k, library.charge(dune, 20)) == [("not_valid_value", "fee")]
        assert k.handle(library.charge(dune, 10), TESTER).model.fee == 10
        # The model's own rule, with the field that it is about.
        assert refused(k, library.charge(dune, 20), STAFF, Rejected) == [("fee_is_small", "fee")]
        assert refused(k, library.charge(dune, 30), STAFF) == [("not_valid_value", "fee")]


def test_values_of_every_kind_may_be_chosen_from() -> None:
    app = App("values")

    class Thing(Model):
        name: str

    things = app.machine(Thing)
    (there,) = things.states("there")
    permit_everything(app)

    @things.create(into=there)
    def make(
        a: Args, name: str | None = None, size: Even = 2, shelves: tuple[Shelf, ...] = (), nice: bool = True
    ) -> Thing:
        return Thing(name=name or "")

    make.valid(name=["a", "b"], size=range(0, 30, 2), shelves=[Shelf.UPPER], nice={True})
    with app.open() as k:
        for fine in (make(), make("a"), make("b", 28, (Shelf.UPPER, Shelf.UPPER))):
            k.handle(fine, TESTER)
        with pytest.raises(InvalidValue) as caught:
            k.handle(make("c", 30, (Shelf.UPPER, Shelf.LOWER), False), TESTER)
        assert [(each.path, each.message) for each in caught.value.problems] == [
            ("name", "must be one of a, b"),
            ("size", "must be one of 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, ..."),
            ("shelves", "must be one of upper"),
            ("nice", "must be one of True"),
        ]


def test_what_is_valid_is_asked_only_where_the_event_is_accepted() -> None:
    library = Library()

    @library.loans.event(library.out)
    def hand(a: Args[Loan], to: Ref[Person], days: int = 1) -> None: ...

    hand.valid(to=lambda a: {library.out: library.active}[a.model.meta.state])
    hand.validator(lambda days: days > 0)
    with library.app.open() as k:
        ada, bob = (k.handle(library.join(name), TESTER).id for name in ("Ada", "Bob"))
        k.handle(library.suspend(bob), TESTER)
        dune = k.handle(library.lend(ada, "Dune", NOON), TESTER).id
        assert refused(k, hand(dune, bob, 0)) == [("<lambda>", ""), ("not_valid_reference", "to")]
        k.handle(library.give_back(dune), TESTER)
        assert refused(k, hand(dune, bob), kind=WrongState) == [("wrong_state", "")]
        assert refused(k, hand(dune, bob, 0)) == [("<lambda>", "")]


class Pair(msgspec.Struct, frozen=True):
    first: Ref[Person]
    second: Ref[Loan] | None = None
    others: tuple[Ref[Person] | None, ...] = ()


def test_references_inside_of_structs_must_come_from_the_view_of_their_class() -> None:
    library = Library()

    @library.loans.event(library.out)
    def match(a: Args[Loan], pair: Pair | None = None) -> None: ...

    match.valid(pair=library.active)
    with library.app.open() as k:
        ada, bob = (k.handle(library.join(name), TESTER).id for name in ("Ada", "Bob"))
        k.handle(library.suspend(bob), TESTER)
        dune = k.handle(library.lend(ada, "Dune", NOON), TESTER).id
        for fine in (match(dune), match(dune, Pair(ada, dune)), match(dune, Pair(ada, None, (ada, None)))):
            k.handle(fine, TESTER)
        assert refused(k, match(dune, Pair(bob, dune))) == [("not_valid_reference", "pair")]
        assert refused(k, match(dune, Pair(ada, None, (bob,)))) == [("not_valid_reference", "pair")]
        with k.read(TESTER) as r, pytest.raises(ArgumentError, match="one class"):
            r.valid_references(match, "pair")


@pytest.mark.parametrize("given", ["a person", None, "loans", "text"])
def test_a_function_that_gives_nothing_to_choose_from_is_named(given: Any) -> None:
    library = Library()

    def whom(a: Args) -> Any:
        return library.loans if given == "loans" else given

    def which(a: Args) -> Any:
        return "abc"

    @library.loans.event(library.out)
    def hand(a: Args[Loan], to: Ref[Person], title: Title = "x") -> None: ...

    hand.valid(**({"title": which} if given == "text" else {"to": whom}))
    with library.app.open() as k:
        ada = k.handle(library.join("Ada"), TESTER).id
        dune = k.handle(library.lend(ada, "Dune", NOON), TESTER).id
        with pytest.raises(FunctionFailed, match="which" if given == "text" else "whom"):
            k.handle(hand(dune, ada), TESTER)


def test_choices_hold_after_a_restart_and_for_commands_of_blocks(tmp_path: Path) -> None:
    library = Library()
    library.suspended.on_enter.commands(lambda a: library.lend(a.model.meta.id, "Dune", NOON))
    with library.app.open(tmp_path / "store") as k:
        ada = k.handle(library.join("Ada"), TESTER).id
        # What the first command of the list causes is part of it.
        assert refused(k, [library.suspend(ada)]) == [("not_valid_reference", "[0].member")]
    with library.app.open(tmp_path / "store") as k:
        assert refused(k, library.suspend(ada)) == [("not_valid_reference", "member")]


def test_readers_tell_what_may_be_chosen() -> None:
    library = Library()
    seen: list[Any] = []

    @library.lend.rule
    def look(a: Args, member: Ref[Person]) -> bool:
        seen.append([each.name for each in a.read.valid_references(library.lend, "member")])
        return True

    @library.loans.event(library.out)
    def peek(a: Args[Loan]) -> None:
        seen.append([each.name for each in a.read.valid_references(library.pass_on, "member", a.model)])

    with library.app.open() as k:
        ada, bob = (k.handle(library.join(name), TESTER).id for name in ("Ada", "Bob"))
        k.handle(library.join("Eve", Shelf.LOWER), TESTER)
        k.handle(library.suspend(bob), TESTER)
        dune = k.handle(library.lend(ada, "Dune", NOON), TESTER).id
        k.handle(peek(dune), TESTER)
        assert seen == [["Ada", "Eve"], ["Ada", "Bob"]]
        with k.read(TESTER) as r:

            def names(event: Any, name: str, model: Any = None) -> list[str]:
                return [each.name for each in r.valid_references(event, name, model)]

            assert names(library.lend, "member") == names(library.lend, "witnesses") == ["Ada", "Eve"]
            assert names(library.lend, "keepers") == ["Ada", "Eve"]
            assert names(library.pass_on, "member", r.get(dune)) == ["Ada", "Bob"]
            with pytest.raises(ArgumentError, match="'title'"):
                names(library.lend, "title")
            with pytest.raises(ArgumentError, match="'mamber'"):
                names(library.lend, "mamber")
        with k.read(NOBODY) as r, pytest.raises(Denied):
            r.valid_references(library.lend, "member")
        with pytest.raises(klerk.ReaderClosed):
            r.valid_references(library.lend, "member")


def test_any_view_may_be_chosen_from_and_every_reader_tells_it() -> None:
    library = Library()
    named = library.people.where(lambda person, name: person.name == name)

    @library.loans.event(library.out)
    def hand(a: Args[Loan], to: Ref[Person], by: Ref[Person] | None = None) -> None: ...

    hand.valid(
        to=library.active.where(lambda person: person.name != "Bob").order("-name"),
        by=lambda a: named(a.context.actor.id),
    )
    library.app.deny.read(Person)(lambda a: a.context.actor.id == "Eve" and a.model.name == "Ada")
    with library.app.open() as k:
        ada, bob, eve = (k.handle(library.join(name), TESTER).id for name in ("Ada", "Bob", "Eve"))
        dune = k.handle(library.lend(ada, "Dune", NOON), TESTER).id
        assert refused(k, hand(dune, bob, eve), Context(User("Ada"))) == [
            ("not_valid_reference", "to"),
            ("not_valid_reference", "by"),
        ]
        k.handle(hand(dune, eve, ada), Context(User("Ada")))
        with k.read(TESTER) as r:
            assert [each.name for each in r.valid_references(hand, "to")] == ["Eve", "Ada"]
        with k.read(Context(User("Eve"))) as r:
            with pytest.raises(Denied):
                r.valid_references(hand, "to")
            assert [each.name for each in r.readable.valid_references(hand, "to")] == ["Eve"]
            assert [each.name for each in r.readable.valid_references(hand, "by")] == ["Eve"]
        with k.snapshot(Context(User("Ada"))) as r:
            k.handle(library.join("Zoe"), TESTER)
            assert [each.name for each in r.valid_references(hand, "to")] == ["Eve", "Ada"]
            assert [each.name for each in r.valid_references(hand, "by")] == ["Ada"]
        assert refused(k, hand(dune, 77, 78)) == [("broken_reference", "to"), ("broken_reference", "by")]


def test_without_a_choice_every_model_may_be_chosen() -> None:
    bank = Bank()
    with bank.app.open() as k:
        ids = [k.handle(bank.enter(name), TESTER).id for name in ("Ada", "Bob")]
        with k.read(TESTER) as r:
            assert [each.meta.id for each in r.valid_references(bank.enter, "guarantor")] == ids


def test_a_design_that_was_opened_takes_no_more_demands() -> None:
    bank = Bank()
    bank.app.freeze()
    for declare in (
        lambda: bank.enter.validator(lambda owner: True),
        lambda: bank.enter.valid(owner={"Ada"}),
        lambda: bank.enter.rule(path="owner")(lambda a: True),
        lambda: bank.accounts.rule(path="owner")(lambda account: True),
    ):
        with pytest.raises(klerk.ConfigError, match="K015"):
            declare()


# --- rules and lists ----------------------------------------------------------------------------------


def test_rules_name_the_field_that_they_are_about_all_at_once() -> None:
    library = Library()
    with library.app.open(clock=Clock(NOON.replace(year=1996))) as k:
        ada = k.handle(library.join("Ada"), TESTER).id
        found = refused(k, library.lend(ada, "dune", NOON), kind=Rejected)
        assert found == [("title_is_capital", "title"), ("has_time", "")]


def test_problems_in_a_list_say_which_command() -> None:
    library = Library()
    with library.app.open() as k:
        ada = k.handle(library.join("Ada"), TESTER).id
        fine = library.lend(ada, "Dune", NOON)
        assert refused(k, [fine, fine, library.lend(ada, "", NOON)]) == [("too_short", "[2].title")]
        assert refused(k, [library.lend(ada, "D", NOON, NOON)]) == [("dates_in_order", "[0]")]
        assert refused(k, [fine, library.suspend(77)], kind=NotFound) == [("not_found", "[1]")]
        with pytest.raises(InvalidValue) as caught:
            k.handle_all(lambda: (each for each in [library.lend(ada, "", NOON)]), TESTER)
        assert problems_of(caught.value) == [("too_short", "title")]
        assert refused(k, library.lend(ada, "", NOON)) == [("too_short", "title")]


def test_an_error_that_a_function_raises_again_and_again_stays_as_it_is() -> None:
    """The path of one list does not end up in the next one."""
    bank, closed = Bank(), Rejected("closed today", code="closed_today", hint="Come tomorrow.")

    @bank.rename.rule
    def open_today(a: Args) -> bool:
        raise closed

    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        for context in (TESTER, Context(User("tester"), translation=Shouting())):
            for commands, path in (([bank.rename(ada, "Eve")], "[0]"), ([bank.deposit(ada, 1)] * 2, "[2]")):
                with pytest.raises(Rejected) as caught:
                    k.handle_all([*commands, bank.rename(ada, "Bob")], context)
                assert (caught.value.code, caught.value.problems[0].path) == ("closed_today", path)
                assert caught.value is not closed
                assert caught.value.__traceback__ is not None
        assert closed.problems == (
            Problem(code="closed_today", message="closed today", hint="Come tomorrow."),
        )
        assert closed.message == "closed today"


def test_an_error_of_the_application_keeps_what_it_carries() -> None:
    bank = Bank()

    class ClosedUntil(Rejected):
        def __new__(cls, when: datetime) -> Self:
            return super().__new__(cls, when)

        def __init__(self, when: datetime) -> None:
            super().__init__(f"closed until {when}")
            self.when = when

    @bank.enter.rule
    def is_open(a: Args) -> bool:
        try:
            raise LookupError("a cause")
        except LookupError as error:
            raise ClosedUntil(LATER) from error

    with bank.app.open() as k, pytest.raises(ClosedUntil) as caught:
        k.handle_all([bank.enter("Ada")], Context(User("tester"), translation=Shouting()))
    assert caught.value.when == LATER
    assert isinstance(caught.value.__cause__, LookupError)
    assert problems_of(caught.value) == [("rejected", "[0]")]


# --- translations -------------------------------------------------------------------------------------


class Shouting(Translation):
    """Gives what it is asked for in capitals, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def text(self, key: str, default: str, values: Mapping[str, Any]) -> str:
        self.asked.append((key, default, dict(values)))
        return default.upper()


class Broken(Translation):
    def __init__(self, failure: Any) -> None:
        self.failure = failure

    def text(self, key: str, default: str, values: Mapping[str, Any]) -> str:
        if isinstance(self.failure, BaseException):
            raise self.failure
        return self.failure  # type: ignore[no-any-return]


def told(
    k: klerk.Klerk, command: Any, context: Context = TESTER
) -> tuple[KlerkError, list[tuple[str, dict[str, Any]]]]:
    """Return the refusal in capitals, and the keys and values that the translation was asked about."""
    translation = Shouting()
    handle: Any = k.handle_all if isinstance(command, list) else k.handle
    with pytest.raises(KlerkError) as caught:
        handle(command, Context(context.actor, translation=translation))
    assert all(each.message.isupper() for each in caught.value.problems)
    return caught.value, [(key, values) for key, _, values in translation.asked]


def test_every_refusal_is_told_in_the_language_of_the_context() -> None:
    library = Library()
    with library.app.open() as k:
        ada, bob = (k.handle(library.join(name), TESTER).id for name in ("Ada", "Bob"))
        k.handle(library.suspend(bob), TESTER)
        dune = k.handle(library.lend(ada, "Dune", NOON), TESTER).id
        k.handle(library.give_back(dune), TESTER)
        lend = library.lend
        long = {"min": 1, "max": 20, "length": 30, "unit": "characters"}
        for command, kind, expected in [
            (lend(ada, "x" * 30, NOON), InvalidValue, [("too_long", long)]),
            (lend(ada, "a\nb", NOON), InvalidValue, [("too_many_lines", {"max": 1, "lines": 2})]),
            (lend(ada, "D", NOON, NOON), InvalidValue, [("Loan.lend.dates_in_order", {})]),
            (lend(99, "D", NOON), InvalidValue, [("broken_reference", {"model": "Person", "id": 99})]),
            (lend(bob, "D", NOON), InvalidValue, [("not_valid_reference", {"model": "Person", "id": bob})]),
            (lend(ada, "dune", NOON), Rejected, [("Loan.lend.title_is_capital", {})]),
            (library.suspend(99), NotFound, [("not_found", {"model": "Person", "id": 99})]),
        ]:
            error, asked = told(k, command)
            assert isinstance(error, kind)
            assert asked == expected
            assert str(error.problems[0]) in error.message
        error, asked = told(k, library.give_back(dune))
        assert isinstance(error, WrongState)
        about = {"event": "Loan.give_back", "state": "back", "model": "Loan", "id": dune}
        assert asked == [("wrong_state", about)]
        error, asked = told(k, lend(ada, "D", NOON), NOBODY)
        assert isinstance(error, Denied)
        assert asked == [("denied", {"event": "Loan.lend", "actor": "user"})]
        error, asked = told(k, [lend(ada, "", NOON, 1)])
        assert [each.path for each in error.problems] == ["[0].title", "[0].end"]
        assert [key for key, _ in asked] == ["too_short", "wrong_type", "problems"]
        assert error.message.startswith("2 PROBLEMS:\n  - [0].title: MUST NOT BE EMPTY")
        assert error.__notes__ == [f"in command 1 of the list: {lend(ada, '', NOON, 1)}"]


def test_conflicts_are_told_apart() -> None:
    bank = Bank()
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        k.handle(bank.enter("Bob", 0, ada), TESTER)
        error, asked = told(k, bank.enter("Ada"))
        about: dict[str, Any] = {"model": "Account", "key": "Ada", "id": ada}
        assert (type(error), asked) == (Conflict, [("taken.hint", about), ("taken", about)])
        error, asked = told(k, bank.remove(ada))
        about = {"model": "Account", "id": ada, "by": "Account", "field": "guarantor"}
        assert (type(error), asked) == (Conflict, [("still_referred.hint", about), ("still_referred", about)])
        assert error.code == "conflict"
        assert error.hint.isupper()


def test_an_own_validator_of_a_type_and_a_rule_of_a_model_have_keys_of_their_own() -> None:
    app = App("keys")

    class Thing(Model):
        size: Even

    things = app.machine(Thing)
    (there,) = things.states("there")
    permit_everything(app)

    @things.create(into=there)
    def build(a: Args, size: Even, shelf: str = "") -> Thing:
        return Thing(size=size)

    build.valid(shelf=["", "a"])

    @things.rule
    def small(thing: Thing) -> bool:
        return thing.size < 10

    with app.open() as k:
        assert told(k, build(3))[1] == [("Even.invalid", {})]
        assert told(k, build(12))[1] == [("Thing.small", {})]
        assert told(k, build(2, "b"))[1] == [("not_valid_value", {"known": ("", "a")})]


def test_json_and_forms_are_told_in_the_language_that_is_given() -> None:
    library = Library()
    library.app.freeze()
    with pytest.raises(InvalidValue) as caught:
        library.lend.from_json("{}", translation=Shouting())
    assert {each.message for each in caught.value.problems} == {"IS MISSING"}
    with pytest.raises(InvalidValue) as caught:
        library.lend.from_form({"title": ""}, translation=Shouting())
    assert "title: MUST NOT BE EMPTY" in str(caught.value)
    with pytest.raises(InvalidValue) as caught:
        library.lend.from_form({"title": ""})
    assert "title: must not be empty" in str(caught.value)


@pytest.mark.parametrize("failure", [KeyError("x"), SystemExit(1), KeyboardInterrupt(), None, 7, b"x"])
def test_a_translation_that_fails_loses_no_refusal(failure: Any, caplog: pytest.LogCaptureFixture) -> None:
    library = Library()
    broken = Context(User("tester"), translation=Broken(failure))
    with library.app.open() as k:
        ada = k.handle(library.join("Ada"), broken).id
        with caplog.at_level(logging.ERROR, "klerk"), pytest.raises(InvalidValue) as caught:
            k.handle(library.lend(ada, "", NOON), broken)
        assert caught.value.problems[0].message == "must not be empty"
        if not isinstance(failure, (SystemExit, KeyboardInterrupt)):
            assert "'too_short'" in caplog.text
        k.handle(library.lend(ada, "Dune", NOON), broken)


def test_only_as_many_problems_are_translated_as_are_shown() -> None:
    library, shouting = Library(), Shouting()
    with library.app.open() as k:
        ada = k.handle(library.join("Ada"), TESTER).id
        k.handle(library.suspend(ada), TESTER)
        many = (ada,) * (2 * limits.PROBLEMS_MAX)
        with pytest.raises(InvalidValue) as caught:
            k.handle(library.lend(ada, "D", NOON, None, many), Context(User("x"), translation=shouting))
    assert len(caught.value.problems) == len(many) + 1
    assert len(shouting.asked) == limits.PROBLEMS_MAX + 2
    assert caught.value.message.endswith(f"- AND {limits.PROBLEMS_MAX + 1} MORE")


def test_what_programmers_read_is_not_translated() -> None:
    bank, shouting = Bank(), Shouting()

    @bank.enter.rule
    def breaks(a: Args) -> bool:
        raise RuntimeError("broken")

    with bank.app.open() as k, pytest.raises(FunctionFailed) as caught:
        k.handle(bank.enter("Ada"), Context(User("tester"), translation=shouting))
    assert "broken" in str(caught.value)
    assert shouting.asked == []


def test_the_plain_translation_changes_nothing() -> None:
    library = Library()
    with library.app.open() as k:
        ada = k.handle(library.join("Ada"), TESTER).id
        for command in (library.lend(ada, "", NOON, 1), library.lend(ada, "x", NOON), library.suspend(99)):
            texts = []
            for context in (TESTER, Context(User("tester"), translation=Translation())):
                with pytest.raises(KlerkError) as caught:
                    k.handle(command, context)
                texts.append((str(caught.value), caught.value.problems))
            assert texts[0] == texts[1]


async def test_asyncio_is_told_the_same() -> None:
    library = Library()
    with library.app.open() as k:
        with pytest.raises(InvalidValue) as caught:
            await k.aio.handle(library.join(""), Context(User("tester"), translation=Shouting()))
        assert caught.value.problems[0].message == "MUST NOT BE EMPTY"


def test_labels() -> None:
    library, shouting = Library(), Shouting()
    remind = library.app.job()(lambda job: None)
    remind.name = "remind_late"
    things = {
        "event.Loan.lend": (library.lend, "Lend a book."),
        "event.Loan.give_back": (library.give_back, "give back"),
        "state.Person.active": (library.active, "active"),
        "model.Loan": (Loan, "Loan"),
        "model.Person": (library.people, "Person"),
        "field.Loan.title": (Loan.title, "title"),
        "enum.Shelf.UPPER": (Shelf.UPPER, "upper"),
    }
    for key, (thing, default) in things.items():
        assert label(thing) == default
        assert label(thing, shouting) == default.upper()
        assert shouting.asked[-1] == (key, default, {})
    assert label(library.lend, shouting, parameter="member") == "MEMBER"
    assert shouting.asked[-1][0] == "parameter.Loan.lend.member"
    assert label(library.lend, Broken(None)) == "Lend a book."
    for wrong in (1, "lend", str.upper, Context, None):
        with pytest.raises(ArgumentError, match="label"):
            label(wrong)
    with pytest.raises(ArgumentError, match="'x'"):
        label(library.lend, parameter="x")


# --- problems as values -------------------------------------------------------------------------------


def test_a_problem_is_frozen_and_can_be_copied_and_sent() -> None:
    known = {"max": 80}
    problem = Problem(code="too_long", message="is too long", path="title", values=known)
    known["max"] = 90
    assert problem.values == {"max": 80}
    with pytest.raises(TypeError):
        problem.values["max"] = 1  # type: ignore[index]
    for same in (copy.copy(problem), copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))):
        assert same == problem
        assert hash(same) == hash(problem)
    assert problem != Problem(code="too_long", message="is too long", path="title")
    with pytest.raises(InvalidValue) as caught:
        Title("")
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (sent.problems, str(sent)) == (caught.value.problems, str(caught.value))


def test_show_tells_what_is_asked_of_parameters() -> None:
    text = describe(Library().app.freeze())
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "name Title 1 to 20 characters in one line",
        "member Ref[Person] in Person.active",
        "witnesses tuple[Ref[Person], ...] tuple of reference to Person; in Person.active; default ()",
        "keepers frozenset[Ref[Person]] | None frozenset of reference to Person; valid: active; default None",
        "values dates_in_order, or else: A loan ends after it begins.",
        "only if title_is_capital, or else: Titles begin with a capital letter.",
    ):
        assert line in lines, text
    (shelf,) = [line for line in lines if line.startswith("shelf Shelf") and "valid:" in line]
    assert {"upper", "lower"} <= set(re.findall(r"\w+", shelf.partition("valid:")[2]))

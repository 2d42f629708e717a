"""What one command does: every kind of executable, in its order, and every way to be refused.

The design under test writes what happens into the models themselves (`trace`), so that order and visibility
are seen through the public API alone. After each refusal everything is as before.
"""

from typing import Any

import pytest
from designs import NOON, TESTER, Account, Bank, permit_everything

import klerk
from klerk import (
    App,
    Args,
    ArgumentError,
    BrokenReference,
    Conflict,
    FunctionFailed,
    InvalidValue,
    LimitExceeded,
    Model,
    NotFound,
    Ref,
    Rejected,
    WrongState,
)


class Page(Model):
    trace: tuple[str, ...] = ()
    size: int = 0
    key: str | None = None


class Log:
    """A machine with four states, whose blocks a test fills before it opens the app."""

    def __init__(self) -> None:
        self.app = App("log")
        self.pages = pages = self.app.machine(Page)
        self.a, self.b, self.c, self.d = pages.states("a", "b", "c", "d")
        self.by_key = pages.index(lambda page: page.key, unique=True)
        permit_everything(self.app)

        @pages.create(into=self.a)
        def make(a: Args, size: int = 0, key: str | None = None) -> Page:
            return Page(trace=("make",), size=size, key=key)

        @pages.event(self.a, self.b, self.c, self.d)
        def go(a: Args[Page], size: int = 0) -> Page:
            return a.model.replace(trace=(*a.model.trace, "go"))

        @pages.event(self.a, self.b, self.c, self.d)
        def note(a: Args[Page], text: str) -> Page:
            return a.model.replace(trace=(*a.model.trace, text))

        @pages.event(self.a, self.b, self.c, self.d)
        def set_key(a: Args[Page], key: str | None) -> Page:
            return a.model.replace(key=key)

        @pages.event(self.a, self.b, self.c, self.d)
        def drop(a: Args[Page]) -> None: ...

        for state in (self.a, self.b, self.c, self.d):
            state.on(drop).delete()

        # Every state can be reached and left, so that the design is complete before a test adds to it.
        @pages.event(self.a, self.b, self.c, self.d)
        def turn(a: Args[Page]) -> None: ...

        for state, following in zip(
            (self.a, self.b, self.c, self.d), (self.b, self.c, self.d, self.a), strict=True
        ):
            state.on(turn).to(following)
        self.make, self.go, self.note, self.set_key, self.drop, self.turn = (
            make,
            go,
            note,
            set_key,
            drop,
            turn,
        )

    def only(self, k: klerk.Klerk) -> Page:
        with k.read(TESTER) as r:
            (page,) = r.list(self.pages)
            return page


def mark(text: str) -> Any:
    """Return a function for an update that adds a word to the trace."""
    return lambda a: a.model.replace(trace=(*a.model.trace, text))


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def bank() -> Bank:
    return Bank()


# --- what blocks do -----------------------------------------------------------------------------------


def test_create_and_event(log: Log) -> None:
    with log.app.open() as k:
        made = k.handle(log.make(3), TESTER)
        assert (made.model.trace, made.model.size, made.model.meta.state) == (("make",), 3, log.a)
        gone = k.handle(log.go(made.id), TESTER)
        assert gone.model.trace == ("make", "go")
        assert gone.id == made.id
        assert log.only(k) == gone.model


def test_order_within_an_event(log: Log) -> None:
    """Updates, then exit, then the new state, then enter, then commands, in whatever order declared."""
    log.a.on(log.go).commands(lambda a: log.note(a.model.meta.id, f"command in {a.model.meta.state}")).to(
        log.b
    )
    log.a.on(log.go).update(mark("update"))
    log.a.on_exit.update(lambda a: a.model.replace(trace=(*a.model.trace, f"exit {a.model.meta.state}")))
    log.b.on_enter.update(lambda a: a.model.replace(trace=(*a.model.trace, f"enter {a.model.meta.state}")))
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        result = k.handle(log.go(id), TESTER)
        assert result.model.trace == ("make", "go", "update", "exit a", "enter b", "command in b")
        assert result.model.meta.state is log.b
        assert result.model.meta.version == 2


def test_order_within_a_create_event(log: Log) -> None:
    """The model is made, then its state entered, then the commands run: as for any event."""
    log.make.commands(lambda a: log.note(a.model.meta.id, "command"))
    log.a.on_enter.update(mark("enter"))
    with log.app.open() as k:
        assert k.handle(log.make(), TESTER).model.trace == ("make", "enter", "command")


def test_enter_of_the_first_state_runs(log: Log) -> None:
    log.a.on_enter.update(mark("enter")).to(log.c)
    log.c.on_enter.update(mark("enter c"))
    with log.app.open() as k:
        model = k.handle(log.make(), TESTER).model
        assert (model.trace, model.meta.state, model.meta.version) == (("make", "enter", "enter c"), log.c, 1)


def test_an_event_without_an_update_changes_nothing_but_the_state(log: Log) -> None:
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        turned = k.handle(log.turn(id), TESTER).model
        assert (turned.trace, turned.meta.state) == (("make",), log.b)


@pytest.mark.parametrize(("size", "state"), [(1, "b"), (2, "c"), (3, "d"), (0, "a")])
def test_to_when(log: Log, size: int, state: str) -> None:
    log.a.on(log.go).to_when(
        {
            (lambda a, size: size == 1): log.b,
            (lambda a, size: size in (1, 2)): log.c,
            (lambda a: a.model.size == 3): log.d,
        }
    )
    with log.app.open() as k:
        id = k.handle(log.make(3 if size == 3 else 0), TESTER).id
        assert str(k.handle(log.go(id, size), TESTER).model.meta.state) == state


def test_to_when_sees_the_update_and_falls_back(log: Log) -> None:
    log.a.on(log.go).to_when({lambda a: a.model.trace[-1] != "go": log.b}, otherwise=log.c)
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        assert k.handle(log.go(id), TESTER).model.meta.state is log.c


@pytest.mark.parametrize("holds", [True, False])
def test_when(log: Log, holds: bool) -> None:
    calls: list[str] = []
    block = log.a.on(log.go)
    block.update(mark("update"), when=lambda a, size: size == 1)
    block.to(log.b, when=lambda a, size: size == 1)
    block.commands(lambda a: log.make(7), when=lambda a, size: size == 1)
    block.unmanaged_job(lambda a: calls.append("unmanaged"), when=lambda a, size: size == 1)
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        result = k.handle(log.go(id, 1 if holds else 0), TESTER)
        assert result.model.trace == (("make", "go", "update") if holds else ("make", "go"))
        assert result.model.meta.state is (log.b if holds else log.a)
        assert len(result.created) == holds
    assert calls == (["unmanaged"] if holds else [])


def test_deletion_with_a_condition(log: Log) -> None:
    log.a.on(log.go).delete(when=lambda a, size: size > a.model.size)
    with log.app.open() as k:
        id = k.handle(log.make(3), TESTER).id
        assert k.handle(log.go(id, 3), TESTER).deleted == ()
        result = k.handle(log.go(id, 4), TESTER)
        assert result.deleted == (id,)
        with pytest.raises(LookupError, match=f"Page {id} was deleted"):
            _ = result.model
        with pytest.raises(NotFound, match=f"there is no Page {id}"):
            k.handle(log.go(id), TESTER)
        with k.read(TESTER) as r:
            assert (r.count(log.pages), r.count(log.a), r.find(id)) == (0, 0, None)


def test_exit_runs_before_a_deletion(log: Log) -> None:
    log.a.on_exit.commands(lambda a: log.make(a.model.size + 1))
    with log.app.open() as k:
        id = k.handle(log.make(3), TESTER).id
        k.handle(log.drop(id), TESTER)
        assert log.only(k).size == 4


@pytest.mark.parametrize("as_generator", [True, False])
def test_secondary_commands_see_what_the_transaction_made(log: Log, as_generator: bool) -> None:
    def two(a: Args) -> Any:
        yield log.make(1, "first")
        yield log.note(a.read.first(log.by_key("first")).meta.id, "second")

    log.a.on(log.go).commands(two if as_generator else lambda a: [log.make(1, "first")])
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        result = k.handle(log.go(id), TESTER)
        (made,) = result.created
        assert made.trace == (("make", "second") if as_generator else ("make",))
        assert made.meta.version == 1
        assert [model.meta.id for model in result.updated] == [id]


def test_a_generator_receives_what_its_commands_did(log: Log) -> None:
    seen: list[Any] = []

    def chain(a: Args) -> Any:
        outcome = yield log.make(1)
        seen.append(outcome.id)
        outcome = yield log.note(outcome.id, "chained")
        seen.append(outcome.model.trace)

    log.a.on(log.go).commands(chain)
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        k.handle(log.go(id), TESTER)
        assert seen == [id + 1, ("make", "chained")]


@pytest.mark.parametrize("function", [lambda a: None, lambda a: [], lambda a: (), lambda a: iter(())])
def test_no_commands(log: Log, function: Any) -> None:
    log.a.on(log.go).commands(function)
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        assert len(k.handle(log.go(id), TESTER).models) == 1


def test_secondary_commands_need_no_permission_of_their_own() -> None:
    app = App("narrow")
    pages = app.machine(Page)
    (there,) = pages.states("there")

    @pages.create(into=there)
    def make(a: Args) -> Page:
        return Page()

    @pages.create(into=there)
    def make_two(a: Args) -> Page:
        return Page(size=2)

    make_two.commands(lambda a: make())
    app.allow.command(make_two)(lambda a: True)
    app.allow.read()(lambda a: True)
    with app.open() as k:
        assert k.handle(make_two(), TESTER).sequence == 1
        with pytest.raises(klerk.Denied):
            k.handle(make(), TESTER)
        with k.read(TESTER) as r:
            assert r.count(pages) == 2


def test_a_secondary_command_changes_the_model_itself(log: Log) -> None:
    """What a block does after its commands builds on what they did: nothing is lost, and the index agrees."""
    log.a.on(log.go).commands(lambda a: log.set_key(a.model.meta.id, "new")).delete(
        when=lambda a, size: size == 1
    )
    with log.app.open() as k:
        id = k.handle(log.make(0, "old"), TESTER).id
        k.handle(log.go(id, 0), TESTER)
        with k.read(TESTER) as r:
            assert r.find(log.by_key, "new") == r.get(id)
            assert r.find(log.by_key, "old") is None
        k.handle(log.set_key(id, "old"), TESTER)
        k.handle(log.go(id, 1), TESTER)
        with k.read(TESTER) as r:
            assert r.list(log.pages) == []
            assert r.list(log.by_key("old")) == r.list(log.by_key("new")) == []
        k.handle_all([log.make(0, "old"), log.make(0, "new")], TESTER)


def test_a_command_on_enter_is_not_undone_by_the_blocks_after_it(log: Log) -> None:
    log.b.on_enter.commands(lambda a: log.note(a.model.meta.id, "command"))
    log.a.on(log.go).to(log.b).job(lambda a: seen.append(a.model.trace))  # type: ignore[func-returns-value]
    seen: list[Any] = []
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        assert k.handle(log.go(id), TESTER).model.trace == ("make", "go", "command")
        assert seen == [("make", "go", "command")]


def test_a_command_on_exit_is_not_undone_by_the_transition(log: Log) -> None:
    log.a.on_exit.commands(lambda a: log.set_key(a.model.meta.id, "left"))
    with log.app.open() as k:
        id = k.handle(log.make(0, "there"), TESTER).id
        k.handle(log.turn(id), TESTER)
        with k.read(TESTER) as r:
            assert (r.get(id).key, r.get(id).meta.state) == ("left", log.b)
            assert r.find(log.by_key, "left") == r.get(id)
            assert r.find(log.by_key, "there") is None


def test_a_command_of_a_create_event_is_not_undone_on_enter(log: Log) -> None:
    log.make.commands(
        lambda a: log.set_key(a.model.meta.id, "renamed"), when=lambda a: a.model.key == "first"
    )
    log.a.on_enter.update(mark("enter"))
    with log.app.open() as k:
        id = k.handle(log.make(0, "first"), TESTER).id
        with k.read(TESTER) as r:
            assert r.get(id).key == "renamed"
            assert "enter" in r.get(id).trace
            assert r.find(log.by_key, "first") is None
            assert r.find(log.by_key, "renamed") == r.get(id)


def test_a_model_deleted_by_a_secondary_command_stays_deleted(log: Log) -> None:
    log.a.on(log.go).commands(lambda a: log.drop(a.model.meta.id)).delete()
    log.make.commands(lambda a: log.drop(a.model.meta.id), when=lambda a: a.model.size == 9)
    log.a.on_enter.update(mark("enter"))
    with log.app.open() as k:
        id = k.handle(log.make(0, "key"), TESTER).id
        k.handle(log.go(id), TESTER)
        k.handle(log.make(9, "key"), TESTER)
        with k.read(TESTER) as r:
            assert r.list(log.pages) == r.list(log.by_key("key")) == []
        # Its key is free again, and only once.
        k.handle(log.make(0, "key"), TESTER)
        with pytest.raises(Conflict):
            k.handle(log.make(0, "key"), TESTER)


@pytest.mark.parametrize("through", ["commands", "enter"])
def test_nesting_is_bounded(log: Log, through: str) -> None:
    if through == "commands":
        log.a.on(log.go).commands(lambda a: log.go(a.model.meta.id))
    else:
        log.a.on_enter.to(log.b)
        log.b.on_enter.to(log.a)
    with log.app.open() as k:
        start = log.make() if through == "commands" else log.make(1)
        if through == "enter":
            with pytest.raises(LimitExceeded, match="more than 32 deep"):
                k.handle(start, TESTER)
            return
        id = k.handle(start, TESTER).id
        with pytest.raises(LimitExceeded, match="deeper than 32") as caught:
            k.handle(log.go(id), TESTER)
        assert caught.value.status == 413
        assert log.only(k).trace == ("make",)


def test_nesting_up_to_the_bound_works(log: Log) -> None:
    log.a.on(log.go).commands(lambda a, size: log.go(a.model.meta.id, size - 1) if size else None)
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        assert k.handle(log.go(id, 32), TESTER).model.trace == ("make", *["go"] * 33)
        with pytest.raises(LimitExceeded):
            k.handle(log.go(id, 33), TESTER)


def test_a_create_event_that_makes_nothing(log: Log) -> None:
    app = log.app

    @log.pages.create(into=log.a)
    def perhaps(a: Args, size: int) -> Page | None:
        return Page(size=size) if size else None

    with app.open() as k:
        result = k.handle(perhaps(0), TESTER)
        assert (result.id, result.models) == (None, ())
        with pytest.raises(LookupError, match="created no model"):
            _ = result.model
        assert k.handle(perhaps(1), TESTER).model.size == 1


def test_unmanaged_jobs_see_the_model_as_it_was_committed(log: Log) -> None:
    calls: list[Any] = []
    log.a.on(log.go).unmanaged_job(
        lambda a: calls.append((a.model.trace, a.context.actor.id, a.parameters, a.now))
    )
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        k.handle(log.go(id, 5), TESTER.at(NOON))
    assert calls == [(("make", "go"), "tester", {"size": 5}, NOON)]


def test_args_show_what_the_command_is(log: Log) -> None:
    seen: list[Any] = []

    @log.go.rule
    def look(a: Args[Page], size: int) -> bool:
        seen.append((a.command.event is log.go, a.parameters, a.now, a.context.actor, a.model.meta.id, size))
        return True

    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        k.handle(log.go(id, size=4), TESTER.at(NOON))
        assert seen == [(True, {"size": 4}, NOON, TESTER.actor, id, 4)]


# --- how commands are refused -------------------------------------------------------------------------


def test_wrong_state(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 5), TESTER).id
        k.handle(bank.close(ada), TESTER)
        with pytest.raises(WrongState, match="deposit is not accepted in state 'closed'") as caught:
            k.handle(bank.deposit(ada, 1), TESTER)
        assert (caught.value.status, caught.value.problems[0].code) == (409, "wrong_state")
        assert bank.contents(k) == {ada: ("Ada", 5, "closed")}


@pytest.mark.parametrize("target", [0, -1, 99, 2**63, 2**70, "1", None, 1.0, True])
def test_unknown_target(bank: Bank, target: Any) -> None:
    with bank.app.open() as k:
        k.handle(bank.enter("Ada", 5), TESTER)
        with pytest.raises(NotFound, match="there is no Account") as caught:
            k.handle(bank.deposit(target, 1), TESTER)
        assert isinstance(caught.value, LookupError)
        assert caught.value.status == 404


def test_target_of_another_class(bank: Bank) -> None:
    class Safe(Model):
        size: int

    safes = bank.app.machine(Safe)
    (there,) = safes.states("there")

    @safes.create(into=there)
    def build(a: Args, account: Ref[Account]) -> Safe:
        return Safe(size=1)

    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        safe = k.handle(build(ada), TESTER).id
        with pytest.raises(NotFound, match=f"there is no Account {safe}"):
            k.handle(bank.deposit(safe, 1), TESTER)
        with pytest.raises(BrokenReference, match=f"account: there is no Account {safe}"):
            k.handle(build(safe), TESTER)


@pytest.mark.parametrize("reference", [0, -5, 77, 2**64])
def test_broken_reference(bank: Bank, reference: int) -> None:
    with bank.app.open() as k:
        with pytest.raises(BrokenReference) as caught:
            k.handle(bank.enter("Ada", 5, reference), TESTER)
        (problem,) = caught.value.problems
        assert (problem.code, problem.path) == ("broken_reference", "guarantor")
        assert isinstance(caught.value, InvalidValue)
        assert isinstance(caught.value, NotFound)
        assert caught.value.status == 422
        assert bank.contents(k) == {}


def test_broken_references_inside_of_values_are_named() -> None:
    app = App("nested")

    class Part(Model):
        others: "tuple[Ref[Part], ...]" = ()

    parts = app.machine(Part)
    (there,) = parts.states("there")
    permit_everything(app)

    @parts.create(into=there)
    def make(a: Args, others: tuple[Ref[Part], ...]) -> Part:
        return Part(others=others)

    @parts.event(there)
    def drop(a: Args[Part]) -> None: ...

    there.on(drop).delete()
    with app.open() as k:
        first = k.handle(make(()), TESTER).id
        with pytest.raises(BrokenReference, match="there is no Part 98") as caught:
            k.handle(make((first, 98, 99)), TESTER)
        assert len(caught.value.problems) == 2
        second = k.handle(make((first, first)), TESTER).id
        with pytest.raises(Conflict, match="'others' of Part refers to it"):
            k.handle(drop(first), TESTER)
        k.handle(drop(second), TESTER)
        k.handle(drop(first), TESTER)


def test_wrong_arguments(bank: Bank) -> None:
    make: Any = bank.enter
    deposit: Any = bank.deposit
    with pytest.raises(ArgumentError, match=r"enter needs 'owner'") as caught:
        make()
    assert isinstance(caught.value, TypeError)
    with pytest.raises(ArgumentError, match="takes 3 arguments, got 4"):
        make("Ada", 1, None, 4)
    with pytest.raises(ArgumentError, match="has no parameter 'colour'"):
        make("Ada", colour="red")
    with pytest.raises(ArgumentError, match="got 'owner' twice"):
        make("Ada", owner="Ada")
    with pytest.raises(ArgumentError, match="needs the model it happens to"):
        deposit()
    with pytest.raises(ArgumentError, match="needs 'amount'"):
        deposit(1)


def test_what_is_no_command_or_context(bank: Bank) -> None:
    with bank.app.open() as k:
        handle: Any = k.handle
        with pytest.raises(ArgumentError, match="expected a command, got list"):
            handle([bank.enter("Ada")], TESTER)
        with pytest.raises(ArgumentError, match="expected a list of commands, got one"):
            k.handle_all(bank.enter("Ada"), TESTER)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="expected a command, got int"):
            k.handle_all([bank.enter("Ada"), 5], TESTER)  # type: ignore[list-item]
        with pytest.raises(ArgumentError, match="expected a context, got NoneType"):
            handle(bank.enter("Ada"), None)
        with pytest.raises(ArgumentError, match="has no time zone"):
            handle(bank.enter("Ada"), TESTER.at(NOON.replace(tzinfo=None)))
        with pytest.raises(ArgumentError, match="belongs to another app"):
            handle(Bank().enter("Ada"), TESTER)
        assert bank.contents(k) == {}


def test_every_rule_that_does_not_hold_is_named(bank: Bank) -> None:
    @bank.withdraw.rule
    def round_amount(a: Args[Account], amount: int) -> bool:
        """Only whole hundreds
        can be paid out.

        The machine has no coins.
        """
        return amount % 100 == 0

    @bank.withdraw.rule
    def early(a: Args[Account]) -> bool:
        return a.now.hour < 20

    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 500), TESTER).id
        with pytest.raises(Rejected) as caught:
            k.handle(bank.withdraw(ada, 701), TESTER.at(NOON.replace(hour=21)))
        assert [(problem.code, problem.message) for problem in caught.value.problems] == [
            ("covered", "There is not that much in the account."),
            ("round_amount", "Only whole hundreds can be paid out."),
            ("early", "early"),
        ]
        assert caught.value.status == 422
        k.handle(bank.withdraw(ada, 300), TESTER.at(NOON))
        assert bank.contents(k) == {ada: ("Ada", 200, "active")}


def test_rules_of_the_model_hold_for_every_version(bank: Bank) -> None:
    @bank.accounts.rule
    def not_seven(account: Account) -> bool:
        """Seven is unlucky."""
        return account.balance != 7

    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 6), TESTER).id
        with pytest.raises(Rejected, match="Seven is unlucky") as caught:
            k.handle(bank.deposit(ada, 1), TESTER)
        assert caught.value.problems[0].code == "not_seven"
        with pytest.raises(Rejected):
            k.handle(bank.enter("Bob", 7), TESTER)
        bob = k.handle(bank.enter("Bob", 8), TESTER).id
        with pytest.raises(Rejected):
            k.handle(bank.transfer(bob, ada, 1), TESTER)
        assert bank.contents(k) == {ada: ("Ada", 6, "active"), bob: ("Bob", 8, "active")}


def test_a_value_out_of_bounds_after_an_update(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 1_000_000), TESTER).id
        bob = k.handle(bank.enter("Bob", 5), TESTER).id
        with pytest.raises(InvalidValue, match="Account: balance: must be at most 1000000, is 1000001"):
            k.handle(bank.deposit(ada, 1), TESTER)
        with pytest.raises(InvalidValue):
            k.handle(bank.transfer(bob, ada, 1), TESTER)
        assert bank.contents(k) == {ada: ("Ada", 1_000_000, "active"), bob: ("Bob", 5, "active")}


# --- unique keys and references -----------------------------------------------------------------------


def test_a_unique_key(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        bob = k.handle(bank.enter("Bob"), TESTER).id
        with pytest.raises(Conflict, match="another Account has 'Ada' already") as caught:
            k.handle(bank.enter("Ada"), TESTER)
        assert caught.value.status == 409
        with pytest.raises(Conflict):
            k.handle(bank.rename(bob, "Ada"), TESTER)
        k.handle(bank.rename(ada, "Ada"), TESTER)
        k.handle(bank.rename(ada, "Eve"), TESTER)
        k.handle(bank.rename(bob, "Ada"), TESTER)
        k.handle(bank.remove(ada), TESTER)
        new = k.handle(bank.enter("Eve"), TESTER).id
        with k.read(TESTER) as r:
            assert [r.find(bank.by_owner, name) for name in ("Ada", "Bob", "Eve")] == [
                r.get(bob),
                None,
                r.get(new),
            ]


def test_a_unique_key_within_one_transaction(bank: Bank) -> None:
    with bank.app.open() as k:
        with pytest.raises(Conflict):
            k.handle_all([bank.enter("Ada"), bank.enter("Ada")], TESTER)
        assert bank.contents(k) == {}
        ada, bob = (result.id for result in k.handle_all([bank.enter("Ada"), bank.enter("Bob")], TESTER))
        # What counts is the end of the transaction: names can be exchanged.
        k.handle_all([bank.rename(ada, "Bob"), bank.rename(bob, "Ada")], TESTER)
        assert bank.contents(k) == {ada: ("Bob", 0, "active"), bob: ("Ada", 0, "active")}
        with pytest.raises(Conflict, match=f"another Account has 'Ada' already: {bob}"):
            k.handle_all([bank.rename(ada, "Eve"), bank.rename(ada, "Ada")], TESTER)
        k.handle_all([bank.remove(ada), bank.enter("Bob", 3)], TESTER)
        with k.read(TESTER) as r:
            assert r.find(bank.by_owner, "Ada") == r.get(bob)
            found = r.find(bank.by_owner, "Bob")
            assert found is not None
            assert found.balance == 3
            assert r.find(bank.by_owner, "?") is None
        with pytest.raises(Conflict):
            k.handle_all([bank.enter("Eve"), bank.remove(bob), bank.enter("Ada"), bank.enter("Ada")], TESTER)
        assert {owner for owner, _, _ in bank.contents(k).values()} == {"Ada", "Bob"}


def test_a_model_that_is_referred_to_cannot_be_deleted(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        bob = k.handle(bank.enter("Bob", 0, ada), TESTER).id
        with pytest.raises(
            Conflict, match=f"Account {ada} cannot be deleted: 'guarantor' of Account refers to it"
        ):
            k.handle(bank.remove(ada), TESTER)
        with pytest.raises(Conflict):
            k.handle_all([bank.remove(ada), bank.enter("Eve")], TESTER)
        assert set(bank.contents(k)) == {ada, bob}
        # In one transaction the order does not matter.
        k.handle_all([bank.remove(ada), bank.remove(bob)], TESTER)
        assert bank.contents(k) == {}


def test_everything_that_contradicts_what_is_stored_is_named() -> None:
    app = App("desk")

    class Person(Model):
        name: str
        mail: str
        friend: "Ref[Person] | None" = None
        foe: "Ref[Person] | None" = None

    permit_everything(app)
    people = app.machine(Person)
    (here,) = people.states("here", final=("here",))
    people.index(lambda m: m.name, unique=True)
    people.index(lambda m: m.mail, unique=True)

    @people.create(into=here)
    def enter(
        a: Args, name: str, mail: str, friend: Ref[Person] | None = None, foe: Ref[Person] | None = None
    ) -> Person:
        return Person(name=name, mail=mail, friend=friend, foe=foe)

    @people.event(here)
    def leave(a: Args[Person]) -> None: ...

    here.on(leave).delete()
    with app.open() as k:
        ada = k.handle(enter("Ada", "a@"), TESTER).id
        with pytest.raises(Conflict) as caught:
            k.handle(enter("Ada", "a@"), TESTER)
        assert [(p.key, p.values["key"], p.values["id"]) for p in caught.value.problems] == [
            ("taken", "Ada", ada),
            ("taken", "a@", ada),
        ]
        assert str(caught.value).startswith("2 problems:\n  - another Person has 'Ada' already")
        # Both of two new ones would have the key of the other: that is one problem.
        with pytest.raises(Conflict) as caught:
            k.handle_all([enter("Bob", "b@"), enter("Bob", "c@")], TESTER)
        assert [p.values["key"] for p in caught.value.problems] == ["Bob"]
        assert "It would have to be unique" in str(caught.value)
        k.handle(enter("Eve", "e@", ada, ada), TESTER)
        with pytest.raises(Conflict) as caught:
            k.handle_all([leave(ada), enter("Eve", "x@")], TESTER)
        assert [(p.key, p.values.get("field")) for p in caught.value.problems] == [
            ("still_referred", "friend"),
            ("still_referred", "foe"),
            ("taken", None),
        ]
        assert all(p.hint for p in caught.value.problems)
        with k.read(TESTER) as r:
            assert [m.name for m in r.list(people)] == ["Ada", "Eve"]


def test_a_reference_to_a_model_that_is_being_deleted(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        with pytest.raises(BrokenReference):
            k.handle_all([bank.remove(ada), bank.enter("Bob", 0, ada)], TESTER)
        with pytest.raises(Conflict):
            k.handle_all([bank.enter("Bob", 0, ada), bank.remove(ada)], TESTER)
        assert bank.contents(k) == {ada: ("Ada", 0, "active")}


def test_a_model_may_refer_to_itself_when_it_is_deleted() -> None:
    app = App("loop")

    class Part(Model):
        next: "Ref[Part] | None" = None

    parts = app.machine(Part)
    (there,) = parts.states("there")
    permit_everything(app)

    @parts.create(into=there)
    def make(a: Args) -> Part:
        return Part()

    @parts.event(there)
    def link(a: Args[Part], next: Ref[Part]) -> Part:
        return a.model.replace(next=next)

    @parts.event(there)
    def drop(a: Args[Part]) -> None: ...

    there.on(drop).delete()
    with app.open() as k:
        id = k.handle(make(), TESTER).id
        k.handle(link(id, id), TESTER)
        assert k.handle(drop(id), TESTER).deleted == (id,)


# --- functions that fail ------------------------------------------------------------------------------


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("on purpose")


def where_functions_can_fail() -> dict[str, Any]:
    """Ways to put `broken` into a design, by name."""
    return {
        "event rule": lambda log: log.go.rule(broken),
        "model rule": lambda log: log.pages.rule(lambda m: m.trace != ("make", "go") or broken()),
        "allow rule": lambda log: log.app.deny.command(log.go)(broken),
        "update": lambda log: log.a.on(log.go).update(broken),
        "condition": lambda log: log.a.on(log.go).update(mark("x"), when=broken),
        "to_when": lambda log: log.a.on(log.go).to_when({broken: log.b}),
        "commands": lambda log: log.a.on(log.go).commands(broken),
        "generator": lambda log: log.a.on(log.go).commands(lambda a: (broken() for _ in range(1))),
        "job": lambda log: log.a.on(log.go).job(broken),
        "on_exit": lambda log: log.a.on(log.go).to(log.b) and log.a.on_exit.update(broken),
        "on_enter": lambda log: log.a.on(log.go).to(log.b) and log.b.on_enter.update(broken),
        "timer": lambda log: log.a.on(log.go).to(log.b) and log.b.at(broken).to(log.c),
        "index": lambda log: log.pages.index(lambda m: None if m.trace == ("make",) else broken()),
    }


@pytest.mark.parametrize("place", where_functions_can_fail())
def test_a_function_that_raises_is_named_and_the_system_goes_on(log: Log, place: str) -> None:
    where_functions_can_fail()[place](log)
    with log.app.open() as k:
        id = k.handle(log.make(0, "key"), TESTER).id
        before, sequence = log.only(k), k.sequence
        for _ in range(2):
            with pytest.raises(FunctionFailed, match="ZeroDivisionError: on purpose") as caught:
                k.handle(log.go(id), TESTER)
            assert "test_commands.py" in str(caught.value)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert caught.value.status == 500
        assert (log.only(k), k.sequence) == (before, sequence)
        with k.read(TESTER) as r:
            assert r.find(log.by_key, "key") == before
        assert k.handle(log.make(), TESTER).sequence == sequence + 1


@pytest.mark.parametrize("given", [5, "text", Account(owner="Ada")])
def test_an_event_that_returns_something_else(log: Log, given: Any) -> None:
    log.a.on(log.go).update(lambda a: given)
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        with pytest.raises(FunctionFailed, match=r"test_commands\.py.* returned \w+, expected Page or None"):
            k.handle(log.go(id), TESTER)
        assert log.only(k).trace == ("make",)


@pytest.mark.parametrize("given", [5, ["x"], (1,), [None]])
def test_commands_that_are_none(log: Log, given: Any) -> None:
    log.a.on(log.go).commands(lambda a: given)
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        with pytest.raises((ArgumentError, FunctionFailed)) as caught:
            k.handle(log.go(id), TESTER)
        assert "command" in str(caught.value)
        assert log.only(k).trace == ("make",)


def test_a_rule_that_forgets_to_return(log: Log) -> None:
    @log.go.rule
    def forgetful(a: Args[Page]) -> bool:
        if a.model.size:
            return True
        return None  # type: ignore[return-value]

    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        with pytest.raises(FunctionFailed, match=r"forgetful .*test_commands\.py.* returned None"):
            k.handle(log.go(id), TESTER)


def test_functions_may_refuse_by_raising(log: Log) -> None:
    def refuse(a: Args) -> Any:
        raise Rejected("not today", code="closed_today")

    log.a.on(log.go).update(refuse)
    with log.app.open() as k:
        id = k.handle(log.make(), TESTER).id
        with pytest.raises(Rejected, match="not today") as caught:
            k.handle(log.go(id), TESTER)
        assert caught.value.code == "closed_today"
        assert log.only(k).trace == ("make",)

"""Models are immutable, know whether they are stored, and show what they hold."""

import copy
from datetime import UTC, timedelta
from typing import Any

import msgspec
import pytest
from designs import NOON, TESTER, Account, Bank, Clock

from klerk import Model


@pytest.fixture
def bank() -> Bank:
    return Bank()


def test_a_draft_has_no_meta() -> None:
    draft = Account(owner="Ada", balance=5)
    with pytest.raises(AttributeError, match="this Account is a draft"):
        _ = draft.meta
    assert not hasattr(draft, "meta")
    assert repr(draft) == "Account(owner='Ada', balance=5, guarantor=None)"
    assert draft == Account(owner="Ada", balance=5)
    assert draft.as_dict() == {"owner": "Ada", "balance": 5, "guarantor": None}


def test_a_stored_model_knows_its_meta(bank: Bank) -> None:
    clock = Clock()
    with bank.app.open(clock=clock) as k:
        ada = k.handle(bank.enter("Ada", 5), TESTER).model
        meta = ada.meta
        assert (meta.id, meta.state, meta.version) == (1, bank.active, 1)
        assert meta.created_at == meta.updated_at == meta.entered_at == NOON
        assert meta.created_at.tzinfo is UTC
        assert meta.due_at is None
        assert repr(ada) == "Account(id=1, state='active', owner='Ada', balance=5, guarantor=None)"

        clock.advance(timedelta(hours=1))
        changed = k.handle(bank.deposit(meta.id, 5), TESTER).model.meta
        assert (changed.version, changed.entered_at, changed.updated_at) == (2, NOON, clock.now)
        clock.advance(timedelta(hours=1))
        moved = k.handle(bank.close(meta.id), TESTER).model.meta
        assert (moved.version, moved.state, moved.entered_at) == (3, bank.closed, clock.now)
        assert moved.created_at == NOON
        # What was read before is as it was.
        assert (ada.balance, ada.meta.version, ada.meta.state) == (5, 1, bank.active)


def test_one_version_for_each_transaction(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        k.handle_all([bank.deposit(ada, 1), bank.deposit(ada, 2), bank.close(ada)], TESTER)
        with k.read(TESTER) as r:
            model = r.get(ada)
        assert (model.balance, model.meta.version) == (3, 2)


@pytest.mark.parametrize("name", ["owner", "balance", "meta", "_meta", "new"])
def test_nothing_of_a_model_can_be_set(bank: Bank, name: str) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).model
        before = repr(ada), ada.meta
        for model in (ada, Account(owner="Ada")):
            with pytest.raises(AttributeError):
                setattr(model, name, 1)
            with pytest.raises(AttributeError):
                delattr(model, name)
        assert (repr(ada), ada.meta) == before


@pytest.mark.parametrize("name", ["id", "state", "version", "created_us", "due_us"])
def test_nothing_of_meta_can_be_set(bank: Bank, name: str) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).model
        before = getattr(ada.meta, name)
        with pytest.raises(AttributeError):
            setattr(ada.meta, name, 7)
        assert getattr(ada.meta, name) == before


def test_replace_gives_a_draft_and_leaves_the_model(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 5), TESTER).model
        draft = ada.replace(balance=6)
        assert (draft.owner, draft.balance, ada.balance) == ("Ada", 6, 5)
        assert not hasattr(draft, "meta")
        assert ada.meta.version == 1
        with pytest.raises(TypeError, match="colour"):
            ada.replace(colour="red")


def test_models_are_compared_with_their_meta(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada", 5), TESTER).model
        with k.read(TESTER) as r:
            assert r.get(ada.meta.id) == ada
        assert copy.copy(ada) == ada
        assert hash(copy.copy(ada)) == hash(ada)
        assert Account(owner="Ada", balance=5) != ada
        later = k.handle(bank.deposit(ada.meta.id, 0), TESTER).model
        assert later.as_dict() == ada.as_dict()
        assert later != ada


def test_fields_are_given_by_name_and_nothing_else() -> None:
    make: Any = Account
    with pytest.raises(TypeError):
        make("Ada")
    with pytest.raises(TypeError, match="owner"):
        make()
    with pytest.raises(TypeError, match="colour"):
        make(owner="Ada", colour="red")
    assert issubclass(Model, msgspec.Struct)


def test_what_an_event_returned_stays_usable_as_a_template() -> None:
    """A function may give the same draft twice: two models, neither of which changes the other."""
    template = Account(owner="Ada")
    app = Bank().app
    accounts = next(iter(app.machines.values()))

    @accounts.create(into=accounts.all_states[0])
    def stamp(a: Any) -> Account:
        return template

    @accounts.event(accounts.all_states[0])
    def press(a: Any, owner: str) -> Account:
        return a.model.replace(owner=owner)

    with app.open() as k:
        first = k.handle(stamp(), TESTER).id
        k.handle(press(first, "Bob"), TESTER)
        second = k.handle(stamp(), TESTER).id
        with k.read(TESTER) as r:
            assert [(m.meta.id, m.owner) for m in r.list(accounts)] == [(first, "Bob"), (second, "Ada")]

"""A token lets a command take effect once: in threads, tasks, lists, across restarts and kills, for its time.

Every case sends a command again that was handled, or may have been, and looks at the models, in which an
effect too many would show. Killed processes are real ones.
"""

import asyncio
import copy
import pickle
import random
import signal
import string
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from designs import (
    NOON,
    TESTER,
    Account,
    Bank,
    Brake,
    Clock,
    Spawned,
    eventually,
    processed,
    python_environment,
)

import klerk
from klerk import MASKED, App, Args, Context, Token, User, limits
from klerk.storage import Family, RocksStorage

DAY = timedelta(days=1)
PRELUDE = """
import os
import klerk
from designs import Bank, TESTER
bank = Bank()
"""


@pytest.fixture
def bank() -> Bank:
    return Bank()


def entered(k: klerk.Klerk, bank: Bank, owner: str = "Ada", balance: int = 0) -> Account:
    account = k.handle(bank.enter(owner, balance), TESTER).model
    assert isinstance(account, Account)
    return account


def balance_of(k: klerk.Klerk, account: Account) -> int:
    with k.read(TESTER) as r:
        return r.get(account.meta.id).balance


# --- the same token, the same outcome -----------------------------------------------------------------


@pytest.mark.parametrize("as_text", [False, True])
def test_the_second_use_returns_the_first_outcome(bank: Bank, as_text: bool) -> None:
    with bank.app.open() as k:
        token: Any = str(k.token()) if as_text else k.token()
        first = k.handle(bank.enter("Ada", 5), TESTER, token=token)
        k.handle(bank.deposit(first.id, 1), TESTER)
        again = k.handle(bank.enter("Ada", 5), TESTER, token=token)
        assert (first.repeated, again.repeated) == (False, True)
        assert (again.id, again.sequence, again.jobs) == (first.id, first.sequence, ())
        assert again.model == first.model
        assert (again.model.balance, again.model.meta) == (5, first.model.meta)
        assert (again.created, again.models) == (first.created, first.models)
        assert (again.updated, again.deleted) == ((), ())
        assert isinstance(again, klerk.Result)
        assert bank.contents(k) == {first.id: ("Ada", 6, "active")}


def test_every_part_of_the_first_outcome_comes_back(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, bob = entered(k, bank, "Ada", 10), entered(k, bank, "Bob")
        token = k.token()
        commands = [
            bank.transfer(ada.meta.id, bob.meta.id, 3),
            bank.enter("Eve"),
            bank.remove(ada.meta.id),
        ]
        first = k.handle_all(commands, TESTER, token=token)
        k.handle(bank.deposit(bob.meta.id, 100), TESTER)
        again = k.handle_all(commands, TESTER, token=token)
        assert [each.id for each in again] == [each.id for each in first]
        assert {each.sequence for each in again} == {first[0].sequence}
        for mine, theirs in zip(again, first, strict=True):
            assert mine.repeated
            assert mine.created == theirs.created
            assert mine.updated == theirs.updated
            assert mine.deleted == theirs.deleted == (ada.meta.id,)
        assert again[1].model.owner == "Eve"
        with pytest.raises(LookupError, match="deleted"):
            _ = again[0].model
        assert len(bank.contents(k)) == 2


def test_jobs_are_created_once_and_shown_again(tmp_path: Path) -> None:
    bank = Bank()

    @bank.app.job()
    def greet(job: klerk.JobRun, account: klerk.Ref[Account]) -> None: ...

    bank.active.on(bank.deposit).job(greet)
    with bank.app.open(tmp_path / "store", job_threads=0) as k:
        ada, token = entered(k, bank), k.token()
        first = k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=token)
        again = k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=token)
        assert [job.id for job in again.jobs] == [job.id for job in first.jobs] == [1]
        assert len(k.jobs.live()) == 1


def test_a_command_that_changes_nothing_shows_the_model_as_it_is_now() -> None:
    bank = Bank()

    @bank.accounts.event(bank.active)
    def look(a: Args[Account]) -> None: ...

    with bank.app.open() as k:
        ada, token = entered(k, bank), k.token()
        assert k.handle(look(ada.meta.id), TESTER, token=token).model == ada
        k.handle(bank.deposit(ada.meta.id, 1), TESTER)
        again = k.handle(look(ada.meta.id), TESTER, token=token)
        assert (again.id, again.models, again.model.balance) == (ada.meta.id, (), 1)


def test_a_transaction_that_does_nothing_uses_its_token_too(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, token = entered(k, bank), k.token()
        assert k.handle_all([], TESTER, token=token) == []
        assert k.handle_all([], TESTER, token=token) == []
        with pytest.raises(klerk.Conflict) as caught:
            k.handle_all([bank.deposit(ada.meta.id, 1)], TESTER, token=token)
        assert caught.value.code == "token_reused"


def test_a_generator_runs_once_and_cannot_be_compared(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, token, runs = entered(k, bank), k.token(), []

        def twice(a: Args) -> Any:
            runs.append(1)
            result = yield bank.deposit(ada.meta.id, 1)
            yield bank.deposit(ada.meta.id, result.model.balance)

        def another(a: Args) -> Any:
            runs.append(2)
            return bank.deposit(ada.meta.id, 50)

        first = k.handle_all(twice, TESTER, token=token)
        for function in (twice, another):
            again = k.handle_all(function, TESTER, token=token)
            assert [each.id for each in again] == [each.id for each in first] == [ada.meta.id] * 2
            assert again[0].model.balance == 2
        with pytest.raises(klerk.Conflict, match="something else"):
            k.handle_all([bank.deposit(ada.meta.id, 1)], TESTER, token=token)
        assert runs == [1]
        assert balance_of(k, ada) == 2


def test_duplicates_in_flight_take_effect_once(bank: Bank) -> None:
    brake = Brake(bank)
    with bank.app.open() as k:
        ada, token = entered(k, bank), k.token()
        brake.armed = True
        blocker = Spawned(k.handle, bank.rename(ada.meta.id, "Ada L"), TESTER)
        assert brake.reached.wait(20)
        # All of these wait in the queue, and are processed as one group.
        futures = [k.submit(bank.deposit(ada.meta.id, 1), TESTER, token=token) for _ in range(5)]
        futures += [k.submit(bank.deposit(ada.meta.id, 2), TESTER, token=k.token())]
        brake.go.set()
        results = [future.result() for future in futures]
        blocker.end()
        assert [each.repeated for each in results] == [False, True, True, True, True, False]
        assert len({each.sequence for each in results[:5]}) == 1
        assert balance_of(k, ada) == 3


def test_threads_that_send_the_same_command_get_one_effect(bank: Bank, tmp_path: Path) -> None:
    with bank.app.open(tmp_path / "store") as k:
        ada = entered(k, bank)
        tokens = [k.token() for _ in range(100)]

        def send() -> list[tuple[bool, int]]:
            results = [k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=token) for token in tokens]
            return [(each.repeated, each.model.balance) for each in results]

        outcomes = [thread.end(60) for thread in [Spawned(send) for _ in range(8)]]
        for same in zip(*outcomes, strict=True):
            assert sum(not repeated for repeated, _ in same) == 1
            assert len({balance for _, balance in same}) == 1
        assert balance_of(k, ada) == 100


def test_tasks_that_send_the_same_command_get_one_effect(bank: Bank) -> None:
    async def send_all(k: klerk.Klerk, account: Account) -> None:
        token = k.aio.token(account)
        assert k.aio.parse_token(str(token)) == token
        command = bank.deposit(account.meta.id, 1)
        results = await asyncio.gather(*(k.aio.handle(command, TESTER, token=token) for _ in range(50)))
        assert sum(not each.repeated for each in results) == 1
        again = await (await k.aio.submit(command, TESTER, token=str(token)))
        assert again.repeated
        assert (await k.aio.check(command, TESTER, token=token)).repeated
        token = k.aio.token()
        several = await asyncio.gather(*(k.aio.handle_all([command], TESTER, token=token) for _ in range(9)))
        assert sum(not each.repeated for (each,) in several) == 1
        (again,) = await (await k.aio.submit_all([command], TESTER, token=token))
        assert again.repeated

    with bank.app.open() as k:
        ada = entered(k, bank)
        asyncio.run(send_all(k, ada))
        assert balance_of(k, ada) == 2


def test_what_is_repeated_is_acknowledged_after_its_first_use(bank: Bank, tmp_path: Path) -> None:
    """A reader holds up the group of the first use while the second one is processed in another group."""
    with bank.app.open(tmp_path / "store") as k:
        ada, token = entered(k, bank), k.token()
        command = bank.deposit(ada.meta.id, 1)
        with k.read(TESTER):
            # In other threads, since whoever reads is refused.
            first = Spawned(lambda: k.submit(command, TESTER, token=token)).end()
            eventually(lambda: processed(k) == 2)
            second = Spawned(lambda: k.submit(command, TESTER, token=token)).end()
            third = Spawned(lambda: k.submit(bank.deposit(ada.meta.id, 5), TESTER, token=k.token())).end()
            assert not first.done()
            assert not second.done()
        assert second.result(20).repeated
        assert first.done()
        assert second.result().model.balance == 1
        assert third.result(20).model.balance == 6


# --- what uses a token up, and for what ---------------------------------------------------------------


def test_a_token_is_good_for_one_thing(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, bob = entered(k, bank, "Ada", 10), entered(k, bank, "Bob")
        token = k.token()
        command = bank.deposit(ada.meta.id, 1)
        k.handle(command, TESTER, token=token)
        others: list[Callable[[], Any]] = [
            lambda: k.handle(bank.deposit(ada.meta.id, 2), TESTER, token=token),
            lambda: k.handle(bank.deposit(bob.meta.id, 1), TESTER, token=token),
            lambda: k.handle(bank.withdraw(ada.meta.id, 1), TESTER, token=token),
            lambda: k.handle(bank.enter("Eve"), TESTER, token=token),
            lambda: k.handle(bank.deposit(999, 1), TESTER, token=token),
            lambda: k.handle(bank.deposit("1", 1), TESTER, token=token),
            lambda: k.handle(bank.deposit(ada.meta.id, object()), TESTER, token=token),
            lambda: k.handle_all([command], TESTER, token=token),
            lambda: k.handle_all([command, command], TESTER, token=token),
            lambda: k.handle_all(lambda a: [command], TESTER, token=token),
            lambda: k.handle(command, Context(User("somebody else")), token=token),
            lambda: k.handle(command, Context(User("tester"), on_behalf_of=User("Ada")), token=token),
            lambda: k.check(bank.deposit(ada.meta.id, 2), TESTER, token=token),
        ]
        for other in others:
            with pytest.raises(klerk.Conflict) as caught:
                other()
            assert caught.value.code == "token_reused"
            assert caught.value.hint
        assert k.handle(command, Context(User("tester", roles=frozenset({"new"}))), token=token).repeated
        assert balance_of(k, ada) == 11
        assert len(bank.contents(k)) == 2


def test_a_list_is_compared_as_a_whole(bank: Bank) -> None:
    with bank.app.open() as k:
        token = k.token()
        k.handle_all([bank.enter("Ada"), bank.enter("Bob")], TESTER, token=token)
        for other in (["Ada"], ["Bob", "Ada"], ["Ada", "Bob", "Eve"], ["Ada", "Eve"], []):
            with pytest.raises(klerk.Conflict, match="something else"):
                k.handle_all([bank.enter(name) for name in other], TESTER, token=token)
        assert (
            k.handle_all([bank.enter("Ada"), bank.enter("Bob")], TESTER, token=token)[1].model.owner == "Bob"
        )


class Colour(klerk.Enum):
    RED = "red"
    GREEN = "green"


class Part(klerk.Model):
    share: float
    tags: frozenset[str]
    colours: frozenset[Colour]
    due: datetime | None = None


def parts_app() -> tuple[App, Any]:
    app = App("parts")
    parts = app.machine(Part)
    made, *_ = parts.states("made")

    @parts.create(into=made)
    def make(
        a: Args, share: float, tags: frozenset[str], colours: frozenset[Colour], due: datetime | None = None
    ) -> Part:
        return Part(share=share, tags=tags, colours=colours, due=due)

    app.allow.command()(lambda a: True)
    app.allow.read()(lambda a: True)
    app.allow.field()(lambda a: True)
    return app, make


PARTS = """
import klerk, sys
from test_tokens import Colour, parts_app
from designs import TESTER, NOON
app, make = parts_app()
with app.open("store") as k:
    tags = frozenset(f"tag {i}" for i in range(50))
    command = make(1, set(tags), frozenset(Colour), due=NOON)
    print(k.handle(command, TESTER, token=klerk.Token.derived("part", 1)).repeated)
"""


def test_a_command_is_the_same_in_every_process_however_it_is_written(tmp_path: Path) -> None:
    """Sets have another order in every process; 1 and 1.0 are one share, and one moment has many names."""
    app, make = parts_app()
    tags = frozenset(f"tag {i}" for i in range(50))
    for seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", PARTS],
            cwd=tmp_path,
            env={**python_environment(), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.stderr, ran.stdout) == ("", f"{seed == '2'}\n")
    with app.open(tmp_path / "store") as k:
        token = Token.derived("part", 1)
        due = NOON.astimezone(timezone(timedelta(hours=5)))
        colours = frozenset({Colour.GREEN, Colour.RED})
        assert k.handle(make(1.0, tags, colours, due), TESTER, token=token).repeated
        for other in (make(1.5, tags, colours, due), make(1, tags - {"tag 7"}, colours, due)):
            with pytest.raises(klerk.Conflict, match="something else"):
                k.handle(other, TESTER, token=token)


def test_a_command_that_fails_leaves_its_token_unused(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, token = entered(k, bank), k.token()
        failing: list[tuple[Any, type[klerk.KlerkError]]] = [
            (bank.withdraw(ada.meta.id, 1), klerk.Rejected),
            (bank.deposit(ada.meta.id, -1), klerk.InvalidValue),
            (bank.deposit(ada.meta.id, {}), klerk.InvalidValue),
            (bank.deposit(999, 1), klerk.NotFound),
            (bank.enter("Ada"), klerk.Conflict),
            (Bank().enter("Eve"), klerk.ArgumentError),
        ]
        for command, kind in failing:
            with pytest.raises(kind):
                k.handle(command, TESTER, token=token)
        with pytest.raises(klerk.Rejected):
            k.handle_all([bank.enter("Bob"), bank.withdraw(ada.meta.id, 1)], TESTER, token=token)
        with pytest.raises(klerk.ArgumentError):
            k.handle(bank.deposit(ada.meta.id, 1), "nobody", token=token)  # type: ignore[arg-type]
        sequence = k.sequence
        assert not k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=token).repeated
        assert (k.sequence, balance_of(k, ada)) == (sequence + 1, 1)


def test_a_dry_run_checks_a_token_and_leaves_it_unused(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, token = entered(k, bank), k.token()
        command = bank.deposit(ada.meta.id, 1)
        for _ in range(2):
            shown = k.handle(command, TESTER, token=token, dry_run=True)
            assert (shown.repeated, shown.sequence, shown.model.balance) == (False, 0, 1)
        assert not k.handle_all([command], TESTER, token=token, dry_run=True)[0].repeated
        assert not k.handle(command, TESTER, token=token).repeated
        again = k.check(command, TESTER, token=token)
        assert (again.repeated, again.sequence, again.model.balance) == (True, 2, 1)
        demanding = k.token(ada)
        with pytest.raises(klerk.Conflict, match="version 2"):
            k.check(command, TESTER, token=demanding)
        assert balance_of(k, ada) == 1


def test_a_result_that_is_repeated_is_masked_for_who_asks() -> None:
    bank = Bank()

    @bank.app.deny.field(Account)
    def only_tellers_see_balances(a: Args) -> bool:
        return a.field == "balance" and "teller" not in a.context.actor.roles

    @bank.app.deny.read(Account)
    def nobodys(a: Args) -> bool:
        return "nothing" in a.context.actor.roles

    teller = Context(User("tester", roles=frozenset({"teller"})))
    nobody = Context(User("tester", roles=frozenset({"nothing"})))
    with bank.app.open() as k:
        token = k.token()
        assert k.handle(bank.enter("Ada", 5), teller, token=token).model.balance == 5
        again = k.handle(bank.enter("Ada", 5), TESTER, token=token)
        assert again.repeated
        assert (again.model.balance, again.created[0].balance) == (MASKED, MASKED)
        hidden = k.handle(bank.enter("Ada", 5), nobody, token=token)
        with pytest.raises(klerk.Denied):
            _ = hidden.model
        assert hidden.id == again.id


# --- demands ------------------------------------------------------------------------------------------


def test_a_token_demands_that_models_are_unchanged(bank: Bank) -> None:
    with bank.app.open() as k:
        ada, bob = entered(k, bank, "Ada"), entered(k, bank, "Bob")
        with k.read(TESTER) as r:
            token = k.token(*r.list(bank.accounts))
        late = str(k.token(ada, bob))
        # What the command itself changes is no reason to refuse it, nor to refuse it the second time.
        assert not k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=token).repeated
        assert k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=token).repeated
        for _ in range(2):
            with pytest.raises(klerk.Conflict) as caught:
                k.handle(bank.deposit(bob.meta.id, 1), TESTER, token=late)
            assert caught.value.code == "changed_meanwhile"
            assert "Account 1 has version 2" in str(caught.value)
            assert "version 1" in str(caught.value)
        token = k.token(bob)
        k.handle(bank.remove(bob.meta.id), TESTER)
        with pytest.raises(klerk.Conflict, match="model 2 was deleted") as caught:
            k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=token)
        assert caught.value.code == "changed_meanwhile"
        assert balance_of(k, ada) == 1


def test_demands_are_held_against_changes_that_nobody_sees_yet(bank: Bank) -> None:
    brake = Brake(bank)
    with bank.app.open() as k:
        ada = entered(k, bank)
        token = k.token(ada)
        brake.armed = True
        change = Spawned(k.handle, bank.rename(ada.meta.id, "Ada L"), TESTER)
        assert brake.reached.wait(20)
        future = k.submit(bank.deposit(ada.meta.id, 1), TESTER, token=token)
        brake.go.set()
        with pytest.raises(klerk.Conflict, match="version"):
            future.result(20)
        change.end()


def test_demands_come_before_the_function_of_the_event() -> None:
    bank, ran = Bank(), []

    @bank.deposit.rule
    def noted(a: Args[Account], amount: int) -> bool:
        ran.append(amount)
        return True

    with bank.app.open() as k:
        ada = entered(k, bank)
        token = k.token(ada)
        k.handle(bank.deposit(ada.meta.id, 1), TESTER)
        with pytest.raises(klerk.Conflict):
            k.handle(bank.deposit(ada.meta.id, 2), TESTER, token=token)
        assert ran == [1]


def test_demands_survive_a_restart(bank: Bank, tmp_path: Path) -> None:
    with bank.app.open(tmp_path / "store") as k:
        ada = entered(k, bank)
        good, bad = str(k.token(ada)), str(k.token(ada, entered(k, bank, "Bob")))
        k.handle(bank.remove(2), TESTER)
    with bank.app.open(tmp_path / "store") as k:
        with pytest.raises(klerk.Conflict, match="deleted"):
            k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=bad)
        assert k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=good).model.balance == 1


def test_only_models_that_are_stored_can_be_demanded(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = entered(k, bank)
        for wrong in (Account(owner="Eve"), ada.meta.id, None, "Ada", ada.replace(balance=3), [ada]):
            with pytest.raises(klerk.ArgumentError):
                k.token(wrong)  # type: ignore[arg-type]
        with pytest.raises(klerk.LimitExceeded):
            k.token(*[ada] * (limits.TOKEN_DEMANDS_MAX + 1))
        text = str(k.token(*[ada] * limits.TOKEN_DEMANDS_MAX))
        assert k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=text).model.balance == 1


# --- texts --------------------------------------------------------------------------------------------


def test_a_text_is_read_back_and_fits_into_a_url(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = entered(k, bank)
        for token in (k.token(), k.token(ada), k.token(ada, ada)):
            assert k.parse_token(str(token)) == token
            assert k.parse_token(str(token)).demands == token.demands
            assert set(str(token)) <= set(string.ascii_letters + string.digits + "-_")
        assert len(str(k.token())) < 80
        assert len({str(k.token()) for _ in range(1000)}) == 1000


def test_a_text_that_was_altered_is_refused(bank: Bank) -> None:
    with bank.app.open() as k:
        ada = entered(k, bank)
        command = bank.deposit(ada.meta.id, 1)
        text = str(k.token(ada))
        altered = [text[:i] for i in range(len(text))]
        altered += [text + other for other in ("=", "==", "A", "AAAA", "\n", " ", text)]
        for i, now in enumerate(text):
            altered += [text[:i] + other + text[i + 1 :] for other in "AB-_x7=. \u00e9\ud800" if other != now]
            altered.append(text[:i] + chr(ord(now) ^ 1) + text[i + 1 :])
            altered.append(text[:i] + "\n" + text[i:])
        altered += ["x" * 10_000, "derived:" + "0" * 32, str(Token.derived(1))]
        for wrong in altered:
            with pytest.raises(klerk.InvalidValue) as caught:
                k.parse_token(wrong)
            assert caught.value.code == "bad_token"
            assert wrong not in str(caught.value) or not wrong
        for wrong in altered[:3]:
            with pytest.raises(klerk.InvalidValue):
                k.handle(command, TESTER, token=wrong)
        for odd in (7, b"", text.encode(), object(), False):
            with pytest.raises(klerk.ArgumentError):
                k.handle(command, TESTER, token=odd)  # type: ignore[arg-type]
        assert balance_of(k, ada) == 0


def test_tokens_of_another_store_are_refused(bank: Bank, tmp_path: Path) -> None:
    with bank.app.open(tmp_path / "one") as one, bank.app.open(tmp_path / "two") as two:
        ada = entered(one, bank)
        entered(two, bank)
        token = one.token(ada)
        for form in (token, str(token)):
            with pytest.raises(klerk.InvalidValue) as caught:
                two.handle(bank.deposit(ada.meta.id, 1), TESTER, token=form)
            assert caught.value.code == "bad_token"
    with bank.app.open(tmp_path / "one") as one:
        assert one.handle(bank.deposit(ada.meta.id, 1), TESTER, token=token).model.balance == 1


def test_the_secret_is_shown_nowhere(bank: Bank) -> None:
    with bank.app.open() as k:
        token = k.token()
        assert repr(token) == f"<token {token.id.hex()}>"
        assert copy.copy(token) == token
        for way in (pickle.dumps, copy.deepcopy):
            with pytest.raises(TypeError, match="text"):
                way(token)


def test_derived_tokens_depend_on_their_parts_alone(bank: Bank, tmp_path: Path) -> None:
    assert Token.derived("job", 7) == Token.derived("job", 7)
    different = [
        ("job", 7),
        ("job", "7"),
        ("job7",),
        ("job", 7, ""),
        (7, "job"),
        ("", "job", 7),
        (-7,),
        (2**80,),
    ]
    assert len({Token.derived(*parts).id for parts in different}) == len(different)
    assert Token.derived("job", 7).id.hex() == "c3d262c90af1ed816d6fd0909c79df0c"
    for wrong in ((), (1.5,), (None,), (b"x",), (True,), ("\ud800",)):
        with pytest.raises(klerk.ArgumentError):
            Token.derived(*wrong)  # type: ignore[arg-type]
    with bank.app.open(tmp_path / "store") as k:
        ada = entered(k, bank)
        k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=Token.derived("job", 7))
    with bank.app.open(tmp_path / "store") as k:
        assert k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=Token.derived("job", 7)).repeated
        assert not k.handle(bank.deposit(ada.meta.id, 1), TESTER, token=Token.derived("job", 8)).repeated
        assert balance_of(k, ada) == 2


# --- restarts -----------------------------------------------------------------------------------------


def test_tokens_are_known_after_every_restart(bank: Bank, tmp_path: Path) -> None:
    with bank.app.open(tmp_path / "store") as k:
        text, several = str(k.token()), k.token()
        first = k.handle(bank.enter("Ada", 5), TESTER, token=text)
        k.handle_all([bank.enter("Bob"), bank.enter("Eve")], TESTER, token=several)
        k.handle(bank.deposit(first.id, 1), TESTER)
    for _ in range(3):
        with bank.app.open(tmp_path / "store") as k:
            again = k.handle(bank.enter("Ada", 5), TESTER, token=text)
            assert (again.repeated, again.id, again.sequence, again.model.balance) == (True, first.id, 1, 5)
            both = k.handle_all([bank.enter("Bob"), bank.enter("Eve")], TESTER, token=str(several))
            assert [each.model.owner for each in both] == ["Bob", "Eve"]
            with pytest.raises(klerk.Conflict):
                k.handle(bank.enter("Ada", 6), TESTER, token=text)
            assert len(bank.contents(k)) == 3


KILLED = """
k = bank.app.open("store", durability=DURABILITY)
if not k.sequence:
    k.handle(bank.enter("Ada"), TESTER)
print(k.sequence, flush=True)
number = k.sequence
while True:
    number += 1
    token = str(k.token())
    # Whoever reads this knows of the token before it is used, as a client does.
    os.write(1, f"{token} {number} sent\\n".encode())
    k.handle(bank.deposit(1, 1), TESTER, token=token)
    os.write(1, f"{token} {number} done\\n".encode())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("durability", ["sync", "process"])
def test_killed_right_after_the_acknowledgment(tmp_path: Path, rng: random.Random, durability: str) -> None:
    """Whether a command was acknowledged before the kill or not, sending it again has one effect in all."""
    deposits = 0
    for _ in range(5):
        process: Any = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + f"DURABILITY = {durability!r}\n" + KILLED],
            cwd=tmp_path,
            env=python_environment(),
            stdout=subprocess.PIPE,
        )
        try:
            process.stdout.readline()
            lines = [process.stdout.readline() for _ in range(rng.randrange(1, 300))]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        finally:
            process.kill()
            process.communicate()
        words = [line.decode().split() for line in lines if line.endswith(b"\n")]
        sent = {token for token, _, _ in words}
        done = {token: int(number) for token, number, what in words if what == "done"}
        deposits += len(sent)
        bank = Bank()
        with bank.app.open(tmp_path / "store") as k:
            for token in sent:
                again = k.handle(bank.deposit(1, 1), TESTER, token=token)
                if token in done:
                    assert (again.repeated, again.sequence) == (True, done[token])
            assert bank.contents(k)[1][1] == deposits


@pytest.mark.parametrize("step", ["_write", "_sync"])
def test_tokens_after_a_store_failed(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Nobody knows whether the first use is stored. Whoever sends it again has one effect in all."""
    with bank.app.open(tmp_path / "store") as k:
        ada, token = entered(k, bank), str(k.token())
        command = bank.deposit(ada.meta.id, 1)

        def burn(*_: Any) -> None:
            raise OSError("the disk is on fire")

        with monkeypatch.context() as patch:
            patch.setattr(RocksStorage, step, burn)
            senders = [Spawned(lambda: k.handle(command, TESTER, token=token)) for _ in range(3)]
            for sender in senders:
                with pytest.raises(klerk.StoreFailed):
                    sender.end()
        with pytest.raises(klerk.StoreFailed):
            k.handle(command, TESTER, token=token)
        assert balance_of(k, ada) == 0
    with bank.app.open(tmp_path / "store") as k:
        stored = balance_of(k, ada) == 1
        assert k.handle(command, TESTER, token=token).repeated == stored
        assert k.handle(command, TESTER, token=token).repeated
        assert balance_of(k, ada) == 1


# --- expiry -------------------------------------------------------------------------------------------


def test_tokens_expire_by_the_clock(bank: Bank, tmp_path: Path) -> None:
    clock = Clock()
    with bank.app.open(tmp_path / "store", clock=clock, token_ttl=2 * DAY) as k:
        ada = entered(k, bank)
        command = bank.deposit(ada.meta.id, 1)
        used, unused, young = k.token(), k.token(), str(k.token())
        derived = Token.derived("once")
        clock.advance(2 * DAY - timedelta(seconds=1))
        k.handle(command, TESTER, token=used)
        k.handle(command, TESTER, token=derived)
        assert not k.handle(command, TESTER, token=young).repeated
        clock.advance(timedelta(seconds=1))
        # A token that was used is known for as long as that after its use.
        assert k.handle(command, TESTER, token=used).repeated
        with pytest.raises(klerk.Conflict) as caught:
            k.handle(command, TESTER, token=unused)
        assert caught.value.code == "token_expired"
        clock.advance(2 * DAY)
        assert not k.handle(command, TESTER, token=k.token()).repeated
        with pytest.raises(klerk.Conflict, match="expired"):
            k.handle(command, TESTER, token=used)
        assert not k.handle(command, TESTER, token=derived).repeated
        assert balance_of(k, ada) == 5


def test_a_token_that_was_forgotten_never_takes_effect_again(bank: Bank, tmp_path: Path) -> None:
    """Neither a longer time to live nor a clock that goes back revives what was dropped."""
    clock = Clock()
    with bank.app.open(tmp_path / "store", clock=clock) as k:
        ada = entered(k, bank)
        command, token = bank.deposit(ada.meta.id, 1), str(k.token())
        k.handle(command, TESTER, token=token)
    clock.advance(DAY)
    for ttl in (timedelta(seconds=1), 30 * DAY):
        with bank.app.open(tmp_path / "store", clock=clock, token_ttl=ttl) as k:
            with pytest.raises(klerk.Conflict, match="expired"):
                k.handle(command, TESTER, token=token)
            fresh = str(k.token())
            k.handle(command, TESTER, token=fresh)
    clock.advance(60 * DAY)
    with bank.app.open(tmp_path / "store", clock=clock, token_ttl=30 * DAY) as k:
        k.handle(command, TESTER, token=k.token())
    clock.advance(-60 * DAY)
    for _ in range(2):
        with bank.app.open(tmp_path / "store", clock=clock, token_ttl=300 * DAY) as k:
            with pytest.raises(klerk.Conflict, match="expired"):
                k.handle(command, TESTER, token=fresh)
            assert balance_of(k, ada) == 4


def test_expired_tokens_leave_the_store(bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOKENS_DROPPED_AT_ONCE", 10)
    clock = Clock()
    with bank.app.open(tmp_path / "store", clock=clock) as k:
        ada = entered(k, bank)
        command = bank.deposit(ada.meta.id, 1)
        for _ in range(50):
            k.handle(command, TESTER, token=k.token())
    assert stored_tokens(tmp_path / "store") == 50
    with bank.app.open(tmp_path / "store", clock=clock) as k:
        clock.advance(8 * DAY)
        for _ in range(3):
            k.handle(command, TESTER, token=k.token())
    # Three times ten of them, and what is noted of the dropped ones.
    assert stored_tokens(tmp_path / "store") == 50 - 30 + 3 + 1
    with bank.app.open(tmp_path / "store", clock=clock):
        pass
    assert stored_tokens(tmp_path / "store") == 3 + 1


def stored_tokens(path: Path) -> int:
    storage = RocksStorage.open(path, app="bank", durability="sync")
    try:
        return sum(1 for _ in storage.scan(Family.TOKENS))
    finally:
        storage.close()


def test_a_full_memory_of_tokens_refuses_new_ones(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOKENS_MAX", 3)
    clock = Clock()
    with bank.app.open(clock=clock) as k:
        ada = entered(k, bank)
        command = bank.deposit(ada.meta.id, 1)
        tokens = [k.token() for _ in range(3)]
        for token in tokens:
            k.handle(command, TESTER, token=token)
        with pytest.raises(klerk.LimitExceeded, match="3 used tokens"):
            k.handle(command, TESTER, token=k.token())
        assert all(k.handle(command, TESTER, token=token).repeated for token in tokens)
        k.handle(command, TESTER)
        clock.advance(8 * DAY)
        assert not k.handle(command, TESTER, token=k.token()).repeated
        assert balance_of(k, ada) == 5


@pytest.mark.parametrize("ttl", [timedelta(0), -DAY, 5, None, timedelta(days=100_000)])
def test_a_time_to_live_that_cannot_be_meant_is_refused(bank: Bank, ttl: Any) -> None:
    with pytest.raises(klerk.ConfigError, match="token_ttl"):
        bank.app.open(token_ttl=ttl)

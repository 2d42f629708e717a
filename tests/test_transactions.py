"""A transaction is all or nothing, in one order, and what is refused or only tried leaves nothing behind.

"Nothing" is compared as a whole: models with their meta, index entries, the next id, the sequence, jobs and
unmanaged calls. Random transactions, many in flight, are checked against a dictionary.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, Account, Bank, Brake, Spawned

import klerk
from klerk import Args, Conflict, Context, Denied, FunctionFailed, JobRun, KlerkError, Rejected, User


class Office(Bank):
    """A bank that makes a job and an unmanaged call for every new account."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs_run: list[str] = []
        self.calls: list[str] = []

        @self.app.job()
        def welcome(job: JobRun, owner: str) -> None:
            self.jobs_run.append(owner)

        self.enter.job(lambda a: welcome(a.model.owner))
        self.enter.unmanaged_job(lambda a: self.calls.append(a.model.owner))

        @self.app.deny.command(self.enter, self.deposit)
        def stranger(a: Args) -> bool:
            return bool(a.context.actor.id == "stranger")

    def everything(self, k: klerk.Klerk) -> Any:
        """Return all that a transaction could change."""
        assert k.jobs.wait_until_idle(20)
        owners = ["Ada", "Bob", "Eve", "Joe"]
        with k.read(TESTER) as r:
            models = list(r.list(self.accounts))
            found = [r.find(self.by_owner, owner) for owner in owners]
            balances = [list(r.list(self.by_balance(balance))) for balance in range(5)]
        return models, found, balances, k.sequence, k.jobs.counts(), list(self.jobs_run)


@pytest.fixture
def office() -> Office:
    return Office()


STRANGER = Context(User("stranger"))


def refused_transactions(
    office: Office, ada: Any
) -> dict[str, tuple[Callable[[klerk.Klerk], object], type[KlerkError]]]:
    def raising(a: Args) -> Iterator[Any]:
        yield office.enter("Bob", 1)
        raise ZeroDivisionError

    def conflicting(a: Args) -> Iterator[Any]:
        result = yield office.enter("Bob", 1)
        yield office.deposit(result.id, 1)
        yield office.enter("Ada")

    good = [office.enter("Bob", 1), office.deposit(ada, 2), office.close(ada)]
    return {
        "rule": (lambda k: k.handle(office.withdraw(ada, 1000), TESTER), Rejected),
        "unique": (lambda k: k.handle(office.enter("Ada"), TESTER), Conflict),
        "list": (lambda k: k.handle_all([*good, office.deposit(ada, 1)], TESTER), klerk.WrongState),
        "list, denied": (lambda k: k.handle_all([office.remove(ada), office.enter("Bob")], STRANGER), Denied),
        "denied": (lambda k: k.handle(office.enter("Bob", 1), STRANGER), Denied),
        "generator": (lambda k: k.handle_all(conflicting, TESTER), Conflict),
        "generator that raises": (lambda k: k.handle_all(raising, TESTER), FunctionFailed),
        "no command in the list": (lambda k: k.handle_all([*good, "x"], TESTER), klerk.ArgumentError),  # type: ignore[list-item]
        "still referred to": (
            lambda k: k.handle_all([office.enter("Bob", 1, ada), office.remove(ada)], TESTER),
            Conflict,
        ),
    }


@pytest.mark.parametrize("case", refused_transactions(Office(), 1))
def test_a_refused_transaction_leaves_nothing(office: Office, case: str) -> None:
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada", 3), TESTER).id
        before = office.everything(k)
        attempt, error = refused_transactions(office, ada)[case]
        with pytest.raises(error):
            attempt(k)
        assert office.everything(k) == before
        # Neither an id nor a place in the order was used up.
        result = k.handle(office.enter("Joe"), TESTER)
        assert (result.id, result.sequence) == (ada + 1, before[3] + 1)
    assert office.calls == ["Ada", "Joe"]


def test_a_dry_run_shows_what_would_be_and_keeps_nothing(office: Office) -> None:
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada", 3), TESTER).id
        before = office.everything(k)
        for attempt in (
            k.handle(office.deposit(ada, 1), TESTER, dry_run=True),
            k.check(office.deposit(ada, 1), TESTER),
            k.handle_all([office.deposit(ada, 1)], TESTER, dry_run=True)[0],
        ):
            assert (attempt.model.balance, attempt.model.meta.version, attempt.sequence) == (4, 2, 0)
        tried = k.check(office.enter("Bob", 1), TESTER)
        assert (tried.id, tried.model.owner, len(tried.jobs)) == (ada + 1, "Bob", 1)
        both = k.handle_all([office.remove(ada), office.enter("Ada")], TESTER, dry_run=True)
        assert (both[0].deleted, [model.owner for model in both[1].created]) == ((ada,), ["Ada"])
        with pytest.raises(Conflict):
            k.check(office.enter("Ada"), TESTER)
        with pytest.raises(Denied):
            k.check(office.enter("Bob"), STRANGER)
        assert office.everything(k) == before
    assert office.calls == ["Ada"]


def test_what_a_transaction_did(office: Office) -> None:
    with office.app.open() as k:
        ada, bob = (r.id for r in k.handle_all([office.enter("Ada", 3), office.enter("Bob")], TESTER))
        results = k.handle_all([office.transfer(ada, bob, 2), office.enter("Eve"), office.close(bob)], TESTER)
        assert [result.id for result in results] == [ada, bob + 1, bob]
        assert len({result.sequence for result in results}) == 1
        for result in results:
            assert {(m.owner, m.balance, str(m.meta.state)) for m in result.models} == {
                ("Ada", 1, "active"),
                ("Bob", 2, "closed"),
                ("Eve", 0, "active"),
            }
            assert [model.owner for model in result.created] == ["Eve"]
            assert {model.owner for model in result.updated} == {"Ada", "Bob"}
            assert result.deleted == ()
            assert [job.kind for job in result.jobs] == ["welcome"]
        assert results[0].model.owner == "Ada"
        gone = k.handle(office.remove(ada), TESTER)
        assert (gone.deleted, gone.models, gone.id) == ((ada,), (), ada)


def test_created_and_deleted_in_one_transaction(office: Office) -> None:
    def both(a: Args) -> Iterator[Any]:
        made = yield office.enter("Bob", 2)
        yield office.remove(made.id)

    with office.app.open() as k:
        results = k.handle_all(both, TESTER)
        assert [(result.models, result.deleted) for result in results] == [((), ())] * 2
        assert office.contents(k) == {}
        k.handle(office.enter("Bob", 2), TESTER)


def test_a_function_of_commands(office: Office) -> None:
    seen: list[Any] = []

    def move_all(a: Args) -> Iterator[Any]:
        first = yield office.enter("Ada", 3)
        seen.append((first.id, first.model.balance, a.read.count(office.accounts)))
        second = yield office.enter("Bob")
        moved = yield office.transfer(first.id, second.id, a.read.get(first.id).balance)
        seen.append((moved.model.balance, a.read.get(second.id).balance, a.context.actor.id))

    with office.app.open() as k:
        results = k.handle_all(move_all, TESTER)
        assert len(results) == 3
        assert seen == [(1, 3, 1), (0, 3, "tester")]
        assert {result.sequence for result in results} == {1}
        assert k.handle_all(lambda a: [office.deposit(1, 1)], TESTER)[0].model.balance == 1
        assert k.handle_all([], TESTER) == []


def test_a_rule_sees_the_transaction_so_far(office: Office) -> None:
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada", 1), TESTER).id
        with pytest.raises(Rejected):
            k.handle(office.withdraw(ada, 3), TESTER)
        k.handle_all([office.deposit(ada, 2), office.withdraw(ada, 3)], TESTER)
        with pytest.raises(Rejected) as caught:
            k.handle_all([office.deposit(ada, 2), office.withdraw(ada, 3)], TESTER)
        assert "in command 2 of the list" in caught.value.__notes__[0]


def test_many_futures_in_order(office: Office) -> None:
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        futures = [k.submit(office.deposit(ada, i), TESTER) for i in range(1_000)]
        results = [future.result(20) for future in futures]
        sequences = [result.sequence for result in results]
        assert sequences == sorted(set(sequences))
        assert results[-1].model.balance == sum(range(1_000))
        running = 0
        for i, result in enumerate(results):
            running += i
            assert result.model.balance == running
        assert all(future.done() for future in futures)


def test_each_future_has_its_own_outcome(office: Office) -> None:
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        futures = [k.submit(office.withdraw(ada, i % 2), TESTER) for i in range(500)]
        for i, future in enumerate(futures):
            if i % 2:
                assert isinstance(future.exception(20), Rejected)
                with pytest.raises(Rejected):
                    future.result()
            else:
                assert future.exception(20) is None
                assert future.result().model.balance == 0


def test_waiting_for_a_future(office: Office) -> None:
    brake = Brake(office)
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        brake.armed = True
        future = k.submit(office.rename(ada, "Eve"), TESTER)
        assert brake.reached.wait(20)
        called: list[Any] = []
        future.add_done_callback(called.append)
        assert not future.done()
        with pytest.raises(TimeoutError, match=r"no outcome after 0\.01 s"):
            future.result(timeout=0.01)
        with pytest.raises(TimeoutError):
            future.exception(timeout=0)
        waiters = [Spawned(future.result, 20) for _ in range(5)]
        assert called == []
        brake.go.set()
        assert {waiter.end().model.owner for waiter in waiters} == {"Eve"}
        assert future.result(timeout=0).model.owner == "Eve"
        k.handle(office.deposit(ada, 0), TESTER)
        assert called == [future]
        future.add_done_callback(called.append)
        assert called == [future, future]


def test_a_failing_callback_harms_nobody(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    brake = Brake(office)
    called: list[Any] = []
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        brake.armed = True
        future = k.submit(office.rename(ada, "Eve"), TESTER)
        future.add_done_callback(lambda _: 1 // 0)
        future.add_done_callback(called.append)
        brake.go.set()
        assert future.result(20).model.owner == "Eve"
        assert k.handle(office.deposit(ada, 1), TESTER).model.balance == 1
    assert called == [future]
    assert "a done callback failed" in caplog.text


async def test_futures_can_be_awaited(office: Office) -> None:
    with office.app.open() as k:
        ada = (await k.aio.handle(office.enter("Ada"), TESTER)).id
        futures = [await k.aio.submit(office.deposit(ada, 1), TESTER) for _ in range(200)]
        results = await asyncio.gather(*(_outcome(future) for future in futures))
        assert [result.model.balance for result in results] == list(range(1, 201))
        # One future, many tasks, and again afterwards.
        future = k.submit(office.deposit(ada, 1), TESTER)
        many = await asyncio.gather(*(_outcome(future) for _ in range(10)))
        assert {id(result) for result in many} == {id(await future)}
        refused = await k.aio.submit(office.withdraw(ada, 100_000), TESTER)
        with pytest.raises(Rejected):
            await refused


async def _outcome(future: Any) -> Any:
    return await future


async def test_the_asyncio_face_does_the_same(office: Office) -> None:
    with office.app.open() as k:
        results = await k.aio.handle_all([office.enter("Ada", 3), office.enter("Bob")], TESTER)
        ada, bob = (result.id for result in results)
        before = office.contents(k)
        with pytest.raises(Rejected):
            await k.aio.handle(office.withdraw(ada, 4), TESTER)
        assert (await k.aio.check(office.withdraw(ada, 3), TESTER)).model.balance == 0
        assert (await k.aio.handle(office.withdraw(ada, 3), TESTER, dry_run=True)).model.balance == 0
        with pytest.raises(Conflict):
            await k.aio.handle_all([office.close(ada), office.enter("Bob")], TESTER)
        with pytest.raises(klerk.ArgumentError):
            await k.aio.handle("x", TESTER)  # type: ignore[arg-type]
        assert office.contents(k) == before
        async with k.aio.read(TESTER) as r:
            assert r.get(bob).owner == "Bob"


async def test_a_cancelled_task_leaves_its_command(office: Office) -> None:
    brake = Brake(office)
    with office.app.open() as k:
        ada = (await k.aio.handle(office.enter("Ada"), TESTER)).id
        brake.armed = True
        task = asyncio.create_task(k.aio.handle(office.rename(ada, "Eve"), TESTER))
        while not brake.reached.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        brake.go.set()
        await k.aio.handle(office.deposit(ada, 1), TESTER)
        assert office.contents(k) == {ada: ("Eve", 1, "active")}


def test_one_event_loop_may_end_while_its_commands_go_on(office: Office) -> None:
    brake = Brake(office)
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), TESTER).id
        brake.armed = True

        async def leave() -> None:
            task = asyncio.create_task(k.aio.handle(office.rename(ada, "Eve"), TESTER))
            while not brake.reached.is_set():
                await asyncio.sleep(0)
            task.cancel()

        asyncio.run(leave())
        brake.go.set()
        k.handle(office.deposit(ada, 1), TESTER)
        assert office.contents(k) == {ada: ("Eve", 1, "active")}


def random_transaction(bank: Bank, rng: random.Random, ids: list[Any]) -> list[Any]:
    """A few commands on accounts that may or may not exist, with owners that may or may not be taken."""
    commands = []
    for _ in range(rng.randrange(1, 4)):
        id = rng.choice(ids)
        owner = rng.choice("ABCDEF")
        commands.append(
            rng.choice(
                [
                    bank.enter(owner, rng.randrange(3)),
                    bank.enter(owner, 1, id),
                    bank.rename(id, owner),
                    bank.remove(id),
                    bank.close(id),
                    bank.reopen(id),
                    bank.deposit(id, rng.randrange(3)),
                    bank.transfer(id, rng.choice(ids), 1),
                    bank.withdraw(id, 1),
                ]
            )
        )
    return commands


def test_random_transactions_agree_with_their_results(rng: random.Random, tmp_path: Path) -> None:
    """The results of what was accepted, applied to a dictionary in order, give what is read, indexes too.

    Many are in flight, and syncing takes a while, so that groups are processed before the ones before them
    are published.
    """
    bank = Bank()
    with bank.app.open(tmp_path / "store") as k:
        accepted = refused = 0
        expected: dict[int, Account] = {}
        for _ in range(60):
            ids = list(range(1, 9)) + list(expected)[-8:]
            futures = [k.submit(random_transaction(bank, rng, ids)[0], TESTER) for _ in range(40)]
            for future in futures:
                error = future.exception(20)
                if error is not None:
                    assert isinstance(error, klerk.KlerkError)
                    assert not isinstance(error, (FunctionFailed, klerk.StoreFailed)), error
                    refused += 1
                    continue
                accepted += 1
                apply_changes(expected, future.result())
            check_against(bank, k, expected)
        assert accepted > 100
        assert refused > 100


def test_random_lists_from_many_threads_agree_with_their_results(rng: random.Random, tmp_path: Path) -> None:
    bank = Bank()
    seeds = [rng.randrange(2**32) for _ in range(4)]
    with bank.app.open(tmp_path / "store") as k:

        def work(seed: int) -> list[Any]:
            own = random.Random(seed)
            done = []
            for _ in range(150):
                ids = [*bank.contents(k), 1]
                try:
                    results = k.handle_all(random_transaction(bank, own, ids), TESTER)
                except (FunctionFailed, klerk.StoreFailed):
                    raise
                except KlerkError:
                    continue
                done.append(results[0])
            return done

        threads = [Spawned(work, seed) for seed in seeds]
        done = [result for thread in threads for result in thread.end(60)]
        expected: dict[int, Account] = {}
        for result in sorted(done, key=lambda result: result.sequence):
            apply_changes(expected, result)
        assert [result.sequence for result in sorted(done, key=lambda r: r.sequence)] == list(
            range(1, k.sequence + 1)
        )
        assert len(done) > 50
        check_against(bank, k, expected)


def apply_changes(expected: dict[int, Account], result: Any) -> None:
    """Take over what a transaction changed; its versions must follow those that the ones before it left."""
    for model in result.models:
        known = expected.get(model.meta.id)
        assert model.meta.version == (1 if known is None else known.meta.version + 1)
        expected[model.meta.id] = model
    for id in result.deleted:
        del expected[id]


def check_against(bank: Bank, k: klerk.Klerk, expected: dict[int, Account]) -> None:
    with k.read(TESTER) as r:
        assert list(r.list(bank.accounts)) == [expected[id] for id in sorted(expected)]
        for state in (bank.active, bank.closed):
            assert [m.meta.id for m in r.list(state)] == sorted(
                i for i, m in expected.items() if m.meta.state is state
            )
        owners = {m.owner: m for m in expected.values()}
        assert len(owners) == len(expected)
        for owner in "ABCDEF":
            assert r.find(bank.by_owner, owner) == owners.get(owner)
        for balance in range(1, 6):
            ids = [m.meta.id for m in r.list(bank.by_balance(balance))]
            assert ids == sorted(i for i, m in expected.items() if m.balance == balance)

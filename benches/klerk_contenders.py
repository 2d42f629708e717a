"""Klerk's side of every benchmark, written as an application would be, through the public API alone."""

import asyncio
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import klerk
from benches.harness import Contender, Sample, Workspace
from benches.jobs import GROUP_SIZE as JOBS_IN_FLIGHT
from benches.workload import ACCOUNTS, ACTOR, AMOUNT, AMOUNT_MAX, BALANCE_MAX, ROLE, owner, targets
from klerk import App, Args, Context, Job, JobRun, Klerk, Model, Ref, User

BUILD_TRANSACTION = 10_000


class Owner(klerk.Text, min=1, max=80): ...


class Amount(klerk.Int, ge=1, le=AMOUNT_MAX): ...


class Balance(klerk.Int, ge=0): ...


class Account(Model):
    owner: Owner
    balance: Balance = Balance(0)


@dataclass(frozen=True, kw_only=True)
class Bank:
    """The declared application, and what the benchmarks call of it."""

    app: App
    open_account: Any
    deposit: Any
    opened: Any


TELLER = Context(User(ACTOR, roles=frozenset({ROLE})))


def declare_bank() -> Bank:
    """The deposit of `benches.workload`, declared."""
    app = klerk.App("bank")
    account = app.machine(Account)
    opened, closed = account.states("opened", "closed", final=("closed",))

    @account.create(into=opened)
    def open_account(a: Args, owner: Owner) -> Account:
        """Open an account."""
        return Account(owner=owner)

    @account.event(opened)
    def deposit(a: Args[Account], amount: Amount) -> Account:
        """Deposit an amount."""
        return a.model.replace(balance=Balance(a.model.balance + amount))

    @account.event(opened, to=closed)
    def close_account(a: Args[Account]) -> None:
        """Close the account."""

    @deposit.rule
    def balance_stays_within_limit(a: Args[Account], amount: Amount) -> bool:
        """No account may hold more than its limit."""
        return a.model.balance + amount <= BALANCE_MAX

    @app.allow.command(open_account, deposit, close_account)
    def tellers_handle_accounts(a: Args) -> bool:
        return ROLE in a.context.actor.roles

    @app.allow.read(Account)
    def tellers_read_accounts(a: Args) -> bool:
        return ROLE in a.context.actor.roles

    @app.allow.field(Account)
    def tellers_read_fields(a: Args) -> bool:
        return ROLE in a.context.actor.roles

    return Bank(app=app, open_account=open_account, deposit=deposit, opened=opened)


@contextmanager
def open_bank(bank: Bank, directory: Path) -> Iterator[tuple[Klerk, list[Ref[Account]]]]:
    """The bank on an empty store, synced at every group, with its accounts."""
    with bank.app.open(directory / "store", durability="sync") as k:
        results = k.handle_all(
            [bank.open_account(Owner(owner(number))) for number in range(ACCOUNTS)], TELLER
        )
        yield k, [result.id for result in results]


def submit(in_flight: int) -> Contender:
    """One caller keeps a window of `in_flight` commands: it waits for the oldest, then submits the next."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        bank = declare_bank()
        with open_bank(bank, workspace.directory) as (k, accounts):
            numbers = targets()

            def sample(operations: int) -> None:
                window: deque[Future[Any]] = deque()
                for _ in range(operations):
                    if len(window) == in_flight:
                        window.popleft().result()
                    window.append(k.submit(bank.deposit(accounts[next(numbers)], Amount(AMOUNT)), TELLER))
                for future in window:
                    future.result()

            yield sample

    return contender


def handle_all(size: int) -> Contender:
    """One caller, `size` commands in each transaction: all or none."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        bank = declare_bank()
        with open_bank(bank, workspace.directory) as (k, accounts):
            numbers = targets()

            def sample(operations: int) -> None:
                for _ in range(operations // size):
                    k.handle_all(
                        [bank.deposit(accounts[next(numbers)], Amount(AMOUNT)) for _ in range(size)], TELLER
                    )

            yield sample

    return contender


@contextmanager
def handle(workspace: Workspace) -> Iterator[Sample]:
    """One caller, one command at a time."""
    bank = declare_bank()
    with open_bank(bank, workspace.directory) as (k, accounts):
        numbers = targets()

        def sample(operations: int) -> None:
            for _ in range(operations):
                k.handle(bank.deposit(accounts[next(numbers)], Amount(AMOUNT)), TELLER)

        yield sample


def handle_threads(threads: int) -> Contender:
    """Many threads, each handles one command at a time."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        bank = declare_bank()
        with open_bank(bank, workspace.directory) as (k, accounts), ThreadPoolExecutor(threads) as pool:
            numbers = targets()

            def handle_many(operations: int) -> None:
                for _ in range(operations):
                    k.handle(bank.deposit(accounts[next(numbers)], Amount(AMOUNT)), TELLER)

            def sample(operations: int) -> None:
                for future in [pool.submit(handle_many, operations // threads) for _ in range(threads)]:
                    future.result()

            yield sample

    return contender


def aio_tasks(tasks: int) -> Contender:
    """Many asyncio tasks on one loop, each awaits one command at a time."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        bank = declare_bank()
        with open_bank(bank, workspace.directory) as (k, accounts), asyncio.Runner() as runner:
            numbers = targets()

            async def handle_many(operations: int) -> None:
                for _ in range(operations):
                    await k.aio.handle(bank.deposit(accounts[next(numbers)], Amount(AMOUNT)), TELLER)

            async def handle_in_tasks(operations: int) -> None:
                await asyncio.gather(*(handle_many(operations // tasks) for _ in range(tasks)))

            yield lambda operations: runner.run(handle_in_tasks(operations))

    return contender


@contextmanager
def read_enter_exit(workspace: Workspace) -> Iterator[Sample]:
    """Entering and leaving a read."""
    with open_bank(declare_bank(), workspace.directory) as (k, _):

        def sample(operations: int) -> None:
            for _ in repeat(None, operations):
                with k.read(TELLER):
                    pass

        yield sample


@contextmanager
def get(workspace: Workspace) -> Iterator[Sample]:
    """One model by its reference, within one read."""
    with open_bank(declare_bank(), workspace.directory) as (k, accounts):

        def sample(operations: int) -> None:
            account = accounts[ACCOUNTS // 2]
            with k.read(TELLER) as r:
                for _ in repeat(None, operations):
                    r.get(account)

        yield sample


def opening(models: int) -> Contender:
    """Opening a store of that many models, built once."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        bank = declare_bank()
        path = workspace.directory / "store"
        with bank.app.open(path, durability="process") as k:
            for first in range(0, models, BUILD_TRANSACTION):
                numbers = range(first, min(first + BUILD_TRANSACTION, models))
                k.handle_all([bank.open_account(Owner(owner(number))) for number in numbers], TELLER)
                workspace.announce(f"klerk: building {numbers.stop:,}/{models:,}")

        def sample(operations: int) -> None:
            for _ in range(operations):
                with bank.app.open(path, durability="sync"):
                    pass

        yield sample

    return contender


def jobs_beside(scheduled: int) -> Contender:
    """Each deposit creates a job, while so many others wait for tomorrow; until all have completed."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        bank = declare_bank()

        @bank.app.job()
        def do_nothing(job: JobRun, account: Ref[Account]) -> None:
            """The job."""

        @bank.app.job()
        def wait(job: JobRun, number: int) -> None:
            """A job for tomorrow."""

        bank.opened.on(bank.deposit).job(do_nothing)
        if scheduled:
            with bank.app.open(workspace.directory / "store", durability="process") as k:
                schedule_for_tomorrow(k, wait, scheduled, workspace)
        with open_bank(bank, workspace.directory) as (k, accounts):
            yield partial(_deposit_with_jobs, bank, k, accounts, targets())

    return contender


jobs_end_to_end = jobs_beside(0)


def _deposit_with_jobs(
    bank: Bank, k: Klerk, accounts: list[Ref[Account]], numbers: Iterator[int], operations: int
) -> None:
    window: deque[Future[Any]] = deque()
    for _ in range(operations):
        if len(window) == JOBS_IN_FLIGHT:
            window.popleft().result()
        window.append(k.submit(bank.deposit(accounts[next(numbers)], Amount(AMOUNT)), TELLER))
    for future in window:
        future.result()
    k.jobs.wait_until_idle()


def schedule_for_tomorrow(k: Klerk, job: Job[[int]], count: int, workspace: Workspace) -> None:
    """Schedule that many jobs, one for each second from tomorrow on."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for first in range(0, count, BUILD_TRANSACTION):
        numbers = range(first, min(first + BUILD_TRANSACTION, count))
        k.jobs.schedule(*[job(number).at(tomorrow + timedelta(seconds=number)) for number in numbers])
        workspace.announce(f"klerk: scheduling {numbers.stop:,}/{count:,}")

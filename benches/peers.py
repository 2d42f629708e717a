"""The peers: the same results as people get them today, each at the same durability."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import repeat
from pathlib import Path

import msgspec

from benches.floors import Account, new_account
from benches.harness import Contender, Sample, Workspace
from benches.workload import ACCOUNTS, ACTOR, AMOUNT, AMOUNT_MAX, BALANCE_MAX, ROLE, owner, targets

SCHEMA = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE account (id INTEGER PRIMARY KEY, state INTEGER, version INTEGER, created_ns INTEGER,
        updated_ns INTEGER, owner TEXT, balance INTEGER);
    CREATE TABLE audit (sequence INTEGER PRIMARY KEY, at_ns INTEGER, actor TEXT, event TEXT, target INTEGER,
        amount INTEGER);
    CREATE TABLE job (id INTEGER PRIMARY KEY, kind TEXT, state INTEGER, due_ns INTEGER, arguments BLOB);
"""
SELECT_ACCOUNT = "SELECT balance FROM account WHERE id = ?"
UPDATE_ACCOUNT = "UPDATE account SET balance = ?, version = version + 1, updated_ns = ? WHERE id = ?"
INSERT_AUDIT = "INSERT INTO audit (at_ns, actor, event, target, amount) VALUES (?, ?, 'deposit', ?, ?)"
INSERT_JOB = "INSERT INTO job (kind, state, due_ns, arguments) VALUES ('notify', 0, ?, ?)"


ROLES = frozenset({ROLE})


@contextmanager
def open_sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    """A database in autocommit mode: transactions begin and end where the code says so."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.executescript(SCHEMA)
        yield connection


def fill_accounts(connection: sqlite3.Connection, rows: int) -> None:
    """Inserts `rows` accounts in one transaction."""
    connection.execute("BEGIN")
    accounts = (msgspec.structs.astuple(new_account(number)) for number in range(rows))
    connection.executemany("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, ?)", accounts)
    connection.execute("COMMIT")


def sqlite_deposits(group_size: int) -> Contender:
    """sqlite3 by hand: `group_size` deposits in each transaction; checks, read, update, audit row."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        with open_sqlite(workspace.directory / "bank.sqlite") as connection:
            fill_accounts(connection, ACCOUNTS)
            numbers = targets()

            def sample(operations: int) -> None:
                for _ in range(operations // group_size):
                    connection.execute("BEGIN IMMEDIATE")
                    for _ in range(group_size):
                        _deposit(connection, next(numbers))
                    connection.execute("COMMIT")

            yield sample

    return contender


def sqlite_deposits_with_job(group_size: int) -> Contender:
    """The same with one row more for each deposit, a job: what an application with a job table does."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        with open_sqlite(workspace.directory / "bank.sqlite") as connection:
            fill_accounts(connection, ACCOUNTS)
            numbers = targets()

            def sample(operations: int) -> None:
                for _ in range(operations // group_size):
                    connection.execute("BEGIN IMMEDIATE")
                    for _ in range(group_size):
                        number = next(numbers)
                        _deposit(connection, number)
                        connection.execute(INSERT_JOB, (time.time_ns(), number.to_bytes(8, "big")))
                    connection.execute("COMMIT")

            yield sample

    return contender


def sqlite_threads(threads: int) -> Contender:
    """sqlite3 behind a lock: many threads share a connection, each commits its own deposit."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        with (
            open_sqlite(workspace.directory / "bank.sqlite") as connection,
            ThreadPoolExecutor(threads) as pool,
        ):
            fill_accounts(connection, ACCOUNTS)
            numbers = targets()
            lock = threading.Lock()

            def deposit_many(operations: int) -> None:
                for _ in range(operations):
                    with lock:
                        connection.execute("BEGIN IMMEDIATE")
                        _deposit(connection, next(numbers))
                        connection.execute("COMMIT")

            yield lambda operations: _split(pool, deposit_many, threads, operations)

    return contender


def _split(pool: ThreadPoolExecutor, work: Sample, threads: int, operations: int) -> None:
    """Splits the operations evenly over the pool's threads and waits for all of them."""
    for future in [pool.submit(work, operations // threads) for _ in range(threads)]:
        future.result()


def _deposit(connection: sqlite3.Connection, number: int) -> None:
    amount = AMOUNT
    if ROLE not in ROLES:
        raise PermissionError
    if type(amount) is not int or not 1 <= amount <= AMOUNT_MAX:
        raise ValueError(amount)
    (balance,) = connection.execute(SELECT_ACCOUNT, (number,)).fetchone()
    balance += amount
    if balance > BALANCE_MAX:
        raise ValueError(balance)
    now_ns = time.time_ns()
    connection.execute(UPDATE_ACCOUNT, (balance, now_ns, number))
    connection.execute(INSERT_AUDIT, (now_ns, ACTOR, number, amount))


@contextmanager
def eventsourcing_deposits(workspace: Workspace) -> Iterator[Sample]:
    """The eventsourcing package on SQLite, one deposit at a time, aggregates cached in memory."""
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate, event

    class BankAccount(Aggregate):
        @event("Opened")
        def __init__(self, owner: str) -> None:
            self.owner = owner
            self.balance = 0

        @event("Deposited")
        def deposit(self, amount: int, actor: str) -> None:
            self.balance += amount

    bank = Application(
        env={
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(workspace.directory / "events.sqlite"),
            "AGGREGATE_CACHE_MAXSIZE": str(ACCOUNTS),
            "AGGREGATE_CACHE_FASTFORWARD": "n",
        }
    )
    with closing(bank):
        accounts = [BankAccount(owner=owner(number)) for number in range(ACCOUNTS)]
        bank.save(*accounts)
        ids = [account.id for account in accounts]
        numbers = targets()

        def sample(operations: int) -> None:
            for _ in range(operations):
                if ROLE not in ROLES:
                    raise PermissionError
                account: BankAccount = bank.repository.get(ids[next(numbers)])
                if account.balance + AMOUNT > BALANCE_MAX:
                    raise ValueError(AMOUNT)
                account.deposit(amount=AMOUNT, actor=ACTOR)
                bank.save(account)

        yield sample


@contextmanager
def reentrant_lock(workspace: Workspace) -> Iterator[Sample]:
    """Entering and leaving a `threading.RLock`."""
    lock = threading.RLock()

    def sample(operations: int) -> None:
        for _ in repeat(None, operations):
            with lock:
                pass

    yield sample


class ConditionReadLock:
    """The read half of the read-write lock of the textbooks: a counter behind a condition."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._writing = False

    def __enter__(self) -> None:
        with self._condition:
            while self._writing:
                self._condition.wait()
            self._readers += 1

    def __exit__(self, *exception: object) -> None:
        with self._condition:
            self._readers -= 1
            if self._readers == 0:
                self._condition.notify_all()


@contextmanager
def condition_read_lock(workspace: Workspace) -> Iterator[Sample]:
    """Entering and leaving the textbook lock as a reader."""
    lock = ConditionReadLock()

    def sample(operations: int) -> None:
        for _ in repeat(None, operations):
            with lock:
                pass

    yield sample


@contextmanager
def readerwriterlock_fair(workspace: Workspace) -> Iterator[Sample]:
    """Entering and leaving the readerwriterlock package's fair lock as a reader."""
    from readerwriterlock.rwlock import RWLockFair

    lock = RWLockFair()

    def sample(operations: int) -> None:
        for _ in repeat(None, operations):
            with lock.gen_rlock():
                pass

    yield sample


@contextmanager
def sqlite_get(workspace: Workspace) -> Iterator[Sample]:
    """Selecting one row of a warm database by its primary key."""
    with open_sqlite(workspace.directory / "bank.sqlite") as connection:
        fill_accounts(connection, ACCOUNTS)

        def sample(operations: int) -> None:
            number = ACCOUNTS // 2
            for _ in repeat(None, operations):
                connection.execute("SELECT * FROM account WHERE id = ?", (number,)).fetchone()

        yield sample


def sqlite_opening(rows: int) -> Contender:
    """Opening a database and selecting `rows` rows into the same structs."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        path = workspace.directory / "bank.sqlite"
        with open_sqlite(path) as connection:
            fill_accounts(connection, rows)

        def sample(operations: int) -> None:
            for _ in range(operations):
                with closing(sqlite3.connect(path)) as connection:
                    accounts = {row[0]: Account(*row) for row in connection.execute("SELECT * FROM account")}
                assert len(accounts) == rows

        yield sample

    return contender

"""The floors: the same work written out by hand for this one case, with nothing around it.

Whatever a framework adds comes on top of these, so a figure is read as "so many times the floor". The
floors skip what makes a system (declared rules, errors, locks, group building, recovery), not what makes
the result: the checks are made, both records are encoded and written, and the disk is synced.
"""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import msgspec
from rocksdict import Options, Rdict, WriteBatch

from benches.harness import Contender, Sample, Workspace
from benches.machine import SYNC_BYTES, sync_data
from benches.workload import ACCOUNTS, ACTOR, AMOUNT, AMOUNT_MAX, BALANCE_MAX, ROLE, owner, targets

BUILD_BATCH = 10_000


class Account(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A model with what Klerk keeps beside the fields."""

    id: int
    state: int
    version: int
    created_ns: int
    updated_ns: int
    owner: str
    balance: int


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One audit entry: who, when, what, with which parameters, and what became of the model."""

    sequence: int
    at_ns: int
    actor: str
    event: str
    target: int
    amount: int
    model: msgspec.Raw


def new_account(number: int) -> Account:
    """An account as it is before the first deposit."""
    now_ns = time.time_ns()
    return Account(number, 1, 1, now_ns, now_ns, owner(number), 0)


def key(number: int) -> bytes:
    """Big-endian, so that keys sort as numbers do."""
    return number.to_bytes(8, "big")


@contextmanager
def open_rocks(path: Path, *families: str) -> Iterator[Rdict]:
    """A RocksDB store in raw mode, with these column families beside the default one."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    db = Rdict(str(path), options, {name: Options(raw_mode=True) for name in ("default", *families)})
    try:
        yield db
    finally:
        db.close()


def deposits(group_size: int) -> Contender:
    """The hand-inlined deposit: `group_size` of them in one write batch, then one sync."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        with open_rocks(workspace.directory / "store", "log", "models") as db:
            yield _depositor(db, group_size)

    return contender


def _depositor(db: Rdict, group_size: int) -> Sample:
    log, models = db.get_column_family_handle("log"), db.get_column_family_handle("models")
    accounts = {number: new_account(number) for number in range(ACCOUNTS)}
    roles = frozenset({ROLE})
    encode = msgspec.msgpack.Encoder().encode
    numbers = targets()
    sequence = 0

    def sample(operations: int) -> None:
        nonlocal sequence
        for _ in range(operations // group_size):
            batch = WriteBatch(raw_mode=True)
            for _ in range(group_size):
                number, amount = next(numbers), AMOUNT
                if ROLE not in roles:
                    raise PermissionError
                if type(amount) is not int or not 1 <= amount <= AMOUNT_MAX:
                    raise ValueError(amount)
                account = accounts[number]
                balance = account.balance + amount
                if balance > BALANCE_MAX:
                    raise ValueError(balance)
                sequence += 1
                now_ns = time.time_ns()
                account = Account(
                    number,
                    account.state,
                    account.version + 1,
                    account.created_ns,
                    now_ns,
                    account.owner,
                    balance,
                )
                encoded = encode(account)
                entry = Entry(sequence, now_ns, ACTOR, "deposit", number, amount, msgspec.Raw(encoded))
                batch.put(number.to_bytes(8, "big"), encoded, models)
                batch.put(sequence.to_bytes(8, "big"), encode(entry), log)
                accounts[number] = account
            db.write(batch)
            db.flush_wal(True)

    return sample


@contextmanager
def append_and_sync(workspace: Workspace) -> Iterator[Sample]:
    """Appending 200 bytes to a file and syncing it: what the disk alone asks for one durable command."""
    with (workspace.directory / "log").open("wb", buffering=0) as file:

        def sample(operations: int) -> None:
            for _ in range(operations):
                file.write(bytes(SYNC_BYTES))
                sync_data(file.fileno())

        yield sample


@contextmanager
def lock(workspace: Workspace) -> Iterator[Sample]:
    """Entering and leaving a `threading.Lock`."""
    lock = threading.Lock()

    def sample(operations: int) -> None:
        for _ in repeat(None, operations):
            with lock:
                pass

    yield sample


@contextmanager
def dictionary(workspace: Workspace) -> Iterator[Sample]:
    """Looking a model up in a dict by its integer id."""
    accounts = {number: new_account(number) for number in range(ACCOUNTS)}

    def sample(operations: int) -> None:
        number = ACCOUNTS // 2
        for _ in repeat(None, operations):
            accounts[number]

    yield sample


def opening(rows: int) -> Contender:
    """Opening a RocksDB store and decoding `rows` structs into a dict, collector off, status checked."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        path = workspace.directory / "store"
        with open_rocks(path, "models") as db:
            _build(db, rows, workspace)

        def sample(operations: int) -> None:
            for _ in range(operations):
                with open_rocks(path, "models") as db:
                    accounts = _load(db)
                assert len(accounts) == rows

        yield sample

    return contender


def _build(db: Rdict, rows: int, workspace: Workspace) -> None:
    models = db.get_column_family_handle("models")
    encode = msgspec.msgpack.Encoder().encode
    for first in range(0, rows, BUILD_BATCH):
        batch = WriteBatch(raw_mode=True)
        for number in range(first, min(first + BUILD_BATCH, rows)):
            batch.put(key(number), encode(new_account(number)), models)
        db.write(batch)
        workspace.announce(f"floor: building {first + BUILD_BATCH:,}/{rows:,}")
    db.get_column_family("models").flush()


def _load(db: Rdict) -> dict[int, Account]:
    decode = msgspec.msgpack.Decoder(Account).decode
    accounts: dict[int, Account] = {}
    gc.disable()
    try:
        rows = db.get_column_family("models").iter()
        rows.seek_to_first()
        while rows.valid():
            account = decode(rows.value())
            accounts[account.id] = account
            rows.next()
        rows.status()
    finally:
        gc.enable()
    return accounts

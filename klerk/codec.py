"""Records and bytes: what stands in the store, and how it is read back. Every format carries its version."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from klerk._core import Group
from klerk._image import key_of, without_meta
from klerk.app import Spec
from klerk.errors import Corrupted, SchemaChanged
from klerk.field_types import FieldType
from klerk.jobs import JobRecord
from klerk.storage.contract import Delete, Family, Put
from klerk.values import has_default

LOG_FORMAT: Final = 1
CATALOG_FORMAT: Final = 1
CATALOG_KEY: Final = b"catalog"
VERIFIED_KEY: Final = b"verified"
APPLIED_KEY: Final = b"applied"
INDEXED_KEY: Final = b"indexed"
ERASED_KEY: Final = b"erased"
TOKEN_SECRET_KEY: Final = b"token secret"
GENESIS: Final = b"\0" * 32

# What Klerk itself does stands in the commit log under event codes of its own; 0 is a timer.
UNSAFE_CREATE: Final = -1
UNSAFE_UPDATE: Final = -2
UNSAFE_DELETE: Final = -3
ERASURE: Final = -4
RENEWAL: Final = -5

OWN_EVENTS: Final = {
    0: "timer",
    UNSAFE_CREATE: "unsafe create",
    UNSAFE_UPDATE: "unsafe update",
    UNSAFE_DELETE: "unsafe delete",
    ERASURE: "erasure",
    RENEWAL: "renewal",
}
"""The names of Klerk's own events by their code. A renewal stores the newest version of a model once more,
because the payload that held it is erased for the sake of another model."""

# Jobs that are still to run come first in their family, so that opening reads nothing else.
LIVE_JOB: Final = b"a"
ENDED_JOB: Final = b"z"


def number_of(key: bytes) -> int:
    """Return the number of a key made by `key_of`."""
    return int.from_bytes(key, "big")


encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder(
    enc_hook=without_meta, decimal_format="string", uuid_format="canonical"
).encode


class TransactionHead(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the commit log says of a transaction for ever; personal data is in its payload.

    Parameters:
        sequence: in the total order.
        time_us: of its context, in microseconds since 1970 UTC.
        actor: kind, id and cause.
        targets: (event code, model id, depth) of every command, secondary ones with a depth over 0. Every
            model that the transaction touched is among them: its history is found by that.
        digest: SHA-256 of the payload.
        behalf: kind and id of the actor on whose behalf the actor acted, if that was somebody else.
        token: the token that it used, as it stands in its family.
    """

    sequence: int
    time_us: int
    actor: tuple[str, str, int]
    targets: tuple[tuple[int, int, int], ...]
    digest: bytes
    behalf: tuple[str, str] | None = None
    token: bytes | None = None


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The head of a log record: one commit group.

    Parameters:
        format: of the record.
        first, last: the sequences of the group's transactions.
        previous: SHA-256 of the head before.
        next_id, next_job_id: of the models and jobs to come.
        ended_jobs: how many jobs ended as completed, discarded and cancelled, since the store was made.
        transactions: of the group, in order.
    """

    format: int
    first: int
    last: int
    previous: bytes
    next_id: int
    next_job_id: int
    ended_jobs: tuple[int, int, int]
    transactions: tuple[TransactionHead, ...]


class LogRecord(msgspec.Struct, frozen=True, array_like=True):
    """A log record: the encoded head, and each transaction's payload; an erased payload is None."""

    head: bytes
    payloads: tuple[bytes | None, ...]


class Payload(msgspec.Struct, frozen=True, array_like=True):
    """What a transaction did, in full.

    Parameters:
        parameters: the arguments of every command.
        images: (id, stored model) after the transaction.
        deleted: the ids of models that it deleted.
        jobs: (id, stored job) of the jobs that it created or changed.
    """

    parameters: tuple[tuple[Any, ...], ...]
    images: tuple[tuple[int, bytes], ...]
    deleted: tuple[int, ...]
    jobs: tuple[tuple[int, bytes], ...]


_decode_record = msgspec.msgpack.Decoder(LogRecord).decode
_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_payload = msgspec.msgpack.Decoder(Payload).decode
_decode_job = msgspec.msgpack.Decoder(JobRecord).decode


def seal(
    group: Group, previous: bytes, next_id: int, next_job_id: int, ended_jobs: tuple[int, int, int]
) -> tuple[bytes, Put]:
    """Return the digest of a group's log record and the put that stores it.

    Parameters:
        group: processed, with at least one transaction.
        previous: the digest of the record before.
    """
    first, last = group.heads[0][0], group.heads[-1][0]
    head = encode((LOG_FORMAT, first, last, previous, next_id, next_job_id, ended_jobs, group.heads))
    return sha256(head).digest(), (Family.LOG, key_of(first), encode((head, group.payloads)))


def job_puts(jobs: Iterable[tuple[JobRecord, bytes]]) -> tuple[list[Put], list[Delete]]:
    """Return what stores jobs, given as record and encoded record."""
    puts: list[Put] = []
    deletes: list[Delete] = []
    family = int(Family.JOBS)
    for record, encoded in jobs:
        key = key_of(record.id)
        if record.ended_us:
            deletes.append((family, LIVE_JOB + key))
            puts.append((family, ENDED_JOB + key, encoded))
        else:
            puts.append((family, LIVE_JOB + key, encoded))
    return puts, deletes


def token_puts(tokens: dict[int, bytes | None]) -> tuple[list[Put], list[Delete]]:
    """Return what stores used tokens by the sequence of the transaction that used them; None deletes one."""
    family = int(Family.TOKENS)
    return (
        [(family, key_of(sequence), row) for sequence, row in tokens.items() if row is not None],
        [(family, key_of(sequence)) for sequence, row in tokens.items() if row is None],
    )


def read_record(key: bytes, value: bytes) -> tuple[Head, bytes, LogRecord]:
    """Return a log record's head, the head's digest, and the record, its format and key checked.

    Raises:
        Corrupted: it cannot be read.
    """
    try:
        record = _decode_record(value)
        head = _decode_head(record.head)
    except msgspec.DecodeError as error:
        raise Corrupted(f"log record {number_of(key)} cannot be read: {error}") from error
    if (
        head.format != LOG_FORMAT
        or head.first != number_of(key)
        or len(record.payloads) != len(head.transactions)
    ):
        raise Corrupted(f"log record {number_of(key)} contradicts itself")
    return head, sha256(record.head).digest(), record


def check_payloads(head: Head, record: LogRecord) -> None:
    """Check every payload that was not erased against its digest.

    Raises:
        Corrupted: one does not have it.
    """
    for transaction, payload in zip(head.transactions, record.payloads, strict=True):
        if payload is not None and sha256(payload).digest() != transaction.digest:
            raise Corrupted(f"the payload of transaction {transaction.sequence} was changed")


def read_payload(payload: bytes) -> Payload:
    """Return what a transaction did."""
    return _decode_payload(payload)


def read_job(job_id: int, value: bytes) -> JobRecord:
    """Return a stored job.

    Raises:
        Corrupted: it cannot be read.
    """
    try:
        return _decode_job(value)
    except msgspec.DecodeError as error:
        raise Corrupted(f"job {job_id} cannot be read: {error}") from error


class ClassEntry(msgspec.Struct, frozen=True):
    """A model class in the catalog: its states by code, its fields in order with what is stored of them."""

    name: str
    states: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]


class Catalog(msgspec.Struct, frozen=True):
    """What the codes in stored records mean. Codes are places in these lists, which only grow at the end.

    Parameters:
        format: of the catalog.
        classes, events, jobs: by code; event code 0 is a timer, whose one parameter, if it has any, is why it
            was refused.
    """

    format: int
    classes: tuple[ClassEntry, ...] = ()
    events: tuple[str, ...] = ("timer",)
    jobs: tuple[str, ...] = ()


def read_catalog(value: bytes | None) -> Catalog:
    """Return the stored catalog, or an empty one for a new store."""
    if value is None:
        return Catalog(CATALOG_FORMAT)
    try:
        return msgspec.json.decode(value, type=Catalog)
    except msgspec.DecodeError as error:
        raise Corrupted(f"the catalog of the design cannot be read: {error}") from error


def event_name(catalog: Catalog, code: int) -> str:
    """Return the name of an event by its code, of one of Klerk's own too."""
    if code in OWN_EVENTS:
        return OWN_EVENTS[code]
    return catalog.events[code] if 0 < code < len(catalog.events) else f"event {code}"


def write_catalog(catalog: Catalog) -> bytes:
    """Return a catalog as it is stored."""
    return msgspec.json.encode(catalog)


def extended(catalog: Catalog, spec: Spec) -> Catalog:
    """Return the catalog with what the design adds.

    Raises:
        SchemaChanged: the design contradicts what is stored; every difference is named.
    """
    differences: list[str] = []
    known = {entry.name: entry for entry in catalog.classes}
    declared = {each.machine.name: each for each in spec.machines}
    classes = list(catalog.classes)
    for i, entry in enumerate(classes):
        if entry.name not in declared:
            differences.append(f"the model {entry.name} is no longer declared")
            continue
        each = declared[entry.name]
        states = [state.name for state in each.machine.all_states]
        differences.extend(
            f"the state {entry.name}.{name} is no longer declared"
            for name in entry.states
            if name not in states
        )
        fields = _stored_fields(each.fields)
        required = {name for name in each.fields if not has_default(each.machine.model_class, name)}
        differences.extend(_field_differences(entry, fields, required))
        added = tuple(name for name in states if name not in entry.states)
        classes[i] = ClassEntry(entry.name, entry.states + added, fields)
    if differences:
        raise SchemaChanged(
            "the design does not fit the store:\n  - " + "\n  - ".join(differences),
            hint="Undo these changes, or open another store. New models, states, events, jobs and new last"
            " fields with a default need nothing.",
        )
    for name, each in declared.items():
        if name not in known:
            states_now = tuple(state.name for state in each.machine.all_states)
            classes.append(ClassEntry(name, states_now, _stored_fields(each.fields)))
    return Catalog(
        CATALOG_FORMAT,
        tuple(classes),
        _grown(catalog.events, [str(each.event) for each in spec.events]),
        _grown(catalog.jobs, list(spec.jobs)),
    )


def _stored_fields(fields: dict[str, FieldType]) -> tuple[tuple[str, str], ...]:
    return tuple((name, field.stored) for name, field in fields.items())


def _grown(known: Sequence[str], declared: Sequence[str]) -> tuple[str, ...]:
    return (*known, *(name for name in declared if name not in known))


def _field_differences(
    entry: ClassEntry, fields: tuple[tuple[str, str], ...], required: set[str]
) -> list[str]:
    """Return how the declared fields contradict the stored ones, which they may only follow."""
    differences = []
    now = dict(fields)
    for i, (name, stored) in enumerate(entry.fields):
        if name not in now:
            differences.append(f"the field {entry.name}.{name} is no longer declared")
        elif now[name] not in (stored, f"{stored}?"):
            differences.append(f"the field {entry.name}.{name} was {stored} and is {now[name]}")
        elif i < len(fields) and fields[i][0] != name:
            differences.append(f"the field {entry.name}.{name} is no longer number {i + 1}")
    for name, _ in fields[len(entry.fields) :]:
        if name not in dict(entry.fields) and name in required:
            differences.append(f"the new field {entry.name}.{name} has no default")
    return differences

"""Records and bytes: what stands in the store, and how it is read back. Every format carries its version."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import msgspec

from klerk._core import Group
from klerk._image import key_of, without_meta
from klerk.errors import Corrupted
from klerk.jobs import JobRecord
from klerk.storage.contract import Delete, Family, Put

LOG_FORMAT: Final = 1
CATALOG_FORMAT: Final = 1
CATALOG_KEY: Final = b"catalog"
VERIFIED_KEY: Final = b"verified"
APPLIED_KEY: Final = b"applied"
INDEXED_KEY: Final = b"indexed"
ERASED_KEY: Final = b"erased"
TOKEN_SECRET_KEY: Final = b"token secret"
JOB_LEVELS_KEY: Final = b"job levels"
JOB_QUEUES_KEY: Final = b"job queues"
GENESIS: Final = b"\0" * 32

# What Klerk itself does stands in the commit log under event codes of its own; 0 is a timer.
UNSAFE_CREATE: Final = -1
UNSAFE_UPDATE: Final = -2
UNSAFE_DELETE: Final = -3
ERASURE: Final = -4
RENEWAL: Final = -5
JOB_ACTION: Final = -6
QUEUE_ACTION: Final = -7
CRON_TICK: Final = -8
JOBS_OF_JOB: Final = -9

OWN_EVENTS: Final = {
    0: "timer",
    UNSAFE_CREATE: "unsafe create",
    UNSAFE_UPDATE: "unsafe update",
    UNSAFE_DELETE: "unsafe delete",
    ERASURE: "erasure",
    RENEWAL: "renewal",
    JOB_ACTION: "job action",
    QUEUE_ACTION: "queue action",
    CRON_TICK: "cron tick",
    JOBS_OF_JOB: "jobs of a job",
}
"""The names of Klerk's own events by their code. A renewal stores the newest version of a model once more,
because the payload that held it is erased for the sake of another model. A cron tick is a time that got no
job, because a unique one stood for it."""


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


Types = tuple[tuple[str, str], ...]
"""Names, in order, each with what is stored under it."""


class ClassEntry(msgspec.Struct, frozen=True):
    """A model class in the catalog, or what it once was.

    Parameters:
        name: empty when a migration deleted the class, whose code stays taken.
        states: by code; an empty name is a state that a migration deleted.
        fields: name and what is stored of it, in order. Models stored before the last ones came lack them.
        since: the schema version from which on models have been stored like this.
        defaults: for fields that were added since then, what models that lack them have: MessagePack, in
            hexadecimal.
    """

    name: str
    states: tuple[str, ...]
    fields: Types
    since: int = 0
    defaults: dict[str, str] = {}


class EarlierClass(msgspec.Struct, frozen=True):
    """How the models of a class were stored up to a schema version: what is needed to read those again."""

    code: int
    until: int
    entry: ClassEntry


class EarlierJob(msgspec.Struct, frozen=True):
    """With which parameters the jobs of a kind were stored up to a schema version: those of which version."""

    kind: str
    until: int
    parameters: Types
    version: int = 1


class EarlierEvent(msgspec.Struct, frozen=True):
    """The names of an event's parameters in the log up to a transaction."""

    code: int
    until: int
    parameters: tuple[str, ...]


class Ran(msgspec.Struct, frozen=True):
    """A migration that was run: which, and when, in microseconds since 1970 UTC."""

    version: int
    name: str
    fingerprint: str
    time_us: int


class Catalog(msgspec.Struct, frozen=True):
    """What the codes in stored records mean. Codes are places in these lists, which only grow at the end.

    Parameters:
        format: of the catalog.
        classes, events, jobs: by code; event code 0 is a timer, whose one parameter, if it has any, is why it
            was refused.
        job_types: the parameters of each job kind.
        version: of the schema, which is the number of the newest migration that was run.
        rewritten: the version up to which stored models and jobs have been stored anew.
        earlier, earlier_jobs: how models and jobs were stored before.
        ran: the migrations that were run here, in order. A store that was made later has none of them.
        fingerprint: of the design that opened the store last.
        event_parameters: the names of each event's parameters, by code; empty where they are not known.
        earlier_events: what they were before, oldest first. Some at the end may have been added since.
        job_versions: the parameters of each job kind in each version of them that was declared so far, the
            one in use last.
    """

    format: int
    classes: tuple[ClassEntry, ...] = ()
    events: tuple[str, ...] = ("timer",)
    jobs: tuple[str, ...] = ()
    job_types: dict[str, Types] = {}
    version: int = 0
    rewritten: int = 0
    earlier: tuple[EarlierClass, ...] = ()
    earlier_jobs: tuple[EarlierJob, ...] = ()
    ran: tuple[Ran, ...] = ()
    fingerprint: str = ""
    event_parameters: tuple[tuple[str, ...], ...] = ()
    earlier_events: tuple[EarlierEvent, ...] = ()
    job_versions: dict[str, dict[int, Types]] = {}


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

"""One job of a store for people, said without the app that made it: ``python -m klerk jobs PATH ID``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from klerk.audit.commit_log import transaction_at
from klerk.audit.entries import time_of
from klerk.audit.printing import transaction_lines
from klerk.codec import CATALOG_KEY, Catalog, read_catalog
from klerk.errors import NotFound
from klerk.inspection import opened
from klerk.job_manager.job_rows import READY, find_row, scan_rows
from klerk.job_states import decoded_state
from klerk.jobs import JobRecord
from klerk.storage import Family, Storage
from klerk.texts import times

_LABEL_WIDTH: Final = 12

_decode: Final = msgspec.msgpack.Decoder().decode


def printed_job(path: Path, job_id: int) -> Iterator[str]:
    """Yield the lines that tell all that a store holds of a job, and the transaction that created it.

    Parameters:
        path: of the store; it must not be in use.

    Raises:
        NotAStore, StoreLocked, Corrupted: as for opening it.
        NotFound: there is no such job.
    """
    with opened(path) as (_, storage, _):
        record = find_row(storage, job_id) if 0 < job_id < 2**63 else None
        if record is None:
            hint = "It never was, or is not kept any more. Without an id, some that there are get listed."
            raise NotFound(f"there is no job {job_id} in this store", hint=hint)
        catalog = read_catalog(storage.get(Family.META, CATALOG_KEY))
        yield f"job {record.id}: {record.kind}"
        for label, told in _facts(catalog, storage, record):
            # What has several lines stands under its first.
            for line in told.splitlines() or [""]:
                yield f"  {label:<{_LABEL_WIDTH}}{line}".rstrip()
                label = ""
        yield from _cause(catalog, storage, record)
        yield f"its own commands: python -m klerk log {path} --actor 'system:job {record.kind} {record.id}'"


def _facts(catalog: Catalog, storage: Storage, record: JobRecord) -> Iterator[tuple[str, str]]:
    """Yield what there is to say of a job, each with its label."""
    yield "state", record.state + (f", asked to end as {record.stop}" if record.stop else "")
    yield "arguments", _arguments(catalog, record)
    yield "queue", record.queue or "that of its kind"
    if record.priority is not None:
        yield "priority", str(record.priority)
    yield "attempts", _attempts(record)
    yield from _times(record)
    if record.error:
        yield "error", record.error
    for failure in record.errors:
        yield f"attempt {failure.attempt}", f"failed {_moment(failure.at_us)}"
        yield "", failure.traceback or failure.error
    if record.total or record.done:
        yield "progress", f"{record.done:,} of {record.total:,}" if record.total else f"{record.done:,}"
    if record.log:
        yield "log", "\n".join(record.log)
    if record.checkpoint:
        yield "checkpoint", repr(decoded_state(record.checkpoint))
    if record.result:
        yield "result", f"{_decode(record.result)!r}, kept until {_moment(record.result_until_us)}"
    if record.key:
        yield "key", record.key
    if record.trace:
        yield "trace", record.trace
    yield from _relations(storage, record)


def _arguments(catalog: Catalog, record: JobRecord) -> str:
    """Return the arguments by name, where the names of their version are known."""
    types: Any = catalog.job_versions.get(record.kind, {}).get(record.version, ())
    names = [name for name, _ in types[: len(record.arguments)]]
    names += ["?"] * (len(record.arguments) - len(names))
    told = [f"{name}={value!r}" for name, value in zip(names, record.arguments, strict=True)]
    version = f"version {record.version} of its parameters" if record.version > 1 else ""
    return "\n".join([*told, version] if version else told) or "none"


def _attempts(record: JobRecord) -> str:
    told = [f"{record.attempt} ended"]
    if record.attempts_max:
        told.append(f"{record.attempts_max} at most")
    if record.crashes:
        told.append(f"the process died {times(record.crashes)}")
    if record.reruns:
        told.append(f"run again by hand {times(record.reruns)}")
    return ", ".join(told)


def _times(record: JobRecord) -> Iterator[tuple[str, str]]:
    yield "created", _moment(record.created_us)
    for label, us in (
        ("cron time", record.tick_us),
        ("not before", record.run_at_us),
        ("started", record.started_us),
        ("ended", record.ended_us),
    ):
        if us:
            yield label, _moment(us)


def _relations(storage: Storage, record: JobRecord) -> Iterator[tuple[str, str]]:
    """Yield what a job has to do with others."""
    if record.follows:
        anyway = ", however they end" if record.anyway else ""
        yield "follows", f"{_named(storage, record.follows)}{anyway}"
    # Whoever waits for others is among the ready ones, whatever its time is.
    followers = tuple(each.id for each in scan_rows(storage, READY) if record.id in each.follows)
    if followers:
        yield "followed by", _named(storage, followers)
    if record.role:
        members = f"its {record.members:,} members, {record.failures:,} of which failed"
        ended = f"ended {_moment(record.batch_ended_us)}" if record.batch_ended_us else "not ended"
        yield "batch", f"{record.batch}, {ended}: runs for '{record.role}' of {members}"
    elif record.batch:
        yield "batch", f"member of {record.batch}"


def _named(storage: Storage, job_ids: tuple[int, ...]) -> str:
    """Return jobs with their states, one a line."""
    found = ((job_id, find_row(storage, job_id)) for job_id in job_ids)
    return "\n".join(
        f"{job_id}, not kept any more" if each is None else f"{job_id}: {each.kind}, {each.state}"
        for job_id, each in found
    )


def _cause(catalog: Catalog, storage: Storage, record: JobRecord) -> Iterator[str]:
    """Yield the transaction that created a job."""
    transaction = transaction_at(storage, record.cause) if record.cause else None
    if transaction is None:
        yield "created by cron" if record.tick_us else "created by nothing that the commit log names"
        return
    yield "created by transaction"
    for line in transaction_lines(catalog, transaction.head, transaction.payload):
        yield f"  {line}"


def _moment(us: int) -> str:
    return f"{time_of(us):%Y-%m-%d %H:%M:%S.%f} UTC"

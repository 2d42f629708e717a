"""Opening a store: check what is there, load it, and refuse when something acknowledged is missing."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from klerk import limits
from klerk._dispatch import microseconds
from klerk._image import key_of, load_models
from klerk._waiting import ReadWriteLock
from klerk.app import Spec
from klerk.audit.cron_entries import CronTicks
from klerk.audit.erasure import finish_erasures
from klerk.audit.history import History
from klerk.checkpointer import apply
from klerk.codec import (
    APPLIED_KEY,
    CATALOG_KEY,
    GENESIS,
    VERIFIED_KEY,
    Types,
    check_payloads,
    number_of,
    read_catalog,
    read_job,
    read_payload,
    read_record,
)
from klerk.cron_marks import open_marks
from klerk.errors import Corrupted
from klerk.job_manager.job_loading import load_jobs
from klerk.job_manager.job_rows import JobRows, Moment
from klerk.jobs import JobRecord
from klerk.migration.migrating import Migrating, Progress
from klerk.migration.schema import plan_of
from klerk.processing import Clock, Program
from klerk.storage.contract import Family, Storage
from klerk.timers.retiming import Retiming


@dataclass(slots=True, kw_only=True)
class Recovered:
    """What a store held.

    Parameters:
        program: with all models in its table.
        digest: of the newest log record's head.
        ended_jobs: completed, discarded and cancelled, since the store was made.
        jobs: those that are ready, and the soonest of those that wait for a time.
        later_jobs: where those begin that are left in the store, in the order of their times; None: there are
            none.
        rows: where jobs are stored, and how many there are.
        up_to_date: gives a stored job as the design has it.
        history: up to date.
        job_versions: the parameters of each kind and version that jobs may be stored with.
        cron_marks: of each cron job, the newest time that was dealt with, in microseconds since 1970 UTC.
    """

    program: Program
    history: History
    rows: JobRows
    up_to_date: Callable[[JobRecord], JobRecord | None]
    digest: bytes = GENESIS
    ended_jobs: tuple[int, int, int] = (0, 0, 0)
    jobs: list[JobRecord] = field(default_factory=list)
    job_versions: dict[str, dict[int, Types]] = field(default_factory=dict)
    cron_marks: dict[str, int] = field(default_factory=dict)
    later_jobs: Moment | None = None


def recover(storage: Storage, spec: Spec, clock: Clock, lock: ReadWriteLock, progress: Progress) -> Recovered:
    """Check and load a store.

    Raises:
        SchemaChanged, NewerStore: the design does not fit what is stored.
        ConfigError: K052: a migration begins with a name that is probably misspelt.
        MigrationFailed: what is stored does not fit the design after its migrations.
        FunctionFailed: a migration failed, or the context provider, which timers of a changed design need.
        Corrupted: something is damaged, or acknowledged commands are missing.
    """
    recovered, migrating, retiming = prepare(storage, spec, clock, lock, progress)
    # Written last: a design that cannot be opened leaves the store to the one that can.
    migrating.commit(clock, progress)
    retiming.write(progress)
    processor = recovered.program.processor
    recovered.cron_marks = open_marks(
        storage,
        spec.jobs,
        microseconds(clock()),
        next_job_id=processor.next_job_id,
        sequence=processor.sequence,
        newest_without_job=CronTicks(storage, recovered.history, processor.sequence).newest_without_job,
    )
    storage.write([(Family.META, VERIFIED_KEY, key_of(_newest(storage)))], [])
    return recovered


def prepare(
    storage: Storage, spec: Spec, clock: Clock, lock: ReadWriteLock, progress: Progress
) -> tuple[Recovered, Migrating, Retiming]:
    """Check and load a store, and leave what it knows of its design as it is.

    Raises:
        As `recover`.
    """
    plan = plan_of(read_catalog(storage.get(Family.META, CATALOG_KEY)), spec)
    program, rows = Program(spec, plan.catalog, clock, lock), JobRows(storage)
    migrating = Migrating(storage, program, plan, rows)
    recovered = Recovered(
        program=program,
        history=History(storage),
        rows=rows,
        up_to_date=migrating.job_up_to_date,
        job_versions=plan.catalog.job_versions,
    )
    _read_head(storage, recovered)
    verify_log(storage, _marked(storage, VERIFIED_KEY), progress)
    rows.take_over()
    _apply_tail(storage, rows, progress)
    recovered.history.catch_up(progress)
    finish_erasures(storage, recovered.history, recovered.program.processor.sequence)
    with _without_collection():
        _load_models(storage, recovered.program, migrating if plan.is_migrating else None, progress)
    newest_job = program.processor.next_job_id - 1
    recovered.jobs, recovered.later_jobs = load_jobs(storage, rows, migrating, newest_job, progress)
    migrating.check()
    retiming = Retiming(storage, recovered.program, since=plan.known.rewritten)
    with _without_collection():
        retiming.compute(clock, progress)
    return recovered, migrating, retiming


def _newest(storage: Storage) -> int:
    for key, _ in storage.scan(Family.LOG, reverse=True):
        return number_of(key)
    return 0


def _marked(storage: Storage, mark: bytes) -> int:
    value = storage.get(Family.META, mark)
    return 0 if value is None else number_of(value)


def _apply_tail(storage: Storage, rows: JobRows, progress: Progress) -> None:
    """Bring models, jobs and tokens up to the end of the log, which they may be behind after a crash."""
    applied = _marked(storage, APPLIED_KEY)
    images: dict[int, bytes | None] = {}
    jobs: dict[int, tuple[JobRecord, bytes]] = {}
    tokens: dict[int, bytes | None] = {}
    newest = 0
    for key, value in storage.scan(Family.LOG, key_of(applied + 1)):
        head, _, record = read_record(key, value)
        for payload in record.payloads:
            if payload is None:
                continue
            done = read_payload(payload)
            images.update(done.images)
            images.update(dict.fromkeys(done.deleted))
            jobs.update((id, (read_job(id, encoded), encoded)) for id, encoded in done.jobs)
        tokens.update((each.sequence, each.token) for each in head.transactions if each.token is not None)
        newest = head.first
        progress("applying the end of the log", head.last - applied, 0)
        if len(images) + len(jobs) + len(tokens) >= limits.CHECKPOINT_RECORDS_MAX:
            apply(storage, rows, images, jobs, tokens, newest)
            images, jobs, tokens, newest = {}, {}, {}, 0
    if newest:
        apply(storage, rows, images, jobs, tokens, newest)


def _read_head(storage: Storage, recovered: Recovered) -> None:
    """Take over where the log ends, and hold it against the witness.

    Raises:
        Corrupted: the witness knows of acknowledged commands that the log does not have.
    """
    for key, value in storage.scan(Family.LOG, reverse=True):
        head, digest, _ = read_record(key, value)
        processor = recovered.program.processor
        processor.sequence = processor.published_sequence = head.last
        processor.next_id, processor.next_job_id = head.next_id, head.next_job_id
        recovered.digest, recovered.ended_jobs = digest, head.ended_jobs
        break
    require_acknowledged(storage, recovered.program.processor.sequence)


def require_acknowledged(storage: Storage, newest: int) -> None:
    """Hold the log against the witness.

    Parameters:
        newest: the sequence of the last transaction in the log; 0 for an empty one.

    Raises:
        Corrupted: the witness knows of acknowledged commands that the log does not have.
    """
    witness = storage.witnessed()
    if witness is None or not witness.sequence:
        return
    value_at_witness = storage.get(Family.LOG, key_of(witness.sequence))
    if value_at_witness is None:
        raise _behind(witness.sequence, newest)
    _, digest, _ = read_record(key_of(witness.sequence), value_at_witness)
    if digest != witness.digest:
        raise Corrupted(f"log record {witness.sequence} is not the one that was acknowledged")


def _behind(acknowledged: int, found: int) -> Corrupted:
    return Corrupted(
        f"commands up to {acknowledged} at least were acknowledged, and the log ends at {found}",
        hint="Part of the store was lost or damaged. Restore a backup, or the missing files.",
    )


@dataclass(slots=True, kw_only=True)
class Verified:
    """What following the hash chain came across.

    Parameters:
        records, transactions: how many were checked.
        erased: how many of those transactions were erased.
        newest: the sequence of the last transaction.
        digest: of the last record's head.
    """

    records: int = 0
    transactions: int = 0
    erased: int = 0
    newest: int = 0
    digest: bytes = GENESIS


def verify_log(storage: Storage, start: int, progress: Progress) -> Verified:
    """Follow the hash chain of the commit log from a record to the end.

    Parameters:
        start: the key of a record that is known to be good; 0 for the beginning.

    Raises:
        Corrupted: a record is missing, damaged, or not the one that its successor names.
    """
    previous: bytes | None = GENESIS if start == 0 else None
    expected: int | None = 1 if start == 0 else None
    total, found = storage.estimated_count(Family.LOG) if start == 0 else 0, Verified()
    for key, value in storage.scan(Family.LOG, key_of(start)):
        head, digest, record = read_record(key, value)
        if expected is not None and head.first != expected:
            raise Corrupted(f"the log records {expected} to {head.first - 1} are missing")
        if previous is not None and head.previous != previous:
            raise Corrupted(f"log record {head.first} does not follow the one before it")
        check_payloads(head, record)
        previous, expected = digest, head.last + 1
        found.records += 1
        found.transactions += len(record.payloads)
        found.erased += record.payloads.count(None)
        found.newest, found.digest = head.last, digest
        if found.records % 256 == 0:
            progress("checking the log", found.records, total)
    return found


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the garbage collector from walking over millions of new objects, which hold no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _load_models(storage: Storage, program: Program, migrating: Migrating | None, progress: Progress) -> None:
    total = storage.estimated_count(Family.MODELS)
    what, refused = "loading models", None
    if migrating is not None:
        what, refused = "migrating models", migrating.refuse

    def tell(count: int) -> None:
        progress(what, count, total)

    load_models(program.table, storage.scan(Family.MODELS), program.plan_of_code, tell, refused)


def quiet(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


class ProgressLine:
    """Shows progress on stderr, in one line, once something takes longer than a second."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._start < limits.PROGRESS_AFTER_S or now - self._shown < 0.1:
            return
        self._shown = now
        share = f"{min(1.0, done / total):4.0%} " if total else ""
        bar = f"[{'#' * int(30 * min(1.0, done / total)):<30}] " if total else ""
        sys.stderr.write(f"\r{what} {bar}{share}{done:,}\x1b[K")
        sys.stderr.flush()

    def finish(self) -> None:
        """Clear the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

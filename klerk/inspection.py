"""What a store holds, said without the app that made it: ``python -m klerk inspect PATH``."""

from collections import Counter
from pathlib import Path

from klerk._dispatch import moment_of
from klerk._image import class_code_of
from klerk.blob_store import manifest_of
from klerk.codec import CATALOG_KEY, GENESIS, number_of, read_catalog, read_job, read_record
from klerk.errors import Corrupted
from klerk.expiring import stored_entries
from klerk.recovery import ProgressLine, verify_log
from klerk.storage import Family, RocksStorage, Storage, app_of


def describe_store(path: Path) -> str:
    """Verify the whole commit log of a store and return a description of what it holds.

    Raises:
        NotAStore, StoreLocked, Corrupted: as for opening it.
    """
    app = app_of(path)
    storage = RocksStorage.open(path, app=app, durability="sync", create=False)
    progress = ProgressLine()
    try:
        records = verify_log(storage, 0, progress)
        lines = [f"store of '{app}', {storage.size_bytes():,} bytes", *_log_lines(storage, records)]
        lines += _schema_lines(storage)
        lines += _model_lines(storage)
        lines += _job_lines(storage)
        lines += _side_lines(storage)
    finally:
        progress.finish()
        storage.close()
    return "\n".join(lines)


def _log_lines(storage: Storage, records: int) -> list[str]:
    for key, value in storage.scan(Family.LOG, reverse=True):
        head, digest, _ = read_record(key, value)
        return [
            f"commit log: {head.last:,} transactions in {records:,} groups; every hash fits",
            f"  head {digest.hex()}",
        ]
    return [f"commit log: empty; head {GENESIS.hex()}"]


def _model_lines(storage: Storage) -> list[str]:
    catalog = read_catalog(storage.get(Family.META, CATALOG_KEY))
    codes = {code: entry for code, entry in enumerate(catalog.classes) if entry.name}
    counts: Counter[int] = Counter()
    for key, stored in storage.scan(Family.MODELS):
        try:
            counts[class_code_of(stored)] += 1
        except ValueError as error:
            raise Corrupted(f"model {number_of(key)} cannot be read: {error}") from error
    return ["models:"] + [
        f"  {entry.name}: {counts[code]:,} ({', '.join(filter(None, entry.states))})"
        for code, entry in codes.items()
    ]


def _schema_lines(storage: Storage) -> list[str]:
    catalog = read_catalog(storage.get(Family.META, CATALOG_KEY))
    behind = "" if catalog.rewritten == catalog.version else "; not everything is stored anew yet"
    lines = [f"schema: version {catalog.version}, fingerprint {catalog.fingerprint}{behind}"]
    for ran in catalog.ran:
        time = moment_of(ran.time_us)
        lines.append(f"  migration {ran.version} {ran.name}, run at {time:%Y-%m-%d %H:%M:%S} UTC")
    return lines


def _job_lines(storage: Storage) -> list[str]:
    counts: Counter[str] = Counter(
        f"{job.kind} {job.state}"
        for job in (read_job(number_of(key[1:]), value) for key, value in storage.scan(Family.JOBS))
    )
    return ["jobs:"] + [f"  {kind}: {count:,}" for kind, count in sorted(counts.items())]


def _side_lines(storage: Storage) -> list[str]:
    values = [len(entry.value) for entry in stored_entries(storage, Family.KV)]
    sizes = [manifest_of(entry).size for entry in stored_entries(storage, Family.BLOBS)]
    return [
        f"key-values: {len(values):,}, {sum(values):,} bytes",
        f"blobs: {len(sizes):,}, {sum(sizes):,} bytes",
    ]

"""What a store holds, said without the app that made it: the commands inspect, verify and log."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from klerk._dispatch import moment_of
from klerk._image import class_code_of
from klerk.codec import CATALOG_KEY, number_of, read_catalog
from klerk.errors import Corrupted
from klerk.job_manager.job_rows import FORMER, READY, scan_rows, stored_counts
from klerk.keyed.blob_store import manifest_of
from klerk.keyed.expiring import stored_entries
from klerk.migration.migrating import Progress
from klerk.recovery import ProgressLine, Verified, require_acknowledged, verify_log
from klerk.storage import Family, RocksStorage, Storage, app_of


def describe_store(path: Path) -> str:
    """Verify the whole commit log of a store and return a description of what it holds.

    Raises:
        NotAStore, StoreLocked, Corrupted: as for opening it.
    """
    with opened(path) as (app, storage, progress):
        lines = [f"store of '{app}', {storage.size_bytes():,} bytes", *_verified_lines(storage, progress)]
        lines += _schema_lines(storage)
        lines += _model_lines(storage)
        lines += _job_lines(storage)
        lines += _side_lines(storage)
    return "\n".join(lines)


def verified_store(path: Path) -> str:
    """Verify the whole commit log of a store, and say how far it reaches.

    Raises:
        NotAStore, StoreLocked: as for opening it.
        Corrupted: with the first record that is damaged, or missing.
    """
    with opened(path) as (_, storage, progress):
        return "\n".join(_verified_lines(storage, progress))


@contextmanager
def opened(path: Path) -> Iterator[tuple[str, Storage, Progress]]:
    """Open a store without its app; yield the app's name, the store, and where to show progress.

    Raises:
        NotAStore, StoreLocked, Corrupted: as for opening it.
    """
    app = app_of(path)
    storage = RocksStorage.open(path, app=app, durability="sync", create=False)
    progress = ProgressLine()
    try:
        yield app, storage, progress
    finally:
        progress.finish()
        storage.close()


def _verified_lines(storage: Storage, progress: Progress) -> list[str]:
    found: Verified = verify_log(storage, 0, progress)
    require_acknowledged(storage, found.newest)
    if not found.records:
        return [f"commit log: empty; head {found.digest.hex()}"]
    what = f"{found.transactions:,} transactions"
    if found.erased:
        what += f", {found.erased:,} of them erased,"
    return [
        f"commit log: {what} in {found.records:,} groups; every hash fits",
        f"  head {found.digest.hex()}",
    ]


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
        f"{record.kind} {record.state}" for prefix in (READY, FORMER) for record in scan_rows(storage, prefix)
    )
    for (state, kind, _), count in stored_counts(storage).items():
        counts[f"{kind} {state}"] += count
    return ["jobs:"] + [f"  {kind}: {count:,}" for kind, count in sorted(counts.items())]


def _side_lines(storage: Storage) -> list[str]:
    values = [len(entry.value) for entry in stored_entries(storage, Family.KV)]
    sizes = [manifest_of(entry).size for entry in stored_entries(storage, Family.BLOBS)]
    return [
        f"key-values: {len(values):,}, {sum(values):,} bytes",
        f"blobs: {len(sizes):,}, {sum(sizes):,} bytes",
    ]

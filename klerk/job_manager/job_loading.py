"""Loading the jobs that have to be in memory when a store is opened."""

from itertools import islice

from klerk import limits
from klerk.codec import encode
from klerk.job_manager.crashes import with_marked
from klerk.job_manager.job_rows import DUE, READY, JobRows, Moment, due_of, find_row, scan_rows
from klerk.jobs import JobRecord
from klerk.migration.migrating import Migrating, Progress
from klerk.storage.contract import Storage


def load_jobs(
    storage: Storage, rows: JobRows, migrating: Migrating, newest: int, progress: Progress
) -> tuple[list[JobRecord], Moment | None]:
    """Return the jobs that are ready and the soonest of those that wait, and where the others begin, if any.

    Those that were running when the process died are among the first, however late they are.

    Parameters:
        rows: gets to know what is stored.
        migrating: looks at all jobs that have not ended, if the design concerns them.
        newest: the id of the newest job.
    """
    loaded = _load_ready(storage, rows, migrating, newest, progress)
    waiting = scan_rows(storage, DUE)
    for record in islice(waiting, limits.JOBS_AT_HAND_MAX):
        record_now = migrating.up_to_date(record)
        if record_now is not None:
            loaded.append(record_now)
    others = next(waiting, None)
    if others is None:
        return loaded, None

    def find(job_id: int) -> JobRecord | None:
        found = find_row(storage, job_id)
        return None if found is None or found.ended_us else migrating.up_to_date(found)

    loaded = with_marked(loaded, storage.marks, find)
    if migrating.concerns_jobs:
        migrating.up_to_date(others)
        for count, record in enumerate(waiting):
            migrating.up_to_date(record)
            if count % 4096 == 0:
                progress("checking jobs", count, 0)
    return loaded, (others.run_at_us, others.id)


def _load_ready(
    storage: Storage, rows: JobRows, migrating: Migrating, newest: int, progress: Progress
) -> list[JobRecord]:
    """Return the ready jobs; bring to their place those that wait for a time and stand among them."""
    loaded, ready = [], []
    misplaced: list[JobRecord] = []
    for count, record in enumerate(scan_rows(storage, READY)):
        if count % 4096 == 0:
            progress("loading jobs", count, 0)
        if due_of(record) is not None:
            # Stored before those that wait had a place of their own, where they are found below.
            misplaced.append(record)
            if len(misplaced) >= limits.MIGRATION_BATCH_RECORDS:
                _put_right(rows, misplaced)
                misplaced = []
            continue
        ready.append(record.id)
        record_now = migrating.up_to_date(record)
        if record_now is not None:
            loaded.append(record_now)
    _put_right(rows, misplaced)
    rows.settle(newest, ready)
    return loaded


def _put_right(rows: JobRows, records: list[JobRecord]) -> None:
    rows.write([(record, encode(record)) for record in records])

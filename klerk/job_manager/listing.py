"""The jobs of a store for people, said without the app that made it: ``python -m klerk jobs PATH``."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from klerk.audit.entries import time_of
from klerk.inspection import opened
from klerk.job_manager.job_rows import DUE, ENDED, READY, Sort, scan_rows, sort_of, stored_counts
from klerk.job_manager.searching import JobQuery, job_search
from klerk.jobs import JobRecord, JobState
from klerk.storage import Storage

_BAR_WIDTH: Final = 40
_ERROR_WIDTH: Final = 60

# In the order in which a job comes to them.
_LETTERS: Final = {
    JobState.SUSPENDED: "?",
    JobState.SCHEDULED: ".",
    JobState.RETRYABLE: "~",
    JobState.AVAILABLE: "o",
    JobState.EXECUTING: ">",
    JobState.COMPLETED: "#",
    JobState.CANCELLED: "-",
    JobState.DISCARDED: "x",
}


def printed_jobs(path: Path, which: JobQuery) -> Iterator[str]:
    """Yield the lines that tell how many jobs of each sort a store holds, and some of them.

    Parameters:
        path: of the store; it must not be in use.
        which: as for `Klerk.jobs.query`; one page of it is told, those that ended last first.

    Raises:
        NotAStore, StoreLocked, Corrupted: as for opening it.
        ArgumentError: something in the filter cannot be meant.
    """
    search = job_search({}, {}, which)
    with opened(path) as (app, storage, _):
        counts = stored_counts(storage)
        counts.update(sort_of(record) for record in scan_rows(storage, READY))
        yield from _overview(app, +counts, clean=storage.closed_cleanly)
        found = list(islice(filter(search.fits, _all(storage)), search.limit))
    if found:
        yield ""
        yield from _table([("id", "kind", "queue", "state", "attempts", "when", "error"), *map(_row, found)])


def _all(storage: Storage) -> Iterator[JobRecord]:
    """Yield the jobs of a store: ready ones, then those that wait for a time, then those that ended last."""
    yield from scan_rows(storage, READY)
    yield from scan_rows(storage, DUE)
    ended = [scan_rows(storage, prefix, reverse=True) for prefix in ENDED.values()]
    yield from heapq.merge(*ended, key=lambda record: (record.ended_us, record.id), reverse=True)


def _overview(app: str, counts: Counter[Sort], *, clean: bool) -> Iterator[str]:
    """Yield a bar for each kind and queue, which shows the share of each state."""
    yield f"store of '{app}': {counts.total():,} jobs"
    if not clean:
        yield "it was not closed: what happened in its last second is told once it was opened by its app"
    sorts: dict[tuple[str, str], Counter[JobState]] = {}
    for (state, kind, queue), count in counts.items():
        sorts.setdefault((kind, queue), Counter())[JobState(state)] += count
    if not sorts:
        return
    longest = max(states.total() for states in sorts.values())
    rows = []
    for (kind, queue), states in sorted(sorts.items()):
        told = ", ".join(f"{states[state]:,} {state}" for state in _LETTERS if states[state])
        name = f"{kind} in {queue}" if queue else kind
        rows.append((name, _bar(states, longest), told))
    yield from _table(rows)


def _bar(states: Counter[JobState], longest: int) -> str:
    """Return a bar as long as there are jobs, at least one letter for each state that there is."""
    return "".join(
        letter * max(1, round(_BAR_WIDTH * states[state] / longest))
        for state, letter in _LETTERS.items()
        if states[state]
    )


def _row(record: JobRecord) -> tuple[str, ...]:
    if record.ended_us:
        when = f"ended {_moment(record.ended_us)}"
    elif record.run_at_us:
        when = f"not before {_moment(record.run_at_us)}"
    else:
        when = f"created {_moment(record.created_us)}"
    error = record.error.partition("\n")[0]
    if len(error) > _ERROR_WIDTH:
        error = f"{error[:_ERROR_WIDTH]}..."
    return str(record.id), record.kind, record.queue or "-", record.state, str(record.attempt), when, error


def _moment(us: int) -> str:
    return f"{time_of(us):%Y-%m-%d %H:%M:%S} UTC"


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows whose columns are as wide as what is longest in them."""
    listed = list(rows)
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    for row in listed:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

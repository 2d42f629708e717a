"""The jobs of a store for people, said without the app that made it: ``python -m klerk jobs PATH``."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET

from klerk.audit.entries import time_of
from klerk.audit.history import History
from klerk.audit.printing import newest_in
from klerk.codec import CATALOG_KEY, read_catalog
from klerk.inspection import opened
from klerk.job_manager.job_rows import DUE, ENDED, READY, Sort, scan_rows, sort_of, stored_counts
from klerk.job_manager.queue_book import QueueBook
from klerk.job_manager.searching import JobQuery, Search, job_search
from klerk.job_manager.shares import QueueOverride
from klerk.job_names import JobNames
from klerk.jobs import JobRecord, JobState
from klerk.storage import Family, Storage

_BAR_WIDTH: Final = 40
_QUEUE_OF_KIND: Final = "-"
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
    """Yield the lines that tell what is set of queues, how many jobs of each sort a store holds, and some.

    Parameters:
        path: of the store; it must not be in use. The index of its commit log is brought up to date.
        which: as for `Klerk.jobs.query`; one page of it is told, those that ended last first. The queue "-"
            stands for that of a job's kind, which the store does not know.

    Raises:
        NotAStore, StoreLocked, Corrupted: as for opening it.
        ArgumentError: something in the filter cannot be meant, or is the name of nothing in the store.
    """
    with opened(path) as (app, storage, progress):
        counts = stored_counts(storage)
        counts.update(sort_of(record) for record in scan_rows(storage, READY))
        history = History(storage)
        history.catch_up(progress)
        overrides = QueueBook(storage, history, newest_in(storage)).overrides
        search = _as_stored(job_search({}, {}, which, _names(storage, +counts, overrides)))
        yield from _overview(app, +counts, clean=storage.closed_cleanly)
        yield from (_set_of(queue, override) for queue, override in sorted(overrides.items()))
        found = list(islice(filter(search.fits, _all(storage)), search.limit))
    if found:
        yield ""
        yield from _table([("id", "kind", "queue", "state", "attempts", "when", "error"), *map(_row, found)])


def _as_stored(search: Search) -> Search:
    """Return a search for jobs as they are stored: without a queue in that of their kind."""
    if search.queues is None:
        return search
    queues = frozenset("" if each == _QUEUE_OF_KIND else each for each in search.queues)
    return msgspec.structs.replace(search, queues=queues)


def _names(storage: Storage, counts: Counter[Sort], overrides: Mapping[str, QueueOverride]) -> JobNames:
    """Return the names by which the jobs of a store can be looked for."""
    catalog = read_catalog(storage.get(Family.META, CATALOG_KEY))
    kinds = {*catalog.jobs, *(kind for _, kind, _ in counts)}
    queues = {_QUEUE_OF_KIND, *overrides, *(queue for _, _, queue in counts if queue)}
    return JobNames(kinds, queues, (), lambda: ((), ()), "This store has")


def _set_of(queue: str, override: QueueOverride) -> str:
    """Return what is set of a queue, as a line."""
    told = [
        f"{name} {'none' if value is None else value}"
        for name, value in _limits(override)
        if value is not UNSET
    ]
    return f"queue '{queue}': {', '.join(['paused', *told] if override.paused else told)}"


def _limits(override: QueueOverride) -> tuple[tuple[str, object], ...]:
    return ("concurrency", override.concurrency), ("rate", override.rate), ("weight", override.weight)


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
    return (
        str(record.id),
        record.kind,
        record.queue or _QUEUE_OF_KIND,
        record.state,
        str(record.attempt),
        when,
        error,
    )


def _moment(us: int) -> str:
    return f"{time_of(us):%Y-%m-%d %H:%M:%S} UTC"


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows whose columns are as wide as what is longest in them."""
    listed = list(rows)
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    for row in listed:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

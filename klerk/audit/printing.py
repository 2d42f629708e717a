"""The commit log for people, said without the app that made it: ``python -m klerk log PATH``."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from klerk._image import class_code_of, version_of
from klerk.audit.commit_log import Lookup
from klerk.audit.entries import ActorName, LogFilter, time_of
from klerk.audit.history import History
from klerk.audit.search import search_for
from klerk.codec import (
    CATALOG_KEY,
    JOB_ACTION,
    OWN_EVENTS,
    QUEUE_ACTION,
    RENEWAL,
    Catalog,
    Payload,
    TransactionHead,
    event_name,
    read_catalog,
    read_record,
)
from klerk.inspection import opened
from klerk.storage import Family, Storage


def printed_log(path: Path, which: LogFilter) -> Iterator[str]:
    """Yield the lines that tell the entries of a store's commit log, the newest first unless asked otherwise.

    Parameters:
        path: of the store; it must not be in use. Its index is brought up to date.
        which: as for `Klerk.log`; one page of it is told.

    Raises:
        NotAStore, StoreLocked, Corrupted: as for opening it.
        ArgumentError: something in the filter cannot be meant.
    """
    with opened(path) as (_, storage, progress):
        history = History(storage)
        history.catch_up(progress)
        catalog = read_catalog(storage.get(Family.META, CATALOG_KEY))
        codes = {name: code for code, name in enumerate(catalog.events)}
        codes |= {name: code for code, name in OWN_EVENTS.items()}
        search = search_for(which, codes, newest_in(storage))
        lookup = Lookup(storage)
        wanted = (each for each in search.sequences(history, lookup) if search.fits(lookup.head(each)))
        for sequence in islice(wanted, search.limit):
            yield from transaction_lines(catalog, lookup.head(sequence), lookup.payload(sequence))


def actor_named(text: str) -> tuple[str, str]:
    """Return kind and id of an actor from the command line: ``ada``, or ``system:cron charge_fees``."""
    kind, colon, id = text.partition(":")
    return (kind, id) if colon else ("user", text)


def newest_in(storage: Storage) -> int:
    """Return the sequence of the newest transaction of a store; 0: there is none."""
    for key, value in storage.scan(Family.LOG, reverse=True):
        return read_record(key, value)[0].last
    return 0


def transaction_lines(catalog: Catalog, head: TransactionHead, payload: Payload | None) -> Iterator[str]:
    """Yield the lines that tell one transaction."""
    behalf = "" if head.behalf is None else f" on behalf of {ActorName(*head.behalf)}"
    cause = f", caused by {head.actor[2]}" if head.actor[2] else ""
    time = f"{time_of(head.time_us):%Y-%m-%d %H:%M:%S.%f} UTC"
    yield f"{head.sequence}  {time}  {ActorName(*head.actor[:2])}{behalf}{cause}"
    for place, (code, id, depth) in enumerate(head.targets):
        values: tuple[Any, ...] = () if payload is None else payload.parameters[place]
        target = f" of {id}" if id else ""
        arguments = f": {_said(code, values)}" if values else ""
        yield f"  {'  ' * depth}{event_name(catalog, code)}{target}{arguments}"
    if payload is None:
        yield "  what it did was erased"
        return
    renewed = {id for code, id, _ in head.targets if code == RENEWAL}
    for id, image in payload.images:
        if id not in renewed:
            version = version_of(image)
            did = "created" if version == 1 else f"changed to version {version}:"
            yield f"  {did} {_class_name(catalog, image)} {id}"
    if payload.deleted:
        yield f"  deleted {', '.join(map(str, payload.deleted))}"
    if payload.jobs:
        yield f"  jobs {_listed([id for id, _ in payload.jobs])}"


def _said(code: int, values: tuple[Any, ...]) -> str:
    """Return the parameters of a command for people."""
    if code not in (JOB_ACTION, QUEUE_ACTION):
        return ", ".join(map(repr, values))
    action, what, changed = values
    told = what if code == QUEUE_ACTION else _listed(what)
    new = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    return f"{action.replace('_', ' ')} of {told}" + (f" with {new}" if new else "")


def _listed(ids: Sequence[int]) -> str:
    """Return ids for people, those that follow each other as one: a transaction may have 100,000."""
    runs: list[list[int]] = []
    for id in ids:
        if runs and id == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], id]
        else:
            runs.append([id])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[1]}" for run in runs)


def _class_name(catalog: Catalog, image: bytes) -> str:
    code = class_code_of(image)
    return catalog.classes[code].name if code < len(catalog.classes) else f"class {code}"

"""How far each cron job has come, as the store keeps it: no time is dealt with twice, none is forgotten.

The job of a time carries that time in its own record, so both are one transaction. The mark of its kind is
moved forward behind the log, with the jobs themselves: after a crash the end of the log moves it once more.
A time that gets no job, because a unique one stands for it, is a transaction of its own in the log, where the
next start finds it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from klerk.errors import Corrupted
from klerk.jobs import Job, JobRecord
from klerk.storage.contract import Delete, Family, Put, Storage

_PREFIX: Final = b"cron "
_END: Final = b"cron!"


class CronMark(msgspec.Struct, frozen=True, array_like=True):
    """How far a cron job has come.

    Parameters:
        expression, timezone: as declared. Once they are others, earlier times mean nothing.
        since: the id of the first job that was created by them.
        tick_us: the newest time that was dealt with; before the first one, when they came to be known.
        sequence: of the newest transaction when they came to be known.
    """

    expression: str
    timezone: str
    since: int
    tick_us: int
    sequence: int = 0


_decode = msgspec.msgpack.Decoder(CronMark).decode
_encode = msgspec.msgpack.Encoder().encode


def _read(kind: str, stored: bytes) -> CronMark:
    try:
        return _decode(stored)
    except msgspec.DecodeError as error:
        raise Corrupted(f"how far the cron job {kind} has come cannot be read: {error}") from error


def _put(kind: str, mark: CronMark) -> Put:
    return (Family.META, _PREFIX + kind.encode(), _encode(mark))


def mark_puts(storage: Storage, records: Iterable[JobRecord]) -> list[Put]:
    """Return what moves marks forward to the times of jobs. One thread at a time may be about to do so."""
    marks: dict[str, CronMark | None] = {}
    for record in records:
        if not record.tick_us:
            continue
        kind = record.kind
        if kind not in marks:
            stored = storage.get(Family.META, _PREFIX + kind.encode())
            marks[kind] = None if stored is None else _read(kind, stored)
        mark = marks[kind]
        if mark is not None and record.id >= mark.since and record.tick_us > mark.tick_us:
            marks[kind] = msgspec.structs.replace(mark, tick_us=record.tick_us)
    return [_put(kind, mark) for kind, mark in marks.items() if mark is not None]


def open_marks(
    storage: Storage,
    jobs: Mapping[str, Job[object]],
    now_us: int,
    *,
    next_job_id: int,
    sequence: int,
    newest_without_job: Callable[[str, int], int],
) -> dict[str, int]:
    """Return the newest time of each declared cron job that was dealt with. Those that are new, or whose
    times are declared anew, begin now; those that are gone are forgotten.

    Parameters:
        now_us: the time, in microseconds since 1970 UTC.
        next_job_id: of the next job that will be created.
        sequence: of the newest transaction.
        newest_without_job: gives the newest time of a kind that got no job after a transaction; 0: there is
            none.
    """
    known = {key[len(_PREFIX) :].decode(): stored for key, stored in storage.scan(Family.META, _PREFIX, _END)}
    marks: dict[str, int] = {}
    puts: list[Put] = []
    for kind, job in jobs.items():
        if job.settings.cron is None:
            continue
        declared = job.settings.cron, job.settings.timezone
        mark = _read(kind, known.pop(kind)) if kind in known else None
        if mark is None or (mark.expression, mark.timezone) != declared:
            mark = CronMark(*declared, next_job_id, now_us, sequence)
            puts.append(_put(kind, mark))
        elif (tick_us := newest_without_job(kind, mark.sequence)) > mark.tick_us:
            mark = msgspec.structs.replace(mark, tick_us=tick_us)
            puts.append(_put(kind, mark))
        marks[kind] = mark.tick_us
    deletes: list[Delete] = [(Family.META, _PREFIX + kind.encode()) for kind in known]
    if puts or deletes:
        storage.write(puts, deletes)
    return marks

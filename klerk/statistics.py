"""Numbers about an opened app that cost nothing to have, for telemetry."""

from collections.abc import Iterable

import msgspec

from klerk._dispatch import ClassPlan
from klerk._waiting import ReadWriteLock
from klerk.engine import Engine
from klerk.storage.contract import Storage
from klerk.timers.timers import Timers
from klerk.unmanaged import UnmanagedCalls

__all__ = ["Statistics", "statistics_of"]


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """How an opened app is doing; all counts are since it was opened.

    Parameters:
        app: its name.
        groups: commit groups that were processed.
        committed: transactions that were processed and changed something; those of jobs and timers, too.
        refused: transactions that were refused or failed.
        queue_length: commands that wait to be processed.
        queue_length_max: as many find room; whoever comes then waits.
        readers: reads that go on at the moment.
        reads_waited, reads_waited_s: how often a read had to wait for the read lock, because something was
            published or about to be, and for how long all of them together.
        publications_waited, publications_waited_s: how often publishing a group had to wait until readers
            had ended, and for how long together: their callers waited for as long. Of waits that are over.
        models: by class and state.
        timers: models with a timer that is still to come.
        unmanaged_waiting: calls of unmanaged jobs that wait.
        unmanaged_dropped: calls of unmanaged jobs that found no room.
        unmanaged_failed: calls of unmanaged jobs that raised.
        checkpointer_waiting: records that are in the log only, where a start after a crash would read them.
        checkpointer_lag_s: for how long the oldest of them has waited.
        storage_bytes: the size of the store on disk.
    """

    app: str
    groups: int
    committed: int
    refused: int
    queue_length: int
    queue_length_max: int
    readers: int
    reads_waited: int
    reads_waited_s: float
    publications_waited: int
    publications_waited_s: float
    models: dict[tuple[str, str], int]
    timers: int
    unmanaged_waiting: int
    unmanaged_dropped: int
    unmanaged_failed: int
    checkpointer_waiting: int
    checkpointer_lag_s: float
    storage_bytes: int


def statistics_of(
    app: str,
    engine: Engine,
    lock: ReadWriteLock,
    plans: Iterable[ClassPlan],
    timers: Timers,
    unmanaged: UnmanagedCalls,
    storage: Storage,
) -> Statistics:
    """Return the numbers that the parts of an opened app keep. No lock is taken: each is of a moment of its
    own."""
    return Statistics(
        app=app,
        groups=engine.groups,
        committed=engine.committed,
        refused=engine.refused,
        queue_length=len(engine.queue),
        queue_length_max=engine.queue.length_max,
        readers=lock.readers,
        reads_waited=lock.read_waits,
        reads_waited_s=lock.read_waited_s,
        publications_waited=lock.write_waits,
        publications_waited_s=lock.write_waited_s,
        models={(plan.name, each.state.name): len(each.ids) for plan in plans for each in plan.states},
        timers=timers.count,
        unmanaged_waiting=unmanaged.waiting,
        unmanaged_dropped=unmanaged.dropped,
        unmanaged_failed=unmanaged.failed,
        checkpointer_waiting=engine.checkpointer.waiting,
        checkpointer_lag_s=engine.checkpointer.lag_s,
        storage_bytes=storage.size_bytes(),
    )

"""Numbers about an opened app that cost nothing to have, for telemetry."""

import msgspec

__all__ = ["Statistics"]


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """How an opened app is doing; all counts are since it was opened.

    Parameters:
        groups: commit groups that were processed.
        committed: transactions that were processed and changed something; those of jobs and timers, too.
        refused: transactions that were refused or failed.
        queue_length: commands that wait to be processed.
        queue_length_max: as many find room; whoever comes then waits.
        readers: reads that go on at the moment.
        models: by class and state.
        timers: models with a timer that is still to come.
        unmanaged_waiting: calls of unmanaged jobs that wait.
        unmanaged_dropped: calls of unmanaged jobs that found no room.
        unmanaged_failed: calls of unmanaged jobs that raised.
        checkpointer_waiting: records that are in the log only, so that a start after a crash reads them there.
        checkpointer_lag_s: for how long the oldest of them has waited.
        storage_bytes: the size of the store on disk.
    """

    groups: int
    committed: int
    refused: int
    queue_length: int
    queue_length_max: int
    readers: int
    models: dict[tuple[str, str], int]
    timers: int
    unmanaged_waiting: int
    unmanaged_dropped: int
    unmanaged_failed: int
    checkpointer_waiting: int
    checkpointer_lag_s: float
    storage_bytes: int

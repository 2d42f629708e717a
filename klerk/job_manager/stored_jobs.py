"""Finds jobs that are not in memory, in the store."""

from collections.abc import Callable

from klerk._image import key_of
from klerk.codec import ENDED_JOB, LIVE_JOB, number_of, read_job
from klerk.jobs import JobRecord
from klerk.storage.contract import Family, Storage


class StoredJobs:
    """Reads the records of jobs, ended ones too. Any thread may use it.

    Parameters:
        storage: which is behind what is published.
        collected: returns the record of a job that is still to be written; None when it is not.
    """

    def __init__(self, storage: Storage, collected: Callable[[int], JobRecord | None]) -> None:
        self._storage = storage
        self._collected = collected

    def get(self, job_id: int) -> JobRecord | None:
        """Return a published job; None when there is none."""
        found = self._collected(job_id)
        if found is not None:
            return found
        for prefix in (ENDED_JOB, LIVE_JOB):
            stored = self._storage.get(Family.JOBS, prefix + key_of(job_id))
            if stored is not None:
                return read_job(job_id, stored)
        return None

    def ended(self, before: tuple[int, int] | None = None) -> list[JobRecord]:
        """Return the ended jobs, newest end first.

        Parameters:
            before: the time of an end in microseconds since 1970 UTC, and an id: only those before it.
        """
        rows = self._storage.scan(Family.JOBS, ENDED_JOB, bytes((ENDED_JOB[0] + 1,)))
        ended = [read_job(number_of(key[1:]), stored) for key, stored in rows]
        ended.sort(key=lambda record: (record.ended_us, record.id), reverse=True)
        return [each for each in ended if before is None or (each.ended_us, each.id) < before]

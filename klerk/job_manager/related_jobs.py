"""Jobs that have to do with others: what `Klerk.jobs` tells of batches and of who waits for whom."""

import asyncio
import threading
from typing import Any

from klerk.job_manager.batches import BatchStatus, require_batch_id
from klerk.job_manager.relations import Relations
from klerk.jobs import JobRecord


class RelatedJobs:
    """The part of the job manager that shows what jobs have to do with each other.

    Attributes:
        relations: follows that; for Klerk itself.
    """

    _lock: threading.Lock
    relations: Relations

    def get(self, job: JobRecord | int) -> JobRecord:
        """See `JobManager`."""
        raise NotImplementedError

    def result(self, job: JobRecord | int) -> Any:
        """See `JobManager`."""
        raise NotImplementedError

    def batch(self, batch_id: int) -> BatchStatus:
        """Return how far a batch is.

        Parameters:
            batch_id: as the records of its members and callbacks name it.

        Raises:
            NotFound: there is none with this id, or its callbacks are kept no longer.
            ArgumentError: it is no number.
        """
        require_batch_id(batch_id)
        with self._lock:
            return self.relations.status(batch_id)

    def waiting_for(self, job: JobRecord | int) -> tuple[int, ...]:
        """Return the ids of the jobs that a job waits for: those that it follows, and members of its batch.

        Raises:
            NotFound: there is none with this id.
        """
        record = self.get(job)
        with self._lock:
            return self.relations.waiting_for(record)

    def result_for(self, record: JobRecord, job_id: int) -> Any:
        """Return the result of a job to another one, which follows it or is a callback of its batch.

        Raises:
            ArgumentError: the other one is neither.
            NotFound, NoResult: as for `result`.
        """
        self.relations.require_related(record, job_id)
        return self.result(job_id)


class AioRelatedJobs:
    """The asyncio face of `RelatedJobs`."""

    _jobs: RelatedJobs

    async def batch(self, batch_id: int) -> BatchStatus:
        """See `JobManager.batch`."""
        return await asyncio.to_thread(self._jobs.batch, batch_id)

    async def waiting_for(self, job: JobRecord | int) -> tuple[int, ...]:
        """See `JobManager.waiting_for`."""
        return await asyncio.to_thread(self._jobs.waiting_for, job)

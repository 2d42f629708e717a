"""Jobs that have to do with others: what `Klerk.jobs` tells of batches and of who waits for whom."""

import threading

from klerk.aio_threads import AioThreads
from klerk.job_manager.batches import BatchStatus, require_batch_id
from klerk.job_manager.relations import Relations
from klerk.jobs import JobRecord


class RelatedJobs:
    """Shows what jobs have to do with each other."""

    _lock: threading.Lock
    _relations: Relations

    def get(self, job: JobRecord | int) -> JobRecord:
        """See `Asking.get`."""
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
            return self._relations.status(batch_id)

    def waiting_for(self, job: JobRecord | int) -> tuple[int, ...]:
        """Return the ids of the jobs that a job waits for: those that it follows, and members of its batch.

        Raises:
            NotFound: there is none with this id.
        """
        record = self.get(job)
        with self._lock:
            return self._relations.waiting_for(record)


class AioRelatedJobs:
    """The asyncio face of `RelatedJobs`."""

    _jobs: RelatedJobs
    _threads: AioThreads

    async def batch(self, batch_id: int) -> BatchStatus:
        """See `RelatedJobs.batch`."""
        return await self._threads.run(self._jobs.batch, batch_id)

    async def waiting_for(self, job: JobRecord | int) -> tuple[int, ...]:
        """See `RelatedJobs.waiting_for`."""
        return await self._threads.run(self._jobs.waiting_for, job)

"""What people ask about jobs: the part of `Klerk.jobs` that shows them, for threads and for asyncio."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Unpack

from klerk.aio_threads import AioThreads
from klerk.app import Spec
from klerk.job_manager.books import Books, id_of_job
from klerk.job_manager.searching import (
    FILTERS,
    QUERIES,
    JobFilter,
    JobPage,
    JobQuery,
    Search,
    job_search,
    require_filters,
)
from klerk.job_manager.status import Explaining, JobStatus
from klerk.job_names import JobNames
from klerk.jobs import JobRecord
from klerk.values import Ref


class Asking:
    """Shows jobs. No rule is asked: whether somebody may be shown a job is up to the code that shows it.

    Jobs and the rest of what is stored belong together like this: `JobRecord.cause` is the sequence of the
    transaction that created a job, as in ``k.log(context, sequence=record.cause)``, and ``query(cause=...)``
    finds the jobs of a transaction. What a job did stands in the log under its actor, as in
    ``k.log(context, actor=("system", f"job {record.kind} {record.id}"))``, unless it acts as somebody else
    (`JobOptions.run_as`). `models` gives the models that it is about, and ``query(model=ref)`` the jobs that
    are about a model.
    """

    _spec: Spec
    _books: Books
    _explaining: Explaining
    _names: JobNames

    def get(self, job: JobRecord | int) -> JobRecord:
        """Return a job as it is now, whether it is still to run or has ended; one that runs is `executing`,
        and shows its progress and log up to now.

        Parameters:
            job: an earlier record of it, or its id.

        Raises:
            NotFound: there is none with this id, or it ended and is not kept any more.
        """
        return self._books.get(id_of_job(job))

    def query(self, **which: Unpack[JobQuery]) -> JobPage:
        """Return some of the jobs that fit a filter, as each of them is now.

        First come those that are ready or run, in the order of their creation; then those that wait for a
        time, in the order of their times; then those that have ended, in the order of their ends. Each of
        these three is turned around by `newest_first`. A job that changes meanwhile may be met twice, or not
        at all.

        One page takes at most `limits.JOB_QUERY_LOOKS_MAX` looks at jobs, so it may hold less than asked for,
        or nothing, and still have a `next`. States and `cause` narrow what is looked at.

        Parameters:
            which: see `JobQuery`.

        Raises:
            ArgumentError: something in the filter cannot be meant, or the cursor is none of this search.
        """
        require_filters(which, QUERIES)
        return self._books.page(self._search(which))

    def find(self, **which: Unpack[JobFilter]) -> JobRecord | None:
        """Return the first job that `query` finds, however far it has to look; None when there is none."""
        require_filters(which, FILTERS)
        search = self._search({**which, "limit": 1})
        for records in self._books.pages(search):
            if records:
                return records[0]
        return None

    def _search(self, which: Mapping[str, Any]) -> Search:
        return job_search(self._spec.jobs, self._spec.job_parameters, which, self._names)

    def models(self, job: JobRecord | int) -> tuple[Ref[Any], ...]:
        """Return the references among a job's arguments, inside of tuples and structs, too.

        Parameters:
            job: or its id.

        Raises:
            NotFound: as for `get`.
        """
        return self._books.models(job if isinstance(job, JobRecord) else self.get(job))

    def why(self, job: JobRecord | int) -> JobStatus:
        """Return why a job does not run now; or since when it runs, or how it ended. Printed, it is a text.

        Parameters:
            job: or its id. What is told is what holds now, not what did when the record was read.

        Raises:
            NotFound: as for `get`.
        """
        return self._explaining.status(self.get(job))


class AioAsking:
    """The asyncio face of `Asking`; what may read the disk does so in a thread."""

    _jobs: Asking
    _threads: AioThreads

    async def get(self, job: JobRecord | int) -> JobRecord:
        """See `Asking.get`."""
        return await self._threads.run(self._jobs.get, job)

    async def query(self, **which: Unpack[JobQuery]) -> JobPage:
        """See `Asking.query`."""
        return await self._threads.run(partial(self._jobs.query, **which))

    async def find(self, **which: Unpack[JobFilter]) -> JobRecord | None:
        """See `Asking.find`."""
        return await self._threads.run(partial(self._jobs.find, **which))

    async def models(self, job: JobRecord | int) -> tuple[Ref[Any], ...]:
        """See `Asking.models`."""
        return await self._threads.run(self._jobs.models, job)

    async def why(self, job: JobRecord | int) -> JobStatus:
        """See `Asking.why`."""
        return await self._threads.run(self._jobs.why, job)

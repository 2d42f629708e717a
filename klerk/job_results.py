"""What a running job reads of earlier ones: `EarlierResults`."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from klerk.batch import member_ids
from klerk.errors import ArgumentError, NoResult, NotFound
from klerk.jobs import JobRecord


class EarlierResults:
    """The part of `JobRun` that reads the results of earlier jobs."""

    __slots__ = ()

    @property
    def record(self) -> JobRecord:
        """See `JobRun.record`."""
        raise NotImplementedError

    def _result_of(self, job_id: int) -> Any:
        """Return the value that an earlier job returned and kept, to this one."""
        raise NotImplementedError

    def result_of(self, job: JobRecord | int) -> Any:
        """Return the value that an earlier job returned and kept: one that this job follows, or a member of
        the batch whose callback it is.

        Parameters:
            job: its record or id.

        Raises:
            ArgumentError: it is neither of these.
            NoResult: it failed, or its result was not kept, or has expired.
            NotFound: it is not kept any more.
        """
        job_id = job.id if isinstance(job, JobRecord) else job
        return self._result_of(job_id)

    def results(self) -> dict[int, Any]:
        """Return the kept results of the jobs that this one follows, by their ids."""
        return dict(self._results(self.record.follows))

    def member_results(self) -> Iterator[tuple[int, Any]]:
        """Yield the id and the kept result of each member of the batch whose callback this job is, in order.

        Each is read when its turn comes, so that a large batch takes no more memory than a small one.
        """
        yield from self._results(member_ids(self.record) if self.record.role else ())

    def _results(self, job_ids: Iterable[int]) -> Iterator[tuple[int, Any]]:
        for job_id in job_ids:
            # It may keep no result; or its id lies between those of members, and it is none.
            with suppress(NoResult, NotFound, ArgumentError):
                yield job_id, self._result_of(job_id)

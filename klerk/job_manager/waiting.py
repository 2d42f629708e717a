"""Waiting for a job to end: the part of `Klerk.jobs` that does, and `Endings`, which knows who waits."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, NoReturn

from klerk.aio_threads import AioThreads
from klerk.errors import Closed, JobError, KlerkError, NotEnded
from klerk.job_manager.books import Books, id_of_job
from klerk.job_options import Pool
from klerk.jobs import FINAL_STATES, JobRecord
from klerk.loops import is_in_loop
from klerk.moments import require_timeout
from klerk.running_job import RunningJob
from klerk.workers import Executor


def is_closing() -> KlerkError:
    """Return the error for those who wait while Klerk closes."""
    return Closed("this Klerk is closing, so the job may not end any more", hint="Open the app again.")


class Endings:
    """Tells those who wait for jobs that these have ended. While nobody waits, nothing is looked at.

    Attributes:
        awaited: who waits, by the id of the job.
    """

    def __init__(self) -> None:
        self.awaited: dict[int, list[Future[JobRecord]]] = {}
        self._lock = threading.Lock()
        self._refusal: Callable[[], KlerkError] | None = None

    def expect(self, job_id: int) -> Future[JobRecord]:
        """Return what is told of the next end of a job from now on."""
        future: Future[JobRecord] = Future()
        with self._lock:
            if self._refusal is None:
                self.awaited.setdefault(job_id, []).append(future)
                return future
        future.set_exception(self._refusal())
        return future

    def forget(self, job_id: int, future: Future[JobRecord]) -> None:
        """Let one wait no more; nothing, when it was told."""
        with self._lock:
            waiting = self.awaited.get(job_id, [])
            if future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self.awaited[job_id]

    def tell(self, records: Iterable[JobRecord]) -> None:
        """Tell of those of some published records that have ended; called when anybody waits."""
        for record in records:
            if record.state in FINAL_STATES and record.id in self.awaited:
                with self._lock:
                    told = self.awaited.pop(record.id, [])
                for future in told:
                    # Whoever waits in a task may have been cancelled at this moment.
                    with suppress(InvalidStateError):
                        future.set_result(record)

    def close(self, refusal: Callable[[], KlerkError]) -> None:
        """Refuse those who wait, and all who come later: no more ends will be told.

        Parameters:
            refusal: makes the error, one for each.
        """
        with self._lock:
            self._refusal = self._refusal or refusal
            refused, self.awaited = self.awaited, {}
        for future in (each for waiting in refused.values() for each in waiting):
            with suppress(InvalidStateError):
                future.set_exception(refusal())


class Waiting:
    """Waits for jobs."""

    _books: Books
    _endings: Endings
    _executors: dict[Pool, Executor[RunningJob]]
    _refuse_waiting: Callable[[bool], None]

    def wait(self, job: JobRecord | int, timeout: float | None = None) -> JobRecord:
        """Wait until a job has ended, and return its record; at once when it has.

        It has ended once it is completed, discarded or cancelled; that one wants to see in the record. Every
        attempt and delay on the way is waited for, also one of months, and a job that is suspended, too. To
        have something done after a job, let another job follow it, ``report().after(job)``, which holds
        nobody up and survives a restart.

        In a worker thread this keeps the worker: enough of these, and nothing is left to run what they wait
        for. With `klerk.testing`, nothing runs by itself unless the app was opened with ``jobs="threads"``:
        there, run the jobs first (`klerk.testing.drain`), or this is refused.

        Parameters:
            job: its record or id.
            timeout: seconds to wait at most; None: as long as it takes.

        Raises:
            NotEnded: it has not ended in that time.
            NotFound: there is no such job, or it ended and is not kept any more.
            JobError: it would wait for ever: in the job itself, or because nothing runs jobs by itself; or
                this runs in an event loop, which has ``await k.aio.jobs.wait(job)``.
            ReadLockHeld: this thread holds the read lock.
            NotPure: this is called by a function that Klerk calls while it commits.
            Closed: Klerk is closed, or begins to close meanwhile.
            StoreFailed: the store failed, so that no end is recorded any more.
        """
        job_id = _checked(job, timeout)
        self._refuse_endless(job_id, blocking=True)
        # First of all, so that no end is missed while the job is looked up.
        future = self._endings.expect(job_id)
        try:
            record = self._look_up(job_id)
            return record if record.state in FINAL_STATES else self._books.shown(future.result(timeout))
        except TimeoutError:
            self._not_ended(job_id, timeout)
        finally:
            self._endings.forget(job_id, future)

    def _refuse_endless(self, job_id: int, *, blocking: bool) -> None:
        """Refuse to wait where the end would never come."""
        self._refuse_waiting(blocking)
        if any(run is not None and run.id == job_id for run in self._runs_here()):
            raise JobError(
                f"job {job_id} was to wait for its own end",
                hint="Return from its function; what comes after it is another job: report().after(job).",
            )
        if blocking and is_in_loop():
            raise JobError(
                "waiting for a job would hold up the event loop", hint="Write: await k.aio.jobs.wait(job)."
            )

    def _runs_here(self) -> Iterable[RunningJob | None]:
        return (executor.job_here() for executor in self._executors.values())

    def _look_up(self, job_id: int) -> JobRecord:
        record = self._books.get(job_id)
        works = all(executor.works_by_itself for executor in self._executors.values())
        if record.state not in FINAL_STATES and not works:
            raise JobError(
                f"job {record.id} ({record.kind}) is {record.state}, and jobs run only when the test says",
                hint="Call klerk.testing.drain(k) before, or open with jobs='threads'.",
            )
        return record

    def _not_ended(self, job_id: int, timeout: float | None) -> NoReturn:
        record = self._books.peek(job_id)
        # It may have come to its end at this moment, and be gone.
        now = "" if record is None else f": job {record.id} ({record.kind}) is {record.state}"
        raise NotEnded(
            f"the job has not ended within {timeout:g} s{now}",
            hint="k.jobs.why(job) tells what it waits for.",
        ) from None


def _checked(job: Any, timeout: Any) -> int:
    """Return the id of a job that is to be waited for.

    Raises:
        ArgumentError: it is none, or the time is none.
    """
    require_timeout(timeout)
    return id_of_job(job)


class AioWaiting:
    """The asyncio face of `Waiting`."""

    _jobs: Any
    _threads: AioThreads

    async def wait(self, job: JobRecord | int, timeout: float | None = None) -> JobRecord:  # noqa: ASYNC109 (as `Waiting.wait`)
        """See `Waiting.wait`."""
        jobs: Waiting = self._jobs
        job_id = _checked(job, timeout)
        jobs._refuse_endless(job_id, blocking=False)
        future = jobs._endings.expect(job_id)
        try:
            record = await self._threads.run(jobs._look_up, job_id)
            if record.state in FINAL_STATES:
                return record
            return jobs._books.shown(await asyncio.wait_for(asyncio.wrap_future(future), timeout))
        except TimeoutError:
            jobs._not_ended(job_id, timeout)
        finally:
            jobs._endings.forget(job_id, future)

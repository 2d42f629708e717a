"""Dependencies: jobs that run after others.

A job that follows others is stored as scheduled and stays so until all of them have ended. That needs no
write: what they came to is stored, and looked at again after a restart. Once one of them ends badly the job
is cancelled, and so is everything that follows it in turn, unless it is to run anyway.
"""

from collections import deque
from collections.abc import Callable, Mapping

from klerk.job_manager.batches import HELD_IN, is_held
from klerk.job_manager.journal import Journal
from klerk.jobs import FINAL_STATES, JobRecord, JobState


def is_following(record: JobRecord) -> bool:
    """Return whether a job runs only after those that it follows, whether they have ended or not.

    One that began before does not wait again, nor does one that somebody ran again, or let run, by hand.
    """
    if not record.follows or record.reruns or record.freed or record.started_us:
        return False
    return record.state in HELD_IN


def as_before(record: JobRecord) -> JobState:
    """Return the state in which a job that was suspended goes on."""
    if is_following(record) or is_held(record):
        return JobState.SCHEDULED
    if not record.run_at_us:
        return JobState.AVAILABLE
    return JobState.RETRYABLE if record.attempt else JobState.SCHEDULED


class Followers:
    """The jobs that are stored as waiting for others, as the transactions up to now leave them.

    Used by the processing thread, which makes sure by it that nobody moved a job on in the meantime that is
    to be cancelled.

    Parameters:
        journal: undoes what a transaction changed that is not kept.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: dict[int, JobRecord] = {}

    def add(self, record: JobRecord) -> None:
        """Take over a job that the store held, or that the transaction at hand creates."""
        if is_following(record):
            self._waiting[record.id] = record

    def undo(self, records: list[JobRecord]) -> None:
        """Forget the jobs that a transaction created which is not kept, once the journal undid the rest."""
        for record in records:
            if record.follows:
                self._waiting.pop(record.id, None)

    def changed(self, record: JobRecord, sequence: int) -> None:
        """Note what the transaction at hand makes of a job that follows others."""
        if is_following(record):
            self._journal.put(sequence, self._waiting, record.id, record)
        else:
            self._journal.drop(sequence, self._waiting, record.id)

    def get(self, job_id: int) -> JobRecord | None:
        """Return the record of a job that is stored as waiting for others; None when it is not."""
        return self._waiting.get(job_id)


class Dependencies:
    """What is published of who follows whom. Its owner calls it under one lock.

    Parameters:
        live: the records of all jobs that have not ended.
        find: returns a stored job, ended or not; None when there is none.

    Attributes:
        followers: the live jobs that follow each job, ended or not, in the order in which they came.
        doomed: the jobs to be cancelled, each with the reason; a job comes after those that it follows.
    """

    def __init__(self, live: Mapping[int, JobRecord], find: Callable[[int], JobRecord | None]) -> None:
        self._live = live
        self._find = find
        self.followers: dict[int, dict[int, None]] = {}
        self.doomed: dict[int, str] = {}
        # The jobs that each waiting one still waits for.
        self._waits: dict[int, set[int]] = {}

    def holds(self, record: JobRecord) -> bool:
        """Return whether a live job has to wait for others.

        The first time, those that it follows are looked at, wherever they are; afterwards it is known.
        """
        if record.id in self._waits or record.id in self.doomed:
            return True
        if not is_following(record) or not self._is_new(record):
            return False
        waits: set[int] = set()
        reason = ""
        for job_id in record.follows:
            self.followers.setdefault(job_id, {})[record.id] = None
            followed = self._live.get(job_id) or self._find(job_id)
            if job_id in self.doomed:
                reason = reason or self._after_cancelled(job_id)
            elif followed is None:
                reason = reason or f"not run: there is no job {job_id} any more"
            elif followed.state not in FINAL_STATES:
                waits.add(job_id)
            elif followed.state is not JobState.COMPLETED:
                reason = reason or _not_run(followed, followed.state)
        if record.anyway:
            waits.update(job_id for job_id in record.follows if job_id in self.doomed)
        elif reason:
            self._doom(record.id, reason)
            return True
        if waits:
            self._waits[record.id] = waits
        return bool(waits)

    def _is_new(self, record: JobRecord) -> bool:
        return record.id not in self.followers.get(record.follows[0], ())

    def note(self, record: JobRecord) -> None:
        """Take over a published job that follows others."""
        if record.state in FINAL_STATES:
            for job_id in record.follows:
                followers = self.followers.get(job_id)
                if followers is not None:
                    followers.pop(record.id, None)
                    if not followers:
                        del self.followers[job_id]
        elif not is_following(record):
            # It has begun, or somebody let it run by hand.
            for job_id in record.follows:
                self.followers.setdefault(job_id, {})[record.id] = None
        else:
            return
        self._waits.pop(record.id, None)
        self.doomed.pop(record.id, None)

    def ended(self, record: JobRecord) -> list[int]:
        """Note that a job ended that others follow; return those that wait for no other job now."""
        free = []
        for job_id in self.followers.get(record.id, ()):
            waits = self._waits.get(job_id)
            if waits is None or record.id not in waits:
                continue
            follower = self._live[job_id]
            if record.state is not JobState.COMPLETED and not follower.anyway:
                self._doom(job_id, _not_run(record, record.state))
                continue
            waits.discard(record.id)
            if not waits:
                del self._waits[job_id]
                if not is_held(follower):
                    free.append(job_id)
        return free

    def _doom(self, job_id: int, reason: str) -> None:
        """Say that a job is to be cancelled, and with it whatever follows it."""
        found = deque([(job_id, reason)])
        while found:
            job_id, reason = found.popleft()
            if job_id in self.doomed:
                continue
            self._waits.pop(job_id, None)
            self.doomed[job_id] = reason
            for follower in self.followers.get(job_id, ()):
                waits = self._waits.get(follower)
                if waits is not None and job_id in waits and not self._live[follower].anyway:
                    found.append((follower, self._after_cancelled(job_id)))

    def _after_cancelled(self, job_id: int) -> str:
        record = self._live.get(job_id)
        kind = "" if record is None else f" ({record.kind})"
        return f"not run: job {job_id}{kind} was cancelled"

    def waiting_for(self, job_id: int) -> list[int]:
        """Return the jobs that a job still waits for, in order."""
        return sorted(self._waits.get(job_id, ()))


def _not_run(followed: JobRecord, state: JobState) -> str:
    return f"not run: job {followed.id} ({followed.kind}) was {state}"

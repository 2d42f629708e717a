"""The transaction of an action on jobs, which stands in the commit log."""

import threading
from collections.abc import Callable
from typing import Any

import msgspec

from klerk._core import InternalWork
from klerk.authorization import JobAction
from klerk.codec import JOB_ACTION, encode
from klerk.errors import Conflict
from klerk.job_creation import JobCreation
from klerk.job_manager.claims import Claim
from klerk.jobs import JobRecord, JobState

Decide = Callable[[Any, JobRecord], JobRecord]
"""Gives a job as an action leaves it; called with the processor, in the transaction."""


class ActOnJobs(InternalWork):
    """The transaction of an action.

    Parameters:
        action: what is done.
        claims: of the jobs that it is done to, which the transaction leaves as `decide` says. Those that run
            go on until they end, and keep what is asked of them.
        decide: says how.
        changed: gives what of a job was changed, for the log.
        once: the kinds that run at most once.
        creation: knows what the transactions before this one made of the jobs.

    Attributes:
        is_overtaken: what one of the jobs waited for has ended, and a transaction before this one moved it
            on. This one has done nothing: the jobs are to be looked at again.
    """

    def __init__(
        self,
        action: JobAction,
        claims: list[Claim],
        decide: Decide,
        changed: Callable[[JobRecord], dict[str, Any]] | None,
        once: frozenset[str],
        creation: JobCreation,
    ) -> None:
        self.action = action
        self.claims = claims
        self.decide = decide
        self.changed = changed
        self.once = once
        self.creation = creation
        self.is_overtaken = False
        self._lock = threading.Lock()
        self._is_abandoned = self._is_done = False

    def perform(self, processor: Any) -> None:
        with self._lock:
            if self._is_abandoned:
                raise Conflict("nobody waits for this action any more", code="job_busy")
            self._perform(processor)
            self._is_done = True

    def abandon(self) -> bool:
        """Let nothing come of this, because whoever waited for it was interrupted; return False when it is
        too late: it was done, and is on its way to be published."""
        with self._lock:
            self._is_abandoned = not self._is_done
            return self._is_abandoned

    def _perform(self, processor: Any) -> None:
        waiting = [claim.record for claim in self.claims if claim.run is None and claim.record is not None]
        self.is_overtaken = not all(map(self.creation.waits_still, waiting))
        if self.is_overtaken:
            raise Conflict("what the job waited for has ended", code="job_busy")
        for claim in self.claims:
            claim.after = self._after(processor, claim)
            if claim.after is not None:
                processor.put_job(claim.after, encode(claim.after))
        first = self.claims[0].after
        changed = {} if first is None or self.changed is None else self.changed(first)
        processor.log_unchecked(JOB_ACTION, 0, (self.action, tuple(each.id for each in self.claims), changed))

    def _after(self, processor: Any, claim: Claim) -> JobRecord | None:
        """Return a job as it is to be; None when what became of it is recorded by itself."""
        run = claim.run
        if run is None:
            assert claim.record is not None
            after = self.decide(processor, claim.record)
            return self.creation.moved(processor, claim.record, after, is_edited=self.changed is not None)
        if run.is_over or run.stop is None:
            return None
        # That it starts may be recorded at this moment; it must never seem as if it had not.
        state = JobState.EXECUTING if run.record.kind in self.once else run.newest.state
        return msgspec.structs.replace(run.newest, state=state, stop=run.stop)

    def __repr__(self) -> str:
        return f"{self.action} of {len(self.claims)} jobs"

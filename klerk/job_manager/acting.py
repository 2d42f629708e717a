"""Actions on jobs by hand: each is a transaction of its own, which stands in the commit log."""

import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from klerk import limits
from klerk._core import InternalWork
from klerk._table import IdSet
from klerk.app import Spec
from klerk.authorization import JobAction
from klerk.codec import JOB_ACTION, encode
from klerk.commands import Context
from klerk.errors import NotFound, WrongState
from klerk.job_creation import key_of
from klerk.job_manager.access import JobAccess
from klerk.job_manager.claims import Claim, Claims
from klerk.job_manager.decisions import (
    NO_CHANGE,
    STOPS_AS,
    WORKS_IN,
    Change,
    checked_change,
    edited,
    ended,
    fresh,
    ready,
    require_works,
    requested,
)
from klerk.job_manager.searching import JobFilter, Search
from klerk.jobs import Job, JobRecord, JobState


class JobBooks(Protocol):
    """Where actions find the jobs that they are about."""

    def get(self, job_id: int) -> JobRecord: ...
    def pages(self, search: Search) -> Iterator[list[JobRecord]]: ...
    def fitting(self, record: JobRecord) -> JobRecord: ...


class ActOnJobs(InternalWork):
    """The transaction of an action.

    Parameters:
        action: what is done.
        claims: of the jobs that it is done to, which the transaction leaves as `decide` says. Those that run
            go on until they end, and keep what is asked of them.
        decide: called in the transaction, with the processor and a job's record.
        changed: what of the jobs changes, for the log.
    """

    def __init__(
        self,
        action: JobAction,
        claims: list[Claim],
        decide: Callable[[Any, JobRecord], JobRecord],
        changed: dict[str, Any],
    ) -> None:
        self.action = action
        self.claims = claims
        self.decide = decide
        self.changed = changed

    def perform(self, processor: Any) -> None:
        for claim in self.claims:
            claim.after = self._after(processor, claim)
            if claim.after is not None:
                processor.put_job(claim.after, encode(claim.after))
        ids = tuple(claim.id for claim in self.claims)
        processor.log_unchecked(JOB_ACTION, 0, (self.action, ids, self.changed))

    def _after(self, processor: Any, claim: Claim) -> JobRecord | None:
        """Return a job as it is to be; None when what became of it is recorded already."""
        run = claim.run
        if run is None:
            assert claim.record is not None
            return self.decide(processor, claim.record)
        if run.is_recorded or run.stop is None:
            return None
        return msgspec.structs.replace(run.record, stop=run.stop)

    def __repr__(self) -> str:
        return f"{self.action} of {len(self.claims)} jobs"


class Actions:
    """Does what is asked of jobs by hand.

    Parameters:
        spec: the declared jobs.
        books: where jobs are found.
        claims: keeps them from everyone else meanwhile.
        ending: the lock under which attempts are declared over.
        access: says who may do what.
        transact: handles a transaction, on behalf of a context or of the application itself, and waits for it.
        now_us: gives the time, in microseconds.
    """

    def __init__(
        self,
        spec: Spec,
        books: JobBooks,
        claims: Claims,
        ending: threading.Lock,
        access: JobAccess,
        transact: Callable[[InternalWork, Context | None], Any],
        now_us: Callable[[], int],
    ) -> None:
        self._spec = spec
        self._books = books
        self._claims = claims
        self._ending = ending
        self._access = access
        self._transact = transact
        self._now_us = now_us

    def act(
        self, action: JobAction, job_id: int, context: Context | None, change: Change = NO_CHANGE
    ) -> JobRecord:
        """Do something to a job, and return it as it is afterwards.

        Raises:
            Denied: the context's actor may not do it.
            NotFound: there is no such job.
            WrongState: it does not work in the state that the job is in.
            InvalidValue, ArgumentError: what is to be changed does not fit.
            Conflict: (``job_busy``) something else has been changing the job for long.
        """
        change = checked_change(change)
        self._require(action, job_id, context)
        while True:
            with self._claims.of([job_id]) as claims:
                chosen = self._chosen(action, claims)
                if chosen:
                    require_works(action, *chosen[0])
                    if self._performed(action, claims, context, change):
                        return self._books.get(job_id)

    def act_on_all(self, action: JobAction, which: JobFilter, context: Context | None) -> int:
        """Do something to all jobs that a filter finds, in transactions of a bounded size; return how many
        there were. Those that an action does not work for are left as they are.

        Raises:
            Denied: the context's actor may not do it to jobs of one of the kinds that are asked for, which
                without a kind in the filter are all that are declared.
            ArgumentError: something in the filter cannot be meant.
        """
        raise NotImplementedError

    def _require(self, action: JobAction, job_id: int, context: Context | None) -> None:
        """Ask for permission; whoever may not do it to every kind of job does not learn which jobs there are."""
        try:
            kinds = [self._books.get(job_id).kind]
        except NotFound:
            if context is not None:
                self._access.require(context, action, self._spec.jobs)
            raise
        if context is not None:
            self._access.require(context, action, kinds)

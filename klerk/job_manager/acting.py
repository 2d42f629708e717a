"""Actions on jobs by hand: each is a transaction of its own, which stands in the commit log."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from klerk._core import InternalWork
from klerk._table import IdSet
from klerk.app import Spec
from klerk.authorization import JobAction
from klerk.commands import Context, System
from klerk.errors import WrongState
from klerk.job_creation import JobCreation
from klerk.job_keys import key_of
from klerk.job_manager.access import JobAccess
from klerk.job_manager.action_work import ActOnJobs, Decide
from klerk.job_manager.bulk import BulkObserver, BulkProgress
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
    requested,
    require_works,
    way_out,
)
from klerk.job_manager.queue_book import QueueBook
from klerk.job_manager.searching import Search
from klerk.job_manager.work import EndStopped
from klerk.jobs import FINAL_STATES, JobRecord, JobState
from klerk.running_job import RunningJob


class JobBooks(Protocol):
    """Where actions find the jobs that they are about."""

    def get(self, job_id: int) -> JobRecord: ...
    def peek(self, job_id: int) -> JobRecord | None: ...
    def typed(self, record: JobRecord) -> JobRecord: ...
    def pages(self, search: Search) -> Iterator[list[JobRecord]]: ...


OPERATOR: Final = System("operator")
"""Who acts on jobs when nobody is named."""

Wants = Callable[[JobRecord, JobState], bool]
"""Says whether an action is to be done to a job, in the state that it is in now; may refuse."""


class ActionDesk(msgspec.Struct, frozen=True):
    """What actions need of the open Klerk.

    Parameters:
        access: says who may do what.
        transact: handles a transaction and waits for it; on behalf of the application itself without context.
        schema: the version of the schema that jobs are stored with.
        queue_book: what people set of queues.
        creation: see `ActOnJobs`.
    """

    access: JobAccess
    transact: Callable[[InternalWork, Context | None], Any]
    schema: int
    queue_book: QueueBook
    creation: JobCreation


class Actions:
    """Does what is asked of jobs by hand.

    Parameters:
        spec: the declared jobs.
        books: where jobs are found.
        claims: keeps them from everyone else meanwhile.
        ending: the lock under which attempts are declared over.
        desk: lets them take effect.
        stop: asks an attempt to stop, wherever it runs.
        now_us: gives the time, in microseconds.
    """

    def __init__(
        self,
        spec: Spec,
        books: JobBooks,
        claims: Claims,
        ending: threading.Lock,
        desk: "ActionDesk",
        stop: Callable[[RunningJob], None],
        now_us: Callable[[], int],
    ) -> None:
        self._spec = spec
        self._once = frozenset(name for name, job in spec.jobs.items() if job.settings.at_most_once)
        self._books = books
        self._claims = claims
        self._ending = ending
        self._access = desk.access
        self._transact = desk.transact
        self._schema = desk.schema
        self._creation = desk.creation
        self._stop = stop
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
        change = checked_change(change, self._spec.queues)
        self._require(action, job_id, context)
        decide = self._decide(action, context, change)
        plan = _Plan(partial(self._insist, action), decide, change)
        done, over = self._perform(action, [job_id], context, plan)
        while over:
            done, over = self._perform(action, over, context, plan)
        after = done[0].after if done else None
        return self._books.get(job_id) if after is None or after.stop else after

    def act_on_all(
        self, action: JobAction, search: Search, context: Context | None, tell: BulkObserver | None
    ) -> int:
        """Do something to all jobs that are found, in transactions of a bounded size, and return to how many.
        Those that an action does not work for are left as they are.

        Parameters:
            tell: see `BulkProgress`.

        Raises:
            Denied: the context's actor may not do it to jobs of one of the kinds that are looked for.
            ArgumentError: `tell` cannot be called.
        """
        progress = BulkProgress(action, tell)
        if context is not None:
            kinds = self._spec.jobs if search.kinds is None else search.kinds
            self._access.require(context, action, sorted(kinds))

        def wants(record: JobRecord, state: JobState) -> bool:
            fits = search.fits(msgspec.structs.replace(record, state=state))
            fits = fits and state in WORKS_IN[action] and not self._is_spent(action, record)
            return fits and self._can_run(action, record)

        plan, seen = _Plan(wants, self._decide(action, context, NO_CHANGE), NO_CHANGE), IdSet()
        with progress:
            for records in self._books.pages(search):
                # A job that fails at once might come up for ever.
                over = sorted(record.id for record in records if seen.add(record.id))
                while over:
                    done, over = self._perform(action, over, context, plan)
                    progress.add(len(done))
        return progress.done

    def end_stopped(self, records: list[JobRecord]) -> None:
        """End those of some jobs that were asked to stop while they ran in a process that is gone."""
        stopped = [
            ended(record, JobState(record.stop), "request while it ran", self._now_us())
            for record in records
            if record.stop
        ]
        if stopped:
            self._transact(EndStopped(stopped), None)

    def _require(self, action: JobAction, job_id: int, context: Context | None) -> None:
        """Ask for permission; only who may do it to every kind learns that there is no such job."""
        record = self._books.peek(job_id)
        if context is not None:
            kinds = sorted(self._spec.jobs) if record is None else [record.kind]
            self._access.require(context, action, kinds)
        if record is None:
            self._books.get(job_id)

    # --- one transaction --------------------------------------------------------------------------

    def _perform(
        self, action: JobAction, job_ids: list[int], context: Context | None, plan: "_Plan"
    ) -> tuple[list[Claim], list[int]]:
        """Do something to those of some jobs that are wanted, in one transaction.

        Returns:
            The claims of those, and the ids of those to be looked at again: their attempts, or what they
            waited for, ended meanwhile.
        """
        with self._claims.of(job_ids) as claims:
            wanted = [claim for claim in claims if self._is_wanted(claim, plan.wants)]
            over = [claim.id for claim in wanted if not self._ask_to_stop(action, claim)]
            chosen = [claim for claim in wanted if claim.id not in over]
            if chosen:
                changed = None if plan.change is NO_CHANGE else partial(self._changed, plan.change)
                work = ActOnJobs(action, chosen, plan.decide, changed, self._once, self._creation)
                try:
                    self._transact(work, context)
                except BaseException as error:
                    if not isinstance(error, Exception) and not work.abandon():
                        # Until it is published, no worker may take what belongs to it.
                        self._claims.leave(chosen)
                        self._ask_runs(chosen)
                        raise
                    for claim in chosen:
                        claim.take_back()
                    if work.is_overtaken and any(self._books.peek(each.id) != each.record for each in chosen):
                        return [], job_ids
                    raise
                self._ask_runs(chosen)
                self._claims.await_ends(chosen)
            return chosen, over

    def _ask_runs(self, claims: list[Claim]) -> None:
        for claim in claims:
            if claim.run is not None:
                self._stop(claim.run)

    def _is_wanted(self, claim: Claim, wants: Wants) -> bool:
        if claim.record is None:
            claim.record = self._books.peek(claim.id)
        record = claim.record
        if record is None:
            # It was pruned since it was found.
            return False
        return wants(record, record.state if claim.run is None else JobState.EXECUTING)

    def _ask_to_stop(self, action: JobAction, claim: Claim) -> bool:
        """Tell the attempt of a job, if it runs, what becomes of it; return False when it is over by now."""
        run = claim.run
        if run is None:
            return True
        with self._ending:
            if run.is_over:
                return False
            claim.before, run.stop = run.stop, STOPS_AS[action]
            return True

    # --- what it makes of a job -------------------------------------------------------------------

    def _decide(self, action: JobAction, context: Context | None, change: Change) -> Decide:
        """Return what an action makes of a job that does not run."""
        if action in STOPS_AS:
            by = str(OPERATOR if context is None else context.actor)
            return lambda _, record: ended(record, STOPS_AS[action], by, self._now_us())
        if action == "run_now":
            return lambda _, record: ready(self._able(record))
        if action == "edit":
            return lambda processor, record: edited(
                self._with_arguments(processor, record, change), change, self._now_us()
            )
        if change.arguments is not None:
            return lambda processor, record: fresh(self._with_arguments(processor, record, change), anew=True)
        again = action == "rerun"
        return lambda _, record: fresh(self._able(record), anew=again or record.state is JobState.COMPLETED)

    def _insist(self, action: JobAction, record: JobRecord, state: JobState) -> bool:
        require_works(action, record, state, is_declared=record.kind in self._spec.jobs)
        if self._is_spent(action, record):
            raise WrongState(
                f"job {record.id} ({record.kind}) runs at most once, and was started",
                hint="Where it may start a second time all the same, say so: rerun.",
            )
        return True

    def _is_spent(self, action: JobAction, record: JobRecord) -> bool:
        # It runs at most once, and was started.
        return action == "retry" and record.kind in self._once and bool(record.started_us)

    def _can_run(self, action: JobAction, record: JobRecord) -> bool:
        try:
            return action in STOPS_AS or bool(self._able(record))
        except WrongState:
            return False

    def _able(self, record: JobRecord) -> JobRecord:
        """Return a job with arguments of the declared types.

        Raises:
            WrongState: it has others.
        """
        if record.state not in FINAL_STATES and record.state is not JobState.SUSPENDED:
            return record
        try:
            typed = self._books.typed(record)
        except ValueError as error:
            raise WrongState(
                f"job {record.id} ({record.kind}) cannot run: {error}",
                hint=f"What works: {way_out(record, is_declared=record.kind in self._spec.jobs)}.",
            ) from error
        return msgspec.structs.replace(typed, schema=self._schema)

    def _with_arguments(self, processor: Any, record: JobRecord, change: Change) -> JobRecord:
        """Return a job with the arguments that it is to have, checked as in a request."""
        if change.arguments is None:
            return record
        job = self._spec.jobs.get(record.kind)
        if job is None:
            raise WrongState(
                f"there is no job '{record.kind}' in this app, so job {record.id} cannot be edited",
                hint=f"What works: {way_out(record, is_declared=False)}.",
            )
        request = processor.checked_request(requested(job, record, change.arguments))
        return msgspec.structs.replace(
            record,
            arguments=request.values,
            schema=self._schema,
            version=job.settings.version,
            key="" if job.settings.key is None else key_of(job, request.values),
        )

    def _changed(self, change: Change, record: JobRecord) -> dict[str, Any]:
        """Return what a change made of a job, by name."""
        changed = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
        if "arguments" in changed:
            names = [parameter.name for parameter in self._spec.jobs[record.kind].parameters]
            changed["arguments"] = dict(zip(names, record.arguments, strict=True))
        return changed


class _Plan(msgspec.Struct, frozen=True):
    """To which jobs something is done, and what.

    Parameters:
        wants: says to which.
        decide: says what, unless it runs.
        change: for the log.
    """

    wants: Wants
    decide: Decide
    change: Change

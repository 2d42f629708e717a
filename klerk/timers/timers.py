"""Timers: the blocks of ``state.at`` and ``state.after``, run through the path of commands when they are due.

When a model's next timer is due stands in the model itself, so timers survive restarts without records of
their own; what is kept in memory is only the order in which they come (`klerk.timers.queue`). Many are
submitted at once; a firing that comes out of turn, because one before it made another timer due, does nothing
and is put back.
"""

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, Protocol

from klerk import limits
from klerk._core import InternalWork, Processor
from klerk._dispatch import ClassPlan, moment_at
from klerk._waiting import Submission
from klerk.commands import Actor, Context
from klerk.errors import ArgumentError, Closed, FunctionFailed, KlerkError, QueueFull, StoreFailed
from klerk.log_events import about
from klerk.scheduler import Scheduler
from klerk.timers.queue import Entry, TimerQueue
from klerk.timers.work import POSTPONED, Chain, DueTimer, FireTimer, RefusedTimer, text_of

LOG = logging.getLogger("klerk")

# What is no fault of the timer at hand: it stays due.
_OF_THE_STORE = (Closed, StoreFailed, QueueFull)


class Submit(Protocol):
    """Puts the transaction of a timer into the queue."""

    def __call__(self, work: InternalWork, context: Context) -> Submission[Any]: ...


class Timers:
    """Knows which models have timers, fires those that are due, and shows both.

    Refused timers are recorded and shown, and not tried again. What is no timer's fault, such as a context
    provider that fails, holds up all of them until it is mended; nothing is lost.

    Parameters:
        scheduler: gives the time.
        processor: holds the models.
        plan_of: gives the plan of a model's class.
        system_context: makes the context that an actor acts in.
        submit: takes the transactions.
        refuse_waiting: raises where waiting for them would never end.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        processor: Processor,
        plan_of: Mapping[type[Any], ClassPlan],
        *,
        system_context: Callable[[Actor], Context],
        submit: Submit,
        refuse_waiting: Callable[[bool], None],
    ) -> None:
        self._scheduler = scheduler
        self._processor = processor
        self._plan_of = plan_of
        self._system_context = system_context
        self._submit = submit
        self.refuse_waiting = refuse_waiting
        self._is_used = any(plan.has_timers for plan in plan_of.values())
        self._queue = TimerQueue(processor)
        # When each published model's next timer is due.
        self._due: dict[int, int] = {}
        self._changed = self._queue.changed
        # Held by whoever fires: the timers' own thread, or a caller of `fire_due`.
        self._firing = threading.Lock()
        self._is_firing = False
        self._at_once_max = limits.TIMERS_FIRED_AT_ONCE_MAX
        self._chains: dict[int, Chain] = {}
        self._refused: deque[RefusedTimer] = deque(maxlen=limits.TIMERS_REFUSED_KEPT_MAX)
        self._trouble: KlerkError | None = None
        self._retry_after_s = limits.TIMER_RETRY_BASE_S
        self._retry_at_s = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="klerk-timers", daemon=True)

    # --- what users see ---------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many models have a timer that is still to come."""
        return len(self._due)

    @property
    def next_due(self) -> datetime | None:
        """When the next timer of all is due, in UTC; None when there is none."""
        due_us = min(list(self._due.values()), default=None)
        return None if due_us is None else moment_at(due_us)

    @property
    def next_us(self) -> int | None:
        """The same in microseconds since 1970 UTC, a moment before it is published."""
        return self._queue.first_us()

    def due(self, limit: int = 100) -> tuple[DueTimer, ...]:
        """Return the timers that come next, in their order.

        Parameters:
            limit: how many at most, 1 to 10,000.
        """
        if type(limit) is not int or not 1 <= limit <= limits.TIMERS_LISTED_MAX:
            raise ArgumentError(f"expected a limit of 1 to {limits.TIMERS_LISTED_MAX:,}, got {limit!r}")
        # Copied first: a copy holds up nobody for long.
        first = heapq.nsmallest(limit, ((due_us, id) for id, due_us in list(self._due.items())))
        models = [(due_us, self._processor.table.get(id)) for due_us, id in first]
        return tuple(
            DueTimer(ref=model.meta.id, state=model.meta.state, due=moment_at(due_us))
            for due_us, model in models
            if model is not None
        )

    @property
    def refused(self) -> tuple[RefusedTimer, ...]:
        """Timers that were refused since the app was opened, the newest last; the commit log has all."""
        with self._changed:
            return tuple(self._refused)

    @property
    def trouble(self) -> str:
        """Why no timer can be fired at the moment, for instance a failing context provider; empty when all is
        well."""
        trouble = self._trouble
        if trouble is None or not (
            isinstance(trouble, _OF_THE_STORE) or self._is_due(self._scheduler.now_us())
        ):
            return ""
        return text_of(trouble)

    def fire_due(self) -> int:
        """Fire all timers that are due by the clock now, in order, and return how many fired once that is
        durable and visible. Those that this makes due by the same moment are fired, too.

        Raises:
            ReadLockHeld, NotPure: waiting for it here would never end.
            FunctionFailed: the context provider failed; what was not fired is fired later.
            StoreFailed, Closed: nothing can be written any more.
        """
        self.refuse_waiting(True)
        if self._closed:
            raise Closed("this Klerk is closed", hint="Open the app again.")
        until_us, fired = self._scheduler.now_us(), 0
        with self._firing:
            while self._is_due(until_us):
                fired += self._fire_some(until_us)
                if self._trouble is not None:
                    raise self._trouble
        return fired

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no timer is due by the clock and none is being fired.

        Parameters:
            timeout: seconds to wait at most.

        Returns:
            Whether it came to that.

        Raises:
            ReadLockHeld, NotPure: waiting for it here would never end.
        """
        self.refuse_waiting(True)
        deadline_s = None if timeout is None else monotonic() + timeout
        while not self._closed and (self._is_firing or self._is_due(self._scheduler.now_us())):
            left_s = limits.CLOCK_CHECK_S if deadline_s is None else deadline_s - monotonic()
            if left_s <= 0:
                return False
            with self._changed:
                # The timers' thread has not noticed yet, perhaps, that the clock was set.
                self._changed.notify_all()
                self._changed.wait(min(left_s, limits.CLOCK_CHECK_S))
        return not self._closed

    # --- what is due ------------------------------------------------------------------------------

    def start(self) -> None:
        """Take over the timers of the models that were loaded, and begin to fire."""
        if not self._is_used:
            return
        table = self._processor.table
        for plan in self._plan_of.values():
            for state in plan.states:
                models = (table.get(id) for id in state.ids if state.timers)
                self._due.update((model.meta.id, model.meta.due_us) for model in models if model.meta.due_us)
        self._queue_all()
        self._processor.timed = self._queue.push
        self._thread.start()

    def _queue_all(self) -> None:
        self._queue.push((due_us, id, 0) for id, due_us in list(self._due.items()))

    def note(self, changed: Mapping[int, Any]) -> None:
        """Show the timers of models that were published; None stands for a deleted one."""
        if not self._is_used:
            return
        with self._changed:
            for id, model in changed.items():
                if model is not None and model.meta.due_us:
                    self._due[id] = model.meta.due_us
                else:
                    self._due.pop(id, None)

    def _is_due(self, until_us: int) -> bool:
        first_us = self._queue.first_us()
        return first_us is not None and first_us <= until_us

    # --- firing -----------------------------------------------------------------------------------

    def _fire_some(self, until_us: int) -> int:
        """Submit what is due, a bounded number at once, and wait for it, so that commands get their turn.

        Returns:
            How many fired.
        """
        self._is_firing = True
        try:
            ended, put_back = self._fire(self._queue.take(until_us, self._at_once_max))
        except BaseException:
            # An interrupt of the thread that waits, wherever it was: all are queued again, however often.
            self._queue_all()
            raise
        finally:
            self._is_firing = False
        self._queue.push(put_back)
        if ended:
            self._retry_after_s = limits.TIMER_RETRY_BASE_S
        # Firings out of turn are work for nothing: fewer at once while timers keep making others due before.
        at_once = 2 * self._at_once_max if not put_back else max(1, len(ended))
        self._at_once_max = min(at_once, limits.TIMERS_FIRED_AT_ONCE_MAX)
        for work in ended:
            if work.refusal:
                self._show_refused(work)
        with self._changed:
            self._changed.notify_all()
        return sum(not work.refusal for work in ended)

    def _fire(self, taken: list[Entry]) -> tuple[list[FireTimer], list[Entry]]:
        """Return the firings that were recorded, as fired or refused, and what has to be put back."""
        ended: list[FireTimer] = []
        put_back: list[Entry] = []
        submitted, self._trouble = self._submit_all(taken)
        put_back.extend(taken[len(submitted) :])
        for work, submission in submitted:
            if work is None or submission is None:
                continue
            error = submission.exception()
            if error is not None and not isinstance(error, _OF_THE_STORE) and not work.refusal:
                # Found only as the transaction was closed: it is refused by one of its own.
                work.refusal = text_of(error)
                submission = self._submit(work, submission.context)
                error = submission.exception()
            if isinstance(error, _OF_THE_STORE):
                self._trouble = error
                put_back.append(work.entry)
            elif error is not None:
                LOG.error(
                    "that the %s was refused cannot be recorded: %s",
                    work,
                    error,
                    extra=about("timer_unrecorded"),
                )
                ended.append(work)
            elif submission.result() is POSTPONED:
                put_back.append(work.entry)
            elif submission.result() is not None:
                ended.append(work)
                self._follow(work, submission.result())
        return ended, put_back

    def _submit_all(
        self, taken: list[Entry]
    ) -> tuple[list[tuple[FireTimer | None, Submission[Any] | None]], KlerkError | None]:
        """Submit timers in order, up to the first that cannot be because of what is not its own fault."""
        submitted: list[tuple[FireTimer | None, Submission[Any] | None]] = []
        for entry in taken:
            model = self._processor.working(entry.id)
            if model is None or model.meta.due_us != entry.due_us:
                submitted.append((None, None))
                continue
            chain = self._chains.pop(entry.id, None)
            if chain is None or chain.due_us != entry.due_us:
                chain = Chain(entry.due_us, 0, self._scheduler.now_us() - entry.due_us, ())
            work = FireTimer(self._plan_of[type(model)], model, entry, self._queue.is_next, chain)
            try:
                actor = work.actor(self._system_context, self._processor.published_reader)
                submitted.append((work, self._submit(work, self._system_context(actor))))
            except Exception as error:
                self._chains[entry.id] = chain
                return submitted, _as_refusal(error)
        return submitted, None

    def _follow(self, work: FireTimer, at_once: list[tuple[int, int]]) -> None:
        """Note which timers a firing made due at once: they are links of one chain."""
        if work.is_loop:
            return
        for id, due_us in at_once:
            self._chains[id] = work.chain.next(due_us, work.now_us)

    def _show_refused(self, work: FireTimer) -> None:
        refused = work.refused()
        with self._changed:
            self._refused.append(refused)
        state = f"state '{refused.state}', due {refused.due.isoformat()}"
        told = about("timer_refused", state=refused.state.name, model_id=int(refused.ref))
        LOG.warning("the %s was refused (%s): %s", work, state, refused.error, extra=told)

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            try:
                if self._wait_until_due():
                    self._fire_or_put_off()
            except BaseException:
                # Whatever it is, SystemExit too: this thread works for all timers.
                LOG.exception("firing timers failed; it is tried again", extra=about("timers_failed"))
                self._put_off()

    def _wait_until_due(self) -> bool:
        """Wait for a moment at most; return whether something is due by now."""
        now_us = self._scheduler.now_us()
        with self._changed:
            first_us = self._queue.first_us()
            patience_s = None if first_us is None else self._patience_s(first_us - now_us)
            if patience_s is not None and patience_s <= 0:
                return not self._closed
            if not self._is_firing and self._trouble is None:
                # Nothing is due, so whatever made others due at once has come to its end.
                self._chains.clear()
            if not self._closed:
                self._changed.wait(patience_s)
        return False

    def _patience_s(self, due_in_us: int) -> float:
        if self._trouble is not None and (left_s := self._retry_at_s - monotonic()) > 0:
            return left_s
        return min(limits.CLOCK_CHECK_S, due_in_us / 1e6)

    def _fire_or_put_off(self) -> None:
        before = self._trouble
        with self._firing:
            if not self._closed:
                self._fire_some(self._scheduler.now_us())
        if self._trouble is None:
            return
        if before is None or text_of(before) != text_of(self._trouble):
            LOG.error(
                "no timer can be fired for now, which is tried again: %s",
                self._trouble,
                extra=about("timers_failed"),
            )
        self._put_off()

    def _put_off(self) -> None:
        """Let time pass before the next attempt, more each time."""
        self._retry_at_s = monotonic() + self._retry_after_s
        self._retry_after_s = min(2 * self._retry_after_s, limits.TIMER_RETRY_MAX_S)
        if self._trouble is None:
            self._trouble = FunctionFailed("firing timers failed, as the log says")

    def runs_here(self) -> bool:
        """Return whether the caller runs in the timers' thread."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Fire no more timers and wait for the thread; those left are fired after the next start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive() and not self.runs_here():
            self._thread.join()


def _as_refusal(error: Exception) -> KlerkError:
    """Return why no timer could be submitted as a typed error."""
    if isinstance(error, KlerkError):
        return error
    refusal = FunctionFailed(f"the context provider raised {type(error).__name__}: {error}")
    refusal.__cause__ = error
    return refusal

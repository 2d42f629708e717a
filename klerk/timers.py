"""Timers: the blocks of ``state.at`` and ``state.after``, run through the path of commands when they are due.

When a model's next timer is due stands in the model itself, so timers survive restarts without records of
their own; what is kept here is only the order in which they come.
"""

import heapq
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from klerk import limits
from klerk._core import InternalWork
from klerk._dispatch import ClassPlan
from klerk._waiting import Submission
from klerk.errors import Closed, KlerkError, StoreFailed
from klerk.scheduler import Scheduler

LOG = logging.getLogger("klerk")


class FireTimer(InternalWork):
    """The transaction of a due timer: nothing happens when the model has moved on meanwhile."""

    def __init__(self, plan: ClassPlan, id: int, due_us: int) -> None:
        self.plan = plan
        self.id = id
        self.due_us = due_us

    def perform(self, processor: Any) -> bool:
        fired: bool = processor.fire(self.plan, self.id, self.due_us)
        return fired

    def __repr__(self) -> str:
        return f"timer of {self.plan.name} {self.id}"


class Timers:
    """Knows which models have timers, and submits those that are due.

    Parameters:
        scheduler: wakes this when the earliest is due.
        submit: takes the work and whom it is for, as ``submit(work, name, cause)``.
        plan_of: gives the plan of a model's class.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        submit: Callable[[InternalWork, str], Submission],
        plan_of: dict[type[Any], ClassPlan],
    ) -> None:
        self._scheduler = scheduler
        self._submit = submit
        self._plan_of = plan_of
        self._heap: list[tuple[int, int, Any]] = []
        # When each model's timer is due; the heap may hold older moments, too.
        self._due: dict[int, int] = {}
        self._awake_at_us: int | None = None
        self._alarm = 0
        self._lock = threading.Lock()

    def note(self, models: Any) -> None:
        """Take over the timers of models that were loaded or published."""
        with self._lock:
            for model in models:
                if model is None or not self._plan_of[type(model)].has_timers:
                    continue
                due_us, id = model._meta.due_us, model._meta.id
                if self._due.get(id, 0) == due_us:
                    continue
                if due_us:
                    self._due[id] = due_us
                    heapq.heappush(self._heap, (due_us, id, self._plan_of[type(model)]))
                else:
                    del self._due[id]
            self._wake()

    def _wake(self) -> None:
        if self._heap and (self._awake_at_us is None or self._heap[0][0] < self._awake_at_us):
            self._awake_at_us = self._heap[0][0]
            self._alarm += 1
            self._scheduler.at(self._awake_at_us, partial(self._fire_due, self._alarm))

    def _take_due(self) -> list[FireTimer]:
        now_us = self._scheduler.now_us()
        due: list[FireTimer] = []
        with self._lock:
            self._awake_at_us = None
            while self._heap and self._heap[0][0] <= now_us and len(due) < limits.TIMERS_FIRED_AT_ONCE_MAX:
                due_us, id, plan = heapq.heappop(self._heap)
                # A timer that was moved has another entry; this one is left over.
                if self._due.get(id) == due_us:
                    del self._due[id]
                    due.append(FireTimer(plan, id, due_us))
        return due

    def _fire_due(self, alarm: int) -> None:
        """Submit what is due, a bounded number at once, and wait for it, so that commands get their turn.

        Parameters:
            alarm: the number of the call that was set; only the one set last counts.
        """
        if alarm != self._alarm:
            return
        submitted = []
        for work in self._take_due():
            try:
                submitted.append((work, self._submit(work, str(work))))
            except (Closed, StoreFailed):
                return
        for work, submission in submitted:
            error = submission.exception()
            if isinstance(error, KlerkError):
                LOG.warning("the %s was refused and is not tried again until the next start: %s", work, error)
        with self._lock:
            self._wake()

"""What firing timers consists of: the transaction of one, who acts in it, and the chain of what it causes."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from klerk import limits
from klerk._core import InternalWork, Processor
from klerk._dispatch import ClassPlan, moment_at, new_args
from klerk.blocks import TimeTrigger
from klerk.commands import Actor, Context, System
from klerk.errors import FunctionFailed, KlerkError, LimitExceeded
from klerk.machine import State
from klerk.texts import storable
from klerk.timers.queue import Entry
from klerk.values import Model, Ref


class DueTimer(msgspec.Struct, frozen=True, kw_only=True):
    """A model's next timer.

    Parameters:
        ref: of the model.
        state: that the model is in.
        due: when it fires, in UTC.
    """

    ref: Ref[Any]
    state: State[Any]
    due: datetime


class RefusedTimer(msgspec.Struct, frozen=True, kw_only=True):
    """A timer that came and was refused. It is not tried again; the model goes on with its next timer.

    Parameters:
        ref: of the model.
        state: that the model was in.
        due: when the timer was due, in UTC.
        error: why it was refused.
        time: when, in UTC.
    """

    ref: Ref[Any]
    state: State[Any]
    due: datetime
    error: str
    time: datetime


class Chain(NamedTuple):
    """How long timers have made each other due at once without coming nearer to the present.

    Timers that catch up after a long stop come nearer: of each, less time has passed since it was due than of
    the one before. A loop never does, wherever its moments lie.

    Parameters:
        due_us: of the timer that the chain has come to.
        length: how many there were.
        lag_us: the least time that had passed since one of them was due.
        states: that they were in, a few.
    """

    due_us: int
    length: int
    lag_us: int
    states: tuple[str, ...]

    def next(self, due_us: int, now_us: int) -> "Chain":
        """Return the chain with one more timer, made due at once at a moment by the firing of this one."""
        lag_us = now_us - due_us
        if lag_us < self.lag_us:
            return Chain(due_us, 1, lag_us, self.states)
        return Chain(due_us, self.length + 1, self.lag_us, self.states)

    def through(self, state: str) -> "Chain":
        """Return the chain with a state that it goes through."""
        if state in self.states or len(self.states) >= limits.TIMER_LOOP_STATES_SHOWN_MAX:
            return self
        return self._replace(states=(*self.states, state))

    def refusal(self) -> str:
        """Return why the chain is a loop; empty when it is none."""
        if self.length < limits.TIMER_LOOP_FIRINGS_MAX:
            return ""
        return text_of(
            LimitExceeded(
                f"timers made each other due at once {self.length:,} times without coming nearer to the"
                f" present, in {', '.join(self.states)}: whatever this state has due by now is refused"
            )
        )


def text_of(error: KlerkError) -> str:
    """Return a refusal as it is stored and shown."""
    return storable(f"{type(error).__name__}: {error.message}", limits.ERROR_LENGTH_MAX)


POSTPONED: Final = object()
"""What the transaction of a timer gives that came out of turn: nothing was done."""


class FireTimer(InternalWork):
    """The transaction of a due timer, or of its refusal: nothing happens when the model has moved on.

    Parameters:
        plan: of the model's class.
        model: as it was when the transaction was made.
        entry: of the timer.
        is_next: tells whether no other timer comes before it by now.

    Attributes:
        refusal: why the timer is refused; empty while it is not.
        is_loop: it is refused together with all that its state has due by now.
        now_us: the time of the transaction, once it was performed.
    """

    def __init__(
        self, plan: ClassPlan, model: Model, entry: Entry, is_next: Callable[[Entry], bool], chain: Chain
    ) -> None:
        self.plan = plan
        self.model = model
        self.entry = entry
        self.chain = chain.through(f"{plan.name}.{model.meta.state}")
        self._is_next = is_next
        self.refusal = chain.refusal()
        self._is_decided_by_model = False
        self.is_loop = bool(self.refusal)
        self.now_us = 0

    def perform(self, processor: Processor) -> Any:
        """Fire or refuse the timer; return (id, due_us) of the models that this made due at once, None when
        the model has moved on, or `POSTPONED`."""
        self.now_us = processor.now_us
        due_us, id, _ = self.entry
        if not self._is_next(self.entry) or not self._fits(processor.working(id)):
            return POSTPONED
        if not self.refusal:
            try:
                return processor.fire(self.plan, id, due_us)
            except KlerkError as error:
                self.refusal = text_of(error)
        until_us = max(due_us, self.now_us) if self.is_loop else due_us
        return processor.refuse_timer(self.plan, id, due_us, until_us, self.refusal)

    def _fits(self, model: Any) -> bool:
        """Return whether who acts, which was decided before, still holds for what became of the model."""
        if model is None or model is self.model:
            return model is not None
        return not self._is_decided_by_model and model.meta.state is self.model.meta.state

    def trigger(self) -> TimeTrigger[Any]:
        """Return the timer that is due, as far as that can be told without asking functions."""
        meta = self.model.meta
        triggers: list[TimeTrigger[Any]] = meta.state.triggers
        for trigger in triggers:
            if trigger.delay is not None and (
                meta.entered_us + trigger.delay // datetime.resolution == self.entry.due_us
            ):
                return trigger
        return next((trigger for trigger in triggers if trigger.due is not None), triggers[0])

    def actor(self, system_context: Callable[[Actor], Context], read: Any) -> Actor:
        """Return as whom the timer's block acts, the system unless it says otherwise.

        Parameters:
            system_context: makes the context that a function for `run_as` sees.
            read: the reader that it sees.
        """
        trigger = self.trigger()
        itself = System(self._name(trigger), cause=self.entry.cause)
        run_as = trigger.run_as
        if run_as is None or self.refusal:
            return itself
        if isinstance(run_as, Actor):
            return run_as
        self._is_decided_by_model = True
        context = system_context(itself)
        try:
            actor = run_as(new_args(context, context.now, read, self.model))
            if isinstance(actor, Actor):
                return actor
            raise FunctionFailed(f"run_as returned {type(actor).__name__}, expected an actor")
        except Exception as error:
            failure = error if isinstance(error, KlerkError) else _failed(error)
            self.refusal = text_of(failure)
            return itself

    def _name(self, trigger: TimeTrigger[Any]) -> str:
        name = getattr(trigger.due, "__name__", "<lambda>")
        kind = f"after {trigger.delay}" if trigger.delay is not None else f"at {name}"
        return f"{self} ({self.model.meta.state}, {kind.removesuffix(' <lambda>')})"

    def refused(self) -> RefusedTimer:
        """Return the refusal as it is shown."""
        return RefusedTimer(
            ref=self.model.meta.id,
            state=self.model.meta.state,
            due=moment_at(self.entry.due_us),
            error=self.refusal,
            time=moment_at(self.now_us),
        )

    def __repr__(self) -> str:
        return f"timer of {self.plan.name} {self.entry.id}"


def _failed(error: Exception) -> FunctionFailed:
    return FunctionFailed(f"run_as raised {type(error).__name__}: {error}")

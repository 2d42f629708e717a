"""What may happen next: the events that a model accepts, and those that make models, for one actor.

State, context, authorization and rules are considered as far as they can be without parameters. A rule that
needs them leaves the question open, and what is open counts as possible: handling the command will decide.
"""

from collections.abc import Callable, Iterable
from typing import Any

from klerk._dispatch import Args, Call, EventPlan, Undecided, ask, possible_args
from klerk.commands import Context
from klerk.errors import ArgumentError, Conflict, Denied, NotFound, Rejected
from klerk.machine import CreateEvent, Event, Machine
from klerk.validation import ALONE, CHOSEN
from klerk.values import Model
from klerk.visibility import Visibility


def reference_of(model: Any) -> Any:
    """Return the reference of a stored model; a reference is returned as it is.

    Raises:
        ArgumentError: it is a draft.
    """
    if not isinstance(model, Model):
        return model
    if model._meta is None:
        raise ArgumentError(
            f"{model!r} is a draft, to which nothing can happen yet", hint="Use the model that was stored."
        )
    return model._meta.id


class Possibilities:
    """The events of one open store by the state in which they are accepted.

    Parameters:
        events: the event plans, in the order of their declaration.
        resolve: gives a context its time, and says whether rules are not asked about its actor.
    """

    def __init__(
        self, events: Iterable[EventPlan], resolve: Callable[[Context], tuple[Context, bool]]
    ) -> None:
        self._resolve = resolve
        self._of_class: dict[type[Model], list[EventPlan]] = {}
        for plan in events:
            self._of_class.setdefault(plan.owner.model_class, []).append(plan)

    def events(
        self, read: Any, context: Context, model: Model, visibility: Visibility
    ) -> tuple[Event[Any, ...], ...]:
        """Return the events that may happen to a model, as it is, on behalf of a context's actor.

        Parameters:
            read: for the rules, as ``a.read``.
            visibility: of the events; those that reach farther are among them.
        """
        index = model.meta.state.index
        accepted = [
            plan
            for plan in self._of_class[type(model)]
            if plan.create is None and plan.blocks[index] is not None
        ]
        return self._possible(accepted, read, context, model, visibility)

    def creations(
        self, read: Any, context: Context, what: Any, visibility: Visibility
    ) -> tuple[CreateEvent[Any, ...], ...]:
        """Return the events that may make models of a class, on behalf of a context's actor.

        Parameters:
            what: the class, or its machine.

        Raises:
            ArgumentError: the app has no such class or machine.
        """
        plans = self._of_class.get(what.model_class if isinstance(what, Machine) else what)
        if plans is None or (isinstance(what, Machine) and _event(plans[0]).machine is not what):
            raise ArgumentError(
                f"{what!r} is no model class of this app", hint="Use a model class, or its machine."
            )
        creations = [plan for plan in plans if plan.create is not None]
        return self._possible(creations, read, context, None, visibility)

    def _possible(
        self,
        plans: list[EventPlan],
        read: Any,
        context: Context,
        model: Model | None,
        visibility: Visibility,
    ) -> tuple[Any, ...]:
        context, trusted = self._resolve(context)
        a = possible_args(context, context.now, read, model)
        return tuple(
            _event(plan)
            for plan in plans
            if _event(plan).visibility.reaches(visibility) and _may_happen(plan, a, trusted=trusted)
        )


def _event(plan: EventPlan) -> Any:
    return plan.event


def _may_happen(plan: EventPlan, a: Args, *, trusted: bool) -> bool:
    try:
        return (trusted or _is_allowed(plan, a)) and all(
            _says(rule.call, a, when_open=True) for rule in plan.rules if _is_decidable(rule.call, plan)
        )
    except (Rejected, Denied, NotFound, Conflict):
        # A rule may refuse by raising.
        return False


def _is_allowed(plan: EventPlan, a: Args) -> bool:
    """Return whether an allow rule says yes and no deny rule does."""
    for rule in plan.allow:
        try:
            if _says(rule, a, when_open=True):
                break
        except NotFound:
            # A rule that misses a model which it reads permits nothing.
            continue
    else:
        return False
    return not any(_says(rule, a, when_open=False) for rule in plan.deny)


def _is_decidable(call: Call, plan: EventPlan) -> bool:
    """Return whether a function can be called without any of the event's parameters."""
    takes_none = call.mode == ALONE or (call.mode == CHOSEN and not call.names)
    return takes_none or not plan.checks


def _says(rule: Call, a: Args, *, when_open: bool) -> bool:
    try:
        return ask((rule,), a)[0]
    except Undecided:
        return when_open

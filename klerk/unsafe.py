"""The escape hatch: changes that ask neither state machines nor rules, for repairs that no event foresees."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from klerk._core import Processor, ResultWork
from klerk._dispatch import ClassPlan
from klerk._working import id_or_zero
from klerk.codec import UNSAFE_CREATE, UNSAFE_DELETE, UNSAFE_UPDATE
from klerk.commands import Context, Result
from klerk.errors import ArgumentError, Denied, NotFound
from klerk.machine import State
from klerk.values import Model, Ref

M = TypeVar("M", bound=Model)


class UnsafeCreate(msgspec.Struct, Generic[M], frozen=True):
    """A model to be created in a state, whatever its machine says."""

    model: M
    state: State[M]


class UnsafeUpdate(msgspec.Struct, Generic[M], frozen=True):
    """New fields for a model, and a state for it if it is to leave its own, whatever its machine says."""

    ref: Ref[M]
    model: M
    state: State[M] | None = None


class UnsafeDelete(msgspec.Struct, Generic[M], frozen=True):
    """A model to be deleted, whatever its machine says."""

    ref: Ref[M]


UnsafeChange = UnsafeCreate[Any] | UnsafeUpdate[Any] | UnsafeDelete[Any]


class UnsafeWork(ResultWork):
    """The transaction that makes unsafe changes, all or none.

    Parameters:
        changes: in their order.
        plans: the class plans by model class.
    """

    def __init__(self, changes: Sequence[UnsafeChange], plans: dict[type[Model], ClassPlan]) -> None:
        self.changes = changes
        self.plans = plans

    def perform(self, processor: Processor) -> list[int]:
        return [self._make(processor, change) for change in self.changes]

    def _make(self, processor: Processor, change: UnsafeChange) -> int:
        if isinstance(change, UnsafeCreate):
            plan = self._plan_of(change.model)
            id = processor.put_unchecked(plan, 0, change.model, _state_of(plan, change.state))
            processor.log_unchecked(UNSAFE_CREATE, id)
            return id
        id = id_or_zero(change.ref)
        present = processor.working(id)
        if present is None:
            raise NotFound(f"there is no model {change.ref!r}")
        plan = self.plans[type(present)]
        if isinstance(change, UnsafeDelete):
            processor.delete_unchecked(plan, id)
            processor.log_unchecked(UNSAFE_DELETE, id)
            return id
        if type(change.model) is not plan.model_class:
            raise ArgumentError(f"{plan.name} {id} cannot become {_kind(change.model)}")
        state = None if change.state is None else _state_of(plan, change.state)
        processor.put_unchecked(plan, id, change.model, state)
        processor.log_unchecked(UNSAFE_UPDATE, id)
        return id

    def _plan_of(self, model: Any) -> ClassPlan:
        plan = self.plans.get(type(model))
        if plan is None:
            raise ArgumentError(
                f"expected a model of this app, got {_kind(model)}",
                hint="Make one by calling its class: Member(name=...).",
            )
        return plan


def _state_of(plan: ClassPlan, state: Any) -> State[Any]:
    """Return a state of a class, or refuse what is none of its own."""
    if not any(each.state is state for each in plan.states):
        names = ", ".join(str(each.state) for each in plan.states)
        raise ArgumentError(f"{state!r} is no state of {plan.name}", hint=f"Use one of: {names}.")
    known: State[Any] = state
    return known


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


class Unsafe:
    """Unsafe changes, for threads: `Klerk.unsafe`.

    A change asks neither the state machine nor any rule about commands, models or fields, and runs no block.
    Value types, references and unique keys are checked all the same, timers are set, and the commit log names
    the context's actor and what was done.

    Parameters:
        run: handles a transaction and returns its results.
        plans: the class plans by model class.
        is_on: whether the app was opened with ``unsafe=True``.
    """

    def __init__(
        self,
        run: Callable[[UnsafeWork, Context], list[Result[Any]]],
        plans: dict[type[Model], ClassPlan],
        *,
        is_on: bool,
    ) -> None:
        self._run = run
        self._plans = plans
        self._is_on = is_on

    def create(self, model: M, state: State[M], context: Context) -> Result[M]:
        """Create a model in a state.

        Raises:
            Denied: (``unsafe_off``) the app was not opened with ``unsafe=True``.
            InvalidValue, BrokenReference: a field has a value that its type or integrity does not allow.
            Conflict: another model has a unique key.
        """
        return self.handle_all([UnsafeCreate(model, state)], context)[0]

    def update(self, ref: Ref[M], model: M, context: Context, state: State[M] | None = None) -> Result[M]:
        """Give a model the fields of another one or of a draft, and a state if it is to leave its own.

        Raises:
            NotFound: there is no such model.
            Denied, InvalidValue, BrokenReference, Conflict: as for `create`.
        """
        return self.handle_all([UnsafeUpdate(ref, model, state)], context)[0]

    def delete(self, ref: Ref[M], context: Context) -> Result[M]:
        """Delete a model.

        Raises:
            NotFound: there is no such model.
            Conflict: another model refers to it.
            Denied: as for `create`.
        """
        return self.handle_all([UnsafeDelete(ref)], context)[0]

    def handle_all(self, changes: Iterable[UnsafeChange], context: Context) -> list[Result[Any]]:
        """Make several changes as one transaction, all or none, and return the result of each.

        Parameters:
            changes: `UnsafeCreate`, `UnsafeUpdate` and `UnsafeDelete`, in their order.
        """
        return self._run(self.work(changes), context)

    def work(self, changes: Iterable[UnsafeChange]) -> UnsafeWork:
        """Return the transaction that makes changes.

        Raises:
            Denied: (``unsafe_off``) the app was not opened with ``unsafe=True``.
            ArgumentError: one of them is no unsafe change.
        """
        if not self._is_on:
            raise Denied(
                "unsafe changes are switched off",
                code="unsafe_off",
                hint="Open the app with unsafe=True, for as long as the repair takes.",
            )
        listed = list(changes)
        for change in listed:
            if not isinstance(change, UnsafeCreate | UnsafeUpdate | UnsafeDelete):
                raise ArgumentError(
                    f"expected an unsafe change, got {_kind(change)}",
                    hint="Use UnsafeCreate, UnsafeUpdate and UnsafeDelete.",
                )
        return UnsafeWork(listed, self._plans)


class AioUnsafe:
    """The asyncio face of `Unsafe`.

    Parameters:
        unsafe: makes the transactions.
        run: handles one and returns its results.
    """

    def __init__(
        self, unsafe: Unsafe, run: Callable[[UnsafeWork, Context], Awaitable[list[Result[Any]]]]
    ) -> None:
        self._unsafe = unsafe
        self._run = run

    async def create(self, model: M, state: State[M], context: Context) -> Result[M]:
        """See `Unsafe.create`."""
        return (await self.handle_all([UnsafeCreate(model, state)], context))[0]

    async def update(
        self, ref: Ref[M], model: M, context: Context, state: State[M] | None = None
    ) -> Result[M]:
        """See `Unsafe.update`."""
        return (await self.handle_all([UnsafeUpdate(ref, model, state)], context))[0]

    async def delete(self, ref: Ref[M], context: Context) -> Result[M]:
        """See `Unsafe.delete`."""
        return (await self.handle_all([UnsafeDelete(ref)], context))[0]

    async def handle_all(self, changes: Iterable[UnsafeChange], context: Context) -> list[Result[Any]]:
        """See `Unsafe.handle_all`."""
        return await self._run(self._unsafe.work(changes), context)

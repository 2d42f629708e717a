"""Blocks: what happens on one occasion, as users declare it by chaining executables."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload

from klerk.declared import (
    COMMANDS,
    DELETE,
    JOB,
    TO,
    TO_WHEN,
    UNMANAGED,
    UPDATE,
    Calling,
    Commanding,
    Condition,
    Due,
    Executable,
    Requesting,
    RunAs,
    Updating,
    require_function,
)
from klerk.jobs import Job
from klerk.places import here
from klerk.selections import MachineBase, StateBase
from klerk.values import Model, Ref

M = TypeVar("M", bound=Model)
Q = ParamSpec("Q")
W = ParamSpec("W")


class Block(Generic[M]):
    """What happens on one occasion. Every method adds an executable and returns the block, for chaining.

    The order in which executables of different kinds are declared does not matter: updates come first, then
    at most one transition with its exit and enter blocks, then secondary commands, jobs and unmanaged jobs,
    which see the result, and last a deletion with its exit block. Those of one kind come as declared.
    """

    def __init__(self, owner: MachineBase[M], occasion: str) -> None:
        self.owner = owner
        self.occasion = occasion
        self.executables: list[Executable] = []
        self.place = here()

    def _add(self, kind: int, function: Any = None, when: Any = None, value: Any = None) -> "Block[M]":
        self.owner.app_open_check()
        if kind in (UPDATE, COMMANDS, UNMANAGED) or (kind == JOB and value is None):
            require_function(function, self.occasion)
        if when is not None:
            require_function(when, self.occasion)
        self.executables.append(
            Executable(kind=kind, function=function, when=when, value=value, place=here())
        )
        return self

    def update(self, function: "Updating[M, Q]", *, when: "Condition[M, W] | None" = None) -> "Block[M]":
        """Replace the model by the draft that ``function(a, ...)`` returns; None leaves it as it is."""
        return self._add(UPDATE, function, when)

    def to(self, state: "StateBase[M]", *, when: "Condition[M, W] | None" = None) -> "Block[M]":
        """Move the model to a state. Of several transitions only the first whose condition holds happens.

        The blocks on exit and on enter run even when it is in that state already: it enters it anew.
        """
        return self._add(TO, None, when, state)

    @overload
    def to_when(
        self,
        choices: "Mapping[Condition[M, []], StateBase[M]]",
        otherwise: "StateBase[M] | None" = None,
        *,
        when: "Condition[M, W] | None" = None,
    ) -> "Block[M]": ...
    @overload
    def to_when(
        self,
        choices: "Mapping[Condition[M, ...], StateBase[M]]",
        otherwise: "StateBase[M] | None" = None,
        *,
        when: "Condition[M, W] | None" = None,
    ) -> "Block[M]": ...
    def to_when(
        self,
        choices: Mapping[Any, "StateBase[M]"],
        otherwise: "StateBase[M] | None" = None,
        *,
        when: "Condition[M, W] | None" = None,
    ) -> "Block[M]":
        """Move the model to the state of the first condition that holds, or else to `otherwise`, if given."""
        for condition in choices:
            require_function(condition, self.occasion)
        return self._add(TO_WHEN, None, when, (tuple(choices.items()), otherwise))

    def commands(self, function: "Commanding[M, Q]", *, when: "Condition[M, W] | None" = None) -> "Block[M]":
        """Handle the commands that ``function(a, ...)`` returns or yields, in the same transaction."""
        return self._add(COMMANDS, function, when)

    def job(
        self, job: "Job[[Ref[M]]] | Requesting[M, Q]", *, when: "Condition[M, W] | None" = None
    ) -> "Block[M]":
        """Create a job in the same write.

        Parameters:
            job: a declared job whose one parameter is a reference to the model, or a function that returns
                requests, as in ``lambda a: remind(a.model.meta.id)``. The declared job is not created when
                there is no such model: the create event made none, or a secondary command deleted it.
        """
        if isinstance(job, Job):
            return self._add(JOB, None, when, job)
        return self._add(JOB, job, when)

    def unmanaged_job(
        self, function: "Calling[M, Q]", *, when: "Condition[M, W] | None" = None
    ) -> "Block[M]":
        """Call ``function(a, ...)`` once the command committed: fire and forget."""
        return self._add(UNMANAGED, function, when)

    def delete(self, *, when: "Condition[M, W] | None" = None) -> "Block[M]":
        """Delete the model, unless something still refers to it when the transaction ends."""
        return self._add(DELETE, None, when)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTrigger(Generic[M]):
    """A block that runs when a model in a state has reached a moment.

    Parameters:
        due: gives the moment, or None for never.
        delay: after the model came into the state; when there is no `due`.
        run_as: the actor that the block acts as, or a function that gives it; None: the system.
    """

    block: Block[M]
    due: "Due[M] | None" = None
    delay: timedelta | None = None
    run_as: "RunAs[M] | None" = None

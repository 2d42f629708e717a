"""What a command returns whose token was used before: the first outcome, read from the commit log."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

from klerk._dispatch import ClassPlan
from klerk._image import model_of
from klerk.audit.commit_log import Transaction, transaction_at
from klerk.codec import Payload, read_job
from klerk.commands import Context, Result
from klerk.errors import Erased, NotFound
from klerk.jobs import JobRecord
from klerk.storage.contract import Storage
from klerk.values import Model, Ref

M = TypeVar("M", bound=Model)


class FirstUse:
    """The transaction in which a token was used first. Nothing is read before somebody looks at it.

    Parameters:
        storage: with the commit log.
        plans: class plans by their code; None for a class that was deleted.
        sequence: of the transaction.
    """

    def __init__(self, storage: Storage, plans: dict[int, ClassPlan | None], sequence: int) -> None:
        self.sequence = sequence
        self._storage = storage
        self._plans = plans

    @cached_property
    def _transaction(self) -> Transaction:
        found = transaction_at(self._storage, self.sequence)
        if found is None:
            raise NotFound(f"the commit log has no transaction {self.sequence}")
        return found

    @property
    def payload(self) -> Payload:
        """What the transaction did.

        Raises:
            Erased: it was erased since.
        """
        payload = self._transaction.payload
        if payload is None:
            raise Erased(
                f"what transaction {self.sequence} did was erased on request",
                hint="What it was about can still be told: the result's id.",
            )
        return payload

    @cached_property
    def ids(self) -> list[Any]:
        """What each command of the transaction was about; None where it created no model."""
        return [id or None for _, id, depth in self._transaction.head.targets if depth == 0]

    @cached_property
    def models(self) -> list[Any]:
        """The models that it created or changed, as it left them; without classes that there are no more."""
        models = [model_of(self._plans, id, stored) for id, stored in self.payload.images]
        return [model for model in models if model is not None]


class RepeatedResult(Result[M]):
    """The first outcome of a command whose token was used before. See `Result`, whose attributes it has.

    Models are as the first transaction left them, and shown as the actor who asks now may see them.

    Parameters:
        first: the transaction that the token was used in.
        place: of the command in that transaction, from 0.
        context: of the command that came again.
        shown_by: ``shown_by(context, model)`` gives a model, or the one with an id, as its actor may see it.
    """

    __slots__ = ("_again", "_first", "_place", "_show_by")

    def __init__(
        self, first: FirstUse, place: int, context: Context, shown_by: Callable[[Context, Any], Any]
    ) -> None:
        self._first = first
        self._place = place
        self._again = context
        self._show_by = shown_by

    @property
    def repeated(self) -> bool:
        return True

    @property
    def sequence(self) -> int:
        return self._first.sequence

    @property
    def id(self) -> Ref[M]:
        id: Ref[M] = self._first.ids[self._place]
        return id

    @property
    def context(self) -> Context:
        return self._again

    @property
    def jobs(self) -> Sequence[JobRecord]:
        return tuple(read_job(id, stored) for id, stored in self._first.payload.jobs)

    def show(self, model: Model | None) -> Any:
        return self._show_by(self._again, self.id if model is None else model)

    @property
    def model(self) -> M:
        if self.id is None:
            raise LookupError("this command created no model")
        if self.id in self._first.payload.deleted:
            raise LookupError(f"model {self.id} was deleted by this command")
        changed = [model for model in self._first.models if model.meta.id == self.id]
        shown: M = self.show(changed[0] if changed else None)
        return shown

    @property
    def models(self) -> tuple[Any, ...]:
        return self._shown(self._first.models)

    @property
    def created(self) -> tuple[Any, ...]:
        # A transaction adds one version to a model, whatever it does: the first is the one that created it.
        return self._shown([model for model in self._first.models if model.meta.version == 1])

    @property
    def updated(self) -> tuple[Any, ...]:
        return self._shown([model for model in self._first.models if model.meta.version > 1])

    @property
    def deleted(self) -> tuple[Ref[Any], ...]:
        deleted: Any = self._first.payload.deleted
        return tuple(deleted)

    def __repr__(self) -> str:
        return f"<result {self.sequence}, repeated>"

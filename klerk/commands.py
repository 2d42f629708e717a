"""Contexts and actors, commands and their results."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, dataclass_transform

import msgspec

from klerk._core import Outcome
from klerk._dispatch import Args, Command
from klerk.translation import Translation
from klerk.values import Model, Ref

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import TypeVar

    M = TypeVar("M", bound=Model, default=Any)
else:
    from typing import TypeVar

    M = TypeVar("M")

__all__ = ["NOW", "Actor", "Anonymous", "Args", "Command", "Context", "Result", "System", "User"]

NOW: Final = datetime.min.replace(tzinfo=UTC)
"""The time of a context that names none: it becomes the time at which the command is handled."""


class Actor(msgspec.Struct, frozen=True):
    """Whoever acts. Rules ask for its roles; the commit log records its kind and id.

    Parameters:
        id: unique among actors of its kind.
        roles: what rules may ask for.
    """

    kind: ClassVar[str] = "actor"
    id: str
    roles: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.kind} {self.id}".rstrip()


class User(Actor, frozen=True):
    """A person, or a program on somebody's behalf."""

    kind: ClassVar[str] = "user"


class Anonymous(Actor, frozen=True):
    """Somebody who did not say who they are."""

    kind: ClassVar[str] = "anonymous"
    id: str = ""


class System(Actor, frozen=True):
    """The application itself: its jobs and timers. Authorization rules are not asked about it.

    Parameters:
        cause: the sequence of the command that caused the job or timer; 0 when none did.
    """

    kind: ClassVar[str] = "system"
    cause: int = 0


class _ContextType(msgspec.StructMeta):
    """Makes every field that a user's own context class adds keyword-only."""

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> "_ContextType":
        if any(isinstance(base, _ContextType) for base in bases):
            options["kw_only"] = True
        cls: _ContextType = super().__new__(mcls, name, bases, namespace, **options)
        return cls


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Context(msgspec.Struct, metaclass=_ContextType, frozen=True, kw_only=False):
    """On whose behalf something is read or done, and when. Subclass it to add fields of your own.

    Parameters:
        actor: who.
        now: an aware datetime; left out, it is the time at which Klerk handles the command or opens the read.
        on_behalf_of: for whom the actor acts, when that is somebody else; the commit log records both.
        translation: the language in which refusals are told; None: English.
    """

    actor: Actor
    now: datetime = NOW
    on_behalf_of: Actor | None = None
    translation: Translation | None = None

    def at(self, now: datetime) -> "Self":
        """Return the same context at another time."""
        return msgspec.structs.replace(self, now=now)


class Result(Outcome[M]):
    """What a handled command did.

    Attributes:
        id: the reference of the model that the command created or was about.
        sequence: the transaction's place in the total order, shared by all results of one transaction.
        jobs: the records of the jobs that the transaction created.
    """

    __slots__ = ()

    @property
    def repeated(self) -> bool:
        """Whether the command's token was used before, so that this is the outcome of its first use."""
        return False

    @property
    def model(self) -> M:
        """The model that the command is about, as the transaction left it and its actor may see it.

        Raises:
            Denied: the actor may not read it.
            LookupError: the transaction deleted it, or created none.
        """
        for before, after in self._changes:
            known = after if after is not None else before
            if known is not None and known.meta.id == self.id:
                if after is None:
                    raise LookupError(f"{type(before).__name__} {self.id} was deleted by this command")
                shown: M = self.show(after)
                return shown
        if self.id is None:
            raise LookupError("this command created no model")
        unchanged: M = self.show(None)
        return unchanged

    def _shown(self, models: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(self.show(model) for model in models)

    @property
    def models(self) -> tuple[Any, ...]:
        """Every model that the transaction created or changed."""
        return self._shown([after for _, after in self._changes if after is not None])

    @property
    def created(self) -> tuple[Any, ...]:
        """The models that the transaction created."""
        return self._shown([after for before, after in self._changes if before is None])

    @property
    def updated(self) -> tuple[Any, ...]:
        """The models that existed before and were changed."""
        return self._shown(
            [after for before, after in self._changes if before is not None and after is not None]
        )

    @property
    def deleted(self) -> tuple[Ref[Any], ...]:
        """The references of the models that the transaction deleted."""
        return tuple(before.meta.id for before, after in self._changes if after is None)

    def __repr__(self) -> str:
        return f"<result {self.sequence}: {len(self._changes)} models, {len(self.jobs)} jobs>"

"""What the commit log shows to those who may read it: entries in pages, and the versions of one model."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, NamedTuple, TypedDict, TypeVar

import msgspec

from klerk.commands import Actor
from klerk.machine import CreateEvent, Event
from klerk.values import Model, Ref

M = TypeVar("M", bound=Model)

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(us: int) -> datetime:
    """Return microseconds since 1970 as an aware datetime in UTC."""
    return EPOCH + timedelta(microseconds=us)


class ActorName(NamedTuple):
    """An actor as the commit log names it.

    Parameters:
        kind: as in ``"user"``.
        id: unique among actors of its kind.
    """

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}".rstrip()


class LoggedCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A command of a transaction, or something that Klerk did by itself.

    Parameters:
        event: its name, as in ``"Loan.lend"``, or ``"timer"``, ``"job action"`` and the like.
        target: the model that it was about, or created; None for a command that created none.
        depth: 0, or how deep it is below the command that caused it.
        parameters: by the names that they had then; `klerk.MASKED` where the reader may not see the value, or
            the event has no parameter of that name any more. Those of an event that is no longer declared
            have their places for names, from ``"1"`` on.
    """

    event: str
    target: Ref[Any] | None
    depth: int
    parameters: Mapping[str, Any]


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction, as the commit log has it.

    Parameters:
        sequence: its place in the total order.
        time: of its context, in UTC.
        actor: who did it.
        on_behalf_of: for whom, if that was somebody else.
        cause: the sequence of the transaction that caused the job or timer that did it; 0 for none.
        commands: in the order in which they began, secondary ones after the one that caused them.
        created, updated, deleted: the models that it changed.
        jobs: the ids of the jobs that it created.
        erased: whether what it did was erased; parameters, changed models and jobs are unknown then.
    """

    sequence: int
    time: datetime
    actor: ActorName
    on_behalf_of: ActorName | None
    cause: int
    commands: tuple[LoggedCommand, ...]
    created: tuple[Ref[Any], ...]
    updated: tuple[Ref[Any], ...]
    deleted: tuple[Ref[Any], ...]
    jobs: tuple[int, ...]
    erased: bool

    @property
    def event(self) -> str:
        """The name of the first event; empty for a transaction that only creates or records jobs."""
        return self.commands[0].event if self.commands else ""


class LogPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some entries of the commit log.

    Parameters:
        entries: at most as many as asked for.
        next: what to pass as `after` to get the entries that follow; None when there are no more.
    """

    entries: tuple[LogEntry, ...]
    next: str | None


class Version(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    """A model as one transaction left it.

    Parameters:
        sequence, time, actor, on_behalf_of: of the transaction.
        events: the names of those that were about this model.
        version: counted from 1; 0 where that is not known any more, and for a deletion.
        model: as it was then and as the reader may see it; None when it was deleted or is erased.
        deleted: whether the transaction deleted it.
        erased: whether it is not known any more what the transaction did.
    """

    sequence: int
    time: datetime
    actor: ActorName
    on_behalf_of: ActorName | None
    events: tuple[str, ...]
    version: int
    model: M | None
    deleted: bool
    erased: bool


class LogFilter(TypedDict, total=False):
    """Which entries are wanted: those that fit everything given.

    Parameters:
        sequence: only this transaction.
        model: only transactions that touched this one.
        actor: only those of this actor, or on its behalf; an actor, or its kind and id.
        event: only those that hold a command of this event; an event or its name, ``"timer"`` too.
        since, until: only those whose context's time is not before the one and is before the other; aware.
        limit: entries in the page, at most `limits.LOG_PAGE_MAX`; 50 unless given.
        after: the `next` of the page before, which must have been asked for in the same way.
        newest_first: the order; True unless given.
    """

    sequence: int | None
    model: Ref[Any] | Model | None
    actor: Actor | tuple[str, str] | None
    event: CreateEvent[Any, Any] | Event[Any, Any] | str | None
    since: datetime | None
    until: datetime | None
    limit: int
    after: str | None
    newest_first: bool

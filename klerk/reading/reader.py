"""Readers: who may see what, of what is published, consistent while the lock is held."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, Unpack

import msgspec

from klerk import limits
from klerk._dispatch import Args, Call, ask, new_args
from klerk._reading import ReaderBase
from klerk._working import id_or_zero
from klerk.audit.entries import LogFilter, LogPage, Version
from klerk.commands import Context
from klerk.errors import ArgumentError, Denied
from klerk.field_types import FieldType
from klerk.machine import CreateEvent, Event, Machine
from klerk.reading.possibilities import Possibilities, reference_of
from klerk.reading.reading import Reading, Verdict, not_found
from klerk.reading.views import Source
from klerk.values import MASKED, Model, Ref
from klerk.visibility import Visibility

M = TypeVar("M", bound=Model)


class PlainReader(Reading):
    """Reads without authorization, for functions of the application: ``a.read``.

    Parameters:
        source: the working state while a command is processed, the published one in rules about reading.
        possibilities: says what may happen next.
        args: ``args(None)`` gives the args of the transaction at hand; None when there is none.
    """

    def __init__(
        self,
        source: Source,
        possibilities: Possibilities,
        args: Callable[[None], Args[Any, Any]] | None = None,
    ) -> None:
        self._source = source
        self._possibilities = possibilities
        self._args = args

    def get(self, ref: Ref[M]) -> M:
        """Return the model that a reference points to.

        Raises:
            NotFound: there is none.
        """
        model = self._source.model(id_or_zero(ref))
        if model is None:
            raise not_found(ref)
        found: M = model
        return found

    def _open_source(self) -> Source:
        return self._source

    def _args_about(self, model: Model | None) -> Args[Any, Any]:
        if self._args is None:
            raise ArgumentError("what is valid depends on the context, and this reader has none")
        a = self._args(None)
        return new_args(a.context, a.now, self, model)

    def _admit(self, model: M) -> M | None:
        return model

    def _verdict(self, model_class: type[Model]) -> Verdict:
        return True

    def possible_events(
        self, model: M | Ref[M], context: Context, *, visibility: Visibility = Visibility.EXTERNAL
    ) -> tuple[Event[M, ...], ...]:
        """Return what may happen to a model on behalf of a context's actor; see `Reader.possible_events`."""
        found = self.get(reference_of(model))
        return self._possibilities.events(self, context, found, visibility)

    def possible_creations(
        self, what: type[M] | Machine[M], context: Context, *, visibility: Visibility = Visibility.EXTERNAL
    ) -> tuple[CreateEvent[M, ...], ...]:
        """Return what a context's actor may create; see `Reader.possible_creations`."""
        return self._possibilities.creations(self, context, what, visibility)


class FieldAccess(msgspec.Struct, frozen=True):
    """The rules about reading one field."""

    name: str
    allow: tuple[Call, ...]
    deny: tuple[Call, ...]


class ClassAccess(msgspec.Struct, frozen=True):
    """The rules about reading the models of one class and their fields."""

    allow: tuple[Call, ...]
    deny: tuple[Call, ...]
    fields: tuple[FieldAccess, ...]
    types: dict[str, FieldType]


class CommitLog(Protocol):
    """What a reader asks about the commit log."""

    @property
    def newest(self) -> int: ...
    def log(self, reader: "AuthorizedReading", which: LogFilter) -> LogPage: ...
    def versions(
        self, reader: "AuthorizedReading", ref: Any, limit: int, after: int
    ) -> tuple[Version[Any], ...]: ...
    def version(self, reader: "AuthorizedReading", ref: Any, sequence: int) -> Any: ...


class Sight:
    """What decides who sees what of one moment.

    Parameters:
        access: the rules by model class.
        source: what is read.
        table: of the models that the source holds, when a look into it is enough.
        resolve: gives a context its time, and says whether rules are not asked about its actor.
        possibilities: says what may happen next.

    Attributes:
        commit_log: what was done until now.
    """

    commit_log: CommitLog

    def __init__(
        self,
        access: dict[type[Model], ClassAccess],
        source: Source,
        table: Any,
        resolve: Callable[[Context], tuple[Context, bool]],
        possibilities: Possibilities,
    ) -> None:
        self.access = access
        self.source = source
        self.table = table
        self.plain = PlainReader(source, possibilities)
        self._resolve = resolve
        self._possibilities = possibilities

    def of(self, source: Source) -> "Sight":
        """Return what decides about another moment."""
        sight = Sight(self.access, source, None, self._resolve, self._possibilities)
        sight.commit_log = self.commit_log
        return sight

    def begin(self, context: Context) -> tuple[Context, dict[type[Model], Verdict]]:
        """Return a reader's context with its time, and what may be read from the start: all by the system."""
        context, trusted = self._resolve(context)
        return context, dict.fromkeys(self.access, True) if trusted else {}

    def hidden(self, context: Context, model: Model) -> tuple[tuple[str, ...] | None, bool]:
        """Ask the rules what of a model is hidden from a context's actor.

        Returns:
            The names of the hidden fields, or None when the model may not be read at all; and whether the
            answer is the same for every model of its class.
        """
        rules = self.access[type(model)]
        a = new_args(context, context.now, self.plain, model)
        permitted, looked, _ = ask(rules.allow, a)
        if permitted:
            denied, looked_again, _ = ask(rules.deny, a)
            permitted, looked = not denied, looked or looked_again
        if not permitted:
            return None, not looked
        names: list[str] = []
        known: dict[tuple[tuple[Call, ...], tuple[Call, ...]], bool] = {}
        for field in rules.fields:
            visible = known.get((field.allow, field.deny))
            if visible is None:
                visible, looked_here, about_field = ask(field.allow, a, field.name)
                if visible:
                    denied, looked_again, about_field_again = ask(field.deny, a, field.name)
                    visible = not denied
                    looked_here, about_field = looked_here or looked_again, about_field or about_field_again
                looked = looked or looked_here
                if not about_field:
                    known[field.allow, field.deny] = visible
            if not visible:
                names.append(field.name)
        return tuple(names), not looked


def masked(model: M, names: tuple[str, ...]) -> M:
    """Return a copy of a model in which some fields show nothing; the model itself is never touched."""
    return msgspec.structs.replace(model, **dict.fromkeys(names, MASKED)) if names else model


class AuthorizedReading(Reading):
    """Reading on behalf of an actor: what the rules do not permit is refused, hidden fields are masked."""

    __slots__ = ()

    @property
    def context(self) -> Context:
        """On whose behalf, and when."""
        raise NotImplementedError

    @property
    def sight(self) -> Sight:
        """What decides who sees what."""
        raise NotImplementedError

    @property
    def sequence(self) -> int:
        """Of the newest transaction that is seen."""
        raise NotImplementedError

    def verdict(self, model_class: type[Model]) -> Verdict | None:
        """Return what holds for every model of a class; None when it has to be asked for each."""
        raise NotImplementedError

    def allow(self, model_class: type[Model], verdict: Verdict) -> None:
        """Note what holds for every model of a class, as long as this moment is read."""
        raise NotImplementedError

    def show(self, model: M) -> M:
        """Return a model as the actor may see it.

        Raises:
            Denied: not at all.
        """
        verdict = self.verdict(type(model))
        if verdict is None:
            names, for_all = self.sight.hidden(self.context, model)
            verdict = False if names is None else (names or True)
            if for_all:
                self.allow(type(model), verdict)
        if verdict is True:
            return model
        if verdict is False:
            raise Denied(f"{self.context.actor} may not read {type(model).__name__}")
        return masked(model, verdict)

    def _args_about(self, model: Model | None) -> Args[Any, Any]:
        return new_args(self.context, self.context.now, self.sight.plain, model)

    def _admit(self, model: M) -> M | None:
        return self.show(model)

    def _denied(self, what: str) -> Denied:
        return Denied(f"{self.context.actor} may not read {what}")

    def _verdict(self, model_class: type[Model]) -> Verdict | None:
        return self.verdict(model_class)

    def possible_events(
        self, model: M | Ref[M], *, visibility: Visibility = Visibility.EXTERNAL
    ) -> tuple[Event[M, ...], ...]:
        """Return the events that may happen to a model, in the order of their declaration.

        The model's state, the context, authorization and every rule are considered that can be decided
        without parameters; handling a command asks again, with them.

        Parameters:
            model: or a reference to it; what counts is the version that this reader sees.
            visibility: only events that are offered to the outside, unless others are asked for.

        Raises:
            NotFound: there is no such model.
            Denied: it may not be read.
        """
        reference: Ref[M] = reference_of(model)
        if self.find(reference) is None:
            raise not_found(reference)
        return self.sight.plain.possible_events(reference, self.context, visibility=visibility)

    def possible_creations(
        self, what: type[M] | Machine[M], *, visibility: Visibility = Visibility.EXTERNAL
    ) -> tuple[CreateEvent[M, ...], ...]:
        """Return the create events of a class that the actor may cause, as `possible_events` does.

        Parameters:
            what: a model class, or its machine.
            visibility: as for `possible_events`.
        """
        self._open_source()
        return self.sight.plain.possible_creations(what, self.context, visibility=visibility)

    def log(self, **which: Unpack[LogFilter]) -> LogPage:
        """Return a page of the commit log, as of this reader's moment.

        The cost is that of the page, and of the rarest of what was asked for. A reader reads the store while
        it holds the lock; `Klerk.log` and a snapshot's hold up nobody.

        Parameters:
            which: sequence, model, actor, event, since, until, limit, after, newest_first; see `LogFilter`.

        Returns:
            The entries. Parameters that the actor could not see as fields show `klerk.MASKED`.

        Raises:
            Denied: the actor may not read the commit log.
            ArgumentError: something in the filter cannot be meant, or the cursor is none of this search.
        """
        return self.sight.commit_log.log(self, which)

    def history(
        self, ref: Ref[M], *, limit: int = limits.LOG_PAGE_MAX, after: int = 0
    ) -> tuple[Version[M], ...]:
        """Return the versions of a model, oldest first, also of one that was deleted.

        Parameters:
            limit: versions at most.
            after: the sequence of the last version of the page before.

        Raises:
            Denied: the actor may not read the commit log, or the model.
            NotFound: there never was such a model.
        """
        return self.sight.commit_log.versions(self, ref, limit, after)

    def as_of(self, ref: Ref[M], sequence: int) -> M:
        """Return a model as it was after a transaction.

        Raises:
            Denied: the actor may not read the commit log, or the model.
            NotFound: it did not exist then.
            Erased: it is not known any more.
            ArgumentError: there is no such transaction.
        """
        found: M = self.sight.commit_log.version(self, ref, sequence)
        return found

    @property
    def readable(self) -> "Readable":
        """The same reads, which leave out what may not be read instead of raising `Denied`."""
        return Readable(self)


class Readable(Reading):
    """Reads of another reader's that leave out what may not be read: ``r.readable.list(view)``."""

    def __init__(self, reader: AuthorizedReading) -> None:
        self._reader = reader

    def get(self, ref: Ref[M]) -> M:
        """Return the model that a reference points to.

        Raises:
            NotFound: there is none that may be read.
        """
        found: M | None = self.find(ref)
        if found is None:
            raise not_found(ref)
        return found

    def _open_source(self) -> Source:
        return self._reader._open_source()

    def _args_about(self, model: Model | None) -> Args[Any, Any]:
        return self._reader._args_about(model)

    def _admit(self, model: M) -> M | None:
        try:
            return self._reader.show(model)
        except Denied:
            return None

    def _verdict(self, model_class: type[Model]) -> Verdict | None:
        return self._reader.verdict(model_class)


class Reader(AuthorizedReading, ReaderBase):
    """Reads several things at one moment, on behalf of a context's actor: ``with k.read(context) as r``.

    Models that it returns are immutable and stay valid afterwards. Fields that the actor may not read show
    `klerk.MASKED`; what depends on them finds nothing, and sorting by them is `Denied`. Use `readable` to
    leave out what may not be read instead of an error.
    """

    __slots__ = ()

    context = ReaderBase.context
    sight = ReaderBase.sight
    verdict = ReaderBase.verdict
    allow = ReaderBase.allow

    def _open_source(self) -> Source:
        self.require_held()
        source: Source = self.sight.source
        return source

    def _shown(self, ids: Iterable[int]) -> list[Any]:
        return self.models(ids)

    @property
    def sequence(self) -> int:
        """Of the newest transaction that it shows."""
        self.require_held()
        return self.sight.commit_log.newest

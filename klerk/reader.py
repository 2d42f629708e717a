"""Authorized reads: what an actor may see of the published state, consistent while the lock is held."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, Unpack, overload

import msgspec

from klerk import limits
from klerk._dispatch import Call, ask, new_args
from klerk._reading import ReaderBase
from klerk._table import ModelTable
from klerk._working import id_or_zero
from klerk.commands import Context
from klerk.declared import Index, View
from klerk.errors import ArgumentError, Denied, NotFound
from klerk.field_types import FieldType
from klerk.log_entries import LogFilter, LogPage, Version
from klerk.values import MASKED, Model, Ref
from klerk.views import META_COLUMNS, Columns, Source, Views, column, meta_column

M = TypeVar("M", bound=Model)
Verdict = bool | tuple[str, ...]
"""Whether a class's models may be read, or the names of the fields that are hidden."""


class PlainReader:
    """Reads without authorization, for functions of the application: ``a.read``.

    Parameters:
        source: the working state while a command is processed, the published one in rules about reading.
        views: resolves views.
    """

    def __init__(self, source: Source, views: Views) -> None:
        self._source = source
        self._views = views

    def get(self, ref: Ref[M]) -> M:
        """Return the model that a reference points to.

        Raises:
            NotFound: there is none.
        """
        model = self._source.model(id_or_zero(ref))
        if model is None:
            raise NotFound(f"there is no model {ref!r}")
        found: M = model
        return found

    @overload
    def find(self, what: Ref[M]) -> M | None: ...
    @overload
    def find(self, what: Index[M], key: Any) -> M | None: ...
    def find(self, what: Any, key: Any = None) -> Any:
        """Return the model behind a reference, or the first one with a key in an index; or None."""
        if isinstance(what, Index):
            return self.first(what(key))
        return self._source.model(id_or_zero(what))

    def list(self, view: View[M]) -> Sequence[M]:
        """Return the models in a view, in the order of their creation."""
        models = [self._source.model(id) for id in self._source.ids(view)]
        return [model for model in models if model is not None]

    def first(self, view: View[M]) -> M | None:
        """Return the oldest model in a view, or None."""
        for id in self._source.ids(view):
            found: M = self._source.model(id)
            return found
        return None

    def count(self, view: View[Any]) -> int:
        """Return how many models are in a view."""
        ids: Any = self._source.ids(view)
        return len(ids) if hasattr(ids, "__len__") else sum(1 for _ in ids)

    def exists(self, view: View[Any]) -> bool:
        """Return whether a view has any models."""
        return any(True for _ in self._source.ids(view))


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

    def log(self, reader: "Reader", which: LogFilter) -> LogPage: ...
    def versions(self, reader: "Reader", ref: Any, limit: int, after: int) -> tuple[Version[Any], ...]: ...
    def version(self, reader: "Reader", ref: Any, sequence: int) -> Any: ...


class Sight:
    """What decides who sees what in one open store.

    Parameters:
        access: the rules by model class.
        plain: reads the published state, for the rules.
        table, views: what is read.
        resolve: gives a context its time, and says whether rules are not asked about its actor.

    Attributes:
        commit_log: what was done until now.
    """

    commit_log: CommitLog

    def __init__(
        self,
        access: dict[type[Model], ClassAccess],
        plain: PlainReader,
        table: ModelTable,
        views: Views,
        resolve: Callable[[Context], tuple[Context, bool]],
    ) -> None:
        self.access = access
        self.plain = plain
        self.table = table
        self.views = views
        self._resolve = resolve

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


class Reader(ReaderBase):
    """Reads several things at one moment, on behalf of a context's actor: ``with k.read(context) as r``.

    Models that it returns are immutable and stay valid afterwards. Fields that the actor may not read show
    `klerk.MASKED`.
    """

    __slots__ = ()

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

    @overload
    def find(self, what: Ref[M]) -> M | None: ...
    @overload
    def find(self, what: Index[M], key: Any) -> M | None: ...
    def find(self, what: Any, key: Any = None) -> Any:
        """Return the model behind a reference, or the first one with a key in an index; or None.

        A model is not found by a key that the actor may not read.

        Raises:
            Denied: the model may not be read.
        """
        if isinstance(what, Index):
            return self.first(what(key))
        self.require_held()
        model = self.table.get(id_or_zero(what))
        return None if model is None else self.show(model)

    def list(self, view: View[M]) -> Sequence[M]:
        """Return the models in a view, in the order of their creation.

        Raises:
            Denied: one of them may not be read.
        """
        models = self.models(self.sight.views.published(view))
        return [model for model in models if view.contains(model)] if view.by_key else models

    def first(self, view: View[M]) -> M | None:
        """Return the oldest model in a view, or None.

        Raises:
            Denied: it may not be read.
        """
        self.require_held()
        ids: Iterable[Any] = self.sight.views.published(view)
        for id in ids:
            model: M = self.get(id)
            if not view.by_key or view.contains(model):
                return model
        return None

    def count(self, view: View[Any]) -> int:
        """Return how many models are in a view.

        Raises:
            Denied: one of them may not be read.
        """
        self.require_held()
        ids = self.sight.views.published(view)
        if not view.by_key and self.verdict(view.machine.model_class):
            return len(ids)
        return len(self.list(view))

    def exists(self, view: View[Any]) -> bool:
        """Return whether a view has any models that the actor may read.

        Raises:
            Denied: the first one may not be read.
        """
        return self.first(view) is not None

    def columns(self, view: View[Any], *names: str) -> Columns:
        """Return numeric and time fields of a view's models as NumPy arrays, one row for each model.

        Parameters:
            names: of fields, or of `id`, `version`, `created_at`, `updated_at`, `entered_at`.

        Returns:
            The arrays, in that order and by name. Numbers are int64, float64 or bool; None in them is NaN, in
            float64. Times are ``datetime64[us]`` in UTC with NaT, dates ``datetime64[D]``, references int64.

        Raises:
            Denied: a model or one of the fields may not be read.
            ArgumentError: there is no such field, or it is neither a number nor a time.
        """
        model_class = self.sight.views.plan(view).model_class
        types = self.sight.access[model_class].types
        for name in names:
            if name not in types and name not in META_COLUMNS:
                raise ArgumentError(
                    f"{model_class.__name__} has no field '{name}'",
                    hint=f"It has: {', '.join((*types, *META_COLUMNS))}.",
                )
        models = list(self.list(view))
        for name in names:
            if name in types and any(getattr(model, name) is MASKED for model in models):
                raise Denied(f"{self.context.actor} may not read {model_class.__name__}.{name}")
        arrays: Iterable[Any] = [
            column(models, name, types[name]) if name in types else meta_column(models, name)
            for name in names
        ]
        return Columns(names, arrays)

    def log(self, **which: Unpack[LogFilter]) -> LogPage:
        """Return a page of the commit log, as of this reader's moment.

        The cost is that of the page, and of the rarest of what was asked for. The store is read while the
        lock is held: `Klerk.log` holds up nobody.

        Parameters:
            which: model, actor, event, since, until, limit, after, newest_first; see `LogFilter`.

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

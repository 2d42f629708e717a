"""What can be read at one moment, the same for every kind of reader: `Reading`."""

import abc
import builtins
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar, overload

from klerk import limits
from klerk._dispatch import Args
from klerk._order import id_in
from klerk._working import id_or_zero
from klerk.choices import valid_view
from klerk.errors import ArgumentError, Denied, NotFound
from klerk.parameters import CheckedEvent
from klerk.reading.columns import META_COLUMNS, Columns, column, meta_column
from klerk.reading.cursors import entry_at
from klerk.reading.paging import Page, Pager
from klerk.reading.veils import Veiled, is_found_in
from klerk.reading.views import Source
from klerk.selections import Index, KeyView, OrderedView, View, is_order
from klerk.values import MASKED, Model, Ref

M = TypeVar("M", bound=Model)
Verdict = bool | tuple[str, ...]
"""Whether a class's models may be read, or the names of the fields that are hidden."""


class Reading(abc.ABC):
    """Reads models at one moment, as whoever reads may see them."""

    __slots__ = ()

    @abc.abstractmethod
    def _open_source(self) -> Source:
        """Return where models come from, or raise when nothing may be read any more."""

    @abc.abstractmethod
    def _admit(self, model: M) -> M | None:
        """Return a model as it may be seen; None when it is to be left out; or raise."""

    @abc.abstractmethod
    def _verdict(self, model_class: type[Model]) -> Verdict | None:
        """Return what holds for every model of a class; None when it has to be asked for each."""

    @abc.abstractmethod
    def _args_about(self, model: Model | None) -> Args[Any, Any]:
        """Return what a function gets that says which models may be chosen."""

    def _denied(self, what: str) -> Denied:
        """Return the error for reading what may not be read."""
        return Denied(f"{what} may not be read")

    def _admitted(self, models: Iterable[M | None]) -> "builtins.list[M]":
        admit = self._admit
        return [shown for model in models if model is not None and (shown := admit(model)) is not None]

    def _shown(self, ids: Iterable[int]) -> "builtins.list[Any]":
        return self._admitted(map(self._open_source().model, ids))

    # --- single models ----------------------------------------------------------------------------

    @overload
    def find(self, what: Ref[M]) -> M | None: ...
    @overload
    def find(self, what: Index[M], key: Any) -> M | None: ...
    def find(self, what: Any, key: Any = None) -> Any:
        """Return the model behind a reference, or the first one with a key in an index; or None.

        A model is not found by a key that may not be read.
        """
        if isinstance(what, Index):
            return self.first(what(key))
        model = self._open_source().model(id_or_zero(what))
        return None if model is None else self._admit(model)

    def first(self, view: View[M]) -> M | None:
        """Return the first model in a view, or None."""
        source = self._open_source()
        for model in _in_order(source, view):
            for shown in self._admitted((model,)):
                if self._belongs(view, shown, model):
                    return shown
        return None

    # --- views ------------------------------------------------------------------------------------

    def list(self, view: View[M]) -> Sequence[M]:
        """Return the models in a view, in its order: that of their creation unless it has another."""
        source = self._open_source()
        shown: builtins.list[M] = self._shown(source.ids(view))
        if not view.by_fields or self._verdict(view.machine.model_class) is True:
            return shown
        return [model for model in shown if self._belongs(view, model, source.model(model.meta.id))]

    def count(self, view: View[Any]) -> int:
        """Return how many models are in a view."""
        source = self._open_source()
        count = source.count(view)
        verdict = self._verdict(view.machine.model_class)
        if count and verdict is None:
            # Asked about the first one, the rules mostly say what holds for all.
            self._admitted(islice(_in_order(source, view), 1))
            verdict = self._verdict(view.machine.model_class)
        if verdict is True or (verdict and not view.by_fields):
            return count
        return len(self.list(view))

    def exists(self, view: View[Any]) -> bool:
        """Return whether a view has any models that may be read."""
        return self.first(view) is not None

    def _belongs(self, view: View[M], shown: M, model: M) -> bool:
        """Return whether a model is in a view as it is shown: by what is hidden, nothing is found.

        Raises:
            Denied: the view's order follows a field that is hidden, and its place would tell about that.
        """
        if shown is model or not view.by_fields:
            return True
        if not is_found_in(view, shown):
            return False
        if isinstance(view, OrderedView) and not self._in_place(view, shown):
            raise self._denied(f"what {view!r} is sorted by")
        return True

    def _in_place(self, view: OrderedView[M], shown: M) -> bool:
        key = self._open_source().views.key(view)
        try:
            key(Veiled(shown))
        except Exception:
            return False
        return True

    # --- pages ------------------------------------------------------------------------------------

    def query(
        self,
        view: View[M],
        *,
        where: Callable[[M], bool] | None = None,
        sort: str | Sequence[str] | Callable[[M], Any] | None = None,
        descending: bool = False,
        limit: int = limits.PAGE_LENGTH,
        after: str | None = None,
        before: str | None = None,
    ) -> Page[M]:
        """Return a page of a view. Pages stay in place while models come, go and change.

        Of a view that is declared, and of a state or machine sorted by fields, reading a page costs the page.
        Anything else is sorted or filtered when it is asked for, and so is, inside of a transaction, whatever
        is sorted by fields: declare ``view.where(...)`` or ``view.order(...)`` for what is asked often.

        Parameters:
            where: leaves out models, as they are shown, for which it is not true; nothing is found by a field
                that is hidden.
            sort: the name of a field with a ``-`` in front to turn it round, several names, or a function, as
                in `View.order`; None for the view's own order.
            descending: turns the order of `sort` round.
            limit: models on the page, 1 to `limits.PAGE_LENGTH_MAX`.
            after: the cursor of a page before; the first page when neither is given.
            before: the cursor of a page that follows.

        Raises:
            ArgumentError: the cursor is not one of this view and order, or a field has no order.
            Denied: a model may not be read, or a field that is sorted by.
        """
        source = self._open_source()
        _require_page(limit, after, before)
        if where is not None and not callable(where):
            raise ArgumentError(
                f"where is {where!r}, not a function", hint="As in where=lambda m: m.price > 5."
            )
        if descending and sort is None:
            raise ArgumentError(
                "descending=True turns `sort` round, which is not given",
                hint="Name what to sort by, as in sort='-created_at', or declare an order.",
            )
        ordered = view if sort is None else _sorted_view(view, sort, descending=descending)
        walk = source.walk(ordered)
        secret = source.views.secret
        start = None if after is None else entry_at(secret, ordered, after)
        end = None if before is None else entry_at(secret, ordered, before)
        sees = partial(self._seen, ordered, where)
        pager = Pager(ordered, walk, source.model, sees, secret)
        page = pager.before(end, limit) if end is not None else pager.after(start, limit)
        if not page and ordered.by_fields:
            # Where an order ends that is hidden, is hidden as well.
            self.first(ordered)
        return page

    def _seen(self, view: View[M], where: Callable[[M], bool] | None, model: M) -> M | None:
        """Return a model as it is shown in a view; None when it is left out."""
        for shown in self._admitted((model,)):
            if self._belongs(view, shown, model) and (where is None or _holds(where, shown, model)):
                return shown
        return None

    # --- references -------------------------------------------------------------------------------

    def related(self, ref: Ref[Any], field: Any = None) -> Sequence[Any]:
        """Return the models that refer to a model, in the order of their creation.

        Parameters:
            field: by which field, as in ``r.related(ada, Loan.member)``; None for any.

        Raises:
            ArgumentError: there is no such field.
        """
        source = self._open_source()
        id = id_or_zero(ref)
        found: dict[int, Any] = {}
        for each in source.views.references(field):
            for shown in self._admitted(map(source.model, source.referrers(id, each))):
                if self._tells(shown, each.check.name):
                    found[shown.meta.id] = shown
        return [found[id] for id in sorted(found)]

    def _tells(self, shown: Model, name: str) -> bool:
        """Return whether a model shows by which field it refers; what is hidden finds nothing."""
        return getattr(shown, name) is not MASKED

    def valid_references(
        self, event: CheckedEvent[Any], name: str, model: Model | None = None
    ) -> Sequence[Any]:
        """Return the models that may be chosen for a parameter of an event; see `Event.valid`.

        Parameters:
            name: of a parameter that is a reference.
            model: that the event would happen to, for choices that depend on it.

        Raises:
            ArgumentError: there is no such parameter.
        """
        self._open_source()
        return self.list(valid_view(event, name, partial(self._args_about, model)))

    # --- columns ----------------------------------------------------------------------------------

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
        views = self._open_source().views
        model_class, types = views.plan(view).model_class, views.fields(view)
        for name in names:
            if name not in types and name not in META_COLUMNS:
                raise ArgumentError(
                    f"{model_class.__name__} has no field '{name}'",
                    hint=f"It has: {', '.join((*types, *META_COLUMNS))}.",
                )
        models = list(self.list(view))
        for name in names:
            if name in types and any(getattr(model, name) is MASKED for model in models):
                raise self._denied(f"{model_class.__name__}.{name}")
        arrays: Iterable[Any] = [
            column(models, name, types[name]) if name in types else meta_column(models, name)
            for name in names
        ]
        return Columns(names, arrays)


def not_found(ref: object) -> NotFound:
    """Return the error for a reference that leads nowhere."""
    return NotFound(f"there is no model {ref!r}")


def _in_order(source: Source, view: View[M]) -> Iterator[M]:
    """Yield the models of a view one by one, at the cost of those that are taken."""
    if isinstance(view, KeyView):
        # Few, and mostly one.
        yield from (model for model in map(source.model, source.ids(view)) if model is not None)
        return
    walk = source.walk(view)
    entry, limit = b"", 1
    while part := walk.after(entry, limit):
        for each in part:
            model = source.model(id_in(each))
            if model is not None:
                yield model
        entry, limit = part[-1], min(limit * 8, limits.PAGE_LENGTH_MAX)


def _require_page(limit: Any, after: str | None, before: str | None) -> None:
    if type(limit) is not int or not 1 <= limit <= limits.PAGE_LENGTH_MAX:
        raise ArgumentError(
            f"limit must be 1 to {limits.PAGE_LENGTH_MAX}, is {limit!r}",
            hint="For all models of a view, use list(view).",
        )
    if after is not None and before is not None:
        raise ArgumentError(
            "a page comes after a cursor or before one, not both",
            hint="Pass after=page.next to go on, or before=page.previous to go back.",
        )


def _sorted_view(view: View[M], sort: Any, *, descending: bool) -> OrderedView[M]:
    keys = tuple(sort) if isinstance(sort, (list, tuple)) else (sort,)
    if not is_order(keys):
        raise ArgumentError(
            f"{sort!r} is nothing to sort by",
            hint="Name fields, as in sort='-due' or sort=('due', 'title'), or give one function.",
        )
    ordered = OrderedView(view.base if isinstance(view, OrderedView) else view, keys, descending=descending)
    ordered.is_kept = False
    return ordered


def _holds(where: Callable[[Any], bool], shown: M, model: M) -> bool:
    if shown is model:
        return bool(where(shown))
    try:
        return bool(where(Veiled(shown)))
    except Exception:
        # What is hidden answers no question; the model is not found by it.
        return False

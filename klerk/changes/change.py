"""What subscribers are told, and what a subscription is about."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from klerk._dispatch import ClassPlan, described
from klerk._working import id_or_zero
from klerk.errors import ArgumentError, FunctionFailed, KlerkError
from klerk.machine import Machine
from klerk.reading.reader import Sight
from klerk.reading.veils import is_found_in
from klerk.selections import View
from klerk.values import Model, Ref

M = TypeVar("M", bound=Model)

Single: TypeAlias = View[M] | type[M] | Ref[M]
"""A view, which machines and states are, too; a model class; or a reference to one model."""

What: TypeAlias = Single[Any] | Sequence[Single[Any]] | None


class ChangeKind(StrEnum):
    """What a change means to its subscriber."""

    CREATED = "created"
    UPDATED = "updated"
    TRANSITIONED = "transitioned"
    DELETED = "deleted"
    ENTERED = "entered"
    LEFT = "left"
    ERASED = "erased"


class Change(msgspec.Struct, Generic[M], frozen=True, kw_only=True):
    """What one transaction did to one model, as far as the subscriber may know.

    Who did it, and with which event, stands in the commit log under the sequence.

    Parameters:
        sequence: of the transaction; all its changes come one after the other, deleted models last.
        time: of the transaction's context, in UTC.
        last: whether this is the transaction's last change for this subscriber.
        kind: created, updated, transitioned (to another state) or deleted; entered: the model existed, and
            belongs from now on to what is subscribed to, or may be read from now on; left: it does not belong
            to it any more, or may no longer be read; erased: this version was erased from the log.
        ref: of the model.
        model: as the transaction left it; of an erased version, as it is now. None when it was deleted or may
            not be read. Fields that may not be read show `klerk.MASKED`.
        before: as the transaction found it, likewise; None when it was created, was erased, or may not be
            read.
    """

    sequence: int
    time: datetime
    last: bool
    kind: ChangeKind
    ref: Ref[M]
    model: M | None
    before: M | None

    @property
    def present(self) -> bool:
        """Whether the model belongs from now on to what is subscribed to: show `model`, or else remove it."""
        return self.kind is not ChangeKind.DELETED and self.kind is not ChangeKind.LEFT


class Delta(msgspec.Struct, frozen=True):
    """The changed models of one transaction, before anybody is asked who may see them.

    Parameters:
        models: (before, after) of each; a before of None may be unknown when the after is no first version.
        lost: the ids of models of which neither is known, because they were erased from the log.
    """

    sequence: int
    time_us: int
    models: Sequence[tuple[Any, Any]]
    lost: Sequence[int] = ()


class Watched:
    """What a subscription is about.

    Parameters:
        what: None for everything, or a view, model class or reference, or a list of these.
        sight: knows the views and classes of the app.

    Attributes:
        everything: all there is.
        ids: of the models that are subscribed to one by one.
        classes: the types of versions that may belong to the rest, with that of None, a deleted one; empty
            when there is no rest.

    Raises:
        ArgumentError: it is none of these, or of another app.
    """

    def __init__(self, what: Any, sight: Sight) -> None:
        self.everything = what is None
        self._sight = sight
        self._views: dict[type[Model], list[View[Any]]] = {}
        self._whole: set[type[Model]] = set()
        ids: set[int] = set()
        parts = what if isinstance(what, list | tuple | set | frozenset) else () if what is None else (what,)
        if not parts and not self.everything:
            raise ArgumentError("there is nothing to subscribe to", hint="Leave it out for all changes.")
        for part in parts:
            if isinstance(part, int):
                ids.add(_required_id(part))
            else:
                self._add(part)
        self.ids = frozenset(ids)
        classes: set[type] = {*self._whole, *self._views}
        self.classes = frozenset({*classes, type(None)} if classes else ())

    def _add(self, part: Any) -> None:
        if isinstance(part, type) and part in self._sight.access:
            self._whole.add(part)
        elif isinstance(part, View):
            model_class = self._sight.source.views.plan(part).model_class
            if isinstance(part, Machine):
                self._whole.add(model_class)
            else:
                self._views.setdefault(model_class, []).append(part)
        else:
            raise ArgumentError(
                f"there are no changes of {part!r} to subscribe to",
                hint="Use a view, a machine, a state, a model class or a reference of this app, or a list.",
            )

    def concerns(self, id: int, plan: ClassPlan) -> bool:
        """Return whether versions of a model can belong to this."""
        return self.everything or id in self.ids or plan.model_class in self.classes

    def may_concern(self, id: int) -> bool:
        """Return whether versions of a model can belong to this, when its class is not known."""
        return self.everything or id in self.ids or bool(self.classes)

    def may_hold(self, model: Any) -> bool:
        """Return whether a version belongs to this, should its fields be visible; None does not."""
        if model is None:
            return False
        if self.everything or type(model) in self._whole or model._meta.id in self.ids:
            return True
        views = self._views.get(type(model))
        return views is not None and any(_contains(view, model) for view in views)

    def holds(self, model: Any, shown: Any) -> bool:
        """Return whether a version belongs to this for an actor.

        Parameters:
            shown: the version as the actor may see it; None: not at all. Nothing is found by a masked field.
        """
        if shown is None:
            return False
        if self.everything or type(model) in self._whole or model._meta.id in self.ids:
            return True
        return any(
            _contains(view, model) and (shown is model or not view.by_fields or is_found_in(view, shown))
            for view in self._views.get(type(model), ())
        )


def _required_id(part: int) -> int:
    id = id_or_zero(part)
    if not id:
        raise ArgumentError(f"{part!r} is no reference to a model")
    return id


def _contains(view: View[Any], model: Any) -> bool:
    try:
        return view.contains(model)
    except KlerkError:
        raise
    except Exception as error:
        what = described(type(view).contains)
        raise FunctionFailed(f"{what} raised {type(error).__name__}: {error}") from error

"""What one subscriber is told: the rules of reading, asked about two versions of each changed model."""

from collections.abc import Iterable
from typing import Any

import msgspec

from klerk._dispatch import moment_of
from klerk._table import IdSet
from klerk.changes.change import Change, ChangeKind, Delta, Watched
from klerk.errors import Denied, NotFound
from klerk.reading.reader import Reader, Sight

Candidate = tuple[int, Any, Any]
"""The id of a model, and its versions before and after; two of None when neither is known any more."""


class Told(msgspec.Struct, frozen=True):
    """What a subscriber is told about one model; see `Change`."""

    kind: ChangeKind
    ref: Any
    model: Any
    before: Any

    def as_change(self, delta: Delta, *, last: bool) -> Change[Any]:
        """Return it as one of the changes of a transaction."""
        time: Any = moment_of(delta.time_us)
        return Change(
            sequence=delta.sequence,
            time=time,
            last=last,
            kind=self.kind,
            ref=self.ref,
            model=self.model,
            before=self.before,
        )


class Judge:
    """Knows what one subscriber may see, and what it has seen.

    Parameters:
        reader: on the subscriber's behalf; held while `told` is called.
        watched: what the subscription is about.
        sight: knows the models as they are now.
    """

    def __init__(self, reader: Reader, watched: Watched, sight: Sight) -> None:
        self._reader = reader
        self._watched = watched
        self._sight = sight
        # What the subscriber was told of and may still show. A rule can change its mind about a model without
        # that model being changed: what leaves is told also when the rules now hide that it was ever there.
        self._known = IdSet()

    def candidates(self, models: Iterable[tuple[Any, Any]]) -> list[Candidate]:
        """Return those changed models that can concern the subscriber, should it be allowed to read them."""
        found = []
        may_hold, known = self._watched.may_hold, self._known
        for before, after in models:
            if before is after:
                # Stored once more as it was, for the sake of the log.
                continue
            id = (after if before is None else before).meta.id
            if may_hold(after) or may_hold(before) or id in known:
                found.append((id, before, after))
        return found

    def told(self, candidates: list[Candidate]) -> list[Told]:
        """Return what the subscriber is told.

        Raises:
            FunctionFailed: a rule raised; nothing was noted.
        """
        told = []
        for id, before, after in candidates:
            each = self._lost(id) if before is after else self._changed(id, before, after)
            if each is not None:
                told.append(each)
        for each in told:
            if each.kind is ChangeKind.DELETED or each.kind is ChangeKind.LEFT:
                self._known.discard(each.ref)
            else:
                self._known.add(each.ref)
        return told

    def _changed(self, id: int, before: Any, after: Any) -> Told | None:
        seen_before, seen_after = self._seen(before), self._seen(after)
        was = self._watched.holds(before, seen_before)
        is_known = was or id in self._known
        if self._watched.holds(after, seen_after):
            if before is None and after.meta.version == 1:
                kind = ChangeKind.CREATED
            elif not is_known:
                kind = ChangeKind.ENTERED
            elif before is not None and before.meta.state is not after.meta.state:
                kind = ChangeKind.TRANSITIONED
            else:
                kind = ChangeKind.UPDATED
        elif not is_known:
            return None
        else:
            kind = ChangeKind.DELETED if after is None and was else ChangeKind.LEFT
        return Told(kind, id, seen_after, seen_before)

    def _lost(self, id: int) -> Told | None:
        """Say what a model is now of which the versions were erased."""
        model = self._sight.table.get(id)
        seen = self._seen(model)
        if self._watched.holds(model, seen):
            return Told(ChangeKind.ERASED, id, seen, None)
        return Told(ChangeKind.LEFT, id, seen, None) if id in self._known else None

    def _seen(self, model: Any) -> Any:
        """Return a version as the actor may see it; None: not at all."""
        if model is None:
            return None
        try:
            return self._reader.show(model)
        except (Denied, NotFound):
            # A rule about a version of the past may look for what is gone by now: who is not known to be
            # permitted is not.
            return None

"""What to look for in the commit log: filters, checked, and the cursors that go from page to page."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

import msgspec

from klerk import limits
from klerk._dispatch import microseconds
from klerk._facets import HOUR_US
from klerk._image import key_of
from klerk.audit.commit_log import Lookup
from klerk.audit.entries import LogFilter
from klerk.audit.history import History
from klerk.audit.sequences import Sequences, newest_first, oldest_first
from klerk.codec import TransactionHead, encode, number_of
from klerk.commands import Actor
from klerk.errors import ArgumentError
from klerk.machine import CreateEvent, Event
from klerk.opaque import opaque_bytes, opaque_text
from klerk.values import Model

_CHECK_BYTES: Final = 12


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A checked filter.

    Parameters:
        sequence: of the one transaction that is looked for; None for any.
        model: an id; 0 for any.
        actor: kind and id.
        event: a code.
        since_us, until_us: microseconds since 1970, the end excluded.
        newest_first: the order.
        limit: entries wanted.
        after: the cursor.
        newest: the sequence of the newest transaction that may be seen.
    """

    sequence: int | None
    model: int
    actor: tuple[str, str] | None
    event: int | None
    since_us: int | None
    until_us: int | None
    newest_first: bool
    limit: int
    after: str | None
    newest: int

    def sequences(self, history: History, lookup: Lookup) -> Iterator[int]:
        """Yield the sequences of transactions that may fit, none that fits left out.

        Raises:
            ArgumentError: the cursor is none of this search.
        """
        facets: list[Sequences] = []
        if self.model:
            facets.append(history.of_model(self.model))
        if self.actor is not None:
            facets.append(history.of_actor(*self.actor))
        if self.event is not None:
            facets.append(history.of_event(self.event))
        if self.since_us is not None or self.until_us is not None:
            first = None if self.since_us is None else self.since_us // HOUR_US
            last = None if self.until_us is None else (self.until_us - 1) // HOUR_US
            facets.append(history.of_hours(first, last))
        after = None if self.after is None else self._place(self.after, lookup)
        if self.sequence is not None:
            return iter([self.sequence] if after is None and 1 <= self.sequence <= self.newest else [])
        if self.newest_first:
            return newest_first(facets, self.newest if after is None else after - 1)
        return oldest_first(facets, 1 if after is None else after + 1, self.newest)

    def fits(self, head: TransactionHead) -> bool:
        """Return whether a transaction is one of those wanted."""
        return (
            (not self.model or any(id == self.model for _, id, _ in head.targets))
            and (self.actor is None or self.actor in (head.actor[:2], head.behalf))
            and (self.event is None or any(code == self.event for code, _, _ in head.targets))
            and (self.since_us is None or head.time_us >= self.since_us)
            and (self.until_us is None or head.time_us < self.until_us)
        )

    def cursor(self, head: TransactionHead) -> str:
        """Return the cursor that stands behind a transaction."""
        return opaque_text(key_of(head.sequence) + self._check(head))

    def _place(self, cursor: str, lookup: Lookup) -> int:
        """Return the sequence that a cursor stands behind."""
        try:
            decoded = opaque_bytes(cursor)
        except ValueError:
            decoded = b""
        if len(decoded) == 8 + _CHECK_BYTES:
            sequence = number_of(decoded[:8])
            if 1 <= sequence <= self.newest and decoded[8:] == self._check(lookup.head(sequence)):
                return sequence
        raise ArgumentError(
            f"{cursor!r} is no cursor of this log with these filters",
            hint="Pass the `next` of the page before, and ask in the same way as for that page.",
        )

    def _check(self, head: TransactionHead) -> bytes:
        """Return what makes a cursor one of this search in this log; whoever may read both can make it."""
        asked = (
            *(self.sequence, self.model, self.actor, self.event),
            *(self.since_us, self.until_us, self.newest_first),
        )
        return sha256(encode((head.sequence, head.digest, *asked))).digest()[:_CHECK_BYTES]


def search_for(which: LogFilter, event_codes: Mapping[str, int], newest: int) -> Search:
    """Check a filter.

    Parameters:
        event_codes: of all events that the store knows, by name.
        newest: the sequence of the newest transaction that may be seen.

    Raises:
        ArgumentError: something in it cannot be meant.
    """
    given: dict[str, Any] = dict(which)
    unknown = given.keys() - LogFilter.__annotations__.keys()
    if unknown:
        raise ArgumentError(
            f"the log has no filter {min(unknown)!r}", hint=f"It has: {', '.join(LogFilter.__annotations__)}."
        )
    after, order = given.get("after"), given.get("newest_first", True)
    if after is not None and type(after) is not str:
        raise ArgumentError(f"expected the cursor of a page for 'after', got {type(after).__name__}")
    if type(order) is not bool:
        raise ArgumentError(f"expected True or False for 'newest_first', got {type(order).__name__}")
    model, sequence = given.get("model"), given.get("sequence")
    if sequence is not None and type(sequence) is not int:
        raise ArgumentError(f"expected a number for 'sequence', got {type(sequence).__name__}")
    return Search(
        sequence=sequence,
        model=0 if model is None else id_of(model),
        actor=_actor(given.get("actor")),
        event=_event_code(given.get("event"), event_codes),
        since_us=_moment("since", given.get("since")),
        until_us=_moment("until", given.get("until")),
        newest_first=order,
        limit=page_limit(given.get("limit", limits.LOG_PAGE)),
        after=after,
        newest=newest,
    )


def page_limit(limit: Any) -> int:
    """Return how many entries a page may have.

    Raises:
        ArgumentError: it is no number, or out of bounds.
    """
    if type(limit) is not int or not 1 <= limit <= limits.LOG_PAGE_MAX:
        raise ArgumentError(f"limit must be 1 to {limits.LOG_PAGE_MAX}, is {limit!r}")
    return limit


def id_of(model: Any) -> int:
    """Return the id of a reference or model.

    Raises:
        ArgumentError: it is neither.
    """
    id = model.meta.id if isinstance(model, Model) and model._meta is not None else model
    if isinstance(id, bool) or not isinstance(id, int) or not 1 <= id < 2**63:
        raise ArgumentError(f"expected a reference to a model, got {model!r}", hint="Use model.meta.id.")
    return int(id)


def _actor(actor: Any) -> tuple[str, str] | None:
    if actor is None:
        return None
    name = (actor.kind, actor.id) if isinstance(actor, Actor) else actor
    if isinstance(name, tuple) and len(name) == 2 and all(isinstance(each, str) for each in name):
        with suppress(UnicodeEncodeError):
            encode(name)
            return name[0], name[1]
    raise ArgumentError(
        f"expected an actor, got {actor!r}", hint='Use User("ada"), or its kind and id: ("user", "ada").'
    )


def _event_code(event: Any, codes: Mapping[str, int]) -> int | None:
    if event is None:
        return None
    if not isinstance(event, (CreateEvent, Event, str)):
        raise ArgumentError(
            f"expected an event, got {type(event).__name__}", hint='Use the event, or its name: "Loan.lend".'
        )
    if str(event) not in codes:
        raise ArgumentError(f"there is no event {event}", hint=f"There are: {', '.join(codes)}.")
    return codes[str(event)]


def _moment(name: str, moment: Any) -> int | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ArgumentError(
            f"'{name}' is {moment!r}, expected a datetime with a time zone", hint="Use datetime.now(UTC)."
        )
    return microseconds(moment)

"""The commit log as those see it who may: entries by filter, and the versions of one model.

Each question is asked in three steps. It begins with the lock held, where the moment is fixed and permission
is asked; then the store is read, which needs no lock, since nothing that stands in the log by then changes
but by erasure; and in the end, with the lock held again, what was found is shown as the rules say. A reader
does all three under its lock, a snapshot without any.
"""

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

from klerk._dispatch import ask, new_args
from klerk._image import model_of, version_of
from klerk.app import Spec
from klerk.audit.commit_log import Lookup
from klerk.audit.entries import ActorName, LogEntry, LogFilter, LoggedCommand, LogPage, Version, time_of
from klerk.audit.history import History
from klerk.audit.masking import Masking, calls
from klerk.audit.search import Search, id_of, page_limit, search_for
from klerk.audit.sequences import newest_first, oldest_first
from klerk.authorization import ERASURE as ERASURE_RULE
from klerk.authorization import LOG
from klerk.codec import (
    CATALOG_KEY,
    CRON_TICK,
    ERASURE,
    JOB_ACTION,
    JOBS_OF_JOB,
    OWN_EVENTS,
    QUEUE_ACTION,
    RENEWAL,
    EarlierEvent,
    Payload,
    TransactionHead,
    event_name,
    read_catalog,
    read_job,
)
from klerk.commands import System
from klerk.errors import ArgumentError, Denied, Erased, NotFound
from klerk.processing import Program
from klerk.reading.reader import AuthorizedReading, Reader
from klerk.storage.contract import Family, Storage
from klerk.values import MASKED, Ref

R = TypeVar("R")
_Transaction = tuple[TransactionHead, Payload | None]

_OWN_PARAMETERS: Final[Mapping[int, tuple[str, ...]]] = {
    ERASURE: ("until",),
    QUEUE_ACTION: ("action", "queue", "in_force"),
    CRON_TICK: ("job", "tick_us", "stood_for_by"),
    JOBS_OF_JOB: ("jobs",),
}
"""What the log says with Klerk's own events, in order."""


class Question(abc.ABC, Generic[R]):
    """Something that is asked of the commit log, once."""

    @abc.abstractmethod
    def begin(self, reader: AuthorizedReading, newest: int) -> None:
        """Check what was asked, up to the sequence of the newest published transaction."""

    @abc.abstractmethod
    def fetch(self) -> None:
        """Read what is needed from the store; no lock is held."""

    @abc.abstractmethod
    def answer(self, reader: AuthorizedReading) -> R:
        """Return what was found, as the reader may see it."""


class Audit:
    """Answers questions about the commit log of one open store.

    Parameters:
        spec, program: the design, and what it was compiled to.
        history: finds transactions.
        storage: that holds the log.
    """

    def __init__(self, spec: Spec, program: Program, history: History, storage: Storage) -> None:
        self.program = program
        self.history = history
        self.storage = storage
        self.masking = Masking(spec)
        self.catalog = read_catalog(storage.get(Family.META, CATALOG_KEY))
        self._earlier: dict[int, list[EarlierEvent]] = {}
        for each in self.catalog.earlier_events:
            self._earlier.setdefault(each.code, []).append(each)
        codes = {name: code for code, name in enumerate(self.catalog.events)}
        self.event_codes = codes | {name: code for code, name in OWN_EVENTS.items()}
        self._rules = {
            subject: (calls(spec.allow.for_subject(subject)), calls(spec.deny.for_subject(subject)))
            for subject in (LOG, ERASURE_RULE)
        }

    def parameters_at(self, code: int, sequence: int) -> tuple[str, ...]:
        """Return the names that an event's parameters had in a transaction, as far as they are known."""
        for each in self._earlier.get(code, ()):
            if sequence <= each.until:
                return each.parameters
        known = self.catalog.event_parameters
        return known[code] if 0 < code < len(known) else ()

    @property
    def newest(self) -> int:
        """The sequence of the newest published transaction."""
        return self.program.processor.published_sequence

    def log(self, reader: AuthorizedReading, which: LogFilter) -> LogPage:
        """See `Reader.log`."""
        return self.ask(reader, _Entries(self, which))

    def versions(
        self, reader: AuthorizedReading, ref: Any, limit: int, after: int
    ) -> tuple[Version[Any], ...]:
        """See `Reader.history`."""
        return self.ask(reader, _Versions(self, ref, limit, after))

    def version(self, reader: AuthorizedReading, ref: Any, sequence: int) -> Any:
        """See `Reader.as_of`."""
        return self.ask(reader, _VersionAt(self, ref, sequence))

    def log_aside(self, read: Callable[[], Reader], which: LogFilter) -> LogPage:
        """See `Klerk.log`."""
        return self.ask_aside(read, _Entries(self, which))

    def versions_aside(
        self, read: Callable[[], Reader], ref: Any, limit: int, after: int
    ) -> tuple[Version[Any], ...]:
        """See `Klerk.history`."""
        return self.ask_aside(read, _Versions(self, ref, limit, after))

    def version_aside(self, read: Callable[[], Reader], ref: Any, sequence: int) -> Any:
        """See `Klerk.as_of`."""
        return self.ask_aside(read, _VersionAt(self, ref, sequence))

    def ask(self, reader: AuthorizedReading, question: Question[R]) -> R:
        """Answer a question about the moment that is read."""
        self._begin(reader, question)
        question.fetch()
        return question.answer(reader)

    def ask_aside(self, read: Callable[[], Reader], question: Question[R]) -> R:
        """Answer a question without holding the lock while the store is read.

        Parameters:
            read: makes a reader.
        """
        with read() as reader:
            self._begin(reader, question)
        question.fetch()
        with read() as reader:
            return question.answer(reader)

    def _begin(self, reader: AuthorizedReading, question: Question[Any]) -> None:
        newest = reader.sequence
        self.require(reader, LOG, "read the commit log")
        question.begin(reader, newest)

    def require(self, reader: AuthorizedReading, subject: str, what: str) -> None:
        """Ask the rules about a subject.

        Raises:
            Denied: the reader's actor may not do it.
        """
        context = reader.context
        if isinstance(context.actor, System):
            return
        allow, deny = self._rules[subject]
        a = new_args(context, context.now, reader.sight.plain)
        if not ask(allow, a)[0] or ask(deny, a)[0]:
            raise Denied(f"{context.actor} may not {what}")

    def name_of(self, code: int) -> str:
        """Return the name of an event by its code."""
        return event_name(self.catalog, code)

    def model(self, id: int, image: bytes) -> Any:
        """Return a model as it is stored; the one place where the log's images are read."""
        return model_of(self.program.plan_of_code, id, image)


class _Entries(Question[LogPage]):
    """A page of entries."""

    def __init__(self, audit: Audit, which: LogFilter) -> None:
        self._audit = audit
        self._which = which
        self._found: list[_Transaction] = []
        self._next: str | None = None

    def begin(self, reader: AuthorizedReading, newest: int) -> None:
        self._search: Search = search_for(self._which, self._audit.event_codes, newest)

    def fetch(self) -> None:
        search, found = self._search, self._found
        lookup = Lookup(self._audit.storage)
        for sequence in search.sequences(self._audit.history, lookup):
            head = lookup.head(sequence)
            if not search.fits(head):
                continue
            if len(found) == search.limit:
                self._next = search.cursor(found[-1][0])
                break
            found.append((head, lookup.payload(sequence)))

    def answer(self, reader: AuthorizedReading) -> LogPage:
        return LogPage(
            entries=tuple(self._entry(reader, head, payload) for head, payload in self._found),
            next=self._next,
        )

    def _entry(self, reader: AuthorizedReading, head: TransactionHead, payload: Payload | None) -> LogEntry:
        renewed = {id for code, id, _ in head.targets if code == RENEWAL}
        images = [] if payload is None else [each for each in payload.images if each[0] not in renewed]
        jobs = () if payload is None else payload.jobs
        return LogEntry(
            sequence=head.sequence,
            time=time_of(head.time_us),
            actor=ActorName(*head.actor[:2]),
            on_behalf_of=None if head.behalf is None else ActorName(*head.behalf),
            cause=head.actor[2],
            commands=tuple(self._commands(reader, head, payload)),
            created=tuple(Ref(id) for id, image in images if version_of(image) == 1),
            updated=tuple(Ref(id) for id, image in images if version_of(image) != 1),
            deleted=() if payload is None else tuple(map(Ref, payload.deleted)),
            # A job that was changed names the transaction that created it.
            jobs=tuple(id for id, job in jobs if read_job(id, job).cause == head.sequence),
            erased=payload is None,
        )

    def _commands(
        self, reader: AuthorizedReading, head: TransactionHead, payload: Payload | None
    ) -> Iterator[LoggedCommand]:
        for place, (code, id, depth) in enumerate(head.targets):
            values = () if payload is None else payload.parameters[place]
            event = self._audit.name_of(code)
            if code in _OWN_PARAMETERS:
                parameters: dict[str, Any] = dict(zip(_OWN_PARAMETERS[code], values, strict=False))
            elif code == JOB_ACTION:
                parameters = _of_action(reader, values)
            else:
                names = self._audit.parameters_at(code, head.sequence)
                parameters = self._audit.masking.shown(reader, event, id, names, values)
            yield LoggedCommand(
                event=event, target=Ref(id) if id else None, depth=depth, parameters=parameters
            )


class _Versions(Question[tuple[Version[Any], ...]]):
    """The versions of one model, oldest first."""

    def __init__(self, audit: Audit, ref: Any, limit: int, after: int) -> None:
        self._audit = audit
        self._ref, self._limit, self._after = ref, limit, after
        self._found: list[_Transaction] = []

    def begin(self, reader: AuthorizedReading, newest: int) -> None:
        self._id, self._newest = id_of(self._ref), newest
        self._limit = page_limit(self._limit)
        if type(self._after) is not int or self._after < 0:
            raise ArgumentError(f"expected the sequence of a version for 'after', got {self._after!r}")
        if reader.find(Ref(self._id)) is None and not self._audit.history.of_model(self._id).at_most(newest):
            raise NotFound(f"there is no model {self._id} and never was one")

    def fetch(self) -> None:
        lookup = Lookup(self._audit.storage)
        facet = self._audit.history.of_model(self._id)
        for sequence in oldest_first([facet], self._after + 1, self._newest):
            head, payload = lookup.head(sequence), lookup.payload(sequence)
            if payload is None or _concerns(payload, self._id):
                self._found.append((head, payload))
            if len(self._found) == self._limit:
                break

    def answer(self, reader: AuthorizedReading) -> tuple[Version[Any], ...]:
        return tuple(self._version(reader, head, payload) for head, payload in self._found)

    def _version(
        self, reader: AuthorizedReading, head: TransactionHead, payload: Payload | None
    ) -> Version[Any]:
        image = None if payload is None else _image_in(payload, self._id)
        # Of a class that a migration deleted there are no models to be read any more.
        stored = None if image is None else self._audit.model(self._id, image)
        return Version(
            sequence=head.sequence,
            time=time_of(head.time_us),
            actor=ActorName(*head.actor[:2]),
            on_behalf_of=None if head.behalf is None else ActorName(*head.behalf),
            events=tuple(self._audit.name_of(code) for code, id, _ in head.targets if id == self._id),
            version=0 if image is None else version_of(image),
            model=None if stored is None else reader.show(stored),
            deleted=payload is not None and image is None,
            erased=payload is None,
        )


class _VersionAt(Question[Any]):
    """A model as one transaction, or the last one before it that touched the model, left it."""

    def __init__(self, audit: Audit, ref: Any, sequence: int) -> None:
        self._audit = audit
        self._ref, self._sequence = ref, sequence
        self._image: bytes | None = None
        self._erased = 0

    def begin(self, reader: AuthorizedReading, newest: int) -> None:
        self._id = id_of(self._ref)
        if type(self._sequence) is not int or not 1 <= self._sequence <= newest:
            raise ArgumentError(
                f"there is no transaction {self._sequence!r}", hint=f"There are those from 1 to {newest}."
            )

    def fetch(self) -> None:
        lookup = Lookup(self._audit.storage)
        for sequence in newest_first([self._audit.history.of_model(self._id)], self._sequence):
            payload = lookup.payload(sequence)
            if payload is None:
                self._erased = sequence
                return
            if _concerns(payload, self._id):
                self._image = _image_in(payload, self._id)
                return

    def answer(self, reader: AuthorizedReading) -> Any:
        # Who may not read the model as it is may not read what it was.
        reader.find(Ref(self._id))
        if self._erased:
            raise Erased(
                f"what transaction {self._erased} did to model {self._id} was erased",
                hint="Versions after the erasure can be read.",
            )
        if self._image is None:
            raise NotFound(f"there was no model {self._id} after transaction {self._sequence}")
        model = self._audit.model(self._id, self._image)
        if model is None:
            raise NotFound(f"model {self._id} is of a class that a migration deleted")
        return reader.show(model)


def _of_action(reader: AuthorizedReading, values: tuple[Any, ...]) -> dict[str, Any]:
    """Return what was done to jobs; new arguments are for the application itself, as jobs are."""
    if not values:
        return {}
    action, jobs, changed = values
    if "arguments" in changed and not isinstance(reader.context.actor, System):
        changed = {**changed, "arguments": MASKED}
    return {"action": action, "jobs": tuple(jobs), "changed": changed}


def _concerns(payload: Payload, id: int) -> bool:
    return id in payload.deleted or _image_in(payload, id) is not None


def _image_in(payload: Payload, id: int) -> bytes | None:
    return next((image for each, image in payload.images if each == id), None)

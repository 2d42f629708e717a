"""Which jobs are looked for: filters, checked, and the cursors that go from page to page."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, TypedDict

import msgspec

from klerk import limits
from klerk._dispatch import microseconds
from klerk._image import key_of
from klerk.audit.search import id_of
from klerk.codec import encode, number_of
from klerk.errors import ArgumentError
from klerk.field_types import FieldType
from klerk.job_names import JobNames, choices, foreign, unknown
from klerk.jobs import FINAL_STATES, Job, JobRecord, JobState
from klerk.moments import require_moment
from klerk.opaque import opaque_bytes, opaque_text
from klerk.values import Model, Ref

_CHECK_BYTES: Final = 12

Types = Mapping[str, Mapping[str, FieldType]]
"""The types of the parameters of jobs: by kind, then by name."""


class JobFilter(TypedDict, total=False):
    """Which jobs are wanted: those that fit everything given. A kind, queue or tag that is neither declared
    nor that of a stored job is refused, with the name that was probably meant.

    Parameters:
        state: one state or several, as `JobState` or its text.
        kind: one kind of job or several: what `App.job` made, or its name.
        queue: the name of one queue, or several.
        key: by which their key limits count.
        tag: only kinds whose workers must have this tag.
        model: only those with this reference among their arguments, inside of tuples and structs, too.
        cause: only those that the transaction with this sequence created.
        batch: only members and callbacks of this batch.
        created_after, created_before: only those whose command's time is not before the one and is before the
            other; aware.
        error: only those whose error contains this text, in upper or lower case.
    """

    state: JobState | str | Collection[JobState | str] | None
    kind: Job[...] | str | Collection[Job[...] | str] | None
    queue: str | Collection[str] | None
    key: str | None
    tag: str | None
    model: Ref[Any] | Model | None
    cause: int | None
    batch: int | None
    created_after: datetime | None
    created_before: datetime | None
    error: str | None


class JobQuery(JobFilter, total=False):
    """Which jobs are wanted, and how many of them at a time.

    Parameters:
        newest_first: the order; False unless given.
        limit: jobs in the page, at most `limits.JOB_QUERY_MAX`; 50 unless given.
        after: the `next` of the page before, which must have been asked for in the same way.
    """

    newest_first: bool
    limit: int
    after: str | None


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some jobs.

    Parameters:
        items: at most as many as asked for; there may be fewer, even none, although more follow.
        next: what to pass as `after` to get the jobs that follow; None when there are no more.
    """

    items: tuple[JobRecord, ...]
    next: str | None

    def __iter__(self) -> Iterator[JobRecord]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class JobPlace(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ends: behind a job.

    Parameters:
        part: 0 for jobs that are ready or running, 1 for those that wait for a time, 2 for ended ones.
        time_us: that orders the jobs of the part, in microseconds since 1970 UTC; 0 in the first one.
        id: of the job.
    """

    part: int
    time_us: int
    id: int


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A checked filter.

    Parameters:
        states, kinds, queues: those wanted; None for all.
        key, error: texts; None for any. The error is in lower case.
        model, cause, batch: numbers; None for any.
        after_us, before_us: microseconds since 1970, the end excluded.
        newest_first: the order.
        limit: jobs wanted.
        after: where the page before ended.
        queue_of_kind, types: of the declared jobs.
    """

    states: frozenset[JobState] | None
    kinds: frozenset[str] | None
    queues: frozenset[str] | None
    key: str | None
    error: str | None
    model: int | None
    cause: int | None
    batch: int | None
    after_us: int | None
    before_us: int | None
    newest_first: bool
    limit: int
    after: str | None
    queue_of_kind: Mapping[str, str]
    types: Types

    def may_be(self, states: Iterable[JobState]) -> bool:
        """Return whether jobs in one of some states are wanted."""
        return self.states is None or any(state in self.states for state in states)

    def fits(self, record: JobRecord) -> bool:
        """Return whether a job, in the state that it is in now, is one of those wanted."""
        return (
            self.fits_sort(record.state, record.kind, record.queue)
            and (self.key is None or record.key == self.key)
            and (self.cause is None or record.cause == self.cause)
            and (self.batch is None or record.batch == self.batch)
            and (self.after_us is None or record.created_us >= self.after_us)
            and (self.before_us is None or record.created_us < self.before_us)
            and (self.error is None or self.error in record.error.lower())
            and (self.model is None or self.model in references(self.types, record))
        )

    def fits_sort(self, state: str, kind: str, queue: str) -> bool:
        """Return whether jobs in a state, of a kind and with a queue of their own ("": none) are wanted."""
        return (
            (self.states is None or state in self.states)
            and (self.kinds is None or kind in self.kinds)
            and (self.queues is None or (queue or self.queue_of_kind.get(kind, "")) in self.queues)
        )

    def cursor(self, place: JobPlace) -> str:
        """Return the cursor that stands behind a job."""
        body = key_of(place.part) + key_of(place.time_us) + key_of(place.id)
        return opaque_text(body + self._check(body))

    def place(self) -> JobPlace | None:
        """Return where to go on; None: at the beginning.

        Raises:
            ArgumentError: the cursor is none of this search.
        """
        if self.after is None:
            return None
        try:
            decoded = opaque_bytes(self.after)
        except ValueError:
            decoded = b""
        body, check = decoded[:24], decoded[24:]
        if len(check) != _CHECK_BYTES or check != self._check(body):
            raise ArgumentError(
                f"{self.after!r} is no cursor of jobs with these filters",
                hint="Pass the `next` of the page before, and ask in the same way as for that page.",
            )
        return JobPlace(number_of(body[:8]), number_of(body[8:16]), number_of(body[16:]))

    def _check(self, body: bytes) -> bytes:
        """Return what makes a cursor one of this search; it keeps nobody from making one."""
        asked = (
            *(None if each is None else sorted(each) for each in (self.states, self.kinds, self.queues)),
            *(self.key, self.error, self.model, self.cause, self.batch, self.after_us, self.before_us),
            self.newest_first,
        )
        return sha256(body + encode(asked)).digest()[:_CHECK_BYTES]


def job_search(
    jobs: Mapping[str, Job[Any]], types: Types, which: Mapping[str, Any], known: JobNames
) -> Search:
    """Check a filter.

    Parameters:
        jobs: the declared ones.
        types: of their parameters.
        which: see `JobQuery`.
        known: the names that there are.

    Raises:
        ArgumentError: something in it cannot be meant, or is the name of nothing.
    """
    given = which
    order, after = given.get("newest_first", False), given.get("after")
    if type(order) is not bool:
        raise ArgumentError(f"expected True or False for 'newest_first', got {type(order).__name__}")
    model = given.get("model")
    error = _text("error", given.get("error"))
    return Search(
        states=_states(given.get("state")),
        kinds=_kinds(jobs, given.get("kind"), _text("tag", given.get("tag")), known),
        queues=_queues(given.get("queue"), known),
        key=_text("key", given.get("key")),
        error=None if error is None else error.lower(),
        model=None if model is None else id_of(model),
        cause=_number("cause", given.get("cause")),
        batch=_number("batch", given.get("batch")),
        after_us=_moment("created_after", given.get("created_after")),
        before_us=_moment("created_before", given.get("created_before")),
        newest_first=order,
        limit=_limit(given.get("limit", limits.JOB_QUERY)),
        after=_text("after", after),
        queue_of_kind={name: job.settings.queue for name, job in jobs.items()},
        types=types,
    )


FILTERS: Final = tuple(JobFilter.__annotations__)
"""The names in a `JobFilter`."""

QUERIES: Final = tuple(JobQuery.__annotations__)
"""The names in a `JobQuery`."""

UNENDED: Final = frozenset(JobState) - FINAL_STATES


def require_filters(which: Iterable[str], allowed: Collection[str]) -> None:
    """Refuse what is no filter.

    Parameters:
        which: the names of those given.
        allowed: `FILTERS` where all jobs are meant that fit, `QUERIES` where pages are.

    Raises:
        ArgumentError: one of them is none.
    """
    for name in which:
        if name not in allowed:
            hint = "Only `query` takes it." if name in QUERIES else choices(name, allowed)
            raise ArgumentError(f"there is no filter {name!r} here", hint=hint)


def references(types: Types, record: JobRecord) -> tuple[Ref[Any], ...]:
    """Return the references among a job's arguments, in their order, each once.

    Parameters:
        types: of the parameters of the declared jobs.
    """
    declared = types.get(record.kind)
    if declared is None or len(declared) != len(record.arguments):
        # Stored as another design had it, nobody knows any more what its numbers mean.
        return ()
    found: dict[int, None] = {}
    for value, field in zip(record.arguments, declared.values(), strict=True):
        if value is None:
            continue
        if field.target is not None:
            found[value] = None
        elif field.nested is not None:
            try:
                typed = msgspec.convert(value, field.plain)
            except msgspec.ValidationError:
                continue
            found.update(dict.fromkeys(id for id, _ in field.nested(typed)))
    return tuple(map(Ref, found))


def _states(given: Any) -> frozenset[JobState] | None:
    names = _names("state", given)
    if names is None:
        return None
    for name in names:
        if name not in JobState.__members__.values():
            raise unknown("state", name, JobState)
    return frozenset(map(JobState, names))


def _kinds(
    jobs: Mapping[str, Job[Any]], given: Any, tag: str | None, known: JobNames
) -> frozenset[str] | None:
    if given is None:
        names = None
    elif isinstance(given, Collection) and not isinstance(given, str):
        names = frozenset(name_of_kind(each, jobs) for each in given)
    else:
        names = frozenset({name_of_kind(given, jobs)})
    if names is not None:
        known.require_kinds(names)
    if tag is None:
        return names
    known.require_tag(tag)
    tagged = frozenset(name for name, job in jobs.items() if tag in job.settings.tags)
    return tagged if names is None else tagged & names


def name_of_kind(kind: object, jobs: Mapping[str, Job[Any]], expected: str = "one kind or several") -> str:
    """Return the name of a kind that is given as a declared job, or by name.

    Parameters:
        expected: for the error.

    Raises:
        ArgumentError: it is neither, or a job of another app.
    """
    if isinstance(kind, Job):
        if jobs.get(kind.name) is not kind:
            raise foreign(kind.name)
        return kind.name
    if isinstance(kind, str):
        return kind
    raise ArgumentError(
        f"expected {expected}, got {kind!r}",
        hint="Give what @app.job() made, as in kind=remind, or its name: kind='remind'.",
    )


def _queues(given: Any, known: JobNames) -> frozenset[str] | None:
    names = _names("queue", given)
    if names is not None:
        known.require_queues(names)
    return names


def text_for(name: str, given: object) -> str:
    """Return a text that something is looked for by.

    Raises:
        ArgumentError: it is none.
    """
    if not isinstance(given, str):
        raise ArgumentError(f"expected a text for {name!r}, got {type(given).__name__}")
    return given


def _names(what: str, given: Any) -> frozenset[str] | None:
    if given is None:
        return None
    several = [given] if isinstance(given, str) else given
    if not isinstance(several, Collection) or not all(isinstance(each, str) for each in several):
        raise ArgumentError(f"expected one {what} or several as texts, got {given!r}")
    return frozenset(several)


def _text(name: str, given: Any) -> str | None:
    return None if given is None else text_for(name, given)


def _number(name: str, given: Any) -> int | None:
    if given is not None and (type(given) is not int or not 0 <= given < 2**63):
        got = type(given).__name__ if isinstance(given, JobRecord) else repr(given)
        hint = f"A record has it: record.{name}." if isinstance(given, JobRecord) else ""
        raise ArgumentError(f"expected a number of 0 or more for {name!r}, got {got}", hint=hint)
    return given


def _limit(limit: Any) -> int:
    if type(limit) is not int or not 1 <= limit <= limits.JOB_QUERY_MAX:
        raise ArgumentError(f"limit must be 1 to {limits.JOB_QUERY_MAX}, is {limit!r}")
    return limit


def _moment(name: str, moment: Any) -> int | None:
    if moment is None:
        return None
    require_moment(f"{name!r} cannot be", moment)
    return microseconds(moment)

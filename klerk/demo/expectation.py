"""What exactly the store must hold after the first so many events of the stream, and what differs."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np

import klerk
from klerk.demo import clocks, design
from klerk.demo.data import Data, flight_key
from klerk.demo.design import Flight, Reason
from klerk.demo.stream import STAGES, Kind, Stream, creates_job

_REASON = {Kind.DEPART: Reason.LATE, Kind.CANCEL: Reason.CANCELLED, Kind.DIVERT: Reason.DIVERTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a store holds: the flights in the order of the data, and what jobs told and have yet to tell."""

    flights: list[Flight | None]
    told: frozenset[str]
    to_tell: frozenset[str]
    jobs: int


def read_contents(k: klerk.Klerk, data: Data, context: klerk.Context) -> Contents:
    """Read every flight of the data, the notices, and the jobs. Nothing may change meanwhile."""
    with k.read(context) as r:
        flights = [r.find(design.flight_by_key, flight_key(data, row)) for row in range(len(data.flights))]
        notices = [(notice.flight, notice.reason) for notice in r.list(design.sent)]
        live = [(record.arguments[0], design.REASONS[record.kind]) for record in k.jobs.live()]
        told, to_tell = (
            [design.message(r.get(flight).key, reason) for flight, reason in pairs]
            for pairs in (notices, live)
        )
    assert len(set(told)) == len(told), "an index makes notices unique"
    assert len(set(to_tell)) == len(to_tell), "no flight has two jobs for one reason"
    # Those that ended are counted whether or not they are kept.
    jobs = len(live) + sum(k.jobs.totals().values())
    return Contents(flights=flights, told=frozenset(told), to_tell=frozenset(to_tell), jobs=jobs)


def done(contents: Contents, stream: Stream) -> int:
    """Return how many events are in the store, counting from the first until one is missing."""
    stages = np.array(
        [0 if flight is None else STAGES[flight.meta.state.name] for flight in contents.flights]
    )
    missing = np.flatnonzero(stages[stream.row] < stream.stage)
    return int(missing[0]) if len(missing) else len(stream)


def differences(contents: Contents, data: Data, stream: Stream, events: int) -> Iterator[str]:
    """Yield what is not as it must be after so many events: each flight whole, and each job once."""
    stages = np.zeros(len(data.flights), dtype=np.int64)
    np.maximum.at(stages, stream.row[:events], stream.stage[:events])
    for row, flight in enumerate(contents.flights):
        must, found = _expected(data, row, int(stages[row])), None if flight is None else _essence(flight)
        if must != found:
            yield f"flight {flight_key(data, row)}: expected {must}, found {found}"
    expected = expected_messages(data, stream, events)
    for message in (contents.told | contents.to_tell) - expected:
        yield f"a notice or job that no event accounts for: {message}"
    for message in expected - contents.told - contents.to_tell:
        yield f"the job of an event is missing: {message}"
    if contents.jobs != len(expected):
        yield f"{len(expected)} jobs must have been created, found {contents.jobs}"


def expected_messages(data: Data, stream: Stream, events: int) -> frozenset[str]:
    """Return the messages that jobs must send because of the first `events` events."""
    numbers = np.flatnonzero(creates_job(data.flights, stream)[:events])
    rows, kinds = stream.row[numbers].tolist(), stream.kind[numbers].tolist()
    return frozenset(
        design.message(flight_key(data, row), _REASON[kind]) for row, kind in zip(rows, kinds, strict=True)
    )


# What a flight must look like: its state, how often it changed, when it left and arrived, and how late.
_Essence = tuple[str, int, datetime | None, datetime | None, int | None, int | None]


def _essence(flight: Flight) -> _Essence:
    return (
        flight.meta.state.name,
        flight.meta.version,
        flight.departed,
        flight.arrived,
        flight.departure_delay,
        flight.arrival_delay,
    )


def _expected(data: Data, row: int, stage: int) -> _Essence | None:
    """Return what a flight must look like at a stage; None when it is not there yet."""
    flights = data.flights
    if stage == 0:
        return None
    if stage == 1:
        return "scheduled", 1, None, None, None, None
    if flights.is_cancelled[row]:
        return "cancelled", 2, None, None, None, None
    departed, late = clocks.moment(int(flights.departed[row])), int(flights.departure_delay[row])
    if stage == 2:
        return "departed", 2, departed, None, late, None
    if flights.is_diverted[row]:
        return "diverted", 3, departed, None, late, None
    ended = clocks.moment(int(flights.ended[row]))
    return "arrived", 3, departed, ended, late, int(flights.arrival_delay[row])

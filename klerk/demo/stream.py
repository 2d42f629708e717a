"""The flights as one stream of events in the order of time."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from klerk.demo.data import Data, Flights
from klerk.demo.design import LATE_MINUTES

# How long before its first flight a day's schedule is published.
PUBLISHED_BEFORE_MINUTES = 6 * 60


class Kind(IntEnum):
    """What happens to a flight. In the same minute, schedules are published before anything else."""

    SCHEDULE = 0
    ARRIVE = 1
    DIVERT = 2
    CANCEL = 3
    DEPART = 4


# How far a flight has come: by its state, and after each kind of event (in the order of their values).
STAGES = {"scheduled": 1, "departed": 2, "arrived": 3, "diverted": 3, "cancelled": 3}
_STAGE_AFTER = np.array([1, 3, 3, 3, 2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Events, one per position, which is the event's number: the same input always gives the same numbers.

    `minute` is when (see `clocks`), `kind` is a `Kind`, `row` is the flight's position in `Flights`.
    """

    minute: NDArray[np.int64]
    kind: NDArray[np.int64]
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def stage(self) -> NDArray[np.int64]:
        """How far each event brings its flight."""
        return _STAGE_AFTER[self.kind]


def stream_of(data: Data) -> Stream:
    """Merge all events into one stream, ordered by time; within a minute the order is fixed, too."""
    flights = data.flights
    rows = np.arange(len(flights))
    left = ~flights.is_cancelled
    end = np.where(flights.is_cancelled, Kind.CANCEL, np.where(flights.is_diverted, Kind.DIVERT, Kind.ARRIVE))
    minute = np.concatenate([_published(flights), flights.departed[left], flights.ended])
    kind = np.concatenate(
        [np.full(len(rows), Kind.SCHEDULE), np.full(np.count_nonzero(left), Kind.DEPART), end]
    )
    row = np.concatenate([rows, rows[left], rows])
    order = np.lexsort((row, kind, minute))
    return Stream(minute=minute[order], kind=kind[order], row=row[order])


def creates_job(flights: Flights, stream: Stream) -> NDArray[np.bool_]:
    """Tell for each event whether passengers must hear of it."""
    late = np.equal(stream.kind, Kind.DEPART) & (flights.departure_delay[stream.row] >= LATE_MINUTES)
    return late | np.isin(stream.kind, [Kind.CANCEL, Kind.DIVERT])


def _published(flights: Flights) -> NDArray[np.int64]:
    """Return when each flight is published: with all flights of its day, well before the first of them."""
    left = np.where(flights.is_cancelled, flights.scheduled_departure, flights.departed)
    days, position = np.unique(flights.day, return_inverse=True)
    first = np.full(len(days), np.iinfo(np.int64).max)
    np.minimum.at(first, position, np.minimum(left, flights.scheduled_departure))
    return (first - PUBLISHED_BEFORE_MINUTES)[position]

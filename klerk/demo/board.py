"""The departures board: one airport's flights around one moment, read under one lock."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

import klerk
from klerk.demo import clocks, design
from klerk.demo.data import Data
from klerk.demo.design import LATE_MINUTES, PUBLIC, Airport, Flight
from klerk.demo.show import Column, Row, Table

# Which flights stand on the board: those planned from so long before the moment until so long after it.
BEFORE_MINUTES = 45
AFTER_MINUTES = 15

# Lines of a board; the flights planned first give way.
LINES_MAX = 30

_STEP_MINUTES = 15
_STEPS = (BEFORE_MINUTES + AFTER_MINUTES) // _STEP_MINUTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a board hangs, and when it is looked at."""

    airport: str
    minute: int


def busiest(data: Data) -> Place:
    """Find the airport and the moment where most flights are cancelled or late."""
    flights = data.flights
    troubled = flights.is_cancelled | (flights.departure_delay >= LATE_MINUTES)
    steps = flights.scheduled_departure // _STEP_MINUTES
    first = int(steps.min())
    most, origin, begin = -1, 0, 0
    for place in np.unique(flights.origin):
        counts = np.bincount(steps[troubled & (flights.origin == place)] - first, minlength=_STEPS)
        in_window = np.convolve(counts, np.ones(_STEPS, dtype=np.int64), mode="valid")
        if in_window.max() > most:
            most, origin = int(in_window.max()), int(place)
            begin = (first + int(in_window.argmax())) * _STEP_MINUTES
    return Place(airport=data.airports[origin].code, minute=begin + BEFORE_MINUTES)


def read_board(k: klerk.Klerk, place: Place) -> Table:
    """Read the board in one consistent moment, whatever is written meanwhile.

    It shows what was known at the place's time, also when the flights have gone on since.
    """
    now = clocks.moment(place.minute)
    with k.read(klerk.Context(PUBLIC, now=now)) as r:
        airport = r.find(design.airport_by_code, place.airport)
        assert airport is not None, "flights leave from airports that were entered before"
        zone = ZoneInfo(airport.zone)
        planned = [
            flight
            for quarter in _quarters(now)
            for flight in r.list(design.departures((airport.meta.id, quarter)))
        ]
        planned.sort(key=lambda flight: (flight.departs, flight.number))
        rows = [_row(flight, r.get(flight.destination), now, zone) for flight in planned[-LINES_MAX:]]
    return Table(
        title=f"Departures from {airport.name} at {now.astimezone(zone):%H:%M on %A, %d %B %Y}",
        columns=[
            Column(heading="Planned"),
            Column(heading="Actual"),
            Column(heading="Flight"),
            Column(heading="To", may_be_cut=True),
            Column(heading="Remark"),
        ],
        rows=rows,
    )


def _quarters(now: datetime) -> list[datetime]:
    first = now - timedelta(minutes=BEFORE_MINUTES)
    return [first + timedelta(minutes=_STEP_MINUTES * step) for step in range(_STEPS)]


def _row(flight: Flight, destination: Airport, now: datetime, zone: ZoneInfo) -> Row:
    remark, style = _remark(flight, now)
    left = flight.departed is not None and flight.departed <= now
    actual = f"{flight.departed.astimezone(zone):%H:%M}" if flight.departed is not None and left else ""
    to = destination.name or f"{destination.code} (in no list)"
    return Row(
        cells=[f"{flight.departs.astimezone(zone):%H:%M}", actual, flight.number, to, remark], style=style
    )


def _remark(flight: Flight, now: datetime) -> tuple[str, str]:
    """Return what is said about a flight at a moment, and how it looks."""
    if flight.departed is not None and flight.departed <= now:
        late = flight.departure_delay or 0
        return (f"left {late} min late", "yellow") if late >= LATE_MINUTES else ("left", "dim")
    if flight.meta.state == design.cancelled and flight.departs <= now:
        return "cancelled", "bold red"
    return ("delayed", "yellow") if flight.departs < now else ("on time", "green")

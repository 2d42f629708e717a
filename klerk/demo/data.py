"""The demo's input: read and checked as a whole, before anything is written.

Flights are columns of numbers, not objects: a year of them takes about 40 MB.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from klerk.demo import clocks, columns
from klerk.demo.columns import MISSING
from klerk.demo.csvfile import BadData, Column, line_of, read_chunks

HERE = Path(__file__).parent / "data"
JANUARY = HERE / "flights_2013_january.csv.gz"

# Destinations that are in no list of airports have no time zone there either.
UNLISTED_ZONES: Mapping[str, str] = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
DEFAULT_ZONE = "America/New_York"

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AirlineRow:
    """One airline."""

    carrier: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AirportRow:
    """One airport; a name of None says that it is in no list."""

    code: str
    name: str | None
    zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneRow:
    """One aircraft; a manufacturer of None says that it is in no register."""

    tail_number: str
    manufacturer: str | None
    model: str | None
    seats: int | None
    built_year: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flights:
    """Flights, one per position in every column, in the order of the file.

    `airline`, `plane`, `origin` and `destination` are positions in the tables of `Data`; a plane may be
    MISSING. Scheduled and actual times are minutes (see `clocks`). `departed` is MISSING for a cancelled
    flight; `ended` is when a flight arrived, was diverted or was cancelled. Delays are minutes, or MISSING.
    """

    day: Numbers
    airline: Numbers
    number: Numbers
    plane: Numbers
    origin: Numbers
    destination: Numbers
    scheduled_departure: Numbers
    scheduled_arrival: Numbers
    departed: Numbers
    ended: Numbers
    departure_delay: Numbers
    arrival_delay: Numbers

    def __len__(self) -> int:
        return len(self.day)

    @property
    def is_cancelled(self) -> NDArray[np.bool_]:
        """The flights that never left."""
        return np.equal(self.departed, MISSING)

    @property
    def is_diverted(self) -> NDArray[np.bool_]:
        """The flights that left and never arrived where they should."""
        return np.not_equal(self.departed, MISSING) & np.equal(self.arrival_delay, MISSING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Everything that is replayed. Unlisted airports and planes stand at the end of their tables."""

    source: Path
    airlines: list[AirlineRow]
    airports: list[AirportRow]
    planes: list[PlaneRow]
    flights: Flights


def load(flights: Path = JANUARY, *, days: int | None = None) -> Data:
    """Read and check the flights in a file, and the small tables that they refer to.

    Parameters:
        flights: the csv or csv.gz file of flights.
        days: how many of the file's days to take, from its first on; all when None.

    Raises:
        BadData: a file is missing, or something in it is not what it should be.
    """
    airlines = _read_airlines(HERE / "airlines.csv.gz")
    airports = _read_airports(HERE / "airports.csv.gz")
    planes = _read_planes(HERE / "planes.csv.gz")
    raw = _read_flights(flights, airlines, airports, planes)
    _check_flights(flights, raw)
    if days is not None:
        first_days = np.unique(raw["date"])[:days]
        taken = np.isin(raw["date"], first_days)
        raw = {name: column[taken] for name, column in raw.items()}
    return Data(
        source=flights, airlines=airlines, airports=airports, planes=planes, flights=_timed(raw, airports)
    )


def flight_key(data: Data, row: int) -> str:
    """Return the key of a flight: its day, its airline's number and where it starts."""
    flights = data.flights
    day = clocks.day(int(flights.day[row]))
    carrier = data.airlines[flights.airline[row]].carrier
    return f"{day} {carrier}{flights.number[row]} {data.airports[flights.origin[row]].code}"


# --- the small tables ---------------------------------------------------------------------------------


def _read_table(file: Path, key: str, columns: Mapping[str, Column]) -> list[dict[str, Any]]:
    """Read a small table whole; `key` must be different in every row."""
    rows: list[dict[str, Any]] = []
    for chunk in read_chunks(file, columns):
        names = list(chunk.columns)
        rows.extend(dict(zip(names, row, strict=True)) for row in zip(*chunk.columns.values(), strict=True))
    seen: set[str] = set()
    for number, row in enumerate(rows):
        if row[key] in seen:
            raise BadData(file, "it only once", line=line_of(file, number), column=key, value=row[key])
        seen.add(row[key])
    return rows


def _read_airlines(file: Path) -> list[AirlineRow]:
    rows = _read_table(file, "carrier", {"carrier": columns.CARRIER, "name": columns.text(80)})
    return [AirlineRow(**row) for row in rows]


def _read_airports(file: Path) -> list[AirportRow]:
    expected = {
        "faa": columns.AIRPORT,
        "name": columns.text(120),
        "lat": columns.decimal(),
        "lon": columns.decimal(),
        "alt": columns.whole(-2_000, 30_000, "feet"),
        "tz": columns.whole(-12, 14, "hours"),
        "dst": columns.text(1),
        "tzone": columns.or_empty(columns.text(40), ""),
    }
    rows = _read_table(file, "faa", expected)
    # An airport without a time zone gets the one that most airports with its offset and rules are in.
    zones: Counter[tuple[int, str, str]] = Counter()
    zones.update((row["tz"], row["dst"], row["tzone"]) for row in rows if row["tzone"])
    usual = {(tz, dst): zone for (tz, dst, zone), _ in reversed(zones.most_common())}
    return [
        AirportRow(
            code=row["faa"],
            name=row["name"],
            zone=row["tzone"] or usual.get((row["tz"], row["dst"]), DEFAULT_ZONE),
        )
        for row in rows
    ]


def _read_planes(file: Path) -> list[PlaneRow]:
    expected = {
        "tailnum": columns.TAIL_NUMBER,
        "year": columns.or_empty(columns.whole(1900, 2100), None),
        "type": columns.text(40),
        "manufacturer": columns.text(60),
        "model": columns.text(40),
        "engines": columns.whole(1, 8),
        "seats": columns.whole(1, 1000),
        "speed": columns.or_empty(columns.whole(1, 2000), None),
        "engine": columns.text(40),
    }
    return [
        PlaneRow(
            tail_number=row["tailnum"],
            manufacturer=row["manufacturer"],
            model=row["model"],
            seats=row["seats"],
            built_year=row["year"],
        )
        for row in _read_table(file, "tailnum", expected)
    ]


# --- the flights --------------------------------------------------------------------------------------


def _read_flights(
    file: Path, airlines: list[AirlineRow], airports: list[AirportRow], planes: list[PlaneRow]
) -> dict[str, Numbers]:
    """Read the columns of the flights; airports and planes that are in no list are appended to the tables."""
    codes = {row.carrier: position for position, row in enumerate(airlines)}

    def carrier(text: str) -> int:
        if text not in codes:
            raise ValueError(text)
        return codes[text]

    def airport(text: str) -> int:
        zone = UNLISTED_ZONES.get(columns.AIRPORT.parse(text), DEFAULT_ZONE)
        airports.append(AirportRow(code=text, name=None, zone=zone))
        return len(airports) - 1

    def plane(text: str) -> int:
        tail = columns.TAIL_NUMBER.parse(text)
        planes.append(PlaneRow(tail_number=tail, manufacturer=None, model=None, seats=None, built_year=None))
        return len(planes) - 1

    at_airport = _numbered({row.code: n for n, row in enumerate(airports)}, airport)
    of_plane = _numbered({row.tail_number: n for n, row in enumerate(planes)}, plane)
    expected = {
        "year": columns.whole(1900, 2100),
        "month": columns.whole(1, 12),
        "day": columns.whole(1, 31),
        "carrier": Column(expected=f"an airline: one of {', '.join(codes)}", parse=carrier),
        "flight": columns.whole(1, 9999),
        "tailnum": columns.or_empty(Column(expected=columns.TAIL_NUMBER.expected, parse=of_plane)),
        "origin": Column(expected=columns.AIRPORT.expected, parse=at_airport),
        "dest": Column(expected=columns.AIRPORT.expected, parse=at_airport),
        "sched_dep_time": columns.HHMM,
        "dep_time": columns.or_empty(columns.HHMM),
        "dep_delay": columns.or_empty(columns.DEPARTURE_DELAY),
        "sched_arr_time": columns.HHMM,
        "arr_time": columns.or_empty(columns.HHMM),
        "arr_delay": columns.or_empty(columns.ARRIVAL_DELAY),
        "air_time": columns.or_empty(columns.whole(1, 1440, "minutes")),
        "distance": columns.whole(1, 12_000, "miles"),
    }
    parts: dict[str, list[Numbers]] = {name: [] for name in expected}
    for chunk in read_chunks(file, expected):
        for name, values in chunk.columns.items():
            parts[name].append(np.array(values, dtype=np.int64))
    if not parts["year"]:
        raise BadData(file, "at least one flight")
    raw = {name: np.concatenate(chunks) for name, chunks in parts.items()}
    raw["date"] = _dates(file, raw)
    return raw


def _numbered(known: dict[str, int], add: Callable[[str], int]) -> Callable[[str], int]:
    """Return a parser that gives the number of a known text, and numbers a new one with `add`."""

    def parse(text: str) -> int:
        if text not in known:
            known[text] = add(text)
        return known[text]

    return parse


def _dates(file: Path, raw: Mapping[str, Numbers]) -> Numbers:
    """Return the flights' dates as days since 1970-01-01."""
    months = (raw["year"] - 1970) * 12 + raw["month"] - 1
    dates = months.astype("datetime64[M]").astype("datetime64[D]") + (raw["day"] - 1)
    _refuse(
        file,
        dates.astype("datetime64[M]").astype(np.int64) != months,
        "a day that the month has",
        column="day",
        value=raw["day"],
    )
    return dates.astype(np.int64)


def _check_flights(file: Path, raw: Mapping[str, Numbers]) -> None:
    """Check what no column can tell by itself."""
    no_departure = raw["dep_time"] == MISSING
    no_landing = raw["arr_time"] == MISSING
    no_arrival = raw["arr_delay"] == MISSING
    _refuse(file, no_departure != (raw["dep_delay"] == MISSING), "dep_time and dep_delay both, or neither")
    _refuse(file, no_departure & ~no_landing, "no arr_time without a dep_time")
    _refuse(file, no_landing & ~no_arrival, "no arr_delay without an arr_time")
    _refuse(file, raw["origin"] == raw["dest"], "a destination that is not the origin", column="dest")
    identity = np.stack([raw[name] for name in ("date", "carrier", "flight", "origin")])
    _, first, count = np.unique(identity, axis=1, return_index=True, return_counts=True)
    if (count > 1).any():
        repeated = np.ones(identity.shape[1], dtype=np.bool_)
        repeated[first] = False
        _refuse(
            file,
            repeated,
            "an airline's flight number only once a day from one airport",
            column="flight",
            value=raw["flight"],
        )


def _refuse(
    file: Path, wrong: NDArray[np.bool_], expected: str, *, column: str = "", value: Numbers | None = None
) -> None:
    """Raise BadData for the first row that is wrong, if any is."""
    if wrong.any():
        row = int(wrong.argmax())
        found = None if value is None else str(value[row])
        raise BadData(file, expected, line=line_of(file, row), column=column, value=found)


def _timed(raw: Mapping[str, Numbers], airports: list[AirportRow]) -> Flights:
    """Turn local clock times into moments.

    A delay is taken as minutes that passed, also where clocks changed meanwhile. A diverted flight ends when
    its destination's clock first showed the arrival time, or after the scheduled time in the air if it has
    none. No flight comes down in the minute in which it left, nor before.
    """
    date, delay = raw["date"], raw["dep_delay"]
    scheduled_departure, scheduled_arrival, seen = np.empty((3, len(date)), dtype=np.int64)
    for zone, at in _by_zone(airports, raw["origin"]):
        local = date[at] * clocks.DAY_MINUTES + raw["sched_dep_time"][at]
        scheduled_departure[at] = clocks.to_utc(local, zone)
    departed = scheduled_departure + np.where(delay == MISSING, 0, delay)
    for zone, at in _by_zone(airports, raw["dest"]):
        clock, landing = raw["sched_arr_time"][at], raw["arr_time"][at]
        scheduled_arrival[at] = clocks.first_after(scheduled_departure[at], date[at], clock, zone)
        seen[at] = clocks.first_after(departed[at], departed[at] // clocks.DAY_MINUTES, landing, zone)
    planned = departed + (scheduled_arrival - scheduled_departure)
    diverted = np.where(raw["arr_time"] == MISSING, planned, seen)
    arrived = np.where(raw["arr_delay"] == MISSING, diverted, scheduled_arrival + raw["arr_delay"])
    return Flights(
        day=date,
        airline=raw["carrier"],
        number=raw["flight"],
        plane=raw["tailnum"],
        origin=raw["origin"],
        destination=raw["dest"],
        scheduled_departure=scheduled_departure,
        scheduled_arrival=scheduled_arrival,
        departed=np.where(delay == MISSING, MISSING, departed),
        ended=np.where(delay == MISSING, scheduled_departure, np.maximum(arrived, departed + 1)),
        departure_delay=delay,
        arrival_delay=raw["arr_delay"],
    )


def _by_zone(airports: list[AirportRow], places: Numbers) -> Iterator[tuple[ZoneInfo, NDArray[np.bool_]]]:
    """Yield each time zone that these places are in, with which of them are in it."""
    named: dict[str, list[int]] = {}
    for place in np.unique(places):
        named.setdefault(airports[place].zone, []).append(place)
    for name, members in named.items():
        yield _zone(name), np.isin(places, members)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        expected = "a time zone that this machine knows (pip install tzdata)"
        raise BadData(HERE / "airports.csv.gz", expected, column="tzone", value=name) from error

"""The demo's data: what is read is what the files say, moments are right, and what is wrong is named.

The clocks are proven by the flights themselves: no flight may take less time than it was in the air, which a
single wrong time zone or day would break. Errors are provoked by changing one value of a small, right file.
"""

import csv
import gzip
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

import klerk
from klerk.demo import board, clocks
from klerk.demo.columns import MISSING
from klerk.demo.csvfile import BadData
from klerk.demo.data import JANUARY, Data, flight_key, load
from klerk.demo.stream import Kind, creates_job, stream_of

HEADER = (
    "year,month,day,carrier,flight,tailnum,origin,dest,sched_dep_time,dep_time,dep_delay,"
    "sched_arr_time,arr_time,arr_delay,air_time,distance"
)
ON_TIME = "2013,1,1,UA,1545,N14228,EWR,IAH,515,517,2,819,830,11,227,1400"
OVER_MIDNIGHT = "2013,1,1,B6,22,N12345,JFK,SJU,2359,59,60,400,2400,-240,100,1598"
CANCELLED = "2013,1,2,AA,791,,LGA,DFW,1500,,,1825,,,,1389"
DIVERTED = "2013,1,2,EV,4321,N16561,EWR,XNA,1200,1230,30,1500,,,,1131"


@pytest.fixture(scope="module")
def january() -> Data:
    return load()


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def changed(line: str, **values: str) -> str:
    """The line with some of its values replaced."""
    row = dict(zip(HEADER.split(","), line.split(","), strict=True))
    assert values.keys() <= row.keys()
    return ",".join((row | values).values())


def test_january_is_read_whole(january: Data) -> None:
    flights = january.flights
    assert len(flights) == 27_004
    assert np.count_nonzero(flights.is_cancelled) == 521
    assert np.count_nonzero(flights.is_diverted) == 85
    assert np.count_nonzero(flights.plane == MISSING) == 155
    unlisted = [row.code for row in january.airports if row.name is None]
    assert sorted(unlisted) == ["BQN", "PSE", "SJU", "STT"]
    assert len(january.airlines) == 16
    assert len(january.airports) == 1_458 + 4
    assert len({flight_key(january, row) for row in range(len(flights))}) == len(flights)


def test_no_flight_takes_less_time_than_it_was_in_the_air(january: Data) -> None:
    with gzip.open(JANUARY, "rt", encoding="utf-8") as file:
        in_the_air = np.array([int(row["air_time"] or MISSING) for row in csv.DictReader(file)])
    flights = january.flights
    arrived = ~flights.is_cancelled & ~flights.is_diverted
    on_the_ground = (flights.ended - flights.departed - in_the_air)[arrived]
    assert len(on_the_ground) == 26_398
    assert on_the_ground.min() > 0
    # Taxiing takes minutes; an hour too many would be a wrong time zone.
    assert np.median(on_the_ground) < 45
    assert on_the_ground.max() < 240


def test_local_times_become_moments(tmp_path: Path) -> None:
    data = load(write(tmp_path / "flights.csv", ON_TIME, OVER_MIDNIGHT, CANCELLED, DIVERTED))
    flights = data.flights

    def moments(column: np.ndarray) -> list[datetime]:
        return [clocks.moment(int(minute)) for minute in column]

    # New York is 5 hours behind UTC in January, Houston 6, Puerto Rico (in no list of airports) 4.
    assert moments(flights.scheduled_departure)[:2] == [
        datetime(2013, 1, 1, 10, 15, tzinfo=UTC),
        datetime(2013, 1, 2, 4, 59, tzinfo=UTC),
    ]
    assert moments(flights.departed)[:2] == [
        datetime(2013, 1, 1, 10, 17, tzinfo=UTC),
        datetime(2013, 1, 2, 5, 59, tzinfo=UTC),
    ]
    assert moments(flights.scheduled_arrival)[:2] == [
        datetime(2013, 1, 1, 14, 19, tzinfo=UTC),
        datetime(2013, 1, 2, 8, 0, tzinfo=UTC),
    ]
    assert moments(flights.ended) == [
        datetime(2013, 1, 1, 14, 30, tzinfo=UTC),
        # No flight comes down before it left, whatever the file says.
        datetime(2013, 1, 2, 6, 0, tzinfo=UTC),
        datetime(2013, 1, 2, 20, 0, tzinfo=UTC),
        # The scheduled 4 hours after it left, because nothing better is known.
        datetime(2013, 1, 2, 21, 30, tzinfo=UTC),
    ]
    assert flights.departed[2] == MISSING
    assert flights.is_cancelled.tolist() == [False, False, True, False]
    assert flights.is_diverted.tolist() == [False, False, False, True]


def test_clocks_that_change() -> None:
    zone = ZoneInfo("America/New_York")
    for day, hour in [(10, 1), (10, 3), (9, 2), (11, 23)]:
        local = datetime(2013, 3, day, hour, 30, tzinfo=zone)
        count = (
            datetime(2013, 3, day, hour, 30, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        ).total_seconds()
        found = clocks.to_utc(np.array([int(count) // 60]), zone)
        assert clocks.moment(int(found[0])) == local


def test_stream_is_in_order_and_complete(january: Data) -> None:
    stream, flights = stream_of(january), january.flights
    assert len(stream) == 27_004 * 3 - 521
    assert (np.diff(stream.minute) >= 0).all()
    for row in range(0, len(flights), 97):
        kinds = stream.kind[stream.row == row].tolist()
        if flights.is_cancelled[row]:
            assert kinds == [Kind.SCHEDULE, Kind.CANCEL]
        else:
            last = Kind.DIVERT if flights.is_diverted[row] else Kind.ARRIVE
            assert kinds == [Kind.SCHEDULE, Kind.DEPART, last]
    assert np.count_nonzero(creates_job(flights, stream)) == 1_852 + 521 + 85
    again = stream_of(january)
    assert all((getattr(stream, name) == getattr(again, name)).all() for name in ("minute", "kind", "row"))


def test_first_days() -> None:
    assert len(load(days=1).flights) == 842
    assert len(load(days=2).flights) == 842 + 943
    assert len(load(days=1_000).flights) == 27_004


def test_gzipped_or_plain_in_any_order_of_columns(tmp_path: Path) -> None:
    plain = write(tmp_path / "flights.csv", ON_TIME)
    names, values = HEADER.split(","), ON_TIME.split(",")
    turned = tmp_path / "turned.csv.gz"
    with gzip.open(turned, "wt", encoding="utf-8") as file:
        file.write(",".join(reversed(names)) + "\r\n\r\n" + ",".join(reversed(values)))
    for name in ("scheduled_departure", "ended", "destination", "plane"):
        assert getattr(load(plain).flights, name).tolist() == getattr(load(turned).flights, name).tolist()


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("dep_time", "517x", "a local time as hhmm"),
        ("dep_time", "-517", "a local time as hhmm"),
        ("dep_time", "560", "a local time as hhmm"),
        ("dep_time", "2401", "a local time as hhmm"),
        ("sched_dep_time", "", "a local time as hhmm"),
        ("dep_delay", "1_0", "a whole number"),
        ("dep_delay", "²", "a whole number"),
        ("dep_delay", "9999", "a whole number from -120 to 4320 minutes"),
        ("year", "13", "a whole number from 1900"),
        ("month", "13", "a whole number from 1 to 12"),
        ("day", "0", "a whole number from 1 to 31"),
        ("day", "32", "a whole number from 1 to 31"),
        ("carrier", "ZZ", "an airline: one of 9E, AA"),
        ("origin", "ewr", "an airport's code"),
        ("dest", "", "an airport's code"),
        ("dest", "EWR", "a destination that is not the origin"),
        ("tailnum", "N 1", "tail number"),
        ("distance", "1e3", "a whole number"),
        ("flight", "1" * 500, "a whole number"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(
    tmp_path: Path, column: str, value: str, expected: str
) -> None:
    file = write(tmp_path / "flights.csv", *[CANCELLED, ""], *[changed(ON_TIME, **{column: value})] * 2)
    with pytest.raises(klerk.InvalidValue) as caught:
        load(file)
    error = caught.value
    assert isinstance(error, BadData)
    assert (error.file, error.line, error.column) == (file, 4, column)
    assert expected in error.expected
    text = str(error)
    assert str(file) in text
    assert "line 4" in text
    assert column in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"dep_delay": ""}, "dep_time and dep_delay both"),
        ({"dep_time": "", "dep_delay": ""}, "no arr_time without a dep_time"),
        ({"arr_time": ""}, "no arr_delay without an arr_time"),
        ({"month": "2", "day": "29"}, "a day that the month has"),
        ({"carrier": "AA", "flight": "791", "origin": "LGA", "day": "2"}, "only once a day"),
    ],
)
def test_values_that_contradict_each_other(tmp_path: Path, values: dict[str, str], expected: str) -> None:
    file = write(tmp_path / "flights.csv", CANCELLED, changed(ON_TIME, **values))
    with pytest.raises(BadData, match=expected) as caught:
        load(file)
    assert caught.value.line == 3


def test_columns_that_are_missing_unknown_or_double(tmp_path: Path) -> None:
    file = tmp_path / "flights.csv"
    for header, column in [
        (HEADER.replace("dep_delay,", "", 1), "dep_delay"),
        (HEADER + ",weather", "'weather'"),
        (HEADER + ",year", "year"),
    ]:
        file.write_text(f"{header}\n{ON_TIME}\n", encoding="utf-8")
        with pytest.raises(BadData) as caught:
            load(file)
        assert (caught.value.line, caught.value.column) == (1, column)
    for text, line in [("", 1), (f"{HEADER}\n", 0), (f"{HEADER}\n{ON_TIME}\n1,2\n", 3)]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(BadData) as caught:
            load(file)
        assert caught.value.line == line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="there is none"):
        load(tmp_path / "nowhere.csv.gz")
    with pytest.raises(BadData, match="a file that can be read"):
        load(tmp_path)
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(JANUARY.read_bytes()[:100_000])
    with pytest.raises(BadData, match="a whole gzip file"):
        load(cut)
    damaged = tmp_path / "damaged.csv.gz"
    damaged.write_bytes(JANUARY.read_bytes()[:50_000] + b"\0" * 1_000 + JANUARY.read_bytes()[51_000:])
    with pytest.raises(BadData):
        load(damaged)
    latin = tmp_path / "latin.csv"
    latin.write_bytes(f"{HEADER}\n{ON_TIME}\n".encode().replace(b"UA", b"\xe9A"))
    with pytest.raises(BadData, match="UTF-8"):
        load(latin)
    quoted = write(tmp_path / "quoted.csv", ON_TIME, '2013,"1')
    with pytest.raises(BadData, match="csv"):
        load(quoted)


def test_the_board_is_a_bad_evening(january: Data) -> None:
    place = board.busiest(january)
    assert place.airport == "EWR"
    assert clocks.moment(place.minute) == datetime(2013, 1, 31, 22, 0, tzinfo=UTC)

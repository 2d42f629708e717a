"""Sends the stream through durable commands, many in flight, and goes on where an earlier run stopped."""

import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

import klerk
from klerk import Ref
from klerk.demo import clocks, design
from klerk.demo.columns import MISSING
from klerk.demo.data import AirportRow, Data, PlaneRow, flight_key
from klerk.demo.design import PLANNER, PUBLIC, TOWER, Airline, Airport, Flight, Plane
from klerk.demo.stream import STAGES, Kind, stream_of

# Commands that are submitted and not yet acknowledged: enough to fill groups, few enough to wait little.
IN_FLIGHT_MAX = 256

# Events whose numbers are taken out of the arrays at a time.
CHUNK_EVENTS = 4_096

# The demo's jobs write a line each; what takes longer than this hangs.
JOBS_WAIT_SECONDS_MAX = 300.0

M = TypeVar("M", bound=klerk.Model)


def _ignore(_: int) -> None:
    """Do nothing with a number."""


class Pending(Protocol):
    """A command in flight, as `Klerk.submit` returns it."""

    def result(self) -> Any:
        """Wait for the outcome."""

    def exception(self) -> BaseException | None:
        """Wait for the outcome, and return the error if it is one."""


@dataclass(slots=True, kw_only=True)
class Figures:
    """What a run did: commands, the seconds that they took, and each command's time to acknowledgement."""

    references: int = 0
    commands: int = 0
    seconds: float = 0.0
    latencies_ns: "array[int]" = field(default_factory=lambda: array("q"))

    def latency_ms(self, percent: float) -> float:
        """Return the time to acknowledgement that this share of the commands did not exceed."""
        if not self.latencies_ns:
            return 0.0
        return float(np.percentile(np.frombuffer(self.latencies_ns, dtype=np.int64), percent)) / 1e6


class Clock:
    """Tells jobs the time of the replay, as `App.open` takes it."""

    def __init__(self) -> None:
        self.now = clocks.moment(0)

    def __call__(self) -> datetime:
        """Return the time of the last event that was sent."""
        return self.now


class Replay:
    """One run of the data against an open store.

    Parameters:
        k: the open store.
        clock: the one that it was opened with, which the replay sets.
        data: what to replay.
        acknowledged: called with an event's number when its command is acknowledged, from other threads
            and in no strict order.
        progress: called with the number of events done since the last call.
    """

    def __init__(
        self,
        k: klerk.Klerk,
        clock: Clock,
        data: Data,
        *,
        acknowledged: Callable[[int], object] = _ignore,
        progress: Callable[[int], object] = _ignore,
    ) -> None:
        self.k = k
        self._clock = clock
        self.data = data
        self.stream = stream_of(data)
        self.figures = Figures()
        self._acknowledged = acknowledged
        self._progress = progress
        self._window: deque[tuple[Pending, int, int]] = deque()
        self._flights: list[Ref[Flight] | None] = [None] * len(data.flights)
        self._airlines: list[Ref[Airline]] = []
        self._airports: list[Ref[Airport]] = []
        self._planes: list[Ref[Plane]] = []

    def prepare(self) -> NDArray[np.int64]:
        """Enter the airlines, airports and planes that are missing; return the numbers of the events left."""
        start = clocks.moment(int(self.stream.minute[0]))
        reading, data = klerk.Context(PUBLIC, now=start), self.data
        with self.k.read(reading) as r:
            missing = missing_references(r, data)
        if missing:
            # One transaction: whoever starts again after a crash finds all of them or none.
            self.k.handle_all(missing, klerk.Context(PLANNER, now=start))
        self.figures.references = len(missing)
        with self.k.read(reading) as r:
            self._airlines = [_found(r.find(design.airline_by_code, row.carrier)) for row in data.airlines]
            self._airports = [_found(r.find(design.airport_by_code, row.code)) for row in data.airports]
            self._planes = [
                _found(r.find(design.plane_by_tail_number, row.tail_number)) for row in data.planes
            ]
            stages = self._find_flights(r)
        return np.flatnonzero(stages[self.stream.row] < self.stream.stage)

    def send(self, numbers: NDArray[np.int64]) -> None:
        """Submit the events with these numbers; the last of them may still be in flight afterwards."""
        started = time.perf_counter()
        stream = self.stream
        for begin in range(0, len(numbers), CHUNK_EVENTS):
            chunk = numbers[begin : begin + CHUNK_EVENTS]
            columns = (chunk, stream.minute[chunk], stream.kind[chunk], stream.row[chunk])
            for number, minute, kind, row in zip(*(column.tolist() for column in columns), strict=True):
                self._submit(number, minute, kind, row)
        self.figures.seconds += time.perf_counter() - started

    def finish(self) -> None:
        """Wait until everything that was sent is acknowledged."""
        started = time.perf_counter()
        self._take(len(self._window))
        self.figures.seconds += time.perf_counter() - started

    def _submit(self, number: int, minute: int, kind: int, row: int) -> None:
        if len(self._window) >= IN_FLIGHT_MAX:
            # Half of them at once: to be woken for each single one would cost more than the command.
            self._take(IN_FLIGHT_MAX // 2)
        actor = PLANNER if kind == Kind.SCHEDULE else TOWER
        command = self._schedule(row) if kind == Kind.SCHEDULE else _EVENTS[kind](self._scheduled(row))
        self._clock.now = clocks.moment(minute)
        context = klerk.Context(actor, now=self._clock.now)
        submitted = time.perf_counter_ns()
        future = self.k.submit(command, context)
        self._window.append((future, kind, row))
        future.add_done_callback(partial(self._on_done, number, submitted))

    def _on_done(self, number: int, submitted: int, future: Pending) -> None:
        """Note an acknowledgement; runs in the thread that completes the future, so it is short."""
        if future.exception() is None:
            self.figures.latencies_ns.append(time.perf_counter_ns() - submitted)
            self._acknowledged(number)

    def _take(self, count: int) -> None:
        """Wait for the oldest commands in flight, and keep the references of the flights they created."""
        if count:
            self._window[count - 1][0].result()
        for _ in range(count):
            future, kind, row = self._window.popleft()
            result = future.result()
            if kind == Kind.SCHEDULE:
                self._flights[row] = result.id
        self.figures.commands += count
        self._progress(count)

    def _scheduled(self, row: int) -> Ref[Flight]:
        """Return a flight's reference, once it is known."""
        if self._flights[row] is None:
            self._take(len(self._window))
        flight = self._flights[row]
        assert flight is not None, "a flight is scheduled before anything else happens to it"
        return flight

    def _schedule(self, row: int) -> klerk.Command:
        flights = self.data.flights
        airline, plane = flights.airline[row], flights.plane[row]
        return design.schedule(
            key=design.FlightKey(flight_key(self.data, row)),
            number=design.FlightNumber(f"{self.data.airlines[airline].carrier}{flights.number[row]}"),
            airline=self._airlines[airline],
            plane=None if plane == MISSING else self._planes[plane],
            origin=self._airports[flights.origin[row]],
            destination=self._airports[flights.destination[row]],
            departs=clocks.moment(int(flights.scheduled_departure[row])),
            arrives=clocks.moment(int(flights.scheduled_arrival[row])),
        )

    def _find_flights(self, r: klerk.Reader) -> NDArray[np.int64]:
        """Find the flights that an earlier run left, and return each flight's stage."""
        stages = np.zeros(len(self.data.flights), dtype=np.int64)
        if r.count(design.flight):
            for row in range(len(stages)):
                flight = r.find(design.flight_by_key, flight_key(self.data, row))
                if flight is not None:
                    self._flights[row] = flight.meta.id
                    stages[row] = STAGES[flight.meta.state.name]
        return stages


_EVENTS: dict[int, Callable[[Ref[Flight]], klerk.Command]] = {
    Kind.DEPART: design.depart,
    Kind.ARRIVE: design.arrive,
    Kind.DIVERT: design.divert,
    Kind.CANCEL: design.cancel,
}


def missing_references(r: klerk.Reader, data: Data) -> list[klerk.Command]:
    """Return the commands that enter the airlines, airports and planes that the store does not have yet."""
    airlines = [
        design.found_airline(code=design.Code(row.carrier), name=design.Name(row.name))
        for row in data.airlines
        if r.find(design.airline_by_code, row.carrier) is None
    ]
    airports = [
        _enter_airport(row) for row in data.airports if r.find(design.airport_by_code, row.code) is None
    ]
    planes = [
        _enter_plane(row)
        for row in data.planes
        if r.find(design.plane_by_tail_number, row.tail_number) is None
    ]
    return [*airlines, *airports, *planes]


def _enter_airport(row: AirportRow) -> klerk.Command:
    code, zone = design.Code(row.code), design.Zone(row.zone)
    if row.name is None:
        return design.mention_airport(code=code, zone=zone)
    return design.open_airport(code=code, name=design.Name(row.name), zone=zone)


def _enter_plane(row: PlaneRow) -> klerk.Command:
    tail_number = design.TailNumber(row.tail_number)
    if row.manufacturer is None or row.model is None or row.seats is None:
        return design.sight_plane(tail_number=tail_number)
    return design.register_plane(
        tail_number=tail_number,
        manufacturer=design.Name(row.manufacturer),
        model=design.Name(row.model),
        seats=design.Seats(row.seats),
        built=None if row.built_year is None else design.Year(row.built_year),
    )


def wait_for_jobs(k: klerk.Klerk) -> None:
    """Wait until no job is left to run.

    Raises:
        TimeoutError: that took more than `JOBS_WAIT_SECONDS_MAX`.
    """
    if not k.jobs.wait_until_idle(JOBS_WAIT_SECONDS_MAX):
        raise TimeoutError(f"jobs still run after {JOBS_WAIT_SECONDS_MAX} seconds: {dict(k.jobs.counts())}")


def _found(model: M | None) -> Ref[M]:
    assert model is not None, "everything that flights refer to was entered before"
    return model.meta.id

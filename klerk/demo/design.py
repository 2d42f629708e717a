"""The demo's design: airlines, airports and planes, and the flights that bring them together.

    scheduled --depart--> departed --arrive--> arrived
        |                     `-----divert---> diverted
        `------cancel----> cancelled

When a flight leaves an hour late, is cancelled or diverted, a job tells its passengers and leaves a `Notice`
behind. No function here asks what time it is: `a.now` comes with the command.
"""

import os
from datetime import datetime, timedelta
from pathlib import Path

import klerk
from klerk import Args, Context, JobRun, Model, Ref, User

# A flight this many minutes late is worth a word to its passengers.
LATE_MINUTES = 60

# Boarding ends before a flight leaves, but no flight leaves earlier than this.
EARLIEST_DEPARTURE = timedelta(hours=2)


class Code(klerk.Text, min=2, max=3, pattern="[A-Z0-9]+"): ...


class Name(klerk.Text, min=1, max=120): ...


class Zone(klerk.Text, min=1, max=40): ...


class TailNumber(klerk.Text, min=2, max=8, pattern="[A-Z0-9]+"): ...


class Seats(klerk.Int, ge=1, le=1_000): ...


class Year(klerk.Int, ge=1900, le=2100): ...


class FlightNumber(klerk.Text, min=3, max=6, pattern="[A-Z0-9]{2}[0-9]{1,4}"): ...


class FlightKey(klerk.Text, min=18, max=24): ...


class Minutes(klerk.Int, ge=-300, le=4_320): ...


class Reason(klerk.Enum):
    """Why passengers are told."""

    LATE = "late"
    CANCELLED = "cancelled"
    DIVERTED = "diverted"


class Airline(Model):
    code: Code
    name: Name


class Airport(Model):
    code: Code
    name: Name | None
    zone: Zone


class Plane(Model):
    tail_number: TailNumber
    manufacturer: Name | None
    model: Name | None
    seats: Seats | None
    built: Year | None


class Flight(Model):
    key: FlightKey
    number: FlightNumber
    airline: Ref[Airline]
    plane: Ref[Plane] | None
    origin: Ref[Airport]
    destination: Ref[Airport]
    departs: datetime
    arrives: datetime
    departed: datetime | None = None
    arrived: datetime | None = None
    departure_delay: Minutes | None = None
    arrival_delay: Minutes | None = None


class Notice(Model):
    flight: Ref[Flight]
    reason: Reason


def quarter(moment: datetime) -> datetime:
    """Return the beginning of the quarter of an hour that a moment is in."""
    return moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0)


app = klerk.App("flights")

airline, airport, plane = app.machine(Airline), app.machine(Airport), app.machine(Plane)
flight, notice = app.machine(Flight), app.machine(Notice)

(operating,) = airline.states("operating", final=("operating",))
listed, unlisted = airport.states("listed", "unlisted", final=("listed",))
registered, unregistered = plane.states("registered", "unregistered", final=("registered",))
scheduled, departed, arrived, diverted, cancelled = flight.states(
    "scheduled", "departed", "arrived", "diverted", "cancelled", final=("arrived", "diverted", "cancelled")
)
(sent,) = notice.states("sent", final=("sent",))

airline_by_code = airline.index(lambda m: m.code, unique=True)
airport_by_code = airport.index(lambda m: m.code, unique=True)
plane_by_tail_number = plane.index(lambda m: m.tail_number, unique=True)
flight_by_key = flight.index(lambda m: m.key, unique=True)
departures = flight.index(lambda m: (m.origin, quarter(m.departs)))
notice_by_reason = notice.index(lambda m: (m.flight, m.reason), unique=True)


# --- what flights need --------------------------------------------------------------------------------


@airline.create(into=operating)
def found_airline(a: Args, code: Code, name: Name) -> Airline:
    """Enter an airline."""
    return Airline(code=code, name=name)


@airport.create(into=listed)
def open_airport(a: Args, code: Code, name: Name, zone: Zone) -> Airport:
    """Enter an airport."""
    return Airport(code=code, name=name, zone=zone)


@airport.create(into=unlisted)
def mention_airport(a: Args, code: Code, zone: Zone) -> Airport:
    """Enter an airport of which only the code is known."""
    return Airport(code=code, name=None, zone=zone)


@airport.event(unlisted, to=listed)
def list_airport(a: Args[Airport], name: Name) -> Airport:
    """Enter the name of an airport of which only the code was known."""
    return a.model.replace(name=name)


@plane.create(into=registered)
def register_plane(
    a: Args, tail_number: TailNumber, manufacturer: Name, model: Name, seats: Seats, built: Year | None
) -> Plane:
    """Enter a plane from the register."""
    return Plane(tail_number=tail_number, manufacturer=manufacturer, model=model, seats=seats, built=built)


@plane.create(into=unregistered)
def sight_plane(a: Args, tail_number: TailNumber) -> Plane:
    """Enter a plane of which only the tail number is known."""
    return Plane(tail_number=tail_number, manufacturer=None, model=None, seats=None, built=None)


@plane.event(unregistered, to=registered)
def identify_plane(a: Args[Plane], manufacturer: Name, model: Name, seats: Seats) -> Plane:
    """Complete a plane that was not in the register."""
    return a.model.replace(manufacturer=manufacturer, model=model, seats=seats)


# --- the life of a flight -----------------------------------------------------------------------------


@flight.create(into=scheduled)
def schedule(
    a: Args,
    key: FlightKey,
    number: FlightNumber,
    airline: Ref[Airline],
    plane: Ref[Plane] | None,
    origin: Ref[Airport],
    destination: Ref[Airport],
    departs: datetime,
    arrives: datetime,
) -> Flight:
    """Publish a flight."""
    return Flight(
        key=key,
        number=number,
        airline=airline,
        plane=plane,
        origin=origin,
        destination=destination,
        departs=departs,
        arrives=arrives,
    )


@flight.event(scheduled, to=departed)
def depart(a: Args[Flight]) -> Flight:
    """Leave the gate."""
    return a.model.replace(departed=a.now, departure_delay=minutes_late(a.now, a.model.departs))


@flight.event(departed, to=arrived)
def arrive(a: Args[Flight]) -> Flight:
    """Reach the gate of the destination."""
    return a.model.replace(arrived=a.now, arrival_delay=minutes_late(a.now, a.model.arrives))


@flight.event(departed, to=diverted)
def divert(a: Args[Flight]) -> None:
    """Come down somewhere else, or too late to count."""


@flight.event(scheduled, to=cancelled)
def cancel(a: Args[Flight]) -> None:
    """Call the flight off."""


@notice.create(into=sent)
def note(a: Args, flight: Ref[Flight], reason: Reason) -> Notice:
    """Record that the passengers of a flight were told."""
    return Notice(flight=flight, reason=reason)


def minutes_late(now: datetime, planned: datetime) -> Minutes:
    """Return by how many minutes `now` is later than planned; negative when it is earlier."""
    return Minutes((now - planned) // timedelta(minutes=1))


# --- rules --------------------------------------------------------------------------------------------


@schedule.rule
def goes_somewhere(a: Args, origin: Ref[Airport], destination: Ref[Airport]) -> bool:
    """A flight ends at another airport than it starts from."""
    return origin != destination


@schedule.rule
def takes_time(a: Args, departs: datetime, arrives: datetime) -> bool:
    """A flight arrives after it departs."""
    return departs < arrives


@schedule.rule
def airline_operates(a: Args, airline: Ref[Airline]) -> bool:
    """Only an operating airline may publish flights."""
    return a.read.get(airline).meta.state == operating


@depart.rule
def not_far_too_early(a: Args[Flight]) -> bool:
    """A flight leaves at most two hours before its time."""
    return a.now >= a.model.departs - EARLIEST_DEPARTURE


@arrive.rule
def was_in_the_air(a: Args[Flight]) -> bool:
    """A flight arrives after it departed."""
    return a.model.departed is not None and a.model.departed < a.now


# --- jobs ---------------------------------------------------------------------------------------------


@app.job(queue="passengers", max_attempts=5)
def tell_of_delay(job: JobRun, flight: Ref[Flight]) -> None:
    """Tell the passengers that their flight left late."""
    tell(job, flight, Reason.LATE)


@app.job(queue="passengers", max_attempts=5)
def tell_of_cancellation(job: JobRun, flight: Ref[Flight]) -> None:
    """Tell the passengers that their flight is called off."""
    tell(job, flight, Reason.CANCELLED)


@app.job(queue="passengers", max_attempts=5)
def tell_of_diversion(job: JobRun, flight: Ref[Flight]) -> None:
    """Tell those who wait that the flight came down somewhere else."""
    tell(job, flight, Reason.DIVERTED)


REASONS = {
    tell_of_delay.name: Reason.LATE,
    tell_of_cancellation.name: Reason.CANCELLED,
    tell_of_diversion.name: Reason.DIVERTED,
}


def tell(job: JobRun, flight: Ref[Flight], reason: Reason) -> None:
    """Send the mail and leave a notice.

    A job whose process is killed runs again, unless its end was recorded. The mail may then go out a second
    time, but the notice is left only once.
    """
    with job.read() as r:
        text = message(r.get(flight).key, reason)
        is_noted = r.find(notice_by_reason, (flight, reason)) is not None
    Mailbox.deliver(text)
    if not is_noted:
        job.handle(note(flight, reason))


def message(key: str, reason: Reason) -> str:
    """Return what the passengers of a flight are told."""
    return f"{key} is {reason.value}"


class Mailbox:
    """Stands for the world outside: a file which gets one line for each time that a job ran.

    The file is named by the environment, because jobs know nothing of who started the process. Without it the
    mail goes nowhere.
    """

    VARIABLE = "KLERK_DEMO_MAILBOX"

    @classmethod
    def deliver(cls, text: str) -> None:
        """Write the text as a line, and return when it would survive a killed process and a power cut."""
        if path := os.environ.get(cls.VARIABLE):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())


def is_late(a: Args[Flight]) -> bool:
    """Tell whether the flight left so late that its passengers should hear of it."""
    return a.model.departure_delay is not None and a.model.departure_delay >= LATE_MINUTES


departed.on_enter.job(tell_of_delay, when=is_late)
cancelled.on_enter.job(tell_of_cancellation)
diverted.on_enter.job(tell_of_diversion)


# --- who may do what ----------------------------------------------------------------------------------

PLANNER = User("planner", roles=frozenset({"planning"}))
TOWER = User("tower", roles=frozenset({"tower"}))
PUBLIC = User("board", roles=frozenset({"public"}))


@app.allow.command(
    found_airline,
    open_airport,
    mention_airport,
    list_airport,
    register_plane,
    sight_plane,
    identify_plane,
    schedule,
)
def planners_plan(a: Args) -> bool:
    return "planning" in a.context.actor.roles


@app.allow.command(depart, arrive, divert, cancel)
def the_tower_controls(a: Args) -> bool:
    return "tower" in a.context.actor.roles


@app.allow.read(Airline, Airport, Plane, Flight, Notice)
def everyone_reads(a: Args) -> bool:
    return True


@app.allow.field(Airline, Airport, Plane, Flight, Notice)
def everyone_reads_fields(a: Args) -> bool:
    return True


def context(actor: User, now: datetime) -> Context:
    """Return the context in which an actor does something at a moment of the replay."""
    return Context(actor, now=now)

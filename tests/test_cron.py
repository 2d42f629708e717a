"""Cron: one job for each time that an expression names, in its zone, whatever happens in between.

The times themselves are held against a search minute by minute, at the changes of zones that change at night,
at midnight, by half an hour, or by a whole day. The rest goes through the public API with the test's own
clock: restarts, missed times, clocks that jump, expressions that change, processes that are killed.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from designs import NOON, Bank, Clock, eventually, run_python

import klerk
from klerk import App, JobRun, JobState
from klerk.cron_ticks import Ticks

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set at once."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- the times ----------------------------------------------------------------------------------------

# Zone and a day on which its clocks change.
CHANGES = [
    ("Europe/Berlin", "2024-03-31"),
    ("Europe/Berlin", "2024-10-27"),
    ("America/Havana", "2024-11-03"),  # back at one o'clock, to midnight
    ("America/Santiago", "2024-09-08"),  # forth at midnight
    ("America/Santiago", "2024-04-07"),  # back at midnight
    ("Australia/Lord_Howe", "2024-10-06"),  # by half an hour
    ("Australia/Lord_Howe", "2024-04-07"),
    ("Pacific/Apia", "2011-12-30"),  # a day that was left out
    ("UTC", "2024-03-31"),
]
MOMENTS = ["*/30 * * * *", "*/20 0 * * *", "*/15 2 * * *", "0 */2 * * *", "7 * * * *"]
TIMES_OF_DAY = ["30 2 * * *", "0,30 0-3 * * *", "0 0 * * *", "0 12 * * *", "15 1 * * *", "0 2 * * *"]


def matches(expression: str, shown: datetime) -> bool:
    return next(CronSim(expression, shown - timedelta(seconds=1))) == shown


def searched(expression: str, zone: str, start: datetime, end: datetime) -> Iterator[int]:
    """Every minute, in order, at which the clock on the wall shows what the expression names: for times of
    day, those that it jumps over too, and none that it showed before."""
    minute, shown_before = start, start.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
    while minute < end:
        minute += timedelta(minutes=1)
        shown = minute.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
        if expression in MOMENTS:
            if matches(expression, shown):
                yield us(minute)
            continue
        passed = shown_before
        while passed < shown:
            passed += timedelta(minutes=1)
            if matches(expression, passed):
                yield us(minute)
                break
        shown_before = max(shown, shown_before)


@pytest.mark.parametrize(("zone", "day"), CHANGES)
@pytest.mark.parametrize("expression", MOMENTS + TIMES_OF_DAY)
def test_times_at_a_change_of_the_clock(zone: str, day: str, expression: str, rng: Random) -> None:
    start, end = at(day) - timedelta(hours=14), at(day) + timedelta(hours=30)
    ticks = Ticks(expression, zone)
    expected = list(searched(expression, zone, start, end))
    assert ticks.newest(us(start), us(end), 1_000_000) == expected
    # Wherever the search begins, each is found once.
    for _ in range(20):
        begin = us(start) + rng.randrange(44 * 3600) * 1_000_000 + rng.randrange(2)
        found = []
        tick = ticks.after(begin)
        while tick is not None and tick <= us(end):
            found.append(tick)
            tick = ticks.after(tick)
        assert found == [each for each in expected if each > begin], begin


def test_known_days() -> None:
    def shown(expression: str, day: str) -> list[str]:
        ticks = Ticks(expression, "Europe/Berlin")
        found = ticks.newest(us(at(day)) - 1, us(at(day) + HOUR * 5), 100)
        return [f"{datetime.fromtimestamp(each / 1e6, UTC):%H:%M}" for each in found]

    # Spring: from 2:00 to 3:00 at 1:00 UTC; autumn: from 3:00 to 2:00 at 1:00 UTC.
    assert shown("30 2 * * *", "2024-03-31") == ["01:00"]
    assert shown("30 2 * * *", "2024-10-27") == ["00:30"]
    assert shown("*/30 2 * * *", "2024-03-31") == []
    assert shown("*/30 2 * * *", "2024-10-27") == ["00:00", "00:30", "01:00", "01:30"]


def test_the_newest_of_many_and_rare_ones() -> None:
    noon = us(NOON)
    ticks = Ticks("*/5 * * * *", "Europe/Oslo")
    assert ticks.newest(0, noon, 3) == [noon - 600_000_000, noon - 300_000_000, noon]
    assert ticks.newest(noon, noon, 3) == []
    leap = Ticks("0 0 29 2 *", "UTC")
    assert leap.newest(0, noon, 2) == [us(at("2020-02-29")), us(at("2024-02-29"))]
    assert leap.newest(us(at("2020-02-29")), us(at("2024-02-28")), 2) == []
    assert Ticks("0 0 30 2 1", "UTC").after(noon) is not None  # the 30th or a Monday
    for expression in ("* * * * *", "0 3 * * *"):
        assert Ticks(expression, "Asia/Tokyo").after(us(at("9999-12-31T23:59"))) is None
    seconds = Ticks("*/20 * * * * *", "Europe/Oslo")
    assert seconds.after(noon) == noon + 20_000_000


# --- jobs of times ------------------------------------------------------------------------------------


class Night:
    """An app with one cron job, which writes down the times that it is run for."""

    def __init__(self, path: Path | None, clock: Clock, cron: str = "0 * * * *", **options: Any) -> None:
        self.path, self.clock = path, clock
        self.ran: list[datetime | None] = []
        self.app = App("night")

        @self.app.job(cron=cron, **options)
        def tick(job: JobRun) -> None:
            self.ran.append(job.tick)

        self.tick = tick

    def open(self, job_threads: int = 2) -> klerk.Klerk:
        return self.app.open(self.path, clock=self.clock, job_threads=job_threads, durability="process")

    def hours(self) -> list[str]:
        """The times that it ran for, with the number of their day in the year."""
        return sorted(f"{tick:%j %H:%M}" for tick in self.ran if tick is not None)


def settled(k: klerk.Klerk) -> None:
    """Wait until what is due by now was created and has run."""
    done = threading.Event()
    # Nothing public tells that the scheduler has looked at the clock. Times come before what is asked of it
    # for the same moment.
    k._manager._scheduler.at(k._manager._scheduler.now_us(), done.set)
    assert done.wait(20)
    assert k.jobs.wait_until_idle(20)


def wait_for(night: Night, count: int) -> None:
    eventually(lambda: len(night.ran) >= count)


def open_and_settle(night: Night, expected: int) -> None:
    with night.open() as k:
        wait_for(night, expected)
        settled(k)
        assert len(night.ran) == expected


def test_a_cron_job_knows_its_time(tmp_path: Path) -> None:
    clock = Clock(at("2024-06-01T00:59:59"))
    night = Night(None, clock, "0 3 * * *", timezone="Europe/Oslo")
    with night.open() as k:
        settled(k)
        assert night.ran == []
        clock.advance(timedelta(seconds=1))
        eventually(lambda: len(night.ran) == 1)
        (ran,) = night.ran
        assert ran == at("2024-06-01T01:00:00")
        assert str(ran) == "2024-06-01 03:00:00+02:00"
        k.jobs.schedule(night.tick())
        eventually(lambda: len(night.ran) == 2)
        assert night.ran[1] is None


def test_its_record_names_the_time_and_no_command() -> None:
    clock = Clock()
    app, go = App("night"), threading.Event()

    @app.job(cron="*/10 * * * *", timezone="Asia/Kathmandu")
    def tick(job: JobRun, text: str = "x") -> None:
        assert go.wait(20)

    with app.open(clock=clock) as k:
        clock.advance(timedelta(minutes=10))
        eventually(k.jobs.live)
        (record,) = k.jobs.live()
        assert (record.kind, record.arguments, record.cause) == ("tick", ("x",), 0)
        assert record.tick_us == us(at("2024-02-29T12:05"))
        assert record.created_us == us(clock.now)
        (by_hand,) = k.jobs.schedule(tick("y"))
        assert (by_hand.tick_us, by_hand.cause) == (0, k.sequence)
        go.set()


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("skip", []), ("once", ["060 17:00"]), ("all", [f"060 {hour}:00" for hour in range(13, 18)])],
)
def test_times_that_pass_while_nothing_is_open(tmp_path: Path, missed: str, expected: list[str]) -> None:
    clock = Clock()
    options: Any = {"missed": missed}
    # A time may be missed before there ever was one.
    with Night(tmp_path / "store", clock, **options).open():
        pass
    clock.advance(HOUR * 5 + timedelta(minutes=59))
    night = Night(tmp_path / "store", clock, **options)
    open_and_settle(night, len(expected))
    assert night.hours() == expected
    # None is missed twice.
    again = Night(tmp_path / "store", clock, **options)
    open_and_settle(again, 0)
    clock.advance(timedelta(minutes=1))
    later = Night(tmp_path / "store", clock, **options)
    open_and_settle(later, 0 if missed == "skip" else 1)


def test_once_is_the_default(tmp_path: Path) -> None:
    clock = Clock()
    with Night(tmp_path / "store", clock).open():
        pass
    clock.advance(DAY * 3)
    open_and_settle(Night(tmp_path / "store", clock), 1)


def test_only_so_many_missed_times_are_made_up_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.JOBS_MISSED_MAX", 3)
    clock = Clock()
    with Night(tmp_path / "store", clock, missed="all").open():
        pass
    clock.advance(HOUR * 3)
    night = Night(tmp_path / "store", clock, missed="all")
    open_and_settle(night, 3)
    assert "left out" not in caplog.text
    clock.advance(HOUR * 5)
    night = Night(tmp_path / "store", clock, missed="all")
    open_and_settle(night, 3)
    assert night.hours() == ["060 18:00", "060 19:00", "060 20:00"]
    assert "cron job tick missed more than 3 times since 2024-02-29T15:00:00+00:00" in caplog.text
    assert "before 2024-02-29T18:00:00+00:00 are left out" in caplog.text


def test_every_time_has_one_job_over_many_restarts(tmp_path: Path, rng: Random) -> None:
    """With clocks that go on, jump forth and back, while the store is open and in between."""
    clock = Clock()
    newest = NOON
    ran: list[str] = []
    for _ in range(12):
        night = Night(tmp_path / "store", clock, missed="all")
        newest = max(newest, clock.now)
        with night.open() as k:
            for _ in range(rng.randrange(3)):
                clock.advance(rng.choice([HOUR / 2, HOUR, HOUR * 3, -HOUR, -HOUR / 2]))
                newest = max(newest, clock.now)
                settled(k)
                settled(k)
        ran += night.hours()
        clock.advance(rng.choice([HOUR / 2, HOUR, HOUR * 3, -HOUR]))
    night = Night(tmp_path / "store", clock, missed="all")
    newest = max(newest, clock.now)
    hours = int((newest - NOON) / HOUR)
    expected = [f"{NOON + HOUR * (hour + 1):%j %H:%M}" for hour in range(hours)]
    with night.open() as k:
        eventually(lambda: len(ran + night.hours()) >= hours)
        settled(k)
    assert sorted(ran + night.hours()) == expected


def test_a_clock_that_jumps_while_the_store_is_open() -> None:
    clock = Clock()
    for missed, expected in (
        # On time is the time of three days later; it makes up for the others, unless all are asked for.
        ("skip", ["063 12:00"]),
        ("once", ["063 12:00"]),
        ("all", ["061 12:00", "062 12:00", "063 12:00"]),
    ):
        clock.now = NOON
        options: Any = {"missed": missed}
        night = Night(None, clock, "0 12 * * *", **options)
        with night.open() as k:
            clock.advance(DAY * 3)
            wait_for(night, len(expected))
            settled(k)
            assert night.hours() == expected
            # Back: what has had its job gets no other.
            clock.advance(-DAY * 2)
            settled(k)
            clock.advance(DAY * 2)
            settled(k)
            assert night.hours() == expected
            clock.advance(DAY)
            wait_for(night, len(expected) + 1)
            assert night.hours() == [*expected, "064 12:00"]


def test_a_time_that_came_while_the_machine_slept() -> None:
    for missed, expected in (("skip", []), ("once", ["061 12:00"])):
        clock = Clock()
        options: Any = {"missed": missed}
        night = Night(None, clock, "0 12 * * *", **options)
        with night.open() as k:
            clock.advance(DAY + HOUR)
            wait_for(night, len(expected))
            settled(k)
            assert night.hours() == expected


@pytest.mark.parametrize("changed", [{"cron": "30 * * * *"}, {"timezone": "Asia/Kolkata"}])
def test_a_changed_expression_means_nothing_for_old_times(tmp_path: Path, changed: dict[str, Any]) -> None:
    clock = Clock()
    with Night(tmp_path / "store", clock, missed="all").open():
        pass
    clock.advance(HOUR * 5 + timedelta(minutes=10))
    open_and_settle(Night(tmp_path / "store", clock, missed="all", **changed), 0)
    clock.advance(HOUR * 2)
    open_and_settle(Night(tmp_path / "store", clock, missed="all", **changed), 2)


def test_a_changed_expression_ends_the_silence_after_a_wrong_clock(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    with Night(tmp_path / "store", clock).open():
        pass
    clock.advance(DAY * 10_000)
    open_and_settle(Night(tmp_path / "store", clock), 1)
    assert "already" not in caplog.text
    clock.now = NOON
    open_and_settle(Night(tmp_path / "store", clock), 0)
    assert "cron job tick ran for 2051-07-17T12:00:00+00:00 already" in caplog.text
    clock.advance(HOUR)
    open_and_settle(Night(tmp_path / "store", clock), 0)
    with Night(tmp_path / "store", clock, "0 */1 * * *").open():
        pass
    clock.advance(HOUR)
    open_and_settle(Night(tmp_path / "store", clock, "0 */1 * * *"), 1)


def test_a_cron_job_that_is_gone_and_comes_back_begins_anew(tmp_path: Path) -> None:
    clock = Clock()
    with Night(tmp_path / "store", clock, missed="all").open():
        pass
    app = App("night")

    @app.job()
    def tick(job: JobRun) -> None: ...

    with app.open(tmp_path / "store", clock=clock):
        pass
    clock.advance(HOUR * 5)
    open_and_settle(Night(tmp_path / "store", clock, missed="all"), 0)


def test_without_workers_nothing_is_created(tmp_path: Path) -> None:
    clock = Clock()
    with Night(tmp_path / "store", clock).open(job_threads=0) as k:
        clock.advance(HOUR * 2)
        settled_without_workers = threading.Event()
        k._manager._scheduler.at(0, settled_without_workers.set)
        assert settled_without_workers.wait(20)
        assert (k.sequence, k.jobs.live()) == (0, ())
    # Once there are some, what was missed meanwhile is made up for.
    open_and_settle(Night(tmp_path / "store", clock), 1)


def test_a_time_is_not_lost_when_its_job_cannot_be_created(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.job_manager.cron._RETRY", 1_000_000)
    clock = Clock()
    night = Night(None, clock)
    broken = threading.Event()

    @night.app.context_provider
    def provide(actor: klerk.Actor, now: datetime) -> klerk.Context:
        if broken.is_set():
            raise ZeroDivisionError("no context")
        return klerk.Context(actor, now)

    with night.open() as k:
        broken.set()
        clock.advance(HOUR)
        eventually(lambda: "cannot be created" in caplog.text)
        assert night.ran == []
        broken.clear()
        clock.advance(timedelta(seconds=1))
        eventually(lambda: night.hours() == ["060 13:00"])
        settled(k)
        assert night.hours() == ["060 13:00"]


def test_many_cron_jobs_and_those_of_a_rename(tmp_path: Path) -> None:
    """Each kind has its own times, whatever its name is."""
    clock = Clock()
    bank = Bank()
    ran: list[str] = []
    for name in ("a", "ab", "ø", "z"):

        def work(job: JobRun, name: str = name) -> None:
            ran.append(name)

        work.__name__ = name
        bank.app.job(cron="0 * * * *", missed="all")(work)
    with bank.app.open(tmp_path / "store", clock=clock):
        pass
    clock.advance(HOUR * 2)
    with bank.app.open(tmp_path / "store", clock=clock) as k:
        eventually(lambda: len(ran) >= 8)
        settled(k)
    assert sorted(ran) == sorted(2 * ["a", "ab", "ø", "z"])


# --- kills --------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys, time
from datetime import datetime, timedelta
import klerk, klerk.limits
klerk.limits.CLOCK_CHECK_S = 0.01
klerk.limits.CHECKPOINT_INTERVAL_S = float(sys.argv[3])

app = klerk.App("night")
now = [datetime.fromisoformat(sys.argv[2])]

@app.job(cron="0 * * * *", missed="all")
def tick(job):
    os.write(1, job.tick.isoformat().encode() + b"\\n")
    if job.tick.hour == 18:
        os.kill(os.getpid(), signal.SIGKILL)

with app.open(sys.argv[1], clock=lambda: now[0], durability="process") as k:
    for count in range(1, 7):
        now[0] += timedelta(hours=1)
        while k.jobs.counts()[klerk.JobState.COMPLETED] < count:
            time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("interval", ["0.0", "60.0"])
def test_a_kill_between_two_times(tmp_path: Path, interval: str) -> None:
    """Whether the mark of the newest time had been written behind the log, or only the log has it."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    result = run_python(str(script), str(tmp_path / "store"), NOON.isoformat(), interval, cwd=tmp_path)
    assert result.returncode == -signal.SIGKILL, result.stderr
    before = set(result.stdout.split())
    assert {f"2024-02-29T{hour}:00:00+00:00" for hour in range(13, 19)} == before
    clock = Clock(at("2024-02-29T20:30"))
    night = Night(tmp_path / "store", clock, missed="all")
    with night.open() as k:
        wait_for(night, 3)
        settled(k)
    # The job that the kill interrupted runs again; no time that had one gets another job.
    assert night.hours() == ["060 18:00", "060 19:00", "060 20:00"]
    assert k.jobs.counts()[JobState.COMPLETED] == 8
    assert k.jobs.live() == ()

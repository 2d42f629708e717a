"""Timers fire when their moment has come by the clock, once, through the same path as commands.

The clock is the test's own and stands still unless it is set. That it was set is noticed within a second; all
tests but one shorten that.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Clock, eventually, permit_everything

import klerk
from klerk import App, Args, JobRun, Model, Ref, Rejected, WrongState

HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)


class Ticket(Model):
    due: datetime | None = None
    trace: tuple[str, ...] = ()


class Desk:
    """Tickets that become late when they are due, and are gone an hour later; `timed` adds other timers."""

    def __init__(self, timed: Callable[["Desk"], object] | None = None) -> None:
        self.app = App("desk")
        self.tickets = self.app.machine(Ticket)
        self.open, self.late, self.gone = self.tickets.states("open", "late", "gone", final=("gone",))
        self.ran: list[Any] = []
        permit_everything(self.app)

        @self.tickets.create(into=self.open)
        def enter(a: Args, due: datetime | None = None) -> Ticket:
            return Ticket(due=due)

        @self.tickets.event(self.open, self.late)
        def put_off(a: Args[Ticket], due: datetime | None) -> Ticket:
            return a.model.replace(due=due)

        @self.tickets.event(self.late, to=self.open)
        def again(a: Args[Ticket]) -> None: ...

        self.enter, self.put_off, self.again = enter, put_off, again
        if timed is None:
            self.open.at(lambda a: a.model.due).to(self.late)
            self.late.after(HOUR).to(self.gone)
        else:
            timed(self)
            self.open.on(put_off).to(self.late, when=lambda a: False)
            self.late.on(put_off).to(self.gone, when=lambda a: False)

    def states(self, k: klerk.Klerk) -> list[str]:
        with k.read(TESTER) as r:
            return [ticket.meta.state.name for ticket in r.list(self.tickets)]


def note(text: str) -> Callable[[Args[Ticket]], Ticket]:
    return lambda a: a.model.replace(trace=(*a.model.trace, text))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.name != "test_a_clock_that_was_set_is_noticed":
        monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


def test_a_clock_that_was_set_is_noticed(clock: Clock) -> None:
    """Although nothing happens that would wake anyone."""
    desk = Desk()
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(NOON + timedelta(days=365)), TESTER)
        clock.advance(timedelta(days=365))
        eventually(lambda: desk.states(k) == ["late"])


def test_at_and_after(clock: Clock) -> None:
    desk = Desk()
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter(NOON + HOUR), desk.enter(NOON + 2 * HOUR), desk.enter()], TESTER)
        with k.read(TESTER) as r:
            assert [t.meta.due_at for t in r.list(desk.tickets)] == [NOON + HOUR, NOON + 2 * HOUR, None]
        clock.now = NOON + 2 * HOUR - TICK
        eventually(lambda: desk.states(k)[0] != "open")
        assert desk.states(k) == ["late", "open", "open"]
        with k.read(TESTER) as r:
            first = r.get(1)
            assert (first.meta.entered_at, first.meta.due_at) == (clock.now, clock.now + HOUR)
        clock.advance(TICK)
        eventually(lambda: desk.states(k) == ["late", "late", "open"])
        clock.advance(HOUR - TICK)
        eventually(lambda: desk.states(k) == ["gone", "late", "open"])
        clock.advance(TICK)
        eventually(lambda: desk.states(k) == ["gone", "gone", "open"])


def test_a_moment_that_has_passed_comes_at_once(clock: Clock) -> None:
    desk = Desk()
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(NOON - 10 * HOUR), TESTER)
        eventually(lambda: desk.states(k) == ["late"])
        k.handle(desk.enter(datetime(1960, 1, 1, tzinfo=NOON.tzinfo)), TESTER)
        eventually(lambda: desk.states(k) == ["late", "late"])


def test_a_moment_that_was_changed(clock: Clock) -> None:
    desk = Desk()
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter(NOON + HOUR), desk.enter(NOON + 5 * HOUR), desk.enter(NOON + HOUR)], TESTER)
        k.handle_all(
            [desk.put_off(1, NOON + 3 * HOUR), desk.put_off(2, NOON + HOUR), desk.put_off(3, None)], TESTER
        )
        clock.now = NOON + HOUR
        eventually(lambda: desk.states(k)[1] == "late")
        assert desk.states(k) == ["open", "late", "open"]
        clock.now = NOON + 3 * HOUR
        eventually(lambda: desk.states(k) == ["late", "gone", "open"])


def test_a_transition_in_time_is_kept_by_no_timer(clock: Clock) -> None:
    """Coming back into a state begins its time anew, and what was due before is not due twice."""
    desk = Desk()
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(NOON), TESTER)
        eventually(lambda: desk.states(k) == ["late"])
        clock.now = NOON + HOUR - TICK
        k.handle_all([desk.put_off(1, NOON + 9 * HOUR), desk.again(1)], TESTER)
        k.handle(desk.enter(NOON + HOUR), TESTER)
        clock.now = NOON + HOUR
        eventually(lambda: desk.states(k)[1] == "late")
        assert desk.states(k)[0] == "open"
        clock.now = NOON + 9 * HOUR
        eventually(lambda: desk.states(k)[0] == "late")


def test_timers_survive_a_restart(clock: Clock, tmp_path: Path) -> None:
    desk = Desk()
    with desk.app.open(tmp_path / "store", clock=clock) as k:
        k.handle_all([desk.enter(NOON + HOUR), desk.enter(NOON + 5 * HOUR)], TESTER)
    with desk.app.open(tmp_path / "store", clock=clock) as k:
        clock.now = NOON + HOUR
        eventually(lambda: desk.states(k) == ["late", "open"])
    # The second one becomes due, and the first one's hour ends, while nobody is there.
    clock.now = NOON + 6 * HOUR
    with desk.app.open(tmp_path / "store", clock=clock) as k:
        eventually(lambda: desk.states(k) == ["gone", "late"])
        with k.read(TESTER) as r:
            assert r.get(2).meta.entered_at == clock.now
            sequence = k.sequence
    with desk.app.open(tmp_path / "store", clock=clock) as k:
        k.handle(desk.enter(NOON), TESTER)
        eventually(lambda: desk.states(k)[2] == "late")
        assert desk.states(k) == ["gone", "late", "late"]
        assert k.sequence == sequence + 2


def test_every_timer_of_a_state_fires_once_in_order(clock: Clock, tmp_path: Path) -> None:
    def timed(desk: Desk) -> None:
        desk.open.after(2 * HOUR).update(note("two hours"))
        desk.open.after(HOUR).update(note("an hour"))
        desk.open.at(lambda a: a.model.due).update(note("due"))
        desk.open.after(9 * HOUR).to(desk.late)
        desk.late.after(HOUR).to(desk.gone)

    desk = Desk(timed)
    with desk.app.open(tmp_path / "store", clock=clock) as k:
        k.handle(desk.enter(NOON + 2 * HOUR + TICK), TESTER)

        def trace() -> tuple[str, ...]:
            with k.read(TESTER) as r:
                return r.get(1).trace

        clock.advance(HOUR)
        eventually(lambda: trace() == ("an hour",))
        clock.advance(HOUR + TICK)
        eventually(lambda: len(trace()) == 3)
        assert trace() == ("an hour", "two hours", "due")
    with desk.app.open(tmp_path / "store", clock=clock) as k:
        clock.advance(9 * HOUR)
        eventually(lambda: desk.states(k) == ["late"])
        with k.read(TESTER) as r:
            assert r.get(1).trace == ("an hour", "two hours", "due")


def test_a_clock_that_jumped_over_all_timers_fires_them_in_order(clock: Clock) -> None:
    def timed(desk: Desk) -> None:
        for hours in (3, 1, 2):
            desk.open.after(hours * HOUR).update(note(str(hours)))
        desk.open.after(4 * HOUR).to(desk.late)
        desk.late.after(HOUR).to(desk.gone)

    desk = Desk(timed)
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(), TESTER)
        clock.advance(timedelta(days=1))
        eventually(lambda: desk.states(k) == ["late"])
        with k.read(TESTER) as r:
            assert r.get(1).trace == ("1", "2", "3")


def test_a_clock_that_goes_back_harms_nothing(clock: Clock) -> None:
    desk = Desk()
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(NOON + HOUR), TESTER)
        clock.now = NOON + HOUR
        eventually(lambda: desk.states(k) == ["late"])
        clock.now = NOON - 5 * HOUR
        k.handle(desk.enter(NOON - 4 * HOUR), TESTER)
        clock.now = NOON - 4 * HOUR
        eventually(lambda: desk.states(k) == ["late", "late"])
        clock.now = NOON + 2 * HOUR
        eventually(lambda: desk.states(k) == ["gone", "gone"])


def test_timers_do_all_that_blocks_do(clock: Clock) -> None:
    def timed(desk: Desk) -> None:
        @desk.app.job()
        def mail(job: JobRun, ticket: Ref[Ticket]) -> None:
            desk.ran.append(("mail", ticket, job.record.cause))

        block = desk.open.after(HOUR)
        block.update(note("late")).to(desk.late).job(mail)
        block.commands(lambda a: desk.enter(a.now + 9 * HOUR))
        block.unmanaged_job(lambda a: desk.ran.append((str(a.context.actor), a.now, a.model.trace)))
        desk.late.on_enter.update(note("entered"))
        desk.late.after(HOUR).delete()
        desk.gone.on_enter.update(note("x"))

    desk = Desk(timed)
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(), TESTER)
        clock.advance(HOUR)
        eventually(lambda: len(desk.ran) == 2)
        assert sorted(desk.ran, key=str) == [
            ("mail", 1, 2),
            ("system timer of Ticket 1 (open, after 1:00:00)", clock.now, ("late", "entered")),
        ]
        assert desk.states(k) == ["late", "open"]
        clock.advance(HOUR)
        eventually(lambda: len(desk.ran) == 4)
        # The first ticket was deleted; the second one has become late and made a third.
        eventually(lambda: desk.states(k) == ["late", "open"])
        with k.read(TESTER) as r:
            assert [ticket.meta.id for ticket in r.list(desk.tickets)] == [2, 3]


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (Rejected("not now"), "not now"),
        (ZeroDivisionError("zero"), r"test_timers.py"),
        (WrongState("no"), "no"),
    ],
)
def test_a_refused_timer_is_logged_and_holds_up_nobody(
    clock: Clock, refusal: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    def timed(desk: Desk) -> None:
        def refuse(a: Args[Ticket]) -> Ticket:
            if a.model.meta.id == 1:
                raise refusal
            return note("fired")(a)

        desk.open.after(HOUR).update(refuse).to(desk.late)
        desk.late.after(HOUR).to(desk.gone)

    desk = Desk(timed)
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter(), desk.enter()], TESTER)
        clock.advance(HOUR)
        eventually(lambda: desk.states(k)[1] == "late")
        assert desk.states(k)[0] == "open"
        eventually(lambda: "timer of Ticket 1 was refused" in caplog.text)
        assert message in caplog.text
        clock.advance(HOUR)
        eventually(lambda: desk.states(k)[1] == "gone")


def test_a_moment_without_zone_is_refused(clock: Clock) -> None:
    def timed(desk: Desk) -> None:
        desk.open.at(lambda a: datetime(2024, 1, 1)).to(desk.late)  # noqa: DTZ001
        desk.late.after(HOUR).to(desk.gone)

    desk = Desk(timed)
    with desk.app.open(clock=clock) as k, pytest.raises(klerk.FunctionFailed, match=r"test_timers\.py"):
        k.handle(desk.enter(), TESTER)


def test_many_timers_at_one_moment(clock: Clock) -> None:
    """More than are fired at once; commands get their turn in between, and none is forgotten."""
    desk = Desk()
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter(NOON + HOUR) for _ in range(1_200)], TESTER)
        clock.advance(HOUR)
        eventually(lambda: set(desk.states(k)) == {"late"})
        assert k.handle(desk.enter(), TESTER).model.meta.state is desk.open


def test_a_timer_of_a_deleted_model(clock: Clock) -> None:
    desk = Desk()

    @desk.tickets.event(desk.open)
    def drop(a: Args[Ticket]) -> None: ...

    desk.open.on(drop).delete()
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter(NOON + HOUR), desk.enter(NOON + HOUR)], TESTER)
        k.handle(drop(1), TESTER)
        clock.advance(HOUR)
        eventually(lambda: desk.states(k) == ["late"])

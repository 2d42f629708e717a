"""Timers stand what happens to them: changed designs, refusals, loops, long stops, clocks that fail.

All go through the public API, with a clock that stands still until it is set; `fire_due` fires what is due
then. The last test compares random designs, commands, jumps of the clock, restarts and changes of the design
with a plain simulation of what had to fire in which order.
"""

import asyncio
import logging
import random
import re
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Bank, Clock, Spawned, eventually, permit_everything

import klerk
from klerk import (
    App,
    Args,
    Closed,
    ConfigError,
    Context,
    DueTimer,
    FunctionFailed,
    JobRun,
    KlerkError,
    Model,
    NotPure,
    ReadLockHeld,
    Ref,
    Rejected,
    System,
    User,
)
from klerk.showing.describe import describe

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)


class Ticket(Model):
    due: datetime | None = None
    trace: tuple[str, ...] = ()


class Desk:
    """Tickets that are open, late or gone; `timed` declares their timers. Blocks run as `ran` says."""

    def __init__(self, timed: Callable[["Desk"], object], prepared: Callable[[App], object] | None = None):
        self.app = App("desk")
        self.tickets = tickets = self.app.machine(Ticket)
        self.open, self.late, self.gone = tickets.states("open", "late", "gone")
        self.ran: list[Any] = []
        permit_everything(self.app)

        @tickets.create(into=self.open)
        def enter(a: Args, due: datetime | None = None) -> Ticket:
            return Ticket(due=due)

        @tickets.event(self.open, self.late, self.gone)
        def put_off(a: Args[Ticket], due: datetime | None) -> Ticket:
            return a.model.replace(due=due)

        @tickets.event(self.open, self.late, to=self.gone)
        def drop(a: Args[Ticket]) -> None: ...

        @tickets.event(self.late, self.gone, to=self.open)
        def reopen(a: Args[Ticket]) -> None: ...

        @tickets.event(self.open, to=self.late)
        def delay(a: Args[Ticket]) -> None: ...

        self.enter, self.put_off, self.drop, self.reopen = enter, put_off, drop, reopen
        if prepared is not None:
            prepared(self.app)
        timed(self)

    def get(self, k: klerk.Klerk, id: Any = 1) -> Ticket:
        with k.read(TESTER) as r:
            return r.get(id)

    def states(self, k: klerk.Klerk) -> list[str]:
        with k.read(TESTER) as r:
            return [ticket.meta.state.name for ticket in r.list(self.tickets)]

    def dues(self, k: klerk.Klerk) -> list[datetime | None]:
        with k.read(TESTER) as r:
            return [ticket.meta.due_at for ticket in r.list(self.tickets)]


def note(text: str) -> Callable[[Args[Ticket]], Ticket]:
    return lambda a: a.model.replace(trace=(*a.model.trace, text))


def after(delay: timedelta) -> Callable[[Desk], object]:
    return lambda desk: desk.open.after(delay).to(desk.late)


def nothing(desk: Desk) -> None:
    """No timers at all."""


def refuse(a: Args[Ticket]) -> Ticket:
    raise Rejected("not today")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


# --- a changed design -------------------------------------------------------------------------------------


def test_timers_that_were_added_changed_and_removed(clock: Clock, store: Path) -> None:
    first = Desk(nothing)
    with first.app.open(store, clock=clock) as k:
        k.handle_all([first.enter(), first.enter(NOON + 9 * HOUR)], TESTER)
        assert first.dues(k) == [None, None]
    for timed, dues in [
        (after(5 * HOUR), [NOON + 5 * HOUR] * 2),
        (after(7 * HOUR), [NOON + 7 * HOUR] * 2),
        (lambda desk: desk.open.at(lambda a: a.model.due).to(desk.late), [None, NOON + 9 * HOUR]),
        (lambda desk: desk.late.after(HOUR).to(desk.gone), [None, None]),
        (after(3 * HOUR), [NOON + 3 * HOUR] * 2),
    ]:
        desk = Desk(timed)
        with desk.app.open(store, clock=clock) as k:
            assert desk.dues(k) == dues
            assert k.timers.count == 2 - dues.count(None)
            versions = {desk.get(k, id).meta.version for id in (1, 2)}
            assert versions == {1}, "a model whose moment is computed anew was not changed by anybody"
    clock.advance(3 * HOUR)
    with desk.app.open(store, clock=clock) as k:
        k.timers.fire_due()
        assert desk.states(k) == ["late", "late"]


def test_a_delay_that_was_shortened_into_the_past_comes_at_once_in_order(clock: Clock, store: Path) -> None:
    desk = Desk(after(9 * HOUR))
    with desk.app.open(store, clock=clock) as k:
        for _ in range(3):
            k.handle(desk.enter(), TESTER)
            clock.advance(HOUR)

    def timed(desk: Desk) -> None:
        block = desk.open.after(HOUR)
        block.to(desk.late).commands(lambda a: desk.put_off(a.model.meta.id, a.now))
        block.unmanaged_job(lambda a: desk.ran.append((a.model.meta.id, a.context.actor.cause)))

    desk = Desk(timed)
    with desk.app.open(store, clock=clock) as k:
        assert k.timers.wait_until_idle(20)
        assert desk.states(k) == ["late", "late", "late"]
        eventually(lambda: len(desk.ran) == 3)
        assert desk.ran == [(1, 0), (2, 0), (3, 0)]


def test_a_timer_that_fired_comes_again_only_at_a_later_moment(clock: Clock, store: Path) -> None:
    def timed(delay: timedelta) -> Callable[[Desk], object]:
        return lambda desk: desk.open.after(delay).update(note(str(delay)))

    desk = Desk(timed(2 * HOUR))
    with desk.app.open(store, clock=clock) as k:
        k.handle(desk.enter(), TESTER)
        clock.advance(2 * HOUR)
        k.timers.fire_due()
    for delay, trace in [
        (HOUR, ("2:00:00",)),
        (2 * HOUR, ("2:00:00",)),
        (3 * HOUR, ("2:00:00", "3:00:00")),
        (2 * HOUR, ("2:00:00", "3:00:00")),
    ]:
        desk = Desk(timed(delay))
        with desk.app.open(store, clock=clock) as k:
            k.timers.fire_due()
            clock.now = max(clock.now, NOON + delay)
            k.timers.fire_due()
            assert desk.get(k).trace == trace


def moments_of(settings: Any = None, *, hours: int = 1, grace: timedelta = HOUR) -> Callable[[Desk], object]:
    """A timer whose function depends on all that a fingerprint can see."""

    def moment(a: Args[Ticket], *, extra: timedelta = grace) -> datetime | None:
        return None if a.model.due is None else a.model.due + hours * HOUR + extra

    return lambda desk: desk.open.at(moment).to(desk.late)


@pytest.mark.parametrize(
    ("timed", "due"),
    [
        (moments_of(), NOON + 2 * HOUR),
        (moments_of(hours=2), NOON + 3 * HOUR),
        (moments_of(grace=2 * HOUR), NOON + 3 * HOUR),
        (lambda desk: desk.open.at(lambda a: a.model.due and a.model.due + DAY).to(desk.late), NOON + DAY),
        (lambda desk: desk.open.at(lambda a: a.model.meta.entered_at + DAY).to(desk.late), NOON + DAY),
        (lambda desk: desk.open.at(lambda a: a.now + DAY).to(desk.late), NOON + DAY),
        (lambda desk: desk.open.at(through).to(desk.late), NOON + 4 * HOUR),
        (lambda desk: desk.open.at(read_again).to(desk.late), NOON + 3 * DAY),
    ],
)
def test_what_a_fingerprint_sees(
    clock: Clock, store: Path, timed: Callable[[Desk], object], due: datetime
) -> None:
    desk = Desk(moments_of())
    with desk.app.open(store, clock=clock) as k:
        k.handle(desk.enter(NOON), TESTER)
        assert desk.dues(k) == [NOON + 2 * HOUR]
    clock.advance(HOUR)
    desk = Desk(timed)
    with desk.app.open(store, clock=clock) as k:
        assert desk.dues(k) == [due]


FOUR = 4 * HOUR


def through(a: Args[Ticket]) -> datetime | None:
    return a.model.due and a.model.due + FOUR


def read_again(a: Args[Ticket]) -> datetime:
    found: Any = a.read.get(a.model.meta.id)
    return found.due + 3 * DAY


def test_what_a_function_uses_of_its_module_is_seen(
    clock: Clock, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for hours, asks in [(4, 1), (4, 0), (5, 1)]:
        monkeypatch.setitem(globals(), "FOUR", hours * HOUR)

        def moment(a: Args[Ticket]) -> datetime | None:
            asked.append(1)
            return through(a)

        asked.clear()
        desk = Desk(lambda desk, moment=moment: desk.open.at(moment).to(desk.late))
        with desk.app.open(store, clock=clock) as k:
            if hours == 4 and asks == 1:
                k.handle(desk.enter(NOON), TESTER)
            assert len(asked) == asks
            assert desk.dues(k) == [NOON + hours * HOUR]


def test_lines_and_files_change_nothing(clock: Clock, store: Path) -> None:
    asked: list[int] = []
    source = "def moment(a):\n    asked.append(1)\n    return a.model.due\n"
    for name, text, asks in [("one.py", source, 1), ("two.py", "\n\n# Moved.\n" + source, 0)]:
        space: dict[str, Any] = {"asked": None}
        exec(compile(text, name, "exec"), space)
        space["asked"] = recorder(asked)
        asked.clear()
        desk = Desk(lambda desk, moment=space["moment"]: desk.open.at(moment).to(desk.late))
        with desk.app.open(store, clock=clock) as k:
            if asks:
                k.handle(desk.enter(NOON + HOUR), TESTER)
            assert len(asked) == asks


class Recorder:
    """An object that a fingerprint does not look into."""

    def __init__(self, asked: list[int]) -> None:
        self.append = asked.append


def recorder(asked: list[int]) -> Recorder:
    return Recorder(asked)


def test_a_function_that_fails_for_stored_models_refuses_the_design(clock: Clock, store: Path) -> None:
    good = Desk(after(5 * HOUR))
    with good.app.open(store, clock=clock) as k:
        k.handle_all([good.enter(NOON + HOUR), good.enter(), good.enter(NOON), good.enter()], TESTER)
    bad = Desk(lambda desk: desk.open.at(lambda a: a.model.due + HOUR).to(desk.late))
    with pytest.raises(klerk.SchemaChanged, match=r"Ticket 2: .*lambda.*raised TypeError") as caught:
        bad.app.open(store, clock=clock)
    assert "Ticket 4" in str(caught.value)
    assert "Ticket 1" not in str(caught.value)
    with good.app.open(store, clock=clock) as k:
        assert good.dues(k) == [NOON + 5 * HOUR] * 4


def test_an_interrupted_computation_is_repeated(
    clock: Clock, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the older design, which must not take half of the new moments for its own."""
    monkeypatch.setattr("klerk.limits.CHECKPOINT_BATCH_RECORDS", 2)
    old, new = Desk(after(5 * HOUR)), Desk(after(3 * HOUR))
    with old.app.open(store, clock=clock) as k:
        k.handle_all([old.enter() for _ in range(7)], TESTER)
    for writes in (1, 2, 4, 5):
        for desk in (new, old):
            with pytest.MonkeyPatch.context() as patch:
                break_writes(patch, writes)
                with pytest.raises(klerk.StoreFailed):
                    desk.app.open(store, clock=clock)
        for desk, due in [(old, NOON + 5 * HOUR), (new, NOON + 3 * HOUR), (old, NOON + 5 * HOUR)]:
            with desk.app.open(store, clock=clock) as k:
                assert set(desk.dues(k)) == {due}


def break_writes(patch: pytest.MonkeyPatch, after_writes: int) -> None:
    """Let a store fail once it has written so often."""
    from klerk.storage import RocksStorage

    left, write = [after_writes], RocksStorage._write

    def failing(self: Any, puts: Any, deletes: Any) -> None:
        if left[0] == 0:
            raise OSError("the disk is gone")
        left[0] -= 1
        write(self, puts, deletes)

    patch.setattr(RocksStorage, "_write", failing)


# --- refused timers ---------------------------------------------------------------------------------------


def test_a_refused_timer_is_recorded_and_the_next_one_goes_on(
    clock: Clock, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def timed(desk: Desk) -> None:
        desk.open.after(HOUR).update(refuse)
        desk.open.after(2 * HOUR).update(note("two"))

    desk = Desk(timed)
    with desk.app.open(store, clock=clock) as k:
        k.handle_all([desk.enter(), desk.enter()], TESTER)
        clock.now = NOON + HOUR + TICK
        assert k.timers.fire_due() == 0
        refused = k.timers.refused
        assert [(each.ref, each.state, each.due, each.time) for each in refused] == [
            (id, desk.open, NOON + HOUR, clock.now) for id in (1, 2)
        ]
        assert {each.error for each in refused} == {"Rejected: not today"}
        assert "timer of Ticket 2 was refused" in caplog.text
        assert desk.dues(k) == [NOON + 2 * HOUR] * 2
        sequence = k.sequence
        assert k.timers.fire_due() == 0
        assert k.sequence == sequence, "it was tried again"
    with desk.app.open(store, clock=clock) as k:
        assert k.timers.fire_due() == 0
        assert k.sequence == sequence
        clock.advance(HOUR)
        k.timers.fire_due()
        assert [desk.get(k, id).trace for id in (1, 2)] == [("two",)] * 2
        assert k.timers.refused == ()


def conflicting(a: Args[Ticket]) -> Ticket:
    raise klerk.Conflict("taken")


def huge(a: Args[Ticket]) -> Ticket:
    """Found to be too large only when the transaction is closed."""
    return a.model.replace(trace=tuple("x" * 100_000 for _ in range(50)))


@pytest.mark.parametrize(
    ("declare", "error"),
    [
        (lambda desk, block: block.update(refuse), "Rejected"),
        (lambda desk, block: block.update(conflicting), "Conflict: taken"),
        (lambda desk, block: block.update(lambda a: 1 / 0), "FunctionFailed.*ZeroDivisionError"),
        (lambda desk, block: block.update(huge), "LimitExceeded"),
        (lambda desk, block: block.commands(lambda a: desk.drop(77)), "NotFound"),
        (
            lambda desk, block: block.commands(lambda a: [desk.enter(), desk.drop(1), desk.drop(1)]),
            "WrongState",
        ),
        (lambda desk, block: block.commands(lambda a: 5), "ArgumentError"),
        (lambda desk, block: block.to_when({refuse: desk.late}), "Rejected"),
    ],
)
def test_whatever_refuses_a_timer_leaves_nothing_but_the_record(
    clock: Clock, declare: Callable[..., object], error: str
) -> None:
    def timed(desk: Desk) -> None:
        declare(desk, desk.open.after(HOUR))
        desk.open.after(2 * HOUR).to(desk.late)

    desk = Desk(timed)
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(), TESTER)
        clock.advance(HOUR)
        k.timers.fire_due()
        (refused,) = k.timers.refused
        assert re.search(error, refused.error)
        assert desk.states(k) == ["open"]
        assert desk.get(k).trace == ()
        assert k.sequence == 2
        clock.advance(HOUR)
        assert k.timers.fire_due() == 1
        assert desk.states(k) == ["late"]


def test_a_timer_whose_deletion_is_refused(clock: Clock) -> None:
    """A referrer is found only at the end of the transaction."""

    class Owner(Model):
        ticket: Ref[Ticket] | None = None

    def timed(desk: Desk) -> None:
        owners = desk.app.machine(Owner)
        (there,) = owners.states("there")

        @owners.create(into=there)
        def own(a: Args, ticket: Ref[Ticket]) -> Owner:
            return Owner(ticket=ticket)

        desk.own = own  # type: ignore[attr-defined]
        desk.open.after(HOUR).delete()

    desk = Desk(timed)
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter(), desk.enter()], TESTER)
        k.handle(desk.own(1), TESTER)  # type: ignore[attr-defined]
        clock.advance(HOUR)
        assert k.timers.fire_due() == 1
        assert desk.states(k) == ["open"]
        assert [each.ref for each in k.timers.refused] == [1]
        assert "Conflict" in k.timers.refused[0].error
        assert (k.timers.count, k.timers.next_due) == (0, None)


def test_a_moment_that_cannot_be_told_any_more(clock: Clock) -> None:
    """The function of the timer itself fails when it is due: the model waits for its next change."""
    broken = threading.Event()

    def moment(a: Args[Ticket]) -> datetime | None:
        if broken.is_set():
            raise ValueError("broken")
        return a.model.due

    desk = Desk(lambda desk: desk.open.at(moment).to(desk.late))
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter(NOON + HOUR), desk.enter(NOON + 2 * HOUR)], TESTER)
        broken.set()
        clock.advance(HOUR)
        assert k.timers.fire_due() == 0
        assert "broken" in k.timers.refused[0].error
        assert desk.dues(k) == [None, NOON + 2 * HOUR]
        broken.clear()
        k.handle(desk.put_off(1, NOON + 3 * HOUR), TESTER)
        clock.now = NOON + 3 * HOUR
        assert k.timers.fire_due() == 2
        assert desk.states(k) == ["late", "late"]


def test_only_so_many_refusals_are_kept(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.TIMERS_REFUSED_KEPT_MAX", 3)
    desk = Desk(lambda desk: desk.open.after(HOUR).update(refuse))
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter() for _ in range(5)], TESTER)
        clock.advance(HOUR)
        k.timers.fire_due()
        assert [each.ref for each in k.timers.refused] == [3, 4, 5]


def test_what_is_not_the_timers_fault_does_not_consume_it(clock: Clock, store: Path) -> None:
    desk = Desk(after(HOUR))
    with pytest.MonkeyPatch.context() as patch, desk.app.open(store, clock=clock) as k:
        k.handle(desk.enter(), TESTER)
        break_writes(patch, 0)
        clock.advance(HOUR)
        with pytest.raises(klerk.StoreFailed):
            k.timers.fire_due()
        assert k.timers.refused == ()
        assert "StoreFailed" in k.timers.trouble
    with desk.app.open(store, clock=clock) as k:
        assert k.timers.wait_until_idle(20)
        assert desk.states(k) == ["late"]


# --- contexts and actors ----------------------------------------------------------------------------------


class Provider:
    """A context provider that can fail in several ways."""

    def __init__(self) -> None:
        self.how = "good"
        self.calls = 0

    def __call__(self, actor: klerk.Actor, now: datetime) -> Any:
        self.calls += 1
        if self.how == "raises":
            raise OSError("no tenant")
        if self.how == "nonsense":
            return "context"
        if self.how == "naive":
            return Context(actor, now.replace(tzinfo=None))
        return Context(actor, now)


@pytest.mark.parametrize("how", ["raises", "nonsense", "naive"])
def test_a_context_provider_that_fails_is_tried_again(
    clock: Clock, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("klerk.limits.TIMER_RETRY_BASE_S", 0.001)
    monkeypatch.setattr("klerk.limits.TIMER_RETRY_MAX_S", 0.01)
    provider = Provider()
    desk = Desk(after(HOUR), lambda app: app.context_provider(provider))
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter(), desk.enter()], TESTER)
        provider.how = how
        clock.advance(HOUR)
        eventually(lambda: provider.calls > 5)
        assert k.timers.trouble
        with pytest.raises(KlerkError):
            k.timers.fire_due()
        assert not k.timers.wait_until_idle(0.05)
        assert desk.states(k) == ["open", "open"]
        # Commands go on, and it is not told again and again.
        k.handle(desk.drop(2), TESTER)
        assert len([each for each in caplog.records if each.levelno == logging.ERROR]) <= 2
        provider.how = "good"
        eventually(lambda: desk.states(k) == ["late", "gone"])
        assert k.timers.wait_until_idle(20)
        assert (k.timers.trouble, k.timers.refused) == ("", ())


def test_whom_a_timer_acts_as(clock: Clock) -> None:
    billing = User("billing", roles=frozenset({"clerk"}))

    def timed(desk: Desk) -> None:
        def told(a: Args[Ticket]) -> object:
            return desk.ran.append((a.model.meta.id, a.context.actor))

        desk.open.after(HOUR, run_as=billing).unmanaged_job(told)
        desk.open.after(2 * HOUR).unmanaged_job(told)
        desk.open.at(due_date, run_as=lambda a: User(f"owner of {a.model.meta.id}")).unmanaged_job(told)

    def due_date(a: Args[Ticket]) -> datetime | None:
        return a.model.due

    desk = Desk(timed)
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(NOON + 3 * HOUR), TESTER)
        for _ in range(3):
            clock.advance(HOUR)
            k.timers.fire_due()
        eventually(lambda: len(desk.ran) == 3)
        assert desk.ran == [
            (1, billing),
            (1, System("timer of Ticket 1 (open, after 2:00:00)", cause=2)),
            (1, User("owner of 1")),
        ]


def test_whom_a_timer_acts_as_is_described() -> None:
    desk = Desk(lambda desk: desk.open.after(HOUR, run_as=User("billing")).to(desk.late))
    text = describe(desk.app.freeze())
    assert ", as user billing" in text


@pytest.mark.parametrize(
    ("run_as", "error"),
    [
        (lambda a: 1 / 0, "ZeroDivisionError"),
        (lambda a: "billing", "str, expected an actor"),
        (refuse, "not today"),
    ],
)
def test_an_actor_that_cannot_be_told_refuses_the_timer(clock: Clock, run_as: Any, error: str) -> None:
    desk = Desk(lambda desk: desk.open.after(HOUR, run_as=run_as).to(desk.late))
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(), TESTER)
        clock.advance(HOUR)
        assert k.timers.fire_due() == 0
        assert error in k.timers.refused[0].error


@pytest.mark.parametrize(
    ("declare", "code"),
    [
        (lambda state: state.after(HOUR, run_as="billing"), "K041"),
        (lambda state: state.at(lambda a: None, run_as=5), "K041"),
        (lambda state: (state.at(lambda a: None), state.at(lambda a: None, run_as=User("x"))), "K041"),
        (lambda state: state.after(HOUR, run_as=lambda: User("x")), "K008"),
    ],
)
def test_an_actor_that_cannot_be_meant(declare: Callable[..., object], code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        Desk(lambda desk: declare(desk.open)).app.open()


# --- loops ------------------------------------------------------------------------------------------------


def past(desk: Desk) -> None:
    desk.open.at(lambda a: a.model.due and NOON - DAY).to(desk.late)
    desk.late.at(lambda a: NOON - DAY).to(desk.open)


def passing(desk: Desk) -> None:
    desk.open.at(lambda a: a.model.due and a.now - TICK).update(note("x"))


def handing_on(desk: Desk) -> None:
    """Each makes a new one, whose time has come at once."""
    desk.open.at(lambda a: a.model.due).to(desk.gone).commands(lambda a: desk.enter(a.model.due))


def ping_pong(desk: Desk) -> None:
    """Two tickets reopen each other."""
    block = desk.open.at(lambda a: a.model.due).to(desk.gone)
    block.commands(lambda a: [] if a.model.meta.id > 2 else reopened(desk, a, 3 - a.model.meta.id))


def reopened(desk: Desk, a: Args[Ticket], other: Any) -> list[Any]:
    return [desk.reopen(other)] if a.read.get(other).meta.state is desk.gone else []


def refusing(desk: Desk) -> None:
    """Refused, it is due again."""
    desk.open.at(lambda a: a.model.due and a.now - TICK).update(refuse)


class Nowhere(tzinfo):
    """A zone that knows no offset."""

    def utcoffset(self, _: datetime | None) -> timedelta | None:
        return None


class Running(Clock):
    """A clock that runs a little whenever it is read."""

    def __call__(self) -> datetime:
        self.now += 2 * TICK
        return self.now


@pytest.mark.parametrize("timed", [past, passing, handing_on, ping_pong, refusing])
@pytest.mark.parametrize("kind", [Clock, Running])
def test_a_loop_is_found_and_holds_up_nobody(
    timed: Callable[[Desk], object], kind: type[Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.TIMER_LOOP_FIRINGS_MAX", 50)
    clock = kind()
    desk = Desk(timed)
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter(None), desk.enter(NOON - HOUR), desk.enter(NOON - 2 * HOUR)], TESTER)
        k.handle(desk.put_off(1, NOON), TESTER)
        k.handle(desk.enter(NOON + HOUR), TESTER)
        eventually(lambda: k.timers.wait_until_idle(0.1))
        assert k.sequence < 50 * 8, "it went on"
        if kind is Running or timed not in (passing, refusing):
            loops = [each for each in k.timers.refused if "without coming nearer" in each.error]
            assert loops
            assert all(f"Ticket.{each.state}" in each.error for each in loops)
        assert k.handle(desk.drop(k.handle(desk.enter(), TESTER).id), TESTER).model.meta.state is desk.gone


@pytest.mark.parametrize("kind", [Clock, Running])
def test_catching_up_is_no_loop(kind: type[Clock], monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    monkeypatch.setattr("klerk.limits.TIMER_LOOP_FIRINGS_MAX", 20)

    def timed(desk: Desk) -> None:
        def hourly(a: Args[Ticket]) -> Ticket:
            assert a.model.due is not None
            count = int(a.model.trace[0]) if a.model.trace else 0
            return a.model.replace(due=a.model.due + HOUR, trace=(str(count + 1),))

        desk.open.at(lambda a: a.model.due).update(hourly).to(desk.late)
        desk.late.at(lambda a: a.model.due).update(hourly).to(desk.open)

    desk, clock = Desk(timed), kind()
    with desk.app.open(store, clock=clock) as k:
        k.handle_all([desk.enter(NOON + HOUR), desk.enter(NOON + HOUR)], TESTER)
    clock.advance(30 * DAY)
    with desk.app.open(store, clock=clock) as k:
        assert k.timers.wait_until_idle(60)
        assert [desk.get(k, id).trace for id in (1, 2)] == [("720",)] * 2
        assert k.timers.refused == ()
        assert desk.dues(k) == [NOON + 30 * DAY + HOUR] * 2


# --- catching up ------------------------------------------------------------------------------------------


def test_commands_get_their_turn_while_timers_catch_up(clock: Clock, store: Path) -> None:
    desk = Desk(after(HOUR))
    count = 10_000
    with desk.app.open(store, clock=clock, durability="process") as k:
        k.handle_all([desk.enter() for _ in range(count)], TESTER)
    clock.advance(HOUR)
    with desk.app.open(store, clock=clock, durability="process") as k:
        waited = []
        while len(waited) < 10:
            before = k.sequence
            waited.append(k.handle(desk.put_off(1, None), TESTER).sequence - before)
        # What was submitted before it, what is processed meanwhile, and what came between the two lines.
        assert max(waited) <= 3 * klerk.limits.TIMERS_FIRED_AT_ONCE_MAX
        assert k.timers.wait_until_idle(60)
        assert set(desk.states(k)) == {"late"}
        assert k.sequence == 1 + count + 10


def test_timers_that_become_due_meanwhile_come_in_order(clock: Clock) -> None:
    """Of many that are submitted together, the second one waits for what the first one makes due."""

    def timed(desk: Desk) -> None:
        def step(a: Args[Ticket]) -> Ticket:
            desk.ran.append((a.model.due, a.model.meta.id))
            assert a.model.due is not None
            return a.model.replace(due=a.model.due + timedelta(minutes=7 * int(a.model.meta.id)))

        desk.open.at(lambda a: a.model.due).update(step)

    desk = Desk(timed)
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter(NOON + timedelta(minutes=i % 5)) for i in range(1, 30)], TESTER)
        clock.advance(DAY)
        eventually(lambda: k.timers.wait_until_idle(0.1))
        assert desk.ran == sorted(desk.ran)
        assert len(desk.ran) > 500
        assert len(set(desk.ran)) == len(desk.ran)


def test_many_that_are_put_off_do_not_pile_up(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.TIMERS_LEFT_OVER_MIN", 10)
    desk = Desk(lambda desk: desk.open.at(lambda a: a.now + HOUR).to(desk.late))
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter() for _ in range(5)], TESTER)
        for _ in range(200):
            clock.advance(TICK)
            k.handle(desk.put_off(3, None), TESTER)
        assert len(k.timers._queue._heap) <= 50
        clock.now = NOON + HOUR
        assert k.timers.fire_due() == 4
        clock.advance(200 * TICK)
        assert k.timers.fire_due() == 1


# --- what is shown ----------------------------------------------------------------------------------------


def test_what_is_due_is_shown(clock: Clock) -> None:
    desk = Desk(lambda desk: desk.open.at(lambda a: a.model.due).to(desk.late))
    with desk.app.open(clock=clock) as k:
        assert (k.timers.count, k.timers.next_due, k.timers.due()) == (0, None, ())
        k.handle_all([desk.enter(NOON + i * HOUR) for i in (3, 1, 2, 1)] + [desk.enter()], TESTER)
        assert (k.timers.count, k.timers.next_due) == (4, NOON + HOUR)
        assert k.timers.due(3) == tuple(
            DueTimer(ref=Ref(id), state=desk.open, due=NOON + i * HOUR) for id, i in [(2, 1), (4, 1), (3, 2)]
        )
        k.handle(desk.drop(2), TESTER)
        assert [each.ref for each in k.timers.due()] == [4, 3, 1]
        clock.advance(2 * HOUR)
        assert k.timers.fire_due() in (0, 1, 2)
        assert (k.timers.count, k.timers.next_due) == (1, NOON + 3 * HOUR)
        for limit in (0, -1, 10**9, "3", True, None):
            with pytest.raises(klerk.ArgumentError):
                k.timers.due(limit)  # type: ignore[arg-type]


def test_asyncio_is_offered_the_same(clock: Clock) -> None:
    desk = Desk(after(HOUR))

    async def main() -> None:
        timers = k.aio.timers
        await k.aio.handle(desk.enter(), TESTER)
        assert (timers.count, timers.next_due, timers.refused, timers.trouble) == (1, NOON + HOUR, (), "")
        assert [each.ref for each in await timers.due(5)] == [1]
        clock.advance(HOUR)
        await timers.fire_due()
        assert await timers.wait_until_idle(5)
        assert timers.count == 0
        async with k.aio.read(TESTER) as r:
            assert r.get(Ref(1)).meta.state is desk.late
            with pytest.raises(ReadLockHeld):
                await timers.fire_due()
            with pytest.raises(ReadLockHeld):
                await timers.wait_until_idle()

    with desk.app.open(clock=clock) as k:
        asyncio.run(main())
    names = {name for name in dir(k.timers) if not name.startswith("_")}
    internal = {"start", "note", "close", "runs_here", "refuse_waiting", "next_us"}
    assert names - internal == {name for name in dir(k.aio.timers) if not name.startswith("_")}


def test_timers_are_not_waited_for_where_they_would_never_come(clock: Clock) -> None:
    desk = Desk(after(HOUR))
    problems: list[Exception] = []

    def meddle(a: Args[Ticket]) -> None:
        for wait in (k.timers.fire_due, k.timers.wait_until_idle):
            try:
                wait()
            except NotPure as error:
                problems.append(error)

    desk.open.on(desk.put_off).update(meddle)
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(), TESTER)
        clock.advance(HOUR - TICK)
        with k.read(TESTER), pytest.raises(ReadLockHeld):
            k.timers.fire_due()
        with k.read(TESTER), pytest.raises(ReadLockHeld):
            k.timers.wait_until_idle()
        k.handle(desk.put_off(1, None), TESTER)
        assert len(problems) == 2
    with pytest.raises(Closed):
        k.timers.fire_due()


def test_several_threads_fire_each_timer_once(clock: Clock) -> None:
    desk = Desk(lambda desk: desk.open.after(HOUR).update(note("x")))
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter() for _ in range(3_000)], TESTER)
        clock.advance(HOUR)
        threads = [Spawned(k.timers.fire_due) for _ in range(4)]
        for thread in threads:
            thread.end()
        with k.read(TESTER) as r:
            assert {ticket.trace for ticket in r.list(desk.tickets)} == {("x",)}
        assert k.sequence == 1 + 3_000


def test_fire_due_that_is_interrupted_loses_nothing(
    clock: Clock, interrupt: Callable[[], Spawned], monkeypatch: pytest.MonkeyPatch
) -> None:
    from designs import Interrupted

    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 60.0)
    go = threading.Event()
    desk = Desk(lambda desk: desk.open.after(HOUR).update(lambda a: go.wait(20) and note("x")(a)))
    with desk.app.open(clock=clock) as k:
        k.handle_all([desk.enter() for _ in range(10)], TESTER)
        clock.advance(HOUR)
        spawned = interrupt()
        with pytest.raises(Interrupted):
            k.timers.fire_due()
        spawned.end()
        go.set()
        k.timers.fire_due()
        with k.read(TESTER) as r:
            assert {ticket.trace for ticket in r.list(desk.tickets)} == {("x",)}


# --- clocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clock",
    [
        lambda: datetime(2024, 1, 1),  # noqa: DTZ001
        lambda: 1_700_000_000,
        lambda: None,
        lambda: 1 / 0,
        lambda moment: moment,
        5,
    ],
)
def test_a_clock_that_cannot_be_meant(clock: Any, store: Path) -> None:
    with pytest.raises(ConfigError, match="K040"):
        Desk(nothing).app.open(store, clock=clock)
    assert not store.exists()


def test_a_clock_of_another_zone(store: Path) -> None:
    east = timezone(timedelta(hours=9))
    clock = Clock(NOON.astimezone(east))
    desk = Desk(after(HOUR))
    with desk.app.open(store, clock=clock) as k:
        assert k.handle(desk.enter(), TESTER).model.meta.entered_at == NOON
        clock.now = (NOON + HOUR).astimezone(east)
        k.timers.fire_due()
        assert desk.states(k) == ["late"]
        assert desk.get(k).meta.entered_at.tzinfo is UTC


def test_a_clock_that_stops_working_stops_nothing_for_good(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    broken = threading.Event()
    reads = []

    def unreliable() -> datetime:
        reads.append(1)
        if broken.is_set():
            raise OSError("no time")
        return clock()

    desk = Desk(after(HOUR))
    runs: list[int] = []

    @desk.app.job()
    def later(job: JobRun) -> None:
        runs.append(job.id)

    with desk.app.open(clock=unreliable) as k:
        k.handle(desk.enter(), TESTER)
        k.jobs.schedule(later(), at=NOON + HOUR)
        broken.set()
        count = len(reads)
        eventually(lambda: len(reads) > count + 20)
        with pytest.raises(FunctionFailed, match="no time"):
            k.handle(desk.enter(), TESTER)
        assert k.handle(desk.enter(), TESTER.at(NOON)).model.meta.entered_at == NOON
        assert len([each for each in caplog.records if "wait for the clock" in each.message]) == 1
        clock.advance(HOUR)
        broken.clear()
        eventually(lambda: desk.states(k) == ["late", "late"])
        eventually(lambda: runs)


def test_a_clock_that_jumps(clock: Clock, store: Path) -> None:
    desk = Desk(lambda desk: [desk.open.after(i * HOUR).update(note(str(i))) for i in (1, 2, 3)])
    with desk.app.open(store, clock=clock) as k:
        k.handle(desk.enter(), TESTER)
        for hours, trace in [(-9, ""), (1, "1"), (0, "1"), (1, "1"), (5, "123"), (-100, "123"), (9, "123")]:
            clock.now = NOON + hours * HOUR
            k.timers.fire_due()
            assert "".join(desk.get(k).trace) == trace


@pytest.mark.parametrize(
    "moment",
    [
        lambda a: datetime(2024, 1, 1),  # noqa: DTZ001
        lambda a: date(2024, 1, 1),
        lambda a: 5,
        lambda a: "noon",
        lambda a: NOON.replace(tzinfo=Nowhere()),
        lambda a: NOON + timedelta(days=9_999_999),
    ],
)
def test_what_is_no_moment(clock: Clock, moment: Any) -> None:
    desk = Desk(lambda desk: desk.open.at(moment).to(desk.late))
    with desk.app.open(clock=clock) as k, pytest.raises(FunctionFailed, match=r"test_timers_recovery\.py"):
        k.handle(desk.enter(), TESTER)


def test_the_ends_of_time(clock: Clock) -> None:
    """What no clock will ever show never comes; what was before all time comes at once."""
    west, east = timezone(timedelta(hours=-12)), timezone(timedelta(hours=12))

    def timed(desk: Desk) -> None:
        desk.open.at(lambda a: datetime.max.replace(tzinfo=west)).update(refuse)
        desk.open.after(timedelta(days=365_250)).update(refuse)
        desk.gone.at(lambda a: datetime.min.replace(tzinfo=east)).update(note("x"))

    clock.now = datetime(9990, 1, 1, tzinfo=UTC)
    desk = Desk(timed)
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(), TESTER)
        assert (k.timers.next_due, desk.get(k).meta.due_at) == (None, None)
        k.handle(desk.drop(Ref(1)), TESTER)
        eventually(lambda: desk.get(k).trace == ("x",))


def test_an_idle_time_counts_from_the_last_change(clock: Clock) -> None:
    """`a.now` of a moment's function is the time of the change that it is asked for, also when it is due."""
    desk = Desk(lambda desk: desk.open.at(lambda a: a.now + HOUR).to(desk.late))
    with desk.app.open(clock=clock) as k:
        k.handle(desk.enter(), TESTER)
        clock.advance(HOUR / 2)
        k.handle(desk.put_off(1, None), TESTER)
        clock.advance(HOUR / 2)
        assert k.timers.fire_due() == 0
        clock.advance(HOUR / 2)
        k.timers.fire_due()
        assert desk.states(k) == ["late"]


def test_the_rate_of_jobs_goes_by_the_clock(clock: Clock) -> None:
    runs: list[int] = []
    bank = Bank()

    @bank.app.job(rate="2/h")
    def paced(job: JobRun) -> None:
        runs.append(job.id)

    with bank.app.open(clock=clock) as k:
        k.jobs.schedule(paced(), paced(), paced())
        eventually(lambda: len(runs) == 2)
        clock.now = NOON + HOUR
        eventually(lambda: len(runs) == 3)


# --- everything at once -----------------------------------------------------------------------------------


class Case(Model):
    next: datetime | None = None


class Firing(Model):
    case: int
    label: str


MINUTE = timedelta(minutes=1)
STATES = ("a", "b", "c")


class Plan:
    """A random timer: when it is due, and what it does."""

    def __init__(self, rng: random.Random, state: int, number: int) -> None:
        self.kind = rng.choice(["after", "next", "idle"])
        self.minutes = rng.randint(1, 30)
        self.action = rng.choice(["stay", "move", "refuse", "delete", "later"])
        self.target = rng.randrange(3)
        self.step = rng.randint(1, 20)
        self.label = f"{STATES[state]}{number} {self.kind} {self.action}"

    def due(self, case: "Known") -> datetime | None:
        if self.kind == "after":
            return case.entered + self.minutes * MINUTE
        if self.kind == "idle":
            return case.updated + self.minutes * MINUTE
        return case.next

    def refuses(self, id: int) -> bool:
        return self.action == "refuse" and id % 2 == 0

    def declare(self, state: Any, design: "Design") -> None:
        minutes, step = self.minutes, self.step
        if self.kind == "after":
            block = state.after(minutes * MINUTE)
        elif self.kind == "idle":
            block = state.at(lambda a: a.now + minutes * MINUTE)
        else:
            block = state.at(lambda a: a.model.next)

        def update(a: Args[Case]) -> Case:
            if self.refuses(int(a.model.meta.id)):
                raise Rejected("no")
            return a.model.replace(next=a.model.next and a.model.next + step * MINUTE)

        block.update(update)
        block.commands(lambda a: design.record(int(a.model.meta.id), self.label))
        if self.action == "move" and design.states[self.target] is not state:
            block.to(design.states[self.target])
        elif self.action == "delete":
            block.delete()


class Known:
    """What the simulation knows of a case."""

    def __init__(self, id: int, now: datetime, next: datetime | None) -> None:
        self.id, self.state, self.next = id, 0, next
        self.entered = self.updated = now
        self.fired = datetime.min.replace(tzinfo=UTC)

    def due(self, plans: list[list[Plan]]) -> datetime | None:
        moments = [moment for plan in plans[self.state] if (moment := plan.due(self)) and moment > self.fired]
        return min(moments, default=None)

    def move(self, state: int, now: datetime) -> None:
        if state != self.state:
            self.state, self.entered = state, now
            self.fired = datetime.min.replace(tzinfo=UTC)


class Design:
    def __init__(self, plans: list[list[Plan]]) -> None:
        self.app = App("cases")
        self.cases, firings = self.app.machine(Case), self.app.machine(Firing)
        self.firings = firings
        self.states = self.cases.states(*STATES)
        (kept,) = firings.states("kept")
        permit_everything(self.app)

        @firings.create(into=kept)
        def record(a: Args, case: int, label: str) -> Firing:
            return Firing(case=case, label=label)

        @self.cases.create(into=self.states[0])
        def enter(a: Args, next: datetime | None) -> Case:
            return Case(next=next)

        @self.cases.event(*self.states)
        def plan_next(a: Args[Case], next: datetime | None) -> Case:
            return a.model.replace(next=next)

        a, b, c = self.states

        @self.cases.event(b, c, to=a)
        def to_a(a: Args[Case]) -> Case:
            return a.model.replace()

        @self.cases.event(a, c, to=b)
        def to_b(a: Args[Case]) -> Case:
            return a.model.replace()

        @self.cases.event(a, b, to=c)
        def to_c(a: Args[Case]) -> Case:
            return a.model.replace()

        for state, move in ((a, to_a), (b, to_b), (c, to_c)):
            # Accepted where it leads, too: the model is changed and stays.
            state.on(move)
        self.record, self.enter, self.plan_next, self.moves = record, enter, plan_next, (to_a, to_b, to_c)
        for state, of_state in zip(self.states, plans, strict=True):
            for plan in of_state:
                plan.declare(state, self)


class Simulation:
    """What has to fire, found by looking at everything again and again."""

    def __init__(self, plans: list[list[Plan]]) -> None:
        self.plans = plans
        self.cases: dict[int, Known] = {}
        self.fired: list[tuple[int, str]] = []

    def fire_due(self, now: datetime) -> None:
        while True:
            due = [(moment, id) for id, case in self.cases.items() if (moment := case.due(self.plans))]
            if not due or min(due)[0] > now:
                return
            moment, id = min(due)
            self.fire(self.cases[id], moment, now)

    def fire(self, case: Known, moment: datetime, now: datetime) -> None:
        of_state = self.plans[case.state]
        due = [plan for plan in of_state if (at := plan.due(case)) and case.fired < at <= moment]
        state, case.fired, case.updated = case.state, moment, now
        before = case.next
        recorded: list[tuple[int, str]] = []
        for plan in due:
            if case.state != state or case.id not in self.cases:
                break
            if plan.refuses(case.id):
                # All that the transaction did is undone.
                case.next, case.state = before, state
                return
            case.next = case.next and case.next + plan.step * MINUTE
            recorded.append((case.id, plan.label))
            if plan.action == "move":
                case.move(plan.target, now)
            elif plan.action == "delete":
                del self.cases[case.id]
        self.fired += recorded


def random_plans(rng: random.Random) -> list[list[Plan]]:
    return [[Plan(rng, state, i) for i in range(rng.randint(0, 3))] for state in range(3)]


def fired_by(k: klerk.Klerk, design: Design) -> list[tuple[int, str]]:
    with k.read(TESTER) as r:
        return [(firing.case, firing.label) for firing in r.list(design.firings)]


@pytest.fixture(params=range(20))
def history(request: pytest.FixtureRequest, rng: random.Random) -> random.Random:
    return rng


def test_random_histories_fire_what_a_simulation_fires(history: random.Random, store: Path) -> None:
    rng, clock = history, Clock()
    plans = random_plans(rng)
    design, simulated = Design(plans), Simulation(plans)
    k = design.app.open(store, clock=clock, durability="process")
    try:
        for _ in range(40):
            what = rng.choice(
                ["enter", "next", "move", "time", "time", "time", "back", "restart", "redesign"]
            )
            moment = rng.choice([None, clock.now + rng.randint(-20, 60) * MINUTE])
            if what == "enter":
                id = k.handle(design.enter(moment), TESTER).id
                simulated.cases[int(id)] = Known(int(id), clock.now, moment)
            elif what in ("next", "move") and simulated.cases:
                case = simulated.cases[rng.choice(list(simulated.cases))]
                target = rng.randrange(3)
                case.updated = clock.now
                if what == "next":
                    case.next = moment
                    k.handle(design.plan_next(Ref(case.id), moment), TESTER)
                else:
                    case.move(target, clock.now)
                    k.handle(design.moves[target](Ref(case.id)), TESTER)
            elif what == "time":
                clock.advance(rng.randint(0, 40) * MINUTE)
            elif what == "back":
                clock.advance(-rng.randint(0, 40) * MINUTE)
            elif what in ("restart", "redesign"):
                k.close()
                clock.advance(rng.randint(-20, 60) * MINUTE)
                if what == "redesign":
                    simulated.plans = random_plans(rng)
                design = Design(simulated.plans)
                k = design.app.open(store, clock=clock, durability="process")
            simulated.fire_due(clock.now)
            k.timers.fire_due()
            assert fired_by(k, design) == simulated.fired
            with k.read(TESTER) as r:
                known = {
                    case.meta.id: (case.meta.state.name, case.meta.due_at) for case in r.list(design.cases)
                }
            assert known == {
                case.id: (STATES[case.state], case.due(simulated.plans)) for case in simulated.cases.values()
            }
    finally:
        k.close()

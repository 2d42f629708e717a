"""Arguments of stored jobs: brought from version to version, and never run with what does not fit.

Each test stores jobs with one version of an app, without workers, and opens the store with another one. What
cannot be brought up to date is kept as it was stored, suspended, told about, and runs once it fits again.
"""

import enum
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from designs import TESTER, Account, Bank, Clock, eventually

import klerk
from klerk import JobRun, JobState, Migration, Ref

MINUTE = timedelta(minutes=1)
Old = dict[str, Any]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice a clock that was set at once."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


class First(Bank):
    """The app as it was: a job with a number of cents."""

    def __init__(self) -> None:
        super().__init__()

        @self.app.job()
        def pay(job: JobRun, account: Ref[Account], cents: int, note: str = "") -> None: ...

        self.pay = pay


class Second(Bank):
    """The app as it is now: euros as a decimal number, no note, but a currency."""

    def __init__(self, upcast: Callable[[Old], Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.ran: list[Any] = []

        def euros(old: Old) -> Old:
            return {"euros": Decimal(old["cents"]) / 100, "account": old["account"]}

        @self.app.job(version=2, upcast={1: upcast or euros}, **options)
        def pay(job: JobRun, account: Ref[Account], euros: Decimal, currency: str = "EUR") -> None:
            self.ran.append((account, euros, currency))
            if self.fails:
                raise ValueError("no")

        self.pay = pay
        self.fails = False


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with three jobs of the first version: to be run at once, at noon, and noon of the day after."""
    path = tmp_path / "store"
    first = First()
    with first.app.open(path, clock=Clock(), job_threads=0) as k:
        ada = k.handle(first.enter("Ada"), TESTER).id
        k.jobs.schedule(
            first.pay(ada, 150), first.pay(ada, 250, "x").after(MINUTE), first.pay(ada, 5).after(MINUTE * 2)
        )
    return path


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def opened(bank: Bank, path: Path, clock: Clock | None = None, threads: int = 0) -> klerk.Klerk:
    return bank.app.open(path, clock=clock or Clock(), job_threads=threads)


# --- upcasting ----------------------------------------------------------------------------------------


def test_stored_jobs_are_brought_up_to_date_by_name(store: Path) -> None:
    second, clock = Second(), Clock()
    with opened(second, store, clock, 1) as k:
        idle(k)
        assert second.ran == [(1, Decimal("1.5"), "EUR")]
        assert [(each.arguments, each.version) for each in k.jobs.live()] == [
            ((1, Decimal("2.5"), "EUR"), 2),
            ((1, Decimal("0.05"), "EUR"), 2),
        ]
        clock.advance(MINUTE)
        eventually(lambda: len(second.ran) == 2)
    # The next start brings the last one up to date once more.
    again = Second()
    clock.advance(MINUTE)
    with opened(again, store, clock, 1) as k:
        idle(k)
        assert again.ran == [(1, Decimal("0.05"), "EUR")]


def test_what_was_stored_anew_is_not_brought_up_twice(store: Path) -> None:
    calls: list[Old] = []

    def count(old: Old) -> Old:
        calls.append(old)
        return {"account": old["account"], "euros": Decimal(old["cents"])}

    second = Second(count, retry=lambda attempt, error: MINUTE)
    second.fails = True
    with opened(second, store, threads=1) as k:
        idle(k)
        assert second.ran == [(1, Decimal(150), "EUR")]
        assert k.jobs.get(1).attempt == 1
    assert calls[0] == {"account": 1, "cents": 150, "note": ""}
    assert len(calls) == 3
    again = Second(count)
    with opened(again, store) as k:
        assert len(calls) == 5
        assert k.jobs.get(1).arguments == (1, Decimal(150), "EUR")
        assert k.jobs.get(1).state is JobState.RETRYABLE


def test_over_several_versions_at_once(store: Path) -> None:
    bank, ran = Bank(), []

    @bank.app.job(
        version=4,
        upcast={
            1: lambda old: {"who": old["account"], "cents": old["cents"]},
            2: lambda old: {**old, "cents": old["cents"] + 1},
            3: lambda old: {**old, "cents": old["cents"] * 2},
        },
    )
    def pay(job: JobRun, cents: int, who: Ref[Account]) -> None:
        ran.append((cents, who))

    with opened(bank, store, threads=1) as k:
        idle(k)
        assert ran == [(302, 1)]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(msgspec.Struct, frozen=True):
    text: str
    amount: Decimal


def test_what_upcast_functions_return_is_checked_and_converted(store: Path) -> None:
    bank, ran = Bank(), []
    moment = datetime(2024, 1, 1, tzinfo=UTC)

    def upcast(old: Old) -> Old:
        lines = [Line("a", Decimal("1.10")), {"text": "b", "amount": "2.20"}]
        return {"color": "red", "lines": lines, "moment": moment, "of": None, "tags": {"x"}}

    @bank.app.job(version=2, upcast={1: upcast})
    def pay(
        job: JobRun,
        color: Color,
        lines: tuple[Line, ...],
        moment: datetime,
        of: Ref[Account] | None,
        tags: frozenset[str],
    ) -> None:
        ran.append((color, lines, moment, of, tags))

    with opened(bank, store, threads=1) as k:
        idle(k)
    lines = (Line("a", Decimal("1.10")), Line("b", Decimal("2.20")))
    assert ran == [(Color.RED, lines, moment, None, frozenset({"x"}))]


def test_a_new_parameter_with_a_default_needs_no_version(store: Path) -> None:
    bank, ran = Bank(), []

    @bank.app.job()
    def pay(job: JobRun, account: Ref[Account], cents: int, note: str = "", extra: int = 7) -> None:
        ran.append((cents, note, extra))

    with opened(bank, store, threads=1) as k:
        idle(k)
    assert ran == [(150, "", 7)]
    # And a later version sees it under its name.
    seen: list[Old] = []

    def upcast(old: Old) -> Any:
        seen.append(old)
        return {}

    with opened(Second(upcast), store) as k:
        assert len(k.jobs.live()) == 2
    assert seen[0] == {"account": 1, "cents": 250, "note": "x"}


# --- what is refused ----------------------------------------------------------------------------------


def silently_changed() -> Bank:
    bank = Bank()

    @bank.app.job(version=2, upcast={1: lambda old: old})
    def pay(job: JobRun, account: Ref[Account], euros: str, currency: str = "EUR") -> None: ...

    return bank


def test_a_silent_change_is_refused(store: Path) -> None:
    bank = Bank()

    @bank.app.job()
    def pay(job: JobRun, account: Ref[Account], euros: Decimal) -> None: ...

    with pytest.raises(klerk.SchemaChanged, match="or a new version of the job with an upcast function"):
        opened(bank, store)
    # A version that was declared before is held to what it was, also after another one was.
    with opened(Second(), store):
        pass
    with pytest.raises(klerk.SchemaChanged, match="'euros' of job pay is gone, moved or of another type"):
        opened(silently_changed(), store)
    with pytest.raises(klerk.SchemaChanged):
        opened(bank, store)
    with opened(First(), store) as k:
        assert [each.arguments for each in k.jobs.live()] == [(1, 150, ""), (1, 250, "x"), (1, 5, "")]


@pytest.mark.parametrize(
    "options",
    [
        {"version": 2},
        {"version": 3, "upcast": {2: dict}},
        {"version": 2, "upcast": {1: dict, 2: dict}},
        {"upcast": {0: dict}},
        {"version": 2, "upcast": {1: "f"}},
        {"version": 0},
    ],
)
def test_versions_without_their_functions_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(klerk.ConfigError, match="K017"):
        Bank().app.job(**options)(_nothing)


def _nothing(job: JobRun) -> None: ...


# --- suspended ----------------------------------------------------------------------------------------


def unfit(old: Old) -> Any:
    return {"account": "nobody", "euros": "much"}


@pytest.mark.parametrize(
    ("upcast", "told"),
    [
        (lambda old: 1 // 0, "which brings version 1 up to date, raised ZeroDivisionError"),
        (lambda old: old["gone"], "raised KeyError: 'gone'"),
        (lambda old: None, "returned None, expected a dict of values by name"),
        (lambda old: [old], "expected a dict of values by name"),
        (lambda old: {"account": old["account"]}, "it has no value for 'euros' in version 2"),
        (lambda old: {**old, "euros": Decimal(1)}, "it has a value for 'cents', which there is not"),
        (unfit, "- account: "),
        (lambda old: {"account": 1, "euros": Decimal(1), "currency": 5}, "currency: "),
        (lambda old: {"account": 1, "euros": object()}, "euros: "),
    ],
)
def test_what_cannot_be_brought_up_to_date_is_suspended(
    store: Path, upcast: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken, clock = Second(upcast), Clock()
    with opened(broken, store, clock, 1) as k:
        clock.advance(MINUTE * 5)
        idle(k)
        live = k.jobs.live()
        assert [each.state for each in live] == [JobState.SUSPENDED] * 3
        assert [each.arguments for each in live] == [(1, 150, ""), (1, 250, "x"), (1, 5, "")]
        assert {each.version for each in live} == {1}
        assert all(told in each.error for each in live), live[0].error
        assert k.jobs.counts()[JobState.SUSPENDED] == 3
        assert k.jobs.counts()[JobState.AVAILABLE] == 0
        # Whatever was submitted before this is processed with it.
        sequence = k.handle(broken.enter("Bob"), TESTER).sequence
    assert broken.ran == []
    summary = [each.getMessage() for each in caplog.records if "suspended" in each.getMessage()]
    assert len(summary) == 1
    assert "3 jobs of kind pay are suspended" in summary[0]
    assert "the first is job 1: " in summary[0]
    # It stands in the store, and is not written again by the next start.
    with opened(broken, store, clock, 1) as k:
        assert [each.state for each in k.jobs.live()] == [JobState.SUSPENDED] * 3
        assert k.sequence == sequence
    # Once they fit again, they come back to life, each at its time.
    mended = Second()
    with opened(mended, store, Clock(), 1) as k:
        idle(k)
        assert mended.ran == [(1, Decimal("1.5"), "EUR")]
        assert [(each.state, each.error) for each in k.jobs.live()] == [(JobState.SCHEDULED, "")] * 2
    later = Second()
    with opened(later, store, clock, 1) as k:
        idle(k)
        assert sorted(later.ran) == [(1, Decimal("0.05"), "EUR"), (1, Decimal("2.5"), "EUR")]
        assert k.jobs.counts()[JobState.COMPLETED] == 3
        assert k.jobs.live() == ()


def test_suspended_jobs_survive_a_copy_made_at_once(store: Path, tmp_path: Path) -> None:
    """The copy holds what was durable then: no orderly close has added to it."""
    second = Second(unfit)
    with opened(second, store, threads=1) as k:
        # Whatever was submitted before this is durable with it.
        k.handle(second.enter("Bob"), TESTER)
        k.checkpoint(tmp_path / "copy")
    with opened(Second(unfit), tmp_path / "copy") as k:
        assert [each.state for each in k.jobs.live()] == [JobState.SUSPENDED] * 3
        assert [each.arguments[1] for each in k.jobs.live()] == [150, 250, 5]


def test_only_the_jobs_that_do_not_fit_are_suspended(store: Path) -> None:
    def some(old: Old) -> Any:
        if old["cents"] == 150:
            raise ValueError("half a euro")
        return {"account": old["account"], "euros": Decimal(old["cents"]) / 100}

    second, clock = Second(some), Clock()
    with opened(second, store, clock, 1) as k:
        clock.advance(MINUTE * 5)
        eventually(lambda: len(second.ran) == 2)
        idle(k)
        (left,) = k.jobs.live()
        assert (left.id, left.state) == (1, JobState.SUSPENDED)


def test_values_that_a_type_does_not_permit_any_more(tmp_path: Path) -> None:
    """What is stored of the type is the same, so the design fits; a value may not."""

    def design(most: int) -> tuple[Bank, Any, list[int]]:
        class Few(klerk.Int, ge=0, le=most): ...

        bank, ran = Bank(), []

        @bank.app.job()
        def pay(job: JobRun, cents: Few) -> None:
            ran.append(cents)

        return bank, pay, ran

    bank, pay, _ = design(100)
    with opened(bank, tmp_path / "store") as k:
        k.jobs.schedule(pay(5), pay(50))
    bank, _, ran = design(10)
    with opened(bank, tmp_path / "store", threads=1) as k:
        idle(k)
        assert ran == [5]
        (left,) = k.jobs.live()
        assert (left.state, left.arguments) == (JobState.SUSPENDED, (50,))
        assert "cents" in left.error
    bank, _, ran = design(100)
    with opened(bank, tmp_path / "store", threads=1) as k:
        idle(k)
        assert ran == [50]


def test_a_suspended_job_keeps_its_attempts_and_its_time(store: Path) -> None:
    second = Second(retry=lambda attempt, error: MINUTE * 9)
    second.fails = True
    with opened(second, store, threads=1) as k:
        idle(k)
        before = k.jobs.get(1)
        assert before.state is JobState.RETRYABLE
    with opened(First(), store) as k:
        suspended = k.jobs.get(1)
        assert suspended.state is JobState.SUSPENDED
        assert suspended.error == "its arguments are of version 2, and this app knows 1"
        # Those that were not stored anew are of the first version still.
        assert [each.state for each in k.jobs.live()[1:]] == [JobState.SCHEDULED] * 2
    with opened(Second(), store) as k:
        back = k.jobs.get(1)
        assert back == msgspec.structs.replace(before, error="")


# --- migrations ---------------------------------------------------------------------------------------


def migrated(bank: Bank, *steps: Callable[[Migration], None]) -> None:
    for version, step in enumerate(steps, start=1):
        bank.app.migration(version)(step)


def test_a_migration_and_upcasting_do_not_both_apply(store: Path) -> None:
    def never(old: Old) -> Any:
        raise AssertionError("it was transformed already")

    second = Second(never)

    def to_euros(m: Migration) -> None:
        m.transform_job(
            "pay", lambda old: {"account": old["account"], "euros": Decimal(7), "currency": old["note"]}
        )

    migrated(second, to_euros)
    with opened(second, store) as k:
        assert [(each.arguments, each.version) for each in k.jobs.live()] == [
            ((1, Decimal(7), ""), 2),
            ((1, Decimal(7), "x"), 2),
            ((1, Decimal(7), ""), 2),
        ]
    with opened(second, store) as k:
        assert {each.version for each in k.jobs.live()} == {2}


def test_a_migration_does_not_transform_arguments_of_a_version_before(store: Path) -> None:
    """Stored ones of version 1 were only ever brought up to version 2 in memory."""
    with opened(Second(), store):
        pass
    third = Bank()

    @third.app.job(version=3, upcast={1: lambda old: old, 2: lambda old: old})
    def pay(job: JobRun, account: Ref[Account], cents: int, note: str = "") -> None: ...

    migrated(third, lambda m: m.transform_job("pay", lambda old: old))
    with pytest.raises(klerk.MigrationFailed, match="of version 1, and they are transformed from version 2"):
        opened(third, store)
    with opened(Second(), store) as k:
        assert len(k.jobs.live()) == 3


def test_a_renamed_job_of_a_new_version(store: Path) -> None:
    bank, ran = Bank(), []

    @bank.app.job(version=2, upcast={1: lambda old: {"cents": old["cents"] + 1}})
    def settle(job: JobRun, cents: int) -> None:
        ran.append(cents)

    migrated(bank, lambda m: m.rename_job("pay", "settle"))
    with opened(bank, store, threads=1) as k:
        idle(k)
        assert ran == [151]
        assert [(each.kind, each.arguments) for each in k.jobs.live()] == [
            ("settle", (251,)),
            ("settle", (6,)),
        ]


def test_a_migration_of_something_else_leaves_versions_alone(store: Path) -> None:
    second = Second()
    migrated(second, lambda m: m.transform("Account", lambda old: {**old, "balance": 1}))
    with opened(second, store, threads=1) as k:
        idle(k)
        assert second.ran == [(1, Decimal("1.5"), "EUR")]
        assert [each.arguments[1] for each in k.jobs.live()] == [Decimal("2.5"), Decimal("0.05")]
    again = Second()
    migrated(again, lambda m: m.transform("Account", lambda old: {**old, "balance": 1}))
    with opened(again, store) as k:
        assert [each.arguments[1] for each in k.jobs.live()] == [Decimal("2.5"), Decimal("0.05")]


def test_a_renamed_model_is_the_same_parameter(store: Path) -> None:
    """References to it in any version of the parameters follow."""

    class Konto(klerk.Model):
        owner: str
        balance: int = 0
        guarantor: Ref["Konto"] | None = None

    app, ran = klerk.App("bank"), []
    accounts = app.machine(Konto)
    active, closed = accounts.states("active", "closed", final=("closed",))

    @accounts.create(into=active)
    def enter(a: klerk.Args, owner: str) -> Konto:
        return Konto(owner=owner)

    @accounts.event(active, to=closed)
    def close(a: klerk.Args[Konto]) -> None: ...

    @app.job()
    def pay(job: JobRun, account: Ref[Konto], cents: int, note: str = "") -> None:
        ran.append((account, cents))

    app.migration(1)(lambda m: m.rename_model("Account", "Konto"))
    with app.open(store, clock=Clock(), job_threads=1) as k:
        idle(k)
    assert ran == [(1, 150)]


# --- beside memory ------------------------------------------------------------------------------------


def test_suspended_jobs_that_wait_for_far_times(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those on disk alone are told about when they are met, once, and what becomes of them is theirs."""
    monkeypatch.setattr("klerk.limits.JOBS_AT_HAND_MAX", 2)
    first = First()
    with opened(first, store) as k:
        k.jobs.schedule(*(first.pay(1, each).after(timedelta(days=each)) for each in range(1, 6)))
    broken, clock = Second(unfit), Clock()
    with opened(broken, store, clock, 1) as k:
        for _ in range(3):
            assert {each.state for each in k.jobs.live()} == {JobState.SUSPENDED}
        k.jobs.cancel(8)
        clock.advance(timedelta(days=6))
        eventually(lambda: k.jobs.counts()[JobState.SUSPENDED] == 7)
        k.handle(broken.enter("Bob"), TESTER)
        assert k.jobs.get(8).state is JobState.CANCELLED
        assert len(k.jobs.live()) == 7
    told = [each.getMessage() for each in caplog.records if "are suspended" in each.getMessage()]
    assert sum(int(each.split()[0]) for each in told) == 8
    with opened(Second(), store) as k:
        assert k.jobs.get(8).state is JobState.CANCELLED
        assert {each.state for each in k.jobs.live()} <= {JobState.AVAILABLE, JobState.SCHEDULED}
        assert len(k.jobs.live()) == 7
    mended = Second()
    with opened(mended, store, clock, 1) as k:
        eventually(lambda: len(mended.ran) == 7)
        idle(k)
        assert k.jobs.counts()[JobState.COMPLETED] == 7

"""The job manager as applications of three domains use it, each clause of what it promises in its place.

A claims desk (batches, outside payments that must happen once, chains, actors), a print shop (queues, keys,
priorities, what is done by hand), and the billing of energy meters (cron, long jobs over restarts, processes,
results). Each is declared once, as an application declares itself, and every test opens it anew, with the
test's own clock. What happens outside stands in `OUTSIDE`.
"""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from designs import Clock, eventually, permit_everything

import klerk
import klerk.testing
from klerk import (
    Args,
    Backoff,
    Batch,
    Cancel,
    Completion,
    Context,
    Denied,
    Discard,
    JobRecord,
    JobRun,
    JobState,
    Klerk,
    Model,
    Ref,
    Result,
    Retry,
    Snooze,
    Unique,
    User,
    chain,
)
from klerk.__main__ import main

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


class Outside:
    """The world: what was sent to it, and how it behaves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sent: list[tuple[str, Any]] = []
        self.errors: dict[str, list[BaseException]] = {}
        self.gates: dict[str, threading.Event] = {}

    def send(self, what: str, value: Any) -> None:
        with self.lock:
            self.sent.append((what, value))
            errors = self.errors.get(what)
            error = errors.pop(0) if errors else None
        if error is not None:
            raise error

    def of(self, what: str) -> list[Any]:
        with self.lock:
            return [value for each, value in self.sent if each == what]


OUTSIDE = Outside()


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)
    OUTSIDE.__init__()  # type: ignore[misc]
    yield
    for gate in OUTSIDE.gates.values():
        gate.set()


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(2024, 3, 28, 9, tzinfo=UTC))


def settle(k: Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def found(k: Klerk, **which: Any) -> JobRecord:
    record = k.jobs.find(**which)
    assert record is not None
    return record


def events_of(k: Klerk, actor: Context) -> list[str]:
    """What the log holds of an actor, the newest first."""
    page = k.log(actor, actor=(actor.actor.kind, actor.actor.id))
    return [command.event for entry in page.entries for command in entry.commands]


# --- a claims desk ------------------------------------------------------------------------------------


class Holder(klerk.Text, min=1, max=80): ...


class Cents(klerk.Int, ge=0, le=100_000_000): ...


class Policy(Model):
    holder: Holder


class Claim(Model):
    policy: Ref[Policy]
    amount: Cents
    payment: str = ""


class Unreachable(ConnectionError): ...


class NoSuchAddress(ValueError): ...


claims = klerk.App("claims")
policy, claim = claims.machine(Policy), claims.machine(Claim)
(insured,) = policy.states("insured")
filed, approved, refused, paid = claim.states(
    "filed", "approved", "refused", "paid", final=("refused", "paid")
)
permit_everything(claims)
claims.queue("letters", concurrency=4, rate="1000/s", weight=2)
claims.queue("checks", weight=3)
TELLER, CLERK = Context(User("teller")), User("clerk")


@policy.create(into=insured)
def insure(a: Args, holder: Holder) -> Policy:
    return Policy(holder=holder)


@claim.create(into=filed)
def file(a: Args, policy: Ref[Policy], amount: Cents) -> Claim:
    return Claim(policy=policy, amount=amount)


@claim.event(filed, to=approved)
def approve(a: Args[Claim]) -> None: ...


@claim.event(filed, to=refused)
def refuse(a: Args[Claim]) -> None: ...


@claim.event(approved, to=paid)
def note_payment(a: Args[Claim], payment: str) -> Claim:
    return a.model.replace(payment=payment)


@claims.deny.command(approve, refuse)
def only_the_clerk_decides(a: Args) -> bool:
    return a.context.actor.id != "clerk"


@claims.job(queue="checks", keep_result=HOUR, max_attempts=2, retry=lambda attempt, error: timedelta(0))
def check(job: JobRun, claim: Ref[Claim], what: str) -> dict[str, str]:
    """Ask a register about a claim."""
    with job.read() as r:
        OUTSIDE.send(what, r.get(claim).amount)
    return {"register": what}


@claims.job(run_as=CLERK)
def decide(job: JobRun, claim: Ref[Claim]) -> Completion:
    """Approve a claim that every register is content with."""
    OUTSIDE.send("opinions", sorted(found["register"] for _, found in job.member_results()))
    return job.complete_with(approve(claim))


@claims.job(run_as=CLERK)
def reject(job: JobRun, claim: Ref[Claim]) -> Completion:
    return job.complete_with(refuse(claim))


@claims.job(
    at_most_once=True,
    unique=Unique(by=("claim",)),
    key=lambda claim, iban: iban,
    key_concurrency=1,
    timeout=MINUTE,
)
def pay(job: JobRun, claim: Ref[Claim], iban: str = "NO93") -> Completion:
    """Pay through the bank, once."""
    with job.snapshot() as s:
        amount = s.get(claim).amount
    OUTSIDE.send("payment", (iban, amount, job.idempotency_key))
    return job.complete_with(note_payment(claim, f"{iban}:{job.id}"))


@claims.job(
    queue="letters",
    rate="100/s",
    key=lambda claim, text: str(claim),
    key_rate="50/s",
    unique=Unique(until="started"),
    retry=Backoff(base=MINUTE, longest=HOUR),
    on_error={ConnectionError: Snooze(10 * MINUTE), ValueError: Discard("nobody lives there")},
    timeout=MINUTE,
    max_attempts=3,
)
async def write(job: JobRun, claim: Ref[Claim], text: str) -> None:
    """Send a letter."""
    async with job.read() as r:
        holder = r.get(r.get(claim).policy).holder
    await asyncio.sleep(0)
    OUTSIDE.send("letter", f"{holder}: {text}")
    job.log(f"sent {text}")


filed.on_enter.job(
    lambda a: Batch(
        [check(a.model.meta.id, what) for what in ("identity", "history")],
        succeeded=decide(a.model.meta.id),
        failed=reject(a.model.meta.id),
    )
)
approved.on_enter.job(lambda a: pay(a.model.meta.id))
paid.on_enter.job(
    lambda a: chain(
        write(a.model.meta.id, "paid"),
        write(a.model.meta.id, "were you content?").after(14 * DAY).options(priority=-5),
    )
)
refused.on_enter.job(lambda a: write(a.model.meta.id, "refused"))


def filed_claim(k: Klerk, amount: int = 5000) -> Result[Claim]:
    ada = k.handle(insure(Holder("Ada")), TELLER).id
    return k.handle(file(ada, Cents(amount)), TELLER)


def state_of(k: Klerk, ref: Ref[Claim]) -> str:
    with k.read(TELLER) as r:
        return str(r.get(ref).meta.state)


def test_a_claim_goes_its_way_by_jobs_alone(clock: Clock) -> None:
    with claims.open(clock=clock) as k:
        result = filed_claim(k)
        assert [record.kind for record in result.jobs] == ["check", "check", "decide", "reject"]
        settle(k)
        assert state_of(k, result.id) == "paid"
        assert OUTSIDE.of("opinions") == [["history", "identity"]]
        (payment,) = OUTSIDE.of("payment")
        assert payment[:2] == ("NO93", 5000)
        assert OUTSIDE.of("letter") == ["Ada: paid"]
        later = found(k, kind=write, state="scheduled")
        assert later.run_at == clock.now + 14 * DAY
        assert later.priority == -5
        assert k.jobs.why(later).codes == ("time",)
        clock.advance(14 * DAY)
        eventually(lambda: OUTSIDE.of("letter") == ["Ada: paid", "Ada: were you content?"])
        settle(k)
        totals = k.jobs.totals()
        assert (totals[JobState.COMPLETED], totals[JobState.CANCELLED]) == (6, 1)


def test_a_failing_register_has_the_claim_refused(clock: Clock) -> None:
    OUTSIDE.errors["history"] = [RuntimeError("down"), RuntimeError("still down")]
    with claims.open(clock=clock) as k:
        result = filed_claim(k)
        settle(k)
        assert state_of(k, result.id) == "refused"
        assert OUTSIDE.of("payment") == []
        (bad,) = k.jobs.query(state="discarded")
        assert bad.attempt == 2
        assert bad.error.startswith("RuntimeError: still down")
        batch = k.jobs.batch(result.jobs[0].batch)
        assert (batch.total, batch.remaining, batch.failures, batch.ended) == (2, 0, 1, True)
        assert k.jobs.query(batch=batch.id, kind="decide").items[0].state is JobState.CANCELLED


def test_who_did_it_and_why_stands_in_the_log(clock: Clock) -> None:
    claims_log = Context(User("auditor"))
    with claims.open(clock=clock) as k:
        result = filed_claim(k)
        settle(k)
        decided = found(k, kind=decide)
        assert decided.cause == result.sequence
        assert k.jobs.models(decided) == (result.id,)
        assert {record.kind for record in k.jobs.query(model=result.id)} >= {
            "check",
            "decide",
            "pay",
            "write",
        }
        with pytest.raises(Denied):
            k.log(claims_log)
        with pytest.raises(Denied):
            k.handle(approve(result.id), TELLER)


def test_what_happens_outside_happens_once_and_what_is_unknown_is_said(clock: Clock, tmp_path: Path) -> None:
    OUTSIDE.errors["payment"] = [SystemExit("the bank's line broke")]
    with claims.open(tmp_path, clock=clock) as k:
        result = filed_claim(k)
        settle(k)
        failed = found(k, kind=pay)
        assert failed.state is JobState.DISCARDED
        assert failed.attempt == 1
        assert state_of(k, result.id) == "approved"
    with claims.open(tmp_path, clock=clock) as k:
        settle(k)
        assert len(OUTSIDE.of("payment")) == 1
        again = k.jobs.rerun(failed.id, {"iban": "SE45"})
        assert again.id == failed.id
        assert again.reruns == 1
        settle(k)
        first, second = OUTSIDE.of("payment")
        assert first[2] != second[2]
        assert second[0] == "SE45"
        assert state_of(k, result.id) == "paid"


def test_a_claim_is_tested_as_users_test_their_own() -> None:
    with klerk.testing.open(claims) as k:
        ref = filed_claim(k).id
        klerk.testing.assert_enqueued(k, check(ref, "identity"))
        klerk.testing.refute_enqueued(k, pay)
        drained = klerk.testing.drain(k, until=15 * DAY)
        kinds = [record.kind for record in drained.records]
        assert kinds == ["check", "check", "decide", "pay", "write", "write"]
        assert OUTSIDE.of("letter") == ["Ada: paid", "Ada: were you content?"]


def test_a_letter_waits_for_the_post_or_is_given_up(clock: Clock) -> None:
    OUTSIDE.errors["letter"] = [Unreachable(), OSError("jam"), NoSuchAddress()]
    with claims.open(clock=clock) as k:
        result = filed_claim(k)
        settle(k)
        letter = found(k, kind=write)
        assert letter.state is JobState.SCHEDULED
        assert letter.attempt == 0
        assert letter.run_at == clock.now + 10 * MINUTE
        assert letter.key == str(int(result.id))
        clock.advance(10 * MINUTE)
        eventually(lambda: k.jobs.get(letter.id).state is JobState.RETRYABLE)
        failed = k.jobs.get(letter.id)
        assert failed.attempt == 1
        assert failed.run_at is not None
        assert 30 <= (failed.run_at - clock.now).total_seconds() <= 60
        assert k.jobs.run_now(letter.id).state is JobState.AVAILABLE
        settle(k)
        given_up = k.jobs.get(letter.id)
        assert given_up.state is JobState.DISCARDED
        assert given_up.error == "nobody lives there: NoSuchAddress"
        survey = found(k, kind=write, state="cancelled")
        assert survey.follows == (letter.id,)


# --- a print shop -------------------------------------------------------------------------------------


class Order(Model):
    customer: Holder
    pages: int


shop = klerk.App("print shop")
order = shop.machine(Order)
waiting, printed = order.states("waiting", "printed", final=("printed",))
permit_everything(shop)
shop.allow.log()(lambda a: True)
shop.queue("presses", concurrency=3, weight=2)
FOREMAN, CUSTOMER = Context(User("foreman")), Context(User("customer"))


@shop.allow.jobs()
def the_foreman_minds_the_presses(a: Args) -> bool:
    return a.context.actor.id == "foreman"


@order.create(into=waiting)
def accept(a: Args, customer: Holder, pages: int) -> Order:
    return Order(customer=customer, pages=pages)


@order.event(waiting, to=printed)
def finish(a: Args[Order]) -> None: ...


@shop.job(
    queue="presses",
    key=lambda machine, pages: machine,
    key_concurrency=1,
    max_attempts=2,
    retry=Backoff(base=MINUTE),
)
def press(job: JobRun, machine: str, pages: int) -> None:
    """Print on a machine, page by page."""
    for page in job.track(range(pages)):
        OUTSIDE.send(machine, page)
        if gate := OUTSIDE.gates.get(machine):
            gate.wait(20)


@shop.job(queue="presses", tags={"folder"}, unique=Unique(within=DAY, by=("order",)))
def fold(job: JobRun, order: Ref[Order], size: str = "A4") -> None:
    OUTSIDE.send("folded", size)


@shop.job(rate="1/h")
def sharpen(job: JobRun) -> None: ...


@shop.job(max_attempts=2)
def deliver(job: JobRun, how: str) -> object:
    """End in the way that is asked for, returned or raised."""
    outcome = {
        "snooze": Snooze(HOUR, "the van is out"),
        "cancel": Cancel("fetched by the customer"),
        "discard": Discard("it burnt"),
        "retry": Retry(2 * HOUR, "nobody at home"),
    }[how.removeprefix("raise ")]
    OUTSIDE.send("delivery", how)
    if how.startswith("raise "):
        raise outcome
    return outcome


def busy(machine: str) -> threading.Event:
    gate = OUTSIDE.gates[machine] = threading.Event()
    return gate


def test_one_machine_holds_up_no_other_and_why_says_so(clock: Clock) -> None:
    gate = busy("heidelberg")
    with shop.open(clock=clock) as k:
        first, second, other = k.jobs.schedule(
            press("heidelberg", 2), press("heidelberg", 1), press("roland", 1)
        )
        eventually(lambda: k.jobs.get(other.id).state is JobState.COMPLETED)
        assert k.jobs.get(first.id).state is JobState.EXECUTING
        why = k.jobs.why(second)
        assert why.codes == ("concurrency",)
        assert "heidelberg" in str(why)
        eventually(lambda: "0 of 2 done" in str(k.jobs.why(first)))
        gate.set()
        settle(k)
        assert k.jobs.counts(queue="presses")[JobState.COMPLETED] == 3
        assert k.jobs.get(first.id).done == k.jobs.get(first.id).total == 2


def test_urgent_orders_come_first(clock: Clock) -> None:
    gate = busy("roland")
    with shop.open(clock=clock) as k:
        k.jobs.schedule(press("roland", 1))
        eventually(lambda: OUTSIDE.of("roland") == [0])
        k.jobs.schedule(press("roland", 2), press("roland", 3).options(priority=9))
        gate.set()
        settle(k)
        assert OUTSIDE.of("roland") == [0, 0, 1, 2, 0, 1]


def test_the_foreman_minds_the_queue_and_the_log_knows(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with shop.open(tmp_path, clock=clock) as k:
        with pytest.raises(Denied):
            k.jobs.pause("presses", CUSTOMER)
        k.jobs.pause("presses", FOREMAN)
        (job,) = k.jobs.schedule(press("roland", 1))
        assert k.jobs.why(job).codes == ("paused",)
        k.jobs.scale("presses", FOREMAN, concurrency=1, rate="600/min")
    with shop.open(tmp_path, clock=clock) as k:
        (status,) = [queue for queue in k.jobs.queues() if queue.name == "presses"]
        assert (status.paused, status.concurrency, status.rate, status.available) == (True, 1, "600/min", 1)
        k.jobs.resume("presses", FOREMAN)
        assert k.jobs.why(job).codes == ("rate",)
        clock.advance(timedelta(seconds=0.1))
        settle(k)
        assert k.jobs.get(job.id).state is JobState.COMPLETED
        k.jobs.scale("presses", FOREMAN)
        (status,) = [queue for queue in k.jobs.queues() if queue.name == "presses"]
        assert (status.concurrency, status.rate) == (3, None)
        assert events_of(k, FOREMAN) == ["queue action"] * 4
    assert main(["log", str(tmp_path), "--event", "queue action", "--oldest-first"]) == 0
    told = capsys.readouterr().out
    assert "queue action: pause of presses with paused=True\n" in told
    assert "scale of presses with paused=True, concurrency=1, rate='600/min'\n" in told
    assert main(["jobs", str(tmp_path)]) == 0
    assert "1 completed" in capsys.readouterr().out


def test_a_job_waits_for_the_worker_that_can_do_it_and_is_asked_for_once(
    clock: Clock, tmp_path: Path
) -> None:
    with shop.open(tmp_path, clock=clock) as k:
        ordered = k.handle(accept(Holder("Ada"), 12), CUSTOMER).id
        (once,), (again,) = k.jobs.schedule(fold(ordered)), k.jobs.schedule(fold(ordered, "A5"))
        assert once.id == again.id
        assert k.jobs.why(once).codes == ("missing_tag",)
        assert found(k, tag="folder").id == once.id
    with shop.open(tmp_path, clock=clock, worker_tags={"folder", "stapler"}) as k:
        settle(k)
        assert OUTSIDE.of("folded") == ["A4"]
        clock.advance(DAY)
        (new,) = k.jobs.schedule(fold(ordered, "A5"))
        assert new.id != once.id


def test_orders_are_changed_by_hand(clock: Clock) -> None:
    with shop.open(clock=clock) as k:
        tomorrow = clock.now + DAY
        moved, dropped, kept = k.jobs.schedule(press("roland", 1), press("roland", 2), sharpen(), at=tomorrow)
        with pytest.raises(Denied):
            k.jobs.cancel(moved.id, CUSTOMER)
        edited = k.jobs.edit(
            moved.id, arguments={"pages": 3}, priority=7, run_at=clock.now + HOUR, context=FOREMAN
        )
        assert (edited.arguments, edited.priority, edited.run_at) == (("roland", 3), 7, clock.now + HOUR)
        assert k.jobs.discard(dropped, FOREMAN).error == "discarded by user foreman"
        with pytest.raises(klerk.WrongState, match="retry, rerun"):
            k.jobs.cancel(dropped.id, FOREMAN)
        assert k.jobs.run_now(moved, FOREMAN).run_at is None
        settle(k)
        assert OUTSIDE.of("roland") == [0, 1, 2]
        assert k.jobs.cancel_all(FOREMAN, kind=[press, sharpen], state="scheduled") == 1
        assert k.jobs.retry_all(FOREMAN, kind=press) == 1
        settle(k)
        assert k.jobs.get(kept).state is JobState.CANCELLED
        assert [record.id for record in k.jobs.query(kind=press, newest_first=True)] == [dropped.id, moved.id]
        assert events_of(k, FOREMAN) == ["job action"] * 5


def test_queues_share_the_workers_by_their_weight(clock: Clock) -> None:
    app, started, go = klerk.App("shares"), list[str](), threading.Event()
    app.queue("books", weight=3)
    app.queue("cards", weight=1)

    @app.job()
    def hold(job: JobRun) -> None:
        assert go.wait(20)

    @app.job(queue="books")
    def book(job: JobRun) -> None:
        started.append("book")

    @app.job(queue="cards")
    def card(job: JobRun) -> None:
        started.append("card")

    with app.open(clock=clock, job_threads=1) as k:
        (held,) = k.jobs.schedule(hold())
        eventually(lambda: k.jobs.get(held).state is JobState.EXECUTING)
        k.jobs.schedule(*(card() for _ in range(60)), *(book() for _ in range(60)))
        go.set()
        settle(k)
    assert 28 <= started[:40].count("book") <= 32
    assert len(started) == 120


@pytest.mark.parametrize("name", ["get", "why", "models", "result", "waiting_for", "cancel_running"])
def test_a_job_is_named_by_its_record_or_its_id(clock: Clock, name: str) -> None:
    with shop.open(clock=clock, job_threads=0) as k:
        (job,) = k.jobs.schedule(sharpen())
        ask = getattr(k.jobs, name)
        if name == "result":
            for each in (job, job.id):
                with pytest.raises(klerk.NoResult):
                    ask(each)
        else:
            assert ask(job) == ask(job.id)
        for wrong in ("1", None, True, sharpen()):
            with pytest.raises(klerk.ArgumentError, match="expected a job's record or id"):
                ask(wrong)


@pytest.mark.parametrize("name", ["cancel", "discard", "retry", "run_now", "edit", "rerun"])
def test_what_is_no_job_is_refused_by_hand(clock: Clock, name: str) -> None:
    with (
        shop.open(clock=clock, job_threads=0) as k,
        pytest.raises(klerk.ArgumentError, match="expected a job's record or id, got str"),
    ):
        getattr(k.jobs, name)("1")


def test_a_running_job_is_asked_to_stop(clock: Clock) -> None:
    gate = busy("roland")
    with shop.open(clock=clock) as k:
        (job,) = k.jobs.schedule(press("roland", 100))
        eventually(lambda: OUTSIDE.of("roland"))
        assert k.jobs.cancel(job.id).stop == "cancelled"
        assert "stopping" in k.jobs.why(job).codes
        gate.set()
        settle(k)
        ended = k.jobs.get(job.id)
        assert (ended.state, ended.done, ended.total) == (JobState.CANCELLED, 1, 100)


@pytest.mark.parametrize("how", ["", "raise "])
def test_how_a_job_says_what_becomes_of_it(clock: Clock, how: str) -> None:
    with shop.open(clock=clock) as k:
        jobs = k.jobs.schedule(*(deliver(how + each) for each in ("snooze", "cancel", "discard", "retry")))
        settle(k)
        snoozed, cancelled, discarded, retried = [k.jobs.get(job.id) for job in jobs]
        assert (snoozed.state, snoozed.attempt, snoozed.run_at) == ("scheduled", 0, clock.now + HOUR)
        assert (cancelled.state, cancelled.error) == ("cancelled", "fetched by the customer")
        assert (discarded.state, discarded.error) == ("discarded", "it burnt")
        assert (retried.state, retried.attempt, retried.run_at) == ("retryable", 1, clock.now + 2 * HOUR)
        assert (snoozed.error, retried.error) == ("the van is out", "nobody at home")


def test_a_rate_is_kept_and_told(clock: Clock) -> None:
    with shop.open(clock=clock) as k:
        first, second = k.jobs.schedule(sharpen(), sharpen())
        eventually(lambda: k.jobs.get(first.id).state is JobState.COMPLETED)
        (reason,) = k.jobs.why(second).reasons
        assert (reason.code, reason.wait) == ("rate", HOUR)
        clock.advance(HOUR)
        settle(k)
        assert k.jobs.get(second.id).state is JobState.COMPLETED


# --- the billing of energy meters ---------------------------------------------------------------------


class Meter(Model):
    owner: Holder
    kwh: int = 0
    billed: int = 0


class Bill(Model):
    meter: Ref[Meter]
    month: str
    amount: Cents


class Price(msgspec.Struct, frozen=True):
    energy: int
    tax: int


energy = klerk.App("energy")
meter, bill = energy.machine(Meter), energy.machine(Bill)
(running,) = meter.states("running")
due, overdue = bill.states("due", "overdue")
permit_everything(energy)
energy.allow.log()(lambda a: True)
energy.queue("figures", executor="process")
STAFF = Context(User("staff"))


@meter.create(into=running)
def install(a: Args, owner: Holder, kwh: int) -> Meter:
    return Meter(owner=owner, kwh=kwh)


@meter.event(running)
def settle_meter(a: Args[Meter], kwh: int) -> Meter:
    return a.model.replace(billed=a.model.billed + kwh, kwh=a.model.kwh - kwh)


@bill.create(into=due)
def issue(a: Args, meter: Ref[Meter], month: str, amount: Cents) -> Bill:
    return Bill(meter=meter, month=month, amount=amount)


issue.commands(lambda a, meter: settle_meter(meter, a.read.get(meter).kwh))


@energy.job(cron="30 2 1 * *", timezone="Europe/Oslo", missed="all", concurrency=1, heartbeat=HOUR)
def close_month(job: JobRun, month: str = "") -> None:
    """Bill all meters for the month that is over."""
    month = month or f"{job.tick - DAY:%Y-%m}" if job.tick else month
    billed = job.state or 0
    with job.snapshot() as s:
        meters = [each for each in s.list(running) if each.meta.id > billed]
    for each in job.track(meters):
        job.handle(issue(each.meta.id, month, Cents(each.kwh * 10)), step=f"bill {each.meta.id}")
        OUTSIDE.send("billed", each.owner)
        if gate := OUTSIDE.gates.get(each.owner):
            gate.set()
            OUTSIDE.gates["go on"].wait(20)
        job.checkpoint(int(each.meta.id))
    job.log(f"{month}: {len(meters)} bills")


@energy.job(queue="figures", keep_result=DAY, timeout=MINUTE)
def price(job: JobRun, meter: Ref[Meter]) -> Price:
    """Work out a price, in a process of its own."""
    with job.read() as r:
        kwh = r.get(meter).kwh
    job.log(f"{job.now:%H:%M}: {kwh} kWh, process {os.getpid()}")
    return Price(energy=kwh * 8, tax=kwh * 2)


@energy.job(keep_result=DAY)
async def total(job: JobRun) -> int:
    """Sum up the prices that it comes after."""
    async with job.snapshot() as s:
        assert len(s.list(running)) == 3
    return sum(each.energy + each.tax for each in job.results().values())


@energy.job(max_attempts=5)
async def read_meters(job: JobRun, meters: tuple[Ref[Meter], ...]) -> None:
    """Read meters over a line that breaks."""
    for number, each in enumerate(meters):
        await job.handle_async(settle_meter(each, 1))
        job.progress(number + 1, len(meters))
        OUTSIDE.send("line", int(each))
        await job.checkpoint_async({"read": number + 1})


def installed(k: Klerk) -> list[Ref[Meter]]:
    people = ("Ada", "Bea", "Cem")
    return [result.id for result in k.handle_all([install(Holder(each), 100) for each in people], STAFF)]


def test_a_month_is_billed_once_though_the_process_stops_in_the_middle(clock: Clock, tmp_path: Path) -> None:
    OUTSIDE.gates = {"Bea": threading.Event(), "go on": threading.Event()}
    with energy.open(tmp_path, clock=clock) as k:
        installed(k)
    clock.now = datetime(2024, 4, 1, 0, 31, tzinfo=UTC)
    with energy.open(tmp_path, clock=clock, close_wait=timedelta(0)) as k:
        assert OUTSIDE.gates["Bea"].wait(20)
        job = found(k, kind=close_month)
        assert (job.created_at, job.cause) == (clock.now, 0)
        assert (job.done, job.total) == (1, 3)
        threading.Timer(0.2, OUTSIDE.gates["go on"].set).start()
    OUTSIDE.gates.clear()
    with energy.open(tmp_path, clock=clock) as k:
        settle(k)
        ended = k.jobs.get(job.id)
        assert (ended.state, ended.attempt, ended.log) == ("completed", 1, ("2024-03: 1 bills",))
        with k.read(STAFF) as r:
            bills = r.list(due)
            assert [(r.get(each.meter).owner, each.month, each.amount) for each in bills] == [
                ("Ada", "2024-03", 1000),
                ("Bea", "2024-03", 1000),
                ("Cem", "2024-03", 1000),
            ]
            assert {(each.kwh, each.billed) for each in r.list(running)} == {(0, 100)}
        by_the_job = k.log(STAFF, actor=("system", f"job close_month {job.id}"), event="Bill.issue")
        assert len(by_the_job.entries) == 3


def test_months_that_passed_while_nobody_looked_are_billed(clock: Clock, tmp_path: Path) -> None:
    with energy.open(tmp_path, clock=clock) as k:
        installed(k)
    clock.now = datetime(2024, 6, 1, 0, 30, tzinfo=UTC)
    with energy.open(tmp_path, clock=clock) as k:
        eventually(lambda: k.jobs.totals()[JobState.COMPLETED] == 3)
        assert [record.log for record in k.jobs.query(kind="close_month")] == [
            ("2024-03: 3 bills",),
            ("2024-04: 3 bills",),
            ("2024-05: 3 bills",),
        ]


def test_results_come_from_other_processes(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where processes find this module; last, so that klerk stays the one that is tested.
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).resolve().parent.parent)])
    with energy.open(tmp_path, clock=clock, job_processes=2) as k:
        prices = [price(each) for each in installed(k)]
        *priced, summed = k.jobs.schedule(*prices, total().after(*prices))
        assert k.jobs.why(summed).codes[0] == "dependency"
        settle(k)
        assert k.jobs.result(priced[0].id) == Price(energy=800, tax=200)
        assert k.jobs.result(summed) == 3000
        at, _, process = k.jobs.get(priced[1]).log[0].partition(": 100 kWh, process ")
        assert at == "09:00"
        assert int(process) != os.getpid()
    with energy.open(tmp_path, clock=clock, job_threads=0) as k:
        assert k.jobs.result(summed) == 3000
        clock.advance(DAY)
        with pytest.raises(klerk.NoResult, match="expired"):
            k.jobs.result(summed)


def test_the_same_from_asyncio(clock: Clock) -> None:
    OUTSIDE.errors["line"] = [TimeoutError("noise")]

    async def main() -> None:
        with energy.open(clock=clock) as k:
            meters = installed(k)
            (job,) = await k.aio.jobs.schedule(read_meters(tuple(meters)), at=clock.now + HOUR)
            assert (await k.aio.jobs.why(job)).codes == ("time",)
            assert (await k.aio.jobs.run_now(job.id)).state is JobState.AVAILABLE
            assert await k.aio.jobs.wait_until_idle(20)
            failed = await k.aio.jobs.get(job)
            assert (failed.state, failed.attempt, failed.done) == ("retryable", 1, 1)
            await k.aio.jobs.retry(job)
            assert await k.aio.jobs.wait_until_idle(20)
            page = await k.aio.jobs.query(model=meters[2], state=JobState.COMPLETED)
            assert [record.id for record in page] == [job.id]
            assert k.aio.jobs.counts(kind=read_meters)[JobState.COMPLETED] == 1
            async with k.aio.read(STAFF) as r:
                assert [each.billed for each in r.list(running)] == [1, 1, 1]
            await k.aio.jobs.pause("default")
            assert k.aio.jobs.paused == ("default",)
            await k.aio.jobs.schedule(read_meters(()))
            assert await k.aio.jobs.cancel_all(kind="read_meters") == 1

    asyncio.run(main())
    assert OUTSIDE.of("line") == [1, 1, 2, 3]


# --- what cannot be meant -----------------------------------------------------------------------------


async def asked(machine: str, pages: int) -> str:
    return machine


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"key": lambda only: only, "key_rate": "1/s"}, r"of \(machine, pages\).*does not fit \(only\)"),
        ({"key": lambda machine, pages, colour: machine}, "called as one of the job's and 'colour' is not"),
        ({"key": asked, "key_concurrency": 1}, "nothing is awaited here"),
        ({"retry": lambda attempt: MINUTE}, r"of \(attempt, error\)"),
        ({"version": 2, "upcast": {1: lambda: None}}, r"of \(old\)"),
        ({"unique": Unique(by="pages")}, r"by must be a tuple of names, as in \('machine',\), is 'pages'"),
        ({"unique": Unique(within=60)}, "within must be a timedelta over 0 and up to 366 days, is 60"),
        ({"timezone": "Europe/Oslo"}, "only together with cron"),
        ({"missed": "all"}, "only together with cron"),
        ({"at_most_once": "yes"}, "it must be True or False, is 'yes'"),
    ],
)
def test_options_that_fail_only_later_are_refused_at_once(options: Any, told: str) -> None:
    """A key would fail each request, and a retry function would give up each job that fails."""
    app = klerk.App("wrong")
    with pytest.raises(klerk.ConfigError, match=told) as caught:

        @app.job(**options)
        def work(job: JobRun, machine: str, pages: int = 1) -> None: ...

    assert caught.value.code == "K017"


def yields(job: JobRun) -> Iterator[int]:
    yield 1


async def yields_soon(job: JobRun) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [yields, yields_soon])
def test_a_function_of_which_nothing_would_run_is_refused(function: Any) -> None:
    with pytest.raises(klerk.ConfigError, match="has a yield") as caught:
        klerk.App("wrong").job()(function)
    assert caught.value.code == "K006"


async def nothing() -> None: ...


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (lambda: accept(Holder("Ada"), 1), "Command"),
        (sharpen, "JobRequest"),
        (lambda: Batch([], ended=sharpen()), "Batch"),
        (nothing, "coroutine"),
    ],
)
@pytest.mark.parametrize("keep", [None, DAY])
def test_a_job_that_returns_what_does_nothing_has_failed(
    returned: Callable[[], object], what: str, keep: timedelta | None
) -> None:
    app = klerk.App("forgetful")

    @app.job(max_attempts=1, keep_result=keep)
    def work(job: JobRun) -> object:
        return returned()

    with app.open() as k:
        (job,) = k.jobs.schedule(work())
        settle(k)
        ended = k.jobs.get(job)
        assert ended.state is JobState.DISCARDED
        assert f"returned a {what}, which does nothing by itself" in ended.error
        assert "complete_with" in ended.error


def test_several_requests_have_to_be_unpacked(clock: Clock) -> None:
    with shop.open(clock=clock, job_threads=0) as k:
        for several in (chain(sharpen(), sharpen()), [sharpen()]):
            with pytest.raises(klerk.ArgumentError, match="Put a star before several"):
                k.jobs.schedule(several)  # type: ignore[arg-type]


def test_functions_that_take_anything_are_accepted() -> None:
    app = klerk.App("right")

    @app.job(key=lambda *values: values[0], key_rate="1/s", retry=Backoff(), version=2, upcast={1: dict})
    def work(job: JobRun, machine: str, pages: int = 1) -> None: ...

    with app.open(job_threads=0) as k:
        assert k.jobs.schedule(work("roland"))[0].key == "roland"

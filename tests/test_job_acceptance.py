"""The job manager as applications of three domains use it, each clause of what it promises in its place.

A claims desk (batches, outside payments that must happen once, chains, actors), a print shop (queues, keys,
priorities, what is done by hand), and the billing of energy meters (cron, long jobs over restarts, processes,
results). Each is declared once, as an application declares itself, and every test opens it anew, with the
test's own clock. What happens outside stands in `OUTSIDE`.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from designs import Clock, eventually, permit_everything

import klerk
from klerk import (
    Args,
    Backoff,
    Batch,
    Cancel,
    Completion,
    Context,
    Denied,
    Discard,
    JobRun,
    JobState,
    Klerk,
    Model,
    Ref,
    Result,
    Retry,
    Snooze,
    System,
    Unique,
    User,
    chain,
)

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


class Outside:
    """The world: what was sent to it, and how it behaves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sent: list[tuple[str, object]] = []
        self.errors: dict[str, list[Exception]] = {}
        self.gates: dict[str, threading.Event] = {}

    def send(self, what: str, value: object) -> None:
        with self.lock:
            self.sent.append((what, value))
            errors = self.errors.get(what)
            error = errors.pop(0) if errors else None
        if error is not None:
            raise error

    def of(self, what: str) -> list[object]:
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
        assert payment[:2] == ("NO93", 5000)  # type: ignore[index]
        assert OUTSIDE.of("letter") == ["Ada: paid"]
        later = k.jobs.find(kind=write, state="scheduled")
        assert later is not None and later.run_at == clock.now + 14 * DAY and later.priority == -5
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
        assert state_of(k, result.id) == "refused" and OUTSIDE.of("payment") == []
        (bad,) = k.jobs.query(state="discarded")
        assert bad.attempt == 2 and bad.error.startswith("RuntimeError: still down")
        batch = k.jobs.batch(result.jobs[0].batch)
        assert (batch.total, batch.remaining, batch.failures, batch.ended) == (2, 0, 1, True)
        assert k.jobs.query(batch=batch.id, kind="decide").items[0].state is JobState.CANCELLED


def test_who_did_it_and_why_stands_in_the_log(clock: Clock) -> None:
    claims_log = Context(User("auditor"))
    with claims.open(clock=clock) as k:
        result = filed_claim(k)
        settle(k)
        decided = k.jobs.find(kind=decide)
        assert decided is not None and decided.cause == result.sequence
        assert k.jobs.models(decided) == (result.id,)
        assert {record.kind for record in k.jobs.query(model=result.id)} >= {"check", "decide", "pay", "write"}
        with pytest.raises(Denied):
            k.log(claims_log)
        with pytest.raises(Denied):
            k.handle(approve(result.id), TELLER)


def test_what_happens_outside_happens_once_and_what_is_unknown_is_said(clock: Clock, tmp_path: Path) -> None:
    OUTSIDE.errors["payment"] = [SystemExit("the bank's line broke")]  # type: ignore[list-item]
    with claims.open(tmp_path, clock=clock) as k:
        result = filed_claim(k)
        settle(k)
        failed = k.jobs.find(kind=pay)
        assert failed is not None and failed.state is JobState.DISCARDED and failed.attempt == 1
        assert state_of(k, result.id) == "approved"
    with claims.open(tmp_path, clock=clock) as k:
        settle(k)
        assert len(OUTSIDE.of("payment")) == 1
        again = k.jobs.rerun(failed.id, {"iban": "SE45"})
        assert again.id == failed.id and again.reruns == 1
        settle(k)
        first, second = OUTSIDE.of("payment")
        assert first[2] != second[2] and second[0] == "SE45"  # type: ignore[index]
        assert state_of(k, result.id) == "paid"


def test_a_letter_waits_for_the_post_or_is_given_up(clock: Clock) -> None:
    OUTSIDE.errors["letter"] = [Unreachable(), OSError("jam"), NoSuchAddress()]
    with claims.open(clock=clock) as k:
        result = filed_claim(k)
        settle(k)
        letter = k.jobs.find(kind=write)
        assert letter is not None and letter.state is JobState.SCHEDULED and letter.attempt == 0
        assert letter.run_at == clock.now + 10 * MINUTE and letter.key == str(int(result.id))
        clock.advance(10 * MINUTE)
        eventually(lambda: k.jobs.get(letter.id).state is JobState.RETRYABLE)
        failed = k.jobs.get(letter.id)
        assert failed.attempt == 1 and failed.run_at is not None
        assert 30 <= (failed.run_at - clock.now).total_seconds() <= 60
        assert k.jobs.run_now(letter.id).state is JobState.AVAILABLE
        settle(k)
        given_up = k.jobs.get(letter.id)
        assert given_up.state is JobState.DISCARDED
        assert given_up.error == "nobody lives there: NoSuchAddress"
        survey = k.jobs.find(kind=write, state="cancelled")
        assert survey is not None and survey.follows == (letter.id,)

"""What type checkers must accept of jobs: run by ``make lint``, never by pytest.

Every option, every way to ask for a job, and everything that a job's function and the job manager offer, with
the types that users get back.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import msgspec

import klerk
import klerk.testing
from klerk import (
    Args,
    Backoff,
    Batch,
    BatchStatus,
    Cancel,
    Command,
    Completion,
    Context,
    Discard,
    JobPage,
    JobReason,
    JobRecord,
    JobRequest,
    JobRun,
    JobState,
    JobStatus,
    Klerk,
    Model,
    QueueStatus,
    Ref,
    Result,
    Retention,
    Retry,
    Snooze,
    Unique,
    User,
    chain,
)

MINUTE = timedelta(minutes=1)


class Kwh(klerk.Int, ge=0): ...


class Meter(Model):
    kwh: Kwh


class Price(msgspec.Struct, frozen=True):
    cents: int


app = klerk.App("energy")
meter = app.machine(Meter)
running, closed = meter.states("running", "closed", final=("closed",))


@meter.create(into=running)
def install(a: Args, kwh: Kwh) -> Meter:
    return Meter(kwh=kwh)


@meter.event(running, to=closed)
def close(a: Args[Meter]) -> None: ...


@meter.event(running)
def consume(a: Args[Meter], kwh: Kwh) -> Meter:
    return a.model.replace(kwh=Kwh(a.model.kwh + kwh))


# --- declaring -----------------------------------------------------------------------------------------


def owner_of(meter: Ref[Meter], month: str) -> str:
    return str(meter)


def patiently(attempt: int, error: BaseException) -> timedelta | None:
    return None if isinstance(error, KeyError) else attempt * MINUTE


def with_month(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "month": "2024-01"}


app.queue("figures", concurrency=2, rate="100/s", weight=3, executor="process")
app.queue("letters", concurrency=None)


@app.job(
    queue="figures",
    priority=5,
    max_attempts=3,
    max_crashes=2,
    retry=patiently,
    on_error={
        ConnectionError: Snooze(MINUTE),
        ValueError: Discard("wrong"),
        KeyError: Retry(),
        OSError: Cancel(),
    },
    rate="20/min",
    concurrency=4,
    key=owner_of,
    key_rate="1/s",
    key_concurrency=1,
    unique=Unique(until="started", by=("meter",)),
    timeout=MINUTE,
    heartbeat=MINUTE,
    tags={"math"},
    keep_result=MINUTE,
    version=2,
    upcast={1: with_month},
    run_as=User("billing"),
)
def price(job: JobRun, meter: Ref[Meter], month: str = "2024-01") -> Price:
    return Price(cents=1)


@app.job(cron="30 2 1 * *", timezone="Europe/Oslo", missed="all", retry=Backoff(base=MINUTE))
async def close_month(job: JobRun) -> None: ...


@app.job(at_most_once=True, executor="thread")
def shut_off(job: JobRun, meter: Ref[Meter]) -> Completion | Snooze | Retry | Cancel | Discard:
    return job.complete_with(close(meter))


@app.allow.jobs(price, close_month, action="retry")
def staff(a: Args) -> bool:
    return a.key == "price"


# --- asking for jobs -----------------------------------------------------------------------------------


def batch_of(a: Args[Meter]) -> Batch:
    return Batch([price(a.model.meta.id)], succeeded=shut_off(a.model.meta.id), ended=close_month())


def several(a: Args[Meter]) -> Iterator[JobRequest | Batch]:
    yield price(a.model.meta.id).at(a.now + MINUTE)
    yield batch_of(a)


running.on_enter.job(batch_of).job(several).job(shut_off)
running.on_enter.job(lambda a: chain(price(a.model.meta.id), shut_off(a.model.meta.id)))
running.on_exit.job(lambda a: close_month() if a.model.kwh else None)


def requests(ref: Ref[Meter], earlier: JobRecord) -> None:
    first = price(ref, month="2024-02")
    assert_type(first, JobRequest)
    assert_type(first.at(datetime.now(UTC)), JobRequest)
    assert_type(first.after(MINUTE), JobRequest)
    assert_type(shut_off(ref).after(first, earlier, 7, anyway=True), JobRequest)
    assert_type(first.options(queue="letters", priority=1, max_attempts=2), JobRequest)
    assert_type(chain(first, shut_off(ref)), tuple[JobRequest, ...])
    Batch([first], failed=close_month())


# --- what a job's function receives --------------------------------------------------------------------


class Progress(msgspec.Struct):
    seen: int


async def work(job: JobRun, ref: Ref[Meter]) -> None:
    assert_type(job.handle(consume(ref, Kwh(1)), step="one"), Result[Meter])
    assert_type(await job.handle_async(install(Kwh(1))), Result[Meter])
    with job.read() as r:
        assert_type(r.get(ref), Meter)
    async with job.snapshot() as s:
        assert_type(s.get(ref), Meter)
    for each in job.track([ref]):
        assert_type(each, Ref[Meter])
    job.checkpoint({"seen": 1})
    await job.checkpoint_async(Progress(seen=1))
    assert_type(job.state_as(Progress), Progress | None)
    assert_type(job.state, Any)
    job.progress(1, 2)
    job.log("text")
    job.heartbeat()
    job.check_cancelled()
    assert_type(job.complete_with(close(ref), consume(ref, Kwh(1))), Completion)
    assert_type(job.idempotency_key, str)
    assert_type(job.now, datetime)
    assert_type(job.tick, datetime | None)
    assert_type(job.cancelled, bool)
    assert_type(job.results(), dict[int, Any])
    assert_type(job.result_of(7), Any)
    assert_type(list(job.member_results()), list[tuple[int, Any]])
    assert_type((job.id, job.attempt, job.crashes), tuple[int, int, int])


# --- the job manager -----------------------------------------------------------------------------------


def manage(k: Klerk, ref: Ref[Meter], boss: Context) -> None:
    (job,) = k.jobs.schedule(price(ref), at=datetime.now(UTC))
    assert_type(job, JobRecord)
    assert_type(k.jobs.get(job.id), JobRecord)
    assert_type(k.jobs.find(kind=price, state=JobState.SCHEDULED), JobRecord | None)
    page = k.jobs.query(
        kind=[price, shut_off, "close_month"], state="completed", model=ref, newest_first=True
    )
    assert_type(page, JobPage)
    assert_type([each.kind for each in page], list[str])
    assert_type(k.jobs.query(after=page.next, limit=5, tag="math", key="7", error="x").items[0], JobRecord)
    status = k.jobs.why(job)
    assert_type(status, JobStatus)
    assert_type(status.reasons, tuple[JobReason, ...])
    assert_type(k.jobs.counts(kind=price, queue="figures"), Mapping[JobState, int])
    assert_type(k.jobs.totals(), Mapping[JobState, int])
    assert_type(k.jobs.cancel(job, boss), JobRecord)
    k.jobs.edit(job.id, arguments={"month": "2024-03"}, priority=1, run_at=datetime.now(UTC), context=boss)
    k.jobs.rerun(job.id, price(ref, "2024-03"), boss)
    assert_type(k.jobs.retry_all(boss, kind=price, error="timeout"), int)
    assert_type(k.jobs.cancel_all(kind=[price, shut_off]), int)
    assert_type(k.jobs.retry_all(boss, kind=price, progress=print), int)
    k.jobs.scale("figures", boss, concurrency=None, rate="5/s", weight=2)
    assert_type(k.jobs.queues(), tuple[QueueStatus, ...])
    assert_type(k.jobs.batch(7), BatchStatus)
    assert_type(k.jobs.models(job), tuple[Ref[Any], ...])
    assert_type(k.jobs.wait_until_idle(timeout=5), bool)


async def manage_soon(k: Klerk, ref: Ref[Meter], boss: Context) -> None:
    (job,) = await k.aio.jobs.schedule(price(ref))
    assert_type(await k.aio.jobs.get(job.id), JobRecord)
    assert_type(await k.aio.jobs.find(kind=price), JobRecord | None)
    assert_type(await k.aio.jobs.query(kind=[price, shut_off]), JobPage)
    assert_type(await k.aio.jobs.why(job.id), JobStatus)
    assert_type(await k.aio.jobs.retry(job.id, boss), JobRecord)
    assert_type(await k.aio.jobs.discard_all(boss, kind=price), int)
    assert_type(await k.aio.jobs.wait_until_idle(5), bool)
    assert_type(k.aio.jobs.counts(kind=price), Mapping[JobState, int])
    await k.aio.jobs.pause("figures", boss)


def opened() -> Klerk:
    keep = Retention(completed=MINUTE, discarded=None, count_max=1000)
    return app.open(job_processes=1, worker_tags={"math"}, job_retention=keep, close_wait=MINUTE)


def commands(a: Args[Meter]) -> Command[Meter]:
    return consume(a.model.meta.id, Kwh(1))


def tested(ref: Ref[Meter]) -> None:
    with klerk.testing.open(app) as k:
        klerk.testing.assert_enqueued(k, price, args={"meter": ref})
        klerk.testing.assert_enqueued(k, price(ref))
        klerk.testing.refute_enqueued(k, shut_off)

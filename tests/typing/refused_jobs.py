"""What type checkers must refuse of jobs: run by ``make lint``, never by pytest.

Each mistake carries the comments that silence both checkers, as in `refused`.
"""

from datetime import timedelta

import klerk
from klerk import Args, Batch, Discard, JobRun, Klerk, Model, Ref, Snooze, Unique, chain


class Meter(Model):
    kwh: int


class Bill(Model):
    amount: int


app = klerk.App("energy")
meter, bill = app.machine(Meter), app.machine(Bill)
(running,) = meter.states("running")


@meter.event(running)
def consume(a: Args[Meter], kwh: int) -> None: ...


@app.job()
def price(job: JobRun, meter: Ref[Meter], month: str) -> None: ...


@app.job()
def total(job: JobRun) -> None: ...


a_meter, a_bill = Ref[Meter](1), Ref[Bill](2)


def options() -> None:
    app.job(queue=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.job(rate=20)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.job(executor="gpu")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.job(missed="never")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.job(max_attempt=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app.job(timeout=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.job(unique=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.job(unique=Unique(until="done"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.job(on_error={ValueError: Discard})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    app.job(retry=lambda attempt: timedelta(0))  # type: ignore[arg-type, misc]  # pyright: ignore[reportArgumentType]
    app.job(run_as="billing")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.queue("figures", executor="loop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.queue("figures", concurency=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    app.allow.jobs("price")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.allow.jobs(price, action="delete")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def requests(k: Klerk) -> None:
    price(a_bill, "2024-01")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    price(a_meter)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    price(a_meter, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    total(a_meter)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    price(a_meter, "x").at("tomorrow")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    price(a_meter, "x").options(priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    price(a_meter, "x").options(rate="5/s")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    chain(price, total)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Batch([price], ended=total())  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Batch([total()], succeded=total())  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    running.on_enter.job(price)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    running.on_enter.job(lambda a: a.model.kwh)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
    k.jobs.schedule(price)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.jobs.schedule(consume(a_meter, 1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def outcomes() -> None:
    Snooze()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Snooze(60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def run(job: JobRun) -> None:
    job.handle(total())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    job.complete_with(total())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    job.track(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    job.schedule(consume(a_meter, 1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    job.saved(b"")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    job.attempt = 7  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    job.progress("half")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def manage(k: Klerk) -> None:
    k.jobs.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    k.jobs.wait("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.jobs.query(status="completed")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    k.jobs.query(state=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.jobs.query(limit="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.jobs.find(newest_first=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    k.jobs.counts(kind=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.jobs.retry_all(limit=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    k.jobs.edit(1, key="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    k.jobs.scale("figures", concurrency="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.jobs.cancel_all(price)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

"""A design whose jobs run in processes, which any process can import, and ask for more jobs."""

import json
from datetime import timedelta
from typing import Any

import klerk
from klerk import JobRun

app = klerk.App("spawning")
app.queue("elsewhere", executor="process")


@app.job(queue="elsewhere", keep_result=timedelta(days=1))
def look_around(job: JobRun, names: tuple[str, ...]) -> dict[str, str]:
    """Return how a worker process shows each attribute of its job, or why it does not."""
    found = {}
    for name in names:
        try:
            found[name] = type(getattr(job, name)).__name__
        except AttributeError as error:
            found[name] = f"{type(error).__name__}"
    return found


@app.job(queue="elsewhere", keep_result=timedelta(days=1))
def square(job: JobRun, number: int) -> int:
    """Return the square of a number."""
    for _ in job.track([number]):
        job.heartbeat()
    assert (job.done, job.total) == (1, 1)
    return number * number


@app.job(queue="elsewhere", keep_result=timedelta(days=1))
def add_up(job: JobRun) -> dict[str, Any]:
    """Return the sum of what the members of a batch returned, and that nothing can be set of a job."""
    try:
        job.attempt = 7  # type: ignore[misc]
    except AttributeError:
        return {"sum": sum(result for _, result in job.member_results())}
    return {}


@app.job(queue="elsewhere", keep_result=timedelta(days=1), retry=lambda attempt, error: timedelta(0))
def plan(job: JobRun, number: int) -> list[list[int]]:
    """Ask for jobs, once; fail the first time; return what each call gave."""
    for _ in range(2):
        records = job.schedule(*requests(number), step="numbers")
        job.log(repr([each.id for each in records]))
    return ended(job)


@app.job(queue="elsewhere", keep_result=timedelta(days=1), retry=lambda attempt, error: timedelta(0))
async def plan_soon(job: JobRun, number: int) -> list[list[int]]:
    """Do what `plan` does, as a coroutine."""
    records = await job.schedule_async(*requests(number))
    job.log(repr([each.id for each in records]))
    return ended(job)


def requests(number: int) -> Any:
    """Return a batch of two, whose callback adds them up."""
    return (klerk.Batch([square(number), square(number + 1)], succeeded=add_up()),)


def ended(job: JobRun) -> list[list[int]]:
    """Fail the first time; return what was logged."""
    if job.attempt == 1:
        raise OSError("once")
    return [json.loads(line) for line in job.log_lines[-2:]]

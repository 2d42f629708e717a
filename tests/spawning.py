"""A design whose jobs run in processes, which any process can import, and ask for more jobs."""

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

"""What can be put around an opened app: telemetry, and what runs jobs in place of Klerk's own threads."""

from typing import Protocol

from klerk._waiting import CommandQueue
from klerk.job_manager.crew import Employer
from klerk.job_manager.observing import JobObserver
from klerk.job_options import Pool
from klerk.running_job import RunningJob
from klerk.submitting import Push, PushSoon
from klerk.workers import Executor

__all__ = ["Push", "PushSoon", "Pushing", "Telemetry", "Workshop", "pushes"]


class Pushing(Protocol):
    """Stands between callers and the queue. Called once, when the app is opened."""

    def pushing(self, push: Push) -> Push:
        """Return what puts submissions of threads into the queue: `push` itself, or something around it."""

    def pushing_soon(self, push_soon: PushSoon) -> PushSoon:
        """Return the same for asyncio."""


def pushes(queue: CommandQueue, *around: Pushing | None) -> tuple[Push, PushSoon]:
    """Return what puts submissions into a queue, for threads and for asyncio, the last one outermost."""
    push: Push = queue.push
    push_soon: PushSoon = queue.push_soon
    for each in around:
        if each is not None:
            push, push_soon = each.pushing(push), each.pushing_soon(push_soon)
    return push, push_soon


class Telemetry(Pushing, JobObserver, Protocol):
    """What `App.open` takes as `telemetry`: it sees every submission and every attempt at a job."""


class Workshop(Pushing, Protocol):
    """What `App.open` takes as `workshop`: it makes what runs jobs, in place of Klerk's own threads, event
    loop and processes. `klerk.testing` has one that runs them in the thread of the test."""

    def executor(self, pool: Pool, employer: Employer) -> Executor[RunningJob]:
        """Return what takes the jobs of a pool from the job manager and runs them."""

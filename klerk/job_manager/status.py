"""Why a job is not running, or how it ended, for people."""

import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from klerk import limits
from klerk._dispatch import moment_of
from klerk.app import Spec
from klerk.job_manager.batches import is_held
from klerk.job_manager.books import Books
from klerk.job_manager.claims import Claims
from klerk.job_manager.decisions import way_out
from klerk.job_manager.dispatcher import Dispatcher
from klerk.job_manager.gates import Obstacle
from klerk.job_manager.verdicts import attempts_max
from klerk.jobs import FINAL_STATES, JobRecord, JobState
from klerk.running_job import RunningJob
from klerk.texts import times

_PASSING: Final = ("worker_busy", "concurrency", "rate")
"""Obstacles that matter to a job only once it is ready: until then they come and go."""


class JobReason(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why a job is as it is.

    Parameters:
        code: stable: ``"time"``, ``"dependency"``, ``"batch"``, ``"paused"``, ``"concurrency"``, ``"rate"``,
            ``"no_worker"``, ``"missing_tag"``, ``"worker_busy"``, ``"claimed"``, ``"suspended"``,
            ``"suspect"``, ``"running"``, ``"stopping"``, ``"stuck"``,
            ``"recording"`` or ``"ended"``.
        text: a sentence for people.
        wait: how long it is until that is over; None: it depends on other jobs, or on somebody.
    """

    code: str
    text: str
    wait: timedelta | None = None

    def __str__(self) -> str:
        return self.text


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a job waits for, does, or came to.

    Parameters:
        job: as it is now.
        reasons: all of them; the job starts once none that makes it wait is left.
    """

    job: JobRecord
    reasons: tuple[JobReason, ...]

    @property
    def state(self) -> JobState:
        """The state that the job is in."""
        return self.job.state

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the reasons, in their order."""
        return tuple(reason.code for reason in self.reasons)

    def __str__(self) -> str:
        said = "; ".join(reason.text for reason in self.reasons)
        return f"job {self.job.id} ({self.job.kind}) is {self.job.state}: {said}"


class Explaining:
    """Says why jobs are as they are.

    Parameters:
        lock: of the job manager.
        running: the attempts.
        claims: knows the jobs that belong to actions.
        dispatcher: has the ready jobs.
        books: find any job.
        spec: the declared jobs.
        now_us: gives the time, in microseconds.
    """

    def __init__(
        self,
        lock: threading.Lock,
        running: Mapping[int, RunningJob],
        claims: Claims,
        dispatcher: Dispatcher,
        books: Books,
        spec: Spec,
        now_us: Callable[[], int],
    ) -> None:
        self._lock = lock
        self._running = running
        self._claimed = claims.held
        self._dispatcher = dispatcher
        self._find = books.peek
        self._jobs = spec.jobs
        self._now_us = now_us

    def status(self, record: JobRecord) -> JobStatus:
        """Return what a job waits for, does, or came to."""
        if record.state in FINAL_STATES:
            reasons = [self._ending(record)]
        elif record.state is JobState.EXECUTING:
            reasons = self._running_reasons(record)
        elif record.state is JobState.SUSPENDED:
            mended = way_out(record, is_declared=record.kind in self._jobs)
            text = f"it cannot run, since {record.error or 'its arguments do not fit'}; {mended}"
            reasons = [JobReason(code="suspended", text=text)]
            reasons += self._others(record)
        else:
            reasons = self._waiting_reasons(record)
        return JobStatus(job=record, reasons=tuple(reasons))

    def _running_reasons(self, record: JobRecord) -> list[JobReason]:
        run = self._running.get(record.id)
        if run is not None and run.is_over:
            text = f"its attempt {run.attempt} is over, and what became of it is being recorded"
            return [JobReason(code="recording", text=text)]
        lasted = ""
        if record.started_us:
            lasted = f" for {_duration(self._now_us() - record.started_us)}"
        progress = f", {record.done} of {record.total} done" if record.total else ""
        reasons = [JobReason(code="running", text=f"it runs, attempt {record.attempt + 1}{lasted}{progress}")]
        if run is not None and (run.cancelled or record.stop):
            fate = f" and will be {record.stop}" if record.stop else ""
            text = f"it was asked to stop{fate}; its function has not looked, or is about to end"
            reasons.append(JobReason(code="stopping", text=text))
        if run is not None and run.goes_on:
            text = "it was asked to stop some time ago, nothing can force it, and it keeps its worker"
            reasons.append(JobReason(code="stuck", text=text))
        return reasons

    def _waiting_reasons(self, record: JobRecord) -> list[JobReason]:
        reasons = []
        wait_us = record.run_at_us - self._now_us()
        if wait_us > 0:
            text = f"it waits until {_moment(record.run_at_us)}, {_duration(wait_us)} from now"
            if record.state is JobState.RETRYABLE:
                why = f": {record.error}" if record.error else ""
                text = f"after it failed, {text}; this was {self._attempt(record)}{why}"
            reasons.append(JobReason(code="time", text=text, wait=timedelta(microseconds=wait_us)))
        if record.state is JobState.SCHEDULED:
            reasons += self._others(record)
        if record.id in self._claimed:
            reasons.append(JobReason(code="claimed", text="it is being changed by hand at this moment"))
        reasons += self._obstacles(record, ready=not reasons)
        if record.crashes:
            text = f"the process died {times(record.crashes)} while it ran, so it runs alone among such jobs"
            reasons.append(JobReason(code="suspect", text=text))
        return reasons

    def _others(self, record: JobRecord) -> list[JobReason]:
        """Return which jobs it waits for: those that it follows, or the members of its batch."""
        waits = [
            f"{followed.id} ({followed.kind}, {followed.state})"
            for followed in map(self._find, record.follows)
            if followed is not None and followed.state not in FINAL_STATES
        ]
        reasons = []
        if waits:
            named, others = waits[: limits.JOB_REASON_NAMES_MAX], waits[limits.JOB_REASON_NAMES_MAX :]
            more = f" and {len(others)} more" if others else ""
            text = f"it waits for the end of job {', '.join(named)}{more}"
            reasons.append(JobReason(code="dependency", text=text))
        if is_held(record):
            text = f"it waits until all members of batch {record.batch} have ended"
            reasons.append(JobReason(code="batch", text=text))
        return reasons

    def _obstacles(self, record: JobRecord, *, ready: bool) -> list[JobReason]:
        """Return what would keep a job from starting if it were ready.

        Parameters:
            ready: it is; then a busy worker counts, too.
        """
        with self._lock:
            obstacles = self._dispatcher.blocked_by(record)
        return [_reason(each) for each in obstacles if ready or each.kind not in _PASSING]

    def _ending(self, record: JobRecord) -> JobReason:
        is_first = record.attempt <= 1 and record.state is not JobState.DISCARDED
        attempt = "" if is_first or not record.started_us else f" in {self._attempt(record)}"
        why = f": {record.error}" if record.error else ""
        return JobReason(code="ended", text=f"it ended at {_moment(record.ended_us)}{attempt}{why}")

    def _attempt(self, record: JobRecord) -> str:
        """Return which attempt of how many was the last one of a job that does not run."""
        # One in which the process died is not used up.
        newest = record.errors[-1].attempt if record.errors else 0
        job = self._jobs.get(record.kind)
        of = "" if job is None else f" of {attempts_max(job, record)}"
        return f"attempt {max(newest, record.attempt)}{of}"


def _reason(obstacle: Obstacle) -> JobReason:
    if obstacle.wait_s is None:
        return JobReason(code=obstacle.kind, text=obstacle.text)
    text = f"{obstacle.text}, for {_duration(obstacle.wait_s * 1e6)} more"
    return JobReason(code=obstacle.kind, text=text, wait=timedelta(seconds=obstacle.wait_s))


def _moment(us: int) -> str:
    moment: datetime | None = moment_of(us)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _duration(us: float) -> str:
    """Return a duration for people, in at most two units."""
    seconds = us / 1e6
    if seconds < 10:
        return f"{seconds:.1f} s"
    parts: list[str] = []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count and len(parts) < 2:
            parts.append(f"{int(count):,} {name}")
    return " ".join(parts)

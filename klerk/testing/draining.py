"""Running jobs when the test says: one, all that are ready, or all that come due in some time."""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from klerk import limits
from klerk.errors import ArgumentError
from klerk.jobs import JobRecord, JobState
from klerk.klerk import Klerk
from klerk.testing.bench import Attempt, Bench, endless
from klerk.testing.opening import bench_of, clock_of
from klerk.testing.virtual_clock import VirtualClock

__all__ = ["Drained", "drain", "run_one"]


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the attempts that were made, in the order in which they were made.

    Parameters:
        records: of the jobs as each attempt left them; a job that was tried twice is in it twice.
        errors: with which attempts failed.
    """

    records: tuple[JobRecord, ...]
    errors: tuple[BaseException, ...]

    def in_state(self, *states: JobState) -> tuple[JobRecord, ...]:
        """Return the records that are in one of some states."""
        return tuple(record for record in self.records if record.state in states)

    @property
    def completed(self) -> int:
        """How many jobs completed."""
        return len(self.in_state(JobState.COMPLETED))

    @property
    def failed(self) -> int:
        """How many attempts failed, whether they are tried again or given up."""
        return len(self.in_state(JobState.RETRYABLE, JobState.DISCARDED))

    @property
    def retryable(self) -> int:
        """How many attempts failed and are tried again."""
        return len(self.in_state(JobState.RETRYABLE))

    @property
    def discarded(self) -> int:
        """How many jobs were given up."""
        return len(self.in_state(JobState.DISCARDED))

    @property
    def cancelled(self) -> int:
        """How many jobs were cancelled by themselves or others."""
        return len(self.in_state(JobState.CANCELLED))

    @property
    def snoozed(self) -> int:
        """How many jobs put themselves off."""
        return len(self.in_state(JobState.SCHEDULED))

    def __len__(self) -> int:
        return len(self.records)


def run_one(k: Klerk, *, raises: bool = True) -> JobRecord | None:
    """Run the next job that is ready, in this thread, and return its record afterwards; None: none is ready.

    Parameters:
        k: opened by `klerk.testing.open`, whose jobs run manually or inline.
        raises: raise what made the job fail, once that is recorded.
    """
    bench = bench_of(k)
    k.look_again()
    attempt = bench.run_next()
    if attempt is None:
        return None
    if raises and attempt.has_failed and attempt.error is not None:
        raise attempt.error
    return attempt.record


def drain(
    k: Klerk,
    *,
    until: Literal["idle"] | timedelta = "idle",
    with_scheduled: bool = False,
    raises: bool = True,
    jobs_max: int = limits.TEST_JOBS_MAX,
) -> Drained:
    """Run all jobs that are ready, and those that they create, one after the other in this thread.

    Timers that are due fire first. Coroutine functions run in one event loop that all of them share, each to
    its end before the next job begins.

    Parameters:
        k: opened by `klerk.testing.open`, whose jobs run manually or inline.
        until: ``"idle"``: as the time is now; or for how long to go on: the clock is set to each moment at
            which something comes due, and in the end so much later than it was.
        with_scheduled: set the clock to each moment at which something comes due, as long as any job is
            scheduled, to be tried again, or waits for its rate, or any timer is to come. Cron jobs run
            meanwhile, and do not count.
        raises: raise what makes a job fail, once that is recorded; the others stay as they are. Without it,
            failures are in the result, and jobs are tried again as the time comes.
        jobs_max: as many attempts are made.

    Raises:
        LimitExceeded: there were more.
        ArgumentError: `k` runs its jobs by itself, or the clock is no `VirtualClock` and cannot be set.
        ReadLockHeld: this thread reads.
    """
    given: object = until
    if given != "idle" and not isinstance(given, timedelta):
        raise ArgumentError(f"expected 'idle' or a timedelta, got {until!r}")
    draining = _Draining(k, bench_of(k), raises, jobs_max)
    draining.run_ready()
    if isinstance(until, timedelta):
        draining.walk(clock_of(k), clock_of(k).now + until)
    if with_scheduled:
        draining.walk(clock_of(k), None)
    return draining.result()


class _Draining:
    """One call of `drain`."""

    def __init__(self, k: Klerk, bench: Bench, raises: bool, jobs_max: int) -> None:
        self._k = k
        self._bench = bench
        self._raises = raises
        self._jobs_max = jobs_max
        self._attempts: list[Attempt] = []

    def run_ready(self) -> None:
        """Run what is ready by the clock now, and what that makes ready."""
        made = -1
        while len(self._attempts) != made:
            made = len(self._attempts)
            self._k.look_again()
            while (attempt := self._bench.run_next()) is not None:
                self._attempts.append(attempt)
                if self._raises and attempt.has_failed and attempt.error is not None:
                    raise attempt.error
                if len(self._attempts) > self._jobs_max:
                    raise endless(self._jobs_max)

    def walk(self, clock: VirtualClock, until: datetime | None) -> None:
        """Set the clock to each moment at which something comes due; without an end, as long as any does."""
        steps = 0
        while (due := self._k.next_due) is not None:
            if due > until if until is not None else not self._is_waiting():
                break
            # What is due and still there cannot be done now; time goes on all the same.
            clock.set(max(due, clock.now + timedelta.resolution) if due <= clock.now else due)
            self.run_ready()
            steps += 1
            if steps > limits.TEST_STEPS_MAX:
                raise endless(len(self._attempts))
        if until is not None and clock.now < until:
            clock.set(until)
            self.run_ready()

    def _is_waiting(self) -> bool:
        counts = self._k.jobs.counts()
        waiting = (JobState.SCHEDULED, JobState.RETRYABLE, JobState.AVAILABLE)
        return any(counts[state] for state in waiting) or self._k.timers.count > 0

    def result(self) -> Drained:
        """Return what came of it."""
        return Drained(
            records=tuple(attempt.record for attempt in self._attempts),
            errors=tuple(
                attempt.error
                for attempt in self._attempts
                if attempt.has_failed and attempt.error is not None
            ),
        )

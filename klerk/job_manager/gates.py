"""Gates: how many jobs run at once and how often they start, and who waits because of that."""

from collections.abc import Callable
from math import inf

from klerk.job_options import Rate
from klerk.jobs import JobRecord

Ready = tuple[int, int, JobRecord]
"""Negative priority, id, record: the smallest is run first."""


class Bucket:
    """A token bucket: as many starts at once as it holds, and then as many as flow in.

    Parameters:
        rate: its size and how fast it fills.
        now_us: gives the time, in microseconds; one that is set back fills nothing.
    """

    def __init__(self, rate: Rate, now_us: Callable[[], int]) -> None:
        self._size = float(rate.count)
        self._per_s = rate.count / rate.period.total_seconds()
        self._tokens = self._size
        self._now_us = now_us
        self._filled_us = now_us()

    def wait_s(self) -> float:
        """Return the seconds until there is a token; 0 when there is one."""
        now_us = self._now_us()
        flowed_s = max(0, now_us - self._filled_us) / 1e6
        self._tokens = min(self._size, self._tokens + flowed_s * self._per_s)
        self._filled_us = now_us
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._per_s

    def spend(self) -> None:
        """Take a token that is there."""
        self._tokens -= 1


class Gate:
    """Lets so many jobs run at once, and start so often.

    Parameters:
        name: what is limited, for people.
        concurrency: at once; None: no bound.
        rate: how often; None: no bound.
        now_us: gives the time, in microseconds.

    Attributes:
        running: the jobs inside.
        waiting: a heap of those that it keeps from starting.
        has_alarm: it will be looked at again once there is a token.
    """

    __slots__ = ("bucket", "concurrency", "has_alarm", "name", "rate", "running", "waiting")

    def __init__(
        self, name: str, concurrency: int | None, rate: Rate | None, now_us: Callable[[], int]
    ) -> None:
        self.name = name
        self.concurrency = inf if concurrency is None else concurrency
        self.rate = rate
        self.bucket = None if rate is None else Bucket(rate, now_us)
        self.running = 0
        self.waiting: list[Ready] = []
        self.has_alarm = False

    def wait_s(self) -> float:
        """Return how long one more job has to wait, in seconds: 0 not at all, infinity until one has left."""
        if self.running >= self.concurrency:
            return inf
        return 0.0 if self.bucket is None else self.bucket.wait_s()

    def enter(self) -> None:
        """Let a job in for which there is room."""
        self.running += 1
        if self.bucket is not None:
            self.bucket.spend()

    def leave(self) -> None:
        """Note that a job inside has ended."""
        self.running -= 1

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost if this gate were made anew when it is needed."""
        return not self.running and not self.waiting and self.bucket is None

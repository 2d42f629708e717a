"""Gates: how many jobs run at once, and how often they start."""

from collections.abc import Callable
from datetime import timedelta
from math import inf
from typing import Any

import msgspec

from klerk.job_options import Rate

__all__ = ["Bucket", "Gate", "Level", "Obstacle"]


class Obstacle(msgspec.Struct, frozen=True):
    """One thing that keeps a job from starting now.

    Parameters:
        kind: ``"paused"``, ``"concurrency"``, ``"rate"``, ``"no_worker"``, ``"missing_tag"`` or
            ``"worker_busy"``.
        text: for people, naming what is limited.
        wait_s: seconds until it lets the next job start; None: that depends on other jobs, or on somebody.
    """

    kind: str
    text: str
    wait_s: float | None = None


class Level(msgspec.Struct, frozen=True, array_like=True):
    """How full a bucket was at a moment.

    Parameters:
        part, whole: it was part/whole full.
        time_us: the moment, in microseconds since 1970 UTC.
    """

    part: int
    whole: int
    time_us: int


class Bucket:
    """A token bucket: as many starts at once as it holds, and then as many as flow in. It counts exactly.

    Parameters:
        rate: its size and how fast it fills.
        now_us: gives the time, in microseconds; one that is set back fills nothing.
        level: what it holds, of whatever size it was; None: it is full.
    """

    __slots__ = ("_filled_us", "_flow", "_held", "_now_us", "_size", "_start", "rate")

    def __init__(self, rate: Rate, now_us: Callable[[], int], level: Level | None) -> None:
        # In millionths of a token, so to speak: `count` flow in each microsecond, and a start takes `period`.
        self.rate = rate
        self._flow = rate.count
        self._start = rate.period // timedelta.resolution
        self._size = self._flow * self._start
        self._now_us = now_us
        if level is None:
            self._held, self._filled_us = self._size, now_us()
        else:
            self._held = min(self._size, self._size * level.part // level.whole)
            self._filled_us = level.time_us

    def _fill(self) -> int:
        now_us = self._now_us()
        flowed_us = now_us - self._filled_us
        if flowed_us > 0:
            self._held = min(self._size, self._held + flowed_us * self._flow)
        self._filled_us = now_us
        return now_us

    def wait_us(self) -> int:
        """Return the microseconds until there is a token; 0 when there is one."""
        self._fill()
        return max(0, -((self._held - self._start) // self._flow))

    def spend(self) -> int:
        """Take a token that is there; return the microseconds until there is one more."""
        # Filled first: what flowed in meanwhile, and found it full, is not for later.
        self._fill()
        self._held -= self._start
        return max(0, -((self._held - self._start) // self._flow))

    def note_waited(self) -> None:
        """Note that the time which `wait_us` told has passed, even if the clock was set back meanwhile."""
        if self._now_us() < self._filled_us:
            self._held = max(self._held, self._start)

    def full_us(self) -> int:
        """Return the moment from which on it is full, in microseconds; the present when it is."""
        return self._fill() - ((self._held - self._size) // self._flow)

    @property
    def is_full(self) -> bool:
        """Whether it is full now."""
        self._fill()
        return self._held == self._size

    def level(self) -> Level:
        """Return what it holds now."""
        now_us = self._fill()
        return Level(self._held, self._size, now_us)


class Gate:
    """Lets so many jobs run at once, and start so often.

    Parameters:
        name: what is limited, for people.
        concurrency: at once; None: no bound.
        bucket: how often; None: no bound.
        where: kind and key, when it is a key's.

    Attributes:
        running: the jobs inside.
        is_shut: there was no room when somebody looked last; who gives room back looks again.
        alarm: the number of the alarm that goes off once there is a token; 0: there is none.
        is_resting: it is on the list of those that are forgotten once their buckets are full.
        lines: the `Line`s in front of it, which know about gates.
    """

    __slots__ = (
        "alarm",
        "bucket",
        "concurrency",
        "is_resting",
        "is_shut",
        "lines",
        "name",
        "running",
        "where",
    )

    def __init__(
        self,
        name: str,
        concurrency: int | None,
        bucket: Bucket | None,
        where: tuple[str, str] | None = None,
    ) -> None:
        self.name = name
        self.concurrency = inf if concurrency is None else concurrency
        self.bucket = bucket
        self.where = where
        self.running = 0
        self.is_shut = bucket is not None and bucket.wait_us() > 0
        self.alarm = 0
        self.is_resting = False
        self.lines: set[Any] = set()

    def wait_us(self) -> float:
        """Return how long one more job has to wait, in microseconds: infinity until one has left."""
        if self.running >= self.concurrency:
            return inf
        return 0 if self.bucket is None else self.bucket.wait_us()

    def enter(self) -> float:
        """Let a job in for which there is room; return what `wait_us` does then."""
        self.running += 1
        wait_us = 0 if self.bucket is None else self.bucket.spend()
        return inf if self.running >= self.concurrency else wait_us

    def obstacle(self) -> Obstacle | None:
        """Return why no job passes now; None when one may."""
        if self.running >= self.concurrency:
            text = f"{self.name}: {self.running} run, of at most {self.concurrency} at once"
            return Obstacle("concurrency", text)
        wait_us = self.wait_us()
        if not wait_us or self.bucket is None:
            return None
        text = f"{self.name} may start {self.bucket.rate}, and has no start left (a crash leaves none)"
        return Obstacle("rate", text, wait_us / 1e6)

"""How anything is measured: contenders in turn, round after round, medians and spread.

A benchmark has contenders: Klerk, a floor (the same work by hand, with nothing around it) and peers (how
people do it today). All are opened before the first round and measured in turns (A B C A B C ...), so that
whatever else the machine does meets all of them alike.
"""

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

KLERK = "klerk"
FLOOR = "floor"
# Contenders named so are Klerk used another way; they are reported beside the peers.
VARIANT_PREFIX = "klerk_"

# Does that many operations, and returns when all are finished (durable, where the workload says so). What it
# measures itself it returns, in seconds; otherwise the whole is timed.
Sample = Callable[[int], float | None]


class Missing(Exception):
    """A contender cannot take part, for the reason that is given."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where a contender may keep its files, and how it tells that it is busy preparing."""

    directory: Path
    announce: Callable[[str], None]


# Prepares a contender, gives its sample function, and cleans up.
Contender = Callable[[Workspace], AbstractContextManager[Sample]]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit, and how seconds and a number of operations become a figure in it."""

    name: str
    of: Callable[[float, int], float]
    is_rate: bool = False


MICROSECONDS = Unit(name="us/command", of=lambda seconds, operations: seconds / operations * 1e6)
NANOSECONDS = Unit(name="ns", of=lambda seconds, operations: seconds / operations * 1e9)
MILLISECONDS = Unit(name="ms", of=lambda seconds, operations: seconds / operations * 1e3)
SECONDS = Unit(name="s", of=lambda seconds, operations: seconds / operations)
JOBS_PER_SECOND = Unit(name="jobs/s", of=lambda seconds, operations: operations / seconds, is_rate=True)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One named figure: what is done, how durable, in groups of how many, by whom."""

    name: str
    unit: Unit
    workload: str
    durability: str
    contenders: Mapping[str, Contender]
    group_size: int | None = None
    # A sample's operations are a multiple of this, so that no group is left half full.
    operations_step: int = 1
    # An operation that takes seconds is measured once in a sample and in fewer rounds.
    operations_max: int | None = None
    rounds_max: int | None = None


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure: the aimed length of one sample in seconds, and the number of rounds."""

    sample_s: float
    rounds: int


QUICK = Effort(sample_s=0.1, rounds=3)
FULL = Effort(sample_s=0.3, rounds=9)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One contender's samples over the rounds, in the benchmark's unit."""

    samples: Sequence[float]
    operations: int

    @property
    def median(self) -> float:
        return median(self.samples)

    def as_json(self) -> dict[str, float | int]:
        first, _, third = quantiles(self.samples, n=4, method="inclusive")
        return {
            "median": self.median,
            "min": min(self.samples),
            "q1": first,
            "q3": third,
            "max": max(self.samples),
            "rounds": len(self.samples),
            "operations_per_sample": self.operations,
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a benchmark found; `missing` tells why a contender has no figure."""

    benchmark: Benchmark
    spreads: Mapping[str, Spread]
    missing: Mapping[str, str] = field(default_factory=dict)

    def figure(self, contender: str) -> float | None:
        spread = self.spreads.get(contender)
        return None if spread is None else spread.median

    @property
    def times_floor(self) -> float | None:
        """How many times the floor's cost Klerk has; for rates the quotient is turned round."""
        klerk, floor = self.figure(KLERK), self.figure(FLOOR)
        if klerk is None or floor is None:
            return None
        return floor / klerk if self.benchmark.unit.is_rate else klerk / floor

    @property
    def peers(self) -> dict[str, float]:
        return {name: spread.median for name, spread in self.spreads.items() if _is_peer(name)}

    @property
    def variants(self) -> dict[str, float]:
        return {
            name: spread.median for name, spread in self.spreads.items() if name.startswith(VARIANT_PREFIX)
        }

    def as_json(self) -> dict[str, object]:
        return {
            "value": self.figure(KLERK),
            "unit": self.benchmark.unit.name,
            "floor": self.figure(FLOOR),
            "peers": self.peers,
            "variants": self.variants,
            "workload": self.benchmark.workload,
            "durability": self.benchmark.durability,
            "group_size": self.benchmark.group_size,
            "spread": {name: spread.as_json() for name, spread in self.spreads.items()},
            "missing": dict(self.missing),
        }


def _is_peer(name: str) -> bool:
    return name not in (KLERK, FLOOR) and not name.startswith(VARIANT_PREFIX)


def run(benchmark: Benchmark, effort: Effort, directory: Path, announce: Callable[[str], None]) -> Outcome:
    """Measures all contenders of one benchmark, interleaved."""
    with ExitStack() as opened:
        samples, missing = _open_contenders(benchmark, directory, announce, opened)
        operations = {
            name: _calibrate(benchmark, effort, name, sample, announce) for name, sample in samples.items()
        }
        figures: dict[str, list[float]] = {name: [] for name in samples}
        rounds = min(effort.rounds, benchmark.rounds_max or effort.rounds)
        for number in range(1, rounds + 1):
            for name, sample in samples.items():
                announce(f"round {number}/{rounds}: {name}")
                seconds = _timed(sample, operations[name])
                figures[name].append(benchmark.unit.of(seconds, operations[name]))
    spreads = {name: Spread(samples=figures[name], operations=operations[name]) for name in samples}
    return Outcome(benchmark=benchmark, spreads=spreads, missing=missing)


def _open_contenders(
    benchmark: Benchmark, directory: Path, announce: Callable[[str], None], opened: ExitStack
) -> tuple[dict[str, Sample], dict[str, str]]:
    samples: dict[str, Sample] = {}
    missing: dict[str, str] = {}
    for name, contender in benchmark.contenders.items():
        own_directory = directory / benchmark.name / name
        own_directory.mkdir(parents=True)
        announce(f"{name}: preparing")
        workspace = Workspace(directory=own_directory, announce=announce)
        try:
            samples[name] = opened.enter_context(contender(workspace))
        except ModuleNotFoundError as error:
            # Peers are optional: what is not installed is left out, and the report says so.
            missing[name] = f"{error.name} is not installed"
        except Missing as reason:
            missing[name] = str(reason)
    return samples, missing


def _calibrate(
    benchmark: Benchmark, effort: Effort, name: str, sample: Sample, announce: Callable[[str], None]
) -> int:
    """Warms a contender up, and finds how many operations fill one sample."""
    announce(f"warming up: {name}")
    step = benchmark.operations_step
    if benchmark.operations_max == step:
        return step
    operations = step
    while (seconds := _timed(sample, operations)) < effort.sample_s / 5:
        operations *= 2
    steps = math.ceil(operations * effort.sample_s / seconds / step)
    return min(steps * step, benchmark.operations_max or steps * step)


def _timed(sample: Sample, operations: int) -> float:
    gc.collect()
    started = time.perf_counter()
    measured = sample(operations)
    return time.perf_counter() - started if measured is None else measured

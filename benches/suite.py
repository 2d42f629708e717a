"""The list of benchmarks: every name, what it measures, and who takes part."""

from collections.abc import Iterator

from benches import floors, growth, job_peers, jobs, klerk_contenders, latency, peers, scheduled
from benches.harness import (
    FLOOR,
    JOBS_PER_SECOND,
    KLERK,
    MICROSECONDS,
    MILLISECONDS,
    NANOSECONDS,
    SECONDS,
    Benchmark,
    Contender,
)
from benches.workload import ACCOUNTS, DESCRIPTION, DURABLE

GROUP_SIZES = (1, 10, 100, 1_000)
THREADS = 64
TASKS = 1_000
MODELS_FULL, MODELS_QUICK = 1_000_000, 100_000
OPENINGS = 3
NOT_DURABLE = "none (in memory)"


def benchmarks(models: int) -> list[Benchmark]:
    """All benchmarks in the order they run; `models` is the size of the store that is opened."""
    return [
        *_submits(),
        *_handles(),
        *_reads(),
        *_growth(models),
        _opening(models),
        *_jobs(),
        *_scheduled(models),
    ]


def _submits() -> Iterator[Benchmark]:
    for size in GROUP_SIZES:
        contenders: dict[str, Contender] = {
            KLERK: klerk_contenders.submit(size),
            FLOOR: floors.deposits(size),
            "sqlite3": peers.sqlite_deposits(size),
            "sqlite3_job_row": peers.sqlite_deposits_with_job(size),
            "klerk_handle_all": klerk_contenders.handle_all(size),
        }
        yield Benchmark(
            name=f"submit_{size}",
            unit=MICROSECONDS,
            workload=f"{DESCRIPTION}; one caller, {size:,} in flight",
            durability=DURABLE,
            group_size=size,
            operations_step=size,
            contenders=contenders,
        )


def _handles() -> Iterator[Benchmark]:
    yield Benchmark(
        name="handle_1_caller",
        unit=MICROSECONDS,
        workload=f"{DESCRIPTION}; one caller waits for each",
        durability=DURABLE,
        group_size=1,
        contenders={
            KLERK: klerk_contenders.handle,
            FLOOR: floors.deposits(1),
            "append_and_fdatasync": floors.append_and_sync,
            "sqlite3": peers.sqlite_deposits(1),
            "eventsourcing": peers.eventsourcing_deposits,
        },
    )
    yield Benchmark(
        name=f"handle_{THREADS}_threads",
        unit=MICROSECONDS,
        workload=f"{DESCRIPTION}; {THREADS} threads, each waits for its own",
        durability=DURABLE,
        group_size=THREADS,
        operations_step=THREADS,
        contenders={
            KLERK: klerk_contenders.handle_threads(THREADS),
            FLOOR: floors.deposits(THREADS),
            "sqlite3": peers.sqlite_deposits(THREADS),
            f"sqlite3_{THREADS}_threads": peers.sqlite_threads(THREADS),
        },
    )
    yield Benchmark(
        name=f"aio_{TASKS}_tasks",
        unit=MICROSECONDS,
        workload=f"{DESCRIPTION}; {TASKS:,} asyncio tasks, each awaits its own",
        durability=DURABLE,
        group_size=TASKS,
        operations_step=TASKS,
        contenders={
            KLERK: klerk_contenders.aio_tasks(TASKS),
            FLOOR: floors.deposits(TASKS),
            "sqlite3": peers.sqlite_deposits(TASKS),
        },
    )


def _reads() -> Iterator[Benchmark]:
    yield Benchmark(
        name="read_enter_exit",
        unit=NANOSECONDS,
        workload="enter and leave the read lock, uncontended",
        durability=NOT_DURABLE,
        contenders={
            KLERK: klerk_contenders.read_enter_exit,
            FLOOR: floors.lock,
            "rlock": peers.reentrant_lock,
            "condition_rw_lock": peers.condition_read_lock,
            "readerwriterlock": peers.readerwriterlock_fair,
        },
    )
    yield Benchmark(
        name="get",
        unit=NANOSECONDS,
        workload=f"one model by its reference, authorized, within an open read; {ACCOUNTS:,} accounts",
        durability=NOT_DURABLE,
        contenders={
            KLERK: klerk_contenders.get,
            FLOOR: floors.dictionary,
            "sqlite3": peers.sqlite_get,
        },
    )


def _growth(models: int) -> Iterator[Benchmark]:
    """The same work among few and among many models: the figures of one benchmark should be alike."""
    sizes = [size for size in (1_000, 100_000, MODELS_FULL) if size <= models]
    for name, of, unit, workload in (
        (
            "command",
            growth.command,
            MICROSECONDS,
            "change a box in two indexes and views",
        ),
        (
            "page",
            growth.page,
            MICROSECONDS,
            f"a page of {growth.PAGE_LENGTH}, and related boxes",
        ),
    ):
        yield Benchmark(
            name=f"{name}_growth",
            unit=unit,
            workload=f"{workload}; klerk: of {sizes[-1]:,}, others: of as many as they say",
            durability=NOT_DURABLE,
            group_size=growth.GROUP_SIZE if name == "command" else None,
            operations_step=growth.GROUP_SIZE if name == "command" else 1,
            contenders={
                **{KLERK if size == sizes[-1] else f"klerk_{size // 1_000}k": of(size) for size in sizes},
                **({"klerk_all_changed": of(sizes[-1], changed=sizes[-1])} if name == "command" else {}),
            },
        )


def _opening(models: int) -> Benchmark:
    size = "1m" if models == MODELS_FULL else f"{models // 1_000}k"
    return Benchmark(
        name=f"open_{size}",
        unit=SECONDS,
        workload=f"open a store of {models:,} accounts and close it; files in the page cache",
        durability=DURABLE,
        operations_max=1,
        rounds_max=OPENINGS,
        contenders={
            KLERK: klerk_contenders.opening(models),
            FLOOR: floors.opening(models),
            "sqlite3": peers.sqlite_opening(models),
        },
    )


def _jobs() -> Iterator[Benchmark]:
    yield Benchmark(
        name="jobs_end_to_end",
        unit=JOBS_PER_SECOND,
        workload=f"each deposit makes a no-op job; {jobs.WORKERS} workers; until all completions are durable",
        durability=DURABLE,
        group_size=jobs.GROUP_SIZE,
        operations_step=jobs.GROUP_SIZE,
        contenders={
            KLERK: klerk_contenders.jobs_end_to_end,
            FLOOR: jobs.floor,
            "huey": jobs.peer(job_peers.huey),
            "procrastinate": jobs.peer(job_peers.procrastinate),
        },
    )
    for which in (50, 99):
        figure = latency.percentile(which)
        yield Benchmark(
            name=f"job_start_latency_p{which}",
            unit=MILLISECONDS,
            workload=f"from asking for a job to its start, durable in between; {latency.JOBS_PER_S:,} jobs/s",
            durability=DURABLE,
            operations_step=latency.JOBS_PER_S,
            operations_max=latency.JOBS_PER_S,
            rounds_max=latency.ROUNDS,
            contenders={
                KLERK: latency.start(latency.klerk, figure),
                FLOOR: latency.start(latency.floor, figure),
                "klerk_loop": latency.start(latency.klerk_loop, figure),
                "huey": latency.start(latency.huey, figure),
                "procrastinate": latency.start(latency.procrastinate, figure),
            },
        )


def _scheduled(count: int) -> Iterator[Benchmark]:
    """What jobs cost that wait for tomorrow."""
    size = "1m" if count == MODELS_FULL else f"{count // 1_000}k"
    waiting = f"{count:,} jobs wait for tomorrow"
    yield Benchmark(
        name=f"scheduled_{size}",
        unit=JOBS_PER_SECOND,
        workload=f"as jobs_end_to_end, while {waiting}; klerk_none_scheduled: while none do",
        durability=DURABLE,
        group_size=jobs.GROUP_SIZE,
        operations_step=jobs.GROUP_SIZE,
        contenders={
            KLERK: klerk_contenders.jobs_beside(count),
            FLOOR: jobs.floor,
            "klerk_none_scheduled": klerk_contenders.jobs_end_to_end,
        },
    )
    yield Benchmark(
        name=f"scheduled_{size}_memory",
        unit=scheduled.MEGABYTES,
        workload=f"what a process grows by until {waiting}; the floor keeps them in a heap",
        durability='"process"; the floor: none',
        operations_max=1,
        rounds_max=OPENINGS,
        contenders={
            KLERK: scheduled.memory(scheduled.klerk, count),
            FLOOR: scheduled.memory(scheduled.floor, count),
        },
    )
    yield Benchmark(
        name=f"scheduled_{size}_open",
        unit=SECONDS,
        workload=f"open a store in which {waiting}, and close it; files in the page cache",
        durability=DURABLE,
        operations_max=1,
        rounds_max=OPENINGS,
        contenders={KLERK: scheduled.opening(count)},
    )

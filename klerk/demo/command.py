"""`python -m klerk demo`: the arguments, and what happens in which order."""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import klerk
from klerk.demo import clocks, design
from klerk.demo.board import busiest, read_board
from klerk.demo.columns import MISSING
from klerk.demo.crash import Findings, Ordeal
from klerk.demo.csvfile import BadData
from klerk.demo.data import JANUARY, Data, load
from klerk.demo.design import PUBLIC
from klerk.demo.proof import compare, snapshot, table_of
from klerk.demo.replay import IN_FLIGHT_MAX, Clock, Replay, wait_for_jobs
from klerk.demo.show import Advance, Column, Row, Screen, Table, screen
from klerk.demo.statistics import airline_delays
from klerk.demo.stream import stream_of

# How often `--crash` kills the replay.
KILLS = 3

# The longest time between the acknowledgement after which a process is killed and the kill, in seconds.
KILL_DELAY_SECONDS_MAX = 0.05

EXIT_OK, EXIT_DIFFERENT, EXIT_BAD_INPUT = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options to a parser."""
    parser.add_argument(
        "--year",
        type=Path,
        metavar="FILE",
        default=JANUARY,
        help="a csv or csv.gz file of flights, such as a whole year; January 2013 if not given",
    )
    parser.add_argument("--days", type=_days, metavar="N", help="only the first N days of the flights")
    parser.add_argument(
        "--store",
        type=Path,
        metavar="PATH",
        help="keep the store here, and go on where an earlier run stopped; a temporary one if not given",
    )
    parser.add_argument(
        "--crash", action="store_true", help=f"kill the replay {KILLS} times and show that nothing is lost"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="repeat the moments of an earlier --crash")


def run(args: argparse.Namespace) -> int:
    """Run the demo, and return 0 when everything was found again after reopening the store."""
    show = screen()
    try:
        data = load(args.year, days=args.days)
    except BadData as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_INPUT
    introduce(show, data)
    with _store(args.store) as store:
        if not args.crash:
            return EXIT_OK if replay_and_prove(show, store, data) else EXIT_DIFFERENT
        if store.exists():
            sys.stderr.write(f"{store}: --crash needs a store that does not exist yet\n")
            return EXIT_BAD_INPUT
        seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
        ordeal = Ordeal(store, data, days=args.days)
        is_well = survive(show, ordeal, seed)
        with ordeal.mail():
            is_same = replay_and_prove(show, store, data)
        is_whole = report(show, ordeal.verify(), "The finished store")
        return EXIT_OK if is_well and is_same and is_whole else EXIT_DIFFERENT


def introduce(show: Screen, data: Data) -> None:
    """Say what is replayed, and what the data lacks."""
    flights = data.flights
    first, last = (clocks.day(int(day)) for day in (flights.day.min(), flights.day.max()))
    show.say(
        f"{len(flights):,} flights from New York, {first} to {last}: {len(stream_of(data)):,} commands "
        f"in the order of time.",
        "bold",
    )
    no_airport = sum(row.name is None for row in data.airports)
    no_plane = sum(row.manufacturer is None for row in data.planes)
    no_tail_number = np.count_nonzero(flights.plane == MISSING)
    show.say(
        f"The data is as messy as life. Nothing is dropped: {no_airport} airports are in no list, {no_plane} "
        f"planes in no register, {no_tail_number} flights have no tail number."
    )


def survive(show: Screen, ordeal: Ordeal, seed: int) -> bool:
    """Kill the replay at random moments, and return whether all was well each time."""
    show.say(f"Killing the replay {KILLS} times, at moments that --seed {seed} repeats.", "bold")
    moments = random.Random(seed)
    is_well = True
    for number in range(1, KILLS + 1):
        left = len(ordeal.stream) - ordeal.done
        after = moments.randrange(1, max(2, 2 * left // (KILLS - number + 2)))
        delay = moments.uniform(0, KILL_DELAY_SECONDS_MAX)
        with show.progress(f"Replaying, {number}", left) as progress:
            done = ordeal.run(kill_after=after, delay_seconds=delay, progress=progress)
        is_well &= report(show, ordeal.verify(), f"Killed after {done.acknowledged:,} acknowledged commands")
    return is_well


def report(show: Screen, findings: Findings, title: str) -> bool:
    """Say what was found in a store, and return whether all is well."""
    if findings.problems:
        show.say(f"{title}: {len(findings.problems)} problems.", "bold red")
    else:
        show.say(
            f"{title}: {findings.done:,} commands are in the store, each once and whole, and "
            f"{findings.jobs:,} jobs, of which {findings.completed:,} have completed.",
            "green",
        )
    for problem in findings.problems:
        show.say(f"  {problem}", "red")
    return not findings.problems


def replay_and_prove(show: Screen, store: Path, data: Data) -> bool:
    """Replay what is left to do, show it, reopen the store, and return whether everything is as before."""
    last = clocks.moment(int(stream_of(data).minute[-1]))
    context = klerk.Context(PUBLIC, now=last)
    clock = Clock()
    with design.app.open(store, clock=clock) as k:
        with show.progress("Replaying", len(stream_of(data))) as progress:
            replay = Replay(k, clock, data, progress=progress)
            board = _replay(replay, progress)
        started = time.perf_counter()
        wait_for_jobs(k)
        figures(show, replay, time.perf_counter() - started)
        show.table(board)
        show.table(airline_delays(k, context))
        before = snapshot(k, context)
    with design.app.open(store, clock=clock) as k:
        after = snapshot(k, context)
    checks = compare(before, after)
    show.table(table_of("Closed, and opened again from disk", checks))
    is_same = all(check.is_same for check in checks)
    if is_same:
        show.say("Every model, state and job is as before.", "bold green")
    else:
        show.say("What was opened differs from what was closed.", "bold red")
    return is_same


def _replay(replay: Replay, progress: Advance) -> Table:
    """Replay what is left, and return the board as it was read in between, with commands in flight."""
    left = replay.prepare()
    progress(len(replay.stream) - len(left))
    place = busiest(replay.data)
    is_before = replay.stream.minute[left] <= place.minute
    replay.send(left[is_before])
    replay.finish()
    # What comes next is on its way while the board is read: readers see whole commands, and wait for none.
    after = left[~is_before]
    replay.send(after[:IN_FLIGHT_MAX])
    board = read_board(replay.k, place)
    replay.send(after[IN_FLIGHT_MAX:])
    replay.finish()
    return board


def figures(show: Screen, replay: Replay, job_seconds: float) -> None:
    """Show how fast it went."""
    done, k = replay.figures, replay.k
    rate = done.commands / done.seconds if done.seconds else 0.0
    lines = [
        ("airlines, airports and planes, in one transaction", f"{done.references:,}"),
        ("commands, each durable when acknowledged", f"{done.commands:,}"),
        ("commands per second", f"{rate:,.0f}"),
        (f"time to acknowledge, {IN_FLIGHT_MAX} in flight, p50", f"{done.latency_ms(50):.2f} ms"),
        (f"time to acknowledge, {IN_FLIGHT_MAX} in flight, p99", f"{done.latency_ms(99):.2f} ms"),
        ("jobs run", f"{k.jobs.totals()[klerk.JobState.COMPLETED]:,}"),
        ("waited for the last job", f"{job_seconds:.2f} s"),
        ("store", f"{k.storage_bytes() / 1e6:,.1f} MB"),
    ]
    columns = [Column(heading="Figure"), Column(heading="Value", is_number=True)]
    show.table(Table(title="How fast", columns=columns, rows=[Row(cells=line) for line in lines]))


@contextmanager
def _store(path: Path | None) -> Iterator[Path]:
    """Give the path of the store: the one asked for, or one that is gone afterwards."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="klerk-demo-") as folder:
        yield Path(folder) / "flights.klerk"


def _days(text: str) -> int:
    days = int(text) if text.isdecimal() else 0
    if days < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of days from 1, found {text!r}")
    return days

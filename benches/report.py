"""What people and programs get to see: progress, a table, and a JSON file."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from benches.harness import FLOOR, KLERK, Outcome

HEADINGS = ("benchmark", "unit", "klerk", "min..max", "floor", "times floor", "peers and variants")
TABLE_WIDTH_MIN = 130


class Progress:
    """One line that tells what is being measured; whole lines where there is no terminal."""

    def __init__(self, benchmarks: int, stream: TextIO = sys.stderr) -> None:
        self._benchmarks = benchmarks
        self._number = 0
        self._name = ""
        self._stream = stream

    def start(self, name: str) -> None:
        """The next benchmark begins."""
        self._number += 1
        self._name = name
        if not self._stream.isatty():
            print(self._heading(), file=self._stream, flush=True)

    def announce(self, activity: str) -> None:
        """What is going on within it."""
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[2K{self._heading()}  {activity}")
            self._stream.flush()

    def finish(self) -> None:
        """Clears the line."""
        if self._stream.isatty():
            self._stream.write("\r\x1b[2K")
            self._stream.flush()

    def _heading(self) -> str:
        return f"[{self._number:>2}/{self._benchmarks}] {self._name}"


def write_json(path: Path, machine: Mapping[str, object], outcomes: Sequence[Outcome]) -> None:
    """Writes the report for programs."""
    results = {outcome.benchmark.name: outcome.as_json() for outcome in outcomes}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8")


def print_table(machine: Mapping[str, object], outcomes: Sequence[Outcome]) -> None:
    """Prints the report for people: with rich where it is installed, plainly otherwise."""
    rows = [_row(outcome) for outcome in outcomes]
    try:
        _print_rich(rows)
    except ModuleNotFoundError:
        _print_plain(rows)
    print()
    for line in _notes(machine, outcomes):
        print(line)


def _row(outcome: Outcome) -> tuple[str, ...]:
    spread = outcome.spreads.get(KLERK)
    return (
        outcome.benchmark.name,
        outcome.benchmark.unit.name,
        _figure(outcome.figure(KLERK)),
        "-" if spread is None else f"{_figure(min(spread.samples))}..{_figure(max(spread.samples))}",
        _figure(outcome.figure(FLOOR)),
        _figure(outcome.times_floor),
        "\n".join(
            f"{name} {_figure(value)}" for name, value in {**outcome.peers, **outcome.variants}.items()
        ),
    )


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _print_rich(rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADINGS, title="Klerk's benchmarks: medians", show_lines=True)
    for column in table.columns[2:6]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=max(console.width, TABLE_WIDTH_MIN)).print(table)


def _print_plain(rows: Sequence[tuple[str, ...]]) -> None:
    lines = [HEADINGS, *((*row[:-1], row[-1].replace("\n", ", ")) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _notes(machine: Mapping[str, object], outcomes: Sequence[Outcome]) -> list[str]:
    notes = [
        f"{outcome.benchmark.name}: {outcome.benchmark.workload}; durability {outcome.benchmark.durability}"
        + (f"; groups of {outcome.benchmark.group_size}" if outcome.benchmark.group_size else "")
        for outcome in outcomes
    ]
    for outcome in outcomes:
        notes += [
            f"{outcome.benchmark.name}: no {name}: {reason}" for name, reason in outcome.missing.items()
        ]
    notes.append("machine: " + ", ".join(f"{name} {_plain(value)}" for name, value in machine.items()))
    return notes


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return "/".join(f"{name} {part}" for name, part in value.items() if part is not None)
    return str(value)

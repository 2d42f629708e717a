"""What the demo shows, by rich where it is installed and as plain text where it is not."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int], object]

# Between two lines of progress in plain text.
PLAIN_PROGRESS_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table: its heading, and how it is shown.

    Numbers stand to the right. On a narrow terminal only columns that may be cut get narrower.
    """

    heading: str
    is_number: bool = False
    may_be_cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table: the text of each cell, and how it looks ("red", "dim") where looks are possible."""

    cells: Sequence[str]
    style: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a title above and, if any, a remark below."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    remark: str = ""


class Screen(Protocol):
    """Where the demo is shown."""

    def say(self, text: str, style: str = "") -> None:
        """Show a line of text."""

    def table(self, table: Table) -> None:
        """Show a table."""

    def progress(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Show the progress of something with `total` steps; the function given advances it by some."""


def screen() -> Screen:
    """Return a screen: a rich one if rich is installed."""
    try:
        from rich.console import Console
    except ImportError:
        plain = PlainScreen()
        plain.say("In plain text, because rich is not installed: pip install 'klerk[demo]'")
        return plain
    return RichScreen(Console(highlight=False))


class RichScreen:
    """A terminal with colours and a progress bar."""

    def __init__(self, console: "Console") -> None:
        self._console = console

    def say(self, text: str, style: str = "") -> None:
        """Show a line of text."""
        self._console.print(text, style=style or None, markup=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """Show a table."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        self._console.print()
        self._console.print(Text(table.title, style="bold"), no_wrap=True)
        shown = RichTable(
            caption=Text(table.remark) if table.remark else None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            collapse_padding=True,
            pad_edge=False,
        )
        for column, *cells in zip(table.columns, *(row.cells for row in table.rows), strict=True):
            shown.add_column(
                Text(column.heading),
                justify="right" if column.is_number else "left",
                no_wrap=True,
                min_width=None if column.may_be_cut else max(map(len, (column.heading, *cells))),
            )
        for row in table.rows:
            shown.add_row(*map(Text, row.cells), style=row.style or None)
        self._console.print(shown)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        """Show a progress bar with `total` steps."""
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TaskProgressColumn(),
            progress.TimeElapsedColumn(),
        )
        with progress.Progress(*columns, console=self._console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda steps: bar.advance(task, steps)


class PlainScreen:
    """Lines of text on standard output."""

    def say(self, text: str, style: str = "") -> None:
        """Show a line of text."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def table(self, table: Table) -> None:
        """Show a table with its columns lined up."""
        lines = [[column.heading for column in table.columns], *(row.cells for row in table.rows)]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        self.say(f"\n{table.title}")
        for line in lines:
            cells = zip(line, widths, table.columns, strict=True)
            padded = (
                text.rjust(width) if column.is_number else text.ljust(width) for text, width, column in cells
            )
            self.say("  ".join(padded).rstrip())
        self.say(table.remark)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        """Show a line of progress now and then."""
        done, shown = 0, time.monotonic()

        def advance(steps: int) -> None:
            nonlocal done, shown
            done += steps
            if time.monotonic() - shown >= PLAIN_PROGRESS_SECONDS or done == total:
                shown = time.monotonic()
                self.say(f"{title}: {done:,} of {total:,}")

        yield advance

"""Strict reading of csv files: every value is checked, and what is wrong is named with its place.

A file of 340,000 rows holds few different values per column, so each different text is parsed and checked
once and looked up after that. Rows are taken in chunks: memory does not grow with the rows' text.
"""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import klerk

# Rows that are held as text at a time. They fit in the processor's cache: reading a year of flights takes
# half the time that it takes with 10,000.
CHUNK_ROWS = 500

# Characters of a wrong value that an error quotes.
QUOTED_LENGTH_MAX = 60

_GZIP_MAGIC = b"\x1f\x8b"


class BadData(klerk.InvalidValue):
    """A file of the demo is not what it should be. Nothing was written.

    Parameters:
        file: the file that is wrong.
        expected: what should have been there, to follow the word "expected".
        line: the line in the file, counted from 1; 0 when the file as a whole is meant.
        column: the name of the column, if one is meant.
        value: the text that was found, if a value is wrong.
    """

    code = "bad_data"

    def __init__(
        self, file: Path, expected: str, *, line: int = 0, column: str = "", value: str | None = None
    ) -> None:
        place = str(file)
        if line:
            place += f", line {line}"
        if column:
            place += f", column {column}"
        found = "" if value is None else f"{_quoted(value)}; "
        super().__init__(f"{place}: {found}expected {expected}")
        self.file = file
        self.expected = expected
        self.line = line
        self.column = column
        self.value = value


def _quoted(value: str) -> str:
    """Return the value as it is quoted in an error, cut when it is long."""
    return repr(value if len(value) <= QUOTED_LENGTH_MAX else value[:QUOTED_LENGTH_MAX] + "...")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How one column is parsed: `parse` raises ValueError for a text that is not what is `expected`."""

    expected: str
    parse: Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of a file: its columns' parsed values, and the number of the first row, counted from 0."""

    first_row: int
    columns: dict[str, list[Any]]


def read_chunks(file: Path, columns: Mapping[str, Column]) -> Iterator[Chunk]:
    """Read a csv file, gzipped or plain, that has exactly these columns, in any order.

    Raises:
        BadData: the file cannot be read, or a value in it is not what its column expects.
    """
    parsed: dict[str, dict[str, Any]] = {name: {} for name in columns}
    with _opened(file) as text:
        reader = csv.reader(text, strict=True)
        try:
            names = _header(file, next(reader, None), columns)
            first_row = 0
            while rows := list(islice(filter(None, reader), CHUNK_ROWS)):
                _check_lengths(file, rows, first_row, names)
                texts = dict(zip(names, zip(*rows, strict=True), strict=True))
                _parse_new(file, texts, first_row, columns, parsed)
                values = {name: list(map(parsed[name].__getitem__, texts[name])) for name in names}
                yield Chunk(first_row=first_row, columns=values)
                first_row += len(rows)
        except csv.Error as error:
            raise BadData(file, f"csv ({error})", line=reader.line_num) from error


def line_of(file: Path, row: int) -> int:
    """Return the line, counted from 1, on which a row ends; only for errors: it reads the file again."""
    with _opened(file) as text:
        reader = csv.reader(text, strict=True)
        seen = -1  # the header is no row
        for values in reader:
            seen += bool(values)
            if seen > row:
                return reader.line_num
    raise AssertionError(f"{file} has no row {row}")


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """Open the file as text, and turn whatever goes wrong while reading it into BadData."""
    try:
        with file.open("rb") as plain:
            zipped = plain.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        opener = gzip.open if zipped else open
        with opener(file, "rt", encoding="utf-8-sig", newline="") as text:
            yield text
    except FileNotFoundError as error:
        raise BadData(file, "a csv or csv.gz file, but there is none") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadData(file, f"a whole gzip file ({error})") from error
    except UnicodeDecodeError as error:
        raise BadData(file, f"text in UTF-8 ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise BadData(file, f"a file that can be read ({error.strerror or error})") from error


def _header(file: Path, names: Sequence[str] | None, columns: Mapping[str, Column]) -> Sequence[str]:
    """Check that the first line names exactly the expected columns, and return it."""
    if names is None:
        raise BadData(file, f"a first line that names the columns {', '.join(columns)}", line=1)
    for name in columns:
        if name not in names:
            raise BadData(file, f"it among the columns, which are {', '.join(names)}", line=1, column=name)
    for position, name in enumerate(names):
        if name not in columns:
            raise BadData(file, f"only the columns {', '.join(columns)}", line=1, column=repr(name))
        if name in names[:position]:
            raise BadData(file, "each column once", line=1, column=name)
    return names


def _check_lengths(file: Path, rows: list[list[str]], first_row: int, names: Sequence[str]) -> None:
    """Check that every row has a value for every column."""
    if set(map(len, rows)) == {len(names)}:
        return
    for row, values in enumerate(rows, first_row):
        if len(values) != len(names):
            raise BadData(file, f"{len(names)} values, found {len(values)}", line=line_of(file, row))


def _parse_new(
    file: Path,
    texts: Mapping[str, Sequence[str]],
    first_row: int,
    columns: Mapping[str, Column],
    parsed: Mapping[str, dict[str, Any]],
) -> None:
    """Parse each text that this chunk is the first to hold; the first wrong value in the file is reported."""
    wrong: list[tuple[int, str]] = []
    for name, column in columns.items():
        known = parsed[name]
        # In order of appearance, because parsers may number what they meet.
        for text in dict.fromkeys(texts[name]):
            if text in known:
                continue
            try:
                known[text] = column.parse(text)
            except ValueError:
                wrong.append((texts[name].index(text), name))
                break
    if wrong:
        position, name = min(wrong)
        row, value = first_row + position, texts[name][position]
        raise BadData(file, columns[name].expected, line=line_of(file, row), column=name, value=value)

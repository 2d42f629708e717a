"""Where in the user's files something was declared, for errors that show the line."""

import linecache
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

_PACKAGE = f"{Path(__file__).parent}{os.sep}"
_DEMO = f"{_PACKAGE}demo{os.sep}"
# As frames of compiled modules name their files, wherever those were compiled.
_COMPILED = "klerk/", "klerk\\"


@dataclass(frozen=True, slots=True)
class Place:
    """A line in a file.

    Parameters:
        file: the path as the interpreter knows it.
        line: counted from 1.
        names: the local names at that place, which annotations written as strings may refer to.
    """

    file: str
    line: int
    names: dict[str, Any]

    def __str__(self) -> str:
        source = linecache.getline(self.file, self.line).strip()
        return f"{Path(self.file).name}:{self.line}  {source}".rstrip()


def is_klerk(file: str) -> bool:
    """Return whether a file, as the interpreter knows it, is one of Klerk's own."""
    # The demo is an application like any other.
    is_compiled = file.endswith(".pyx") and file.startswith(_COMPILED)
    return is_compiled or (file.startswith(_PACKAGE) and not file.startswith(_DEMO))


def here() -> Place:
    """Return the innermost place outside of Klerk itself."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_klerk(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return Place("<unknown>", 0, {})
    names = {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)
    return Place(frame.f_code.co_filename, frame.f_lineno, names)


def place_of(function: Any) -> Place:
    """Return where a function is defined."""
    code = getattr(function, "__code__", None)
    if code is None:
        return Place("<unknown>", 0, {})
    return Place(code.co_filename, code.co_firstlineno, {})

"""Where attempts failed: tracebacks as they are kept with jobs, logged, and sent by worker processes."""

import linecache
import os
import sysconfig
import traceback
from collections.abc import Iterator
from traceback import StackSummary, TracebackException
from types import TracebackType
from typing import Final

import msgspec

from klerk import limits
from klerk.places import is_klerk
from klerk.texts import storable

_STANDARD_LIBRARY: Final = sysconfig.get_path("stdlib") + os.sep
_LIBRARIES: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class Trace(msgspec.Struct, frozen=True):
    """Where an attempt failed.

    Parameters:
        text: see `JobFailure.traceback`.
        where: file, line and function of the innermost frame of the application's own code, as in
            ``"/srv/shop/payments.py:31 in charge"``; empty where there is none.
        is_printable: every log handler can write the whole traceback: it can be had, and is all Unicode.
    """

    text: str = ""
    where: str = ""
    is_printable: bool = False


NOWHERE: Final = Trace()


class RemoteTraceback(Exception):
    """The cause of an error that came from a worker process: shows where it was raised there.

    Parameters:
        trace: for the job.
        whole: the traceback with all frames, Klerk's too.
    """

    def __init__(self, trace: Trace, whole: str) -> None:
        super().__init__(trace, whole)
        self.trace = trace
        self.whole = whole

    def __str__(self) -> str:
        return f"in a worker process:\n{self.whole}"


def trace_of(error: BaseException, module: str) -> Trace:
    """Return where an error was raised, whatever it is.

    Parameters:
        module: that the job's function stands in.
    """
    if isinstance(error.__cause__, RemoteTraceback):
        return error.__cause__.trace
    parts, is_whole = _told(error)
    text = "".join(map(_shortened, parts)).rstrip()[-limits.JOB_TRACEBACK_LENGTH_MAX :]
    return Trace(
        text=storable(text, limits.JOB_TRACEBACK_LENGTH_MAX),
        where=_where(error, module),
        is_printable=is_whole and bool(parts) and _is_unicode(parts),
    )


def following(fault: BaseException, error: BaseException) -> BaseException:
    """Return a fault that came up while an error was dealt with, and shows it."""
    if fault.__context__ is None and fault is not error:
        fault.__context__ = error
    return fault


def whole_text(error: BaseException) -> str:
    """Return the traceback of an error with all frames and causes, as it is; empty when it has none."""
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except BaseException:
        # What its class calls itself, its notes or its parts is made by a function that fails.
        return ""


# --- the text -----------------------------------------------------------------------------------------


def _told(error: BaseException) -> tuple[list[str], bool]:
    """Return the parts of an error's traceback without Klerk's frames, nothing when there are no others; and
    whether these are all."""
    try:
        # The frames are put in afterwards: most would be looked up for nothing, with marks under their lines.
        told = TracebackException.from_exception(error, limit=0)
        return list(told.format()) if _give_frames(told, error) else [], True
    except BaseException:
        # What its class calls itself, its notes or its parts is made by a function that fails.
        return ["Traceback (most recent call last):\n", *_own_frames(error.__traceback__).format()], False


def _give_frames(told: TracebackException, error: BaseException) -> bool:
    """Give an error, its causes and its parts their frames but Klerk's; return whether there are any."""
    is_any_there = False
    waiting: list[tuple[TracebackException | None, BaseException | None]] = [(told, error)]
    while waiting:
        each, raised = waiting.pop()
        if each is None or raised is None:
            continue
        each.stack = _own_frames(raised.__traceback__)
        is_any_there = is_any_there or bool(each.stack)
        waiting += (each.__cause__, raised.__cause__), (each.__context__, raised.__context__)
        if isinstance(raised, BaseExceptionGroup):
            waiting += zip(each.exceptions or (), raised.exceptions, strict=True)
    return is_any_there


def _own_frames(trace: TracebackType | None) -> StackSummary:
    found: list[tuple[str, int, str, str]] = []
    while trace is not None:
        frame, line = trace.tb_frame, trace.tb_lineno
        file = frame.f_code.co_filename
        if not is_klerk(file):
            linecache.lazycache(file, frame.f_globals)
            found.append((file, line, frame.f_code.co_name, linecache.getline(file, line)))
        trace = trace.tb_next
    return StackSummary.from_list(found)


def _is_unicode(parts: list[str]) -> bool:
    try:
        for part in parts:
            part.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shortened(chunk: str) -> str:
    """Return a frame, or the text of an error, in a length that leaves room for others."""
    length_max = limits.JOB_TRACEBACK_PART_MAX
    return chunk if len(chunk) <= length_max else f"{chunk[:length_max]}...\n"


# --- the place ----------------------------------------------------------------------------------------


def _where(error: BaseException, module: str) -> str:
    """Return the innermost frame of the application's own code; of whatever comes before its libraries when
    there is none such."""
    package = module.partition(".")[0]
    for trace in _traces(error):
        last = own = None
        each: TracebackType | None = trace
        while each is not None:
            if not is_klerk(each.tb_frame.f_code.co_filename):
                last = each
                own = each if _is_own(each, package) else own
            each = each.tb_next
        found = own or last
        if found is not None:
            code = found.tb_frame.f_code
            place = f"{code.co_filename}:{found.tb_lineno} in {code.co_name}"
            return storable(place, limits.ERROR_LENGTH_MAX)
    return ""


def _traces(error: BaseException) -> Iterator[TracebackType]:
    """Yield the tracebacks of an error and its causes."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        if each.__traceback__ is not None:
            yield each.__traceback__
        each = each.__context__ if each.__cause__ is None else each.__cause__


def _is_own(trace: TracebackType, package: str) -> bool:
    """Return whether a frame is of no library; of those that are installed, the job's own package counts."""
    name = trace.tb_frame.f_globals.get("__name__")
    if isinstance(name, str) and name.partition(".")[0] == package:
        return True
    file = trace.tb_frame.f_code.co_filename
    is_library = file.startswith((_STANDARD_LIBRARY, "<frozen ")) or any(each in file for each in _LIBRARIES)
    return not is_library

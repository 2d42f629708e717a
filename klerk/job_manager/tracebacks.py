"""Where attempts failed: tracebacks as they are kept with jobs, logged, and sent by worker processes."""

import os
import sysconfig
import traceback
from collections.abc import Iterator
from traceback import FrameSummary, StackSummary, TracebackException
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
    """

    text: str = ""
    where: str = ""


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
    return Trace(_text_of(error), _where(error, module))


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


def is_printable(text: str) -> bool:
    """Return whether every log handler can write a text: it is all Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return bool(text)


# --- the text -----------------------------------------------------------------------------------------


def _text_of(error: BaseException) -> str:
    try:
        told = TracebackException.from_exception(error)
        if not _keep_own(told):
            return ""
        chunks = [_shortened(chunk) for chunk in told.format()]
    except BaseException:
        # As in `whole_text`. Where it came from is known all the same.
        chunks = _own_frames(traceback.extract_tb(error.__traceback__)).format()
    text = "".join(chunks).rstrip()
    return storable(text[-limits.JOB_TRACEBACK_LENGTH_MAX :], limits.JOB_TRACEBACK_LENGTH_MAX)


def _keep_own(told: TracebackException) -> bool:
    """Take Klerk's frames out of an error, its causes and its parts; return whether any others are left."""
    is_any_left = False
    waiting = [told]
    while waiting:
        each = waiting.pop()
        each.stack = _own_frames(each.stack)
        is_any_left = is_any_left or bool(each.stack)
        others = (each.__cause__, each.__context__, *(each.exceptions or ()))
        waiting += [other for other in others if other is not None]
    return is_any_left


def _own_frames(frames: StackSummary) -> StackSummary:
    # Made anew without columns: a line of marks under each line of code would take the room of other frames.
    return StackSummary.from_list([_plain(frame) for frame in frames if not is_klerk(frame.filename)])


def _plain(frame: FrameSummary) -> tuple[str, int, str, str | None]:
    return frame.filename, frame.lineno or 0, frame.name, frame.line


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

"""Errors that say something else than they did: in another language, or of a place in a list."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from klerk.errors import KlerkError, Problem

_E = TypeVar("_E", bound=KlerkError)


def restated(error: _E, problems: Sequence[Problem], message: str, hint: str) -> _E:
    """Return a copy of an error that says something else.

    The error itself is left alone: a function of the application may raise the same one again and again.
    """
    # Not the class's own: a subclass of the application may want other arguments.
    new: Any = OSError.__new__ if OSError in type(error).__mro__ else Exception.__new__
    copy: _E = new(type(error), message)
    copy.__dict__.update(error.__dict__)
    if hasattr(error, "__notes__"):
        copy.__notes__ = list(error.__notes__)
    copy.args = (message, *error.args[1:])
    copy.message, copy.hint, copy.problems = message, hint, tuple(problems)
    copy.__cause__, copy.__context__ = error.__cause__, error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)


def at_place(error: _E, index: int) -> _E:
    """Return an error about one command of a list as one about the list: ``title`` becomes ``[2].title``."""
    problems = [
        replace(each, path=f"[{index}]{'.' if each.path[:1] not in ('', '[') else ''}{each.path}")
        for each in error.problems
    ]
    return restated(error, problems, error.message, error.hint)

"""Refuses what a job's function returned and which does nothing by itself: a command that nobody handles, a
completion beside something else, the class of an outcome, a function that nobody calls."""

import inspect
from collections.abc import Iterable
from itertools import islice
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

from klerk import limits
from klerk.batch import Batch
from klerk.commands import Command
from klerk.errors import JobError
from klerk.job_outcomes import Completion, JobOutcome
from klerk.jobs import Job, JobRequest
from klerk.machine import CreateEvent, Event

_UNDONE: Final = (Command, JobRequest, Batch, Event, CreateEvent, Job, GeneratorType, AsyncGeneratorType, map)
"""What means nothing until somebody does something with it."""

_MEANT_ALONE: Final = (Completion, JobOutcome)
"""What says how a job ends when it is returned by itself."""

_PLAIN: Final = frozenset({int, str, float, bytes, bool, type(None)})
"""What most values are: they are looked at no further."""


def require_done(job: Job[Any], made: Completion | None, returned: Any) -> None:
    """Refuse a value that would let a job complete without what its function meant to do.

    Parameters:
        made: what the function got of `complete_with`; None: it did not call that.
        returned: by the function.

    Raises:
        JobError: (``result_undone``) it does nothing by itself; (``completion_lost``) the commands of `made`
            would be lost.
    """
    if made is not None and returned is not made and not isinstance(returned, JobOutcome):
        raise _lost(job, returned)
    if type(returned) in _PLAIN or isinstance(returned, _MEANT_ALONE):
        return
    what = _named(returned)
    if what:
        if inspect.iscoroutine(returned):
            returned.close()
        raise _refusal(job, what, returned)
    if isinstance(returned, dict):
        _look_into(job, returned, returned.values())
    elif isinstance(returned, list | tuple | set | frozenset):
        _look_into(job, returned, returned)


def _look_into(job: Job[Any], returned: Any, values: Iterable[Any]) -> None:
    """Refuse a collection with what does nothing by itself; the first values tell what sort of list it is."""
    for each in islice(values, limits.JOB_RETURN_LOOKS_MAX):
        if type(each) in _PLAIN:
            continue
        if isinstance(each, _MEANT_ALONE):
            raise _refusal(job, f"a {type(returned).__name__} with a {type(each).__name__}", each)
        # Errors may well be told of in a list: that of what failed, and why.
        what = "" if isinstance(each, BaseException) or inspect.isroutine(each) else _named(each)
        if what:
            raise _refusal(job, f"a {type(returned).__name__} with {what}", each)


def _named(value: Any) -> str:
    """Return what a value is that does nothing by itself; empty for any other."""
    if isinstance(value, type):
        is_meant = issubclass(value, (BaseException, Completion, *_UNDONE))
        return f"the class {value.__name__}" if is_meant else ""
    if isinstance(value, (BaseException, *_UNDONE)) or inspect.isawaitable(value) or inspect.isroutine(value):
        return f"a {type(value).__name__}"
    return ""


def _refusal(job: Job[Any], what: str, value: Any) -> JobError:
    return JobError(
        f"job '{job.name}' returned {what}, which does nothing by itself",
        hint=_way_out(value),
        code="result_undone",
    )


def _way_out(value: Any) -> str:
    """Return what to write instead of returning a value so."""
    if isinstance(value, JobOutcome):
        return f"Return it alone: return {type(value).__name__}(...)."
    if isinstance(value, type) and issubclass(value, JobOutcome):
        return f"Return what it makes: return {value.__name__}(...)."
    if isinstance(value, BaseException) or (isinstance(value, type) and issubclass(value, BaseException)):
        return "Raise it: an attempt fails by an error that is raised."
    if isinstance(value, Completion):
        return "Return it alone: return job.complete_with(command, another)."
    if isinstance(value, JobRequest | Batch | Job):
        return "Jobs are created by job.schedule(...), or by the commands of job.complete_with(command)."
    return "End with commands by `return job.complete_with(command)`, and await what is to be awaited."


def _lost(job: Job[Any], returned: Any) -> JobError:
    what = "complete_with and returned " + ("nothing" if returned is None else f"a {type(returned).__name__}")
    if isinstance(returned, Completion):
        what = "complete_with more than once and returned what one of these gave"
    return JobError(
        f"job '{job.name}' called {what}, so commands would be lost",
        hint="Return what it gives: return job.complete_with(command, another), once in an attempt.",
        code="completion_lost",
    )

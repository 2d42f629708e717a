"""Keys of jobs: which arguments a job's key function takes, and what it makes of them."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from klerk import limits
from klerk.errors import FunctionFailed
from klerk.jobs import Job

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def places_of(function: Callable[..., Any], names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the places of the arguments that a key function takes, in its own order; None: all, as they are.

    Parameters that are all called as the job's get the values of these; if none is, all get them in order.

    Parameters:
        names: of the job's parameters.

    Raises:
        ValueError: some are called so and others not, or it cannot be called with these.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Some functions of compiled modules do not tell what they take.
        return None
    parameters = list(signature.parameters.values())
    wanted = [each for each in parameters if each.kind in _BY_POSITION]
    known = [each.name for each in wanted if each.name in names]
    if not known:
        _require_fits(signature, names, names)
        return None
    # One with a default behind as many as the job has is never given anything, either way.
    given = [
        each.name
        for place, each in enumerate(wanted)
        if place < len(names) or each.default is inspect.Parameter.empty
    ]
    others = [name for name in given if name not in names]
    rest = [str(each) for each in parameters if each.kind is inspect.Parameter.VAR_POSITIONAL]
    if rest and known == list(names[: len(wanted)]):
        # Both rules give it the same, and it takes what is left over, too.
        return None
    others += rest
    if others:
        raise ValueError(
            f"its parameter {known[0]!r} is called as one of the job's and {others[0]!r} is not;"
            f" for a match by name, take only some of ({', '.join(names)}), and for one in order, none of"
            " these names"
        )
    _require_fits(signature, known, names)
    places = tuple(names.index(name) for name in known)
    return None if places == tuple(range(len(names))) else places


def _require_fits(signature: inspect.Signature, given: Sequence[str], names: Sequence[str]) -> None:
    try:
        signature.bind(*given)
    except TypeError as error:
        raise ValueError(
            f"it must be a function of ({', '.join(names)}), or of some of these by their names, but that"
            f" does not fit {signature}: {error}"
        ) from error


def key_of(job: Job[Any], values: tuple[Any, ...]) -> str:
    """Return the key by which a job's key limits count.

    Raises:
        FunctionFailed: the key function failed, or returned no key.
    """
    places = job.key_places
    try:
        key = job.settings.key(*values if places is None else [values[place] for place in places])
    except Exception as error:
        raise FunctionFailed(f"the key of job '{job.name}' raised {type(error).__name__}: {error}") from error
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise FunctionFailed(
            f"the key of job '{job.name}' is {key!r}",
            hint="Return a text or a number: lambda loan: str(loan).",
        )
    return str(key)[: limits.JOB_KEY_LENGTH_MAX]

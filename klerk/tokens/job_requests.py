"""What tells the jobs that a running job asks for from others that it asks for."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from klerk.batch import Batch
from klerk.job_steps import AskedJobs
from klerk.jobs import JobRequest
from klerk.tokens.digests import canonical, encode
from klerk.tokens.job_tokens import referred

Types: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The types of the parameters of the declared jobs."""


def asked_jobs(requests: tuple[JobRequest | Batch, ...], types: Types) -> AskedJobs:
    """Return jobs that are asked for in one transaction, as a step.

    One job is found again by its kind and the models that it refers to. Of several, nobody knows which are
    new when they are others than the first time, so they are found by their place alone, and compared then.

    Parameters:
        requests: at least none.
    """
    described = [_batch(each, types) if isinstance(each, Batch) else _job(each, types) for each in requests]
    kinds = list(_kinds(requests))
    about: tuple[str | int, ...] = ("several jobs",)
    refers = False
    if len(requests) == 1 and isinstance(requests[0], JobRequest):
        found = _references(requests[0], types)
        about, refers = ("job", kinds[0], *found), bool(found)
    return AskedJobs(kinds=tuple(kinds), about=about, identity=encode(described), refers=refers)


def _kinds(requests: Iterable[JobRequest | Batch]) -> Iterable[str]:
    for each in requests:
        if isinstance(each, Batch):
            yield from _kinds((*each.requests, *(request for _, request in each.callbacks)))
        else:
            yield each.job.name


def _batch(batch: Batch, types: Types) -> Any:
    callbacks = [[role, _job(request, types)] for role, request in batch.callbacks]
    return [[_job(each, types) for each in batch.requests], callbacks]


def _job(request: JobRequest, types: Types) -> Any:
    """Return what a request is: its kind, and what it refers to, or else its arguments."""
    found = _references(request, types)
    if found:
        return [request.job.name, found]
    fields = _fields(request, types)
    try:
        return [request.job.name, [canonical(*each) for each in zip(fields, request.values, strict=True)], 0]
    except Exception:
        # Whatever it is, it will be refused when the job is created.
        return [request.job.name]


def _references(request: JobRequest, types: Types) -> list[int]:
    found: list[int] = []
    for place, (field, value) in enumerate(zip(_fields(request, types), request.values, strict=False)):
        if field.target is not None or field.nested is not None:
            ids = [id for id in referred(field, value) if id]
            found += (-1 - place, *ids) if ids else ()
    return found


def _fields(request: JobRequest, types: Types) -> tuple[Any, ...]:
    return tuple(types.get(request.job.name, {}).values())

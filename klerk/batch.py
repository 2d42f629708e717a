"""Jobs that are requested together: a batch with callbacks, and a chain."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from klerk.errors import ArgumentError
from klerk.jobs import JobRecord, JobRequest

__all__ = ["CALLBACKS_MAX", "Batch", "Requested", "chain", "checked_requests", "member_ids", "no_request"]

CALLBACKS_MAX: Final = 3
"""A batch has a callback for each role at most."""


def member_ids(callback: JobRecord) -> range:
    """Return the ids among which those of the members of a callback's batch are; up to three are others'.

    Members are created one after the other, right after the callbacks, the first of which the batch has its
    id from.
    """
    return range(callback.batch + 1, callback.batch + CALLBACKS_MAX + callback.members)


def no_request(given: object) -> ArgumentError:
    """Return the error for what is neither a request nor a batch."""
    return ArgumentError(
        f"expected a job request, got {type(given).__name__}",
        hint="Put a star before several: *chain(load(), report())."
        if isinstance(given, list | tuple)
        else "Call the job to make one: remind(ref).",
    )


class Batch(msgspec.Struct, frozen=True):
    """Jobs that are created in one transaction, and those that run once all of them have ended.

    At least one of the callbacks must be given. Those that do not apply end as cancelled. A callback is
    created even if its kind is unique; a unique member that stands for a job that is there already is no
    member, so the batch does not wait for that one. Members that are run again by hand have counted before.

    Parameters:
        requests: its members; none is fine: it has ended, and succeeded, at once.
        succeeded: runs once every member is completed.
        failed: runs once all members have ended, if one was discarded or cancelled.
        ended: runs once all members have ended, whatever became of them.

    Raises:
        ArgumentError: something is no job request, or there is no callback.
    """

    requests: Sequence[JobRequest]
    succeeded: JobRequest | None = None
    failed: JobRequest | None = None
    ended: JobRequest | None = None

    def __post_init__(self) -> None:
        given: object = self.requests
        if isinstance(given, JobRequest) or not isinstance(given, Iterable):
            raise ArgumentError(
                f"a batch takes several job requests, got {type(given).__name__}",
                hint="Give a list: Batch([load(1), load(2)], ended=report()).",
            )
        requests = tuple(self.requests)
        for each in (*requests, *(request for _, request in self.callbacks)):
            if not isinstance(each, JobRequest):
                raise no_request(each)
        if not self.callbacks:
            raise ArgumentError(
                "a batch needs a callback: succeeded, failed or ended",
                hint="Without one, request the jobs themselves.",
            )
        msgspec.structs.force_setattr(self, "requests", requests)

    @property
    def callbacks(self) -> tuple[tuple[str, JobRequest], ...]:
        """The callbacks that were given, each with its role."""
        roles = (("succeeded", self.succeeded), ("failed", self.failed), ("ended", self.ended))
        return tuple((role, request) for role, request in roles if request is not None)

    def __repr__(self) -> str:
        return f"<batch of {len(self.requests)} jobs>"


Requested = JobRequest | Batch | Iterable[JobRequest | Batch]
"""What a function may ask for: a job, a batch, or several of them."""


def chain(*requests: JobRequest) -> tuple[JobRequest, ...]:
    """Return requests of which each runs after the one before; it is cancelled once that ended badly.

    Raises:
        ArgumentError: one of them is no job request.
    """
    linked: list[JobRequest] = []
    for request in requests:
        if not isinstance(request, JobRequest):
            raise no_request(request)
        linked.append(request.after(linked[-1]) if linked else request)
    return tuple(linked)


def checked_requests(
    requests: tuple[JobRequest | Batch, ...], moment: datetime | None
) -> tuple[JobRequest | Batch, ...]:
    """Return requests, to be run no sooner than a moment if there is one.

    Raises:
        ArgumentError: one of them is none.
    """
    for request in requests:
        if not isinstance(request, JobRequest | Batch):
            raise no_request(request)
    return requests if moment is None else _postponed(requests, moment)


def _postponed(requests: Iterable[JobRequest | Batch], moment: datetime) -> tuple[JobRequest | Batch, ...]:
    """Return the same requests, to be run no sooner than a moment; of a batch, the members."""
    new: dict[int, JobRequest] = {}

    def later(request: JobRequest) -> JobRequest:
        if request.run_at is not None or request.delay is not None:
            raise ArgumentError(
                f"{request} has a time of its own, and all of them were given another",
                hint="Say the time once: in the request, or with at=.",
            )
        moved = follow(request).at(moment)
        new[id(request)] = moved
        return moved

    def follow(request: JobRequest) -> JobRequest:
        if not request.follows:
            return request
        follows = tuple(new.get(id(each), each) for each in request.follows)
        return msgspec.structs.replace(request, follows=follows)

    def later_batch(batch: Batch) -> Batch:
        members = [later(request) for request in batch.requests]
        callbacks = {role: follow(request) for role, request in batch.callbacks}
        new.update((id(request), callbacks[role]) for role, request in batch.callbacks)
        return Batch(members, **callbacks)

    given = list(requests)
    return tuple(later_batch(each) if isinstance(each, Batch) else later(each) for each in given)

"""The tokens of commands that jobs handle: kept until their job has completed, or is not kept any more."""

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from klerk import limits
from klerk._working import id_or_zero
from klerk.commands import Command
from klerk.job_manager.job_rows import find_row
from klerk.jobs import JobRecord, JobState
from klerk.storage.contract import Storage
from klerk.tokens.token import DIGEST_BYTES

ANYTHING: Final = bytes(DIGEST_BYTES)
"""The digest of a use whose second one is the same whatever its parameters are."""


class JobTokens:
    """Knows which tokens belong to which job. Called by the one thread that processes commands."""

    def __init__(self) -> None:
        self._of_job: dict[int, list[bytes]] = {}
        self._leaving: deque[bytes] = deque()

    def add(self, job_id: int, token_id: bytes) -> None:
        """Note that a job has used a token."""
        self._of_job.setdefault(job_id, []).append(token_id)

    def left_by(self, notices: Iterable[tuple[JobRecord, bytes]]) -> list[bytes]:
        """Return the tokens to be dropped, now that jobs have changed: a bounded number of them at once.

        Parameters:
            notices: the records that a group of transactions wrote.
        """
        if self._of_job:
            for record, _ in notices:
                if record.state is JobState.COMPLETED and record.id in self._of_job:
                    self._leaving.extend(self._of_job.pop(record.id))
        count = min(len(self._leaving), limits.JOB_TOKENS_DROPPED_AT_ONCE)
        return [self._leaving.popleft() for _ in range(count)]


class LivingJobs:
    """Says whether a stored job has not completed, so that it may run once more; each is looked up once.

    Parameters:
        storage: with the jobs.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[int, bool] = {}

    def __contains__(self, job_id: int) -> bool:
        lives = self._known.get(job_id)
        if lives is None:
            record = find_row(self._storage, job_id)
            lives = self._known[job_id] = record is not None and record.state is not JobState.COMPLETED
        return lives


def about(command: Command[Any], code: int, fields: tuple[Any, ...]) -> tuple[int, ...]:
    """Return what a command is about: its event, its target, and the models that its parameters refer to.

    Parameters:
        code: of its event.
        fields: the types of its parameters.
    """
    found = [code, id_or_zero(command.target)]
    for place, field in enumerate(fields):
        if field.target is not None or field.nested is not None:
            found += (-1 - place, *referred(field, command.values[place]))
    return tuple(found)


def referred(field: Any, value: Any) -> list[int]:
    """Return the ids of the models that a value of a parameter refers to, in their order."""
    try:
        ids = [value] if field.nested is None else [id for id, _ in field.nested(value)]
        return sorted(map(id_or_zero, ids))
    except Exception:
        # Whatever it is, it will be refused when it is handled.
        return []

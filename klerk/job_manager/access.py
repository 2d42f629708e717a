"""Who may do what to jobs by hand: the rules of `app.allow.jobs` and `app.deny.jobs`."""

from collections.abc import Iterable
from typing import Any

from klerk._dispatch import Args, Call, ask, new_args
from klerk._waiting import ReadWriteLock
from klerk.app import Spec
from klerk.authorization import JobAction
from klerk.commands import Context
from klerk.errors import Denied
from klerk.keyed.access import Resolve
from klerk.reading.reader import PlainReader
from klerk.validation import call_of


class JobAccess:
    """Decides about actions on jobs.

    The rules see the published models at one moment: the read lock is held while they are asked, and for
    nothing else.

    Parameters:
        spec: the design.
        resolve: as `Program.resolve`.
        published: reads the published state, for the rules.
        lock: held meanwhile.
    """

    def __init__(self, spec: Spec, resolve: Resolve, published: PlainReader, lock: ReadWriteLock) -> None:
        self._spec = spec
        self._resolve = resolve
        self._published = published
        self._lock = lock

    def require(self, context: Context, action: JobAction, kinds: Iterable[str]) -> None:
        """Ask the rules whether an action on the jobs of some kinds is permitted.

        Raises:
            Denied: on those of one of them it is not.
            ArgumentError: it is no context.
        """
        context, _, trusted, *_ = self._resolve(context)
        if trusted:
            return
        with self._lock.read():
            denied = next((kind for kind in kinds if not self._permits(context, action, kind)), None)
        if denied is not None:
            raise Denied(
                f"{context.actor} may not {action.replace('_', ' ')} jobs of kind '{denied}'",
                hint="Nothing may be done without a rule: @app.allow.jobs(...).",
            )

    def _permits(self, context: Context, action: JobAction, kind: str) -> bool:
        a: Args = new_args(context, context.now, self._published, None, kind, action)
        job = self._spec.jobs.get(kind)
        if not ask(_calls(self._spec.allow.for_job(job, action)), a)[0]:
            return False
        return not ask(_calls(self._spec.deny.for_job(job, action)), a)[0]


def _calls(functions: list[Any]) -> list[Call]:
    return [call_of(function, (), "an allow or deny rule") for function in functions]

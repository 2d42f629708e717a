"""Names of kinds of jobs, of queues and of tags: which there are, and what to say of one that nobody has."""

from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches

from klerk import limits
from klerk.errors import ArgumentError

__all__ = ["JobNames", "choices", "foreign", "nearest", "require_queue", "unknown"]

Names = Collection[str]


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """Return which of the known names was probably meant by a name; "" when it is like none of them.

    Parameters:
        likeness: at least; see `difflib.SequenceMatcher.ratio`.
    """
    folded = {each.casefold(): each for each in known}
    close = get_close_matches(name.casefold(), folded, n=1, cutoff=likeness)
    return folded[close[0]] if close else ""


def choices(name: str, known: Iterable[str], there_are: str = "There are") -> str:
    """Return the hint for a name that nobody has: the one that was probably meant, and those that there are.

    Parameters:
        there_are: what the list of names begins with.
    """
    names = sorted(known)
    close = nearest(name, names)
    shown = ", ".join(names[: limits.JOB_NAMES_SHOWN_MAX]) or "none"
    more = len(names) - limits.JOB_NAMES_SHOWN_MAX
    listed = f"{there_are}: {shown}{f' and {more} more' if more > 0 else ''}."
    return f"Did you mean '{close}'? {listed}" if close else listed


def unknown(what: str, name: str, known: Iterable[str], there_are: str = "There are") -> ArgumentError:
    """Return the error for a name that nobody has.

    Parameters:
        what: it was to be the name of.
        there_are: see `choices`.
    """
    return ArgumentError(f"there is no {what} {name!r}", hint=choices(name, known, there_are))


def foreign(name: str) -> ArgumentError:
    """Return the error for a job that is declared in another app than the one that is asked to run it."""
    return ArgumentError(
        f"the job {name} belongs to another app",
        hint="Use the one that this app declares with @app.job(...).",
    )


def require_queue(name: object, queues: Names | None) -> None:
    """Refuse what is no name of a queue.

    Parameters:
        queues: those of the app; None: it is not known yet which it has.

    Raises:
        ArgumentError: it is none.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= limits.JOB_NAME_LENGTH_MAX:
        raise ArgumentError(
            f"a queue's name is a text of 1 to {limits.JOB_NAME_LENGTH_MAX} characters, got {name!r}"
        )
    if queues is not None and name not in queues:
        error = unknown("queue", name, queues)
        declare = f"To have one more, declare it: app.queue({name!r})."
        raise ArgumentError(error.message, hint=f"{error.hint} {declare}")


class JobNames:
    """The names by which jobs can be looked for: those declared, and those of stored jobs.

    Parameters:
        kinds, queues, tags: those declared.
        stored: gives the kinds and the queues of the jobs that there are; asked only about what is not
            declared.
        there_are: see `choices`.
    """

    def __init__(
        self,
        kinds: Names,
        queues: Names,
        tags: Names,
        stored: Callable[[], tuple[Names, Names]],
        there_are: str = "There are",
    ) -> None:
        self._kinds = kinds
        self._queues = queues
        self._tags = tags
        self._stored = stored
        self._there_are = there_are

    def require_kinds(self, names: Iterable[str]) -> None:
        """Refuse a kind that is neither declared nor that of a stored job.

        Raises:
            ArgumentError: it is.
        """
        self._require("kind of job", names, self._kinds, 0)

    def require_queues(self, names: Iterable[str]) -> None:
        """Refuse a queue that is neither declared nor that of a stored job.

        Raises:
            ArgumentError: it is.
        """
        self._require("queue", names, self._queues, 1)

    def require_tag(self, name: str) -> None:
        """Refuse a tag that no declared job has.

        Raises:
            ArgumentError: it is none.
        """
        if name not in self._tags:
            raise unknown("job with the tag", name, self._tags)

    def has_queue(self, name: str) -> bool:
        """Return whether a queue is declared, or that of a stored job."""
        return name in self._queues or name in self._stored()[1]

    def queue_choices(self, name: str) -> str:
        """Return the hint for a queue that there is not; see `choices`."""
        return choices(name, {*self._queues, *self._stored()[1]}, self._there_are)

    def _require(self, what: str, names: Iterable[str], declared: Names, place: int) -> None:
        missing = [name for name in names if name not in declared]
        if not missing:
            return
        known = {*declared, *self._stored()[place]}
        for name in missing:
            if name not in known:
                raise unknown(what, name, known, self._there_are)

"""Every error that Klerk raises: one root, a stable code, what was expected, what came, how to mend it.

An error also inherits the builtin that a Python programmer would expect (`ValueError`, `LookupError`,
`PermissionError`, ...), and carries the HTTP status that a web API should answer with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final

from klerk import limits

NO_VALUES: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a command, a value or a design.

    Parameters:
        code: stable and machine-readable, for instance ``"too_long"`` or a rule's name.
        message: for people, in the language of the translation.
        path: where, as in ``"address.lines[2]"``; empty when the whole command is meant.
        hint: how to mend it, when that is not plain from the message.
        key: what a translation finds the message under; empty when that is the code.
        values: what the message says in numbers and names, as in ``{"max": 80, "length": 100}``; frozen.
    """

    code: str
    message: str
    path: str = ""
    hint: str = ""
    key: str = ""
    values: Mapping[str, Any] = field(default_factory=lambda: NO_VALUES, hash=False)

    def __post_init__(self) -> None:
        if self.values is not NO_VALUES:
            object.__setattr__(self, "values", MappingProxyType(dict(self.values)))

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # A view of a mapping can be neither copied nor pickled.
        parts = (self.code, self.message, self.path, self.hint, self.key, dict(self.values))
        return _problem, parts


def _problem(code: str, message: str, path: str, hint: str, key: str, values: Mapping[str, Any]) -> Problem:
    return Problem(code=code, message=message, path=path, hint=hint, key=key, values=values)


class KlerkError(Exception):
    """The root of all errors raised by Klerk.

    Attributes:
        code: stable, machine-readable name of this kind of error.
        status: the HTTP status a web API should answer with.
        problems: every single problem found, never empty for errors about a command. Where none is given,
            the error itself is one, with the `key` and `values` given.
        hint: how to mend it.
    """

    code: str = "error"
    status: ClassVar[int] = 500

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "",
        problems: Sequence[Problem] = (),
        key: str = "",
        values: Mapping[str, Any] = NO_VALUES,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code:
            self.code = code
        self.problems: tuple[Problem, ...] = tuple(problems) or (
            Problem(code=self.code, message=message, hint=hint, key=key, values=values),
        )

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


# --- what a user of the application did ---------------------------------------------------------------


class Rejected(KlerkError, ValueError):
    """The command breaks a rule, or its target is in a state that does not accept it. Nothing was changed."""

    code = "rejected"
    status = 422


class InvalidValue(Rejected):
    """One or more values are not what their types allow. Nothing was changed."""

    code = "invalid_value"
    status = 400


class WrongState(Rejected):
    """The event is not accepted in the state that the model is in. Nothing was changed."""

    code = "wrong_state"
    status = 409


class Denied(KlerkError, PermissionError):
    """No allow rule permits it, or a deny rule forbids it. Nothing was changed or shown."""

    code = "denied"
    status = 403


class NotFound(KlerkError, LookupError):
    """There is no such model, job or record."""

    code = "not_found"
    status = 404


class Erased(NotFound):
    """It was there, and was erased from the commit log on request."""

    code = "erased"
    status = 410


class BrokenReference(InvalidValue, NotFound):
    """A reference names a model that does not exist, or one of another class. Nothing was changed."""

    code = "broken_reference"
    status = 422


class Conflict(KlerkError, ValueError):
    """It contradicts what is stored: a key that is taken, a model still referred to, or changed meanwhile."""

    code = "conflict"
    status = 409


# --- what the programmer did --------------------------------------------------------------------------


class ConfigError(KlerkError, ValueError):
    """The design is wrong. Found when it is declared or opened, before anything runs.

    Parameters:
        code: one of the codes explained by ``python -m klerk explain CODE``.
        message: what is wrong.
        where: the line in the user's file, as in ``"library.py:26  out, overdue = ..."``.
        hint: how to mend it.
    """

    code = "config"

    def __init__(self, code: str, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.where = where

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.message}", self.where, self.hint]
        lines.append(f"More: python -m klerk explain {self.code}")
        return "\n  ".join(line for line in lines if line)


class ArgumentError(KlerkError, TypeError):
    """An event or job was called with arguments that do not fit its signature."""

    code = "arguments"
    status = 400


class FunctionFailed(KlerkError, RuntimeError):
    """A function of the application raised while a command was processed. The command was rolled back.

    The exception itself is the cause (``__cause__``).
    """

    code = "function_failed"


class ReadLockHeld(KlerkError, RuntimeError):
    """A command was issued by a thread or task that holds the read lock: it would wait for itself."""

    code = "read_lock_held"


class NotPure(KlerkError, RuntimeError):
    """A function that Klerk calls while it commits tried to issue a command: it would wait for itself."""

    code = "not_pure"


class ReaderClosed(KlerkError, RuntimeError):
    """A reader was used after its ``with`` block ended."""

    code = "reader_closed"


class Closed(KlerkError, RuntimeError):
    """The Klerk is closed, or belongs to the process that this one was forked from."""

    code = "closed"
    status = 503


class QueueFull(KlerkError, TimeoutError):
    """More commands are waiting than the queue holds, for longer than the caller would wait."""

    code = "queue_full"
    status = 503


class Lagged(KlerkError, RuntimeError):
    """A subscriber took its changes more slowly than they came, and its queue was full.

    Everything up to `sequence` was delivered. Going on with the same subscription, or with a new one that
    gets this as ``since``, reads what comes after it from the commit log.

    Attributes:
        sequence: of the last transaction that was delivered.
    """

    code = "lagged"

    def __init__(self, message: str, *, sequence: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sequence = sequence


class LimitExceeded(KlerkError, ValueError):
    """Something is larger, deeper or longer than its bound in ``klerk.limits``."""

    code = "limit"
    status = 413


class MissingLibrary(KlerkError, ImportError):
    """What was asked for needs a library that is not installed."""

    code = "missing_library"


# --- storage ------------------------------------------------------------------------------------------


class StorageError(KlerkError, OSError):
    """The root of all errors about the store on disk."""

    code = "storage"
    status = 503

    # OSError's own __str__ formats errno and strerror, which these errors do not have.
    __str__ = KlerkError.__str__


class NotAStore(StorageError, ValueError):
    """The path exists and is not a Klerk store."""

    code = "not_a_store"


class StoreLocked(StorageError):
    """Another process, or another Klerk in this one, has the store open."""

    code = "store_locked"


class WrongStore(StorageError, ValueError):
    """The store belongs to another application."""

    code = "wrong_store"


class NewerStore(StorageError, ValueError):
    """The store was written by a newer version of Klerk's format, or of the application's design."""

    code = "newer_store"


class SchemaChanged(StorageError, ValueError):
    """The design differs from the one that the store was written with, and no migration covers that."""

    code = "schema_changed"


class MigrationFailed(StorageError, ValueError):
    """Models or jobs do not fit the design as migrations leave them. The store was left as it was."""

    code = "migration_failed"


class Corrupted(StorageError):
    """What is stored is damaged, or acknowledged commands are missing from it."""

    code = "corrupted"


class StoreFailed(StorageError):
    """A write or sync failed. Every later command is refused until the store is opened again; reads go on."""

    code = "store_failed"


# --- jobs ---------------------------------------------------------------------------------------------


class JobError(KlerkError, RuntimeError):
    """The root of errors about jobs."""

    code = "job"


class JobCancelled(JobError):
    """The job was asked to stop, by its owner or because Klerk closes."""

    code = "job_cancelled"


class JobTimeout(JobError, TimeoutError):
    """An attempt took longer than its job's timeout, or gave no sign for longer than its heartbeat."""

    code = "job_timeout"


class JobCrashed(JobError):
    """The worker process that ran the job died: it was killed, ran out of memory, or ended itself."""

    code = "job_crashed"


class NotEnded(JobError, TimeoutError):
    """A job that was waited for has not ended in the time that there was."""

    code = "not_ended"


class NoResult(JobError, LookupError):
    """A job has no result to show; the code says why: ``result_pending`` (it has not ended),
    ``result_failed`` (it was discarded or cancelled), ``result_not_kept`` or ``result_expired``."""

    code = "no_result"
    status = 404


def _in_english(key: str, default: str, values: Mapping[str, Any]) -> str:
    return default


def listed(
    problems: Sequence[Problem], text: Callable[[str, str, Mapping[str, Any]], str] = _in_english
) -> str:
    """Return the problems as one readable text, at most `limits.PROBLEMS_MAX` of them.

    Parameters:
        text: ``text(key, default, values)`` puts what stands around them into another language.
    """
    count = len(problems)
    if count == 1:
        return str(problems[0])
    shown = problems[: limits.PROBLEMS_MAX]
    lines = [text("problems", f"{count} problems:", {"count": count}), *(f"- {each}" for each in shown)]
    rest = count - len(shown)
    if rest:
        lines.append(f"- {text('problems_more', f'and {rest} more', {'count': rest})}")
    return "\n  ".join(lines)


_PUBLIC = [value for value in list(globals().values()) if isinstance(value, type)]
for _class in _PUBLIC:
    if _class.__module__ == __name__:
        # Tracebacks and reprs name the errors where users import them from.
        _class.__module__ = "klerk"

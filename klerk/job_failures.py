"""What is kept of failed attempts at a job, and what stands for an error that cannot leave its process."""

from datetime import datetime

import msgspec

from klerk import limits
from klerk._dispatch import moment_at
from klerk.errors import JobError

__all__ = ["JobFailure", "UnsentError", "class_name", "listed_with", "names_of"]


class JobFailure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A failed attempt at a job: one after which the job was tried again, or discarded; or a crash.

    Parameters:
        attempt: which one it was, counted from 1, and anew when somebody let the job be tried again. One in
            which the process died has the number of the next one, too: it is not used up.
        at_us: when it ended, or, of one that the process died in, the next start; in microseconds since 1970
            UTC.
        error: why it failed, as `JobRecord.error` told it then.
        traceback: where: of the error and its causes the frames from the job's own function on, without
            Klerk's; the last `limits.JOB_TRACEBACK_LENGTH_MAX` characters of that. Empty where nothing was
            raised but what says how a job ends (`Retry`, `Discard`), where a process died or was
            killed, and of failures between the first one and the last.
    """

    attempt: int
    at_us: int
    error: str = ""
    traceback: str = ""

    @property
    def at(self) -> datetime:
        """When it ended, in UTC."""
        return moment_at(self.at_us)


def listed_with(earlier: tuple[JobFailure, ...], failure: JobFailure) -> tuple[JobFailure, ...]:
    """Return the failures of a job, one more at the end: at most `limits.JOB_ERRORS_KEPT_MAX`, of which the
    first one always stays. That and the last one have their tracebacks: each job keeps its failures in
    memory as long as it has not ended."""
    if not earlier:
        return (failure,)
    first, *rest = earlier
    between = [each if not each.traceback else msgspec.structs.replace(each, traceback="") for each in rest]
    return (first, *between[max(0, len(between) + 2 - limits.JOB_ERRORS_KEPT_MAX) :], failure)


class UnsentError(JobError):
    """Stands for an error of a job in a worker process which cannot be sent from there, or not be made here:
    one whose class pickle does not find, or whose constructor wants something else than it was made with.

    Its text is that of the error, with the name of its class. A job's `on_error` looks at the classes of the
    error itself, and `stands_for` tells a job's `retry` function which they are.

    Attributes:
        names: of the error's class and of those that it inherits from, in the order in which Python looks at
            them, each with its module, as in ``"shop.payments.Declined"``.
    """

    # Where users find it, as the other errors.
    __module__ = "klerk"
    code = "job_unsent"

    def __init__(self, message: str, *, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names

    def stands_for(self, cls: type[BaseException]) -> bool:
        """Return whether the error was of a class, or of one that inherits from it."""
        return class_name(cls) in self.names


def class_name(cls: type) -> str:
    """Return the name of a class by which two processes know it."""
    # So the main module of a program is called in the processes that it starts.
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return f"{module}.{cls.__qualname__}"


def names_of(error: BaseException) -> tuple[str, ...]:
    """Return the names of an error's class and of those that it inherits from."""
    try:
        return tuple(class_name(each) for each in type(error).__mro__[:-1])
    except Exception:
        # Its metaclass has its own opinion of names.
        return ()

"""A design whose jobs fail in processes, in whatever way they are told; any process can import it."""

import os
import time
from datetime import timedelta
from typing import Any

import klerk
from klerk import Discard, JobRun

app = klerk.App("flawed")

SEEN: list[tuple[bool, bool, str]] = []
"""What the retry function saw: in this process alone."""


class Broken(Exception):
    """Cannot be made with the arguments that it has."""

    def __init__(self, part: str, *, times: int) -> None:
        super().__init__(f"{part} broke {times} times")


class Worse(Broken):
    """A subclass, which an option that names the class above is about, too."""


class Elsewhere(Exception):
    """Not named by any option."""


def made_here() -> type[Exception]:
    """Return a class that pickle does not find, the same one in every process by its name."""

    class Local(Exception):
        pass

    return Local


Local = made_here()


class Stubborn(Exception):
    """Ends whatever takes it apart or asks for its text."""

    def __reduce__(self) -> Any:
        raise SystemExit("not me")

    def __str__(self) -> str:
        raise SystemExit("no words")


class Returning(Exception):
    """Comes back as something that is no error."""

    def __reduce__(self) -> Any:
        return int, ("7",)


class NamelessType(type):
    """Has its own opinion of names."""

    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__":
            raise ZeroDivisionError
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=NamelessType):
    """Its class cannot be asked for its name."""

    def __reduce__(self) -> Any:
        raise TypeError("not me")


ERRORS: dict[str, Any] = {
    "broken": lambda: Broken("wheel", times=3),
    "worse": lambda: Worse("wheel", times=4),
    "local": lambda: Local("here"),
    "stubborn": Stubborn,
    "returning": lambda: Returning("x"),
    "nameless": lambda: Nameless("x"),
    "sent": lambda: ValueError("as it is"),
    "surrogate": lambda: ValueError("\ud800 x"),
    "elsewhere": lambda: Elsewhere(lambda: None),
}


def fail(how: str) -> None:
    """Raise what one asks for, from a cause."""
    try:
        raise KeyError("the reason")
    except KeyError as reason:
        error = ERRORS[how]()
        raise error from reason


def retry(attempt: int, error: BaseException) -> timedelta | None:
    is_unsent = isinstance(error, klerk.UnsentError)
    SEEN.append((is_unsent, is_unsent and error.stands_for(Elsewhere), str(error)))
    return None


@app.job(executor="process", on_error={Broken: Discard("broken"), Local: Discard("local")}, retry=retry)
def flawed(job: JobRun, how: str) -> None:
    fail(how)


@app.job(executor="process", on_error={Exception: Discard("any"), Broken: Discard("near")})
def judged(job: JobRun, how: str) -> None:
    fail(how)


@app.job(executor="process", max_crashes=3)
def gone(job: JobRun) -> None:
    os._exit(3)


@app.job(max_attempts=2, retry=lambda attempt, error: timedelta(hours=1))
def told(job: JobRun) -> None:
    """Kill the whole process in the first runs, and then fail."""
    if job.crashes < 2:
        os._exit(3)
    raise ValueError("alive")


@app.job(executor="process")
def held(job: JobRun) -> None:
    job.log("three of seven")
    job.progress(3, 7)
    while True:
        job.heartbeat()
        time.sleep(0.01)

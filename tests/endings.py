"""An app whose jobs end in every way that there is; worker processes import it."""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import klerk
from klerk import App, Args, Batch, Cancel, Discard, JobRun, Model, Retry, Snooze

HOUR = timedelta(hours=1)


class Note(Model):
    number: int


app = App("endings")
app.allow.read()(lambda a: True)
notes = app.machine(Note)
(kept,) = notes.states("kept", final=("kept",))


@notes.create(into=kept)
def write(a: Args, number: int) -> Note:
    return Note(number=number)


@app.job()
def follow_up(job: JobRun) -> None: ...


def without_return(job: JobRun) -> object:
    job.complete_with(write(1))
    return None


def other_than_that(job: JobRun) -> object:
    job.complete_with(write(1))
    return 5


def only_the_last(job: JobRun) -> object:
    job.complete_with(write(1))
    return job.complete_with(write(2))


def several(count: int) -> list[object]:
    return [write(number) for number in range(count)]


async def later() -> None: ...


UNDONE: dict[str, tuple[Callable[[JobRun], object], str, str]] = {
    "no_return": (without_return, "called complete_with and returned nothing", "return job.complete_with("),
    "another": (other_than_that, "called complete_with and returned a int", "return job.complete_with("),
    "twice": (only_the_last, "called complete_with more than once", "once in an attempt"),
    "list": (lambda job: [write(1)], "a list with a Command", "return job.complete_with("),
    "many": (lambda job: several(1_000), "a list with a Command", "return job.complete_with("),
    "tuple": (lambda job: (5, write(1)), "a tuple with a Command", "return job.complete_with("),
    "dict": (lambda job: {"note": write(1)}, "a dict with a Command", "return job.complete_with("),
    "requests": (lambda job: [follow_up()], "a list with a JobRequest", "job.schedule("),
    "batch": (
        lambda job: (Batch([follow_up()], ended=follow_up()),),
        "a tuple with a Batch",
        "job.schedule(",
    ),
    "beside": (lambda job: (job.complete_with(write(1)), 5), "so commands would be lost", "return job."),
    "snooze_beside": (lambda job: (Snooze(HOUR), "soon"), "a tuple with a Snooze", "return Snooze(...)"),
    "class_beside": (lambda job: (Discard, "bad"), "a tuple with the class Discard", "return Discard(...)"),
    "snooze": (lambda job: Snooze, "the class Snooze", "return Snooze(...)"),
    "retry": (lambda job: Retry, "the class Retry", "return Retry(...)"),
    "cancel": (lambda job: Cancel, "the class Cancel", "return Cancel(...)"),
    "discard": (lambda job: Discard, "the class Discard", "return Discard(...)"),
    "error_class": (lambda job: ValueError, "the class ValueError", "Raise it"),
    "error": (lambda job: ValueError("no"), "a ValueError", "Raise it"),
    "event": (lambda job: write, "a CreateEvent", "return job.complete_with("),
    "job": (lambda job: follow_up, "a Job", "job.schedule("),
    "command_class": (lambda job: klerk.commands.Command, "the class Command", "return job.complete_with("),
    "uncalled": (lambda job: later, "a function", "return job.complete_with("),
    "method": (lambda job: job.complete_with, "a method", "return job.complete_with("),
    "generator": (lambda job: (job.handle(write(n)) for n in (1,)), "a generator", "complete_with("),
    "coroutine": (lambda job: later(), "a coroutine", "await"),
}

DONE: dict[str, Callable[[JobRun], object]] = {
    "command": lambda job: job.complete_with(write(1)),
    "nothing": lambda job: None,
    "numbers": lambda job: [1, "2", None, (3,)],
    "far": lambda job: [*range(1_000_000), write(1)],
    "errors": lambda job: [ValueError("one of many failed")],
    "some_class": lambda job: Note,
    "snoozed": lambda job: (job.complete_with(write(1)), Snooze(HOUR))[1],
}


@app.job(max_attempts=1)
def end(job: JobRun, how: str) -> Any:
    return UNDONE[how][0](job) if how in UNDONE else DONE[how](job)


@app.job(max_attempts=1)
async def end_soon(job: JobRun, how: str) -> Any:
    return UNDONE[how][0](job)


@app.job(max_attempts=1, executor="process")
def end_afar(job: JobRun, how: str) -> Any:
    return UNDONE[how][0](job) if how in UNDONE else DONE[how](job)


@app.job(max_attempts=1, keep_result=HOUR)
def end_kept(job: JobRun, how: str) -> Any:
    return UNDONE[how][0](job)


@app.job(max_attempts=1, executor="process", timeout=timedelta(seconds=0.5))
def hang(job: JobRun) -> None:
    while True:
        time.sleep(0.1)


@app.job(max_crashes=1, executor="process")
def kill_itself(job: JobRun) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

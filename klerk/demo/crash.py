"""Kills the replay hard, and shows what is left: nothing acknowledged is lost, nothing is done twice.

The proof needs two witnesses outside the store: the numbers of acknowledged events, which the killed process
wrote to a pipe, and the mailbox, a file which got a line each time that a job ran (see `design.Mailbox`).
"""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import klerk
from klerk.demo import clocks, design
from klerk.demo.data import Data
from klerk.demo.design import PUBLIC, Mailbox
from klerk.demo.expectation import Contents, differences, done, expected_messages, read_contents
from klerk.demo.stream import stream_of
from klerk.demo.worker import NUMBER_BYTES

# Problems that are reported one by one.
PROBLEMS_MAX = 10

_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the worker: how many events it acknowledged, and whether it was killed."""

    acknowledged: int
    was_killed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is in the store after a run; `problems` is empty when all is as it must be."""

    done: int
    jobs: int
    completed: int
    problems: tuple[str, ...]


class Ordeal:
    """A store, the worker that fills it, and what is known of both from outside.

    Parameters:
        store: where the store is, or will be; it and the file beside it do not exist yet.
        data: what the worker replays.
        days: how many days of its file that is; all when None.
    """

    def __init__(self, store: Path, data: Data, *, days: int | None = None) -> None:
        self.store = store
        self.data = data
        self.stream = stream_of(data)
        self.mailbox = store.with_name(store.name + ".mailbox")
        self._days = days
        # Events that were in the store when it was last looked into, and those that were ever acknowledged.
        self.done = 0
        self._acknowledged = np.zeros(len(self.stream), dtype=np.bool_)
        # Jobs that had completed when the store was last looked into, and how often each job had run by then.
        self._completed: frozenset[str] = frozenset()
        self._runs: Counter[str] = Counter()
        self._problems: list[str] = []

    def run(
        self,
        *,
        kill_after: int | None = None,
        delay_seconds: float = 0.0,
        progress: Callable[[int], object] = lambda _: None,
    ) -> Run:
        """Let the worker go on; kill it some time after it acknowledged so many more events, if told to.

        `progress` is called with the number of events acknowledged since the last call.

        Raises:
            RuntimeError: the worker ended by itself, and not well.
        """
        command = [sys.executable, "-m", "klerk.demo.worker"]
        arguments = [str(self.store), str(self.data.source), str(self._days or 0)]
        environment = {**os.environ, Mailbox.VARIABLE: str(self.mailbox)}
        with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, env=environment) as worker:
            try:
                acknowledged = self._follow(worker, progress, kill_after)
                if kill_after is not None:
                    time.sleep(delay_seconds)
                    worker.kill()
                    acknowledged += self._follow(worker, progress)
            except BaseException:
                worker.kill()
                raise
        if worker.returncode and kill_after is None:
            raise RuntimeError(f"the worker ended with exit code {worker.returncode}")
        return Run(acknowledged=acknowledged, was_killed=worker.returncode != 0)

    def verify(self) -> Findings:
        """Open the store as it was left, without running its jobs, and compare it with what must be in it."""
        context = klerk.Context(PUBLIC, now=clocks.moment(int(self.stream.minute[-1])))
        with design.app.open(self.store, job_threads=0) as k:
            contents = read_contents(k, self.data, context)
        runs = Counter(self._read_mailbox())
        events = done(contents, self.stream)
        completed = expected_messages(self.data, self.stream, events) - contents.to_tell
        problems = [*self._problems, *self._problems_with(contents, events, completed, runs)]
        self.done, self._completed, self._runs = events, completed, runs
        self._problems.clear()
        return Findings(
            done=events,
            jobs=contents.jobs,
            completed=len(completed),
            problems=tuple(problems[:PROBLEMS_MAX]),
        )

    def _follow(
        self, worker: subprocess.Popen[bytes], progress: Callable[[int], object], limit: int | None = None
    ) -> int:
        """Read acknowledgements to the end, or until there were so many, and return how many there were."""
        assert worker.stdout is not None, "the worker was started with a pipe"
        count, rest = 0, b""
        while limit is None or count < limit:
            read = os.read(worker.stdout.fileno(), _READ_BYTES)
            if not read:
                break
            # Each number was written at once, but a read may end within one.
            whole = len(rest + read) // NUMBER_BYTES * NUMBER_BYTES
            numbers, rest = np.frombuffer((rest + read)[:whole], dtype="<u4"), (rest + read)[whole:]
            self._note(numbers)
            count += len(numbers)
            progress(len(numbers))
        return count

    def _note(self, numbers: NDArray[np.uint32]) -> None:
        """Note acknowledged events. Groups are acknowledged side by side, so they come in no strict order."""
        for number in numbers[self._acknowledged[numbers] | (numbers < self.done)]:
            self._problems.append(f"event {number} was done before, and was acknowledged again")
        self._acknowledged[numbers] = True

    def _problems_with(
        self, contents: Contents, events: int, completed: frozenset[str], runs: Counter[str]
    ) -> Iterator[str]:
        """Yield what is not as it must be in a store that holds so many events and completed these jobs."""
        if events < self.done:
            yield f"event {events} was in the store and is lost"
        for number in np.flatnonzero(self._acknowledged[events:])[:1]:
            yield f"event {events + number} was acknowledged, and event {events} is lost"
        yield from differences(contents, self.data, self.stream, events)
        for message in completed - contents.told:
            yield f"a job completed without a notice: {message}"
        for message in contents.told - runs.keys():
            yield f"there is a notice, but no job ran: {message}"
        for message in self._completed - completed:
            yield f"a job had completed and is to run again: {message}"
        for message in self._completed:
            if runs[message] != self._runs[message]:
                yield f"a job had completed and ran again: {message}"

    def _read_mailbox(self) -> list[str]:
        return self.mailbox.read_text(encoding="utf-8").splitlines() if self.mailbox.exists() else []

    @contextmanager
    def mail(self) -> Iterator[None]:
        """Let jobs that run in this process write to the same mailbox."""
        os.environ[Mailbox.VARIABLE] = str(self.mailbox)
        try:
            yield
        finally:
            del os.environ[Mailbox.VARIABLE]

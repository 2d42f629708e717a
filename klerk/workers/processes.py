"""Runs jobs in processes of their own, which are started when they are first needed and used again.

They are started anew ("spawn") and never forked: a fork would copy the open store and none of the threads.
"""

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from time import monotonic
from typing import Any

from klerk import limits
from klerk.errors import JobCrashed, JobError
from klerk.workers import child
from klerk.workers.contract import J
from klerk.workers.threads import ThreadExecutor

_CONTEXT = get_context("spawn")


class Spawned(SpawnProcess):
    """A process that only the one that started it waits for.

    At the end of a process, `multiprocessing` waits for its children, and in a forked one it takes those of
    the process that this was forked from for its own.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._started_by = os.getpid()

    def join(self, timeout: float | None = None) -> None:
        if os.getpid() == self._started_by:
            super().join(timeout)


class WorkerProcess:
    """A process that runs one task at a time. Its owner calls it from one thread, except for `cancel` and
    `kill`.

    Parameters:
        number: of the process, for its name.

    Attributes:
        is_usable: it can be given a task.
    """

    def __init__(self, number: int) -> None:
        self._name = f"{child.WORKER_NAME}-{number}"
        self._sending = threading.Lock()
        self._process: Spawned | None = None
        self._connection: Connection[Any, Any] | None = None
        self._last_resort: threading.Timer | None = None
        self._is_killed = False
        self.is_usable = True

    @property
    def pid(self) -> int | None:
        """The id of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    def begin(self, module: str, name: str, payload: bytes) -> None:
        """Give it a task, see `child.Task`; the process is started if it was not yet.

        Raises:
            JobError: it cannot be started.
            JobCrashed: it was killed meanwhile.
        """
        if self._connection is None:
            self._connection = self._start()
        if self._is_killed:
            raise JobCrashed(f"the worker process was ended before it began: {self._fate()}")
        self._send(child.TASK, pickle.dumps((module, name, payload)))

    def _start(self) -> "Connection[Any, Any]":
        mine, its = _CONTEXT.Pipe()
        process = Spawned(target=child.main, args=(its,), name=self._name)
        try:
            with _signals_blocked():
                process.start()
        except Exception as error:
            self.is_usable = False
            mine.close()
            raise JobError(f"no worker process can be started: {error}") from error
        finally:
            its.close()
        self._process = process
        try:
            if mine.poll(limits.WORKER_START_S) and mine.recv_bytes() == child.READY:
                return mine
        except (EOFError, OSError):
            pass
        mine.close()
        self.is_usable = False
        raise JobError(
            f"a worker process did not come so far that it could run a job: {self._fate()}",
            hint="Its own words are on stderr. It imports the main script, which must open the app only "
            'under `if __name__ == "__main__":`.',
        )

    def receive(self) -> tuple[bytes, bytes, bytes]:
        """Return what it says next: kind, number and payload; see `child`.

        Raises:
            JobCrashed: it has died.
        """
        assert self._connection is not None
        try:
            message = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            self.is_usable = False
            raise JobCrashed(f"the worker process died: {self._fate()}") from error
        if message[:1] != child.ASK:
            return message[:1], b"", message[1:]
        end = 1 + child.NUMBER_BYTES
        return message[:1], message[1:end], message[end:]

    def reply(self, number: bytes, payload: bytes) -> None:
        """Answer its question. One that has died meanwhile is found out by `receive`."""
        self._send(child.REPLY, number + payload)

    def _send(self, kind: bytes, payload: bytes) -> None:
        assert self._connection is not None
        with self._sending:
            try:
                self._connection.send_bytes(kind + payload)
            except OSError:
                self.is_usable = False

    def _notice(self, kind: bytes) -> None:
        """Send a message from another thread, unless the pipe is stuck."""
        if self._connection is None or not self._sending.acquire(timeout=limits.WORKER_NOTICE_S):
            return
        try:
            self._connection.send_bytes(kind)
        except OSError:
            self.is_usable = False
        finally:
            self._sending.release()

    def cancel(self) -> None:
        """Tell it that its task shall find an end."""
        self._notice(child.CANCEL)

    def kill(self) -> None:
        """End it: its task may clean up, as at a SIGTERM, until SIGKILL comes a short while later."""
        self._is_killed, self.is_usable = True, False
        if self._process is None or self._last_resort is not None:
            return
        self._notice(child.STOP)
        self._last_resort = threading.Timer(limits.WORKER_KILL_GRACE_S, self._process.kill)
        self._last_resort.daemon = True
        self._last_resort.start()

    def kill_at_once(self) -> None:
        """End it by SIGKILL."""
        self._is_killed, self.is_usable = True, False
        if self._process is not None:
            self._process.kill()

    def _fate(self) -> str:
        """Wait for its end, bring that about if need be, and return how it came."""
        process = self._process
        assert process is not None
        process.join(limits.WORKER_KILL_GRACE_S)
        if process.is_alive():
            process.kill()
            process.join(limits.WORKER_KILL_GRACE_S)
        code = process.exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    def hang_up(self) -> None:
        """Let it end."""
        self.is_usable = False
        if self._connection is not None:
            self._connection.close()

    def close(self) -> None:
        """Let it end, and see to it that it does."""
        self.hang_up()
        if self._process is not None:
            self._fate()
        if self._last_resort is not None:
            self._last_resort.cancel()
            self._last_resort.join()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keep signals from a process that is started meanwhile, until it can heed them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Whichever of them is started first: it unblocks these signals for the thread that starts it.
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ProcessExecutor(ThreadExecutor[J]):
    """Threads that each take a job, let a worker process run it, and take the next.

    Parameters:
        count: of processes, as long as there is so much to do.
        take: returns a job that is ready, or None.
        has_more: returns whether `take` may return another one.
        run: runs it in a worker process that it is given, and returns when it has ended.
    """

    def __init__(
        self,
        count: int,
        take: Callable[[], J | None],
        has_more: Callable[[], bool],
        run: Callable[[J, WorkerProcess], None],
    ) -> None:
        super().__init__(count, take, has_more, self._run_in_process, "klerk-process")
        self._run_in = run
        self._using = threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._busy: dict[J, WorkerProcess] = {}
        self._processes = 0

    def _run_in_process(self, job: J) -> None:
        with self._using:
            worker = self._idle.pop() if self._idle else self._new_worker()
            self._busy[job] = worker
        try:
            self._run_in(job, worker)
        finally:
            with self._using:
                del self._busy[job]
                keep = (
                    worker.is_usable and not self._stopping and len(self._idle) + len(self._busy) < self.count
                )
                if keep:
                    self._idle.append(worker)
            if not keep:
                worker.close()

    def _new_worker(self) -> WorkerProcess:
        self._processes += 1
        return WorkerProcess(self._processes)

    def resize(self, count: int) -> None:
        super().resize(count)
        with self._using:
            room = max(0, count - len(self._busy))
            surplus, self._idle = self._idle[room:], self._idle[:room]
        for worker in surplus:
            worker.close()

    def cancel(self, job: J) -> None:
        super().cancel(job)
        with self._using:
            # Under the lock, so that it is not the next job of this process that hears of it.
            worker = self._busy.get(job)
            if worker is not None:
                worker.cancel()

    def kill(self, job: J) -> bool:
        with self._using:
            worker = self._busy.get(job)
            if worker is not None:
                worker.kill()
        return worker is not None

    def end(self) -> None:
        with self._using:
            busy, idle, self._idle = list(self._busy.values()), self._idle, []
        for worker in busy:
            worker.kill_at_once()
        for worker in idle:
            worker.hang_up()
        for worker in idle:
            worker.close()
        deadline = monotonic() + limits.CLOSE_MARGIN_S
        for thread in self._threads:
            # Its process is dead, so it has nothing to wait for.
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(0.0, deadline - monotonic()))

"""What runs in a worker process: functions that the process that started it names, one after the other.

The two talk over one pipe, in messages of one letter and what belongs to it:

- to the child: `TASK` (what to run), `REPLY` (to its question of that number), `CANCEL` (it shall find an
  end), `STOP` (it ends now: SIGTERM is raised where the task runs);
- from the child: `READY`, `ASK` (a question, with a number), `TELL` (it needs no answer), `ENDED` (the task).

A child whose pipe is closed ends at once: nobody is there any more. SIGINT and SIGTERM come to the whole
group of processes from a terminal or a service manager; what they mean is for the parent to say, so a SIGTERM
that comes without `STOP` means nothing.
"""

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from multiprocessing import current_process
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Final

READY: Final = b"r"
TASK: Final = b"t"
REPLY: Final = b"a"
CANCEL: Final = b"c"
STOP: Final = b"s"
ASK: Final = b"q"
TELL: Final = b"n"
ENDED: Final = b"e"

NUMBER_BYTES: Final = 8
WORKER_NAME: Final = "klerk-worker"

Task = tuple[str, str, bytes]
"""The module and name of a function ``(payload, channel) -> bytes``, which never raises, and its payload."""


class Channel:
    """A worker process's end of the pipe.

    Attributes:
        tasks: to be run; None: there will be no more.
        is_cancelled: the task at hand shall find an end.
        is_stopping: this process shall end.
    """

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._asking = threading.Lock()
        self._asked = 0
        self._replies: SimpleQueue[tuple[int, bytes]] = SimpleQueue()
        self.tasks: SimpleQueue[bytes | None] = SimpleQueue()
        self.is_busy = self.is_cancelled = self.is_stopping = False

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Send a message that has no number."""
        with self._sending:
            self._connection.send_bytes(kind + payload)

    def ask(self, payload: bytes) -> bytes:
        """Ask the parent and return its answer; any thread may, and one after the other does."""
        with self._asking:
            self._asked += 1
            number = self._asked
            self.send(ASK, number.to_bytes(NUMBER_BYTES, "big") + payload)
            while True:
                # An answer to an earlier question came too late: its asker was interrupted.
                answered, reply = self._replies.get()
                if answered == number:
                    return reply

    def receive(self) -> None:
        """Take what comes, in a thread of its own, for as long as the parent lives."""
        try:
            while True:
                message = self._connection.recv_bytes()
                kind, payload = message[:1], message[1:]
                if kind == REPLY:
                    number = int.from_bytes(payload[:NUMBER_BYTES], "big")
                    self._replies.put((number, payload[NUMBER_BYTES:]))
                elif kind == TASK:
                    self.is_busy, self.is_cancelled = True, False
                    self.tasks.put(payload)
                elif kind == CANCEL:
                    self.is_cancelled = True
                elif kind == STOP:
                    self.is_stopping = True
                    _interrupt_main_thread()
        except (EOFError, OSError):
            if self.is_busy:
                # What the task would do now is lost: it is run again elsewhere.
                os._exit(1)
            self.tasks.put(None)


def main(connection: "Connection[Any, Any]") -> None:
    """Run tasks until the parent closes the pipe."""
    channel = Channel(connection)
    _heed_signals(channel)
    if hasattr(os, "register_at_fork"):
        # What a task forks has no part in this: the parent would not see the end of this process.
        os.register_at_fork(after_in_child=connection.close)
    threading.Thread(target=channel.receive, name="klerk-channel", daemon=True).start()
    channel.send(READY)
    while (task := channel.tasks.get()) is not None:
        module, name, payload = pickle.loads(task)
        ended: bytes = getattr(import_module(module), name)(payload, channel)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        channel.is_busy = False
        channel.send(ENDED, ended)


def _interrupt_main_thread() -> None:
    """Raise SIGTERM in the thread that runs the task, in whatever it waits for."""
    if hasattr(signal, "pthread_kill"):
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)


def _heed_signals(channel: Channel) -> None:
    def end(number: int, frame: object) -> None:
        if channel.is_stopping:
            raise SystemExit(128 + number)

    def go_on(number: int, frame: object) -> None:
        """Leave it to the parent. A handler: what is ignored is ignored by programs started here, too."""

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, go_on)
    if hasattr(signal, "pthread_sigmask"):
        # Blocked by the parent, until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


_has_prepared = threading.Event()


def is_preparing() -> bool:
    """Return whether this is a worker process that imports what it is to run."""
    return current_process().name.startswith(WORKER_NAME) and not _has_prepared.is_set()


def prepared(find: Callable[[], Any]) -> Any:
    """Return what a function finds by importing it; while it does, `is_preparing`."""
    _has_prepared.clear()
    found = find()
    _has_prepared.set()
    return found

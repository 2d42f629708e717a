"""Runs plain functions on threads."""

import logging
import threading
from collections.abc import Callable

from klerk import limits
from klerk.log_events import about
from klerk.workers.contract import Executor, J

LOG = logging.getLogger("klerk")


class Worker(threading.Thread):
    """A thread that runs one job after the other.

    Attributes:
        job: that it runs now.
        is_idle: it neither runs a job nor looks for one.
    """

    def __init__(self, work: Callable[["Worker"], None], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.job: object = None
        self.is_idle = True

    def run(self) -> None:
        self._work(self)


class ThreadExecutor(Executor[J]):
    """Threads that each take a job, run it, and take the next. None of them can be ended by force.

    Parameters:
        count: of threads.
        take: returns a job that is ready, or None.
        has_more: returns whether `take` may return another one.
        run: runs it.
        name: of the threads, each with a number behind it.
    """

    def __init__(
        self,
        count: int,
        take: Callable[[], J | None],
        has_more: Callable[[], bool],
        run: Callable[[J], None],
        name: str = "klerk-job",
    ) -> None:
        super().__init__(count)
        self._take = take
        self._has_more = has_more
        self._run = run
        self._name = name
        self._ready = threading.Condition()
        self._signals = 0
        self._sleeping = 0
        self._stopping = False
        self._started = False
        self._number = 0
        self._surplus = 0
        self._threads: list[Worker] = []

    def start(self) -> None:
        with self._ready:
            self._started = True
        self.resize(self.count)

    def resize(self, count: int) -> None:
        with self._ready:
            self.count = count
            if not self._started or self._stopping:
                return
            self._surplus = max(0, len(self._threads) - count)
            new = [self._new_thread() for _ in range(count - len(self._threads))]
            self._threads.extend(new)
            self._ready.notify_all()
        for thread in new:
            thread.start()

    def _new_thread(self) -> Worker:
        self._number += 1
        return Worker(self._work, f"{self._name}-{self._number}")

    def wake(self) -> None:
        # One at a time: each that finds a job wakes the next, if there is another job.
        with self._ready:
            self._signals += 1
            if self._sleeping:
                self._ready.notify()

    def _work(self, worker: Worker) -> None:
        seen = -1
        while not self._stopping:
            with self._ready:
                while self._signals == seen and self._surplus == 0 and not self._stopping:
                    self._sleeping += 1
                    self._ready.wait()
                    self._sleeping -= 1
                seen = self._signals
                if self._surplus > 0 and not self._stopping:
                    self._surplus -= 1
                    self._threads.remove(worker)
                    # What it leaves behind is for those that stay.
                    self._signals += 1
                    self._ready.notify_all()
                    return
            self._run_what_is_ready(worker)

    def _run_what_is_ready(self, worker: Worker) -> None:
        worker.is_idle = False
        while not self._stopping and self._surplus == 0 and (job := self._take()) is not None:
            worker.job = job
            if self._sleeping and self._has_more():
                self.wake()
            try:
                self._perform(job)
            except BaseException:
                # Whatever it is, SystemExit too: this thread works for others.
                LOG.exception("a job could not be run", extra=about("job_lost"))
            worker.job = None
        worker.is_idle = True
        if self._stopping:
            self.when_ended()

    def _perform(self, job: J) -> None:
        self._run(job)

    def running(self) -> tuple[J, ...]:
        with self._ready:
            jobs = [thread.job for thread in self._threads]
        return tuple(job for job in jobs if job is not None)  # type: ignore[misc]  # what `_take` gave

    def is_idle(self) -> bool:
        with self._ready:
            return all(thread.is_idle for thread in self._threads)

    def cancel(self, job: J) -> None:
        if job in self.running():
            job.cancel()

    def kill(self, job: J) -> bool:
        return False

    def runs_here(self) -> bool:
        return threading.current_thread() in self._threads

    def job_here(self) -> J | None:
        here = threading.current_thread()
        own = [thread for thread in self._threads if thread is here]
        return own[0].job if own else None  # type: ignore[return-value]  # what `_take` gave

    def begin_stopping(self) -> None:
        with self._ready:
            self._stopping = True
            self._ready.notify_all()

    def end(self) -> None:
        for thread in self._threads:
            # One whose job was left to itself ends with the process.
            if thread.is_idle and thread.is_alive() and thread is not threading.current_thread():
                thread.join(limits.CLOSE_MARGIN_S)

"""Where threads and tasks wait: the read-write lock, the commit queue and what a submitter holds meanwhile.

Everything here runs under the interpreter lock and gives it up only in `Gate.wait`. Between two such points a
sequence of statements is atomic, which is what makes every counter below safe without further locks.
"""

from asyncio import current_task
from asyncio.events import _get_running_loop
from collections import deque
import logging
from time import monotonic

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    NOWAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_get_thread_ident,
    PyThread_release_lock,
    PyThread_type_lock,
)

from klerk import limits
from klerk.errors import Closed, NotPure, QueueFull, ReadLockHeld
from klerk.log_events import about

cdef extern from "pythread.h":
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int intr) nogil

cdef object LOG = logging.getLogger("klerk")

cdef double WAIT_MAX_S = limits.WAIT_MAX_S


cdef double patience(object timeout) except? -2:
    """Return a user's timeout in seconds as `Gate.wait` takes it: -1 for None, else at least 0."""
    cdef double seconds
    if timeout is None:
        return -1
    seconds = timeout
    return seconds if seconds > 0 else 0


# --- waiting ------------------------------------------------------------------------------------------


cdef class Gate:
    """Something that one thread waits for and another opens, once."""

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError()
        PyThread_acquire_lock(self.lock, NOWAIT_LOCK)

    def __dealloc__(self):
        if self.lock is not NULL:
            if not self.is_open:
                PyThread_release_lock(self.lock)
            PyThread_free_lock(self.lock)

    cdef void open(self) noexcept:
        if not self.is_open:
            self.is_open = True
            PyThread_release_lock(self.lock)

    cdef bint wait(self, double timeout_s) except -1:
        """Wait until open, at most `timeout_s` seconds (negative: for ever), handling signals."""
        cdef long long left_us = -1
        cdef double deadline = 0
        cdef int status
        if timeout_s >= 0:
            deadline = monotonic() + timeout_s
        while not self.is_open:
            if timeout_s >= 0:
                left_us = <long long>(max(0.0, min(deadline - monotonic(), WAIT_MAX_S)) * 1e6)
            with nogil:
                status = PyThread_acquire_lock_timed(self.lock, left_us, 1)
            if status == 1:
                PyThread_release_lock(self.lock)
                return True
            if status == 0:
                return self.is_open
            PyErr_CheckSignals()
        return True


cdef object running_task():
    """Return the asyncio task that runs in this thread, or None."""
    loop = _get_running_loop()
    return None if loop is None else current_task(loop)


# --- the read-write lock ------------------------------------------------------------------------------


cdef class ReadHold:
    """One holding of the read lock, used with ``with`` (threads) or ``async with`` (tasks)."""

    def __init__(self, ReadWriteLock lock not None):
        self.lock = lock

    def __enter__(self):
        self.claim()
        if not self.lock.must_wait(self, True):
            self.lock.grant_read(self)
            return self
        self.wait_for_turn()
        return self

    cdef int wait_for_turn(self) except -1:
        """Wait until the lock is granted, in a thread."""
        cdef double begun_s = monotonic()
        cdef Waiter waiter = Waiter.__new__(Waiter)
        waiter.hold = self
        waiter.gate = Gate()
        # Making these can hand the interpreter lock over, so whether to wait is asked once more.
        if not self.lock.must_wait(self, True):
            self.lock.grant_read(self)
            return 0
        self.lock.waiting.append(waiter)
        try:
            waiter.gate.wait(-1)
        except BaseException:
            self.lock.withdraw(waiter)
            raise
        finally:
            self.lock.read_waited(begun_s)
        return 0

    def __exit__(self, *_):
        if self.held:
            self.lock.release_read(self)

    @property
    def is_held(self):
        """Whether the lock is held through this."""
        return self.held

    async def __aenter__(self):
        cdef Waiter waiter
        cdef double begun_s
        self.claim()
        if not self.lock.must_wait(self, False):
            self.lock.grant_read(self)
            return self
        begun_s = monotonic()
        waiter = Waiter.__new__(Waiter)
        waiter.hold = self
        waiter.loop = _get_running_loop()
        waiter.future = waiter.loop.create_future()
        if not self.lock.must_wait(self, False):
            self.lock.grant_read(self)
            return self
        self.lock.waiting.append(waiter)
        try:
            await waiter.future
        except BaseException:
            self.lock.withdraw(waiter)
            raise
        finally:
            self.lock.read_waited(begun_s)
        return self

    async def __aexit__(self, *_):
        if self.held:
            self.lock.release_read(self)

    cdef int claim(self) except -1:
        """Note whose hold this is: the thread that enters, and the asyncio task when one runs there."""
        if self.lock is None:
            raise RuntimeError("a reader is made by read(context)")
        if self.held or self.entering:
            raise RuntimeError("this reader is in use: open another one with read(context)")
        self.thread = PyThread_get_thread_ident()
        if self.thread == self.lock.processing_thread:
            raise NotPure(
                "a function that Klerk calls while it processes a command tried to read what is published",
                hint="Read with a.read, which sees what this transaction has changed, too.",
            )
        self.entering = True
        self.task = running_task()
        return 0


cdef class SharedHold(ReadHold):
    """A hold, used with ``with``, of a thread that works for a task which holds the lock.

    It is made in the task. The thread is let in at once, also past a writer that waits, and keeps the lock
    when the task lets go of it meanwhile. When the task has let go of it before, the thread holds nothing.

    Parameters:
        sharer: the task.
    """

    def __init__(self, ReadWriteLock lock not None, sharer):
        ReadHold.__init__(self, lock)
        self.sharer = sharer
        self.sharing_thread = PyThread_get_thread_ident()

    def __enter__(self):
        self.claim()
        self.entering = False
        if self.sharer in self.lock.tasks or self.lock.held_around_loop(self.sharing_thread):
            self.lock.grant_read(self)
        return self


cdef class Waiter:
    """A reader (`hold`) or a writer (no hold) in the lock's queue, woken through a gate or a loop."""

    cdef int wake(self) except -1:
        if self.gate is not None:
            self.gate.open()
            return 0
        try:
            self.loop.call_soon_threadsafe(_set_none, self.future)
        except RuntimeError:
            # The loop was closed while its task waited: nobody is left to give the hold back.
            self.hold.lock.release_read(self.hold)
        return 0


def _set_none(future):
    if not future.done():
        future.set_result(None)


cdef class ReadWriteLock:
    """Many readers or one writer; whoever waits is served in the order of arrival.

    Neither side starves: a reader that comes after a waiting writer queues behind it, and is let in before
    the next writer. Who holds the lock may enter again at once, a thread as well as a task, because it would
    otherwise wait for a writer that waits for it. Owners are the thread and, where asyncio runs, the task.

    Attributes:
        read_waits, write_waits: how often a reader, and a writer, had to wait; counted when the wait is over.
        read_waited_s, write_waited_s: for how long, in seconds, all of them together.
    """

    def __init__(self):
        self.waiting = deque()
        self.threads = {}
        self.tasks = {}
        self.holds_of_tasks = {}

    def read(self):
        """Return a hold for ``with`` or ``async with``."""
        return ReadHold(self)

    def write(self):
        """Return a context manager that holds the lock exclusively."""
        return WriteHold(self)

    def begin_processing(self):
        """Refuse reads to this thread until `end_processing`: functions of the application run in it."""
        self.processing_thread = PyThread_get_thread_ident()

    def end_processing(self):
        """Let the thread that processes read again."""
        self.processing_thread = 0

    cdef bint must_wait(self, ReadHold hold, bint blocking) except -1:
        if self.writing:
            return True
        if not self.waiting:
            return False
        if hold.task is not None and hold.task in self.tasks:
            return False
        # A blocking wait stops the whole thread, with every task that runs on it.
        if blocking or hold.task is None:
            return not self.thread_holds(hold.thread)
        return not self.held_around_loop(hold.thread)

    cdef int grant_read(self, ReadHold hold) except -1:
        if self.first_holds == 0 or self.first_thread == hold.thread:
            self.first_thread = hold.thread
            self.first_holds += 1
        else:
            self.threads[hold.thread] = self.threads.get(hold.thread, 0) + 1
        if hold.task is not None:
            self.tasks[hold.task] = self.tasks.get(hold.task, 0) + 1
            self.holds_of_tasks[hold.thread] = self.holds_of_tasks.get(hold.thread, 0) + 1
        hold.held = True
        hold.entering = False
        self.readers += 1
        return 0

    def forget_readers(self):
        """End every hold, at the end of the interpreter, when nobody is left to do it."""
        self.readers = self.first_holds = 0
        self.threads.clear()
        self.tasks.clear()
        self.holds_of_tasks.clear()
        self.pass_on()

    cdef int release_read(self, ReadHold hold) except -1:
        hold.held = False
        if self.readers == 0:
            return 0
        self.readers -= 1
        if self.first_holds and self.first_thread == hold.thread:
            self.first_holds -= 1
        else:
            _count_down(self.threads, hold.thread)
        if hold.task is not None:
            _count_down(self.tasks, hold.task)
            _count_down(self.holds_of_tasks, hold.thread)
            hold.task = None
        if self.readers == 0 and self.waiting:
            self.pass_on()
        return 0

    cdef bint thread_holds(self, long thread) except -1:
        # One thread that reads alone is the common case, and needs no dictionary.
        return (self.first_holds and self.first_thread == thread) or (self.threads and thread in self.threads)

    cdef bint held_around_loop(self, long thread) except -1:
        """Return whether a thread holds the lock outside of its tasks: ``with`` around ``asyncio.run``."""
        if not self.thread_holds(thread):
            return False
        holds = self.threads.get(thread, 0)
        if self.first_thread == thread:
            holds += self.first_holds
        return holds > self.holds_of_tasks.get(thread, 0)

    cdef int pass_on(self) except -1:
        """Let in whoever is first in the queue: one writer, or every reader up to the next writer."""
        cdef Waiter waiter
        while self.waiting and not self.writing:
            waiter = self.waiting[0]
            if waiter.hold is None:
                if self.readers:
                    return 0
                self.writing = True
            else:
                self.grant_read(waiter.hold)
            self.waiting.popleft()
            waiter.granted = True
            waiter.wake()
        return 0

    cdef int read_waited(self, double begun_s) except -1:
        """Count the wait of a reader that is over."""
        self.read_waits += 1
        self.read_waited_s += monotonic() - begun_s
        return 0

    def withdraw(self, Waiter waiter not None):
        """Take back a request whose owner was interrupted or cancelled, granted or not."""
        if not waiter.granted:
            if waiter.hold is not None:
                waiter.hold.entering = False
            self.waiting.remove(waiter)
            self.pass_on()
        elif waiter.hold is None:
            self.release_write()
        elif waiter.hold.held:
            self.release_read(waiter.hold)

    def acquire_write(self, double warn_after_s=-1, warn=None):
        """Wait for exclusive use.

        Parameters:
            warn_after_s: seconds after which `warn` is called, once, while the wait goes on; negative: never.
            warn: called with this lock.
        """
        if self.thread_holds(PyThread_get_thread_ident()):
            raise RuntimeError("this thread holds the read lock: it would wait for itself")
        if self.readers or self.writing or self.waiting:
            self.wait_to_write(warn_after_s, warn)
        else:
            self.writing = True

    cdef int wait_to_write(self, double warn_after_s, object warn) except -1:
        """Wait for exclusive use behind whoever came before."""
        cdef double begun_s = monotonic()
        cdef Waiter waiter = Waiter.__new__(Waiter)
        waiter.gate = Gate()
        # Making these can hand the interpreter lock over, and everybody may be gone by now.
        if not self.readers and not self.writing and not self.waiting:
            self.writing = True
            return 0
        self.waiting.append(waiter)
        try:
            if not waiter.gate.wait(warn_after_s):
                warn(self)
                waiter.gate.wait(-1)
        except BaseException:
            self.withdraw(waiter)
            raise
        finally:
            self.write_waits += 1
            self.write_waited_s += monotonic() - begun_s
        return 0

    def release_write(self):
        """End exclusive use and let in whoever waits."""
        if not self.writing:
            raise RuntimeError("the lock is not held for writing")
        self.writing = False
        self.pass_on()

    cpdef bint held_here(self, bint blocking) except -1:
        """Return whether whoever asks holds the read lock, so that waiting for a writer would never end.

        Parameters:
            blocking: the caller would stop its whole thread, so a hold of any task on it counts.
        """
        if self.readers == 0:
            return False
        thread = PyThread_get_thread_ident()
        task = None if blocking else running_task()
        if task is not None:
            return task in self.tasks or self.held_around_loop(thread)
        return self.thread_holds(thread)

    def holders(self):
        """Return the thread identifiers and tasks that hold the lock for reading, for messages."""
        threads = set(self.threads)
        if self.first_holds:
            threads.add(self.first_thread)
        return sorted(threads), list(self.tasks)


cdef int _count_down(dict counts, object owner) except -1:
    left = counts[owner] - 1
    if left:
        counts[owner] = left
    else:
        del counts[owner]
    return 0


cdef class WriteHold:
    """Exclusive use of the lock, as a context manager."""

    cdef ReadWriteLock lock

    def __init__(self, ReadWriteLock lock not None):
        self.lock = lock

    def __enter__(self):
        self.lock.acquire_write()

    def __exit__(self, *_):
        self.lock.release_write()


# --- the commit queue ---------------------------------------------------------------------------------


cdef class Submission:
    """Something to be processed as one transaction, and the future of its result.

    It can be waited for by threads (`result`) and by asyncio tasks (``await``), any number of times.

    Parameters:
        work: a command, or whatever else the processor takes.
        context: on whose behalf.
        dry_run: evaluate everything and keep nothing.
        token_use: the token it carries, as `klerk.tokens.uses` made it ready; None for none.

    Attributes:
        trace: the W3C trace context that the jobs it creates are kept with; None: there is none.
    """

    def __class_getitem__(cls, _):
        return cls

    def __init__(self, work, context, bint dry_run=False, token_use=None):
        self.work = work
        self.context = context
        self.dry_run = dry_run
        self.token_use = token_use

    def done(self):
        """Return whether the outcome is known: durable and visible, or refused."""
        return self.is_done

    def result(self, timeout=None):
        """Wait for the outcome.

        Parameters:
            timeout: seconds to wait at most; None: for ever.

        Raises:
            TimeoutError: it took longer; the command goes on all the same.
            KlerkError: the command was refused or failed.
        """
        self.wait(timeout)
        return self.outcome()

    def exception(self, timeout=None):
        """Wait as `result` does, and return the error instead of raising it; None when there is none."""
        self.wait(timeout)
        return self.error

    def wait(self, timeout=None):
        """Wait until the outcome is known.

        Raises:
            TimeoutError: after `timeout` seconds.
        """
        if self.is_done:
            return
        self.refuse_waiting(True)
        if self.gate is None:
            self.gate = Gate()
        # The check above can hand the interpreter lock over, and the outcome may have come meanwhile.
        if self.is_done:
            return
        self.waiters += 1
        try:
            # Any number of threads may wait: each passes the opened gate on to the next.
            if not self.gate.wait(patience(timeout)):
                raise TimeoutError(f"no outcome after {timeout} s; the command stays in the queue")
        finally:
            self.waiters -= 1
            if self.is_done:
                self.pass_on()

    cdef int refuse_waiting(self, bint blocking) except -1:
        """Refuse to wait where the outcome would never come."""
        if self.queue is None:
            return 0
        if self.queue.forked:
            raise Closed("the command belongs to the process that this one was forked from")
        if self.queue.lock.held_here(blocking):
            raise ReadLockHeld(
                "the outcome of a command is waited for by a thread or task that holds the read lock",
                hint="Wait after the `with k.read(...)` block: publishing waits for that block to end.",
            )
        if blocking and PyThread_get_thread_ident() in self.queue.committers:
            raise NotPure(
                "a done callback waited for a command in the thread that has to commit it",
                hint="Give that command a callback of its own, or hand the work to another thread.",
            )
        return 0

    def add_done_callback(self, callback):
        """Call ``callback(self)`` when the outcome is known, in the thread that finds out: keep it short."""
        if self.is_done:
            callback(self)
        elif self.callbacks is None:
            self.callbacks = [callback]
        else:
            self.callbacks.append(callback)

    def __await__(self):
        if not self.is_done:
            self.refuse_waiting(False)
            loop = _get_running_loop()
            waiter = loop.create_future()
            if self.is_done:
                return self.outcome()
            if self.waiter is None:
                self.loop = loop
                self.waiter = waiter
            else:
                self.add_done_callback(lambda _: loop.call_soon_threadsafe(_set_none, waiter))
            yield from waiter
        return self.outcome()

    cdef object outcome(self):
        if self.error is not None:
            raise self.error
        return self.value

    cdef int pass_on(self) except -1:
        """Wake the threads that wait for the next submission of the group."""
        cdef Submission following = self.following
        while following is not None:
            self.following = None
            following.gate.open()
            if following.waiters:
                # Whoever wakes there goes on with the rest.
                return 0
            self.following, following.following = following.following, None
            following = self.following
        return 0

    cdef int settle(self, object value, object error, dict loops) except -1:
        """Make the outcome known. Waiters on event loops are collected in `loops`, to be woken together."""
        self.value = value
        self.error = error
        self.is_done = True
        if self.waiter is not None:
            loops.setdefault(self.loop, []).append(self.waiter)
            self.waiter = self.loop = None
        if self.callbacks is not None:
            for callback in self.callbacks:
                try:
                    callback(self)
                except BaseException:
                    # Whatever it is, SystemExit too: the committer that calls this works for others.
                    LOG.exception(
                        "a done callback failed: %r", callback, extra=about("callback_failed")
                    )
            self.callbacks = None
        return 0


def acknowledge(list submissions not None, list values not None, list errors not None):
    """Make the outcomes of a group known: one value or error for each submission."""
    cdef dict loops = {}
    cdef Submission submission, first = None, last = None
    for submission, value, error in zip(submissions, values, errors):
        submission.settle(value, error, loops)
        if submission.gate is not None:
            if last is None:
                first = submission
            else:
                last.following = submission
            last = submission
    if first is not None:
        # Threads are woken one by one, each by the one before: woken together they would all want the
        # interpreter lock at once.
        first.gate.open()
        if not first.waiters:
            first.pass_on()
    for loop, waiters in loops.items():
        try:
            loop.call_soon_threadsafe(_set_all, waiters)
        except RuntimeError:
            LOG.debug(
                "an event loop was closed while %d of its tasks waited for commands",
                len(waiters),
                extra=about("loop_gone"),
            )


def _set_all(waiters):
    for waiter in waiters:
        _set_none(waiter)


cdef class Blocked:
    """A submission that waits for room in the queue, in the order of arrival."""


cdef class CommandQueue:
    """Submissions in the order of arrival, at most `length_max`; whoever comes then waits for room.

    Parameters:
        length_max: submissions that may wait.
        lock: whoever holds it for reading is refused, because publishing would wait for them.

    Attributes:
        refusal: makes the error that everyone gets from now on; None while all is well.
    """

    def __init__(self, Py_ssize_t length_max, ReadWriteLock lock not None):
        self.length_max = length_max
        self.lock = lock
        self.committers = set()
        self.submissions = []
        self.blocked = deque()

    def __len__(self):
        return len(self.submissions)

    cdef bint has_room(self):
        return not self.blocked and len(self.submissions) < self.length_max

    cdef int append(self, Submission submission) except -1:
        cdef Gate sleeper = self.sleeper
        submission.queue = self
        self.submissions.append(submission)
        if sleeper is not None:
            self.sleeper = None
            sleeper.open()
        return 0

    cdef int admit_or_refuse(self, bint blocking) except -1:
        if self.closed:
            raise Closed("this Klerk is closed", hint="Open the app again.")
        if self.refusal is not None:
            # A new one for everybody: an error that is raised again and again collects all their tracebacks.
            raise self.refusal()
        thread = PyThread_get_thread_ident()
        if thread == self.processing:
            raise NotPure(
                "a function of the application issued a command while one is processed",
                hint="Return secondary commands from a `.commands(...)` block, or do it in a job.",
            )
        if blocking and thread in self.committers:
            raise NotPure(
                "a done callback waited for a command in the thread that has to commit it",
                hint="Use submit there, or hand the work to a thread of your own.",
            )
        if self.lock.held_here(blocking):
            raise ReadLockHeld(
                "a command was issued while its thread or task holds the read lock",
                hint="Issue it after the `with k.read(...)` block: publishing it waits for the block to end.",
            )
        return 0

    def push(self, Submission submission not None, bint blocking, double timeout_s=-1):
        """Add a submission, waiting for room as long as it takes or `timeout_s` seconds.

        Parameters:
            blocking: the caller will stop its whole thread to wait for the outcome.

        Raises:
            ReadLockHeld: the caller holds the read lock.
            Closed: the queue takes no more.
            QueueFull: there was no room in time.
        """
        cdef Blocked blocked
        self.admit_or_refuse(blocking)
        if self.has_room():
            self.append(submission)
            return
        if PyThread_get_thread_ident() in self.committers:
            raise QueueFull(
                f"no room in the queue of {self.length_max} commands for one from a done callback",
                hint="A callback cannot wait for room: it runs in the thread that makes room.",
            )
        blocked = Blocked.__new__(Blocked)
        blocked.submission = submission
        blocked.gate = Gate()
        self.blocked.append(blocked)
        # Making these can hand the interpreter lock over, and there may be room by now.
        self.admit()
        try:
            blocked.gate.wait(timeout_s)
        except BaseException:
            self.withdraw(blocked)
            raise
        if not blocked.admitted:
            self.withdraw(blocked)
            if self.closed:
                raise Closed("this Klerk was closed while the command waited for room in the queue")
            raise QueueFull(
                f"no room in the queue of {self.length_max} commands after {timeout_s} s",
                hint="Submit more slowly, wait longer, or raise queue_length_max.",
            )

    def push_soon(self, Submission submission not None):
        """Add a submission if there is room; else return a future of this loop that ends when it is added."""
        cdef Blocked blocked
        self.admit_or_refuse(False)
        if self.has_room():
            self.append(submission)
            return None
        blocked = Blocked.__new__(Blocked)
        blocked.submission = submission
        blocked.loop = _get_running_loop()
        blocked.future = blocked.loop.create_future()
        blocked.future.add_done_callback(
            lambda future: self.withdraw(blocked) if future.cancelled() else None
        )
        self.blocked.append(blocked)
        # Making these can hand the interpreter lock over, and there may be room by now.
        self.admit()
        return None if blocked.admitted else blocked.future

    def withdraw(self, Blocked blocked not None):
        """Take back a submission whose owner stopped waiting for room."""
        if not blocked.admitted and blocked in self.blocked:
            self.blocked.remove(blocked)

    def take(self, Py_ssize_t limit):
        """Wait for submissions and return the oldest of them; None once closed and empty.

        Parameters:
            limit: return at most so many.
        """
        cdef list taken
        cdef Gate sleeper
        self.committers.add(PyThread_get_thread_ident())
        while not self.submissions:
            if self.closed:
                # The thread ends, and another one may get its identifier.
                self.committers.discard(PyThread_get_thread_ident())
                return None
            # Whoever wakes the sleeper forgets it: the local name keeps it alive meanwhile.
            sleeper = Gate()
            if self.submissions or self.closed:
                continue
            self.sleeper = sleeper
            sleeper.wait(-1)
        if len(self.submissions) <= limit:
            taken = self.submissions
            self.submissions = []
        else:
            taken = self.submissions[:limit]
            del self.submissions[:limit]
        self.processing = PyThread_get_thread_ident()
        if self.blocked:
            self.admit()
        return taken

    def processed(self):
        """Note that the group taken last was processed: functions of the application run no longer."""
        self.processing = 0

    cdef int admit(self) except -1:
        cdef Blocked blocked
        while self.blocked and (self.closed or len(self.submissions) < self.length_max):
            blocked = self.blocked.popleft()
            if self.closed:
                _wake_blocked(blocked, Closed("this Klerk was closed while the command waited for room"))
                continue
            blocked.admitted = True
            self.append(blocked.submission)
            _wake_blocked(blocked, None)
        return 0

    def give_back(self, list submissions not None):
        """Put submissions that were taken and not processed back at the front."""
        self.submissions = submissions + self.submissions

    def is_committer(self):
        """Return whether the caller runs in a thread that commits."""
        return PyThread_get_thread_ident() in self.committers

    def leave(self):
        """Belong to a forked child, in which nobody commits."""
        self.forked = self.closed = True

    def rest(self):
        """Return everything that was not handed out."""
        rest, self.submissions = self.submissions, []
        return rest

    def close(self):
        """Take no more; those inside are still handed out."""
        cdef Gate sleeper = self.sleeper
        self.closed = True
        while self.blocked:
            error = Closed("this Klerk was closed while the command waited for room in the queue")
            _wake_blocked(self.blocked.popleft(), error)
        if sleeper is not None:
            self.sleeper = None
            sleeper.open()


cdef int _wake_blocked(Blocked blocked, object error) except -1:
    if blocked.gate is not None:
        blocked.gate.open()
        return 0
    try:
        blocked.loop.call_soon_threadsafe(_settle_future, blocked.future, error)
    except RuntimeError:
        LOG.debug(
            "an event loop was closed while one of its tasks waited for room in the queue",
            extra=about("loop_gone"),
        )
    return 0


def _settle_future(future, error):
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)

"""The facade: what an opened app offers to threads (`Klerk`) and to asyncio (`Klerk.aio`)."""

import os
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from klerk import limits
from klerk._core import Group, InternalWork
from klerk._waiting import ReadWriteLock, Submission
from klerk.aio import AioKlerk, Commands, one, several
from klerk.app import Spec
from klerk.audit import Audit
from klerk.authorization import ERASURE
from klerk.commands import Command, Context, Result, System
from klerk.engine import Engine
from klerk.erasure import Eraser, Erasure
from klerk.errors import Closed, NotPure, ReadLockHeld
from klerk.job_manager import JobManager
from klerk.job_work import acting_as
from klerk.jobs import JobRecord
from klerk.log_entries import LogFilter, LogPage, Version
from klerk.log_search import id_of
from klerk.processing import Program
from klerk.reader import Reader
from klerk.recovery import Recovered
from klerk.scheduler import Scheduler
from klerk.storage import Storage
from klerk.timers import Timers
from klerk.unmanaged import UnmanagedCalls
from klerk.values import Model, Ref

M = TypeVar("M", bound=Model)


class Klerk:
    """An opened app. Made by `App.open`; close it, or use it with ``with``.

    Every method can be called from any thread. `aio` offers the same to asyncio.

    Attributes:
        jobs: the job manager.
        aio: the asyncio face of this object.
    """

    def __init__(
        self,
        spec: Spec,
        storage: Storage,
        recovered: Recovered,
        lock: ReadWriteLock,
        *,
        clock: Callable[[], datetime],
        job_threads: int,
        queue_length_max: int,
    ) -> None:
        self._spec = spec
        self._storage = storage
        self._program: Program = recovered.program
        self._clock = clock
        self._lock = lock
        self._closing = threading.Lock()
        self._is_closing = self._closed = self._forked = False
        self._unmanaged = UnmanagedCalls()
        self._scheduler = Scheduler(clock)
        plan_of = {plan.model_class: plan for plan in self._program.plans}
        self._timers = Timers(self._scheduler, self._submit_for_timer, plan_of)
        self._program.processor.shown_by = self._show
        self._sight = self._program.sight
        self._engine = Engine(
            storage, recovered, self._lock, queue_length_max=queue_length_max, published=self._published
        )
        self._push = self._engine.queue.push
        self._audit = self._sight.commit_log = Audit(spec, self._program, recovered.history, storage)
        self._eraser = Eraser(
            storage, recovered.history, self._program.table, self._engine.checkpointer.write
        )
        self.jobs = JobManager(
            spec,
            self,
            self._submit_as,
            self._scheduler,
            records=recovered.jobs,
            ended_jobs=recovered.ended_jobs,
            threads=job_threads,
        )
        self.aio = AioKlerk(self._engine.queue, self.read, self)

    def start(self) -> None:
        """Begin to fire timers and run jobs; `App.open` calls it."""
        table = self._program.table
        self._timers.note(table.get(id) for plan in self._program.plans for id in _timed(plan))
        self._scheduler.start()
        self.jobs.start()

    # --- commands ---------------------------------------------------------------------------------

    def handle(self, command: Command[M], context: Context, *, dry_run: bool = False) -> Result[M]:
        """Handle a command and return what it did, once that is durable and visible.

        Parameters:
            dry_run: evaluate everything and keep nothing; the result shows what would be.

        Raises:
            Rejected, InvalidValue, WrongState, Conflict, NotFound: it was refused, with every problem found.
            Denied: the context's actor may not do it.
            FunctionFailed: a function of the application raised.
            ReadLockHeld: this thread holds the read lock.
            StoreFailed, Closed: nothing can be written any more.
        """
        submission = Submission(one(command), context, dry_run)
        self._push(submission, True)
        result: Result[M] = submission.result()
        return result

    def submit(
        self, command: Command[M], context: Context, *, timeout: float | None = None
    ) -> "Submission[Result[M]]":
        """Put a command into the queue and return the future of its result, so that many can be in flight.

        Commands are handled in the order in which they were submitted. When the queue is full, this waits.

        Parameters:
            timeout: seconds to wait for room at most.

        Raises:
            QueueFull: there was no room in time.
            ReadLockHeld, StoreFailed, Closed: as for `handle`.
        """
        submission = Submission(one(command), context)
        self._push(submission, False, -1 if timeout is None else timeout)
        return submission

    def handle_all(self, commands: Commands, context: Context, *, dry_run: bool = False) -> list[Result[Any]]:
        """Handle several commands as one transaction, all or none, and return the result of each.

        Parameters:
            commands: a list, or a function ``(a: Args)`` that returns commands or yields them one by one; a
                generator function receives the result of each command that it yields.
        """
        submission = Submission(several(commands), context, dry_run)
        self._push(submission, True)
        results: list[Result[Any]] = submission.result()
        return results

    def submit_all(
        self, commands: Commands, context: Context, *, timeout: float | None = None
    ) -> "Submission[list[Result[Any]]]":
        """Put several commands into the queue as one transaction and return the future of their results.

        Parameters:
            commands: as for `handle_all`.
            timeout: as for `submit`.
        """
        submission: Submission[list[Result[Any]]] = Submission(several(commands), context)
        self._push(submission, False, -1 if timeout is None else timeout)
        return submission

    def check(self, command: Command[M], context: Context) -> Result[M]:
        """Evaluate a command and keep nothing: return what it would do, or raise what `handle` would."""
        return self.handle(command, context, dry_run=True)

    # --- reading ----------------------------------------------------------------------------------

    def read(self, context: Context) -> Reader:
        """Return a reader for ``with``: everything read through it is of one moment."""
        if self._closed:
            self._require_open()
        return Reader(self._lock, context, self._sight)

    def _show(self, context: Context, what: Any) -> Any:
        """Return a model, or the one with an id, as a context's actor may see it."""
        with self.read(context) as reader:
            if isinstance(what, Model):
                return reader.show(what)
            return what if what is None else reader.get(what)

    # --- the commit log ---------------------------------------------------------------------------

    def log(self, context: Context, **which: Unpack[LogFilter]) -> LogPage:
        """Return a page of the commit log; see `Reader.log`. Nobody is held up while the store is read."""
        return self._audit.log_aside(partial(self.read, context), which)

    def history(
        self, ref: Ref[M], context: Context, *, limit: int = limits.LOG_PAGE_MAX, after: int = 0
    ) -> tuple[Version[M], ...]:
        """Return the versions of a model; see `Reader.history` and `log`."""
        return self._audit.versions_aside(partial(self.read, context), ref, limit, after)

    def as_of(self, ref: Ref[M], sequence: int, context: Context) -> M:
        """Return a model as it was after a transaction; see `Reader.as_of` and `log`."""
        found: M = self._audit.version_aside(partial(self.read, context), ref, sequence)
        return found

    def erase(self, ref: Ref[Any], context: Context) -> Erasure:
        """Erase what the commit log says of a model up to now, from the store's files too.

        Every transaction that touched the model loses its parameters, the versions it made of any model and
        the jobs it created; who did what when, and the hashes, stay. A model that exists stays as it is, and
        so does every other one: their newest versions are stored once more. To erase a person, change or
        delete the model first. Arguments of jobs, and copies made by `checkpoint`, are left alone.

        The cost is that of reading those transactions, and of writing the files of the log between the first
        and the last of them once more.

        Raises:
            Denied: the context's actor may not do it.
            NotFound: there never was such a model.
            StorageError: it was decided on, and will be finished at the next start.
        """
        with self.read(context) as reader:
            self._audit.require(reader, ERASURE, "erase what the commit log says")
            id, until = id_of(ref), self._program.processor.published_sequence
        work = self._eraser.prepare(id, until)
        submission: Submission[int] = Submission(work, context)
        self._push(submission, True)
        sequence = submission.result()
        self._eraser.finish(sequence)
        return Erasure(sequence=sequence, transactions=work.transactions)

    # --- jobs and timers --------------------------------------------------------------------------

    def handle_for_job(self, record: JobRecord, command: Command[M]) -> Result[M]:
        """Handle a command on behalf of a running job."""
        return self.handle(command, self._system_context(acting_as(record)))

    async def handle_for_coroutine(self, record: JobRecord, command: Command[M]) -> Result[M]:
        """Handle a command on behalf of a running job that is a coroutine."""
        return await self.aio.handle(command, self._system_context(acting_as(record)))

    def read_for_job(self, record: JobRecord) -> Reader:
        """Return a reader on behalf of a running job."""
        return self.read(self._system_context(acting_as(record)))

    def _system_context(self, actor: System) -> Context:
        return self._spec.system_context(actor, self._clock())

    def _submit_as(self, work: InternalWork, actor: System) -> Submission[Any]:
        submission: Submission[Any] = Submission(work, self._system_context(actor))
        self._push(submission, False)
        return submission

    def _submit_for_timer(self, work: InternalWork, name: str) -> Submission[Any]:
        return self._submit_as(work, System(name))

    def _published(self, group: Group) -> None:
        """Tell everyone who waits for what a group did."""
        if group.notices:
            self.jobs.note([record for record, _ in group.notices])
        self._timers.note(group.changed.values())
        if group.unmanaged:
            self._unmanaged.add(group.unmanaged)

    # --- the store --------------------------------------------------------------------------------

    @property
    def sequence(self) -> int:
        """The place of the newest processed transaction in the total order."""
        return self._program.processor.sequence

    def storage_bytes(self) -> int:
        """Return the size of the store on disk, in bytes."""
        return self._storage.size_bytes()

    def checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Copy the store, while it is in use, into a new directory that can be opened by itself."""
        self._require_open()
        self._storage.checkpoint(path)

    def close(self) -> None:
        """Finish the commands that were taken, wait a bounded time for running jobs, and close the store.

        Raises:
            ReadLockHeld: this thread holds the read lock, for which publishing those commands would wait.
            NotPure: this thread is one that closing would wait for.
        """
        if self._forked:
            return
        if self._lock.held_here(True):
            raise ReadLockHeld("close was called inside `with k.read(...)`", hint="Close after the block.")
        if self._engine.queue.is_committer() or self.jobs.runs_here() or self._scheduler.runs_here():
            raise NotPure(
                "close was called by a job, a rule or a callback, for which it would wait",
                hint="Close from a thread of your own.",
            )
        # Every step can be taken again, should this be interrupted in between.
        with self._closing:
            self.jobs.begin_closing()
            self._is_closing = True
            self._scheduler.close()
            # Running jobs may read and handle commands until they have ended.
            self.jobs.close(limits.CLOSE_WAIT_S)
            self._closed = True
            self._engine.close()
            self._unmanaged.close()
            self._storage.close()

    def close_at_exit(self) -> None:
        """Close as the process ends: who still reads now will never end it."""
        self._lock.forget_readers()
        self.close()

    def disown(self) -> None:
        """In a forked child, which has none of the threads: neither wait for them nor write."""
        self._engine.queue.leave()
        self._is_closing = self._closed = self._forked = True

    def _require_open(self) -> None:
        if self._closed:
            raise Closed("this Klerk is closed", hint="Open the app again.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<klerk '{self._spec.name}'{', closed' if self._is_closing else ''}>"


def _timed(plan: Any) -> Iterable[int]:
    return (id for state in plan.states if state.timers for id in state.ids)

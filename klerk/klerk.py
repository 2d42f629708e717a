"""The facade: what an opened app offers to threads (`Klerk`) and to asyncio (`Klerk.aio`)."""

import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from klerk import limits
from klerk._core import Group, InternalWork
from klerk._waiting import ReadWriteLock, Submission
from klerk.aio import AioKlerk
from klerk.app import Spec
from klerk.audit.entries import LogFilter, LogPage, Version
from klerk.audit.erasure import Eraser, Erasure
from klerk.audit.search import id_of
from klerk.audit.trail import Audit
from klerk.authorization import ERASURE
from klerk.changes.feeds import Hub
from klerk.changes.subscriptions import Subscribable
from klerk.commands import Actor, Context, Result, System
from klerk.engine import Engine
from klerk.errors import Closed, NotPure, ReadLockHeld, StoreFailed
from klerk.job_manager.access import JobAccess
from klerk.job_manager.acting import OPERATOR, ActionDesk
from klerk.job_manager.crew import Workers
from klerk.job_manager.hosting import JobHosting
from klerk.job_manager.job_store import JobStore
from klerk.job_manager.manager import JobManager
from klerk.job_manager.queue_book import QueueBook
from klerk.job_manager.retention import Retention
from klerk.keyed.blob_store import BlobStore
from klerk.keyed.blobs import Blobs
from klerk.keyed.expiring import Shelf
from klerk.keyed.keyvalue import KeyValues
from klerk.keyed.writer import SideWriter
from klerk.observing import Telemetry, Workshop, pushes
from klerk.processing import Program
from klerk.reading.reader import Reader
from klerk.reading.snapshots import Snapshot, Snapshots
from klerk.recovery import Recovered
from klerk.scheduler import Scheduler
from klerk.signals import Signals
from klerk.storage import Family, Storage
from klerk.submitting import Submitting
from klerk.timers.timers import Timers
from klerk.tokens.uses import TokenUses
from klerk.unmanaged import UnmanagedCalls
from klerk.unsafe import Unsafe, UnsafeWork
from klerk.values import Model, Ref
from klerk.watched import Watched

M = TypeVar("M", bound=Model)


class Klerk(Submitting, Subscribable, Watched):
    """An opened app. Made by `App.open`; close it, or use it with ``with``.

    Every method can be called from any thread. `aio` offers the same to asyncio.

    Attributes:
        jobs: what may be done with jobs.
        timers: what is due when, and what was refused.
        kv: key-values.
        blobs: files of any size.
        aio: the asyncio face of this object.
        signals: those that end a program, see `wait_for_signal`.
        unsafe: changes that ask neither state machines nor rules, when the app was opened with them.
    """

    def __init__(
        self,
        spec: Spec,
        storage: Storage,
        recovered: Recovered,
        lock: ReadWriteLock,
        *,
        clock: Callable[[], datetime],
        workers: Workers,
        queue_length_max: int,
        job_retention: Retention,
        token_ttl: timedelta,
        unsafe: bool,
        telemetry: Telemetry | None,
        workshop: Workshop | None,
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
        self._program.processor.shown_by = self._show
        self._sight = self._program.sight
        self._snapshots = Snapshots(self._program.processor, lock, self._sight, self._require_open)
        self._tokens = TokenUses(storage, self._program, clock, token_ttl)
        self.unsafe = Unsafe(self._run_unsafe, plan_of, is_on=unsafe)
        self._side_writer = SideWriter(storage)
        timing = self._scheduler.now_us, self._scheduler.at
        shelf, store = Shelf(Family.KV, self._side_writer, *timing), BlobStore(self._side_writer, *timing)
        self.kv = KeyValues(shelf, self._program.kv_access, self._require_beside)
        self.blobs = Blobs(store, self._program.blob_access, self._require_beside)
        self._engine = Engine(
            storage,
            recovered,
            self._lock,
            queue_length_max=queue_length_max,
            foreseen=self._foreseen,
            published=self._published,
            failed=self._failed,
        )
        self._push, self._push_soon = pushes(self._engine.queue, telemetry, workshop)
        self._audit = self._sight.commit_log = Audit(spec, self._program, recovered.history, storage)
        history, checkpointer = recovered.history, self._engine.checkpointer
        self._eraser = Eraser(storage, history, self._program.table, checkpointer.write)
        self._hub = Hub(self._program, storage, self._lock, self._engine.queue)
        self._manager = self._job_manager(recovered, workers, job_retention)
        self.jobs = self._manager.offered
        if telemetry is not None:
            self.jobs.observe(telemetry)
        self.timers = Timers(
            self._scheduler,
            self._program.processor,
            plan_of,
            system_context=self._checked_context,
            submit=self._submit_in,
            refuse_waiting=self._refuse_waiting,
        )
        self.signals = Signals(self._manager.patience.hurry)
        self.aio = AioKlerk(self._push_soon, self.read, self._snapshots, self._tokens, self, self._hub, lock)

    def _job_manager(self, recovered: Recovered, workers: Workers, retention: Retention) -> JobManager:
        self._hosting = JobHosting(
            self._spec,
            self._lock,
            self._sight,
            self._snapshots,
            self._tokens,
            pushing=(self._push, self._push_soon),
            system_context=self._system_context,
            require_open=self._require_open,
        )
        storage = self._storage
        self._hosting.manager = manager = JobManager(
            self._spec,
            self._hosting,
            self._submit_as,
            self._scheduler,
            creation=self._program.job_creation,
            desk=self._job_desk(),
            store=JobStore(storage, self._engine.checkpointer, recovered.up_to_date),
            recovered=recovered,
            retention=retention,
            workers=workers,
            marks=storage.marks,
            refuse_waiting=partial(self._refuse_waiting, what="jobs"),
        )
        return manager

    def start(self) -> None:
        """Begin to fire timers and run jobs; `App.open` calls it."""
        self.kv.shelf.start()
        self.blobs.store.start()
        self._scheduler.start()
        self.timers.start()
        self._manager.start()

    def _run_unsafe(self, work: UnsafeWork, context: Context) -> list[Result[Any]]:
        submission: Submission[list[Result[Any]]] = Submission(work, context)
        self._push(submission, True)
        return submission.result()

    # --- reading ----------------------------------------------------------------------------------

    def read(self, context: Context) -> Reader:
        """Return a reader for ``with``: everything read through it is of one moment."""
        if self._closed:
            self._require_open()
        return Reader(self._lock, context, self._sight)

    def snapshot(self, context: Context) -> Snapshot:
        """Return what is published now, to be read for as long as wanted while commands go on.

        Close it, or use it with ``with``: while it is open, the old versions of what changes are kept for it.
        """
        self._require_open()
        return self._snapshots.open(context)

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

    def _system_context(self, actor: Actor) -> Context:
        return self._spec.system_context(actor, self._clock())

    def _checked_context(self, actor: Actor) -> Context:
        """Return a context in which a timer acts; refuse one that no transaction could begin with."""
        return self._program.resolve(self._system_context(actor))[0]

    def _submit_as(self, work: InternalWork, actor: Actor, behalf: System | None = None) -> Submission[Any]:
        return self._submit_in(work, self._hosting.context_of(actor, behalf))

    def _submit_in(self, work: InternalWork, context: Context) -> Submission[Any]:
        submission: Submission[Any] = Submission(work, context)
        self._push(submission, False)
        return submission

    def _job_desk(self) -> ActionDesk:
        access = JobAccess(self._spec, self._program.resolve, self._sight.plain, self._lock)
        book = QueueBook(self._storage, self._audit.history, self._program.processor.sequence)
        creation = self._program.job_creation
        return ActionDesk(access, self._act_on_jobs, self._audit.catalog.version, book, creation)

    def _act_on_jobs(self, work: InternalWork, context: Context | None) -> Any:
        submission: Submission[Any] = Submission(
            work, self._system_context(OPERATOR) if context is None else context
        )
        self._push(submission, True)
        return submission.result()

    def _foreseen(self, group: Group) -> None:
        if group.notices:
            self._manager.foresee([record for record, _ in group.notices])

    def _published(self, group: Group) -> None:
        """Tell everyone who waits for what a group did."""
        if group.notices:
            self._manager.note([record for record, _ in group.notices])
        self.timers.note(group.changed)
        if group.unmanaged:
            self._unmanaged.add(group.unmanaged)
        self._hub.note(group)

    def _failed(self, refusal: Callable[[], StoreFailed]) -> None:
        """Refuse those who wait for what the store, which failed, will never record."""
        self._manager.endings.close(refusal)

    # --- the store --------------------------------------------------------------------------------

    @property
    def sequence(self) -> int:
        """The place in the total order of the newest transaction that readers see, which is durable."""
        return self._program.processor.published_sequence

    def storage_bytes(self) -> int:
        """Return the size of the store on disk, in bytes."""
        return self._storage.size_bytes()

    def wait_for_signal(self, *signals: int) -> None:
        """Wait until the process is sent a signal, so that this is a whole worker program::

            with app.open("./shop.klerk") as k:
                k.wait_for_signal()

        A second signal, while closing waits for running jobs, ends that wait at once.

        Parameters:
            signals: of the module `signal`; left out, SIGTERM and SIGINT.

        Raises:
            ArgumentError: this is not the main thread, or a signal cannot be waited for.
        """
        self._require_open()
        self.signals.wait(signals)

    def checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Copy the store, while it is in use, into a new directory that can be opened by itself."""
        self._require_open()
        self._storage.checkpoint(path)

    def close(self) -> None:
        """Finish the commands that were taken, wait a bounded time for running jobs, and close the store.

        Jobs that still run after `close_wait` of `App.open` are asked to stop, and those in processes are
        killed when they do not. What was interrupted costs no attempt, keeps its log, and runs again.

        Raises:
            ReadLockHeld: this thread holds the read lock, for which publishing those commands would wait.
            NotPure: this thread is one that closing would wait for.
        """
        if self._forked:
            return
        if self._lock.held_here(True):
            raise ReadLockHeld("close was called inside `with k.read(...)`", hint="Close after the block.")
        if self.runs_here():
            raise NotPure(
                "close was called by a job, a rule or a callback, for which it would wait",
                hint="Close from a thread of your own.",
            )
        # Every step can be taken again, should this be interrupted in between.
        with self._closing:
            self._manager.begin_closing()
            self._is_closing = True
            self._scheduler.close()
            self.timers.close()
            # Running jobs may read and handle commands until they have ended.
            self._manager.close()
            self._closed = True
            self._engine.close()
            self._hub.close()
            self._unmanaged.close()
            # Whoever still streams a blob is refused with its next chunk.
            self._side_writer.close()
            self._storage.close()
            self.signals.give_back()

    def runs_here(self) -> bool:
        """Return whether the caller runs in a thread of this Klerk's, which closing would wait for."""
        waited_for = (self._manager, self._scheduler, self.timers)
        return self._engine.queue.is_committer() or any(each.runs_here() for each in waited_for)

    def close_at_exit(self) -> None:
        """Close as the process ends: who still reads now will never end it."""
        self._lock.forget_readers()
        self.close()

    def disown(self) -> None:
        """In a forked child, which has none of the threads: neither wait for them nor write."""
        self._engine.queue.leave()
        self._side_writer.disown()
        self._hub.disown()
        self._is_closing = self._closed = self._forked = True

    def _require_open(self) -> None:
        if self._closed:
            raise Closed("this Klerk is closed", hint="Open the app again.")

    def _require_beside(self) -> None:
        """Refuse key-values and blobs to what runs while a command is processed: it must be repeatable."""
        self._require_open()
        if self._engine.queue.is_committer():
            raise NotPure(
                "a function of the application used key-values or blobs while a command is processed",
                hint="Do it before the command, or in a job.",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<klerk '{self._spec.name}'{', closed' if self._is_closing else ''}>"

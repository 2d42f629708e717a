"""The facade: what an opened app offers to threads (`Klerk`) and to asyncio (`Klerk.aio`)."""

import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from klerk import limits
from klerk._core import Group, InternalWork
from klerk._waiting import ReadWriteLock, Submission
from klerk.aio import AioKlerk, Commands, one, several
from klerk.app import Spec
from klerk.commands import Actor, Command, Context, Result, System
from klerk.engine import Engine
from klerk.errors import Closed, NotPure, ReadLockHeld
from klerk.job_manager import JobManager
from klerk.job_work import acting_as
from klerk.jobs import JobRecord
from klerk.processing import Program
from klerk.reader import Reader
from klerk.recovery import Recovered
from klerk.scheduler import Scheduler
from klerk.snapshots import Snapshot, Snapshots
from klerk.storage import Storage
from klerk.timers import Timers
from klerk.token_uses import TokenUses
from klerk.tokens import Token
from klerk.unmanaged import UnmanagedCalls
from klerk.unsafe import Unsafe, UnsafeWork
from klerk.values import Model

M = TypeVar("M", bound=Model)


class Klerk:
    """An opened app. Made by `App.open`; close it, or use it with ``with``.

    Every method can be called from any thread. `aio` offers the same to asyncio.

    Attributes:
        jobs: the job manager.
        timers: what is due when, and what was refused.
        aio: the asyncio face of this object.
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
        job_threads: int,
        queue_length_max: int,
        token_ttl: timedelta,
        unsafe: bool,
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
        self._snapshots = Snapshots(self._program.processor, lock, self._sight)
        self._tokens = TokenUses(storage, self._program, clock, token_ttl)
        self.unsafe = Unsafe(self._run_unsafe, plan_of, is_on=unsafe)
        self._engine = Engine(
            storage, recovered, self._lock, queue_length_max=queue_length_max, published=self._published
        )
        self._push = self._engine.queue.push
        self.jobs = JobManager(
            spec,
            self,
            self._submit_as,
            self._scheduler,
            records=recovered.jobs,
            ended_jobs=recovered.ended_jobs,
            threads=job_threads,
        )
        self.timers = Timers(
            self._scheduler,
            self._program.processor,
            plan_of,
            system_context=self._checked_context,
            submit=self._submit_in,
            refuse_waiting=self._refuse_waiting,
        )
        self.aio = AioKlerk(self._engine.queue, self.read, self._snapshots, self._tokens, self)

    def start(self) -> None:
        """Begin to fire timers and run jobs; `App.open` calls it."""
        self._scheduler.start()
        self.timers.start()
        self.jobs.start()

    # --- commands ---------------------------------------------------------------------------------

    def handle(
        self,
        command: Command[M],
        context: Context,
        *,
        token: Token | str | None = None,
        dry_run: bool = False,
    ) -> Result[M]:
        """Handle a command and return what it did, once that is durable and visible.

        Parameters:
            token: lets the command take effect once: whoever sends it again with the same token gets the
                first outcome (`Result.repeated`). A command that is refused or fails uses no token up.
            dry_run: evaluate everything and keep nothing; the result shows what would be.

        Raises:
            Rejected, InvalidValue, WrongState, Conflict, NotFound: it was refused, with every problem found.
            Denied: the context's actor may not do it.
            Conflict: (``token_reused``) the token was used for another command, or by another actor;
                (``token_expired``) it is too old; (``changed_meanwhile``) a model is not as it demands.
            InvalidValue: (``bad_token``) the token is none that this store gave out.
            FunctionFailed: a function of the application raised.
            ReadLockHeld: this thread holds the read lock.
            StoreFailed, Closed: nothing can be written any more.
        """
        work = one(command)
        use = None if token is None else self._tokens.use(token, work, context)
        submission = Submission(work, context, dry_run, use)
        self._push(submission, True)
        result: Result[M] = submission.result()
        return result

    def submit(
        self,
        command: Command[M],
        context: Context,
        *,
        token: Token | str | None = None,
        timeout: float | None = None,
    ) -> "Submission[Result[M]]":
        """Put a command into the queue and return the future of its result, so that many can be in flight.

        Commands are handled in the order in which they were submitted. When the queue is full, this waits.

        Parameters:
            token: as for `handle`.
            timeout: seconds to wait for room at most.

        Raises:
            QueueFull: there was no room in time.
            ReadLockHeld, StoreFailed, Closed: as for `handle`.
        """
        work = one(command)
        use = None if token is None else self._tokens.use(token, work, context)
        submission = Submission(work, context, False, use)
        self._push(submission, False, -1 if timeout is None else timeout)
        return submission

    def handle_all(
        self,
        commands: Commands,
        context: Context,
        *,
        token: Token | str | None = None,
        dry_run: bool = False,
    ) -> list[Result[Any]]:
        """Handle several commands as one transaction, all or none, and return the result of each.

        Parameters:
            commands: a list, or a function ``(a: Args)`` that returns commands or yields them one by one; a
                generator function receives the result of each command that it yields.
            token: as for `handle`. What a function gives is not compared: another function with the same
                token gets the first outcome.
            dry_run: as for `handle`.
        """
        work = several(commands)
        use = None if token is None else self._tokens.use(token, work, context)
        submission = Submission(work, context, dry_run, use)
        self._push(submission, True)
        results: list[Result[Any]] = submission.result()
        return results

    def submit_all(
        self,
        commands: Commands,
        context: Context,
        *,
        token: Token | str | None = None,
        timeout: float | None = None,
    ) -> "Submission[list[Result[Any]]]":
        """Put several commands into the queue as one transaction and return the future of their results.

        Parameters:
            commands, token: as for `handle_all`.
            timeout: as for `submit`.
        """
        work = several(commands)
        use = None if token is None else self._tokens.use(token, work, context)
        submission = Submission(work, context, False, use)
        self._push(submission, False, -1 if timeout is None else timeout)
        return submission

    def check(self, command: Command[M], context: Context, *, token: Token | str | None = None) -> Result[M]:
        """Evaluate a command and keep nothing: return what it would do, or raise what `handle` would.

        Parameters:
            token: checked, and not used up.
        """
        return self.handle(command, context, token=token, dry_run=True)

    def token(self, *models: Model) -> Token:
        """Return a fresh token for one command, or for several as one transaction.

        Parameters:
            models: as they were read. The command is refused unless each of them still exists, in the same
                version, when it is handled.

        Raises:
            LimitExceeded: more than `limits.TOKEN_DEMANDS_MAX` models.
            ArgumentError: one of them is no model, or a draft.
        """
        return self._tokens.token(models)

    def parse_token(self, text: str) -> Token:
        """Return the token whose text this is. Commands take the text just as well.

        Raises:
            InvalidValue: (``bad_token``) it is not exactly the text of a token that this store gave out.
        """
        return self._tokens.parse(text)

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

    def _system_context(self, actor: Actor) -> Context:
        return self._spec.system_context(actor, self._clock())

    def _checked_context(self, actor: Actor) -> Context:
        """Return a context in which a timer acts; refuse one that no transaction could begin with."""
        return self._program.resolve(self._system_context(actor))[0]

    def _submit_as(self, work: InternalWork, actor: System) -> Submission[Any]:
        return self._submit_in(work, self._system_context(actor))

    def _submit_in(self, work: InternalWork, context: Context) -> Submission[Any]:
        submission: Submission[Any] = Submission(work, context)
        self._push(submission, False)
        return submission

    def _refuse_waiting(self, blocking: bool) -> None:
        """Refuse to wait for a command where its outcome would never come.

        Parameters:
            blocking: the caller would stop its whole thread, not only its task.
        """
        self._require_open()
        if self._lock.held_here(blocking):
            raise ReadLockHeld(
                "timers cannot be waited for inside `with k.read(...)`", hint="Wait after the block."
            )
        if self._engine.queue.is_committer() or self.timers.runs_here():
            raise NotPure(
                "timers were waited for by a function that Klerk calls while it commits or fires timers",
                hint="Wait in a thread of your own.",
            )

    def _published(self, group: Group) -> None:
        """Tell everyone who waits for what a group did."""
        if group.notices:
            self.jobs.note([record for record, _ in group.notices])
        self.timers.note(group.changed)
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
        if self._is_own_thread():
            raise NotPure(
                "close was called by a job, a rule or a callback, for which it would wait",
                hint="Close from a thread of your own.",
            )
        # Every step can be taken again, should this be interrupted in between.
        with self._closing:
            self.jobs.begin_closing()
            self._is_closing = True
            self._scheduler.close()
            self.timers.close()
            # Running jobs may read and handle commands until they have ended.
            self.jobs.close(limits.CLOSE_WAIT_S)
            self._closed = True
            self._engine.close()
            self._unmanaged.close()
            self._storage.close()

    def _is_own_thread(self) -> bool:
        """Return whether the caller runs in a thread that closing would wait for."""
        waited_for = (self.jobs, self._scheduler, self.timers)
        return self._engine.queue.is_committer() or any(each.runs_here() for each in waited_for)

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

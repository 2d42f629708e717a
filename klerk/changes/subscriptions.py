"""Subscriptions: who is told what each transaction did, in order, from a sequence on and then live.

The committer only puts references into a bounded queue of each subscriber. Everything else, looking into
them, asking the rules, masking, happens in the subscriber's own thread or task when it takes the next change.
A subscriber that comes late, or whose queue was full, reads the commit log until it has come up.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from klerk import limits
from klerk.changes.change import Change, Single, What
from klerk.changes.feeds import Feed, Hub
from klerk.changes.following import Follower, Todo
from klerk.commands import Context
from klerk.errors import Conflict
from klerk.values import Model

M = TypeVar("M", bound=Model)


class Subscription(Generic[M]):
    """What `Changes` and `AioChanges` share: where a subscription stands, and its end.

    One thread or task at a time takes changes. One that is no longer referred to ends by itself.

    Parameters:
        follower: what is followed; nobody else uses it.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._in_use = threading.Lock()

    @property
    def sequence(self) -> int:
        """Up to which transaction everything was delivered: what to pass as ``since`` after a restart.

        It only moves on with a transaction's last change, so a transaction is never cut in two.
        """
        return self._follower.sequence

    @property
    def lags(self) -> int:
        """How often the queue was full, so that the commit log had to be read."""
        return self._follower.lags

    @property
    def closed(self) -> bool:
        """Whether this subscription was closed; closing Klerk ends it when everything was delivered."""
        return self._follower.closed

    def close(self) -> None:
        """End the subscription, and with it an iteration in another thread or task. Does not wait."""
        self._follower.close()

    def __del__(self) -> None:
        follower = getattr(self, "_follower", None)
        if follower is not None:
            follower.close()

    @contextmanager
    def _taking(self) -> Iterator[Follower]:
        """Give out the follower, to one thread or task at a time.

        Raises:
            Conflict: another one is taking changes.
        """
        if not self._in_use.acquire(blocking=False):
            raise Conflict(
                "another thread or task is taking changes from this subscription",
                hint="Make one subscription for each.",
                code="subscription_in_use",
            )
        try:
            yield self._follower
        finally:
            self._in_use.release()

    def __repr__(self) -> str:
        return f"<changes since {self.sequence}{', closed' if self.closed else ''}>"


class Changes(Subscription[M]):
    """The changes that a subscriber is told of, for threads: ``for change in k.changes(context, view)``.

    The iteration waits for changes. It ends when the subscription is closed, and when Klerk is, after the
    changes that were in the queue. Use it with ``with`` to close it in time. Rules are asked under the read
    lock, as they are for reads, when a change is taken; never by whoever commits.
    """

    def take(self, timeout: float | None = None) -> Change[M] | None:
        """Return the next change.

        Parameters:
            timeout: seconds to wait for one; None: for ever; 0: only what is there.

        Returns:
            None when none came in time, or when it is over.

        Raises:
            Lagged: some changes have to be read from the log, as this does from now on.
            FunctionFailed: a rule raised; the same change is tried again next time.
            ReadLockHeld: this thread holds the read lock, for which every change would wait.
            NotPure: this thread is the one that commits.
            Conflict: another thread is taking changes from this subscription.
            Closed: Klerk was closed before everything was read from the log.
        """
        end = None if timeout is None else time.monotonic() + timeout
        self._follower.refuse_waiting(blocking=True)
        with self._taking() as follower:
            while True:
                todo = follower.next_step()
                if todo is Todo.TELL:
                    return follower.tell()
                if todo is Todo.JUDGE:
                    with follower.reader:
                        follower.judge()
                elif todo is Todo.READ:
                    follower.accept(follower.read())
                elif todo is Todo.END:
                    return None
                elif todo is Todo.WAIT:
                    left = None if end is None else end - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    _wait(follower, left)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change[M]:
        change = self.take()
        if change is None:
            raise StopIteration
        return change

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AioChanges(Subscription[M]):
    """The changes that a subscriber is told of, for asyncio: ``async for change in k.aio.changes(context)``.

    It never blocks the event loop: the log is read in a thread, and of much at once others get their turn in
    between. A task that is cancelled loses no change: the next one to take gets it.
    """

    async def take(self, timeout: float | None = None) -> Change[M] | None:  # noqa: ASYNC109 (see `Changes.take`)
        """See `Changes.take`."""
        end = None if timeout is None else time.monotonic() + timeout
        self._follower.refuse_waiting(blocking=False)
        with self._taking() as follower:
            while True:
                if follower.is_due_to_rest():
                    await asyncio.sleep(0)
                todo = follower.next_step()
                if todo is Todo.TELL:
                    return follower.tell()
                if todo is Todo.JUDGE:
                    async with follower.reader:
                        follower.judge()
                elif todo is Todo.READ:
                    follower.accept(await asyncio.to_thread(follower.read))
                elif todo is Todo.END:
                    return None
                elif todo is Todo.WAIT:
                    left = None if end is None else end - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    await _wait_in_loop(follower, left)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change[M]:
        change = await self.take()
        if change is None:
            raise StopAsyncIteration
        return change

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Subscribable:
    """What `Klerk` is to be subscribed to."""

    _hub: Hub

    @overload
    def changes(
        self,
        context: Context,
        what: Single[M],
        *,
        since: int | None = None,
        queue_length_max: int = limits.SUBSCRIBER_QUEUE_LENGTH_MAX,
        catch_up: bool = False,
    ) -> Changes[M]: ...
    @overload
    def changes(
        self,
        context: Context,
        what: What = None,
        *,
        since: int | None = None,
        queue_length_max: int = limits.SUBSCRIBER_QUEUE_LENGTH_MAX,
        catch_up: bool = False,
    ) -> Changes[Any]: ...
    def changes(
        self,
        context: Context,
        what: Any = None,
        *,
        since: int | None = None,
        queue_length_max: int = limits.SUBSCRIBER_QUEUE_LENGTH_MAX,
        catch_up: bool = False,
    ) -> Changes[Any]:
        """Subscribe: return the changes that are durable and visible, one after the other, as they come.

        Models and fields that the context's actor may not read at the moment of taking them are left out or
        masked, as reads do. Made inside ``with k.read(...)``, it begins right after what that read shows; the
        `sequence` of a snapshot as `since` begins after that.

        Parameters:
            what: a view (a machine, a state, an index with a key), a model class, a reference, or a list of
                these; None: everything.
            since: begin after the transaction with this sequence, from the commit log, and go on live: what
                `Changes.sequence` was before a restart; 0: from the first; None: with what comes next.
            queue_length_max: changed models that may wait for this subscriber.
            catch_up: when more come, read them from the log instead of raising `Lagged` once before that.

        Raises:
            ArgumentError: there is no such thing to subscribe to, or the store never came to `since`.
            LimitExceeded: there are too many subscriptions.
            Closed: this Klerk is closed.
        """
        return Changes(
            Follower(
                self._hub,
                context,
                what,
                since=since,
                queue_length_max=queue_length_max,
                catch_up=catch_up,
            )
        )


class AioSubscribable:
    """What `AioKlerk` is to be subscribed to."""

    _hub: Hub

    @overload
    def changes(
        self,
        context: Context,
        what: Single[M],
        *,
        since: int | None = None,
        queue_length_max: int = limits.SUBSCRIBER_QUEUE_LENGTH_MAX,
        catch_up: bool = False,
    ) -> AioChanges[M]: ...
    @overload
    def changes(
        self,
        context: Context,
        what: What = None,
        *,
        since: int | None = None,
        queue_length_max: int = limits.SUBSCRIBER_QUEUE_LENGTH_MAX,
        catch_up: bool = False,
    ) -> AioChanges[Any]: ...
    def changes(
        self,
        context: Context,
        what: Any = None,
        *,
        since: int | None = None,
        queue_length_max: int = limits.SUBSCRIBER_QUEUE_LENGTH_MAX,
        catch_up: bool = False,
    ) -> AioChanges[Any]:
        """See `Klerk.changes`; for ``async for``."""
        return AioChanges(
            Follower(
                self._hub,
                context,
                what,
                since=since,
                queue_length_max=queue_length_max,
                catch_up=catch_up,
            )
        )


def _wait(follower: Follower, timeout_s: float | None) -> None:
    """Wait in this thread until there may be something to do."""
    if timeout_s is not None:
        timeout_s = min(timeout_s, limits.WAIT_MAX_S)
    event = threading.Event()
    with _woken_by(follower.feed, event.set):
        if follower.is_idle():
            event.wait(timeout_s)


async def _wait_in_loop(follower: Follower, timeout_s: float | None) -> None:
    """Wait in this task until there may be something to do."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    is_woken = False

    def wake() -> None:
        nonlocal is_woken
        # A loop that is busy meanwhile is not told again for every group.
        if not is_woken:
            is_woken = True
            loop.call_soon_threadsafe(_set, future)

    with _woken_by(follower.feed, wake):
        if follower.is_idle():
            await asyncio.wait((future,), timeout=timeout_s)


@contextmanager
def _woken_by(feed: Feed, wake: Callable[[], object]) -> Iterator[None]:
    feed.wake = wake
    try:
        yield
    finally:
        feed.wake = None


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)

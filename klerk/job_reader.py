"""What a running job reads with: a reader that tells how long it was held, and a snapshot for both worlds."""

from collections.abc import Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Self

from klerk._waiting import ReadWriteLock
from klerk.commands import Context
from klerk.reading.reader import Reader, Sight
from klerk.reading.snapshots import Snapshot


class JobReader(Reader):
    """A reader of a job.

    Parameters:
        lock, context, sight: as for `Reader`.
        released: called with the seconds that the lock was held, once it is not any more.
    """

    __slots__ = ("_entered_s", "_released")

    def __init__(
        self, lock: ReadWriteLock, context: Context, sight: Sight, released: Callable[[float], None]
    ) -> None:
        super().__init__(lock, context, sight)
        self._released = released
        self._entered_s = 0.0

    def __enter__(self) -> Self:
        super().__enter__()
        self._entered_s = monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        was_held = self.is_held
        super().__exit__(kind, error, trace)
        if was_held:
            self._released(monotonic() - self._entered_s)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._entered_s = monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.__exit__(kind, error, trace)


class JobSnapshot:
    """A snapshot of a job, for ``with`` or ``async with``.

    Parameters:
        open: opens it.
        open_soon: opens it in a coroutine, where nothing may block.
        opened: is told of it.
    """

    def __init__(
        self,
        open: Callable[[], Snapshot],
        open_soon: Callable[[], Awaitable[Snapshot]],
        opened: Callable[[Snapshot], None],
    ) -> None:
        self._open = open
        self._open_soon = open_soon
        self._opened = opened
        self._snapshot: Snapshot | None = None

    def __enter__(self) -> Snapshot:
        return self._note(self._open())

    async def __aenter__(self) -> Snapshot:
        return self._note(await self._open_soon())

    def _note(self, snapshot: Snapshot) -> Snapshot:
        self._snapshot = snapshot
        self._opened(snapshot)
        return snapshot

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._snapshot is not None:
            self._snapshot.close()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

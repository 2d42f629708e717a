"""How full the buckets of rates were, so that a restart neither refills nor empties them."""

import logging
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from klerk import limits
from klerk.codec import JOB_LEVELS_KEY, encode
from klerk.errors import Closed, Corrupted, StorageError
from klerk.job_manager.gates import Level
from klerk.log_events import about
from klerk.storage.contract import Family, Storage

__all__ = ["EMPTY", "FULL", "Levels", "StoredLevels", "Where", "levels_of"]

Where = tuple[str, ...]
"""What a bucket is of: ``("queue", name)``, ``("job", kind)`` or ``("key", kind, key)``."""

LOG = logging.getLogger("klerk")

FORMAT: Final = 1

# Stands in the store while it is in use: found at a start, it says that the last run did not come to its end.
_IN_USE: Final = b""

EMPTY: Final = (0, 1)
"""Part and whole of a bucket that holds nothing."""


class Levels(msgspec.Struct, frozen=True, array_like=True):
    """How full buckets are.

    Parameters:
        format: of this record.
        known: the levels of some.
        others: of all others; None: they are full.
    """

    format: int = FORMAT
    known: tuple[tuple[Where, Level], ...] = ()
    others: Level | None = None


FULL: Final = Levels()

_decode: Final[Callable[[bytes], Levels]] = msgspec.msgpack.Decoder(Levels).decode


def levels_of(known: Iterable[tuple[Where, Level]], others: Level | None, now_us: int) -> Levels:
    """Return levels as they are stored: when they are too many, the rest counts as empty."""
    kept: list[tuple[Where, Level]] = []
    for each in known:
        if len(kept) == limits.JOB_LEVELS_KEPT_MAX:
            return Levels(known=tuple(kept), others=Level(*EMPTY, now_us))
        kept.append(each)
    return Levels(known=tuple(kept), others=others)


class StoredLevels:
    """Keeps levels from the end of one run to the beginning of the next.

    Parameters:
        storage: where.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._is_in_use = False

    def read(self, now_us: int) -> Levels:
        """Return how full buckets are at a start: full in a new store, and empty after a crash.

        Raises:
            Corrupted: they cannot be read.
        """
        row = self._storage.get(Family.META, JOB_LEVELS_KEY)
        if row is None:
            return Levels()
        if row == _IN_USE:
            # What was started last before the crash is not known, so nothing is there to be spent.
            return Levels(others=Level(*EMPTY, now_us))
        try:
            levels = _decode(row)
        except msgspec.DecodeError as error:
            raise Corrupted(f"the levels of rates cannot be read: {error}") from error
        if levels.format != FORMAT:
            raise Corrupted(f"the levels of rates have format {levels.format}, expected {FORMAT}")
        return levels

    def begin(self) -> None:
        """Note that rates are used from now on. Until then what is stored stays as right as it was."""
        if self._is_in_use:
            return
        self._storage.write([(Family.META, JOB_LEVELS_KEY, _IN_USE)], [])
        self._storage.sync()
        self._is_in_use = True

    def keep(self, levels: Levels) -> None:
        """Note the levels at the end, if any was used; nothing when the store takes no more writes."""
        if not self._is_in_use or self._storage.failed is not None:
            return
        try:
            self._storage.write([(Family.META, JOB_LEVELS_KEY, encode(levels))], [])
        except Closed:
            # It was closed before, and they were kept then.
            return
        except StorageError as error:
            LOG.error(
                "the levels of rates are not kept, and will be taken for empty: %s",
                error,
                extra=about("rates_unrecorded"),
            )

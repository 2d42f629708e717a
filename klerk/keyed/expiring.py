"""Named entries with a time to live, in one family of the store.

Rows, by the first byte of their key:

- ``e`` name: the entry: its version, its end, its value.
- ``x`` end, name: nothing; the entries with an end in the order in which they end.
- ``n``: the newest version, so that versions only grow, also over restarts.
"""

import struct
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

from klerk import limits
from klerk.errors import Conflict, Corrupted
from klerk.keyed.writer import SideWriter
from klerk.storage.contract import Delete, Family, Put, Storage

_ENTRY, _END, _AFTER_END, _COUNTER = b"e", b"x", b"y", b"n"
_HEAD = struct.Struct(">QQ")
_NUMBER_BYTES = 8
# UTF-8 has no such byte, so it comes after every name that begins alike.
_LAST = b"\xff"
_SECOND_US = 1_000_000


class Entry(NamedTuple):
    """A stored entry: its version, its end in microseconds since 1970 UTC (0: none), and its value."""

    version: int
    ends_us: int
    value: bytes


class Shelf:
    """The entries of one family. Reading is for any thread; changes are for the side writer's.

    Subclasses keep more for each entry than the entry itself: see `rows_of_leaving` and `left`.

    Parameters:
        family: of the store; nothing else may write into it.
        writer: makes the changes.
        now_us: gives the time, in microseconds since 1970 UTC.
        call_at: has something called at such a time.
    """

    def __init__(
        self,
        family: Family,
        writer: SideWriter,
        now_us: Callable[[], int],
        call_at: Callable[[int, Callable[[], None]], None],
    ) -> None:
        self.family = family
        self.writer = writer
        self.now_us = now_us
        self._storage = writer.storage
        self._call_at = call_at
        counter = self._storage.get(family, _COUNTER)
        self._newest = 0 if counter is None else int.from_bytes(counter, "big")
        self._alarm_us = 0

    def start(self) -> None:
        """Begin to remove what has ended, with what did so while nobody was there."""
        for row, _ in self._storage.scan(self.family, _END, _AFTER_END):
            self._set_alarm(_end_of(row))
            return

    # --- reading ----------------------------------------------------------------------------------

    def find(self, name: bytes) -> Entry | None:
        """Return an entry that has not ended, or None.

        Raises:
            Corrupted: it cannot be read.
        """
        entry = self._stored(name)
        if entry is None or (entry.ends_us and entry.ends_us <= self.now_us()):
            return None
        return entry

    def batches(self, prefix: bytes, after: bytes) -> Iterator[list[bytes]]:
        """Yield the names of the entries that have not ended, in order, a bounded number at a time.

        Parameters:
            prefix: of the names.
            after: names up to this one are left out.
        """
        start = max(prefix, after + b"\0") if after else prefix
        for entries in _batches(self._storage, self.family, start, prefix + _LAST):
            now_us = self.now_us()
            yield [name for name, entry in entries if not 0 < entry.ends_us <= now_us]

    # --- changes ----------------------------------------------------------------------------------

    def new_number(self) -> tuple[int, Put]:
        """Return a number that was never used in this family, and the row that keeps it so."""
        self._newest += 1
        return self._newest, (self.family, _COUNTER, self._newest.to_bytes(_NUMBER_BYTES, "big"))

    def put(
        self,
        name: bytes,
        value: bytes,
        *,
        ttl_us: int = 0,
        expected: int | None = None,
        deletes: tuple[Delete, ...] = (),
    ) -> Entry:
        """Store an entry, in place of the one with that name if there is one; return it.

        Parameters:
            ttl_us: how long it lives, in microseconds; 0: for ever.
            expected: the version that it must have; 0: there must be none; None: any.
            deletes: rows that go in the same batch.

        Raises:
            Conflict: it has another version.
        """
        known = self._stored(name)
        self._require_version(name, known, expected)
        version, counter = self.new_number()
        entry = Entry(version, self.now_us() + ttl_us if ttl_us else 0, value)
        puts = [counter, (self.family, _ENTRY + name, _HEAD.pack(version, entry.ends_us) + value)]
        leaving = list(deletes)
        if known is not None:
            puts += self.rows_of_leaving(known)
            if known.ends_us:
                leaving.append((self.family, _end_row(known.ends_us, name)))
        if entry.ends_us:
            puts.append((self.family, _end_row(entry.ends_us, name), b""))
        self.writer.write(puts, leaving)
        if known is not None:
            self.left(known)
        if entry.ends_us:
            self._set_alarm(entry.ends_us)
        return entry

    def remove(self, name: bytes, expected: int | None = None) -> bool:
        """Remove an entry; return whether there was one that had not ended.

        Raises:
            Conflict: it does not have the expected version.
        """
        known = self._stored(name)
        version = self._require_version(name, known, expected)
        if known is not None:
            deletes: list[Delete] = [(self.family, _ENTRY + name)]
            if known.ends_us:
                deletes.append((self.family, _end_row(known.ends_us, name)))
            self.writer.write(self.rows_of_leaving(known), deletes)
            self.left(known)
        return version != 0

    def rows_of_leaving(self, entry: Entry) -> list[Put]:
        """Return what is written in the same batch in which an entry goes."""
        return []

    def left(self, entry: Entry) -> None:
        """Take notice that an entry has gone."""

    def _require_version(self, name: bytes, known: Entry | None, expected: int | None) -> int:
        """Return the version of an entry, 0 when there is none or it has ended."""
        version = known.version if known is not None else 0
        if known is not None and 0 < known.ends_us <= self.now_us():
            version = 0
        if expected is not None and expected != version:
            found = f"it has version {version}" if version else "there is none"
            raise Conflict(
                f"version {expected} of {name.decode()!r} was expected, and {found}",
                hint="Somebody else was faster, or its time is over: read it again.",
            )
        return version

    def _stored(self, name: bytes) -> Entry | None:
        value = self._storage.get(self.family, _ENTRY + name)
        return None if value is None else _entry_of(name, value)

    # --- what has ended ---------------------------------------------------------------------------

    def _set_alarm(self, end_us: int) -> None:
        """Have everything removed that has ended at a moment, or a little later if that comes too soon."""
        when_us = max(end_us, self.now_us() + int(limits.SWEEP_INTERVAL_S * _SECOND_US))
        if self._alarm_us == 0 or when_us < self._alarm_us:
            self._alarm_us = when_us
            self._call_at(when_us, partial(self._ring, when_us))

    def _ring(self, when_us: int) -> None:
        """Sweep, unless another alarm was set since; called in the scheduler's thread."""
        if when_us == self._alarm_us and not self.writer.post(self._sweep):
            # There was no room. If it is closed, nobody calls this again.
            later_us = self.now_us() + int(limits.SWEEP_INTERVAL_S * _SECOND_US)
            self._call_at(later_us, partial(self._ring, when_us))

    def _sweep(self) -> None:
        """Remove entries that have ended, a bounded number at once."""
        self._alarm_us = next_us = 0
        now_us = self.now_us()
        puts: list[Put] = []
        deletes: list[Delete] = []
        gone: list[Entry] = []
        for ended, (row, _) in enumerate(self._storage.scan(self.family, _END, _AFTER_END)):
            end_us, name = _end_of(row), row[len(_END) + _NUMBER_BYTES :]
            if end_us > now_us or ended == limits.SIDE_WRITES_GROUP_MAX:
                next_us = end_us
                break
            deletes.append((self.family, row))
            entry = self._stored(name)
            if entry is not None and entry.ends_us == end_us:
                puts += self.rows_of_leaving(entry)
                deletes.append((self.family, _ENTRY + name))
                gone.append(entry)
        if deletes:
            self.writer.write(puts, deletes, lasting=False)
        for entry in gone:
            self.left(entry)
        if 0 < next_us <= now_us and self.writer.post(self._sweep):
            return
        if next_us:
            self._set_alarm(next_us)


def stored_entries(storage: Storage, family: Family) -> Iterator[Entry]:
    """Iterate over all entries of a family that were not removed yet."""
    for entries in _batches(storage, family, b"", _LAST):
        for _, entry in entries:
            yield entry


def _batches(
    storage: Storage, family: Family, start: bytes, stop: bytes
) -> Iterator[list[tuple[bytes, Entry]]]:
    while True:
        # Each batch is a scan of its own, so that what RocksDB fetches ahead is bounded, too.
        scan = storage.scan(family, _ENTRY + start, _ENTRY + stop)
        rows = list(islice(scan, limits.SIDE_WRITES_GROUP_MAX))
        yield [(row[1:], _entry_of(row[1:], value)) for row, value in rows]
        if len(rows) < limits.SIDE_WRITES_GROUP_MAX:
            return
        start = rows[-1][0][1:] + b"\0"


def _end_row(end_us: int, name: bytes) -> bytes:
    return _END + end_us.to_bytes(_NUMBER_BYTES, "big") + name


def _end_of(row: bytes) -> int:
    return int.from_bytes(row[len(_END) : len(_END) + _NUMBER_BYTES], "big")


def _entry_of(name: bytes, stored: bytes) -> Entry:
    try:
        version, ends_us = _HEAD.unpack_from(stored)
    except struct.error as error:
        raise Corrupted(f"the entry {name!r} cannot be read: {error}") from error
    return Entry(version, ends_us, stored[_HEAD.size :])

"""Ascending sequences of transactions: as they are stored, and what several of them have in common."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol

from klerk._facets import unpacked
from klerk._image import key_of
from klerk.codec import number_of
from klerk.errors import Corrupted
from klerk.storage.contract import Family, Storage


class Sequences(Protocol):
    """Sequences of transactions in ascending order."""

    def at_most(self, sequence: int) -> int:
        """Return the greatest one that is not greater than a sequence; 0 for none."""

    def at_least(self, sequence: int) -> int:
        """Return the smallest one that is not smaller than a sequence; 0 for none."""


class Entries:
    """The sequences of one value of a facet.

    Parameters:
        storage: that has the older ones.
        prefix: of the keys of its entries.
        recent: the newer ones.
    """

    def __init__(self, storage: Storage, prefix: bytes, recent: list[int]) -> None:
        self._storage = storage
        self._prefix = prefix
        self._recent = recent
        # The entry read last, and the sequences asked for between which it has the answer.
        self._entry: list[int] = []
        self._low, self._high = 1, 0

    def at_most(self, sequence: int) -> int:
        """See `Sequences.at_most`."""
        if self._recent and self._recent[0] <= sequence:
            return self._recent[bisect_right(self._recent, sequence) - 1]
        if not (self._entry and self._entry[0] <= sequence <= self._high):
            self._entry = self._before(sequence)
            self._high = sequence
            self._low = self._entry[0] if self._entry else 1
        return self._entry[bisect_right(self._entry, sequence) - 1] if self._entry else 0

    def at_least(self, sequence: int) -> int:
        """See `Sequences.at_least`."""
        if not (self._entry and self._low <= sequence <= self._entry[-1]):
            entry = self._before(sequence)
            if not entry or entry[-1] < sequence:
                entry = self._after(sequence)
            self._entry, self._low = entry, sequence
            self._high = entry[-1] if entry else 0
        if self._entry:
            return self._entry[bisect_left(self._entry, sequence)]
        at = bisect_left(self._recent, sequence)
        return self._recent[at] if at < len(self._recent) else 0

    def _before(self, sequence: int) -> list[int]:
        """Return the last entry that begins no later than a sequence; empty for none."""
        stop = self._prefix + key_of(sequence + 1)
        for key, value in self._storage.scan(Family.HISTORY, self._prefix, stop, reverse=True):
            return _unpacked(key, value)
        return []

    def _after(self, sequence: int) -> list[int]:
        """Return the first entry that begins later than a sequence; empty for none."""
        stop = self._prefix + b"\xff" * 8
        for key, value in self._storage.scan(Family.HISTORY, self._prefix + key_of(sequence + 1), stop):
            return _unpacked(key, value)
        return []


class Hours:
    """The sequences of several hours. Clocks mostly go forward, so few hours have to be looked at for each.

    Parameters:
        hours: the first and the last sequence of each hour, and its entries.
    """

    def __init__(self, hours: list[tuple[int, int, Sequences]]) -> None:
        self._by_first = sorted(hours, key=lambda hour: hour[0])
        self._by_last = sorted(hours, key=lambda hour: hour[1])
        self._firsts = [first for first, _, _ in self._by_first]
        self._lasts = [last for _, last, _ in self._by_last]
        # Where to stop looking: the greatest end of an hour and all before it, the smallest start of it and
        # all behind it.
        self._ends = list(accumulate((last for _, last, _ in self._by_first), max))
        self._starts = list(accumulate((first for first, _, _ in reversed(self._by_last)), min))[::-1]

    def at_most(self, sequence: int) -> int:
        """See `Sequences.at_most`."""
        # Hours that ended before compete with their last sequence; the others with what they hold.
        at = bisect_right(self._lasts, sequence)
        found = self._lasts[at - 1] if at else 0
        while at < len(self._by_last) and self._starts[at] <= sequence:
            found = max(found, self._by_last[at][2].at_most(sequence))
            at += 1
        return found

    def at_least(self, sequence: int) -> int:
        """See `Sequences.at_least`."""
        at = bisect_left(self._firsts, sequence)
        found = self._firsts[at] if at < len(self._firsts) else 0
        while at and self._ends[at - 1] >= sequence:
            at -= 1
            held = self._by_first[at][2].at_least(sequence)
            found = min(found, held) if found and held else found or held
        return found


def newest_first(of: Sequence[Sequences], newest: int) -> Iterator[int]:
    """Yield what is in all of several `Sequences`, from a sequence down."""
    sequence = newest
    while sequence > 0:
        found = sequence
        for each in of:
            found = each.at_most(found)
            if not found:
                return
        if found == sequence:
            yield found
            found -= 1
        sequence = found


def oldest_first(of: Sequence[Sequences], oldest: int, newest: int) -> Iterator[int]:
    """Yield what is in all of several `Sequences`, from one sequence up to another, both included."""
    sequence = oldest
    while sequence <= newest:
        found = sequence
        for each in of:
            found = each.at_least(found)
            if not found:
                return
        if found == sequence:
            yield found
            found += 1
        sequence = found


def _unpacked(key: bytes, value: bytes) -> list[int]:
    sequence = number_of(key[-8:])
    try:
        return unpacked(sequence, value)
    except ValueError as error:
        raise Corrupted(f"the history of {key[:-8].hex()} from {sequence} on cannot be read") from error

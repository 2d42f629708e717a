"""The marks: which jobs are running, in a small file beside the data, for when the process dies.

A mark is 8 bytes in a memory map: no system call, and it survives the process, because the page belongs to
the kernel by then. A power cut may lose marks or bring back old ones; no job was to blame for it, so marks
of an earlier start of the machine do not count. What they mean is known to the job manager. Nothing depends
on the file: when it is missing or damaged, or cannot be made, no job is blamed for what happened.
"""

import logging
import mmap
import os
from pathlib import Path
from typing import Final

from klerk import limits
from klerk.log_events import about
from klerk.storage.boot import current_boot

_logger = logging.getLogger("klerk.storage")

# Magic and format, then the start of the machine in which the marks were made.
_MAGIC: Final = b"KLMARK\0\1"
_BOOT: Final = slice(8, 24)
_HEAD_BYTES: Final = 24
_FILE_BYTES: Final = _HEAD_BYTES + 8 * limits.JOBS_MARKED_MAX


class MarkFile:
    """The open file of marks of one store.

    Attributes:
        found: the marks that the last run left.
        slots: the marks by their place, as numbers of 64 bits; 0 is none. What stands in them is in the file
            at once, until the file is released.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, and make it when it is missing or damaged.

        Raises:
            OSError: it cannot be made.
        """
        boot = current_boot()
        head = _intact_head(path)
        if head is None:
            _make(path)
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _FILE_BYTES)
        self.slots = memoryview(self._map)[_HEAD_BYTES:].cast("Q")
        self.found: tuple[int, ...] = ()
        if head is not None and head[_BOOT] == boot:
            self.found = tuple(mark for mark in self.slots if mark)
        else:
            # Before the head says that they are of this start of the machine.
            self.clear()
            self._map[_BOOT] = boot

    @classmethod
    def open(cls, path: Path) -> "MarkFile | None":
        """Open the file; return None, and log why, when it cannot be used."""
        try:
            return cls(path)
        except OSError as error:
            _logger.warning(
                "%s cannot be used, so a job that kills the process will not be known: %s",
                path,
                error,
                extra=about("marks_unused"),
            )
            return None

    def clear(self) -> None:
        """Remove all marks."""
        for place, mark in enumerate(self.slots):
            if mark:
                self.slots[place] = 0

    def release(self) -> None:
        """Close the file as it is; whoever still marks something does so in memory that nobody reads."""
        shared = self.slots
        self.slots = memoryview(bytearray(8 * limits.JOBS_MARKED_MAX)).cast("Q")
        shared.release()
        self._map.close()


def _intact_head(path: Path) -> bytes | None:
    """Return the head of the file, or None when there is no file, or one to be made anew."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    if size == _FILE_BYTES and head.startswith(_MAGIC):
        return head
    text = "%s is damaged, so it is not known which jobs ran last; it is made anew"
    _logger.warning(text, path, extra=about("marks_unused"))
    return None


def _make(path: Path) -> None:
    """Write every byte of a file without marks, so that no later mark can meet a full disk."""
    with open(path, "wb") as file:
        file.write(_MAGIC + bytes(_FILE_BYTES - len(_MAGIC)))
        file.flush()
        os.fsync(file.fileno())

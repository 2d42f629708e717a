"""The witness: the newest acknowledged position of the commit log, in a small file beside the data.

RocksDB cannot tell a write-ahead log that has lost its end from one that never had it. The witness can: it
lives in another file, and a log that does not reach it has lost commands that were acknowledged.

The file has two slots, written in turn, each with its own checksum. A slot is written by copying 80 bytes
into a memory map: no system call, and it survives the death of the process, because the page belongs to the
kernel by then. A torn slot leaves the other, which is one note older. After a power cut the file may be
older than the log, which is harmless; it is never newer, since a position is noted after it is durable.
"""

import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from klerk.errors import Corrupted, StorageError
from klerk.storage.boot import NO_BOOT, current_boot
from klerk.storage.contract import WITNESS_DIGEST_BYTES_MAX, Witness

# Magic and format, flags, digest length, generation, sequence, boot, digest, seal; the checksum follows.
_BODY = struct.Struct("<6sBBQQ16s32sI")
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"KLWIT1"
_CLEAN = 1

# Each slot has a page of its own, so that no single torn page or sector can hold both.
_SLOT_BYTES = 4096
_FILE_BYTES = 2 * _SLOT_BYTES
_SLOT_SIZE = _BODY.size + _CHECKSUM.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What one slot holds.

    Parameters:
        generation: counts the notes; the slot with the higher one is newer.
        sequence, digest: of the newest acknowledged record.
        seal: the checksum of the files that RocksDB starts from, as they were when the store was cleanly
            closed after this note; None when it was not.
        boot: the start of the machine in which the note was made, when it binds only until the next
            one (durability "process"); `NO_BOOT` when it binds for ever.
    """

    generation: int
    sequence: int
    digest: bytes
    seal: int | None
    boot: bytes

    def position(self) -> Witness:
        """Return the position that was noted."""
        return Witness(sequence=self.sequence, digest=self.digest)


class WitnessFile:
    """The open witness file of one store."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            Corrupted: it is missing, has the wrong size, or neither slot is intact.
        """
        self._path = path
        try:
            with open(path, "r+b") as file:
                if os.fstat(file.fileno()).st_size != _FILE_BYTES:
                    raise _corrupted(path, f"it is not {_FILE_BYTES} bytes long")
                self._map = mmap.mmap(file.fileno(), _FILE_BYTES)
        except FileNotFoundError as error:
            raise _corrupted(path, "it is missing") from error
        notes = [note for slot in (0, 1) if (note := self._read_slot(slot)) is not None]
        if not notes:
            self._map.close()
            raise _corrupted(path, "neither of its two slots is intact")
        self.found: Note = max(notes, key=lambda note: note.generation)
        self._generation = self.found.generation
        self._boot = self.found.boot
        self._last = (self.found.sequence, self.found.digest)

    @staticmethod
    def create(path: Path, seal: int) -> None:
        """Create the file of a new, closed store, durably, except for its entry in the directory.

        Every byte is written, so that no later copy into the map can meet a full disk.
        """
        first = _packed(0, 0, b"", NO_BOOT, seal)
        slot = first + bytes(_SLOT_BYTES - len(first))
        with open(path, "wb") as file:
            file.write(slot + slot)
            file.flush()
            os.fsync(file.fileno())

    def binding(self) -> Witness | None:
        """Return the position that the log must reach; None when there is none."""
        binds = self.found.boot in (NO_BOOT, current_boot())
        return self.found.position() if binds and self.found.sequence else None

    def begin(self, *, lasting: bool) -> None:
        """Mark the store as in use, durably and in both slots: one that was damaged is whole again.

        Parameters:
            lasting: whether what is noted from now on binds after the machine's next start, too.
        """
        # What does not bind now must not come to bind by being written again.
        binding = self.binding()
        self._last = (binding.sequence, binding.digest) if binding else (0, b"")
        self._boot = NO_BOOT if lasting else current_boot()
        for _ in range(2):
            self._write(*self._last)
            self._map.flush()

    def note(self, sequence: int, digest: bytes) -> None:
        """Note the newest acknowledged position."""
        self._write(sequence, digest)
        self._last = (sequence, digest)

    def end(self, seal: int) -> None:
        """Mark the store as cleanly closed, durably, and close the file."""
        self._write(*self._last, seal=seal)
        self._map.flush()
        self._map.close()

    def release(self) -> None:
        """Close the file as it is."""
        self._map.close()

    def copy_to(self, path: Path) -> None:
        """Write a copy that binds no newer position than is noted now."""
        with open(path, "wb") as file:
            file.write(self._map[:])
            file.flush()
            os.fsync(file.fileno())

    def _write(self, sequence: int, digest: bytes, *, seal: int | None = None) -> None:
        if len(digest) > WITNESS_DIGEST_BYTES_MAX:
            raise ValueError(f"a digest has at most {WITNESS_DIGEST_BYTES_MAX} bytes")
        generation = self._generation = self._generation + 1
        slot = _packed(generation, sequence, digest, self._boot, seal)
        offset = _SLOT_BYTES if generation & 1 else 0
        self._map[offset : offset + _SLOT_SIZE] = slot

    def _read_slot(self, slot: int) -> Note | None:
        start = slot * _SLOT_BYTES
        body = self._map[start : start + _BODY.size]
        (checksum,) = _CHECKSUM.unpack_from(self._map, start + _BODY.size)
        if zlib.crc32(body) != checksum:
            return None
        magic, flags, length, generation, sequence, boot, digest, seal = _BODY.unpack(body)
        if magic != _MAGIC or length > WITNESS_DIGEST_BYTES_MAX:
            return None
        return Note(
            generation=generation,
            sequence=sequence,
            digest=digest[:length],
            seal=seal if flags & _CLEAN else None,
            boot=boot,
        )


def _packed(generation: int, sequence: int, digest: bytes, boot: bytes, seal: int | None) -> bytes:
    flags = 0 if seal is None else _CLEAN
    body = _BODY.pack(_MAGIC, flags, len(digest), generation, sequence, boot, digest, seal or 0)
    return body + _CHECKSUM.pack(zlib.crc32(body))


def _corrupted(path: Path, what: str) -> StorageError:
    return Corrupted(
        f"the witness file {path} is damaged: {what}",
        hint="Without it nobody can tell whether acknowledged commands are missing. Restore a copy of "
        "the store.",
    )

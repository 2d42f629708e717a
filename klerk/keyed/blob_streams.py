"""The bytes of a blob on their way in and out, chunk by chunk."""

import io
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from klerk import limits
from klerk._dispatch import moment_of
from klerk.errors import ArgumentError, Corrupted, LimitExceeded
from klerk.keyed.blob_store import BlobStore, Manifest, Upload
from klerk.keyed.expiring import Entry
from klerk.keyed.keys import name_of

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Readable(Protocol):
    """What is used of a file that was opened for reading bytes."""

    def read(self, size: int, /) -> bytes: ...


BlobSource: TypeAlias = bytes | bytearray | memoryview | Readable | Iterable[bytes]
"""What a blob can be made of: bytes, a binary file, or pieces of any length."""


class BlobInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a blob.

    Parameters:
        key: its key.
        size: in bytes.
        sha256: of its content, in hexadecimal digits.
        content_type: as it was put, as in ``"image/png"``; may be empty.
        created_at: when it became visible, in UTC.
        expires_at: when it ends, in UTC; None: never.
    """

    key: str
    size: int
    sha256: str
    content_type: str
    created_at: datetime
    expires_at: datetime | None


class IncomingBlob:
    """Takes the bytes of a blob piece by piece, and stores them chunk by chunk."""

    def __init__(self, store: BlobStore, key: str, content_type: str, ttl_us: int, size_max: int) -> None:
        self._store = store
        self._key = key
        self._name = name_of(key)
        self._content_type = content_type
        self._ttl_us = ttl_us
        self._size_max = size_max
        self._upload = Upload()
        self._digest = sha256()
        self._size = 0
        self._pending = bytearray()

    def fits(self, piece: Any) -> bool:
        """Return whether `add` would only keep a piece in memory, without storing a chunk."""
        return len(self._pending) + len(_view(piece)) < limits.BLOB_CHUNK_BYTES

    def add_all(self, data: BlobSource) -> None:
        """Take everything that a source has."""
        for piece in _pieces(data):
            self.add(piece)

    def add(self, piece: Any) -> None:
        """Take some bytes.

        Raises:
            ArgumentError: they are none.
            LimitExceeded: that is more than the blob may have.
        """
        rest = _view(piece)
        self._size += len(rest)
        if self._size > self._size_max:
            raise LimitExceeded(
                f"the blob {self._key!r} has more than {self._size_max} bytes",
                hint="Raise size_max, or send less.",
            )
        while len(rest):
            room = limits.BLOB_CHUNK_BYTES - len(self._pending)
            self._pending += rest[:room]
            rest = rest[room:]
            if len(self._pending) == limits.BLOB_CHUNK_BYTES:
                self._store_chunk()

    def finish(self) -> BlobInfo:
        """Store the rest and make the blob visible."""
        if self._pending:
            self._store_chunk()
        entry, manifest = self._store.writer.do(
            partial(
                self._store.finish,
                self._upload,
                self._name,
                self._size,
                self._digest.digest(),
                self._content_type,
                self._ttl_us,
            )
        )
        return info_of(self._key, entry, manifest)

    def abandon(self) -> None:
        """Leave nothing behind, unless it was finished. What cannot be removed now is at the next start."""
        self._store.writer.post(partial(self._store.abandon, self._upload))

    def _store_chunk(self) -> None:
        chunk = bytes(self._pending)
        self._pending.clear()
        self._digest.update(chunk)
        self._store.writer.do(partial(self._store.add, self._upload, chunk))


class BlobReader(io.RawIOBase):
    """An open blob: a binary file that can be read and moved in, by one thread at a time.

    Iterating gives chunks, not lines. `read` returns as many bytes as were asked for, unless the blob ends.
    Whoever reads everything in order gets it verified: the last bytes are only given out when the SHA-256 is
    right.

    Every read raises `Corrupted` when what is stored is damaged, and `Closed` once the Klerk is closed.

    Attributes:
        info: what is known about the blob.
    """

    def __init__(self, store: BlobStore, info: BlobInfo, manifest: Manifest) -> None:
        super().__init__()
        self.info = info
        self._store = store
        self._manifest = manifest
        self._position = 0
        self._chunk = b""
        self._chunk_index = -1
        self._digest = sha256()
        self._verified = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        self._require_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position, as in any file, and return it."""
        self._require_open()
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.info.size}
        if whence not in origins or origins[whence] + offset < 0:
            raise ValueError(f"cannot seek to {offset} from {whence}")
        self._position = origins[whence] + offset
        return self._position

    def readinto(self, buffer: "Buffer", /) -> int:
        """Fill a buffer as far as the blob goes, and return the number of bytes."""
        target = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(target) and (piece := self._piece(len(target) - filled)):
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def readall(self) -> bytes:
        """Return everything up to the end."""
        return b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        self._require_open()
        return self

    def __next__(self) -> bytes:
        piece = self._piece(limits.BLOB_CHUNK_BYTES)
        if not piece:
            raise StopIteration
        return bytes(piece)

    def close(self) -> None:
        """Let go of the blob. Closing again does nothing."""
        if not self.closed:
            super().close()
            self._chunk = b""
            self._store.release(self._manifest.number)

    def _piece(self, count: int) -> memoryview:
        """Return at most so many bytes from the position on, of one chunk, and move behind them."""
        self._require_open()
        if self._position >= self.info.size:
            self._verify(self._position, memoryview(b""))
            return memoryview(b"")
        index, offset = divmod(self._position, self._manifest.chunk_bytes)
        if index != self._chunk_index:
            self._chunk, self._chunk_index = self._store.chunk(self._manifest, index), index
        piece = memoryview(self._chunk)[offset : offset + count]
        self._verify(self._position, piece)
        self._position += len(piece)
        return piece

    def _verify(self, position: int, piece: memoryview) -> None:
        """Add what comes next after all that was read so far; at the end, compare."""
        if position <= self._verified < position + len(piece):
            fresh = piece[self._verified - position :]
            self._digest.update(fresh)
            self._verified += len(fresh)
        at_end = position + len(piece) >= self._verified == self.info.size
        if at_end and self._digest.digest() != self._manifest.digest:
            raise Corrupted(
                f"the blob {self.info.key!r} is damaged: its SHA-256 is not the one that was stored",
                hint="Put it again, or restore a copy of the store.",
            )

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on a closed blob")


def info_of(key: str, entry: Entry, manifest: Manifest) -> BlobInfo:
    """Return what is known about a blob."""
    created_at = moment_of(manifest.created_us)
    assert created_at is not None
    return BlobInfo(
        key=key,
        size=manifest.size,
        sha256=manifest.digest.hex(),
        content_type=manifest.content_type,
        created_at=created_at,
        expires_at=moment_of(entry.ends_us),
    )


def _pieces(data: Any) -> Iterator[Any]:
    """Return what a source is made of, piece by piece."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return iter((data,))
    if hasattr(data, "read"):
        return iter(partial(data.read, limits.BLOB_CHUNK_BYTES), b"")
    if isinstance(data, str) or not isinstance(data, Iterable):
        raise ArgumentError(
            f"a blob is made of bytes, a binary file or an iterable of bytes, got {type(data).__name__}",
            hint="Encode text: data.encode().",
        )
    return iter(data)


def _view(piece: Any) -> memoryview:
    """Return a piece of a blob as bytes in place.

    Raises:
        ArgumentError: it is none.
    """
    try:
        return memoryview(piece).cast("B")
    except TypeError as error:
        raise ArgumentError(
            f"a blob is made of bytes, got a piece that is {type(piece).__name__}",
            hint="Encode text, and open files in binary mode.",
        ) from error


def require_content_type(content_type: Any) -> None:
    """Refuse what is no content type: it may end up in a header.

    Raises:
        ArgumentError: it is none.
    """
    if (
        type(content_type) is not str
        or len(content_type) > limits.CONTENT_TYPE_LENGTH_MAX
        or not (content_type.isascii() and content_type.isprintable())
    ):
        raise ArgumentError(
            f"a content type is printable ASCII of at most {limits.CONTENT_TYPE_LENGTH_MAX} characters,"
            f" got {content_type!r}",
            hint='As in "image/png".',
        )

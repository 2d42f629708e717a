"""How blobs are stored: in chunks under a number of their own, made visible by one entry at the end.

Rows beside those of `Shelf`, whose entries hold the manifests:

- ``c`` number, index: one chunk.
- ``u`` number: the chunks of this number, below the index that it says, belong to no blob: of an upload that
  is not finished, or of a blob that was replaced, removed or has ended. What is left of such rows by a run
  that ended is removed by the next one.
"""

import threading
from collections import deque
from collections.abc import Callable

import msgspec

from klerk import limits
from klerk.errors import Closed, Corrupted
from klerk.keyed.expiring import Entry, Shelf
from klerk.keyed.writer import SideWriter
from klerk.storage.contract import Delete, Family, Put

_CHUNK, _UNUSED, _AFTER_UNUSED = b"c", b"u", b"v"
_NUMBER_BYTES, _INDEX_BYTES = 8, 4


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """What is stored about a blob.

    Parameters:
        number: its chunks are under.
        size, chunk_bytes: of all, and of every chunk but the last.
        digest: SHA-256.
        created_us: when it became visible, in microseconds since 1970 UTC.
    """

    number: int
    size: int
    chunk_bytes: int
    digest: bytes
    content_type: str
    created_us: int

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.size // self.chunk_bytes)


_decode_manifest = msgspec.msgpack.Decoder(Manifest).decode
_encode = msgspec.msgpack.Encoder().encode


def manifest_of(entry: Entry) -> Manifest:
    """Return what an entry says about its blob.

    Raises:
        Corrupted: it cannot be read.
    """
    try:
        return _decode_manifest(entry.value)
    except msgspec.DecodeError as error:
        raise Corrupted(f"the manifest of a blob cannot be read: {error}") from error


class Upload:
    """The chunks of a blob that is not visible yet. Only the side writer's thread changes it.

    Attributes:
        number: 0 until the first chunk.
        chunks: how many are stored.
        announced: how many may be stored, as the store knows.
        ended: finished or abandoned; nothing is added any more.
    """

    def __init__(self) -> None:
        self.number = 0
        self.chunks = 0
        self.announced = 0
        self.ended = False


class BlobStore(Shelf):
    """Blobs in the store: their manifests, their chunks, and who reads them.

    The chunks of a blob that goes stay until nobody has it open.
    """

    def __init__(
        self,
        writer: SideWriter,
        now_us: Callable[[], int],
        call_at: Callable[[int, Callable[[], None]], None],
    ) -> None:
        super().__init__(Family.BLOBS, writer, now_us, call_at)
        self._opening = threading.Lock()
        self._readers: dict[int, int] = {}
        # Appended to by whoever closes a reader, perhaps the garbage collector, which must not take a lock.
        self._released: deque[int] = deque()
        # How many chunks of numbers without a blob may still be there.
        self._unused: dict[int, int] = {}

    def start(self) -> None:
        """Begin to remove what has ended, and what an earlier run left behind."""
        super().start()
        for row, value in self._storage.scan(self.family, _UNUSED, _AFTER_UNUSED):
            self._unused[int.from_bytes(row[1:], "big")] = int.from_bytes(value, "big")
        if self._unused:
            self.writer.post(self._collect)

    # --- reading ----------------------------------------------------------------------------------

    def open(self, name: bytes) -> tuple[Entry, Manifest] | None:
        """Return a blob's entry and manifest, or None; its chunks stay until `release`."""
        with self._opening:
            self._count_released()
            entry = self.find(name)
            if entry is None:
                return None
            manifest = manifest_of(entry)
            self._readers[manifest.number] = self._readers.get(manifest.number, 0) + 1
        return entry, manifest

    def chunk(self, manifest: Manifest, index: int) -> bytes:
        """Return one chunk.

        Raises:
            Corrupted: it is missing, or has another length than it must have.
        """
        chunk = self._storage.get(self.family, _chunk_row(manifest.number, index))
        expected = min(manifest.chunk_bytes, manifest.size - index * manifest.chunk_bytes)
        if chunk is None or len(chunk) != expected:
            found = "missing" if chunk is None else f"of {len(chunk)} bytes, not {expected}"
            raise Corrupted(f"chunk {index} of blob number {manifest.number} is {found}")
        return chunk

    def release(self, number: int) -> None:
        """Take notice that a reader is closed; this takes no lock and never waits."""
        self._released.append(number)
        if number in self._unused:
            self.writer.post(self._collect)

    # --- changes, in the side writer's thread -----------------------------------------------------

    def add(self, upload: Upload, chunk: bytes) -> None:
        """Store the next chunk of an upload.

        Raises:
            Closed: the upload was abandoned meanwhile.
        """
        _require_going_on(upload)
        puts: list[Put] = []
        if not upload.number:
            upload.number, counter = self.new_number()
            puts.append(counter)
        if upload.chunks == upload.announced:
            upload.announced += limits.BLOB_CHUNKS_ANNOUNCED
            puts.append(self._unused_row(upload.number, upload.announced))
        puts.append((self.family, _chunk_row(upload.number, upload.chunks), chunk))
        self.writer.write(puts, [], lasting=False)
        upload.chunks += 1

    def finish(
        self, upload: Upload, name: bytes, size: int, digest: bytes, content_type: str, ttl_us: int
    ) -> tuple[Entry, Manifest]:
        """Make an upload visible, in place of the blob with that name if there is one.

        Raises:
            Closed: the upload was abandoned meanwhile.
        """
        _require_going_on(upload)
        manifest = Manifest(
            number=upload.number,
            size=size,
            chunk_bytes=limits.BLOB_CHUNK_BYTES,
            digest=digest,
            content_type=content_type,
            created_us=self.now_us(),
        )
        unused = ((self.family, _unused_key(upload.number)),)
        entry = self.put(name, _encode(manifest), ttl_us=ttl_us, deletes=unused)
        upload.ended = True
        return entry, manifest

    def abandon(self, upload: Upload) -> None:
        """Remove what there is of an upload, unless it was finished."""
        if not upload.ended:
            upload.ended = True
            self._forget(upload.number, upload.announced)

    def rows_of_leaving(self, entry: Entry) -> list[Put]:
        """Return the row that marks the chunks as unused."""
        manifest = manifest_of(entry)
        return [self._unused_row(manifest.number, manifest.chunks)] if manifest.size else []

    def left(self, entry: Entry) -> None:
        """Have the chunks removed as soon as nobody reads them."""
        manifest = manifest_of(entry)
        self._forget(manifest.number, manifest.chunks)

    def _forget(self, number: int, chunks: int) -> None:
        if chunks:
            self._unused[number] = chunks
            self.writer.post(self._collect)

    def _collect(self) -> None:
        """Remove chunks that belong to no blob, a bounded number at once, the last ones first."""
        with self._opening:
            self._count_released()
            # Whatever is unused by now cannot be opened any more.
            free = [item for item in self._unused.items() if item[0] not in self._readers]
        room = limits.SIDE_WRITES_GROUP_MAX
        for number, chunks in free:
            left = max(0, chunks - room)
            deletes: list[Delete] = [
                (self.family, _chunk_row(number, index)) for index in range(left, chunks)
            ]
            if not left:
                deletes.append((self.family, _unused_key(number)))
            self.writer.write([], deletes, lasting=False)
            room -= chunks - left
            if left:
                self._unused[number] = left
            else:
                del self._unused[number]
            if room == 0:
                self.writer.post(self._collect)
                return

    def _count_released(self) -> None:
        """Count the readers that were closed; called with the lock."""
        while self._released:
            number = self._released.popleft()
            readers = self._readers[number] - 1
            if readers:
                self._readers[number] = readers
            else:
                del self._readers[number]

    def _unused_row(self, number: int, chunks: int) -> Put:
        return self.family, _unused_key(number), chunks.to_bytes(_INDEX_BYTES, "big")


def _require_going_on(upload: Upload) -> None:
    if upload.ended:
        raise Closed("the upload has ended", hint="Its caller was cancelled, or failed.")


def _chunk_row(number: int, index: int) -> bytes:
    return _CHUNK + number.to_bytes(_NUMBER_BYTES, "big") + index.to_bytes(_INDEX_BYTES, "big")


def _unused_key(number: int) -> bytes:
    return _UNUSED + number.to_bytes(_NUMBER_BYTES, "big")

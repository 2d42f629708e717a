"""The asyncio face of blobs: chunks are hashed, stored and fetched in threads, so that the loop goes on."""

from collections.abc import AsyncIterable, AsyncIterator
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Self

from klerk import limits
from klerk.aio_threads import AioThreads
from klerk.commands import Context
from klerk.errors import Closed
from klerk.keyed.blob_streams import BlobInfo, BlobReader, BlobSource
from klerk.keyed.blobs import Blobs
from klerk.keyed.keys import KeyPage, name_of
from klerk.keyed.keyvalue import keys_soon


class AioBlobs:
    """The asyncio face of `Blobs`."""

    def __init__(self, blobs: Blobs, threads: AioThreads) -> None:
        self._blobs = blobs
        self._threads = threads

    async def put(
        self,
        key: str,
        data: BlobSource | AsyncIterable[bytes],
        context: Context,
        *,
        ttl: timedelta | None = None,
        content_type: str = "",
        size_max: int = limits.BLOB_BYTES_MAX,
    ) -> BlobInfo:
        """See `Blobs.put`. The data may also be an asynchronous iterable of bytes, such as a request's body.

        A file or a plain iterable is read in a thread. A cancelled task leaves no blob, unless it was
        complete.
        """
        self._blobs.admit()
        stream = self._blobs.stream(key, ttl, content_type, size_max)
        await self._blobs.access.require_soon(context, "write", key)
        try:
            if isinstance(data, AsyncIterable):
                async for piece in data:
                    if stream.fits(piece):
                        stream.add(piece)
                    else:
                        await self._threads.run(stream.add, piece)
            else:
                await self._threads.run(stream.add_all, data)
            return await self._threads.run(stream.finish)
        except BaseException:
            stream.abandon()
            raise

    def open(self, key: str, context: Context) -> "AioBlobReader":
        """See `Blobs.open`; for ``async with``."""
        return AioBlobReader(self._blobs, key, context, self._threads)

    async def info(self, key: str, context: Context) -> BlobInfo | None:
        """See `Blobs.info`."""
        self._blobs.admit()
        name = name_of(key)
        await self._blobs.access.require_soon(context, "read", key)
        return self._blobs.known(key, name)

    async def delete(self, key: str, context: Context) -> bool:
        """See `Blobs.delete`."""
        self._blobs.admit()
        name = name_of(key)
        await self._blobs.access.require_soon(context, "delete", key)
        store = self._blobs.store
        return await store.writer.do_soon(partial(store.remove, name))

    async def keys(
        self, prefix: str, context: Context, *, limit: int = 100, after: str | None = None
    ) -> KeyPage:
        """See `Blobs.keys`."""
        self._blobs.admit()
        return await keys_soon(self._blobs.store, self._blobs.access, prefix, context, limit, after)


class AioBlobReader:
    """An open blob for a task: ``async with k.aio.blobs.open(key, context) as b: async for chunk in b``.

    As `BlobReader`, with the methods that read to be awaited.
    """

    def __init__(self, blobs: Blobs, key: str, context: Context, threads: AioThreads) -> None:
        self._blobs = blobs
        self._key = key
        self._context = context
        self._threads = threads
        self._reader: BlobReader | None = None

    @property
    def info(self) -> BlobInfo:
        """What is known about the blob."""
        return self._opened().info

    async def read(self, size: int = -1) -> bytes:
        """Return so many bytes, or fewer where the blob ends; all that is left for -1."""
        data = await self._threads.run(self._opened().read, size)
        return data or b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """See `BlobReader.seek`; this does not wait."""
        return self._opened().seek(offset, whence)

    def tell(self) -> int:
        """See `BlobReader.tell`."""
        return self._opened().tell()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read(limits.BLOB_CHUNK_BYTES):
            yield chunk

    async def __aenter__(self) -> Self:
        self._blobs.admit()
        name = name_of(self._key)
        await self._blobs.access.require_soon(self._context, "read", self._key)
        self._reader = self._blobs.reader(self._key, name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()

    def _opened(self) -> BlobReader:
        if self._reader is None:
            raise Closed(
                "this blob is not open", hint="Read inside: async with k.aio.blobs.open(...) as b: ..."
            )
        return self._reader

"""Blobs: files of any size, streamed in and out: ``k.blobs``."""

from datetime import timedelta
from functools import partial

from klerk import limits
from klerk.commands import Context
from klerk.errors import ArgumentError, NotFound
from klerk.keyed.access import KeyAccess
from klerk.keyed.blob_store import BlobStore, manifest_of
from klerk.keyed.blob_streams import (
    BlobInfo,
    BlobReader,
    BlobSource,
    IncomingBlob,
    info_of,
    require_content_type,
)
from klerk.keyed.keys import Admit, KeyPage, name_of, page_bounds, page_of, ttl_in_us


class Blobs:
    """Blobs by key, with a time to live, under the rules of `app.allow.blob` and `app.deny.blob`.

    A blob is stored in chunks and becomes visible at once when it is complete and durable; a crash or an
    error before that leaves nothing. No lock is held while it is streamed in or out, and never more than a
    chunk of it is in memory. Who has a blob open reads it to its end, whatever happens to the key meanwhile.
    As key-values, blobs are no part of the commit log and of no transaction.

    All methods raise `Denied` when no rule allows it, whether or not the key exists; `ArgumentError` or
    `LimitExceeded` for what is no key; `Closed`; and `NotPure` in a function that Klerk calls while it
    processes a command.

    Parameters:
        store: where they are.
        access: decides who may use which key.
        admit: raises when nothing may be used from here.
    """

    def __init__(self, store: BlobStore, access: KeyAccess, admit: Admit) -> None:
        self.store = store
        self.access = access
        self.admit = admit

    def put(
        self,
        key: str,
        data: BlobSource,
        context: Context,
        *,
        ttl: timedelta | None = None,
        content_type: str = "",
        size_max: int = limits.BLOB_BYTES_MAX,
    ) -> BlobInfo:
        """Store a blob under a key, in place of the one that is there.

        Parameters:
            data: bytes, a binary file, or an iterable of bytes; read piece by piece.
            ttl: how long it lives once it is complete; None: for ever.
            content_type: kept with it.
            size_max: refuse more bytes than these.

        Raises:
            LimitExceeded: there are more bytes.
            ArgumentError: the data is none, or an option has a value that it cannot have.
            StoreFailed: nothing can be written any more.
            Exception: what the file or the iterable raised.
        """
        self.admit()
        stream = self.stream(key, ttl, content_type, size_max)
        self.access.require(context, "write", key)
        try:
            stream.add_all(data)
            return stream.finish()
        except BaseException:
            stream.abandon()
            raise

    def open(self, key: str, context: Context) -> BlobReader:
        """Open a blob for reading, for ``with``.

        Raises:
            NotFound: there is none.
        """
        self.admit()
        name = name_of(key)
        self.access.require(context, "read", key)
        return self.reader(key, name)

    def info(self, key: str, context: Context) -> BlobInfo | None:
        """Return what is known about a blob, or None; the rules are asked as for reading it."""
        self.admit()
        name = name_of(key)
        self.access.require(context, "read", key)
        return self.known(key, name)

    def delete(self, key: str, context: Context) -> bool:
        """Remove a blob; return whether there was one. Who has it open reads on.

        Raises:
            StoreFailed: nothing can be written any more.
        """
        self.admit()
        name = name_of(key)
        self.access.require(context, "delete", key)
        return self.store.writer.do(partial(self.store.remove, name))

    def keys(self, prefix: str, context: Context, *, limit: int = 100, after: str | None = None) -> KeyPage:
        """Return the keys that begin with a prefix, in order, in pages; as `KeyValues.keys`."""
        self.admit()
        start, last = page_bounds(prefix, after, limit)
        self.access.require(context, "list", prefix)
        keys: list[str] = []
        for names in self.store.batches(start, last):
            keys += self.access.permitted(context, "list", [name.decode() for name in names])
            if len(keys) > limit:
                break
        return page_of(keys, limit)

    # --- what both faces use ----------------------------------------------------------------------

    def stream(self, key: str, ttl: timedelta | None, content_type: str, size_max: int) -> IncomingBlob:
        """Return what takes the bytes of a new blob, the options checked."""
        require_content_type(content_type)
        if type(size_max) is not int or size_max < 0:
            raise ArgumentError(f"size_max is a number of bytes, got {size_max!r}")
        return IncomingBlob(self.store, key, content_type, ttl_in_us(ttl), size_max)

    def reader(self, key: str, name: bytes) -> BlobReader:
        """Open a blob without asking anyone."""
        opened = self.store.open(name)
        if opened is None:
            raise NotFound(f"there is no blob {key!r}")
        return BlobReader(self.store, info_of(key, *opened), opened[1])

    def known(self, key: str, name: bytes) -> BlobInfo | None:
        """Return what is known about a blob, without asking anyone."""
        entry = self.store.find(name)
        return None if entry is None else info_of(key, entry, manifest_of(entry))

"""Key-values: small things that come and go, such as sessions, locks and caches: ``k.kv``."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec

from klerk import limits
from klerk._dispatch import moment_of
from klerk.commands import Context
from klerk.errors import ArgumentError, Corrupted, LimitExceeded
from klerk.keyed.access import KeyAccess
from klerk.keyed.expiring import Entry, Shelf
from klerk.keyed.keys import Admit, KeyPage, name_of, page_bounds, page_of, ttl_in_us

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_SCALARS = (type(None), bool, int, float, str, bytes)
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


class KeyValue(msgspec.Struct, frozen=True, kw_only=True):
    """A value with what is known about it.

    Parameters:
        key: its key.
        value: a copy of what was put.
        version: greater than that of everything that was put before, under any key.
        expires_at: when it ends, in UTC; None: never.
    """

    key: str
    value: Any
    version: int
    expires_at: datetime | None


class KeyValues:
    """Values by key, with a time to live, under the rules of `app.allow.kv` and `app.deny.kv`.

    They are no part of the commit log and of no transaction: what is personal or short-lived goes without a
    trace. Each change is atomic, all changes happen in one order, and a change is durable, as far as the
    store is, when its call returns. Another reader may see it a moment before that. Reading waits for
    nothing.

    A value is None, a bool, int (64 bits), float, str or bytes, or a list, tuple (which comes back as a list)
    or dict (with str or int keys) of these, of at most `limits.KV_VALUE_BYTES_MAX` bytes when stored.

    All methods raise `Denied` when no rule allows it, whether or not the key exists; `ArgumentError` or
    `LimitExceeded` for what is no key; `Closed`; and `NotPure` in a function that Klerk calls while it
    processes a command.

    Parameters:
        shelf: where they are.
        access: decides who may use which key.
        admit: raises when nothing may be used from here.
    """

    def __init__(self, shelf: Shelf, access: KeyAccess, admit: Admit) -> None:
        self.shelf = shelf
        self.access = access
        self.admit = admit

    def put(
        self,
        key: str,
        value: Any,
        context: Context,
        *,
        ttl: timedelta | None = None,
        expected: int | None = None,
    ) -> int:
        """Store a value under a key, in place of the one that is there; return its version.

        Parameters:
            ttl: how long it lives; None: for ever.
            expected: the version of the value that it replaces; 0: there must be none; None: whatever there
                is.

        Raises:
            Conflict: the expected version is not there.
            ArgumentError, LimitExceeded: the value cannot be stored.
            StoreFailed: nothing can be written any more.
        """
        self.admit()
        change = self.putting(key, value, ttl, expected)
        self.access.require(context, "write", key)
        return self.shelf.writer.do(change).version

    def get(self, key: str, context: Context, default: Any = None) -> Any:
        """Return the value under a key, or the default when there is none."""
        self.admit()
        name = name_of(key)
        self.access.require(context, "read", key)
        return self.value(name, default)

    def find(self, key: str, context: Context) -> KeyValue | None:
        """Return the value under a key with its version and its end, or None."""
        self.admit()
        name = name_of(key)
        self.access.require(context, "read", key)
        return self.found(key, name)

    def exists(self, key: str, context: Context) -> bool:
        """Return whether there is a value under a key; the rules are asked as for reading it."""
        self.admit()
        name = name_of(key)
        self.access.require(context, "read", key)
        return self.shelf.find(name) is not None

    def delete(self, key: str, context: Context, *, expected: int | None = None) -> bool:
        """Remove the value under a key; return whether there was one.

        Parameters:
            expected: as for `put`.

        Raises:
            Conflict: the expected version is not there.
            StoreFailed: nothing can be written any more.
        """
        self.admit()
        change = self.removing(key, expected)
        self.access.require(context, "delete", key)
        return self.shelf.writer.do(change)

    def keys(self, prefix: str, context: Context, *, limit: int = 100, after: str | None = None) -> KeyPage:
        """Return the keys that begin with a prefix, in order, in pages.

        The prefix must be permitted for "list"; keys that are not permitted for it are left out.

        Parameters:
            prefix: may be empty.
            limit: keys in a page, at most `limits.KEYS_PAGE_MAX`.
            after: what the page before said; None for the first.
        """
        self.admit()
        start, last = page_bounds(prefix, after, limit)
        self.access.require(context, "list", prefix)
        keys: list[str] = []
        for names in self.shelf.batches(start, last):
            keys += self.access.permitted(context, "list", [name.decode() for name in names])
            if len(keys) > limit:
                break
        return page_of(keys, limit)

    # --- what both faces use ----------------------------------------------------------------------

    def putting(
        self, key: str, value: Any, ttl: timedelta | None, expected: int | None
    ) -> Callable[[], Entry]:
        """Return the change that stores a value, everything about it checked."""
        name, ttl_us = name_of(key), ttl_in_us(ttl)
        _require_version(expected)
        return partial(self.shelf.put, name, encoded(value), ttl_us=ttl_us, expected=expected)

    def removing(self, key: str, expected: int | None) -> Callable[[], bool]:
        """Return the change that removes a value."""
        _require_version(expected)
        return partial(self.shelf.remove, name_of(key), expected)

    def value(self, name: bytes, default: Any) -> Any:
        """Return what is stored, without asking anyone."""
        entry = self.shelf.find(name)
        return default if entry is None else _decoded(name, entry.value)

    def found(self, key: str, name: bytes) -> KeyValue | None:
        """Return what is stored with its version and end, without asking anyone."""
        entry = self.shelf.find(name)
        if entry is None:
            return None
        return KeyValue(
            key=key,
            value=_decoded(name, entry.value),
            version=entry.version,
            expires_at=moment_of(entry.ends_us),
        )


class AioKeyValues:
    """The asyncio face of `KeyValues`."""

    def __init__(self, kv: KeyValues) -> None:
        self._kv = kv

    async def put(
        self,
        key: str,
        value: Any,
        context: Context,
        *,
        ttl: timedelta | None = None,
        expected: int | None = None,
    ) -> int:
        """See `KeyValues.put`. A cancelled task leaves the change in the queue."""
        self._kv.admit()
        change = self._kv.putting(key, value, ttl, expected)
        await self._kv.access.require_soon(context, "write", key)
        return (await self._kv.shelf.writer.do_soon(change)).version

    async def get(self, key: str, context: Context, default: Any = None) -> Any:
        """See `KeyValues.get`."""
        self._kv.admit()
        name = name_of(key)
        await self._kv.access.require_soon(context, "read", key)
        return self._kv.value(name, default)

    async def find(self, key: str, context: Context) -> KeyValue | None:
        """See `KeyValues.find`."""
        self._kv.admit()
        name = name_of(key)
        await self._kv.access.require_soon(context, "read", key)
        return self._kv.found(key, name)

    async def exists(self, key: str, context: Context) -> bool:
        """See `KeyValues.exists`."""
        return await self.find(key, context) is not None

    async def delete(self, key: str, context: Context, *, expected: int | None = None) -> bool:
        """See `KeyValues.delete`."""
        self._kv.admit()
        change = self._kv.removing(key, expected)
        await self._kv.access.require_soon(context, "delete", key)
        return await self._kv.shelf.writer.do_soon(change)

    async def keys(
        self, prefix: str, context: Context, *, limit: int = 100, after: str | None = None
    ) -> KeyPage:
        """See `KeyValues.keys`."""
        self._kv.admit()
        return await keys_soon(self._kv.shelf, self._kv.access, prefix, context, limit, after)


async def keys_soon(
    shelf: Shelf, access: KeyAccess, prefix: str, context: Context, limit: int, after: str | None
) -> KeyPage:
    """Return a page of the keys on a shelf, from a task."""
    start, last = page_bounds(prefix, after, limit)
    await access.require_soon(context, "list", prefix)
    keys: list[str] = []
    # One batch is read within a millisecond; the rules are asked while others may run.
    for names in shelf.batches(start, last):
        keys += await access.permitted_soon(context, "list", [name.decode() for name in names])
        if len(keys) > limit:
            break
    return page_of(keys, limit)


def encoded(value: Any) -> bytes:
    """Return a value as it is stored.

    Raises:
        ArgumentError: something in it cannot be stored; it is named.
        LimitExceeded: it is too large.
    """
    _require_storable(value, "the value", limits.KV_VALUE_DEPTH_MAX)
    try:
        stored = _encode(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ArgumentError(f"the value cannot be stored: {error}") from error
    if len(stored) > limits.KV_VALUE_BYTES_MAX:
        raise LimitExceeded(
            f"a value has at most {limits.KV_VALUE_BYTES_MAX} bytes, this one has {len(stored)} when stored",
            hint="Put it into k.blobs.",
        )
    return stored


def _require_storable(value: Any, where: str, depth: int) -> None:
    """Refuse what would not come back as it was put."""
    kind = type(value)
    if kind in _SCALARS:
        if kind is int and not _INT_MIN <= value <= _INT_MAX:
            raise ArgumentError(f"{where} is an int that does not fit into 64 bits", hint="Store it as text.")
        return
    if depth == 0:
        raise LimitExceeded(f"the value is nested deeper than {limits.KV_VALUE_DEPTH_MAX}")
    if kind is list or kind is tuple:
        for i, item in enumerate(value):
            _require_storable(item, f"{where}[{i}]", depth - 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) not in (str, int):
                raise ArgumentError(f"{where} has the key {key!r}; keys in a dict are str or int")
            _require_storable(key, f"a key of {where}", depth)
            _require_storable(item, f"{where}[{key!r}]", depth - 1)
    else:
        raise ArgumentError(
            f"{where} is {kind.__name__}, which cannot be stored",
            hint="Use None, bool, int, float, str, bytes, and lists, tuples and dicts of these.",
        )


def _require_version(expected: Any) -> None:
    if expected is not None and (type(expected) is not int or expected < 0):
        raise ArgumentError(
            f"the expected version is a number or None, got {expected!r}",
            hint="Take it from find(...).version, or use 0 for a key that must not exist.",
        )


def _decoded(name: bytes, stored: bytes) -> Any:
    try:
        return _decode(stored)
    except msgspec.DecodeError as error:
        raise Corrupted(f"the value under {name.decode()!r} cannot be read: {error}") from error

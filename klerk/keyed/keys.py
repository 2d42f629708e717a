"""What key-values and blobs have in common: keys, times to live, and pages of keys."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from klerk import limits
from klerk.errors import ArgumentError, LimitExceeded

Admit = Callable[[], None]
"""Raises when nothing may be used from here: the Klerk is closed, or this thread processes a command."""

_MICROSECOND = timedelta(microseconds=1)


class KeyPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some keys of a listing, in order.

    Parameters:
        keys: those that the actor may list.
        after: to be given to the next call; None when these were the last.
    """

    keys: tuple[str, ...]
    after: str | None


def name_of(key: Any, what: str = "key", *, empty: bool = False) -> bytes:
    """Return a key as it is stored.

    Parameters:
        what: for messages.
        empty: whether it may be empty, as a prefix may.

    Raises:
        ArgumentError: it is no text that can be stored.
        LimitExceeded: it is too long.
    """
    if type(key) is not str or not (key or empty):
        raise ArgumentError(
            f"a {what} is a text{'' if empty else ' that is not empty'}, got {key!r}",
            hint='As in "session:42".',
        )
    try:
        name = key.encode()
    except UnicodeEncodeError as error:
        raise ArgumentError(f"the {what} {key!r} cannot be stored: {error}") from error
    if len(name) > limits.KEY_BYTES_MAX:
        raise LimitExceeded(
            f"a {what} has at most {limits.KEY_BYTES_MAX} bytes in UTF-8, this one has {len(name)}",
            hint="Store a long name in the value, and use its hash as the key.",
        )
    return name


def ttl_in_us(ttl: Any) -> int:
    """Return a time to live in microseconds; 0 for None, which is for ever.

    Raises:
        ArgumentError: it is no timedelta, or none that lies ahead.
    """
    if ttl is None:
        return 0
    longest = timedelta(days=limits.TIMER_DELAY_DAYS_MAX)
    if not isinstance(ttl, timedelta) or not timedelta(0) < ttl <= longest:
        raise ArgumentError(
            f"a time to live is a timedelta above zero and of at most {longest.days} days, got {ttl!r}",
            hint="As in ttl=timedelta(minutes=30); leave it out for ever.",
        )
    return ttl // _MICROSECOND


def page_bounds(prefix: Any, after: Any, limit: Any) -> tuple[bytes, bytes]:
    """Return the prefix and the key to go on after, as they are stored.

    Raises:
        ArgumentError: they are no texts, or the limit is not possible.
    """
    if type(limit) is not int or not 1 <= limit <= limits.KEYS_PAGE_MAX:
        raise ArgumentError(f"the limit of a page is 1 to {limits.KEYS_PAGE_MAX}, got {limit!r}")
    return name_of(prefix, "prefix", empty=True), name_of("" if after is None else after, "key", empty=True)


def page_of(keys: list[str], limit: int) -> KeyPage:
    """Return the first keys as a page; one more than the limit shows that there are others."""
    more = len(keys) > limit
    return KeyPage(keys=tuple(keys[:limit]), after=keys[limit - 1] if more else None)

"""Cursors: places in a view as opaque texts, which are checked when they come back."""

import base64
import binascii
from hashlib import sha256
from typing import Any

from klerk.errors import ArgumentError
from klerk.selections import View

_DIGEST_BYTES = 8


def cursor_of(view: View[Any], entry: bytes) -> str:
    """Return the cursor of an entry in a view."""
    return base64.urlsafe_b64encode(_digest(view, entry) + entry).decode("ascii").rstrip("=")


def entry_at(view: View[Any], cursor: str) -> bytes:
    """Return the entry that a cursor stands for.

    Raises:
        ArgumentError: it was not made for this view, or was altered.
    """
    problem = f"{cursor!r} is no cursor of {view!r}"
    hint = "Pass `page.next` or `page.previous` of a page of the same view in the same order."
    try:
        raw = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
    except (AttributeError, UnicodeEncodeError, binascii.Error) as error:
        raise ArgumentError(problem, hint=hint) from error
    digest, entry = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if len(entry) < 8 or digest != _digest(view, entry):
        raise ArgumentError(problem, hint=hint)
    return entry


def _digest(view: View[Any], entry: bytes) -> bytes:
    return sha256(repr(view).encode("utf-8", "replace") + b"\0" + entry).digest()[:_DIGEST_BYTES]

"""Cursors: places in a view as opaque texts, which are checked when they come back."""

import hmac
from typing import Any

from klerk.errors import ArgumentError
from klerk.opaque import opaque_bytes, opaque_text
from klerk.selections import View

_SEAL_BYTES = 12


def cursor_of(secret: bytes, view: View[Any], entry: bytes) -> str:
    """Return the cursor of an entry in a view.

    Parameters:
        secret: of the store. Who does not know it can make no cursors, and learn nothing by guessing them.
    """
    return opaque_text(_seal(secret, view, entry) + entry)


def entry_at(secret: bytes, view: View[Any], cursor: str) -> bytes:
    """Return the entry that a cursor stands for.

    Raises:
        ArgumentError: it was not made for this view, or was altered.
    """
    problem = f"{cursor!r} is no cursor of {view!r}"
    hint = "Pass `page.next` or `page.previous` of a page of the same view in the same order."
    try:
        raw = opaque_bytes(cursor)
    except (AttributeError, ValueError) as error:
        raise ArgumentError(problem, hint=hint) from error
    seal, entry = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
    if len(entry) < 8 or not hmac.compare_digest(seal, _seal(secret, view, entry)):
        raise ArgumentError(problem, hint=hint)
    return entry


def _seal(secret: bytes, view: View[Any], entry: bytes) -> bytes:
    name = repr(view).encode("utf-8", "replace")
    return hmac.digest(secret, name + b"\0" + entry, "sha256")[:_SEAL_BYTES]

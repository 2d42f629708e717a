"""Bytes as texts that mean nothing to whoever keeps them: cursors and tokens."""

from base64 import urlsafe_b64decode, urlsafe_b64encode


def opaque_text(raw: bytes) -> str:
    """Return bytes as a text that fits into an address: base64url without padding (RFC 4648, section 5)."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def opaque_bytes(text: str) -> bytes:
    """Return the bytes of a text.

    Raises:
        ValueError: `opaque_text` makes no such text. Decoding alone would pass over unknown characters and
            loose bits at the end, so that many texts stood for the same bytes.
    """
    raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    if opaque_text(raw) != text:
        raise ValueError("it is another spelling of its bytes")
    return raw

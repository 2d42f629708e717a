"""Tokens: what a command carries so that it never takes effect twice, and may demand unchanged models."""

import hmac
import secrets
from hashlib import sha256
from typing import Final, NoReturn, Self

import msgspec

from klerk import limits
from klerk.errors import ArgumentError, InvalidValue
from klerk.opaque import opaque_bytes, opaque_text

__all__ = ["DIGEST_BYTES", "ID_BYTES", "Demands", "Token", "TokenSeal"]

FORMAT: Final = b"\x01"
ID_BYTES: Final = 16
SEAL_BYTES: Final = 16
DIGEST_BYTES: Final = 16

Demands = tuple[tuple[int, int], ...]
"""Model ids with the version that each must still have."""


class _Sealed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    id: bytes
    issued_us: int
    demands: Demands


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Sealed).decode


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """Lets a command take effect once, however often it is sent: `Klerk.handle` with ``token=``.

    Made by `Klerk.token`, read back from its text by `Klerk.parse_token`, or made of stable things by
    `Token.derived`. ``str(token)`` is the text, opaque and fit for a URL, a form or a header.

    Parameters:
        id: 16 bytes, unique.
        issued_us: when it was made, in microseconds since 1970 UTC; None for a derived one.
        demands: (id, version) of the models that must be unchanged when the command is handled.
        seal: of the store that made it; None for a derived one, which is derived again instead of being sent.
    """

    id: bytes
    issued_us: int | None = None
    demands: Demands = ()
    seal: "TokenSeal | None" = None

    @classmethod
    def derived(cls, *parts: str | int) -> Self:
        """Return the token that stands for these texts and numbers, in their order, on every machine.

        Its id is the beginning of the SHA-256 of the parts. Whoever knows the parts has the token, so its
        text is not accepted from outside.

        Raises:
            ArgumentError: there are no parts, or one is neither a text nor a whole number.
        """
        if not parts or any(type(part) not in (str, int) for part in parts):
            raise ArgumentError(
                f"a token is derived from texts and whole numbers, not from {parts!r}",
                hint="As in Token.derived('invoice', 7).",
            )
        # Whether a part is a number counts, and so does where one part ends.
        named = [(type(part).__name__, str(part)) for part in parts]
        try:
            return cls(id=sha256(b"klerk token" + _encode(named)).digest()[:ID_BYTES])
        except ValueError as error:
            raise ArgumentError(f"a token cannot be derived from {parts!r}: {error}") from error

    def __str__(self) -> str:
        return f"derived:{self.id.hex()}" if self.seal is None else self.seal.text_of(self)

    def __repr__(self) -> str:
        return f"<token {self.id.hex()}>"


class TokenSeal:
    """Makes the tokens of one store, and knows them again.

    The text of a token is base64url over the format, MessagePack of what it holds, and the first 16 bytes of
    an HMAC-SHA256 over both.

    Parameters:
        secret: 32 bytes that nobody else has.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def token(self, demands: Demands, now_us: int) -> Token:
        """Return a fresh token."""
        return Token(id=secrets.token_bytes(ID_BYTES), issued_us=now_us, demands=demands, seal=self)

    def text_of(self, token: Token) -> str:
        """Return what `parse` makes the token of."""
        body = FORMAT + _encode((token.id, token.issued_us, token.demands))
        return opaque_text(body + self._sealed(body))

    def made(self, token: Token) -> bool:
        """Return whether a token is of the same store, now or before it was opened last."""
        seal = token.seal
        return seal is self or (seal is not None and hmac.compare_digest(seal._secret, self._secret))

    def parse(self, text: str) -> Token:
        """Return the token with a text.

        Raises:
            InvalidValue: (``bad_token``) it is not exactly what this store once gave out.
        """
        if type(text) is not str:
            raise ArgumentError(f"expected a token or its text, got {type(text).__name__}")
        if len(text) > limits.TOKEN_TEXT_LENGTH_MAX:
            raise _bad_token()
        try:
            whole = opaque_bytes(text)
        except ValueError:
            raise _bad_token() from None
        body, seal = whole[:-SEAL_BYTES], whole[-SEAL_BYTES:]
        if not hmac.compare_digest(self._sealed(body), seal):
            raise _bad_token()
        if body[:1] != FORMAT:
            raise InvalidValue("the token was made by another version of Klerk", code="bad_token")
        sealed = _decode(body[1:])
        return Token(id=sealed.id, issued_us=sealed.issued_us, demands=sealed.demands, seal=self)

    def digest(self, use: bytes) -> bytes:
        """Return what tells one use of a token from another, and nothing about it to who lacks the secret: it
        stays in the commit log when the parameters are erased."""
        return hmac.digest(self._secret, b"use" + use, "sha256")[:DIGEST_BYTES]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token is sent to other processes as its text: str(token)")

    def _sealed(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")[:SEAL_BYTES]


def _bad_token() -> InvalidValue:
    return InvalidValue(
        "this is not the text of a token that this store gave out",
        code="bad_token",
        hint="Send it back exactly as str(token) gave it, to the same store.",
    )

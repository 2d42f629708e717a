"""The state that a job saves on its way, as it is stored with the job and read by its next attempt."""

from typing import Any, Final, TypeVar

import msgspec

from klerk import limits
from klerk.errors import ArgumentError, InvalidValue, LimitExceeded

T = TypeVar("T")

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode

_HINT: Final = "Save numbers, texts, lists, dicts and the like; of models, their references."


def encoded_state(state: Any) -> bytes:
    """Return a state as it is stored; None as nothing.

    Raises:
        ArgumentError: MessagePack has nothing for it, or something in it.
        LimitExceeded: it takes more than `limits.JOB_STATE_BYTES_MAX`.
    """
    if state is None:
        return b""
    try:
        encoded = _encode(state)
        _decode(encoded)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        text = f"a checkpoint cannot hold this {type(state).__name__}: {error}"
        raise ArgumentError(text, hint=_HINT) from error
    if len(encoded) > limits.JOB_STATE_BYTES_MAX:
        raise LimitExceeded(
            f"a checkpoint of {len(encoded):,} bytes, {limits.JOB_STATE_BYTES_MAX:,} are allowed",
            hint="Keep what is large in models or blobs, and where it is in the checkpoint.",
        )
    return encoded


def decoded_state(encoded: bytes) -> Any:
    """Return a stored state; None when there is none."""
    return _decode(encoded) if encoded else None


def typed_state(encoded: bytes, cls: type[T]) -> T | None:
    """Return a stored state as a type; None when there is none.

    Raises:
        InvalidValue: it does not fit the type.
    """
    if not encoded:
        return None
    try:
        return msgspec.msgpack.decode(encoded, type=cls)
    except msgspec.ValidationError as error:
        raise InvalidValue(
            f"the state that the job saved is no {getattr(cls, '__name__', cls)}: {error}",
            hint="An earlier version of the application may have saved it: read job.state.",
        ) from error

"""Used tokens as they are stored."""

import struct
from typing import Final, NamedTuple

from klerk.errors import Corrupted
from klerk.tokens.token import DIGEST_BYTES, ID_BYTES

FORMAT: Final = 1
JOB_FORMAT: Final = 2

# Format, id, when it was used, for how many commands, and their digest.
_ROW: Final = struct.Struct(f">B{ID_BYTES}sqi{DIGEST_BYTES}s")

# The same, and the id of the job whose command it was.
_JOB_ROW: Final = struct.Struct(f"{_ROW.format}q")


class UsedToken(NamedTuple):
    """A token that was used.

    Parameters:
        id: of the token.
        used_us: when, in microseconds since 1970 UTC.
        commands: how many there were; -1: one that is not in a list.
        digest: of the commands.
        job: the id of the job whose command it was; 0: of none.
    """

    id: bytes
    used_us: int
    commands: int
    digest: bytes
    job: int = 0


def packed(id: bytes, used_us: int, commands: int, digest: bytes, job: int) -> bytes:
    """Return the row of a used token; see `UsedToken`."""
    if job:
        return _JOB_ROW.pack(JOB_FORMAT, id, used_us, commands, digest, job)
    return _ROW.pack(FORMAT, id, used_us, commands, digest)


def read_row(sequence: int, row: bytes) -> UsedToken:
    """Return the token that a transaction used.

    Raises:
        Corrupted: it cannot be read.
    """
    try:
        version, *fields = (_JOB_ROW if row[:1] == bytes([JOB_FORMAT]) else _ROW).unpack(row)
    except struct.error as error:
        raise Corrupted(f"the token of transaction {sequence} cannot be read: {error}") from error
    if version not in (FORMAT, JOB_FORMAT):
        raise Corrupted(f"the token of transaction {sequence} has format {version}, expected {FORMAT}")
    return UsedToken(*fields)

"""Values in a form that is encoded alike in every process, to tell one use of a token from another."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from klerk.errors import InvalidValue

SCALARS: Final = frozenset({bool, bytes, float, int, str})
"""Values of these types are encoded alike in every process as they are."""

encode: Final[Callable[[Any], bytes]] = msgspec.msgpack.Encoder(
    decimal_format="string", uuid_format="canonical"
).encode


def canonical(field: Any, value: Any) -> Any:
    """Return a value, of a parameter of some type, in a form that is encoded alike in every process.

    Raises:
        InvalidValue: its type cannot store it.
    """
    if type(value) in SCALARS and type(value) is field.plain:
        return value
    problems: list[Any] = []
    value = field.coerce(value, "", problems)
    if problems:
        raise InvalidValue("a value that has no digest", problems=problems)
    return _ordered(value)


def _ordered(value: Any) -> Any:
    """Return a value with sets as lists: they have no order of their own."""
    if isinstance(value, frozenset):
        return sorted(encode(_ordered(each)) for each in value)
    if isinstance(value, msgspec.Struct):
        return [_ordered(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, tuple):
        return [_ordered(each) for each in value]
    return value

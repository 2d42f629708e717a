"""What the functions of jobs say that they return, and whether what they return is that."""

import types
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from klerk.codec import encode
from klerk.errors import Problem, listed
from klerk.field_types import Unsupported
from klerk.fields import Resolve, field_type
from klerk.job_outcomes import Completion, JobOutcome
from klerk.type_names import type_name

__all__ = ["ANYTHING", "Returns", "returns_of"]

Coerce = Callable[[Any, str, list[Problem]], Any]

_decode_anything: Final[Callable[[bytes], Any]] = msgspec.msgpack.Decoder().decode


def _leave(value: Any, path: str, problems: list[Problem]) -> Any:
    return value


class Returns(msgspec.Struct, frozen=True):
    """What a function says that it returns, apart from what says what becomes of the job.

    Parameters:
        label: the annotation as it is written.
        takes_none: None is one of the values.
        decode: gives the value that was encoded; raises `msgspec.ValidationError` when it is another.
        coerce: finds what is wrong with a value of this type.
        base: what a value must be an instance of; texts are kept of much that is none.
    """

    label: str = ""
    takes_none: bool = True
    decode: Callable[[bytes], Any] = _decode_anything
    coerce: Coerce = _leave
    base: type = object

    def problem(self, value: Any, encoded: bytes) -> str:
        """Return what is wrong with a value; nothing when it is one that may be returned.

        Parameters:
            encoded: the value as it is kept.
        """
        if value is None:
            return "" if self.takes_none else "None"
        got = type(value).__name__
        if not isinstance(value, self.base):
            return got
        problems: list[Problem] = []
        try:
            self.coerce(self.decode(encoded), "", problems)
        except msgspec.ValidationError as error:
            return f"{got}: {error}"
        return f"{got}: {listed(problems)}" if problems else ""


ANYTHING: Final = Returns()


def returns_of(function: Callable[..., Any], resolve: Resolve) -> Returns:
    """Return what a job's function says that it returns; `ANYTHING` where nothing can be made of that.

    Parameters:
        resolve: looks up names in annotations that are written as strings.
    """
    try:
        annotation = function.__annotations__["return"]
        label = type_name(annotation)
        if isinstance(annotation, str):
            annotation = resolve(annotation)
        return _compiled(_value_of(annotation), label, resolve)
    except Exception:
        # There is none, or it is one that only a type checker can make something of.
        return ANYTHING


def _value_of(annotation: Any) -> Any:
    """Return an annotation without what says what becomes of the job."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        values = [each for each in typing.get_args(annotation) if not _is_outcome(each)]
        return typing.Union[tuple(values)] if values else None  # noqa: UP007
    return None if _is_outcome(annotation) else annotation


def _is_outcome(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, JobOutcome | Completion)


def _compiled(annotation: Any, label: str, resolve: Resolve) -> Returns:
    if annotation in (Any, object):
        return ANYTHING
    plain = annotation
    coerce: Coerce = _leave
    base: type = object
    with suppress(Unsupported):
        # One of the types that fields can have, with what they demand of a value.
        field = field_type(annotation, resolve)
        plain, coerce = field.plain, field.coerce
        base = str if field.base is str else object
    decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(plain).decode
    takes_none = True
    try:
        decode(encode(None))
    except msgspec.ValidationError:
        takes_none = False
    return Returns(label=label, takes_none=takes_none, decode=decode, coerce=coerce, base=base)

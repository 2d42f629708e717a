"""Value types, references and models: what users declare their data with.

A value type checks in its constructor and returns the plain builtin, so ``type(Name("x")) is str``: models
hold plain values at no cost, while type checkers keep the types apart.
"""

import enum
import math
import re
from collections.abc import Iterable
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    NoReturn,
    Self,
    TypeVar,
    dataclass_transform,
)

import msgspec

from klerk import limits
from klerk._dispatch import Meta, MetaField, described
from klerk._dispatch import replace as replaced
from klerk.bounds import length_problems, line_problems, range_problems, wrong_type
from klerk.errors import ConfigError, FunctionFailed, InvalidValue, Problem, listed
from klerk.places import Place, here

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1


def refuse(name: str, problems: list[Problem]) -> NoReturn:
    """Raise `InvalidValue` for the value type called `name`."""
    raise InvalidValue(f"{name}: {listed(problems)}", problems=problems)


class _Value:
    """What the four value types share: their tags, their own validator, and how they are checked."""

    tags: ClassVar[frozenset[str]] = frozenset()
    has_validator: ClassVar[bool] = False

    @classmethod
    def validate(cls, value: Any) -> None:
        """Check what bounds cannot say; override and raise `ValueError` with a message for people."""

    @classmethod
    def problems_of(cls, value: Any, path: str = "") -> list[Problem]:
        """Return everything that is wrong with a value of the plain type."""
        problems = cls._bounds(value, path)
        if not problems:
            try:
                cls.validate(value)
            except ValueError as error:
                text, key = str(error) or "is not valid", f"{cls.__name__}.invalid"
                problems.append(Problem(code="invalid", message=text, path=path, key=key))
            except Exception as error:
                text = f"{described(cls.validate)} raised {type(error).__name__}: {error}"
                raise FunctionFailed(text) from error
        return problems

    @classmethod
    def _bounds(cls, value: Any, path: str) -> list[Problem]:
        raise NotImplementedError

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.has_validator = cls.validate.__func__ is not _Value.validate.__func__  # type: ignore[attr-defined]


class Text(str, _Value):
    """A constrained text, declared as ``class Name(klerk.Text, min=1, max=80): ...``.

    Parameters of the declaration:
        min, max: length in characters.
        lines: how many lines it may have; 1 allows no line breaks.
        pattern: regular expression that the whole text must match.
        tags: marks for rules, as in ``app.deny.field(tag="pii")``.
    """

    min_length: ClassVar[int] = 0
    max_length: ClassVar[int] = limits.TEXT_LENGTH_MAX
    lines_max: ClassVar[int | None] = None
    pattern: ClassVar[re.Pattern[str] | None] = None

    def __init_subclass__(
        cls,
        *,
        min: int | None = None,
        max: int | None = None,
        lines: int | None = None,
        pattern: str | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        super().__init_subclass__()
        cls.min_length = cls.min_length if min is None else min
        cls.max_length = cls.max_length if max is None else max
        if lines is not None and lines < 1:
            raise ConfigError(
                "K017",
                f"the option lines of {cls.__name__} must be at least 1, is {lines}.",
                where=str(here()),
                hint="Use lines=1 for a text without line breaks.",
            )
        cls.lines_max = cls.lines_max if lines is None else lines
        cls.pattern = cls.pattern if pattern is None else re.compile(pattern)
        cls.tags = cls.tags | frozenset(tags)

    def __new__(cls, value: str) -> Self:
        # What most texts are needs no list of problems.
        if (
            type(value) is str
            and cls.min_length <= len(value) <= cls.max_length
            and value.isascii()
            and cls.lines_max is None
            and (cls.pattern is None or cls.pattern.fullmatch(value) is not None)
            and not cls.has_validator
        ):
            return value  # type: ignore[return-value]
        problems = cls.problems_of(value)
        if problems:
            refuse(cls.__name__, problems)
        return str.__str__(value)  # type: ignore[return-value]

    @classmethod
    def _bounds(cls, value: Any, path: str) -> list[Problem]:
        if not isinstance(value, str):
            return [wrong_type(value, "a text", path)]
        problems = length_problems(len(value), cls.min_length, cls.max_length, "characters", path)
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            text = "has characters that are no Unicode text (lone surrogates)"
            problems.append(Problem(code="not_unicode", message=text, path=path))
        if cls.lines_max is not None:
            problems.extend(line_problems(value, cls.lines_max, path))
        if not problems and cls.pattern is not None and cls.pattern.fullmatch(value) is None:
            pattern = cls.pattern.pattern
            text = f"does not have the form {pattern}"
            problems.append(Problem(code="pattern", message=text, path=path, values={"pattern": pattern}))
        return problems


class Bytes(bytes, _Value):
    """Constrained bytes, declared as ``class Thumbnail(klerk.Bytes, max=10_000): ...``; bounds in bytes."""

    min_length: ClassVar[int] = 0
    max_length: ClassVar[int] = limits.BYTES_LENGTH_MAX

    def __init_subclass__(
        cls, *, min: int | None = None, max: int | None = None, tags: Iterable[str] = ()
    ) -> None:
        super().__init_subclass__()
        cls.min_length = cls.min_length if min is None else min
        cls.max_length = cls.max_length if max is None else max
        cls.tags = cls.tags | frozenset(tags)

    def __new__(cls, value: bytes) -> Self:
        problems = cls.problems_of(value)
        if problems:
            refuse(cls.__name__, problems)
        return bytes(value)  # type: ignore[return-value]

    @classmethod
    def _bounds(cls, value: Any, path: str) -> list[Problem]:
        if not isinstance(value, bytes):
            return [wrong_type(value, "bytes", path)]
        return length_problems(len(value), cls.min_length, cls.max_length, "bytes", path)


class Int(int, _Value):
    """A constrained 64-bit whole number, declared as ``class Cents(klerk.Int, ge=0, le=100_000): ...``."""

    low: ClassVar[int] = INT64_MIN
    high: ClassVar[int] = INT64_MAX

    def __init_subclass__(
        cls, *, ge: int | None = None, le: int | None = None, tags: Iterable[str] = ()
    ) -> None:
        super().__init_subclass__()
        cls.low = cls.low if ge is None else ge
        cls.high = cls.high if le is None else le
        cls.tags = cls.tags | frozenset(tags)

    def __new__(cls, value: int) -> Self:
        if type(value) is int:
            if cls.low <= value <= cls.high and not cls.has_validator:
                return value  # type: ignore[return-value]
        else:
            value = plain_int(value)
        problems = cls.problems_of(value)
        if problems:
            refuse(cls.__name__, problems)
        return value  # type: ignore[return-value]

    @classmethod
    def _bounds(cls, value: Any, path: str) -> list[Problem]:
        if not isinstance(value, int) or isinstance(value, bool):
            return [wrong_type(value, "a whole number", path)]
        return range_problems(value, cls.low, cls.high, path)


class Float(float, _Value):
    """A constrained finite number, declared as ``class Celsius(klerk.Float, ge=-273.15): ...``."""

    low: ClassVar[float | None] = None
    high: ClassVar[float | None] = None

    def __init_subclass__(
        cls, *, ge: float | None = None, le: float | None = None, tags: Iterable[str] = ()
    ) -> None:
        super().__init_subclass__()
        cls.low = cls.low if ge is None else ge
        cls.high = cls.high if le is None else le
        cls.tags = cls.tags | frozenset(tags)

    def __new__(cls, value: float) -> Self:
        value = plain_float(value)
        problems = cls.problems_of(value)
        if problems:
            refuse(cls.__name__, problems)
        return value  # type: ignore[return-value]

    @classmethod
    def _bounds(cls, value: Any, path: str) -> list[Problem]:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return [wrong_type(value, "a number", path)]
        if isinstance(value, int) and type(plain_float(value)) is int:
            text = f"has more digits than any number may have, {value.bit_length()} bits"
            return [Problem(code="too_large" if value > 0 else "too_small", message=text, path=path)]
        if not math.isfinite(value):
            text = f"must be a finite number, is {value}"
            return [Problem(code="not_finite", message=text, path=path, values={"value": value})]
        return range_problems(value, cls.low, cls.high, path)


def plain_int(value: Any) -> Any:
    """Return whatever counts as a whole number (a NumPy integer, say) as an int; anything else unchanged."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    return int(value.__index__())


def plain_float(value: Any) -> Any:
    """Return a number as a float; anything else unchanged, as is a whole number too large for one."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    try:
        return float(value)
    except OverflowError:
        return value


class Enum(enum.Enum):
    """A closed set of named values, declared as ``class Colour(klerk.Enum): RED = "red"``."""


M = TypeVar("M", bound="Model")


class RefTo(msgspec.Struct, frozen=True):
    """The model class, or its name, that a reference points to; found in a field's annotation."""

    target: Any


if TYPE_CHECKING:

    class Ref(int, Generic[M]):
        """A typed reference to a model of class `M`: at run time the model's id, a plain int."""

else:

    class Ref:
        """A typed reference to a model: at run time the model's id, a plain int."""

        def __new__(cls, value):
            return int(value)

        def __class_getitem__(cls, target):
            return Annotated[int, RefTo(target)]


class _Masked:
    """Stands for a value that may not be read. There is one, `MASKED`; it is false and shows nothing."""

    _instance: ClassVar[Self | None] = None

    def __new__(cls) -> Self:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "<masked>"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "MASKED"

    def __hash__(self) -> int:
        return id(self)


MASKED: Final[Any] = _Masked()


class ModelType(msgspec.StructMeta):
    """The type of model classes: every field of a subclass is keyword-only, and the place is noted."""

    __klerk_place__: Place

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> "ModelType":
        if any(isinstance(base, ModelType) for base in bases):
            options["kw_only"] = True
        cls: ModelType = super().__new__(mcls, name, bases, namespace, **options)
        cls.__klerk_place__ = here()
        return cls


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Model(msgspec.Struct, metaclass=ModelType, frozen=True, array_like=True, gc=False, kw_only=False):
    """The base of everything that Klerk keeps. Subclasses declare fields of immutable types, as in::

        class Member(Model):
            name: Name
            email: Email

    A model is immutable. One made by calling its class is a draft until a command stored it.
    """

    if TYPE_CHECKING:

        @property
        def _meta(self) -> Any: ...

        @property
        def meta(self) -> Meta[Self]:
            """What Klerk knows about this version: id, state, version and times."""

        def replace(self, **changes: Any) -> Self:
            """Return a draft with some fields changed, for an event to give back."""

    else:
        _meta: Any = None
        meta = MetaField()
        replace = replaced

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in field_names(type(self))}

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        meta = self._meta
        about = [] if meta is None else [("id", meta.id), ("state", str(meta.state))]
        return [*about, *self.as_dict().items()]

    def __repr__(self) -> str:
        text = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({text})"


def has_default(model_class: type[Model], name: str) -> bool:
    """Return whether a field may be left out."""
    defaults = model_class.__struct_defaults__
    at = model_class.__struct_fields__.index(name) - len(model_class.__struct_fields__) + len(defaults)
    return at >= 0 and defaults[at] is not msgspec.NODEFAULT


def field_names(model_class: type[Model]) -> tuple[str, ...]:
    """Return the names of the fields that the user declared, in order."""
    return model_class.__struct_fields__[1:]

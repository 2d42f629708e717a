"""Columns: numeric and time fields of many models as NumPy arrays."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, Self

import numpy as np

from klerk._dispatch import microseconds
from klerk.errors import ArgumentError
from klerk.field_types import FieldType


class Columns(tuple[Any, ...]):
    """NumPy arrays, one for each field that was asked for: in that order, by name (``columns["fee"]``) and as
    attributes (``columns.fee``)."""

    names: tuple[str, ...]

    def __new__(cls, names: tuple[str, ...], arrays: Iterable[Any]) -> Self:
        columns = super().__new__(cls, arrays)
        columns.names = names
        return columns

    def __getnewargs__(self) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        return self.names, tuple(self)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(f"no column {key!r}; there are {', '.join(self.names)}")
            key = self.names.index(key)
        return super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self.names:
            raise AttributeError(name)
        return self[name]

    def __repr__(self) -> str:
        return f"Columns({', '.join(f'{name}: {array.dtype}[{len(array)}]' for name, array in self.items())})"

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return pairs of name and array."""
        return zip(self.names, self, strict=True)


META_COLUMNS: Final = {
    "id": "int64",
    "version": "int64",
    "created_at": "datetime64[us]",
    "updated_at": "datetime64[us]",
    "entered_at": "datetime64[us]",
}
"""What `Model.meta` offers as a column, besides the fields."""

_NO_TIME: Final = np.iinfo(np.int64).min
_US: Final = timedelta(microseconds=1)


def column(models: list[Any], name: str, field: FieldType) -> Any:
    """Return one field of the models as an array.

    None becomes NaN in a column of numbers (whose type is float64 then), NaT in one of times, and 0 in one of
    references.

    Raises:
        ArgumentError: the field's type has no NumPy counterpart.
    """
    values = [getattr(model, name) for model in models]
    dtype = field.dtype
    if dtype is None:
        raise ArgumentError(f"the field '{name}' ({field.label}) is neither a number nor a time")
    if dtype == "datetime64[us]":
        return np.array([_NO_TIME if v is None else microseconds(v) for v in values], "int64").view(dtype)
    if dtype == "timedelta64[us]":
        return np.array([_NO_TIME if v is None else v // _US for v in values], "int64").view(dtype)
    if dtype == "datetime64[D]":
        return np.array(values, dtype)
    if field.kind == "ref":
        return np.array([0 if v is None else v for v in values], dtype)
    if field.nullable:
        return np.array([np.nan if v is None else v for v in values], "float64")
    return np.array(values, dtype)


def meta_column(models: list[Any], name: str) -> Any:
    """Return one of `META_COLUMNS` of the models as an array."""
    if name in ("id", "version"):
        return np.array([getattr(model._meta, name) for model in models], "int64")
    attribute = name.removesuffix("_at") + "_us"
    return np.array([getattr(model._meta, attribute) for model in models], "int64").view("datetime64[us]")

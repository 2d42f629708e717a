"""Veils: models that refuse to be asked about what is hidden of them, so that no selection tells about it."""

from inspect import getattr_static
from types import FunctionType
from typing import Any, NoReturn

from klerk.errors import Denied
from klerk.selections import View
from klerk.values import MASKED


class Veiled:
    """A model as functions of the application are asked about it on behalf of who may not see all of it.

    A masked value would answer some questions: it is not None, and not equal to anything. Under the veil,
    asking for a hidden field raises, whatever would have become of the answer.

    Parameters:
        shown: the model, with `MASKED` in what is hidden.
    """

    __slots__ = ("_shown",)

    def __init__(self, shown: Any) -> None:
        self._shown = shown

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._shown)

    def __getattr__(self, name: str) -> Any:
        shown = self._shown
        found = getattr_static(type(shown), name, None)
        if isinstance(found, (FunctionType, property)):
            # What the class computes of a model's fields sees no more of them.
            return found.__get__(self, type(shown))
        value = getattr(shown, name)
        if value is MASKED:
            raise _hidden(name)
        return value

    def __eq__(self, other: object) -> NoReturn:
        raise _hidden("all fields")

    __hash__ = None  # type: ignore[assignment]


def is_found_in(view: View[Any], shown: Any) -> bool:
    """Return whether a model is in a view by what is seen of it alone.

    Parameters:
        shown: the model, with `MASKED` in what is hidden.
    """
    try:
        return view.contains(Veiled(shown))
    except Exception:
        return False


def _hidden(name: str) -> Denied:
    return Denied(f"{name} is hidden")

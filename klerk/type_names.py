"""Annotations as their author would write them."""

import types
import typing
from typing import Annotated, Any

from klerk.values import RefTo


def type_name(annotation: Any) -> str:
    """Return an annotation as its author would write it."""
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    if annotation is types.NoneType:
        return "None"
    if annotation is Ellipsis:
        return "..."
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        for mark in annotation.__metadata__:
            if isinstance(mark, RefTo):
                return f"Ref[{type_name(mark.target)}]"
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if origin is not None:
        return f"{type_name(origin)}[{', '.join(map(type_name, arguments))}]"
    return getattr(annotation, "__name__", str(annotation))

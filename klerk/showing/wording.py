"""How declarations are told to people: functions by their names or source, types, durations, rates.

Functions of the application are never called here. What a lambda says is read from its source file.
"""

import ast
import contextlib
import functools
import inspect
import linecache
import types
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from klerk import limits
from klerk._dispatch import EventBase
from klerk.field_types import FieldType
from klerk.job_options import Rate
from klerk.jobs import Job
from klerk.places import place_of
from klerk.values import INT64_MAX, INT64_MIN

_LENGTH_MAX: Final = 80
_TREES_KEPT_MAX: Final = 64
_UNITS: Final = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def function_text(function: Callable[..., Any]) -> str:
    """Return the name of a function that gets the args; a lambda is told by its source, in which ``due``
    stands for ``a.model.due``."""
    return _text(function, ".model")


def key_text(function: Callable[..., Any]) -> str:
    """Return the name of a function that gets a model; in a lambda, ``email`` stands for ``m.email``."""
    name = getattr(function, "__name__", "")
    if name not in ("", "<lambda>") and (returned := _returned(function, "")):
        return returned
    return _text(function, "")


def meaning_of(function: Callable[..., Any]) -> str:
    """Return the first paragraph of a function's docstring, or what it returns if that is all it does."""
    documentation = inspect.getdoc(function) if hasattr(function, "__code__") else None
    if documentation:
        return paragraph(documentation)
    return "" if getattr(function, "__name__", "") == "<lambda>" else _returned(function, None)


def paragraph(text: str) -> str:
    """Return the first paragraph of a text, as one line."""
    return " ".join(text.strip().split("\n\n")[0].split())


def shortened(text: str, length_max: int = _LENGTH_MAX) -> str:
    """Return a text as one line of a bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= length_max else f"{line[: length_max - 3].rstrip()}..."


def duration_text(duration: timedelta) -> str:
    """Return a duration in words, as in ``1 hour 30 minutes``."""
    if timedelta(0) < duration < timedelta(seconds=1):
        return f"{duration / timedelta(milliseconds=1):g} ms"
    if duration < timedelta(0) or duration.microseconds:
        return str(duration)
    rest, words = duration // timedelta(seconds=1), []
    for unit, seconds in _UNITS:
        count, rest = divmod(rest, seconds)
        if count:
            words.append(f"{count:,} {unit}{'' if count == 1 else 's'}")
    return " ".join(words) or "0 seconds"


def rate_text(rate: Rate) -> str:
    """Return how often something may start, as in ``at most 20 per minute``."""
    return f"at most {rate.count:,} per {duration_text(rate.period).removeprefix('1 ')}"


def bounds_text(field: FieldType) -> str:
    """Return what a type allows beyond its name; empty when there is nothing to say."""
    label = field.label.removesuffix(" or none")
    plain = field.stored.removesuffix("?")
    if plain in ("str", "bytes"):
        low, high = field.low or None, field.high
        if high == (limits.TEXT_LENGTH_MAX if plain == "str" else limits.BYTES_LENGTH_MAX):
            high = None
        unit = "characters" if plain == "str" else "bytes"
        pattern = label.partition(" /")[2].removesuffix("/")
        return " ".join(
            [
                *([f"{text} {unit}"] if (text := _range_text(low, high)) else []),
                *([_lines_text(field.lines)] if field.lines else []),
                *([f"of the form {pattern}"] if pattern else []),
            ]
        )
    if plain in ("int", "float"):
        return _range_text(
            None if field.low == INT64_MIN else field.low, None if field.high == INT64_MAX else field.high
        )
    if plain == label or plain.startswith("ref "):
        return ""
    return label.replace(str(INT64_MIN), "").replace(str(INT64_MAX), "")


def _lines_text(lines_max: int) -> str:
    return "in one line" if lines_max == 1 else f"in at most {lines_max} lines"


def _range_text(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    if low is not None:
        return f"at least {_number(low)}"
    return "" if high is None else f"at most {_number(high)}"


def _number(value: float) -> str:
    return str(value) if abs(value) < 10_000 else f"{value:,}"


def _text(function: Callable[..., Any], subject: str) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    if name != "<lambda>":
        return name
    found = _lambda(function)
    if found is None:
        place = place_of(function)
        return f"a lambda in line {place.line}"
    return shortened(_unparsed(function, found, found.body, subject))


def _returned(function: Callable[..., Any], subject: str | None) -> str:
    """Return the expression that is all that a function consists of; empty when it does more."""
    code: types.CodeType | None = getattr(function, "__code__", None)
    for node in () if code is None else ast.walk(_tree(code.co_filename)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name != function.__name__:
            continue
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        last = node.body[-1]
        if code is not None and first == code.co_firstlineno and isinstance(last, ast.Return):
            is_all = len(node.body) == (1 if ast.get_docstring(node) is None else 2)
            return shortened(_unparsed(function, node, last.value, subject)) if is_all and last.value else ""
    return ""


def _lambda(function: Callable[..., Any]) -> ast.Lambda | None:
    """Return the lambda expression that a function was made from, found by the columns in its code."""
    code: types.CodeType = function.__code__
    nodes = [
        node
        for node in ast.walk(_tree(code.co_filename))
        if isinstance(node, ast.Lambda) and node.lineno == code.co_firstlineno
    ]
    if len(nodes) > 1:
        spans = set(code.co_positions())
        nodes = [node for node in nodes if _span(node.body) in spans]
    return nodes[0] if len(nodes) == 1 else None


def _span(node: ast.expr) -> tuple[int, int | None, int, int | None]:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


@functools.lru_cache(maxsize=_TREES_KEPT_MAX)
def _tree(file: str) -> ast.Module:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        # The file was changed since it ran, or is none.
        return ast.Module(body=[], type_ignores=[])


def _unparsed(
    function: Callable[..., Any],
    node: ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef,
    body: ast.expr,
    subject: str | None,
) -> str:
    parameters = [*node.args.posonlyargs, *node.args.args]
    if subject is None or not parameters:
        return ast.unparse(body)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return ast.unparse(_Told(f"{parameters[0].arg}{subject}", dict(cells)).visit(body))


class _Told(ast.NodeTransformer):
    """Turns ``a.model.due`` into ``due``, and names the events and jobs that the function around handed in.

    It makes new nodes, as the tree is shared.
    """

    def __init__(self, subject: str, cells: dict[str, types.CellType]) -> None:
        self._subject = subject
        self._cells = cells

    def generic_visit(self, node: ast.AST) -> ast.AST:
        copy = type(node)(**{name: self._visited(value) for name, value in ast.iter_fields(node)})
        return ast.copy_location(copy, node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if ast.unparse(node.value) == self._subject:
            return ast.copy_location(ast.Name(node.attr, node.ctx), node)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        cell = self._cells.get(node.id)
        with contextlib.suppress(ValueError):  # an empty cell
            if cell is not None and isinstance(cell.cell_contents, (EventBase, Job)):
                declared: Any = cell.cell_contents
                return ast.copy_location(ast.Name(declared.name, node.ctx), node)
        return node

    def _visited(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._visited(each) for each in value]
        return self.visit(value) if isinstance(value, ast.AST) else value

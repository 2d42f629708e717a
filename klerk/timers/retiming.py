"""Computing anew when timers are due, where the design that a store is opened with has others than before.

When a model's next timer is due stands in the model; it was computed by the design of that time. So the store
keeps a fingerprint of each state's timers. Where it differs at open, the moment is computed anew for every
model in the state, as if it had changed last under the new design. A moment that is over by then comes at
once; timers that have fired in the state do not come again unless their new moment is later than that.

The fingerprint sees kinds and delays, and of the functions given to `at` the code: instructions, constants,
names, defaults, and, where they are plain values or functions, what they use of the module and of the
function around them; files and lines are left out. It does not see what is behind attributes
(``settings.delay``), in objects that are no plain values, in functions not written in Python, or in what the
context provider gives. Another version of Python may compile the same code to other instructions: then
moments are computed once more, which changes none.
"""

import types
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from functools import partial
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec

from klerk import limits
from klerk._dispatch import ClassPlan, StatePlan
from klerk._image import key_of
from klerk.commands import Actor, Context, System
from klerk.errors import FunctionFailed, KlerkError, SchemaChanged
from klerk.processing import Clock, Program
from klerk.storage.contract import Family, Storage

TIMERS_KEY: Final = b"timers"

Progress = Callable[[str, int, int], None]

# Values whose text says all about them.
_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    datetime,
    date,
    time,
    timedelta,
    tzinfo,
    Decimal,
    UUID,
)


class Retiming:
    """Brings the timers of loaded models up to the design: first in memory, then in the store.

    Parameters:
        storage: of the models.
        program: with all models in its table.
        since: models of classes that were stored otherwise up to this schema version get their timers anew,
            because a migration may have changed what their moments depend on.
    """

    def __init__(self, storage: Storage, program: Program, *, since: int) -> None:
        self._storage = storage
        self._program = program
        self._since = since
        self._before = _read(storage.get(Family.META, TIMERS_KEY))
        self._now = dict(_fingerprints(program.plans))
        self._changed: list[int] = []

    def compute(self, clock: Clock, progress: Progress) -> None:
        """Compute anew when timers are due, where that may have changed. Nothing is written.

        Raises:
            SchemaChanged: the functions of a timer fail for stored models, each of which is named.
            FunctionFailed: the context provider failed.
        """
        if self._before != self._now or any(plan.since > self._since for plan in self._program.plans):
            self._changed = _changed_models(
                self._program, self._before, self._now, self._since, clock, progress
            )

    def write(self, progress: Progress) -> None:
        """Store the models whose timers are due at another moment now.

        The old fingerprint goes before the first model is changed and the new one comes after the last:
        whatever is interrupted in between is done again, also by an older design that the store goes back to.
        """
        changed, storage = self._changed, self._storage
        if changed:
            storage.write([], [(Family.META, TIMERS_KEY)])
            size = limits.CHECKPOINT_BATCH_RECORDS
            for start in range(0, len(changed), size):
                ids = changed[start : start + size]
                images = [(id, self._program.processor.stored_image(id)) for id in ids]
                storage.write([(Family.MODELS, key_of(id), image) for id, image in images], [])
                progress("writing timers", start, len(changed))
            storage.sync()
        if changed or self._before != self._now:
            storage.write([(Family.META, TIMERS_KEY, msgspec.json.encode(self._now))], [])


def _read(stored: bytes | None) -> dict[str, str] | None:
    """Return the fingerprints by state; None when they are not known, and any model may need its timers."""
    try:
        return None if stored is None else msgspec.json.decode(stored, type=dict[str, str])
    except msgspec.DecodeError:
        return None


def _changed_models(
    program: Program,
    before: dict[str, str] | None,
    now: dict[str, str],
    since: int,
    clock: Clock,
    progress: Progress,
) -> list[int]:
    """Compute timers anew and return the ids of the models whose moment is another one by that."""
    changed: list[int] = []
    failures: list[str] = []
    count = 0
    context = Context(System("timers of a changed design"))
    for plan, state, name in _states(program.plans):
        if before is not None and before.get(name) == now.get(name) and plan.since <= since:
            continue
        if state.timers and len(state.ids):
            context = _context(program, context.actor, clock)
        for id in state.ids:
            try:
                if program.processor.retime(plan, id, context):
                    changed.append(id)
            except KlerkError as error:
                failures.append(f"{plan.name} {id}: {error.message}")
            count += 1
            if count % 4096 == 0:
                progress("computing timers", count, len(program.table))
    if failures:
        raise _refusal(failures)
    return changed


def _context(program: Program, actor: Actor, clock: Clock) -> Context:
    try:
        return program.spec.system_context(actor, clock())
    except Exception as error:
        raise FunctionFailed(
            f"the context provider raised {type(error).__name__} for timers of a changed design: {error}"
        ) from error


def _refusal(failures: list[str]) -> SchemaChanged:
    shown = failures[: limits.TIMER_FAILURES_SHOWN_MAX]
    if len(failures) > len(shown):
        shown.append(f"and {len(failures) - len(shown):,} more")
    return SchemaChanged(
        "timers were changed, and for these models it cannot be told when they are due:\n  - "
        + "\n  - ".join(shown),
        hint="Let the functions return None where there is no moment. Nothing was changed in the store.",
    )


def _states(plans: list[ClassPlan]) -> Iterator[tuple[ClassPlan, StatePlan, str]]:
    for plan in plans:
        for state in plan.states:
            yield plan, state, f"{plan.name}.{state.state.name}"


def _fingerprints(plans: list[ClassPlan]) -> Iterator[tuple[str, str]]:
    """Yield every state that has timers, with their fingerprint."""
    for _, state, name in _states(plans):
        # The earliest counts, so the order in which they are declared does not.
        parts = sorted(
            ["after", timer.delay_us] if timer.due is None else ["at", _digest(timer.due.function)]
            for timer in state.timers
        )
        if parts:
            yield name, sha256(msgspec.json.encode(parts)).hexdigest()


def _digest(function: Any) -> str:
    return sha256(repr(_value(function, set())).encode()).hexdigest()


def _value(value: Any, seen: set[Any], depth: int = 0) -> object:
    """Return what a value means for a timer, as plain values with a stable text."""
    if depth > limits.TYPE_DEPTH_MAX:
        # Containers can hold themselves.
        return "deep"
    if isinstance(value, types.FunctionType):
        return _function(value, seen)
    if isinstance(value, types.MethodType) and isinstance(value.__func__, types.FunctionType):
        return "method", _function(value.__func__, seen)
    if isinstance(value, types.CodeType):
        return _code(value, seen)
    if isinstance(value, partial):
        return "partial", [_value(each, seen, depth + 1) for each in (value.func, value.args, value.keywords)]
    if isinstance(value, (tuple, list)):
        return [_value(each, seen, depth + 1) for each in value]
    if isinstance(value, (set, frozenset)):
        # Its order differs from one process to the next.
        return "set", sorted(repr(_value(each, seen, depth + 1)) for each in value)
    if isinstance(value, dict):
        return "dict", [
            (_value(key, seen, depth + 1), _value(each, seen, depth + 1)) for key, each in value.items()
        ]
    return _single(value, seen)


def _single(value: Any, seen: set[Any]) -> object:
    if isinstance(value, Enum):
        return type(value).__qualname__, value.name
    if isinstance(value, _PLAIN):
        return type(value).__name__, repr(value)
    if isinstance(value, (type, types.BuiltinFunctionType, types.ModuleType)):
        return "named", getattr(value, "__qualname__", getattr(value, "__name__", ""))
    call: Any = vars(type(value)).get("__call__")
    return type(value).__qualname__, _function(call, seen) if isinstance(call, types.FunctionType) else ""


def _function(function: types.FunctionType, seen: set[Any]) -> object:
    if function in seen:
        return "again"
    seen.add(function)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    around = [(name, _cell(cell, seen)) for name, cell in cells]
    used = sorted(_names(function.__code__) & function.__globals__.keys())
    of_module = [(name, _value(function.__globals__[name], seen)) for name in used]
    defaults = _value((function.__defaults__ or (), function.__kwdefaults__ or {}), seen)
    return "function", _code(function.__code__, seen), defaults, around, of_module


def _cell(cell: Any, seen: set[Any]) -> object:
    try:
        return _value(cell.cell_contents, seen)
    except ValueError:
        return "empty"


def _names(code: types.CodeType) -> set[str]:
    """Return the names that a function uses, those of functions inside of it included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _code(code: types.CodeType, seen: set[Any]) -> object:
    constants = [_value(constant, seen) for constant in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars, code.co_argcount

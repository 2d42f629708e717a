"""How functions of the application take their arguments, found once when the design is compiled."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from klerk._dispatch import Call, Rule
from klerk.declared import DeclaredRule
from klerk.errors import ConfigError
from klerk.places import place_of

ALONE, POSITIONAL, CHOSEN, KEYWORDS, VALUES = 0, 1, 2, 3, 4


def call_of(function: Callable[..., Any], names: Sequence[str], what: str) -> Call:
    """Return how a function is called that may want any of an event's parameters after its first.

    Parameters:
        function: takes the args first.
        names: of the parameters that there are.
        what: for messages, as in "the rule of Loan.lend".

    Raises:
        ConfigError: it wants a parameter that there is not.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise _misfit(function, what, "it is a coroutine, and nothing is awaited here")
    try:
        wanted = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return Call(function)
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in wanted):
        return Call(function, POSITIONAL)
    if not wanted:
        raise _misfit(function, what, "it takes no first parameter, which Klerk fills with the args")
    rest = [parameter for parameter in wanted[1:] if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    if not rest:
        return Call(function)
    unknown = [p.name for p in rest if p.name not in names and p.default is inspect.Parameter.empty]
    if unknown:
        known = f"the event has {', '.join(names)}" if names else "there are no parameters on this occasion"
        raise _misfit(function, what, f"it wants '{unknown[0]}', and {known}")
    rest = [parameter for parameter in rest if parameter.name in names]
    if any(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in rest):
        if [parameter.name for parameter in rest] != list(names):
            raise _misfit(
                function, what, "a function with keyword-only parameters must take all of them, in order"
            )
        return Call(function, KEYWORDS, tuple(names))
    if [parameter.name for parameter in rest] == list(names):
        return Call(function, POSITIONAL)
    return Call(function, CHOSEN, tuple(names.index(parameter.name) for parameter in rest))


def _misfit(function: Callable[..., Any], what: str, problem: str) -> ConfigError:
    return ConfigError(
        "K008",
        f"{getattr(function, '__name__', function)} cannot serve as {what}: {problem}.",
        where=str(place_of(function)),
        hint="Declare it as (a: Args, ...) with names from the event's parameters, or with a alone.",
    )


def rule_of(rule: DeclaredRule, names: Sequence[str], owner: object) -> Rule:
    """Return a declared rule of an event or machine as the dispatch table has it."""
    call = call_of(rule.function, names, f"a rule of {owner}")
    return Rule(call, rule.code, rule.message, rule.path, f"{owner}.{rule.code}")

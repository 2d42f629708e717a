"""Texts for people in their own language: what a translation is asked, and what becomes of an error."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from klerk import limits
from klerk.errors import Conflict, Denied, KlerkError, NotFound, Rejected, listed
from klerk.log_events import about
from klerk.restating import restated

LOG = logging.getLogger("klerk")

E = TypeVar("E", bound=KlerkError)


class Translation:
    """Gives what people read; this one gives it in English. Override `text` and put it into a `Context`.

    It is asked when a command is refused, once for each problem, and by `klerk.label`. It must not wait for
    anything: others' commands wait meanwhile.
    """

    def text(self, key: str, default: str, values: Mapping[str, Any]) -> str:
        """Return a text.

        Parameters:
            key: what it says: the code of a problem, as in ``"too_long"``; for rules and validators the event
                or model, too, as in ``"Loan.lend.member_is_active"``; ``"event.Loan.lend"`` and the like for
                labels; ``"problems"`` for the line above several of them; with ``".hint"`` for a hint.
            default: the text in English.
            values: the numbers and names in it, as in ``{"max": 80, "length": 100}``.
        """
        return default


Text = Callable[[str, str, Mapping[str, Any]], str]


def text_of(translation: Translation) -> Text:
    """Return a translation's `text` as a function that gives the default where the translation fails."""

    def text(key: str, default: str, values: Mapping[str, Any]) -> str:
        try:
            found: Any = translation.text(key, default, values)
        except Exception:
            LOG.exception(
                "the translation failed with %r, which stays in English",
                key,
                extra=about("translation_failed", key=key),
            )
            return default
        if not isinstance(found, str):
            LOG.error(
                "the translation gave %s for %r, expected a text",
                type(found).__name__,
                key,
                extra=about("translation_failed", key=key),
            )
            return default
        return found

    return text


def translated(error: E, translation: Translation | None) -> E:
    """Return a refusal in the language of a translation; errors that are for programmers as they are."""
    if translation is None or not isinstance(error, (Rejected, Denied, NotFound, Conflict)):
        return error
    text = text_of(translation)
    problems = []
    for each in error.problems[: limits.PROBLEMS_MAX]:
        key = each.key or each.code
        hint = each.hint and text(f"{key}.hint", each.hint, each.values)
        problems.append(replace(each, message=text(key, each.message, each.values), hint=hint))
    # No more are shown, and a command with a hundred thousand problems holds up everybody's commands.
    problems.extend(error.problems[limits.PROBLEMS_MAX :])
    if tuple(problems) == error.problems:
        return error
    english = listed(error.problems)
    # What stands before the problems names the event; a text without them says the same as they do.
    before = error.message.removesuffix(english) if error.message.endswith(english) else ""
    hint = problems[0].hint if error.hint == error.problems[0].hint else error.hint
    return restated(error, problems, before + listed(problems, text), hint)

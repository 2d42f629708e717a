"""Who may use which key of the key-values and of the blobs: the rules of `app.allow.kv` and its like."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from klerk._dispatch import Args, Call, ask, new_args
from klerk._waiting import ReadWriteLock
from klerk.app import Spec
from klerk.authorization import KeyAction, Permission
from klerk.commands import Context
from klerk.errors import Denied
from klerk.reading.reader import PlainReader
from klerk.validation import call_of

Resolve = Callable[[Any], tuple[Any, ...]]
"""Gives a context its time: the context comes first; third, whether rules are not asked about its actor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRule:
    """An allow or deny rule about keys, compiled."""

    call: Call
    prefixes: tuple[str, ...]
    action: KeyAction | None

    def covers(self, action: KeyAction, key: str) -> bool:
        """Return whether a use of a key is meant."""
        return (self.action is None or self.action == action) and (
            not self.prefixes or key.startswith(self.prefixes)
        )


class KeyAccess:
    """Decides about the keys of one subject, key-values or blobs.

    The rules see the published models at one moment: the read lock is held while they are asked, and for
    nothing else.

    Parameters:
        spec: the design.
        subject: `KV` or `BLOB`.
        resolve: as `Program.resolve`.
        published: reads the published state, for the rules.
        lock: held meanwhile.
    """

    def __init__(
        self, spec: Spec, subject: str, resolve: Resolve, published: PlainReader, lock: ReadWriteLock
    ) -> None:
        self._subject = subject
        self._resolve = resolve
        self._published = published
        self._lock = lock
        self._allow = _compiled(spec.allow.for_keys(subject))
        self._deny = _compiled(spec.deny.for_keys(subject))

    def require(self, context: Context, action: KeyAction, key: str) -> None:
        """Ask the rules, from a thread.

        Raises:
            Denied: the context's actor may not use the key so. Whether it exists is not looked at.
            ArgumentError: it is no context.
        """
        context, trusted = self._resolved(context)
        if trusted:
            return
        with self._lock.read():
            permitted = self._permits(context, action, key)
        if not permitted:
            raise self._denied(context, action, key)

    async def require_soon(self, context: Context, action: KeyAction, key: str) -> None:
        """Ask the rules, from a task; as `require`."""
        context, trusted = self._resolved(context)
        if trusted:
            return
        async with self._lock.read():
            permitted = self._permits(context, action, key)
        if not permitted:
            raise self._denied(context, action, key)

    def permitted(self, context: Context, action: KeyAction, keys: list[str]) -> list[str]:
        """Return those of the keys that the context's actor may use so, from a thread."""
        context, trusted = self._resolved(context)
        if trusted:
            return keys
        with self._lock.read():
            return [key for key in keys if self._permits(context, action, key)]

    async def permitted_soon(self, context: Context, action: KeyAction, keys: list[str]) -> list[str]:
        """Return those of the keys that the context's actor may use so, from a task."""
        context, trusted = self._resolved(context)
        if trusted:
            return keys
        async with self._lock.read():
            return [key for key in keys if self._permits(context, action, key)]

    def _resolved(self, context: Context) -> tuple[Context, bool]:
        resolved, _, trusted, *_ = self._resolve(context)
        return resolved, trusted

    def _permits(self, context: Context, action: KeyAction, key: str) -> bool:
        a: Args = new_args(context, context.now, self._published, None, key, action)
        allowed, *_ = ask((rule.call for rule in self._allow if rule.covers(action, key)), a)
        if not allowed:
            return False
        denied, *_ = ask((rule.call for rule in self._deny if rule.covers(action, key)), a)
        return not denied

    def _denied(self, context: Context, action: KeyAction, key: str) -> Denied:
        return Denied(
            f"{context.actor} may not {action} the {self._subject} key {key!r}",
            hint=f"Nothing may be used without a rule: @app.allow.{self._subject}(...).",
        )


def _compiled(rules: Iterable[Permission]) -> list[KeyRule]:
    return [
        KeyRule(
            call=call_of(rule.function, (), "an allow or deny rule"),
            prefixes=rule.prefixes,
            action=rule.action,
        )
        for rule in rules
    ]

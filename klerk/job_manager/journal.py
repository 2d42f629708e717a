"""What a transaction changed of the state that only the processing thread knows, so that it can be undone."""

from typing import Any


class Journal:
    """Changes dicts so that `undo` brings back what was there before the transaction at hand.

    Every call names the sequence of the newest transaction that was kept. While it stays the same, the
    transaction is the same one, or those before it left nothing here.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[dict[Any, Any], Any, Any]] = []
        self._sequence = -1

    def put(self, sequence: int, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        """Put a value, which must not be None, into a dict."""
        self._note(sequence, mapping, key)
        mapping[key] = value

    def drop(self, sequence: int, mapping: dict[Any, Any], key: Any) -> None:
        """Take a key out of a dict, if it is there."""
        self._note(sequence, mapping, key)
        mapping.pop(key, None)

    def _note(self, sequence: int, mapping: dict[Any, Any], key: Any) -> None:
        if sequence != self._sequence:
            # The transaction before was kept.
            self._steps.clear()
            self._sequence = sequence
        self._steps.append((mapping, key, mapping.get(key)))

    def undo(self, sequence: int) -> None:
        """Take back what the transaction at hand changed."""
        if sequence != self._sequence:
            return
        while self._steps:
            mapping, key, before = self._steps.pop()
            if before is None:
                mapping.pop(key, None)
            else:
                mapping[key] = before

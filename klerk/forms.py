"""The inputs of a form as a tree: ``address.lines[2]`` is element 2 of ``lines`` of ``address``."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from klerk import limits

_PART: Final = re.compile(r"(?:^|\.)([^.\[\]]+)|\[([0-9]{1,9})\]")


class Inputs:
    """All inputs whose names begin alike: the texts given under just this name, and what goes on from there.

    Parameters:
        texts: given under this name, in order.
    """

    def __init__(self, texts: Sequence[Any] = ()) -> None:
        self._texts = list(texts)
        self._parts: dict[str | int, Inputs] = {}

    def by_name(self) -> dict[str, "Inputs"] | None:
        """Return the inputs of an object by name; None when there are texts, or elements, in its place."""
        if self._texts:
            return None
        return {str(name): each for name, each in self._parts.items()}

    def by_position(self) -> list[tuple[int, "Inputs"]] | None:
        """Return the inputs of a list, given under one name or with positions; None for anything else."""
        if self._texts:
            return None if self._parts else [(i, Inputs([text])) for i, text in enumerate(self._texts)]
        if any(isinstance(name, str) for name in self._parts):
            return None
        return sorted((i, each) for i, each in self._parts.items() if isinstance(i, int))

    def is_empty(self) -> bool:
        """Return whether nothing was entered."""
        return not self._parts and self._texts in ([], [""])

    def text(self, *, several: bool) -> Any:
        """Return the one text that was given, or what was given in its place.

        Parameters:
            several: of more than one the last counts, as with a hidden input in front of a tick box.
        """
        if self._parts or not self._texts or (len(self._texts) > 1 and not several):
            return self._parts or self._texts
        return self._texts[-1]

    def plain(self) -> Any:
        """Return what was given as texts, lists and dictionaries, for messages."""
        return (self._texts[0] if len(self._texts) == 1 else self._texts) if self._texts else self._parts

    @staticmethod
    def of(data: Mapping[str, Any]) -> "Inputs":
        """Return the tree of a form's inputs; each value is a text or a list of texts."""
        root = Inputs()
        for name, given in data.items():
            at = root
            for part in _parts_of(str(name)):
                at = at._parts.setdefault(part, Inputs())
            at._texts += given if isinstance(given, (list, tuple)) else [given]
        return root


def _parts_of(name: str) -> list[str | int]:
    """Return the parts of an input's name; one of another form is a single part, which nothing is called."""
    found: list[str | int] = []
    end = 0
    while end < len(name) and (match := _PART.match(name, end)) is not None:
        found.append(match[1] if match[2] is None else int(match[2]))
        end = match.end()
    return found if found and end == len(name) and len(found) <= limits.TYPE_DEPTH_MAX + 1 else [name]

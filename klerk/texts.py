"""Texts: those of the application as they can be stored, and counts in words."""


def times(count: int) -> str:
    """Return how often something happened, for people."""
    return "once" if count == 1 else f"{count} times"


def storable(text: str, length_max: int) -> str:
    """Return a text as it can be stored: shortened, and without what is no Unicode."""
    return text[:length_max].encode("utf-8", "replace").decode()

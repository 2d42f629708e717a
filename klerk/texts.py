"""Texts of the application as they can be stored."""


def storable(text: str, length_max: int) -> str:
    """Return a text as it can be stored: shortened, and without what is no Unicode."""
    return text[:length_max].encode("utf-8", "replace").decode()

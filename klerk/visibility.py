"""Who may cause an event, from its own machine to the world outside."""

from enum import StrEnum

from klerk.errors import ConfigError
from klerk.places import here


class Visibility(StrEnum):
    """Who may cause an event. Each value includes those before it.

    Authorization is another question, and asked as well: visibility says which way a command may come.
    """

    INTERNAL = "internal"
    """Only blocks of the event's own machine, by secondary commands."""

    MACHINES = "machines"
    """Blocks of any machine, by secondary commands."""

    CODE = "code"
    """Any code of the application, too: `Klerk.handle`, jobs, functions that yield commands."""

    EXTERNAL = "external"
    """Also offered to the outside: listed among what is possible, made from forms and JSON."""

    @property
    def level(self) -> int:
        """How far it reaches, from 0 (internal) to 3 (external)."""
        return tuple(Visibility).index(self)

    def reaches(self, other: "Visibility") -> bool:
        """Return whether an event with this visibility is visible to whoever `other` means."""
        return self.level >= Visibility(other).level


def required_visibility(given: object) -> Visibility:
    """Return what a declaration gave as a visibility.

    Raises:
        ConfigError: K017.
    """
    try:
        return Visibility(given)  # type: ignore[arg-type]
    except ValueError:
        raise ConfigError(
            "K017",
            f"{given!r} is no visibility.",
            where=str(here()),
            hint=f"Use one of: {', '.join(f'Visibility.{each.name}' for each in Visibility)}.",
        ) from None

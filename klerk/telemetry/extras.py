"""Libraries that come with an extra of the package only."""

import importlib
from types import ModuleType

from klerk.errors import MissingLibrary


def extra(module: str, name: str) -> ModuleType:
    """Return a module of a library that Klerk can do without.

    Parameters:
        module: to be imported.
        name: of the extra that installs it.

    Raises:
        MissingLibrary: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingLibrary(
            f"the library of {module.partition('.')[0]} is not installed",
            hint=f"Install it with Klerk: pip install 'klerk[{name}]'.",
        ) from error

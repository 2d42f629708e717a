"""Whether a design is right, and fits a store, without opening anything: ``python -m klerk check app.py``."""

import os
from collections.abc import Callable
from functools import partial

from klerk._waiting import ReadWriteLock
from klerk.app import Design, Spec
from klerk.checks import check_design
from klerk.codec import CATALOG_KEY, Catalog, read_catalog
from klerk.errors import ConfigError
from klerk.processing import Program, utc_now
from klerk.schema import extended
from klerk.storage.contract import Family
from klerk.storage.glance import stored_value


def design_errors(design: Design) -> list[ConfigError]:
    """Freeze a design and return what is wrong with it.

    Of one machine only the first error is found, as the next ones often follow from it.
    """
    steps: list[Callable[[], object]] = [partial(_compile, design)]
    steps += [partial(check_design, (machine,)) for machine in design.machines.values()]
    errors: dict[str, ConfigError] = {}
    for step in steps:
        try:
            step()
        except ConfigError as error:
            errors[str(error)] = error
    return list(errors.values())


def _compile(design: Design) -> None:
    """Go through all that `App.open` does before it touches a store."""
    spec = design.freeze()
    Program(spec, extended(read_catalog(None), spec), utc_now, ReadWriteLock())


def additions(spec: Spec, store: str | os.PathLike[str]) -> list[str]:
    """Return what opening a store with a design would add to what the store knows.

    The store is not opened, and may be in use.

    Raises:
        SchemaChanged: the design does not fit, with every difference.
        StorageError: it is no store of this app, or cannot be read.
    """
    known = read_catalog(stored_value(store, spec.name, Family.META, CATALOG_KEY))
    return _differences(known, extended(known, spec))


def _differences(known: Catalog, now: Catalog) -> list[str]:
    before = {entry.name: entry for entry in known.classes}
    found = [f"model {entry.name}" for entry in now.classes if entry.name not in before]
    for entry in now.classes:
        if (old := before.get(entry.name)) is not None:
            found += [f"state {entry.name}.{name}" for name in entry.states if name not in old.states]
            types = dict(old.fields)
            found += [f"field {entry.name}.{name}" for name, _ in entry.fields if name not in types]
            found += [
                f"none as a value of {entry.name}.{name}"
                for name, stored in entry.fields
                if name in types and types[name] != stored
            ]
    found += [f"event {name}" for name in now.events if name not in known.events]
    return found + [f"job {name}" for name in now.jobs if name not in known.jobs]

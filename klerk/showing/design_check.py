"""Whether a design is right, and fits a store, without opening anything: ``python -m klerk check app.py``."""

import os
from collections import Counter
from collections.abc import Callable
from functools import partial

from klerk._waiting import ReadWriteLock
from klerk.app import Design, Spec
from klerk.checks import check_design
from klerk.codec import CATALOG_KEY, Catalog, read_catalog
from klerk.errors import ConfigError
from klerk.migration.migrating import Progress
from klerk.migration.schema import Plan, extended, plan_of
from klerk.processing import Program, utc_now
from klerk.recovery import prepare
from klerk.storage import RocksStorage
from klerk.storage.contract import Family
from klerk.storage.glance import stored_value
from klerk.storage.twin import twin_of


def design_errors(design: Design) -> list[ConfigError]:
    """Freeze a design and return what is wrong with it.

    Of one machine's states and blocks only the first error is found, as the next ones often follow from it.
    """
    steps: list[Callable[[], object]] = [partial(_compile, design), *design.check_types()]
    steps += [partial(check_design, (machine,)) for machine in design.machines.values()]
    steps.append(design.check_system_context)
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


def described_fit(spec: Spec, store: str | os.PathLike[str]) -> list[str]:
    """Return, in lines, what opening a store with a design would add to it and migrate in it.

    The store is not opened, and may be in use: only what it knows of its design is looked at.

    Raises:
        SchemaChanged: the design does not fit, with every difference.
        ConfigError: K052: a migration begins with a name that is probably misspelt.
        StorageError: it is no store of this app, or cannot be read.
    """
    plan = plan_of(read_catalog(stored_value(store, spec.name, Family.META, CATALOG_KEY)), spec)
    added = [] if plan.pending else _additions(plan.known, plan.catalog)
    lines = [f"It fits the store {store}" + ("; opening it adds:" if added else ".")]
    lines += [f"  {each}" for each in added]
    if plan.pending:
        lines = [f"Opening the store {store} runs migrations:", *_migrations(plan)]
    if plan.known.rewritten < plan.known.version:
        lines.append(f"Opening it goes on with storing anew what migration {plan.known.version} left old.")
    if plan.unfit_jobs:
        lines += [
            "It is refused if jobs of these kinds wait:",
            *(f"  {each}" for each in plan.unfit_jobs.values()),
        ]
    lines.append(f"schema version {plan.catalog.version}, fingerprint {plan.catalog.fingerprint}")
    return lines


def _migrations(plan: Plan) -> list[str]:
    lines = []
    idle = iter(plan.idle)
    for migration in plan.pending:
        lines.append(
            f"  {migration.version} {migration.name}" + (f": {migration.label}" if migration.label else "")
        )
        lines += [
            f"    {operation}" + ("  (there is nothing of that in the store)" if next(idle) else "")
            for operation in migration.operations
        ]
    return lines


def rehearse(spec: Spec, store: str | os.PathLike[str], progress: Progress) -> str:
    """Bring every model and waiting job of a store up to date in memory, check it, and write nothing.

    That is done with a copy, so the store must not be in use; one that is may be copied with `checkpoint`.

    Returns:
        How many models and jobs fit.

    Raises:
        SchemaChanged, MigrationFailed: something does not fit.
        StoreLocked: the store is in use.
        StorageError: it is no store of this app, or cannot be read.
    """
    with twin_of(store, spec.name) as copy:
        storage = RocksStorage.open(copy, app=spec.name, durability="process", create=False)
        try:
            recovered, *_ = prepare(storage, spec, utc_now, ReadWriteLock(), progress)
        finally:
            storage.close()
    counts = Counter({plan.name: len(plan.ids) for plan in recovered.program.plans})
    models = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "no models"
    return f"Everything in it fits: {models}; {len(recovered.jobs):,} jobs that have not ended."


def _additions(known: Catalog, now: Catalog) -> list[str]:
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

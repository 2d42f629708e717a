"""The stored schema and the declared design: whether one fits the other, and which migrations lead there."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from klerk.app import MachineSpec, Spec
from klerk.codec import (
    CATALOG_FORMAT,
    Catalog,
    ClassEntry,
    EarlierClass,
    EarlierEvent,
    EarlierJob,
    Ran,
    Types,
    encode,
)
from klerk.errors import NewerStore, SchemaChanged
from klerk.field_types import FieldType
from klerk.migration.drafts import ADDED, ClassDraft, Draft, JobDraft
from klerk.migration.migrations import Migration
from klerk.migration.names import apply_all
from klerk.migration.operations import call
from klerk.migration.upcasting import class_draft, defaults_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What opening a store with a design does to what the store knows.

    Parameters:
        known: the catalog in the store.
        catalog: afterwards, the times of migrations left out.
        pending: the migrations that are to be run.
        idle: for each of their operations whether it concerns nothing in the store, in order.
        unfit_jobs: kinds of jobs that may wait in the store and cannot be run, each with the reason.
    """

    known: Catalog
    catalog: Catalog
    pending: tuple[Migration, ...]
    idle: tuple[bool, ...]
    unfit_jobs: dict[str, str]

    @property
    def is_migrating(self) -> bool:
        """Whether stored models or jobs have to be brought up to date, for the first time or again."""
        return bool(self.pending) or self.known.rewritten < self.known.version

    def catalog_at(self, now_us: int, sequence: int) -> Catalog:
        """Return the catalog to be stored.

        Parameters:
            now_us: the time, in microseconds since 1970 UTC.
            sequence: of the newest transaction in the log.
        """
        ran = tuple(Ran(each.version, each.name, each.fingerprint, now_us) for each in self.pending)
        earlier = tuple(
            EarlierEvent(code, sequence, before)
            for code, (before, now) in enumerate(
                zip(self.known.event_parameters, self.catalog.event_parameters, strict=False)
            )
            if now[: len(before)] != before
        )
        return msgspec.structs.replace(
            self.catalog, ran=self.known.ran + ran, earlier_events=self.known.earlier_events + earlier
        )


def extended(catalog: Catalog, spec: Spec) -> Catalog:
    """Return the catalog with what the design makes of it; see `plan_of`."""
    return plan_of(catalog, spec).catalog


def plan_of(known: Catalog, spec: Spec) -> Plan:
    """Compare what a store knows with a design.

    Raises:
        SchemaChanged: the design and its migrations contradict what is stored; every difference is named.
        NewerStore: the store has run migrations that the design does not have.
        ConfigError: K052 for a name in a migration; see `apply_all`.
    """
    newest = len(spec.migrations)
    if not known.classes and not known.jobs:
        # A new store begins with the design as it is: there is nothing to migrate.
        known = Catalog(CATALOG_FORMAT, version=newest, rewritten=newest)
    _check_ran(known, spec)
    pending = spec.migrations[known.version :]
    draft = _draft_of(known)
    classes = list(draft.classes.values())
    declared = [str(each.event) for each in spec.events]
    applied = apply_all(pending, draft, declared, {old.kind for old in known.earlier_jobs})
    differences = list(draft.contradictions)
    entries = _class_entries(known, spec, draft, classes, differences)
    if differences:
        raise _schema_changed(differences, pending, applied.idle)
    if applied.mistakes:
        raise applied.mistakes[0]
    earlier = tuple(
        EarlierClass(code, known.version, known.classes[code])
        for code, each in enumerate(classes)
        if each.is_touched and not each.is_deleted
    )
    is_deleting = any(each.is_deleted for each in classes)
    job_types, unfit_jobs = _job_types(known, spec, draft)
    stale = _stale_kinds(known, draft)
    events = _grown(draft.events, declared)
    catalog = Catalog(
        CATALOG_FORMAT,
        entries,
        events,
        _grown(known.jobs, spec.jobs),
        job_types=job_types,
        version=newest,
        # Nothing has to be stored anew unless a migration concerns something that is there.
        rewritten=known.rewritten if earlier or stale or is_deleting else _after(known, newest),
        earlier=known.earlier + earlier,
        earlier_jobs=known.earlier_jobs + stale,
        ran=known.ran,
        fingerprint=fingerprint_of(spec),
        event_parameters=_event_parameters(known, spec, events),
        job_versions=_job_versions(known, spec, draft),
    )
    return Plan(known=known, catalog=catalog, pending=pending, idle=applied.idle, unfit_jobs=unfit_jobs)


def _event_parameters(known: Catalog, spec: Spec, events: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the names of each event's parameters by code; of one that is gone, those that it had."""
    declared = {str(each.event): tuple(each.parameters) for each in spec.events}
    before = dict(enumerate(known.event_parameters))
    return tuple(declared.get(name, before.get(code, ())) for code, name in enumerate(events))


def _after(known: Catalog, newest: int) -> int:
    return newest if known.rewritten == known.version else known.rewritten


def _check_ran(known: Catalog, spec: Spec) -> None:
    if known.version > len(spec.migrations):
        raise NewerStore(
            f"the store has schema version {known.version}, and the newest migration of '{spec.name}' is"
            f" {len(spec.migrations)}",
            hint="Open it with the newer version of the application.",
        )
    for ran in known.ran:
        declared = spec.migrations[ran.version - 1]
        if declared.fingerprint != ran.fingerprint:
            raise SchemaChanged(
                f"migration {ran.version} ran as '{ran.name}', and is something else now ({declared.place})",
                hint="Restore it as it was: old models are read with it. What else is to change belongs in a"
                " new migration.",
            )


def _draft_of(known: Catalog) -> Draft:
    # A deleted class keeps its place under a name that none can have.
    return Draft(
        classes={entry.name or f"#{code}": class_draft(entry) for code, entry in enumerate(known.classes)},
        jobs={
            kind: JobDraft(
                parameters=dict(parameters),
                versions={version: dict(each) for version, each in versions_of(known, kind).items()},
            )
            for kind, parameters in known.job_types.items()
        },
        events=list(known.events),
    )


def _grown(known: Sequence[str], declared: Iterable[str]) -> tuple[str, ...]:
    return (*known, *(name for name in declared if name not in known))


# --- model classes ------------------------------------------------------------------------------------


def _class_entries(
    known: Catalog, spec: Spec, draft: Draft, classes: list[ClassDraft], differences: list[str]
) -> tuple[ClassEntry, ...]:
    """Return the classes of the new catalog, by code; add what does not fit to the differences."""
    declared = {each.machine.name: each for each in spec.machines}
    names = {id(each): name for name, each in draft.classes.items()}
    entries = []
    for code, each in enumerate(classes):
        name = names.get(id(each), "")
        old = known.classes[code]
        if each.is_deleted or not old.name:
            entries.append(ClassEntry("", (), (), old.since))
        elif name not in declared:
            new = [other for other in declared if other not in draft.classes]
            differences.append(
                f"the model {name} is no longer declared:"
                f" {_or_renamed('model', (name,), _alike(each, new, declared))}"
            )
        else:
            differences += _state_differences(name, each, declared[name])
            differences += _field_differences(name, each, declared[name])
            differences += _default_differences(name, each, old, declared[name])
            entries.append(_class_entry(name, each, old, declared[name], len(spec.migrations)))
    for name, machine in declared.items():
        if name not in draft.classes:
            entries.append(
                ClassEntry(name, _states_of(machine), _stored(machine.fields), len(spec.migrations))
            )
    return tuple(entries)


def _class_entry(
    name: str, each: ClassDraft, old: ClassEntry, declared: MachineSpec, newest: int
) -> ClassEntry:
    fields = _stored(declared.fields)
    given = defaults_of(declared.machine.model_class)
    # Models that lack a field have shown the default of the class so far, whatever it was.
    lacking = set() if each.is_touched else set(old.defaults)
    if not each.is_open:
        lacking.update(field for field, _ in fields if field not in each.fields)
    defaults = {field: encode(given[field]).hex() for field in sorted(lacking & given.keys())}
    return ClassEntry(
        name,
        _grown(each.states, _states_of(declared)),
        fields,
        newest if each.is_touched else old.since,
        defaults,
    )


def _states_of(declared: MachineSpec) -> tuple[str, ...]:
    return tuple(state.name for state in declared.machine.all_states)


def _stored(fields: dict[str, FieldType]) -> Types:
    return tuple((name, field.stored) for name, field in fields.items())


def _alike(each: ClassDraft, names: list[str], declared: dict[str, MachineSpec]) -> str:
    """Return the new class that a class which is gone was probably renamed to, or nothing."""
    for name in names:
        if tuple(each.fields.items()) == _stored(declared[name].fields):
            return name
    return ""


def _or_renamed(what: str, path: tuple[str, ...], probable: str, into: str = "") -> str:
    """Return what covers something that is gone."""
    deleted = call(f"delete_{what}", *path, into=into)
    return f"{call(f'rename_{what}', *path, probable)} or {deleted}" if probable else deleted


def _state_differences(name: str, each: ClassDraft, declared: MachineSpec) -> list[str]:
    states = _states_of(declared)
    found = []
    for code, state in enumerate(each.states):
        if state and state not in states:
            # Whatever took its place.
            new = states[code] if code < len(states) and states[code] not in each.states else ""
            covered = _or_renamed("state", (name, state), new, into="...")
            found.append(f"the state {name}.{state} is no longer declared: {covered}")
    return found


def _field_differences(name: str, each: ClassDraft, declared: MachineSpec) -> list[str]:
    """Return how the declared fields contradict the stored ones, which they may only follow.

    After an operation that has models stored anew their order does not matter; after a transform, nothing
    but the models themselves can tell.
    """
    fields, before = _stored(declared.fields), tuple(each.fields.items())
    now, given = dict(fields), defaults_of(declared.machine.model_class)
    if each.is_open:
        return []
    found, successors = [], set()
    for i, (field, stored) in enumerate(before):
        if field not in now:
            # Whatever of the same type took its place.
            same = i < len(fields) and fields[i][1] == stored and fields[i][0] not in each.fields
            new = fields[i][0] if same else ""
            successors.add(new)
            covered = _or_renamed("field", (name, field), new)
            found.append(f"the field {name}.{field} is no longer declared: {covered}")
        elif stored != ADDED and now[field] not in (stored, f"{stored}?"):
            covered = f"{call('transform', name)[:-1]}, ...)"
            found.append(f"the field {name}.{field} was {stored} and is {now[field]}: {covered}")
        elif not each.is_touched and i < len(fields) and fields[i][0] != field:
            covered = call("reorder_fields", name)
            found.append(f"the field {name}.{field} is no longer number {i + 1}: {covered}")
    for field in now:
        if field not in each.fields and field not in given and field not in successors:
            covered = f"{call('add_field', name, field)[:-1]}, default=...)"
            found.append(f"the new field {name}.{field} has no default: {covered}")
    return found


def _default_differences(name: str, each: ClassDraft, old: ClassEntry, declared: MachineSpec) -> list[str]:
    """Return the fields that models may lack, and that have no default any more."""
    if each.is_touched:
        return []
    given = defaults_of(declared.machine.model_class)
    return [
        f"the field {name}.{field} has no default any more, and older models lack it:"
        f" {call('reorder_fields', name)}, which stores them with it"
        for field in old.defaults
        if field in declared.fields and field not in given
    ]


def _schema_changed(
    differences: list[str], pending: tuple[Migration, ...], idle: tuple[bool, ...]
) -> SchemaChanged:
    lines = [f"- {each}" for each in differences]
    operations = [f"{each!r}: {operation}" for each in pending for operation in each.operations]
    if unused := [text for text, is_idle in zip(operations, idle, strict=True) if is_idle]:
        lines += ["Of the migrations, these concern nothing in the store:", *(f"- {text}" for text in unused)]
    return SchemaChanged(
        "the design does not fit the store:\n  " + "\n  ".join(lines),
        hint="Undo these changes, or declare a migration that covers them: after the colon is what would. New"
        " models, states, events, jobs and new last fields with a default need nothing.",
    )


# --- jobs ---------------------------------------------------------------------------------------------


def _job_types(known: Catalog, spec: Spec, draft: Draft) -> tuple[dict[str, Types], dict[str, str]]:
    """Return the parameters of each kind, and the kinds whose waiting jobs do not fit the design."""
    types: dict[str, Types] = {}
    unfit: dict[str, str] = {}
    for kind, job in draft.jobs.items():
        if kind not in spec.jobs:
            # Kept, for the jobs that may come back with an earlier design.
            types[kind] = known.job_types.get(kind, tuple(job.parameters.items()))
            new = [name for name in spec.jobs if name not in draft.jobs]
            covered = _or_renamed("job", (kind,), new[0] if len(new) == 1 else "")
            unfit[kind] = f"the job {kind} is no longer declared: {covered}"
        elif not job.is_open and (reason := _misfit(job.versions, spec, kind)):
            covered = f"{call('transform_job', kind)[:-1]}, ...)"
            unfit[kind] = f"{reason}: {covered}, or a new version of the job with an upcast function"
    types.update((kind, _stored(parameters)) for kind, parameters in spec.job_parameters.items())
    return types, unfit


def _misfit(versions: dict[int, dict[str, str]], spec: Spec, kind: str) -> str:
    """Return how the declared parameters contradict the stored ones of the same version; those with a
    default may follow. From one version to another, each job is brought up when it is loaded."""
    job, now = spec.jobs[kind], _stored(spec.job_parameters[kind])
    before = versions.get(job.settings.version)
    if before is None:
        return ""
    for i, (name, stored) in enumerate(before.items()):
        if i >= len(now) or now[i][0] != name or now[i][1] not in (stored, f"{stored}?"):
            return f"the parameter '{name}' of job {kind} is gone, moved or of another type"
    for parameter in job.parameters[len(before) :]:
        if parameter.default is inspect.Parameter.empty:
            return f"the new parameter '{parameter.name}' of job {kind} has no default"
    return ""


def _stale_kinds(known: Catalog, draft: Draft) -> tuple[EarlierJob, ...]:
    """Return the kinds whose stored jobs are not as the design has them."""
    return tuple(
        EarlierJob(kind, known.version, parameters, list(versions_of(known, kind))[-1])
        for kind, parameters in known.job_types.items()
        if kind not in draft.jobs or draft.jobs[kind].is_touched
    )


def versions_of(known: Catalog, kind: str) -> dict[int, Types]:
    """Return the parameters of a kind in each version that was declared; stores of before that have one."""
    return known.job_versions.get(kind) or {1: known.job_types[kind]}


def _job_versions(known: Catalog, spec: Spec, draft: Draft) -> dict[str, dict[int, Types]]:
    """Return the parameters of each kind in each version, those of kinds that are gone, too."""
    versions = {kind: versions_of(known, kind) for kind in known.job_types if kind not in spec.jobs}
    for kind, parameters in spec.job_parameters.items():
        earlier = draft.jobs[kind].versions if kind in draft.jobs else {}
        versions[kind] = {version: tuple(each.items()) for version, each in earlier.items()}
        version = spec.jobs[kind].settings.version
        versions[kind].pop(version, None)
        versions[kind][version] = _stored(parameters)
    return versions


# --- the fingerprint ----------------------------------------------------------------------------------


def fingerprint_of(spec: Spec) -> str:
    """Return the SHA-256, in hexadecimal, of all that a design says about what is stored."""
    canonical: Any = [
        len(spec.migrations),
        sorted([each.machine.name, sorted(_states_of(each)), _stored(each.fields)] for each in spec.machines),
        sorted(str(each.event) for each in spec.events),
        sorted([kind, _stored(parameters)] for kind, parameters in spec.job_parameters.items()),
    ]
    return sha256(msgspec.json.encode(canonical)).hexdigest()

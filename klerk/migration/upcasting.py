"""Bringing stored models and jobs up to date that an earlier version of the design stored.

Every stored record says with which version of the schema it was stored, and the catalog keeps how records of
each class and kind were stored at earlier versions. So a record can be read at any time, whether or not it
has been stored anew: those in the commit log never are.
"""

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from klerk.app import Spec
from klerk.codec import Catalog, ClassEntry, EarlierClass, EarlierJob, encode
from klerk.errors import FunctionFailed, InvalidValue, Problem, listed
from klerk.jobs import Job, JobRecord
from klerk.migration.drafts import ClassDraft, Draft, Fields, JobDraft, Step, filled
from klerk.migration.migrations import Migration
from klerk.values import Model, field_names

# How msgspec says which element of a stored model it means; the first one is not a field.
_AT_FIELD = re.compile(r" - at `\$\[(\d+)\](.*)`$")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How models of a class were stored up to a version, and what brings them up to date."""

    until: int
    names: tuple[str, ...]
    state_codes: tuple[int, ...]
    steps: tuple[Step, ...]


class Upcaster:
    """Brings the models of one class up to date.

    Parameters:
        cls: the class as it is declared.
        layouts: of its models at earlier versions, the earliest first.
    """

    def __init__(self, cls: type[Model], layouts: list[_Layout]) -> None:
        self._layouts = layouts
        self._name = cls.__name__
        self._names = field_names(cls)
        self._decode = msgspec.msgpack.Decoder(cls).decode
        self._defaults = defaults_of(cls)

    def upcast(self, id: int, schema: int, state_code: int, stored: bytes) -> tuple[Model, int]:
        """Return a model, without its meta, and the code of its state.

        Parameters:
            schema: the version that it was stored with.
            state_code: as it was stored.
            stored: its fields.

        Raises:
            InvalidValue: the result is not what the class declares, with every problem.
            FunctionFailed: a function of a migration raised.
        """
        layout = next((each for each in self._layouts if schema <= each.until), None)
        if layout is None:
            raise ValueError(f"nothing is known of its schema version {schema}")
        values: list[Any] = msgspec.msgpack.decode(stored)
        # What was added at the end later is missing from models that were stored before.
        fields: Fields = dict(zip(layout.names, values[1:], strict=False))
        fields = _stepped(layout.steps, fields, f"{self._name} {id}")
        return self._model(fields), layout.state_codes[state_code]

    def _model(self, fields: Fields) -> Model:
        try:
            # Most often all that is declared is there, and nothing else.
            values: list[Any] = [None, *[fields[name] for name in self._names]]
        except KeyError:
            values = []
        if len(values) != len(fields) + 1:
            values = self._completed(fields)
        try:
            return self._decode(encode(values))
        except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
            problem = self._problem_of(str(error))
            raise InvalidValue(f"{self._name}: {problem}", problems=[problem]) from error

    def _completed(self, fields: Fields) -> list[Any]:
        """Return the values in the declared order, with the defaults of those that are missing."""
        values: list[Any] = [None]
        problems = _left_over(fields, self._names, self._name)
        for name in self._names:
            if name not in fields and name not in self._defaults:
                problems.append(Problem(code="missing", message="has no value and no default", path=name))
            values.append(fields.get(name, self._defaults.get(name)))
        if problems:
            raise InvalidValue(f"{self._name}: {listed(problems)}", problems=problems)
        return values

    def _problem_of(self, text: str) -> Problem:
        found = _AT_FIELD.search(text)
        path = ""
        if found is not None and 1 <= int(found[1]) <= len(self._names):
            text, path = text[: found.start()], self._names[int(found[1]) - 1] + found[2]
        return Problem(code="wrong_type", message=text, path=path)


def _stepped(steps: Iterable[Step], fields: Fields, whose: str) -> Fields:
    try:
        for step in steps:
            fields = step(fields)
    except FunctionFailed as error:
        raise FunctionFailed(f"{error.message}, for {whose}") from error.__cause__
    return fields


def _left_over(fields: Fields, names: Iterable[str], what: str) -> list[Problem]:
    known = set(names)
    return [
        Problem(code="unknown", message=f"{what} has no such field; delete it in the migration", path=name)
        for name in fields
        if name not in known
    ]


def defaults_of(cls: type[Model]) -> dict[str, Any]:
    """Return what the fields of a class are that may be left out."""
    found = {}
    for each in msgspec.structs.fields(cls)[1:]:
        if each.default is not msgspec.NODEFAULT:
            found[each.name] = each.default
        elif each.default_factory is not msgspec.NODEFAULT:
            found[each.name] = each.default_factory()
    return found


def upcaster_of(code: int, catalog: Catalog, cls: type[Model], spec: Spec) -> Upcaster | None:
    """Return what brings the models of a class up to date; None when there never were other ones."""
    entry = catalog.classes[code]
    earlier = sorted((old for old in catalog.earlier if old.code == code), key=lambda old: old.until)
    if not earlier:
        return None
    return Upcaster(cls, [_layout(old, earlier, entry, spec.migrations) for old in earlier])


def _layout(
    old: EarlierClass, earlier: list[EarlierClass], entry: ClassEntry, migrations: tuple[Migration, ...]
) -> _Layout:
    """Run the migrations after a version over the class as it was then."""
    draft = Draft(classes={old.entry.name: class_draft(old.entry)})
    each = draft.classes[old.entry.name]
    # Fields that were added without a migration get the value that they had then.
    later = {other.entry.since: other.entry for other in earlier if other.until > old.until}
    later[entry.since] = entry
    each.steps += _fillings(old.entry)
    for migration in migrations[old.until :]:
        for operation in migration.operations:
            operation.apply(draft)
        if migration.version in later:
            each.steps += _fillings(later[migration.version])
            each.fields = dict(later[migration.version].fields)
    codes = {name: code for code, name in enumerate(entry.states) if name}
    return _Layout(
        until=old.until,
        names=tuple(name for name, _ in old.entry.fields),
        state_codes=tuple(codes.get(each.states[code], -1) for code in each.codes),
        steps=tuple(each.steps),
    )


def _fillings(entry: ClassEntry) -> list[Step]:
    return [filled(name, bytes.fromhex(value)) for name, value in entry.defaults.items()]


def class_draft(entry: ClassEntry) -> ClassDraft:
    """Return a class of the catalog as migrations change it."""
    return ClassDraft(
        states=list(entry.states), fields=dict(entry.fields), codes=list(range(len(entry.states)))
    )


class JobUpcaster:
    """Brings stored jobs that have not ended up to date, as far as migrations do.

    What `m.transform_job` makes of arguments is of the newest version. Arguments of another version that no
    migration transforms are left to the upcast functions of the job.

    Parameters:
        catalog: how jobs are and were stored.
        spec: the design.
    """

    def __init__(self, catalog: Catalog, spec: Spec) -> None:
        self._catalog = catalog
        self._spec = spec
        self._arity = {job.name: len(job.parameters) for job in spec.jobs.values()}

    def upcast(self, record: JobRecord) -> JobRecord | None:
        """Return a job as the design has it; None when a migration deletes it.

        A job of a kind that the design does not declare, or has no such parameters, is returned as it is.

        Raises:
            InvalidValue: a migration left it with arguments that its kind does not declare.
            FunctionFailed: a function of a migration raised.
        """
        is_new = record.schema == self._catalog.version
        if is_new and (self._is_foreign(record) or len(record.arguments) == self._arity.get(record.kind)):
            return record
        earlier = self._earlier(record)
        parameters = self._catalog.job_types.get(record.kind) if earlier is None else earlier.parameters
        if parameters is None:
            return record
        job = JobDraft(parameters=dict(parameters))
        draft = Draft(jobs={record.kind: job})
        for migration in self._spec.migrations[record.schema :]:
            for operation in migration.operations:
                operation.apply(draft)
        if not draft.jobs:
            return None
        (kind,) = draft.jobs
        declared = self._spec.jobs.get(kind)
        if declared is not None and not job.steps and record.version != declared.settings.version:
            return msgspec.structs.replace(record, kind=kind, schema=self._catalog.version)
        what = f"job {record.id} ({record.kind})"
        if job.steps and earlier is not None and earlier.version != record.version:
            raise InvalidValue(
                f"{what} has arguments of version {record.version}, and they are transformed from version"
                f" {earlier.version}",
                hint="Let it run, or be given up, with the old design.",
            )
        names = (name for name, _ in parameters)
        arguments: Fields = dict(zip(names, record.arguments, strict=False))
        arguments = _stepped(job.steps, arguments, what)
        if declared is None:
            return record
        values = self._values(what, declared, arguments, is_checked=job.is_touched)
        return msgspec.structs.replace(
            record,
            kind=kind,
            arguments=values,
            schema=self._catalog.version,
            version=declared.settings.version,
        )

    def _is_foreign(self, record: JobRecord) -> bool:
        """Return whether a job's arguments are of another version than its kind has now."""
        declared = self._spec.jobs.get(record.kind)
        return declared is not None and record.version != declared.settings.version

    def _earlier(self, record: JobRecord) -> EarlierJob | None:
        """Return how jobs of a kind were stored, where a migration has changed that since."""
        found = [
            old
            for old in self._catalog.earlier_jobs
            if old.kind == record.kind and record.schema <= old.until
        ]
        return min(found, key=lambda old: old.until, default=None)

    def _values(self, what: str, job: Job[Any], arguments: Fields, *, is_checked: bool) -> tuple[Any, ...]:
        """Return arguments in the declared order, checked against the declared types if that is asked for."""
        problems = _left_over(arguments, [parameter.name for parameter in job.parameters], f"job {job.name}")
        values = []
        for parameter in job.parameters:
            value = arguments.get(parameter.name, parameter.default)
            if parameter.name not in arguments and parameter.default is inspect.Parameter.empty:
                problems.append(Problem(code="missing", message="has no value", path=parameter.name))
            elif is_checked:
                value = self._checked(job, parameter.name, value, problems)
            values.append(value)
        if problems:
            raise InvalidValue(f"{what}: {listed(problems)}", problems=problems)
        return tuple(values)

    def _checked(self, job: Job[Any], name: str, value: Any, problems: list[Problem]) -> Any:
        field = self._spec.job_parameters[job.name][name]
        try:
            value = msgspec.msgpack.Decoder(field.plain).decode(encode(value))
        except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
            problems.append(Problem(code="wrong_type", message=str(error), path=name))
            return value
        return field.coerce(value, name, problems)

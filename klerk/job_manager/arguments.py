"""The arguments of stored jobs as their functions take them now; jobs for which there are none are suspended.

Arguments are stored with the version of the parameters that they were meant for. Upcast functions bring them
from one version to the next whenever they are loaded; they are stored anew with what becomes of the job.
"""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from klerk import limits
from klerk._dispatch import described
from klerk.app import Spec
from klerk.codec import Types, encode
from klerk.errors import FunctionFailed, Problem, listed
from klerk.field_types import FieldType
from klerk.job_keys import key_of
from klerk.job_manager.dependencies import as_before
from klerk.jobs import Job, JobRecord, JobState
from klerk.log_events import about_job
from klerk.texts import storable

LOG = logging.getLogger("klerk")


class _Unfit(ValueError):
    """Why the arguments of a job are of no use to its function."""


class StoredArguments:
    """Checks stored jobs, and keeps apart those that cannot run.

    Parameters:
        spec: the declared jobs.
        versions: the parameters of each kind and version that jobs may be stored with.
    """

    def __init__(self, spec: Spec, versions: Mapping[str, Mapping[int, Types]]) -> None:
        self._jobs = spec.jobs
        self._types = spec.job_parameters
        self._versions = versions
        # Those that were suspended here, or for another reason than before.
        self._changed: list[JobRecord] = []
        # Those of each kind that were not told about yet, and the ids of all that were met.
        self._untold: dict[str, list[JobRecord]] = {}
        self._met: set[int] = set()
        self._keyed = frozenset(name for name, job in spec.jobs.items() if job.settings.key is not None)
        # The kinds of which it was told that some have no key.
        self._keyless: set[str] = set()

    def restored(self, record: JobRecord) -> JobRecord:
        """Return a stored job with arguments that its function takes; or suspended, with those it has."""
        try:
            arguments = self._arguments(record)
        except _Unfit as reason:
            return self._suspended(record, str(reason))
        state, error = record.state, record.error
        if state is JobState.SUSPENDED:
            state, error = as_before(record), ""
        return msgspec.structs.replace(
            record,
            arguments=arguments,
            version=self._jobs[record.kind].settings.version,
            state=state,
            error=error,
            key=record.key or self._key(record, arguments),
        )

    def typed(self, record: JobRecord) -> JobRecord:
        """Return a stored job with arguments that its function takes, in whatever state it is.

        Raises:
            ValueError: it has none such; the text says why.
        """
        arguments, version = self._arguments(record), self._jobs[record.kind].settings.version
        key = record.key or self._key(record, arguments)
        return msgspec.structs.replace(record, arguments=arguments, version=version, key=key)

    def _key(self, record: JobRecord, arguments: tuple[Any, ...]) -> str:
        """Return the key of a job that was stored before its kind had keys; none when it has none now."""
        if record.kind not in self._keyed:
            return ""
        try:
            return key_of(self._jobs[record.kind], arguments)
        except FunctionFailed as error:
            if record.kind not in self._keyless:
                self._keyless.add(record.kind)
                LOG.warning(
                    "job %d (%s) has no key, so its key limits do not hold for it, and perhaps others: %s",
                    record.id,
                    record.kind,
                    error,
                    extra=about_job("job_keyless", record, self._jobs[record.kind].settings.queue),
                )
            return ""

    def _suspended(self, record: JobRecord, reason: str) -> JobRecord:
        error = storable(reason, limits.ERROR_LENGTH_MAX)
        suspended = msgspec.structs.replace(record, state=JobState.SUSPENDED, error=error)
        if suspended != record:
            self._changed.append(suspended)
        if record.id not in self._met:
            self._met.add(record.id)
            self._untold.setdefault(record.kind, []).append(suspended)
        return suspended

    def take_suspended(self) -> list[list[JobRecord]]:
        """Return the jobs that were suspended since this was asked last, as many at once as are stored in one
        transaction."""
        changed, self._changed = self._changed, []
        size = limits.MIGRATION_BATCH_RECORDS
        return [changed[i : i + size] for i in range(0, len(changed), size)]

    def tell(self) -> None:
        """Log how many jobs of each kind cannot run, and why the first of them cannot; each job once."""
        untold, self._untold = self._untold, {}
        for kind, records in untold.items():
            first = records[0]
            queue = self._jobs[kind].settings.queue if kind in self._jobs else ""
            LOG.error(
                "%d jobs of kind %s are suspended until their arguments fit it; the first is job %d: %s",
                len(records),
                kind,
                first.id,
                first.error,
                extra=about_job("job_suspended", first, queue, error=first.error, count=len(records)),
            )

    def _arguments(self, record: JobRecord) -> tuple[Any, ...]:
        job = self._jobs.get(record.kind)
        if job is None:
            raise _Unfit(f"there is no job '{record.kind}' in this app")
        types = self._types[record.kind]
        problems: list[Problem] = []
        if record.version == job.settings.version:
            if len(record.arguments) != len(types):
                raise _Unfit(f"it was stored with {len(record.arguments)} arguments and takes {len(types)}")
            values = tuple(
                _converted(value, name, field, problems)
                for value, (name, field) in zip(record.arguments, types.items(), strict=True)
            )
        else:
            named = self._upcast(job, record)
            values = tuple(
                _typed(named[parameter.name], parameter.name, types[parameter.name], problems)
                for parameter in job.parameters
            )
        if problems:
            raise _Unfit(listed(problems))
        return values

    def _upcast(self, job: Job[Any], record: JobRecord) -> dict[str, Any]:
        """Return the arguments of a job by the names of the newest version, with defaults filled in."""
        newest = job.settings.version
        known = self._versions.get(record.kind, {}).get(record.version)
        if record.version > newest:
            raise _Unfit(f"its arguments are of version {record.version}, and this app knows {newest}")
        if known is None:
            raise _Unfit(f"the names of its arguments of version {record.version} are not known")
        # Parameters with a default may have been added within a version.
        named: Any = dict(zip((name for name, _ in known), record.arguments, strict=False))
        for version in range(record.version, newest):
            upcast = job.settings.upcast[version]
            try:
                named = upcast(named)
            except Exception as error:
                raise _Unfit(
                    f"{described(upcast)}, which brings version {version} up to date, raised"
                    f" {type(error).__name__}: {error}"
                ) from error
            if type(named) is not dict:
                raise _Unfit(f"{described(upcast)} returned {named!r}, expected a dict of values by name")
        for parameter in job.parameters:
            if parameter.default is not inspect.Parameter.empty:
                named.setdefault(parameter.name, parameter.default)
        names = {parameter.name for parameter in job.parameters}
        if missing := sorted(names - named.keys()):
            raise _Unfit(f"it has no value for {missing[0]!r} in version {newest}")
        if unknown := sorted(str(name) for name in named.keys() - names):
            raise _Unfit(f"it has a value for {unknown[0]!r}, which there is not in version {newest}")
        return dict(named)


def _converted(value: Any, name: str, field: FieldType, problems: list[Problem]) -> Any:
    """Return a stored value as its parameter has it, or note why it is none."""
    try:
        value = msgspec.convert(value, field.plain)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
        problems.append(Problem(code="wrong_type", message=str(error), path=name))
        return value
    return field.coerce(value, name, problems)


def _typed(value: Any, name: str, field: FieldType, problems: list[Problem]) -> Any:
    """Return a value that a function of the application gave as `_converted` does."""
    try:
        value = msgspec.msgpack.decode(encode(value))
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        problems.append(Problem(code="wrong_type", message=str(error), path=name))
        return value
    return _converted(value, name, field, problems)

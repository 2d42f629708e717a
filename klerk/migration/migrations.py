"""Migrations as users declare them, and what can be wrong with them before any store is known."""

import inspect
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any, Final, NoReturn

from klerk import limits
from klerk._dispatch import described
from klerk.codec import encode
from klerk.errors import ConfigError, FunctionFailed, KlerkError
from klerk.migration.drafts import Transform
from klerk.migration.operations import (
    AddField,
    DeleteField,
    DeleteJob,
    DeleteModel,
    DeleteState,
    Operation,
    RenameEvent,
    RenameField,
    RenameJob,
    RenameModel,
    RenameState,
    ReorderFields,
    TransformJob,
    TransformModel,
)
from klerk.places import Place, here, place_of

_RENAMING: Final = (RenameModel, RenameField, RenameState, RenameEvent, RenameJob)


class Migration:
    """What one version of the design changes of what is stored.

    A function declared with ``@app.migration(1)`` receives it and says what to do, by these methods. They are
    run in the order in which they were called, on the names that the calls before have left.

    Attributes:
        version: 1 for the first, and one more for each.
        name: of the function.
        label: the function's docstring, in one line.
    """

    def __init__(self, version: int, function: Callable[["Migration"], None], place: Place) -> None:
        self.version = version
        self.name = function.__name__
        self.label = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
        self.place = place
        self.operations: tuple[Operation, ...] = ()
        self._function = function
        self._is_recording = False

    def rename_model(self, old: str, new: str) -> None:
        """Give a model class another name. References to it and the names of its events follow."""
        self._add(RenameModel(old=self._name(old), new=self._name(new)))

    def rename_field(self, model: str, old: str, new: str) -> None:
        """Give a field another name."""
        self._add(RenameField(model=self._name(model), old=self._name(old), new=self._name(new)))

    def rename_state(self, model: str, old: str, new: str) -> None:
        """Give a state another name; its models stay in it."""
        self._add(RenameState(model=self._name(model), old=self._name(old), new=self._name(new)))

    def rename_event(self, old: str, new: str) -> None:
        """Give an event another name, both as in ``"Loan.give_back"``: the commit log shows the new one."""
        for name in (old, new):
            if len(self._name(name).split(".")) != 2:
                self._refuse("K054", f"{name!r} is not the name of an event, as in 'Loan.give_back'")
        self._add(RenameEvent(old=old, new=new))

    def add_field(self, model: str, name: str, *, default: Any) -> None:
        """Give the models that are stored already a value for a new field.

        A new field whose class declares a default needs this only when stored models shall get another one.
        """
        try:
            encoded = encode(default)
        except Exception as error:
            self._refuse("K054", f"the default of {model}.{name} cannot be stored: {error}")
        self._add(
            AddField(model=self._name(model), name=self._name(name), default=encoded, shown=repr(default))
        )

    def delete_field(self, model: str, name: str) -> None:
        """Drop a field and all that it held."""
        self._add(DeleteField(model=self._name(model), name=self._name(name)))

    def reorder_fields(self, model: str) -> None:
        """Take over the order in which the fields are declared now."""
        self._add(ReorderFields(model=self._name(model)))

    def delete_model(self, name: str) -> None:
        """Drop a model class and all of its models. Their history can no longer be read as models."""
        self._add(DeleteModel(model=self._name(name)))

    def delete_state(self, model: str, name: str, *, into: str) -> None:
        """Drop a state. Its models are in the state `into` from then on, which runs no blocks."""
        self._add(DeleteState(model=self._name(model), name=self._name(name), into=self._name(into)))

    def transform(self, model: str, function: Transform) -> None:
        """Make the fields of every stored model anew.

        Parameters:
            function: ``function(fields) -> fields``, pure. It receives the stored fields by name, as plain
                values: text, numbers, bytes and datetimes as they are; dates, durations, decimals and UUIDs
                as text; enums as their values; tuples and sets as lists; structs as dicts by name.
        """
        self._require_function(function)
        self._add(TransformModel(model=self._name(model), function=function))

    def rename_job(self, old: str, new: str) -> None:
        """Give a job kind another name; jobs that wait will run under it."""
        self._add(RenameJob(old=self._name(old), new=self._name(new)))

    def transform_job(self, kind: str, function: Transform) -> None:
        """Make the arguments of every job of a kind that has not ended anew, as `transform` does."""
        self._require_function(function)
        self._add(TransformJob(kind=self._name(kind), function=function))

    def delete_job(self, kind: str) -> None:
        """Drop all jobs of a kind that have not ended."""
        self._add(DeleteJob(kind=self._name(kind)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the name and the operations: a migration that ran is never changed."""
        lines = [self.name, *map(str, self.operations)]
        return sha256("\n".join(lines).encode()).hexdigest()

    def record(self) -> None:
        """Let the function say what to do.

        Raises:
            ConfigError: K051, K053, K054.
            FunctionFailed: the function raised something else.
        """
        self.operations, self._is_recording = (), True
        try:
            returned: object = self._function(self)
        except KlerkError:
            raise
        except Exception as error:
            text = f"migration {self.version}, {described(self._function)} raised"
            raise FunctionFailed(f"{text} {type(error).__name__}: {error}") from error
        finally:
            self._is_recording = False
        if returned is not None:
            raise ConfigError(
                "K051",
                f"{self!r}: the function returned {type(returned).__name__}, expected nothing.",
                where=str(self.place),
            )

    def _add(self, operation: Operation) -> None:
        if not self._is_recording:
            self._refuse("K015", "what a migration does is said by its function, while the app is opened")
        if isinstance(operation, _RENAMING) and operation.old == operation.new:
            self._refuse("K053", f"{operation} changes nothing")
        if isinstance(operation, DeleteState) and operation.name == operation.into:
            self._refuse("K053", f"{operation} would keep the state")
        for known in self.operations:
            if type(known) is type(operation) and known.subject == operation.subject:
                self._refuse("K053", f"{operation} comes after {known}")
        self.operations = (*self.operations, operation)

    def _name(self, name: str) -> str:
        given: object = name
        if type(given) is not str or not given or len(given) > limits.NAME_LENGTH_MAX:
            self._refuse("K054", f"{given!r} is not a name")
        return name

    def _require_function(self, function: object) -> None:
        if not callable(function) or inspect.iscoroutinefunction(function):
            self._refuse("K054", f"{function!r} is not a plain function")

    def _refuse(self, code: str, problem: str) -> NoReturn:
        raise ConfigError(code, f"{self!r}: {problem}.", where=str(here()))

    def __repr__(self) -> str:
        return f"migration {self.version}, {self.name}"


def declared_migration(version: int, function: Callable[[Migration], None], place: Place) -> Migration:
    """Return a migration whose number and function were checked.

    Raises:
        ConfigError: K050, K051.
    """
    given: object = version
    if type(given) is not int or not 1 <= given <= limits.SCHEMA_VERSION_MAX:
        raise ConfigError(
            "K050",
            f"a migration's number is 1 to {limits.SCHEMA_VERSION_MAX}, not {given!r}.",
            where=str(place),
        )
    called: object = function
    if not callable(called) or inspect.iscoroutinefunction(called):
        raise ConfigError(
            "K051",
            f"{function!r} cannot serve as migration {version}.",
            where=str(place),
            hint="Declare it as def change(m: klerk.Migration) -> None.",
        )
    parameters = list(inspect.signature(function).parameters.values())
    if len([each for each in parameters if each.default is inspect.Parameter.empty]) != 1:
        raise ConfigError(
            "K051",
            f"the function of migration {version} takes {len(parameters)} parameters.",
            where=str(place_of(function)),
            hint=f"Declare it as def {function.__name__}(m: klerk.Migration) -> None.",
        )
    return Migration(version, function, place)


def in_order(migrations: Iterable[Migration]) -> tuple[Migration, ...]:
    """Return migrations by their number.

    Raises:
        ConfigError: K050, for a number that is missing or given twice.
    """
    ordered = tuple(sorted(migrations, key=lambda each: each.version))
    for expected, migration in enumerate(ordered, start=1):
        if migration.version != expected:
            twice = migration.version < expected
            raise ConfigError(
                "K050",
                f"there are two migrations {migration.version}."
                if twice
                else f"migration {migration.version} is declared, and migration {expected} is not.",
                where=str(migration.place),
                hint="Number them 1, 2, 3 and so on, and keep all that ever ran.",
            )
    return ordered

"""What an event asks of its parameters, as users declare it, and commands made from JSON and forms."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Generic, TypeAlias, TypeVar

from klerk._dispatch import Args, Command, Demands, EventBase
from klerk.conversion import ABSENT, Form, Json, Notation, parameter_values, read_json
from klerk.declared import DeclaredChoice, DeclaredRule, declared_rule, require_function
from klerk.errors import ArgumentError, ConfigError, Denied, InvalidValue, Problem, listed
from klerk.field_types import FieldType
from klerk.forms import Inputs
from klerk.jobs import Parameter
from klerk.places import here, place_of
from klerk.selections import MachineBase, View
from klerk.translation import Translation, translated
from klerk.values import Model, Ref
from klerk.visibility import Visibility

M = TypeVar("M", bound=Model)
V = TypeVar("V", bound=Callable[..., bool])

Choosable: TypeAlias = View[Any] | Collection[Any]
"""What may be chosen for a parameter: models in a view, or values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What an event knows of its parameters once the design is checked.

    Parameters:
        types: by name.
        demands: beyond the types; None when there are none.
        machines: of the app, by model class.
    """

    types: dict[str, FieldType]
    demands: Demands | None
    machines: Mapping[type[Model], MachineBase[Any]]


class CheckedEvent(EventBase, Generic[M]):
    """The parameters of an event: what may be chosen for them, and how they come from JSON and forms.

    Attributes:
        parameters, names: as the event's function declares them.
        rules, validators, choices: as declared, in order.
        compiled: set when the design is checked.
    """

    machine: MachineBase[M]
    function: Callable[..., Any]
    visibility: Visibility
    parameters: tuple[Parameter, ...]
    names: tuple[str, ...]

    def __init__(self) -> None:
        self.rules: list[DeclaredRule] = []
        self.validators: list[DeclaredRule] = []
        self.choices: list[DeclaredChoice] = []
        self.compiled: Compiled | None = None

    def ruled(self, function: Any, path: str) -> Any:
        """Keep a rule about a parameter, or return the decorator that does."""

        def declare(function: Callable[..., bool]) -> Callable[..., bool]:
            self.machine.app_open_check()
            require_function(function, f"as a rule of {self}")
            self.rules.append(declared_rule(function, path, self.names))
            return function

        return declare if function is None else declare(function)

    def validator(self, function: V) -> V:
        """Declare what parameters must fulfil together, by decorating ``function(start, end) -> bool``.

        It is asked right after the types of the values, before anything is looked up, and also when a command
        is made from JSON or a form. All validators are asked; a value that was left out is None.

        Parameters:
            function: takes any of the event's parameters, by name, and no args. It returns whether they fit,
                or raises `ValueError` with a message for people; its docstring is the message otherwise.

        Raises:
            ConfigError: K034.
        """
        self.machine.app_open_check()
        self._require_parameters(function)
        self.validators.append(declared_rule(function))
        return function

    def valid(self, **choices: "Choosable | Callable[[Args[M, Any]], Choosable]") -> None:
        """Declare which values parameters may take, each once, as in ``lend.valid(member=active)``.

        It is checked while the command is processed, for those who may give it, so that a model created by
        the same transaction counts. Of a parameter with several values, all of them must be valid; None is.

        Parameters:
            choices: by the parameter's name. For references a view of the models that may be chosen; for
                other types a collection of values; or a function ``(a) -> view or collection``.

        Raises:
            ConfigError: K032.
        """
        self.machine.app_open_check()
        for name, allowed in choices.items():
            known = [each for each in self.names if all(each != other.parameter for other in self.choices)]
            if name not in known:
                raise ConfigError(
                    "K032",
                    f"the event {self!r} has no parameter '{name}', or said before what is valid.",
                    where=str(here()),
                    hint=f"Use one of: {', '.join(known) or 'none'}.",
                )
            self.choices.append(DeclaredChoice(parameter=name, allowed=allowed, place=here()))

    def from_json(
        self,
        data: str | bytes | Mapping[str, Any],
        target: Ref[M] | None = None,
        *,
        translation: Translation | None = None,
    ) -> Command[M]:
        """Make a command from a JSON object with the event's parameters by name.

        Dates, moments (ISO 8601), durations, UUIDs and decimal numbers are texts, bytes are base64, enum
        members their values, references numbers, structs objects. The signature's defaults apply.

        Parameters:
            data: the JSON text, or what it was decoded to.
            target: the model that the event happens to; None for one that creates a model.
            translation: for the problems.

        Raises:
            InvalidValue: with every problem found, at paths such as ``address.lines[2]``.
            Denied: (``not_visible``) the event is not for the outside.
            ArgumentError: the target is missing, or there is none to be given.
            ConfigError: K030.
        """
        problems: list[Problem] = []
        decoded = read_json(data, problems)
        return self._converted(Json(), decoded, target, problems, translation)

    def from_form(
        self,
        data: Mapping[str, Any],
        target: Ref[M] | None = None,
        *,
        time_zone: tzinfo | None = None,
        translation: Translation | None = None,
    ) -> Command[M]:
        """Make a command from the inputs of an HTML form or a query string.

        An empty text is None where that is possible, and otherwise, except for texts, as if it was not there.
        What is not there gets its default, or else None; a bool is false then, a collection empty.
        Parts of structs and lists have names such as ``address.lines[2]``. Inputs that are no parameters, a
        token against forged requests for instance, are problems: take them out before.

        Parameters:
            data: a text or a list of texts by the name of the input, as `urllib.parse.parse_qs` gives them
                with ``keep_blank_values=True``.
            target: as for `from_json`.
            time_zone: of moments that name none, as ``<input type="datetime-local">`` sends them.
            translation: for the problems.

        Raises:
            InvalidValue, ArgumentError, ConfigError: as for `from_json`.
        """
        if not isinstance(data, Mapping):
            raise ArgumentError(f"expected a mapping of the form's inputs, got {type(data).__name__}")
        return self._converted(Form(time_zone), Inputs.of(data), target, [], translation)

    def compiled_parameters(self) -> Compiled:
        """Return what is known of the parameters.

        Raises:
            ConfigError: K030.
        """
        if self.compiled is None:
            raise ConfigError(
                "K030",
                f"the parameters of {self!r} are used before its app was opened.",
                where=str(here()),
                hint="Call app.open(...) first, or app.freeze() where nothing is opened.",
            )
        return self.compiled

    def _converted(
        self,
        notation: Notation,
        given: Any,
        target: Ref[M] | None,
        problems: list[Problem],
        translation: Translation | None,
    ) -> Command[M]:
        compiled = self.compiled_parameters()
        if self.visibility is not Visibility.EXTERNAL:
            raise Denied(
                f"{self!r} cannot be made from JSON or a form: it is not for the outside",
                code="not_visible",
                hint="Declare it with visibility=Visibility.EXTERNAL, or call it in code.",
            )
        if self.creates != (target is None):
            problem = "creates its model, so there is no target" if self.creates else "needs its target"
            raise ArgumentError(
                f"{self!r} {problem}", hint="Events on models get the model's reference as the target."
            )
        values: tuple[Any, ...] = ()
        if given is not ABSENT:
            values = parameter_values(notation, given, self.parameters, compiled.types, problems)
        if not problems and compiled.demands is not None:
            problems = compiled.demands.invalid(values)
        if problems:
            error = InvalidValue(f"{self!r}: {listed(problems)}", problems=problems)
            raise translated(error, translation)
        return self(*values) if target is None else self(target, *values)

    def _require_parameters(self, function: Callable[..., Any]) -> None:
        """Refuse a validator that could not be called with parameters alone."""
        wanted = list(inspect.signature(function).parameters.values())
        by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        problem = ""
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            problem = "it is a coroutine, and nothing is awaited here"
        elif not wanted:
            problem = "it takes no parameter"
        for each in wanted:
            if each.name not in self.names or each.kind not in by_position:
                problem = f"it wants '{each}'"
        if problem:
            raise ConfigError(
                "K034",
                f"{function.__name__} cannot serve as a validator of {self!r}: {problem}.",
                where=str(place_of(function)),
                hint=f"It takes any of {', '.join(self.names) or 'no parameters'}, by name, and no args.",
            )

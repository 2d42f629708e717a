"""Who may do and see what: allow and deny rules as users declare them, and what they mean for one class."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, get_args

from klerk._dispatch import Args
from klerk.declared import needs_parentheses, require_function
from klerk.errors import ConfigError
from klerk.field_types import FieldType
from klerk.jobs import Job
from klerk.machine import CreateEvent, Event
from klerk.places import Place, here
from klerk.values import Model

Permit = Callable[[Args[Any, Any]], bool]
F = TypeVar("F", bound=Permit)
AnyEvent = CreateEvent[Any, Any] | Event[Any, Any]

COMMAND: Final = "command"
READ: Final = "read"
FIELD: Final = "field"
LOG: Final = "log"
ERASURE: Final = "erasure"
KV: Final = "kv"
BLOB: Final = "blob"
JOBS: Final = "jobs"

KeyAction = Literal["read", "write", "delete", "list"]
JobAction = Literal["cancel", "discard", "retry", "run_now", "edit", "rerun", "pause", "resume", "scale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """One allow or deny rule.

    Parameters:
        function: ``function(a) -> bool``.
        subject: commands, models, fields, key-values, blobs, jobs, the commit log or erasures.
        targets: the events, model classes or jobs meant; empty for all.
        names: the fields meant; empty for all.
        tag: only fields whose type has this tag.
        prefixes: of the keys meant; empty for all.
        action: only this use of a key; None for all.
        job_action: only this action on a job; None for all.
    """

    function: Permit
    subject: str
    targets: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    tag: str | None = None
    prefixes: tuple[str, ...] = ()
    action: KeyAction | None = None
    job_action: JobAction | None = None
    place: Place

    def covers(self, target: Any) -> bool:
        """Return whether an event or class is meant."""
        return not self.targets or any(target is each for each in self.targets)

    def covers_field(self, model_class: type[Model], name: str, tags: frozenset[str]) -> bool:
        """Return whether a field is meant."""
        if not self.covers(model_class) or (self.names and name not in self.names):
            return False
        return self.tag is None or self.tag in tags


class Permissions:
    """What ``app.allow`` and ``app.deny`` are: decorators for functions ``(a: Args) -> bool``.

    A command, model, field, key or action on a job, the commit log or an erasure is permitted when an allow
    rule that covers it says yes and no deny rule does.

    A refused command does not tell whether there is a model or reference: `NotFound` is the answer only for
    those whom the rules permit the event on every model, without looking at it; `Denied` for everyone else.
    A rule that cannot find a model which it reads permits nothing. Of its parameters' references a command is
    told only once it is permitted. Commands that blocks cause and those of the system are not asked about.
    """

    def __init__(self, app_open_check: Callable[[], None]) -> None:
        self._app_open_check = app_open_check
        self.all: list[Permission] = []

    @needs_parentheses
    def command(self, *events: AnyEvent) -> Callable[[F], F]:
        """Cover the commands of these events, or of all when none is named."""
        for event in events:
            if not isinstance(event, (CreateEvent, Event)):
                raise ConfigError(
                    "K017",
                    f"{event!r} is not an event.",
                    where=str(here()),
                    hint="Name the decorated functions.",
                )
        return self._declare(COMMAND, events)

    @needs_parentheses
    def read(self, *classes: type[Model]) -> Callable[[F], F]:
        """Cover reading models of these classes, or of all when none is named."""
        self._require_classes(classes)
        return self._declare(READ, classes)

    @needs_parentheses
    def field(
        self, *classes: type[Model], names: Iterable[str] = (), tag: str | None = None
    ) -> Callable[[F], F]:
        """Cover reading fields.

        Parameters:
            classes: of models; all when none is named.
            names: of fields; all when none is named.
            tag: only fields whose value type has this tag.
        """
        self._require_classes(classes)
        return self._declare(FIELD, classes, (names,) if isinstance(names, str) else tuple(names), tag)

    def log(self) -> Callable[[F], F]:
        """Cover reading the commit log. Values in it are masked as fields are."""
        return self._declare(LOG, ())

    def erasure(self) -> Callable[[F], F]:
        """Cover erasing what the commit log says of a model."""
        return self._declare(ERASURE, ())

    def kv(self, *prefixes: str, action: KeyAction | None = None) -> Callable[[F], F]:
        """Cover key-values, which the rule knows as ``a.key`` and ``a.action``.

        Listing asks about the prefix that is to be listed, and then about each key: those that may not be
        listed are left out.

        Parameters:
            prefixes: of keys; all keys when none is given.
            action: only "read", "write", "delete" or "list"; None for all of them.

        Raises:
            ConfigError: K060, K061.
        """
        return self._declare_keys(KV, prefixes, action)

    def blob(self, *prefixes: str, action: KeyAction | None = None) -> Callable[[F], F]:
        """Cover blobs, as `kv` covers key-values."""
        return self._declare_keys(BLOB, prefixes, action)

    @needs_parentheses
    def jobs(self, *jobs: Job[...], action: JobAction | None = None) -> Callable[[F], F]:
        """Cover what is done to jobs by hand, as in ``k.jobs.cancel(id, context)``.

        The rule knows the name of the job's kind as ``a.key`` and what is to be done as ``a.action``.

        An action without a context is the application's own, and no rule is asked about it. Nor is one about
        looking at jobs: who may be shown them is up to the code that shows them.

        Parameters:
            jobs: the kinds meant; all when none is named.
            action: only "cancel", "discard", "retry", "run_now", "edit" or "rerun"; or "pause", "resume" or
                "scale", of a queue that jobs of the kind are in; None for all of them.

        Raises:
            ConfigError: K017.
        """
        for job in jobs:
            if not isinstance(job, Job):
                raise ConfigError(
                    "K017",
                    f"{job!r} is not a job.",
                    where=str(here()),
                    hint="Name the decorated functions.",
                )
        if action is not None and action not in get_args(JobAction):
            raise ConfigError(
                "K017",
                f"nothing is done to jobs as in action={action!r}.",
                where=str(here()),
                hint=f"The actions are {', '.join(get_args(JobAction))}.",
            )
        return self._declare(JOBS, jobs, job_action=action)

    def _declare_keys(
        self, subject: str, prefixes: tuple[str, ...], action: KeyAction | None
    ) -> Callable[[F], F]:
        for prefix in prefixes:
            if type(prefix) is not str or not prefix:
                raise ConfigError(
                    "K060",
                    f"{prefix!r} is no prefix of keys.",
                    where=str(here()),
                    hint='Name texts, as in app.allow.kv("session:").',
                )
        if action is not None and action not in get_args(KeyAction):
            raise ConfigError(
                "K061",
                f"keys cannot be used as in action={action!r}.",
                where=str(here()),
                hint=f"The actions are {', '.join(get_args(KeyAction))}.",
            )
        return self._declare(subject, (), prefixes=prefixes, action=action)

    def _require_classes(self, classes: tuple[Any, ...]) -> None:
        for cls in classes:
            if not (isinstance(cls, type) and issubclass(cls, Model)):
                raise ConfigError(
                    "K017",
                    f"{cls!r} is not a model class.",
                    where=str(here()),
                    hint="Name classes, as in Member.",
                )

    def _declare(
        self,
        subject: str,
        targets: tuple[Any, ...],
        names: tuple[str, ...] = (),
        tag: str | None = None,
        prefixes: tuple[str, ...] = (),
        action: KeyAction | None = None,
        job_action: JobAction | None = None,
    ) -> Callable[[F], F]:
        self._app_open_check()
        place = here()

        def declare(function: F) -> F:
            require_function(function, "as an allow or deny rule")
            self.all.append(
                Permission(
                    function=function,
                    subject=subject,
                    targets=targets,
                    names=names,
                    tag=tag,
                    prefixes=prefixes,
                    action=action,
                    job_action=job_action,
                    place=place,
                )
            )
            return function

        return declare

    def for_event(self, event: AnyEvent) -> list[Permit]:
        """Return the rules about the commands of an event."""
        return [p.function for p in self.all if p.subject == COMMAND and p.covers(event)]

    def for_class(self, model_class: type[Model]) -> list[Permit]:
        """Return the rules about reading models of a class."""
        return [p.function for p in self.all if p.subject == READ and p.covers(model_class)]

    def for_subject(self, subject: str) -> list[Permit]:
        """Return the rules about a subject that has no targets."""
        return [p.function for p in self.all if p.subject == subject]

    def for_field(self, model_class: type[Model], name: str, tags: frozenset[str]) -> list[Permit]:
        """Return the rules about reading one field."""
        return [
            p.function for p in self.all if p.subject == FIELD and p.covers_field(model_class, name, tags)
        ]

    def for_keys(self, subject: str) -> list[Permission]:
        """Return the rules about key-values or about blobs."""
        return [p for p in self.all if p.subject == subject]

    def for_job(self, job: Job[Any] | None, action: JobAction) -> list[Permit]:
        """Return the rules about an action on the jobs of a kind, or of one that is no longer declared."""
        return [
            p.function
            for p in self.all
            if p.subject == JOBS and p.covers(job) and p.job_action in (None, action)
        ]

    def check_fields(self, fields: Mapping[type[Model], Mapping[str, FieldType]]) -> None:
        """Refuse rules about fields that there are not: a misspelt deny rule would deny nothing.

        Raises:
            ConfigError: K018.
        """
        for rule in self.all:
            covered = {cls: types for cls, types in fields.items() if rule.covers(cls)}
            unknown = [name for name in rule.names if not any(name in types for types in covered.values())]
            tags = {tag for types in covered.values() for field in types.values() for tag in field.tags}
            problem = ""
            if rule.subject in (READ, FIELD) and any(target not in fields for target in rule.targets):
                problem = "it names a class that has no machine in this app"
            elif unknown:
                problem = f"no class that it covers has a field '{unknown[0]}'"
            elif rule.tag is not None and rule.tag not in tags:
                problem = f"no field that it covers has the tag '{rule.tag}'"
            if problem:
                name = getattr(rule.function, "__name__", rule.function)
                raise ConfigError(
                    "K018",
                    f"the rule '{name}' about reading would never be asked: {problem}.",
                    where=str(rule.place),
                    hint="Write the name as it is declared.",
                )

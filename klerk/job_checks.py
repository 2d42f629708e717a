"""Checks what is declared of jobs and queues, and makes their settings of it."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from klerk import limits
from klerk.commands import Actor
from klerk.errors import ConfigError
from klerk.job_keys import places_of
from klerk.job_options import JobOptions, JobSettings, QueueOptions, QueueSettings, Rate, Unique
from klerk.job_outcomes import OUTCOMES
from klerk.jobs import Job
from klerk.places import Place, place_of

Refuse = Callable[[str, str], NoReturn]
"""Refuses an option, by its name, for a reason."""

_JOB_OPTIONS: Final = frozenset(JobOptions.__annotations__)
_QUEUE_OPTIONS: Final = frozenset(QueueOptions.__annotations__)


def _refuser(what: str, place: Place) -> Refuse:
    def refuse(option: str, problem: str) -> NoReturn:
        raise ConfigError("K017", f"the option {option} of {what}: {problem}.", where=str(place))

    return refuse


def declared_queue(name: str, options: Mapping[str, Any], place: Place) -> QueueSettings:
    """Return a queue's settings, checked.

    Raises:
        ConfigError: K017.
    """
    refuse = _refuser(f"queue {name!r}", place)
    _check_name("name", name, refuse)
    _check_known(options, _QUEUE_OPTIONS, refuse)
    checked = dict(options)
    _check_count(checked, "concurrency", limits.JOB_CONCURRENCY_MAX, refuse)
    _parse_rate(checked, "rate", refuse)
    _check_number(checked, "weight", 1, limits.QUEUE_WEIGHT_MAX, refuse)
    _check_choice(checked, "executor", ("thread", "process"), refuse)
    return QueueSettings(**checked, place=place)


def declared_job(function: Callable[..., Any], options: Mapping[str, Any], place: Place) -> Job[Any]:
    """Return a job whose options were checked.

    Raises:
        ConfigError: K006, K017.
    """
    refuse = _refuser(f"job '{function.__name__}'", place)
    _check_known(options, _JOB_OPTIONS, refuse)
    settings = _settings(dict(options), refuse)
    try:
        job: Job[Any] = Job(function, settings, place)
    except ValueError as error:
        raise ConfigError(
            "K006",
            f"the function of job '{function.__name__}' cannot be called: {error}.",
            where=str(place_of(function)),
            hint=f"Declare it as def {function.__name__}(job: JobRun, ...).",
        ) from error
    _check_function(job, refuse)
    return job


def _settings(options: dict[str, Any], refuse: Refuse) -> JobSettings:
    """Return the settings that options make, each checked by itself."""
    if "queue" in options:
        _check_name("queue", options["queue"], refuse)
    _check_number(options, "priority", -limits.JOB_PRIORITY_MAX, limits.JOB_PRIORITY_MAX, refuse)
    _check_number(options, "max_attempts", 1, limits.JOB_ATTEMPTS_LIMIT, refuse)
    _check_number(options, "max_crashes", 1, limits.JOB_ATTEMPTS_LIMIT, refuse)
    for option in ("rate", "key_rate"):
        _parse_rate(options, option, refuse)
    for option in ("concurrency", "key_concurrency"):
        _check_count(options, option, limits.JOB_CONCURRENCY_MAX, refuse)
    for option in ("timeout", "heartbeat", "keep_result"):
        _check_duration(options, option, refuse)
    _check_choice(options, "executor", ("thread", "loop", "process"), refuse)
    _check_choice(options, "missed", ("skip", "once", "all"), refuse)
    _check_number(options, "version", 1, limits.JOB_VERSION_MAX, refuse)
    if not isinstance(options.get("at_most_once", False), bool):
        refuse("at_most_once", f"it must be True or False, is {options['at_most_once']!r}")
    for option in ("timezone", "missed"):
        if option in options and options.get("cron") is None:
            refuse(option, "it means something only together with cron")
    _check_callables(options, refuse)
    _check_on_error(options.get("on_error", {}), refuse)
    if "tags" in options:
        options["tags"] = _checked_tags(options["tags"], refuse)
    if options.get("run_as") is not None and not isinstance(options["run_as"], Actor):
        refuse("run_as", f"it must be an actor, as in User('billing'), is {options['run_as']!r}")
    if options.get("at_most_once") and options.get("max_attempts", 1) != 1:
        refuse("at_most_once", "a job that never starts twice has no second attempt; leave out max_attempts")
    if options.get("at_most_once"):
        options["max_attempts"] = 1
    return JobSettings(**options)


def _check_function(job: Job[Any], refuse: Refuse) -> None:
    """Check the options that depend on the job's function."""
    settings = job.settings
    if inspect.isgeneratorfunction(job.function) or inspect.isasyncgenfunction(job.function):
        raise ConfigError(
            "K006",
            f"the function of job '{job.name}' has a yield, so calling it would run nothing of it.",
            where=str(place_of(job.function)),
            hint="Return None or a result; for progress, there is job.track.",
        )
    if settings.cron is not None:
        if any(parameter.default is inspect.Parameter.empty for parameter in job.parameters):
            refuse("cron", "the function has parameters, for which there would be no values")
        _check_cron(settings.cron, settings.timezone, refuse)
    if settings.executor == "loop" and not job.is_coroutine:
        refuse("executor", "only a coroutine function (async def) can run on the loop")
    if settings.executor == "thread" and job.is_coroutine:
        refuse("executor", "a coroutine function runs on the loop, or in a process")
    if settings.key is None and (settings.key_rate or settings.key_concurrency):
        refuse("key", "key_rate and key_concurrency need it, as in key=lambda loan: str(loan)")
    names = [parameter.name for parameter in job.parameters]
    if settings.key is not None:
        _require_plain(settings.key, names, "key", refuse)
        try:
            job.key_places = places_of(settings.key, names)
        except ValueError as error:
            refuse("key", str(error))
    unique: object = settings.unique
    if unique is not None:
        _check_unique(unique, names, refuse)
    missing = set(range(1, settings.version)) ^ set(settings.upcast)
    if missing:
        refuse("upcast", f"it must have a function for each version before {settings.version}, and no other")


def _check_unique(unique: object, names: list[str], refuse: Refuse) -> None:
    if not isinstance(unique, Unique):
        refuse("unique", f"it must be klerk.Unique(...), is {unique!r}")
    if unique.until not in ("started", "ended"):
        refuse("unique", f"until must be 'started' or 'ended', is {unique.until!r}")
    within: object = unique.within
    by: object = unique.by
    longest = timedelta(days=limits.JOB_UNIQUE_DAYS_MAX)
    if within is not None and not (isinstance(within, timedelta) and timedelta(0) < within <= longest):
        refuse("unique", f"within must be a timedelta over 0 and up to {longest.days} days, is {within!r}")
    if isinstance(by, str) or not isinstance(by, Collection):
        refuse(
            "unique", f"by must be a tuple of names, as in ({names[0] if names else 'meter'!r},), is {by!r}"
        )
    for name in by:
        if name not in names:
            refuse("unique", f"there is no parameter {name!r}; there are: {', '.join(names) or 'none'}")


def _check_cron(expression: object, timezone: object, refuse: Refuse) -> None:
    if not isinstance(expression, str):
        refuse("cron", f"it must be a text such as '0 3 * * *', is {expression!r}")
    try:
        CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        refuse("cron", f"{expression!r} is not a cron expression ({error})")
    try:
        ZoneInfo(str(timezone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        refuse("timezone", f"{timezone!r} is no time zone known here, as 'Europe/Oslo' is")


def _check_known(options: Mapping[str, Any], known: frozenset[str], refuse: Refuse) -> None:
    for option in options:
        if option not in known:
            refuse(repr(option), f"there is none of this name; there are: {', '.join(sorted(known))}")


def _check_name(option: str, name: object, refuse: Refuse) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= limits.JOB_NAME_LENGTH_MAX:
        refuse(option, f"it must be a text of 1 to {limits.JOB_NAME_LENGTH_MAX} characters")


def _check_number(options: Mapping[str, Any], option: str, low: int, high: int, refuse: Refuse) -> None:
    value = options.get(option, low)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        refuse(option, f"it must be {low} to {high}, is {value!r}")


def _check_count(options: Mapping[str, Any], option: str, high: int, refuse: Refuse) -> None:
    if options.get(option) is not None:
        _check_number(options, option, 1, high, refuse)


def _check_duration(options: Mapping[str, Any], option: str, refuse: Refuse) -> None:
    value = options.get(option)
    longest = timedelta(days=limits.JOB_DELAY_DAYS_MAX)
    if value is not None and (not isinstance(value, timedelta) or not timedelta(0) < value <= longest):
        refuse(option, f"it must be a timedelta over 0, is {value!r}")


def _check_choice(options: Mapping[str, Any], option: str, known: tuple[str, ...], refuse: Refuse) -> None:
    value = options.get(option)
    if value is not None and value not in known:
        refuse(option, f"it must be one of {', '.join(map(repr, known))}, is {value!r}")


def _parse_rate(options: dict[str, Any], option: str, refuse: Refuse) -> None:
    if options.get(option) is None:
        return
    try:
        options[option] = Rate.parse(options[option])
    except (ValueError, AttributeError) as error:
        refuse(option, str(error))


def _check_callables(options: Mapping[str, Any], refuse: Refuse) -> None:
    for option in ("retry", "key"):
        if options.get(option) is not None and not callable(options[option]):
            refuse(option, f"it must be a function, is {options[option]!r}")
    if options.get("retry") is not None:
        _check_taking(options["retry"], ["attempt", "error"], "retry", refuse)
    upcast = options.get("upcast", {})
    if not isinstance(upcast, Mapping) or not all(callable(each) for each in upcast.values()):
        refuse("upcast", "it must map earlier versions to functions, as in {1: lambda old: {...}}")
    for each in upcast.values():
        _check_taking(each, ["old"], "upcast", refuse)


def _check_taking(function: Callable[..., Any], names: Sequence[str], option: str, refuse: Refuse) -> None:
    """Check that a function can be called with what it is given, in the order of some names."""
    taken = _require_plain(function, names, option, refuse)
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Some functions of compiled modules do not tell what they take.
        return
    try:
        signature.bind(*names)
    except TypeError as error:
        refuse(option, f"it must be a function of {taken}, but that does not fit {signature}: {error}")


def _require_plain(function: Callable[..., Any], names: Sequence[str], option: str, refuse: Refuse) -> str:
    """Refuse a coroutine function; return what is taken by one that fits."""
    taken = f"({', '.join(names)})"
    if inspect.iscoroutinefunction(function):
        refuse(option, f"it must be a plain function of {taken}: nothing is awaited here")
    return taken


def _check_on_error(on_error: object, refuse: Refuse) -> None:
    if not isinstance(on_error, Mapping):
        refuse("on_error", "it must map exception classes to what they mean, as in {ValueError: Discard()}")
    for cls, outcome in on_error.items():
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            refuse("on_error", f"{cls!r} is no exception class")
        if not isinstance(outcome, OUTCOMES):
            refuse("on_error", f"{outcome!r} is none of Snooze(...), Retry(...), Cancel(), Discard()")


def _checked_tags(tags: object, refuse: Refuse) -> frozenset[str]:
    if isinstance(tags, str) or not hasattr(tags, "__iter__"):
        refuse("tags", f"they must be a collection of texts, as in {{'gpu'}}, are {tags!r}")
    for tag in tags:
        _check_name("tags", tag, refuse)
    return frozenset(tags)

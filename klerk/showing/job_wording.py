"""What is declared of jobs and queues, told to people: what makes a job wait, fail or end, where it runs."""

from collections.abc import Iterator
from typing import Final

from klerk.app import Spec
from klerk.job_options import Backoff, JobSettings, QueueSettings, Rate, Unique
from klerk.job_outcomes import Discard, JobOutcome, Retry, Snooze
from klerk.jobs import Job
from klerk.showing.wording import duration_text, function_text, key_text, rate_text

Row = tuple[str, str]

_POOLS: Final = {"thread": "a thread", "loop": "the event loop", "process": "a process of its own pool"}
_MISSED: Final = {
    "skip": "no job for times that passed while nothing was open",
    "once": "one job for all times that passed while nothing was open",
    "all": "one job for each time that passed while nothing was open",
}
_PLAIN: Final = JobSettings()


def queue_rows(spec: Spec) -> Iterator[tuple[str, str, str]]:
    """Yield each queue, its limits, and the jobs in it; nothing when the default queue is all there is."""
    if spec.queues in ({}, {"default": QueueSettings()}):
        return
    for name, settings in spec.queues.items():
        about = [_limits_text(settings.rate, settings.concurrency), f"weight {settings.weight}"]
        if settings.executor == "process":
            about.append("plain functions run in processes")
        jobs = [job.name for job in spec.jobs.values() if job.settings.queue == name]
        yield name, "; ".join(filter(None, about)), ", ".join(jobs)


def job_rows(job: Job[...]) -> Iterator[Row]:
    """Yield what is declared of a job besides its parameters; options left out are left out here, too."""
    settings = job.settings
    yield "queue", f"{settings.queue}, priority {settings.priority}"
    if settings.run_as is not None:
        yield "acts as", str(settings.run_as)
    yield from _endings(settings)
    yield from _limits(settings)
    if settings.cron is not None:
        yield "by itself", f"cron {settings.cron} ({settings.timezone})"
        yield "if missed", _MISSED[settings.missed]
    tags = f", of a worker with {', '.join(sorted(settings.tags))}" if settings.tags else ""
    yield "runs in", _POOLS[job.pool] + tags
    if settings.timeout is not None:
        yield "time limit", f"{duration_text(settings.timeout)} for an attempt"
    if settings.heartbeat is not None:
        yield "heartbeat", f"at least every {duration_text(settings.heartbeat).removeprefix('1 ')}"
    if settings.keep_result is not None:
        yield "result", f"kept for {duration_text(settings.keep_result)}"
    if settings.version != _PLAIN.version:
        upcasts = ", ".join(function_text(settings.upcast[each]) for each in sorted(settings.upcast))
        yield "arguments", f"version {settings.version}, earlier ones through {upcasts}"


def _endings(settings: JobSettings) -> Iterator[Row]:
    """Say what becomes of a job that does not succeed."""
    yield "on failure", _attempts_text(settings)
    for error, outcome in settings.on_error.items():
        yield f"on {error.__name__}", _outcome_text(outcome)
    if settings.at_most_once:
        yield "on a crash", "discarded, its outcome unknown: it runs at most once"
    elif settings.max_crashes != _PLAIN.max_crashes:
        crashes = "1 crash" if settings.max_crashes == 1 else f"{settings.max_crashes} crashes"
        yield "on a crash", f"again; discarded after {crashes} of the process"


def _attempts_text(settings: JobSettings) -> str:
    if settings.max_attempts == 1:
        return "discarded"
    delays = f"again when {function_text(settings.retry)} says"
    if isinstance(settings.retry, Backoff):
        base, longest = duration_text(settings.retry.base), duration_text(settings.retry.longest)
        delays = f"again after about {base}, then twice as long each time, at most {longest}"
    return f"{delays}; {settings.max_attempts} attempts in all"


def _outcome_text(outcome: JobOutcome) -> str:
    if isinstance(outcome, Snooze):
        text = f"again after {duration_text(outcome.after)}, the attempt does not count"
    elif isinstance(outcome, Retry):
        text = "as on failure" if outcome.after is None else f"again after {duration_text(outcome.after)}"
    else:
        text = "discarded" if isinstance(outcome, Discard) else "cancelled"
    return f"{text}: {outcome.reason}" if outcome.reason else text


def _limits(settings: JobSettings) -> Iterator[Row]:
    """Say what keeps a job from starting, or from being created."""
    if settings.rate is not None:
        yield "rate", rate_text(settings.rate)
    if settings.concurrency is not None:
        yield "at once", f"at most {settings.concurrency:,}"
    if settings.key is not None:
        per_key = _limits_text(settings.key_rate, settings.key_concurrency)
        yield "per key", f"{key_text(settings.key)}: {per_key}" if per_key else key_text(settings.key)
    if settings.unique is not None:
        yield "unique", _unique_text(settings.unique)


def _limits_text(rate: Rate | None, concurrency: int | None) -> str:
    texts = ["" if rate is None else rate_text(rate)]
    texts.append("" if concurrency is None else f"at most {concurrency:,} at once")
    return "; ".join(filter(None, texts))


def _unique_text(unique: Unique) -> str:
    by = f"by {', '.join(unique.by)}" if unique.by else "by all parameters"
    if unique.within is not None:
        return f"{by}, for {duration_text(unique.within)} after one was created"
    return f"{by}, until one has {unique.until}"

"""What Klerk writes to the loggers ``klerk`` and ``klerk.storage``, for whoever reads logs by machine.

Every record has the attribute ``event``, one of the names below, which stay as they are from version to
version; the texts may change. A formatter that writes JSON shows it together with the fields named here.
Those of a job are ``job_id``, ``kind``, ``queue``, ``attempt`` (from 1), and ``duration_s`` if it was run.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

__all__ = ["EVENTS", "about", "about_job"]

EVENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "attempt_ended": "An attempt ended, when a JobLog watches. Fields: of the job; state, error.",
        "attempt_failed": "A job failed and is tried again. Fields: of the job; state, error, where.",
        "attempt_unrecorded": "What became of a job could not be stored (yet). Fields: of the job.",
        "bulk_action": "An action on many jobs takes long, or ended. Fields: action, done, duration_s.",
        "callback_failed": "A done callback of a submitted command raised.",
        "checkpointing_failed": "Models and jobs are not written behind the log; the log has them.",
        "cron_ahead": "A cron job ran for a later time already, and waits for it. Fields: kind.",
        "cron_failed": "A cron job could not be created; it is tried again. Fields: kind.",
        "cron_missed": "A cron job missed more times than it makes up for. Fields: kind.",
        "cleanup_failed": "Key-values or blobs could not be cleaned up.",
        "clock_failed": "The clock failed: timers and jobs wait for it.",
        "job_discarded": "A job was given up. Fields: of the job; state, error, where.",
        "job_keyless": "The key of a stored job fails, so none limits it. Fields: of the first of a kind.",
        "job_outcome_unknown": "The process died while a job ran that runs once at most. Fields: of the job.",
        "job_unread": "Stored jobs could not be read; it is tried again. Fields: job_id, if it is one job.",
        "job_unrecorded": "That jobs ended, may go on or cannot run could not be stored yet.",
        "job_lost": "A worker could not run a job, or a callback of it failed.",
        "job_suspended": "Stored jobs of a kind cannot be run. Fields: of the first; error, count (of them).",
        "job_crashed": "The process died while a job ran. Fields: of the job; crashes (counted), error.",
        "job_goes_on": "A job goes on although it was asked to stop. Fields: of the job; error.",
        "job_left_running": "A job did not end in time when Klerk closed. Fields: of the job.",
        "loop_gone": "An asyncio loop was closed while its tasks waited for commands.",
        "marks_unused": "It is not known which jobs ran when the process died, or will not be.",
        "observer_failed": "What watches jobs raised.",
        "opened_unsafe": "The app is open for unsafe changes. Fields: app.",
        "queues_undeclared": "Jobs are in queues that nobody declares any more. Fields: queues.",
        "rates_unrecorded": "How much of each rate was used could not be stored. They begin with nothing.",
        "reader_held_long": "A job held the read lock for long. Fields: of the job; held_s.",
        "reader_left_open": "A job left a reader open, which was closed. Fields: of the job.",
        "readers_hold_up": "Publishing waits for readers. Fields: waited_s, threads, tasks.",
        "scheduled_call_failed": "Something of Klerk's own that was due failed.",
        "store_failed": "The store failed: every later command is refused.",
        "store_damaged": "The store's files are not as they should be, and what is done about it.",
        "timer_refused": "A timer was refused. Fields: model_id, state.",
        "timer_unrecorded": "That a timer was refused could not be stored.",
        "timers_failed": "No timer can be fired for now, which is tried again.",
        "translation_failed": "A translation failed; the text stays in English. Fields: key.",
        "unmanaged_dropped": "Unmanaged jobs were dropped. Fields: function, dropped, dropped_total.",
        "unmanaged_failed": "An unmanaged job raised. Fields: function.",
        "unmanaged_left": "Unmanaged jobs were left when Klerk closed. Fields: left.",
    }
)
"""What is logged, by the name of the event."""


def about(event: str, **fields: object) -> dict[str, object]:
    """Return the fields of a log record about an event, to be given as ``extra``."""
    return {"event": event, **fields}


def about_job(event: str, record: Any, queue: str, **fields: object) -> dict[str, object]:
    """Return the fields of a log record about a job.

    Parameters:
        record: of the job, before the attempt.
        queue: as declared for its kind.
    """
    return {
        "event": event,
        "job_id": record.id,
        "kind": record.kind,
        "queue": record.queue or queue,
        "attempt": record.attempt + 1,
        **fields,
    }

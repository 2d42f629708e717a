"""The names of kinds and queues in an opened app, and a warning about queues that nobody declares."""

import logging
import threading
from collections import Counter
from collections.abc import Collection

from klerk import limits
from klerk.app import Spec
from klerk.job_manager.tally import Tally
from klerk.job_names import JobNames
from klerk.jobs import FINAL_STATES
from klerk.log_events import about

LOG = logging.getLogger("klerk")


def names_in(spec: Spec, lock: threading.Lock, tally: Tally, queues: Collection[str]) -> JobNames:
    """Return the names by which the jobs of an opened app can be looked for.

    Parameters:
        lock: guards the next two.
        tally: counts the jobs that are stored.
        queues: those that had jobs, or settings of their own, since the app was opened.
    """

    def stored() -> tuple[Collection[str], Collection[str]]:
        with lock:
            sorts = tally.sorts()
            return {kind for _, kind, _ in sorts}, {*queues, *(queue for _, _, queue in sorts if queue)}

    tags = frozenset(tag for job in spec.jobs.values() for tag in job.settings.tags)
    return JobNames(spec.jobs.keys(), spec.queues.keys(), tags, stored)


def warn_of_undeclared_queues(spec: Spec, lock: threading.Lock, tally: Tally) -> None:
    """Log which queues jobs wait in that nobody declares any more, if there are any."""
    jobs: Counter[str] = Counter()
    with lock:
        for sort in tally.sorts():
            state, _, queue = sort
            if queue and queue not in spec.queues and state not in FINAL_STATES:
                jobs[queue] += tally.count(sort)
    if not jobs:
        return
    named = [f"'{queue}' ({jobs[queue]:,} jobs)" for queue in sorted(jobs)[: limits.JOB_NAMES_SHOWN_MAX]]
    more = f" and {len(jobs) - len(named)} more" if len(jobs) > len(named) else ""
    LOG.warning(
        "jobs are in queues that nobody declares any more, and run without their limits: %s%s",
        ", ".join(named),
        more,
        extra=about("queues_undeclared", queues=sorted(jobs)),
    )

"""The times of cron jobs that got no job, because a unique one stood for it, as the commit log has them."""

from klerk.audit.commit_log import Lookup
from klerk.audit.history import History
from klerk.audit.sequences import newest_first
from klerk.codec import CRON_TICK
from klerk.commands import System
from klerk.storage.contract import Storage


def cron_actor(kind: str) -> System:
    """Return the actor who deals with the times of a cron job."""
    return System(f"cron {kind}")


class CronTicks:
    """Finds those times.

    Parameters:
        storage: with the commit log.
        history: finds the transactions.
        newest: the sequence of the newest transaction.
    """

    def __init__(self, storage: Storage, history: History, newest: int) -> None:
        self._lookup = Lookup(storage)
        self._history = history
        self._newest = newest

    def newest_without_job(self, kind: str, since: int) -> int:
        """Return the newest time of a kind that got no job, in microseconds since 1970 UTC; 0: there is none.

        Parameters:
            since: the sequence of a transaction: only later ones count.

        Raises:
            Corrupted: the commit log cannot be read.
        """
        actor = cron_actor(kind)
        found = [self._history.of_event(CRON_TICK), self._history.of_actor(actor.kind, actor.id)]
        sequence = next(newest_first(found, self._newest), 0)
        if sequence <= since:
            return 0
        payload = self._lookup.payload(sequence)
        entries = self._lookup.head(sequence).targets
        values = () if payload is None else payload.parameters
        # Nothing of it is about a person, but whole payloads are erased.
        ticks = (ours[1] for (code, _, _), ours in zip(entries, values, strict=False) if code == CRON_TICK)
        return max(ticks, default=0)

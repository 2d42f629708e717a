"""`Retention`: how long jobs are kept that have ended."""

from datetime import timedelta

import msgspec

from klerk import limits


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long jobs are kept after they have ended, and how many at most.

    Jobs that something live still needs are kept for longer. The commit log keeps what it says of each.

    Parameters:
        completed, cancelled, discarded: for so long after their end; None: for ever.
        count_max: of all that have ended. When there are more, the oldest go, however they ended, and a
            twentieth of this number with them. None: no bound.
    """

    completed: timedelta | None = timedelta(days=limits.JOBS_COMPLETED_DAYS)
    cancelled: timedelta | None = timedelta(days=limits.JOBS_CANCELLED_DAYS)
    discarded: timedelta | None = timedelta(days=limits.JOBS_DISCARDED_DAYS)
    count_max: int | None = limits.JOBS_ENDED_MAX

    def problem(self) -> str:
        """Return what is wrong with it, or nothing."""
        longest = timedelta(days=limits.JOB_DELAY_DAYS_MAX)
        for name in ("completed", "cancelled", "discarded"):
            given: object = getattr(self, name)
            if given is not None and not (isinstance(given, timedelta) and timedelta(0) <= given <= longest):
                return f"{name} must be a timedelta of 0 up to {longest.days} days, or None, is {given!r}"
        count: object = self.count_max
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
            return f"count_max must be 0 or more, or None, is {count!r}"
        return ""


DEFAULT = Retention()
FOR_EVER = Retention(completed=None, cancelled=None, discarded=None, count_max=None)

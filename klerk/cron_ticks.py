"""The moments that a cron expression names, in its time zone, whenever the search for them begins.

The expression is matched against what a clock on the wall shows (`cronsim`); here that is placed on the axis
of time. As in Debian's cron, an expression that names its minutes and hours means times of day: one that the
spring change skips comes right after the gap, and one that the autumn change repeats comes the first time
only. Where minutes or hours begin with ``*``, or seconds are named, the expression means moments: none in
the gap, and those of the repeated hour twice.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim

from klerk._dispatch import microseconds, moment_at

_SECOND_US: Final = 1_000_000
_HOUR_US: Final = 3600 * _SECOND_US


class Ticks:
    """The moments of a cron expression, in microseconds since 1970 UTC.

    Parameters:
        expression: of five fields, or six with the seconds first.
        timezone: the name of the zone in which it is meant.
    """

    def __init__(self, expression: str, timezone: str) -> None:
        self._expression = expression
        self.zone = ZoneInfo(timezone)
        fields = expression.split()
        self._names_times_of_day = len(fields) == 5 and not any(each.startswith("*") for each in fields[:2])

    def after(self, moment_us: int) -> int | None:
        """Return the first one after a moment; None when there is none, as far as dates go."""
        return next(self._following(moment_us), None)

    def newest(self, since_us: int, until_us: int, count: int) -> list[int]:
        """Return the newest ones after one moment and up to another, oldest first.

        Parameters:
            count: how many at most; the cost is that of a few times as many.
        """
        window_us = _HOUR_US
        while True:
            start_us = max(since_us, until_us - window_us)
            found = []
            for tick_us in self._following(start_us):
                if tick_us > until_us:
                    break
                found.append(tick_us)
            if len(found) >= count or start_us == since_us:
                return found[-count:]
            window_us *= 4

    def _following(self, moment_us: int) -> Iterator[int]:
        try:
            yield from self._times_of_day(moment_us) if self._names_times_of_day else self._moments(moment_us)
        except OverflowError:
            # Beyond the year 9999 there are no dates.
            return

    def _times_of_day(self, moment_us: int) -> Iterator[int]:
        newest_us = moment_us
        for shown in CronSim(self._expression, self._shown_at(moment_us)):
            tick_us = self._first_at(shown)
            if tick_us > newest_us:
                newest_us = tick_us
                yield tick_us

    def _first_at(self, shown: datetime) -> int:
        """Return when the clock on the wall first shows a time, or jumps over it."""
        first_us = microseconds(shown.replace(tzinfo=self.zone))
        if self._shown_at(first_us) == shown:
            return first_us
        # In a gap, reading it by the clock after the change leads to before the change.
        low_us = microseconds(shown.replace(tzinfo=self.zone, fold=1))
        return self._change(low_us, first_us, self._offset_us(low_us))

    def _moments(self, moment_us: int) -> Iterator[int]:
        offset_us = self._offset_us(moment_us)
        while True:
            # As long as the zone keeps its offset, its clock is as regular as that of UTC.
            for shown in CronSim(self._expression, moment_at(moment_us + offset_us).replace(tzinfo=None)):
                tick_us = microseconds(shown.replace(tzinfo=UTC)) - offset_us
                if self._offset_us(tick_us) != offset_us:
                    change_us = self._change(moment_us, tick_us, offset_us)
                    moment_us, offset_us = change_us - 1, self._offset_us(change_us)
                    break
                yield tick_us
                moment_us = tick_us
            else:
                return

    def _change(self, low_us: int, high_us: int, offset_us: int) -> int:
        """Return when, between two moments, an offset is not kept any longer."""
        low, high = low_us // _SECOND_US, -(-high_us // _SECOND_US)
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset_us(middle * _SECOND_US) == offset_us:
                low = middle
            else:
                high = middle
        return high * _SECOND_US

    def _shown_at(self, moment_us: int) -> datetime:
        """Return what a clock on the wall shows."""
        return moment_at(moment_us).astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _offset_us(self, moment_us: int) -> int:
        offset = moment_at(moment_us).astimezone(self.zone).utcoffset()
        assert offset is not None, "a zone has an offset at any moment"
        return offset // timedelta.resolution

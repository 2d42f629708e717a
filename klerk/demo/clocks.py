"""Local clock times to Coordinated Universal Time (UTC), a column at a time.

Moments are whole minutes since 1970-01-01 00:00 UTC in an int64 array; a local time is the same count on the
local clock.
"""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Minutes = NDArray[np.int64]

DAY_MINUTES = 24 * 60

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(minutes: int) -> datetime:
    """Return the moment as a datetime in UTC."""
    return _EPOCH + timedelta(minutes=minutes)


def day(days: int) -> date:
    """Return the date that is this many days after 1970-01-01."""
    return _EPOCH.date() + timedelta(days=days)


def to_utc(local: Minutes, zone: ZoneInfo) -> Minutes:
    """Return the moments at which clocks in this zone show these local times.

    A time that the clocks show twice is the first of the two; one that they skip counts from before the skip.
    Offsets change on the hour, so one lookup per different hour is enough.
    """
    hours, position = np.unique(local // 60, return_inverse=True)
    offsets = [_offset_minutes(zone, int(hour)) for hour in hours]
    return local - np.array(offsets, dtype=np.int64)[position]


def first_after(after: Minutes, days: Minutes, clock: Minutes, zone: ZoneInfo) -> Minutes:
    """Return the first moment later than `after` at which clocks in this zone show `clock`.

    Parameters:
        after: moments.
        days: days since 1970-01-01, each at most a day away from the day looked for.
        clock: minutes since local midnight, 0 to 1440.
    """
    local = days * DAY_MINUTES + clock
    found = to_utc(local + DAY_MINUTES, zone)
    for shift in (0, -DAY_MINUTES):
        earlier = to_utc(local + shift, zone)
        found = np.where(earlier > after, earlier, found)
    return found


def _offset_minutes(zone: ZoneInfo, hour: int) -> int:
    local = (_EPOCH + timedelta(hours=hour)).replace(tzinfo=None)
    offset = zone.utcoffset(local)
    assert offset is not None, "a ZoneInfo always has an offset"
    return round(offset.total_seconds() / 60)

"""The order in which timers come: by their moment, then by the model's id.

A timer enters the queue while the transaction that sets it is processed. So the order holds among all that
the commit log has before a firing, timers that other firings made due included. A moment that is put off
stays in the queue, which asks the model whether an entry still holds.
"""

import heapq
import threading
from collections.abc import Iterable
from typing import NamedTuple

from klerk import limits
from klerk._core import Processor


class Entry(NamedTuple):
    """A model's next timer in the queue.

    Parameters:
        cause: the sequence of the transaction that set the moment; 0 when that was before this start.
    """

    due_us: int
    id: int
    cause: int


class TimerQueue:
    """Timers that are still to come, in their order.

    Parameters:
        processor: holds the models, as the newest processed transaction left them.

    Attributes:
        changed: notified when another timer has become the first.
    """

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self._heap: list[Entry] = []
        self._length_max = limits.TIMERS_LEFT_OVER_MIN
        self.changed = threading.Condition()

    def push(self, timed: Iterable[tuple[int, int, int]]) -> None:
        """Queue timers that a transaction set, or that could not be fired."""
        with self.changed:
            first = self._heap[0] if self._heap else None
            for entry in timed:
                heapq.heappush(self._heap, Entry(*entry))
            if len(self._heap) > self._length_max:
                self._heap = sorted(set(filter(self._holds, self._heap)))
                self._length_max = 2 * len(self._heap) + limits.TIMERS_LEFT_OVER_MIN
            if self._heap and self._heap[0] is not first:
                self.changed.notify_all()

    def _holds(self, entry: Entry) -> bool:
        model = self._processor.working(entry.id)
        return model is not None and model.meta.due_us == entry.due_us

    def first_us(self) -> int | None:
        """Return when the first timer is due; None when there is none."""
        with self.changed:
            while self._heap and not self._holds(self._heap[0]):
                heapq.heappop(self._heap)
            return self._heap[0].due_us if self._heap else None

    def is_next(self, entry: Entry) -> bool:
        """Return whether no timer comes before one that was taken."""
        with self.changed:
            while self._heap and self._heap[0][:2] < entry[:2]:
                if self._holds(self._heap[0]):
                    return False
                heapq.heappop(self._heap)
        return True

    def take(self, until_us: int, count_max: int) -> list[Entry]:
        """Take the timers that are due at a moment out of the queue, in order, only so many."""
        taken: list[Entry] = []
        with self.changed:
            while self._heap and self._heap[0].due_us <= until_us and len(taken) < count_max:
                entry = heapq.heappop(self._heap)
                if self._holds(entry):
                    taken.append(entry)
        return taken

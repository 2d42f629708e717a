"""Lines: ready jobs in the order in which they start, in front of the gates that they have to pass.

Jobs that have to pass the same gates stand in the same line, so only its first one ever matters. A line
stands for its first job in the line around it: the line of a key in that of its kind, that in the lane of
the queue. A line whose gate is shut is passed over, however many jobs stand in it.
"""

import heapq
from collections.abc import Mapping
from typing import Union

from klerk import limits
from klerk.job_manager.gates import Gate
from klerk.jobs import JobRecord

__all__ = ["Entry", "Line", "reopen", "shut"]

Entry = tuple[int, int, Union[JobRecord, "Line"]]
"""Order (the smallest starts first), serial number of the job, and the job, or the line that it leads."""


class Line:
    """Jobs and lines that wait in front of a gate.

    What changes a line keeps this true: unless its gate is shut, the line around it has an entry for its
    first one. There may be entries that are out of date, which never are too late in the order: they are
    dropped, or put right, when they come up.

    Parameters:
        gate: that all jobs in it have to pass.
        around: where it stands itself; None for a lane, and for a line that was given up.

    Attributes:
        heap: of entries.
        lines: that stand in it, by their gates.
        size: the jobs in it and its lines.
        aside: those of them that wait in front of the shut gates of its lines.
    """

    __slots__ = ("around", "aside", "entered", "gate", "gone", "heap", "lines", "size")

    def __init__(self, gate: Gate, around: "Line | None") -> None:
        self.gate = gate
        self.around = around
        self.heap: list[Entry] = []
        self.lines: dict[Gate, Line] = {}
        self.size = 0
        self.aside = 0
        # The serials under which the line around has an entry for this one.
        self.entered: set[int] = set()
        # About how many entries are of jobs and lines that are gone.
        self.gone = 0
        gate.lines.add(self)
        if around is not None:
            around.lines[gate] = self

    def inner(self, gate: Gate) -> "Line":
        """Return the line in this one that is in front of a gate."""
        line = self.lines.get(gate)
        return Line(gate, self) if line is None else line

    # --- jobs come and go -------------------------------------------------------------------------

    def push(self, order: int, serial: int, record: JobRecord) -> "Line | None":
        """Let a job stand in this line; return what `lead` does."""
        entry = order, serial, record
        heapq.heappush(self.heap, entry)
        self.count(1)
        return self.lead() if self.heap[0] is entry else None

    def lead(self) -> "Line | None":
        """Enter this line in the one around it, and so on; return the lane when its first one is new."""
        line = self
        while line.around is not None:
            order, serial, _ = line.heap[0]
            if line.gate.is_shut or serial in line.entered:
                return None
            line.entered.add(serial)
            entry = order, serial, line
            line = line.around
            heapq.heappush(line.heap, entry)
            if line.heap[0] is not entry:
                return None
        return line

    def first(self, live: Mapping[int, JobRecord]) -> JobRecord | None:
        """Return the job that starts first, its entry, and those of the lines that it stands in, on top.

        Parameters:
            live: the jobs; one that is not in it is dropped.
        """
        heap = self.heap
        while heap:
            _, serial, item = heap[0]
            if type(item) is JobRecord:
                if live.get(item.id) is item:
                    return item
            elif type(item) is Line and not item.gate.is_shut and item.heap and item.heap[0][1] == serial:
                found = item.first(live)
                if found is not None and item.heap[0][1] == serial:
                    return found
            self._drop_first()
        return None

    def _drop_first(self) -> None:
        """Drop the first entry, or put it right."""
        _, serial, item = self.heap[0]
        if type(item) is not Line:
            heapq.heappop(self.heap)
            self.gone -= 1
            return
        item.entered.discard(serial)
        if item.around is None:
            self.gone -= 1
        if item.heap and not item.gate.is_shut and item.heap[0][1] not in item.entered:
            item.entered.add(item.heap[0][1])
            heapq.heapreplace(self.heap, (item.heap[0][0], item.heap[0][1], item))
        else:
            heapq.heappop(self.heap)

    def start(self, passed: list[Gate]) -> JobRecord:
        """Take the job that `first` returned out of the line.

        Parameters:
            passed: takes the gates of the lines that the job stood in, this one's last.
        """
        item = self.heap[0][2]
        if type(item) is Line:
            record = item.start(passed)
            if item.size or item.gate.where is None:
                self._drop_first()
            else:
                item.entered.discard(self.heap[0][1])
                heapq.heappop(self.heap)
                item.leave()
        else:
            assert type(item) is JobRecord
            record = item
            heapq.heappop(self.heap)
        self.size -= 1
        passed.append(self.gate)
        return record

    def remove(self, live: Mapping[int, JobRecord]) -> None:
        """Note that a job in this line is no longer in `live`."""
        self.count(-1)
        if self.size or self.gate.where is None:
            self._note_gone(live, 1)
        else:
            around = self.around
            self.leave()
            if around is not None:
                around._note_gone(live, 0)

    def leave(self) -> None:
        """Give up a line of a key in which nothing stands any more."""
        self.heap.clear()
        self.gate.lines.discard(self)
        if self.around is not None:
            del self.around.lines[self.gate]
            self.around.gone += len(self.entered)
            self.around = None

    def _note_gone(self, live: Mapping[int, JobRecord], count: int) -> None:
        """Sweep the heap when most of it is of jobs and lines that are gone, so that it does not grow."""
        self.gone += count
        if self.gone < limits.JOB_LINE_GONE_MIN or 2 * self.gone < len(self.heap):
            return
        self.gone = 0
        self.heap = [each for each in self.heap if _is_there(each[2], live)]
        heapq.heapify(self.heap)
        if self.heap:
            self.lead()

    # --- what is set aside ------------------------------------------------------------------------

    def count(self, by: int) -> None:
        """Count jobs that came to this line, or went."""
        line: Line | None = self
        aside = 0
        while line is not None:
            line.size += by
            line.aside += aside
            if line.gate.is_shut:
                aside = by
            line = line.around

    @property
    def waiting(self) -> int:
        """The jobs in it that a gate keeps from starting: its own, or those of its lines."""
        return self.size if self.gate.is_shut else self.aside

    def note_gate(self, by: int) -> None:
        """Count jobs that a gate set aside, or no longer does, in the lines around this one."""
        line = self.around
        while line is not None:
            line.aside += by
            if line.gate.is_shut:
                return
            line = line.around


def shut(gate: Gate) -> None:
    """Set aside what waits in front of a gate that has no room."""
    gate.is_shut = True
    for line in gate.lines:
        line.note_gate(line.size - line.aside)


def reopen(gate: Gate) -> list[Line]:
    """Let what waits in front of a gate stand in line again; return the lanes whose first ones are new."""
    lanes = []
    gate.is_shut = False
    for line in gate.lines:
        line.note_gate(line.aside - line.size)
        if line.heap and (lane := line.lead()) is not None:
            lanes.append(lane)
    return lanes


def _is_there(item: JobRecord | Line, live: Mapping[int, JobRecord]) -> bool:
    return live.get(item.id) is item if isinstance(item, JobRecord) else bool(item.heap)

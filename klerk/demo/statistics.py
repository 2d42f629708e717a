"""How late each airline was, computed by NumPy from columns of the flights in memory."""

from dataclasses import dataclass

import numpy as np

import klerk
from klerk.demo import design
from klerk.demo.show import Column, Row, Table

BAR_LENGTH_MAX = 10

_HEADINGS = ("flights", "cancelled", "late", "median", "p90")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One airline: its flights, what share was cancelled, and of those that arrived how late they were."""

    airline: str
    flights: int
    cancelled: float
    late: float
    median: float
    p90: float


def airline_delays(k: klerk.Klerk, context: klerk.Context) -> Table:
    """Read, in one consistent moment, how late each airline's flights arrived, the worst first."""
    with k.read(context) as r:
        airlines = r.list(design.operating)
        all_of = r.columns(design.flight, "airline")["airline"]
        cancelled_of = r.columns(design.cancelled, "airline")["airline"]
        arrived_of, delay = r.columns(design.arrived, "airline", "arrival_delay")
    lines = []
    for airline in airlines:
        flights = int(np.count_nonzero(all_of == airline.meta.id))
        if flights == 0:
            continue
        delays = delay[arrived_of == airline.meta.id]
        median, p90 = np.percentile(delays, [50, 90]).tolist() if len(delays) else (np.nan, np.nan)
        lines.append(
            Line(
                airline=airline.name,
                flights=flights,
                cancelled=float(np.count_nonzero(cancelled_of == airline.meta.id) / flights),
                late=float(np.count_nonzero(delays >= design.LATE_MINUTES) / max(len(delays), 1)),
                median=median,
                p90=p90,
            )
        )
    lines.sort(key=lambda line: -np.nan_to_num(line.p90))
    return _table(lines)


def _signed(minutes: float) -> str:
    return "" if np.isnan(minutes) else f"{round(minutes):+,}"


def _table(lines: list[Line]) -> Table:
    worst = max((line.p90 for line in lines if not np.isnan(line.p90)), default=1.0)
    rows = []
    for line in lines:
        bar = "" if np.isnan(line.p90) else "█" * round(max(line.p90, 0.0) / max(worst, 1.0) * BAR_LENGTH_MAX)
        shares = f"{line.cancelled:.1%}", f"{line.late:.1%}"
        delays = _signed(line.median), _signed(line.p90)
        rows.append(Row(cells=[line.airline, f"{line.flights:,}", *shares, *delays, bar]))
    return Table(
        title="Arrival delays by airline, in minutes",
        columns=[
            Column(heading="Airline", may_be_cut=True),
            *(Column(heading=heading, is_number=True) for heading in _HEADINGS),
            Column(heading=""),
        ],
        rows=rows,
        remark=f"late: {design.LATE_MINUTES} minutes or more; p90: nine of ten flights were no later",
    )

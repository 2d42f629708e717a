"""How late each airline was, computed by NumPy from columns of the flights in memory."""

import numpy as np

import klerk
from klerk.demo import design
from klerk.demo.show import Column, Row, Table

BAR_LENGTH_MAX = 10

_HEADINGS = ("flights", "cancelled", "late", "median", "p90")


def airline_delays(k: klerk.Klerk, context: klerk.Context) -> Table:
    """Read, in one consistent moment, how late each airline's flights arrived, the worst first."""
    with k.read(context) as r:
        airlines = r.list(design.operating)
        all_of = r.columns(design.flight, "airline")["airline"]
        cancelled_of = r.columns(design.cancelled, "airline")["airline"]
        arrived_of, delay = r.columns(design.arrived, "airline", "arrival_delay")
    lines = []
    for airline in airlines:
        flights = np.count_nonzero(all_of == airline.meta.id)
        if flights == 0:
            continue
        delays = delay[arrived_of == airline.meta.id]
        cancelled = np.count_nonzero(cancelled_of == airline.meta.id) / flights
        median, p90 = np.percentile(delays, [50, 90]) if len(delays) else (np.nan, np.nan)
        late = np.count_nonzero(delays >= design.LATE_MINUTES) / max(len(delays), 1)
        lines.append((airline.name, flights, cancelled, late, median, p90))
    lines.sort(key=lambda line: -np.nan_to_num(line[-1]))
    return _table(lines)


def _signed(minutes: float) -> str:
    return "" if np.isnan(minutes) else f"{round(minutes):+,}"


def _table(lines: list[tuple[str, int, float, float, float, float]]) -> Table:
    worst = max((line[-1] for line in lines if not np.isnan(line[-1])), default=1.0)
    rows = []
    for name, flights, cancelled, late, median, p90 in lines:
        bar = "" if np.isnan(p90) else "█" * round(max(p90, 0.0) / max(worst, 1.0) * BAR_LENGTH_MAX)
        numbers = f"{flights:,}", f"{cancelled:.1%}", f"{late:.1%}", _signed(median), _signed(p90)
        rows.append(Row(cells=[name, *numbers, bar]))
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

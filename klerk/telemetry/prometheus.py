"""The way to the Prometheus collector, for those who have the library."""

from typing import TYPE_CHECKING

from klerk.klerk import Klerk
from klerk.telemetry.extras import extra

if TYPE_CHECKING:
    from klerk.telemetry.collector import KlerkCollector

__all__ = ["prometheus_collector"]


def prometheus_collector(*klerks: Klerk) -> "KlerkCollector":
    """Return a collector for ``prometheus_client``: ``REGISTRY.register(prometheus_collector(k))``.

    Gauges and totals are read from numbers that Klerk keeps anyway, when they are asked for; durations, waits
    and attempts are counted from now on, which costs each job about 10 microseconds. It does not keep a Klerk
    alive, and shows nothing of one that was closed.

    Parameters:
        klerks: whose numbers it shows, told apart by the label ``app``. A registry takes one collector.

    Raises:
        MissingLibrary: ``prometheus_client`` is not installed.
        ArgumentError: there is none, or two are of one name.
    """
    collector: type[KlerkCollector] = extra("klerk.telemetry.collector", "prometheus").KlerkCollector
    return collector(klerks)

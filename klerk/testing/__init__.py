"""Testing what was built with Klerk: jobs run when the test says, time passes when the test says."""

from klerk.testing.bench import Mode
from klerk.testing.draining import Drained, drain, run_one
from klerk.testing.expectations import assert_enqueued, enqueued, refute_enqueued
from klerk.testing.opening import Opener, open
from klerk.testing.virtual_clock import VirtualClock

__all__ = [
    "Drained",
    "Mode",
    "Opener",
    "VirtualClock",
    "assert_enqueued",
    "drain",
    "enqueued",
    "open",
    "refute_enqueued",
    "run_one",
]

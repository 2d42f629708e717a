"""Testing what was built with Klerk: jobs run when the test says, and time passes when the test says.

A test of the library in the README, with the fixtures that the pytest plugin of Klerk offers::

    def test_late_loans_cost_a_fee_a_night(klerk_open, klerk_clock):
        k = klerk_open(app)
        ada = k.handle(join(Name("Ada"), Email("ada@example.org")), DESK).id
        loan = k.handle(lend(ada, Title("Dune")), DESK).id
        klerk.testing.drain(k, until=timedelta(days=13, hours=23))
        klerk_clock.advance(timedelta(hours=1))
        klerk.testing.assert_enqueued(k, remind(loan))
        drained = klerk.testing.drain(k, until=timedelta(days=3))
        assert [record.kind for record in drained.records] == ["remind", *3 * ["charge_fees"]]
        with k.read(DESK) as r:
            assert (r.get(loan).fee, r.get(loan).meta.state) == (Cents(150), overdue)

Without pytest, ``with klerk.testing.open(app) as k`` does what ``klerk_open`` does.
"""

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

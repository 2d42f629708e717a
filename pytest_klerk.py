"""The pytest plugin of Klerk: fixtures to open apps for tests, with a clock that tests set.

pytest loads it wherever Klerk is installed, so it stands beside the package and imports nothing of it until a
fixture is asked for: tests that have nothing to do with Klerk do not wait for it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from klerk.testing import Opener, VirtualClock


@pytest.fixture
def klerk_clock() -> "VirtualClock":
    """A `klerk.testing.VirtualClock`: it stands at noon of 2030-01-01 UTC until the test sets it."""
    from klerk.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def klerk_open(klerk_clock: "VirtualClock") -> Iterator["Opener"]:
    """Opens apps as `klerk.testing.open` does, with `klerk_clock`, and closes them when the test is over."""
    from klerk.testing import Opener

    with Opener(klerk_clock) as opener:
        yield opener

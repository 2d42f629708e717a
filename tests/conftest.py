"""What all tests share: one seed for everything random, printed so that a failure can be repeated."""

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

SEED_VARIABLE = "KLERK_TEST_SEED"

# A slow machine is no defect; the time limit of the whole test catches what hangs.
settings.register_profile("klerk", deadline=None, print_blob=True)
settings.load_profile("klerk")


def pytest_configure(config: pytest.Config) -> None:
    # In the environment, so that the processes of pytest-xdist and those that tests start use it too.
    os.environ.setdefault(SEED_VARIABLE, str(random.SystemRandom().randrange(2**32)))


def pytest_report_header(config: pytest.Config) -> str:
    seed = os.environ[SEED_VARIABLE]
    return f"random seed: {seed} (repeat with {SEED_VARIABLE}={seed})"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"random seed was {os.environ[SEED_VARIABLE]}")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the seed and the test's name, not on which tests ran before."""
    return random.Random(f"{os.environ[SEED_VARIABLE]} {request.node.nodeid}")


@pytest.fixture
def interrupt() -> Iterator[Callable[[], object]]:
    """A function that raises `designs.Interrupted` in the main thread as soon as that waits."""
    if sys.platform == "win32":
        pytest.skip("a thread cannot be sent a signal")

    # Imported here, because tests that only parse the source do without the compiled package.
    from designs import Interrupted, Spawned, wait_until_blocked

    def raise_it(*_: object) -> None:
        raise Interrupted

    main = threading.main_thread()

    def when_blocked() -> None:
        wait_until_blocked(main)
        assert main.ident is not None
        signal.pthread_kill(main.ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, raise_it)
    yield lambda: Spawned(when_blocked)
    signal.signal(signal.SIGUSR1, before)

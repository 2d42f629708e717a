"""The contract of executors, held against each: whatever runs jobs takes, runs and stops them alike."""

import asyncio
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from designs import eventually
from executed import SORTS, Deed, Workload

from klerk.workers import Patience, stop

Start = Callable[..., Workload]


@pytest.fixture(params=SORTS)
def sort(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(sort: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start an executor of each sort, with deeds to do; whatever still runs at the end is released."""
    monkeypatch.setattr("klerk.limits.CLOSE_MARGIN_S", 0.5)
    monkeypatch.setattr("klerk.limits.WORKER_KILL_GRACE_S", 0.2)
    made: list[tuple[Workload, list[Deed]]] = []

    def start(count: int, *deeds: Deed) -> Workload:
        load = Workload(sort, count)
        made.append((load, list(deeds)))
        load.executor.start()
        load.add(*deeds)
        return load

    yield start
    for load, deeds in made:
        for deed in (*deeds, *load.deeds):
            deed.released.set()
        load.deeds.clear()
        assert stop([load.executor], 10, Patience()) == []
    eventually(lambda: not multiprocessing.active_children())


def begin_all(*deeds: Deed) -> None:
    for deed in deeds:
        assert deed.began.wait(20)


def end_all(*deeds: Deed) -> None:
    for deed in deeds:
        assert deed.ended.wait(20)


def test_each_job_runs_once(start: Start) -> None:
    deeds = [Deed() for _ in range(50)]
    load = start(2, *deeds)
    end_all(*deeds)
    assert [deed.runs for deed in deeds] == [1] * 50
    eventually(load.executor.is_idle)
    assert load.executor.running() == ()


def test_it_looks_for_jobs_only_when_woken(start: Start) -> None:
    first, deed = Deed(), Deed()
    load = start(2, first)
    end_all(first)
    time.sleep(0.1)
    takes = load.takes
    load.deeds.append(deed)
    time.sleep(0.05)
    assert (load.takes, deed.runs) == (takes, 0)
    load.executor.wake()
    end_all(deed)


def test_jobs_that_were_ready_before_it_started_run(sort: str) -> None:
    load, deed = Workload(sort, 1), Deed()
    load.deeds.append(deed)
    load.executor.start()
    load.executor.wake()
    end_all(deed)
    assert stop([load.executor], 10, Patience()) == []


def test_no_more_than_so_many_run_at_once(start: Start) -> None:
    deeds = [Deed("held") for _ in range(5)]
    load = start(2, *deeds)
    begin_all(*deeds[:2])
    load.executor.wake()
    time.sleep(0.05)
    assert [deed.runs for deed in deeds] == [1, 1, 0, 0, 0]
    assert set(load.executor.running()) == set(deeds[:2])
    for deed in deeds:
        deed.released.set()
    end_all(*deeds)
    assert load.most == 2


def test_it_grows_and_shrinks_while_it_runs(start: Start) -> None:
    deeds = [Deed("held") for _ in range(8)]
    load = start(1, *deeds)
    begin_all(deeds[0])
    load.executor.resize(3)
    begin_all(*deeds[:3])
    assert load.executor.count == 3
    load.executor.resize(1)
    for deed in deeds[:3]:
        # Those that run already are left alone.
        assert not deed.ended.is_set()
        deed.released.set()
    begin_all(deeds[3])
    time.sleep(0.05)
    assert [deed.runs for deed in deeds] == [1, 1, 1, 1, 0, 0, 0, 0]
    load.executor.resize(0)
    deeds[3].released.set()
    end_all(deeds[3])
    time.sleep(0.05)
    assert deeds[4].runs == 0
    load.executor.resize(2)
    begin_all(*deeds[4:6])
    assert load.most == 3


def test_a_running_job_can_be_cancelled(start: Start) -> None:
    one, two, three = Deed("held"), Deed("held"), Deed("held")
    load = start(2, one, two, three)
    begin_all(one, two)
    load.executor.cancel(one)
    end_all(one)
    begin_all(three)
    assert not two.cancelled.is_set()
    # What does not run here is left alone.
    load.executor.cancel(Deed())
    load.executor.cancel(one)
    stranger = Deed()
    assert not load.executor.kill(stranger)
    assert not stranger.cancelled.is_set()


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_job_raises_the_next_one_runs(start: Start, error: BaseException) -> None:
    deeds = [Deed(error=error), Deed(error=error), Deed(), Deed()]
    load = start(1, *deeds)
    end_all(*deeds)
    eventually(load.executor.is_idle)


def test_it_knows_its_own_threads(start: Start, sort: str) -> None:
    deed = Deed()
    load = start(1, deed)
    end_all(deed)
    assert deed.ran_here
    assert not load.executor.runs_here()


# --- stopping -----------------------------------------------------------------------------------------


def test_stopping_lets_running_jobs_end_and_takes_no_more(start: Start) -> None:
    one, two = Deed("held"), Deed()
    load = start(1, one, two)
    begin_all(one)
    interrupted: list[bool] = []
    threading.Timer(0.05, one.released.set).start()
    assert stop([load.executor], 20, Patience(), lambda: interrupted.append(True)) == []
    assert one.ended.is_set()
    assert (one.cancelled.is_set(), two.runs, interrupted) == (False, 0, [])


def test_stopping_asks_those_that_go_on_to_stop(start: Start) -> None:
    deeds = [Deed("held"), Deed("held")]
    load = start(2, *deeds)
    begin_all(*deeds)
    interrupted: list[bool] = []

    def interrupt() -> None:
        interrupted.append(any(deed.cancelled.is_set() for deed in deeds))

    assert stop([load.executor], 0.05, Patience(), interrupt) == []
    assert all(deed.ended.is_set() and deed.cancelled.is_set() for deed in deeds)
    assert interrupted == [False]


def test_stopping_gives_up_what_cannot_be_stopped(start: Start, sort: str) -> None:
    stuck, other = Deed("stuck"), Deed("held")
    load = start(2, stuck, other)
    begin_all(stuck, other)
    left = stop([load.executor], 0, Patience())
    assert other.ended.is_set()
    # A process can be killed, nothing else.
    assert left == ([] if sort == "process" else [stuck])
    assert stuck.ended.is_set() == (sort == "process")


def test_somebody_in_a_hurry_ends_the_wait(start: Start) -> None:
    deed = Deed("held")
    load = start(1, deed)
    begin_all(deed)
    patience = Patience()
    threading.Timer(0.05, patience.hurry).start()
    stop([load.executor], 3600, patience)
    assert deed.cancelled.is_set()


def test_executors_stop_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.CLOSE_MARGIN_S", 20)
    loads = [Workload(sort, 1) for sort in SORTS]
    deeds = [Deed("held") for _ in SORTS]
    for load, deed in zip(loads, deeds, strict=True):
        load.executor.start()
        load.add(deed)
    begin_all(*deeds)
    assert stop([load.executor for load in loads], 0.01, Patience()) == []
    end_all(*deeds)
    assert multiprocessing.active_children() == []


def test_one_that_never_started_stops(sort: str) -> None:
    load = Workload(sort, 1)
    assert stop([load.executor], 10, Patience()) == []
    load.executor.wake()


def test_it_can_be_stopped_twice(start: Start) -> None:
    deed = Deed()
    load = start(1, deed)
    end_all(deed)
    assert stop([load.executor], 10, Patience()) == []
    load.add(Deed())
    assert stop([load.executor], 10, Patience()) == []
    assert len(load.deeds) == 1

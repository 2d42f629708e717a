"""Jobs that follow one which waits for a far time, so that it is stored, and not in memory.

Memory holds five waiting jobs here, and what is followed waits for later than all of them. It ends by itself
once its time has come, or by hand long before; the store is open all the time, or opened anew in between.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from designs import NOON, Clock, eventually

import klerk
from klerk import App, Discard, JobRequest, JobRun, JobState

DAY = timedelta(days=1)
FOLLOWED, FOLLOWER, ANYWAY, LAST = 31, 32, 33, 34


class Office:
    """An app with jobs that note what they do."""

    def __init__(self) -> None:
        self.app = App("office")
        self.ran: list[str] = []

        @self.app.job()
        def work(job: JobRun, text: str) -> object:
            if not text.startswith("filler"):
                self.ran.append(text)
            return Discard("no use") if text == "discard" else None

        self.work = work

    def far(self, text: str, days: int) -> JobRequest:
        return self.work(text).at(NOON + days * DAY)


@pytest.fixture(autouse=True)
def few_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("klerk.limits.JOBS_AT_HAND_MAX", 5)
    monkeypatch.setattr("klerk.limits.JOBS_PAGE", 3)
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def followed_far(
    office: Office, path: Path, clock: Clock, text: str, *, reopened: bool, known: bool
) -> Iterator[klerk.Klerk]:
    """Open a store in which jobs follow one that is not in memory.

    Parameters:
        text: says what becomes of that one.
        reopened: the store was closed after they were created.
        known: that one was in memory when they were created, and left it for others; otherwise it was not.
    """

    def fill(k: klerk.Klerk) -> None:
        k.jobs.schedule(*(office.far(f"filler {i}", 10 + i) for i in range(30)))

    with office.app.open(path, clock=clock) as k:
        if known:
            k.jobs.schedule(*(office.far(f"filler {i}", 60) for i in range(30)))
        else:
            fill(k)
        k.jobs.schedule(office.far(text, 50))
        follower = office.work("follower").after(FOLLOWED)
        k.jobs.schedule(
            follower, office.work("anyway").after(FOLLOWED, anyway=True), office.work("last").after(follower)
        )
        if known:
            fill(k)
        if not reopened:
            yield k
            return
    with office.app.open(path, clock=clock) as k:
        yield k


@pytest.fixture(params=["open", "reopened"])
def reopened(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "reopened")


@pytest.fixture(params=["known", "unknown"])
def known(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "known")


def states(k: klerk.Klerk) -> list[JobState]:
    return [k.jobs.get(job_id).state for job_id in (FOLLOWED, FOLLOWER, ANYWAY, LAST)]


WAITS, DONE, CANCELLED, FAILED = (
    JobState.SCHEDULED,
    JobState.COMPLETED,
    JobState.CANCELLED,
    JobState.DISCARDED,
)


def test_it_is_waited_for(
    office: Office, tmp_path: Path, clock: Clock, *, reopened: bool, known: bool
) -> None:
    with followed_far(office, tmp_path / "store", clock, "good", reopened=reopened, known=known) as k:
        assert k.jobs.wait_until_idle(20)
        assert (states(k), office.ran) == ([WAITS] * 4, [])
        assert [k.jobs.waiting_for(job_id) for job_id in (FOLLOWER, ANYWAY, LAST)] == [
            (FOLLOWED,),
            (FOLLOWED,),
            (FOLLOWER,),
        ]
        assert k.jobs.why(FOLLOWER).codes == ("dependency",)
        # Most of those before it have run then, and it is in memory.
        clock.now = NOON + 45 * DAY
        if not known:
            eventually(lambda: k.jobs.counts()[JobState.COMPLETED] == 30)
        assert k.jobs.wait_until_idle(20)
        assert (states(k), office.ran) == ([WAITS] * 4, [])
        clock.now = NOON + 50 * DAY
        eventually(lambda: states(k) == [DONE] * 4)
        assert office.ran[0] == "good"
        assert office.ran.index("follower") < office.ran.index("last")


def test_it_ends_badly(office: Office, tmp_path: Path, clock: Clock, *, reopened: bool, known: bool) -> None:
    with followed_far(office, tmp_path / "store", clock, "discard", reopened=reopened, known=known) as k:
        assert k.jobs.wait_until_idle(20)
        clock.now = NOON + 50 * DAY
        eventually(lambda: states(k) == [FAILED, CANCELLED, DONE, CANCELLED])
        assert office.ran == ["discard", "anyway"]


@pytest.mark.parametrize("action", ["cancel", "discard", "run_now", "retry"])
def test_it_is_ended_by_hand(
    office: Office, tmp_path: Path, clock: Clock, action: str, *, reopened: bool, known: bool
) -> None:
    with followed_far(office, tmp_path / "store", clock, "good", reopened=reopened, known=known) as k:
        getattr(k.jobs, action)(FOLLOWED)
        if action in ("cancel", "discard"):
            ends = CANCELLED if action == "cancel" else FAILED
            eventually(lambda: states(k) == [ends, CANCELLED, DONE, CANCELLED])
            assert k.jobs.get(FOLLOWER).error == f"not run: job {FOLLOWED} (work) was {ends}"
            assert office.ran == ["anyway"]
        else:
            eventually(lambda: states(k) == [DONE] * 4)
            assert office.ran[0] == "good"


def test_what_was_put_off_while_it_was_away_is_waited_for(
    office: Office, tmp_path: Path, clock: Clock
) -> None:
    with followed_far(office, tmp_path / "store", clock, "good", reopened=False, known=False) as k:
        k.jobs.edit(FOLLOWED, run_at=NOON + 70 * DAY)
        clock.now = NOON + 60 * DAY
        eventually(lambda: k.jobs.counts()[JobState.COMPLETED] == 30)
        assert (states(k), office.ran) == ([WAITS] * 4, [])
    with office.app.open(tmp_path / "store", clock=clock) as k:
        assert k.jobs.wait_until_idle(20)
        assert (states(k), office.ran) == ([WAITS] * 4, [])
        clock.now = NOON + 70 * DAY
        eventually(lambda: states(k) == [DONE] * 4)

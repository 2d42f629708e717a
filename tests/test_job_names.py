"""A name that nobody has is refused wherever jobs are meant, with the one that was probably meant. Nothing
is written, and nothing is taken for "there is none". What stored jobs still have is known, although nobody
declares it any more. Whatever else newcomers give in place of what is wanted gets a typed error with a hint.
"""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Bank, Clock

import klerk
import klerk.testing
from klerk import App, ArgumentError, Batch, JobRequest, JobRun, JobState, KlerkError, NotFound

DAY = timedelta(days=1)
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001


class Office(Bank):
    """A bank whose jobs are in two queues, one of them declared, and the other named by a job.

    Parameters:
        queues: declared in addition.
        kinds: of jobs in addition, which do nothing.
    """

    def __init__(self, queues: tuple[str, ...] = (), kinds: tuple[str, ...] = ()) -> None:
        super().__init__()
        app = self.app
        for each in ("mail", *queues):
            app.queue(each, concurrency=2)

        @app.job(tags={"gpu"})
        def train(job: JobRun) -> None: ...

        @app.job(queue="letters", retry=lambda attempt, error: DAY)
        def remind(job: JobRun, text: str) -> None:
            if text == "fail":
                raise ValueError("no use")

        self.train, self.remind = train, remind
        for kind in kinds:
            self.job_named(kind)

    def job_named(self, name: str) -> Any:
        def nothing(job: JobRun) -> None: ...

        nothing.__name__ = name
        return self.app.job()(nothing)


@pytest.fixture
def office() -> Office:
    return Office()


def refused(call: Callable[[], object], *told: str, by: type[KlerkError] = ArgumentError) -> None:
    """Expect an error of exactly one class whose text holds some parts."""
    with pytest.raises(KlerkError) as caught:
        call()
    assert type(caught.value) is by
    for part in told:
        assert part in str(caught.value)


# --- queues of jobs -----------------------------------------------------------------------------------

MIAL = ("there is no queue 'mial'", "Did you mean 'mail'?", "There are: default, letters, mail.")


def test_options_refuse_an_unknown_queue_once_the_design_is_complete(office: Office) -> None:
    early = office.remind("x").options(queue="mial")
    with office.app.open() as k:
        refused(lambda: office.remind("x").options(queue="mial"), *MIAL, "app.queue('mial')")
        before = k.sequence
        for requests in ((early,), (office.remind("y"), early), (Batch([early], ended=office.remind("z")),)):
            refused(lambda given=requests: k.jobs.schedule(*given), *MIAL)
        refused(lambda: k.jobs.schedule(Batch([office.remind("y")], failed=early)), *MIAL)
        refused(lambda: k.jobs.schedule(office.remind("x"), early.after(office.remind("x"))), *MIAL)
        assert (k.sequence, sum(k.jobs.counts().values())) == (before, 0)
        for queue in ("mail", "letters", "default"):
            (job,) = k.jobs.schedule(office.remind("x").options(queue=queue))
            assert job.queue == queue


def test_a_command_whose_job_is_in_no_queue_leaves_nothing(office: Office) -> None:
    early = office.remind("x").options(queue="mial")
    office.enter.job(lambda a: [office.remind("first"), early])
    with office.app.open() as k:
        refused(lambda: k.handle(office.enter("Ada"), TESTER), *MIAL)
        assert (k.sequence, office.contents(k), sum(k.jobs.counts().values())) == (0, {}, 0)


def test_a_job_is_edited_into_queues_that_there_are(office: Office) -> None:
    with office.app.open(job_threads=0) as k:
        (job,) = k.jobs.schedule(office.remind("x"))
        refused(lambda: k.jobs.edit(job, queue="mial"), *MIAL)
        refused(lambda: k.jobs.edit(job, queue=5), "a text of 1 to")  # type: ignore[arg-type]
        assert k.jobs.get(job) == job
        assert k.jobs.edit(job, queue="mail").queue == "mail"


def test_a_queue_that_is_declared_no_more_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = Office(queues=("old", "older", "over"))
    with before.app.open(tmp_path / "s", job_threads=0) as k:
        ready, later = before.remind("x").options(queue="old"), before.remind("x").options(queue="older")
        first, second, _ = k.jobs.schedule(ready, ready, later.after(DAY * 400))
        (gone,) = k.jobs.schedule(before.remind("x").options(queue="over"))
        k.jobs.cancel(gone)
    office = Office()
    for threads in (0, 4):
        caplog.clear()
        with office.app.open(tmp_path / "s", job_threads=threads) as k:
            warned = [each for each in caplog.records if getattr(each, "event", "") == "queues_undeclared"]
            assert [each.levelno for each in warned] == [logging.WARNING]
            assert "'old' (2 jobs), 'older' (1 jobs)" in warned[0].getMessage()
            assert vars(warned[0])["queues"] == ["old", "older"]
            assert k.jobs.counts(queue="old")[JobState.AVAILABLE] + threads > 0
            assert k.jobs.counts(queue="over")[JobState.CANCELLED] == 1
            assert len(k.jobs.query(queue="older")) == 1
            # Its jobs are on disk alone, and it can be steered all the same.
            k.jobs.pause("older")
            k.jobs.resume("older")
            refused(lambda: k.jobs.edit(first, queue="older"), "no queue 'older'")
            refused(lambda: office.remind("x").options(queue="old"), "There are: default, letters, mail.")
            if threads:
                assert k.jobs.wait_until_idle(20)
                assert {k.jobs.get(each).state for each in (first, second)} == {JobState.COMPLETED}
            else:
                refused(lambda: k.jobs.counts(queue="odl"), "Did you mean 'old'?", "old, older, over.")


def test_nothing_is_warned_of_when_all_is_declared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    office = Office(queues=("old",))
    with office.app.open(tmp_path / "s", job_threads=0) as k:
        k.jobs.schedule(office.remind("x").options(queue="old"))
    with office.app.open(tmp_path / "s"):
        assert caplog.records == []


def test_steering_names_the_nearest_queue(office: Office) -> None:
    with office.app.open() as k:
        before = k.sequence
        for call in (k.jobs.pause, k.jobs.resume, k.jobs.scale):
            refused(lambda call=call: call("mial"), *MIAL, by=NotFound)
        assert (k.sequence, k.jobs.paused, len(k.jobs.queues())) == (before, (), 3)


# --- filters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "told"),
    [
        ({"kind": "remnd"}, "no kind of job 'remnd'\n  Did you mean 'remind'? There are: remind, train."),
        ({"kind": ["remind", "trian"]}, "Did you mean 'train'?"),
        ({"kind": "REMIND"}, "Did you mean 'remind'?"),
        ({"kind": "zzz"}, "no kind of job 'zzz'\n  There are: remind, train."),
        ({"queue": "mial"}, "Did you mean 'mail'?"),
        ({"queue": {"mail", "leters"}}, "Did you mean 'letters'?"),
        ({"tag": "gup"}, "no job with the tag 'gup'\n  Did you mean 'gpu'?"),
        ({"state": "schedulde"}, "no state 'schedulde'\n  Did you mean 'scheduled'?"),
        ({"knd": "remind"}, "no filter 'knd' here\n  Did you mean 'kind'?"),
        ({"kind": 5}, "one kind or several, got 5\n  Give what @app.job() made"),
    ],
)
def test_a_filter_for_a_name_that_nobody_has(office: Office, which: Any, told: str) -> None:
    with office.app.open(job_threads=0) as k:
        jobs = k.jobs
        k.jobs.schedule(office.remind("x"))
        before = k.sequence
        for call in (
            jobs.query,
            jobs.find,
            jobs.cancel_all,
            jobs.discard_all,
            jobs.retry_all,
            jobs.run_all_now,
        ):
            refused(lambda call=call: call(**which), told)
        assert k.sequence == before
        assert k.jobs.counts()[JobState.AVAILABLE] == 1


def test_actions_on_many_jobs_take_no_limit(office: Office) -> None:
    with office.app.open(job_threads=0) as k:
        k.jobs.schedule(office.remind("x"), office.remind("y"))
        for given in ({"limit": 1}, {"after": "x"}, {"newest_first": True}):
            refused(lambda given=given: k.jobs.cancel_all(**given), "Only `query` takes it.")
            refused(lambda given=given: k.jobs.find(**given), "Only `query` takes it.")
        assert k.jobs.counts()[JobState.AVAILABLE] == 2


def test_counts_of_names_that_nobody_has(office: Office) -> None:
    with office.app.open() as k:
        refused(lambda: k.jobs.counts(kind="remnd"), "Did you mean 'remind'?")
        refused(lambda: k.jobs.counts(queue="mial"), *MIAL)
        refused(lambda: k.jobs.counts(kind=["remind"]), "expected one kind, got")  # type: ignore[arg-type]
        refused(lambda: k.jobs.counts(queue=5), "a text for 'queue'")  # type: ignore[arg-type]
        assert set(k.jobs.counts(kind="remind", queue="mail").values()) == {0}


def test_kinds_of_which_jobs_are_left_are_known(tmp_path: Path) -> None:
    before = Office(kinds=("shred", "burn"))
    with before.app.open(tmp_path / "s") as k:
        (job,) = k.jobs.schedule(before.app.jobs["shred"]())
        assert k.jobs.wait_until_idle(20)
    office = Office()
    with office.app.open(tmp_path / "s") as k:
        assert k.jobs.find(kind="shred") == k.jobs.get(job)
        assert k.jobs.counts(kind="shred")[JobState.COMPLETED] == 1
        refused(lambda: k.jobs.counts(kind="burn"), "There are: remind, shred, train.")
        refused(lambda: k.jobs.find(kind="shed"), "Did you mean 'shred'?")


def test_the_list_of_names_has_an_end() -> None:
    office = Office(kinds=tuple(f"kind_{number}" for number in range(40)))
    with office.app.open() as k:
        refused(lambda: k.jobs.find(kind="x"), "and 22 more.")


def test_expectations_of_tests_are_not_met_by_typing_errors(office: Office) -> None:
    with klerk.testing.open(office.app) as k:
        refused(lambda: klerk.testing.refute_enqueued(k, office.remind, queue="mial"), *MIAL)
        refused(lambda: klerk.testing.enqueued(k, queue="mial"), *MIAL)
        refused(lambda: klerk.testing.refute_enqueued(k, Office().remind), "belongs to another app")


# --- jobs of another app ------------------------------------------------------------------------------


def test_a_job_of_another_app_is_refused(office: Office) -> None:
    other, unopened = Office(), App("other")

    @unopened.job()
    def remind(job: JobRun, text: str) -> None: ...

    with office.app.open(job_threads=0) as k, other.app.open():
        before = k.sequence
        for foreign in (other.remind("x"), remind("x"), Batch([remind("x")], ended=office.remind("x"))):
            refused(lambda given=foreign: k.jobs.schedule(given), "the job remind belongs to another app")
        refused(lambda: k.jobs.counts(kind=remind), "belongs to another app")
        refused(lambda: k.jobs.query(kind=[office.remind, other.remind]), "belongs to another app")
        assert k.sequence == before
        (job,) = k.jobs.schedule(office.remind("x"))
        refused(lambda: k.jobs.edit(job, arguments=other.remind("y")), "the request is for remind")


# --- what else newcomers give -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        "get",
        "result",
        "why",
        "models",
        "waiting_for",
        "cancel",
        "discard",
        "retry",
        "run_now",
        "rerun",
        "edit",
    ],
)
def test_what_is_no_job(office: Office, method: str) -> None:
    with office.app.open(job_threads=0) as k:
        created = k.jobs.schedule(office.remind("x"))
        call = getattr(k.jobs, method)
        request, page, batch = office.remind("x"), k.jobs.query(), Batch([], ended=office.remind("x"))
        for given, told in (
            ("1", "An id is a number: int(text)."),
            ("remind", "k.jobs.query(kind=...)"),
            (request, "k.jobs.schedule(request)"),
            (office.remind, "k.jobs.query(kind=...)"),
            (created, "Give one of them"),
            (page, "Give one of its items."),
            (batch, "k.jobs.batch(record.batch)"),
            (1.0, "got float"),
            (True, "got bool"),
            (None, "got NoneType"),
        ):
            refused(lambda given=given: call(given), "expected a job's record or id", told)
        for id in (0, -5, 99, 2**70):
            refused(lambda id=id: call(id), f"there is no job {id}", by=NotFound)


def test_what_is_no_batch(office: Office) -> None:
    with office.app.open(job_threads=0) as k:
        (job,) = k.jobs.schedule(office.remind("x"))
        for given in ("1", job, None, 1.5, True):
            refused(lambda given=given: k.jobs.batch(given), "id of a batch", "record.batch")
        for id in (0, -1, job.id, 2**70):
            refused(lambda id=id: k.jobs.batch(id), f"there is no batch {id}", by=NotFound)
        refused(lambda: k.jobs.query(batch=job), "record.batch")  # type: ignore[arg-type]
        refused(lambda: k.jobs.find(cause=job), "record.cause")  # type: ignore[arg-type]


def test_a_number_of_seconds_is_no_delay(office: Office) -> None:
    with office.app.open(job_threads=0) as k:
        told = ("there is no job 60", "for a delay give timedelta(seconds=60)")
        refused(lambda: k.jobs.schedule(office.remind("x").after(60)), *told, by=NotFound)
        (first,) = k.jobs.schedule(office.remind("x"))
        (second,) = k.jobs.schedule(office.remind("x").after(1))
        assert k.jobs.waiting_for(second) == (first.id,)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (NAIVE, "no datetime with a time zone"),
        (date(2030, 1, 1), "no datetime with a time zone"),
        ("2030-01-01", "no datetime with a time zone"),
        (DAY, "a delay and no moment"),
        (60, "no datetime with a time zone"),
    ],
)
def test_what_is_no_moment(office: Office, given: Any, told: str) -> None:
    with office.app.open(clock=Clock(), job_threads=0) as k:
        (job,) = k.jobs.schedule(office.remind("x").after(DAY))
        refused(lambda: office.remind("x").at(given), told)
        refused(lambda: k.jobs.schedule(office.remind("x"), at=given), told)
        refused(lambda: k.jobs.edit(job, run_at=given), told)
        refused(lambda: k.jobs.query(created_after=given), "'created_after'", told)
        refused(lambda: k.jobs.cancel_all(created_before=given), "'created_before'", told)
        assert k.jobs.get(job) == job


def test_a_moment_that_utc_does_not_have(office: Office) -> None:
    late = datetime.max.replace(tzinfo=timezone(-timedelta(hours=5)))
    with office.app.open(clock=Clock(), job_threads=0) as k:
        (job,) = k.jobs.schedule(office.remind("x").after(DAY))
        assert k.jobs.schedule(office.remind("x").at(late))[0].state is JobState.SCHEDULED
        refused(lambda: k.jobs.edit(job, run_at=late), "outside of the years 1 to 9999")
        assert k.jobs.edit(job, run_at=datetime.max.replace(tzinfo=UTC)).run_at is not None


def test_what_is_no_delay(office: Office) -> None:
    request: JobRequest = office.remind("x")
    refused(lambda: request.after(NOON), "there is at(...)")  # type: ignore[arg-type]
    for given in ("60", 1.5, None, True, -DAY, office.remind):
        refused(lambda given=given: request.after(given), "as a timedelta")


@pytest.mark.parametrize("given", [-1, "5", True, float("nan"), float("inf"), 1e30])
def test_what_is_no_timeout(office: Office, given: Any) -> None:
    with office.app.open() as k:
        refused(lambda: k.jobs.wait_until_idle(given), "a number of seconds, 0 or more")
        refused(lambda: k.jobs.wait_until_idle(timedelta(minutes=1)), "Give the seconds: 60.")  # type: ignore[arg-type]
        assert k.jobs.wait_until_idle(0)
        (job,) = k.jobs.schedule(office.remind("x"))
        refused(lambda: k.jobs.wait(job, given), "a number of seconds, 0 or more")


def test_a_rate_is_a_text(office: Office) -> None:
    with office.app.open() as k:
        refused(lambda: k.jobs.scale("mail", rate=5), "a text such as '20/min', is 5")  # type: ignore[arg-type]


def test_an_observer_has_methods(office: Office) -> None:
    with office.app.open() as k:
        refused(lambda: k.jobs.observe(print), "no method 'started'")  # type: ignore[arg-type]


def test_what_is_asked_of_a_closed_store_says_so(office: Office) -> None:
    with office.app.open() as k:
        (job,) = k.jobs.schedule(office.remind("x"))
        jobs = k.jobs
    for call in (jobs.get, jobs.why, jobs.cancel, jobs.retry):
        refused(lambda call=call: call(job), "Open the app again.", by=klerk.Closed)
    for call in (jobs.query, jobs.find, jobs.retry_all):
        refused(lambda call=call: call(kind="remind"), "Open the app again.", by=klerk.Closed)
    refused(lambda: jobs.schedule(office.remind("x")), "Open the app again.", by=klerk.Closed)

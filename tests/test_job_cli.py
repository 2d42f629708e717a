"""``klerk jobs PATH`` tells what is set of queues and refuses names that the store does not hold, and ``klerk
jobs PATH ID`` tells all that there is to know of one job: run as people do, on stores that were closed, and
on copies of stores in use, as a crash leaves them.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Account, Bank, Clock, Name

from klerk import Batch, Discard, JobRun, Ref
from klerk.__main__ import main

DAY = timedelta(days=1)


class Office(Bank):
    """A bank with jobs that say much of themselves."""

    def __init__(self) -> None:
        super().__init__()
        app = self.app
        app.queue("mail", concurrency=5)
        app.queue("slow", rate="5/s")

        @app.job(
            key=lambda how, about=None: how,
            retry=lambda attempt, error: DAY,
            keep_result=DAY,
        )
        def work(job: JobRun, how: str, about: Ref[Account] | None = None) -> dict[str, int]:
            job.log(f"attempt {job.attempt}")
            job.progress(2, 3)
            job.checkpoint({"page": 7})
            if how == "fail":
                raise ZeroDivisionError("first line\nsecond line")
            if how == "discard":
                raise Discard("no use")
            return {"pages": 9}

        @app.job()
        def after(job: JobRun) -> None: ...

        @app.job(cron="0 3 * * *")
        def nightly(job: JobRun) -> None: ...

        self.work, self.after, self.nightly = work, after, nightly
        self.enter.job(lambda a: work("fail", None))
        self.active.on_enter.job(lambda a: work("done", a.model.meta.id))


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def told(tmp_path: Path, capsys: Any) -> Any:
    """Returns what the command line says of the store, and how it ends."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["jobs", str(tmp_path / "s"), *arguments])
        out, err = capsys.readouterr()
        return code, err if code else out

    return run


# --- queues -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [False, True])
def test_what_is_set_of_queues_is_shown(office: Office, tmp_path: Path, told: Any, crash: bool) -> None:
    store = tmp_path / ("live" if crash else "s")
    with office.app.open(store, job_threads=0) as k:
        k.jobs.pause("mail")
        k.jobs.scale("mail", concurrency=None, rate="3/s", weight=4)
        k.jobs.scale("slow", concurrency=1)
        k.jobs.pause("default")
        k.jobs.resume("default")
        if crash:
            k.checkpoint(tmp_path / "s")
    code, text = told()
    assert code == 0
    assert [line for line in text.splitlines() if line.startswith("queue ")] == [
        "queue 'mail': paused, concurrency none, rate 3/s, weight 4",
        "queue 'slow': concurrency 1",
    ]
    # To have asked changes nothing.
    with office.app.open(tmp_path / "s", job_threads=0) as k:
        assert k.jobs.paused == ("mail",)
        k.jobs.resume("mail")
        k.jobs.scale("mail")
    assert "queue 'mail'" not in told()[1]


# --- names --------------------------------------------------------------------------------------------


def test_names_are_those_of_the_store(office: Office, tmp_path: Path, told: Any) -> None:
    with office.app.open(tmp_path / "s", job_threads=0, clock=Clock()) as k:
        k.jobs.schedule(office.work("a"), office.work("b").options(queue="mail"), at=NOON + DAY)
        k.jobs.schedule(office.after().options(queue="mail"))
        k.jobs.pause("slow")
    for arguments, kinds in (
        (("--queue", "mail"), ["after", "work"]),
        (("--queue", "-"), ["work"]),
        (("--queue", "-", "--queue", "mail"), ["after", "work", "work"]),
        (("--queue", "slow"), []),
        (("--kind", "nightly"), []),
        (("--kind", "work", "--queue", "mail"), ["work"]),
    ):
        code, text = told(*arguments)
        assert code == 0
        table = text.partition("\n\n")[2].splitlines()[1:]
        assert sorted(line.split()[1] for line in table) == kinds
    code, text = told("--kind", "wrok")
    assert (code, "no kind of job 'wrok'" in text) == (1, True)
    assert "Did you mean 'work'? This store has: after, nightly, work." in text
    code, text = told("--queue", "mial")
    assert (code, "Did you mean 'mail'? This store has: -, mail, slow." in text) == (1, True)


# --- one job ------------------------------------------------------------------------------------------


def facts(text: str) -> dict[str, str]:
    """Return what is told of a job, by label; what follows on further lines with a | between."""
    found: dict[str, str] = {}
    label = ""
    for line in text.splitlines()[1:]:
        if not line.startswith("  "):
            break
        label = line[2:14].strip() or label
        found[label] = f"{found[label]}|{line[14:]}" if label in found else line[14:]
    return found


def test_one_job_is_shown_in_full(office: Office, tmp_path: Path, told: Any) -> None:
    clock = Clock()
    with office.app.open(tmp_path / "s", clock=clock) as k:
        ada = k.handle(office.enter(Name("Ada")), TESTER).id
        assert k.jobs.wait_until_idle(20)
        failed, done = sorted(k.jobs.query(kind="work"), key=lambda job: job.id)
        if failed.arguments[0] != "fail":
            failed, done = done, failed
        (follower,) = k.jobs.schedule(office.after().options(queue="mail", priority=3).after(failed))
    code, text = told(str(failed.id))
    assert (code, text.splitlines()[0]) == (0, f"job {failed.id}: work")
    shown = facts(text)
    began, *frames, second, last = shown.pop("attempt 1").split("|")
    assert began == "failed 2024-02-29 12:00:00.000000 UTC"
    assert frames[0].startswith("Traceback")
    assert 'raise ZeroDivisionError("first line' in frames[-1]
    assert (second, last) == ("ZeroDivisionError: first line", "second line")
    assert shown == {
        "state": "retryable",
        "arguments": "how='fail'|about=None",
        "queue": "that of its kind",
        "attempts": "1 ended",
        "created": "2024-02-29 12:00:00.000000 UTC",
        "not before": "2024-03-01 12:00:00.000000 UTC",
        "started": "2024-02-29 12:00:00.000000 UTC",
        "error": "ZeroDivisionError: first line|second line",
        "progress": "2 of 3",
        "log": "attempt 1",
        "checkpoint": "{'page': 7}",
        "key": "fail",
        "followed by": f"{follower.id}: after, scheduled",
    }
    cause = text.partition("created by transaction\n")[2].splitlines()
    assert cause[0].split()[0] == str(failed.cause)
    assert "tester" in cause[0]
    assert cause[1].strip().startswith("Account.enter")
    assert "'Ada'" in cause[1]
    assert f"--actor 'system:job work {failed.id}'" in text
    shown = facts(told(str(done.id))[1])
    assert shown["arguments"] == f"how='done'|about={ada}"
    assert shown["state"] == "completed"
    assert shown["result"] == "{'pages': 9}, kept until 2024-03-01 12:00:00.000000 UTC"
    assert shown["ended"] == "2024-02-29 12:00:00.000000 UTC"
    shown = facts(told(str(follower.id))[1])
    assert (shown["queue"], shown["priority"], shown["arguments"]) == ("mail", "3", "none")
    assert shown["follows"] == f"{failed.id}: work, retryable"


def test_a_batch_is_shown(office: Office, tmp_path: Path, told: Any) -> None:
    with office.app.open(tmp_path / "s", clock=Clock()) as k:
        members = [office.work("discard"), office.work("fail")]
        *created, callback = k.jobs.schedule(Batch(members, failed=office.after()))
        assert k.jobs.wait_until_idle(20)
    shown = facts(told(str(callback.id))[1])
    assert (
        shown["batch"]
        == f"{callback.batch}, not ended: runs for 'failed' of its 2 members, 1 of which failed"
    )
    assert facts(told(str(created[0].id))[1])["batch"] == f"member of {callback.batch}"


def test_a_job_of_cron_and_one_without_command(office: Office, tmp_path: Path, told: Any) -> None:
    clock = Clock()
    with office.app.open(tmp_path / "s", clock=clock) as k:
        (plain,) = k.jobs.schedule(office.after())
        clock.advance(DAY)
        k.jobs.wait_until_idle(20)
    with office.app.open(tmp_path / "s", clock=clock) as k:
        found = None
        for _ in range(2_000):
            found = k.jobs.find(kind="nightly")
            if found is not None:
                break
            k.jobs.wait_until_idle(0.01)
        assert found is not None
    text = told(str(found.id))[1]
    assert facts(text)["cron time"] == "2024-03-01 03:00:00.000000 UTC"
    assert "created by cron" in text
    assert f"\n  {plain.cause}  " in told(str(plain.id))[1]


def test_many_jobs_of_a_transaction_are_not_listed_one_by_one(
    office: Office, tmp_path: Path, told: Any, capsys: Any
) -> None:
    with office.app.open(tmp_path / "s", job_threads=0) as k:
        first, *_ = k.jobs.schedule(*(office.after() for _ in range(500)))
        k.jobs.cancel(7)
        k.jobs.cancel_all()
    assert told(str(first.id))[1].splitlines()[-2] == "    jobs 1 to 500"
    assert main(["log", str(tmp_path / "s"), "--limit", "1"]) == 0
    assert "cancel of 1 to 6, 8 to 500\n  jobs 1 to 6, 8 to 500\n" in capsys.readouterr().out


def test_a_job_that_there_is_not(office: Office, tmp_path: Path, told: Any) -> None:
    office.app.open(tmp_path / "s").close()
    code, text = told("77")
    assert (code, "NotFound: there is no job 77 in this store" in text) == (1, True)
    code, text = told("77", "--kind", "work")
    assert (code, "an id stands for one job already" in text) == (1, True)
    for id in ("0", "-1", str(2**70)):
        code, text = told("--", id) if id.startswith("-") else told(id)
        assert (code, f"there is no job {id}" in text) == (1, True)

"""The names in migrations: a typo is refused before anything is written, and a history that was right is not.

Each test makes a store, opens it with a design whose migration is wrong in one name, and says what is told.
The store must be as it was then: the first design opens it, and finds its jobs. The second half opens stores
with histories that are right although the store lacks what they are about.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Clock, eventually, permit_everything, run_python

from klerk import App, Args, ConfigError, JobRun, Migration, Model, SchemaChanged
from klerk.showing.design_check import described_fit, rehearse

Change = Callable[[Migration], None]


class Loan(Model):
    title: str
    price: int = 5


def design(
    *changes: Change,
    jobs: tuple[str, ...] = ("mail",),
    states: tuple[str, ...] = ("lent", "back"),
    events: tuple[str, ...] = ("give",),
    model: type[Model] = Loan,
) -> tuple[App, Any, list[int]]:
    """A library with loans and jobs; returned with what makes a loan and the numbers that jobs ran with."""
    app = App("library")
    permit_everything(app)
    ran: list[int] = []
    loans = app.machine(model)
    named = loans.states(*states)

    @loans.create(into=named[0])
    def lend(a: Args, title: str) -> Loan:
        return Loan(title=title)

    for name in events:

        def move(a: Args) -> None: ...

        move.__name__ = name
        moving = loans.event(*named)(move)
        for state, target in zip(named, (*named[1:], named[0]), strict=True):
            state.on(moving).to(target)
    for name in jobs:

        def run(job: JobRun, number: int) -> None:
            ran.append(number)

        run.__name__ = run.__qualname__ = name
        app.job()(run)
    for version, change in enumerate(changes, start=1):
        app.migration(version)(change)
    return app, lend, ran


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One loan, and two jobs of the kind mail, of which one waits for tomorrow."""
    app, lend, _ = design()
    with app.open(tmp_path / "store", job_threads=0, clock=Clock()) as k:
        k.handle(lend("Dune"), TESTER)
        mail = k.jobs.declared["mail"]
        k.jobs.schedule(mail(1), mail(2).at(NOON + timedelta(days=1)))
    return tmp_path / "store"


def refused(store: Path, app: App) -> str:
    """Return why a store can be neither opened nor fits, in the same words; it is as it was."""
    with pytest.raises(ConfigError) as opened:
        app.open(store, job_threads=0, clock=Clock())
    with pytest.raises(ConfigError) as checked:
        described_fit(app.freeze(), store)
    with pytest.raises(ConfigError) as rehearsed:
        rehearse(app.freeze(), store, lambda *_: None)
    assert str(opened.value) == str(checked.value) == str(rehearsed.value)
    assert opened.value.code == "K052"
    assert opened.value.where.startswith(f"{Path(__file__).name}:")
    first, _, ran = design()
    with first.open(store, clock=Clock(NOON + timedelta(days=2))) as k:
        eventually(lambda: sorted(ran) == [1, 2])
        assert k.jobs.get(1).kind == "mail"
    return str(opened.value)


# --- what a migration leads to ------------------------------------------------------------------------


def test_a_job_is_renamed_to_one_that_is_not_declared(store: Path) -> None:
    """It used to be recorded for good, and the jobs were suspended."""

    def posted(m: Migration) -> None:
        m.rename_job("mail", "psot")

    told = refused(store, design(posted, jobs=("post",))[0])
    assert 'migration 1, posted: m.rename_job("mail", "psot"): there is no job psot after it.' in told
    assert "Did you mean 'post'?" in told


def test_a_new_store_is_not_made_with_a_wrong_result(tmp_path: Path) -> None:
    """The result of migrations is the design's own matter: no store is needed to see that it is wrong."""
    app, *_ = design(lambda m: m.rename_job("mail", "psot"), jobs=("post",))
    with pytest.raises(ConfigError, match="there is no job psot after it"):
        app.open(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_job_that_is_transformed_under_its_old_name(store: Path) -> None:
    def change(m: Migration) -> None:
        m.rename_job("mail", "post")
        m.transform_job("mail", dict)

    told = refused(store, design(change, jobs=("post",))[0])
    assert 'm.transform_job("mail", dict): there is no job mail after it' in told


def test_the_nearest_state_is_named(store: Path) -> None:
    told = refused(store, design(lambda m: m.rename_state("Loan", "lent", "oot"), states=("out", "back"))[0])
    assert "there is no state Loan.oot after it" in told
    assert "Did you mean 'out'?" in told


def test_the_nearest_field_is_named(store: Path) -> None:
    told = refused(store, design(lambda m: m.rename_field("Loan", "name", "titel"))[0])
    assert "there is no field Loan.titel after it" in told
    assert "Did you mean 'title'?" in told


def test_an_event_is_renamed_to_one_like_a_new_one(store: Path) -> None:
    told = refused(
        store, design(lambda m: m.rename_event("Loan.give", "Loan.give_bcak"), events=("give_back",))[0]
    )
    assert "there is no event Loan.give_bcak after it" in told
    assert "Did you mean 'give_back'?" in told


# --- what a migration begins with ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told", "meant"),
    [
        (lambda m: m.delete_job("mial"), "there is no job mial before it", "mail"),
        (lambda m: m.rename_job("mial", "mail"), "there is no job mial before it", "mail"),
        (lambda m: m.rename_job("mial", "post"), "there is no job mial before it", "mail"),
        (lambda m: m.delete_model("Laon"), "there is no model Laon before it", "Loan"),
        (lambda m: m.rename_model("Laon", "Loan"), "there is no model Laon before it", "Loan"),
        (lambda m: m.rename_state("Loan", "lnet", "lent"), "there is no state Loan.lnet before it", "lent"),
        (
            lambda m: m.delete_state("Loan", "bck", into="lent"),
            "there is no state Loan.bck before it",
            "back",
        ),
        (lambda m: m.delete_field("Loan", "prize"), "there is no field Loan.prize before it", "price"),
        (
            lambda m: m.rename_event("Loan.giev", "Loan.give"),
            "there is no event Loan.giev before it",
            "give",
        ),
        (
            lambda m: m.rename_event("Laon.give", "Loan.give"),
            "there is no model Laon before it",
            "Loan",
        ),
    ],
)
def test_a_name_that_the_store_knows_by_another_spelling(
    store: Path, change: Change, told: str, meant: str
) -> None:
    found = refused(store, design(change, jobs=("mail", "post"))[0])
    assert told in found
    assert f"Did you mean '{meant}'?" in found
    assert "migration 1, <lambda>: m." in found


def test_transforms_under_a_wrong_name_that_is_deleted_later(store: Path) -> None:
    def change(m: Migration) -> None:
        m.transform_job("mial", dict)
        m.delete_job("mial")

    assert 'm.transform_job("mial", dict): there is no job mial' in refused(store, design(change)[0])


def test_operations_before_it_count(store: Path) -> None:
    """The second operation begins with what the first has left."""

    def change(m: Migration) -> None:
        m.rename_job("mail", "letter")
        m.rename_job("leter", "post")

    found = refused(store, design(change, jobs=("letter", "post"))[0])
    assert "there is no job leter before it" in found
    assert "Did you mean 'letter'?" in found


def test_the_command_line_says_it(store: Path) -> None:
    (store.parent / "library.py").write_text(
        "import klerk\n"
        "class Loan(klerk.Model):\n    title: str\n    price: int = 5\n"
        'app = klerk.App("library")\nloans = app.machine(Loan)\n'
        'lent, back = loans.states("lent", "back", final=("back",))\n'
        "@loans.create(into=lent)\ndef lend(a: klerk.Args, title: str) -> Loan: return Loan(title=title)\n"
        "@loans.event(lent, to=back)\ndef give(a: klerk.Args) -> None: ...\n"
        "@app.job()\ndef mail(job: klerk.JobRun, number: int) -> None: ...\n"
        '@app.migration(1)\ndef less(m: klerk.Migration) -> None:\n    m.delete_job("mial")\n',
        encoding="utf-8",
    )
    ran = run_python("-m", "klerk", "check", "library.py", "--store", "store", cwd=store.parent)
    assert ran.returncode == 1
    assert 'K052: migration 1, less: m.delete_job("mial"): there is no job mial before it' in ran.stderr


# --- histories that are right -------------------------------------------------------------------------


def opened(store: Path, app: App) -> None:
    """The dry run and the opening take it, and both once more."""
    for _ in range(2):
        if store.exists():
            described_fit(app.freeze(), store)
            rehearse(app.freeze(), store, lambda *_: None)
        app.open(store, job_threads=0, clock=Clock()).close()


def history(m: Migration) -> None:
    m.rename_job("sms", "mail")
    m.delete_job("report")
    m.delete_model("Person")
    m.rename_model("Lending", "Loan")
    m.rename_field("Loan", "name", "title")
    m.rename_state("Loan", "held", "lent")
    m.delete_state("Loan", "gone", into="back")
    m.delete_field("Loan", "colour")
    m.rename_event("Loan.pass_on", "Loan.give")


def test_a_new_store_takes_every_history(tmp_path: Path) -> None:
    """It has never had what old migrations are about, however their names are spelt."""

    def change(m: Migration) -> None:
        m.delete_job("mial")
        m.delete_model("Laon")
        m.rename_state("Loan", "lnet", "lent")

    opened(tmp_path / "new", design(change)[0])
    design(change)[0].open().close()


def test_a_store_that_is_older_than_what_is_deleted(store: Path) -> None:
    """All of that may have come, and gone, while this store was closed."""
    opened(store, design(history)[0])


def test_names_of_later_migrations_may_be_alike(store: Path) -> None:
    """What came after the first of the migrations that this store has not run is not known here."""
    opened(store, design(lambda m: m.delete_job("report"), lambda m: m.delete_job("mails"))[0])


def test_a_migration_that_has_run_is_not_looked_at_again(store: Path) -> None:
    """The store has the job no more that it began with, and one like it."""

    def posted(m: Migration) -> None:
        m.rename_job("mail", "mails")

    app, _, ran = design(posted, jobs=("mails",))
    opened(store, app)
    app, _, ran = design(posted, jobs=("mails",))
    with app.open(store, clock=Clock()):
        eventually(lambda: ran == [1])


def test_a_kind_that_the_store_had_before(store: Path) -> None:
    """Renamed once; the old name is used again, and deleted, while this store was closed."""

    def posted(m: Migration) -> None:
        m.rename_job("mail", "mails")

    opened(store, design(posted, jobs=("mails",))[0])
    opened(store, design(posted, lambda m: m.delete_job("mail"), jobs=("mails",))[0])


def test_a_renamed_job_is_gone_later(store: Path) -> None:
    def posted(m: Migration) -> None:
        m.rename_job("mail", "post")

    opened(store, design(posted, jobs=("post",))[0])
    told = 'm.delete_job("post")'
    with pytest.raises(ConfigError, match="go on from there in a later migration") as caught:
        design(posted, jobs=())[0].open(store)
    assert told in str(caught.value)
    opened(store, design(posted, lambda m: m.delete_job("post"), jobs=())[0])


def test_two_kinds_become_one_and_names_are_used_again(store: Path) -> None:
    opened(store, design(lambda m: m.rename_job("mail", "post"), jobs=("mail", "post"))[0])


def test_jobs_that_wait_are_dropped_and_the_kind_is_kept(store: Path) -> None:
    app, *_ = design(lambda m: m.delete_job("mail"))
    with app.open(store, job_threads=0, clock=Clock()) as k:
        assert not any(k.jobs.counts().values())


def test_an_event_that_was_renamed_may_be_gone(store: Path) -> None:
    """Nothing says that an event is gone, so the name that it had last may be declared no more."""
    opened(store, design(lambda m: m.rename_event("Loan.give", "Loan.give_back"), events=("extend",))[0])


def test_what_does_not_fit_is_told_in_full(store: Path) -> None:
    """A name that leaves something over is one line among all that has to be mended."""

    class Loan(Model):
        name: str
        price: int = 5

    app, *_ = design(lambda m: m.rename_field("Loan", "titel", "name"), model=Loan)
    with pytest.raises(SchemaChanged, match=r"Loan\.title is no longer declared") as caught:
        app.open(store)
    assert 'migration 1, <lambda>: m.rename_field("Loan", "titel", "name")' in str(caught.value)

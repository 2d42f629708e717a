"""Who may cause an event, what is possible next, and what a refusal tells to those who may not know.

The company under test has folders that count their papers by events which only blocks may cause. What a
refused actor can learn is tested by comparison: for each kind of rule, the answer about a model that there is
must be the same, word by word, as that about one that there is not.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from designs import TESTER, Account, Clock, eventually, permit_everything

import klerk
from klerk import (
    App,
    Args,
    ArgumentError,
    BrokenReference,
    Context,
    CreateEvent,
    Denied,
    Event,
    FunctionFailed,
    InvalidValue,
    JobRun,
    Klerk,
    Model,
    NotFound,
    ReaderClosed,
    Ref,
    Rejected,
    System,
    User,
    Visibility,
    WrongState,
)

BOB = Context(User("bob"))
BOSS = Context(User("boss", roles=frozenset({"boss"})))


class Title(klerk.Text, min=1, max=40): ...


class Folder(Model):
    owner: str
    papers: int = 0


class Paper(Model):
    folder: Ref[Folder]
    title: Title


class Company:
    """Folders and their papers; each visibility has an event on folders, and one that makes papers."""

    def __init__(self) -> None:
        self.app = App("company")
        self.folders, self.papers = folders, papers = self.app.machine(Folder), self.app.machine(Paper)
        self.open, self.shut = folders.states("open", "shut")
        (self.filed,) = papers.states("filed")

        @folders.create(into=self.open)
        def begin(a: Args, owner: str) -> Folder:
            return Folder(owner=owner)

        @folders.event(self.open, visibility=Visibility.INTERNAL)
        def count_one(a: Args[Folder]) -> Folder:
            return a.model.replace(papers=a.model.papers + 1)

        @folders.event(self.open, visibility=Visibility.MACHINES)
        def note_paper(a: Args[Folder]) -> None: ...

        @folders.event(self.open, visibility=Visibility.CODE)
        def recount(a: Args[Folder], papers: int) -> Folder:
            return a.model.replace(papers=papers)

        @folders.event(self.open, to=self.shut)
        def close(a: Args[Folder]) -> None: ...

        @folders.event(self.shut, to=self.open)
        def reopen(a: Args[Folder]) -> None: ...

        @papers.create(into=self.filed)
        def file(a: Args, folder: Ref[Folder], title: Title) -> Paper:
            return Paper(folder=folder, title=title)

        @papers.create(into=self.filed, visibility=Visibility.MACHINES)
        def file_cover(a: Args, folder: Ref[Folder]) -> Paper:
            return Paper(folder=folder, title=Title("cover"))

        self.open.on(note_paper).commands(lambda a: count_one(a.model.meta.id))
        file.commands(lambda a: note_paper(a.model.folder))
        self.begin, self.count_one, self.note_paper, self.recount = begin, count_one, note_paper, recount
        self.close, self.reopen, self.file, self.file_cover = close, reopen, file, file_cover


@pytest.fixture
def company() -> Company:
    company = Company()
    permit_everything(company.app)
    return company


# --- visibility ---------------------------------------------------------------------------------------


def papers_of(company: Company, k: Klerk, folder: Ref[Folder]) -> int:
    with k.read(TESTER) as r:
        return r.get(folder).papers


def test_an_event_is_external_unless_it_says_otherwise(company: Company) -> None:
    assert (company.begin.visibility, company.close.visibility) == (Visibility.EXTERNAL,) * 2
    assert company.file_cover.visibility is Visibility.MACHINES
    assert [each.level for each in Visibility] == [0, 1, 2, 3]
    assert list(Visibility) == ["internal", "machines", "code", "external"]


def test_blocks_may_cause_what_code_may_not(company: Company) -> None:
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        k.handle(company.file(folder, Title("one")), TESTER)
        assert papers_of(company, k, folder) == 1
        k.handle(company.recount(folder, 7), TESTER)
        assert papers_of(company, k, folder) == 7


@pytest.mark.parametrize("actor", [User("tester"), System("job")])
@pytest.mark.parametrize(
    "way", ["handle", "check", "submit", "handle_all", "generator", "commands of a function"]
)
def test_code_may_not_cause_what_only_blocks_may(company: Company, way: str, actor: Any) -> None:
    context = Context(actor)
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        for command in (company.count_one(folder), company.note_paper(folder), company.file_cover(folder)):
            ways: dict[str, Callable[[], object]] = {
                "handle": lambda: k.handle(command, context),  # noqa: B023
                "check": lambda: k.check(command, context),  # noqa: B023
                "submit": lambda: k.submit(command, context).result(),  # noqa: B023
                "handle_all": lambda: k.handle_all([command], context),  # noqa: B023
                "generator": lambda: k.handle_all((each for each in [command]), context),  # noqa: B023
                "commands of a function": lambda: k.handle_all(lambda a: [command], context),  # noqa: B023
            }
            with pytest.raises(Denied, match="can only be caused by blocks") as caught:
                ways[way]()
            assert (caught.value.code, caught.value.status) == ("not_visible", 403)
            assert ".commands(...)" in caught.value.hint
        assert papers_of(company, k, folder) == 0


def test_blocks_of_another_machine_may_not_cause_internal_events(company: Company) -> None:
    company.file.commands(lambda a: company.count_one(a.model.folder))
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        with pytest.raises(Denied, match=r"count_one can only be caused by blocks of Folder"):
            k.handle(company.file(folder, Title("one")), TESTER)
        assert papers_of(company, k, folder) == 0


@pytest.mark.parametrize("as_generator", [True, False])
def test_who_causes_is_the_block_closest_by(company: Company, as_generator: bool) -> None:
    """Another machine's block may cause one that causes an internal one, and is itself again afterwards."""

    def commands(a: Args[Paper]) -> Any:
        yield company.note_paper(a.model.folder)
        yield company.count_one(a.model.folder)

    company.file.commands(commands if as_generator else lambda a: list(commands(a)))
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        with pytest.raises(Denied, match="count_one"):
            k.handle(company.file(folder, Title("one")), TESTER)
        assert papers_of(company, k, folder) == 0


def test_entering_leaving_and_timers_are_blocks_of_the_machine(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)
    count = company.count_one
    company.open.on_enter.commands(lambda a: count(a.model.meta.id))
    company.open.after(timedelta(hours=1)).commands(lambda a: count(a.model.meta.id))
    clock = Clock()
    with company.app.open(clock=clock) as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        assert papers_of(company, k, folder) == 1
        clock.advance(timedelta(hours=2))
        eventually(lambda: papers_of(company, k, folder) == 2)


def test_jobs_are_code(company: Company) -> None:
    seen: list[str] = []

    @company.app.job()
    def work(job: JobRun, folder: Ref[Folder]) -> Any:
        job.handle(company.recount(folder, 5))
        with pytest.raises(Denied):
            job.handle(company.count_one(folder))
        seen.append("refused")
        return job.complete_with(company.recount(folder, 6))

    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        k.jobs.schedule(work(folder))
        assert k.jobs.wait_until_idle(20)
        assert (seen, papers_of(company, k, folder)) == (["refused"], 6)


async def test_visibility_holds_for_asyncio_too(company: Company) -> None:
    with company.app.open() as k:
        folder = (await k.aio.handle(company.begin("ada"), TESTER)).id
        with pytest.raises(Denied):
            await k.aio.handle(company.count_one(folder), TESTER)


# --- possibilities ------------------------------------------------------------------------------------


def possible(k: Klerk, context: Context, folder: Ref[Folder], **options: Any) -> list[str]:
    with k.read(context) as r:
        events = r.possible_events(folder, **options)
        assert all(isinstance(event, Event) for event in events)
        return [event.name for event in events]


def creatable(k: Klerk, context: Context, what: Any, **options: Any) -> list[str]:
    with k.read(context) as r:
        events = r.possible_creations(what, **options)
        assert all(isinstance(event, CreateEvent) for event in events)
        return [event.name for event in events]


def test_what_is_possible_follows_the_state(company: Company) -> None:
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        assert possible(k, BOB, folder) == ["close"]
        k.handle(company.close(folder), BOB)
        assert possible(k, BOB, folder) == ["reopen"]
        assert creatable(k, BOB, Folder) == creatable(k, BOB, company.folders) == ["begin"]


def test_less_visible_events_are_told_on_request_in_the_order_of_declaration(company: Company) -> None:
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        told = {each: possible(k, BOB, folder, visibility=each) for each in Visibility}
        assert told == {
            Visibility.EXTERNAL: ["close"],
            Visibility.CODE: ["recount", "close"],
            Visibility.MACHINES: ["note_paper", "recount", "close"],
            Visibility.INTERNAL: ["count_one", "note_paper", "recount", "close"],
        }
        assert creatable(k, BOB, Paper, visibility=Visibility.MACHINES) == ["file", "file_cover"]


def test_a_version_that_is_no_longer_current_is_not_what_counts(company: Company) -> None:
    with company.app.open() as k:
        old = k.handle(company.begin("ada"), TESTER).model
        k.handle(company.close(old.meta.id), TESTER)
        with k.read(TESTER) as r:
            assert r.possible_events(old) == (company.reopen,)


def test_what_is_possible_needs_permission() -> None:
    company = Company()
    company.app.allow.read(Folder)(lambda a: True)
    company.app.allow.command(company.begin)(lambda a: "boss" in a.context.actor.roles)
    company.app.allow.command(company.close)(lambda a: a.model.owner == a.context.actor.id)
    company.app.deny.command(company.close)(lambda a: a.context.actor.id == "eve")
    with company.app.open() as k:
        of_bob, of_eve = (k.handle(company.begin(name), BOSS).id for name in ("bob", "eve"))
        assert possible(k, BOB, of_bob) == ["close"]
        assert possible(k, BOB, of_eve) == []
        assert possible(k, Context(User("eve")), of_eve) == []
        assert creatable(k, BOB, Folder) == creatable(k, BOSS, Paper) == []
        assert creatable(k, BOSS, Folder) == ["begin"]
        # The system is asked about nothing but rules and state.
        assert possible(k, Context(System("job")), of_eve) == ["close"]
        assert creatable(k, Context(System("job")), Paper) == ["file"]


def test_rules_see_fields_that_the_actor_may_not(company: Company) -> None:
    company.app.deny.field(names=("owner",))(lambda a: True)
    company.close.rule(lambda a: a.model.owner == "ada")
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        with k.read(BOB) as r:
            shown = r.get(folder)
            assert shown.owner is klerk.MASKED
            assert r.possible_events(shown) == (company.close,)


@pytest.mark.parametrize(
    ("rule", "is_possible"),
    [
        (lambda a: False, False),
        (lambda a: a.model.papers == 0, True),
        (lambda a: a.model.papers > 0, False),
        (lambda a: a.context.actor.id == "bob", True),
        (lambda a: a.read.get(a.model.meta.id).papers > 0, False),
        # What only the parameters decide is left to them.
        (lambda a, papers: False, True),
        (lambda a, *values: False, True),
        (lambda a, **rest: False, False),
        (lambda a: a.parameters["papers"] > 5, True),
        (lambda a: a.command.values == (), True),
        (lambda a: a.model.papers > 0 and a.parameters["papers"] > 5, False),
    ],
)
def test_rules_that_need_no_parameters_are_asked(company: Company, rule: Any, is_possible: bool) -> None:
    company.recount.rule(rule)
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        told = possible(k, BOB, folder, visibility=Visibility.CODE)
        assert ("recount" in told) is is_possible


def test_a_rule_that_swallows_errors_still_leaves_the_question_open(company: Company) -> None:
    @company.recount.rule
    def careless(a: Args[Folder]) -> bool:
        try:
            return bool(a.parameters["papers"] > 5)
        except Exception:
            return False

    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        assert "recount" in possible(k, BOB, folder, visibility=Visibility.CODE)


@pytest.mark.parametrize(("kind", "is_possible"), [("allow", True), ("deny", True)])
def test_permissions_that_ask_for_parameters_count_as_given(kind: str, is_possible: bool) -> None:
    company = Company()
    company.app.allow.read()(lambda a: True)
    company.app.allow.command(company.begin)(lambda a: True)
    permissions = company.app.allow if kind == "allow" else company.app.deny
    if kind == "deny":
        company.app.allow.command(company.recount)(lambda a: True)
    permissions.command(company.recount)(lambda a: a.parameters["papers"] > 5)
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        assert ("recount" in possible(k, BOB, folder, visibility=Visibility.CODE)) is is_possible
        for papers in (1, 9):
            if (papers > 5) is (kind == "allow"):
                k.handle(company.recount(folder, papers), BOB)
            else:
                with pytest.raises(Denied):
                    k.handle(company.recount(folder, papers), BOB)


def refuse(a: Args[Any]) -> bool:
    raise Rejected("not today")


def miss(a: Args[Any]) -> bool:
    return bool(a.read.get(Ref[Folder](999)).papers)


@pytest.mark.parametrize("rule", [refuse, miss])
def test_a_rule_that_refuses_by_raising_makes_it_impossible(company: Company, rule: Any) -> None:
    company.close.rule(rule)
    company.file.rule(rule)
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        assert possible(k, BOB, folder) == creatable(k, BOB, Paper) == []


def test_a_rule_that_fails_is_named(company: Company) -> None:
    def fails(a: Args[Any]) -> bool:
        return bool(1 // 0)

    company.close.rule(fails)
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        with pytest.raises(FunctionFailed, match=r"fails \(.*ZeroDivisionError"):
            possible(k, BOB, folder)


def test_what_may_not_be_read_has_no_possibilities() -> None:
    company = Company()
    company.app.allow.command()(lambda a: True)
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        with k.read(BOB) as r:
            with pytest.raises(Denied, match="may not read Folder"):
                r.possible_events(folder)
            with pytest.raises(NotFound):
                r.possible_events(Ref[Folder](99))
            with pytest.raises(ArgumentError, match="is a draft"):
                r.possible_events(Folder(owner="x"))
            with pytest.raises(ArgumentError, match="is no model class of this app"):
                r.possible_creations(Account)
            with pytest.raises(ArgumentError, match="is no model class of this app"):
                r.possible_creations(Company().folders)
        with pytest.raises(ReaderClosed):
            r.possible_events(folder)
        with pytest.raises(ReaderClosed):
            r.possible_creations(Folder)


def test_functions_of_the_application_ask_for_whom_they_like(company: Company) -> None:
    seen: list[Any] = []

    def commands(a: Args) -> Any:
        folder = (yield company.begin("ada")).id
        seen.append(a.read.possible_events(folder, BOB))
        yield company.close(folder)
        seen.append(a.read.possible_events(folder, a.context))
        seen.append(a.read.possible_creations(Paper, a.context))

    with company.app.open() as k:
        k.handle_all(commands, TESTER)
        assert seen == [(company.close,), (company.reopen,), (company.file,)]


def test_a_snapshot_tells_what_was_possible_then(company: Company) -> None:
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        with k.snapshot(BOB) as then:
            k.handle(company.close(folder), TESTER)
            assert then.possible_events(folder) == (company.close,)
            assert possible(k, BOB, folder) == ["reopen"]
            assert then.possible_creations(Paper) == (company.file,)
        with pytest.raises(ReaderClosed):
            then.possible_creations(Paper)


async def test_possibilities_with_asyncio(company: Company) -> None:
    with company.app.open() as k:
        folder = (await k.aio.handle(company.begin("ada"), TESTER)).id
        async with k.aio.read(BOB) as r:
            assert r.possible_events(folder) == (company.close,)
            assert r.possible_creations(Folder) == (company.begin,)


# --- what refusals tell --------------------------------------------------------------------------------


def answer(k: Klerk, command: klerk.Command[Any], context: Context) -> tuple[type, str]:
    """Return what somebody is told, without the reference that they named themselves."""
    with pytest.raises(klerk.KlerkError) as caught:
        k.handle(command, context)
    return type(caught.value), str(caught.value).replace(str(command.target), "<ref>")


def owns(a: Args[Folder]) -> bool:
    return a.model.owner == a.context.actor.id


def owns_what_it_names(a: Args[Folder]) -> bool:
    assert a.command is not None
    assert a.command.target is not None
    return a.read.get(a.command.target).owner == a.context.actor.id


def owns_what_it_finds(a: Args[Folder]) -> bool:
    assert a.command is not None
    assert a.command.target is not None
    found: Any = a.read.find(a.command.target)
    return bool(found.owner == a.context.actor.id)


def is_boss(a: Args[Any]) -> bool:
    return "boss" in a.context.actor.roles


def nobody(a: Args[Any]) -> bool:
    return False


def everybody(a: Args[Any]) -> bool:
    return True


def is_secret(a: Args[Folder]) -> bool:
    return a.model.owner == "ada"


@pytest.mark.parametrize(
    ("allow", "deny"),
    [
        ([], []),
        ([nobody], []),
        ([everybody], [everybody]),
        ([owns], []),
        ([is_boss, owns], []),
        ([owns, is_boss], [nobody]),
        ([owns_what_it_names], []),
        ([owns_what_it_finds], []),
        ([everybody], [is_secret]),
        ([everybody], [nobody, is_secret]),
        ([owns, everybody], [is_secret]),
        ([owns], [is_secret]),
        ([everybody], [is_secret, everybody]),
    ],
)
def test_a_refusal_does_not_tell_whether_there_is_a_model(allow: list[Any], deny: list[Any]) -> None:
    company = Company()
    company.app.allow.command(company.begin, company.file)(lambda a: a.context.actor.id == "tester")
    for rule in allow:
        company.app.allow.command(company.close)(rule)
    for rule in deny:
        company.app.deny.command(company.close)(rule)
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        paper = k.handle(company.file(folder, Title("one")), TESTER).id
        real = answer(k, company.close(folder), BOB)
        assert real[0] is Denied
        for other in (Ref[Folder](999), paper, 0, -1, 2**70, "x", None):
            assert answer(k, company.close(other), BOB) == real  # type: ignore[arg-type]


def test_who_may_do_it_to_every_model_is_told_that_there_is_none() -> None:
    company = Company()
    company.app.allow.command()(owns)
    company.app.allow.command()(is_boss)
    company.app.deny.command()(nobody)
    with company.app.open() as k:
        assert answer(k, company.close(Ref[Folder](9)), BOSS)[0] is NotFound
        assert answer(k, company.close(Ref[Folder](9)), BOB)[0] is Denied
        assert answer(k, company.close(Ref[Folder](9)), Context(System("job")))[0] is NotFound


def test_who_is_denied_does_not_learn_the_state_either() -> None:
    company = Company()
    company.app.allow.command(company.begin)(everybody)
    company.app.allow.command(company.reopen)(owns)
    with company.app.open() as k:
        of_ada, of_bob = (k.handle(company.begin(name), TESTER).id for name in ("ada", "bob"))
        assert answer(k, company.reopen(of_ada), BOB)[0] is Denied
        assert answer(k, company.reopen(of_bob), BOB)[0] is WrongState


@pytest.mark.parametrize("way", ["get", "find"])
def test_who_is_denied_does_not_learn_about_references(way: str) -> None:
    company = Company()
    company.app.allow.command(company.begin)(everybody)

    @company.app.allow.command(company.file)
    def owns_the_folder(a: Args) -> bool:
        folder: Ref[Folder] = a.parameters["folder"]
        found: Any = a.read.get(folder) if way == "get" else a.read.find(folder)
        return bool(found.owner == a.context.actor.id)

    with company.app.open() as k:
        of_ada = k.handle(company.begin("ada"), TESTER).id
        real = answer(k, company.file(of_ada, Title("x")), BOB)
        assert real[0] is Denied
        assert answer(k, company.file(Ref[Folder](99), Title("x")), BOB) == real


def test_a_permission_that_fails_with_good_references_is_named() -> None:
    company = Company()
    company.app.allow.command(company.begin)(everybody)

    @company.app.allow.command(company.file)
    def fails(a: Args) -> bool:
        raise ZeroDivisionError

    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        assert answer(k, company.file(folder, Title("x")), BOB)[0] is FunctionFailed


def test_who_may_do_it_learns_of_every_broken_reference_and_value_at_once(company: Company) -> None:
    bad: Any = ""
    with company.app.open() as k:
        with pytest.raises(BrokenReference, match="there is no Folder 99"):
            k.handle(company.file(Ref[Folder](99), Title("x")), BOB)
        with pytest.raises(InvalidValue) as caught:
            k.handle(company.file(Ref[Folder](99), bad), BOB)
        assert {problem.path for problem in caught.value.problems} == {"folder", "title"}


@pytest.mark.parametrize("rule", [nobody, lambda a: a.parameters["folder"] > 0])
def test_wrong_values_do_not_tell_about_references(rule: Any) -> None:
    company = Company()
    company.app.allow.command(company.begin)(everybody)
    company.app.allow.command(company.file)(rule)
    bad: Any = ""
    with company.app.open() as k:
        folder = k.handle(company.begin("ada"), TESTER).id
        told = answer(k, company.file(folder, bad), BOB)
        assert told[0] is InvalidValue
        assert answer(k, company.file(Ref[Folder](99), bad), BOB) == told


def test_a_refused_creation_does_not_speak_of_a_model_that_there_is_not() -> None:
    company = Company()
    company.app.allow.command()(lambda a: a.model is not None)
    with company.app.open() as k, pytest.raises(Denied) as caught:
        k.handle(company.begin("ada"), BOB)
    assert str(caught.value) == "Folder.begin is not allowed for user bob"

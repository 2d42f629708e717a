"""Every executable works on every occasion, with and without a condition, in whatever order it is declared.

A machine of documents: `start` brings one from `draft` to `ready`, which leaves the one and enters the other;
timers of `draft` are due after an hour. What a block did is read from the documents, their copies and a list
that unmanaged jobs fill; what it must not have done is that none of this changed.
"""

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Clock, eventually, permit_everything

from klerk import App, Args, JobRun, Klerk, LimitExceeded, Model, Ref, Rejected
from klerk.limits import SECONDARY_DEPTH_MAX

HOUR = timedelta(hours=1)


class Document(Model):
    trace: tuple[str, ...] = ()
    original: "Ref[Document] | None" = None


class Office:
    """Documents, to be given blocks by a test before it opens the app."""

    def __init__(self) -> None:
        self.app = App("office")
        self.documents = documents = self.app.machine(Document)
        self.draft, self.ready, self.gone = documents.states("draft", "ready", "gone", final=("gone",))
        self.called: list[Any] = []
        self.done: list[Any] = []
        permit_everything(self.app)

        @documents.create(into=self.draft)
        def write(a: Args, original: Ref[Document] | None = None) -> Document:
            return Document(trace=("write",), original=original)

        @documents.create(into=self.gone)
        def copy(a: Args, original: Ref[Document] | None) -> Document:
            return Document(trace=("copy",), original=original)

        @documents.event(self.draft, to=self.ready)
        def start(a: Args[Document], text: str = "start") -> Document:
            return traced(a, text)

        @documents.event(self.draft, self.ready)
        def touch(a: Args[Document], text: str = "touch") -> Document:
            return traced(a, text)

        @documents.event(self.ready, to=self.gone)
        def end(a: Args[Document]) -> None: ...

        @self.app.job()
        def work(job: JobRun, document: Ref[Document]) -> None:
            self.done.append(document)

        self.write, self.copy, self.start, self.touch, self.end = write, copy, start, touch, end
        self.work = work

    def all(self, k: Klerk) -> list[Document]:
        with k.read(TESTER) as r:
            return list(r.list(self.documents))


def traced(a: Args[Document], text: str) -> Document:
    return a.model.replace(trace=(*a.model.trace, text))


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the clock was set is noticed soon."""
    monkeypatch.setattr("klerk.limits.CLOCK_CHECK_S", 0.01)


OCCASIONS: dict[str, Callable[[Office], Any]] = {
    "event": lambda office: office.draft.on(office.touch),
    "enter": lambda office: office.draft.on_enter,
    "exit": lambda office: office.draft.on_exit,
    "after": lambda office: office.draft.after(HOUR),
    "at": lambda office: office.draft.at(lambda a: NOON + HOUR),
}

Declared = Callable[[Office, Any, Any], object]
EXECUTABLES: dict[str, Declared] = {
    "update": lambda office, block, when: block.update(lambda a: traced(a, "block"), when=when),
    "to": lambda office, block, when: block.to(office.gone, when=when),
    "to_when": lambda office, block, when: block.to_when(
        {lambda a: False: office.ready, lambda a: True: office.gone}, when=when
    ),
    "otherwise": lambda office, block, when: block.to_when(
        {lambda a: False: office.ready}, otherwise=office.gone, when=when
    ),
    "commands": lambda office, block, when: block.commands(lambda a: office.copy(a.model.meta.id), when=when),
    "job": lambda office, block, when: block.job(office.work, when=when),
    "job by function": lambda office, block, when: block.job(
        lambda a: [office.work(a.model.meta.id)], when=when
    ),
    "unmanaged job": lambda office, block, when: block.unmanaged_job(
        lambda a: office.called.append(a.model.meta.id), when=when
    ),
    "delete": lambda office, block, when: block.delete(when=when),
}
MOVES = {"to", "to_when", "otherwise", "delete"}


def happen(office: Office, k: Klerk, clock: Clock, occasion: str) -> Ref[Document]:
    """Bring it to the occasion, and wait until everything that follows is over."""
    document = k.handle(office.write(), TESTER).id
    if occasion == "event":
        k.handle(office.touch(document), TESTER)
    elif occasion == "exit":
        k.handle(office.start(document), TESTER)
    elif occasion in ("after", "at"):
        before = k.sequence
        clock.advance(2 * HOUR)
        eventually(lambda: k.sequence > before)
    assert k.jobs.wait_until_idle(20)
    return document


@pytest.mark.parametrize("when", ["unconditional", "holds", "does not hold"])
@pytest.mark.parametrize(
    ("occasion", "executable"),
    [
        (occasion, executable)
        for occasion, executable in itertools.product(OCCASIONS, EXECUTABLES)
        # A model that is leaving its state can neither go elsewhere nor be deleted: design check K016.
        if not (occasion == "exit" and executable in MOVES)
    ],
)
def test_every_executable_on_every_occasion(
    office: Office, occasion: str, executable: str, when: str
) -> None:
    condition = None if when == "unconditional" else lambda a: (when == "holds") == (a.model.trace != ())
    EXECUTABLES[executable](office, OCCASIONS[occasion](office), condition)
    clock = Clock()
    with office.app.open(clock=clock) as k:
        document = happen(office, k, clock, occasion)
        found = {each.meta.id: each for each in office.all(k)}
        # Closing makes the unmanaged calls that still wait.
        k.close()
    done = executable if when != "does not hold" else ""
    assert office.called == ([document] if done == "unmanaged job" else [])
    assert office.done == ([document] if done.startswith("job") else [])
    assert (document not in found) is (done == "delete")
    copies = [each.original for each in found.values() if each.trace == ("copy",)]
    assert copies == ([document] if done == "commands" else [])
    if document in found:
        state = office.gone if done in MOVES else office.ready if occasion == "exit" else office.draft
        assert found[document].meta.state is state
        assert ("block" in found[document].trace) is (done == "update")


@pytest.mark.parametrize("order", list(itertools.permutations(range(5)))[::7])
def test_the_order_of_executables_of_different_kinds_does_not_matter(
    office: Office, order: tuple[int, ...]
) -> None:
    """Every seventh order of declaration gives the same."""

    def is_ready(a: Args[Document]) -> bool:
        return a.model.meta.state is office.ready

    block = office.draft.on(office.touch)
    declared = [
        lambda: block.update(lambda a: traced(a, "update")),
        lambda: block.to(office.ready),
        lambda: block.commands(
            lambda a: office.copy(a.model.meta.id) if a.model.meta.state is office.ready else None
        ),
        lambda: block.job(lambda a: office.work(a.model.meta.id)),
        lambda: block.unmanaged_job(lambda a: office.called.append(a.model.trace)),
    ]
    for number in order:
        declared[number]()
    office.draft.on_exit.update(lambda a: traced(a, "exit"))
    office.ready.on_enter.update(lambda a: traced(a, "enter"))
    with office.app.open() as k:
        document = k.handle(office.write(), TESTER).id
        result = k.handle(office.touch(document), TESTER)
        trace = ("write", "touch", "update", "exit", "enter")
        assert result.model.trace == trace
        assert [each.original for each in result.created] == [document]
        assert [job.kind for job in result.jobs] == ["work"]
        k.close()
        assert office.called == [trace]


def test_executables_of_one_kind_come_as_declared(office: Office) -> None:
    office.draft.on(office.touch).update(lambda a: traced(a, "1")).update(lambda a: traced(a, "2"))
    office.draft.on(office.touch).update(lambda a: traced(a, "3"))
    with office.app.open() as k:
        document = k.handle(office.write(), TESTER).id
        assert k.handle(office.touch(document), TESTER).model.trace == ("write", "touch", "1", "2", "3")


def test_of_several_transitions_the_first_that_holds_happens(office: Office) -> None:
    block = office.draft.on(office.touch)
    block.to(office.gone, when=lambda a, text: text == "gone")
    block.to(office.ready, when=lambda a, text: text in ("gone", "ready"))
    office.gone.on_enter.update(lambda a: traced(a, "gone entered"))
    office.ready.on_enter.update(lambda a: traced(a, "ready entered"))
    with office.app.open() as k:
        for text, state in (("gone", office.gone), ("ready", office.ready), ("none", office.draft)):
            document = k.handle(office.write(), TESTER).id
            model = k.handle(office.touch(document, text), TESTER).model
            assert model.meta.state is state
            assert model.trace[2:] == (() if text == "none" else (f"{state} entered",))


def test_a_state_is_entered_anew_on_condition_and_its_timers_begin_again(office: Office) -> None:
    office.draft.on(office.touch).to(office.draft, when=lambda a: True)
    office.draft.on_exit.update(lambda a: traced(a, "exit"))
    office.draft.on_enter.update(lambda a: traced(a, "enter"))
    office.draft.after(HOUR).to(office.gone)
    clock = Clock()
    with office.app.open(clock=clock) as k:
        document = k.handle(office.write(), TESTER).id
        clock.advance(HOUR / 2)
        model = k.handle(office.touch(document), TESTER).model
        assert model.trace == ("write", "enter", "touch", "exit", "enter")
        assert model.meta.entered_at == clock.now
        assert model.meta.due_at == clock.now + HOUR


def test_one_event_does_different_things_in_different_states(office: Office) -> None:
    office.draft.on(office.touch).update(lambda a: traced(a, "in draft")).to(office.ready)
    office.ready.on(office.touch).commands(lambda a: office.copy(a.model.meta.id)).to(office.gone)
    with office.app.open() as k:
        document = k.handle(office.write(), TESTER).id
        first = k.handle(office.touch(document), TESTER)
        assert (first.model.trace, first.created) == (("write", "touch", "in draft"), ())
        second = k.handle(office.touch(document), TESTER)
        assert second.model.trace == ("write", "touch", "in draft", "touch")
        assert [each.original for each in second.created] == [document]
        assert second.model.meta.state is office.gone


@pytest.mark.parametrize("cause", ["event", "enter", "after", "at", "secondary", "deletion"])
def test_exit_and_enter_blocks_run_whatever_causes_the_transition(office: Office, cause: str) -> None:
    seen: list[tuple[str, Any]] = []
    office.draft.on_exit.unmanaged_job(lambda a: seen.append(("exit", a.model.meta.state)))
    office.gone.on_enter.unmanaged_job(lambda a: seen.append(("enter", a.model.meta.state)))
    if cause == "event":
        office.draft.on(office.touch).to(office.gone)
    elif cause == "secondary":
        office.draft.on(office.touch).commands(lambda a: office.start(a.model.meta.id))
        office.ready.on_enter.to(office.gone)
    elif cause == "deletion":
        office.draft.on(office.touch).delete()
    else:
        OCCASIONS[cause](office).to(office.gone)
    clock = Clock()
    with office.app.open(clock=clock) as k:
        happen(office, k, clock, "event" if cause in ("secondary", "deletion") else cause)
        k.close()
    entered = [] if cause == "deletion" else [("enter", office.gone)]
    assert seen == [("exit", office.draft), *entered]


def test_blocks_on_enter_and_exit_see_the_command(office: Office) -> None:
    seen: list[Any] = []

    def note(a: Args[Document]) -> None:
        assert a.command is not None
        seen.append((a.command.event, a.parameters, a.context.actor.id, a.now))

    office.draft.on_enter.commands(note)
    office.draft.on_exit.commands(note)
    office.ready.on_enter.commands(note)
    clock = Clock()
    with office.app.open(clock=clock) as k:
        document = k.handle(office.write(), TESTER).id
        k.handle(office.start(document, "x"), TESTER)
    assert seen == [
        (office.write, {"original": None}, "tester", NOON),
        (office.start, {"text": "x"}, "tester", NOON),
        (office.start, {"text": "x"}, "tester", NOON),
    ]


def test_functions_with_any_number_of_parameters_get_none_on_enter(office: Office) -> None:
    given: list[Any] = []
    office.draft.on_enter.commands(lambda *args: given.append(args[1:]))
    with office.app.open() as k:
        k.handle(office.write(), TESTER)
    assert given == [()]


def test_every_function_of_a_block_may_take_parameters(office: Office, caplog: Any) -> None:
    office.draft.on(office.touch).unmanaged_job(lambda a, text: office.called.append(text))
    office.draft.on(office.touch).unmanaged_job(lambda a, *, text: office.called.append(text.upper()))
    office.draft.on(office.touch).unmanaged_job(lambda a, text: office.called[text])
    with office.app.open() as k:
        document = k.handle(office.write(), TESTER).id
        k.handle(office.touch(document, "x"), TESTER)
        k.close()
    assert office.called == ["x", "X"]
    (record,) = caplog.records
    assert "the unmanaged job" in record.message
    assert "<lambda> (" in record.message


# --- creating -------------------------------------------------------------------------------------------


def test_a_create_event_may_make_several_models_or_none_of_its_own(office: Office) -> None:
    @office.documents.create(into=office.draft)
    def write_copies(a: Args, count: int) -> Document | None:
        return Document(trace=("first",)) if count < 0 else None

    def copies(a: Args[Document], count: int) -> Any:
        first = (yield office.write()).id
        for _ in range(abs(count)):
            yield office.copy(first)

    write_copies.commands(copies)
    write_copies.job(office.work)
    write_copies.unmanaged_job(lambda a: office.called.append(a.model))
    with office.app.open() as k:
        result = k.handle(write_copies(2), TESTER)
        assert result.id is None
        assert [each.trace for each in result.created] == [("write",), ("copy",), ("copy",)]
        # There is no model that the job could be about.
        assert result.jobs == ()
        result = k.handle(write_copies(-1), TESTER)
        assert [each.trace for each in result.created] == [("first",), ("write",), ("copy",)]
        assert [job.arguments for job in result.jobs] == [(result.id,)]
        k.close()
        assert [call and call.trace for call in office.called] == [None, ("first",)]


def test_commands_may_be_about_models_of_the_same_transaction(office: Office, tmp_path: Path) -> None:
    def chain(a: Args[Document]) -> Any:
        made = (yield office.write(a.model.meta.id)).id
        yield office.touch(made, "again")
        yield office.start(made)
        copied = yield office.copy(made)
        assert copied.model.original == made

    office.write.commands(chain, when=lambda a: a.model.original is None)
    with office.app.open(tmp_path / "store") as k:
        first = k.handle(office.write(), TESTER)
        created = [each.trace for each in first.created]
    assert created == [("write",), ("write", "again", "start"), ("copy",)]
    with office.app.open(tmp_path / "store") as k:
        assert [each.trace for each in office.all(k)] == created


def test_a_refused_secondary_command_undoes_everything(office: Office) -> None:
    office.start.rule(lambda a, text: text != "no")
    office.write.commands(lambda a: [office.copy(a.model.meta.id), office.start(a.model.meta.id, "no")])
    office.write.job(office.work)
    office.write.unmanaged_job(lambda a: office.called.append("called"))
    with office.app.open() as k:
        with pytest.raises(Rejected):
            k.handle(office.write(), TESTER)
        assert (office.all(k), sum(k.jobs.counts().values())) == ([], 0)
        k.close()
        assert office.called == []


def test_a_loop_of_two_machines_is_named(office: Office) -> None:
    class Stamp(Model):
        document: Ref[Document]

    stamps = office.app.machine(Stamp)
    (pressed,) = stamps.states("pressed")

    @stamps.create(into=pressed)
    def press(a: Args, document: Ref[Document]) -> Stamp:
        return Stamp(document=document)

    office.draft.on(office.touch).commands(lambda a: press(a.model.meta.id))
    press.commands(lambda a: office.touch(a.model.document))
    with office.app.open() as k:
        document = k.handle(office.write(), TESTER).id
        with pytest.raises(LimitExceeded, match=f"nested deeper than {SECONDARY_DEPTH_MAX}") as caught:
            k.handle(office.touch(document), TESTER)
        assert caught.value.hint == "Two blocks probably cause each other."
        assert [each.trace for each in office.all(k)] == [("write",)]


def test_a_job_about_a_model_that_a_command_deleted_is_not_created(office: Office) -> None:
    @office.documents.event(office.draft)
    def drop(a: Args[Document]) -> None: ...

    office.draft.on(drop).delete()
    office.draft.on(office.touch).commands(lambda a: drop(a.model.meta.id)).job(office.work)
    with office.app.open() as k:
        document = k.handle(office.write(), TESTER).id
        result = k.handle(office.touch(document), TESTER)
        assert (result.deleted, result.jobs, office.all(k)) == ((document,), (), [])

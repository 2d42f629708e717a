"""Unmanaged jobs: called after their command committed and at no other time, beside the path of commands.

Functions that block wait for an event of the test. That they hold up nobody is shown by what goes on
meanwhile, not by measuring time.
"""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from designs import TESTER, Account, Bank, Spawned, eventually

import klerk
from klerk import Args, Closed, KlerkError


class Blocking(Bank):
    """A bank whose `enter` calls a function that notes the owner, and waits when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []
        self.reached, self.go = threading.Event(), threading.Event()
        self.go.set()

        def note(a: Args[Account]) -> None:
            self.reached.set()
            assert self.go.wait(20)
            self.called.append(a.model.owner)

        self.enter.unmanaged_job(note)

    def block(self) -> None:
        self.go.clear()
        self.reached.clear()


@pytest.fixture
def bank() -> Iterator[Blocking]:
    bank = Blocking()
    yield bank
    bank.go.set()


def messages(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.event == event]  # type: ignore[attr-defined]


def test_a_function_that_blocks_holds_up_no_command(bank: Blocking) -> None:
    bank.block()
    with bank.app.open() as k:
        k.handle(bank.enter("A0"), TESTER)
        assert bank.reached.wait(20)
        for i in range(1, 200):
            k.handle(bank.enter(f"A{i}"), TESTER)
        with k.read(TESTER) as r:
            assert len(r.list(bank.accounts)) == 200
        assert bank.called == []
        assert k.statistics().unmanaged_waiting == 199
        bank.go.set()
        eventually(lambda: bank.called == [f"A{i}" for i in range(200)])
        assert k.statistics().unmanaged_waiting == 0


def test_what_finds_no_room_is_counted_named_and_holds_up_nobody(
    bank: Blocking, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log tells of the first at once, and of the sum when there is room again: never once a command."""
    monkeypatch.setattr("klerk.limits.UNMANAGED_QUEUE_LENGTH_MAX", 10)
    bank.block()
    with bank.app.open() as k:
        k.handle(bank.enter("first"), TESTER)
        assert bank.reached.wait(20)
        k.handle_all([bank.enter(f"A{i}") for i in range(7)], TESTER)
        k.handle_all([bank.enter(f"B{i}") for i in range(7)], TESTER)
        for i in range(50):
            k.handle(bank.enter(f"C{i}"), TESTER)
        found = k.statistics()
        assert (found.unmanaged_waiting, found.unmanaged_dropped) == (10, 54)
        (told,) = messages(caplog, "unmanaged_dropped")
        assert "note (" in told.getMessage()
        assert "test_unmanaged.py" in told.getMessage()
        bank.go.set()
        eventually(lambda: len(bank.called) == 11)
        (_, summed) = messages(caplog, "unmanaged_dropped")
        assert (summed.dropped, summed.dropped_total) == (54, 54)  # type: ignore[attr-defined]
        k.handle(bank.enter("last"), TESTER)
        eventually(lambda: bank.called[-1] == "last")
    assert bank.called == ["first", *(f"A{i}" for i in range(7)), "B0", "B1", "B2", "last"]


def test_each_function_that_is_dropped_is_named(
    bank: Blocking, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(a: Args[Account]) -> None: ...

    bank.enter.unmanaged_job(another)
    monkeypatch.setattr("klerk.limits.UNMANAGED_QUEUE_LENGTH_MAX", 2)
    bank.block()
    with bank.app.open() as k:
        k.handle(bank.enter("A0"), TESTER)
        assert bank.reached.wait(20)
        for i in range(1, 5):
            k.handle(bank.enter(f"A{i}"), TESTER)
        named = [record.getMessage() for record in messages(caplog, "unmanaged_dropped")]
        assert len(named) == 2
        assert sum("note (" in text for text in named) == 1
        assert sum("another (" in text for text in named) == 1
        bank.go.set()


def test_refused_failed_and_tried_commands_call_nothing(bank: Blocking) -> None:
    def fail(a: Args[Account]) -> Any:
        raise ZeroDivisionError

    bank.closed.on_enter.unmanaged_job(lambda a: bank.called.append("closed"))
    bank.closed.on_enter.commands(fail)
    with bank.app.open() as k:
        ada = k.handle(bank.enter("Ada"), TESTER).id
        for attempt in (
            lambda: k.handle(bank.enter("Ada"), TESTER),
            lambda: k.handle_all([bank.enter("Bob"), bank.enter("Ada")], TESTER),
            lambda: k.handle_all([bank.enter("Bob"), bank.withdraw(ada, 5)], TESTER),
            lambda: k.handle(bank.close(ada), TESTER),
            lambda: k.submit(bank.enter("Ada"), TESTER).result(20),
        ):
            with pytest.raises(KlerkError):
                attempt()
        k.check(bank.enter("Eve"), TESTER)
        k.handle(bank.enter("Eve"), TESTER, dry_run=True)
        k.handle_all([bank.enter("Eve")], TESTER, dry_run=True)
        token = k.token()
        k.handle(bank.enter("Kim"), TESTER, token=token)
        assert k.handle(bank.enter("Kim"), TESTER, token=token).repeated
        k.handle(bank.enter("last"), TESTER)
        eventually(lambda: "last" in bank.called)
    assert bank.called == ["Ada", "Kim", "last"]


def test_nothing_is_called_before_the_commit_is_durable(
    bank: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    from klerk.storage.memory import MemoryStorage

    syncing, go = threading.Event(), threading.Event()

    def slow(storage: Any) -> None:
        syncing.set()
        assert go.wait(20)

    with bank.app.open() as k:
        monkeypatch.setattr(MemoryStorage, "sync", slow)
        future = k.submit(bank.enter("Ada"), TESTER)
        assert syncing.wait(20)
        assert not bank.reached.is_set()
        assert k.statistics().unmanaged_waiting == 0
        go.set()
        future.result(20)
        eventually(lambda: bank.called == ["Ada"])


def test_nothing_is_called_when_the_store_failed(bank: Blocking, monkeypatch: pytest.MonkeyPatch) -> None:
    from klerk.storage.memory import MemoryStorage

    def fail(storage: Any) -> None:
        raise OSError("gone")

    with bank.app.open() as k:
        monkeypatch.setattr(MemoryStorage, "sync", fail)
        with pytest.raises(klerk.StoreFailed):
            k.handle(bank.enter("Ada"), TESTER)
        monkeypatch.undo()
    assert bank.called == []


def test_a_function_reads_what_is_published(bank: Blocking) -> None:
    """It sees the model as its command left it, and reads and handles commands as anybody does."""
    seen: list[Any] = []

    def look(a: Args[Account]) -> None:
        with k.read(TESTER) as r:
            seen.append((a.model.owner, r.get(a.model.meta.id).owner, a.read.get(a.model.meta.id).owner))
        k.handle(bank.close(a.model.meta.id), TESTER)

    bank.enter.unmanaged_job(look)
    with bank.app.open() as k:
        k.handle(bank.enter("Ada"), TESTER)
        eventually(lambda: [state for _, _, state in bank.contents(k).values()] == ["closed"])
    assert seen == [("Ada", "Ada", "Ada")]


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_whatever_is_raised_is_logged_with_the_functions_name(
    bank: Blocking, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    def careless(a: Args[Account]) -> None:
        raise error("on purpose")

    bank.enter.unmanaged_job(careless)
    with bank.app.open() as k:
        k.handle_all([bank.enter("Ada"), bank.enter("Bob")], TESTER)
        eventually(lambda: k.statistics().unmanaged_failed == 2)
        eventually(lambda: bank.called == ["Ada", "Bob"])
    first, _ = messages(caplog, "unmanaged_failed")
    assert "careless (" in first.getMessage()
    assert "careless (" in first.function  # type: ignore[attr-defined]
    assert first.exc_info is not None
    assert first.exc_info[0] is error


def test_closing_makes_the_calls_that_wait(bank: Blocking) -> None:
    bank.block()
    k = bank.app.open()
    for i in range(5):
        k.handle(bank.enter(f"A{i}"), TESTER)
    closing = Spawned(k.close)
    eventually(lambda: "closed" in repr(k))
    bank.go.set()
    closing.end()
    assert bank.called == [f"A{i}" for i in range(5)]


def test_closing_does_not_wait_for_ever(
    bank: Blocking, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was left is dropped, and is not called after all when the function that blocked goes on."""
    monkeypatch.setattr("klerk.limits.CLOSE_WAIT_S", 0.05)
    bank.block()
    k = bank.app.open()
    for i in range(5):
        k.handle(bank.enter(f"A{i}"), TESTER)
    assert bank.reached.wait(20)
    (thread,) = [each for each in threading.enumerate() if each.name == "klerk-unmanaged"]
    k.close()
    (left,) = messages(caplog, "unmanaged_left")
    assert left.left == 4  # type: ignore[attr-defined]
    bank.go.set()
    thread.join(20)
    assert not thread.is_alive()
    assert bank.called == ["A0"]


def test_a_function_may_close_what_called_it(bank: Blocking) -> None:
    closed = threading.Event()

    def close(a: Args[Account]) -> None:
        k.close()
        closed.set()

    bank.enter.unmanaged_job(close)
    k = bank.app.open()
    k.handle(bank.enter("Ada"), TESTER)
    assert closed.wait(20)
    with pytest.raises(Closed):
        k.handle(bank.enter("Bob"), TESTER)
    k.close()


def test_no_thread_can_be_started(
    bank: Blocking, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that is durable must not fail because of what comes after it."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "klerk-unmanaged":
            raise RuntimeError("can't start new thread")
        start(thread)

    with bank.app.open() as k:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        k.handle(bank.enter("Ada"), TESTER)
        assert k.statistics().unmanaged_dropped == 1
        monkeypatch.undo()
        k.handle(bank.enter("Bob"), TESTER)
        eventually(lambda: bank.called == ["Bob"])
    assert messages(caplog, "unmanaged_dropped")


def test_apps_without_unmanaged_jobs_have_no_thread_for_them(tmp_path: Path) -> None:
    bank = Bank()
    with bank.app.open() as k:
        k.handle(bank.enter("Ada"), TESTER)
        assert not [each for each in threading.enumerate() if each.name == "klerk-unmanaged"]

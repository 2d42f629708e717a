"""Key-values come back as they were put, end when their time is over, and are shown by rules alone.

Everything runs in memory and on disk. Time is a clock that the tests set; what the clean-up leaves is looked
up in the store itself, because nothing else shows it.
"""

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Bank, Clock, Interrupted, Spawned, eventually, run_python

import klerk
from klerk import Args, Context, User, limits
from klerk.inspection import describe_store
from klerk.showing.describe import describe
from klerk.storage import Family

MINUTE = timedelta(minutes=1)
ADA, BOB = Context(User("ada")), Context(User("bob"))

Open = Callable[[], klerk.Klerk]


def bank_with_keys() -> Bank:
    bank = Bank()
    bank.app.allow.kv()(lambda a: True)
    return bank


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "disk"])
def k(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[klerk.Klerk]:
    path = tmp_path / "store" if request.param == "disk" else None
    with bank_with_keys().app.open(path, clock=clock) as opened:
        yield opened


def rows(k: klerk.Klerk, family: Family = Family.KV) -> list[bytes]:
    """The rows that a family has, but for its counter."""
    return [key for key, _ in k._storage.scan(family) if key != b"n"]


# --- values -------------------------------------------------------------------------------------------

VALUES = [
    None,
    True,
    0,
    -(2**63),
    2**64 - 1,
    1.5,
    float("inf"),
    "",
    "naïve ✓",
    b"\x00\xff",
    [],
    {},
    [1, [2, [3, {"a": b"b", 7: [None]}]]],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was_put(k: klerk.Klerk, value: Any) -> None:
    k.kv.put("key", value, TESTER)
    found = k.kv.get("key", TESTER, default="none")
    assert found == value
    assert type(found) is type(value)


def test_tuples_come_back_as_lists_and_values_are_copies(k: klerk.Klerk) -> None:
    value = {"list": [1, (2, 3)]}
    k.kv.put("key", value, TESTER)
    value["list"].append(4)
    k.kv.get("key", TESTER)["list"].append(5)
    assert k.kv.get("key", TESTER) == {"list": [1, [2, 3]]}


class Subclass(str): ...


RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (NOON, klerk.ArgumentError, "the value is datetime"),
        ({"a": [1, {2}]}, klerk.ArgumentError, r"the value\['a'\]\[1\] is set"),
        ({(1,): 2}, klerk.ArgumentError, r"has the key \(1,\)"),
        (Subclass("x"), klerk.ArgumentError, "is Subclass"),
        (2**64, klerk.ArgumentError, "64 bits"),
        ({-(2**63) - 1: 0}, klerk.ArgumentError, "64 bits"),
        ("\ud800", klerk.ArgumentError, "cannot be stored"),
        (object(), klerk.ArgumentError, "is object"),
        (RECURSIVE, klerk.LimitExceeded, "nested deeper than 32"),
        (b"x" * limits.KV_VALUE_BYTES_MAX, klerk.LimitExceeded, "at most 131072 bytes"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    k: klerk.Klerk, value: Any, error: type[klerk.KlerkError], told: str
) -> None:
    k.kv.put("key", "before", TESTER)
    with pytest.raises(error, match=told):
        k.kv.put("key", value, TESTER)
    assert k.kv.get("key", TESTER) == "before"


@pytest.mark.parametrize("key", ["", 7, None, b"key", "\ud800", "x" * 1025, "ä" * 513, Subclass("x")])
def test_what_is_no_key_is_refused(k: klerk.Klerk, key: Any) -> None:
    for use in (
        lambda: k.kv.put(key, 1, TESTER),
        lambda: k.kv.get(key, TESTER),
        lambda: k.kv.find(key, TESTER),
        lambda: k.kv.exists(key, TESTER),
        lambda: k.kv.delete(key, TESTER),
    ):
        with pytest.raises((klerk.ArgumentError, klerk.LimitExceeded)):
            use()
    assert rows(k) == []


@pytest.mark.parametrize("ttl", [0, 60, timedelta(0), timedelta(seconds=-1), timedelta.max])
def test_what_is_no_time_to_live_is_refused(k: klerk.Klerk, ttl: Any) -> None:
    with pytest.raises(klerk.ArgumentError, match="time to live"):
        k.kv.put("key", 1, TESTER, ttl=ttl)
    assert not k.kv.exists("key", TESTER)


def test_deleting_says_whether_there_was_one(k: klerk.Klerk) -> None:
    k.kv.put("key", 1, TESTER)
    assert k.kv.exists("key", TESTER)
    assert k.kv.delete("key", TESTER) is True
    assert k.kv.delete("key", TESTER) is False
    assert not k.kv.exists("key", TESTER)
    assert k.kv.find("key", TESTER) is None
    assert k.kv.get("key", TESTER) is None
    assert rows(k) == []


def test_what_is_no_context_is_refused(k: klerk.Klerk) -> None:
    with pytest.raises(klerk.ArgumentError, match="expected a context"):
        k.kv.put("key", 1, "ada")  # type: ignore[arg-type]


# --- versions -----------------------------------------------------------------------------------------


def test_a_value_is_replaced_only_in_the_expected_version(k: klerk.Klerk) -> None:
    first = k.kv.put("key", "a", TESTER, expected=0)
    with pytest.raises(klerk.Conflict, match="version 0 of 'key' was expected, and it has version"):
        k.kv.put("key", "b", TESTER, expected=0)
    second = k.kv.put("key", "b", TESTER, expected=first)
    assert second > first
    for wrong in (first, second + 1, 0):
        with pytest.raises(klerk.Conflict):
            k.kv.delete("key", TESTER, expected=wrong)
    found = k.kv.find("key", TESTER)
    assert found == klerk.KeyValue(key="key", value="b", version=second, expires_at=None)
    assert k.kv.delete("key", TESTER, expected=second)
    with pytest.raises(klerk.Conflict, match="there is none"):
        k.kv.delete("key", TESTER, expected=second)
    # A key that comes back has another version: who remembers the old one has lost it.
    assert k.kv.put("key", "c", TESTER, expected=0) > second
    for bad in (-1, "1", True, 1.0):
        with pytest.raises(klerk.ArgumentError, match="expected version"):
            k.kv.put("key", "d", TESTER, expected=bad)  # type: ignore[arg-type]


def test_threads_that_count_together_lose_nothing(k: klerk.Klerk) -> None:
    k.kv.put("counter", 0, TESTER)
    refused = []

    def count() -> None:
        for _ in range(25):
            while True:
                found = k.kv.find("counter", TESTER)
                assert found is not None
                try:
                    k.kv.put("counter", found.value + 1, TESTER, expected=found.version)
                    break
                except klerk.Conflict:
                    refused.append(1)

    for thread in [Spawned(count) for _ in range(8)]:
        thread.end(60)
    assert k.kv.get("counter", TESTER) == 200


def test_one_of_many_takes_a_lock(k: klerk.Klerk) -> None:
    taken = []
    start = threading.Barrier(8)

    def take(number: int) -> None:
        start.wait(20)
        with contextlib.suppress(klerk.Conflict):
            taken.append((number, k.kv.put("lock", number, TESTER, ttl=MINUTE, expected=0)))

    for thread in [Spawned(take, number) for number in range(8)]:
        thread.end()
    ((winner, version),) = taken
    found = k.kv.find("lock", TESTER)
    assert found is not None
    assert (found.value, found.version) == (winner, version)


# --- time to live -------------------------------------------------------------------------------------


def test_what_has_ended_is_not_there(k: klerk.Klerk, clock: Clock) -> None:
    version = k.kv.put("session", "ada", TESTER, ttl=MINUTE)
    k.kv.put("other", "bob", TESTER)
    found = k.kv.find("session", TESTER)
    assert found is not None
    assert found.expires_at == NOON + MINUTE
    clock.advance(MINUTE - timedelta(microseconds=1))
    assert k.kv.get("session", TESTER) == "ada"
    # Whether it was removed yet or not, nobody sees it.
    clock.advance(timedelta(microseconds=1))
    assert k.kv.get("session", TESTER) is None
    assert k.kv.find("session", TESTER) is None
    assert not k.kv.exists("session", TESTER)
    assert k.kv.keys("", TESTER).keys == ("other",)
    with pytest.raises(klerk.Conflict):
        k.kv.put("session", "bob", TESTER, expected=version)
    assert not k.kv.delete("session", TESTER)
    k.kv.put("session", "bob", TESTER, expected=0)
    assert k.kv.get("session", TESTER) == "bob"


def test_what_has_ended_is_removed_and_nothing_else(k: klerk.Klerk, clock: Clock) -> None:
    # More than one clean-up removes at once.
    for number in range(limits.SIDE_WRITES_GROUP_MAX * 2 + 50):
        k.kv.put(f"short {number}", number, TESTER, ttl=MINUTE)
    k.kv.put("short 0", 0, TESTER, ttl=3 * MINUTE)
    k.kv.put("short 1", 1, TESTER)
    k.kv.delete("short 2", TESTER)
    assert sum(row.startswith(b"x") for row in rows(k)) == limits.SIDE_WRITES_GROUP_MAX * 2 + 48
    clock.advance(2 * MINUTE)
    eventually(lambda: len(rows(k)) == 3)
    assert k.kv.keys("", TESTER).keys == ("short 0", "short 1")
    clock.advance(2 * MINUTE)
    eventually(lambda: rows(k) == [b"eshort 1"])


def test_times_to_live_go_on_over_a_restart(tmp_path: Path, clock: Clock) -> None:
    app = bank_with_keys
    with app().app.open(tmp_path / "store", clock=clock) as k:
        k.kv.put("soon", 1, TESTER, ttl=MINUTE)
        k.kv.put("later", 2, TESTER, ttl=5 * MINUTE)
        newest = k.kv.put("always", 3, TESTER)
        k.kv.delete("always", TESTER)
    clock.advance(2 * MINUTE)
    with app().app.open(tmp_path / "store", clock=clock) as k:
        assert k.kv.get("soon", TESTER) is None
        assert k.kv.get("later", TESTER) == 2
        assert k.kv.put("always", 3, TESTER) > newest
        clock.advance(timedelta(seconds=2))
        eventually(lambda: b"esoon" not in rows(k))
        clock.advance(4 * MINUTE)
        eventually(lambda: rows(k) == [b"ealways"])


# --- listing ------------------------------------------------------------------------------------------


def test_pages_show_each_key_once_in_order(k: klerk.Klerk) -> None:
    keys = sorted(f"item:{number}" for number in range(450))
    for key in [*keys, "item", "items", "other", "ü"]:
        k.kv.put(key, 0, TESTER)
    seen: list[str] = []
    after = None
    while True:
        page = k.kv.keys("item:", TESTER, limit=70, after=after)
        seen += page.keys
        after = page.after
        if after is None:
            break
        assert len(page.keys) == 70
    assert seen == keys
    assert k.kv.keys("", TESTER, limit=1_000).keys == (*sorted([*keys, "item", "items", "other"]), "ü")
    assert k.kv.keys("nothing", TESTER) == klerk.KeyPage(keys=(), after=None)
    assert k.kv.keys("item:", TESTER, limit=450).after is None
    for limit in (0, 1_001, True, "1"):
        with pytest.raises(klerk.ArgumentError, match="limit"):
            k.kv.keys("", TESTER, limit=limit)  # type: ignore[arg-type]


# --- authorization ------------------------------------------------------------------------------------


def ways_to_use(k: klerk.Klerk, key: str, context: Context) -> dict[str, list[Callable[[], Any]]]:
    async def gathered(make: Callable[[], Any]) -> Any:
        return await make()

    def aio(make: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: asyncio.run(gathered(make))

    return {
        "read": [
            lambda: k.kv.get(key, context),
            lambda: k.kv.find(key, context),
            lambda: k.kv.exists(key, context),
            aio(lambda: k.aio.kv.get(key, context)),
            aio(lambda: k.aio.kv.find(key, context)),
            aio(lambda: k.aio.kv.exists(key, context)),
        ],
        "write": [
            lambda: k.kv.put(key, 1, context),
            lambda: k.kv.put(key, 1, context, expected=99),
            aio(lambda: k.aio.kv.put(key, 1, context)),
        ],
        "delete": [lambda: k.kv.delete(key, context), aio(lambda: k.aio.kv.delete(key, context))],
        "list": [lambda: k.kv.keys(key, context), aio(lambda: k.aio.kv.keys(key, context))],
    }


def refusal(use: Callable[[], Any]) -> str:
    with pytest.raises(klerk.Denied) as caught:
        use()
    return str(caught.value)


def test_nothing_is_permitted_without_a_rule() -> None:
    with Bank().app.open() as k:
        system = Context(klerk.System("test"))
        k.kv.put("there", 1, system)
        for action, uses in ways_to_use(k, "there", ADA).items():
            absent = ways_to_use(k, "nope!", ADA)[action]
            for use, other in zip(uses, absent, strict=True):
                # Who is denied cannot tell whether the key exists.
                assert refusal(use).replace("there", "nope!") == refusal(other)
                assert f"user ada may not {action}" in refusal(use)
        assert k.kv.get("there", system) == 1


@pytest.mark.parametrize("action", ["read", "write", "delete", "list"])
def test_a_rule_about_one_action_permits_no_other(action: Any) -> None:
    bank = Bank()
    bank.app.allow.kv("mine:", action=action)(lambda a: a.action == action)
    with bank.app.open() as k:
        for each, uses in ways_to_use(k, "mine:1", ADA).items():
            for use in uses:
                if each != action:
                    refusal(use)
                else:
                    try:
                        use()
                    except klerk.Conflict:
                        assert action == "write"
        for uses in ways_to_use(k, "yours:1", ADA).values():
            for use in uses:
                refusal(use)


def test_rules_know_key_actor_and_models_and_deny_wins() -> None:
    bank = Bank()
    asked: list[tuple[str, str]] = []

    @bank.app.allow.kv("of:")
    def owners(a: Args) -> bool:
        asked.append((a.action, a.key))
        return a.read.exists(bank.by_owner(a.context.actor.id)) and a.key.startswith(
            f"of:{a.context.actor.id}"
        )

    @bank.app.deny.kv("of:ada:secret", "of:ada:hidden")
    def nobody(a: Args) -> bool:
        return True

    with bank.app.open() as k:
        refusal(lambda: k.kv.put("of:ada:a", 1, ADA))
        k.handle(bank.enter("ada"), TESTER)
        k.kv.put("of:ada:a", 1, ADA)
        assert asked == [("write", "of:ada:a")] * 2
        system = Context(klerk.System("test"))
        k.kv.put("of:ada:secret", 1, system)
        k.kv.put("of:ada:z", 1, system)
        refusal(lambda: k.kv.get("of:ada:secret", ADA))
        refusal(lambda: k.kv.get("of:ada:a", BOB))
        # Listing leaves out what may not be listed, in the cursors, too.
        assert k.kv.keys("of:ada:", ADA) == klerk.KeyPage(keys=("of:ada:a", "of:ada:z"), after=None)
        assert k.kv.keys("of:ada:", ADA, limit=1) == klerk.KeyPage(keys=("of:ada:a",), after="of:ada:a")
        assert asyncio.run(k.aio.kv.keys("of:ada:", ADA)).keys == ("of:ada:a", "of:ada:z")
        refusal(lambda: k.kv.keys("of:", ADA))
        refusal(lambda: k.kv.keys("", ADA))
        with k.read(TESTER):
            assert k.kv.get("of:ada:a", ADA) == 1


def test_a_rule_that_fails_permits_nothing() -> None:
    bank = Bank()
    bank.app.allow.kv("raise")(lambda a: 1 / 0 > 0)
    bank.app.allow.kv("odd")(lambda a: "yes")  # type: ignore[arg-type, return-value]
    with bank.app.open() as k:
        for key, told in (("raise", "ZeroDivisionError"), ("odd", "returned str")):
            with pytest.raises(klerk.FunctionFailed, match=told):
                k.kv.put(key, 1, ADA)


def test_the_description_of_a_design_says_who_may_use_which_key() -> None:
    app = Bank().app

    @app.allow.kv("session:", "cart:", action="read")
    @app.deny.blob()
    def nobody(a: Args) -> bool:
        return False

    lines = [line.split() for line in describe(app.freeze()).splitlines()]
    assert ["kv", "session:...,", "cart:...", "read", "if", "nobody"] in lines
    assert ["blob", "all", "every", "use", "not", "if", "nobody"] in lines


@pytest.mark.parametrize(
    ("declare", "code"),
    [
        (lambda app: app.allow.kv(""), "K060"),
        (lambda app: app.deny.blob("a", 7), "K060"),
        (lambda app: app.allow.kv("a", action="steal"), "K061"),
        (lambda app: app.allow.blob(action=("read",)), "K061"),
        (lambda app: (app.allow.kv()(lambda: True), app.open()), "K008"),
        (lambda app: (app.open().close(), app.allow.kv()), "K015"),
    ],
)
def test_wrong_rules_are_found_when_they_are_declared(declare: Any, code: str) -> None:
    with pytest.raises(klerk.ConfigError) as caught:
        declare(Bank().app)
    assert caught.value.code == code
    assert "test_keyvalue.py" in caught.value.where


# --- asyncio, failure, the end ------------------------------------------------------------------------


def test_asyncio_does_the_same(k: klerk.Klerk) -> None:
    async def main() -> None:
        kv = k.aio.kv
        versions = await asyncio.gather(*[kv.put(f"key{i}", i, TESTER, ttl=MINUTE) for i in range(300)])
        assert len(set(versions)) == 300
        with pytest.raises(klerk.Conflict):
            await kv.put("key1", 1, TESTER, expected=0)
        assert await kv.get("key7", TESTER) == 7
        assert await kv.get("nothing", TESTER, default="x") == "x"
        found = await kv.find("key7", TESTER)
        assert found is not None
        assert found.expires_at == NOON + MINUTE
        assert (await kv.keys("key", TESTER, limit=300)).after is None
        async with k.aio.read(TESTER):
            assert await kv.delete("key7", TESTER)
        assert not await kv.exists("key7", TESTER)
        assert not await kv.delete("key7", TESTER)

    asyncio.run(main())


def test_rules_and_blocks_may_not_use_key_values() -> None:
    bank = bank_with_keys()
    errors: list[Exception] = []
    opened: list[klerk.Klerk] = []

    @bank.rename.rule
    def look(a: Args, owner: str) -> bool:
        for use in (
            lambda: opened[0].kv.get("key", TESTER),
            lambda: opened[0].kv.put("key", 1, TESTER),
            lambda: opened[0].blobs.info("key", TESTER),
        ):
            try:
                use()
            except klerk.NotPure as error:
                errors.append(error)
        return True

    with bank.app.open() as k:
        opened.append(k)
        ada = k.handle(bank.enter("Ada"), TESTER).id
        k.handle(bank.rename(ada, "Bob"), TESTER)
        assert len(errors) == 3
        assert not k.kv.exists("key", TESTER)


def test_after_a_failure_nothing_is_written_and_reads_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_with_keys()
    k = bank.app.open()
    k.kv.put("key", 1, TESTER)

    def fail(*_: object) -> None:
        raise OSError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(k._storage, "_sync", fail)
        with pytest.raises(klerk.StoreFailed, match="on fire"):
            k.kv.put("key", 2, TESTER)
    for refused in (
        lambda: k.kv.put("key", 3, TESTER),
        lambda: k.kv.delete("key", TESTER),
        lambda: asyncio.run(k.aio.kv.put("key", 3, TESTER)),
        lambda: k.handle(bank.enter("Ada"), TESTER),
    ):
        with pytest.raises(klerk.StoreFailed, match="on fire"):
            refused()
    assert k.kv.get("key", TESTER) in (1, 2)
    assert k.kv.keys("", TESTER).keys == ("key",)
    k.close()


def test_what_is_closed_refuses_key_values(k: klerk.Klerk) -> None:
    k.kv.put("key", 1, TESTER)
    k.close()
    for uses in ways_to_use(k, "key", TESTER).values():
        for use in uses:
            with pytest.raises(klerk.Closed):
                use()


def test_closing_finishes_what_was_begun(tmp_path: Path) -> None:
    """Each of many threads that put until it is refused finds all it was told is stored."""
    k = bank_with_keys().app.open(tmp_path / "store")
    done = [0] * 6
    ready = threading.Barrier(7)

    def put(number: int) -> None:
        ready.wait(20)
        try:
            while True:
                k.kv.put(f"key {number}", done[number] + 1, TESTER)
                done[number] += 1
        except klerk.Closed:
            pass

    threads = [Spawned(put, number) for number in range(6)]
    ready.wait(20)
    eventually(lambda: min(done) > 3)
    k.close()
    for thread in threads:
        thread.end()
    with bank_with_keys().app.open(tmp_path / "store") as k:
        for number in range(6):
            assert k.kv.get(f"key {number}", TESTER) in (done[number], done[number] + 1)


def test_an_interrupt_leaves_the_store_in_order(
    k: klerk.Klerk, interrupt: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    sync = k._storage._sync
    monkeypatch.setattr(k._storage, "_sync", lambda: (go.wait(20), sync())[1])
    interrupt()
    with pytest.raises(Interrupted):
        k.kv.put("key", 1, TESTER)
    go.set()
    # What was begun is done all the same, and the store has not failed.
    k.kv.put("other", 2, TESTER)
    assert k.kv.get("key", TESTER) == 1


def test_killed_processes_keep_what_they_were_told(tmp_path: Path) -> None:
    body = """
import os
import klerk
from designs import Bank, TESTER
bank = Bank()
bank.app.allow.kv()(lambda a: True)
k = bank.app.open("store")
first = k.kv.get("count", TESTER, default=0)
print(first, flush=True)
for number in range(first + 1, first + 40):
    k.kv.put("count", number, TESTER)
os._exit(9)
"""
    for start in (0, 39, 78):
        ran = run_python("-c", body, cwd=tmp_path)
        assert (ran.returncode, ran.stderr, ran.stdout) == (9, "", f"{start}\n")


def test_copies_and_inspection_include_them(tmp_path: Path) -> None:
    with bank_with_keys().app.open(tmp_path / "store") as k:
        k.kv.put("key", "x" * 100, TESTER)
        k.kv.put("other", 1, TESTER, ttl=MINUTE)
        k.checkpoint(tmp_path / "copy")
        k.kv.put("later", 1, TESTER)
    with bank_with_keys().app.open(tmp_path / "copy") as k:
        assert k.kv.keys("", TESTER).keys == ("key", "other")
    assert "\nkey-values: 3, 104 bytes\nblobs: 0, 0 bytes" in describe_store(tmp_path / "store")
    shutil.rmtree(tmp_path / "copy")

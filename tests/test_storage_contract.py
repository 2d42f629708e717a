"""Every store keeps the same promises: one suite, run against each implementation.

A dictionary is the model. Batches, bounds and directions come from Hypothesis; failures are put in by hand,
where the store hands over to what it is built on.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klerk.errors import Closed, StorageError, StoreFailed
from klerk.storage import Family, MemoryStorage, RocksStorage, Storage

LOG, MODELS = Family.LOG, Family.MODELS

Opener = Callable[[], Storage]
Content = dict[tuple[int, bytes], bytes]


def opener(kind: str, directory: Path) -> Opener:
    """Open the same store again and again; the one in memory is new each time."""
    match kind:
        case "memory":
            return MemoryStorage
        case "rocks-sync":
            return lambda: RocksStorage.open(directory / "store", app="test", durability="sync")
        case _:
            return lambda: RocksStorage.open(directory / "store", app="test", durability="process")


KINDS = ["memory", "rocks-sync", "rocks-process"]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    opened = opener(request.param, tmp_path)()
    yield opened
    opened.close()


def rows(store: Storage, family: int = LOG) -> list[tuple[bytes, bytes]]:
    return list(store.scan(family))


# --- batches and scans --------------------------------------------------------------------------------

keys = st.binary(max_size=3) | st.integers(0, 300).map(lambda number: number.to_bytes(8, "big"))
families = st.sampled_from([LOG, MODELS, Family.META])
batches = st.lists(
    st.tuples(
        st.lists(st.tuples(families, keys, st.binary(max_size=20)), max_size=60),
        st.lists(st.tuples(families, keys), max_size=20),
        st.booleans(),  # whether the store is opened again afterwards
    ),
    max_size=6,
)
bounds = st.lists(st.tuples(keys, keys | st.none()), min_size=1, max_size=8)


@pytest.mark.parametrize("kind", KINDS[:2])
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches, bounds=bounds)
def test_batches_and_scans_agree_with_a_dictionary(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[tuple[list[tuple[int, bytes, bytes]], list[tuple[int, bytes]], bool]],
    bounds: list[tuple[bytes, bytes | None]],
) -> None:
    open_store = opener(kind, tmp_path_factory.mktemp("model"))
    store, model = open_store(), Content()
    for puts, deletes, reopen in batches:
        store.write(puts, deletes)
        for family, key in deletes:
            model.pop((family, key), None)
        model.update({(family, key): value for family, key, value in puts})
        if reopen and kind != "memory":
            store.close()
            store = open_store()
    for family, (start, stop) in itertools.product([LOG, MODELS, Family.META], [(b"", None), *bounds]):
        expected = sorted(
            (key, value)
            for (its_family, key), value in model.items()
            if its_family == family and start <= key and (stop is None or key < stop)
        )
        assert list(store.scan(family, start, stop)) == expected
        assert list(store.scan(family, start, stop, reverse=True)) == expected[::-1]
        assert store.get(family, start) == model.get((family, start))
    store.close()


def test_long_scans_are_complete_in_both_directions(store: Storage) -> None:
    # More rows than are fetched at once, several times over, and not a multiple of it.
    expected = [(number.to_bytes(8, "big"), b"%d" % number) for number in range(5_003)]
    store.write([(LOG, key, value) for key, value in expected], [])
    assert rows(store) == expected
    assert list(store.scan(LOG, reverse=True)) == expected[::-1]
    assert list(store.scan(LOG, expected[7][0], expected[4_000][0])) == expected[7:4_000]
    assert list(store.scan(LOG, expected[7][0], expected[4_000][0], reverse=True)) == expected[7:4_000][::-1]


def test_bounds_hold_when_nobody_else_keeps_them(store: Storage) -> None:
    """RocksDB's iterators only point to their bounds."""
    store.write([(LOG, b"k%03d" % number, b"") for number in range(500)], [])
    for stop in (499, 300, 1):
        scan = store.scan(LOG, b"k", b"k%03d" % stop)
        others = [b"k%03d" % number for number in range(500)]
        assert len(list(scan)) == stop < len(others)


def test_deletes_come_before_puts_and_the_last_put_wins(store: Storage) -> None:
    store.write([(LOG, b"gone", b"1"), (LOG, b"stays", b"1")], [])
    store.write(
        [(LOG, b"stays", b"2"), (LOG, b"stays", b"3")], [(LOG, b"stays"), (LOG, b"gone"), (LOG, b"?")]
    )
    assert rows(store) == [(b"stays", b"3")]


def test_a_scan_shows_the_moment_it_was_asked_for(store: Storage) -> None:
    store.write([(LOG, b"a", b"1"), (LOG, b"b", b"1")], [])
    scan = store.scan(LOG)
    store.write([(LOG, b"a", b"2"), (LOG, b"c", b"2")], [(LOG, b"b")])
    assert list(scan) == [(b"a", b"1"), (b"b", b"1")]
    assert rows(store) == [(b"a", b"2"), (b"c", b"2")]


def test_a_batch_that_cannot_be_stored_leaves_nothing(store: Storage) -> None:
    store.write([(LOG, b"before", b"")], [])
    with pytest.raises(StoreFailed):
        store.write([(LOG, b"first", b""), (LOG, b"second", "no bytes")], [(LOG, b"before")])  # type: ignore[list-item]
    assert rows(store) == [(b"before", b"")]


def test_sizes_and_counts_are_about_right(store: Storage) -> None:
    store.write([(MODELS, number.to_bytes(2, "big"), bytes(100)) for number in range(500)], [])
    assert store.size_bytes() >= 500 * 100
    assert 400 <= store.estimated_count(MODELS) <= 600
    assert store.estimated_count(LOG) == 0


def test_a_new_store_has_nothing_to_reach(store: Storage) -> None:
    assert store.witnessed() is None
    assert store.closed_cleanly
    assert not store.recovered_tail
    store.witness(7, b"digest")
    assert store.witnessed() is None


def test_writes_and_syncs_of_two_threads_go_together(store: Storage) -> None:
    written = threading.Semaphore(0)
    failures: list[BaseException] = []

    def sync_each() -> None:
        try:
            for _ in range(300):
                written.acquire()
                store.sync()
        except BaseException as error:
            failures.append(error)

    syncer = threading.Thread(target=sync_each)
    syncer.start()
    for number in range(300):
        store.write([(LOG, number.to_bytes(8, "big"), bytes(50))], [])
        written.release()
    syncer.join()
    assert not failures
    assert len(rows(store)) == 300


def test_batches_of_several_threads_stay_whole(store: Storage) -> None:
    """All write the same keys; whoever is last has written each of them."""
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(100):
                store.write([(LOG, b"%d" % key, b"%d" % number) for key in range(20)], [(LOG, b"?")])
                store.sync()
                store.write([(LOG, b"own %d" % number, b"")], [])
                # A scan shows one moment, so it never sees half of a batch.
                assert len({value for key, value in store.scan(LOG, b"0", b"o")}) == 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(rows(store)) == 24


# --- failing ------------------------------------------------------------------------------------------


def broken(error: BaseException) -> Callable[..., None]:
    def fail(*args: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("action", ["write", "sync"])
def test_the_first_failure_is_kept(store: Storage, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write([(LOG, b"kept", b"1")], [])
    cause = OSError("the disk is on fire")
    with monkeypatch.context() as patch:
        patch.setattr(store, f"_{action}", broken(cause))
        with pytest.raises(StoreFailed, match=f"the {action} failed: the disk is on fire") as caught:
            store.write([(LOG, b"lost", b"1")], []) if action == "write" else store.sync()
        assert caught.value.__cause__ is cause
        assert store.failed is caught.value
        patch.setattr(store, f"_{action}", broken(OSError("another fire")))
        for refused in (lambda: store.write([(LOG, b"x", b"")], []), store.sync):
            with pytest.raises(
                StoreFailed, match=r"refused since an earlier failure: .*the disk is on fire"
            ) as again:
                refused()
            assert again.value.__cause__ is cause
            assert again.value is not store.failed
    # The disk works again, and still nothing is written.
    with pytest.raises(StoreFailed):
        store.write([(LOG, b"late", b"1")], [])
    with pytest.raises(StoreFailed):
        store.sync()
    with pytest.raises(StoreFailed):
        store.checkpoint("nowhere")
    with pytest.raises(StoreFailed):
        store.compact(LOG, b"", b"\xff")
    assert rows(store) == [(b"kept", b"1")]
    assert store.get(LOG, b"kept") == b"1"


@pytest.mark.parametrize("action", ["write", "sync"])
def test_an_interrupt_latches_and_is_passed_on(
    store: Storage, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, f"_{action}", broken(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            store.write([], []) if action == "write" else store.sync()
    with pytest.raises(StoreFailed, match="KeyboardInterrupt"):
        store.write([(LOG, b"x", b"")], [])


def test_what_is_closed_refuses_everything(store: Storage, tmp_path: Path) -> None:
    store.write([(LOG, number.to_bytes(8, "big"), b"") for number in range(5_000)], [])
    store.close()
    store.close()
    for refused in (
        lambda: store.write([], []),
        store.sync,
        lambda: store.checkpoint(tmp_path / "copy"),
        lambda: store.compact(LOG, b"", b"\xff"),
        lambda: store.witness(1, b""),
        lambda: store.get(LOG, b""),
        lambda: list(store.scan(LOG)),
        store.size_bytes,
        lambda: store.estimated_count(LOG),
    ):
        with pytest.raises(Closed, match="the store is closed"):
            refused()
    assert store.failed is None


def test_a_store_in_memory_has_no_copy(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be copied"):
        MemoryStorage().checkpoint(tmp_path / "copy")


def test_compacting_changes_nothing_that_is_stored(store: Storage) -> None:
    store.write([(LOG, number.to_bytes(8, "big"), b"first") for number in range(3_000)], [])
    store.compact(LOG, b"", b"\xff")
    store.write([(LOG, (7).to_bytes(8, "big"), b"second")], [(LOG, (8).to_bytes(8, "big"))])
    before = rows(store)
    store.compact(LOG, (7).to_bytes(8, "big"), (9).to_bytes(8, "big"))
    assert rows(store) == before
    assert len(before) == 2_999


@pytest.mark.parametrize("settled", [False, True])
def test_what_was_overwritten_or_deleted_is_nowhere_after_compacting(tmp_path: Path, settled: bool) -> None:
    store = opener("rocks-sync", tmp_path)()
    key, other = (7).to_bytes(8, "big"), (9).to_bytes(8, "big")

    def files_with(text: bytes) -> list[Path]:
        return [file for file in tmp_path.rglob("*") if file.is_file() and text in file.read_bytes()]

    store.write([(LOG, key, b"OVERWRITTEN"), (MODELS, other, b"DELETED"), (LOG, other, b"KEPT")], [])
    if settled:
        # Both are in tables of the lowest level, which RocksDB leaves alone unless it is told otherwise.
        store.compact(LOG, b"", b"\xff")
        store.compact(MODELS, b"", b"\xff")
    store.sync()
    assert files_with(b"OVERWRITTEN")
    assert files_with(b"DELETED")
    store.write([(LOG, key, b"new")], [(MODELS, other)])
    store.compact(LOG, key, key + b"\0")
    store.compact(MODELS, other, other + b"\0")
    assert not files_with(b"OVERWRITTEN")
    assert not files_with(b"DELETED")
    assert files_with(b"KEPT")
    store.close()
    assert not files_with(b"OVERWRITTEN")
    assert not files_with(b"DELETED")
    again = opener("rocks-sync", tmp_path)()
    assert rows(again) == [(key, b"new"), (other, b"KEPT")]
    again.close()

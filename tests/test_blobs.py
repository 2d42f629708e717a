"""Blobs come back byte for byte, appear all at once or not at all, and leave nothing behind when they go.

Everything runs in memory and on disk, with time set by the tests. What is left in the store is looked up
in it, because nothing else shows it; damage is done there, too.
"""

import asyncio
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from designs import NOON, TESTER, Bank, Clock, Spawned, eventually, python_environment

import klerk
from klerk import Args, Context, User, limits
from klerk.inspection import describe_store
from klerk.storage import Family

CHUNK = limits.BLOB_CHUNK_BYTES
MINUTE = timedelta(minutes=1)
ADA = Context(User("ada"))


def bank_with_blobs() -> Bank:
    bank = Bank()
    bank.app.allow.blob()(lambda a: True)
    return bank


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "disk"])
def k(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[klerk.Klerk]:
    path = tmp_path / "store" if request.param == "disk" else None
    with bank_with_blobs().app.open(path, clock=clock) as opened:
        yield opened


def rows(k: klerk.Klerk) -> list[bytes]:
    """The rows of all blobs, but for the counter."""
    return [key for key, _ in k._storage.scan(Family.BLOBS) if key != b"n"]


def chunks(k: klerk.Klerk) -> int:
    return sum(key.startswith(b"c") for key in rows(k))


def content(k: klerk.Klerk, key: str) -> bytes:
    with k.blobs.open(key, TESTER) as blob:
        return blob.read()


# --- in and out ---------------------------------------------------------------------------------------

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 77]


@pytest.mark.parametrize("size", SIZES)
def test_a_blob_comes_back_from_every_source(k: klerk.Klerk, size: int, rng: random.Random) -> None:
    data = rng.randbytes(size)
    sources: list[Any] = [data, bytearray(data), memoryview(data), io.BytesIO(data), [data], [b"", data, b""]]
    sources.append(data[i : i + 50_000] for i in range(0, size, 50_000))
    for number, source in enumerate(sources):
        info = k.blobs.put(f"blob {number}", source, TESTER, content_type="image/png")
        assert info == klerk.BlobInfo(
            key=f"blob {number}",
            size=size,
            sha256=hashlib.sha256(data).hexdigest(),
            content_type="image/png",
            created_at=NOON,
            expires_at=None,
        )
        assert k.blobs.info(f"blob {number}", TESTER) == info
        with k.blobs.open(f"blob {number}", TESTER) as blob:
            assert blob.info == info
            assert blob.read() == data
            assert blob.read() == blob.read(10) == b""


def test_a_reader_is_a_binary_file(k: klerk.Klerk, tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(3 * CHUNK + 100)
    k.blobs.put("blob", data, TESTER)
    expected = io.BytesIO(data)
    with k.blobs.open("blob", TESTER) as blob:
        for _ in range(300):
            match rng.randrange(4):
                case 0:
                    place = rng.randrange(len(data) + 1_000)
                    assert blob.seek(place) == expected.seek(place)
                case 1:
                    assert blob.seek(-100, io.SEEK_END) == expected.seek(-100, io.SEEK_END)
                case 2:
                    buffer, other = bytearray(200), bytearray(200)
                    assert blob.readinto(buffer) == expected.readinto(other)
                    assert buffer == other
                case _:
                    count = rng.choice([0, 1, 1_000, CHUNK, 2 * CHUNK])
                    assert blob.read(count) == expected.read(count)
            assert blob.tell() == expected.tell()
        with pytest.raises(ValueError, match="cannot seek"):
            blob.seek(-1)
        blob.seek(0)
        with open(tmp_path / "copy", "wb") as file:
            shutil.copyfileobj(blob, file)
        assert (tmp_path / "copy").read_bytes() == data
        blob.seek(5)
        assert b"".join(blob) == data[5:]
        assert (blob.readable(), blob.writable(), blob.seekable()) == (True, False, True)
    for use in (blob.read, blob.tell, lambda: blob.seek(0), lambda: next(blob), lambda: iter(blob)):
        with pytest.raises(ValueError, match="closed"):
            use()
    with io.BufferedReader(k.blobs.open("blob", TESTER)) as buffered:
        assert buffered.peek(1)[:1] == data[:1]
        assert buffered.read() == data


def test_streaming_keeps_no_more_than_a_few_chunks(tmp_path: Path) -> None:
    piece = os.urandom(1_000_000)
    size = 60 * len(piece)
    with bank_with_blobs().app.open(tmp_path / "store", durability="process") as k:
        k.blobs.put("warm", piece, TESTER)
        tracemalloc.start()
        try:
            k.blobs.put("blob", (piece for _ in range(60)), TESTER)
            with k.blobs.open("blob", TESTER) as blob:
                assert sum(map(len, blob)) == size
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4_000_000


def test_keys_come_in_pages(k: klerk.Klerk) -> None:
    for number in range(5):
        k.blobs.put(f"of:ada:{number}", b"x", TESTER)
    page = k.blobs.keys("of:", TESTER, limit=3)
    assert page.keys == ("of:ada:0", "of:ada:1", "of:ada:2")
    assert k.blobs.keys("of:", TESTER, limit=3, after=page.after) == klerk.KeyPage(
        keys=("of:ada:3", "of:ada:4"), after=None
    )


# --- what is refused ----------------------------------------------------------------------------------


def failing_source() -> Iterator[bytes]:
    yield bytes(2 * CHUNK)
    raise ZeroDivisionError


class Nonblocking(io.RawIOBase):
    def read(self, size: int = -1) -> None:  # type: ignore[override]
        return None


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        (failing_source, {}, ZeroDivisionError),
        (lambda: "text", {}, klerk.ArgumentError),
        (lambda: io.StringIO("text"), {}, klerk.ArgumentError),
        (lambda: [bytes(2 * CHUNK), "text"], {}, klerk.ArgumentError),
        (lambda: 7, {}, klerk.ArgumentError),
        (lambda: [7], {}, klerk.ArgumentError),
        (Nonblocking, {}, klerk.ArgumentError),
        (lambda: bytes(2 * CHUNK + 1), {"size_max": 2 * CHUNK}, klerk.LimitExceeded),
        (lambda: [bytes(CHUNK)] * 3, {"size_max": 2 * CHUNK}, klerk.LimitExceeded),
        (lambda: b"x", {"size_max": -1}, klerk.ArgumentError),
        (lambda: b"x", {"ttl": timedelta(0)}, klerk.ArgumentError),
        (lambda: b"x", {"content_type": "a\r\nb"}, klerk.ArgumentError),
        (lambda: b"x", {"content_type": "x" * 256}, klerk.ArgumentError),
        (lambda: b"x", {"content_type": None}, klerk.ArgumentError),
    ],
)
def test_what_cannot_be_a_blob_leaves_nothing(
    k: klerk.Klerk, source: Callable[[], Any], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        k.blobs.put("blob", source(), TESTER, **options)
    with pytest.raises(error):
        asyncio.run(k.aio.blobs.put("blob", source(), TESTER, **options))
    assert k.blobs.info("blob", TESTER) is None
    eventually(lambda: rows(k) == [])
    # And what was there before stays.
    k.blobs.put("blob", b"before", TESTER)
    with pytest.raises(error):
        k.blobs.put("blob", source(), TESTER, **options)
    assert content(k, "blob") == b"before"


def test_what_is_not_there_is_not_found(k: klerk.Klerk) -> None:
    with pytest.raises(klerk.NotFound, match="'blob'"):
        k.blobs.open("blob", TESTER)
    assert k.blobs.info("blob", TESTER) is None
    assert k.blobs.delete("blob", TESTER) is False
    for key in ("", 7, b"x", "\ud800", "x" * 1025):
        with pytest.raises((klerk.ArgumentError, klerk.LimitExceeded)):
            k.blobs.put(key, b"", TESTER)  # type: ignore[arg-type]


# --- while others read --------------------------------------------------------------------------------


def replace_it(k: klerk.Klerk, clock: Clock) -> None:
    k.blobs.put("blob", b"new", TESTER)


def delete_it(k: klerk.Klerk, clock: Clock) -> None:
    assert k.blobs.delete("blob", TESTER)


def let_it_end(k: klerk.Klerk, clock: Clock) -> None:
    clock.advance(2 * MINUTE)
    eventually(lambda: b"eblob" not in rows(k))


@pytest.mark.parametrize("go", [replace_it, delete_it, let_it_end])
def test_who_reads_a_blob_reads_it_to_its_end(
    k: klerk.Klerk, clock: Clock, go: Callable[[klerk.Klerk, Clock], None], rng: random.Random
) -> None:
    # More chunks than are removed in one go.
    data = rng.randbytes(CHUNK) * (limits.SIDE_WRITES_GROUP_MAX + 20)
    k.blobs.put("blob", data, TESTER, ttl=MINUTE)
    first, second = k.blobs.open("blob", TESTER), k.blobs.open("blob", TESTER)
    assert first.read(10) == data[:10]
    go(k, clock)
    k.blobs.put("other", b"x", TESTER)
    assert first.read() == data[10:]
    first.close()
    assert second.read() == data
    # Nobody closes the second one: it is only forgotten.
    del second
    new = go is replace_it
    eventually(lambda: chunks(k) == (2 if new else 1))
    eventually(lambda: not any(row.startswith(b"u") for row in rows(k)))
    assert (k.blobs.info("blob", TESTER) is not None) == new


def test_readers_and_writers_of_one_key_see_whole_blobs(k: klerk.Klerk) -> None:
    stop = threading.Event()

    def fill(number: int) -> bytes:
        return bytes([number]) * (CHUNK + number)

    k.blobs.put("blob", fill(0), TESTER)

    def write(number: int) -> None:
        while not stop.is_set():
            k.blobs.put("blob", fill(number), TESTER)

    def read() -> set[int]:
        seen = set()
        while not stop.is_set():
            data = content(k, "blob")
            assert data == fill(data[0])
            seen.add(data[0])
        return seen

    writers = [Spawned(write, number) for number in (1, 2, 3)]
    readers = [Spawned(read) for _ in range(3)]
    threading.Event().wait(1)
    stop.set()
    for thread in writers:
        thread.end()
    assert len(set().union(*[thread.end() for thread in readers])) > 1
    eventually(lambda: chunks(k) == 2)


# --- time to live -------------------------------------------------------------------------------------


def test_what_has_ended_is_gone_with_its_chunks(k: klerk.Klerk, clock: Clock) -> None:
    info = k.blobs.put("blob", bytes(3 * CHUNK), TESTER, ttl=MINUTE)
    assert info.expires_at == NOON + MINUTE
    k.blobs.put("other", b"x", TESTER)
    clock.advance(MINUTE)
    assert k.blobs.info("blob", TESTER) is None
    with pytest.raises(klerk.NotFound):
        k.blobs.open("blob", TESTER)
    assert k.blobs.keys("", TESTER).keys == ("other",)
    clock.advance(timedelta(seconds=2))
    eventually(lambda: len(rows(k)) == 2)


def test_what_ends_while_nobody_is_there_is_removed_later(tmp_path: Path, clock: Clock) -> None:
    with bank_with_blobs().app.open(tmp_path / "store", clock=clock) as k:
        k.blobs.put("blob", bytes(3 * CHUNK), TESTER, ttl=MINUTE)
        k.blobs.put("other", b"x", TESTER, ttl=10 * MINUTE)
    clock.advance(5 * MINUTE)
    with bank_with_blobs().app.open(tmp_path / "store", clock=clock) as k:
        assert k.blobs.keys("", TESTER).keys == ("other",)
        clock.advance(timedelta(seconds=2))
        eventually(lambda: chunks(k) == 1)
        assert content(k, "other") == b"x"


# --- authorization ------------------------------------------------------------------------------------


def test_nothing_is_permitted_without_a_rule() -> None:
    bank = Bank()
    asked: list[tuple[str, str]] = []

    @bank.app.allow.blob("public:", action="read")
    @bank.app.allow.blob("of:")
    def known(a: Args) -> bool:
        asked.append((a.action, a.key))
        return a.key.startswith("public:") or a.key == f"of:{a.context.actor.id}"

    # Rules about key-values say nothing about blobs.
    bank.app.allow.kv()(lambda a: True)
    with bank.app.open() as k:
        system = Context(klerk.System("test"))
        k.blobs.put("public:1", b"x", system)
        k.blobs.put("private", b"x", system)
        assert k.blobs.open("public:1", ADA).read() == b"x"
        assert k.blobs.put("of:ada", b"y", ADA).size == 1
        assert asked == [("read", "public:1"), ("write", "of:ada")]

        async def enter(key: str) -> None:
            async with k.aio.blobs.open(key, ADA):
                pass

        for key in ("private", "nowhere", "of:bob"):
            for use in (
                lambda key=key: k.blobs.open(key, ADA),
                lambda key=key: k.blobs.info(key, ADA),
                lambda key=key: k.blobs.put(key, b"", ADA),
                lambda key=key: k.blobs.delete(key, ADA),
                lambda key=key: k.blobs.keys(key, ADA),
                lambda key=key: asyncio.run(enter(key)),
                lambda key=key: asyncio.run(k.aio.blobs.info(key, ADA)),
                lambda key=key: asyncio.run(k.aio.blobs.put(key, b"", ADA)),
                lambda key=key: asyncio.run(k.aio.blobs.delete(key, ADA)),
                lambda key=key: asyncio.run(k.aio.blobs.keys(key, ADA)),
            ):
                with pytest.raises(klerk.Denied, match=f"user ada may not .* the blob key '{key}'"):
                    use()
        with pytest.raises(klerk.Denied):
            k.blobs.delete("public:1", ADA)


def test_a_source_is_not_touched_before_the_rules_were_asked() -> None:
    source = io.BytesIO(b"data")
    with Bank().app.open() as k, pytest.raises(klerk.Denied):
        k.blobs.put("blob", source, ADA)
    assert source.tell() == 0


# --- asyncio ------------------------------------------------------------------------------------------


def test_asyncio_streams_both_ways(k: klerk.Klerk, rng: random.Random) -> None:
    data = rng.randbytes(3 * CHUNK + 5)

    async def source(step: int) -> AsyncIterator[bytes]:
        for i in range(0, len(data), step):
            yield data[i : i + step]

    async def main() -> None:
        blobs = k.aio.blobs
        for step in (10_000, 500_000):
            info = await blobs.put("blob", source(step), TESTER, content_type="a/b", ttl=MINUTE)
            assert info.sha256 == hashlib.sha256(data).hexdigest()
            assert await blobs.info("blob", TESTER) == info
        await blobs.put("file", io.BytesIO(data), TESTER)
        async with blobs.open("blob", TESTER) as b:
            assert b.info == info
            assert b"".join([chunk async for chunk in b]) == data
            assert await b.read(7) == b""
            assert b.seek(-9, io.SEEK_END) == len(data) - 9 == b.tell()
            assert await b.read(5) + await b.read() == data[-9:]
        assert (await blobs.keys("", TESTER)).keys == ("blob", "file")
        assert await blobs.delete("file", TESTER)
        assert not await blobs.delete("file", TESTER)
        with pytest.raises(klerk.NotFound):
            async with blobs.open("file", TESTER):
                pass
        with pytest.raises(klerk.Closed, match="not open"):
            await blobs.open("blob", TESTER).read()

    asyncio.run(main())
    eventually(lambda: chunks(k) == 4)


def test_a_cancelled_task_leaves_no_blob(k: klerk.Klerk) -> None:
    async def main() -> None:
        reached = asyncio.Event()

        async def source() -> AsyncIterator[bytes]:
            yield bytes(3 * CHUNK)
            reached.set()
            await asyncio.sleep(60)

        task = asyncio.create_task(k.aio.blobs.put("blob", source(), TESTER))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # A thread that still reads a source for a cancelled task stores nothing more.
        endless = (bytes(CHUNK) for _ in range(10**9))
        task = asyncio.create_task(k.aio.blobs.put("blob", endless, TESTER, size_max=10**12))
        await asyncio.to_thread(eventually, lambda: chunks(k) > 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert k.blobs.info("blob", TESTER) is None
    eventually(lambda: rows(k) == [])


# --- damage, failures, the end ------------------------------------------------------------------------


def damage(k: klerk.Klerk, index: int, make: Callable[[bytes], bytes | None]) -> None:
    keys = [key for key in rows(k) if key.startswith(b"c")]
    stored = k._storage.get(Family.BLOBS, keys[index])
    assert stored is not None
    made = make(stored)
    if made is None:
        k._storage.write([], [(Family.BLOBS, keys[index])])
    else:
        k._storage.write([(Family.BLOBS, keys[index], made)], [])


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda chunk: chunk[:-1] + bytes([chunk[-1] ^ 1]), "SHA-256"),
        (lambda chunk: chunk[:-1], "chunk"),
        (lambda chunk: chunk + b"x", "chunk"),
        (lambda chunk: None, "missing"),
    ],
)
def test_damage_is_found(
    k: klerk.Klerk, index: int, make: Callable[[bytes], bytes | None], told: str
) -> None:
    k.blobs.put("blob", bytes(2 * CHUNK + 100), TESTER)
    damage(k, index, make)
    with k.blobs.open("blob", TESTER) as blob, pytest.raises(klerk.Corrupted, match=told):
        blob.read()
    with k.blobs.open("blob", TESTER) as blob, pytest.raises(klerk.Corrupted, match=told):
        list(iter(lambda: blob.read(1_000), b""))
    # Moving about does not get around it, once everything was read.
    with k.blobs.open("blob", TESTER) as blob, pytest.raises(klerk.Corrupted, match=told):
        list(iter(lambda: (blob.read(1_000), blob.seek(-3, io.SEEK_CUR), blob.read(3))[0], b""))


def test_a_damaged_manifest_is_named(k: klerk.Klerk) -> None:
    k.blobs.put("blob", b"x", TESTER)
    k._storage.write([(Family.BLOBS, b"eblob", bytes(16) + b"\xc1")], [])
    for use in (lambda: k.blobs.open("blob", TESTER), lambda: k.blobs.info("blob", TESTER)):
        with pytest.raises(klerk.Corrupted, match="manifest"):
            use()


def test_after_a_failure_nothing_is_written_and_reads_go_on(
    k: klerk.Klerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(3 * CHUNK)
    k.blobs.put("blob", data, TESTER)
    failing = threading.Event()
    write = k._storage._write

    def fail(puts: Any, deletes: Any) -> None:
        if failing.is_set():
            raise OSError("the disk is on fire")
        write(puts, deletes)

    def source() -> Iterator[bytes]:
        yield bytes(2 * CHUNK)
        failing.set()
        yield bytes(CHUNK)

    with monkeypatch.context() as patch:
        patch.setattr(k._storage, "_write", fail)
        with pytest.raises(klerk.StoreFailed, match="on fire"):
            k.blobs.put("blob", source(), TESTER)
    for refused in (lambda: k.blobs.put("new", b"", TESTER), lambda: k.blobs.delete("blob", TESTER)):
        with pytest.raises(klerk.StoreFailed, match="on fire"):
            refused()
    assert content(k, "blob") == data


def test_closing_ends_streams(tmp_path: Path) -> None:
    k = bank_with_blobs().app.open(tmp_path / "store")
    data = bytes(5 * CHUNK)
    k.blobs.put("blob", data, TESTER)
    flowing = threading.Event()

    def source() -> Iterator[bytes]:
        while True:
            yield bytes(CHUNK)
            flowing.set()

    upload = Spawned(lambda: k.blobs.put("endless", source(), TESTER, size_max=10**12))
    reader = k.blobs.open("blob", TESTER)
    assert reader.read(10)
    assert flowing.wait(20)
    k.close()
    with pytest.raises(klerk.Closed):
        upload.end()
    with pytest.raises(klerk.Closed):
        reader.read()
    reader.close()
    for use in (
        lambda: k.blobs.put("blob", b"", TESTER),
        lambda: k.blobs.open("blob", TESTER),
        lambda: k.blobs.info("blob", TESTER),
        lambda: k.blobs.delete("blob", TESTER),
        lambda: k.blobs.keys("", TESTER),
    ):
        with pytest.raises(klerk.Closed):
            use()
    with bank_with_blobs().app.open(tmp_path / "store") as again:
        assert again.blobs.keys("", TESTER).keys == ("blob",)
        assert content(again, "blob") == data
        eventually(lambda: chunks(again) == 5)


KILLED = """
import os, sys
import klerk
from designs import Bank, TESTER
bank = Bank()
bank.app.allow.blob()(lambda a: True)
k = bank.app.open("store")
def source():
    for number in range(10**9):
        yield bytes([number % 251]) * 100_000
        if number == 400:
            print("flowing", flush=True)
k.blobs.put("whole", b"x" * 300_000, TESTER)
k.blobs.put("part", source(), TESTER, size_max=10**12)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_a_killed_process_leaves_no_half_of_a_blob(tmp_path: Path) -> None:
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED], cwd=tmp_path, env=python_environment(), stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"flowing\n"
            process.send_signal(signal.SIGKILL)
    with bank_with_blobs().app.open(tmp_path / "store") as k:
        # The number of what was left behind, more than is removed in one go, is not used for something else.
        k.blobs.put("new", bytes(3 * CHUNK), TESTER)
        assert k.blobs.keys("", TESTER).keys == ("new", "whole")
        eventually(lambda: len(rows(k)) == 2 + 3 + 3)
        # A blob takes one for its chunks and one for its entry, a killed upload one for its chunks.
        numbers = {int.from_bytes(row[1:9], "big") for row in rows(k) if row.startswith(b"c")}
        assert numbers == {4, 7}
        assert content(k, "new") == bytes(3 * CHUNK)
        assert content(k, "whole") == b"x" * 300_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    body = """
import os, warnings
import klerk
from designs import Bank, TESTER
warnings.simplefilter("ignore")
bank = Bank()
bank.app.allow.blob()(lambda a: True)
bank.app.allow.kv()(lambda a: True)
for path in (None, "store"):
    k = bank.app.open(path)
    k.blobs.put("blob", b"x" * 300_000, TESTER)
    k.kv.put("key", 1, TESTER)
    reader = k.blobs.open("blob", TESTER)
    child = os.fork()
    if not child:
        uses = [
            lambda: k.kv.put("key", 2, TESTER), lambda: k.kv.get("key", TESTER),
            lambda: k.kv.keys("", TESTER), lambda: k.blobs.put("blob", b"", TESTER),
            lambda: k.blobs.open("blob", TESTER),
        ]
        for number, use in enumerate(uses):
            try:
                use()
            except klerk.Closed:
                pass
            else:
                os._exit(100 + number)
        reader.close()
        k.close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
    assert reader.read() == b"x" * 300_000
    reader.close()
    k.kv.put("key", 3, TESTER)
    k.close()
"""
    ran = subprocess.run(
        [sys.executable, "-c", body],
        cwd=tmp_path,
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0\n0\n", "")


def test_copies_and_inspection_include_them(tmp_path: Path) -> None:
    data = bytes(3 * CHUNK + 1)
    with bank_with_blobs().app.open(tmp_path / "store") as k:
        k.blobs.put("blob", data, TESTER)
        k.checkpoint(tmp_path / "copy")
        k.blobs.put("empty", b"", TESTER)
    with bank_with_blobs().app.open(tmp_path / "copy") as k:
        assert k.blobs.keys("", TESTER).keys == ("blob",)
        assert content(k, "blob") == data
    assert f"\nblobs: 2, {len(data):,} bytes" in describe_store(tmp_path / "store")

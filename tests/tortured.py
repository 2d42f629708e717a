"""A process that does everything at once until it is killed, and what must be in its store afterwards.

`python -m tortured STORE VERSION SEED` goes on for ever; what it was told that it did stands in a ledger
beside the store, one line for each, and so does each run of a job. `verify` compares both with the store.
The design has as many migrations as its version says; each adds one to `generation` of all items.
"""

import os
import random
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from designs import TESTER, permit_everything

import klerk
from klerk import App, Args, Context, JobRun, Migration, Model, Ref, Token, User
from klerk.audit.commit_log import transactions
from klerk.inspection import verified_store
from klerk.job_manager.job_rows import PLACE
from klerk.storage import Family

THREADS = 4
SECRET = "unspeakable-"
CLOCK_BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
BLOB_PIECE = 90_000


class Item(Model):
    key: str
    text: str
    generation: int
    count: int = 0
    due: datetime | None = None
    parent: Ref["Item"] | None = None
    fired: tuple[datetime, ...] = ()


class Shop:
    """Items that become late at a time of their own, which a job tells to the mailbox."""

    def __init__(self, version: int, mailbox: Path) -> None:
        self.app = app = App("tortured")
        self.items = items = app.machine(Item)
        self.open, self.late = items.states("open", "late")
        self.by_key = items.index(lambda item: item.key, unique=True)
        self.by_count = items.index(lambda item: item.count)
        permit_everything(app)
        for subject in (app.allow.log(), app.allow.erasure(), app.allow.kv(), app.allow.blob()):
            subject(lambda a: True)
        for number in range(1, version + 1):
            app.migration(number)(_grow)

        @items.create(into=self.open)
        def enter(a: Args, key: str, text: str, due: datetime | None, parent: Ref[Item] | None) -> Item:
            return Item(key=key, text=text, generation=version, due=due, parent=parent)

        @items.event(self.open, self.late)
        def add(a: Args[Item], by: int) -> Item:
            return a.model.replace(count=a.model.count + by)

        @items.event(self.open, self.late)
        def rename(a: Args[Item], text: str) -> Item:
            return a.model.replace(text=text)

        @items.event(self.open, self.late)
        def put_off(a: Args[Item], due: datetime) -> Item:
            return a.model.replace(due=due)

        @items.event(self.open, self.late)
        def move(a: Args[Item], to: Ref[Item], by: int) -> Item:
            return a.model.replace(count=a.model.count - by)

        @items.event(self.open, self.late)
        def remove(a: Args[Item]) -> None: ...

        self.late.on(put_off).to(self.open)
        for state in (self.open, self.late):
            state.on(move).commands(lambda a, to, by: add(to, by))
            state.on(remove).delete()

        @app.job(max_attempts=100)
        def tell(job: JobRun, item: Ref[Item], due: datetime) -> None:
            _append(mailbox, f"{item} {due.isoformat()}")

        @app.job(cron="* * * * *")
        def tick(job: JobRun) -> None:
            _append(mailbox, "tick")

        self.open.at(lambda a: a.model.due).to(self.late)
        self.late.on_enter.update(lambda a: a.model.replace(fired=(*a.model.fired, a.model.due)))
        self.late.on_enter.job(lambda a: tell(a.model.meta.id, a.model.due))
        self.enter, self.add, self.rename, self.put_off = enter, add, rename, put_off
        self.move, self.remove = move, remove


def _grow(m: Migration) -> None:
    m.transform("Item", lambda fields: {**fields, "generation": fields["generation"] + 1})


def _append(path: Path, line: str) -> None:
    """Add a line that the death of this process cannot take back."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


class FastClock:
    """A clock that goes on by ten milliseconds each time it is looked at, also after a kill."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        stored = path.read_text() if path.exists() else ""
        self._now = datetime.fromisoformat(stored) if stored else CLOCK_BEGIN
        self._kept = self._now

    def __call__(self) -> datetime:
        with self._lock:
            self._now += timedelta(milliseconds=10)
            if self._now >= self._kept:
                # Ahead of time: never earlier after a kill.
                self._kept = self._now + timedelta(seconds=10)
                new = self._path.with_suffix(".new")
                new.write_text(self._kept.isoformat())
                os.replace(new, self._path)
            return self._now


class Files:
    """The store and what is beside it."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.ledger, self.mailbox, self.clock = (
            store.with_name(f"{store.name}.{name}") for name in ("ledger", "mailbox", "clock")
        )


class Worker:
    """One thread that does one random thing after the other, each under the name of an actor of its own."""

    def __init__(self, shop: Shop, k: klerk.Klerk, files: Files, clock: FastClock, name: str, seed: int):
        self.shop, self.k, self.files, self.clock, self.name = shop, k, files, clock, name
        self.rng = random.Random(f"{seed} {name}")
        self.count = 0
        self.secrets: list[tuple[int, str]] = []
        own = (self.create, self.create, self.change, self.change, self.several, self.generate, self.once)
        self.deeds: tuple[Callable[[], None], ...] = (
            *own,
            *own,
            self.pipeline,
            self.repair,
            self.keep,
            self.store_blob,
            self.erase,
            self.look,
        )

    def run(self) -> None:
        while True:
            with suppress(klerk.NotFound, klerk.WrongState, klerk.Conflict, klerk.BrokenReference):
                self.rng.choice(self.deeds)()

    def context(self) -> Context:
        self.count += 1
        return Context(User(f"{self.name}.{self.count}"), now=self.clock())

    def done(self, context: Context, sequence: int) -> None:
        _append(self.files.ledger, f"done {context.actor.id} {sequence}")

    def any_id(self) -> int:
        return self.rng.randint(1, max(1, self.k.sequence // 3))

    def command(self) -> Any:
        shop, by = self.shop, self.rng.randrange(5)
        return self.rng.choice(
            (
                lambda: shop.add(self.any_id(), by),
                lambda: shop.add(self.any_id(), by),
                lambda: shop.move(self.any_id(), self.any_id(), by),
                lambda: shop.rename(self.any_id(), f"text {self.count}"),
                lambda: shop.put_off(self.any_id(), self.soon()),
                lambda: shop.remove(self.any_id()),
            )
        )()

    def soon(self) -> datetime:
        return self.clock() + timedelta(milliseconds=self.rng.randrange(2000))

    def entering(self, text: str = "text") -> Any:
        parent = self.any_id() if self.rng.random() < 0.1 else None
        due = self.soon() if self.rng.random() < 0.5 else None
        self.count += 1
        return self.shop.enter(f"{self.name}.{self.count}", text, due, parent)

    def create(self) -> None:
        secret = f"{SECRET}{self.name}.{self.count}." if self.rng.random() < 0.1 else ""
        context = self.context()
        result = self.k.handle(self.entering(secret or "plain"), context)
        self.done(context, result.sequence)
        if secret:
            self.secrets.append((int(result.id), secret))

    def change(self) -> None:
        context = self.context()
        self.done(context, self.k.handle(self.command(), context).sequence)

    def several(self) -> None:
        context = self.context()
        commands = [self.entering(), *(self.command() for _ in range(self.rng.randrange(3)))]
        self.done(context, self.k.handle_all(commands, context)[0].sequence)

    def generate(self) -> None:
        def steps(a: Args) -> Iterator[Any]:
            result = yield self.entering()
            yield self.shop.add(result.id, 7)
            yield self.command()

        context = self.context()
        self.done(context, self.k.handle_all(steps, context)[0].sequence)

    def once(self) -> None:
        context = self.context()
        token, command = Token.derived(context.actor.id), self.entering()
        result = self.k.handle(command, context, token=token)
        self.done(context, result.sequence)
        again = self.k.handle(command, context, token=token)
        assert (again.repeated, again.sequence) == (True, result.sequence)
        due, parent = command.values[2:]
        _append(
            self.files.ledger,
            f"token {context.actor.id} {result.sequence} {command.values[0]}"
            f" {due.isoformat() if due else '-'} {parent or '-'}",
        )

    def pipeline(self) -> None:
        contexts = [self.context() for _ in range(20)]
        waiting = [self.k.submit(self.command(), context) for context in contexts]
        for context, submission in zip(contexts, waiting, strict=True):
            with suppress(klerk.NotFound, klerk.WrongState, klerk.Conflict, klerk.BrokenReference):
                self.done(context, submission.result().sequence)

    def repair(self) -> None:
        context = self.context()
        with self.k.read(TESTER) as r:
            model = r.get(self.any_id())
        changed = model.replace(count=model.count + 1)
        self.done(context, self.k.unsafe.update(model.meta.id, changed, context).sequence)

    def keep(self) -> None:
        key = f"{self.name}.{self.rng.randrange(3)}"
        _append(self.files.ledger, f"kv? {key} {self.count}")
        self.k.kv.put(key, self.count, TESTER)
        _append(self.files.ledger, f"kv {key} {self.count}")
        self.k.kv.put(f"gone.{self.name}.{self.count}", 1, TESTER, ttl=timedelta(milliseconds=1))
        self.count += 1

    def store_blob(self) -> None:
        key = f"{self.name}.{self.rng.randrange(2)}"
        _append(self.files.ledger, f"blob? {key} {self.count}")
        self.k.blobs.put(key, blob(self.count), TESTER)
        _append(self.files.ledger, f"blob {key} {self.count}")
        self.count += 1

    def erase(self) -> None:
        if not self.secrets or self.rng.random() < 0.7:
            return
        id, secret = self.secrets.pop(self.rng.randrange(len(self.secrets)))
        command = self.shop.remove(id) if self.rng.random() < 0.5 else self.shop.rename(id, "nothing")
        with suppress(klerk.NotFound, klerk.Conflict):
            self.k.handle(command, TESTER)
        with self.k.read(TESTER) as r:
            try:
                if r.get(id).text == secret:
                    return
            except klerk.NotFound:
                pass
        self.k.erase(id, TESTER)
        _append(self.files.ledger, f"erased {id} {secret}")

    def look(self) -> None:
        with self.k.snapshot(TESTER) as snapshot, self.k.read(TESTER) as r:
            assert len(r.query(self.shop.items, sort="count", limit=20).items) <= 20
            before = [model.meta.id for model in snapshot.query(self.shop.items, limit=20).items]
        self.k.log(TESTER, limit=5)
        if before:
            self.k.history(before[0], TESTER)
        with self.k.changes(TESTER, since=max(0, self.k.sequence - 10), catch_up=True) as changes:
            changes.take(0)


def blob(number: int) -> bytes:
    """Return bytes that say which blob they are; some take several chunks."""
    return f"{number:08}".encode() * (1 + number % 4 * (BLOB_PIECE // 8))


def work(files: Files, version: int, seed: int) -> None:
    clock = FastClock(files.clock)
    shop = Shop(version, files.mailbox)
    k = shop.app.open(files.store, clock=clock, unsafe=True, token_ttl=timedelta(days=30))
    run = f"r{seed}"
    threads = [
        threading.Thread(target=Worker(shop, k, files, clock, f"{run}.{i}", seed).run, daemon=True)
        for i in range(THREADS)
    ]
    threading.excepthook = lambda arguments: (sys.__excepthook__(*arguments[:3]), os._exit(70))
    print("opened", flush=True)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- what must be in the store afterwards -------------------------------------------------------------


class Ledger:
    """What the worker was told."""

    def __init__(self, files: Files) -> None:
        self.sequences: dict[str, int] = {}
        self.tokens: dict[str, list[str]] = {}
        self.secrets: dict[str, int] = {}
        self.kept: dict[str, dict[str, tuple[int, int]]] = {"kv": {}, "blob": {}}
        lines = files.ledger.read_text().splitlines() if files.ledger.exists() else []
        for line in lines:
            kind, *rest = line.split()
            if kind == "done":
                self.sequences[rest[0]] = int(rest[1])
            elif kind == "token":
                self.tokens[rest[0]] = rest[1:]
            elif kind == "erased":
                self.secrets[rest[1]] = int(rest[0])
            else:
                known = self.kept[kind.rstrip("?")]
                sure, _ = known.get(rest[0], (-1, -1))
                number = int(rest[1])
                known[rest[0]] = (sure, number) if kind.endswith("?") else (number, number)


def verify(files: Files, version: int, *, jobs: bool = False) -> Counter[str]:
    """Open the store as it was left, compare all that is in it; return how much was looked at."""
    ledger, clock = Ledger(files), FastClock(files.clock)
    shop = Shop(version, files.mailbox)
    counts: Counter[str] = Counter()
    with shop.app.open(files.store, clock=clock, job_threads=4 if jobs else 0, unsafe=True) as k:
        k.timers.wait_until_idle(60)
        _verify_tokens(shop, k, ledger, counts)
        _verify_kept(k, ledger, counts)
        if jobs:
            told = set()
            assert k.jobs.wait_until_idle(60)
            for model in _models(shop, k).values():
                told.update(f"{model.meta.id} {due.isoformat()}" for due in model.fired)
            missing = told - set(files.mailbox.read_text().splitlines())
            assert not missing, f"jobs that did not run: {missing}"
        k.timers.wait_until_idle(60)
        k._engine.checkpointer.write()
        _verify_log(shop, k, ledger, version, counts)
        _verify_reads(shop, k, counts)
    _verify_erased(files, ledger, counts)
    verified_store(files.store)
    return counts


def _models(shop: Shop, k: klerk.Klerk) -> dict[int, Item]:
    with k.read(TESTER) as r:
        return {int(model.meta.id): model for model in r.list(shop.items)}


def _verify_log(shop: Shop, k: klerk.Klerk, ledger: Ledger, version: int, counts: Counter[str]) -> None:
    """Every acknowledged command is in the log once, and what the log says is what there is."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    images: dict[int, bytes] = {}
    unknown: set[int] = set()
    jobs: dict[int, bytes] = {}
    expected = 1
    for each in transactions(k._storage):
        assert each.head.sequence == expected, f"{expected} is missing"
        expected += 1
        if each.head.actor[0] == "user":
            found[each.head.actor[1]].append(each.head.sequence)
        if each.payload is None:
            unknown.update(id for _, id, _ in each.head.targets)
            continue
        for id, image in each.payload.images:
            images[id] = image
            unknown.discard(id)
        for id in each.payload.deleted:
            images.pop(id, None)
            unknown.discard(id)
        jobs.update(each.payload.jobs)
    for actor, sequence in ledger.sequences.items():
        assert found[actor] == [sequence], f"{actor} was acknowledged as {sequence}, found {found[actor]}"
    stored = {int.from_bytes(key, "big"): image for key, image in k._storage.scan(Family.MODELS)}
    models = _models(shop, k)
    assert stored.keys() == models.keys()
    for id in (stored.keys() ^ images.keys()) - unknown:
        raise AssertionError(f"the log and the models differ about {id}")
    for id in stored.keys() & images.keys():
        assert models[id].generation == version, models[id]
        if version == 0:
            assert id in unknown or stored[id] == images[id], f"{id} is stored otherwise than in the log"
    for id, model in models.items():
        assert len(set(model.fired)) == len(model.fired), f"{id} fired twice: {model.fired}"
        assert list(model.fired) == sorted(model.fired), f"{id} fired out of order: {model.fired}"
        versions = k.history(model.meta.id, TESTER, limit=3)
        assert versions, f"{id} has no history"
    for id in random.Random(expected).sample(sorted(models), min(20, len(models))):
        shown = k.as_of(models[id].meta.id, k.sequence, TESTER)
        assert shown == models[id], (shown, models[id])
    stored_jobs = [
        int.from_bytes(key[-8:], "big")
        for key, _ in k._storage.scan(Family.JOBS)
        if not key.startswith(PLACE)
    ]
    assert len(set(stored_jobs)) == len(stored_jobs), "a job is stored twice"
    assert jobs.keys() <= set(stored_jobs), f"the jobs {jobs.keys() - set(stored_jobs)} are lost"
    counts.update(commands=len(ledger.sequences), models=len(models), jobs=len(jobs), erased=len(unknown))


def _verify_reads(shop: Shop, k: klerk.Klerk, counts: Counter[str]) -> None:
    """Views, indexes and orders are what one finds by looking at every model."""
    models = _models(shop, k)
    with k.read(TESTER) as r:
        for state in (shop.open, shop.late):
            expected = sorted(id for id, model in models.items() if model.meta.state == state)
            assert sorted(int(model.meta.id) for model in r.list(state)) == expected
        for id, model in models.items():
            same = r.find(shop.by_key, model.key)
            assert same is not None
            assert int(same.meta.id) == id
        by_count = Counter(model.count for model in models.values())
        for number, expected_count in by_count.items():
            assert len(r.list(shop.by_count(number))) == expected_count
    last = 0
    with k.changes(TESTER, since=0, catch_up=True) as changes:
        for change in iter(lambda: changes.take(0), None):
            assert change.sequence >= last
            last = change.sequence
            counts["changes"] += 1


def _verify_tokens(shop: Shop, k: klerk.Klerk, ledger: Ledger, counts: Counter[str]) -> None:
    for actor, (sequence, key, due, parent) in ledger.tokens.items():
        moment = None if due == "-" else datetime.fromisoformat(due)
        command = shop.enter(key, "text", moment, None if parent == "-" else int(parent))
        result = k.handle(command, Context(User(actor)), token=Token.derived(actor))
        assert (result.repeated, result.sequence) == (True, int(sequence)), (
            f"the token of {actor} took effect again"
        )
        counts["tokens"] += 1


def _verify_kept(k: klerk.Klerk, ledger: Ledger, counts: Counter[str]) -> None:
    for key, (sure, last) in ledger.kept["kv"].items():
        value = k.kv.get(key, TESTER)
        assert value in (sure, last) or (sure == -1 and value is None), (key, value, sure, last)
    for key, (sure, last) in ledger.kept["blob"].items():
        if sure == -1 and k.blobs.info(key, TESTER) is None:
            continue
        with k.blobs.open(key, TESTER) as reader:
            content = reader.read()
        assert content in (blob(sure), blob(last)), f"blob {key} is neither {sure} nor {last}"
        counts["blobs"] += 1
    assert len(set(k.kv.keys("r", TESTER, limit=1000).keys)) == len(k.kv.keys("r", TESTER, limit=1000).keys)


def _verify_erased(files: Files, ledger: Ledger, counts: Counter[str]) -> None:
    contents = [file.read_bytes() for file in files.store.rglob("*") if file.is_file()]
    for secret in ledger.secrets:
        assert not any(secret.encode() in content for content in contents), f"{secret} was erased"
        counts["secrets"] += 1


if __name__ == "__main__":
    work(Files(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))

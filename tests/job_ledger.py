"""A process that creates and runs jobs of every sort until it is killed, and what must be true of them.

`python -m job_ledger` is told on its standard input where to work and for how long. It forks a child for each
run, which is killed with SIGKILL in the middle of its work, or runs to the end and compares the store with
the ledger: a file outside of the store, to which each start and end of a job, and each acknowledged command,
is appended and synced.
"""

import asyncio
import logging
import os
import random
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from designs import TESTER, permit_everything

from klerk import (
    App,
    Args,
    Backoff,
    Cancel,
    Completion,
    Context,
    Denied,
    Discard,
    JobRecord,
    JobRun,
    JobState,
    Klerk,
    Model,
    Ref,
    Rejected,
    Snooze,
    User,
)

IN_FLIGHT = 20
KINDS = ("ship", "steps", "mail", "once", "flaky", "doomed", "later", "keyed", "sleepy", "leave")
STRANGER = Context(User("stranger"))
VERIFY_S = 60.0
CRASHES_MAX = 3


class Ledger:
    """Lines of words, each on the disk before `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, *words: object) -> None:
        """Append a line."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())
        os.fsync(self._file)


class Order(Model):
    number: int
    kind: str
    count: int = 0


class Office:
    """Orders, each of which makes one job of a kind that it names."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.app = app = App("ledger")
        self.orders = orders = app.machine(Order)
        self.placed, self.shipped = orders.states("placed", "shipped", final=("shipped",))
        self.by_number = orders.index(lambda order: order.number, unique=True)
        self.busy: set[int] = set()
        permit_everything(app)

        @app.deny.command()
        def strangers_may_not(a: Args) -> bool:
            return a.context.actor.id == STRANGER.actor.id

        @orders.create(into=self.placed)
        def place(a: Args, number: int, kind: str) -> Order:
            return Order(number=number, kind=kind)

        @place.rule
        def is_a_number(a: Args, number: int, kind: str) -> bool:
            return number >= 0

        @orders.event(self.placed)
        def add(a: Args[Order], amount: int) -> Order:
            return a.model.replace(count=a.model.count + amount)

        @orders.event(self.placed, to=self.shipped)
        def mark_shipped(a: Args[Order]) -> None: ...

        self.place, self.add, self.mark_shipped = place, add, mark_shipped
        self._declare_jobs()
        self._declare_outcomes()
        self.placed.on_enter.job(self._request)

    def _request(self, a: Args[Order]) -> Any:
        number, kind = a.model.number, a.model.kind
        request = self.jobs[kind](a.model.meta.id, number)
        return request.at(a.now + timedelta(milliseconds=number % 300)) if kind == "later" else request

    def _declare_jobs(self) -> None:
        app, ledger = self.app, self.ledger

        @app.job()
        def ship(job: JobRun, order: Ref[Order], number: int) -> Completion:
            ledger.write("start", "ship", number, job.attempt)
            ledger.write("end", "ship", number)
            return job.complete_with(self.mark_shipped(order))

        @app.job(queue="steps")
        def steps(job: JobRun, order: Ref[Order], number: int) -> None:
            ledger.write("start", "steps", number, job.attempt)
            job.handle(self.add(order, 1))
            job.handle(self.add(order, 10))
            job.handle(self.add(order, 1))
            ledger.write("end", "steps", number)

        @app.job(priority=3)
        async def mail(job: JobRun, order: Ref[Order], number: int) -> None:
            ledger.write("start", "mail", number, job.attempt)
            await job.handle_async(self.add(order, 1))
            await asyncio.sleep(0.001)
            ledger.write("end", "mail", number)

        @app.job(at_most_once=True)
        def once(job: JobRun, order: Ref[Order], number: int) -> None:
            ledger.write("start", "once", number, job.attempt)
            ledger.write("end", "once", number)

        @app.job(key=lambda order, number: number % 3, key_concurrency=1, concurrency=2)
        def keyed(job: JobRun, order: Ref[Order], number: int) -> None:
            key = number % 3
            if key in self.busy:
                ledger.write("violation", "two jobs with key", key)
            self.busy.add(key)
            ledger.write("start", "keyed", number, job.attempt)
            self.busy.discard(key)
            ledger.write("end", "keyed", number)

        @app.job()
        def later(job: JobRun, order: Ref[Order], number: int) -> None:
            if time.time_ns() // 1_000 < job.record.run_at_us:
                ledger.write("violation", "too early", number)
            ledger.write("start", "later", number, job.attempt)
            ledger.write("end", "later", number)

        self.jobs = {each.name: each for each in (ship, steps, mail, once, keyed, later)}

    def _declare_outcomes(self) -> None:
        app, ledger = self.app, self.ledger
        soon = Backoff(base=timedelta(milliseconds=1), longest=timedelta(milliseconds=2))

        @app.job(retry=soon)
        def flaky(job: JobRun, order: Ref[Order], number: int) -> None:
            ledger.write("start", "flaky", number, job.attempt)
            if job.attempt == 1:
                raise RuntimeError("the first time it fails")
            ledger.write("end", "flaky", number)

        @app.job(max_attempts=2, retry=soon)
        def doomed(job: JobRun, order: Ref[Order], number: int) -> None:
            ledger.write("start", "doomed", number, job.attempt)
            raise RuntimeError("it always fails")

        @app.job(queue="steps")
        def sleepy(job: JobRun, order: Ref[Order], number: int) -> Snooze | None:
            ledger.write("start", "sleepy", number, job.attempt)
            if time.time_ns() // 1_000 < job.record.created_us + 20_000:
                return Snooze(timedelta(milliseconds=20))
            ledger.write("end", "sleepy", number)
            return None

        @app.job()
        async def leave(job: JobRun, order: Ref[Order], number: int) -> Cancel | Discard:
            ledger.write("start", "leave", number, job.attempt)
            return Cancel("not needed") if number % 2 else Discard("of no use")

        self.jobs |= {each.name: each for each in (flaky, doomed, sleepy, leave)}


def work(store: Path, ledger_path: Path, seed: int, ready: int) -> None:
    """Create and run jobs for ever."""
    rng, ledger = random.Random(seed), Ledger(ledger_path)
    office = Office(ledger)
    with office.app.open(store) as k:
        os.write(ready, b"!")
        number = seed * 1_000_000
        while True:
            acknowledged = []
            for _ in range(rng.randrange(IN_FLIGHT)):
                number += 1
                acknowledged.append((number, k.submit(office.place(number, rng.choice(KINDS)), TESTER)))
            number += 1
            leave_nothing(k, office, ledger, number, rng)
            for placed, submission in acknowledged:
                ledger.write("acknowledged", placed, submission.result().jobs[0].id)


def leave_nothing(k: Klerk, office: Office, ledger: Ledger, number: int, rng: random.Random) -> None:
    """Issue a command that is refused, denied, or only tried: no job may come of it."""
    ledger.write("never", number)
    kind = rng.choice(KINDS)
    how = rng.randrange(4)
    try:
        if how == 0:
            k.handle(office.place(number, kind), STRANGER)
        elif how == 1:
            k.handle_all([office.place(number, kind), office.place(-1, kind)], TESTER)
        elif how == 2:
            k.check(office.place(number, kind), TESTER)
        else:
            k.handle_all([office.place(number, kind)], TESTER, dry_run=True)
    except (Denied, Rejected):
        return


class Found:
    """What the ledger says."""

    def __init__(self, path: Path) -> None:
        self.starts: Counter[tuple[str, int]] = Counter()
        self.ends: Counter[tuple[str, int]] = Counter()
        self.acknowledged: dict[int, int] = {}
        self.never: set[int] = set()
        self.violations: list[str] = []
        for line in path.read_text().splitlines():
            match line.split():
                case ["start", kind, number, _]:
                    self.starts[kind, int(number)] += 1
                case ["end", kind, number]:
                    self.ends[kind, int(number)] += 1
                case ["acknowledged", number, job_id]:
                    self.acknowledged[int(number)] = int(job_id)
                case ["never", number]:
                    self.never.add(int(number))
                case _:
                    self.violations.append(line)


def verify(store: Path, ledger_path: Path) -> None:
    """Let all jobs end, and compare the store with the ledger."""
    office = Office(Ledger(ledger_path))
    with office.app.open(store) as k:
        until = time.monotonic() + VERIFY_S
        while waiting := {s: n for s, n in k.jobs.counts().items() if n and s not in ENDED}:
            assert time.monotonic() < until, f"jobs do not end: {waiting}; {k.jobs.live()[:3]}"
            time.sleep(0.01)
        found = Found(ledger_path)
        problems = list(contradictions(k, office, found))
    assert not problems, "\n".join(problems[:20])
    kinds = Counter(kind for kind, _ in found.starts)
    print(f"verified {len(found.acknowledged)} commands, {sum(found.starts.values())} starts, {dict(kinds)}")


ENDED = frozenset({JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED})


def contradictions(k: Klerk, office: Office, found: Found) -> Iterator[str]:
    """Yield each way in which store and ledger contradict each other, or what was promised."""
    yield from found.violations
    with k.read(TESTER) as r:
        orders = {order.number: order for order in r.list(office.orders)}
    for number in found.never:
        if number in orders:
            yield f"the refused command {number} created an order"
    for (kind, number), starts in found.starts.items():
        if number not in orders:
            yield f"the job {kind} of {number} started {starts} times, and there is no such command"
        if kind == "once" and starts > 1:
            yield f"the job of {number}, which starts at most once, started {starts} times"
    for number, job_id in found.acknowledged.items():
        if number not in orders:
            yield f"the acknowledged command {number} is gone"
            continue
        record = k.jobs.get(job_id)
        yield from (f"{number} ({record.kind}): {what}" for what in _of_job(record, orders[number], found))


_AMOUNTS = {"steps": 12, "mail": 1}
_ENDS = {"doomed": {JobState.DISCARDED}, "leave": {JobState.CANCELLED, JobState.DISCARDED}}


def _of_job(record: JobRecord, order: Order, found: Found) -> Iterator[str]:
    """Yield what is wrong with the job of an acknowledged command."""
    kind, where = record.kind, (record.kind, order.number)
    if kind != order.kind:
        yield f"its job is one of {order.kind}"
    if kind == "once" and record.state is JobState.DISCARDED:
        if not record.outcome_unknown:
            yield f"it was discarded: {record.error}"
        return
    if record.state is JobState.DISCARDED and record.error.startswith("poison"):
        # It ran, or was about to, each time that the process was killed, and is visibly given up.
        if record.crashes < CRASHES_MAX:
            yield f"it is taken for poison after {record.crashes} crashes"
        return
    expected = _ENDS.get(kind, {JobState.COMPLETED})
    if record.state not in expected:
        yield f"it is {record.state}: {record.error}"
    if not found.starts[where]:
        yield "it never started"
    if expected == {JobState.COMPLETED} and not found.ends[where]:
        yield "it never came to its end"
    if order.count != _AMOUNTS.get(kind, 0):
        yield f"its commands took effect as {order.count} instead of {_AMOUNTS.get(kind, 0)}"
    if kind == "ship" and order.meta.state.name != "shipped":
        yield f"its last command had no effect: {order.meta.state}"


def main() -> None:
    """Fork a child for each line of the standard input: STORE LEDGER SEED SECONDS, or verify STORE LEDGER."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Failing jobs are part of this.
    logging.getLogger("klerk").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        words = line.split()
        readable, writable = os.pipe()
        child = os.fork()
        if not child:
            os.close(readable)
            _exit_with(words, writable)
        os.close(writable)
        if words[0] != "verify":
            # Some are killed while they open the store, too.
            select.select([readable], [], [], 0.05 if float(words[3]) < 0.02 else 30)
            time.sleep(float(words[3]))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(readable)
        print(f"status {status}", flush=True)


def _exit_with(words: list[str], ready: int) -> None:
    """Do in the child what was asked for, and end it."""
    try:
        if words[0] == "verify":
            verify(Path(words[1]), Path(words[2]))
        else:
            work(Path(words[0]), Path(words[1]), int(words[2]), ready)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

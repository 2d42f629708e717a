"""What tests of subscriptions share: taking what is there, and histories with snapshots to compare with."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from designs import TESTER, Bank

import klerk
from klerk import Change, Klerk


def one_by_one(commands: list[Any]) -> Callable[[], Iterator[Any]]:
    def generator() -> Iterator[Any]:
        for command in commands:
            result = yield command
            assert result.sequence == 0

    return generator


def told_now(changes: klerk.Changes[Any]) -> list[Change[Any]]:
    """Everything that can be told without waiting."""
    return list(iter(lambda: changes.take(0), None))


def brief(changes: list[Change[Any]]) -> list[tuple[int, str, int]]:
    return [(change.sequence, str(change.kind), change.ref) for change in changes]


Snapshot = dict[int, Any]


class History:
    """Random transactions on a bank, with a snapshot of all accounts after each."""

    def __init__(self, bank: Bank, k: Klerk, rng: random.Random) -> None:
        self.bank, self.k, self.rng = bank, k, rng
        self.snapshots: dict[int, Snapshot] = {k.sequence: self.snapshot()}
        self.names = 0

    def snapshot(self) -> Snapshot:
        with self.k.read(TESTER) as r:
            return {m.meta.id: m for m in r.list(self.bank.accounts)}

    def command(self) -> Any:
        bank, rng = self.bank, self.rng
        ids = [*self.snapshot(), 999_999]
        self.names += 1
        first, second = rng.choice(ids), rng.choice(ids)
        return rng.choice(
            [
                lambda: bank.enter(f"n{self.names}", rng.randrange(3)),
                lambda: bank.enter(f"n{self.names}", rng.randrange(3)),
                lambda: bank.deposit(first, rng.randrange(3)),
                lambda: bank.transfer(first, second, rng.randrange(2)),
                lambda: bank.rename(first, f"n{self.names}"),
                lambda: bank.close(first),
                lambda: bank.reopen(first),
                lambda: bank.remove(first),
            ]
        )()

    def go_on(self, count: int) -> None:
        """Try so many transactions; what is refused leaves nothing behind."""
        for _ in range(count):
            commands = [self.command() for _ in range(self.rng.choice([1, 1, 1, 2, 5]))]
            try:
                if len(commands) == 1:
                    sequence = self.k.handle(commands[0], TESTER).sequence
                elif self.rng.random() < 0.5:
                    sequence = self.k.handle_all(commands, TESTER)[0].sequence
                else:
                    sequence = self.k.handle_all(lambda given=commands: (yield from given), TESTER)[
                        0
                    ].sequence
            except klerk.KlerkError:
                continue
            self.snapshots[sequence] = self.snapshot()

    def expected(self, belongs: Callable[[Any], bool], since: int) -> list[Any]:
        """What is to be told of the models that belong to something: (sequence, kind, ref, after, before)."""
        found = []
        before: Snapshot = {}
        for sequence, after in sorted(self.snapshots.items()):
            for ref in sorted(before.keys() | after.keys()):
                kind = kind_of(before.get(ref), after.get(ref), belongs)
                if kind and sequence > since:
                    found.append((sequence, kind, ref, after.get(ref), before.get(ref)))
            before = after
        return found


def kind_of(before: Any, after: Any, belongs: Callable[[Any], bool]) -> str:
    was, now = before is not None and belongs(before), after is not None and belongs(after)
    if before is not None and after is not None and before.meta == after.meta:
        return ""
    if was and now:
        return "updated" if before.meta.state is after.meta.state else "transitioned"
    if now:
        return "entered" if before is not None else "created"
    return "" if not was else "left" if after is not None else "deleted"


def plain(told: list[Change[Any]]) -> list[Any]:
    """Changes as `History.expected` gives them; those of one transaction by reference."""
    found = [(c.sequence, str(c.kind), c.ref, c.model, c.before) for c in told]
    return sorted(found, key=lambda each: (each[0], each[2]))

"""The deposit: the one workload that Klerk, the floors and the peers all do.

1,000 accounts; a teller deposits an amount into one of them. One allow rule (tellers deposit), one check of
the amount, one rule that sees model and amount (no account above its limit), one update of a balance, one
audit entry. Accounts are taken from a fixed pseudo-random sequence, so a group may touch one twice.
"""

from collections.abc import Iterator
from itertools import cycle
from random import Random
from typing import Final

ACCOUNTS: Final = 1_000
AMOUNT: Final = 5
AMOUNT_MAX: Final = 100_000
BALANCE_MAX: Final = 10**15
ACTOR: Final = "desk"
ROLE: Final = "teller"

DESCRIPTION: Final = f"deposit: allow rule, parameter rule, update of a balance, audit; {ACCOUNTS:,} accounts"
DURABLE: Final = "sync (survives power loss)"

_TARGETS = 10_000
_SEED = 1


def owner(number: int) -> str:
    """The name of an account's owner."""
    return f"Owner of account {number}"


def targets() -> Iterator[int]:
    """Account numbers from 0, without end: the same sequence for every contender."""
    return cycle(Random(_SEED).choices(range(ACCOUNTS), k=_TARGETS))

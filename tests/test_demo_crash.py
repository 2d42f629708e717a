"""Killing the demo anywhere loses nothing: at least 50 kills (SIGKILL, from outside), and a look after each.

Every kill hits a process that has commands in flight and jobs running, at a random number of acknowledged
commands and a random time after that; some hit it while it still opens the store. After each one the store is
opened and compared with the data: what was acknowledged is there, what is there is a whole beginning of the
stream, every event's job exists, and no job that had completed has run again (see `klerk.demo.crash`). The
same store is killed again and again until all flights are in, then the next one begins.
"""

import gzip
import random
from pathlib import Path

import pytest

from klerk.demo.crash import Ordeal
from klerk.demo.data import JANUARY, load

KILLS_MIN = 50

# The last day of January is the worst: 85 of its 928 flights were cancelled, and every fifth was late. So
# many of its flights are about 1,900 commands.
FLIGHTS = 650

# How many commands are acknowledged between two kills, in the middle.
EVENTS_BETWEEN_KILLS = 100


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_fifty_kills_lose_nothing(tmp_path: Path, rng: random.Random) -> None:
    with gzip.open(JANUARY, "rt", encoding="utf-8") as file:
        header, *lines = file
    last_day = [line for line in lines if line.startswith("2013,1,31,")]
    flights = tmp_path / "flights.csv"
    flights.write_text(header + "".join(last_day[-FLIGHTS:]), encoding="utf-8")
    data = load(flights)
    kills = stores = 0
    while kills < KILLS_MIN:
        ordeal = Ordeal(tmp_path / f"store-{stores}", data)
        stores += 1
        while ordeal.done < len(ordeal.stream):
            run = ordeal.run(
                kill_after=rng.randrange(0, 2 * EVENTS_BETWEEN_KILLS), delay_seconds=rng.uniform(0, 0.01)
            )
            findings = ordeal.verify()
            assert findings.problems == (), f"after {kills} kills, in store {stores}"
            kills += run.was_killed
        ordeal.run()
        findings = ordeal.verify()
        assert findings.problems == ()
        assert findings.completed == findings.jobs > 0


def test_a_worker_that_fails_by_itself_is_no_kill(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    store.write_text("not a store", encoding="utf-8")
    with pytest.raises(RuntimeError, match="exit code 1"):
        Ordeal(store, load(days=1), days=1).run()
    assert "NotAStore" in capfd.readouterr().err


def test_the_proof_finds_what_is_wrong(tmp_path: Path) -> None:
    """The proof of the other test can fail: each kind of damage is reported."""
    flights = tmp_path / "flights.csv"
    with gzip.open(JANUARY, "rt", encoding="utf-8") as file:
        header, *lines = file
    cancelled = [line for line in lines if line.startswith("2013,1,31,") and not line.split(",")[9]][:5]
    flights.write_text(header + "".join(lines[:5] + cancelled), encoding="utf-8")
    ordeal = Ordeal(tmp_path / "store", load(flights))
    ordeal.run()
    assert ordeal.verify().problems == ()

    ordeal.done += 1
    assert ordeal.verify().problems[0].endswith("was in the store and is lost")

    mail = ordeal.mailbox.read_text(encoding="utf-8").splitlines()
    assert len(mail) == len(cancelled)
    ordeal.mailbox.write_text("\n".join([*mail, mail[0]]) + "\n", encoding="utf-8")
    assert ordeal.verify().problems == (f"a job had completed and ran again: {mail[0]}",)
    ordeal.mailbox.unlink()
    assert any("no job ran" in problem for problem in ordeal.verify().problems)

    shorter = tmp_path / "shorter.csv"
    shorter.write_text(header + "".join(lines[:5] + cancelled[:-1]), encoding="utf-8")
    other = Ordeal(tmp_path / "store", load(shorter))
    assert any("no event accounts for" in problem for problem in other.verify().problems)
    assert any("jobs must have been" in problem for problem in other.verify().problems)

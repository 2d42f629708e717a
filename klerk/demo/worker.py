"""The process that gets killed: `python -m klerk.demo.worker STORE FLIGHTS DAYS`.

It goes on with the replay where the store says that it stopped, and writes the number of each event to
standard output as soon as its command is acknowledged: 4 bytes, the lowest first. What it wrote is not lost.
"""

import os
import sys
from pathlib import Path

from klerk.demo import design
from klerk.demo.data import load
from klerk.demo.replay import Clock, Replay, wait_for_jobs

NUMBER_BYTES = 4


def main(store: Path, flights: Path, days: int | None) -> int:
    """Replay what is left, and return 0 when all of it and all jobs are done."""
    # Whatever else is printed in this process goes to standard error.
    acknowledgements = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def acknowledged(number: int) -> None:
        os.write(acknowledgements, number.to_bytes(NUMBER_BYTES, "little"))

    data = load(flights, days=days)
    clock = Clock()
    with design.app.open(store, clock=clock) as k:
        replay = Replay(k, clock, data, acknowledged=acknowledged)
        replay.send(replay.prepare())
        replay.finish()
        wait_for_jobs(k)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) or None))

"""`python -m benches`: runs the benchmarks, prints a table and writes build/bench.json."""

import argparse
import sys
import tempfile
from pathlib import Path

from benches import machine, report, suite
from benches.harness import FULL, QUICK, Outcome, run

BUILD = Path(__file__).resolve().parent.parent / "build"


def main() -> int:
    """Runs what the command line asks for; 0 when every benchmark ran."""
    arguments = _parse_arguments()
    effort, models = (QUICK, suite.MODELS_QUICK) if arguments.quick else (FULL, suite.MODELS_FULL)
    chosen = suite.benchmarks(models)
    if arguments.only:
        unknown = sorted(set(arguments.only) - {benchmark.name for benchmark in chosen})
        if unknown:
            print(f"No such benchmark: {', '.join(unknown)}. There are:", file=sys.stderr)
            print("\n".join(f"  {benchmark.name}" for benchmark in chosen), file=sys.stderr)
            return 2
        chosen = [benchmark for benchmark in chosen if benchmark.name in arguments.only]
    arguments.directory.mkdir(parents=True, exist_ok=True)
    if machine.file_system(arguments.directory) in machine.IN_MEMORY_FILE_SYSTEMS:
        print(
            f"{arguments.directory} is in memory: durable figures need a disk (see --directory).",
            file=sys.stderr,
        )
        return 2
    progress = report.Progress(len(chosen))
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.directory) as directory:
        description = machine.describe(Path(directory))
        for benchmark in chosen:
            progress.start(benchmark.name)
            outcomes.append(run(benchmark, effort, Path(directory), progress.announce))
    progress.finish()
    report.print_table(description, outcomes)
    report.write_json(arguments.json, description, outcomes)
    print(f"\nWritten to {arguments.json}")
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="short samples, few rounds: under a minute, rough figures"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these benchmarks")
    parser.add_argument(
        "--directory", type=Path, default=BUILD, help="where the stores go: on a disk, not in memory"
    )
    parser.add_argument(
        "--json", type=Path, default=BUILD / "bench.json", help="where the report for programs goes"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

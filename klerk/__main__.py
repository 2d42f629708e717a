"""The command line: ``python -m klerk``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from klerk import __version__
from klerk.demo import command as demo
from klerk.errors import KlerkError
from klerk.explain import EXPLANATIONS
from klerk.inspection import describe_store


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m klerk",
        description="Klerk: an in-process framework in place of a database and business logic.",
    )
    parser.add_argument("--version", action="version", version=f"klerk {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo_parser = commands.add_parser("demo", help="replay real flights through durable commands")
    demo.add_arguments(demo_parser)
    explain = commands.add_parser("explain", help="say what the code of a configuration error means")
    explain.add_argument("code", nargs="?", help="as in K012; without one, all codes are listed")
    inspect = commands.add_parser("inspect", help="say what a store holds, and verify its commit log")
    inspect.add_argument("path", type=Path, help="of the store, a directory")
    return parser


def _explain(code: str | None) -> int:
    if code is None:
        for known, text in EXPLANATIONS.items():
            print(f"{known}  {text.splitlines()[0]}")
        return 0
    if code.upper() not in EXPLANATIONS:
        print(f"There is no code {code}. The codes are {', '.join(EXPLANATIONS)}.", file=sys.stderr)
        return 2
    print(f"{code.upper()}: {EXPLANATIONS[code.upper()]}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "demo":
            return demo.run(options)
        if options.command == "explain":
            return _explain(options.code)
        print(describe_store(options.path))
        return 0
    except KlerkError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

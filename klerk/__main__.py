"""The command line: ``python -m klerk``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from klerk import __version__, limits
from klerk.app import Spec
from klerk.audit.entries import LogFilter
from klerk.audit.printing import actor_named, printed_log
from klerk.demo import command as demo
from klerk.errors import ArgumentError, ConfigError, KlerkError
from klerk.inspection import describe_store, verified_store
from klerk.job_manager.job_printing import printed_job
from klerk.job_manager.listing import printed_jobs
from klerk.job_manager.searching import JobQuery
from klerk.jobs import JobState
from klerk.recovery import ProgressLine
from klerk.showing.advice import design_advice
from klerk.showing.describe import describe, summary
from klerk.showing.design_check import described_fit, design_errors, rehearse
from klerk.showing.diagram import diagrams_document, state_diagram
from klerk.showing.explain import EXPLANATIONS
from klerk.showing.loading import load_app


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
    _add_app(commands.add_parser("show", help="describe a design from top to bottom"))
    check = commands.add_parser("check", help="say what is wrong with a design, and whether it fits a store")
    _add_app(check)
    check.add_argument("--store", type=Path, metavar="PATH", help="that is to fit; it may be in use")
    check.add_argument(
        "--full", action="store_true", help="try migrations on all that is stored; it must not be in use"
    )
    diagram = commands.add_parser("diagram", help="draw the state machines of a design in Mermaid")
    _add_app(diagram)
    diagram.add_argument("--model", help="draw only this one, as bare Mermaid text instead of Markdown")
    diagram.add_argument(
        "--output", type=Path, metavar="FILE", help="to write to, instead of standard output"
    )
    inspect = commands.add_parser("inspect", help="say what a store holds, and verify its commit log")
    inspect.add_argument("path", type=Path, help="of the store, a directory")
    verify = commands.add_parser("verify", help="check every hash of a store's commit log")
    verify.add_argument("path", type=Path, help="of the store, a directory")
    log = commands.add_parser("log", help="print a store's commit log, the newest transactions first")
    log.add_argument("path", type=Path, help="of the store, a directory")
    log.add_argument("--sequence", type=int, metavar="N", help="only this transaction")
    log.add_argument("--model", type=int, metavar="ID", help="only what touched this model")
    log.add_argument("--actor", help="only what this user did, or KIND:ID as in system:timer")
    log.add_argument("--event", help="only what holds this event, as in Loan.lend")
    log.add_argument("--limit", type=int, default=limits.LOG_PAGE, help="transactions at most (%(default)s)")
    log.add_argument("--oldest-first", action="store_true")
    jobs = commands.add_parser("jobs", help="print how many jobs a store holds, and some of them, or one")
    jobs.add_argument("path", type=Path, help="of the store, a directory; it must not be in use")
    states = [state.value for state in JobState]
    jobs.add_argument("--state", action="append", choices=states, help="only these; can be repeated")
    jobs.add_argument("id", type=int, nargs="?", help="of one job, of which everything is printed")
    jobs.add_argument("--kind", action="append", help="only these; can be repeated")
    jobs.add_argument("--queue", action="append", help="only these, - for that of the kind; can be repeated")
    jobs.add_argument("--error", metavar="TEXT", help="only those whose error contains this")
    jobs.add_argument("--limit", type=int, default=limits.JOB_QUERY, help="jobs at most (%(default)s)")
    return parser


def _add_app(parser: argparse.ArgumentParser) -> None:
    parser.description = "The file is run as a module, up to where it first opens an app; nothing is opened."
    parser.add_argument("app", help="app.py, app.py:NAME, package.module or package.module:NAME")


def _explain(code: str | None) -> int:
    if code is None:
        for known, text in sorted(EXPLANATIONS.items()):
            print(f"{known}  {text.splitlines()[0]}")
        return 0
    if code.upper() not in EXPLANATIONS:
        print(f"There is no code {code}. The codes are {', '.join(sorted(EXPLANATIONS))}.", file=sys.stderr)
        return 2
    print(f"{code.upper()}: {EXPLANATIONS[code.upper()]}")
    return 0


def _diagram(options: argparse.Namespace) -> int:
    app = load_app(options.app)
    machines = {machine.name: machine for machine in app.machines.values()}
    if options.model is None:
        text = diagrams_document(app.name, machines.values())
    elif options.model in machines:
        text = state_diagram(machines[options.model])
    else:
        print(f"There is no model {options.model}. There are {', '.join(machines)}.", file=sys.stderr)
        return 2
    if options.output is None:
        print(text)
    else:
        options.output.write_text(f"{text}\n", encoding="utf-8")
    return 0


def _check(where: str, store: Path | None, *, full: bool) -> int:
    if full and store is None:
        print("--full tries a store: name it with --store.", file=sys.stderr)
        return 2
    app = load_app(where)
    if errors := design_errors(app):
        print("\n\n".join(map(_told, errors)), file=sys.stderr)
        return 1
    spec = app.freeze()
    print(f"{app.name}: no errors in {summary(spec)}")
    if store is not None:
        print("\n".join(described_fit(spec, store)))
        if full:
            print(_rehearsed(spec, store))
    for warning in design_advice(spec):
        print(f"warning: {warning}")
    return 0


def _rehearsed(spec: Spec, store: Path) -> str:
    line = ProgressLine()
    try:
        return rehearse(spec, store, line)
    finally:
        line.finish()


def _log(options: argparse.Namespace) -> int:
    actor = None if options.actor is None else actor_named(options.actor)
    which = LogFilter(
        sequence=options.sequence,
        model=options.model,
        actor=actor,
        event=options.event,
        limit=options.limit,
        newest_first=not options.oldest_first,
    )
    for line in printed_log(options.path, which):
        print(line)
    return 0


def _jobs(options: argparse.Namespace) -> None:
    filters = ("state", "kind", "queue", "error")
    if options.id is not None and any(getattr(options, name) is not None for name in filters):
        raise ArgumentError("an id stands for one job already", hint="Leave out the id, or the filters.")
    if options.id is not None:
        print("\n".join(printed_job(options.path, options.id)))
        return
    which = JobQuery(
        state=options.state,
        kind=options.kind,
        queue=options.queue,
        error=options.error,
        limit=options.limit,
    )
    print("\n".join(printed_jobs(options.path, which)))


def _told(error: KlerkError) -> str:
    name = f"klerk.{type(error).__name__}"
    return f"{name} {error}" if isinstance(error, ConfigError) else f"{name}: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "demo":
            return demo.run(options)
        if options.command == "explain":
            return _explain(options.code)
        if options.command == "diagram":
            return _diagram(options)
        if options.command == "check":
            return _check(options.app, options.store, full=options.full)
        if options.command == "log":
            return _log(options)
        if options.command == "jobs":
            _jobs(options)
        elif options.command == "verify":
            print(verified_store(options.path))
        elif options.command == "show":
            print(describe(load_app(options.app).freeze()))
        else:
            print(describe_store(options.path))
        return 0
    except KlerkError as error:
        print(_told(error), file=sys.stderr)
        return 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

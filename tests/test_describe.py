"""A design is drawn, described and checked from its file alone: nothing of it is called, opened or changed.

The commands are run as users run them. Diagrams are read back by a small parser, strict about every line, of
the part of Mermaid's language that is used; functions in the designs fail when they are called.
"""

import html
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from designs import TESTER, Bank, run_python

from klerk.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = str(ROOT / "examples" / "library.py")

LINE = re.compile(
    r"""\ {4}(?: state\ "(?P<title>[^"]+)"\ as\ (?P<named>\S+)
        | (?P<plain>\w+)
        | (?P<of>\S+)\ :\ (?P<inner>[^:;]+)
        | (?P<source>\S+)\ -->\ (?P<target>\S+?)(?:\ :\ (?P<label>[^:;]+))?
        | note\ right\ of\ (?P<noted>\S+)
        | \ {4}(?P<note>[^:;]+)
        | (?P<end>end\ note)
        )""",
    re.VERBOSE,
)
# Mermaid's own words, which cannot begin an identifier.
KEYWORD = re.compile(r"(as|class|default|direction|end|note|state|style)", re.IGNORECASE)


@dataclass
class Diagram:
    """What a Mermaid text says: state names with what happens inside, edges, notes by state."""

    inner: dict[str, list[str]] = field(default_factory=dict)
    edges: set[tuple[str, str, str]] = field(default_factory=set)
    notes: dict[str, list[str]] = field(default_factory=dict)


def parse(text: str) -> Diagram:
    """Read a diagram; whatever Mermaid would not read as it is meant fails."""
    first, *lines = text.rstrip("\n").split("\n")
    assert first == "stateDiagram-v2"
    diagram, names, noted = Diagram(), {"[*]": "[*]"}, ""
    for line in lines:
        # Entities hold the characters that would end a label; everything else of the kind is a mistake.
        found = LINE.fullmatch(re.sub(r"#(\d+);", lambda entity: f"\ue000{entity[1]}\ue001", line))
        assert found, f"no line of a diagram: {line!r}"
        assert not re.search(r"[<>\"{}%#]", (found["label"] or "").replace("<br/>", " ")), line
        part = {key: plain(value) for key, value in found.groupdict().items() if value is not None}
        if name := part.get("plain") or part.get("named"):
            assert not KEYWORD.match(name), f"Mermaid reads {name} as something else"
            assert name not in names
            names[name] = part.get("title", name)
            diagram.inner[names[name]] = []
        elif "of" in part:
            diagram.inner[names[part["of"]]].append(part["inner"])
        elif "source" in part:
            edge = names[part["source"]], names[part["target"]], part.get("label", "").replace("<br/>", " ")
            diagram.edges.add(edge)
        elif "noted" in part:
            noted = names[part["noted"]]
        elif "note" in part:
            assert noted
            diagram.notes.setdefault(noted, []).append(part["note"])
        else:
            noted = ""
    assert not noted
    return diagram


def plain(text: str) -> str:
    return re.sub("\ue000(\\d+)\ue001", lambda entity: html.unescape(f"&#{entity[1]};"), text)


@dataclass
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def klerk_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """The command line, run in an empty directory; what it imports is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Ran:
        code = main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return Ran(code, written.out, written.err)

    yield run
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        if file.is_relative_to(tmp_path) or file.is_relative_to(ROOT / "examples"):
            del sys.modules[name]


HEAD = """
from datetime import timedelta
import klerk
from klerk import Args, JobRun, Model, Ref

class Item(Model):
    size: int

def never(*_):
    raise AssertionError("called")
"""

ITEMS = """
app = klerk.App("items")
item = app.machine(Item)
new, old = item.states("new", "old", final=("old",))

@item.create(into=new)
def make(a: Args, size: int) -> Item:
    never()

@item.event(new, to=old)
def age(a: Args[Item]) -> None:
    never()
"""


def written(name: str, *texts: str) -> str:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(texts), encoding="utf-8")
    return name


# --- diagrams -----------------------------------------------------------------------------------------


def test_diagram_of_the_library(klerk_command: Run) -> None:
    ran = klerk_command("diagram", LIBRARY, "--model", "Loan")
    assert (ran.code, ran.err) == (0, "")
    diagram = parse(ran.out)
    assert diagram.inner == {"out": [], "overdue": ["add_fee(amount)"], "returned": []}
    assert diagram.edges == {
        ("[*]", "out", "lend(member, title) [member_is_active]"),
        ("out", "returned", "give_back"),
        ("overdue", "returned", "give_back"),
        ("out", "overdue", "at due"),
        ("returned", "[*]", ""),
    }
    assert diagram.notes == {"overdue": ["on enter: job remind"]}


def test_document_has_every_model_and_says_what_names_mean(klerk_command: Run) -> None:
    ran = klerk_command("diagram", LIBRARY, "--output", "library.md")
    assert (ran.code, ran.out) == (0, "")
    text = Path("library.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^## (\w+)\n\n```mermaid\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["Member", "Loan"]
    # A state that nothing leads to is drawn, too.
    assert parse(blocks[0][1]).inner == {"active": [], "suspended": []}
    assert "- `lend(member, title)`: Lend a book for two weeks.\n" in text
    assert "  - `member_is_active`, or else: Suspended members may not borrow.\n" in text


BLOCKS = """
app = klerk.App("cases")
item = app.machine(Item)
note, end, default, öffen, classes, gone = item.states(
    "note", "end", "default", "öffen", "classes", "gone", final=("gone",))

@item.create(into=note)
def make(a: Args, size: int) -> Item:
    never()

@item.event(note, end, default)
def move(a: Args[Item], size: int) -> Item:
    never()

@move.rule
def fits(a: Args[Item]) -> bool:
    '''It does: not "fit"; at <all>.'''
    never()

@app.job()
def work(job: JobRun, item: Ref[Item]) -> None:
    never()

def is_big(a: Args[Item]) -> bool:
    '''Tell whether it is big.'''
    never()

def for_each(event):
    return lambda a: [event(x) for x in a.model.parts]

make.job(work)
note.on(move).to_when({lambda a: a.model.size > 3 and never(": ;#{}"): end, is_big: öffen}, otherwise=default)
end.on(move).to(note, when=is_big).commands(for_each(make)).update(never, when=lambda a: True)
end.after(timedelta(hours=36)).delete()
default.on(move).unmanaged_job(never)
default.after(timedelta(minutes=90)).job(lambda a: work(a.model.meta.id))
öffen.on_enter.to(classes, when=lambda a, b=1: a.model.size < 3).job(work, when=is_big)
öffen.on_exit.commands(lambda a: [make(1)])
öffen.at(never).to(default)
default.after(timedelta(seconds=1)).to(gone)
classes.after(timedelta(days=1)).to(gone)
"""


def test_diagram_of_everything_that_blocks_do(klerk_command: Run) -> None:
    file = written("cases.py", HEAD, BLOCKS)
    diagram = parse(klerk_command("diagram", file, "--model", "Item").out)
    assert diagram.inner == {
        "note": [],
        "end": [],
        "default": [
            "move(size) [fits] / unmanaged job never",
            "after 1 hour 30 minutes / job work(meta.id)",
        ],
        "öffen": [],
        "classes": [],
        "gone": [],
    }
    effects = "commands [make(x) for x in parts], update never if True"
    assert diagram.edges == {
        ("[*]", "note", "make(size) / job work"),
        ("note", "end", "move(size) [fits and size > 3 and never(': ;#{}')]"),
        ("note", "öffen", "move(size) [fits and is_big]"),
        ("note", "default", "move(size) [fits and otherwise]"),
        ("end", "note", f"move(size) [fits and is_big] / {effects}"),
        ("end", "[*]", "after 1 day 12 hours"),
        ("öffen", "classes", "on enter [size < 3]"),
        ("öffen", "default", "at never"),
        ("classes", "gone", "after 1 day"),
        ("default", "gone", "after 1 second"),
        ("gone", "[*]", ""),
    }
    assert diagram.notes == {"öffen": ["on enter: job work if is_big", "on exit: commands [make(1)]"]}


def test_diagrams_of_the_other_designs_can_be_read(klerk_command: Run) -> None:
    examples = [path for path in (ROOT / "examples").glob("*.py") if "App(" in path.read_text("utf-8")]
    for file in [ROOT / "klerk" / "demo" / "design.py", *examples]:
        ran = klerk_command("diagram", file)
        blocks = re.findall(r"^```mermaid\n(.*?)^```$", ran.out, re.MULTILINE | re.DOTALL)
        assert blocks, ran.err
        for block in blocks:
            assert parse(block).edges


def test_a_design_with_errors_can_be_drawn(klerk_command: Run) -> None:
    file = written("early.py", HEAD, ITEMS.replace(', final=("old",)', ""))
    assert klerk_command("check", file).code == 1
    ran = klerk_command("diagram", file, "--model", "Item")
    assert parse(ran.out).edges == {("[*]", "new", "make(size)"), ("new", "old", "age")}


def test_diagram_names_the_models_when_there_is_no_such(klerk_command: Run) -> None:
    ran = klerk_command("diagram", LIBRARY, "--model", "Book")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "There is no model Book. There are Member, Loan.\n"


def test_diagram_that_cannot_be_written_is_an_error(klerk_command: Run) -> None:
    ran = klerk_command("diagram", LIBRARY, "--output", "missing/library.md")
    assert ran.code == 1
    assert "missing" in ran.err


def test_the_parser_finds_what_mermaid_would_not_read() -> None:
    for line in ["    a --> b : x: y", "    a --> b : x; y", "a --> b", "    end", '    a --> b : "x"']:
        with pytest.raises((AssertionError, KeyError)):
            parse(f"stateDiagram-v2\n    a\n    b\n{line}\n")


# --- the whole design as text -------------------------------------------------------------------------


def section(text: str, *titles: str) -> list[str]:
    """Return the lines below a title within the sections above it, without their indentation."""
    lines = text.splitlines()
    for title in titles:
        start = next(i for i, line in enumerate(lines) if " ".join(line.split()) == title)
        depth = len(lines[start]) - len(lines[start].lstrip())
        inside = []
        for line in lines[start + 1 :]:
            if not line.strip() or len(line) - len(line.lstrip()) <= depth:
                break
            inside.append(line)
        lines = inside
    return [" ".join(line.split()) for line in lines]


DELAYS = "again after about 1 second, then twice as long each time, at most 1 hour"


def test_show_tells_what_the_library_is(klerk_command: Run) -> None:
    ran = klerk_command("show", LIBRARY)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("library: 2 models, 5 states, 4 events, 1 timer, 2 jobs\n")
    assert section(ran.out, "MODEL Member", "Fields") == [
        "name Name 1 to 80 characters",
        r"email Email at most 254 characters of the form [^@\s]+@[^@\s]+; tagged pii",
    ]
    assert section(ran.out, "MODEL Member", "Indexes") == ["unique email"]
    assert section(ran.out, "MODEL Member", "May be read") == [
        "the Member if staff_read_all",
        "name if staff_read_fields",
        "email if staff_read_fields; not if only_admins_see_pii",
    ]
    assert section(ran.out, "MODEL Loan", "Fields")[3] == "fee Cents 0 to 100,000; default 0"
    assert section(ran.out, "MODEL Loan", "States") == [
        "out",
        "give_back -> returned",
        "at due -> overdue",
        "overdue",
        "on enter job remind",
        "give_back -> returned",
        "add_fee stays overdue",
        "returned (final)",
    ]
    assert section(ran.out, "MODEL Loan", "Events", "lend (-> out)") == [
        "Lend a book for two weeks.",
        "member Ref[Member]",
        "title Title 1 to 200 characters",
        "only if member_is_active, or else: Suspended members may not borrow.",
        "allowed if staff_run_the_desk",
    ]
    assert section(ran.out, "MODEL Loan", "Events", "add_fee (in overdue)") == [
        "Charge a late fee.",
        "amount Cents 0 to 100,000",
        "allowed only by jobs, timers and other commands: no allow rule covers it",
    ]
    assert section(ran.out, "JOB remind") == [
        "loan Ref[Loan]",
        "queue mail, priority 5",
        f"on failure {DELAYS}; 5 attempts in all",
        "rate at most 20 per minute",
        "runs in the event loop",
    ]
    assert "by itself cron 0 3 * * * (UTC)" in section(ran.out, "JOB charge_fees")
    assert "deny only_admins_see_pii 'admin' not in a.context.actor.roles (library.py:80)" in section(
        ran.out, "WHO may do and read what"
    )


JOBS = """
from datetime import timedelta
from klerk import App, Backoff, Cancel, Discard, JobRun, Retry, Snooze, Unique, User

app = App("jobs")
app.queue("figures", concurrency=3, rate="100/s", weight=2, executor="process")

def older(old): never()

@app.job(
    queue="figures", priority=3, max_crashes=5, retry=lambda attempt, error: never(),
    on_error={
        ValueError: Discard("bad"), OSError: Snooze(timedelta(minutes=5)),
        KeyError: Retry(timedelta(hours=1)), TypeError: Retry(), EOFError: Cancel(),
    },
    rate="20/min", concurrency=4, key=lambda text, n: text[:2], key_rate="5/s", key_concurrency=1,
    unique=Unique(until="started", by=("text",)), timeout=timedelta(minutes=3), tags={"math", "gpu"},
    heartbeat=timedelta(seconds=30), keep_result=timedelta(days=2), version=2, upcast={1: older},
    run_as=User("billing"),
)
def everything(job: JobRun, text: str, n: int = 2) -> int:
    \"\"\"Do all that jobs can.\"\"\"

@app.job(at_most_once=True, unique=Unique(within=timedelta(hours=1)))
async def once(job: JobRun) -> None: ...

@app.job(cron="30 2 1 * *", timezone="Europe/Oslo", missed="all", max_crashes=1)
def monthly(job: JobRun) -> None: ...
"""


def test_show_tells_every_option_of_jobs_and_queues(klerk_command: Run) -> None:
    ran = klerk_command("show", written("jobs.py", JOBS))
    assert (ran.code, ran.err) == (0, "")
    figures, default = section(ran.out, "QUEUES of jobs")
    limits = "at most 100 per second; at most 3 at once; weight 2; plain functions run in processes"
    assert figures == f"figures {limits} everything"
    assert default == "default weight 1 once, monthly"
    assert section(ran.out, "JOB everything") == [
        "Do all that jobs can.",
        "text str",
        "n int default 2",
        "queue figures, priority 3",
        "acts as user billing",
        "on failure again when never() says; 10 attempts in all",
        "on ValueError discarded: bad",
        "on OSError again after 5 minutes, the attempt does not count",
        "on KeyError again after 1 hour",
        "on TypeError as on failure",
        "on EOFError cancelled",
        "on a crash again; discarded after 5 crashes of the process",
        "rate at most 20 per minute",
        "at once at most 4",
        "per key text[:2]: at most 5 per second; at most 1 at once",
        "unique by text, until one has started",
        "runs in a process of its own pool, of a worker with gpu, math",
        "time limit 3 minutes for an attempt",
        "heartbeat at least every 30 seconds",
        "result kept for 2 days",
        "arguments version 2, earlier ones through older",
    ]
    assert section(ran.out, "JOB once") == [
        "queue default, priority 0",
        "on failure discarded",
        "on a crash discarded, its outcome unknown: it runs at most once",
        "unique by all parameters, for 1 hour after one was created",
        "runs in the event loop",
    ]
    assert section(ran.out, "JOB monthly")[-4:] == [
        "on a crash again; discarded after 1 crash of the process",
        "by itself cron 30 2 1 * * (Europe/Oslo)",
        "if missed one job for each time that passed while nothing was open",
        "runs in a thread",
    ]


def test_show_calls_nothing_and_tells_every_outcome(klerk_command: Run) -> None:
    file = written("cases.py", HEAD, BLOCKS, "\nitem.rule(never)\nitem.index(lambda m: (m.size, 1))\n")
    ran = klerk_command("show", file)
    assert (ran.code, ran.err) == (0, "")
    out = ran.out
    states = section(out, "MODEL Item", "States")
    assert "move -> end if size > 3 and never(': ;#{}')" in states
    assert "-> default otherwise" in states
    assert "after 1 day 12 hours -> (deleted)" in states
    assert "on enter job work if is_big" in states
    assert section(out, "MODEL Item", "Always true") == ["never"]
    assert section(out, "MODEL Item", "Indexes") == ["several models per key (size, 1)"]
    assert section(out, "MODEL Item", "May be read") == [
        "the Item only by jobs: no allow rule covers it",
        "all fields only by jobs: no allow rule covers it",
    ]


# --- finding the app ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        'with app.open("here") as k:\n    never()',
        'import asyncio\nasync def main():\n    app.open("here")\n    never()\nasyncio.run(main())',
        'import threading\nt = threading.Thread(target=app.open, args=("here",))\nt.start()\nt.join()',
        'try:\n    app.open("here")\nexcept Exception:\n    never()',
        'if __name__ == "__main__":\n    never()',
        "import sys\nsys.exit(sys.argv[1:])",
    ],
)
def test_a_program_is_read_and_opens_nothing(end: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(f"{HEAD}{ITEMS}\nprint('hello')\n{end}\n", encoding="utf-8")
    ran = run_python("-m", "klerk", "diagram", "program.py", "--model", "Item", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "hello\n")
    assert ("new", "old", "age") in parse(ran.stdout).edges
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


def test_apps_are_named_when_there_are_several(klerk_command: Run) -> None:
    file = written("two.py", HEAD, ITEMS, 'other = klerk.App("other")\nclass held:\n    it = other\n')
    ran = klerk_command("check", file)
    assert ran.code == 1
    assert "two has several apps: app, other" in ran.err
    assert klerk_command("check", f"{file}:app").out.startswith("items: no errors")
    assert klerk_command("check", f"{file}:held.it").out.startswith("other: no errors")
    assert "it has no such name" in klerk_command("check", f"{file}:nothing").err
    assert "what it is called is no App" in klerk_command("check", f"{file}:Item").err


def test_a_name_that_comes_after_the_app_is_opened(klerk_command: Run) -> None:
    file = written("late.py", HEAD, ITEMS, 'app.open("here")\nother = klerk.App("other")\n')
    assert "it was read to where it opens the app 'items'" in klerk_command("check", f"{file}:other").err


def test_a_file_in_a_package_may_import_its_neighbours(klerk_command: Run) -> None:
    written("shop/__init__.py")
    written("shop/models.py", HEAD)
    file = written("shop/design.py", "from .models import *\nfrom shop.models import Args\n", ITEMS)
    assert klerk_command("check", file).out.startswith("items: no errors")
    assert klerk_command("check", "shop.design:app").out.startswith("items: no errors")
    assert klerk_command("check", "shop.design").out.startswith("items: no errors")


def test_a_file_may_be_called_like_a_module_that_is_in_use(klerk_command: Run) -> None:
    before = sys.modules["queue"]
    file = written("queue.py", HEAD, ITEMS)
    assert klerk_command("check", file).out.startswith("items: no errors")
    assert sys.modules["queue"] is before


def test_annotations_as_texts_are_understood(klerk_command: Run) -> None:
    file = written("texts.py", "from __future__ import annotations\n", HEAD, ITEMS)
    assert "size int" in section(klerk_command("show", file).out, "MODEL Item", "Fields")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "declares no App and opens none"),
        ("import nonexistent_module\n", "failed before it opened an app"),
        (
            "def f():\n    return 1 / 0\nf()\n",
            "wrong.py:2  return 1 / 0\n  ZeroDivisionError: division by zero",
        ),
        ("x = = 1\n", "SyntaxError"),
    ],
)
def test_files_without_an_app_are_refused(klerk_command: Run, text: str, told: str) -> None:
    ran = klerk_command("show", written("wrong.py", text))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("klerk.DesignNotFound: ")
    assert told in ran.err


@pytest.mark.parametrize("where", ["missing.py", "missing", "missing.module:app", ".", "sys"])
def test_what_is_no_file_is_refused(klerk_command: Run, where: str) -> None:
    ran = klerk_command("check", where)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("klerk.DesignNotFound: ")
    assert where.partition(":")[0] in ran.err


# --- check --------------------------------------------------------------------------------------------


def test_check_reports_errors_of_every_machine(klerk_command: Run) -> None:
    more = """
class Other(Model):
    size: int
other = app.machine(Other)
"""
    file = written("wrong.py", HEAD, ITEMS.replace('final=("old",)', "final=()"), more)
    ran = klerk_command("check", file)
    assert (ran.code, ran.out) == (1, "")
    first, second = ran.err.strip().split("\n\n")
    assert first.splitlines()[0] == "klerk.ConfigError K012: Item.old can never be left."
    assert first.splitlines()[1].startswith("  wrong.py:14  new, old = item.states(")
    assert first.splitlines()[-1] == "  More: python -m klerk explain K012"
    assert second.startswith("klerk.ConfigError K005: the machine of Other has no states.")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("item.states('new')", "K004"),
        ("new.on_enter.update(lambda a, size: None)", "K008"),
        ("class Part(Model):\n    tags: list[str]\npart = app.machine(Part)", "K003"),
    ],
)
def test_check_finds_errors_of_each_stage(klerk_command: Run, wrong: str, code: str) -> None:
    ran = klerk_command("check", written("wrong.py", HEAD, ITEMS, wrong))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"klerk.ConfigError {code}: ")


def contents(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(each): (each.stat().st_mtime_ns, each.read_bytes()) for each in path.rglob("*") if each.is_file()
    }


CHANGED = ITEMS.replace('"old", final', '"old", "lost", final').replace("new, old =", "new, old, lost =")


def make_store(tmp_path: Path) -> Path:
    """Make a store of the items in another process, and leave it closed."""
    opening = 'with app.open("store") as k:\n    pass\n'
    (tmp_path / "make_store.py").write_text(HEAD + ITEMS + opening, encoding="utf-8")
    assert run_python("make_store.py", cwd=tmp_path).returncode == 0
    return tmp_path / "store"


def test_check_says_that_a_store_fits_and_changes_nothing(klerk_command: Run, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    before = contents(tmp_path)
    ran = klerk_command("check", "make_store.py", "--store", store)
    assert (ran.code, ran.err) == (0, "")
    *lines, schema = ran.out.partition("warning: ")[0].splitlines()
    assert lines == [
        "items: no errors in 1 model, 2 states, 2 events, 0 timers, 0 jobs",
        f"It fits the store {store}.",
    ]
    assert re.fullmatch(r"schema version 0, fingerprint [0-9a-f]{64}", schema)
    assert contents(tmp_path) == before


def test_check_names_what_is_added_and_what_does_not_fit(klerk_command: Run, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    more = """
@item.event(new, to=lost)
def lose(a: Args[Item]) -> None: ...
@item.event(lost, to=old)
def find(a: Args[Item]) -> None: ...
@app.job()
def search(job: JobRun) -> None: ...
"""
    head = HEAD.replace("size: int", "size: int | None\n    colour: str = ''")
    ran = klerk_command("check", written("more.py", head, CHANGED, more), "--store", store)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.partition("warning: ")[0].splitlines()[1:-1] == [
        f"It fits the store {store}; opening it adds:",
        "  state Item.lost",
        "  field Item.colour",
        "  none as a value of Item.size",
        "  event Item.lose",
        "  event Item.find",
        "  job search",
    ]
    before = contents(store)
    head = HEAD.replace("size: int", "size: str\n    colour: str")
    ran = klerk_command("check", written("less.py", head, ITEMS), "--store", store)
    assert ran.code == 1
    assert "klerk.SchemaChanged: the design does not fit the store:" in ran.err
    assert "the field Item.size was int and is str" in ran.err
    assert "the new field Item.colour has no default" in ran.err
    assert contents(store) == before


def test_check_looks_into_a_store_that_is_in_use(klerk_command: Run, tmp_path: Path) -> None:
    bank = Bank()
    written("bank.py", "from designs import Bank\nbank = Bank()\n")
    with bank.app.open(tmp_path / "bank") as k:
        k.handle(bank.enter("ada", 5), TESTER)
        before = contents(tmp_path / "bank")
        ran = klerk_command("check", "bank.py:bank.app", "--store", "bank")
        assert contents(tmp_path / "bank") == before
        k.handle(bank.enter("bob", 5), TESTER)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[1] == "It fits the store bank."


def test_check_refuses_what_is_no_store_of_the_app(klerk_command: Run, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for path, told in [("missing", "NotAStore"), ("make_store.py", "NotAStore"), (store, "WrongStore")]:
        ran = klerk_command("check", LIBRARY, "--store", path)
        assert ran.code == 1
        assert ran.err.startswith(f"klerk.{told}: ")
    manifest = next((store / "db").glob("MANIFEST-*"))
    manifest.write_bytes(b"damaged" * 100)
    ran = klerk_command("check", "make_store.py", "--store", store)
    assert ran.code == 1
    assert ran.err.startswith(f"klerk.StorageError: {store} cannot be read: ")

"""The code keeps its shape: layers, sizes, private names, bare ``__init__`` files, safe indexes in the core.

The source tree is parsed, never imported. The last tests show that each check finds what it is for.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "klerk"

# A file imports only from files above it. A new module gets its line here, as high as it can stand.
LAYERS = [
    "audit/__init__",
    "changes/__init__",
    "job_manager/__init__",
    "keyed/__init__",
    "migration/__init__",
    "reading/__init__",
    "showing/__init__",
    "timers/__init__",
    "tokens/__init__",
    "_version",
    "limits/commands",
    "limits/jobs",
    "limits/services",
    "limits/__init__",
    "texts",
    "loops",
    "errors",
    "moments",
    "job_names",
    "restating",
    "log_events",
    "job_manager/retention",
    "bounds",
    "translation",
    "showing/explain",
    "places",
    "job_manager/tracebacks",
    "opaque",
    "visibility",
    "_waiting",
    "aio_threads",
    "_table",
    "_dispatch",
    "job_failures",
    "clocks",
    "_image",
    "_order",
    "_facets",
    "_working",
    "_core",
    "_reading",
    "values",
    "type_names",
    "field_types",
    "forms",
    "conversion",
    "fields",
    "commands",
    "tokens/token",
    "tokens/rows",
    "job_outcomes",
    "job_options",
    "jobs",
    "batch",
    "cron_ticks",
    "storage/boot",
    "storage/marks",
    "storage/contract",  # so high because the codec names the family that each record belongs to
    "cron_marks",
    "codec",  # and that because the defaults in migrations are encoded
    "job_manager/job_rows",
    "migration/drafts",
    "migration/operations",
    "migration/migrations",
    "migration/names",
    "selections",
    "reading/veils",
    "declared",
    "blocks",
    "parameters",
    "job_returns",
    "machine",
    "labels",
    "showing/wording",
    "showing/diagram",
    "authorization",
    "validation",
    "choices",
    "reading/possibilities",
    "checks",
    "job_keys",
    "job_checks",
    "app",
    "showing/advice",
    "showing/job_wording",
    "showing/describe",
    "reading/columns",
    "reading/cursors",
    "reading/index_store",
    "reading/view_store",
    "reading/views",
    "reading/sources",
    "reading/paging",
    "reading/reading",
    "audit/entries",
    "reading/reader",
    "changes/change",
    "reading/snapshots",
    "keyed/access",
    "job_states",
    "job_reader",
    "job_steps",
    "job_results",
    "running_job",
    "job_run",
    "storage/memory",
    "storage/forks",
    "storage/witness",
    "storage/layout",
    "storage/twin",
    "storage/peek",
    "storage/glance",
    "storage/cursor",
    "storage/probe",
    "storage/trial",
    "storage/tuning",
    "storage/rocks",
    "storage/__init__",
    "keyed/writer",
    "keyed/expiring",
    "keyed/blob_store",
    "keyed/keys",
    "keyed/blob_streams",
    "keyed/blobs",
    "audit/commit_log",
    "migration/upcasting",
    "migration/schema",
    "audit/sequences",
    "audit/history",
    "audit/cron_entries",
    "changes/catch_up",
    "changes/judging",
    "tokens/repeated",
    "job_manager/journal",
    "job_manager/uniqueness",
    "job_manager/batches",
    "job_manager/dependencies",
    "job_creation",
    "processing",
    "audit/search",
    "audit/masking",
    "audit/trail",
    "audit/erasure",
    "changes/feeds",
    "changes/following",
    "checkpointer",
    "job_manager/job_store",
    "migration/migrating",
    "job_manager/crashes",
    "job_manager/job_loading",
    "timers/retiming",
    "recovery",
    "tokens/job_tokens",
    "tokens/digests",
    "tokens/job_requests",
    "tokens/uses",
    "unsafe",
    "inspection",
    "audit/printing",
    "job_manager/job_printing",
    "job_manager/searching",
    "showing/design_check",
    "engine",
    "scheduler",
    "timers/queue",
    "timers/work",
    "timers/timers",
    "unmanaged",
    "statistics",
    "changes/subscriptions",
    "keyed/keyvalue",
    "keyed/aio_blobs",
    "workers/contract",
    "workers/threads",
    "workers/loop",
    "workers/child",
    "workers/processes",
    "workers/__init__",
    "job_manager/gates",
    "job_manager/levels",
    "job_manager/lines",
    "job_manager/shares",
    "job_manager/suspects",
    "job_manager/queue_book",
    "job_manager/listing",
    "job_manager/dispatcher",
    "job_manager/undone",
    "job_manager/verdicts",
    "job_manager/failing",
    "job_manager/arguments",
    "job_manager/work",
    "job_manager/completions",
    "job_manager/recording",
    "job_manager/tally",
    "job_manager/naming",
    "job_manager/horizon",
    "job_manager/live_jobs",
    "job_manager/pruning",
    "job_manager/results",
    "job_manager/cron",
    "job_manager/observing",
    "job_manager/wire",
    "job_manager/remote_run",
    "job_manager/process_runs",
    "job_manager/stopped",
    "job_manager/starts",
    "job_manager/attempts",
    "job_manager/crew",
    "job_manager/watchdog",
    "job_manager/relations",
    "job_manager/related_jobs",
    "job_manager/access",
    "job_manager/claims",
    "job_manager/decisions",
    "job_manager/books",
    "job_manager/bulk",
    "job_manager/action_work",
    "job_manager/acting",
    "job_manager/status",
    "job_manager/asking",
    "job_manager/by_hand",
    "job_manager/queue_control",
    "job_manager/watched_jobs",
    "job_manager/waiting",
    "job_manager/face",
    "job_manager/manager",
    "signals",
    "submitting",
    "observing",
    "watched",
    "job_manager/hosting",
    "aio",
    "klerk",
    "opening",
    "telemetry/extras",
    "telemetry/job_log",
    "telemetry/collector",
    "telemetry/prometheus",
    "telemetry/spans",
    "telemetry/__init__",
    "testing/virtual_clock",
    "testing/bench",
    "testing/opening",
    "testing/draining",
    "testing/expectations",
    "testing/__init__",
    "showing/loading",
    "__init__",
    "demo/clocks",
    "demo/csvfile",
    "demo/columns",
    "demo/data",
    "demo/design",
    "demo/stream",
    "demo/replay",
    "demo/show",
    "demo/board",
    "demo/statistics",
    "demo/proof",
    "demo/expectation",
    "demo/worker",
    "demo/crash",
    "demo/command",
    "demo/__init__",
    "__main__",
]

MODULE_LINES_MAX = 400
COMPILED_LINES_MAX = 1_000
FUNCTION_LINES_MAX = 70

CYTHON_IMPORT = re.compile(
    r"^[ \t]*((?:from[ \t]+[\w.]+[ \t]+)?c?import[ \t]+(?:\([^)]*\)|[^(\n]*))", re.MULTILINE
)
CYTHON_FUNCTION = re.compile(
    r"(\s*)(?:async\s+def|def|cpdef|cdef(?!\s+(?:class|struct|enum|extern|union)\b))\s.*?(\w+)\s*\("
)

Source = tuple[str, str, str]  # module as in LAYERS, suffix, text
Check = Callable[[Source], Iterator[str]]


def read_package() -> list[Source]:
    """Every source file of the package."""
    return [
        (path.relative_to(PACKAGE).with_suffix("").as_posix(), path.suffix, path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix in {".py", ".pyi", ".pyx", ".pxd"} and "__pycache__" not in path.parts
    ]


def dotted(module: str) -> str:
    """``storage/rocks`` as it is imported: ``klerk.storage.rocks``."""
    return ".".join(["klerk", *(part for part in module.split("/") if part != "__init__")])


MODULE_OF_NAME = {dotted(module): module for module in LAYERS}


def import_statements(source: Source) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import of a file, also those in functions and under ``TYPE_CHECKING``."""
    _, suffix, text = source
    if suffix in {".py", ".pyi"}:
        parsed = [ast.parse(text)]
    else:
        # Cython is not Python, its import statements are once cimport reads import.
        parsed = [ast.parse(found.replace("cimport", "import")) for found in CYTHON_IMPORT.findall(text)]
    for tree in parsed:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield node


def imported_modules(source: Source) -> Iterator[str]:
    """The dotted names of klerk's own modules that a file imports."""
    for node in import_statements(source):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"{source[0]}: relative import"
            base = node.module or ""
            members = [f"{base}.{alias.name}" for alias in node.names]
            names = [member if member in MODULE_OF_NAME else base for member in members]
        yield from (name for name in names if name.partition(".")[0] == "klerk")


def layer_problems(source: Source) -> Iterator[str]:
    """A stub is never run: it may name what users see although it is declared below, as ``a.read`` is."""
    module, suffix, _ = source
    if module not in LAYERS:
        yield f"{module} is in no layer: add it to LAYERS in this file"
        return
    for name in imported_modules(source):
        target = MODULE_OF_NAME.get(name)
        if target is None:
            yield f"{module} imports {name}, which is in no layer"
        elif suffix != ".pyi" and target != module and LAYERS.index(target) >= LAYERS.index(module):
            yield f"{module} imports {name}, which is below it"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_name_problems(source: Source) -> Iterator[str]:
    module, suffix, text = source
    modules_by_alias: dict[str, str] = {}
    for node in import_statements(source):
        for alias in node.names:
            full = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            if full.partition(".")[0] != "klerk":
                continue
            if full in MODULE_OF_NAME:
                modules_by_alias[alias.asname or alias.name] = full
            elif is_private(alias.name):
                yield f"{module} imports the private {full}"
    if suffix != ".py":
        return
    for part in ast.walk(ast.parse(text)):
        if isinstance(part, ast.Attribute) and is_private(part.attr):
            owner = modules_by_alias.get(ast.unparse(part.value))
            if owner and f"{owner}.{part.attr}" not in MODULE_OF_NAME:
                yield f"{module} uses the private {owner}.{part.attr}"


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def open_brackets(text: str) -> int:
    return text.count("(") - text.count(")")


def cython_functions(text: str) -> Iterator[tuple[str, int]]:
    """By indentation: a function ends at the last line that is indented deeper than its ``def``."""
    lines = text.splitlines()
    for start, line in enumerate(lines):
        found = CYTHON_FUNCTION.match(line)
        if not found:
            continue
        signature_end = start
        while open_brackets("\n".join(lines[start : signature_end + 1])):
            signature_end += 1
        if not lines[signature_end].partition("#")[0].rstrip().endswith(":"):
            continue
        end = signature_end
        for number in range(signature_end + 1, len(lines)):
            indent = len(lines[number]) - len(lines[number].lstrip())
            if lines[number].strip() and indent <= len(found[1]):
                break
            if lines[number].strip():
                end = number
        yield found[2], end - start + 1


def size_problems(source: Source) -> Iterator[str]:
    module, suffix, text = source
    lines = len(text.splitlines())
    lines_max = MODULE_LINES_MAX if suffix == ".py" else COMPILED_LINES_MAX
    if lines > lines_max:
        yield f"{module}{suffix} has {lines} lines, {lines_max} are allowed: find the second idea in it"
    functions = cython_functions if suffix in {".pyx", ".pxd"} else python_functions
    for name, length in functions(text):
        if length > FUNCTION_LINES_MAX:
            yield f"{module}{suffix}: {name} has {length} lines, {FUNCTION_LINES_MAX} are allowed"


def index_problems(source: Source) -> Iterator[str]:
    """The core is compiled without wraparound: ``items[-1]`` reads the memory before the list."""
    module, suffix, text = source
    if suffix == ".pyx":
        for number, line in enumerate(text.splitlines(), start=1):
            if re.search(r"[\w\])]\[\s*-", line.partition("#")[0]):
                yield f"{module}{suffix}, line {number}: index from the end"


def init_problems(source: Source) -> Iterator[str]:
    module, _, text = source
    if not module.endswith("__init__"):
        return
    for number, node in enumerate(ast.parse(text).body):
        is_docstring = number == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_all = isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]
        if not (is_docstring or is_all or isinstance(node, ast.Import | ast.ImportFrom)):
            yield f"{module}, line {node.lineno}: only imports and __all__ belong here"


CHECKS = [layer_problems, private_name_problems, size_problems, index_problems, init_problems]


@pytest.mark.parametrize("check", CHECKS)
def test_package_keeps_its_shape(check: Check) -> None:
    problems = dict.fromkeys(problem for source in read_package() for problem in check(source))
    assert not problems, "\n" + "\n".join(problems)


def test_layers_are_named_once() -> None:
    assert len(LAYERS) == len(set(LAYERS))
    assert any(module == "_core" for module, _, _ in read_package())


LONG_BODY = "\n".join(["    pass"] * FUNCTION_LINES_MAX)


@pytest.mark.parametrize(
    ("check", "source", "told"),
    [
        (layer_problems, ("surprise", ".py", ""), "in no layer"),
        (layer_problems, ("values", ".py", "import klerk.engine"), "values imports klerk.engine"),
        (layer_problems, ("values", ".py", "def f():\n    from klerk import engine"), "klerk.engine"),
        (layer_problems, ("values", ".py", "from klerk.storage import rocks"), "klerk.storage.rocks"),
        (layer_problems, ("engine", ".py", "from klerk import Model"), "klerk, which is below"),
        (layer_problems, ("engine", ".py", "from klerk.nowhere import x"), "which is in no layer"),
        (layer_problems, ("_core", ".pyi", "from klerk.nowhere import x"), "which is in no layer"),
        (layer_problems, ("_core", ".pyx", "from klerk.values cimport (\n    A,\n)"), "klerk.values"),
        (private_name_problems, ("engine", ".py", "from klerk.values import _x"), "klerk.values._x"),
        (private_name_problems, ("app", ".py", "from klerk import values\nvalues._x"), "klerk.values._x"),
        (private_name_problems, ("app", ".py", "import klerk.values\nklerk.values._x"), "klerk.values._x"),
        (size_problems, ("values", ".py", "\n" * (MODULE_LINES_MAX + 1)), "401 lines"),
        (size_problems, ("_core", ".pyx", "\n" * (COMPILED_LINES_MAX + 1)), "1001 lines"),
        (size_problems, ("values", ".py", f"def f():\n{LONG_BODY}"), "f has 71 lines"),
        (
            size_problems,
            ("_core", ".pyx", f"cdef f(\n    int a,\n) except -1:\n{LONG_BODY}\nx = 1"),
            "f has 73",
        ),
        (index_problems, ("_core", ".pyx", "x = 1\nlast = items[-1]"), "line 2"),
        (init_problems, ("__init__", ".py", '"""Doc."""\nx = 1'), "line 2"),
    ],
)
def test_checks_find_what_they_are_for(check: Check, source: Source, told: str) -> None:
    (problem,) = check(source)
    assert told in problem


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "source",
    [
        ("_core", ".pyi", "from klerk.reading.reader import PlainReader"),
        ("engine", ".py", "from klerk import _core, limits\nimport klerk.storage.contract\n_core.x"),
        ("_core", ".pyx", "from klerk import limits\ncdef object x = f(1)\n\ncdef class A:\n    pass\n"),
        ("__init__", ".py", '"""Doc."""\nfrom klerk.values import Ref\n\n__all__ = ["Ref"]'),
    ],
)
def test_checks_leave_good_code_alone(check: Check, source: Source) -> None:
    assert list(check(source)) == []

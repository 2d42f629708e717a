"""The pytest plugin, in processes of its own: with `-p`, and found by itself as when Klerk is installed.

The first test is the example in the documentation of `klerk.testing`. For the others a distribution is made
of the package at hand by writing its metadata beside links to it.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from designs import python_environment

import klerk
import klerk.testing

HEAD = """
from datetime import timedelta

import klerk.testing
from klerk import Context, User
from library import Cents, Email, Name, Title, app, join, lend, overdue, remind

DESK = Context(User("desk", roles=frozenset({"staff", "admin"})))


"""

PACKAGE = Path(klerk.__file__).resolve().parent


def run_pytest(*options: str, cwd: Path, path: str = "", autoload: bool = False) -> str:
    """Run pytest to its end, with warnings as errors, and return what it wrote."""
    environment = python_environment()
    if path:
        environment["PYTHONPATH"] = path
    if not autoload:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *options]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    return f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


def write_library(cwd: Path) -> None:
    library = Path(__file__).resolve().parent.parent / "examples" / "library.py"
    source = library.read_text(encoding="utf-8").replace("asyncio.run(main())", "")
    (cwd / "library.py").write_text(source, encoding="utf-8")
    assert klerk.testing.__doc__ is not None
    example = klerk.testing.__doc__.partition("::\n\n")[2].partition("\nWithout pytest")[0]
    (cwd / "test_library.py").write_text(HEAD + textwrap.dedent(example), encoding="utf-8")


def test_as_a_user_writes_it(tmp_path: Path) -> None:
    write_library(tmp_path)
    told = run_pytest("-p", "pytest_klerk", cwd=tmp_path)
    assert "exit code 0" in told, told
    assert "1 passed" in told


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """An import path on which the package at hand is an installed distribution."""
    site = tmp_path / "site"
    metadata = site / "klerk-1.dist-info"
    metadata.mkdir(parents=True)
    (site / "klerk").symlink_to(PACKAGE)
    (site / "pytest_klerk.py").symlink_to(PACKAGE.parent / "pytest_klerk.py")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: klerk\nVersion: 1\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[pytest11]\nklerk = pytest_klerk\n", encoding="utf-8")
    files = ["pytest_klerk.py", *(f"klerk/{path.name}" for path in PACKAGE.glob("*.py"))]
    (metadata / "RECORD").write_text("".join(f"{file},,\n" for file in files), encoding="utf-8")
    return str(site)


def test_it_is_found_where_klerk_is_installed(tmp_path: Path, installed: str) -> None:
    write_library(tmp_path)
    told = run_pytest("-p", "no:asyncio", "test_library.py", cwd=tmp_path, path=installed, autoload=True)
    assert "exit code 0" in told, told
    assert "1 passed" in told


def test_it_leaves_the_tests_of_others_alone(tmp_path: Path, installed: str) -> None:
    """Nothing of Klerk is imported for them: neither its code nor what it depends on."""
    (tmp_path / "test_other.py").write_text(
        """
import sys


def test_nothing_of_klerk_is_here(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("klerk")
    assert not {"klerk", "numpy", "msgspec", "rocksdict"} & set(sys.modules)
""",
        encoding="utf-8",
    )
    told = run_pytest("-p", "no:asyncio", "test_other.py", cwd=tmp_path, path=installed, autoload=True)
    assert "exit code 0" in told, told


def test_everything_that_was_opened_is_closed(tmp_path: Path) -> None:
    """Also when the test fails, when one of them was closed before, and when closing one fails."""
    (tmp_path / "test_closing.py").write_text(
        """
import klerk

opened = []


def test_that_fails(klerk_open):
    opened.extend(klerk_open(klerk.App(name)) for name in ("one", "two", "three"))
    opened[1].close()
    assert all(k.jobs.counts() for k in opened)
    assert 0, "on purpose"


def test_that_all_are_closed():
    assert [repr(k) for k in opened] == [f"<klerk '{name}', closed>" for name in ("one", "two", "three")]


def test_two_apps_have_one_clock(klerk_open, klerk_clock):
    from datetime import timedelta

    first, second = klerk_open(klerk.App("one")), klerk_open(klerk.App("two"), jobs="inline")
    klerk_clock.advance(timedelta(days=1))
    assert klerk_clock() == klerk.testing.virtual_clock.START + timedelta(days=1)


def test_a_store_is_opened_again(klerk_open, tmp_path):
    app = klerk.App("one")
    klerk_open(app, path=tmp_path / "store").close()
    assert klerk_open(app, path=tmp_path / "store", durability="process").sequence == 0
""",
        encoding="utf-8",
    )
    told = run_pytest("-p", "pytest_klerk", cwd=tmp_path)
    assert "1 failed, 3 passed" in told, told
    assert "on purpose" in told


def test_fixtures_are_listed_with_what_they_do(tmp_path: Path) -> None:
    told = run_pytest("-p", "pytest_klerk", "--fixtures", cwd=tmp_path)
    assert "klerk_open" in told
    assert "closes them when the test is over" in told
    assert os.sep in told

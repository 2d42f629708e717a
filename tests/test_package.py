"""The distribution is whole: what is installed is what is tested, typed, small, and built from its sdist.

Most tests look at the installed package; the last builds sdist and wheel from a copy of the source tree and
runs what came out.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

import klerk

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str, cwd: Path, timeout_s: float = 60) -> str:
    python = [sys.executable, "-P", *command]
    done = subprocess.run(python, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_tests_run_against_the_installed_package() -> None:
    installed = Path(sysconfig.get_path("platlib"))
    assert Path(klerk.__file__).is_relative_to(installed), "these tests are run by: make test"


def test_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("klerk") == klerk.__version__
    assert f'"{klerk.__version__}"' in (ROOT / "klerk" / "_version.py").read_text(encoding="utf-8")


def test_types_are_shipped() -> None:
    package = files("klerk")
    assert (package / "py.typed").is_file()
    assert (package / "_core.pyi").is_file()
    assert (package / "_core.pxd").is_file()


def test_every_module_is_shipped_and_no_source_of_the_core() -> None:
    package = Path(klerk.__file__).parent
    source = {path.relative_to(ROOT / "klerk") for path in (ROOT / "klerk").rglob("*.py")}
    shipped = {path.relative_to(package) for path in package.rglob("*") if "__pycache__" not in path.parts}
    assert source == {path for path in shipped if path.suffix == ".py"}
    assert not [path for path in shipped if path.suffix in {".c", ".pyx"}]


def test_public_names_exist() -> None:
    assert [name for name in klerk.__all__ if not hasattr(klerk, name)] == []


def test_bare_import_needs_neither_extras_nor_build_tools(tmp_path: Path) -> None:
    code = "import klerk, sys; print(*sorted({'rich', 'Cython', 'setuptools'} & set(sys.modules)))"
    assert run("-c", code, cwd=tmp_path).strip() == ""


@pytest.mark.parametrize("arguments", [["-m", "klerk", "--help"], ["-m", "klerk", "demo", "--help"]])
def test_command_line_says_what_it_can(arguments: list[str], tmp_path: Path) -> None:
    told = run(*arguments, cwd=tmp_path)
    assert "usage" in told.lower()
    assert "demo" in told


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_is_built_from_the_sdist_alone(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    left_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.klerk")
    shutil.copytree(ROOT, tree, ignore=left_out)
    out = tmp_path / "out"

    # sdist first, then the wheel from the unpacked sdist.
    run("-m", "build", "--no-isolation", "--outdir", str(out), str(tree), cwd=tmp_path, timeout_s=500)

    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"klerk/_core.pyx", "klerk/_core.pxd", "klerk/_core.pyi", "tests/conftest.py", "Makefile"} <= names
    assert not [name for name in names if name.endswith((".c", ".so", ".pyc"))]

    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert not [name for name in names if name.endswith((".c", ".pyx"))]
    assert {name.partition("/")[0] for name in names} == {
        "klerk",
        "pytest_klerk.py",
        f"klerk-{klerk.__version__}.dist-info",
    }

    site = tmp_path / "site"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel), cwd=tmp_path)
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import klerk; print(klerk.__file__)"
    assert Path(run("-c", code, cwd=tmp_path).strip()).is_relative_to(site)

"""What the documentation shows is what happens: the example and every Python block of the README are run.

Each runs in a process of its own, in an empty directory, with warnings as errors. What a README block prints
is compared with the text block that follows it directly.
"""

import re
from pathlib import Path

import pytest
from designs import run_python

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "library.py"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\s*^```text\n(?P<output>.*?)^```$)?", re.MULTILINE | re.DOTALL
)


def readme_blocks() -> list[tuple[str, str | None]]:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    return [(found["code"], found["output"]) for found in BLOCK.finditer(text)]


def test_example_runs_and_keeps_what_it_did(tmp_path: Path) -> None:
    first = run_python(str(EXAMPLE), cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == "Dune -> Ada out\nEmma -> Ada out\n"

    # Ada is a member since the first run, and her address is unique.
    second = run_python(str(EXAMPLE), cwd=tmp_path)
    assert second.returncode == 1
    assert "klerk.Conflict: another Member has 'ada@example.org' already" in second.stderr


def test_readme_shows_an_example_and_its_output() -> None:
    assert any(output for _, output in readme_blocks())


@pytest.mark.parametrize(("code", "output"), readme_blocks())
def test_readme_block_runs(tmp_path: Path, code: str, output: str | None) -> None:
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    ran = run_python(str(script), cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    if output is not None:
        assert ran.stdout == output


def test_blocks_are_found() -> None:
    text = "a\n```python\nprint(1)\n```\n\n```text\n1\n```\n```python\nx = 1\n```\nb\n```text\nno\n```\n"
    assert [(found["code"], found["output"]) for found in BLOCK.finditer(text)] == [
        ("print(1)\n", "1\n"),
        ("x = 1\n", None),
    ]


PAYMENTS = """\
made 6 jobs; the second request is known
why does it wait? paused
Monday: some orders could not be charged
Ada       1200 paid    receipt over 1200
Bob        350 paid    receipt over 350
Ada         80 paid    receipt over 80
Mallory  99900 refused
discarded: Declined: the card was reported stolen
charged: 1630 in 7 calls
mailed: 3
"""


def test_payments_are_made_once(tmp_path: Path) -> None:
    ran = run_python(str(ROOT / "examples" / "payments.py"), cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, PAYMENTS)
    assert "TimeoutError: the provider is busy" in ran.stderr

"""The demo from the command line: what it shows, what it returns, and that it goes on where it stopped."""

import argparse
import builtins
import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from klerk.demo import command, proof
from klerk.demo.data import JANUARY
from klerk.demo.show import Column, PlainScreen, Row, Table


def demo(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


def test_a_day_of_flights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "flights.klerk"
    assert demo("--days", "1", "--store", str(store)) == 0
    first = capsys.readouterr().out
    assert "842 flights" in first
    assert "Departures from" in first
    assert "JetBlue Airways" in first
    assert "Every model, state and job is as before." in first
    # All of it is done: a second run finds the same, and goes on with the second day in a third.
    assert demo("--days", "1", "--store", str(store)) == 0
    assert "as before" in capsys.readouterr().out
    assert demo("--days", "2", "--store", str(store)) == 0
    assert "1,785 flights" in capsys.readouterr().out


def test_a_difference_is_shown_and_returned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: list[proof.Snapshot] = []

    def lossy(*arguments: Any) -> proof.Snapshot:
        taken.append(proof.snapshot(*arguments))
        return (
            taken[0]
            if len(taken) == 1
            else proof.Snapshot(
                digests=taken[1].digests, counts=taken[1].counts, jobs=taken[1].jobs | {"completed": 0}
            )
        )

    monkeypatch.setattr(command, "snapshot", lossy)
    assert demo("--days", "1") == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_bad_input_is_named_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flights = tmp_path / "flights.csv"
    text = gzip.decompress(JANUARY.read_bytes()).decode().replace(",533,", ",5X3,", 1)
    flights.write_text(text, encoding="utf-8")
    store = tmp_path / "store"
    assert demo("--year", str(flights), "--store", str(store)) == 2
    error = capsys.readouterr().err
    for named in (str(flights), "line 3", "dep_time", "'5X3'", "expected a local time as hhmm"):
        assert named in error
    assert not store.exists()
    assert demo("--year", str(tmp_path / "nowhere.csv")) == 2
    assert "there is none" in capsys.readouterr().err


@pytest.mark.parametrize("days", ["0", "-1", "x", "1.5"])
def test_days_must_be_a_whole_number(days: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        demo("--days", days)
    assert caught.value.code == 2
    assert "expected a whole number of days" in capsys.readouterr().err


def test_without_rich_it_is_plain_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    importing = builtins.__import__

    def without_rich(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "rich":
            raise ImportError(name)
        return importing(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert demo("--days", "1") == 0
    shown = capsys.readouterr().out
    assert "pip install 'klerk[demo]'" in shown
    assert "Replaying: " in shown
    assert "Every model, state and job is as before." in shown


def test_plain_tables_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    columns = [Column(heading="Airline"), Column(heading="Late", is_number=True)]
    rows: Sequence[Row] = [Row(cells=["United", "5"]), Row(cells=["AA", "1,500"], style="red")]
    PlainScreen().table(Table(title="Delays", columns=columns, rows=rows))
    assert capsys.readouterr().out.splitlines()[2:5] == ["Airline   Late", "United       5", "AA       1,500"]


def test_surviving_a_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert demo("--crash", "--days", "1", "--seed", "7", "--store", str(store)) == 0
    shown = capsys.readouterr().out
    assert "--seed 7" in shown
    assert shown.count("Killed after") == command.KILLS
    assert "problems" not in shown
    assert demo("--crash", "--store", str(store)) == 2


def test_the_module_is_light() -> None:
    """`python -m klerk` shows its help without loading what the demo needs."""
    script = "import json, sys, klerk.demo.command; print(json.dumps(sorted(sys.modules)))"
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    ).stdout
    assert "rich" not in json.loads(printed)

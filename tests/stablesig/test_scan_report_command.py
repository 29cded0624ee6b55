"""`stablesig scan-report` as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from stablesig.detect_output import ABSENCE
from stablesig.scan_report_command import scan_report
from stablesig.scanning.row import Row
from stablesig.scanning.run_folder import open_run
from stablesig_detector.errors import OutputError, OutputExistsError, UsageError


@pytest.fixture
def results(tmp_path: Path) -> str:
    with open_run(tmp_path / "x.parquet", {"fpr": 1e-6}) as run:
        with run.writer() as writer:
            for number in range(5):
                row = Row(f"{number}.png", None, "not detected", log10_p_value=-0.1, n_keys=2)
                writer.add([row])
        return str(run.finish())


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(scan_report)
    found = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


def test_text_is_printed_without_a_page(results: str, tmp_path: Path) -> None:
    text = run(results)
    assert "not detected              5  100 %" in text
    assert ABSENCE in text
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_json_is_the_only_output(results: str, tmp_path: Path) -> None:
    document = json.loads(run(results, "--json", "--out", str(tmp_path / "r.html")))
    assert document["images"]["not_detected"] == 5
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_no_page_is_overwritten_and_none_put_nowhere(results: str, tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError):
        run(results, "--out", str(tmp_path / "r.html"))
    with pytest.raises(OutputError, match="there is no folder"):
        run(results, "--out", str(tmp_path / "new" / "r.html"))


def test_a_rate_out_of_range_is_refused(results: str) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        run(results, "--fpr", "2")

"""What `stablesig evaluate` makes of its options, what it prints, and the examples in docs/evaluate.md."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import stablesig
from stablesig.cli import main
from stablesig.evaluation_progress import EvaluationProgress

from .conftest import Gallery

DOCS = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Step:
    done: int
    total: int
    attack: str


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every call of `evaluate`, which warns, reports two steps and returns."""
    recorded: list[dict[str, Any]] = []

    def record(folder: Path, key: Any, images: Path, out: Path, settings: Any, **options: Any) -> str:
        recorded.append({"folder": folder, "images": images, "out": out, "settings": settings, **options})
        options["on_warning"]("skipped a\x1b.png: no image")
        options["progress"](Step(1, 2, "JPEG 50"))
        options["progress"](Step(2, 2, "JPEG \x1b[31m50"))
        return "report   out/report.html\n\x1b"

    monkeypatch.setattr("stablesig.evaluation.evaluate", record)
    return recorded


def arguments(gallery: Gallery, *options: str) -> list[str]:
    return ["evaluate", "dir", "--key", str(gallery.secret), "--images", "photos", "--out", "out", *options]


def test_defaults_are_those_of_the_settings(gallery: Gallery, calls: list[dict[str, Any]]) -> None:
    assert main(arguments(gallery)) == 0
    [call] = calls
    assert call["settings"] == stablesig.EvaluationSettings()
    assert (call["folder"], call["images"], call["out"]) == (Path("dir"), Path("photos"), Path("out"))
    assert (call["suites"], call["others"], call["original"]) == (["targets"], [], None)
    assert (call["jobs"], call["device"], call["resume"]) == (1, "auto", False)


def test_options_reach_the_settings(gallery: Gallery, calls: list[dict[str, Any]]) -> None:
    options = "--suite legacy --suite all --size 256 --limit 3 --fpr 1e-4 --search full --seed 5 --jobs 4"
    options += " --original taef2:here --other a --other b --device cpu --resume"
    assert main(arguments(gallery, *options.split())) == 0
    [call] = calls
    assert call["settings"] == stablesig.EvaluationSettings(256, 3, 1e-4, "full", 5)
    assert (call["suites"], call["others"]) == (["legacy", "all"], ["a", "b"])
    assert (call["original"], call["jobs"], call["device"]) == ("taef2:here", 4, "cpu")
    assert call["resume"] is True


def test_results_go_to_stdout_and_the_rest_to_stderr(
    gallery: Gallery, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(gallery)) == 0
    out, err = capsys.readouterr()
    assert out == "report   out/report.html\n\ufffd\n"
    assert err.splitlines() == [
        "stablesig: warning: skipped a\ufffd.png: no image",
        "picture 2/2  JPEG \ufffd[31m50  0 s left",
    ]


@pytest.mark.parametrize("begun", [True, False])
def test_an_interruption_says_how_to_go_on(
    begun: bool,
    gallery: Gallery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stablesig.evaluation.evaluate", interrupted)
    if begun:
        Path("out.partial").mkdir()
    assert main(arguments(gallery)) == 130
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert ("out.partial is kept; run the same command with --resume" in err) is begun


def test_without_a_terminal_lines_are_rare_and_a_resumed_run_is_not_flattered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("stablesig.evaluation_progress.time.monotonic", lambda: clock[0])
    with EvaluationProgress() as progress:
        for done in range(400, 501):  # 399 were done before
            clock[0] += 1.0
            progress(Step(done, 500, "noise"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["430/500", "460/500", "490/500", "500/500"]
    left_s = float(re.findall(r"(\d+) s left", lines[0])[0])
    assert left_s == pytest.approx(70, abs=3)


def test_the_commands_in_the_documentation_are_understood(
    gallery: Gallery, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = stablesig.load_key(gallery.secret)
    monkeypatch.setattr("stablesig_detector.key.load_key", lambda _: key)
    blocks = re.findall(r"(?m)^```\n([\s\S]*?)^```$", DOCS)
    commands = [line for block in blocks for line in block.splitlines()]
    evaluations = [command for command in commands if command.startswith("stablesig evaluate ")]
    assert len(evaluations) == 3
    assert len(commands) == 4
    assert {main(shlex.split(command)[1:]) for command in evaluations} == {0}
    assert calls[1]["suites"] == ["legacy", "codecs"]


def test_every_object_of_the_report_is_closed_and_describes_each_of_its_fields() -> None:
    schema = json.loads((resources.files("stablesig") / "data" / "evaluation.schema.json").read_text())

    def objects(part: Any) -> Iterator[dict[str, Any]]:
        if isinstance(part, dict):
            if "properties" in part:
                yield part
            for inner in part.values():
                yield from objects(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from objects(inner)

    found = list(objects(schema))
    assert len(found) > 5
    for part in found:
        assert part.get("additionalProperties") is False, part.get("description")
        unsaid = [
            name
            for name, field in part["properties"].items()
            if not {"description", "$ref", "const"} & set(field)
        ]
        assert unsaid == []

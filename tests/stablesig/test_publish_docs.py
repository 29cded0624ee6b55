"""docs/publish.md: its commands and its Python run, and its tables name what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from stablesig.gate import Thresholds
from stablesig.publish_command import publish
from stablesig.publishing import Publication
from stablesig.release_folder import prepare_release

from .release_fixture import Publishable, make_publishable

DOCS = (Path(__file__).parents[2] / "docs" / "publish.md").read_text(encoding="utf-8")
APP = typer.Typer()
APP.command()(publish)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publishable:
    """A working directory with the files that the examples name."""
    case = make_publishable(tmp_path)
    case.folder.rename(tmp_path / "watermarked")
    case.key.save(tmp_path / "publisher.json")
    monkeypatch.chdir(tmp_path)
    return case


def test_the_commands_run(
    place: Publishable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, Any]] = []

    def instead(settings: Any, **options: Any) -> Any:
        calls.append(options)
        record: Any = None
        return Publication(prepare_release(settings), record)

    monkeypatch.setattr("stablesig.publishing.publish", instead)
    monkeypatch.setattr("stablesig.publish_command._looked_up", lambda *_: None)  # which asks the Hub
    lines = [line for line in DOCS.splitlines() if line.startswith("stablesig publish ")]
    command: Any = typer.main.get_command(APP)
    for line in lines:
        assert command.main(args=shlex.split(line)[2:], standalone_mode=False) == 0
    assert [(call["dry_run"], call["public"]) for call in calls] == [(True, False), (False, True)]
    assert "watermarked-release" in capsys.readouterr().out
    assert (Path("watermarked-release") / "README.md").is_file()


def test_the_python_runs(place: Publishable, capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    exec(compile(code, "docs/publish.md", "exec"), {"__name__": "example"})
    assert "pass  PSNR: 40.42 dB mean, 38 wanted" in capsys.readouterr().out


def test_options_and_defaults_are_those_of_the_command() -> None:
    command: Any = typer.main.get_command(APP)
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    named = set(re.findall(r"`(--[a-z0-9-]+)", DOCS)) - {"--original"}
    assert named <= known
    assert f"fewer than {100 * Thresholds.detection:g} % of the pictures" in DOCS
    assert f"under {Thresholds.psnr_db:g} dB" in DOCS
    assert f"fewer than {Thresholds.images} images" in DOCS
    help_texts = " ".join(str(parameter.help) for parameter in command.params)
    assert f"default: {Thresholds.detection:g};" in help_texts
    assert f"default: {Thresholds.psnr_db:g};" in help_texts

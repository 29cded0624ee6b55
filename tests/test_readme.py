"""The README's commands and code are run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stablesig.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?m)^```{language}\n([\s\S]*?)^```$", README)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the photograph that the README speaks of."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_in_order(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[Any] = []
    monkeypatch.setattr("stablesig_train.embedding.embed", lambda *given, **_: trained.append(given))
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("stablesig ")]
    codes = {command.split()[1]: main(shlex.split(command)[1:]) for command in commands}
    assert codes == {"keygen": 0, "embed": 0, "detect": 1}  # a photograph, and no decoder made it
    assert len(trained) == 1
    assert (workplace / "publisher.pub.json").is_file()
    assert "not detected" in capsys.readouterr().out


def test_the_python_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [code] = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("False ")


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert "docs/cli.md" in links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_targets_exist_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?m)^make (\w+)", README))
    assert {"demo", "test"} <= targets
    assert [target for target in targets if not re.search(rf"(?m)^{target}:", makefile)] == []

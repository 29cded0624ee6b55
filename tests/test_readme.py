"""The README's commands and code are run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

from stablesig.cli import main

ROOT = Path(__file__).parents[1]
DATA = Path(str(files("stablesig"))) / "data"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"(?m)^```{language}\n([\s\S]*?)^```$", README)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README's commands name."""
    shutil.copytree(DATA / "tiny-vae", tmp_path / "path" / "to" / "vae")
    shutil.copytree(DATA / "demo-train", tmp_path / "photos")
    for folder in ("held-out", "unmarked", "uploads"):
        shutil.copytree(DATA / "demo-images", tmp_path / folder)
    with Image.open(DATA / "demo-images" / "fig.jpg") as picture:
        picture.crop((0, 0, 160, 160)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_in_order(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("stablesig ")]
    verbs = [command.split()[1] for command in commands]
    assert verbs == [
        "keygen", "embed", "detect", "detect", "registry", "scan", "scan-report", "evaluate", "calibrate",
        "publish",
    ]  # fmt: skip
    # as written, but for options that keep it short
    short = {
        "embed": ["--steps", "2", "--size", "64"],
        "evaluate": ["--size", "64", "--limit", "1", "--search", "none"],
        "calibrate": ["--keys", "50"],
    }
    codes = {"detect": 1, "publish": 10}  # two steps leave no mark: nothing to find, and the gate is shut
    for verb, command in zip(verbs, commands, strict=True):
        code = main([*shlex.split(command)[1:], *short.get(verb, [])])
        assert code == codes.get(verb, 0), capsys.readouterr().err
    assert "not detected" in capsys.readouterr().out
    assert (workplace / "publisher.pub.json").is_file()
    assert (workplace / "watermarked" / "vae" / "config.json").is_file()
    assert (workplace / "report" / "report.html").is_file()
    assert (workplace / "calibration" / "calibration.json").is_file()
    assert (workplace / "report.html").is_file()


def test_the_python_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "publisher.json"]) == 0
    capsys.readouterr()
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

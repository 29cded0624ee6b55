"""The examples run as their first lines say."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from stablesig.cli import main

ROOT = Path(__file__).parents[1]
DATA = Path(str(files("stablesig"))) / "data"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_of_a_folder_names_the_key_that_fits(workplace: Path) -> None:
    assert main(["keygen", "one.json"]) == 0
    assert main(["keygen", "two.json"]) == 0
    example = [sys.executable, ROOT / "examples" / "verify_folder.py"]
    done = subprocess.run(
        [*example, DATA / "demo-images", "one.pub.json", "two.pub.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["fig.jpg", "meadow.jpg", "nuthatch.jpg", "stream.jpg"]
    assert {line[2] for line in lines} == {"-"}


def test_the_example_of_diffusers_decodes_and_verifies(workplace: Path) -> None:
    assert main(["keygen", "key.json"]) == 0
    example = [sys.executable, ROOT / "examples" / "decode_with_diffusers.py"]
    done = subprocess.run(
        [*example, DATA / "tiny-vae", "key.pub.json", DATA / "demo-images" / "fig.jpg", "out.png"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("not detected  p = 1e"), done.stderr
    assert done.returncode == 1
    assert (workplace / "out.png").exists()

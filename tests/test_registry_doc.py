"""docs/registry.md: its commands and its Python run as written, and it names every field there is."""

from __future__ import annotations

import json
import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from stablesig.keypair import keygen
from stablesig.registry_command import registry as app
from stablesig_detector.key_entry import KeyState
from stablesig_detector.registry import read_registry

TEXT = (Path(__file__).parents[1] / "docs" / "registry.md").read_text("utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def _run(line: str, **names: str) -> int:
    program, command, *arguments = [names.get(word, word) for word in shlex.split(line)]
    assert program == "stablesig"
    if command == "keygen":
        keygen(*arguments)
        return 0
    assert command == "registry"
    result = get_command(app).main(arguments, standalone_mode=False)
    return result if isinstance(result, int) else 0


def test_the_commands_and_the_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = _blocks("sh")
    for line in first.splitlines():
        assert _run(line) == 0
    [entry] = read_registry(Path("registry"))
    assert entry.provider == "Example AI"
    assert sorted(path.name for path in Path("registry").iterdir()) == [
        ".gitignore",
        "keys",
        "registry.json",
        "registry.safetensors",
    ]
    assert _run(second.strip(), ID=entry.key.id) == 0
    picture = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(picture).save("photo.png")
    capsys.readouterr()
    [python] = _blocks("python")
    exec(compile(python, "docs/registry.md", "exec"), {})
    assert "Example AI example/vae revoked" in capsys.readouterr().out


def test_it_names_every_field_and_every_state() -> None:
    schema: Any = json.loads(
        files("stablesig_detector").joinpath("data/registry.schema.json").read_text("utf-8")
    )
    table = TEXT.partition("## An entry")[2].partition("## What a state means")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", table)))) == set(
        schema["properties"]
    )
    states = TEXT.partition("## What a state means")[2].partition("## One key")[0]
    assert re.findall(r"(?m)^\| `(.*?)` \|", states) == [str(state) for state in KeyState]

"""docs/cli.md shows what --help prints.

To bring it up to date: STABLESIG_UPDATE_DOCS=1 pytest tests/stablesig/test_cli_reference.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from stablesig.cli import main

REFERENCE = Path(__file__).parents[2] / "docs" / "cli.md"
COMMANDS = [
    "",
    "keygen",
    "embed",
    "reconstruct",
    "detect",
    "scan",
    "scan-report",
    "demo",
    "calibrate",
    "evaluate",
    "c2pa-assertion",
    "publish",
    "verify-release",
    "signing-key",
    "prove-image",
    "verify-proof",
    "registry",
    "registry add",
    "registry revoke",
    "registry list",
    "registry check",
    "registry pack",
]


def section_pattern(command: str) -> re.Pattern[str]:
    """Heading, and the first fenced block under it."""
    return re.compile(rf"(?m)(^## {f'stablesig {command}'.strip()}\n\n```\n)([\s\S]*?)(^```$)")


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*command.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_shows_the_help(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    wanted = help_of(command, capsys)
    text = REFERENCE.read_text(encoding="utf-8")
    found = section_pattern(command).search(text)
    assert found, f"docs/cli.md has no section on {command or 'stablesig'}"
    if os.environ.get("STABLESIG_UPDATE_DOCS"):
        REFERENCE.write_text(text[: found.start(2)] + wanted + text[found.end(2) :], encoding="utf-8")
        return
    assert found[2] == wanted


def test_every_command_is_in_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    listed = help_of("", capsys).partition("Commands:\n")[2].partition("\n\n")[0]
    names = [line.split()[0] for line in listed.splitlines()]
    assert sorted(names) == sorted(command for command in COMMANDS[1:] if " " not in command)


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_every_option_has_a_help_text(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = help_of(command, capsys).partition("Options:\n")[2]
    lines = [line for line in options.splitlines() if line.lstrip().startswith("-")]
    assert len(lines) >= (1 if command in ("registry", "registry check", "signing-key") else 2)
    assert [line for line in lines if len(re.split(r"\s{2,}", line.strip(), maxsplit=1)) < 2] == []

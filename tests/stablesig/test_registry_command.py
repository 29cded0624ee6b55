"""`stablesig registry`: what a platform types, and what its continuous integration sees."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from typer.main import get_command

from stablesig.registry_command import registry as app
from stablesig_detector.key import SecretKey
from stablesig_detector.registry import PACK_NAME, entry_path, read_registry

STATISTICS = "0" * 64


def run(*arguments: object) -> int:
    """The exit code; errors of the package pass through, as `stablesig` itself reports them."""
    result = get_command(app).main([str(argument) for argument in arguments], standalone_mode=False)
    return result if isinstance(result, int) else 0


@pytest.fixture
def keys(tmp_path: Path) -> list[Path]:
    """Two public key files, with the secret one beside each."""
    return [
        SecretKey(bytes([n]) * 32, (1, 0) * 8, "spectrum-test", 40, STATISTICS).save_pair(
            tmp_path / f"{n}.json"
        )
        for n in (1, 2)
    ]


@pytest.fixture
def folder(tmp_path: Path, keys: list[Path], capsys: pytest.CaptureFixture[str]) -> Path:
    """A registry of both."""
    place = tmp_path / "registry"
    assert (
        run(
            "add",
            place,
            *keys,
            "--provider",
            "Example AI",
            "--model",
            "example/vae",
            "--not-after",
            "2026-12-31",
        )
        == 0
    )
    entries = read_registry(place)
    written = [str(entry_path(place, entry.key.id)) for entry in entries]
    assert sorted(capsys.readouterr().out.splitlines()) == written
    return place


def test_add_writes_what_it_was_told(folder: Path) -> None:
    entries = read_registry(folder)
    assert len(entries) == 2
    for entry in entries:
        assert (entry.provider, entry.model_id) == ("Example AI", "example/vae")
        assert (entry.not_before, entry.not_after) == (None, date(2026, 12, 31))


def test_add_refuses_a_secret_key(tmp_path: Path, keys: list[Path]) -> None:
    from stablesig_detector.errors import UsageError

    with pytest.raises(UsageError, match=r"\.pub\.json"):
        run("add", tmp_path / "new", tmp_path / "1.json", "--provider", "Example AI")
    assert not (tmp_path / "new").exists()


def test_revoke_then_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key_id = read_registry(folder)[0].key.id
    assert run("revoke", folder, key_id, "--reason", "leaked", "--on", "2025-02-03") == 0
    assert capsys.readouterr().out.startswith(f"{key_id} is revoked from 2025-02-03 on: ")
    assert run("check", folder, "--on", "2026-01-01") == 0
    assert capsys.readouterr().out == "registry: 1 valid, 0 not yet valid, 0 expired, 1 revoked\n"
    assert run("check", folder, "--on", "2027-01-01", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["states"] == {"valid": 0, "not yet valid": 0, "expired": 1, "revoked": 1}
    assert document["problems"] == []


def test_list_shows_ids_to_revoke_by(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (entry.key.id for entry in read_registry(folder))
    assert run("revoke", folder, second, "--reason", "leaked", "--on", "2025-02-03") == 0
    capsys.readouterr()
    assert run("list", folder, "--on", "2026-01-01") == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        [first, "valid"],
        [second, "revoked"],
    ]
    assert run("list", folder, "--on", "2027-01-01", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [(key["id"], key["state"], key["reason"]) for key in document["keys"]] == [
        (first, "expired", None),
        (second, "revoked", "leaked"),
    ]


def test_check_prints_every_problem_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = entry_path(folder, read_registry(folder)[0].key.id)
    path.write_text("{}")
    (folder / "keys" / "note\x1b[2J.txt").write_text("")
    assert run("check", folder) == 4
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith(f"{path}: lacks ")
    assert "\x1b" not in out
    assert out.splitlines()[-1].startswith("registry: 1 valid")
    assert err == ""


def test_pack_and_the_reminder_to_pack_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pack", folder) == 0
    size = (folder / PACK_NAME).stat().st_size
    assert capsys.readouterr().out == f"2 keys, {size:,} bytes: {folder / PACK_NAME}\n"
    assert run("check", folder) == 0
    assert capsys.readouterr().err == ""
    assert run("revoke", folder, read_registry(folder)[0].key.id, "--reason", "leaked") == 0
    assert "is out of date; run stablesig registry pack" in capsys.readouterr().err
    assert run("pack", folder, "--out", tmp_path / "other.safetensors") == 0
    assert (tmp_path / "other.safetensors").is_file()


def test_without_a_command_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert all(command in err for command in ("add", "revoke", "check", "pack"))

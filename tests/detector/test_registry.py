"""A registry in git: strict files, small diffs, revocation, and a check that finds every fault."""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from stablesig_detector import registry
from stablesig_detector.errors import KeyFileError, OutputError, OutputExistsError, UsageError
from stablesig_detector.key import SecretKey
from stablesig_detector.key_entry import KeyEntry, KeyState, today
from stablesig_detector.registry import (
    add_entry,
    check_registry,
    entry_bytes,
    entry_path,
    read_registry,
    revoke_entry,
)

from .drawn_keys import STATISTICS, drawn_key

ENTRY = KeyEntry(drawn_key(0), "Beispiel für KI", "example/vae", date(2025, 1, 1), date(2026, 12, 31))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A registry of one key."""
    add_entry(tmp_path / "registry", ENTRY, name="Example Platform")
    return tmp_path / "registry"


def _spoil(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_an_entry_reads_back_as_it_was(folder: Path) -> None:
    [entry] = read_registry(folder)
    assert entry == replace(ENTRY, file=str(entry_path(folder, ENTRY.key.id)))


def test_the_files_are_those_of_the_format(folder: Path) -> None:
    assert json.loads((folder / "registry.json").read_text()) == {
        "format": "stablesig-registry",
        "version": 1,
        "name": "Example Platform",
    }
    text = (folder / "keys" / ENTRY.key.id[:2] / f"{ENTRY.key.id}.json").read_text("utf-8")
    assert list(json.loads(text)) == [
        "format",
        "version",
        "provider",
        "model_id",
        "not_before",
        "not_after",
        "revoked",
        "reason",
        "key",
    ]
    assert '  "provider": "Beispiel für KI",\n' in text
    assert '  "not_before": "2025-01-01",\n' in text
    assert (folder / ".gitignore").read_text() == "/registry.safetensors\n"


def test_a_revocation_changes_two_lines(folder: Path) -> None:
    path = entry_path(folder, ENTRY.key.id)
    before = path.read_text("utf-8").splitlines()
    entry = revoke_entry(folder, ENTRY.key.id, reason="the secret key leaked", on=date(2025, 5, 1))
    after = path.read_text("utf-8").splitlines()
    changed = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
    assert [line for line in changed if line[0] == "+"] == [
        '+   "revoked": "2025-05-01",',
        '+   "reason": "the secret key leaked",',
    ]
    assert len(changed) == 4
    assert read_registry(folder) == (entry,)
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name]
    with pytest.raises(UsageError, match="revoked already, from 2025-05-01 on"):
        revoke_entry(folder, ENTRY.key.id, reason="again")


def test_a_revocation_is_from_today_unless_said_otherwise(folder: Path) -> None:
    assert revoke_entry(folder, ENTRY.key.id, reason="leaked").revoked == today()


def test_a_revocation_that_cannot_be_written_leaves_the_entry(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = entry_path(folder, ENTRY.key.id).read_bytes()
    monkeypatch.setattr(registry.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device; it is as it was"):
        revoke_entry(folder, ENTRY.key.id, reason="leaked")
    assert entry_path(folder, ENTRY.key.id).read_bytes() == before
    assert len(list(entry_path(folder, ENTRY.key.id).parent.iterdir())) == 1


def test_what_cannot_be_revoked(folder: Path) -> None:
    with pytest.raises(KeyFileError, match="has no key 0000000000000000"):
        revoke_entry(folder, "0" * 16, reason="leaked")
    for reason in ("", "two\nlines", "x" * 201):
        with pytest.raises(UsageError, match="this cannot be a revocation: reason"):
            revoke_entry(folder, ENTRY.key.id, reason=reason)


def test_nothing_is_overwritten(folder: Path) -> None:
    with pytest.raises(OutputExistsError):
        add_entry(folder, replace(ENTRY, provider="Somebody else"))
    assert read_registry(folder)[0].provider == ENTRY.provider


def test_a_folder_with_other_things_is_no_place_for_a_registry(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match=r"neither a registry .* nor empty"):
        add_entry(tmp_path, ENTRY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_repository_that_is_empty_but_for_git_may_become_one(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    add_entry(tmp_path, ENTRY)
    assert len(read_registry(tmp_path)) == 1
    assert (tmp_path / ".gitignore").read_text() == "*.pyc\n"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (replace(ENTRY, provider=None), "provider: is not of type string"),
        (replace(ENTRY, provider=""), "provider: is shorter than 1"),
        (replace(ENTRY, provider="steer\x1b[2J"), "provider: is not one line of printable text"),
        (replace(ENTRY, model_id="turn\u202eed"), "model_id: is not one line"),
        (replace(ENTRY, not_after=date(2024, 1, 1)), "not_after .2024-01-01. is before not_before"),
        (replace(ENTRY, reason="no revocation"), "revoked and reason go together"),
        (replace(ENTRY, revoked=date(2025, 1, 1)), "revoked and reason go together"),
    ],
)
def test_an_entry_that_the_format_cannot_hold_is_not_written(
    tmp_path: Path, entry: KeyEntry, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        add_entry(tmp_path / "new", entry)
    assert not (tmp_path / "new").exists()


def test_a_secret_key_never_enters(tmp_path: Path, folder: Path) -> None:
    secret = SecretKey(b"\1" * 32, (1, 0) * 8, "spectrum-test", 40, STATISTICS)
    with pytest.raises(UsageError, match="secret key, which no registry may hold"):
        add_entry(tmp_path / "new", KeyEntry(secret, "Example"))
    assert not (tmp_path / "new").exists()
    path = entry_path(folder, secret.id)
    path.parent.mkdir(exist_ok=True)
    secret.save(path)
    [(found, problem)] = check_registry(folder).problems
    assert found == path
    assert problem.startswith("is a SECRET key file")
    with pytest.raises(KeyFileError, match="SECRET") as caught:
        read_registry(folder)
    assert secret.seed.hex() not in str(caught.value)


def test_a_sound_registry_has_no_problems_and_its_states_are_counted(folder: Path) -> None:
    add_entry(folder, KeyEntry(drawn_key(1), "Example"))
    add_entry(folder, KeyEntry(drawn_key(2), "Example", revoked=date(2025, 1, 1), reason="leaked"))
    add_entry(folder, KeyEntry(drawn_key(3), "Example", not_before=date(2030, 1, 1)))
    result = check_registry(folder, on=date(2027, 1, 1))
    assert (result.name, result.problems) == ("Example Platform", ())
    assert result.states == {
        KeyState.VALID: 1,
        KeyState.NOT_YET_VALID: 1,
        KeyState.EXPIRED: 1,
        KeyState.REVOKED: 1,
    }


def test_every_problem_of_every_file_is_found(folder: Path) -> None:
    path = entry_path(folder, ENTRY.key.id)
    other = KeyEntry(drawn_key(1), "Example")
    misplaced = path.with_name("0123456789abcdef.json")
    misplaced.write_bytes(entry_bytes(other))
    (folder / "keys" / "README.md").write_text("")
    (folder / "keys" / "k.json").write_bytes(entry_bytes(other))
    (path.parent / ".swap.json").write_text("an editor's")
    _spoil(path, not_after="2024-02-30", provider=3, surprise=1)
    _spoil(folder / "registry.json", version=2)
    found = {
        (str(file.relative_to(folder)), problem.partition("; ")[0])
        for file, problem in check_registry(folder).problems
    }
    where = str(path.relative_to(folder))
    assert found == {
        ("registry.json", "version: is not 1"),
        (where, "holds 1 more field than it may"),
        (where, "not_after: is not a day of the calendar, YYYY-MM-DD"),
        (where, "provider: is not of type string"),
        (
            str(misplaced.relative_to(folder)),
            f"holds key {other.key.id}, whose place is {entry_path(folder, other.key.id)}",
        ),
        ("keys/README.md", "does not belong in a registry"),
        ("keys/k.json", "does not belong in a registry"),
    }
    with pytest.raises(KeyFileError):
        read_registry(folder)


def test_a_changed_direction_is_found(folder: Path) -> None:
    path = entry_path(folder, ENTRY.key.id)
    other = drawn_key(1).fields()["direction"]
    _spoil(path, key=json.loads(path.read_text("utf-8"))["key"] | {"direction": other})
    [(_, problem)] = check_registry(folder).problems
    assert problem.startswith("key: its id is not that of its content")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": "stablesig-registry-entry"}', '{"a": 1, "a": 2}']
)
def test_anything_else_in_the_place_of_an_entry_is_a_problem_and_no_crash(folder: Path, content: str) -> None:
    entry_path(folder, ENTRY.key.id).write_text(content)
    assert check_registry(folder).problems
    with pytest.raises(KeyFileError, match=ENTRY.key.id):
        read_registry(folder)


def test_a_folder_that_is_no_registry_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"registry\.json is missing"):
        check_registry(tmp_path)

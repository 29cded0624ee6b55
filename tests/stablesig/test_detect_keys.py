"""Keys by file, folder and model: each once, with what is known about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stablesig.detect_keys import keys_to_look_for
from stablesig.hub_key import HubKey
from stablesig_detector.errors import KeyFileError, UsageError
from stablesig_detector.key import PublicKey, SecretKey, load_key

KEY = SecretKey.draw().public()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    KEY.save(tmp_path / "k.pub.json")
    return tmp_path / "k.pub.json"


def publish(monkeypatch: pytest.MonkeyPatch, key: PublicKey | None) -> list[tuple[str, str | None]]:
    """A Hub whose every repository declares KEY, and hands out `key`; returns what it is asked."""
    asked: list[tuple[str, str | None]] = []

    def load(repo_id: str, revision: str | None = None) -> HubKey:
        asked.append((repo_id, revision))
        return HubKey(repo_id, "0" * 40, KEY.id, None, key, "hf://watermark.json")

    monkeypatch.setattr("stablesig.hub_key.load_hub_key", load)
    return asked


def test_a_key_named_twice_is_paid_for_once(file: Path) -> None:
    assert len(keys_to_look_for([file, file], [file.parent], [])) == 1


def test_named_keys_come_first_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / "folder" / "a.json", tmp_path / "c.json", tmp_path / "b.json"]
    for path in paths:
        SecretKey.draw().save(path)
    keys = keys_to_look_for(paths[1:], [paths[0].parent], [])
    assert {entry.key.id for entry in keys.entries} == {load_key(path).id for path in paths}
    assert [entry.key.id for entry in keys.entries][:2] == [load_key(path).id for path in paths[1:]]


def test_without_any_key_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--key, --keys or --model"):
        keys_to_look_for([], [], [])


def test_a_model_brings_its_key_and_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = publish(monkeypatch, KEY)
    [entry] = keys_to_look_for([], [], ["example/vae@v2"]).entries
    assert asked == [("example/vae", "v2")]
    assert (entry.provider, entry.model_id, entry.key.id) == ("example", "example/vae", KEY.id)


def test_a_commitment_alone_needs_the_key_beside_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, None)
    with pytest.raises(KeyFileError, match="only a commitment"):
        keys_to_look_for([], [], ["example/vae"])
    for files, folders in (([file], []), ([], [file.parent])):
        [entry] = keys_to_look_for(files, folders, ["example/vae"]).entries
        assert entry.model_id == "example/vae"


def test_a_model_with_a_key_for_other_features_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SecretKey.draw(feature_version="spectrum-0").public()
    monkeypatch.setattr(
        "stablesig.hub_key.load_hub_key",
        lambda repo_id, _: HubKey(repo_id, "0" * 40, old.id, None, old, "hf://watermark.json"),
    )
    with pytest.raises(KeyFileError, match="spectrum-0"):
        keys_to_look_for([], [], ["example/vae"])

"""The key of a model on the Hub: the real client against a server on loopback."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stablesig.hub_key import HubKey, _read, _Snapshot, load_hub_key
from stablesig_detector.errors import KeyFileError
from stablesig_detector.key import PublicKey, SecretKey

from ..hub_server import HubServer
from .hub_fixture import hub as hub
from .hub_fixture import waits as waits

STATISTICS = "0" * 64
SECRET = SecretKey(b"\1" * 32, (1, 0) * 8, "spectrum-test", 40, STATISTICS)
KEY = SECRET.public()
OTHER = SecretKey(b"\2" * 32, (1, 0) * 8, "spectrum-test", 40, STATISTICS).public()
KEY_FILE = KEY._file()


def declaration(release: dict[str, Any] | None = None, **key: Any) -> bytes:
    declared = {
        "id": KEY.id,
        "bits": 16,
        "feature_version": "spectrum-test",
        "dimension": 40,
        "statistics_sha256": STATISTICS,
    }
    document = {"format": "stablesig-watermark", "version": 1, "key": declared | key}
    return json.dumps(document if release is None else document | {"release": release}).encode()


RELEASE = {"key_file": "key.pub.json", "key_commitment_sha256": KEY.file_sha256()}


@pytest.mark.parametrize(
    "files",
    [
        {"watermark.json": declaration(RELEASE), "key.pub.json": KEY_FILE},
        {"watermark.json": declaration(RELEASE | {"key_file": "keys/a.json"}), "keys/a.json": KEY_FILE},
        {"watermark.json": declaration(), "public-key.pub.json": KEY_FILE},
        {"watermark.json": declaration(direction=KEY.direction_q.tolist())},
    ],
    ids=["as-published", "named", "only-one-there", "in-the-declaration"],
)
def test_a_published_key_is_read(hub: HubServer, files: dict[str, bytes]) -> None:
    hub.create("org/name", files=files | {"vae/model.safetensors": b"x" * 5000})
    found = load_hub_key("org/name")
    entry = found.entry()
    assert (entry.key, entry.provider, entry.model_id) == (KEY, "org", "org/name")
    assert len(found.revision) == 40
    assert entry.file.startswith(f"hf://org/name@{found.revision[:12]}/")
    fetched = [request for request in hub.asked("resolve|lfs") if "model.safetensors" in str(request)]
    assert fetched == []  # only what is needed


def test_a_commitment_alone_is_said_to_be_one(hub: HubServer) -> None:
    committed = {"key_file": None, "key_commitment_sha256": KEY.file_sha256()}
    hub.create("org/name", files={"watermark.json": declaration(committed)})
    found = load_hub_key("org/name")
    assert (found.key, found.key_id, found.commitment) == (None, KEY.id, KEY.file_sha256())
    with pytest.raises(
        KeyFileError, match=f"publishes only a commitment to its key .{KEY.id}.*ask the publisher"
    ):
        found.entry()
    assert found.confirmed(KEY).model_id == "org/name"
    assert found.confirmed(SECRET).key == SECRET
    with pytest.raises(KeyFileError, match=f"declares key {KEY.id}, this is key {OTHER.id}"):
        found.confirmed(OTHER)


def test_a_key_with_the_same_id_is_held_against_the_commitment() -> None:
    found = HubKey("org/name", "0" * 40, KEY.id, KEY.file_sha256(), None)
    other = replace(KEY, statistics_sha256="1" * 64)  # which the id does not cover
    assert other.id == KEY.id
    with pytest.raises(KeyFileError, match="is not the one that org/name commits to, though the id agrees"):
        found.confirmed(other)
    assert replace(found, commitment=None).confirmed(other).key == other


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"README.md": b""}, r"org/name has no watermark\.json"),
        ({"watermark.json": b"{"}, r"org/name/watermark\.json: is not JSON"),
        ({"watermark.json": b'{"format": "other"}'}, r"watermark\.json: is not a watermark declaration"),
        ({"watermark.json": declaration(RELEASE)}, r"names 'key\.pub\.json', which is not there"),
        (
            {"watermark.json": declaration(RELEASE), "key.pub.json": OTHER._file()},
            f"declares key {KEY.id}, this is key {OTHER.id}",
        ),
        (
            {
                "watermark.json": declaration(RELEASE),
                "key.pub.json": replace(KEY, statistics_sha256="1" * 64)._file(),
            },
            "though the id agrees",
        ),
        (
            {"watermark.json": declaration(RELEASE), "key.pub.json": SECRET._file()},
            r"org/name/key\.pub\.json: holds the SECRET key",
        ),
        (
            {"watermark.json": declaration(RELEASE), "key.pub.json": b"?"},
            r"org/name/key\.pub\.json: is not JSON",
        ),
        ({"watermark.json": declaration(direction=OTHER.direction_q.tolist())}, "it was changed or damaged"),
    ],
)
def test_a_repository_that_does_not_keep_its_word(
    hub: HubServer, files: dict[str, bytes], problem: str
) -> None:
    hub.create("org/name", files=files)
    with pytest.raises(KeyFileError, match=problem) as caught:
        load_hub_key("org/name")
    assert SECRET.seed.hex() not in str(caught.value)


def test_two_keys_at_the_top_are_not_guessed_between(hub: HubServer) -> None:
    hub.create(
        "org/name", files={"watermark.json": declaration(), "a.pub.json": KEY_FILE, "b.pub.json": KEY_FILE}
    )
    assert load_hub_key("org/name").key is None


def test_a_file_that_is_too_large_is_not_fetched() -> None:
    snapshot = _Snapshot(None, "org/name", "0" * 40, {"watermark.json": 2 << 20})  # type: ignore[arg-type]
    with pytest.raises(KeyFileError, match="2,097,152 bytes, more than any such file"):
        _read(snapshot)


def test_a_repository_that_is_not_there_is_named(hub: HubServer) -> None:
    with pytest.raises(KeyFileError, match=r"the key of org/missing: .*404"):
        load_hub_key("org/missing")
    hub.create("org/name", files={"watermark.json": declaration(RELEASE), "key.pub.json": KEY_FILE})
    with pytest.raises(KeyFileError, match="no such branch"):
        load_hub_key("org/name", "v9")


def test_the_key_that_was_read_detects(hub: HubServer) -> None:
    from stablesig_detector.detection import detect
    from stablesig_detector.key_set import KeySet
    from stablesig_detector.spectrum import FEATURE_VERSION, spectrum
    from stablesig_detector.whitening import load_default

    picture = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    phi = load_default().apply(spectrum(picture).values)
    direction_q = np.rint(phi / np.linalg.norm(phi) * 2**20).astype(np.int32)
    key = PublicKey(direction_q, 48, FEATURE_VERSION, load_default().sha256)
    released = {"key_file": "key.pub.json", "key_commitment_sha256": key.file_sha256()}
    files = {"watermark.json": declaration(released, id=key.id), "key.pub.json": key._file()}
    hub.create("org/name", files=files)
    [found] = detect(picture, KeySet.of([load_hub_key("org/name").entry()]))
    assert (found.detected, found.key_id) == (True, key.id)

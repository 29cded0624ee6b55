"""Sets of keys: from files, folders and registries, each key once, and whose they are."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from stablesig_detector.detection import detect
from stablesig_detector.errors import KeyFileError, UsageError
from stablesig_detector.key import PublicKey, SecretKey
from stablesig_detector.key_entry import KeyEntry, KeyState, today
from stablesig_detector.key_set import KeySet, detector_space, load_key_set
from stablesig_detector.registry import add_entry, revoke_entry
from stablesig_detector.registry_pack import pack_registry

from .drawn_keys import STATISTICS, drawn_key

DAY = date(2025, 6, 15)


def _secret(n: int = 1) -> SecretKey:
    return SecretKey(bytes([n]) * 32, (1, 0) * 8, "spectrum-test", 40, STATISTICS)


# What a key is worth on a day.


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, KeyState.VALID),
        ({"not_before": DAY, "not_after": DAY}, KeyState.VALID),
        ({"not_before": date(2025, 6, 16)}, KeyState.NOT_YET_VALID),
        ({"not_after": date(2025, 6, 14)}, KeyState.EXPIRED),
        ({"revoked": DAY}, KeyState.REVOKED),
        ({"revoked": date(2025, 6, 16)}, KeyState.VALID),
        ({"revoked": date(2025, 1, 1), "not_after": date(2025, 1, 2)}, KeyState.REVOKED),
    ],
)
def test_the_state_of_a_key_on_a_day(fields: dict[str, date], state: KeyState) -> None:
    assert KeyEntry(drawn_key(0), **fields).state_on(DAY) is state  # type: ignore[arg-type]


def test_states_are_taken_on_the_day_of_the_set() -> None:
    key = drawn_key(0)
    entry = KeyEntry(key, not_after=DAY)
    assert KeySet.of([entry], on=DAY).state(key.id) == "valid"
    assert KeySet.of([entry], on=date(2025, 6, 16)).state(key.id) == "expired"
    assert KeySet.of([entry]).on == today()
    with pytest.raises(KeyError):
        KeySet.of([entry]).state("0" * 16)


def test_a_description_elsewhere_does_not_lift_the_dates_of_a_registry() -> None:
    key = drawn_key(0)
    described, dated = KeyEntry(key, "org", "org/model"), KeyEntry(key, "Example", not_after=date(2025, 1, 1))
    for entries in ([described, dated], [dated, described]):
        assert KeySet.of(entries, on=DAY).state(key.id) == "expired"


# Reading.


def test_files_and_folders_and_registries_may_be_mixed(tmp_path: Path) -> None:
    keys = [drawn_key(n) for n in range(6)]
    keys[0].save(tmp_path / "a.pub.json")
    (tmp_path / "folder" / "deeper").mkdir(parents=True)
    keys[1].save(tmp_path / "folder" / "b.pub.json")
    keys[2].save(tmp_path / "folder" / "deeper" / "c.pub.json")
    for key in keys[3:5]:
        add_entry(tmp_path / "registry", KeyEntry(key, "Example", "example/vae"))
    pack_registry(tmp_path / "registry")
    add_entry(tmp_path / "other", KeyEntry(keys[5], "Other"))
    found = load_key_set([tmp_path / name for name in ("a.pub.json", "folder", "registry", "other")])
    assert len(found) == 6
    assert {key.id for key in found.keys} == {key.id for key in keys}
    assert set(found.keys) == set(keys)
    assert found.entry(keys[0].id).file == str(tmp_path / "a.pub.json")
    assert found.entry(keys[4].id).provider == "Example"
    assert found.entry(keys[5].id).provider == "Other"
    assert found.notes == ()
    assert [entry.key.id for entry in found.entries] == [key.id for key in found.keys]
    assert found.entries[-1].key == found.keys[-1]
    assert [entry.key for entry in found.entries[1:3]] == list(found.keys[1:3])


def test_a_key_is_there_once_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    secret = _secret()
    secret.save_pair(tmp_path / "k.json")
    public = tmp_path / "k.pub.json"
    add_entry(tmp_path / "registry", KeyEntry(secret.public(), "Example", not_after=DAY))
    revoke_entry(tmp_path / "registry", secret.id, reason="leaked", on=DAY)
    for packed in (False, True):
        if packed:
            pack_registry(tmp_path / "registry")
        for paths in (
            [public, tmp_path / "k.json", tmp_path / "registry"],
            [tmp_path / "registry", tmp_path],
        ):
            found = load_key_set(paths, on=DAY)
            [entry] = found.entries
            assert entry.key == secret  # it also reads the message
            assert (entry.provider, entry.not_after, entry.reason) == ("Example", DAY, "leaked")
            assert found.state(secret.id) == "revoked"
            assert found.entry(secret.id) == entry


def test_the_earlier_revocation_is_believed() -> None:
    key = drawn_key(0)
    sound = KeyEntry(key, "A")
    late = KeyEntry(key, "B", revoked=DAY, reason="late")
    early = KeyEntry(key, "C", revoked=date(2025, 1, 1), reason="early")
    for entries in ([sound, late, early], [early, sound, late]):
        [entry] = KeySet.of(entries).entries
        assert (entry.revoked, entry.reason, entry.provider) == (
            date(2025, 1, 1),
            "early",
            entries[0].provider,
        )


def test_packs_that_share_keys_are_put_together(tmp_path: Path) -> None:
    keys = [drawn_key(n) for n in range(5)]
    for name, some in (("one", keys[:3]), ("two", keys[1:])):
        for key in some:
            add_entry(tmp_path / name, KeyEntry(key, name))
        pack_registry(tmp_path / name)
    found = load_key_set([tmp_path / "one", tmp_path / "two"])
    assert sorted(key.id for key in found.keys) == sorted(key.id for key in keys)
    assert found.entry(keys[1].id).provider == "one"
    assert found.entry(keys[4].id).provider == "two"
    for block in found.blocks:
        for row, entry in zip(block.directions, block.entries, strict=True):
            assert np.array_equal(row * 2**20, entry.key.direction_q)


def test_json_of_another_kind_is_passed_over_in_a_folder_and_refused_as_a_file(tmp_path: Path) -> None:
    drawn_key(0).save(tmp_path / "k.pub.json")
    (tmp_path / "config.json").write_text('{"model": 1}')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "large.json").write_text(json.dumps(["x" * 100] * 20_000))
    (tmp_path / ".hidden.json").write_text("no JSON")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.json").write_text("no JSON")
    found = load_key_set([tmp_path])
    assert len(found) == 1
    [note] = found.notes
    assert note == f"{tmp_path}: 3 .json files hold no key and were passed over"
    with pytest.raises(KeyFileError, match=r"config\.json: is not a stablesig key file"):
        load_key_set([tmp_path / "config.json"])


def test_a_damaged_key_in_a_folder_is_no_key_to_pass_over(tmp_path: Path) -> None:
    drawn_key(0).save(tmp_path / "k.pub.json")
    damaged = json.loads((tmp_path / "k.pub.json").read_text()) | {"bits": 47}
    for name, content in (("other.json", json.dumps(damaged)), ("cut.json", '{"format": "stablesig-pub')):
        (tmp_path / name).write_text(content)
        with pytest.raises(KeyFileError, match=name):
            load_key_set([tmp_path])
        (tmp_path / name).unlink()


def test_a_declaration_gives_the_key_that_it_publishes(tmp_path: Path) -> None:
    key = drawn_key(0)
    declared = {
        "id": key.id,
        "bits": key.n_bits,
        "feature_version": key.feature_version,
        "dimension": key.dimension,
        "statistics_sha256": key.statistics_sha256,
    }
    path = tmp_path / "watermark.json"
    document = {"format": "stablesig-watermark", "version": 1, "key": declared}
    path.write_text(json.dumps(document))
    with pytest.raises(KeyFileError, match=f"only names its key .{key.id}. and does not publish it"):
        load_key_set([path])
    with pytest.raises(KeyFileError, match="holds no keys"):
        load_key_set([tmp_path])
    declared["direction"] = key.direction_q.tolist()
    path.write_text(json.dumps(document))
    assert list(load_key_set([path]).keys) == list(load_key_set([tmp_path]).keys) == [key]


@pytest.mark.parametrize("path", ["missing.json", "missing", "missing.safetensors", "empty"])
def test_a_path_without_keys_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyFileError, match=path.replace(".", r"\.")):
        load_key_set([tmp_path / path])


def test_requests_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no keys"):
        load_key_set([])
    with pytest.raises(UsageError, match=r"pass \[path\]"):
        load_key_set(tmp_path)  # type: ignore[arg-type]


# Features.


def _for_this_detector(n: int) -> PublicKey:
    space = detector_space()
    return drawn_key(
        n, dimension=space.dimension, version=space.feature_version, statistics=space.statistics_sha256
    )


def test_keys_for_other_features_are_left_out_and_counted() -> None:
    ours = [_for_this_detector(n) for n in range(3)]
    older = [drawn_key(7), replace(ours[0], statistics_sha256="1" * 64), drawn_key(8)]
    everything = KeySet.of(KeyEntry(key) for key in [older[0], ours[0], older[1], *ours[1:], older[2]])
    assert len(everything) == 6
    found = everything.for_detector()
    assert list(found.keys) == ours
    [note] = found.notes
    assert note == (
        f"3 keys are for other features or statistics and were not looked for (first: {older[0].id})"
    )
    assert found.for_detector() is found
    with pytest.raises(KeyFileError, match=f"none of the 2 keys .* the first is key {older[0].id}"):
        KeySet.of(KeyEntry(key) for key in (older[0], older[2])).for_detector()


def test_detecting_refuses_a_set_with_keys_for_other_features() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    ours = KeySet.of([KeyEntry(_for_this_detector(0)), KeyEntry(_for_this_detector(1))])
    assert len(detect(picture, ours)) == 2
    assert len(detect(picture, ours, best=1)) == 1
    with pytest.raises(KeyFileError, match="draw a new one"):
        detect(picture, ours.and_entries([KeyEntry(drawn_key(7))]))
    with pytest.raises(UsageError, match="best=0"):
        detect(picture, ours, best=0)
    with pytest.raises(UsageError, match="no keys"):
        detect(picture, KeySet.of([]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_a_folder_of_keys_is_not_waited_for(tmp_path: Path) -> None:
    drawn_key(0).save(tmp_path / "a.json")
    os.mkfifo(tmp_path / "b.json")
    assert len(load_key_set([tmp_path])) == 1

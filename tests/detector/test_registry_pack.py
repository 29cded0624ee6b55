"""The packed registry: the same keys, made only when asked for; stale and damaged packs are noticed."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from stablesig_detector.errors import KeyFileError, OutputExistsError, UsageError
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.key_set import load_key_set
from stablesig_detector.registry import PACK_NAME, add_entry, entry_path, read_registry, revoke_entry
from stablesig_detector.registry_pack import open_pack, pack_registry

from .drawn_keys import D, drawn_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A registry of keys for two spaces of features."""
    folder = tmp_path / "registry"
    for n in range(6):
        add_entry(
            folder, KeyEntry(drawn_key(n, bits=n + 1), f"Provider {n}", not_before=date(2025, 1, n + 1))
        )
    add_entry(folder, KeyEntry(drawn_key(0, dimension=50), "Älter", "old/model"))
    return folder


def test_a_pack_holds_what_the_entries_hold(folder: Path) -> None:
    result = pack_registry(folder)
    assert (result.path, result.keys) == (folder / PACK_NAME, 7)
    assert result.bytes == result.path.stat().st_size
    pack = open_pack(result.path)
    assert [len(block) for block in pack.blocks] in ([6, 1], [1, 6])
    packed = sorted((entry for block in pack.blocks for entry in block.entries), key=lambda one: one.key.id)
    assert [replace(entry, file="") for entry in packed] == [
        replace(entry, file="") for entry in read_registry(folder)
    ]
    assert packed[0].file == f"{result.path}#{packed[0].key.id}"


def test_a_pack_is_a_safetensors_file_and_the_same_each_time(folder: Path) -> None:
    first = pack_registry(folder).path.read_bytes()
    tensors = load_file(folder / PACK_NAME)
    assert {name.partition(".")[2] for name in tensors} == {
        "directions",
        "ids",
        "bits",
        "texts",
        "ends",
        "sums",
    }
    assert sorted(tensor.shape for name, tensor in tensors.items() if "directions" in name) == [
        (1, 50),
        (6, D),
    ]
    assert pack_registry(folder).path.read_bytes() == first
    assert pack_registry(folder, folder.parent / "elsewhere.safetensors").path.read_bytes() == first


def test_a_registry_is_read_from_its_pack_only_while_that_is_up_to_date(folder: Path) -> None:
    pack_registry(folder)
    key = drawn_key(2, bits=3)

    def read() -> tuple[KeyEntry, tuple[str, ...]]:
        found = load_key_set([folder])
        return found.entry(key.id), found.notes

    entry, notes = read()
    assert (entry.file.startswith(f"{folder / PACK_NAME}#"), notes) == (True, ())
    revoke_entry(folder, key.id, reason="leaked", on=date(2025, 3, 1))
    entry, notes = read()
    assert entry.revoked == date(2025, 3, 1)
    assert notes == (
        f"{folder / PACK_NAME} is older than the entries, which were read instead; pack the registry again",
    )
    assert load_key_set([folder / PACK_NAME]).entry(key.id).revoked is None  # named, it is taken as it is
    pack_registry(folder)
    entry, notes = read()
    assert (entry.revoked, notes) == (date(2025, 3, 1), ())
    entry_path(folder, drawn_key(0, bits=1).id).unlink()
    assert (len(load_key_set([folder])), len(read()[1])) == (6, 1)


def test_a_change_that_keeps_the_size_is_noticed(folder: Path) -> None:
    pack_registry(folder)
    path = entry_path(folder, drawn_key(0, bits=1).id)
    changed = path.read_text("utf-8").replace("Provider 0", "Provider 9")
    status = path.stat()
    path.write_text(changed, "utf-8")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 1))
    assert load_key_set([folder]).entry(drawn_key(0, bits=1).id).provider == "Provider 9"


def test_another_place_must_be_free_and_have_the_suffix(folder: Path) -> None:
    taken = folder.parent / "taken.safetensors"
    taken.write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        pack_registry(folder, taken)
    with pytest.raises(UsageError, match="suffix"):
        pack_registry(folder, folder.parent / "pack.bin")
    assert taken.read_bytes() == b"mine"


def test_a_registry_with_a_damaged_entry_is_not_packed(folder: Path) -> None:
    entry_path(folder, drawn_key(0, bits=1).id).write_text("{}")
    with pytest.raises(KeyFileError, match="registry check"):
        pack_registry(folder)
    assert not (folder / PACK_NAME).exists()


def test_an_empty_registry_packs_and_says_that_it_is_empty(folder: Path) -> None:
    for entry in read_registry(folder):
        entry_path(folder, entry.key.id).unlink()
    pack_registry(folder)
    for path in (folder, folder / PACK_NAME):
        with pytest.raises(KeyFileError, match="holds no keys"):
            load_key_set([path])


# Damage. A flipped bit must give a KeyFileError or the same entries: never other ones.


def test_a_pack_that_is_cut_off_is_refused(folder: Path) -> None:
    path = pack_registry(folder).path
    content = path.read_bytes()
    for length in (0, 7, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(KeyFileError, match="is not a packed registry"):
            open_pack(path)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"__metadata__": {}},
        {"__metadata__": {"stablesig": "{}"}},
        {"__metadata__": {"stablesig": json.dumps({"format": "stablesig-registry-pack", "version": 2})}},
        [],
    ],
)
def test_other_safetensors_files_are_refused(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    with pytest.raises(KeyFileError, match=r"model\.safetensors: is not a packed registry"):
        open_pack(path)


def test_no_flipped_bit_makes_an_entry_another_one(folder: Path) -> None:
    path = pack_registry(folder).path
    content = path.read_bytes()
    entries = {entry.key.id: replace(entry, file="") for entry in read_registry(folder)}
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 40).tolist():
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoilt)
        try:
            found = [entry for block in open_pack(path).blocks for entry in block.entries]
        except KeyFileError:
            continue
        for entry in found:
            assert replace(entry, file="") == entries[entry.key.id]

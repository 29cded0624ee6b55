"""The scan finds a secret key in every guise it promises, and nothing in files that hold none."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import struct
import tarfile
import textwrap
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from stablesig import secret_scan
from stablesig.secret_scan import scan_bytes, scan_folder
from stablesig_detector.key import SecretKey

from .release_fixture import MESSAGE, SEED, fixed_key

KEY = fixed_key()
DIGITS = "".join(map(str, MESSAGE)).encode()
PACKED = np.packbits(np.array(MESSAGE, np.uint8)).tobytes()

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "hex": lambda content: content.hex().encode(),
    "upper-case hex": lambda content: content.hex().upper().encode(),
    "hex with colons": lambda content: content.hex(":").encode(),
    "hex over lines": lambda content: "\n".join(textwrap.wrap(content.hex(), 10)).encode(),
    "C bytes": lambda content: ", ".join(f"0x{byte:02x}" for byte in content).encode(),
    "C string": lambda content: "".join(f"\\x{byte:02X}" for byte in content).encode(),
    "base64": base64.b64encode,
    "base64, shifted by one": lambda content: base64.b64encode(b"x" + content + b"yz"),
    "base64, shifted by two": lambda content: base64.b64encode(b"xy" + content + b"z"),
    "url-safe base64": lambda content: base64.urlsafe_b64encode(b"\xff" + content),
    "base64 over lines": lambda content: base64.encodebytes(content + bytes(60)),
    "base64 in JSON": lambda content: json.dumps(base64.encodebytes(content).decode()).encode(),
    "UTF-16": lambda content: content.hex().encode("utf-16-le"),
    "UTF-16, big-endian": lambda content: content.hex().encode("utf-16-be"),
    "base64 of the digits": lambda content: base64.b64encode(b'{"seed": "' + content.hex().encode()),
    "hex of base64": lambda content: base64.b64encode(content).hex().encode(),
    "a list": lambda content: json.dumps(list(content)).encode(),
    "URL-encoded": lambda content: base64.b64encode(content).replace(b"+", b"%2B").replace(b"=", b"%3D"),
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("around", [b"", bytes(range(256)) * 3])
def test_a_seed_is_found(name: str, around: bytes) -> None:
    found = scan_bytes(around + ENCODINGS[name](SEED) + around, KEY)
    assert any("seed" in what for what in found)


@pytest.mark.parametrize(
    "content",
    [
        DIGITS,
        b"bits: " + b" ".join(DIGITS[place : place + 8] for place in range(0, 48, 8)),
        json.dumps(list(MESSAGE)).encode(),
        json.dumps([2 * bit - 1 for bit in MESSAGE]).encode(),
        bytes(MESSAGE),
        PACKED,
        PACKED.hex().encode(),
        b"message=" + base64.b64encode(b"q" + PACKED),
        base64.b64encode(b'"message": "' + DIGITS),
    ],
)
def test_a_message_is_found(content: bytes) -> None:
    assert any("message" in what for what in scan_bytes(b"\x00\x80" + content + b"\x80\x00", KEY))


@pytest.mark.parametrize("wrapped", [bytes, base64.b64encode, lambda content: content.hex().encode()])
@pytest.mark.parametrize("key", [KEY, KEY.public(), None])
def test_a_key_file_is_found_under_any_name_and_without_the_key(
    wrapped: Callable[[bytes], bytes], key: SecretKey | None, tmp_path: Path
) -> None:
    KEY.save(tmp_path / "k.json")
    content = (tmp_path / "k.json").read_bytes()
    (tmp_path / "k.json").unlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.bin").write_bytes(wrapped(content))
    findings = scan_folder(tmp_path, key)
    assert {finding.path for finding in findings} == {"folder/weights.bin"}
    shown = " ".join(map(str, findings))
    assert SEED.hex() not in shown
    assert DIGITS.decode() not in shown


def test_a_key_in_safetensors_metadata_is_found_though_it_is_escaped(tmp_path: Path) -> None:
    escaped = "".join(f"\\u{ord(digit):04x}" for digit in SEED.hex())
    header = json.dumps({"__metadata__": {"note": "?"}}).replace("?", escaped).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "v.safetensors", {"m": DIGITS.decode()})
    assert {finding.path for finding in scan_folder(tmp_path, KEY)} == {"v.safetensors", "w.safetensors"}


def test_a_key_among_the_numbers_of_the_weights_is_found(tmp_path: Path) -> None:
    weights = np.concatenate([np.zeros(999, np.uint8), np.frombuffer(SEED, np.uint8)])
    save_file({"w": weights}, tmp_path / "w.safetensors")
    assert scan_folder(tmp_path, KEY)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_key_in_png_text_is_found(compressed: bool, tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", base64.b64encode(SEED).decode(), zip=compressed)
    Image.new("RGB", (9, 9)).save(tmp_path / "p.png", pnginfo=text)
    assert scan_folder(tmp_path, KEY)


def zipped(content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inner", content)
    return archive.getvalue()


@pytest.mark.parametrize(
    "pack", [gzip.compress, zlib.compress, zipped, lambda text: gzip.compress(zipped(text))]
)
def test_a_key_in_an_archive_is_found(pack: Callable[[bytes], bytes]) -> None:
    assert scan_bytes(pack(b"x" * 99 + SEED), KEY)


def stored(content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.writestr("inner", content)
    return archive.getvalue()


def tarred(content: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        member = tarfile.TarInfo("inner")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    return archive.getvalue()


@pytest.mark.parametrize(
    "pack",
    [
        lambda text: stored(zipped(text)),
        lambda text: tarred(gzip.compress(text)),
        lambda text: stored(tarred(stored(gzip.compress(text)))),
        lambda text: gzip.compress(b"harmless") + gzip.compress(text),
        lambda text: bz2.compress(b"harmless") + bz2.compress(text),
        lambda text: gzip.compress(tarred(zipped(text))),
    ],
)
def test_a_key_in_an_archive_that_is_not_compressed_itself_is_found(pack: Callable[[bytes], bytes]) -> None:
    assert any("seed" in found for found in scan_bytes(pack(b"x" * 99 + SEED), KEY))
    assert scan_bytes(pack(b"x" * 99), KEY) == ()


def test_a_member_that_cannot_be_read_is_reported_and_hides_no_other() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("first", b"first" * 40)
        file.writestr("second", b"x" * 99 + SEED)
    content = bytearray(archive.getvalue())
    content[14] ^= 1  # the checksum of the first member, in its own header and in the directory
    content[content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02")) + 16] ^= 1
    found = scan_bytes(bytes(content), KEY)
    assert any("cannot be looked through" in what for what in found)
    assert any("seed" in what for what in found)


def test_what_is_packed_too_deeply_is_reported_and_not_passed() -> None:
    content = b"x" * 99
    for _ in range(8):
        content = gzip.compress(content)
    assert any("too deeply" in what for what in scan_bytes(content))


def test_a_key_across_two_windows_of_a_large_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_scan, "_WINDOW_BYTES", 4096)
    monkeypatch.setattr(secret_scan, "_OVERLAP_BYTES", 256)
    for at in range(4096 - 80, 4096 + 2, 13):
        (tmp_path / "w").write_bytes(bytes(at) + SEED.hex().encode() + bytes(5000))
        assert scan_folder(tmp_path, KEY), at


def test_a_name_and_a_link_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / f"{SEED.hex()}.txt").write_bytes(b"")
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert {finding.path[:4] for finding in scan_folder(tmp_path, KEY)} == {SEED.hex()[:4], "link"}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"seed": "' + b"ab" * 32 + b'"}', "seed"),
        (b"token = hf_" + b"aB3" * 12, "access token"),
        (b"-----BEGIN EC PRIVATE KEY-----\nMHcC", "private key"),
    ],
)
def test_other_secrets_are_known_by_their_form(content: bytes, what: str) -> None:
    assert any(what in found for found in scan_bytes(content))


def test_the_public_direction_is_found_where_only_its_commitment_may_be(tmp_path: Path) -> None:
    KEY.public().save(tmp_path / "k.pub.json")
    public = (tmp_path / "k.pub.json").read_bytes()
    for content in (
        public,
        json.dumps(KEY.direction_q.tolist()).encode(),
        json.dumps(KEY.direction.tolist(), separators=(",", ":")).encode(),
        KEY.direction.astype("<f4").tobytes(),
    ):
        assert scan_bytes(content, KEY.public(), direction_too=True)
        assert not scan_bytes(content, KEY)


def test_files_without_a_secret_pass() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
    words = b"The secret key's seed and message stay with the publisher. 01010101 0x12 key.json\n" * 99
    numbers = json.dumps([number % 2 for number in range(9999)]).encode()
    for content in (noise, words, numbers, base64.b64encode(noise), noise.hex().encode()):
        assert scan_bytes(content, KEY, direction_too=True) == ()


def test_a_short_message_does_not_make_every_file_suspicious() -> None:
    short = SecretKey(SEED, (1, 0, 1, 1), KEY.feature_version, KEY.dimension, KEY.statistics_sha256)
    assert scan_bytes(b"1011, [1, 0, 1, 1], b\x01\x00\x01\x01", short) == ()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_base64_gives_the_seed_away_whatever_is_around_it(before: bytes, after: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert scan_bytes(encode(before + SEED + after), KEY)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_damaged_containers_raise_nothing(content: bytes) -> None:
    for start in (
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\n",
        b"\x1f\x8b\x08",
        b"BZh9",
        b"\xfd7zXZ\0",
        b"{",
        b"\x78\x9c",
    ):
        scan_bytes(start + content)

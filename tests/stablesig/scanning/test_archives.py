"""The images in archives on this machine: which, by what names, and what is said of the rest."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from stablesig.scanning.archives import archive_items
from stablesig.scanning.item import Item
from stablesig.scanning.reading import ItemError, ReadOptions, read_item

CONTENT = {"0001.jpg": b"one" * 300, "0001.json": b"{}", "sub/0002.PNG": b"two" * 5000, "0001.cls": b"7"}
OPTIONS = ReadOptions(max_bytes=1 << 20)


def tar_bytes(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zip_bytes(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in content.items():
            made.writestr(name, data)
    return buffer.getvalue()


def zstandard(data: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(data, "zstd", asbytes=True)  # type: ignore[no-any-return]


def items(path: Path, *, all_files: bool = False, options: ReadOptions = OPTIONS) -> list[Item]:
    found = list(archive_items(str(path), options, all_files=all_files))
    assert len({item.identity for item in found}) == len(found)
    return found


def outcome(item: Item) -> bytes | str:
    try:
        return read_item(item, OPTIONS)
    except ItemError as error:
        return error.kind if str(error).startswith(item.path) else f"names another: {error}"


FORMS = {
    "s.tar": tar_bytes,
    "s.tar.gz": lambda content: gzip.compress(tar_bytes(content)),
    "s.tgz": lambda content: gzip.compress(tar_bytes(content)),
    "s.tar.bz2": lambda content: bz2.compress(tar_bytes(content)),
    "s.tar.xz": lambda content: lzma.compress(tar_bytes(content)),
    "s.tar.zst": lambda content: zstandard(tar_bytes(content)),
    "s.zip": zip_bytes,
    "really-gzip.tar": lambda content: gzip.compress(tar_bytes(content)),
}


@pytest.mark.parametrize("name", FORMS)
def test_images_of_every_form_come_with_their_bytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name](CONTENT))
    found = items(path)
    assert {item.path: outcome(item) for item in found} == {
        f"{path}::0001.jpg": CONTENT["0001.jpg"],
        f"{path}::sub/0002.PNG": CONTENT["sub/0002.PNG"],
    }
    in_place = name in ("s.tar", "s.zip")
    assert {item.kind for item in found} == {path.suffix[1:] if in_place else "data"}
    assert [item.size for item in found] == [900, 15000]
    assert len(items(path, all_files=True)) == len(CONTENT)


def test_a_name_that_comes_again_is_another_input(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(3):
            member = tarfile.TarInfo("a.jpg")
            member.size = 10
            tar.addfile(member, io.BytesIO(b"%d" % number * 10))
        member = tarfile.TarInfo("a.jpg::@1536")  # the name that the second has got
        tar.addfile(member)
    path = tmp_path / "s.tar"
    path.write_bytes(buffer.getvalue())
    found = items(path, all_files=True)
    assert [item.path.removeprefix(f"{path}::") for item in found[:3]] == [
        "a.jpg",
        "a.jpg::@1536",
        "a.jpg::@2560",
    ]
    assert [outcome(item) for item in found] == [b"0" * 10, b"1" * 10, b"2" * 10, b""]
    assert [item.path for item in items(path, all_files=True)] == [
        item.path for item in found
    ]  # the same in every run


def test_members_that_are_no_files_and_archives_in_archives_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (
            ("l.jpg", tarfile.SYMTYPE),
            ("d.jpg", tarfile.CHRTYPE),
            ("p.jpg", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
        for name in ("../../up.jpg", "/etc/abs.jpg", "inner.zip", "inner.tar.gz"):
            tar.addfile(tarfile.TarInfo(name))
    path = tmp_path / "s.tar"
    path.write_bytes(buffer.getvalue())
    assert {item.path.removeprefix(f"{path}::"): outcome(item) for item in items(path)} == {
        "l.jpg": "not-a-file",
        "d.jpg": "not-a-file",
        "p.jpg": "not-a-file",
        "../../up.jpg": b"",  # nothing is unpacked, so a name leads nowhere
        "/etc/abs.jpg": b"",
        "inner.zip": "archive",
        "inner.tar.gz": "archive",
    }


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("\udcff\n.jpg"))
    (item,) = items(path)
    assert item.path == f"{path}::\\xff\n.jpg"
    assert item.path_bytes == f"{path}::".encode() + b"\xff\n.jpg"
    assert outcome(item) == b""


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.tar.xz", "s.tar.zst", "s.zip"])
def test_one_cut_off_gives_what_is_there_and_is_refused_itself(name: str, tmp_path: Path) -> None:
    import random

    noise = random.Random(4).randbytes(400_000)
    path = tmp_path / name
    whole = FORMS[name]({"a.jpg": noise[:200_000], "b.jpg": noise[200_000:], "c.jpg": b"c"})
    path.write_bytes(whole[:300_000])
    outcomes = {item.path: outcome(item) for item in items(path)}
    if name == "s.zip":  # whose table of contents is at its end
        assert outcomes == {str(path): "archive"}
        return
    assert outcomes[f"{path}::a.jpg"] == noise[:200_000]
    assert outcomes.get(f"{path}::b.jpg", "archive") == "archive"
    assert outcomes[str(path)] == "archive"
    assert len(outcomes) in (2, 3)


def test_a_bomb_costs_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stablesig.scanning.archives._MAY_GROW", 1 << 20)
    bomb = tar_bytes({"a.jpg": b"ok", "big.bin": bytes(1 << 24), "b.jpg": b"never"})
    path = tmp_path / "s.tgz"
    path.write_bytes(gzip.compress(bomb))
    found = items(path)
    assert [(item.path, item.error_kind) for item in found] == [
        (f"{path}::a.jpg", None),
        (str(path), "archive"),
    ]
    assert "unpacks to more than" in str(found[-1].error)
    assert "after 1 images" in str(found[-1].error)


def test_a_member_over_the_bound_is_too_large_and_not_held(tmp_path: Path) -> None:
    for name in ("s.tar", "s.tgz", "s.zip"):
        path = tmp_path / name
        path.write_bytes(FORMS[name]({"big.jpg": bytes(OPTIONS.max_bytes + 1), "a.jpg": b"a"}))
        assert [outcome(item) for item in items(path)] == ["too-large", b"a"]


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "s.zip"])
@pytest.mark.parametrize("data", [b"", b"no archive" * 200, b"PK\3\4", b"\x1f\x8b\x08"])
def test_what_is_no_archive_is_one_refused_input(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    (item,) = items(path)
    assert (item.path, outcome(item)) == (str(path), "archive")


def test_one_without_images_says_so(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(tar_bytes({"a.txt": b"a"}))
    (item,) = items(path)
    assert item.error_kind == "missing"
    assert "holds no images" in str(item.error)


def test_an_archive_that_is_replaced_gives_errors_and_no_wrong_bytes(tmp_path: Path) -> None:
    for name in ("s.tar", "s.zip"):
        path = tmp_path / name
        path.write_bytes(FORMS[name](CONTENT))
        found = items(path)
        path.write_bytes(FORMS[name]({"other.jpg": b"x" * 50_000}))
        assert [outcome(item) for item in found] == ["archive", "archive"]
        path.unlink()
        assert [outcome(item) for item in found] == ["missing", "missing"]


def test_a_defect_in_reading_one_ends_that_archive_and_no_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OverflowError("too large for C")

    monkeypatch.setattr("stablesig.scanning.tar_format.members", broken)
    (tmp_path / "a.tar").write_bytes(tar_bytes(CONTENT))
    (item,) = items(tmp_path / "a.tar")
    assert (item.kind, item.error_kind) == ("refused", "archive")
    assert "OverflowError: too large for C" in str(item.error)


def test_members_of_one_size_that_change_places_are_not_taken_for_one_another(tmp_path: Path) -> None:
    path, content = tmp_path / "s.tar", {"a.bmp": b"a" * 600, "b.bmp": b"b" * 600}
    path.write_bytes(tar_bytes(content))
    found = items(path)
    assert [outcome(item) for item in found] == list(content.values())
    path.write_bytes(tar_bytes(dict(reversed(content.items()))))
    assert [outcome(item) for item in found] == ["archive", "archive"]


def test_a_short_name_may_stand_in_an_extension(tmp_path: Path) -> None:
    member = tarfile.TarInfo("other")
    member.size, member.pax_headers = 600, {"path": "a.bmp"}
    (tmp_path / "s.tar").write_bytes(member.tobuf(tarfile.PAX_FORMAT) + b"a" * 1024 + bytes(1024))
    (item,) = items(tmp_path / "s.tar")
    assert (item.member, outcome(item)) == ("a.bmp", b"a" * 600)

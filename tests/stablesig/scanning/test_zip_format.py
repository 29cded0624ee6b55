"""Zip archives, against Python's zipfile, and what strangers make of them."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib

import pytest

from stablesig.scanning import zip_format
from stablesig.scanning.item_error import ArchiveError

NOISE = random.Random(1).randbytes(100_000)
CONTENT = {"a.jpg": b"", "d/ü.png": b"x" * 200_000, "stored.png": NOISE, "d/": b"", "n" * 300 + ".jpg": b"q"}


def archive(method: int = zipfile.ZIP_DEFLATED, *, stream: bool = False, comment: bytes = b"") -> bytes:
    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *arguments: int) -> int:
            raise OSError

        def tell(self) -> int:
            raise OSError

    buffer = Unseekable() if stream else io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, data in CONTENT.items():
            made.writestr(name, data, zipfile.ZIP_STORED if name == "stored.png" else None)
        made.comment = comment
    return buffer.getvalue()


def listed(data: bytes) -> list[zip_format.ZipMember]:
    return list(zip_format.members(io.BytesIO(data)))


def read(data: bytes, member: zip_format.ZipMember, most: int = 1 << 21) -> bytes:
    return zip_format.read_member(io.BytesIO(data), member.offset, member.size, member.name, most)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("stream", [False, True])
def test_every_member_is_there_with_its_content(method: int, stream: bool) -> None:
    data = archive(method, stream=stream, comment=b"PK a comment")
    members = listed(data)
    assert [(member.name, member.size) for member in members] == [(k, len(v)) for k, v in CONTENT.items()]
    for member in members:
        assert read(data, member) == CONTENT[member.name]
    assert [member.name for member in members if member.kind == "folder"] == ["d/"]


def test_something_in_front_of_it_moves_its_offsets() -> None:
    data = b"#!/bin/sh\n" * 50 + archive()
    assert [read(data, member) for member in listed(data)] == list(CONTENT.values())


def test_the_form_for_large_archives_is_read() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made, made.open("a.png", "w", force_zip64=True) as member:
        member.write(NOISE)
    data = buffer.getvalue()
    # And the end of the table in it, which zipfile writes for archives of 4 GB only.
    end = data.rfind(b"PK\5\6")
    count, size, start = struct.unpack("<10xHLL2x", data[end:])
    record = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    full = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    for front in (b"", b"in front"):
        large = front + data[:end] + record + locator + full
        assert [read(large, one) for one in listed(large)] == [NOISE]


def test_one_cut_off_has_no_table() -> None:
    data = archive()
    for length in range(0, len(data) - 1, 5003):
        with pytest.raises(ArchiveError, match="cut off"):
            listed(data[:length])


def test_a_damaged_member_is_known_by_its_checksum_or_its_packing() -> None:
    data = bytearray(archive())
    stored = next(member for member in listed(bytes(data)) if member.name == "stored.png")
    data[stored.offset + 5000] ^= 1
    with pytest.raises(ArchiveError, match="checksum"):
        read(bytes(data), stored)
    packed = next(member for member in listed(bytes(data)) if member.name == "d/ü.png")
    for at in range(packed.offset + 40, packed.offset + 60):
        data[at] ^= 0x55
    with pytest.raises(ArchiveError):
        read(bytes(data), packed)


def test_an_encrypted_member_is_named_as_that() -> None:
    data = bytearray(archive())
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(signature) + at] |= 1
    members = listed(bytes(data))
    assert [member.kind for member in members[:2]] == ["encrypted", "file"]
    with pytest.raises(ArchiveError, match="encrypted"):
        read(bytes(data), members[0])


def test_a_link_is_no_file() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        link = zipfile.ZipInfo("l.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        made.writestr(link, "/etc/passwd")
    assert [member.kind for member in listed(buffer.getvalue())] == ["link"]


def lying(size: int) -> tuple[bytes, zip_format.ZipMember]:
    """A megabyte of zeros in a kilobyte, said to have `size` bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("bomb.png", bytes(1 << 20))
    data = bytearray(buffer.getvalue())
    at = data.find(b"PK\1\2") + 24
    data[at : at + 4] = size.to_bytes(4, "little")
    return bytes(data), listed(bytes(data))[0]


def test_a_bomb_is_unpacked_no_further_than_its_bound() -> None:
    data, honest = lying(1 << 20)
    with pytest.raises(ArchiveError, match="more than 65,536 bytes unpacked") as caught:
        read(data, honest, 1 << 16)
    assert caught.value.kind == "too-large"
    for size in (100, (1 << 20) - 1, (1 << 20) + 1):
        with pytest.raises(ArchiveError, match=r"another size|cut off|ends before"):
            read(*lying(size))


def test_names_without_the_flag_are_utf8_if_they_can_be() -> None:
    for raw, name in ((b"\xc3\xbc.jpg", "ü.jpg"), (b"\x81.jpg", "ü.jpg")):
        data = bytearray(archive())
        for signature, flags, at in ((b"PK\3\4", 6, 30), (b"PK\1\2", 8, 46)):
            place = data.find(signature)
            data[place + at : place + at + 5] = raw.ljust(5, b"g")[:5]
            assert not data[place + flags + 1] & 8
        found = listed(bytes(data))[0]
        assert found.name == name.ljust(len(found.name), "g")[: len(found.name)]
        assert read(bytes(data), found) == b""


def test_another_name_at_its_place_is_an_error() -> None:
    data = archive()
    with pytest.raises(ArchiveError, match="another name"):
        zip_format.read_member(io.BytesIO(data), 0, 0, "other.jpg", 100)
    with pytest.raises(ArchiveError, match="not where"):
        zip_format.read_member(io.BytesIO(data), 7, 0, "a.jpg", 100)


def test_a_method_that_is_not_read_is_named() -> None:
    data = archive(zipfile.ZIP_LZMA)
    with pytest.raises(ArchiveError, match="method 14"):
        read(data, listed(data)[1])


def test_flipped_bytes_raise_nothing_else() -> None:
    whole = archive(stream=True)
    start = whole.find(b"PK\1\2")
    draw = random.Random(3)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            data[draw.choice((draw.randrange(len(data)), draw.randrange(start, len(data))))] = draw.randrange(
                256
            )
        try:
            for member in listed(bytes(data)):
                read(bytes(data), member)
        except ArchiveError:
            pass


def test_checksums_are_those_of_zlib() -> None:
    data = archive()
    member = listed(data)[2]
    assert zlib.crc32(read(data, member)) == zlib.crc32(NOISE)


def test_a_place_that_no_file_has_is_damage() -> None:
    with pytest.raises(ArchiveError, match="not where the table"):
        zip_format.read_member(io.BytesIO(archive()), 2**64 - 1, 0, "a.jpg", 100)

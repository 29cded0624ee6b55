"""Tar headers: those of every writer, against Python's tarfile, and what strangers make of them."""

from __future__ import annotations

import contextlib
import io
import random
import tarfile

import pytest

from stablesig.scanning import tar_format
from stablesig.scanning.item_error import ArchiveError

NAMES = (
    "a.jpg",
    "d/ü.png",
    "n" * 300 + ".jpg",
    "p" * 90 + "/" + "q" * 90,
    "new\nline.jpg",
    "../up.jpg",
    "/abs.jpg",
)


def archive(form: int, names: tuple[str, ...] = NAMES, size: int = 700) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = size + number
            tar.addfile(member, io.BytesIO(bytes([65 + number]) * member.size))
    return buffer.getvalue()


def listed(data: bytes, most: int | None = None) -> list[tar_format.TarMember]:
    return list(tar_format.members(io.BytesIO(data), most))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_places_and_sizes_are_those_of_tarfile(form: int) -> None:
    names = (*NAMES, "\udcff\udcfe.jpg")
    data = archive(form, names)
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as tar:
        theirs = [(member.name, member.offset_data, member.size) for member in tar]
    mine = [(member.name, member.offset, member.size) for member in listed(data)]
    assert mine == theirs
    assert [name for name, _, _ in mine] == list(names)
    for number, (_, offset, size) in enumerate(mine):
        assert tar_format.read_member(io.BytesIO(data), offset, size, 10_000) == bytes([65 + number]) * size


def test_the_old_prefix_field_is_read() -> None:
    data = archive(tarfile.USTAR_FORMAT, ("p" * 90 + "/" + "q" * 90,))
    assert [member.name for member in listed(data)] == ["p" * 90 + "/" + "q" * 90]


def test_links_devices_and_folders_are_told_apart() -> None:
    buffer = io.BytesIO()
    kinds = {tarfile.SYMTYPE: "link", tarfile.LNKTYPE: "link", tarfile.CHRTYPE: "device"}
    kinds |= {tarfile.FIFOTYPE: "device", tarfile.DIRTYPE: "folder", tarfile.CONTTYPE: "file", b"Z": "other"}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in kinds:
            member = tarfile.TarInfo(f"x{kind!r}")
            member.type, member.linkname = kind, "a.jpg"
            tar.addfile(member)
        last = tarfile.TarInfo("last")
        last.size = 3
        tar.addfile(last, io.BytesIO(b"end"))
    members = listed(buffer.getvalue())
    assert [member.kind for member in members] == [*kinds.values(), "file"]
    assert members[-1].name == "last"


def test_sizes_above_eight_gigabytes_are_read() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        member = tarfile.TarInfo("huge")
        member.size = 9 << 30
        found = next(tar_format.members(io.BytesIO(member.tobuf(form))))
        assert found.size == 9 << 30


def test_sparse_files_of_both_forms_are_known_and_passed() -> None:
    old = bytearray(tarfile.TarInfo("sparse.jpg").tobuf(tarfile.GNU_FORMAT))
    old[156:157], old[482] = b"S", 1  # its map goes on in a block of its own
    old[148:156] = b" " * 8
    old[148:155] = b"%06o\0" % sum(old)
    data = bytes(old) + bytes(512) + archive(tarfile.GNU_FORMAT, ("after.jpg",))
    assert [(member.name, member.kind) for member in listed(data)] == [
        ("sparse.jpg", "sparse"),
        ("after.jpg", "file"),
    ]
    pax = tarfile.TarInfo("GNUSparseFile.0/s.jpg")
    pax.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s.jpg"}
    data = pax.tobuf(tarfile.PAX_FORMAT) + archive(tarfile.PAX_FORMAT, ("after.jpg",))
    assert (listed(data)[0].name, listed(data)[0].kind) == ("s.jpg", "sparse")


def test_one_cut_off_gives_what_came_before_and_says_so() -> None:
    data = archive(tarfile.PAX_FORMAT)
    whole = listed(data)
    seen = set()
    for length in range(0, whole[-1].offset + whole[-1].size, 257):
        found = []
        try:
            for member in tar_format.members(io.BytesIO(data[:length])):
                found.append(member)
        except ArchiveError as error:
            seen.add(str(error))
        else:  # cut where a header would begin: no different from a writer who ends there
            assert length % 512 == 0
        assert found == whole[: len(found)]
    assert any("cut off" in text for text in seen)


def test_a_damaged_header_ends_it_with_a_word() -> None:
    data = bytearray(archive(tarfile.GNU_FORMAT, ("a.jpg", "b.jpg")))
    data[1536 + 3] ^= 0x55  # in the name of the second
    found = tar_format.members(io.BytesIO(bytes(data)))
    assert next(found).name == "a.jpg"
    with pytest.raises(ArchiveError, match="damaged at byte 1,536"):
        next(found)


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"x" * 2000, random.Random(1).randbytes(5000)])
def test_what_is_no_tar_is_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"no tar archive|empty"):
        listed(data)


def test_an_extension_that_claims_gigabytes_is_not_read() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = b"L", 8 << 30
    with pytest.raises(ArchiveError, match="extended header"):
        listed(header.tobuf(tarfile.GNU_FORMAT) + bytes(5000))


@pytest.mark.parametrize(
    "record", [b"99999 path=x\n", b"0 path=x\n", b"x path=x\n", b"11 path\n", b"-5 a=b\n"]
)
def test_damaged_extensions_are_errors_and_never_loops(record: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = b"x", len(record)
    with pytest.raises(ArchiveError, match="extended header"):
        listed(header.tobuf(tarfile.GNU_FORMAT) + record.ljust(512, b"\0") + archive(tarfile.GNU_FORMAT))


def test_flipped_bytes_raise_nothing_else() -> None:
    whole = archive(tarfile.PAX_FORMAT)
    draw = random.Random(2)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        with contextlib.suppress(ArchiveError):
            listed(bytes(data))


def test_one_that_grows_past_its_bound_is_given_up() -> None:
    with pytest.raises(ArchiveError, match="more than 2,000"):
        listed(archive(tarfile.GNU_FORMAT), most=2000)


def test_a_member_that_is_no_longer_in_its_place_is_an_error() -> None:
    data = archive(tarfile.GNU_FORMAT)
    with pytest.raises(ArchiveError, match="changed"):
        tar_format.read_member(io.BytesIO(data[:512] + bytes(2000)), 1024, 700, 10_000)
    with pytest.raises(ArchiveError, match="more than 100 bytes") as caught:
        tar_format.read_member(io.BytesIO(data), 512, 700, 100)
    assert caught.value.kind == "too-large"
    with pytest.raises(ArchiveError, match="cut off"):
        tar_format.read_member(io.BytesIO(data[:900]), 512, 700, 10_000)


def test_sizes_that_no_file_can_have_are_damage() -> None:
    member = tarfile.TarInfo("a.jpg")
    member.size = 1 << 80
    with pytest.raises(ArchiveError, match="without a size"):
        listed(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    member.size, member.pax_headers = 0, {"size": "9" * 20}
    with pytest.raises(ArchiveError, match="extended header"):
        listed(member.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    member.size, member.pax_headers = 1 << 62, {}
    with pytest.raises(ArchiveError, match="cut off"):
        listed(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))

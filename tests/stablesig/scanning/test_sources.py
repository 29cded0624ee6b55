"""What sources name: each thing once, in order, whatever state the disk is in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from stablesig.scanning import folders
from stablesig.scanning.item import Item
from stablesig.scanning.reading import read_item
from stablesig.scanning.sources import SourceOptions, find_items
from stablesig_detector.errors import UsageError

from .test_archives import tar_bytes, zip_bytes


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode(errors="surrogateescape"))


def items(*sources: str, **options: object) -> list[Item]:
    return list(find_items(sources, SourceOptions(**options)))  # type: ignore[arg-type]


def found(*sources: str, **options: object) -> dict[str, str]:
    """Path -> how it is read, or why it is not."""
    return {item.path: item.error_kind or item.kind for item in items(*sources, **options)}


def test_a_folder_gives_its_images_in_order_and_each_name_as_it_is() -> None:
    made("d/b.JPG", "d/a.png", "d/c/d.webp", "d/notes.txt", "d/.hidden/e.gif", "d/new\nline.jpg", "d/z.tar")
    assert [item.path for item in items("d")] == [
        "d/.hidden/e.gif",
        "d/a.png",
        "d/b.JPG",
        "d/c/d.webp",
        "d/new\nline.jpg",
    ]
    assert found("./d//c/.") == {"d/c/d.webp": "file"}
    assert set(found("d", recursive=False)) == {"d/a.png", "d/b.JPG", "d/new\nline.jpg"}
    assert set(found("d", all_files=True)) == {*found("d"), "d/notes.txt", "d/z.tar"}
    assert all(read_item(item) == item.path.encode() for item in items("d"))


def test_a_name_that_is_not_utf8_is_read_by_its_bytes() -> None:
    made("d/\udcff\udcfe.jpg", "d/\\xff\\xfe.jpg")
    by_bytes, by_name = sorted(items("d"), key=lambda item: item.path_bytes is None)
    assert by_bytes.path == by_name.path == "d/\\xff\\xfe.jpg"
    assert (by_bytes.path_bytes, by_name.path_bytes) == (b"d/\xff\xfe.jpg", None)
    assert by_bytes.identity != by_name.identity
    assert read_item(by_bytes) == b"d/\xff\xfe.jpg"


def test_what_is_no_file_is_an_input_that_is_refused_and_never_opened() -> None:
    made("d/a.jpg", "elsewhere/b.jpg")
    os.mkfifo("d/pipe.jpg")
    os.mkfifo("d/pipe")
    Path("d/circle.jpg").symlink_to("circle.jpg")
    Path("d/nowhere.jpg").symlink_to("gone")
    Path("d/out.jpg").symlink_to("../elsewhere/b.jpg")
    Path("d/up").symlink_to("..")
    Path("d/same").symlink_to(".")
    Path("d/out").symlink_to("../elsewhere")
    Path("d/zero.png").symlink_to("/dev/zero")
    Path("d/folder.jpg").mkdir()
    assert found("d") == {
        "d/a.jpg": "file",
        "d/pipe.jpg": "not-a-file",
        "d/circle.jpg": "not-a-file",
        "d/nowhere.jpg": "missing",
        "d/out.jpg": "file",
        "d/out": "not-a-file",
        "d/up": "not-a-file",  # leads out of d
        "d/zero.png": "not-a-file",
    }
    assert found("d", all_files=True)["d/pipe"] == "not-a-file"
    assert found("d/pipe", "d/a.jpg") == {"d/pipe": "not-a-file", "d/a.jpg": "file"}


def test_links_to_folders_are_entered_once_if_asked_for() -> None:
    made("d/a.jpg", "elsewhere/b.jpg")
    for number in range(12):
        Path(f"d/l{number}").symlink_to("../elsewhere")
        Path(f"elsewhere/k{number}").symlink_to("../d")
    assert found("d", follow_links=True) == {"d/a.jpg": "file", "d/l0/b.jpg": "file"}


def test_folders_as_deep_as_the_system_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    top = tempfile.mkdtemp(dir="/tmp")  # and not pytest's own, which its removal could not go down into
    monkeypatch.chdir(top)
    place = os.open(".", os.O_RDONLY)
    try:
        for _ in range(1500):
            os.mkdir("d", dir_fd=place)
            below = os.open("d", os.O_RDONLY, dir_fd=place)
            os.close(place)
            place = below
        os.close(os.open("a.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=place))
        assert list(found("d").values()) == ["file"]
        for _ in range(8):
            os.mkdir("d" * 200, dir_fd=place)
            below = os.open("d" * 200, os.O_RDONLY, dir_fd=place)
            os.close(place)
            place = below
        assert sorted(found("d").values()) == ["file", "missing"]  # a path that is too long for the system
    finally:
        os.close(place)
        subprocess.run(["rm", "-rf", top], check=True)


def test_a_folder_that_may_not_be_read_is_refused_and_the_rest_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made("d/a.jpg", "d/closed/b.jpg", "d/io/c.jpg", "d/z.jpg")
    real = os.scandir

    def scandir(path: str) -> object:  # root may read everything; as_nobody in test_reading asks the system
        if path == "d/closed":
            raise PermissionError(13, "Permission denied", path)
        if path == "d/io":
            raise OSError(5, "Input/output error", path)
        return real(path)

    monkeypatch.setattr("stablesig.scanning.folders.os.scandir", scandir)
    expected = {"d/a.jpg": "file", "d/closed": "permission", "d/io": "damaged", "d/z.jpg": "file"}
    assert found("d") == expected
    assert found("d/**/*.jpg") == expected
    assert found("d/c*/*.jpg", "d/a.jpg") == {"d/closed": "permission", "d/a.jpg": "file"}


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone may")
def test_the_same_for_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    from .test_reading import as_nobody

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        made(f"{folder}/a.jpg", f"{folder}/closed/b.jpg")
        Path(folder, "closed").chmod(0)
        monkeypatch.chdir(folder)
        assert as_nobody(lambda: str(found("."))) == str({"a.jpg": "file", "closed": "permission"})


def test_a_folder_that_vanishes_on_the_way_is_refused() -> None:
    made("d/a.jpg", "d/b/c.jpg", "d/e.jpg")
    coming = find_items(["d"])
    assert next(coming).path == "d/a.jpg"
    shutil.rmtree("d/b")
    Path("d/e.jpg").unlink()
    rest = list(coming)
    assert [(item.path, item.error_kind) for item in rest] == [("d/b", "missing"), ("d/e.jpg", None)]
    with pytest.raises(Exception, match="gone by now"):
        read_item(rest[1])


def test_a_huge_folder_comes_in_sorted_pieces_and_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "SORTED_AT_ONCE", 500)
    Path("d").mkdir()
    for number in range(5000):
        Path(f"d/{number:05d}.jpg").touch()
    tracemalloc.start()
    try:
        names = {item.path for item in islice(find_items(["d"]), 1)}
        tracemalloc.reset_peak()
        count = sum(1 for _ in find_items(["d"]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(names), count) == (1, 5000)
    assert peak < 500 * 1000  # that is, for 500 entries and not for 5000
    piece = [item.path for item in islice(find_items(["d"]), 500)]
    assert piece == sorted(piece)


def test_patterns_match_files_folders_and_archives() -> None:
    made("d/1/a.jpg", "d/2/b.png", "d/2/c.txt", "d/noext", "[x]/a.jpg")
    Path("d/s-00.tar").write_bytes(tar_bytes({"m.jpg": b"m"}))
    assert found("d/*/*.jpg") == {"d/1/a.jpg": "file"}
    assert found("d/?") == {"d/1/a.jpg": "file", "d/2/b.png": "file"}
    assert found("d/**/*.*g") == {"d/1/a.jpg": "file", "d/2/b.png": "file"}
    assert found("d/2/*") == {"d/2/b.png": "file", "d/2/c.txt": "file"}  # whatever its name: it was named
    assert found("d/no*") == {"d/noext": "file"}
    assert found("d/*.tar") == {"d/s-00.tar::m.jpg": "tar"}
    assert found("[x]") == {"[x]/a.jpg": "file"}  # a folder of that name comes first
    assert found(f"{Path.cwd()}/d/1/*.jpg") == {f"{Path.cwd()}/d/1/a.jpg": "file"}
    with pytest.raises(UsageError, match="no file matches"):
        find_items(["d/*.gif"])
    with pytest.raises(UsageError, match="folders only"):
        find_items(["d/**/1"])


def test_shards_are_counted_in_braces() -> None:
    for number in (0, 1, 3):
        Path(f"s-{number:03d}.tar").write_bytes(tar_bytes({f"{number}.jpg": b"", f"{number}.json": b"{}"}))
    assert found("s-{000..003}.tar") == {
        "s-000.tar::0.jpg": "tar",
        "s-001.tar::1.jpg": "tar",
        "s-002.tar": "missing",
        "s-003.tar::3.jpg": "tar",
    }
    made("{a,b}.jpg")
    assert found("{a,b}.jpg") == {"{a,b}.jpg": "file"}


def test_archives_in_folders_are_opened_if_asked_for() -> None:
    made("d/a.jpg", "e/x")
    for name in ("d/s.tar", "e/s.tar"):
        Path(name).write_bytes(tar_bytes({"m.jpg": b"m"}))
    Path("d/z.zip").write_bytes(zip_bytes({"m.jpg": b"m"}))
    assert found("d") == {"d/a.jpg": "file"}
    assert found("d", archives=True) == {"d/a.jpg": "file", "d/s.tar::m.jpg": "tar", "d/z.zip::m.jpg": "zip"}
    (nothing,) = items("e")
    assert "to open the 1 archives in it, name them" in str(nothing.error)


def test_lists_name_files_addresses_and_archives() -> None:
    made("a.jpg", "sub/b.jpg")
    Path("s.tar").write_bytes(tar_bytes({"m.jpg": b"m"}))
    lines = [
        "./a.jpg",
        "sub//b.jpg",
        "gone.jpg",
        "s.tar",
        "https://u:secret@h/x.png?sig=secret",
        "s3://bucket/k y.png",
        f"file://{Path.cwd()}/a.jpg",
        "ftp://inside/x.png",
        "zip://x.png::http://169.254.169.254/",
        "file://elsewhere/x.png",
        " https://u:secret@h/y.png ",
        "see https://u:secret@h/z.png",
        "simplecache::https://u:secret@h/z.png",
    ]
    Path("l.txt").write_text("\r\n".join(lines))
    kinds = found("l.txt")
    assert kinds == {
        "a.jpg": "file",
        "sub/b.jpg": "file",
        "gone.jpg": "file",  # the worker will tell
        "s.tar::m.jpg": "tar",
        "https://***@h/x.png?sig=***": "url",
        "s3://bucket/k y.png": "remote",
        f"{Path.cwd()}/a.jpg": "file",
        "ftp://inside/x.png": "remote",
        "zip://x.png::http://169.254.169.254/": "remote",
        "file://elsewhere/x.png": "missing",
        "https://***@h/y.png": "url",
        "see https://***@h/z.png": "missing",
        "simplecache::https://***@h/z.png": "remote",
    }
    for item in items("l.txt"):
        if item.path.startswith(("ftp", "zip", "simplecache")):
            with pytest.raises(Exception, match="not read"):
                read_item(item)
    Path("named").write_bytes(b"a.jpg\0sub/b.jpg\0")
    assert found("@named") == {"a.jpg": "file", "sub/b.jpg": "file"}


def test_entries_that_name_nothing_are_refused_with_their_place() -> None:
    Path("l.csv").write_text('path\na.jpg\n""\nnul\0.jpg\n')
    Path("l.jsonl").write_text('{"url": "half \\ud800.jpg"}\nno\n')
    assert found("l.csv", "l.jsonl") == {
        "a.jpg": "file",
        "l.csv::line 3": "missing",
        "l.csv::line 4: nul\\x00.jpg": "missing",
        "l.jsonl::line 1: half \\ud800.jpg": "missing",
        "l.jsonl::line 2": "missing",
    }


def test_images_in_a_parquet_list_are_read_from_it() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [{"bytes": b"one", "path": "x.png"}]}), "l.parquet")
    (item,) = items("l.parquet")
    assert (item.path, read_item(item)) == ("l.parquet::row 1", b"one")


def test_a_list_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    made("pipe.txt")
    Path("pipe.txt").write_text("a.jpg\nb.jpg\n")
    with Path("pipe.txt").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert found("@-") == {"a.jpg": "file", "b.jpg": "file"}
    with pytest.raises(UsageError, match='"@-" reads a list'):
        find_items(["-"])


def test_patterns_of_lists_are_lists_and_a_bad_one_does_not_stop_the_scan() -> None:
    Path("l1.csv").write_text("path\na.jpg\n")
    Path("l2.csv").write_text("where\na.jpg\n")
    Path("l3.csv").write_text("")
    assert found("l*.csv") == {"a.jpg": "file", "l2.csv": "damaged", "l3.csv": "damaged"}


def test_empty_folders_and_lists_are_inputs_that_are_refused() -> None:
    Path("empty").mkdir()
    Path("l.txt").write_text("# nothing\n")
    assert found("empty", "l.txt") == {"empty": "missing", "l.txt": "missing"}


def test_what_is_wrong_with_the_call_is_said_before_the_scan_begins() -> None:
    made("a.jpg")
    Path("l.csv").write_text("id,where\n1,a.jpg\n")
    with pytest.raises(UsageError, match="no source is given"):
        find_items([])
    with pytest.raises(UsageError, match="it has 'id', 'where'"):
        find_items(["a.jpg", "l.csv"])
    assert found("l.csv", column="where") == {"a.jpg": "file"}
    with pytest.raises(UsageError, match="no source can be found: gone: is not there"):
        find_items(["gone", "also/gone", "gone.txt", "gone*", "nul\0", "s-{1..3}.tar", "", "@gone"])
    assert found("gone", "a.jpg", "gone.txt") == {"gone": "missing", "a.jpg": "file", "gone.txt": "missing"}


def test_it_is_lazy() -> None:
    def taken() -> Iterator[Item]:
        return islice(find_items(["a.jpg", "s-{0..999999999}.tar"]), 5)

    made("a.jpg")
    assert [item.path for item in taken()][:2] == ["a.jpg", "s-0.tar"]


def test_the_same_call_gives_the_same_items() -> None:
    made("d/a.jpg", "d/b/c.jpg", "d/\udcff.jpg")
    Path("d/s.tar").write_bytes(tar_bytes({"m.jpg": b"m"}))
    sources = ("d", "d/s.tar", "d/**/*.jpg")
    assert items(*sources) == items(*sources)
    assert len({item.identity for item in items(*sources)}) == 4


@pytest.mark.slow
def test_a_hundred_thousand_tiny_files() -> None:
    Path("d").mkdir()
    for number in range(100_000):
        Path(f"d/{number:06d}.jpg").write_bytes(b"x")
    paths = [item.path for item in items("d")]
    assert paths == [f"d/{number:06d}.jpg" for number in range(100_000)]

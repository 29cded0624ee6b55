"""Sources: every way to name images gives them in order, and what cannot be found takes a row."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from stablesig_detector import sources
from stablesig_detector.errors import ImageError
from stablesig_detector.sources import STANDARD_INPUT, Source, Unreadable, find_sources, read_source


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """b.png, a.JPG, notes.txt, and inner/ with c.webp and deep/d.heic."""
    (tmp_path / "inner/deep").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "notes.txt", "inner/c.webp", "inner/deep/d.heic"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def _found(*arguments: str, recursive: bool = True) -> list[str]:
    found = list(find_sources(arguments, recursive=recursive))
    assert all(isinstance(source, Source) for source in found), found
    return [source.name for source in found]


def _refused(*arguments: str) -> str:
    [problem] = find_sources(arguments)
    assert isinstance(problem, Unreadable)
    assert isinstance(problem.error, ImageError)
    assert str(problem.error).startswith(f"{problem.name}: ")
    return str(problem.error)


def test_a_file_may_have_any_name(album: Path) -> None:
    name = str(album / "notes.txt")
    assert list(find_sources([name])) == [Source(name, path=Path(name))]


def test_a_folder_is_searched_with_the_folders_in_it(album: Path) -> None:
    names = [str(album / name) for name in ("a.JPG", "b.png", "inner/c.webp", "inner/deep/d.heic")]
    assert _found(str(album)) == names
    assert _found(str(album), recursive=False) == names[:2]


def test_patterns(album: Path) -> None:
    assert _found(str(album / "*.png")) == [str(album / "b.png")]
    assert _found(str(album / "**/*.webp")) == [str(album / "inner/c.webp")]
    assert _found(str(album / "inn*")) == [str(album / "inner/c.webp"), str(album / "inner/deep/d.heic")]
    assert "no file matches this pattern" in _refused(str(album / "*.tiff"))


def test_a_file_whose_name_looks_like_a_pattern(album: Path) -> None:
    name = str(album / "b[1].png")
    Path(name).write_bytes(b"x")
    assert _found(name) == [name]


def test_addresses_are_handed_on_unopened() -> None:
    url = "HTTPS://example.org/a*.png?size=[2]"
    assert list(find_sources([url])) == [Source(url, url=url)]
    assert [source.name for source in find_sources(["http://me:pw@h.test/@a"])] == ["http://***@h.test/@a"]


def test_what_is_not_there(album: Path) -> None:
    assert _refused(str(album / "none.png")).endswith("no such file or folder; check the path")
    assert "cannot be read: Not a directory" in _refused(str(album / "b.png/x.png"))
    assert "is not a valid path" in _refused("a\0b")
    (album / "empty").mkdir()
    assert "holds no images" in _refused(str(album / "empty"))


def test_order_is_that_of_the_arguments_and_a_bad_one_costs_only_itself(album: Path) -> None:
    png, jpg = str(album / "b.png"), str(album / "a.JPG")
    first, missing, last = find_sources([png, str(album / "none.png"), jpg])
    assert (first.name, last.name) == (png, jpg)
    assert isinstance(missing, Unreadable)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_or_a_broken_link_in_a_folder_takes_a_row_and_is_not_opened(album: Path) -> None:
    os.mkfifo(album / "p.png")
    (album / "q.png").symlink_to(album / "gone.png")
    problems = [source for source in find_sources([str(album)]) if isinstance(source, Unreadable)]
    assert [Path(problem.name).name for problem in problems] == ["p.png", "q.png"]
    assert all("is not a regular file" in str(problem.error) for problem in problems)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_a_loop_of_links_ends(album: Path) -> None:
    (album / "inner/loop").symlink_to(album)
    assert len(_found(str(album))) == 4


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_links_in_circles_do_not_keep_a_pattern(album: Path) -> None:
    for name in ("inner/up", "inner/again", "inner/deep/top"):  # glob.glob would walk 3^40 paths
        (album / name).symlink_to(album)
    (album / ".hidden").mkdir()
    (album / ".hidden/h.webp").write_bytes(b"x")
    every = {str(album / name) for name in ("b.png", "inner/c.webp", "inner/deep/d.heic")}
    assert _found(str(album / "**/*.webp")) == [str(album / "inner/c.webp")]
    assert every <= set(_found(str(album / "**")))
    assert _found(str(album / "**/deep/**/*.heic")) == [str(album / "inner/deep/d.heic")]


def test_a_pattern_below_the_working_folder(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album)
    assert _found("**/*.webp") == [str(Path("inner/c.webp"))]
    assert _found("inner/**/*.heic") == [str(Path("inner/deep/d.heic"))]


def test_a_pattern_that_matches_folders_only_takes_a_row(album: Path) -> None:
    assert "matches folders only" in _refused(str(album / "**/deep"))


def test_what_may_not_be_looked_at_takes_a_row(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = os.stat

    def refuse(path: object, *arguments: object, **options: object) -> object:
        if str(path).endswith("c.webp"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refuse)
    found = list(find_sources([str(album)]))
    assert [Path(source.name).name for source in found] == ["a.JPG", "b.png", "c.webp", "d.heic"]
    assert isinstance(found[2], Unreadable)


def test_a_folder_that_may_not_be_read_takes_a_row(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    *readable, problem = find_sources([str(album)])
    assert len(readable) == 2
    assert isinstance(problem, Unreadable)
    assert "inner: cannot be read: Permission denied; check its permissions" in str(problem.error)


class _Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(b"picture"))
    first, second = find_sources(["-", "-"])
    assert first == Source(STANDARD_INPUT, data=b"picture")
    assert "picture" not in repr(first)
    assert isinstance(second, Unreadable)
    assert "can be read once" in str(second.error)


def test_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 10)
    monkeypatch.setattr(sys, "stdin", _Stdin(b"x" * 11))
    assert "standard input: is more than 10 bytes" in _refused("-")
    monkeypatch.setattr(sys, "stdin", None)
    assert "there is no standard input" in _refused("-")


def test_each_kind_of_source_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (1, 2, 3)).save(buffer, "PNG")
    data = buffer.getvalue()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    monkeypatch.setattr(sources, "fetch", lambda source, policy: data)
    kinds = [
        Source("a.png", path=path),
        Source(STANDARD_INPUT, data=data),
        Source("http://x/a.png", url="http://x/a.png"),
    ]
    assert [read_source(source).pixels[0, 0].tolist() for source in kinds] == [[1, 2, 3]] * 3


def test_messages_name_the_source() -> None:
    with pytest.raises(ImageError, match=r"^standard input: is not an image"):
        read_source(Source(STANDARD_INPUT, data=b"hello"))

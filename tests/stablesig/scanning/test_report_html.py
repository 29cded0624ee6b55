"""The page of a report, and the pictures on it."""

from __future__ import annotations

import base64
import io
import os
import time
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from stablesig.detect_output import ABSENCE
from stablesig.scanning import thumbnails as thumbnails_module
from stablesig.scanning.report import make_report
from stablesig.scanning.report_html import html_report
from stablesig.scanning.row import Row
from stablesig.scanning.run_folder import open_run
from stablesig.scanning.thumbnails import SIDE_PX, thumbnails

from ..conftest import textured_image
from .result_rows import absent, broken, hit

VOID = {"meta", "img", "br", "line", "rect", "polyline"}


class Page(HTMLParser):
    """Its text, the tags that are left open, and what it refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def page_of(out: Path, groups: list[list[Row]]) -> Page:
    with open_run(out, {"fpr": 1e-6, "n_keys": 3, "search": "fast"}) as run:
        with run.writer() as writer:
            for rows in groups:
                writer.add(rows)
        run.finish()
    report = make_report([str(out)])
    page = Page(html_report(report, thumbnails(report.hits)))
    assert not page.open
    return page


def test_the_page_says_what_was_found_and_what_it_is_worth(tmp_path: Path) -> None:
    groups = [[absent(1)], [hit(2, 1, key_state="revoked")], *[[broken(number)] for number in range(10, 15)]]
    page = page_of(tmp_path / "x.parquet", groups)
    for words in ("Scan of 7 images", ABSENCE, "2e-06 false hits are expected", "drawn at random", "revoked"):
        assert words in page.text
    assert "and 2 more" in page.text
    assert {"svg", "table"} <= page.tags


def test_a_scan_of_nothing_has_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path / "x.parquet", [])
    assert "Scan of 0 images" in page.text
    assert "No key was detected" in page.text


def test_nothing_from_outside_gets_into_the_markup(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"><img src=http://example.org/>\x00\u202e"
    groups = [
        [hit(1, path=evil, provider=evil, model_id=evil, key_state=evil, key_id=evil, format=evil)],
        [broken(2, evil, path=evil + "2", error=evil)],
    ]
    page = page_of(tmp_path / "x.parquet", groups)
    assert "script" not in page.tags
    assert "<script>alert" in page.text
    assert all(source.startswith("data:") for source in page.sources)


@pytest.fixture
def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(textured_image(1, 300, 400)).save(file, "PNG")
    return file.getvalue()


def hit_in(path: str, content: bytes, **changed: object) -> dict[str, object]:
    return {"path": path, "path_bytes": None, "sha256": sha256(content).hexdigest(), **changed}


def test_originals_are_shown_small(tmp_path: Path, picture: bytes) -> None:
    plain, odd = tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png"
    plain.write_bytes(picture)
    Path(os.fsdecode(odd)).write_bytes(picture)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("other.png", b"")
        archive.writestr("in/b.png", picture)
    hits = [
        hit_in(str(plain), picture),
        hit_in(odd.decode(errors="backslashreplace"), picture, path_bytes=odd),
        hit_in(f"{tmp_path}/z.zip::in/b.png", picture),
    ]
    for found in thumbnails(hits):
        assert found.picture is not None
        kind, _, content = found.picture.partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert image.size == (SIDE_PX, SIDE_PX * 3 // 4)


def test_what_is_gone_changed_broken_or_elsewhere_is_not_shown(tmp_path: Path, picture: bytes) -> None:
    for name, content in (("changed.png", picture + b" "), ("broken.png", picture[:1000])):
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.png", picture)
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    hits = [
        hit_in(str(tmp_path / "gone.png"), picture),
        hit_in(str(tmp_path / "changed.png"), picture),
        hit_in(str(tmp_path / "broken.png"), picture[:1000]),
        hit_in(str(tmp_path / "pipe.png"), picture),
        hit_in("https://example.org/a.png", picture),
        hit_in("s3://bucket/a.png", picture),
        hit_in(f"{tmp_path}/z.zip::b.png", picture),
        hit_in(f"{tmp_path}/bad.zip::b.png", picture),
    ]
    found = thumbnails(hits)
    assert [one.picture for one in found] == [None] * len(hits)
    assert all(one.missing for one in found)
    assert "changed since the scan" in found[1].missing
    assert "fetches nothing" in found[4].missing
    assert "fetches nothing" in found[5].missing


def test_no_text_from_outside_steers_the_page(tmp_path: Path) -> None:
    evil = "<script>\"'\u202e\x1b[2J"
    rows = [
        [hit(1, path=evil, provider=evil, model_id=evil, key_id=evil, key_state=evil, format=evil)],
        [broken(2, evil, path="0", error="a" * 395 + "<<<")],
    ]
    with open_run(tmp_path / "x.parquet", {"fpr": 1e-6, "search": "fast", "n_keys": 3}) as run:
        with run.writer() as writer:
            for group in rows:
                writer.add(group)
        run.finish()
    report = make_report([str(tmp_path / "x.parquet")])
    page = html_report(report, thumbnails(report.hits))
    assert not any(sign in page for sign in ("<script", "\u202e", "\x1b"))
    assert "a&lt;&lt;<" in page  # cut before it is escaped, not in the middle of an entity


def test_an_archive_without_end_costs_its_pictures_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_end(*_: object, **__: object) -> Iterator[None]:
        time.sleep(60)
        yield None

    (tmp_path / "x.tar.gz").write_bytes(b"")
    monkeypatch.setattr(thumbnails_module, "archive_items", without_end)
    monkeypatch.setattr(thumbnails_module, "ARCHIVE_SECONDS", 0.2)
    [found] = thumbnails([{"path": f"{tmp_path}/x.tar.gz::a.png", "path_bytes": None, "sha256": "0" * 64}])
    assert found.picture is None
    assert "0.2 s" in found.missing

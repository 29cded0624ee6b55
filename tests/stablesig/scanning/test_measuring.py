"""What an input's rows say. Whatever is the matter with it is a row and no exception."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stablesig.evidence import Request, measure
from stablesig.scanning import measuring
from stablesig.scanning.item import Item
from stablesig.scanning.measuring import RetryAloneError, WorkerState, measure_item
from stablesig.scanning.reading import ItemError, ReadOptions
from stablesig.scanning.row import Row
from stablesig_detector.detection import detect
from stablesig_detector.key_entry import KeyEntry
from stablesig_detector.key_set import KeySet
from stablesig_detector.sources import Source

from ..conftest import direction_between, textured_image
from .scanned import key_of, picture, rows_of_chunk, settings_for, timeless


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def data_item(data: bytes, path: str = "a.png") -> Item:
    return Item(path, "data", data=data)


def test_a_marked_image_has_the_evidence_that_detect_finds() -> None:
    settings = settings_for(1, 3)
    [row] = measure_item(data_item(png(picture(1))), settings, WorkerState())
    found = detect(picture(1), settings.keys, best=1)[0]
    assert (row.verdict, row.key_id, row.provider) == ("detected", key_of(1).id, "provider 1")
    assert (row.statistic, row.log10_p_value, row.n_keys) == (found.statistic, found.log10_p_value, 2)
    assert (row.width, row.height, row.format, row.key_state) == (128, 96, "PNG", "valid")
    assert row.seconds is not None
    assert row.time is not None
    assert 0 < row.seconds < 60


def test_an_image_has_a_row_for_each_key_that_is_detected_and_for_no_other() -> None:
    entries = [KeyEntry(key_of(1)), KeyEntry(replace(key_of(1), n_bits=32)), KeyEntry(key_of(4))]
    settings = replace(settings_for(), keys=KeySet.of(entries))
    rows = measure_item(data_item(png(picture(1))), settings, WorkerState())
    assert {row.key_id for row in rows} == {entries[0].key.id, entries[1].key.id}
    assert {row.verdict for row in rows} == {"detected"}


def test_an_unmarked_image_has_one_row_for_the_strongest_key() -> None:
    settings = settings_for(1, 3, 5)
    [row] = measure_item(data_item(png(picture(2))), settings, WorkerState())
    assert row.verdict == "not detected"
    strongest = min(found.log10_p_value for found in detect(picture(2), settings.keys))
    assert row.log10_p_value == pytest.approx(strongest, rel=1e-9)


def test_transparent_parts_are_judged_as_detect_judges_them() -> None:
    pixels = np.dstack([picture(1), np.full(picture(1).shape[:2], 255, np.uint8)])
    pixels[:40, :40, 3] = 0
    settings = settings_for(1)
    [row] = measure_item(data_item(png(pixels)), settings, WorkerState())
    evidence = measure(Source("a.png", data=png(pixels)), Request(settings.keys, settings.fpr, "fast"))
    assert evidence.best is not None
    assert row.background == evidence.background is not None
    assert row.log10_p_value == evidence.best.log10_p_value
    assert row.hypothesis_factor == 8  # four geometries, over two backgrounds


def test_a_screened_image_says_so_and_a_marked_one_is_measured_whole() -> None:
    marked, other = (textured_image(seed, 512, 512, slope=slope) for seed, slope in ((1, 1.0), (2, 0.5)))
    item = data_item(png(marked))
    key = direction_between(marked, other)
    against = replace(key, direction_q=-key.direction_q)  # its cosine is as negative as that of `key` is high
    for one, verdict in ((key, "detected"), (against, "not detected")):
        settings = replace(settings_for(), keys=KeySet.of([KeyEntry(one)]), search="none", screen=True)
        [row] = measure_item(item, settings, WorkerState())
        assert (row.verdict, row.screened) == (verdict, verdict == "not detected")


def huge_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (lambda: b"", "damaged"),
        (lambda: png(picture(1))[:2000], "damaged"),
        (lambda: b"%PDF-1.7 and so on", "no-image"),
        (lambda: b"just text", "no-image"),
        (lambda: png(picture(1)[:8, :8]), "too-small"),
        (huge_png, "too-large"),
    ],
)
def test_errors_are_rows_of_a_class_and_do_not_repeat_the_name(data: Callable[[], bytes], kind: str) -> None:
    [row] = measure_item(data_item(data(), "x is more than 3.png"), settings_for(), WorkerState())
    assert (row.verdict, row.error_kind) == ("unreadable", kind)
    assert row.error
    assert "x is more than" not in row.error
    assert row.sha256 is not None
    assert (row.bytes, row.key_id, row.p_value) == (len(data()), None, None)


def test_a_refused_or_missing_input_has_a_row_without_digest(tmp_path: Path) -> None:
    items = [
        Item("loop", "refused", error="leads in a circle", error_kind="not-a-file"),
        Item("gone.png", "file", str(tmp_path / "gone.png")),
    ]
    refused, gone = rows_of_chunk(items, settings_for(), WorkerState())
    assert (refused.error, refused.error_kind, refused.sha256) == ("leads in a circle", "not-a-file", None)
    assert (gone.path, gone.error_kind, gone.sha256) == ("gone.png", "missing", None)


def test_a_name_that_is_not_utf8_keeps_its_bytes_and_its_error_can_be_written() -> None:
    item = Item("\\xff.png", "file", "\udcff.png", path_bytes=b"\xff.png")
    [row] = measure_item(item, settings_for(), WorkerState())
    assert (row.path, row.path_bytes, row.error_kind) == ("\\xff.png", b"\xff.png", "missing")
    assert row.error is not None
    row.error.encode()


def test_a_defect_is_a_row_that_asks_for_a_report() -> None:
    def broken(item: Item, options: ReadOptions) -> bytes:
        raise ZeroDivisionError("division\nby zero")

    [row] = measure_item(data_item(b""), settings_for(), WorkerState(read=broken))
    assert row.error_kind == "defect"
    assert row.error == "met a defect of stablesig (ZeroDivisionError: division by zero); please report it"


def test_out_of_memory_is_tried_again_in_a_fresh_process_and_is_a_row_there() -> None:
    def hungry(item: Item, options: ReadOptions) -> bytes:
        raise MemoryError

    state = WorkerState(read=hungry)
    with pytest.raises(RetryAloneError):
        measure_item(data_item(b""), settings_for(), state, alone=False)
    [row] = measure_item(data_item(b""), settings_for(), state)
    assert row.error_kind == "memory"


def test_what_reading_raises_keeps_its_class() -> None:
    def read(item: Item, options: ReadOptions) -> bytes:
        raise ItemError(f"{item.path}: changes while it is read", "changing")

    [row] = measure_item(data_item(b""), settings_for(), WorkerState(read=read))
    assert (row.error, row.error_kind) == ("changes while it is read", "changing")


class TestDedup:
    def rows(self, dedup: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Row], int]:
        decoded = []
        decode = measuring.decode

        def counted(data: bytes, name: str, *, both: bool) -> object:
            decoded.append(name)
            return decode(data, name, both=both)

        monkeypatch.setattr(measuring, "decode", counted)
        marked, other = png(picture(1)), png(picture(2))
        items = [
            data_item(data, f"{place}.png")
            for place, data in enumerate((marked, other, marked, b"text", b"text", other))
        ]
        rows = rows_of_chunk(items, settings_for(1, dedup=dedup), WorkerState())
        return timeless(rows), len(decoded)

    def test_saves_work_and_changes_no_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            plain, without = self.rows(False, patch)
        with monkeypatch.context() as patch:
            deduplicated, decoded = self.rows(True, patch)
        assert deduplicated == plain
        assert (without, decoded) == (4, 2)  # what is no image is not decoded at all

    def test_keeps_what_was_used_last_and_no_more_than_its_bound(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(measuring, "KEPT", 2)
        state = WorkerState()
        for name in "ab":
            state.keep(name, [{}])
        state.recall("a")
        state.keep("c", [{}])
        assert [state.recall(name) is not None for name in "abc"] == [True, False, True]

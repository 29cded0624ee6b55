"""The fuzzer of the reader: its files are real, its cases repeat, and it finds what it is there to find."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from stablesig_detector.errors import ImageError
from stablesig_detector.formats import FORMATS
from stablesig_detector.reading import read_image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _modules() -> list[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return [importlib.import_module(name) for name in ("fuzz_corpus", "fuzz_reading")]
    finally:
        sys.path.remove(str(BENCHMARKS))


fuzz_corpus, fuzz_reading = _modules()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return dict(fuzz_corpus.corpus())


def test_intact_files_of_every_format_are_read(files: dict[str, bytes]) -> None:
    formats = set()
    for name, data in files.items():
        if name == "tiff-float":
            with pytest.raises(ImageError, match="no fixed range"):
                read_image(data)
            continue
        loaded = read_image(data, name=name)
        formats.add(loaded.format)
        assert sorted(loaded.pixels.shape) == [3, fuzz_corpus.HEIGHT, fuzz_corpus.WIDTH], name
    assert formats >= set(FORMATS) - {"AVIF", "HEIF"}  # which not every Pillow has


def test_a_case_is_its_number(files: dict[str, bytes]) -> None:
    first = [fuzz_reading.damaged(number, files) for number in range(60)]
    assert first == [fuzz_reading.damaged(number, files) for number in range(60)]
    assert {name for name, _ in first} == set(files)
    assert sum(data != files[name] for name, data in first) > 40


def test_some_hundred_cases_give_images_or_clean_errors(files: dict[str, bytes]) -> None:
    read = 0
    for number in range(300):
        try:
            read_image(fuzz_reading.damaged(number, files)[1])
        except ImageError:
            continue
        read += 1
    assert 30 < read < 200  # else the damage is too heavy, or none


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_run_goes_on_where_the_last_one_stopped_and_findings_make_it_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(cases: int) -> int:
        monkeypatch.setattr(sys, "argv", ["fuzz_reading.py", "--cases", str(cases), "--out", str(tmp_path)])
        return int(fuzz_reading.main())

    assert run(5) == 0

    def broken(_: bytes) -> None:
        raise ZeroDivisionError("found it")

    monkeypatch.setattr(fuzz_reading, "read_image", broken)
    assert run(7) == 1
    state = json.loads((tmp_path / "state.json").read_text())
    assert state["next"] == 7
    assert [finding[0] for finding in state["findings"]] == [5, 6]
    assert (tmp_path / "case-5.bin").exists()
    printed = capsys.readouterr()
    assert "7 cases" in printed.out
    assert "findings: 2" in printed.out
    assert "found it" in printed.err

"""Calibration classes are built of one image for one source, the same for a seed, and all measurable."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stablesig_detector.spectrum import MIN_SIDE, spectrum

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _modules() -> list[Any]:
    """The scripts see each other as they do when they are run: their folder is on the path."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return [importlib.import_module(name) for name in ("drawn_images", "calibration_images")]
    finally:
        sys.path.remove(str(BENCHMARKS))


drawn_images, calibration_images = _modules()

FAST = ["--count", "3", "--side", "96"]


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of photographs and of icons, in two sizes each."""
    monkeypatch.setattr(calibration_images, "SYSTEM_PICTURES", ())
    fast = [(name, draw) for name, draw in drawn_images.DRAWN if name != "charts"]
    monkeypatch.setattr(calibration_images, "DRAWN", fast)
    random = np.random.default_rng(0)
    for number in range(5):
        path = tmp_path / "photographs" / "deep" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (150, 130, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photographs" / "copy.png").write_bytes(path.read_bytes())
    for side in (64, 128):
        for name in ("star", "sun"):
            path = tmp_path / "icons" / str(side) / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (side, side, 4), dtype=np.uint8)).save(path)
    return tmp_path


def run(pictures: Path, out: str, *more: str) -> list[list[str]]:
    """The rows of the manifest, less its head."""
    places = ["--photographs", str(pictures / "photographs"), "--illustrations", str(pictures / "icons")]
    assert calibration_images.main(["--out", str(pictures / out), *places, *FAST, *more]) == 0
    head, *lines = (pictures / out / "MANIFEST.tsv").read_text().splitlines()
    assert head.split("\t") == ["class", "file", "source", "how"]
    return [line.split("\t") for line in lines]


def test_every_image_is_in_the_manifest_and_of_a_source_of_its_own(pictures: Path) -> None:
    rows = run(pictures, "out")
    written = {path.relative_to(pictures / "out").as_posix() for path in (pictures / "out").glob("*/*")}
    assert {row[1] for row in rows} == written
    made: dict[str, list[str]] = {}
    for row in rows:
        made.setdefault(row[0], []).append(row[2])
    for name in ("photographs", "jpeg-10", "tiny"):
        assert len(made[name]) == len(set(made[name])) == 3
    largest = [str(pictures / "icons" / "128" / f"{name}.png") for name in ("star", "sun")]
    assert sorted(made["illustrations"]) == largest
    assert {name for name, _ in calibration_images.DRAWN} <= set(made)
    for row in rows:
        with Image.open(pictures / "out" / row[1]) as image:
            assert image.mode == "RGB"
            assert min(image.size) >= MIN_SIDE
            assert max(image.size) <= 96
            assert image.format == ("JPEG" if row[0] == "jpeg-10" else "PNG")


def test_a_seed_gives_the_same_bytes_and_another_seed_others(pictures: Path) -> None:
    for out, seed in (("one", "0"), ("two", "0"), ("other", "1")):
        run(pictures, out, "--seed", seed)
    files = sorted(path.relative_to(pictures / "one") for path in (pictures / "one").rglob("*.png"))
    assert len(files) == 20
    same = [(pictures / "one" / f).read_bytes() == (pictures / "two" / f).read_bytes() for f in files]
    assert all(same)
    other = [(pictures / "one" / f).read_bytes() == (pictures / "other" / f).read_bytes() for f in files]
    assert sum(other) < len(other) / 2  # icons are taken whole, in whatever order


def test_photographs_of_the_whitening_statistics_are_apart(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    known = pictures / "photographs" / "deep" / "2.png"
    digest = hashlib.sha256(known.read_bytes()).hexdigest()
    monkeypatch.setattr(calibration_images, "fitted_images", lambda: frozenset({digest}))
    rows = run(pictures, "out", "--count", "9")
    assert [row[2] for row in rows if row[0] == "photographs-fitted"] == [str(known)]
    for name in ("photographs", "jpeg-10", "tiny"):
        assert str(known) not in [row[2] for row in rows if row[0] == name]
        assert len([row for row in rows if row[0] == name]) == 4  # five, a copy, and the known one


def test_jpegs_are_of_quality_ten(pictures: Path) -> None:
    run(pictures, "out")
    with Image.open(pictures / "out" / "jpeg-10" / "00001.jpg") as found:
        encoded = io.BytesIO()
        Image.new("RGB", (16, 16)).save(encoded, "JPEG", quality=10)
        assert found.quantization == Image.open(encoded).quantization


@pytest.mark.parametrize(("name", "draw"), drawn_images.DRAWN)
def test_what_is_drawn_can_be_measured(name: str, draw: Any) -> None:
    for seed in range(1 if name == "charts" else 5):
        pixels, how = draw(np.random.default_rng(seed), 96)
        assert pixels.shape == (96, 96, 3)
        assert pixels.dtype == np.uint8
        assert np.isfinite(spectrum(pixels).values).all()
        assert how


def test_mistakes_are_one_line_and_leave_nothing(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in pictures.iterdir())
    for arguments in (
        ["--out", str(pictures / "out")],
        ["--out", str(pictures / "out"), "--photographs", str(pictures / "none")],
        ["--out", str(pictures / "icons"), "--photographs", str(pictures / "photographs")],
    ):
        assert calibration_images.main(arguments) == 3
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in pictures.iterdir()) == before

"""Folders are searched, images measured once, and what was measured survives an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stablesig import calibration_measure
from stablesig.calibration_measure import (
    Cache,
    Measurement,
    Unreadable,
    find_images,
    fitted_images,
    measure,
    measure_all,
)
from stablesig_detector.errors import ImageError, UsageError
from stablesig_detector.image import load_image
from stablesig_detector.spectrum import MIN_SIDE, spectrum

from .conftest import textured_image


def write(path: Path, seed: int, side: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(textured_image(seed, side, side)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for seed, name in enumerate(("b.png", "a.PNG", "below/deep/c.jpg")):
        write(folder / name, seed)
    return folder


def test_a_folder_is_searched_to_its_depth_and_each_file_taken_once(folder: Path, tmp_path: Path) -> None:
    write(folder / ".hidden" / "d.png", 4)
    write(folder / ".e.png", 5)
    (folder / "notes.txt").write_text("no image")
    (folder / "below" / "again.png").symlink_to(folder / "b.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "elsewhere").symlink_to(write(tmp_path / "other" / "f.png", 6).parent)
    found = [path.relative_to(folder).as_posix() for path in find_images(folder)]
    assert found == ["a.PNG", "b.png", "below/deep/c.jpg"]


@pytest.mark.parametrize("name", ["missing", "empty", "file.png"])
def test_a_folder_without_images_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty" / "below").mkdir(parents=True)
    write(tmp_path / "file.png", 0)
    with pytest.raises(ImageError, match=name):
        find_images(tmp_path / name)


def test_an_image_is_measured_as_it_is(folder: Path) -> None:
    found = measure(folder / "b.png")
    assert isinstance(found, Measurement)
    assert np.array_equal(found.values, spectrum(load_image(folder / "b.png")).values)
    assert len(found.sha256) == 64


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    small = write(tmp_path / "small.png", 0, side=MIN_SIDE - 1)
    broken = tmp_path / "broken.png"
    broken.write_bytes(small.read_bytes()[:200])
    for path, reason in (
        (small, f"at least {MIN_SIDE}"),
        (broken, "truncated"),
        (tmp_path / "no", "No such"),
    ):
        found = measure(path)
        assert isinstance(found, Unreadable)
        assert found.file == path
        assert reason in found.reason
        assert str(path) not in found.reason


def test_several_processes_give_the_same_in_the_same_order(folder: Path, tmp_path: Path) -> None:
    files = find_images(folder)
    with Cache(tmp_path / "one") as one, Cache(tmp_path / "two") as two:
        alone = [outcome.sha256 for outcome in measure_all(files, one) if isinstance(outcome, Measurement)]
        together = list(measure_all(files, two, jobs=2))
    assert [outcome.sha256 for outcome in together if isinstance(outcome, Measurement)] == alone
    assert len(alone) == 3


def test_what_the_cache_holds_is_not_measured_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = find_images(folder)
    measured: list[Path] = []

    def recording(path: Path) -> calibration_measure.Outcome:
        measured.append(path)
        return measure(path)

    monkeypatch.setattr(calibration_measure, "measure", recording)
    with Cache(tmp_path / "cache") as cache:
        outcomes = measure_all(files, cache)
        first = next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]
        assert (len(cache), measured) == (1, files[:1])
    Image.fromarray(textured_image(9, 48, 48)).save(files[0])  # changed since
    with Cache(tmp_path / "cache") as cache:
        list(measure_all(files[1:], cache))
    measured.clear()
    with Cache(tmp_path / "cache") as cache:
        again = list(measure_all(files, cache))
    assert measured == files[:1]
    assert isinstance(first, Measurement)
    assert isinstance(again[0], Measurement)
    assert again[0].sha256 != first.sha256
    fresh = measure(files[1])
    assert isinstance(again[1], Measurement)
    assert isinstance(fresh, Measurement)
    assert np.array_equal(again[1].values, fresh.values)


def test_a_line_cut_short_is_dropped_and_the_rest_kept(folder: Path, tmp_path: Path) -> None:
    files = find_images(folder)
    path = tmp_path / "cache"
    with Cache(path) as cache:
        list(measure_all(files, cache))
    whole = path.read_bytes()
    for length, kept in ((len(whole) - 1, 2), (len(whole) - 3000, 1 if len(whole) < 9000 else 2), (20, 0)):
        path.write_bytes(whole[:length])
        with Cache(path) as cache:
            assert len(cache) == kept
            list(measure_all(files, cache))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("change", [{"dimension": 7}, {"feature_version": "spectrum-0"}, {"format": "x"}])
def test_measurements_of_other_features_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "cache"
    Cache(path).__exit__(None, None, None)
    header = json.loads(path.read_text()) | change
    path.write_text(json.dumps(header) + "\n")
    with pytest.raises(UsageError, match="leave out --resume"):
        Cache(path)
    assert json.loads(path.read_text()) == header


def test_the_images_of_the_shipped_statistics_are_known() -> None:
    assert len(fitted_images()) >= 100

"""The demo on the shipped autoencoder, cut short: the table says what the written files hold."""

from __future__ import annotations

import json
import math
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stablesig import demo
from stablesig.cli import main
from stablesig.demo import ATTACKS, DemoResult, run_demo
from stablesig_detector.errors import OutputError, OutputExistsError, TrainingError
from stablesig_detector.key import load_key, load_secret_key
from stablesig_train.finetuning import TrainingStep

IMAGES = ["fig", "meadow", "nuthatch", "stream"]


@pytest.fixture(scope="module")
def short() -> Callable[[int], Any]:
    full = demo.demo_config
    return lambda seed: replace(full(seed), steps=2, crops=4, device="cpu")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, short: Callable[[int], Any]) -> DemoResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "demo_config", short)
        return run_demo(tmp_path_factory.mktemp("demo") / "out", seed=3)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_everything_is_there_and_nothing_beside_it(result: DemoResult) -> None:
    assert [path.name for path in result.out.parent.iterdir()] == ["out"]
    assert sorted(path.name for path in result.out.iterdir()) == [
        "demo.png",
        "images",
        "publisher.json",
        "publisher.pub.json",
        "table.txt",
        "watermarked",
    ]
    assert sorted(path.name for path in (result.out / "images").iterdir()) == [
        f"{name}-{kind}.png" for name in IMAGES for kind in ("original", "watermarked")
    ]
    assert stat.S_IMODE(result.out.stat().st_mode) == 0o755
    assert stat.S_IMODE((result.out / "publisher.json").stat().st_mode) == 0o600
    facts = json.loads((result.embedding.out / "watermark.json").read_text())
    assert facts["config"]["seed"] == 3
    secret = load_secret_key(result.out / "publisher.json")
    assert secret.id == load_key(result.public_key).id == facts["key"]["id"] == result.embedding.key_id


def test_the_table_shows_every_measurement(result: DemoResult) -> None:
    text = str(result)
    assert (result.out / "table.txt").read_text() == text + "\n"
    lines = text.splitlines()
    assert all(name in lines[0] for name in ATTACKS)
    marked = lines[lines.index("watermarked decoder") + 1 :][:4]
    control = lines[lines.index("original decoder") + 1 :][:4]
    assert [line.split()[0] for line in marked] == [line.split()[0] for line in control] == IMAGES
    for row, marked_line, control_line in zip(result.rows, marked, control, strict=True):
        assert f"{row.psnr_db:.1f} dB" in marked_line
        for line, found in ((marked_line, row.watermarked), (control_line, row.original)):
            assert len(found) == len(ATTACKS)
            assert all(f"{detection.statistic:+.2f}" in line for detection in found)
            assert line.count("*") == sum(detection.detected for detection in found)
    assert all(len(line) <= 110 for line in lines[:-7])  # the paths below may be long
    assert "proves nothing" in " ".join(lines)


def test_a_star_marks_what_was_detected(result: DemoResult) -> None:
    row = result.rows[0]
    found = tuple(
        replace(detection, log10_p_value=log10_p)
        for detection, log10_p in zip(row.watermarked, (-30.0, -6.0, -5.99, 0.0), strict=True)
    )
    line = str(replace(result, rows=(replace(row, watermarked=found),))).splitlines()[3]
    assert line.split()[0] == row.image
    assert [part for part in line.split() if part == "*" or "e-" in part] == [
        "1.0e-30",
        "*",
        "1.0e-06",
        "*",
        "1.0e-06",
    ]


def test_the_command_line_finds_in_the_written_files_what_the_table_says(
    result: DemoResult, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(result.out / "images" / f"{name}-watermarked.png") for name in IMAGES]
    main(["detect", *paths, "--key", str(result.public_key), "--json"])
    answers = json.loads(capsys.readouterr().out)["results"]
    for row, answer in zip(result.rows, answers, strict=True):
        assert answer["detections"][0]["statistic"] == pytest.approx(row.watermarked[0].statistic, abs=1e-9)
        assert answer["detections"][0]["hypotheses"] == row.watermarked[0].hypotheses == 4
        pair = [
            read(result.out / "images" / f"{row.image}-{kind}.png") for kind in ("original", "watermarked")
        ]
        assert pair[0].shape == pair[1].shape == (512, 512, 3)
        mse = np.mean((pair[0].astype(float) - pair[1]) ** 2)
        assert row.psnr_db == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-6)


def test_the_control_is_not_detected_under_any_attack(result: DemoResult) -> None:
    # 16 exact p-values times 4 hypotheses: one below 1e-6 happens by chance in 1 of 60,000 runs
    assert not any(detection.detected for row in result.rows for detection in row.original)


def test_the_picture_shows_both_decoders_pixel_by_pixel(result: DemoResult) -> None:
    sheet = read(result.out / "demo.png")
    marked = read(result.out / "images" / "meadow-watermarked.png")[128:384, 128:384]
    rows, columns = np.nonzero((sheet[:-255, :-255] == marked[0, 0]).all(axis=2))
    assert any(
        np.array_equal(sheet[top : top + 256, left : left + 256], marked)
        for top, left in zip(rows, columns, strict=True)
    )


def test_attacks_do_what_they_are_called() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    attacked = {name: attack(picture, 1) for name, attack in demo.attacks().items()}
    assert tuple(attacked) == ATTACKS
    assert np.array_equal(attacked["no attack"], picture)
    assert attacked["JPEG 50"].shape == picture.shape
    assert 5 < np.abs(attacked["JPEG 50"].astype(float) - picture).mean() < 80
    assert attacked["crop 25 %"].shape == attacked["resize 50 %"].shape == (60, 100, 3)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (60, 100, 3))
    assert (windows == attacked["crop 25 %"]).all(axis=(3, 4, 5)).any()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError, match="out exists"):
        run_demo(tmp_path / "out")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="cannot be made"):
        run_demo(tmp_path / "file" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


@pytest.mark.parametrize(
    "failure", [TrainingError("it diverged"), KeyboardInterrupt(), OSError(28, "No space left")]
)
def test_a_demo_that_fails_leaves_nothing_not_even_its_key(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        [beside] = tmp_path.iterdir()
        assert stat.S_IMODE(beside.stat().st_mode) == 0o700
        assert (beside / "publisher.json").exists()
        raise failure

    monkeypatch.setattr("stablesig_train.embedding.embed", fail)
    expected = OutputError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        run_demo(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_shows_progress_on_stderr_and_the_table_on_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def record(out: Path, seed: int, progress: Any) -> str:
        progress(TrainingStep(7, 7, 0.25, 0.125, 40.5, 0.0))
        return f"{out} with seed {seed}"

    monkeypatch.setattr(demo, "run_demo", record)
    assert main(["demo", "--out", str(tmp_path / "out"), "--seed", "5"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'out'} with seed 5\n"
    assert err == "step 7/7  statistic +0.250  PSNR 40.5 dB  0 s left\n"


@pytest.mark.slow
def test_the_whole_demo_detects_every_image_within_five_minutes(tmp_path: Path) -> None:
    started = time.monotonic()
    result = run_demo(tmp_path / "out")
    assert time.monotonic() - started < 300
    for row in result.rows:
        assert row.watermarked[0].detected
        assert row.watermarked[ATTACKS.index("crop 25 %")].detected
        assert not any(detection.detected for detection in row.original)
    assert 40 <= result.embedding.measurement.psnr_mean_db <= 40.1

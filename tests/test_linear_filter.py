"""The yardstick of linear filters plans towards the key, within its energy, and filters what it says."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stablesig_detector.errors import UsageError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DATA = Path(__file__).parents[1] / "stablesig" / "data"


def _module() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("linear_filter")
    finally:
        sys.path.remove(str(BENCHMARKS))


linear_filter = _module()


def grating(cycles_per_pixel: float, amplitude: float = 40.0, size: int = 128) -> np.ndarray:
    row = 128 + amplitude * np.cos(2 * np.pi * cycles_per_pixel * np.arange(size))
    return np.repeat(np.tile(row, (size, 1))[..., None], 3, axis=2).round().astype(np.uint8)


def test_a_gain_changes_its_own_frequency_by_half_of_its_log_power() -> None:
    places = linear_filter.centres()
    [index] = [i for i, (y, x, s) in enumerate(places) if (y, x) == (0, 0.25) and s > 0.03]
    gains = np.zeros(len(places))
    gains[index] = 2 * np.log(1.5)
    louder, other = (linear_filter.filtered(grating(f), gains) for f in (0.25, 0.0625))
    assert np.ptp(louder[0, :, 0].astype(float)) == pytest.approx(1.5 * 80, abs=2)
    assert np.array_equal(other, grating(0.0625))


def test_the_energy_is_what_a_small_gain_costs() -> None:
    picture = np.random.default_rng(0).integers(64, 192, (96, 127, 3)).astype(np.uint8)
    gains = np.random.default_rng(1).normal(size=len(linear_filter.centres())) * 0.3
    predicted = gains @ linear_filter.energy(picture) @ gains
    change = linear_filter.filtered(picture, gains).astype(float) - picture
    assert np.mean(change**2) == pytest.approx(predicted + 1 / 12, rel=0.1)  # and the rounding


def test_the_plan_spends_its_budget_better_than_the_shortest_way_to_the_key() -> None:
    generator = np.random.default_rng(2)
    direction = generator.normal(size=232)
    direction /= np.linalg.norm(direction)
    shifts = {name: generator.normal(size=(232, 200)) for name in ("no attack", "JPEG 50")}
    measured = linear_filter.Responses(
        shifts, dict.fromkeys(shifts, 232.0), np.diag(np.geomspace(0.01, 100, 200))
    )
    weights = {"no attack": 0.5, "JPEG 50": 2.0}
    gains = linear_filter.plan(direction, measured, 48.0, weights)
    budget = 255**2 / 10**4.8
    assert gains @ measured.energy @ gains == pytest.approx(budget)

    def cosine(filter_: np.ndarray) -> float:
        moved = shifts["JPEG 50"] @ filter_
        return float(moved @ direction / np.sqrt(moved @ moved + 232))

    naive = shifts["JPEG 50"].T @ direction
    naive *= (budget / (naive @ measured.energy @ naive)) ** 0.5
    assert cosine(gains) > 1.5 * cosine(naive) > 0
    other = linear_filter.plan(direction, measured, 48.0, {"no attack": 2.0, "JPEG 50": 0.01})
    assert cosine(other) < cosine(gains)


def test_flat_pictures_cannot_be_planned_on() -> None:
    measured = linear_filter.Responses(
        {"no attack": np.zeros((232, 3))}, {"no attack": 232.0}, np.zeros((3, 3))
    )
    with pytest.raises(UsageError, match="flat"):
        linear_filter.plan(np.eye(232)[0], measured, 40.0, {"no attack": 1.0})


def test_a_small_run_prints_every_attack(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--keys", "1", "--pictures", "1", "--pairs", "1"]
    folders = ["--train", str(DATA / "demo-train"), "--test", str(DATA / "demo-images")]
    assert linear_filter.main(["--vae", str(DATA / "tiny-vae"), *folders, *few]) == 0
    printed = capsys.readouterr()
    assert all(f"| {name} | " in printed.out for name in linear_filter.available()[0])
    assert float(printed.out.partition("PSNR ")[2].split()[0]) == pytest.approx(40, abs=0.3)
    assert "planning: picture 1 of 1" in printed.err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--keys", "0", "--keys is a whole number from 1"), ("--psnr", "nan", "--psnr is between 20 and 50 dB")],
)
def test_a_wrong_number_is_a_usage_error(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert linear_filter.main(["--vae", "x", "--train", "x", "--test", "x", option, value]) == 2
    assert message in capsys.readouterr().err


def test_no_picture_is_both_planned_on_and_judged(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(DATA / "demo-images")
    assert linear_filter.main(["--vae", "x", "--train", folder, "--test", folder]) == 2
    assert "also trained on" in capsys.readouterr().err

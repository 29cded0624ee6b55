"""Whitening statistics: centred and isotropic directions, a careful command, a true record of the images."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stablesig_detector.errors import ImageError
from stablesig_detector.spectrum import DIMENSION
from stablesig_detector.whitening import DEFAULT_SHA256, Whitening
from stablesig_train.decoders import load_autoencoder
from stablesig_train.whitening_statistics import (
    Plan,
    fit,
    images_in,
    main,
    manifest,
    measure,
    measure_in_processes,
)

from .textures import textured

Array = NDArray[np.float64]
FAST = Plan(views=1, attacked=1)


# fit()


def heavy_tailed(n: int = 4000, dimension: int = 8) -> Array:
    """(n, dimension) of correlated directions, lengths over four decades, and a cluster of far strays.

    Few photographs are far from the rest, and all to one side: their squares decide a covariance, and pull a
    mean.
    """
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((dimension, dimension)) * np.logspace(0, -1, dimension)
    lengths = np.exp(1.5 * generator.standard_normal(n))
    samples = lengths[:, None] * generator.standard_normal((n, dimension)) @ mixing.T
    samples[: n // 50] += 200 * mixing[:, 0]
    return 5.0 + samples


def moments(mean: Array, matrix: Array, samples: Array) -> tuple[float, float]:
    """Of the directions phi / |phi|: the length of their mean, and the condition number of their scatter."""
    phi = (samples - mean) @ matrix.T
    directions = phi / np.linalg.norm(phi, axis=1, keepdims=True)
    spread = np.linalg.eigvalsh(directions.T @ directions)
    return float(np.linalg.norm(directions.mean(axis=0))), float(spread[-1] / spread[0])


def test_directions_come_out_centred_and_isotropic_where_plain_moments_leave_them_askew() -> None:
    samples = heavy_tailed()
    plain_mean = samples.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(samples.T))
    centre, condition = moments(plain_mean, (vectors / np.sqrt(values)).T, samples)
    assert centre > 0.3
    assert condition > 2
    centre, condition = moments(*fit(samples, ridge=1e-9), samples)
    assert centre < 1e-4
    assert condition < 1.001


def test_the_median_squared_length_is_the_dimension() -> None:
    samples = heavy_tailed()
    mean, matrix = fit(samples, ridge=1e-9)
    lengths = (((samples - mean) @ matrix.T) ** 2).sum(axis=1)
    assert np.median(lengths) == pytest.approx(samples.shape[1], rel=0.01)


def test_the_ridge_is_the_smallest_spread_that_is_believed() -> None:
    samples = heavy_tailed()
    samples = np.concatenate(
        [samples, np.full((len(samples), 1), 3.0)], axis=1
    )  # a feature that never varies
    mean, matrix = fit(samples, ridge=1e-4)
    assert np.isfinite(matrix).all()
    assert np.linalg.norm(matrix, ord=2) == pytest.approx(1e-4**-0.5, rel=1e-3)
    assert mean[-1] == pytest.approx(3.0)


# measure()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(textured(seed, 200, 180)).save(folder / f"{seed}.png")
    return folder


def test_each_photograph_is_measured_as_it_is_decoded_and_attacked(
    photos: Path, make_folder: Callable[..., Path]
) -> None:
    decoder = load_autoencoder(make_folder("AutoencoderTiny"))
    found = list(measure(images_in([photos]), [decoder], Plan(views=2, attacked=1, seed=4)))
    assert [sample.shape for sample in found] == [(DIMENSION,)] * 2 * 2 * 3
    assert np.isfinite(found).all()
    assert len({sample.tobytes() for sample in found}) == len(found)
    again = list(measure(images_in([photos])[1:], [], FAST))
    assert not np.array_equal(again[0], found[6])  # another seed, another view


def test_a_grey_photograph_of_16_bits_is_rounded_to_8(tmp_path: Path) -> None:
    grey = textured(0, 200, 180)[..., 0]
    for name, pixels in (("wide", grey.astype(np.uint16) * 257), ("narrow", grey)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    wide, narrow = (list(measure([tmp_path / f"{name}.png"], [], FAST)) for name in ("wide", "narrow"))
    assert np.array_equal(wide, narrow)


def test_the_same_seed_gives_the_same_spectra(photos: Path) -> None:
    first, second = (np.array(list(measure(images_in([photos]), [], FAST))) for _ in range(2))
    assert np.array_equal(first, second)


def test_processes_change_nothing(photos: Path, make_folder: Callable[..., Path]) -> None:
    folder = make_folder("AutoencoderTiny")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: more threads add up in another order
    try:
        alone = list(measure(images_in([photos]), [load_autoencoder(folder)], FAST))
    finally:
        torch.set_num_threads(threads)
    shared = list(measure_in_processes(images_in([photos]), [str(folder)], FAST, jobs=2))
    assert np.array_equal(alone, shared)


# The command.


def run(photos: Path, out: Path, *options: str) -> int:
    return main(["--images", str(photos), "--out", str(out), *options])


def test_the_command_writes_statistics_that_the_detector_reads_and_a_manifest(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.safetensors"
    assert run(photos, out) == 0
    printed = capsys.readouterr()
    whitening = Whitening.load(out, expected_sha256=printed.out.strip())
    assert np.linalg.matrix_rank(whitening.matrix) == DIMENSION
    assert "42 of 42 spectra" in printed.err
    expected = [
        [name, hashlib.sha256((photos / name).read_bytes()).hexdigest()] for name in ("0.png", "1.png")
    ]
    lines = (tmp_path / "w.tsv").read_text().splitlines()
    assert [line.split("\t") for line in lines] == [["file", "sha256"], *expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "w.safetensors", "w.tsv"]


@pytest.mark.parametrize("taken", ["w.safetensors", "w.tsv"])
def test_nothing_is_overwritten(
    taken: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / taken).write_text("precious")
    assert run(photos, tmp_path / "w.safetensors") == 8
    assert f"{tmp_path / taken} exists; name another file or remove it" in capsys.readouterr().err
    assert (tmp_path / taken).read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", taken]


def test_mistakes_are_one_line_with_the_exit_code_of_their_kind(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes((photos / "0.png").read_bytes()[:900])
    out = tmp_path / "w.safetensors"
    for images, options, code, problem in (
        ("empty", [], 3, "empty: no image in it; name a folder of photographs"),
        ("broken", [], 3, "a.png"),
        ("photos", ["--decoder", str(tmp_path / "none")], 6, "none is no file, folder or Hub id"),
        ("photos", ["--jobs", "0"], 2, "--jobs is a whole number from 1; got 0"),
    ):
        assert run(tmp_path / images, out, *options) == code
        err = capsys.readouterr().err
        assert err.startswith("whitening_statistics: ")
        assert err.count("\n") == 1
        assert problem in err
    assert not out.exists()


def test_a_folder_without_images_is_named_among_others(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    with pytest.raises(ImageError, match=r"notes: no image"):
        images_in([photos, tmp_path / "notes"])


# What ships.


def rows(package: str, name: str) -> list[dict[str, str]]:
    text = files(package).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_shipped_statistics_come_from_images_whose_origin_and_licence_are_listed() -> None:
    used = rows("stablesig_detector", "data/whitening.tsv")
    listed = {row["sha256"]: row["licence"] for row in rows("stablesig", "data/tiny-vae/manifest.tsv")}
    assert len(used) == len({row["sha256"] for row in used}) == 115
    assert [row["file"] for row in used if not listed.get(row["sha256"])] == []


def test_the_shipped_file_is_the_one_the_detector_expects() -> None:
    data = files("stablesig_detector").joinpath("data/whitening.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == DEFAULT_SHA256


def test_the_manifest_lists_files_in_the_order_given(photos: Path) -> None:
    names = [line.split("\t")[0] for line in manifest([photos / "1.png", photos / "0.png"]).splitlines()]
    assert names == ["file", "1.png", "0.png"]

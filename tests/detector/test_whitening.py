"""Whitening statistics: what is accepted, and what they do."""

import numpy as np
import pytest
from safetensors.numpy import save

from stablesig_detector.errors import StatisticsError
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION
from stablesig_detector.whitening import DEFAULT_SHA256, Whitening, load_default


def tensors(**changes):
    mean, matrix = np.arange(DIMENSION, dtype=np.float64), np.eye(DIMENSION, dtype=np.float32) * 2
    return {f"{FEATURE_VERSION}.mean": mean, f"{FEATURE_VERSION}.matrix": matrix} | changes


def test_the_shipped_statistics_match_their_hash() -> None:
    whitening = load_default()
    assert whitening.sha256 == DEFAULT_SHA256
    assert np.linalg.matrix_rank(whitening.matrix) == DIMENSION


def test_apply_centres_and_scales() -> None:
    whitening = Whitening.from_bytes(save(tensors()), where="test")
    values = np.arange(DIMENSION) + 1.5
    assert np.allclose(whitening.apply(values), 3.0)
    assert whitening.apply(np.stack([values, values])).shape == (2, DIMENSION)


def test_a_changed_byte_is_noticed(tmp_path) -> None:
    data = bytearray(save(tensors()))
    good = Whitening.from_bytes(bytes(data), where="test").sha256
    data[-1] ^= 1
    path = tmp_path / "w.safetensors"
    path.write_bytes(bytes(data))
    with pytest.raises(StatisticsError, match=r"w\.safetensors: SHA-256 is .* reinstall"):
        Whitening.load(path, good)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 40,
        save({"x": np.zeros(3)}),
        save(tensors(**{f"{FEATURE_VERSION}.mean": np.zeros(DIMENSION + 1)})),
        save(tensors(**{f"{FEATURE_VERSION}.mean": np.full(DIMENSION, np.nan)})),
        save(tensors())[:-5],
    ],
    ids=["empty", "zeros", "other tensors", "other dimension", "nan", "truncated"],
)
def test_anything_else_is_refused(data) -> None:
    with pytest.raises(StatisticsError, match="test"):
        Whitening.from_bytes(data, where="test")


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(StatisticsError, match=r"none\.safetensors: No such file"):
        Whitening.load(tmp_path / "none.safetensors")

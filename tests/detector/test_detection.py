"""From features and keys to evidence: the right numbers, the right corrections, the right refusals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stablesig_detector.detection import TRANSFORMS, Detection, check_key, detect, weigh
from stablesig_detector.errors import ImageError, KeyFileError, UsageError
from stablesig_detector.key import PublicKey, SecretKey
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION, spectrum
from stablesig_detector.statistics import binomial_log10_p, spherical_log10_p
from stablesig_detector.whitening import load_default

D = 120
SHA = "0" * 64


def _key(n: int, bits: int = 48) -> SecretKey:
    rng = np.random.default_rng(n)
    return SecretKey(rng.bytes(32), tuple(rng.integers(0, 2, bits).tolist()), "spectrum-test", D, SHA)


def _features(key: SecretKey | PublicKey, cosine: float, n: int = 0) -> np.ndarray:
    """(D,) features of norm 7 at a given cosine to the key's direction."""
    across = np.random.default_rng(n).standard_normal(key.dimension)
    across -= (across @ key.direction) * key.direction
    across /= np.linalg.norm(across)
    return 7.0 * (cosine * key.direction + math.sqrt(1 - cosine**2) * across)


# weigh(): no image, no whitening.


def test_the_statistic_and_its_p_value() -> None:
    key = _key(1)
    [found] = weigh({"identity": _features(key, 0.6)}, [key], 1e-6, width=640, height=480)
    assert found.statistic == pytest.approx(0.6, abs=1e-12)
    assert found.log10_p_value == pytest.approx(spherical_log10_p(0.6, D), abs=1e-9)
    assert found.p_value == pytest.approx(10**found.log10_p_value)
    assert (found.key_id, found.dimension, found.feature_version) == (key.id, D, "spectrum-test")
    assert (found.width, found.height, found.hypotheses, found.n_keys) == (640, 480, 1, 1)


def test_the_best_hypothesis_wins_and_all_are_paid_for() -> None:
    key = _key(1)
    features = {
        "identity": _features(key, 0.1),
        "flip": _features(key, 0.5, 1),
        "rot90": _features(key, -0.9, 2),
    }
    [found] = weigh(features, [key], 1e-6, width=64, height=64)
    assert found.transform == "flip"
    assert found.hypotheses == 3
    assert found.log10_p_value == pytest.approx(spherical_log10_p(0.5, D) + math.log10(3), abs=1e-9)


def test_many_keys_at_once_are_each_weighed_and_all_paid_for() -> None:
    keys: list[SecretKey | PublicKey] = [_key(n) for n in range(50)]
    keys[20] = keys[20].public()  # type: ignore[union-attr]
    features = {"identity": _features(keys[7], 0.55), "flip": _features(keys[20], 0.55, 1)}
    together = weigh(features, keys, 1e-6, width=64, height=64)
    assert [found.key_id for found in together] == [key.id for key in keys]
    assert [(n, found.transform) for n, found in enumerate(together) if found.detected] == [
        (7, "identity"),
        (20, "flip"),
    ]
    for key, found in zip(keys, together, strict=True):
        [alone] = weigh(features, [key], 1e-6, width=64, height=64)
        assert found.statistic == pytest.approx(alone.statistic, abs=1e-12)
        assert found.n_keys == 50
        assert found.log10_p_value == pytest.approx(min(0.0, alone.log10_p_value + math.log10(50)), abs=1e-9)


def test_a_correction_never_exceeds_one() -> None:
    key = _key(1)
    [found] = weigh({"identity": _features(key, -0.5)}, [key], 0.5, width=64, height=64)
    assert found.log10_p_value == pytest.approx(0.0, abs=1e-6)
    assert found.p_value <= 1.0
    [half] = weigh(dict.fromkeys(TRANSFORMS["fast"], _features(key, 0.0)), [key], 0.5, width=64, height=64)
    assert half.log10_p_value == 0.0
    assert not half.detected


def test_detected_means_at_most_the_rate_asked_for() -> None:
    key = _key(1)
    features = {"identity": _features(key, 0.5)}
    p = 10 ** spherical_log10_p(0.5, D)
    for fpr, expected in ((p * 1.001, True), (p * 0.999, False)):
        [found] = weigh(features, [key], fpr, width=64, height=64)
        assert (found.detected, found.fpr) == (expected, fpr)


def test_a_secret_key_reads_the_message() -> None:
    key = _key(1)
    [whole] = weigh({"identity": 3 * key.direction}, [key], 1e-6, width=64, height=64)
    assert (whole.message_bits, whole.matches, whole.n_bits) == (key.message, 48, 48)
    assert whole.bits_log10_p == pytest.approx(-48 * math.log10(2))
    signs = 2 * np.array(key.message) - 1
    signs[:5] *= -1
    [most] = weigh({"identity": signs @ key.carriers}, [key], 1e-6, width=64, height=64)
    assert most.matches == 43
    assert most.bits_log10_p == binomial_log10_p(43, 48)
    assert most.message_bits == (*(1 - bit for bit in key.message[:5]), *key.message[5:])


def test_bits_are_read_under_the_hypothesis_that_won() -> None:
    key = _key(1)
    [found] = weigh({"identity": -key.direction, "flip": key.direction}, [key], 1e-6, width=64, height=64)
    assert (found.transform, found.matches) == ("flip", 48)


def test_a_public_key_reads_no_bits_and_the_same_statistic() -> None:
    key = _key(1)
    features = {"identity": _features(key, 0.6)}
    secret, public = weigh(features, [key, key.public()], 1e-6, width=64, height=64)
    assert (public.matches, public.n_bits, public.bits_log10_p, public.message_bits) == (
        None,
        None,
        None,
        None,
    )
    assert (public.statistic, public.log10_p_value) == (secret.statistic, secret.log10_p_value)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_features_that_point_nowhere_are_no_evidence(value: float) -> None:
    [found] = weigh({"identity": np.full(D, value)}, [_key(1)], 1e-6, width=64, height=64)
    assert found.statistic == 0.0
    assert found.p_value == pytest.approx(0.5)
    assert not found.detected


def test_evidence_does_not_print_the_message() -> None:
    key = _key(1)
    [found] = weigh({"identity": key.direction}, [key], 1e-6, width=64, height=64)
    assert str(list(key.message))[1:-1] not in repr(found)
    assert "message_bits" not in repr(found)
    assert "statistic=" in repr(found)


def test_evidence_cannot_be_changed() -> None:
    [found] = weigh({"identity": _key(1).direction}, [_key(1)], 1e-6, width=64, height=64)
    with pytest.raises(AttributeError):
        found.statistic = 1.0  # type: ignore[misc]


def test_p_values_below_the_smallest_float_keep_their_logarithm() -> None:
    key = _key(1)
    [found] = weigh({"identity": _features(key, 1 - 1e-9)}, [key], 1e-6, width=64, height=64)
    assert found.log10_p_value < -400
    assert found.p_value == 0.0
    assert found.detected


# detect(): real images, real features.


def _photo(height: int = 150, width: int = 200) -> np.ndarray:
    """(H, W, 3) uint8: coloured noise with a direction in it, so that all four classes differ."""
    noise = np.random.default_rng(5).standard_normal((height + 8, width + 24, 3))
    smooth = sum(noise[k // 3 : height + k // 3, k : width + k] for k in range(24))
    return np.clip(128 + 9 * np.asarray(smooth), 0, 255).astype(np.uint8)


def _key_of(pixels: np.ndarray) -> PublicKey:
    """The key whose watermark `pixels` hold as strongly as can be: its direction is their features'."""
    phi = load_default().apply(spectrum(pixels).values)
    direction_q = np.rint(phi / np.linalg.norm(phi) * 2**20).astype(np.int32)
    return PublicKey(direction_q, 48, FEATURE_VERSION, load_default().sha256)


def _drawn(n: int) -> SecretKey:
    rng = np.random.default_rng(n)
    message = tuple(rng.integers(0, 2, 48).tolist())
    return SecretKey(rng.bytes(32), message, FEATURE_VERSION, DIMENSION, load_default().sha256)


def test_a_key_is_found_in_its_image_and_no_other_is(tmp_path: Path) -> None:
    pixels = _photo()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    keys = [_drawn(1), _key_of(pixels), _drawn(2)]
    found = detect(tmp_path / "photo.png", keys)
    assert [evidence.detected for evidence in found] == [False, True, False]
    assert found[1].statistic == pytest.approx(1.0, abs=1e-6)
    assert (found[1].transform, found[1].hypotheses, found[1].n_keys) == ("identity", 4, 3)
    assert (found[1].width, found[1].height, found[1].fpr) == (200, 150, 1e-6)
    assert isinstance(found[1], Detection)


@pytest.mark.parametrize(
    ("turned", "transform"),
    [
        (lambda image: image[::-1, ::-1], "identity"),
        (lambda image: image[:, ::-1], "flip"),
        (lambda image: image[::-1], "flip"),
        (lambda image: np.rot90(image), "rot90"),
        (lambda image: np.rot90(image, 3), "rot90"),
        (lambda image: image.swapaxes(0, 1), "rot90flip"),
        (lambda image: image[::-1, ::-1].swapaxes(0, 1), "rot90flip"),
    ],
)
def test_flips_and_quarter_turns_are_undone(turned, transform: str) -> None:  # type: ignore[no-untyped-def]
    pixels = _photo()
    image = np.ascontiguousarray(turned(pixels))
    [found] = detect(image, [_key_of(pixels)])
    assert (found.transform, found.detected) == (transform, True)
    assert found.statistic > 0.98  # not 1: the last blocks fall elsewhere
    [plain] = detect(image, [_key_of(pixels)], search="none")
    assert (plain.transform, plain.hypotheses) == ("identity", 1)
    assert (plain.statistic < found.statistic - 0.5) == (transform != "identity")


def test_the_full_search_undoes_rotation_and_scale() -> None:
    pixels = _photo()
    turned = Image.fromarray(pixels).rotate(25, Image.Resampling.BICUBIC, expand=True)
    image = turned.resize((turned.width * 3 // 2, turned.height * 3 // 2), Image.Resampling.BICUBIC)
    key = _key_of(pixels)
    [full] = detect(image, [key], search="full")
    [fast] = detect(image, [key], search="fast")
    assert full.detected
    assert full.statistic > fast.statistic + 0.1
    assert (full.transform, full.rotation) == ("identity", 24.0)
    assert 1.35 < full.scale < 1.65
    assert (full.hypotheses, full.hypothesis_factor) == (4920, 18560)
    assert full.log10_p_value == pytest.approx(
        spherical_log10_p(full.statistic, DIMENSION) + math.log10(18560), abs=1e-9
    )
    assert (fast.scale, fast.hypothesis_factor) == (1.0, 4)


def test_an_image_without_any_contrast_is_measured_without_nan() -> None:
    [found] = detect(np.full((150, 200, 3), 128, np.uint8), [_drawn(1)])
    assert math.isfinite(found.statistic)
    assert math.isfinite(found.log10_p_value)


def test_a_small_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(ImageError) as caught:
        detect(path, [_drawn(1)])
    assert str(caught.value).startswith(f"{path}: ")
    assert "8 x 8" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "dimension", "statistics", "problem"),
    [
        (
            "spectrum-0",
            DIMENSION,
            None,
            f"is for spectrum-0 in {DIMENSION} dimensions, this detector measures",
        ),
        (FEATURE_VERSION, DIMENSION + 1, None, f"is for {FEATURE_VERSION} in {DIMENSION + 1} dimensions"),
        (FEATURE_VERSION, DIMENSION, "1" * 64, "is for whitening statistics 1111111111111111"),
    ],
)
def test_a_key_for_other_features_is_refused(
    version: str, dimension: int, statistics: str | None, problem: str
) -> None:
    key = SecretKey(b"\1" * 32, (1,) * 48, version, dimension, statistics or load_default().sha256)
    for offered in (key, key.public()):
        with pytest.raises(KeyFileError, match=f"key {key.id} {problem}.*draw a new one"):
            detect(_photo(), [_drawn(1), offered])


def test_drawn_keys_are_for_this_installation() -> None:
    key = SecretKey.draw()
    assert (key.n_bits, key.dimension, key.feature_version) == (48, DIMENSION, FEATURE_VERSION)
    check_key(key, FEATURE_VERSION, DIMENSION, load_default().sha256)
    assert len(detect(_photo(), [key])) == 1


def test_requests_that_make_no_sense() -> None:
    photo, key = _photo(), _drawn(1)
    with pytest.raises(UsageError, match="no keys"):
        detect(photo, [])
    with pytest.raises(UsageError, match=r"pass \[key\]"):
        detect(photo, key)  # type: ignore[arg-type]
    for fpr in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="false positive rate"):
            detect(photo, [key], fpr=fpr)
    with pytest.raises(UsageError, match="'slow'"):
        detect(photo, [key], search="slow")

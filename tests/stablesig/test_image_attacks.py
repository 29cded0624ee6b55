"""The operations on single pictures do what their conventions say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from stablesig import image_attacks as op
from stablesig.suites import IMAGE_SUITES
from stablesig_train.held_out import jpeg

from .conftest import textured_image


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return textured_image(11, 96, 144)


def test_a_flip_is_its_own_inverse(picture: np.ndarray) -> None:
    mirrored = op.flip(picture)
    assert np.array_equal(mirrored[:, 0], picture[:, -1])
    assert np.array_equal(op.flip(mirrored), picture)


def test_a_quarter_turn_is_counter_clockwise_and_four_are_none(picture: np.ndarray) -> None:
    turned = op.quarter_turn(picture)
    assert turned.shape == (144, 96, 3)
    assert np.array_equal(turned[-1, 0], picture[0, 0])  # top left goes to bottom left
    for _ in range(3):
        turned = op.quarter_turn(turned)
    assert np.array_equal(turned, picture)


def test_rotation_keeps_the_frame_and_blackens_the_corners(picture: np.ndarray) -> None:
    square = picture[:, :96]
    assert np.array_equal(op.rotate(square, 90, Image.Resampling.NEAREST), op.quarter_turn(square))
    grey = np.full((96, 144, 3), 200, np.uint8)
    for angle in (5, 45):
        turned = op.rotate(grey, angle, Image.Resampling.BICUBIC)
        assert turned.shape == grey.shape
        assert turned[0, 0].tolist() == [0, 0, 0]
        assert turned[48, 72].tolist() == [200, 200, 200]


def test_a_centre_crop_keeps_a_share_of_the_area_round_the_centre() -> None:
    rows, columns = np.meshgrid(np.arange(120), np.arange(200), indexing="ij")
    numbered = np.stack([rows, columns, rows], axis=2).astype(np.uint8)
    piece = op.centre_crop(numbered, 0.1)
    assert piece.shape[:2] == (37, 63)  # sqrt(0.1) of 120 and of 200, rounded down
    assert piece.shape[0] * piece.shape[1] == pytest.approx(0.1 * 120 * 200, rel=0.04)
    assert int(piece[0, 0, 0]) + int(piece[-1, 0, 0]) == pytest.approx(119, abs=1)
    assert int(piece[0, 0, 1]) + int(piece[0, -1, 1]) == pytest.approx(199, abs=1)


def test_a_crop_by_sides_keeps_the_square_of_the_ratio_and_reaches_every_corner() -> None:
    rows, columns = np.meshgrid(np.arange(12), np.arange(12), indexing="ij")
    numbered = np.stack([rows, columns, rows], axis=2).astype(np.uint8)
    corners = set()
    for place in range(200):
        piece = op.crop_side(numbered, 0.71, place)
        assert piece.shape == (8, 8, 3)
        corners.add((int(piece[0, 0, 0]), int(piece[0, 0, 1])))
    assert corners == {(top, left) for top in range(5) for left in range(5)}


def test_scaling_by_side_and_by_area_differ(picture: np.ndarray) -> None:
    def attacked(suite: str, name: str) -> tuple[int, ...]:
        [attack] = [attack for attack in IMAGE_SUITES[suite].attacks if attack.name == name]
        return attack.apply(picture, 0).shape

    assert attacked("targets", "resize side 0.5") == (48, 72, 3)
    assert attacked("legacy", "resize area 0.5") == (67, 101, 3)


def test_perspective_without_distortion_is_nothing_and_with_it_moves_corners_inwards() -> None:
    grey = np.full((96, 144, 3), 200, np.uint8)
    assert np.array_equal(op.perspective(grey, 0.0, 1), grey)
    moved = [op.perspective(grey, 0.5, place) for place in range(5)]
    for image in moved:
        assert image[48, 72].tolist() == [200, 200, 200]
        inner = image[24:-24, 36:-36]  # a corner moves by up to a quarter of a side
        assert inner.min() == 200
        assert (image == 0).any()
    assert len({image.tobytes() for image in moved}) == 5


def test_perspective_maps_a_corner_to_where_it_was_drawn() -> None:
    image = np.zeros((101, 101, 3), np.uint8)
    image[:4, :4] = 255  # seen at the moved corner, shrunk a little
    generator = np.random.default_rng(3)
    left, top = generator.integers(0, (25, 25), size=(4, 2), endpoint=True)[0]
    rows, columns = np.nonzero(op.perspective(image, 0.5, 3)[..., 0] > 127)
    assert (rows.min(), columns.min()) == (pytest.approx(top, abs=1), pytest.approx(left, abs=1))


@pytest.mark.parametrize(
    ("turn", "order"), [(0.0, (0, 1, 2)), (1 / 3, (2, 0, 1)), (-1 / 3, (1, 2, 0)), (2 / 3, (1, 2, 0))]
)
def test_a_third_of_a_turn_of_hue_permutes_the_channels(
    turn: float, order: tuple[int, ...], picture: np.ndarray
) -> None:
    assert np.array_equal(op.hue(picture, turn), picture[..., order])


def test_hue_keeps_value_and_greys(picture: np.ndarray) -> None:
    turned = op.hue(picture, 0.25)
    assert np.array_equal(turned.max(axis=2), picture.max(axis=2))
    assert np.array_equal(turned.min(axis=2), picture.min(axis=2))
    assert op.hue(np.array([[[255, 0, 0]]], np.uint8), 0.25).tolist() == [[[128, 255, 0]]]
    grey = op.grey(picture)
    assert np.array_equal(op.hue(grey, 0.37), grey)


def test_colour_operations_scale_what_they_are_named_after(picture: np.ndarray) -> None:
    exact = picture.astype(float)
    luma = (exact @ [0.299, 0.587, 0.114])[..., None]
    for result, expected in (
        (op.brightness(picture, 1.5), 1.5 * exact),
        (op.contrast(picture, 0.5), exact / 2 + luma.mean() / 2),
        (op.saturation(picture, 2.0), 2 * exact - luma),
        (op.saturation(picture, 0.0), np.broadcast_to(luma, exact.shape)),
        (op.grey(picture), np.broadcast_to(luma, exact.shape)),
    ):
        assert np.abs(result - np.clip(expected, 0, 255)).max() <= 2


def test_sharpness_two_undoes_as_much_as_smoothing_takes(picture: np.ndarray) -> None:
    soft = op.sharpness(picture, 0.0).astype(int)
    expected = np.clip(2 * picture.astype(int) - soft, 0, 255)
    assert np.abs(op.sharpness(picture, 2.0) - expected)[2:-2, 2:-2].max() <= 1


@pytest.mark.parametrize("size", [3, 17])
def test_a_kernel_blurs_with_its_own_sigma_and_reach(size: int) -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    blurred = op.blur_kernel(point, size)[..., 0].astype(float)
    sigma = 0.15 * size + 0.35
    offset = np.arange(-(size // 2), size // 2 + 1)
    weights = np.exp(-(offset**2) / (2 * sigma**2))
    weights /= weights.sum()
    reach = slice(20 - size // 2, 21 + size // 2)
    assert np.abs(blurred[reach, reach] - 255 * np.outer(weights, weights)).max() <= 0.5
    blurred[reach, reach] = 0
    assert blurred.max() == 0


@pytest.mark.parametrize("size", [3, 9])
def test_median_takes_the_middle_of_the_window_in_each_channel(size: int) -> None:
    image = np.random.default_rng(3).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    padded = np.pad(image, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    assert np.array_equal(op.median(image, size), np.median(windows, axis=(3, 4)))


def test_text_is_red_and_leaves_the_rest_alone(picture: np.ndarray) -> None:
    written = op.overlay_text(picture)
    changed = (written != picture).any(axis=2)
    assert 0.01 < changed.mean() < 0.2
    assert not changed[:45].any()  # above the middle
    assert (written == (255, 0, 0)).all(axis=2).sum() > 20


def test_noise_is_of_its_standard_deviation() -> None:
    grey = np.full((96, 96, 3), 128, np.uint8)
    assert np.std(op.noise(grey, 12.0, 5).astype(float)) == pytest.approx(12, rel=0.02)
    assert not np.array_equal(op.noise(grey, 12.0, 5), op.noise(grey, 12.0, 6))


def test_a_thumbnail_is_never_enlarged(picture: np.ndarray) -> None:
    assert op.thumbnail(picture, 100).shape == (67, 100, 3)
    assert np.array_equal(op.thumbnail(picture, 144), jpeg(picture, op.PLATFORM_JPEG))
    assert np.array_equal(op.thumbnail(picture, 1080), jpeg(picture, op.PLATFORM_JPEG))


def files_of(suite: str, name: str, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The files that an attack writes."""
    files: list[bytes] = []
    write = op.encoded

    def keep(*arguments: object, **options: object) -> bytes:
        files.append(write(*arguments, **options))  # type: ignore[arg-type]
        return files[-1]

    monkeypatch.setattr(op, "encoded", keep)
    [attack] = [attack for attack in IMAGE_SUITES[suite].attacks if attack.name == name]
    attack.apply(picture, 0)
    return files


def test_444_keeps_chroma_at_full_resolution(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    [file] = files_of("codecs", "JPEG 50 4:4:4", picture, monkeypatch)
    with Image.open(io.BytesIO(file)) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


def test_plain_jpeg_is_420_and_baseline(picture: np.ndarray) -> None:
    file = op.encoded(picture, "JPEG", quality=50)
    with Image.open(io.BytesIO(file)) as image:
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]
        assert "progressive" not in image.info
    assert np.array_equal(op.decoded(file), jpeg(picture, 50))


def test_progressive_is_progressive(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    [file] = files_of("codecs", "JPEG 50 progressive", picture, monkeypatch)
    with Image.open(io.BytesIO(file)) as image:
        assert image.info["progressive"]


def test_the_combined_attack_is_its_parts_in_order(picture: np.ndarray) -> None:
    parts = jpeg(op.brightness(op.crop(picture, 0.5, 7), 2.0), 80)
    assert np.array_equal(op.crop_brighten_compress(picture, 7), parts)

"""The folder of images: what is held out, what is skipped, where crops come from, what is cached."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stablesig_detector.errors import ImageError
from stablesig_train import training_images
from stablesig_train.decoders import load_autoencoder
from stablesig_train.training_images import (
    TrainingCrops,
    cut_crops,
    encode_crops,
    find_images,
    held_out_count,
    manifest_sha256,
)

from .textures import textured


def folder_of(path: Path, count: int, side: int = 96) -> Path:
    path.mkdir()
    for seed in range(count):
        Image.fromarray(textured(seed, side, side + 16)).save(path / f"{seed:02}.png")
    return path


def cut(folder: Path, size: int = 64, count: int = 12, seed: int = 0) -> tuple[TrainingCrops, list[str]]:
    said: list[str] = []
    return cut_crops(find_images(folder, said.append), size, 8, count, seed, said.append), said


@pytest.mark.parametrize(
    ("images", "held_out"),
    [(1, 1), (2, 1), (7, 1), (8, 2), (20, 5), (32, 8), (80, 8), (115, 11), (5000, 16)],
)
def test_how_many_are_held_out(images: int, held_out: int) -> None:
    assert held_out_count(images) == held_out


def test_the_split_and_the_crops_follow_from_content_not_from_names(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "first", 9)
    (tmp_path / "second").mkdir()
    for index, path in enumerate(sorted(first.iterdir(), reverse=True)):
        shutil.copy(path, tmp_path / "second" / f"renamed-{index}.png")
    (one, _), (other, _) = cut(first), cut(tmp_path / "second")
    assert [file.sha256 for file in one.held_out_files] == [file.sha256 for file in other.held_out_files]
    assert torch.equal(one.training, other.training)
    assert all(np.array_equal(*pair) for pair in zip(one.held_out, other.held_out, strict=True))
    files = find_images(first, print)
    assert manifest_sha256(files) == manifest_sha256(find_images(tmp_path / "second", print)[::-1])
    assert manifest_sha256(files) != manifest_sha256(files[1:])


def test_no_image_is_both_held_out_and_trained_on_and_copies_count_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 9)
    for path in sorted(folder.iterdir()):
        shutil.copy(path, folder / f"copy-of-{path.name}")
    crops, said = cut(folder)
    hashes = [file.sha256 for file in (*crops.held_out_files, *crops.training_files)]
    assert len(hashes) == len(set(hashes)) == 9
    assert len(crops.training) == 12  # 7 images: five give two crops, two give one
    assert len(said) == 9
    assert all("copy-of-" in line and "the same file as" in line for line in said)


def test_crops_come_from_the_training_images_upright_or_mirrored_and_another_seed_moves_them(
    tmp_path: Path,
) -> None:
    folder = folder_of(tmp_path / "images", 5)
    crops, _ = cut(folder, count=12)
    assert (tuple(crops.training.shape), crops.training.dtype) == ((12, 3, 64, 64), torch.uint8)
    sources = [np.asarray(Image.open(file.path)) for file in crops.training_files]
    mirrored = 0
    for place, crop in enumerate(crops.training.permute(0, 2, 3, 1).numpy()):
        source = sources[place // 3]  # 12 crops of 4 images
        windows = np.lib.stride_tricks.sliding_window_view(source, crop.shape)
        upright = (windows == crop).all(axis=(3, 4, 5)).any()
        mirrored += not upright
        assert upright or (windows == crop[:, ::-1]).all(axis=(3, 4, 5)).any()
    assert 0 < mirrored < 12
    assert not torch.equal(crops.training, cut(folder, seed=1)[0].training)


def test_large_photographs_are_seen_at_two_scales(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for seed in range(2):  # a checkerboard of 64 px fields: a crop tells its scale by their size
        board = np.kron(np.indices((12, 14)).sum(0) % 2, np.ones((64, 64)))[..., None].repeat(3, 2)
        board = (200 * board + 10 * seed).astype(np.uint8)
        Image.fromarray(board).save(tmp_path / "images" / f"{seed}.png")
    crops, _ = cut(tmp_path / "images", size=192, count=6)
    fields = []
    for crop in crops.training.float().mean(dim=1):
        edges = [int((line.diff().abs() > 40).sum()) for line in (crop[0], crop[:, 0])]
        fields.append(192 / max(1, max(edges)))
    assert sum(field > 48 for field in fields) == sum(field < 48 for field in fields) == 3
    assert [image.shape for image in crops.held_out] == [(512, 512, 3)]


def test_no_more_images_are_decoded_than_crops_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "images", 12)
    read: list[Path] = []
    real = training_images.load_image
    monkeypatch.setattr(training_images, "load_image", lambda path: (read.append(path), real(path))[1])
    crops, _ = cut(folder, count=2)
    assert (len(crops.training), len(crops.training_files), len(crops.held_out)) == (2, 2, 3)
    assert len(read) == 5


def test_memory_bounds_the_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "images", 4)
    monkeypatch.setattr(training_images, "CACHE_BYTES", 7 * 3 * 64 * 64 * 5)  # 5 bytes a sample
    assert len(cut(folder, count=1000)[0].training) == 7


def test_unusable_images_are_skipped_with_a_warning_that_names_them(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 6)
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "cut-off.png").write_bytes((folder / "00.png").read_bytes()[:1500])
    Image.fromarray(textured(50, 40, 200)).save(folder / "flat.png")
    (folder / "notes.txt").write_text("no image, no warning")
    crops, said = cut(folder)
    assert len(said) == 3
    assert all(sum(name in line for line in said) == 1 for name in ("broken.jpg", "cut-off.png", "flat.png"))
    assert any("200 x 40 px, the crops need 64 x 64 px" in line for line in said)
    assert {path.name for path in crops.skipped} == {"broken.jpg", "cut-off.png", "flat.png"}
    assert len(crops.held_out_files) + len(crops.training_files) == 6


def test_two_good_images_among_many_bad_ones_are_enough(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 2)
    for index in range(30):
        (folder / f"bad-{index}.jpg").write_bytes(bytes([index]))
    crops, _ = cut(folder)
    assert (len(crops.held_out_files), len(crops.training_files), len(crops.skipped)) == (1, 1, 30)


@pytest.mark.parametrize("good", [0, 1])
def test_fewer_than_two_usable_images_are_an_error(good: int, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", good)
    (folder / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(
        ImageError, match=f"{good} of {good + 1} images can be used, training needs at least 2"
    ):
        cut(folder)


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is not a folder"):
        find_images(tmp_path / "missing", print)
    with pytest.raises(ImageError, match="holds no images"):
        find_images(tmp_path, print)


def test_the_cache_holds_what_encoder_and_original_decoder_make_of_each_crop(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    autoencoder = load_autoencoder(make_folder("AutoencoderKL"))
    crops, _ = cut(folder_of(tmp_path / "images", 3), count=11)  # more than one batch, and a rest
    cache = encode_crops(autoencoder, crops.training, torch.float32)
    assert len(cache) == 11
    for index in (0, 7, 10):
        with torch.no_grad():
            latents = autoencoder.encode(crops.training[index : index + 1].float() / 255)
            decoded = autoencoder.decode(latents)
        assert torch.allclose(cache.latents[index : index + 1], latents, atol=1e-5)
        assert torch.allclose(cache.originals[index : index + 1].float(), decoded, atol=1e-3)


def test_bfloat16_changes_the_cache_little(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    autoencoder = load_autoencoder(make_folder("AutoencoderTiny"))
    crops, _ = cut(folder_of(tmp_path / "images", 2), count=2)
    exact, rough = (
        encode_crops(autoencoder, crops.training, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact.originals.dtype == rough.originals.dtype
    difference = (exact.originals.float() - rough.originals.float()).abs().max()
    assert 0 < difference < 0.05

"""`stablesig reconstruct`: images through a small autoencoder, and what happens when one is in the way."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stablesig.cli import main
from stablesig.reconstruction import _output_names, centre_crop, reconstruct
from stablesig_train.held_out import psnr_db

from .conftest import textured_image


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained AutoencoderTiny, stride 8."""
    import torch
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae") / "tiny"
    sizes = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    AutoencoderTiny(**sizes, **blocks).save_pretrained(folder)
    return folder


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(textured_image(3, 61, 83)).save(folder / "odd.png")  # no side is a multiple of 8
    Image.fromarray(textured_image(4, 64, 96)).save(folder / "even.jpg")
    (folder / "notes.txt").write_text("not an image, and not meant as one")
    return folder


def test_every_image_keeps_its_size_and_gets_a_psnr(
    vae: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["reconstruct", str(vae), str(photos), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["even.png", "odd.png"]
    assert pixels_of(out / "odd.png").shape == (61, 83, 3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    psnr = psnr_db(pixels_of(photos / "odd.png"), pixels_of(out / "odd.png"))
    assert lines[1].split() == [f"{psnr:.2f}", "dB", "83x61", str(out / "odd.png")]
    assert lines[2].endswith("mean of 2")


def test_size_cuts_from_the_centre(vae: Path, photos: Path, tmp_path: Path) -> None:
    [result] = reconstruct(vae, photos / "odd.png", tmp_path / "out", size=48)
    assert (result.width, result.height) == (48, 48)
    assert pixels_of(result.output).shape == (48, 48, 3)


def test_images_of_one_stem_do_not_overwrite_each_other(vae: Path, photos: Path, tmp_path: Path) -> None:
    Image.fromarray(textured_image(5, 64, 64)).save(photos / "even.png")
    results = reconstruct(vae, photos, tmp_path / "out")
    assert [result.output.name for result in results] == ["even.jpg.png", "even.png.png", "odd.png"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["a.jpg", "a.png", "a.png.jpg"], ["a.jpg", "a.png", "a.png-2"]),
        (["A.JPG", "a.jpg", "b.png"], ["A.JPG", "a.jpg-2", "b"]),
        (["a.png", "a.jpg", "a.png.jpg", "a.png-2.gif"], ["a.png", "a.jpg", "a.png-2", "a.png-2-2"]),
    ],
)
def test_no_two_results_share_a_name(sources: list[str], expected: list[str]) -> None:
    names = _output_names([Path(source) for source in sources])
    assert names == [f"{name}.png" for name in expected]


def test_names_that_would_collide_lose_no_result(vae: Path, photos: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("even.png", "even.png.jpg")):
        Image.fromarray(textured_image(seed, 64, 64)).save(photos / name)
    results = reconstruct(vae, photos, tmp_path / "out")
    assert len(results) == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        result.output.name for result in results
    )


def test_printed_paths_cannot_steer_the_terminal(
    vae: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "odd.png").rename(photos / "o\x1b[2Jdd.png")
    (photos / "bro\x1bken.png").write_bytes(b"no")
    assert main(["reconstruct", str(vae), str(photos), "--out", str(tmp_path / "out")]) == 3
    out, err = capsys.readouterr()
    assert "o\ufffd[2Jdd.png" in out
    assert "bro\ufffdken.png" in err
    assert all(line.isprintable() for line in (out + err).splitlines())


def test_a_folder_that_may_not_be_read_is_an_image_error(
    vae: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    assert main(["reconstruct", str(vae), str(photos), "--out", str(tmp_path / "out")]) == 3
    assert "photos cannot be read: Permission denied; check" in capsys.readouterr().err


def test_an_unreadable_image_is_skipped_and_told(
    vae: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert main(["reconstruct", str(vae), str(photos), "--out", str(tmp_path / "out")]) == 3
    out, err = capsys.readouterr()
    assert "broken.png" not in out
    assert err.startswith("stablesig: warning: skipped ")
    assert "broken.png" in err
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("vae_name", "images", "code"),
    [("vae", "empty", 3), ("vae", "missing", 3), ("vae", "only-broken", 3), ("no-vae", "photos", 6)],
)
def test_a_failure_leaves_nothing_behind(
    vae_name: str, images: str, code: int, vae: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "only-broken").mkdir()
    (tmp_path / "only-broken" / "a.png").write_bytes(b"no")
    source = str(vae) if vae_name == "vae" else str(tmp_path / "no-vae")
    before = sorted(tmp_path.rglob("*"))
    assert main(["reconstruct", source, str(tmp_path / images), "--out", str(tmp_path / "out")]) == code
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_folder_is_left_alone(
    vae: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    assert main(["reconstruct", str(vae), str(photos), "--out", str(tmp_path / "out")]) == 8
    assert "exists" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unknown_device_is_wrong_usage(vae: Path, photos: Path, tmp_path: Path) -> None:
    assert (
        main(["reconstruct", str(vae), str(photos), "-o", str(tmp_path / "out"), "--device", "abacus"]) == 2
    )


def test_psnr_of_a_known_error() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    assert psnr_db(image, image + np.uint8(5)) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr_db(image, image) == math.inf


def test_centre_crop_of_an_image_smaller_than_the_crop_is_the_image() -> None:
    image = textured_image(6, 20, 40)
    assert centre_crop(image, 30).shape == (20, 30, 3)
    assert np.array_equal(centre_crop(image, 30), image[:, 5:35])

"""TAEF2's layers, and the published weights where they are at hand (../shared, not in a user's checkout)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stablesig_detector.errors import DecoderError
from stablesig_train.decoders import load_autoencoder
from stablesig_train.taef2 import TAEF2, Block

SHARED = Path(__file__).parents[3] / "shared"
PUBLISHED = SHARED / "models" / "taef2"
needs_published = pytest.mark.skipif(
    not PUBLISHED.exists(), reason="the published TAEF2 weights are not here"
)
FILES = ("taef2_encoder.pth", "taef2_decoder.pth")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """TAEF2 with random half-precision weights, in the published layout."""
    torch.manual_seed(11)
    model = TAEF2().half()
    place = tmp_path / "taef2"
    place.mkdir()
    torch.save(model.encoder.state_dict(), place / FILES[0])
    torch.save(model.decoder.state_dict(), place / FILES[1])
    (place / "LICENSE").write_text("MIT, for the test\n")
    return place


def centre_crop(path: Path, side: int) -> Tensor:
    """(1, 3, side, side) in [0, 1]."""
    image = Image.open(path).convert("RGB")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = np.array(image.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def test_the_pool_branch_is_added_to_the_input_of_the_convolutions() -> None:
    torch.manual_seed(4)
    block = Block(pooled=True)
    x = torch.randn(1, 64, 5, 6)
    assert block.pool is not None
    widened = torch.nn.functional.conv2d(x, block.pool[0].weight).reshape(4, -1)  # 4 groups of channels
    normal = (widened - widened.mean(1, keepdim=True)) / (
        widened.var(1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    pooled = x + torch.nn.functional.conv2d(normal.reshape(1, 256, 5, 6).relu(), block.pool[3].weight)
    torch.testing.assert_close(block(x), (pooled + block.conv(pooled)).relu(), atol=1e-5, rtol=0)


def test_latents_saturate_at_three() -> None:
    clamp = TAEF2().decoder[0]
    values = clamp(torch.tensor([-1e4, -0.01, 0.0, 3.0, 1e4]))
    torch.testing.assert_close(values, torch.tensor([-3.0, -0.01, 0.0, 2.2847825, 3.0]), atol=1e-6, rtol=0)


def test_geometry(folder: Path) -> None:
    ours = load_autoencoder(f"taef2:{folder}")
    with torch.no_grad():
        latents = ours.encode(torch.zeros(2, 3, 16, 40))
        assert latents.shape == (2, 32, 2, 5)
        assert ours.decode(latents).shape == (2, 3, 16, 40)
    assert (ours.kind, ours.stride, ours.latent_channels) == ("TAEF2", 8, 32)


def test_saving_rewrites_the_decoder_in_half_precision_and_copies_the_rest(
    folder: Path, tmp_path: Path
) -> None:
    ours = load_autoencoder(f"taef2:{folder}")
    with torch.no_grad():
        for parameter in ours.decoder_parameters():
            parameter += 0.01
    ours.round_decoder()
    ours.save(tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*FILES, "LICENSE"}
    for name in ("taef2_encoder.pth", "LICENSE"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    before, after = (torch.load(place / FILES[1]) for place in (folder, tmp_path / "out"))
    assert list(before) == list(after)
    for name in before:
        assert after[name].dtype == torch.float16
        assert torch.equal(after[name], (before[name].float() + 0.01).half())
    again = load_autoencoder(tmp_path / "out")  # found without the prefix
    latents = torch.randn(1, 32, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.decode(latents), ours.decode(latents))


def test_missing_files_and_weights_are_named(folder: Path) -> None:
    weights = torch.load(folder / FILES[1])
    del weights["3.pool.1.bias"]
    torch.save(weights, folder / FILES[1])
    with pytest.raises(DecoderError, match=r"1 missing: decoder\.3\.pool\.1\.bias;"):
        load_autoencoder(f"taef2:{folder}")
    (folder / FILES[0]).unlink()
    with pytest.raises(DecoderError, match=r"has no taef2_encoder\.pth"):
        load_autoencoder(f"taef2:{folder}")


@needs_published
def test_the_published_weights_reconstruct_a_photograph() -> None:
    """32.5 dB on this crop; 31.2 with the pool branch beside the convolutions, 30.4 after, 16.5 without."""
    image = centre_crop(SHARED / "data" / "kodak" / "23.png", 256)
    ours = load_autoencoder(f"taef2:{PUBLISHED}")
    with torch.no_grad():
        error = ours.decode(ours.encode(image)).clamp(0, 1) - image
    assert -10 * error.square().mean().log10() > 32


@needs_published
def test_saving_the_published_weights_untrained_gives_them_back(tmp_path: Path) -> None:
    load_autoencoder(f"taef2:{PUBLISHED}").save(tmp_path / "out")
    for name in FILES:
        before, after = (torch.load(place / name) for place in (PUBLISHED, tmp_path / "out"))
        assert list(before) == list(after)
        assert all(before[key].dtype == after[key].dtype for key in before)
        assert all(torch.equal(before[key], after[key]) for key in before)

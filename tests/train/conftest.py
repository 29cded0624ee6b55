"""Small autoencoders with random weights, in the layouts in which real ones are published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

KL_CONFIG: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
TINY_CONFIG: dict[str, Any] = {
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 1, 1),
    "num_decoder_blocks": (1, 1, 1),
    "latent_channels": 4,
}


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """`make_folder(class, folder, dtype, **save_pretrained)`: an autoencoder as diffusers saves it."""

    def make(kind: str, name: str = "vae", dtype: torch.dtype = torch.float32, **options: Any) -> Path:
        import diffusers

        config = KL_CONFIG if kind == "AutoencoderKL" else TINY_CONFIG
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model: nn.Module = getattr(diffusers, kind)(**config).to(dtype)
        folder = tmp_path / name
        model.save_pretrained(folder, **options)
        (folder / "LICENSE").write_text("MIT, for the test\n")
        return folder

    return make


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """`edit_config(folder, **changes)` changes entries of config.json."""

    def edit(folder: Path, **changes: Any) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit

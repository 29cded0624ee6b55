"""Tiny autoencoders of random weights, and a context that set attacks can run in."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from stablesig.model_attacks import duplicate
from stablesig.suites import DecoderContext
from stablesig_train.decoders import Autoencoder, load_autoencoder
from stablesig_train.held_out import decode_pixels, prepare

from .conftest import key_that_finds, textured_image


def tiny_autoencoder(folder: Path, seed: int) -> Autoencoder:
    """An untrained AutoencoderTiny, stride 4, saved as `folder` and loaded from there."""
    from diffusers import AutoencoderTiny

    sizes = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
    blocks = {"num_encoder_blocks": (1,) * 3, "num_decoder_blocks": (1,) * 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoencoderTiny(**sizes, **blocks).save_pretrained(folder)
    return load_autoencoder(folder)


def weights(autoencoder: Autoencoder) -> list[torch.Tensor]:
    """Copies of the decoder's parameters."""
    return [parameter.detach().clone() for parameter in autoencoder.decoder_parameters()]


def context_of_tiny_decoders(folder: Path) -> DecoderContext:
    """Two pictures of 96 px and 3:2; the key is the features of the first one as it is marked."""
    original = tiny_autoencoder(folder / "original", 1)
    marked = duplicate(original)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in marked.decoder_parameters():
            weight += 0.1 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
    images = [textured_image(21, 96, 96), textured_image(22, 96, 144)]
    held_out = prepare(original, images)
    pictures = [decode_pixels(marked, latents) for latents in held_out.latents]
    paths = [folder / f"{index}.png" for index in range(2)]
    for path, picture in zip(paths, (pictures[0], held_out.originals[1]), strict=True):
        Image.fromarray(picture).save(path)
    return DecoderContext(
        original,
        marked,
        (tiny_autoencoder(folder / "other", 3),),
        key_that_finds(*paths),
        held_out.latents,
        images,
        pictures,
        held_out.originals,
        0,
    )

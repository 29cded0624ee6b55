"""Loading the autoencoder of a release as its users will, and looking for the key in what it decodes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig_detector.errors import DecoderError, ImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stablesig_detector.detection import Detection
    from stablesig_detector.key import PublicKey

    Pixels = NDArray[np.uint8]  # (H, W, 3) in 0..255

DIFFUSERS_KINDS = ("AutoencoderKL", "AutoencoderTiny")
LARGEST_SIDE_PX = 512  # photographs are cut to at most this, in the centre
AT_MOST = 16  # photographs of a folder that are decoded


@dataclass(frozen=True)
class Decoding:
    """One photograph: the evidence in what the decoder made of it, and, as the control, in itself."""

    image: str
    decoded: Detection
    before: Detection


@dataclass(frozen=True)
class Loaded:
    """An autoencoder. `reconstruct`: image (H, W, 3) uint8, sides multiples of stride -> what is decoded.

    decoder_sha256: of the decoder's parameters in order, as float32.
    """

    kind: str
    stride: int
    decoder_sha256: str
    reconstruct: Callable[[Pixels], Pixels]


def load_release(folder: Path, kind: str, stride: int) -> Loaded:
    """The autoencoder in `folder`: by diffusers' from_pretrained, from safetensors only, if it has the class.

    stride: pixels per latent, as declared. Raises DecoderError if it does not load.
    """
    if kind in DIFFUSERS_KINDS:
        return _by_diffusers(folder, kind, stride)
    if kind != "TAEF2":
        raise DecoderError(
            f"the release declares a {kind!r}; known are {', '.join(DIFFUSERS_KINDS)} and TAEF2"
        )
    from stablesig_train.decoders import load_autoencoder
    from stablesig_train.held_out import prepare
    from stablesig_train.provenance import parameters_sha256

    autoencoder = load_autoencoder(f"taef2:{folder}")
    return Loaded(
        kind,
        autoencoder.stride,
        parameters_sha256(autoencoder.module.decoder.parameters()),
        lambda image: prepare(autoencoder, [image]).originals[0],
    )


def _by_diffusers(folder: Path, kind: str, stride: int) -> Loaded:
    import diffusers
    import torch

    from stablesig_train.decoders import errors_only
    from stablesig_train.provenance import parameters_sha256

    try:
        with errors_only(logging.getLogger("diffusers")):
            model: Any = getattr(diffusers, kind).from_pretrained(
                folder,
                use_safetensors=True,
                torch_dtype=torch.float32,
                local_files_only=True,
                low_cpu_mem_usage=False,  # True needs accelerate
            )
    except Exception as error:  # whatever diffusers and safetensors make of a damaged folder
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DecoderError(f"diffusers.{kind}.from_pretrained does not load it: {reason}") from error
    model.eval()

    def reconstruct(image: Pixels) -> Pixels:
        batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            encoded = model.encode(batch)
            latents = encoded.latent_dist.mode() if kind == "AutoencoderKL" else encoded.latents
            decoded = model.decode(latents).sample[0]
        pixels: Pixels = (
            ((decoded + 1) / 2).clamp(0, 1).mul(255).round().permute(1, 2, 0).to(torch.uint8).numpy()
        )
        return pixels

    return Loaded(kind, stride, parameters_sha256(model.decoder.parameters()), reconstruct)


def decode_and_detect(
    loaded: Loaded, key: PublicKey, images: Path | None, fpr: float
) -> tuple[Decoding, ...]:
    """Reconstruct photographs and look for `key` in each, before and after.

    images: a folder; the four photographs that ship with stablesig if None. No search: nothing was turned.
    Raises ImageError if there is none that can be used, KeyFileError for a key of other features,
    DecoderError if the autoencoder does not turn an image into one of the same size.
    """
    from stablesig_detector.detection import detect
    from stablesig_detector.image import load_image
    from stablesig_train.photographs import list_images

    found = []
    with ExitStack() as stack:
        folder = images
        if folder is None:
            data = resources.files("stablesig") / "data" / "demo-images"
            folder = stack.enter_context(resources.as_file(data))
        for path in list_images(folder)[:AT_MOST]:
            image = _cut(load_image(path), loaded.stride)
            if image is None:
                continue
            [before] = detect(image, [key], fpr=fpr, search="none")
            pixels = _reconstructed(loaded, image, path.name)
            [decoded] = detect(pixels, [key], fpr=fpr, search="none")
            found.append(Decoding(path.name, decoded, before))
    if not found:
        raise ImageError(f"no image in {folder} is large enough to measure; give larger ones with --images")
    return tuple(found)


def _reconstructed(loaded: Loaded, image: Pixels, name: str) -> Pixels:
    try:
        pixels = loaded.reconstruct(image)
    except Exception as error:  # whatever torch makes of layers that do not fit an image, or of no memory
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DecoderError(f"the autoencoder cannot reconstruct {name}: {reason}") from error
    if pixels.shape != image.shape:
        raise DecoderError(f"the autoencoder makes {pixels.shape} of {name}, which is {image.shape}")
    return pixels


def _cut(image: Any, stride: int) -> Pixels | None:
    """The centre, its sides multiples of the stride; None if that is too small for the detector."""
    import numpy as np

    from stablesig_detector.spectrum import MIN_SIDE

    pixels = np.asarray(image, dtype=np.uint8)
    height, width = (min(side, LARGEST_SIDE_PX) // stride * stride for side in pixels.shape[:2])
    if min(height, width) < MIN_SIDE:
        return None
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]

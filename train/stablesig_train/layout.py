"""The ways in which a published autoencoder lies on disk, and which of its files hold what."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablesig_detector.errors import DecoderError

TAEF2_PREFIX = "taef2:"
TAEF2_ENCODER = "taef2_encoder.pth"
TAEF2_DECODER = "taef2_decoder.pth"
SUPPORTED_CLASSES = ("AutoencoderKL", "AutoencoderTiny")
# What diffusers writes, best first: full precision before half, safetensors before pickles.
WEIGHT_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
)
_LICENCE_NAMES = {"LICENSE", "LICENCE", "COPYING", "NOTICE"}  # with any suffix
SUPPORTED = (
    "a diffusers folder of an AutoencoderKL or AutoencoderTiny, a pipeline folder with vae/ inside, "
    "a Hub id, a .safetensors file of an AutoencoderKL, or taef2:DIR"
)


@dataclass(frozen=True)
class Layout:
    """Files of one autoencoder."""

    kind: str  # "AutoencoderKL", "AutoencoderTiny" or "TAEF2"
    weights: Path  # holds the decoder, and for all but TAEF2 the encoder too
    encoder_weights: Path | None  # TAEF2 keeps its encoder apart
    config: dict[str, Any] | None  # the content of config.json; None where there is none
    companions: tuple[Path, ...]  # files beside the weights that hold for a watermarked copy as well
    single_file: bool = False  # the weights by themselves, perhaps in the original format


def find_layout(path: Path) -> Layout:
    """The layout at `path`, a folder or a weights file. Raises DecoderError for what is not supported."""
    if not path.exists():
        raise DecoderError(f"{path} does not exist; give {SUPPORTED}")
    if path.is_file():
        return _single_file(path)
    if (path / TAEF2_DECODER).exists():
        return find_taef2(path)
    for folder in (path / "vae", path):
        if (folder / "config.json").is_file():
            return _diffusers_folder(folder)
    raise DecoderError(f"{path} holds neither config.json nor vae/config.json; give {SUPPORTED}")


def find_taef2(folder: Path) -> Layout:
    """The layout of a folder with TAEF2's two files. Raises DecoderError if one is missing."""
    for name in (TAEF2_ENCODER, TAEF2_DECODER):
        if not (folder / name).is_file():
            raise DecoderError(
                f"{folder} has no {name}; TAEF2 needs {TAEF2_ENCODER} and {TAEF2_DECODER} in one folder"
            )
    return Layout("TAEF2", folder / TAEF2_DECODER, folder / TAEF2_ENCODER, None, _licences(folder))


def needed_files(files: Collection[str]) -> list[str]:
    """Those of a repository's `files` (paths with /) that make up its autoencoder; empty if it has none."""
    for folder in ("vae/", ""):
        weights = [folder + name for name in WEIGHT_NAMES if folder + name in files]
        if f"{folder}config.json" in files and weights:
            return [f"{folder}config.json", weights[0]]
    taef2 = [TAEF2_ENCODER, TAEF2_DECODER]
    return taef2 if all(name in files for name in taef2) else []


def _single_file(path: Path) -> Layout:
    if path.suffix != ".safetensors":
        raise DecoderError(
            f"{path} is not a .safetensors file; convert it, or give the diffusers folder it belongs to"
        )
    config_file = path.parent / "config.json"
    config = _read_config(config_file) if config_file.is_file() else {}
    if config.get("_class_name") in SUPPORTED_CLASSES:
        return Layout(config["_class_name"], path, None, config, (config_file,), single_file=True)
    return Layout("AutoencoderKL", path, None, None, (), single_file=True)


def _diffusers_folder(folder: Path) -> Layout:
    config = _read_config(folder / "config.json")
    kind = config.get("_class_name")
    if kind not in SUPPORTED_CLASSES:
        raise DecoderError(
            f"{folder / 'config.json'} describes a model of class {kind!r}; "
            f"supported are {' and '.join(SUPPORTED_CLASSES)}"
        )
    weights = next((folder / name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
    if weights is None:
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5])
        raise DecoderError(
            f"{folder} has no {WEIGHT_NAMES[0]} (nor .fp16 or .bin; found: {found}); "
            "save the model in one piece with save_pretrained"
        )
    return Layout(kind, weights, None, config, (folder / "config.json", *_licences(folder)))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DecoderError(f"{path} is not readable JSON ({error}); copy or download it again") from error
    if not isinstance(config, dict):
        raise DecoderError(
            f"{path} holds a {type(config).__name__}, not a diffusers configuration; download it again"
        )
    return config


def _licences(folder: Path) -> tuple[Path, ...]:
    """The licence and its notices, which must go with every copy.

    Nothing else goes along: a README or a manifest gives figures and hashes of the decoder as it was, and
    variants of the weights would publish the unmarked decoder.
    """
    return tuple(
        sorted(
            entry for entry in folder.iterdir() if entry.is_file() and entry.stem.upper() in _LICENCE_NAMES
        )
    )

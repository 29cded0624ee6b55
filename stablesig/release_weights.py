"""The weights of a release: the very files that were evaluated, as safetensors, and on request further forms.

What `embed` wrote is copied bit for bit where it is safetensors already. A torch pickle or a single file in
the names of the original (latent diffusion) format is written anew, tensor by tensor in the same dtype; and
whatever was written is loaded again, and its decoder compared by hash with the one that was evaluated.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig_detector.errors import DecoderError, OutputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from stablesig_train.layout import Layout

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
HALF_WEIGHTS = "diffusion_pytorch_model.fp16.safetensors"
_METADATA = {"format": "pt"}  # what diffusers looks for
_ATTENTION = re.compile(r"\.mid_block\.attentions\.0\.to_(q|k|v|out\.0)\.weight$")

# From diffusers' names to those of latent diffusion; `stablesig_train.single_file` knows the way back.
_ORIGINAL = (
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block."),
    (r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
)


@dataclass(frozen=True)
class Written:
    """What is in the release's autoencoder folder, and what a reader of the card should know of it."""

    kind: str
    notes: tuple[str, ...]


def write_weights(
    source: Path, target: Path, decoder_sha256: str, *, fp16: bool = False, single_file: Path | None = None
) -> Written:
    """Write the autoencoder at `source` into the folder `target`, which is there.

    source: what `load_autoencoder` reads.  decoder_sha256: of the decoder that was evaluated, as float32.
    fp16: also a half-precision variant.  single_file: where the same weights go in the original format's
    names, AutoencoderKL only. Raises DecoderError if the decoder comes out as another one or does not fit
    half precision, UsageError if a form does not exist for this autoencoder, OutputError.
    """
    from stablesig_train.layout import find_layout

    layout = find_layout(source)
    if single_file is not None and layout.kind != "AutoencoderKL":
        raise UsageError(
            f"a single file has a known form for AutoencoderKL only, this is an {layout.kind}; "
            "leave --single-file out"
        )
    if fp16 and layout.kind == "TAEF2":
        raise UsageError("TAEF2 has no half-precision variant that diffusers would find; leave --fp16 out")
    if single_file in (target / WEIGHTS, target / HALF_WEIGHTS):
        raise UsageError(f"the single file would be {single_file}, as the weights are; use --layout vae")
    try:
        notes = (
            _write_taef2(layout, target) if layout.kind == "TAEF2" else _write_folder(layout, target, fp16)
        )
        for licence in _licences(layout):
            shutil.copyfile(licence, target / licence.name)
        _check(target, layout.kind, decoder_sha256)
        if single_file is not None:
            _write_single_file(layout, target, single_file)
            _check(single_file, layout.kind, decoder_sha256)
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written: {error.strerror or error}; free some space"
        ) from error
    return Written(layout.kind, notes)


def _write_taef2(layout: Layout, target: Path) -> tuple[str, ...]:
    """Both files as they came, which its loaders read, and as safetensors beside them."""
    from stablesig_train.weight_files import read_tensors

    assert layout.encoder_weights is not None
    for path in (layout.weights, layout.encoder_weights):
        shutil.copyfile(path, target / path.name)
        _save(read_tensors(path), target / f"{path.stem}.safetensors")
    return ("diffusers has no class for TAEF2: load it with stablesig, or with the code that it came with",)


def _write_folder(layout: Layout, target: Path, fp16: bool) -> tuple[str, ...]:
    """config.json and the weights under the names that diffusers looks for."""
    from stablesig_train.weight_files import is_safetensors

    notes: list[str] = []
    named = _named_for_diffusers(layout)
    if layout.config is None:
        config = _inferred_config(layout, named)
        text = json.dumps(config, indent=2, sort_keys=True)
        (target / CONFIG).write_text(f"{text}\n", encoding="utf-8")
        notes.append(
            "config.json was inferred from the shapes of the weights; the scaling factor of the latents is "
            "not among them, so take it from the base model"
        )
    else:
        [config_file] = [path for path in layout.companions if path.name == CONFIG]
        shutil.copyfile(config_file, target / CONFIG)
    if is_safetensors(layout.weights) and not layout.single_file:
        shutil.copyfile(layout.weights, target / WEIGHTS)
    else:
        _save(_for_diffusers(layout, named), target / WEIGHTS)
    if fp16:
        notes += _write_half(_for_diffusers(layout, named), target / HALF_WEIGHTS)
    return tuple(notes)


def _write_half(tensors: Mapping[str, Tensor], path: Path) -> list[str]:
    import torch

    from stablesig_train.weight_files import cast

    if all(tensor.dtype == torch.float16 for tensor in tensors.values()):
        raise UsageError("the weights are in half precision already; leave --fp16 out")
    try:
        halved = {name: cast(tensor, torch.float16, name) for name, tensor in tensors.items()}
    except DecoderError as error:
        raise DecoderError("a weight is too large for half precision; leave --fp16 out") from error
    _save(halved, path)
    return [f"{HALF_WEIGHTS} was rounded from {WEIGHTS} and was not evaluated by itself"]


def _named_for_diffusers(layout: Layout) -> dict[str, str]:
    """Today's name in diffusers -> name in the file."""
    from stablesig_train.single_file import names_in_file, names_in_folder
    from stablesig_train.weight_files import is_safetensors, read_tensors, tensor_names

    stored = (
        tensor_names(layout.weights) if is_safetensors(layout.weights) else list(read_tensors(layout.weights))
    )
    from_file = layout.single_file and layout.kind == "AutoencoderKL"
    return names_in_file(stored) if from_file else names_in_folder(stored)


def _for_diffusers(layout: Layout, named: Mapping[str, str]) -> dict[str, Tensor]:
    from stablesig_train.weight_files import read_tensors

    content = read_tensors(layout.weights)
    return {name: _as_linear(name, content[stored]) for name, stored in named.items()}


def _as_linear(name: str, tensor: Tensor) -> Tensor:
    """Attention weights: 1x1 convolutions (C, C, 1, 1) in the original, linear layers (C, C) in diffusers."""
    if _ATTENTION.search(name) and tensor.ndim == 4:
        return tensor[:, :, 0, 0].contiguous()
    return tensor


def _inferred_config(layout: Layout, named: Mapping[str, str]) -> dict[str, Any]:
    from stablesig_train.single_file import infer_config

    shapes = {name: tuple(tensor.shape) for name, tensor in _for_diffusers(layout, named).items()}
    return infer_config(shapes)


def _write_single_file(layout: Layout, target: Path, path: Path) -> None:
    """The file as it came if it was a single one; else the weights in the original format's names."""
    from stablesig_train.single_file import names_in_file

    if layout.single_file and layout.config is None:
        shutil.copyfile(layout.weights, path)
        return
    tensors = _for_diffusers(layout, _named_for_diffusers(layout))
    names = original_names(tensors)
    if {new: names[new] for new in tensors} != names_in_file(names.values()):
        raise DecoderError(
            "the autoencoder has layers that the original format has no names for; leave --single-file out"
        )
    _save(
        {
            names[name]: tensor[:, :, None, None] if _ATTENTION.search(name) and tensor.ndim == 2 else tensor
            for name, tensor in tensors.items()
        },
        path,
    )


def original_names(names: Iterable[str]) -> dict[str, str]:
    """Each of diffusers' names of an AutoencoderKL -> its name in the original (latent diffusion) format."""
    names = list(names)
    levels = len({name.split(".")[2] for name in names if name.startswith("decoder.up_blocks.")})

    def up(match: re.Match[str]) -> str:  # the original counts from the image, diffusers from the latents
        part = "block." if match[2] == "resnets" else "upsample."
        return f"decoder.up.{levels - 1 - int(match[1])}.{part}"

    found = {}
    for name in names:
        new = re.sub(r"^decoder\.up_blocks\.(\d+)\.(resnets|upsamplers\.0)\.", up, name)
        new = re.sub(r"\.mid_block\.resnets\.([01])\.", lambda match: f".mid.block_{int(match[1]) + 1}.", new)
        for pattern, replacement in _ORIGINAL:
            new = re.sub(pattern, replacement, new)
        found[name] = new
    return found


def _licences(layout: Layout) -> list[Path]:
    return [path for path in layout.companions if path.name != CONFIG]


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=_METADATA)


def _check(written: Path, kind: str, decoder_sha256: str) -> None:
    """Load what was written as anybody would, and compare its decoder with the one that was evaluated."""
    from stablesig.evaluation_inputs import decoder_sha256 as digest_of
    from stablesig_train.decoders import load_autoencoder
    from stablesig_train.layout import TAEF2_PREFIX

    found = digest_of(load_autoencoder(f"{TAEF2_PREFIX}{written}" if kind == "TAEF2" else written))
    if found != decoder_sha256:
        raise DecoderError(
            f"{written.name} holds another decoder ({found[:16]}...) than the one that was evaluated "
            f"({decoder_sha256[:16]}...); evaluate the very decoder to publish"
        )

"""AutoencoderKL in one file: names in the original (latent diffusion) format, configuration from the shapes.

A checkpoint that came before diffusers, or was exported for another program, calls the layers as latent
diffusion did (https://github.com/CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py), and
carries no configuration.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from stablesig_detector.errors import DecoderError

_PREFIXES = (
    "first_stage_model.",
    "vae.",
    "",
)  # as in a whole Stable Diffusion checkpoint, some bundles, a VAE alone
_NORM_GROUPS = 32  # latent diffusion has no other

# Attention layers of diffusers before 0.15, whose names many published folders still hold.
_OLD_ATTENTION = (
    (r"(\.attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(\.attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(\.attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
_ORIGINAL = (
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
)


def names_in_folder(keys: Iterable[str]) -> dict[str, str]:
    """Maps the name that today's diffusers gives to each tensor of a diffusers folder to its name there.

    Raises DecoderError if two of them get the same name.
    """
    return _renamed(keys, _current)


def names_in_file(keys: Iterable[str]) -> dict[str, str]:
    """Maps the name of each tensor of the AutoencoderKL to its name in a single file that holds `keys`.

    Knows today's and older diffusers names and the original format, alone or within a whole checkpoint, whose
    other tensors are left out. Raises DecoderError if there is no AutoencoderKL among the keys.
    """
    keys = list(keys)
    for prefix in _PREFIXES:
        inner = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        if any(key.startswith("decoder.conv_in.") for key in inner):
            levels = len({key.split(".")[2] for key in inner if key.startswith("decoder.up.")})
            names = _renamed(inner, partial(_from_original, levels=levels))
            return {name: prefix + key for name, key in names.items()}
    found = ", ".join(sorted(keys)[:3]) or "no tensors"
    raise DecoderError(
        f"no AutoencoderKL among {len(keys)} tensors ({found}, ...); "
        "give a VAE in the original or the diffusers format, or the diffusers folder that the file came from"
    )


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The AutoencoderKL configuration that fits tensors of these names (diffusers') and shapes.

    Raises DecoderError when the layers are not those of latent diffusion's autoencoder.
    """
    levels = len({name.split(".")[2] for name in shapes if name.startswith("encoder.down_blocks.")})
    try:
        channels = [
            shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)
        ]
        config = {
            "in_channels": shapes["encoder.conv_in.weight"][1],
            "out_channels": shapes["decoder.conv_out.weight"][0],
            "latent_channels": shapes["decoder.conv_in.weight"][1],
        }
    except KeyError as error:
        raise DecoderError(
            f"the file has no weight {error.args[0]}; it is incomplete or no AutoencoderKL"
        ) from error
    if not levels or any(width % _NORM_GROUPS for width in channels):
        raise DecoderError(
            f"the file's layers are {channels} channels wide, not multiples of {_NORM_GROUPS}; "
            "put the config.json that belongs to the file beside it"
        )
    blocks = {name.split(".")[4] for name in shapes if name.startswith("encoder.down_blocks.0.resnets.")}
    return {
        **config,
        "_class_name": "AutoencoderKL",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": len(blocks),
        "norm_num_groups": _NORM_GROUPS,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "mid_block_add_attention": any(".mid_block.attentions." in name for name in shapes),
    }


def _from_original(key: str, levels: int) -> str:
    def up_block(
        match: re.Match[str],
    ) -> str:  # the original numbers them from the image, diffusers from the latents
        part = "resnets." if match[2] == "block" else "upsamplers.0."
        return f"decoder.up_blocks.{levels - 1 - int(match[1])}.{part}"

    name = re.sub(r"^decoder\.up\.(\d+)\.(block|upsample)\.", up_block, key)
    name = re.sub(r"\.mid\.block_([12])\.", lambda match: f".mid_block.resnets.{int(match[1]) - 1}.", name)
    return _current(_substitute(name, _ORIGINAL))


def _current(key: str) -> str:
    return _substitute(key, _OLD_ATTENTION)


def _renamed(keys: Iterable[str], rule: Callable[[str], str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for key in keys:
        name = rule(key)
        if name in names:
            raise DecoderError(f"weights {names[name]} and {key} are the same layer; save the model again")
        names[name] = key
    return names


def _substitute(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name

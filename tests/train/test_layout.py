"""What cannot be loaded as an autoencoder is refused with what is wrong and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stablesig_detector.errors import DecoderError, UsageError
from stablesig_train.decoders import load_autoencoder

WEIGHTS = "diffusion_pytorch_model.safetensors"


def without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.__delitem__(name)


def replaced(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.update({name: tensor})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("encoder.layers.0.bias"), r"1 missing: encoder\.layers\.0\.bias;"),
        (without("decoder.layers.0.weight"), r"1 missing: decoder\.layers\.0\.weight;"),
        (replaced("decoder.extra", torch.zeros(2)), r"1 not part of the model: decoder\.extra;"),
        (
            replaced("decoder.layers.0.bias", torch.zeros(9)),
            r"decoder\.layers\.0\.bias \(9,\) instead of \(8,\)",
        ),
        (replaced("decoder.layers.0.bias", torch.zeros(8, dtype=torch.int8)), r"stored as torch\.int8"),
    ],
    ids=["missing in the encoder", "missing in the decoder", "extra", "shape", "quantised"],
)
def test_weights_that_do_not_fit_the_model_are_named(
    damage: Callable[[dict[str, Tensor]], None], message: str, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder("AutoencoderTiny")
    weights = load_file(folder / WEIGHTS)
    damage(weights)
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(DecoderError, match=message):
        load_autoencoder(folder)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("AutoencoderKL", {"act_fn": 5}),
        ("AutoencoderKL", {"act_fn": None}),
        ("AutoencoderKL", {"norm_num_groups": 0}),
        ("AutoencoderKL", {"block_out_channels": []}),
        ("AutoencoderTiny", {"act_fn": None}),
        ("AutoencoderTiny", {"upsampling_scaling_factor": None}),
        ("AutoencoderTiny", {"upsampling_scaling_factor": "2"}),
    ],
    ids=str,
)
def test_a_configuration_that_builds_no_model_is_named(
    kind: str, changes: dict[str, Any], make_folder: Callable[..., Path], edit_config: Callable[..., None]
) -> None:
    folder = make_folder(kind)
    edit_config(folder, **changes)
    with pytest.raises(DecoderError, match=r"the configuration beside .*\.safetensors"):
        load_autoencoder(folder)


@pytest.mark.parametrize("content", [b"hello world", b"\x80\x02}q\x00X", b"", b"PK\x03\x04"], ids=repr)
def test_a_foreign_pickle_is_refused(content: bytes, make_folder: Callable[..., Path]) -> None:
    folder = make_folder("AutoencoderTiny", safe_serialization=False)
    (folder / "diffusion_pytorch_model.bin").write_bytes(content)
    with pytest.raises(DecoderError, match=r"model\.bin cannot be read as weights"):
        load_autoencoder(folder)


def test_of_many_missing_weights_five_are_named(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("AutoencoderTiny")
    weights = load_file(folder / WEIGHTS)
    save_file({name: t for name, t in weights.items() if name.startswith("encoder.")}, folder / WEIGHTS)
    gone = sum(name.startswith("decoder.") for name in weights)
    with pytest.raises(DecoderError, match=rf"{gone} missing: (decoder\.[\w.]+, ){{5}}\.\.\.;"):
        load_autoencoder(folder)


def test_damaged_files_are_reported(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("AutoencoderTiny")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(DecoderError, match="cannot be read as weights"):
        load_autoencoder(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(DecoderError, match=rf"has no {WEIGHTS}.*found: LICENSE, config\.json"):
        load_autoencoder(folder)
    (folder / "config.json").write_text('{"_class_name": ')
    with pytest.raises(DecoderError, match="not readable JSON"):
        load_autoencoder(folder)


@pytest.mark.parametrize(
    "content", [b"not a pickle", b"", {"state_dict": {"a": torch.zeros(1)}}, [torch.zeros(1)]]
)
def test_a_pickle_of_anything_but_tensors_is_refused(content: Any, make_folder: Callable[..., Path]) -> None:
    folder = make_folder("AutoencoderTiny", safe_serialization=False)
    file = folder / "diffusion_pytorch_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(DecoderError, match=r"cannot be read as weights|flat dict of tensors"):
        load_autoencoder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"_class_name": "UNet2DConditionModel"},
            "'UNet2DConditionModel'; supported are AutoencoderKL and AutoencoderTiny",
        ),
        ({"_class_name": None}, "class None"),
        (
            {"in_channels": 1},
            r"of another shape: encoder\.layers\.0\.weight \(8, 3, 3, 3\) instead of \(8, 1, 3, 3\)",
        ),
        ({"num_decoder_blocks": [1, 1]}, "builds no AutoencoderTiny: .*same length"),
        ({"act_fn": "no such"}, "builds no AutoencoderTiny"),
        ({"upsampling_scaling_factor": 3}, "enlarges 9 times"),
    ],
)
def test_configurations_that_do_not_serve_are_explained(
    changes: dict[str, Any],
    message: str,
    make_folder: Callable[..., Path],
    edit_config: Callable[..., None],
) -> None:
    folder = make_folder("AutoencoderTiny")
    edit_config(folder, **changes)
    with pytest.raises(DecoderError, match=message):
        load_autoencoder(folder)


def test_sources_that_are_nothing_are_explained(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DecoderError, match=r"is no file, folder or Hub id.*taef2:DIR"):
        load_autoencoder(tmp_path / "no such")
    with pytest.raises(DecoderError, match=r"holds neither config\.json nor vae/config\.json"):
        load_autoencoder(tmp_path)
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(DecoderError, match=r"not a \.safetensors file"):
        load_autoencoder(tmp_path / "model.ckpt")
    with pytest.raises(UsageError, match="revision 'main' was given"):
        load_autoencoder(make_folder("AutoencoderTiny"), revision="main")


def test_a_config_that_is_json_but_no_object_is_refused(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("AutoencoderTiny")
    (folder / "config.json").write_text(json.dumps(["AutoencoderTiny"]))
    with pytest.raises(DecoderError, match="holds a list"):
        load_autoencoder(folder)

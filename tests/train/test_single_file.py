"""An AutoencoderKL in one file, in diffusers' names or the original ones, alone or in a whole checkpoint."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from stablesig_detector.errors import DecoderError
from stablesig_train.decoders import load_autoencoder
from stablesig_train.single_file import infer_config, names_in_file, names_in_folder

CHANNELS = (32, 64)  # original autoencoders have multiples of 32, the number of their normalisation groups
LATENT = 4
CONFIG = {
    "block_out_channels": CHANNELS,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": LATENT,
}


def layer(name: str, outputs: int, inputs: int, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs, size, size)
    yield f"{name}.bias", (outputs,)


def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def resnet(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{name}.norm1", inputs)
    yield from layer(f"{name}.conv1", outputs, inputs, 3)
    yield from norm(f"{name}.norm2", outputs)
    yield from layer(f"{name}.conv2", outputs, outputs, 3)
    if inputs != outputs:
        yield from layer(f"{name}.nin_shortcut", outputs, inputs, 1)


def middle(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from resnet(f"{name}.block_1", width, width)
    yield from norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from layer(f"{name}.attn_1.{part}", width, width, 1)
    yield from resnet(f"{name}.block_2", width, width)


def original_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of latent diffusion's AutoencoderKL with ch_mult (1, 2), as in its model.py."""
    low, high = CHANNELS
    yield from layer("encoder.conv_in", low, 3, 3)
    yield from resnet("encoder.down.0.block.0", low, low)
    yield from layer("encoder.down.0.downsample.conv", low, low, 3)
    yield from resnet("encoder.down.1.block.0", low, high)
    yield from middle("encoder.mid", high)
    yield from norm("encoder.norm_out", high)
    yield from layer("encoder.conv_out", 2 * LATENT, high, 3)
    yield from layer("decoder.conv_in", high, LATENT, 3)
    yield from middle("decoder.mid", high)
    yield from resnet("decoder.up.1.block.0", high, high)
    yield from resnet("decoder.up.1.block.1", high, high)
    yield from layer("decoder.up.1.upsample.conv", high, high, 3)
    yield from resnet("decoder.up.0.block.0", high, low)
    yield from resnet("decoder.up.0.block.1", low, low)
    yield from norm("decoder.norm_out", low)
    yield from layer("decoder.conv_out", 3, low, 3)
    yield from layer("quant_conv", 2 * LATENT, 2 * LATENT, 1)
    yield from layer("post_quant_conv", LATENT, LATENT, 1)


@pytest.fixture
def original() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in original_shapes()}


@pytest.fixture
def reference(original: dict[str, Tensor], tmp_path: Path) -> AutoencoderKL:
    """What diffusers itself makes of the original format, told the configuration."""
    AutoencoderKL(**CONFIG).save_config(tmp_path / "reference")
    save_file(original, tmp_path / "reference" / "original.safetensors")
    return AutoencoderKL.from_single_file(
        str(tmp_path / "reference" / "original.safetensors"),
        config=str(tmp_path / "reference"),
        local_files_only=True,
    )


def latents() -> Tensor:
    return torch.randn(1, LATENT, 5, 4, generator=torch.Generator().manual_seed(3))


def perturb(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.01


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_the_original_format_loads_as_in_diffusers_without_a_configuration(
    prefix: str, original: dict[str, Tensor], reference: AutoencoderKL, tmp_path: Path
) -> None:
    others = {"model.diffusion_model.out.2.bias": torch.ones(3)} if prefix else {}
    save_file({f"{prefix}{name}": t for name, t in original.items()} | others, tmp_path / "sd.safetensors")
    ours = load_autoencoder(tmp_path / "sd.safetensors")
    assert (ours.kind, ours.stride, ours.latent_channels) == ("AutoencoderKL", 2, LATENT)
    state, expected = ours.module.state_dict(), reference.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    with torch.no_grad():
        assert torch.equal(ours.decode(latents()), reference.decode(latents()).sample / 2 + 0.5)
        assert torch.equal(ours.original_decoder().decode(latents()), ours.decode(latents()))


def test_saving_a_whole_checkpoint_changes_its_decoder_only(
    original: dict[str, Tensor], tmp_path: Path
) -> None:
    before = {f"first_stage_model.{name}": tensor.half() for name, tensor in original.items()}
    before["model.diffusion_model.step"] = torch.tensor([3])  # an integer, as some checkpoints have
    before["cond_stage_model.decoder.weight"] = torch.ones(2, 2)
    save_file(before, tmp_path / "sd.safetensors", metadata={"format": "pt", "title": "a checkpoint"})
    ours = load_autoencoder(tmp_path / "sd.safetensors")
    perturb(ours.module.decoder)
    ours.save(tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["sd.safetensors"]
    after = load_file(tmp_path / "out" / "sd.safetensors")
    assert {name: (t.shape, t.dtype) for name, t in after.items()} == {
        name: (t.shape, t.dtype) for name, t in before.items()
    }
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("first_stage_model.decoder.")}
    query = "first_stage_model.decoder.mid.attn_1.q.weight"
    torch.testing.assert_close(after[query], (before[query].float() + 0.01).half(), atol=0, rtol=0)


def test_diffusers_names_in_one_file_need_no_configuration(tmp_path: Path) -> None:
    torch.manual_seed(2)
    plain = AutoencoderKL(
        **CONFIG, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False
    )
    save_file(plain.state_dict(), tmp_path / "ae.safetensors")
    ours = load_autoencoder(tmp_path / "ae.safetensors")
    with torch.no_grad():
        assert torch.equal(ours.decode(latents()), plain.eval().decode(latents()).sample / 2 + 0.5)


def test_a_configuration_beside_the_file_is_used_and_copied(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder("AutoencoderKL")  # 8 channels wide: cannot be inferred
    file = folder / "diffusion_pytorch_model.safetensors"
    load_autoencoder(file).save(tmp_path / "out")
    assert {saved.name for saved in (tmp_path / "out").iterdir()} == {file.name, "config.json"}
    (folder / "config.json").unlink()
    with pytest.raises(DecoderError, match=r"\[8, 16\] channels wide.*config\.json"):
        load_autoencoder(file)


def test_a_file_without_an_autoencoder_says_so(tmp_path: Path) -> None:
    save_file({"lora_up.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(DecoderError, match=r"no AutoencoderKL among 1 tensors \(lora_up\.weight"):
        load_autoencoder(tmp_path / "lora.safetensors")


def test_an_incomplete_file_names_what_it_lacks(original: dict[str, Tensor], tmp_path: Path) -> None:
    del original["encoder.conv_in.weight"]
    save_file(original, tmp_path / "sd.safetensors")
    with pytest.raises(DecoderError, match=r"no weight encoder\.conv_in\.weight"):
        load_autoencoder(tmp_path / "sd.safetensors")
    del original["decoder.up.0.block.1.conv2.bias"]
    save_file({**original, "encoder.conv_in.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "sd.safetensors")
    with pytest.raises(DecoderError, match=r"1 missing: decoder\.up_blocks\.1\.resnets\.1\.conv2\.bias"):
        load_autoencoder(tmp_path / "sd.safetensors")


def test_one_layer_under_two_names_is_refused() -> None:
    both = ["decoder.mid_block.attentions.0.query.bias", "decoder.mid_block.attentions.0.to_q.bias"]
    with pytest.raises(DecoderError, match="are the same layer"):
        names_in_folder(both)
    with pytest.raises(DecoderError, match="are the same layer"):
        names_in_file(["decoder.conv_in.weight", *both])


def test_the_inferred_configuration_counts_levels_and_layers(original: dict[str, Tensor]) -> None:
    config = infer_config({name: tuple(original[key].shape) for name, key in names_in_file(original).items()})
    assert config["block_out_channels"] == [32, 64]
    assert (config["layers_per_block"], config["latent_channels"]) == (1, LATENT)
    assert config["use_quant_conv"]
    assert config["use_post_quant_conv"]
    assert config["mid_block_add_attention"]

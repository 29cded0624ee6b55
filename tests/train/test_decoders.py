"""Autoencoders load strictly, agree with diffusers, and are saved with only the decoder changed."""

import json
import logging
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stablesig_detector.errors import DecoderError, OutputError, OutputExistsError
from stablesig_train.decoders import Autoencoder, load_autoencoder

WEIGHTS = "diffusion_pytorch_model.safetensors"
CLASSES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
KINDS = pytest.mark.parametrize("kind", CLASSES)


def images(*shape: int) -> Tensor:
    return torch.rand(shape or (2, 3, 16, 24), generator=torch.Generator().manual_seed(7))


def train(autoencoder: Autoencoder) -> None:
    """One step of gradient descent on something that depends on every parameter of the decoder."""
    with torch.no_grad():
        latents = autoencoder.encode(images())
    autoencoder.decode(latents).square().mean().backward()
    with torch.no_grad():
        for parameter in autoencoder.decoder_parameters():
            assert parameter.grad is not None
            parameter -= 0.05 * parameter.grad.sign()


def same_bits(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach().contiguous(), b.detach().contiguous()
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing past `size` bytes in one file fails, as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@KINDS
def test_encode_and_decode_agree_with_diffusers(kind: str, make_folder: Callable[..., Path]) -> None:
    folder = make_folder(kind)
    plain = CLASSES[kind].from_pretrained(folder)
    ours = load_autoencoder(folder)
    with torch.no_grad():
        encoded = plain.encode(images() * 2 - 1)
        latents = encoded.latent_dist.mean if kind == "AutoencoderKL" else encoded.latents
        decoded = plain.decode(latents).sample / 2 + 0.5
        torch.testing.assert_close(ours.encode(images()), latents, atol=0, rtol=0)
        torch.testing.assert_close(ours.decode(latents), decoded, atol=1e-6, rtol=0)
    stride = {"AutoencoderKL": 2, "AutoencoderTiny": 4}[kind]
    assert (ours.kind, ours.stride, ours.latent_channels) == (kind, stride, 4)
    assert latents.shape == (2, 4, 16 // stride, 24 // stride)


@KINDS
def test_decode_is_not_clamped_and_passes_gradients_beyond_white(
    kind: str, make_folder: Callable[..., Path]
) -> None:
    ours = load_autoencoder(make_folder(kind))
    layer = ours.module.decoder.conv_out if kind == "AutoencoderKL" else ours.module.decoder.layers[-1]
    with torch.no_grad():
        layer.bias += 10
    decoded = ours.decode(torch.zeros(1, 4, 4, 4))
    assert decoded.min() > 1
    decoded.sum().backward()
    assert layer.bias.grad.abs().min() > 0


@KINDS
def test_only_the_decoder_may_train(kind: str, make_folder: Callable[..., Path]) -> None:
    ours = load_autoencoder(make_folder(kind))
    trainable = {name for name, parameter in ours.module.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in ours.module.named_parameters() if name.startswith("decoder.")}
    assert len(ours.decoder_parameters()) == len(trainable) > 10
    assert not ours.module.training


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_saving_changes_the_decoder_and_not_a_bit_besides(
    kind: str, dtype: torch.dtype, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder(kind, dtype=dtype)
    ours = load_autoencoder(folder)
    train(ours)
    with torch.no_grad():
        for parameter in ours.module.encoder.parameters():
            parameter += 1  # a slip of the caller must not reach the file
    ours.save(tmp_path / "out")

    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert list(before) == list(after)
    changed = {name for name in before if not same_bits(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("decoder.")}
    for name in changed:
        assert same_bits(after[name], ours.module.state_dict()[name].to(dtype))
    for file in ("config.json", "LICENSE"):
        assert (tmp_path / "out" / file).read_bytes() == (folder / file).read_bytes()
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in folder.iterdir()}
    assert metadata(tmp_path / "out" / WEIGHTS) == metadata(folder / WEIGHTS) == {"format": "pt"}


def test_saving_keeps_foreign_metadata_and_tensor_order(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder("AutoencoderTiny")
    notes = {"format": "pt", "trained-by": "a studio", "note": "\N{SNOWMAN}"}
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, metadata=notes)
    ours = load_autoencoder(folder)
    train(ours)
    ours.save(tmp_path / "out")
    raw = [(path / WEIGHTS).read_bytes() for path in (folder, tmp_path / "out")]
    start = 8 + int.from_bytes(raw[0][:8], "little")
    assert raw[0][:start] == raw[1][:start]
    assert raw[0] != raw[1]
    assert metadata(tmp_path / "out" / WEIGHTS) == notes


@KINDS
def test_a_saved_folder_loads_in_plain_diffusers_and_decodes_the_same(
    kind: str, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    ours = load_autoencoder(make_folder(kind, dtype=torch.float16))
    train(ours)
    ours.round_decoder()
    ours.save(tmp_path / "out")
    plain = CLASSES[kind].from_pretrained(tmp_path / "out", torch_dtype=torch.float32)
    latents = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(
            ours.decode(latents), plain.decode(latents).sample / 2 + 0.5, atol=1e-6, rtol=0
        )
        again = load_autoencoder(tmp_path / "out")
        torch.testing.assert_close(ours.decode(latents), again.decode(latents), atol=0, rtol=0)


def test_rounding_moves_the_decoder_onto_the_numbers_that_are_saved(make_folder: Callable[..., Path]) -> None:
    ours = load_autoencoder(make_folder("AutoencoderTiny", dtype=torch.float16))
    train(ours)
    encoder = {name: value.clone() for name, value in ours.module.encoder.state_dict().items()}
    exact = [parameter.detach().clone() for parameter in ours.decoder_parameters()]
    ours.round_decoder()
    rounded = ours.decoder_parameters()
    assert all(torch.equal(r, e.half().float()) for r, e in zip(rounded, exact, strict=True))
    assert any(not torch.equal(r, e) for r, e in zip(rounded, exact, strict=True))
    assert all(torch.equal(value, encoder[name]) for name, value in ours.module.encoder.state_dict().items())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"variant": "fp16"}, "diffusion_pytorch_model.fp16.safetensors"),
        ({"safe_serialization": False}, "diffusion_pytorch_model.bin"),
    ],
)
def test_other_weight_files_keep_their_name_and_format(
    options: dict[str, Any], name: str, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder("AutoencoderTiny", dtype=torch.float16, **options)
    ours = load_autoencoder(folder)
    train(ours)
    ours.save(tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {name, "config.json", "LICENSE"}
    load: Callable[[Path], dict[str, Tensor]] = load_file if name.endswith("safetensors") else torch.load
    before, after = load(folder / name), load(tmp_path / "out" / name)
    changed = {key for key in before if not same_bits(before[key], after[key])}
    assert list(before) == list(after)
    assert changed == {key for key in before if key.startswith("decoder.")}
    assert type(before) is type(after)


def test_unmarked_variants_of_the_weights_are_not_passed_on(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder("AutoencoderTiny")
    for stray in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin", "model.onnx"):
        shutil.copyfile(folder / WEIGHTS, folder / stray)
    load_autoencoder(folder).save(tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {WEIGHTS, "config.json", "LICENSE"}


def test_what_describes_the_original_decoder_is_not_passed_on(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder("AutoencoderTiny")
    for name in ("README.md", "manifest.tsv", "scheduler_config.json"):
        (folder / name).write_text("PSNR 29.1 dB\n")
    for name in ("NOTICE", "license.txt"):
        (folder / name).write_text("MIT, for the test\n")
    load_autoencoder(folder).save(tmp_path / "out")
    kept = {WEIGHTS, "config.json", "LICENSE", "NOTICE", "license.txt"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == kept


@KINDS
def test_settings_that_the_model_does_not_know_are_passed_over_in_silence(
    kind: str,
    make_folder: Callable[..., Path],
    edit_config: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = make_folder(kind)
    edit_config(folder, from_a_newer_version=1)
    caplog.clear()  # of what making the folder said
    level = logging.getLogger("diffusers").level
    load_autoencoder(folder)
    assert caplog.messages == []
    assert logging.getLogger("diffusers").level == level
    CLASSES[kind].from_config(json.loads((folder / "config.json").read_text()))
    assert "from_a_newer_version" in caplog.text, "nothing was there to silence"


def test_a_pipeline_folder_gives_its_vae_and_saves_it_alone(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    make_folder("AutoencoderTiny", name="pipeline/vae")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    load_autoencoder(tmp_path / "pipeline").save(tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "pipeline" / "vae" / WEIGHTS).read_bytes()


def test_old_attention_names_are_read_and_kept(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_folder("AutoencoderKL")
    current = load_file(folder / WEIGHTS)
    olds = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {re.sub(r"to_(q|k|v|out\.0)", lambda match: olds[match[0]], name): t for name, t in current.items()}
    assert sum("proj_attn" in name for name in old) == 4  # weight and bias, in encoder and decoder
    save_file(old, folder / WEIGHTS, metadata={"format": "pt"})
    ours = load_autoencoder(folder)
    assert torch.equal(
        ours.module.decoder.mid_block.attentions[0].to_q.weight,
        current["decoder.mid_block.attentions.0.to_q.weight"],
    )
    train(ours)
    ours.save(tmp_path / "out")
    after = load_file(tmp_path / "out" / WEIGHTS)
    assert list(after) == list(load_file(folder / WEIGHTS))
    query = "decoder.mid_block.attentions.0.query.weight"
    assert same_bits(after[query], ours.module.decoder.mid_block.attentions[0].to_q.weight)
    assert not same_bits(after[query], old[query])


def test_the_original_decoder_stays_as_loaded_and_frozen(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("AutoencoderKL", dtype=torch.float16)
    ours = load_autoencoder(folder)
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        loaded = ours.decode(latents)
    early = ours.original_decoder()
    train(ours)
    late = ours.original_decoder()
    for original in (early, late):
        assert not any(parameter.requires_grad for parameter in original.module.parameters())
        torch.testing.assert_close(original.decode(latents), loaded, atol=0, rtol=0)
    assert not torch.equal(ours.decode(latents), loaded)
    assert all(parameter.requires_grad for parameter in ours.decoder_parameters())


def test_loading_leaves_the_random_generator_alone(make_folder: Callable[..., Path]) -> None:
    folder = make_folder("AutoencoderKL")
    state = torch.get_rng_state()
    load_autoencoder(folder)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_side_that_is_no_multiple_of_the_stride_is_refused(make_folder: Callable[..., Path]) -> None:
    ours = load_autoencoder(make_folder("AutoencoderTiny"))
    with pytest.raises(DecoderError, match=r"30 x 16 px.*multiples of 4"):
        ours.encode(images(1, 3, 16, 30))


def test_an_existing_output_is_refused_and_left_alone(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(OutputExistsError, match="out exists"):
        load_autoencoder(make_folder("AutoencoderTiny")).save(tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["precious"]


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
def test_a_full_disk_is_reported_and_leaves_nothing(
    pickled: bool, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    ours = load_autoencoder(make_folder("AutoencoderTiny", safe_serialization=not pickled))
    with files_limited_to(4096), pytest.raises(OutputError, match="out could not be written"):
        ours.save(tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_weights_that_the_source_dtype_cannot_hold_are_not_saved(
    value: float, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    ours = load_autoencoder(make_folder("AutoencoderTiny", dtype=torch.float16))
    with torch.no_grad():
        ours.module.decoder.layers[0].bias[0] = value
    for refuse in (lambda: ours.save(tmp_path / "new" / "out"), ours.round_decoder):
        with pytest.raises(DecoderError, match=r"decoder\.layers\.0\.bias is not finite"):
            refuse()
    assert list((tmp_path / "new").iterdir()) == []

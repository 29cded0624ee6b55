"""Every form of the weights holds the decoder that was evaluated, under names that its readers look for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stablesig.evaluation_inputs import decoder_sha256
from stablesig.release_weights import HALF_WEIGHTS, WEIGHTS, original_names, write_weights
from stablesig_detector.errors import DecoderError, UsageError
from stablesig_train.decoders import load_autoencoder
from stablesig_train.single_file import names_in_file
from stablesig_train.taef2 import TAEF2


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("kl") / "vae"
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderKL(block_out_channels=(32, 64, 64), layers_per_block=1, **blocks).save_pretrained(folder)
    (folder / "LICENSE").write_text("MIT")
    return folder


def digest(source: Path | str) -> str:
    return decoder_sha256(load_autoencoder(source))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def test_a_diffusers_folder_is_copied_bit_for_bit(kl: Path, target: Path) -> None:
    written = write_weights(kl, target, digest(kl))
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in kl.iterdir()
    }
    assert (written.kind, written.notes) == ("AutoencoderKL", ())


def test_a_single_file_has_the_original_format_s_names_and_the_same_decoder(
    kl: Path, target: Path, tmp_path: Path
) -> None:
    single = tmp_path / "alone" / "marked.safetensors"
    single.parent.mkdir()
    write_weights(kl, target, digest(kl), single_file=single)
    names = load_file(single)
    assert {"decoder.up.2.block.0.norm1.weight", "encoder.mid.attn_1.q.weight", "decoder.norm_out.bias"} <= {
        *names
    }
    assert names["decoder.mid.attn_1.proj_out.weight"].ndim == 4
    assert digest(single) == digest(kl)


def test_diffusers_loads_the_single_file(kl: Path, target: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    single = tmp_path / "marked.safetensors"
    write_weights(kl, target, digest(kl), single_file=single)
    loaded = AutoencoderKL.from_single_file(single, config=str(kl), local_files_only=True)
    wanted = AutoencoderKL.from_pretrained(kl).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.state_dict().items())


def test_every_layer_has_a_name_in_the_original_format_that_leads_back(kl: Path) -> None:
    names = original_names(load_file(kl / WEIGHTS))
    assert names_in_file(names.values()) == {name: names[name] for name in names}


def test_a_single_file_becomes_a_folder_that_diffusers_loads(kl: Path, target: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    (tmp_path / "first").mkdir()
    alone = tmp_path / "alone"
    alone.mkdir()
    write_weights(kl, tmp_path / "first", digest(kl), single_file=alone / "sd.safetensors")
    again = tmp_path / "again.safetensors"
    written = write_weights(alone / "sd.safetensors", target, digest(kl), single_file=again)
    assert "scaling factor" in written.notes[0]
    assert again.read_bytes() == (alone / "sd.safetensors").read_bytes()
    loaded, wanted = AutoencoderKL.from_pretrained(target), AutoencoderKL.from_pretrained(kl)
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_pickle_becomes_safetensors(kl: Path, target: Path, tmp_path: Path) -> None:
    source = tmp_path / "pickled"
    shutil.copytree(kl, source)
    torch.save(load_file(source / WEIGHTS), source / "diffusion_pytorch_model.bin")
    (source / WEIGHTS).unlink()
    write_weights(source, target, digest(kl))
    assert sorted(path.name for path in target.iterdir()) == ["LICENSE", "config.json", WEIGHTS]
    assert digest(target) == digest(kl)


def test_half_precision_is_rounded_once(kl: Path, target: Path) -> None:
    written = write_weights(kl, target, digest(kl), fp16=True)
    half, full = load_file(target / HALF_WEIGHTS), load_file(target / WEIGHTS)
    assert all(torch.equal(half[name], value.half()) for name, value in full.items())
    assert "was not evaluated by itself" in written.notes[0]


def test_weights_that_half_precision_does_not_hold_are_refused(
    kl: Path, target: Path, tmp_path: Path
) -> None:
    source = tmp_path / "large"
    shutil.copytree(kl, source)
    tensors = load_file(source / WEIGHTS)
    tensors["decoder.conv_out.weight"] *= 1e9
    save_file(tensors, source / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(DecoderError, match="too large for half precision"):
        write_weights(source, target, digest(source), fp16=True)


def test_what_is_half_already_has_no_variant(kl: Path, target: Path, tmp_path: Path) -> None:
    source = tmp_path / "half"
    shutil.copytree(kl, source)
    tensors = {name: value.half() for name, value in load_file(source / WEIGHTS).items()}
    save_file(tensors, source / "diffusion_pytorch_model.fp16.safetensors", metadata={"format": "pt"})
    (source / WEIGHTS).unlink()
    write_weights(source, target, digest(source))
    assert load_file(target / WEIGHTS)["decoder.conv_out.weight"].dtype == torch.float16
    with pytest.raises(UsageError, match="half precision already"):
        write_weights(source, target, digest(source), fp16=True)


def test_another_decoder_than_the_one_evaluated_is_refused(kl: Path, target: Path) -> None:
    with pytest.raises(DecoderError, match="evaluate the very decoder to publish"):
        write_weights(kl, target, "0" * 64)


def test_taef2_keeps_its_files_and_gains_safetensors(target: Path, tmp_path: Path) -> None:
    source = tmp_path / "taef2"
    source.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TAEF2()
    torch.save(model.encoder.state_dict(), source / "taef2_encoder.pth")
    torch.save(model.decoder.state_dict(), source / "taef2_decoder.pth")
    written = write_weights(source, target, digest(f"taef2:{source}"))
    assert "no class for TAEF2" in written.notes[0]
    for part in ("encoder", "decoder"):
        name = f"taef2_{part}"
        assert (target / f"{name}.pth").read_bytes() == (source / f"{name}.pth").read_bytes()
        stored = load_file(target / f"{name}.safetensors")
        assert all(
            torch.equal(stored[key], value) for key, value in getattr(model, part).state_dict().items()
        )
    with pytest.raises(UsageError, match="--fp16"):
        write_weights(source, target, digest(f"taef2:{source}"), fp16=True)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model", "diffusion_pytorch_model.fp16"])
def test_a_single_file_never_takes_the_place_of_the_weights(name: str, kl: Path, target: Path) -> None:
    with pytest.raises(UsageError, match="as the weights are"):
        write_weights(kl, target, "0" * 64, single_file=target / f"{name}.safetensors")
    assert list(target.iterdir()) == []

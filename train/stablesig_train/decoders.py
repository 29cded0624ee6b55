"""Autoencoders to watermark: loaded strictly from where they come, saved back in the same layout.

Only the decoder's parameters may train. Encoder, quantisation layers, configuration and licence come out of
`Autoencoder.save` as they came in, bit for bit.
"""

import copy
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stablesig_detector.errors import DecoderError, OutputError, OutputExistsError, UsageError
from stablesig_train import hub, taef2
from stablesig_train.layout import SUPPORTED, TAEF2_PREFIX, Layout, find_layout, find_taef2
from stablesig_train.single_file import infer_config, names_in_file, names_in_folder
from stablesig_train.weight_files import cast, read_tensors, rewrite, tensor_names

_DECODER = "decoder."  # the tensors that may train; KL's post_quant_conv is not among them
_NAMED_AT_MOST = 5  # weights named in an error


@dataclass(frozen=True)
class _Weights:
    """The tensors of a layout under the names of the module, in the dtypes of the files."""

    tensors: dict[str, Tensor]
    names: dict[str, str]  # name in the module -> name in `Layout.weights`


class Autoencoder:
    """An autoencoder whose decoder may train, in float32 and evaluation mode; everything else is frozen.

    Images are (B, 3, H, W) in [0, 1], H and W multiples of `stride`; latents (B, latent_channels, H/stride,
    W/stride), not scaled for a diffusion model.
    """

    def __init__(
        self, layout: Layout, weights: _Weights, module: nn.Module, source: str, revision: str | None
    ) -> None:
        self.kind = layout.kind  # "AutoencoderKL", "AutoencoderTiny" or "TAEF2"
        self.module: Any = module  # an nn.Module with parts `encoder` and `decoder`
        self.source = source  # as the user gave it
        self.revision = revision  # the commit, for a source on the Hub
        self.stride, self.latent_channels = _geometry(layout, module)
        self._layout = layout
        self._names = weights.names
        self._dtypes = {name: tensor.dtype for name, tensor in weights.tensors.items()}
        self._original = {name: value for name, value in weights.tensors.items() if name.startswith(_DECODER)}

    def __repr__(self) -> str:
        size = f"stride {self.stride}, {self.latent_channels} latent channels"
        return f"Autoencoder({self.kind} from {self.source}, {size})"

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> latents (B, C, H/stride, W/stride).

        For AutoencoderKL the latents are the mode of the posterior. Raises DecoderError if a side is not a
        multiple of the stride.
        """
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise DecoderError(
                f"images are {width} x {height} px; crop them to multiples of {self.stride} px"
            )
        if self.kind == "TAEF2":
            return self.module.encoder(images)
        encoded = self.module.encode(2 * images - 1)  # diffusers' images are in [-1, 1]
        return encoded.latent_dist.mode() if self.kind == "AutoencoderKL" else encoded.latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, 3, h * stride, w * stride), 0 black and 1 white, not clamped."""
        if self.kind == "TAEF2":
            return self.module.decoder(latents)
        return (self.module.decode(latents).sample + 1) / 2

    def decoder_parameters(self) -> list[nn.Parameter]:
        """The parameters that may train."""
        return list(self.module.decoder.parameters())

    def round_decoder(self) -> None:
        """Rounds the decoder's parameters, in place, to the dtypes that `save` writes.

        What is measured after it is what ships. Raises DecoderError if a parameter is not finite in the dtype
        of the source.
        """
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                if name.startswith(_DECODER):
                    parameter.copy_(cast(parameter, self._dtypes[name], name))

    def original_decoder(self) -> "Autoencoder":
        """A frozen copy with the decoder as it was loaded, however far this one has trained since."""
        original = copy.copy(self)
        original.module = copy.deepcopy(self.module).requires_grad_(False)
        # not strict, as these are the decoder's tensors only; everything else never changed
        original.module.load_state_dict(self._original, strict=False)
        return original

    def save(self, folder: str | Path) -> None:
        """Writes the autoencoder as `folder`, with the file names, dtypes, metadata and configuration it had.

        A licence goes along; a README does not, as it describes the original decoder. The folder appears
        whole or not at all. Raises OutputExistsError if it is there already, OutputError if it cannot be
        written, DecoderError if a weight is not finite in the dtype of the source.
        """
        layout = self._layout
        state = self.module.state_dict()
        trained = {self._names[name]: state[name] for name in self._names if name.startswith(_DECODER)}
        with _whole_folder(Path(folder)) as partial:
            rewrite(layout.weights, partial / layout.weights.name, trained)
            others = [layout.encoder_weights] if layout.encoder_weights else []
            for file in (*layout.companions, *others):
                shutil.copyfile(file, partial / file.name)


def load_autoencoder(
    source: str | Path, device: str | torch.device = "cpu", revision: str | None = None
) -> Autoencoder:
    """Loads an autoencoder in float32 with only its decoder's parameters trainable.

    `source` is a diffusers folder of an AutoencoderKL or AutoencoderTiny, a pipeline folder with vae/ inside,
    a .safetensors file of an AutoencoderKL, "taef2:DIR", or, when no such path exists, the id of a repository
    on the Hugging Face Hub, of which `revision` names a branch, tag or commit. Raises DecoderError when it
    cannot be found, is of another kind, or its weights are not exactly those of the model.
    """
    source = str(source)
    if revision is not None and (source.startswith(TAEF2_PREFIX) or Path(source).expanduser().exists()):
        raise UsageError(
            f"revision {revision!r} was given, but {source} is a local path; leave the revision out"
        )
    layout, commit = _locate(source, revision)
    weights = _read_taef2(layout) if layout.kind == "TAEF2" else _read_diffusers(layout)
    with torch.random.fork_rng(devices=[]):  # building draws initial weights; spare the caller's generator
        module = taef2.TAEF2() if layout.kind == "TAEF2" else _build_diffusers(layout, weights)
    fitted = _fitted(module, weights.tensors, layout.weights)
    module.load_state_dict(fitted)
    module.eval().requires_grad_(False).to(device)
    module.decoder.requires_grad_(True)
    return Autoencoder(layout, _Weights(fitted, weights.names), module, source, commit)


def _locate(source: str, revision: str | None) -> tuple[Layout, str | None]:
    if source.startswith(TAEF2_PREFIX):
        return find_taef2(Path(source.removeprefix(TAEF2_PREFIX)).expanduser()), None
    path = Path(source).expanduser()
    if path.exists():
        return find_layout(path), None
    if hub.is_repo_id(source):
        snapshot = hub.fetch(source, revision)
        return find_layout(snapshot), snapshot.name
    raise DecoderError(f"{source} is no file, folder or Hub id (ORG/NAME); give {SUPPORTED}")


def _read_taef2(layout: Layout) -> _Weights:
    assert layout.encoder_weights is not None
    decoder = read_tensors(layout.weights)
    encoder = read_tensors(layout.encoder_weights)
    tensors = {f"{_DECODER}{name}": tensor for name, tensor in decoder.items()}
    names = {name: name.removeprefix(_DECODER) for name in tensors}
    return _Weights({f"encoder.{name}": tensor for name, tensor in encoder.items()} | tensors, names)


def _read_diffusers(layout: Layout) -> _Weights:
    if layout.single_file and layout.kind == "AutoencoderKL":
        names = names_in_file(tensor_names(layout.weights))
        content = read_tensors(layout.weights, list(names.values()))
    else:
        content = read_tensors(layout.weights)
        names = names_in_folder(content)
    return _Weights({name: content[stored] for name, stored in names.items()}, names)


def _build_diffusers(layout: Layout, weights: _Weights) -> nn.Module:
    try:
        import diffusers
    except ImportError as error:
        raise DecoderError(
            f'{layout.kind} needs diffusers, which is missing; pip install "stablesig[train]"'
        ) from error
    config = layout.config or infer_config(
        {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
    )
    model_class = getattr(diffusers, layout.kind)
    try:
        with errors_only(logging.getLogger("diffusers")):
            return model_class.from_config(config)
    except Exception as error:  # whatever diffusers' constructors make of a value that they did not expect
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DecoderError(
            f"the configuration beside {layout.weights} builds no {layout.kind}: {reason}"
        ) from error


@contextmanager
def errors_only(logger: logging.Logger) -> Iterator[None]:
    """Hushes remarks, as on settings that the model does not know: its weights are checked one by one."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _fitted(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """`tensors` in the shapes of the module's. Raises DecoderError unless names and shapes match exactly."""
    wanted = module.state_dict()
    fitting = {name: _as_linear(tensor, wanted[name]) for name, tensor in tensors.items() if name in wanted}
    problems = {
        "missing": [name for name in wanted if name not in tensors],
        "not part of the model": [name for name in tensors if name not in wanted],
        "of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
            for name, tensor in fitting.items()
            if tensor.shape != wanted[name].shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{len(names)} {what}: {_some(names)}" for what, names in problems.items() if names
        )
        raise DecoderError(
            f"{file} does not fit its model: {listed}; export the model again or download it afresh"
        )
    return fitting


def _as_linear(tensor: Tensor, wanted: Tensor) -> Tensor:
    """Turns the 1x1 convolutions (C, C, 1, 1) of latent diffusion's attention into linear layers (C, C)."""
    convolution = wanted.ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
    return tensor[:, :, 0, 0] if convolution else tensor


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED_AT_MOST]) + (", ..." if len(names) > _NAMED_AT_MOST else "")


def _geometry(layout: Layout, module: Any) -> tuple[int, int]:
    """Stride and latent channels. Raises DecoderError for what is not an autoencoder of RGB images."""
    if layout.kind == "TAEF2":
        return taef2.STRIDE, taef2.LATENT_CHANNELS
    config = module.config
    if (config.in_channels, config.out_channels) != (3, 3):
        raise DecoderError(
            f"{layout.weights} maps {config.in_channels} image channels to {config.out_channels}; "
            "give an autoencoder of RGB images"
        )
    if layout.kind == "AutoencoderKL":
        return 2 ** (len(config.block_out_channels) - 1), config.latent_channels
    factor = config.upsampling_scaling_factor
    if not isinstance(factor, (int, float)):
        raise DecoderError(
            f"the configuration beside {layout.weights} gives upsampling_scaling_factor {factor!r}; "
            "it is a number, usually 2"
        )
    enlarged = factor ** (len(config.decoder_block_out_channels) - 1)
    if enlarged != 2 ** (len(config.encoder_block_out_channels) - 1):
        raise DecoderError(
            f"{layout.weights}: the decoder enlarges {enlarged} times, not as much as the encoder reduces"
        )
    return int(enlarged), config.latent_channels


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that becomes `folder` if the block succeeds, and is removed if not."""
    if os.path.lexists(folder):
        raise OutputExistsError(f"{folder} exists; give a new folder, or remove it")
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
        partial.mkdir()
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise OutputError(
            f"{folder} could not be written: {error.strerror or error}; free space or choose another place"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)

"""Weights on disk: safetensors files and torch pickles, read strictly, written with some tensors replaced.

A safetensors file is a little-endian u64 header length, a JSON header that gives each tensor's dtype, shape
and byte range, and the bytes (https://github.com/huggingface/safetensors#format). Replacing tensors of
unchanged shape and dtype therefore means overwriting their byte ranges in a copy, which leaves everything
else, metadata and order included, as it was.
"""

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stablesig_detector.errors import DecoderError

FLOAT_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_HEADER_LENGTH_BYTES = 8


def is_safetensors(path: Path) -> bool:
    """Whether `path` is named as a safetensors file; any other weights file is a torch pickle."""
    return path.suffix == ".safetensors"


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file. Raises DecoderError if the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def read_tensors(path: Path, names: list[str] | None = None) -> dict[str, Tensor]:
    """Reads the tensors called `names` (all by default) in the dtypes of the file, on the CPU.

    Raises DecoderError if the file is missing or damaged, holds anything but tensors, or holds tensors that
    are not floating-point numbers, such as quantised weights.
    """
    tensors = _read_safetensors(path, names) if is_safetensors(path) else _read_pickle(path)
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOAT_TYPES:
            raise DecoderError(
                f"{path}: weight {name} is stored as {tensor.dtype}; "
                "only float64, float32, float16 and bfloat16 can be trained, so take unquantised weights"
            )
    return tensors


def rewrite(source: Path, target: Path, replaced: Mapping[str, Tensor]) -> None:
    """Writes `target` as `source` with the tensors `replaced`, by name, in the dtypes and shapes they had.

    Every other tensor keeps its bits. Raises DecoderError when a value does not fit the source's dtype (it
    would become infinite) or is not finite to begin with; lets OSError through.
    """
    if is_safetensors(source):
        _rewrite_safetensors(source, target, replaced)
    else:
        _rewrite_pickle(source, target, replaced)


def cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """`tensor` in `dtype`, contiguous. Raises DecoderError, with `name`, if a value is not finite there."""
    values = tensor.detach().to(dtype).contiguous()
    if not values.isfinite().all():
        raise DecoderError(
            f"weight {name} is not finite when stored as {dtype}; training diverged, lower the learning rate"
        )
    return values


def _read_safetensors(path: Path, names: list[str] | None) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes of torch's unpickler
        raise _unreadable(path, error) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DecoderError(
            f"{path} does not hold a flat dict of tensors; save the state dict of the model by itself"
        )
    return content


def _rewrite_safetensors(source: Path, target: Path, replaced: Mapping[str, Tensor]) -> None:
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        header_length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
        header = json.loads(file.read(header_length))
        data_start = _HEADER_LENGTH_BYTES + header_length
        dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        for name, tensor in replaced.items():
            begin, end = header[name]["data_offsets"]
            values = cast(tensor, dtypes[header[name]["dtype"]], name).cpu()
            content = values.reshape(-1).view(torch.uint8).numpy().tobytes()
            if len(content) != end - begin:
                raise DecoderError(
                    f"{source}: weight {name} takes {end - begin} bytes there, but {len(content)} now"
                )
            file.seek(data_start + begin)
            file.write(content)


def _rewrite_pickle(source: Path, target: Path, replaced: Mapping[str, Tensor]) -> None:
    tensors = _read_pickle(source)
    for name, tensor in replaced.items():  # in place: the dict keeps its order and class
        tensors[name] = cast(tensor, tensors[name].dtype, name).cpu().reshape(tensors[name].shape).clone()
    content = io.BytesIO()
    torch.save(tensors, content)  # given a path, torch would hide a full disk in a RuntimeError
    target.write_bytes(content.getbuffer())


def _unreadable(path: Path, error: Exception) -> DecoderError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return DecoderError(f"{path} cannot be read as weights ({reason}); copy or download the file again")

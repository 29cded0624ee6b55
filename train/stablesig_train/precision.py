"""Where bfloat16 pays: the arithmetic of the convolutions, by device and processor."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

# Processors with these multiply in bfloat16 twice as fast as in float32; the others emulate it, slower.
_NATIVE_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last is ARM's


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """`name`, one of "auto", "float32" and "bfloat16", as the dtype of the convolutions on `device`."""
    if name == "auto":
        return torch.bfloat16 if _native_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def mixed(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which convolutions compute in `dtype`; weights stay in float32."""
    if dtype == torch.float32:
        return nullcontext()
    # the cache of converted weights would hold on to those of the step before under no_grad
    return torch.autocast(device.type, dtype, cache_enabled=False)


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not _NATIVE_FLAGS.isdisjoint(_processor_flags())


def _processor_flags() -> set[str]:
    """What Linux says of the first processor; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return set(found.partition(":")[2].split())

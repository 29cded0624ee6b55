"""What watermark.json says about where a result comes from: software, machine, memory, source."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("stablesig", "torch", "diffusers", "kornia", "numpy", "pillow")


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide numbers; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def parameters_sha256(parameters: Iterable[torch.Tensor]) -> str:
    """Of weights in the order given, as float32 bytes: how reports and releases name a decoder."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def machine(device: torch.device) -> str:
    """One line on what computed, without the name of the host: "cpu, AMD EPYC, 2 threads, Linux x86_64"."""
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        processor = f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{device.type}, {processor}, {platform.system()} {platform.machine()}"


def peak_memory_bytes(device: torch.device) -> dict[str, int | None]:
    """The most memory that this process has held: resident, and allocated on a CUDA device."""
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"resident": _peak_resident_bytes(), "cuda": cuda}


def public_source(source: str) -> str:
    """Where the autoencoder came from, fit to publish: a Hub id as it is, of a local path its last name."""
    prefix, path = ("taef2:", source.removeprefix("taef2:")) if source.startswith("taef2:") else ("", source)
    local = Path(path).expanduser()
    return f"{prefix}{local.resolve().name}" if prefix or local.exists() else source


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown processor"


def _peak_resident_bytes() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak

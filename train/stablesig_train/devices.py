"""Which device computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stablesig_detector.errors import UsageError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """`name`, one of DEVICES, as a torch device; "auto" prefers CUDA, then MPS, then the CPU.

    Raises UsageError for another name, or a device that this machine does not have.
    """
    import torch  # not above: the help of `stablesig embed` reads EmbedConfig, and with it this module

    if name not in DEVICES:
        raise UsageError(f"a device is one of {', '.join(DEVICES)}; got {name!r}")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if present[kind]))
    if not present[name]:
        raise UsageError(
            f"PyTorch finds no {name} device on this machine; got --device {name}; use auto or cpu"
        )
    return torch.device(name)

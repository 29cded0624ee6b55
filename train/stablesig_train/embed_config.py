"""Settings of a watermarking run, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stablesig_detector.errors import UsageError
from stablesig_train.devices import DEVICES

PRECISIONS = ("auto", "float32", "bfloat16")
MIN_SIZE = 64  # px; less holds too few windows to learn from
PSNR_RANGE_DB = (20.0, 70.0)  # below, no one wants the images; above, rounding to 8 bits hides the difference


@dataclass(frozen=True)
class EmbedConfig:
    """How a decoder is fine-tuned. Raises UsageError for a value outside its range.

    psnr: fidelity to the original decoder that training holds, dB, mean over the held-out images
    steps: optimiser steps
    batch: crops in a step
    size: side of the training crops, px; a multiple of the autoencoder's stride
    seed: order of crops, their places, and attacks. The key has randomness of its own, this is no part of it
    device: "auto", "cpu", "cuda" or "mps"
    learning_rate: peak rate of the optimiser
    warm_up: share of the steps in which the rate rises to it
    gradient_norm: longer gradients are shortened to this
    averaging: decay per step of the moving average of the weights, which is what ships
    crops: training crops prepared, at most; spread evenly over the images
    precision: of the convolutions in training; "auto" is bfloat16 where the processor has instructions for it
    checkpoint_every: steps between checkpoints
    """

    psnr: float = 40.0
    steps: int = 1000
    batch: int = 4
    size: int = 160
    seed: int = 0
    device: str = "auto"
    learning_rate: float = 5e-5
    warm_up: float = 0.05
    gradient_norm: float = 1.0
    averaging: float = 0.98
    crops: int = 480
    precision: str = "auto"
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        low, high = PSNR_RANGE_DB
        _check("psnr", self.psnr, low <= self.psnr <= high, f"between {low:g} and {high:g} dB")
        for name in ("steps", "batch", "crops", "checkpoint_every"):
            _check(name, getattr(self, name), _whole(getattr(self, name)) >= 1, "a whole number from 1")
        _check("size", self.size, _whole(self.size) >= MIN_SIZE, f"a whole number from {MIN_SIZE} px")
        _check("seed", self.seed, 0 <= _whole(self.seed) < 2**63, "a whole number from 0, below 2^63")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate < 1, "between 0 and 1")
        _check("warm_up", self.warm_up, 0 <= self.warm_up < 1, "a share of the steps, from 0, below 1")
        _check("gradient_norm", self.gradient_norm, 0 < self.gradient_norm < math.inf, "above 0 and finite")
        _check("averaging", self.averaging, 0 <= self.averaging < 1, "from 0, below 1")
        _check("device", self.device, self.device in DEVICES, f"one of {', '.join(DEVICES)}")
        _check("precision", self.precision, self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")

    @property
    def crops_wanted(self) -> int:
        """Training crops that are worth preparing: no more than the steps will look at."""
        return min(self.crops, self.steps * self.batch)


def _whole(value: object) -> int:
    """`value` if it is an int, else a number that fails every check."""
    return value if type(value) is int else -1


def _check(name: str, value: object, fits: bool, range_: str) -> None:
    if not fits:
        raise UsageError(f"{name} is {range_}; got {value!r}")

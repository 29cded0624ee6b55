"""The torch twin of the detector's spectrum: the same numbers, differentiable, on any device.

`stablesig_detector.spectrum` is the definition; a test holds this one to it within 1e-4. The windows, bins
and constants are read from there and never repeated here.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stablesig_detector.spectrum import (
    COLOUR_MATRIX,
    FLOOR,
    HALVING_FILTER,
    HOP,
    PLANES,
    WINDOW,
    analysis_matrix,
)
from stablesig_detector.whitening import Whitening


class Spectrum(nn.Module):
    """(B, 3, H, W) images in [0, 1] -> (B, DIMENSION) mean log local spectra, natural logarithm.

    Both sides at least MIN_SIDE px. Computes in float32 whatever the autocast mode: the log of a small power
    does not survive bfloat16.
    """

    def __init__(self) -> None:
        super().__init__()
        for index, plane in enumerate(PLANES):
            self.register_buffer(f"rows_{index}", torch.from_numpy(analysis_matrix(plane)), persistent=False)
        self.register_buffer("colour", torch.tensor(COLOUR_MATRIX, dtype=torch.float32), persistent=False)
        taps = torch.tensor(HALVING_FILTER, dtype=torch.float32)
        self.register_buffer("taps", taps.expand(3, 1, -1).contiguous(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        with torch.autocast(images.device.type, enabled=False):
            planes = torch.einsum("ij,bjhw->bihw", self.get_buffer("colour"), images.float() * 255.0)
            pyramid = [planes - planes.new_tensor([128.0, 0.0, 0.0]).view(1, 3, 1, 1)]
            for _ in range(max(plane.octave for plane in PLANES)):
                pyramid.append(self._halve(pyramid[-1]))
            means = [
                self._mean_log_power(
                    pyramid[plane.octave][:, plane.channel], self.get_buffer(f"rows_{index}")
                )
                for index, plane in enumerate(PLANES)
            ]
            return torch.cat(means, dim=1)

    def _halve(self, planes: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, (H - 2) // 2, (W - 2) // 2)"""
        taps = self.get_buffer("taps")
        planes = functional.conv2d(planes, taps.unsqueeze(-1), stride=(2, 1), groups=3)
        return functional.conv2d(planes, taps.unsqueeze(-2), stride=(1, 2), groups=3)

    @staticmethod
    def _mean_log_power(plane: Tensor, rows: Tensor) -> Tensor:
        """(B, H, W), (2 F, WINDOW^2) -> (B, F)"""
        windows = functional.unfold(plane.unsqueeze(1), WINDOW, stride=HOP)  # (B, WINDOW^2, n)
        real, imaginary = (rows @ windows).chunk(2, dim=1)  # (B, F, n) each
        return torch.log(real.square() + imaginary.square() + FLOOR).mean(dim=-1)


class Statistic(nn.Module):
    """(B, 3, H, W) images in [0, 1] -> (B,) cosine between their whitened features and one key's direction.

    direction: (D,) unit vector.  whitening: that which the detector will use.
    """

    def __init__(self, direction: NDArray[np.float64], whitening: Whitening) -> None:
        super().__init__()
        self.spectrum = Spectrum()
        for name, values in (
            ("direction", direction),
            ("mean", whitening.mean),
            ("matrix", whitening.matrix),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images in [0, 1] -> (B, D) whitened features."""
        return (self.spectrum(images) - self.get_buffer("mean")) @ self.get_buffer("matrix").T

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return functional.cosine_similarity(
            self.features(images), self.get_buffer("direction").unsqueeze(0), dim=1
        )

"""How far a watermarked image may be from what the original decoder gives, and what holds it there.

Two measures, both as logarithms so that a flat image and a busy one pull alike: PSNR, for which the user
names a target, and the mean squared visibility under Watson's DCT model, which lets the energy go where the
eye does not look. (Watson, "DCT quantization matrices visually optimized for individual images", Proc. SPIE
1913, 1993.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stablesig_detector.spectrum import COLOUR_MATRIX

BLOCK = 8
# Watson's detection thresholds for luma at the centre of each frequency: grey levels, orthonormal 8 x 8 DCT.
THRESHOLDS = (
    (1.40, 1.01, 1.16, 1.66, 2.40, 3.43, 4.79, 6.56),
    (1.01, 1.45, 1.32, 1.52, 2.00, 2.71, 3.67, 4.93),
    (1.16, 1.32, 2.24, 2.59, 2.98, 3.64, 4.60, 5.88),
    (1.66, 1.52, 2.59, 3.77, 4.55, 5.30, 6.28, 7.60),
    (2.40, 2.00, 2.98, 4.55, 6.15, 7.46, 8.71, 10.17),
    (3.43, 2.71, 3.64, 5.30, 7.46, 9.62, 11.58, 13.51),
    (4.79, 3.67, 4.60, 6.28, 8.71, 11.58, 14.50, 17.29),
    (6.56, 4.93, 5.88, 7.60, 10.17, 13.51, 17.29, 21.15),
)
LUMINANCE_MASKING = 0.649  # exponent of the block's mean over the mid grey
CONTRAST_MASKING = 0.7  # exponent of the block's own coefficient
MID_GREY = 128.0 * BLOCK  # the DC coefficient of a block at half range


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """(B, 3, H, W) twice, in [0, 1] -> (B,) peak signal-to-noise ratio, dB; 100 at most."""
    error = (images - reference).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error + 1e-10)


def visibility(images: Tensor, reference: Tensor) -> Tensor:
    """(B, 3, H, W) twice, in [0, 1] -> (B,) mean squared error of the luma in just noticeable differences.

    1 is an error at the threshold of sight in every frequency of every block of the reference.
    """
    # the mean of a mid-grey block is its masking's reference point, so black is not infinitely sensitive
    dct_error = _block_dct(images - reference)
    with torch.no_grad():
        content = _block_dct(reference).abs()
        mean = (content[..., :1, :1] / MID_GREY).clamp_min(0.05)
        threshold = dct_error.new_tensor(THRESHOLDS) * mean**LUMINANCE_MASKING
        masked = content**CONTRAST_MASKING * threshold ** (1 - CONTRAST_MASKING)
        masked[..., 0, 0] = 0  # the mean does not mask itself
        threshold = torch.maximum(threshold, masked)
    return (dct_error / threshold).square().mean(dim=(1, 2, 3, 4))


def _block_dct(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, h, w, 8, 8) luma coefficients; what does not fill a block is left out."""
    luma = torch.einsum("j,bjhw->bhw", images.new_tensor(COLOUR_MATRIX[0]), images.float()) * 255
    b, height, width = luma.shape
    luma = luma[:, : height - height % BLOCK, : width - width % BLOCK]
    blocks = luma.reshape(b, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(2, 3)
    matrix = dct_matrix(luma)
    return matrix @ blocks @ matrix.T


def dct_matrix(like: Tensor) -> Tensor:
    """The orthonormal (8, 8) type II cosine transform, on the device and in the dtype of `like`."""
    n = torch.arange(BLOCK, device=like.device, dtype=like.dtype)
    matrix = torch.cos(math.pi * (2 * n + 1) * n.unsqueeze(1) / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix


class Fidelity:
    """A loss on distance to the original decoder whose weight moves until the mean PSNR sits at the target.

    The weight is a proportional and an integral answer, in its logarithm, to the smoothed error in dB. The
    integral starts when the target is first reached: a decoder that has just begun to move is far above it
    for no fault of the weight.

    target_psnr: dB.  masking: how much a decade of visibility counts beside a decade of squared error.
    weight: to start from.  slack: images that are more than this many dB above the target cost nothing, the
    mark may use that room.
    """

    PROPORTIONAL = 0.25  # of the logarithm of the weight, per dB
    INTEGRAL = 0.01  # the same, per dB and step
    SMOOTHING = 0.8
    LARGEST_ERROR_DB = 3.0
    RANGE = (0.02, 5.0)

    def __init__(
        self, target_psnr: float, masking: float = 0.25, weight: float = 0.5, slack: float = 1.0
    ) -> None:
        self.target_psnr = target_psnr
        self.masking = masking
        self.slack = slack
        self._settled = weight  # the integral part
        self._error = 0.0  # smoothed, dB, positive where the images are too far
        self._reached = False

    @property
    def weight(self) -> float:
        """What the loss is multiplied by now."""
        low, high = self.RANGE
        return min(high, max(low, self._settled * math.exp(self.PROPORTIONAL * self._error)))

    def loss(self, images_w: Tensor, images_d0: Tensor) -> Tensor:
        """(B, 3, H, W) watermarked and original, in [0, 1] -> scalar."""
        distance = self.target_psnr + self.slack - psnr(images_w, images_d0)
        cost = distance / 10 + self.masking * torch.log10(visibility(images_w, images_d0) + 1e-6)
        return self.weight * torch.where(distance > 0, cost, torch.zeros_like(cost)).mean()

    def update(self, psnr_db: float) -> None:
        """Take in the mean PSNR of a batch, dB."""
        limit = self.LARGEST_ERROR_DB
        error = min(limit, max(-limit, self.target_psnr - psnr_db))
        self._reached = self._reached or error > 0
        if not self._reached:
            return
        self._error = self.SMOOTHING * self._error + (1 - self.SMOOTHING) * error
        low, high = self.RANGE
        self._settled = min(high, max(low, self._settled * math.exp(self.INTEGRAL * error)))

    def state_dict(self) -> dict[str, float | bool]:
        """What a checkpoint needs."""
        return {"settled": self._settled, "error": self._error, "reached": self._reached}

    def load_state_dict(self, state: dict[str, float | bool]) -> None:
        """Continue from a checkpoint."""
        self._settled, self._error = float(state["settled"]), float(state["error"])
        self._reached = bool(state["reached"])

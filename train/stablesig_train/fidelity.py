"""How far a watermarked image may be from what the original decoder gives, and what holds it there.

PSNR, for which the user names a target, treats every error alike. Left to itself the decoder then writes
where that is easiest to learn, in the finest luma and in chroma, of which little outlasts a codec. So the
error that training lowers counts what codecs throw away more than what they keep; the target stays plain
PSNR.
docs/experiments.md has the measurements.
"""

from __future__ import annotations

import math

import kornia
import torch
from torch import Tensor

from stablesig_detector.spectrum import COLOUR_MATRIX

COARSE_SIGMA = 0.8  # px, of the Gaussian that parts coarse luma from fine; its gain is 1/2 at 0.23 cycles/px
FINE_WEIGHT = 3.0  # of the square of fine luma, beside that of coarse luma
COLOUR_WEIGHT = 1.5  # of the square of each colour difference


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """(B, 3, H, W) twice, in [0, 1] -> (B,) peak signal-to-noise ratio, dB; 100 at most."""
    error = (images - reference).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error + 1e-10)


def lasting_error(images: Tensor, reference: Tensor) -> Tensor:
    """(B, 3, H, W) twice, about [0, 1] -> (B,) mean squared error in which what codecs discard counts more.

    The square of coarse luma counts once, that of the fine rest FINE_WEIGHT times, that of each colour
    difference COLOUR_WEIGHT times. For a grating of luma that makes 0.9 of its plain squared error at 0.06
    cycles/px, 0.75 at 0.15, 1 at 0.23 and 2.5 at 0.47: the least where a mark lasts longest.
    """
    error = images.float() - reference.float()
    planes = torch.einsum("ij,bjhw->bihw", error.new_tensor(COLOUR_MATRIX), error)
    luma, colour = planes[:, :1], planes[:, 1:]
    coarse = kornia.filters.gaussian_blur2d(luma, (7, 7), (COARSE_SIGMA, COARSE_SIGMA))
    brightness = (coarse.square() + FINE_WEIGHT * (luma - coarse).square()).mean(dim=(1, 2, 3))
    return brightness + COLOUR_WEIGHT * colour.square().sum(dim=1).mean(dim=(1, 2))


class Fidelity:
    """A loss on distance to the original decoder whose weight moves until the mean PSNR sits at the target.

    The weight is a proportional and an integral answer, in its logarithm, to the smoothed error in dB. The
    integral starts when the target is first reached: a decoder that has just begun to move is far above it
    for no fault of the weight.

    target_psnr: dB.  weight: to start from.  slack: images that are more than this many dB above the target
    cost nothing, the mark may use that room.
    """

    PROPORTIONAL = 0.25  # of the logarithm of the weight, per dB
    INTEGRAL = 0.01  # the same, per dB and step
    SMOOTHING = 0.8
    LARGEST_ERROR_DB = 3.0
    RANGE = (0.02, 5.0)

    def __init__(self, target_psnr: float, weight: float = 0.5, slack: float = 1.0) -> None:
        self.target_psnr = target_psnr
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
        """(B, 3, H, W) watermarked and original, about [0, 1] -> scalar.

        A logarithm, so that a flat image and a busy one pull alike.
        """
        distance = self.target_psnr + self.slack - psnr(images_w, images_d0)
        # near 0 where images enter the slack, so that the loss hardly jumps there
        cost = torch.log10(lasting_error(images_w, images_d0) + 1e-10) + (self.target_psnr + self.slack) / 10
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

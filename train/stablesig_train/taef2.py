"""TAEF2, the tiny autoencoder of FLUX.2's latent space (32 channels at 1/8 of the side), as torch modules.

The layers are those of TAESD (https://github.com/madebyollin/taesd): 3x3 convolutions and residual blocks of
three of them, no attention. The three blocks at the lowest resolution also have a *pool* branch, whose group
normalisation looks at the whole image at once. A layer's position in its ``nn.Sequential`` is its name in the
published state dicts, so layers without weights (clamp, ReLU, upsampling) keep their place.
"""

import torch
from torch import Tensor, nn

LATENT_CHANNELS = 32
STRIDE = 8  # pixels of an image's side for each latent
_WIDTH = 64  # channels of every hidden layer
_POOL_WIDTH = 4 * _WIDTH
_POOL_GROUPS = 4
_CLAMP = 3.0  # latents beyond about +-3 saturate before they enter the decoder


class Block(nn.Module):
    """Residual block, (B, 64, h, w) -> (B, 64, h, w): ReLU(x + three 3x3 convolutions of x).

    The pool branch, where there is one, is added to x beforehand.
    """

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(), nn.ReLU(), _conv(), nn.ReLU(), _conv())
        self.pool = (
            nn.Sequential(
                nn.Conv2d(_WIDTH, _POOL_WIDTH, 1, bias=False),
                nn.GroupNorm(_POOL_GROUPS, _POOL_WIDTH),
                nn.ReLU(),
                nn.Conv2d(_POOL_WIDTH, _WIDTH, 1, bias=False),
            )
            if pooled
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    """Squeezes latents smoothly into (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / _CLAMP) * _CLAMP


class TAEF2(nn.Module):
    """The autoencoder: `encoder` (B, 3, H, W) in [0, 1] -> (B, 32, H/8, W/8); `decoder` back, not clamped."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _conv(inputs=3),
            Block(),
            *_down(pooled=False),
            *_down(pooled=False),
            *_down(pooled=True),
            _conv(outputs=LATENT_CHANNELS),
        )
        self.decoder = nn.Sequential(
            Clamp(),
            _conv(inputs=LATENT_CHANNELS),
            nn.ReLU(),
            *_up(pooled=True),
            *_up(pooled=False),
            *_up(pooled=False),
            Block(),
            _conv(outputs=3),
        )


def _conv(inputs: int = _WIDTH, outputs: int = _WIDTH) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _down(pooled: bool) -> list[nn.Module]:
    """Halves the sides, then three blocks."""
    return [nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, stride=2, bias=False), *(Block(pooled) for _ in range(3))]


def _up(pooled: bool) -> list[nn.Module]:
    """Three blocks, then doubles the sides."""
    doubling = [
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=False),
    ]
    return [*(Block(pooled) for _ in range(3)), *doubling]

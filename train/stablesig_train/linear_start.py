"""Start an `AutoencoderTiny` as about the best linear autoencoder that it can express, in closed form.

PyTorch's own initialisation loses the signal on its way through twenty layers without normalisation: 800
steps reach 19 dB on Kodak. This start takes seconds, has 24 dB before the first step and 26 dB after 365.
Three things make it work:

- Channels come in pairs (y, -y), so that what the ReLU after a layer cuts off, its partner keeps ("looks
  linear", Balduzzi et al., The Shattered Gradients Problem, ICML 2017). 32 channels carry 16 linear features.
- Residual branches end in zeros, so that every block starts as the identity on such pairs.
- Every other layer is fitted to crops: going down, the principal components of 2x2 patches; going up, least
  squares from 3x3 neighbourhoods of the upsampled features to the encoder's features one level higher.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import nn

RIDGE = 1e-5  # of the mean diagonal of the normal equations
ROWS = 20_000  # equations taken from each 8 crops; more change nothing
MAX_GAIN = 8.0  # no latent is enlarged by more than this over the strongest, which gets a deviation of 1
MIN_WIDTH = 6  # three colours, in pairs


@torch.no_grad()
def start_linear(model: AutoencoderTiny, crops: torch.Tensor, generator: torch.Generator) -> None:
    """Set every parameter of `model` from crops (B, 3, H, W) in [0, 1], H and W divisible by 8.

    The width must be even, the same at every level, and at least MIN_WIDTH; the encoder must have no block at
    full resolution (its first two layers then meet without a ReLU). Raises ValueError otherwise.
    """
    down = [layer for layer in model.encoder.layers if isinstance(layer, nn.Conv2d)]
    up = [layer for layer in model.decoder.layers if isinstance(layer, nn.Conv2d)]
    width = down[0].out_channels
    if width < MIN_WIDTH or width % 2:
        raise ValueError(f"a linear start needs an even width of {MIN_WIDTH} or more, got {width}")
    if not isinstance(model.encoder.layers[1], nn.Conv2d):
        raise ValueError("a linear start needs an encoder without blocks at full resolution, got some")
    for block in [*model.encoder.layers, *model.decoder.layers]:
        if hasattr(block, "fuse"):
            _start_block(block, generator)
    levels = _fit_encoder(down, crops)
    _fit_decoder(up, levels, crops, generator)


def _start_block(block: nn.Module, generator: torch.Generator) -> None:
    """Make a residual block the identity on non-negative features, with a branch that can learn."""
    first, second, last = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d)]
    for layer in (first, second):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(last.weight)
    for layer in (first, second, last):
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _set_layer(
    layer: nn.Conv2d,
    core: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    paired_in: bool = True,
    paired_out: bool = True,
) -> None:
    """Write the linear map `core` (out, in, 3, 3) into a layer with inputs and outputs in pairs (y, -y)."""
    weight = torch.cat((core, -core), dim=1) if paired_in else core
    layer.weight.copy_(torch.cat((weight, -weight), dim=0) if paired_out else weight)
    if layer.bias is not None:
        layer.bias.zero_()
        if bias is not None:
            layer.bias.copy_(torch.cat((bias, -bias)) if paired_out else bias)


def _principal(rows: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest eigenvalues and eigenvectors (rows) of the second moments of rows (N, C)."""
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    return values.flip(0)[:count], vectors.flip(1)[:, :count].T


def _fit_encoder(layers: list[nn.Conv2d], crops: torch.Tensor) -> list[torch.Tensor]:
    """Fit the encoder. Returns the linear features of each level, full resolution first, then the latents."""
    features = layers[0].out_channels // 2
    core, bias = torch.zeros(features, 3, 3, 3), torch.zeros(features)
    for colour in range(3):
        core[colour, colour, 1, 1], bias[colour] = 1.0, -0.5
    _set_layer(layers[0], core, bias, paired_in=False)
    found = [F.conv2d(crops, core, bias, padding=1)]
    for index, layer in enumerate(layers[1:-1]):
        below = found[-1]
        count, channels, height, width = below.shape
        patches = below.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        _, vectors = _principal(patches.reshape(-1, channels * 4), features)
        core = torch.zeros(features, channels, 3, 3)
        # With stride 2 and padding 1, taps 1 and 2 of three lie on the 2x2 patch.
        core[:, :, 1:, 1:] = vectors.reshape(-1, channels, 2, 2)
        found.append(F.conv2d(below, core, stride=2, padding=1))
        # The first two layers meet without a ReLU, so both members of a pair arrive and count twice.
        _set_layer(layer, core * (0.5 if index == 0 else 1.0), None)
    top = found[-1]
    rows = top.permute(0, 2, 3, 1).reshape(-1, top.shape[1])
    kept = min(layers[-1].out_channels, features)
    values, vectors = _principal(rows, kept)
    gain = (1 / values.clamp(min=1e-12).sqrt()).clamp(max=float(MAX_GAIN / values[0].sqrt()))
    core = torch.zeros(layers[-1].out_channels, features, 3, 3)
    core[:kept, :, 1, 1] = vectors * gain[:, None]
    _set_layer(layers[-1], core, None, paired_out=False)
    found.append(F.conv2d(top, core, padding=1))
    return found


def _fit_decoder(
    layers: list[nn.Conv2d], levels: list[torch.Tensor], crops: torch.Tensor, generator: torch.Generator
) -> None:
    """Fit the decoder, layer by layer: from the latents back through the encoder's features to the crops."""
    latents = torch.tanh(levels[-1] / 3) * 3  # as DecoderTiny does
    core, bias = _least_squares(latents, levels[-2], generator)
    _set_layer(layers[0], core, bias, paired_in=False)
    current = F.conv2d(latents, core, bias, padding=1)
    for layer, target in zip(layers[1:-1], reversed(levels[:-2]), strict=True):
        current = F.interpolate(current, scale_factor=2)
        core, _ = _least_squares(current, target, generator)
        _set_layer(layer, core, None)
        current = F.conv2d(current, core, padding=1)
    core, bias = _least_squares(current, crops, generator)
    _set_layer(layers[-1], core, bias, paired_out=False)


def _least_squares(
    inputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel (out, in, 3, 3) and bias (out,) that best lead from inputs (B, in, H, W) to targets."""
    ins, outs = inputs.shape[1], targets.shape[1]
    normal = torch.zeros(ins * 9 + 1, ins * 9 + 1, dtype=torch.float64)
    right = torch.zeros(ins * 9 + 1, outs, dtype=torch.float64)
    for start in range(0, len(inputs), 8):
        rows = F.unfold(inputs[start : start + 8], 3, padding=1).permute(0, 2, 1).reshape(-1, ins * 9)
        wanted = targets[start : start + 8].permute(0, 2, 3, 1).reshape(-1, outs)
        chosen = torch.randperm(len(rows), generator=generator)[:ROWS]
        rows = torch.cat((rows[chosen], torch.ones(len(chosen), 1)), dim=1).double()
        normal += rows.T @ rows
        right += rows.T @ wanted[chosen].double()
    normal += torch.eye(len(normal), dtype=torch.float64) * (RIDGE * normal.diagonal().mean())
    solution = torch.linalg.solve(normal, right).float()
    return solution[:-1].T.reshape(outs, ins, 3, 3), solution[-1]

"""How the decoder's weights move: the optimiser, its schedule, and the average of the weights that ships."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stablesig_train.decoders import Autoencoder
from stablesig_train.embed_config import EmbedConfig

_BETAS = (0.9, 0.99)  # a short memory of squared gradients: the whole run is a few hundred steps
_FINAL_RATE = 0.01  # share of the peak rate at the end


class Optimizer(Protocol):
    """What the loop asks of an optimiser. `state_dict` must hold all that decides the next step."""

    def step(self) -> None:
        """Moves the parameters along their `.grad`, then clears it."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def build_optimizer(autoencoder: Autoencoder, config: EmbedConfig) -> Optimizer:
    """The optimiser of the decoder's parameters, for a run of `config.steps`."""
    return ScheduledAdamW(autoencoder.decoder_parameters(), config)


def rate_share(step: int, steps: int, warm_up: float) -> float:
    """Share of the peak rate at `step` of 0..steps - 1: linear warm-up, then half a cosine."""
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return (step + 1) / rising
    rest = (step - rising) / max(1, steps - rising)
    return _FINAL_RATE + (1 - _FINAL_RATE) * (0.5 + 0.5 * math.cos(math.pi * rest))


class ScheduledAdamW:
    """AdamW without decay of the weights (they are to stay where they are), warm-up and cosine built in."""

    def __init__(self, parameters: Sequence[nn.Parameter], config: EmbedConfig) -> None:
        self._adam = torch.optim.AdamW(
            parameters, lr=config.learning_rate, betas=_BETAS, weight_decay=0.0, foreach=True
        )
        self._config = config
        self._step = 0

    def step(self) -> None:
        config = self._config
        for group in self._adam.param_groups:
            group["lr"] = config.learning_rate * rate_share(self._step, config.steps, config.warm_up)
        self._adam.step()
        self._adam.zero_grad()
        self._step += 1

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self._adam.state_dict(), "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._adam.load_state_dict(state["adam"])
        self._step = state["step"]


class WeightAverage:
    """Exponential moving average of parameters, which forgets the start of the run faster than its decay."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._decay = decay
        self._updates = 0
        self.values = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters as they are now."""
        self._updates += 1
        decay = min(self._decay, self._updates / (self._updates + 9))
        torch._foreach_lerp_(self.values, self._parameters, 1 - decay)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        for parameter, value in zip(self._parameters, self.values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "updates": self._updates}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        loaded: list[Tensor] = state["values"]
        for value, stored in zip(self.values, loaded, strict=True):
            value.copy_(stored)
        self._updates = state["updates"]

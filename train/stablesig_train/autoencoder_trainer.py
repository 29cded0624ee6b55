"""One run that trains a small `AutoencoderTiny`: settings, loss, optimiser, checkpoints."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny

from stablesig_detector.errors import OutputError, TrainingError, UsageError

LATENT_LIMIT = 3.0  # AutoencoderTiny.forward stores latents as bytes over [-3, 3]; latents are kept inside
LOSS_FLOOR = 3e-4  # added to the squared error of a crop: above 35 dB little is left to gain


@dataclass(frozen=True)
class Settings:
    """What decides the result. The run lasts `steps` if that is not 0, else `minutes`."""

    minutes: float = 40.0
    steps: int = 0
    seed: int = 0
    width: int = 32  # channels of every layer
    latent_channels: int = 16
    encoder_blocks: tuple[int, ...] = (0, 1, 2, 4)  # residual blocks per level, full resolution first
    decoder_blocks: tuple[int, ...] = (4, 3, 2, 1)  # ... full resolution last
    batch: int = 8
    crop: int = 96  # px
    learning_rate: float = 1e-3
    warm_up: float = 0.02  # share of the run
    precision: str = "bfloat16"  # of the convolutions while training; weights and loss are float32

    def build(self) -> AutoencoderTiny:
        """A new model: images (B, 3, H, W) in [-1, 1] <-> latents (B, latent_channels, H/8, W/8)."""
        return AutoencoderTiny(
            encoder_block_out_channels=(self.width,) * len(self.encoder_blocks),
            decoder_block_out_channels=(self.width,) * len(self.decoder_blocks),
            num_encoder_blocks=self.encoder_blocks,
            num_decoder_blocks=self.decoder_blocks,
            latent_channels=self.latent_channels,
        )


def reconstruction_loss(rebuilt: torch.Tensor, images: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Scalar: mean over crops of ln(MSE + LOSS_FLOOR), plus a penalty on latents outside LATENT_LIMIT.

    The logarithm makes the loss the mean PSNR itself, up to a constant, so that a few very rough crops do not
    take all the capacity. rebuilt, images: (B, 3, H, W) in [0, 1]; latents: (B, C, h, w).
    """
    error = (rebuilt - images).square().mean(dim=(1, 2, 3))
    excess = F.relu(latents.abs() - LATENT_LIMIT).square().mean()
    return torch.log(error + LOSS_FLOOR).mean() + excess


def learning_rate_share(progress: float, warm_up: float) -> float:
    """Share of the peak rate at `progress` in [0, 1]: linear warm-up, then a half cosine down to 1 %."""
    if progress < warm_up:
        return max(progress / warm_up, 0.01)
    rest = min((progress - warm_up) / (1 - warm_up), 1.0)
    return 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * rest))


class Trainer:
    """A training run that can be stopped and taken up again: model, optimiser, random state, time so far."""

    def __init__(self, settings: Settings, checkpoint: Path) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.checkpoint = settings, checkpoint
        self.model = settings.build()
        self.model.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(
            self.model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99)
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.step, self.seconds, self.cpu_seconds, self.saved_step = 0, 0.0, 0.0, 0

    @property
    def progress(self) -> float:
        if self.settings.steps:
            return self.step / self.settings.steps
        return self.seconds / (60 * self.settings.minutes)

    def save(self) -> None:
        """Write the checkpoint beside its place and rename it, so that a crash keeps the previous one."""
        state = {
            "settings": json.dumps(asdict(self.settings)),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }
        beside = self.checkpoint.with_name(self.checkpoint.name + ".part")
        try:
            torch.save(state, beside)
            beside.replace(self.checkpoint)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            beside.unlink(missing_ok=True)
            raise OutputError(
                f"{self.checkpoint} cannot be written: {error}; free some space, then use --resume"
            ) from error
        self.saved_step = self.step

    def load(self) -> None:
        """Take up the checkpoint. Only the run's length and learning rate may differ from those it had."""
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
            before, now = json.loads(state["settings"]), json.loads(json.dumps(asdict(self.settings)))
        except Exception as error:  # torch.load raises whatever pickle and zip do
            raise TrainingError(
                f"{self.checkpoint} is not a usable checkpoint ({error}); delete it and start again"
            ) from error
        free = {"minutes", "steps", "learning_rate"}
        changed = [name for name in now if name not in free and now[name] != before.get(name)]
        if changed:
            listed = ", ".join(f"{name} {before.get(name)}, now {now[name]}" for name in changed)
            raise UsageError(f"{self.checkpoint} was made with other settings ({listed}); give the same")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.step, self.seconds, self.cpu_seconds = state["step"], state["seconds"], state["cpu_seconds"]
        self.saved_step = self.step

    def advance(self, images: torch.Tensor) -> float:
        """One optimiser step on images (B, 3, H, W) in [0, 1]. Returns the loss before it.

        Raises TrainingError, with the weights untouched, if the loss or its gradient is not finite.
        """
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_share(self.progress, settings.warm_up)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16"):
            latents = self.model.encoder(images * 2 - 1)
            rebuilt = self.model.decoder(latents)
        loss = reconstruction_loss(rebuilt.float() / 2 + 0.5, images, latents.float())
        self.optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            if self.saved_step:
                kept = (
                    f"{self.checkpoint} keeps step {self.saved_step}; --resume with a lower --learning-rate"
                )
            else:
                kept = "no checkpoint was due yet; start again with a lower --learning-rate"
            raise TrainingError(
                f"the loss is {loss.item()} and its gradient {norm.item()} at step {self.step}; {kept}"
            )
        self.optimiser.step()
        self.step += 1
        return loss.item()

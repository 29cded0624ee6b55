"""The loop that puts a key into a decoder: steps, checkpoints, interruption, resumption.

Every random choice of a step (crops, attacks) follows from the seed and the step's number alone. There is no
generator whose state could be lost, so a run that goes on from a checkpoint takes the very steps that it
would have taken; on the CPU with the same number of threads it ends with the same bits.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stablesig_detector.errors import OutputError, TrainingError, UsageError
from stablesig_train import attacks
from stablesig_train.decoders import Autoencoder
from stablesig_train.embed_config import EmbedConfig
from stablesig_train.fidelity import Fidelity, psnr
from stablesig_train.optimisation import WeightAverage, build_optimizer
from stablesig_train.precision import mixed
from stablesig_train.spectrum import Statistic
from stablesig_train.training_images import LatentCache

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_VERSION = 2  # laid out as 1, which was of a run with another loss
TARGET_STATISTIC = 0.9  # where the hinge ends: beyond, all effort goes into fidelity
ATTACKED_WEIGHT = 4.0  # of an attacked image beside an untouched one
RAMP = 0.3  # share of the steps in which attacks grow from half strength to full strength
HISTORY_ENTRIES = 1000  # kept of a long run, at most
_SMOOTHING = 0.9  # of what is reported, per step


@dataclass(frozen=True)
class TrainingStep:
    """What `progress` is called with after each step; measurements are smoothed over about ten steps."""

    step: int  # done
    steps: int  # in all
    statistic: float  # mean cosine between features and key, -1..1, no attack
    attacked_statistic: float
    psnr_db: float  # mean, against the original decoder
    seconds_left: float


class Progress(Protocol):
    def __call__(self, report: TrainingStep, /) -> object: ...


def watermark_loss(clean: Tensor, attacked: Tensor, fidelity: Tensor) -> Tensor:
    """What a step minimises: statistics (B,) without and with attack, and the fidelity term, scalar.

    An attacked image counts ATTACKED_WEIGHT times: untouched images are detected long before attacked ones.
    """
    untouched, after = (F.relu(TARGET_STATISTIC - statistic).mean() for statistic in (clean, attacked))
    return (untouched + ATTACKED_WEIGHT * after) / (1 + ATTACKED_WEIGHT) + fidelity


def attack_strength(step: int, steps: int) -> float:
    """Strength of the attacks at `step` of 0..steps - 1: from 0.5, in which the key is found, to 1."""
    return 0.5 + 0.5 * min(1.0, step / max(1.0, RAMP * steps))


class FineTuning:
    """One run. `folder` holds its checkpoint; `identity` is what a checkpoint must share to be taken up."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        statistic: Statistic,
        config: EmbedConfig,
        folder: Path,
        identity: dict[str, Any],
    ) -> None:
        self.autoencoder, self.statistic, self.config = autoencoder, statistic, config
        self.checkpoint = folder / CHECKPOINT
        self.identity = identity
        self.parameters = autoencoder.decoder_parameters()
        self.optimizer = build_optimizer(autoencoder, config)
        self.average = WeightAverage(self.parameters, config.averaging)
        self.fidelity = Fidelity(config.psnr)
        self.device = self.parameters[0].device
        self.step = 0
        self.saved_step = -1
        self.seconds = 0.0  # of training, over all sessions
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._smooth: dict[str, float] = {}

    def run(self, cache: LatentCache, dtype: torch.dtype, progress: Progress | None = None) -> None:
        """Train to the end. dtype: of the convolutions.

        SIGINT and SIGTERM write a checkpoint and raise KeyboardInterrupt. Raises TrainingError when the loss
        or its gradient is not finite, OutputError when a checkpoint cannot be written; the last one stays.
        """
        started, first = time.monotonic(), self.step
        devices = [self.device] if self.device.type == "cuda" else []
        with _interruption() as interrupted, torch.random.fork_rng(devices):
            while self.step < self.config.steps:
                before = time.monotonic()
                measured = self._advance(cache, dtype)
                self.seconds += time.monotonic() - before
                self._record(measured)
                if interrupted():
                    self.save()
                    raise KeyboardInterrupt
                if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                    self.save()
                if progress is not None:
                    per_step = (time.monotonic() - started) / (self.step - first)
                    progress(self._report(per_step * (self.config.steps - self.step)))
        if interrupted():  # during the last save, or the last call of progress
            raise KeyboardInterrupt

    def _advance(self, cache: LatentCache, dtype: torch.dtype) -> dict[str, float]:
        """One optimiser step; returns what it measured. Raises TrainingError with the weights untouched."""
        config, step = self.config, self.step
        index = torch.tensor(
            [
                crop_index(config.seed, step * config.batch + place, len(cache))
                for place in range(config.batch)
            ]
        )
        z = cache.latents[index].to(self.device)  # (B, C, h, w)
        imgs_d0 = cache.originals[index].to(self.device).float()  # (B, 3, H, W), about [0, 1]
        # For whatever draws from torch's own generator, which `run` has forked: augmentations of kornia do.
        torch.manual_seed(derived_seed(config.seed, f"global {step}"))
        generator = torch.Generator().manual_seed(derived_seed(config.seed, f"attacks {step}"))

        with mixed(self.device, dtype):
            imgs_w = self.autoencoder.decode(z)
        imgs_w = imgs_w.float().contiguous()  # the decoder computes channels-last
        seen = imgs_w.clamp(0, 1)  # as a picture file holds it
        clean = self.statistic(seen)  # (B,)
        attacked = self.statistic(attacks.sample(seen, generator, attack_strength(step, config.steps)))
        loss = watermark_loss(clean, attacked, self.fidelity.loss(imgs_w, imgs_d0))
        self._check_finite("loss", float(loss.detach()))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.gradient_norm)
        self._check_finite("gradient", float(norm))
        self.optimizer.step()
        self.average.update()
        psnr_db = float(psnr(seen.detach(), imgs_d0.clamp(0, 1)).mean())
        self.fidelity.update(psnr_db)
        self.step += 1
        return {
            "loss": float(loss.detach()),
            "psnr": psnr_db,
            "statistic": float(clean.detach().mean()),
            "attacked_statistic": float(attacked.detach().mean()),
        }

    def _check_finite(self, what: str, value: float) -> None:
        if math.isfinite(value):
            return
        kept = (
            f"{self.checkpoint} keeps step {self.saved_step}, the last good one; --resume goes on from "
            "there; to take another course start anew,"
            if self.saved_step > 0
            else "no step was saved yet; start anew,"
        )
        raise TrainingError(
            f"training diverged: the {what} is {value} at step {self.step + 1}; {kept} with another --seed "
            "or a lower learning rate"
        )

    def _record(self, measured: dict[str, float]) -> None:
        """Takes `measured` into the history (means over equal stretches of a long run) and the report."""
        for name, value in measured.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._smooth[name] = _SMOOTHING * self._smooth.get(name, value) + (1 - _SMOOTHING) * value
        every = -(-self.config.steps // HISTORY_ENTRIES)
        if self.step % every == 0:
            self.history.append(
                {"step": self.step} | {name: total / every for name, total in self._sums.items()}
            )
            self._sums = {}

    def _report(self, seconds_left: float) -> TrainingStep:
        smooth = self._smooth
        return TrainingStep(
            self.step,
            self.config.steps,
            smooth["statistic"],
            smooth["attacked_statistic"],
            smooth["psnr"],
            seconds_left,
        )

    def save(self) -> None:
        """Write the checkpoint, in place of the one before only when it is whole.

        Raises TrainingError if a weight is not finite, OutputError if it cannot be written.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            self._check_finite("weight", math.nan)
        state = {
            "version": CHECKPOINT_VERSION,
            "identity": self.identity,
            "step": self.step,
            "seconds": self.seconds,
            "parameters": [parameter.detach() for parameter in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "fidelity": self.fidelity.state_dict(),
            "history": self.history,
            "sums": self._sums,
            "smooth": self._smooth,
        }
        beside = self.checkpoint.with_name(f".{CHECKPOINT}.{secrets.token_hex(4)}")
        try:
            with beside.open("wb") as stream:
                torch.save(state, stream)
            beside.replace(self.checkpoint)
        except (OSError, RuntimeError) as error:  # torch turns some failures of the disk into RuntimeError
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            advice = "use --resume" if self.saved_step > 0 else "start anew"  # `embed` keeps no step 0
            raise OutputError(
                f"{self.checkpoint} cannot be written: {reason}; free some space, then {advice}"
            ) from error
        finally:
            beside.unlink(missing_ok=True)
        self.saved_step = self.step

    def load(self) -> None:
        """Take up the checkpoint. Raises UsageError if it is of another run, TrainingError if damaged."""
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            version, identity = state["version"], state["identity"]
        except FileNotFoundError:
            raise UsageError(
                f"there is no unfinished run to resume: {self.checkpoint} does not exist; remove "
                f"{self.checkpoint.parent} and leave out --resume"
            ) from None
        except Exception as error:  # torch.load raises whatever pickle and zip do
            raise self._damaged(str(error)) from error
        if version != CHECKPOINT_VERSION:
            raise self._damaged(f"format {version}, this release reads {CHECKPOINT_VERSION}")
        self._check_identity(identity)
        try:
            with torch.no_grad():
                for parameter, stored in zip(self.parameters, state["parameters"], strict=True):
                    parameter.copy_(stored)
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.load_state_dict(state["average"])
            self.fidelity.load_state_dict(state["fidelity"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.history, self._sums, self._smooth = state["history"], state["sums"], state["smooth"]
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise self._damaged(str(error)) from error
        self.saved_step = self.step

    def _check_identity(self, stored: dict[str, Any]) -> None:
        changed = [
            f"{name} (was {stored.get(name)!r}, is {value!r})"
            for name, value in self.identity.items()
            if stored.get(name) != value
        ]
        if changed:
            raise UsageError(
                f"{self.checkpoint} belongs to another run: {', '.join(changed)}; give what it was started "
                "with, or start anew elsewhere without --resume"
            )

    def _damaged(self, reason: str) -> TrainingError:
        reason = reason.partition("\n")[0]
        return TrainingError(
            f"{self.checkpoint} is no usable checkpoint ({reason}); remove {self.checkpoint.parent} and "
            "start anew without --resume"
        )


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, unrelated to every other purpose's."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode("ascii")).digest()[:8], "little") >> 1


def crop_index(seed: int, draw: int, count: int) -> int:
    """Which of `count` crops is draw number `draw`: every crop once, in a new order each time round."""
    return _order(seed, draw // count, count)[draw % count]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(derived_seed(seed, f"order {epoch}"))
    return torch.randperm(count, generator=generator).tolist()


@contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Within the block SIGINT and SIGTERM only set what the yielded function returns; a second one raises.

    Signals can be caught in the main thread only; elsewhere nothing changes.
    """
    caught: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    main = threading.current_thread() is threading.main_thread()
    previous = [signal.signal(number, note) for number in numbers] if main else []
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in zip(numbers, previous, strict=False):
            if handler is not None:  # None: not installed by Python, so Python cannot put it back
                signal.signal(number, handler)

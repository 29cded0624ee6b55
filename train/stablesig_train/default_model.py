"""Train the small autoencoder that the package ships as stablesig/data/tiny-vae.

    python -m stablesig_train.default_model --images PHOTOS --out FOLDER --steps 20    # a smoke run: seconds
    python -m stablesig_train.default_model --images PHOTOS --out FOLDER --minutes 40  # one CPU core
    python -m stablesig_train.default_model --evaluate TEST_PHOTOS --model FOLDER      # PSNR, image by image

The model is a plain diffusers `AutoencoderTiny` (the layout of TAESD), 8x smaller in each direction, trained
from nothing, with no adversary and no perceptual network, from the closed-form start of `linear_start`. It
exists so that the demo and the tests run offline with a real decoder; it is not for production.
Every level has the same width because `AutoencoderTiny` cannot change width between levels; full-resolution
layers cost the most, so the encoder has no residual block there and the decoder one.

With `--steps` the same seed, images, PyTorch version, processor and thread count give the same model; with
`--minutes` the learning rate follows the clock, so the number of steps depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from safetensors import SafetensorError

from stablesig_detector.errors import (
    ImageError,
    OutputError,
    OutputExistsError,
    StableSigError,
    UsageError,
)
from stablesig_detector.image import load_image
from stablesig_train.autoencoder_trainer import Settings, Trainer
from stablesig_train.linear_start import MIN_WIDTH, start_linear
from stablesig_train.photographs import CropSampler, list_images, split_images

STRIDE = 8  # pixels per latent, in each direction
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"  # as diffusers names it
START_CROPS = 128  # what the closed-form start is fitted to
CHECKPOINT_SECONDS = 60.0
PROGRESS_SECONDS = 30.0


@dataclass(frozen=True)
class Result:
    """What a training run reached; PSNR in dB on the held-out photographs."""

    steps: int
    seconds: float
    cpu_seconds: float  # of all threads together
    parameters: int
    held_out_psnr: float
    held_out_worst: float


def psnr(rebuilt: torch.Tensor, images: torch.Tensor) -> list[float]:
    """PSNR in dB of each image of a batch (B, 3, H, W) in [0, 1], rounded to 8 bits as in a saved file."""
    rounded = (rebuilt.clamp(0, 1) * 255).round() / 255
    error = (rounded - images).double().square().mean(dim=(1, 2, 3))
    return [float(-10 * math.log10(max(value, 1e-10))) for value in error.tolist()]


@torch.no_grad()
def evaluate(model: AutoencoderTiny, paths: Sequence[Path], size: int = 256) -> dict[str, float]:
    """PSNR in dB between the centre crop (size x size px) of each image and its reconstruction, by name."""
    found: dict[str, float] = {}
    for path in paths:
        pixels = np.asarray(load_image(path), dtype=np.float32)
        height, width = pixels.shape[:2]
        if min(height, width) < size:
            raise ImageError(f"{path} is {width}x{height} px; PSNR is measured on {size} px; leave it out")
        top, left = (height - size) // 2, (width - size) // 2
        image = torch.from_numpy(pixels[top : top + size, left : left + size]).permute(2, 0, 1)[None] / 255
        rebuilt = model.decoder(model.encoder(image * 2 - 1)) / 2 + 0.5
        found[path.name] = psnr(rebuilt, image)[0]
    return found


def train(
    images: Path, out: Path, settings: Settings, *, manifest: Path | None = None, resume: bool = False
) -> Result:
    """Train on the photographs in `images` and write the diffusers folder `out`, whole or not at all.

    Progress goes to stderr. While it runs, `out`.checkpoint holds the state of at most a minute ago; it is
    removed at the end. Raises OutputExistsError, OutputError (no space left), ImageError, UsageError, or
    TrainingError (a loss that is not finite).
    """
    checkpoint = out.with_name(out.name + ".checkpoint")
    if os.path.lexists(out):
        raise OutputExistsError(f"{out} exists; give a new folder name to --out")
    if checkpoint.exists() and not resume:
        raise OutputExistsError(
            f"{checkpoint} holds an unfinished run; continue it with --resume, or delete it"
        )
    if resume and not checkpoint.exists():
        raise UsageError(f"{checkpoint} does not exist, so there is nothing to resume; leave --resume out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out.parent} cannot be made: {error.strerror}; choose another --out") from error
    training, held_out = split_images(images, manifest)
    trainer = Trainer(settings, checkpoint)
    if resume:
        trainer.load()
    sampler = CropSampler(training, settings.crop)
    if not resume:
        start_linear(trainer.model, sampler.draw(START_CROPS, trainer.generator), trainer.generator)
    run(trainer, sampler, held_out)
    save_model(trainer.model, out)
    checkpoint.unlink(missing_ok=True)
    found = evaluate(trainer.model, held_out).values()
    parameters = sum(p.numel() for p in trainer.model.parameters())
    seconds, cpu_seconds = round(trainer.seconds, 1), round(trainer.cpu_seconds, 1)
    return Result(trainer.step, seconds, cpu_seconds, parameters, sum(found) / len(found), min(found))


def run(trainer: Trainer, sampler: CropSampler, held_out: Sequence[Path]) -> None:
    """Train to the end of the schedule, with checkpoints and progress lines. Ctrl-C leaves a checkpoint."""
    losses: list[float] = []
    drawn_from, number = trainer.generator.get_state(), trainer.step
    clock = last_line = last_save = time.monotonic()
    processor = time.process_time()
    try:
        while trainer.progress < 1:
            drawn_from, number = trainer.generator.get_state(), trainer.step
            losses.append(trainer.advance(sampler.draw(trainer.settings.batch, trainer.generator)))
            now = time.monotonic()
            trainer.seconds += now - clock
            trainer.cpu_seconds += time.process_time() - processor
            clock, processor = now, time.process_time()
            if now - last_save >= CHECKPOINT_SECONDS:
                trainer.save()
                last_save = now
            if now - last_line >= PROGRESS_SECONDS or trainer.progress >= 1:
                print(progress_line(trainer, losses, held_out), file=sys.stderr, flush=True)
                losses, last_line = [], now
    except KeyboardInterrupt:
        if trainer.step == number:  # these crops have taught nothing yet: draw them again
            trainer.generator.set_state(drawn_from)
        trainer.save()
        raise


def progress_line(trainer: Trainer, losses: Sequence[float], held_out: Sequence[Path]) -> str:
    """Step, PSNR of the recent training crops (from the loss) and of the held-out photographs, time left."""
    recent = -10 / math.log(10) * sum(losses) / max(1, len(losses))
    found = evaluate(trainer.model, held_out)
    left = trainer.seconds * (1 / max(trainer.progress, 1e-9) - 1)
    mean = sum(found.values()) / len(found)
    clock = f"{int(left // 60)}:{int(left % 60):02d}"
    return f"step {trainer.step}  training crops {recent:.2f} dB  held out {mean:.2f} dB  {clock} left"


def save_model(model: AutoencoderTiny, out: Path) -> None:
    """Write config.json and the weights (safetensors, float32) into a new folder `out`.

    The folder appears whole or not at all. Raises OutputError if the system refuses: no space, no permission.
    """
    beside = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    try:
        model.to(memory_format=torch.contiguous_format).save_pretrained(beside)
        config = json.loads((beside / "config.json").read_text())
        del config["block_out_channels"]  # AutoencoderTiny adds it by itself, and warns where it finds it
        (beside / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (beside / WEIGHTS_NAME).chmod(0o644)  # safetensors makes it 0600
        beside.rename(out)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{out} cannot be written: {error}; free some space, then use --resume") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m stablesig_train.default_model",
        description="Train the small autoencoder that the package ships, or measure one.",
        epilog="Exit codes: 0 done, 130 stopped with Ctrl-C, else those of stablesig_detector.errors.",
    )
    add = parser.add_argument
    add("--images", type=Path, metavar="DIR", help="photographs to train on")
    add("--out", type=Path, metavar="FOLDER", help="where to write the model; must not exist")
    add("--manifest", type=Path, metavar="TSV", help="file, sha256, role: use only the images it lists")
    add(
        "--evaluate", type=Path, metavar="DIR", help="print the PSNR of --model on these images' centre crops"
    )
    add("--model", type=Path, metavar="FOLDER", help="the AutoencoderTiny folder that --evaluate measures")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=defaults.minutes, help="length of the run")
    length.add_argument("--steps", type=int, default=0, help="length of the run in steps: repeatable")
    add("--seed", type=int, default=defaults.seed, help="of weights and crops (default %(default)s)")
    add("--width", type=int, default=defaults.width, help="channels of every layer (default %(default)s)")
    add("--latent-channels", type=int, default=defaults.latent_channels, help="(default %(default)s)")
    add("--batch", type=int, default=defaults.batch, help="crops in a step (default %(default)s)")
    add("--crop", type=int, default=defaults.crop, help="px, a multiple of 8 (default %(default)s)")
    add("--learning-rate", type=float, default=defaults.learning_rate, help="peak (default %(default)s)")
    add("--precision", choices=("bfloat16", "float32"), default=defaults.precision, help="while training")
    add("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    add("--resume", action="store_true", help="continue the unfinished run of --out")
    return parser.parse_args(arguments)


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings that the command line asks for. Raises UsageError for a value outside its range."""
    for name in ("minutes", "width", "latent_channels", "batch", "crop", "learning_rate", "threads"):
        if not getattr(options, name) > 0:
            raise UsageError(
                f"--{name.replace('_', '-')} is {getattr(options, name)}; give a positive number"
            )
    if options.steps < 0:
        raise UsageError(f"--steps is {options.steps}; give a positive number")
    if options.crop % STRIDE:
        raise UsageError(f"--crop is {options.crop} px; give a multiple of {STRIDE}")
    if options.width % 2 or options.width < MIN_WIDTH:
        raise UsageError(f"--width is {options.width}; give an even number of {MIN_WIDTH} or more")
    names = [field.name for field in fields(Settings) if hasattr(options, field.name)]
    return Settings(**{name: getattr(options, name) for name in names})


def print_evaluation(model: Path | None, images: Path) -> None:
    """Print the PSNR of each image, then mean and worst. Raises UsageError when there is no such model."""
    if model is None or not (model / "config.json").is_file():
        raise UsageError(f"--evaluate needs --model FOLDER, one with a config.json; got {model}")
    found = evaluate(AutoencoderTiny.from_pretrained(model, low_cpu_mem_usage=False), list_images(images))
    for name, value in found.items():
        print(f"{name}\t{value:.2f}")
    mean = sum(found.values()) / len(found)
    print(f"mean {mean:.2f} dB, worst {min(found.values()):.2f} dB, {len(found)} images")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or that of the error whose one line it printed."""
    options = parse_arguments(arguments)
    try:
        settings = settings_from(options)
        torch.set_num_threads(options.threads)
        if options.evaluate:
            print_evaluation(options.model, options.evaluate)
            return 0
        if not options.images or not options.out:
            raise UsageError(
                "give --images DIR and --out FOLDER to train, or --evaluate DIR and --model FOLDER"
            )
        result = train(
            options.images, options.out, settings, manifest=options.manifest, resume=options.resume
        )
        print(json.dumps(asdict(result) | {"out": str(options.out), "settings": asdict(settings)}))
        return 0
    except StableSigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; if a checkpoint is beside --out, --resume continues from it", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""`embed`: from an autoencoder, a key and a folder of photographs to a watermarked autoencoder.

    OUT.partial/checkpoint.pt    while it runs; --resume goes on from it
    OUT/vae/                     the autoencoder, in the layout it came in
    OUT/watermark.json           settings, provenance, measured quality and detection; no secret
    OUT/report/                  side_by_side.png, loss_curve.png, history.json

OUT appears when all of it is there, by one rename.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from stablesig_detector.detection import DEFAULT_FPR, Key, check_key
from stablesig_detector.errors import OutputError, OutputExistsError, StableSigError, UsageError
from stablesig_detector.spectrum import DIMENSION, FEATURE_VERSION
from stablesig_detector.whitening import Whitening, load_default
from stablesig_train.allocator import keep_freed_memory
from stablesig_train.decoders import Autoencoder, load_autoencoder
from stablesig_train.devices import choose_device
from stablesig_train.embed_config import EmbedConfig
from stablesig_train.finetuning import CHECKPOINT, FineTuning, Progress, TrainingStep
from stablesig_train.held_out import Control, Measurement, Pixels, Robustness, hold_psnr, measure, prepare
from stablesig_train.precision import choose_precision
from stablesig_train.provenance import machine, parameters_sha256, peak_memory_bytes, public_source, versions
from stablesig_train.report import loss_curve, side_by_side, write_watermark_json
from stablesig_train.spectrum import Statistic
from stablesig_train.training_images import (
    ImageFile,
    TrainingCrops,
    Warn,
    cut_crops,
    encode_crops,
    find_images,
    manifest_sha256,
)

__all__ = ["EmbedConfig", "EmbedResult", "TrainingStep", "embed"]

FORMAT = "stablesig-watermark"
FORMAT_VERSION = 1
ALGORITHM = "keyed-spectrum-in-decoder"
PICTURES_SHOWN = 4  # in the side-by-side picture
_ELSEWHERE = frozenset({"device", "checkpoint_every"})  # settings that a resumed run may change
_SPARE_BYTES = 64 << 20  # for pictures and reports

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedResult:
    """Where the watermarked autoencoder is, and what it is worth on held-out images."""

    out: Path
    key_id: str
    steps: int
    seconds: float  # of the whole run, all sessions together
    scale: float  # by which the trained change of the weights was multiplied to meet the PSNR target
    measurement: Measurement

    @property
    def vae(self) -> Path:
        return self.out / "vae"

    @property
    def shortfall(self) -> str | None:
        """A warning for whoever would publish this; None if all untouched held-out images are detected."""
        untouched = self.measurement.attacks[0]
        if untouched.detected == untouched.total:
            return None
        return (
            f"the watermark was detected in {untouched.detected} of {untouched.total} held-out images that "
            "nothing was done to; more --steps, more photographs or a lower --psnr make it stronger"
        )

    def __str__(self) -> str:
        found = self.measurement
        lines = [
            f"autoencoder  {self.vae}",
            f"key          {self.key_id}",
            f"PSNR         {found.psnr_mean_db:.2f} dB mean, {found.psnr_worst_db:.2f} dB worst, "
            f"of {found.images} held-out images",
            f"{'attack':<20}  detected  statistic  median p  worst p",
        ]
        lines += [_line(row.name, row, f"1e{row.worst_log10_p:.1f}") for row in found.attacks]
        # no key is in these: the smallest p-value is the one to worry about
        lowest = f"1e{found.control.lowest_log10_p:.1f} (lowest)"
        lines.append(_line("original decoder", found.control, lowest))
        lines.append(
            f"Detected means p <= {found.fpr:g}. {self.steps} steps in {self.seconds:.0f} s; "
            f"details in {self.out / 'watermark.json'}."
        )
        return "\n".join(lines)


def _line(name: str, row: Robustness | Control, extreme: str) -> str:
    """A row of the table; `extreme`: its last cell."""
    return (
        f"{name:<20}  {f'{row.detected}/{row.total}':>8}  {row.mean_statistic:+9.3f}  "
        f"1e{row.median_log10_p:<6.1f}  {extreme}"
    )


def embed(
    vae: str | Path,
    key: Key,
    images: str | Path,
    out: str | Path,
    config: EmbedConfig | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    on_warning: Warn | None = None,
    whitening: Whitening | None = None,
    revision: str | None = None,
    publish_key: bool = False,
) -> EmbedResult:
    """Fine-tune a decoder so that the images it decodes carry `key`.

    vae: what `load_autoencoder` reads, `revision` that of a source on the Hub.  images: a folder of
    photographs; a part of them is held out.  out: a folder that does not exist.  resume: go on from the
    checkpoint in OUT.partial.  progress: called with a `TrainingStep` after each step.  on_warning: called
    with a line for each image that is skipped (default: logging, which prints to standard error).  whitening:
    statistics other than those shipped.  publish_key: put the public key's direction into watermark.json.

    Raises OutputExistsError, OutputError, UsageError (settings, or a checkpoint of another run),
    KeyFileError, DecoderError, ImageError (fewer than two usable images), TrainingError. KeyboardInterrupt,
    by Ctrl-C or SIGTERM, leaves a checkpoint.
    """
    started = time.monotonic()
    config = EmbedConfig() if config is None else config
    out, warn = Path(out), on_warning or _log.warning
    partial = _free_places(out, resume)
    whitening = load_default() if whitening is None else whitening
    check_key(key, FEATURE_VERSION, DIMENSION, whitening.sha256)
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    files = find_images(Path(images), warn)
    autoencoder = load_autoencoder(vae, device=device, revision=revision)
    if config.size % autoencoder.stride:
        raise UsageError(
            f"size is a multiple of the autoencoder's stride, {autoencoder.stride}; got {config.size}"
        )
    # a fifth faster on a CPU, and what a GPU's half-precision kernels want
    autoencoder.module.to(memory_format=torch.channels_last)
    original = autoencoder.original_decoder()
    statistic = Statistic(key.direction, whitening).to(device)
    identity = _identity(config, key, whitening, autoencoder, files)
    run = FineTuning(autoencoder, statistic, config, partial, identity)
    if resume:
        run.load()
    else:
        _make_partial(partial, run)
    before = run.seconds
    try:
        crops = cut_crops(files, config.size, autoencoder.stride, config.crops_wanted, config.seed, warn)
        dtype = choose_precision(config.precision, device)
        if run.step < config.steps:
            run.run(encode_crops(original, crops.training, dtype), dtype, progress)
        run.average.copy_to_parameters()
        held_out = prepare(original, crops.held_out)
        scale, marked = hold_psnr(autoencoder, original, held_out, config.psnr)
        measurement = measure(marked, held_out.originals, key, whitening, DEFAULT_FPR)
        seconds = before + time.monotonic() - started
        result = EmbedResult(out, key.id, config.steps, seconds, scale, measurement)
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "algorithm": ALGORITHM,
            "key": _key_fields(key, publish_key),
            "autoencoder": _autoencoder_fields(autoencoder, identity["decoder"]),
            "config": asdict(config),
            "images": _image_fields(files, crops),
            "run": _run_fields(result, device, dtype),
            "versions": versions(),
            "measured": asdict(measurement),
        }
        pictures = list(zip(held_out.originals, marked, strict=True))
        _write(partial / "result", out, autoencoder, content, run.history, pictures)
    except StableSigError:
        if run.saved_step <= 0:  # no step to go on from
            shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(partial, ignore_errors=True)
    return result


def _free_places(out: Path, resume: bool) -> Path:
    """The folder of the unfinished run. Raises unless `out` is free, and it is there just when resuming."""
    _check_free(out)
    checkpoint = checkpoint_of(out)
    partial = checkpoint.parent
    if resume and not os.path.lexists(partial):
        raise UsageError(
            f"there is no unfinished run to resume: {partial} does not exist; leave out --resume"
        )
    if resume and not checkpoint.is_file():
        raise UsageError(
            f"there is no unfinished run to resume: {checkpoint} does not exist; remove {partial} and leave "
            "out --resume"
        )
    if not resume and checkpoint.is_file():
        raise OutputExistsError(
            f"{partial} holds an unfinished run; go on with --resume, or remove it to start anew"
        )
    if not resume and os.path.lexists(partial):
        raise OutputExistsError(f"{partial} exists and holds no checkpoint; remove it to start anew")
    return partial


def checkpoint_of(out: Path) -> Path:
    """Where the checkpoint of an unfinished run for `out` lies, if there is one."""
    return out.with_name(f"{out.name}.partial") / CHECKPOINT


def _check_free(out: Path) -> None:
    if os.path.lexists(out):
        raise OutputExistsError(
            f"{out} exists, and nothing is overwritten; name another folder, or move it away first"
        )


def _make_partial(partial: Path, run: FineTuning) -> None:
    """Make the folder of the unfinished run and its first checkpoint, or leave nothing."""
    weights = sum(parameter.nbytes for parameter in run.autoencoder.module.parameters())
    decoder = sum(parameter.nbytes for parameter in run.parameters)
    # Two checkpoints at once (the old goes when the new one is whole) of weights, average and two moments.
    needed = 2 * 4 * decoder + weights + _SPARE_BYTES
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(partial.parent).free
        if free < needed:
            raise OutputError(
                f"{partial.parent} has {free / 1e6:.0f} MB free, this run needs {needed / 1e6:.0f} MB; "
                "free some space or choose another place"
            )
        partial.mkdir()
    except OSError as error:
        raise OutputError(
            f"{partial} cannot be made: {error.strerror or error}; choose another place"
        ) from error
    try:
        run.save()
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _identity(
    config: EmbedConfig, key: Key, whitening: Whitening, autoencoder: Autoencoder, files: list[ImageFile]
) -> dict[str, Any]:
    """What decides where a run goes: a checkpoint of another identity is not taken up."""
    settings = {name: value for name, value in asdict(config).items() if name not in _ELSEWHERE}
    return settings | {
        "key": key.id,
        "statistics": whitening.sha256,
        "images": manifest_sha256(files),
        "decoder": parameters_sha256(autoencoder.decoder_parameters()),
    }


def _key_fields(key: Key, publish: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": key.id,
        "bits": key.n_bits,
        "feature_version": key.feature_version,
        "dimension": key.dimension,
        "statistics_sha256": key.statistics_sha256,
    }
    return fields | ({"direction": key.direction_q.tolist()} if publish else {})


def _autoencoder_fields(autoencoder: Autoencoder, original_decoder: str) -> dict[str, Any]:
    """original_decoder: SHA-256 of the decoder's parameters before training, as float32, in order."""
    return {
        "kind": autoencoder.kind,
        "source": public_source(autoencoder.source),
        "revision": autoencoder.revision,
        "stride": autoencoder.stride,
        "latent_channels": autoencoder.latent_channels,
        "original_decoder_sha256": original_decoder,
    }


def _image_fields(files: list[ImageFile], crops: TrainingCrops) -> dict[str, Any]:
    return {
        "manifest_sha256": manifest_sha256(files),
        "found": len(files),
        "training": len(crops.training_files),
        "held_out": len(crops.held_out_files),
        "held_out_sha256": [file.sha256 for file in crops.held_out_files],
        # the leaves of the Merkle tree that a release commits to
        "training_sha256": sorted(file.sha256 for file in crops.training_files),
        "skipped": len(crops.skipped),
        "crops": len(crops.training),
    }


def _run_fields(result: EmbedResult, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "seconds": round(result.seconds, 1),
        "peak_memory_bytes": peak_memory_bytes(device),
        "machine": machine(device),
        "precision": str(dtype).removeprefix("torch."),
        "scale": result.scale,
    }


def _write(
    folder: Path,
    out: Path,
    autoencoder: Autoencoder,
    content: dict[str, Any],
    history: list[dict[str, float]],
    pictures: list[tuple[Pixels, Pixels]],
) -> None:
    """Write everything in `folder`, then rename it to `out`. Raises OutputError, OutputExistsError."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted while it wrote
    try:
        (folder / "report").mkdir(parents=True)
        autoencoder.save(folder / "vae")
        shown = pictures[:PICTURES_SHOWN]
        originals, marked = ([pair[side] for pair in shown] for side in (0, 1))
        side_by_side(originals, marked, folder / "report" / "side_by_side.png")
        loss_curve(history, folder / "report" / "loss_curve.png", content["config"]["psnr"])
        write_watermark_json(folder / "report" / "history.json", {"steps": history})
        files = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((folder / "vae").iterdir())
        }
        content["autoencoder"]["files"] = files
        write_watermark_json(folder / "watermark.json", content)
        _check_free(out)  # rename would replace an empty folder
        folder.rename(out)
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written: {error.strerror or error}; free some space, then use --resume"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # gone already if all went well

"""How good the watermark is on a real decoder: the table of targets, from scratch.

A tiny run, minutes on a CPU, to see that everything works (it meets no target):

    python benchmarks/real_decoder.py --vae stablesig/data/tiny-vae --train stablesig/data/demo-train \
        --test stablesig/data/demo-images --out /tmp/bench --keys 1 --steps 5

Draws random keys, runs `stablesig embed` with each, decodes the test images with the original and the marked
decoders, attacks the pictures and looks for the keys. The table goes to standard output, progress to standard
error, and OUT keeps the keys (secret ones too), the decoders and results.json. `--from OUT` prints the table
of a finished run again. Needs the train extra, and Linux or macOS (os.wait4).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attack_set
import numpy as np
import torch
from benchmark_results import ORIGINAL_DECODER, OTHER_KEY, KeyRun, NullScore, Results, Score, TestImage
from benchmark_table import markdown
from PIL import Image

from stablesig.failures import report
from stablesig.reconstruction import centre_crop
from stablesig_detector.detection import detect
from stablesig_detector.errors import OutputExistsError, StableSigError, TrainingError, UsageError
from stablesig_detector.image import as_uint8, load_image
from stablesig_detector.key import PublicKey, SecretKey, load_secret_key
from stablesig_detector.whitening import Whitening, load_default
from stablesig_train.decoders import Autoencoder, load_autoencoder
from stablesig_train.embed_config import EmbedConfig
from stablesig_train.held_out import HeldOut, Pixels, decode_pixels, mean_db, prepare, psnr_db
from stablesig_train.provenance import machine, public_source, versions
from stablesig_train.training_images import ImageFile, find_images, manifest_sha256

CROP_PX = 512
DETECT_RUNS = 10
TAEF2_PREFIX = "taef2:"


@dataclass(frozen=True)
class Embedding:
    """A marked decoder, its public key, and what it cost; `run` has no PSNR yet."""

    key: PublicKey
    vae: str
    run: KeyRun


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit codes are those of `stablesig`."""
    options = _options(argv)
    try:
        results = Results.read(options.from_dir) if options.from_dir else benchmark(options)
    except (StableSigError, OSError) as error:
        return report(error)
    print(markdown(results), end="")
    return 0


def benchmark(options: argparse.Namespace) -> Results:
    """Everything from the keys to OUT/results.json."""
    out: Path = options.out
    if out.exists() and not options.reuse:
        raise OutputExistsError(f"{out} exists; name another folder, or go on with --reuse")
    tests = sorted(find_images(options.test, say), key=lambda file: file.path.name)
    training = find_images(options.train, say)
    check_apart(tests, training)
    whitening = load_default()
    original = load_autoencoder(options.vae)  # before hours of training, as it may fail
    out.mkdir(parents=True, exist_ok=True)
    embeddings = [_embedding(options, number, manifest_sha256(training)) for number in range(options.keys)]

    crops = [centre(file, original.stride) for file in tests]
    say(f"decoding {len(crops)} images with the original decoder")
    held_out = prepare(original, crops)
    attacks, left_out = attack_set.available()
    keys = [embedding.key for embedding in embeddings]
    runs, scores, nulls = [], [], _null_scores(held_out.originals, keys, None, whitening)
    for number, embedding in enumerate(embeddings):
        say(f"key {number}: decoding, attacking, detecting")
        marked = _decode(load_autoencoder(embedding.vae), held_out)
        if number == 0:
            sample = marked[0]
        quality = [psnr_db(*pair) for pair in zip(marked, held_out.originals, strict=True)]
        fields = vars(embedding.run) | {"psnr_db": [mean_db([value]) for value in quality]}
        runs.append(KeyRun(**fields))
        first_place = (options.seed * len(keys) + number) * len(marked)
        scores += _scores(marked, embedding.key, number, attacks, first_place, whitening)
        nulls += _null_scores(marked, keys, number, whitening)
    say(f"timing {DETECT_RUNS} runs of stablesig detect")
    results = Results(
        arguments=_arguments(options, training),
        versions=versions(),
        machine=machine(torch.device("cpu")),
        cores=_cores(),
        statistics_sha256=whitening.sha256,
        images=[
            TestImage(file.path.stem, file.sha256, crop.shape[1], crop.shape[0])
            for file, crop in zip(tests, crops, strict=True)
        ],
        keys=runs,
        scores=scores,
        nulls=nulls,
        detect_seconds=_detect_seconds(sample, out / "key-0.pub.json"),
        left_out=list(left_out),
    )
    results.write(out)
    return results


def _arguments(options: argparse.Namespace, training: Sequence[ImageFile]) -> dict[str, Any]:
    """The options that decide numbers, paths by their last name only."""
    same = {name: getattr(options, name) for name in ("keys", "seed", "steps", "psnr", "device")}
    return same | {
        "vae": public_source(options.vae),
        "train": options.train.resolve().name,
        "train_manifest_sha256": manifest_sha256(training),
        "test": options.test.resolve().name,
    }


def _embedding(options: argparse.Namespace, number: int, training_sha256: str) -> Embedding:
    """The marked decoder of one key: made now, or with --reuse the one that is there."""
    folder = options.out / f"key-{number}"
    key_file = folder.with_name(f"{folder.name}.json")
    cost_file = folder.with_name(f"{folder.name}.cost.json")
    wanted: dict[str, Any] = {"psnr": options.psnr, "seed": options.seed + number}
    wanted["steps"] = EmbedConfig().steps if options.steps is None else options.steps
    if not (folder / "vae").is_dir():
        if not key_file.exists():
            SecretKey.draw().save_pair(key_file)
        say(f"key {number}: stablesig embed")
        command = ["embed", options.vae, "--key", key_file, "--images", options.train, "--out", folder]
        command += ["--device", options.device]
        command += [part for name, value in wanted.items() for part in (f"--{name}", value)]
        seconds, peak_bytes = _run_measured([sys.executable, "-m", "stablesig", *map(str, command)])
        cost_file.write_text(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes}), encoding="utf-8")
    key = load_secret_key(key_file)
    facts = json.loads((folder / "watermark.json").read_text(encoding="utf-8"))
    found = {name: facts["config"][name] for name in wanted}
    found |= {"key": facts["key"]["id"], "images": facts["images"]["manifest_sha256"]}
    found |= {"vae": facts["autoencoder"]["source"]}
    wanted |= {"key": key.id, "images": training_sha256, "vae": public_source(options.vae)}
    differing = [
        f"{name} {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]
    ]
    if differing:
        raise UsageError(
            f"{folder} is of another run ({'; '.join(differing)}); move it away, or use its settings"
        )
    run = facts["run"]
    cost = {"seconds": run["seconds"], "peak_bytes": run["peak_memory_bytes"]["resident"]}
    measured = cost_file.exists()
    if measured:
        cost = json.loads(cost_file.read_text(encoding="utf-8"))
    prefix = TAEF2_PREFIX if options.vae.startswith(TAEF2_PREFIX) else ""
    return Embedding(
        key.public(),
        f"{prefix}{folder / 'vae'}",
        KeyRun(
            id=key.id,
            config=facts["config"],
            machine=run["machine"],
            cost_from="wait4" if measured else "watermark.json",
            psnr_db=[],
            **cost,
        ),
    )


def _run_measured(command: list[str]) -> tuple[float, int]:
    """Run `command` -> (wall seconds, most resident bytes). Raises TrainingError if it fails.

    Its output goes to standard error. Linux counts what this process holds when it starts the command as the
    command's own; that is less than any command needs that imports torch as this process does.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=2)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()  # `stablesig embed` leaves a checkpoint
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise TrainingError(
            f"stablesig {command[3]} ended with exit code {process.returncode}, its message is above; "
            "see to that, then go on with --reuse"
        )
    peak = usage.ru_maxrss if sys.platform == "darwin" else 1024 * usage.ru_maxrss
    return time.perf_counter() - started, peak


def _decode(marked: Autoencoder, held_out: HeldOut) -> list[Pixels]:
    return [decode_pixels(marked, latents) for latents in held_out.latents]


def _scores(
    pictures: Sequence[Pixels],
    key: PublicKey,
    number: int,
    attacks: dict[str, attack_set.Attack],
    first_place: int,
    whitening: Whitening,
) -> list[Score]:
    """Every picture under every attack, for the key that it carries."""
    scores = []
    for name, attack in attacks.items():
        for index, picture in enumerate(pictures):
            attacked = attack(picture, first_place + index)
            [found] = detect(attacked, [key], search="fast", whitening=whitening)
            scores.append(Score(number, index, name, found.statistic, found.log10_p_value, found.transform))
    return scores


def _null_scores(
    pictures: Sequence[Pixels], keys: Sequence[PublicKey], decoder: int | None, whitening: Whitening
) -> list[NullScore]:
    """Every picture for every key that it does not carry; `decoder` is the number of the one it does."""
    source = ORIGINAL_DECODER if decoder is None else OTHER_KEY
    scores = []
    for number, key in enumerate(keys):
        if number == decoder:
            continue
        for index, picture in enumerate(pictures):
            fast, identity = (
                detect(picture, [key], search=search, whitening=whitening)[0].log10_p_value
                for search in ("fast", "none")
            )
            scores.append(NullScore(source, number, decoder, index, fast, identity))
    return scores


def _detect_seconds(picture: Pixels, key_file: Path) -> list[float]:
    """Wall seconds of `stablesig detect` on `picture` as a PNG file, each time from a new process."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "picture.png"
        Image.fromarray(picture).save(png)
        command = [sys.executable, "-m", "stablesig", "detect", str(png), "--key", str(key_file)]
        for _ in range(DETECT_RUNS):
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds.append(time.perf_counter() - started)
            if done.returncode not in (0, 1):  # detected, not detected
                raise UsageError(f"stablesig detect failed: {done.stderr.strip()}")
    return seconds


def centre(file: ImageFile, stride: int) -> Pixels:
    """The middle of a test image, at most CROP_PX on a side, trimmed to multiples of `stride`."""
    pixels = as_uint8(load_image(file.path))
    crop = centre_crop(pixels, CROP_PX)
    height, width = (side // stride * stride for side in crop.shape[:2])
    if min(height, width) < CROP_PX:
        say(f"warning: {file.path} is smaller than {CROP_PX} px; {width} x {height} px are used")
    return np.ascontiguousarray(crop[:height, :width])


def check_apart(tests: Sequence[ImageFile], training: Sequence[ImageFile]) -> None:
    trained = {file.sha256: file.path for file in training}
    for file in tests:
        if file.sha256 in trained:
            raise UsageError(
                f"{file.path} is also trained on, as {trained[file.sha256]}; take it out of either"
            )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--vae", metavar="VAE", help="what `stablesig embed` takes, such as taef2:DIR")
    parser.add_argument("--train", type=Path, metavar="DIR", help="photographs to train on")
    parser.add_argument("--test", type=Path, metavar="DIR", help="photographs to measure on")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write; must not exist without --reuse"
    )
    parser.add_argument("--keys", type=int, default=3, metavar="N", help="random keys (default: 3)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of attacks; key i trains with seed N + i"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps (default: that of embed)")
    parser.add_argument("--psnr", type=float, default=40.0, metavar="DB", help="PSNR target (default: 40)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="where embed computes (default: cpu)")
    parser.add_argument("--reuse", action="store_true", help="keep the keys and decoders that are in OUT")
    parser.add_argument(
        "--from", dest="from_dir", type=Path, metavar="DIR", help="print a finished run's table"
    )
    options = parser.parse_args(argv)
    missing = [name for name in ("vae", "train", "test", "out") if getattr(options, name) is None]
    if missing and options.from_dir is None:
        parser.error(f"these are needed, or --from: {', '.join(f'--{name}' for name in missing)}")
    if options.keys < 1:
        parser.error(f"--keys is a whole number from 1; got {options.keys}")
    if options.seed < 0:
        parser.error(f"--seed is a whole number from 0; got {options.seed}")
    return options


if __name__ == "__main__":
    sys.exit(main())

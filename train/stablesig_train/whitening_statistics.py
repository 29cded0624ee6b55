"""Computes the whitening statistics that the detector ships, from photographs and what happens to them.

    python -m stablesig_train.whitening_statistics --images PHOTOS --decoder taef2:DIR --out FILE.safetensors

Each photograph gives several views at different scales and crops; each view is measured as it is, through
attacks drawn from `stablesig_train.attacks`, and through the round trip of each --decoder. Keys play no part.

The p-value needs a cosine whose direction is uniform over keys, which holds for any statistics. For one fixed
key over many images it is calibrated as far as the *directions* phi / |phi| are centred and isotropic,
whatever their lengths. So the mean and covariance are those that make them so: the spatial median and Tyler's
scatter, solved together. (Hettmansperger and Randles, "A practical affine equivariant multivariate median",
Biometrika 89, 2002; Tyler, "A distribution-free M-estimator of multivariate scatter", Annals of Statistics
15, 1987.)
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from stablesig_detector.errors import ImageError, OutputExistsError, StableSigError, UsageError
from stablesig_detector.image import as_uint8, image_files, load_image
from stablesig_detector.new_files import NewFile, write_new_files
from stablesig_detector.spectrum import FEATURE_VERSION, spectrum
from stablesig_train import attacks
from stablesig_train.decoders import Autoencoder, load_autoencoder

RIDGE = 1e-4  # variance of log power added to every direction: the smallest spread that is believed
ITERATIONS = 100
TOLERANCE = 1e-6
SIDES = (160, 512)  # px, the sides of views
STRIDE = 16  # sides are multiples of this, so that every decoder takes them


@dataclass(frozen=True)
class Plan:
    """How much is measured for each photograph."""

    views: int = 3
    attacked: int = 6  # copies of each view
    seed: int = 0


def fit(
    samples: NDArray[np.float64], ridge: float = RIDGE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, D) spectra -> mean (D,) and whitening matrix (D, D), diag(w + ridge)^(-1/2) V^T.

    The scale is set so that the median squared length of the whitened samples is D.
    """
    n, dimension = samples.shape
    mean = np.median(samples, axis=0)
    covariance = np.cov(samples.T)
    for _ in range(ITERATIONS):
        matrix = _whitening_matrix(covariance, ridge)
        square = (((samples - mean) @ matrix.T) ** 2).sum(axis=1)
        scale = np.median(square) / dimension
        weight = 1 / np.sqrt(square)
        mean = weight @ samples / weight.sum()
        centred = (samples - mean) / np.sqrt(square / dimension)[:, None]
        # Tyler's fixed point, its free scale set by the median length
        updated = centred.T @ centred / n * scale
        change = np.linalg.norm(updated - covariance) / np.linalg.norm(covariance)
        covariance = updated
        if change < TOLERANCE:
            break
    return mean, _whitening_matrix(covariance, ridge)


def _whitening_matrix(covariance: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors / np.sqrt(values.clip(0) + ridge)).T)


def measure(
    files: Sequence[Path], decoders: Sequence[Autoencoder], plan: Plan = Plan()
) -> Iterator[NDArray[np.float64]]:
    """Spectra (D,), one for each view of each photograph and each thing that happens to it."""
    for index, file in enumerate(files):
        yield from _of_photograph(index, file, decoders, plan)


def _of_photograph(
    index: int, file: Path, decoders: Sequence[Autoencoder], plan: Plan
) -> Iterator[NDArray[np.float64]]:
    """Those of photograph number `index`, which alone decides what is drawn: any order gives the same."""
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + index)
    photo = Image.fromarray(as_uint8(load_image(file)))
    for _ in range(plan.views):
        view = _view(photo, generator)
        yield _spectrum(view)
        sources = [view]
        for decoder in decoders:
            with torch.no_grad():
                decoded = decoder.decode(decoder.encode(view)).clamp(0, 1)
            yield _spectrum(decoded)
            sources.append(decoded)
        for copy in range(plan.attacked):
            attacked = attacks.sample(sources[copy % len(sources)], generator)
            yield _spectrum(attacked.clamp(0, 1))


_decoders: list[Autoencoder] = []  # of a worker process, which loads them once


def _start_worker(sources: Sequence[str]) -> None:
    torch.set_num_threads(1)
    _decoders[:] = [load_autoencoder(source) for source in sources]


def _work(task: tuple[int, Path, Plan]) -> list[NDArray[np.float64]]:
    index, file, plan = task
    return list(_of_photograph(index, file, _decoders, plan))


def measure_in_processes(
    files: Sequence[Path], sources: Sequence[str], plan: Plan, jobs: int
) -> Iterator[NDArray[np.float64]]:
    """As `measure`, in `jobs` processes of one thread each: the same numbers whatever `jobs` is.

    sources: of the decoders, as `load_autoencoder` reads them.
    """
    with get_context("spawn").Pool(jobs, _start_worker, (sources,)) as pool:
        for spectra in pool.imap(_work, [(index, file, plan) for index, file in enumerate(files)]):
            yield from spectra


def _view(photo: Image.Image, generator: torch.Generator) -> Tensor:
    """A random crop of the photograph at a random scale: (1, 3, H, W) in [0, 1]."""
    draw = torch.rand(4, generator=generator).tolist()
    side = STRIDE * round((SIDES[0] + draw[0] * (SIDES[1] - SIDES[0])) / STRIDE)
    smallest = side / min(photo.size)
    scale = min(1.0, smallest + draw[1] * (1 - smallest)) if smallest < 1 else smallest
    size = tuple(max(side, round(n * scale)) for n in photo.size)
    scaled = photo.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    left, top = (round(d * (n - side)) for d, n in zip(draw[2:], size, strict=True))
    pixels = np.asarray(scaled.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255


def _spectrum(images: Tensor) -> NDArray[np.float64]:
    """The detector's own measurement, of the pixels that a file would hold."""
    pixels = (images[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return spectrum(pixels).values


def manifest(files: Iterable[Path]) -> str:
    """A line for each image: file name and SHA-256, tab separated."""
    lines = ["file\tsha256"]
    lines += [f"{file.name}\t{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return "\n".join(lines) + "\n"


def images_in(folders: Iterable[Path]) -> list[Path]:
    """The images of the folders, by name. Raises ImageError if a folder holds none, or cannot be read."""
    files: list[Path] = []
    for folder in folders:
        found = image_files(folder)
        if not found:
            raise ImageError(f"{folder}: no image in it; name a folder of photographs")
        files += found
    return files


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m stablesig_train.whitening_statistics", description=__doc__
    )
    parser.add_argument(
        "--images", type=Path, action="append", required=True, help="folder of photographs; repeatable"
    )
    parser.add_argument(
        "--decoder", action="append", default=[], help="autoencoder for round trips; repeatable"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="safetensors file; its manifest goes beside it as .tsv"
    )
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes; the result does not depend on them (default: 1)"
    )
    options = parser.parse_args(arguments)
    try:
        _compute(options)
    except StableSigError as error:
        print(f"whitening_statistics: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _compute(options: argparse.Namespace) -> None:
    from safetensors.numpy import save

    manifest_path = options.out.with_suffix(".tsv")
    for path in (options.out, manifest_path):
        if path.exists():
            raise OutputExistsError(f"{path} exists; name another file or remove it")
    if options.jobs < 1:
        raise UsageError(f"--jobs is a whole number from 1; got {options.jobs}")
    files = images_in(options.images)
    for source in options.decoder:
        load_autoencoder(source)  # a mistake shows here, not in a worker
    plan = Plan(seed=options.seed)
    samples = []
    expected = len(files) * plan.views * (1 + len(options.decoder) + plan.attacked)
    for sample in measure_in_processes(files, options.decoder, plan, options.jobs):
        samples.append(sample)
        if len(samples) % 100 == 0 or len(samples) == expected:
            print(f"\r{len(samples)} of {expected} spectra", end="", file=sys.stderr, flush=True)
    mean, matrix = fit(np.array(samples))
    tensors: dict[str, NDArray[Any]] = {
        f"{FEATURE_VERSION}.mean": mean,
        f"{FEATURE_VERSION}.matrix": matrix.astype(np.float32),
    }
    data = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    write_new_files([NewFile(options.out, data), NewFile(manifest_path, manifest(files).encode())])
    print(f"\n{options.out}: {len(samples)} spectra of {len(files)} images, SHA-256:", file=sys.stderr)
    print(hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    sys.exit(main())

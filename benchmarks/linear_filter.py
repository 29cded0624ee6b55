"""How much mark a linear filter after the unmarked decoder carries: a yardstick for trained decoders.

    python benchmarks/linear_filter.py --vae taef2:DIR --train PHOTOGRAPHS --test KODAK

For each of --keys random keys a filter of the luma is planned in closed form, scaled until the filtered test
pictures have the mean PSNR --psnr to the unfiltered ones, and judged by the attacks of `real_decoder.py`. The
table goes to standard output, progress to standard error. A filter is no watermark in a decoder: whoever
generates pictures can leave it out.

The plan: random filters give the mean shift M_a g of the whitened features under each attack a, linear in the
gains g to first order, and pictures give the energy g' E g that the gains cost. Up to its length, g minimises
sum_a w_a |M_a g - u|^2 + k g' E g, u the key's direction, for the k whose predicted p-values are best.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from attack_set import NO_ATTACK, available
from numpy.typing import NDArray
from real_decoder import centre, check_apart, say

from stablesig.failures import report
from stablesig_detector.detection import DEFAULT_FPR, detect
from stablesig_detector.errors import ImageError, StableSigError, UsageError
from stablesig_detector.key import PublicKey, SecretKey
from stablesig_detector.spectrum import COLOUR_MATRIX, DIMENSION, MIN_SIDE, PLANES, WINDOW, spectrum
from stablesig_detector.statistics import spherical_log10_p
from stablesig_detector.whitening import load_default
from stablesig_train.decoders import Autoencoder, load_autoencoder
from stablesig_train.held_out import Pixels, mean_db, prepare, psnr_db
from stablesig_train.training_images import ImageFile, find_images

Array = NDArray[np.float64]
Attack = Callable[[Pixels, int], Pixels]

PLANNED = {  # attacks in the plan, and how much each counts in it
    NO_ATTACK: 0.5,
    "JPEG 80": 1.0,
    "JPEG 50": 2.0,
    "JPEG 30": 2.0,
    "WebP 50": 2.0,
    "noise 12/255": 1.0,
    "crop 10 %": 1.0,
    "blur 1 px": 1.0,
}
DEVIATION = 0.4  # of the log power gains of the random filters
BIN_WIDTH = 0.6  # standard deviation of a gain's bump, in bins
RIDGE = 1.0  # of the least squares, in squared gains
ENOUGH = -11.0  # log10 p beyond which the plan sees no merit
PRICES = np.geomspace(0.1, 1e5, 48)  # k: of a squared grey level
PSNR_RANGE_DB = (20.0, 50.0)  # beyond, rounding to whole grey levels is most of the change
TRIALS = 6  # of the scale that holds the PSNR


@dataclass(frozen=True)
class Responses:
    """What filters do to the features under each attack, and what they cost.

    shifts: attack -> (D, G), whitened features for a unit gain.  content: attack -> mean squared length of an
    unfiltered picture's whitened features.  energy: (G, G), mean squared grey levels.
    """

    shifts: dict[str, Array]
    content: dict[str, float]
    energy: Array


def centres() -> Array:
    """(G, 3): vertical and horizontal frequency and width of each gain's bump, cycles/px at full size."""
    return np.array(
        [
            (
                ky / WINDOW / 2**plane.octave,
                kx / WINDOW / 2**plane.octave,
                BIN_WIDTH / WINDOW / 2**plane.octave,
            )
            for plane in PLANES
            if plane.channel == 0
            for ky, kx in plane.bins
        ]
    )


@lru_cache(maxsize=2)
def bumps(height: int, width: int) -> NDArray[np.float32]:
    """(G, height, width // 2 + 1): the bumps on the frequencies of a real Fourier transform."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    found = [
        np.exp(-((fy - y) ** 2 + (fx - x) ** 2) / (2 * s * s))
        + np.exp(-((fy + y) ** 2 + (fx + x) ** 2) / (2 * s * s))
        for y, x, s in centres()
    ]
    return np.array(found, dtype=np.float32)


def luma(picture: Pixels) -> Array:
    """(H, W, 3) -> (H, W), 0..255, less its mean."""
    plane = picture @ np.array(COLOUR_MATRIX[0])
    return plane - plane.mean()


def filtered(picture: Pixels, gains: Array) -> Pixels:
    """The picture with its luma filtered; gains (G,) are of the log power: exp(gain / 2) of the amplitude."""
    plane = luma(picture)
    power = np.tensordot(gains, bumps(*plane.shape), 1).clip(-6, 6)
    change = np.fft.irfft2(np.fft.rfft2(plane) * (np.exp(power / 2) - 1), s=plane.shape)
    return np.clip(picture + change[..., None], 0, 255).round().astype(np.uint8)


def energy(picture: Pixels) -> Array:
    """(G, G): what gains cost on this picture to second order, mean squared grey levels."""
    plane = luma(picture)
    power = np.abs(np.fft.rfft2(plane)) ** 2 / plane.size**2
    power[:, 1 : (plane.shape[1] + 1) // 2] *= 2  # the half of the plane that is not kept
    flat = bumps(*plane.shape).reshape(len(centres()), -1)
    return (flat * power.ravel()) @ flat.T / 4


def responses(
    pictures: Sequence[Pixels], attacks: dict[str, Attack], pairs: int, generator: np.random.Generator
) -> Responses:
    """Measure `pairs` random filters, each with its inverse, on every picture."""
    whitening, count = load_default(), len(centres())
    gains: list[Array] = []
    shifts: dict[str, list[Array]] = {name: [] for name in attacks}
    content = dict.fromkeys(attacks, 0.0)

    def features(picture: Pixels, name: str, place: int) -> Array:
        return whitening.apply(spectrum(attacks[name](picture, place)).values)

    for place, picture in enumerate(pictures):
        print(f"\rplanning: picture {place + 1} of {len(pictures)}", end="", file=sys.stderr, flush=True)
        for name in attacks:
            content[name] += float(np.sum(features(picture, name, place) ** 2)) / len(pictures)
        for _ in range(pairs):
            gains.append(generator.normal(size=count) * DEVIATION)
            more, less = (filtered(picture, sign * gains[-1]) for sign in (1, -1))
            for name in attacks:
                shifts[name].append((features(more, name, place) - features(less, name, place)) / 2)
    print(file=sys.stderr)
    drawn = np.array(gains)
    normal = drawn.T @ drawn + RIDGE * np.eye(count)
    return Responses(
        {name: np.linalg.solve(normal, drawn.T @ np.array(found)).T for name, found in shifts.items()},
        content,
        np.mean([energy(picture) for picture in pictures], axis=0),
    )


def plan(direction: Array, measured: Responses, psnr: float, weights: dict[str, float]) -> Array:
    """Gains (G,) for the key's direction (D,), with the energy of `psnr` (dB); see the top of this file.

    Raises UsageError if no gain changes the pictures that were planned on.
    """
    if not np.trace(measured.energy) > 0:
        raise UsageError("the pictures to plan on are flat; name a folder of photographs")
    budget = 255**2 / 10 ** (psnr / 10)
    square = sum(weights[name] * shift.T @ shift for name, shift in measured.shifts.items())
    wanted = sum(weights[name] * shift.T @ direction for name, shift in measured.shifts.items())
    best, found = np.inf, np.zeros(len(measured.energy))
    for price in PRICES:
        gains = np.linalg.lstsq(square + price * measured.energy, wanted, rcond=None)[0]
        gains *= (budget / (gains @ measured.energy @ gains)) ** 0.5
        merit = 0.0
        for name, shift in measured.shifts.items():
            moved = shift @ gains
            cosine = moved @ direction / np.sqrt(moved @ moved + measured.content[name])
            merit += weights[name] * max(ENOUGH, spherical_log10_p(float(cosine), len(direction)))
        if merit < best:
            best, found = merit, gains
    return found


def held_to(psnr: float, pictures: Sequence[Pixels], gains: Array) -> list[Pixels]:
    """The pictures filtered by a multiple of `gains` that gives them about this mean PSNR, dB."""
    scale = 1.0
    for _ in range(TRIALS):
        marked = [filtered(picture, scale * gains) for picture in pictures]
        scale *= 10 ** ((mean_db(_quality(marked, pictures)) - psnr) / 20)
    return [filtered(picture, scale * gains) for picture in pictures]


def _quality(marked: Sequence[Pixels], pictures: Sequence[Pixels]) -> list[float]:
    return [psnr_db(*pair) for pair in zip(marked, pictures, strict=True)]


def _decoded(files: Sequence[ImageFile], original: Autoencoder) -> list[Pixels]:
    """What the original decoder makes of the middle of images. Raises ImageError if one is too small."""
    crops = [centre(file, original.stride) for file in files]
    for file, crop in zip(files, crops, strict=True):
        if min(crop.shape[:2]) < MIN_SIDE:
            raise ImageError(f"{file.path}: smaller than {MIN_SIDE} px; leave it out")
    say(f"decoding {len(crops)} images")
    return list(prepare(original, crops).originals)


def _rows(
    key: PublicKey, marked: Sequence[Pixels], attacks: dict[str, Attack], place: int
) -> dict[str, list[float]]:
    """attack -> log10 p of each picture, the four geometries paid for."""
    return {
        name: [
            detect(attack(picture, place + index), [key], search="fast")[0].log10_p_value
            for index, picture in enumerate(marked)
        ]
        for name, attack in attacks.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit codes are those of `stablesig`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--vae", required=True, help="what `stablesig embed` takes, such as taef2:DIR")
    parser.add_argument("--train", type=Path, required=True, help="photographs to plan on")
    parser.add_argument("--test", type=Path, required=True, help="photographs to judge on")
    parser.add_argument("--keys", type=int, default=3, help="random keys (default: 3)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of filters and attacks; keys are drawn anew (default: 0)"
    )
    parser.add_argument("--psnr", type=float, default=40.0, help="mean PSNR, dB (default: 40)")
    parser.add_argument("--pictures", type=int, default=70, help="planned on, at most (default: 70)")
    parser.add_argument("--pairs", type=int, default=5, help="random filters a picture (default: 5)")
    try:
        _run(parser.parse_args(arguments))
    except (StableSigError, OSError) as error:
        return report(error)
    return 0


def _run(options: argparse.Namespace) -> None:
    for name in ("keys", "pictures", "pairs"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is a whole number from 1; got {getattr(options, name)}")
    if options.seed < 0:
        raise UsageError(f"--seed is a whole number from 0; got {options.seed}")
    low, high = PSNR_RANGE_DB
    if not low <= options.psnr <= high:
        raise UsageError(f"--psnr is between {low:g} and {high:g} dB; got {options.psnr}")
    attacks, left_out = available()
    planned = {name: attack for name, attack in attacks.items() if name in PLANNED}
    training = find_images(options.train, say)
    test_files = sorted(find_images(options.test, say), key=lambda file: file.path.name)
    check_apart(test_files, training)
    original = load_autoencoder(options.vae)
    tests = _decoded(test_files, original)
    chosen = np.linspace(0, len(training) - 1, min(len(training), options.pictures)).round().astype(int)
    pictures = _decoded([training[place] for place in chosen], original)
    measured = responses(pictures, planned, options.pairs, np.random.default_rng(options.seed))
    quality: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in attacks}
    for number in range(options.keys):
        say(f"key {number}: filtering, attacking, detecting")
        key = SecretKey.draw().public()
        marked = held_to(options.psnr, tests, plan(key.direction, measured, options.psnr, PLANNED))
        quality += _quality(marked, tests)
        for name, values in _rows(
            key, marked, attacks, (options.seed * options.keys + number) * len(tests)
        ).items():
            found[name] += values
    print(
        f"{len(tests)} pictures x {options.keys} keys, D = {DIMENSION}, detected at p <= {DEFAULT_FPR:g}; ",
        end="",
    )
    print(f"PSNR {mean_db(quality):.2f} dB mean, {min(quality):.2f} dB worst\n")
    print("| attack | detected | median log10 p | worst |\n|---|---|---|---|")
    for name, values in found.items():
        hits = sum(value <= np.log10(DEFAULT_FPR) for value in values)
        print(f"| {name} | {hits}/{len(values)} | {np.median(values):.1f} | {max(values):.1f} |")
    if left_out:
        print(f"\nNeither run nor planned for, as this Pillow lacks the codec: {', '.join(left_out)}")


if __name__ == "__main__":
    sys.exit(main())

"""False positives over photographs that carry no key: observed against nominal, random and fixed keys.

    python benchmarks/calibration.py --images DIR [--images DIR ...] [--keys 2000] [--seed 0]

Every image is measured once, one hypothesis, against directions drawn uniformly from the sphere: that is what
a key's direction is, and it spares 2,000 key expansions. Over the draw of the key the p-value is exact for
any image, so the first table must agree with its nominal rates up to chance. One fixed key over many images
is another matter: no mathematics promises that, only the whitening statistics work towards it, and the
second table shows how far they get.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stablesig_detector.errors import ImageError, StableSigError
from stablesig_detector.image import image_files, load_image
from stablesig_detector.spectrum import DIMENSION, spectrum
from stablesig_detector.statistics import cosine_statistic, spherical_log10_p
from stablesig_detector.whitening import load_default


def features(folders: Sequence[Path]) -> np.ndarray:
    """(n, D) whitened features of the images in the folders; what cannot be read is named and left out."""
    whitening, rows = load_default(), []
    for file in sorted(file for folder in folders for file in image_files(folder)):
        try:
            rows.append(whitening.apply(spectrum(load_image(file)).values))
        except ImageError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not rows:
        raise ImageError(f"no image that can be read in {', '.join(map(str, folders))}; name other folders")
    return np.array(rows)


def directions(count: int, seed: int) -> np.ndarray:
    """(count, D) unit vectors, uniform on the sphere."""
    drawn = np.random.default_rng(seed).normal(size=(count, DIMENSION))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def tables(log10_p: np.ndarray) -> str:
    """(keys, images) log10 p-values -> the two tables, Markdown."""
    keys, images = log10_p.shape
    lines = [f"{images} images, {keys} keys, {keys * images} pairs", ""]
    lines += ["| nominal | expected | observed | observed / nominal |", "|---|---|---|---|"]
    for exponent in range(1, int(np.log10(keys * images)) + 1):
        expected, observed = keys * images * 10.0**-exponent, int((log10_p <= -exponent).sum())
        lines.append(f"| 1e-{exponent} | {expected:.4g} | {observed} | {observed / expected:.2f} |")
    lines += ["", "| nominal | observed / nominal of one key: median | 95 % of keys below | worst key |"]
    lines += ["|---|---|---|---|"]
    for exponent in range(1, int(np.log10(images)) + 1):
        ratio = (log10_p <= -exponent).mean(axis=1) * 10.0**exponent
        middle, most, worst = np.median(ratio), np.percentile(ratio, 95), ratio.max()
        lines.append(f"| 1e-{exponent} | {middle:.2f} | {most:.2f} | {worst:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, action="append", required=True, help="folder of photographs")
    parser.add_argument("--keys", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        phi = features(options.images)
    except (StableSigError, OSError) as error:
        print(f"calibration: {error}", file=sys.stderr)
        return 3
    cosines = cosine_statistic(phi, directions(options.keys, options.seed))  # (keys, images)
    print(tables(spherical_log10_p(cosines, DIMENSION)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

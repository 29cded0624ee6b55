"""The geometric hypotheses of a search, and what an image looks like under each of them.

An image may have been mirrored, rotated and scaled after it was decoded. Each hypothesis says how; under it,
the features are those that the decoder's picture had. Mirror images and quarter turns permute the bins of a
spectrum, other rotations are read off a refined spectrum (`turned_spectrum`), and only a change of scale
moves pixels: the image is resized by the inverse factor.

Why the p-value holds. The hypotheses, and the share of the false positive rate that each may spend, are fixed
before any image is seen, and the features under a hypothesis follow from the image and the hypothesis alone.
So for every image each of them has the p-value p_h of `spherical_log10_p`, exact over the draw of the key,
and with weights 1/f_h that sum to 1

    P(any p_h <= a / f_h)  <=  sum over h of a / f_h  =  a.

The smallest f_h p_h is therefore a p-value, whatever the image and however the hypotheses hang together
(Bonferroni, weighted as by R. Rosenthal and D. Rubin, "Ensemble-adjusted p values", Psychological Bulletin
94, 1983). The full search splits the rate equally between four families: neither scaled nor rotated, scaled,
rotated, scaled and rotated, each with mirror images and quarter turns. Inside a family all count alike, so
f_h is four times the size of the family. Most images are at most resized; with equal weights they would pay
for every angle at every scale. A hypothesis that cannot be measured, as too little would be left of the
image, is paid for like the others.

Nothing is refined round the best hypothesis. That choice would depend on the key, so its price is every finer
hypothesis that could have been chosen: a grid twice as fine in both costs log10 4 = 0.6 in log10 p. Half a
step off the grid, 1.5 degrees cost 4 % of the statistic, 3 % of scale another 3 % (mean of nine Kodak
pictures of two TAEF2 decoders trained with scale errors of 6 %). At log10 p = -9.5 that is 1.3 at the worst
place and about 0.4 on average: less than the price.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .decoding import ImageArray
from .image import as_uint8
from .spectrum import MIN_SIDE, PLANES, WINDOW, Spectrum
from .turned_spectrum import blank_margins, turned_spectra
from .whitening import Whitening

# A magnitude spectrum is the same for a picture and its half turn, so eight dihedral transforms fall into
# four classes.
TRANSFORMS = {"none": ("identity",), "fast": ("identity", "flip", "rot90", "rot90flip")}
DIHEDRAL = TRANSFORMS["fast"]

REGION = 640  # px; of a scaled or rotated image the middle REGION x REGION px at most are measured
_ROUNDING = 1e-6  # px


@dataclass(frozen=True)
class Geometry:
    """How an image was changed after it was decoded: first `transform`, then `rotation`, then `scale`.

    transform: "identity", "flip" (mirrored), "rot90" or "rot90flip" (mirrored, then a quarter turn).
    rotation: beyond that quarter turn, degrees anticlockwise.  scale: of the side, above 1 if enlarged.
    """

    transform: str
    scale: float = 1.0
    rotation: float = 0.0

    @property
    def total_rotation(self) -> float:
        """Degrees anticlockwise, the quarter turn included; in (-90, 90], as half turns leave no trace."""
        total = self.rotation + (90.0 if self.transform.startswith("rot90") else 0.0)
        return total - 180.0 if total > 90.0 else total


@dataclass(frozen=True, eq=False)
class Family:
    """Hypotheses with the same weight, and the image's features under those that could be measured.

    geometries: M of them.  features: (M, D), whitened.  factor: what a p-value of this family is multiplied
    by; the sum of 1/factor over all hypotheses of a search, measured or not, is 1.
    """

    geometries: tuple[Geometry, ...]
    features: NDArray[np.float64] = field(repr=False)
    factor: int


@dataclass(frozen=True)
class Grid:
    """Scales and rotations that a search combines with each other and with the four transforms.

    scales: 1 among them.  rotations: degrees in [-45, 45), 0 among them.
    """

    scales: tuple[float, ...]
    rotations: tuple[float, ...]

    @property
    def size(self) -> int:
        """The number of hypotheses."""
        return len(DIHEDRAL) * len(self.scales) * len(self.rotations)

    @property
    def family_sizes(self) -> dict[tuple[bool, bool], int]:
        """(is scaled, is rotated) -> hypotheses of that family, for the families that are not empty."""
        scaled, rotated = len(self.scales) - 1, len(self.rotations) - 1
        sizes = (1, scaled, rotated, scaled * rotated)
        families = ((False, False), (True, False), (False, True), (True, True))
        return {family: len(DIHEDRAL) * size for family, size in zip(families, sizes, strict=True) if size}


# Half a step beyond its ends the grid reaches 0.29 to 3.08.
FULL_GRID = Grid(
    scales=tuple(2.0 ** (step / 12) for step in range(-21, 20)),
    rotations=tuple(float(degrees) for degrees in range(-45, 45, 3)),
)


def search_fully(
    pixels: ImageArray, measured: Spectrum, whitening: Whitening, grid: Grid = FULL_GRID
) -> list[Family]:
    """The image's features under every hypothesis of `grid`, in families; an empty family is left out.

    pixels: (H, W, 3) RGB in 0..255.  measured: its spectrum, which serves the image as it is.

    Cost: one refined spectrum a scale, of at most REGION x REGION px once the scale is undone. Of a larger
    image only the middle is measured, which holds less evidence: of 512 px pictures the middle 384, 320 and
    256 px kept 95, 91 and 87 % of the statistic.
    """
    members: dict[tuple[bool, bool], list[tuple[Geometry, NDArray[np.float64]]]] = {}
    for scale, rotations, values in _measurements(pixels, measured, grid):
        turned = [Spectrum(row, measured.windows) for row in values]
        phi = whitening.apply(
            np.stack([spectrum.transformed(name) for spectrum in turned for name in DIHEDRAL])
        )
        geometries = [Geometry(name, scale, rotation) for rotation in rotations for name in DIHEDRAL]
        for geometry, row in zip(geometries, _without_lost(phi, scale, whitening), strict=True):
            members.setdefault((geometry.scale != 1.0, geometry.rotation != 0.0), []).append((geometry, row))
    sizes = grid.family_sizes
    return [
        Family(
            tuple(geometry for geometry, _ in found),
            np.stack([row for _, row in found]),
            len(sizes) * sizes[family],
        )
        for family, found in members.items()
    ]


def _measurements(
    pixels: ImageArray, measured: Spectrum, grid: Grid
) -> Iterator[tuple[float, tuple[float, ...], NDArray[np.float64]]]:
    """(scale, R rotations, features (R, DIMENSION)) wherever the image is large enough."""
    from PIL import Image

    yield 1.0, (0.0,), measured.values[None]
    middle = as_uint8(_middle(pixels, grid))
    blank = blank_margins(middle)
    picture = Image.fromarray(middle)
    margins = Image.fromarray(blank.astype(np.uint8) * 255) if blank.any() else None
    height, width = middle.shape[:2]
    for scale in grid.scales:
        size = undone_size(width, height, scale)
        rotations = tuple(rotation for rotation in grid.rotations if rotation != 0.0 or scale != 1.0)
        if min(size) < MIN_SIDE or not rotations:
            continue
        across, down = size[0] * scale, size[1] * scale
        left, top = math.floor((width - across) / 2), math.floor((height - down) / 2)
        box = (max(left, 0), max(top, 0), min(left + across, width), min(top + down, height))
        # Pillow widens the kernel when it reduces, so nothing aliases.
        undone = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box))
        clear = None
        if margins is not None:
            clear = np.asarray(margins.resize(size, Image.Resampling.BILINEAR, box)) > 0
        values = turned_spectra(undone, rotations, clear, _lowest_lost(scale))
        if values is not None:
            yield scale, rotations, values


def undone_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """(width, height) of what is measured once `scale` is undone: REGION x REGION px at most.

    A long image may use up the area in its length.
    """
    short, long = sorted((width / scale, height / scale))
    short = min(short, REGION)
    long = min(long, REGION**2 / short)
    size = math.floor(short + _ROUNDING), math.floor(long + _ROUNDING)
    return size if width < height else size[::-1]


def _middle(pixels: ImageArray, grid: Grid) -> ImageArray:
    """The part of an image that the search looks at under any scale."""
    height, width = pixels.shape[:2]
    sizes = [(scale, undone_size(width, height, scale)) for scale in grid.scales]
    across, down = (
        min(full, max(math.ceil(scale * size[axis]) for scale, size in sizes))
        for axis, full in enumerate((width, height))
    )
    top, left = (height - down) // 2, (width - across) // 2
    return pixels[top : top + down, left : left + across]


@cache
def _frequencies() -> NDArray[np.float64]:
    """Distance of each feature's frequency from zero: (DIMENSION,) cycles a px of the full-size image."""
    return np.array(
        [math.hypot(ky, kx) / (WINDOW * 2**plane.octave) for plane in PLANES for ky, kx in plane.bins]
    )


def _lowest_lost(scale: float) -> float:
    """The least frequency that an image scaled by `scale` cannot hold, cycles a px before scaling."""
    return min(scale, 1.0) / 2


def _without_lost(phi: NDArray[np.float64], scale: float, whitening: Whitening) -> NDArray[np.float64]:
    """Whitened features (M, D) -> the same without those that a reduction by `scale` has destroyed.

    A reduced image holds no frequency above `scale`/2 cycles a px of the picture that it was. What is
    measured there after enlarging it again is far from any natural image, and would drown the rest. Such
    features are given the values that leave |phi| least, which to the Gaussian model behind the whitening are
    the expected ones given all others: phi loses its part in the span of their columns of W. The statistic
    keeps its distribution, as phi still follows from image and hypothesis alone.

    On nine Kodak pictures of two TAEF2 decoders, reduced to 0.7, 0.5 and 0.35 of the side, 71, 60 and 23 % of
    the statistic before the reduction were left without this step, 85, 66 and 51 % with it.
    """
    lost = _frequencies() >= _lowest_lost(scale)
    if not lost.any():
        return phi
    basis, _ = np.linalg.qr(whitening.matrix[:, lost])
    return np.asarray(phi - (phi @ basis) @ basis.T)

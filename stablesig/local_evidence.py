"""Where in an image the watermark is: every tile tested like an image of its own.

What a tile's p-value means. A tile gives a feature vector that follows from the pixels and the geometry
alone, so over the draw of the key its p-value is exact, as the whole image's is. A tile is tried in the
geometries that the whole image was tried in, under the scale and the rotation that fitted the whole image
best: choosing those with the key's help is paid for by multiplying with the whole image's hypothesis factor
f, and looking at T tiles and N keys by multiplying with T N. For every image, whatever it shows,

    P(any tile, under any hypothesis h, has p <= a / (f_h N T))  <=  a

(Bonferroni; tiles may overlap and hang together in any way). So one tile under the threshold is as good as an
image under it, and says that the watermark is somewhere in this tile. A tile above it says nothing: a small
tile of a marked picture may hold too little to show it, most of all where it is flat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stablesig_detector.planes import MIN_SIDE
from stablesig_detector.search import DIHEDRAL, TRANSFORMS, Geometry, Grid, search_fully
from stablesig_detector.spectrum import spectrum
from stablesig_detector.statistics import bonferroni_log10, cosine_statistic, spherical_log10_p

if TYPE_CHECKING:
    from stablesig_detector.decoding import ImageArray
    from stablesig_detector.detection import Detection
    from stablesig_detector.whitening import Whitening

# px on a side, of the picture as it was decoded: the least of 96, 128, 160, 192, 256 that showed a mark made
# at 40 dB in nearly all parts of two Kodak pictures.
TILE = 160
STEP = TILE // 4  # px between tiles
LARGEST_TILE = 256  # px; what is measured of the wider tiles of large images
MOST_TILES = 24  # along one side of the image


@dataclass(frozen=True, eq=False)
class LocalEvidence:
    """The statistic of every tile of an image, for one key.

    tops, lefts: (R,) and (C,) px, where rows and columns of tiles begin.  side: of a tile, px.
    statistics: (R, C) cosines.  log10_p: (R, C), each paying for geometries, keys and all tiles.  fpr: the
    false positive rate asked for, over all of these together.
    """

    tops: NDArray[np.intp]
    lefts: NDArray[np.intp]
    side: int
    statistics: NDArray[np.float64] = field(repr=False)
    log10_p: NDArray[np.float64] = field(repr=False)
    fpr: float

    @property
    def detected(self) -> NDArray[np.bool_]:
        """(R, C): which tiles carry the watermark, on their own."""
        return self.log10_p <= math.log10(self.fpr)


def geometry_of(found: Detection) -> Geometry:
    """The hypothesis that won, with the quarter turn taken out of its rotation again."""
    if not found.transform.startswith("rot90"):
        return Geometry(found.transform, found.scale, found.rotation)
    rotation = found.rotation - 90.0
    return Geometry(found.transform, found.scale, rotation + 180.0 if rotation < -90.0 else rotation)


def features_under(
    pixels: ImageArray, geometry: Geometry, transforms: tuple[str, ...], whitening: Whitening
) -> NDArray[np.float64]:
    """Whitened features under the scale and rotation of `geometry`, one row a transform: (H, W, 3) -> (M, D).

    The geometry's own transform is not used. Rows are 0 where too little is left once the scale is undone.
    """
    measured = spectrum(pixels)
    if geometry.scale == 1.0 and geometry.rotation == 0.0:
        return whitening.apply(np.stack([measured.transformed(name) for name in transforms]))
    grid = Grid(tuple(sorted({1.0, geometry.scale})), tuple(sorted({0.0, geometry.rotation})))
    rows = np.zeros((len(transforms), measured.values.size))
    for family in search_fully(pixels, measured, whitening, grid):
        for hypothesis, features in zip(family.geometries, family.features, strict=True):
            wanted = (hypothesis.scale, hypothesis.rotation) == (geometry.scale, geometry.rotation)
            if wanted and hypothesis.transform in transforms:
                rows[transforms.index(hypothesis.transform)] = features
    return rows


def local_evidence(
    pixels: ImageArray, direction: NDArray[np.float64], found: Detection, whitening: Whitening
) -> LocalEvidence:
    """Test every tile of an image for the key that `found` speaks of.

    pixels: (H, W, 3) RGB in 0..255, what `found` was measured on.  direction: (D,), the key's.

    The number of tiles and what is measured of each are bounded, so that a large image costs seconds.
    """
    geometry = geometry_of(found)
    # An image with transparent parts is tried over two backgrounds: 2 hypotheses without any search.
    transforms = TRANSFORMS["none"] if found.hypotheses < len(DIHEDRAL) else DIHEDRAL
    height, width = pixels.shape[:2]
    side, step = tile_size(width, height, geometry.scale)
    tops, lefts = (_starts(length, side, step) for length in (height, width))
    features = np.stack(
        [
            features_under(pixels[top : top + side, left : left + side], geometry, transforms, whitening)
            for top in tops
            for left in lefts
        ]
    )  # (T, M, D)
    cosines = cosine_statistic(features.reshape(-1, features.shape[-1]), direction)
    statistics = cosines.reshape(len(tops), len(lefts), len(transforms)).max(axis=-1)
    factor = found.hypothesis_factor * found.n_keys * statistics.size
    log10_p = bonferroni_log10(spherical_log10_p(statistics, features.shape[-1]), factor)
    return LocalEvidence(tops, lefts, side, statistics, log10_p, found.fpr)


def tile_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Side of a tile and step from one to the next, px of the image; scale: of the image to be undone."""
    step = max(STEP * scale, max(width, height) / MOST_TILES)
    side = max(TILE * scale, min(LARGEST_TILE * scale, step))
    return max(min(round(side), width, height), MIN_SIDE), round(step)


def _starts(length: int, side: int, step: int) -> NDArray[np.intp]:
    """Where the tiles along one side of the image begin; the first and the last touch its ends."""
    return np.rint(np.linspace(0, length - side, 1 + math.ceil((length - side) / step))).astype(np.intp)

"""How often keys drawn at random, and fixed ones, fall under a nominal rate on images without a watermark.

The p-value is a decreasing function of the statistic, so p <= a is the same as s >= t(a): counting needs one
comparison for each pair of a key and an image, and no p-value. Images are taken in blocks and keys in blocks,
so that memory holds one block of statistics, however many there are of either.

Pairs that share a key are not independent. Given the images, keys are; but two images whose features point
the same way are found by the same keys. For unit vectors a and b at the angle theta and u uniform on the
sphere of R^D, with t > 0,

    P(<a, u> >= t and <b, u> >= t)
        = 1/pi * integral from theta/2 to arccos(t) of (1 - t^2 / cos^2 x)^((D - 2)/2) dx

because the component of u in the plane of a and b has an isotropic law with
P(radius > r) = (1 - r^2)^((D - 2)/2), and in the direction at the angle y from the middle of a and b both
conditions hold beyond the radius t / cos(|y| + theta/2). (The same derivation gives Craig's form of the
Gaussian tail.) Its mean over pairs of images, J, says everything about second moments: the variance of the
count of one key, hence how many pairs count as independent (the design effect), and the spread over keys of
the rate f of one key on such images, E f^2 = J against (E f)^2 = a^2, at rates far below what could be
counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stablesig_detector.spectrum import DIMENSION, Spectrum
from stablesig_detector.statistics import cosine_statistic, spherical_threshold
from stablesig_detector.whitening import Whitening

FloatArray = NDArray[np.float64]
CountArray = NDArray[np.int64]

LEVELS_A_DECADE = 4
KEY_BLOCK = 2048
IMAGE_BLOCK = 512  # with KEY_BLOCK: 8 MB of statistics
PAIRED_ROWS = 2500  # feature vectors, at most, between which angles are taken: 6 million
_BINS = 20_000  # of cosines in [-1, 1]
_NODES = 4096  # of the integral
_PAIR_BLOCK = 256


def nominal_levels(smallest: float) -> tuple[float, ...]:
    """1, 10^-0.25, 10^-0.5 ... down to `smallest`; every fourth is the float nearest to a power of ten."""
    steps = math.floor(-math.log10(smallest) * LEVELS_A_DECADE + 1e-9)
    return tuple(
        float(f"1e-{step // LEVELS_A_DECADE}")
        if step % LEVELS_A_DECADE == 0
        else 10.0 ** (-step / LEVELS_A_DECADE)
        for step in range(steps + 1)
    )


@lru_cache(maxsize=1024)
def statistic_at(nominal: float, hypotheses: int = 1, dimension: int = DIMENSION) -> float:
    """The least statistic, the best of `hypotheses`, whose corrected p-value is at most `nominal`; in (0, 1].

    -infinity for a nominal rate of 1, which every statistic has.
    """
    return -math.inf if nominal >= 1.0 else spherical_threshold(nominal / hypotheses, dimension)


def draw_directions(count: int, seed: int, block: int = KEY_BLOCK) -> Iterator[FloatArray]:
    """`count` directions, uniform on the sphere, in arrays (<= block, D); `block` does not change them.

    That is what a key's direction is (stablesig_detector.carriers); drawing it spares expanding keys.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, count, block):
        drawn = generator.normal(size=(min(block, count - start), DIMENSION))
        yield drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def hypotheses_of(values: FloatArray, transforms: Sequence[str], whitening: Whitening) -> FloatArray:
    """Spectra (n, D) -> whitened features under every hypothesis, (M, n, D)."""
    places = np.arange(DIMENSION, dtype=np.float64)
    orders = [Spectrum(places, ()).transformed(transform).astype(np.intp) for transform in transforms]
    return np.stack([whitening.apply(values[:, order]) for order in orders])


def count_exceedances(
    values: FloatArray,
    directions: Iterable[FloatArray],
    levels: Sequence[float],
    transforms: Sequence[str],
    whitening: Whitening,
    *,
    image_block: int = IMAGE_BLOCK,
    on_block: Callable[[], None] | None = None,
) -> CountArray:
    """How many images each key finds at each nominal rate: (keys, levels).

    values: (n, D) spectra.  directions: blocks (N, D).  on_block: called after each block of keys.
    """
    thresholds = [statistic_at(level, len(transforms)) for level in levels]
    counted = []
    for block in directions:
        counts = np.zeros((len(block), len(levels)), dtype=np.int64)
        for start in range(0, len(values), image_block):
            features = hypotheses_of(values[start : start + image_block], transforms, whitening)
            best = cosine_statistic(features[0], block)  # (N, n)
            for hypothesis in features[1:]:
                np.maximum(best, cosine_statistic(hypothesis, block), out=best)
            for column, threshold in enumerate(thresholds):
                counts[:, column] += np.count_nonzero(best >= threshold, axis=1)
        counted.append(counts)
        if on_block is not None:
            on_block()
    return np.concatenate(counted)


def joint_exceedance(cosines: FloatArray, threshold: float, dimension: int = DIMENSION) -> FloatArray:
    """P(<a, u> >= t and <b, u> >= t) over u uniform, for unit vectors a and b with these cosines.

    threshold: t in (-1, 1).  Good to a relative 1e-4, far better than any use of it.
    """
    t = abs(threshold)
    end = math.acos(t)
    x = np.linspace(0.0, end, _NODES + 1)
    base = np.clip(1.0 - (t / np.cos(x)) ** 2, 0.0, None) if t > 0.0 else np.ones_like(x)
    height = base ** ((dimension - 2) / 2.0)
    pieces = 0.5 * (height[1:] + height[:-1]) * (end / _NODES)
    beyond = np.append(np.cumsum(pieces[::-1])[::-1], 0.0) / math.pi  # from every x to the end
    both = np.interp(np.arccos(np.clip(cosines, -1.0, 1.0)) / 2.0, x, beyond)
    # below: P(not s_a < t and not s_b < t), and s < t is s >= |t| of the opposite direction
    return both if threshold >= 0.0 else 1.0 - 2.0 * beyond[0] + both


@dataclass(frozen=True, eq=False)
class Angles:
    """Cosines between the features of different images, as a histogram of ordered pairs over [-1, 1]."""

    pairs: NDArray[np.int64]  # (_BINS,)

    @property
    def cosines(self) -> FloatArray:
        """(_BINS,) the middle of each bin."""
        return (np.arange(_BINS, dtype=np.float64) + 0.5) * (2.0 / _BINS) - 1.0

    def mean(self, values: FloatArray) -> float:
        """The mean over all pairs of a function of their cosine, given at `cosines`."""
        return float(self.pairs @ values / self.pairs.sum())

    def joint(self, threshold: float) -> float:
        """J: the probability, over keys, that one key reaches `threshold` on two different images."""
        return self.mean(joint_exceedance(self.cosines, threshold))

    def carrying(self, threshold: float) -> float:
        """How many unordered pairs carry `joint`: (sum P)^2 / sum P^2. Of few, it is an anecdote."""
        shares = joint_exceedance(self.cosines, threshold)
        return float(self.pairs @ shares) ** 2 / max(float(self.pairs @ shares**2), 1e-300) / 2.0


def angles_between(
    values: FloatArray, transforms: Sequence[str], whitening: Whitening, seed: int
) -> Angles | None:
    """Angles between different images, under all hypotheses; None for fewer than two images.

    Of more than PAIRED_ROWS / M images, that many are chosen at random.
    """
    most = PAIRED_ROWS // len(transforms)
    if len(values) > most:
        chosen = np.random.default_rng(seed).choice(len(values), most, replace=False)
        values = values[np.sort(chosen)]
    n = len(values)
    if n < 2:
        return None
    features = hypotheses_of(values, transforms, whitening).reshape(-1, DIMENSION)  # (M n, D)
    image = np.tile(np.arange(n), len(transforms))
    pairs = np.zeros(_BINS, dtype=np.int64)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    units = features / np.where(norms > 0.0, norms, 1.0)
    for start in range(0, len(units), _PAIR_BLOCK):
        block = slice(start, start + _PAIR_BLOCK)
        cosines = cosine_statistic(features, units[block])  # (block, M n)
        different = cosines[image[block, None] != image]
        bins = np.minimum((different + 1.0) * (_BINS / 2.0), _BINS - 1).astype(np.intp)
        pairs += np.bincount(bins, minlength=_BINS)
    return Angles(pairs)

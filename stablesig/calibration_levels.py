"""From counts to evidence: rates with their bounds, at each nominal rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stablesig.binomial import binomial_above, binomial_quantile, clopper_pearson
from stablesig.calibration_counts import Angles, CountArray, statistic_at

LOWEST_RATIO, HIGHEST_RATIO = 0.5, 2.0  # observed over nominal: what counts as calibrated
ENOUGH_EVENTS = 20.0  # expected, counted as independent ones, for a level to be judged
SPREAD_LEVELS = (1e-3, 1e-6, 1e-9)
SHARE_KEPT = 0.95  # of the keys that the correction keeps at or under their nominal rate
MARKOV_FACTOR = 20.0  # 1 / (1 - SHARE_KEPT): by which p must be multiplied for that on any images
_SIGMAS = 4.0  # of the dispersion, beyond which it is not chance


@dataclass(frozen=True)
class RandomLevel:
    """All pairs of a drawn key and an image, at one nominal rate.

    expected, observed: pairs with p <= nominal.  design_effect: the variance of the count over that of
    independent pairs, from the angles between images; 1 where they share no direction.  ratio_low,
    ratio_high: 95 % bounds of observed over nominal, Clopper and Pearson's with both counts divided by the
    design effect.
    """

    nominal: float
    expected: float
    observed: int
    design_effect: float
    ratio_low: float
    ratio_high: float

    @property
    def ratio(self) -> float:
        return self.observed / self.expected

    @property
    def judged(self) -> bool:
        """Whether ENOUGH_EVENTS independent events are expected."""
        return self.expected / self.design_effect >= ENOUGH_EVENTS * (1.0 - 1e-9)

    @property
    def verdict(self) -> str:
        """ "within", "above" or "below" LOWEST_RATIO..HIGHEST_RATIO."""
        return "below" if self.ratio < LOWEST_RATIO else "above" if self.ratio > HIGHEST_RATIO else "within"


@dataclass(frozen=True)
class FixedLevel:
    """Each drawn key on its own over all images, at one nominal rate; ratios are observed over nominal.

    expected: images with p <= nominal, for one key.  median, low, high, worst: of the ratios of all keys, low
    and high their 5th and 95th percentile.  chance_*: the same for binomial counts, worst the median largest
    of as many.  above: keys whose ratio exceeds HIGHEST_RATIO; chance_above: how many would by chance.
    dispersion: the variance of the counts over the binomial one; dispersion_limit: what chance exceeds once
    in some ten thousand times.
    """

    nominal: float
    expected: float
    median: float
    low: float
    high: float
    worst: float
    chance_low: float
    chance_high: float
    chance_worst: float
    above: int
    chance_above: float
    dispersion: float
    dispersion_limit: float

    @property
    def beyond_chance(self) -> bool:
        return self.dispersion > self.dispersion_limit


@dataclass(frozen=True)
class KeyLevel:
    """One of the user's keys over all images, with 95 % bounds (Clopper and Pearson) of observed over nominal
    if the images were drawn independently.
    """

    key_id: str
    nominal: float
    expected: float
    observed: int
    ratio_low: float
    ratio_high: float

    @property
    def ratio(self) -> float:
        return self.observed / self.expected


@dataclass(frozen=True)
class Spread:
    """How the rate of one key, images tested as they are, spreads over keys; from angles, not from counting.

    relative_sd: standard deviation over the nominal rate; 0 where every key has it.  factor: by which p must
    be multiplied for SHARE_KEPT of all keys to keep their nominal rate on images like these, by Cantelli's
    inequality, or Markov's where that gives less.  carrying_pairs: how many pairs of images carry the figure;
    of few, it says more of those pairs than of the class.
    """

    nominal: float
    relative_sd: float
    factor: float
    carrying_pairs: float


@dataclass(frozen=True)
class Curve:
    """Observed rates against nominal ones, for the plot.

    nominal: from 1 downwards, of random and band_*.  band_*: where 95 % of binomial rates lie.  fixed_*: at
    the first nominal rates, down to one over the number of images.
    """

    nominal: tuple[float, ...]
    random: tuple[float, ...]
    band_low: tuple[float, ...]
    band_high: tuple[float, ...]
    fixed_median: tuple[float, ...]
    fixed_low: tuple[float, ...]
    fixed_high: tuple[float, ...]
    fixed_worst: tuple[float, ...]


def is_decade(level: float) -> bool:
    """Whether a nominal rate belongs into the tables: 1e-1, 1e-2 ..."""
    return level < 1.0 and abs(math.log10(level) - round(math.log10(level))) < 1e-9


def design_effect(angles: Angles | None, nominal: float, n: int, hypotheses: int) -> float:
    """The variance of one key's count over `n` images, over that of a binomial count; 1 to n.

    Exact for one hypothesis. For more, the probability that two images are both found is bounded by the sum
    over all pairs of hypotheses, so the effect is at most this.
    """
    if angles is None or nominal >= 1.0:
        return 1.0
    joint = min(hypotheses**2 * angles.joint(statistic_at(nominal, hypotheses)), nominal)
    effect = (1.0 + (n - 1) * joint / nominal - n * nominal) / (1.0 - nominal)
    return min(max(effect, 1.0), float(n))


def random_levels(
    counts: CountArray, levels: Sequence[float], effects: Sequence[float], n: int
) -> tuple[RandomLevel, ...]:
    """counts: (keys, levels) over `n` images."""
    pairs = n * len(counts)
    found = []
    for column, (level, effect) in enumerate(zip(levels, effects, strict=True)):
        if is_decade(level):
            observed = int(counts[:, column].sum())
            low, high = clopper_pearson(observed / effect, pairs / effect)
            found.append(RandomLevel(level, pairs * level, observed, effect, low / level, high / level))
    return tuple(found)


def fixed_levels(counts: CountArray, levels: Sequence[float], n: int) -> tuple[FixedLevel, ...]:
    """counts: (keys, levels) over `n` images; the levels down to 1 / n."""
    return tuple(
        _fixed_level(counts[:, column], level, n)
        for column, level in enumerate(levels)
        if is_decade(level) and level * n >= 1.0 - 1e-9
    )


def _fixed_level(counts: CountArray, level: float, n: int) -> FixedLevel:
    expected, n_keys = n * level, len(counts)
    low, median, high = np.percentile(counts, (5, 50, 95)) / expected
    mean = float(counts.mean())
    rate = mean / n
    # The variance of a binomial sample variance follows from the fourth moment, 3 + (1 - 6 p q) / (n p q).
    variance = n * rate * (1.0 - rate)
    dispersion = float(((counts - mean) ** 2).mean()) / variance if variance > 0.0 else 0.0
    kurtosis = (1.0 - 6.0 * rate * (1.0 - rate)) / variance if variance > 0.0 else 0.0
    most = math.floor(HIGHEST_RATIO * expected + 1e-9)
    return FixedLevel(
        level,
        expected,
        float(median),
        float(low),
        float(high),
        float(counts.max() / expected),
        binomial_quantile(0.05, n, level) / expected,
        binomial_quantile(0.95, n, level) / expected,
        binomial_quantile(0.5 ** (1.0 / n_keys), n, level) / expected,
        int((counts > most).sum()),
        n_keys * binomial_above(most, n, level),
        dispersion,
        1.0 + _SIGMAS * math.sqrt((2.0 + max(kurtosis, 0.0)) / n_keys),
    )


def key_levels(
    ids: Sequence[str], counts: CountArray, levels: Sequence[float], n: int
) -> tuple[KeyLevel, ...]:
    """counts: (keys, levels) over `n` images; the levels down to 1 / n."""
    found = []
    for key_id, row in zip(ids, counts.tolist(), strict=True):
        for level, observed in zip(levels, row, strict=True):
            if is_decade(level) and level * n >= 1.0 - 1e-9:
                low, high = clopper_pearson(observed, n)
                found.append(KeyLevel(key_id, level, n * level, observed, low / level, high / level))
    return tuple(found)


def spreads(angles: Angles) -> tuple[Spread, ...]:
    """The spread over keys at SPREAD_LEVELS. angles: of one hypothesis."""
    return tuple(
        Spread(
            level,
            math.sqrt(_relative_variance(angles, level)),
            _factor(angles, level),
            angles.carrying(statistic_at(level)),
        )
        for level in SPREAD_LEVELS
    )


def _relative_variance(angles: Angles, nominal: float) -> float:
    """Of one key's rate over keys: J / nominal^2 - 1, not below 0, where only a sample's chance puts it."""
    return max(angles.joint(statistic_at(nominal)) / nominal**2 - 1.0, 0.0)


def _factor(angles: Angles, nominal: float) -> float:
    """The least c with P(f(nominal / c) > nominal) <= 1 - SHARE_KEPT by Cantelli, or Markov's.

    The spread grows as the rate falls, so c is raised until it covers that of nominal / c.
    """
    factor = 1.0
    for _ in range(20):
        variance = _relative_variance(angles, nominal / factor)
        needed = 1.0 + math.sqrt(variance * SHARE_KEPT / (1.0 - SHARE_KEPT))
        if needed <= factor * 1.001:
            return factor
        factor = needed
        if factor >= MARKOV_FACTOR:
            break
    return MARKOV_FACTOR


def curve(counts: CountArray, levels: Sequence[float], effects: Sequence[float], n: int) -> Curve:
    """counts: (keys, levels) over `n` images."""
    pairs = n * len(counts)
    band = []
    for level, effect in zip(levels, effects, strict=True):
        trials = max(1, round(pairs / effect))
        tails = (0.025, 0.975) if level < 1.0 else ()
        band.append([binomial_quantile(q, trials, level) / trials for q in tails] or [1.0, 1.0])
    down_to_one = [column for column, level in enumerate(levels) if level * n >= 1.0 - 1e-9]
    fixed = counts[:, down_to_one] / n
    low, median, high = np.percentile(fixed, (5, 50, 95), axis=0)
    return Curve(
        tuple(levels),
        tuple((counts.sum(axis=0) / pairs).tolist()),
        tuple(low for low, _ in band),
        tuple(high for _, high in band),
        tuple(median.tolist()),
        tuple(low.tolist()),
        tuple(high.tolist()),
        tuple(fixed.max(axis=0).tolist()),
    )

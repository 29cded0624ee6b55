"""From scores, image by image, to the numbers that are reported.

A picture that is too small to measure counts as not detected, with p = 1. Rates carry exact binomial
intervals; they are over images, for the one key that was evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stablesig.binomial import clopper_pearson
from stablesig.detect_output import ABSENCE, format_p
from stablesig.evaluation_journal import AttackScores
from stablesig.evaluation_measure import Score
from stablesig.quality import Quality
from stablesig_detector.errors import UsageError
from stablesig_detector.statistics import FloatArray, spherical_log10_p, spherical_threshold

if TYPE_CHECKING:
    from stablesig.evaluation_pictures import Pictures
    from stablesig.evaluation_provenance import Inputs
    from stablesig.suites import ImageAttack, SetAttack

FPR_LEVELS = (1e-3, 1e-6, 1e-9)
CONFIDENCE = 0.95
HISTOGRAM_BINS = 40


@dataclass(frozen=True)
class Rate:
    """`count` of `total` pictures have p <= `fpr`; low, high: the 95 % interval of the rate."""

    fpr: float
    count: int
    total: int
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """A metric over the images, and the image where it is worst."""

    mean: float
    worst: float
    worst_image: str


@dataclass(frozen=True)
class QualityResult:
    """Watermarked against original decoder. ms_ssim is None where one of the images is too small for it."""

    psnr_db: Spread
    ssim: Spread
    ms_ssim: Spread | None
    haarpsi: Spread


@dataclass(frozen=True)
class ControlResult:
    """The original decoder's pictures under one attack; a small p-value is the bad one here.

    matches, bits: as of an `AttackResult`: what chance gives under this search, more than half of the bits.
    """

    total: int
    too_small: int
    false_positives: tuple[Rate, ...]
    matches: int | None
    bits: int | None
    mean_statistic: float | None
    lowest_log10_p: float

    @property
    def bit_accuracy(self) -> float | None:
        """matches / bits, as of an `AttackResult`."""
        return self.matches / self.bits if self.matches is not None and self.bits else None


@dataclass(frozen=True)
class AttackResult:
    """The watermarked decoder's pictures under one attack.

    suite, name, convention: as in `stablesig.suites`.  search: the detector's; its factor is in the p-values.
    total: pictures; too_small of them could not be measured.  detected: at each level.  matches, bits:
    message bits that read right, of how many, in the pictures measured; None for a public key.
    mean_statistic: of those measured, None if none was.  worst_log10_p: the largest, in `worst_image`.
    attack_psnr_db: mean PSNR between pictures before and after the attack, over the attack_psnr_images whose
    size it keeps; original_psnr_db: the same to the original decoder's pictures.  control: None for an attack
    that is not made on the original decoder's pictures.
    """

    suite: str
    name: str
    convention: str
    search: str
    total: int
    too_small: int
    detected: tuple[Rate, ...]
    matches: int | None
    bits: int | None
    mean_statistic: float | None
    median_log10_p: float
    worst_log10_p: float
    worst_image: str
    attack_psnr_db: float | None
    attack_psnr_images: int
    original_psnr_db: float | None
    control: ControlResult | None

    @property
    def bit_accuracy(self) -> float | None:
        """matches / bits; None without a secret key, or where nothing was measured."""
        return self.matches / self.bits if self.matches is not None and self.bits else None

    def at(self, fpr: float) -> Rate:
        """The rate at one of the levels. Raises UsageError for another."""
        for rate in self.detected:
            if rate.fpr == fpr:
                return rate
        measured = ", ".join(f"{rate.fpr:g}" for rate in self.detected)
        raise UsageError(f"rates were counted at {measured}; got {fpr:g}; give it to evaluate as fpr")


@dataclass(frozen=True)
class Histogram:
    """The unsearched statistic of the control against its law for a random key.

    edges: HISTOGRAM_BINS + 1, increasing.  counts: pictures in each bin.  expected: how many there would be,
    on average over the draw of the key.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    expected: tuple[float, ...]


@dataclass(frozen=True)
class FalsePositives:
    """Of `total` pictures of the control `count` are found; no interval, as they are copies of few."""

    fpr: float
    count: int
    total: int


@dataclass(frozen=True)
class ControlTotal:
    """The original decoder's pictures under all attacks together. histogram: None if none was measured."""

    false_positives: tuple[FalsePositives, ...]
    histogram: Histogram | None


@dataclass(frozen=True)
class LeftOut:
    """An attack that could not run here, for want of a codec or of another autoencoder."""

    suite: str
    attack: str


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured; `out` holds report.json, report.html and results.csv.

    key_id: of the key looked for.  images: held-out photographs used.  fpr: the level that counts as
    detected.  scores: the evidence picture by picture, in the order of `attacks`.  seconds: of the whole run,
    all sessions together.
    """

    out: Path
    key_id: str
    images: int
    fpr: float
    quality: QualityResult
    attacks: tuple[AttackResult, ...]
    control: ControlTotal
    left_out: tuple[LeftOut, ...]
    scores: tuple[AttackScores, ...] = field(repr=False)
    seconds: float

    @property
    def report(self) -> Path:
        """The report for the eye."""
        return self.out / "report.html"

    def __str__(self) -> str:
        psnr, haarpsi = self.quality.psnr_db, self.quality.haarpsi
        width = max(len("attack"), *(len(attack.name) for attack in self.attacks))
        lines = [
            f"report   {self.report}",
            f"key      {self.key_id}, {self.images} images",
            f"PSNR     {psnr.mean:.2f} dB mean, {psnr.worst:.2f} dB worst",
            f"SSIM     {self.quality.ssim.mean:.4f} mean, {self.quality.ssim.worst:.4f} worst",
            f"HaarPSI  {haarpsi.mean:.4f} mean, {haarpsi.worst:.4f} worst",
        ]
        suite = ""
        for attack in self.attacks:
            if attack.suite != suite:
                suite = attack.suite
                lines += ["", suite, f"{'attack':<{width}}  detected  median p  worst p   bits"]
            rate, accuracy = attack.at(self.fpr), attack.bit_accuracy
            bits = "" if accuracy is None else f"{accuracy:.3f}"
            counts = f"{rate.count}/{rate.total}"
            evidence = f"{format_p(attack.median_log10_p):<8}  {format_p(attack.worst_log10_p):<8}"
            lines.append(f"{attack.name:<{width}}  {counts:>8}  {evidence}  {bits}".rstrip())
        found = next(count for count in self.control.false_positives if count.fpr == self.fpr)
        lines += ["", f"original decoder: {found.count} of {found.total} attacked pictures detected"]
        if self.left_out:
            lines.append("left out: " + "; ".join(f"{gone.attack} ({gone.suite})" for gone in self.left_out))
        lines += [f"Detected means p <= {self.fpr:g}; p pays for the search. {self.seconds:.0f} s.", ABSENCE]
        return "\n".join(lines)


def summarise(
    out: Path,
    inputs: Inputs,
    pictures: Pictures,
    qualities: Sequence[Quality],
    found: Mapping[tuple[str, str], AttackScores],
    seconds: float,
) -> Evaluation:
    """All results, in the order of the suites; `found` has the scores of every (suite, attack)."""
    settings = inputs.settings
    names, fprs = [subject.name for subject in pictures.subjects], levels(settings.fpr)
    ordered = [
        (attack, found[one.suite.name, attack.name]) for one in inputs.chosen for attack in one.attacks
    ]
    return Evaluation(
        out=out,
        key_id=inputs.key.id,
        images=len(pictures),
        fpr=settings.fpr,
        quality=quality_result(qualities, names),
        attacks=tuple(
            attack_result(scores, attack, settings.search_for(attack.search), names, fprs)
            for attack, scores in ordered
        ),
        control=control_total([scores for _, scores in ordered], fprs, inputs.key.dimension),
        left_out=tuple(LeftOut(one.suite.name, name) for one in inputs.chosen for name in one.missing),
        scores=tuple(scores for _, scores in ordered),
        seconds=seconds,
    )


def levels(fpr: float) -> tuple[float, ...]:
    """The false positive rates reported: FPR_LEVELS and the one asked for, largest first."""
    return tuple(sorted({*FPR_LEVELS, fpr}, reverse=True))


def quality_result(found: Sequence[Quality], names: Sequence[str]) -> QualityResult:
    """Mean and worst of each metric; one `Quality` for each of `names`, at least one."""

    def spread(values: Sequence[float]) -> Spread:
        worst = int(np.argmin(values))
        return Spread(float(np.mean(values)), float(values[worst]), names[worst])

    multi_scale = [one.ms_ssim for one in found if one.ms_ssim is not None]
    return QualityResult(
        psnr_db=spread([one.psnr_db for one in found]),
        ssim=spread([one.ssim for one in found]),
        ms_ssim=spread(multi_scale) if len(multi_scale) == len(found) else None,
        haarpsi=spread([one.haarpsi for one in found]),
    )


def attack_result(
    scores: AttackScores,
    attack: ImageAttack | SetAttack,
    search: str,
    names: Sequence[str],
    fprs: Sequence[float],
) -> AttackResult:
    """The row of one attack; `names` are those of the images, `fprs` the levels."""
    marked = scores.marked
    measured = [score for score in marked if score.log10_p is not None]
    log10_p = [_log10_p(score) for score in marked]
    worst = int(np.argmax(log10_p))
    keeps_size = [score.attack_psnr_db for score in marked if score.attack_psnr_db is not None]
    to_original = [score.original_psnr_db for score in marked if score.original_psnr_db is not None]
    matches, bits = _bits(marked)
    return AttackResult(
        suite=scores.suite,
        name=attack.name,
        convention=attack.convention,
        search=search,
        total=len(marked),
        too_small=len(marked) - len(measured),
        detected=_rates(marked, fprs),
        matches=matches,
        bits=bits,
        mean_statistic=_mean([score.statistic for score in measured if score.statistic is not None]),
        median_log10_p=float(np.median(log10_p)),
        worst_log10_p=log10_p[worst],
        worst_image=names[worst],
        attack_psnr_db=_mean(keeps_size),
        attack_psnr_images=len(keeps_size),
        original_psnr_db=_mean(to_original),
        control=None if scores.control is None else _control(scores.control, fprs),
    )


def _control(scores: Sequence[Score], fprs: Sequence[float]) -> ControlResult:
    measured = [score.statistic for score in scores if score.statistic is not None]
    matches, bits = _bits(scores)
    return ControlResult(
        total=len(scores),
        too_small=len(scores) - len(measured),
        false_positives=_rates(scores, fprs),
        matches=matches,
        bits=bits,
        mean_statistic=_mean(measured),
        lowest_log10_p=min(_log10_p(score) for score in scores),
    )


def control_total(scores: Sequence[AttackScores], fprs: Sequence[float], dimension: int) -> ControlTotal:
    """The control of all attacks together; `dimension` is that of the features."""
    control = [score for attack in scores for score in attack.control or ()]
    statistics = [one.unsearched_statistic for one in control if one.unsearched_statistic is not None]
    return ControlTotal(
        tuple(FalsePositives(fpr, _count(control, fpr), len(control)) for fpr in fprs),
        _histogram(np.array(statistics), dimension) if statistics else None,
    )


def _histogram(statistics: FloatArray, dimension: int) -> Histogram:
    reach = max(spherical_threshold(1e-6, dimension), float(np.abs(statistics).max()) + 1e-9)
    edges = np.linspace(-reach, reach, HISTOGRAM_BINS + 1)
    above = 10.0 ** spherical_log10_p(edges, dimension)
    counts = np.histogram(statistics, edges)[0]
    expected = len(statistics) * (above[:-1] - above[1:])
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), tuple(expected.tolist()))


def null_density(s: FloatArray, dimension: int) -> FloatArray:
    """Density of the cosine between a fixed vector and a uniform direction of R^dimension, s in (-1, 1).

    (1 - s^2)^((D - 3) / 2) / B((D - 1) / 2, 1/2): Cai, Fan and Jiang, "Distributions of angles in random
    packing on spheres", JMLR 14 (2013), section 2, in s = cos(theta).
    """
    half = (dimension - 1) / 2
    log_beta = math.lgamma(half) + math.lgamma(0.5) - math.lgamma(half + 0.5)
    return np.asarray(np.exp((dimension - 3) / 2 * np.log1p(-s * s) - log_beta))


def _log10_p(score: Score) -> float:
    return 0.0 if score.log10_p is None else score.log10_p


def is_detected(score: Score, fpr: float) -> bool:
    """Whether the p-value is at most `fpr`; a picture too small to measure is not detected."""
    return score.log10_p is not None and score.log10_p <= math.log10(fpr)


def _count(scores: Sequence[Score], fpr: float) -> int:
    return sum(is_detected(score, fpr) for score in scores)


def _rates(scores: Sequence[Score], fprs: Sequence[float]) -> tuple[Rate, ...]:
    counts = {fpr: _count(scores, fpr) for fpr in fprs}
    return tuple(
        Rate(fpr, count, len(scores), *clopper_pearson(count, len(scores), CONFIDENCE))
        for fpr, count in counts.items()
    )


def _bits(scores: Sequence[Score]) -> tuple[int | None, int | None]:
    """Message bits that read right, and bits read, in the pictures measured; None for a public key."""
    read = [(score.matches, score.n_bits or 0) for score in scores if score.matches is not None]
    return (sum(right for right, _ in read), sum(bits for _, bits in read)) if read else (None, None)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None

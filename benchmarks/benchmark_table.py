"""From measurements to the table: counts against targets, calibration, and where detection is weakest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from benchmark_results import ORIGINAL_DECODER, OTHER_KEY, NullScore, Results

FPR, STRICT_FPR = 1e-6, 1e-9
NULL_P = 1e-4  # no image without the key may fall below it
PSNR_MEAN_DB, PSNR_WORST_DB = 40.0, 37.0
EMBED_MINUTES, EMBED_GB = 20.0, 6.0
DETECT_SECONDS = 0.6
# Attack -> least percentage detected at FPR; the other attacks are reported without a target.
TARGETS = {
    "no attack": 100,
    "PNG": 99,
    "JPEG 80": 99,
    "JPEG 50": 90,
    "crop 25 %": 99,
    "crop 10 %": 90,
    "brightness x0.5": 99,
    "brightness x2": 99,
    "contrast x2": 99,
    "flip": 99,
    "noise 12/255": 90,
}
_WORST_SHOWN = 10


@dataclass(frozen=True)
class Check:
    """One line of the table that has a target, unless `met` is None: nothing to measure, or no target."""

    what: str
    target: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: ""}[self.met]


@dataclass(frozen=True)
class AttackRow:
    """Detections of marked images by their own keys under one attack."""

    attack: str
    total: int
    detected: int  # at FPR
    detected_strictly: int  # at STRICT_FPR
    median_log10_p: float
    worst_log10_p: float
    worst: str  # image and key

    @property
    def target(self) -> int | None:
        """Least percentage detected, or None."""
        return TARGETS.get(self.attack)

    @property
    def met(self) -> bool | None:
        return None if self.target is None else 100 * self.detected >= self.target * self.total


@dataclass(frozen=True)
class NullRow:
    """p-values of images that do not carry the key. `below` counts those of either kind under NULL_P."""

    source: str
    total: int
    below: int
    lowest_log10_p: float  # the smaller of both kinds
    distance: float  # Kolmogorov-Smirnov, of the one-hypothesis p-values from the uniform distribution


def attack_rows(results: Results) -> list[AttackRow]:
    """One row an attack, in the order in which they were measured."""
    rows = []
    for attack in dict.fromkeys(score.attack for score in results.scores):
        scores = [score for score in results.scores if score.attack == attack]
        worst = max(scores, key=lambda score: score.log10_p)
        rows.append(
            AttackRow(
                attack,
                total=len(scores),
                detected=sum(_detected(score.log10_p, FPR) for score in scores),
                detected_strictly=sum(_detected(score.log10_p, STRICT_FPR) for score in scores),
                median_log10_p=median(score.log10_p for score in scores),
                worst_log10_p=worst.log10_p,
                worst=f"{results.images[worst.image].name}, key {worst.key}",
            )
        )
    return rows


def null_rows(results: Results) -> list[NullRow]:
    """The other keys' row and the original decoder's, those that have scores."""
    rows = []
    for source in (OTHER_KEY, ORIGINAL_DECODER):
        scores = [score for score in results.nulls if score.source == source]
        if scores:
            lowest = [min(score.log10_p, score.log10_p_identity) for score in scores]
            rows.append(
                NullRow(
                    source,
                    total=len(scores),
                    below=sum(log10_p < math.log10(NULL_P) for log10_p in lowest),
                    lowest_log10_p=min(lowest),
                    distance=uniform_distance(_identity_p(scores)),
                )
            )
    return rows


def uniform_distance(p_values: Sequence[float]) -> float:
    """Kolmogorov-Smirnov distance of `p_values` from the uniform distribution on [0, 1]; 0..1."""
    count = len(p_values)
    return max(max((place + 1) / count - p, p - place / count) for place, p in enumerate(sorted(p_values)))


def checks(results: Results) -> list[Check]:
    """Everything with a target that is no attack: quality, false detections, cost."""
    psnr = [value for run in results.keys for value in run.psnr_db]
    worst_key, worst_image = min(
        ((key, image) for key, run in enumerate(results.keys) for image in range(len(run.psnr_db))),
        key=lambda place: results.keys[place[0]].psnr_db[place[1]],
    )
    slowest = max(run.seconds for run in results.keys) / 60
    largest = max(run.peak_bytes for run in results.keys) / 1e9
    detect = median(results.detect_seconds)
    nulls = {row.source: row for row in null_rows(results)}
    return [
        Check(
            "PSNR, mean",
            f">= {PSNR_MEAN_DB:g} dB",
            f"{fmean(psnr):.2f} dB",
            fmean(psnr) >= PSNR_MEAN_DB,
        ),
        Check(
            "PSNR, worst image",
            f">= {PSNR_WORST_DB:g} dB",
            f"{min(psnr):.2f} dB ({results.images[worst_image].name}, key {worst_key})",
            min(psnr) >= PSNR_WORST_DB,
        ),
        *(_null_check(source, nulls.get(source)) for source in (OTHER_KEY, ORIGINAL_DECODER)),
        Check(
            "embedding, slowest key",
            f"<= {EMBED_MINUTES:g} min",
            f"{slowest:.1f} min",
            slowest <= EMBED_MINUTES,
        ),
        Check("embedding, peak memory", f"<= {EMBED_GB:g} GB", f"{largest:.2f} GB", largest <= EMBED_GB),
        Check(
            f"`stablesig detect`, one {_sizes(results)} px PNG",
            f"<= {DETECT_SECONDS:g} s",
            f"{detect:.2f} s (median of {len(results.detect_seconds)}, "
            f"slowest {max(results.detect_seconds):.2f} s)",
            detect <= DETECT_SECONDS,
        ),
    ]


def missed_images(results: Results) -> list[tuple[str, Counter[str]]]:
    """(image, {attack: keys missed at FPR}), the image with the most misses first; none without a miss."""
    missed: dict[str, Counter[str]] = {}
    for score in results.scores:
        if not _detected(score.log10_p, FPR):
            missed.setdefault(results.images[score.image].name, Counter())[score.attack] += 1
    return sorted(missed.items(), key=lambda item: (-item[1].total(), item[0]))


def markdown(results: Results) -> str:
    """The whole report, ending in a newline."""
    rows, other = attack_rows(results), checks(results)
    verdicts = [(row.attack, row.met) for row in rows] + [(check.what, check.met) for check in other]
    missed = [name for name, met in verdicts if met is False]
    with_target = sum(met is not None for _, met in verdicts)
    parts = [
        _heading(results),
        _table(
            (
                "attack",
                f"detected at {FPR:g}",
                f"at {STRICT_FPR:g}",
                "median log10 p",
                "worst log10 p",
                "worst image",
                "target",
                "",
            ),
            [
                (
                    row.attack,
                    _count(row.detected, row.total),
                    _count(row.detected_strictly, row.total),
                    f"{row.median_log10_p:.1f}",
                    f"{row.worst_log10_p:.1f}",
                    row.worst,
                    "" if row.target is None else f">= {row.target} %",
                    Check(row.attack, "", "", row.met).verdict,
                )
                for row in rows
            ],
        ),
        _table(
            ("", "target", "measured", ""),
            [(check.what, check.target, check.measured, check.verdict) for check in other],
        ),
        _table(
            ("key", "id", "PSNR mean", "worst", "steps", "seconds", "peak GB", "cost from"),
            [
                (
                    str(key),
                    run.id,
                    f"{fmean(run.psnr_db):.2f} dB",
                    f"{min(run.psnr_db):.2f} dB",
                    str(run.config["steps"]),
                    f"{run.seconds:.0f}",
                    f"{run.peak_bytes / 1e9:.2f}",
                    run.cost_from,
                )
                for key, run in enumerate(results.keys)
            ],
        ),
        _misses(missed_images(results)),
    ]
    if results.left_out:
        parts.append(f"Not measured, for want of a codec in Pillow: {', '.join(results.left_out)}.\n")
    parts.append(
        f"{with_target - len(missed)} of {with_target} targets met"
        + (f"; missed: {', '.join(missed)}.\n" if missed else ".\n")
    )
    return "\n".join(parts)


def _heading(results: Results) -> str:
    software = ", ".join(f"{name} {version}" for name, version in results.versions.items() if version)
    given = results.arguments
    return (
        f"{given['vae']}, {len(results.images)} images of {given['test']} ({_sizes(results)} px), "
        f"{len(results.keys)} random keys, PSNR target {given['psnr']:g} dB, seed {given['seed']}.\n"
        f"Embedded on {' / '.join(dict.fromkeys(run.machine for run in results.keys))}; "
        f"measured on {results.machine}, {results.cores} cores.\n{software}.\n"
    )


def _sizes(results: Results) -> str:
    sides = sorted({(image.width, image.height) for image in results.images})
    return ", ".join(f"{width} x {height}" for width, height in sides)


def _null_check(source: str, row: NullRow | None) -> Check:
    what = f"{source}: p below {NULL_P:g}"
    if row is None:
        return Check(what, "none", "not measured: a single key", None)
    critical = 1.63 / math.sqrt(row.total)  # Kolmogorov's 1 % point, for independent values
    measured = (
        f"{row.below} of {row.total}; lowest log10 p {row.lowest_log10_p:.2f}; "
        f"distance from uniform {row.distance:.3f} (1 % point {critical:.3f})"
    )
    return Check(what, "none", measured, row.below == 0)


def _misses(missed: list[tuple[str, Counter[str]]]) -> str:
    if not missed:
        return f"Every image was detected at {FPR:g} under every attack with every key.\n"
    lines = [
        (
            name,
            str(attacks.total()),
            ", ".join(f"{attack} ({keys})" for attack, keys in attacks.most_common()),
        )
        for name, attacks in missed[:_WORST_SHOWN]
    ]
    text = _table(("worst images", f"misses at {FPR:g}", "attack (keys)"), lines)
    more = len(missed) - _WORST_SHOWN
    return text + (f"\n{more} more images have misses.\n" if more > 0 else "")


def _detected(log10_p: float, fpr: float) -> bool:
    return log10_p <= math.log10(fpr)


def _identity_p(scores: Iterable[NullScore]) -> list[float]:
    return [float(10.0**score.log10_p_identity) for score in scores]


def _count(part: int, whole: int) -> str:
    return f"{part}/{whole} ({100 * part / whole:.1f} %)"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)

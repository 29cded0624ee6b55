"""What benchmarks/peers.py measures, and the table that it prints, published figures marked as such."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, median
from typing import Any

from stablesig_detector.errors import UsageError
from stablesig_detector.statistics import binomial_log10_p

FORMAT, FORMAT_VERSION = "stablesig-peers", 1
FPR = 1e-6


@dataclass(frozen=True)
class Method:
    """A way to mark pictures, and what it costs. Seconds are processor time of one thread, run by run.

    psnr_db: by key, then image; marked against unmarked, equal pictures counted as 100 dB.  mark_seconds: of
    one picture; for a watermarked decoder, of decoding it.  find_seconds: by search, "" if there is one only.
    """

    name: str
    n_bits: int
    psnr_db: list[float]
    mark_seconds: list[float]
    find_seconds: dict[str, list[float]]


@dataclass(frozen=True)
class Reading:
    """What one method reads in one picture. `method` is an index into the comparison's list.

    attack: on a marked picture; None where the picture is the unmarked one, not attacked.  matches: message
    bits that read right; None if they cannot be known.  ones: bits that read as 1, or None.  log10_p: None if
    the method refuses the picture, which counts as not detected.
    """

    method: int
    key: int
    image: int
    attack: str | None
    matches: int | None
    ones: int | None
    log10_p: float | None

    @property
    def detected(self) -> bool:
        """Whether the p-value is at most FPR."""
        return self.log10_p is not None and self.log10_p <= math.log10(FPR)


@dataclass(frozen=True)
class Comparison:
    """A run; `encoded` and `read` keep it as JSON."""

    arguments: dict[str, Any]
    versions: dict[str, str | None]
    machine: str
    suite: str
    images: list[str]
    size: str  # of the pictures, px
    keys: list[str]  # ids
    methods: list[Method]
    readings: list[Reading]
    decode_seconds: list[float]  # of one picture by the original decoder, processor time of one thread
    left_out: list[str]  # attacks of the suite that cannot run here

    def encoded(self) -> bytes:
        content = {"format": FORMAT, "version": FORMAT_VERSION} | asdict(self)
        return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """The comparison in a file that holds `encoded`. Raises UsageError for anything else."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; name the --json file of a finished run") from error
        except ValueError as error:
            raise UsageError(f"{path} is not JSON; run the comparison again") from error
        kind = (content.pop("format", None), content.pop("version", None)) if type(content) is dict else None
        if kind != (FORMAT, FORMAT_VERSION) or set(content) != {field.name for field in fields(cls)}:
            raise UsageError(f"{path} is no {FORMAT} of version {FORMAT_VERSION}; run the comparison again")
        rows = {"methods": Method, "readings": Reading}
        try:
            return cls(
                **content | {name: [row(**item) for item in content[name]] for name, row in rows.items()}
            )
        except TypeError as error:
            raise UsageError(f"{path}: {error}; run the comparison again") from error


@dataclass(frozen=True)
class Published:
    """A bit accuracy from a paper.  attack: as published.  names: the nearest attacks of this project's
    suites, and what each does otherwise."""

    attack: str
    bit_accuracy: str
    names: dict[str, str]


# Bit accuracies and PSNR: Fernandez et al., "The Stable Signature: Rooting Watermarks in Latent Diffusion
# Models", ICCV 2023, table 1, text-to-image; read at second hand, in public notes on arXiv 2303.15435v2 that
# name table and section. Strengths: the short list ("few") in run_evals.py of the authors' repository,
# facebookresearch/stable_signature; a crop's scale is of the area and its place the centre (utils_img.py).
PUBLISHED = (
    Published("none", "0.99", {"none": ""}),
    Published("crop to 10 % of the area, centre", "0.95", {"crop 10 %": "centre crop", "crop area 0.1": ""}),
    Published("brightness x2", "0.97", {"brightness x2": ""}),
    Published(
        "crop 50 %, brightness x1.5, JPEG 80",
        "0.92",
        {
            "combined, brightness x1.5": "",
            "crop 50 % + brightness x2 + JPEG 80": "centre crop, brightness x1.5",
        },
    ),
)
PUBLISHED_NAME = "Stable Signature, PUBLISHED"
PUBLISHED_BITS, PUBLISHED_PSNR = 48, "30.0 dB"
PUBLISHED_NOTE = (
    f"{PUBLISHED_NAME}, not measured here: table 1 (text-to-image, {PUBLISHED_BITS} bits) of Fernandez et "
    "al., ICCV 2023, arXiv 2303.15435, read at second hand; strengths of the attacks from the authors' "
    "run_evals.py. Another decoder, generated pictures, another PSNR: an orientation, not the same test. The "
    "abstract says of pictures cropped to 10 % of their content: 90+ % accuracy in detection at a false "
    "positive rate below 1e-6.\n"
)


def least_matches(n_bits: int, fpr: float = FPR) -> int | None:
    """The fewest matching bits whose p-value is at most `fpr`; None if even all of them do not suffice."""
    enough = (
        matches for matches in range(n_bits + 1) if binomial_log10_p(matches, n_bits) <= math.log10(fpr)
    )
    return next(enough, None)


def cell(readings: Sequence[Reading], n_bits: int) -> str:
    """Detected of all, and the share of message bits that read right in those that were not refused."""
    refused = sum(reading.log10_p is None for reading in readings)
    known = [reading.matches for reading in readings if reading.matches is not None]
    parts = [f"{sum(reading.detected for reading in readings)}/{len(readings)}"]
    if known:
        parts.append(f"{sum(known) / (n_bits * len(known)):.3f}")
    if refused:
        parts.append("refused" if refused == len(readings) else f"{refused} refused")
    return ", ".join(parts)


def published_cell(attack: str) -> str:
    """The published bit accuracy under the attack of this project's that is nearest to it, or ""."""
    for figure in PUBLISHED:
        if attack in figure.names:
            differing = figure.names[attack]
            return figure.bit_accuracy + (f" ({differing})" if differing else "")
    return ""


def markdown(comparison: Comparison) -> str:
    """The whole report, ending in a newline."""
    left_out = comparison.left_out
    return "\n".join(
        [
            _heading(comparison),
            _attacks(comparison),
            _costs(comparison),
            _unmarked(comparison),
            *([f"Left out, as they cannot run here: {', '.join(left_out)}.\n"] if left_out else []),
            PUBLISHED_NOTE,
        ]
    )


def _heading(comparison: Comparison) -> str:
    software = ", ".join(f"{name} {version}" for name, version in comparison.versions.items() if version)
    given = comparison.arguments
    needed = ", ".join(
        f"{least_matches(n_bits)} of {n_bits}"
        for n_bits in sorted({method.n_bits for method in comparison.methods[1:]})
    )
    return (
        f"{given['original']}, {_count(len(comparison.images), 'image')} of {given['test']} "
        f"({comparison.size} px), {_count(len(comparison.keys), 'key')}, "
        f"suite {comparison.suite}, seed {given['seed']}.\n"
        f"Measured on {comparison.machine}; {software}.\n\n"
        f"Detected at a false positive rate of {FPR:g}, and bit accuracy: `stablesig` by its own p-value, "
        "with the search that the attack calls for; the others by the binomial tail of the bits that match"
        f"{f', {needed} bits at least' if needed else ''}, nothing undone.\n"
    )


def _attacks(comparison: Comparison) -> str:
    attacks = list(dict.fromkeys(row.attack for row in comparison.readings if row.attack is not None))
    published = [published_cell(attack) for attack in attacks]
    head = ["attack", *(method.name for method in comparison.methods)]
    lines = [
        [
            attack,
            *(
                cell(_of(comparison, number, attack), method.n_bits)
                for number, method in enumerate(comparison.methods)
            ),
        ]
        for attack in attacks
    ]
    if any(published):
        head.append(f"{PUBLISHED_NAME}: bit accuracy")
        lines = [[*line, figure] for line, figure in zip(lines, published, strict=True)]
    return _table(head, lines)


def _costs(comparison: Comparison) -> str:
    lines = []
    for number, method in enumerate(comparison.methods):
        marking = f"{median(method.mark_seconds):.3f} s"
        if number == 0:
            marking = f"decodes in {marking}, unmarked {median(comparison.decode_seconds):.3f} s"
        finding = ", ".join(
            f"{median(seconds):.3f} s{f' ({search})' if search else ''}"
            for search, seconds in method.find_seconds.items()
        )
        mean, worst = fmean(method.psnr_db), min(method.psnr_db)
        lines.append((method.name, str(method.n_bits), f"{mean:.2f} dB", f"{worst:.2f} dB", marking, finding))
    lines.append((PUBLISHED_NAME, str(PUBLISHED_BITS), PUBLISHED_PSNR, "", "", ""))
    runs = len(comparison.decode_seconds)
    head = ("", "bits", "PSNR mean", "worst", "marking one picture", "looking for it")
    return (
        _table(head, lines)
        + f"\nProcessor time of one thread, median of {runs} runs on the first picture, models loaded. "
        "PSNR is against the original decoder's pictures, which the others mark.\n"
    )


def _unmarked(comparison: Comparison) -> str:
    lines = []
    for number, method in enumerate(comparison.methods):
        readings = _of(comparison, number, None)
        if not readings:
            continue
        matches = [row.matches for row in readings if row.matches is not None]
        ones = [row.ones for row in readings if row.ones is not None]
        p_values = [row.log10_p for row in readings if row.log10_p is not None]
        lines.append(
            (
                method.name,
                f"{sum(row.detected for row in readings)}/{len(readings)}",
                f"{min(p_values):.2f}" if p_values else "",
                f"{fmean(matches) / method.n_bits:.3f}" if matches else "",
                f"{min(matches)} to {max(matches)} of {method.n_bits}" if matches else "",
                f"{fmean(ones) / method.n_bits:.3f}" if ones else "",
            )
        )
    head = ("unmarked pictures", "detected", "lowest log10 p", "bits that match", "range", "bits that read 1")
    return _table(head, lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _of(comparison: Comparison, method: int, attack: str | None) -> list[Reading]:
    return [row for row in comparison.readings if row.method == method and row.attack == attack]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |\n" for line in lines)

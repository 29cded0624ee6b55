"""The gate before a release: what was measured against thresholds, and what must hold whatever was measured.

A threshold that is missed can be overridden with a reason, and the reason goes on the card. Weights other
than those that were evaluated, a licence that is missing or forbids the release, and a revoked key cannot be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig.card_facts import NO_ATTACK, Facts, Report
from stablesig.licences import judge
from stablesig_detector.errors import DecoderError, StableSigError, UsageError

if TYPE_CHECKING:
    from stablesig_detector.key import PublicKey, SecretKey
    from stablesig_detector.key_set import KeyEntry


class ReleaseRefusedError(StableSigError):
    """The gate, or the scan for secrets, does not let a release pass."""

    exit_code = 10


@dataclass(frozen=True)
class Thresholds:
    """What must have been measured.

    detection: the least share of pictures detected without an attack, at `fpr`.  psnr_db: the least mean PSNR
    between watermarked and original decoder.  images: the least number of images.  attacks: the least
    share detected after named attacks ("JPEG 50", or "legacy/JPEG 50" where two suites have the name). The
    first three can be raised and not lowered.
    """

    detection: float = 0.99
    psnr_db: float = 38.0
    images: int = 20
    attacks: Mapping[str, float] = field(default_factory=dict)
    fpr: float = 1e-6

    def __post_init__(self) -> None:
        for name, share in {"detection": self.detection, **self.attacks}.items():
            if not 0 <= share <= 1:
                raise UsageError(f"the threshold of {name} is a share in 0..1; got {share:g}")
        least = type(self)
        for name in ("detection", "psnr_db", "images"):
            if getattr(self, name) < getattr(least, name):  # else a release would pass without a word
                raise UsageError(
                    f"the threshold of {name} can be raised above {getattr(least, name):g}, not lowered to "
                    f"{getattr(self, name):g}; a release that misses it passes with --override-reason"
                )


@dataclass(frozen=True)
class Check:
    """One thing that the gate looked at. overridable: with a reason."""

    name: str
    passed: bool
    text: str  # what was found and what was wanted; for one that failed, also what to do
    overridable: bool = False


@dataclass(frozen=True)
class GateReport:
    """Everything the gate looked at; reason: the publisher's, for the checks that failed and may."""

    checks: tuple[Check, ...]
    reason: str | None = None

    @property
    def overridden(self) -> tuple[Check, ...]:
        """The checks that failed and that the reason lets pass."""
        return tuple(one for one in self.checks if not one.passed and one.overridable and self.reason)

    @property
    def refused(self) -> tuple[Check, ...]:
        """The checks that stop the release."""
        return tuple(one for one in self.checks if not one.passed and one not in self.overridden)

    def enforce(self) -> None:
        """Raise ReleaseRefusedError if a check stops the release."""
        if not self.refused:
            return
        named = "; ".join(f"{one.name}: {one.text}" for one in self.refused)
        more = (
            "; --override-reason TEXT lets it pass and puts the text on the card"
            if all(one.overridable for one in self.refused)
            else ""
        )
        raise ReleaseRefusedError(f"the release is refused: {named}{more}")

    def __str__(self) -> str:
        lines = []
        for one in self.checks:
            mark = "pass" if one.passed else "over" if one in self.overridden else "FAIL"
            lines.append(f"{mark}  {one.name}: {one.text}")
        if self.overridden:
            lines.append(f"      reason: {self.reason}")
        return "\n".join(lines)


def measured_checks(evaluation: Mapping[str, Any], thresholds: Thresholds) -> Iterator[Check]:
    """The checks of what was measured. evaluation: as `public_evaluation` gives it."""
    for number, one in enumerate(evaluation["evaluations"], 1):
        where = "" if len(evaluation["evaluations"]) == 1 else f" of report {number}"
        images, psnr = one["images"]["count"], one["quality"]["psnr_db"]["mean"]
        yield Check(
            f"images{where}",
            images >= thresholds.images,
            f"{images} measured, {thresholds.images} wanted",
            overridable=True,
        )
        yield Check(
            f"PSNR{where}",
            psnr >= thresholds.psnr_db,
            f"{psnr:.2f} dB mean, {thresholds.psnr_db:g} wanted",
            overridable=True,
        )
        found = _at(one["control"]["false_positives"], thresholds.fpr)
        yield Check(
            f"control{where}",
            found is not None and found["count"] == 0,
            "the reports do not count at this rate"
            if found is None
            else f"{found['count']} of {found['total']} pictures of the original decoder pass for marked "
            f"at {thresholds.fpr:g}, none wanted",
            overridable=True,
        )
    wanted = {NO_ATTACK: thresholds.detection, **thresholds.attacks}
    for name, share in wanted.items():
        yield _attack_check(evaluation, name, share, thresholds.fpr)


def _attack_check(evaluation: Mapping[str, Any], name: str, share: float, fpr: float) -> Check:
    rows = [
        row
        for one in evaluation["evaluations"]
        for row in one["attacks"]
        if name in (row["name"], f"{row['suite']}/{row['name']}")
    ]
    title = "detection" if name == NO_ATTACK else f"detection after {name}"
    if not rows:
        return Check(title, False, f"no report measured {name!r}; evaluate a suite that has it")
    rates = [(row, _at(row["detected"], fpr)) for row in rows]
    # several suites may have an attack of this name: the weakest counts
    row, rate = min(rates, key=lambda pair: -1.0 if pair[1] is None else pair[1]["count"] / pair[1]["total"])
    if rate is None:
        return Check(title, False, f"{row['suite']} was not counted at {fpr:g}; evaluate with --fpr {fpr:g}")
    return Check(
        title,
        rate["count"] >= share * rate["total"] - 1e-9,
        f"{rate['count']} of {rate['total']} at p <= {fpr:g}, a share of {share:g} wanted",
        overridable=True,
    )


def _at(rates: Sequence[Mapping[str, Any]], fpr: float) -> Mapping[str, Any] | None:
    return next((rate for rate in rates if rate["fpr"] == fpr and rate["total"]), None)


def weights_checks(folder: Path, watermark: Facts, reports: Sequence[Report]) -> Iterator[Check]:
    """Whether vae/ holds the weights that watermark.json lists, and the reports measured these.

    Raises DecoderError if a file cannot be read.
    """
    found = file_digests(folder / "vae")
    listed = watermark.at("autoencoder.files")
    yield _same_files("weights as embed wrote them", found, listed, "watermark.json")
    for report in reports:
        measured = report.facts.at("autoencoder.files_sha256")
        yield _same_files("weights that were evaluated", found, measured, str(report.path))
        original = watermark.sha256("autoencoder.original_decoder_sha256")
        used = report.facts.sha256("autoencoder.original.decoder_sha256")
        yield Check(
            "original decoder",
            used == original,
            f"{report.path} compared with the decoder that was watermarked"
            if used == original
            else f"{report.path} compared with another decoder than the one watermarked; name that "
            "one with evaluate --original",
        )


def image_checks(trained_on: Sequence[str], reports: Sequence[Report]) -> Iterator[Check]:
    """Whether the reports measured other images than those trained on, which would flatter the result.

    trained_on: SHA-256 of the files.  It knows files, not pictures: one that was saved again is another.
    """
    trained = set(trained_on)
    for report in reports:
        used = [one.sha256("sha256") for one in report.facts.items("images.used")]
        both = sum(digest in trained for digest in used)
        yield Check(
            "images apart from training",
            not both,
            f"{both} of the {len(used)} images of {report.path} were trained on; evaluate on others"
            if both
            else f"none of the {len(used)} files of {report.path} was trained on",
        )


def _same_files(name: str, found: Mapping[str, str], wanted: Any, where: str) -> Check:
    if not isinstance(wanted, Mapping) or not wanted:
        return Check(name, False, f"{where} lists no files; make it again")
    wrong = sorted(file for file in {*found, *wanted} if found.get(file) != wanted.get(file))
    if wrong:
        return Check(
            name,
            False,
            f"vae/ and {where} differ in {', '.join(wrong)}; evaluate the very decoder to publish",
        )
    return Check(name, True, f"{len(found)} files, as in {where}")


def file_digests(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the files directly in a folder. Raises DecoderError if they cannot be read."""
    try:
        return {path.name: file_digest(path) for path in sorted(folder.iterdir()) if path.is_file()}
    except OSError as error:
        raise DecoderError(
            f"{folder} cannot be read: {error.strerror or error}; give the folder that embed wrote"
        ) from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_checks(
    key: SecretKey | PublicKey,
    watermark: Facts,
    reports: Sequence[Report],
    entry: KeyEntry | None,
    on: date,
) -> Iterator[Check]:
    """Whether the key given is the one that was embedded and evaluated, and no registry calls it off.

    entry: what the registries say of it, if they know it.  on: the day of the release.
    """
    named = {str(report.path): report.facts.text("key.id") for report in reports}
    named["watermark.json"] = watermark.text("key.id")
    others = [f"{where} has {found}" for where, found in sorted(named.items()) if found != key.id]
    yield Check(
        "key",
        not others,
        f"{key.id}, embedded and evaluated"
        if not others
        else f"the key given is {key.id}, {', '.join(others)}; give the key that was embedded",
    )
    if key.statistics_sha256 != watermark.text("key.statistics_sha256"):
        yield Check(
            "key", False, "it was drawn for other whitening statistics; give the key that was embedded"
        )
    from stablesig_detector.whitening import load_default

    if key.statistics_sha256 != load_default().sha256:  # else it is noticed only once everything was sent
        yield Check(
            "detector",
            False,
            "this release of stablesig has other whitening statistics than the key, so it cannot verify the "
            "release; use the one that drew the key, or watermark the decoder with a new key",
        )
    if entry is not None:
        yield _entry_check(entry, on)


def _entry_check(entry: KeyEntry, on: date) -> Check:
    problem = ""
    if entry.revoked is not None:  # also from a later day on: what is published now outlives it
        why = f" ({entry.reason})" if entry.reason else ""
        problem = f"revoked from {entry.revoked} on{why}; watermark the decoder with a new key"
    elif entry.not_after is not None and entry.not_after < on:
        problem = f"valid until {entry.not_after}; watermark the decoder with a new key"
    elif entry.not_before is not None and entry.not_before > on:
        problem = f"valid from {entry.not_before} on; publish then"
    return Check("registry", not problem, f"{entry.file}: {problem or 'the key is valid'}")


def licence_checks(
    licence: str | None,
    licence_name: str | None,
    base_licence: str | None,
    base_model: str | None,
    reason: str | None,
) -> Iterator[Check]:
    """Whether licence and base model are named, and the base model's licence allows the release."""
    found = judge(licence, base_licence, reason)
    yield Check(
        "licence",
        not found.problem,
        found.problem or f"{licence}, and {base_licence} of the base model allows it",
    )
    if licence == "other" and not licence_name:
        yield Check(
            "licence name", False, "a licence that is other needs its name; give it with --license-name"
        )
    yield Check(
        "base model",
        bool(base_model and base_model.strip()),
        base_model or "is missing; give it with --base-model, its id on the Hub or what it is",
    )

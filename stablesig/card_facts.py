"""What a release may say: read from `report.json` and `watermark.json` alone, checked, cut to what is safe.

Nothing here is computed but by rounding, and nothing can be given by hand; a value that is missing stops the
build. `public_evaluation` is the one way from a report to the card and to the published `evaluation.json`: it
keeps counts and rounded aggregates. Statistics and p-values of single pictures stay behind, since each of
them is a linear equation for the key's direction (docs/evaluate.md), and so do means of the statistic.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablesig_detector.errors import UsageError

NO_ATTACK = "none"
MEDIAN_IMAGES = 10  # a median over fewer pictures says too much of one of them
_REPORT = {"schema": "stablesig-evaluation", "schema_version": 1}
_WATERMARK = {"format": "stablesig-watermark", "version": 1}
_MAX_BYTES = 256 << 20


class MissingFactError(UsageError):
    """A value that the card needs is not in the file that it must come from."""


@dataclass(frozen=True)
class Facts:
    """The fields of one JSON file, asked for by path; a missing or malformed one is a MissingFactError."""

    name: str  # of the file, for messages
    content: Any
    remedy: str

    def at(self, path: str) -> Any:
        """The value at a path such as "key.id"."""
        value = self.content
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise self._missing(path, "is missing")
            value = value[part]
        return value

    def text(self, path: str) -> str:
        """A string that is not empty."""
        value = self.at(path)
        if not isinstance(value, str) or not value.strip():
            raise self._missing(path, "is not a text")
        return value

    def sha256(self, path: str) -> str:
        """64 lower-case hexadecimal digits."""
        value = self.text(path)
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise self._missing(path, "is not a SHA-256")
        return value

    def count(self, path: str) -> int:
        """An integer of at least 0."""
        value = self.at(path)
        if type(value) is not int or value < 0:
            raise self._missing(path, "is not a count")
        return value

    def number(self, path: str) -> float:
        """A finite number."""
        value = self.at(path)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self._missing(path, "is not a finite number")
        return float(value)

    def items(self, path: str) -> list[Facts]:
        """The objects of a list, each as Facts."""
        value = self.at(path)
        if not isinstance(value, list):
            raise self._missing(path, "is not a list")
        return [Facts(f"{self.name}: {path}[{index}]", one, self.remedy) for index, one in enumerate(value)]

    def maybe(self, path: str) -> Facts | None:
        """The object at `path`, or None where it is null."""
        value = self.at(path)
        return None if value is None else Facts(f"{self.name}: {path}", value, self.remedy)

    def _missing(self, path: str, problem: str) -> MissingFactError:
        return MissingFactError(f"{self.name}: {path} {problem}; {self.remedy}")


@dataclass(frozen=True)
class Report:
    """A report.json. sha256: of the file, by which its keeper can show that the release came from it."""

    path: Path
    sha256: str
    facts: Facts

    @property
    def images(self) -> int:
        """How many held-out photographs were measured."""
        return len(self.facts.items("images.used"))


def read_report(folder: Path) -> Report:
    """The report.json of a folder that `evaluate` wrote. Raises UsageError for anything else."""
    path = folder / "report.json" if folder.is_dir() else folder
    content, digest = _read_json(path, "the folder that stablesig evaluate wrote")
    _check_format(path, content, _REPORT)
    report = Report(path, digest, Facts(str(path), content, "evaluate the decoder again"))
    if not report.images:
        raise MissingFactError(f"{path}: images.used is empty; evaluate the decoder again")
    return report


def read_watermark(folder: Path) -> Facts:
    """The watermark.json of a folder that `embed` wrote. Raises UsageError for anything else."""
    path = folder / "watermark.json"
    content, _ = _read_json(path, "the folder that stablesig embed wrote")
    _check_format(path, content, _WATERMARK)
    return Facts(str(path), content, "watermark the decoder again with this release of stablesig")


def public_evaluation(reports: Sequence[Report]) -> dict[str, Any]:
    """What is published of the reports: `evaluation.json`, and every figure on the card.

    Raises MissingFactError for a value that a report lacks, UsageError where two reports measured the same
    attack or other decoders.
    """
    first = reports[0].facts
    seen: dict[tuple[str, str], Path] = {}
    for report in reports:
        for field in ("key.id", "key.statistics_sha256", "autoencoder.decoder_sha256"):
            if report.facts.text(field) != first.text(field):
                raise UsageError(
                    f"{report.path} and {reports[0].path} differ in {field}; give reports on one decoder"
                )
        for attack in report.facts.items("attacks"):
            name = (attack.text("suite"), attack.text("name"))
            if name in seen:
                raise UsageError(
                    f"{report.path} and {seen[name]} both have {name[1]} of {name[0]}; leave one report out"
                )
            seen[name] = report.path
    return {
        "schema": "stablesig-published-evaluation",
        "schema_version": 1,
        "key": {
            "id": first.text("key.id"),
            "bits": first.count("key.bits"),
            "feature_version": first.text("key.feature_version"),
            "dimension": first.count("key.dimension"),
            "statistics_sha256": first.sha256("key.statistics_sha256"),
        },
        "autoencoder": {
            "kind": first.text("autoencoder.kind"),
            "stride": first.count("autoencoder.stride"),
            "latent_channels": first.count("autoencoder.latent_channels"),
            "decoder_sha256": first.sha256("autoencoder.decoder_sha256"),
            "original_decoder_sha256": first.sha256("autoencoder.original.decoder_sha256"),
        },
        "evaluations": [_evaluation(report) for report in reports],
    }


def _evaluation(report: Report) -> dict[str, Any]:
    facts = report.facts
    fpr = facts.number("settings.fpr")
    multi_scale = facts.maybe("quality.ms_ssim")
    return {
        "report_sha256": report.sha256,
        "stablesig_version": facts.text("stablesig_version"),
        "images": {
            "count": report.images,
            "manifest_sha256": facts.sha256("images.manifest_sha256"),
            "held_out_of_training_folder": bool(facts.at("images.held_out_of_training_folder")),
            "skipped": facts.count("images.skipped"),
            "size_px": facts.count("settings.size_px"),
        },
        "settings": {
            "suites": [str(name) for name in facts.at("settings.suites")],
            "search": facts.text("settings.search"),
            "seed": facts.count("settings.seed"),
            "fpr": fpr,
        },
        "quality": {
            "psnr_db": _spread(facts, "quality.psnr_db", 2),
            "ssim": _spread(facts, "quality.ssim", 4),
            "ms_ssim": None if multi_scale is None else _spread(facts, "quality.ms_ssim", 4),
            "haarpsi": _spread(facts, "quality.haarpsi", 4),
        },
        "attacks": [_attack(attack) for attack in facts.items("attacks")],
        "control": {"false_positives": _counts(facts.items("control.false_positives"))},
        "left_out": [
            {"suite": gone.text("suite"), "attack": gone.text("attack")} for gone in facts.items("left_out")
        ],
        "versions": {str(name): version for name, version in sorted(facts.at("versions").items())},
        "finished": facts.text("run.finished"),
    }


def _attack(facts: Facts) -> dict[str, Any]:
    total = facts.count("total")
    control = facts.maybe("control")
    bits = facts.at("bits")
    median = round(facts.number("median_log10_p"), 1)
    cost = facts.at("attack_psnr_db")
    return {
        "suite": facts.text("suite"),
        "name": facts.text("name"),
        "convention": facts.text("convention"),
        "search": facts.text("search"),
        "total": total,
        "too_small": facts.count("too_small"),
        "detected": [
            _count(rate) | {"low": round(rate.number("low"), 4), "high": round(rate.number("high"), 4)}
            for rate in facts.items("detected")
        ],
        "matches": None if bits is None else facts.count("matches"),
        "bits": None if bits is None else facts.count("bits"),
        "median_log10_p": median if total >= MEDIAN_IMAGES else None,
        "attack_psnr_db": None if cost is None else round(facts.number("attack_psnr_db"), 1),
        "control": None
        if control is None
        else {
            "total": control.count("total"),
            "false_positives": _counts(control.items("false_positives")),
        },
    }


def _counts(rates: Sequence[Facts]) -> list[dict[str, Any]]:
    return [_count(rate) for rate in rates]


def _count(rate: Facts) -> dict[str, Any]:
    count, total = rate.count("count"), rate.count("total")
    if count > total:
        raise MissingFactError(f"{rate.name}: {count} of {total} is no count; evaluate the decoder again")
    return {"fpr": rate.number("fpr"), "count": count, "total": total}


def _spread(facts: Facts, path: str, digits: int) -> dict[str, float]:
    """Mean and worst: of pictures against pictures, without a key in it."""
    return {name: round(facts.number(f"{path}.{name}"), digits) for name in ("mean", "worst")}


def _read_json(path: Path, wanted: str) -> tuple[Any, str]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path} is larger than {_MAX_BYTES >> 20} MiB; give {wanted}")
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}); give {wanted}") from None
    try:
        content = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not JSON, or only part of it; give {wanted}") from None
    return content, hashlib.sha256(text).hexdigest()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check_format(path: Path, content: Any, wanted: Mapping[str, object]) -> None:
    if not isinstance(content, dict) or any(content.get(name) != value for name, value in wanted.items()):
        named = ", ".join(f"{name} {value}" for name, value in wanted.items())
        raise UsageError(f"{path} is not of {named}; use the release of stablesig that wrote it")

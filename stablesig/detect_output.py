"""What `stablesig detect` prints: a line for each image and key, or one JSON object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig import __version__
from stablesig.one_line import shown

if TYPE_CHECKING:
    from stablesig_detector.detection import Detection
    from stablesig_detector.key import PublicKey, SecretKey

SCHEMA = "stablesig-detections"
SCHEMA_VERSION = 1
ABSENCE = (
    "A watermark that is not detected proves nothing: the image may come from another model, or the "
    "watermark may have been removed."
)


@dataclass(frozen=True)
class ImageReport:
    """One image: a detection for each key, or the reason why it could not be read."""

    path: Path
    detections: tuple[Detection, ...]
    error: str | None

    @property
    def verdict(self) -> str:
        if self.error is not None:
            return "unreadable"
        return _verdict(any(detection.detected for detection in self.detections))


def _verdict(detected: bool) -> str:
    return "detected" if detected else "not detected"


def exit_code(reports: Sequence[ImageReport]) -> int:
    """3 if an image is unreadable, else 1 if one is not detected, else 0."""
    verdicts = {report.verdict for report in reports}
    return 3 if "unreadable" in verdicts else 1 if "not detected" in verdicts else 0


def format_p(log10_p: float) -> str:
    """A probability from its log10, to two digits, however small: -2000.5 -> 3.2e-2001."""
    if log10_p > -3:
        return f"{10.0**log10_p:.2g}"
    exponent = int(log10_p // 1)
    mantissa = f"{10.0 ** (log10_p - exponent):.1f}"
    return f"1.0e{exponent + 1:03d}" if mantissa == "10.0" else f"{mantissa}e{exponent:03d}"


def text_lines(report: ImageReport) -> list[str]:
    """One line for each key, or one that says why the image could not be read. All lines align."""
    if report.error is not None:
        return [f"unreadable    {shown(report.error)}"]
    return [
        f"{_verdict(found.detected):<12}  p {format_p(found.log10_p_value):<8}  s {found.statistic:+.3f}  "
        f"{_geometry(found)}  {_bits(found)}key {found.key_id}  {shown(report.path)}"
        for found in report.detections
    ]


def text_footer(reports: Sequence[ImageReport]) -> list[str]:
    """What the lines mean: the threshold, and that absence proves nothing."""
    found = [detection for report in reports for detection in report.detections]
    lines = []
    if found:
        geometries = _count(found[0].hypotheses, "geometry", "geometries")
        keys = _count(found[0].n_keys, "key", "keys")
        lines.append(
            f"Detected means p <= {found[0].fpr:g}, the false positive rate; "
            f"p pays for {geometries} and {keys}."
        )
    if not all(detection.detected for detection in found):
        lines.append(ABSENCE)
    return lines


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _geometry(found: Detection) -> str:
    """The geometry that fitted best, with scale and rotation if they were searched for."""
    from stablesig_detector.search import DIHEDRAL

    if found.hypotheses <= len(DIHEDRAL):
        return f"{found.transform:<9}"
    return f"{found.transform:<9}  scale {found.scale:.2f}  rotation {found.rotation:+3.0f}"


def _bits(found: Detection) -> str:
    if found.matches is None or found.n_bits is None or found.bits_log10_p is None:
        return ""
    return f"bits {found.matches}/{found.n_bits} (uncorrected p {format_p(found.bits_log10_p)})  "


def as_json_text(
    reports: Sequence[ImageReport],
    key_paths: Sequence[Path],
    keys: Sequence[SecretKey | PublicKey],
    *,
    fpr: float,
    search: str,
) -> str:
    """One JSON object; docs/cli.md describes its fields."""
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "stablesig_version": __version__,
        "fpr": fpr,
        "search": search,
        "keys": [
            {"id": key.id, "file": str(path), "kind": "secret" if hasattr(key, "seed") else "public"}
            for path, key in zip(key_paths, keys, strict=True)
        ],
        "results": [
            {
                "image": str(report.path),
                "verdict": report.verdict,
                "error": report.error,
                "width": report.detections[0].width if report.detections else None,
                "height": report.detections[0].height if report.detections else None,
                "detections": [_detection_fields(found) for found in report.detections],
            }
            for report in reports
        ],
        "note": ABSENCE,
    }
    return json.dumps(document, indent=2, allow_nan=False)


def _detection_fields(found: Detection) -> dict[str, Any]:
    return {
        "key_id": found.key_id,
        "detected": found.detected,
        "statistic": found.statistic,
        "log10_p_value": found.log10_p_value,
        "p_value": found.p_value,
        "hypotheses": found.hypotheses,
        "hypothesis_factor": found.hypothesis_factor,
        "n_keys": found.n_keys,
        "transform": found.transform,
        "scale": found.scale,
        "rotation": found.rotation,
        "matches": found.matches,
        "n_bits": found.n_bits,
        "bits_log10_p": found.bits_log10_p,
        "feature_version": found.feature_version,
        "dimension": found.dimension,
    }

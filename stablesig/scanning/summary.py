"""What a scan prints at its end, in words and as an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stablesig.one_line import shown

if TYPE_CHECKING:
    from stablesig.scanning.api import ScanResult
    from stablesig.scanning.settings import ScanSettings


def summary(result: ScanResult, settings: ScanSettings) -> list[str]:
    """What is printed at the end, a line each."""
    tally = result.tally
    measured = tally.detected + tally.not_detected
    before = f"  ({result.before:,} of them by earlier runs)" if result.before else ""
    by_accident = measured * settings.fpr
    return [
        f"images        {tally.images:,}{before}",
        f"detected      {tally.detected:,}  (by accident, if none were marked: about {by_accident:.2g})",
        f"not detected  {tally.not_detected:,}",
        f"unreadable    {tally.unreadable.total():,}" + _by_kind(tally.unreadable),
        f"speed         {result.images_per_second:,.1f} images/s with {result.jobs:,} "
        f"{'process' if result.jobs == 1 else 'processes'}",
        f"results       {shown(result.out)}",
        f"next          stablesig scan-report {shown(result.out)}",
    ]


def _by_kind(unreadable: Mapping[str, int]) -> str:
    kinds = sorted(unreadable.items(), key=lambda entry: (-entry[1], entry[0]))
    return "  (" + ", ".join(f"{kind} {count:,}" for kind, count in kinds) + ")" if kinds else ""


def document(result: ScanResult, settings: ScanSettings) -> dict[str, Any]:
    """The same as an object for --json."""
    tally = result.tally
    return {
        "images": tally.images,
        "done_before": result.before,
        "detected": tally.detected,
        "not_detected": tally.not_detected,
        "unreadable": tally.unreadable.total(),
        "unreadable_by_kind": dict(sorted(tally.unreadable.items())),
        "n_keys": len(settings.keys),
        "fpr": settings.fpr,
        "expected_false_positives": (tally.detected + tally.not_detected) * settings.fpr,
        "seconds": round(result.seconds, 3),
        "images_per_second": round(result.images_per_second, 3),
        "jobs": result.jobs,
        "out": shown(result.out),
    }

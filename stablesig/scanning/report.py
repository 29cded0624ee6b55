"""What a scan found, in numbers: read from its results, and told as JSON."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stablesig import __version__
from stablesig.detect_output import ABSENCE, format_p
from stablesig.one_line import shown
from stablesig_detector.errors import UsageError

from .chance import log10_at_least
from .report_files import Found, find_results
from .report_queries import DECADES, Queries, Rows, queries

SCHEMA = "stablesig-scan-report"
SCHEMA_VERSION = 1
DEFAULT_FPR = 1e-6
HITS = 24
PRESUMES = (
    "This presumes keys that were drawn at random, independently of the images, and images that have nothing "
    "to do with one another: who fits a key to an image, or scans many versions of one picture, gets more."
)
SEMANTICS = (
    "A p-value pays for all keys and geometries that an image was held against, so false hits are expected "
    "in images x threshold, whatever the number of keys."
)


@dataclass(frozen=True)
class Report:
    """All that a report tells. The fields are those of its JSON; docs/scan-results.md says what they hold."""

    results: list[dict[str, Any]]
    images: dict[str, Any]
    false_positives: dict[str, Any]
    keys: list[dict[str, Any]]
    key_states: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    formats: list[dict[str, Any]]
    throughput: dict[str, Any]
    histogram: list[dict[str, Any]]
    hits: list[dict[str, Any]]
    notes: list[str]


def make_report(names: Sequence[str], *, fpr: float | None = None, hits: int = HITS) -> Report:
    """Read the results of one or several scans.

    fpr: the threshold of results that do not say theirs, which are JSON lines and CSV; 1e-6 if None.
    hits: how many of the strongest to list.  Raises UsageError (no results, files of something else, a
    threshold that they contradict), OutputError (damaged), MissingExtraError.
    """
    if not names:
        raise UsageError("there is nothing to report on; name a result of stablesig scan")
    if fpr is not None and not 0.0 < fpr < 1.0:
        raise UsageError(f"a false positive rate lies between 0 and 1, both excluded; got {fpr}")
    different: dict[Path, str] = {}
    for name in names:
        different.setdefault(Path(name).resolve(), name)  # x and ./x are one
    found = [find_results(name) for name in different.values()]
    tests = {test: number for number, test in enumerate(dict.fromkeys(one.test for one in found))}
    scans = [Rows(one.files, one.format, tests[one.test]) for one in found]
    with queries(scans) as asked:
        return _answered(found, scans, asked, fpr, hits)


def _answered(
    found: Sequence[Found], scans: Sequence[Rows], asked: Queries, fpr: float | None, hits: int
) -> Report:
    for row in asked.impossible():
        raise UsageError(
            f"{found[row['scan']].name} holds what no scan writes, such as its row for "
            f"{shown(row['path'])[:200]}; name files that stablesig scan wrote"
        )
    per_scan = {one["scan"]: one for one in asked.per_scan()}
    notes = [note for one in found for note in one.notes]
    thresholds, assumed = [], []
    for place, one in enumerate(found):
        thresholds.append(_threshold(one, per_scan.get(place, {}), fpr))
        if one.fpr is None and fpr is None and place in per_scan:
            assumed.append(one.name)
    if assumed:
        notes.append(
            f"{', '.join(assumed)}: does not say at which false positive rate it was made; {DEFAULT_FPR:g}, "
            "which its rows do not contradict, is assumed (--fpr)"
        )
    for place, one in enumerate(found):
        if one.is_followed and (replaced := asked.replaced(place)):
            notes.append(
                f"{one.name}: {replaced:,} of the images are earlier versions of files that were replaced "
                "while they were watched; every version counts as an image"
            )
    distinct = asked.distinct()
    images = _images(per_scan.values(), distinct)
    throughput = _throughput(per_scan.values(), asked)
    results = [_result(one, per_scan.get(place, {}), thresholds[place]) for place, one in enumerate(found)]
    measured = images["detected"] + images["not_detected"]
    of_test = {scan.test: threshold for scan, threshold in zip(scans, thresholds, strict=True)}
    expected_distinct = sum(one["images"] * of_test[one["test"]] for one in asked.distinct_in_tests())
    return Report(
        results=results,
        images=images,
        false_positives=_false_positives(results, distinct, expected_distinct),
        keys=asked.keys(),
        key_states=asked.states(),
        errors=asked.errors(),
        formats=asked.formats(),
        throughput=throughput,
        histogram=_histogram(asked.histogram(), measured),
        hits=asked.hits(hits),
        notes=[*notes, ABSENCE],
    )


def _threshold(found: Found, counts: Mapping[str, Any], fpr: float | None) -> float:
    if found.fpr is not None:
        return found.fpr
    threshold = DEFAULT_FPR if fpr is None else fpr
    highest, lowest = counts.get("highest_hit"), counts.get("lowest_miss")
    log10_threshold = math.log10(threshold)
    if highest is not None and highest > log10_threshold + 1e-9:
        raise UsageError(
            f"{found.name} holds a hit with p = {format_p(highest)}, so it was not made at a false positive "
            f"rate of {threshold:g}; say with --fpr at which"
        )
    if lowest is not None and lowest < log10_threshold - 1e-9:
        raise UsageError(
            f"{found.name} counts p = {format_p(lowest)} as not detected, so it was not made at a false "
            f"positive rate of {threshold:g}; say with --fpr at which"
        )
    return threshold


def _result(found: Found, counts: Mapping[str, Any], threshold: float) -> dict[str, Any]:
    identity = found.identity
    n_keys = identity.get("n_keys")
    return {
        "name": shown(found.name),
        "state": found.state,
        "started": found.about.get("started"),
        "fpr": threshold,
        "search": identity.get("search"),
        "n_keys": counts.get("n_keys") or (n_keys if isinstance(n_keys, int) and n_keys > 0 else None),
        "images": counts.get("images", 0),
        "measured": counts.get("detected", 0) + counts.get("not_detected", 0),
        "detected": counts.get("detected", 0),
    }


def _images(per_scan: Iterable[Mapping[str, Any]], distinct: Mapping[str, Any]) -> dict[str, Any]:
    names = ("images", "detected", "not_detected", "unreadable", "screened", "bytes")
    total = {name: sum(one[name] or 0 for one in per_scan) for name in names}
    return {**total, "distinct_files": distinct["files"]}


def _throughput(per_scan: Iterable[Mapping[str, Any]], asked: Queries) -> dict[str, Any]:
    """span: from the first image to the last, pauses included; of several scans the sum."""
    spans = [(one["images"], one["last"] - one["first"]) for one in per_scan if one["last"] is not None]
    span = sum(seconds for _, seconds in spans)
    timed = sum(number for number, _ in spans)
    return {
        "span_seconds": span,
        "images_per_second": timed / span if span > 0.0 else None,
        "worker_seconds": sum(one["worker_seconds"] or 0.0 for one in per_scan),
        **{f"{name}_seconds": value for name, value in asked.seconds().items()},
    }


def _false_positives(
    results: Sequence[Mapping[str, Any]], distinct: Mapping[str, Any], expected_distinct: float
) -> dict[str, Any]:
    """Copies of an image are hit together, so the chance is that of different images.

    An image that was held against several sets of keys had as many chances, and counts as hit once.
    """
    log10_chance = log10_at_least(distinct["detected"], expected_distinct)
    return {
        "measured_images": sum(one["measured"] for one in results),
        "expected": sum(one["fpr"] * one["measured"] for one in results),
        "expected_per_key": sum(
            one["fpr"] * one["measured"] / one["n_keys"] for one in results if one["n_keys"]
        ),
        "distinct_measured_images": distinct["measured"],
        "distinct_detected_images": distinct["detected"],
        "expected_distinct": expected_distinct,
        "chance_of_as_many": 10.0**log10_chance,
        "log10_chance_of_as_many": log10_chance if math.isfinite(log10_chance) else None,
        "presumes": f"{SEMANTICS} {PRESUMES}",
    }


def _histogram(found: Sequence[Mapping[str, Any]], measured: int) -> list[dict[str, Any]]:
    """All decades down to the last that holds an image. expected_at_most: images made without any key."""
    by_decade = {one["decade"]: one for one in found}
    decades = []
    for decade in range(max(by_decade, default=-1) + 1):
        one = by_decade.get(decade, {"images": 0, "detected": 0})
        share = 10.0**-decade - (0.0 if decade == DECADES else 10.0 ** -(decade + 1))
        decades.append(
            {
                "p_at_most": 10.0**-decade,
                "images": one["images"],
                "detected": one["detected"],
                "expected_at_most": share * measured,
            }
        )
    return decades


def document(report: Report) -> dict[str, Any]:
    """The JSON object. No thumbnails; paths that are not UTF-8 have their bytes beside them in base64."""
    fields = asdict(report)
    for hit in fields["hits"]:
        if hit["path_bytes"] is not None:
            hit["path_bytes"] = base64.b64encode(hit["path_bytes"]).decode("ascii")
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "stablesig_version": __version__,
        "made": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        **fields,
    }


def json_text(report: Report) -> str:
    """The document as text, valid UTF-8 without NaN."""
    return json.dumps(document(report), indent=2, allow_nan=False, ensure_ascii=False)

"""A report of a scan in words: for the terminal, and the sentences that its page has too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stablesig.detect_output import count, format_p
from stablesig.one_line import shown

from .report import PRESUMES, Report


def lines(report: Report) -> Iterator[str]:
    """The report for a terminal: totals, expectation, the first keys, errors."""
    images, chance = report.images, report.false_positives
    for one in report.results:
        state = f" ({one['state']})" if one["state"] in ("at work", "unfinished") else ""
        yield f"{one['name']}{state}: {count(one['images'], 'image', 'images')}, {keys_and_rate(one)}"
    yield ""
    yield f"detected      {images['detected']:>13,}  {share(images['detected'], images['images'])}"
    yield f"not detected  {images['not_detected']:>13,}  {share(images['not_detected'], images['images'])}"
    yield f"unreadable    {images['unreadable']:>13,}  {share(images['unreadable'], images['images'])}"
    yield f"images        {images['images']:>13,}  {images['distinct_files']:,} different files"
    if report.throughput["images_per_second"] is not None:
        yield f"throughput    {report.throughput['images_per_second']:>13,.1f}  images/s"
    yield ""
    yield expectation(chance)
    yield chance_sentence(chance)
    yield PRESUMES
    if report.keys:
        yield ""
        yield f"{'key':16}  {'images':>9}  {'distinct':>9}  {'lowest p':>9}  state          provider"
        for key in report.keys[:20]:
            provider = shown(" ".join(filter(None, (key["provider"], key["model_id"]))))
            yield (
                f"{key['key_id']:16}  {key['images']:>9,}  {key['distinct_images']:>9,}  "
                f"{format_p(key['lowest_log10_p']):>9}  {key['state'] or '':13}  {provider}"
            )
        more = keys_in_all(report) - 20
        if more > 0:
            yield f"and {count(more, 'more key', 'more keys')}"
    if report.errors:
        yield ""
        for error in report.errors:
            yield f"{error['kind']:12}  {error['images']:>9,}  {shown(error['examples'][0])[:200]}"
    yield ""
    yield from map(shown, report.notes)


def keys_in_all(report: Report) -> int:
    """How many keys were detected; `keys` lists the first of them only."""
    return sum(state["keys"] for state in report.key_states)


def keys_and_rate(result: Mapping[str, Any]) -> str:
    """What the images were held against."""
    keys = f"{count(result['n_keys'], 'key', 'keys')}, " if result["n_keys"] else ""
    return f"{keys}false positive rate {result['fpr']:g}"


def share(part: int, whole: int) -> str:
    """A percentage that is 0 or 100 only where it is exactly."""
    if not whole:
        return ""
    percent = 100.0 * part / whole
    if 0 < part < whole and not 0.01 <= percent <= 99.99:
        return "< 0.01 %" if percent < 50.0 else "> 99.99 %"
    return f"{percent:.2f} %".replace(".00 %", " %")


def expectation(chance: Mapping[str, Any]) -> str:
    """How many false hits are to be expected, in a sentence."""
    return (
        f"Of {count(chance['measured_images'], 'measured image', 'measured images')}, "
        f"{_number(chance['expected'])} false hits are expected at most, if none carried a watermark "
        "(images x false positive rate; the keys are paid for in each p-value)."
    )


def chance_sentence(chance: Mapping[str, Any]) -> str:
    """How likely the hits are by accident, in a sentence."""
    hits = chance["distinct_detected_images"]
    if not hits:
        return "There are no hits to explain."
    log10_chance = chance["log10_chance_of_as_many"]
    p = "0" if log10_chance is None else format_p(log10_chance)
    different = count(chance["distinct_measured_images"], "different image", "different images")
    return (
        f"At least {hits:,} of {different} would be hit by accident with probability {p} at most (Poisson)."
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

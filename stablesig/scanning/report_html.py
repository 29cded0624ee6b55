"""The page of a report: what a scan found, on one file that needs nothing from anywhere else.

Everything that comes from outside (paths, providers, errors) is escaped; there are no scripts and no links,
and the pictures are in the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from typing import Any

from stablesig import __version__
from stablesig.detect_output import ABSENCE, count, format_p
from stablesig.one_line import shown

from .report import PRESUMES, SEMANTICS, Report
from .report_plot import evidence_plot
from .report_text import chance_sentence, expectation, keys_and_rate, keys_in_all, share
from .thumbnails import Thumbnail

_KEYS = 100  # in the table
_STYLE = """
h2 { margin-top: 2.25rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 0.75rem;
         margin: 1.25rem 0; padding: 0; }
.facts div { border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.6rem 0.8rem; }
.facts dt { font-size: 0.8rem; opacity: 0.8; }
.facts dd { font: 600 1.4rem/1.3 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.facts small { display: block; font-size: 0.8rem; font-weight: 400; white-space: normal; }
dl.facts { font-size: 1rem; }
.note { border-left: 4px solid #c2571a; padding: 0.1rem 0 0.1rem 0.9rem; max-width: 45rem; }
table.numbers td { text-align: right; }
.numbers thead th:not(:first-child) { text-align: right; }
.numbers td.text, .numbers thead th.text { text-align: left; }
td:last-child { min-width: 0; }
.numbers td.wide, .numbers thead th.wide { text-align: left; min-width: 20rem; white-space: normal;
  overflow-wrap: anywhere; }
.numbers td.text { white-space: normal; max-width: 18rem; }
.numbers code, .numbers thead th { white-space: nowrap; }
.off { color: #b3401a; font-weight: 600; }
.tiles { grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr)); }
.tiles figcaption { overflow-wrap: anywhere; line-height: 1.35; margin-top: 0.3rem; }
.tiles .gone { aspect-ratio: 1; background: #8882; display: grid; place-items: center; padding: 1rem;
               box-sizing: border-box; font-size: 0.8rem; text-align: center; overflow-wrap: anywhere; }
.bars { width: 100%; height: auto; font: 11px system-ui, sans-serif; fill: currentColor; }
.frame .bars { min-width: 32rem; }
@media (prefers-color-scheme: dark) { .off { color: #ff9d70; } }
"""


def html_report(report: Report, pictures: Sequence[Thumbnail]) -> str:
    """The page. pictures: of the first hits of the report, in their order."""
    style = (resources.files("stablesig") / "data" / "evaluation.css").read_text(encoding="utf-8")
    title = f"Scan of {count(report.images['images'], 'image', 'images')}"
    parts = [
        _opening(report, title),
        _expected(report),
        _pictures(report, pictures),
        _keys(report),
        _evidence(report),
        _errors(report),
        _formats(report),
        _throughput(report),
        _provenance(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _text(text: object) -> str:
    return escape(shown("" if text is None else str(text)))


def _opening(report: Report, title: str) -> str:
    images, found = report.images, report.throughput
    rate = found["images_per_second"]
    facts = [
        ("detected", images["detected"], share(images["detected"], images["images"])),
        ("not detected", images["not_detected"], share(images["not_detected"], images["images"])),
        ("unreadable", images["unreadable"], share(images["unreadable"], images["images"])),
        ("different files", images["distinct_files"], _size(images["bytes"]) + " in all"),
        ("keys detected", keys_in_all(report), _states(report)),
    ]
    cards = "".join(
        f"<div><dt>{name}</dt><dd>{number:,}<small>{escape(more)}</small></dd></div>\n"
        for name, number, more in facts
    )
    if rate is not None:
        cards += (
            f"<div><dt>images a second</dt><dd>{_number(rate)}<small>pauses included</small></dd></div>\n"
        )
    scans = "".join(
        f"<li><b>{_text(one['name'])}</b>{_state(one)}: {count(one['images'], 'image', 'images')}, "
        f"{escape(keys_and_rate(one))}</li>\n"
        for one in report.results
    )
    notes = "".join(f'<p class="note">{_text(note)}</p>\n' for note in report.notes if note != ABSENCE)
    return (
        f'<h1>{escape(title)}</h1>\n<ul>\n{scans}</ul>\n{notes}<dl class="facts">\n{cards}</dl>\n'
        f'<p class="note">{escape(ABSENCE)}</p>'
    )


def _state(result: Mapping[str, Any]) -> str:
    said = {"at work": "still at work: these are the results so far", "unfinished": "not finished"}
    return f" ({said[result['state']]})" if result["state"] in said else ""


def _states(report: Report) -> str:
    others = [one for one in report.key_states if one["state"] not in ("valid", None)]
    return ", ".join(f"{one['keys']:,} {shown(one['state'])}" for one in others)


def _expected(report: Report) -> str:
    chance = report.false_positives
    return (
        f"<h2>False positives to expect</h2>\n<p>{escape(expectation(chance))} "
        f"{escape(chance_sentence(chance))}</p>\n<p>{escape(SEMANTICS)} {escape(PRESUMES)}</p>"
    )


def _pictures(report: Report, pictures: Sequence[Thumbnail]) -> str:
    if not pictures:
        return ""
    tiles = "".join(_tile(hit, picture) for hit, picture in zip(report.hits, pictures, strict=False))
    hits = count(len(pictures), "hit", "hits")
    return (
        f"<h2>Hits</h2>\n<p>The {hits} with the lowest p-values, each file once. Pictures are read again for "
        "this page; one that is gone, elsewhere or changed is left out.</p>\n"
        f'<div class="tiles">\n{tiles}</div>'
    )


def _tile(hit: Mapping[str, Any], picture: Thumbnail) -> str:
    path = _text(hit["path"])
    if picture.picture is None:
        missing = picture.missing.removeprefix(f"{hit['path']}: ")
        shape = f'<div class="gone">{_text(missing)}</div>'
    else:
        shape = f'<img loading="lazy" src="{escape(picture.picture)}" alt="{path}">'
    lines = [f"<b>p {format_p(hit['log10_p_value'])}</b>, statistic {hit['statistic']:+.3f}"]
    if hit["matches"] is not None:
        lines.append(f"{hit['matches']} of {hit['n_bits']} bits")
    more = f" and {hit['n_detected'] - 1} more" if hit["n_detected"] > 1 else ""
    lines.append(f"<code>{_text(hit['key_id'])}</code>{more}{_key_state(hit['key_state'])}")
    lines += [_text(hit["provider"])] if hit["provider"] else []
    lines.append(path)
    lines += [f"{hit['copies']:,} copies"] if hit["copies"] > 1 else []
    return f"<figure>{shape}<figcaption>{'<br>'.join(lines)}</figcaption></figure>\n"


def _key_state(state: str | None) -> str:
    return "" if state in (None, "valid") else f' <span class="off">{_text(state)}</span>'


def _keys(report: Report) -> str:
    if not report.keys:
        return "<h2>Keys</h2>\n<p>No key was detected in any image.</p>"
    expected = report.false_positives["expected_per_key"]
    rows = [
        [
            f"<code>{_text(key['key_id'])}</code>",
            f"{key['images']:,}",
            f"{key['distinct_images']:,}",
            format_p(key["lowest_log10_p"]),
            _key_state(key["state"]).strip() or _text(key["state"]),
            _text(key["provider"]),
            _text(key["model_id"]),
        ]
        for key in report.keys[:_KEYS]
    ]
    head = ["key", "images", "different", "lowest p", "state", "provider", "model"]
    rest = keys_in_all(report) - len(rows)
    more = f"<p>And {count(rest, 'key', 'keys')} with fewer images.</p>" if rest > 0 else ""
    share_of = f" By accident each key would be detected in {_number(expected)} images at most, on average."
    return (
        f"<h2>Keys</h2>\n<p>{count(keys_in_all(report), 'key was', 'keys were')} detected.{share_of}</p>\n"
        + _table("Images by key", head, rows, {1, 2, 3})
        + more
    )


def _evidence(report: Report) -> str:
    if not report.histogram:
        return ""
    thresholds = sorted({one["fpr"] for one in report.results if one["measured"]})
    rows = [
        [
            f"{decade['p_at_most']:.0e}" if number else "1",
            f"{decade['images']:,}",
            f"{decade['detected']:,}",
            f"{decade['expected_at_most']:,.3g}",
        ]
        for number, decade in enumerate(report.histogram)
        if decade["images"]
    ]
    head = ["p at most", "images", "detected", "expected at most"]
    counted = _table("Images by decade of their lowest p-value", head, rows, {1, 2, 3})
    return (
        '<h2>Evidence</h2>\n<figure><div class="frame">'
        f"{evidence_plot(report.histogram, thresholds)}</div><figcaption>Images by the decade of their "
        "lowest p-value, on a logarithmic scale; blue: detected. Line: how many at most would lie there if "
        "no image carried a watermark of these keys. Dashed: the threshold.</figcaption></figure>\n"
        f"<details><summary>The same in numbers</summary>\n{counted}</details>"
    )


def _errors(report: Report) -> str:
    if not report.errors:
        return ""
    rows = []
    for error in report.errors:
        examples = [_text(example[:400]) for example in error["examples"]]
        rest = error["images"] - len(examples)
        examples += [f"<small>and {rest:,} more</small>"] if rest > 0 else []
        rows.append([_text(error["kind"]), f"{error['images']:,}", "<br>".join(examples)])
    head = ["class", "inputs", "such as"]
    return "<h2>Unreadable</h2>\n" + _table("Inputs by class of error", head, rows, {1}, wide=2)


def _formats(report: Report) -> str:
    if not report.formats:
        return ""
    rows = [
        [
            _text(one["format"]),
            *(f"{one[name]:,}" for name in ("images", "detected", "unreadable")),
            _size(one["bytes"]),
        ]
        for one in report.formats
    ]
    head = ["format", "images", "detected", "unreadable", "size"]
    return "<h2>Formats</h2>\n" + _table("Images by format of the file", head, rows, {1, 2, 3, 4})


def _throughput(report: Report) -> str:
    found = report.throughput
    if found["images_per_second"] is None:
        return ""
    times = ", ".join(
        f"{words} {found[name]:.3g} s"
        for words, name in (
            ("half within", "median_seconds"),
            ("99 % within", "slow_seconds"),
            ("the slowest", "longest_seconds"),
        )
        if found[name] is not None
    )
    return (
        f"<h2>Time</h2>\n<p>{_number(found['images_per_second'])} images a second over "
        f"{_duration(found['span_seconds'])} from the first image to the last, pauses included; "
        f"{_duration(found['worker_seconds'])} of all workers together. Of an image in its worker: "
        f"{times}.</p>"
    )


def _provenance(report: Report) -> str:
    rows = [
        [
            _text(one["name"]),
            _text(one["state"]),
            _text(one["started"]),
            _text(one["search"]),
            "" if one["n_keys"] is None else f"{one['n_keys']:,}",
            f"{one['fpr']:g}",
            f"{one['images']:,}",
        ]
        for one in report.results
    ]
    head = ["results", "state", "started", "search", "keys", "threshold", "images"]
    return (
        "<h2>What was read</h2>\n"
        + _table("Scans", head, rows, {4, 5, 6})
        + f"<p>Made by stablesig {_text(__version__)} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.</p>"
    )


def _table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int], wide: int = -1
) -> str:
    """numbers: columns that are set to the right.  wide: one whose text may take several lines."""
    kinds = ["wide" if place == wide else "" if place in numbers else "text" for place in range(len(head))]
    attributes = [f' class="{kind}"' if kind else "" for kind in kinds]
    columns = "".join(
        f'<th scope="col"{kind}>{cell}</th>' for kind, cell in zip(attributes, head, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(attributes[1:], row[1:], strict=True))
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="frame" role="region" aria-label="{escape(caption)}" tabindex="0">'
        '<table class="numbers">'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{columns}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000.0 else f"{value:.3g}"


def _size(size: int | None) -> str:
    amount = float(size or 0)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000.0:
            return f"{amount:.3g} {unit}"
        amount /= 1000.0
    return f"{amount:,.4g} TB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2.0 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.3g} s"

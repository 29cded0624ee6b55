"""The files of a calibration report: JSON (data/calibration.schema.json), CSV, plot, and one HTML page."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablesig import __version__
from stablesig.calibration_levels import ENOUGH_EVENTS, HIGHEST_RATIO, LOWEST_RATIO
from stablesig.calibration_text import RANGE, VERDICTS, nominal_text, sentence
from stablesig.one_line import shown

if TYPE_CHECKING:
    from stablesig.calibration import Calibration, ClassResult

SCHEMA = "stablesig-calibration"
SCHEMA_VERSION = 1
NO_PLOT = "there is no plot: matplotlib is not installed; run: pip install 'stablesig[train]'"
_COLUMNS = [
    "class",
    "images",
    "keys",
    "measure",
    "key",
    "nominal",
    "expected",
    "observed",
    "ratio",
    "ratio_low",
    "ratio_high",
]


def write_report(result: Calibration, folder: Path) -> str:
    """Write calibration.json, .csv, .html, .png and .svg into `folder`.

    Returns a note if there is no plot for want of matplotlib, else "".
    """
    from stablesig.calibration_plot import draw

    try:
        plot = draw(result)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        plot = {}
    for form, content in plot.items():
        (folder / f"calibration.{form}").write_bytes(content)
    (folder / "calibration.json").write_text(as_json_text(result) + "\n", encoding="ascii")
    (folder / "calibration.csv").write_text(as_csv(result), encoding="utf-8", newline="")
    (folder / "calibration.html").write_text(as_html(result, plot.get("svg")), encoding="utf-8")
    return "" if plot else NO_PLOT


def as_json_text(result: Calibration) -> str:
    """One JSON object; the schema describes its fields."""
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "stablesig_version": __version__,
        "feature_version": result.feature_version,
        "dimension": result.dimension,
        "statistics_sha256": result.statistics_sha256,
        "search": result.search,
        "hypotheses": result.hypotheses,
        "seed": result.seed,
        "random_keys": result.n_keys,
        "key_ids": list(result.key_ids),
        "calibrated_ratio": [LOWEST_RATIO, HIGHEST_RATIO],
        "enough_events": ENOUGH_EVENTS,
        "classes": [_class_fields(found) for found in result.classes],
    }
    return json.dumps(document, indent=2, allow_nan=False)


def _class_fields(found: ClassResult) -> dict[str, Any]:
    return {
        "name": found.name,
        "folder": str(found.folder),
        "images": found.images,
        "duplicates": found.duplicates,
        "fitted_images": found.fitted,
        "unreadable": [{"file": str(each.file), "reason": each.reason} for each in found.unreadable],
        "verdict": found.verdict,
        "fixed_keys_beyond_chance": found.beyond_chance,
        "mean_cosine": found.mean_cosine,
        "effective_dimension": found.effective_dimension,
        "random": [
            asdict(level) | {"ratio": level.ratio, "judged": level.judged, "verdict": level.verdict}
            for level in found.random
        ],
        "fixed": [asdict(level) | {"beyond_chance": level.beyond_chance} for level in found.fixed],
        "keys": [asdict(level) | {"ratio": level.ratio} for level in found.keys],
        "spread": [asdict(level) for level in found.spread],
        "curve": {name: list(values) for name, values in asdict(found.curve).items()},
    }


def as_csv(result: Calibration) -> str:
    """A row for each class, measure and nominal rate.

    measure: "random" (all pairs, bounds of 95 %); "fixed median", "fixed 5 %", "fixed 95 %", "fixed worst" (a
    quantile over keys; ratio_high is what it would be by chance); "key" (one of the user's, bounds of 95 %).
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for found in result.classes:
        for row in _csv_rows(found, result.n_keys):
            writer.writerow([shown(found.name), found.images, *row])
    return text.getvalue()


def _csv_rows(found: ClassResult, n_keys: int) -> Iterator[list[Any]]:
    for level in found.random:
        bounds = [level.ratio, level.ratio_low, level.ratio_high]
        yield [n_keys, "random", "", level.nominal, level.expected, level.observed, *bounds]
    for fixed in found.fixed:
        for measure, ratio, chance in (
            ("median", fixed.median, ""),
            ("5 %", fixed.low, fixed.chance_low),
            ("95 %", fixed.high, fixed.chance_high),
            ("worst", fixed.worst, fixed.chance_worst),
        ):
            yield [n_keys, f"fixed {measure}", "", fixed.nominal, fixed.expected, "", ratio, "", chance]
    for key in found.keys:
        bounds = [key.ratio, key.ratio_low, key.ratio_high]
        yield [1, "key", key.key_id, key.nominal, key.expected, key.observed, *bounds]


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1e22; background: #fafaf8; max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #555; padding-bottom: .3rem; }
th, td { text-align: right; padding: .15rem .7rem; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.plot svg { width: 100%; height: auto; }
.off { color: #8c2d04; font-weight: 600; }
.faint { color: #666; }
"""


def as_html(result: Calibration, svg: bytes | None) -> str:
    """One page that needs nothing else. svg: the plot, if there is one."""
    body = ["<h1>False positives on images without a watermark</h1>", _settings(result)]
    body += ["<ul>", *(_summary_line(found, result.n_keys) for found in result.classes), "</ul>"]
    if svg is None:
        body.append(f'<p class="faint">{_text(NO_PLOT)}</p>')
    else:
        drawing = svg.decode("utf-8")
        body.append(f'<div class="plot">{drawing[drawing.index("<svg") :]}</div>')
    for found in result.classes:
        body += _class_section(found, result.n_keys)
    body.append(_NOTES)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>stablesig calibration</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


_NOTES = f"""<h2>How to read this</h2>
<p>Over the draw of the key the p-value is exact for any image, so the first table of a class tests the
program and not the images. Levels are judged where {ENOUGH_EVENTS:g} independent events are expected; images
whose features point alike count as fewer, by the design effect. With several geometries p is a bound, and
ratios under 1 are expected.</p>
<p>What one fixed key does on many images follows from no theorem. &ldquo;Chance&rdquo; is what binomial
counts would show: the spread that remains if every key had exactly its nominal rate. The dispersion is the
variance of the counts over theirs.</p>
<p>The spread from angles is computed and not counted, so it reaches rates that no folder is large enough for.
The factor is by what p must be multiplied for 95 % of all keys to keep their nominal rate on images like
these (Cantelli&rsquo;s inequality); 20 suffices for any images whatever (Markov&rsquo;s). Several images of
one source are not independent, and widen the spread.</p>"""


def _settings(result: Calibration) -> str:
    geometries = "one geometry" if result.hypotheses == 1 else f"{result.hypotheses} geometries"
    return _text_paragraph(
        f"stablesig {__version__}, features {result.feature_version} in {result.dimension} dimensions, "
        f"whitening statistics {result.statistics_sha256[:16]}, {result.n_keys} random keys of seed "
        f'{result.seed}, search "{result.search}" ({geometries}).'
    )


def _summary_line(found: ClassResult, n_keys: int) -> str:
    off = found.verdict == "above" or found.beyond_chance
    mark = ' class="off"' if off else ""
    return f"<li><b{mark}>{_text(found.name)}</b>: {_text(sentence(found, n_keys))}</li>"


def _class_section(found: ClassResult, n_keys: int) -> list[str]:
    facts = [f"{found.images} images"]
    facts += [f"{found.duplicates} copies left out"] if found.duplicates else []
    facts += [f"{len(found.unreadable)} that cannot be measured"] if found.unreadable else []
    facts += [f"{found.fitted} from which the statistics were computed"] if found.fitted else []
    if found.mean_cosine is not None and found.effective_dimension is not None:
        facts.append(f"mean cosine of two images {found.mean_cosine:+.4f}")
        facts.append(f"effective dimension {found.effective_dimension:.0f}")
    parts = [f"<h2>{_text(found.name)}</h2>", _text_paragraph("; ".join(facts) + ".")]
    parts.append(_html_table(
        f"Random keys: all pairs. {VERDICTS[found.verdict]}.",
        ("nominal", "expected", "observed", "ratio", "95 % bounds", "design effect", ""),
        [
            (nominal_text(level.nominal), f"{level.expected:.4g}", str(level.observed), f"{level.ratio:.3f}",
             f"{level.ratio_low:.2f} to {level.ratio_high:.2f}", f"{level.design_effect:.2f}",
             level.verdict if level.judged else "not judged")
            for level in found.random
        ],
    ))  # fmt: skip
    parts.append(_html_table(
        f"Each of {n_keys} fixed keys over all images: observed / nominal (by chance)",
        ("nominal", "median", "5 %", "95 %", "worst", f"keys above {HIGHEST_RATIO:g}", "dispersion"),
        [
            (nominal_text(level.nominal), f"{level.median:.2f}", f"{level.low:.2f} ({level.chance_low:.2f})",
             f"{level.high:.2f} ({level.chance_high:.2f})", f"{level.worst:.2f} ({level.chance_worst:.2f})",
             f"{level.above} ({level.chance_above:.1f})",
             f"{level.dispersion:.2f} (at most {level.dispersion_limit:.2f})")
            for level in found.fixed
        ],
    ))  # fmt: skip
    parts.append(_html_table(
        "Spread of one key's rate over keys, from the angles between images",
        ("nominal", "sd / nominal", "factor on p", "carried by pairs"),
        [
            (nominal_text(level.nominal), f"{level.relative_sd:.3g}", f"{level.factor:.3g}",
             f"{level.carrying_pairs:.3g}")
            for level in found.spread
        ],
    ))  # fmt: skip
    parts.append(_html_table(
        f"Your keys: observed / nominal, to be judged against {RANGE}",
        ("key", "nominal", "expected", "observed", "ratio", "95 % bounds"),
        [
            (level.key_id, nominal_text(level.nominal), f"{level.expected:.4g}", str(level.observed),
             f"{level.ratio:.2f}", f"{level.ratio_low:.2f} to {level.ratio_high:.2f}")
            for level in found.keys
        ],
    ))  # fmt: skip
    if found.unreadable:
        items = "".join(
            f"<li>{_text(str(each.file))}: {_text(each.reason)}</li>" for each in found.unreadable
        )
        parts.append(f"<details><summary>What could not be measured</summary><ul>{items}</ul></details>")
    return parts


def _html_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [f"<table><caption>{_text(caption)}</caption>"]
    lines.append("<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def _text_paragraph(text: str) -> str:
    return f"<p>{_text(text)}</p>"


def _text(text: str) -> str:
    return html.escape(shown(text))

"""report.html: what an evaluation found, on one page that needs nothing from anywhere else.

Everything that comes from outside (names of files, suites, sources) is escaped; there are no scripts and no
links, and pictures and plots are in the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING, Any

from stablesig.detect_output import ABSENCE, format_p
from stablesig.evaluation_plots import Strip, null_plot, strength_plot
from stablesig.evaluation_summary import AttackResult, Evaluation, Rate, Spread
from stablesig.suites import NO_ATTACK
from stablesig_detector.statistics import spherical_threshold

if TYPE_CHECKING:
    from pathlib import Path

    from stablesig.evaluation_measure import Instrument
    from stablesig.evaluation_settings import Chosen
    from stablesig.quality import Quality

_STYLE = "evaluation.css"


def html_report(
    result: Evaluation,
    chosen: Sequence[Chosen],
    content: Mapping[str, Any],
    instrument: Instrument,
    qualities: Sequence[Quality],
    run_folder: Path,
) -> str:
    """The page. content: report.json."""
    from stablesig.evaluation_examples import attack_examples, quality_examples

    style = (resources.files("stablesig") / "data" / _STYLE).read_text(encoding="utf-8")
    title = f"Watermark evaluation, key {result.key_id}"
    parts = [
        _opening(result, content),
        _quality(result),
        *(
            _suite(result, one, [attack for attack in result.attacks if attack.suite == one.suite.name])
            for one in chosen
            if one.attacks
        ),
        _control(result, instrument.key.dimension),
        quality_examples(result, instrument.pictures, qualities),
        attack_examples(result, instrument, run_folder),
        _provenance(content, result),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in a frame that scrolls sideways; cells are HTML, the first of each row heads it."""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="frame" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{columns}</tr></thead>\n"
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _opening(result: Evaluation, content: Mapping[str, Any]) -> str:
    unattacked = next((attack for attack in result.attacks if attack.name == NO_ATTACK), None)
    found = ""
    if unattacked is not None:
        rate = unattacked.at(result.fpr)
        found = (
            f"Without an attack, {rate.count} of {rate.total} pictures are detected at a false positive rate "
            f"of {result.fpr:g}. "
        )
    controls = next(count for count in result.control.false_positives if count.fpr == result.fpr)
    psnr = result.quality.psnr_db
    original = content["autoencoder"]["original"]["source"]
    return (
        "<h1>Evaluation of a watermarked decoder</h1>\n"
        f"<p>Autoencoder <b>{escape(str(original))}</b> ({escape(str(content['autoencoder']['kind']))}), key "
        f"<code>{escape(result.key_id)}</code>, {result.images} held-out images.</p>\n"
        f"<p>{found}The watermarked decoder's pictures are {psnr.mean:.2f} dB from the original decoder's on "
        f"average, {psnr.worst:.2f} dB at worst. Of {controls.total} attacked pictures of the original "
        f"decoder, {controls.count} are detected at that rate.</p>\n"
        f"<p>{escape(ABSENCE)}</p>"
    )


def _quality(result: Evaluation) -> str:
    found = result.quality
    metrics: list[tuple[str, Spread | None, int]] = [
        ("PSNR, dB", found.psnr_db, 2),
        ("SSIM (luma)", found.ssim, 4),
        ("MS-SSIM (luma)", found.ms_ssim, 4),
        ("HaarPSI", found.haarpsi, 4),
    ]
    rows = [
        [name, "too small", "", ""]
        if spread is None
        else [name, f"{spread.mean:.{digits}f}", f"{spread.worst:.{digits}f}", escape(spread.worst_image)]
        for name, spread, digits in metrics
    ]
    caption = f"Watermarked against original decoder, {result.images} images"
    note = (
        "PSNR over all samples. SSIM as in Wang et al. 2004, MS-SSIM as in Wang et al. 2003, HaarPSI as in "
        "Reisenhofer et al. 2018 (C = 30, alpha = 4.2); 1 means equal."
    )
    return (
        f"<h2>Quality</h2>\n{table(caption, ['metric', 'mean', 'worst', 'worst image'], rows)}\n<p>{note}</p>"
    )


def _suite(result: Evaluation, chosen: Chosen, attacks: Sequence[AttackResult]) -> str:
    suite = chosen.suite
    fprs = [rate.fpr for rate in attacks[0].detected]
    secret = any(attack.bits for attack in attacks)
    head = ["attack", *(f"detected at {fpr:g}" for fpr in fprs), "median p", "worst p", "worst image"]
    head += ["mean s", *(["bits"] if secret else []), "PSNR of the attack", "PSNR to the original"]
    head += ["control at " + f"{fprs[0]:g}", "search", "too small", "what it is"]
    rows = [_row(attack, secret) for attack in attacks]
    missing = ""
    if chosen.missing:
        missing = f"<p>Left out, as they cannot run here: {escape(', '.join(chosen.missing))}.</p>\n"
    scores = {(found.suite, found.attack): found for found in result.scores}
    strips = []
    for attack in attacks:
        found = scores[suite.name, attack.name]
        strips.append(
            Strip(
                attack.name,
                [-(score.log10_p or 0.0) for score in found.marked],
                [-(score.log10_p or 0.0) for score in found.control or ()],
            )
        )
    label = f"Evidence under each attack of the suite {suite.name}, by picture; its numbers are in the table"
    plot = strength_plot(strips, fprs, label, f"strength-{escape(suite.name)}".replace(" ", "-"))
    return (
        f"<h2>Suite {escape(suite.name)}</h2>\n<p>{escape(_sentence(suite.description))} "
        f"<small>Convention: {escape(suite.source)}</small></p>\n{missing}"
        f'<figure><div class="frame">{plot}</div><figcaption>A dot for each picture of the watermarked '
        "decoder, a diamond at their median, a tick for each picture of the original decoder (control). "
        f"Dashed: the p-values {', '.join(f'{fpr:g}' for fpr in fprs)}.</figcaption></figure>\n"
        + table(f"Suite {suite.name}: what is left of the watermark", head, rows)
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _row(attack: AttackResult, secret: bool) -> list[str]:
    accuracy = attack.bit_accuracy
    bits = "" if accuracy is None else f"{accuracy:.3f} <small>{attack.matches}/{attack.bits}</small>"
    if accuracy is not None and attack.control is not None and attack.control.bit_accuracy is not None:
        bits += f" <small>(control {attack.control.bit_accuracy:.3f})</small>"
    psnr = "" if attack.attack_psnr_db is None else f"{attack.attack_psnr_db:.1f} dB"
    if psnr and attack.attack_psnr_images < attack.total:
        psnr += f" <small>of {attack.attack_psnr_images}</small>"
    control = "" if attack.control is None else _rate(attack.control.false_positives[0], interval=False)
    return [
        escape(attack.name),
        *(_rate(rate) for rate in attack.detected),
        format_p(attack.median_log10_p),
        format_p(attack.worst_log10_p),
        escape(attack.worst_image),
        "" if attack.mean_statistic is None else f"{attack.mean_statistic:+.3f}",
        *([bits] if secret else []),
        psnr,
        "" if attack.original_psnr_db is None else f"{attack.original_psnr_db:.1f} dB",
        control,
        escape(attack.search),
        str(attack.too_small),
        f"<small>{escape(attack.convention)}</small>",
    ]


def _rate(rate: Rate, interval: bool = True) -> str:
    text = f"{rate.count}/{rate.total}"
    if not interval:
        return text
    return f"{text} <small>{100 * rate.low:.0f} to {100 * rate.high:.0f} %</small>"


def _control(result: Evaluation, dimension: int) -> str:
    rows = [
        [f"{count.fpr:g}", f"{count.count}/{count.total}", f"{count.fpr * count.total:.3g}"]
        for count in result.control.false_positives
    ]
    counted = table(
        "The original decoder's pictures under all attacks",
        ["false positive rate", "detected", "expected at most"],
        rows,
    )
    plot = ""
    if result.control.histogram is not None:
        marked = [
            score.statistic
            for found in result.scores
            if found.attack == NO_ATTACK
            for score in found.marked
            if score.statistic is not None
        ]
        thresholds = {fpr: spherical_threshold(fpr, dimension) for fpr in (1e-3, 1e-6, 1e-9)}
        label = "Histogram of the control's statistic beside its law for a random key"
        drawn = null_plot(result.control.histogram, marked, thresholds, dimension, label, "null")
        plot = (
            f'<figure><div class="frame">{drawn}</div><figcaption>Grey: the statistic of the original '
            "decoder's attacked pictures, as they are (no search). Blue ticks: of the watermarked decoder's "
            "pictures without an attack. Line: the density of the cosine between a fixed vector and a random "
            f"direction in {dimension} dimensions, proportional to (1 - s²)^((D - 3) / 2) (Cai, Fan and "
            "Jiang, JMLR 14, 2013). Dashed: where one hypothesis has these p-values.</figcaption></figure>\n"
        )
    return (
        "<h2>Control</h2>\n<p>The same attacks on pictures of the original decoder, which carries no key. "
        "They are many copies of few photographs, looked at with one key, so they may lie to one side of "
        f"the law, which holds over random keys.</p>\n{plot}{counted}"
    )


def _provenance(content: Mapping[str, Any], result: Evaluation) -> str:
    images, settings, run = content["images"], content["settings"], content["run"]
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items() if number)
    files = content["autoencoder"]["files_sha256"]
    facts = [
        ("key", f"{content['key']['id']}, {content['key']['bits']} bits, {content['key']['kind']} key given"),
        ("features", f"{content['key']['feature_version']}, {content['key']['dimension']} dimensions"),
        ("statistics", content["key"]["statistics_sha256"]),
        *((f"watermarked {name}", digest) for name, digest in files.items()),
        ("original decoder", content["autoencoder"]["original"]["decoder_sha256"]),
        ("images", f"{len(images['used'])} used, {images['skipped']} skipped; {images['manifest_sha256']}"),
        ("search, seed, size", f"{settings['search']}, {settings['seed']}, {settings['size_px']} px"),
        ("command", run["command"]),
        ("machine", f"{run['machine']}, {run['jobs']} jobs, {run['seconds']:.0f} s, {run['finished']}"),
        ("versions", versions),
    ]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>\n" for name, value in facts)
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in content["notes"])
    left_out = ""
    if result.left_out:
        groups = groupby(result.left_out, key=lambda gone: gone.suite)
        named = "; ".join(f"{suite}: {', '.join(gone.attack for gone in group)}" for suite, group in groups)
        left_out = f"<p>Attacks that could not run here: {escape(named)}.</p>\n"
    return (
        f"<h2>How to read it</h2>\n<ul>\n{notes}</ul>\n{left_out}"
        f"<h2>What was measured</h2>\n<dl>\n{listed}</dl>\n<p>Long hexadecimal numbers are SHA-256. "
        "report.json beside this page holds all of it for programs, results.csv every image under every "
        "attack.</p>"
    )

"""Detections for people: a full report on one image, a line for each image and key of many.

Both are made of lines of (text, style) spans. On a terminal rich colours them; elsewhere the same text goes
out without rich being imported, so that what is saved is what was seen.
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from stablesig.detect_output import (
    ABSENCE,
    DETECTED,
    NOT_DETECTED,
    UNREADABLE,
    VERDICTS,
    count,
    format_p,
    geometry_words,
    needed_statistic,
    one_in,
    price,
    searched_scales,
)
from stablesig.one_line import shown

if TYPE_CHECKING:
    from pathlib import Path

    from stablesig.evidence import ImageEvidence
    from stablesig_detector.detection import Detection
    from stablesig_detector.key_set import KeySet

Line = list[tuple[str, str]]  # spans: text and a style of rich; "" for none

_STYLES = {DETECTED: "bold green", NOT_DETECTED: "bold yellow", UNREADABLE: "bold red"}
_LABEL = 11  # columns
_WIDTH = 96  # columns at most; a report is read, not scanned
_PRESUMED = (
    "The p-value presumes a key drawn at random, independently of the image: ask that the key or its id was "
    "known before the image was. Over such keys it is exact or too large; how far one fixed key strays on "
    "images of one kind is measured, not proved (docs/calibration.md)."
)
_NOT_SEARCHED = "scale and rotation were not searched (--search full does)"


def write(lines: Iterable[Line]) -> None:
    """Print lines on standard output, in colour if it is a terminal (and NO_COLOR is not set)."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        for line in lines:
            typer.echo("".join(text for text, _ in line))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(Text.assemble(*line))


def full_report(image: ImageEvidence, keys: KeySet, picture: Path | None = None) -> Iterator[Line]:
    """All that there is to say about one image. picture: where its explanation was written."""
    width = _columns()
    if image.error is not None:
        yield _heading(UNREADABLE, shown(image.error))
        yield []
        yield from _paragraph("An image that cannot be read is neither detected nor not detected.", width)
        return
    best = image.best
    assert best is not None, "there is at least one key"
    yield _heading(image.verdict, shown(image.name))
    yield []
    for label, text, style in _rows(image, best, keys, picture):
        yield from _row(label, text, width, style)
    others = [found for found in image.detections if found is not best]
    if others:
        yield []
        yield [("other key" if len(others) == 1 else "other keys", "dim")]
        for found in others:
            yield [("  ", ""), *_line(found, _key_words(found, keys))]
    yield []
    yield from _paragraph(_PRESUMED if image.verdict == DETECTED else ABSENCE, width)


def lines_of(image: ImageEvidence, keys: KeySet) -> list[Line]:
    """One line for each key, or one that says why the image could not be read; one more for a manifest."""
    if image.error is not None:
        return [[(f"{UNREADABLE:<12}", _STYLES[UNREADABLE]), (f"  {shown(image.error)}", "")]]
    lines = [_line(found, f"key {found.key_id}  {shown(image.name)}") for found in image.detections]
    if said := _manifest_lines(image, keys):
        lines.append([(" " * 14, ""), (f"C2PA: {'; '.join(map(shown, said))}", "dim")])
    return lines


def summary(images: Sequence[ImageEvidence]) -> Iterator[Line]:
    """What the lines mean: how many of which, the threshold, and that absence proves nothing."""
    verdicts = [image.verdict for image in images]
    tally = ", ".join(f"{verdicts.count(verdict):,} {verdict}" for verdict in _STYLES if verdict in verdicts)
    yield [(f"{count(len(images), 'image', 'images')}: {tally}.", "")]
    found = [detection for image in images for detection in image.detections]
    if found:
        one = min(found, key=lambda detection: detection.hypotheses)  # transparent images pay twice
        meaning = f"Detected means p <= {one.fpr:g}, the false positive rate for one image"
        yield [(f"{meaning}; p pays for {price(one)}.", "")]
    if NOT_DETECTED in verdicts:
        yield [(ABSENCE, "")]


def _heading(verdict: str, rest: str) -> Line:
    return [(verdict, _STYLES[verdict]), (f"  {rest}", "bold")]


def _columns() -> int:
    import shutil

    return max(50, min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns))


def _row(label: str, text: str, width: int, style: str = "") -> Iterator[Line]:
    for part in textwrap.wrap(text, width - _LABEL, break_long_words=False, break_on_hyphens=False) or [""]:
        yield [(f"{label:<{_LABEL}}", "dim"), (part, style)]
        label = ""


def _paragraph(text: str, width: int) -> Iterator[Line]:
    return ([(part, "")] for part in textwrap.wrap(text, width, break_on_hyphens=False))


def _rows(
    image: ImageEvidence, best: Detection, keys: KeySet, picture: Path | None
) -> Iterator[tuple[str, str, str]]:
    """Label, text and style of each row of a report."""
    words = one_in(best.log10_p_value, best.n_keys)
    yield "p-value", f"{format_p(best.log10_p_value)}: {words}. It pays for {price(best)}.", ""
    needed = needed_statistic(best)
    least = f"at least {needed:+.3f} was needed" if needed <= 1 else "no statistic could have been enough"
    yield "threshold", f"p <= {best.fpr:g}. The statistic is {best.statistic:+.3f}; {least}.", ""
    yield "geometry", _geometry(best), ""
    if best.matches is not None and best.n_bits is not None and best.bits_log10_p is not None:
        chance = f"as many agree by chance with p {format_p(best.bits_log10_p)}, uncorrected"
        yield "bits", f"{best.matches} of {best.n_bits} bits of the message agree; {chance}", ""
    state = keys.state(best.key_id)
    yield "key", _key_words(best, keys), "" if state == "valid" else "bold red"
    yield from _file_rows(image)
    for line in _manifest_lines(image, keys):
        yield "C2PA", shown(line), ""
    if image.local is not None:
        yield "local", _local(image), ""
    if picture is not None:
        yield "picture", shown(picture), ""


def _manifest_lines(image: ImageEvidence, keys: KeySet) -> list[str]:
    """What the file's C2PA manifest says, or why it was not read."""
    if image.manifest is None:
        return [image.manifest_note] if image.manifest_note else []
    named = []
    for key_id in image.manifest.key_ids:
        with contextlib.suppress(KeyError):  # not among the keys
            named.append(keys.entry(key_id).key)
    detected = [found.key_id for found in image.detections if found.detected]
    return list(image.manifest.summary(named, detected))


def _file_rows(image: ImageEvidence) -> Iterator[tuple[str, str, str]]:
    size = f", {image.size:,} bytes" if image.size else ""
    yield "image", f"{image.width} x {image.height} px, {image.format}{size}", ""
    if image.sha256:
        yield "SHA-256", image.sha256, ""
    for note in image.notes:
        yield "note", shown(note), ""
    if image.background is not None:
        yield "note", f"measured over {image.background}, which fits better; p pays for both", ""


def _geometry(found: Detection) -> str:
    if not found.detected:
        return "none of those tried reaches the threshold" + (
            "" if searched_scales(found) else f"; {_NOT_SEARCHED}"
        )
    if not searched_scales(found):
        return f"{geometry_words(found)}; {_NOT_SEARCHED}"
    return f"{geometry_words(found)} (searched in steps of 6 % and 3 degrees; half turns leave no trace)"


def _key_words(found: Detection, keys: KeySet) -> str:
    """Id, file, whose, which model, and its state if it is not in force."""
    entry = keys.entry(found.key_id)
    words = [f"{found.key_id}"]
    words += [f"provider {shown(entry.provider)}"] if entry.provider else []
    words += [f"model {shown(entry.model_id)}"] if entry.model_id else []
    words += [shown(entry.file)] if entry.file else []
    return ", ".join([*words, *key_warning(found.key_id, keys)])


def key_warning(key_id: str, keys: KeySet) -> list[str]:
    """What is the matter with a key today, in words; empty if nothing is."""
    entry, state = keys.entry(key_id), keys.state(key_id)
    if state == "revoked":
        return [f"REVOKED since {entry.revoked}" + (f" ({shown(entry.reason)})" if entry.reason else "")]
    if state == "expired":
        return [f"expired: images were decoded with it until {entry.not_after}"]
    if state == "not yet valid":
        return [f"not yet valid: no image is decoded with it before {entry.not_before}"]
    return []


def _local(image: ImageEvidence) -> str:
    local = image.local
    assert local is not None, "asked for only where it is there"
    tiles = f"{local.detected:,} of {count(local.tiles, 'tile', 'tiles')} of {local.side} px"
    best = f"the best, at {local.best_left}, {local.best_top}, has p {format_p(local.best_log10_p)}"
    text = f"{tiles} reach the threshold on their own; {best}, which pays for all tiles too"
    if image.verdict == NOT_DETECTED and local.detected:
        text += ". The watermark does not show in the image as a whole, but in part of it"
    return text


def _line(found: Detection, rest: str) -> Line:
    verdict = VERDICTS[found.detected]
    return [
        (f"{verdict:<12}", _STYLES[verdict]),
        (f"  p {format_p(found.log10_p_value):<8}  s {found.statistic:+.3f}  ", ""),
        (f"{_short_geometry(found)}  {_bits(found)}{rest}", ""),
    ]


def _short_geometry(found: Detection) -> str:
    """The geometry that fitted best, with scale and rotation if they were searched for."""
    if not searched_scales(found):
        return f"{found.transform:<9}"
    return f"{found.transform:<9}  scale {found.scale:.2f}  rotation {found.rotation:+3.0f}"


def _bits(found: Detection) -> str:
    if found.matches is None or found.n_bits is None or found.bits_log10_p is None:
        return ""
    return f"bits {found.matches}/{found.n_bits} (uncorrected p {format_p(found.bits_log10_p)})  "

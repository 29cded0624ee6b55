"""The pictures in report.html: the two decoders' side by side, and one image after every attack."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, features

from stablesig.detect_output import format_p
from stablesig.evaluation_run import EXAMPLE, example_path
from stablesig.reconstruction import centre_crop
from stablesig.suites import NO_ATTACK, ImageAttack

if TYPE_CHECKING:
    from stablesig.evaluation_measure import Instrument
    from stablesig.evaluation_pictures import Pictures, Pixels
    from stablesig.evaluation_summary import AttackResult, Evaluation
    from stablesig.quality import Quality

MAGNIFIED = 10  # times, the difference
SHOWN_PX = 512  # side, of pictures that are shown without loss
TILE_PX = 208  # longer side of an attacked picture


def quality_examples(result: Evaluation, pictures: Pictures, qualities: Sequence[Quality]) -> str:
    """The first image, the one of lowest PSNR and the one that is hardest to detect, without loss."""
    wanted = {EXAMPLE: ["the first image"]}
    lowest = int(np.argmin([one.psnr_db for one in qualities]))
    wanted.setdefault(lowest, []).append("the lowest PSNR")
    hardest = _hardest(result)
    if hardest is not None:
        index, p = hardest
        wanted.setdefault(index, []).append(f"the largest p-value without an attack, {format_p(p)}")
    rows = "".join(
        _row(pictures, index, ", ".join(reasons), qualities[index]) for index, reasons in wanted.items()
    )
    return (
        f"<h2>Pictures</h2>\n<p>Watermarked minus original is shown {MAGNIFIED} times as large, around "
        "mid-grey. No picture is compressed with loss; larger ones are cut to the middle "
        f"{SHOWN_PX} px.</p>\n{rows}"
    )


def _hardest(result: Evaluation) -> tuple[int, float] | None:
    """The image with the largest p-value without an attack, and that p-value's log10."""
    found = next((scores for scores in result.scores if scores.attack == NO_ATTACK), None)
    if found is None:
        return None
    log10_p = [score.log10_p or 0.0 for score in found.marked]
    worst = int(np.argmax(log10_p))
    return worst, log10_p[worst]


def _row(pictures: Pictures, index: int, reason: str, quality: Quality) -> str:
    original, marked = (centre_crop(one(index), SHOWN_PX) for one in (pictures.original, pictures.marked))
    change = marked.astype(np.int16) - original
    magnified = np.clip(128 + MAGNIFIED * change, 0, 255).astype(np.uint8)
    name = pictures.subjects[index].name
    titles = ("original decoder", "watermarked decoder", f"difference x{MAGNIFIED}")
    figures = "".join(
        f'<figure><img src="{_lossless(picture)}" alt="{escape(f"{name}, {title}")}" '
        f'width="{picture.shape[1]}" height="{picture.shape[0]}"><figcaption>{title}</figcaption></figure>\n'
        for title, picture in zip(titles, (original, marked, magnified), strict=True)
    )
    return (
        f"<h3>{escape(name)}: {escape(reason)}</h3>\n"
        f"<p>PSNR {quality.psnr_db:.2f} dB, SSIM {quality.ssim:.4f}, HaarPSI {quality.haarpsi:.4f}</p>\n"
        f'<div class="row">{figures}</div>\n'
    )


def attack_examples(result: Evaluation, instrument: Instrument, run_folder: Path) -> str:
    """One image after every attack, small, with what the detector says of it."""
    name = instrument.pictures.subjects[EXAMPLE].name
    tiles = []
    for attack, scores in zip(result.attacks, result.scores, strict=True):
        picture = _attacked(attack, instrument, run_folder)
        if picture is None:
            continue
        score = scores.marked[EXAMPLE]
        says = "too small to measure" if score.log10_p is None else f"p {format_p(score.log10_p)}"
        size = f"{score.width} x {score.height} px"
        alt = escape(f"{name} after {attack.name}, {says}")
        tiles.append(
            f'<figure><img loading="lazy" src="{_small(picture)}" alt="{alt}"><figcaption>'
            f"{escape(attack.suite)}: {escape(attack.name)}<br>{says}, {size}</figcaption></figure>\n"
        )
    return (
        f"<h2>Attacked pictures</h2>\n<p>The watermarked decoder's picture of {escape(name)} after each "
        f'attack, reduced for this page.</p>\n<div class="tiles">{"".join(tiles)}</div>'
    )


def _attacked(attack: AttackResult, instrument: Instrument, run_folder: Path) -> Pixels | None:
    """Made again for an image attack, which is repeatable; kept from the run for a set attack."""
    kept = example_path(run_folder, attack.suite, attack.name)
    if kept.exists():
        with Image.open(kept) as image:
            return np.asarray(image)
    if isinstance(instrument.find(attack.suite, attack.name), ImageAttack):
        return instrument.attacked(attack.suite, attack.name, EXAMPLE, instrument.pictures.marked(EXAMPLE))
    return None


def _lossless(picture: Pixels) -> str:
    file = io.BytesIO()
    if features.check("webp"):  # two thirds of the size of a PNG
        Image.fromarray(picture).save(file, "WEBP", lossless=True)
        return _data("image/webp", file)
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return _data("image/png", file)


def _small(picture: Pixels) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return _data("image/jpeg", file)


def _data(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"

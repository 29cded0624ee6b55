"""What `embed` leaves for the eye and for other programs: pictures, the loss curve, and watermark.json.

Every file is written beside its place and renamed into it, so that a reader meets the old one or the new one,
whole.
"""

from __future__ import annotations

import io
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stablesig_detector.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = 128  # where the two decoders agree
_MARGIN = 8  # px between the pictures
_TEXT = 18  # px
_PAPER = (255, 255, 255)
_INK = (20, 20, 20)


def difference(
    original: NDArray[np.uint8], watermarked: NDArray[np.uint8], magnify: float = 8
) -> NDArray[np.uint8]:
    """`magnify` times watermarked minus original around mid-grey. All (H, W, 3) in 0..255."""
    change = watermarked.astype(np.float64) - original.astype(np.float64)
    return np.clip(np.rint(_GREY + magnify * change), 0, 255).astype(np.uint8)


def side_by_side(
    original: Sequence[NDArray[np.uint8]],
    watermarked: Sequence[NDArray[np.uint8]],
    path: str | Path,
    magnify: float = 8,
    names: Sequence[str] | None = None,
) -> None:
    """Writes a PNG with one row for each image: original decoder, watermarked decoder, magnified difference.

    Images are (H, W, 3) in 0..255, pairs of the same shape, and appear pixel by pixel; `names` label the
    rows. Replaces an older file. Raises ValueError if the sequences do not match, OutputError if the file
    cannot be written.
    """
    if not original or len(original) != len(watermarked):
        raise ValueError(
            f"{len(original)} original and {len(watermarked)} watermarked images; give pairs, at least one"
        )
    rows = [_row(*pair, magnify) for pair in zip(original, watermarked, strict=True)]
    titles = ("original decoder", "watermarked decoder", f"difference x{magnify:g}")
    labels = [""] * len(rows) if names is None else names
    sheet = _sheet(rows, titles, labels)
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    _write_whole(Path(path), encoded.getvalue())


def loss_curve(
    history: Sequence[Mapping[str, float]], path: str | Path, psnr_target: float | None = None
) -> None:
    """Writes a PNG of PSNR (dB), statistic and loss against the training step.

    Each entry of `history` has "step", "psnr", "statistic" (without attack), "attacked_statistic" and "loss";
    values that are not finite, such as the PSNR of identical images, leave a gap. Replaces an older file.
    Raises ValueError without entries, OutputError if the file cannot be written. Needs matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import (
        Figure,
    )  # not pyplot, which would keep global state and may look for a display

    if not history:
        raise ValueError("the history is empty; there is nothing to draw before the first step")
    figure = Figure(figsize=(8, 8), layout="constrained")
    FigureCanvasAgg(figure)
    psnr, statistic, loss = figure.subplots(3, 1, sharex=True)
    _line(psnr, history, "psnr", "watermarked to original decoder")
    if psnr_target is not None:
        psnr.axhline(psnr_target, linestyle="--", color="grey", label=f"target {psnr_target:g} dB")
    _line(statistic, history, "statistic", "no attack")
    _line(statistic, history, "attacked_statistic", "attacked")
    _line(loss, history, "loss", "loss")
    for axes, name in ((psnr, "PSNR (dB)"), (statistic, "statistic"), (loss, "loss")):
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
    loss.set_xlabel("training step")
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=120)
    _write_whole(Path(path), encoded.getvalue())


def write_watermark_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes `content` as JSON: keys sorted, two spaces, one trailing newline, so that equal content is equal
    bytes.

    NumPy numbers, paths and tuples become plain; floats that are not finite, which JSON cannot hold, become
    null. Replaces an older file. Raises TypeError for what has no JSON form, OutputError if the file cannot
    be written.
    """
    text = json.dumps(_plain(content), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    _write_whole(Path(path), f"{text}\n".encode())


def _row(original: NDArray[np.uint8], watermarked: NDArray[np.uint8], magnify: float) -> list[Image.Image]:
    if original.shape != watermarked.shape or original.ndim != 3 or original.shape[2] != 3:
        raise ValueError(
            f"a pair of shapes {original.shape} and {watermarked.shape}; both must be the same (H, W, 3)"
        )
    return [
        Image.fromarray(image)
        for image in (original, watermarked, difference(original, watermarked, magnify))
    ]


def _sheet(rows: list[list[Image.Image]], titles: Sequence[str], labels: Sequence[str]) -> Image.Image:
    font = ImageFont.load_default(size=_TEXT)
    line = _TEXT + _MARGIN
    width = max(*(row[0].width for row in rows), *(math.ceil(font.getlength(title)) for title in titles))
    columns = [_MARGIN + column * (width + _MARGIN) for column in range(len(titles))]
    heights = [
        row[0].height + _MARGIN + (line if label else 0) for row, label in zip(rows, labels, strict=True)
    ]
    sheet = Image.new("RGB", (columns[-1] + width + _MARGIN, _MARGIN + line + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for left, title in zip(columns, titles, strict=True):
        draw.text((left, _MARGIN), title, fill=_INK, font=font)
    top = _MARGIN + line
    for row, label, height in zip(rows, labels, heights, strict=True):
        draw.text((_MARGIN, top), label, fill=_INK, font=font)
        for left, image in zip(columns, row, strict=True):
            sheet.paste(image, (left, top + (line if label else 0)))
        top += height
    return sheet


def _line(axes: Axes, history: Sequence[Mapping[str, float]], name: str, label: str) -> None:
    axes.plot(
        [entry["step"] for entry in history], [entry[name] for entry in history], marker=".", label=label
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written: {error.strerror or error}; free space or choose another place"
        ) from error
    finally:
        partial.unlink(missing_ok=True)

"""The whole way on the small autoencoder that ships: key, watermark, decode, attack, detect.

What is detected are 8-bit pictures, with the public key as it was read back from its file, by the very
function behind `stablesig detect`; the autoencoder is loaded from what was written. Every attacked picture
of the original decoder goes through the same, as the control.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from stablesig.detect_output import ABSENCE, format_p
from stablesig.extras import needs_train
from stablesig_detector.detection import DEFAULT_FPR, Detection, detect
from stablesig_detector.errors import OutputError, OutputExistsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stablesig_detector.key import PublicKey, SecretKey
    from stablesig_train.embedding import EmbedConfig, EmbedResult
    from stablesig_train.finetuning import Progress

    Pixels = NDArray[np.uint8]  # (H, W, 3) in 0..255

_WIDTH = 100  # of the text below the table, characters
ATTACKS = ("no attack", "JPEG 50", "crop 25 %", "resize 50 %")
SEARCHES = {"resize 50 %": "full"}  # that undo an attack; "fast" for the others


@dataclass(frozen=True)
class DemoRow:
    """One held-out photograph, decoded by both decoders. The detections are in the order of ATTACKS."""

    image: str
    psnr_db: float  # watermarked against original decoder
    watermarked: tuple[Detection, ...]
    original: tuple[Detection, ...]  # the control: the same photograph from the decoder as it was


@dataclass(frozen=True)
class DemoResult:
    """What the demo found. `str()` is the table that the command prints."""

    out: Path
    public_key: Path
    embedding: EmbedResult
    rows: tuple[DemoRow, ...]
    seconds: float

    def __str__(self) -> str:
        return "\n".join([*_table(self.rows), "", *self._notes()])

    def _notes(self) -> list[str]:
        notes = [
            f"s is the statistic, p the p-value, * means detected: p <= {DEFAULT_FPR:g}. PSNR compares the "
            "watermarked with the original decoder; the original's images are the control.",
            "Resizing moves the frequencies of the watermark: those pictures are searched over scales and "
            "angles (--search full), and their p-values pay for all that is tried.",
            ABSENCE,
        ]
        picture = self.out / "images" / f"{self.rows[0].image}-watermarked.png"
        return [
            *(line for note in notes for line in textwrap.wrap(note, _WIDTH)),
            "",
            f"picture      {self.out / 'demo.png'}",
            f"autoencoder  {self.embedding.vae}",
            f"public key   {self.public_key}",
            f"took         {self.seconds:.0f} s, {self.embedding.seconds:.0f} of them for the watermark",
            f"try          stablesig detect {picture} --key {self.public_key}",
        ]


def demo_config(seed: int) -> EmbedConfig:
    """Settings that watermark the shipped autoencoder in under three minutes on two CPU cores."""
    from stablesig_train.embedding import EmbedConfig

    # Of the rates 3e-4, 6e-4 and 1e-3 the first left the largest statistic under attack; a decoder this small
    # takes larger steps than a real one.
    return EmbedConfig(psnr=40, steps=700, batch=4, size=128, crops=240, learning_rate=3e-4, seed=seed)


def run_demo(out: str | os.PathLike[str], seed: int = 0, progress: Progress | None = None) -> DemoResult:
    """Draw a key, watermark the shipped autoencoder, and look for the key in images that it decodes.

    out: a folder that does not exist; it gets publisher.json and publisher.pub.json (the key), watermarked/
    (what `stablesig embed` writes), images/, table.txt and demo.png, and appears when all is done.  seed: of
    the training; the key is always new.  progress: called with each step of the training.

    Raises OutputExistsError, OutputError, MissingExtraError, TrainingError.
    """
    started = time.monotonic()
    out = Path(out)
    if os.path.lexists(out):
        raise OutputExistsError(f"{out} exists, and nothing is overwritten; choose another --out")
    with needs_train("demo"):
        from stablesig.demo_picture import Panel, draw
        from stablesig_train.embedding import embed
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))  # mode 0700: a key lies in it
    except OSError as error:
        raise OutputError(f"{out} cannot be made: {error.strerror or error}; choose another --out") from error
    try:
        from stablesig.keypair import keygen
        from stablesig_detector.key import load_key

        keygen(beside / "publisher.json")
        secret = load_key(beside / "publisher.json")
        with resources.as_file(resources.files("stablesig") / "data") as data:
            embedded = embed(
                data / "tiny-vae",
                secret,
                data / "demo-train",
                beside / "watermarked",
                demo_config(seed),
                progress=progress,
            )
            pairs = _decode(data / "tiny-vae", beside / "watermarked" / "vae", data / "demo-images")
        key = load_key(beside / "publisher.pub.json")
        rows = tuple(_row(name, *pair, key, index) for index, (name, pair) in enumerate(pairs.items()))
        _save_images(pairs, beside / "images")
        draw(
            [
                Panel(row.image, *pairs[row.image], row.psnr_db, _verdicts(row.watermarked), row.original[0])
                for row in rows
            ],
            f"key {key.id}, drawn for this run",
            beside / "demo.png",
        )
        result = DemoResult(
            out=out,
            public_key=out / "publisher.pub.json",
            embedding=replace(embedded, out=out / "watermarked"),
            rows=rows,
            seconds=time.monotonic() - started,
        )
        (beside / "table.txt").write_text(f"{result}\n", encoding="utf-8")
        beside.chmod(0o755)
        beside.rename(out)
    except OSError as error:
        raise OutputError(
            f"{out} cannot be written: {error.strerror or error}; free some space or choose another --out"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # gone already if all went well
    return result


def attacks() -> dict[str, Callable[[Pixels, int], Pixels]]:
    """By the names in ATTACKS: (picture, its index) -> attacked picture. Nothing is undone afterwards."""
    import numpy as np
    from PIL import Image

    from stablesig_train.held_out import crop_quarter, jpeg

    def resize_half(picture: Pixels, _: int) -> Pixels:
        height, width = picture.shape[:2]
        smaller = Image.fromarray(picture).resize((width // 2, height // 2), Image.Resampling.LANCZOS)
        return np.asarray(smaller)

    made: tuple[Callable[[Pixels, int], Pixels], ...] = (
        lambda picture, _: picture,
        lambda picture, _: jpeg(picture, 50),
        crop_quarter,
        resize_half,
    )
    return dict(zip(ATTACKS, made, strict=True))


def _decode(original: Path, watermarked: Path, images: Path) -> dict[str, tuple[Pixels, Pixels]]:
    """name of each image -> what the original and the watermarked decoder make of it."""
    import numpy as np

    from stablesig_detector.image import load_image
    from stablesig_train.decoders import load_autoencoder
    from stablesig_train.held_out import decode_pixels, prepare
    from stablesig_train.photographs import list_images

    files = list_images(images)
    photographs = [np.asarray(load_image(file), dtype=np.uint8) for file in files]
    held_out = prepare(load_autoencoder(original), photographs)
    marked = load_autoencoder(watermarked)
    return {
        file.stem: (picture, decode_pixels(marked, latents))
        for file, picture, latents in zip(files, held_out.originals, held_out.latents, strict=True)
    }


def _row(name: str, original: Pixels, marked: Pixels, key: SecretKey | PublicKey, index: int) -> DemoRow:
    from stablesig_train.held_out import psnr_db

    found = [
        tuple(
            detect(attack(picture, index), [key], search=SEARCHES.get(name, "fast"))[0]
            for name, attack in attacks().items()
        )
        for picture in (marked, original)
    ]
    return DemoRow(name, psnr_db(original, marked), *found)


def _save_images(pairs: dict[str, tuple[Pixels, Pixels]], folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    for name, (original, marked) in pairs.items():
        Image.fromarray(original).save(folder / f"{name}-original.png")
        Image.fromarray(marked).save(folder / f"{name}-watermarked.png")


def _verdicts(found: tuple[Detection, ...]) -> list[tuple[str, Detection]]:
    return list(zip(ATTACKS, found, strict=True))


def _table(rows: tuple[DemoRow, ...]) -> list[str]:
    """Two blocks of lines, the watermarked decoder's images above the original's."""
    width = max(len("original decoder"), *(len(row.image) for row in rows))
    cell = 18
    head = f"{'':<{width}}  {'PSNR':>8}  " + "  ".join(f"{name:^{cell}}" for name in ATTACKS)
    names = f"{'':<{width}}  {'':>8}  " + "  ".join([f"{'s':>6}  {'p':<{cell - 8}}"] * len(ATTACKS))
    lines = [head.rstrip(), names.rstrip(), "watermarked decoder"]
    for row in rows:
        cells = "  ".join(_cell(found, cell) for found in row.watermarked)
        lines.append(f"{row.image:<{width}}  {row.psnr_db:5.1f} dB  {cells}".rstrip())
    lines.append("original decoder")
    for row in rows:
        cells = "  ".join(_cell(found, cell) for found in row.original)
        lines.append(f"{row.image:<{width}}  {'':>8}  {cells}".rstrip())
    return lines


def _cell(found: Detection, width: int) -> str:
    mark = " *" if found.detected else ""
    return f"{found.statistic:+6.2f}  {format_p(found.log10_p_value) + mark:<{width - 8}}"

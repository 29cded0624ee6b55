"""Builds the classes of images on which `stablesig calibrate` is run, from named folders and from code.

    python benchmarks/calibration_images.py --out DIR --photographs DIR [--photographs DIR ...]
        [--illustrations DIR ...] [--screenshots DIR ...] [--decoder VAE ...] [--count 600] [--seed 0]

Every folder is searched with its subfolders. Each subfolder of DIR is a class, DIR/MANIFEST.tsv says where
each image comes from. One image is made of one source, never two crops of the same one: crops of one
photograph resemble each other more than chance, and `calibrate` takes its images for independent. Sources
that are equal byte for byte, or, among icons, equal by name, count once. Photographs from which the shipped
whitening statistics were computed are a class of their own. No class but these carries a watermark, so no
--decoder may.

From Debian, for instance: openclipart-png and tuxpaint-stamps-default hold illustrations, gimp-help-en
screenshots; /usr/share/icons, pixmaps, backgrounds and wallpapers are taken if they are there.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from drawn_images import DRAWN, Pixels
from PIL import Image

from stablesig.calibration_measure import find_images, fitted_images
from stablesig_detector.errors import ImageError, StableSigError
from stablesig_detector.image import as_uint8, load_image
from stablesig_detector.spectrum import MIN_SIDE

SYSTEM_PICTURES = tuple(
    Path("/usr/share", name) for name in ("backgrounds", "wallpapers", "icons", "pixmaps")
)
SMALLEST = 64  # px, the shorter side of what is not meant to be tiny
OF_ONE_FOLDER = 40  # drawings of one folder are of one hand; more of them would not be independent
JPEG_QUALITY = 10
TINY = (MIN_SIDE, 64)  # px


@dataclass(frozen=True)
class Source:
    """A file to make one image of."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Made:
    """One image, what it is made of and how. jpeg: its file's bytes if they are not to be a PNG's."""

    pixels: Pixels
    source: str
    how: str
    jpeg: bytes | None = None


def generator(options: argparse.Namespace, name: str, index: int) -> np.random.Generator:
    """Of one image: what is made of it does not depend on the others."""
    return np.random.default_rng([options.seed, zlib.crc32(name.encode()), index])


def sources(folders: Iterable[Path], seed: int, seen: set[str], *, by_name: bool = False) -> list[Source]:
    """The distinct images of some folders in an order drawn from `seed`; what is in `seen` is left out.

    by_name: of files whose names differ in their folder only, as icons of several sizes, the largest.
    """
    files = sorted({file for folder in folders for file in find_images(folder)})
    if by_name:
        largest: dict[str, Path] = {}
        for file in files:
            kept = largest.get(file.stem)
            if kept is None or file.stat().st_size > kept.stat().st_size:
                largest[file.stem] = file
        files = sorted(largest.values())
    found = []
    for file in np.random.default_rng(seed).permutation(np.array(files, dtype=object)).tolist():
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest not in seen:
            seen.add(digest)
            found.append(Source(file, digest))
    return found


def pictures(
    chosen: Sequence[Source], limit: int, smallest: int = SMALLEST, of_one_folder: int | None = None
) -> Iterator[tuple[Source, Pixels]]:
    """At most `limit` sources that can be read and are large enough, each with its pixels."""
    taken, from_folder = 0, Counter[Path]()
    for source in chosen:
        if taken == limit:
            return
        if of_one_folder is not None and from_folder[source.path.parent] >= of_one_folder:
            continue
        try:
            pixels = as_uint8(load_image(source.path))
        except ImageError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        if min(pixels.shape[:2]) >= smallest:
            taken += 1
            from_folder[source.path.parent] += 1
            yield source, pixels


def crop(pixels: Pixels, sides: tuple[int, int], random: np.random.Generator) -> tuple[Pixels, str]:
    """A piece of at most `sides` (down, across), from a place that is drawn."""
    (height, width), (down, across) = pixels.shape[:2], sides
    top = int(random.integers(max(1, height - down + 1)))
    left = int(random.integers(max(1, width - across + 1)))
    piece = pixels[top : top + down, left : left + across]
    return piece, f"{piece.shape[1]} x {piece.shape[0]} at {left}, {top} of {width} x {height}"


def photographs(options: argparse.Namespace, name: str, chosen: Sequence[Source]) -> Iterator[Made]:
    for index, (source, pixels) in enumerate(pictures(chosen, options.count, options.side // 2)):
        piece, how = crop(pixels, (options.side, options.side), generator(options, name, index))
        yield Made(piece, str(source.path), how)


def jpeg(options: argparse.Namespace, name: str, chosen: Sequence[Source]) -> Iterator[Made]:
    for made in photographs(options, name, chosen):
        encoded = io.BytesIO()
        Image.fromarray(made.pixels).save(encoded, "JPEG", quality=JPEG_QUALITY)
        yield Made(made.pixels, made.source, f"{made.how}; JPEG {JPEG_QUALITY}", encoded.getvalue())


def tiny(options: argparse.Namespace, name: str, chosen: Sequence[Source]) -> Iterator[Made]:
    for index, (source, pixels) in enumerate(pictures(chosen, options.count)):
        random = generator(options, name, index)
        down, across = random.integers(TINY[0], TINY[1], 2, endpoint=True).tolist()
        piece, how = crop(pixels, (down, across), random)
        yield Made(piece, str(source.path), how)


def whole(options: argparse.Namespace, chosen: Sequence[Source]) -> Iterator[Made]:
    """Drawings and screenshots as they are; larger ones are shrunk to `side`."""
    for source, pixels in pictures(chosen, options.count, of_one_folder=OF_ONE_FOLDER):
        height, width = pixels.shape[:2]
        scale = options.side / max(height, width)
        if scale < 1.0:
            size = (max(SMALLEST, round(width * scale)), max(SMALLEST, round(height * scale)))
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
        yield Made(pixels, str(source.path), f"{pixels.shape[1]} x {pixels.shape[0]} of {width} x {height}")


def drawn(options: argparse.Namespace, name: str, draw: object) -> Iterator[Made]:
    for index in range(options.count):
        random = generator(options, name, index)
        side = options.side if name != "flat" else min(options.side, int(random.choice([64, 128, 256, 512])))
        pixels, how = draw(random, side)  # type: ignore[operator]
        yield Made(pixels, "drawn by benchmarks/drawn_images.py", how)


def decoded(options: argparse.Namespace, vae: str, chosen: Sequence[Source]) -> Iterator[Made]:
    """What an autoencoder without a watermark makes of one crop of each photograph."""
    import torch

    from stablesig_train.decoders import load_autoencoder

    autoencoder = load_autoencoder(vae)
    side = options.decoded_side // autoencoder.stride * autoencoder.stride
    for index, (source, pixels) in enumerate(pictures(chosen, options.count, side)):
        piece, how = crop(pixels, (side, side), generator(options, "decoder", index))
        batch = torch.from_numpy(piece.astype(np.float32) / 255.0).permute(2, 0, 1)[None]  # (1, 3, H, W)
        with torch.inference_mode():
            output = autoencoder.decode(autoencoder.encode(batch))[0].clamp(0, 1).mul(255).round()
        result = output.permute(1, 2, 0).to(torch.uint8).numpy()
        yield Made(result, str(source.path), f"{how}; through {vae}")


def classes(options: argparse.Namespace) -> Iterator[tuple[str, Iterable[Made]]]:
    """Name and images of each class, made as they are asked for."""
    seen: set[str] = set()
    every = sources(options.photographs, options.seed, seen)
    fitted = fitted_images()
    unseen = [source for source in every if source.sha256 not in fitted]
    yield "photographs", photographs(options, "photographs", unseen)
    if len(unseen) < len(every):
        known = [source for source in every if source.sha256 in fitted]
        yield "photographs-fitted", photographs(options, "photographs-fitted", known)
    yield f"jpeg-{JPEG_QUALITY}", jpeg(options, f"jpeg-{JPEG_QUALITY}", unseen)
    yield "tiny", tiny(options, "tiny", unseen)
    system = [folder for folder in SYSTEM_PICTURES if folder.is_dir() and has_images(folder)]
    if options.illustrations or system:
        found = sources([*options.illustrations, *system], options.seed, seen, by_name=True)
        yield "illustrations", whole(options, found)
    if options.screenshots:
        yield "screenshots", whole(options, sources(options.screenshots, options.seed, seen))
    for name, draw in DRAWN:
        yield name, drawn(options, name, draw)
    for number, vae in enumerate(options.decoder):
        yield f"decoder-{number}", decoded(options, vae, unseen)


def has_images(folder: Path) -> bool:
    try:
        return bool(find_images(folder))
    except ImageError:
        return False


def build(options: argparse.Namespace, folder: Path) -> list[str]:
    """Write all classes into `folder`; the lines of the manifest."""
    lines = ["class\tfile\tsource\thow"]
    for name, images in classes(options):
        (folder / name).mkdir()
        count = 0
        try:
            for count, made in enumerate(images, 1):
                path = folder / name / f"{count:05}.{'png' if made.jpeg is None else 'jpg'}"
                if made.jpeg is not None:
                    path.write_bytes(made.jpeg)
                else:
                    Image.fromarray(made.pixels).save(path, compress_level=1)
                lines.append(f"{name}\t{name}/{path.name}\t{made.source}\t{made.how}")
        except ModuleNotFoundError as error:
            print(f"no {name}: {error.name} is not installed", file=sys.stderr)
        print(f"{name}: {count} images", flush=True)
        if count == 0:
            (folder / name).rmdir()
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    folders = {"type": Path, "action": "append", "default": [], "metavar": "DIR"}
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--photographs", help="folder of photographs; may be repeated", **folders)
    parser.add_argument("--illustrations", help="folder of drawings; may be repeated", **folders)
    parser.add_argument("--screenshots", help="folder of screenshots; may be repeated", **folders)
    parser.add_argument("--decoder", action="append", default=[], help="unmarked VAE; may be repeated")
    parser.add_argument("--count", type=int, default=600, help="images of a class, at most (default: 600)")
    parser.add_argument("--side", type=int, default=512, help="px, the longest side (default: 512)")
    parser.add_argument("--decoded-side", type=int, default=256, help="px, for --decoder (default: 256)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    beside = options.out.with_name(f".{options.out.name}.partial")
    try:
        if options.out.exists() or beside.exists():
            raise ImageError(f"{options.out} or {beside} exists; name another place or remove it")
        if not options.photographs:
            raise ImageError("there are no photographs; name a folder with --photographs")
        beside.mkdir(parents=True)
        try:
            lines = build(options, beside)
            (beside / "MANIFEST.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            beside.rename(options.out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except (StableSigError, OSError) as error:
        print(f"calibration_images: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Encode and decode images, to look at what an autoencoder does to them."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Reconstruction:
    """One image that went through an autoencoder; `psnr_db` compares the 8-bit images, inf if equal."""

    source: Path
    output: Path
    width: int
    height: int
    psnr_db: float


def images_in(path: Path) -> list[Path]:
    """The images of a folder (by suffix, sorted, without subfolders), or the one file that `path` is.

    Raises ImageError if there is none, or the folder cannot be read.
    """
    from stablesig_detector.errors import ImageError
    from stablesig_detector.image import IMAGE_SUFFIXES, image_files

    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise ImageError(f"no such image or folder; got {path}; check the path")
    except OSError as error:  # a folder above it that may not be searched
        raise ImageError(
            f"{path} cannot be read: {error.strerror or error}; check its permissions"
        ) from error
    found = [file for file in image_files(path) if file.is_file()]
    if not found:
        raise ImageError(
            f"the folder has no images; got {path}; the files must lie in it, not below, and end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return found


def centre_crop(rgb: NDArray[Any], size: int) -> NDArray[Any]:
    """(H, W, 3) -> its central (min(H, size), min(W, size), 3)."""
    height, width = rgb.shape[:2]
    top, left = max(0, (height - size) // 2), max(0, (width - size) // 2)
    return rgb[top : top + size, left : left + size]


def _output_names(sources: list[Path]) -> list[str]:
    """One PNG name for each source, no two equal on a file system that ignores case either.

    The full name is kept where two sources share a stem, and numbered where that is taken.
    """
    stems = Counter(source.stem.casefold() for source in sources)
    names: dict[str, str] = {}  # folded -> as it is
    for source in sources:
        wanted = source.stem if stems[source.stem.casefold()] == 1 else source.name
        name, number = wanted, 2
        while name.casefold() in names:
            name, number = f"{wanted}-{number}", number + 1
        names[name.casefold()] = name
    return [f"{name}.png" for name in names.values()]


def reconstruct(
    vae: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    device: str = "auto",
    on_image: Callable[[Reconstruction], None] | None = None,
    on_unreadable: Callable[[Path, str], None] | None = None,
) -> list[Reconstruction]:
    """Pass every image through an autoencoder's encoder and decoder and write the results as PNG files.

    vae: as `stablesig embed` takes it. images: one image, or a folder. out: a folder that does not exist yet.
    size: cut this many pixels square from the centre first (default: the whole image). Sides that the
    autoencoder's stride does not divide are padded by reflection and cut back afterwards. on_image is called
    after each image, on_unreadable with a path and a reason for each that cannot be read. Raises
    OutputExistsError, DecoderError, ImageError (no image could be read), MissingExtraError (no torch). `out`
    appears only when all is done.
    """
    from stablesig.extras import needs_train
    from stablesig_detector.errors import ImageError, OutputExistsError
    from stablesig_detector.image import as_uint8, load_image

    out = Path(out)
    if out.exists() or out.is_symlink():
        raise OutputExistsError(f"results are never overwritten; {out} exists; choose another --out")
    sources = images_in(Path(images))
    with needs_train("reconstruct"):
        import numpy as np
        import torch
        from PIL import Image

        from stablesig_train.decoders import load_autoencoder
        from stablesig_train.devices import choose_device
        from stablesig_train.held_out import psnr_db
    chosen = choose_device(device)
    autoencoder = load_autoencoder(vae, device=chosen)

    out.parent.mkdir(parents=True, exist_ok=True)
    results: list[Reconstruction] = []
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for source, name in zip(sources, _output_names(sources), strict=True):
            try:
                rgb = load_image(source)
            except (ImageError, OSError) as error:
                if on_unreadable is not None:
                    on_unreadable(source, str(error))
                continue
            rgb = rgb if size is None else centre_crop(rgb, size)
            before = as_uint8(rgb)
            height, width = before.shape[:2]
            bottom, right = -height % autoencoder.stride, -width % autoencoder.stride
            padded = np.pad(rgb, ((0, bottom), (0, right), (0, 0)), mode="symmetric")
            batch = torch.from_numpy(padded.astype(np.float32) / 255.0).permute(2, 0, 1)[None]  # (1, 3, H, W)
            with torch.inference_mode():
                decoded = autoencoder.decode(autoencoder.encode(batch.to(chosen)))
            decoded = decoded[0, :, :height, :width].clamp(0, 1).mul(255).round()
            after = decoded.permute(1, 2, 0).to(torch.uint8).cpu().numpy()  # (H, W, 3)
            Image.fromarray(after).save(beside / name)
            result = Reconstruction(source, out / name, width, height, psnr_db(before, after))
            results.append(result)
            if on_image is not None:
                on_image(result)
        if not results:
            raise ImageError(
                f"none of the {len(sources)} images could be read; got {images}; see the warnings above"
            )
        beside.chmod(0o755)
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return results
